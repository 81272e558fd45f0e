package console

import (
	"encoding/csv"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"meterhouse/etl/billing"
	"meterhouse/etl/warehouse/warehousetest"
)

// past is what happened to a grown warehouse before anybody looks: refused records, a run that goes on, one with
// warnings, one that read another's answers again, landed answers, an alert, days that cannot be told yet, days that are
// gone again, figures of many digits, of no digit and below zero.
var past = []string{
	`insert into ops.run (source, dataset, scope, account, status, owner, fence, business_at, started_at)
	values ('wolkvox', 'wolkvox.billing', 'calls', 'calls', 'running', 'test', 2, '2026-11-02T12:00:00Z', '2026-11-02T11:59:58.123456Z')`,
	`insert into ops.run (source, dataset, scope, account, status, owner, fence, business_at, fetched_at, started_at, finished_at, window_from, window_until, received, inserted, restated,
		unchanged, ignored, quarantined, error, replay_of)
	select 'keystone', 'keystone.history', 'C-0001', 'acme', 'partial', 'test', 30, '2026-11-02T11:00:00Z', '2026-11-02T11:00:00Z', '2026-11-02T11:00:00Z', '2026-11-02T11:00:02.75Z',
		'2026-10-01', '2026-11-01', 15, 5, 4, 3, 2, 1, null, min(run_id) from ops.run where scope = 'C-0001'`,
	`insert into ops.run_warning select run_id, 'type_coerced', 3, '/results/0' from ops.run where fence = 30`,
	`insert into ops.run_call (run_id, class, calls) select run_id, 'ok', 2 from ops.run where fence = 30`,
	`insert into raw.payload (run_id, source, dataset, scope, account, product, method, url, requested_at, fetched_at, status, content_type, body_bytes, body_sha256, body_zstd)
	select run_id, source, dataset, scope, account, '', 'GET', 'https://api.example/v1/x?a=1&b=2', '2026-11-02T11:00:00Z', '2026-11-02T11:00:00.5Z', 200, 'application/json', 110, sha256('x'), '\x00'
	from ops.run where fence = 30`,
	`insert into ops.quarantine (run_id, payload_id, source, dataset, scope, path, reason, excerpt, fingerprint, quarantined_at, resolved_at, resolution)
	select r.run_id, p.payload_id, r.source, r.dataset, r.scope, '/results/' || n, (array['number_form', 'time_form'])[1 + n % 2], '12.' || n, sha256(n::text::bytea), '2026-11-02T11:00:01Z',
		case when n % 4 = 0 then '2026-11-02T11:30:00Z'::timestamptz end, case when n % 4 = 0 then 'read again' end
	from ops.run as r join raw.payload as p using (run_id) cross join generate_series(1, 60) as n where r.fence = 30`,
	`insert into ops.alert (alert_key, kind, severity, account, subject, detail, since, heals, opened_at, seen_at)
	values ('a', 'late', 'page', 'acme', 'C-0001 is late', 'look', '2026-11-02T10:00:00Z', true, '2026-11-02T10:00:00Z', '2026-11-02T10:00:00Z')`,
	`update ops.watermark set next_due_at = '2026-11-02T11:59:59Z' where source = 'keystone'`, // both are late, and none fails
	`update dw.fact_daily_consumption set digest = null where usage_date = '2026-10-09' and service_level_key % 7 = 0`,
	`update dw.fact_daily_consumption set absent_since = '2026-11-01T03:00:00.25Z' where usage_date = '2026-10-10' and service_level_key % 7 = 1`,
	`update dw.fact_daily_consumption set burst_avg_tib = null, accrued_sum_tib = null, is_invoiced = null where usage_date = '2026-10-11'`,
	`update dw.fact_daily_consumption set consumed_max_tib = 98765432.123456789012345678901234567890, consumed_avg_tib = 0.000000123456 where usage_date = '2026-10-12' and service_level_key % 7 = 2`,
	`update dw.fact_daily_consumption set committed_tib = 0 where service_level_key % 10 = 3`,
	`insert into dw.fact_subscription (customer_key, subscription_key, valid_from, start_at, end_at, payload_id, run_id)
	select customer_key, subscription_key, '2024-10-01', '2024-10-01', '2026-11-20', 1, 1 from dw.dim_subscription limit 2`,
}

// since is what the vendor and people did after September was closed: days of it are other figures.
var since = []string{
	`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
		burst_avg_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, was_invoiced, digest, known_from, known_until, payload_id, run_id)
	select customer_key, service_level_key, usage_date, 'restated', sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
		burst_avg_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, is_invoiced, digest, known_since, '2026-11-02T11:59:00Z', payload_id, run_id
	from dw.fact_daily_consumption where usage_date = '2026-09-15' and service_level_key % 5 = 1`,
	`update dw.fact_daily_consumption set accrued_sum_tib = 7.123456789, committed_tib = 111, known_since = '2026-11-02T11:59:00Z' where usage_date = '2026-09-15' and service_level_key % 5 = 1`,
}

// eventful is a console over a warehouse with a past, in which September is closed and adjusted.
func eventful(t *testing.T) *house {
	t.Helper()
	return houseOver(t, func(cfg *Config) {
		cfg.Now, cfg.Anybody = func() time.Time { return grownNow }, Closer
		cfg.Finance = ledger{deeds: cfg.Loads.(*deeds), match: func() Match {
			return Match{Lines: Grid{
				Columns: []string{"customer_id", "account", "subscription_number", "item", "charge", "invoices", "invoice_amount", "statement_amount", "recomputed_amount", "difference", "currency", "cause", "detail"},
				Numeric: []bool{false, false, false, false, false, false, true, true, true, true, false, false, false},
				Rows: [][]string{
					{"C-0001", "acme", "A-000010", "Extreme", "burst", "I-1", "12345678901234567.89", "1.00", "1.000000000001", "12345678901234566.89", "EUR", "price", "=1+1"},
					{"C-0002", "acme", "A-000020", "Extreme", "burst", "", "", "0.00", "", "", "EUR", "not invoiced", ""},
				},
			}}
		}}
	}, func(pool *pgxpool.Pool) {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		warehousetest.Grow(t, conn.Conn(), warehousetest.Size{Customers: 2, Days: 70})
		for _, sql := range past {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		september, err := billing.ParsePeriod("2026-09")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := billing.New(pool, func() time.Time { return grownNow.Add(-10 * time.Minute) }).Close(t.Context(), september, billing.CloseOptions{By: "jane", Reason: "a test"}); err != nil {
			t.Fatal(err)
		}
		for _, sql := range since {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
	})
}

// Of every page every table, every cell, with all the pages of it, and every file: what the mart says to somebody who
// asks it without the console. Only times are cut, to the second, and a file has them whole.
func TestEveryCellIsTheMarts(t *testing.T) {
	t.Parallel()
	h := eventful(t)
	b := h.browser()
	h.done.state = Progress{IsOver: true, State: "done"}
	replay := h.mart(`select run_id from mart.run where replay_of is not null`)[0][0]
	missing := h.mart(`select customer_id, subscription_number, discriminator, day::text from mart.coverage where status = 'missing' and subscription_number is not null and day < '2026-11-01' order by day limit 1`)[0]
	seconds := func(column string) string {
		return "to_char(" + column + " at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')"
	}
	const window = "coalesce(window_from || ' to ' || window_until, 'the present')"
	const statement = `customer_id, account, subscription_number, concat_ws(' ', item, nullif(description, '')), charge, quantity, unit, unit_price, amount, currency, state, segment_from, segment_to, days_observed, days_expected, note
		from mart.statement where period = '2026-%s' order by source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, period_start, segment_from, rate_id`
	const level = `where u.customer_id = 'C-0001' and u.subscription_number = 'A-000010' and u.discriminator = '' and u.service_level = 'Extreme' and u.level_ordinal = 0 and u.usage_date > '2026-08-04' order by u.usage_date desc`
	for _, c := range []struct {
		path string
		nth  int // table of the page; -1: the last one, with all that follow it on other pages
		sql  string
	}{
		{"/", 0, `select dataset, account, case when bool_or(status = 'failing') then 'failing' when bool_or(status in ('late', 'never')) then 'late' else 'ok' end, count(*),
			sum((status = 'ok')::int), sum((status in ('late', 'never'))::int), sum((status = 'failing')::int), ` + seconds("min(watermark)") + `, ` + seconds("min(next_due_at)") + `
			from mart.freshness group by 1, 2 order by 1, 2`},
		{"/", 1, `select replace(kind, '_', ' '), concat_ws(' ', account, customer_id, subscription_number), ` + seconds("due_at") + `, days_left, replace(action, '` + "`" + `', '') from mart.deadline where days_left < 31 or kind like 'token%' order by due_at`},
		{"/", 2, `select run_id, dataset, scope, ` + window + `, status, ` + seconds("finished_at") + `, inserted, restated, quarantined from mart.run order by run_id desc limit 10`},
		{"/freshness", -1, `select dataset, scope, account, status, ` + seconds("watermark") + `, ` + seconds("last_success_at") + `, ` + seconds("next_due_at") + `, last_run_id,
			'Load now: ' || dataset || ' ' || scope from mart.freshness order by dataset, scope`},
		{"/runs", -1, `select run_id, dataset, scope, ` + window + `, status, ` + seconds("started_at") + `, round(extract(epoch from finished_at - started_at), 1), received, inserted, restated, unchanged, quarantined
			from mart.run order by run_id desc`},
		{"/runs?status=partial&q=C-0001", -1, `select run_id, dataset, scope, ` + window + `, status, ` + seconds("started_at") + `, round(extract(epoch from finished_at - started_at), 1), received, inserted, restated, unchanged, quarantined
			from mart.run where status = 'partial' and scope = 'C-0001' order by run_id desc`},
		{"/runs/" + replay, 0, `select quarantine_id, reason, path, excerpt, case when resolved_at is null then 'open' else 'resolved' end from mart.quarantine where run_id = ` + replay + ` order by 1`},
		{"/runs/" + replay, 1, `select payload_id, url, status, ` + seconds("fetched_at") + `, body_bytes from mart.payload where run_id = ` + replay},
		{"/loads/7?dataset=keystone.history&scope=C-0001&after=3", 0, `select run_id, ` + window + `, status, ` + seconds("started_at") + `, received, inserted, restated, unchanged, quarantined
			from mart.run where dataset = 'keystone.history' and scope = 'C-0001' and run_id > 3 order by run_id`},
		{"/quarantine?state=", -1, `select quarantine_id, dataset, scope, reason, path, excerpt, ` + seconds("quarantined_at") + `, case when resolved_at is null then 'open' else 'resolved' end from mart.quarantine order by 1 desc`},
		{"/quarantine?reason=time_form", -1, `select quarantine_id, dataset, scope, reason, path, excerpt, ` + seconds("quarantined_at") + `, 'open' from mart.quarantine where resolved_at is null and reason = 'time_form' order by 1 desc`},
		{"/coverage/day?dataset=keystone.history&account=acme&customer=" + missing[0] + "&subscription=" + missing[1] + "&discriminator=" + missing[2] + "&day=" + missing[3], 0,
			`select subscription_number, service_level, status, coalesce(reason, '') from mart.coverage where customer_id = '` + missing[0] + `' and subscription_number = '` + missing[1] + `' and day = '` + missing[3] + `' order by service_level`},
		{"/coverage/day?dataset=keystone.history&account=acme&customer=" + missing[0] + "&subscription=" + missing[1] + "&discriminator=" + missing[2] + "&day=" + missing[3], 1,
			`select run_id, ` + window + `, status, ` + seconds("finished_at") + `, inserted, coalesce(error, '') from mart.run
			where dataset = 'keystone.history' and scope = '` + missing[0] + `' and window_from <= '` + missing[3] + `' and window_until > '` + missing[3] + `' order by run_id desc limit 20`},
		{"/consumption?month=2026-10", -1, `select concat_ws(' ', customer_id, customer_name), concat_ws(' ', subscription_number, nullif(discriminator, '')), service_level || case when level_ordinal > 0 then ' #' || level_ordinal + 1 else '' end, '', level_class, days_observed, days_expected, committed_tib, consumed_avg_tib, consumed_max_tib,
			accrued_burst_tib, days_over_commitment from mart.month where month = '2026-10-01' order by customer_id, subscription_number, discriminator, service_level, level_ordinal`},
		{"/consumption?month=2026-10&sort=-consumed_max_tib&level=Extreme", -1, `select concat_ws(' ', customer_id, customer_name), concat_ws(' ', subscription_number, nullif(discriminator, '')), service_level || case when level_ordinal > 0 then ' #' || level_ordinal + 1 else '' end, '', level_class, days_observed, days_expected, committed_tib, consumed_avg_tib, consumed_max_tib,
			accrued_burst_tib, days_over_commitment from mart.month where month = '2026-10-01' and service_level = 'Extreme'
			order by consumed_max_tib desc nulls last, customer_id, subscription_number, discriminator, service_level, level_ordinal`},
		{"/consumption/level?customer=C-0001&subscription=A-000010&level=Extreme&span=90d", -1, `select u.usage_date, replace(u.status, '_', ' '), u.committed_tib, u.consumed_avg_tib, u.consumed_max_tib, d.consumed_last_tib, u.burst_avg_tib, d.accrued_burst_tib,
			case d.is_invoiced when true then 'yes' when false then 'no' else 'unknown' end, d.restatement_count
			from mart.daily_utilisation as u left join mart.daily_consumption as d using (customer_id, subscription_number, discriminator, service_level, level_ordinal, usage_date) ` + level},
		{"/month?month=2026-09", 0, `select currency, sum(amount), count(*), 0 from mart.statement where period = '2026-09' and amount is not null group by 1 order by 1`},
		{"/month?month=2026-09", 1, `select link, 'close', version, ` + seconds("c.at") + `, closed_by, coalesce(reason, ''), coalesce(accepted, ''), totals, encode(c.hash, 'hex') from billing.close join billing.chain as c using (link)`},
		{"/month?month=2026-10", 0, `select currency, sum(amount), count(*), count(*) filter (where state = 'provisional') from mart.statement where period = '2026-10' and amount is not null group by 1 order by 1`},
		{"/month?month=2026-10", 1, `select kind, about, replace(remedy, '` + "`" + `', ''), case when is_acceptable then 'with a reason' else 'no' end from billing.close_obstacle('2026-10') order by is_acceptable, kind, about`},
		{"/month/statement?month=2026-09", -1, "select " + strings.Replace(statement, "%s", "09", 1)},
		{"/month/statement?month=2026-10", -1, "select " + strings.Replace(statement, "%s", "10", 1)},
		{"/month/adjustments?month=2026-10", -1, `select adjusts_period, customer_id, account, subscription_number, item, charge, usage_date, quantity, amount, currency, state, reason, ` + seconds("known_since") + ` from mart.adjustment
			where period = '2026-10' order by adjusts_period, source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, usage_date, currency`},
		{"/month/match?month=2026-10", -1, `values ('C-0001', 'acme', 'A-000010', 'Extreme', 'burst', '12345678901234567.89', '1.00', '1.000000000001', '12345678901234566.89', 'EUR', 'price', 'I-1', '=1+1'),
			('C-0002', 'acme', 'A-000020', 'Extreme', 'burst', null, '0.00', null, null, 'EUR', 'not invoiced', '', '')`},
	} {
		want := h.mart(c.sql)
		var got [][]string
		if c.nth < 0 {
			got = b.every(c.path)
		} else if found := tables(b.settled(c.path).text); c.nth < len(found) {
			got = found[c.nth]
		}
		if len(want) == 0 {
			t.Errorf("%s: nothing to compare table %d with", c.path, c.nth)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, table %d (-mart +page):\n%s", c.path, c.nth, diff)
		}
	}
	// Files have every column and every digit.
	for path, sql := range map[string]string{
		"/freshness.csv": `select source, dataset, scope, account, status, watermark, last_success_at, next_due_at, lag, last_run_id from mart.freshness order by dataset, scope`,
		"/runs.csv": `select run_id, source, dataset, scope, account, window_from, window_until, ` + window + ` as window_text, status, started_at, finished_at, round(extract(epoch from finished_at - started_at), 1) as took,
			received, inserted, restated, unchanged, ignored, quarantined, absent, warnings, calls, error, fetched_at, body_bytes, replay_of, same_as from mart.run order by run_id desc`,
		"/quarantine.csv?state=resolved": `select quarantine_id, run_id, source, dataset, scope, product, subscription_number, service_level, day, reason, path, excerpt, quarantined_at, resolved_at, resolution,
			'resolved' as state, payload_id from mart.quarantine where resolved_at is not null order by 1 desc`,
		"/coverage.csv?from=2026-10-01&until=2026-11-03": `select source, dataset, account, customer_id, subscription_number, discriminator, service_level, level_ordinal, product, day, status, reason from mart.coverage
			where day >= '2026-10-01' and day < '2026-11-03' order by dataset, account, customer_id, subscription_number, discriminator, service_level, level_ordinal, product, day`,
		"/consumption.csv?month=2026-10": `select customer_id, customer_name, subscription_number, discriminator, service_level, level_ordinal, level_class, days_observed, days_expected, committed_tib, consumed_avg_tib, consumed_max_tib,
			accrued_burst_tib, days_over_commitment from mart.month where month = '2026-10-01' order by customer_id, subscription_number, discriminator, service_level, level_ordinal`,
		"/level_days.csv?customer=C-0001&subscription=A-000010&level=Extreme&ordinal=0&from=2026-08-05&until=2026-11-03": `select u.usage_date, u.status, u.committed_tib, u.consumed_avg_tib, u.consumed_max_tib, d.consumed_last_tib,
			u.burst_avg_tib, u.over_committed_avg_tib, d.accrued_burst_tib, d.is_invoiced, d.restatement_count, d.known_since, d.absent_since
			from mart.daily_utilisation as u left join mart.daily_consumption as d using (customer_id, subscription_number, discriminator, service_level, level_ordinal, usage_date) ` + level,
		"/statement.csv?month=2026-10": `select * from mart.statement where period = '2026-10'
			order by source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, period_start, segment_from, rate_id`,
		"/adjustments.csv?month=2026-10": `select * from mart.adjustment
			where period = '2026-10' order by adjusts_period, source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, usage_date, currency`,
		"/match.csv?month=2026-10": `select 'C-0001' as customer_id, 'acme' as account, 'A-000010' as subscription_number, 'Extreme' as item, 'burst' as charge, 'I-1' as invoices, '12345678901234567.89' as invoice_amount,
			'1.00' as statement_amount, '1.000000000001' as recomputed_amount, '12345678901234566.89' as difference, 'EUR' as currency, 'price' as cause, '''=1+1' as detail
			union all select 'C-0002', 'acme', 'A-000020', 'Extreme', 'burst', '', '', '0.00', '', '', 'EUR', 'not invoiced', ''`,
	} {
		a := b.get(path)
		got, err := csv.NewReader(strings.NewReader(a.text)).ReadAll()
		if err != nil || a.StatusCode != 200 {
			t.Errorf("%s: %d %v", path, a.StatusCode, err)
			continue
		}
		want := append([][]string{h.columns(sql)}, blanks(h.mart(sql))...)
		if diff := cmp.Diff(want, got); diff != "" || len(want) < 2 {
			t.Errorf("%s (-mart +file):\n%s", path, diff)
		}
	}
	// What is no table: sums and counts, and the facts of a run and of a refused record.
	overview := b.settled("/").text
	for _, row := range h.mart(`select 'Scopes', count(*) from mart.freshness union all select 'In quarantine', count(*) from mart.quarantine where resolved_at is null union all select 'Open alerts', count(*) from mart.alert`) {
		if want := row[0] + " <strong>" + row[1] + "</strong>"; !strings.Contains(overview, want) {
			t.Errorf("the overview lacks %q", want)
		}
	}
	for path, sql := range map[string]string{
		"/runs/" + replay: `select unnest(array['Received', received::text, 'Inserted', inserted::text, 'Restated', restated::text, 'Unchanged', unchanged::text, 'Ignored', ignored::text, 'Refused', quarantined::text, 'Expected and absent', absent::text,
			'Scope', dataset || ' ' || scope, 'Account', account, 'Started', ` + seconds("started_at") + `, 'Finished', ` + seconds("finished_at") + `, 'Took, in seconds', '2.8', 'Answer whole at', ` + seconds("fetched_at") + `,
			'Calls to the vendor', calls, 'Read again what was landed by', 'run ' || replay_of]) from mart.run where run_id = ` + replay,
		"/quarantine/1": `select unnest(array['Path', path, 'Excerpt', excerpt, 'Window', 'the present', 'Refused at', ` + seconds("quarantined_at") + `, 'Run', 'run ' || run_id, 'Answer', 'landed answer ' || payload_id])
			from mart.quarantine where quarantine_id = 1`,
		"/payloads/1": `select unnest(array['Request', method || ' ' || url, 'Status', status::text, 'Dataset', dataset || ' of ' || scope || ', ' || ` + window + `, 'Run', 'run ' || run_id,
			'Asked', ` + seconds("requested_at") + `, 'Whole at', ` + seconds("fetched_at") + `, 'Content type', content_type, 'Bytes', body_bytes::text, 'SHA-256', body_sha256]) from mart.payload where payload_id = 1`,
	} {
		var want, got []string
		for _, row := range h.mart(sql) {
			want = append(want, row[0])
		}
		for _, part := range factTag.FindAllStringSubmatch(b.get(path).text, -1) {
			got = append(got, plainText(part[1]))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-mart +page):\n%s", path, diff)
		}
	}
	adjusted := b.settled("/month?month=2026-10").text
	for _, row := range h.mart(`select sum(amount) || ' ' || currency || ' in ' || count(amount) || ' rows' from mart.adjustment where period = '2026-10' and amount is not null group by currency`) {
		if !strings.Contains(adjusted, "<li>"+row[0]+"</li>") {
			t.Errorf("the month lacks %q", row[0])
		}
	}
}

// A level as it was known at an instant is what the mart knew of it then, in the page, its drawing and its file; what is
// no past moment is refused.
func TestLevelAsOf(t *testing.T) {
	t.Parallel()
	h := eventful(t)
	b := h.browser()
	of := h.mart(`select c.customer_id, s.subscription_number, l.service_level, l.level_ordinal from dw.dim_service_level as l join dw.dim_subscription as s using (subscription_key)
		join dw.dim_customer as c on c.customer_key = l.customer_key where l.service_level_key % 5 = 1 and s.discriminator = '' order by l.service_level_key limit 1`)[0]
	h.exec(`update dw.fact_daily_consumption set accrued_last_tib = extract(day from usage_date) + 0.125 where usage_date >= '2026-09-10'`)
	h.exec(`update dw.restatement set accrued_last_tib = 3.5 where usage_date = '2026-09-15'`)
	h.exec(`insert into dw.accrued_reading (account, month, reading, decided_by, reason) values ('acme', '2026-09-01', 'running', 'jane', 'test')`)
	h.exec(`update dw.fact_daily_consumption set known_since = '2026-09-20T03:00:00Z' where usage_date = '2026-09-12'`)
	address := url.Values{"customer": {of[0]}, "subscription": {of[1]}, "level": {of[2]}, "ordinal": {of[3]}, "from": {"2026-08-25"}, "until": {"2026-11-03"}}.Encode()
	page, file := "/consumption/level?"+address, "/level_days_as_of.csv?"+address
	counted := map[string]string{}
	for asked, at := range map[string]string{
		"2026-11-02T11:58:59.9Z":    "2026-11-02T11:58:59.9Z", // before September was restated
		"2026-11-02T13:59:00+02:00": "2026-11-02T11:59:00Z",   // as it was
		"2026-09-16":                "2026-09-16T00:00:00Z",
		"2026-08-01":                "2026-08-01T00:00:00Z", // nothing was known, or expected
	} {
		const level = ` as d on (d.customer_id, d.subscription_number, d.discriminator, d.service_level, d.level_ordinal, d.usage_date) = (u.customer_id, u.subscription_number, u.discriminator, u.service_level, u.level_ordinal, u.usage_date)
			where u.customer_id = '%s' and u.subscription_number = '%s' and u.service_level = '%s' and u.level_ordinal = %s and u.usage_date between '2026-08-25' and (timestamptz '%s' at time zone 'UTC')::date order by u.usage_date desc`
		from := ` from mart.daily_utilisation as u left join mart.daily_consumption_as_of('` + at + `')` + fmt.Sprintf(level, of[0], of[1], of[2], of[3], at)
		status := `case when d.is_partial then 'partial' when d.known_since is not null then 'observed' when (u.usage_date + 1)::timestamp at time zone 'UTC' + (select min(settle) from ops.watermark where source = 'keystone') > '` + at + `' then 'not_due' else 'missing' end`
		want := h.mart(`select u.usage_date, replace(` + status + `, '_', ' '), d.committed_tib, d.consumed_avg_tib, d.consumed_max_tib, d.consumed_last_tib, d.burst_avg_tib, d.accrued_burst_tib,
			to_char(d.known_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')` + from)
		path := page + "&as_of=" + url.QueryEscape(asked)
		if len(want) == 0 {
			if text := b.get(path).text; !strings.Contains(text, "Nothing was expected") {
				t.Errorf("%s:\n%s", path, text)
			}
			continue
		}
		if diff := cmp.Diff(want, b.every(path)); diff != "" {
			t.Errorf("%s (-mart +page):\n%s", path, diff)
		}
		statuses := map[string]int{}
		for _, row := range want {
			statuses[row[1]]++
			if row[0] == "2026-09-15" {
				counted[asked] = row[2] + " " + row[7]
			}
		}
		a := b.get(path)
		if told := strings.NewReplacer("T", " ", "Z", " UTC").Replace(at); !strings.Contains(a.text, "As known at "+told) || !strings.Contains(a.text, `href="`+html.EscapeString("/level_days_as_of.csv?")) {
			t.Errorf("%s: it is not told:\n%s", path, a.text)
		}
		for _, problem := range flaws(a.text) {
			t.Errorf("%s: %s", path, problem)
		}
		line := regexp.MustCompile(`<path class="line average" d="([^"]*)"/>((?:<circle class="dot average")?)`).FindStringSubmatch(a.text)
		if n := statuses["observed"] + statuses["partial"]; line == nil || strings.Count(line[1], "M")+strings.Count(line[1], "L") != n {
			t.Errorf("%s: %d days were known: %v", path, n, line)
		}
		records, err := csv.NewReader(strings.NewReader(b.get(file + "&as_of=" + url.QueryEscape(asked)).text)).ReadAll()
		sql := `select u.usage_date, ` + status + ` as status, d.committed_tib, d.consumed_avg_tib, d.consumed_max_tib, d.consumed_last_tib, d.burst_avg_tib, d.over_committed_avg_tib, d.accrued_burst_tib,
			d.known_since, timestamptz '` + at + `' as as_of` + from
		if diff := cmp.Diff(append([][]string{h.columns(sql)}, blanks(h.mart(sql))...), records); diff != "" || err != nil {
			t.Errorf("the file of %s (-mart +file): %v\n%s", asked, err, diff)
		}
		if asked == "2026-09-16" && (statuses["missing"] == 0 || statuses["not due"] == 0 || statuses["observed"] == 0) {
			t.Errorf("%s: %v", asked, statuses)
		}
	}
	if got := fmt.Sprint(counted["2026-11-02T11:58:59.9Z"], counted["2026-11-02T13:59:00+02:00"], counted["2026-09-16"]); !strings.Contains(got, "111 ") || counted["2026-11-02T11:58:59.9Z"] == counted["2026-11-02T13:59:00+02:00"] {
		t.Errorf("a restated day: %v", counted)
	}
	for _, asked := range []string{"soon", "2026-11-02T12:00:01Z", "2026-11-03", "2026-02-30", "infinity", "2026-11-02T11:00:00", "now()"} {
		for _, path := range []string{page, file} {
			a := b.get(path + "&as_of=" + url.QueryEscape(asked))
			if a.StatusCode != http.StatusBadRequest || !strings.Contains(a.text, "want a past moment: a date") {
				t.Errorf("%s as of %q: %d\n%s", path, asked, a.StatusCode, a.text)
			}
		}
	}
	if text := b.get(page).text; strings.Contains(text, "As known at 2") || !strings.Contains(text, `<input name="as_of" value=""`) {
		t.Errorf("as known now:\n%s", text)
	}
}

var factTag = regexp.MustCompile(`(?s)<d[td]>(.*?)</d[td]>`)

// columns are the names of a query's.
func (h *house) columns(sql string) (names []string) {
	h.t.Helper()
	rows, err := h.pool.Query(h.t.Context(), "select * from ("+sql+") as q limit 0")
	if err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
	defer rows.Close()
	for _, f := range rows.FieldDescriptions() {
		names = append(names, f.Name)
	}
	return names
}
