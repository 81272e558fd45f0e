package keystonesim

import (
	"math/big"
	"testing"
)

// The vendor's example, and what its formula gives for other intervals.
func TestAccrualByTheFormula(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ minutes, days, want int64 }{
		{2, 30, 925926}, {5, 30, 2314815}, {2, 31, 896057}, {5, 31, 2240143}, {2, 28, 992063}, {5, 29, 2394636},
		{24 * 60, 30, 666666667},
	} {
		if got := accrual(amount{micro: 20 * micro}, c.minutes, c.days); got != c.want {
			t.Errorf("20 TiB over %d minutes of %d days: %d, want %d", c.minutes, c.days, got, c.want)
		}
		if got := accrual(amount{micro: 20 * micro, lo: 1}, c.minutes, c.days); got != c.want {
			t.Errorf("20 TiB and a tail over %d minutes of %d days: %d, want %d", c.minutes, c.days, got, c.want)
		}
	}
}

func TestAverageRoundsHalfAwayFromZero(t *testing.T) {
	t.Parallel()
	half := new(big.Int).Exp(big.NewInt(10), big.NewInt(30-12), nil) // 1e-12 TiB
	for _, c := range []struct {
		sum  int64
		n    int
		want string
	}{
		{1, 2, "0.000000000001"}, {-1, 2, "-0.000000000001"}, {1, 3, "0"}, {-1, 3, "0"}, {2, 3, "0.000000000001"},
		{3, 2, "0.000000000002"}, {5_000_000_000_000, 2, "2.5"}, {0, 7, "0"},
	} {
		if got := average(new(big.Int).Mul(half, big.NewInt(c.sum)), c.n); got != c.want {
			t.Errorf("%de-12/%d: %s, want %s", c.sum, c.n, got, c.want)
		}
	}
}

func TestCommitmentChangesAtNoon(t *testing.T) {
	t.Parallel()
	l := level{committed: 100, raised: 125}
	for date, want := range map[string]int64{
		"2026-02-17T11:59:59Z": 100, "2026-02-17T12:00:00Z": 125, "2026-05-17T11:59:59Z": 125, "2026-05-17T12:00:00Z": 100,
		"2026-08-17T11:59:59Z": 100, "2026-08-17T12:00:00Z": 125, "2026-11-17T11:59:59Z": 125, "2026-11-17T12:00:00Z": 100,
		"2024-02-29T00:00:00Z": 125, "2026-12-31T23:59:59Z": 100, "2026-01-01T00:00:00Z": 100, "2026-03-01T00:00:00Z": 125,
	} {
		at, _, ok := bounds(map[string][]string{"from_date_utc": {date}, "to_date_utc": {date}})
		if got := l.committedAt(at); !ok || got != want*micro {
			t.Errorf("%s: %d, want %d TiB", date, got, want)
		}
	}
}
