package etl

import (
	"errors"
	"fmt"
	"time"
)

// Who acts on a failed exchange. Tests and callers ask with errors.Is.
var (
	// ErrUnauthorized: the operator renews credentials or rights.
	ErrUnauthorized = errors.New("credentials refused")
	// ErrThrottled: wait as told; the slot stays due.
	ErrThrottled = errors.New("vendor throttles")
	// ErrUnavailable: nothing to do, the next slot tries again.
	ErrUnavailable = errors.New("vendor unavailable")
	// ErrTimeout is ErrUnavailable because the answer took too long: a smaller window may succeed.
	ErrTimeout = fmt.Errorf("no answer in time: %w", ErrUnavailable)
	// ErrContract: the vendor broke its contract; a developer opens the landed body.
	ErrContract = errors.New("vendor broke its contract")
)

// RejectError says that nothing of an answer may reach the facts. Reason is a name from the
// acceptance rules (json_syntax, wrong_customer, unexpected_empty, …); Detail says what was got.
type RejectError struct {
	Reason string
	Detail string
	Class  error // one of the sentinels above; nil means ErrContract
}

func (e *RejectError) Error() string {
	if e.Detail == "" {
		return e.Reason + ": " + e.Unwrap().Error()
	}
	return e.Reason + ": " + e.Detail + ": " + e.Unwrap().Error()
}

// Unwrap is the class: who must act.
func (e *RejectError) Unwrap() error {
	if e.Class == nil {
		return ErrContract
	}
	return e.Class
}

// Rejected is a RejectError of the class ErrContract with a formatted detail.
func Rejected(reason, format string, args ...any) error {
	return &RejectError{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// BusyError says that another living process holds the lease of a scope.
type BusyError struct {
	Dataset, Scope, Owner string
	FreesAt               time.Time // when the lease ends unless its owner renews it
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%s %s: another process is at it (%s), its lease frees at %s unless renewed: try again later",
		e.Dataset, e.Scope, e.Owner, e.FreesAt.UTC().Format(time.RFC3339))
}

// ErrFenced says that the lease was lost to another process before the load could commit.
var ErrFenced = errors.New("lease lost to another process, nothing was written")

// ErrStopped says that somebody asked to stop before everything was done. What was done is kept.
var ErrStopped = errors.New("stopped before the end, what is loaded is kept")

// ErrUnasked stands among the unanswered questions of a run that could not ask for everything: its slot
// stays due.
var ErrUnasked = errors.New("not everything was asked for, the slot stays due")

// HeldError says that the vendor must not be asked for something before a time: because of its pace,
// its quota, or something that it refused.
type HeldError struct {
	What   string    // what was to be asked
	Reason string    // why not now, in words
	Until  time.Time // when it may be tried again: real clock, but business clock where a month has to end first
	// Class is ErrThrottled, ErrUnauthorized or ErrUnavailable where the vendor's own word is the
	// reason; nil when it is only a matter of pace.
	Class error
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s: not asked before %s: %s", e.What, e.Until.UTC().Format(time.RFC3339), e.Reason)
}

func (e *HeldError) Unwrap() error { return e.Class }
