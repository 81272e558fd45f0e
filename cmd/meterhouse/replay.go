package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"meterhouse/etl"
	"meterhouse/etl/keystone"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/wolkvox"
)

func (a *app) replayCommand() *cobra.Command {
	var from, until string
	var planOnly bool
	var f format
	cmd := &cobra.Command{
		Use:   "replay [DATASET] --from D --until D",
		Short: "Load landed bodies again, without asking a vendor",
		Long: `Reads the bodies in raw.payload again and loads them as if they came now: after an upgrade that
reads an answer better, or when a run was killed before it could load. History: bodies that were
asked for these days; everything else: bodies fetched on them. No network, no credential; safe to
repeat. Figures that are read differently now replace the old ones, which stay in mart.restatement.`,
		Example: "  meterhouse replay --from 2026-05-01 --until 2026-06-01 --plan\n" +
			"  meterhouse replay wolkvox.billing --from 2026-05-31 --until 2026-06-01",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("replay: %d arguments: want at most one dataset: %s", len(args), strings.Join(datasets, ", "))
			}
			for _, name := range args {
				if err := checkDataset(name); err != nil {
					return err
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			days, err := daysOf("replay", from, until)
			if err != nil {
				return err
			}
			s, err := a.openOfflineSession(cmd.Context())
			if err != nil {
				return err
			}
			defer s.close(&err)
			if len(args) == 0 {
				args = datasets
			}
			var repairs []repair
			for _, dataset := range args {
				runs, err := s.wh.Landed(cmd.Context(), dataset, "", days)
				if err != nil {
					return err
				}
				more, err := s.plan(cmd.Context(), dataset, runs, days)
				if err != nil {
					return err
				}
				repairs = append(repairs, more...)
			}
			if planOnly {
				return a.printRepairs(repairs, f)
			}
			results, err := s.replay(cmd.Context(), repairs)
			return s.reportReplay(results, err, f)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "first `day`, YYYY-MM-DD")
	cmd.Flags().StringVar(&until, "until", "", "first `day` no longer wanted")
	cmd.Flags().BoolVar(&planOnly, "plan", false, "print what would be read and change nothing")
	formatFlag(cmd, &f)
	return cmd
}

// openOfflineSession opens a session that never asks a vendor, so that it needs no credential:
// those that are missing are made up.
func (a *app) openOfflineSession(ctx context.Context) (*session, error) {
	cfg, err := a.loadConfig(need{database: true})
	if err != nil {
		return nil, err
	}
	if cfg.SecretsKey.text() == "" {
		key := make([]byte, keystone.SecretsKeySize)
		_, _ = rand.Read(key) // never fails
		cfg.SecretsKey = newSecret(base64.StdEncoding.EncodeToString(key))
	}
	for i := range cfg.Wolkvox {
		if cfg.Wolkvox[i].Token.text() == "" {
			cfg.Wolkvox[i].Token = newSecret(rand.Text())
		}
	}
	return a.openSessionOf(ctx, cfg)
}

// vendor is a source that tells what a landed answer of it is.
type vendor interface {
	etl.Source
	Recognize(*etl.Answer) error
}

// atHand gives out answers that are at hand, one after the other, in place of asking the vendor.
type atHand struct {
	etl.Source
	answers []answer
	next    int
}

// answer is one that is at hand, or why it cannot be read.
type answer struct {
	*etl.Answer
	err error
}

func (s *atHand) Extract(context.Context, etl.Request) (*etl.Answer, error) {
	s.next++
	a := s.answers[s.next-1]
	if a.err != nil {
		return nil, a.err
	}
	return a.Answer, nil
}

// loadAtHand loads answers that are at hand in one run and one transaction.
func (s *session) loadAtHand(ctx context.Context, source etl.Source, job etl.Job, answers []answer) (etl.Outcome, error) {
	job.Products = nil
	for _, a := range answers {
		job.Products = append(job.Products, a.Request.Product)
	}
	job.SlotOpen, job.Snapshot, job.Aside = true, false, true
	pipeline := s.pipeline()
	return pipeline.Run(ctx, &atHand{Source: source, answers: answers}, job)
}

// repair is one piece of a replay: landed bodies that are read again together.
type repair struct {
	dataset, scope string
	runs           []warehouse.LandedRun
	// rebuild: the runs are everything that is landed about the window, and what they say takes the place
	// of what is stored. Otherwise it is one run that is loaded again by itself.
	rebuild bool
	window  etl.Window
}

// plan divides runs of one dataset into pieces. What has versions is read again as a whole, because
// what a version is depends on the ones before it: all that was loaded about a month of history, or
// ever about a customer's subscriptions. Before that, and for readings, which stand for themselves,
// each run is a piece of its own.
func (s *session) plan(ctx context.Context, dataset string, runs []warehouse.LandedRun, days etl.Window) (repairs []repair, err error) {
	isRebuilt := dataset == keystone.History || dataset == keystone.Subscriptions
	for _, run := range runs {
		if !isRebuilt || !run.Loaded {
			repairs = append(repairs, repair{dataset: dataset, scope: run.Scope, runs: []warehouse.LandedRun{run}, window: run.Window})
		}
	}
	if !isRebuilt {
		return repairs, nil
	}
	for _, scope := range scopesOf(runs) {
		windows := []etl.Window{{}}
		if dataset == keystone.History {
			windows = backfillWindows(days)
		}
		for _, window := range slices.Backward(windows) {
			loaded, err := s.loadedAbout(ctx, dataset, scope, window)
			if err != nil {
				return nil, err
			}
			if len(loaded) > 0 {
				repairs = append(repairs, repair{dataset: dataset, scope: scope, runs: loaded, rebuild: true, window: window})
			}
		}
	}
	return repairs, nil
}

func scopesOf(runs []warehouse.LandedRun) (scopes []string) {
	for _, r := range runs {
		if !slices.Contains(scopes, r.Scope) {
			scopes = append(scopes, r.Scope)
		}
	}
	return scopes
}

// replay carries out repairs. There is one result for every dataset and scope, and none of a scope is
// begun after one of it failed. The error says that ctx ended; what could not be loaded is in the
// results.
func (s *session) replay(ctx context.Context, repairs []repair) (results []result, err error) {
	if slices.ContainsFunc(repairs, func(r repair) bool { return !isKeystone(r.dataset) }) {
		if err := s.saveProducts(ctx); err != nil {
			return nil, err
		}
	}
	for _, piece := range repairs {
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
		i := slices.IndexFunc(results, func(r result) bool { return r.job.Dataset == piece.dataset && r.job.Scope == piece.scope })
		if i < 0 {
			i = len(results)
			results = append(results, result{job: etl.Job{Dataset: piece.dataset, Scope: piece.scope, SlotOpen: true}})
		}
		r := &results[i]
		if r.err != nil {
			continue
		}
		out, err := s.readAgain(ctx, piece)
		r.job.Windows = append(r.job.Windows, piece.window)
		r.out.Add(out)
		r.err = err
	}
	return results, nil
}

// readAgain loads the bodies of one piece. Answers by which the vendor refused hold nothing to load.
func (s *session) readAgain(ctx context.Context, piece repair) (out etl.Outcome, err error) {
	started := false
	defer func() {
		if err != nil && !started { // failures of a run are logged by the pipeline
			s.app.log.Error("failed", "dataset", piece.dataset, "scope", piece.scope, "error", err)
		}
	}()
	if piece.rebuild { // what was loaded since the plan was made belongs to it
		piece.runs, err = s.loadedAbout(ctx, piece.dataset, piece.scope, piece.window)
		if err == nil && len(piece.runs) == 0 {
			err = fmt.Errorf("%s %s: what was landed is gone: repeat the command", piece.dataset, piece.scope)
		}
		if err != nil {
			return out, err
		}
	}
	newest := piece.runs[len(piece.runs)-1]
	source, job, err := s.landedJob(ctx, newest)
	if err != nil {
		return out, err
	}
	var answers []answer
	for _, run := range piece.runs {
		for _, id := range run.Payloads {
			ans, err := s.wh.Payload(ctx, id)
			if err != nil {
				return out, err
			}
			var refused *etl.RejectError
			err = source.Recognize(ans)
			if errors.As(err, &refused) {
				s.app.log.Debug("not read: the vendor refused", "payload", id, "refusal", err)
				continue
			}
			answers = append(answers, answer{ans, err})
		}
	}
	if len(answers) == 0 {
		return out, nil
	}
	job.Windows, job.ReplayOf, job.Rebuild = []etl.Window{piece.window}, newest.ID, piece.rebuild
	started = true
	out, err = s.loadAtHand(ctx, source, job, answers)
	var reject *etl.RejectError
	if errors.As(err, &reject) && !newest.Loaded { // evidence of a run that failed, refused as it was then
		s.app.log.Warn("refused still", "dataset", piece.dataset, "scope", piece.scope, "run", newest.ID, "reason", reject.Reason)
		return out, nil
	}
	return out, err
}

// loadedAbout are the runs of a rebuild: all of a scope that were loaded and speak of the window, or of
// any time when there is none.
func (s *session) loadedAbout(ctx context.Context, dataset, scope string, window etl.Window) (runs []warehouse.LandedRun, err error) {
	if window.IsZero() {
		runs, err = s.wh.AllLanded(ctx, dataset, scope)
	} else {
		runs, err = s.wh.Landed(ctx, dataset, scope, window)
	}
	return slices.DeleteFunc(runs, func(r warehouse.LandedRun) bool { return !r.Loaded }), err
}

// landedJob is the source that can read the bodies of a run of the past, and the job to load them.
func (s *session) landedJob(ctx context.Context, run warehouse.LandedRun) (vendor, etl.Job, error) {
	for _, k := range s.keystone {
		if k.cfg.Account == run.Account && isKeystone(run.Dataset) {
			return k, k.job(run.Dataset, run.Scope, s.app.now()), nil
		}
	}
	for _, w := range s.wolkvox {
		if w.cfg.Account == run.Account && run.Dataset == wolkvox.Dataset {
			return w, w.job(s.app.now()), w.LearnOperation(ctx)
		}
	}
	return nil, etl.Job{}, fmt.Errorf("account %q of the landed answers is not configured: want it back in the configuration, its token can stay empty", run.Account)
}

// reportReplay prints the results; the error carries the exit code.
func (s *session) reportReplay(results []result, err error, f format) error {
	s.app.progress.clear()
	if len(results) == 0 && err == nil && f.isForPeople() {
		f.line(s.app.stdout, "nothing is landed for that")
		s.app.printSum(etl.Outcome{})
		return nil
	}
	return errors.Join(s.app.printResults(results, f), verdict(results, err, s.app.told))
}

// printRepairs lists what a replay would read.
func (a *app) printRepairs(repairs []repair, f format) error {
	t := warehouse.Table{
		Columns: []string{"dataset", "scope", "from", "until", "runs", "bodies", "bytes", "fetched_from", "fetched_until"},
		Numeric: []bool{false, false, false, false, true, true, true, false, false},
	}
	for _, r := range repairs {
		bodies, bytes := 0, int64(0)
		for _, run := range r.runs {
			bodies += len(run.Payloads)
			bytes += run.Bytes
		}
		row := []string{r.dataset, r.scope, "", "", fmt.Sprint(len(r.runs)), fmt.Sprint(bodies), fmt.Sprint(bytes),
			stamp(r.runs[0].FetchedAt), stamp(r.runs[len(r.runs)-1].FetchedAt)}
		if !r.window.IsZero() {
			row[2], row[3] = r.window.From.String(), r.window.Until.String()
		}
		t.Rows = append(t.Rows, row)
	}
	if len(repairs) == 0 && f.isForPeople() {
		f.line(a.stdout, "nothing is landed for that")
		return nil
	}
	return f.print(a.stdout, t)
}
