package console

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"
)

// canary is a password; nothing may show it.
const canary = "canary-8d3f"

// figures has one metric.
func figures() prometheus.Gatherer {
	registry := prometheus.NewRegistry()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "things", Help: "Things."})
	gauge.Set(3)
	registry.MustRegister(gauge)
	return registry
}

// serve starts a server that ends with the test.
func serve(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// ask makes one request; more may change it.
func ask(t *testing.T, s *Server, method, path string, more ...func(*http.Request)) (int, string, http.Header) {
	t.Helper()
	status, text, header, err := try(t, s, method, path, more...)
	if err != nil {
		t.Fatal(err)
	}
	return status, text, header
}

// try is ask for other goroutines than the test's.
func try(t *testing.T, s *Server, method, path string, more ...func(*http.Request)) (int, string, http.Header, error) {
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr()+path, nil)
	if err != nil {
		return 0, "", nil, err
	}
	for _, f := range more {
		f(req)
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), res.Header, err
}

func as(user, password string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(user, password) }
}

// users have a password each: the canary and their name.
func users(t testing.TB, roles map[string]Role) map[string]User {
	t.Helper()
	all := map[string]User{}
	for name, role := range roles {
		hash, err := bcrypt.GenerateFromPassword([]byte(canary+name), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = User{string(hash), role}
	}
	return all
}

func host(name string) func(*http.Request) { return func(r *http.Request) { r.Host = name } }

func TestWhatIsShown(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{Gatherer: figures()})
	for _, c := range []struct {
		method, path string
		status       int
		text         string
	}{
		{"GET", "/healthz", 200, "ok\n"},
		{"GET", "/readyz", 200, "ready\n"},
		{"GET", "/metrics", 200, "# TYPE things gauge\nthings 3\n"},
		{"HEAD", "/healthz", 200, ""},
		{"POST", "/healthz", 405, "Method Not Allowed"},
		{"PUT", "/metrics", 405, "Method Not Allowed"},
		{"GET", "/", 404, "not found"},
		{"GET", "/metrics/", 404, "not found"},
		{"GET", "/debug/pprof/", 404, "not found"},
		{"GET", "/healthz/../../etc/passwd", 404, "not found"},
	} {
		status, text, header := ask(t, s, c.method, c.path)
		if status == http.StatusTemporaryRedirect || status == http.StatusMovedPermanently { // to the clean path, which is not there either
			status, text, header = ask(t, s, c.method, header.Get("Location"))
		}
		if status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, status, text, c.status, c.text)
		}
		if header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Cache-Control") != "no-store" ||
			!strings.Contains(header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s %s: header %v", c.method, c.path, header)
		}
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	var log lockedLog
	s := serve(t, Config{
		Listen: "0.0.0.0:0", Gatherer: figures(), Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Users: users(t, map[string]Role{"ann": Viewer, "bob": Closer}),
	})
	for _, c := range []struct {
		name   string
		who    func(*http.Request)
		status int
	}{
		{"nobody", func(*http.Request) {}, 401},
		{"ann", as("ann", canary+"ann"), 200},
		{"bob", as("bob", canary+"bob"), 200},
		{"ann with bob's password", as("ann", canary+"bob"), 401},
		{"wrong password", as("ann", canary+"x"), 401},
		{"no password", as("ann", ""), 401},
		{"nobody's name", as("", ""), 401},
		{"stranger", as("eve", canary+"ann"), 401},
		{"another scheme", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+canary) }, 401},
		{"no base64", func(r *http.Request) { r.Header.Set("Authorization", "Basic !") }, 401},
	} {
		status, text, header := ask(t, s, "GET", "/metrics", c.who, host("meters.example"))
		if status != c.status || strings.Contains(text, "things 3") != (c.status == 200) {
			t.Errorf("%s: %d %q, want %d", c.name, status, text, c.status)
		}
		if status == 401 && !strings.HasPrefix(header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("%s: header %v", c.name, header)
		}
		if strings.Contains(text, canary) {
			t.Errorf("%s: the password is shown", c.name)
		}
	}
	// A probe has no password.
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, _, _ := ask(t, s, "GET", path, host("10.0.0.7")); status != 200 {
			t.Errorf("%s: %d", path, status)
		}
	}
	if strings.Contains(log.String(), canary) {
		t.Error("the password is logged")
	}
}

// Without users only this machine is served, and not by a name that somebody else made resolve to it.
func TestWithoutUsers(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "example.com:0", "localhost"} {
		if s, err := New(Config{Listen: listen}); err == nil {
			s.Close()
			t.Errorf("%s is served without users", listen)
		}
	}
	s := serve(t, Config{Gatherer: figures()})
	for name, want := range map[string]int{"localhost": 200, "localhost:8080": 200, "127.0.0.1:9": 200, "[::1]:9": 200, "[::1]": 200, "meters.example": 403, "localhost.evil.example": 403, "10.0.0.7:8080": 403} {
		if status, text, _ := ask(t, s, "GET", "/metrics", host(name)); status != want || strings.Contains(text, "things 3") != (want == 200) {
			t.Errorf("host %s: %d %q, want %d", name, status, text, want)
		}
		if status, _, _ := ask(t, s, "GET", "/healthz", host(name)); status != 200 {
			t.Errorf("host %s: health %d", name, status)
		}
	}
}

// Strangers see the reason, the log sees the cause, once per change; and many who ask are one question.
func TestReady(t *testing.T) {
	t.Parallel()
	var log lockedLog
	var asked atomic.Int32
	var state atomic.Pointer[error]
	s := serve(t, Config{
		Log: slog.New(slog.NewTextHandler(&log, nil)),
		Ready: func(context.Context) error {
			asked.Add(1)
			if err := state.Load(); err != nil {
				return *err
			}
			return nil
		},
	})
	forget := func() {
		s.ready.mu.Lock()
		defer s.ready.mu.Unlock()
		s.ready.asked = time.Time{}
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if status, text, _, err := try(t, s, "GET", "/readyz"); err != nil || status != 200 || text != "ready\n" {
				t.Errorf("ready: %d %q, %v", status, text, err)
			}
		})
	}
	wg.Wait()
	if n := asked.Load(); n > 5 { // a slow machine may need more than a second for 20
		t.Errorf("%d questions for 20 at once", n)
	}
	var away error = &reasoned{"the database does not answer", errors.New("dial " + canary)}
	state.Store(&away)
	for range 2 {
		forget()
		if status, text, _ := ask(t, s, "GET", "/readyz"); status != 503 || text != "the database does not answer\n" {
			t.Errorf("not ready: %d %q", status, text)
		}
	}
	if status, _, _ := ask(t, s, "GET", "/healthz"); status != 200 {
		t.Errorf("health without a database: %d", status)
	}
	state.Store(nil)
	forget()
	ask(t, s, "GET", "/readyz")
	got := log.String()
	if strings.Count(got, "\n") != 2 || !strings.Contains(got, `msg="not ready" reason="the database does not answer" cause="dial `+canary) ||
		!strings.Contains(got, `msg="ready again"`) {
		t.Errorf("log:\n%s", got)
	}
}

type reasoned struct {
	text  string
	cause error
}

func (r *reasoned) Error() string { return r.text }
func (r *reasoned) Unwrap() error { return r.cause }

type lockedLog struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Who is being answered when the process is told to stop gets the answer; nobody new is let in.
func TestServeEndsGracefully(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan bool), make(chan bool)
	s, err := New(Config{Listen: "127.0.0.1:0", Grace: time.Minute, Ready: func(context.Context) error {
		close(entered)
		<-leave
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	answered := make(chan string, 1)
	go func() {
		status, text, _, err := try(t, s, "GET", "/readyz")
		answered <- fmt.Sprint(status, " ", text, err)
	}()
	<-entered
	stop()
	for { // until the address is free
		conn, err := net.Dial("tcp", s.Addr())
		if err != nil {
			break
		}
		conn.Close()
		select {
		case err := <-ended:
			t.Fatalf("ended with a request under way: %v", err)
		default:
		}
	}
	close(leave)
	if got := <-answered; got != "200 ready\n<nil>" {
		t.Errorf("answer %q", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close after Serve: %v", err)
	}
}

// One that never lets go does not keep the process.
func TestServeEndsWithoutThoseWhoStay(t *testing.T) {
	t.Parallel()
	leave := make(chan bool)
	entered := make(chan bool)
	s, err := New(Config{Listen: "127.0.0.1:0", Grace: 20 * time.Millisecond, Ready: func(context.Context) error {
		close(entered)
		<-leave
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer close(leave)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-entered
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil { // or a mutant hangs here
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is kept: %v", err)
	}
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{})
	if other, err := New(Config{Listen: s.Addr()}); err == nil {
		other.Close()
		t.Error("two servers on one address")
	} else if !strings.Contains(err.Error(), s.Addr()) {
		t.Errorf("the error does not name the address: %v", err)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{})
	if status, _, _ := ask(t, s, "GET", "/healthz", func(r *http.Request) { r.Header.Set("X", strings.Repeat("x", 64<<10)) }); status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("64 kB of headers: %d", status)
	}
	// A request that never ends is cut off; that it is, and not when, is what counts.
	if s.http.ReadHeaderTimeout == 0 || s.http.ReadTimeout == 0 || s.http.WriteTimeout == 0 || s.http.IdleTimeout == 0 {
		t.Errorf("a time-out is missing: %+v", s.http)
	}
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "nonsense\r\n\r\n")
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "400") {
		t.Errorf("nonsense: %q, %v", line, err)
	}
}
