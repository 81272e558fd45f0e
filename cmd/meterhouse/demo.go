package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"meterhouse/docs/examples"
	"meterhouse/etl"
	"meterhouse/etl/billing"
	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/localpg"
	"meterhouse/etl/wolkvox"
	"meterhouse/migrations"
)

func (a *app) demoCommand() *cobra.Command {
	d := &demo{app: a}
	var reset, serve bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it work: private Postgres, fake vendors, load, month view",
		Long: `Starts a private Postgres and both fake vendors on this machine, migrates, loads the last days
with the very code that loads from the real vendors, checks the result against the fakes' own
totals, imports a made-up rate card and shows the newest whole month. The folder and its clock are
kept, in ~/.local/state/meterhouse/demo, or of root in /var/lib/meterhouse/demo: a second demo
finds everything unchanged and inserts 0. Needs no configuration. Without installed Postgres
binaries it downloads them once (METERHOUSE_POSTGRES_REPOSITORY: another Maven repository, or off).

With --serve it shows the console, at 127.0.0.1:8080 or, if that is taken, a free port: the first
line says where. Anybody on this machine may then do everything in it. With --listen it may be shown
to others, who need the user and password that the first line says. In a container that is an address
of the container: --url tells the demo what people type instead, and it says that.`,
		Example: "  meterhouse demo\n  meterhouse demo --serve     (then open the address that it prints)\n  meterhouse demo --reset --days 30 --seed 7",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.quietly()
			d.isSet = cmd.Flags().Changed
			if d.listen+d.url != "" && !serve {
				return usagef("--listen and --url are for the console: want --serve with them")
			}
			if u, err := url.Parse(d.url); d.url != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
				return usagef("--url %q: want what people type, such as http://127.0.0.1:8081", d.url)
			}
			return d.run(cmd.Context(), reset, serve)
		},
	}
	cmd.Flags().IntVar(&d.state.Days, "days", 90, "`number` of days to load")
	cmd.Flags().Uint64Var(&d.state.Seed, "seed", 1, "`number` that decides all figures")
	cmd.Flags().StringVar(&d.dir, "dir", "", "`folder` to keep (default demo in the user's state folder)")
	cmd.Flags().BoolVar(&reset, "reset", false, "remove the folder of a former demo first")
	cmd.Flags().BoolVar(&serve, "serve", false, "show the console, and stay up after loading until interrupted")
	cmd.Flags().StringVar(&d.listen, "listen", "", "`host:port` of the console (default 127.0.0.1:8080, or a free port)")
	cmd.Flags().StringVar(&d.url, "url", "", "`address` of the console that people type (default as it listens)")
	return cmd
}

// demo is one run of the demo.
type demo struct {
	app    *app
	dir    string
	listen string // of the console; empty: as it comes
	url    string // of the console, as people type it; empty: as it listens
	state  demoState
	isSet  func(flag string) bool
	kept   bool // the folder was there
	clock  clock
}

// demoState is what a folder keeps, so that a second run is the same run again.
type demoState struct {
	Clock      time.Time `json:"clock"`
	Seed       uint64    `json:"seed"`
	Days       int       `json:"days"`
	SecretsKey string    `json:"secrets_key"`
}

// clock is a business clock that the demo sets.
type clock struct{ at atomic.Pointer[time.Time] }

func (c *clock) now() time.Time  { return *c.at.Load() }
func (c *clock) set(t time.Time) { t = t.UTC(); c.at.Store(&t) }

const (
	demoStateFile = "demo.json"
	demoDatabase  = "postgres"
)

func (d *demo) run(ctx context.Context, reset, serve bool) (err error) {
	a := d.app
	if err := d.open(reset); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // stops the fakes
	a.progress.set("starting Postgres")
	server, err := localpg.Start(ctx, localpg.Config{Dir: filepath.Join(d.dir, "postgres"), Source: a.binaries(), Log: a.log})
	if err != nil {
		return err
	}
	stopServer := server.Stop
	defer func() { err = errors.Join(err, stopServer()) }()
	a.progress.set("migrating")
	url := server.URL(demoDatabase)
	if _, _, err := migrations.Up(ctx, url); err != nil {
		return err
	}

	d.clock.set(d.state.Clock)
	a.now, a.fixed = d.clock.now, true
	sims, portal := d.fakes()
	address, _, err := sims.serve(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	s, err := a.newSession(ctx, d.config(sims, portal, address), &database{url, url, server.Stop})
	if err != nil {
		return err
	}
	stopServer = s.stop
	wait := func() error { return nil }
	if serve {
		if wait, err = d.serve(ctx, s); err != nil {
			return err
		}
		defer func() { // the console ends before what it shows
			cancel()
			err = errors.Join(err, wait())
		}()
	}
	a.progress.clear()
	fmt.Fprintln(a.stdout, server.Describe())
	if d.kept {
		fmt.Fprintf(a.stdout, "kept from before: %d days until %s, which is its now; --reset begins anew\n", d.state.Days, stamp(d.state.Clock))
	}
	results, err := d.load(ctx, s, sims)
	a.progress.clear()
	if err != nil {
		return err
	}
	var total etl.Outcome
	for _, r := range results {
		total.Add(r.out)
	}
	err = verdict(results, nil, a.told)
	if err == nil {
		err = d.check(ctx, s, sims)
	}
	if err == nil {
		err = d.price(ctx, s)
	}
	if shown := d.show(ctx, s, url, serve); shown != nil {
		return errors.Join(err, shown)
	}
	a.printSum(total)
	if serve && err == nil {
		fmt.Fprintln(a.stderr, "Postgres and the console stay up until you press Ctrl-C")
		<-ctx.Done()
	}
	return err
}

// serve shows the console from now on, with a worker behind it, until ctx ends; wait is for that.
func (d *demo) serve(ctx context.Context, s *session) (wait func() error, err error) {
	v := &service{session: s}
	if v.queue, err = v.newQueue(); err != nil {
		return nil, err
	}
	server, login, err := v.demoConsole(d.listen)
	if err != nil {
		return nil, err
	}
	d.app.progress.clear()
	fmt.Fprintf(d.app.stdout, "console: %s/%s\n", strings.TrimSuffix(or(d.url, openAt(server)), "/"), login)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Serve(ctx) })
	g.Go(func() error { return v.queue.Run(ctx) })
	return g.Wait, nil
}

// open finds or makes the folder and its state.
func (d *demo) open(reset bool) error {
	if d.state.Days < 1 || d.state.Days > 3660 {
		return usagef("--days %d: want 1 to 3660", d.state.Days)
	}
	if d.dir == "" {
		home, err := stateHome(d.app.getenv)
		if err != nil {
			return err
		}
		d.dir = filepath.Join(home, "demo")
	}
	name := filepath.Join(d.dir, demoStateFile)
	if reset {
		if err := d.remove(); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return d.create(name)
	}
	if err != nil {
		return err
	}
	var kept demoState
	if err := json.Unmarshal(text, &kept); err != nil || kept.Days < 1 || kept.Clock.IsZero() {
		return usagef("%s is not what a demo wrote: want --reset, or another --dir", name)
	}
	for flag, same := range map[string]bool{
		"days": kept.Days == d.state.Days, "seed": kept.Seed == d.state.Seed, "now": kept.Clock.Equal(demoClock(d.app.now())),
	} {
		if d.isSet(flag) && !same {
			return usagef("--%s differs from the demo in %s (%d days, seed %d, clock %s): want --reset, or another --dir",
				flag, d.dir, kept.Days, kept.Seed, stamp(kept.Clock))
		}
	}
	d.state, d.kept = kept, true
	return nil
}

func (d *demo) create(name string) error {
	if entries, err := os.ReadDir(d.dir); err == nil && len(entries) > 0 {
		return usagef("%s holds files and no %s: want a new or empty folder", d.dir, demoStateFile)
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	d.state.SecretsKey = base64.StdEncoding.EncodeToString(key)
	d.state.Clock = demoClock(d.app.now())
	text, err := json.MarshalIndent(d.state, "", "  ")
	if err != nil {
		return err
	}
	// Others must be able to pass, not to look: as root, Postgres runs as another user.
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o600)
}

// demoClock is what a demo begun at now shows as its own for good: wolkvox would never be asked at a time at which a
// month ends.
func demoClock(now time.Time) time.Time {
	zone, err := time.LoadLocation(simZone)
	if err != nil {
		return now // load says so
	}
	if until, quiet := wolkvox.QuietUntil(now, zone); quiet {
		now = until
	}
	return now.UTC().Truncate(time.Second)
}

// remove deletes the folder of a former demo, and nothing else.
func (d *demo) remove() error {
	if _, err := os.Stat(d.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Stat(filepath.Join(d.dir, demoStateFile)); err != nil {
		if entries, err := os.ReadDir(d.dir); err == nil && len(entries) == 0 {
			return nil
		}
		return usagef("--reset: %s has no %s, so no demo made it: want its own folder", d.dir, demoStateFile)
	}
	lock, err := os.Open(filepath.Join(d.dir, "postgres", "meterhouse.lock"))
	if err == nil {
		defer lock.Close()
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			return &exitError{exitBusy, fmt.Errorf("--reset: %w: another demo is running in %s", localpg.ErrInUse, d.dir)}
		}
	}
	return os.RemoveAll(d.dir)
}

// fakes makes both vendors. Keystone's is new in every process and must go on with a chain that
// began in another: it takes every token that its seed ever made. Should the chain have died of
// age meanwhile, the portal's token begins another, so it is a new one each time.
func (d *demo) fakes() (*sims, string) {
	s := newSims(d.clock.now, d.state.Seed, d.state.Days)
	portal := "demo-" + rand.Text()
	s.keystone = keystonesim.New(keystonesim.Config{
		Seed: d.state.Seed, Now: d.clock.now, Start: s.start.Time(), RefreshToken: portal, Lenient: true,
	})
	return s, portal
}

// config is what a file would say.
func (d *demo) config(sims *sims, portal, address string) *config {
	cfg := newConfig()
	cfg.SecretsKey = newSecret(d.state.SecretsKey)
	var k keystoneConfig
	k.setDefaults()
	k.Account, k.BaseURL, k.RefreshToken = "acme", address, newSecret(portal)
	k.History.Start = date{sims.start, true}
	k.pace = time.Nanosecond
	var w wolkvoxConfig
	w.setDefaults()
	w.Account, w.Server, w.BaseURL, w.Timezone = "callcenter", "0039", address, simZone
	w.Token = newSecret(sims.wolkvox.Token())
	w.spacing, w.clock = -1, d.clock.now
	cfg.Keystone, cfg.Wolkvox = []keystoneConfig{k}, []wolkvoxConfig{w}
	return cfg
}

// load fills the warehouse: wolkvox day by day, since it cannot be asked for the past, then
// everything as `meterhouse run` would.
func (d *demo) load(ctx context.Context, s *session, sims *sims) (all []result, err error) {
	zone, err := time.LoadLocation(simZone)
	if err != nil {
		return nil, err
	}
	today := etl.DayOf(d.state.Clock.In(zone))
	read, err := s.wh.Covered(ctx, wolkvox.Dataset, s.wolkvox[0].cfg.Account, etl.Window{From: sims.start, Until: today})
	if err != nil {
		return nil, err
	}
	defer d.clock.set(d.state.Clock)
	for local := sims.start; local < today; local++ {
		if read[local] {
			continue
		}
		s.stage = fmt.Sprintf("day %d of %d: ", local-sims.start+1, today-sims.start+1)
		y, m, day := local.Time().Date()
		for _, hour := range []int{12, 23} {
			d.clock.set(time.Date(y, m, day, hour, 45, 0, 0, zone))
			l, err := s.load(ctx, order{datasets: []string{wolkvox.Dataset}})
			if err != nil {
				return nil, err
			}
			all = append(all, l.results...)
		}
	}
	s.stage = ""
	d.clock.set(d.state.Clock)
	l, err := s.load(ctx, order{datasets: datasets})
	return append(all, l.results...), err
}

// price imports the example rate card, unless there are prices: a person may have changed them.
func (d *demo) price(ctx context.Context, s *session) error {
	t, err := s.wh.Query(ctx, `select count(*) from billing.rate`)
	if err != nil || t.Rows[0][0] != "0" {
		return err
	}
	file, err := readCSV(bytes.NewReader(examples.Rates), "rates.csv", rateColumns...)
	if err != nil {
		return err
	}
	rates, err := readRates(file)
	if err != nil {
		return err
	}
	_, err = billing.New(s.wh.Pool(), d.app.now).ImportRates(ctx, rates, false, false)
	return err
}
