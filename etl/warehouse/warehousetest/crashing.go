package warehousetest

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"meterhouse/etl/localpg"
	"meterhouse/migrations"
)

// Crashing is a server of the test's own that can be made to crash and that keeps what was committed.
type Crashing struct {
	URL string // of a migrated database; it stays the same over a crash

	t      testing.TB
	config localpg.Config
	server *localpg.Server
}

// NewCrashing starts a server with a migrated database. It ends with the test.
func NewCrashing(t testing.TB, settings map[string]string) *Crashing {
	t.Helper()
	w, err := wishOf(os.Getenv, ladder)
	if err != nil {
		t.Fatal(err)
	}
	source := localpg.Either(localpg.Installed, localpg.Download{Repository: w.repository, Dir: w.cache}.Find)
	c := &Crashing{t: t, config: localpg.Config{
		Dir: filepath.Join(reachable(t), "postgres"), Durable: true, Settings: settings,
		Source: func(ctx context.Context, major int) (localpg.Binaries, error) {
			if major == 0 {
				major = w.major
			}
			return source(ctx, major)
		},
	}}
	c.start()
	t.Cleanup(func() {
		if err := c.server.Stop(); err != nil {
			t.Errorf("stop the test's server: %v", err)
		}
	})
	if err := execute(c.server.URL(""), "create database house template template0 encoding 'UTF8'"); err != nil {
		t.Fatal(err)
	}
	c.URL = c.server.URL("house")
	if _, _, err := migrations.Up(context.Background(), c.URL); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *Crashing) start() {
	c.t.Helper()
	server, err := localpg.Start(context.Background(), c.config)
	if err != nil {
		c.t.Fatalf("start the test's server: %v", err)
	}
	if c.URL != "" && server.URL("house") != c.URL {
		c.t.Fatal("the test's server came up with another URL")
	}
	c.server = server
}

// Crash ends all sessions at once, without a checkpoint, as pg_ctl stop -m immediate does, and starts
// the server again.
func (c *Crashing) Crash() {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.config.Dir, "data", "postmaster.pid"))
	if err != nil {
		c.t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil {
		c.t.Fatal(err)
	}
	if err := c.server.Stop(); err != nil { // it has ended or is about to: nobody gets to write a checkpoint
		c.t.Fatal(err)
	}
	c.start()
}

// Log is everything that the server wrote into its log since it was started last.
func (c *Crashing) Log() string {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.config.Dir, "server.log"))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// reachable is a folder for the test that other users can get to, as what root starts for us becomes one.
func reachable(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
