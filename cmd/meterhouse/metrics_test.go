package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"meterhouse/etl/console"
	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// A run's calls are those that the vendors saw, by what became of them, whatever went wrong.
func TestCallsAreWhatTheVendorsSaw(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.ExpireAccess, Path: "/subscriptions-info", Count: 1})
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Status, Status: 403, Path: "/consumption-details", Count: 1})
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.LongWindow504, MaxDays: 3, Count: 2})
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.NoData, API: "chat_licenses"})
	o := w.run("run")
	if o.code != exitPartial {
		t.Fatalf("exit code %d: %s", o.code, o.stderr)
	}
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.TokenLimit, API: "ivr_minutes"})
	w.must(exitFailed, "run", "wolkvox.billing")

	want := map[string]int{}
	for _, r := range w.keystone.Requests() {
		switch {
		case r.Method == "POST":
			want["keystone token"]++
		case r.Status == 504:
			want["keystone timeout"]++
		case r.Status == 401:
			want["keystone unauthorized"]++
		case r.Status == 403:
			want["keystone contract"]++ // of one customer: no matter of the credential
		default:
			want["keystone ok"]++
		}
	}
	for _, r := range w.wolkvox.Requests() {
		switch r.Status {
		case 404:
			want["wolkvox no_data"]++
		case 403:
			want["wolkvox throttled"]++ // the quota, not the token
		default:
			want["wolkvox ok"]++
		}
	}
	var lines []string
	for class, n := range want {
		lines = append(lines, fmt.Sprint(class, " ", n))
	}
	slices.Sort(lines)
	for _, class := range []string{"keystone token", "keystone timeout", "keystone unauthorized", "keystone contract", "wolkvox no_data", "wolkvox throttled"} {
		if want[class] == 0 {
			t.Errorf("no call is %s: the test tests nothing", class)
		}
	}
	for _, of := range []string{
		`select string_agg(format('%s %s %s', source, class, n), E'\n' order by source, class)
			from (select source, class, sum(calls) as n from ops.run_call join ops.run using (run_id) group by source, class) as c`,
		`select string_agg(format('%s %s %s', source, kind, n), E'\n' order by source, kind)
			from (select source, kind, sum(total) as n from ops.run_total where counted = 'calls' group by source, kind) as c`,
	} {
		if got := w.value(of); got != strings.Join(lines, "\n") {
			t.Errorf("calls\n got %s\nwant %s", got, strings.Join(lines, "\n"))
		}
	}

	// One line per run, with its number; whatever else is said of a run names it too.
	runs := w.value(`select count(*)::text from ops.run where dataset <> 'wolkvox.billing'`)
	told := regexp.MustCompile(`(?m)^.* msg=(?:loaded|failed|halved|"loaded in part") run=(\d+) dataset=keystone\S+ .* calls=.*$`).FindAllStringSubmatch(o.stderr, -1)
	seen := map[string]bool{}
	for _, line := range told {
		if seen[line[1]] {
			t.Errorf("run %s speaks twice:\n%s", line[1], o.stderr)
		}
		seen[line[1]] = true
	}
	if fmt.Sprint(len(told)) != runs {
		t.Errorf("%d lines about %s runs:\n%s", len(told), runs, o.stderr)
	}
	for line := range strings.Lines(o.stderr) {
		if strings.Contains(line, "msg=retrying") && !regexp.MustCompile(` run=[1-9]`).MatchString(line) {
			t.Errorf("no run is named: %s", line)
		}
	}

	// Who reads again asks nobody.
	w.wolkvox.ClearFaults()
	w.must(exitDone, "replay", "keystone.history", "--from", "2026-05-14", "--until", "2026-05-20")
	if got := w.value(`select string_agg(distinct calls, ';') from mart.run where replay_of is not null`); got != "" {
		t.Errorf("a replay made calls: %s", got)
	}
}

// opened is a session of the world, for what runs inside the process.
func (w *world) opened(log io.Writer) *session {
	w.t.Helper()
	cfg, err := w.app(log).loadConfig(need{database: true, vendors: true})
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := w.app(log).openSessionOf(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.close(&err) })
	return s
}

// app is an invocation that has read its flags.
func (w *world) app(log io.Writer) *app {
	a := &app{env: w.env, stdout: io.Discard, stderr: log, progress: newProgress(log), configFile: w.file, started: true,
		log: slog.New(slog.NewTextHandler(log, nil))}
	a.now = func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now
	}
	return a
}

// scrape asks a console for its figures as a monitor does.
func scrape(t *testing.T, url string, more ...func(*http.Request)) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range more {
		f(req)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s, %v", url, res.StatusCode, text, err)
	}
	return string(text)
}

// What a monitor gets after a day with faults: figures named by the conventions, and no secret or word of
// a vendor but customer ids.
func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hash, err := console.HashPassword("canary-pass-1")
	if err != nil {
		t.Fatal(err)
	}
	w.configure("console: {listen: \"127.0.0.1:0\", users: {ann: '" + hash + "'}}\n")
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: "chat_licenses", Body: []byte("canary words of a vendor")})
	w.must(exitPartial, "run")
	w.setNow("2026-05-22T12:00:00Z")
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Status, Status: 403, Path: "/subscriptions-info", Body: []byte(`{"message": "canary of the vendor"}`)})
	w.must(exitFailed, "run", "keystone.subscriptions")

	var log strings.Builder
	s := w.opened(&log)
	server, err := console.New(s.consoleConfig())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- server.Serve(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	url := "http://" + server.Addr()
	if got := scrape(t, url+"/readyz"); got != "ready\n" {
		t.Errorf("readyz: %q", got)
	}
	text := scrape(t, url+"/metrics", func(r *http.Request) { r.SetBasicAuth("ann", "canary-pass-1") })

	wantContains(t, "figures", text,
		"\nmeterhouse_database_up 1\n",
		`meterhouse_build_info{goversion="go1.`,
		`meterhouse_watermark_lag_seconds{account="acme",dataset="keystone.history",scope="C-1001",source="keystone"} 216000`,
		`meterhouse_scope_late{account="acme",dataset="keystone.history",scope="C-1001",source="keystone"} 1`,
		`meterhouse_scope_failing{account="acme",dataset="keystone.subscriptions",scope="C-1001",source="keystone"} 1`,
		`meterhouse_last_success_timestamp_seconds{account="calls",dataset="wolkvox.billing",scope="calls",source="wolkvox"} 1.7792784e+09`,
		`meterhouse_runs_total{dataset="keystone.subscriptions",source="keystone",status="failed"} 3`,
		`meterhouse_records_total{dataset="wolkvox.billing",outcome="quarantined",source="wolkvox"} 1`,
		`meterhouse_vendor_calls_total{account="acme",class="token",source="keystone"} 1`,
		`meterhouse_token_state{account="acme",state="ok"} 1`, `meterhouse_token_state{account="acme",state="dead"} 0`,
		`meterhouse_token_expires_timestamp_seconds{account="acme"} `,
		`meterhouse_quarantine_open_records{dataset="wolkvox.billing",source="wolkvox"} 1`,
		`meterhouse_coverage_holes{account="calls",dataset="wolkvox.billing",source="wolkvox",status="lost"} `,
		`meterhouse_license_months{account="calls",state="open"} 1`,
		`meterhouse_scrape_errors_total{query="freshness"} 0`,
		"\ngo_goroutines ", "\nprocess_resident_memory_bytes ",
	)
	for _, secret := range []string{
		"canary", testKey, w.keystone.RefreshToken(), w.env["KEYSTONE_TOKEN"], w.wolkvox.Token(), "andina_demo",
		w.value(`select coalesce(max(customer_name), 'no name') from dw.dim_customer`), w.value(`select min(subscription_number) from dw.dim_subscription`),
		w.value(`select min(fingerprint) from ops.credential`),
	} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is shown", secret)
		}
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q is logged", secret)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "meterhouse_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	if strings.Contains(log.String(), "figures left out") {
		t.Errorf("log: %s", log.String())
	}
}

// scripted plays the warehouse.
type scripted struct {
	mu     sync.Mutex
	ready  error
	errors map[string]error
	asked  map[string]int
}

func (s *scripted) Ready(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

func (s *scripted) Measure(_ context.Context, g warehouse.MetricGroup, _ []warehouse.Watched) (all []warehouse.Figure, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[g.Name]++
	for _, m := range g.Metrics {
		all = append(all, warehouse.Figure{Metric: m, Labels: make([]string, len(g.Labels)), Value: fmt.Sprint(s.asked[g.Name])})
	}
	return all, s.errors[g.Name]
}

func TestMetricsAreCachedAndSurviveABadQuery(t *testing.T) {
	t.Parallel()
	source := &scripted{errors: map[string]error{}, asked: map[string]int{}}
	var log strings.Builder
	m := newMetrics(source, warehouse.MetricGroups(), nil, slog.New(slog.NewTextHandler(&log, nil)))
	now := time.Now()
	m.now = func() time.Time { return now }
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m)
	value := func(name string) string {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != name {
				continue
			}
			for _, one := range f.GetMetric() {
				if query := one.GetLabel(); len(query) == 1 && query[0].GetName() == "query" && query[0].GetValue() != "runs" {
					continue
				}
				return fmt.Sprint(one.GetGauge().GetValue() + one.GetCounter().GetValue())
			}
		}
		return "none"
	}
	const runs, holes, failures, up = "meterhouse_runs_total", "meterhouse_coverage_holes", "meterhouse_scrape_errors_total", "meterhouse_database_up"
	is := func(when string, want ...string) {
		t.Helper()
		for i := 0; i < len(want); i += 2 {
			if got := value(want[i]); got != want[i+1] {
				t.Errorf("%s: %s is %s, want %s", when, want[i], got, want[i+1])
			}
		}
	}
	is("first", runs, "1", holes, "1", failures, "0", up, "1")
	now = now.Add(14 * time.Second)
	is("soon", runs, "1", holes, "1")
	now = now.Add(time.Second)
	is("after 15 seconds", runs, "2", holes, "1")
	source.errors["runs"] = errors.New("canceling statement due to statement timeout")
	now = now.Add(time.Minute)
	is("a query fails", runs, "none", holes, "1", failures, "1", "meterhouse_records_total", "3", up, "1")
	if !strings.Contains(log.String(), `msg="figures left out" query=runs error="canceling`) {
		t.Errorf("log: %s", log.String())
	}
	delete(source.errors, "runs")
	now = now.Add(time.Minute)
	is("it is well again", runs, "4", failures, "1")
	source.ready = errors.New("the database does not answer")
	now = now.Add(time.Minute)
	is("the database is away", runs, "none", holes, "none", failures, "1", up, "0")
	source.ready = nil
	now = now.Add(15 * time.Second)
	is("it is back", runs, "5", holes, "2", up, "1")
	now = now.Add(5 * time.Minute)
	is("five minutes later", holes, "3")
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// Many monitors at once are one.
func TestMetricsAtOnce(t *testing.T) {
	t.Parallel()
	source := &scripted{asked: map[string]int{}}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newMetrics(source, warehouse.MetricGroups(), nil, slog.New(slog.DiscardHandler)))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := registry.Gather(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := source.asked["runs"]; n != 1 {
		t.Errorf("the database was asked %d times", n)
	}
}
