package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// measurement is one line of one round.
type measurement struct {
	Seconds   float64          `json:"seconds"`             // from the start of the process to its end
	Ratio     float64          `json:"ratio"`               // samples per second against the yardstick of the same round; 0 for none
	ClientCPU float64          `json:"client_cpu_seconds"`  // of the process and those it started
	ServerCPU *float64         `json:"server_cpu_seconds"`  // of all processes of the server; null when it cannot be seen
	PeakRSS   int64            `json:"peak_rss_bytes"`      // of the largest process of the client
	WAL       int64            `json:"wal_bytes"`           //
	Dead      int64            `json:"dead_tuples"`         //
	Temp      int64            `json:"temp_file_bytes"`     //
	Written   map[string]int64 `json:"dw_tuples_written"`   // inserted, updated or deleted, by table of dw
	Bodies    int64            `json:"bodies"`              // asked for
	Received  int64            `json:"received_body_bytes"` // sent by the vendor, as on the wire
}

// command is a program to be measured.
type command struct {
	argv []string
	env  []string // beside PATH and the like
	dir  string
	in   string // standard input
}

// inherited are the variables that a measured program gets from us: nothing else may change what it does.
var inherited = []string{"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "USER"}

// start runs the program to its end. Its errors carry the end of what it said.
func (c command) start(ctx context.Context) (out string, state *os.ProcessState, took time.Duration, err error) {
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Dir = c.dir
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); slices.Contains(inherited, name) {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, c.env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.in), &stdout, &stderr
	began := time.Now()
	err = cmd.Run()
	took = time.Since(began)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		said := strings.TrimSpace(stdout.String() + "\n" + stderr.String())
		return stdout.String(), cmd.ProcessState, took, fmt.Errorf("%s: %w:\n%s", c, err, said[max(0, len(said)-4000):])
	}
	return stdout.String(), cmd.ProcessState, took, nil
}

// String names the program without its arguments, which may hold a password.
func (c command) String() string { return c.argv[0] }

// measured runs one program between two looks at the server.
func (b *bench) measured(ctx context.Context, db *database, c command) (m measurement, out string, err error) {
	if _, err := db.conn.Exec(ctx, "checkpoint"); err != nil {
		return m, "", fmt.Errorf("checkpoint between measurements: %w", err)
	}
	bodies, size, err := b.vendor.tell(b.state)
	if err != nil {
		return m, "", err
	}
	before, err := count(ctx, db.conn)
	if err != nil {
		return m, "", err
	}
	cpu, seen := b.server.cpu()
	out, state, took, err := c.start(ctx)
	if err != nil {
		return m, out, err
	}
	after, err := count(ctx, db.conn)
	if err != nil {
		return m, out, err
	}
	cpuAfter, stillSeen := b.server.cpu()
	diff := after.minus(before)
	m = measurement{
		Seconds: took.Seconds(), ClientCPU: (state.UserTime() + state.SystemTime()).Seconds(), PeakRSS: peakRSS(state),
		WAL: diff.wal, Dead: diff.dead, Temp: diff.temp, Written: diff.written,
	}
	if seen && stillSeen {
		used := (cpuAfter - cpu).Seconds()
		m.ServerCPU = &used
	}
	if m.Bodies, m.Received, err = b.vendor.tell(b.state); err != nil {
		return m, out, err
	}
	m.Bodies, m.Received = m.Bodies-bodies, m.Received-size
	return m, out, nil
}

// peakRSS of an ended process. A new process begins with the peak of the one that started it, so ours
// has to stay small: it is the vendor that renders.
func peakRSS(state *os.ProcessState) int64 {
	usage, ok := state.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	if runtime.GOOS == "darwin" {
		return usage.Maxrss
	}
	return usage.Maxrss << 10
}

// ownPeakRSS is what the peaks of others cannot be told below.
func ownPeakRSS() int64 {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	if runtime.GOOS == "darwin" {
		return usage.Maxrss
	}
	return usage.Maxrss << 10
}

// database is one of ours, with a connection to look at it.
type database struct {
	name, url string
	conn      *pgx.Conn
}

func (b *bench) open(ctx context.Context, name, template string) (*database, error) {
	url, err := b.server.create(ctx, name, template)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	return &database{name, url, conn}, nil
}

func (b *bench) discard(ctx context.Context, db *database) error {
	if err := db.conn.Close(ctx); err != nil {
		return err
	}
	return b.server.drop(ctx, db.name)
}
