package main

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
	"meterhouse/etl/schedule"
)

// Every settled day is either left alone because it has an answer and is old, or in exactly one
// window; windows are small and newest first.
func TestHistoryWindows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		start := etl.Day(rapid.IntRange(20000, 20400).Draw(t, "start"))
		now := start.Time().Add(time.Duration(rapid.IntRange(-5*24*60, 400*24*60).Draw(t, "minutes")) * time.Minute)
		h := historyConfig{
			Start:  date{start, true},
			Reread: span(time.Duration(rapid.IntRange(0, 150).Draw(t, "reread")) * day),
			Settle: span(time.Duration(rapid.IntRange(0, 72).Draw(t, "settle")) * time.Hour),
		}
		covered := map[etl.Day]bool{}
		for range rapid.IntRange(0, 6).Draw(t, "runs") {
			from := start + etl.Day(rapid.IntRange(-10, 400).Draw(t, "from"))
			for d := from; d < from+etl.Day(rapid.IntRange(1, 90).Draw(t, "days")); d++ {
				covered[d] = true
			}
		}
		windows := historyWindows(now, h, covered)

		until := etl.DayOf(now.Add(-time.Duration(h.Settle)))
		asked := map[etl.Day]int{}
		for i, w := range windows {
			if w.Days() < 1 || w.Days() > maxWindowDays {
				t.Fatalf("window %s of %d days", w, w.Days())
			}
			if i > 0 && w.Until > windows[i-1].From {
				t.Fatalf("%s after %s: want newest first, no overlap", w, windows[i-1])
			}
			for d := w.From; d < w.Until; d++ {
				asked[d]++
			}
		}
		for d := start - 20; d < start+420; d++ {
			wanted := d >= start && d < until && (!covered[d] || d >= until-etl.Day(time.Duration(h.Reread)/day))
			if wanted != (asked[d] == 1) || asked[d] > 1 {
				t.Fatalf("day %s is asked %d times, wanted %v (until %s)", d, asked[d], wanted, until)
			}
		}
		// An end that is sent as the midnight after it still fits the vendor's 31 days.
		if again := historyWindows(now, h, covered); len(again) != len(windows) {
			t.Fatal("planning twice differs")
		}
	})
}

// From one night to the next the windows of what is re-read stay as they are, but for the newest, which
// grows, and the oldest, which shrinks: what a vendor says again word for word is recognised by the
// question that it answers.
func TestHistoryWindowsStay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		start := etl.Day(rapid.IntRange(20000, 20400).Draw(t, "start"))
		h := historyConfig{
			Start:  date{start, true},
			Reread: span(time.Duration(rapid.IntRange(1, 400).Draw(t, "reread")) * day),
			Settle: span(2 * time.Hour),
		}
		now := start.Time().Add(time.Duration(rapid.IntRange(31*24, 500*24).Draw(t, "hours")) * time.Hour)
		covered := map[etl.Day]bool{}
		for d := start; d < horizon(now, h.Settle); d++ {
			covered[d] = true
		}
		asked := map[etl.Window]bool{}
		for _, w := range historyWindows(now, h, covered) {
			asked[w] = true
		}
		fresh := 0
		next := historyWindows(now.Add(day), h, covered)
		for _, w := range next {
			if !asked[w] {
				fresh++
			}
		}
		if fresh > 2 {
			t.Fatalf("asked %v, a day later %v: %d windows are new, want the two at the ends at most", asked, next, fresh)
		}
	})
}

func TestBackfillWindows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		from := etl.Day(rapid.IntRange(20000, 20100).Draw(t, "from"))
		w := etl.Window{From: from, Until: from + etl.Day(rapid.IntRange(1, 800).Draw(t, "days"))}
		next := w.Until
		for _, part := range backfillWindows(w) {
			if part.Until != next || part.Days() > maxWindowDays {
				t.Fatalf("%s does not end at %s", part, next)
			}
			next = part.From
		}
		if next != w.From {
			t.Fatalf("tiles begin at %s, want %s", next, w.From)
		}
	})
}

func TestIsDue(t *testing.T) {
	t.Parallel()
	at := func(text string) time.Time {
		parsed, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	for _, c := range []struct {
		name, spec, last, now string
		want                  bool
	}{
		{"never", "37 2 * * *", "", "2026-05-01T00:00:00Z", true},
		{"slot has come", "37 2 * * *", "2026-05-01T02:37:10Z", "2026-05-02T02:37:00Z", true},
		{"slot is to come", "37 2 * * *", "2026-05-01T02:37:10Z", "2026-05-02T02:36:59Z", false},
		{"done before its slot", "37 2 * * *", "2026-05-01T02:36:59Z", "2026-05-01T02:37:00Z", true},
		{"exactly at the slot", "37 2 * * *", "2026-05-01T02:37:00Z", "2026-05-01T02:37:30Z", false},
		{"missed for weeks", "37 2 * * *", "2026-04-01T02:37:00Z", "2026-05-01T00:00:00Z", true},
		{"clock went back", "37 2 * * *", "2026-05-09T02:37:00Z", "2026-05-01T00:00:00Z", false},
		{"its own zone", "CRON_TZ=America/Bogota 0 0 1 * *", "2026-05-01T05:00:01Z", "2026-06-01T04:59:59Z", false},
		{"its own zone, come", "CRON_TZ=America/Bogota 0 0 1 * *", "2026-05-01T05:00:01Z", "2026-06-01T05:00:00Z", true},
		{"another zone's instants", "0 12 * * *", "2026-05-01T08:00:00-05:00", "2026-05-02T06:59:59-05:00", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var last time.Time
			if c.last != "" {
				last = at(c.last)
			}
			if _, got := dueSlot(schedule.Must(c.spec), last, c.last != "", at(c.now)); got != c.want {
				t.Errorf("due %v, want %v", got, c.want)
			}
		})
	}
}

// A run at every due moment satisfies the schedule: right after a success nothing is due.
func TestDueOnlyOnce(t *testing.T) {
	t.Parallel()
	specs := []string{"37 2 * * *", "*/30 * * * *", "@daily", "@every 7h", "CRON_TZ=America/New_York 30 2 * * *", "0 0 29 2 *"}
	rapid.Check(t, func(t *rapid.T) {
		spec := schedule.Must(rapid.SampledFrom(specs).Draw(t, "spec"))
		now := time.Unix(rapid.Int64Range(1_700_000_000, 1_900_000_000).Draw(t, "now"), 0)
		if isDue(spec, now, now) {
			t.Fatal("due at the moment of its success")
		}
		next := spec.Next(now)
		if isDue(spec, now, next.Add(-time.Second)) || !isDue(spec, now, next) {
			t.Fatalf("want due from %s on", next)
		}
	})
}

func isDue(s schedule.Spec, last, now time.Time) bool {
	_, due := dueSlot(s, last, true, now)
	return due
}
