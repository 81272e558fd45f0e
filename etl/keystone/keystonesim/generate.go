package keystonesim

import (
	"iter"
	"math/big"
	"strconv"
	"time"
)

const (
	micro       = 1_000_000         // amounts are counted in millionths of a TiB
	tailUnit    = 1_000_000_000_000 // and two further groups of twelve decimals
	wavePeriod  = 28 * 24 * 60      // minutes
	invoiceLag  = 5 * daily         // from the end of a month to is_invoiced
	restateLag  = 3 * daily         // from the end of a day to its other figures
	restateOdds = 20                // one day of a series in so many
)

// An amount is a decimal of up to 30 places: micro/1e6 + hi/1e18 + lo/1e30.
// A negative amount has no tail.
type amount struct {
	micro  int64
	hi, lo uint64
}

// Append writes a in canonical notation: no exponent, no trailing zeros.
func (a amount) Append(b []byte) []byte {
	if a.hi|a.lo == 0 {
		return appendDecimal(b, a.micro, micro)
	}
	b = strconv.AppendInt(b, a.micro/micro, 10)
	b = append(b, '.')
	b = appendPadded(b, uint64(a.micro%micro), micro)
	b = appendPadded(b, a.hi, tailUnit)
	b = appendPadded(b, a.lo, tailUnit)
	return trimZeros(b)
}

// Units is a in units of 1e-30 TiB.
func (a amount) Units() *big.Int {
	n := big.NewInt(a.micro)
	unit := big.NewInt(tailUnit)
	n.Mul(n, unit).Add(n, new(big.Int).SetUint64(a.hi))
	return n.Mul(n, unit).Add(n, new(big.Int).SetUint64(a.lo))
}

// appendDecimal writes v/unit, where unit is a power of ten.
func appendDecimal(b []byte, v, unit int64) []byte {
	if v < 0 {
		b, v = append(b, '-'), -v
	}
	b = strconv.AppendInt(b, v/unit, 10)
	if v%unit == 0 {
		return b
	}
	b = append(b, '.')
	return trimZeros(appendPadded(b, uint64(v%unit), uint64(unit)))
}

func appendPadded(b []byte, v, unit uint64) []byte {
	for unit /= 10; unit > 0; unit /= 10 {
		b = append(b, byte('0'+v/unit%10))
	}
	return b
}

func trimZeros(b []byte) []byte {
	for b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return b
}

// A series is one instance of one level: what a row of numbers belongs to.
type series struct {
	level
	customer, number string
	ordinal          int // among the instances of the same name
	key              uint64
}

// A sample is one row of historical_consumption.
type sample struct {
	unix      int64
	committed amount
	consumed  amount
	burst     amount
	accrued   int64 // in units of 1e-9 TiB
	invoiced  bool
}

// dayTerms are what holds for a series on one UTC day, as told at now.
type dayTerms struct {
	end                int64 // unix second at which the next day begins
	month              time.Month
	daysInMonth        int64
	morning, afternoon int64 // committed, micro TiB
	noon               int64 // unix second
	missing, invoiced  bool
	correction         int64 // added to consumed, micro TiB
	isOdd              bool
}

func (s *Sim) terms(se *series, unix int64, now time.Time) dayTerms {
	day := time.Unix(unix, 0).UTC().Truncate(daily)
	first := time.Date(day.Year(), day.Month(), 1, 0, 0, 0, 0, time.UTC)
	next := first.AddDate(0, 1, 0)
	d := dayTerms{
		end:         day.Add(daily).Unix(),
		month:       day.Month(),
		daysInMonth: int64(next.Sub(first) / daily),
		noon:        day.Add(daily / 2).Unix(),
		invoiced:    !now.Before(next.Add(invoiceLag)),
		missing:     se.gaps && day.Month()%2 == 0 && (day.Day() == 11 || day.Day() == 12),
		isOdd:       s.cfg.Oddities && se.odd && day.Equal(s.start.AddDate(0, 0, 2)),
	}
	d.morning = se.committedAt(day)
	d.afternoon = se.committedAt(day.Add(daily / 2))
	if h := mix(se.key, uint64(day.Unix())^0x5e57a7e); s.cfg.Restate && h%restateOdds == 0 && !now.Before(day.Add(daily+restateLag)) {
		d.correction = micro/4 + int64(mix(h, 1)%(micro/2))
	}
	return d
}

// committedAt is the commitment in force at t, in micro TiB.
func (l *level) committedAt(t time.Time) int64 {
	tib := l.committed
	if l.raised != 0 {
		// Whole quarters counted from noon of 17 February: even ones are raised.
		shifted := t.UTC().AddDate(0, 0, -16).Add(-daily / 2)
		if (int(shifted.Month())+10)/3%2 == 0 {
			tib = l.raised
		}
	}
	return toMicro(tib)
}

func toMicro(tib float64) int64 { return int64(tib*micro + 0.5) }

// consumedAt is what the series uses at an instant, before any restatement.
func (se *series) consumedAt(unix int64) amount {
	h := mix(se.key, uint64(unix))
	swing := toMicro(se.swing)
	phase := (unix/60 + int64(se.key%wavePeriod)) % wavePeriod
	slope := 4*abs(phase-wavePeriod/2) - wavePeriod // -wavePeriod … +wavePeriod
	a := amount{micro: toMicro(se.usual) + swing*slope/wavePeriod + int64(h%uint64(swing/4)) - swing/8}
	switch se.decimals {
	case 2:
		a.micro -= a.micro % (micro / 100)
	case 30:
		// An odd last group never ends in 0: all thirty digits are there.
		a.hi, a.lo = mix(h, 1)%tailUnit, (mix(h, 2)|1)%tailUnit
	}
	return a
}

// samples yields the series from the instant from to the instant to, both
// included, as the vendor tells it at now; nothing before the simulation's
// start and nothing later than now.
func (s *Sim) samples(se *series, from, to, now time.Time) iter.Seq[sample] {
	step := int64(se.step / time.Second)
	begin := max(ceilUnix(from), s.start.Unix())
	until := min(to.Unix(), now.Unix())
	cursor := begin
	if s.cfg.Running { // the sums of the month need its beginning
		f := time.Unix(begin, 0).UTC()
		cursor = max(time.Date(f.Year(), f.Month(), 1, 0, 0, 0, 0, time.UTC).Unix(), s.start.Unix())
	}
	cursor += (step - cursor%step) % step

	return func(yield func(sample) bool) {
		var d dayTerms
		var running int64
		for t := cursor; t <= until; t += step {
			if t >= d.end {
				month := d.month
				d = s.terms(se, t, now)
				if d.month != month {
					running = 0
				}
			}
			if d.missing {
				continue
			}
			p := se.sampleAt(t, d, step)
			running += p.accrued
			if t < begin {
				continue
			}
			if s.cfg.Running {
				p.accrued = running
			}
			if !yield(p) {
				return
			}
		}
	}
}

func (se *series) sampleAt(t int64, d dayTerms, step int64) sample {
	p := sample{unix: t, committed: amount{micro: d.morning}, consumed: se.consumedAt(t), invoiced: d.invoiced}
	if t >= d.noon {
		p.committed.micro = d.afternoon
	}
	p.consumed.micro += d.correction
	if se.decimals == 2 {
		p.consumed.micro -= p.consumed.micro % (micro / 100)
	}
	if d.isOdd && t == d.end-int64(daily/time.Second) {
		p.consumed = amount{micro: -420_000}
	}
	if p.consumed.micro >= p.committed.micro {
		p.burst = p.consumed
		p.burst.micro -= p.committed.micro
	}
	p.accrued = accrual(p.burst, step/60, d.daysInMonth)
	return p
}

// accrual is the documented burst ÷ (days × 24 × 60) × minutes, rounded half
// up to nine decimals: 20 TiB over 2 minutes of a 30-day month is 0.000925926.
func accrual(burst amount, minutes, daysInMonth int64) int64 {
	month := daysInMonth * 24 * 60
	if burst.hi|burst.lo == 0 {
		return (burst.micro*1000*minutes + month/2) / month
	}
	n := burst.Units()
	n.Mul(n, big.NewInt(2*minutes))
	d := big.NewInt(month)
	d.Mul(d, big.NewInt(1_000_000_000)).Mul(d, big.NewInt(tailUnit)) // 1e-30 to 1e-9
	n.Add(n, d)
	return n.Quo(n, d.Lsh(d, 1)).Int64()
}

// mix stirs v into h: the finalizer of splitmix64.
func mix(h, v uint64) uint64 {
	h += v*0x9e3779b97f4a7c15 + 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

func mixText(h uint64, text string) uint64 {
	for i := range len(text) {
		h = mix(h, uint64(text[i]))
	}
	return mix(h, uint64(len(text)))
}

func abs(v int64) int64 { return max(v, -v) }

// ceilUnix is the first whole second not before t.
func ceilUnix(t time.Time) int64 {
	if t.Nanosecond() > 0 {
		return t.Unix() + 1
	}
	return t.Unix()
}
