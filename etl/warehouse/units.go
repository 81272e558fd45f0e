package warehouse

import (
	"math/big"

	"meterhouse/etl"
)

// unitFactors are by what a figure is multiplied when it is told in another unit of capacity than before, and the same
// the other way, as powers of 1024 by powers of 1000.
var unitFactors = func() (all []*big.Rat) {
	power := func(base, n int64) *big.Int { return new(big.Int).Exp(big.NewInt(base), big.NewInt(n), nil) }
	for _, n := range [][2]int64{
		{4, 4}, {4, 3}, {4, 2}, {4, 1}, {4, 0}, // TiB as TB (1.099511627776), GB, MB, KB and bytes
		{1, 0}, {2, 0}, {3, 0}, // TiB as GiB, MiB and KiB
		{0, 1}, {0, 2}, {0, 3}, {1, 1}, // TB as GB, MB and KB; 1000 for 1024
	} {
		f := new(big.Rat).SetFrac(power(1024, n[0]), power(1000, n[1]))
		all = append(all, f, new(big.Rat).Inv(f))
	}
	return all
}()

// isUnitChange tells that the figures of a day are its former ones in another unit, within half a percent: all of
// them changed by one factor, what is committed too. Both lists are in order of time.
func isUnitChange(stored, in []etl.Sample) bool {
	if len(stored) != len(in) {
		return false
	}
	factors := unitFactors
	figures, consumed := 0, false
	for i := range in {
		was, is := &stored[i], &in[i]
		if was.At != is.At {
			return false
		}
		for j, m := range [...][2]etl.NullDecimal{
			{certain(was.CommittedTiB), certain(is.CommittedTiB)},
			{certain(was.ConsumedTiB), certain(is.ConsumedTiB)},
			{was.BurstTiB, is.BurstTiB},
			{was.AccruedTiB, is.AccruedTiB},
		} {
			switch {
			case m[0].Known != m[1].Known, m[0].Sign() != m[1].Sign():
				return false
			case m[0].Sign() == 0:
				continue // nothing in any unit
			case m[0].Equal(m[1].Decimal):
				return false
			}
			if factors = thoseOf(factors, m[0].Decimal, m[1].Decimal); len(factors) == 0 {
				return false
			}
			figures++
			consumed = consumed || j == 1
		}
	}
	return consumed && figures > 1
}

func certain(d etl.Decimal) etl.NullDecimal { return etl.NullDecimal{Decimal: d, Known: true} }

// thoseOf are the factors that make one figure of the other, within half a percent.
func thoseOf(factors []*big.Rat, was, is etl.Decimal) (fit []*big.Rat) {
	a, okA := new(big.Rat).SetString(was.String())
	b, okB := new(big.Rat).SetString(is.String())
	if !okA || !okB {
		return nil
	}
	quotient := b.Quo(b, a)
	tolerance := big.NewRat(5, 1000)
	for _, f := range factors {
		off := new(big.Rat).Quo(quotient, f)
		off.Sub(off, big.NewRat(1, 1))
		if off.Abs(off).Cmp(tolerance) <= 0 {
			fit = append(fit, f)
		}
	}
	return fit
}
