package etl_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
)

func TestTileCoversEachWantedDayOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wanted := map[etl.Day]bool{}
		for _, d := range rapid.SliceOfN(rapid.IntRange(20000, 20120), 0, 120).Draw(t, "days") {
			wanted[etl.Day(d)] = true
		}
		size := rapid.IntRange(1, 31).Draw(t, "size")
		seen := map[etl.Day]bool{}
		last := etl.Day(1 << 30)
		for _, w := range etl.Tile(wanted, size) {
			if w.Days() < 1 || w.Days() > size {
				t.Fatalf("%s has %d days, want 1 to %d", w, w.Days(), size)
			}
			if w.Until > last {
				t.Fatalf("%s is not older than the one before", w)
			}
			for _, cut := range []etl.Day{w.From, w.Until} {
				if wanted[cut-1] && wanted[cut] && int(cut)%size != 0 {
					t.Fatalf("%s is cut at %s, which is not on the grid of %d days", w, cut, size)
				}
			}
			last = w.From
			for d := w.From; d < w.Until; d++ {
				if !wanted[d] || seen[d] {
					t.Fatalf("%s: day %s is not wanted or in two windows", w, d)
				}
				seen[d] = true
			}
		}
		if len(seen) != len(wanted) {
			t.Fatalf("%d of %d days are in a window", len(seen), len(wanted))
		}
	})
}

func TestHalvesTile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := etl.Day(rapid.IntRange(0, 30000).Draw(t, "from"))
		w := etl.Window{From: from, Until: from + etl.Day(rapid.IntRange(1, 31).Draw(t, "days"))}
		a, b, ok := w.Halves()
		if ok != (w.Days() > 1) {
			t.Fatalf("%s: ok is %v", w, ok)
		}
		if ok && (a.From != w.From || a.Until != b.From || b.Until != w.Until || a.Days() < 1 || b.Days() < 1) {
			t.Fatalf("%s: %s and %s do not tile it", w, a, b)
		}
	})
}

func TestDayOfKeepsTheTimesOwnCalendar(t *testing.T) {
	bogota := time.FixedZone("-05", -5*60*60)
	late := time.Date(2026, 4, 30, 22, 0, 0, 0, bogota) // already May in UTC
	if got := etl.DayOf(late).String(); got != "2026-04-30" {
		t.Errorf("local: got %s", got)
	}
	if got := etl.DayOf(late.UTC()).String(); got != "2026-05-01" {
		t.Errorf("UTC: got %s", got)
	}
	for _, s := range []string{"2026-2-1", "2026-02-30", "", "20260201"} {
		if d, err := etl.ParseDay(s); err == nil {
			t.Errorf("%q: got %s, want an error", s, d)
		}
	}
	before := etl.Sample{At: -1}
	if got := before.Day().String(); got != "1969-12-31" {
		t.Errorf("a microsecond before 1970: got %s", got)
	}
}

func ExampleTile() {
	wanted := map[etl.Day]bool{}
	from, _ := etl.ParseDay("2026-01-01")
	for d := from; d < from+45; d++ {
		wanted[d] = true
	}
	for _, w := range etl.Tile(wanted, 30) {
		fmt.Println(w)
	}
	// Output:
	// 2026-02-06..2026-02-15
	// 2026-01-07..2026-02-06
	// 2026-01-01..2026-01-07
}
