package etl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"meterhouse/etl/internal/killpoint"
)

// Request is one question to a vendor.
type Request struct {
	Dataset string // vendor.report, such as keystone.history
	Scope   string // customer id for Keystone, account for its list of customers and for wolkvox
	Window  Window // zero for datasets of the present
	Product string // code of the product, for datasets that ask product by product
}

// String names the request in errors and logs.
func (r Request) String() string {
	s := r.Dataset + " " + r.Scope
	if !r.Window.IsZero() {
		s += " " + r.Window.String()
	}
	if r.Product != "" {
		s += " " + r.Product
	}
	return s
}

// Body is what a vendor sent, kept until Close. It may be opened any number of times.
type Body interface {
	Open() (io.ReadCloser, error) // the body as sent, decompressed
	Zstd() (Frame, error)         // the same, compressed
	SHA256() [32]byte             // of the body as sent, decompressed
	Size() int64                  // bytes of the same
	Close() error                 // frees memory and files; safe to repeat
}

// Frame is a body as one zstd frame, to be read once. Whoever receives it closes it.
type Frame interface {
	io.ReadCloser
	Size() int64 // bytes of the frame
}

// NewFrame is a frame that is in memory.
func NewFrame(packed []byte) Frame { return frame{bytes.NewReader(packed)} }

type frame struct{ *bytes.Reader }

func (frame) Close() error { return nil }

// Answer is a complete exchange with a vendor. Whoever receives it closes its Body.
type Answer struct {
	Request     Request
	Method, URL string // without credentials
	Status      int
	ContentType string
	RequestedAt time.Time // business clock, when the request was sent
	FetchedAt   time.Time // business clock, when the answer was whole
	Body        Body
	Warnings    Warnings // deviations of the exchange itself
	// NoData says that the vendor's way of saying "nothing to report" was met: there is nothing to
	// transform.
	NoData bool
	// Content tells answers apart that say different things: two of one request with the same, not empty, are
	// transformed into the same facts and the same report, apart from what their time decides. Empty where
	// the source does not tell, as for a landed answer that is read again.
	Content []byte
	// PayloadID is set once the body is landed.
	PayloadID int64
}

// MethodImport stands in place of an HTTP method where a person imported a file.
const MethodImport = "IMPORT"

// Imported tells that the answer is not the vendor's but from a file that a person imported.
func (a *Answer) Imported() bool { return a.Method == MethodImport }

// Source is one vendor account. It is safe for concurrent use: one answer is transformed while the next is
// asked for.
type Source interface {
	// Extract asks the vendor. It retries what may be retried and returns a complete, bounded
	// answer, or an error of one of the package's classes. An answer beside a *RejectError is
	// evidence to be landed.
	Extract(ctx context.Context, req Request) (*Answer, error)
	// Transform turns an answer into facts by the acceptance rules. It is a pure function of the
	// answer. A *RejectError means that nothing of the answer may be kept.
	Transform(ans *Answer, sink Sink) (Report, error)
}

// Warehouse is where facts, watermarks, coverage and run records live. It is safe for concurrent use: a run
// is started, and may land, while another one of the same lease loads.
type Warehouse interface {
	// Lease takes the single right to load a dataset of a scope, or returns a *BusyError. The
	// lease renews itself until Release; ctx only bounds the taking.
	Lease(ctx context.Context, dataset, scope string) (Lease, error)
	// StartRun records that a run begins, with its window and everything that it will ask for.
	StartRun(ctx context.Context, lease Lease, job Job, window Window, startedAt time.Time) (Run, error)
}

// Lease is the right to load one scope, fenced by a number that every load checks.
type Lease interface {
	// Release gives the lease back; safe to repeat.
	Release(ctx context.Context) error
}

// Run is one attempt at one window.
type Run interface {
	ID() int64
	// Land commits an answer before it is parsed, for what cannot be asked again.
	Land(ctx context.Context, ans *Answer) error
	// Load transforms the answers into facts in one transaction that also moves watermark and
	// coverage and closes the run. A rejected answer is reported in the outcome and leaves no
	// facts, a record that the store itself refuses goes to quarantine and the others load; when all
	// answers are rejected, or on an error, the run is closed as failed and the error is returned as well. Unanswered are questions of this run that got no answer: they make it
	// partial, and with ErrUnasked among them the slot stays due. Repeating is safe.
	Load(ctx context.Context, answers []*Answer, unanswered []error, transform func(*Answer, Sink) (Report, error)) (Outcome, error)
	// LeaveSlotOpen says, before Load, that the slot stays due whatever this run loads, as
	// Job.SlotOpen does: other windows of the job failed, or are still to come.
	LeaveSlotOpen()
	// Fail closes the run as failed with the reason, and lands what evidence there is.
	Fail(ctx context.Context, evidence *Answer, reason error) error
}

// Job is what a run of the pipeline shall do for one scope of one dataset.
type Job struct {
	Source   string // vendor: keystone or wolkvox
	Dataset  string
	Scope    string
	Account  string        // the configured account whose credential is used
	Windows  []Window      // one zero window for datasets of the present
	Products []string      // codes, for datasets that ask product by product
	Later    []string      // products that cannot be asked yet: the slot stays due for them
	SlotOpen bool          // the slot stays due whatever this loads, as with a backfill
	Snapshot bool          // the vendor cannot repeat this answer: land before parsing
	Expected Day           // first day that is expected, for datasets of windows
	Settle   time.Duration // how long after its end a day becomes due, for datasets of windows
	Slot     time.Time     // when the schedule asked for it; zero when a person did
	NextDue  time.Time     // when the schedule asks for it again; zero when there is no schedule
	Zone     string        // IANA name of the zone that the vendor's days are filed in; empty is UTC
	Server   string        // server code of the account, for dimensions that keep it
	// Operation is the operation that readings must name; empty: the one that the account's first
	// good reading named.
	Operation string
	// Aside says that nobody was asked now: a replay or an import. Freshness follows answers of the
	// vendor only, so it is left as it is.
	Aside    bool
	ReplayOf int64 // the run, or the newest of the runs, whose landed answers are read again
	// Rebuild says that the answers are everything that is landed of the scope about the window (of
	// the present: of all times), in the order in which they were fetched. What they say, one after
	// the other, takes the place of what is stored, wherever it differs.
	Rebuild bool
}

// Outcome is what a run did, in records at the dataset's grain.
// Received = Inserted + Restated + Unchanged + Ignored + Quarantined.
type Outcome struct {
	Received, Inserted, Restated, Unchanged, Ignored, Quarantined int
	// Absent counts series, subscriptions or products that were expected and not delivered.
	Absent   int
	Warnings Warnings
	Mismatch bool
	Rejected []error // answers of which nothing was kept
	// SameAs is the run whose answer was repeated word for word, so that nobody read this one; 0: it was read.
	SameAs int64
}

// Add sums up two outcomes.
func (o *Outcome) Add(p Outcome) {
	o.Received += p.Received
	o.Inserted += p.Inserted
	o.Restated += p.Restated
	o.Unchanged += p.Unchanged
	o.Ignored += p.Ignored
	o.Quarantined += p.Quarantined
	o.Absent += p.Absent
	o.Mismatch = o.Mismatch || p.Mismatch
	o.Rejected = append(o.Rejected, p.Rejected...)
	if o.Warnings == nil {
		o.Warnings = Warnings{}
	}
	for name, w := range p.Warnings {
		seen, ok := o.Warnings[name]
		if !ok {
			seen.FirstPath = w.FirstPath
		}
		seen.Count += w.Count
		o.Warnings[name] = seen
	}
}

// Partial tells that not everything that was said could be kept as a fact.
func (o *Outcome) Partial() bool {
	return o.Quarantined > 0 || o.Mismatch || len(o.Rejected) > 0
}

// Pipeline moves records from sources to the warehouse.
type Pipeline struct {
	Warehouse Warehouse
	Log       *slog.Logger
	Now       func() time.Time // business clock
	// Stop, when set, is asked before each window but the first: when it says so, no window is begun any
	// more, and Run returns ErrStopped once what was begun is done.
	Stop func() bool
}

// Run does one job, window by window: lease, extract, land, transform, load. While the answer of one window
// is loaded the next window is asked for, and none beyond it, so that at most one answer waits. Windows are
// begun, loaded and closed in their order; the halves of one that took too long come next. Failed windows
// do not stop the following ones unless the credential was refused, the vendor throttles, the lease was
// lost, or the vendor was unavailable for two of them, one after the other: then no window is begun any
// more, as when Stop says so. A window that was begun already comes to its end: an answer that is there is
// loaded, only one that is still awaited for no use is broken off. Repeating is safe.
// The error is nil when every window was loaded; a *BusyError when the lease is taken.
func (p *Pipeline) Run(ctx context.Context, src Source, job Job) (Outcome, error) {
	total := Outcome{Warnings: Warnings{}}
	lease, err := p.Warehouse.Lease(ctx, job.Dataset, job.Scope)
	if err != nil {
		return total, err
	}
	killpoint.Here(killpoint.LeaseTaken)
	defer func() {
		lease.Release(context.WithoutCancel(ctx))
		killpoint.Here(killpoint.LeaseReleased)
	}()

	asking, breakOff := context.WithCancel(ctx)
	defer breakOff()
	pending := job.Windows
	begun, isStopped, isOver := false, false, false
	begin := func(ahead bool) *attempt {
		isStopped = isStopped || begun && len(pending) > 0 && p.Stop != nil && p.Stop()
		if isStopped || isOver || len(pending) == 0 {
			return nil
		}
		a := &attempt{window: pending[0], isAhead: ahead, began: time.Now(), asked: make(chan struct{})}
		pending, begun = pending[1:], true
		go p.ask(asking, src, lease, job, a)
		return a
	}
	var next *attempt
	defer func() { // only a panic leaves one
		if next != nil {
			breakOff()
			<-next.asked
			next.close()
		}
	}()

	var failed []error
	inARow := 0 // windows that met an unavailable vendor
	for next = begin(false); next != nil; {
		a := next
		next = nil
		if a.isAnswered() {
			next = begin(true)
		}
		if len(failed) > 0 || len(pending) > 0 || next != nil { // done with the last window only
			a.leaveSlotOpen()
		}
		out, err := p.settle(ctx, src, job, a)
		total.Add(out)
		if first, second, ok := a.window.Halves(); ok && errors.Is(err, ErrTimeout) {
			pending = append([]Window{second, first}, pending...)
		} else if err != nil {
			failed = append(failed, err)
			if errors.Is(err, ErrUnavailable) {
				inARow++
			}
			if ctx.Err() != nil || errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrThrottled) || errors.Is(err, ErrFenced) || inARow >= 2 {
				isOver = true
				breakOff()
			}
		} else {
			inARow = 0
		}
		if next == nil {
			next = begin(false)
		}
	}
	if isStopped && !isOver {
		failed = append(failed, fmt.Errorf("%s %s: %d windows are left: %w", job.Dataset, job.Scope, len(pending), ErrStopped))
	}
	return total, errors.Join(failed...)
}

// attempt is a window that was begun. What ask finds out is there once asked is closed.
type attempt struct {
	window  Window
	isAhead bool // asked for while the one before is loaded
	began   time.Time
	asked   chan struct{}

	run        Run    // nil when it could not be started
	calls      *Calls // that were made for it
	answers    []*Answer
	unanswered []error // one for each question without an answer; why the run could not be started
	evidence   *Answer // the last answer by which the vendor refused; nil: none
	panicked   string
}

// ask opens the run of a window and asks for it.
func (p *Pipeline) ask(ctx context.Context, src Source, lease Lease, job Job, a *attempt) {
	defer close(a.asked)
	defer func() { // whoever awaits the answer shall meet it, as if there were one goroutine
		if r := recover(); r != nil {
			a.panicked = fmt.Sprintf("%v\n\n%s", r, debug.Stack())
		}
	}()
	run, err := p.Warehouse.StartRun(ctx, lease, job, a.window, p.Now())
	if err != nil {
		a.unanswered = []error{fmt.Errorf("start run: %w", err)}
		return
	}
	a.run = run
	ctx, a.calls = WithCalls(ctx, run.ID())
	killpoint.Here(killpoint.RunStarted)
	p.extract(ctx, src, job, a)
	if a.isAhead {
		killpoint.Here(killpoint.Prefetched)
	}
}

// isAnswered waits for the end of ask and tells whether there is something to load.
func (a *attempt) isAnswered() bool {
	<-a.asked
	if a.panicked != "" {
		a.close()
		panic(a.panicked)
	}
	return len(a.answers) > 0
}

func (a *attempt) leaveSlotOpen() {
	if a.run != nil {
		a.run.LeaveSlotOpen()
	}
}

// close frees the bodies.
func (a *attempt) close() {
	for _, ans := range a.answers {
		ans.Body.Close()
	}
	if a.evidence != nil {
		a.evidence.Body.Close()
	}
}

// snapshotLoad bounds the load of what was answered when the process is told to stop, from then on.
// It is landed, so the next process can load it.
const snapshotLoad = 20 * time.Second

// settle brings a window that was asked for into the warehouse and closes its run.
func (p *Pipeline) settle(ctx context.Context, src Source, job Job, a *attempt) (out Outcome, err error) {
	defer a.close()
	if a.run == nil {
		return out, fmt.Errorf("%s %s %s: %w", job.Dataset, job.Scope, a.window, errors.Join(a.unanswered...))
	}
	ctx = context.WithValue(ctx, callsKey{}, a.calls)
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s %s %s: run %d: %w", job.Dataset, job.Scope, a.window, a.run.ID(), err)
		}
		p.logRun(ctx, job, a, out, err)
	}()
	if len(a.answers) == 0 {
		err = errors.Join(a.unanswered...)
		return out, errors.Join(err, a.run.Fail(context.WithoutCancel(ctx), a.evidence, err))
	}
	if job.Snapshot { // nobody can ask for it again: a stop request waits for the load
		loading, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(ctx, func() { time.AfterFunc(snapshotLoad, cancel) })()
		ctx = loading
	}
	return a.run.Load(ctx, a.answers, a.unanswered, src.Transform)
}

// evidencePatience bounds the landing of what the vendor refused with: a stop does not wait for it.
const evidencePatience = 10 * time.Second

// extract asks for everything of one run, strictly one call after the other, and lands snapshots
// before anybody parses them, refused answers as evidence too.
func (p *Pipeline) extract(ctx context.Context, src Source, job Job, a *attempt) {
	products := job.Products
	if len(products) == 0 {
		products = []string{""}
	}
	inARow := 0 // questions that met an unavailable vendor, one after the other
	for _, product := range products {
		ans, err := src.Extract(ctx, Request{Dataset: job.Dataset, Scope: job.Scope, Window: a.window, Product: product})
		kept := true
		if err == nil && job.Snapshot {
			err = a.run.Land(ctx, ans)
			kept = err == nil
		}
		if err == nil {
			a.answers, inARow = append(a.answers, ans), 0
			continue
		}
		if ans != nil {
			landing, cancel := context.WithTimeout(context.WithoutCancel(ctx), evidencePatience)
			if landErr := a.run.Land(landing, ans); landErr != nil {
				err = errors.Join(err, landErr)
			}
			cancel()
			if a.evidence != nil {
				a.evidence.Body.Close()
			}
			a.evidence = ans
		}
		a.unanswered = append(a.unanswered, fmt.Errorf("extract%s: %w", prefixed(" ", product), err))
		if errors.Is(err, ErrUnavailable) {
			inARow++
		}
		if ctx.Err() != nil || !kept || !isVendors(err) { // what cannot be kept must not be asked for
			a.unanswered = append(a.unanswered, ErrUnasked)
			break
		}
		var held *HeldError // what holds one question back holds the others too
		isHeld := errors.As(err, &held)
		if isHeld && held.Class == nil { // a matter of minutes
			a.unanswered = append(a.unanswered, ErrUnasked)
		}
		if errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrThrottled) || inARow >= 2 || isHeld {
			break
		}
	}
	for _, product := range job.Later {
		a.unanswered = append(a.unanswered, fmt.Errorf("extract %s: %w", product, ErrUnasked))
	}
}

// isVendors tells a failure of the vendor, or one that its rules demand, from one of our own, such as a
// database that is away: that ends as soon as we are well again.
func isVendors(err error) bool {
	var reject *RejectError
	var held *HeldError
	return errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrThrottled) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrContract) ||
		errors.As(err, &reject) || errors.As(err, &held)
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// logRun is the one line in which a run speaks, when it is over.
func (p *Pipeline) logRun(ctx context.Context, job Job, a *attempt, out Outcome, err error) {
	attrs := []any{"run", a.run.ID(), "dataset", job.Dataset, "scope", job.Scope, "account", job.Account, "window", a.window.String()}
	if !job.Slot.IsZero() {
		attrs = append(attrs, "slot", job.Slot.UTC().Format(time.RFC3339))
	}
	if job.ReplayOf != 0 {
		attrs = append(attrs, "replay_of", job.ReplayOf)
	}
	attrs = append(attrs,
		"received", out.Received, "inserted", out.Inserted, "restated", out.Restated, "unchanged", out.Unchanged,
		"ignored", out.Ignored, "quarantined", out.Quarantined, "absent", out.Absent,
		"calls", a.calls, "took", time.Since(a.began).Round(time.Millisecond).String())
	if out.SameAs != 0 {
		attrs = append(attrs, "same_as", out.SameAs)
	}
	if len(out.Warnings) > 0 {
		attrs = append(attrs, "warnings", out.Warnings)
	}
	_, _, halves := a.window.Halves()
	switch {
	case halves && errors.Is(err, ErrTimeout): // both halves are asked for next
		p.Log.Info("halved", append(attrs, "error", err)...)
	case err != nil && ctx.Err() != nil: // somebody wanted it so, and it is done again
		p.Log.Warn("interrupted", append(attrs, "error", err)...)
	case err != nil:
		p.Log.Error("failed", append(attrs, "error", err)...)
	case out.Partial():
		if len(out.Rejected) > 0 {
			attrs = append(attrs, "rejected", errors.Join(out.Rejected...))
		}
		p.Log.Warn("loaded in part", attrs...)
	default:
		p.Log.Info("loaded", attrs...)
	}
}
