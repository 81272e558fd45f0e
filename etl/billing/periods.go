package billing

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

// ImportCalendar makes the given periods, which tile time for each clock, the whole calendar of the
// clocks that they are of. Calendars of other clocks stay, unless replace says that these are all. It
// returns what becomes of each given period, in their order, and then the removed ones. A plan changes
// nothing; repeating touches no row.
func (b *Billing) ImportCalendar(ctx context.Context, periods []CalendarPeriod, replace, planOnly bool) (changes []Change[CalendarPeriod], err error) {
	given := map[CalendarKey]bool{}
	for _, p := range periods {
		given[p.CalendarKey] = true
	}
	changes, err = billingCalendar.bring(ctx, b, periods, planOnly, func(p CalendarPeriod) bool { return replace || given[p.CalendarKey] }, nil)
	if err != nil {
		return nil, fmt.Errorf("import calendar: %w", err)
	}
	return changes, nil
}

type periodPlace struct {
	CalendarKey
	start etl.Day
}

var billingCalendar = imported[CalendarPeriod, periodPlace]{
	table:   "period",
	columns: []string{"customer_id", "subscription_number", "clock", "period_start", "period_end", "schedule", "source"},
	order:   "customer_id, subscription_number, clock, period_start",
	scan: func(row pgx.CollectableRow, id *int64) (p CalendarPeriod, err error) {
		var start, end time.Time
		err = row.Scan(id, &p.CustomerID, &p.SubscriptionNumber, &p.Clock, &start, &end, &p.Schedule, &p.Source)
		p.Start, p.End = etl.DayOf(start), etl.DayOf(end)
		return p, err
	},
	values: func(p CalendarPeriod) []any {
		return []any{p.CustomerID, p.SubscriptionNumber, p.Clock, p.Start.Time(), p.End.Time(), p.Schedule, p.Source}
	},
	place: func(p CalendarPeriod) periodPlace { return periodPlace{p.CalendarKey, p.Start} },
	becomes: func(was, is CalendarPeriod) string {
		if was.End == is.End && was.Schedule == is.Schedule {
			return "unchanged"
		}
		return "changed"
	},
	settle: `set constraints billing.period_no_gap immediate`, // a plan tells of a gap, too
}

// Contract is a subscription as far as its terms tell, to generate a calendar from.
type Contract struct {
	CustomerID         string
	SubscriptionNumber string
	Start              *etl.Day // UTC; nil when the vendor does not tell it
	Instances          int      // subscriptions that share the number; Start is the earliest of theirs
}

// Contracts lists the subscriptions that the vendor told of.
func (b *Billing) Contracts(ctx context.Context) ([]Contract, error) {
	rows, err := b.pool.Query(ctx, `
		select c.customer_id, s.subscription_number, (min(f.start_at) at time zone 'UTC')::date, count(distinct s.discriminator)::integer
		from dw.dim_subscription as s
		join dw.dim_customer as c using (customer_key)
		left join dw.fact_subscription as f on f.customer_key = s.customer_key and f.subscription_key = s.subscription_key and f.valid_to is null
		group by c.customer_id, s.subscription_number
		order by c.customer_id, s.subscription_number`)
	if err != nil {
		return nil, fmt.Errorf("contracts: %w", err)
	}
	contracts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c Contract, err error) {
		var start *time.Time
		err = row.Scan(&c.CustomerID, &c.SubscriptionNumber, &start, &c.Instances)
		c.Start = dayOf(start)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("contracts: %w", err)
	}
	return contracts, nil
}
