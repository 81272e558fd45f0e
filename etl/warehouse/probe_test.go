package warehouse

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/migrations"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	direct := warehousetest.New(t)
	server, err := Probe(t.Context(), direct)
	if err != nil || server.Pooler != NoPooler || server.Schema != migrations.Head() || server.usable() != nil || server.Skew.Abs() > time.Minute {
		t.Errorf("%+v, %v, %v", server, server.usable(), err)
	}
	for _, c := range []struct {
		sessions int
		whole    bool
		want     Pooler
	}{{1, false, TransactionPooler}, {4, false, TransactionPooler}, {4, true, SessionPooler}} {
		got, err := Probe(t.Context(), warehousetest.Pooler(t, direct, c.sessions, c.whole))
		if err != nil || got.Pooler != c.want || got.Identity != server.Identity {
			t.Errorf("pooler of %d, whole %v: %+v, %v, want %s", c.sessions, c.whole, got, err, c.want)
		}
	}
	if other, err := Probe(t.Context(), warehousetest.New(t)); err != nil || other.Identity == server.Identity {
		t.Errorf("another database has the same identity: %s, %v", other.Identity, err)
	}
}

// A pooler mixes the sessions of all clients; statements that one of them named must not get in
// the way of another.
func TestOpenThroughPooler(t *testing.T) {
	t.Parallel()
	url := warehousetest.Pooler(t, warehousetest.New(t), 2, false)
	for range 3 {
		w, err := Open(t.Context(), Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := w.Query(t.Context(), `select count(*) from mart.run where run_id > $1`, 7); err != nil {
				t.Error(err)
			}
		}
		w.Close()
	}
}

func TestProbeExplains(t *testing.T) {
	t.Parallel()
	good := warehousetest.New(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	change := func(edit func(u *url.URL)) string {
		u, err := url.Parse(good)
		if err != nil {
			t.Fatal(err)
		}
		edit(u)
		return u.String()
	}
	for _, c := range []struct{ name, url, want string }{
		{"nobody listens", change(func(u *url.URL) { u.Host = "127.0.0.1:1" }), "check database.url and that the server is up"},
		{"with and without TLS", change(func(u *url.URL) { u.Host, u.RawQuery = "127.0.0.1:1", "sslmode=prefer" }), ": 127.0.0.1:1 (127.0.0.1): dial error: dial tcp 127.0.0.1:1: connect: connection refused: check database.url"},
		{"no such host", change(func(u *url.URL) { u.Host = "db.invalid" }), ": hostname resolving error: lookup db.invalid"},
		{"no such database", change(func(u *url.URL) { u.Path = "/nowhere" }), "create the database first, or correct database.url"},
		{"no answer", change(func(u *url.URL) { u.Host, u.RawQuery = silent.Addr().String(), "sslmode=disable&connect_timeout=1" }), "what filters the network"},
		{"no such user", change(func(u *url.URL) { u.User = url.UserPassword("nobody_here", "hush") }), "check user and password in database.url"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := Probe(context.WithoutCancel(t.Context()), c.url)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hush") || strings.ContainsAny(err.Error(), "\n;") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestServerFindings(t *testing.T) {
	t.Parallel()
	good := Server{Version: "15.18", Major: 15, Encoding: "UTF8", Schema: 8, Head: 8}
	for _, c := range []struct {
		name   string
		change func(*Server)
		want   string
	}{
		{"good", func(*Server) {}, "ok PostgreSQL 15.18, encoding UTF8, schema 8 of 8: "},
		{"newest", func(s *Server) { s.Major = maxMajor }, "ok "},
		{"old", func(s *Server) { s.Major, s.Version = 14, "14.2" }, "fail database server is PostgreSQL 14.2, want 15 or newer: upgrade it, or use a server of version 15 to 18"},
		{"newer", func(s *Server) { s.Major, s.Version = 19, "19beta1" }, "warn PostgreSQL 19beta1 is newer than what this version was tested with (15 to 18): look for a newer meterhouse"},
		{"encoding", func(s *Server) { s.Encoding = "LATIN1" }, "fail database encoding is LATIN1, want UTF8: create it with"},
		{"standby", func(s *Server) { s.ReadOnly = true }, "fail database is read-only (a standby, or default_transaction_read_only), want the primary: point"},
		{"behind", func(s *Server) { s.Schema = 7 }, "fail database schema is at version 7, this binary wants 8: run `meterhouse migrate up`"},
		{"ahead", func(s *Server) { s.Schema = 9 }, "fail database schema is at version 9, this binary knows up to 8: use the newer binary"},
	} {
		s := good
		c.change(&s)
		var lines []string
		for _, f := range s.findings() {
			lines = append(lines, fmt.Sprintf("%s %s: %s", f.Level, f.Found, f.Remedy))
		}
		got := strings.Join(lines, "\n")
		if len(lines) != 1 || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if refused := s.usable() != nil; refused != strings.HasPrefix(c.want, "fail") {
			t.Errorf("%s: refused %v", c.name, refused)
		}
	}
	bad := Server{Major: 14, Encoding: "LATIN1", ReadOnly: true, Head: 8}
	if n := len(bad.findings()); n != 4 {
		t.Errorf("%d findings at once, want 4: %v", n, bad.findings())
	}
}

// database is a test's own, with an administrator's connection and a role of its own to look with.
type database struct {
	t         *testing.T
	admin     *pgx.Conn
	role, url string // a role without rights, and how it connects
}

func newDatabase(t *testing.T, url string) *database {
	t.Helper()
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	d := &database{t: t, admin: admin, role: "probe_" + strings.TrimPrefix(admin.Config().Database, "test_")}
	d.exec(fmt.Sprintf(`create role %s login password 'made-up'`, d.role))
	t.Cleanup(func() {
		ctx := context.Background()
		_, err := admin.Exec(ctx, fmt.Sprintf(`drop owned by %s cascade; drop role %[1]s`, d.role))
		if err := errors.Join(err, admin.Close(ctx)); err != nil {
			t.Error(err)
		}
	})
	d.url = as(t, url, d.role)
	return d
}

// as is the URL for another user.
func as(t *testing.T, text, role string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "made-up")
	return u.String()
}

func (d *database) exec(sql string) {
	d.t.Helper()
	if _, err := d.admin.Exec(context.Background(), strings.ReplaceAll(sql, "ROLE", d.role)); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
}

// inspect are the findings about one thing as lines, with the role's name made plain.
func (d *database) inspect(about string) string {
	d.t.Helper()
	_, found, err := Inspect(d.t.Context(), d.url, 8)
	if err != nil {
		d.t.Fatal(err)
	}
	var lines []string
	for _, f := range found {
		if f.About == about {
			lines = append(lines, fmt.Sprintf("%s: %s: %s", f.Level, f.Found, f.Remedy))
		}
		if (f.Level == OK) != (f.Remedy == "") {
			d.t.Errorf("%+v: want a remedy just when something is wrong", f)
		}
	}
	return strings.ReplaceAll(strings.Join(lines, "\n"), d.role, "ROLE")
}

func (d *database) want(about string, parts ...string) {
	d.t.Helper()
	got := d.inspect(about)
	for _, part := range parts {
		if !strings.Contains(got, part) {
			d.t.Errorf("%s: got %s, want %s", about, got, part)
		}
	}
}

func TestInspectLoadRights(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, warehousetest.New(t))
	d.exec(`revoke select on public.meterhouse_schema_version from ROLE`)
	if _, _, err := Inspect(t.Context(), d.url, 8); err == nil || !strings.Contains(err.Error(), "connect as the role that migrated, or as an administrator grant that role to "+d.role) {
		t.Errorf("no right at all: %v", err)
	}
	d.exec(`grant select on public.meterhouse_schema_version to ROLE`)
	owner := d.admin.Config().User
	d.exec(`revoke usage on schema dw, mart, ops, raw from public`)
	d.want("rights", "fail: role ROLE lacks usage of schema dw, usage of schema mart, usage of schema ops and ", " more: connect as "+owner+`, or as an administrator: grant "`+owner+`" to "ROLE"`)
	d.exec(`grant usage on schema dw, mart, ops, raw, river to ROLE;
		grant select, insert, update, delete on all tables in schema dw, ops, raw, river to ROLE;
		grant select on all tables in schema mart to ROLE;
		grant usage on all sequences in schema dw, ops, raw, river to ROLE;
		revoke update on ops.run from ROLE`)
	d.want("rights", "fail: role ROLE lacks ownership of dw.fact_consumption_sample, update on ops.run: connect as")
	d.exec(`revoke all on all tables in schema dw, mart, ops, raw, river from ROLE; grant ` + pgx.Identifier{owner}.Sanitize() + ` to ROLE`)
	d.want("rights", "ok: role ROLE may read, write and make partitions")
}

func TestInspectMigrationRights(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, warehousetest.Empty(t))
	name := d.admin.Config().Database
	d.exec(`revoke create on schema public from public`)
	d.want("database", "fail: database schema is at version 0", "run `meterhouse migrate up`")
	d.want("rights",
		"fail: role ROLE may not create schemas in database "+name+`: as its owner: grant create on database "`+name+`" to "ROLE"`,
		`fail: role ROLE may not create the table of migrations in schema public: as the owner of the database: grant usage, create on schema public to "ROLE"`)
	d.exec(`alter schema public rename to other`)
	d.want("rights", `as the owner of the database: create schema public authorization "ROLE"`)
	d.exec(`alter schema other rename to public`)
	d.exec(`grant create on database ` + name + ` to ROLE; grant create on schema public to ROLE`)
	if got := d.inspect("rights"); got != "" {
		t.Errorf("what the remedies gave is not enough: %s", got)
	}
	if _, _, err := migrations.Up(t.Context(), d.url); err != nil {
		t.Errorf("migrations need more: %v", err)
	}

	d = newDatabase(t, warehousetest.New(t))
	if _, err := migrations.Down(t.Context(), d.admin.Config().ConnString(), migrations.Head()-1); err != nil {
		t.Fatal(err)
	}
	d.exec(`grant select on public.meterhouse_schema_version to ROLE`)
	d.want("rights", "fail: role ROLE may not alter billing.", "which belong to "+d.admin.Config().User+": migrate as "+d.admin.Config().User)
}

func TestInspectReader(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, warehousetest.New(t))
	d.exec(`alter role ROLE superuser`)
	d.want("bi_reader", "ok: the role may read mart and dw, and nothing else")
	d.exec(`revoke select on mart.month from bi_reader; grant usage on schema ops to bi_reader; grant select on ops.credential to bi_reader`)
	d.want("bi_reader", "warn: the role may not read mart.month: run `meterhouse migrate up`",
		"warn: the role may read ops.credential, which is not for people", "revoke select on all tables in schema raw, ops from bi_reader, public")
	d.exec(`revoke select on all tables in schema raw, ops from bi_reader, public`) // as the remedy says
	if got := d.inspect("bi_reader"); strings.Contains(got, "may read ops") {
		t.Errorf("the remedy does not help: %s", got)
	}

	// The role belongs to the whole server, so it is gone only for this transaction.
	tx, err := d.admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	d.exec(`alter role bi_reader rename to ` + d.role + `_other`)
	i := &inspection{conn: d.admin}
	if err := i.reader(t.Context()); err != nil || len(i.found) != 1 || i.found[0].Level != Warn || !strings.Contains(i.found[0].Found, "does not exist") {
		t.Errorf("%+v, %v", i.found, err)
	}
}

func TestInspectSettings(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, warehousetest.New(t))
	d.exec(`grant select on public.meterhouse_schema_version to ROLE`)
	for setting, want := range map[string]string{
		"statement_timeout = '30s'":                      `warn: statement_timeout is 30s (user): a long window is one COPY, which is cut off: alter role "ROLE" set statement_timeout = 0`,
		"idle_in_transaction_session_timeout = 500":      "warn: idle_in_transaction_session_timeout is 500ms (user)",
		"lock_timeout = '5s'":                            "warn: lock_timeout is 5s (user): a load that waits its turn gives up",
		"default_transaction_isolation = 'serializable'": `fail: default_transaction_isolation is serializable (user): a load that waited for another does not see what that one wrote: alter role "ROLE" set default_transaction_isolation = 'read committed'`,
		"synchronous_commit = off":                       "warn: synchronous_commit is off (user): what was reported as loaded may be gone",
	} {
		d.exec(`alter role ROLE set ` + setting)
		d.want("settings", want)
		got := d.inspect("settings")
		for _, line := range strings.Split(got, "\n") { // what the remedy says helps
			if _, sql, found := strings.Cut(line, ": alter role "); found && strings.Contains(line, "(user)") {
				d.exec("alter role " + sql)
			}
		}
		if got := d.inspect("settings"); strings.Contains(got, "(user)") {
			t.Errorf("after the remedy: %s", got)
		}
		d.exec(`alter role ROLE reset all`)
	}
	d.exec(`alter role ROLE set statement_timeout = '1h'; alter role ROLE set lock_timeout = 0`)
	if got := d.inspect("settings"); strings.Contains(got, "timeout") {
		t.Errorf("generous time-outs are reported: %s", got)
	}
	d.exec(`alter role ROLE set datestyle = 'German'`) // does not matter
	d.inspect("settings")
	d.exec(`alter role ROLE set default_transaction_read_only = on`)
	d.want("database", "fail: database is read-only")
	// These are the server's own.
	for _, name := range []string{"fsync", "full_page_writes", "autovacuum"} {
		i := slices.IndexFunc(rules, func(r rule) bool { return r.name == name })
		if r := rules[i]; !r.isBad("off") || r.isBad("on") || r.level != Warn || r.want != "" {
			t.Errorf("%+v", r)
		}
	}
}

// wantSoon is want for what a connection that is still closing may delay.
func (d *database) wantSoon(about, part string) {
	d.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if strings.Contains(d.inspect(about), part) {
			return // not asked again: the connection that asked may still be closing
		}
	}
	d.want(about, part)
}

func TestInspectRoom(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, warehousetest.New(t))
	d.exec(`grant select on public.meterhouse_schema_version to ROLE`)
	d.exec(`alter role ROLE connection limit 5`)
	d.wantSoon("connections", "warn: role ROLE allows 5, 0 are in use: a run takes up to 8: lower parallel, close other clients, or raise the limit")
	d.exec(`alter role ROLE connection limit -1; alter database ` + d.admin.Config().Database + ` connection limit 6`)
	d.wantSoon("connections", "warn: database "+d.admin.Config().Database+" allows 6, 1 are in use: a run takes up to 8")
	d.exec(`alter database ` + d.admin.Config().Database + ` connection limit -1`)
	if _, found, err := Inspect(t.Context(), d.url, 1_000_000); err != nil || !slices.ContainsFunc(found, func(f Finding) bool {
		return f.About == "connections" && strings.HasPrefix(f.Found, "the server allows ")
	}) {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestInspectEncoding(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, warehousetest.Empty(t))
	name := d.admin.Config().Database + "_latin"
	d.exec(`create database ` + name + ` template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'`)
	t.Cleanup(func() { d.exec(`drop database ` + name) })
	u, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	_, found, err := Inspect(t.Context(), u.String(), 1)
	if err != nil || found[0].Level != Fail || !strings.Contains(found[0].Found, "LATIN1") {
		t.Errorf("%+v, %v", found, err)
	}
}
