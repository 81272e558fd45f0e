package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/etl/wolkvox/wolkvoxsim"
	"meterhouse/migrations"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	keystonePace = time.Nanosecond
	wolkvoxSpacing = -1
	if os.Getenv(asProgram) != "" {
		if file := os.Getenv(testClockFile); file != "" {
			actByTestClock(file)
		}
		main()
	}
	warehousetest.Main(m)
}

// testNow is the business clock of the tests.
const testNow = "2026-05-20T12:00:00Z"

const testKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// outcome is what a command line did.
type outcome struct {
	code           int
	stdout, stderr string
}

// lastLine of stdout.
func (o outcome) lastLine() string {
	lines := strings.Split(strings.TrimRight(o.stdout, "\n"), "\n")
	return lines[len(lines)-1]
}

// invoke runs a command line with nothing but the given environment.
func invoke(t *testing.T, env map[string]string, stdin string, args ...string) outcome {
	t.Helper()
	return invokeUntil(t, t.Context(), env, stdin, args...)
}

func invokeUntil(t *testing.T, ctx context.Context, env map[string]string, stdin string, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	var environ []string
	for name, value := range env {
		environ = append(environ, name+"="+value)
	}
	code := run(ctx, args, environ, strings.NewReader(stdin), &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

// world is a database of its own, both fake vendors, and a configuration that joins them.
type world struct {
	t        *testing.T
	env      map[string]string
	database string
	keystone *keystonesim.Sim
	wolkvox  *wolkvoxsim.Sim
	url      string  // of the fakes
	callers  callers // of the fakes of a play
	file     string

	mu  sync.Mutex
	now time.Time // clock of the fakes
}

// newWorld has six days of history until testNow.
func newWorld(t *testing.T) *world {
	w := &world{t: t, env: map[string]string{}, database: warehousetest.New(t)}
	w.setNow(testNow)
	clock := func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now
	}
	w.keystone = keystonesim.New(keystonesim.Config{
		Seed: 7, Now: clock, Start: time.Date(2026, 5, 14, 0, 0, 0, 0, time.UTC), Customers: 2, DailyOnly: true, Lenient: true,
	})
	w.wolkvox = wolkvoxsim.New(wolkvoxsim.Config{Seed: 7, Now: clock})
	mux := http.NewServeMux()
	mux.Handle("/v1/", w.keystone)
	mux.Handle("/api/", w.wolkvox)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	w.url = server.URL
	w.configure("")
	return w
}

// configure writes the configuration, with more text at the end.
func (w *world) configure(more string) {
	w.t.Helper()
	text := fmt.Sprintf(`database: {url: "%s"}
secrets_key: %s
keystone:
  - account: acme
    base_url: %s
    refresh_token: ${KEYSTONE_TOKEN}
    history: {start: 2026-05-14, reread: 3d}
wolkvox:
  - account: calls
    base_url: %s
    token: %s
    timezone: America/Bogota
    products: [ivr_minutes, chat_licenses]
`, w.database, testKey, w.url, w.url, w.wolkvox.Token())
	w.env["KEYSTONE_TOKEN"] = w.keystone.RefreshToken()
	w.file = writeFile(w.t, "meterhouse.yaml", text+more)
}

func (w *world) setNow(text string) {
	w.t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = at
}

// run is a command line in this world, at its clock.
func (w *world) run(args ...string) outcome {
	w.t.Helper()
	return w.runWith("", args...)
}

func (w *world) runWith(stdin string, args ...string) outcome {
	w.t.Helper()
	w.mu.Lock()
	now := w.now.Format(time.RFC3339)
	w.mu.Unlock()
	return invoke(w.t, w.env, stdin, append([]string{"--config", w.file, "--now", now}, args...)...)
}

// must is run for a command that has to end with the given code.
func (w *world) must(code int, args ...string) outcome {
	w.t.Helper()
	o := w.run(args...)
	if o.code != code {
		w.t.Fatalf("%v: exit code %d, want %d\nstdout:\n%s\nstderr:\n%s", args, o.code, code, o.stdout, o.stderr)
	}
	return o
}

// value asks the database for one text.
func (w *world) value(sql string, args ...any) string {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.database)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var text string
	if err := conn.QueryRow(w.t.Context(), sql, args...).Scan(&text); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantContains(t *testing.T, what, text string, wanted ...string) {
	t.Helper()
	for _, want := range wanted {
		if !strings.Contains(text, want) {
			t.Errorf("%s has no %q:\n%s", what, want, text)
		}
	}
}

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	root := (&app{progress: newProgress(&bytes.Buffer{})}).rootCommand()
	var paths [][]string
	var walk func(prefix []string)
	walk = func(prefix []string) {
		paths = append(paths, prefix)
		cmd, _, err := root.Find(prefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, sub := range cmd.Commands() {
			if sub.Name() != "help" {
				walk(append(prefix[:len(prefix):len(prefix)], sub.Name()))
			}
		}
	}
	walk(nil)
	for _, path := range paths {
		o := invoke(t, nil, "", append(path[:len(path):len(path)], "--help")...)
		if o.code != exitDone || o.stderr != "" {
			t.Errorf("%v --help: exit code %d, stderr %q", path, o.code, o.stderr)
		}
		golden(t, "help/"+or(strings.Join(path, "_"), "root")+".txt", o.stdout)
		wantContains(t, fmt.Sprint(path), o.stdout, "Examples:\n  meterhouse ")
		lines := strings.Split(o.stdout, "\n")
		most := 40 // a screen
		if len(path) == 0 {
			most = 55 // the list of all commands
		}
		if len(lines) > most {
			t.Errorf("%v --help has %d lines, want at most %d", path, len(lines), most)
		}
		for _, line := range lines {
			if len(line) > 110 {
				t.Errorf("%v --help: line of %d characters: %s", path, len(line), line)
			}
		}
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "want a command: backfill, bi, calendar, check,"},
		{[]string{"rnu"}, `unknown command "rnu" (did you mean "run"?)`},
		{[]string{"migrate"}, "migrate: want a command: down, status, up"},
		{[]string{"migrate", "upp"}, `(did you mean "up"?)`},
		{[]string{"ledger", "--help"}, `unknown command "ledger": want backfill, bi, calendar, check,`},
		{[]string{"migrate", "upp", "--help"}, `migrate: unknown command "upp" (did you mean "up"?)`},
		{[]string{"help", "invoices"}, `unknown command "invoices"`},
		{[]string{"help", "migrate", "upp"}, `migrate: unknown command "upp"`},
		{[]string{"demo", "--days", "x"}, `--days "x": want a whole number` + "\n"},
		{[]string{"demo", "--seed", "-1"}, `--seed "-1": want a whole number from 0 on`},
		{[]string{"migrate", "down", "--to", "a=b"}, `--to "a=b": want a whole number`},
		{[]string{"--nonsense"}, "unknown flag: --nonsense"},
		{[]string{"run", "--from", "2026-01-01"}, "unknown flag: --from"},
		{[]string{"--now", "yesterday", "version"}, `--now "yesterday": want RFC 3339`},
		{[]string{"--log-format", "xml", "version"}, `--log-format "xml": want text or json`},
		{[]string{"--log-level", "loud", "version"}, `--log-level "loud": want debug, info, warn or error`},
		{[]string{"version", "now"}, `version: unexpected "now"`},
		{[]string{"run", "keystone.histori"}, `unknown dataset "keystone.histori" (did you mean "keystone.history"?): want keystone.customers, keystone.subscriptions`},
		{[]string{"backfill"}, "backfill: 0 arguments: want one, a dataset"},
		{[]string{"backfill", "wolkvox.billing", "--from", "2026-01-01", "--until", "2026-02-01"}, "the vendor only tells the current month"},
		{[]string{"backfill", "keystone.current"}, "the vendor only tells the present"},
		{[]string{"backfill", "keystone.history"}, "want --from DAY and --until DAY"},
		{[]string{"backfill", "keystone.history", "--from", "2026-13-01", "--until", "2026-02-01"}, `--from: day "2026-13-01": want YYYY-MM-DD`},
		{[]string{"backfill", "keystone.history", "--from", "2026-02-01", "--until", "2026-02-01"}, "want --until after --from"},
		{[]string{"token", "set"}, "token set: 0 arguments: want one, the account"},
		{[]string{"quarantine", "show", "x"}, "want a number"},
		{[]string{"quarantine", "list", "--format", "xml"}, `--format "xml": want table, csv, json or markdown`},
		{[]string{"run", "--format", "html"}, `--format "html": want table, csv, json or markdown`},
		{[]string{"simulate", "--listen", "0.0.0.0:80"}, "want an address of this machine only"},
		{[]string{"simulate", "--fault", "acme:504"}, "want keystone:… or wolkvox:…"},
		{[]string{"simulate", "--fault", "keystone:sulk"}, "want a status"},
		{[]string{"simulate", "--days", "0"}, "--days 0: want 1 to 3660"},
		{[]string{"demo", "--days", "-3"}, "--days -3: want 1 to 3660"},
		{[]string{"run"}, "database.url is empty"},
		{[]string{"--config", "/nowhere/meterhouse.yaml", "run"}, "/nowhere/meterhouse.yaml: no such file"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			t.Parallel()
			o := invoke(t, nil, "", c.args...)
			if o.code != exitUsage {
				t.Errorf("exit code %d, want %d", o.code, exitUsage)
			}
			wantContains(t, "stderr", o.stderr, "meterhouse: ", c.want)
			if o.stdout != "" {
				t.Errorf("stdout: %q, want nothing", o.stdout)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	o := invoke(t, nil, "", "version")
	if o.code != exitDone || !strings.HasPrefix(o.stdout, "meterhouse ") {
		t.Errorf("exit code %d, stdout %q", o.code, o.stdout)
	}
	wantContains(t, "version", o.stdout, "go1.", fmt.Sprintf("schema %d", migrations.Head()))
}
