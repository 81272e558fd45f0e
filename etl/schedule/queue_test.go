package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"meterhouse/etl"
	"meterhouse/etl/schedule"
	"meterhouse/etl/warehouse/warehousetest"
)

// clock stands still until it is put forward.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) NowOrNil() *time.Time { t := c.Now(); return &t }

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// bench is a database with a clock and what its queues did.
type bench struct {
	t     *testing.T
	url   string
	clock *clock

	mu   sync.Mutex
	done []string
}

func newBench(t *testing.T) *bench {
	return &bench{t: t, url: warehousetest.New(t), clock: &clock{at: time.Date(2027, 5, 20, 12, 0, 0, 0, time.UTC)}}
}

func (b *bench) pool() *pgxpool.Pool {
	b.t.Helper()
	pool, err := pgxpool.New(b.t.Context(), b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(pool.Close)
	return pool
}

func (b *bench) note(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = append(b.done, text)
}

func (b *bench) noted() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.done)
}

// queue makes one that is not running.
func (b *bench) queue(change func(*schedule.Config)) *schedule.Queue {
	b.t.Helper()
	config := schedule.Config{
		Pool: b.pool(), Queues: map[string]schedule.Workers{"q": {Loads: 2}}, Now: b.clock.Now, Time: b.clock, Poll: 20 * time.Millisecond,
		Load:  func(_ context.Context, s schedule.Slot) error { b.note(s.String()); return nil },
		Chore: func(_ context.Context, c schedule.Chore) error { b.note(c.Name + " " + c.Key); return nil },
		Log:   slog.New(slog.NewTextHandler(b.t.Output(), nil)), Grace: time.Second,
	}
	if change != nil {
		change(&config)
	}
	q, err := schedule.New(config)
	if err != nil {
		b.t.Fatal(err)
	}
	return q
}

// running starts a queue; stop ends it and waits.
func (b *bench) running(change func(*schedule.Config)) (q *schedule.Queue, stop func()) {
	b.t.Helper()
	q = b.queue(change)
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			b.t.Error(err)
		}
	})
	b.t.Cleanup(stop)
	return q, stop
}

func (b *bench) slot(scope string) schedule.Slot {
	return schedule.Slot{Dataset: "keystone.history", Scope: scope, Account: "acme", At: b.clock.Now(), Until: b.clock.Now().Add(24 * time.Hour), Queue: "q", Priority: 1}
}

// states of the loads in the queue, such as "completed 2".
func (b *bench) states() string {
	b.t.Helper()
	conn, err := pgx.Connect(b.t.Context(), b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var text string
	if err := conn.QueryRow(b.t.Context(), `select coalesce(string_agg(state || ' ' || n, ', ' order by state), '')
		from (select state::text, count(*) as n from river.river_job group by state) as s`).Scan(&text); err != nil {
		b.t.Fatal(err)
	}
	return text
}

func eventually(t *testing.T, what, want string, got func() string) {
	t.Helper()
	last := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if last = got(); last == want {
			return
		}
	}
	t.Fatalf("%s: got %q, want %q", what, last, want)
}

// TestEachSlotOnce: four processes plan the same slots again and again, at once, and three of them work.
func TestEachSlotOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var queues []*schedule.Queue
	for range 3 {
		q, _ := b.running(nil)
		queues = append(queues, q)
	}
	queues = append(queues, b.queue(func(c *schedule.Config) { c.Load = nil }))
	var slots []schedule.Slot
	for i := range 20 {
		slots = append(slots, b.slot(fmt.Sprint("C-", i)))
	}
	var wg sync.WaitGroup
	var added sync.Map
	for _, q := range queues {
		for range 5 {
			wg.Go(func() {
				news, err := q.Add(t.Context(), slots, []schedule.Chore{{Name: "prune", Key: "today"}})
				if err != nil {
					t.Error(err)
				}
				for _, s := range news {
					if _, twice := added.LoadOrStore(s.String(), true); twice {
						t.Errorf("%s was new twice", s)
					}
				}
			})
		}
	}
	wg.Wait()
	eventually(t, "states", "completed 21", b.states)
	// Planned again after it was done, as by a process that saw an older state.
	if again, err := queues[0].Add(t.Context(), slots, nil); err != nil || len(again) != 0 {
		t.Errorf("added again: %v, %v", again, err)
	}
	done := b.noted()
	slices.Sort(done)
	if unique := slices.Compact(slices.Clone(done)); len(done) != 21 || len(unique) != 21 {
		t.Errorf("%d loads and chores, %d different, want 21", len(done), len(unique))
	}
}

// TestFailureIsTriedAgainUntilTheNextSlot follows the pauses and the end.
func TestFailureIsTriedAgainUntilTheNextSlot(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	q, _ := b.running(func(c *schedule.Config) {
		c.Load = func(_ context.Context, s schedule.Slot) error {
			b.note(b.clock.Now().Format("15:04"))
			return errors.New("vendor unavailable")
		}
	})
	slot := b.slot("C-1")
	slot.Until = b.clock.Now().Add(2 * time.Hour)
	if _, err := q.Add(t.Context(), []schedule.Slot{slot}, nil); err != nil {
		t.Fatal(err)
	}
	want := []string{"12:00", "12:01", "12:06", "12:21", "12:51"} // one at 13:51 would be followed by none before 14:00
	for i, pause := range []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour} {
		eventually(t, "tries", fmt.Sprint(want[:i+1]), func() string { return fmt.Sprint(b.noted()) })
		if i < 4 {
			eventually(t, "states", "retryable 1", b.states)
		}
		b.clock.forward(pause)
	}
	eventually(t, "tries", fmt.Sprint(append(want, "13:51")), func() string { return fmt.Sprint(b.noted()) })
	eventually(t, "states", "cancelled 1", b.states)
	if again, err := q.Add(t.Context(), []schedule.Slot{slot}, nil); err != nil || len(again) != 0 {
		t.Errorf("a slot that was given up came again: %v, %v", again, err)
	}
}

// TestWaitingEndsWithTheSlot: what waits gets its attempts back, so only the deadline ends it.
func TestWaitingEndsWithTheSlot(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]func(b *bench) error{
		"held": func(b *bench) error {
			return fmt.Errorf("x: %w", &etl.HeldError{What: "w", Reason: "quota", Until: b.clock.Now().Add(40 * time.Minute)})
		},
		"busy": func(b *bench) error {
			return &etl.BusyError{Dataset: "d", Scope: "s", FreesAt: time.Now().Add(40 * time.Minute)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			q, _ := b.running(func(c *schedule.Config) {
				c.Load = func(context.Context, schedule.Slot) error { b.note("try"); return wait(b) }
			})
			slot := b.slot("C-1")
			slot.Until = b.clock.Now().Add(90 * time.Minute)
			if _, err := q.Add(t.Context(), []schedule.Slot{slot}, nil); err != nil {
				t.Fatal(err)
			}
			for n := 1; n <= 2; n++ {
				eventually(t, "tries and states", fmt.Sprint(n, " scheduled 1"), func() string { return fmt.Sprint(len(b.noted()), " ", b.states()) })
				b.clock.forward(41 * time.Minute)
			}
			eventually(t, "tries and states", "3 cancelled 1", func() string { return fmt.Sprint(len(b.noted()), " ", b.states()) })
		})
	}
}

// TestStopGivesBack: a load that sees the stop between two windows, and one that has to be interrupted,
// both come back for the next process, with no attempt lost.
func TestStopGivesBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var q *schedule.Queue
	q, stop := b.running(func(c *schedule.Config) {
		c.Load = func(ctx context.Context, s schedule.Slot) error {
			b.note("begun " + s.Scope)
			if s.Scope == "patient" {
				<-q.Stopping()
				return etl.ErrStopped
			}
			<-ctx.Done()
			return fmt.Errorf("extract: %w", context.Cause(ctx))
		}
	})
	if _, err := q.Add(t.Context(), []schedule.Slot{b.slot("patient"), b.slot("stubborn")}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "begun", "2", func() string { return fmt.Sprint(len(b.noted())) })
	stop()
	if got := b.states(); got != "available 2" {
		t.Errorf("after the stop: %s, want available 2", got)
	}
	b.running(nil)
	eventually(t, "states", "completed 2", b.states)
}

// TestPanic: one load that panics is a failed one; the process goes on.
func TestPanic(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	q, _ := b.running(func(c *schedule.Config) {
		c.Load = func(_ context.Context, s schedule.Slot) error {
			if s.Scope == "bad" {
				panic("bad day")
			}
			return nil
		}
	})
	if _, err := q.Add(t.Context(), []schedule.Slot{b.slot("bad"), b.slot("good")}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "states", "completed 1, retryable 1", b.states)
}

// TestChoresWithATransaction are there when it commits, and only then.
func TestChoresWithATransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tries := 0
	q, _ := b.running(func(c *schedule.Config) {
		c.Chore = func(_ context.Context, c schedule.Chore) error {
			b.note(c.Key)
			if tries++; tries < 2 {
				return errors.New("no answer")
			}
			return nil
		}
	})
	pool := b.pool()
	for _, commits := range []bool{false, true} {
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if err := q.AddTx(t.Context(), tx, schedule.Chore{Name: "alert", Key: fmt.Sprint(commits), Tries: 3}); err != nil || commits {
				return err
			}
			return errors.New("no")
		})
		if (err == nil) != commits {
			t.Fatal(err)
		}
	}
	eventually(t, "first try", "[true]", func() string { return fmt.Sprint(b.noted()) })
	eventually(t, "states", "available 1", b.states) // the first pause is a second
	b.clock.forward(time.Hour)
	eventually(t, "states", "completed 1", b.states)
	if got := fmt.Sprint(b.noted()); got != "[true true]" {
		t.Errorf("tries: %s", got)
	}
}

// TestHurry: loads that wait for their next try are taken up at once.
func TestHurry(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	q, _ := b.running(func(c *schedule.Config) {
		c.Load = func(_ context.Context, s schedule.Slot) error {
			b.note(s.Scope)
			if len(b.noted()) <= 2 {
				return fmt.Errorf("dead: %w", etl.ErrUnauthorized)
			}
			return nil
		}
	})
	other := b.slot("other")
	other.Account = "else"
	if _, err := q.Add(t.Context(), []schedule.Slot{b.slot("ours"), other}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "states", "retryable 2", b.states)
	if err := q.Hurry(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "states", "completed 1, retryable 1", b.states)
}

// What a person wants is done whatever is due, and once when it is wanted twice; one can see how it stands, and what
// fails is not tried again.
func TestWant(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	answers, begun := make(chan error), make(chan bool, 10)
	q := b.queue(func(c *schedule.Config) {
		c.Load = func(_ context.Context, s schedule.Slot) error {
			b.note(fmt.Sprint(s.Scope, " ", s.ByHand))
			begun <- true
			return <-answers
		}
	})
	slot := func(scope string) schedule.Slot {
		return schedule.Slot{Dataset: "d", Scope: scope, Account: "a", At: b.clock.Now(), Until: b.clock.Now().Add(time.Hour), Queue: "q"}
	}
	want := func(scope string) int64 {
		t.Helper()
		id, err := q.Want(t.Context(), slot(scope))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	phase := func(id int64) schedule.State {
		t.Helper()
		state, found, err := q.State(t.Context(), id)
		if err != nil || !found {
			t.Fatalf("load %d: found %v, %v", id, found, err)
		}
		return state
	}
	until := func(id int64, want schedule.Phase) schedule.State {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if state := phase(id); state.Phase == want {
				return state
			}
		}
		t.Fatalf("load %d is %+v, want %s", id, phase(id), want)
		return schedule.State{}
	}
	first := want("x")
	if again := want("x"); again != first {
		t.Errorf("wanted twice at once: loads %d and %d", first, again)
	}
	if state := phase(first); state.Phase != schedule.Waiting {
		t.Errorf("before there is a worker: %+v", state)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	<-begun
	until(first, schedule.Working)
	answers <- nil
	until(first, schedule.Done)

	if again := want("x"); again == first {
		t.Error("wanted again after it was done, and not begun")
	} else {
		<-begun
		answers <- nil
		until(again, schedule.Done)
	}
	failing := want("y")
	<-begun
	answers <- errors.New("the vendor is away")
	if state := until(failing, schedule.GivenUp); state.Error != "the vendor is away" && state.Error != "JobCancelError: the vendor is away" {
		t.Errorf("failed: %+v", state)
	}
	held := want("z")
	<-begun
	answers <- &etl.HeldError{What: "z", Until: b.clock.Now().Add(time.Minute)}
	if state := until(held, schedule.PutOff); !state.Until.Equal(b.clock.Now().Add(time.Minute)) {
		t.Errorf("put off: %+v, want until %s", state, b.clock.Now().Add(time.Minute))
	}
	if _, found, err := q.State(t.Context(), 999999); found || err != nil {
		t.Errorf("a load that is not there: %v %v", found, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(b.noted()); got != "[x true x true y true z true]" {
		t.Errorf("done: %s", got)
	}
}
