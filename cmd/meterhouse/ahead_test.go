package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
	"meterhouse/etl/warehouse/warehousetest"
)

// These tests hold loads up where they begin, by the lock that a load takes first, to see what is done
// meanwhile.

// holdUp keeps loads of Keystone customers from beginning until letGo, or the end of the test.
func (w *world) holdUp(customers ...string) (letGo func()) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.database)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close(context.Background()) })
	for _, id := range customers {
		if _, err := conn.Exec(w.t.Context(), `select pg_advisory_lock(hashtextextended('meterhouse scope keystone ' || $1, 0))`, id); err != nil {
			w.t.Fatal(err)
		}
	}
	return func() {
		if err := conn.Close(context.Background()); err != nil {
			w.t.Error(err)
		}
	}
}

// heldUp is how many loads wait.
func (w *world) heldUp() string {
	return w.value(`select count(*)::text from pg_locks where locktype = 'advisory' and not granted
		and database = (select oid from pg_database where datname = current_database())`)
}

// historyRuns are the runs of a customer's history in order, each with its window and status.
func (w *world) historyRuns(customer string) string {
	return w.value(`select coalesce(string_agg(format('%s..%s %s', window_from, window_until, status), ', ' order by run_id), '')
		from ops.run where dataset = 'keystone.history' and scope = $1`, customer)
}

// whileOneLoads waits until the load of a customer's newest window is held up and the answer about the
// one before it is here.
func (w *world) whileOneLoads(customer string) {
	w.t.Helper()
	w.eventually("answers about history", "2", func() string {
		n := 0
		for _, r := range w.keystone.Requests() {
			if strings.Contains(r.Path, "historical") && strings.Contains(r.Query, customer) && !r.End.IsZero() {
				n++
			}
		}
		return fmt.Sprint(n)
	})
	w.eventually("loads that wait", "1", w.heldUp)
}

// windowsOf are the windows of a span of days, newest first.
func windowsOf(t *testing.T, from, until string) []etl.Window {
	t.Helper()
	days, err := daysOf("test", from, until)
	if err != nil {
		t.Fatal(err)
	}
	return backfillWindows(days)
}

// allAs are windows in the form of historyRuns, with one status.
func allAs(status string, windows []etl.Window) string {
	var texts []string
	for _, w := range windows {
		texts = append(texts, w.String()+" "+status)
	}
	return strings.Join(texts, ", ")
}

// The vendor is asked for the next window while the former one is loaded, and the warehouse is in the end
// what it is without that.
func TestNextWindowIsAskedForDuringTheLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	asked := make(chan string, 10)
	mux := http.NewServeMux()
	mux.Handle("/", w.keystone)
	mux.HandleFunc("/v1/keystone/customer/historical-consumption-details", func(rw http.ResponseWriter, r *http.Request) {
		asked <- r.FormValue("from_date_utc")[:10]
		w.keystone.ServeHTTP(rw, r)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	w.url = server.URL
	w.configure("")
	w.must(exitDone, "run", "keystone.customers")
	letGo := w.holdUp("C-1001")
	windows := windowsOf(t, "2026-03-01", "2026-05-20")
	ended := make(chan outcome)
	go func() {
		ended <- w.run("backfill", "keystone.history", "--from", "2026-03-01", "--until", "2026-05-20", "--customer", "C-1001")
	}()
	for _, want := range windows[:2] {
		select {
		case from := <-asked:
			if from != want.From.String() {
				t.Fatalf("asked for the days since %s, want %s", from, want)
			}
		case o := <-ended:
			t.Fatalf("it has ended: %+v", o)
		case <-time.After(time.Minute):
			t.Fatalf("not asked for %s while another window is loaded; runs: %s", want, w.historyRuns("C-1001"))
		}
	}
	w.eventually("loads that wait", "1", w.heldUp)
	if got, want := w.historyRuns("C-1001"), allAs("running", windows[:2]); got != want {
		t.Errorf("runs %s, want %s", got, want)
	}
	letGo()
	if o := <-ended; o.code != exitDone {
		t.Fatalf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if got, want := w.historyRuns("C-1001"), allAs("ok", windows); got != want {
		t.Errorf("runs %s, want %s", got, want)
	}
	if bad := w.value(`select count(*)::text from ops.run as a join ops.run as b using (dataset, scope)
		where dataset = 'keystone.history' and b.run_id > a.run_id and (b.fetched_at < a.fetched_at or b.finished_at < a.finished_at)`); bad != "0" {
		t.Errorf("%s pairs of runs were fetched or ended in another order than they were begun", bad)
	}

	plain := newWorld(t)
	plain.must(exitDone, "run", "keystone.customers")
	for _, days := range windows {
		plain.must(exitDone, "backfill", "keystone.history", "--from", days.From.String(), "--until", days.Until.String(), "--customer", "C-1001")
	}
	if diff := warehousetest.Difference(warehousetest.Dump(t, plain.database), warehousetest.Dump(t, w.database)); diff != "" {
		t.Errorf("window by window the warehouse is another:\n%s", diff)
	}
}

// Customers of one account are loaded side by side, up to the configured number, each with its next window
// asked for.
func TestCustomersAreLoadedSideBySide(t *testing.T) {
	t.Parallel()
	for _, parallel := range []int{1, 2} {
		t.Run(fmt.Sprint("parallel ", parallel), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.configure(fmt.Sprintf("parallel: %d\n", parallel))
			w.must(exitDone, "run", "keystone.customers")
			windows := len(windowsOf(t, "2026-03-25", "2026-05-20"))
			letGo := w.holdUp("C-1001", "0042117")
			ended := make(chan outcome)
			go func() {
				ended <- w.run("backfill", "keystone.history", "--from", "2026-03-25", "--until", "2026-05-20")
			}()
			w.eventually("loads that wait", fmt.Sprint(parallel), w.heldUp)
			w.eventually("runs", fmt.Sprint(2*parallel), func() string {
				return w.value(`select count(*)::text from ops.run where dataset = 'keystone.history' and status = 'running'`)
			})
			if got := w.heldUp(); got != fmt.Sprint(parallel) {
				t.Errorf("%s loads wait, want %d", got, parallel)
			}
			letGo()
			if o := <-ended; o.code != exitDone {
				t.Fatalf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
			}
			if n := w.value(`select count(*)::text from ops.run where dataset = 'keystone.history' and status = 'ok'`); n != fmt.Sprint(3*windows) {
				t.Errorf("%s windows loaded, want %d of each of 3 customers", n, windows)
			}
			for _, r := range w.keystone.Requests() { // one after the other, as with any vendor
				for _, other := range w.keystone.Requests() {
					if r.Start.Before(other.Start) && other.Start.Before(r.End) && !strings.HasPrefix(r.Path, "/v1/tokens/") {
						t.Errorf("%s %s and %s %s at once", r.Path, r.Query, other.Path, other.Query)
					}
				}
			}
		})
	}
}

// A process that is told to stop while one window is loaded and the next waits brings both to their end,
// begins no other, and gives the rest back.
func TestTerminateWithAnAnswerThatWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clock := w.clock("2027-05-14T12:05:00Z")
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2027-01-01")
	for _, dataset := range datasets[:3] { // history alone is due
		w.must(exitDone, "run", dataset)
	}
	letGo := w.holdUp("C-1001")
	p := w.start(clock, "serve")
	w.whileOneLoads("C-1001")
	ended := make(chan int)
	go func() { ended <- p.stop() }()
	w.eventually("the stop", "true", func() string { return fmt.Sprint(strings.Contains(p.log(), "stopping: ")) })
	letGo()
	if code := <-ended; code != exitDone {
		t.Errorf("exit code %d\n%s", code, p.log())
	}
	if got, want := w.historyRuns("C-1001"), allAs("ok", windowsOf(t, "2027-01-01", "2027-05-14")[:2]); got != want {
		t.Errorf("runs %s, want %s", got, want)
	}
	if n := w.value(`select count(*)::text from river.river_job where args->>'scope' = 'C-1001' and args->>'dataset' = 'keystone.history' and state = 'available'`); n != "1" {
		t.Errorf("%s jobs were given back, want 1\n%s", n, p.log())
	}
	w.start(clock, "serve")
	w.eventually("behind", "", w.behind)
}

// What is interrupted is closed: the window that is loaded, and the one that waits.
func TestInterruptWithAnAnswerThatWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run", "keystone.customers")
	letGo := w.holdUp("C-1001")
	ctx, interrupt := context.WithCancel(t.Context())
	ended := make(chan outcome)
	args := []string{"backfill", "keystone.history", "--from", "2026-03-01", "--until", "2026-05-20", "--customer", "C-1001"}
	go func() {
		ended <- invokeUntil(t, ctx, w.env, "", append([]string{"--config", w.file, "--now", testNow}, args...)...)
	}()
	w.whileOneLoads("C-1001")
	interrupt()
	o := <-ended
	if n := strings.Count(o.stderr, "msg=interrupted"); n != 2 || strings.Contains(o.stderr, "level=ERROR") {
		t.Errorf("%d runs were interrupted, want 2:\n%s", n, o.stderr)
	}
	windows := windowsOf(t, "2026-03-01", "2026-05-20")
	closed := allAs("failed", windows[:2])
	if got := w.historyRuns("C-1001"); got != closed {
		t.Errorf("runs %s, want %s", got, closed)
	}
	letGo()
	w.must(exitDone, args...)
	if got, want := w.historyRuns("C-1001"), closed+", "+allAs("ok", windows); got != want {
		t.Errorf("runs %s, want %s", got, want)
	}
}
