package keystone

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/keystone/keystonesim"
)

var testKey = bytes.Repeat([]byte{7}, SecretsKeySize)

// bench is a vendor, a store and a clock that all tests of custody share.
type bench struct {
	t      *testing.T
	clock  *clock
	sim    *keystonesim.Sim
	server *httptest.Server
	store  *memStore
	logs   *lockedBuffer
	name   string // of the account; empty: acme

	mu       sync.Mutex
	canaries []string
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newBench(t *testing.T, cfg keystonesim.Config) *bench {
	t.Helper()
	return newBenchAt(t, cfg, newClock())
}

func newBenchAt(t *testing.T, cfg keystonesim.Config, c *clock) *bench {
	t.Helper()
	b := &bench{t: t, clock: c, logs: &lockedBuffer{}}
	cfg.TokenNow, cfg.Now, cfg.DailyOnly = b.clock.now, b.clock.now, true
	b.sim = keystonesim.New(cfg)
	b.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		var sent struct {
			Refresh string `json:"refresh_token"`
		}
		_ = json.Unmarshal(body, &sent)
		b.saw(r.Header.Get("authorizationToken"), sent.Refresh)
		b.sim.ServeHTTP(w, r)
	}))
	t.Cleanup(b.server.Close)
	b.store = newStore(b.clock.now)
	t.Cleanup(func() { b.clean("the log", b.logs.String()) })
	return b
}

// saw remembers the tokens that came to the vendor: the canaries of every test.
func (b *bench) saw(tokens ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.canaries = append(b.canaries, tokens...)
}

// clean looks for tokens, or pieces of them, in a text that people may see.
func (b *bench) clean(where, text string) {
	b.t.Helper()
	b.saw(b.sim.RefreshToken())
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, canary := range b.canaries {
		if n := len(canary); n >= minTokenLength && (strings.Contains(text, canary[n-tokenPiece:]) || strings.Contains(text, canary)) {
			b.t.Errorf("a token in %s: %s", where, text)
		}
	}
}

// account is another process that starts now, with the vendor's present token in its configuration.
func (b *bench) account(change ...func(*Config)) *Account {
	b.t.Helper()
	cfg := Config{
		Account: "acme", BaseURL: b.server.URL, SecretsKey: testKey, SeedToken: mustToken(b.t, b.sim.RefreshToken()),
		Tokens: b.store, Owner: "test", Now: b.clock.now, RealNow: b.clock.now, Sleep: b.clock.sleep, Pace: time.Nanosecond,
		Log: slog.New(slog.NewTextHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range change {
		f(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

func mustToken(t testing.TB, text string) Token {
	t.Helper()
	tok, err := NewToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// get asks for the list of customers and closes the answer.
func (b *bench) get(a *Account) error {
	ans, err := a.Extract(b.t.Context(), etl.Request{Dataset: Customers, Scope: "acme"})
	if ans != nil {
		ans.Body.Close()
	}
	if err != nil {
		b.clean("an error", err.Error())
	}
	return err
}

func (b *bench) mustGet(a *Account) {
	b.t.Helper()
	if err := b.get(a); err != nil {
		b.t.Fatal(err)
	}
}

// count counts the requests the vendor saw: exchanges of tokens, and others.
func (b *bench) count() (exchanges, data int) {
	for _, r := range b.sim.Requests() {
		if r.Path == tokenPath {
			exchanges++
		} else {
			data++
		}
	}
	return exchanges, data
}

func (b *bench) wantCount(exchanges, data int) {
	b.t.Helper()
	if e, d := b.count(); e != exchanges || d != data {
		b.t.Errorf("the vendor saw %d exchanges and %d data calls, want %d and %d", e, d, exchanges, data)
	}
}

// neverSpent checks that no spent refresh token was sent.
func (b *bench) neverSpent() {
	b.t.Helper()
	for _, r := range b.sim.Requests() {
		if r.Path == tokenPath && r.Credential != keystonesim.Refresh {
			b.t.Errorf("a %s token was sent for exchange", r.Credential)
		}
	}
}

func (b *bench) wantStates(want ...etl.AttemptState) {
	b.t.Helper()
	if got := b.store.states(); !slices.Equal(got, want) {
		b.t.Errorf("got attempts %v, want %v", got, want)
	}
}

func (b *bench) wantState(a *Account, want TokenState) TokenStatus {
	b.t.Helper()
	s, err := a.TokenStatus(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	if s.State != want {
		b.t.Errorf("got state %s (%s), want %s", s.State, s.NextStep, want)
	}
	return s
}

func TestAccessTokenIsReused(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	b.wantState(b.account(), TokenNone)
	a := b.account()
	for range 3 {
		b.mustGet(a)
	}
	b.wantCount(1, 3)
	b.mustGet(b.account()) // another process
	b.wantCount(1, 4)
	b.clock.advance(49 * time.Minute)
	b.mustGet(b.account())
	b.wantCount(1, 5)
	b.clock.advance(2 * time.Minute) // less than ten minutes left
	b.mustGet(b.account())
	b.wantCount(2, 6)
	b.neverSpent()
	s := b.wantState(a, TokenOK)
	if s.Generation != 3 || s.Source != "refresh" || len(s.Fingerprint) != 12 || !s.AccessUntil.Equal(b.clock.now().Add(time.Hour)) ||
		!s.RefreshDiesAt.Equal(b.clock.now().Add(7*24*time.Hour)) || !s.LoginDueAt.Equal(s.SeededAt.Add(90*24*time.Hour)) {
		t.Errorf("got status %+v", s)
	}
	b.wantStates(etl.AttemptDone, etl.AttemptDone)
}

// A year of daily runs spends every token once.
func TestSingleUseIsObeyed(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	for range 80 {
		b.mustGet(b.account())
		b.clock.advance(24 * time.Hour)
	}
	b.wantCount(80, 80)
	b.neverSpent()
}

func TestTwoProcessesMakeOneExchange(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.Slow, Path: "/tokens/", Delay: 300 * time.Millisecond})
	b.store.now = time.Now
	realTime := func(c *Config) { c.RealNow, c.Sleep = time.Now, nil }
	var wg sync.WaitGroup
	for range 5 {
		a := b.account(realTime)
		for range 2 {
			wg.Go(func() {
				if err := b.get(a); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	b.wantCount(1, 10)
	b.neverSpent()
}

func TestRaceBetweenReadAndIntent(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	other, mine := b.account(), b.account()
	overtaken := false
	b.store.hook = func(step string) error {
		if step == "BeginAttempt" && !overtaken {
			overtaken = true
			b.mustGet(other) // a whole exchange between our reading and our intent
		}
		return nil
	}
	b.mustGet(mine)
	b.neverSpent()
	b.wantCount(1, 2)
	b.wantStates(etl.AttemptDone, etl.AttemptAbandoned)
}

// The answer is lost after the vendor spent the token: window W of the protocol.
func TestLostAnswer(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	b.mustGet(a)
	b.clock.advance(55 * time.Minute)
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.SpendAndDrop, Count: 1})

	b.mustGet(a) // the present access token lives for five more minutes
	b.wantCount(2, 2)
	b.wantStates(etl.AttemptDone, etl.AttemptAmbiguous)
	b.wantState(a, TokenAmbiguous)
	b.mustGet(b.account())
	b.wantCount(2, 3) // no second exchange before the grace time

	b.clock.advance(2 * time.Minute) // deadline passed, grace not
	b.mustGet(a)
	b.wantCount(2, 4)
	b.clock.advance(time.Minute + time.Second)
	seed := a.tokens.seed
	same := func(c *Config) { c.SeedToken = seed } // whoever restarts still has the old one configured
	b.mustGet(b.account(same))                     // the probe is refused, but the access token still lives
	b.wantCount(3, 5)
	b.wantStates(etl.AttemptDone, etl.AttemptSuperseded, etl.AttemptRejected)
	b.wantState(a, TokenDead)

	b.clock.advance(3 * time.Minute)
	err := b.get(b.account(same))
	if !errors.Is(err, etl.ErrUnauthorized) || !strings.Contains(err.Error(), "meterhouse token set acme") || !strings.Contains(err.Error(), "Generate Tokens") {
		t.Errorf("got %v, want what a person must do", err)
	}
	b.wantCount(3, 5)

	// A token that was never seen continues the chain.
	b.sim.Login()
	b.mustGet(b.account())
	b.wantCount(4, 6)
	if s := b.wantState(a, TokenOK); s.Generation != 4 || !s.SeededAt.Equal(b.clock.now()) {
		t.Errorf("got status %+v", s)
	}
}

// The exchange never reached the vendor: the probe works.
func TestLostRequest(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.Close, Path: "/tokens/", Count: 1})
	err := b.get(a)
	if !errors.Is(err, etl.ErrUnavailable) || errors.Is(err, etl.ErrUnauthorized) {
		t.Fatalf("got %v, want unavailable", err)
	}
	if err := b.get(b.account()); !errors.Is(err, etl.ErrUnavailable) {
		t.Fatalf("got %v, want unavailable before the grace time", err)
	}
	b.wantCount(1, 0)
	b.clock.advance(181 * time.Second)
	b.mustGet(b.account())
	b.wantCount(2, 1)
	b.neverSpent()
	b.wantStates(etl.AttemptSuperseded, etl.AttemptDone)
}

func TestProbesAreLimited(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.Status, Path: "/tokens/", Status: 500})
	a := b.account()
	began := b.clock.now()
	for b.clock.now().Sub(began) < 20*time.Hour {
		if err := b.get(a); !errors.Is(err, etl.ErrUnavailable) {
			t.Fatalf("got %v, want unavailable", err)
		}
		b.clock.advance(30 * time.Second)
	}
	b.wantCount(1+maxProbes, 0)
	reqs := b.sim.Requests()
	if s := b.wantState(a, TokenAmbiguous); !strings.Contains(s.NextStep, "token set") {
		t.Errorf("got next step %q", s.NextStep)
	}
	b.sim.ClearFaults()
	b.clock.advance(5 * time.Hour)
	b.mustGet(a)
	if len(reqs) != 4 {
		t.Errorf("got %d requests", len(reqs))
	}
}

// The process dies between the vendor's answer and the store.
func TestCrashBeforeStore(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	type crash struct{}
	b.store.hook = func(step string) error {
		if step == "StoreGeneration" && len(b.store.attempts) > 0 {
			panic(crash{})
		}
		return nil
	}
	func() {
		defer func() { _ = recover().(crash) }()
		_ = b.get(a)
	}()
	b.store = b.store.restarted()
	b.wantStates(etl.AttemptOpen)
	err := b.get(b.account(func(c *Config) { c.Sleep = stop })) // somebody may be at it
	if !errors.Is(err, errStop) {
		t.Fatalf("got %v, want to wait", err)
	}
	b.clock.advance(61 * time.Second)
	if err := b.get(b.account()); !errors.Is(err, etl.ErrUnavailable) {
		t.Fatalf("got %v, want to wait for the grace time", err)
	}
	b.clock.advance(120 * time.Second)
	seed := a.tokens.seed
	err = b.get(b.account(func(c *Config) { c.SeedToken = seed }))
	if !errors.Is(err, etl.ErrUnauthorized) {
		t.Fatalf("got %v, want dead", err)
	}
	b.wantCount(2, 0)
	b.wantStates(etl.AttemptSuperseded, etl.AttemptRejected)
}

var errStop = errors.New("stop here")

func stop(context.Context, time.Duration) error { return errStop }

// The store fails for a while, or its replies are lost: the pair is stored before it is used.
func TestStoreFailsAfterTheAnswer(t *testing.T) {
	for _, step := range []string{"StoreGeneration", "after StoreGeneration"} {
		t.Run(step, func(t *testing.T) {
			b := newBench(t, keystonesim.Config{})
			a := b.account()
			failures := 5
			b.store.hook = func(s string) error {
				if s == step && len(b.store.attempts) > 0 && failures > 0 {
					failures--
					return errors.New("connection lost")
				}
				return nil
			}
			b.mustGet(a)
			b.wantCount(1, 1)
			b.wantStates(etl.AttemptDone)
			if n := len(b.store.generations["acme"]); n != 2 {
				t.Errorf("got %d generations, want 2", n)
			}
		})
	}
}

// The store stays away longer than the grace time: nothing uses the pair, and it is stored later.
func TestPairIsKeptInMemory(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	down := true
	b.store.hook = func(s string) error {
		if down && s == "StoreGeneration" && len(b.store.attempts) > 0 {
			return errors.New("connection lost")
		}
		return nil
	}
	for range 2 {
		if err := b.get(a); err == nil {
			t.Fatal("a pair was used that is not stored")
		}
	}
	b.wantCount(1, 0)
	down = false
	b.mustGet(a)
	b.wantCount(1, 1)
	b.neverSpent()
	b.wantStates(etl.AttemptDone)
}

// A person sets a token while an exchange is under way: the newer login stands, and the chain goes
// on from it.
func TestTokenSetDuringExchange(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	set := false
	b.store.hook = func(s string) error {
		if s == "StoreGeneration" && len(b.store.attempts) > 0 && !set {
			set = true
			if err := a.tokens.storeSeed(t.Context(), mustToken(t, b.sim.Login()), 2); err != nil {
				t.Error(err)
			}
		}
		return nil
	}
	b.mustGet(a)
	b.wantCount(2, 1)
	b.neverSpent()
	b.wantStates(etl.AttemptSuperseded, etl.AttemptDone)
	if s := b.wantState(a, TokenOK); s.Generation != 3 {
		t.Errorf("got generation %d, want 3", s.Generation)
	}
}

// A cancelled run does not interrupt an exchange that is under way.
func TestExchangeIsDetached(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.Slow, Path: "/tokens/", Delay: 200 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel) // while the vendor thinks
	ans, err := a.Extract(ctx, etl.Request{Dataset: Customers, Scope: "acme"})
	if !errors.Is(err, context.Canceled) || ans != nil {
		t.Fatalf("got %v, want cancelled", err)
	}
	b.wantStates(etl.AttemptDone)
	b.mustGet(b.account())
	b.wantCount(1, 1)
	b.neverSpent()
}

// Cancelled between intent and request: nothing was sent, and it says so.
func TestCancelledBeforeSending(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	b.store.hook = func(s string) error {
		if s == "after BeginAttempt" {
			cancel()
		}
		return nil
	}
	_, err := b.account().Extract(ctx, etl.Request{Dataset: Customers, Scope: "acme"})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want cancelled", err)
	}
	b.wantCount(0, 0)
	b.wantStates(etl.AttemptAbandoned)
}

// A process that slept after its intent must not send: somebody may have taken over.
func TestLateExchangeIsAbandoned(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	slept := false
	b.store.hook = func(s string) error {
		if s == "after BeginAttempt" && !slept {
			slept = true
			b.clock.advance(30 * time.Second)
		}
		return nil
	}
	if err := b.get(b.account()); !errors.Is(err, etl.ErrUnavailable) {
		t.Fatalf("got %v, want unavailable", err)
	}
	b.wantCount(0, 0)
	b.wantStates(etl.AttemptAbandoned)
}

func TestClockSkewStopsExchanges(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	b.store.now = func() time.Time { return b.clock.now().Add(-2 * time.Minute) }
	if err := b.get(b.account()); !errors.Is(err, etl.ErrUnavailable) || !strings.Contains(err.Error(), "clock") {
		t.Fatalf("got %v, want a word about clocks", err)
	}
	b.wantCount(0, 0)
	b.wantStates(etl.AttemptAbandoned)
}

// An attempt whose answer may lie in somebody's spool is left alone.
func TestForeignSpoolIsNotProbed(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.SpendAndDrop, Count: 1})
	_ = b.get(b.account())
	b.store.attempts[0].Spool = "host-a/2"
	b.clock.advance(time.Hour)
	if err := b.get(b.account()); err == nil || !strings.Contains(err.Error(), "token_attempt_foreign") {
		t.Fatalf("got %v, want token_attempt_foreign", err)
	}
	b.wantCount(1, 0)
}

func TestVendorUnreachable(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	b.server.Close()
	if err := b.get(b.account()); !errors.Is(err, etl.ErrUnavailable) {
		t.Fatalf("got %v, want unavailable", err)
	}
	b.wantStates(etl.AttemptAbandoned)
	b.wantState(b.account(), TokenOK)
}

// H24, H25, H26, H15 and what an expired login says.
func TestExchangeStatuses(t *testing.T) {
	for name, c := range map[string]struct {
		fault keystonesim.Fault
		want  etl.AttemptState
	}{
		"H24 500":              {keystonesim.Fault{Status: 500}, etl.AttemptAmbiguous},
		"H25 400 JSON":         {keystonesim.Fault{Status: 400, Body: []byte(`{"error":"invalid_grant"}`)}, etl.AttemptRejected},
		"H25 401 JSON":         {keystonesim.Fault{Status: 401, Body: []byte(`{"message":"Unauthorized"}`)}, etl.AttemptRejected},
		"401 HTML":             {keystonesim.Fault{Status: 401, Body: []byte(`<html>login</html>`)}, etl.AttemptAmbiguous},
		"400 other JSON":       {keystonesim.Fault{Status: 400, Body: []byte(`{"ok":false}`)}, etl.AttemptAmbiguous},
		"403":                  {keystonesim.Fault{Status: 403}, etl.AttemptAmbiguous},
		"H26 429":              {keystonesim.Fault{Status: 429}, etl.AttemptAmbiguous},
		"502 HTML":             {keystonesim.Fault{Status: 502}, etl.AttemptAmbiguous},
		"cut":                  {keystonesim.Fault{Kind: keystonesim.Truncate}, etl.AttemptAmbiguous},
		"cut silently":         {keystonesim.Fault{Kind: keystonesim.CutSilent}, etl.AttemptAmbiguous},
		"too large":            {keystonesim.Fault{Kind: keystonesim.Bomb}, etl.AttemptAmbiguous},
		"K16 error with 200":   {keystonesim.Fault{Kind: keystonesim.Replace, Body: []byte(`{"message":"Invalid refresh token"}`)}, etl.AttemptAmbiguous},
		"gzip is no deviation": {keystonesim.Fault{Kind: keystonesim.Gzip}, etl.AttemptDone},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, keystonesim.Config{})
			c.fault.Path = "/tokens/"
			b.sim.Inject(c.fault)
			err := b.get(b.account())
			b.wantStates(c.want)
			if exchanges, _ := b.count(); exchanges != 1 {
				t.Errorf("got %d exchanges, want 1", exchanges)
			}
			switch c.want {
			case etl.AttemptRejected:
				if !errors.Is(err, etl.ErrUnauthorized) {
					t.Errorf("got %v, want unauthorized", err)
				}
			case etl.AttemptAmbiguous:
				if !errors.Is(err, etl.ErrUnavailable) || errors.Is(err, etl.ErrUnauthorized) {
					t.Errorf("got %v, want unavailable", err)
				}
			case etl.AttemptDone:
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// H14, H15, C01: no credential follows a redirect.
func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, path := range []string{"/tokens/", "/keystone/"} {
			t.Run(fmt.Sprint(status, path), func(t *testing.T) {
				b := newBench(t, keystonesim.Config{})
				stranger := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					t.Errorf("the other host saw %s %s %v", r.Method, r.URL, r.Header)
				}))
				defer stranger.Close()
				b.sim.Inject(keystonesim.Fault{Kind: keystonesim.Redirect, Path: path, Status: status, Header: http.Header{"Location": {stranger.URL}}})
				err := b.get(b.account())
				if err == nil || !strings.Contains(err.Error(), "redirect") {
					t.Errorf("got %v, want redirect", err)
				}
				if path == "/tokens/" {
					b.wantStates(etl.AttemptAmbiguous)
					b.wantCount(1, 0)
				} else {
					b.wantCount(1, 1)
				}
			})
		}
	}
}

func TestSetToken(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	noSeed := func(c *Config) { c.SeedToken = Token{} }
	a := b.account(noSeed)
	if err := b.get(a); !errors.Is(err, etl.ErrUnauthorized) || !strings.Contains(err.Error(), "token set acme") {
		t.Fatalf("got %v, want unauthorized", err)
	}
	first := mustToken(t, b.sim.RefreshToken())
	if err := a.SetToken(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	b.mustGet(a)
	b.wantCount(1, 1)
	if err := a.SetToken(t.Context(), first); err == nil || !strings.Contains(err.Error(), "used before") {
		t.Errorf("got %v, want refused: used before", err)
	}
	b.wantCount(1, 1)

	// A new login replaces a chain whatever its state.
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.SpendAndDrop, Count: 1})
	b.clock.advance(2 * time.Hour)
	_ = b.get(a)
	b.wantState(a, TokenAmbiguous)
	if err := a.SetToken(t.Context(), mustToken(t, b.sim.Login())); err != nil {
		t.Fatal(err)
	}
	b.wantState(a, TokenOK)
	b.mustGet(b.account(noSeed))
	b.wantStates(etl.AttemptDone, etl.AttemptSuperseded, etl.AttemptDone)

	b.neverSpent()
}

const mistyped = "mistyped-0123456789"

// Where there is no chain, the given token starts it, and a wrong one is told at once.
func TestWrongFirstToken(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account(func(c *Config) { c.SeedToken = Token{} })
	err := a.SetToken(t.Context(), mustToken(t, mistyped))
	want := `keystone acme: the token given was refused (401 "invalid refresh token"; ` + elsewhereUsed + `): no token that works is stored: log in`
	if !errors.Is(err, etl.ErrUnauthorized) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	b.wantState(a, TokenDead)
	if err := a.SetToken(t.Context(), mustToken(t, b.sim.RefreshToken())); err != nil {
		t.Error(err)
	}
	b.wantState(a, TokenOK)
	b.mustGet(a)
	b.wantStates(etl.AttemptRejected, etl.AttemptDone)
}

// Whatever becomes of a token that a person gives, the chain that was there goes on.
func TestGivenTokenIsProvedFirst(t *testing.T) {
	const lost = "it may be used up, so get a new one; the chain of generation 2 goes on: log in"
	for name, c := range map[string]struct {
		fault       *keystonesim.Fault
		unreachable bool
		class       error
		want        string
	}{
		"refused": {class: etl.ErrUnauthorized,
			want: `keystone acme: the token given was refused (401 "invalid refresh token"): nothing was changed, the chain of generation 2 goes on`},
		"500":          {fault: &keystonesim.Fault{Status: 500}, class: etl.ErrUnavailable, want: lost},
		"401 HTML":     {fault: &keystonesim.Fault{Status: 401, Body: []byte("<html>")}, class: etl.ErrUnavailable, want: lost},
		"reply lost":   {fault: &keystonesim.Fault{Kind: keystonesim.Close}, class: etl.ErrUnavailable, want: lost},
		"no new token": {fault: &keystonesim.Fault{Kind: keystonesim.Replace, Body: []byte("{}")}, class: etl.ErrUnavailable, want: lost},
		"unreachable":  {unreachable: true, class: etl.ErrUnavailable, want: "nothing was changed, the chain of generation 2 goes on, and the token still works once"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, keystonesim.Config{})
			a := b.account()
			b.mustGet(a)
			set := a
			if c.unreachable {
				gone := httptest.NewServer(nil)
				gone.Close()
				set = b.account(func(c *Config) { c.BaseURL = gone.URL })
			}
			if c.fault != nil {
				c.fault.Path = "/tokens/"
				b.sim.Inject(*c.fault)
			}
			err := set.SetToken(t.Context(), mustToken(t, mistyped))
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			b.clean("an error", err.Error())
			b.wantStates(etl.AttemptDone, etl.AttemptAbandoned)
			if s := b.wantState(a, TokenOK); s.Generation != 2 || s.NextStep != "none" {
				t.Errorf("got status %+v", s)
			}
			b.sim.ClearFaults()
			exchanges, data := b.count()
			b.mustGet(b.account())
			b.wantCount(exchanges, data+1) // the access token is as good as before
			b.clock.advance(2 * time.Hour)
			b.mustGet(b.account())
			b.wantCount(exchanges+1, data+2) // and so is the refresh token
		})
	}
}

// What a given token brings is stored before it is used, and the token is known as used after.
func TestGivenTokenIsPromoted(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	b.mustGet(a)
	b.clock.advance(time.Hour)
	given := mustToken(t, b.sim.Login())
	var seen []int64
	b.store.hook = func(step string) error {
		if step == "after StoreGeneration" {
			seen = append(seen, b.store.generations["acme"][len(b.store.generations["acme"])-1].Generation)
		}
		return nil
	}
	if err := a.SetToken(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(seen, []int64{4, 3}) {
		t.Errorf("stored generations %v, want the pair before the spent token", seen)
	}
	b.wantStates(etl.AttemptDone, etl.AttemptDone)
	if s := b.wantState(a, TokenOK); s.Generation != 4 || s.Source != "refresh" || !s.SeededAt.Equal(b.clock.now()) {
		t.Errorf("got status %+v", s)
	}
	if err := a.SetToken(t.Context(), given); err == nil || !strings.Contains(err.Error(), "used before") {
		t.Errorf("got %v, want refused: used before", err)
	}
	b.mustGet(b.account())
	b.wantCount(2, 2)
	b.neverSpent()
}

// A chain that was in trouble is in the same trouble after a given token was refused.
func TestGivenTokenLeavesTroubleAsItWas(t *testing.T) {
	for name, c := range map[string]struct {
		fault  keystonesim.Fault
		spool  string
		chain  TokenState
		states []etl.AttemptState
	}{
		"dead": {fault: keystonesim.Fault{Status: 401, Body: []byte(`{"error":"gone"}`)}, chain: TokenDead,
			states: []etl.AttemptState{etl.AttemptRejected, etl.AttemptRejected}},
		"unclear": {fault: keystonesim.Fault{Status: 500}, chain: TokenAmbiguous, spool: "host-a/2",
			states: []etl.AttemptState{etl.AttemptAmbiguous, etl.AttemptAbandoned}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, keystonesim.Config{})
			a := b.account()
			c.fault.Path, c.fault.Count = "/tokens/", 1
			b.sim.Inject(c.fault)
			_ = b.get(a)
			b.store.attempts[0].Spool = c.spool
			before := b.wantState(a, c.chain)
			err := a.SetToken(t.Context(), mustToken(t, mistyped))
			want := "the token given was refused (401 \"invalid refresh token\"): nothing was changed, the chain of generation 1 is " + string(c.chain) + " as before"
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
			if after := b.wantState(a, c.chain); after.Detail != before.Detail {
				t.Errorf("got detail %q, want %q as before", after.Detail, before.Detail)
			}
			b.wantStates(c.states...)
			if got := b.store.attempts[1].Spool; got != c.spool {
				t.Errorf("got spool %q, want %q as before", got, c.spool)
			}
		})
	}
}

// The process dies while it proves a token, at any step of the store: the chain or the new pair
// goes on by itself.
func TestCrashWhileProving(t *testing.T) {
	for skip := range 20 {
		b := newBench(t, keystonesim.Config{Lenient: true}) // the former chain outlives the new login
		a := b.account()
		b.mustGet(a)
		given := mustToken(t, b.sim.Login())
		type crash struct{}
		left := skip
		b.store.hook = func(string) error {
			if left--; left < 0 {
				panic(crash{})
			}
			return nil
		}
		crashed := func() (crashed bool) {
			defer func() { _, crashed = recover().(crash) }()
			if err := a.SetToken(t.Context(), given); err != nil {
				t.Fatal(err)
			}
			return false
		}()
		b.store = b.store.restarted()
		none := func(c *Config) { c.SeedToken = Token{} }
		b.mustGet(b.account(none))
		b.clock.advance(2 * time.Hour)
		b.mustGet(b.account(none))
		b.wantState(b.account(none), TokenOK)
		if !crashed {
			t.Fatalf("no crash at step %d", skip)
		}
	}
}

func TestStatusAndPingNeverRotate(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	said, err := a.Ping(t.Context())
	if err != nil || !strings.Contains(said, "not tested") {
		t.Errorf("got %q, %v", said, err)
	}
	if n := len(b.store.generations); n != 0 {
		t.Errorf("Ping stored %d credentials", n)
	}
	b.mustGet(a)
	said, err = a.Ping(t.Context())
	if err != nil || !strings.Contains(said, "shows 4 customers") {
		t.Errorf("got %q, %v", said, err)
	}
	b.clock.advance(59 * time.Minute)
	if _, err := a.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	b.clock.advance(time.Hour)
	if said, err := a.Ping(t.Context()); err != nil || !strings.Contains(said, "not tested") {
		t.Errorf("got %q, %v", said, err)
	}
	b.clock.advance(7 * 24 * time.Hour)
	b.wantState(a, TokenDead)
	if _, err := a.Ping(t.Context()); !errors.Is(err, etl.ErrUnauthorized) {
		t.Errorf("got %v, want unauthorized", err)
	}
	if exchanges, _ := b.count(); exchanges != 1 {
		t.Errorf("got %d exchanges, want the one of the data call", exchanges)
	}
}

func TestKeepAlive(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	if did, err := a.KeepAlive(t.Context()); did || err != nil {
		t.Errorf("got %v, %v with nothing stored", did, err)
	}
	b.mustGet(a)
	for _, want := range []bool{false, true, false} {
		did, err := a.KeepAlive(t.Context())
		if err != nil || did != want {
			t.Errorf("got %v, %v, want %v", did, err, want)
		}
		if !want {
			b.clock.advance(49 * time.Hour)
		}
	}
	b.wantCount(2, 1)
	b.neverSpent()
}

const sentToken = "R1-0123456789abcdef"

// The K table of the failure model.
func TestTokenAnswers(t *testing.T) {
	const base = `{"refresh_token":"R2-0123456789abcdef","access_token":"A2-0123456789abcdef"}`
	const atRefresh, atAccess = "/refresh_token", "/access_token"
	for id, c := range map[string]struct {
		body string
		want outcome
	}{
		"TK":              {base, rotated},
		"K01":             {remove(base, atRefresh), keptOld},
		"K02":             {remove(base, atAccess), rotatedNoAccess},
		"K03":             {patch(base, atRefresh, "null"), ambiguous},
		"K04":             {patch(base, atRefresh, `""`), ambiguous},
		"K05":             {patch(base, atRefresh, `"`+sentToken+`"`), keptOld},
		"K06":             {`{"data":{"refreshToken":"R2-0123456789abcdef","accessToken":"A2-0123456789abcdef"}}`, rotated},
		"K07":             {strings.TrimSuffix(base, "}") + `,"previous":{"refresh_token":"R1-0123456789abcdef"}}`, ambiguous},
		"K08":             {"<html>502 Bad Gateway</html>", ambiguous},
		"K09":             {`{"refresh_token":"R2-0123456789abc`, ambiguous},
		"K10":             {patch(base, atAccess, `"A2-0123456789abcdef\r\nX-Evil: 1"`), rotatedNoAccess},
		"K11":             {patch(base, atRefresh, `"R2-0123456789abcdef\n"`), rotated},
		"K12":             {patch(base, atAccess, `"`+strings.Repeat("A", 9000)+`"`), rotatedNoAccess},
		"K13":             {"[" + base + "]", rotated},
		"K14":             {patch(base, atRefresh, `"R2-0123456789abcdef","refresh_token":"R3-0123456789abcdef"`), ambiguous},
		"K15":             {patch(base, atAccess, "12345"), rotatedNoAccess},
		"K16":             {`{"message":"Invalid refresh token"}`, ambiguous},
		"empty":           {"", ambiguous},
		"empty object":    {"{}", ambiguous},
		"two accesses":    {strings.TrimSuffix(base, "}") + `,"x":{"access_token":"A3-0123456789abcdef"}}`, rotatedNoAccess},
		"same, no access": {`{"refresh_token":"` + sentToken + `"}`, ambiguous},
		"second document": {base + base, ambiguous},
	} {
		t.Run(id, func(t *testing.T) {
			old := mustToken(t, sentToken)
			got := classify(exchange{sent: true, status: 200, body: []byte(c.body)}, old)
			if got.outcome != c.want {
				t.Fatalf("got %s (%s), want %s", got.outcome, got.detail, c.want)
			}
			if c.want == rotated && (got.refresh.text() != "R2-0123456789abcdef" || got.access.text() != "A2-0123456789abcdef") {
				t.Error("got other tokens")
			}
			if c.want == keptOld && !got.refresh.Equal(old) {
				t.Error("the old token was not kept")
			}
			if drift := id == "K06" || id == "K13"; c.want == rotated && drift != (len(got.drift) > 0) {
				t.Errorf("got drift %v", got.drift)
			}
			if strings.Contains(got.detail, "0123456789ab") {
				t.Errorf("a token in %q", got.detail)
			}
		})
	}
}

// KEEP_OLD and ROTATE_NO_ACCESS on the whole path.
func TestUnusualRotations(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	seed := b.sim.RefreshToken()
	a := b.account()
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.Replace, Path: "/tokens/", Count: 1, Body: []byte(`{"access_token":"A2-0123456789abcdef"}`)})
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.Replace, Path: "/keystone/", Count: 1, Body: []byte(baseCustomers)})
	b.mustGet(a)
	first := b.wantState(a, TokenOK)
	if first.Generation != 2 {
		t.Errorf("got generation %d, want the store to append", first.Generation)
	}
	b.clock.advance(time.Hour)
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.Replace, Path: "/tokens/", Count: 1, Body: []byte(`{"refresh_token":"` + seed + `x","access_token":5}`)})
	if err := b.get(a); !errors.Is(err, etl.ErrContract) {
		t.Errorf("got %v, want the vendor's contract", err)
	}
	if s := b.wantState(a, TokenOK); s.Generation != 3 || !s.AccessUntil.IsZero() || s.Detail != "no access token, last exchange incomplete" {
		t.Errorf("got %+v, want the new refresh token stored", s)
	}
	b.wantStates(etl.AttemptDone, etl.AttemptDone)
}

// Whatever is done with a token, its text does not come out.
func TestTokenCannotBePrinted(t *testing.T) {
	const secret = "canary-0123456789-canary"
	tok := mustToken(t, secret)
	type inner struct{ hidden Token }
	type outer struct {
		Shown  Token
		hidden Token
		Deep   inner
		Ptr    *Token
		List   []Token
		Map    map[string]Token
		Any    any
	}
	v := outer{tok, tok, inner{tok}, &tok, []Token{tok}, map[string]Token{"k": tok}, tok}
	cfg := Config{SeedToken: tok}
	var b strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p", "%t", "%o", "%U", "%c", "%e", "%w"} {
		for _, x := range []any{tok, &tok, v, &v, cfg, []any{tok}, errors.Join(fmt.Errorf("wrapped %v", tok))} {
			fmt.Fprintf(&b, verb, x)
		}
	}
	for _, x := range []any{tok, v, cfg.SeedToken} {
		j, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(j)
	}
	text, err := tok.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	b.Write(text)
	for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(h).Info("x", "token", tok, "struct", v, "pointer", &v, "group", slog.GroupValue(slog.Any("t", tok)), "error", fmt.Errorf("e %+v", v))
	}
	fmt.Fprint(&b, tok, v)
	if s := b.String(); strings.Contains(s, "canary") || strings.Contains(s, fmt.Sprintf("%x", "canary")) {
		t.Errorf("the token came out:\n%s", s)
	}
}

func TestNewToken(t *testing.T) {
	for text, ok := range map[string]bool{
		sentToken: true, "  " + sentToken + "\r\n": true, "": false, "short": false, strings.Repeat("x", 8193): false,
		strings.Repeat("x", 8192): true, "R1-0123456789 abcdef": false, "R1-0123456789äabcdef": false, "R1-0123456789\x00abcdef": false,
	} {
		if _, err := NewToken(text); (err == nil) != ok {
			t.Errorf("%.30q: got %v, want ok %v", text, err, ok)
		}
	}
}

// A ciphertext opens only where it belongs.
func TestSealsAreBound(t *testing.T) {
	s, err := newKeyring(testKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	tok := mustToken(t, sentToken)
	sealed := s.seal(tok, "acme", 3, fieldRefresh)
	if bytes.Contains(sealed, []byte("0123")) || bytes.Equal(sealed, s.seal(tok, "acme", 3, fieldRefresh)) {
		t.Error("the seal shows the token or repeats its nonce")
	}
	open := func(sealed []byte, account string, generation int64, field, keyID string) bool {
		got, err := s.open(sealed, account, generation, field, keyID)
		return err == nil && got.Equal(tok)
	}
	if !open(sealed, "acme", 3, fieldRefresh, s.keyID) {
		t.Fatal("does not open")
	}
	broken := bytes.Clone(sealed)
	broken[len(broken)/2] ^= 1
	if open(sealed, "acme2", 3, fieldRefresh, s.keyID) || open(sealed, "acme", 4, fieldRefresh, s.keyID) ||
		open(sealed, "acme", 3, fieldAccess, s.keyID) || open(sealed, "acme", 3, fieldRefresh, "other") || open(broken, "acme", 3, fieldRefresh, s.keyID) {
		t.Error("opens where it must not")
	}
	other, err := newSealer(bytes.Repeat([]byte{8}, SecretsKeySize))
	if err != nil {
		t.Fatal(err)
	}
	if other.fingerprint(tok) == s.fingerprint(tok) || other.keyID == s.keyID {
		t.Error("another key, the same fingerprint or id")
	}
}

// With another secrets key the error names both keys and no token is sent.
func TestWrongSecretsKey(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	b.mustGet(b.account())
	a := b.account(func(c *Config) { c.SecretsKey = bytes.Repeat([]byte{9}, SecretsKeySize) })
	const remedy = "name the key that it was sealed with as former_secrets_key, or start anew with meterhouse token set acme"
	err := b.get(a)
	if !errors.Is(err, etl.ErrUnauthorized) || !strings.Contains(err.Error(), "secrets key") || !strings.HasSuffix(err.Error(), remedy) {
		t.Errorf("got %v", err)
	}
	if s := b.wantState(a, TokenDead); s.NextStep != remedy || !strings.Contains(s.Detail, "does not open") {
		t.Errorf("got status %+v", s)
	}
	b.wantCount(1, 1)
	if err := a.SetToken(t.Context(), mustToken(t, b.sim.Login())); err != nil {
		t.Error(err)
	}
	b.mustGet(a)
	b.wantState(a, TokenOK)
}

func FuzzTokenAnswer(f *testing.F) {
	f.Add(200, []byte(`{"refresh_token":"R2-0123456789abcdef","access_token":"A2-0123456789abcdef"}`))
	f.Add(200, []byte(`[{"data":{"refreshToken":"R2-0123456789abcdef"}}]`))
	f.Add(400, []byte(`{"errors":[{"message":"no"}]}`))
	f.Add(401, []byte(`{"error":{"message":"R1-0123456789abcdef"}}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		old := token(sentToken)
		a := classify(exchange{sent: true, status: status, body: body}, old)
		if (a.outcome == rotated || a.outcome == keptOld) && a.access.IsZero() || a.outcome.stored() && a.refresh.IsZero() {
			t.Fatalf("%s without its tokens", a.outcome)
		}
		if a.outcome == dead && status != 400 && status != 401 || a.outcome.stored() && status != 200 || a.outcome == notSent {
			t.Fatalf("%s for status %d", a.outcome, status)
		}
		for _, tok := range []Token{old, a.refresh, a.access} {
			if !tok.IsZero() && len(tok.text()) > tokenPiece && strings.Contains(a.detail, tok.text()) {
				t.Fatalf("a token in %q", a.detail)
			}
		}
	})
}

var _ io.Writer = (*lockedBuffer)(nil)
