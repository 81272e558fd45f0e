package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/etl/wolkvox/wolkvoxsim"
	"meterhouse/migrations"
)

// exchanges are how many token exchanges the fake was asked for.
func (w *world) exchanges() (n int) {
	for _, r := range w.keystone.Requests() {
		if r.Method != http.MethodGet {
			n++
		}
	}
	return n
}

// replaceConfig replaces texts of the configuration file.
func (w *world) replaceConfig(oldnew ...string) {
	w.t.Helper()
	text, err := os.ReadFile(w.file)
	if err != nil {
		w.t.Fatal(err)
	}
	w.file = writeFile(w.t, "m.yaml", strings.NewReplacer(oldnew...).Replace(string(text)))
}

func TestCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.must(exitDone, "check")
	wantContains(t, "check", o.stdout, "ok    config: 1 keystone account, 1 wolkvox account\n", "ok    database: PostgreSQL ", "ok    rights: role ", "ok    bi_reader: ", "ok    closed months: they belong to meterhouse_owner",
		"ok    connections: there is room for the ", "ok    clock: the database's clock differs by ",
		"answers (status 401 to a call without a token); the credential was not tested, because that would spend the refresh token: the next run shows",
		"ok    keystone acme: the first run starts the chain", "ok    wolkvox calls: the token is accepted; 24999 of 25000", "there 2026-05-20 07:30:00 -05:00")
	w.must(exitDone, "run", "keystone.customers")
	spent := w.exchanges()
	if spent != 1 {
		t.Fatalf("%d token exchanges in a run, want 1", spent)
	}
	o = w.must(exitDone, "check")
	wantContains(t, "check after a run", o.stdout, "the access token works until", "ok    keystone acme: the token chain is ok; a person has to log in again by ")
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.ExpireAccess, Count: 1})
	w.must(exitDifference, "check") // a refused access token is not renewed either
	if n := w.exchanges() - spent; n != 0 || w.value("select max(generation)::text from ops.credential") != "2" {
		t.Errorf("check exchanged tokens %d times", n)
	}
}

func TestCheckOddSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("state_dir: " + t.TempDir() + "\nalerts: {command: /bin/tell}\n")
	w.replaceConfig("[ivr_minutes,", "[ivr_minute,", "reread: 3d", "reread: 0d")
	o := w.must(exitDone, "check")
	wantContains(t, "check", o.stdout,
		`warn  wolkvox calls: product "ivr_minute" (did you mean "ivr_minutes"?) is not in our catalogue`,
		"warn  keystone acme: history.reread is 0d: ", "      do: take history.reread out")
	if strings.Contains(o.stdout, "console") || strings.Contains(o.stdout, "alerts.webhook") {
		t.Errorf("defaults are warned of:\n%s", o.stdout)
	}
	o = w.run("run", "wolkvox.billing")
	if n := strings.Count(o.stderr, `is not in our catalogue`); n != 1 {
		t.Errorf("run warns %d times of a strange product: %s", n, o.stderr)
	}
}

func TestCheckFormats(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.BadToken})
	var found []struct{ Level, About, Found, Remedy string }
	o := w.must(exitDifference, "check", "--format", "json")
	if err := json.Unmarshal([]byte(o.stdout), &found); err != nil {
		t.Fatalf("%v:\n%s", err, o.stdout)
	}
	last := found[len(found)-1]
	if last.Level != "fail" || last.About != "wolkvox calls" || !strings.Contains(last.Found, "PLEASE VALIDATE TOKEN") ||
		last.Remedy != "correct wolkvox[0].token ("+w.file+":11): it must be the wolkvox-token of this server's operation" {
		t.Errorf("%+v", last)
	}
	wantContains(t, "stderr", o.stderr, "meterhouse: 1 check failed")
	wantContains(t, "csv", w.must(exitDifference, "check", "--format", "csv").stdout, "level,about,found,remedy\nok,config,")
	wantContains(t, "markdown", w.must(exitDifference, "check", "--format", "markdown").stdout, "| fail | wolkvox calls |")
	w.must(exitUsage, "--config", "/nowhere.yaml", "check")
}

// Without a usable database the vendors are looked at all the same.
func TestCheckWithoutDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vendors := []string{
		"warn  keystone acme: ", "answers (status 401 to a call without a token); how the credential stands is in the database\n      do: put the database right",
		"ok    wolkvox calls: the token is accepted",
	}
	good := w.database
	for _, c := range []struct {
		name, url string
		want      []string
	}{
		{"down", "postgres://me@127.0.0.1:1/none", []string{"fail  database: connect to database me@127.0.0.1:1/none", "check database.url and that the server is up"}},
		{"empty", warehousetest.Empty(t), []string{"fail  database: database schema is at version 0, this binary wants ", "      do: run `meterhouse migrate up`\n", "ok    clock: "}},
		{"local without a home", "local", []string{"fail  database: HOME is empty"}},
	} {
		if c.name == "local without a home" && os.Geteuid() == 0 {
			continue // root has a place of its own
		}
		w.env["METERHOUSE_DATABASE_URL"] = c.url
		o := w.must(exitDifference, "check")
		wantContains(t, c.name, o.stdout, append(c.want, vendors...)...)
		if strings.Contains(o.stdout, "ok    database") {
			t.Errorf("%s: the database is good:\n%s", c.name, o.stdout)
		}
	}
	if _, err := migrations.Down(t.Context(), good, migrations.Head()-1); err != nil {
		t.Fatal(err)
	}
	delete(w.env, "METERHOUSE_DATABASE_URL")
	o := w.must(exitDifference, "check")
	at, err := migrations.Version(t.Context(), warehousetest.Connect(t, good)) // numbers may be left out
	if err != nil || at >= migrations.Head() {
		t.Fatalf("version %d after down: %v", at, err)
	}
	wantContains(t, "behind", o.stdout, append(vendors, fmt.Sprintf("fail  database: database schema is at version %d, this binary wants %d\n", at, migrations.Head()))...)
	if w.exchanges() != 0 {
		t.Errorf("check exchanged a token")
	}
}

func TestCheckVendorsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Status, Status: 503, Count: 1})
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Reply, Status: 503, Count: 1})
	o := w.must(exitDifference, "check")
	wantContains(t, "down", o.stdout, "fail  keystone acme: GET /v1/keystone/customers: transient: ", "503", "fail  wolkvox calls: ", "      do: check the host's name, DNS, what filters the network, and http.proxy; or the vendor is down")
	wantContains(t, "stderr", o.stderr, "meterhouse: 2 checks failed")

	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Status, Status: 404, Count: 1})
	w.wolkvox.Spend(24_998)
	o = w.must(exitDifference, "check")
	wantContains(t, "another server", o.stdout, "fail  keystone acme: ", "404", "      do: check base_url and http.proxy",
		"warn  wolkvox calls: the token is accepted; 0 of 25000 calls are left today: a reading takes 2\n      do: read less often")

	w.replaceConfig("base_url: "+w.url, "base_url: https://"+strings.TrimPrefix(w.url, "http://"))
	wantContains(t, "no TLS", w.must(exitDifference, "check").stdout, "fail  keystone acme: ", "do: if a proxy here inspects TLS, name its certificate in http.ca_file")
	w.replaceConfig("https://"+strings.TrimPrefix(w.url, "http://"), "http://127.0.0.1:1")
	wantContains(t, "nobody", w.must(exitDifference, "check").stdout, "connection refused", "do: check the host's name, DNS")
}

func TestCheckTokenChain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.SpendAndDrop, Path: "token", Count: 1})
	w.run("run", "keystone.customers")
	o := w.must(exitDone, "check")
	wantContains(t, "ambiguous", o.stdout, "warn  keystone acme: ", "      do: the first run after ")

	w = newWorld(t)
	w.replaceConfig("    refresh_token: ${KEYSTONE_TOKEN}\n", "")
	wantContains(t, "no token", w.must(exitDifference, "check").stdout, "fail  keystone acme: ", "no credential is stored and no refresh token is configured", "meterhouse token set acme")

	w = newWorld(t)
	w.must(exitDone, "run", "keystone.customers")
	w.replaceConfig("secrets_key: "+testKey, "secrets_key: "+strings.Replace(testKey, "A", "B", 1))
	wantContains(t, "another key", w.must(exitDifference, "check").stdout, "fail  keystone acme: ", "does not open with this secrets_key")
}

func TestCheckClock(t *testing.T) {
	t.Parallel()
	for skew, want := range map[time.Duration]string{
		time.Second:       "ok    clock: the database's clock differs by 1s\n",
		-6 * time.Second:  "warn  clock: the database's clock differs by -6s\n      do: set both clocks",
		-61 * time.Second: "fail  clock: the database's clock differs by -1m1s: no token is exchanged like that\n      do: set both clocks",
	} {
		var out strings.Builder
		c := &check{app: &app{stdout: &out}, format: formatTable}
		c.clock(skew)
		if !strings.HasPrefix(out.String(), want) || (c.failed > 0) != strings.HasPrefix(want, "fail") {
			t.Errorf("%s: %s, want %s", skew, out.String(), want)
		}
	}
}

func TestCheckPoolers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	direct := w.database
	pooled := warehousetest.Pooler(t, direct, 3, false)
	w.env["METERHOUSE_DATABASE_URL"] = pooled
	o := w.must(exitDone, "check")
	wantContains(t, "transaction", o.stdout, "warn  pooler: database.url leads through a pooler that lends sessions for a transaction: loads work, migrations are refused\n",
		"      do: set database.direct_url to the server itself, such as ", "ok    keystone acme: ", "ok    wolkvox calls: ")
	if strings.Contains(o.stdout, "connections:") {
		t.Errorf("the server's connections are counted behind a pooler:\n%s", o.stdout)
	}
	o = w.must(exitUsage, "migrate", "up")
	wantContains(t, "migrate", o.stderr, "set database.direct_url to the server itself")
	// What check says is true: loads work.
	wantContains(t, "run", w.must(exitDone, "run").lastLine(), "quarantined 0")
	wantContains(t, "run again", w.must(exitDone, "run", "keystone.history").stdout, "inserted 0, restated 0, unchanged ")

	for _, c := range []struct {
		name, direct string
		code         int
		want         string
	}{
		{"direct", direct, exitDone, "ok    database.direct_url: the same database, as role "},
		{"another", warehousetest.New(t), exitDifference, "fail  database.direct_url: leads to another database than database.url\n"},
		{"pooled too", warehousetest.Pooler(t, direct, 3, false), exitDifference, "fail  database.direct_url: leads through a pooler that lends sessions for a transaction: migrations are refused\n"},
		{"down", "postgres://me@127.0.0.1:1/none", exitDifference, "fail  database.direct_url: connect to database"},
	} {
		w.env["METERHOUSE_DATABASE_DIRECT_URL"] = c.direct
		o := w.must(c.code, "check")
		wantContains(t, c.name, o.stdout, c.want)
	}
	w.env["METERHOUSE_DATABASE_DIRECT_URL"] = direct
	wantContains(t, "migrate", w.must(exitDone, "migrate", "up").stdout, "nothing to do")

	delete(w.env, "METERHOUSE_DATABASE_DIRECT_URL")
	w.env["METERHOUSE_DATABASE_URL"] = warehousetest.Pooler(t, direct, 20, true)
	wantContains(t, "session", w.must(exitDone, "check").stdout, "ok    pooler: database.url leads through a pooler that lends sessions: all works")
	wantContains(t, "migrate", w.must(exitDone, "migrate", "up").stdout, "nothing to do")
}

// What init writes is accepted as it stands by a world in which only variables are set: the vendors
// have their own names there, behind a proxy that inspects TLS.
func TestInitIsAcceptedByCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proxy, caFile := interceptingProxy(t, w.url)
	file := filepath.Join(t.TempDir(), "meterhouse.yaml")
	if o := invoke(t, nil, "", "--now", testNow, "init", file); o.code != exitDone {
		t.Fatalf("init: %s", o.stderr)
	}
	env := map[string]string{
		"DATABASE_URL": warehousetest.Empty(t), "METERHOUSE_SECRETS_KEY": testKey, "KEYSTONE_REFRESH_TOKEN": w.keystone.RefreshToken(),
		"WOLKVOX_SERVER": "0039", "WOLKVOX_TOKEN": w.wolkvox.Token(),
		"METERHOUSE_HTTP_PROXY": proxy, "METERHOUSE_HTTP_CA_FILE": caFile,
	}
	in := func(args ...string) outcome {
		return invoke(t, env, "", append([]string{"--config", file, "--now", testNow}, args...)...)
	}
	if o := in("check"); o.code != exitDifference || strings.Count(o.stdout, "fail") != 1 {
		t.Errorf("before the migration: exit code %d, %s\n%s", o.code, o.stderr, o.stdout)
	}
	if o := in("migrate", "up"); o.code != exitDone {
		t.Fatalf("migrate up: %s", o.stderr)
	}
	o := in("check")
	if o.code != exitDone {
		t.Errorf("exit code %d: %s\n%s", o.code, o.stderr, o.stdout)
	}
	wantContains(t, "check", o.stdout, "ok    keystone acme: api.activeiq.netapp.com answers (status 401 ", "ok    wolkvox callcenter: the token is accepted")
	if o := in("run", "keystone.customers", "wolkvox.billing"); o.code != exitDone {
		t.Errorf("run: exit code %d: %s\n%s", o.code, o.stderr, o.stdout)
	}
	delete(env, "METERHOUSE_HTTP_CA_FILE")
	wantContains(t, "unknown authority", in("check").stdout, "certificate", "      do: if a proxy here inspects TLS, name its certificate in http.ca_file")
}

// interceptingProxy takes CONNECT for any host and answers as that host, with a certificate of its
// own authority, from what is at target.
func interceptingProxy(t *testing.T, target string) (url, caFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"api.activeiq.netapp.com", "wv0039.wolkvox.com"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = writeFile(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))

	inside := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := r.Clone(r.Context())
		out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", strings.TrimPrefix(target, "http://")
		res, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer res.Body.Close()
		for name, values := range res.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(res.StatusCode)
		_, _ = io.Copy(w, res.Body)
	}))
	inside.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	inside.StartTLS()
	t.Cleanup(inside.Close)

	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		there, err := net.Dial("tcp", inside.Listener.Addr().String())
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			there.Close()
			return
		}
		_, _ = io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(there, here); there.Close() }()
		go func() { _, _ = io.Copy(here, there); here.Close() }()
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL, caFile
}
