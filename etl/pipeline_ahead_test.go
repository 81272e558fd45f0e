package etl_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meterhouse/etl"
)

// theatre is a vendor and a warehouse at once, of which a test scripts every window: what the vendor
// answers, what becomes of the load, and how long both take. It notices what must not be.
type theatre struct {
	extracts, loads map[etl.Window]string // what happens other than good
	extractTakes    time.Duration
	loadTakes       time.Duration
	atExtract       func(ctx context.Context, w etl.Window) // while it is asked for
	atLoad          func(load int)                          // while one goes on
	cancel          context.CancelFunc                      // of the whole run

	mu         sync.Mutex
	begun      []etl.Window // runs, in order
	closed     []etl.Window // of them, in the order in which they ended
	loaded     []etl.Window // with success
	toLoad     []etl.Window // whose load was begun
	answered   []etl.Window // with success
	asking     int
	loading    int
	bodies     int // that are open
	mostBodies int
	slotDone   []etl.Window // of the loaded
	released   int
	wrong      []string
}

func (h *theatre) locked(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

func (h *theatre) complain(format string, args ...any) {
	h.wrong = append(h.wrong, fmt.Sprintf(format, args...))
}

// trunk is a body that its theatre counts.
type trunk struct {
	body
	theatre *theatre
}

func (b *trunk) Close() error {
	b.theatre.locked(func() {
		if b.closed == 0 {
			b.theatre.bodies--
		}
		b.closed++
	})
	return nil
}

func (h *theatre) answer(req etl.Request) *etl.Answer {
	h.bodies++
	h.mostBodies = max(h.mostBodies, h.bodies)
	return &etl.Answer{Request: req, Body: &trunk{theatre: h}}
}

var extractErrors = map[string]error{
	"contract": etl.Rejected("not_found", "404"), "down": etl.ErrUnavailable, "slow": etl.ErrTimeout,
	"login": etl.ErrUnauthorized, "hurry": etl.ErrThrottled, "ours": errors.New("disk full"),
}

func (h *theatre) Extract(ctx context.Context, req etl.Request) (ans *etl.Answer, err error) {
	h.locked(func() {
		if h.asking++; h.asking > 1 {
			h.complain("%s is asked for beside another window", req.Window)
		}
	})
	defer h.locked(func() { h.asking-- })
	what := h.extracts[req.Window]
	if h.atExtract != nil {
		h.atExtract(ctx, req.Window)
	}
	if what == "cancel" {
		h.cancel()
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(h.extractTakes):
	}
	h.locked(func() {
		if err = extractErrors[what]; err == nil {
			h.answered = append(h.answered, req.Window)
		}
		if err == nil || what == "contract" {
			ans = h.answer(req)
		}
	})
	return ans, err
}

func (h *theatre) Transform(*etl.Answer, etl.Sink) (etl.Report, error) { return etl.Report{}, nil }

func (h *theatre) Lease(context.Context, string, string) (etl.Lease, error) { return h, nil }

func (h *theatre) Release(context.Context) error {
	h.locked(func() {
		if h.released++; h.asking+h.loading > 0 {
			h.complain("the lease is given back while work goes on")
		}
	})
	return nil
}

func (h *theatre) StartRun(ctx context.Context, _ etl.Lease, job etl.Job, w etl.Window, _ time.Time) (etl.Run, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := &scene{theatre: h, window: w, slotOpen: job.SlotOpen}
	h.locked(func() {
		h.begun = append(h.begun, w)
		r.id = len(h.begun)
	})
	return r, nil
}

// scene is a run in a theatre.
type scene struct {
	*theatre
	window   etl.Window
	id       int
	slotOpen bool
	ended    bool
}

func (r *scene) ID() int64                               { return int64(r.id) }
func (r *scene) LeaveSlotOpen()                          { r.slotOpen = true }
func (r *scene) Land(context.Context, *etl.Answer) error { return nil }

func (r *scene) end() {
	if r.ended {
		r.complain("run of %s ends twice", r.window)
	}
	r.ended = true
	r.closed = append(r.closed, r.window)
}

func (r *scene) Fail(context.Context, *etl.Answer, error) error {
	r.locked(r.end)
	return nil
}

var loadErrors = map[string]error{
	"fails": errors.New("disk full"), "fenced": etl.ErrFenced,
	"page": &etl.RejectError{Reason: "json_syntax", Class: etl.ErrUnavailable}, "refused": etl.Rejected("wrong_customer", ""),
}

func (r *scene) Load(ctx context.Context, answers []*etl.Answer, _ []error, _ func(*etl.Answer, etl.Sink) (etl.Report, error)) (out etl.Outcome, err error) {
	what, n := r.loads[r.window], 0
	r.locked(func() {
		if r.loading++; r.loading > 1 {
			r.complain("%s is loaded beside another window", r.window)
		}
		r.toLoad = append(r.toLoad, r.window)
		n = len(r.toLoad)
		if len(answers) != 1 || answers[0].Request.Window != r.window || answers[0].Body.(*trunk).closed > 0 {
			r.complain("%s is loaded from other than its open answer", r.window)
		}
	})
	if r.atLoad != nil {
		r.atLoad(n)
	}
	if what == "panics" {
		r.locked(func() { r.loading-- })
		panic("at the load")
	}
	if what == "cancel" {
		r.cancel()
	}
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(r.loadTakes):
		err = loadErrors[what]
	}
	r.locked(func() {
		r.loading--
		r.end()
		if err == nil {
			out.Received, out.Inserted = r.window.Days(), r.window.Days()
			r.loaded = append(r.loaded, r.window)
			if !r.slotOpen {
				r.slotDone = append(r.slotDone, r.window)
			}
		}
	})
	return out, err
}

func (h *theatre) play(ctx context.Context, windows []etl.Window, stop func() bool) (etl.Outcome, error) {
	ctx, h.cancel = context.WithCancel(ctx)
	defer h.cancel()
	p := etl.Pipeline{Warehouse: h, Log: slog.New(slog.DiscardHandler), Now: time.Now, Stop: stop}
	return p.Run(ctx, h, etl.Job{Dataset: "vendor.report", Scope: "C-1", Windows: windows})
}

// twoDays are windows of two days, newest first.
func twoDays(n int) (windows []etl.Window) {
	for i := range n {
		until := etl.Day(2 * (n - i))
		windows = append(windows, etl.Window{From: until - 2, Until: until})
	}
	return windows
}

// While a window is loaded the next one is asked for, and only that one: at most one answer waits.
func TestPipelineAsksOneWindowAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		windows := twoDays(5)
		loadBegun := make(chan int)
		h := &theatre{}
		h.atExtract = func(_ context.Context, w etl.Window) {
			if w != windows[0] { // the vendor answers once the load of the former answer goes on
				if load := <-loadBegun; windows[load] != w {
					t.Errorf("%s is asked for at load %d", w, load)
				}
			}
		}
		h.atLoad = func(load int) {
			if load < len(windows) {
				loadBegun <- load
			}
			synctest.Wait() // nobody can do anything until this load goes on
			h.locked(func() {
				if got, want := len(h.answered), min(load+1, len(windows)); got != want || h.bodies != want-load+1 || h.asking != 0 {
					t.Errorf("load %d: %d windows answered, %d bodies open, %d questions; want %d, %d and none", load, got, h.bodies, h.asking, want, want-load+1)
				}
			})
		}
		out, err := h.play(t.Context(), windows, nil)
		if err != nil || out.Inserted != 10 || !slices.Equal(h.closed, windows) || h.mostBodies != 2 || len(h.wrong) > 0 {
			t.Errorf("got %+v, %v; closed %v; at most %d bodies; %v", out, err, h.closed, h.mostBodies, h.wrong)
		}
	})
}

// What is awaited when there is no use in it any more is not awaited to its end.
func TestPipelineBreaksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		windows := twoDays(3)
		h := &theatre{loads: map[etl.Window]string{windows[0]: "fenced"}, atLoad: func(int) { synctest.Wait() }}
		h.atExtract = func(ctx context.Context, w etl.Window) {
			if w == windows[1] {
				<-ctx.Done() // for ever
			}
		}
		if _, err := h.play(t.Context(), windows, nil); !errors.Is(err, etl.ErrFenced) || !slices.Equal(h.closed, windows[:2]) || len(h.wrong) > 0 {
			t.Errorf("closed %v, %v; %v", h.closed, err, h.wrong)
		}
	})
}

// Every combination of what a vendor may answer and what may become of a load, for three windows, with
// a stop at any time, while asking takes longer than loading and the other way round: what holds then.
func TestPipelineInEveryCombination(t *testing.T) {
	extracts := []string{"contract", "down", "slow", "login", "hurry", "ours", "cancel"}
	loads := []string{"", "fails", "fenced", "page", "refused", "cancel"}
	windows := twoDays(3)
	fates := len(extracts) + len(loads)
	for n := range fates * fates * fates {
		for _, stopAt := range []int{0, 1, 2, 3} { // the load at which somebody asks for a stop; 0: never
			for _, asksLonger := range []bool{false, true} {
				h := &theatre{extracts: map[etl.Window]string{}, loads: map[etl.Window]string{}, extractTakes: 2 * time.Second, loadTakes: 5 * time.Second}
				if asksLonger {
					h.extractTakes, h.loadTakes = h.loadTakes, h.extractTakes
				}
				for i, rest := 0, n; i < len(windows); i, rest = i+1, rest/fates {
					if fate := rest % fates; fate < len(extracts) {
						h.extracts[windows[i]] = extracts[fate]
					} else {
						h.loads[windows[i]] = loads[fate-len(extracts)]
					}
				}
				synctest.Test(t, func(t *testing.T) {
					isStopped := false
					h.atLoad = func(load int) { h.locked(func() { isStopped = isStopped || load == stopAt }) }
					out, err := h.play(t.Context(), windows, func() (yes bool) { h.locked(func() { yes = isStopped }); return yes })
					h.judge(windows, stopAt, out, err)
				})
				if len(h.wrong) > 0 {
					t.Fatalf("extracts %v, loads %v, stop at load %d, asking takes longer: %v:\nbegun %v, answered %v, loaded %v\n%s",
						h.extracts, h.loads, stopAt, asksLonger, h.begun, h.answered, h.loaded, strings.Join(h.wrong, "\n"))
				}
			}
		}
	}
}

// judge says what is wrong after a play is over.
func (h *theatre) judge(windows []etl.Window, stopAt int, out etl.Outcome, err error) {
	if !slices.Equal(h.begun, h.closed) {
		h.complain("runs are closed other than they were begun: %v", h.closed)
	}
	if !slices.Equal(h.answered, h.toLoad) {
		h.complain("loads were tried of %v: want them of all that was answered", h.toLoad)
	}
	if h.bodies != 0 || h.mostBodies > 2 || h.asking != 0 || h.released != 1 {
		h.complain("%d bodies are open, %d were; %d questions are open; the lease was given back %d times", h.bodies, h.mostBodies, h.asking, h.released)
	}
	days := 0
	for _, w := range h.loaded {
		days += w.Days()
	}
	all := 2 * len(windows)
	if out.Inserted != days || (err == nil) != (days == all) {
		h.complain("%d of %d days are loaded; told of %d, error %v", days, all, out.Inserted, err)
	}
	if (len(h.slotDone) == 1) != (err == nil) || len(h.slotDone) > 1 {
		h.complain("the slot is done with %v, error %v", h.slotDone, err)
	}
	// What would be begun by somebody who never asks ahead.
	plain := h.plainly(windows, stopAt)
	if n := len(plain); len(h.begun) < n || len(h.begun) > n+1 || !slices.Equal(h.begun[:n], plain) {
		h.complain("begun, want %v and at most one more", plain)
	}
	begun, isOver := 0, false
	for i, w := range h.begun {
		if h.fate(w) != "slow" {
			begun += w.Days()
		}
		isOver = isOver || h.ends(h.begun[:i+1])
	}
	if errors.Is(err, etl.ErrStopped) != (begun < all && !isOver) {
		h.complain("%d of %d days were begun, a failure ended it: %v; error %v", begun, all, isOver, err)
	}
}

// fate is what becomes of a window, by the script; "" is good.
func (h *theatre) fate(w etl.Window) string { return h.extracts[w] + h.loads[w] }

// ends tells that no window may be begun after the last one of these.
func (h *theatre) ends(windows []etl.Window) bool {
	down := 0
	for _, w := range windows {
		switch h.fate(w) {
		case "login", "hurry", "cancel", "fenced":
			return true
		case "down", "page":
			down++
		case "":
			down = 0
		}
	}
	return down >= 2
}

// plainly is what is begun, in order, by a pipeline that does one thing after the other.
func (h *theatre) plainly(windows []etl.Window, stopAt int) (begun []etl.Window) {
	loads := 0
	for pending := slices.Clone(windows); len(pending) > 0 && !h.ends(begun) && (stopAt == 0 || loads < stopAt); {
		w := pending[0]
		pending = pending[1:]
		begun = append(begun, w)
		if h.extracts[w] == "" {
			loads++
		}
		if first, second, _ := w.Halves(); h.fate(w) == "slow" {
			pending = append([]etl.Window{second, first}, pending...)
		}
	}
	return begun
}

// Whoever recovers from a panic finds no body open and nobody at work.
func TestPipelinePanics(t *testing.T) {
	for name, what := range map[string]map[etl.Window]string{"load": {twoDays(2)[0]: "panics"}, "extract": nil} {
		synctest.Test(t, func(t *testing.T) {
			windows := twoDays(2)
			h := &theatre{loads: what, atLoad: func(int) { synctest.Wait() }}
			h.atExtract = func(ctx context.Context, w etl.Window) {
				switch {
				case w == windows[1] && what == nil:
					panic("at the extract")
				case w == windows[1]:
					<-ctx.Done() // for ever
				}
			}
			defer func() {
				if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "at the "+name) || h.bodies != 0 || h.asking != 0 || h.released != 1 || len(h.wrong) > 0 {
					t.Errorf("%s: recovered %v with %d bodies open, %d questions, lease given back %d times; %v", name, r, h.bodies, h.asking, h.released, h.wrong)
				}
			}()
			_, err := h.play(t.Context(), windows, nil)
			t.Errorf("%s: no panic, %v", name, err)
		})
	}
}
