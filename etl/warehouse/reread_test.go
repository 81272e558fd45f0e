package warehouse

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
)

// TestReadingAgainEndsAsIfReadSoFromTheStart loads answers, then replays those that were landed as a
// newer version would that reads every figure differently: facts, ledger and coverage must end as if
// it had read them from the start, apart from what the ledger keeps of the former reading.
func TestReadingAgainEndsAsIfReadSoFromTheStart(t *testing.T) {
	h := newHouse(t)
	customers := 0
	hundredMore := func(s etl.Sample) etl.Sample {
		s.ConsumedTiB = s.ConsumedTiB.Sub(etl.NewDecimal(-100))
		return s
	}
	rapid.Check(t, func(rt *rapid.T) {
		answers := drawAnswers(rt)
		customers++
		replayed, fresh := fmt.Sprintf("replayed-%d", customers), fmt.Sprintf("fresh-%d", customers)
		payloads := make([]int64, len(answers))
		for i, s := range answers {
			payloads[i] = h.see(rt, replayed, s, 0, same)
		}
		once := slices.Clone(payloads)
		if rapid.Bool().Draw(rt, "twice") {
			payloads, answers = append(payloads, payloads...), append(answers, answers...)
		}
		for i, s := range answers {
			if payloads[i] != 0 {
				h.see(rt, replayed, s, payloads[i], hundredMore)
			}
		}
		for _, s := range answers[:len(once)] {
			h.see(rt, fresh, s, 0, hundredMore)
		}
		if want, got := h.dump(fresh), h.dump(replayed); want != got {
			var told []string
			for i, s := range answers[:len(once)] {
				told = append(told, fmt.Sprintf("%s %s landed as %d: %v", s.at.Format(time.TimeOnly), s.window, once[i], spell(s)))
			}
			rt.Fatalf("answers\n%s\nread so from the start:\n%s\nreplayed:\n%s", strings.Join(told, "\n"), want, got)
		}
	})
}

func TestRereadDay(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	job := etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: day("2026-05-14")}
	days := window("2026-05-14", "2026-05-15")
	read := func(payload int64, samples ...etl.Sample) (etl.Outcome, int64) {
		t.Helper()
		out, landed, err := h.read(job, days, payload, func(sink etl.Sink) (etl.Report, error) {
			return etl.Report{Records: 1, Received: len(samples), Warnings: etl.Warnings{}},
				sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{{Level: "Extreme", Samples: samples}}})
		})
		if err != nil {
			t.Fatal(err)
		}
		return out, landed
	}
	flagged := func(s etl.Sample, invoiced etl.NullBool) etl.Sample { s.Invoiced = invoiced; return s }
	_, payload := read(0, flagged(sample("2026-05-14T00:00:00Z", "10"), etl.False), flagged(sample("2026-05-14T01:00:00Z", "20"), etl.False))
	fetched := h.now
	h.now = fetched.Add(24 * time.Hour) // the vendor says the same, and that it is invoiced
	read(0, flagged(sample("2026-05-14T00:00:00Z", "10"), etl.True), flagged(sample("2026-05-14T01:00:00Z", "20"), etl.True))

	h.now = fetched // read again, the second figure is ten times as great, and a third sample is there
	for range 2 {
		out, _ := read(payload, flagged(sample("2026-05-14T00:00:00Z", "10"), etl.False),
			flagged(sample("2026-05-14T01:00:00Z", "200"), etl.False), flagged(sample("2026-05-14T02:00:00Z", "30"), etl.False))
		h.want(`select sample_count, consumed_max_tib, known_since, restatement_count, uninvoiced_samples, invoiced_samples
			from dw.fact_daily_consumption`, "3|200|2026-05-15 12:00:00+00|0|1|2")
		h.want(`select kind, consumed_max_tib, known_from, known_until, was_invoiced from dw.restatement`,
			"reread|20|2026-05-15 12:00:00+00|2026-05-15 12:00:00+00|false")
		h.want(`select consumed_tib, is_invoiced from dw.fact_consumption_sample order by sampled_at`, "10|true", "200|true", "30|false")
		if out.Warnings["reread"].Count == 1 && (out.Restated != 1 || out.Inserted != 1 || out.Unchanged != 1) {
			t.Errorf("counted %+v", out)
		}
	}
}

func TestRereadPresent(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	read := func(payload int64, consumed, committed string) int64 {
		t.Helper()
		_, landed, err := h.read(etl.Job{Dataset: "keystone.current", Scope: "C-1", Snapshot: payload == 0}, etl.Window{}, payload,
			func(sink etl.Sink) (etl.Report, error) {
				return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}}, sink.Readings(etl.Readings{
					Subscription: subscription1(),
					Levels:       []etl.LevelReading{{Level: "Extreme", CommittedTiB: etl.MustDecimal(committed), ConsumedTiB: etl.MustDecimal(consumed), ReadAt: ptr(at("2026-05-15T06:00:00Z"))}},
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
}
