// Package warehousetest gives every test a migrated Postgres database of its own.
//
// One server serves a test binary: the one that METERHOUSE_TEST_DSN names, else a private one from
// local binaries. On it a template is migrated once, under a lock, and copied per test, which takes
// a few hundredths of a second. Without any Postgres the tests fail; they never skip.
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

	"meterhouse/etl/localpg"
	"meterhouse/migrations"
)

// DSN is the environment variable that names the server to use. Its role must be allowed to
// create databases.
const DSN = "METERHOUSE_TEST_DSN"

// Main runs the tests of a package and stops the private server afterwards: call it in TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if server.private != nil {
		server.private.Stop()
	}
	os.Exit(code)
}

var server struct {
	once     sync.Once
	private  *localpg.Server
	url      string
	template string
	err      error
}

// New returns the URL of a migrated database that is the test's own. It is dropped when the test
// passes; a failed test keeps it on a server of METERHOUSE_TEST_DSN and prints its name.
func New(t testing.TB) string {
	t.Helper()
	server.once.Do(start)
	if server.err != nil {
		t.Fatalf("no database for tests: %v", server.err)
	}
	return create(t, "template "+server.template)
}

// Empty is New without the schema.
func Empty(t testing.TB) string {
	t.Helper()
	server.once.Do(start)
	if server.err != nil {
		t.Fatalf("no database for tests: %v", server.err)
	}
	return create(t, "template template0 encoding 'UTF8'")
}

func create(t testing.TB, how string) string {
	name := "test_" + suffix()
	if err := execute(server.url, "create database "+name+" "+how); err != nil {
		t.Fatalf("database for the test: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() && server.private == nil {
			t.Logf("database kept: %s", name)
			return
		}
		if err := execute(server.url, "drop database if exists "+name+" with (force)"); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return withDatabase(server.url, name)
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
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	server.url = os.Getenv(DSN)
	if server.url != "" {
		fmt.Fprintf(os.Stderr, "tests use the server of %s\n", DSN)
	} else {
		server.private, server.err = localpg.Start(ctx, localpg.Config{})
		if server.err != nil {
			return
		}
		server.url = server.private.URL("")
		fmt.Fprintf(os.Stderr, "tests use %s: %s is not set\n", server.private.Describe(), DSN)
	}
	server.template = "meterhouse_template_" + hash()
	server.err = buildTemplate(ctx)
}

// buildTemplate migrates the template unless another test binary did. It gets its name last, so a
// template that has it is whole.
func buildTemplate(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, server.url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `select pg_advisory_lock(hashtextextended('meterhouse test template', 0))`); err != nil {
		return err
	}
	var exists bool
	if err := conn.QueryRow(ctx, `select exists (select from pg_database where datname = $1)`, server.template).Scan(&exists); err != nil || exists {
		return err
	}
	building := "meterhouse_building_" + suffix()
	if _, err := conn.Exec(ctx, "create database "+building+" template template0 encoding 'UTF8'"); err != nil {
		return err
	}
	if _, _, err := migrations.Up(ctx, withDatabase(server.url, building)); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "alter database "+building+" rename to "+server.template)
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
