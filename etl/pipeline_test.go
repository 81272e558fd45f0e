package etl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meterhouse/etl"
)

// vendor is a source that answers as a test scripts it.
type vendor struct {
	asked   []string
	extract func(req etl.Request) error
}

func (v *vendor) Extract(_ context.Context, req etl.Request) (*etl.Answer, error) {
	v.asked = append(v.asked, strings.TrimSpace(req.Window.String()+" "+req.Product))
	ans := &etl.Answer{Request: req, Body: &body{}}
	return ans, v.extract(req)
}

func (v *vendor) Transform(*etl.Answer, etl.Sink) (etl.Report, error) { return etl.Report{}, nil }

type body struct{ closed int }

func (b *body) Open() (io.ReadCloser, error) { return io.NopCloser(&bytes.Buffer{}), nil }
func (b *body) Zstd() (etl.Frame, error)     { return etl.NewFrame(nil), nil }
func (b *body) SHA256() (sum [32]byte)       { return sum }
func (b *body) Size() int64                  { return 0 }
func (b *body) Close() error                 { b.closed++; return nil }

// house records what the pipeline asked of it.
type house struct {
	mu       sync.Mutex
	did      []string
	answers  []*etl.Answer
	busy     error
	released int
	slotOpen []bool // of each run, by its end
	calls    map[string]int
	full     string // the product whose answer cannot be landed
	stopped  bool   // the load was told so
}

func (h *house) does(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.did = append(h.did, fmt.Sprintf(format, args...))
}

func (h *house) Lease(_ context.Context, dataset, scope string) (etl.Lease, error) {
	h.does("lease")
	return h, h.busy
}
func (h *house) Release(context.Context) error { h.released++; return nil }
func (h *house) StartRun(_ context.Context, _ etl.Lease, job etl.Job, w etl.Window, _ time.Time) (etl.Run, error) {
	h.does("run %s", w)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slotOpen = append(h.slotOpen, job.SlotOpen)
	return &houseRun{h, len(h.slotOpen) - 1}, nil
}

type houseRun struct {
	*house
	n int
}

func (h *houseRun) ID() int64 { return 7 }
func (h *houseRun) LeaveSlotOpen() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slotOpen[h.n] = true
}
func (h *houseRun) Land(_ context.Context, a *etl.Answer) error {
	h.does("land %s", a.Request.Product)
	if h.full != "" && a.Request.Product == h.full {
		return errors.New("disk full")
	}
	return nil
}
func (h *houseRun) Load(ctx context.Context, answers []*etl.Answer, unanswered []error, _ func(*etl.Answer, etl.Sink) (etl.Report, error)) (etl.Outcome, error) {
	h.does("load %d, %d unanswered", len(answers), len(unanswered))
	h.answers = append(h.answers, answers...)
	h.calls = etl.CallsOf(ctx).ByClass()
	h.stopped = errors.Is(errors.Join(unanswered...), etl.ErrUnasked)
	return etl.Outcome{Inserted: 1, Received: 1, Rejected: unanswered}, nil
}
func (h *houseRun) Fail(ctx context.Context, evidence *etl.Answer, reason error) error {
	h.does("fail, evidence %v", evidence != nil)
	h.calls = etl.CallsOf(ctx).ByClass()
	return nil
}

func runPipeline(t *testing.T, h *house, v *vendor, job etl.Job) (etl.Outcome, error) {
	p := etl.Pipeline{Warehouse: h, Log: slog.New(slog.DiscardHandler), Now: time.Now}
	job.Dataset, job.Scope = "vendor.report", "C-1"
	out, err := p.Run(t.Context(), v, job)
	for _, a := range h.answers {
		if a.Body.(*body).closed == 0 {
			t.Error("a body was left open")
		}
	}
	return out, err
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
}

func TestPipelineHalvesWindowsThatTakeTooLong(t *testing.T) {
	h := &house{}
	v := &vendor{extract: func(req etl.Request) error {
		if req.Window.Days() > 2 {
			return fmt.Errorf("504: %w", etl.ErrTimeout)
		}
		return nil
	}}
	out, err := runPipeline(t, h, v, etl.Job{Windows: []etl.Window{{From: 0, Until: 5}}})
	if err != nil || out.Inserted != 3 {
		t.Fatalf("got %+v, %v", out, err)
	}
	want(t, v.asked, "1970-01-01..1970-01-06", "1970-01-03..1970-01-06", "1970-01-04..1970-01-06", "1970-01-03..1970-01-04", "1970-01-01..1970-01-03")
	if h.released != 1 {
		t.Errorf("lease released %d times", h.released)
	}
}

// A window that is asked for again in halves is no error in the log, and what is not there no attribute.
func TestPipelineLog(t *testing.T) {
	var log strings.Builder
	p := etl.Pipeline{Warehouse: &house{}, Log: slog.New(slog.NewTextHandler(&log, nil)), Now: time.Now}
	v := &vendor{extract: func(req etl.Request) error {
		if req.Window.Days() > 2 {
			return etl.ErrTimeout
		}
		return nil
	}}
	if _, err := p.Run(t.Context(), v, etl.Job{Windows: []etl.Window{{From: 0, Until: 4}}}); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); strings.Count(got, "level=INFO msg=halved") != 1 || strings.Contains(got, "ERROR") || strings.Contains(got, "WARN") {
		t.Errorf("log:\n%s", got)
	}
	v.extract = func(etl.Request) error { return etl.ErrTimeout } // one day has no halves
	if _, err := p.Run(t.Context(), v, etl.Job{Windows: []etl.Window{{From: 0, Until: 1}}}); err == nil || !strings.Contains(log.String(), "level=ERROR msg=failed") {
		t.Errorf("error %v, log:\n%s", err, log.String())
	}
}

// An unavailable vendor is asked for two windows in a row, not for every one of a long history.
func TestPipelineGivesUpOnAnUnavailableVendor(t *testing.T) {
	windows := []etl.Window{{From: 0, Until: 1}, {From: 1, Until: 2}, {From: 2, Until: 3}, {From: 3, Until: 4}, {From: 4, Until: 5}}
	for answered, asked := range map[etl.Day]int{-1: 2, 0: 3, 1: 4} { // the window that is answered
		v := &vendor{extract: func(req etl.Request) error {
			if req.Window.From == answered {
				return nil
			}
			return etl.ErrUnavailable
		}}
		if _, err := runPipeline(t, &house{}, v, etl.Job{Windows: windows}); !errors.Is(err, etl.ErrUnavailable) || len(v.asked) != asked {
			t.Errorf("window %d answered: asked for %d, want %d; %v", answered, len(v.asked), asked, err)
		}
	}
}

func TestPipelineGoesOnAfterAFailedWindowButNotWithoutRights(t *testing.T) {
	for class, asked := range map[error]int{etl.ErrUnavailable: 2, etl.ErrContract: 2, etl.ErrUnauthorized: 1, etl.ErrThrottled: 1} {
		h, v := &house{}, &vendor{extract: func(etl.Request) error { return class }}
		_, err := runPipeline(t, h, v, etl.Job{Windows: []etl.Window{{From: 1, Until: 2}, {From: 0, Until: 1}}})
		if !errors.Is(err, class) || len(v.asked) != asked {
			t.Errorf("%v: asked %d times, %v; want %d times", class, len(v.asked), err, asked)
		}
	}
}

func TestPipelineLandsSnapshotsAndLoadsWhatWasAnswered(t *testing.T) {
	h := &house{}
	v := &vendor{extract: func(req etl.Request) error {
		if req.Product == "b" {
			return etl.Rejected("api_unknown", "no such report")
		}
		return nil
	}}
	out, err := runPipeline(t, h, v, etl.Job{Windows: []etl.Window{{}}, Products: []string{"a", "b", "c"}, Snapshot: true})
	if err != nil || !out.Partial() {
		t.Fatalf("got %+v, %v; want a partial run", out, err)
	}
	want(t, h.did, "lease", "run now", "land a", "land b", "land c", "load 2, 1 unanswered")
}

// An answer that nobody can ask for again must not be asked for when it cannot be kept; nor may the slot count as
// done when the run was told to stop in the middle of it.
func TestPipelineLeavesTheRestForLater(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	for name, c := range map[string]struct {
		h       *house
		extract func(etl.Request) error
		ctx     context.Context
		did     []string
	}{
		"nothing can be landed": {&house{full: "b"}, func(etl.Request) error { return nil }, t.Context(),
			[]string{"lease", "run now", "land a", "land b", "land b", "load 1, 2 unanswered"}},
		"told to stop": {&house{}, func(req etl.Request) error {
			if req.Product == "b" {
				stop()
				return ctx.Err()
			}
			return nil
		}, ctx, []string{"lease", "run now", "land a", "land b", "load 1, 2 unanswered"}},
	} {
		v := &vendor{extract: c.extract}
		p := etl.Pipeline{Warehouse: c.h, Log: slog.New(slog.DiscardHandler), Now: time.Now}
		job := etl.Job{Dataset: "vendor.report", Scope: "C-1", Windows: []etl.Window{{}}, Products: []string{"a", "b", "c"}, Snapshot: true}
		_, _ = p.Run(c.ctx, v, job)
		if want := []string{"now a", "now b"}; !slices.Equal(v.asked, want) || !c.h.stopped {
			t.Errorf("%s: asked %v, told the load so: %v; want %v", name, v.asked, c.h.stopped, want)
		}
		want(t, c.h.did, c.did...)
	}
}

func TestPipelineStopsAskingAVendorThatIsDown(t *testing.T) {
	h, v := &house{}, &vendor{extract: func(etl.Request) error { return etl.ErrUnavailable }}
	_, err := runPipeline(t, h, v, etl.Job{Windows: []etl.Window{{}}, Products: []string{"a", "b", "c", "d"}, Snapshot: true})
	if !errors.Is(err, etl.ErrUnavailable) || len(v.asked) != 2 {
		t.Errorf("asked %v, %v; want two questions", v.asked, err)
	}
	want(t, h.did, "lease", "run now", "land a", "land b", "fail, evidence true")
}

func TestPipelineDoesTheSlotWithTheLastWindowOnly(t *testing.T) {
	windows := []etl.Window{{From: 2, Until: 3}, {From: 1, Until: 2}, {From: 0, Until: 1}}
	for failing, want := range map[etl.Day][]bool{-1: {true, true, false}, 2: {true, true, true}} {
		h := &house{}
		v := &vendor{extract: func(req etl.Request) error {
			if req.Window.From == failing {
				return etl.ErrUnavailable
			}
			return nil
		}}
		runPipeline(t, h, v, etl.Job{Windows: windows})
		if !slices.Equal(h.slotOpen, want) {
			t.Errorf("day %d fails: slot open %v, want %v", failing, h.slotOpen, want)
		}
	}
}

func TestPipelineMeetsABusyScope(t *testing.T) {
	h, v := &house{busy: &etl.BusyError{Dataset: "vendor.report", Scope: "C-1", Owner: "other"}}, &vendor{}
	_, err := runPipeline(t, h, v, etl.Job{Windows: []etl.Window{{}}})
	var busy *etl.BusyError
	if !errors.As(err, &busy) || len(v.asked) != 0 {
		t.Errorf("got %v after %d questions, want a BusyError after none", err, len(v.asked))
	}
}
