package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/etl/wolkvox/wolkvoxsim"
	"meterhouse/migrations"
)

// snapshot is everything that loading writes, as counts; runs and leases tell that it was tried.
func (w *world) snapshot() string {
	w.t.Helper()
	return w.value(`select format('runs %s leases %s payloads %s samples %s readings %s products %s attempts %s',
		(select count(*) from ops.run), (select count(*) from ops.lease), (select count(*) from raw.payload),
		(select count(*) from dw.fact_consumption_sample), (select count(*) from dw.fact_license_reading),
		(select count(*) from dw.dim_product), (select count(*) from ops.credential_attempt))`)
}

func (w *world) calls() int { return len(w.keystone.Requests()) + len(w.wolkvox.Requests()) }

func TestRunLoadsOnceAndWhenDue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.must(exitDone, "run")
	golden(t, "run.txt", first.stdout)
	if strings.Contains(first.stderr, "meterhouse:") {
		t.Errorf("stderr: %s", first.stderr)
	}

	again := w.must(exitDone, "run")
	if want := "nothing is due\ninserted 0, restated 0, unchanged 0, quarantined 0\n"; again.stdout != want {
		t.Errorf("second run:\n%s\nwant:\n%s", again.stdout, want)
	}
	named := w.must(exitDone, append([]string{"run"}, datasets...)...)
	if !regexp.MustCompile(`^inserted 0, restated 0, unchanged [1-9]\d+, quarantined 0$`).MatchString(named.lastLine()) {
		t.Errorf("everything again: %s", named.lastLine())
	}

	// The next wolkvox slot has come, no other.
	w.setNow("2026-05-20T12:30:00Z")
	later := w.must(exitDone, "run")
	if strings.Contains(later.stdout, "keystone") || !strings.Contains(later.stdout, "wolkvox.billing") {
		t.Errorf("half an hour later:\n%s", later.stdout)
	}
	// The next day: one new day, the last three again.
	w.setNow("2026-05-21T12:30:00Z")
	plan := w.must(exitDone, "run", "keystone.history", "--plan")
	wantContains(t, "plan", plan.stdout, "keystone.history  0042117  acme     2026-05-18  2026-05-21     3")
}

func TestPlanChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.snapshot()
	o := w.must(exitDone, "run", "--plan")
	golden(t, "plan_unknown.txt", o.stdout)
	if after := w.snapshot(); after != before || w.calls() > 0 {
		t.Errorf("--plan: from %s to %s, %d calls", before, after, w.calls())
	}
	w.must(exitDone, "run", "keystone.customers")
	before, calls := w.snapshot(), w.calls()
	o = w.must(exitDone, "run", "--plan")
	golden(t, "plan.txt", o.stdout)
	o = w.must(exitDone, "backfill", "keystone.history", "--from", "2026-01-01", "--until", "2026-05-20", "--customer", "C-1001", "--plan")
	golden(t, "plan_backfill.txt", o.stdout)
	if after := w.snapshot(); after != before || w.calls() != calls {
		t.Errorf("--plan: from %s to %s, %d calls", before, after, w.calls()-calls)
	}
}

func TestRunExitCodes(t *testing.T) {
	t.Parallel()
	t.Run("one scope fails", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.must(exitDone, "run", "keystone.customers")
		w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Status, Status: 403, Path: "/historical", Count: 1})
		o := w.must(exitPartial, "run", "keystone.history")
		wantContains(t, "stdout", o.stdout, "failed", "ok")
		wantContains(t, "stderr", o.stderr, "failed, see the error above")
		if n := strings.Count(o.stderr, "Forbidden"); n != 1 {
			t.Errorf("the error is printed %d times, want once: %s", n, o.stderr)
		}
		if !regexp.MustCompile(`(?m)^meterhouse: keystone.history \S+ failed, `).MatchString(o.stderr) {
			t.Errorf("dataset and scope are not named: %s", o.stderr)
		}
		if n := strings.Count(o.stdout, "failed"); n != 1 {
			t.Errorf("%d scopes failed, want one:\n%s", n, o.stdout)
		}
	})
	t.Run("one of two vendors is down", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.BadToken})
		o := w.must(exitPartial, "run")
		wantContains(t, "stderr", o.stderr, "meterhouse: wolkvox.billing calls failed, see the error above\n", "PLEASE VALIDATE TOKEN")
		wantContains(t, "stdout", o.stdout, "wolkvox.billing         calls          1         0         0         0          0        0            0       0  failed")
	})
	t.Run("everything fails", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Replace, Body: []byte("<html>maintenance</html>")})
		o := w.must(exitFailed, "run", "keystone.customers", "keystone.history")
		if n := strings.Count(o.stderr, "meterhouse: "); n != 1 {
			t.Errorf("%d messages, want one: %s", n, o.stderr)
		}
		wantContains(t, "stderr", o.stderr, "meterhouse: keystone.customers acme failed, see the error above")
		if got := o.lastLine(); got != "inserted 0, restated 0, unchanged 0, quarantined 0" {
			t.Errorf("last line %q", got)
		}
	})
	t.Run("something is quarantined", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: "chat_licenses", Body: []byte("=12+x")})
		o := w.must(exitPartial, "run", "wolkvox.billing")
		wantContains(t, "stderr", o.stderr, "meterhouse: 1 record refused, the rest is loaded: see `meterhouse quarantine list`")
		if strings.Contains(o.stderr, "rejected=") {
			t.Errorf("an answer is said to be rejected: %s", o.stderr)
		}
		if got := o.lastLine(); got != "inserted 1, restated 0, unchanged 0, quarantined 1" {
			t.Errorf("last line %q", got)
		}
	})
	t.Run("one product of several", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Reply, API: "chat_licenses", Body: []byte("nonsense")})
		o := w.must(exitPartial, "run", "wolkvox.billing")
		wantContains(t, "stderr", o.stderr, "meterhouse: wolkvox.billing calls is loaded in part, see the warning above\n", "rejected=")
		o = w.must(exitPartial, "--log-level", "error", "run", "wolkvox.billing")
		if !regexp.MustCompile(`^meterhouse: wolkvox.billing calls: .*chat_licenses.*\n$`).MatchString(o.stderr) {
			t.Errorf("without the log's warning: %s", o.stderr)
		}
	})
	t.Run("busy", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		other, err := warehouse.Open(t.Context(), warehouse.Config{URL: w.database, Owner: "elsewhere/1/now"})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		lease, err := other.Lease(t.Context(), "wolkvox.billing", "calls")
		if err != nil {
			t.Fatal(err)
		}
		o := w.must(exitBusy, "run", "wolkvox.billing")
		wantContains(t, "stderr", o.stderr, "meterhouse: wolkvox.billing calls: another process is at it (elsewhere/1/now), its lease frees at ")
		wantContains(t, "stdout", o.stdout, "busy")
		if err := lease.Release(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.must(exitDone, "run", "wolkvox.billing")
	})
	t.Run("schema behind", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		if _, err := migrations.Down(t.Context(), w.database, migrations.Head()-1); err != nil {
			t.Fatal(err)
		}
		o := w.must(exitFailed, "run")
		wantContains(t, "stderr", o.stderr, "run `meterhouse migrate up`")
		if w.calls() > 0 {
			t.Errorf("%d calls to vendors", w.calls())
		}
	})
	t.Run("database away", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.env["METERHOUSE_DATABASE_URL"] = "postgres://me:s3cret@127.0.0.1:1/none"
		o := w.must(exitFailed, "run")
		wantContains(t, "stderr", o.stderr, "connect to database me@127.0.0.1:1/none", "check database.url")
		if strings.Contains(o.stderr, "s3cret") || w.calls() > 0 {
			t.Errorf("%d calls, stderr %s", w.calls(), o.stderr)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Slow, Path: "/customers", Delay: time.Minute})
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		// A deadline ends like a signal, but for its cause.
		ctx, interrupt := context.WithCancel(context.WithoutCancel(ctx))
		time.AfterFunc(1500*time.Millisecond, interrupt)
		o := invokeUntil(t, ctx, w.env, "", "--config", w.file, "--now", testNow, "run", "keystone.customers")
		if o.code != exitFailed {
			t.Errorf("exit code %d", o.code)
		}
		wantContains(t, "stderr", o.stderr, "meterhouse: interrupted")
	})
	t.Run("no such vendor", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		text, _ := os.ReadFile(w.file)
		keystoneOnly, _, _ := strings.Cut(string(text), "wolkvox:")
		w.file = writeFile(t, "m.yaml", keystoneOnly)
		o := w.must(exitUsage, "run", "wolkvox.billing")
		wantContains(t, "stderr", o.stderr, "wolkvox.billing: no wolkvox account is configured")
	})
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	ok := result{out: etl.Outcome{Received: 1, Unchanged: 1}}
	empty := result{}
	quarantined := result{out: etl.Outcome{Received: 2, Inserted: 1, Quarantined: 1}}
	mismatch := result{out: etl.Outcome{Mismatch: true}}
	rejected := result{out: etl.Outcome{Rejected: []error{errors.New("product x")}}}
	failed := result{err: errors.New("vendor unavailable")}
	partFailed := result{out: etl.Outcome{Received: 1, Inserted: 1}, err: errors.New("one window")}
	busy := result{err: &etl.BusyError{Dataset: "d", Scope: "s"}}
	for _, c := range []struct {
		name    string
		results []result
		plan    error
		want    int
	}{
		{"nothing", nil, nil, exitDone},
		{"ok", []result{ok, empty}, nil, exitDone},
		{"quarantine", []result{ok, quarantined}, nil, exitPartial},
		{"mismatch", []result{mismatch}, nil, exitPartial},
		{"rejected answer", []result{ok, rejected}, nil, exitPartial},
		{"failed", []result{failed}, nil, exitFailed},
		{"failed among others", []result{failed, ok}, nil, exitPartial},
		{"one window failed", []result{partFailed}, nil, exitPartial},
		{"busy", []result{ok, busy}, nil, exitBusy},
		{"busy alone", []result{busy}, nil, exitBusy},
		{"busy and failed", []result{busy, failed}, nil, exitFailed},
		{"busy, failed and ok", []result{busy, failed, ok}, nil, exitPartial},
		{"planning", nil, errors.New("database gone"), exitFailed},
		{"planning after some", []result{ok}, errors.New("database gone"), exitPartial},
		{"interrupted", []result{ok}, context.Canceled, exitFailed},
	} {
		a := &app{started: true}
		for _, told := range []bool{true, false} {
			if got := a.exitCode(verdict(c.results, c.plan, func(slog.Level) bool { return told })); got != c.want {
				t.Errorf("%s: exit code %d, want %d", c.name, got, c.want)
			}
		}
	}
}

// What the log told is not told again; what it did not names dataset and scope in every line.
func TestVerdictText(t *testing.T) {
	t.Parallel()
	job := etl.Job{Dataset: "wolkvox.billing", Scope: "calls"}
	rejected := result{job: job, out: etl.Outcome{Inserted: 1, Rejected: []error{errors.New("extract a: x\nextract b: y"), errors.New("transform c: z")}}}
	failed := result{job: etl.Job{Dataset: "keystone.history", Scope: "C-1"}, err: errors.New("keystone.history C-1 now: run 7: gone")}
	for _, c := range []struct {
		results []result
		least   slog.Level // that the log shows
		want    string
	}{
		{[]result{failed}, slog.LevelInfo, "keystone.history C-1 failed, see the error above"},
		{[]result{failed, rejected, {}}, slog.LevelInfo, "2 of 3 scopes failed, see the errors above"},
		{[]result{rejected, {}}, slog.LevelInfo, "wolkvox.billing calls is loaded in part, see the warning above"},
		{[]result{rejected, rejected}, slog.LevelInfo, "2 of 2 scopes are loaded in part, see the warnings above"},
		{[]result{failed, rejected}, slog.LevelError,
			"wolkvox.billing calls: extract a: x\nwolkvox.billing calls: extract b: y\nwolkvox.billing calls: transform c: z"},
		{[]result{failed, {}}, slog.LevelError + 1, "keystone.history C-1 now: run 7: gone"},
	} {
		if got := message(verdict(c.results, nil, func(l slog.Level) bool { return l >= c.least })); got != c.want {
			t.Errorf("from %s on:\n%s\nwant:\n%s", c.least, got, c.want)
		}
	}
}

// Accepted deviations that are worth a look are told once after the run, and by status until the
// next run finds none.
func TestWarningsAreSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.must(exitDone, "run")
	if strings.Contains(first.stdout, "warning ") { // open_ended, duplicate_row
		t.Errorf("harmless deviations are told:\n%s", first.stdout)
	}
	// What is stored was something else, and invoiced.
	w.value(`with level as (
			select customer_key, service_level_key from dw.fact_daily_consumption join dw.dim_customer using (customer_key)
			where customer_id = 'C-1001' order by service_level_key limit 1
		), samples as (
			update dw.fact_consumption_sample as s set consumed_tib = consumed_tib + 1, is_invoiced = true from level as l
			where (s.customer_key, s.service_level_key) = (l.customer_key, l.service_level_key)
		), days as (
			update dw.fact_daily_consumption as d
			set digest = '', is_invoiced = true, invoiced_samples = sample_count, uninvoiced_samples = 0 from level as l
			where (d.customer_key, d.service_level_key) = (l.customer_key, l.service_level_key)
		)
		select count(*)::text from level`)
	w.setNow("2026-05-20T12:05:00Z")
	o := w.must(exitDone, "run", "keystone.history")
	line := regexp.MustCompile(`(?m)^warning keystone.history C-1001: restated 3, first at .+ 0 2026-05-1\d$`)
	invoiced := regexp.MustCompile(`(?m)^warning keystone.history C-1001: invoiced_value_changed \d+, first at .+ 0 2026-05-1\d$`)
	if !line.MatchString(o.stdout) || !invoiced.MatchString(o.stdout) || !strings.HasPrefix(o.lastLine(), "inserted ") {
		t.Errorf("run:\n%s", o.stdout)
	}
	status := w.must(exitDone, "status").stdout
	wantContains(t, "status", status, "1 thing needs you.\n- look at keystone.history C-1001: invoiced_value_changed ", ", first at ")
	if strings.Contains(status, "restated 3") || strings.Contains(status, ": open_ended") {
		t.Errorf("status tells what needs no look:\n%s", status)
	}
	w.must(exitDone, "run", "keystone.history")
	if status := w.must(exitDone, "status").stdout; strings.Contains(status, "invoiced_value_changed") {
		t.Errorf("status tells what the newest run did not meet:\n%s", status)
	}
}

// V18: clocks that differ change nothing of what is loaded, are told once for each vendor, and are never those of an
// answer that is read again.
func TestVendorClocks(t *testing.T) {
	t.Parallel()
	const facts = `select string_agg(md5(f::text), ' ' order by md5(f::text)) from (
		select usage_date, committed_tib, consumed_avg_tib, digest::text from dw.fact_daily_consumption
		union all
		select reading_date, items, null, items_text from dw.fact_license_reading) as f`
	right, w := newWorld(t), newWorld(t)
	right.must(exitDone, "run")
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Skewed, Skew: -3 * time.Hour})
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Skewed, Skew: 26 * time.Hour})
	o := w.must(exitDone, "run")
	host := strings.TrimPrefix(w.url, "http://")
	for _, c := range []struct{ scope, spread string }{
		{"keystone.customers acme", " 1, first at " + host + `, (3h0m0s|2h59m5\ds) behind our clock\n`},
		{"keystone.history C-1001", " 1, first at " + host + `, (3h0m0s|2h59m5\ds) behind our clock\n`},
		{"wolkvox.billing calls", " 2, first at " + host + `, (26h0m0s|25h59m5\ds) ahead of our clock\n`}, // two products
	} {
		if !regexp.MustCompile("warning " + c.scope + ": vendor_clock_skewed" + c.spread).MatchString(o.stdout) {
			t.Errorf("run says nothing of %s:\n%s", c.scope, o.stdout)
		}
	}
	if got, want := w.value(facts), right.value(facts); got != want || want == "" {
		t.Error("other facts were loaded than from vendors whose clocks are right")
	}
	if got := w.value(`select string_agg(distinct status, ' ') from ops.run`); got != "ok" {
		t.Errorf("runs ended %s, want ok", got)
	}
	status := w.must(exitDone, "status").stdout
	wantContains(t, "status", status, "2 things need you.", "- the clock of wolkvox and ours differed at the last run of wolkvox.billing calls ("+host+", 2",
		"- the clock of keystone and ours differed at the last run of keystone.current 0042117, ", " and 6 more (")

	marked := `select count(*)::text from ops.run_warning where warning = 'vendor_clock_skewed'`
	before := w.value(marked)
	w.must(exitDone, "replay", "keystone.history", "--from", "2026-05-14", "--until", "2026-05-20")
	if got := w.value(`select string_agg(distinct status, ' ') || ' ' || (count(*) > 0) from ops.run where replay_of is not null`); got != "ok true" {
		t.Errorf("replays: %s", got)
	}
	w.keystone.ClearFaults()
	w.wolkvox.ClearFaults()
	w.setNow("2026-05-21T12:05:00Z")
	w.must(exitDone, "run")
	if got := w.value(marked); got != before {
		t.Errorf("%s runs are marked, want the %s that were asked by skewed clocks", got, before)
	}
	if status := w.must(exitDone, "status").stdout; strings.Contains(status, "clock of") {
		t.Errorf("status tells what the newest runs did not meet:\n%s", status)
	}
}

func TestWarningLines(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	a := &app{stdout: &out}
	if err := a.printResults([]result{{job: etl.Job{Dataset: "d.r", Scope: "s"}, out: etl.Outcome{Absent: 2, Warnings: etl.Warnings{
		"count_mismatch": {Count: 1}, "open_ended": {Count: 4, FirstPath: "/a"}, "day_held": {Count: 2, FirstPath: "Extreme 0 2026-05-14\n"},
	}}}}, formatTable); err != nil {
		t.Fatal(err)
	}
	wantContains(t, "result", out.String(), `
warning d.r s: count_mismatch 1
warning d.r s: day_held 2, first at Extreme 0 2026-05-14·
warning d.r s: absent 2, expected and not delivered
inserted 0,`)
}

// A vendor that has nothing for anybody is not an account that works.
func TestStatusOfASilentAccount(t *testing.T) {
	t.Parallel()
	const silent = "wolkvox.billing calls: no product has ever delivered a reading: check server and token\n"
	w := newWorld(t)
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.NoData})
	w.must(exitDone, "run", "wolkvox.billing")
	wantContains(t, "status", w.must(exitDone, "status").stdout, silent)
	w.wolkvox.ClearFaults()
	w.must(exitDone, "run", "wolkvox.billing")
	if status := w.must(exitDone, "status").stdout; strings.Contains(status, silent) {
		t.Errorf("status after a reading:\n%s", status)
	}
}

// The clock of status is its own --now, not that of the last run.
func TestStatusFollowsNow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	if status := w.must(exitDone, "status").stdout; strings.Contains(status, "are due") {
		t.Errorf("right after a run:\n%s", status)
	}
	w.setNow("2026-05-22T12:00:00Z")
	wantContains(t, "two days later", w.must(exitDone, "status").stdout, "11 of 11 are due",
		"keystone.history 0042117, C-1001, C-1999 have no answer for 2 days from 2026-05-20 on")
}

// A window that failed in the middle stays in sight until the slot is done, though later windows
// went well.
func TestStatusShowsFailedWindows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text, _ := os.ReadFile(w.file)
	w.file = writeFile(t, "m.yaml", strings.Replace(string(text), "start: 2026-05-14", "start: 2026-03-01", 1))
	w.must(exitDone, "run", "keystone.customers")
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Status, Status: 403, Path: "/historical", Skip: 1, Count: 1})
	w.must(exitPartial, "--config", w.file, "run", "keystone.history")
	last := func() string {
		_, rest, _ := strings.Cut(w.must(exitDone, "status").stdout, "Last runs\n")
		runs, _, _ := strings.Cut(rest, "\n\n")
		return runs
	}
	if runs := last(); strings.Count(runs, "failed") != 1 || strings.Contains(runs, "extract") {
		t.Errorf("last runs:\n%s", runs)
	}
	w.setNow("2026-05-20T12:05:00Z")
	w.must(exitDone, "run", "keystone.history")
	if runs := last(); strings.Contains(runs, "failed") {
		t.Errorf("last runs after a success:\n%s", runs)
	}
}

func TestAdviseFailing(t *testing.T) {
	t.Parallel()
	got := adviseFailing([]map[string]string{
		{"dataset": "keystone.current", "scope": "C-1", "error": "extract: keystone acme: GET /v1: forbidden: does it see C-1?"},
		{"dataset": "keystone.history", "scope": "C-1", "error": "extract: keystone acme: GET /v2: forbidden: does it see C-1?"},
		{"dataset": "keystone.history", "scope": "C-2", "error": "extract: keystone acme: GET /v2: forbidden: does it see C-2?"},
		{"dataset": "wolkvox.billing", "scope": "calls", "error": "extract vision: timeout"},
		{"dataset": "keystone.subscriptions", "scope": "C-3", "error": "extract: keystone acme: GET /v2: http_status: status 403: credentials refused"},
		{"dataset": "wolkvox.billing", "scope": "other", "error": "extract vision: token_invalid: status 403: \"" + strings.Repeat("PLEASE ", 20) + "\": credentials refused"},
	})
	if want := []string{
		"keystone.current C-1, keystone.history C-1, C-2 failed at the last run (forbidden: does it see …?): `meterhouse run keystone.current keystone.history`",
		"wolkvox.billing calls failed at the last run (timeout): `meterhouse run wolkvox.billing`",
		"keystone.subscriptions C-3 failed at the last run (http_status: status 403: credentials refused): see `meterhouse token status`; if the token is in order, ask NetApp for the rights of the account, then `meterhouse run keystone.subscriptions`",
		"wolkvox.billing other failed at the last run (token_invalid: status 403: \"" + strings.Repeat("PLEASE ", 10) + "P…): correct the wolkvox-token in the configuration, then `meterhouse run wolkvox.billing`",
	}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCause(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "",
		`extract: keystone acme: GET /v1/keystone/customer: http_status: status 403 "Forbidden": x`:                            `http_status: status 403 "Forbidden": x`,
		"keystone.history C-1 2026-05-14..2026-05-20: run 9: extract: keystone acme: 2 attempts: GET /v1: timeout: status 504": "timeout: status 504",
		"extract ivr_minutes: token_invalid: status 403: a\nextract b: c\nextract d: e":                                        "token_invalid: status 403: a (and 2 more)",
		"load: begin: closed":                        "begin: closed",
		"its process died or lost the lease":         "its process died or lost the lease",
		"keystone: said " + strings.Repeat("é", 100): "keystone: said " + strings.Repeat("é", 84) + "…",
	} {
		if got := cause(text); got != want {
			t.Errorf("cause of %q is %q, want %q", text, got, want)
		}
	}
}

func TestBackfill(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	refused := func(want string, args ...string) {
		t.Helper()
		o := w.must(exitUsage, append([]string{"backfill"}, args...)...)
		wantContains(t, "stderr", o.stderr, want)
	}
	refused("the vendor only tells the current month", "wolkvox.billing", "--from", "2026-04-01", "--until", "2026-05-01")
	refused("days are complete up to 2026-05-19 (settle is 2h): want --until 2026-05-20 or before",
		"keystone.history", "--from", "2026-05-14", "--until", "2026-05-21")
	refused(`--customer "C-1001": want one of the customers, but none is known yet`,
		"keystone.history", "--from", "2026-05-14", "--until", "2026-05-16", "--customer", "C-1001")
	if w.calls() > 0 {
		t.Errorf("%d calls to vendors", w.calls())
	}
	o := w.must(exitDone, "backfill", "keystone.history", "--from", "2026-05-14", "--until", "2026-05-16")
	wantContains(t, "stdout", o.stdout, "keystone.customers", "keystone.history    C-1001")
	if got := w.value(`select string_agg(distinct usage_date::text, ' ') from mart.daily_consumption`); got != "2026-05-14 2026-05-15" {
		t.Errorf("days %s", got)
	}
	refused(`--customer "nobody": want one of 0042117, C-1001, C-1999`,
		"keystone.history", "--from", "2026-05-14", "--until", "2026-05-16", "--customer", "nobody")
	one := w.must(exitDone, "backfill", "keystone.history", "--from", "2026-05-16", "--until", "2026-05-20", "--customer", "C-1001")
	if strings.Contains(one.stdout, "0042117") {
		t.Errorf("other customers were loaded:\n%s", one.stdout)
	}
}

// Who has too few rights is told who gives them, and nothing that nobody could find out.
func TestTooFewRights(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	w.env["METERHOUSE_DATABASE_URL"] = warehousetest.Role(t, w.database, "grant bi_reader to ROLE")
	const grants = "this login lacks the right: an administrator grants meterhouse_loader to who loads and imports"
	if o := w.must(exitFailed, "run"); o.stdout != "" || !strings.Contains(o.stderr, grants) {
		t.Errorf("run: %s%s", o.stdout, o.stderr)
	}
	for _, args := range []string{"status", "prune", "rates rule chat_licenses last --reason r", "migrate down --yes"} {
		wantContains(t, args, w.must(exitFailed, strings.Fields(args)...).stderr, "permission denied for ", grants)
	}
	if o := w.run("close", "2026-04", "--accept-gaps", "--reason", "r"); strings.Contains(o.stderr, grants) {
		t.Errorf("close says it twice: %s", o.stderr)
	}
}

// Customers that are named in the configuration are loaded without asking for the list.
func TestRunConfiguredCustomers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text, _ := os.ReadFile(w.file)
	w.file = writeFile(t, "m.yaml", strings.Replace(string(text), "    history:", "    customers: [0042117]\n    history:", 1))
	o := w.must(exitDone, "run", "keystone.subscriptions")
	if strings.Contains(o.stdout, "keystone.customers") || strings.Contains(o.stdout, "C-1001") || !strings.Contains(o.stdout, "0042117") {
		t.Errorf("loaded:\n%s", o.stdout)
	}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	env := map[string]string{"METERHOUSE_DATABASE_URL": warehousetest.Empty(t)}
	must := func(code int, args ...string) outcome {
		t.Helper()
		o := invoke(t, env, "", append([]string{"migrate"}, args...)...)
		if o.code != code {
			t.Fatalf("migrate %v: exit code %d, want %d: %s%s", args, o.code, code, o.stdout, o.stderr)
		}
		return o
	}
	wantContains(t, "status", must(exitDone, "status").stdout, "00001_create_schemas.sql", "pending")
	wantContains(t, "down of nothing", must(exitDone, "down", "--yes").stdout, "nothing is applied")
	up := must(exitDone, "up").stdout
	if !regexp.MustCompile(`^applied 00001_create_schemas.sql in \d+`).MatchString(up) {
		t.Errorf("up: %s", up)
	}
	wantContains(t, "second up", must(exitDone, "up").stdout, fmt.Sprintf("nothing to do, the schema is at version %d", migrations.Head()))
	if status := must(exitDone, "status").stdout; strings.Contains(status, "pending") {
		t.Errorf("status: %s", status)
	}
	wantContains(t, "down without --yes", must(exitUsage, "down").stderr, "want --yes")
	wantContains(t, "down too far", must(exitUsage, "down", "--to", "99", "--yes").stderr, "--to 99: the schema is at version")
	if down := must(exitDone, "down", "--yes").stdout; strings.Count(down, "took back") != 1 {
		t.Errorf("down: %s", down)
	}
	wantContains(t, "down to 0", must(exitDone, "down", "--to", "0", "--yes").stdout, "took back 00001_create_schemas.sql")

	direct := env["METERHOUSE_DATABASE_URL"]
	env["METERHOUSE_DATABASE_URL"] = "postgres://me@127.0.0.1:1/none"
	wantContains(t, "up without a database", must(exitFailed, "up").stderr, "check database.url and that the server is up")
	env["METERHOUSE_DATABASE_URL"] = direct

	// Migrations go past a pooler.
	env["METERHOUSE_DATABASE_DIRECT_URL"], env["METERHOUSE_DATABASE_URL"] = env["METERHOUSE_DATABASE_URL"], "postgres://nobody@127.0.0.1:1/none"
	must(exitDone, "up")
}

func TestStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.must(exitDone, "status")
	wantContains(t, "status of nothing", o.stdout,
		"1 thing needs you.\n- nothing is loaded yet: `meterhouse run`\n",
		"\nGood to know\n- token of acme: the first run starts the chain with the configured refresh token\n")
	if o := w.must(exitDone, "status", "--format", "json"); strings.Contains(o.stdout, "0001-01-01") || strings.Contains(o.stdout, "none: ") {
		t.Errorf("status of nothing in JSON: %s", o.stdout)
	}

	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: "chat_licenses", Body: []byte("many")})
	w.must(exitPartial, "run")
	w.setNow("2026-05-22T12:00:00Z")
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Status, Status: 403, Path: "/subscriptions-info"})
	w.must(exitFailed, "run", "keystone.subscriptions")
	o = w.must(exitDone, "status")
	wantContains(t, "status", o.stdout,
		"keystone.subscriptions 0042117, C-1001, C-1999 failed at the last run (", "): `meterhouse run keystone.subscriptions`",
		"8 of 11 are due, the first since 2026-05-20 12:30:00+00: `meterhouse run`",
		"keystone.history 0042117, C-1001, C-1999 have no answer for 2 days from 2026-05-20 on: `meterhouse run keystone.history`",
		"wolkvox.billing calls lacks days from 2026-05-21 on (chat_licenses, ivr_minutes): lost, the vendor cannot tell them any more",
		"wolkvox.billing calls has days in part from 2026-05-20 on (chat_licenses): see `meterhouse quarantine list`",
		"wolkvox.billing has 1 record refused for number_format: `meterhouse quarantine list --reason number_format`",
		"Credentials\naccount  state", "acme     ok",
		"4 things need you.\n- ", "Failing\ndataset ", "keystone.history        acme          3        0     3        0  2026-05-20 00:00  2 d     2026-05-21 02:37")
	wantNarrow(t, o.stdout)

	var report struct {
		Verdict    string
		NeedsYou   []string `json:"needs_you"`
		GoodToKnow []string `json:"good_to_know"`
		Freshness  []struct {
			Dataset, Scope, Status string
		}
		Runs        []map[string]any
		Holes       []map[string]any
		Quarantine  []struct{ Records json.Number }
		Credentials []struct{ Account, State string }
		Todo        []string `json:"what_to_do"`
	}
	o = w.must(exitDone, "status", "--format", "json")
	if err := json.Unmarshal([]byte(o.stdout), &report); err != nil {
		t.Fatalf("%v in %s", err, o.stdout)
	}
	if len(report.Freshness) != 11 || len(report.Quarantine) != 1 || report.Quarantine[0].Records != "1" ||
		len(report.Credentials) != 1 || report.Credentials[0].State != "ok" || len(report.Todo) == 0 || len(report.Holes) == 0 ||
		report.Verdict != "4 things need you." || len(report.NeedsYou) != 4 || !slices.Equal(report.Todo, append(report.NeedsYou, report.GoodToKnow...)) {
		t.Errorf("report %+v", report)
	}

	// The database is all that status needs.
	o = invoke(t, map[string]string{"METERHOUSE_DATABASE_URL": w.database}, "", "status")
	if o.code != exitDone {
		t.Errorf("without a configuration: exit code %d: %s", o.code, o.stderr)
	}
}

// wantNarrow finds table rows that a terminal of 120 columns would break. Sentences may break.
func wantNarrow(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 120 && !strings.HasPrefix(line, "- ") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// Who looks in a good hour is told so in the first line, and a slot that came a moment ago is no alarm.
func TestStatusWhenAllIsWell(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	well := func(at, first string) {
		t.Helper()
		w.setNow(at)
		text := w.must(exitDone, "status").stdout
		if line, _, _ := strings.Cut(text, "\n"); line != first {
			t.Errorf("at %s: %s\nwant %s", at, line, first)
		}
		for _, title := range []string{"Failing", "Coverage holes", "Open quarantine", "Good to know"} {
			if strings.Contains(text, title) {
				t.Errorf("at %s: %s is shown", at, title)
			}
		}
		wantContains(t, "status", text, "Freshness, in UTC\n", "Credentials\n", "Last runs\n", "30 new")
		wantNarrow(t, text)
	}
	well("2026-05-20T12:00:00Z", "All well: 11 scopes on time, the newest loaded just now.")
	well("2026-05-20T12:20:00Z", "All well: 11 scopes on time, the newest loaded 20 min ago.")
	well("2026-05-20T12:45:00Z", "All well: 11 scopes on time, the newest loaded 45 min ago.") // due for 15 minutes
	w.setNow("2026-05-20T12:46:00Z")
	wantContains(t, "later", w.must(exitDone, "status").stdout, "1 thing needs you.\n- 1 of 11 are due, the first since 2026-05-20 12:30:00+00: `meterhouse run`\n")
	// A customer that the vendor lists no longer is not asked for, and not late.
	w.setNow("2026-05-20T20:00:00Z")
	wantContains(t, "in the evening", w.must(exitDone, "status").stdout, "7 of 11 are due")
	w.value(`with gone as (update dw.dim_customer set absent_since = now() where customer_id = 'C-1999' returning 1) select count(*)::text from gone`)
	wantContains(t, "after one left", w.must(exitDone, "status").stdout, "5 of 11 are due")
}

func TestStatusShortens(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 200)
	r := &statusReport{now: time.Date(2026, 5, 20, 12, 0, 0, 0, time.UTC)}
	got := fitted(warehouse.Table{Columns: []string{"a", "why"}, Rows: [][]string{{"1", long}, {"22", "short"}}}, 120)
	if n := utf8.RuneCountInString(got.Rows[0][1]); n != 116 || got.Rows[1][1] != "short" || !strings.HasSuffix(got.Rows[0][1], "…") {
		t.Errorf("%d letters: %v", n, got.Rows)
	}
	if got := fitted(warehouse.Table{Columns: []string{"a", "why"}, Rows: [][]string{{"1", ""}}}, 120); len(got.Columns) != 1 || len(got.Rows[0]) != 1 {
		t.Errorf("a column that says nothing is kept: %v", got)
	}
	for text, want := range map[string]string{
		"": "", "2026-05-20 12:00:00+00": "0 min", "2026-05-20 10:01:00+00": "119 min", "2026-05-20 09:00:00+00": "3 h", "2026-05-10 12:00:00+00": "10 d", "2026-05-21 12:00:00+00": "0 min",
	} {
		if got := r.since(text); got != want {
			t.Errorf("since %q: %q, want %q", text, got, want)
		}
	}
	for after, want := range map[time.Duration]string{-time.Hour: "2026-05-20 (past)", 3 * time.Hour: "2026-05-20 (3 h)", 80 * time.Hour: "2026-05-23 (3 d)"} {
		if got := deadline(r.now.Add(after), r.now); got != want {
			t.Errorf("deadline in %s: %q, want %q", after, got, want)
		}
	}
	var out strings.Builder
	r.list(&out, formatTable, slices.Repeat([]string{"do it"}, shown+2))
	if got := out.String(); strings.Count(got, "- do it\n") != shown || !strings.HasSuffix(got, "- and 2 more: `meterhouse status --format json`\n") {
		t.Errorf("list:\n%s", got)
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env["KEYSTONE_TOKEN"] = ""
	o := w.must(exitDone, "token", "status")
	wantContains(t, "status", o.stdout, "acme     none", "meterhouse token set acme")
	w.env["KEYSTONE_TOKEN"] = w.keystone.RefreshToken()
	if o := w.must(exitDone, "token", "status"); !strings.Contains(o.stdout, " the first run starts the chain") || strings.Contains(o.stdout, "none:") {
		t.Errorf("status with a configured token:\n%s", o.stdout)
	}
	w.env["KEYSTONE_TOKEN"] = ""
	wantContains(t, "unknown account", w.must(exitUsage, "token", "set", "other").stderr, `no keystone account "other" is configured: want acme`)
	wantContains(t, "no token", w.must(exitUsage, "token", "set", "acme").stderr, "stdin: token of 0 characters")

	fresh := w.keystone.Login()
	o = w.runWith("  "+fresh+"\n", "token", "set", "acme")
	if o.code != exitDone {
		t.Fatalf("set: exit code %d: %s", o.code, o.stderr)
	}
	wantContains(t, "set", o.stdout, "acme     ok              2")
	if strings.Contains(o.stdout+o.stderr, fresh) {
		t.Error("the token is shown")
	}
	again := w.runWith(fresh, "token", "set", "acme")
	if again.code != exitFailed {
		t.Errorf("the same token again: exit code %d", again.code)
	}
	wantContains(t, "the same token again", again.stderr, "works only once")
	w.must(exitDone, "run", "keystone.customers")
}

// O10: both keys, then token rekey, then the new key alone.
func TestTokenRekey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	newKey := strings.Replace(testKey, "A", "B", 1)
	w.configure("state_dir: " + t.TempDir() + "\n")
	w.must(exitDone, "run", "keystone.customers")
	if o := w.must(exitDone, "token", "rekey"); o.stdout != "acme: nothing to do\n" {
		t.Errorf("with one key: %s", o.stdout)
	}
	w.replaceConfig("secrets_key: "+testKey, "secrets_key: "+newKey+"\nformer_secrets_key: "+testKey)
	wantContains(t, "both keys", w.must(exitDone, "token", "status").stdout, "warn     former_key  meterhouse token rekey")
	wantContains(t, "both keys", w.must(exitDone, "check").stdout, "warn  keystone acme: something is still sealed with former_secrets_key\n      do: meterhouse token rekey\n")
	want := "acme: tokens sealed anew as generation 3; 1 former login noted; 1 file of the spool sealed anew\n" +
		"former_secrets_key is not needed any more: take it out of the configuration\n"
	if o := w.must(exitDone, "token", "rekey"); o.stdout != want {
		t.Errorf("got %s, want %s", o.stdout, want)
	}
	wantContains(t, "rekeyed", w.must(exitDone, "check").stdout, "warn  keystone acme: former_secrets_key is not needed any more\n")
	w.replaceConfig("\nformer_secrets_key: "+testKey, "")
	w.must(exitDone, "run", "keystone.subscriptions")
	w.must(exitDone, "check")
	if n := w.exchanges(); n != 1 {
		t.Errorf("%d exchanges, want the first one", n)
	}

	// While an exchange is unclear, the former key stays.
	w.replaceConfig("secrets_key: "+newKey, "secrets_key: "+testKey+"\nformer_secrets_key: "+newKey)
	w.exec(`update ops.credential_attempt set state = 'ambiguous', from_generation = 3 where attempt_id = 1`)
	o := w.must(exitBusy, "token", "rekey")
	wantContains(t, "unclear", o.stdout+o.stderr, "repeat this when the chain is ok or dead", "former_secrets_key is still needed by acme")
}

// O12: a state_dir that cannot be relied on ends everything that could send a token with 2, before that.
func TestStateDirIsChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	w.configure("state_dir: " + dir + "\n")
	tokens := filepath.Join(dir, "tokens")
	refused := func(what, want string) {
		t.Helper()
		for _, args := range [][]string{{"check"}, {"run", "keystone.customers"}, {"backfill", "keystone.history", "--from", "2026-05-15", "--until", "2026-05-16"}, {"token", "rekey"}} {
			wantContains(t, what+": "+args[0], w.must(exitUsage, args...).stderr, "state_dir: ", want)
		}
		if n := w.exchanges(); n != 0 {
			t.Errorf("%s: %d exchanges", what, n)
		}
	}
	w.must(exitDone, "check")
	w.must(exitDone, "run", "keystone.customers", "--plan")
	if _, err := os.Stat(tokens); err == nil {
		t.Error("check or a plan made the folder")
	}
	if err := os.Mkdir(tokens, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tokens, 0o755); err != nil {
		t.Fatal(err)
	}
	refused("mode", "has mode 0755, want 0700: chmod 700 "+tokens)
	if err := os.Chmod(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	other := newWorld(t)
	other.configure("state_dir: " + dir + "\n")
	other.exec(`update ops.installation set installation_id = gen_random_uuid()`) // all tests' are copies of one
	other.must(exitDone, "run", "keystone.customers")
	refused("another installation", "belongs to the installation ")
	w.replaceConfig(dir, dir+"/nowhere")
	refused("no volume", "there is no folder "+dir+"/nowhere: is its volume mounted?")
	w.must(exitDone, "status") // whoever sends no token does not need it
	w.must(exitDone, "run", "wolkvox.billing")

	// A service reads what cannot be fetched later all the same.
	clock := w.clock("2027-05-14T12:05:00Z")
	w.replaceConfig("secrets_key:", "console: {listen: \"\"}\nsecrets_key:")
	before := w.value(`select count(*)::text from ops.run where dataset = 'wolkvox.billing'`)
	p := w.start(clock, "serve")
	w.eventually("another reading of wolkvox", "true", func() string {
		return w.value(`select (count(*) > ` + before + `)::text from ops.run where dataset = 'wolkvox.billing' and status = 'ok'`)
	})
	wantContains(t, "serve", p.log(), "keystone cannot be asked until this is mended", "there is no folder "+dir+"/nowhere")
	if code, n := p.stop(), w.exchanges(); code != exitDone || n != 0 {
		t.Errorf("serve: exit code %d, %d exchanges", code, n)
	}
}

func TestQuarantine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wantContains(t, "empty list", w.must(exitDone, "quarantine", "list").stdout, "nothing is in quarantine")
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: "chat_licenses", Body: []byte("=12+x"), Count: 1})
	w.must(exitPartial, "run", "wolkvox.billing")
	list := w.must(exitDone, "quarantine", "list").stdout
	wantContains(t, "list", list, "=12+x", "wolkvox.billing", "open")
	id := w.value("select quarantine_id::text from mart.quarantine")
	show := w.must(exitDone, "quarantine", "show", id).stdout
	wantContains(t, "show", show, "chat_licenses", "=12+x", "reason", "payload_id ", "day ", "description ")
	wantContains(t, "show of nothing", w.must(exitFailed, "quarantine", "show", "99").stderr, "quarantine 99: there is no such record")
	reason := w.value("select reason from mart.quarantine")
	wantContains(t, "list by reason", w.must(exitDone, "quarantine", "list", "--reason", reason).stdout, "=12+x")
	wantContains(t, "list by another reason", w.must(exitDone, "quarantine", "list", "--reason", "other").stdout,
		`none for reason "other"; open: `+reason+" (1)\n")

	rows, err := csv.NewReader(strings.NewReader(w.must(exitDone, "quarantine", "list", "--format", "csv").stdout)).ReadAll()
	if err != nil || len(rows) != 2 {
		t.Fatalf("csv: %v, %v", rows, err)
	}
	excerpt := rows[1][slices.Index(rows[0], "excerpt")]
	if !strings.Contains(excerpt, "=12+x") || strings.HasPrefix(excerpt, "=") {
		t.Errorf("csv excerpt %q", excerpt)
	}
	var records []map[string]any
	if err := json.Unmarshal([]byte(w.must(exitDone, "quarantine", "list", "--format", "json").stdout), &records); err != nil || len(records) != 1 {
		t.Errorf("json: %v, %v", records, err)
	}
}

func TestSimulate(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &signalled{ready: make(chan string, 1)}
	done := make(chan int)
	go func() {
		var logs strings.Builder
		done <- run(ctx, []string{"--now", testNow, "simulate", "--days", "4", "--fault", "wolkvox:items_dash api=vision"},
			nil, strings.NewReader(""), out, &logs)
	}()
	var text string
	select {
	case text = <-out.ready:
	case <-time.After(20 * time.Second):
		t.Fatal("simulate prints nothing")
	}
	env := map[string]string{"METERHOUSE_DATABASE_URL": warehousetest.New(t)}
	file := writeFile(t, "sim.yaml", text)
	o := invoke(t, env, "", "--config", file, "--now", testNow, "run")
	if o.code != exitPartial || !strings.Contains(o.lastLine(), "quarantined 1") {
		t.Errorf("run: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	cancel()
	if code := <-done; code != exitDone {
		t.Errorf("simulate: exit code %d", code)
	}
}

// signalled hands over the first text written.
type signalled struct{ ready chan string }

func (s *signalled) Write(b []byte) (int, error) {
	select {
	case s.ready <- string(b):
	default:
	}
	return len(b), nil
}

func TestDemo(t *testing.T) {
	t.Parallel()
	dir := demoDir(t)
	demo := func(args ...string) outcome {
		t.Helper()
		return invoke(t, nil, "", append([]string{"--now", testNow, "demo", "--dir", dir}, args...)...)
	}
	o := demo("--days", "3", "--seed", "5")
	if o.code != exitDone {
		t.Fatalf("exit code %d:\n%s%s", o.code, o.stdout, o.stderr)
	}
	wantContains(t, "demo", o.stdout, "PostgreSQL ", "checked against the simulator's oracle: 39 level-days equal", "dw.fact_consumption_sample",
		"Consumption of 2026-05", "Statement of 2026-05 at the made-up prices", "wolkvox licences", "psql 'postgres://meterhouse:", "\n  meterhouse statement 2026-05 ")
	if !regexp.MustCompile(`(?m)^keystone  Halden Ferry Lines, Inc\. .* \d+\.\d\d  USD$`).MatchString(o.stdout) {
		t.Errorf("no amount of a customer in\n%s", o.stdout)
	}
	if !regexp.MustCompile(`^inserted [1-9]\d*, restated 0, unchanged 0, quarantined 0$`).MatchString(o.lastLine()) {
		t.Errorf("last line %q", o.lastLine())
	}
	if o.stderr != "" {
		t.Errorf("stderr %q", o.stderr)
	}
	if strings.Contains(o.stdout, "kept from before") {
		t.Errorf("a new folder is called an old one:\n%s", o.stdout)
	}
	again := demo()
	wantContains(t, "second demo", again.stdout, "\nkept from before: 3 days until ")
	if again.code != exitDone || !regexp.MustCompile(`^inserted 0, restated 0, unchanged [1-9]\d*, quarantined 0$`).MatchString(again.lastLine()) {
		t.Errorf("second demo: exit code %d, %s%s", again.code, again.lastLine(), again.stderr)
	}
	for _, c := range [][]string{{"--days", "4"}, {"--seed", "6"}} {
		o := demo(c...)
		if o.code != exitUsage || !strings.Contains(o.stderr, c[0]+" differs") || !strings.Contains(o.stderr, "want --reset") {
			t.Errorf("%v: exit code %d, %s", c, o.code, o.stderr)
		}
	}
	o = demo("--days", "2", "--reset")
	if o.code != exitDone || strings.HasPrefix(o.lastLine(), "inserted 0,") {
		t.Errorf("--reset: exit code %d, %s%s", o.code, o.lastLine(), o.stderr)
	}
	other := demoDir(t)
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"demo", "--dir", other}, {"demo", "--reset", "--dir", other}} {
		if o := invoke(t, nil, "", args...); o.code != exitUsage {
			t.Errorf("%v in a folder of somebody else: exit code %d", args, o.code)
		}
	}
	if _, err := os.Stat(filepath.Join(other, "precious")); err != nil {
		t.Error(err)
	}
}

// The demo's own check notices one digit.
func TestDemoCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	var out strings.Builder
	a := &app{
		env: w.env, stdout: &out, stderr: &out, progress: newProgress(&out),
		configFile: w.file, logFormat: "text", nowText: testNow,
	}
	if err := a.start(); err != nil {
		t.Fatal(err)
	}
	s, err := a.openSession(t.Context(), need{database: true, vendors: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	d := &demo{app: a}
	d.clock.set(a.now())
	start, err := etl.ParseDay("2026-05-14")
	if err != nil {
		t.Fatal(err)
	}
	fakes := &sims{keystone: w.keystone, start: start}
	if err := d.check(t.Context(), s, fakes); err != nil {
		t.Fatal(err)
	}
	wantContains(t, "check", out.String(), "checked against the simulator's oracle: 66 level-days equal")
	w.value(`with touched as (
			update dw.fact_daily_consumption set consumed_avg_tib = consumed_avg_tib + 0.000000000001
			where (customer_key, service_level_key, usage_date) in (
				select customer_key, service_level_key, usage_date from dw.fact_daily_consumption limit 1)
			returning 1)
		select count(*)::text from touched`)
	err = d.check(t.Context(), s, fakes)
	if a.exitCode(err) != exitDifference {
		t.Errorf("exit code %d, want %d", a.exitCode(err), exitDifference)
	}
	wantContains(t, "difference", message(err), "the warehouse differs from the simulator's oracle: ", " consumed_avg_tib", "want ")
	w.value(`with gone as (delete from dw.fact_daily_consumption returning 1) select count(*)::text from gone`)
	wantContains(t, "missing rows", message(d.check(t.Context(), s, fakes)), " is missing")
}

// A demo keeps its clock, so one that is begun while a month ends takes the end of the time in which wolkvox is not asked.
func TestDemoWhileAMonthEnds(t *testing.T) {
	t.Parallel()
	for at, want := range map[string]string{
		"2026-12-01T04:49:59.9Z": "2026-12-01T04:49:59Z", "2026-12-01T04:50:00Z": "2026-12-01T05:10:00Z", // 23:50 in Bogota
		"2026-12-01T05:09:59Z": "2026-12-01T05:10:00Z", "2026-12-01T05:10:00Z": "2026-12-01T05:10:00Z",
	} {
		now, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		if got := demoClock(now).Format(time.RFC3339Nano); got != want {
			t.Errorf("begun at %s: its clock is %s, want %s", at, got, want)
		}
	}
	d := newDemo(t, warehousetest.New(t), demoClock(time.Date(2026, 12, 1, 4, 55, 0, 0, time.UTC)), 2)
	results, err := d.load(t.Context(), d.session, d.sims)
	if err == nil {
		err = verdict(results, nil, d.app.told)
	}
	if err != nil || len(results) == 0 {
		t.Errorf("%d results, %v", len(results), err)
	}
}

// demoDir is a folder that the user Postgres runs as can reach, which t.TempDir is not under root.
func demoDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "meterhouse-demo-test-*")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "demo")
}

// database.url local: a private Postgres, kept between commands, for one process at a time.
func TestLocalDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text, _ := os.ReadFile(w.file)
	w.file = writeFile(t, "m.yaml", strings.Replace(string(text), `{url: "`+w.database+`"}`, "{url: local}", 1))
	w.env["XDG_STATE_HOME"] = demoDir(t)
	wantContains(t, "run before migrate", w.must(exitFailed, "run").stderr, "run `meterhouse migrate up`")
	w.must(exitDone, "migrate", "up")
	w.must(exitDone, "run", "wolkvox.billing")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Slow, Delay: time.Minute})
	asked := len(w.wolkvox.Requests())
	done := make(chan outcome)
	go func() {
		done <- invokeUntil(t, ctx, w.env, "", "--config", w.file, "--now", testNow, "run", "wolkvox.billing")
	}()
	for deadline := time.Now().Add(20 * time.Second); len(w.wolkvox.Requests()) == asked && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	wantContains(t, "second process", w.must(exitBusy, "status").stderr, "folder is in use by meterhouse process")
	cancel()
	<-done
	w.must(exitDone, "status")
}

// What check would refuse afterwards is not begun.
func TestMigrateUpRefusesWhatCannotBeUsed(t *testing.T) {
	t.Parallel()
	admin := warehousetest.Empty(t)
	u, err := url.Parse(admin)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(u.Path, "/") + "_ascii"
	conn, err := pgx.Connect(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := conn.Exec(context.Background(), "drop database "+name)
		if err = errors.Join(err, conn.Close(context.Background())); err != nil {
			t.Error(err)
		}
	})
	if _, err := conn.Exec(t.Context(), "create database "+name+" encoding 'SQL_ASCII' template template0 lc_collate 'C' lc_ctype 'C'"); err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	o := invoke(t, map[string]string{"METERHOUSE_DATABASE_URL": u.String()}, "", "migrate", "up")
	if o.code != exitFailed || o.stdout != "" {
		t.Errorf("exit code %d, %s", o.code, o.stdout)
	}
	wantContains(t, "stderr", o.stderr, "migrate up: database encoding is SQL_ASCII, want UTF8: create it with")
}
