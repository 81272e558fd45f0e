package warehouse

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"meterhouse/etl"
)

// averagePlaces is how many digits behind the point a daily mean keeps.
const averagePlaces = 12

// seriesDay is what the samples of one level instance and UTC day amount to.
type seriesDay struct {
	day     etl.Day
	samples []etl.Sample // in order of time
	partial bool         // a sample of the day was refused
	digest  []byte
}

// splitDays cuts samples, which are in order of time, into days and hashes each.
func splitDays(h *etl.LevelHistory) []seriesDay {
	var days []seriesDay
	samples := h.Samples
	for len(samples) > 0 {
		day := samples[0].Day()
		n := 1
		for n < len(samples) && samples[n].Day() == day {
			n++
		}
		days = append(days, seriesDay{
			day:     day,
			samples: samples[:n],
			partial: h.AllPartial || h.PartialDays[day],
			digest:  digest(samples[:n]),
		})
		samples = samples[n:]
	}
	return days
}

// digest is SHA-256 over the samples in order of time: 8 bytes of microseconds since 1970, then
// committed, consumed, burst and accrued as canonical decimal text, each ended by a zero byte;
// an unknown measure is the text "?". Whether a sample is invoiced is not part of it.
func digest(samples []etl.Sample) []byte {
	const block = 4 << 10 // hashed at a time
	hash := sha256.New()
	buf := make([]byte, 0, block+256)
	null := func(d etl.NullDecimal) {
		if d.Known {
			buf = d.AppendText(buf)
		} else {
			buf = append(buf, '?')
		}
		buf = append(buf, 0)
	}
	for i := range samples {
		s := &samples[i]
		buf = binary.BigEndian.AppendUint64(buf, uint64(s.At))
		buf = append(s.CommittedTiB.AppendText(buf), 0)
		buf = append(s.ConsumedTiB.AppendText(buf), 0)
		null(s.BurstTiB)
		null(s.AccruedTiB)
		if len(buf) >= block {
			hash.Write(buf)
			buf = buf[:0]
		}
	}
	hash.Write(buf)
	return hash.Sum(nil)
}

// figures are the daily row's columns that follow from samples.
type figures struct {
	count                   int
	step                    *int32 // median seconds between neighbours; nil with one sample
	committed               etl.Decimal
	average, maximum, last  etl.Decimal
	burstAverage            etl.NullDecimal
	over                    etl.Decimal
	accruedSum, accruedLast etl.NullDecimal
	invoiced, uninvoiced    int
}

// summarize computes the daily row, exactly: sums are exact and every mean is rounded once, half
// away from zero. samples is not empty and in order of time.
func summarize(samples []etl.Sample) figures {
	n := len(samples)
	last := &samples[n-1]
	f := figures{count: n, committed: last.CommittedTiB, last: last.ConsumedTiB, maximum: samples[0].ConsumedTiB, accruedLast: last.AccruedTiB}
	var consumed, burst, over, accrued etl.Sum
	knownBurst, knownAccrued := true, true
	for i := range samples {
		s := &samples[i]
		consumed.Add(s.ConsumedTiB)
		if s.ConsumedTiB.Cmp(f.maximum) > 0 {
			f.maximum = s.ConsumedTiB
		}
		if s.ConsumedTiB.Cmp(s.CommittedTiB) > 0 {
			over.Add(s.ConsumedTiB)
			over.Add(s.CommittedTiB.Neg())
		}
		knownBurst = knownBurst && s.BurstTiB.Known
		if knownBurst {
			burst.Add(s.BurstTiB.Decimal)
		}
		knownAccrued = knownAccrued && s.AccruedTiB.Known
		if knownAccrued {
			accrued.Add(s.AccruedTiB.Decimal)
		}
		f.countFlag(s.Invoiced)
	}
	f.average = consumed.Decimal().Quo(int64(n), averagePlaces)
	f.over = over.Decimal().Quo(int64(n), averagePlaces)
	if knownBurst {
		f.burstAverage = etl.NullDecimal{Decimal: burst.Decimal().Quo(int64(n), averagePlaces), Known: true}
	}
	if knownAccrued {
		f.accruedSum = etl.NullDecimal{Decimal: accrued.Decimal(), Known: true}
	}
	f.step = medianStep(samples)
	return f
}

// flags counts the samples' flags only.
func flags(samples []etl.Sample) figures {
	f := figures{count: len(samples)}
	for i := range samples {
		f.countFlag(samples[i].Invoiced)
	}
	return f
}

func (f *figures) countFlag(b etl.NullBool) {
	switch b {
	case etl.True:
		f.invoiced++
	case etl.False:
		f.uninvoiced++
	}
}

// isInvoiced is the day's flag: false as soon as one sample is known not to be invoiced, true when all are.
func (f *figures) isInvoiced() etl.NullBool { return dayFlag(f.count, f.invoiced, f.uninvoiced) }

func dayFlag(count, invoiced, uninvoiced int) etl.NullBool {
	switch {
	case uninvoiced > 0:
		return etl.False
	case invoiced == count:
		return etl.True
	}
	return etl.Unknown
}

func medianStep(samples []etl.Sample) *int32 {
	if len(samples) < 2 {
		return nil
	}
	steps := make([]int64, len(samples)-1)
	for i := range steps {
		steps[i] = samples[i+1].At - samples[i].At
	}
	slices.Sort(steps)
	median := int32(steps[len(steps)/2] / 1_000_000)
	return &median
}
