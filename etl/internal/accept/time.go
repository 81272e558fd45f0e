package accept

import (
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/jsonread"
)

// Time accepts an instant by the grammar of R24, in UTC and cut to microseconds. Whether it lies
// too far ahead or outside a window is for the caller.
func Time(s jsonread.Scalar) (at time.Time, warnings []string, reason string) {
	micros, warnings, reason := Micros(s)
	if reason != "" {
		return time.Time{}, warnings, reason
	}
	return time.UnixMicro(micros).UTC(), warnings, ""
}

// deviation is a set of accepted deviations of a time, so that each set is one shared list.
type deviation uint8

const (
	dateOnly deviation = 1 << iota
	zoneAssumed
	offsetGiven
	truncated
)

var timeWarnings = func() (lists [16][]string) {
	for set := range lists {
		for i, name := range [...]string{"date_only", "zone_assumed_utc", "offset_in_utc_field", "time_truncated"} {
			if set&(1<<i) != 0 {
				lists[set] = append(lists[set], name)
			}
		}
	}
	return lists
}()

// Micros is Time as microseconds since 1970-01-01T00:00:00Z, for samples by the hundred thousand.
func Micros(s jsonread.Scalar) (micros int64, warnings []string, reason string) {
	switch {
	case s.Kind == jsonread.Null, s.Kind == jsonread.String && len(s.Text) == 0:
		return 0, nil, "value_missing"
	case s.Kind != jsonread.String:
		return 0, nil, "type_mismatch"
	}
	micros, deviations, reason := scanTime(s.Text)
	return micros, timeWarnings[deviations], reason
}

// Date reads YYYY-MM-DD and nothing else; a day that does not exist is not ok.
func Date(text []byte) (day etl.Day, ok bool) {
	if len(text) != len("2006-01-02") || text[4] != '-' || text[7] != '-' {
		return 0, false
	}
	y, ok1 := number(text[0:4])
	m, ok2 := number(text[5:7])
	d, ok3 := number(text[8:10])
	if !ok1 || !ok2 || !ok3 || y < 1 || m < 1 || m > 12 || d < 1 || d > daysIn(y, m) {
		return 0, false
	}
	return daysSinceEpoch(y, m, d), true
}

// Clock reads HH:MM:SS and nothing else, as seconds of the day; ok also for second 60, which is
// for the caller to refuse.
func Clock(text []byte) (seconds int64, ok bool) {
	if len(text) != len("15:04:05") || text[2] != ':' || text[5] != ':' {
		return 0, false
	}
	h, ok1 := number(text[0:2])
	m, ok2 := number(text[3:5])
	s, ok3 := number(text[6:8])
	if !ok1 || !ok2 || !ok3 || h > 23 || m > 59 || s > 60 {
		return 0, false
	}
	return h*3600 + m*60 + s, true
}

func scanTime(text []byte) (micros int64, dev deviation, reason string) {
	const date, clock = len("2006-01-02"), len("15:04:05")
	if len(text) < date {
		return 0, 0, "time_format"
	}
	day, ok := Date(text[:date])
	if !ok {
		return 0, 0, "time_format"
	}
	seconds := int64(day) * 86400
	rest := text[date:]
	if len(rest) == 0 {
		return seconds * 1_000_000, dateOnly, ""
	}
	if (rest[0] != 'T' && rest[0] != ' ') || len(rest) < 1+clock {
		return 0, 0, "time_format"
	}
	ofDay, ok := Clock(rest[1 : 1+clock])
	if !ok {
		return 0, 0, "time_format"
	}
	leap := rest[clock-1] == '6'
	rest = rest[1+clock:]

	fraction, rest, lost, ok := scanFraction(rest)
	if !ok {
		return 0, 0, "time_format"
	}
	if lost {
		dev |= truncated
	}
	offset, ok := scanOffset(rest)
	switch {
	case !ok:
		return 0, 0, "time_format"
	case len(rest) == 0:
		dev |= zoneAssumed
	case offset != 0:
		dev |= offsetGiven
	}
	if leap {
		return 0, dev, "time_leap_second"
	}
	return (seconds+ofDay-offset)*1_000_000 + fraction, dev, ""
}

// scanFraction reads .1 to .12 digits as microseconds; lost tells that a digit beyond was not zero.
func scanFraction(text []byte) (micros int64, rest []byte, lost, ok bool) {
	if len(text) == 0 || text[0] != '.' {
		return 0, text, false, true
	}
	text = text[1:]
	n := 0
	for n < len(text) && '0' <= text[n] && text[n] <= '9' {
		n++
	}
	if n < 1 || n > 12 {
		return 0, nil, false, false
	}
	for i := range max(n, 6) {
		switch {
		case i >= 6:
			lost = lost || text[i] != '0'
		case i < n:
			micros = micros*10 + int64(text[i]-'0')
		default:
			micros *= 10
		}
	}
	return micros, text[n:], lost, true
}

// scanOffset reads the end of a time: nothing, Z or ±HH:MM, as seconds east of UTC.
func scanOffset(text []byte) (seconds int64, ok bool) {
	if len(text) == 0 || len(text) == 1 && text[0] == 'Z' {
		return 0, true
	}
	if len(text) != len("+15:04") || text[3] != ':' || (text[0] != '+' && text[0] != '-') {
		return 0, false
	}
	h, ok1 := number(text[1:3])
	m, ok2 := number(text[4:6])
	if !ok1 || !ok2 || m > 59 || h*60+m > 14*60 {
		return 0, false
	}
	seconds = h*3600 + m*60
	if text[0] == '-' {
		seconds = -seconds
	}
	return seconds, true
}

func number(digits []byte) (n int64, ok bool) {
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

func daysIn(year, month int64) int64 {
	if month == 2 && year%4 == 0 && (year%100 != 0 || year%400 == 0) {
		return 29
	}
	return [...]int64{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}[month-1]
}

// daysSinceEpoch counts in years that begin in March, so that the leap day is the last of a year.
func daysSinceEpoch(year, month, day int64) etl.Day {
	if month <= 2 {
		year--
		month += 12
	}
	return etl.Day(365*year + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + day - 1 - 719468)
}
