package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// These tests end real processes in the middle of their work, start them again until it is done, and
// want the warehouse to be what it would be had nothing happened. See etl/internal/killpoint.

// act is a command line at a business time.
type act struct {
	now  string
	args []string
}

// play is what happens: news of all kinds on the way in, and a backfill that finds more.
var play = []act{
	{"2026-05-12T06:00:00Z", []string{"run", "keystone.customers"}},
	{"2026-05-12T06:00:00Z", []string{"run"}},
	{"2026-05-16T06:40:00Z", []string{"run"}}, // four more days; restated, late and shrunk ones
	{"2026-05-17T08:50:00Z", []string{"run"}}, // what shrank a day ago did shrink
	{"2026-05-17T08:55:00Z", []string{"backfill", "keystone.history", "--from", "2026-04-10", "--until", "2026-05-12"}}, // in two windows
	{"2026-05-17T21:00:00Z", append([]string{"run"}, datasets...)},                                                      // finds what was left
}

var playStart = time.Date(2026, 4, 10, 0, 0, 0, 0, time.UTC)

// newStage is a world for the play: three customers, a vendor that takes each refresh token once, and a
// history that changes while it is told.
func newStage(t *testing.T, database string, start time.Time) *world {
	t.Helper()
	w := &world{t: t, env: map[string]string{}, database: database}
	w.setNow(play[0].now)
	clock := func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now
	}
	w.keystone = keystonesim.New(keystonesim.Config{
		Seed: 11, Now: clock, Start: start, Restate: true, Oddities: true, Shuffle: true,
	})
	w.wolkvox = wolkvoxsim.New(wolkvoxsim.Config{Seed: 11, Now: clock, Licenses: 1000})
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: "chat_licenses", Body: []byte("=12+x")})
	mux := http.NewServeMux()
	mux.Handle("/v1/", w.keystone)
	mux.Handle("/v1/keystone/customer/historical-consumption-details", changing{w.keystone, clock})
	mux.Handle("/api/", w.wolkvox)
	server := httptest.NewUnstartedServer(mux)
	server.Config.ConnState = w.callers.note
	server.Start()
	t.Cleanup(server.Close)
	w.url = server.URL
	w.stage()
	return w
}

// stage writes the configuration again, as after a change of the database's URL.
func (w *world) stage() {
	w.t.Helper()
	w.env["KEYSTONE_TOKEN"] = w.keystone.RefreshToken()
	w.file = writeFile(w.t, "meterhouse.yaml", fmt.Sprintf(`database: {url: "%s"}
secrets_key: %s
state_dir: %s
keystone:
  - account: acme
    base_url: %s
    refresh_token: ${KEYSTONE_TOKEN}
    history: {start: 2026-05-04, reread: 8d}
wolkvox:
  - account: calls
    base_url: %s
    token: %s
    timezone: America/Bogota
    products: [ivr_minutes, chat_licenses, pbx_licenses, not_there]
`, w.database, testKey, w.t.TempDir(), w.url, w.url, w.wolkvox.Token()))
}

// changing tells history otherwise than the simulator: what it says depends on the business time and
// the question alone.
type changing struct {
	sim *keystonesim.Sim
	now func() time.Time
}

var said sync.Map // answers by time and question: all stages have the same

func (c changing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := c.now()
	rec := httptest.NewRecorder()
	c.sim.ServeHTTP(rec, r)
	body := rec.Body.Bytes()
	if rec.Code == http.StatusOK {
		key := now.String() + r.URL.RawQuery
		cached, ok := said.Load(key)
		if !ok {
			cached = changed(body, now)
			said.Store(key, cached)
		}
		body = cached.([]byte)
	}
	for name, values := range rec.Header() {
		if name != "Content-Length" {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(body)
}

func changed(body []byte, now time.Time) []byte {
	var tree any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		panic(err)
	}
	later := !now.Before(time.Date(2026, 5, 16, 0, 0, 0, 0, time.UTC))
	var walk func(node any, number string)
	walk = func(node any, number string) {
		switch node := node.(type) {
		case []any:
			for _, one := range node {
				walk(one, number)
			}
		case map[string]any:
			if s, ok := node["subscription"].(map[string]any); ok {
				number = s["number"].(string)
			}
			if samples, ok := node["historical_consumption"].([]any); ok {
				node["historical_consumption"] = slices.DeleteFunc(samples, func(one any) bool {
					sample := one.(map[string]any)
					at := sample["timestamp_utc"].(string)
					level := node["name"].(string)
					switch {
					case number == "1930061200-PROD" && strings.HasPrefix(at, "2026-05-09"): // the whole day comes late
						return !later
					case number == "1203550871" && level == "Performance" && at >= "2026-05-10T12" && at < "2026-05-11": // half of it does
						return !later
					case level == "Extreme" && number == "A-S00041207" && at >= "2026-05-10T22" && at < "2026-05-11": // it shrinks
						return later
					case level == "Object" && strings.HasPrefix(at, "2026-05-08"):
						sample["consumed_tib"] = "n/a"
					}
					return false
				})
			}
			for _, child := range node {
				walk(child, number)
			}
		}
	}
	walk(tree, "")
	out, err := json.Marshal(tree)
	if err != nil {
		panic(err)
	}
	return out
}

// buildVictim builds the program with its kill points.
func buildVictim(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "meterhouse")
	cmd := exec.Command("go", "build", "-tags", "killpoints", "-o", binary, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return binary
}

// troupe plays a play in a world, with processes that die.
type troupe struct {
	*world
	binary string
	kills  int

	forgiven int    // exchanges whose pair was lost for good, and a person logged in again
	lost     int    // of them, when the present process began
	seen     int    // exchanges and refusals that were judged
	endedAt  string // the step at which a process lost an answer that is not recovered, where it does one thing at a time
}

// mayLose are the steps between the moment in which the vendor may have spent a token and the one in which its
// answer is kept: what nobody can make up for.
var mayLose = []string{"request-written", "first-byte", "body-read"}

// start begins one process; environ is added to ours.
func (p *troupe) start(a act, environ ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	p.t.Helper()
	p.setNow(a.now)
	cmd := exec.Command(p.binary, append([]string{"--config", p.file, "--now", a.now}, append(a.args, "--format", "csv")...)...)
	cmd.Env = append(append(os.Environ(), "KEYSTONE_TOKEN="+p.env["KEYSTONE_TOKEN"]), environ...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	return cmd, &stdout, &stderr
}

// ending is how a process ended.
type ending struct {
	killed         bool
	code           int
	stdout, stderr string
}

// done tells that everything that was wanted is loaded, and what may be refused is.
func (e ending) done() bool {
	return e.code == exitDone || e.code == exitPartial && strings.Contains(e.stderr, "refused, the rest is loaded")
}

// patience is how long a process may take that nobody kills: more than any grace time.
const patience = 70 * time.Second

func (p *troupe) await(cmd *exec.Cmd, stdout, stderr *bytes.Buffer) ending {
	p.t.Helper()
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) }) // tells where it hangs
	err := cmd.Wait()
	if !timer.Stop() {
		p.t.Fatalf("%v still runs after %s:\n%s", cmd.Args, patience, stderr)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ending{status.Signaled() && status.Signal() == syscall.SIGKILL, cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (p *troupe) process(a act, environ ...string) ending {
	p.t.Helper()
	e := p.await(p.start(a, environ...))
	if e.killed {
		p.kills++
	}
	return e
}

// finish starts a command until it is done.
func (p *troupe) finish(a act) {
	p.t.Helper()
	for range 20 {
		e := p.process(a)
		p.judge()
		if e.done() {
			return
		}
		p.recover(e)
	}
	p.t.Fatalf("%v at %s does not get done", a.args, a.now)
}

// recover is what time and people do after a process that did not get done.
func (p *troupe) recover(e ending) {
	p.t.Helper()
	p.dayPasses()
	if p.value(`select coalesce((select state from ops.credential_attempt where account = 'acme' order by attempt_id desc limit 1), '')`) != "rejected" {
		return
	}
	if p.lost == 0 {
		p.t.Fatalf("the vendor refused a refresh token although no answer was lost:\n%s", e.stderr)
	}
	if p.endedAt != "" && !slices.Contains(mayLose, p.endedAt) {
		p.t.Errorf("a process that ended at %s lost the vendor's answer for good", p.endedAt)
	}
	p.forgiven += p.lost
	if o := p.runWith(p.keystone.Login(), "token", "set", "acme"); o.code != exitDone {
		p.t.Fatalf("token set: exit code %d\n%s", o.code, o.stderr)
	}
	p.judge()
}

// dayPasses makes leases, exchanges and calls as old as if a day had passed, which no test can wait for.
func (p *troupe) dayPasses() {
	p.t.Helper()
	p.value(`with lease as (
			update ops.lease set expires_at = least(expires_at, clock_timestamp())
		), attempt as (
			update ops.credential_attempt
			set started_at = started_at - interval '25 hours', deadline_at = deadline_at - interval '25 hours'
		), call as (
			update ops.vendor_call set started_at = started_at - interval '25 hours', lost_at = lost_at - interval '25 hours', ended_at = ended_at - interval '25 hours'
		)
		select ''`)
}

// callers are the open connections of a server.
type callers struct {
	mu   sync.Mutex
	open map[net.Conn]bool
}

func (c *callers) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		if c.open == nil {
			c.open = map[net.Conn]bool{}
		}
		c.open[conn] = true
	case http.StateClosed, http.StateHijacked:
		delete(c.open, conn)
	}
}

// only tells whether nothing is open but the connection from an address.
func (c *callers) only(address net.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		if len(c.open) == 1 && conn.RemoteAddr().String() == address.String() {
			return true
		}
	}
	return false
}

// allAnswered waits until the vendor is through with what processes asked that are dead: their requests may
// still be on their way, even unknown to it. Connections are accepted in turn, so one of ours comes behind theirs.
func (p *troupe) allAnswered() {
	p.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	for began := time.Now(); !p.callers.only(conn.LocalAddr()); time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			p.t.Fatalf("after %s the vendor still has other callers", patience)
		}
	}
}

// judge looks at what the vendor saw: a spent token may be sent once, by a process that could not
// know better, when the answer to its exchange was lost with the process before.
func (p *troupe) judge() {
	p.t.Helper()
	p.allAnswered()
	log := slices.DeleteFunc(p.keystone.Requests(), func(r keystonesim.Request) bool { return r.Path != "/v1/tokens/accessToken" })
	rotated := 0
	for _, r := range log[p.seen:] {
		switch {
		case r.Status == http.StatusOK:
			rotated++
		case r.Credential == keystonesim.Spent && (p.lost == 0 || rotated > 0):
			p.t.Errorf("a spent refresh token was sent while a newer one was stored: %d answers were lost before, %d exchanges were made in this process", p.lost, rotated)
		}
	}
	p.seen = len(log)
	all := 0
	for _, r := range log {
		if r.Status == http.StatusOK {
			all++
		}
	}
	stored, err := strconv.Atoi(p.value(`select count(*)::text from ops.credential where source = 'refresh'`))
	if err != nil {
		p.t.Fatal(err)
	}
	p.lost = all - stored - p.forgiven
	if p.lost < 0 || p.lost > 1 {
		p.t.Errorf("%d exchanges, %d stored, %d given up", all, stored, p.forgiven)
	}
}

// raiseCurtain makes the vendor forget the access token: each act needs an exchange. The first does anyway.
func (p *troupe) raiseCurtain(act int) {
	if act == 0 {
		return
	}
	p.keystone.ClearFaults()
	p.keystone.Inject(keystonesim.Fault{Kind: keystonesim.ExpireAccess, Count: 1})
}

// wants compares the warehouse, and looks after the credential and what is left behind.
func (p *troupe) wants(dump []string) {
	p.t.Helper()
	if diff := warehousetest.Difference(dump, warehousetest.Dump(p.t, p.database)); diff != "" {
		p.t.Errorf("after %d kills the warehouse is not what it would be:\n%s", p.kills, diff)
	}
	if left := p.value(`select count(*)::text from ops.credential_attempt where state in ('open', 'ambiguous')`); left != "0" {
		p.t.Errorf("%s token exchanges are left open", left)
	}
	status := p.must(exitDone, "token", "status", "--format", "csv").stdout
	if !strings.Contains(status, "acme,ok,") {
		p.t.Errorf("credential:\n%s", status)
	}
	if left := p.value(`select count(*)::text from ops.run where status = 'running'`); left != "0" {
		p.t.Errorf("%s runs are still running", left)
	}
}

// undisturbed plays without a kill and returns what the warehouse is then, for each act the steps it
// went through, and how long it took.
func undisturbed(t *testing.T, binary string) (dump []string, steps []map[string]int) {
	t.Helper()
	p := &troupe{world: newStage(t, warehousetest.New(t), playStart), binary: binary}
	for i, a := range play {
		p.raiseCurtain(i)
		trace := filepath.Join(t.TempDir(), "trace")
		e := p.process(a, "METERHOUSE_KILL_TRACE="+trace)
		if !e.done() {
			t.Fatalf("%v: exit code %d\n%s%s", a.args, e.code, e.stdout, e.stderr)
		}
		if p.judge(); p.lost > 0 {
			t.Fatalf("%v: a token answer was lost", a.args)
		}
		text, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		hits := map[string]int{}
		for point := range strings.Lines(string(text)) {
			hits[strings.TrimSpace(point)]++
		}
		steps = append(steps, hits)
	}
	dump = warehousetest.Dump(t, p.database)
	p.wants(dump)
	// The play is worth nothing unless everything happens in it.
	for what, sql := range map[string]string{
		"restated days":         `select count(*)::text from dw.restatement where kind = 'restated'`,
		"late days":             `select count(*)::text from dw.restatement where kind = 'late'`,
		"days that shrank":      `select count(*)::text from ops.run_warning where warning = 'day_shrunk'`,
		"refused samples":       `select count(*)::text from ops.quarantine where dataset = 'keystone.history'`,
		"refused readings":      `select count(*)::text from ops.quarantine where dataset = 'wolkvox.billing'`,
		"readings":              `select count(*)::text from dw.fact_license_reading`,
		"levels' readings":      `select count(*)::text from dw.fact_service_level`,
		"days in part":          `select count(*)::text from ops.coverage where status = 'partial'`,
		"customers beyond two":  `select greatest(count(*) - 2, 0)::text from dw.dim_customer`,
		"exchanges":             `select count(*)::text from ops.credential where source = 'refresh'`,
		"days that came second": `select count(*)::text from dw.fact_daily_consumption where usage_date = '2026-05-09' and known_since > '2026-05-13'`,
	} {
		if n := p.value(sql); n == "0" {
			t.Errorf("the play has no %s", what)
		}
	}
	return dump, steps
}

// goal is a step at which a process shall end.
type goal struct {
	act   int
	point string
	hit   int
}

func (g goal) String() string { return fmt.Sprintf("act %d %s:%d", g.act, g.point, g.hit) }

// killsVariable says how many times processes are killed at random. From a thousand on the other tests
// of this kind are done in full as well, and not as a sample.
const killsVariable = "METERHOUSE_TEST_KILLS"

func killsWanted(t *testing.T) (n int, inFull bool) {
	t.Helper()
	text := or(os.Getenv(killsVariable), "24")
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s: want a number", killsVariable, text)
	}
	return n, n >= 1000
}

func TestCrash(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a long play, of processes of their own")
	}
	binary := buildVictim(t)
	dump, steps := undisturbed(t, binary)
	t.Run("every step is in the play", func(t *testing.T) { everyStepIsInThePlay(t, steps) })
	t.Run("killed at every step", func(t *testing.T) {
		t.Parallel()
		endAtEveryStep(t, binary, dump, steps, "", 2)
	})
	t.Run("stopped at every step", func(t *testing.T) {
		t.Parallel()
		endAtEveryStep(t, binary, dump, steps, ":TERM", 1)
	})
}

// endAtEveryStep ends processes at the first, the middle and the last time that they come to each step
// of each act; a sample takes so many of each step. Within one play of the piece it ends as many as it
// can, so that most die while they repair what another one left.
func endAtEveryStep(t *testing.T, binary string, dump []string, steps []map[string]int, signal string, sample int) {
	random := rand.New(rand.NewPCG(1, 2))
	byPoint := map[string][]goal{}
	for act, hits := range steps {
		for point, n := range hits {
			some := []int{1, (n + 1) / 2, n}
			slices.Sort(some)
			for _, hit := range slices.Compact(some) {
				byPoint[point] = append(byPoint[point], goal{act, point, hit})
			}
		}
	}
	var goals []goal
	_, inFull := killsWanted(t)
	for _, point := range slices.Sorted(maps.Keys(byPoint)) {
		some := byPoint[point]
		random.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		if !inFull {
			some = some[:min(sample, len(some))]
		}
		goals = append(goals, some...)
	}
	total := len(goals)
	missed := map[goal]int{}
	began, kills, plays := time.Now(), 0, 0
	for ; len(goals) > 0; plays++ {
		p := &troupe{world: newStage(t, warehousetest.New(t), playStart), binary: binary}
		undisturbed := true
		for i, a := range play {
			p.raiseCurtain(i)
			finished := false
			for !finished {
				var here []int // goals of this act, the late ones first: before them nothing may have died
				for j, g := range goals {
					if g.act == i {
						here = append(here, j)
					}
				}
				if len(here) == 0 {
					break
				}
				next := here[random.IntN(len(here))]
				g := goals[next]
				e := p.process(a, fmt.Sprintf("METERHOUSE_KILL=%s:%d%s", g.point, g.hit, signal))
				before := p.lost
				p.judge()
				if p.lost != before {
					p.endedAt = ""
				}
				if i == 0 && p.lost > before {
					p.endedAt = g.point
				}
				if signal != "" && p.lost > 0 {
					t.Errorf("%s: a process that was told to stop lost a token answer:\n%s", g, e.stderr)
				}
				if signal == "" && e.killed || signal != "" && strings.Contains(e.stderr, "interrupted") {
					goals = slices.Delete(goals, next, next+1)
				} else if missed[g]++; missed[g] > 30 {
					t.Fatalf("%s is never reached", g)
				} else if undisturbed && g.hit > 1 {
					goals[next].hit-- // of two calls at once, one or both meet the token that was forgotten, and ask again
				}
				finished = e.done()
				undisturbed = undisturbed && finished
				if !finished {
					p.recover(e)
				}
			}
			if !finished {
				p.finish(a)
			}
		}
		p.wants(dump)
		kills += p.kills
		if t.Failed() {
			return
		}
	}
	t.Logf("%d goals in %d plays, %d kills, %s", total, plays, kills, time.Since(began).Round(100*time.Millisecond))
}

// awaited are steps of serve, which this play has not.
var awaited = []string{"slot-claimed"}

func everyStepIsInThePlay(t *testing.T, steps []map[string]int) {
	source, err := os.ReadFile("../../etl/internal/killpoint/killpoint.go")
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	for line := range strings.Lines(string(source)) {
		if !strings.Contains(line, " Point = \"") {
			continue
		}
		names++
		name := strings.Split(line, `"`)[1]
		reached := slices.ContainsFunc(steps, func(hits map[string]int) bool { return hits[name] > 0 })
		if reached == slices.Contains(awaited, name) {
			t.Errorf("step %s: reached %v", name, reached)
		}
	}
	if names < 20 {
		t.Errorf("%d steps: the names were not found", names)
	}
}

// The backfill of two windows for each customer, killed at any moment: of everything, and after four
// days of what changed.
var longPlay = []act{
	{"2026-05-12T06:00:00Z", []string{"run", "keystone.customers"}},
	{"2026-05-12T06:00:00Z", []string{"backfill", "keystone.history", "--from", "2026-04-04", "--until", "2026-05-12"}},
	{"2026-05-16T06:40:00Z", []string{"backfill", "keystone.history", "--from", "2026-04-04", "--until", "2026-05-16"}},
}

var longPlayStart = time.Date(2026, 4, 4, 0, 0, 0, 0, time.UTC)

func TestCrashAtAnyMoment(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a long play, of processes of their own")
	}
	kills, _ := killsWanted(t)
	binary := buildVictim(t)
	undisturbed := &troupe{world: newStage(t, warehousetest.New(t), longPlayStart), binary: binary}
	took := make([]time.Duration, len(longPlay))
	for i, a := range longPlay {
		began := time.Now()
		if e := undisturbed.process(a); !e.done() {
			t.Fatalf("%v: exit code %d\n%s%s", a.args, e.code, e.stdout, e.stderr)
		}
		took[i] = time.Since(began)
	}
	dump := warehousetest.Dump(t, undisturbed.database)
	t.Logf("undisturbed: %s", took)
	for lane := range 2 {
		t.Run(fmt.Sprint("lane ", lane), func(t *testing.T) {
			t.Parallel()
			seed := uint64(lane + 1)
			if text := os.Getenv("METERHOUSE_TEST_SEED"); text != "" {
				given, err := strconv.ParseUint(text, 10, 63)
				if err != nil {
					t.Fatalf("METERHOUSE_TEST_SEED: %v", err)
				}
				seed += 2 * given
			}
			killAtRandom(t, binary, dump, took, kills/2, seed)
		})
	}
}

// killAtRandom plays until so many processes were killed.
func killAtRandom(t *testing.T, binary string, dump []string, took []time.Duration, kills int, seed uint64) {
	random := rand.New(rand.NewPCG(seed, seed))
	began, killed, plays, lost := time.Now(), 0, 0, 0
	for ; killed < kills; plays++ {
		p := &troupe{world: newStage(t, warehousetest.New(t), longPlayStart), binary: binary}
		for i, a := range longPlay {
			for attempt := 0; ; attempt++ {
				if attempt == 200 {
					t.Fatalf("seed %d: %v does not get done", seed, a.args)
				}
				if i > 0 && random.IntN(3) == 0 { // a token exchange in the middle of it
					p.keystone.ClearFaults()
					p.keystone.Inject(keystonesim.Fault{Kind: keystonesim.ExpireAccess, Count: 1, Skip: random.IntN(4)})
				}
				cmd, stdout, stderr := p.start(a)
				// The longer it takes to get done, the longer may a process live: the machine has become slower.
				life := time.Duration(random.Int64N(int64(took[i]) * int64(12+attempt) / 10))
				timer := time.AfterFunc(life, func() { _ = cmd.Process.Kill() })
				e := p.await(cmd, stdout, stderr)
				timer.Stop()
				if e.killed {
					p.kills++
				}
				p.judge()
				if e.done() {
					break
				}
				p.recover(e)
			}
		}
		p.keystone.ClearFaults()
		p.wants(dump)
		killed += p.kills
		lost += p.forgiven
		if t.Failed() {
			t.Fatalf("seed %d, play %d", seed, plays)
		}
	}
	t.Logf("seed %d: %d kills in %d plays, %d token answers lost, %s", seed, killed, plays, lost, time.Since(began).Round(100*time.Millisecond))
}
