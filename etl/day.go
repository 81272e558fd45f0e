package etl

import (
	"fmt"
	"time"
)

// Day is a calendar day as the number of days since 1970-01-01. It carries no zone: facts of
// Keystone are filed by UTC days, readings of wolkvox by days of the operation's zone.
type Day int32

const secondsPerDay = 24 * 60 * 60

// DayOf is the day of t's own calendar: the UTC day of a UTC time, the local day of a local one.
func DayOf(t time.Time) Day {
	y, m, d := t.Date()
	return Day(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / secondsPerDay)
}

// ParseDay reads YYYY-MM-DD.
func ParseDay(s string) (Day, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return 0, fmt.Errorf("day %q: want YYYY-MM-DD", s)
	}
	return DayOf(t), nil
}

// Time is the first instant of d in UTC.
func (d Day) Time() time.Time { return time.Unix(int64(d)*secondsPerDay, 0).UTC() }

// Month is the first day of d's month.
func (d Day) Month() Day {
	t := d.Time()
	return DayOf(time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC))
}

// NextMonth is the first day of the month after d's.
func (d Day) NextMonth() Day {
	t := d.Time()
	return DayOf(time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, time.UTC))
}

// String is YYYY-MM-DD.
func (d Day) String() string { return d.Time().Format(time.DateOnly) }

// Window is half-open event time in whole UTC days: From is in it, Until is not.
// The zero Window means "as of now" and belongs to datasets that are not asked by time.
type Window struct {
	From, Until Day
}

// IsZero tells a window of no time, as datasets of the present have.
func (w Window) IsZero() bool { return w == Window{} }

// Days counts the days of w.
func (w Window) Days() int { return int(w.Until - w.From) }

// Contains tells whether d lies in w.
func (w Window) Contains(d Day) bool { return w.From <= d && d < w.Until }

// Halves cuts w into two windows that tile it; ok is false when w is a single day.
func (w Window) Halves() (first, second Window, ok bool) {
	if w.Days() < 2 {
		return w, Window{}, false
	}
	middle := w.From + Day(w.Days()/2)
	return Window{w.From, middle}, Window{middle, w.Until}, true
}

// String is FROM..UNTIL in days.
func (w Window) String() string {
	if w.IsZero() {
		return "now"
	}
	return w.From.String() + ".." + w.Until.String()
}

// Tile cuts the wanted days into windows of at most size days, newest first. No day is in two, none is
// left out. Cuts are where a day's number since 1970 is a multiple of size, and where a day is not wanted:
// so the windows of tomorrow are those of today but for the ones at the ends of what is wanted, and who
// asks for the same days again asks the same questions. Days need no order and may repeat.
func Tile(wanted map[Day]bool, size int) []Window {
	if len(wanted) == 0 {
		return nil
	}
	first, last := Day(1<<30), Day(-1<<30)
	for d := range wanted {
		first, last = min(first, d), max(last, d)
	}
	var windows []Window
	for until := last + 1; until > first; {
		from := until
		for from > first && wanted[from-1] && (from == until || int(from)%size != 0) {
			from--
		}
		if from < until {
			windows = append(windows, Window{from, until})
			until = from
			continue
		}
		until--
	}
	return windows
}
