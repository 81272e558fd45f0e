package billing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// imported is a table of schema billing that files bring up to date: rows of which one holds at each place.
type imported[Row any, Place comparable] struct {
	table   string
	columns []string // as scan reads them, behind the number, and values tells them
	order   string   // in which removed rows are told
	scan    func(row pgx.CollectableRow, id *int64) (Row, error)
	values  func(Row) []any
	place   func(Row) Place
	becomes func(was, is Row) string // of the row of a place; unchanged ones are not touched
	settle  string                   // what lets the database judge at once
}

// bring replaces, adds and removes rows until those of the file hold. Of the stored rows at other places it
// removes those that isGone tells; check judges the file beside the rest. It returns what becomes of each
// row, in their order, and then the removed ones.
func (t imported[Row, Place]) bring(ctx context.Context, b *Billing, rows []Row, planOnly bool, isGone func(Row) bool,
	check func(rows, kept []Row) error) (changes []Change[Row], err error) {
	err = b.change(ctx, t.table, planOnly, func(tx pgx.Tx, now time.Time) error {
		type stored struct {
			id  int64
			row Row
		}
		found, err := tx.Query(ctx, fmt.Sprintf(`select %s_id, %s from billing.%s where superseded_at is null order by %s`,
			t.table, strings.Join(t.columns, ", "), t.table, t.order))
		if err != nil {
			return err
		}
		all, err := pgx.CollectRows(found, func(row pgx.CollectableRow) (s stored, err error) {
			s.row, err = t.scan(row, &s.id)
			return s, err
		})
		if err != nil {
			return err
		}
		at := map[Place]stored{}
		for _, s := range all {
			at[t.place(s.row)] = s
		}
		named := map[Place]bool{}
		var superseded []int64
		var fresh, kept []Row
		for _, r := range rows {
			here := t.place(r)
			named[here] = true
			change := Change[Row]{What: "added", Is: r}
			s, exists := at[here]
			if exists {
				change = Change[Row]{What: t.becomes(s.row, r), Was: s.row, Is: r}
			}
			if changes = append(changes, change); change.What == "unchanged" {
				continue
			}
			if fresh = append(fresh, r); exists {
				superseded = append(superseded, s.id)
			}
		}
		for _, s := range all {
			switch {
			case named[t.place(s.row)]:
			case isGone(s.row):
				superseded = append(superseded, s.id)
				changes = append(changes, Change[Row]{What: "removed", Was: s.row})
			default:
				kept = append(kept, s.row)
			}
		}
		if check != nil {
			if err := check(rows, kept); err != nil {
				return err
			}
		}
		if err := supersede(ctx, tx, t.table, t.table+"_id", superseded, now); err != nil {
			return err
		}
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"billing", t.table}, slices.Concat(t.columns, []string{"known_since"}),
			pgx.CopyFromSlice(len(fresh), func(i int) ([]any, error) { return append(t.values(fresh[i]), now), nil })); err != nil {
			return err
		}
		if t.settle != "" {
			_, err = tx.Exec(ctx, t.settle)
		}
		return err
	})
	return changes, err
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
