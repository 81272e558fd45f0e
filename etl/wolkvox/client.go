package wolkvox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/accept"
	"meterhouse/etl/internal/fetch"
	"meterhouse/etl/internal/jsonread"
)

// Dataset is the one dataset of this vendor.
const Dataset = "wolkvox.billing"

// Config of an Account. The zero value of a field means its default.
type Config struct {
	Account string // our name of it
	Server  string // the operation's server code, such as 0039
	BaseURL string // overrides https://wv<server>.wolkvox.com
	// Operation that the account must answer for. Empty: the one pinned by the first good reading.
	Operation string
	Token     Token
	Zone      *time.Location // of the vendor's dates; default America/Bogota

	Proxy    string // default: none; never taken from the environment
	CAFile   string
	Timeout  time.Duration // of one exchange; default 60 s
	MaxBody  int64         // default 256 MiB
	SpoolDir string        // default os.TempDir

	// Ledger of calls with the token, for all processes; nil: none, for tests and where there is no
	// database.
	Ledger Ledger
	// Spacing is the least time between two readings of one product, start to start; default 5 minutes,
	// which is what the vendor allows. Negative: none, for our own fakes.
	Spacing time.Duration

	Now     func() time.Time                           // business clock; default time.Now
	RealNow func() time.Time                           // this machine's clock, to compare with the ledger's; default time.Now
	Wall    func() time.Time                           // this machine's clock, with which the vendor's is compared; default time.Now
	Sleep   func(context.Context, time.Duration) error // default: real time
	Log     *slog.Logger                               // default: none
	// PinnedOperation is the operation pinned by the first good reading, "" when there is none.
	PinnedOperation func(context.Context) (string, error)
}

// Account is a source of one operation's readings. It is safe for concurrent use and makes one
// call at a time; with a ledger, one over all processes.
type Account struct {
	cfg        Config
	base       *url.URL
	token      *Token // a pointer, so that printing an Account shows an address
	credential string // of the token, in the ledger
	client     *fetch.Client
	operation  string // configured; "" when it is pinned
	pinned     atomic.Pointer[string]
	forced     atomic.Pointer[time.Time] // see Allowed
	turn       chan struct{}             // holds one value while a call may be in flight
}

// defaultTimeout is the vendor's own limit of a call.
const defaultTimeout = 60 * time.Second

var (
	serverPattern  = regexp.MustCompile(`^[0-9a-z-]{1,32}$`)
	productPattern = regexp.MustCompile(`^[0-9a-z_]{1,64}$`)
)

// New checks the configuration. It calls nobody.
func New(cfg Config) (*Account, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.RealNow == nil {
		cfg.RealNow = time.Now
	}
	if cfg.Sleep == nil {
		cfg.Sleep = fetch.Sleep
	}
	if cfg.Spacing == 0 {
		cfg.Spacing = defaultSpacing
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var problems []error
	if cfg.Zone == nil {
		zone, err := time.LoadLocation("America/Bogota")
		if err != nil {
			problems = append(problems, fmt.Errorf("timezone: %w", err))
		}
		cfg.Zone = zone
	}
	if err := cfg.Token.check(); err != nil {
		problems = append(problems, err)
	}
	base, err := baseURL(cfg)
	if err != nil {
		problems = append(problems, err)
	}
	operation := ""
	if cfg.Operation != "" {
		var reason string
		operation, _, reason = accept.KeyText(jsonread.Scalar{Kind: jsonread.String, Text: []byte(cfg.Operation)}, false)
		if reason != "" {
			problems = append(problems, fmt.Errorf("operation %q: %s", accept.Excerpt([]byte(cfg.Operation)), reason))
		}
	}
	client, err := fetch.New(fetch.Config{
		Proxy: cfg.Proxy, CAFile: cfg.CAFile, Timeout: cfg.Timeout, MaxBody: cfg.MaxBody, SpoolDir: cfg.SpoolDir, Now: cfg.Now, Wall: cfg.Wall,
	})
	if err != nil {
		problems = append(problems, err)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("wolkvox account %s: %w", cfg.Account, errors.Join(problems...))
	}
	token := cfg.Token
	cfg.Token = ""
	return &Account{
		cfg: cfg, base: base, token: &token, credential: token.credential(), client: client, operation: operation, turn: make(chan struct{}, 1),
	}, nil
}

func baseURL(cfg Config) (*url.URL, error) {
	if (cfg.Server != "" || cfg.BaseURL == "") && !serverPattern.MatchString(cfg.Server) {
		return nil, fmt.Errorf("server %q: want 1 to 32 digits, small letters or hyphens", accept.Excerpt([]byte(cfg.Server)))
	}
	if cfg.BaseURL != "" {
		return fetch.CheckBaseURL(cfg.BaseURL)
	}
	return fetch.CheckBaseURL("https://wv" + cfg.Server + ".wolkvox.com")
}

// String names the account. It keeps fmt away from the fields.
func (a *Account) String() string { return "wolkvox account " + a.cfg.Account }

// LearnOperation reads the pinned operation unless one is configured or known. Extract does it by
// itself; whoever transforms without extracting, as a replay does, calls it before.
func (a *Account) LearnOperation(ctx context.Context) error {
	if a.operation != "" || a.cfg.PinnedOperation == nil || a.pinned.Load() != nil {
		return nil
	}
	operation, err := a.cfg.PinnedOperation(ctx)
	if err != nil {
		return fmt.Errorf("read the pinned operation: %w", err)
	}
	if operation != "" {
		a.pinned.Store(&operation)
	}
	return nil
}

// Extract asks for one product, when its turn comes. A question that the vendor never saw is tried again,
// at most four times in all; one that it saw only where the spacing allows it, which the vendor's own
// does not. A refusal for too many calls at once is followed by a single further try, after half a minute
// to a minute or as long as the spacing takes. Everything else that the vendor refuses comes back at
// once, with the answer as evidence. What must not be asked yet is a *etl.HeldError: see Allowed.
// A 404 is the vendor's way of having nothing to report, and an API that the server does not have
// is skipped: neither is an error, both leave a warning.
func (a *Account) Extract(ctx context.Context, req etl.Request) (*etl.Answer, error) {
	if req.Dataset != Dataset || !productPattern.MatchString(req.Product) || req.Product == tokenInfo {
		return nil, fmt.Errorf("wolkvox: want dataset %s and a product of 1 to 64 digits, small letters or underscores", Dataset)
	}
	if err := a.LearnOperation(ctx); err != nil {
		return nil, err
	}
	leave, err := a.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()

	policy := fetch.Policy{OnRetry: func(attempt int, wait time.Duration, err error) {
		a.cfg.Log.Warn("retrying", "run", etl.RunID(ctx), "dataset", Dataset, "account", a.cfg.Account, "product", req.Product,
			"attempt", attempt, "wait", wait.String(), "error", err)
	}}
	var ans *etl.Answer
	ask := func() error {
		next, err := a.call(ctx, req)
		var held *etl.HeldError
		if errors.As(err, &held) && ans != nil {
			return err // the evidence stays
		}
		if ans != nil {
			ans.Body.Close()
		}
		ans = next
		return err
	}
	err = fetch.Retry(ctx, policy, a.cfg.Sleep, ask)
	if reasonOf(err) == refusedConcurrency {
		// One call at a time is what we make, so somebody else uses this token.
		wait := max(30*time.Second+rand.N(30*time.Second), a.spacing())
		if _, quiet := QuietUntil(a.cfg.Now().Add(wait), a.cfg.Zone); quiet {
			return ans, err
		}
		policy.OnRetry(1, wait, err)
		if stopped := a.cfg.Sleep(ctx, wait); stopped != nil {
			return ans, stopped
		}
		refused := err
		var held *etl.HeldError
		if err = ask(); errors.As(err, &held) {
			return ans, refused
		}
		if err == nil {
			ans.Warnings.Add(refusedConcurrency, req.Product)
		}
	}
	if a.saysNothing(ans, err) {
		err = nil
	}
	return ans, err
}

// refusedConcurrency is what the vendor answers to a third call at once.
const refusedConcurrency = "concurrency"

// call asks for a product once, in its turn, and for the quota before when that is due. A failure that
// may pass is not called transient when the spacing forbids another try.
func (a *Account) call(ctx context.Context, req etl.Request) (*etl.Answer, error) {
	var r *reserved
	for r == nil {
		var err error
		r, err = a.reserve(ctx, req.Product, func(log etl.CallLog) error { return a.mayAsk(log, req.Product) })
		if errors.Is(err, errInfoDue) {
			_, err = a.askInfo(ctx, func(log etl.CallLog) error {
				if a.isInfoFresh(log) {
					return errInfoFresh
				}
				return a.mayAsk(log, tokenInfo)
			})
			if errors.Is(err, errInfoFresh) {
				continue
			}
			var held *etl.HeldError
			if errors.As(err, &held) || errors.Is(err, etl.ErrUnauthorized) || errors.Is(err, etl.ErrThrottled) || ctx.Err() != nil {
				return nil, err
			}
			if err != nil { // without numbers the vendor's refusal decides
				a.cfg.Log.Warn("quota not known", "account", a.cfg.Account, "error", err)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	ans, err := a.ask(ctx, r, req, "billing.php", req.Product)
	var failed *fetch.Error
	if errors.As(err, &failed) && failed.Transient && failed.RetryAfter <= maxWait && a.spacing() > maxWait && !isUnsent(err) {
		return ans, &fetch.Error{Reject: failed.Reject, RetryAfter: failed.RetryAfter}
	}
	return ans, err
}

// maxWait is the longest that a failed exchange is waited for within a run.
const maxWait = time.Minute

// saysNothing marks the answer of a vendor that has nothing to report, or not this API: an answer
// like any other, for all that it is refused.
func (a *Account) saysNothing(ans *etl.Answer, refusal error) bool {
	var reject *etl.RejectError
	if !errors.As(refusal, &reject) || reject.Reason != "api_unknown" && reject.Reason != "no_data" {
		return false
	}
	if reject.Reason == "api_unknown" {
		a.cfg.Log.Warn("skipped", "dataset", Dataset, "account", a.cfg.Account, "product", ans.Request.Product,
			"reason", reject.Reason, "detail", reject.Detail)
	}
	ans.NoData = true
	ans.Warnings.Add(reject.Reason, "")
	return true
}

// Recognize says about a landed answer what Extract said when it came: an error when the vendor
// refused; otherwise it can be transformed, and NoData is set where there was nothing to report.
func (a *Account) Recognize(ans *etl.Answer) error {
	if ans.Imported() {
		return nil
	}
	err := a.judge(&fetch.Result{Status: ans.Status, Body: ans.Body})
	if err == nil || a.saysNothing(ans, err) {
		return nil
	}
	return err
}

// enter waits for the account's turn.
func (a *Account) enter(ctx context.Context) (leave func(), err error) {
	select {
	case a.turn <- struct{}{}:
		return func() { <-a.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// errUnsent marks a failure of which the vendor saw nothing.
type errUnsent struct{ error }

func (e errUnsent) Unwrap() error { return e.error }

func isUnsent(err error) bool {
	var unsent errUnsent
	return errors.As(err, &unsent)
}

// ask makes a reserved call and closes it in the ledger. An answer beside an error is the refusal's
// evidence.
func (a *Account) ask(ctx context.Context, r *reserved, req etl.Request, page, api string) (*etl.Answer, error) {
	ans, err := a.exchange(r.ctx, req, page, api)
	outcome := etl.CallOK
	var reject *etl.RejectError
	switch {
	case err == nil:
	case isUnsent(err):
		outcome = etl.CallUnsent
	case errors.As(err, &reject):
		outcome = reject.Reason
	default:
		outcome = "interrupted"
	}
	var failed *fetch.Error
	var retryAfter time.Duration
	if errors.As(err, &failed) {
		retryAfter = failed.RetryAfter
	}
	a.end(ctx, r, outcome, retryAfter)
	return ans, err
}

// exchange makes one call.
func (a *Account) exchange(ctx context.Context, req etl.Request, page, api string) (*etl.Answer, error) {
	target := a.base.JoinPath("api", "v2", page)
	target.RawQuery = url.Values{"api": {api}}.Encode()
	header := http.Header{"Accept": {"application/json"}, "wolkvox-token": {a.token.reveal()}}
	if a.cfg.Server != "" {
		header["wolkvox_server"] = []string{a.cfg.Server}
	}
	if ctx.Err() != nil {
		return nil, errUnsent{context.Cause(ctx)}
	}
	res, err := a.client.Do(ctx, fetch.Call{Method: http.MethodGet, URL: target, Header: header, Secret: a.token.reveal()})
	if err != nil {
		if !res.Sent {
			err = errUnsent{err}
		}
		return nil, err
	}
	a.cfg.Log.Debug("asked", "account", a.cfg.Account, "api", api, "status", res.Status, "bytes", res.Body.Size())
	ans := &etl.Answer{
		Request: req, Method: http.MethodGet, URL: target.String(),
		Status: res.Status, ContentType: res.ContentType,
		RequestedAt: res.RequestedAt, FetchedAt: res.FetchedAt,
		Body: res.Body, Warnings: res.Warnings,
	}
	return ans, res.Became(a.judge(res))
}

// redact takes the token out of a vendor's words, should it have echoed it.
func (a *Account) redact(words string) string {
	return strings.ReplaceAll(words, a.token.reveal(), redacted)
}

// TokenInfo is what the vendor says about a token's use of today. A count the vendor does not give
// is -1.
type TokenInfo struct {
	Description string
	Limit       int64 // calls a day
	UsedByToken int64
	UsedByAll   int64 // by all tokens of the operation
	Left        int64
	// Age is how long ago the vendor said so; 0 when it was asked just now.
	Age time.Duration
}

// infoFor is how long TokenInfo is content with what the vendor said before.
const infoFor = 6 * time.Hour

// TokenInfo tells the token's quota. It costs one call, unless the vendor told it in the last hours and
// has refused nothing since.
func (a *Account) TokenInfo(ctx context.Context) (TokenInfo, error) {
	leave, err := a.enter(ctx)
	if err != nil {
		return TokenInfo{}, err
	}
	defer leave()
	if a.cfg.Ledger != nil {
		log, err := a.cfg.Ledger.Log(ctx, a.credential)
		if err != nil {
			return TokenInfo{}, err
		}
		q := log.Quota
		if age := log.Now.Sub(q.ToldAt); !q.ToldAt.IsZero() && age < infoFor && stateOf(log.Recent, time.Time{}).reason == "" {
			return TokenInfo{Limit: q.Limit, UsedByToken: q.UsedByToken, UsedByAll: q.UsedByAll, Left: q.Left, Age: age}, nil
		}
	}
	return a.askInfo(ctx, func(log etl.CallLog) error { return a.mayCall(log, tokenInfo) })
}

// askInfo asks for the quota, in its turn and unless may objects, and keeps what it says.
func (a *Account) askInfo(ctx context.Context, may func(etl.CallLog) error) (info TokenInfo, err error) {
	r, err := a.reserve(ctx, tokenInfo, may)
	if err != nil {
		return info, err
	}
	ans, err := a.ask(ctx, r, etl.Request{}, "information.php", tokenInfo)
	if ans != nil {
		defer ans.Body.Close()
	}
	if err != nil {
		return info, err
	}
	body, err := ans.Body.Open()
	if err != nil {
		return info, err
	}
	defer body.Close()
	if info, err = readTokenInfo(body); err != nil {
		return info, explain(ans.Body, err)
	}
	if a.cfg.Ledger == nil {
		return info, nil
	}
	q := etl.Quota{Limit: info.Limit, UsedByToken: info.UsedByToken, UsedByAll: info.UsedByAll, Left: info.Left, ToldAt: r.StartedAt}
	// What we counted ourselves today, this call included; the rest is of other tokens, or other users of
	// this one.
	ours := int64(1)
	y, m, d := r.StartedAt.In(a.cfg.Zone).Date()
	midnight := time.Date(y, m, d, 0, 0, 0, 0, a.cfg.Zone)
	for _, at := range r.log.Day {
		if !at.Before(midnight) {
			ours++
		}
	}
	q.Elsewhere = max(q.UsedByAll-ours, q.UsedByToken-ours, 0)
	return info, a.cfg.Ledger.SaveQuota(ctx, r.Call, q)
}

func readTokenInfo(body io.Reader) (TokenInfo, error) {
	info := TokenInfo{Limit: -1, UsedByToken: -1, UsedByAll: -1, Left: -1}
	r := jsonread.New(body)
	member := func(name string) error {
		s, err := r.Scalar()
		if err != nil {
			return err
		}
		switch name {
		case "description":
			info.Description = accept.Excerpt(s.Text)
		case "token_limit":
			info.Limit = count(s)
		case "token_use_today":
			info.UsedByToken = count(s)
		case "all_token_today":
			info.UsedByAll = count(s)
		case "available_consumption_options":
			info.Left = count(s)
		}
		return nil
	}
	rows := 0
	row := func() error {
		rows++
		if kind, err := r.Kind(); err != nil || kind != jsonread.Object || rows > 1 {
			return r.Skip()
		}
		return r.Object(member)
	}
	kind, err := r.Kind()
	if err == nil && kind != jsonread.Object {
		err = etl.Rejected("envelope_unknown", "got %s, want an object", kind)
	}
	if err != nil {
		return info, err
	}
	err = r.Object(func(name string) error {
		if name != "data" {
			return r.Skip()
		}
		switch kind, err := r.Kind(); {
		case err != nil:
			return err
		case kind == jsonread.Object:
			return row()
		case kind == jsonread.Array:
			return r.Array(func(int) error { return row() })
		}
		return r.Skip()
	})
	if err == nil {
		err = r.End()
	}
	if err == nil && rows == 0 {
		err = etl.Rejected("envelope_unknown", "no data about the token")
	}
	return info, err
}

// count reads a whole number or its text; -1 stands for anything else.
func count(s jsonread.Scalar) int64 {
	n := int64(0)
	text := accept.Trim(s.Text)
	if len(text) == 0 || len(text) > 15 || s.Kind != jsonread.String && s.Kind != jsonread.Number {
		return -1
	}
	for _, c := range text {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

func reasonOf(err error) string {
	var reject *etl.RejectError
	if errors.As(err, &reject) {
		return reject.Reason
	}
	return ""
}
