package main

import (
	"archive/zip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/billing"
	"meterhouse/etl/console"
	"meterhouse/etl/schedule"
	"meterhouse/etl/wolkvox"
)

// consoleConfig is the console of a session, in which nobody can load yet.
func (s *session) consoleConfig() console.Config {
	users := map[string]console.User{}
	for name, u := range s.cfg.Console.Users {
		role, _ := console.ParseRole(u.Role) // validated
		users[name] = console.User{Hash: u.Password.text(), Role: role}
	}
	return console.Config{
		Listen: s.cfg.Console.Listen, URL: s.cfg.Console.URL, Users: users,
		Ready: s.wh.Ready, Gatherer: s.gatherer(), Log: s.app.log,
		Pool: s.wh.Pool(), Now: s.app.now, Version: buildVersion(),
		Status: s.consoleStatus, Body: s.landedBody, Defuse: billing.Defuse, Retry: s.retry, Dismiss: s.dismiss,
		Finance: finance{billing.New(s.wh.Pool(), s.app.now)},
	}
}

// consoleStatus is what `meterhouse status` says first.
func (s *session) consoleStatus(ctx context.Context) (console.Status, error) {
	r, err := s.report(ctx)
	if err != nil {
		return console.Status{}, err
	}
	return console.Status{Verdict: r.verdict(), NeedsYou: r.todo, GoodToKnow: r.notes}, nil
}

func (s *session) landedBody(ctx context.Context, payload int64) (io.ReadCloser, error) {
	answer, err := s.wh.Payload(ctx, payload)
	if err != nil {
		return nil, err
	}
	return answer.Body.Open()
}

// retry is `meterhouse quarantine retry` of one record.
func (s *session) retry(ctx context.Context, id int64) (said string, err error) {
	ids := []int64{id}
	if err := s.checkOpen(ctx, ids); err != nil {
		return "", err
	}
	repairs, err := s.planRetry(ctx, ids)
	if err != nil {
		return "", err
	}
	results, err := s.replay(ctx, repairs)
	var total etl.Outcome
	for _, r := range results {
		total.Add(r.out)
		var busy *etl.BusyError
		if errors.As(r.err, &busy) {
			return "", console.Refused(fmt.Sprintf("%s of %s is being loaded just now: try again in a while.", r.job.Dataset, r.job.Scope))
		}
		err = errors.Join(err, r.err)
	}
	if err != nil {
		return "", err
	}
	var still *exitError
	if err := s.reportRetried(ctx, ids); errors.As(err, &still) {
		return "", console.Refused(still.Error())
	} else if err != nil {
		return "", err
	}
	return fmt.Sprintf("Read again, and settled: inserted %d, restated %d, unchanged %d, refused %d.", total.Inserted, total.Restated, total.Unchanged, total.Quarantined), nil
}

// dismiss is `meterhouse quarantine dismiss` of one record.
func (s *session) dismiss(ctx context.Context, id int64, who, reason string) error {
	if err := s.checkOpen(ctx, []int64{id}); err != nil {
		return err
	}
	return s.wh.Dismiss(ctx, []int64{id}, who, reason)
}

// finance is what the console does about a month.
type finance struct{ *billing.Billing }

// Close is `meterhouse close`.
func (f finance) Close(ctx context.Context, month, who, reason string, shown console.Shown) (said string, err error) {
	period, err := billing.ParsePeriod(month)
	if err != nil {
		return "", err
	}
	seen := billing.Seen(shown)
	c, err := f.Billing.Close(ctx, period, billing.CloseOptions{By: who, Reason: reason, Seen: &seen})
	if err != nil {
		return "", forPeople(err)
	}
	said = fmt.Sprintf("Closed %s, version %d: %s, %s, %s of earlier months.", c.Period, c.Version, count(c.Lines, "line"), count(c.Days, "day"), count(c.Adjustments, "adjustment"))
	if c.Totals != "" {
		said += " Total " + c.Totals + "."
	}
	return said + fmt.Sprintf(" Keep the hash of link %d where the database's administrator cannot change it: `%s`", c.Link, c.Hash), nil
}

// Reopen is `meterhouse reopen`.
func (f finance) Reopen(ctx context.Context, month, who, reason string, version int) (said string, err error) {
	period, err := billing.ParsePeriod(month)
	if err != nil {
		return "", err
	}
	r, err := f.Billing.Reopen(ctx, period, billing.ReopenOptions{By: who, Reason: reason, Seen: version})
	if err != nil {
		return "", forPeople(err)
	}
	return fmt.Sprintf("Reopened %s: version %d stays and is no longer in force. Link %d: `%s`", r.Period, r.Version, r.Link, r.Hash), nil
}

// forPeople says in words of the console what stands against closing or reopening.
func forPeople(err error) error {
	var refused *billing.RefusedError
	var changed *billing.ChangedError
	switch {
	case errors.As(err, &refused):
		var all []string
		for _, o := range refused.Obstacles {
			all = append(all, fmt.Sprintf("%s: %s: %s", o.Kind, o.About, o.Remedy))
		}
		return console.Refused(strings.Join(all, "; "))
	case errors.Is(err, billing.ErrNotClosed):
		return console.Refused("The month is not closed.")
	case errors.As(err, &changed):
		return console.Refused("It changed after you looked: " + strings.Join(changed.Changes, "; ") + ". Look at the month again.")
	case errors.Is(err, billing.ErrRaced):
		return console.Refused("Another close or reopening came first: look at the month again.")
	}
	return err
}

// Match is `meterhouse match`.
func (f finance) Match(ctx context.Context, month string) (found console.Match, err error) {
	period, err := billing.ParsePeriod(month)
	if err != nil {
		return found, err
	}
	m, err := f.Billing.Match(ctx, period, time.Time{}, billing.DefaultTolerance)
	if err != nil {
		return found, err
	}
	lines := matchTable(m)
	found = console.Match{
		Lines:  console.Grid{Columns: lines.Columns, Numeric: lines.Numeric, Rows: lines.Rows},
		Causes: console.Grid{Columns: []string{"Cause", "Comparisons", "Difference", "Currency"}, Numeric: []bool{false, true, true, false}},
		Totals: matchSums(m),
	}
	for _, t := range m.Totals() {
		found.Causes.Rows = append(found.Causes.Rows, []string{string(t.Cause), strconv.Itoa(t.Lines), money(t.Difference, t.Currency), t.Currency})
	}
	return found, nil
}

// Workbook is `meterhouse statement --format xlsx`.
func (f finance) Workbook(ctx context.Context, w io.Writer, month string) error {
	period, err := billing.ParsePeriod(month)
	if err != nil {
		return err
	}
	made, err := f.WriteWorkbook(ctx, w, period, time.Time{}, billing.Selection{})
	if n := len(made.Differs); err == nil && n > 0 {
		err = fmt.Errorf("workbook of %s: %s whose days come to something else: see `meterhouse close verify`", period, count(n, "line"))
	}
	return err
}

// FOCUS is `meterhouse export focus`, its files in a ZIP archive.
func (f finance) FOCUS(ctx context.Context, w io.Writer, month string) error {
	period, err := billing.ParsePeriod(month)
	if err != nil {
		return err
	}
	made, err := f.Billing.FOCUS(ctx, period, nil)
	if err != nil {
		return err
	}
	files, _, err := focusFiles(made)
	if err != nil {
		return err
	}
	archive := zip.NewWriter(w)
	for _, file := range files {
		out, err := archive.Create(file.name)
		if err != nil {
			return err
		}
		if err := file.write(out); err != nil {
			return err
		}
	}
	return archive.Close()
}

// wantedFor is how long a load that a person wants waits for its turn.
const wantedFor = time.Hour

// Begin queues a load that a person wants. It is part of console.Loads.
func (v *service) Begin(ctx context.Context, dataset, scope, _ string) (load int64, err error) {
	slot := schedule.Slot{
		Dataset: dataset, Scope: scope, Account: scope, ByHand: true, Queue: queueWolkvox,
		Until: v.app.now().Add(wantedFor),
	}
	found := false
	if dataset == wolkvox.Dataset {
		for _, w := range v.wolkvox {
			found = found || w.cfg.Account == scope
		}
	} else {
		k, err := v.accountOf(ctx, slot)
		var held *etl.HeldError
		if err != nil && !errors.As(err, &held) {
			return 0, err
		}
		if found = err == nil && isKeystone(dataset); found {
			slot.Account, slot.Queue = k.cfg.Account, queueKeystone
		}
	}
	if !found {
		return 0, console.Refused(fmt.Sprintf("No account that is configured has %s of %s.", dataset, scope))
	}
	return v.queue.Want(ctx, slot)
}

// Progress is how a load stands. It is part of console.Loads.
func (v *service) Progress(ctx context.Context, load int64) (console.Progress, error) {
	state, found, err := v.queue.State(ctx, load)
	switch {
	case err != nil:
		return console.Progress{}, err
	case !found:
		return console.Progress{IsOver: true, State: "it is gone from the queue, as all are after some days"}, nil
	}
	why := strings.TrimSpace(cause(state.Error))
	switch state.Phase {
	case schedule.Working:
		return console.Progress{State: "it is being loaded"}, nil
	case schedule.PutOff:
		return console.Progress{State: "the vendor must not be asked yet, or another process is loading it: it goes on at " + state.Until.Format("15:04:05") + " UTC"}, nil
	case schedule.Done:
		return console.Progress{IsOver: true, State: "it has ended"}, nil
	case schedule.GivenUp:
		return console.Progress{IsOver: true, State: "it failed: " + or(why, "see its last run")}, nil
	}
	return console.Progress{State: "it waits for a worker"}, nil
}

// demoListen is where the console of a demo listens if nobody else does.
const demoListen = "127.0.0.1:8080"

// demoUser logs in to a demo that other machines can reach.
const demoUser = "demo"

// demoConsole is the console of a demo, in which anybody on this machine may do everything. Where others reach it,
// whoever has the password may: login says what it is. An empty listen is demoListen, or a free port.
func (v *service) demoConsole(listen string) (server *console.Server, login string, err error) {
	cfg := v.consoleConfig()
	cfg.Loads, cfg.Anybody = v, console.Closer
	cfg.Notice = "A demo: made-up figures, throw-away data, a clock that stands still. Anybody on this machine may do everything, without a login."
	if listen != "" {
		host, _, err := net.SplitHostPort(listen)
		if err != nil {
			return nil, "", usagef("--listen %q: want host:port", listen)
		}
		if !isLoopback(host) {
			password := strings.ToLower(rand.Text()[:12])
			hash, err := console.HashPassword(password)
			if err != nil {
				return nil, "", err
			}
			cfg.Users = map[string]console.User{demoUser: {Hash: hash, Role: console.Closer}}
			cfg.Notice = "A demo: made-up figures, throw-away data, a clock that stands still."
			login = fmt.Sprintf(" (user %s, password %s)", demoUser, password)
		}
		cfg.Listen = listen
		server, err = console.New(cfg)
		return server, login, err
	}
	for _, cfg.Listen = range []string{demoListen, "127.0.0.1:0"} {
		if server, err = console.New(cfg); err == nil {
			break
		}
	}
	return server, "", err
}

// openAt is where a browser on this machine finds a console: one that listens everywhere says [::], which few open.
func openAt(server *console.Server) string {
	host, port, _ := net.SplitHostPort(server.Addr())
	if ip := net.ParseIP(host); ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

var _ console.Loads = (*service)(nil)
