package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/rivertype"

	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/localpg"
	"meterhouse/etl/schedule"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/migrations"
)

// A process that goes on is tested as a process: this test binary, told to be meterhouse. Its clock is a
// file, so that days pass as fast as its tests like.
const testClockFile = "TEST_METERHOUSE_CLOCK"

func actByTestClock(file string) {
	wallClock = func() time.Time {
		text, err := os.ReadFile(file)
		if err != nil {
			panic(err)
		}
		at, err := time.Parse(time.RFC3339Nano, string(text))
		if err != nil {
			panic(err)
		}
		return at
	}
	tickEvery = 50 * time.Millisecond
	leaseFor = time.Second
	wolkvoxSpacing, wolkvoxClock = 0, wallClock // as it is, by this clock
	queueTest = func(c *schedule.Config) { c.Time, c.Poll = stubClock{}, 50*time.Millisecond }
}

// stubClock is the queue's own clock: the test's.
type stubClock struct{}

var _ rivertype.TimeGenerator = stubClock{}

func (stubClock) Now() time.Time       { return wallClock() }
func (stubClock) NowOrNil() *time.Time { t := wallClock(); return &t }

// process is a running serve or worker.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	name   string
	mu     sync.Mutex
	out    bytes.Buffer
	exited chan struct{}
	err    error
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// log is what the process wrote so far.
func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// start runs a command line in this world as a process of its own, by the clock in the file; "" is
// real time. It is killed with the test.
func (w *world) start(clock string, args ...string) *process {
	w.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	p := &process{t: w.t, name: fmt.Sprint(args), exited: make(chan struct{})}
	p.cmd = exec.Command(exe, append([]string{"--config", w.file}, args...)...)
	// What the tests themselves are told by variables is none of its business.
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, "METERHOUSE_") })
	p.cmd.Env = append(p.cmd.Env, asProgram+"=1", testClockFile+"="+clock)
	for name, value := range w.env {
		p.cmd.Env = append(p.cmd.Env, name+"="+value)
	}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	w.t.Cleanup(func() {
		p.kill()
		if w.t.Failed() {
			w.t.Logf("%s wrote:\n%s", p.name, p.log())
		}
	})
	return p
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// stop asks it to end and returns its exit code.
func (p *process) stop() int {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	return p.wait(2 * time.Minute)
}

func (p *process) wait(most time.Duration) int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(most):
		p.t.Fatalf("%s does not end:\n%s", p.name, p.log())
	}
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		p.t.Fatal(p.err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// eventually asks until the answer is the wanted one.
func (w *world) eventually(what, want string, got func() string) {
	w.t.Helper()
	last := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if last = got(); last == want {
			return
		}
	}
	w.t.Fatalf("%s: got %q, want %q", what, last, want)
}

func TestServeLoadsWhatIsDue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clock := w.clock("2027-05-14T12:05:00Z") // by the wall clock another slot may come meanwhile
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2026-12-01")
	p := w.start(clock, "serve")
	loaded := func() string {
		return w.value(`select coalesce(string_agg(dataset || ' ' || scope, ', ' order by dataset, scope), '') from ops.watermark where last_success_at is not null`)
	}
	w.eventually("loaded", "keystone.current 0042117, keystone.current C-1001, keystone.current C-1999, keystone.customers acme, "+
		"keystone.history 0042117, keystone.history C-1001, keystone.history C-1999, "+
		"keystone.subscriptions 0042117, keystone.subscriptions C-1001, keystone.subscriptions C-1999, wolkvox.billing calls", loaded)
	w.eventually("jobs", "completed 11", func() string {
		return w.value(`select coalesce(string_agg(state || ' ' || n, ', ' order by state), '') from (
			select state::text, count(*) as n from river.river_job where kind = 'load' group by state) as s`)
	})
	if code := p.stop(); code != exitDone {
		t.Errorf("exit code %d, want %d", code, exitDone)
	}
	wantContains(t, "log", p.log(), "msg=started", "msg=scheduled dataset=wolkvox.billing account=calls", " dataset=keystone.history scope=C-1001 account=acme window=20", "msg=stopped")
	if n := strings.Count(p.log(), "level=ERROR") + strings.Count(p.log(), "level=WARN"); n > 0 {
		t.Errorf("%d lines of trouble:\n%s", n, p.log())
	}
	// What serve loaded is done for run, too.
	wantContains(t, "run after serve", w.must(exitDone, "run").stdout, "nothing is due")
}

func TestServeRefusesAFixedClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, command := range []string{"serve", "worker"} {
		wantContains(t, command, w.must(exitUsage, command).stderr, "--now: the clock of serve and worker goes on")
	}
}

// In-process, so that coverage and the race detector see it: a serve that ends with its context.
func TestServeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.setNow(time.Now().UTC().Format(time.RFC3339))
	w.configure("console: {listen: \"\"}\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan outcome, 1)
	go func() { done <- invokeUntil(t, ctx, w.env, "", "--config", w.file, "serve") }()
	w.eventually("loads", "10", func() string { // wolkvox is not asked where a month ends
		return w.value(`select count(*)::text from ops.watermark where last_success_at is not null and dataset <> 'wolkvox.billing'`)
	})
	cancel()
	if o := <-done; o.code != exitDone {
		t.Errorf("exit code %d\n%s", o.code, o.stderr)
	}
}

// clock makes the world's clock one that processes read too, and returns its file.
func (w *world) clock(at string) (file string) {
	w.t.Helper()
	file = writeFile(w.t, "clock", at)
	w.setNow(at)
	return file
}

// forward puts the clock of the world and its processes forward.
func (w *world) forward(file string, d time.Duration) {
	w.t.Helper()
	w.mu.Lock()
	at := w.now.Add(d)
	w.mu.Unlock()
	// Written beside and moved there: nobody reads half of it.
	if err := os.WriteFile(file+".new", []byte(at.Format(time.RFC3339Nano)), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.setNow(at.Format(time.RFC3339Nano))
	if err := os.Rename(file+".new", file); err != nil {
		w.t.Fatal(err)
	}
}

// behind lists what is due and not loaded by the world's clock.
func (w *world) behind() string {
	w.mu.Lock()
	now := w.now
	w.mu.Unlock()
	return w.value(`select coalesce(string_agg(dataset || ' ' || scope, ', ' order by dataset, scope), '') from ops.watermark
		where last_success_at is null or next_due_at <= $1`, now) + w.value(`select case when count(*) < 11 then ' unknown' else '' end from ops.watermark`)
}

// TestCatchUp: everything stood still for three days. Keystone is whole again by itself; the days that
// wolkvox does not tell any more are lost, and say so.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clock := w.clock("2027-05-14T12:05:00Z")
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2027-05-01", "reread: 3d", "reread: 1d")
	p := w.start(clock, "serve")
	w.eventually("behind", "", w.behind)
	if code := p.stop(); code != exitDone {
		t.Fatalf("exit code %d\n%s", code, p.log())
	}
	w.forward(clock, 72*time.Hour)
	w.start(clock, "serve")
	w.eventually("behind", "", w.behind)
	holes := func(source string) string {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), w.database)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		var holes string
		if _, err := conn.Exec(t.Context(), "set meterhouse.now = '2027-05-17T12:05:00Z'"); err != nil {
			t.Fatal(err)
		}
		if err := conn.QueryRow(t.Context(), `select coalesce(string_agg(distinct status || ' ' || day, ', '), '') from mart.coverage
			where source = $1 and status in ('missing', 'lost', 'partial')`, source).Scan(&holes); err != nil {
			t.Fatal(err)
		}
		return holes
	}
	if got := holes("keystone"); got != "" {
		t.Errorf("Keystone is not whole after three days down: %s", got)
	}
	if got, want := holes("wolkvox"), "lost 2027-05-15, lost 2027-05-16"; got != want {
		t.Errorf("wolkvox: got %q, want %q", got, want)
	}
	if n := w.value(`select count(*)::text from river.river_job where kind = 'load'`); n != "22" {
		t.Errorf("%s loads were queued, want 22: of all missed slots only the newest counts", n)
	}
}

// slowVendors makes the next data calls take their time.
func (w *world) slowVendors(d time.Duration) {
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Slow, Path: "historical", Delay: d})
}

// TestTerminate: the first SIGTERM lets a load come to the end of its window and gives the rest back; the
// next process goes on with it.
func TestTerminate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clock := w.clock("2027-05-14T12:05:00Z")
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2027-01-01")
	w.slowVendors(300 * time.Millisecond)
	p := w.start(clock, "serve")
	begun := func() string {
		return w.value(`select (count(*) > 0)::text from ops.run where dataset = 'keystone.history' and status = 'running'`)
	}
	w.eventually("a history window", "true", begun)
	began := time.Now()
	if code := p.stop(); code != exitDone {
		t.Errorf("exit code %d\n%s", code, p.log())
	}
	t.Logf("stopped in %s", time.Since(began).Round(time.Millisecond))
	if n := w.value(`select count(*)::text from ops.run where status in ('running', 'failed')`); n != "0" {
		t.Errorf("%s runs did not come to their end", n)
	}
	if n := w.value(`select count(*)::text from river.river_job where kind = 'load' and state = 'running'`); n != "0" {
		t.Errorf("%s jobs were not given back", n)
	}
	if w.behind() == "" {
		t.Fatal("everything was loaded before the stop: nothing was tested")
	}
	if n := w.value(`select count(*)::text from ops.lease where expires_at > clock_timestamp()`); n != "0" {
		t.Errorf("%s leases were kept", n)
	}
	w.keystone.ClearFaults()
	w.start(clock, "serve")
	w.eventually("behind", "", w.behind)
}

// TestTerminateTwice: the second signal ends a process that still waits for a vendor, at once. What it
// held is taken over.
func TestTerminateTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clock := w.clock("2027-05-14T12:05:00Z")
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2027-05-01")
	w.slowVendors(time.Minute)
	p := w.start(clock, "serve")
	w.eventually("a history window", "true", func() string {
		return w.value(`select (count(*) > 0)::text from ops.run where dataset = 'keystone.history' and status = 'running'`)
	})
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	time.Sleep(300 * time.Millisecond) // it must not have ended by the first one
	select {
	case <-p.exited:
		t.Fatalf("it did not wait for its window:\n%s", p.log())
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.wait(5 * time.Second); code != -1 {
		t.Errorf("exit code %d, want death by the signal", code)
	}
	w.keystone.ClearFaults()
	w.forward(clock, 24*time.Hour) // the next slots do not wait for the jobs that were lost
	w.start(clock, "serve")
	w.eventually("behind", "", func() string {
		w.forward(clock, time.Second) // what met a lease that was still held waits by this clock
		return w.behind()
	})
}

// TestWorkerBehindAPooler: a worker alone plans nothing; together with a serve, both behind a transaction
// pooler, where nobody can LISTEN, everything is loaded.
func TestWorkerBehindAPooler(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clock := w.clock("2027-05-14T12:05:00Z")
	direct := w.database
	w.database = warehousetest.Pooler(t, direct, 6, false)
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2027-05-01")
	w.database = direct
	worker := w.start(clock, "worker")
	w.eventually("started", "true", func() string { return fmt.Sprint(strings.Contains(worker.log(), "msg=started")) })
	wantContains(t, "worker", worker.log(), "scheduler=false pooled=true")
	serve := w.start(clock, "serve")
	w.eventually("behind", "", w.behind)
	for range 4 {
		w.forward(clock, 6*time.Hour)
		w.eventually("behind", "", w.behind)
	}
	for _, p := range []*process{worker, serve} {
		if n := strings.Count(p.log(), "msg=loaded "); n == 0 {
			t.Errorf("%s loaded nothing", p.name)
		}
		if code := p.stop(); code != exitDone {
			t.Errorf("%s: exit code %d\n%s", p.name, code, p.log())
		}
	}
	if n := w.value(`select count(*)::text from ops.run where status <> 'ok'`); n != "0" {
		t.Errorf("%s runs went wrong", n)
	}
}

// TestServeOutlivesItsDatabase: while the database is away nothing is lost but time.
func TestServeOutlivesItsDatabase(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "meterhouse-away-") // root's server runs as another user, who cannot enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	config := localpg.Config{Dir: filepath.Join(dir, "postgres")} // a kept folder keeps its port
	server, err := localpg.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	stop := func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}
	defer func() { stop() }()
	if _, _, err := migrations.Up(t.Context(), server.URL("")); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.database = server.URL("")
	clock := w.clock("2027-05-14T12:05:00Z")
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2027-05-01")
	p := w.start(clock, "serve")
	w.eventually("behind", "", w.behind)

	stop()
	w.forward(clock, 6*time.Hour)
	says := func(text string) func() string {
		return func() string { return fmt.Sprint(strings.Contains(p.log(), text)) }
	}
	w.eventually("away", "true", says("the database does not answer: loading stands still"))
	if server, err = localpg.Start(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	w.eventually("back", "true", says("the database answers again"))
	w.eventually("behind", "", func() string {
		w.forward(clock, time.Second)
		return w.behind()
	})
	if code := p.stop(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
}

// TestServeAfterANewLogin: a chain that is dead makes every load fail; with a new token they are tried
// again at once, not within the hour.
func TestServeAfterANewLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clock := w.clock("2027-05-14T12:05:00Z")
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2027-05-01")
	w.env["KEYSTONE_TOKEN"] = "not-a-token-of-the-vendor"
	w.start(clock, "serve")
	w.eventually("the customers wait", "retryable", func() string {
		return w.value(`select coalesce(max(state::text), '') from river.river_job where args->>'dataset' = 'keystone.customers'`)
	})
	if o := w.runWith(w.keystone.Login(), "token", "set", "acme"); o.code != exitDone {
		t.Fatalf("token set: %d\n%s", o.code, o.stderr)
	}
	w.eventually("behind", "", w.behind)
}

// TestServeTellsAndShows: health, figures, an alert and its end, and the sign of life, through the whole
// service.
func TestServeTellsAndShows(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	w := newWorld(t)
	clock := w.clock("2027-05-14T12:05:00Z")
	w.configure(fmt.Sprintf("console: {listen: 127.0.0.1:0}\nalerts: {webhook: %s/hook, heartbeat: %s/alive}\n", p.URL, p.URL))
	w.replaceConfig("start: 2026-05-14", "start: 2027-05-01")
	s := w.start(clock, "serve")
	w.eventually("behind", "", w.behind)
	_, rest, _ := strings.Cut(s.log(), "msg=listening url=")
	url, _, _ := strings.Cut(rest, "\n")
	get := func(path string) string {
		t.Helper()
		res, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(res.StatusCode, " ", string(body))
	}
	if got := get("/healthz") + get("/readyz"); got != "200 ok\n200 ready\n" {
		t.Errorf("health: %q", got)
	}
	wantContains(t, "metrics", get("/metrics"), "meterhouse_watermark_lag_seconds{", `meterhouse_records_total{dataset="keystone.history",outcome="inserted",source="keystone"}`,
		`meterhouse_vendor_calls_total{account="calls",class="ok",source="wolkvox"}`, `meterhouse_token_state{account="acme",state="ok"} 1`)
	beats := func() string {
		p.mu.Lock()
		defer p.mu.Unlock()
		return fmt.Sprint(p.beats > 0)
	}
	w.eventually("a sign of life", "true", beats)

	w.keystone.Inject(keystonesim.Fault{Path: "consumption-details", Kind: keystonesim.Status, Status: 403})
	heard := func() string {
		w.forward(clock, time.Minute)
		// One customer after the other may meet it.
		return strings.Join(slices.DeleteFunc(p.heard(), func(line string) bool { return strings.HasPrefix(line, "grew ") }), ", ")
	}
	w.forward(clock, 3*time.Hour) // the next slots of current readings
	w.eventually("told", "opened page access_refused", heard)
	w.keystone.ClearFaults()
	w.eventually("told", "opened page access_refused, resolved page access_refused", heard)
	if code := s.stop(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
}

// TestSkewedServe: a machine whose clock is off plans nothing by it, and says so to people.
func TestSkewedServe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	conn, err := pgx.Connect(t.Context(), w.database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range []string{ // the database's clock is two minutes ahead of ours
		`create function public.clock_timestamp() returns timestamptz language sql volatile as $$ select pg_catalog.clock_timestamp() + interval '2 minutes' $$`,
		`do $$ begin execute format('alter database %I set search_path = public, pg_catalog', current_database()); end $$`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	g := w.guard()
	q, err := schedule.New(schedule.Config{Pool: g.wh.Pool(), Log: g.session.app.log})
	if err != nil {
		t.Fatal(err)
	}
	v := &service{session: g.session, queue: q, sender: g.sender, replan: make(chan struct{}, 1)}
	if err := v.plan(t.Context()); err == nil || !strings.Contains(err.Error(), "the clock of this machine is off by 2m") {
		t.Errorf("plan: %v", err)
	}
	if n := w.value(`select count(*)::text from river.river_job where kind = 'load'`); n != "0" {
		t.Errorf("%s loads were planned", n)
	}
	if got := w.value(`select coalesce(string_agg(kind, ', '), '') from mart.alert`); !strings.Contains(got, "clock") {
		t.Errorf("alerts: %q, want clock", got)
	}
}
