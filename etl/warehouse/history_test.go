package warehouse

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
)

const (
	may14 = "2026-05-14T00:00:00Z"
	noon  = "2026-05-14T12:00:00Z"
)

var oneDay = window("2026-05-14", "2026-05-15")

// dailyRow is what most cases look at.
const dailyRow = `select sample_count, consumed_avg_tib, consumed_last_tib, is_invoiced, restatement_count, absent_since is not null, digest is not null
	from dw.fact_daily_consumption order by service_level_key, usage_date`

func TestNewDayThenTheSameCostsNothing(t *testing.T) {
	h := newHouse(t)
	out := h.mustHistory(oneDay, extreme(sample(may14, "112.5"), sample(noon, "113")))
	wantCounts(t, out, "received 2 inserted 2 restated 0 unchanged 0 ignored 0 quarantined 0 absent 0")
	h.want(dailyRow, "2|112.75|113|false|0|false|true")
	h.want(`select count(*) from raw.payload`, "1")

	touched := `select 'sample', xmin, ctid from dw.fact_consumption_sample union all select 'day', xmin, ctid from dw.fact_daily_consumption
		union all select 'level', xmin, ctid from dw.dim_service_level union all select 'subscription', xmin, ctid from dw.dim_subscription
		union all select 'customer', xmin, ctid from dw.dim_customer union all select 'coverage', xmin, ctid from ops.coverage order by 1, 3`
	before := h.rows(touched)
	h.now = h.now.Add(24 * time.Hour)
	out = h.mustHistory(oneDay, extreme(sample(may14, "112.50"), sample(noon, "113.0")))
	wantCounts(t, out, "received 2 inserted 0 restated 0 unchanged 2 ignored 0 quarantined 0 absent 0")
	h.want(`select count(*) from raw.payload`, "1")
	h.want(`select run_id, status, payload_id is null, body_sha256 is not null from ops.run order by 1`, "1|ok|false|true", "2|ok|true|true")
	if after := h.rows(touched); !slices.Equal(before, after) {
		t.Errorf("an unchanged day was written\n got %q\nwant %q", after, before)
	}
}

func TestLateSamplesAreAddedNotRestated(t *testing.T) {
	h := newHouse(t)
	h.mustHistory(oneDay, extreme(sample(may14, "112.5")))
	h.now = h.now.Add(24 * time.Hour)
	out := h.mustHistory(oneDay, extreme(sample(may14, "112.5"), sample(noon, "113.5")))
	wantCounts(t, out, "received 2 inserted 1 restated 0 unchanged 1 ignored 0 quarantined 0 absent 0")
	h.want(dailyRow, "2|113|113.5|false|0|false|true")
	h.want(`select kind, column_name, old_value, new_value from mart.restatement where column_name in ('sample_count', 'consumed_last_tib') order by 2`,
		"late|consumed_last_tib|112.5|113.5", "late|sample_count|1|2")
}

func TestRestatedDayKeepsItsFormerVersion(t *testing.T) {
	h := newHouse(t)
	for i, consumed := range []string{"112.5", "112.6", "112.5"} {
		h.now = h.now.Add(24 * time.Hour)
		out := h.mustHistory(oneDay, extreme(sample(may14, consumed), sample(noon, "113")))
		if i > 0 {
			wantCounts(t, out, "received 2 inserted 0 restated 1 unchanged 1 ignored 0 quarantined 0 absent 0")
			if out.Warnings["restated"].Count != 1 {
				t.Errorf("warnings: got %v, want restated", out.Warnings)
			}
		}
	}
	h.want(dailyRow, "2|112.75|113|false|2|false|true")
	h.want(`select kind, consumed_avg_tib, known_from, known_until from dw.restatement order by known_from`,
		"restated|112.75|2026-05-16 12:00:00+00|2026-05-17 12:00:00+00",
		"restated|112.8|2026-05-17 12:00:00+00|2026-05-18 12:00:00+00")
	h.want(`select consumed_avg_tib from dw.daily_consumption_as_of('2026-05-17T18:00:00Z')`, "112.8")
	h.want(`select count(*) from dw.fact_consumption_sample`, "2")
}

func TestInvoicedDayRestatedIsWarned(t *testing.T) {
	h := newHouse(t)
	s := sample(may14, "112.5")
	s.Invoiced = etl.True
	h.mustHistory(oneDay, extreme(s))
	h.now = h.now.Add(24 * time.Hour)
	s.ConsumedTiB = etl.MustDecimal("112.6")
	out := h.mustHistory(oneDay, extreme(s))
	if out.Warnings["invoiced_value_changed"].Count != 1 {
		t.Errorf("warnings: got %v, want invoiced_value_changed", out.Warnings)
	}
	h.want(`select distinct was_invoiced from mart.restatement`, "true")
}

func TestInvoicedFlag(t *testing.T) {
	h := newHouse(t)
	flag := func(b etl.NullBool) etl.LevelHistory {
		a, c := sample(may14, "112.5"), sample(noon, "113")
		a.Invoiced, c.Invoiced = b, b
		return extreme(a, c)
	}
	step := func(b etl.NullBool, want, row string) {
		t.Helper()
		h.now = h.now.Add(24 * time.Hour)
		wantCounts(t, h.mustHistory(oneDay, flag(b)), want)
		h.want(`select is_invoiced, restatement_count, invoiced_known_since is not null from dw.fact_daily_consumption`, row)
	}
	step(etl.False, "received 2 inserted 2 restated 0 unchanged 0 ignored 0 quarantined 0 absent 0", "false|0|false")
	step(etl.True, "received 2 inserted 0 restated 0 unchanged 2 ignored 0 quarantined 0 absent 0", "true|0|true")
	h.want(`select distinct is_invoiced from dw.fact_consumption_sample`, "true")
	h.want(`select count(*) from dw.restatement`, "0")
	step(etl.Unknown, "received 2 inserted 0 restated 0 unchanged 2 ignored 0 quarantined 0 absent 0", "true|0|true")
	step(etl.False, "received 2 inserted 0 restated 2 unchanged 0 ignored 0 quarantined 0 absent 0", "false|1|true")
	h.want(`select kind, column_name, old_value, new_value from mart.restatement`, "restated|is_invoiced|true|false")
}

func TestShrunkDayIsHeldUntilConfirmed(t *testing.T) {
	h := newHouse(t)
	h.mustHistory(oneDay, extreme(sample(may14, "112.5"), sample(noon, "113")))
	less := func(wait time.Duration) etl.Outcome {
		h.now = h.now.Add(wait)
		return h.mustHistory(oneDay, extreme(sample(may14, "112.5")))
	}
	for _, wait := range []time.Duration{24 * time.Hour, 59 * time.Minute} {
		out := less(wait)
		wantCounts(t, out, "received 1 inserted 0 restated 0 unchanged 1 ignored 0 quarantined 0 absent 0")
		if out.Warnings["day_shrunk"].Count != 1 {
			t.Errorf("warnings: got %v, want day_shrunk", out.Warnings)
		}
	}
	h.want(dailyRow, "2|112.75|113|false|0|false|true")
	wantCounts(t, less(time.Minute), "received 1 inserted 0 restated 1 unchanged 0 ignored 0 quarantined 0 absent 0")
	h.want(dailyRow, "1|112.5|112.5|false|1|false|true")
	h.want(`select count(*) from dw.fact_consumption_sample`, "1")
}

func TestShrinkDeniedByTheNextAnswer(t *testing.T) {
	h := newHouse(t)
	full := extreme(sample(may14, "112.5"), sample(noon, "113"))
	for _, l := range []etl.LevelHistory{full, extreme(sample(may14, "112.5")), full, extreme(sample(may14, "112.5"))} {
		h.now = h.now.Add(24 * time.Hour)
		h.mustHistory(oneDay, l)
	}
	h.want(dailyRow, "2|112.75|113|false|0|false|true")
	h.want(`select count(*) from dw.restatement`, "0")
}

func TestPartialDay(t *testing.T) {
	h := newHouse(t)
	load := func(report etl.Report, reject bool, l etl.LevelHistory) etl.Outcome {
		t.Helper()
		h.now = h.now.Add(24 * time.Hour)
		out, err := h.load(etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: day("2026-05-14")}, oneDay, func(sink etl.Sink) (etl.Report, error) {
			report.Records, report.Warnings = 1, etl.Warnings{}
			report.Received = len(l.Samples) + report.Quarantined
			if reject {
				if err := sink.Reject(etl.Reject{Path: "/x", Reason: "value_missing", Excerpt: "null", Subscription: "A-S1", Level: "Extreme", Day: ptr(day("2026-05-14"))}); err != nil {
					return report, err
				}
			}
			return report, sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{l}})
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	bad := extreme(sample(may14, "112.5"))
	bad.PartialDays = map[etl.Day]bool{day("2026-05-14"): true}

	out := load(etl.Report{Quarantined: 1}, true, bad)
	wantCounts(t, out, "received 2 inserted 1 restated 0 unchanged 0 ignored 0 quarantined 1 absent 0")
	h.want(dailyRow, "1|112.5|112.5|false|0|false|false")
	h.want(`select distinct status from mart.coverage where day = '2026-05-14'`, "partial")
	h.want(`select status from ops.coverage`, "partial")

	// The same refusal again is counted, not repeated; the stored day stays.
	out = load(etl.Report{Quarantined: 1}, true, bad)
	wantCounts(t, out, "received 2 inserted 0 restated 0 unchanged 1 ignored 0 quarantined 1 absent 0")
	h.want(`select count(*), count(resolved_at) from mart.quarantine`, "1|0")

	// A whole answer ends the doubt.
	out = load(etl.Report{}, false, extreme(sample(may14, "112.5"), sample(noon, "113")))
	wantCounts(t, out, "received 2 inserted 1 restated 0 unchanged 1 ignored 0 quarantined 0 absent 0")
	h.want(dailyRow, "2|112.75|113|false|0|false|true")
	h.want(`select resolution from mart.quarantine`, "superseded by run 3")
	h.want(`select distinct status from mart.coverage where day = '2026-05-14'`, "observed")

	// And a bad answer never replaces a whole day.
	bad.Samples = []etl.Sample{sample(may14, "99")}
	out = load(etl.Report{Quarantined: 1}, true, bad)
	wantCounts(t, out, "received 2 inserted 0 restated 0 unchanged 0 ignored 1 quarantined 1 absent 0")
	h.want(dailyRow, "2|112.75|113|false|0|false|true")
}

func TestAbsentLevelIsFlaggedAndComesBack(t *testing.T) {
	h := newHouse(t)
	premium := etl.LevelHistory{Level: "Premium", Samples: []etl.Sample{sample(may14, "50")}}
	h.mustHistory(oneDay, extreme(sample(may14, "112.5")), premium)
	h.now = h.now.Add(time.Hour)
	wantCounts(t, h.mustHistory(oneDay, extreme(sample(may14, "112.5"))),
		"received 1 inserted 0 restated 0 unchanged 1 ignored 0 quarantined 0 absent 1")
	h.want(`select service_level, absent_since from mart.daily_consumption order by 1`, "Extreme|", "Premium|2026-05-15 13:00:00+00")
	h.now = h.now.Add(time.Hour)
	h.mustHistory(oneDay, extreme(sample(may14, "112.5")), premium)
	h.want(`select service_level, absent_since from mart.daily_consumption order by 1`, "Extreme|", "Premium|")
}

func TestInstancesKeepTheirOrdinalWhenTheOrderChanges(t *testing.T) {
	h := newHouse(t)
	a, b := extreme(sample(may14, "112.5")), extreme(sample(may14, "7"))
	h.mustHistory(oneDay, a, b)
	h.now = h.now.Add(time.Hour)
	wantCounts(t, h.mustHistory(oneDay, b, a), "received 2 inserted 0 restated 0 unchanged 2 ignored 0 quarantined 0 absent 0")
	h.want(`select level_ordinal, consumed_avg_tib from mart.daily_consumption order by 1`, "0|112.5", "1|7")
}

func TestEmptyAnswer(t *testing.T) {
	h := newHouse(t)
	nothing := func(sink etl.Sink) (etl.Report, error) { return etl.Report{Warnings: etl.Warnings{}}, nil }
	job := etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: day("2026-05-14")}
	if _, err := h.load(job, oneDay, nothing); err != nil {
		t.Fatalf("nothing expected, nothing got: %v", err)
	}
	h.want(`select status from mart.coverage where day = '2026-05-14'`, "empty")
	h.mustHistory(oneDay, extreme(sample(may14, "112.5")))
	_, err := h.load(job, oneDay, nothing)
	if err == nil || !strings.Contains(err.Error(), "unexpected_empty") {
		t.Fatalf("got %v, want unexpected_empty", err)
	}
	h.want(`select status, error like '%unexpected_empty%' from ops.run order by run_id desc limit 1`, "failed|true")
	h.want(dailyRow, "1|112.5|112.5|false|0|false|true")
}

func TestExactDecimals(t *testing.T) {
	h := newHouse(t)
	for _, n := range []string{"0", "1", "-1", "9223372036854775807", "-9223372036854775808", "922337203685477580.7", "9223372036854.775808", "1e18", "0.1", "10000", "9999", "99990000", "0.0001", "0.00001", "12345678.0123456789", "112.500000000000000000001",
		"999999999.999999999999999999999999999999", "0.000000000000000000000000000000000001", "-0.5", "100000000", "1e-90"} {
		d := etl.MustDecimal(n)
		buf := newCopyBuffer("dw.restatement") // any table: only the encoding is looked at
		buf.decimal(d)
		var text string
		if err := h.pool.QueryRow(t.Context(), `select $1::numeric::text`, rawNumeric(buf.buf[4:])).Scan(&text); err != nil {
			t.Fatalf("%s: %v", n, err)
		}
		if text != d.String() {
			t.Errorf("%s: got %s, want %s", n, text, d)
		}
		if slow := appendNumeric(nil, []byte(d.String())); !bytes.Equal(slow, buf.buf[4:]) {
			t.Errorf("%s: got % x, want % x", n, buf.buf[4:], slow)
		}
	}
}

// The fast way to write a numeric writes what the general one writes.
func TestShortNumeric(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?`).Draw(t, "number")
		d := etl.MustDecimal(text)
		buf := newCopyBuffer("any")
		buf.decimal(d)
		if want := appendNumeric(nil, []byte(d.String())); !bytes.Equal(buf.buf[4:], want) {
			t.Fatalf("%s: got % x, want % x", d, buf.buf[4:], want)
		}
	})
}

func TestWatermarkIsTheFirstUnansweredDay(t *testing.T) {
	h := newHouse(t)
	mark := `select watermark from mart.freshness`
	h.mustHistory(window("2026-01-03", "2026-01-05"), extreme(sample("2026-01-03T00:00:00Z", "1")))
	h.want(mark, "2026-01-01 00:00:00+00")
	h.mustHistory(window("2026-01-01", "2026-01-02"), extreme(sample("2026-01-01T00:00:00Z", "1")))
	h.want(mark, "2026-01-02 00:00:00+00")
	h.mustHistory(window("2026-01-02", "2026-01-03"), extreme(sample("2026-01-02T00:00:00Z", "1")))
	h.want(mark, "2026-01-05 00:00:00+00")
}

// As many samples are invoiced as before, but others: the flags of samples are those of the answer, and what a later
// answer leaves out is not filled in from the wrong ones.
func TestFlagsChangePlaces(t *testing.T) {
	h := newHouse(t)
	flagged := func(flags ...etl.NullBool) etl.LevelHistory {
		var samples []etl.Sample
		for i, f := range flags {
			s := sample(fmt.Sprintf("2026-05-14T%02d:00:00Z", i), "110")
			s.Invoiced = f
			samples = append(samples, s)
		}
		return extreme(samples...)
	}
	const stored = `select array_agg(is_invoiced order by sampled_at) from dw.fact_consumption_sample`
	h.mustHistory(oneDay, flagged(etl.True, etl.False, etl.False))
	for _, c := range []struct {
		said   etl.LevelHistory
		want   string
		landed string
	}{
		{flagged(etl.False, etl.True, etl.False), "{f,t,f}", "2"},
		{flagged(etl.False, etl.True, etl.False), "{f,t,f}", "2"}, // nothing new
		{flagged(etl.True, etl.Unknown, etl.False), "{t,t,f}", "3"},
		{flagged(etl.Unknown, etl.False, etl.True), "{t,f,t}", "4"},
	} {
		h.now = h.now.Add(24 * time.Hour)
		wantCounts(t, h.mustHistory(oneDay, c.said), "received 3 inserted 0 restated 0 unchanged 3 ignored 0 quarantined 0 absent 0")
		h.want(stored, c.want)
		h.want(`select count(*) from raw.payload`, c.landed)
	}
	h.want(`select invoiced_samples, uninvoiced_samples, restatement_count from dw.fact_daily_consumption`, "2|1|0")
}
