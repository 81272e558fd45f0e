package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/riverqueue/river/rivertype"

	"meterhouse/etl/schedule"
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
	p.cmd.Env = append(os.Environ(), asProgram+"=1", testClockFile+"="+clock)
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
	w.setNow(time.Now().UTC().Format(time.RFC3339))
	w.configure("console: {listen: \"\"}\n")
	p := w.start("", "serve")
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
	wantContains(t, "log", p.log(), "msg=started", "msg=scheduled dataset=wolkvox.billing account=calls", "msg=loaded dataset=keystone.history scope=C-1001", "msg=stopped")
	if n := strings.Count(p.log(), "level=ERROR") + strings.Count(p.log(), "level=WARN"); n > 0 {
		t.Errorf("%d lines of trouble:\n%s", n, p.log())
	}
	// What serve loaded is done for run, too.
	if o := invoke(t, w.env, "", "--config", w.file, "run"); o.code != exitDone || !strings.Contains(o.stdout, "nothing is due") {
		t.Errorf("run after serve: exit code %d\n%s", o.code, o.stdout)
	}
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
	w.eventually("loads", "true", func() string {
		return w.value(`select (count(*) = 11)::text from ops.watermark where last_success_at is not null`)
	})
	cancel()
	if o := <-done; o.code != exitDone {
		t.Errorf("exit code %d\n%s", o.code, o.stderr)
	}
}
