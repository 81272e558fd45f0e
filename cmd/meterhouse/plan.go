package main

import (
	"time"

	"meterhouse/etl"
)

// maxWindowDays keeps a window at 31 days as sent: its end goes out as the midnight after it.
const maxWindowDays = 30

// horizon is the first UTC day that is not settled yet: records of the days before it are complete
// by now.
func horizon(now time.Time, settle span) etl.Day {
	return etl.DayOf(now.UTC().Add(-time.Duration(settle)))
}

// historyWindows are the windows of a regular run, newest first: the last days, which may still be
// restated, and every earlier day since the start that has no answer yet.
func historyWindows(now time.Time, h historyConfig, covered map[etl.Day]bool) []etl.Window {
	until := horizon(now, h.Settle)
	reread := until - etl.Day(time.Duration(h.Reread)/day)
	wanted := map[etl.Day]bool{}
	for d := h.Start.day; d < until; d++ {
		if d >= reread || !covered[d] {
			wanted[d] = true
		}
	}
	return etl.Tile(wanted, maxWindowDays)
}

// backfillWindows are the windows that tile a span of days, newest first.
func backfillWindows(w etl.Window) []etl.Window {
	wanted := map[etl.Day]bool{}
	for d := w.From; d < w.Until; d++ {
		wanted[d] = true
	}
	return etl.Tile(wanted, maxWindowDays)
}

// timetable tells when a dataset is due: the first time after t, zero when there is none.
type timetable interface{ Next(t time.Time) time.Time }

// isDue tells whether a slot of the schedule has come since the last success. What never succeeded
// is due. Slots that were missed count once.
func isDue(schedule timetable, last time.Time, succeeded bool, now time.Time) bool {
	if !succeeded {
		return true
	}
	next := schedule.Next(last)
	return !next.IsZero() && !next.After(now)
}
