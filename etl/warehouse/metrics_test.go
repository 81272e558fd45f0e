package warehouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/migrations"
)

// sumsOfRuns and totals must be the same at any time.
const (
	sumsOfRuns = `
		with n as (
			select r.dataset, r.scope, r.account, n.*
			from ops.run as r
			cross join lateral (
				select 'runs', r.status, 1
				union all select 'records', k, n from (values ('inserted', r.inserted), ('restated', r.restated),
					('unchanged', r.unchanged), ('ignored', r.ignored), ('quarantined', r.quarantined)) as v (k, n)
				union all select 'calls', class, calls from ops.run_call as c where c.run_id = r.run_id
			) as n (counted, kind, n)
			where r.status <> 'running' and n.n > 0
		)
		select dataset, scope, account, counted, kind, sum(n) from n group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5`
	totals = `select dataset, scope, account, counted, kind, total from ops.run_total order by 1, 2, 3, 4, 5`
)

func (h *house) wantTotals() {
	h.t.Helper()
	if got, want := h.rows(totals), h.rows(sumsOfRuns); !slices.Equal(got, want) {
		h.t.Errorf("totals\n got %q\nwant %q", got, want)
	}
}

// attempt is one run that asks as told and then loads one sample, or fails.
func (h *house) attempt(account string, calls map[string]int, reason error) int64 {
	h.t.Helper()
	job := etl.Job{Source: "keystone", Dataset: "keystone.history", Scope: "C-1", Account: account, Expected: day("2026-05-10"), NextDue: h.now.Add(24 * time.Hour)}
	lease, err := h.Lease(context.Background(), job.Dataset, job.Scope)
	if err != nil {
		h.t.Fatal(err)
	}
	defer lease.Release(context.Background())
	w := window("2026-05-10", "2026-05-12")
	run, err := h.StartRun(context.Background(), lease, job, w, h.now)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, _ := etl.WithCalls(context.Background(), run.ID())
	for class, n := range calls {
		for range n {
			etl.CountCall(ctx, class)
		}
	}
	if reason != nil {
		if err := run.Fail(ctx, nil, reason); err != nil {
			h.t.Fatal(err)
		}
		return run.ID()
	}
	ans := &etl.Answer{Request: etl.Request{Dataset: job.Dataset, Scope: job.Scope, Window: w}, Method: "GET", URL: "http://localhost/", Status: 200,
		RequestedAt: h.now, FetchedAt: h.now, Body: memory("{}")}
	feed := func(_ *etl.Answer, sink etl.Sink) (etl.Report, error) {
		if _, bad := calls[etl.CallContract]; bad {
			return etl.Report{}, etl.Rejected("json_syntax", "cut")
		}
		level := extreme(sample("2026-05-10T00:00:00Z", "110"))
		return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}}, sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{level}})
	}
	if _, err := run.Load(ctx, []*etl.Answer{ans}, nil, feed); err != nil && calls[etl.CallContract] == 0 {
		h.t.Fatal(err)
	}
	return run.ID()
}

// What a run asked is kept with it, however it ended, and the sums are those of all runs that ended.
func TestCallsAndTotals(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	first := h.attempt("acme", map[string]int{etl.CallOK: 1, etl.CallTimeout: 2, etl.CallToken: 1}, nil)
	h.wantTotals()
	h.attempt("acme", map[string]int{etl.CallOK: 1}, nil)
	failed := h.attempt("acme", map[string]int{etl.CallUnavailable: 4}, errors.New("vendor is down"))
	h.attempt("acme", nil, errors.New("no vendor was asked"))
	h.attempt("acme", map[string]int{etl.CallOK: 1, etl.CallContract: 1}, nil) // refused as a whole: Load fails by itself
	h.attempt("other", map[string]int{etl.CallOK: 1}, nil)
	h.want(fmt.Sprintf(`select calls from mart.run where run_id = %d`, first), "ok 1, timeout 2, token 1")
	h.want(fmt.Sprintf(`select calls from mart.run where run_id = %d`, failed), "unavailable 4")
	h.want(`select count(*) from mart.run where calls = ''`, "1")
	h.wantTotals()

	// A run whose process died is closed by the next one, and counted then.
	job := etl.Job{Source: "keystone", Dataset: "keystone.history", Scope: "C-1", Account: "acme"}
	lease, err := h.Lease(t.Context(), job.Dataset, job.Scope)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := h.StartRun(t.Context(), lease, job, etl.Window{}, h.now)
	if err != nil {
		t.Fatal(err)
	}
	h.wantTotals() // it is running
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.attempt("acme", map[string]int{etl.CallOK: 1}, nil)
	h.want(`select count(*) from ops.run where error like 'its process died%'`, "1")
	h.wantTotals()

	// Its late owner does not count it again.
	if err := lost.Fail(t.Context(), nil, errors.New("woke up")); err != nil {
		t.Fatal(err)
	}
	h.wantTotals()
	h.want(`select kind, total from ops.run_total where counted = 'runs' and account = 'acme' order by kind`, "failed|4", "ok|3")
	// The sums stay when runs go.
	h.exec(`delete from ops.run where run_id = $1`, failed)
	h.want(`select total from ops.run_total where counted = 'calls' and kind = 'unavailable'`, "4")
}

// The migration begins the sums with the runs that are there.
func TestTotalsOfFormerRuns(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.attempt("acme", nil, nil)
	h.attempt("acme", nil, errors.New("down"))
	want := h.rows(totals)
	if _, err := migrations.Down(t.Context(), h.url, 9); err != nil {
		t.Fatal(err)
	}
	if _, _, err := migrations.Up(t.Context(), h.url); err != nil {
		t.Fatal(err)
	}
	if got := h.rows(totals); !slices.Equal(got, want) || len(got) == 0 {
		t.Errorf("totals\n got %q\nwant %q", got, want)
	}
}

// measured is every figure by name and labels.
func (h *house) measured() map[string]string {
	h.t.Helper()
	all := map[string]string{}
	for _, g := range MetricGroups() {
		figures, err := h.Measure(context.Background(), g, nil)
		if err != nil {
			h.t.Errorf("%v", err)
		}
		for _, f := range figures {
			key := f.Metric.Name + " " + strings.Join(f.Labels, " ")
			if _, twice := all[key]; twice {
				h.t.Errorf("%s: twice", key)
			}
			all[key] = f.Value
		}
	}
	return all
}

func (h *house) wantMeasured(got map[string]string, want ...string) {
	h.t.Helper()
	for i := 0; i < len(want); i += 2 {
		if g, ok := got[want[i]]; !ok || g != want[i+1] {
			h.t.Errorf("%s is %q, want %s", want[i], g, want[i+1])
		}
	}
}

func epoch(s string) string { return fmt.Sprintf("%d.000000", at(s).Unix()) }

func TestMeasure(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	if got := h.measured(); len(got) > 0 {
		t.Errorf("figures of nothing: %v", got)
	}
	h.attempt("acme", map[string]int{etl.CallOK: 1, etl.CallThrottled: 2}, nil)
	h.attempt("acme", nil, errors.New("down"))
	freshness := "keystone keystone.history acme C-1"
	got := h.measured()
	h.wantMeasured(got,
		"meterhouse_watermark_lag_seconds "+freshness, fmt.Sprintf("%d.000000", 3*86400+12*3600), // complete to the 12th, now is noon of the 15th
		"meterhouse_last_success_timestamp_seconds "+freshness, epoch("2026-05-15T12:00:00Z"),
		"meterhouse_next_due_timestamp_seconds "+freshness, epoch("2026-05-16T12:00:00Z"),
		"meterhouse_scope_late "+freshness, "0",
		"meterhouse_scope_failing "+freshness, "1",
		"meterhouse_runs_total keystone keystone.history ok", "1",
		"meterhouse_runs_total keystone keystone.history partial", "0",
		"meterhouse_runs_total keystone keystone.history failed", "1",
		"meterhouse_records_total keystone keystone.history inserted", "1",
		"meterhouse_records_total keystone keystone.history quarantined", "0",
		"meterhouse_vendor_calls_total keystone acme ok", "1",
		"meterhouse_vendor_calls_total keystone acme throttled", "2",
		"meterhouse_quarantine_open_records keystone keystone.history", "0",
		"meterhouse_coverage_holes keystone keystone.history acme lost", "0",
	)
	if got["meterhouse_coverage_holes keystone keystone.history acme missing"] == "0" {
		t.Error("no day is missing, although the vendor did not answer for some")
	}

	h.now = at("2026-05-16T12:00:01Z")
	h.wantMeasured(h.measured(), "meterhouse_scope_late "+freshness, "1")
	// A customer that left is not late.
	h.exec(`update dw.dim_customer set absent_since = now()`)
	h.wantMeasured(h.measured(), "meterhouse_scope_late "+freshness, "0")

	h.exec(`insert into ops.vendor_call (credential, account, product, owner, started_at, lost_at, ended_at, outcome) values
		('k1', 'calls', 'a', 'me', now() - interval '25 hours', now(), now(), 'ok'), ('k1', 'calls', 'a', 'me', now() - interval '2 hours', now(), now(), 'ok'),
		('k1', 'calls', 'b', 'me', now() - interval '1 hour', now(), now(), 'ok'), ('k2', 'more', 'a', 'me', now() - interval '2 days', now(), now(), 'ok')`)
	h.wantMeasured(h.measured(), "meterhouse_vendor_day_calls calls", "2", "meterhouse_vendor_day_calls more", "0")
}

// The vendor's own numbers are read where there are any.
func TestMeasureBudget(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.exec(`insert into ops.vendor_call (credential, account, product, owner, started_at, lost_at, ended_at, outcome)
		select 'k1', 'calls', 'a', 'me', now() - interval '2 minutes' * n, now() + interval '1 hour', now(), case n when 1 then 'unsent' else 'ok' end from generate_series(1, 5) as n`)
	h.exec(`insert into ops.vendor_quota (call_id, credential, account, limit_calls, used_by_token, used_by_all, left_calls, used_elsewhere, told_at)
		select call_id, 'k1', 'calls', 500, 100, 100, 400, 96, '2026-05-15T00:00:00Z' from ops.vendor_call order by call_id limit 1`)
	h.exec(`insert into ops.vendor_quota (call_id, credential, account, used_elsewhere, told_at)
		select call_id, 'k2', 'mute', 0, '2026-05-15T00:00:00Z' from ops.vendor_call order by call_id desc limit 1`)
	got := h.measured()
	h.wantMeasured(got,
		"meterhouse_vendor_budget_limit_calls calls", "500",
		"meterhouse_vendor_budget_left_calls calls", "400",
		"meterhouse_vendor_budget_told_timestamp_seconds calls", epoch("2026-05-15T00:00:00Z"))
	if value, told := got["meterhouse_vendor_budget_left_calls mute"]; told {
		t.Errorf("a vendor that tells nothing has %s left", value)
	}
}

func TestMeasureTokens(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	generation := func(account string, n int, obtained, seeded string) {
		h.exec(`insert into ops.credential (account, generation, refresh_sealed, obtained_at, source, seeded_at, fingerprint, key_id)
			values ($1, $2, '\x00', now() - $3::interval, 'refresh', now() - $4::interval, $5, 'k')`, account, n, obtained, seeded, fmt.Sprint(account, n))
	}
	attempt := func(account string, from int, state, deadline string) {
		h.exec(`insert into ops.credential_attempt (account, from_generation, owner, deadline_at, state) values ($1, $2, 'me', now() + $3::interval, $4)`,
			account, from, deadline, state)
	}
	generation("fine", 1, "6 days", "60 days")
	attempt("fine", 1, "done", "-1 day")
	generation("fine", 2, "1 day", "60 days")
	generation("busy", 1, "1 day", "1 day")
	attempt("busy", 1, "open", "30 seconds")
	generation("stuck", 1, "1 day", "1 day")
	attempt("stuck", 1, "open", "-30 seconds")
	generation("unclear", 1, "1 day", "1 day")
	attempt("unclear", 1, "ambiguous", "-30 seconds")
	generation("refused", 1, "1 day", "1 day")
	attempt("refused", 1, "rejected", "-30 seconds")
	generation("reseeded", 1, "1 day", "1 day")
	attempt("reseeded", 1, "rejected", "-30 seconds")
	generation("reseeded", 2, "1 hour", "1 hour")
	generation("old", 1, "8 days", "8 days")
	got := h.measured()
	for account, want := range map[string]string{"fine": "ok", "busy": "ok", "stuck": "ambiguous", "unclear": "ambiguous", "refused": "dead", "reseeded": "ok", "old": "dead"} {
		for _, state := range []string{"ok", "ambiguous", "dead"} {
			value := "0"
			if state == want {
				value = "1"
			}
			h.wantMeasured(got, "meterhouse_token_state "+account+" "+state, value)
		}
	}
	h.want(`select bool_and(abs(extract(epoch from now()) + d * 86400 - t) < 600)::text from (values
		(6, `+got["meterhouse_token_expires_timestamp_seconds fine"]+`), (30, `+got["meterhouse_token_login_due_timestamp_seconds fine"]+`),
		(-1, `+got["meterhouse_token_obtained_timestamp_seconds fine"]+`), (-60, `+got["meterhouse_token_login_timestamp_seconds fine"]+`)) as v (d, t)`, "true")
}

// A query that takes too long ends on the server too, and harms no other.
func TestMeasureEnds(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	stuck := MetricGroup{Name: "stuck", Metrics: []Metric{{Name: "x"}}, sql: `select 1 from (select set_config('statement_timeout', '10', true)) as s, pg_sleep(0)`}
	if figures, err := h.Measure(t.Context(), stuck, nil); err != nil || len(figures) != 1 || figures[0].Value != "1" {
		t.Errorf("%v, %v", figures, err)
	}
	stuck.sql = `select 1 where current_setting('statement_timeout') = '5s' and current_setting('transaction_read_only') = 'on'`
	if figures, err := h.Measure(t.Context(), stuck, nil); err != nil || len(figures) != 1 {
		t.Errorf("without a time-out, or not read-only: %v, %v", figures, err)
	}
	stuck.sql = `select 1 / 0`
	if _, err := h.Measure(t.Context(), stuck, nil); err == nil || !strings.Contains(err.Error(), "measure stuck: ") {
		t.Errorf("error %v", err)
	}
}

func TestReady(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	want := func(what string) {
		t.Helper()
		err := h.Ready(t.Context())
		if err == nil && what == "" {
			return
		}
		var reason *NotReady
		if !errors.As(err, &reason) || err.Error() != what {
			t.Errorf("ready: %v, want %q", err, what)
		}
	}
	want("")
	if _, err := migrations.Down(t.Context(), h.url, migrations.Head()-1); err != nil {
		t.Fatal(err)
	}
	at, err := migrations.Version(t.Context(), warehousetest.Connect(t, h.url)) // numbers may be left out
	if err != nil || at >= migrations.Head() {
		t.Fatalf("version %d after down: %v", at, err)
	}
	want(fmt.Sprintf("the database schema is at version %d, want %d", at, migrations.Head()))
	if _, _, err := migrations.Up(t.Context(), h.url); err != nil {
		t.Fatal(err)
	}
	want("")
	h.exec(`do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$`)
	h.pool.Reset()
	want("the database is read-only")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Ready(ctx); err == nil || err.Error() != "the database does not answer" || !errors.Is(err, context.Canceled) {
		t.Errorf("ready: %v", err)
	}
}

// BenchmarkMeasure is the price of each group of figures beside 500,000 runs of 400 scopes, as many calls
// and a year of daily figures: go test ./etl/warehouse -run '^$' -bench Measure -benchtime 5x.
func BenchmarkMeasure(b *testing.B) {
	h := newHouse(b)
	h.now = at("2027-01-01T12:00:00Z")
	for _, sql := range []string{
		`insert into ops.run (source, dataset, scope, account, status, owner, fence, business_at, fetched_at, started_at, finished_at, received, unchanged)
			select 'keystone', (array['keystone.history', 'keystone.current', 'keystone.subscriptions', 'keystone.customers'])[1 + n % 4], 'C-' || n % 100, 'acme',
				case when n % 50 = 0 then 'failed' else 'ok' end, 'me', n, t, t, t, t, 100, 100
			from generate_series(1, 500000) as n cross join lateral (select '2026-01-01'::timestamptz + n * interval '1 minute' as t) as clock`,
		`insert into ops.run_call (run_id, class, calls) select run_id, case status when 'ok' then 'ok' else 'unavailable' end, 1 from ops.run`,
		`insert into ops.run_total (source, dataset, scope, account, counted, kind, total)
			select source, dataset, scope, account, counted, kind, sum(n) from ops.run
			cross join lateral (values ('runs', status, 1), ('records', 'unchanged', unchanged), ('calls', 'ok', 1)) as v (counted, kind, n)
			group by 1, 2, 3, 4, 5, 6`,
		`insert into ops.watermark (source, dataset, scope, account, watermark, last_success_at, last_run_id, next_due_at, expected_from)
			select source, dataset, scope, account, max(fetched_at), max(fetched_at), max(run_id), max(fetched_at), '2026-01-01' from ops.run group by 1, 2, 3, 4`,
		`insert into ops.coverage (source, dataset, scope, day, status, run_id)
			select 'keystone', 'keystone.history', 'C-' || c, '2026-01-01'::date + d, 'answered', 1 from generate_series(0, 99) as c, generate_series(0, 360) as d`,
		`insert into ops.vendor_call (credential, account, product, owner, started_at, lost_at, ended_at, outcome)
			select 'k' || n % 3, 'calls' || n % 3, 'p' || n % 27, 'me', now() - n * interval '1 minute', now(), now(), 'ok' from generate_series(1, 500000) as n`,
		`insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at) select 'C-' || n, 'acme', now(), now() from generate_series(0, 99) as n`,
		`insert into dw.dim_subscription (customer_key, subscription_number, discriminator, first_seen_at)
			select customer_key, 'S-1', '', now() from dw.dim_customer`,
		`insert into dw.dim_service_level (customer_key, subscription_key, service_level, level_class)
			select customer_key, subscription_key, 'Level ' || n, 'base' from dw.dim_subscription, generate_series(1, 5) as n`,
		`insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib,
				consumed_last_tib, over_committed_avg_tib, invoiced_samples, uninvoiced_samples, digest, known_since, payload_id, run_id)
			select customer_key, service_level_key, '2026-01-01'::date + d, 288, 1, 1, 1, 1, 0, 0, 288, '\x00', now(), 1, 1
			from dw.dim_service_level, generate_series(0, 360) as d`,
		`insert into ops.watermark (source, dataset, scope, account, watermark, last_success_at, last_run_id, next_due_at)
			values ('wolkvox', 'wolkvox.billing', 'calls', 'calls', '2027-01-01', '2027-01-01', 1, '2027-01-01')`,
		`insert into ops.coverage (source, dataset, scope, product, day, status, run_id)
			select 'wolkvox', 'wolkvox.billing', 'calls', 'p' || p, '2026-01-01'::date + d, 'answered', 1 from generate_series(1, 27) as p, generate_series(0, 365) as d`,
		`insert into dw.dim_product (product_number, api, title, unit, kind) select n, 'p' || n, 'P', 'unit', 'gauge' from generate_series(1, 27) as n`,
		`insert into dw.dim_operation (account, operation, server, zone, first_seen_at) values ('calls', 'demo', '1', 'America/Bogota', now())`,
		`insert into dw.fact_license_reading (operation_key, product_key, description, reading_date, read_at, items, items_text, payload_id, run_id)
			select operation_key, product_key, 'd', t::date, t, 1, '1', 1, 1
			from dw.dim_operation, dw.dim_product, generate_series('2026-01-01'::timestamptz, '2027-01-01', interval '30 minutes') as t`,
		`insert into dw.fact_license_snapshot (operation_key, product_key, description, snapshot_date, items, items_text, items_min, items_max, reading_count, read_at, payload_id, run_id)
			select operation_key, product_key, description, (read_at at time zone 'America/Bogota')::date, 1, '1', 1, 1, count(*), max(read_at), 1, 1 from dw.fact_license_reading group by 1, 2, 3, 4`,
	} {
		h.exec(sql)
	}
	h.exec(`vacuum analyze`)
	for _, g := range MetricGroups() {
		b.Run(g.Name, func(b *testing.B) {
			for b.Loop() {
				if _, err := h.Measure(b.Context(), g, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What is configured no longer is not measured: rules would page about it without end.
func TestMeasureOfRemovedAccount(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.ran("keystone.customers", "acme", "", time.Hour)
	w.token(1, 8*days, 91*days)
	w.now = w.now.Add(30 * days)
	for _, watched := range [][]Watched{{}, {{Source: "wolkvox", Account: "acme"}}, {{Source: "keystone", Account: "acme"}}} {
		isWatched := len(watched) == 1 && watched[0].Source == "keystone"
		for _, g := range MetricGroups() {
			if g.Name != "token_state" && g.Name != "freshness" {
				continue
			}
			figures, err := w.Measure(t.Context(), g, watched)
			if err != nil {
				t.Fatal(err)
			}
			if (len(figures) > 0) != isWatched {
				t.Errorf("%s, watching %v: %v", g.Name, watched, figures)
			}
		}
	}
}

// Calls that were never sent count for nothing.
func TestMeasureDayCalls(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.exec(`insert into ops.vendor_call (credential, account, product, owner, started_at, lost_at, ended_at, outcome)
		values ('h', 'calls', 'p', 'o', now(), now() + interval '2 minutes', now(), 'unsent')`)
	figures, err := w.Measure(t.Context(), dayCalls, nil)
	if err != nil || len(figures) != 1 || figures[0].Value != "0" {
		t.Errorf("%v %v", figures, err)
	}
}
