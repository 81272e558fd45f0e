package wolkvox

import "time"

// The readings that close a month, by their distance to its end. Readings of a month cannot be had after
// it, so there are several; around the end itself nobody can say which month an answer is about.
var (
	closing = []time.Duration{-55 * time.Minute, -35 * time.Minute, -15 * time.Minute} // 23:05, 23:25, 23:45
	opening = 10 * time.Minute                                                         // 00:10
)

const (
	extraSlots = 4                // of closing and opening
	extraFor   = 20 * time.Minute // until the next one comes
	quietFrom  = 10 * time.Minute // before the end of a month, to opening after it
)

// Timetable is a schedule with the readings of each month's end added: 23:05, 23:25 and 23:45 on its last
// day and 00:10 on the first of the next, local time. What base wants from 23:50 to 00:10 falls away.
// Next returns the first time after t, in UTC. A base that has no more times, or is nil, leaves the added
// ones.
func Timetable(base interface{ Next(time.Time) time.Time }, zone *time.Location) interface{ Next(time.Time) time.Time } {
	return timetable{base, zone}
}

type timetable struct {
	base interface{ Next(time.Time) time.Time }
	zone *time.Location
}

func (tt timetable) Next(t time.Time) time.Time {
	next := nextExtra(t, tt.zone)
	if tt.base == nil {
		return next.UTC()
	}
	at := tt.base.Next(t)
	if until, quiet := QuietUntil(at, tt.zone); quiet && !at.IsZero() {
		at = tt.base.Next(until.Add(-time.Nanosecond))
	}
	if !at.IsZero() && at.Before(next) {
		next = at
	}
	return next.UTC()
}

// turn is where a month ends. The two differ only where clocks go back over it, so that the new month
// begins twice.
type turn struct{ first, last time.Time }

// turnAfter is the turn at the end of the local month m of year y.
func turnAfter(y int, m time.Month, zone *time.Location) turn {
	midnight := time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC) // what local clocks show, read as UTC
	var found turn
	isNew := false
	end := midnight.Add(36 * time.Hour)
	for t := midnight.Add(-36 * time.Hour); t.Before(end); {
		_, offset := t.In(zone).Zone()
		_, until := t.In(zone).ZoneBounds()
		if until.IsZero() || until.After(end) {
			until = end
		}
		// Within these bounds clocks show the new month from here on.
		from := midnight.Add(-time.Duration(offset) * time.Second)
		if from.Before(t) {
			from = t
		}
		if shown := from.Before(until); shown && (from.After(t) || !isNew) {
			if found.first.IsZero() {
				found.first = from
			}
			found.last = from
			isNew = true
		} else if !shown {
			isNew = false
		}
		t = until
	}
	return found
}

// turnsAbout are the turns of the months about t, in order.
func turnsAbout(t time.Time, zone *time.Location) [3]turn {
	y, m, _ := t.In(zone).Date()
	return [3]turn{turnAfter(y, m-1, zone), turnAfter(y, m, zone), turnAfter(y, m+1, zone)}
}

func (t turn) extras() [extraSlots]time.Time {
	var all [extraSlots]time.Time
	for i, d := range closing {
		all[i] = t.first.Add(d)
	}
	all[extraSlots-1] = t.last.Add(opening)
	return all
}

// nextExtra is the first added reading after t.
func nextExtra(t time.Time, zone *time.Location) time.Time {
	for _, turn := range turnsAbout(t, zone) {
		for _, at := range turn.extras() {
			if at.After(t) {
				return at
			}
		}
	}
	panic("wolkvox: no month ends") // the last of three turns lies ahead
}

// extraSlot is the added reading whose time it is.
func extraSlot(t time.Time, zone *time.Location) (slot time.Time, ok bool) {
	for _, turn := range turnsAbout(t, zone) {
		for _, at := range turn.extras() {
			if !t.Before(at) && t.Before(at.Add(extraFor)) {
				slot, ok = at, true
			}
		}
	}
	return slot, ok
}

// QuietUntil is the end of the quiet time that t lies in, in which the vendor is not asked: from 10 minutes before the
// end of a local month to 10 minutes after it.
func QuietUntil(t time.Time, zone *time.Location) (until time.Time, quiet bool) {
	for _, turn := range turnsAbout(t, zone) {
		if !t.Before(turn.first.Add(-quietFrom)) && t.Before(turn.last.Add(opening)) {
			return turn.last.Add(opening), true
		}
	}
	return time.Time{}, false
}

// isMonthEnding tells whether t lies in the last two local days of a month.
func isMonthEnding(t time.Time, zone *time.Location) bool {
	y, m, d := t.In(zone).Date()
	return d > time.Date(y, m+1, 0, 0, 0, 0, 0, time.UTC).Day()-2
}
