package billing

import (
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
	absence := Absence{"C-1", "A-1", "Extreme", 0, day("2026-04-15"), day("2026-04-17"), "keep", "they told us by mail"}
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

	err := o.DecideAbsence(t.Context(), Absence{"C-1", "A-2", "Extreme", 0, 1, 2, "keep", "r"})
	if err == nil || !strings.Contains(err.Error(), "no such level was loaded") {
		t.Errorf("an unknown level: got %v", err)
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
		"chat_licenses Chat license 2026-04-01 2026-04-30 17 51.00 USD final 3/30 (days missing: 27)",
		"ivr_minutes IVR usage 2026-04-01 2026-04-30 900.5 13.51 COP provisional 2/29 (days missing: 27; no closing reading)")
	for rule, want := range map[string]string{"last": "11 33.00 USD", "average": "11 33.00 USD", "max": "17 51.00 USD"} {
		o.now = o.now.Add(time.Minute)
		if _, err := o.SetProductRule(t.Context(), "chat_licenses", rule, "test"); err != nil {
			t.Fatal(err)
		}
		wantLines(t, rule, o.lines("2026-04", "infinity")[:1], "chat_licenses Chat license 2026-04-01 2026-04-30 "+want+" final 3/30 (days missing: 27)")
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
