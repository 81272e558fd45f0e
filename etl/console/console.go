package console

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config of a Server. The zero value of a field means its default.
type Config struct {
	Listen string // host:port; port 0 is a free one
	// Users may log in, by name. Without any, Listen must be an address of this machine, and whoever is
	// there may do what Anybody may.
	Users   map[string]User
	Anybody Role
	// URL is the address that people type when something that speaks TLS stands in front; it must begin
	// with https and wants Users. Cookies then go over TLS only, and X-Forwarded-For is believed. Empty: nothing
	// stands there.
	URL string
	// Ready is nil when work can be done. The text of its error is shown to anybody who asks; what it
	// unwraps to goes to the log only. Default: always ready.
	Ready    func(context.Context) error
	Gatherer prometheus.Gatherer // default: no figures
	Log      *slog.Logger        // default: none
	Grace    time.Duration       // for requests under way when Serve is to end; default 5 s

	// Pool is the warehouse that pages read, and nothing but read. Nil: there are no pages.
	Pool    *pgxpool.Pool
	Now     func() time.Time // business clock; default time.Now
	Version string           // of the program, for the foot of each page
	Notice  string           // is said at the head of each page; empty: nothing

	// Status says whether all is well and what to do, as the command of that name does. It may take long:
	// it is asked in the background, when somebody looks and at most every few seconds. Default: nothing is said.
	Status func(context.Context) (Status, error)
	// Body opens a landed answer as it came. Default: bodies are not shown.
	Body func(ctx context.Context, payload int64) (io.ReadCloser, error)
	// Defuse is a text as it may stand in a CSV file that a spreadsheet opens. Default: as it is.
	Defuse func(text string) string
	// Finance closes months and writes what they come to. Nil: months are looked at only.
	Finance Finance
	// Loads begins loads for a person. Nil: nobody loads here.
	Loads Loads
	// Retry reads a refused record again by today's rules, and says what became of it. Nil: not here.
	Retry func(ctx context.Context, quarantine int64) (said string, err error)
	// Dismiss settles a refused record for good. Nil: not here.
	Dismiss func(ctx context.Context, quarantine int64, who, reason string) error
}

// Status is what there is to say about the whole warehouse.
type Status struct {
	Verdict    string   // in one sentence
	NeedsYou   []string // what somebody has to do
	GoodToKnow []string
}

// Finance is what people do about a month (YYYY-MM) beyond looking at it.
type Finance interface {
	// Close freezes a month for a person. A reason accepts what stands against it and can be accepted.
	// When it would freeze anything else than was shown, or other things stand against it, it is refused.
	Close(ctx context.Context, month, who, reason string, shown Shown) (said string, err error)
	// Reopen takes its close out of force, unless another version is by then.
	Reopen(ctx context.Context, month, who, reason string, version int) (said string, err error)
	// Match compares the imported invoices with the statement.
	Match(ctx context.Context, month string) (Match, error)
	// Workbook writes the month as an XLSX workbook.
	Workbook(ctx context.Context, w io.Writer, month string) error
	// FOCUS writes the files of the month as a FOCUS dataset, in a ZIP archive.
	FOCUS(ctx context.Context, w io.Writer, month string) error
}

// Shown is what the page said that a close would freeze.
type Shown struct {
	Obstacles        []string // as "kind: about"
	Lines            int
	Provisional      int
	Totals           string // of the lines by currency, such as "EUR 12.50; USD 3.00"
	Adjustments      int    // of earlier months
	AdjustmentTotals string
}

// Match is a comparison of invoices with a statement: cells by column as texts with all their digits.
type Match struct {
	Lines  Grid // one comparison each, with the column cause
	Causes Grid // what the causes come to
	Totals []string
}

// Grid is a table of texts. An empty text of a numeric column is unknown.
type Grid struct {
	Columns []string
	Numeric []bool
	Rows    [][]string
}

// Loads begins loads when a person wants them.
type Loads interface {
	// Begin queues a load of a dataset and scope, whatever is due, and returns its number.
	Begin(ctx context.Context, dataset, scope, who string) (load int64, err error)
	// Progress is how it stands.
	Progress(ctx context.Context, load int64) (Progress, error)
}

// Progress is how a load stands.
type Progress struct {
	IsOver bool
	State  string // in a few words, such as: waits for a worker
}

// Limits of one request. A reader that is slower than that is let go.
const (
	headerWithin = 5 * time.Second
	readWithin   = 10 * time.Second
	writeWithin  = 30 * time.Second
	idleFor      = time.Minute
	maxHeader    = 16 << 10
	maxBody      = 16 << 10
	maxScrapes   = 4 // at a time
	maxConns     = 500

	readyWithin = 3 * time.Second
	readyFor    = time.Second // an answer serves everybody who asks within
)

// Server listens from New on. Serve it, or Close it.
type Server struct {
	cfg      Config
	listener net.Listener
	http     *http.Server
	ready    readiness

	key       []byte // of this process: signs what browsers keep for us
	users     *directory
	sessions  sessions
	isSecure  bool // browsers reach us through TLS
	readers   chan struct{}
	downloads chan struct{}
	templates map[string]*template.Template
	style     string
	advice    advice
	copies    copies
	decisions decisions
	work      background
}

// New checks the configuration and begins to listen.
func New(cfg Config) (*Server, error) {
	if cfg.Ready == nil {
		cfg.Ready = func(context.Context) error { return nil }
	}
	if cfg.Gatherer == nil {
		cfg.Gatherer = prometheus.NewRegistry()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Grace == 0 {
		cfg.Grace = 5 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Defuse == nil {
		cfg.Defuse = func(text string) string { return text }
	}
	if _, nameless := cfg.Users[""]; nameless {
		return nil, errors.New("console: a user without a name: want one, or no such user")
	}
	if cfg.URL != "" && len(cfg.Users) == 0 {
		return nil, fmt.Errorf("console: url %q opens it to other machines: want users, or no url", cfg.URL)
	}
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("console: listen %q: want host:port", cfg.Listen)
	}
	if len(cfg.Users) == 0 && !isLoopback(host) {
		return nil, fmt.Errorf("console: listen %q is open to other machines: want users, or 127.0.0.1", cfg.Listen)
	}
	if u, err := url.Parse(cfg.URL); cfg.URL != "" && (err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/") {
		return nil, fmt.Errorf("console: url %q: want https://host", cfg.URL)
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	listener = newNarrow(listener, maxConns)
	s := &Server{
		cfg: cfg, listener: listener, ready: readiness{check: cfg.Ready, log: cfg.Log}, key: make([]byte, 32), isSecure: cfg.URL != "",
		readers: make(chan struct{}, mostReaders), templates: parse(), style: stylesheet(),
	}
	_, _ = rand.Read(s.key) // never fails
	s.advice = advice{ask: s.insight, log: cfg.Log}
	s.copies = copies{s: s, maker: make(chan struct{}, 1), known: map[string]*copied{}}
	s.downloads = make(chan struct{}, mostDownloads)
	if len(cfg.Users) > 0 {
		if s.users, err = newDirectory(cfg.Users, s.key); err != nil {
			return nil, errors.Join(err, listener.Close())
		}
	}
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerWithin, ReadTimeout: readWithin, WriteTimeout: writeWithin, IdleTimeout: idleFor,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug), // what strangers do wrong is no news
	}
	return s, nil
}

// Addr is where it listens, with the port that it got.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Serve answers until ctx ends, then finishes what is under way within the grace time. The error is
// nil when ctx ended it.
func (s *Server) Serve(ctx context.Context) error {
	s.work.begin(ctx)
	if s.cfg.Pool != nil {
		s.advice.begin(&s.work)
	}
	defer s.work.end()
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(s.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("console: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Grace)
	defer cancel()
	if err := s.http.Shutdown(grace); err != nil {
		s.http.Close() // whoever still reads has had its time
	}
	<-served
	return nil
}

// Close frees the address of a server that is not served. Safe to repeat.
func (s *Server) Close() error {
	err := s.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// handler is all there is. Pages for people are listed in [pages].
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if reason := s.ready.now(r.Context()); reason != "" {
			say(w, http.StatusServiceUnavailable, reason)
			return
		}
		say(w, http.StatusOK, "ready")
	})
	mux.Handle("GET /metrics", s.private(promhttp.HandlerFor(s.cfg.Gatherer, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: maxScrapes,
		ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn),
	})))
	if s.cfg.Pool != nil {
		s.routes(mux)
	}
	// A browser says from which site a form came. What says nothing is no browser; it has no cookie either.
	same := http.NewCrossOriginProtection()
	if s.cfg.URL != "" {
		_ = same.AddTrustedOrigin(strings.TrimSuffix(s.cfg.URL, "/")) // checked in New
	}
	same.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		say(w, http.StatusForbidden, "this form came from another site: nothing was done")
	}))
	return http.MaxBytesHandler(guarded(s.caught(same.Handler(mux))), maxBody)
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // a reader that went away
}

// guarded tells browsers to do nothing with an answer but show it.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "same-origin") // without any, an old browser would not say either where a form is from
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// private lets monitors in, with a user and password where there are users; where there are none, callers on
// this machine that know it as such. The latter keeps out a page whose own name was made to resolve to us.
func (s *Server) private(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.users == nil {
			if !isFromHere(r) {
				say(w, http.StatusForbidden, notFromHere)
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		user, password, given := r.BasicAuth()
		right, err := false, error(nil)
		if given {
			right, err = s.users.remembers(user, password, s.address(r))
		}
		switch {
		case err != nil:
			w.Header().Set("Retry-After", fmt.Sprint(int(triesWithin.Seconds())))
			say(w, http.StatusTooManyRequests, "too many wrong passwords: wait a while")
		case !right:
			w.Header().Set("WWW-Authenticate", `Basic realm="meterhouse", charset="UTF-8"`)
			say(w, http.StatusUnauthorized, "user and password, please")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

const notFromHere = "ask for localhost, without a proxy and not from within a page of another site, or configure users"

// isFromHere tells whether a caller knows us as this machine. A name of somebody else's may be made to resolve to us,
// whatever comes through a proxy looks as if it came from here, and any page can make a browser ask for ours again
// and again: it may only lead here.
func isFromHere(r *http.Request) bool {
	site, dest := r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Sec-Fetch-Dest")
	if (site == "cross-site" || site == "same-site") && dest != "document" {
		return false
	}
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip"} {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	return isLoopback(hostOf(r.Host))
}

// caught makes a panic an answer and a line in the log that says where; the server would tell it to nobody.
func (s *Server) caught(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := &begun{ResponseWriter: w}
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.cfg.Log.Error("page failed: a defect of meterhouse", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			if out.is {
				panic(http.ErrAbortHandler) // the reader shall notice that the rest is missing
			}
			for _, name := range []string{"Content-Disposition", "Set-Cookie"} {
				w.Header().Del(name)
			}
			say(w, http.StatusInternalServerError, "this page cannot be shown: the log says why")
		}()
		next.ServeHTTP(out, r)
	})
}

// begun knows whether an answer has begun.
type begun struct {
	http.ResponseWriter
	is bool
}

func (b *begun) WriteHeader(status int) {
	b.is = true
	b.ResponseWriter.WriteHeader(status)
}

func (b *begun) Write(p []byte) (int, error) {
	b.is = true
	return b.ResponseWriter.Write(p)
}

// Unwrap lets [http.ResponseController] through.
func (b *begun) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// survive makes a panic of what is done beside requests an error: looking at a page never ends the process that loads.
func survive[T any](do func() (T, error)) (result T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a defect of meterhouse: panic: %v\n%s", p, debug.Stack())
		}
	}()
	return do()
}

func hostOf(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return hostport
}

func isLoopback(host string) bool {
	if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// readiness asks at most once a second, whoever asks us, and logs when the answer changes.
type readiness struct {
	check func(context.Context) error
	log   *slog.Logger

	mu     sync.Mutex
	asked  time.Time
	reason string // empty: ready
}

// now is why no work can be done; empty when it can.
func (r *readiness) now(ctx context.Context) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked.IsZero() && time.Since(r.asked) < readyFor {
		return r.reason
	}
	// The answer is for all who wait, so it does not end with the one who asked first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyWithin)
	defer cancel()
	err := r.check(ctx)
	before := r.reason
	r.asked, r.reason = time.Now(), ""
	if err != nil {
		r.reason = err.Error()
	}
	switch {
	case r.reason == before:
	case err != nil:
		r.log.Warn("not ready", "reason", r.reason, "cause", errors.Unwrap(err))
	default:
		r.log.Info("ready again")
	}
	return r.reason
}
