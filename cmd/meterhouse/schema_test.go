package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// shippedSchema is where people without the binary find it.
var shippedSchema = filepath.Join("..", "..", "docs", "meterhouse.schema.json")

// compiledSchema is what `config schema` prints, accepted as draft 2020-12.
func compiledSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	o := invoke(t, nil, "", "config", "schema")
	if o.code != exitDone || o.stderr != "" {
		t.Fatalf("exit code %d, stderr %s", o.code, o.stderr)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(o.stdout))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft4) // $schema has to win
	if err := c.AddResource("meterhouse.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("meterhouse.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if s.DraftVersion != 2020 {
		t.Fatalf("draft %d, want 2020", s.DraftVersion)
	}
	return s
}

// asJSON is a YAML text as an editor sees it.
func asJSON(t *testing.T, text string) any {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSchemaIsShipped(t *testing.T) {
	t.Parallel()
	got := invoke(t, nil, "", "config", "schema").stdout
	if *update {
		if err := os.WriteFile(shippedSchema, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(shippedSchema)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is not what `config schema` prints; go test -update writes it (-want +got):\n%s", shippedSchema, diff)
	}
}

// contract is the configuration of the public contract, word for word.
const contract = `
database:
  url: local                 # or postgres://…   (METERHOUSE_DATABASE_URL)
  direct_url: ""             # when url is a transaction pooler: migrations, LISTEN
state_dir: ""                # optional: token spool, bodies in flight
secrets_key: ${METERHOUSE_SECRETS_KEY}      # encrypts credentials at rest (32 bytes, base64)
parallel: 0                  # 0 = cores
http: {proxy: "", ca_file: "", timeout: 60s, max_body: 256MiB}
keystone:
  - account: acme
    base_url: https://api.activeiq.netapp.com
    refresh_token: ${KEYSTONE_REFRESH_TOKEN} # starts the chain; afterwards the chain lives in the database
    customers: []            # empty: all the credential sees
    schedules: {customers: "37 2 * * *", history: "37 2 * * *", subscriptions: "37 2,8,14,20 * * *", current: "37 2,8,14,20 * * *"}  # together: one access token serves all
    history: {start: 2026-01-01, reread: 125d, settle: 2h}
wolkvox:
  - account: callcenter
    server: "0039"           # base_url: overrides https://wv<server>.wolkvox.com
    token: ${WOLKVOX_TOKEN}
    operation: ""            # empty: the first good reading pins it; other operations are refused later
    timezone: America/Bogota
    products: []             # empty: all 27
    schedule: "*/30 * * * *"
console: {listen: 127.0.0.1:8080, users: {}}   # off loopback only with users set
alerts: {webhook: "", command: ""}
retention: {payload: 0d, samples: 0d}          # 0 = keep; samples at least reread + 62d
`

// What the reader accepts, the schema accepts.
func TestSchemaAccepts(t *testing.T) {
	t.Parallel()
	s := compiledSchema(t)
	env := map[string]string{
		"KEY": testKey, "TOKEN": goodEnv["TOKEN"], "METERHOUSE_SECRETS_KEY": testKey, "KEYSTONE_REFRESH_TOKEN": goodEnv["TOKEN"],
		"WOLKVOX_TOKEN": "wv-0123456789", "WOLKVOX_SERVER": "0039", "DATABASE_URL": "postgres://me@db.example/meterhouse", "TWO": "2",
	}
	for name, text := range map[string]string{
		"good":            good,
		"the contract's":  contract,
		"init":            invoke(t, nil, "", "init", "-").stdout,
		"init, uncovered": uncommented.ReplaceAllString(invoke(t, nil, "", "init", "-").stdout, "$1$2"),
		"init, keystone":  invoke(t, nil, "", "init", "--only", "keystone", "-").stdout,
		"init, wolkvox":   invoke(t, nil, "", "init", "--only", "wolkvox", "-").stdout,
		"README":          readmeConfiguration(t),
		"keys without values": strings.Replace(good, "    customers: [0042117, \"C-1001\"]", "    customers:\n    base_url:\n    schedules:\n      history:", 1) +
			"console:\nparallel:\n",
		"numbers and variables": strings.NewReplacer("start: 2026-01-01", "start: 2026-01-01, reread: 0, settle: '0'", `server: "0039"`, "server: 39").Replace(good) +
			"parallel: ${TWO}\nhttp: {max_body: 1048576, timeout: 1m30s}\nretention: {samples: 1d12h, payload: 400d}\n",
		"zones and names": strings.NewReplacer("    timezone:", "    schedule: CRON_TZ=America/Bogota */15 * * * *\n    timezone:").Replace(good) +
			"console: {listen: 0.0.0.0:80, users: {ann: '" + testHash + "', bob: {password: '" + testHash + "', role: operator}}, url: https://meters.example}\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := s.Validate(asJSON(t, text)); err != nil {
				t.Errorf("the schema refuses it: %v\n%s", err, text)
			}
			text = strings.Replace(text, "samples: 1d12h", "samples: 400d", 1) // of good form, and too short
			if o := configShow(t, text, env); o.code != exitDone {
				t.Errorf("the reader refuses it: %s\n%s", o.stderr, text)
			}
		})
	}
}

// What has the wrong form is refused by both.
func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	s := compiledSchema(t)
	for _, c := range []struct{ name, old, new string }{
		{"unknown key", "secrets_key:", "secret_key:"},
		{"unknown key inside", "    server:", "    severs: x\n    server:"},
		{"unknown key in a group", "database:", "database:\n  name: x"},
		{"list instead of keys", "database:\n  url: postgres://me:s3cret@db.example/meterhouse", "database: [a]"},
		{"text instead of keys", "history: {start: 2026-01-01}", "history: 2026-01-01"},
		{"value instead of a list", `[0042117, "C-1001"]`, "C-1001"},
		{"keys instead of a value", "account: acme", "account: {a: b}"},
		{"list instead of a value", "account: acme", "account: [acme]"},
		{"keys instead of accounts", "keystone:\n  - account: acme\n    ", "keystone:\n    account: acme\n    "},
		{"no account", "  - account: acme\n    ", "  - "},
		{"empty account", "account: acme", "account: ''"},
		{"odd account", "account: acme", "account: 'a b'"},
		{"customer twice", `"C-1001"`, `"C-1001", "C-1001"`},
		{"no history", "    history: {start: 2026-01-01}\n", ""},
		{"no start", "{start: 2026-01-01}", "{reread: 125d}"},
		{"bad start", "2026-01-01", "01.02.2026"},
		{"month 13", "2026-01-01", "2026-13-01"},
		{"bad duration", "2026-01-01", "2026-01-01, settle: soon"},
		{"negative duration", "2026-01-01", "2026-01-01, settle: -2h"},
		{"duration without a unit", "2026-01-01", "2026-01-01, reread: 125"},
		{"weeks", "2026-01-01", "2026-01-01, reread: 2w"},
		{"empty duration", "2026-01-01", "2026-01-01, reread: ''"},
		{"bad size", "secrets_key:", "http: {max_body: 5MB}\nsecrets_key:"},
		{"negative size", "secrets_key:", "http: {max_body: -5}\nsecrets_key:"},
		{"bad number", "secrets_key:", "parallel: two\nsecrets_key:"},
		{"negative number", "secrets_key:", "parallel: -1\nsecrets_key:"},
		{"great number", "secrets_key:", "parallel: 257\nsecrets_key:"},
		{"cron of four fields", "    customers:", "    schedules: {history: 1 2 * *}\n    customers:"},
		{"empty cron", "    timezone:", "    schedule: ''\n    timezone:"},
		{"hostile server", `"0039"`, `"0039/x"`},
		{"no product", "    timezone:", "    products: ['a b']\n    timezone:"},
		{"other database", "postgres://me:s3cret@db.example", "mysql://me:s3cret@db.example"},
		{"no URL", "    refresh_token:", "    base_url: api.example\n    refresh_token:"},
		{"bad proxy", "secrets_key:", "http: {proxy: nowhere}\nsecrets_key:"},
		{"no port", "secrets_key:", "console: {listen: localhost}\nsecrets_key:"},
		{"user as a list", "secrets_key:", "console: {users: {ann: [x]}}\nsecrets_key:"},
		{"user without a password", "secrets_key:", "console: {users: {ann: {role: viewer}}}\nsecrets_key:"},
		{"user with a wrong role", "secrets_key:", "console: {users: {ann: {password: '" + testHash + "', role: king}}}\nsecrets_key:"},
		{"user with another key", "secrets_key:", "console: {users: {ann: {password: '" + testHash + "', king: x}}}\nsecrets_key:"},
		{"users as a list", "secrets_key:", "console: {users: [ann]}\nsecrets_key:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(good, c.old) {
				t.Fatalf("the good configuration has no %q", c.old)
			}
			text := strings.Replace(good, c.old, c.new, 1)
			if err := s.Validate(asJSON(t, text)); err == nil {
				t.Errorf("the schema accepts it:\n%s", text)
			}
			if o := configShow(t, text, goodEnv); o.code != exitUsage {
				t.Errorf("the reader accepts it: exit code %d:\n%s", o.code, text)
			}
		})
	}
}

// Every key says what it means, and every default is of the form that the schema demands.
func TestSchemaIsWhole(t *testing.T) {
	t.Parallel()
	var walk func(s *schema, path string)
	walk = func(s *schema, path string) {
		for key, p := range s.Properties {
			at := join(path, key)
			if len(p.Description) < 12 || !strings.HasSuffix(p.Description, ".") {
				t.Errorf("%s: description %q, want a sentence", at, p.Description)
			}
			walk(p, at)
		}
		if s.Items != nil {
			walk(s.Items, path)
		}
	}
	walk(configSchema(), "")
	for path := range texts {
		at := configSchema()
		for _, key := range strings.Split(path, ".") {
			if at.Items != nil {
				at = at.Items
			}
			if entry, isMap := at.Additional.(*schema); isMap {
				at = entry
			}
			if at = at.Properties[key]; at == nil {
				t.Fatalf("%s: there is no such key", path)
			}
		}
	}
	o := invoke(t, map[string]string{"METERHOUSE_DATABASE_URL": "local"}, "", "config", "show")
	if err := compiledSchema(t).Validate(asJSON(t, o.stdout)); err != nil {
		t.Errorf("the defaults are refused: %v\n%s", err, o.stdout)
	}
}
