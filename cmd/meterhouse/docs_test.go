package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// TestDocumentsAreTrue runs what the documents show in blocks of console, command by command, against
// the fake vendors, and compares the output. Times and log lines do not count. A block of sql or python that
// one of text follows is run likewise. What happens between them stands in comments that no reader sees:
//
//	<!-- now 2026-05-21T03:00:00Z -->      the clock
//	<!-- wolkvox items count=1 body=x -->  a fault of a fake vendor, see its ParseFault
//	<!-- sql update ... -->                what a crash leaves behind
//	<!-- rewrite 12 of 30 => 12 -->        a body that the program reads differently, after an upgrade
//	<!-- file NAME\ntext -->               a file that the reader has
//	<!-- demo 2026-11-10T09:00:00Z -->     the reader has a demo of that clock, and no configuration
//	<!-- login NAME -->                    the SQL that follows makes this role, which what stands below logs in as
//	<!-- restate CUSTOMER -->              NetApp tells a customer of the demo other figures for some days, and they are loaded
func TestDocumentsAreTrue(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"runbook.md", "month-end.md", "tutorial.md", "connect.md"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join("..", "..", "docs", name)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := exec.LookPath("psql"); err != nil && docsSQL.Match(text) {
				warehousetest.Lacking(t, "PSQL", "no psql to ask what the document asks")
			}
			got := newReader(t).follow(string(text))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("%s (-written +true; go test -update writes it):\n%s", name, diff)
			}
		})
	}
}

// docsReader does what a document says, as a person at a shell.
type docsReader struct {
	*world
	dir   string
	demo  *demoWorld        // nil: the world is its own
	login *url.URL          // of the reader's psql and Python
	roles map[string]string // of the cluster, by their name in the document
}

func newReader(t *testing.T) *docsReader {
	r := &docsReader{world: newWorld(t), dir: t.TempDir(), roles: map[string]string{}}
	docs, err := filepath.Abs(filepath.Join("..", "..", "docs"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(docs, filepath.Join(r.dir, "docs")); err != nil {
		t.Fatal(err)
	}
	if r.login, err = url.Parse(r.database); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nexec env " + asProgram + "=1 '" + exe + "' --now \"$(cat '" + r.dir + "/.now')\" \"$@\"\n"
	if err := os.WriteFile(filepath.Join(r.dir, "meterhouse"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return r
}

var (
	docsPart = regexp.MustCompile("(?s)<!-- login \\w+ -->\n\n```sql\n[^`]*```|<!-- .*?-->|```console\n.*?```|" + docsSQL.String())
	docsSQL  = regexp.MustCompile("```(?:sql|python)\n[^`]*```\n\n```text\n[^`]*```")
	logLine  = regexp.MustCompile(`(?m)^time=.*\n`)
)

// follow returns the document with the true outputs.
func (r *docsReader) follow(text string) string {
	return docsPart.ReplaceAllStringFunc(text, func(part string) string {
		if rest, is := strings.CutPrefix(part, "<!-- login "); is {
			name, sql, _ := strings.Cut(rest, " -->\n\n```sql\n")
			r.makeLogin(name, strings.TrimSuffix(sql, "```"))
			return part
		}
		if strings.HasPrefix(part, "```sql") || strings.HasPrefix(part, "```python") {
			head, written, _ := strings.Cut(part, "```\n\n```text\n")
			language, code, _ := strings.Cut(strings.TrimPrefix(head, "```"), "\n")
			return head + "```\n\n```text\n" + r.answer(language, code, strings.TrimSuffix(written, "```")) + "```"
		}
		if words, isEvent := strings.CutPrefix(part, "<!-- "); isEvent {
			r.happen(strings.TrimSuffix(strings.TrimSuffix(words, "-->"), " "))
			return part
		}
		body := strings.TrimSuffix(strings.TrimPrefix(part, "```console\n"), "```")
		var out strings.Builder
		command, written := "", ""
		finish := func() {
			if command != "" {
				out.WriteString(r.output(command, written))
			}
			written = ""
		}
		for line := range strings.Lines(body) {
			switch {
			case strings.HasPrefix(line, "$ "):
				finish()
				command = strings.TrimPrefix(line, "$ ")
				out.WriteString(line)
			case strings.HasPrefix(line, "> ") && written == "":
				command += strings.TrimPrefix(line, "> ")
				out.WriteString(line)
			default:
				written += line
			}
		}
		finish()
		return "```console\n" + out.String() + "```"
	})
}

// makeLogin makes a role as the document says, under a name that the cluster has not, and logs in as it.
func (r *docsReader) makeLogin(name, sql string) {
	r.t.Helper()
	unique := "test_" + strings.ToLower(rand.Text())
	r.roles[name] = unique
	r.t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), r.database)
		if err == nil {
			_, err = conn.Exec(context.Background(), "drop role if exists "+unique)
			_ = conn.Close(context.Background())
		}
		if err != nil {
			r.t.Errorf("drop the role of the document: %v", err)
		}
	})
	password := regexp.MustCompile(`password '(.*?)'`).FindStringSubmatch(sql)
	if password == nil {
		r.t.Fatalf("the login %s has no password: %s", name, sql)
	}
	database := strings.TrimPrefix(r.login.Path, "/")
	r.exec(strings.ReplaceAll(r.named(sql), "on database postgres", "on database "+database))
	r.login.User = url.UserPassword(unique, password[1])
}

// named puts the names that the cluster has for those of the document.
func (r *docsReader) named(text string) string {
	for name, unique := range r.roles {
		text = regexp.MustCompile(`\b`+name+`\b`).ReplaceAllString(text, unique)
	}
	return text
}

// answer is what SQL or Python prints.
func (r *docsReader) answer(language, code, written string) string {
	r.t.Helper()
	program := []string{"psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"}
	if language == "python" {
		if program = []string{os.Getenv("METERHOUSE_TEST_PYTHON"), "-"}; program[0] == "" {
			r.t.Log("SKIPPED: METERHOUSE_TEST_PYTHON names no Python with pandas, SQLAlchemy and psycopg: what the document shows in it is not run")
			return written
		}
	}
	cmd := exec.CommandContext(r.t.Context(), program[0], program[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin = r.dir, r.environ(), strings.NewReader(r.named(code))
	raw, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s\n%v: %s", code, err, raw)
	}
	var got strings.Builder
	for line := range strings.Lines(strings.TrimRight(string(raw), "\n")) {
		got.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	text := got.String()
	for name, unique := range r.roles {
		text = strings.ReplaceAll(text, unique, name)
	}
	if comparable(text) == comparable(written) {
		return written
	}
	return text
}

func (r *docsReader) environ() []string {
	password, _ := r.login.User.Password()
	env := append(os.Environ(), "PATH="+r.dir+":"+os.Getenv("PATH"), "DATABASE_URL="+r.database,
		"PGHOST="+r.login.Hostname(), "PGPORT="+or(r.login.Port(), "5432"), "PGDATABASE="+strings.TrimPrefix(r.login.Path, "/"),
		"PGUSER="+r.login.User.Username(), "PGPASSWORD="+password)
	if r.demo != nil {
		env = append(env, "METERHOUSE_DATABASE_URL="+r.database)
	} else {
		env = append(env, "METERHOUSE_CONFIG="+r.file)
	}
	for name, value := range r.env {
		env = append(env, name+"="+value)
	}
	return env
}

// output is what a command prints, or what is written where only times differ.
func (r *docsReader) output(command, written string) string {
	r.t.Helper()
	r.mu.Lock()
	now := r.now.Format("2006-01-02T15:04:05Z")
	r.mu.Unlock()
	if err := os.WriteFile(filepath.Join(r.dir, ".now"), []byte(now), 0o644); err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.CommandContext(r.t.Context(), "sh", "-c", command)
	cmd.Dir = r.dir
	cmd.Env = r.environ()
	raw, err := cmd.CombinedOutput()
	if _, failed := err.(*exec.ExitError); err != nil && !failed {
		r.t.Fatalf("%s: %v", command, err)
	}
	got := logLine.ReplaceAllString(string(raw), "")
	if comparable(got) == comparable(written) {
		return written
	}
	return got
}

// comparable is an output without what differs from one time to the next: times, how long something
// took, and which of two runs side by side came first.
func comparable(output string) string {
	for _, differs := range chance {
		output = differs.ReplaceAllString(output, "$1*")
	}
	lines := strings.Split(output, "\n")
	for i, line := range lines {
		lines[i] = strings.Join(strings.Fields(line), " ")
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

var chance = []*regexp.Regexp{
	regexp.MustCompile(`()\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d(?::?\d\d)?)?`),
	regexp.MustCompile(`()\d{4}-\d\d-\d\d \(\d+ d\)`), // when a credential dies
	regexp.MustCompile(`( in )\d+m?s`),
	regexp.MustCompile(`(?m)()^ *\d+  (?:keystone|wolkvox)`), // last runs
	regexp.MustCompile(`(  (?:acme|calls)  )  *\d+  `),       // replay --plan
	regexp.MustCompile(`(dismissed by )[^:]*`),
	regexp.MustCompile(`()\b[0-9a-f]{64}\b`), // hashes of what has a time in it
}

// happen does what a comment says.
func (r *docsReader) happen(words string) {
	r.t.Helper()
	verb, rest, _ := strings.Cut(words, " ")
	switch verb {
	case "now":
		r.setNow(rest)
	case "wolkvox":
		f, err := wolkvoxsim.ParseFault(rest)
		if err != nil {
			r.t.Fatal(err)
		}
		r.wolkvox.Inject(f)
	case "keystone":
		f, err := keystonesim.ParseFault(rest)
		if err != nil {
			r.t.Fatal(err)
		}
		r.keystone.Inject(f)
	case "sql":
		r.exec(rest)
	case "rewrite":
		old, new, _ := strings.Cut(rest, " => ")
		for _, payload := range strings.Fields(r.value(`select string_agg(distinct payload_id::text, ' ') from ops.quarantine where resolved_at is null`)) {
			r.rewrite(payload, old, new)
		}
	case "file":
		name, text, _ := strings.Cut(rest, "\n")
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
			r.t.Fatal(err)
		}
	case "token": // the portal gives a new one
		if err := os.WriteFile(filepath.Join(r.dir, rest), []byte(r.keystone.Login()), 0o600); err != nil {
			r.t.Fatal(err)
		}
	case "demo":
		r.setNow(rest)
		r.demo = newDemo(r.t, r.database, r.now, 41)
		if _, err := r.demo.load(r.t.Context(), r.demo.session, r.demo.sims); err != nil {
			r.t.Fatal(err)
		}
		if err := r.demo.price(r.t.Context(), r.demo.session); err != nil {
			r.t.Fatal(err)
		}
	case "restate":
		r.demo.restate(r.t, rest, r.now)
	default:
		r.t.Fatalf("a comment says %q: want now, wolkvox, keystone, sql, rewrite, file, token, demo or restate", words)
	}
}

// demoWorld is a demo that loads into a database of its caller.
type demoWorld struct {
	*demo
	url     string
	session *session
	sims    *sims
	stderr  *bytes.Buffer
}

func newDemo(t *testing.T, url string, now time.Time, days int) *demoWorld {
	t.Helper()
	w := &demoWorld{url: url, stderr: &bytes.Buffer{}}
	a := &app{env: map[string]string{}, logFormat: "text", stdout: io.Discard, stderr: w.stderr, progress: newProgress(io.Discard)}
	if err := a.start(); err != nil {
		t.Fatal(err)
	}
	w.demo = &demo{app: a, state: demoState{Clock: now, Seed: 1, Days: days, SecretsKey: testKey}}
	w.demo.clock.set(now)
	a.now, a.fixed = w.demo.clock.now, true
	sims, portal := w.fakes()
	w.connect(t, sims, portal)
	return w
}

// connect serves fake vendors and opens a session with them and the database.
func (w *demoWorld) connect(t *testing.T, sims *sims, portal string) {
	t.Helper()
	address, _, err := sims.serve(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.sims = sims
	w.session, err = w.demo.app.newSession(t.Context(), w.config(sims, portal, address), &database{w.url, w.url, func() error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.session.stop() })
}

// restate loads the history of a customer from a vendor that tells one day in twenty anew.
func (w *demoWorld) restate(t *testing.T, customer string, now time.Time) {
	t.Helper()
	w.clock.set(now)
	sims, portal := w.fakes()
	sims.keystone = keystonesim.New(keystonesim.Config{
		Seed: w.state.Seed, Now: w.clock.now, Start: w.sims.start.Time(), RefreshToken: portal, Lenient: true, Restate: true,
	})
	sims.start = w.sims.start
	w.connect(t, sims, portal)
	if _, err := w.session.load(t.Context(), order{datasets: []string{"keystone.history"}, customer: customer}); err != nil {
		t.Fatal(err)
	}
}
