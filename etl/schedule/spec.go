package schedule

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule tells when something is due.
type Schedule interface {
	// Next is the first slot after t, in UTC; zero when there is none.
	Next(t time.Time) time.Time
}

// Spec is a cron schedule: minute, hour, day of month, month and day of week, in UTC or behind
// CRON_TZ=Area/City in that zone. The zero Spec never comes. Every slot comes once: where local clocks
// are put forward, one that does not exist comes as much later as they jump; where they are put back,
// one that exists twice comes the first time. A schedule for every hour of the day follows elapsed time
// instead, through both hours.
type Spec struct {
	text   string
	zone   *time.Location
	wall   cron.Schedule // of wall clock times, written as UTC
	hourly bool          // every hour of the day
}

var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// everyHour is the library's set of all hours; the topmost bit says that it was written as a star.
const everyHour = 1<<24 - 1

// Parse reads a schedule. It guards the library, which panics on a zone without a schedule, takes the
// machine's zone for none, and accepts schedules that never come.
func Parse(text string) (s Spec, err error) {
	bad := func(why any) error {
		return fmt.Errorf("schedule %q: %v: want five fields such as \"37 2 * * *\" (UTC, or after CRON_TZ=Area/City)", text, why)
	}
	defer func() {
		if recover() != nil {
			s, err = Spec{}, bad("no fields")
		}
	}()
	fields, name, hasZone := strings.TrimSpace(text), "UTC", false
	for _, prefix := range []string{"CRON_TZ=", "TZ="} {
		if rest, ok := strings.CutPrefix(fields, prefix); ok {
			hasZone = true
			name, fields, _ = strings.Cut(rest, " ")
			break
		}
	}
	if strings.TrimSpace(fields) == "" {
		return s, bad("no fields")
	}
	if hasZone && (name == "" || name == "Local") {
		return s, bad("no zone named")
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return s, bad(fmt.Sprintf("provided bad location %s: %v", name, err))
	}
	wall, err := parser.Parse("CRON_TZ=UTC " + strings.TrimSpace(fields))
	if err != nil {
		return s, bad(err)
	}
	s = Spec{text: text, zone: zone, wall: wall, hourly: true}
	if fields, ok := wall.(*cron.SpecSchedule); ok {
		s.hourly = fields.Hour&everyHour == everyHour
	}
	if s.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Spec{}, fmt.Errorf("schedule %q never fires: want a date that exists", text)
	}
	return s, nil
}

// Must is Parse for texts that are known to be good.
func Must(text string) Spec {
	s, err := Parse(text)
	if err != nil {
		panic(err)
	}
	return s
}

// UnmarshalText is Parse.
func (s *Spec) UnmarshalText(text []byte) (err error) {
	*s, err = Parse(string(text))
	return err
}

// String is the text that was read.
func (s Spec) String() string { return s.text }

// Next is the first slot after t, in UTC; zero when there is none.
func (s Spec) Next(t time.Time) time.Time {
	switch every, isDelay := s.wall.(cron.ConstantDelaySchedule); {
	case s.wall == nil:
		return time.Time{}
	case isDelay: // counted from a fixed moment, not from whenever somebody asks
		return t.UTC().Truncate(every.Delay).Add(every.Delay)
	case s.zone == time.UTC:
		return s.wall.Next(t.UTC()).UTC()
	case s.hourly:
		return s.nextElapsed(t)
	}
	return s.nextWall(t)
}

// A local clock jumps by a day at most, where a country crosses the date line.
const longestJump = 26 * time.Hour

// nextWall finds the slot among the wall clock times around t. They need not come in their order: one
// that does not exist comes later than some that follow it.
func (s Spec) nextWall(t time.Time) (next time.Time) {
	local := t.In(s.zone)
	if start, change := local.ZoneBounds(); start.IsZero() || t.Sub(start) > longestJump { // far from any change
		_, offset := local.Zone()
		wall := s.wall.Next(wallOf(local))
		if wall.IsZero() {
			return wall
		}
		if at := wall.Add(-time.Duration(offset) * time.Second); change.IsZero() || at.Before(change) {
			return at.UTC()
		}
	}
	until := time.Time{}
	for wall := wallOf(local).Add(-longestJump); ; {
		wall = s.wall.Next(wall)
		if wall.IsZero() || !until.IsZero() && wall.After(until) {
			return next
		}
		at := s.instant(wall)
		if at.After(t) && (next.IsZero() || at.Before(next)) {
			next = at
			if until.IsZero() {
				until = wall.Add(longestJump)
			}
		}
	}
}

// nextElapsed looks with the offset in force until the zone changes it, and then with the next.
func (s Spec) nextElapsed(t time.Time) time.Time {
	for {
		local := t.In(s.zone)
		_, offset := local.Zone()
		next := s.wall.Next(wallOf(local))
		if next.IsZero() {
			return next
		}
		at := next.Add(-time.Duration(offset) * time.Second)
		_, change := local.ZoneBounds()
		if change.IsZero() || at.Before(change) {
			return at.UTC()
		}
		// The change itself may be a slot.
		if wall := wallOf(change); s.wall.Next(wall.Add(-time.Second)).Equal(wall) {
			return change.UTC()
		}
		t = change
	}
}

// wallOf is what a clock shows there, written as UTC.
func wallOf(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// instant is when a clock of the zone shows wall for the first time; when it never does, as much later
// as the clock jumps.
func (s Spec) instant(wall time.Time) time.Time {
	t := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), s.zone)
	start, _ := t.ZoneBounds()
	isAfterChange := !start.IsZero() && t.Sub(start) < longestJump
	with := t // read with the offset before the change
	if isAfterChange {
		with = start.Add(-time.Nanosecond)
	}
	_, offset := with.Zone()
	before := wall.Add(-time.Duration(offset) * time.Second).In(s.zone)
	if shows(before, wall) || !shows(t, wall) {
		return before.UTC()
	}
	return t.UTC()
}

func shows(t time.Time, wall time.Time) bool { return wallOf(t).Equal(wall) }

// Oddities are the first slot within a year after t that the zone's clocks skip, and the first that
// they show twice, in words; none for a schedule in UTC or for every hour.
func (s Spec) Oddities(t time.Time) (odd []string) {
	if s.wall == nil || s.hourly || s.zone == time.UTC {
		return nil
	}
	skipped, twice := false, false
	end := t.AddDate(1, 0, 0)
	for change := t.In(s.zone); ; {
		_, change = change.ZoneBounds()
		if change.IsZero() || change.After(end) {
			return odd
		}
		_, before := change.Add(-time.Nanosecond).Zone()
		_, after := change.Zone()
		// The wall clock times that do not exist, or that exist twice, lie between these two.
		from, until := change.Add(time.Duration(before)*time.Second).UTC(), change.Add(time.Duration(after)*time.Second).UTC()
		switch {
		case after > before && !skipped:
			if wall := s.wall.Next(from.Add(-time.Second)); wall.Before(until) && !wall.IsZero() {
				skipped = true
				odd = append(odd, fmt.Sprintf("%s does not exist in %s: it comes at %s there",
					wall.Format("2006-01-02 15:04"), s.zone, s.instant(wall).In(s.zone).Format("15:04")))
			}
		case after < before && !twice:
			if wall := s.wall.Next(until.Add(-time.Second)); wall.Before(from) && !wall.IsZero() {
				twice = true
				odd = append(odd, fmt.Sprintf("%s comes twice in %s: only the first counts", wall.Format("2006-01-02 15:04"), s.zone))
			}
		}
	}
}

// lookBack is how far back the newest slot is looked for, before everything since the last success is.
const lookBack = 8 * 24 * time.Hour

// Newest is the newest slot after since and up to now; false when none has come. Of many missed slots
// it is the only one that is worth a job.
func Newest(s Schedule, since, now time.Time) (slot time.Time, ok bool) {
	if recent := now.Add(-lookBack); since.Before(recent) {
		if slot, ok := newest(s, recent, now); ok {
			return slot, ok
		}
	}
	return newest(s, since, now)
}

func newest(s Schedule, since, now time.Time) (slot time.Time, ok bool) {
	for next := s.Next(since); !next.IsZero() && !next.After(now); next = s.Next(next) {
		slot, ok = next, true
	}
	return slot, ok
}
