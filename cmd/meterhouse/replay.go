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
			var runs []warehouse.LandedRun
			for _, dataset := range args {
				landed, err := s.wh.Landed(cmd.Context(), dataset, days)
				if err != nil {
					return err
				}
				runs = append(runs, landed...)
			}
			if planOnly {
				return a.printLanded(runs, f)
			}
			results, err := s.replay(cmd.Context(), runs)
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

// landedSource gives out answers that are at hand in place of asking the vendor.
type landedSource struct {
	vendor
	wh      *warehouse.Warehouse
	answers map[string]*etl.Answer // by product
}

func (s landedSource) Extract(ctx context.Context, req etl.Request) (*etl.Answer, error) {
	ans := s.answers[req.Product]
	if ans.PayloadID != 0 { // an import is not landed yet
		if err := s.wh.StillLanded(ctx, ans.PayloadID); err != nil {
			return nil, err
		}
	}
	return ans, nil
}

// replay loads the bodies of runs of the past again, dataset by dataset and each scope in the order
// in which it was fetched. There is one result for every dataset and scope. The error is of the
// database, or that ctx ended; what could not be loaded is in the results.
func (s *session) replay(ctx context.Context, runs []warehouse.LandedRun) (results []result, err error) {
	if slices.ContainsFunc(runs, func(r warehouse.LandedRun) bool { return !isKeystone(r.Dataset) }) {
		if err := s.saveProducts(ctx); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(runs, func(a, b warehouse.LandedRun) int {
		return slices.Index(datasets, a.Dataset) - slices.Index(datasets, b.Dataset)
	})
	for _, run := range runs {
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
		source, job, known := s.landedJob(run)
		if !known {
			s.app.log.Warn("the account of a landed body is not configured any more: it is not read",
				"dataset", run.Dataset, "scope", run.Scope, "account", run.Account)
			continue
		}
		if n := len(results); n == 0 || results[n-1].job.Dataset != job.Dataset || results[n-1].job.Scope != job.Scope {
			first := job
			first.Windows = nil
			results = append(results, result{job: first})
		}
		r := &results[len(results)-1]
		out, err := s.replayRun(ctx, source, job, run)
		r.job.Windows = append(r.job.Windows, run.Window)
		r.out.Add(out)
		r.err = errors.Join(r.err, err)
	}
	return results, nil
}

// landedJob is the source that can read the bodies of a run of the past, and the job to load them.
// The schedule's slots are not done by it.
func (s *session) landedJob(run warehouse.LandedRun) (source vendor, job etl.Job, known bool) {
	for _, k := range s.keystone {
		if k.cfg.Account == run.Account && isKeystone(run.Dataset) {
			source, job, known = k, k.job(run.Dataset, run.Scope, s.app.now()), true
		}
	}
	for _, w := range s.wolkvox {
		if w.cfg.Account == run.Account && run.Dataset == wolkvox.Dataset {
			source, job, known = w, w.job(s.app.now()), true
		}
	}
	job.Windows, job.SlotOpen, job.Snapshot, job.ReplayOf = []etl.Window{run.Window}, true, false, run.ID
	return source, job, known
}

// replayRun loads the bodies of one run of the past. Answers by which the vendor refused hold nothing
// to load.
func (s *session) replayRun(ctx context.Context, source vendor, job etl.Job, run warehouse.LandedRun) (etl.Outcome, error) {
	landed := landedSource{source, s.wh, map[string]*etl.Answer{}}
	job.Products = nil
	for _, id := range run.Payloads {
		ans, err := s.wh.Payload(ctx, id)
		if err != nil {
			return etl.Outcome{}, err
		}
		defer ans.Body.Close()
		if err := source.Recognize(ans); err != nil {
			s.app.log.Debug("not read: the vendor refused", "payload", id, "refusal", err)
			continue
		}
		landed.answers[ans.Request.Product] = ans
		job.Products = append(job.Products, ans.Request.Product)
	}
	if len(job.Products) == 0 {
		return etl.Outcome{}, nil
	}
	for _, w := range s.wolkvox {
		if w == source {
			if err := w.LearnOperation(ctx); err != nil {
				return etl.Outcome{}, err
			}
		}
	}
	pipeline := etl.Pipeline{Warehouse: watched{s.wh, s}, Log: s.app.log, Now: s.app.now}
	return pipeline.Run(ctx, landed, job)
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

// printLanded lists what a replay would read.
func (a *app) printLanded(runs []warehouse.LandedRun, f format) error {
	t := warehouse.Table{
		Columns: []string{"dataset", "scope", "account", "run_id", "from", "until", "bodies", "bytes", "fetched_at"},
		Numeric: []bool{false, false, false, true, false, false, true, true, false},
	}
	for _, r := range runs {
		row := []string{r.Dataset, r.Scope, r.Account, fmt.Sprint(r.ID), "", "", fmt.Sprint(len(r.Payloads)), fmt.Sprint(r.Bytes), stamp(r.FetchedAt)}
		if !r.Window.IsZero() {
			row[4], row[5] = r.Window.From.String(), r.Window.Until.String()
		}
		t.Rows = append(t.Rows, row)
	}
	if len(runs) == 0 && f.isForPeople() {
		f.line(a.stdout, "nothing is landed for that")
		return nil
	}
	return f.print(a.stdout, t)
}
