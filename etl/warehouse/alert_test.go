package warehouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
	"meterhouse/etl/warehouse/warehousetest"
)

// watch is a house whose clock moves, with alerts.
type watch struct {
	*house
	conn  *pgx.Conn
	check AlertCheck
}

func newWatch(t testing.TB) *watch {
	t.Helper()
	w := &watch{house: newHouse(t)}
	w.conn = warehousetest.Connect(t, w.url)
	// Thousands of looks at next to nothing: planning each would be most of the time.
	w.exec(`do $$ begin execute format('alter database %I set plan_cache_mode = force_generic_plan', current_database()); end $$`)
	open, err := Open(context.Background(), Config{URL: w.url, Owner: "here/1/start", Now: func() time.Time { return w.now }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(open.Close)
	w.Warehouse = open
	return w
}

// exec is house.exec on one connection.
func (w *watch) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.conn.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

// look judges once and returns the changes, as "change severity kind key".
func (w *watch) look() []string {
	w.t.Helper()
	changes, err := w.CheckAlerts(context.Background(), w.check)
	if err != nil {
		w.t.Fatal(err)
	}
	return spelled(changes)
}

func spelled(changes []etl.AlertChange) (lines []string) {
	for _, c := range changes {
		lines = append(lines, fmt.Sprintf("%s %s %s %s", c.Change, c.Severity, c.Kind, c.Key))
	}
	return lines
}

// pass lets time go by, in steps of a minute as serve does or in longer ones for long times, and
// returns all changes with the time since the start.
func (w *watch) pass(d time.Duration, each func()) (all []string) {
	w.t.Helper()
	step := time.Minute
	if d > 6*time.Hour {
		step = 10 * time.Minute
	}
	from := w.now
	for w.now.Sub(from) < d {
		w.now = w.now.Add(step)
		if each != nil {
			each()
		}
		for _, line := range w.look() {
			all = append(all, fmt.Sprintf("%s %s", w.now.Sub(from), line))
		}
	}
	return all
}

func (w *watch) wantLook(want ...string) {
	w.t.Helper()
	wantLines(w.t, w.look(), want...)
}

func wantLines(t testing.TB, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
}

// mark says how a scope stands: its last run ended at the business clock with error ("" for none).
func (w *watch) ran(dataset, scope, failure string, nextDue time.Duration) {
	w.t.Helper()
	source, _, _ := strings.Cut(dataset, ".")
	w.exec(`
		with r as (
			insert into ops.run (source, dataset, scope, account, owner, fence, business_at, fetched_at, finished_at, status, error, error_class)
			values ($1, $2, $3, 'acme', 'o', 1, $4::timestamptz, $4, clock_timestamp(), case when $5 = '' then 'ok' else 'failed' end, nullif($5, ''),
				case when $5 like '%credentials refused' then 'unauthorized' end)
			returning run_id
		)
		insert into ops.watermark as m (source, dataset, scope, account, last_success_at, last_run_id, next_due_at, watermark)
		select $1, $2, $3, 'acme', case when $5 = '' then $4::timestamptz end, run_id, case when $5 = '' then $6::timestamptz end, $4
		from r
		on conflict (dataset, scope) do update
		set last_run_id = excluded.last_run_id,
			last_success_at = coalesce(excluded.last_success_at, m.last_success_at),
			next_due_at = coalesce(excluded.next_due_at, m.next_due_at)`,
		source, dataset, scope, w.now, failure, w.now.Add(nextDue))
}

// token stores a chain whose newest pair is idle old and whose login is login old, by the wall clock.
func (w *watch) token(generation int, idle, login time.Duration) {
	w.t.Helper()
	w.exec(`insert into ops.credential (account, generation, refresh_sealed, obtained_at, source, seeded_at, fingerprint, key_id)
		values ('acme', $1, 'x', now() - $2::interval, 'refresh', now() - $3::interval, 'f', 'k')
		on conflict (account, generation) do update set obtained_at = excluded.obtained_at, seeded_at = excluded.seeded_at`, generation, idle, login)
}

func (w *watch) attempt(from int, state, detail string) {
	w.t.Helper()
	w.exec(`update ops.credential_attempt set state = 'superseded' where state in ('open', 'ambiguous')`)
	w.exec(`insert into ops.credential_attempt (account, from_generation, owner, deadline_at, state, detail, ended_at)
		values ('acme', $1, 'o', now() - interval '1 hour', $2, $3, now())`, from, state, detail)
}

// TestTokenAlerts is V24 and failure-model 4.6: people are told days before a token dies, and at once
// when a chain is in doubt or dead; the worst cause speaks for the account.
func TestTokenAlerts(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.ran("keystone.customers", "acme", "", 365*days)
	const key = "credential:keystone:acme"
	for _, step := range []struct {
		name string
		do   func()
		want []string
	}{
		{"fresh", func() { w.token(1, 0, 0) }, nil},
		{"idle, not yet", func() { w.token(1, 3*days-time.Minute, 0) }, nil},
		{"idle 3 days", func() { w.token(1, 3*days, 0) }, []string{"opened warn token_idle " + key}},
		{"idle 4 days", func() { w.token(1, 4*days, 0) }, nil},
		{"idle, not yet a page", func() { w.token(1, 5*days-time.Minute, 0) }, nil},
		{"idle 5 days", func() { w.token(1, 5*days, 0) }, []string{"worsened page token_idle " + key}},
		{"idle 7 days", func() { w.token(1, 7*days, 0) }, []string{"worsened page token_dead " + key}},
		{"set anew", func() { w.token(2, 0, 0) }, nil},
		{"a while later", func() { w.now = w.now.Add(20 * time.Minute) }, []string{"resolved page token_dead " + key}},
		{"login, not yet", func() { w.token(2, 0, 75*days-time.Minute) }, nil},
		{"login 75 days", func() { w.token(2, 0, 75*days) }, []string{"opened warn token_login login:keystone:acme"}},
		{"login 85 days", func() { w.token(2, 0, 85*days) }, []string{"worsened page token_login login:keystone:acme"}},
		{"logged in", func() { w.token(3, 0, 0); w.look(); w.now = w.now.Add(20 * time.Minute) }, []string{"resolved page token_login login:keystone:acme"}},
		{"answer lost", func() { w.attempt(3, "ambiguous", "reply cut") }, []string{"opened warn token_ambiguous " + key}},
		{"probes used up", func() {
			for range 3 {
				w.attempt(3, "ambiguous", "reply cut")
			}
		}, []string{"worsened page token_ambiguous " + key}},
		{"probe refused", func() { w.attempt(3, "rejected", "status 401") }, []string{"worsened page token_dead " + key}},
		{"its scopes fail, too", func() {
			w.ran("keystone.customers", "acme", "the chain is dead: "+etl.ErrUnauthorized.Error(), 0)
			w.now = w.now.Add(3 * time.Hour)
		}, nil},
		{"right again", func() {
			w.token(4, 0, 0)
			w.ran("keystone.customers", "acme", "", 365*days)
			w.look()
			w.now = w.now.Add(20 * time.Minute)
		}, []string{"resolved page token_dead " + key}},
		{"rights withdrawn", func() {
			w.ran("keystone.subscriptions", "C-1", "extract: status 403: "+etl.ErrUnauthorized.Error(), 0)
		}, []string{"opened page access_refused access:keystone:acme"}},
		{"of another machine", func() {
			w.ran("keystone.subscriptions", "C-1", "token_attempt_foreign: exchange 5 may have left its answer in the spool", 0)
		}, []string{"opened page token_foreign " + key}},
	} {
		w.now = w.now.Add(2 * time.Hour)
		step.do()
		got := w.look()
		if strings.Join(got, "\n") != strings.Join(step.want, "\n") {
			t.Errorf("%s:\n got %q\nwant %q", step.name, got, step.want)
		}
	}
	detail := w.rows(`select detail from mart.alert where kind = 'token_foreign'`)
	if len(detail) != 1 || !strings.Contains(detail[0], "state_dir") || !strings.Contains(detail[0], "`meterhouse token set acme`") {
		t.Errorf("the alert does not say what to do: %q", detail)
	}
	w.exec(`update ops.credential_attempt set state = 'open', deadline_at = now() + interval '1 minute', from_generation = 4 where attempt_id = (select max(attempt_id) from ops.credential_attempt)`)
	w.ran("keystone.subscriptions", "C-1", "", 365*days)
	w.wantLook() // an exchange under way is no trouble
}

// TestLateAndFailing: a scope that nobody loads, one whose runs fail, and one of which a window fails
// while the newest run is well; each is told once, and its end once.
func TestLateAndFailing(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.wantLook()
	w.ran("wolkvox.billing", "acme", "", 30*time.Minute)
	wantLines(t, w.pass(3*time.Hour, nil), "1h31m0s opened warn late late:wolkvox.billing:acme")
	wantLines(t, w.pass(24*time.Hour, nil), "21h40m0s worsened page late late:wolkvox.billing:acme")
	w.ran("wolkvox.billing", "acme", "", 30*days)
	wantLines(t, w.pass(time.Hour, nil), "16m0s resolved page late late:wolkvox.billing:acme")

	// One failed run, and a vendor that is down for an hour, are nobody's business.
	w.ran("keystone.current", "C-1", "", 90*days)
	w.ran("keystone.current", "C-1", "status 503: vendor unavailable", 0)
	wantLines(t, w.pass(time.Hour, nil))
	w.ran("keystone.current", "C-1", "", 90*days)
	wantLines(t, w.pass(3*time.Hour, nil))
	// Three in a row are somebody's, once they have gone on for a while, and so is one that nobody repeats.
	n := 0
	wantLines(t, w.pass(2*time.Hour, func() {
		if n++; n%15 == 1 {
			w.ran("keystone.current", "C-1", "status 503: vendor unavailable", 0)
		}
	}), "31m0s opened warn failing failing:keystone.current:acme")
	w.ran("keystone.subscriptions", "C-1", "envelope_unknown: vendor broke its contract", 0)
	wantLines(t, w.pass(3*time.Hour, nil), "2h0m0s opened warn failing failing:keystone.subscriptions:acme")
	// What fails is not told as late, too.
	w.exec(`update ops.watermark set next_due_at = $1 where source = 'keystone'`, w.now.Add(-10*time.Hour))
	wantLines(t, w.pass(18*time.Hour, nil))
	wantLines(t, w.pass(9*time.Hour, nil), "1h10m0s worsened page failing failing:keystone.current:acme", "3h0m0s worsened page failing failing:keystone.subscriptions:acme")

	// A window fails again and again, the run after it does not: the slot stays due.
	w.ran("keystone.subscriptions", "C-1", "", 90*days)
	w.ran("keystone.current", "C-1", "", 90*days)
	w.pass(time.Hour, nil)
	w.ran("keystone.history", "C-1", "", time.Minute)
	n = 0
	wantLines(t, w.pass(4*time.Hour, func() {
		if n++; n%10 == 1 {
			w.ran("keystone.history", "C-1", "window 1: timeout", 0)
			w.ran("keystone.history", "C-1", "", 0)
			w.exec(`update ops.watermark set next_due_at = $1 where dataset = 'keystone.history'`, at("2026-05-01T00:00:00Z"))
		}
	}), "1m0s opened page late late:keystone.history:acme")
}

// TestLateAfterPause: what fell due while nothing was up has an hour to be caught up.
func TestLateAfterPause(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.ran("keystone.history", "C-1", "", time.Hour)
	w.wantLook()
	w.now = w.now.Add(3 * days)
	wantLines(t, w.pass(50*time.Minute, nil))
	wantLines(t, w.pass(30*time.Minute, nil), "12m0s opened warn late late:keystone.history:acme")
	wantLines(t, w.pass(23*time.Hour, nil), "22h50m0s worsened page late late:keystone.history:acme")
}

// TestWatched: what is no longer configured, or no longer the vendor's customer, is nobody's concern.
func TestWatched(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.wantLook()
	for _, scope := range []string{"C-1", "C-2", "C-3"} {
		w.ran("keystone.history", scope, "", time.Hour)
	}
	w.exec(`insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at, absent_since) values ('C-3', 'acme', now(), now(), now())`)
	for _, c := range []struct {
		name    string
		watched []Watched
		want    string
	}{
		{"all", nil, "2 of its scopes, such as C-1"},
		{"the account", []Watched{{Source: "keystone", Account: "acme"}}, "2 of its scopes, such as C-1"},
		{"a customer", []Watched{{Source: "keystone", Account: "acme", Customers: []string{"C-2"}}}, "1 of its scopes, such as C-2"},
		{"another vendor's", []Watched{{Source: "wolkvox", Account: "acme"}}, ""},
		{"nothing", []Watched{}, ""},
	} {
		w.check.Watched = c.watched
		w.exec(`delete from ops.alert`)
		w.exec(`update ops.alert_check set watching_since = $1, checked_at = $2`, w.now, w.now.Add(4*time.Hour))
		w.now = w.now.Add(4 * time.Hour)
		w.look()
		w.now = w.now.Add(-4 * time.Hour)
		got := strings.Join(w.rows(`select detail from mart.alert where kind = 'late'`), "\n")
		if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// TestFlapping: what comes and goes every few minutes is told once, and its end once it has lasted.
func TestFlapping(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.ran("keystone.customers", "acme", "", 90*days)
	bad := "status 403: " + etl.ErrUnauthorized.Error()
	n := 0
	wantLines(t, w.pass(5*time.Hour, func() {
		failure := bad
		if n++; n%10 < 5 {
			failure = ""
		}
		w.ran("keystone.customers", "acme", failure, 90*days)
	}), "5m0s opened page access_refused access:keystone:acme")
	w.ran("keystone.customers", "acme", "", 90*days)
	wantLines(t, w.pass(time.Hour, nil), "15m0s resolved page access_refused access:keystone:acme")
}

// TestEased: a page that became a warning is told when it has lasted.
func TestEased(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.ran("keystone.customers", "acme", "", 90*days)
	w.token(1, 5*days, 0)
	w.wantLook("opened page token_idle credential:keystone:acme")
	w.token(1, 4*days, 0)
	wantLines(t, w.pass(30*time.Minute, nil), "16m0s eased warn token_idle credential:keystone:acme")
}

// TestFlood is C18: ten thousand errors are no more than three messages, and nothing of them is lost.
func TestFlood(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.wantLook()
	for _, scope := range []string{"C-1", "C-2"} {
		for _, dataset := range []string{"keystone.history", "keystone.current", "keystone.subscriptions"} {
			w.ran(dataset, scope, "", 90*days)
		}
	}
	w.exec(`
		insert into ops.quarantine (run_id, source, dataset, scope, path, reason, excerpt, fingerprint, quarantined_at)
		select r.run_id, 'keystone', r.dataset, r.scope, '/' || i, 'rule_' || (i % 7), 'x', decode(md5(i::text), 'hex'), r.business_at
		from generate_series(1, 10000) as i
		join (select *, row_number() over (order by run_id) as n from ops.run) as r on r.n = i % 6 + 1`)
	w.exec(`
		insert into ops.run (source, dataset, scope, account, owner, fence, business_at, fetched_at, finished_at, status, error)
		select 'keystone', dataset, scope, 'acme', 'o', 1, $1::timestamptz + i * interval '1 second', $1, clock_timestamp(), 'failed', 'load: error ' || i
		from generate_series(1, 10000) as i
		join (select dataset, scope, row_number() over (order by dataset, scope) as n from ops.watermark) as m on m.n = i % 6 + 1
		order by i`, w.now)
	w.exec(`update ops.watermark as m set last_run_id = (select max(run_id) from ops.run as r where r.dataset = m.dataset and r.scope = m.scope)`)
	w.pass(2*time.Hour, nil)
	w.want(`select count(*) <= 3, sum(jsonb_array_length(changes)) from ops.alert_notice`, "true|24") // 21 of quarantine, 3 of failing datasets
	w.want(`select kind, count(*), count(told_at) from ops.alert group by kind order by kind`, "failing|3|3", "quarantine|21|21")
}

// TestNoticesAreSpaced: after three notices in an hour the next waits and then tells all.
func TestNoticesAreSpaced(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.look()
	n := 0
	trouble := func() { // every two minutes another account is late
		if n++; n%2 == 1 {
			w.exec(`insert into ops.watermark (source, dataset, scope, account, last_success_at, next_due_at) values ('keystone', 'keystone.customers', $1, $1, $2, $3)`,
				fmt.Sprintf("a%d", n), w.now, w.now.Add(-2*time.Hour))
			w.exec(`update ops.alert_check set watching_since = $1`, w.now.Add(-90*time.Minute))
		}
	}
	told := len(w.pass(2*time.Hour, trouble)) + len(w.pass(30*time.Minute, nil))
	if told != 60 {
		t.Errorf("%d changes were told, want 60", told)
	}
	w.want(`select string_agg(extract(epoch from noticed_at - '2026-05-15T12:00:00Z')::int / 60 || '', ' ' order by noticed_at) from ops.alert_notice`, "1 3 5 35 63 65 95 123")
	// A page waits for five minutes only.
	w.exec(`update ops.alert_notice set noticed_at = $1 where notice_id in (select notice_id from ops.alert_notice order by notice_id desc limit 3)`, w.now)
	w.ran("keystone.customers", "acme", "", 90*days)
	w.token(1, 6*days, 0)
	wantLines(t, w.pass(20*time.Minute, nil), "5m0s opened page token_idle credential:keystone:acme")
}

// TestConcurrentCheck: however many processes judge, each change is in one notice.
func TestConcurrentCheck(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	var mu sync.Mutex
	var enqueued []int64
	w.check.Enqueue = func(_ context.Context, _ pgx.Tx, notice int64) error {
		mu.Lock()
		defer mu.Unlock()
		enqueued = append(enqueued, notice)
		return nil
	}
	w.ran("keystone.customers", "acme", "", 90*days)
	others := []*Warehouse{w.Warehouse}
	for len(others) < 8 {
		other, err := Open(context.Background(), w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(other.Close)
		others = append(others, other)
	}
	all := func() (told []string) {
		var group sync.WaitGroup
		for _, o := range others {
			group.Go(func() {
				changes, err := o.CheckAlerts(context.Background(), w.check)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				told = append(told, spelled(changes)...)
			})
		}
		group.Wait()
		return told
	}
	w.token(1, 4*days, 0)
	wantLines(t, all(), "opened warn token_idle credential:keystone:acme")
	w.token(1, 6*days, 0)
	wantLines(t, all(), "worsened page token_idle credential:keystone:acme")
	w.token(1, 0, 0)
	wantLines(t, all())
	w.now = w.now.Add(20 * time.Minute)
	wantLines(t, all(), "resolved page token_idle credential:keystone:acme")
	w.want(`select count(*) from ops.alert_notice`, "3")
	if len(enqueued) != 3 {
		t.Errorf("enqueued %v", enqueued)
	}
}

// TestEnqueueFails: without a job there is no notice and nothing counts as told; the next look tells it.
func TestEnqueueFails(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.ran("keystone.customers", "acme", "", 90*days)
	w.token(1, 4*days, 0)
	boom := errors.New("boom")
	w.check.Enqueue = func(context.Context, pgx.Tx, int64) error { return boom }
	if _, err := w.CheckAlerts(context.Background(), w.check); !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	w.want(`select (select count(*) from ops.alert), (select count(*) from ops.alert_notice)`, "0|0")
	w.check.Enqueue = nil
	w.wantLook("opened warn token_idle credential:keystone:acme")
}

// TestClockAlert: each machine speaks for its own clock.
func TestClockAlert(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	ahead := func(d time.Duration) func() time.Time {
		return func() time.Time { return time.Now().Add(d) }
	}
	w.check.Wall = ahead(10 * time.Second)
	w.wantLook("opened warn clock clock:here")
	w.check.Wall = ahead(-2 * time.Minute)
	w.wantLook("worsened page clock clock:here")
	// Another machine, whose clock is right, does not say that it is over.
	other, err := Open(context.Background(), Config{URL: w.url, Owner: "there/1/start", Now: func() time.Time { return w.now }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	for range 20 {
		w.now = w.now.Add(time.Minute)
		if changes, err := other.CheckAlerts(context.Background(), AlertCheck{}); err != nil || len(changes) > 0 {
			t.Fatalf("%v, %v", changes, err)
		}
	}
	w.check.Wall = nil
	wantLines(t, w.pass(time.Hour, nil), "16m0s resolved page clock clock:here")
}

// TestLicenseAlerts: a month at risk, a lost one, and a day without a reading.
func TestLicenseAlerts(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.now = at("2026-05-20T18:00:00Z")
	w.wantLook()
	w.ran("wolkvox.billing", "acme", "", 90*days)
	w.exec(`update ops.watermark set zone = 'America/Bogota' where source = 'wolkvox'`)
	read := func(day string) {
		w.exec(`insert into ops.coverage (source, dataset, scope, product, day, status, run_id)
			select 'wolkvox', 'wolkvox.billing', 'acme', 'chat_licenses', $1::date, 'answered', max(run_id) from ops.run`, day)
	}
	for _, day := range []string{"2026-05-10", "2026-05-18", "2026-05-19"} {
		read(day)
	}
	w.wantLook(
		"opened warn lost_day lost_day:acme:2026-05-13", "opened warn lost_day lost_day:acme:2026-05-14",
		"opened warn lost_day lost_day:acme:2026-05-15", "opened warn lost_day lost_day:acme:2026-05-16", "opened warn lost_day lost_day:acme:2026-05-17")
	read("2026-05-20")
	wantLines(t, w.pass(8*days, func() { // what is lost is not told again, nor that it is lost no more
		w.exec(`insert into ops.coverage (source, dataset, scope, product, day, status, run_id)
			select 'wolkvox', 'wolkvox.billing', 'acme', 'chat_licenses', ($1::timestamptz at time zone 'America/Bogota')::date, 'answered', max(run_id) from ops.run
			on conflict do nothing`, w.now)
	}))
	w.want(`select count(*) from mart.alert`, "0")

	w.now = at("2026-05-29T17:00:00Z") // the month ends on June 1 at 05:00Z
	month := w.pass(4*days, nil)
	var kinds []string
	for _, line := range month {
		if strings.Contains(line, " month:") {
			kinds = append(kinds, line[strings.Index(line, " ")+1:])
		}
	}
	wantLines(t, kinds, "opened warn month_at_risk month:acme:2026-05", "worsened page month_at_risk month:acme:2026-05", "worsened page month_lost month:acme:2026-05")
	w.want(`select kind, days_left, action from mart.deadline where account = 'acme' and kind = 'license_month' and days_left < 0`,
		"license_month|-2|ask wolkvox for the figures of 2026-05 and load them with `meterhouse readings import`")
}

func TestVendorRefusals(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.ran("wolkvox.billing", "acme", "", 90*days)
	call := func(ago time.Duration, outcome string) {
		w.exec(`insert into ops.vendor_call (credential, account, product, owner, started_at, lost_at, ended_at, outcome) values ('h', 'acme', 'chat', 'o', now() - $1::interval, now(), now(), $2)`, ago, outcome)
	}
	call(time.Hour, "ok")
	call(50*time.Minute, "quota_exceeded")
	call(30*time.Hour, "concurrency")
	w.wantLook("opened warn quota_exceeded quota_exceeded:acme")
	call(40*time.Minute, "concurrency")
	w.wantLook("opened warn concurrency concurrency:acme")
	call(10*time.Minute, "ok")
	wantLines(t, w.pass(20*time.Minute, nil), "16m0s resolved warn quota_exceeded quota_exceeded:acme")
}

// TestRestatedInvoicedDays: each is told, by customer and month and once a day at most, and what was not invoiced is nobody's concern.
func TestRestatedInvoicedDays(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	invoiced := func(when, consumed string) etl.Sample {
		s := sample(when, consumed)
		s.Invoiced = etl.True
		return s
	}
	span := window("2026-05-01", "2026-05-08")
	w.mustHistory(span, extreme(invoiced("2026-05-01T00:00:00Z", "110"), invoiced("2026-05-02T00:00:00Z", "110"), sample("2026-05-03T00:00:00Z", "110")))
	w.exec(`update ops.watermark set next_due_at = 'infinity'`) // as late never as can be
	wantLook := func(want ...string) {
		t.Helper()
		// The days that nobody told are missing, which is another test's concern.
		wantLines(t, slices.DeleteFunc(w.look(), func(line string) bool { return strings.Contains(line, "days_missing") }), want...)
	}
	wantLook()
	w.now = w.now.Add(time.Hour)
	w.mustHistory(span, extreme(invoiced("2026-05-01T00:00:00Z", "111"), invoiced("2026-05-02T00:00:00Z", "111"), sample("2026-05-03T00:00:00Z", "111")))
	wantLook("opened warn restated_invoiced restated:C-1:2026-05")
	w.want(`select detail like '2 changes, counted by service level, between 2026-05-01 and 2026-05-02, the last met by run 2.%' from mart.alert where kind = 'restated_invoiced'`, "true")
	w.now = w.now.Add(time.Hour)
	w.mustHistory(span, extreme(invoiced("2026-05-01T00:00:00Z", "111"), invoiced("2026-05-02T00:00:00Z", "111"), sample("2026-05-03T00:00:00Z", "112")))
	wantLook()
	w.now = w.now.Add(time.Hour)
	w.mustHistory(span, extreme(invoiced("2026-05-01T00:00:00Z", "112"), invoiced("2026-05-02T00:00:00Z", "111"), sample("2026-05-03T00:00:00Z", "112")))
	wantLook()
	w.now = w.now.Add(22 * time.Hour)
	wantLook("grew warn restated_invoiced restated:C-1:2026-05")
	// What we read differently ourselves is not the vendor's doing.
	w.exec(`insert into ops.run (source, dataset, scope, account, owner, fence, business_at) values ('keystone', 'keystone.history', 'C-1', 'acme', 'o', 1, now())`)
	w.exec(`
		insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib,
			consumed_last_tib, over_committed_avg_tib, was_invoiced, known_from, known_until, payload_id, run_id)
		select customer_key, service_level_key, usage_date, 'reread', sample_count, committed_tib, consumed_avg_tib, consumed_max_tib,
			consumed_last_tib, over_committed_avg_tib, was_invoiced, known_from, $1, payload_id, (select max(run_id) from ops.run)
		from dw.restatement
		where was_invoiced
		limit 1`, w.now)
	wantLook()
	w.now = w.now.Add(8 * days)
	wantLook()
	w.want(`select count(*) from mart.alert where kind = 'restated_invoiced'`, "0")
	w.mustHistory(span, extreme(invoiced("2026-05-01T00:00:00Z", "113"), invoiced("2026-05-02T00:00:00Z", "111"), sample("2026-05-03T00:00:00Z", "112")))
	wantLook("opened warn restated_invoiced restated:C-1:2026-05")
}

// TestClosedDayAlert: what the vendor changes of a closed month is told once, and what it changes of an open one is not.
func TestClosedDayAlert(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	span := window("2026-05-01", "2026-05-08")
	w.mustHistory(span, extreme(sample("2026-05-01T00:00:00Z", "110"), sample("2026-05-02T00:00:00Z", "110")))
	w.exec(`update ops.watermark set next_due_at = 'infinity'`)
	wantLook := func(want ...string) {
		t.Helper()
		wantLines(t, slices.DeleteFunc(w.look(), func(line string) bool { return strings.Contains(line, "days_missing") }), want...)
	}
	// The first is closed, the second is not.
	w.exec(`begin;
		insert into billing.closed_day (link, day_no, period_start, period_end, source, customer_id, account, subscription_number, discriminator, item, level_ordinal,
			description, charge, is_waiver, day, quantity, scale, basis, known_since)
		select 1, 1, '2026-05-01', '2026-05-01', 'keystone', c.customer_id, c.account, s.subscription_number, s.discriminator, l.service_level, l.level_ordinal, '', 'committed', false, d.usage_date, 1, 1, 'observed', d.known_since
		from dw.dim_service_level as l join dw.dim_subscription as s using (subscription_key) join dw.dim_customer as c on c.customer_key = l.customer_key
		join dw.fact_daily_consumption as d on d.customer_key = l.customer_key and d.service_level_key = l.service_level_key and d.usage_date = '2026-05-01';
		insert into billing.close (link, period, version, closed_at, closed_by, database_user, lines, adjustments, days, totals, adjustment_totals)
		values (1, '2026-05', 1, '` + w.now.Format(time.RFC3339) + `', 'jane', 'x', 0, 0, 1, '', '');
		insert into billing.chain (link, kind, period, at, previous_hash, hash)
		values (1, 'close', '2026-05', '` + w.now.Format(time.RFC3339) + `', decode(repeat('00', 32), 'hex'), billing.link_hash(1));
		commit`)
	wantLook()
	w.now = w.now.Add(time.Hour)
	w.mustHistory(span, extreme(sample("2026-05-01T00:00:00Z", "110"), sample("2026-05-02T00:00:00Z", "111")))
	wantLook()
	w.now = w.now.Add(time.Hour)
	w.mustHistory(span, extreme(sample("2026-05-01T00:00:00Z", "112"), sample("2026-05-02T00:00:00Z", "111")))
	wantLook("opened warn closed_day_changed closed_day_changed:C-1:2026-05")
	w.want(`select detail like '1 changes, counted by service level, between 2026-05-01 and 2026-05-01, the last met by run 3. The closed month stays%' from mart.alert where kind = 'closed_day_changed'`, "true")
	w.now = w.now.Add(8 * days)
	wantLook()

	// Readings that are imported into it.
	w.ran("wolkvox.billing", "calls", "", 90*days)
	w.exec(`update ops.watermark set next_due_at = 'infinity'`)
	w.exec(`insert into dw.dim_operation (operation_key, account, operation, server, zone, first_seen_at) overriding system value values (1, 'calls', 'OP', '0039', 'America/Bogota', now())`)
	w.exec(`insert into dw.dim_product (product_key, product_number, api, title, unit, kind) overriding system value values (1, 1, 'chat', 'Chat', 'licences', 'gauge') on conflict do nothing`)
	w.exec(`insert into dw.fact_license_snapshot (operation_key, product_key, description, snapshot_date, items, items_text, items_min, items_max, reading_count, read_at, payload_id, run_id, is_imported, zone)
		select 1, min(product_key), 'Chat', '2026-05-31', 7, '7', 7, 7, 1, '2026-06-01T04:59:00Z', 1, (select max(run_id) from ops.run), true, 'America/Bogota' from dw.dim_product`)
	wantLines(t, slices.DeleteFunc(w.look(), func(line string) bool { return !strings.Contains(line, "closed_day_changed") }), "opened warn closed_day_changed closed_day_changed:calls:2026-05")
	w.want(`select concat_ws(': ', account, subject, detail) like 'calls: readings of account calls were imported into 2026-05, which is closed: 1 changes, counted by product, between 2026-05-31%' from mart.alert where kind = 'closed_day_changed'`, "true")
}

// TestQuarantineAlert: told when it appears, again when it grew but once a day at most, and when it is empty.
func TestQuarantineAlert(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.ran("keystone.history", "C-1", "", 90*days)
	n := 0
	refuseAt := func(path, reason string) {
		n++
		w.exec(`insert into ops.quarantine (run_id, source, dataset, scope, path, reason, excerpt, fingerprint, quarantined_at)
			values (1, 'keystone', 'keystone.history', 'C-1', $4, $1, 'what it says', decode(md5($2), 'hex'), $3)`, reason, fmt.Sprint(n), w.now, path)
	}
	refuse := func(reason string) { refuseAt("/x", reason) }
	refuseAt("", "number_format")
	w.wantLook("opened warn quarantine quarantine:keystone.history:acme:number_format")
	example := `select substring(detail from 'such as .* of C-1') from mart.alert where kind = 'quarantine'`
	w.want(example, "such as what it says of C-1")
	refuse("number_format")
	wantLines(t, w.pass(2*time.Hour, nil))
	w.want(example, "such as /x of C-1")
	refuse("time_format")
	w.wantLook("opened warn quarantine quarantine:keystone.history:acme:time_format")
	wantLines(t, w.pass(24*time.Hour, nil), "22h0m0s grew warn quarantine quarantine:keystone.history:acme:number_format")
	w.exec(`update ops.quarantine set resolved_at = now(), resolution = 'superseded by run 2'`)
	wantLines(t, w.pass(time.Hour, nil),
		"16m0s resolved warn quarantine quarantine:keystone.history:acme:number_format", "16m0s resolved warn quarantine quarantine:keystone.history:acme:time_format")
}

// TestDriftAndAbsence: members that nobody documented, and subscriptions that vanish before their end.
func TestDriftAndAbsence(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.ran("keystone.subscriptions", "C-1", "", 90*days)
	w.exec(`insert into ops.schema_drift (dataset, path, first_run_id, first_seen_at) values ('keystone.history', '/a', 1, $1), ('keystone.history', '/b', 1, $1)`, w.now)
	w.wantLook("opened warn schema_drift drift:keystone.history:acme")
	w.exec(`
		with c as (insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at) values ('C-1', 'acme', now(), now()) returning customer_key),
		s as (insert into dw.dim_subscription (customer_key, subscription_number, first_seen_at)
			select customer_key, n, now() from c cross join unnest(array['A-1', 'A-2', 'A-3']) as n returning *)
		insert into dw.fact_subscription (customer_key, subscription_key, valid_from, run_id, end_at, absent_since)
		select customer_key, subscription_key, '2026-01-01', 1,
			case subscription_number when 'A-1' then $1::timestamptz - interval '1 day' when 'A-2' then $1 + interval '30 days' end,
			case when subscription_number <> 'A-3' then $1 end
		from s`, w.now)
	wantLines(t, w.pass(25*time.Hour, nil), "24h0m0s opened warn subscription_absent absent:C-1")
	w.want(`select detail from mart.alert where kind = 'subscription_absent'`,
		"1, such as A-2, not listed since 2026-05-15 12:00Z. Their figures stay; ask NetApp whether they ended.")
	w.want(`select customer_id, subscription_number, days_left from mart.deadline where kind = 'subscription_end'`)
	w.exec(`update dw.fact_subscription set absent_since = null`)
	w.want(`select customer_id, subscription_number, days_left from mart.deadline where kind = 'subscription_end' order by due_at`, "C-1|A-1|-3", "C-1|A-2|28")
}

// TestCleanMonth: thirty days without trouble raise nothing.
func TestCleanMonth(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.now = at("2026-05-15T00:00:00Z")
	w.token(1, 0, 0)
	generation := 1
	const step = 10 * time.Minute
	for i := range int(30 * days / step) {
		w.now = w.now.Add(step)
		if i%3 == 0 {
			w.ran("wolkvox.billing", "acme", "", 30*time.Minute)
			w.exec(`insert into ops.coverage (source, dataset, scope, product, day, status, run_id)
				select 'wolkvox', 'wolkvox.billing', 'acme', 'chat', $1::timestamptz::date, 'answered', max(run_id) from ops.run on conflict do nothing`, w.now)
		}
		if i%36 == 0 {
			generation++
			w.token(generation, time.Minute, time.Duration(i)*step)
			for _, dataset := range []string{"keystone.customers", "keystone.current", "keystone.subscriptions"} {
				w.ran(dataset, "acme", "", 6*time.Hour)
			}
			w.ran("keystone.history", "C-1", "", 6*time.Hour)
			if i%144 == 72 { // one slot fails and is repeated
				w.ran("keystone.history", "C-1", "status 503: vendor unavailable", 0)
				w.ran("keystone.history", "C-1", "", 6*time.Hour)
			}
		}
		// Readings stand for those of mart.license_month, which has tests of its own.
		got := slices.DeleteFunc(w.look(), func(line string) bool { return strings.Contains(line, " month:") })
		if len(got) > 0 {
			t.Fatalf("%s: %q", w.now, got)
		}
	}
}

func TestDeadlinesOfTokens(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.token(1, 100*time.Hour, 80*days)
	w.want(`select kind, account, days_left, action from mart.deadline order by kind`,
		"token_idle|acme|2|loads renew the token and do not: see `meterhouse token status`, then `meterhouse run keystone.customers`",
		"token_login|acme|9|log in to the Digital Advisor portal, generate tokens, and give the refresh token to `meterhouse token set acme`")
	w.attempt(1, "ambiguous", "reply cut")
	w.want(`select action from mart.deadline where kind = 'token_idle'`, "the answer to the last exchange was lost and is probed by itself: see `meterhouse token status`")
	w.token(1, 8*days, 95*days)
	w.want(`select kind, days_left, left(action, 23) from mart.deadline order by kind`, "token_idle|-2|get a new refresh token", "token_login|-6|log in to the Digital A")
}

// TestNotices: a notice is one process's at a time, remembers where it was taken, and ends.
func TestNotices(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	ctx := context.Background()
	w.ran("keystone.customers", "acme", "", 90*days)
	w.token(1, 4*days, 0)
	w.look()
	n := w.Notices()
	due := func() []int64 {
		t.Helper()
		ids, err := n.Due(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	if got := due(); len(got) != 1 || got[0] != 1 {
		t.Fatalf("due %v", got)
	}
	notice, ok, err := n.Claim(ctx, 1)
	if err != nil || !ok || notice.Severity != etl.Warn || len(notice.Changes) != 1 || notice.Changes[0].Kind != "token_idle" || len(notice.Token) != 36 {
		t.Fatalf("%+v, %v, %v", notice, ok, err)
	}
	if _, _, err := n.Claim(ctx, 1); !errors.Is(err, etl.ErrNoticeTaken) || len(due()) != 0 {
		t.Errorf("second claim: %v", err)
	}
	if err := errors.Join(n.Attempted(ctx, 1, "webhook", nil), n.Attempted(ctx, 1, "command", errors.New("exit 1"))); err != nil {
		t.Fatal(err)
	}
	if givenUp, err := n.Postpone(ctx, 1); givenUp || err != nil || len(due()) != 0 {
		t.Errorf("postpone: %v %v", givenUp, err)
	}
	again, ok, err := n.Claim(ctx, 1)
	if err != nil || !ok || strings.Join(again.Delivered, ",") != "webhook" || again.Token != notice.Token || again.Attempts != 1 {
		t.Fatalf("%+v, %v, %v", again, ok, err)
	}
	w.exec(`update ops.alert_notice set created_at = now() - interval '2 hours', claimed_until = now() - interval '1 minute', next_try_at = now()`) // its process died
	if len(due()) != 1 {
		t.Error("a notice whose process died is not due")
	}
	if err := w.Alive(ctx); err == nil || !strings.Contains(err.Error(), "has waited 2h0m") {
		t.Errorf("alive: %v", err)
	}
	if err := n.Settle(ctx, 1, true); err != nil {
		t.Fatal(err)
	}
	if err := w.Alive(ctx); err != nil {
		t.Error(err)
	}
	if _, ok, err := n.Claim(ctx, 1); ok || err != nil {
		t.Errorf("claim of a settled one: %v, %v", ok, err)
	}
	if _, _, err := n.Claim(ctx, 77); err == nil {
		t.Error("claimed a notice that is not")
	}
	w.exec(`update ops.alert_check set finished_at = now() - interval '11 minutes'`)
	if err := w.Alive(ctx); err == nil || !strings.Contains(err.Error(), "last judged 11m") {
		t.Errorf("alive: %v", err)
	}

	w.token(1, 5*days, 0)
	w.look()
	if _, _, err := n.Claim(ctx, 2); err != nil {
		t.Fatal(err)
	}
	w.exec(`update ops.alert_notice set created_at = now() - interval '73 hours' where notice_id = 2`)
	if givenUp, err := n.Postpone(ctx, 2); !givenUp || err != nil {
		t.Errorf("an old one: %v %v", givenUp, err)
	}
	w.want(`select notice_id, outcome from ops.alert_notice order by 1`, "1|delivered", "2|given_up")
	alerts, err := w.Alerts(ctx)
	if err != nil || len(alerts) != 1 || alerts[0].Severity != etl.Page {
		t.Errorf("%+v, %v", alerts, err)
	}
}
