package billing

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
)

func day(text string) etl.Day {
	d, err := etl.ParseDay(text)
	if err != nil {
		panic(err)
	}
	return d
}

// spans is periods as text, one a line.
func spans(periods []CalendarPeriod) string {
	var lines []string
	for _, p := range periods {
		lines = append(lines, fmt.Sprintf("%s %s %s", p.Start, p.End, p.Schedule))
	}
	return strings.Join(lines, "\n")
}

func TestGenerate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, clock string
		terms       Terms
		want        string
	}{
		{"quarters from 15 August", "committed", Terms{Schedule: "quarterly", Start: day("2023-08-15"), Until: day("2024-02-15")},
			"2023-08-15 2023-11-14 quarterly\n2023-11-15 2024-02-14 quarterly"},
		{"the vendor's switch to months", "burst", Terms{Schedule: "quarterly", Start: day("2023-10-15"), Until: day("2024-04-01"),
			Switches: []Switch{{day("2024-02-01"), "monthly"}}},
			"2023-10-15 2024-01-14 quarterly\n2024-01-15 2024-01-31 quarterly\n2024-02-01 2024-02-29 monthly\n2024-03-01 2024-03-31 monthly"},
		{"months from the 31st of a leap year", "committed", Terms{Schedule: "monthly", Start: day("2024-01-31"), Until: day("2024-06-01")},
			"2024-01-31 2024-02-28 monthly\n2024-02-29 2024-03-30 monthly\n2024-03-31 2024-04-29 monthly\n2024-04-30 2024-05-30 monthly\n2024-05-31 2024-06-29 monthly"},
		{"months from the 31st of another year", "burst", Terms{Schedule: "monthly", Start: day("2025-01-31"), Until: day("2025-03-31")},
			"2025-01-31 2025-02-27 monthly\n2025-02-28 2025-03-30 monthly"},
		{"half years", "committed", Terms{Schedule: "semi_annual", Start: day("2026-03-31"), Until: day("2027-03-31")},
			"2026-03-31 2026-09-29 semi_annual\n2026-09-30 2027-03-30 semi_annual"},
		{"burst of half years is by quarters", "burst", Terms{Schedule: "semi_annual", Start: day("2026-01-01"), Until: day("2026-07-01")},
			"2026-01-01 2026-03-31 semi_annual\n2026-04-01 2026-06-30 semi_annual"},
		{"years from a leap day", "committed", Terms{Schedule: "annual", Start: day("2024-02-29"), Until: day("2026-01-01")},
			"2024-02-29 2025-02-27 annual\n2025-02-28 2026-02-27 annual"},
		{"burst of a year is by quarters", "burst", Terms{Schedule: "annual", Start: day("2026-01-01"), Until: day("2026-12-31")},
			"2026-01-01 2026-03-31 annual\n2026-04-01 2026-06-30 annual\n2026-07-01 2026-09-30 annual\n2026-10-01 2026-12-31 annual"},
		{"until the day after the first", "committed", Terms{Schedule: "monthly", Start: day("2026-01-01"), Until: day("2026-01-02")}, "2026-01-01 2026-01-31 monthly"},
	} {
		periods, err := c.terms.Generate(CalendarKey{"C-1", "A-1", c.clock})
		if err != nil || spans(periods) != c.want {
			t.Errorf("%s:\n got %s, %v\nwant %s", c.name, spans(periods), err, c.want)
		}
		if len(periods) > 0 && periods[0].CalendarKey != (CalendarKey{"C-1", "A-1", c.clock}) {
			t.Errorf("%s: of %v", c.name, periods[0].CalendarKey)
		}
	}
	for _, c := range []struct {
		terms Terms
		want  string
	}{
		{Terms{Schedule: "monthly", Start: day("2026-02-01"), Until: day("2026-02-01")}, "want a day after the start 2026-02-01"},
		{Terms{Schedule: "weekly", Start: day("2026-01-01"), Until: day("2026-02-01")}, `schedule "weekly": want one of`},
		{Terms{Schedule: "monthly", Start: day("2026-01-01"), Until: day("2026-03-01"), Switches: []Switch{{day("2026-01-01"), "annual"}}},
			"switch on 2026-01-01: want a day after 2026-01-01 and before 2026-03-01"},
		{Terms{Schedule: "monthly", Start: day("2026-01-01"), Until: day("2026-03-01"), Switches: []Switch{{day("2026-03-01"), "annual"}}}, "switch on 2026-03-01"},
	} {
		if periods, err := c.terms.Generate(CalendarKey{Clock: "burst"}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, %v, want %q", c.terms, periods, err, c.want)
		}
	}
}

// TestGenerateTilesTime: whatever the terms, periods follow each other, the first starts at the start
// and the last reaches until, each starts on the anchor's day of the month or the month's last, and
// those that no switch cuts are as many months long as the contract says.
func TestGenerateTilesTime(t *testing.T) {
	t.Parallel()
	length := map[string]int{
		"committed monthly": 1, "committed quarterly": 3, "committed semi_annual": 6, "committed annual": 12,
		"burst monthly": 1, "burst quarterly": 3, "burst semi_annual": 3, "burst annual": 3,
	}
	rapid.Check(t, func(t *rapid.T) {
		start := day("2000-01-01") + etl.Day(rapid.IntRange(0, 20000).Draw(t, "start"))
		terms := Terms{Schedule: rapid.SampledFrom(Schedules).Draw(t, "schedule"), Start: start}
		at := start
		for range rapid.IntRange(0, 3).Draw(t, "switches") {
			at += etl.Day(rapid.IntRange(1, 1000).Draw(t, "days"))
			terms.Switches = append(terms.Switches, Switch{at, rapid.SampledFrom(Schedules).Draw(t, "next")})
		}
		terms.Until = at + etl.Day(rapid.IntRange(1, 2000).Draw(t, "until"))
		clock := rapid.SampledFrom(Clocks).Draw(t, "clock")
		periods, err := terms.Generate(CalendarKey{Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		if periods[0].Start != start {
			t.Fatalf("starts on %s, want %s", periods[0].Start, start)
		}
		last := periods[len(periods)-1]
		if last.Start >= terms.Until || last.End < terms.Until-1 {
			t.Fatalf("the last is %s to %s, want it to reach %s", last.Start, last.End, terms.Until)
		}
		anchor, schedule, switches := start, terms.Schedule, terms.Switches
		for i, p := range periods {
			if i > 0 && p.Start != periods[i-1].End+1 {
				t.Fatalf("%s does not follow on %s", p.Start, periods[i-1].End)
			}
			if len(switches) > 0 && p.Start >= switches[0].Day {
				anchor, schedule, switches = switches[0].Day, switches[0].Schedule, switches[1:]
				if p.Start != anchor {
					t.Fatalf("a switch on %s starts on %s", anchor, p.Start)
				}
			}
			if p.Schedule != schedule {
				t.Fatalf("%s is %s, want %s", p.Start, p.Schedule, schedule)
			}
			onAnchor := func(d etl.Day) bool {
				is, first := d.Time(), anchor.Time()
				return is.Day() == first.Day() || is.Day() < first.Day() && is.AddDate(0, 0, 1).Day() == 1
			}
			if !onAnchor(p.Start) {
				t.Fatalf("%s is not anchored to %s", p.Start, anchor)
			}
			if len(switches) > 0 && p.End == switches[0].Day-1 {
				continue // it may be cut
			}
			months := func(d etl.Day) int { return d.Time().Year()*12 + int(d.Time().Month()) - int(time.January) }
			if got, want := months(p.End+1)-months(p.Start), length[clock+" "+schedule]; got != want || !onAnchor(p.End+1) {
				t.Fatalf("%s to %s of %s %s is %d months, want %d", p.Start, p.End, clock, schedule, got, want)
			}
		}
	})
}
