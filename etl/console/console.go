package console

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config of a Server. The zero value of a field means its default.
type Config struct {
	Listen string // host:port; port 0 is a free one
	// Allowed tells whether a user may come in; see [Passwords]. Nil: there are no users, and Listen
	// must be an address of this machine.
	Allowed func(user, password string) bool
	// Ready is nil when work can be done. The text of its error is shown to anybody who asks; what it
	// unwraps to goes to the log only. Default: always ready.
	Ready    func(context.Context) error
	Gatherer prometheus.Gatherer // default: no figures
	Log      *slog.Logger        // default: none
	Grace    time.Duration       // for requests under way when Serve is to end; default 5 s
}

// Limits of one request. A reader that is slower than that is let go.
const (
	headerWithin = 5 * time.Second
	readWithin   = 10 * time.Second
	writeWithin  = 30 * time.Second
	idleFor      = time.Minute
	maxHeader    = 16 << 10
	maxBody      = 4 << 10
	maxScrapes   = 4 // at a time

	readyWithin = 3 * time.Second
	readyFor    = time.Second // an answer serves everybody who asks within
)

// Server listens from New on. Serve it, or Close it.
type Server struct {
	cfg      Config
	listener net.Listener
	http     *http.Server
	ready    readiness
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
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("console: listen %q: want host:port", cfg.Listen)
	}
	if cfg.Allowed == nil && !isLoopback(host) {
		return nil, fmt.Errorf("console: listen %q is open to other machines: want users, or 127.0.0.1", cfg.Listen)
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	s := &Server{cfg: cfg, listener: listener, ready: readiness{check: cfg.Ready, log: cfg.Log}}
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

// handler is all there is. A page for people goes here too, behind [Server.private].
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
	return http.MaxBytesHandler(guarded(mux), maxBody)
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
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// private lets users in; where there are none, callers on this machine that know it as such. The
// latter keeps out a page whose own name was made to resolve to us.
func (s *Server) private(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.cfg.Allowed == nil {
			if !isLoopback(hostOf(r.Host)) {
				say(w, http.StatusForbidden, "ask for localhost, or configure users")
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		user, password, given := r.BasicAuth()
		if !given || !s.cfg.Allowed(user, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="meterhouse", charset="UTF-8"`)
			say(w, http.StatusUnauthorized, "user and password, please")
			return
		}
		next.ServeHTTP(w, r)
	})
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

// Passwords is an Allowed for users and their passwords. It keeps hashes of them, and takes as long for
// a wrong user or password as for right ones.
func Passwords(users map[string]string) func(user, password string) bool {
	type hashed struct{ user, password [sha256.Size]byte }
	var all []hashed
	for user, password := range users {
		all = append(all, hashed{sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))})
	}
	return func(user, password string) bool {
		u, p := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
		allowed := 0
		for _, h := range all {
			allowed |= subtle.ConstantTimeCompare(u[:], h.user[:]) & subtle.ConstantTimeCompare(p[:], h.password[:])
		}
		return allowed == 1
	}
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
