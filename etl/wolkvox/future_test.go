package wolkvox

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// The database's clock was a day ahead for a while: calls that it stamped then hold nothing back.
func TestCallsFromTheFuture(t *testing.T) {
	b := newBench(t, "2026-05-31T20:00:00Z", wolkvoxsim.Config{}) // 15:00 in Bogota on the last day
	a := b.process(nil)
	right := b.clock()
	b.set(right.Add(24 * time.Hour)) // machine and database, one host
	if n, err := slot(t.Context(), a, "vision", "rsync"); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	b.set(right)
	for i := range 54 { // to 23:50 that day, through the closing readings
		b.set(right.Add(time.Duration(i) * 10 * time.Minute))
		n, err := slot(t.Context(), a, "vision", "rsync")
		if n == 2 {
			return
		}
		if i%10 == 0 {
			t.Log(b.clock(), n, err)
		}
	}
	_, err := slot(t.Context(), a, "vision", "rsync")
	t.Errorf("the month's end passed without a reading: %v", err)
}

// A call that was open when the clock came back blocks nobody.
func TestOpenCallFromTheFuture(t *testing.T) {
	b := newBench(t, "2026-05-31T20:00:00Z", wolkvoxsim.Config{})
	a := b.process(nil)
	if n, err := slot(t.Context(), a, "vision"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	conn, err := pgx.Connect(t.Context(), b.database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `insert into ops.vendor_call (credential, account, product, owner, started_at, lost_at)
		select credential, account, 'rsync', 'dead', started_at + interval '1 day', started_at + interval '1 day 2 minutes' from ops.vendor_call where product = 'vision'`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	b.set(b.clock().Add(2 * time.Hour))
	if n, err := slot(ctx, a, "vision"); n != 1 {
		t.Errorf("two hours later: %d, %v", n, err)
	}
}
