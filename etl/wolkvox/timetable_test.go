package wolkvox

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// every is a schedule that fires at whole multiples of a duration.
type every time.Duration

func (e every) Next(t time.Time) time.Time {
	return t.UTC().Truncate(time.Duration(e)).Add(time.Duration(e))
}

// never is a schedule without times.
type never struct{}

func (never) Next(time.Time) time.Time { return time.Time{} }

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func moment(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestTimetable(t *testing.T) {
	bogota := zone(t, "America/Bogota")
	for _, c := range []struct {
		name  string
		base  interface{ Next(time.Time) time.Time }
		after string
		want  []string // local
	}{
		{"within a month", every(30 * time.Minute), "2026-05-20T12:10:00-05:00", []string{"20 12:30", "20 13:00"}},
		{"the end of a month", every(30 * time.Minute), "2026-05-31T22:30:00-05:00",
			[]string{"31 23:00", "31 23:05", "31 23:25", "31 23:30", "31 23:45", "01 00:10", "01 00:30"}},
		{"a daily base", every(24 * time.Hour), "2026-05-31T20:00:00-05:00", []string{"31 23:05", "31 23:25", "31 23:45", "01 00:10", "01 19:00"}},
		{"a base in the quiet time", every(5 * time.Minute), "2026-05-31T23:44:00-05:00", []string{"31 23:45", "01 00:10", "01 00:15"}},
		{"a base that never fires", never{}, "2026-05-20T12:10:00-05:00", []string{"31 23:05", "31 23:25", "31 23:45", "01 00:10", "30 23:05"}},
		{"no base", nil, "2026-02-20T12:10:00-05:00", []string{"28 23:05"}},
		{"leap year", nil, "2028-02-20T12:10:00-05:00", []string{"29 23:05"}},
		{"end of a year", nil, "2026-12-31T23:45:00-05:00", []string{"01 00:10", "31 23:05"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			schedule, at := Timetable(c.base, bogota), moment(t, c.after)
			var got []string
			for range c.want {
				at = schedule.Next(at)
				got = append(got, at.In(bogota).Format("02 15:04"))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %v\nwant %v", got, c.want)
			}
		})
	}
}

// zoneNames are all zones that this machine knows.
func zoneNames(t *testing.T) (names []string) {
	t.Helper()
	const root = "/usr/share/zoneinfo"
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		name, _ := filepath.Rel(root, path)
		if strings.Contains(name, "/") && !strings.HasPrefix(name, "posix") && !strings.HasPrefix(name, "right") {
			if _, err := time.LoadLocation(name); err == nil {
				names = append(names, name)
			}
		}
		return nil
	})
	if len(names) < 100 { // the odd ones, from the binary's own list
		names = []string{"UTC", "America/Bogota", "America/Santiago", "America/Sao_Paulo", "America/St_Johns", "America/New_York", "Europe/Madrid",
			"Africa/Cairo", "Asia/Beirut", "Asia/Kathmandu", "Asia/Tehran", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham", "America/Asuncion", "Atlantic/Azores"}
	}
	return names
}

// Whatever clocks do: nothing in the quiet time, every month has its four readings, each month of the
// year is turned once, and Next goes forward.
func TestTimetableInAllZones(t *testing.T) {
	names := zoneNames(t)
	const years = 12
	months := 0
	for _, name := range names {
		z := zone(t, name)
		at := time.Date(2008, 12, 20, 0, 0, 0, 0, z)
		end := at.AddDate(years, 0, 0)
		schedule := Timetable(nil, z)
		for at.Before(end) {
			var slots [extraSlots]time.Time
			for i := range slots {
				next := schedule.Next(at)
				if !next.After(at) {
					t.Fatalf("%s: after %s comes %s", name, at, next)
				}
				at, slots[i] = next, next
			}
			last, first := slots[2].In(z), slots[3].In(z)
			wantYear, wantMonth, _ := last.AddDate(0, 0, 1).Date()
			y, m, d := first.Date()
			if d != 1 || y != wantYear || m != wantMonth || last.Month() == first.Month() {
				t.Fatalf("%s: %s, %s, %s, %s", name, slots[0].In(z), slots[1].In(z), last, first)
			}
			if gap := slots[3].Sub(slots[2]); gap < 25*time.Minute || gap > 2*time.Hour {
				t.Fatalf("%s: %s between %s and %s", name, gap, last, first)
			}
			// Across the turn, minute by minute: quiet without a break, and in it the local month changes.
			begin, quiet := slots[2].Add(5*time.Minute), 0
			for q := begin; q.Before(slots[3]); q = q.Add(time.Minute) {
				until, isQuiet := QuietUntil(q, z)
				if !isQuiet || !until.Equal(slots[3]) {
					t.Fatalf("%s: %s is not quiet until %s: %v, %s", name, q.In(z), first, isQuiet, until.In(z))
				}
				quiet++
			}
			for _, loud := range []time.Time{begin.Add(-time.Nanosecond), slots[3]} {
				if _, isQuiet := QuietUntil(loud, z); isQuiet {
					t.Fatalf("%s: %s is quiet", name, loud.In(z))
				}
			}
			if begin.In(z).Month() == slots[3].In(z).Month() || quiet < 20 {
				t.Fatalf("%s: quiet from %s to %s", name, begin.In(z), first)
			}
			// What a busy base wants there is passed over.
			if got := Timetable(every(time.Minute), z).Next(begin.Add(-time.Second)); !got.Equal(slots[3]) {
				t.Fatalf("%s: a base fires at %s", name, got.In(z))
			}
			months++
		}
	}
	if months < len(names)*years*11 {
		t.Errorf("%d months of %d zones and %d years", months, len(names), years)
	}
	t.Logf("%d months of %d zones", months, len(names))
}
