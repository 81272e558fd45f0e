package warehouse

import (
	"encoding/hex"
	"testing"

	"meterhouse/etl"
)

// Digests are stored: the same samples must give the same bytes for ever, or every day that was ever
// loaded would look changed. These were taken when the format was new.
func TestDigestsStayAsStored(t *testing.T) {
	known := func(text string) etl.NullDecimal { return etl.NullDecimal{Decimal: etl.MustDecimal(text), Known: true} }
	one := etl.Sample{
		At: 1_778_716_800_000_000, CommittedTiB: etl.MustDecimal("100"), ConsumedTiB: etl.MustDecimal("112.50"),
		BurstTiB: known("12.5"), AccruedTiB: known("1e-9"),
	}
	odd := etl.Sample{
		At: -1, CommittedTiB: etl.MustDecimal("-0.0"), ConsumedTiB: etl.MustDecimal("-0.42"), AccruedTiB: known("999999999.123456789012345678901234567890"),
		Invoiced: etl.True,
	}
	long := make([]etl.Sample, 2000)
	for i := range long {
		long[i] = one
		long[i].At += int64(i) * 120_000_000
		long[i].ConsumedTiB = etl.NewDecimal(int64(i)*97).Quo(1000, 3)
	}
	for name, c := range map[string]struct {
		samples []etl.Sample
		want    string
	}{
		"one":  {[]etl.Sample{one}, "d73f6ec35a2d0b088cba74f84efa33a073e6354fe6af3fa149e74f5a69962622"},
		"two":  {[]etl.Sample{odd, one}, "760ef71aa9eef9c127ee8f6f17e75e288caf4c0e8143d5a4a8b672f12dd31a2e"},
		"long": {long, "46462dabaf4aee24d13b691fa4e17739ece14a0bedace9564d77c4c8709bdfdd"},
	} {
		if got := hex.EncodeToString(digest(c.samples)); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}
