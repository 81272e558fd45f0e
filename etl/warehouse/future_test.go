package warehouse

import (
	"testing"

	"time"

	"context"
)

// A lease that was renewed while the database's clock was ahead keeps nobody out.
func TestLeaseFromTheFuture(t *testing.T) {
	h := newHouse(t)
	l, err := h.Lease(t.Context(), "wolkvox.billing", "calls")
	if err != nil {
		t.Fatal(err)
	}
	l.(*lease).stop() // its process dies
	<-l.(*lease).stopped
	h.exec(`update ops.lease set expires_at = clock_timestamp() + interval '1 day'`) // written by a clock that was a day ahead
	if _, err := h.Lease(t.Context(), "wolkvox.billing", "calls"); err != nil {
		t.Errorf("no lease lasts longer than %s: %v", leaseFor, err)
	}
}

// Close does not wait for ever for a connection that somebody does not give back.
func TestCloseEnds(t *testing.T) {
	h := newHouse(t)
	conn, err := h.Pool().Acquire(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	done := make(chan struct{})
	go func() { h.Warehouse.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("Close waits without a bound")
	}
}
