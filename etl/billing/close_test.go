package billing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"meterhouse/etl/warehouse/warehousetest"
)

func month(text string) Period {
	p, err := ParsePeriod(text)
	if err != nil {
		panic(err)
	}
	return p
}

// clock moves the business clock, of the database too.
func (o *office) clock(text string) {
	o.t.Helper()
	o.now = at(text)
	o.exec(`update ops.clock set fixed_at = $1`, o.now)
}

func (o *office) close(period, reason string) Closing {
	o.t.Helper()
	c, err := o.Close(o.t.Context(), month(period), CloseOptions{By: "jane", Reason: reason})
	if err != nil {
		o.t.Fatal(err)
	}
	return c
}

func (o *office) reopen(period string) {
	o.t.Helper()
	if _, err := o.Reopen(o.t.Context(), month(period), ReopenOptions{By: "jane", Reason: "a test"}); err != nil {
		o.t.Fatal(err)
	}
}

// whole demands that every hash is right, and that what months show and what is adjusted of them come to
// what is computed now, line by line to the last minor unit.
func (o *office) whole(what string) {
	o.t.Helper()
	v, err := o.Verify(o.t.Context(), Period{})
	if err != nil || len(v.Differences) > 0 {
		o.t.Fatalf("%s: verify: %v %q", what, err, v.Differences)
	}
	for _, line := range append(o.rows(identity), o.rows(unlike)...) {
		o.t.Errorf("%s: %s", what, line)
	}
}

// What is told without computing settled months, and what is not told of them.
const unlike = `
	select format('adjustments of %s, settled %s: %s %s', m.period, billing.is_settled(m.period), d.side, d.row)
	from billing.adjusted_months() as m
	cross join lateral (
		select 'too much' as side, x::text as row from (select * from billing.adjustment(m.period) except all select * from billing.computed_adjustment(m.period)) as x
		union all
		select 'missed', x::text from (select * from billing.computed_adjustment(m.period) except all select * from billing.adjustment(m.period)) as x
	) as d`

// wantSettled demands which of the months that can have adjustments are not computed, for nothing changed.
func (o *office) wantSettled(want string) {
	o.t.Helper()
	if got := strings.Join(o.rows(`select period from billing.adjusted_months() where billing.is_settled(period) order by 1`), " "); got != want {
		o.t.Errorf("settled are %q, want %q", got, want)
	}
}

const identity = `
	with months as (select period from billing.statement_months() union select period from billing.chain),
	live as (select m.period, s.source, s.customer_id, s.subscription_number, s.discriminator, s.item, s.description, s.charge, s.is_waiver, s.currency, s.amount
		from months as m cross join lateral billing.computed_statement(m.period, 'infinity') as s where s.amount is not null),
	shown as (select m.period, s.source, s.customer_id, s.subscription_number, s.discriminator, s.item, s.description, s.charge, s.is_waiver, s.currency, s.amount
		from months as m cross join lateral billing.statement(m.period, 'infinity') as s where s.amount is not null),
	adjusted as (select adjusts_period, source, customer_id, subscription_number, discriminator, item, description, charge, is_waiver, currency, amount
		from mart.adjustment where amount is not null),
	both_sides as (select 'live' as side, 0.0 as sign, * from live where false
		union all select 'live', 1, * from live union all select 'shown', -1, * from shown union all select 'adjusted', -1, * from adjusted),
	q as (
		select m.period, d.customer_id, d.item, d.charge, d.is_waiver, sum(d.parts) as parts
		from months as m
		cross join lateral (
			select s.customer_id, s.item, s.charge, s.is_waiver, s.quantity / s.scale as parts from billing.computed_statement_day(m.period, 'infinity') as s where s.quantity is not null
			union all
			select s.customer_id, s.item, s.charge, s.is_waiver, -s.quantity / s.scale from billing.statement_day(m.period, 'infinity') as s where s.quantity is not null
			union all
			select a.customer_id, a.item, a.charge, a.is_waiver, -a.quantity from mart.adjustment as a where a.adjusts_period = m.period
		) as d
		group by 1, 2, 3, 4, 5
	)
	select format('amounts of %s %s %s %s waiver %s %s: now less shown less adjusted is %s', period, customer_id, item, description, is_waiver, currency, sum(sign * amount))
	from both_sides
	group by period, source, customer_id, subscription_number, discriminator, item, description, charge, is_waiver, currency
	having sum(sign * amount) <> 0
	union all
	select format('quantities of %s %s %s %s: now less shown less adjusted is %s', period, customer_id, item, charge, parts) from q where abs(parts) > 0.000000001`

// adjustments is mart.adjustment as text.
func (o *office) adjustments() []string {
	o.t.Helper()
	return o.rows(`select concat_ws(' ', period, adjusts_period, usage_date::text, item, charge, case when is_waiver then 'waiver' end, quantity::text,
			coalesce(amount || ' ' || currency, '-'), reason, to_char(known_since at time zone 'UTC', 'MM-DD HH24:MI'), state)
		from mart.adjustment order by period, adjusts_period, usage_date, charge desc, is_waiver, currency`)
}

// closable is a tenant with February and March 2026 whole and priced, on 2 April.
func closable(t *testing.T) *office {
	t.Helper()
	o := newOffice(t)
	o.now = at("2026-04-02T12:00:00Z")
	o.level("2026-02", "2026-03", "2026-04")
	o.samples("2026-02-01T00:00:00Z", "2026-04-01T00:00:00Z", "1 day")
	o.exec(`update dw.fact_daily_consumption set accrued_sum_tib = 0.5, digest = 'd', known_since = usage_date + interval '1 day'`)
	o.exec(`update ops.watermark set expected_from = '2026-02-01', watermark = '2026-04-01'`)
	o.exec(`insert into ops.watermark (source, dataset, scope, account, watermark, expected_from)
		select 'keystone', 'keystone.history', 'C-1', 'acme', '2026-04-01', '2026-02-01' where not exists (select from ops.watermark where dataset = 'keystone.history')`)
	o.clock("2026-04-02T11:00:00Z")
	o.price("keystone/////committed 10.01 USD 2026-01-01", "keystone/////burst 3.333 USD 2026-01-01")
	o.clock("2026-04-02T12:00:00Z")
	return o
}

// change restates a day as the loader does: the former version goes to the ledger.
func (o *office) change(kind, day, set string) {
	o.t.Helper()
	o.changeBy(o.exec, kind, day, set)
}

func (o *office) changeBy(exec func(sql string, args ...any), kind, day, set string) {
	o.t.Helper()
	exec(`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			burst_avg_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, was_invoiced, digest, known_from, known_until, payload_id, run_id)
		select customer_key, service_level_key, usage_date, $1, sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			burst_avg_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, is_invoiced, digest, known_since, $2, payload_id, run_id
		from dw.fact_daily_consumption where usage_date = $3::text::date`, kind, o.now, day)
	exec(`update dw.fact_daily_consumption set `+set+`, known_since = $1 where usage_date = $2::text::date`, o.now, day)
}

func TestCloseByHand(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.whole("before")
	before := o.lines("2026-02", "infinity")
	plan, err := o.Close(t.Context(), month("2026-02"), CloseOptions{By: "jane", Plan: true})
	if err != nil || plan.Lines != 2 || plan.Days != 56 || len(plan.Obstacles) > 0 || plan.Totals != "USD 1047.66" {
		t.Errorf("plan: %+v, %v", plan, err)
	}
	o.want(`select count(*)::text from billing.chain`, "0")

	c := o.close("2026-02", "")
	if c.Version != 1 || c.Link != 1 || c.Hash != plan.Hash || c.Lines != 2 || c.Days != 56 || c.Totals != "USD 1047.66" || c.Role != "meterhouse_closer" {
		t.Errorf("got %+v, planned %+v", c, plan)
	}
	closed := o.lines("2026-02", "infinity")
	wantLines(t, "closed", closed, strings.Split(strings.ReplaceAll(strings.Join(before, "\n"), "final", "closed"), "\n")...)
	wantLines(t, "before it was closed", o.lines("2026-02", "2026-04-02T11:59:59Z"), before...)
	wantLines(t, "when it was closed", o.lines("2026-02", "2026-04-02T12:00:00Z"), closed...)
	o.whole("closed")
	o.wantSettled("2026-02")
	wantLines(t, "nothing changed", o.adjustments())
	var refused *RefusedError
	if _, err := o.Close(t.Context(), month("2026-02"), CloseOptions{By: "jane", Reason: "again"}); !errors.As(err, &refused) || refused.Obstacles[0].Kind != "closed" {
		t.Errorf("closing twice: got %v", err)
	}

	// The vendor tells other figures: the closed month stays, the open one adjusts it.
	o.clock("2026-04-03T09:00:00Z")
	o.change("restated", "2026-02-10", "committed_tib = 128, accrued_sum_tib = 0.25")
	o.change("late", "2026-02-11", "accrued_sum_tib = 0.75")
	wantLines(t, "it never moves", o.lines("2026-02", "infinity"), closed...)
	want := []string{
		"2026-03 2026-02 2026-02-10 Extreme committed 1 10.01 USD restated 04-03 09:00 open",
		"2026-03 2026-02 2026-02-10 Extreme burst -0.25 -0.83 USD restated 04-03 09:00 open",
		"2026-03 2026-02 2026-02-11 Extreme burst 0.25 0.83 USD late 04-03 09:00 open",
	}
	wantLines(t, "restated", o.adjustments(), want...)
	o.whole("restated")
	o.wantSettled("")

	// With March they are frozen, and not told again.
	if c := o.close("2026-03", ""); c.Adjustments != 3 || c.AdjustmentTotals != "USD 10.01" || c.Link != 2 {
		t.Errorf("got %+v", c)
	}
	frozen := strings.Split(strings.ReplaceAll(strings.Join(want, "\n"), " open", " closed"), "\n")
	wantLines(t, "frozen", o.adjustments(), frozen...)
	o.whole("frozen")
	o.wantSettled("2026-02 2026-03")

	// A price of a closed month.
	o.clock("2026-04-04T09:00:00Z")
	o.price("keystone/////committed 10.01 USD 2026-01-01 2026-02-27", "keystone/////committed 20.01 USD 2026-02-28", "keystone/////burst 3.333 USD 2026-01-01")
	got := o.adjustments()
	if len(got) < 4 || got[3] != "2026-04 2026-02 2026-02-28 Extreme committed 0 35.71 USD rate_changed 04-04 09:00 open" {
		t.Errorf("a price: got %s", strings.Join(got, "\n"))
	}
	o.whole("price")
	o.wantSettled("")

	// February is opened: it shows what is now, and what March adjusted is taken back.
	o.reopen("2026-02")
	o.whole("reopened")
	if _, err := o.Reopen(t.Context(), month("2026-02"), ReopenOptions{By: "jane", Reason: "again"}); !errors.Is(err, ErrNotClosed) {
		t.Errorf("reopening twice: got %v", err)
	}
	if got := strings.Join(o.adjustments(), "\n"); !strings.Contains(got, "2026-04 2026-02 2026-02-10 Extreme committed -1 -10.01 USD reopened 04-04 09:00 open") {
		t.Errorf("reopened: got %s", got)
	}
	if c := o.close("2026-02", ""); c.Version != 2 || c.Adjustments != 0 {
		t.Errorf("got %+v", c)
	}
	if got := strings.Join(o.adjustments(), "\n"); !strings.Contains(got, "2026-04 2026-02 2026-02-10 Extreme committed -1 -10.01 USD reopened 04-04 09:00 open") {
		t.Errorf("closed again: got %s", got)
	}
	o.whole("closed again")
	o.wantSettled("") // what March adjusted of February is still to be taken back, and its own days have another price
	o.want(`select concat_ws(' ', link, kind, period) from billing.chain order by link`, "1 close 2026-02", "2 close 2026-03", "3 reopen 2026-02", "4 close 2026-02")
	o.want(`select format('%s %s %s %s', period, version, reopened_by, reason) from billing.reopen`, "2026-02 1 jane a test")
}

// Whoever closes closes what was shown, and nothing that came since: neither other figures nor other gaps.
func TestCloseOfWhatWasSeen(t *testing.T) {
	t.Parallel()
	o := closable(t)
	look := func(period string) *Seen {
		t.Helper()
		plan, err := o.Close(t.Context(), month(period), CloseOptions{By: "jane", Reason: "lost", Plan: true})
		if err != nil {
			t.Fatal(err)
		}
		seen := &Seen{Lines: plan.Lines, Provisional: plan.Provisional, Totals: plan.Totals, Adjustments: plan.Adjustments, AdjustmentTotals: plan.AdjustmentTotals}
		for _, found := range plan.Obstacles {
			seen.Obstacles = append(seen.Obstacles, found.String())
		}
		return seen
	}
	differs := func(period, what string, seen *Seen, want ...string) {
		t.Helper()
		var changed *ChangedError
		_, err := o.Close(t.Context(), month(period), CloseOptions{By: "jane", Reason: "lost", Seen: seen})
		if !errors.As(err, &changed) || !slices.Equal(changed.Changes, want) {
			t.Errorf("%s: got %v, want %q", what, err, want)
		}
	}
	o.exec(`delete from dw.fact_daily_consumption where usage_date = '2026-02-10'`)
	seen := look("2026-02")
	if len(seen.Obstacles) != 1 || seen.Provisional != 2 {
		t.Fatalf("%+v", seen)
	}
	const one = "missing: 1 days of levels without figures, 2026-02-10 to 2026-02-10, such as of C-1 A-1 Extreme"
	nothing := *seen
	nothing.Obstacles = nil
	differs("2026-02", "nothing was shown", &nothing, "stands against it now: "+one)
	fewer := *seen // lines that come to the same
	fewer.Lines, fewer.Provisional = 1, 0
	differs("2026-02", "other lines", &fewer, "lines: 2 instead of 1", "provisional lines: 2 instead of 0")
	o.exec(`delete from dw.fact_daily_consumption where usage_date = '2026-02-20'`)
	differs("2026-02", "another day is lost since", seen,
		"stands against it now: missing: 2 days of levels without figures, 2026-02-10 to 2026-02-20, such as of C-1 A-1 Extreme", "stands against it no more: "+one,
		"total: USD 1044.33 instead of USD 1046.00")
	seen = look("2026-02")
	o.price("keystone/////committed 10.02 USD 2026-01-01", "keystone/////burst 3.333 USD 2026-01-01")
	differs("2026-02", "another price", seen, "total: USD 1045.33 instead of USD 1044.33")
	if c, err := o.Close(t.Context(), month("2026-02"), CloseOptions{By: "jane", Reason: "lost", Seen: look("2026-02")}); err != nil || c.Totals != "USD 1045.33" {
		t.Errorf("%+v, %v", c, err)
	}
	// What is adjusted is frozen too.
	seen = look("2026-03")
	o.clock("2026-04-03T09:00:00Z")
	o.change("restated", "2026-02-11", "accrued_sum_tib = 0.75")
	differs("2026-03", "a closed month changed", seen, "adjustments of earlier months: 1 instead of 0", "total of adjustments: USD 0.83 instead of none")
	if c, err := o.Close(t.Context(), month("2026-03"), CloseOptions{By: "jane", Seen: look("2026-03")}); err != nil || c.Adjustments != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	// A reopening is of the version that was looked at.
	o.reopen("2026-02")
	o.close("2026-02", "lost")
	var changed *ChangedError
	if _, err := o.Reopen(t.Context(), month("2026-02"), ReopenOptions{By: "jane", Reason: "a test", Seen: 1}); !errors.As(err, &changed) || changed.Changes[0] != "version: 2 instead of 1" {
		t.Errorf("another version: %v", err)
	}
	if r, err := o.Reopen(t.Context(), month("2026-02"), ReopenOptions{By: "jane", Reason: "a test", Seen: 2}); err != nil || r.Version != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestCloseRefuses(t *testing.T) {
	t.Parallel()
	o := closable(t)
	obstacles := func(period string) string {
		t.Helper()
		_, err := o.Close(t.Context(), month(period), CloseOptions{By: "jane"})
		var refused *RefusedError
		if err != nil && !errors.As(err, &refused) {
			t.Fatal(err)
		}
		var kinds []string
		if refused != nil {
			for _, r := range refused.Obstacles {
				kinds = append(kinds, r.Kind)
			}
		}
		return strings.Join(kinds, " ")
	}
	for period, want := range map[string]string{"2026-04": "not_over missing not_loaded", "2026-05": "not_over not_loaded", "2020-01": "empty"} {
		if got := obstacles(period); got != want {
			t.Errorf("%s: got %q, want %q", period, got, want)
		}
	}
	if _, err := o.Close(t.Context(), month("2026-04"), CloseOptions{By: "jane", Reason: "in a hurry"}); err == nil || !strings.Contains(err.Error(), "not_over") || strings.Contains(err.Error(), "missing") {
		t.Errorf("a running month: got %v", err)
	}
	one := func(want, break_, mend string) {
		t.Helper()
		o.exec(break_)
		if got := obstacles("2026-03"); got != want {
			t.Errorf("%s: got %q, want %q", break_, got, want)
		}
		o.exec(mend)
	}
	const march = ` where usage_date = '2026-03-05'`
	one("absent", `update dw.fact_daily_consumption set absent_since = '2026-03-20'`+march, `update dw.fact_daily_consumption set absent_since = null`)
	one("partial", `update dw.fact_daily_consumption set digest = null`+march, `update dw.fact_daily_consumption set digest = 'd'`)
	one("not_loaded", `update ops.watermark set watermark = '2026-03-31T23:59:59Z'`, `update ops.watermark set watermark = '2026-04-01'`)
	// Another customer, of whom nothing is loaded: not known from when, expected from the month on or after it, or gone.
	stands := func(sql, want string) {
		t.Helper()
		o.exec(sql)
		if got := strings.Join(o.rows(`select kind from billing.close_obstacle('2026-03')`), " "); got != want {
			t.Errorf("%s: got %q, want %q", sql, got, want)
		}
	}
	stands(`insert into dw.dim_customer (customer_key, customer_id, account, first_seen_at, seen_at) overriding system value values (2, 'C-2', 'acme', now(), now())`, "not_loaded")
	stands(`insert into ops.watermark (source, dataset, scope, account, expected_from) values ('keystone', 'keystone.history', 'C-2', 'acme', '2026-03-31')`, "not_loaded")
	stands(`update ops.watermark set expected_from = '2026-04-01' where scope = 'C-2'`, "")
	stands(`update ops.watermark set expected_from = null where scope = 'C-2'`, "not_loaded")
	stands(`update dw.dim_customer set absent_since = '2026-03-20' where customer_id = 'C-2'`, "")
	o.exec(`insert into ops.run (run_id, source, dataset, scope, account, owner, fence, business_at) overriding system value values (1, 'keystone', 'keystone.history', 'C-1', 'acme', 'o', 1, now())`)
	one("quarantine quarantine", `insert into ops.quarantine (run_id, source, dataset, scope, path, reason, excerpt, fingerprint, quarantined_at, day)
		values (1, 'keystone', 'keystone.history', 'C-1', '/', 'number_format', 'x', 'x', '2026-03-06', '2026-03-05')`, `update ops.quarantine set resolved_at = now(), resolution = 'test'`)
	one("quarantine", `insert into ops.quarantine (run_id, source, dataset, scope, path, reason, excerpt, fingerprint, quarantined_at, day)
		values (1, 'keystone', 'keystone.history', 'C-9', '/', 'number_format', 'x', 'x', '2026-03-06', '2026-03-05')`, `update ops.quarantine set resolved_at = now(), resolution = 'test'`)

	// Of the month or not, by its day or a window that ends before its end.
	for _, q := range [][4]string{{"2026-03-01", "", "", "quarantine"}, {"2026-02-28", "", "", ""}, {"2026-03-31", "", "", "quarantine"}, {"2026-04-01", "", "", ""},
		{"", "2026-02-20", "2026-03-01", ""}, {"", "2026-02-20", "2026-03-02", "quarantine"}, {"", "2026-03-31", "2026-04-09", "quarantine"}, {"", "2026-04-01", "2026-04-09", ""}} {
		stands(fmt.Sprintf(`insert into ops.quarantine (run_id, source, dataset, scope, path, reason, excerpt, fingerprint, quarantined_at, day, window_from, window_until)
			values (1, 'keystone', 'keystone.history', 'C-9', '/', 'number_format', 'x', '%s', '2026-04-01', nullif('%s', '')::date, nullif('%s', '')::date, nullif('%s', '')::date)`,
			strings.Join(q[:], "/"), q[0], q[1], q[2]), q[3])
		o.exec(`update ops.quarantine set resolved_at = now(), resolution = 'test' where resolved_at is null`)
	}
	// A billing period that ends in the month takes its days along.
	stands(`insert into ops.quarantine (run_id, source, dataset, scope, path, reason, excerpt, fingerprint, quarantined_at, day)
		values (1, 'keystone', 'keystone.history', 'C-9', '/', 'number_format', 'x', 'a day', '2026-04-01', '2026-02-20')`, "")
	stands(`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since)
		values ('C-1', 'A-1', 'burst', '2026-02-20', '2026-03-19', 'monthly', 'test', '2026-02-01')`, "quarantine")
	o.exec(`update billing.period set superseded_at = '2026-04-01'`)
	o.exec(`update ops.quarantine set resolved_at = now(), resolution = 'test' where resolved_at is null`)

	// A gap is accepted with a reason, which is kept; when the day comes it is late.
	o.exec(`create table test_day as select * from dw.fact_daily_consumption` + march)
	o.exec(`delete from dw.fact_daily_consumption` + march)
	if got := obstacles("2026-03"); got != "missing" {
		t.Errorf("got %q", got)
	}
	c := o.close("2026-03", "the vendor lost the day")
	if c.Provisional != 2 || len(c.Obstacles) != 1 {
		t.Errorf("got %+v", c)
	}
	o.want(`select reason || '/' || (accepted like 'missing: 1 days of levels without figures%') from billing.close`, "the vendor lost the day/true")
	o.clock("2026-04-05T08:00:00Z")
	o.exec(`update test_day set committed_tib = committed_tib + 31, known_since = '2026-04-05T07:00:00Z'`)
	o.exec(`insert into dw.fact_daily_consumption select * from test_day`)
	wantLines(t, "late", o.adjustments(),
		"2026-04 2026-03 2026-03-05 Extreme committed 1 10.01 USD late 04-05 07:00 open", "2026-04 2026-03 2026-03-05 Extreme burst 0.5 1.66 USD late 04-05 07:00 open")
	o.whole("late")

	// Order: May wants April closed; months before the first close do not.
	o.clock("2026-06-05T08:00:00Z")
	if got := obstacles("2026-05"); !strings.HasPrefix(got, "missing") || !strings.HasSuffix(got, "order") {
		t.Errorf("got %q", got)
	}
	if got := obstacles("2026-02"); got != "" {
		t.Errorf("a month before the first closed one: got %q", got)
	}
	o.reopen("2026-03")
	o.reopen("2026-02")
	if got := obstacles("2026-05"); strings.Contains(got, "order") {
		t.Errorf("no month before is closed any more: got %q", got)
	}
	// Over, but for what settles.
	for now, want := range map[string]bool{"2026-04-01T01:59:59Z": true, "2026-04-01T02:00:00Z": false} {
		o.clock(now)
		if got := obstacles("2026-03"); strings.Contains(got, "not_over") != want {
			t.Errorf("March at %s: got %q, want not_over to be %v", now, got, want)
		}
	}
	// A month of which nothing is known is over no sooner.
	o = newOffice(t)
	for now, want := range map[string]string{"2026-05-31T23:59:59Z": "not_over empty", "2026-06-01T00:00:00Z": "empty"} {
		o.clock(now)
		if got := obstacles("2026-05"); got != want {
			t.Errorf("an empty May at %s: got %q, want %q", now, got, want)
		}
	}
}

// A month in which what is loaded begins is not closed as if it were all of it: nobody asked for the days before.
func TestHistoryThatBeginsWithinAMonth(t *testing.T) {
	t.Parallel()
	o := closable(t)
	begins := func(what, period string, want ...string) {
		t.Helper()
		wantLines(t, what, o.rows(`select kind || ': ' || about || ': ' || remedy from billing.close_obstacle('`+period+`') where kind in ('begins', 'missing') order by 1`), want...)
	}
	const beginning = "begins: the history of acme begins on 2026-02-10: 2026-02-01 to 2026-02-09 are in no line of C-1 A-1 Extreme: set `history.start` to 2026-02-01 or before; `meterhouse run keystone.history` loads the days then"
	begins("whole", "2026-02")
	o.exec(`delete from dw.fact_daily_consumption where usage_date < '2026-02-10'`)
	o.exec(`update ops.watermark set expected_from = '2026-02-10'`)
	o.exec(`update dw.dim_subscription set start_at = null`)
	begins("nobody knows since when it runs", "2026-02", beginning)
	o.exec(`update dw.dim_subscription set start_at = '2025-01-01Z'`)
	begins("it was there before", "2026-02", beginning)
	begins("the month after", "2026-03")
	var refused *RefusedError
	if _, err := o.Close(t.Context(), month("2026-02"), CloseOptions{By: "jane"}); !errors.As(err, &refused) || len(refused.Obstacles) != 1 || !refused.Obstacles[0].IsAcceptable {
		t.Errorf("closing it: got %v", err)
	}
	o.exec(`update dw.dim_subscription set start_at = '2026-02-10Z'`)
	begins("it began with the history", "2026-02")
	o.exec(`update dw.dim_subscription set start_at = '2025-01-01Z'`)
	o.exec(`update ops.watermark set expected_from = '2026-02-01'`)
	begins("the days are asked for", "2026-02", "missing: 9 days of levels without figures, 2026-02-01 to 2026-02-09, such as of C-1 A-1 Extreme: see `meterhouse report missing_days`, then `meterhouse backfill`; days that never come are dropped with `meterhouse levels absent drop`")

	read := o.calls("America/Bogota")
	o.exec(`update dw.dim_subscription set start_at = '2026-02-10Z'`)
	o.exec(`update ops.watermark set expected_from = '2026-02-10' where dataset = 'keystone.history'`)
	for day := 12; day <= 28; day++ {
		read(1, "Chat", fmt.Sprintf("2026-02-%02dT15:00:00Z", day), "10")
		read(2, "IVR", fmt.Sprintf("2026-02-%02dT15:00:00Z", day), fmt.Sprint(day)) // it counts from the 1st, whoever reads it
	}
	first := "begins: the first reading of calls is of 2026-02-12: what was in use from 2026-02-01 to 2026-02-11 is not known, such as of calls chat_licenses Chat: ask wolkvox for the figures of these days, and load them with `meterhouse readings import FILE`"
	begins("the first month of an account", "2026-02", first)
	read(1, "Chat", "2026-01-31T15:00:00Z", "10")
	if got := o.rows(`select about from billing.close_obstacle('2026-02') where kind = 'begins'`); len(got) > 0 {
		t.Errorf("an account that was read before: %q", got)
	}
}

// Whatever keeps a line from being final stands against the close, in words of its own and with what helps.
func TestEveryDoubtIsAnObstacle(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.exec(`insert into ops.run (run_id, source, dataset, scope, account, owner, fence, business_at) overriding system value values (1, 'keystone', 'keystone.history', 'C-1', 'acme', 'o', 1, now())`)
	o.exec(`delete from dw.fact_daily_consumption where usage_date = '2026-03-05'`) // estimated for committed, missing for burst
	o.exec(`update dw.fact_daily_consumption set absent_since = '2026-03-20' where usage_date = '2026-03-06'`)
	o.exec(`update dw.fact_daily_consumption set digest = null where usage_date = '2026-03-07'`)
	refuse := `insert into ops.quarantine (run_id, source, dataset, scope, path, reason, excerpt, fingerprint, quarantined_at, day, product)
		values (1, $1, $2, $3, '/', 'number_format', 'x', 'x', '2026-03-09', '2026-03-08', $4)`
	o.exec(refuse, "keystone", "keystone.history", "C-1", "")
	read := o.calls("America/Bogota")
	read(1, "Chat", "2026-03-01T15:00:00Z", "10")
	read(1, "Chat", "2026-03-08T15:00:00Z", "10")
	read(1, "Chat", "2026-04-01T04:50:00Z", "10")
	read(2, "IVR", "2026-03-10T15:00:00Z", "100")
	read(2, "IVR", "2026-03-11T15:00:00Z", "90")
	read(2, "IVR", "2026-04-01T04:50:00Z", "200")
	read(2, "Voice", "2026-03-12T15:00:00Z", "150") // told no more, while another description is closed
	o.exec(refuse, "wolkvox", "wolkvox.billing", "calls", "chat_licenses")

	// The doubts that there can be stand in the function.
	def := o.rows(`select pg_get_functiondef('billing.statement_part'::regproc)`)[0]
	possible := map[string]bool{}
	for _, block := range regexp.MustCompile(`(?s)end as basis.*?end as doubt|as reading,.*?end as doubt|j\.reading,.*?end as doubt`).FindAllString(def, -1) {
		for _, m := range regexp.MustCompile(`then '([a-z ]+)'`).FindAllStringSubmatch(block[strings.LastIndex(block, "    case"):], -1) {
			possible[m[1]] = true
		}
		for _, m := range regexp.MustCompile(`in \(([^)]*)\) then j\.basis`).FindAllStringSubmatch(block, -1) {
			for _, word := range strings.Split(m[1], ", ") {
				possible[strings.Trim(word, "'")] = true
			}
		}
	}
	given := o.rows(`select distinct doubt from billing.statement_part('2026-03', 'infinity') where doubt is not null order by 1`)
	if want := slices.Sorted(maps.Keys(possible)); len(want) < 7 || !slices.Equal(given, want) {
		t.Fatalf("the month has the doubts %q, there can be %q", given, want)
	}
	obstacles := func() []string {
		t.Helper()
		return o.rows(`select kind || ': ' || about || ': ' || remedy from billing.close_obstacle('2026-03') where is_acceptable and about !~ ' refused and not settled' order by 1`)
	}
	const (
		absent      = "absent: 1 days of levels that the vendor delivers no more, 2026-03-06 to 2026-03-06, such as of C-1 A-1 Extreme: decide with `meterhouse levels absent`"
		fell        = "fell: 1 days of products on which a counter fell, 2026-03-11 to 2026-03-11, such as of calls ivr_minutes IVR: wolkvox reset or corrected it: ask which figure is billed; the last reading counts, and `meterhouse match` compares the invoice with it"
		unread      = "missing: 28 days of products that nobody read, 2026-03-02 to 2026-03-30, such as of calls chat_licenses Chat: ask wolkvox for the figures of these days, and load them with `meterhouse readings import FILE`"
		missing     = "missing: 1 days of levels without figures, 2026-03-05 to 2026-03-05, such as of C-1 A-1 Extreme: see `meterhouse report missing_days`, then `meterhouse backfill`; days that never come are dropped with `meterhouse levels absent drop`"
		notClosed   = "not_closed: 1 descriptions of products without a reading at the end of the month, last read, 2026-03-12 to 2026-03-12, such as of calls ivr_minutes Voice: a description that was renamed counts twice: see `meterhouse statement`, ask wolkvox which are billed, and load their last day with `meterhouse readings import FILE`"
		partial     = "partial: 1 days of levels of which records were refused, 2026-03-07 to 2026-03-07, such as of C-1 A-1 Extreme: see `meterhouse quarantine list`"
		quarantines = "quarantine: 1 days of levels or products with refused records, 2026-03-08 to 2026-03-08, such as of "
	)
	wantLines(t, "all doubts", obstacles(), absent, fell, missing, unread, notClosed, partial,
		quarantines+"C-1 A-1 Extreme: see `meterhouse quarantine list`", quarantines+"calls chat_licenses Chat: see `meterhouse quarantine list`")

	// Of a product that was not closed at all the licence month tells; not of one description beside others.
	o.exec(`update ops.quarantine set resolved_at = now(), resolution = 'test'`)
	o.exec(`delete from dw.fact_daily_consumption where usage_date < '2026-04-01'`)
	o.exec(`delete from dw.fact_license_reading where product_key = 1 and reading_date <> '2026-03-01'`)
	read(1, "Chat", "2026-03-02T15:00:00Z", "10")
	o.exec(`insert into ops.watermark (source, dataset, scope, account, zone) values ('wolkvox', 'wolkvox.billing', 'calls', 'calls', 'America/Bogota')`)
	o.exec(`insert into ops.coverage (source, dataset, scope, product, day, status, run_id) select 'wolkvox', 'wolkvox.billing', 'calls', p, '2026-03-01', 'answered', 1 from unnest(array['chat_licenses', 'ivr_minutes']) as p`)
	told := slices.DeleteFunc(obstacles(), func(text string) bool { return !strings.Contains(text, "calls") })
	if len(told) != 4 || told[0] != fell || !strings.HasPrefix(told[1], "license_month: the licence month of calls is lost: chat_licenses: ") || told[3] != notClosed {
		t.Errorf("a month that is lost:\n%s", strings.Join(told, "\n"))
	}
	o.exec(`delete from ops.watermark where dataset = 'wolkvox.billing'`) // nobody watches it: the doubt itself tells
	told = slices.DeleteFunc(obstacles(), func(text string) bool { return !strings.HasPrefix(text, "not_closed") })
	if len(told) != 1 || !strings.HasPrefix(told[0], "not_closed: 2 descriptions of products without a reading at the end of the month, last read, 2026-03-02 to 2026-03-12, such as of calls chat_licenses Chat: ") {
		t.Errorf("a month that is lost, and not watched:\n%s", strings.Join(told, "\n"))
	}
}

// Two closers at once: one wins.
func TestCloseRace(t *testing.T) {
	t.Parallel()
	o := closable(t)
	errs := make(chan error, 2)
	for _, period := range []string{"2026-02", "2026-02"} {
		go func() {
			_, err := o.Close(t.Context(), month(period), CloseOptions{By: "jane"})
			errs <- err
		}()
	}
	won, lost := 0, 0
	for range 2 {
		err := <-errs
		var refused *RefusedError
		switch {
		case err == nil:
			won++
		case errors.Is(err, ErrRaced), errors.As(err, &refused):
			lost++
		default:
			t.Error(err)
		}
	}
	if won != 1 || lost != 1 {
		t.Errorf("%d won, %d lost", won, lost)
	}
	o.whole("after a race")
}

// What was changed by somebody with all rights is found, whatever it was.
func TestVerifyFinds(t *testing.T) {
	t.Parallel()
	for what, c := range map[string][2]string{
		"an amount":          {`update billing.closed_line set amount = amount + 0.01 where line_no = 1`, "its columns say"},
		"an amount, text":    {`update billing.closed_line as l set amount = amount + 0.01, canonical = replace(canonical, '1001', '1002') where line_no = 1`, "its text comes to"},
		"a line, all of it":  {`with l as (update billing.closed_line set amount = 1 where line_no = 1) select`, "its columns say"},
		"a line resealed":    {`update billing.closed_line as l set note = 'x', canonical = billing.canonical_line(x), sha256 = sha256(convert_to(billing.canonical_line(x), 'UTF8')) from (select (jsonb_populate_record(c, '{"note": "x"}')).* from billing.closed_line as c) as x where x.link = l.link and x.line_no = l.line_no`, "its rows come to"},
		"a day":              {`update billing.closed_day set quantity = 1 where day_no = 3`, "closed_day 3"},
		"a day gone":         {`delete from billing.closed_day where day_no = 5 and link = 2`, "its rows come to"},
		"the header":         {`update billing.close set closed_by = 'joe' where link = 2`, "close 1: its columns say"},
		"the chain":          {`update billing.chain set hash = sha256('x') where link = 1`, "previous_hash is"},
		"a month":            {`update billing.chain set period = '2026-01' where link = 1`, "the chain says close of 2026-01"},
		"an instant":         {`update billing.chain set at = at - interval '1 day' where link = 1`, "its header says close of 2026-02"},
		"a second header":    {`insert into billing.reopen (link, period, version, reopened_at, reopened_by, database_user, reason, canonical) values (1, '2026-02', 1, '2026-04-02T12:00:00Z', 'x', 'x', 'x', 'x')`, " and reopen of 2026-02"},
		"for ever":           {`update billing.closed_line set known_since = 'infinity', usage_date = '-infinity' where line_no = 1`, "its columns say"},
		"another era":        {`update billing.closed_line set period_start = '0044-02-01 BC', canonical = replace(canonical, '2026-02-01', '0044-02-01') where line_no = 1`, "BC"},
		"adjusted totals":    {`update billing.close set adjustment_totals = 'USD 1.00' where link = 2`, "of adjustments USD 1.00"},
		"the first link":     {`delete from billing.closed_line where link = 1; delete from billing.closed_day where link = 1; delete from billing.close where link = 1; delete from billing.chain where link = 1`, "one is gone"},
		"a link's rows":      {`delete from billing.closed_line where link = 2; delete from billing.close where link = 2`, "0 rows in billing.close"},
		"a row of no link":   {`alter table billing.closed_day drop constraint closed_day_chain_fkey; insert into billing.closed_day select 9, day_no, period_start, period_end, source, customer_id, account, subscription_number, discriminator, item, level_ordinal, description, charge, is_waiver, day, quantity, scale, basis, known_since, reading, doubt, rate_id, canonical, sha256 from billing.closed_day where day_no = 1 and link = 1`, "not in the chain"},
		"nothing whatsoever": {`select`, ""},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			o := closable(t)
			o.close("2026-02", "")
			o.close("2026-03", "")
			for _, table := range []string{"chain", "close", "reopen", "closed_line", "closed_day"} {
				o.exec(`alter table billing.` + table + ` disable trigger user`)
			}
			o.exec(c[0])
			v, err := o.Verify(t.Context(), Period{})
			if found := strings.Join(v.Differences, "\n"); err != nil || c[1] == "" && found != "" || !strings.Contains(found, c[1]) {
				t.Errorf("got %v, %s, want %q", err, found, c[1])
			}
		})
	}
}

// Anybody can recompute the hashes with psql and the manual at hand.
func TestHashesInSQL(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.exec(`update dw.dim_service_level set service_level = E'a|b\\c\nd'`)
	o.close("2026-02", "")
	o.close("2026-03", "")
	o.want(`select string_agg((hash = billing.link_hash(link))::text, ' ') from billing.chain`, "true true")
	o.want(`select count(*)::text from billing.closed_line where sha256 <> sha256(convert_to(canonical, 'UTF8')) or canonical <> billing.canonical_line(closed_line)`, "0")
	o.want(`select canonical from billing.closed_line where link = 1 and line_no = 1`,
		`1|1|statement|2026-02-01|2026-02-28|keystone|C-1|acme|A-1|a\|b\\c\nd|committed|100|TiB-month|10.01|1001|USD|final|28|28|||false|base|0|2026-02-01|2026-02-28|1|calendar assumed|\N|\N|\N|\N|\N|\N`)
	o.whole("escaped")
}

// INSERT only, for the owner too, whatever the session says.
func TestClosedStays(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.close("2026-02", "")
	o.reopen("2026-02")
	o.clock(o.now.Add(time.Hour).Format(time.RFC3339))
	o.close("2026-02", "")
	for _, table := range []string{"chain", "close", "closed_line", "closed_day", "reopen"} {
		for _, sql := range []string{"update billing.TABLE set link = link", "delete from billing.TABLE", "truncate billing.TABLE cascade", "delete from billing.TABLE where false",
			"set session_replication_role = replica; update billing.TABLE set link = 7"} {
			o.refused("are never changed or deleted", strings.ReplaceAll(sql, "TABLE", table))
		}
	}
	o.refused("is sealed", `insert into billing.closed_line (link, line_no, kind, source, customer_id, account, subscription_number, item, charge, unit, discriminator, description, is_waiver)
		values (1, 99, 'statement', '', '', '', '', '', '', '', '', '', false)`)
	o.refused("does not go on from the end of the chain", `insert into billing.chain (link, kind, period, at, previous_hash, hash) values (4, 'close', '2026-02', now(), (select hash from billing.chain where link = 3), sha256('x'))`)
	o.refused("does not go on from the end of the chain", `insert into billing.chain (link, kind, period, at, previous_hash, hash) values (9, 'close', '2026-02', now(), sha256('x'), sha256('x'))`)
	o.whole("kept")
}

// as is the office of another role, which may log in and has been granted the given ones.
func (o *office) as(roles string) *office {
	o.t.Helper()
	pool, err := pgxpool.New(context.Background(), warehousetest.Role(o.t, o.url, "grant "+roles+" to ROLE"))
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(pool.Close)
	other := &office{t: o.t, now: o.now}
	other.Billing = New(pool, func() time.Time { return other.now })
	return other
}

// What the roles may that a program connects as: a closer closes and reopens, and nobody changes what is closed.
func TestRolesOfClosedMonths(t *testing.T) {
	t.Parallel()
	o := closable(t)
	closer, loader, reader := o.as("meterhouse_closer"), o.as("meterhouse_loader"), o.as("bi_reader")
	if c := closer.close("2026-02", ""); c.Role != "meterhouse_closer" {
		t.Errorf("closed as %s", c.Role)
	}
	closer.reopen("2026-02")
	closer.close("2026-02", "")
	o.want(`select string_agg(distinct (database_user like 'test%')::text, '') from billing.close`, "true")
	for name, other := range map[string]*office{"loader": loader, "reader": reader} {
		if _, err := other.Close(t.Context(), month("2026-03"), CloseOptions{By: "joe"}); err == nil || !strings.Contains(err.Error(), "want the rights of meterhouse_closer") {
			t.Errorf("%s closes: got %v", name, err)
		}
		if _, err := other.Reopen(t.Context(), month("2026-02"), ReopenOptions{By: "joe", Reason: "why not"}); err == nil || !strings.Contains(err.Error(), "want the rights of meterhouse_closer") {
			t.Errorf("%s reopens: got %v", name, err)
		}
	}
	for name, other := range map[string]*office{"closer": closer, "loader": loader, "reader": reader} {
		for _, table := range []string{"chain", "close", "closed_line", "closed_day", "reopen"} {
			for _, sql := range []string{
				"update billing.TABLE set link = 9", "delete from billing.TABLE", "truncate billing.TABLE", "alter table billing.TABLE disable trigger user", "alter table billing.TABLE disable trigger all",
				"drop trigger TABLE_kept on billing.TABLE", "drop table billing.TABLE cascade", "alter table billing.TABLE owner to current_user", "alter table billing.TABLE rename to x",
				"create rule x as on insert to billing.TABLE do instead nothing", "set role meterhouse_owner",
			} {
				if _, err := other.pool.Exec(t.Context(), strings.ReplaceAll(sql, "TABLE", table)); err == nil || !strings.Contains(err.Error(), "SQLSTATE 42501") {
					t.Errorf("%s: %s: got %v, want a refusal for want of rights", name, sql, err)
				}
			}
		}
		for _, sql := range []string{"set session_replication_role = replica", "create or replace function billing.refuse_change() returns trigger language plpgsql as 'begin return null; end'", "drop schema billing cascade"} {
			other.refused("SQLSTATE 42501", sql)
		}
		if v, err := other.Verify(t.Context(), Period{}); err != nil || len(v.Differences) > 0 || v.Links != 3 {
			t.Errorf("%s verifies: %+v, %v", name, v, err)
		}
		if got := other.rows(`select state from billing.statement('2026-02', 'infinity')`); len(got) != 2 || got[0] != "closed" {
			t.Errorf("%s reads %q", name, got)
		}
	}
	// The loader loads.
	loader.exec(`insert into dw.dim_customer (customer_key, customer_id, account, first_seen_at, seen_at) overriding system value values (7, 'C-7', 'acme', now(), now())`)
	loader.exec(`update dw.fact_daily_consumption set committed_tib = 101 where usage_date = '2026-02-03'`)
	reader.want(`select count(*)::text from mart.adjustment`, "1")
	reader.refused("SQLSTATE 42501", `insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at) values ('C-8', 'acme', now(), now())`)
}

// The answer to COMMIT is lost: what was closed is told as closed, and what was not can be closed again.
func TestCloseWhoseCommitIsCut(t *testing.T) {
	t.Parallel()
	for name, verdict := range map[string]warehousetest.Verdict{"before": warehousetest.CutBefore, "during": warehousetest.CutDuring, "after": warehousetest.CutAfter} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := closable(t)
			var armed atomic.Bool
			pool, err := pgxpool.New(context.Background(), warehousetest.NewWire(t, o.url, func(m warehousetest.Message) warehousetest.Verdict {
				if m.IsCommit() && armed.CompareAndSwap(true, false) {
					return verdict
				}
				return warehousetest.Pass
			}).URL)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			far := New(pool, func() time.Time { return o.now })
			armed.Store(true)
			c, err := far.Close(t.Context(), month("2026-02"), CloseOptions{By: "jane"})
			if armed.Load() {
				t.Fatal("no COMMIT was cut")
			}
			isClosed := o.rows(`select encode(hash, 'hex') from billing.chain`)
			if want := err == nil; (len(isClosed) == 1) != want || want && isClosed[0] != c.Hash || verdict == warehousetest.CutAfter && !want || verdict == warehousetest.CutBefore && want {
				t.Fatalf("told %v, %v; the chain has %q", c.Hash, err, isClosed)
			}
			if err != nil {
				if c, err = far.Close(t.Context(), month("2026-02"), CloseOptions{By: "jane"}); err != nil || c.Link != 1 {
					t.Errorf("once more: %+v, %v", c, err)
				}
			}
			armed.Store(true)
			r, err := far.Reopen(t.Context(), month("2026-02"), ReopenOptions{By: "jane", Reason: "a test"})
			if reopened := o.rows(`select encode(hash, 'hex') from billing.chain where link = 2`); (len(reopened) == 1) != (err == nil) || err == nil && reopened[0] != r.Hash {
				t.Errorf("reopening told %v, %v; the chain has %q", r.Hash, err, reopened)
			}
			o.whole("cut")
		})
	}
}

// What is decided about a closed month is adjusted in the open one, with the reason and the instant of the decision.
func TestDecisionsOfClosedMonths(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.exec(`update dw.fact_daily_consumption set accrued_last_tib = extract(day from usage_date) * 0.25`)
	o.exec(`update dw.fact_daily_consumption set absent_since = '2026-03-01' where usage_date = '2026-02-10'`)
	o.close("2026-02", "the vendor is asked about a day")
	closed := o.lines("2026-02", "infinity")
	o.clock("2026-04-03T09:00:00Z")
	decide := func(days, decision string) {
		t.Helper()
		first, last, _ := strings.Cut(days, "/")
		if err := o.DecideAbsence(t.Context(), Absence{"C-1", "A-1", "", "Extreme", 0, day(first), day(last), decision, "told by mail"}); err != nil {
			t.Fatal(err)
		}
	}
	decide("2026-02-09/2026-02-11", "keep")
	wantLines(t, "kept: it was counted", o.adjustments())
	o.clock("2026-04-03T10:00:00Z")
	decide("2026-02-10/2026-02-10", "drop")
	o.clock("2026-04-03T11:00:00Z")
	o.exec(`insert into billing.absence (customer_id, subscription_number, discriminator, service_level, first_day, last_day, decision, reason, known_since)
		values ('C-1', 'A-1', 'another', 'Extreme', '2026-02-10', '2026-02-10', 'drop', 'x', $1)`, o.now)
	wantLines(t, "dropped", o.adjustments(),
		"2026-03 2026-02 2026-02-10 Extreme committed -3.571428571429 -35.75 USD absent 04-03 10:00 open",
		"2026-03 2026-02 2026-02-10 Extreme burst -0.5 -1.66 USD absent 04-03 10:00 open")
	o.whole("dropped")
	o.close("2026-03", "")
	o.clock("2026-04-04T11:00:00Z")
	if was, err := o.SetAccruedReading(t.Context(), "acme", month("2026-02"), "running", "jane", "never falls"); err != nil || was != "increment" {
		t.Fatal(was, err)
	}
	got := o.adjustments()
	wantLines(t, "read otherwise", got[2:3], "2026-04 2026-02 2026-02-01 Extreme burst -0.25 -0.83 USD accrued_reading_changed 04-04 11:00 open")
	if len(got) != 2+27 { // all but the day that is dropped
		t.Errorf("got %d adjustments, want 29: %s", len(got), strings.Join(got, "\n"))
	}
	o.whole("read otherwise")
	wantLines(t, "it never moves", o.lines("2026-02", "infinity"), closed...)

	// A level of which the first day is seen after the close.
	o.clock("2026-04-05T12:00:00Z")
	o.exec(`insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_class) overriding system value values (2, 1, 1, 'Value', 'base')`)
	o.exec(`insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, invoiced_samples, uninvoiced_samples, digest, known_since, payload_id, run_id)
		values (1, 2, '2026-03-31', 1, 86400, 31, 40, 40, 40, 7, 2, 2, 0, 0, 'd', $1, 1, 1)`, o.now)
	wantLines(t, "seen late", o.rows(`select concat_ws(' ', adjusts_period, usage_date, item, charge, quantity, amount, reason, to_char(known_since at time zone 'UTC', 'MM-DD HH24:MI')) from mart.adjustment where item = 'Value' order by charge desc`),
		"2026-03 2026-03-31 Value committed 1 10.01 late 04-05 12:00", "2026-03 2026-03-31 Value burst 2 6.67 late 04-05 12:00")
	o.whole("seen late")

	// A calendar by which days of a closed month belong to another.
	o.clock("2026-04-06T13:00:00Z")
	for _, span := range [][2]string{{"2026-02-01", "2026-02-27"}, {"2026-02-28", "2026-03-31"}} {
		o.exec(`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since) values ('C-1', 'A-1', 'committed', $1::text::date, $2::text::date, 'monthly', 'test', $3)`,
			span[0], span[1], o.now)
	}
	wantLines(t, "calendar", o.rows(`select concat_ws(' ', adjusts_period, usage_date, item, charge, quantity, amount, reason, to_char(known_since at time zone 'UTC', 'MM-DD HH24:MI')) from mart.adjustment
			where item = 'Extreme' and usage_date = '2026-02-28' and charge = 'committed' order by adjusts_period`),
		"2026-02 2026-02-28 Extreme committed -3.571428571429 -35.75 calendar_changed 04-06 13:00", "2026-03 2026-02-28 Extreme committed 3.571428571429 35.75 calendar_changed 04-06 13:00")
	o.whole("calendar")
}

// Why a day of a closed month is adjusted, and since when that is known, where more than one thing happened to it.
func TestReasonsOfAdjustments(t *testing.T) {
	t.Parallel()
	decided := func(o *office, from, until string) {
		for _, span := range [][2]string{{"2026-02-01", from}, {until, "2026-03-31"}} {
			o.exec(`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since) values ('C-1', 'A-1', 'committed', $1::text::date, $2::text::date, 'monthly', 'test', $3)`,
				span[0], span[1], o.now)
		}
	}
	for what, c := range map[string]struct {
		before, after func(*office)
		want          []string
	}{
		"late and then restated": {
			after: func(o *office) {
				o.change("late", "2026-02-11", "accrued_sum_tib = 0.75")
				o.clock("2026-04-03T10:00:00Z")
				o.change("restated", "2026-02-11", "accrued_sum_tib = 1")
			},
			want: []string{"2026-03 2026-02 2026-02-11 Extreme burst 0.5 1.67 USD restated 04-03 10:00 open"},
		},
		"restated before, and late": {
			before: func(o *office) { o.change("restated", "2026-02-11", "accrued_sum_tib = 0.5") },
			after:  func(o *office) { o.change("late", "2026-02-11", "accrued_sum_tib = 1") },
			want:   []string{"2026-03 2026-02 2026-02-11 Extreme burst 0.5 1.67 USD late 04-03 09:00 open"},
		},
		"a calendar that holds no more": {
			before: func(o *office) { decided(o, "2026-02-27", "2026-02-28") },
			after:  func(o *office) { o.exec(`update billing.period set superseded_at = $1`, o.now) },
			want:   []string{"2026-03 2026-02 2026-02-28 Extreme committed 3.571428571429 35.75 USD calendar_changed 04-03 09:00 open"},
		},
		"an absence that was decided before": {
			before: func(o *office) {
				o.exec(`update dw.fact_daily_consumption set accrued_last_tib = extract(day from usage_date) * 0.5`)
				o.exec(`update dw.fact_daily_consumption set accrued_last_tib = 13.75, absent_since = '2026-03-01' where usage_date = '2026-02-28'`)
				if err := o.DecideAbsence(t.Context(), Absence{"C-1", "A-1", "", "Extreme", 0, day("2026-02-28"), day("2026-02-28"), "keep", "told by mail"}); err != nil {
					t.Fatal(err)
				}
			},
			after: func(o *office) {
				if _, err := o.SetAccruedReading(t.Context(), "acme", month("2026-02"), "running", "jane", "never falls"); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{"2026-03 2026-02 2026-02-28 Extreme burst -0.25 -0.83 USD accrued_reading_changed 04-03 09:00 open"},
		},
		"a waiver": {
			before: func(o *office) {
				o.clock("2026-04-02T12:30:00Z")
				o.price("keystone/////burst/waiver 0 USD 2026-01-01")
				o.exec(`update dw.fact_daily_consumption set accrued_sum_tib = 0 where usage_date <> '2026-02-11'`)
			},
			after: func(o *office) { o.exec(`update dw.dim_subscription set start_at = '2026-02-01'`) },
			want: []string{"2026-03 2026-02 2026-02-11 Extreme burst -0.5 -1.67 USD terms_changed 02-12 00:00 open",
				"2026-03 2026-02 2026-02-11 Extreme burst waiver 0.5 0.00 USD terms_changed 02-12 00:00 open"},
		},
		"a price that holds no more": {
			before: func(o *office) {
				o.exec(`update dw.fact_daily_consumption set accrued_sum_tib = 0 where usage_date <> '2026-02-11'`)
			},
			after: func(o *office) { o.exec(`update billing.rate set superseded_at = $1 where charge = 'burst'`, o.now) },
			want: []string{"2026-03 2026-02 2026-02-11 Extreme burst -0.5 -1.67 USD rate_changed 04-03 09:00 open",
				"2026-03 2026-02 2026-02-11 Extreme burst 0.5 - rate_changed open"},
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			o := closable(t)
			if c.before != nil {
				c.before(o)
			}
			o.clock("2026-04-02T13:00:00Z")
			o.close("2026-02", "a test")
			o.clock("2026-04-03T09:00:00Z")
			c.after(o)
			wantLines(t, what, o.adjustments(), c.want...)
			o.whole(what)
		})
	}
}

// What an open month would have adjusted is told again when that month is opened, though nothing else changed: else
// nobody is ever charged for it.
func TestAdjustmentsOfAReopenedMonth(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.close("2026-02", "")
	o.clock("2026-04-03T09:00:00Z")
	o.change("restated", "2026-02-10", "committed_tib = 128")
	const open = "2026-03 2026-02 2026-02-10 Extreme committed 1 10.01 USD restated 04-03 09:00 open"
	wantLines(t, "restated", o.adjustments(), open)
	o.close("2026-03", "")
	wantLines(t, "frozen", o.adjustments(), strings.Replace(open, " open", " closed", 1))
	o.wantSettled("2026-02 2026-03")

	o.clock("2026-04-04T09:00:00Z")
	o.reopen("2026-03")
	o.wantSettled("")
	wantLines(t, "reopened", o.adjustments(), open)
	o.whole("reopened")
	if c := o.close("2026-03", ""); c.Version != 2 || c.Adjustments != 1 || c.AdjustmentTotals != "USD 10.01" {
		t.Errorf("closed again: got %+v", c)
	}
	o.whole("closed again")
}

// A line that is cut in two at one price is rounded twice: the cent is adjusted though no day has another figure.
func TestRoundingAloneIsAdjusted(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.close("2026-02", "")
	o.clock("2026-04-03T09:00:00Z")
	o.price("keystone/////committed 10.01 USD 2026-01-01", "keystone/////burst 3.333 USD 2026-01-01 2026-02-01", "keystone/////burst 3.333 USD 2026-02-02")
	wantLines(t, "cut", o.rows(`select format('%s %s', segment_from, amount) from billing.computed_statement('2026-02', 'infinity') where charge = 'burst' order by 1`),
		"2026-02-01 1.67", "2026-02-02 45.00") // 1.6665 and 44.9955; together 46.662
	wantLines(t, "closed at 46.66", o.adjustments(), "2026-03 2026-02 2026-02-28 Extreme burst 0 0.01 USD rate_changed 04-03 09:00 open")
	o.whole("cut")
	o.close("2026-03", "")
	o.whole("frozen")
	o.wantSettled("2026-02 2026-03")
}

// readings is an account of wolkvox with March 2026 whole and priced.
func (o *office) readings() {
	o.t.Helper()
	o.exec(`insert into dw.dim_operation (operation_key, account, operation, server, zone, first_seen_at) overriding system value values (1, 'calls', 'OP', '0039', 'America/Bogota', now())`)
	o.exec(`insert into dw.dim_product (product_key, product_number, api, title, unit, kind) overriding system value values (1, 1, 'chat_licenses', 'Chat', 'licences', 'gauge')`)
	o.reading("2026-03-01", 31, 10, "2026-04-01T05:00:00Z", false)
	o.price("wolkvox/////license 2.5 USD 2026-01-01")
}

// reading has days of the product read, by a run at the given instant.
func (o *office) reading(first string, days, items int, at string, imported bool) {
	o.t.Helper()
	o.exec(`insert into ops.run (source, dataset, scope, account, status, owner, fence, business_at, started_at, finished_at) values ('wolkvox', 'wolkvox.billing', 'calls', 'calls', 'ok', 'o', 1, $1::text::timestamptz, now(), now())`, at)
	o.exec(`insert into dw.fact_license_snapshot (operation_key, product_key, description, snapshot_date, items, items_text, items_min, items_max, reading_count, read_at, payload_id, run_id, is_imported, zone)
		select 1, 1, 'Chat', d, $3, 'x', $3, $3, 1, (d + interval '28 hours 59 minutes') at time zone 'UTC', 1, (select max(run_id) from ops.run), $4, 'America/Bogota'
		from generate_series($1::text::timestamp, $1::text::timestamp + ($2 - 1) * interval '1 day', interval '1 day') as d`, first, days, items, imported)
}

// Readings of a closed month are imported: it is told, and adjusted with the instant of the import.
func TestReadingsOfClosedMonths(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.readings()
	o.exec(`delete from dw.fact_license_snapshot where snapshot_date = '2026-03-20'`)
	o.exec(`update dw.fact_license_snapshot set items = 9, items_min = 9 where snapshot_date = '2026-03-25'`) // the greatest reading of the day is what is frozen
	told := func() []string {
		return o.rows(`select concat_ws(' ', period, coalesce(nullif(customer_id, ''), '-'), account, changes, first_day, last_day, to_char(known_since at time zone 'UTC', 'MM-DD HH24:MI'), run_id) from billing.closed_day_changed('-infinity')`)
	}
	o.close("2026-03", "nobody read it")
	wantLines(t, "nothing yet", told())
	o.wantSettled("2026-03")
	o.clock("2026-04-03T09:00:00Z")
	o.reading("2026-03-20", 1, 17, "2026-04-03T08:30:00Z", true)
	wantLines(t, "imported", told(), "2026-03 - calls 1 2026-03-20 2026-03-20 04-03 08:30 2")
	wantLines(t, "adjusted", o.adjustments(),
		"2026-04 2026-03 2026-03-01 chat_licenses license -10 -25.00 USD restated 04-03 08:30 open",
		"2026-04 2026-03 2026-03-20 chat_licenses license 17 42.50 USD late 04-03 08:30 open")
	o.whole("imported")
	o.want(`select count(*)::text from billing.closed_day_changed('2026-04-03T08:30:00Z')`, "0")
	o.reading("2026-02-20", 1, 17, "2026-04-03T08:45:00Z", true)
	o.want(`select distinct to_char(known_since at time zone 'UTC', 'MM-DD HH24:MI') from mart.adjustment`, "04-03 08:30") // of an import of this month
	o.clock("2026-04-03T10:00:00Z")
	if _, err := o.SetProductRule(t.Context(), "chat_licenses", "last", "the contract"); err != nil {
		t.Fatal(err)
	}
	o.want(`select distinct reason || to_char(known_since at time zone 'UTC', ' MM-DD HH24:MI') from mart.adjustment where usage_date = '2026-03-31'`, "rule_changed 04-03 10:00")
	o.whole("another rule")
}

// A load that calls an earlier instant its own commits after the close: what it changed is told and adjusted.
func TestLoadThatCommitsAfterTheClose(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.clock("2026-04-02T13:00:00Z")
	tx, err := o.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	restate := (&office{Billing: &Billing{}, t: t, now: at("2026-04-02T12:30:00Z")})
	restate.changeBy(func(sql string, args ...any) {
		t.Helper()
		if _, err := tx.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}, "restated", "2026-02-10", "committed_tib = 128")
	o.close("2026-02", "")
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.want(`select format('%s %s %s', period, changes, first_day) from billing.closed_day_changed('-infinity')`, "2026-02 1 2026-02-10")
	wantLines(t, "adjusted", o.adjustments(), "2026-03 2026-02 2026-02-10 Extreme committed 1 10.01 USD restated 04-02 12:30 open")
	o.whole("committed after")
}

// What decides about a month is in its fingerprint, and what comes by itself is not.
func TestFingerprint(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.readings()
	o.exec(`insert into dw.fact_commitment (customer_key, service_level_key, valid_from, committed_tib, run_id) values (1, 1, '2026-01-20', 100, 1)`)
	o.exec(`insert into dw.fact_subscription (customer_key, subscription_key, valid_from, start_at, run_id) values (1, 1, '2026-01-20', '2026-01-10', 1)`)
	o.exec(`insert into dw.accrued_reading (account, month, reading, decided_by, reason, decided_at) values ('acme', '2026-03-01', 'increment', 'x', 'x', now())`)
	o.exec(`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since) values
		('C-1', 'A-1', 'burst', '2026-01-16', '2026-02-15', 'monthly', 'test', '2026-01-01'), ('C-1', 'A-1', 'burst', '2026-02-16', '2026-03-15', 'monthly', 'test', '2026-01-01'),
		('C-1', 'A-1', 'burst', '2026-03-16', '2026-04-15', 'monthly', 'test', '2026-01-01'), ('C-1', 'A-1', 'burst', '2026-04-16', '2026-05-15', 'monthly', 'test', '2026-01-01')`)
	rate := func(from, to string) string {
		return fmt.Sprintf(`insert into billing.rate (vendor, charge, item, unit_price, currency, valid_from, valid_to, source, known_since)
			values ('keystone', 'committed', 'Extreme', 9, 'USD', '%s', nullif('%s', '')::date, 'x', now())`, from, to)
	}
	daily := func(level int, day string) string {
		return fmt.Sprintf(`insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			over_committed_avg_tib, accrued_sum_tib, invoiced_samples, uninvoiced_samples, known_since, payload_id, run_id) values (1, %d, '%s', 1, 9, 9, 9, 9, 0, 1, 0, 0, now(), 1, 1)`, level, day)
	}
	const level2 = `insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_class) overriding system value values (2, 1, 1, 'Value', 'base'); `
	commitment := func(from string) string {
		return fmt.Sprintf(`update dw.fact_commitment set valid_to = '%s'; insert into dw.fact_commitment (customer_key, service_level_key, valid_from, committed_tib, run_id) values (1, 1, '%[1]s', 101, 1)`, from)
	}
	const subscription2 = `insert into dw.dim_subscription (subscription_key, customer_key, subscription_number, first_seen_at, start_at) overriding system value values (2, 1, 'A-2', now(), '2026-05-01');
		insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_class) overriding system value values (2, 1, 2, 'Value', 'base'); `
	o.exec(daily(1, "2026-01-24"))
	o.exec(daily(1, "2026-01-25"))
	superseded := func(table, where string) string {
		return `update billing.` + table + ` set superseded_at = '2026-04-02T11:30:00Z' where superseded_at is null and ` + where
	}
	for _, c := range []struct {
		sql   string
		moves bool
	}{
		{`update dw.fact_daily_consumption set committed_tib = 99 where usage_date = '2026-03-10'`, true},
		{`update dw.fact_daily_consumption set accrued_sum_tib = 99 where usage_date = '2026-03-10'`, true},
		{`update dw.fact_daily_consumption set accrued_last_tib = 99 where usage_date = '2026-02-10'`, true}, // a former day of a running total
		{`update dw.fact_daily_consumption set absent_since = now() where usage_date = '2026-03-10'`, true},
		{`update dw.fact_daily_consumption set committed_tib = 99 where usage_date = '2026-02-20'`, true}, // of a period that ends in the month
		{`delete from dw.fact_daily_consumption where usage_date = '2026-03-10'`, true},
		{`delete from dw.fact_daily_consumption where usage_date < '2026-03-01'`, true},
		{daily(1, "2026-01-31"), true},
		{`update dw.fact_daily_consumption set committed_tib = 99 where usage_date = '2026-01-25'`, true}, // holds until a day is there
		{`update dw.fact_daily_consumption set committed_tib = 99 where usage_date = '2026-03-31'`, true},
		{level2 + daily(2, "2026-03-31"), true},
		{level2, true},
		{`update dw.dim_service_level set level_class = 'unclassified'`, true},
		{`update dw.dim_subscription set start_at = '2026-01-11'`, true},
		{`update dw.dim_subscription set end_at = '2026-03-11'`, true},
		{`update dw.fact_subscription set end_at = '2026-03-11'`, true},
		{`update dw.fact_commitment set committed_tib = 99`, true},
		{`update dw.fact_commitment set absent_since = '2026-03-11'`, true},
		{commitment("2026-03-31T12:00:00Z"), true}, // on the last day
		{`update dw.dim_customer set account = 'other'`, true},
		{`update ops.watermark set expected_from = '2026-03-02'`, true},
		{`update ops.watermark set settle = '9999h'`, true},
		{`update ops.clock set fixed_at = '2026-04-01T01:59:59Z'`, true}, // the last day is not due
		{superseded("rate", `charge = 'committed'`), true},
		{rate("2025-01-01", "2026-02-01"), true}, // the month of the first day of a period that ends in the month
		{rate("2026-03-31", ""), true},
		{superseded("period", `period_end = '2026-03-15'`), true},
		{superseded("period", `period_start = '2026-03-16'`), true},
		{`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since) values ('C-1', 'A-1', 'committed', '2026-02-02', '2026-03-01', 'monthly', 'test', now())`, true}, // ends on the first day
		{`insert into billing.absence (customer_id, subscription_number, service_level, first_day, last_day, decision, reason, known_since) values ('C-1', 'A-1', 'Extreme', '2026-03-31', '2026-04-30', 'drop', 'x', now())`, true},
		{`insert into billing.accrued_decision (account, month, reading, decided_by, reason, known_since) values ('acme', '2026-03-01', 'running', 'x', 'x', now())`, true},
		{`update dw.accrued_reading set reading = 'running'`, true},
		{`insert into billing.product_rule (product, rule, reason, known_since) values ('chat_licenses', 'last', 'x', now())`, true},
		{`update dw.fact_license_snapshot set items = 9, items_min = 9 where snapshot_date = '2026-03-31'`, true},
		{`update dw.fact_license_snapshot set items_max = 99 where snapshot_date = '2026-03-31'`, true},
		{`update dw.fact_license_snapshot set items = 9, items_min = 9 where snapshot_date = '2026-03-01'`, true},
		{`delete from dw.fact_license_snapshot where snapshot_date = '2026-03-31'`, true},
		{`update dw.dim_product set kind = 'counter'`, true},
		{`create or replace function billing.exact_scale() returns numeric language sql as 'select 1.0'`, true},

		{`update ops.clock set fixed_at = '2026-04-01T02:00:00Z'`, false},
		{daily(1, "2026-04-01"), false},
		{`update dw.fact_daily_consumption set digest = 'e', known_since = now(), run_id = 2, consumed_avg_tib = 7`, false},
		{`update dw.fact_daily_consumption set committed_tib = 99, accrued_sum_tib = 9 where usage_date = '2026-01-24'`, false}, // another day holds after it
		{`update ops.watermark set watermark = '2026-04-09', last_success_at = now()`, false},
		{`update dw.dim_customer set seen_at = now()`, false},
		{subscription2, false},
		{subscription2 + daily(2, "2026-05-01"), false},
		{commitment("2026-04-20"), false},
		{superseded("period", `period_end = '2026-05-15'`), false},
		{rate("2025-01-01", "2026-01-31"), false},
		{rate("2026-04-01", ""), false},
		{`insert into billing.accrued_decision (account, month, reading, decided_by, reason, known_since) values ('acme', '2026-04-01', 'running', 'x', 'x', now())`, false},
		{`insert into billing.absence (customer_id, subscription_number, service_level, first_day, last_day, decision, reason, known_since) values ('C-1', 'A-1', 'Extreme', '2026-04-01', '2026-04-30', 'drop', 'x', now())`, false},
		{`insert into ops.run (source, dataset, scope, account, status, owner, fence, business_at, started_at, finished_at) values ('keystone', 'keystone.history', 'C-1', 'acme', 'ok', 'o', 1, now(), now(), now())`, false},
		{`set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set intervalstyle = 'iso_8601'; set search_path = mart`, false},
	} {
		conn, err := o.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var before, after string
		for _, step := range []struct {
			sql  string
			into *string
		}{{"begin", nil}, {"", &before}, {c.sql, nil}, {"", &after}, {"rollback", nil}, {"reset all", nil}} {
			if step.into != nil {
				err = conn.QueryRow(t.Context(), `select encode(billing.fingerprint('2026-03'), 'hex')`).Scan(step.into)
			} else {
				_, err = conn.Exec(t.Context(), step.sql)
			}
			if err != nil {
				t.Fatalf("%s: %v", step.sql, err)
			}
		}
		conn.Release()
		if (before != after) != c.moves {
			t.Errorf("%s: moves the fingerprint: %v, want %v", c.sql, before != after, c.moves)
		}
	}
}

// Every table that a statement is computed from is looked at by the fingerprint.
func TestFingerprintLooksAtAllThereIs(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	const doubtsOnly = `'{ops.quarantine,ops.run,ops.clock,dw.fact_license_reading}'` // what keeps a line from being final, or was known at another time
	o.want(`
		with source as (
			select p.proname, p.prosrc from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
			where n.nspname in ('dw', 'billing') and p.proname in ('statement_part', 'daily_consumption_as_of', 'accrued_reading_as_of', 'business_now', 'fingerprint')
		),
		named as (
			select distinct s.proname = 'fingerprint' as is_ours, m[1] as name from source as s cross join regexp_matches(regexp_replace(s.prosrc, '--[^
]*', '', 'g'), '\m((?:raw|ops|dw|mart|billing)\.[a-z_]+)', 'g') as m
		)
		select n.name
		from named as n
		where not n.is_ours and n.name <> all (` + doubtsOnly + `) and to_regclass(n.name) is not null
			and not exists (select from named as f where f.is_ours and f.name = n.name)
		order by 1`)
	// They call nothing else of ours that could look at more.
	o.want(`
		select distinct m[1]
		from pg_proc as p
		cross join regexp_matches(p.prosrc, '\m((?:dw|billing)\.[a-z_]+)\(', 'g') as m
		where p.oid = 'billing.statement_part'::regproc
		order by 1`, "billing.accrued_reading_as_of", "billing.business_now", "dw.daily_consumption_as_of")
}

// Whoever may read cannot have the rights of the owner of the functions that it calls: types of its own, by the
// names of those that the functions use, are not looked at.
func TestTemporaryTypesAreNotLookedAt(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.close("2026-02", "")
	reader := o.as("bi_reader")
	tx, err := reader.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	for _, sql := range []string{
		`create function pg_temp.evil(pg_catalog.date) returns boolean language plpgsql as 'begin grant insert on billing.rate to bi_reader; return true; end'`,
		`create function pg_temp.evil(pg_catalog.text) returns boolean language plpgsql as 'begin grant insert on billing.rate to bi_reader; return true; end'`,
		`create domain pg_temp.date as pg_catalog.date check (pg_temp.evil(value))`,
		`create domain pg_temp.text as pg_catalog.text check (pg_temp.evil(value))`,
		`select billing.open_period()`,
		`select * from billing.statement('2026-03', 'infinity')`,
		`select * from billing.adjustment('2026-02')`,
		`select * from billing.close_obstacle('2026-03')`,
	} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	var may bool
	if err := tx.QueryRow(t.Context(), `select has_table_privilege('bi_reader', 'billing.rate', 'insert')`).Scan(&may); err != nil || may {
		t.Errorf("a reader gave itself the right to insert prices: %v, %v", may, err)
	}
}

// Somebody who may add rows begins before a close and comes to its end after it: nothing gets into the sealed link.
func TestNothingIsAddedMeanwhile(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"read committed", "repeatable read"} {
		t.Run(isolation, func(t *testing.T) {
			t.Parallel()
			o := closable(t)
			o.close("2026-02", "")
			other := o.as("meterhouse_closer")
			tx, err := other.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(context.Background())
			for _, sql := range []string{"set transaction isolation level " + isolation, "select count(*) from billing.chain"} {
				if _, err := tx.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			closed := make(chan error, 1)
			sneak := func() error {
				_, err := tx.Exec(t.Context(), `insert into billing.closed_line (link, line_no, kind, source, customer_id, account, subscription_number, item, charge, unit, discriminator, description, is_waiver)
					values (2, 99, 'statement', '', '', '', '', '', '', '', '', '', false)`)
				return err
			}
			// Before: the close waits for it, and it cannot commit without a link.
			if err := sneak(); err != nil {
				t.Fatal(err)
			}
			go func() {
				_, err := o.Close(context.Background(), month("2026-03"), CloseOptions{By: "jane"})
				closed <- err
			}()
			// The close waits for us, or has passed us by.
			for len(o.rows(`select pid::text from pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())`)) == 0 && len(closed) == 0 {
				runtime.Gosched()
			}
			if err := tx.Commit(t.Context()); err == nil {
				t.Error("a row of no link was committed")
			}
			if err := <-closed; err != nil {
				t.Error(err)
			}
			o.whole("after one that began before")

			// After: its snapshot is older than the close.
			if tx, err = other.pool.Begin(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(context.Background())
			for _, sql := range []string{"set transaction isolation level " + isolation, "select count(*) from billing.chain"} {
				if _, err := tx.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			o.reopen("2026-03")
			if _, err := tx.Exec(t.Context(), `insert into billing.closed_line (link, line_no, kind, source, customer_id, account, subscription_number, item, charge, unit, discriminator, description, is_waiver)
				values (3, 99, 'statement', '', '', '', '', '', '', '', '', '', false)`); err == nil {
				err = tx.Commit(t.Context())
				if err == nil {
					t.Error("a row was added to a sealed link")
				}
			}
			o.whole("after one whose snapshot is older")
		})
	}
}

// A link tells of itself what its header tells, and no month is remembered as settled but by its close.
func TestLinksAreWhatTheyTell(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.close("2026-02", "")
	link := func(kind, period, at, after string) string {
		return `begin; insert into billing.close (link, period, version, closed_at, closed_by, database_user, lines, adjustments, days, totals, adjustment_totals)
				values (2, '2026-03', 1, '2026-04-02T12:00:00Z', 'x', 'x', 0, 0, 0, '', '');
			insert into billing.chain (link, kind, period, at, previous_hash, hash)
				select 2, '` + kind + `', '` + period + `', '` + at + `', hash, billing.link_hash(2) from billing.chain where link = 1;
			` + after + `; commit`
	}
	const at = "2026-04-02T12:00:00Z"
	o.refused("its header tells", link("close", "2026-02", at, "select"))
	o.refused("its header tells", link("reopen", "2026-03", at, "select"))
	o.refused("its header tells", link("close", "2026-03", "2026-01-01T00:00:00Z", "select"))
	const refused = "not a close of this transaction"
	o.refused(refused, link("close", "2026-03", at, "select billing.settle(2, '{2026-03}')"))                  // not of one snapshot
	o.refused(refused, "begin isolation level repeatable read; select billing.settle(1, '{2026-02}'); commit") // of another transaction
	o.refused("never changed or deleted", "update billing.settled set fingerprint = sha256('x')")              // of the owner even
	o.as("meterhouse_closer").refused("SQLSTATE 42501", "insert into billing.settled values ('2026-02', billing.fingerprint('2026-02'), 1)")
	o.as("meterhouse_loader").refused("SQLSTATE 42501", "insert into billing.settled values ('2026-02', billing.fingerprint('2026-02'), 1)")
	o.whole("refused")

	// Nor by the close of a month before the open one: it freezes no adjustments.
	o.clock("2026-04-03T09:00:00Z")
	o.change("restated", "2026-02-10", "committed_tib = 128")
	o.exec(strings.NewReplacer("begin;", "begin isolation level repeatable read;", "2026-03", "2026-01").Replace(link("close", "2026-03", at, "select billing.settle(2, '{2026-02}')")))
	wantLines(t, "not frozen", o.adjustments(), "2026-03 2026-02 2026-02-10 Extreme committed 1 10.01 USD restated 04-03 09:00 open")
	o.whole("an earlier month is closed")
}

// What the vendor changes of a closed month is told, by customer and month, and what it changes of an open one is not.
func TestClosedDayChanged(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.clock("2026-04-03T09:00:00Z")
	o.change("restated", "2026-02-10", "committed_tib = 128") // before the close
	told := func() []string {
		return o.rows(`select concat_ws(' ', period, customer_id, account, changes, first_day, last_day, to_char(known_since at time zone 'UTC', 'MM-DD HH24:MI'), run_id)
			from billing.closed_day_changed('-infinity')`)
	}
	o.exec(`delete from dw.fact_daily_consumption where usage_date = '2026-02-20'`)
	o.clock("2026-04-03T10:00:00Z")
	o.close("2026-02", "a day is gone")
	wantLines(t, "nothing yet", told())
	o.clock("2026-04-03T11:00:00Z")
	o.change("restated", "2026-02-11", "committed_tib = 128")
	o.change("late", "2026-02-12", "accrued_sum_tib = 2")
	o.change("reread", "2026-02-13", "accrued_sum_tib = 2") // our own doing
	o.change("restated", "2026-03-11", "committed_tib = 128")
	wantLines(t, "changed", told(), "2026-02 C-1 acme 2 2026-02-11 2026-02-12 04-03 11:00 1")
	o.exec(`create table test_day as select * from dw.fact_daily_consumption where usage_date = '2026-02-19'`)
	o.exec(`update test_day set usage_date = '2026-02-20', known_since = '2026-04-03T12:00:00Z'`)
	o.exec(`insert into dw.fact_daily_consumption select * from test_day`)
	wantLines(t, "a missing day came", told(), "2026-02 C-1 acme 3 2026-02-11 2026-02-20 04-03 11:00 1")
	o.want(`select count(*)::text from billing.closed_day_changed('2026-04-03T12:00:00Z')`, "0")
	o.reopen("2026-02")
	wantLines(t, "reopened", told())
}
