package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"meterhouse/etl/warehouse"
)

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Test configuration, database and vendors without spending a refresh token",
		Long: `Tests the configuration, the database (version, encoding, schema, clock) and whether the vendors
answer and accept the credentials. No refresh token is spent; wolkvox counts one call per account.
One line per finding: ok, warn or fail, and what to do. Exit code 4 when anything failed.`,
		Example: "  meterhouse check\n  meterhouse --config prod.yaml check",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			a.quietly()
			cfg, err := a.loadConfig(need{database: true, vendors: true})
			if err != nil {
				return err
			}
			f := &findings{app: a}
			f.add("ok", "config", "%s, %s", count(len(cfg.Keystone), "keystone account"), count(len(cfg.Wolkvox), "wolkvox account"))
			if cfg.StateDir != "" {
				f.add("warn", "state_dir", "not used by this version")
			}
			for _, k := range cfg.Keystone {
				if k.History.Reread == 0 {
					f.add("warn", "keystone "+k.Account, "history.reread is 0d: figures that the vendor restates are never seen")
				}
			}
			f.schedules(cfg)
			f.database(cmd.Context(), cfg)
			if cmd.Context().Err() != nil {
				return cmd.Context().Err()
			}
			if f.failed > 0 {
				return &exitError{exitDifference, fmt.Errorf("%s failed", count(f.failed, "check"))}
			}
			return nil
		},
	}
}

// findings prints what was found as it comes.
type findings struct {
	app    *app
	failed int
}

func (f *findings) add(state, about, format string, args ...any) {
	if state == "fail" {
		f.failed++
	}
	fmt.Fprintf(f.app.stdout, "%-4s  %s: %s\n", state, about, printable(fmt.Sprintf(format, args...)))
}

// schedules shows when things happen next, so that a wrong zone is seen before the end of a month.
func (f *findings) schedules(cfg *config) {
	now := f.app.now()
	for _, k := range cfg.Keystone {
		s := k.Schedules
		f.add("ok", "schedule of "+k.Account, "next customers %s, subscriptions %s, current %s, history %s",
			stamp(s.Customers.next(now)), stamp(s.Subscriptions.next(now)), stamp(s.Current.next(now)), stamp(s.History.next(now)))
	}
	for _, w := range cfg.Wolkvox {
		next := w.Schedule.next(now)
		zone, _ := time.LoadLocation(w.Timezone) // validated
		f.add("ok", "schedule of "+w.Account, "next reading %s, there %s", stamp(next), next.In(zone).Format("2006-01-02 15:04:05 -07:00"))
	}
}

// Clocks that differ more than that make trouble for leases and token exchanges.
const (
	skewWarn = 5 * time.Second
	skewFail = 60 * time.Second
)

// database checks the database, and the vendors through it: that is where their credentials are.
func (f *findings) database(ctx context.Context, cfg *config) {
	a := f.app
	db, err := a.openDatabase(ctx, cfg)
	if err != nil {
		f.add("fail", "database", "%v", err)
		return
	}
	stop := db.stop
	defer func() {
		if err := stop(); err != nil {
			f.add("fail", "database", "%v", err)
		}
	}()
	if db.direct != db.url {
		if _, err := warehouse.Probe(ctx, db.direct); err != nil {
			f.add("fail", "database.direct_url", "%v", err)
		}
	}
	server, err := warehouse.Probe(ctx, db.url)
	if err != nil {
		f.add("fail", "database", "%v", err)
		return
	}
	s, err := a.newSession(ctx, cfg, db)
	if err != nil {
		f.add("fail", "database", "%v", err)
	} else {
		stop = s.stop
		f.add("ok", "database", "PostgreSQL %s, encoding %s, schema %d of %d", server.Version, server.Encoding, server.Schema, server.Head)
	}
	switch skew := server.Skew.Abs(); {
	case skew > skewFail:
		f.add("fail", "clock", "the database's clock differs by %s: set both clocks, no token is exchanged until then", server.Skew)
	case skew > skewWarn:
		f.add("warn", "clock", "the database's clock differs by %s: set both clocks", server.Skew)
	default:
		f.add("ok", "clock", "the database's clock differs by %s", server.Skew)
	}
	if s == nil {
		f.add("warn", "vendors", "not asked: their credentials are in the database")
		return
	}
	f.vendors(ctx, s)
}

func (f *findings) vendors(ctx context.Context, s *session) {
	for _, k := range s.keystone {
		about := "keystone " + k.cfg.Account
		text, err := k.Ping(ctx)
		if err != nil {
			f.add("fail", about, "%v", err)
			continue
		}
		f.add("ok", about, "%s", text)
		if status, err := k.TokenStatus(ctx); err == nil {
			switch step, needed := nextStep(status); {
			case needed:
				f.add("warn", about, "%s", step)
			case step != "none":
				f.add("ok", about, "%s", step)
			}
		}
	}
	for _, w := range s.wolkvox {
		about := "wolkvox " + w.cfg.Account
		for _, text := range w.strangers() {
			f.add("warn", about, "%s", text)
		}
		info, err := w.TokenInfo(ctx)
		if err != nil {
			f.add("fail", about, "%v", err)
			continue
		}
		state := "ok"
		// Every product of a reading is a call of its own.
		if products := int64(len(w.job(s.app.now()).Products)); info.Left >= 0 && info.Left < products {
			state = "warn"
		}
		f.add(state, about, "the token is accepted; %d of %d calls are left today", info.Left, info.Limit)
	}
}
