package billing

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"meterhouse/etl/warehouse/warehousetest"
)

func TestMain(m *testing.M) { warehousetest.Main(m) }

// office is a Billing on a database of the test's own, with a business clock to move.
type office struct {
	*Billing
	t   testing.TB
	url string
	now time.Time
}

func newOffice(t testing.TB) *office {
	t.Helper()
	o := &office{t: t, url: warehousetest.New(t), now: at("2026-05-15T12:00:00Z")}
	pool, err := pgxpool.New(context.Background(), o.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	o.Billing = New(pool, func() time.Time { return o.now })
	return o
}

func at(text string) time.Time {
	when, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return when
}

// rows is the result of a query of one text column.
func (o *office) rows(sql string, args ...any) []string {
	o.t.Helper()
	rows, err := o.pool.Query(context.Background(), sql, args...)
	if err != nil {
		o.t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		o.t.Fatalf("%s: %v", sql, err)
	}
	return list
}

func (o *office) want(sql string, want ...string) {
	o.t.Helper()
	if got := o.rows(sql); strings.Join(got, "\n") != strings.Join(want, "\n") {
		o.t.Errorf("%s\n got %q\nwant %q", sql, got, want)
	}
}

func (o *office) exec(sql string, args ...any) {
	o.t.Helper()
	if _, err := o.pool.Exec(context.Background(), sql, args...); err != nil {
		o.t.Fatalf("%s: %v", sql, err)
	}
}

// refused demands that the database refuses a statement, with the given words.
func (o *office) refused(word, sql string, args ...any) {
	o.t.Helper()
	if _, err := o.pool.Exec(context.Background(), sql, args...); err == nil || !strings.Contains(err.Error(), word) {
		o.t.Errorf("%s: got %v, want a refusal with %q", sql, err, word)
	}
}
