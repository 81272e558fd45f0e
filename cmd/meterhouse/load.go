package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"meterhouse/etl"
	"meterhouse/etl/keystone"
	"meterhouse/etl/schedule"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/wolkvox"
)

// order says what to load.
type order struct {
	datasets []string     // empty: whatever is due
	windows  []etl.Window // of history; nil: by the plan
	customer string       // only this one; empty: all
	planOnly bool         // find out and change nothing
	format   format       // of what is printed
}

// loader carries out an order: Keystone accounts and wolkvox side by side, at most so many jobs at
// a time as configured. Within a Keystone account the datasets follow one another, since each adds
// to the subscriptions that the next one refers to; the scopes of a dataset run side by side.
type loader struct {
	*session
	order    order
	pipeline etl.Pipeline
	slots    chan struct{}

	mu      sync.Mutex
	results []result
	notes   []string          // about what a plan cannot show
	claimed map[string]string // Keystone customer → account that loads it
}

// result is what became of one job.
type result struct {
	job etl.Job
	out etl.Outcome
	err error
}

// loaded is what became of an order.
type loaded struct {
	results []result
	notes   []string
}

// load carries out an order. The error is about planning, or that ctx ended; what failed in loading
// is in the results. An account that cannot be planned does not stop the others.
func (s *session) load(ctx context.Context, o order) (loaded, error) {
	l := &loader{session: s, order: o, slots: make(chan struct{}, s.parallel()), claimed: map[string]string{}}
	l.pipeline = s.pipeline()
	var g errgroup.Group
	for _, k := range s.keystone {
		g.Go(func() error { return l.loadKeystone(ctx, k) })
	}
	for _, w := range s.wolkvox {
		g.Go(func() error { return l.loadWolkvox(ctx, w) })
	}
	err := g.Wait()
	slices.SortStableFunc(l.results, func(a, b result) int {
		if c := slices.Index(datasets, a.job.Dataset) - slices.Index(datasets, b.job.Dataset); c != 0 {
			return c
		}
		return strings.Compare(a.job.Account+"\x00"+a.job.Scope, b.job.Account+"\x00"+b.job.Scope)
	})
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return loaded{l.results, l.notes}, err
}

// pipeline loads into the session's warehouse and tells of it.
func (s *session) pipeline() etl.Pipeline {
	return etl.Pipeline{Warehouse: watched{s.wh, s}, Log: s.app.log, Now: s.app.now}
}

func (l *loader) loadKeystone(ctx context.Context, k *keystoneAccount) error {
	wanted, err := l.isWanted(ctx, keystone.Customers, k.cfg.Account, k.schedule(keystone.Customers))
	if err != nil {
		return err
	}
	customers, known, err := l.customers(ctx, k)
	if err != nil {
		return err
	}
	others := slices.ContainsFunc([]string{keystone.Subscriptions, keystone.Current, keystone.History}, l.mayWant)
	if wanted || !known && others {
		l.run(ctx, k, []etl.Job{k.job(keystone.Customers, k.cfg.Account, l.app.now())})
		if !known && l.order.planOnly {
			l.note("the customers of " + k.cfg.Account + " are not known yet: what is asked for each of them follows once they are")
		}
		if customers, _, err = l.customers(ctx, k); err != nil {
			return err
		}
	}
	customers = l.claim(k, customers)
	for _, dataset := range []string{keystone.Subscriptions, keystone.Current, keystone.History} {
		jobs, err := l.plan(ctx, k, dataset, customers)
		if err != nil {
			return err
		}
		l.run(ctx, k, jobs)
	}
	return nil
}

func (l *loader) loadWolkvox(ctx context.Context, w *wolkvoxAccount) error {
	wanted, err := l.isWanted(ctx, wolkvox.Dataset, w.cfg.Account, w.timetable())
	if err != nil || !wanted {
		return err
	}
	for _, text := range w.strangers() {
		l.app.log.Warn(text, "account", w.cfg.Account)
	}
	if !l.order.planOnly {
		if err := l.saveProducts(ctx); err != nil {
			return err
		}
	}
	job := w.job(l.app.now())
	if !l.order.planOnly {
		// Who names the dataset wants it now, whatever the vendor refused before.
		allowed, err := w.Allowed(ctx, job.Products, len(l.order.datasets) > 0)
		if err != nil {
			l.add(result{job: job, err: err})
			return nil
		}
		job.Products = allowed
	}
	l.run(ctx, w, []etl.Job{job})
	return nil
}

// customers of an account, as configured or else as the vendor listed them; known is false when
// the list was never loaded.
func (s *session) customers(ctx context.Context, k *keystoneAccount) (ids []string, known bool, err error) {
	ids = k.cfg.Customers
	if len(ids) == 0 {
		if ids, err = s.wh.Customers(ctx, k.cfg.Account); err != nil {
			return nil, false, err
		}
	}
	return ids, len(ids) > 0, nil
}

func (l *loader) note(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notes = append(l.notes, text)
}

// claim drops customers that another account of ours sees too: they would be loaded twice.
func (l *loader) claim(k *keystoneAccount, ids []string) (ours []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		if other, taken := l.claimed[id]; taken {
			l.app.log.Warn("two accounts see the same customer", "customer", id, "loaded by", other, "not by", k.cfg.Account)
			continue
		}
		l.claimed[id] = k.cfg.Account
		if l.order.customer == "" || l.order.customer == id {
			ours = append(ours, id)
		}
	}
	return ours
}

// plan finds the jobs of one dataset that are wanted now.
func (l *loader) plan(ctx context.Context, k *keystoneAccount, dataset string, customers []string) (jobs []etl.Job, err error) {
	now := l.app.now()
	for _, id := range customers {
		wanted, err := l.isWanted(ctx, dataset, id, k.schedule(dataset))
		if err != nil {
			return nil, err
		}
		if !wanted {
			continue
		}
		job := k.job(dataset, id, now)
		if dataset == keystone.History {
			job.Windows, job.SlotOpen = l.order.windows, l.order.windows != nil
			if job.Windows == nil {
				if job.Windows, err = l.windows(ctx, k, id, now); err != nil {
					return nil, err
				}
			}
		}
		if len(job.Windows) > 0 {
			jobs = append(jobs, job)
		}
	}
	return jobs, nil
}

// windows of history that a regular run asks for.
func (s *session) windows(ctx context.Context, k *keystoneAccount, customer string, now time.Time) ([]etl.Window, error) {
	covered, err := s.wh.Covered(ctx, keystone.History, customer, etl.Window{From: k.cfg.History.Start.day, Until: horizon(now, k.cfg.History.Settle)})
	if err != nil {
		return nil, err
	}
	return historyWindows(now, k.cfg.History, covered), nil
}

// mayWant tells whether any scope of the dataset can be wanted.
func (l *loader) mayWant(dataset string) bool {
	return len(l.order.datasets) == 0 || slices.Contains(l.order.datasets, dataset)
}

func (l *loader) isWanted(ctx context.Context, dataset, scope string, s schedule.Schedule) (bool, error) {
	if len(l.order.datasets) > 0 {
		return slices.Contains(l.order.datasets, dataset), nil
	}
	last, succeeded, err := l.wh.LastSuccess(ctx, dataset, scope)
	_, due := dueSlot(s, last, succeeded, l.app.now())
	return err == nil && due, err
}

// run does the jobs side by side, begun in order as slots become free, and returns when all are
// done.
func (l *loader) run(ctx context.Context, source etl.Source, jobs []etl.Job) {
	var wg sync.WaitGroup
	for _, job := range jobs {
		if l.order.planOnly {
			l.add(result{job: job})
			continue
		}
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			l.add(result{job: job, err: ctx.Err()})
			continue
		}
		wg.Go(func() {
			defer func() { <-l.slots }()
			out, err := l.pipeline.Run(ctx, source, job)
			late, lateErr := l.loadUnloaded(ctx, job)
			out.Add(late)
			l.add(result{job, out, errors.Join(err, lateErr)})
		})
	}
	wg.Wait()
}

// loadUnloaded loads what a run landed that was killed before it could load: nobody can ask for it
// again. It comes after the job's own run, which has closed the killed one.
func (l *loader) loadUnloaded(ctx context.Context, job etl.Job) (total etl.Outcome, err error) {
	if !job.Snapshot || ctx.Err() != nil {
		return total, nil
	}
	runs, err := l.wh.Unloaded(ctx, job.Dataset, job.Scope)
	if err != nil {
		return total, err
	}
	repairs, err := l.session.plan(ctx, job.Dataset, runs, etl.Window{})
	if err != nil {
		return total, err
	}
	results, err := l.replay(ctx, repairs)
	for _, r := range results {
		total.Add(r.out)
		err = errors.Join(err, r.err)
	}
	return total, err
}

func (l *loader) add(r result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.results = append(l.results, r)
}

// watched shows on the progress line which window is being loaded, and logs what goes wrong before
// there is a run; the pipeline logs the rest.
type watched struct {
	etl.Warehouse
	session *session
}

func (w watched) Lease(ctx context.Context, dataset, scope string) (etl.Lease, error) {
	lease, err := w.Warehouse.Lease(ctx, dataset, scope)
	var busy *etl.BusyError
	if err != nil && !errors.As(err, &busy) {
		w.session.app.log.Error("failed", "dataset", dataset, "scope", scope, "error", err)
	}
	return lease, err
}

func (w watched) StartRun(ctx context.Context, lease etl.Lease, job etl.Job, window etl.Window, at time.Time) (etl.Run, error) {
	w.session.app.progress.set("%sloading %s %s %s", w.session.stage, job.Dataset, job.Scope, window)
	run, err := w.Warehouse.StartRun(ctx, lease, job, window, at)
	if err != nil {
		w.session.app.log.Error("failed", "dataset", job.Dataset, "scope", job.Scope, "window", window.String(), "error", err)
	}
	return run, err
}

const (
	statusOK      = "ok"
	statusPartial = "partial"
	statusFailed  = "failed"
	statusBusy    = "busy"
	statusHeld    = "held" // the vendor must not be asked yet
)

// status of a job: partial when some of it was loaded and some not.
func (r result) status() string {
	var busy *etl.BusyError
	loaded := r.out.Inserted+r.out.Restated+r.out.Unchanged+r.out.Ignored > 0
	switch {
	case errors.As(r.err, &busy):
		return statusBusy
	case isHeld(r.err):
		return statusHeld
	case r.err != nil && !loaded:
		return statusFailed
	case r.err != nil || r.out.Partial():
		return statusPartial
	}
	return statusOK
}

// isHeld tells that nothing was asked; a run that was stopped by a hold in between has more to say.
func isHeld(err error) bool {
	_, held := err.(*etl.HeldError)
	return held
}

// harmless are accepted deviations that nobody needs to look at.
var harmless = []string{
	"bom_stripped", "count_absent", "duplicate_row", "identity_unverified", "imported", "no_data", "no_reading", "null_optional",
	"open_ended", "trimmed", "type_coerced",
}

// warnings are the accepted deviations of a job that are worth a look.
func (r result) warnings() (lines []string) {
	at := r.job.Dataset + " " + r.job.Scope + ": "
	for _, name := range slices.Sorted(maps.Keys(r.out.Warnings)) {
		// A replay or an import is late by its nature.
		if w := r.out.Warnings[name]; !slices.Contains(harmless, name) && !(r.job.SlotOpen && name == "older_observation") {
			lines = append(lines, at+deviation(name, strconv.Itoa(w.Count), w.FirstPath))
		}
	}
	if r.out.Absent > 0 {
		lines = append(lines, fmt.Sprintf("%sabsent %d, expected and not delivered", at, r.out.Absent))
	}
	return lines
}

// deviation is one accepted warning in words.
func deviation(name, times, first string) string {
	if first == "" {
		return name + " " + times
	}
	return name + " " + times + ", first at " + first
}

// printResults writes one row per job. People also get what is worth a look, and the sum as the last
// line; programs find what is worth a look in a column.
func (a *app) printResults(results []result, f format) error {
	t := warehouse.Table{
		Columns: []string{"dataset", "scope", "windows", "received", "inserted", "restated", "unchanged", "ignored", "quarantined", "absent", "status"},
		Numeric: []bool{false, false, true, true, true, true, true, true, true, true, false},
	}
	if !f.isForPeople() {
		t.Columns = append(t.Columns, "warnings")
	}
	var total etl.Outcome
	for _, r := range results {
		total.Add(r.out)
		row := []string{r.job.Dataset, r.job.Scope}
		for _, n := range []int{len(r.job.Windows), r.out.Received, r.out.Inserted, r.out.Restated, r.out.Unchanged, r.out.Ignored, r.out.Quarantined, r.out.Absent} {
			row = append(row, strconv.Itoa(n))
		}
		row = append(row, r.status())
		if !f.isForPeople() {
			row = append(row, strings.Join(r.warnings(), "; "))
		}
		t.Rows = append(t.Rows, row)
	}
	if !f.isForPeople() {
		return f.print(a.stdout, t)
	}
	if len(t.Rows) == 0 {
		fmt.Fprintln(a.stdout, "nothing is due")
	} else if err := f.print(a.stdout, t); err != nil {
		return err
	}
	f.gap(a.stdout)
	for _, r := range results {
		for _, text := range r.warnings() {
			f.line(a.stdout, "warning "+text)
		}
	}
	f.gap(a.stdout)
	a.printSum(total)
	return nil
}

func (a *app) printSum(o etl.Outcome) {
	fmt.Fprintf(a.stdout, "inserted %d, restated %d, unchanged %d, quarantined %d\n", o.Inserted, o.Restated, o.Unchanged, o.Quarantined)
}

// printPlan writes the windows that would be asked for. For programs the present is a row without
// days, and what a plan cannot show goes to the log.
func (a *app) printPlan(plan loaded, f format) error {
	t := warehouse.Table{
		Columns: []string{"dataset", "scope", "account", "from", "until", "days"},
		Numeric: []bool{false, false, false, false, false, true},
	}
	for _, r := range plan.results {
		for _, w := range r.job.Windows {
			row := []string{r.job.Dataset, r.job.Scope, r.job.Account, "", "", ""}
			switch {
			case !w.IsZero():
				row = append(row[:3], w.From.String(), w.Until.String(), strconv.Itoa(w.Days()))
			case f.isForPeople():
				row[3] = "now"
			}
			t.Rows = append(t.Rows, row)
		}
	}
	if !f.isForPeople() {
		for _, note := range plan.notes {
			a.log.Info(note)
		}
		return f.print(a.stdout, t)
	}
	if len(t.Rows) == 0 {
		fmt.Fprintln(a.stdout, "nothing is due")
		return nil
	}
	if err := f.print(a.stdout, t); err != nil {
		return err
	}
	f.gap(a.stdout)
	for _, note := range plan.notes {
		f.line(a.stdout, note)
	}
	return nil
}

// verdict turns results, and an error of planning, into the error that carries the exit code. What
// the log told already, by its level, is only counted.
func verdict(results []result, planning error, told func(slog.Level) bool) error {
	counts := map[string]int{}
	var failed, inPart, untold []string
	quarantined, mismatched := 0, 0
	for _, r := range results {
		counts[r.status()]++
		quarantined += r.out.Quarantined
		if r.out.Mismatch {
			mismatched++
		}
		scope := r.job.Dataset + " " + r.job.Scope
		switch {
		case r.err != nil && r.status() != statusBusy && r.status() != statusHeld:
			failed = append(failed, scope)
			if !told(slog.LevelError) {
				untold = append(untold, linesOf(scope, r.err)...)
			}
		case len(r.out.Rejected) > 0:
			inPart = append(inPart, scope)
			if !told(slog.LevelWarn) {
				untold = append(untold, linesOf(scope, r.out.Rejected...)...)
			}
		}
	}
	code := exitPartial
	if counts[statusOK]+counts[statusPartial] == 0 {
		code = exitFailed
	}
	switch {
	case errors.Is(planning, context.Canceled):
		return planning
	case planning != nil:
		return &exitError{code, planning}
	case len(untold) > 0:
		return &exitError{code, errors.New(strings.Join(untold, "\n"))}
	case len(failed) == 1 && len(inPart) == 0:
		return &exitError{code, fmt.Errorf("%s failed, see the error above", failed[0])}
	case len(failed) > 0:
		return &exitError{code, fmt.Errorf("%d of %d scopes failed, see the errors above", len(failed)+len(inPart), len(results))}
	case len(inPart) == 1:
		return &exitError{code, fmt.Errorf("%s is loaded in part, see the warning above", inPart[0])}
	case len(inPart) > 0:
		return &exitError{code, fmt.Errorf("%d of %d scopes are loaded in part, see the warnings above", len(inPart), len(results))}
	case counts[statusBusy]+counts[statusHeld] > 0:
		i := slices.IndexFunc(results, func(r result) bool { return r.status() == statusBusy || r.status() == statusHeld })
		return results[i].err
	case quarantined > 0:
		return &exitError{exitPartial, fmt.Errorf("%s refused, the rest is loaded: see `meterhouse quarantine list`", count(quarantined, "record"))}
	case mismatched > 0:
		return &exitError{exitPartial, errors.New("the vendor's own count does not fit its answer: see count_mismatch in mart.run")}
	}
	return nil
}

// linesOf writes errors with dataset and scope in front of every line.
func linesOf(scope string, errs ...error) []string {
	lines := strings.Split(errors.Join(errs...).Error(), "\n")
	for i, line := range lines {
		if !strings.HasPrefix(line, scope+" ") && !strings.HasPrefix(line, scope+":") {
			lines[i] = scope + ": " + line
		}
	}
	return lines
}

// told tells whether the log shows what is said at a level.
func (a *app) told(level slog.Level) bool { return a.log.Enabled(context.Background(), level) }
