package alert_test

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
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
	"meterhouse/etl/alert"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/warehouse/warehousetest"
)

func TestMain(m *testing.M) { warehousetest.Main(m) }

// canary stands for everything that must not be seen: it is in the URL and in our environment.
const canary = "CANARY-5f1d"

// office is a warehouse with one notice that waits, and a place to put things.
type office struct {
	t    *testing.T
	wh   *warehouse.Warehouse
	conn *pgx.Conn
	log  *bytes.Buffer
	dir  string
}

func newOffice(t *testing.T) *office {
	t.Helper()
	url := warehousetest.New(t)
	o := &office{t: t, conn: warehousetest.Connect(t, url), log: &bytes.Buffer{}, dir: t.TempDir()}
	var err error
	o.wh, err = warehouse.Open(t.Context(), warehouse.Config{URL: url, Owner: "here/1/start", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.wh.Close)
	o.exec(`insert into ops.watermark (source, dataset, scope, account) values ('keystone', 'keystone.customers', 'acme', 'acme')`)
	o.exec(`insert into ops.credential (account, generation, refresh_sealed, obtained_at, source, seeded_at, fingerprint, key_id)
		values ('acme', 1, 'x', now() - interval '6 days', 'refresh', now(), 'f', 'k')`)
	if _, err := o.wh.CheckAlerts(t.Context(), warehouse.AlertCheck{}); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *office) exec(sql string) {
	o.t.Helper()
	if _, err := o.conn.Exec(o.t.Context(), sql); err != nil {
		o.t.Fatal(err)
	}
}

func (o *office) want(sql, want string) {
	o.t.Helper()
	var got string
	if err := o.conn.QueryRow(o.t.Context(), sql).Scan(&got); err != nil || got != want {
		o.t.Errorf("%s\n got %q, %v\nwant %q", sql, got, err, want)
	}
}

func (o *office) sender(cfg alert.Config) *alert.Sender {
	o.t.Helper()
	cfg.Outbox = o.wh.Notices()
	cfg.Log = slog.New(slog.NewTextHandler(o.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := alert.New(cfg)
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

// noCanary demands that nothing which was said or stored holds a secret.
func (o *office) noCanary(err error) {
	o.t.Helper()
	var stored string
	if scanErr := o.conn.QueryRow(o.t.Context(), `select coalesce(string_agg(d::text, ''), '') || coalesce((select string_agg(n::text, '') from ops.alert_notice as n), '')
		from ops.alert_delivery as d`).Scan(&stored); scanErr != nil {
		o.t.Fatal(scanErr)
	}
	for _, text := range []string{fmt.Sprint(err), o.log.String(), stored} {
		if strings.Contains(text, canary) {
			o.t.Errorf("a secret is shown: %s", text)
		}
	}
}

func (o *office) wantError(err error, parts ...string) {
	o.t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			o.t.Errorf("got error %v, want %q in it", err, part)
		}
	}
	o.noCanary(err)
}

// again makes the notice due at once.
func (o *office) again() {
	o.exec(`update ops.alert_notice set next_try_at = now(), claimed_until = null`)
}

// script is a program that is run for a notice.
func (o *office) script(text string) string {
	o.t.Helper()
	path := filepath.Join(o.dir, "tell")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		o.t.Fatal(err)
	}
	return path
}

func (o *office) read(name string) string {
	o.t.Helper()
	text, err := os.ReadFile(filepath.Join(o.dir, name))
	if err != nil {
		o.t.Error(err)
	}
	return string(text)
}

// receiver is a webhook that answers as told and keeps what it was sent.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string
	ids    []string
	answer func(w http.ResponseWriter, r *http.Request)
}

func newReceiver(t *testing.T, answer func(w http.ResponseWriter, r *http.Request)) *receiver {
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		r.bodies = append(r.bodies, string(body))
		r.ids = append(r.ids, req.Header.Get("Idempotency-Key"))
		answer := r.answer
		r.mu.Unlock()
		if answer != nil {
			answer(w, req)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) hook() string { return r.URL + "/services/" + canary + "?key=" + canary }

// from now on it answers so.
func (r *receiver) from(answer func(http.ResponseWriter, *http.Request)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.bodies)
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		io.WriteString(w, canary)
	}
}

func TestWebhook(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	r := newReceiver(t, nil)
	s := o.sender(alert.Config{Webhook: r.hook()})
	for range 2 { // the second time there is nothing left to do
		if err := s.Send(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	if r.calls() != 1 {
		t.Fatalf("%d calls, want 1", r.calls())
	}
	var got struct {
		ID, Severity, Text string
		At                 time.Time
		Alerts             []etl.AlertChange
		Omitted            int
	}
	if err := json.Unmarshal([]byte(r.bodies[0]), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.ID) != 36 || got.ID != r.ids[0] || got.Severity != "page" || len(got.Alerts) != 1 || got.Alerts[0].Change != etl.AlertOpened ||
		got.Alerts[0].Key != "credential:keystone:acme" || time.Since(got.At).Abs() > time.Minute ||
		!strings.HasPrefix(got.Text, "[page] the token of acme was not exchanged for 6 days\n    It dies on ") {
		t.Errorf("got %s", r.bodies[0])
	}
	o.want(`select outcome || ' ' || attempts from ops.alert_notice`, "delivered 1")
	o.noCanary(nil)
}

// TestWebhookTrouble: whatever the receiver does, the notice is kept, sent again with the same id, and
// no secret is said.
func TestWebhookTrouble(t *testing.T) {
	t.Parallel()
	elsewhere := newReceiver(t, nil)
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		want   string
	}{
		"refuses": {status(500), "status 500, want 2xx"},
		"gone":    {status(410), "status 410, want 2xx"},
		"redirects": {func(w http.ResponseWriter, _ *http.Request) {
			http.Redirect(w, &http.Request{}, elsewhere.URL+"/"+canary, http.StatusTemporaryRedirect)
		}, "status 307: redirects are not followed"},
		"redirects nowhere": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "://"+canary+"%zz")
			w.WriteHeader(302)
		}, "status 302: redirects are not followed"},
		"hangs":    {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer in time"},
		"hangs up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"breaks off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99")
			w.Write([]byte("x"))
		}, "the answer broke off"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			r := newReceiver(t, c.answer)
			s := o.sender(alert.Config{Webhook: r.hook(), Timeout: time.Second})
			o.wantError(s.Send(t.Context(), 1), "deliver notice 1: webhook: POST 127.0.0.1", c.want)
			if n := r.calls(); n != 1 {
				t.Errorf("%d calls in one attempt", n)
			}
			o.want(`select (settled_at is null)::text || ' ' || (next_try_at > now() + interval '50 seconds')::text || ' ' || attempts from ops.alert_notice`, "true true 1")
			if err := s.SendDue(t.Context()); err != nil || r.calls() != 1 {
				t.Errorf("sent again at once: %v", err)
			}
			r.from(nil)
			o.again()
			if err := s.SendDue(t.Context()); err != nil {
				t.Error(err)
			}
			o.want(`select outcome from ops.alert_notice`, "delivered")
			if r.ids[0] != r.ids[1] || r.bodies[0] != r.bodies[1] {
				t.Errorf("the repetition differs: %q %q", r.ids, r.bodies)
			}
			o.noCanary(nil)
		})
	}
	if n := elsewhere.calls(); n != 0 {
		t.Errorf("a redirect was followed %d times", n)
	}
}

func TestWebhookUnreachable(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	r := newReceiver(t, nil)
	hook := r.hook()
	r.Close()
	s := o.sender(alert.Config{Webhook: hook})
	o.wantError(s.Send(t.Context(), 1), "connection refused")
	// Given up after three days, loudly.
	o.again()
	o.exec(`update ops.alert_notice set created_at = now() - interval '73 hours'`)
	if err := s.Send(t.Context(), 1); err != nil {
		t.Error(err)
	}
	o.want(`select outcome from ops.alert_notice`, "given_up")
	if !strings.Contains(o.log.String(), "alert given up") || !strings.Contains(o.log.String(), "the token of acme was not exchanged") {
		t.Errorf("log: %s", o.log)
	}
	o.noCanary(nil)
}

func TestCommand(t *testing.T) {
	// Not parallel: the environment of the process holds a canary, as ours holds secrets.
	t.Setenv("METERHOUSE_SECRETS_KEY", canary)
	o := newOffice(t)
	program := o.script(fmt.Sprintf("cd %s; cat > body; env > env; echo \"$@\" > args", o.dir))
	s := o.sender(alert.Config{Command: program + " --to  'on call'", CommandEnv: []string{"PATH=" + os.Getenv("PATH")}})
	if err := s.Send(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if got := o.read("args"); got != "--to 'on call'\n" {
		t.Errorf("arguments %q: want them parted at blanks only", got)
	}
	var body struct{ ID string }
	if err := json.Unmarshal([]byte(o.read("body")), &body); err != nil || len(body.ID) != 36 {
		t.Errorf("stdin: %v, %s", err, o.read("body"))
	}
	env := o.read("env")
	for _, want := range []string{"METERHOUSE_ALERT_ID=" + body.ID, "METERHOUSE_ALERT_SEVERITY=page", "METERHOUSE_ALERT_AT=", "METERHOUSE_ALERT_TEXT=[page] the token of acme"} {
		if !strings.Contains(env, want) {
			t.Errorf("environment lacks %s:\n%s", want, env)
		}
	}
	if strings.Contains(env, canary) || strings.Contains(env, "METERHOUSE_SECRETS") {
		t.Errorf("the command sees our secrets:\n%s", env)
	}
}

func TestCommandTrouble(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ script, want string }{
		"fails":      {"echo no route to pager >&2; exit 3", "exit status 3: no route to pager"},
		"is killed":  {"kill -9 $$", "signal: killed"},
		"hangs":      {"sleep 1000 & echo $! > DIR/child; wait", "did not end in time and was killed"},
		"says a lot": {"yes | head -c 1000000; exit 1", "y y y"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			s := o.sender(alert.Config{Command: o.script(strings.ReplaceAll(c.script, "DIR", o.dir)), CommandEnv: []string{"PATH=" + os.Getenv("PATH")}, Timeout: 2 * time.Second})
			err := s.Send(t.Context(), 1)
			o.wantError(err, "deliver notice 1: command: ", c.want)
			if len(err.Error()) > 500 {
				t.Errorf("%d bytes of error", len(err.Error()))
			}
			o.want(`select (settled_at is null)::text from ops.alert_notice`, "true")
			if name == "hangs" { // what it started is gone, too
				child := strings.TrimSpace(o.read("child"))
				for until := time.Now().Add(10 * time.Second); ; {
					stat, err := os.ReadFile("/proc/" + child + "/stat")
					if err != nil || strings.Contains(string(stat), ") Z ") {
						break
					}
					if time.Now().After(until) {
						t.Fatalf("process %s lives on", child)
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	o := newOffice(t)
	o.wantError(o.sender(alert.Config{Command: "/nowhere/tell"}).Send(t.Context(), 1), "command: /nowhere/tell: ", "no such file")
}

// TestBothChannels: each is remembered by itself.
func TestBothChannels(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	r := newReceiver(t, nil)
	program := o.script(fmt.Sprintf("echo called >> %s/calls; test -e %s/well", o.dir, o.dir))
	s := o.sender(alert.Config{Webhook: r.hook(), Command: program, CommandEnv: []string{"PATH=" + os.Getenv("PATH")}})
	o.wantError(s.Send(t.Context(), 1), "command: "+program+": exit status 1")
	o.again()
	o.wantError(s.SendDue(t.Context()), "command: ")
	os.WriteFile(filepath.Join(o.dir, "well"), nil, 0o644)
	r.from(status(500))
	o.again()
	if err := s.SendDue(t.Context()); err != nil {
		t.Error(err)
	}
	if r.calls() != 1 || strings.Count(o.read("calls"), "called") != 3 {
		t.Errorf("webhook called %d times, want 1; command %q, want 3", r.calls(), o.read("calls"))
	}
	o.want(`select string_agg(channel || ' ' || attempts || ' ' || (delivered_at is not null)::text, ', ' order by channel) from ops.alert_delivery`, "command 3 true, webhook 1 true")
	if got := strings.Join(s.Channels(), " and "); got != "the webhook at "+strings.TrimPrefix(r.URL, "http://")+" and the command "+program {
		t.Errorf("channels: %s", got)
	}
}

// TestNoChannel: what can be sent nowhere is logged, once.
// TestOrder: on each channel nothing is told before what came before it, and a channel that fails is
// tried once at a time, however much waits.
func TestOrder(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	r := newReceiver(t, status(503))
	tell := o.script(`printf '%s ' "$METERHOUSE_ALERT_SEVERITY" >> ` + filepath.Join(o.dir, "told") + "\n")
	s := o.sender(alert.Config{Webhook: r.hook(), Command: tell})
	o.wantError(s.SendDue(t.Context()), "webhook: ")
	o.exec(`insert into ops.alert_notice (noticed_at, severity, changes, next_try_at) select now(), 'resolved', changes, now() from ops.alert_notice`)
	o.wantError(s.Send(t.Context(), 2), "notice 1: webhook: ", "notice 2: webhook: an older notice waits")
	if got := o.read("told"); got != "page resolved " || r.calls() != 2 {
		t.Errorf("the command was told %q, the webhook was asked %d times", got, r.calls())
	}
	r.from(nil)
	o.exec(`update ops.alert_notice set next_try_at = now() + case notice_id when 1 then interval '1 hour' else interval '0' end`)
	if err := s.SendDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := o.read("told"); got != "page resolved " {
		t.Errorf("the command was told %q", got)
	}
	if r.calls() != 4 || !strings.Contains(r.bodies[2], `"severity":"page"`) || !strings.Contains(r.bodies[3], `"severity":"resolved"`) {
		t.Errorf("%d calls: %q", r.calls(), r.bodies)
	}
	o.want(`select string_agg(outcome, ' ') from ops.alert_notice`, "delivered delivered")
	// Another process is at an older one: the later one waits for it.
	o.exec(`insert into ops.alert_notice (noticed_at, severity, changes, next_try_at, claimed_until)
		select now(), 'warn', changes, now(), case notice_id when 1 then now() + interval '1 hour' end from ops.alert_notice order by notice_id`)
	if err := s.Send(t.Context(), 4); !errors.Is(err, etl.ErrNoticeTaken) || r.calls() != 4 {
		t.Errorf("got %v, %d calls", err, r.calls())
	}
}

func TestNoChannel(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	s := o.sender(alert.Config{})
	for range 2 {
		if err := errors.Join(s.Send(t.Context(), 1), s.SendDue(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(o.log.String(), "the token of acme was not exchanged"); n != 1 {
		t.Errorf("logged %d times: %s", n, o.log)
	}
	o.want(`select outcome from ops.alert_notice`, "logged")
}

// TestManySenders: a notice that eight processes want to deliver reaches the receiver once.
func TestManySenders(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	arrived, others := make(chan struct{}, 8), make(chan struct{})
	r := newReceiver(t, func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-others })
	s := o.sender(alert.Config{Webhook: r.hook()})
	first := make(chan error)
	go func() { first <- s.Send(context.Background(), 1) }()
	<-arrived // it is under way while the others try
	var group sync.WaitGroup
	for range 7 {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := s.Send(ctx, 1); !errors.Is(err, etl.ErrNoticeTaken) {
				t.Errorf("got %v, want ErrNoticeTaken", err)
			}
			if err := s.SendDue(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	close(others)
	if err := <-first; err != nil || r.calls() != 1 {
		t.Errorf("%v, %d calls", err, r.calls())
	}
}

// TestStopped: a process that stops in the middle of an attempt gives the notice back.
func TestStopped(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	ctx, stop := context.WithCancel(t.Context())
	r := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) { stop(); <-r.Context().Done() })
	o.wantError(o.sender(alert.Config{Webhook: r.hook()}).Send(ctx, 1), "context canceled")
	o.want(`select (claimed_until is null)::text from ops.alert_notice`, "true")
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	s, err := alert.New(alert.Config{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var method string
	r := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) { method = r.Method })
	if err := s.Heartbeat(t.Context(), r.hook()); err != nil || method != "GET" || r.bodies[0] != "" {
		t.Errorf("%v, %s, %q", err, method, r.bodies)
	}
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		want   string
	}{
		"refuses": {status(404), "status 404"},
		"redirects": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/"+canary, http.StatusMovedPermanently)
		}, "redirects are not followed"},
		"hangs": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer in time"},
	} {
		err := s.Heartbeat(t.Context(), newReceiver(t, c.answer).hook())
		if err == nil || !strings.HasPrefix(err.Error(), "heartbeat: GET 127.0.0.1:") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg  alert.Config
		want string
	}{
		"plain":      {alert.Config{Webhook: "http://hooks.example/" + canary}, "alerts.webhook: want https"},
		"no host":    {alert.Config{Webhook: "https:///" + canary}, "alerts.webhook: want https"},
		"no URL":     {alert.Config{Webhook: "https://%zz" + canary}, "alerts.webhook: want https"},
		"proxy":      {alert.Config{Proxy: "::" + canary}, "http.proxy: want"},
		"CA":         {alert.Config{CAFile: "/nowhere"}, "http.ca_file: open /nowhere"},
		"timeout":    {alert.Config{Timeout: time.Hour}, "want up to 1m"},
		"https":      {alert.Config{Webhook: "https://hooks.example/x"}, ""},
		"this":       {alert.Config{Webhook: "http://localhost:1/x"}, ""},
		"also this":  {alert.Config{Webhook: "http://[::1]:1/x"}, ""},
		"no command": {alert.Config{Command: "  "}, ""},
	} {
		_, err := alert.New(c.cfg)
		if fmt := fmt.Sprint(err); c.want == "" && err != nil || !strings.Contains(fmt, c.want) || strings.Contains(fmt, canary) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// TestLongNotice: however much there is to tell, the message stays short and orders nothing.
func TestLongNotice(t *testing.T) {
	t.Parallel()
	n := etl.Notice{ID: 1, Token: "t", Severity: etl.Page}
	for i := range 500 {
		n.Changes = append(n.Changes, etl.AlertChange{Change: etl.AlertOpened, Alert: etl.Alert{
			Key: fmt.Sprint(i), Severity: etl.Page, Subject: "<!channel> trouble", Detail: strings.Repeat("long ", 100),
		}})
	}
	body, err := alert.Body(n)
	if err != nil {
		t.Fatal(err)
	}
	text := alert.Text(n)
	if len(body) > 20<<10 || len(text) > 3500 || strings.ContainsAny(text, "<>") || !strings.Contains(text, "more: see mart.alert") || !bytes.Contains(body, []byte(`"omitted":480`)) {
		t.Errorf("%d bytes of body, %d of text:\n%s", len(body), len(text), text)
	}
}

func ExampleText() {
	fmt.Println(alert.Text(etl.Notice{Changes: []etl.AlertChange{
		{Change: etl.AlertOpened, Alert: etl.Alert{Severity: etl.Page, Subject: "the vendor refused the token of acme", Detail: "Log in and give the refresh token to `meterhouse token set acme`."}},
		{Change: etl.AlertResolved, Alert: etl.Alert{Severity: etl.Warn, Subject: "keystone.history of acme is late"}},
	}}))
	// Output:
	// [page] the vendor refused the token of acme
	//     Log in and give the refresh token to `meterhouse token set acme`.
	// [over] keystone.history of acme is late
}
