package main

import (
	"time"

	"meterhouse/etl"
	"meterhouse/etl/schedule"
)

// maxWindowDays keeps a window at 31 days as sent: its end goes out as the midnight after it. It is also
// the step of the grid on which windows are cut, see etl.Tile.
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

// dueSlot is the newest slot of the schedule that has come since the last success. What never succeeded
// is due even before its first slot, which is then the zero of Unix time. Slots that were missed count
// once.
func dueSlot(s schedule.Schedule, last time.Time, succeeded bool, now time.Time) (slot time.Time, due bool) {
	if succeeded {
		return schedule.Newest(s, last, now)
	}
	if slot, ok := schedule.Newest(s, now.AddDate(-1, 0, 0), now); ok {
		return slot, true
	}
	return time.Unix(0, 0).UTC(), true
}
