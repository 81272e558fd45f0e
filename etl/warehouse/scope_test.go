package warehouse

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"meterhouse/etl"
)

// TestDatasetsOfOneScopeMeet loads two reports of a customer nobody knows yet at the same time:
// both make the same customer, subscription and level, and the scope's lock lets them take turns.
func TestDatasetsOfOneScopeMeet(t *testing.T) {
	h := newHouse(t)
	for round := range 10 {
		scope := fmt.Sprintf("C-%d", round)
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i := range errs {
			mine := *h
			wg.Go(func() {
				if i == 0 {
					_, errs[i] = mine.terms(scope, etl.Terms{Subscription: subscription1(), Levels: []etl.Commitment{{Level: "Extreme", CommittedTiB: etl.NewDecimal(100)}}})
					return
				}
				_, errs[i] = mine.load(etl.Job{Dataset: "keystone.history", Scope: scope, Expected: day("2026-05-14")}, oneDay, func(sink etl.Sink) (etl.Report, error) {
					return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}},
						sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(sample(may14, "1"))}})
				})
			})
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
	}
	h.want(`select count(*) from dw.dim_service_level`, "10")
}

func TestEveryMeasureIsPartOfTheDigest(t *testing.T) {
	base := sample(may14, "112.5")
	for name, change := range map[string]func(*etl.Sample){
		"time":            func(s *etl.Sample) { s.At++ },
		"committed":       func(s *etl.Sample) { s.CommittedTiB = etl.NewDecimal(101) },
		"consumed":        func(s *etl.Sample) { s.ConsumedTiB = etl.NewDecimal(113) },
		"burst":           func(s *etl.Sample) { s.BurstTiB.Decimal = etl.NewDecimal(13) },
		"burst unknown":   func(s *etl.Sample) { s.BurstTiB = etl.NullDecimal{} },
		"accrued":         func(s *etl.Sample) { s.AccruedTiB.Decimal = etl.NewDecimal(13) },
		"accrued unknown": func(s *etl.Sample) { s.AccruedTiB = etl.NullDecimal{} },
	} {
		other := base
		change(&other)
		if string(digest([]etl.Sample{base})) == string(digest([]etl.Sample{other})) {
			t.Errorf("%s is not part of the digest", name)
		}
	}
	flagged := base
	flagged.Invoiced = etl.True
	if string(digest([]etl.Sample{base})) != string(digest([]etl.Sample{flagged})) {
		t.Error("is_invoiced is part of the digest")
	}
}

// TestWhatIsNotAbsence: refused records and late answers say nothing about what is gone.
func TestWhatIsNotAbsence(t *testing.T) {
	h := newHouse(t)
	job := etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: day("2026-05-14")}
	premium := etl.LevelHistory{Level: "Premium", Samples: []etl.Sample{sample(may14, "50")}}
	told := func(records []etl.History, rejects ...etl.Reject) {
		t.Helper()
		report := etl.Report{Records: len(records) + len(rejects), Received: len(rejects), Quarantined: len(rejects), Warnings: etl.Warnings{}}
		if _, err := h.load(job, oneDay, func(sink etl.Sink) (etl.Report, error) {
			for _, r := range rejects {
				if err := sink.Reject(r); err != nil {
					return report, err
				}
			}
			for _, r := range records {
				for _, l := range r.Levels {
					report.Received += len(l.Samples)
				}
				if err := sink.History(r); err != nil {
					return report, err
				}
			}
			return report, nil
		}); err != nil {
			t.Fatal(err)
		}
		h.want(`select count(*) from dw.fact_daily_consumption where absent_since is not null`, "0")
	}
	both := etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(sample(may14, "112.5")), premium}}
	one := etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(sample(may14, "112.5"))}}
	h.now = h.now.Add(48 * time.Hour)
	told([]etl.History{both})

	// A record without a number could have been anyone's.
	told([]etl.History{one}, etl.Reject{Path: "/r", Reason: "value_missing"})
	// A refused level of this subscription could have been the one that is not there.
	partial := one
	partial.Partial = true
	told([]etl.History{partial}, etl.Reject{Path: "/l", Reason: "text_invisible_char", Subscription: "A-S1"})
	// An answer from before the newest one.
	h.now = h.now.Add(-24 * time.Hour)
	told([]etl.History{one})
}

func TestLateListOfSubscriptionsMarksNothingAbsent(t *testing.T) {
	h := newHouse(t)
	load := func(told ...etl.Terms) {
		t.Helper()
		if _, err := h.terms("C-1", told...); err != nil {
			t.Fatal(err)
		}
	}
	h.now = at("2026-05-20T00:00:00Z")
	load(committed("A-S1", "Extreme=100"), committed("A-S2", "Value=50"))
	h.now = at("2026-05-19T00:00:00Z")
	load(committed("A-S1", "Extreme=90"))
	h.want(`select count(*) from mart.subscription where absent_since is not null`, "0")
	h.want(`select subscription_number, committed_tib, is_current from mart.commitment order by 1, valid_from`, "A-S1|90|false", "A-S1|100|true", "A-S2|50|true")
	// Nor does it move the watermark back.
	h.want(`select watermark, last_success_at from mart.freshness`, "2026-05-20 00:00:00+00|2026-05-20 00:00:00+00")
}

func TestBackfillDoesNoSlot(t *testing.T) {
	h := newHouse(t)
	next := at("2026-05-16T02:37:00Z")
	load := func(backfill bool) {
		t.Helper()
		if _, err := h.load(etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: day("2026-05-14"), NextDue: next, SlotOpen: backfill}, oneDay,
			func(sink etl.Sink) (etl.Report, error) {
				return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}},
					sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(sample(may14, "1"))}})
			}); err != nil {
			t.Fatal(err)
		}
	}
	load(true)
	h.want(`select last_success_at, next_due_at, watermark from mart.freshness`, "||2026-05-15 00:00:00+00")
	load(false)
	h.want(`select last_success_at, next_due_at from mart.freshness`, "2026-05-15 12:00:00+00|2026-05-16 02:37:00+00")
}
