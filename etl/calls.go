package etl

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Classes of calls: what became of one HTTP exchange with a vendor.
const (
	CallOK           = "ok"           // an answer that came whole; what is in it, its transform tells
	CallNoData       = "no_data"      // the vendor had nothing to report
	CallUnauthorized = "unauthorized" // ErrUnauthorized
	CallThrottled    = "throttled"    // ErrThrottled
	CallTimeout      = "timeout"      // ErrTimeout
	CallUnavailable  = "unavailable"  // ErrUnavailable
	CallContract     = "contract"     // ErrContract
	CallCanceled     = "canceled"     // we broke it off
	CallFailed       = "failed"       // for a reason of our own, such as a full disk
	CallToken        = "token"        // exchange of a refresh token, whatever became of it
)

// ClassOf says what a call became by the error that its answer was read as.
func ClassOf(err error) string {
	var reject *RejectError
	switch {
	case err == nil:
		return CallOK
	case errors.As(err, &reject) && (reject.Reason == "no_data" || reject.Reason == "api_unknown"):
		return CallNoData
	case errors.Is(err, ErrUnauthorized):
		return CallUnauthorized
	case errors.Is(err, ErrThrottled):
		return CallThrottled
	case errors.Is(err, ErrTimeout): // is ErrUnavailable too
		return CallTimeout
	case errors.Is(err, ErrUnavailable):
		return CallUnavailable
	case errors.Is(err, ErrContract):
		return CallContract
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return CallCanceled
	}
	return CallFailed
}

// Calls counts what one run asked of its vendor: every HTTP exchange, by what became of it, retries
// and failures too. It is safe for concurrent use, and nil counts nothing.
type Calls struct {
	run int64

	mu      sync.Mutex
	byClass map[string]int
}

type callsKey struct{}

// WithCalls marks what is done under the context as done for a run: its number stands in the log, and
// its calls are counted. What a replay or an import does asks nobody and counts nothing.
func WithCalls(ctx context.Context, run int64) (context.Context, *Calls) {
	c := &Calls{run: run, byClass: map[string]int{}}
	return context.WithValue(ctx, callsKey{}, c), c
}

// CallsOf are the calls of the run that the context works for; nil when it works for none.
func CallsOf(ctx context.Context) *Calls {
	c, _ := ctx.Value(callsKey{}).(*Calls)
	return c
}

// RunID is the run that the context works for; 0 when it works for none.
func RunID(ctx context.Context) int64 {
	if c := CallsOf(ctx); c != nil {
		return c.run
	}
	return 0
}

// CountCall counts one call for the run that the context works for.
func CountCall(ctx context.Context, class string) { CallsOf(ctx).add(class, 1) }

// Move counts a call that was counted as one class as another: what the status promised and what the
// body says may differ.
func (c *Calls) Move(from, to string) {
	if from != to {
		c.add(from, -1)
		c.add(to, 1)
	}
}

func (c *Calls) add(class string, n int) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byClass[class] += n; c.byClass[class] == 0 {
		delete(c.byClass, class)
	}
}

// ByClass are the counts so far; classes that were not met are absent.
func (c *Calls) ByClass() map[string]int {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.byClass)
}

// LogValue is such as "ok 3, timeout 1"; "none" when nobody was asked.
func (c *Calls) LogValue() slog.Value { return inWords(c.ByClass()) }

// inWords lists counts by name, for a log.
func inWords(counts map[string]int) slog.Value {
	if len(counts) == 0 {
		return slog.StringValue("none")
	}
	parts := make([]string, 0, len(counts))
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, name+" "+strconv.Itoa(counts[name]))
	}
	return slog.StringValue(strings.Join(parts, ", "))
}
