package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// good is a configuration without a flaw; the tests replace lines of it.
const good = `database:
  url: postgres://me:s3cret@db.example/meterhouse
secrets_key: ${KEY}
keystone:
  - account: acme
    refresh_token: ${TOKEN}
    customers: [0042117, "C-1001"]
    history: {start: 2026-01-01}
wolkvox:
  - account: calls
    server: "0039"
    token: wv-0123456789
    timezone: America/Bogota
`

var goodEnv = map[string]string{"KEY": testKey, "TOKEN": "refresh-token-0123456789"}

// configShow loads a configuration text.
func configShow(t *testing.T, text string, env map[string]string) outcome {
	t.Helper()
	path := writeFile(t, "m.yaml", text)
	o := invoke(t, env, "", "--config", path, "config", "show")
	o.stdout = strings.ReplaceAll(o.stdout, path, "m.yaml")
	o.stderr = strings.ReplaceAll(o.stderr, path, "m.yaml")
	return o
}

func TestConfigProblems(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, old, new string
		want           string
	}{
		{"unknown key", "secrets_key:", "secret_key:", `m.yaml:3:1: unknown key "secret_key" (did you mean "secrets_key"?): want database, state_dir`},
		{"unknown key inside", "    server:", "    severs:", `m.yaml:11:5: unknown key "severs" (did you mean "server"?)`},
		{"unknown key, far from any", "    server:", "    zzz:", `m.yaml:11:5: unknown key "zzz": want account, server`},
		{"key twice", "secrets_key: ${KEY}", "secrets_key: ${KEY}\nsecrets_key: x", `mapping key "secrets_key" already defined`},
		{"not YAML", "database:", "database: [", "m.yaml:"},
		{"list instead of keys", "database:\n  url: postgres://me:s3cret@db.example/meterhouse", "database: [a]", "m.yaml:1:11: database: want keys and values"},
		{"value instead of a list", `[0042117, "C-1001"]`, "C-1001", "keystone[0].customers: want a list"},
		{"keys instead of a value", "account: acme", "account: {a: b}", "keystone[0].account: want a single value"},
		{"second document", "    timezone: America/Bogota", "    timezone: America/Bogota\n---\nparallel: 1", "a second document"},
		{"other database", "postgres://me:s3cret@db.example", "mysql://me:s3cret@db.example", "m.yaml:2:8: database.url: want postgres://"},
		{"database that ends with a line break", "url: postgres://me:s3cret@db.example/meterhouse", `url: "postgres://me:s3cret@db.example/meterhouse\n"`, "m.yaml:2:8: database.url: begins or ends with a blank or line break"},
		{"@ in a password", "me:s3cret@", "me:p@s3cret@", "m.yaml:2:8: database.url: more than one @, or a / before it: want postgres://user:password@host/database, and in user and password @ as %40"},
		{"/ in a password", "me:s3cret@", "me:12/s3cret@", "m.yaml:2:8: database.url: more than one @, or a / before it"},
		{"database as keys and values", "postgres://me:s3cret@db.example/meterhouse", "host=db.example password=s3cret", "m.yaml:2:8: database.url: want postgres://user:password@host/database"},
		{"bad port", "db.example/", "db.example:port/", "m.yaml:2:8: database.url: "},
		{"no database", "url: postgres://me:s3cret@db.example/meterhouse", "url: ''", "m.yaml:2:8: database.url is empty: want postgres://"},
		{"unset variable", "${KEY}", "${NO_KEY}", "m.yaml:3:14: secrets_key is empty because NO_KEY is not set: want 32 bytes in base64, made once with `openssl rand -base64 32`"},
		{"bad variable", "${KEY}", "${NO KEY}", "secrets_key: ${ without a variable's name and }"},
		{"open variable", "${KEY}", "'${KEY'", "secrets_key: ${ without a variable's name and }"},
		{"short key", "${KEY}", "c2hvcnQ=", "m.yaml:3:14: secrets_key: holds 5 bytes in base64: want 32 bytes"},
		{"short token", "${TOKEN}", "short", "m.yaml:6:20: keystone[0].refresh_token: token of 5 characters: want 16"},
		{"token of two accounts", "    customers:", "  - {account: other, refresh_token: '${TOKEN}', history: {start: 2026-01-01}}\n  - account: third\n    customers:", "keystone[1].refresh_token: is the token of keystone[0] too and works only once"},
		{"no account name", "account: acme", "account: ''", "m.yaml:5:14: keystone[0].account is empty"},
		{"odd account name", "account: acme", "account: 'a b'", `m.yaml:5:14: keystone[0].account: "a b": want letters`},
		{"customer twice", `"C-1001"`, `"0042117"`, `customer "0042117" is listed by keystone[0].customers[0] too`},
		{"no start", "{start: 2026-01-01}", "{reread: 125d}", "keystone[0].history.start is empty: want the first day to load"},
		{"bad start", "2026-01-01", "2026-02-30", `keystone[0].history.start: day "2026-02-30": want YYYY-MM-DD`},
		{"start in the future", "2026-01-01", "2999-01-01", "m.yaml:8:22: keystone[0].history.start: 2999-01-01 is in the future: want today ("},
		{"former key that is not base64", "secrets_key: ${KEY}", "secrets_key: ${KEY}\nformer_secrets_key: 'not:base64'", "m.yaml:4:21: former_secrets_key: is not base64: want 32 bytes in base64"},
		{"short former key", "secrets_key: ${KEY}", "secrets_key: ${KEY}\nformer_secrets_key: c2hvcnQ=", "m.yaml:4:21: former_secrets_key: holds 5 bytes in base64: want 32 bytes"},
		{"the same key twice", "secrets_key: ${KEY}", "secrets_key: ${KEY}\nformer_secrets_key: ${KEY}", "m.yaml:4:21: former_secrets_key: is the same as secrets_key"},
		{"key that is not base64", "${KEY}", "not:base64", "m.yaml:3:14: secrets_key: is not base64: want 32 bytes in base64"},
		{"token of another account", "    timezone:", "    timezone: UTC\n  - account: other\n    server: \"0040\"\n    token: wv-0123456789\n    timezone:",
			"m.yaml:16:12: wolkvox[1].token: is that of wolkvox[0]: one token must not be used by two accounts at once"},
		{"product twice", "    timezone:", "    products: [ivr_minutes, vision, ivr_minutes]\n    timezone:",
			`m.yaml:13:37: wolkvox[0].products[2]: "ivr_minutes" is listed by wolkvox[0].products[0] too: want it once`},
		{"plain text", good, "hello", "m.yaml:1:1: no keys and values: want a YAML file, such as `meterhouse init` writes"},
		{"ancient start", "2026-01-01", "0001-01-01", "0001-01-01: want 2010-01-01 or later"},
		{"broken days", "{start: 2026-01-01}", "{start: 2026-01-01, reread: 36h}", "m.yaml:8:42: keystone[0].history.reread: 1d12h: want whole days"},
		{"bad duration", "{start: 2026-01-01}", "{start: 2026-01-01, settle: soon}", `history.settle: "soon": want a duration such as`},
		{"negative duration", "{start: 2026-01-01}", "{start: 2026-01-01, settle: -2h}", `history.settle: "-2h": want a duration such as`},
		{"bad cron", "    customers:", "    schedules: {history: 61 * * * *}\n    customers:", `m.yaml:7:26: keystone[0].schedules.history: schedule "61 * * * *"`},
		{"cron without fields", "    customers:", "    schedules: {history: CRON_TZ=UTC}\n    customers:", `schedule "CRON_TZ=UTC"`},
		{"cron in no zone", "    customers:", "    schedules: {history: CRON_TZ=Local 1 1 * * *}\n    customers:", "no zone named"},
		{"cron in a wrong zone", "    customers:", "    schedules: {history: CRON_TZ=Mars/Base 1 1 * * *}\n    customers:", "Mars/Base"},
		{"cron that never fires", "    timezone:", "    schedule: 0 0 31 2 *\n    timezone:", `schedule "0 0 31 2 *" never fires`},
		{"no zone", "America/Bogota", "''", "m.yaml:13:15: wolkvox[0].timezone is empty: want the zone of the operation by name"},
		{"local zone", "America/Bogota", "Local", `m.yaml:13:15: wolkvox[0].timezone: "Local": want the zone`},
		{"bad zone", "America/Bogota", "Bogota", `"Bogota": want the zone of the operation by name, such as America/Bogota`},
		{"no server", "    server: \"0039\"\n", "", "wolkvox[0].server is empty"},
		{"no token", "wv-0123456789", "${WOLKVOX_TOKEN}", "m.yaml:12:12: wolkvox[0].token is empty because WOLKVOX_TOKEN is not set"},
		{"token with a line", "wv-0123456789", `"wv\n01"`, "m.yaml:12:12: wolkvox[0].token: wolkvox account calls: token holds blanks"},
		{"no product", "    timezone:", "    products: [ivr_minutes, 'a b']\n    timezone:", `m.yaml:13:29: wolkvox[0].products[1]: "a b": want the vendor's name of a report`},
		{"http vendor", "    refresh_token:", "    base_url: http://api.example\n    refresh_token:", "m.yaml:6:15: keystone[0].base_url: http://api.example: want https"},
		{"vendor URL with a password", "    refresh_token:", "    base_url: https://a:b@api.example\n    refresh_token:", "want scheme, host and path only"},
		{"vendor URL with a query", "    refresh_token:", "    base_url: https://api.example?x=1\n    refresh_token:", "want scheme, host and path only"},
		{"no URL", "    refresh_token:", "    base_url: '::'\n    refresh_token:", "not a URL"},
		{"bad proxy", "secrets_key:", "http: {proxy: nowhere}\nsecrets_key:", "m.yaml:3:15: http.proxy: want http://host:port"},
		{"no CA file", "secrets_key:", "http: {ca_file: /nowhere/ca.pem}\nsecrets_key:", "m.yaml:3:17: http.ca_file: open /nowhere/ca.pem"},
		{"short time-out", "secrets_key:", "http: {timeout: 1ms}\nsecrets_key:", "m.yaml:3:17: http.timeout: 1ms: want 1s to 1h"},
		{"bad size", "secrets_key:", "http: {max_body: 5MB}\nsecrets_key:", `http.max_body: "5MB": want a size such as 256MiB`},
		{"bad number", "secrets_key:", "parallel: two\nsecrets_key:", `parallel: "two": want a whole number`},
		{"negative number", "secrets_key:", "parallel: -1\nsecrets_key:", "m.yaml:3:11: parallel: -1: want 0"},
		{"open console", "secrets_key:", "console: {listen: 0.0.0.0:80}\nsecrets_key:", "m.yaml:3:19: console.listen: \"0.0.0.0:80\" is open to other machines"},
		{"user without password", "secrets_key:", "console: {users: {ann: ''}}\nsecrets_key:", "m.yaml:3:24: console.users.ann.password is empty: want the line that `meterhouse config password` prints"},
		{"user with a role only", "secrets_key:", "console: {users: {ann: {role: closer}}}\nsecrets_key:", "m.yaml:3:24: console.users.ann.password is empty"},
		{"plain password", "secrets_key:", "console: {users: {ann: l0ok}}\nsecrets_key:", "m.yaml:3:24: console.users.ann.password is not a bcrypt hash: want the line that `meterhouse config password` prints"},
		{"unknown role", "secrets_key:", "console: {users: {ann: {password: '" + testHash + "', role: king}}}\nsecrets_key:", `m.yaml:3:105: console.users.ann.role: "king": want viewer, operator or closer`},
		{"unknown key of a user", "secrets_key:", "console: {users: {ann: {pasword: x}}}\nsecrets_key:", `m.yaml:3:25: unknown key "pasword" (did you mean "password"?)`},
		{"console for others without users", "secrets_key:", "console: {url: 'https://meters.example'}\nsecrets_key:", "m.yaml:3:16: console.url: opens the console to other machines: want users set, or no url"},
		{"console without TLS", "secrets_key:", "console: {url: http://meters.example}\nsecrets_key:", "m.yaml:3:16: console.url: want https://host"},
		{"plain webhook", "secrets_key:", "alerts: {webhook: http://hooks.example}\nsecrets_key:", "m.yaml:3:19: alerts.webhook: want https"},
		{"short retention", "secrets_key:", "retention: {samples: 90d}\nsecrets_key:", "m.yaml:3:22: retention.samples: 90d: want 0d (keep), or at least 187d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(good, c.old) {
				t.Fatalf("the good configuration has no %q", c.old)
			}
			o := configShow(t, strings.Replace(good, c.old, c.new, 1), goodEnv)
			if o.code != exitUsage {
				t.Errorf("exit code %d, want %d", o.code, exitUsage)
			}
			wantContains(t, "stderr", o.stderr, c.want)
			for _, secret := range []string{"s3cret", testKey, goodEnv["TOKEN"], "wv-0123456789"} {
				if strings.Contains(o.stdout+o.stderr, secret) {
					t.Errorf("a secret is shown: %s", o.stdout+o.stderr)
				}
			}
		})
	}
}

// What an operator writes as server becomes part of a host that is sent the token.
func TestConfigHostileServers(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"x.evil.com/#", "x@evil.com/", "x.evil.com", "0039/", "0039?", "0039#", "0039:80", "0039\\", "../", "%2e", "00 39",
		"0039.", "-1", "-", "[::1]", "169.254.169.254", "wv", "ｗ", "0039\u200b", "A", "a_b", strings.Repeat("1", 33), "'", "\"", "$(x)", "\t1", "1\n",
	} {
		t.Run(fmt.Sprintf("%q", name), func(t *testing.T) {
			t.Parallel()
			o := configShow(t, strings.Replace(good, `server: "0039"`, fmt.Sprintf("server: %q", name), 1), goodEnv)
			hostile := name != "wv"
			if refused := o.code == exitUsage && strings.Contains(o.stderr, "wolkvox[0].server"); refused != hostile {
				t.Errorf("refused %v, want %v: %s", refused, hostile, o.stderr)
			}
		})
	}
}

func TestConfigReportsEverythingAtOnce(t *testing.T) {
	t.Parallel()
	text := strings.NewReplacer("secrets_key", "secret_key", "2026-01-01", "never", "America/Bogota", "Bogota", "0039", "x.y").Replace(good)
	o := configShow(t, text, goodEnv)
	wantContains(t, "stderr", o.stderr, "meterhouse: config: 5 problems\n",
		"secret_key", "secrets_key", "history.start", "wolkvox[0].server", "wolkvox[0].timezone")
	// In the order of the file, and what is in no place of it last.
	places := regexp.MustCompile(`(?m)^  (m\.yaml:\d+:\d+: )?\S+`).FindAllString(o.stderr, -1)
	want := []string{"  m.yaml:3:1: unknown", "  m.yaml:8:22: keystone[0].history.start:", "  m.yaml:11:13: wolkvox[0].server:", "  m.yaml:13:15: wolkvox[0].timezone:", "  secrets_key"}
	if diff := cmp.Diff(want, places); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

// testHash stands for a password.
const testHash = "$2a$10$X1d8q1m8vTn0sPzA7oF7lOuNQmKj1bV7c5r9y3w2e4t6u8i0o2p4q"

func TestConfigShow(t *testing.T) {
	t.Parallel()
	password := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(password, []byte("postgres://me:fr0mfile@db.example/other?password=hush\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		"KEY": testKey, "TOKEN": goodEnv["TOKEN"],
		"METERHOUSE_DATABASE_DIRECT_URL_FILE": password, "METERHOUSE_HTTP_TIMEOUT": "90s", "METERHOUSE_PARALLEL": "3",
	}
	more := `http: {timeout: 10s, proxy: "http://p:w0rd@proxy.example:3128"}
console:
  url: https://meters.example
  users: {ann: "` + testHash + `", bob: {password: "` + testHash + `", role: closer}}
alerts: {webhook: https://hooks.example/T0K}
`
	o := configShow(t, good+more, env)
	if o.code != exitDone || o.stderr != "" {
		t.Errorf("exit code %d, stderr %s", o.code, o.stderr)
	}
	golden(t, "config_show.yaml", strings.ReplaceAll(o.stdout, password, "FILE"))
	for _, secret := range []string{"s3cret", "fr0mfile", "hush", "w0rd", testHash, "T0K", testKey, goodEnv["TOKEN"], "wv-0123456789"} {
		if strings.Contains(o.stdout, secret) {
			t.Errorf("%s is shown", secret)
		}
	}
	// What is shown is a configuration again, but for the masks.
	again := strings.NewReplacer(`secrets_key: "********"`, "secrets_key: "+testKey).Replace(o.stdout)
	again = strings.ReplaceAll(again, "refresh_token: \"********\"", "refresh_token: ''")
	again = strings.ReplaceAll(again, `webhook: "********"`, "webhook: ''")
	again = strings.ReplaceAll(again, `password: "********"`, "password: "+testHash)
	if o := configShow(t, again, nil); o.code != exitDone {
		t.Errorf("shown configuration is refused: %s", o.stderr)
	}
}

func TestConfigEnvironment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
		return path
	}
	sealed := file("key", testKey+"\r\n", 0o600)
	open := file("open", testKey, 0o644)
	for _, c := range []struct {
		name string
		env  map[string]string
		want string // of stderr; empty: good
	}{
		{"key from a file", map[string]string{"METERHOUSE_SECRETS_KEY_FILE": sealed}, ""},
		{"variable from a file", map[string]string{"KEY_FILE": sealed}, ""},
		{"file that others may read", map[string]string{"METERHOUSE_SECRETS_KEY_FILE": open}, "METERHOUSE_SECRETS_KEY_FILE: " + open + " has mode 0644"},
		{"variable's file that others may read", map[string]string{"KEY_FILE": open}, "KEY_FILE: " + open + " has mode 0644"},
		{"no file", map[string]string{"METERHOUSE_SECRETS_KEY_FILE": dir + "/none"}, "METERHOUSE_SECRETS_KEY_FILE: stat "},
		{"a folder", map[string]string{"METERHOUSE_SECRETS_KEY_FILE": dir}, "is not a plain file"},
		{"both", map[string]string{"METERHOUSE_SECRETS_KEY_FILE": sealed, "METERHOUSE_SECRETS_KEY": testKey}, "are both set: want one"},
		{"bad value", map[string]string{"KEY": testKey, "METERHOUSE_HTTP_MAX_BODY": "much"}, `METERHOUSE_HTTP_MAX_BODY: "much": want a size`},
		{"bad database", map[string]string{"KEY": testKey, "METERHOUSE_DATABASE_URL": "x"}, "METERHOUSE_DATABASE_URL: database.url: want postgres://"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{"TOKEN": goodEnv["TOKEN"]}
			for name, value := range c.env {
				env[name] = value
			}
			o := configShow(t, good, env)
			if (c.want == "") != (o.code == exitDone) {
				t.Errorf("exit code %d, stderr %s", o.code, o.stderr)
			}
			wantContains(t, "stderr", o.stderr, c.want)
		})
	}
	// What the file names and a variable of ours sets is told once, and nothing that follows from it.
	env := map[string]string{"TOKEN": goodEnv["TOKEN"], "METERHOUSE_SECRETS_KEY_FILE": open, "METERHOUSE_DATABASE_URL_FILE": open}
	o := configShow(t, strings.NewReplacer("${KEY}", "${METERHOUSE_SECRETS_KEY}", "postgres://me:s3cret@db.example/meterhouse", "''").Replace(good), env)
	wantContains(t, "stderr", o.stderr, "meterhouse: config: 2 problems\n", "secrets_key: METERHOUSE_SECRETS_KEY_FILE: "+open+" has mode", "  METERHOUSE_DATABASE_URL_FILE: "+open+" has mode")
}

// Every secret of the configuration can come from a file: through ${NAME} in the text and, where
// there is a METERHOUSE_… variable, through that one with _FILE.
func TestSecretsFromFiles(t *testing.T) {
	t.Parallel()
	text := `database: {url: "${A}", direct_url: "${B}"}
secrets_key: ${C}
http: {proxy: "${D}"}
keystone:
  - {account: acme, refresh_token: "${E}", history: {start: 2026-01-01}}
wolkvox:
  - {account: calls, server: "0039", token: "${F}"}
console: {users: {ann: "${G}"}}
alerts: {webhook: "${H}"}
former_secrets_key: ${I}
`
	secrets := []struct{ name, path, value, shown string }{
		{"A", "database.url", "postgres://me:hush@db.example/m", "postgres://me:xxxxx@db.example/m"},
		{"B", "database.direct_url", "postgres://me:hush@db.example:5433/m", "postgres://me:xxxxx@db.example:5433/m"},
		{"C", "secrets_key", testKey, mask},
		{"D", "http.proxy", "http://me:hush@proxy.example:3128", "http://me:xxxxx@proxy.example:3128"},
		{"E", "keystone[0].refresh_token", "hush-0123456789abcdef", mask},
		{"F", "wolkvox[0].token", "hush-0123456789", mask},
		{"G", "console.users.ann.password", testHash, mask},
		{"H", "alerts.webhook", "https://hooks.example/hush", mask},
		{"I", "former_secrets_key", strings.Replace(testKey, "A", "B", 1), mask},
	}
	plain, sealed, direct := map[string]string{}, map[string]string{}, map[string]string{}
	for _, s := range secrets {
		file := writeFile(t, s.name, s.value+"\n")
		plain[s.name], sealed[s.name+"_FILE"] = s.value, file
		for _, name := range variablesOf(s.path) {
			if strings.HasSuffix(name, "_FILE") {
				direct[name] = file
			}
		}
	}
	if len(direct) != len(secrets)-3 { // the others are entries of lists and maps
		t.Errorf("%d variables name a file: %v", len(direct), direct)
	}
	for how, env := range map[string]map[string]string{"": plain, "_FILE": sealed} {
		o := configShow(t, text, env)
		if o.code != exitDone || strings.Contains(o.stdout, "hush") || strings.Contains(o.stdout, testHash) || strings.Contains(o.stdout, testKey) {
			t.Fatalf("exit code %d: %s\n%s", o.code, o.stderr, o.stdout)
		}
		for _, s := range secrets {
			if want := regexp.MustCompile(regexp.QuoteMeta(s.shown) + `"?  # m.yaml:\d+, env ` + s.name + how + "\n"); !want.MatchString(o.stdout) {
				t.Errorf("%s is not shown as %s:\n%s", s.path, want, o.stdout)
			}
		}
	}
	direct["E"], direct["F"], direct["G"] = plain["E"], plain["F"], plain["G"]
	if o := configShow(t, text, direct); o.code != exitDone || strings.Count(o.stdout, "# env METERHOUSE_") != len(secrets)-3 {
		t.Errorf("exit code %d: %s\n%s", o.code, o.stderr, o.stdout)
	}

	sealed["C"] = testKey
	empty := writeFile(t, "empty", "\n")
	sealed["F_FILE"] = empty
	wantContains(t, "stderr", configShow(t, text, sealed).stderr, "m.yaml:2:14: secrets_key: C and C_FILE are both set: want one\n",
		"m.yaml:7:45: wolkvox[0].token: F_FILE: "+empty+" is empty\n")
	// A value that is no secret is not looked for in files.
	o := configShow(t, strings.Replace(text, `server: "0039"`, `server: "${F}"`, 1), map[string]string{"F_FILE": empty})
	wantContains(t, "stderr", o.stderr, "wolkvox[0].server is empty because F is not set")
}

// A file that cannot be read is the only news; what it does not say does not follow.
func TestConfigFileBroken(t *testing.T) {
	t.Parallel()
	o := configShow(t, "database: [", nil)
	if o.code != exitUsage || strings.Count(o.stderr, "\n") != 1 {
		t.Errorf("exit code %d, want one line: %s", o.code, o.stderr)
	}
	wantContains(t, "stderr", o.stderr, "meterhouse: config: m.yaml:1:", "want a YAML file, such as `meterhouse init` writes\n")
	o = invoke(t, nil, "", "--config", "/nowhere.yaml", "run")
	if want := "meterhouse: config: open /nowhere.yaml: no such file or directory: want a YAML file, such as `meterhouse init` writes\n"; o.stderr != want {
		t.Errorf("got %s, want %s", o.stderr, want)
	}
}

func TestConfigDefaultsAndMark(t *testing.T) {
	t.Parallel()
	o := configShow(t, "\ufeff"+strings.Replace(good, "    timezone: America/Bogota\n", "", 1), goodEnv)
	if o.code != exitDone {
		t.Errorf("exit code %d: %s", o.code, o.stderr)
	}
	wantContains(t, "stdout", o.stdout, "timezone: America/Bogota  # default", "m.yaml:2\n")
}

// A variable of ours that nobody reads is named; one that the file expands is read.
func TestUnknownVariables(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"METERHOUSE_KEY": testKey, "TOKEN": goodEnv["TOKEN"], "METERHOUSE_DATABSE_URL": "hush", "METERHOUSE_XYZZY": "hush", "METERHOUSE_PARALLEL": "2",
		"METERHOUSE_POSTGRES_REPOSITORY": "off",
	}
	o := configShow(t, strings.Replace(good, "${KEY}", "${METERHOUSE_KEY}", 1), env)
	if o.code != exitDone || strings.Count(o.stderr, "level=WARN") != 2 || strings.Contains(o.stderr, "hush") {
		t.Errorf("exit code %d: %s", o.code, o.stderr)
	}
	wantContains(t, "stderr", o.stderr, `unknown variable METERHOUSE_DATABSE_URL (did you mean \"METERHOUSE_DATABASE_URL\"?) is not used`, "METERHOUSE_XYZZY")
}

// Without a file the environment is enough for what needs no vendor.
func TestConfigLookup(t *testing.T) {
	t.Parallel()
	named := writeFile(t, "named.yaml", "parallel: 5\n")
	env := map[string]string{"METERHOUSE_CONFIG": named}
	o := invoke(t, env, "", "config", "show")
	wantContains(t, "stdout", o.stdout, "parallel: 5  # "+named+":1")
	flagged := writeFile(t, "flagged.yaml", "parallel: 6\n")
	o = invoke(t, env, "", "--config", flagged, "config", "show")
	wantContains(t, "stdout", o.stdout, "parallel: 6  # "+flagged+":1")
	env["METERHOUSE_CONFIG"] = "/nowhere.yaml"
	if o := invoke(t, env, "", "status"); o.code != exitUsage || !strings.Contains(o.stderr, "/nowhere.yaml") {
		t.Errorf("exit code %d: %s", o.code, o.stderr)
	}
}

func TestStateHome(t *testing.T) {
	t.Parallel()
	root := os.Geteuid() == 0
	for _, c := range []struct{ xdg, home, want, asRoot string }{
		{"/var/state", "/home/me", "/var/state/meterhouse", "/var/state/meterhouse"},
		{"", "/home/me", "/home/me/.local/state/meterhouse", "/var/lib/meterhouse"},
		{"not/absolute", "/home/me", "/home/me/.local/state/meterhouse", "/var/lib/meterhouse"},
		{"not/absolute", "", "", "/var/lib/meterhouse"},
	} {
		got, err := stateHome(func(name string) string { return map[string]string{"XDG_STATE_HOME": c.xdg, "HOME": c.home}[name] })
		want := c.want
		if root {
			want = c.asRoot
		}
		if got != want || (err == nil) != (want != "") {
			t.Errorf("XDG_STATE_HOME=%q HOME=%q: %q, %v, want %q", c.xdg, c.home, got, err, want)
		}
	}
}

func TestValueTexts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"0d": 0, "0": -1, "125d": 125 * day, "2h": 2 * time.Hour, "60s": time.Minute, "1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute,
		"1.5h": 90 * time.Minute, "": -1, "d": -1, "1w": -1, "-1d": -1, "1d-1h": -1, "999999d": -1, "1d ": -1, "1e3s": -1,
	} {
		var s span
		err := s.UnmarshalText([]byte(text))
		if text == "0" {
			want = 0 // Go's own zero
		}
		if (err != nil) != (want < 0) || err == nil && time.Duration(s) != want {
			t.Errorf("span %q: got %v, %v", text, time.Duration(s), err)
		}
	}
	for text, want := range map[string]int64{
		"256MiB": 256 << 20, "1GiB": 1 << 30, "64 KiB": 64 << 10, "17": 17, "5B": 5, "": -1, "5MB": -1, "-1": -1, "1.5GiB": -1,
		"999999999999GiB": -1,
	} {
		var s size
		err := s.UnmarshalText([]byte(text))
		if (err != nil) != (want < 0) || err == nil && int64(s) != want {
			t.Errorf("size %q: got %d, %v", text, s, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := span(time.Duration(rapid.Int64Range(0, 400*24*3600).Draw(t, "seconds")) * time.Second)
		var back span
		if err := back.UnmarshalText([]byte(s.String())); err != nil || back != s {
			t.Fatalf("span %s came back as %s: %v", s, back, err)
		}
		b := size(rapid.Int64Range(0, 1<<40).Draw(t, "bytes"))
		var bytes size
		if err := bytes.UnmarshalText([]byte(b.String())); err != nil || bytes != b {
			t.Fatalf("size %s came back as %s: %v", b, bytes, err)
		}
	})
}

// Whatever is written as a configuration, we answer with an error and not a panic.
func FuzzReadYAML(f *testing.F) {
	f.Add(good)
	f.Add("a: &x [*x]")
	f.Add("keystone: [{customers: {}}]")
	f.Add("? {a: b}\n: c")
	f.Add("<<: {database: {url: x}}")
	f.Fuzz(func(t *testing.T, text string) {
		c := newConfig()
		c.readYAML("m.yaml", []byte(text), func(string) string { return "" })
		c.validate(need{database: true, vendors: true}, time.Unix(0, 0))
	})
}
