package fetch

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
	"unicode"

	"meterhouse/etl"
)

// Policy says how often and how patiently to try. The zero value of a field means its default.
type Policy struct {
	Attempts int           // all in all; default 4
	Base     time.Duration // first wait, doubled for each further one; default 2 s
	Max      time.Duration // longest wait within a run; default 60 s
	// OnRetry, if set, is told of a failed attempt that will be followed by another.
	OnRetry func(attempt int, wait time.Duration, err error)
}

// Retry calls op until it succeeds, fails for good or has used up its attempts; only a transient
// *Error is tried again. A wait the vendor asked for is kept to; when it is longer than the
// policy's longest, Retry gives up at once with a *etl.HeldError of the class ErrThrottled. A nil sleep
// sleeps.
func Retry(ctx context.Context, policy Policy, sleep func(context.Context, time.Duration) error, op func() error) error {
	if policy.Attempts == 0 {
		policy.Attempts = 4
	}
	if policy.Base == 0 {
		policy.Base = 2 * time.Second
	}
	if policy.Max == 0 {
		policy.Max = 60 * time.Second
	}
	if sleep == nil {
		sleep = Sleep
	}
	pause := min(policy.Base, policy.Max)
	for attempt := 1; ; attempt++ {
		err := op()
		var failed *Error
		if err == nil || !errors.As(err, &failed) || !failed.Transient {
			return err
		}
		wait := min(pause+rand.N(pause/2+1), policy.Max)
		pause = min(2*pause, policy.Max)
		if failed.RetryAfter > policy.Max {
			if !errors.Is(err, etl.ErrThrottled) {
				err = refuse("throttled", etl.ErrThrottled, "%s: %s", failed.Reject.Reason, failed.Reject.Detail)
			}
			return &etl.HeldError{What: "the vendor", Reason: err.Error(), Until: time.Now().Add(failed.RetryAfter), Class: err}
		}
		if attempt >= policy.Attempts {
			return err
		}
		wait = max(wait, failed.RetryAfter)
		if policy.OnRetry != nil {
			policy.OnRetry(attempt, wait, err)
		}
		if stopped := sleep(ctx, wait); stopped != nil {
			return stopped
		}
	}
}

// Sleep waits for d of real time or until ctx ends.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ParseRetryAfter reads a Retry-After header, in seconds or as a date, clamped to 1 s … 6 h. What
// is neither is not ok.
func ParseRetryAfter(value string, now time.Time) (wait time.Duration, ok bool) {
	const shortest, longest = time.Second, 6 * time.Hour
	value = strings.TrimSpace(value)
	if value == "" {
		return 0, false
	}
	if strings.Trim(value, "0123456789") == "" {
		value = strings.TrimLeft(value, "0")
		if len(value) > 6 {
			return longest, true
		}
		seconds := time.Duration(0)
		for _, c := range value {
			seconds = seconds*10 + time.Duration(c-'0')
		}
		return min(max(seconds*time.Second, shortest), longest), true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(now), shortest), longest), true
}

// excerpt makes a vendor's text fit for an error: at most 200 characters, control characters
// replaced.
func excerpt(text string) string {
	var b strings.Builder
	n := 0
	for _, c := range text {
		if n++; n > 200 {
			b.WriteString("…")
			break
		}
		if unicode.IsControl(c) || unicode.In(c, unicode.Cf, unicode.Zl, unicode.Zp) {
			c = unicode.ReplacementChar
		}
		b.WriteRune(c)
	}
	return b.String()
}
