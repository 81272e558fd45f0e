package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"meterhouse/etl"
	"meterhouse/etl/keystone"
	"meterhouse/etl/schedule"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/wolkvox"
)

func (a *app) checkCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Test configuration, database and vendors without spending a refresh token",
		Long: `Tests the configuration, the database (version, schema, rights, settings, poolers, clock, room) and
whether the vendors answer and accept the credentials. Changes nothing and spends no refresh token;
wolkvox counts one call per account, which is left out when it told its numbers in the last 6 hours.
One finding per line, ok, warn or fail, and below it what to do. Exit code 4 when anything failed.`,
		Example: "  meterhouse check\n  meterhouse --config prod.yaml check --format json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.quietly()
			cfg, err := a.loadConfig(need{database: true, vendors: true})
			if err != nil {
				return err
			}
			c := &check{app: a, cfg: cfg, format: f}
			c.config()
			c.schedules()
			c.alerts()
			err = errors.Join(c.databaseAndVendors(cmd.Context()), c.end())
			if cmd.Context().Err() != nil {
				return cmd.Context().Err()
			}
			return err
		},
	}
	formatFlag(cmd, &f)
	return cmd
}

// check collects findings. For people they are printed as they come.
type check struct {
	app    *app
	cfg    *config
	format format
	found  warehouse.Table
	failed int
	usage  error // of the configuration, although it was found out only in the database
}

func (c *check) add(f warehouse.Finding) {
	if f.Level == warehouse.Fail {
		c.failed++
	}
	c.found.Rows = append(c.found.Rows, []string{string(f.Level), f.About, f.Found, f.Remedy})
	if c.format == formatTable {
		fmt.Fprintf(c.app.stdout, "%-4s  %s: %s\n", f.Level, f.About, printable(f.Found))
		if f.Remedy != "" {
			fmt.Fprintf(c.app.stdout, "      do: %s\n", printable(f.Remedy))
		}
	}
}

func (c *check) ok(about, format string, args ...any) {
	c.add(warehouse.Finding{Level: warehouse.OK, About: about, Found: fmt.Sprintf(format, args...)})
}

func (c *check) warn(about, remedy, format string, args ...any) {
	c.add(warehouse.Finding{Level: warehouse.Warn, About: about, Found: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (c *check) fail(about string, err error) {
	c.add(warehouse.Finding{Level: warehouse.Fail, About: about, Found: strings.TrimPrefix(err.Error(), about+": "), Remedy: remedyOf(err)})
}

// end prints what is for programs, and says whether anything failed.
func (c *check) end() error {
	if c.format != formatTable {
		c.found.Columns = []string{"level", "about", "found", "remedy"}
		if err := c.format.print(c.app.stdout, c.found); err != nil {
			return err
		}
	}
	if wrong := (*exitError)(nil); errors.As(c.usage, &wrong) {
		return c.usage
	}
	if c.failed > 0 {
		return &exitError{exitDifference, fmt.Errorf("%s failed", count(c.failed, "check"))}
	}
	return nil
}

// config warns of what is valid and perhaps not meant.
func (c *check) config() {
	c.ok("config", "%s, %s", count(len(c.cfg.Keystone), "keystone account"), count(len(c.cfg.Wolkvox), "wolkvox account"))
	if dir := c.cfg.tokenSpool(); dir != "" {
		if err := keystone.CheckSpool(dir); err != nil {
			c.spool(err)
		} else {
			c.ok("state_dir", "the answers to token exchanges are kept in %s", dir)
		}
	}
	for _, k := range c.cfg.Keystone {
		if k.History.Reread == 0 {
			c.warn("keystone "+k.Account, "take history.reread out of the configuration, or set it to 125d",
				"history.reread is 0d: figures that the vendor restates are never seen")
		}
	}
}

// spool says that state_dir cannot be used.
func (c *check) spool(err error) {
	c.fail("state_dir", err)
	c.usage = asStateDir(err)
}

// schedules shows when things happen next, so that a wrong zone is seen before the end of a month.
func (c *check) schedules() {
	now := c.app.now()
	for _, k := range c.cfg.Keystone {
		s := k.Schedules
		c.ok("schedule of "+k.Account, "next customers %s, subscriptions %s, current %s, history %s",
			stamp(s.Customers.Next(now)), stamp(s.Subscriptions.Next(now)), stamp(s.Current.Next(now)), stamp(s.History.Next(now)))
		c.oddities(k.Account, now, s.Customers, s.Subscriptions, s.Current, s.History)
	}
	for _, w := range c.cfg.Wolkvox {
		zone, _ := time.LoadLocation(w.Timezone) // validated
		next := wolkvox.Timetable(w.Schedule, zone).Next(now)
		c.ok("schedule of "+w.Account, "next reading %s, there %s", stamp(next), next.In(zone).Format("2006-01-02 15:04:05 -07:00"))
		c.oddities(w.Account, now, w.Schedule)
	}
}

// oddities warns of slots that a change of the clock moves.
func (c *check) oddities(account string, now time.Time, specs ...schedule.Spec) {
	var told []string
	for _, s := range specs {
		if odd := s.Oddities(now); len(odd) > 0 && !slices.Contains(told, s.String()) {
			told = append(told, s.String())
			c.warn("schedule of "+account, "a schedule in UTC, or at another hour, has no such days", "%q: %s", s, strings.Join(odd, "; "))
		}
	}
}

// databaseAndVendors looks at the vendors in any case. How a Keystone credential stands is in the
// database, so without one only the way to the vendor is tried. The error is one of the private
// Postgres when it stops.
func (c *check) databaseAndVendors(ctx context.Context) error {
	db, err := c.app.openDatabase(ctx, c.cfg)
	if err != nil {
		c.fail("database", err)
		c.vendors(ctx, nil)
		return nil
	}
	if !c.database(ctx, db) {
		c.vendors(ctx, nil)
		return db.stop()
	}
	s, err := c.app.newSession(ctx, c.cfg, db)
	if err != nil {
		c.fail("database", err)
		c.vendors(ctx, nil)
		return db.stop()
	}
	c.vendors(ctx, s)
	return s.stop()
}

// database reports what is found there and tells whether the warehouse can be opened.
func (c *check) database(ctx context.Context, db *database) bool {
	server, found, err := warehouse.Inspect(ctx, db.url, c.cfg.connections())
	failed := c.failed
	for _, f := range found {
		c.add(f)
	}
	if err != nil {
		c.fail("database", err)
		return false
	}
	c.pooler(ctx, server, db)
	c.clock(server.Skew)
	return c.failed == failed
}

// pooler says what works through one and what needs the way around it.
func (c *check) pooler(ctx context.Context, server warehouse.Server, db *database) {
	const separate = "set database.direct_url to the server itself, such as postgres://user:password@host:5432/database"
	switch {
	case server.Pooler == warehouse.SessionPooler:
		c.ok("pooler", "database.url leads through a pooler that lends sessions: all works, as long as it has %d to lend", c.cfg.connections())
	case server.Pooler == warehouse.TransactionPooler && db.direct == db.url:
		c.warn("pooler", separate, "database.url leads through a pooler that lends sessions for a transaction: loads work, migrations are refused")
	case server.Pooler == warehouse.TransactionPooler:
		c.ok("pooler", "database.url leads through a pooler that lends sessions for a transaction: loads work, migrations take database.direct_url")
	}
	if db.direct == db.url {
		return
	}
	direct, found, err := warehouse.Inspect(ctx, db.direct, 1)
	const about = "database.direct_url"
	switch {
	case err != nil:
		c.fail(about, err)
		return
	case direct.Identity != server.Identity:
		c.add(warehouse.Finding{Level: warehouse.Fail, About: about, Found: "leads to another database than database.url", Remedy: separate})
		return
	case direct.Pooler == warehouse.TransactionPooler:
		c.add(warehouse.Finding{Level: warehouse.Fail, About: about, Remedy: separate,
			Found: "leads through a pooler that lends sessions for a transaction: migrations are refused"})
		return
	}
	for _, f := range found { // the rest is said about database.url
		if f.About == "rights" && f.Level != warehouse.OK {
			f.About += " of " + about
			c.add(f)
		}
	}
	c.ok(about, "the same database, as role %s", direct.Role)
}

// Clocks that differ more than that make trouble: slots, days and token exchanges follow from them.
const (
	skewWarn = 5 * time.Second
	skewFail = 60 * time.Second
)

func (c *check) clock(skew time.Duration) {
	const both = "set both clocks, such as with NTP"
	f := warehouse.Finding{Level: warehouse.OK, About: "clock", Found: fmt.Sprintf("the database's clock differs by %s", skew)}
	switch {
	case skew.Abs() > skewFail:
		f.Level, f.Remedy, f.Found = warehouse.Fail, both, f.Found+": no token is exchanged like that"
	case skew.Abs() > skewWarn:
		f.Level, f.Remedy = warehouse.Warn, both
	}
	c.add(f)
}

// vendors asks each account's vendor; s is nil without a database.
func (c *check) vendors(ctx context.Context, s *session) {
	hasDatabase := s != nil
	if s == nil {
		s = &session{app: c.app, cfg: c.cfg}
		if err := s.makeAccounts(); err != nil {
			c.fail("vendors", err)
			return
		}
	}
	for _, k := range s.keystone {
		if hasDatabase {
			c.keystone(ctx, k)
		} else if text, err := k.Reach(ctx); err != nil {
			c.fail("keystone "+k.cfg.Account, err)
		} else {
			c.warn("keystone "+k.cfg.Account, "put the database right, then check again", "%s; how the credential stands is in the database", text)
		}
	}
	for i, w := range s.wolkvox {
		c.wolkvox(ctx, w, fmt.Sprintf("wolkvox[%d].token", i))
	}
}

func (c *check) keystone(ctx context.Context, k *keystoneAccount) {
	about := "keystone " + k.cfg.Account
	if c.usage == nil {
		if err := k.CheckSpool(ctx); err != nil {
			c.spool(err)
		}
	}
	text, err := k.Ping(ctx)
	if err != nil {
		c.fail(about, err)
		return
	}
	c.ok(about, "%s", text)
	status, err := k.TokenStatus(ctx)
	if err != nil {
		c.fail(about, err)
		return
	}
	chain := "the token chain is " + string(status.State)
	if status.Detail != "" {
		chain += " (" + status.Detail + ")"
	}
	switch step, needed := nextStep(status); {
	case needed, status.State == keystone.TokenAmbiguous:
		c.warn(about, step, "%s", chain)
	case status.State == keystone.TokenNone:
		c.ok(about, "%s", step)
	default:
		c.ok(about, "%s; a person has to log in again by %s", chain, status.LoginDueAt.UTC().Format(time.DateOnly))
	}
	if c.cfg.formerKey() == nil {
		return
	}
	if status.FormerKey {
		c.warn(about, "meterhouse token rekey", "something is still sealed with former_secrets_key")
	} else {
		c.warn(about, "take former_secrets_key out of the configuration once that is said of every account", "former_secrets_key is not needed any more")
	}
}

func (c *check) wolkvox(ctx context.Context, w *wolkvoxAccount, tokenPath string) {
	about := "wolkvox " + w.cfg.Account
	for _, text := range w.strangers() {
		c.warn(about, "", "%s", text)
	}
	info, err := w.TokenInfo(ctx)
	if errors.Is(err, etl.ErrUnauthorized) {
		c.add(warehouse.Finding{Level: warehouse.Fail, About: about, Found: err.Error(),
			Remedy: fmt.Sprintf("correct %s (%s): it must be the wolkvox-token of this server's operation", tokenPath, c.cfg.sources[tokenPath])})
		return
	}
	if err != nil {
		c.fail(about, err)
		return
	}
	said := fmt.Sprintf("the token is accepted; %d of %d calls are left today", info.Left, info.Limit)
	if info.Age > 0 {
		said += fmt.Sprintf(", as the vendor said %s ago", info.Age.Round(time.Minute))
	}
	// Every product of a reading is a call of its own.
	if products := int64(len(w.job(c.app.now()).Products)); info.Left >= 0 && info.Left < products {
		c.warn(about, "read less often (schedule) or fewer products, or ask the vendor for more calls", "%s: a reading takes %d", said, products)
		return
	}
	c.ok(about, "%s", said)
}

// remedyOf says what to do about a failed call where the message does not.
func remedyOf(err error) string {
	var reject *etl.RejectError
	if !errors.As(err, &reject) {
		return ""
	}
	switch reject.Reason {
	case "tls":
		return "if a proxy here inspects TLS, name its certificate in http.ca_file"
	case "transient", "timeout":
		return "check the host's name, DNS, what filters the network, and http.proxy; or the vendor is down: try again later"
	case "http_status":
		return "check base_url and http.proxy: something else than the vendor may have answered"
	}
	return ""
}
