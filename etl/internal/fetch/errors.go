package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"meterhouse/etl"
)

// Error is a failed exchange. It unwraps to an *etl.RejectError, and so to the class that says who
// acts.
type Error struct {
	Reject *etl.RejectError
	// Transient says that the same request may succeed in a moment.
	Transient bool
	// RetryAfter is how long the vendor asked to wait; 0 when it did not.
	RetryAfter time.Duration
}

func (e *Error) Error() string { return e.Reject.Error() }

// Unwrap is the reject.
func (e *Error) Unwrap() error { return e.Reject }

func refuse(reason string, class error, format string, args ...any) *Error {
	return &Error{Reject: &etl.RejectError{Reason: reason, Detail: fmt.Sprintf(format, args...), Class: class}}
}

func transient(reason string, class error, format string, args ...any) *Error {
	e := refuse(reason, class, format, args...)
	e.Transient = true
	return e
}

// classify says what went wrong on the way. ctx is the caller's: its end is no fault of the vendor.
func (c *Client) classify(ctx context.Context, call Call, sent bool, err error) error {
	what := call.Method + " " + call.URL.Path
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	if errors.Is(err, errSpool) { // ours, not the vendor's
		return fmt.Errorf("%s: %w", what, err)
	}
	var own *Error
	if errors.As(err, &own) {
		own.Reject.Detail = what + ": " + own.Reject.Detail
		return own
	}
	var netErr net.Error
	timedOut := errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout()
	switch {
	case isTLS(err):
		return refuse("tls", etl.ErrUnavailable, "%s: %s", what, wordsOf(err, call))
	case errors.Is(err, errInnerAddress):
		return refuse("address_refused", etl.ErrContract, "%s: %s: %s", what, call.URL.Host, errInnerAddress)
	case strings.Contains(err.Error(), "server response headers exceeded"): // net/http has no name for it
		return refuse("body_too_large", etl.ErrContract, "%s: headers of more than 64 kB", what)
	case timedOut && sent:
		return transient("timeout", etl.ErrTimeout, "%s: no whole answer within %s", what, c.cfg.Timeout)
	default:
		return transient("transient", etl.ErrUnavailable, "%s: %s", what, wordsOf(err, call))
	}
}

// wordsOf is the text of a failed exchange. Of what is no HTTP, net/http quotes the line, whatever stands in it.
func wordsOf(err error, call Call) string {
	text := err.Error()
	if quoted := strconv.Quote(call.Secret); call.Secret != "" {
		text = strings.NewReplacer(call.Secret, "***", quoted[1:len(quoted)-1], "***").Replace(text)
	}
	return excerpt(text)
}

// isTLS tells a refused or unusable certificate or protocol from a connection that just broke.
func isTLS(err error) bool {
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	if errors.As(err, &verify) || errors.As(err, &record) || errors.As(err, &alert) {
		return true
	}
	var op *net.OpError // how crypto/tls wraps alerts sent and received
	return errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error") ||
		strings.HasPrefix(err.Error(), "tls: ") || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

// Status reads a status in the usual way: nil for 200; 401 and 403 are for the operator; 408, 429
// and 5xx may pass by themselves; anything else is http_status. Vendors with their own habits
// look at the body first.
func Status(res *Result) error {
	var e *Error
	switch s := res.Status; {
	case s == http.StatusOK:
		return nil
	case s == http.StatusUnauthorized:
		return refuse("unauthorized", etl.ErrUnauthorized, "status 401")
	case s == http.StatusForbidden:
		return refuse("forbidden", etl.ErrUnauthorized, "status 403")
	case s == http.StatusTooManyRequests:
		e = transient("throttled", etl.ErrThrottled, "status 429")
	case s == http.StatusRequestTimeout, s == http.StatusGatewayTimeout:
		e = transient("timeout", etl.ErrTimeout, "status %d", s)
	case s >= 500:
		e = transient("transient", etl.ErrUnavailable, "status %d", s)
	default:
		return refuse("http_status", etl.ErrContract, "status %d, want 200", s)
	}
	// Real time: the vendor's date is, whatever business clock is set.
	if wait, ok := ParseRetryAfter(res.Header.Get("Retry-After"), time.Now()); ok {
		e.RetryAfter = wait
		e.Reject.Detail += ", asked to wait " + wait.String()
	}
	return e
}
