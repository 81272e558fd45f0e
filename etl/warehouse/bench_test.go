package warehouse

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"meterhouse/etl"
)

// benchDay is a day of five-minute samples: figures of six digits behind the point, accruals of nine.
func benchDay() []etl.Sample {
	r := rand.New(rand.NewPCG(5, 5))
	figure := func(from, until, places int) etl.Decimal {
		unit := 1
		for range places {
			unit *= 10
		}
		return etl.MustDecimal(fmt.Sprintf("%d.%0*d", from+r.IntN(until-from), places, r.IntN(unit)))
	}
	samples := make([]etl.Sample, 288)
	for i := range samples {
		samples[i] = etl.Sample{
			At: 1_772_323_200_000_000 + int64(i)*300_000_000, CommittedTiB: etl.NewDecimal(150), ConsumedTiB: figure(134, 182, 6),
			BurstTiB:   etl.NullDecimal{Decimal: figure(0, 32, 6), Known: true},
			AccruedTiB: etl.NullDecimal{Decimal: figure(0, 1, 9), Known: true},
			Invoiced:   etl.False,
		}
	}
	return samples
}

func perSample(b *testing.B, samples []etl.Sample, f func()) {
	b.ReportAllocs()
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(samples)), "ns/sample")
}

// BenchmarkDigest cuts a level's samples into days and hashes them: what an unchanged day costs.
func BenchmarkDigest(b *testing.B) {
	h := etl.LevelHistory{Samples: benchDay()}
	perSample(b, h.Samples, func() { splitDays(&h) })
}

// BenchmarkSummarize computes the daily row of a new or changed day.
func BenchmarkSummarize(b *testing.B) {
	samples := benchDay()
	perSample(b, samples, func() { summarize(samples) })
}

// BenchmarkCopyEncode writes samples in the binary format of COPY.
func BenchmarkCopyEncode(b *testing.B) {
	samples := benchDay()
	h := &historyLoad{l: &loader{customer: &customer{key: 7}}, samples: newCopyBuffer("dw.fact_consumption_sample",
		"customer_key", "service_level_key", "sampled_at", "committed_tib", "consumed_tib", "burst_tib", "accrued_burst_tib", "is_invoiced")}
	v := &level{key: 11}
	perSample(b, samples, func() {
		h.samples.buf, h.samples.rows = h.samples.buf[:0], 0
		h.copySamples(v, samples)
	})
}
