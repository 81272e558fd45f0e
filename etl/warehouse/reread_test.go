package warehouse

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
)

var twoDays = window("2026-05-01", "2026-05-03")

// feedOf is the transform of one answer whose samples are read in some way.
func feedOf(s seen, reading func(etl.Sample) etl.Sample, sink etl.Sink) (etl.Report, error) {
	level := etl.LevelHistory{Level: "Extreme"}
	for d := s.window.From; d < s.window.Until; d++ {
		for _, told := range s.days[d] {
			level.Samples = append(level.Samples, reading(told))
		}
	}
	return etl.Report{Records: 1, Received: len(level.Samples), Warnings: etl.Warnings{}},
		sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{level}})
}

func (h *house) mustRebuild(rt *rapid.T, customer string, landed map[int64]seen, reading func(etl.Sample) etl.Sample) etl.Outcome {
	h.now = at("2026-06-01T00:00:00Z")
	var payloads []int64
	for _, row := range h.rows(`select payload_id from raw.payload where scope = $1 order by fetched_at, payload_id`, customer) {
		var id int64
		fmt.Sscan(row, &id)
		payloads = append(payloads, id)
	}
	out, err := h.rebuild(etl.Job{Dataset: "keystone.history", Scope: customer, Expected: day("2026-05-01")}, twoDays, payloads,
		func(payload int64, sink etl.Sink) (etl.Report, error) { return feedOf(landed[payload], reading, sink) })
	if err != nil {
		rt.Fatal(err)
	}
	return out
}

func hundredMore(s etl.Sample) etl.Sample {
	s.ConsumedTiB = s.ConsumedTiB.Add(etl.NewDecimal(100))
	return s
}

// TestReadingAgainEndsAsIfReadSoFromTheStart loads answers, then replays those that were landed as a
// newer version would that reads every figure differently: facts, ledger and coverage must end as if
// it had read them from the start, apart from what the ledger keeps of the former reading.
func TestReadingAgainEndsAsIfReadSoFromTheStart(t *testing.T) {
	h := newHouse(t)
	customers := 0
	rapid.Check(t, func(rt *rapid.T) {
		answers := drawAnswers(rt)
		customers++
		replayed, fresh := fmt.Sprintf("replayed-%d", customers), fmt.Sprintf("fresh-%d", customers)
		landed := map[int64]seen{}
		for _, s := range answers {
			landed[h.see(rt, replayed, s, 0, same)] = s
		}
		former := h.rows(`select count(*) from dw.restatement where customer_key = (select customer_key from dw.dim_customer where customer_id = $1)`, replayed)
		for range rapid.IntRange(1, 2).Draw(rt, "times") {
			h.mustRebuild(rt, replayed, landed, hundredMore)
		}
		for _, s := range answers {
			h.see(rt, fresh, s, 0, hundredMore)
		}
		if want, got := h.dump(fresh), h.dump(replayed); want != got {
			rt.Fatalf("answers\n%s\nread so from the start:\n%s\nreplayed:\n%s", spellAll(answers), want, got)
		}
		// Every former version is kept.
		kept := h.rows(`select count(*) - (select count(*) from dw.fact_daily_consumption as d where d.customer_key = c.customer_key)
			from dw.restatement join dw.dim_customer as c using (customer_key) where customer_id = $1 and kind = 'reread' group by c.customer_key`, replayed)
		if days := h.rows(`select 1 from dw.fact_daily_consumption join dw.dim_customer using (customer_key) where customer_id = $1`, replayed); len(days) > 0 &&
			strings.Join(kept, "") != strings.Join(former, "") {
			rt.Fatalf("answers\n%s\n%v former versions in the ledger, %v kept as reread", spellAll(answers), former, kept)
		}
	})
}

// TestReadingAgainAlikeChangesNothing replays whatever was landed, flags included, in whatever order it was
// loaded, or with shrinks, whose order matters: not one row may change.
func TestReadingAgainAlikeChangesNothing(t *testing.T) {
	h := newHouse(t)
	customers := 0
	rapid.Check(t, func(rt *rapid.T) {
		answers := drawAnswers(rt)
		inOrder := rapid.Bool().Draw(rt, "in order")
		for i := range answers {
			for d := twoDays.From; d < twoDays.Until; d++ {
				samples := answers[i].days[d]
				for j := range samples {
					samples[j].Invoiced = rapid.SampledFrom([]etl.NullBool{etl.Unknown, etl.False, etl.True}).Draw(rt, "invoiced")
				}
				if len(samples) > 1 && inOrder && rapid.IntRange(0, 3).Draw(rt, "shrunk") == 0 {
					answers[i].days[d] = samples[:1]
				}
			}
		}
		order := answers
		if !inOrder {
			order = rapid.Permutation(answers).Draw(rt, "order")
		}
		customers++
		customer := fmt.Sprintf("alike-%d", customers)
		landed := map[int64]seen{}
		for _, s := range order {
			landed[h.see(rt, customer, s, 0, same)] = s
		}
		const rows = `
			select 'day', d.xmin, d.ctid, d.* from dw.fact_daily_consumption as d join dw.dim_customer using (customer_key) where customer_id = $1
			order by d.service_level_key, d.usage_date`
		const ledger = `
			select 'ledger', r.xmin, r.* from dw.restatement as r join dw.dim_customer using (customer_key) where customer_id = $1 order by restatement_id`
		before := append(h.rows(rows, customer), h.rows(ledger, customer)...)
		out := h.mustRebuild(rt, customer, landed, same)
		if out.Inserted+out.Restated+out.Quarantined > 0 {
			rt.Fatalf("answers\n%s\ncounted %+v", spellAll(order), out)
		}
		after := append(h.rows(rows, customer), h.rows(ledger, customer)...)
		if strings.Join(before, "\n") != strings.Join(after, "\n") {
			rt.Fatalf("answers\n%s\nbefore:\n%s\nafter:\n%s", spellAll(order), strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
	})
}

func spellAll(answers []seen) string {
	var told []string
	for _, s := range answers {
		told = append(told, fmt.Sprintf("%s %s: %v", s.at.Format(time.TimeOnly), s.window, spell(s)))
	}
	return strings.Join(told, "\n")
}

// What an invoice was taken back of, and what later answers said of flags, stays when figures are read
// differently.
func TestRereadDay(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	job := etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: day("2026-05-14")}
	days := window("2026-05-14", "2026-05-15")
	flagged := func(flag etl.NullBool, consumed ...string) (samples []etl.Sample) {
		for i, c := range consumed {
			s := sample(fmt.Sprintf("2026-05-14T%02d:00:00Z", i), c)
			s.Invoiced = flag
			samples = append(samples, s)
		}
		return samples
	}
	feed := func(samples []etl.Sample) func(etl.Sink) (etl.Report, error) {
		return func(sink etl.Sink) (etl.Report, error) {
			return etl.Report{Records: 1, Received: len(samples), Warnings: etl.Warnings{}},
				sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{{Level: "Extreme", Samples: samples}}})
		}
	}
	_, first, err := h.read(job, days, 0, feed(flagged(etl.False, "10", "20")))
	if err != nil {
		t.Fatal(err)
	}
	h.now = h.now.Add(24 * time.Hour) // the vendor says the same, and that it is invoiced
	_, second, err := h.read(job, days, 0, feed(flagged(etl.True, "10", "20")))
	if err != nil {
		t.Fatal(err)
	}
	// Read again, the second figure is ten times as great, and a third sample is there.
	for n := range 2 {
		out, err := h.rebuild(job, days, []int64{first, second}, func(payload int64, sink etl.Sink) (etl.Report, error) {
			flag := etl.False
			if payload == second {
				flag = etl.True
			}
			return feed(flagged(flag, "10", "200", "30"))(sink)
		})
		if err != nil {
			t.Fatal(err)
		}
		if want := [2]int{1 - n, 2 - 2*n}; [2]int{out.Inserted, out.Restated} != want {
			t.Errorf("inserted and restated %d, %d, want %v", out.Inserted, out.Restated, want)
		}
		h.want(`select sample_count, consumed_max_tib, known_since, restatement_count, uninvoiced_samples, invoiced_samples
			from dw.fact_daily_consumption`, "3|200|2026-05-15 12:00:00+00|0|0|3")
		h.want(`select kind, consumed_max_tib, known_from, known_until, was_invoiced from dw.restatement`,
			"reread|20|2026-05-15 12:00:00+00|2026-05-15 12:00:00+00|true")
		h.want(`select column_name, old_value, new_value from mart.restatement where column_name = 'consumed_max_tib'`, "consumed_max_tib|20|200")
	}
}

// A commitment that is read differently, and one that is not told any more.
func TestRereadCommitments(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	job := etl.Job{Dataset: "keystone.subscriptions", Scope: "C-1"}
	feed := func(sink etl.Sink, levels ...etl.Commitment) (etl.Report, error) {
		return etl.Report{Records: 1, Received: len(levels), Warnings: etl.Warnings{}}, sink.Terms(etl.Terms{Subscription: subscription1(), Levels: levels})
	}
	told := map[int64]string{}
	var payloads []int64
	for _, tib := range []string{"100", "100", "120", "100"} { // the second brings no news
		_, payload, err := h.read(job, etl.Window{}, 0, func(sink etl.Sink) (etl.Report, error) {
			return feed(sink, etl.Commitment{Level: "Extreme", CommittedTiB: etl.MustDecimal(tib)})
		})
		if err != nil {
			t.Fatal(err)
		}
		if payload != 0 {
			told[payload], payloads = tib, append(payloads, payload)
		}
		h.now = h.now.Add(24 * time.Hour)
	}
	const versions = `select committed_tib, valid_from, valid_to from dw.fact_commitment order by valid_from`
	before := h.rows(`select xmin, * from dw.fact_commitment`)
	again := func(factor string) etl.Outcome {
		t.Helper()
		out, err := h.rebuild(job, etl.Window{}, payloads, func(payload int64, sink etl.Sink) (etl.Report, error) {
			return feed(sink, etl.Commitment{Level: "Extreme", CommittedTiB: etl.MustDecimal(told[payload] + factor)})
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	again("")
	if after := h.rows(`select xmin, * from dw.fact_commitment`); strings.Join(before, "\n") != strings.Join(after, "\n") {
		t.Errorf("read alike, from\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	again("0")
	h.want(versions, "1000|2026-05-15 12:00:00+00|2026-05-17 12:00:00+00", "1200|2026-05-17 12:00:00+00|2026-05-18 12:00:00+00", "1000|2026-05-18 12:00:00+00|")
	h.want(`select old_value from ops.reread order by reread_id`, "100", "120", "100")
}

func TestRereadPresent(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	read := func(payload int64, consumed, committed string) int64 {
		t.Helper()
		_, landed, err := h.read(etl.Job{Dataset: "keystone.current", Scope: "C-1", Snapshot: payload == 0, Aside: payload != 0}, etl.Window{}, payload,
			func(sink etl.Sink) (etl.Report, error) {
				return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}}, sink.Readings(etl.Readings{
					Subscription: subscription1(),
					Levels: []etl.LevelReading{{Level: "Extreme", CommittedTiB: etl.MustDecimal(committed), ConsumedTiB: etl.MustDecimal(consumed),
						ReadAt: ptr(at("2026-05-15T06:00:00Z"))}},
				})
			})
		if err != nil {
			t.Fatal(err)
		}
		return landed
	}
	payload := read(0, "91", "100")
	read(payload, "91.5", "100")
	read(payload, "91.5", "100")
	h.want(`select consumed_tib, superseded_at from dw.fact_service_level`, "91.5|")
	h.want(`select inserted, restated, unchanged from ops.run order by run_id`, "1|0|0", "0|1|0", "0|0|1")
	h.want(`select old_value, new_value from ops.reread`,
		"committed 100, consumed 91, burst unknown, accrued unknown|committed 100, consumed 91.5, burst unknown, accrued unknown")
}

// A subscription that was refused as a whole, and is accepted when it is read again, is all news.
func TestRereadFindsNewSeries(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	job := etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: day("2026-05-14")}
	days := window("2026-05-14", "2026-05-15")
	second := subscription1()
	second.Number = "A-S2"
	feed := func(sink etl.Sink, accepted bool) (etl.Report, error) {
		report := etl.Report{Records: 2, Received: 2, Warnings: etl.Warnings{}}
		err := sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(sample("2026-05-14T00:00:00Z", "10"))}})
		if accepted && err == nil {
			return report, sink.History(etl.History{Subscription: second, Levels: []etl.LevelHistory{extreme(sample("2026-05-14T00:00:00Z", "20"))}})
		}
		report.Quarantined = 1
		return report, errors.Join(err, sink.Reject(etl.Reject{Path: "/results/records/1", Reason: "key_empty", Excerpt: "x"}))
	}
	_, payload, err := h.read(job, days, 0, func(sink etl.Sink) (etl.Report, error) { return feed(sink, false) })
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		out, err := h.rebuild(job, days, []int64{payload}, func(_ int64, sink etl.Sink) (etl.Report, error) { return feed(sink, true) })
		if err != nil || out.Inserted != 1-n || out.Unchanged != 1+n || out.Quarantined != 0 {
			t.Errorf("%+v, %v", out, err)
		}
	}
	h.want(`select subscription_number, consumed_last_tib from mart.daily_consumption order by 1`, "A-S1|10", "A-S2|20")
	h.want(`select resolution from ops.quarantine`, "accepted by run 2, which read the same answer again")
}
