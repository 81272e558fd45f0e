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
	var windows []etl.Window
	for d := day("2026-05-15"); d > day("2026-03-15"); d -= 10 {
		windows = append(windows, etl.Window{From: d - 10, Until: d})
	}
	out, err := h.pipe(w, src, windows)
	if err != nil || out.Inserted != 10*len(windows) {
		t.Errorf("got %+v, %v", out, err)
	}
	h.want(`select status, count(*) from ops.run group by status`, fmt.Sprintf("ok|%d", len(windows)))
}

// The first load of a customer, which holds its dimensions, does not keep the next window, of months that
// were never seen, from being asked for.
func TestFirstLoadDoesNotHoldUpTheNextWindow(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	windows := []etl.Window{window("2026-04-20", "2026-05-15"), window("2026-03-01", "2026-03-20"), window("2026-01-10", "2026-01-20")}
	asked, written := make(chan struct{}), make(chan struct{})
	src := &daySource{w: h.Warehouse, now: h.now}
	src.atExtract = func(w etl.Window) {
		if w == windows[1] {
			close(asked)
		}
	}
	src.atLoad = func(w etl.Window) error {
		if w != windows[0] {
			return nil
		}
		close(written)
		select {
		case <-asked:
			return nil
		case <-time.After(20 * time.Second):
			return errors.New("the next window is not asked for while this one is loaded")
		}
	}
	out, err := h.pipe(lateStart{h.Warehouse, windows[1], written}, src, windows)
	if err != nil || out.Inserted != 25+19+10 {
		t.Errorf("got %+v, %v", out, err)
	}
}

// lateStart starts the run of a window only when the load before it has written something.
type lateStart struct {
	etl.Warehouse
	window  etl.Window
	written chan struct{}
}

func (w lateStart) StartRun(ctx context.Context, l etl.Lease, job etl.Job, window etl.Window, at time.Time) (etl.Run, error) {
	if window == w.window {
		<-w.written
	}
	return w.Warehouse.StartRun(ctx, l, job, window, at)
}

// pipe loads windows of history through a pipeline.
func (h *house) pipe(w etl.Warehouse, src etl.Source, windows []etl.Window) (etl.Outcome, error) {
	p := etl.Pipeline{Warehouse: w, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return h.now }}
	return p.Run(h.t.Context(), src, etl.Job{
		Source: "keystone", Dataset: "keystone.history", Scope: "C-1", Account: "acme", Expected: day("2026-01-01"), Windows: windows,
	})
}

// daySource tells one sample of each day, and looks into the warehouse while it is asked, as a vendor's
// token does.
type daySource struct {
	w         *Warehouse
	now       time.Time
	calls     atomic.Int32
	atExtract func(etl.Window)
	atLoad    func(etl.Window) error // when its samples are written
}

func (s *daySource) Extract(ctx context.Context, req etl.Request) (*etl.Answer, error) {
	if _, err := s.w.Credentials().Credential(ctx, "acme"); !errors.Is(err, etl.ErrNoCredential) {
		return nil, err
	}
	if s.atExtract != nil {
		s.atExtract(req.Window)
	}
	return &etl.Answer{
		Request: req, Method: "GET", URL: "http://localhost/", Status: 200, RequestedAt: s.now, FetchedAt: s.now,
		Body: memory(fmt.Sprintf("body %d", s.calls.Add(1))),
	}, nil
}

func (s *daySource) Transform(ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
	var samples []etl.Sample
	for d := ans.Request.Window.From; d < ans.Request.Window.Until; d++ {
		samples = append(samples, sample(d.String()+"T00:00:00Z", "110"))
	}
	report := etl.Report{Records: 1, Received: len(samples), Warnings: etl.Warnings{}}
	err := sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(samples...)}})
	if err == nil && s.atLoad != nil {
		err = s.atLoad(ans.Request.Window)
	}
	return report, err
}

// A month that cannot be made, such as one that somebody took out and keeps, is the failure of the windows that touch
// it, not of the first window, which asks for the newest days.
func TestBadMonthFailsItsOwnWindowOnly(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	if err := h.makePartitions(t.Context(), window("2026-03-01", "2026-03-02")); err != nil {
		t.Fatal(err)
	}
	h.exec(`alter table dw.fact_consumption_sample detach partition dw.fact_consumption_sample_2026_03`)
	windows := []etl.Window{window("2026-04-20", "2026-05-15"), window("2026-03-01", "2026-03-20"), window("2026-01-10", "2026-01-20")}
	out, err := h.pipe(h.Warehouse, &daySource{w: h.Warehouse, now: h.now}, windows)
	if err == nil || out.Inserted != 25+10 {
		t.Errorf("got %+v, %v; want the failure of the second window and the days of the others", out, err)
	}
	h.want(`select window_from, status from ops.run order by run_id`, "2026-04-20|ok", "2026-03-01|failed", "2026-01-10|ok")
}
