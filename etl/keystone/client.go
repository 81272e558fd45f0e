package keystone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"meterhouse/etl"
	"meterhouse/etl/internal/accept"
	"meterhouse/etl/internal/fetch"
)

// Datasets of Keystone.
const (
	Customers     = "keystone.customers"     // scope: the account
	Subscriptions = "keystone.subscriptions" // scope: a customer id, as with the following
	Current       = "keystone.current"
	History       = "keystone.history" // the only one with a window
)

const (
	defaultBaseURL = "https://api.activeiq.netapp.com"
	stagingHost    = "api.activeiq-stg.netapp.com" // stands in one sample command of the vendor's
	tokenPath      = "/v1/tokens/accessToken"
	defaultPace    = 250 * time.Millisecond
	maxWindow      = 31               // days in one call
	maxTokenAnswer = 48 << 10         // bytes: a slot of the spool holds it with its seal
	distrustFor    = 10 * time.Minute // a fresh pair that was refused is not exchanged again
)

var paths = map[string]string{
	Customers:     "/v1/keystone/customers",
	Subscriptions: "/v1/keystone/customer/subscriptions-info",
	Current:       "/v1/keystone/customer/consumption-details",
	History:       "/v1/keystone/customer/historical-consumption-details",
}

// Config of an Account. The zero value of a field means its default.
type Config struct {
	Account string // its name with us; required
	BaseURL string // default: the vendor's production host
	Proxy   string // URL; default none
	CAFile  string // PEM file of roots trusted beside the system's
	Timeout time.Duration
	MaxBody int64

	SecretsKey []byte // 32 bytes, seals tokens; required
	FormerKey  []byte // the key before, which still opens; nil: none
	SpoolDir   string // folder of our own for the answers to exchanges, shared by all processes; empty: none
	SeedToken  Token  // starts the chain when nothing is stored, and continues a dead one
	Tokens     TokenStore
	Owner      string // who we are, in the records of exchanges

	Now     func() time.Time // business clock; default time.Now
	RealNow func() time.Time // clock of tokens; default time.Now
	Wall    func() time.Time // this machine's clock, with which the vendor's is compared; default time.Now
	Sleep   func(context.Context, time.Duration) error
	Pace    time.Duration // least time between two requests; default 250 ms
	Log     *slog.Logger  // default: silence
}

// Account is one login at the vendor with all the customers it may see. It implements etl.Source
// and is safe for concurrent use: its requests go out one at a time.
type Account struct {
	name   string
	base   *url.URL
	data   *fetch.Client
	tokens *custodian
	sleep  func(context.Context, time.Duration) error
	now    func() time.Time // real clock
	log    *slog.Logger
	turn   chan struct{} // holds one element: whoever took it may send a request
	pace   *rate.Limiter

	mu         sync.Mutex
	refused    int64     // the vendor refused the access token of this generation
	distrusted int64     // it refused that of this one although it was just renewed: no call is made with it
	trustAgain time.Time // real clock
}

var _ etl.Source = (*Account)(nil)

// New makes an Account. It asks nobody and stores nothing.
func New(cfg Config) (*Account, error) {
	bad := func(err error) (*Account, error) { return nil, fmt.Errorf("keystone %s: %w", cfg.Account, err) }
	if cfg.Account == "" {
		return bad(errors.New("account has no name"))
	}
	if cfg.Tokens == nil {
		return bad(errors.New("no token store"))
	}
	keys, err := newKeyring(cfg.SecretsKey, cfg.FormerKey)
	if err != nil {
		return bad(err)
	}
	if cfg.BaseURL == "" {
		cfg.BaseURL = defaultBaseURL
	}
	base, err := fetch.CheckBaseURL(cfg.BaseURL)
	if err != nil {
		return bad(err)
	}
	if strings.EqualFold(strings.TrimSuffix(base.Hostname(), "."), stagingHost) {
		return bad(fmt.Errorf("base URL %q is the vendor's staging host, want %s", cfg.BaseURL, defaultBaseURL))
	}
	if cfg.RealNow == nil {
		cfg.RealNow = time.Now
	}
	if cfg.Sleep == nil {
		cfg.Sleep = fetch.Sleep
	}
	if cfg.Pace == 0 {
		cfg.Pace = defaultPace
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	data, err := fetch.New(fetch.Config{
		Proxy: cfg.Proxy, CAFile: cfg.CAFile, Timeout: cfg.Timeout, MaxBody: cfg.MaxBody, KeepAlive: true, Now: cfg.Now, Wall: cfg.Wall,
	})
	if err != nil {
		return bad(err)
	}
	// A connection of its own for every exchange: a kept one may be dead without our knowing.
	exchanges, err := fetch.New(fetch.Config{
		Proxy: cfg.Proxy, CAFile: cfg.CAFile, Timeout: exchangeTimeout, MaxBody: maxTokenAnswer, Now: cfg.RealNow,
	})
	if err != nil {
		return bad(err)
	}
	a := &Account{
		name: cfg.Account, base: base, data: data, sleep: cfg.Sleep, now: cfg.RealNow, log: cfg.Log,
		turn: make(chan struct{}, 1), pace: rate.NewLimiter(rate.Every(cfg.Pace), 1),
	}
	a.turn <- struct{}{}
	a.tokens = &custodian{
		account: cfg.Account, owner: cfg.Owner, store: cfg.Tokens, keys: keys, seed: cfg.SeedToken, said: map[string]bool{},
		exchange: exchanger(exchanges, base.JoinPath(tokenPath)),
		dial: func(ctx context.Context) (*fetch.Client, func(), error) {
			return exchanges.Dialled(ctx, base.JoinPath(tokenPath))
		},
		now: cfg.RealNow, sleep: cfg.Sleep, log: cfg.Log, turn: make(chan struct{}, 1),
	}
	a.tokens.turn <- struct{}{}
	if cfg.SpoolDir != "" {
		a.tokens.spool = &spool{dir: cfg.SpoolDir, account: cfg.Account, keys: keys, at: func(string) error { return nil }}
	}
	return a, nil
}

// exchanger sends one POST to the token endpoint, over a connection that was made ahead if there is
// one. It has no Idempotency-Key and no way to be repeated, and it goes nowhere but to target.
func exchanger(client *fetch.Client, target *url.URL) func(context.Context, *fetch.Client, Token) exchange {
	return func(ctx context.Context, over *fetch.Client, t Token) exchange {
		client := client
		if over != nil {
			client = over
		}
		res, err := client.Do(ctx, fetch.Call{
			Method: http.MethodPost, URL: target,
			Header: http.Header{"accept": {"application/json"}, "Content-Type": {"application/json"}},
			// A token is visible ASCII: quote and backslash are all that JSON wants escaped.
			Body:  []byte(`{"refresh_token":"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(t.text()) + `"}`),
			Token: true,
		})
		x := exchange{sent: res.Sent, status: res.Status, err: err}
		if res.Body == nil {
			return x
		}
		defer res.Body.Close()
		body, readErr := beginning(res.Body, maxTokenAnswer)
		x.body = body
		if x.err == nil {
			x.err = readErr
		}
		return x
	}
}

// beginning is at most limit bytes of a body.
func beginning(body etl.Body, limit int64) ([]byte, error) {
	r, err := body.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, limit))
}

// Extract asks the vendor once for req, renewing the access token if need be: at most one exchange
// and one repetition after a 401, up to four attempts while the vendor is unavailable or its answer
// is no whole JSON, two when it does not answer in time. When a renewed token is refused as well,
// no Extract makes a call with it for ten minutes. A non-200 answer comes back beside the error, as
// evidence; a last one that is no JSON comes back without, for Transform to refuse.
func (a *Account) Extract(ctx context.Context, req etl.Request) (*etl.Answer, error) {
	ans, err := a.extract(ctx, req)
	return ans, a.named(err)
}

// named says whose error it is; nil stays nil.
func (a *Account) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("keystone %s: %w", a.name, err)
}

func (a *Account) extract(ctx context.Context, req etl.Request) (*etl.Answer, error) {
	call, err := a.call(req)
	if err != nil {
		return nil, err
	}
	e := &extraction{a: a, req: req, call: call}
	err = e.authorize(ctx, a.refusedGeneration())
	if err != nil {
		return nil, err
	}
	if err := a.distrusts(e.pair.generation); err != nil {
		return nil, err
	}
	attempts := 0
	policy := fetch.Policy{OnRetry: func(attempt int, wait time.Duration, err error) {
		a.log.Warn("retrying", "run", etl.RunID(ctx), "account", a.name, "request", req.String(), "attempt", attempt, "wait", wait.Round(time.Millisecond).String(), "error", err)
	}}
	err = fetch.Retry(ctx, policy, a.sleep, func() error {
		attempts++
		return e.attempt(ctx)
	})
	if errors.Is(err, errNotJSON) {
		return e.answer, nil
	}
	err = about(call, err)
	if err != nil && attempts > 1 {
		err = fmt.Errorf("%d attempts: %w", attempts, err)
	}
	return e.answer, err
}

// about names the call in its error, unless the error does so itself.
func about(call fetch.Call, err error) error {
	what := call.Method + " " + call.URL.Path
	if err == nil || strings.Contains(err.Error(), what+":") {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}

// call is the request for req, without a credential.
func (a *Account) call(req etl.Request) (fetch.Call, error) {
	path, ok := paths[req.Dataset]
	if !ok {
		return fetch.Call{}, fmt.Errorf("unknown dataset %q", req.Dataset)
	}
	target := a.base.JoinPath(path)
	if req.Dataset != Customers {
		query := url.Values{"type": {"customer"}, "id": {req.Scope}}
		if req.Scope == "" {
			return fetch.Call{}, fmt.Errorf("%s: no customer given", req.Dataset)
		}
		if req.Dataset == History {
			if days := req.Window.Days(); days < 1 || days > maxWindow {
				return fetch.Call{}, fmt.Errorf("%s: window %s: want 1 to %d days", req.Dataset, req.Window, maxWindow)
			}
			// The half-open end. Should the vendor include it, or the whole day it names, the rows
			// of that day are ignored by the acceptance rules.
			query.Set("from_date_utc", req.Window.From.Time().Format(time.RFC3339))
			query.Set("to_date_utc", req.Window.Until.Time().Format(time.RFC3339))
		}
		target.RawQuery = query.Encode()
	}
	return fetch.Call{Method: http.MethodGet, URL: target, Header: http.Header{"accept": {"application/json"}}, Varying: varying}, nil
}

func (a *Account) refusedGeneration() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused
}

// extraction is the state of one Extract.
type extraction struct {
	a    *Account
	req  etl.Request
	call fetch.Call

	pair     pair
	renewed  bool // the one exchange was made
	replayed bool // the one repetition after a 401 was made
	timeouts int
	answer   *etl.Answer // the last one
}

// authorize fetches an access token other than that of the refused generation.
func (e *extraction) authorize(ctx context.Context, refused int64) error {
	p, renewed, err := e.a.tokens.access(ctx, want{refused: refused, adopt: true})
	e.renewed = e.renewed || renewed
	if err != nil {
		return err
	}
	e.pair = p
	return nil
}

// attempt makes one request, and after a 401 one more with a renewed token.
func (e *extraction) attempt(ctx context.Context) error {
	err := e.once(ctx)
	if err == nil || !errors.Is(err, etl.ErrUnauthorized) {
		return e.patience(err)
	}
	if e.replayed || e.renewed {
		e.a.distrust(e.pair.generation)
		return err
	}
	if !e.a.mayRenew(e.pair.generation) {
		return err
	}
	e.replayed = true
	if refresh := e.authorize(ctx, e.pair.generation); refresh != nil {
		return fmt.Errorf("%w; then %w", err, refresh)
	}
	err = e.once(ctx)
	if errors.Is(err, etl.ErrUnauthorized) {
		e.a.distrust(e.pair.generation)
	}
	return e.patience(err)
}

// mayRenew notes that the access token of a generation was refused and tells whether exchanging
// the refresh token may help: not when a pair that was just renewed was refused as well.
func (a *Account) mayRenew(generation int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if generation == a.distrusted && a.now().Before(a.trustAgain) {
		return false
	}
	a.refused = max(a.refused, generation)
	return true
}

func (a *Account) distrust(generation int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.distrusted, a.trustAgain = generation, a.now().Add(distrustFor)
}

// distrusts is the error of a call with the access token of a distrusted generation.
func (a *Account) distrusts(generation int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if generation != a.distrusted || !a.now().Before(a.trustAgain) {
		return nil
	}
	return a.tokens.errorf(etl.ErrUnauthorized, "the vendor refused the access token of generation %d although it was just renewed: "+
		"not asked again before %s; does this login still have its rights?", generation, a.trustAgain.UTC().Format(time.RFC3339))
}

// patience ends the retries after the second time-out: a smaller window is the better remedy.
func (e *extraction) patience(err error) error {
	if !errors.Is(err, etl.ErrTimeout) {
		return err
	}
	var failed *fetch.Error
	if e.timeouts++; e.timeouts < 2 || !errors.As(err, &failed) {
		return err
	}
	return failed.Reject
}

// once makes one request when it is our turn and keeps its answer.
func (e *extraction) once(ctx context.Context) error {
	res, err := e.a.send(ctx, e.call, e.pair.access)
	if e.answer != nil {
		e.answer.Body.Close()
		e.answer = nil
	}
	if res != nil && res.Body != nil {
		e.answer = &etl.Answer{
			Request: e.req, Method: e.call.Method, URL: e.call.URL.String(), Status: res.Status, ContentType: res.ContentType,
			RequestedAt: res.RequestedAt, FetchedAt: res.FetchedAt, Body: res.Body, Warnings: res.Warnings,
			Content: contentOf(res.Content),
		}
	}
	if err != nil {
		return err
	}
	if res.Status == http.StatusOK && !res.LooksLikeJSON() {
		return res.Became(errNotJSON)
	}
	return res.Became(readStatus(res, e.req, e.pair.access))
}

// Recognize says about a landed answer what Extract said when it came: an error when the vendor
// refused; otherwise it can be transformed.
func (a *Account) Recognize(ans *etl.Answer) error {
	return a.named(readStatus(&fetch.Result{Status: ans.Status, Body: ans.Body}, ans.Request, Token{}))
}

// errNotJSON is a page of a proxy or of maintenance, or an answer that was cut without a trace.
var errNotJSON = &fetch.Error{
	Reject:    &etl.RejectError{Reason: "json_syntax", Detail: "the answer is not whole JSON", Class: etl.ErrUnavailable},
	Transient: true,
}

// send makes one request when it is our turn, no faster than the pace allows.
func (a *Account) send(ctx context.Context, call fetch.Call, access Token) (*fetch.Result, error) {
	select {
	case <-a.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { a.turn <- struct{}{} }()
	if err := a.pace.Wait(ctx); err != nil {
		return nil, err
	}
	if !access.IsZero() {
		call.Header = call.Header.Clone()
		call.Header["authorizationToken"] = []string{access.text()}
		call.Secret = access.text()
	}
	return a.data.Do(ctx, call)
}

// readStatus says what a status means here. What is wrong with one customer must not stop the
// others: only 401 is a matter of the credential.
func readStatus(res *fetch.Result, req etl.Request, access Token) error {
	if res.Status == http.StatusOK {
		return nil
	}
	words := ""
	if res.Body != nil {
		if body, err := beginning(res.Body, maxTokenAnswer); err == nil {
			message, _ := vendorMessage(body)
			words = discreet(message, access)
		}
	}
	var failed *fetch.Error
	switch s := res.Status; {
	case s == http.StatusUnauthorized, s == http.StatusRequestTimeout, s == http.StatusTooManyRequests, s >= 500:
		if !errors.As(fetch.Status(res), &failed) {
			return etl.Rejected("http_status", "status %d", s)
		}
	case s == http.StatusForbidden:
		question := "does this login have the right to read Keystone?"
		if req.Dataset != Customers {
			question = "does this login see customer " + accept.Excerpt([]byte(req.Scope)) + "?"
		}
		return &etl.RejectError{
			Reason: "http_status", Detail: fmt.Sprintf("access refused (403 %q)", words), Class: asContract(question),
		}
	default:
		return etl.Rejected("http_status", "status %d %q", s, words)
	}
	if words != "" {
		failed.Reject.Detail += fmt.Sprintf(" %q", words)
	}
	return failed
}

// asContract is a reject's class ErrContract with better last words.
func asContract(words string) error { return &classed{errors.New(words), etl.ErrContract} }

// Ping tries what can be tried without spending the refresh token, and says in words what it
// found. With a living access token it asks for the list of customers; without, it only proves
// that the host answers. It never renews anything.
func (a *Account) Ping(ctx context.Context) (string, error) {
	said, err := a.ping(ctx)
	return said, a.named(err)
}

// Reach proves that the host answers, with no token and without a look at the stored ones, and says
// so in words. A status that no API gives to a stranger is an error.
func (a *Account) Reach(ctx context.Context) (string, error) {
	said, err := a.reach(ctx)
	return said, a.named(err)
}

func (a *Account) reach(ctx context.Context) (string, error) {
	req := etl.Request{Dataset: Customers, Scope: a.name}
	call, err := a.call(req)
	if err != nil {
		return "", err
	}
	res, err := a.send(ctx, call, Token{})
	if err != nil {
		return "", about(call, err)
	}
	defer res.Body.Close()
	if res.Status == http.StatusNotFound || res.Status == http.StatusProxyAuthRequired || res.Status >= 500 {
		return "", about(call, readStatus(res, req, Token{}))
	}
	return fmt.Sprintf("%s answers (status %d to a call without a token)", a.base.Host, res.Status), nil
}

func (a *Account) ping(ctx context.Context) (string, error) {
	status, err := a.tokens.status(ctx)
	if err != nil {
		return "", err
	}
	switch {
	case status.State == TokenDead:
		return "", a.tokens.errorf(etl.ErrUnauthorized, "the refresh token of generation %d is dead (%s): %s", status.Generation, status.Detail, status.NextStep)
	case status.State == TokenNone && a.tokens.seed.IsZero():
		return "", a.tokens.errorf(etl.ErrUnauthorized, "no credential is stored and no refresh token is configured: %s", status.NextStep)
	}
	held, err := a.tokens.held(ctx)
	if err != nil {
		return "", err
	}
	if held.access.IsZero() {
		said, err := a.reach(ctx)
		if err != nil {
			return "", err
		}
		return said + "; the credential was not tested, because that would spend the refresh token: the next run shows whether it is accepted", nil
	}
	req := etl.Request{Dataset: Customers, Scope: a.name}
	call, err := a.call(req)
	if err != nil {
		return "", err
	}
	res, err := a.send(ctx, call, held.access)
	if err != nil {
		return "", about(call, err)
	}
	defer res.Body.Close()
	if err := readStatus(res, req, held.access); err != nil {
		return "", about(call, err)
	}
	var seen customerCount
	if _, err := transform(&etl.Answer{
		Request: req, Status: res.Status, ContentType: res.ContentType, FetchedAt: res.FetchedAt, Body: res.Body,
	}, &seen); err != nil {
		return "", about(call, err)
	}
	return fmt.Sprintf("%s answers; the access token works until %s and shows %d customers",
		a.base.Host, held.until.UTC().Format(time.RFC3339), seen.n), nil
}

// customerCount is a sink that counts customers.
type customerCount struct {
	etl.Discard
	n int
}

func (c *customerCount) Customer(etl.Customer) error { c.n++; return nil }
func (c *customerCount) Restart() error              { c.n = 0; return nil }
