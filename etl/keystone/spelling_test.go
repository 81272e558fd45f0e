package keystone

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
)

// drawNumber is a measure in thousandths, and spellNumber one of its many spellings.
func drawNumber(t *rapid.T, label string) int64 { return rapid.Int64Range(0, 200_000).Draw(t, label) }

func spellNumber(t *rapid.T, thousandths int64) string {
	plain := strings.TrimSuffix(strings.TrimRight(big.NewRat(thousandths, 1000).FloatString(3), "0"), ".")
	switch rapid.IntRange(0, 4).Draw(t, "spelling") {
	case 0:
		return big.NewRat(thousandths, 1000).FloatString(3 + rapid.IntRange(0, 6).Draw(t, "zeros"))
	case 1:
		return fmt.Sprintf("%d%s", thousandths, rapid.SampledFrom([]string{"e-3", "E-3", "e-03"}).Draw(t, "exponent"))
	case 2:
		return `"` + plain + `"`
	case 3:
		return `"` + rapid.SampledFrom([]string{" ", "  ", `\t`}).Draw(t, "before") + plain + rapid.SampledFrom([]string{"", " "}).Draw(t, "behind") + `"`
	}
	return plain
}

func spellTime(t *rapid.T, at time.Time) string {
	fraction := rapid.SampledFrom([]string{"", ".0", ".000", ".000000", ".000000000000"}).Draw(t, "fraction")
	between := rapid.SampledFrom([]string{"T", " "}).Draw(t, "between")
	switch rapid.IntRange(0, 3).Draw(t, "zone") {
	case 0:
		return at.Format("2006-01-02"+between+"15:04:05") + fraction // UTC is assumed
	case 1:
		return at.Format("2006-01-02"+between+"15:04:05") + fraction + rapid.SampledFrom([]string{"+00:00", "-00:00"}).Draw(t, "utc")
	case 2:
		minutes := rapid.IntRange(-14*60, 14*60).Draw(t, "offset")
		sign, m := "+", minutes
		if m < 0 {
			sign, m = "-", -m
		}
		return at.Add(time.Duration(minutes)*time.Minute).Format("2006-01-02"+between+"15:04:05") + fraction + fmt.Sprintf("%s%02d:%02d", sign, m/60, m%60)
	}
	return at.Format("2006-01-02"+between+"15:04:05") + fraction + "Z"
}

type spoken struct {
	at       time.Time
	measures [4]int64 // committed, consumed, burst, accrued; of the last two -1 is null
	invoiced bool
}

func (s *spoken) spell(t *rapid.T) string {
	null := func(n int64) string {
		if n < 0 {
			return rapid.SampledFrom([]string{"null", `""`, `" "`}).Draw(t, "null")
		}
		return spellNumber(t, n)
	}
	members := []string{
		`"timestamp_utc":"` + spellTime(t, s.at) + `"`, `"committed_tib":` + spellNumber(t, s.measures[0]), `"consumed_tib":` + spellNumber(t, s.measures[1]),
		`"burst_tib":` + null(s.measures[2]), `"accrued_burst_tib":` + null(s.measures[3]), fmt.Sprintf(`"is_invoiced":%v`, s.invoiced),
	}
	return "{" + strings.Join(rapid.Permutation(members).Draw(t, "members"), ",") + "}"
}

// What a sample is follows from what the vendor means, not from how it is written: digests are made of
// samples, so they know neither the spelling of numbers and times, nor the order of rows and members, nor exact
// repeats, nor into how many windows a span was cut.
func TestSpellingDoesNotShow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		first := etl.DayOf(time.Date(2026, 5, 10, 0, 0, 0, 0, time.UTC))
		span := etl.Window{From: first, Until: first + 3}
		var said []spoken
		taken := map[time.Time]bool{}
		for range rapid.IntRange(1, 8).Draw(t, "samples") {
			s := spoken{at: span.From.Time().Add(time.Duration(rapid.IntRange(0, 3*24*12-1).Draw(t, "slot")) * 5 * time.Minute), invoiced: rapid.Bool().Draw(t, "invoiced")}
			if taken[s.at] {
				continue
			}
			taken[s.at] = true
			for i := range s.measures {
				s.measures[i] = drawNumber(t, "measure")
				if i >= 2 && rapid.IntRange(0, 3).Draw(t, "unknown") == 0 {
					s.measures[i] = -1
				}
			}
			said = append(said, s)
		}
		read := func(w etl.Window) (samples []etl.Sample) {
			var rows []string
			for i := range said {
				day := etl.DayOf(said[i].at)
				if isNeighbour := day == w.From-1 || day == w.Until; !w.Contains(day) && (!isNeighbour || rapid.Bool().Draw(t, "left out")) {
					continue // the vendor may deliver a neighbouring day or not
				}
				for range rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(t, "times") {
					rows = append(rows, said[i].spell(t))
				}
			}
			if len(rows) > 0 {
				rows = rapid.Permutation(rows).Draw(t, "rows")
			}
			body := patch(baseHistory, "/results/records/0/service_levels/0", levelOf(`"Extreme"`, rows...))
			ans := answerOf(History, body)
			ans.Request.Window = w
			ans.FetchedAt = w.Until.Time().Add(24 * time.Hour)
			var r recorder
			report, err := transform(ans, &r)
			if err != nil {
				t.Fatalf("%s\n%v", body, err)
			}
			if len(r.Rejects) > 0 {
				t.Fatalf("%s\nrefused %+v, %+v", body, r.Rejects, report)
			}
			for _, h := range r.Histories {
				for _, l := range h.Levels {
					samples = append(samples, l.Samples...)
				}
			}
			return samples
		}
		spell := func(samples []etl.Sample) string { return fmt.Sprintf("%+v", samples) }
		slices.SortFunc(said, func(a, b spoken) int { return a.at.Compare(b.at) })
		var want []etl.Sample
		for _, s := range said {
			null := func(n int64) etl.NullDecimal {
				if n < 0 {
					return etl.NullDecimal{}
				}
				return etl.NullDecimal{Decimal: etl.MustDecimal(fmt.Sprintf("%de-3", n)), Known: true}
			}
			invoiced := etl.False
			if s.invoiced {
				invoiced = etl.True
			}
			want = append(want, etl.Sample{At: s.at.UnixMicro(), CommittedTiB: null(s.measures[0]).Decimal, ConsumedTiB: null(s.measures[1]).Decimal,
				BurstTiB: null(s.measures[2]), AccruedTiB: null(s.measures[3]), Invoiced: invoiced})
		}
		if got := read(span); spell(got) != spell(want) {
			t.Fatalf("read %s\nwant %s", spell(got), spell(want))
		}
		cut := span.From + etl.Day(rapid.IntRange(1, 2).Draw(t, "cut"))
		split := append(read(etl.Window{From: span.From, Until: cut}), read(etl.Window{From: cut, Until: span.Until})...)
		if spell(split) != spell(want) {
			t.Fatalf("in two windows %s\nwant %s", spell(split), spell(want))
		}
	})
}
