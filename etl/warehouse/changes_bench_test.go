package warehouse

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"meterhouse/etl"
)

// fleet is a vendor that says the same of many levels, until a day is touched.
type fleet struct {
	levels, perDay int
	touched        func(level int, day etl.Day) bool // the last sample has 1 more; nil: none
	invoiced       func(level int, day etl.Day) bool // nil: none
}

func (f *fleet) feed(w etl.Window) func(etl.Sink) (etl.Report, error) {
	return func(sink etl.Sink) (etl.Report, error) {
		report := etl.Report{Warnings: etl.Warnings{}}
		const perRecord = 4
		for s := 0; s*perRecord < f.levels; s++ {
			rec := etl.History{Subscription: etl.Subscription{Number: fmt.Sprintf("A-S%d", s)}}
			for i := range perRecord {
				l := etl.LevelHistory{Level: fmt.Sprintf("Level %d", i)}
				for d := w.From; d < w.Until; d++ {
					for k := range f.perDay {
						x := etl.Sample{
							At:           (d.Time().Unix() + int64(k)*86400/int64(f.perDay)) * 1_000_000,
							CommittedTiB: etl.NewDecimal(100), ConsumedTiB: etl.NewDecimal(int64(1000*s + 100*i + k)),
							BurstTiB:   etl.NullDecimal{Decimal: etl.NewDecimal(7), Known: true},
							AccruedTiB: etl.NullDecimal{Decimal: etl.NewDecimal(1), Known: true},
							Invoiced:   etl.False,
						}
						if f.invoiced != nil && f.invoiced(s*perRecord+i, d) {
							x.Invoiced = etl.True
						}
						if k == f.perDay-1 && f.touched != nil && f.touched(s*perRecord+i, d) {
							x.ConsumedTiB = x.ConsumedTiB.Add(etl.NewDecimal(1))
						}
						l.Samples = append(l.Samples, x)
					}
				}
				report.Received += len(l.Samples)
				rec.Levels = append(rec.Levels, l)
			}
			report.Records++
			if err := sink.History(rec); err != nil {
				return report, err
			}
		}
		return report, nil
	}
}

func (h *house) fleet(f *fleet, w etl.Window) etl.Outcome {
	h.t.Helper()
	h.now = h.now.Add(2 * time.Hour)
	out, err := h.load(etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: day("2026-01-01")}, w, f.feed(w))
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// BenchmarkReread reads a window of 3,000 series-days with 288,000 samples again, of which none, some or
// all have changed, and 40 windows of one day each. What a case changes, its next turn changes back.
func BenchmarkReread(b *testing.B) {
	month := window("2026-04-01", "2026-05-01")
	every := func(n int) func(int, etl.Day) bool {
		return func(level int, d etl.Day) bool { return (level*30+int(d-month.From))%n == 0 }
	}
	for _, c := range []struct {
		name    string
		touched func(int, etl.Day) bool
		flip    bool
	}{
		{"unchanged", nil, false},
		{"one changed day", func(level int, d etl.Day) bool { return level == 50 && d == month.From+7 }, false},
		{"1 % changed", every(100), false},
		{"5 % changed", every(20), false},
		{"all invoiced", nil, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			h := newHouse(b)
			f := &fleet{levels: 100, perDay: 96}
			h.fleet(f, month)
			var took []time.Duration
			for b.Loop() {
				if f.touched == nil {
					f.touched = c.touched
				} else {
					f.touched = nil
				}
				if c.flip {
					f.invoiced = func(int, etl.Day) bool { return true }
				}
				before := time.Now()
				h.fleet(f, month)
				took = append(took, time.Since(before))
				if c.flip {
					b.StopTimer()
					h.exec(`update dw.fact_daily_consumption set is_invoiced = false, invoiced_samples = 0, uninvoiced_samples = 96`)
					h.exec(`update dw.fact_consumption_sample set is_invoiced = false`)
					h.exec(`vacuum dw.fact_consumption_sample, dw.fact_daily_consumption`)
					b.StartTimer()
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
		})
	}
	b.Run("40 one-day windows", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			h := newHouse(b)
			f := &fleet{levels: 20, perDay: 96}
			h.fleet(f, window("2026-02-28", "2026-03-01"))
			b.StartTimer()
			for _, turn := range []string{"fresh", "unchanged"} {
				before := time.Now()
				for d := day("2026-03-01"); d < day("2026-04-10"); d++ {
					h.fleet(f, etl.Window{From: d, Until: d + 1})
				}
				b.ReportMetric(float64(time.Since(before).Microseconds())/1000, turn+"-ms")
			}
		}
	})
}
