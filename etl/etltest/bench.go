package etltest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"meterhouse/etl"
)

// prompt is how long obeying may take on a busy machine. Tests of the suite shorten it.
var prompt = 10 * time.Second

const (
	maxBody  = 1 << 20
	maxGood  = 64 << 10 // a good answer is cut at every byte
	tries    = 10       // more requests than this for one question are no patience
	redirect = "/etltest/elsewhere"
)

// bench is a source with its vendor, for one check.
type bench struct {
	testing.TB
	cfg    Config
	vendor Vendor
	server *httptest.Server
	gone   chan struct{} // closed when the check is over: releases whoever hangs

	mu       sync.Mutex
	clock    time.Time
	waits    []time.Duration
	delay    time.Duration // of a good answer, real time
	header   http.Header   // put in place of what a good answer for data has
	onWait   func()
	faults   []http.HandlerFunc // for the next requests for data
	fault    http.HandlerFunc   // for all after them; nil lets them through
	requests int                // for data
	flying   int
	peak     int
	strays   int // requests that followed a redirect
	sent     []byte
	secrets  []string
	said     bytes.Buffer // everything that a person may see, the log first of all
}

// open makes a bench whose environment was changed by tune. At the end of the check nothing that
// was said may hold a secret.
func open(t testing.TB, cfg Config, tune ...func(*Env)) *bench {
	t.Helper()
	b := &bench{TB: t, cfg: cfg, clock: cfg.Now, gone: make(chan struct{})}
	b.server = httptest.NewServer(b)
	t.Cleanup(b.server.Close)
	t.Cleanup(func() { close(b.gone) })
	env := Env{
		BaseURL: b.server.URL, Timeout: time.Minute, MaxBody: maxBody, Now: b.now, Wall: time.Now, Sleep: b.sleep,
		Log: slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug - 4})),
	}
	for _, f := range tune {
		f(&env)
	}
	b.vendor = cfg.Open(t, env)
	if len(b.vendor.Secrets) == 0 {
		t.Fatal("Vendor.Secrets is empty, want the credentials to look for")
	}
	b.secrets = append(b.secrets, b.vendor.Secrets...)
	t.Cleanup(b.checkSecrets)
	return b
}

// now goes on a little with every reading, so that times can be told apart and put in order.
func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = b.clock.Add(time.Millisecond)
	return b.clock
}

func (b *bench) sleep(ctx context.Context, d time.Duration) error {
	b.mu.Lock()
	b.waits = append(b.waits, d)
	onWait := b.onWait
	b.mu.Unlock()
	if onWait != nil {
		onWait()
	}
	return context.Cause(ctx)
}

// Write takes the log.
func (b *bench) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.said.Write(p)
}

// say notes what a person would see of v.
func (b *bench) say(v ...any) {
	for _, v := range v {
		text, _ := json.Marshal(v) // what cannot be JSON is seen in no JSON
		fmt.Fprintf(b, "%v\n%+v\n%#v\n%s\n", v, v, v, text)
		slog.New(slog.NewJSONHandler(b, nil)).Info("seen", "value", v)
	}
}

func (b *bench) checkSecrets() {
	b.mu.Lock()
	defer b.mu.Unlock()
	said := b.said.String()
	for _, secret := range b.secrets {
		// The end of a token gives it away as well: its beginning may be the same for all.
		if end := secret[len(secret)/2:]; len(secret) >= 8 && strings.Contains(said, end) {
			at := strings.Index(said, end)
			b.Errorf("a credential can be seen: …%s…", said[max(0, at-200):min(len(said), at+len(end)+20)])
		}
	}
}

// fail gives each of the next requests for data a fault of its own.
func (b *bench) fail(faults ...http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = faults
}

// always gives one to all that come.
func (b *bench) always(fault http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = fault
}

func (b *bench) asked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.requests
}

// ServeHTTP stands between source and vendor.
func (b *bench) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, redirect) {
		b.mu.Lock()
		b.strays++
		b.mu.Unlock()
		return
	}
	data := b.vendor.IsData == nil || b.vendor.IsData(r)
	fault := b.enter(r, data)
	if fault != nil {
		defer b.leave(data)
		fault(w, r)
		return
	}
	time.Sleep(b.delay)
	whole := httptest.NewRecorder()
	b.vendor.Fake.ServeHTTP(whole, r)
	b.leave(data) // before the source has the answer and may ask again
	for name, values := range whole.Header() {
		w.Header()[name] = values
	}
	b.mu.Lock()
	if data {
		b.sent = whole.Body.Bytes()
		maps.Copy(w.Header(), b.header)
	}
	b.mu.Unlock()
	w.WriteHeader(whole.Code)
	_, _ = w.Write(whole.Body.Bytes()) // a source that left is no error of ours
}

func (b *bench) enter(r *http.Request, data bool) (fault http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range b.vendor.Credentials {
		b.secrets = append(b.secrets, r.Header.Get(name))
	}
	if !data {
		return nil
	}
	b.requests++
	b.flying++
	b.peak = max(b.peak, b.flying)
	if len(b.faults) > 0 {
		fault, b.faults = b.faults[0], b.faults[1:]
		return fault
	}
	return b.fault
}

func (b *bench) leave(data bool) {
	if !data {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flying--
}

// hang answers nothing until the source gives up.
func (b *bench) hang(_ http.ResponseWriter, r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-b.gone:
	}
}

// status answers with a status, headers as pairs of name and value, and a body.
func status(code int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// closed ends the connection without an answer.
func closed(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// broken ends it in the middle of one.
func broken(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "4096")
	_, _ = io.WriteString(w, `{"results":`)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// ask puts the configured question, and expects Extract to return promptly.
func (b *bench) ask(ctx context.Context, what string) (ans *etl.Answer, err error) {
	b.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		ans, err = b.vendor.Source.Extract(ctx, b.cfg.Request)
	}()
	select {
	case <-done:
	case <-time.After(prompt):
		b.Fatalf("%s: Extract is still at it after %s", what, prompt)
	}
	b.say(err)
	if ans == nil {
		return nil, err
	}
	b.say(said(ans))
	b.Cleanup(func() { ans.Body.Close() })
	if _, readErr := contentOf(ans.Body); readErr != nil { // evidence of an error too is landed
		b.Errorf("%s: Extract returned an answer with a body that cannot be read: %v", what, readErr)
	} else if r, ok := b.vendor.Source.(interface{ Recognize(*etl.Answer) error }); ok {
		if refusal := r.Recognize(landed(ans, ans.Body)); (refusal == nil) != (err == nil) {
			b.Errorf("%s: Extract returned the error %q, but Recognize says of the landed answer %q", what, fmt.Sprint(err), fmt.Sprint(refusal))
		}
	}
	return ans, err
}

// landed is an answer as it comes back from the database, times in the zone of the machine included.
func landed(ans *etl.Answer, body etl.Body) *etl.Answer {
	machine := time.FixedZone("machine", -5*60*60)
	return &etl.Answer{
		Request: ans.Request, Method: ans.Method, URL: ans.URL, Status: ans.Status, ContentType: ans.ContentType,
		RequestedAt: ans.RequestedAt.In(machine), FetchedAt: ans.FetchedAt.In(machine), Body: body, Warnings: etl.Warnings{}, PayloadID: 42,
	}
}

// extract asks and expects a good answer.
func (b *bench) extract(what string) *etl.Answer {
	b.Helper()
	ans, err := b.ask(b.Context(), what)
	if err != nil || ans == nil {
		b.Fatalf("%s: Extract returned %v and the error %q, want an answer", what, ans, fmt.Sprint(err))
	}
	return ans
}

// refused asks and expects an error of the class.
func (b *bench) refused(what string, class error) {
	b.Helper()
	if _, err := b.ask(b.Context(), what); !errors.Is(err, class) {
		b.Errorf("%s: Extract returned the error %q, want %q", what, fmt.Sprint(err), class)
	}
}

// said is an answer without its body, which is landed as it came.
func said(ans *etl.Answer) etl.Answer {
	shown := *ans
	shown.Body = nil
	return shown
}

func contentOf(body etl.Body) ([]byte, error) {
	r, err := body.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
