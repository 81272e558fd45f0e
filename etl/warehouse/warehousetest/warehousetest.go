// Package warehousetest gives every test a migrated Postgres database of its own.
//
// One server serves a test binary: the first that this ladder leads to.
//
//	dsn       the server that METERHOUSE_TEST_DSN names
//	local     a private one from installed binaries
//	docker    a container, when an engine is healthy
//	download  a private one from binaries of a Maven repository (see localpg.Download)
//
// A line on stderr says which and why. On the server a template is migrated once, under a lock, and
// copied per test, which takes a few hundredths of a second. Without any Postgres the tests fail
// and say what each rung said; they never skip.
//
// METERHOUSE_TEST_REQUIRE pins one rung by its name: then anything else is an error.
// METERHOUSE_TEST_POSTGRES asks for a major, 15 to 18: rungs that have another are passed over, and
// a server of METERHOUSE_TEST_DSN that is another is an error.
package warehousetest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/migrations"
)

// DSN is the environment variable that names the server to use. Its role must be allowed to
// create databases.
const DSN = "METERHOUSE_TEST_DSN"

// Main runs the tests of a package and stops the server that was started for them: call it in
// TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if err := shared.server.shutDown(); err != nil {
		fmt.Fprintf(os.Stderr, "warehousetest: %v\n", err)
	}
	os.Exit(code)
}

// shared is what all tests of this binary use.
var shared struct {
	once     sync.Once
	server   *server
	template string
	err      error
}

// New returns the URL of a migrated database that is the test's own. It is dropped when the test
// passes; a failed test keeps it on a server of METERHOUSE_TEST_DSN and prints its name.
func New(t testing.TB) string {
	t.Helper()
	shared.once.Do(start)
	if shared.err != nil {
		t.Fatalf("no database for tests: %v", shared.err)
	}
	return create(t, "template "+shared.template)
}

// Empty is New without the schema.
func Empty(t testing.TB) string {
	t.Helper()
	shared.once.Do(start)
	if shared.err != nil {
		t.Fatalf("no database for tests: %v", shared.err)
	}
	return create(t, "template template0 encoding 'UTF8'")
}

func create(t testing.TB, how string) string {
	name := "test_" + suffix()
	if err := execute(shared.server.url, "create database "+name+" "+how); err != nil {
		t.Fatalf("database for the test: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() && shared.server.stop == nil {
			t.Logf("database kept: %s", name)
			return
		}
		if err := execute(shared.server.url, "drop database if exists "+name+" with (force)"); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return withDatabase(shared.server.url, name)
}

// Connect opens a connection that the test's end closes.
func Connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func start() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var why string
	shared.server, why, shared.err = climb(ctx, os.Getenv, ladder)
	if shared.err != nil {
		return
	}
	fmt.Fprintf(os.Stderr, "tests use %s: %s\n", shared.server.about, why)
	shared.template = "meterhouse_template_" + hash()
	shared.err = buildTemplate(ctx)
}

// buildTemplate migrates the template unless another test binary did. It gets its name last, so a
// template that has it is whole.
func buildTemplate(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, shared.server.url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `select pg_advisory_lock(hashtextextended('meterhouse test template', 0))`); err != nil {
		return err
	}
	var exists bool
	if err := conn.QueryRow(ctx, `select exists (select from pg_database where datname = $1)`, shared.template).Scan(&exists); err != nil || exists {
		return err
	}
	building := "meterhouse_building_" + suffix()
	if _, err := conn.Exec(ctx, "create database "+building+" template template0 encoding 'UTF8'"); err != nil {
		return err
	}
	if _, _, err := migrations.Up(ctx, withDatabase(shared.server.url, building)); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "alter database "+building+" rename to "+shared.template)
	return err
}

func hash() string {
	h := sha256.New()
	fs.WalkDir(migrations.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			b, _ := fs.ReadFile(migrations.FS(), path)
			io.WriteString(h, path)
			h.Write(b)
		}
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:16]
}

func suffix() string { return strings.ToLower(rand.Text()[:12]) }

func execute(url, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

func withDatabase(server, name string) string {
	u, err := url.Parse(server)
	if err != nil || u.Scheme == "" { // a keyword/value DSN
		return server + " dbname=" + name
	}
	u.Path = "/" + name
	return u.String()
}
