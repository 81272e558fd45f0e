package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

var errPlanned = errors.New("only a plan")

// Change is what an import does to one row of a table of finance.
type Change[Row any] struct {
	What string // added, changed, ended (a price), removed or unchanged
	Was  Row    // the stored row; the zero value when added
	Is   Row    // the row from now on; the zero value when removed
}

// change hands do a transaction in which nobody else writes the table, and the business clock. With
// planOnly nothing of it stays.
func (b *Billing) change(ctx context.Context, table string, planOnly bool, do func(tx pgx.Tx, now time.Time) error) error {
	err := pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		name := pgx.Identifier{"billing", table}.Sanitize()
		if _, err := tx.Exec(ctx, `lock table `+name+` in share row exclusive mode`); err != nil {
			return err
		}
		// What was known at a time must stay so: nothing is written before the newest entry.
		var last *time.Time
		if err := tx.QueryRow(ctx, `select max(greatest(known_since, superseded_at)) from `+name).Scan(&last); err != nil {
			return err
		}
		now := b.now().UTC().Truncate(time.Microsecond)
		if last != nil && now.Before(*last) {
			return fmt.Errorf("the business clock says %s, and %s was changed at %s: want a later --now",
				now.Format(time.RFC3339), name, last.UTC().Format(time.RFC3339))
		}
		if err := do(tx, now); err != nil {
			return err
		}
		if planOnly {
			return errPlanned
		}
		return nil
	})
	if errors.Is(err, errPlanned) {
		return nil
	}
	return err
}

// supersede ends what is known of rows.
func supersede(ctx context.Context, tx pgx.Tx, table, key string, ids []int64, now time.Time) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, fmt.Sprintf(`update billing.%s set superseded_at = $2 where %s = any ($1)`, table, key), ids, now)
	return err
}

// Conflict is a row of a file that cannot stand beside a stored one which the file does not name.
type Conflict struct {
	Row    int // of what was handed in, from 0
	Reason string
}

// ConflictError says which rows cannot be imported, and why. Nothing is imported then.
type ConflictError []Conflict

func (e ConflictError) Error() string {
	return fmt.Sprintf("%d rows contradict stored ones, the first: %s", len(e), e[0].Reason)
}

// dayOf reads a date of the database.
func dayOf(t *time.Time) *etl.Day {
	if t == nil {
		return nil
	}
	d := etl.DayOf(t.UTC())
	return &d
}
