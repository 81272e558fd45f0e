package warehouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"meterhouse/etl"
)

// A warehouse of one connection serves a pipeline that begins the next run while this one loads: neither
// waits for the other for ever.
func TestOneConnectionIsEnough(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	w, err := Open(t.Context(), Config{
		URL: h.url, Owner: "test", Now: func() time.Time { return h.now }, Fixed: true, MaxConns: 1, LeaseFor: 30 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	src := &daySource{w: w, now: h.now}
	p := etl.Pipeline{Warehouse: w, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return h.now }}
	job := etl.Job{Source: "keystone", Dataset: "keystone.history", Scope: "C-1", Account: "acme", Expected: day("2026-01-01")}
	for d := day("2026-05-15"); d > day("2026-03-15"); d -= 10 {
		job.Windows = append(job.Windows, etl.Window{From: d - 10, Until: d})
	}
	out, err := p.Run(t.Context(), src, job)
	if err != nil || out.Inserted != 10*len(job.Windows) {
		t.Errorf("got %+v, %v", out, err)
	}
	h.want(`select status, count(*) from ops.run group by status`, fmt.Sprintf("ok|%d", len(job.Windows)))
}

// daySource tells one sample of each day, and looks into the warehouse while it is asked, as a vendor's
// token does.
type daySource struct {
	w     *Warehouse
	now   time.Time
	calls atomic.Int32
}

func (s *daySource) Extract(ctx context.Context, req etl.Request) (*etl.Answer, error) {
	if _, err := s.w.Credentials().Credential(ctx, "acme"); !errors.Is(err, etl.ErrNoCredential) {
		return nil, err
	}
	n := s.calls.Add(1)
	return &etl.Answer{
		Request: req, Method: "GET", URL: "http://localhost/", Status: 200, RequestedAt: s.now, FetchedAt: s.now,
		Body: memory(fmt.Sprintf("body %d", n)),
	}, nil
}

func (s *daySource) Transform(ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
	var samples []etl.Sample
	for d := ans.Request.Window.From; d < ans.Request.Window.Until; d++ {
		samples = append(samples, sample(d.String()+"T00:00:00Z", "110"))
	}
	return etl.Report{Records: 1, Received: len(samples), Warnings: etl.Warnings{}},
		sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(samples...)}})
}
