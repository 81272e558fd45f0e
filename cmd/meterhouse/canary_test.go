package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"

	"meterhouse/etl/console"
	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// canaries are secrets by what they are. Everything that the program puts out is searched for them.
type canaries struct {
	mu     sync.Mutex
	values map[string]string
}

func (c *canaries) add(name, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values[name] = value
}

// output is something that came out of the program, under the name that a failure prints.
type output struct {
	name  string
	bytes []byte
}

// search finds each secret in each output: as it is, a third of it, in base64 however it is aligned, in hex, and as it stands in
// a URL or in JSON. It tells what was found where, and never the secret.
func (c *canaries) search(outputs ...output) (found []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	hit := make([]map[string]bool, len(outputs)) // one form of a secret is enough
	for i := range hit {
		hit[i] = map[string]bool{}
	}
	for name, value := range c.values {
		for form, needle := range formsOf(value) {
			for i, o := range outputs {
				if hit[i][name] {
					continue
				}
				if at := bytes.Index(o.bytes, needle); at >= 0 {
					line := o.bytes[bytes.LastIndexByte(o.bytes[:at], '\n')+1 : at]
					hit[i][name] = true
					found = append(found, fmt.Sprintf("%s, %s, in %s behind %q", name, form, o.name, line[max(0, len(line)-160):]))
				}
			}
		}
	}
	slices.Sort(found)
	return found
}

func formsOf(value string) map[string][]byte {
	forms := map[string][]byte{"raw": []byte(value)}
	if len(value) >= 48 { // a piece of a long one is enough to be a leak
		third := len(value) / 3
		for i := range 3 {
			forms[fmt.Sprint("raw, third ", i+1)] = []byte(value[i*third : (i+1)*third])
		}
	}
	for shift := range 3 {
		whole := value[shift : shift+(len(value)-shift)/3*3]
		forms[fmt.Sprint("base64, shift ", shift)] = []byte(base64.StdEncoding.EncodeToString([]byte(whole)))
		forms[fmt.Sprint("base64 of URLs, shift ", shift)] = []byte(base64.URLEncoding.EncodeToString([]byte(whole)))
	}
	forms["hex"] = []byte(hex.EncodeToString([]byte(value)))
	forms["upper hex"] = bytes.ToUpper(forms["hex"])
	forms["query"] = []byte(url.QueryEscape(value))
	forms["path"] = []byte(url.PathEscape(value))
	text, _ := json.Marshal(value)
	forms["JSON"] = text[1 : len(text)-1]
	quoted := strconv.Quote(value)
	forms["quoted"] = []byte(quoted[1 : len(quoted)-1])
	seen := map[string]bool{}
	maps.DeleteFunc(forms, func(_ string, needle []byte) bool {
		again := seen[string(needle)]
		seen[string(needle)] = true
		return again
	})
	return forms
}

func TestCanariesAreFound(t *testing.T) {
	t.Parallel()
	const secret = `song/+"bird & <tree> 7Hq2`
	c := &canaries{values: map[string]string{"secret": secret}}
	quoted, _ := json.Marshal(secret)
	for name, text := range map[string]string{
		"raw": secret, "JSON": string(quoted), "query": "?k=" + url.QueryEscape(secret), "path": "/" + url.PathEscape(secret),
		"hex": fmt.Sprintf("%x", secret), "upper hex": fmt.Sprintf("%X", secret),
		"base64 0": base64.StdEncoding.EncodeToString([]byte("abc" + secret + "x")), "base64 1": base64.StdEncoding.EncodeToString([]byte("a" + secret + "yz")),
		"base64 2": base64.RawURLEncoding.EncodeToString([]byte("ab" + secret)), "go": fmt.Sprintf("%q", secret),
	} {
		if len(c.search(output{name, []byte("before " + text + " behind")})) == 0 {
			t.Errorf("%s is not found", name)
		}
	}
	if found := c.search(output{"nothing", []byte("song/+ bird")}); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}

// warehouseBytes is every byte that a database holds: all columns of all tables as text, what looks like a compressed
// body as it was sent, and comments, settings and sources of functions with them.
func warehouseBytes(t *testing.T, database string) (all []output) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `select oid::regclass::text from pg_class
		where relkind in ('r', 'm') and relnamespace <> 'information_schema'::regnamespace and relname not in ('pg_authid', 'pg_shadow', 'pg_user_mapping') and relname !~ '^pg_(toast|statistic)'`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		var text bytes.Buffer
		if _, err := conn.PgConn().CopyTo(ctx, &text, "copy (select * from "+table+") to stdout"); err != nil {
			t.Fatalf("%s: %v", table, err)
		}
		all = append(all, output{"table " + table, text.Bytes()})
	}
	rows, err = conn.Query(ctx, `select payload_id, body_zstd from raw.payload`)
	if err != nil {
		t.Fatal(err)
	}
	unzip, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unzip.Close()
	var id int64
	var body []byte
	if _, err := pgx.ForEachRow(rows, []any{&id, &body}, func() error {
		plain, err := unzip.DecodeAll(body, nil)
		all = append(all, output{fmt.Sprint("body of payload ", id), plain})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// folderBytes is every file below a folder.
func folderBytes(t *testing.T, dir string) (all []output) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		all = append(all, output{"file " + path, text})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// descendants are the command lines, and the environments but its own, of a process and all that it started.
func descendants(pid int) (all []output) {
	line := func(of int) {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", of)); err == nil {
			all = append(all, output{"command line of a process", text})
		}
	}
	line(pid)
	parents := map[int]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		parents[child], _ = strconv.Atoi(fields[1])
	}
	for child := range parents {
		for of := parents[child]; of > 1; of = parents[of] {
			if of == pid {
				line(child)
				if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", child)); err == nil {
					all = append(all, output{"environment of a process that was started", text})
				}
				break
			}
		}
	}
	return all
}

// parrot stands before the fake vendors: it learns each token that passes, and when it is told to, answers with
// what it was sent.
type parrot struct {
	vendor http.Handler
	known  *canaries

	mu     sync.Mutex
	status int    // 0: it is silent
	path   string // of what it answers
	form   string // of the answer, with %s for the token
	calls  int
}

func (p *parrot) tell(path string, status int, form string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.path, p.status, p.form, p.calls = path, status, form, 0
}

func (p *parrot) answered() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

func (p *parrot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var sent struct {
		Token string `json:"refresh_token"`
	}
	body, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(body, &sent)
	r.Body = io.NopCloser(bytes.NewReader(body))
	token := or(sent.Token, or(r.Header.Get("authorizationToken"), r.Header.Get("wolkvox-token")))
	p.mu.Lock()
	status, form := p.status, p.form
	if status == 0 || !strings.Contains(r.URL.Path, p.path) || token == "" {
		status = 0
	} else {
		p.calls++
	}
	p.mu.Unlock()
	if status != 0 {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Request-Id", token)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.ReplaceAll(form, "%s", token))
		return
	}
	rec := httptest.NewRecorder()
	p.vendor.ServeHTTP(rec, r)
	var pair struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	if json.Unmarshal(rec.Body.Bytes(), &pair) == nil && pair.Access != "" {
		n := len(pair.Access) // of one kind all are as long, so a name needs more
		p.known.add(fmt.Sprint("access token ", pair.Access[:8], n), pair.Access)
		p.known.add(fmt.Sprint("refresh token ", pair.Refresh[:8], n), pair.Refresh)
	}
	for name, values := range rec.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

// unzipped is what came out, of a workbook its parts.
func unzipped(t *testing.T, out string) []byte {
	t.Helper()
	if !strings.HasPrefix(out, "PK\x03\x04") {
		return []byte(out)
	}
	archive, err := zip.NewReader(strings.NewReader(out), int64(len(out)))
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, part := range archive.File {
		r, err := part.Open()
		if err == nil {
			_, err = all.ReadFrom(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.Bytes()
}

// TestNoSecretComesOut runs everything, with vendors and operators who do what they should not, and searches every
// byte that came out. Whoever adds a command, or a way out, adds it here.
func TestNoSecretComesOut(t *testing.T) {
	t.Parallel()
	known := &canaries{values: map[string]string{}}
	key := []byte("canary-key:Zx81/+?qWv0-9Lm~Tt&32")
	for name, value := range map[string]string{
		"secrets key": base64.StdEncoding.EncodeToString(key), "secrets key, decoded": string(key),
		"first refresh token": "canary-seed.0.kX4vT9_pLw2Zr7Qm5Yh8Jd3Nf6Bc1Gs0Ae9Uo4Ii7Ww2Vv5Tt8Rr",
		"wolkvox token":       "canary-wolk-7d1f0c4b9e2a6835",
		"database password":   "canary/pw+&9kQz2Lm 4Xv",
		"wrong password":      "canary/wrong+pw 3Ht7Gd1",
		"webhook key":         "canary-hook-5Rk9Zs2Wq8",
		"proxy password":      "canary-proxy-8Fj3Ml6Vb",
		"misplaced token":     "canary-misplaced-2Pd7Xc4Ky9",
	} {
		known.add(name, value)
	}
	server := warehousetest.NewCrashing(t, map[string]string{
		"log_statement": "all", "log_min_error_statement": "debug5", "log_min_messages": "debug1", "log_connections": "on",
		"log_parameter_max_length_on_error": "-1", "log_error_verbosity": "verbose", "log_min_duration_statement": "0",
	})
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // the private Postgres runs as somebody else
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}

	// The loader's role; its making is no output of the program.
	admin := warehousetest.Connect(t, server.URL)
	for _, sql := range []string{
		`set log_statement = none; set log_min_duration_statement = -1; set log_min_messages = error`,
		`create role loader login superuser password '` + known.values["database password"] + `'`,
	} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	as := func(password string) string {
		u, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("loader", password)
		return u.String()
	}
	now := time.Date(2026, 5, 20, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	keystone := keystonesim.New(keystonesim.Config{Seed: 3, Now: clock, Start: now.AddDate(0, 0, -6), Customers: 2, DailyOnly: true, RefreshToken: known.values["first refresh token"]})
	wolkvox := wolkvoxsim.New(wolkvoxsim.Config{Seed: 3, Now: clock, Token: known.values["wolkvox token"]})
	mux := http.NewServeMux()
	mux.Handle("/v1/", keystone)
	mux.Handle("/api/", wolkvox)
	vendor := &parrot{vendor: mux, known: known}
	fake := httptest.NewServer(vendor)
	t.Cleanup(fake.Close)

	const text = `database: {url: "${DATABASE_URL}"}
secrets_key: ${KEY}
state_dir: %s
http: {proxy: "%s"}
keystone:
  - account: acme
    base_url: %s
    refresh_token: ${KEYSTONE_TOKEN}
    history: {start: 2026-05-14, reread: 3d}
wolkvox:
  - account: calls
    base_url: %s
    token: ${WOLKVOX_TOKEN}
    timezone: America/Bogota
    products: [ivr_minutes, chat_licenses]
alerts: {webhook: "${WEBHOOK}"}
`
	state := filepath.Join(dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "meterhouse.yaml")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(fmt.Sprintf(text, state, "", fake.URL, fake.URL))
	env := map[string]string{
		"DATABASE_URL": as(known.values["database password"]), "KEY": known.values["secrets key"],
		"KEYSTONE_TOKEN": known.values["first refresh token"], "WOLKVOX_TOKEN": known.values["wolkvox token"],
		"WEBHOOK": "http://127.0.0.1:1/hook?key=" + known.values["webhook key"],
		"HOME":    dir, "XDG_STATE_HOME": dir, "TMPDIR": dir,
	}
	var outputs []output
	stdin := ""
	invokedUntil := func(ctx context.Context, args ...string) outcome {
		t.Helper()
		form := []string{"text", "json"}[len(outputs)/2%2]
		o := invokeUntil(t, ctx, env, stdin, append([]string{"--config", file, "--now", now.Format(time.RFC3339), "--log-level", "debug", "--log-format", form}, args...)...)
		name := strings.Join(args, " ")
		outputs = append(outputs, output{"stdout of " + name, unzipped(t, o.stdout)}, output{"stderr of " + name, []byte(o.stderr)})
		return o
	}
	invoked := func(args ...string) outcome {
		t.Helper()
		return invokedUntil(t.Context(), args...)
	}
	// briefly does not wait for what is tried again and again.
	briefly := func(args ...string) {
		t.Helper()
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		invokedUntil(ctx, args...)
	}
	must := func(code int, args ...string) {
		t.Helper()
		if o := invoked(args...); o.code != code {
			t.Errorf("%v: exit code %d, want %d\n%s", args, o.code, code, o.stderr)
		}
	}

	// A good day.
	must(exitDone, "run")
	must(exitDone, append([]string{"run"}, datasets...)...)
	must(exitDone, "backfill", "keystone.history", "--from", "2026-05-14", "--until", "2026-05-18")
	must(exitDone, "run", "--plan")
	everything := func() {
		t.Helper()
		for _, args := range [][]string{
			{"status"}, {"status", "--format", "json"}, {"check"}, {"config", "show"}, {"token", "status"}, {"token", "status", "--format", "json"},
			{"migrate", "status"}, {"migrate", "up"}, {"quarantine", "list"}, {"quarantine", "list", "--format", "json"}, {"report"}, {"report", "quarantine_by_reason"},
			{"statement", "2026-05"}, {"statement", "2026-05", "--format", "xlsx"}, {"match", "2026-05"},
			{"prune"}, {"replay", "--from", "2026-05-14", "--until", "2026-05-21"}, {"levels"}, {"version"},
		} {
			invoked(args...)
		}
	}
	everything()

	// Vendors that say what they were sent, in their refusals and in what looks like an answer.
	conn := warehousetest.Connect(t, server.URL)
	for i, echo := range []struct {
		path   string
		status int
		form   string
	}{
		{"/keystone/", 403, `{"message":"token %s has no rights"}`},
		{"/keystone/", 400, `{"message":"bad header authorizationToken: %s"}`},
		{"/keystone/", 404, `no such thing: %s`},
		{"/keystone/", 200, `{"message":"%s"}`},
		{"/keystone/", 200, `<html>%s</html>`},
		{"/keystone/", 200, `{"results":[{"%s":`},
		{"/api/", 403, `{"code":403,"error":"FORBIDDEN","msg":"PLEASE VALIDATE TOKEN %s"}`},
		{"/api/", 401, `{"code":401,"error":"UNAUTHORIZED %s","msg":"%s"}`},
		{"/api/", 500, `{"code":500,"error":"%s","msg":"%s"}`},
		{"/api/", 200, `<b>Notice</b>: undefined index %s in billing.php`},
		{"/api/", 200, `{"code":"200","error":null,"msg":"1","data":[{"operation":"andina_demo","description":"%s","items":"%s","date":"%s"}]}`},
		{"/keystone/", 401, `{"message":"token %s is not valid"}`}, // the token is exchanged
		{"/tokens/", 500, `{"error":"internal error at %s"}`},
	} {
		vendor.tell(echo.path, echo.status, echo.form)
		if echo.path == "/tokens/" { // an exchange is wanted
			if _, err := conn.Exec(t.Context(), `update ops.credential set access_sealed = null, access_expires_at = null`); err != nil {
				t.Fatal(err)
			}
		}
		dataset := "wolkvox.billing"
		if echo.path != "/api/" {
			dataset = datasets[i%4]
		}
		briefly("run", dataset)
		if _, err := conn.Exec(t.Context(), `update ops.vendor_call set started_at = started_at - interval '25 hours', ended_at = ended_at - interval '25 hours'`); err != nil {
			t.Fatal(err)
		}
		if vendor.answered() == 0 {
			t.Errorf("%s %d: nobody asked", echo.path, echo.status)
		}
		invoked("status")
	}
	everything()

	// The exchange whose answer was unclear is probed, refused in words that tell too much, and a person logs in again.
	age := func() {
		t.Helper()
		if _, err := conn.Exec(t.Context(), `update ops.credential_attempt set started_at = started_at - interval '25 hours', deadline_at = deadline_at - interval '25 hours'`); err != nil {
			t.Fatal(err)
		}
	}
	age()
	vendor.tell("/tokens/", 401, `{"error":"invalid refresh token %s"}`)
	must(exitFailed, "run", "keystone.customers")
	if vendor.answered() == 0 {
		t.Error("no probe was made")
	}
	everything()
	vendor.tell("", 0, "")
	stdin = known.values["misplaced token"] + "0000000000000000000000000000"
	invoked("token", "set", "acme")
	stdin = keystone.Login()
	known.add("second login", stdin)
	invoked("token", "set", "acme")
	stdin = ""
	must(exitDone, "run", "keystone.customers", "keystone.history")

	// Operators who slip.
	env["DATABASE_URL"] = as(known.values["wrong password"])
	must(exitFailed, "run")
	must(exitFailed, "status")
	invoked("check")
	invoked("migrate", "status")
	env["DATABASE_URL"] = "postgres://loader:" + known.values["wrong password"] + "@127.0.0.1:port/house"
	invoked("run")
	invoked("check")
	env["DATABASE_URL"] = as(known.values["database password"])
	other := []byte("canary-other-key-0123456789-abcd")
	known.add("other secrets key", base64.StdEncoding.EncodeToString(other))
	env["KEY"] = known.values["other secrets key"]
	must(exitFailed, "run", "keystone.customers")
	everything()
	env["KEY"] = known.values["secrets key"] + "=="
	invoked("run")
	invoked("config", "show")
	env["KEY"] = known.values["secrets key"]
	write(fmt.Sprintf(text, state, "http://user:"+known.values["proxy password"]+"@127.0.0.1:1", fake.URL, fake.URL))
	briefly("run", "keystone.customers", "wolkvox.billing")
	everything()
	write(fmt.Sprintf(text, state, "", fake.URL, fake.URL) + "\nrefresh_token: " + known.values["misplaced token"] + "\n")
	must(exitUsage, "run")
	must(exitUsage, "config", "show")
	write(fmt.Sprintf(text, state, "", fake.URL, fake.URL))

	// The service: what it logs, shows and sends, with vendors that repeat what they were sent.
	known.add("console password", "canary-console-6Hs1Yb8Np")
	hash, err := console.HashPassword(known.values["console password"])
	if err != nil {
		t.Fatal(err)
	}
	known.add("hash of the console password", hash)
	env["ANN"] = hash
	write(fmt.Sprintf(text, state, "", fake.URL, fake.URL) + "console: {listen: \"127.0.0.1:0\", users: {ann: \"${ANN}\"}}\n")
	vendor.tell("/keystone/", 403, `{"message":"token %s has no rights"}`)
	outputs = append(outputs, served(t, file, env, known.values["console password"])...)
	write(fmt.Sprintf(text, state, "", fake.URL, fake.URL))

	// A process of its own, with a Postgres of its own: command lines, and what is handed down.
	vendor.tell("", 0, "")
	outputs = append(outputs, privatePostgres(t, file, env, keystone)...)

	outputs = append(outputs, warehouseBytes(t, server.URL)...)
	outputs = append(outputs, output{"log of the server", []byte(server.Log())})
	outputs = append(outputs, folderBytes(t, dir)...)
	for _, found := range known.search(outputs...) {
		t.Error(found)
	}
	total := 0
	for _, o := range outputs {
		total += len(o.bytes)
	}
	if len(known.values) < 14 || total < 1<<20 {
		t.Errorf("%d secrets, %d bytes: want more of both", len(known.values), total)
	}
	t.Logf("%d secrets in %d outputs of %d bytes together", len(known.values), len(outputs), total)
}

// privatePostgres runs the program as a process that starts a Postgres, and returns what could be seen of it from
// outside while it worked, and what it said.
func privatePostgres(t *testing.T, file string, env map[string]string, vendor *keystonesim.Sim) (all []output) {
	t.Helper()
	binary := buildVictim(t)
	environ := []string{"PATH=" + os.Getenv("PATH"), "METERHOUSE_DATABASE_URL=local"}
	for name, value := range env {
		environ = append(environ, name+"="+value)
	}
	vendor.ClearFaults()
	vendor.Inject(keystonesim.Fault{Kind: keystonesim.Slow, Path: "/tokens/", Delay: time.Minute})
	for _, args := range [][]string{{"migrate", "up"}, {"run", "keystone.customers"}} {
		cmd := exec.Command(binary, append([]string{"--config", file, "--log-level", "debug"}, args...)...)
		cmd.Env = environ
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait()
			close(ended)
		}()
		var seen []output
		for waiting := true; waiting; {
			if now := descendants(cmd.Process.Pid); len(now) > len(seen) {
				seen = now
			}
			asked := slices.ContainsFunc(vendor.Requests(), func(r keystonesim.Request) bool { return r.Path == "/v1/tokens/accessToken" && r.End.IsZero() })
			select {
			case <-ended:
				waiting = false
			case <-time.After(10 * time.Millisecond):
			}
			if asked { // it is in the middle of its work
				seen = append(seen, descendants(cmd.Process.Pid)...)
				_ = cmd.Process.Kill()
				<-ended
				waiting = false
			}
		}
		if len(seen) < 5 {
			t.Errorf("%v: %d processes and environments seen, want those of a Postgres\n%s", args, len(seen), stderr.String())
		}
		all = append(append(all, seen...), output{"stdout of " + args[0], stdout.Bytes()}, output{"stderr of " + args[0], stderr.Bytes()})
	}
	return all
}

// served is everything that a serve logs and answers, until it has run into a vendor that refuses.
func served(t *testing.T, file string, env map[string]string, password string) (outputs []output) {
	t.Helper()
	var environ []string
	for name, value := range env {
		environ = append(environ, name+"="+value)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	log := &process{} // only its buffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"--config", file, "--log-level", "debug", "serve"}, environ, strings.NewReader(""), log, log)
	}()
	says := func(text string) (rest string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if _, rest, ok := strings.Cut(log.log(), text); ok {
				return rest
			}
		}
		t.Fatalf("serve never said %q:\n%s", text, log.log())
		return ""
	}
	address, _, _ := strings.Cut(says("msg=listening url="), "\n")
	says("msg=failed")
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/"} {
		for _, given := range []string{"", password, "wrong"} {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if given != "" {
				req.SetBasicAuth("ann", given)
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			said, err := httputil.DumpResponse(res, true)
			res.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if path == "/metrics" && (res.StatusCode == http.StatusOK) != (given == password) {
				t.Errorf("%s with password %t: status %d", path, given == password, res.StatusCode)
			}
			outputs = append(outputs, output{"answer of " + path, said})
		}
	}
	stop()
	if code := <-ended; code != exitDone {
		t.Errorf("serve: exit code %d\n%s", code, log.log())
	}
	return append(outputs, output{"log of serve", []byte(log.log())})
}
