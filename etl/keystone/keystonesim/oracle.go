package keystonesim

import (
	"math/big"
	"strings"
	"time"
)

// DayTotal is the truth about one series and one UTC day with at least one
// sample. Decimals are exact and canonical: no exponent, no trailing zeros.
// Averages are the exact quotient rounded once, half away from zero, to 12
// decimals.
//
// Ordinal counts the instances of a level name as the scenario lists them.
// That is the order of the answers too, unless Config.Shuffle is set.
type DayTotal struct {
	CustomerID         string
	SubscriptionNumber string
	ServiceLevel       string
	Ordinal            int
	Day                time.Time
	Samples            int

	CommittedLast string
	ConsumedSum   string
	ConsumedMax   string
	ConsumedLast  string
	BurstSum      string
	AccruedSum    string // of the column as delivered, running or not
	AccruedLast   string

	ConsumedAvg      string
	BurstAvg         string
	OverCommittedAvg string // of max(0, consumed - committed)

	Invoiced *bool // nil if unknown, which this vendor never leaves it
}

// Oracle totals the UTC days of [from, until) as the vendor tells them at
// Now(), ordered by customer, subscription and level as in the scenario, then
// by day. A day without samples has no row; both bounds are cut to midnight.
func (s *Sim) Oracle(from, until time.Time) []DayTotal {
	now := s.cfg.Now().UTC()
	from, until = from.UTC().Truncate(daily), until.UTC().Truncate(daily)
	var totals []DayTotal
	for i := range s.series {
		se := &s.series[i]
		var day sums
		for p := range s.samples(se, from, until.Add(-time.Nanosecond), now) {
			if at := time.Unix(p.unix, 0).UTC().Truncate(daily); !at.Equal(day.day) {
				totals = day.appendTo(totals, se)
				day = newSums(at)
			}
			day.add(p)
		}
		totals = day.appendTo(totals, se)
	}
	return totals
}

// sums are exact integers in units of 1e-30 TiB.
type sums struct {
	day                                   time.Time
	n                                     int
	consumed, burst, over, accrued        *big.Int
	maximum, last, committed, accruedLast *big.Int
	invoiced                              bool
}

func newSums(day time.Time) sums {
	return sums{day: day, consumed: new(big.Int), burst: new(big.Int), over: new(big.Int), accrued: new(big.Int), invoiced: true}
}

var nanoUnits = new(big.Int).Exp(big.NewInt(10), big.NewInt(30-9), nil)

func (d *sums) add(p sample) {
	d.n++
	d.last, d.committed = p.consumed.Units(), p.committed.Units()
	if d.maximum == nil || d.last.Cmp(d.maximum) > 0 {
		d.maximum = d.last
	}
	d.consumed.Add(d.consumed, d.last)
	d.burst.Add(d.burst, p.burst.Units())
	if over := new(big.Int).Sub(d.last, d.committed); over.Sign() > 0 {
		d.over.Add(d.over, over)
	}
	d.accruedLast = new(big.Int).Mul(big.NewInt(p.accrued), nanoUnits)
	d.accrued.Add(d.accrued, d.accruedLast)
	d.invoiced = d.invoiced && p.invoiced
}

func (d *sums) appendTo(totals []DayTotal, se *series) []DayTotal {
	if d.n == 0 {
		return totals
	}
	invoiced := d.invoiced
	return append(totals, DayTotal{
		CustomerID: se.customer, SubscriptionNumber: se.number, ServiceLevel: se.name, Ordinal: se.ordinal,
		Day: d.day, Samples: d.n,
		CommittedLast: exact(d.committed),
		ConsumedSum:   exact(d.consumed), ConsumedMax: exact(d.maximum), ConsumedLast: exact(d.last),
		BurstSum:   exact(d.burst),
		AccruedSum: exact(d.accrued), AccruedLast: exact(d.accruedLast),
		ConsumedAvg: average(d.consumed, d.n), BurstAvg: average(d.burst, d.n), OverCommittedAvg: average(d.over, d.n),
		Invoiced: &invoiced,
	})
}

// exact writes units of 1e-30 as a canonical decimal.
func exact(units *big.Int) string { return canonical(units, 30) }

// average is sum/n, in units of 1e-30, rounded half away from zero to 1e-12.
func average(sum *big.Int, n int) string {
	divisor := new(big.Int).Exp(big.NewInt(10), big.NewInt(30-12), nil)
	divisor.Mul(divisor, big.NewInt(int64(n)))
	twice := new(big.Int).Abs(sum)
	twice.Lsh(twice, 1).Add(twice, divisor)
	twice.Quo(twice, divisor.Lsh(divisor, 1))
	if sum.Sign() < 0 {
		twice.Neg(twice)
	}
	return canonical(twice, 12)
}

func canonical(n *big.Int, places int) string {
	digits := new(big.Int).Abs(n).String()
	if short := places + 1 - len(digits); short > 0 {
		digits = strings.Repeat("0", short) + digits
	}
	whole, fraction := digits[:len(digits)-places], strings.TrimRight(digits[len(digits)-places:], "0")
	if fraction != "" {
		whole += "." + fraction
	}
	if n.Sign() < 0 {
		return "-" + whole
	}
	return whole
}
