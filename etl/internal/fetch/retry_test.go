package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"meterhouse/etl"
)

func mustAddr(t *testing.T, s string) netip.Addr {
	t.Helper()
	addr, err := netip.ParseAddr(s)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 5, 15, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"120":                           120 * time.Second,
		" 7 ":                           7 * time.Second,
		"0":                             time.Second,
		"000000000000000000000000005":   5 * time.Second,
		"21600":                         6 * time.Hour,
		"21601":                         6 * time.Hour,
		"999999999":                     6 * time.Hour,
		"99999999999999999999999999999": 6 * time.Hour,
		"Fri, 15 May 2026 12:01:30 GMT": 90 * time.Second,
		"Fri, 15 May 2026 11:00:00 GMT": time.Second,
		"Fri, 15 May 2099 11:00:00 GMT": 6 * time.Hour,
		"-1":                            0,
		"9e9":                           0,
		"1.5":                           0,
		"soon":                          0,
		"":                              0,
		"\x00":                          0,
	} {
		got, ok := ParseRetryAfter(value, now)
		if got != want || ok != (want != 0) {
			t.Errorf("%q: got %s %t, want %s", value, got, ok, want)
		}
	}
}

func TestRetry(t *testing.T) {
	again := transient("transient", etl.ErrUnavailable, "status 503")
	waitFor := func(d time.Duration) *Error {
		e := transient("throttled", etl.ErrThrottled, "status 429")
		e.RetryAfter = d
		return e
	}
	busy := transient("transient", etl.ErrUnavailable, "status 503")
	busy.RetryAfter = 2 * time.Hour
	plain := errors.New("no exchange at all")
	for _, c := range []struct {
		name   string
		errs   []error // then nil
		calls  int
		low    []time.Duration // least waits
		high   []time.Duration
		want   error
		reason string
	}{
		{name: "at once", calls: 1},
		{name: "third time", errs: []error{again, again}, calls: 3,
			low: []time.Duration{2e9, 4e9}, high: []time.Duration{3e9, 6e9}},
		{name: "never", errs: []error{again, again, again, again, again}, calls: 4,
			low: []time.Duration{2e9, 4e9, 8e9}, high: []time.Duration{3e9, 6e9, 12e9}, want: etl.ErrUnavailable, reason: "transient"},
		{name: "not transient", errs: []error{refuse("redirect", nil, "")}, calls: 1, want: etl.ErrContract, reason: "redirect"},
		{name: "of another kind", errs: []error{plain}, calls: 1, want: plain},
		{name: "wrapped", errs: []error{fmt.Errorf("GET /x: %w", again)}, calls: 2, low: []time.Duration{2e9}, high: []time.Duration{3e9}},
		{name: "as told", errs: []error{waitFor(40 * time.Second)}, calls: 2, low: []time.Duration{40e9}, high: []time.Duration{40e9}},
		{name: "told little", errs: []error{waitFor(time.Second)}, calls: 2, low: []time.Duration{2e9}, high: []time.Duration{3e9}},
		{name: "told too long", errs: []error{waitFor(61 * time.Second)}, calls: 1, want: etl.ErrThrottled, reason: "throttled"},
		{name: "unavailable for long", errs: []error{busy}, calls: 1, want: etl.ErrThrottled, reason: "throttled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			calls := 0
			var waits []time.Duration
			told := 0
			err := Retry(t.Context(), Policy{OnRetry: func(int, time.Duration, error) { told++ }},
				func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil },
				func() error {
					calls++
					if calls <= len(c.errs) {
						return c.errs[calls-1]
					}
					return nil
				})
			var reject *etl.RejectError
			if !errors.Is(err, c.want) || c.reason != "" && (!errors.As(err, &reject) || reject.Reason != c.reason) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if calls != c.calls || len(waits) != len(c.low) || told != len(waits) {
				t.Fatalf("%d calls, waits %v, told %d", calls, waits, told)
			}
			for i, w := range waits {
				if w < c.low[i] || w > c.high[i] {
					t.Errorf("wait %d is %s, want %s to %s", i, w, c.low[i], c.high[i])
				}
			}
		})
	}
}

func TestRetryStopsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := Retry(ctx, Policy{}, nil, func() error {
		cancel()
		return transient("transient", etl.ErrUnavailable, "status 503")
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestStatus(t *testing.T) {
	for status, want := range map[int]string{
		200: "", 201: "http_status", 204: "http_status", 400: "http_status", 401: "unauthorized", 403: "forbidden",
		408: "timeout", 429: "throttled", 500: "transient", 504: "timeout", 599: "transient",
	} {
		err := Status(&Result{Status: status, Header: http.Header{}})
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want+":") {
			t.Errorf("%d: %v, want %q", status, err, want)
		}
	}
}

func TestExcerpt(t *testing.T) {
	got := excerpt("a\r\nb\x1b" + strings.Repeat("é", 300))
	if want := "a\ufffd\ufffdb\ufffd" + strings.Repeat("é", 195) + "…"; got != want {
		t.Errorf("got %q", got)
	}
}
