package billing

import (
	"fmt"
	"testing"
)

// level makes a customer with one level of one subscription and partitions for the months of its samples.
func (o *office) level(months ...string) {
	o.t.Helper()
	o.exec(`insert into dw.dim_customer (customer_key, customer_id, account, first_seen_at, seen_at) overriding system value values (1, 'C-1', 'acme', now(), now())`)
	o.exec(`insert into dw.dim_subscription (subscription_key, customer_key, subscription_number, first_seen_at) overriding system value values (1, 1, 'A-1', now())`)
	o.exec(`insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_class) overriding system value values (1, 1, 1, 'Extreme', 'base')`)
	o.exec(`insert into ops.watermark (source, dataset, scope, account, expected_from, settle) values ('keystone', 'keystone.history', 'C-1', 'acme', '2024-01-01', '2h')`)
	for _, month := range months {
		first := dateOf(month + "-01")
		o.exec(fmt.Sprintf(`create table dw.fact_consumption_sample_%s partition of dw.fact_consumption_sample for values from ('%s') to ('%s')`,
			month[:4]+"_"+month[5:], first, first+date(first.daysInMonth())))
	}
}

// samples stores consumption 120 over committed 100 every step from one instant until before another, and
// the days that they make.
func (o *office) samples(from, until, step string) {
	o.t.Helper()
	o.exec(`insert into dw.fact_consumption_sample (customer_key, service_level_key, sampled_at, committed_tib, consumed_tib)
		select 1, 1, s, 100, 120 from generate_series($1::text::timestamptz, $2::text::timestamptz - interval '1 microsecond', $3::text::interval) as s`, from, until, step)
	o.exec(`insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, step_seconds, committed_tib, consumed_avg_tib,
			consumed_max_tib, consumed_last_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, invoiced_samples, uninvoiced_samples, digest, known_since, payload_id, run_id)
		select 1, 1, day, count(*), case when count(*) > 1 then extract(epoch from $1::text::interval) end, 100, 120, 120, 120, 20, 20, 20, 0, 0, 'd', day + interval '27 hours', 1, 1
		from (select (sampled_at at time zone 'UTC')::date as day from dw.fact_consumption_sample) as s
		group by day`, step)
}

// The vendor's example and the figures that its formula gives for other months and intervals: one interval
// of 20 TiB burst.
func TestAccruedBurstOfOneInterval(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ month, minutes, want string }{
		{"2024-06", "2", "0.000925925926"}, {"2024-06", "5", "0.002314814815"},
		{"2024-07", "2", "0.00089605734800"}, {"2024-07", "5", "0.002240143369"},
		{"2023-02", "2", "0.000992063492"}, {"2024-02", "5", "0.002394636015"},
	} {
		t.Run(c.month+" "+c.minutes, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			o.level(c.month)
			o.samples(c.month+"-10T00:00:00Z", c.month+"-10T00:00:01Z", "1 day")
			o.want(fmt.Sprintf(`select (recomputed_tib = trim_scale(%s))::text from billing.recomputed_burst('%s-01', interval_minutes => %s)`, c.want, c.month, c.minutes), "true")
			o.want(fmt.Sprintf(`select round(recomputed_tib, 9)::text from billing.recomputed_burst('%s-01', interval_minutes => %s)`, c.month, c.minutes),
				map[string]string{"2024-06 2": "0.000925926", "2024-06 5": "0.002314815", "2024-07 2": "0.000896057", "2024-07 5": "0.002240143", "2023-02 2": "0.000992063", "2024-02 5": "0.002394636"}[c.month+" "+c.minutes])
		})
	}
}

// A burst that is the same through a whole month is that figure, whatever the month, the step and the
// minute of the first sample.
func TestConstantBurstOfAWholeMonth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ month, first, step, minutes string }{
		{"2024-02", "00:00:00", "2 minutes", "2"}, {"2024-03", "00:03:17", "300 seconds", "5"}, {"2023-02", "00:04:59.5", "300 seconds", "5"},
		{"2024-04", "00:00:00", "1 day", "1440"}, {"2024-12", "11:59:00", "12 hours", "720"},
	} {
		t.Run(c.month+" "+c.step, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			o.level(c.month)
			first := dateOf(c.month + "-01")
			o.samples(first.String()+"T"+c.first+"Z", (first+date(first.daysInMonth())).String()+"T"+c.first[:6]+"00Z", c.step)
			o.exec(`delete from dw.fact_daily_consumption where usage_date > $1`, (first + date(first.daysInMonth()) - 1).at(0))
			o.want(`select format('%s %s %s %s', recomputed_tib, interval_minutes, samples = samples_expected, days_from_daily_rows) from mart.accrued_check where month = '`+first.String()+`'`,
				"20 "+c.minutes+" t 0")

			// Samples that were pruned: their days speak for them.
			o.exec(`delete from dw.fact_consumption_sample where sampled_at < $1`, (first + 10).at(0))
			o.want(`select format('%s %s %s', recomputed_tib, days_from_samples, days_from_daily_rows) from mart.accrued_check where month = '`+first.String()+`'`,
				fmt.Sprintf("20 %d 10", first.daysInMonth()-10))
		})
	}
}

// Intervals that are no whole seconds, and days with a hole, are weighted by the median of their own samples.
func TestBurstOfUnevenSamples(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.level("2024-06")
	o.samples("2024-06-01T00:00:00Z", "2024-06-01T23:59:59Z", "299.7 seconds") // 289 of them
	o.exec(`update dw.fact_daily_consumption set step_seconds = 299`)
	const check = `select format('%s %s %s %s', recomputed_tib, interval_minutes, samples, days_from_samples) from billing.recomputed_burst('2024-06-01')`
	o.want(check, "0.6683125 4.995 289 1") // 20 * 289 * 299.7 / (30 * 86400)
	o.exec(`truncate dw.fact_consumption_sample, dw.fact_daily_consumption`)
	o.samples("2024-06-01T00:00:00Z", "2024-06-02T00:00:00Z", "5 minutes")
	o.exec(`delete from dw.fact_consumption_sample where sampled_at >= '2024-06-01T06:00:00Z' and sampled_at < '2024-06-01T07:00:00Z'`)
	o.exec(`update dw.fact_daily_consumption set sample_count = 276, step_seconds = 1`) // the hole makes it look for the step
	o.want(check, "0.638888888889 5 276 1")                                             // 20 * 23 / 24 / 30
	// One sample less than were known: the daily row speaks.
	o.exec(`update dw.fact_daily_consumption set sample_count = 288, step_seconds = 300`)
	o.want(check, "0.666666666667 5 288 0")
}

// The vendor's figure is told beside ours and judged by its reading, and evidence says which reading it is.
func TestEvidenceForTheAccruedColumn(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2024-05-02T12:00:00Z")
	o.level("2024-03", "2024-04")
	o.samples("2024-03-01T00:00:00Z", "2024-05-01T00:00:00Z", "12 hours")
	// March is told in increments, April as a running total.
	o.exec(`update dw.fact_daily_consumption set accrued_sum_tib = round(20 / 31::numeric, 6), accrued_last_tib = round(10 / 31::numeric, 6) where usage_date < '2024-04-01'`)
	o.exec(`update dw.fact_daily_consumption set accrued_last_tib = round(20 * extract(day from usage_date) / 30, 6),
		accrued_sum_tib = round(20 * (2 * extract(day from usage_date) - 0.5) / 30, 6) where usage_date >= '2024-04-01'`)
	// A total falls at the start of a month; increments are what they are.
	o.exec(`update dw.fact_daily_consumption set accrued_last_tib = 0.7 where usage_date = '2024-03-31'`)
	const evidence = `select format('%s %s %s %s %s %s', month, reading, coalesce(decided_by, '-'), resets, proposal, is_contradicted)
		from mart.accrued_evidence where month in ('2024-03-01', '2024-04-01') order by month`
	o.want(evidence, "2024-03-01 increment - 0 increment f", "2024-04-01 increment - 1 running t")
	const check = `select format('%s %s', month, within_tolerance) from mart.accrued_check where month in ('2024-03-01', '2024-04-01') order by month`
	o.want(check, "2024-03-01 t", "2024-04-01 f")
	const burst = `select quantity::text from billing.statement('2024-04', $1::text::timestamptz) where charge = 'burst'`
	o.want(`select quantity::text from mart.statement where period = '2024-04' and charge = 'burst'`, o.rows(`select trim_scale(sum(accrued_sum_tib))::text from dw.fact_daily_consumption where usage_date >= '2024-04-01'`)...)
	before := o.rows(burst, "infinity")

	// Deciding it moves the statement, and what was known before stays told.
	april, _ := ParsePeriod("2024-04")
	was, err := o.SetAccruedReading(t.Context(), "acme", april, "running", "jane", "it never falls and fits")
	if err != nil || was != "increment" {
		t.Fatalf("got %q, %v", was, err)
	}
	o.want(evidence, "2024-03-01 increment - 0 increment f", "2024-04-01 running jane 1 running f")
	o.want(check, "2024-03-01 t", "2024-04-01 t")
	o.want(`select quantity::text from mart.statement where period = '2024-04' and charge = 'burst'`, "20")
	if got := o.rows(burst, "2024-05-02T11:59:59Z"); len(got) != 1 || got[0] != before[0] {
		t.Errorf("before the decision: got %q, want %q", got, before)
	}
	o.now = o.now.AddDate(0, 0, 1)
	if was, err := o.SetAccruedReading(t.Context(), "acme", april, "running", "joe", "again"); err != nil || was != "running" {
		t.Fatalf("got %q, %v", was, err)
	}
	if was, err := o.SetAccruedReading(t.Context(), "acme", april, "increment", "joe", "a mistake"); err != nil || was != "running" {
		t.Fatalf("got %q, %v", was, err)
	}
	o.want(`select format('%s %s %s %s', reading, decided_by, known_since at time zone 'UTC', superseded_at at time zone 'UTC') from billing.accrued_decision order by 1`,
		"increment joe 2024-05-03 12:00:00 ", "running jane 2024-05-02 12:00:00 2024-05-03 12:00:00")
	o.want(`select format('%s %s %s', reading, decided_by, reason) from dw.accrued_reading`, "increment joe a mistake")
	for asOf, want := range map[string]string{"2024-05-02T12:00:00Z": "20", "2024-05-03T12:00:00Z": before[0]} {
		if got := o.rows(burst, asOf); len(got) != 1 || got[0] != want {
			t.Errorf("as of %s: got %q, want %q", asOf, got, want)
		}
	}
}

// A total that runs on from the month before fits neither reading: nobody is told to count it twice.
func TestTotalThatRunsThroughAQuarter(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.level("2024-04")
	o.samples("2024-04-01T00:00:00Z", "2024-05-01T00:00:00Z", "1 day")
	set := func(from string) []string {
		o.exec(`update dw.fact_daily_consumption set accrued_last_tib = $1::text::numeric + 20 * extract(day from usage_date) / 30, accrued_sum_tib = $1::text::numeric + 20 * extract(day from usage_date) / 30`, from)
		return o.rows(`select format('%s %s', coalesce(proposal, 'none'), is_contradicted) from mart.accrued_evidence where month = '2024-04-01'`)
	}
	for from, want := range map[string]string{"0": "running t", "4.9": "running t", "5.1": "none f", "20": "none f"} {
		if got := set(from); len(got) != 1 || got[0] != want {
			t.Errorf("beginning with %s: got %q, want %q", from, got, want)
		}
	}
}

// A decision that somebody recorded by hand was in force at all times before the first of ours.
func TestReadingRecordedByHand(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.exec(`insert into dw.accrued_reading (account, month, reading, decided_by, decided_at, reason) values ('acme', '2026-04-01', 'running', 'dba', '2026-05-01', 'by hand')`)
	april, _ := ParsePeriod("2026-04")
	if was, err := o.SetAccruedReading(t.Context(), "acme", april, "increment", "jane", "no"); err != nil || was != "running" {
		t.Fatalf("got %q, %v", was, err)
	}
	for asOf, want := range map[string]string{"2026-05-02": "running", "2026-05-15T12:00:00Z": "increment", "infinity": "increment"} {
		o.want(`select reading from billing.accrued_reading_as_of('`+asOf+`')`, want)
	}
}
