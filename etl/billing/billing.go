// Package billing is what finance does with the facts: prices, billing calendar, statement, close,
// adjustments and the match with the vendor's invoice. Amounts are exact decimals and are rounded once
// per line, half away from zero, to the minor unit of their currency. Statements are computed in the
// database by the functions that the views of mart are made of, so that SQL and commands tell the same.
package billing

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"meterhouse/etl"
)

// Billing works on the tables of schema billing. It is safe for concurrent use and closes nothing.
type Billing struct {
	pool *pgxpool.Pool
	now  func() time.Time // business clock
	tx   pgx.Tx           // what is read is read in it; nil: each question has a snapshot of its own
}

// New uses a pool that the caller closes, and the business clock.
func New(pool *pgxpool.Pool, now func() time.Time) *Billing { return &Billing{pool: pool, now: now} }

// Period is a calendar month by which billing is spoken of. What is billed in it are the lines whose
// billing period ends in it.
type Period struct{ month etl.Day }

// ParsePeriod reads YYYY-MM.
func ParsePeriod(text string) (Period, error) {
	t, err := time.Parse("2006-01", text)
	if err != nil {
		return Period{}, fmt.Errorf("period %q: want a month as YYYY-MM", text)
	}
	return Period{etl.DayOf(t)}, nil
}

// String is YYYY-MM.
func (p Period) String() string { return p.month.Time().Format("2006-01") }

// First is the first day of the month.
func (p Period) First() etl.Day { return p.month }

// Last is the last day of the month.
func (p Period) Last() etl.Day { return p.month.NextMonth() - 1 }
