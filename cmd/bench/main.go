// Command bench measures meterhouse against Postgres itself and against what a package manager
// brings. It is for whoever wants to see the figures of docs/performance.md on another machine, and is
// no part of what ships.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if os.Getenv(asVendor) != "" {
		if err := vendorMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench: vendor:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := execute(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(1)
	}
}

// config says what to measure.
type config struct {
	shape
	Rounds, PeerRounds int
	Only               []string // groups; empty: all
	Growth             []int    // rows that are there already
	DSN                string
	Program            string // a meterhouse that is built already
	Dir                string // where the temporary folder goes
	JSON, Doc          string // files to write
	Progress           io.Writer
}

// groups of lines, in the order in which they are measured.
var groups = []string{"load", "parallel", "fleet", "growth", "jq", "psycopg2", "pgloader"}

func (c config) has(group string) bool { return len(c.Only) == 0 || slices.Contains(c.Only, group) }

func execute(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cfg := config{shape: shape{Seed: 1, Levels: 56, Days: 130, Step: 5 * time.Minute}, Growth: []int{100_000, 1_000_000, 10_000_000}, Progress: stderr}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&cfg.Rounds, "rounds", 5, "`number` of interleaved rounds")
	flags.IntVar(&cfg.PeerRounds, "peer-rounds", 1, "`number` of rounds of the peers, which are slow")
	only := flags.String("only", "", "`groups` to measure, of "+strings.Join(groups, ","))
	flags.StringVar(&cfg.DSN, "dsn", "", "`URL` of a server to use, as a role that may create databases and CHECKPOINT; default: a private one")
	flags.StringVar(&cfg.Program, "meterhouse", "", "`program` to measure; default: built from this module")
	flags.StringVar(&cfg.Dir, "dir", "", "`folder` for some 2 GB of temporary files; default: the system's")
	flags.StringVar(&cfg.JSON, "json", "", "`file` to write every figure of every round to")
	flags.StringVar(&cfg.Doc, "doc", "", "`document` in which to replace the table between the two marks")
	quick := flags.Bool("quick", false, "a minute with 100 000 samples: does it work, not how fast is it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || cfg.Rounds < 1 || cfg.Rounds >= cfg.Days || cfg.PeerRounds < 1 {
		return fmt.Errorf("want flags only, and 1 to %d rounds; see -help", cfg.Days-1)
	}
	if *only != "" {
		cfg.Only = strings.Split(*only, ",")
		for _, group := range cfg.Only {
			if !slices.Contains(groups, group) {
				return fmt.Errorf("-only %q: want some of %s", group, strings.Join(groups, ","))
			}
		}
	}
	if *quick {
		cfg.Levels, cfg.Step, cfg.Rounds, cfg.Growth = 8, 15*time.Minute, 1, []int{10_000, 100_000}
	}
	r, err := measure(ctx, cfg, nil)
	if err != nil {
		return err
	}
	return r.write(stdout, cfg)
}

// measure does all that is asked for. An error means that something could not be measured, or that a
// check found a wrong result: then no figure is worth anything.
func measure(ctx context.Context, cfg config, tamper func(context.Context, *database, string) error) (_ *report, err error) {
	b := &bench{cfg: cfg, tamper: tamper}
	if b.dir, err = os.MkdirTemp(cfg.Dir, "meterhouse-bench-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.psql, err = findPsql(); err != nil {
		return nil, err
	}
	if b.program = cfg.Program; b.program == "" {
		b.progress("building meterhouse")
		b.program = filepath.Join(b.dir, "meterhouse")
		if err := buildMeterhouse(ctx, b.program); err != nil {
			return nil, err
		}
	}
	if b.server, err = startServer(ctx, cfg.DSN); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.server.stop()) }()
	b.progress("%s", b.server.about)

	b.progress("rendering %d samples", cfg.samples(b.whole()))
	if b.vendor, err = startVendor(vendorOrder{b.dir, cfg.shape, b.casts()}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.vendor.stop()) }()
	b.csv = filepath.Join(b.dir, "yardstick.csv")
	if err := writeCSV(b.csv, cfg.shape, b.whole()); err != nil {
		return nil, err
	}
	template, err := b.open(ctx, "template", "")
	if err != nil {
		return nil, err
	}
	path, err := b.writeConfig(template, 1, nil)
	if err != nil {
		return nil, err
	}
	if _, _, _, err := (command{argv: []string{b.program, "--config", path, "migrate", "up"}}).start(ctx); err != nil {
		return nil, err
	}
	if err := template.conn.Close(ctx); err != nil {
		return nil, err
	}
	grown, err := b.prepare(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.closeAll(grown)) }()
	for n := range cfg.Rounds {
		b.progress("round %d of %d", n+1, cfg.Rounds)
		if err := b.round(ctx, grown, n < cfg.PeerRounds); err != nil {
			return nil, err
		}
	}
	return newReport(b), nil
}

// buildMeterhouse builds it as it ships, but for one tag: no pause between two requests to the vendor.
func buildMeterhouse(ctx context.Context, path string) error {
	_, _, _, err := command{argv: []string{"go", "build", "-tags", "unpaced", "-trimpath", "-ldflags", "-s -w", "-o", path, "meterhouse/cmd/meterhouse"},
		env: goEnvironment()}.start(ctx)
	return err
}

// findPsql is the one on the PATH, or beside a server of one of the packages.
func findPsql() (string, error) {
	if path, err := exec.LookPath("psql"); err == nil {
		return path, nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/psql")
	if err != nil || len(found) == 0 {
		return "", errors.New("psql is not on the PATH: it is the yardstick (apt-get install postgresql-client)")
	}
	return found[len(found)-1], nil
}

// goEnvironment is what the compiler needs of ours.
func goEnvironment() (env []string) {
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "GO") {
			env = append(env, v)
		}
	}
	return append(env, "CGO_ENABLED=0")
}
