package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/alert"
	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// pager is a webhook that keeps what it was told, and a dead-man service that counts.
type pager struct {
	*httptest.Server
	mu    sync.Mutex
	told  []string // "change severity kind"
	beats int
	fails bool
}

func newPager(t *testing.T) *pager {
	p := &pager{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.fails {
			w.WriteHeader(503)
			return
		}
		if r.Method == http.MethodGet {
			p.beats++
			return
		}
		var notice struct{ Alerts []etl.AlertChange }
		if err := json.NewDecoder(r.Body).Decode(&notice); err != nil {
			t.Error(err)
		}
		for _, c := range notice.Alerts {
			p.told = append(p.told, fmt.Sprintf("%s %s %s", c.Change, c.Severity, c.Kind))
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *pager) fail(fails bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fails = fails
}

func (p *pager) heard() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.told)
}

// guard is a session that watches a world whose clock moves, as serve does.
type guard struct {
	*session
	*world
	sender *alert.Sender
	log    *bytes.Buffer
}

func (w *world) guard() *guard {
	w.t.Helper()
	g := &guard{world: w, log: &bytes.Buffer{}}
	a := &app{env: w.env, stdin: strings.NewReader(""), stdout: io.Discard, stderr: g.log, configFile: w.file, logFormat: "text", progress: newProgress(g.log)}
	if err := a.start(); err != nil {
		w.t.Fatal(err)
	}
	a.now = func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now
	}
	var err error
	if g.session, err = a.openSession(w.t.Context(), need{database: true, vendors: true}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { g.session.stop() })
	if g.sender, err = g.alertSender(); err != nil {
		w.t.Fatal(err)
	}
	return g
}

// pass lets time go by: every half hour what is due is loaded, every ten minutes conditions are judged.
func (g *guard) pass(d time.Duration) {
	g.t.Helper()
	from := g.session.app.now()
	for n := 0; g.session.app.now().Sub(from) < d; n++ {
		if n%3 == 0 {
			g.world.run("run")
		}
		if err := g.tellAlerts(g.t.Context(), g.sender); err != nil {
			g.t.Fatal(err)
		}
		g.setNow(g.session.app.now().Add(10 * time.Minute).Format(time.RFC3339))
	}
}

// TestFaultsRaiseTheirAlerts: each fault is told by its class, once, and once that it is over; without
// one, nobody hears anything.
func TestFaultsRaiseTheirAlerts(t *testing.T) {
	t.Parallel()
	keystone := func(f keystonesim.Fault) func(*world) { return func(w *world) { w.keystone.Inject(f) } }
	wolkvox := func(f wolkvoxsim.Fault) func(*world) { return func(w *world) { w.wolkvox.Inject(f) } }
	for name, c := range map[string]struct {
		fault func(*world)
		want  []string // severity and kind
		stays bool     // nothing that is done here ends it
	}{
		"none":                      {func(*world) {}, nil, false},
		"Keystone refuses its data": {keystone(keystonesim.Fault{Path: "consumption-details", Kind: keystonesim.Status, Status: 403}), []string{"page access_refused"}, false},
		"Keystone speaks in riddles": {keystone(keystonesim.Fault{Path: "consumption-details", Kind: keystonesim.Replace, Body: []byte(`{"riddle":1}`)}),
			[]string{"warn failing"}, false},
		"Keystone redirects": {keystone(keystonesim.Fault{Path: "subscriptions", Kind: keystonesim.Redirect, Header: http.Header{"Location": {"https://elsewhere.example/"}}}),
			[]string{"warn failing"}, false},
		"Keystone has nothing":       {keystone(keystonesim.Fault{Path: "subscriptions", Kind: keystonesim.Empty}), []string{"warn failing"}, false},
		"wolkvox refuses the key":    {wolkvox(wolkvoxsim.Fault{Kind: wolkvoxsim.BadToken}), []string{"page access_refused"}, false},
		"wolkvox is another":         {wolkvox(wolkvoxsim.Fault{Kind: wolkvoxsim.OtherOperation}), []string{"warn failing"}, false},
		"wolkvox is closed":          {wolkvox(wolkvoxsim.Fault{Kind: wolkvoxsim.Maintenance}), []string{"warn failing"}, false},
		"one product is closed":      {wolkvox(wolkvoxsim.Fault{API: "chat_licenses", Kind: wolkvoxsim.Maintenance}), []string{"warn failing"}, false},
		"Keystone's clock is behind": {keystone(keystonesim.Fault{Kind: keystonesim.Skewed, Skew: -3 * time.Hour}), []string{"warn vendor_clock_skewed"}, false},
		"wolkvox's clock is ahead":   {wolkvox(wolkvoxsim.Fault{Kind: wolkvoxsim.Skewed, Skew: 26 * time.Hour}), []string{"warn vendor_clock_skewed"}, false},
		"clocks are near": {func(w *world) {
			w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Skewed, Skew: -110 * time.Second})
			w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Skewed, Skew: 110 * time.Second})
		}, nil, false},
		"wolkvox counts oddly": {wolkvox(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, Body: []byte("12 of 30")}), []string{"warn quarantine"}, false},
		"the token is refused": {func(w *world) {
			w.value(`update ops.credential set access_expires_at = now() - interval '1 hour' where access_sealed is not null returning account`)
			w.keystone.Inject(keystonesim.Fault{Path: "tokens", Kind: keystonesim.Status, Status: 401, Body: []byte(`{"error":"invalid"}`)})
		}, []string{"page token_dead"}, true},
		"the token's answer is lost": {func(w *world) {
			w.value(`update ops.credential set access_expires_at = now() - interval '1 hour' where access_sealed is not null returning account`)
			w.keystone.Inject(keystonesim.Fault{Path: "tokens", Kind: keystonesim.SpendAndDrop})
		}, []string{"warn token_ambiguous"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPager(t)
			w := newWorld(t)
			w.configure(fmt.Sprintf("alerts: {webhook: %s/hook}\n", p.URL))
			g := w.guard()
			w.must(exitDone, "run")
			g.pass(time.Hour)
			if got := p.heard(); len(got) > 0 {
				t.Fatalf("before the fault: %q", got)
			}
			w.setNow("2026-05-20T14:40:00Z")
			c.fault(w)
			g.pass(3 * time.Hour)
			var opened, resolved []string
			for _, line := range c.want {
				opened, resolved = append(opened, "opened "+line), append(resolved, "resolved "+line)
			}
			got := slices.DeleteFunc(p.heard(), func(line string) bool { // without its chain an account fails, too
				return strings.HasPrefix(c.want[0], "warn token") && strings.HasSuffix(line, " failing")
			})
			if strings.Join(got, ",") != strings.Join(opened, ",") {
				t.Fatalf("got %q, want %q\n%s", got, opened, w.value(`select coalesce(string_agg(alert::text, e'\n'), '') from mart.alert`))
			}
			if c.stays {
				return
			}
			w.keystone.ClearFaults()
			w.wolkvox.ClearFaults()
			w.run("run", "wolkvox.billing", "keystone.customers") // a person lifts what the refusals hold back, and asks anew
			g.pass(2 * time.Hour)
			if got, want := p.heard(), append(opened, resolved...); strings.Join(got, ",") != strings.Join(want, ",") {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestHeartbeatStaysAway: the sign of life is sent while conditions are judged and notices arrive.
func TestHeartbeatStaysAway(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	w := newWorld(t)
	w.configure(fmt.Sprintf("alerts: {webhook: %s/hook, heartbeat: %s/CANARY}\n", p.URL, p.URL))
	g := w.guard()
	beat := func() error { return g.heartbeat(t.Context(), g.sender) }
	if err := beat(); err == nil || !strings.Contains(err.Error(), "never judged") {
		t.Errorf("before the first look: %v", err)
	}
	g.pass(time.Hour)
	if err := beat(); err != nil || p.beats != 1 {
		t.Errorf("%v, %d beats", err, p.beats)
	}
	p.fail(true)
	if err := beat(); err == nil || strings.Contains(err.Error(), "CANARY") {
		t.Errorf("refused: %v", err)
	}
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.BadToken})
	w.run("run")
	if err := g.tellAlerts(t.Context(), g.sender); err == nil || strings.Contains(err.Error(), "/hook") {
		t.Errorf("the webhook fails: %v", err)
	}
	p.fail(false)
	w.value(`update ops.alert_notice set created_at = now() - interval '31 minutes' returning notice_id::text`)
	if err := beat(); err == nil || !strings.Contains(err.Error(), "has waited 31m") {
		t.Errorf("a notice waits: %v", err)
	}
	w.value(`update ops.alert_notice set next_try_at = now() returning notice_id::text`)
	if err := g.tellAlerts(t.Context(), g.sender); err != nil {
		t.Error(err)
	}
	if err := beat(); err != nil {
		t.Error(err)
	}
	w.value(`update ops.alert_check set finished_at = now() - interval '1 hour' returning 'x'`)
	if err := beat(); err == nil || !strings.Contains(err.Error(), "last judged 1h") {
		t.Errorf("nobody judges: %v", err)
	}
}

func TestCheckSaysWhoIsTold(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	w := newWorld(t)
	wantContains(t, "check", w.must(exitDone, "check").stdout, "ok    alerts: nobody is told when somebody must act", "ok    alerts: nobody is called")
	script := filepath.Join(t.TempDir(), "tell")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.configure(fmt.Sprintf("alerts: {webhook: %s/CANARY, command: %s --now, heartbeat: %s/CANARY}\n", p.URL, script, p.URL))
	o := w.must(exitDone, "check")
	wantContains(t, "check", o.stdout, fmt.Sprintf("ok    alerts: told through the webhook at %s and the command %s; this check told nobody", strings.TrimPrefix(p.URL, "http://"), script),
		"ok    alerts: a dead-man service is asked every 5 minutes")
	if len(p.heard())+p.beats > 0 || strings.Contains(o.stdout+o.stderr, "CANARY") {
		t.Errorf("check told somebody, or showed a secret: %s%s", o.stdout, o.stderr)
	}
	w.configure("alerts: {command: /nowhere/tell}\n")
	wantContains(t, "check", w.must(exitDone, "check").stdout, "warn  alerts: the command cannot be run:", "do: correct alerts.command")
}

// TestCommandSeesNoSecret: what the command is given of our environment.
func TestCommandSeesNoSecret(t *testing.T) {
	t.Parallel()
	env := map[string]string{"PATH": "/bin", "HOME": "/root", "METERHOUSE_SECRETS_KEY": "CANARY", "KEYSTONE_REFRESH_TOKEN": "CANARY", "METERHOUSE_DATABASE_URL": "CANARY"}
	got := alertConfigOf(newConfig(), func(name string) string { return env[name] }).CommandEnv
	if strings.Join(got, " ") != "PATH=/bin HOME=/root" {
		t.Errorf("got %q", got)
	}
}
