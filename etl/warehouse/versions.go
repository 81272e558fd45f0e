package warehouse

import (
	"slices"
	"time"

	"meterhouse/etl"
)

// observation is a run that loaded the same dataset and scope.
type observation struct {
	at     time.Time
	window etl.Window
}

// nextSeen are the times, in order, at which later runs looked at the day again; day is ignored
// for datasets of the present.
func (l *loader) nextSeen(day etl.Day) []time.Time {
	var times []time.Time
	for _, o := range l.newer {
		if o.window.IsZero() || o.window.Contains(day) {
			times = append(times, o.at)
		}
	}
	return times
}

// version is a value and since when it is known. Until the next version's start it is the truth.
type version[T any] struct {
	from  time.Time
	value T
}

// observe enters what was seen at an instant into a history of versions, ordered by from, and
// returns the new history and whether it differs. again is when a later run looked, if one did:
// until then the value holds, and from then on what was true before is true again. The result does
// not depend on the order in which observations are entered.
func observe[T any](history []version[T], at time.Time, value T, again *time.Time, equal func(a, b T) bool) ([]version[T], bool) {
	next := 0 // first version that starts after at
	for next < len(history) && !history[next].from.After(at) {
		next++
	}
	before := next - 1
	if before >= 0 && equal(history[before].value, value) {
		return history, false
	}
	result := slices.Clone(history)
	if before >= 0 && result[before].from.Equal(at) { // two answers of one instant: the later load counts
		result[before].value = value
		if before > 0 && equal(result[before-1].value, value) {
			result = slices.Delete(result, before, before+1)
		}
		return result, true
	}
	var insert []version[T]
	switch {
	case next < len(result) && again != nil && !result[next].from.After(*again):
		if equal(result[next].value, value) { // the next version was true a little earlier
			result[next].from = at
			return result, true
		}
		insert = []version[T]{{at, value}}
	case again != nil && before >= 0:
		insert = []version[T]{{at, value}, {*again, result[before].value}}
	default:
		insert = []version[T]{{at, value}}
	}
	return slices.Insert(result, next, insert...), true
}
