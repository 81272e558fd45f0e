package billing

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"
	"github.com/xuri/excelize/v2"

	"meterhouse/etl"
)

// workbook makes the file of a month.
func (o *office) workbook(period, asOf string, only Selection) ([]byte, Workbook) {
	o.t.Helper()
	var when time.Time
	if asOf != "infinity" {
		when = at(asOf)
	}
	var b bytes.Buffer
	made, err := o.WriteWorkbook(o.t.Context(), &b, month(period), when, only)
	if err != nil {
		o.t.Fatal(err)
	}
	return b.Bytes(), made
}

func reopened(t testing.TB, file []byte) *excelize.File {
	t.Helper()
	f, err := excelize.OpenReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// table reads the rows of a sheet, one text per column: numbers as exact as they stand there.
func table(t testing.TB, f *excelize.File, sheet string, columns []column) (rows [][]string) {
	t.Helper()
	all, err := f.GetRows(sheet, excelize.Options{RawCellValue: true})
	if err != nil {
		t.Fatal(err)
	}
	var header []string
	for _, c := range columns {
		header = append(header, c.name)
		if c.kind == number {
			header = append(header, c.name+" exact")
		}
	}
	if len(all) < headerRow || !slices.Equal(all[headerRow-1], header) {
		t.Fatalf("%s: header %q, want %q", sheet, all[headerRow-1], header)
	}
	for i, cells := range all[headerRow:] {
		if len(all) == headerRow+1 && slices.Equal(cells, []string{"none"}) {
			return nil
		}
		cells = append(cells, make([]string, len(header)-len(cells))...)
		var row []string
		at := 0
		for _, c := range columns {
			cell := cells[at]
			name, err := excelize.CoordinatesToCellName(at+1, headerRow+1+i)
			if err != nil {
				t.Fatal(err)
			}
			kindOf, err := f.GetCellType(sheet, name)
			if err != nil {
				t.Fatal(err)
			}
			isText := kindOf == excelize.CellTypeInlineString
			if want := c.kind == words || c.kind == truth; cell != "" && isText != want && c.kind != number {
				t.Errorf("%s!%s: %q is a text: %v, want %v", sheet, name, cell, isText, want)
			}
			switch {
			case c.kind == dated && cell != "":
				serial, err := strconv.Atoi(cell)
				if err != nil {
					t.Fatalf("%s!%s: %v", sheet, name, err)
				}
				cell = etl.Day(serial - 25_569).String()
			case c.kind == number:
				at++
				exact := cells[at]
				if exact != "" {
					near, err := decimal.NewFromString(cell)
					if err != nil || !near.Sub(decimal.RequireFromString(exact)).Abs().LessThanOrEqual(near.Abs().Mul(decimal.New(1, -15))) {
						t.Errorf("%s!%s: %s beside the exact %s: %v", sheet, name, cell, exact, err)
					}
					cell = exact
				} else if d, err := decimal.NewFromString(cell); cell != "" && !isText && (err != nil || significant(d.String()) > exactDigits) {
					t.Errorf("%s!%s: %s has no exact text beside it: %v", sheet, name, cell, err)
				}
			}
			row = append(row, cell)
			at++
		}
		rows = append(rows, row)
	}
	return rows
}

// same compares every cell of a sheet with a query of arrays of text: numbers by value, to the last digit.
func (o *office) same(f *excelize.File, sheet string, columns []column, sql string, args ...any) int {
	o.t.Helper()
	rows, err := o.pool.Query(o.t.Context(), sql, args...)
	if err != nil {
		o.t.Fatal(err)
	}
	want, err := pgx.CollectRows(rows, pgx.RowTo[[]*string])
	if err != nil {
		o.t.Fatalf("%s: %v", sql, err)
	}
	got := table(o.t, f, sheet, columns)
	if len(got) != len(want) {
		o.t.Fatalf("%s: %d rows, want %d", sheet, len(got), len(want))
	}
	for i, row := range want {
		if len(row) != len(columns) {
			o.t.Fatalf("%s: the query has %d columns, want %d", sheet, len(row), len(columns))
		}
		for j, cell := range row {
			is, shall := got[i][j], ""
			if cell != nil {
				shall = *cell
			}
			if columns[j].kind == number {
				a, errA := decimal.NewFromString(is)
				b, errB := decimal.NewFromString(shall)
				if errA == nil && errB == nil && a.Equal(b) {
					continue
				}
			}
			if columns[j].kind == words && shall != "" && strings.ContainsAny(shall[:1], "=+-@\t") {
				shall = "'" + shall
			}
			if is != shall {
				o.t.Errorf("%s, row %d, %s: got %q, want %q", sheet, i+1, columns[j].name, is, shall)
			}
		}
	}
	return len(want)
}

// What the sheets have to say, asked another way than the workbook asks.
const (
	lineOrder = `source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, period_start, segment_from, rate_id`

	wantOpenLines = `
		with line as (select row_number() over (order by ` + lineOrder + `) as n, null as closed_as, s.* from billing.statement($1, $2::text::timestamptz) as s),
		day as (select * from billing.statement_day($1, $2::text::timestamptz)),` + wantLines2
	wantClosedLines = `
		with line as (select line_no as n, state as closed_as, l.*, 'closed' as shown from billing.closed_line as l where kind = 'statement' and link = $1),
		day as (select * from billing.closed_day where link = $1),` + wantLines2
	wantLines2 = `
		sum as (
			select l.n, count(d.day) as days, trim_scale(round(sum(d.quantity * (72201776446800 / d.scale)) / 72201776446800, 12)) as quantity
			from line as l
			left join day as d using (period_start, period_end, source, account, customer_id, subscription_number, discriminator, item, description, charge, is_waiver)
			where d.rate_id is not distinct from l.rate_id
			group by l.n
		)

		select array[n::text, source, account, customer_id, subscription_number, discriminator, item, description, charge, case when is_waiver then 'yes' else 'no' end,
			l.quantity::text, unit, unit_price::text, amount::text, currency, case when closed_as is null then state else 'closed' end, days_expected::text, days_observed::text,
			days_estimated::text, note, period_start::text, period_end::text, segment_from::text, segment_to::text, level_class, rate_id::text, closed_as, s.days::text,
			s.quantity::text, 'ok']
		from line as l
		join sum as s using (n)
		order by l.n`

	wantOpenDays = `
		with line as (select row_number() over (order by ` + lineOrder + `) as n, s.* from billing.statement($1, $2::text::timestamptz) as s),
		day as (select row_number() over (order by source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, period_start, day, level_ordinal) as m, d.*
			from billing.statement_day($1, $2::text::timestamptz) as d)` + wantDays2
	wantClosedDays = `
		with line as (select line_no as n, l.* from billing.closed_line as l where kind = 'statement' and link = $1),
		day as (select day_no as m, d.* from billing.closed_day as d where link = $1)` + wantDays2
	wantDays2 = `
		select array[l.n::text, d.day::text, d.source, d.account, d.customer_id, d.subscription_number, d.discriminator, d.item, d.level_ordinal::text, d.description, d.charge,
			case when d.is_waiver then 'yes' else 'no' end, d.quantity::text, d.scale::text, d.basis, d.reading::text, d.doubt, d.rate_id::text,
			regexp_replace(regexp_replace(to_char(d.known_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), '0+$', ''), '[.]$', '') || 'Z',
			(select min(run_id)::text from told as t where t.item = d.item and t.day = d.day and t.known_since = d.known_since and t.level_ordinal = d.level_ordinal),
			(select min(payload_id)::text from told as t where t.item = d.item and t.day = d.day and t.known_since = d.known_since and t.level_ordinal = d.level_ordinal)]
		from day as d
		join line as l using (period_start, period_end, source, account, customer_id, subscription_number, discriminator, item, description, charge, is_waiver)
		where d.rate_id is not distinct from l.rate_id
		order by d.m`

	wantRestatements = `
		select array[
			(select string_agg(l.n::text, ' ' order by l.n) from (
				select row_number() over (order by ` + lineOrder + `) as n, s.* from billing.statement($1, $2::text::timestamptz) as s) as l
				where l.customer_id = r.customer_id and l.subscription_number = r.subscription_number and l.item = r.service_level and r.usage_date between l.segment_from and l.segment_to),
			customer_id, subscription_number, discriminator, service_level, level_ordinal::text, usage_date::text, kind, column_name, old_value, new_value,
			case when was_invoiced then 'yes' when not was_invoiced then 'no' else 'unknown' end, case when $3 = '' then '' when known_until > $3::text::timestamptz then 'yes' else 'no' end,
			to_char(known_from at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || 'Z', to_char(known_until at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || 'Z']
		from mart.restatement as r
		where to_char(usage_date, 'YYYY-MM') = $1 and known_until <= $2::text::timestamptz
		order by usage_date, known_until, column_name`

	wantAdjustments = `
		select array[period, adjusts_period, usage_date::text, source, account, customer_id, subscription_number, discriminator, item, description, charge,
			case when is_waiver then 'yes' else 'no' end, quantity::text, unit, amount::text, currency, reason, to_char(known_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || 'Z', state]
		from mart.adjustment
		where period = $1 or adjusts_period = $1
		order by period, adjusts_period, source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, usage_date, currency`
)

// manyfold is a tenant with everything that a workbook has to tell, in March 2026: two currencies, a price that
// begins inside the month, figures with many digits, names like formulas, a missing and a restated day, wolkvox,
// and February closed.
func manyfold(t *testing.T) *office {
	t.Helper()
	o := closable(t)
	o.exec(`create view told as
		select l.service_level as item, l.level_ordinal, f.usage_date as day, f.known_since, f.run_id, f.payload_id
		from dw.fact_daily_consumption as f join dw.dim_service_level as l using (customer_key, service_level_key)
		union all
		select l.service_level, l.level_ordinal, r.usage_date, r.known_from, p.run_id, r.payload_id
		from dw.restatement as r join dw.dim_service_level as l using (customer_key, service_level_key) join raw.payload as p using (payload_id)
		union all
		select p.api, 0, r.reading_date, r.read_at, r.run_id, r.payload_id from dw.fact_license_reading as r join dw.dim_product as p using (product_key)`)
	o.exec(`insert into ops.run (run_id, source, dataset, scope, account, status, owner, fence, business_at, started_at, finished_at)
		overriding system value select n, 'keystone', 'keystone.history', 'C-1', 'acme', 'ok', 'test', 1, '2026-04-01T10:00:00Z', now(), now() from generate_series(7, 9) as n`)
	o.exec(`insert into raw.payload (payload_id, run_id, source, dataset, scope, account, method, url, requested_at, fetched_at, status, content_type, body_bytes, body_sha256, body_zstd)
		select n, n - 90, 'keystone', 'keystone.history', 'C-1', 'acme', 'GET', 'http://x', now(), now(), 200, 'x', 1, 'x', 'x' from generate_series(97, 99) as n`)
	o.exec(`update dw.fact_daily_consumption set run_id = 7, payload_id = 97`)
	o.close("2026-02", "")

	o.exec(`insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_class) overriding system value
		values (2, 1, 1, '=HYPERLINK("http://x","y")', 'base'), (3, 1, 1, '-Gold', 'unclassified')`)
	o.exec(`insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, invoiced_samples, uninvoiced_samples, digest, known_since, payload_id, run_id)
		select 1, k, usage_date, 1, 0.123456789012 + k, 1, 1, 1, 0, 123456789.123456789012, 1, 0, 0, 'd', known_since, 98, 8
		from dw.fact_daily_consumption, generate_series(2, 3) as k where service_level_key = 1 and usage_date >= '2026-03-01' and usage_date <> '2026-03-09'`)
	// A day that was told otherwise at first, and one of February after its close.
	for _, day := range []string{"2026-03-05", "2026-02-05"} {
		o.exec(`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
				burst_avg_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, was_invoiced, digest, known_from, known_until, payload_id, run_id)
			select customer_key, service_level_key, usage_date, 'restated', sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
				burst_avg_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, is_invoiced, digest, known_since, '2026-04-02T12:30:00Z', payload_id, 9
			from dw.fact_daily_consumption where service_level_key = 1 and usage_date = $1::text::date`, day)
		o.exec(`update dw.fact_daily_consumption set committed_tib = 107.000000000001, is_invoiced = false, known_since = '2026-04-02T12:30:00Z', run_id = 9, payload_id = 99
			where service_level_key = 1 and usage_date = $1::text::date`, day)
	}
	o.exec(`insert into dw.dim_operation (operation_key, account, operation, server, zone, first_seen_at) overriding system value values (1, 'calls', 'OP', '0039', 'America/Bogota', now())`)
	o.exec(`insert into dw.dim_product (product_key, product_number, api, title, unit, kind) overriding system value values (1, 1, 'chat_licenses', 'Chat', 'licences', 'gauge')`)
	for i, day := range []string{"2026-03-01", "2026-03-31"} {
		o.exec(`insert into dw.fact_license_reading (operation_key, product_key, description, reading_date, read_at, items, items_text, payload_id, run_id)
			values (1, 1, '@SUM(1)', $1::text::date, $1::text::date + interval '28 hours 50 minutes', $2, 'x', 99, 9)`, day, 10+i)
		o.exec(`insert into dw.fact_license_snapshot (operation_key, product_key, description, snapshot_date, items, items_text, items_min, items_max, reading_count, read_at, payload_id, run_id, zone)
			select operation_key, product_key, description, reading_date, items, 'x', items, items, 1, read_at, payload_id, run_id, 'America/Bogota' from dw.fact_license_reading where reading_date = $1::text::date`, day)
	}
	o.clock("2026-04-02T13:00:00Z")
	o.price("wolkvox/////license 2.5 JPY 2026-01-01", "keystone////Extreme/burst 1.23456789012345678901 USD 2026-03-11", "keystone////-Gold/committed 7 KWD 2026-01-01", "keystone/////committed 20.01 USD 2026-01-01")
	return o
}

// Every cell of every sheet is what the database says, to the last digit.
func TestWorkbook(t *testing.T) {
	t.Parallel()
	o := manyfold(t)
	if _, err := o.ImportInvoices(t.Context(), []Invoice{{Vendor: "keystone", Number: "+4711", Date: day("2026-04-02"), Currency: "USD", Lines: []InvoiceLine{
		{Number: 1, SubscriptionNumber: "A-1", Item: "Extreme", Charge: "committed", PeriodStart: day("2026-03-01"), PeriodEnd: day("2026-03-31"), Amount: decimal.RequireFromString("2000.1"), Source: "test:1"},
	}}}, false); err != nil {
		t.Fatal(err)
	}
	file, made := o.workbook("2026-03", "infinity", Selection{})
	f := reopened(t, file)
	if got, want := f.GetSheetList(), []string{"Summary", "Lines", "Daily evidence", "Restatements", "Coverage", "Match", "Adjustments"}; !slices.Equal(got, want) {
		t.Fatalf("sheets %q, want %q", got, want)
	}
	lines := o.same(f, "Lines", lineSheet, wantOpenLines, "2026-03", "infinity")
	days := o.same(f, "Daily evidence", daySheet, wantOpenDays, "2026-03", "infinity")
	if made.Lines != lines || made.Days != days || made.Differs != nil || lines != 8 || days != 217 {
		t.Errorf("made %+v of %d lines and %d days", made, lines, days)
	}
	if n := o.same(f, "Restatements", restatementSheet, wantRestatements, "2026-03", "infinity", ""); n != 2 {
		t.Errorf("%d restated values, want 2", n)
	}
	if n := o.same(f, "Adjustments", adjustmentSheet, wantAdjustments, "2026-03"); n == 0 {
		t.Error("nothing is adjusted")
	}
	m, err := o.Match(t.Context(), month("2026-03"), time.Time{}, DefaultTolerance)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, l := range m.Lines {
		text := func(d decimal.NullDecimal) string {
			if !d.Valid {
				return ""
			}
			return d.Decimal.String()
		}
		asked, owed := l.InvoiceAmount.String(), l.StatementAmount.String()
		if l.InvoiceLines == 0 || l.Currency == "" {
			asked = ""
		}
		if l.StatementLines == 0 || l.Currency == "" {
			owed = ""
		}
		difference := l.Difference.String()
		if l.Currency == "" {
			difference = ""
		}
		want = append(want, strings.Join([]string{string(l.Cause), l.Source, l.Account, l.CustomerID, l.SubscriptionNumber, Defuse(l.Item), l.Charge, l.Currency, asked, owed, difference,
			text(l.RecomputedAmount), Defuse(strings.Join(l.Invoices, " ")), strconv.Itoa(l.InvoiceLines), strconv.Itoa(l.StatementLines), text(l.InvoiceQuantity), text(l.InvoicePrice),
			text(l.StatementQuantity), text(l.StatementPrice), text(l.RecomputedQuantity), l.Detail, l.State, l.PeriodStart.String(), l.PeriodEnd.String()}, "|"))
	}
	var got []string
	for _, row := range table(t, f, "Match", matchSheet) {
		for i, c := range matchSheet {
			if d, err := decimal.NewFromString(row[i]); c.kind == number && err == nil {
				row[i] = d.String()
			}
		}
		got = append(got, strings.Join(row, "|"))
	}
	if !slices.Equal(got, want) || len(got) < 5 {
		t.Errorf("Match:\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
	cover := func(sql string) (texts []string) {
		t.Helper()
		return o.rows(sql)
	}
	var coverage []string
	for _, row := range table(t, f, "Coverage", coverageSheet) {
		coverage = append(coverage, strings.Join([]string{row[0], row[6], row[9], row[10], row[11], row[12], row[13], row[14]}, "|"))
	}
	wantCoverage := cover(`
		select array_to_string(array['lines', case when item ~ '^[=-]' then '''' || item else item end, charge, basis, coalesce(doubt, ''), min(day)::text, max(day)::text, count(*)::text], '|')
		from (select d.*, day - row_number() over (partition by item, charge, basis, doubt order by day)::integer as island from billing.statement_day('2026-03', 'infinity') as d) as d
		group by source, item, charge, basis, doubt, island
		order by source, item, charge desc, min(day)`)
	wantCoverage = append(wantCoverage, cover(`
		select array_to_string(array['loads', case when coalesce(service_level, product) ~ '^[=-]' then '''' else '' end || coalesce(service_level, product, ''), '', status, '', min(day)::text, max(day)::text, count(*)::text], '|')
		from (select c.*, day - row_number() over (partition by service_level, product, status order by day)::integer as island from mart.coverage as c
			where day between '2026-03-01' and '2026-03-31' and status not in ('observed', 'not_due')) as c
		group by source, service_level, product, status, island
		order by source, coalesce(service_level, product, ''), min(day), status`)...)
	if !slices.Equal(coverage, wantCoverage) || !slices.Contains(coverage, "lines|'-Gold|committed|estimated|estimated|2026-03-09|2026-03-09|1") {
		t.Errorf("Coverage:\n got %s\nwant %s", strings.Join(coverage, "\n     "), strings.Join(wantCoverage, "\n     "))
	}

	// No text is a formula, whatever it says; and nothing else is.
	archive, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range archive.File {
		r, err := part.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"<f>", "<f ", ">=", ">-G", ">@", ">+4"} {
			if bytes.Contains(text, []byte(bad)) {
				t.Errorf("%s has %q", part.Name, bad)
			}
		}
	}
	if p, err := archive.Open("xl/styles.xml"); err != nil {
		t.Error(err)
	} else if text, err := io.ReadAll(p); err != nil || bytes.Count(text, []byte(`quotePrefix="true"`)) != 1 {
		t.Errorf("the apostrophe of a text is not marked as its own: %v", err)
	}
	summary := facts(t, f)
	for label, want := range map[string]string{"check": "every line is what its days come to, to the last digit", "state": "open: 5 of 8 lines are provisional, their notes say why",
		"selection": "all customers and accounts", "days": "2026-03-01 to 2026-03-31, UTC; of wolkvox in the zone of the operation", "loaded up to": "run 9 of 2026-04-01 10:00:00Z", "link": ""} {
		if summary[label] != want {
			t.Errorf("Summary, %s: got %q, want %q", label, summary[label], want)
		}
	}

	// The same month, the same bytes.
	for range 5 {
		if again, _ := o.workbook("2026-03", "infinity", Selection{}); !bytes.Equal(file, again) {
			t.Fatal("the same month made other bytes")
		}
	}

	// Of before the invoice was imported there is no match.
	past, _ := o.workbook("2026-03", "2026-04-02T12:59:00Z", Selection{})
	if rows := table(t, reopened(t, past), "Match", matchSheet); rows != nil {
		t.Errorf("an invoice that was not known: %q", rows)
	}
	if note, _ := reopened(t, past).GetCellValue("Match", "A2"); !strings.HasPrefix(note, "No invoice with a line of this month is imported") {
		t.Errorf("the sheet says %q", note)
	}

	// A part of it has the numbers of the whole.
	part, made := o.workbook("2026-03", "infinity", Selection{Account: "calls"})
	rows := table(t, reopened(t, part), "Lines", lineSheet)
	if len(rows) != 1 || made.Lines != 1 || rows[0][0] != "8" || rows[0][7] != "'@SUM(1)" || rows[0][13] != "28" || made.Days != 31 {
		t.Errorf("the lines of an account: %+v %q", made, rows)
	}
	for _, row := range table(t, reopened(t, part), "Match", matchSheet) {
		if row[2] != "calls" {
			t.Errorf("a comparison of another account: %q", row)
		}
	}
	if got := len(table(t, reopened(t, part), "Restatements", restatementSheet)) + len(table(t, reopened(t, part), "Adjustments", adjustmentSheet)); got != 0 {
		t.Errorf("%d rows of other accounts", got)
	}
}

// meddler changes figures when the days of a statement are asked for, and before invoices are compared.
type meddler struct {
	meddle func()
}

func (m meddler) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if strings.Contains(q.SQL, "dw.fact_license_reading") || strings.Contains(q.SQL, "from billing.invoice as i") {
		m.meddle()
	}
	return ctx
}

func (meddler) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// All sheets are of one moment, whatever is loaded meanwhile.
func TestWorkbookIsOfOneMoment(t *testing.T) {
	t.Parallel()
	o := manyfold(t)
	if _, err := o.ImportInvoices(t.Context(), []Invoice{{Vendor: "keystone", Number: "1", Date: day("2026-04-02"), Currency: "USD", Lines: []InvoiceLine{
		{Number: 1, SubscriptionNumber: "A-1", Item: "Extreme", Charge: "committed", PeriodStart: day("2026-03-01"), PeriodEnd: day("2026-03-31"), Amount: decimal.RequireFromString("1"), Source: "test:1"},
	}}}, false); err != nil {
		t.Fatal(err)
	}
	calm, _ := o.workbook("2026-03", "infinity", Selection{})
	config, err := pgxpool.ParseConfig(o.url)
	if err != nil {
		t.Fatal(err)
	}
	meddled := 0
	config.ConnConfig.Tracer = meddler{func() {
		meddled++
		o.exec(`update dw.fact_daily_consumption set committed_tib = committed_tib + 50 where usage_date >= '2026-02-20'`)
	}}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	var restless bytes.Buffer
	if _, err := New(pool, func() time.Time { return o.now }).WriteWorkbook(t.Context(), &restless, month("2026-03"), time.Time{}, Selection{}); err != nil {
		t.Fatal(err)
	}
	if meddled < 3 || !bytes.Equal(calm, restless.Bytes()) {
		t.Errorf("what was loaded meanwhile, %d times, is in the file", meddled)
	}
	if after, _ := o.workbook("2026-03", "infinity", Selection{}); bytes.Equal(calm, after) {
		t.Error("what was loaded is not in the next file")
	}
}

// facts are the labels of the summary with what stands beside them.
func facts(t testing.TB, f *excelize.File) map[string]string {
	t.Helper()
	rows, err := f.GetRows("Summary")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, row := range rows {
		if len(row) == 2 {
			all[row[0]] = row[1]
		}
	}
	return all
}

// The workbook of a closed month is what was frozen, whatever came later; of before it is what was known.
func TestWorkbookOfAClosedMonth(t *testing.T) {
	t.Parallel()
	o := manyfold(t)
	before, _ := o.workbook("2026-03", "2026-04-02T12:15:00Z", Selection{})
	c := o.close("2026-03", "=1+1, says the vendor")
	o.clock("2026-04-03T12:00:00Z")
	closed, _ := o.workbook("2026-03", "infinity", Selection{})
	o.exec(`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			burst_avg_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, was_invoiced, digest, known_from, known_until, payload_id, run_id)
		select customer_key, service_level_key, usage_date, 'restated', sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			burst_avg_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, is_invoiced, digest, known_since, '2026-04-03T11:00:00Z', payload_id, 9
		from dw.fact_daily_consumption where service_level_key = 1 and usage_date in ('2026-03-05', '2026-03-06')`)
	o.exec(`update dw.fact_daily_consumption set committed_tib = 300, known_since = '2026-04-03T11:00:00Z', payload_id = 99, run_id = 9
		where service_level_key = 1 and usage_date in ('2026-03-05', '2026-03-06')`)
	o.price("keystone/////burst 99 USD 2026-01-01")
	later, _ := o.workbook("2026-03", "infinity", Selection{})
	f := reopened(t, later)
	o.same(f, "Lines", lineSheet, wantClosedLines, c.Link)
	if n := o.same(f, "Daily evidence", daySheet, wantClosedDays, c.Link); n != c.Days {
		t.Errorf("%d days, %d were frozen", n, c.Days)
	}
	for _, sheet := range []string{"Lines", "Daily evidence"} {
		if a, b := sheetText(t, reopened(t, closed), sheet), sheetText(t, f, sheet); a != b {
			t.Errorf("%s was changed by a restatement:\n%s\n%s", sheet, a, b)
		}
	}
	if n := o.same(f, "Restatements", restatementSheet, wantRestatements, "2026-03", "infinity", "2026-04-02T13:00:00Z"); n != 4 {
		t.Errorf("%d restated values, want 4", n)
	}
	if n := o.same(f, "Adjustments", adjustmentSheet, wantAdjustments, "2026-03"); n < 3 {
		t.Errorf("%d adjustments", n)
	}
	summary := facts(t, f)
	for label, want := range map[string]string{"state": "closed", "link": fmt.Sprint(c.Link), "version": "1", "hash": c.Hash, "closed by": "jane, as database user " + o.rows("select session_user::text")[0],
		"totals": c.Totals, "accepted because": "'=1+1, says the vendor", "verify": "meterhouse close verify 2026-03"} {
		if summary[label] != want {
			t.Errorf("Summary, %s: got %q, want %q", label, summary[label], want)
		}
	}
	if summary["accepted gaps"] == "" || summary["accepted gaps"] == "none" {
		t.Error("what was accepted is not told")
	}

	if p, err := f.GetDocProps(); err != nil || p.Created != "2026-04-02T13:00:00Z" {
		t.Errorf("the file is of %s, the month was closed at 13:00: %v", p.Created, err)
	}

	// As it was known before.
	o.exec(`insert into ops.run (run_id, source, dataset, scope, account, status, owner, fence, business_at, started_at, finished_at)
		overriding system value values (10, 'keystone', 'keystone.history', 'C-1', 'acme', 'ok', 'test', 1, '2026-04-03T10:00:00Z', now(), now())`)
	again, _ := o.workbook("2026-03", "2026-04-02T12:15:00Z", Selection{})
	f = reopened(t, again)
	o.same(f, "Lines", lineSheet, wantOpenLines, "2026-03", "2026-04-02T12:15:00Z")
	o.same(f, "Daily evidence", daySheet, wantOpenDays, "2026-03", "2026-04-02T12:15:00Z")
	if n := o.same(f, "Restatements", restatementSheet, wantRestatements, "2026-03", "2026-04-02T12:15:00Z", ""); n != 0 {
		t.Errorf("%d values had been restated by then", n)
	}
	if got := facts(t, f)["loaded up to"]; got != "run 9 of 2026-04-01 10:00:00Z" {
		t.Errorf("loaded up to %s", got)
	}
	for _, sheet := range []string{"Lines", "Daily evidence", "Restatements"} {
		if a, b := sheetText(t, reopened(t, before), sheet), sheetText(t, f, sheet); a != b {
			t.Errorf("%s of the past was changed:\n%s\n%s", sheet, a, b)
		}
	}

	// A line that its days do not come to is told.
	o.exec(`alter table billing.closed_line disable trigger user`)
	o.exec(`update billing.closed_line set amount = amount + 0.01 where link = $1 and line_no = 3`, c.Link)
	o.exec(`update billing.closed_line set quantity = quantity + 0.000000000001 where link = $1 and line_no = 4`, c.Link)
	o.exec(`update billing.closed_line set amount = null, currency = null where link = $1 and line_no = 5`, c.Link)
	bad, made := o.workbook("2026-03", "infinity", Selection{})
	if !slices.Equal(made.Differs, []int{3, 4, 5}) {
		t.Errorf("lines %v differ, want 3 to 5", made.Differs)
	}
	rows := table(t, reopened(t, bad), "Lines", lineSheet)
	if got := []string{rows[2][29], rows[3][29], rows[4][29], rows[5][29]}; !slices.Equal(got, []string{"amount differs", "quantity differs", "amount differs", "ok"}) {
		t.Errorf("got %q", got)
	}
	if got := facts(t, reopened(t, bad))["check"]; got != "3 lines are not what their days come to: see column check of Lines" {
		t.Errorf("got %q", got)
	}
	o.exec(`update billing.closed_line set line_no = 100 - line_no where link = $1 and kind = 'statement'`, c.Link)
	renumbered, _ := o.workbook("2026-03", "infinity", Selection{})
	if rows := table(t, reopened(t, renumbered), "Lines", lineSheet); rows[0][0] != "92" || rows[0][6] != "chat_licenses" {
		t.Errorf("lines do not have the numbers that they were frozen with: %q", rows[0])
	}
	o.exec(`update billing.closed_line set item = 'gone' where link = $1 and line_no = 97`, c.Link)
	if _, err := o.WriteWorkbook(t.Context(), io.Discard, month("2026-03"), time.Time{}, Selection{}); err == nil || !strings.Contains(err.Error(), "is of no line") {
		t.Errorf("days without a line: got %v", err)
	}
}

// sheetText is all of a sheet.
func sheetText(t testing.TB, f *excelize.File, sheet string) string {
	t.Helper()
	rows, err := f.GetRows(sheet, excelize.Options{RawCellValue: true})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, row := range rows {
		b.WriteString(strings.Join(row, "|") + "\n")
	}
	return b.String()
}

// A sheet that is full goes on in another.
func TestWorkbookGoesOn(t *testing.T) {
	t.Parallel()
	o := manyfold(t)
	var whole [][]string
	for _, rows := range []int{sheetRows, 103} {
		book := newBook()
		book.maxRows = rows
		var b bytes.Buffer
		if _, err := o.writeWorkbook(t.Context(), &b, book, month("2026-03"), time.Time{}, Selection{}); err != nil {
			t.Fatal(err)
		}
		book.close()
		f := reopened(t, b.Bytes())
		all := table(t, f, "Daily evidence", daySheet)
		if whole == nil {
			whole = all
			continue
		}
		if got := f.GetSheetList(); !slices.Equal(got[2:6], []string{"Daily evidence", "Daily evidence 2", "Daily evidence 3", "Restatements"}) {
			t.Fatalf("sheets %q", got)
		}
		if len(all) != 100 {
			t.Errorf("%d rows in the first part", len(all))
		}
		all = append(all, table(t, f, "Daily evidence 2", daySheet)...)
		all = append(all, table(t, f, "Daily evidence 3", daySheet)...)
		if fmt.Sprint(all) != fmt.Sprint(whole) {
			t.Error("the parts are not the whole")
		}
		if title, _ := f.GetCellValue("Daily evidence 3", "A1"); title != "Days behind the lines of 2026-03, part 3" {
			t.Errorf("title %q", title)
		}
	}
}

func TestNumbersOfASpreadsheet(t *testing.T) {
	t.Parallel()
	b := newBook()
	t.Cleanup(b.close)
	w, err := b.stream("Summary", 1)
	if err != nil {
		t.Fatal(err)
	}
	s := summary{book: b, w: w}
	cases := []struct{ text, shown, exact string }{
		{"0", "0", ""}, {"-0.01", "-0.01", ""}, {"12.50", "12.50", ""}, {"1234567.891", "1,234,567.891", ""},
		{"0.000000000001", "0.000000000001", ""},
		{"123456789.012345", "123,456,789.012345", ""},
		{"123456789012.345", "123,456,789,012.345", ""},                     // 15 digits
		{"1234567890123.456", "1,234,567,890,123.460", "1234567890123.456"}, // 16
		{"12345678901234567890", "12,345,678,901,234,600,000", "12345678901234567890"},
		{"1200000000000000000000", "1,200,000,000,000,000,000,000", ""}, // 2
		{"0.1234567890123456", "", "0.1234567890123456"},
		{"-99999999999999999999999999.9999999999999999", "", "-99999999999999999999999999.9999999999999999"},
	}
	for _, c := range cases {
		s.row(decimal.NewNullDecimal(decimal.RequireFromString(c.text)))
	}
	s.row(money{decimal.NewNullDecimal(decimal.RequireFromString("1800")), "USD"})
	s.row(money{decimal.NewNullDecimal(decimal.RequireFromString("1800")), "JPY"})
	s.row(money{decimal.NewNullDecimal(decimal.RequireFromString("-1800.5")), "KWD"})
	s.row(decimal.NullDecimal{})
	if s.err != nil || w.Flush() != nil {
		t.Fatal(s.err)
	}
	var buffer bytes.Buffer
	if err := b.write(&buffer, "x", at("2026-04-02T13:00:00Z")); err != nil {
		t.Fatal(err)
	}
	f := reopened(t, buffer.Bytes())
	cell := func(name string, raw bool) string {
		text, err := f.GetCellValue("Summary", name, excelize.Options{RawCellValue: raw})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for i, c := range cases {
		raw, exact := cell(fmt.Sprintf("A%d", i+1), true), cell(fmt.Sprintf("B%d", i+1), true)
		if exact != c.exact {
			t.Errorf("%s: exact text %q, want %q", c.text, exact, c.exact)
		}
		if exact == "" && !decimal.RequireFromString(raw).Equal(decimal.RequireFromString(c.text)) {
			t.Errorf("%s: stands as %s", c.text, raw)
		}
		if shown := cell(fmt.Sprintf("A%d", i+1), false); c.shown != "" && shown != c.shown {
			t.Errorf("%s: is shown as %s, want %s", c.text, shown, c.shown)
		}
	}
	for i, want := range []string{"1,800.00", "1,800", "-1,800.500", ""} {
		if got := cell(fmt.Sprintf("A%d", len(cases)+1+i), false); got != want {
			t.Errorf("money %d: is shown as %q, want %q", i, got, want)
		}
	}
	if p, err := f.GetDocProps(); err != nil || p.Created != "2026-04-02T13:00:00Z" || p.Modified != p.Created {
		t.Errorf("times %+v, %v", p, err)
	}
}

func TestDefuse(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "plain", "a=1", "1-1", "'=1", "#1", "   ", "(1)", "ñ@"} {
		if got := Defuse(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	for _, text := range []string{"=1+1", "+1", "-1", "@x", "\tx", "\rx", "\n=1", "\x00=", "＝1", "＋1", "－1", "＠1", " =1", "\u00a0=1", "\u3000=1", "\ufeff=1", "\u200b\u200b@x", " -"} {
		if got := Defuse(text); got != "'"+text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// A text that no cell can hold is cut, and says so.
func TestLongTexts(t *testing.T) {
	t.Parallel()
	b := newBook()
	t.Cleanup(b.close)
	for _, c := range []struct {
		text string
		cut  bool
	}{{strings.Repeat("x", cellLength), false}, {strings.Repeat("x", cellLength+1), true}, {strings.Repeat("😀", cellLength/2), false}, {strings.Repeat("😀", cellLength/2+1), true}, {"=" + strings.Repeat("x", cellLength-1), true}} {
		cell, err := b.text("text", c.text)
		if err != nil {
			t.Fatal(err)
		}
		got := cell.(excelize.Cell).Value.(string)
		if n := utf16Length(got); n > cellLength || strings.HasSuffix(got, "characters in all]") != c.cut {
			t.Errorf("%d units of %d, cut %v", n, utf16Length(c.text), !c.cut)
		}
	}
}

// A line is what its days come to, or it says what is not.
func TestProofOfALine(t *testing.T) {
	t.Parallel()
	null := func(text string) (d decimal.NullDecimal) {
		if text != "" {
			d = decimal.NewNullDecimal(decimal.RequireFromString(text))
		}
		return d
	}
	for _, c := range []struct{ parts, quantity, price, amount, comes, differs string }{
		{"125860", "0.333333333333", "3", "1.00", "0.333333333333", ""},
		{"-188790", "-0.5", "0.01", "-0.01", "-0.5", ""}, // half away from zero
		{"125860", "0.333333333333", "", "", "0.333333333333", ""},
		{"", "", "3", "", "", ""},
		{"0", "0", "3", "0", "0", ""},
		{"125860", "0.333333333334", "3", "1.00", "0.333333333333", "quantity differs"},
		{"0", "", "3", "", "0", "quantity differs"},
		{"", "0", "3", "", "", "quantity differs"},
		{"125860", "0.333333333333", "3", "0.99", "0.333333333333", "amount differs"},
		{"125860", "0.333333333333", "3", "", "0.333333333333", "amount differs"},
		{"125860", "0.333333333333", "", "1.00", "0.333333333333", "amount differs"},
		{"0", "0", "3", "", "0", "amount differs"},
		{"", "", "3", "0", "", "amount differs"},
	} {
		l := workLine{Line: Line{Quantity: null(c.quantity), UnitPrice: null(c.price), Amount: null(c.amount), Currency: "USD"}, parts: null(c.parts), scale: 377580}
		quantity, differs := l.proof()
		comes := ""
		if quantity.Valid {
			comes = plain(quantity.Decimal)
		}
		if comes != c.comes || differs != c.differs {
			t.Errorf("%+v: comes to %q, %q", c, comes, differs)
		}
	}
}

func TestStretchesOfDays(t *testing.T) {
	t.Parallel()
	var h handover
	all := map[instance]*series{}
	for _, d := range []StatementDay{
		{Item: "a", Day: 1, Basis: "observed"}, {Item: "b", Day: 1, Basis: "observed"}, {Item: "a", Day: 2, Basis: "observed"}, {Item: "a", Day: 3, Basis: "observed", Doubt: "partial"},
		{Item: "a", Day: 4, Basis: "missing", Doubt: "partial"}, {Item: "a", Day: 6, Basis: "missing", Doubt: "partial"}, {Item: "a", Day: 6, Basis: "missing", LevelOrdinal: 1},
	} {
		h.cover(all, d)
	}
	var got []string
	for _, of := range h.series {
		got = append(got, fmt.Sprintf("%s%d %v", of.item, of.ordinal, of.stretches))
	}
	want := []string{"a0 [{1 2 observed } {3 3 observed partial} {4 4 missing partial} {6 6 missing partial}]", "b0 [{1 1 observed }]", "a1 [{6 6 missing }]"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}
