package warehouse

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"meterhouse/etl"
)

// tells reports whether a line has part in it.
func tells(lines []string, part string) bool {
	return slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, part) })
}

// Every run is ok, but the vendor does not deliver a level any more.
func TestMissingDaysAreTold(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.now = at("2026-05-20T12:00:00Z")
	w.exec(`insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at) values ('C-1', 'acme', now(), now())`)
	w.exec(`insert into dw.dim_subscription (customer_key, subscription_number, first_seen_at) select customer_key, 'A-1', now() from dw.dim_customer`)
	w.exec(`insert into dw.dim_service_level (customer_key, subscription_key, service_level, level_ordinal, level_class) select customer_key, subscription_key, l, 0, 'base' from dw.dim_subscription cross join unnest(array['Extreme','Value']) as l`)
	w.wantLook()
	w.ran("keystone.history", "C-1", "", 90*days)
	w.exec(`update ops.watermark set expected_from = '2026-05-01', settle = '1 hour'`)
	w.exec(`insert into ops.coverage (source, dataset, scope, product, day, status, run_id) select 'keystone', 'keystone.history', 'C-1', '', '2026-05-01'::date + i, 'answered', 1 from generate_series(0, 18) as i`)
	w.exec(`insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib, over_committed_avg_tib, digest, known_since, run_id, payload_id, is_invoiced, invoiced_samples, uninvoiced_samples)
		select customer_key, service_level_key, '2026-05-01'::date + i, 24, 100, 100, 100, 100, 0, decode(md5(i::text), 'hex'), now(), 1, 1, false, 0, 24
		from dw.dim_service_level cross join generate_series(0, 18) as i where service_level = 'Extreme' or i < 5`)
	t.Logf("coverage: %q", w.rows(`select service_level, status, count(*) from mart.coverage where status = 'missing' group by 1, 2`))
	if got := w.pass(4*time.Hour, nil); len(got) == 0 {
		t.Error("14 days of a level are missing: no alert")
	}
}

// A configured account of which no run was ever made.
func TestAccountNeverLoaded(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.check.Watched = []Watched{{Source: "wolkvox", Account: "calls"}, {Source: "keystone", Account: "new"}}
	w.exec(`insert into ops.credential (account, generation, refresh_sealed, obtained_at, source, seeded_at, fingerprint, key_id)
		values ('new', 1, 'x', now() - interval '6 days', 'seed', now() - interval '6 days', 'f', 'k')`)
	if got := w.pass(20*days, nil); len(got) == 0 {
		t.Error("two configured accounts are never loaded for 20 days, one token dies: no alert")
	}
}

// The vendor lists a customer no more: nothing of it is loaded, somebody must hear it.
func TestCustomersGone(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.exec(`insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at) values ('C-1', 'acme', now(), now()), ('C-2', 'acme', now(), now())`)
	w.wantLook()
	w.ran("keystone.customers", "acme", "", 365*days)
	for _, c := range []string{"C-1", "C-2"} {
		w.ran("keystone.history", c, "", time.Hour)
	}
	w.exec(`update dw.dim_customer set absent_since = $1`, w.now)
	if got := w.pass(5*days, nil); len(got) == 0 {
		t.Error("all customers vanished from the vendor's list, nothing is loaded for five days: no alert")
	}
}

// A webhook that is down for three days: the page is given up, and then the sign of life comes back.
func TestGivenUpIsToldAgain(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.ran("keystone.customers", "acme", "", 365*days)
	w.token(1, 7*days, 0)
	w.wantLook("opened page token_dead credential:keystone:acme")
	ctx := t.Context()
	n := w.Notices()
	w.exec(`update ops.alert_notice set created_at = created_at - interval '73 hours', next_try_at = now()`)
	if err := w.Alive(ctx); err == nil {
		t.Error("alive although a notice waits")
	}
	if _, ok, err := n.Claim(ctx, 1); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := n.Attempted(ctx, 1, "webhook", etl.ErrUnavailable); err != nil {
		t.Fatal(err)
	}
	if gone, err := n.Postpone(ctx, 1); !gone || err != nil {
		t.Fatal(gone, err)
	}
	if err := w.Alive(ctx); err == nil {
		t.Error("the page was given up, no notice was ever delivered, and the dead-man signal is sent")
	}
	w.now = w.now.Add(20 * time.Minute)
	got := append(w.look(), w.pass(3*days, nil)...)
	if len(got) == 0 {
		t.Errorf("the page that nobody got is never told again; open: %q", w.rows(`select severity, subject from mart.alert`))
	}
}

// `meterhouse run` every 15 minutes from cron, as the runbook has it: what is due and never loaded (held, busy).
func TestLateWithCron(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.wantLook()
	w.ran("wolkvox.billing", "acme", "", 30*time.Minute)
	var got []string
	for range 4 * 48 {
		w.now = w.now.Add(15 * time.Minute)
		got = append(got, w.look()...)
	}
	if !tells(got, " late ") {
		t.Errorf("due for two days, judged every 15 minutes, told %q", got)
	}
}

// A serve that is restarted with a pause of 11 minutes every day: what is due for a week is never a page.
func TestLatePageWithRestarts(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.wantLook()
	w.ran("keystone.history", "C-1", "", time.Hour)
	var got []string
	for range 7 {
		got = append(got, w.pass(23*time.Hour, nil)...)
		w.now = w.now.Add(11 * time.Minute)
	}
	if !tells(got, "page late") {
		t.Errorf("due for a week, told %q", got)
	}
}

// One customer's 403 hides that the login of the whole account ends.
func TestRefusalHidesNoDeadline(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.wantLook()
	w.ran("keystone.customers", "acme", "", 365*days)
	w.ran("keystone.history", "C-1", "extract: access refused (403 forbidden): credentials refused", 0)
	w.token(1, 0, 10*days)
	w.wantLook("opened page access_refused access:keystone:acme")
	w.now = w.now.Add(time.Hour)
	w.token(1, 6*days, 89*days)
	got := append(w.look(), w.rows(`select kind from mart.alert`)...)
	if !tells(got, "token_login") && !tells(got, "token_idle") {
		t.Errorf("the chain dies tomorrow, told: %q", got)
	}
}

// One customer's 403 was told. Then everything is refused: must be told (not a page that stays mute).
func TestRefusalSpreads(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.wantLook()
	const refused = "extract: access refused (403 forbidden): credentials refused"
	for _, c := range []string{"C-1", "C-2", "C-3", "C-4"} {
		w.ran("keystone.history", c, "", time.Hour)
	}
	w.ran("keystone.history", "C-1", refused, 0)
	w.wantLook("opened page access_refused access:keystone:acme")
	w.now = w.now.Add(48 * time.Hour)
	for _, c := range []string{"C-1", "C-2", "C-3", "C-4"} {
		w.ran("keystone.history", c, refused, 0)
	}
	if got := w.pass(72*time.Hour, nil); len(got) == 0 {
		t.Errorf("three more customers are refused for three days, nobody is told: %q", w.rows(`select subject, detail from mart.alert`))
	}
}

// An event that must wait for its turn, and is not seen in one look, is never told.
func TestEventThatWaitsIsTold(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.now = at("2026-05-20T12:00:00Z")
	w.ran("wolkvox.billing", "acme", "", 90*days)
	w.wantLook()
	w.exec(`insert into ops.alert_notice (noticed_at, severity, changes, next_try_at) select $1, 'warn', '[1]', now() from generate_series(1, 3)`, w.now)
	for _, d := range []string{"2026-05-17", "2026-05-19"} {
		w.exec(`insert into ops.coverage (source, dataset, scope, product, day, status, run_id) select 'wolkvox', 'wolkvox.billing', 'acme', 'p', $1::date, 'answered', max(run_id) from ops.run`, d)
	}
	w.now = w.now.Add(time.Minute)
	w.wantLook() // has to wait
	w.check.Watched = []Watched{}
	w.now = w.now.Add(time.Minute)
	w.wantLook() // a process that has another configuration, as while a new one is rolled out
	w.check.Watched = nil
	if got := w.pass(2*time.Hour, nil); !tells(got, "lost_day") {
		t.Errorf("the lost day was never told: %q", got)
	}
}

// Failing grows from one customer to all within a day.
func TestFailingSpreads(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.wantLook()
	for _, c := range []string{"C-1", "C-2", "C-3", "C-4", "C-5", "C-6"} {
		w.ran("keystone.history", c, "", 90*days)
	}
	w.ran("keystone.history", "C-1", "envelope_unknown: vendor broke its contract", 0)
	got := w.pass(26*time.Hour, nil) // told, and told as a page after a day
	t.Log(got)
	for _, c := range []string{"C-1", "C-2", "C-3", "C-4", "C-5", "C-6"} {
		w.ran("keystone.history", c, "status 500: vendor unavailable", 0)
	}
	if got := w.pass(6*time.Hour, nil); len(got) == 0 {
		t.Error("now all six customers fail, for six hours: nobody is told")
	}
}

// A vendor that restates an invoiced day at every run: people are not flooded.
func TestRestatedDayAgainAndAgain(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.now = at("2026-05-20T12:00:00Z")
	w.exec(`insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at) values ('C-1', 'acme', now(), now())`)
	w.exec(`insert into dw.dim_subscription (customer_key, subscription_number, first_seen_at) select customer_key, 'A-1', now() from dw.dim_customer`)
	w.exec(`insert into dw.dim_service_level (customer_key, subscription_key, service_level, level_ordinal, level_class) select customer_key, subscription_key, 'Value', 0, 'base' from dw.dim_subscription`)
	w.ran("keystone.history", "C-1", "", 90*days)
	w.look()
	for i := range 48 { // two days
		w.now = w.now.Add(time.Hour)
		w.exec(`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib, over_committed_avg_tib, was_invoiced, known_from, known_until, payload_id, run_id)
			select customer_key, service_level_key, '2026-04-10', 'restated', 24, 100, 100, 100, 100, 0, true, $1::timestamptz - interval '1 hour', $1, 1, $2 from dw.dim_service_level`, w.now, 1000+i)
		w.look()
	}
	t.Logf("notices: %q, rows of ops.alert: %q", w.rows(`select count(*) from ops.alert_notice`), w.rows(`select count(*) from ops.alert`))
	if n := w.rows(`select count(*) from ops.alert_notice`); n[0] > "6" || len(n[0]) > 1 {
		t.Errorf("%s messages in two days about one day of one level", n[0])
	}
}

// Exchanges that never began do not use up probes.
func TestAbandonedExchangesAreNoProbes(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.ran("keystone.customers", "acme", "", 365*days)
	w.token(1, 0, 0)
	for range 4 {
		w.attempt(1, "abandoned", "no connection")
	}
	w.attempt(1, "ambiguous", "reply cut")
	a, _, err := w.Credentials().OpenAttempt(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	got := w.look()
	t.Logf("custody counts %d exchanges; %q", a.Probes, w.rows(`select severity, detail from mart.alert`))
	wantLines(t, got, "opened warn token_ambiguous credential:keystone:acme")
}

// TestDeliveredInPartIsNotToldAgain: people heard it on one channel, although the other was given up.
func TestDeliveredInPartIsNotToldAgain(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.ran("keystone.customers", "acme", "", 365*days)
	w.token(1, 7*days, 0)
	w.wantLook("opened page token_dead credential:keystone:acme")
	n := w.Notices()
	w.exec(`update ops.alert_notice set created_at = created_at - interval '73 hours'`)
	if err := errors.Join(n.Attempted(t.Context(), 1, "webhook", nil), n.Attempted(t.Context(), 1, "command", etl.ErrUnavailable)); err != nil {
		t.Fatal(err)
	}
	if gone, err := n.Postpone(t.Context(), 1); !gone || err != nil {
		t.Fatal(gone, err)
	}
	wantLines(t, w.pass(time.Hour, nil))
}

// TestNewTokenIsGivenTime: what the old token failed with does not speak against a new one.
func TestNewTokenIsGivenTime(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.token(1, time.Hour, days)
	w.attempt(1, "rejected", "status 401")
	w.ran("keystone.customers", "acme", "the chain is dead: "+etl.ErrUnauthorized.Error(), 0)
	w.wantLook("opened page token_dead credential:keystone:acme")
	w.token(2, 0, 0)
	wantLines(t, w.pass(time.Hour, nil), "16m0s resolved page token_dead credential:keystone:acme")
	w.ran("keystone.customers", "acme", "status 403: "+etl.ErrUnauthorized.Error(), 0)
	w.wantLook("opened page access_refused access:keystone:acme")
}
