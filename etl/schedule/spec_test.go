package schedule

import (
	"fmt"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"zone and nothing else", "CRON_TZ=UTC", "no fields"},
		{"zone and a blank", "CRON_TZ=UTC ", "no fields"},
		{"nothing", "", "no fields"},
		{"machine's zone", "CRON_TZ=Local 1 2 * * *", "no zone named"},
		{"no zone", "CRON_TZ= 1 2 * * *", "no zone named"},
		{"unknown zone", "CRON_TZ=Mars/Base 1 2 * * *", "Mars/Base"},
		{"never", "0 0 30 2 *", "never fires: want a date that exists"},
		{"seconds", "0 0 1 * * *", "want five fields"},
		{"words", "every day", "want five fields"},
	} {
		_, err := Parse(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Parse(%q): got %v, want %s", c.name, c.text, err, c.want)
		}
	}
	for _, text := range []string{"37 2 * * *", "CRON_TZ=America/Bogota 37 2 * * *", "TZ=Asia/Kolkata */5 * * * *", "@daily", "@every 90m", " 1 2 3 4 * "} {
		if s, err := Parse(text); err != nil || s.String() != text {
			t.Errorf("Parse(%q): %q, %v", text, s, err)
		}
	}
	if next := (Spec{}).Next(time.Now()); !next.IsZero() {
		t.Errorf("the zero Spec comes at %s", next)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"CRON_TZ=UTC", "TZ=", "@every 1s", "*/0 * * * *", "0 0 30 2 *", "1-60 * * * *", "CRON_TZ=America/New_York 30 2 * * *"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
		for range 10 {
			next := s.Next(at)
			if next.IsZero() {
				return
			}
			if !next.After(at) {
				t.Fatalf("%q: after %s comes %s", text, at, next)
			}
			at = next
		}
	})
}

func TestClockChanges(t *testing.T) {
	for _, c := range []struct{ name, spec, after, want string }{
		{"skipped", "CRON_TZ=America/New_York 30 2 * * *", "2027-03-14T00:00:00-05:00", "2027-03-14T03:30:00-04:00"},
		{"skipped, then as ever", "CRON_TZ=America/New_York 30 2 * * *", "2027-03-14T03:30:00-04:00", "2027-03-15T02:30:00-04:00"},
		{"asked in between", "CRON_TZ=America/New_York 30 2 * * *", "2027-03-14T03:10:00-04:00", "2027-03-14T03:30:00-04:00"},
		{"twice: the first", "CRON_TZ=America/New_York 30 1 * * *", "2026-11-01T00:00:00-04:00", "2026-11-01T01:30:00-04:00"},
		{"twice: not again", "CRON_TZ=America/New_York 30 1 * * *", "2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"},
		{"midnight that does not exist", "CRON_TZ=America/Santiago 0 0 * * *", "2026-09-05T12:00:00-04:00", "2026-09-06T01:00:00-03:00"},
		{"half an hour", "CRON_TZ=Australia/Lord_Howe 15 2 * * *", "2026-10-04T00:00:00+10:30", "2026-10-04T02:45:00+11:00"},
		{"hourly through the first hour", "CRON_TZ=America/New_York */30 * * * *", "2026-11-01T01:30:00-04:00", "2026-11-01T01:00:00-05:00"},
		{"hourly over the gap", "CRON_TZ=America/New_York */30 * * * *", "2027-03-14T01:30:00-05:00", "2027-03-14T03:00:00-04:00"},
		{"a day that does not exist", "CRON_TZ=Pacific/Apia 0 12 * * *", "2011-12-29T13:00:00-10:00", "2011-12-31T12:00:00+14:00"},
		{"each of two in the gap", "CRON_TZ=America/New_York 0,30 2 * * *", "2027-03-14T03:00:00-04:00", "2027-03-14T03:30:00-04:00"},
	} {
		got := Must(c.spec).Next(instant(t, c.after))
		if want := instant(t, c.want); !got.Equal(want) || got.Location() != time.UTC {
			t.Errorf("%s: after %s got %s, want %s", c.name, c.after, got, want.UTC())
		}
	}
}

func instant(t *testing.T, text string) time.Time {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestYear walks a year with both changes of the clock in three zones, in small steps as a scheduler does, and demands that every slot comes once: one per local day for daily ones, whatever the hour, and
// every half hour of elapsed time for the others.
func TestYear(t *testing.T) {
	if testing.Short() {
		t.Skip("a year takes a while")
	}
	for _, name := range []string{"America/New_York", "Europe/Berlin", "America/Santiago"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Date(2026, 1, 1, 0, 0, 0, 0, zone)
		end := time.Date(2027, 1, 1, 0, 0, 0, 0, zone)
		specs := map[string]Spec{}
		for half := range 9 { // clocks change in the first hours of a day, or at its end
			for _, text := range []string{
				fmt.Sprintf("CRON_TZ=%s %d %d * * *", name, half%2*30, half/2),
				fmt.Sprintf("CRON_TZ=%s %d %d * * *", name, half%2*30, 23-half/2),
			} {
				specs[text] = Must(text)
			}
		}
		halfHours := "CRON_TZ=" + name + " */30 * * * *"
		specs[halfHours] = Must(halfHours)
		for text, spec := range specs {
			perDay := map[string]int{}
			var slots []time.Time
			last := begin.Add(-time.Minute)
			for now := begin; now.Before(end); now = now.Add(10 * time.Minute) {
				for slot, ok := Newest(spec, last, now); ok; slot, ok = Newest(spec, last, now) {
					slots, last = append(slots, slot), slot
					perDay[slot.In(zone).Format(time.DateOnly)]++
				}
			}
			if text == halfHours {
				if want := int(end.Sub(begin) / (30 * time.Minute)); len(slots) != want {
					t.Errorf("%s: %d slots in a year, want %d", text, len(slots), want)
				}
				continue
			}
			if len(slots) != 365 {
				t.Errorf("%s: %d slots in a year, want 365", text, len(slots))
			}
			for day, n := range perDay {
				if n != 1 {
					t.Errorf("%s: %d slots on %s", text, n, day)
				}
			}
		}
	}
}

// Next is a function of the schedule alone: wherever one asks from, the slots are the same.
func TestNextDoesNotDependOnWhoAsks(t *testing.T) {
	zones := []string{"UTC", "America/New_York", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata", "America/Bogota", "Africa/Casablanca"}
	rapid.Check(t, func(r *rapid.T) {
		zone := rapid.SampledFrom(zones).Draw(r, "zone")
		fields := rapid.SampledFrom([]string{"30 2 * * *", "*/20 1-3 * * *", "0 0 * * *", "*/30 * * * *", "59 23 * * 0", "@every 7m", "15 2 1,15 * *", "0,30 0-5 * * *"}).Draw(r, "fields")
		text := "CRON_TZ=" + zone + " " + fields
		spec := Must(text)
		from := time.Unix(rapid.Int64Range(1262304000, 1893456000).Draw(r, "from"), 0) // 2010 to 2030
		first := spec.Next(from)
		second := spec.Next(first)
		between := from.Add(time.Duration(rapid.Int64Range(0, int64(second.Sub(from))-1).Draw(r, "between")))
		want := first
		if !between.Before(first) {
			want = second
		}
		if got := spec.Next(between); !got.Equal(want) {
			r.Fatalf("%s: slots %s, %s; asked at %s got %s, want %s", text, first, second, between.UTC(), got, want)
		}
	})
}

func TestOddities(t *testing.T) {
	from := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string][]string{
		"CRON_TZ=America/New_York 30 2 * * *":  {"2027-03-14 02:30 does not exist in America/New_York: it comes at 03:30 there"},
		"CRON_TZ=America/New_York 30 1 * * *":  {"2026-11-01 01:30 comes twice in America/New_York: only the first counts"},
		"CRON_TZ=America/New_York 30 12 * * *": nil,
		"CRON_TZ=America/New_York 30 * * * *":  nil,
		"30 2 * * *":                           nil,
	} {
		if got := Must(text).Oddities(from); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestNewest(t *testing.T) {
	now := time.Date(2026, 6, 10, 12, 10, 0, 0, time.UTC)
	for _, c := range []struct {
		name, spec string
		since      time.Time
		want       time.Time
	}{
		{"of many", "*/30 * * * *", now.AddDate(0, 0, -21), now.Add(-10 * time.Minute)},
		{"none yet", "*/30 * * * *", now.Add(-10 * time.Minute), time.Time{}},
		{"long ago and rare", "0 0 1 1 *", now.AddDate(-3, 0, 0), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)},
		{"never succeeded", "37 2 * * *", time.Time{}, time.Date(2026, 6, 10, 2, 37, 0, 0, time.UTC)},
	} {
		got, ok := Newest(Must(c.spec), c.since, now)
		if ok == c.want.IsZero() || !got.Equal(c.want) {
			t.Errorf("%s: got %s %t, want %s", c.name, got, ok, c.want)
		}
	}
}

func BenchmarkNextInZone(b *testing.B) {
	spec := Must("CRON_TZ=America/New_York 30 2 * * *")
	at := time.Date(2026, 3, 8, 0, 0, 0, 0, time.UTC)
	for b.Loop() {
		spec.Next(at)
	}
}
