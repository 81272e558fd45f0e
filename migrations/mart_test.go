package migrations_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl/warehouse/warehousetest"
)

// questions are what people ask each view of the mart about one month, in the shape BI tools send.
var questions = map[string]string{
	"accrued_check":      `month = '2026-10-01'`,
	"accrued_evidence":   `month = '2026-10-01'`,
	"adjustment":         `period = '2026-10'`,
	"alert":              `true`,
	"commitment":         `is_current`,
	"coverage":           `day >= '2026-10-01' and day < '2026-11-01'`,
	"daily_consumption":  `usage_date >= '2026-10-01' and usage_date < '2026-11-01'`,
	"daily_utilisation":  `usage_date >= '2026-10-01' and usage_date < '2026-11-01'`,
	"deadline":           `true`,
	"dim_date":           `month_start = '2026-10-01'`,
	"freshness":          `true`,
	"invoice_line":       `true`,
	"license_high_water": `month = '2026-10-01'`,
	"license_month":      `month = '2026-10-01'`,
	"license_snapshot":   `snapshot_date >= '2026-10-01' and snapshot_date < '2026-11-01'`,
	"month":              `month = '2026-10-01'`,
	"monthly_burst":      `month = '2026-10-01'`,
	"payload":            `fetched_at >= '2026-10-01' and fetched_at < '2026-11-01'`,
	"quarantine":         `true`,
	"restatement":        `usage_date >= '2026-10-01' and usage_date < '2026-11-01'`,
	"run":                `started_at >= '2026-10-01' and started_at < '2026-11-01'`,
	"service_level":      `is_latest`,
	"statement":          `period = '2026-10'`,
	"subscription":       `is_current`,
}

const businessNow = `set meterhouse.now = '2026-11-02 12:00Z'`

// ofCustomer are the views that are also asked for all days of one customer, as a filter of a dashboard does.
var ofCustomer = []string{"coverage", "daily_consumption", "daily_utilisation", "month", "monthly_burst", "restatement"}

// BenchmarkMart asks each view for one month as a login of bi_reader, of 1,000 levels with 13 months
// behind them and hourly samples of the month, and some for one customer. Goal: a second on two cores.
func BenchmarkMart(b *testing.B) {
	admin := warehousetest.New(b)
	owner := warehousetest.Connect(b, admin)
	warehousetest.Grow(b, owner, warehousetest.Size{Customers: 20, Days: 396, Samples: 24})
	guest := warehousetest.Connect(b, warehousetest.Role(b, admin, "grant bi_reader to ROLE"))
	if _, err := guest.Exec(b.Context(), businessNow); err != nil {
		b.Fatal(err)
	}
	for _, view := range martViews(b, guest) {
		where, ok := questions[view]
		if !ok {
			b.Errorf("mart.%s: no question", view)
		}
		ask := func(name, where string) {
			b.Run(name, func(b *testing.B) {
				var rows int
				for b.Loop() {
					rows = drain(b, guest, fmt.Sprintf(`select * from mart.%s where %s`, view, where))
				}
				b.ReportMetric(float64(rows), "rows/op")
				b.ReportMetric(b.Elapsed().Seconds()*1000/float64(b.N), "ms/op")
			})
		}
		ask(view, where)
		if slices.Contains(ofCustomer, view) {
			ask(view+"_of_customer", `customer_id = 'C-0007'`)
		}
	}
}

func martViews(t testing.TB, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `select viewname::text from pg_views where schemaname = 'mart' order by 1`)
	if err != nil {
		t.Fatal(err)
	}
	views, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return views
}

func drain(t testing.TB, conn *pgx.Conn, sql string) (n int) {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		n++
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// A question about a month must reach the calendar's index and the month's partition, and nothing of the
// rest. Plans are looked at where they can be seen; what functions read is counted.
func TestMartReadsOneMonth(t *testing.T) {
	t.Parallel()
	db := warehousetest.New(t)
	conn := warehousetest.Connect(t, db)
	warehousetest.Grow(t, conn, warehousetest.Size{Customers: 1, Days: 61, Samples: 2})
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(businessNow)
	exec(`insert into dw.fact_consumption_sample (customer_key, service_level_key, sampled_at, committed_tib, consumed_tib)
		select customer_key, service_level_key, '2026-09-10', 100, 100 from dw.dim_service_level`)
	exec(`set enable_seqscan = off`) // so few rows are read faster as a whole

	plan := func(sql string) string {
		t.Helper()
		return strings.Join(lines(t, conn, "explain "+sql), "\n")
	}
	for view, want := range map[string]string{
		"daily_consumption": `usage_date >= '2026-10-01'::date) AND (usage_date < '2026-11-01'::date`,
		"daily_utilisation": `(calendar_date >= '2026-10-01'::date) AND (calendar_date < '2026-11-01'::date)`,
		"coverage":          `(calendar_date >= '2026-10-01'::date) AND (calendar_date < '2026-11-01'::date)`,
		"license_snapshot":  `snapshot_date >= '2026-10-01'::date) AND (snapshot_date < '2026-11-01'::date`,
	} {
		got := plan(fmt.Sprintf(`select * from mart.%s where %s`, view, questions[view]))
		if !slices.ContainsFunc(strings.Split(got, "\n"), func(line string) bool {
			return strings.Contains(line, "Index Cond") && strings.Contains(line, want)
		}) {
			t.Errorf("mart.%s: the days that are asked for reach no index:\n%s", view, got)
		}
	}
	if got := plan(`select * from dw.fact_consumption_sample where sampled_at >= '2026-10-01' and sampled_at < '2026-11-01'`); strings.Contains(got, "2026_09") || !strings.Contains(got, "2026_10") {
		t.Errorf("samples of October:\n%s", got)
	}

	for _, view := range []string{"accrued_check", "accrued_evidence", "statement", "month", "monthly_burst"} {
		// A connection of its own for each: what it has counted may wait for a while to be told.
		fresh := warehousetest.Connect(t, db)
		if _, err := fresh.Exec(t.Context(), businessNow+`; set enable_seqscan = off; begin`); err != nil {
			t.Fatal(err)
		}
		if n := drain(t, fresh, fmt.Sprintf(`select * from mart.%s where %s`, view, questions[view])); n == 0 {
			t.Errorf("mart.%s: no rows", view)
		}
		const read = `select relname::text from pg_stat_xact_all_tables where relname = 'fact_consumption_sample_2026_%s' and coalesce(seq_scan, 0) + coalesce(idx_scan, 0) > 0`
		none(t, fresh, "mart."+view+" of October reads samples of September", fmt.Sprintf(read, "09"))
		if view == "accrued_check" && len(lines(t, fresh, fmt.Sprintf(read, "10"))) == 0 {
			t.Errorf("mart.%s of October: no samples were read: then this test sees nothing", view)
		}
	}
}

// Holes are rows: every expected day of a level is there once, and tells what mart.coverage tells.
func TestHolesAreRows(t *testing.T) {
	t.Parallel()
	conn := warehousetest.Connect(t, warehousetest.New(t))
	warehousetest.Grow(t, conn, warehousetest.Size{Customers: 2, Days: 40, Samples: 1})
	if _, err := conn.Exec(t.Context(), businessNow); err != nil {
		t.Fatal(err)
	}
	none(t, conn, "day of a level not there once", `
		select customer_id || ' ' || subscription_number || ' ' || service_level || ': ' || count(*) || ' of ' || count(distinct usage_date) || ' days'
		from mart.daily_utilisation
		group by customer_id, subscription_number, service_level, level_ordinal, discriminator
		having count(*) <> count(distinct usage_date) or count(*) <> max(usage_date) - min(usage_date) + 1 or max(usage_date) <> '2026-11-02'`)
	none(t, conn, "figures differ from mart.daily_consumption", `
		select u.usage_date || ' ' || u.status
		from mart.daily_utilisation as u
		full join mart.daily_consumption as d using (customer_id, subscription_number, discriminator, service_level, level_ordinal, usage_date)
		where (u.status in ('observed', 'partial')) is distinct from (d.usage_date is not null)
			or u.consumed_avg_tib is distinct from d.consumed_avg_tib or u.committed_tib is distinct from d.committed_tib
			or u.utilisation_avg is distinct from round(d.consumed_avg_tib / d.committed_tib, 6)`)
	none(t, conn, "mart.coverage says otherwise", `
		(select customer_id, subscription_number, service_level, usage_date as day, status from mart.daily_utilisation
		except all select customer_id, subscription_number, service_level, day, status from mart.coverage where service_level is not null)
		union all
		(select customer_id, subscription_number, service_level, day, status from mart.coverage where service_level is not null
		except all select customer_id, subscription_number, service_level, usage_date as day, status from mart.daily_utilisation)`)
	if got := lines(t, conn, `select status || ' ' || count(*) from mart.daily_utilisation group by status order by 1`); len(got) != 3 {
		t.Errorf("statuses %q: want missing, not_due and observed", got)
	}
}
