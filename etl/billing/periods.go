package billing

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

type storedPeriod struct {
	id int64
	CalendarPeriod
}

// ImportCalendar makes the given periods, which tile time for each clock, the whole calendar of the
// clocks that they are of. Calendars of other clocks stay, unless replace says that these are all. It
// returns what becomes of each given period, in their order, and then the removed ones. A plan changes
// nothing; repeating touches no row.
func (b *Billing) ImportCalendar(ctx context.Context, periods []CalendarPeriod, replace, planOnly bool) (changes []Change[CalendarPeriod], err error) {
	err = b.change(ctx, "period", planOnly, func(tx pgx.Tx, now time.Time) error {
		stored, err := currentPeriods(ctx, tx)
		if err != nil {
			return err
		}
		var superseded []int64
		var fresh []CalendarPeriod
		changes, superseded, fresh = comparePeriods(stored, periods, replace)
		if err := supersede(ctx, tx, "period", "period_id", superseded, now); err != nil {
			return err
		}
		if err := insertPeriods(ctx, tx, fresh, now); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `set constraints billing.period_no_gap immediate`) // a plan tells of a gap, too
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("import calendar: %w", err)
	}
	return changes, nil
}

// comparePeriods finds the rows to supersede and to insert.
func comparePeriods(stored []storedPeriod, periods []CalendarPeriod, replace bool) (changes []Change[CalendarPeriod], superseded []int64, fresh []CalendarPeriod) {
	type place struct {
		CalendarKey
		start etl.Day
	}
	at := map[place]storedPeriod{}
	for _, s := range stored {
		at[place{s.CalendarKey, s.Start}] = s
	}
	given := map[CalendarKey]bool{}
	named := map[place]bool{}
	for _, p := range periods {
		here := place{p.CalendarKey, p.Start}
		given[p.CalendarKey], named[here] = true, true
		change := Change[CalendarPeriod]{What: "added", Is: p}
		if s, exists := at[here]; exists {
			change = Change[CalendarPeriod]{What: "changed", Was: s.CalendarPeriod, Is: p}
			if s.End == p.End && s.Schedule == p.Schedule {
				change.What = "unchanged"
			} else {
				superseded = append(superseded, s.id)
			}
		}
		if change.What != "unchanged" {
			fresh = append(fresh, p)
		}
		changes = append(changes, change)
	}
	for _, s := range stored {
		if !named[place{s.CalendarKey, s.Start}] && (replace || given[s.CalendarKey]) {
			superseded = append(superseded, s.id)
			changes = append(changes, Change[CalendarPeriod]{What: "removed", Was: s.CalendarPeriod})
		}
	}
	return changes, superseded, fresh
}

func currentPeriods(ctx context.Context, tx pgx.Tx) ([]storedPeriod, error) {
	rows, err := tx.Query(ctx, `
		select period_id, customer_id, subscription_number, clock, period_start, period_end, schedule, source
		from billing.period
		where superseded_at is null
		order by customer_id, subscription_number, clock, period_start`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s storedPeriod, err error) {
		var start, end time.Time
		err = row.Scan(&s.id, &s.CustomerID, &s.SubscriptionNumber, &s.Clock, &start, &end, &s.Schedule, &s.Source)
		s.Start, s.End = etl.DayOf(start), etl.DayOf(end)
		return s, err
	})
}

func insertPeriods(ctx context.Context, tx pgx.Tx, periods []CalendarPeriod, now time.Time) error {
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"billing", "period"},
		[]string{"customer_id", "subscription_number", "clock", "period_start", "period_end", "schedule", "source", "known_since"},
		pgx.CopyFromSlice(len(periods), func(i int) ([]any, error) {
			p := periods[i]
			return []any{p.CustomerID, p.SubscriptionNumber, p.Clock, p.Start.Time(), p.End.Time(), p.Schedule, p.Source, now}, nil
		}))
	return err
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
