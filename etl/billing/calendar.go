package billing

import (
	"fmt"
	"time"

	"meterhouse/etl"
)

// Clocks are the two by which a Keystone subscription is billed: its commitment and its burst.
var Clocks = []string{"committed", "burst"}

// Schedules are those that contracts have.
var Schedules = []string{"monthly", "quarterly", "semi_annual", "annual"}

// CalendarKey says what a calendar is of.
type CalendarKey struct {
	CustomerID         string
	SubscriptionNumber string
	Clock              string // one of Clocks
}

// CalendarPeriod is one billing period.
type CalendarPeriod struct {
	CalendarKey
	Start, End etl.Day // UTC, both inclusive
	Schedule   string  // of the contract, one of Schedules
	Source     string  // file and line
}

// Terms is what a calendar is generated from.
type Terms struct {
	Schedule string  // one of Schedules
	Start    etl.Day // first day of the first period, to which all others are anchored
	Until    etl.Day // the day before it is the last that has to be in a period
	Switches []Switch
}

// Switch is a day from which a contract is billed by another schedule, anchored to that day.
type Switch struct {
	Day      etl.Day
	Schedule string
}

// monthsOf is the length of a clock's periods: burst is invoiced each quarter at the latest.
func monthsOf(schedule, clock string) int {
	months := map[string]int{"monthly": 1, "quarterly": 3, "semi_annual": 6, "annual": 12}[schedule]
	if clock == "burst" {
		return min(months, 3)
	}
	return months
}

// Generate lists the periods of a clock by the rules of a contract, for review: what the vendor
// invoices may differ, and then its dates count. A period starts a whole number of months after the
// anchor, on the anchor's day of the month or the month's last where that comes earlier, and ends the
// day before the next. A switch cuts the period that it falls into. The last period is whole, and may
// end after Until.
func (t Terms) Generate(of CalendarKey) ([]CalendarPeriod, error) {
	parts := append([]Switch{{t.Start, t.Schedule}}, t.Switches...)
	if t.Until <= t.Start {
		return nil, fmt.Errorf("until %s: want a day after the start %s", t.Until, t.Start)
	}
	var periods []CalendarPeriod
	for i, part := range parts {
		months := monthsOf(part.Schedule, of.Clock)
		if months == 0 {
			return nil, fmt.Errorf("schedule %q: want one of %v", part.Schedule, Schedules)
		}
		until, cut := t.Until, etl.Day(0)
		if i+1 < len(parts) {
			cut = parts[i+1].Day
			until = cut
			if cut <= part.Day || cut >= t.Until {
				return nil, fmt.Errorf("switch on %s: want a day after %s and before %s", cut, part.Day, t.Until)
			}
		}
		for n := 0; ; n++ {
			p := CalendarPeriod{
				CalendarKey: of, Schedule: part.Schedule,
				Start: monthsAfter(part.Day, n*months), End: monthsAfter(part.Day, (n+1)*months) - 1,
			}
			if p.Start >= until {
				break
			}
			if cut > 0 {
				p.End = min(p.End, cut-1)
			}
			periods = append(periods, p)
		}
	}
	return periods, nil
}

// monthsAfter is the same day of the month n months later, or that month's last.
func monthsAfter(d etl.Day, n int) etl.Day {
	t := d.Time()
	first := etl.DayOf(time.Date(t.Year(), t.Month()+time.Month(n), 1, 0, 0, 0, 0, time.UTC))
	return min(first+etl.Day(t.Day()-1), first.NextMonth()-1)
}
