package warehouse

import (
	"testing"
	"time"

	"meterhouse/etl"
)

// One instance of a level is whole, the other one's sample is refused, every night again: it stays in quarantine, and
// the day partial, until it is made good.
func TestRefusedInstanceBesideAWholeOne(t *testing.T) {
	h := newHouse(t)
	d := day("2026-05-14")
	reject := []etl.Reject{{Path: "/results/records/0/service_levels/1/historical_consumption/1/consumed_tib", Reason: "value_missing", Excerpt: "null",
		Subscription: "A-S1", Level: "Extreme", Day: &d}}
	whole, refused := extreme(sample(may14, "110")), extreme(sample(may14, "7"))
	refused.PartialDays = map[etl.Day]bool{d: true}
	for range 3 {
		h.loadTold(dayOfMay, historyJob, historiesAndRejects(1, reject, whole, refused))
		h.want(`select count(*), count(*) filter (where resolved_at is null) from ops.quarantine`, "1|1")
		h.want(`select status from ops.coverage`, "partial")
		h.now = h.now.Add(24 * time.Hour)
	}
	h.loadTold(dayOfMay, historyJob, histories(whole)) // silence about the other one settles nothing
	h.want(`select count(*) filter (where resolved_at is null) from ops.quarantine`, "1")
	h.now = h.now.Add(24 * time.Hour)
	h.loadTold(dayOfMay, historyJob, histories(whole, extreme(sample(may14, "7"), sample(noon, "8"))))
	h.want(`select count(*) filter (where resolved_at is null) from ops.quarantine`, "0")
	h.want(`select status from ops.coverage`, "answered")
}

// A record that nobody can name is refused in every window, in the same words: no day of any of them is answered.
func TestSameRefusalInEveryWindow(t *testing.T) {
	h := newHouse(t)
	nameless := []etl.Reject{{Path: "/results/records/1/subscription/number", Reason: "value_missing", Excerpt: ""}}
	for _, w := range []etl.Window{dayOfMay, window("2026-05-13", "2026-05-14")} {
		s := sample(w.From.Time().Format(time.RFC3339), "110")
		h.loadTold(w, historyJob, historiesAndRejects(1, nameless, extreme(s)))
	}
	h.want(`select day, status from ops.coverage order by 1`, "2026-05-13|partial", "2026-05-14|partial")
}
