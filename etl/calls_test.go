package etl_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"meterhouse/etl"
)

func TestClassOf(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		etl.CallOK:           nil,
		etl.CallNoData:       fmt.Errorf("extract: %w", etl.Rejected("no_data", "status 404")),
		etl.CallUnauthorized: fmt.Errorf("extract: %w", etl.ErrUnauthorized),
		etl.CallThrottled:    &etl.RejectError{Reason: "quota_exceeded", Class: etl.ErrThrottled},
		etl.CallTimeout:      etl.ErrTimeout,
		etl.CallUnavailable:  etl.ErrUnavailable,
		etl.CallContract:     etl.Rejected("http_status", "status 418"),
		etl.CallCanceled:     fmt.Errorf("GET: %w", context.Canceled),
		etl.CallFailed:       errors.New("disk full"),
	} {
		if got := etl.ClassOf(err); got != want {
			t.Errorf("%v is %s, want %s", err, got, want)
		}
	}
}

func TestCallsAreCountedForTheRunOfTheContext(t *testing.T) {
	t.Parallel()
	etl.CountCall(t.Context(), etl.CallOK) // nobody's
	if id := etl.RunID(t.Context()); id != 0 {
		t.Errorf("run %d without a run", id)
	}
	ctx, calls := etl.WithCalls(t.Context(), 7)
	other, others := etl.WithCalls(t.Context(), 8)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() { etl.CountCall(ctx, etl.CallOK) })
		wg.Go(func() { etl.CountCall(other, etl.CallTimeout) })
	}
	wg.Wait()
	calls.Move(etl.CallOK, etl.CallThrottled)
	others.Move(etl.CallTimeout, etl.CallTimeout)
	if got := calls.ByClass(); !maps.Equal(got, map[string]int{"ok": 99, "throttled": 1}) || etl.RunID(ctx) != 7 {
		t.Errorf("run %d: %v", etl.RunID(ctx), got)
	}
	if got := calls.LogValue().String() + "; " + others.LogValue().String(); got != "ok 99, throttled 1; timeout 100" {
		t.Errorf("in a log: %s", got)
	}
	if got := (*etl.Calls)(nil).LogValue().String(); got != "none" {
		t.Errorf("of nobody: %s", got)
	}
}

// A run speaks once, with everything that is known of it.
func TestRunSpeaksOnce(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	h := &house{}
	p := etl.Pipeline{Warehouse: h, Log: slog.New(slog.NewTextHandler(&log, nil)), Now: time.Now}
	v := &asking{}
	job := etl.Job{
		Source: "vendor", Dataset: "vendor.report", Scope: "C-1", Account: "acme", Windows: []etl.Window{{From: 0, Until: 4}},
		Slot: time.Date(2026, 5, 1, 2, 37, 0, 0, time.UTC),
	}
	if _, err := p.Run(t.Context(), v, job); err != nil {
		t.Fatal(err)
	}
	want := `level=INFO msg=loaded run=7 dataset=vendor.report scope=C-1 account=acme window=1970-01-01..1970-01-05 slot=2026-05-01T02:37:00Z ` +
		`received=1 inserted=1 restated=0 unchanged=0 ignored=0 quarantined=0 absent=0 calls="ok 1, unavailable 2" took=`
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, want) {
		t.Errorf("log:\n%s\nwant one line with\n%s", got, want)
	}
	if got := h.calls; !maps.Equal(got, map[string]int{"ok": 1, "unavailable": 2}) {
		t.Errorf("the warehouse was told of %v", got)
	}
}

// asking is a source that counts as fetch does.
type asking struct{ vendor }

func (a *asking) Extract(ctx context.Context, req etl.Request) (*etl.Answer, error) {
	etl.CountCall(ctx, etl.CallUnavailable)
	etl.CountCall(ctx, etl.CallUnavailable)
	etl.CountCall(ctx, etl.CallOK)
	return &etl.Answer{Request: req, Body: &body{}}, nil
}
