package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/keystone"
	"meterhouse/etl/localpg"
	"meterhouse/etl/schedule"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/wolkvox"
)

// database is where the warehouse lives, for the life of a command.
type database struct {
	url    string
	direct string // not through a pooler
	stop   func() error
}

// leaseFor is how long a scope stays with a process that died; 0 is the warehouse's own. Tests shorten it.
var leaseFor time.Duration

// openDatabase finds the configured database, or starts the private one.
func (a *app) openDatabase(ctx context.Context, cfg *config) (*database, error) {
	if !cfg.isLocal() {
		url := cfg.Database.URL.text()
		return &database{url, or(cfg.Database.DirectURL.text(), url), func() error { return nil }}, nil
	}
	home, err := stateHome(a.getenv)
	if err != nil {
		return nil, err
	}
	server, err := localpg.Start(ctx, localpg.Config{Dir: filepath.Join(home, "postgres"), Source: a.binaries(), Durable: true, Log: a.log})
	if err != nil {
		return nil, err
	}
	return &database{server.URL(""), server.URL(""), server.Stop}, nil
}

// binaries are those of the private Postgres: what is installed, else a release that is downloaded once.
func (a *app) binaries() localpg.Source {
	return localpg.Either(localpg.Installed, localpg.Download{
		Repository: a.getenv("METERHOUSE_POSTGRES_REPOSITORY"),
		Notice: func(line string) {
			a.progress.clear()
			fmt.Fprintln(a.stderr, line)
		},
	}.Find)
}

// session is everything a command needs to work with the warehouse and the vendors.
type session struct {
	app      *app
	cfg      *config
	wh       *warehouse.Warehouse
	keystone []*keystoneAccount
	wolkvox  []*wolkvoxAccount
	stop     func() error
	stage    string // stands before what the progress line says

	mu            sync.Mutex
	productsSaved bool
}

type keystoneAccount struct {
	*keystone.Account
	cfg keystoneConfig
}

type wolkvoxAccount struct {
	*wolkvox.Account
	cfg wolkvoxConfig
}

// openSession loads the config and opens what it names.
func (a *app) openSession(ctx context.Context, n need) (*session, error) {
	cfg, err := a.loadConfig(n)
	if err != nil {
		return nil, err
	}
	return a.openSessionOf(ctx, cfg)
}

// openSessionOf opens what a config names.
func (a *app) openSessionOf(ctx context.Context, cfg *config) (*session, error) {
	db, err := a.openDatabase(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s, err := a.newSession(ctx, cfg, db)
	if err != nil {
		return nil, errors.Join(err, db.stop())
	}
	return s, nil
}

// newSession opens the warehouse in db and makes the accounts. The session owns db from then on.
func (a *app) newSession(ctx context.Context, cfg *config, db *database) (_ *session, err error) {
	s := &session{app: a, cfg: cfg}
	s.wh, err = warehouse.Open(ctx, warehouse.Config{
		URL: db.url, Owner: owner(), Now: a.now, Fixed: a.fixed, Log: a.log, MaxConns: cfg.connections(), LeaseFor: leaseFor, Release: buildVersion(),
	})
	if err != nil {
		return nil, err
	}
	s.stop = func() error {
		s.wh.Close()
		return db.stop()
	}
	if err := s.makeAccounts(); err != nil {
		s.wh.Close()
		return nil, err
	}
	return s, nil
}

func (s *session) makeAccounts() error {
	cfg, a := s.cfg, s.app
	for _, k := range cfg.Keystone {
		if cfg.SecretsKey.text() == "" {
			continue // validated for commands that call vendors; the others do without
		}
		var seed keystone.Token
		if text := k.RefreshToken.text(); text != "" {
			seed, _ = keystone.NewToken(text) // validated
		}
		account, err := keystone.New(keystone.Config{
			Account: k.Account, BaseURL: k.BaseURL, Proxy: cfg.HTTP.Proxy.text(), CAFile: cfg.HTTP.CAFile,
			Timeout: time.Duration(cfg.HTTP.Timeout), MaxBody: int64(cfg.HTTP.MaxBody),
			SecretsKey: cfg.secretsKey(), FormerKey: cfg.formerKey(), SpoolDir: cfg.tokenSpool(), SeedToken: seed, Tokens: s.wh.Credentials(), Owner: owner(),
			Now: a.now, Pace: k.pace, Log: a.log,
		})
		if err != nil {
			return &exitError{exitUsage, err}
		}
		s.keystone = append(s.keystone, &keystoneAccount{account, k})
	}
	for _, w := range cfg.Wolkvox {
		if w.Token.text() == "" {
			continue // as above
		}
		zone, err := time.LoadLocation(w.Timezone)
		if err != nil {
			return &exitError{exitUsage, err}
		}
		account, err := wolkvox.New(wolkvox.Config{
			Account: w.Account, Server: w.Server, BaseURL: w.BaseURL, Operation: w.Operation,
			Token: wolkvox.Token(w.Token.text()), Zone: zone,
			Proxy: cfg.HTTP.Proxy.text(), CAFile: cfg.HTTP.CAFile, Timeout: time.Duration(cfg.HTTP.Timeout), MaxBody: int64(cfg.HTTP.MaxBody),
			Ledger: s.ledger(w), Spacing: w.spacing, Now: a.now, RealNow: w.clock, Log: a.log,
			PinnedOperation: func(ctx context.Context) (string, error) { return s.wh.PinnedOperation(ctx, w.Account) },
		})
		if err != nil {
			return &exitError{exitUsage, err}
		}
		s.wolkvox = append(s.wolkvox, &wolkvoxAccount{account, w})
	}
	return nil
}

// prepareTokens makes sure that the answers to token exchanges can be kept. Whatever may exchange a
// token calls it at its start, so that a wrong state_dir is told before anything is sent; without it
// each exchange is refused.
func (s *session) prepareTokens(ctx context.Context) error {
	for _, k := range s.keystone {
		if err := k.PrepareSpool(ctx); err != nil {
			return asStateDir(err)
		}
	}
	return nil
}

// asStateDir makes the error of a folder one of the configuration.
func asStateDir(err error) error {
	if wrong := (*keystone.SpoolError)(nil); errors.As(err, &wrong) {
		return usagef("state_dir: %w", err)
	}
	return err
}

// ledger of the account's calls; none without a database.
func (s *session) ledger(w wolkvoxConfig) wolkvox.Ledger {
	if s.wh == nil {
		return nil
	}
	return s.wh.Calls(w.clock)
}

// close adds what went wrong at the end to a command's error.
func (s *session) close(err *error) {
	s.app.progress.clear()
	*err = errors.Join(*err, s.stop())
}

// saveProducts writes the wolkvox catalogue, once in a session.
func (s *session) saveProducts(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.productsSaved {
		return nil
	}
	err := s.wh.SaveProducts(ctx, wolkvox.Catalogue())
	s.productsSaved = err == nil
	return err
}

func (s *session) parallel() int { return s.cfg.parallel() }

// schedule of one of the account's datasets.
func (k *keystoneAccount) schedule(dataset string) schedule.Spec {
	switch dataset {
	case keystone.Customers:
		return k.cfg.Schedules.Customers
	case keystone.Subscriptions:
		return k.cfg.Schedules.Subscriptions
	case keystone.Current:
		return k.cfg.Schedules.Current
	}
	return k.cfg.Schedules.History
}

// job for one scope, without the windows of history.
func (k *keystoneAccount) job(dataset, scope string, now time.Time) etl.Job {
	job := etl.Job{
		Source: "keystone", Dataset: dataset, Scope: scope, Account: k.cfg.Account,
		Windows: []etl.Window{{}}, NextDue: k.schedule(dataset).Next(now),
		Snapshot: dataset == keystone.Current, // asked later it says something else
	}
	if dataset == keystone.History {
		job.Windows = nil
		job.Expected, job.Settle = k.cfg.History.Start.day, time.Duration(k.cfg.History.Settle)
	}
	return job
}

// timetable is when the account is read: by its schedule, and at the end of each month.
func (w *wolkvoxAccount) timetable() schedule.Schedule {
	return wolkvox.Timetable(w.cfg.Schedule, w.Zone())
}

func (w *wolkvoxAccount) job(now time.Time) etl.Job {
	products := w.cfg.Products
	if len(products) == 0 {
		products = productCodes()
	}
	return etl.Job{
		Source: "wolkvox", Dataset: wolkvox.Dataset, Scope: w.cfg.Account, Account: w.cfg.Account,
		Windows: []etl.Window{{}}, Products: products, Snapshot: true,
		NextDue: w.timetable().Next(now), Zone: w.cfg.Timezone, Server: w.cfg.Server, Operation: w.cfg.Operation,
	}
}

// strangers says which configured products the catalogue does not know: the vendor may have more.
func (w *wolkvoxAccount) strangers() (warnings []string) {
	known := productCodes()
	for _, code := range w.cfg.Products {
		if !slices.Contains(known, code) {
			warnings = append(warnings, fmt.Sprintf("product %q%s is not in our catalogue: it is asked for as written", code, nearest(code, known)))
		}
	}
	return warnings
}

// productCodes are the products of the wolkvox catalogue by their codes.
func productCodes() (codes []string) {
	for _, p := range wolkvox.Catalogue() {
		codes = append(codes, p.Code)
	}
	return codes
}

var processStart = time.Now()

// owner names this process in leases and runs.
func owner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), processStart.UTC().Format(time.RFC3339))
}

// datasets in the order in which they are loaded.
var datasets = []string{keystone.Customers, keystone.Subscriptions, keystone.Current, keystone.History, wolkvox.Dataset}

func isKeystone(dataset string) bool { return slices.Contains(datasets[:4], dataset) }
