package billing

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// lines is a statement as text: what the cases look at.
func (o *office) lines(period, asOf string) []string {
	o.t.Helper()
	o.exec(`update ops.clock set fixed_at = $1`, o.now)
	return o.rows(`select concat_ws(' ', nullif(subscription_number, ''), item, nullif(description, ''), charge, case when is_waiver then 'waiver' end, period_start::text, period_end::text,
			coalesce(quantity::text, '?'), coalesce(amount || ' ' || currency, '-'), state, days_observed || '/' || days_expected, coalesce('(' || note || ')', ''))
		from billing.statement($1, $2::text::timestamptz)
		order by source, subscription_number, item, charge desc, is_waiver desc, period_start, segment_from, description`, period, asOf)
}

func wantLines(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	for i := range got {
		got[i] = strings.TrimSpace(got[i])
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\n got %s\nwant %s", what, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

func (o *office) price(texts ...string) {
	o.t.Helper()
	var rates []Rate
	for _, text := range texts {
		rates = append(rates, rate(text))
	}
	if _, err := o.ImportRates(o.t.Context(), rates, false, false); err != nil {
		o.t.Fatal(err)
	}
}

// A month by hand: a commitment that changes inside it, a day without figures, a day that is gone and a price.
func TestStatementByHand(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-02T12:00:00Z")
	o.level("2026-04")
	o.samples("2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z", "1 day")
	o.exec(`update dw.fact_daily_consumption set accrued_sum_tib = 0.5`)
	o.exec(`update dw.fact_daily_consumption set committed_tib = 125 where usage_date >= '2026-04-16'`)
	wantLines(t, "without prices", o.lines("2026-04", "infinity"),
		"A-1 Extreme committed 2026-04-01 2026-04-30 112.5 - final 30/30 (no rate; calendar assumed)",
		"A-1 Extreme burst 2026-04-01 2026-04-30 15 - final 30/30 (no rate; calendar assumed)")

	o.price("keystone/////committed 10.01 USD 2026-01-01", "keystone////Extreme/burst 12.345 JPY 2026-01-01 2026-04-10", "keystone////Extreme/burst 1.0001 KWD 2026-04-11")
	wantLines(t, "with prices", o.lines("2026-04", "infinity"),
		"A-1 Extreme committed 2026-04-01 2026-04-30 112.5 1126.13 USD final 30/30 (calendar assumed)", // 1126.125
		"A-1 Extreme burst 2026-04-01 2026-04-30 5 62 JPY final 10/10 (calendar assumed)",              // 61.725
		"A-1 Extreme burst 2026-04-01 2026-04-30 10 10.001 KWD final 20/20 (calendar assumed)")

	// A day is missing: the commitment before it is taken, and the line says so.
	o.exec(`delete from dw.fact_daily_consumption where usage_date = '2026-04-16'`)
	missing := []string{
		"A-1 Extreme committed 2026-04-01 2026-04-30 111.666666666667 1117.78 USD provisional 29/30 (calendar assumed; days estimated: 1)",
		"A-1 Extreme burst 2026-04-01 2026-04-30 5 62 JPY final 10/10 (calendar assumed)",
		"A-1 Extreme burst 2026-04-01 2026-04-30 9.5 9.501 KWD provisional 19/20 (calendar assumed; days missing: 1)",
	}
	wantLines(t, "a missing day", o.lines("2026-04", "infinity"), missing...)

	// It comes, and goes again: it counts until somebody decides.
	o.exec(`insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
		over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, invoiced_samples, uninvoiced_samples, digest, known_since, absent_since, payload_id, run_id)
		values (1, 1, '2026-04-16', 1, 125, 1, 1, 1, 0, 0.5, 0.5, 0, 0, 'd', '2026-04-18', '2026-04-20', 1, 1)`)
	wantLines(t, "an absent day", o.lines("2026-04", "infinity"),
		"A-1 Extreme committed 2026-04-01 2026-04-30 112.5 1126.13 USD provisional 30/30 (calendar assumed; days absent and neither kept nor dropped: 1)",
		"A-1 Extreme burst 2026-04-01 2026-04-30 5 62 JPY final 10/10 (calendar assumed)",
		"A-1 Extreme burst 2026-04-01 2026-04-30 10 10.001 KWD provisional 20/20 (calendar assumed; days absent and neither kept nor dropped: 1)")
	absence := Absence{"C-1", "A-1", "", "Extreme", 0, day("2026-04-15"), day("2026-04-17"), "keep", "they told us by mail"}
	decide := func(a Absence) {
		t.Helper()
		if err := o.DecideAbsence(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	decide(absence)
	wantLines(t, "kept", o.lines("2026-04", "infinity"),
		"A-1 Extreme committed 2026-04-01 2026-04-30 112.5 1126.13 USD final 30/30 (calendar assumed)",
		"A-1 Extreme burst 2026-04-01 2026-04-30 5 62 JPY final 10/10 (calendar assumed)",
		"A-1 Extreme burst 2026-04-01 2026-04-30 10 10.001 KWD final 20/20 (calendar assumed)")
	o.now = o.now.Add(time.Hour)
	absence.First, absence.Last, absence.Decision = day("2026-04-16"), day("2026-04-16"), "drop"
	decide(absence)
	decide(absence) // changes nothing
	dropped := []string{
		"A-1 Extreme committed 2026-04-01 2026-04-30 108.333333333333 1084.42 USD final 29/29 (calendar assumed)",
		"A-1 Extreme burst 2026-04-01 2026-04-30 5 62 JPY final 10/10 (calendar assumed)",
		"A-1 Extreme burst 2026-04-01 2026-04-30 9.5 9.501 KWD final 19/19 (calendar assumed)",
	}
	wantLines(t, "dropped", o.lines("2026-04", "infinity"), dropped...)
	o.want(`select format('%s %s %s %s', first_day, last_day, decision, superseded_at is null) from billing.absence order by absence_id`,
		"2026-04-15 2026-04-17 keep f", "2026-04-16 2026-04-16 drop t", "2026-04-15 2026-04-15 keep t", "2026-04-17 2026-04-17 keep t")
	wantLines(t, "an hour ago", o.lines("2026-04", "2026-05-02T12:30:00Z")[:1],
		"A-1 Extreme committed 2026-04-01 2026-04-30 112.5 1126.13 USD final 30/30 (calendar assumed)")

	// Delivered again it counts, whatever was decided about its absence.
	o.exec(`update dw.fact_daily_consumption set absent_since = null`)
	wantLines(t, "back again", o.lines("2026-04", "infinity")[:1],
		"A-1 Extreme committed 2026-04-01 2026-04-30 112.5 1126.13 USD final 30/30 (calendar assumed)")

	err := o.DecideAbsence(t.Context(), Absence{"C-1", "A-2", "", "Extreme", 0, 1, 2, "keep", "r"})
	if err == nil || !strings.Contains(err.Error(), "no such level was loaded") {
		t.Errorf("an unknown level: got %v", err)
	}
}

// An amount is of the exact quantity, of which a statement shows 12 decimals: a third of a TiB at 0.015 is half a cent.
func TestAmountOfTheExactQuantity(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-02T12:00:00Z")
	o.level("2026-04")
	o.samples("2026-04-21T00:00:00Z", "2026-05-01T00:00:00Z", "1 day")
	o.exec(`update dw.fact_daily_consumption set committed_tib = 1`)
	o.price("keystone/////committed 0.015 USD 2026-01-01")
	wantLines(t, "ten days of thirty", o.lines("2026-04", "infinity")[:1],
		"A-1 Extreme committed 2026-04-01 2026-04-30 0.333333333333 0.01 USD final 10/10 (calendar assumed)")
}

// A price that was removed held until that instant, and not at it.
func TestRemovedPrice(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-02T12:00:00Z")
	o.level("2026-04")
	o.samples("2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z", "1 day")
	o.price("keystone/////committed 1 USD 2026-01-01", "keystone////Extreme/committed 2 USD 2026-01-01")
	o.now = o.now.Add(time.Hour)
	if _, err := o.ImportRates(t.Context(), []Rate{rate("keystone/////committed 1 USD 2026-01-01")}, true, false); err != nil {
		t.Fatal(err)
	}
	for asOf, amount := range map[string]string{"2026-05-02T12:59:59Z": "200.00 USD", "2026-05-02T13:00:00Z": "100.00 USD", "infinity": "100.00 USD"} {
		wantLines(t, "as of "+asOf, o.lines("2026-04", asOf)[:1], "A-1 Extreme committed 2026-04-01 2026-04-30 100 "+amount+" final 30/30 (calendar assumed)")
	}
}

// The vendor's own examples of billing periods: a switch from quarters to months in mid-January.
func TestStatementByTheCalendar(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2024-03-02T12:00:00Z")
	o.level("2023-08", "2023-09", "2023-10", "2023-11", "2023-12", "2024-01", "2024-02")
	o.samples("2023-08-15T00:00:00Z", "2024-03-01T00:00:00Z", "1 day")
	o.exec(`update dw.fact_daily_consumption set accrued_sum_tib = 0.25`)
	o.exec(`update ops.watermark set expected_from = '2023-08-01'`)
	o.exec(`update dw.dim_subscription set start_at = '2023-08-15T09:00:00Z'`)
	for _, p := range [][3]string{{"2023-08-15", "2023-10-14", "quarterly"}, {"2023-10-15", "2024-01-14", "quarterly"}, {"2024-01-15", "2024-01-31", "quarterly"}, {"2024-02-01", "2024-02-29", "monthly"}} {
		for _, clock := range []string{"committed", "burst"} {
			o.exec(`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since)
				values ('C-1', 'A-1', $1, $2, $3, $4, 'test', '2023-08-01')`, clock, dateOf(p[0]).at(0), dateOf(p[1]).at(0), p[2])
		}
	}
	want := map[string][]string{
		"2023-08": nil, "2023-09": nil, "2023-11": nil, "2023-12": nil,
		// 17/31 + 1 + 14/31 of 100 TiB; 60 of the 61 days are in the waiver, which counts them from 15 August.
		"2023-10": {"A-1 Extreme committed 2023-08-15 2023-10-14 200 - final 61/61 (no rate)",
			"A-1 Extreme burst waiver 2023-08-15 2023-10-14 15 - final 60/60 (no rate)", "A-1 Extreme burst 2023-08-15 2023-10-14 0.25 - final 1/1 (no rate)"},
		"2024-01": {
			"A-1 Extreme committed 2023-10-15 2024-01-14 300 - final 92/92 (no rate)", "A-1 Extreme committed 2024-01-15 2024-01-31 54.838709677419 - final 17/17 (no rate)",
			"A-1 Extreme burst 2023-10-15 2024-01-14 23 - final 92/92 (no rate)", "A-1 Extreme burst 2024-01-15 2024-01-31 4.25 - final 17/17 (no rate)",
		},
		"2024-02": {"A-1 Extreme committed 2024-02-01 2024-02-29 100 - final 29/29 (no rate)", "A-1 Extreme burst 2024-02-01 2024-02-29 7.25 - final 29/29 (no rate)"},
		"2024-03": {"A-1 Extreme committed 2024-03-01 2024-03-31 3.225806451613 - provisional 0/31 (no rate; no billing period covers these days: calendar month assumed; period is not over; days estimated: 1)",
			"A-1 Extreme burst 2024-03-01 2024-03-31 ? - provisional 0/31 (no rate; no billing period covers these days: calendar month assumed; period is not over; days missing: 1)"},
	}
	for month, lines := range want {
		wantLines(t, month, o.lines(month, "infinity"), lines...)
	}
	o.want(`select string_agg(distinct period, ' ' order by period) from mart.statement`, "2023-10 2024-01 2024-02 2024-03")
}

// terms records a version of what the vendor tells of the subscription; start and end may be empty.
func (o *office) terms(subscription int, from, to, start, end string) {
	o.t.Helper()
	o.exec(`insert into dw.fact_subscription (customer_key, subscription_key, valid_from, valid_to, start_at, end_at, payload_id, run_id)
		values (1, $1, $2::text::timestamptz, nullif($3, '')::timestamptz, nullif($4, '')::timestamptz, nullif($5, '')::timestamptz, 1, 1)`, subscription, from, to, start, end)
}

// burst is the days of burst in and out of the waiver.
func (o *office) burst(period, asOf string) []string {
	o.t.Helper()
	return o.rows(`select concat_ws(' ', nullif(discriminator, ''), case when is_waiver then 'waived' else 'charged' end, min(day), max(day), count(*))
		from billing.statement_day($1, $2::text::timestamptz) where charge = 'burst' group by discriminator, is_waiver order by discriminator, is_waiver desc`, period, asOf)
}

// The 60 days begin with the start, whatever its hour, and a start that is corrected takes them along; a renewal
// does not begin them anew, whether the record stays or another comes, nor does it waive the months before it.
func TestWaiverIsNotStartedAnew(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-02T12:00:00Z")
	o.level("2025-12", "2026-01", "2026-02", "2026-03")
	o.exec(`update ops.watermark set expected_from = '2025-01-01'`)
	o.samples("2025-12-01T00:00:00Z", "2026-04-01T00:00:00Z", "1 day")

	o.exec(`update dw.dim_subscription set start_at = '2025-12-01T23:59:59Z'`)
	wantLines(t, "a start late in the day", o.burst("2026-01", "infinity"), "waived 2026-01-01 2026-01-29 29", "charged 2026-01-30 2026-01-31 2")

	o.exec(`update dw.dim_subscription set start_at = '2026-01-29'`) // 59 days after its use began
	wantLines(t, "used before it starts", o.burst("2026-02", "infinity"), "waived 2026-02-01 2026-02-28 28")
	o.exec(`update dw.dim_subscription set start_at = '2026-01-30'`)
	wantLines(t, "used for 60 days before it starts", o.burst("2026-02", "infinity"), "charged 2026-02-01 2026-02-28 28")

	o.terms(1, "2025-12-01T05:00:00Z", "2026-01-20T05:00:00Z", "2025-12-01T00:00:00Z", "2026-12-01T00:00:00Z")
	o.terms(1, "2026-01-20T05:00:00Z", "2026-02-10T05:00:00Z", "2025-12-15T00:00:00Z", "2026-12-15T00:00:00Z")
	wantLines(t, "before the correction", o.burst("2026-01", "2026-01-20T04:00:00Z"), "waived 2026-01-01 2026-01-19 19")
	wantLines(t, "corrected by two weeks", o.burst("2026-02", "2026-02-10T04:00:00Z"), "waived 2026-02-01 2026-02-09 9")
	o.terms(1, "2026-02-10T05:00:00Z", "", "2026-02-01T00:00:00Z", "2027-02-01T00:00:00Z")
	wantLines(t, "renewed", o.burst("2026-02", "infinity"), "charged 2026-02-01 2026-02-28 28")
	wantLines(t, "renewed: the month before", o.burst("2026-01", "infinity"), "waived 2026-01-01 2026-01-29 29", "charged 2026-01-30 2026-01-31 2")

	// As a record of its own beside the one that ends.
	o.exec(`update dw.fact_subscription set start_at = '2025-12-01', end_at = '2026-03-02' where valid_to is null`)
	o.exec(`insert into dw.dim_subscription (subscription_key, customer_key, subscription_number, discriminator, start_at, first_seen_at) overriding system value values (2, 1, 'A-1', '2026-03-01', '2026-03-01', now())`)
	o.exec(`insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_class) overriding system value values (2, 1, 2, 'Extreme', 'base')`)
	o.exec(`update dw.fact_daily_consumption set service_level_key = 2 where usage_date >= '2026-03-01'`)
	wantLines(t, "another record", o.burst("2026-03", "infinity"), "charged 2026-03-01 2026-03-02 2", "2026-03-01 charged 2026-03-01 2026-03-31 31")
	for end, waived := range map[string]bool{"2026-02-26": true, "2026-02-27": false, "2026-03-02": false, "2026-03-03": true} {
		o.exec(`update dw.fact_subscription set end_at = $1::text::timestamptz where valid_to is null`, end)
		if got := o.burst("2026-03", "infinity"); strings.Contains(strings.Join(got, "\n"), "2026-03-01 waived") != waived {
			t.Errorf("the other ends on %s: got %q, want waived to be %v", end, got, waived)
		}
	}
	o.exec(`update dw.fact_subscription set end_at = '2026-03-01' where valid_to is null`)
	// Of two that end there, the days go on with those of the older.
	o.exec(`insert into dw.dim_subscription (subscription_key, customer_key, subscription_number, discriminator, start_at, end_at, first_seen_at) overriding system value
		values (3, 1, 'A-1', '2026-02-20', '2026-02-20', '2026-03-01', now())`)
	wantLines(t, "two before it", o.burst("2026-03", "infinity"), "charged 2026-03-01 2026-03-01 1", "2026-03-01 charged 2026-03-01 2026-03-31 31")
	// One after the other they go on with those of the first, however short the one between them is.
	o.exec(`update dw.fact_subscription set end_at = '2026-02-20' where valid_to is null`)
	wantLines(t, "one between them", o.burst("2026-03", "infinity"), "2026-03-01 charged 2026-03-01 2026-03-31 31")
	o.exec(`update dw.fact_subscription set end_at = '2026-03-01' where valid_to is null`)
	o.exec(`delete from dw.dim_subscription where subscription_key = 3`)
	o.exec(`update dw.dim_subscription set subscription_number = 'A-2' where subscription_key = 2`)
	wantLines(t, "of another number", o.burst("2026-03", "infinity"), "charged 2026-03-01 2026-03-01 1", "2026-03-01 waived 2026-03-01 2026-03-31 31")
	o.exec(`update dw.dim_subscription set subscription_number = 'A-1' where subscription_key = 2`)
	// One that runs beside it is another subscription.
	o.exec(`update dw.fact_subscription set end_at = '2026-12-31' where valid_to is null`)
	wantLines(t, "another subscription", o.burst("2026-03", "infinity"), "charged 2026-03-01 2026-03-31 31", "2026-03-01 waived 2026-03-01 2026-03-31 31")
}

// A contract that is older than the history is missed from the first day of the history on; a level that joins
// others later is not.
func TestDaysMissingAtTheStartOfTheHistory(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-02T12:00:00Z")
	o.level("2026-04")
	o.samples("2026-04-04T00:00:00Z", "2026-05-01T00:00:00Z", "1 day")
	o.exec(`update ops.watermark set expected_from = '2026-04-01'`)
	o.exec(`update dw.dim_subscription set start_at = '2023-01-15'`)
	o.exec(`insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_class) overriding system value values (2, 1, 1, 'Premium', 'base')`)
	o.exec(`insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
		over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, invoiced_samples, uninvoiced_samples, digest, known_since, payload_id, run_id)
		select 1, 2, usage_date, 1, 60, 1, 1, 1, 0, 0, 0, 0, 0, 'd', known_since, 1, 1 from dw.fact_daily_consumption where usage_date >= '2026-04-10'`)
	const note = "(no rate; calendar assumed; days missing: 3)"
	wantLines(t, "April", o.lines("2026-04", "infinity"),
		"A-1 Extreme committed 2026-04-01 2026-04-30 90 - provisional 27/30 "+note,
		"A-1 Extreme burst 2026-04-01 2026-04-30 540 - provisional 27/30 "+note,
		"A-1 Premium committed 2026-04-01 2026-04-30 42 - final 21/21 (no rate; calendar assumed)",
		"A-1 Premium burst 2026-04-01 2026-04-30 0 - final 21/21 (no rate; calendar assumed)")
	wantLines(t, "March", o.lines("2026-03", "infinity"))
}

// Burst of which nothing is known has a price and no amount, so no currency either, and can be closed.
func TestUnknownAmountHasNoCurrency(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-02T12:00:00Z")
	o.level("2026-04")
	o.samples("2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z", "1 day")
	o.exec(`update dw.fact_daily_consumption set accrued_sum_tib = null, known_since = usage_date + interval '25 hours'`)
	o.price("keystone////Extreme/burst 2 USD 2026-01-01")
	o.want(`select concat_ws(' ', charge, coalesce(unit_price::text, '?'), coalesce(amount::text, '?'), coalesce(currency, '?'), note) from billing.statement('2026-04', 'infinity') where charge = 'burst'`,
		"burst 2 ? ? calendar assumed; days missing: 30")
	// The last day came before it was due, and did not tell burst either.
	o.want(`select note from billing.statement('2026-04', '2026-05-01T01:59:59Z') where charge = 'burst'`, "no rate; calendar assumed; period is not over; days missing: 30")
	april, _ := ParsePeriod("2026-04")
	if _, err := o.Close(t.Context(), april, CloseOptions{By: "jane", Reason: "it never comes"}); err != nil {
		t.Error(err)
	}
}

// A level is expected on the days that its answers told as they are read now: not on those that a former reading made of them.
func TestDaysReadAnewAreNotExpected(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-02T12:00:00Z")
	o.level("2026-04")
	o.exec(`update dw.dim_subscription set end_at = '2026-04-20'`)
	o.samples("2026-04-10T00:00:00Z", "2026-04-21T00:00:00Z", "1 day")
	days := func(what string, want ...string) {
		t.Helper()
		wantLines(t, what, o.rows(`select concat_ws(' ', min(day), max(day), count(*)) from billing.statement_day('2026-04', 'infinity') where charge = 'committed'`), want...)
	}
	days("as told", "2026-04-10 2026-04-20 11")
	version := func(kind, day, until string) {
		t.Helper()
		o.exec(`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
				over_committed_avg_tib, digest, known_from, known_until, payload_id, run_id)
			values (1, 1, $2, $1, 1, 100, 1, 1, 1, 0, 'd', '2026-04-25', $3::text::timestamptz, 1, 1)`, kind, dateOf(day).at(0), until)
	}
	version("reread", "2026-04-09", "2026-04-25")
	version("reread", "2026-04-21", "2026-04-25")
	days("read anew", "2026-04-10 2026-04-20 11")
	version("restated", "2026-04-09", "2026-04-26")
	version("restated", "2026-04-21", "2026-04-26")
	days("known for a day", "2026-04-09 2026-04-21 13")
}

// A commitment that goes up and back within a month, over a month's end, in a quarter whose months differ: a day is
// the part of its own month, and days without figures have what was known before them, from the month before too.
func TestCommittedAcrossMonths(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-02T12:00:00Z")
	o.level("2026-01", "2026-02", "2026-03", "2026-04")
	o.samples("2026-01-01T00:00:00Z", "2026-05-01T00:00:00Z", "1 day")
	o.exec(`update ops.watermark set expected_from = '2026-01-01'`)
	o.exec(`update dw.fact_daily_consumption set committed_tib = 162 where usage_date between '2026-01-31' and '2026-02-14'`)
	o.exec(`delete from dw.fact_daily_consumption where usage_date between '2026-02-01' and '2026-02-03' or usage_date = '2026-02-20'`)
	// 30/31 of 100 and 1/31 of 162; 14/28 of 162 and 14/28 of 100.
	wantLines(t, "January", o.lines("2026-01", "infinity")[:1], "A-1 Extreme committed 2026-01-01 2026-01-31 102 - final 31/31 (no rate; calendar assumed)")
	wantLines(t, "February", o.lines("2026-02", "infinity")[:1], "A-1 Extreme committed 2026-02-01 2026-02-28 131 - provisional 24/28 (no rate; calendar assumed; days estimated: 4)")
	o.exec(`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since)
		select 'C-1', 'A-1', c, '2026-01-01', '2026-03-31', 'quarterly', 'test', '2026-03-01' from unnest(array['committed', 'burst']) as c`)
	wantLines(t, "the quarter", o.lines("2026-03", "infinity")[:1], "A-1 Extreme committed 2026-01-01 2026-03-31 333 - provisional 86/90 (no rate; days estimated: 4)")
	// What was known before the gap then, not now: nothing yet of the last of January, later another figure.
	o.exec(`update dw.fact_daily_consumption set known_since = '2026-02-05T03:00:00Z' where usage_date = '2026-01-31'`)
	o.exec(`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			over_committed_avg_tib, digest, known_from, known_until, payload_id, run_id)
		values (1, 1, '2026-01-31', 'restated', 1, 324, 1, 1, 1, 0, 'd', '2026-02-04T03:00:00Z', '2026-02-05T03:00:00Z', 1, 1)`)
	for asOf, want := range map[string]string{"2026-02-04T02:59:59Z": "100", "2026-02-04T03:00:00Z": "324", "2026-02-05T03:00:00Z": "162", "infinity": "162"} {
		for _, month := range []string{"2026-02", "2026-03"} { // by itself, and in the quarter
			got := o.rows(`select concat_ws(' ', reading, basis) from billing.statement_day($1, $2::text::timestamptz) where charge = 'committed' and day = '2026-02-01'`, month, asOf)
			if inQuarter := asOf == "infinity"; inQuarter != (month == "2026-03") {
				wantLines(t, month+" as of "+asOf, got)
				continue
			}
			wantLines(t, month+" as of "+asOf, got, want+" estimated")
		}
	}
	// What was known of a day that is gone was known until then.
	o.exec(`delete from dw.fact_daily_consumption where usage_date = '2026-01-31'`)
	wantLines(t, "the day before is gone", o.rows(`select reading || ' ' || basis from billing.statement_day('2026-02', '2026-02-05T03:00:00Z') where charge = 'committed' and day = '2026-02-01'`), "100 estimated")
}

// A committed period of whole months counts as those months, wherever it begins, whatever their days; a shorter one by
// the days of the calendar's month.
func TestWholeMonthsOfAPeriod(t *testing.T) {
	t.Parallel()
	for _, periods := range [][][3]string{
		{{"2026-01-15", "2026-02-14", "100"}, {"2026-02-15", "2026-03-14", "100"}, {"2026-03-15", "2026-03-31", "54.838709677419"}, {"2026-04-01", "2026-04-30", "100"}},
		{{"2026-01-31", "2026-02-27", "100"}, {"2026-02-28", "2026-03-30", "100"}, {"2026-03-31", "2026-04-29", "100"}, {"2026-04-30", "2026-05-30", "100"}},
		{{"2026-01-20", "2026-04-19", "300"}, {"2026-04-20", "2026-05-09", "65.698924731183"}}, // 11/30 + 9/31
		{{"2026-01-30", "2026-02-27", "100"}, {"2026-02-28", "2026-05-29", "300"}},
	} {
		o := newOffice(t)
		o.now = at("2026-06-02T12:00:00Z")
		o.level("2026-01", "2026-02", "2026-03", "2026-04", "2026-05")
		o.samples("2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z", "1 day")
		for _, p := range periods {
			o.exec(`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since)
				values ('C-1', 'A-1', 'committed', $1, $2, 'monthly', 'test', '2026-01-01')`, dateOf(p[0]).at(0), dateOf(p[1]).at(0))
		}
		for _, p := range periods {
			wantLines(t, p[0]+" to "+p[1],
				o.rows(`select s.quantity::text from billing.statement(left($1, 7), 'infinity') as s where s.charge = 'committed' and s.period_start = $2::text::date`, p[1], p[0]), p[2])
		}
	}

	// What changes within such a month is prorated by its days: 30/31 of 100 and 1/31 of 131.
	o := newOffice(t)
	o.now = at("2026-03-02T12:00:00Z")
	o.level("2026-01", "2026-02")
	o.samples("2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z", "1 day")
	o.exec(`update dw.fact_daily_consumption set committed_tib = 131 where usage_date = '2026-02-14'`)
	o.exec(`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since)
		values ('C-1', 'A-1', 'committed', '2026-01-15', '2026-02-14', 'monthly', 'test', '2026-01-01')`)
	wantLines(t, "a changed day", o.rows(`select quantity::text from billing.statement('2026-02', 'infinity') where charge = 'committed' and period_start = '2026-01-15'`), "101")
}

// Refused records keep the days that they are about from being final, and no others; a window ends before its end.
func TestRefusedRecordsInTheStatement(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-02T12:00:00Z")
	o.level("2026-04")
	o.samples("2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z", "1 day")
	read := o.calls("America/Bogota")
	read(2, "IVR", "2026-05-01T04:50:00Z", "10")
	o.exec(`insert into ops.run (run_id, source, dataset, scope, account, status, owner, fence, business_at, started_at, finished_at) overriding system value
		values (1, 'keystone', 'keystone.history', 'C-1', 'acme', 'ok', 'test', 1, now(), now(), now())`)
	refuse := func(source, dataset, scope, product, from, until, day string) {
		t.Helper()
		o.exec(`insert into ops.quarantine (run_id, source, dataset, scope, product, window_from, window_until, day, path, reason, excerpt, fingerprint, quarantined_at)
			values (1, $1, $2, $3, $4, nullif($5, '')::date, nullif($6, '')::date, nullif($7, '')::date, '/', 'test', '', $8, '2026-05-01')`,
			source, dataset, scope, product, from, until, day, []byte(source+dataset+scope+product+from+day))
	}
	const doubts = `select string_agg(distinct concat_ws(' ', item, charge, day), ', ') from billing.statement_day('2026-04', 'infinity') where doubt = 'quarantine' and charge <> 'burst'`
	refuse("keystone", "keystone.history", "C-2", "", "2026-04-01", "2026-05-01", "")
	refuse("keystone", "keystone.current", "C-1", "", "", "", "")
	refuse("wolkvox", "wolkvox.billing", "C-1", "", "2026-04-01", "2026-05-01", "")
	refuse("keystone", "keystone.history", "calls", "ivr_minutes", "2026-04-01", "2026-05-01", "")
	refuse("wolkvox", "wolkvox.billing", "calls", "chat_licenses", "2026-04-01", "2026-05-01", "")
	o.want(`select coalesce((`+doubts+`), 'none')`, "none")
	refuse("keystone", "keystone.history", "C-1", "", "2026-04-10", "2026-04-12", "")
	refuse("keystone", "keystone.history", "C-1", "", "2026-04-10", "2026-04-30", "2026-04-20")
	refuse("wolkvox", "wolkvox.billing", "calls", "ivr_minutes", "", "", "2026-04-30")
	o.want(doubts, "Extreme committed 2026-04-10, Extreme committed 2026-04-11, Extreme committed 2026-04-20, ivr_minutes usage 2026-04-30")
	o.want(strings.ReplaceAll(`select coalesce((`+doubts+`), 'none')`, "infinity", "2026-04-30T23:59:59Z"), "none")
	o.exec(`update ops.quarantine set resolved_at = '2026-05-02T11:00:00Z', resolution = 'dismissed'`)
	o.want(`select coalesce((`+doubts+`), 'none')`, "none")
	o.want(strings.ReplaceAll(doubts, "infinity", "2026-05-02T10:59:59Z"), "Extreme committed 2026-04-10, Extreme committed 2026-04-11, Extreme committed 2026-04-20, ivr_minutes usage 2026-04-30")
}

// Subscriptions that share a number are decided about apart.
func TestAbsenceIsOfOneSubscription(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-02T12:00:00Z")
	o.level("2026-04")
	o.samples("2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z", "1 day")
	o.exec(`insert into dw.dim_subscription (subscription_key, customer_key, subscription_number, discriminator, first_seen_at) overriding system value values (2, 1, 'A-1', '2026-04-01', now())`)
	o.exec(`insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_class) overriding system value values (2, 1, 2, 'Extreme', 'base')`)
	o.exec(`insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
		over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, invoiced_samples, uninvoiced_samples, digest, known_since, payload_id, run_id)
		select 1, 2, usage_date, 1, 60, 1, 1, 1, 0, 0, 0, 0, 0, 'd', known_since, 1, 1 from dw.fact_daily_consumption`)
	o.exec(`delete from dw.fact_daily_consumption where usage_date >= '2026-04-16' and service_level_key = 1 or usage_date = '2026-04-20'`)
	drop := Absence{"C-1", "A-1", "", "Extreme", 0, day("2026-04-16"), day("2026-12-31"), "drop", "it ended"}
	if err := o.DecideAbsence(t.Context(), drop); err != nil {
		t.Fatal(err)
	}
	const committed = `select concat_ws(' ', discriminator, quantity, state, days_observed, days_estimated) from billing.statement('2026-04', 'infinity') where charge = 'committed' order by 1`
	o.want(committed, " 50 final 15 0", "2026-04-01 60 provisional 29 1")
	drop.Discriminator, drop.Decision = "2026-04-01", "keep"
	if err := o.DecideAbsence(t.Context(), drop); err != nil {
		t.Fatal(err)
	}
	o.want(`select format('%s %s', discriminator, decision) from billing.absence where superseded_at is null order by 1`, " drop", "2026-04-01 keep")
	drop.Discriminator = "2026-05-01"
	if err := o.DecideAbsence(t.Context(), drop); err == nil || !strings.Contains(err.Error(), "no such level") {
		t.Errorf("an unknown subscription: got %v", err)
	}
}

// A decision that goes back in time would hold beside another, and days would count twice.
func TestDecisionsNeedALaterClock(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-02T12:00:00Z")
	o.level("2026-04")
	o.samples("2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z", "1 day")
	april, _ := ParsePeriod("2026-04")
	absence := Absence{"C-1", "A-1", "", "Extreme", 0, day("2026-04-16"), day("2026-04-20"), "drop", "r"}
	read := func(reading string) error {
		_, err := o.SetAccruedReading(t.Context(), "acme", april, reading, "jane", "r")
		return err
	}
	for _, reading := range []string{"running", "increment"} {
		absence.Decision = map[string]string{"running": "keep", "increment": "drop"}[reading]
		if err := errors.Join(read(reading), o.DecideAbsence(t.Context(), absence)); err != nil {
			t.Fatal(err)
		}
		o.now = o.now.Add(time.Hour)
	}
	o.now = at("2026-05-02T11:00:00Z")
	absence.Decision = "keep"
	for _, err := range []error{read("running"), o.DecideAbsence(t.Context(), absence)} {
		if err == nil || !strings.Contains(err.Error(), "want a later --now") {
			t.Errorf("got %v, want a refusal", err)
		}
	}
	o.want(`select string_agg(distinct n::text, ' ') from (select count(*) as n from billing.statement_day('2026-04', '2026-05-02T12:30:00Z') group by charge) as s`, "30")
	// Burst is what the reading of then made of it: a total of 20, or 20 a day.
	for asOf, want := range map[string]string{"2026-05-02T11:59:59Z": "600", "2026-05-02T12:00:00Z": "20", "2026-05-02T12:59:59Z": "20", "2026-05-02T13:00:00Z": "600", "infinity": "600"} {
		o.want(`select accrued_burst_tib || ' ' || (select sum(accrued_burst_tib) from mart.daily_consumption_as_of('`+asOf+`')) || ' '
			|| (select quantity from billing.statement('2026-04', '`+asOf+`') where charge = 'burst') from mart.month_as_of('`+asOf+`')`, want+" "+want+" "+want)
	}
}

// wolkvox: gauges by the rule of the product, counters by the last good reading, all by local months.
func TestStatementOfWolkvox(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-01T12:00:00Z")
	o.exec(`insert into dw.dim_operation (operation_key, account, operation, server, zone, first_seen_at) overriding system value values (1, 'calls', 'OP', '0039', 'America/Bogota', now())`)
	o.exec(`insert into dw.dim_product (product_key, product_number, api, title, unit, kind) overriding system value
		values (1, 1, 'chat_licenses', 'Chat', 'licences', 'gauge'), (2, 2, 'ivr_minutes', 'IVR', 'minutes', 'counter')`)
	o.exec(`insert into ops.run (run_id, source, dataset, scope, account, status, owner, fence, business_at, started_at, finished_at)
		overriding system value select n, 'wolkvox', 'wolkvox.billing', 'calls', 'calls', 'ok', 'test', 1, '2026-05-01T10:00:00Z', now(), now() from generate_series(1, 2) as n`)
	read := func(product int, description, localDay, at, items string, imported bool) {
		t.Helper()
		run := 1
		if imported {
			run = 2
		}
		o.exec(`insert into dw.fact_license_reading (operation_key, product_key, description, reading_date, read_at, items, items_text, payload_id, run_id, is_imported)
			values (1, $1, $2, $3::text::date, $4::text::timestamptz, $5::text::numeric, $5, 1, $6, $7)`, product, description, localDay, at, items, run, imported)
	}
	read(1, "Chat", "2026-04-01", "2026-04-01T15:00:00Z", "10", false)
	read(1, "Chat", "2026-04-02", "2026-04-02T15:00:00Z", "17", false)
	read(1, "Chat", "2026-04-02", "2026-04-02T20:00:00Z", "12", false)
	read(1, "Chat", "2026-04-30", "2026-05-01T04:50:00Z", "11", false) // 23:50 in Bogota
	read(1, "Chat", "2026-05-01", "2026-05-01T06:00:00Z", "99", false)
	read(2, "IVR", "2026-04-02", "2026-04-02T15:00:00Z", "100", false)
	read(2, "IVR", "2026-04-29", "2026-04-29T15:00:00Z", "900.5", false)
	snapshot := func() {
		t.Helper()
		o.exec(`delete from dw.fact_license_snapshot`)
		o.exec(`insert into dw.fact_license_snapshot (operation_key, product_key, description, snapshot_date, items, items_text, items_min, items_max, reading_count, read_at, payload_id, run_id, is_imported, zone)
			select operation_key, product_key, description, reading_date, (array_agg(items order by read_at desc))[1], 'x', min(items), max(items), count(*), max(read_at), 1, 1, bool_and(is_imported), 'America/Bogota'
			from dw.fact_license_reading group by 1, 2, 3, 4`)
	}
	snapshot()
	o.price("wolkvox/////license 2.5 USD 2026-01-01 2026-04-15", "wolkvox////chat_licenses/license 3 USD 2026-01-01", "wolkvox/calls////usage 0.015 COP 2026-01-01")
	// The closing reading of the counter is not there.
	wantLines(t, "max", o.lines("2026-04", "infinity"),
		"chat_licenses Chat license 2026-04-01 2026-04-30 17 51.00 USD provisional 3/30 (days missing: 27)",
		"ivr_minutes IVR usage 2026-04-01 2026-04-30 900.5 13.51 COP provisional 2/29 (days missing: 27; no closing reading)")
	told := map[string]string{}
	for rule, want := range map[string]string{"last": "11 33.00 USD", "average": "11 33.00 USD", "max": "17 51.00 USD"} {
		o.now = o.now.Add(time.Minute)
		if _, err := o.SetProductRule(t.Context(), "chat_licenses", rule, "test"); err != nil {
			t.Fatal(err)
		}
		// Its last reading is there, and what the others would have been does not matter; the greatest or the mean may be on a day that nobody saw.
		state := map[bool]string{true: "final", false: "provisional"}[rule == "last"]
		wantLines(t, rule, o.lines("2026-04", "infinity")[:1], "chat_licenses Chat license 2026-04-01 2026-04-30 "+want+" "+state+" 3/30 (days missing: 27)")
		told[o.now.Format(time.RFC3339)] = o.lines("2026-04", "infinity")[0]
	}
	for asOf, line := range told {
		wantLines(t, "by the rule of then, "+asOf, o.lines("2026-04", asOf)[:1], line)
	}
	// A figure of the last day that was imported closes the month; before the import nobody knew it.
	read(2, "IVR", "2026-04-30", "2026-05-01T04:59:59Z", "1000", true)
	before := o.lines("2026-04", "2026-05-01T09:59:59Z")
	snapshot()
	wantLines(t, "imported", o.lines("2026-04", "infinity")[1:], "ivr_minutes IVR usage 2026-04-01 2026-04-30 1000 15.00 COP final 3/29 (days missing: 26)")
	wantLines(t, "before the import", before[1:], "ivr_minutes IVR usage 2026-04-01 2026-04-30 900.5 - provisional 2/29 (no rate; days missing: 27; no closing reading)")
	// As of this minute it is worked out from the readings, as of now from the days: that is the same.
	wantLines(t, "from the readings", o.lines("2026-04", o.now.Format(time.RFC3339)), o.lines("2026-04", "infinity")...)
	// What was known then was less, and the month was running.
	wantLines(t, "in April", o.lines("2026-04", "2026-04-02T16:00:00Z"),
		"chat_licenses Chat license 2026-04-01 2026-04-30 17 - provisional 2/30 (no rate; period is not over)",
		"ivr_minutes IVR usage 2026-04-01 2026-04-30 100 - provisional 1/29 (no rate; period is not over)")
}

// A month of licences has one price, that of the day that is counted: of several the first with the greatest figure, or
// the last.
func TestLicensesAtThePriceOfTheCountedDay(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-02T12:00:00Z")
	read := o.calls("UTC")
	read(1, "Chat", "2026-04-01T23:50:00Z", "5")
	read(1, "Chat", "2026-04-10T23:50:00Z", "20")
	read(1, "Chat", "2026-04-20T23:50:00Z", "20")
	read(1, "Chat", "2026-04-30T23:50:00Z", "15")
	o.price("wolkvox////chat_licenses/license 2 USD 2026-04-10 2026-04-15", "wolkvox////chat_licenses/license 3 USD 2026-04-16")
	wantLines(t, "greatest", o.lines("2026-04", "infinity"), "chat_licenses Chat license 2026-04-01 2026-04-30 20 40.00 USD provisional 4/30 (days missing: 26)")
	if _, err := o.SetProductRule(t.Context(), "chat_licenses", "last", "test"); err != nil {
		t.Fatal(err)
	}
	wantLines(t, "last", o.lines("2026-04", "infinity"), "chat_licenses Chat license 2026-04-01 2026-04-30 15 45.00 USD final 4/30 (days missing: 26)")

	// A counter is one line at the price of its last reading, whatever somebody decided of gauges.
	read(2, "IVR", "2026-04-05T23:50:00Z", "10")
	read(2, "IVR", "2026-04-30T23:50:00Z", "30")
	o.now = o.now.Add(time.Minute)
	o.price("wolkvox////ivr_minutes/usage 1 USD 2026-04-01 2026-04-15", "wolkvox////ivr_minutes/usage 2 USD 2026-04-16")
	if _, err := o.SetProductRule(t.Context(), "ivr_minutes", "average", "test"); err != nil {
		t.Fatal(err)
	}
	wantLines(t, "counter", o.lines("2026-04", "infinity")[1:], "ivr_minutes IVR usage 2026-04-01 2026-04-30 30 60.00 USD final 2/26 (days missing: 24)")
}

// calls makes an account of wolkvox with a gauge and a counter, and returns what stores a reading and its day.
func (o *office) calls(zone string) func(product int, description, at, items string) {
	o.t.Helper()
	o.exec(`insert into dw.dim_operation (operation_key, account, operation, server, zone, first_seen_at) overriding system value values (1, 'calls', 'OP', '0039', $1, now())`, zone)
	o.exec(`insert into dw.dim_product (product_key, product_number, api, title, unit, kind) overriding system value
		values (1, 1, 'chat_licenses', 'Chat', 'licences', 'gauge'), (2, 2, 'ivr_minutes', 'IVR', 'minutes', 'counter')`)
	return func(product int, description, at, items string) {
		o.t.Helper()
		o.exec(`insert into dw.fact_license_reading (operation_key, product_key, description, reading_date, read_at, items, items_text, payload_id, run_id)
			select 1, $1, $2, (r at time zone $5)::date, r, $4::text::numeric, $4, 1, 1 from (select $3::text::timestamptz as r) as r`, product, description, at, items, zone)
		o.exec(`delete from dw.fact_license_snapshot`)
		o.exec(`insert into dw.fact_license_snapshot (operation_key, product_key, description, snapshot_date, items, items_text, items_min, items_max, reading_count, read_at, payload_id, run_id, is_imported, zone)
			select operation_key, product_key, description, reading_date, (array_agg(items order by read_at desc))[1], 'x', min(items), max(items), count(*), max(read_at), 1, 1, false, $1
			from dw.fact_license_reading group by 1, 2, 3, 4`, zone)
	}
}

// everyDay stores a reading of each day of April at 23:50 in the zone of Auckland.
func (o *office) everyDay(product int, description, items string) {
	o.t.Helper()
	o.exec(`insert into dw.fact_license_reading (operation_key, product_key, description, reading_date, read_at, items, items_text, payload_id, run_id)
		select 1, $1, $2, d, (d + interval '23:50') at time zone 'Pacific/Auckland', $3::text::numeric * extract(day from d), 'x', 1, 1
		from generate_series('2026-04-01'::timestamp, '2026-04-30', '1 day') as d`, product, description, items)
}

// Of a day that the vendor told, what was imported for it does not count, now or as it was known.
func TestImportedBesideRead(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-02T12:00:00Z")
	read := o.calls("UTC")
	o.exec(`insert into ops.run (run_id, source, dataset, scope, account, status, owner, fence, business_at, fetched_at, finished_at)
		overriding system value select 9, 'wolkvox', 'wolkvox.billing', 'calls', 'calls', 'ok', 'import', 1, '2026-05-01T06:00:00Z', '2026-05-01T06:00:00Z', now()`)
	o.exec(`insert into dw.fact_license_reading (operation_key, product_key, description, reading_date, read_at, items, items_text, payload_id, run_id, is_imported)
		select 1, 1, 'Chat', d, d + interval '12 hours', case d when '2026-04-30' then 99 else 5 end, 'x', 1, 9, true
		from unnest(array['2026-04-29', '2026-04-30']::date[]) as d`)
	read(1, "Chat", "2026-04-30T23:50:00Z", "10")
	// As the loader keeps it: the day that was read has no imported figure.
	o.exec(`update dw.fact_license_snapshot set items_min = 10, items_max = 10, reading_count = 1 where snapshot_date = '2026-04-30'`)
	for _, asOf := range []string{"infinity", "2026-05-02T00:00:00Z"} {
		wantLines(t, "as of "+asOf, o.rows(`select day || ' ' || reading from billing.statement_day('2026-04', $1::text::timestamptz) where basis = 'observed' order by day`, asOf), "2026-04-29 5", "2026-04-30 10")
	}
	// Before anything was imported, and before the vendor had told the day.
	wantLines(t, "before the import", o.rows(`select day || ' ' || reading from billing.statement_day('2026-04', '2026-05-01T05:59:59Z') where basis = 'observed'`), "2026-04-30 10")
}

// Readings that do not tell a whole month leave it provisional and say why: a counter that falls, one that is told
// under another name, a gauge that nobody saw on a day, a product that was not read at all.
func TestStatementOfBrokenReadings(t *testing.T) {
	t.Parallel()
	now := at("2026-05-01T12:00:00Z")
	const zone = "Pacific/Auckland" // 12 or 13 hours ahead of UTC: its day is another one
	start := func(t *testing.T) (*office, func(product int, description, at, items string)) {
		t.Parallel()
		o := newOffice(t)
		o.now = now
		return o, o.calls(zone)
	}
	t.Run("whole", func(t *testing.T) {
		o, read := start(t)
		o.everyDay(2, "IVR", "10")
		read(2, "IVR", "2026-03-31T11:10:00Z", "9000") // 00:10 of the first: the vendor still tells the month before
		wantLines(t, "", o.lines("2026-04", "infinity"), "ivr_minutes IVR usage 2026-04-01 2026-04-30 300 - final 30/30 (no rate)")
		wantLines(t, "before its end", o.lines("2026-04", "2026-04-30T11:59:59Z"), "ivr_minutes IVR usage 2026-04-01 2026-04-30 300 - provisional 30/30 (no rate; period is not over)")
		wantLines(t, "at its end", o.lines("2026-04", "2026-04-30T12:00:00Z"), "ivr_minutes IVR usage 2026-04-01 2026-04-30 300 - final 30/30 (no rate)")
	})
	t.Run("the closing reading", func(t *testing.T) {
		o, read := start(t)
		o.everyDay(2, "IVR", "10")
		o.exec(`delete from dw.fact_license_reading where reading_date = '2026-04-30'`)
		read(2, "IVR", "2026-04-30T11:04:59Z", "301") // 23:04:59: an hour of it is left
		wantLines(t, "too early", o.lines("2026-04", "infinity"), "ivr_minutes IVR usage 2026-04-01 2026-04-30 301 - provisional 30/30 (no rate; no closing reading)")
		read(2, "IVR", "2026-04-30T11:05:00Z", "302")
		wantLines(t, "in time", o.lines("2026-04", "infinity"), "ivr_minutes IVR usage 2026-04-01 2026-04-30 302 - final 30/30 (no rate)")
	})
	t.Run("a counter falls", func(t *testing.T) {
		o, read := start(t)
		o.everyDay(2, "IVR", "10")
		read(2, "IVR", "2026-04-20T11:55:00Z", "7")
		wantLines(t, "from a day to the next", o.lines("2026-04", "infinity"), "ivr_minutes IVR usage 2026-04-01 2026-04-30 300 - provisional 30/30 (no rate; counter fell on 2026-04-20)")
		o.exec(`delete from dw.fact_license_reading where items = 7`)
		read(2, "IVR", "2026-04-20T11:40:00Z", "5000")
		wantLines(t, "within a day", o.lines("2026-04", "infinity"), "ivr_minutes IVR usage 2026-04-01 2026-04-30 300 - provisional 30/30 (no rate; counter fell on 2026-04-20)")
	})
	t.Run("a gauge may fall", func(t *testing.T) {
		o, read := start(t)
		o.everyDay(1, "Chat", "1")
		read(1, "Chat", "2026-04-20T11:55:00Z", "3")
		wantLines(t, "", o.lines("2026-04", "infinity"), "chat_licenses Chat license 2026-04-01 2026-04-30 30 - final 30/30 (no rate)")
	})
	t.Run("another name", func(t *testing.T) {
		o, read := start(t)
		o.everyDay(2, "IVR", "10")
		o.exec(`update dw.fact_license_reading set description = 'Voice' where reading_date > '2026-04-20'`)
		read(2, "IVR", "2026-03-25T11:10:00Z", "9000")
		wantLines(t, "", o.lines("2026-04", "infinity"),
			"ivr_minutes IVR usage 2026-04-01 2026-04-30 200 - provisional 20/30 (no rate; days missing: 10; no closing reading)",
			"ivr_minutes Voice usage 2026-04-01 2026-04-30 300 - final 10/10 (no rate)")
	})
	t.Run("a gauge unseen on a day", func(t *testing.T) {
		o, read := start(t)
		o.everyDay(1, "Chat", "1")
		o.exec(`delete from dw.fact_license_reading where reading_date = '2026-04-15'`)
		read(1, "Chat", "2026-04-20T11:55:00Z", "20")
		wantLines(t, "", o.lines("2026-04", "infinity"), "chat_licenses Chat license 2026-04-01 2026-04-30 30 - provisional 29/30 (no rate; days missing: 1)")
		// Whoever imports a figure of the last day has asked the vendor about the month.
		o.exec(`update dw.fact_license_snapshot set is_imported = true where snapshot_date = '2026-04-30'`)
		wantLines(t, "", o.lines("2026-04", "infinity"), "chat_licenses Chat license 2026-04-01 2026-04-30 30 - final 29/30 (no rate; days missing: 1)")
	})
	t.Run("days before the first reading", func(t *testing.T) {
		o, read := start(t)
		o.everyDay(1, "Chat", "1")
		o.exec(`delete from dw.fact_license_reading where reading_date < '2026-04-21'`)
		read(1, "Chat", "2026-02-28T10:55:00Z", "1") // told in February, and no more in March
		wantLines(t, "told anew", o.lines("2026-04", "infinity"), "chat_licenses Chat license 2026-04-01 2026-04-30 30 - final 10/10 (no rate)")
		read(1, "Chat", "2026-02-28T11:05:00Z", "1") // the first of March there
		wantLines(t, "told in the month before", o.lines("2026-04", "infinity"), "chat_licenses Chat license 2026-04-01 2026-04-30 30 - provisional 10/30 (no rate; days missing: 20)")
	})
	t.Run("a month that was not read", func(t *testing.T) {
		o, read := start(t)
		o.price("wolkvox/////license 2 USD 2026-01-01")
		o.exec(`insert into billing.product_rule (product, rule, reason, known_since) values ('chat_licenses', 'average', 'r', '2026-01-01')`)
		read(1, "Chat", "2026-03-30T11:55:00Z", "20")
		read(2, "IVR", "2026-03-30T11:55:00Z", "20")
		lost := []string{"chat_licenses Chat license 2026-04-01 2026-04-30 ? - provisional 0/30 (days missing: 30; no closing reading)",
			"ivr_minutes IVR usage 2026-04-01 2026-04-30 ? - provisional 0/30 (no rate; days missing: 30; no closing reading)"}
		wantLines(t, "no run", o.lines("2026-04", "infinity"), lost...)
		wantLines(t, "on the first", o.lines("2026-05", "infinity")) // no day of it is over: nothing is missing yet
		run := func(number int, at, status, failed string) {
			o.exec(`insert into ops.run (run_id, source, dataset, scope, account, status, owner, fence, business_at, started_at, finished_at, error) overriding system value
				values ($1, 'wolkvox', 'wolkvox.billing', 'calls', 'calls', $2, 'test', 1, $3::text::timestamptz, now(), now(), nullif($4, ''))`, number, status, at, failed)
		}
		run(1, "2026-03-31T10:59:00Z", "ok", "") // still March in Auckland
		wantLines(t, "a run of the month before", o.lines("2026-04", "infinity"), lost...)
		run(2, "2026-03-31T11:00:00Z", "ok", "") // April begins there
		wantLines(t, "a run on the first", o.lines("2026-04", "infinity"))
		o.exec(`delete from ops.run where run_id = 2`)
		wantLines(t, "at the end of a day there", o.lines("2026-04", "2026-04-12T12:00:00Z")[:1],
			"chat_licenses Chat license 2026-04-01 2026-04-30 ? - provisional 0/30 (no rate; period is not over; days missing: 12)")
		run(2, "2026-04-12T12:00:00Z", "ok", "")
		wantLines(t, "a whole run that did not tell them", o.lines("2026-04", "infinity"))
		wantLines(t, "before that run", o.lines("2026-04", "2026-04-12T11:59:00Z"),
			"chat_licenses Chat license 2026-04-01 2026-04-30 ? - provisional 0/30 (no rate; period is not over; days missing: 11)",
			"ivr_minutes IVR usage 2026-04-01 2026-04-30 ? - provisional 0/30 (no rate; period is not over; days missing: 11)")
		run(3, "2026-04-13T12:00:00Z", "partial", "extract ivr_minutes: 503")
		wantLines(t, "and one that failed on one of them", o.lines("2026-04", "infinity"), lost[1])
	})
}

// Rounding is half away from zero on either side of it, and once.
func TestDivideRounded(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for expression, want := range map[string]string{
		"-1, 2, 0": "-1", "1, 2, 0": "1", "-5, 1000, 2": "-0.01", "5, 1000, 2": "0.01", "-4999, 1000000, 2": "0.00", "-2, 3, 3": "-0.667", "-1, 3, 3": "-0.333",
		"0, 7, 3": "0.000", "-7, 2, 0": "-4", "-149, 100, 1": "-1.5", "-0.5, 1, 0": "-1",
	} {
		o.want(`select billing.divide_rounded(`+expression+`)::text`, want)
	}
}
