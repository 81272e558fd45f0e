package console

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// background is work that outlives the request that began it, and ends with the server.
type background struct {
	mu   sync.Mutex
	ctx  context.Context // of Serve; nil before and after
	stop context.CancelFunc
	busy sync.WaitGroup
}

func (b *background) begin(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ctx, b.stop = context.WithCancel(ctx)
}

// do starts work; it is not started when the server ends.
func (b *background) do(work func(context.Context)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx == nil || b.ctx.Err() != nil {
		return false
	}
	ctx := b.ctx
	b.busy.Go(func() { work(ctx) })
	return true
}

// end interrupts what is going on and waits for it.
func (b *background) end() {
	b.mu.Lock()
	b.stop()
	b.mu.Unlock()
	b.busy.Wait()
}

// insight is what takes long to find out: it reads every day of every series.
type insight struct {
	Status
	Deadlines []record
}

// advice keeps an insight.
type advice struct {
	ask  func(context.Context) (insight, error)
	log  *slog.Logger
	work *background

	mu      sync.Mutex
	last    insight
	at      time.Time // when working it out began; zero: never
	took    time.Duration
	forgot  time.Time // when somebody last did something about it
	failed  bool
	running chan struct{} // closed when the one that is under way has ended
}

const (
	adviceFor    = 2 * time.Second // then a look has it worked out anew, unless it took a tenth of its age
	adviceHolds  = time.Minute     // meanwhile it is told as what is so, with its time, unless somebody did something
	adviceWait   = 60 * time.Millisecond
	adviceWithin = 2 * time.Minute
)

func (a *advice) begin(work *background) {
	a.mu.Lock()
	a.work = work
	a.mu.Unlock()
	a.refresh()
}

// refresh works it out anew unless somebody does, and returns what is closed then.
func (a *advice) refresh() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running != nil {
		return a.running
	}
	done := make(chan struct{})
	if a.work == nil || !a.work.do(func(ctx context.Context) {
		defer close(done)
		ctx, cancel := context.WithTimeout(ctx, adviceWithin)
		defer cancel()
		began := time.Now()
		found, err := survive(func() (insight, error) { return a.ask(ctx) })
		a.mu.Lock()
		defer a.mu.Unlock()
		a.running, a.took = nil, time.Since(began)
		if err != nil {
			if !a.failed && ctx.Err() == nil {
				a.log.Warn("what to do is not worked out", "error", err)
			}
			a.failed = true
			return
		}
		a.failed = false
		a.last, a.at = found, began
	}) {
		close(done)
		return done
	}
	a.running = done
	return done
}

// renew works it out anew when it is old, and returns what is closed then; nil when it is not.
func (a *advice) renew() <-chan struct{} {
	a.mu.Lock()
	isNew := a.isWithin(adviceFor)
	a.mu.Unlock()
	if isNew {
		return nil
	}
	return a.refresh()
}

// isWithin tells whether what is known is no older. a is locked.
func (a *advice) isWithin(age time.Duration) bool {
	return a.at.After(a.forgot) && time.Since(a.at) < max(age, 10*a.took)
}

// known is what is known, of when, and whether that is fresh.
func (a *advice) known() (found insight, at time.Time, isFresh, failed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last, a.at, a.isWithin(adviceHolds), a.failed
}

// forget makes the next look a fresh one: somebody has just done something about it.
func (a *advice) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forgot = time.Now()
}
