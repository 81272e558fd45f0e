package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"meterhouse/etl"
	"meterhouse/etl/internal/killpoint"
)

// Schema holds the queue's tables.
const Schema = "river"

// Slot is a load that is due: the unit of durable work. Dataset, Scope and At tell it from all others.
type Slot struct {
	Dataset, Scope string
	Account        string
	At             time.Time // business clock, UTC: when the schedule asked for it
	Until          time.Time // business clock, UTC: when it is not worth trying again, because the next slot has come
	Queue          string    // one of Config.Queues
	Priority       int       // 1 goes first, 4 last
	ByHand         bool      // a person wants it now, whatever is due
}

// String names the slot in logs and errors.
func (s Slot) String() string {
	if s.ByHand {
		return fmt.Sprintf("%s %s by hand", s.Dataset, s.Scope)
	}
	return fmt.Sprintf("%s %s slot %s", s.Dataset, s.Scope, s.At.UTC().Format(time.RFC3339))
}

// Chore is other work of the service that any process may do: a message, upkeep. Name and Key tell it
// from all others.
type Chore struct {
	Name, Key string
	// Tries is how often it is begun before it is given up; 0: once.
	Tries int
}

// String names the chore in logs and errors.
func (c Chore) String() string { return c.Name + " " + c.Key }

// Workers of one queue in this process.
type Workers struct {
	Loads   int           // at once
	Timeout time.Duration // of one load, which finds an end between two windows before; default 15 min
}

// Config of a Queue.
type Config struct {
	Pool     *pgxpool.Pool
	PollOnly bool   // behind a transaction pooler, which cannot LISTEN
	Name     string // of this process
	Queues   map[string]Workers
	// Load does a slot. Its error says what follows: a *etl.BusyError or *etl.HeldError is waited out, any
	// other is tried again after a pause that grows to an hour; neither beyond the slot's Until. Load
	// asks Stopping and returns between two windows when it says so: the slot is given back.
	Load func(ctx context.Context, s Slot) error
	// Chore does a chore; an error is tried again as often as the chore says.
	Chore func(ctx context.Context, c Chore) error
	Now   func() time.Time // business clock; default time.Now
	Log   *slog.Logger
	// Grace is how long a stop waits for what is being done before it is interrupted; default 20 s.
	Grace time.Duration

	// For tests, in which days pass in seconds.
	Time rivertype.TimeGenerator // the queue's own clock
	Poll time.Duration           // how often a process looks for work; default 1 s
}

// Queue shares work among processes. Several processes may use one database at a time.
type Queue struct {
	cfg      Config
	client   *river.Client[pgx.Tx]
	stopping chan struct{}
}

// The clocks of the queue. A job whose process died is taken up again after rescueAfter, or its longer
// time-out; a later slot of the same dataset and scope does not wait for it.
const (
	jobTimeout  = 15 * time.Minute
	rescueAfter = jobTimeout + time.Minute
	defaultStop = 20 * time.Second
	chores      = "chores" // queue
)

// deadlyTries is how often a slot is begun that is past its end: a process that died may have done the work.
const deadlyTries = 5

// pauses before a failed load is tried again.
var pauses = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour}

type loadArgs struct {
	Dataset string    `json:"dataset" river:"unique"`
	Scope   string    `json:"scope" river:"unique"`
	Slot    time.Time `json:"slot" river:"unique"`
	Account string    `json:"account"`
	Until   time.Time `json:"until"`
	ByHand  bool      `json:"by_hand,omitempty"`
}

func (loadArgs) Kind() string { return "load" }

type choreArgs struct {
	Name string `json:"name" river:"unique"`
	Key  string `json:"key" river:"unique"`
}

func (choreArgs) Kind() string { return "chore" }

// once is the uniqueness of everything here: a job that was given up is not begun again under the same
// name either.
var once = river.UniqueOpts{ByArgs: true, ByState: []rivertype.JobState{
	rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRunning, rivertype.JobStateScheduled,
	rivertype.JobStateRetryable, rivertype.JobStateCompleted, rivertype.JobStateCancelled, rivertype.JobStateDiscarded,
}}

// unfinished is the uniqueness of what a person wants: as long as it is not done.
var unfinished = river.UniqueOpts{ByArgs: true, ByState: []rivertype.JobState{
	rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRunning, rivertype.JobStateScheduled, rivertype.JobStateRetryable,
}}

// maxAttempts of a load is no limit: its Until is.
const maxAttempts = 1000

// New makes a queue. It asks the database nothing. Without Load it can only add.
func New(cfg Config) (*Queue, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Grace == 0 {
		cfg.Grace = defaultStop
	}
	if cfg.Poll == 0 {
		cfg.Poll = time.Second
	}
	q := &Queue{cfg: cfg, stopping: make(chan struct{})}
	workers := river.NewWorkers()
	river.AddWorker(workers, &loadWorker{queue: q})
	river.AddWorker(workers, &choreWorker{queue: q})
	config := &river.Config{
		ID:                   cfg.Name,
		Schema:               Schema,
		PollOnly:             cfg.PollOnly,
		FetchPollInterval:    cfg.Poll,
		FetchCooldown:        min(cfg.Poll, 100*time.Millisecond),
		JobTimeout:           jobTimeout,
		RescueStuckJobsAfter: rescueAfter,
		SoftStopTimeout:      cfg.Grace,
		MaxAttempts:          maxAttempts,
		// As long as a slot could be planned again: its job must be there to shut that out.
		CompletedJobRetentionPeriod: 8 * 24 * time.Hour,
		CancelledJobRetentionPeriod: 8 * 24 * time.Hour,
		DiscardedJobRetentionPeriod: 8 * 24 * time.Hour,
		Logger:                      slog.New(quiet{cfg.Log.Handler()}),
		Workers:                     workers,
		Test:                        river.TestConfig{Time: cfg.Time},
	}
	if cfg.Load != nil {
		config.Queues = map[string]river.QueueConfig{chores: {MaxWorkers: 4}}
		for _, name := range slices.Sorted(maps.Keys(cfg.Queues)) {
			config.Queues[name] = river.QueueConfig{MaxWorkers: cfg.Queues[name].Loads}
		}
	}
	var err error
	q.client, err = river.NewClient(riverpgxv5.New(cfg.Pool), config)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	return q, nil
}

// Add queues what is not queued yet, and returns the slots that are new. Any number of processes may
// add the same at once: it comes once.
func (q *Queue) Add(ctx context.Context, slots []Slot, chores []Chore) (added []Slot, err error) {
	jobs := make([]river.InsertManyParams, 0, len(slots)+len(chores))
	for _, s := range slots {
		jobs = append(jobs, river.InsertManyParams{
			Args:       loadArgs{Dataset: s.Dataset, Scope: s.Scope, Slot: s.At.UTC(), Account: s.Account, Until: s.Until.UTC()},
			InsertOpts: &river.InsertOpts{Queue: s.Queue, Priority: s.Priority, UniqueOpts: once},
		})
	}
	for _, c := range chores {
		jobs = append(jobs, c.job())
	}
	if len(jobs) == 0 {
		return nil, nil
	}
	results, err := q.client.InsertMany(ctx, jobs)
	if err != nil {
		return nil, fmt.Errorf("queue what is due: %w", err)
	}
	for i := range slots {
		if !results[i].UniqueSkippedAsDuplicate {
			added = append(added, slots[i])
		}
	}
	return added, nil
}

// Want queues a load that a person wants now, and returns its number for [Queue.State]. Wanted again before it
// is done, it is the same. The slot's At does not count. What fails is not tried again: the schedule goes on
// by itself.
func (q *Queue) Want(ctx context.Context, s Slot) (id int64, err error) {
	result, err := q.client.Insert(ctx,
		loadArgs{Dataset: s.Dataset, Scope: s.Scope, Account: s.Account, Until: s.Until.UTC(), ByHand: true},
		&river.InsertOpts{Queue: s.Queue, Priority: 1, UniqueOpts: unfinished})
	if err != nil {
		return 0, fmt.Errorf("queue %s %s: %w", s.Dataset, s.Scope, err)
	}
	return result.Job.ID, nil
}

// State is how a load stands.
type State struct {
	Phase Phase
	Until time.Time // when it is taken up; zero unless it is put off
	Error string    // of its last try; empty without any
}

// Phase of a load.
type Phase string

// Phases.
const (
	Waiting Phase = "waiting" // for a worker
	PutOff  Phase = "put off" // the vendor or another process is in the way, or it failed and is tried again
	Working Phase = "working"
	Done    Phase = "done"
	GivenUp Phase = "given up"
)

// State of a load by the number that Want gave; found is false when there is none, or it is long gone.
func (q *Queue) State(ctx context.Context, id int64) (state State, found bool, err error) {
	job, err := q.client.JobGet(ctx, id)
	if errors.Is(err, rivertype.ErrNotFound) || err == nil && job.Kind != (loadArgs{}).Kind() {
		return State{}, false, nil
	}
	if err != nil {
		return State{}, false, fmt.Errorf("queue: look for load %d: %w", id, err)
	}
	if n := len(job.Errors); n > 0 {
		state.Error = job.Errors[n-1].Error
	}
	switch job.State {
	case rivertype.JobStateRunning:
		state.Phase = Working
	case rivertype.JobStateCompleted:
		state.Phase = Done
	case rivertype.JobStateCancelled, rivertype.JobStateDiscarded:
		state.Phase = GivenUp
	case rivertype.JobStateScheduled, rivertype.JobStateRetryable:
		state.Phase, state.Until = PutOff, job.ScheduledAt.UTC()
	default:
		state.Phase = Waiting
	}
	return state, true, nil
}

// AddTx queues a chore with the transaction: it is there when, and only when, that commits.
func (q *Queue) AddTx(ctx context.Context, tx pgx.Tx, c Chore) error {
	job := c.job()
	if _, err := q.client.InsertTx(ctx, tx, job.Args, job.InsertOpts); err != nil {
		return fmt.Errorf("queue %s: %w", c, err)
	}
	return nil
}

func (c Chore) job() river.InsertManyParams {
	return river.InsertManyParams{
		Args:       choreArgs{Name: c.Name, Key: c.Key},
		InsertOpts: &river.InsertOpts{Queue: chores, MaxAttempts: max(1, c.Tries), UniqueOpts: once},
	}
}

// Hurry makes the waiting loads of an account available now, such as after somebody repaired its
// credential.
func (q *Queue) Hurry(ctx context.Context, account string) error {
	page, err := q.client.JobList(ctx, river.NewJobListParams().Kinds(loadArgs{}.Kind()).First(1000).
		States(rivertype.JobStateRetryable, rivertype.JobStateScheduled).
		Where("args->>'account' = @account", river.NamedArgs{"account": account}))
	if err != nil {
		return fmt.Errorf("queue: look for waiting loads of %s: %w", account, err)
	}
	for _, job := range page.Jobs {
		if _, err := q.client.JobRetry(ctx, job.ID); err != nil {
			return fmt.Errorf("queue: take up a load of %s: %w", account, err)
		}
	}
	return nil
}

// Run works until ctx ends. Then no more work is taken, loads find an end between two windows or, after
// the grace time, are interrupted and given back; it returns when all have ended.
func (q *Queue) Run(ctx context.Context) error {
	if err := q.client.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	select {
	case <-ctx.Done():
	case <-q.client.Stopped():
		return errors.New("queue: stopped by itself")
	}
	close(q.stopping)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.cfg.Grace+interruption)
	defer cancel()
	if err := q.client.Stop(stopping); err != nil {
		return fmt.Errorf("queue: stop: %w", err)
	}
	return nil
}

// interruption is how long what was interrupted may take to end: a token exchange that has begun goes on.
const interruption = 75 * time.Second

// StopsWithin is how long Run goes on at most after its ctx has ended, with the default Grace. Whoever
// stops a process must not kill it earlier.
const StopsWithin = defaultStop + interruption

// isStopping tells that a stop was asked for.
func (q *Queue) isStopping() bool {
	select {
	case <-q.stopping:
		return true
	default:
		return false
	}
}

// Stopping is closed when the process shall stop: what is done in steps ends after the present one.
func (q *Queue) Stopping() <-chan struct{} { return q.stopping }

type loadWorker struct {
	river.WorkerDefaults[loadArgs]
	queue *Queue
}

// Work does a slot and says what follows from how it went.
func (w *loadWorker) Work(ctx context.Context, job *river.Job[loadArgs]) error {
	q, args := w.queue, job.Args
	slot := Slot{Dataset: args.Dataset, Scope: args.Scope, Account: args.Account, At: args.Slot, Until: args.Until, Queue: job.Queue, Priority: job.Priority, ByHand: args.ByHand}
	killpoint.Here(killpoint.SlotClaimed)
	// What panics, or takes its process along, again and again never gets to the end below.
	if job.Attempt > deadlyTries && !q.cfg.Now().Before(slot.Until) {
		return river.JobCancel(fmt.Errorf("%s: given up after %d tries for the next slot", slot, job.Attempt-1))
	}
	err := q.cfg.Load(ctx, slot)
	var busy *etl.BusyError
	var held *etl.HeldError
	switch {
	case err == nil:
		return nil
	case q.isStopping(), errors.Is(err, etl.ErrStopped) && ctx.Err() == nil && q.cfg.Now().Before(slot.Until):
		return river.JobSnooze(0) // given back: another process, or the next one, goes on
	case errors.As(err, &busy):
		return q.wait(slot, max(time.Until(busy.FreesAt), 5*time.Second), err)
	case errors.As(err, &held):
		return q.wait(slot, held.Until.Sub(q.clock()), err)
	}
	if slot.ByHand || !q.cfg.Now().Add(pause(job.Attempt)).Before(slot.Until) {
		return river.JobCancel(err) // who wanted it sees why; the next slot takes over
	}
	return err
}

// Timeout of a load.
func (w *loadWorker) Timeout(job *river.Job[loadArgs]) time.Duration {
	return w.queue.cfg.Queues[job.Queue].Timeout // 0: jobTimeout
}

// wait gives the slot back for a while. It does not count as an attempt, so the slot's own end is the
// only limit.
func (q *Queue) wait(slot Slot, d time.Duration, why error) error {
	d = max(d, time.Second)
	if !q.cfg.Now().Add(d).Before(slot.Until) {
		return river.JobCancel(fmt.Errorf("given up for the next slot: %w", why))
	}
	return river.JobSnooze(d)
}

func pause(attempt int) time.Duration { return pauses[min(max(attempt, 1), len(pauses))-1] }

// NextRetry is when a failed load is tried again.
func (w *loadWorker) NextRetry(job *river.Job[loadArgs]) time.Time {
	return w.queue.clock().Add(pause(job.Attempt))
}

// clock is the real one, unless a test gave another.
func (q *Queue) clock() time.Time {
	if q.cfg.Time != nil {
		return q.cfg.Time.Now()
	}
	return time.Now()
}

type choreWorker struct {
	river.WorkerDefaults[choreArgs]
	queue *Queue
}

func (w *choreWorker) Work(ctx context.Context, job *river.Job[choreArgs]) error {
	err := w.queue.cfg.Chore(ctx, Chore{Name: job.Args.Name, Key: job.Args.Key})
	if err != nil && w.queue.isStopping() {
		return river.JobSnooze(0)
	}
	if err != nil && job.Attempt >= job.MaxAttempts {
		w.queue.cfg.Log.Error("given up", "chore", job.Args.Name, "key", job.Args.Key, "attempts", job.Attempt, "error", err)
	}
	return err
}

// Timeout of a chore.
func (w *choreWorker) Timeout(*river.Job[choreArgs]) time.Duration { return 10 * time.Minute }

// quiet turns what the queue itself says into lines for a developer: runs speak for themselves, and that
// the database is away is said once by whoever asks it, not by each of the queue's parts every second.
type quiet struct{ slog.Handler }

func (h quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, slog.LevelDebug)
}

func (h quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return h.Handler.Handle(ctx, r)
}

func (h quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{h.Handler.WithAttrs(attrs)} }
func (h quiet) WithGroup(name string) slog.Handler       { return quiet{h.Handler.WithGroup(name)} }
