package billing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

// AccruedReadings are the ways in which the vendor's accrued column can be read.
var AccruedReadings = []string{"increment", "running"}

// SetAccruedReading records how the vendor's accrued column is read for an account in a month, by whom and
// why, and returns how it was read before. Statements follow, a closed month by adjustments of the open one;
// the decision before is kept for what was known until then. The same again changes nothing.
func (b *Billing) SetAccruedReading(ctx context.Context, account string, month Period, reading, by, reason string) (was string, err error) {
	err = b.change(ctx, "accrued_decision", false, func(tx pgx.Tx, now time.Time) error {
		if _, err := tx.Exec(ctx, `lock table dw.accrued_reading in share row exclusive mode`); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `select coalesce((select reading from dw.accrued_reading where account = $1 and month = $2), 'increment')`,
			account, month.First().Time()).Scan(&was)
		if err != nil || was == reading {
			return err
		}
		named := pgx.NamedArgs{"account": account, "month": month.First().Time(), "reading": reading, "by": by, "reason": reason, "now": now}
		for _, sql := range []string{
			// The first decision of ours keeps what was recorded without one.
			`insert into billing.accrued_decision (account, month, reading, decided_by, reason, known_since)
			select account, month, reading, decided_by, reason, least(decided_at, @now)
			from dw.accrued_reading as r
			where r.account = @account and r.month = @month
				and not exists (select from billing.accrued_decision as d where d.account = r.account and d.month = r.month)`,
			`update billing.accrued_decision set superseded_at = @now
			where account = @account and month = @month and superseded_at is null`,
			`insert into billing.accrued_decision (account, month, reading, decided_by, reason, known_since)
			values (@account, @month, @reading, @by, @reason, @now)`,
			`insert into dw.accrued_reading (account, month, reading, decided_by, reason, decided_at)
			values (@account, @month, @reading, @by, @reason, @now)
			on conflict (account, month) do update
			set reading = excluded.reading, decided_by = excluded.decided_by, reason = excluded.reason, decided_at = excluded.decided_at`,
		} {
			if _, err := tx.Exec(ctx, sql, named); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("reading of the accrued column of %s in %s: %w", account, month, err)
	}
	return was, nil
}

// Absence says what becomes of days that the vendor delivered once and delivers no more, or, when they
// are dropped, never delivered.
type Absence struct {
	CustomerID         string
	SubscriptionNumber string
	Discriminator      string // of subscriptions that share the number; empty is the first of them
	ServiceLevel       string
	LevelOrdinal       int
	First, Last        etl.Day // inclusive
	Decision           string  // keep or drop
	Reason             string
}

// DecideAbsence records a decision. It replaces earlier ones about the same days: what they say about
// other days stays. What it changes of a closed month is adjusted in the open one. The same again changes nothing.
func (b *Billing) DecideAbsence(ctx context.Context, a Absence) error {
	err := b.change(ctx, "absence", false, func(tx pgx.Tx, now time.Time) error {
		level := []any{a.CustomerID, a.SubscriptionNumber, a.Discriminator, a.ServiceLevel, a.LevelOrdinal}
		var known bool
		if err := tx.QueryRow(ctx, `select exists (
				select from dw.dim_service_level as l
				join dw.dim_subscription as s using (subscription_key)
				join dw.dim_customer as c on c.customer_key = l.customer_key
				where c.customer_id = $1 and s.subscription_number = $2 and s.discriminator = $3 and l.service_level = $4 and l.level_ordinal = $5)`,
			level...).Scan(&known); err != nil {
			return err
		}
		if !known {
			return errors.New("no such level was loaded: want one that `meterhouse levels absent` or `meterhouse report newest_readings` lists")
		}
		var same bool
		key := slices.Concat(level, []any{a.First.Time(), a.Last.Time()})
		if err := tx.QueryRow(ctx, `select exists (
				select from billing.absence
				where customer_id = $1 and subscription_number = $2 and discriminator = $3 and service_level = $4 and level_ordinal = $5
					and first_day = $6 and last_day = $7 and decision = $8 and reason = $9 and superseded_at is null)`,
			append(key, a.Decision, a.Reason)...).Scan(&same); err != nil || same {
			return err
		}
		rows, err := tx.Query(ctx, `
			update billing.absence set superseded_at = $8
			where customer_id = $1 and subscription_number = $2 and discriminator = $3 and service_level = $4 and level_ordinal = $5
				and first_day <= $7 and last_day >= $6 and superseded_at is null
			returning first_day, last_day, decision, reason`, append(key, now)...)
		if err != nil {
			return err
		}
		type span struct {
			First, Last      time.Time
			Decision, Reason string
		}
		spans, err := pgx.CollectRows(rows, pgx.RowToStructByPos[span])
		if err != nil {
			return err
		}
		rest := []span{{a.First.Time(), a.Last.Time(), a.Decision, a.Reason}}
		for _, s := range spans {
			if s.First.Before(a.First.Time()) {
				rest = append(rest, span{s.First, (a.First - 1).Time(), s.Decision, s.Reason})
			}
			if s.Last.After(a.Last.Time()) {
				rest = append(rest, span{(a.Last + 1).Time(), s.Last, s.Decision, s.Reason})
			}
		}
		for _, s := range rest {
			if _, err := tx.Exec(ctx, `
				insert into billing.absence (customer_id, subscription_number, discriminator, service_level, level_ordinal, first_day, last_day, decision, reason, known_since)
				values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
				slices.Concat(level, []any{s.First, s.Last, s.Decision, s.Reason, now})...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("decide about absent days of %s: %w", a.ServiceLevel, err)
	}
	return nil
}
