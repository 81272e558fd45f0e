package billing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl/warehouse/warehousetest"
)

// calendar reads "start end schedule" lines as periods of a subscription of C-1.
func calendar(number, clock, text string) (periods []CalendarPeriod) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		periods = append(periods, CalendarPeriod{CalendarKey{"C-1", number, clock}, day(f[0]), day(f[1]), f[2], "test.csv:1"})
	}
	return periods
}

// importCalendar returns the changes as text.
func (o *office) importCalendar(replace, planOnly bool, periods ...CalendarPeriod) string {
	o.t.Helper()
	changes, err := o.ImportCalendar(o.t.Context(), periods, replace, planOnly)
	if err != nil {
		o.t.Fatal(err)
	}
	var lines []string
	for _, c := range changes {
		lines = append(lines, fmt.Sprintf("%s %s..%s => %s..%s", c.What, c.Was.Start, c.Was.End, c.Is.Start, c.Is.End))
	}
	return strings.ReplaceAll(strings.Join(lines, "; "), "1970-01-01..1970-01-01", "-")
}

const (
	current        = `select format('%s %s %s %s %s', subscription_number, clock, period_start, period_end, schedule) from billing.period where superseded_at is null order by 1`
	periodVersions = `select format('%s %s %s', period_id, xmin, ctid) from billing.period order by period_id`
)

// published is the vendor's own example, which no rule generates.
const published = `2023-08-15 2023-10-14 quarterly
2023-10-15 2024-01-14 quarterly
2024-01-15 2024-01-31 quarterly
2024-02-01 2024-02-29 monthly
2024-03-01 2024-03-31 monthly`

func TestImportCalendar(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	periods := calendar("A-1", "burst", published)
	other := calendar("A-1", "committed", "2023-08-15 2023-11-14 quarterly")
	o.importCalendar(false, true, periods...)
	o.want(current) // a plan leaves nothing
	if got := o.importCalendar(false, false, slices.Concat(periods, other)...); strings.Count(got, "added") != 6 {
		t.Errorf("got %s", got)
	}
	o.want(current, "A-1 burst 2023-08-15 2023-10-14 quarterly", "A-1 burst 2023-10-15 2024-01-14 quarterly", "A-1 burst 2024-01-15 2024-01-31 quarterly",
		"A-1 burst 2024-02-01 2024-02-29 monthly", "A-1 burst 2024-03-01 2024-03-31 monthly", "A-1 committed 2023-08-15 2023-11-14 quarterly")

	before := o.rows(periodVersions)
	slices.Reverse(periods)
	if got := o.importCalendar(false, false, periods...); strings.Count(got, "unchanged") != 5 {
		t.Errorf("got %s", got)
	}
	if after := o.rows(periodVersions); !slices.Equal(before, after) {
		t.Errorf("rows were touched:\n got %q\nwant %q", after, before)
	}

	// The file is the whole calendar of the clock that it names.
	o.now = o.now.AddDate(0, 0, 1)
	got := o.importCalendar(false, false, calendar("A-1", "burst", "2023-08-15 2023-11-14 quarterly\n2023-11-15 2024-02-14 quarterly")...)
	if want := "changed 2023-08-15..2023-10-14 => 2023-08-15..2023-11-14; added - => 2023-11-15..2024-02-14; " +
		"removed 2023-10-15..2024-01-14 => -; removed 2024-01-15..2024-01-31 => -; removed 2024-02-01..2024-02-29 => -; removed 2024-03-01..2024-03-31 => -"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	o.want(current, "A-1 burst 2023-08-15 2023-11-14 quarterly", "A-1 burst 2023-11-15 2024-02-14 quarterly", "A-1 committed 2023-08-15 2023-11-14 quarterly")
	o.want(`select count(*)::text from billing.period where superseded_at = '2026-05-16T12:00:00Z'`, "5")

	if got := o.importCalendar(true, false, calendar("A-2", "burst", "2026-01-01 2026-01-31 monthly")...); strings.Count(got, "removed") != 3 {
		t.Errorf("got %s", got)
	}
	o.want(current, "A-2 burst 2026-01-01 2026-01-31 monthly")
}

// What a caller does not check the database refuses, as a plan too.
func TestImportCalendarTiles(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for text, want := range map[string]string{
		"2026-01-01 2026-01-31 monthly\n2026-02-02 2026-02-28 monthly":                                "leave a gap: one ends on 2026-01-31, the next starts on 2026-02-02",
		"2026-01-01 2026-01-31 monthly\n2026-01-31 2026-02-28 monthly":                                "period_no_overlap",
		"2026-01-31 2026-01-01 monthly":                                                               "period_forward",
		"2026-01-01 2026-01-31 weekly":                                                                "period_schedule_known",
		"2026-01-01 2026-01-31 monthly\n2026-02-01 2026-02-28 monthly\n2026-03-02 2026-03-31 monthly": "2026-03-02",
	} {
		for _, planOnly := range []bool{true, false} {
			if _, err := o.ImportCalendar(t.Context(), calendar("A-1", "burst", text), false, planOnly); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", text, err, want)
			}
		}
	}
	o.want(current)
}

func TestPeriodTable(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	const insert = `insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since)
		values ('C-1', 'A-1', $1, $2::text::date, $3::text::date, 'monthly', 'test', '2026-01-01')`
	o.exec(insert, "burst", "2026-01-01", "2026-01-31")
	o.exec(insert, "burst", "2026-02-01", "2026-02-28")
	o.exec(insert, "burst", "2026-03-01", "2026-03-31")
	o.exec(insert, "committed", "2026-06-01", "2026-06-30") // a clock of its own
	o.refused("leave a gap", insert, "burst", "2026-04-02", "2026-04-30")
	o.refused("period_no_overlap", insert, "burst", "2026-03-31", "2026-04-30")
	o.refused("leave a gap", `update billing.period set superseded_at = now() where period_start = '2026-02-01'`)
	o.refused("never changed or deleted", `delete from billing.period`)
	o.refused("never changed or deleted", `update billing.period set period_end = '2026-04-30' where period_start = '2026-03-01'`)
	o.exec(`update billing.period set superseded_at = now() where period_start = '2026-03-01'`) // the last one may go
	o.exec(insert, "burst", "2026-03-01", "2026-04-14")
}

// Each of two writers alone leaves no gap; both together would.
func TestPeriodTableAtOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.importCalendar(false, false, calendar("A-1", "burst", "2026-01-01 2026-01-31 monthly\n2026-02-01 2026-02-28 monthly")...)
	const insert = `insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since)
		values ('C-1', 'A-1', 'burst', '2026-03-01', '2026-03-31', 'monthly', 'test', '2026-01-01')`
	first, second := warehousetest.Connect(t, o.url), warehousetest.Connect(t, o.url)
	run := func(conn *pgx.Conn, sql string) error {
		_, err := conn.Exec(context.Background(), sql)
		return err
	}
	for _, step := range []error{
		run(first, `begin`), run(second, `begin`), run(second, `set lock_timeout = '50ms'`),
		run(first, `update billing.period set superseded_at = now() where period_start = '2026-02-01'`), run(second, insert),
		run(first, `set constraints all immediate`),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if err := run(second, `set constraints all immediate`); err == nil || !strings.Contains(err.Error(), "lock timeout") {
		t.Errorf("the second does not wait for the first: %v", err)
	}
	if err := errors.Join(run(first, `commit`), run(second, `rollback`)); err != nil {
		t.Fatal(err)
	}
	if err := run(second, insert); err == nil || !strings.Contains(err.Error(), "leave a gap") {
		t.Errorf("once the first is there: got %v, want a gap", err)
	}
}

func TestCalendarEnds(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.exec(`insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at) values ('C-1', 'acme', now(), now())`)
	for number, end := range map[string]any{"A-ends": "2026-06-30T12:00:00Z", "A-goes": "2027-06-30T12:00:00Z", "A-open": nil, "A-later": nil} {
		o.exec(`
			with s as (
				insert into dw.dim_subscription (customer_key, subscription_number, first_seen_at) select customer_key, $1, now() from dw.dim_customer returning *
			)
			insert into dw.fact_subscription (customer_key, subscription_key, valid_from, start_at, end_at, payload_id, run_id)
			select customer_key, subscription_key, now(), '2026-01-15T12:00:00Z', $2::text::timestamptz, 1, 1 from s`, number, end)
		periods := calendar(number, "burst", "2026-06-01 2026-06-30 monthly")
		if number == "A-later" {
			periods = calendar(number, "burst", "2026-06-01 2026-07-31 monthly")
		}
		o.importCalendar(false, false, periods...)
	}
	o.importCalendar(false, false, calendar("A-none", "burst", "2026-01-01 2026-01-31 monthly")...)
	o.exec(`update ops.clock set fixed_at = '2026-05-15T12:00:00Z'`)
	o.want(`select format('%s %s %s %s %s', coalesce(account, '-'), subscription_number, due_at at time zone 'UTC', days_left, left(action, 28)) from mart.deadline where kind = 'calendar_ends' order by subscription_number`,
		"acme A-goes 2026-07-01 00:00:00 46 take over the burst periods ",
		"- A-none 2026-02-01 00:00:00 -104 take over the burst periods ",
		"acme A-open 2026-07-01 00:00:00 46 take over the burst periods ")

	contracts, err := o.Contracts(t.Context())
	if err != nil || len(contracts) != 4 || contracts[0].SubscriptionNumber != "A-ends" || contracts[0].Start.String() != "2026-01-15" || contracts[0].Instances != 1 {
		t.Errorf("contracts: %+v, %v", contracts, err)
	}
}
