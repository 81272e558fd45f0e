package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Guesses that come all at once are counted like those that come one by one.
func TestGuessingAtOnce(t *testing.T) {
	t.Parallel()
	d, err := newDirectory(users(t, map[string]Role{"otto": Operator}), []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	var looked atomic.Int32
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if _, err := d.verify("otto", "wrong"+strconv.Itoa(i), "192.0.2.1"); err == nil {
				looked.Add(1)
			}
		})
	}
	wg.Wait()
	if n := looked.Load(); n != mostTries {
		t.Errorf("%d of 40 guesses at once were looked at, want %d", n, mostTries)
	}
}

// Neither many names from an address nor many addresses of one network get around the limit, nor does a flood of
// others make it forget.
func TestGuessingAround(t *testing.T) {
	t.Parallel()
	count := func(l *limiter, n int, at func(i int) (name, address string)) (allowed int) {
		for i := range n {
			if l.begin(at(i)) {
				allowed++
			}
		}
		return allowed
	}
	if n := count(&limiter{}, 1000, func(i int) (string, string) { return "user" + strconv.Itoa(i), "192.0.2.1" }); n != mostTriesFrom {
		t.Errorf("%d names are tried from one address, want %d", n, mostTriesFrom)
	}
	if n := count(&limiter{}, 1000, func(i int) (string, string) { return "otto", fmt.Sprintf("2001:db8::%x", i) }); n != mostTries {
		t.Errorf("%d guesses from one IPv6 network, want %d", n, mostTries)
	}
	if n := count(&limiter{}, 1000, func(i int) (string, string) { return "otto", fmt.Sprintf("::ffff:192.0.2.%d", i%250) }); n != 1000 {
		t.Errorf("%d of 4 guesses from each of 250 IPv4 addresses, want 1000", n)
	}
	l := &limiter{}
	count(l, mostTries, func(int) (string, string) { return "otto", "192.0.2.1" })
	count(l, 3*mostWatchers, func(i int) (string, string) { return "x", fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255) })
	if l.begin("otto", "192.0.2.1") {
		t.Error("a flood from elsewhere frees whoever was stopped")
	}
	if n := len(l.wrong); n > mostWatchers {
		t.Errorf("%d are remembered, want at most %d", n, mostWatchers)
	}
	// Whoever knows one password does not get more tries at others by it.
	l = &limiter{}
	allowed := 0
	for i := range 1000 {
		if l.begin("user"+strconv.Itoa(i), "192.0.2.1") {
			allowed++
		}
		if l.begin("anna", "192.0.2.1") {
			l.right("anna", "192.0.2.1")
		}
	}
	if allowed != mostTriesFrom {
		t.Errorf("%d guesses between right passwords, want %d", allowed, mostTriesFrom)
	}
}

// Where a proxy is in front, what it says of the address counts, not what the visitor said before.
func TestAddress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url   string
		heads []string
		want  string
	}{
		{"", []string{"203.0.113.9"}, "192.0.2.1"},
		{"https://meters.example", nil, "192.0.2.1"},
		{"https://meters.example", []string{"203.0.113.9"}, "203.0.113.9"},
		{"https://meters.example", []string{"1.2.3.4, 203.0.113.9"}, "203.0.113.9"},
		{"https://meters.example", []string{"1.2.3.4", "203.0.113.9"}, "203.0.113.9"}, // a proxy that adds a line
		{"https://meters.example", []string{"203.0.113.9:50123"}, "203.0.113.9"},
		{"https://meters.example", []string{"[2001:db8::1]:50123"}, "2001:db8::1"},
		{"https://meters.example", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"https://meters.example", []string{"nobody knows"}, "192.0.2.1"},
		{"https://meters.example", []string{"203.0.113.9,"}, "192.0.2.1"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["X-Forwarded-For"] = c.heads
		if got := (&Server{cfg: Config{URL: c.url}}).address(r); got != c.want {
			t.Errorf("url %q, %q: %s, want %s", c.url, c.heads, got, c.want)
		}
	}
}

// Without users nobody is served through a proxy: it makes everybody look like this machine.
func TestProxyWithoutUsers(t *testing.T) {
	t.Parallel()
	if s, err := New(Config{Listen: "127.0.0.1:0", URL: "https://meters.example"}); err == nil {
		s.Close()
		t.Error("others are let in through a proxy, without users")
	}
	h := newHouse(t, func(cfg *Config) { cfg.Anybody = Closer })
	for _, name := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded"} {
		for _, path := range []string{"/", "/metrics", "/runs.csv", "/payloads/1/body"} {
			a := h.browser().do("GET", path, nil, func(r *http.Request) { r.Header.Set(name, "203.0.113.9") })
			if a.StatusCode != 403 {
				t.Errorf("%s with %s: %d", path, name, a.StatusCode)
			}
		}
	}
	if s, err := New(Config{Listen: "127.0.0.1:0", Users: map[string]User{"": {Hash: users(t, map[string]Role{"x": Closer})["x"].Hash, Role: Closer}}}); err == nil {
		s.Close()
		t.Error("a user without a name: any cookie would be his")
	}
}

// everyAddress is all that can be looked at or downloaded, from the list that they are served by.
func everyAddress() (all []string) {
	const month = "?month=2026-04&from=2026-04-01&until=2026-05-01"
	for _, p := range pages() {
		path := strings.TrimSuffix(strings.ReplaceAll(p.path, "{id}", "1"), "{$}")
		if strings.HasPrefix(path, "/month") {
			path += month
		}
		all = append(all, path)
		for _, t := range p.tables {
			all = append(all, "/"+t.name+".csv"+month)
		}
	}
	return append(all, "/payloads/1/body", "/month/workbook"+month, "/month/focus"+month)
}

// Every address and every form wants a user with its role, and no answer is kept by browsers or proxies.
func TestEveryAddressWantsItsRole(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) {
		cfg.Users = users(t, map[string]Role{"vera": Viewer, "otto": Operator, "cleo": Closer})
		cfg.Finance = ledger{deeds: cfg.Loads.(*deeds)}
	})
	nobody, at := h.browser(), map[Role]*browser{}
	for role, name := range map[Role]string{Viewer: "vera", Operator: "otto", Closer: "cleo"} {
		at[role] = h.browser()
		at[role].login(name)
	}
	least := func(path string) Role {
		switch {
		case path == "/payloads/1/body":
			return Operator
		case strings.HasPrefix(path, "/month/close?"):
			return Closer
		}
		return Viewer
	}
	for _, path := range everyAddress() {
		for _, method := range []string{"GET", "HEAD"} {
			if a := nobody.do(method, path, nil); a.StatusCode != 303 || !strings.HasPrefix(a.Header.Get("Location"), "/login") || len(a.text) > 100+len(path)*3 {
				t.Errorf("%s %s without a login: %d to %q, %d bytes", method, path, a.StatusCode, a.Header.Get("Location"), len(a.text))
			}
		}
		for role, b := range at {
			a := b.get(path)
			if may := role >= least(path); may && a.StatusCode >= 300 && a.StatusCode != 404 || !may && a.StatusCode != 403 {
				t.Errorf("%s as %s: %d", path, role, a.StatusCode)
			}
			for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"} {
				if got := a.Header.Get(name); got != want {
					t.Errorf("%s as %s: %s is %q, want %q", path, role, name, got, want)
				}
			}
			if !strings.HasPrefix(a.Header.Get("Content-Security-Policy"), "default-src 'none';") {
				t.Errorf("%s as %s: policy %q", path, role, a.Header.Get("Content-Security-Policy"))
			}
		}
	}
	h.done.take() // downloads
	for _, c := range h.actions() {
		path := strings.ReplaceAll(c.path, "{id}", "1")
		form := func(token string) url.Values {
			return url.Values{"token": {token}, "reason": {"x"}, "month": {"2026-04"}, "dataset": {"wolkvox.billing"}, "scope": {"calls"}}
		}
		if a := nobody.do("POST", path, form("0")); a.StatusCode != 401 {
			t.Errorf("%s without a login: %d", path, a.StatusCode)
		}
		for role, b := range at {
			for name, token := range map[string]string{"its own": b.token("/"), "another's": nobody.token("/login"), "no": ""} {
				a := b.do("POST", path, form(token))
				if may := role >= c.role && name == "its own"; may && a.StatusCode != 303 || !may && a.StatusCode != 403 {
					t.Errorf("%s as %s with %s token: %d", path, role, name, a.StatusCode)
				}
				if did := h.done.take(); did != "" && (role < c.role || name != "its own") {
					t.Errorf("%s as %s with %s token did %s", path, role, name, did)
				}
			}
		}
	}
}

// Who logs in has another session than before, whatever the browser brought along; who leaves has none.
func TestSessionIsNew(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) { cfg.Users = users(t, map[string]Role{"otto": Operator, "anna": Viewer}) })
	site := must(url.Parse("http://" + h.Addr()))
	cookie := func(b *browser, name string) (value string) {
		for _, c := range b.http.Jar.Cookies(site) {
			if c.Name == name {
				value = c.Value
			}
		}
		return value
	}
	id := func(b *browser) string { return cookie(b, sessionCookie) }
	b := h.browser()
	b.http.Jar.SetCookies(site, []*http.Cookie{{Name: sessionCookie, Value: strings.Repeat("A", 52), Path: "/"}})
	b.login("otto")
	first := id(b)
	if first == "" || first == strings.Repeat("A", 52) {
		t.Fatalf("session %q", first)
	}
	if visit := cookie(b, visitCookie); visit != "" {
		t.Errorf("what the browser was known by before goes on: %q", visit)
	}
	b.login("anna")
	if second := id(b); second == first {
		t.Error("the session of another user goes on")
	}
	if h.sessions.find(first) != "" {
		t.Error("the session before is open still")
	}
	b.do("POST", "/logout", url.Values{"token": {b.token("/")}})
	if id(b) != "" || len(h.sessions.open) != 0 {
		t.Errorf("after leaving: cookie %q, %d sessions", id(b), len(h.sessions.open))
	}
}

// An answer that is nested deep is shown without taking the memory of the machine. Nothing else runs meanwhile.
func TestNestedAnswers(t *testing.T) {
	text := strings.Repeat("[", 3000) + strings.Repeat("1,", 20_000) + "1" + strings.Repeat("]", 3000)
	allocated := func(use func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		use()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	if n := allocated(func() {
		if got := readable([]byte(text), false); got != text {
			t.Errorf("it is changed: %.100s", got)
		}
	}); n > 16<<20 {
		t.Errorf("an answer of %d kB takes %d MB to show", len(text)>>10, n>>20)
	}
	if n := allocated(func() {
		if got, _ := around(strings.NewReader(`{"a":[`+text+`]}`), "/a/0"); len(got) > mostAround {
			t.Errorf("%d bytes are shown, want at most %d", len(got), mostAround)
		}
	}); n > 16<<20 {
		t.Errorf("a record of %d kB takes %d MB to show", len(text)>>10, n>>20)
	}
}

// stuck is a reader that takes nothing.
type stuck struct {
	http.ResponseWriter
	entered chan<- bool
	leave   <-chan bool
}

func (s stuck) Write(p []byte) (int, error) {
	s.entered <- true
	<-s.leave
	return 0, io.ErrClosedPipe
}

// Those who download and do not read keep nobody from looking.
func TestStuckDownloads(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	leave := make(chan bool)
	entered := make(chan bool, 100)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(leave)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 2 * mostReaders {
		wg.Go(func() {
			defer func() { _ = recover() }() // [http.ErrAbortHandler]
			h.download(runsTable)(stuck{httptest.NewRecorder(), entered, leave}, httptest.NewRequest("GET", "/runs.csv", nil).WithContext(ctx), visitor{})
		})
	}
	<-entered
	<-entered
	for range 3 {
		if a := h.browser().get("/runs"); a.StatusCode != 200 {
			t.Fatalf("a page while others download: %d", a.StatusCode)
		}
	}
}

// A defect in what is shown or done is told to the log and to whoever met it; the process goes on.
func TestPanics(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) {
		cfg.Anybody = Operator
		cfg.Body = func(context.Context, int64) (io.ReadCloser, error) { panic("defect " + canary) }
		cfg.Retry = func(context.Context, int64) (string, error) { panic("defect " + canary) }
		cfg.Status = func(context.Context) (Status, error) { panic("defect " + canary) }
	})
	b := h.browser()
	if a := b.get("/payloads/1"); a.StatusCode != 500 || strings.Contains(a.text, canary) {
		t.Errorf("page: %d %s", a.StatusCode, a.text)
	}
	if got := h.log.String(); !strings.Contains(got, "level=ERROR") || !strings.Contains(got, canary) || !strings.Contains(got, "attack_test.go") {
		t.Errorf("the log does not say where: %s", got)
	}
	if a := b.get("/"); a.StatusCode != 200 || !strings.Contains(a.text, "could not be worked out") {
		t.Errorf("overview: %d %s", a.StatusCode, a.text)
	}
	a := b.do("POST", "/quarantine/1/retry", url.Values{"token": {b.token("/freshness")}})
	if text := b.get("/runs").text; a.StatusCode != 303 || !strings.Contains(text, "the log has the cause") {
		t.Errorf("retry: %d %s", a.StatusCode, text)
	}
}

// breaks hands over something and then is defect.
type breaks struct{ read bool }

func (b *breaks) Read(p []byte) (int, error) {
	if b.read {
		panic("defect " + canary)
	}
	b.read = true
	return copy(p, strings.Repeat("x", 32<<10)), nil
}

// A file that a defect cut off does not look like a whole one.
func TestPanicInDownload(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) {
		cfg.Body = func(context.Context, int64) (io.ReadCloser, error) { return io.NopCloser(&breaks{}), nil }
	})
	status, text, _, err := try(t, h.Server, "GET", "/payloads/1/body")
	if err == nil {
		t.Errorf("%d and %d bytes look like a whole file, ending with %q", status, len(text), text[max(0, len(text)-60):])
	}
	if !strings.Contains(h.log.String(), canary) {
		t.Error("the log does not say why")
	}
}

// One user who logs in again and again logs nobody else out, and does not fill the memory.
func TestManySessions(t *testing.T) {
	t.Parallel()
	var s sessions
	anna := s.begin("anna")
	last := ""
	for range 2 * mostOpen {
		last = s.begin("otto")
	}
	if s.find(anna) != "anna" || s.find(last) != "otto" {
		t.Error("somebody is logged out by another's logins")
	}
	for i := range 2 * mostOpen {
		s.begin("user" + strconv.Itoa(i))
	}
	if n := len(s.open); n > mostOpen {
		t.Errorf("%d sessions are open, want at most %d", n, mostOpen)
	}
}

// Connections beyond the limit wait outside, and come in as others leave; closing ends the waiting.
func TestManyConnections(t *testing.T) {
	t.Parallel()
	const most, all = 3, 20
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newNarrow(inner, most)
	for range all {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	in := make(chan net.Conn, all)
	ended := make(chan error, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			in <- conn
		}
	}()
	for range all - most {
		conn := <-in
		if n := len(l.places); n > most {
			t.Fatalf("%d are in, want at most %d", n, most)
		}
		conn.Close()
		conn.Close() // frees one place
	}
	for range most { // full again, with nobody leaving
		<-in
	}
	if n := len(in); n != 0 {
		t.Errorf("%d more came in", n)
	}
	l.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	s, err := New(Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n, is := s.listener.(*narrow); !is || cap(n.places) != maxConns {
		t.Errorf("the server lets in all: %T", s.listener)
	}
}

// Where nobody logs in, a page of another site cannot make a browser ask for ours in the background; a link to ours can
// be followed.
func TestAskedByOtherSites(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	for _, c := range []struct {
		site, dest string
		status     int
	}{
		{"cross-site", "image", 403}, {"same-site", "script", 403}, {"cross-site", "iframe", 403}, {"cross-site", "empty", 403},
		{"cross-site", "document", 200}, {"same-origin", "image", 200}, {"none", "document", 200}, {"", "", 200},
	} {
		for _, path := range []string{"/runs", "/runs.csv", "/payloads/1/body", "/metrics"} {
			a := h.browser().do("GET", path, nil, func(r *http.Request) {
				r.Header.Set("Sec-Fetch-Site", c.site)
				r.Header.Set("Sec-Fetch-Dest", c.dest)
			})
			if a.StatusCode != c.status {
				t.Errorf("%s as %q from %q: %d, want %d", path, c.dest, c.site, a.StatusCode, c.status)
			}
		}
	}
}

// Bodies are downloaded by few at a time too: each is in memory as long as its reader takes.
func TestBodiesHavePlaces(t *testing.T) {
	t.Parallel()
	taken := make(chan int, 1)
	var h *house
	h = newHouse(t, func(cfg *Config) {
		cfg.Body = func(context.Context, int64) (io.ReadCloser, error) {
			taken <- len(h.downloads)
			return io.NopCloser(strings.NewReader(testBody)), nil
		}
	})
	if a := h.browser().get("/payloads/1/body"); a.text != testBody {
		t.Errorf("%d %s", a.StatusCode, a.text)
	}
	if n := <-taken; n != 1 {
		t.Errorf("a body is opened with %d places taken, want 1", n)
	}
	for range mostDownloads {
		h.downloads <- struct{}{}
	}
}
