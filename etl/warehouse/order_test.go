package warehouse

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
)

// seen is one answer of the vendor: what it said of each day of its window at an instant.
type seen struct {
	at     time.Time
	window etl.Window
	days   map[etl.Day][]etl.Sample
}

// TestOrderAndSplitOfLoadsDoNotShow loads the same answers in the order of their fetching and in
// any other order, some of them twice, into two customers: facts, samples, ledger and flags must end
// equal. The vendor adds samples, changes figures and drops days. It does not take single samples away: such an answer
// is held until a later one confirms it, which is a matter of order by its nature. Nor is the kind
// of a ledger row compared: restated or late is told from samples, and a superseded version's are gone. A day that was dropped does not come back,
// because an absence that ended leaves no trace.
func TestOrderAndSplitOfLoadsDoNotShow(t *testing.T) {
	h := newHouse(t)
	customers := 0
	rapid.Check(t, func(rt *rapid.T) {
		answers := drawAnswers(rt)
		order := rapid.Permutation(answers).Draw(rt, "order")
		if rapid.Bool().Draw(rt, "twice") {
			order = append(order, rapid.SampledFrom(answers).Draw(rt, "again"))
		}

		customers++
		inOrder, anyOrder := fmt.Sprintf("in-%d", customers), fmt.Sprintf("any-%d", customers)
		for _, s := range answers {
			h.see(rt, inOrder, s, 0, same)
		}
		for _, s := range order {
			h.see(rt, anyOrder, s, 0, same)
		}
		if want, got := h.dump(inOrder), h.dump(anyOrder); want != got {
			var told []string
			for _, s := range answers {
				told = append(told, fmt.Sprintf("%s %s: %v", s.at.Format(time.TimeOnly), s.window, spell(s)))
			}
			var as []string
			for _, s := range order {
				as = append(as, s.at.Format(time.TimeOnly))
			}
			rt.Fatalf("answers\n%s\nloaded as %v\nin order:\n%s\nin this order:\n%s", strings.Join(told, "\n"), as, want, got)
		}
	})
}

// drawAnswers makes up what the vendor said of two days, one answer after the other.
func drawAnswers(rt *rapid.T) (answers []seen) {
	first := day("2026-05-01")
	grown, gone := map[etl.Day]int{}, map[etl.Day]bool{}
	n := rapid.IntRange(2, 5).Draw(rt, "answers")
	clock := at("2026-05-10T00:00:00Z")
	for range n {
		clock = clock.Add(time.Duration(rapid.IntRange(20, 100).Draw(rt, "minutes")) * time.Minute)
		from := first + etl.Day(rapid.IntRange(0, 1).Draw(rt, "from"))
		until := first + etl.Day(rapid.IntRange(int(from-first)+1, 2).Draw(rt, "until"))
		s := seen{at: clock, window: etl.Window{From: from, Until: until}, days: map[etl.Day][]etl.Sample{}}
		for d := from; d < until; d++ {
			if gone[d] || rapid.IntRange(0, 4).Draw(rt, "absent") == 0 {
				gone[d] = grown[d] > 0
				continue
			}
			grown[d] = rapid.IntRange(max(1, grown[d]), 3).Draw(rt, "samples")
			for i := range grown[d] {
				v := rapid.IntRange(1, 2).Draw(rt, "value")
				s.days[d] = append(s.days[d], sample(d.Time().Add(time.Duration(i)*time.Hour).Format(time.RFC3339), fmt.Sprint(100+v)))
			}
		}
		answers = append(answers, s)
	}
	return answers
}

func spell(s seen) string {
	var b strings.Builder
	for d := s.window.From; d < s.window.Until; d++ {
		fmt.Fprintf(&b, " %s", d)
		for _, x := range s.days[d] {
			fmt.Fprintf(&b, " %s=%s", time.UnixMicro(x.At).UTC().Format("15h"), x.ConsumedTiB)
		}
	}
	return b.String()
}

// same reads samples as they are.
func same(s etl.Sample) etl.Sample { return s }

// see loads an answer, its samples read in some way. payload is as what it is landed already, 0 if it
// is not; the result tells as what it is landed in the end.
func (h *house) see(t *rapid.T, customer string, s seen, payload int64, reading func(etl.Sample) etl.Sample) int64 {
	h.now = s.at
	level := etl.LevelHistory{Level: "Extreme"}
	for d := s.window.From; d < s.window.Until; d++ {
		for _, told := range s.days[d] {
			level.Samples = append(level.Samples, reading(told))
		}
	}
	_, landed, err := h.read(etl.Job{Dataset: "keystone.history", Scope: customer, Expected: day("2026-05-01")}, s.window, payload, func(sink etl.Sink) (etl.Report, error) {
		return etl.Report{Records: 1, Received: len(level.Samples), Warnings: etl.Warnings{}},
			sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{level}})
	})
	if err != nil {
		t.Fatalf("%s at %s: %v", customer, s.at, err)
	}
	return landed
}

// dump is everything about a customer that must not depend on the order of loading.
func (h *house) dump(customer string) string {
	const keyed = ` where customer_key = (select customer_key from dw.dim_customer where customer_id = $1)`
	var all []string
	for _, sql := range []string{
		`select 'sample', sampled_at, committed_tib, consumed_tib, burst_tib, accrued_burst_tib, is_invoiced
			from dw.fact_consumption_sample` + keyed + ` order by 2, 3, 4, 5, 6, 7`,
		`select 'day', usage_date, sample_count, step_seconds, consumed_avg_tib, consumed_max_tib, consumed_last_tib, accrued_sum_tib,
			encode(digest, 'hex'), known_since, absent_since, pending_at, is_invoiced
			from dw.fact_daily_consumption` + keyed + ` order by 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13`,
		`select 'ledger', usage_date, sample_count, consumed_avg_tib, encode(digest, 'hex'), known_from, known_until
			from dw.restatement` + keyed + ` and kind <> 'reread' order by 2, 3, 4, 5, 6, 7`,
		`select 'coverage', day, status from ops.coverage where scope = $1 order by day`,
	} {
		all = append(all, h.rows(sql, customer)...)
	}
	return strings.Join(all, "\n")
}
