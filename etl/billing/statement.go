package billing

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"meterhouse/etl"
)

// Line is one line of a statement: a row of mart.statement. Quantities and amounts are exact.
type Line struct {
	Period             string
	PeriodStart        etl.Day
	PeriodEnd          etl.Day // inclusive
	Source             string
	CustomerID         string // empty for wolkvox
	Account            string
	SubscriptionNumber string // empty for wolkvox
	Item               string // service level by name, or product
	Charge             string
	Quantity           decimal.NullDecimal // unknown when no day of it is
	Unit               string
	UnitPrice          decimal.NullDecimal // unknown without a rate, as Amount
	Amount             decimal.NullDecimal
	Currency           string // empty without a rate
	State              string // provisional, final or closed
	DaysExpected       int
	DaysObserved       int
	Discriminator      string
	Description        string
	IsWaiver           bool
	LevelClass         string // empty for wolkvox
	DaysEstimated      int
	SegmentFrom        etl.Day
	SegmentTo          etl.Day
	RateID             int64 // 0 without a rate
	Note               string
}

// Statement is what a month comes to.
type Statement struct {
	Period Period
	AsOf   time.Time // what was known then; zero: now
	Lines  []Line
}

// Total is what the priced lines of one currency add up to. Amounts of lines are rounded, sums are not.
type Total struct {
	Currency    string
	Amount      decimal.Decimal
	Lines       int
	Provisional int // of these
}

// Selection is which lines are wanted; empty means any.
type Selection struct {
	CustomerID string
	Account    string
}

// Totals are the sums of the lines' amounts, by currency. Lines without a rate are in none.
func (s Statement) Totals() []Total {
	var totals []Total
	for _, l := range s.Lines {
		if !l.Amount.Valid {
			continue
		}
		i := slices.IndexFunc(totals, func(t Total) bool { return t.Currency == l.Currency })
		if i < 0 {
			i, totals = len(totals), append(totals, Total{Currency: l.Currency})
		}
		totals[i].Amount = totals[i].Amount.Add(l.Amount.Decimal)
		totals[i].Lines++
		if l.State == "provisional" {
			totals[i].Provisional++
		}
	}
	slices.SortFunc(totals, func(a, b Total) int { return cmp.Compare(a.Currency, b.Currency) })
	return totals
}

// Statement is a month as it was known at an instant, the zero time meaning now. Lines come in the order
// of people: by vendor, customer or account, subscription, item, charge and day.
func (b *Billing) Statement(ctx context.Context, period Period, asOf time.Time, only Selection) (Statement, error) {
	s := Statement{Period: period, AsOf: asOf}
	err := b.read(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			select
				period, period_start, period_end, source, customer_id, account, subscription_number, item, charge, quantity::text, unit,
				unit_price::text, amount::text, coalesce(currency, ''), state, days_expected, days_observed, discriminator, description, is_waiver,
				coalesce(level_class, ''), days_estimated, segment_from, segment_to, coalesce(rate_id, 0), coalesce(note, '')
			from billing.statement($1, $2)
			where ($3 = '' or customer_id = $3) and ($4 = '' or account = $4)
			order by source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, period_start, segment_from, rate_id`,
			period.String(), instant(asOf), only.CustomerID, only.Account)
		if err != nil {
			return err
		}
		s.Lines, err = pgx.CollectRows(rows, scanLine)
		return err
	})
	if err != nil {
		return Statement{}, fmt.Errorf("statement of %s: %w", period, err)
	}
	return s, nil
}

// StatementDay is a day behind a line of a statement: a row of billing.statement_day.
type StatementDay struct {
	PeriodStart        etl.Day
	PeriodEnd          etl.Day
	Source             string
	CustomerID         string
	Account            string
	SubscriptionNumber string
	Discriminator      string
	Item               string
	LevelOrdinal       int
	Description        string
	Charge             string
	IsWaiver           bool
	Day                etl.Day
	Quantity           decimal.NullDecimal // divided by Scale it is the day's part of its line's quantity
	Scale              int
	Basis              string    // observed, estimated, absent_kept, dropped or missing
	KnownSince         time.Time // zero where nothing is known
	Reading            decimal.NullDecimal
	Doubt              string // what keeps the line from being final
	RateID             int64
}

// Days are the days of a statement's lines, in the order of the lines.
func (b *Billing) Days(ctx context.Context, period Period, asOf time.Time, only Selection) (days []StatementDay, err error) {
	err = b.read(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			select `+dayColumns+`
			from billing.statement_day($1, $2)
			where ($3 = '' or customer_id = $3) and ($4 = '' or account = $4)
			order by source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, period_start, day, level_ordinal`,
			period.String(), instant(asOf), only.CustomerID, only.Account)
		if err != nil {
			return err
		}
		days, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (StatementDay, error) { return scanDay(row) })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("days of the statement of %s: %w", period, err)
	}
	return days, nil
}

const dayColumns = `period_start, period_end, source, customer_id, account, subscription_number, discriminator, item, level_ordinal, description, charge,
	is_waiver, day, quantity::text, scale, basis, known_since, reading::text, coalesce(doubt, ''), coalesce(rate_id, 0)`

// scanDay reads dayColumns and what more was asked for behind them.
func scanDay(row pgx.CollectableRow, more ...any) (d StatementDay, err error) {
	var start, end, day time.Time
	var quantity, reading *string
	var known *time.Time
	if err := row.Scan(append([]any{&start, &end, &d.Source, &d.CustomerID, &d.Account, &d.SubscriptionNumber, &d.Discriminator, &d.Item, &d.LevelOrdinal,
		&d.Description, &d.Charge, &d.IsWaiver, &day, &quantity, &d.Scale, &d.Basis, &known, &reading, &d.Doubt, &d.RateID}, more...)...); err != nil {
		return d, err
	}
	d.PeriodStart, d.PeriodEnd, d.Day = etl.DayOf(start), etl.DayOf(end), etl.DayOf(day)
	if known != nil {
		d.KnownSince = *known
	}
	return d, exact(map[*decimal.NullDecimal]*string{&d.Quantity: quantity, &d.Reading: reading})
}

func scanLine(row pgx.CollectableRow) (l Line, err error) {
	var start, end, from, to time.Time
	var quantity, price, amount *string
	if err := row.Scan(&l.Period, &start, &end, &l.Source, &l.CustomerID, &l.Account, &l.SubscriptionNumber, &l.Item, &l.Charge, &quantity, &l.Unit,
		&price, &amount, &l.Currency, &l.State, &l.DaysExpected, &l.DaysObserved, &l.Discriminator, &l.Description, &l.IsWaiver,
		&l.LevelClass, &l.DaysEstimated, &from, &to, &l.RateID, &l.Note); err != nil {
		return l, err
	}
	l.PeriodStart, l.PeriodEnd, l.SegmentFrom, l.SegmentTo = etl.DayOf(start), etl.DayOf(end), etl.DayOf(from), etl.DayOf(to)
	return l, exact(map[*decimal.NullDecimal]*string{&l.Quantity: quantity, &l.UnitPrice: price, &l.Amount: amount})
}

// exact reads numerics that came as text: with the digits they have.
func exact(cells map[*decimal.NullDecimal]*string) error {
	for to, text := range cells {
		if text == nil {
			continue
		}
		d, err := decimal.NewFromString(*text)
		if err != nil {
			return err
		}
		*to = decimal.NewNullDecimal(d)
	}
	return nil
}

// instant is a time as the functions of the database take it: the zero time is infinity, which is now.
func instant(t time.Time) string {
	if t.IsZero() {
		return "infinity"
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// read runs f in one snapshot, by the business clock.
func (b *Billing) read(ctx context.Context, f func(pgx.Tx) error) error {
	if b.tx != nil {
		return f(b.tx)
	}
	return pgx.BeginTxFunc(ctx, b.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config('meterhouse.now', $1, true)`, b.now().UTC().Format(time.RFC3339Nano)); err != nil {
			return err
		}
		return f(tx)
	})
}

// Subscription is the line's subscription or operation in words.
func (l Line) Subscription() string {
	return strings.TrimSpace(l.SubscriptionNumber + " " + l.Discriminator)
}
