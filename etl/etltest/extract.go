package etltest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"meterhouse/etl"
)

// An answer says what was asked, how and when, by the business clock and without credentials.
func checkAnswer(t testing.TB, cfg Config) {
	b := open(t, cfg)
	ans := b.extract("a good day")
	if ans.Request != cfg.Request {
		t.Errorf("Answer.Request is %s, want %s", ans.Request, cfg.Request)
	}
	if ans.Status != http.StatusOK || ans.Method == "" || ans.NoData || ans.PayloadID != 0 {
		t.Errorf("answer is %+v, want status 200, a method, data and no PayloadID", said(ans))
	}
	u, err := url.Parse(ans.URL)
	if err != nil || u.Host == "" || u.User != nil {
		t.Errorf("Answer.URL is %q (%v), want an absolute URL without credentials", ans.URL, err)
	}
	asked, got := ans.RequestedAt, ans.FetchedAt
	if !cfg.Now.Before(asked) || !asked.Before(got) || got.After(b.now()) {
		t.Errorf("asked at %s, answered at %s: want readings of the clock in this order, after %s", asked, got, cfg.Now)
	}
	if asked.Location() != time.UTC || got.Location() != time.UTC {
		t.Errorf("times are in %s and %s, want UTC", asked.Location(), got.Location())
	}
}

// A body is what was sent, to the byte, as often as one wants it.
func checkBody(t testing.TB, cfg Config) {
	b := open(t, cfg)
	ans := b.extract("a good day")
	for range 2 { // opened anew
		got, err := contentOf(ans.Body)
		if err != nil || !bytes.Equal(got, b.sent) {
			t.Errorf("the body holds %d bytes (%v), want the %d that were sent", len(got), err, len(b.sent))
		}
	}
	if sum := sha256.Sum256(b.sent); ans.Body.SHA256() != sum {
		t.Errorf("SHA256 is %x, want %x of the body as sent", ans.Body.SHA256(), sum)
	}
	if ans.Body.Size() != int64(len(b.sent)) {
		t.Errorf("Size is %d, want %d of the body as sent", ans.Body.Size(), len(b.sent))
	}
	if got, err := unzip(ans.Body); err != nil || !bytes.Equal(got, b.sent) {
		t.Errorf("Zstd holds %d bytes (%v), want the %d that were sent", len(got), err, len(b.sent))
	}
	for range 2 {
		if err := ans.Body.Close(); err != nil {
			t.Errorf("Close: %v, want it to be repeatable", err)
		}
	}
}

func unzip(body etl.Body) ([]byte, error) {
	frame, err := body.Zstd()
	if err != nil {
		return nil, err
	}
	defer frame.Close()
	r, err := zstd.NewReader(frame)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Extract ends when its context does: before a request, in one, and between two.
func checkCancellation(t testing.TB, cfg Config) {
	for _, c := range []struct {
		name    string
		context func(context.Context) (context.Context, context.CancelFunc)
		want    error
	}{
		{"a cancelled context", context.WithCancel, context.Canceled},
		{"a deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 100*time.Millisecond)
		}, context.DeadlineExceeded},
	} {
		b := open(t, cfg)
		ctx, cancel := c.context(t.Context())
		defer cancel()
		b.always(func(w http.ResponseWriter, r *http.Request) {
			if c.want == context.Canceled {
				cancel()
			}
			b.hang(w, r)
		})
		b.ends(ctx, c.name+" while the vendor is silent", c.want)
		for end := time.Now().Add(prompt); b.inFlight() > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("%s: the request is still open after Extract returned", c.name)
				break
			}
		}
	}

	b := open(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.ends(ctx, "a context that was cancelled before", context.Canceled)
	if b.asked() > 0 {
		t.Errorf("a context that was cancelled before: the vendor was asked %d times, want never", b.asked())
	}

	b = open(t, cfg)
	ctx, cancel = context.WithCancel(t.Context())
	b.always(status(http.StatusServiceUnavailable, ""))
	b.onWait = cancel
	b.ends(ctx, "a context that is cancelled between attempts", context.Canceled)
	if b.asked() != 1 {
		t.Errorf("a context that is cancelled between attempts: the vendor was asked %d times, want once", b.asked())
	}
}

func (b *bench) inFlight() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flying
}

// ends expects Extract to return the context's error, which blames nobody.
func (b *bench) ends(ctx context.Context, what string, want error) {
	b.Helper()
	_, err := b.ask(ctx, what)
	if !errors.Is(err, want) {
		b.Errorf("%s: Extract returned the error %q, want %q", what, fmt.Sprint(err), want)
	}
	for _, class := range []error{etl.ErrUnauthorized, etl.ErrThrottled, etl.ErrUnavailable, etl.ErrContract} {
		if errors.Is(err, class) {
			b.Errorf("%s: the error says %q, but it was no fault of the vendor", what, class)
		}
	}
}

// Every failure says who acts on it, after a bounded number of attempts.
func checkClasses(t testing.TB, cfg Config) {
	failures := map[string]struct {
		fault http.HandlerFunc
		class error
	}{
		"401 for ever":                   {status(http.StatusUnauthorized, "{}"), etl.ErrUnauthorized},
		"429 for ever":                   {status(http.StatusTooManyRequests, "{}"), etl.ErrThrottled},
		"429 that asks to wait a day":    {status(http.StatusTooManyRequests, "{}", "Retry-After", "86400"), etl.ErrThrottled},
		"503 for ever":                   {status(http.StatusServiceUnavailable, "{}"), etl.ErrUnavailable},
		"500 for ever":                   {status(http.StatusInternalServerError, "<html>oops</html>"), etl.ErrUnavailable},
		"504 for ever":                   {status(http.StatusGatewayTimeout, "{}"), etl.ErrTimeout},
		"405":                            {status(http.StatusMethodNotAllowed, "{}"), etl.ErrContract},
		"a connection that is closed":    {closed, etl.ErrUnavailable},
		"an answer that breaks off":      {broken, etl.ErrUnavailable},
		"an encoding we cannot read":     {status(http.StatusOK, "{}", "Content-Encoding", "br"), etl.ErrContract},
		"gzip that is announced and not": {status(http.StatusOK, "{}"+strings.Repeat(" ", 100), "Content-Encoding", "gzip"), etl.ErrContract},
	}
	for name, r := range cfg.Refusals {
		f := failures[name]
		f.fault, f.class = status(r.Status, r.Body), r.Class
		failures[name] = f
	}
	for name, f := range failures {
		b := open(t, cfg)
		b.always(f.fault)
		b.refused(name, f.class)
		if b.asked() < 1 || b.asked() > tries {
			t.Errorf("%s: the vendor was asked %d times, want 1 to %d", name, b.asked(), tries)
		}
	}
}

// What passes by itself is waited for, as long as the vendor asks.
func checkPatience(t testing.TB, cfg Config) {
	for name, fault := range map[string]http.HandlerFunc{
		"503 once":                         status(http.StatusServiceUnavailable, ""),
		"a connection that is closed once": closed,
		"an answer that breaks off once":   broken,
		"429 once":                         status(http.StatusTooManyRequests, "", "Retry-After", "7"),
	} {
		b := open(t, cfg)
		b.fail(fault)
		b.kept(b.extract(name), name)
		var waited time.Duration
		for _, d := range b.waits {
			waited += d
		}
		if b.asked() != 2 || waited <= 0 || name == "429 once" && waited < 7*time.Second {
			t.Errorf("%s: the vendor was asked %d times after waiting %s, want twice, and as long as it asked for", name, b.asked(), waited)
		}
	}
}

// A vendor that is silent is left after the time-out: a smaller window may succeed.
func checkTimeout(t testing.TB, cfg Config) {
	b := open(t, cfg, func(env *Env) { env.Timeout = 100 * time.Millisecond })
	b.always(b.hang)
	b.refused("a silent vendor", etl.ErrTimeout)
}

// An answer without end is left at the limit.
func checkSize(t testing.TB, cfg Config) {
	b := open(t, cfg)
	var sent atomic.Int64
	const endless = 64 << 20 // what lies in the buffers of both sides is far less
	b.always(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		chunk := bytes.Repeat([]byte(" "), 64<<10)
		for n := 1; n > 0 && sent.Load() < endless; sent.Add(int64(n)) {
			n, _ = w.Write(chunk)
		}
	})
	b.refused("an answer without end", etl.ErrContract)
	if sent.Load() >= endless {
		t.Errorf("an answer without end: %d bytes were taken, want an end soon after %d", sent.Load(), maxBody)
	}
}

// A redirect is not followed: credentials would go along.
func checkRedirect(t testing.TB, cfg Config) {
	for _, code := range []int{301, 302, 303, 307, 308} {
		b := open(t, cfg)
		b.always(status(code, "", "Location", b.server.URL+redirect))
		b.refused(fmt.Sprint(code), etl.ErrContract)
		if b.strays > 0 {
			t.Errorf("%d: the redirect was followed", code)
		}
	}
}

// An answer that is dated by a clock more than two minutes off is marked, once, with host, distance and direction;
// whatever else it says of its time, and what came before it, is not.
func checkClock(t testing.TB, cfg Config) {
	wall := cfg.Now.AddDate(0, 0, 9).Truncate(time.Second) // not the business clock
	date := func(skew time.Duration) []string { return []string{wall.Add(skew).UTC().Format(http.TimeFormat)} }
	for _, c := range []struct {
		name   string
		header http.Header
		want   string // behind the host; "" for no mark
	}{
		{"three hours behind", http.Header{"Date": date(-3 * time.Hour)}, "3h0m0s behind"},
		{"121 s behind", http.Header{"Date": date(-121 * time.Second)}, "2m1s behind"},
		{"120 s behind", http.Header{"Date": date(-120 * time.Second)}, ""},
		{"110 s behind", http.Header{"Date": date(-110 * time.Second)}, ""},
		{"right", http.Header{"Date": date(0)}, ""},
		{"110 s ahead", http.Header{"Date": date(110 * time.Second)}, ""},
		{"120 s ahead", http.Header{"Date": date(120 * time.Second)}, ""},
		{"121 s ahead", http.Header{"Date": date(121 * time.Second)}, "2m1s ahead of"},
		{"26 hours ahead", http.Header{"Date": date(26 * time.Hour)}, "26h0m0s ahead of"},
		{"no Date", http.Header{"Date": nil}, ""},
		{"an empty Date", http.Header{"Date": {""}}, ""},
		{"a Date that is none", http.Header{"Date": {"yesterday"}}, ""},
		{"a cache's answer", http.Header{"Date": date(-3 * time.Hour), "Age": {"10800"}}, ""},
		{"a cache's answer by a wrong clock", http.Header{"Date": date(-3 * time.Hour), "Age": {"60"}}, "2h59m0s behind"},
		{"an Age that is none", http.Header{"Date": date(-3 * time.Hour), "Age": {"old"}}, ""},
	} {
		b := open(t, cfg, func(env *Env) { env.Wall = func() time.Time { return wall } })
		b.header = c.header
		b.fail(status(http.StatusServiceUnavailable, "", "Date", date(time.Hour)[0])) // whose answer is tried again
		ans := b.extract(c.name)
		want := etl.Warning{Count: 1, FirstPath: strings.TrimPrefix(b.server.URL, "http://") + ", " + c.want + " our clock"}
		if c.want == "" {
			want = etl.Warning{}
		}
		if got := ans.Warnings[etl.VendorClockSkewed]; got != want {
			t.Errorf("%s: the answer is marked %+v, want %+v", c.name, got, want)
		}
	}
}

// What the source does not know it does not ask.
func checkUnknownDataset(t testing.TB, cfg Config) {
	b := open(t, cfg)
	req := cfg.Request
	req.Dataset = "nobody.nothing"
	_, err := b.vendor.Source.Extract(t.Context(), req)
	if err == nil || b.asked() > 0 {
		t.Errorf("dataset %s: got the error %v and %d requests, want an error and none", req.Dataset, err, b.asked())
	}
}

// Requests that share a credential queue: a vendor may forbid two at once.
func checkOneAtATime(t testing.TB, cfg Config) {
	b := open(t, cfg)
	b.delay = 5 * time.Millisecond
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			ans, err := b.vendor.Source.Extract(t.Context(), cfg.Request)
			if err != nil {
				t.Errorf("one of several at once: %v", err)
				return
			}
			ans.Body.Close()
		})
	}
	all.Wait()
	if b.peak != 1 || b.asked() != 4 {
		t.Errorf("4 questions at once: %d requests, %d of them at the same time, want one after the other", b.asked(), b.peak)
	}
}

// No credential is seen, not even when the vendor repeats it in its words.
func checkDiscretion(t testing.TB, cfg Config) {
	for _, code := range []int{200, 400, 401, 403, 404, 500} {
		b := open(t, cfg)
		b.always(func(w http.ResponseWriter, r *http.Request) {
			echo, _ := json.Marshal(fmt.Sprint(r.Header)) // a text always can
			status(code, fmt.Sprintf(`{"code":%d,"error":"no","message":%s,"msg":%s}`, code, echo, echo))(w, r)
		})
		ans, _ := b.ask(t.Context(), "a vendor that repeats what it was sent")
		b.say(b.vendor.Source)
		if ans != nil {
			_, _, err := b.transform(ans, nil)
			b.say(err)
		}
	}
}
