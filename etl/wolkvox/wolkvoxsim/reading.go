package wolkvoxsim

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Reading is the truth behind one row at one clock value.
type Reading struct {
	API         string
	Operation   string
	Description string
	Items       string // text as sent: 1856, 92.35, 31:05:12
	Number      string // the same as canonical decimal; durations in minutes
	Date        string // local date, YYYY-MM-DD
	DateText    string // date as sent: with the time from even APIs
}

// Oracle returns every reading an undisturbed server gives at a clock value, in
// catalogue order, without the Missing APIs.
func (s *Sim) Oracle(at time.Time) []Reading {
	var all []Reading
	for _, p := range catalogue {
		if !slices.Contains(s.cfg.Missing, p.api) {
			all = append(all, s.readings(p, at)...)
		}
	}
	return all
}

func (s *Sim) readings(p product, at time.Time) []Reading {
	local := at.In(s.cfg.Zone)
	layout := time.DateOnly
	if p.number%2 == 0 {
		layout = time.DateTime
	}
	var rows []Reading
	for _, description := range p.rows {
		amount := s.level(p, description, local)
		if p.counter {
			amount = s.monthToDate(p, description, local)
		}
		rows = append(rows, Reading{
			API:         p.api,
			Operation:   s.cfg.Operation,
			Description: description,
			Items:       p.form.text(amount),
			Number:      p.form.number(amount),
			Date:        local.Format(time.DateOnly),
			DateText:    local.Format(layout),
		})
	}
	return rows
}

// level is a gauge: it holds for one to two weeks, each product in its own
// rhythm, and then steps up or down.
func (s *Sim) level(p product, description string, local time.Time) int64 {
	y, m, d := local.Date()
	day := time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400
	hold := 7 + s.dice(8, description+" hold")
	block := (day + s.dice(hold, description+" phase")) / hold
	return p.typical + s.dice(p.typical/4+2, description+" level", block)
}

// monthToDate is a counter: whole days of the local month plus today's share.
func (s *Sim) monthToDate(p product, description string, local time.Time) int64 {
	y, m, today := local.Date()
	var sum int64
	for d := 1; d < today; d++ {
		sum += s.ofDay(p, description, y, m, d)
	}
	midnight := time.Date(y, m, today, 0, 0, 0, 0, s.cfg.Zone)
	next := time.Date(y, m, today+1, 0, 0, 0, 0, s.cfg.Zone)
	// Elapsed over real length: days of 23 and 25 hours stay monotone too.
	second := int64(local.Sub(midnight)/time.Second) * 86400 / int64(next.Sub(midnight)/time.Second)
	return sum + s.ofDay(p, description, y, m, today)*busy(second)/busy(86400)
}

// ofDay is what one local day adds to a counter in the end.
func (s *Sim) ofDay(p product, description string, y int, m time.Month, d int) int64 {
	percent := int64(100)
	switch time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Weekday() {
	case time.Saturday:
		percent = 55
	case time.Sunday:
		percent = 20
	}
	size := 60 + s.dice(81, description+" size")
	luck := 80 + s.dice(41, description+" day", int64(y), int64(m), int64(d))
	return p.typical * percent * size * luck / (100 * 100 * 100)
}

// busy is the work done by a second of the day: a call centre's day, its hours
// weighted and its seconds even. It never falls, and busy(0) is 0.
func busy(second int64) int64 {
	hours := [24]int64{1, 1, 1, 1, 1, 2, 6, 30, 70, 95, 100, 90, 60, 70, 95, 100, 90, 70, 40, 25, 15, 8, 4, 2}
	second = min(max(second, 0), 86400)
	var sum int64
	for h, weight := range hours {
		sum += weight * min(max(second-int64(h)*3600, 0), 3600)
	}
	return sum
}

// dice throws 0 … n-1, the same for the same seed, name and place.
func (s *Sim) dice(n int64, name string, place ...int64) int64 {
	h := fnv.New64a()
	fmt.Fprint(h, s.cfg.Seed, "|", name, "|", place)
	return int64(h.Sum64() >> 11 % uint64(n)) // FNV's low bits are its weak ones
}

// text writes an amount as the product does.
func (f form) text(amount int64) string {
	switch f {
	case decimal:
		return fmt.Sprintf("%d.%02d", amount/20, amount%20*5) // 20 ticks a minute
	case clock:
		seconds := amount * 3
		return fmt.Sprintf("%02d:%02d:%02d", seconds/3600, seconds/60%60, seconds%60)
	}
	return strconv.FormatInt(amount, 10)
}

// number writes an amount as canonical decimal: no trailing zeros.
func (f form) number(amount int64) string {
	if f == whole {
		return whole.text(amount)
	}
	return strings.TrimRight(strings.TrimRight(decimal.text(amount), "0"), ".")
}
