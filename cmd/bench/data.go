package main

import (
	"math/big"
	"strconv"
	"strings"
	"time"
)

// shape says what data there is. Everything in it is a function of the shape alone, so that the
// process that serves it and the one that checks the warehouse agree without talking.
type shape struct {
	Seed   uint64
	Levels int           // of the largest customer
	Days   int           // of history
	Step   time.Duration // between two samples of a level
}

// firstDay is where history begins. It is long ago, so that every day is settled by any clock.
var firstDay = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	perSubscription = 4  // levels
	flipDays        = 30 // of the month that becomes invoiced
	day             = 24 * time.Hour
)

func (s shape) perDay() int        { return int(day / s.Step) }
func (s shape) samples(c cast) int { return c.levels() * s.Days * s.perDay() }

// flipped are the days of the month that becomes invoiced; what is before it is so from the beginning.
func (s shape) flipped() (from, until int) {
	until = max(1, s.Days-flipDays)
	return max(0, until-flipDays), until
}

// cast is a customer: an id and a slice of the levels.
type cast struct {
	ID          string
	From, Until int // levels
}

func (c cast) levels() int { return c.Until - c.From }

// state is how the vendor tells the data now. Each change keeps those before it.
type state struct {
	Respelled bool   // 150 as 150.0: another text of the same figures
	Changed   change // which days have other figures
	Flipped   bool   // a further month is invoiced
	Gzip      bool   // the wire is compressed
}

type change int

const (
	nothing change = iota
	oneDay         // one series-day
	onePercent
	fivePercent // more
)

// changedBy is the first change that gives the series-day other figures; 0 if none does.
func (s shape) changedBy(level, day int) change {
	if level == 0 && day == s.Days-min(10, s.Days) {
		return oneDay
	}
	switch h := mix(mix(s.Seed, uint64(level)<<32|uint64(day)), 0xc4a) % 100; {
	case h < 1:
		return onePercent
	case h < 6:
		return fivePercent
	}
	return nothing
}

func (s shape) isChanged(st state, level, day int) bool {
	by := s.changedBy(level, day)
	return by != nothing && by <= st.Changed
}

// changedDays counts series-days that have other figures under st than under before.
func (s shape) changedDays(c cast, before, st state, from, until int) (n int) {
	for level := c.From; level < c.Until; level++ {
		for d := from; d < until; d++ {
			if s.isChanged(st, level, d) != s.isChanged(before, level, d) {
				n++
			}
		}
	}
	return n
}

// sample is one row of historical_consumption, in millionths and billionths of a TiB.
type sample struct {
	unix                       int64
	committed, consumed, burst int64 // 1e-6
	accrued                    int64 // 1e-9
	invoiced                   bool
}

const micro = 1_000_000

// each calls f with the samples of a series-day.
func (s shape) each(st state, level, d int, f func(sample)) {
	key := mix(s.Seed, uint64(level))
	begin := firstDay.AddDate(0, 0, d)
	month := int64(time.Date(begin.Year(), begin.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()) * 24 * 60
	minutes := int64(s.Step / time.Minute)
	committed := int64(20+10*(level%13)) * micro
	if level%5 == 4 {
		committed += 250_000 // not all commitments are whole
	}
	usual, swing := committed*24/25, committed/8
	from, until := s.flipped()
	invoiced := d < from || st.Flipped && d < until
	correction := int64(0)
	if s.isChanged(st, level, d) {
		correction = micro / 4
	}
	const wave = 28 * 24 * 60
	for i := range s.perDay() {
		unix := begin.Unix() + int64(i)*int64(s.Step/time.Second)
		phase := (unix/60 + int64(key%wave)) % wave
		slope := 4*max(phase-wave/2, wave/2-phase) - wave
		v := sample{unix: unix, committed: committed, invoiced: invoiced}
		v.consumed = usual + swing*slope/wave + int64(mix(key, uint64(unix))%uint64(swing/4))
		if level%4 == 3 { // these are told to two decimals
			v.consumed -= v.consumed % (micro / 100)
		}
		v.consumed += correction
		if v.consumed > v.committed {
			v.burst = v.consumed - v.committed
		}
		v.accrued = (v.burst*1000*minutes + month/2) / month
		f(v)
	}
}

// mix stirs v into h: the finalizer of splitmix64.
func mix(h, v uint64) uint64 {
	h += v*0x9e3779b97f4a7c15 + 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// appendJSON writes the sample as the vendor does.
func (v sample) appendJSON(b []byte, respelled bool) []byte {
	zero := respelled && v.committed%micro == 0
	b = append(b, `{"committed_tib":`...)
	b = appendDecimal(b, v.committed, micro)
	if zero {
		b = append(b, '.', '0')
	} else if respelled {
		b = append(b, '0')
	}
	b = append(b, `,"consumed_tib":`...)
	b = appendDecimal(b, v.consumed, micro)
	b = append(b, `,"timestamp_utc":"`...)
	b = time.Unix(v.unix, 0).UTC().AppendFormat(b, time.RFC3339)
	b = append(b, `","burst_tib":`...)
	b = appendDecimal(b, v.burst, micro)
	b = append(b, `,"accrued_burst_tib":`...)
	b = appendDecimal(b, v.accrued, 1000*micro)
	b = append(b, `,"is_invoiced":`...)
	return append(strconv.AppendBool(b, v.invoiced), '}')
}

// appendCSV writes the sample as a row of fact_consumption_sample.
func (v sample) appendCSV(b []byte, customerKey, levelKey int64) []byte {
	b = append(strconv.AppendInt(b, customerKey, 10), ',')
	b = append(strconv.AppendInt(b, levelKey, 10), ',')
	b = append(time.Unix(v.unix, 0).UTC().AppendFormat(b, time.RFC3339), ',')
	b = append(appendDecimal(b, v.committed, micro), ',')
	b = append(appendDecimal(b, v.consumed, micro), ',')
	b = append(appendDecimal(b, v.burst, micro), ',')
	b = append(appendDecimal(b, v.accrued, 1000*micro), ',')
	return append(strconv.AppendBool(b, v.invoiced), '\n')
}

// appendDecimal writes v/unit, unit a power of ten, without trailing zeros.
func appendDecimal(b []byte, v, unit int64) []byte {
	b = strconv.AppendInt(b, v/unit, 10)
	if v %= unit; v == 0 {
		return b
	}
	b = append(b, '.')
	for v > 0 {
		unit /= 10
		b = append(b, byte('0'+v/unit))
		v %= unit
	}
	return b
}

// totals are what a warehouse must hold of a customer: exact, and spelled as trim_scale()::text.
type totals struct {
	Samples                             int64
	Committed, Consumed, Burst, Accrued string
	Invoiced                            int64 // samples
	Days                                int64 // series-days
	AvgSum, MaxSum, LastSum             string
	InvoicedDays                        int64
}

// oracle totals the days [from, until) of a customer as told under st.
func (s shape) oracle(c cast, st state, from, until int) totals {
	var t totals
	var committed, consumed, burst, accrued, maxima, lasts int64
	averages := new(big.Int) // of 1e-12
	for level := c.From; level < c.Until; level++ {
		for d := from; d < until; d++ {
			n, sum, last, greatest := int64(0), int64(0), int64(0), int64(0)
			invoiced := false
			s.each(st, level, d, func(v sample) {
				n++
				sum, last, greatest = sum+v.consumed, v.consumed, max(greatest, v.consumed)
				committed, burst, accrued = committed+v.committed, burst+v.burst, accrued+v.accrued
				if invoiced = v.invoiced; invoiced {
					t.Invoiced++
				}
			})
			t.Samples, t.Days, consumed = t.Samples+n, t.Days+1, consumed+sum
			if invoiced {
				t.InvoicedDays++
			}
			maxima, lasts = maxima+greatest, lasts+last
			// The exact quotient, half away from zero; nothing here is negative.
			average := new(big.Int).Mul(big.NewInt(2*sum), big.NewInt(micro))
			average.Add(average, big.NewInt(n))
			averages.Add(averages, average.Quo(average, big.NewInt(2*n)))
		}
	}
	t.Committed, t.Consumed, t.Burst = spelled(big.NewInt(committed), 6), spelled(big.NewInt(consumed), 6), spelled(big.NewInt(burst), 6)
	t.Accrued, t.AvgSum = spelled(big.NewInt(accrued), 9), spelled(averages, 12)
	t.MaxSum, t.LastSum = spelled(big.NewInt(maxima), 6), spelled(big.NewInt(lasts), 6)
	return t
}

// spelled writes n / 10^places without trailing zeros.
func spelled(n *big.Int, places int) string {
	digits := n.String()
	if short := places + 1 - len(digits); short > 0 {
		digits = strings.Repeat("0", short) + digits
	}
	whole, fraction := digits[:len(digits)-places], strings.TrimRight(digits[len(digits)-places:], "0")
	if fraction == "" {
		return whole
	}
	return whole + "." + fraction
}

// levelName and subscriptionNumber name a level; names repeat between subscriptions as the vendor's do.
func levelName(level int) string {
	return [perSubscription]string{"Extreme", "Premium", "Standard", "Advanced Data-Protect"}[level%perSubscription]
}

func subscriptionNumber(c cast, level int) string {
	return c.ID + "-" + strconv.Itoa(1930061200+level/perSubscription)
}
