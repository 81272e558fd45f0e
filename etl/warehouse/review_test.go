package warehouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meterhouse/etl"
)

// tell loads one answer of the customer's history with rejects beside the levels.
func (h *house) tell(scope string, w etl.Window, rejects []etl.Reject, sub etl.Subscription, levels ...etl.LevelHistory) (etl.Outcome, error) {
	return h.load(etl.Job{Dataset: "keystone.history", Scope: scope, Expected: w.From}, w, func(sink etl.Sink) (etl.Report, error) {
		report := etl.Report{Records: 1, Received: len(rejects), Quarantined: len(rejects), Warnings: etl.Warnings{}}
		for _, l := range levels {
			report.Received += len(l.Samples)
		}
		for _, r := range rejects {
			if err := sink.Reject(r); err != nil {
				return report, err
			}
		}
		if len(levels) == 0 {
			return report, nil
		}
		return report, sink.History(etl.History{Subscription: sub, Levels: levels})
	})
}

func TestRepeatedLoadStillLandsItsBody(t *testing.T) {
	h := newHouse(t)
	h.exec(`create sequence public.tries`)
	h.exec(`create function public.fail_once() returns trigger language plpgsql as $$
		begin
			if nextval('public.tries') = 1 then
				raise exception 'made up' using errcode = '40001';
			end if;
			return null;
		end $$`)
	h.exec(`create trigger fail_once after insert on ops.quarantine for each statement execute function public.fail_once()`)
	_, err := h.tell("C-1", oneDay, []etl.Reject{{Path: "/x", Reason: "value_missing", Subscription: "A-S1", Level: "Extreme", Day: ptr(day("2026-05-14"))}},
		subscription1(), extreme(sample(may14, "1")))
	if err != nil {
		t.Fatal(err)
	}
	h.want(`select last_value from public.tries`, "2")
	h.want(`select count(*) from raw.payload as p join dw.fact_daily_consumption as d using (payload_id) join ops.quarantine as q using (payload_id)`, "1")
}

func TestOpenEndedSubscriptionIsMissedWhenItStops(t *testing.T) {
	h := newHouse(t)
	h.now = at("2026-06-02T12:00:00Z")
	open, ended := subscription1(), subscription1()
	open.End = nil
	ended.End = ptr(at("2026-05-02T23:59:59Z"))
	two := extreme(sample("2026-05-01T00:00:00Z", "1"), sample("2026-05-02T00:00:00Z", "1"))
	for scope, sub := range map[string]etl.Subscription{"open": open, "ended": ended} {
		if _, err := h.tell(scope, window("2026-05-01", "2026-06-01"), nil, sub, two); err != nil {
			t.Fatal(err)
		}
	}
	h.want(`select customer_id, status, count(*) from mart.coverage where subscription_number is not null group by 1, 2 order by 1, 2`,
		"ended|observed|2", "open|missing|30", "open|not_due|1", "open|observed|2")
	h.want(`select customer_id, days_observed, days_expected from mart.month order by 1`, "ended|2|2", "open|2|31")
}

func TestAsOfTellsOneVersionPerInstant(t *testing.T) {
	h := newHouse(t)
	invoiced, open := sample(may14, "112.5"), sample(may14, "112.5")
	invoiced.Invoiced = etl.True
	for i, s := range []etl.Sample{invoiced, open, invoiced} {
		h.now = at("2026-05-15T12:00:00Z").Add(time.Duration(i) * 24 * time.Hour)
		h.mustHistory(oneDay, extreme(s))
	}
	for _, when := range []string{"2026-05-15T18:00:00Z", "2026-05-16T18:00:00Z", "2026-05-17T18:00:00Z"} {
		h.want(`select consumed_avg_tib from dw.daily_consumption_as_of('`+when+`')`, "112.5")
	}
}

// What was told of a day after each load is told as of that instant ever after, and until the next: every figure, and
// whether the day is partial or absent.
func TestAsOfTellsWhatWasTold(t *testing.T) {
	h := newHouse(t)
	told := func(asOf string) []string {
		t.Helper()
		return h.rows(`select service_level_key, usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib, burst_avg_tib,
			over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, known_since, step_seconds, is_partial, absent_since
			from dw.daily_consumption_as_of('` + asOf + `') order by 1`)
	}
	unknown := sample(noon, "119")
	unknown.BurstTiB, unknown.AccruedTiB = etl.NullDecimal{}, etl.NullDecimal{}
	premium := etl.LevelHistory{Level: "Premium", Samples: []etl.Sample{sample(may14, "50")}}
	refused := etl.Reject{Path: "/x", Reason: "value_missing", Subscription: "A-S1", Level: "Extreme", Day: ptr(day("2026-05-14"))}
	partial := extreme(sample(may14, "112.5"))
	partial.PartialDays = map[etl.Day]bool{day("2026-05-14"): true}
	then := map[string][]string{}
	var loads []string
	for _, load := range []struct {
		rejects []etl.Reject
		levels  []etl.LevelHistory
	}{
		{[]etl.Reject{refused}, []etl.LevelHistory{partial}},
		{nil, []etl.LevelHistory{extreme(sample(may14, "112.5"), sample(noon, "113.7")), premium}},
		{nil, []etl.LevelHistory{extreme(sample(may14, "118.25"), sample(noon, "99")), premium}},
		{nil, []etl.LevelHistory{extreme(sample(may14, "118.25"), unknown), premium}},
		{nil, []etl.LevelHistory{extreme(sample(may14, "121"), sample(noon, "120.125"))}},
	} {
		h.now = h.now.Add(24 * time.Hour)
		if _, err := h.tell("C-1", oneDay, load.rejects, subscription1(), load.levels...); err != nil {
			t.Fatal(err)
		}
		at := h.now.Format(time.RFC3339)
		loads, then[at] = append(loads, at), told("infinity")
	}
	h.want(`select is_partial, count(*), count(distinct burst_avg_tib) from (select (dw.daily_consumption_as_of(a)).* from unnest(array['`+strings.Join(loads, "', '")+`']::timestamptz[]) as a) as d
		where service_level_key = 1 group by 1 order by 1`, "false|4|3", "true|1|1")
	h.want(`select count(*) from dw.fact_daily_consumption where absent_since is not null`, "1")
	for i, at := range loads {
		for _, asOf := range []string{at, h.now.AddDate(0, 0, i+2-len(loads)).Add(-time.Microsecond).Format(time.RFC3339Nano)} {
			if got := told(asOf); !slices.Equal(got, then[at]) {
				t.Errorf("as of %s\n got %q\nwant %q", asOf, got, then[at])
			}
		}
	}
}

// TestScopesMakePartitionsTogether backfills several customers over several months at once.
func TestScopesMakePartitionsTogether(t *testing.T) {
	h := newHouse(t)
	h.now = at("2026-12-15T12:00:00Z")
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		mine := *h
		wg.Go(func() {
			for month := 1; month <= 10 && errs[i] == nil; month++ {
				from := fmt.Sprintf("2026-%02d-01", (month+i)%10+1)
				w := etl.Window{From: day(from), Until: day(from) + 1}
				sub := subscription1()
				sub.Number = fmt.Sprint("S-", month) // a new dimension row each time
				_, errs[i] = mine.tell(fmt.Sprint("C-", i), w, nil, sub, extreme(sample(from+"T00:00:00Z", "1")))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	h.want(`select count(*) from dw.fact_consumption_sample`, "40")
}

func TestSilenceSettlesNothing(t *testing.T) {
	h := newHouse(t)
	refused := etl.Reject{Path: "/x", Reason: "value_missing", Subscription: "A-S1", Level: "Premium", Day: ptr(day("2026-05-14"))}
	premium := etl.LevelHistory{Level: "Premium", Samples: []etl.Sample{sample(may14, "7")}}
	step := func(status, open string, rejects []etl.Reject, levels ...etl.LevelHistory) {
		t.Helper()
		h.now = h.now.Add(24 * time.Hour)
		if _, err := h.tell("C-1", oneDay, rejects, subscription1(), levels...); err != nil {
			t.Fatal(err)
		}
		h.want(`select status from ops.coverage`, status)
		h.want(`select count(*) from mart.quarantine where resolved_at is null`, open)
	}
	step("partial", "1", []etl.Reject{refused}, extreme(sample(may14, "1")))
	step("partial", "1", nil, extreme(sample(may14, "1"))) // Premium is not even mentioned
	step("answered", "0", nil, extreme(sample(may14, "1")), premium)
}

func TestUndatedRejectIsSettledByAnOverlappingWindow(t *testing.T) {
	h := newHouse(t)
	bad := extreme(sample(may14, "1"))
	bad.AllPartial = true
	undated := []etl.Reject{{Path: "/x", Reason: "time_format", Excerpt: "now", Subscription: "A-S1", Level: "Extreme"}}
	if _, err := h.tell("C-1", window("2026-05-13", "2026-05-15"), undated, subscription1(), bad); err != nil {
		t.Fatal(err)
	}
	h.now = h.now.Add(24 * time.Hour)
	if _, err := h.tell("C-1", window("2026-05-14", "2026-05-16"), nil, subscription1(), extreme(sample(may14, "1"))); err != nil {
		t.Fatal(err)
	}
	h.want(`select count(*) from mart.quarantine where resolved_at is null`, "0")
}

func TestRefusedRecordIsNotAbsent(t *testing.T) {
	h := newHouse(t)
	h.mustHistory(oneDay, extreme(sample(may14, "1")))
	h.now = h.now.Add(24 * time.Hour)
	other := subscription1()
	other.Number = "A-S2"
	if _, err := h.tell("C-1", oneDay, []etl.Reject{{Path: "/r", Reason: "type_mismatch", Subscription: "A-S1"}}, other, extreme(sample(may14, "1"))); err != nil {
		t.Fatal(err)
	}
	h.want(`select count(*) from dw.fact_daily_consumption where absent_since is not null`, "0")
}

func TestHeldShrinkIsLanded(t *testing.T) {
	h := newHouse(t)
	h.mustHistory(oneDay, extreme(sample(may14, "112.5"), sample(noon, "113")))
	h.now = h.now.Add(24 * time.Hour)
	h.mustHistory(oneDay, extreme(sample(may14, "112.5")))
	h.want(`select count(*) from raw.payload`, "2")
}

func TestFewerSamplesAreHeldEvenWithANewOneAmongThem(t *testing.T) {
	h := newHouse(t)
	h.mustHistory(oneDay, extreme(sample(may14, "1"), sample("2026-05-14T06:00:00Z", "1"), sample(noon, "1")))
	h.now = h.now.Add(24 * time.Hour)
	out := h.mustHistory(oneDay, extreme(sample(may14, "1"), sample("2026-05-14T18:00:00Z", "1")))
	if out.Warnings["day_shrunk"].Count != 1 {
		t.Errorf("warnings: got %v, want day_shrunk", out.Warnings)
	}
	h.want(`select sample_count from dw.fact_daily_consumption`, "3")
}

// TestLeaseDuringALongLoad: whoever asks meanwhile is told at once, and the owner keeps the lease.
func TestLeaseDuringALongLoad(t *testing.T) {
	h := newHouse(t)
	asked := make(chan error, 1)
	_, err := h.load(etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: day("2026-05-14")}, oneDay, func(sink etl.Sink) (etl.Report, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := h.Lease(ctx, "keystone.history", "C-1")
		asked <- err
		return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}},
			sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(sample(may14, "1"))}})
	})
	if err != nil {
		t.Fatal(err)
	}
	var busy *etl.BusyError
	if err := <-asked; !errors.As(err, &busy) {
		t.Errorf("got %v, want a BusyError", err)
	}
}

func TestRunningAccruedAcrossAnUnknownDay(t *testing.T) {
	h := newHouse(t)
	h.exec(`insert into dw.accrued_reading (account, month, reading, decided_by, reason) values ('acme', '2026-05-01', 'running', 'test', 'made up')`)
	var samples []etl.Sample
	for i, last := range []string{"10", "", "30", "25"} {
		s := sample(fmt.Sprintf("2026-05-%02dT00:00:00Z", i+1), "1")
		s.AccruedTiB = etl.NullDecimal{}
		if last != "" {
			s.AccruedTiB = etl.NullDecimal{Decimal: etl.MustDecimal(last), Known: true}
		}
		samples = append(samples, s)
	}
	out := h.mustHistory(window("2026-05-01", "2026-05-05"), extreme(samples...))
	h.want(`select accrued_burst_tib from mart.daily_consumption order by usage_date`, "10", "", "20", "-5")
	if out.Warnings["accrued_decreased"].Count != 1 {
		t.Errorf("warnings: got %v, want accrued_decreased", out.Warnings)
	}
}

func TestInvoicedDayChangedByLateSamples(t *testing.T) {
	h := newHouse(t)
	first, late := sample(may14, "112.5"), sample(noon, "500")
	first.Invoiced = etl.True
	h.mustHistory(oneDay, extreme(first))
	h.now = h.now.Add(24 * time.Hour)
	first.Invoiced, late.Invoiced = etl.Unknown, etl.Unknown
	out := h.mustHistory(oneDay, extreme(first, late))
	if out.Warnings["invoiced_value_changed"].Count != 1 {
		t.Errorf("warnings: got %v, want invoiced_value_changed", out.Warnings)
	}
	// What was known of the first sample stays known; of the day as a whole it no longer is.
	h.want(`select is_invoiced, invoiced_samples from dw.fact_daily_consumption`, "|1")
	h.want(`select is_invoiced from dw.fact_consumption_sample order by sampled_at`, "true", "")
}

func TestInstancesAreToldByTheirCommitmentInNewDays(t *testing.T) {
	h := newHouse(t)
	instance := func(when, committed string) etl.LevelHistory {
		s := sample(when, "1")
		s.CommittedTiB = etl.MustDecimal(committed)
		return extreme(s)
	}
	h.mustHistory(window("2026-05-13", "2026-05-14"), instance("2026-05-13T00:00:00Z", "100"), instance("2026-05-13T00:00:00Z", "25"))
	h.now = h.now.Add(time.Hour)
	h.mustHistory(oneDay, instance(may14, "25"))
	h.want(`select level_ordinal, committed_tib from mart.daily_consumption where usage_date = '2026-05-14'`, "1|25")
}

func TestCustomerMovesBetweenAccounts(t *testing.T) {
	h := newHouse(t)
	for _, account := range []string{"acme", "acme-prod"} {
		h.now = h.now.Add(time.Hour)
		if _, err := h.load(etl.Job{Dataset: "keystone.customers", Scope: account, Account: account}, etl.Window{}, func(sink etl.Sink) (etl.Report, error) {
			return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}}, sink.Customer(etl.Customer{ID: "A", Name: ptr("Alpha")})
		}); err != nil {
			t.Fatal(err)
		}
		if ids, err := h.Customers(t.Context(), account); err != nil || len(ids) != 1 {
			t.Errorf("customers of %s: got %v, %v", account, ids, err)
		}
	}
}
