package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"meterhouse/etl/metabase"
	"meterhouse/etl/warehouse"
	"meterhouse/queries"
)

// biPoll is how often a Metabase that is waited for is looked at. Tests, which ask a fake, shorten it.
var biPoll time.Duration

func (a *app) biCommand() *cobra.Command {
	cmd := group("bi", "Bring a Metabase to what is kept here as code", "provision --plan")
	var o biOptions
	provision := &cobra.Command{
		Use:   "provision [--plan] [--verify]",
		Short: "Metabase: database, descriptions, questions and three dashboards, idempotent",
		Long: `Waits for the Metabase of bi.url, makes its first administrator when it is fresh, and keeps there: the
database Meterhouse, through a login that only reads; what the tables and columns of mart mean, from the
comments of the database; a collection Meterhouse with the analysts' questions; the dashboards
Consumption, Month end and Data health. Things are known by their names. It writes what differs, so a
second run writes nothing; what is ours and was changed by hand is changed back and listed; what a
person adds stays; nothing is deleted. A run that broke off is completed by the next one.

Who we are there is read from METERHOUSE_BI_EMAIL and METERHOUSE_BI_PASSWORD, or METERHOUSE_BI_API_KEY; how
Metabase reaches the warehouse from METERHOUSE_BI_DATABASE_URL; each also as NAME_FILE, or in the
configuration under bi. When Metabase does not come up in time, or another run is at work, the exit
code is 75.`,
		Example: "  meterhouse bi provision --plan\n  meterhouse bi provision --verify",
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.provision(cmd.Context(), o) },
	}
	provision.Flags().BoolVar(&o.plan, "plan", false, "print what would be made and changed, and change nothing")
	provision.Flags().BoolVar(&o.verify, "verify", false, "then run every question there; one that fails is exit code 4")
	provision.Flags().DurationVar(&o.wait, "wait", 5*time.Minute, "how `long` Metabase may take to come up, and again to read the schema")
	cmd.AddCommand(provision)
	return cmd
}

type biOptions struct {
	plan, verify bool
	wait         time.Duration
}

func (a *app) provision(ctx context.Context, o biOptions) (err error) {
	s, err := a.openSession(ctx, need{database: true, bi: true})
	if err != nil {
		return err
	}
	defer s.close(&err)
	reach, err := connectionOf(s.cfg.BI.DatabaseURL.text())
	if err != nil {
		return usagef("config: bi.database_url: %w", err)
	}
	tables, err := s.biTables(ctx)
	if err != nil {
		return err
	}
	if o.plan {
		return a.keepMetabase(ctx, s, reach, tables, o)
	}
	err = s.wh.Alone(ctx, "bi provision", func() error { return a.keepMetabase(ctx, s, reach, tables, o) })
	if errors.Is(err, warehouse.ErrTaken) { // two would make everything twice: Metabase takes any name again
		return &exitError{exitBusy, fmt.Errorf("%w: want one at a time", err)}
	}
	return err
}

func (a *app) keepMetabase(ctx context.Context, s *session, reach metabase.Connection, tables []metabase.Table, o biOptions) error {
	login, err := s.wh.KeepReader(ctx, reach.User, reach.Password, o.plan)
	if err != nil {
		return err
	}
	report, err := metabase.Provision(ctx, metabase.Config{
		URL: s.cfg.BI.URL, Email: s.cfg.BI.Email, Password: s.cfg.BI.Password.text(), APIKey: s.cfg.BI.APIKey.text(), CAFile: s.cfg.HTTP.CAFile,
		Warehouse: reach, Tables: tables, Cards: biCards(), Dashboards: metabase.Dashboards(),
		Wait: o.wait, Poll: biPoll, Plan: o.plan, Verify: o.verify,
		Notice: func(line string) { a.progress.set("%s", line) },
	})
	a.progress.clear()
	if login == "" {
		report.Unchanged++
	} else {
		change := metabase.Change{Created: strings.HasPrefix(login, "made"), What: "login " + strconv.Quote(reach.User) + " of the warehouse: " + login}
		report.Changes = append([]metabase.Change{change}, report.Changes...)
	}
	a.printProvisioned(report, o.plan)
	if errors.Is(err, metabase.ErrNotReady) {
		return &exitError{exitBusy, err}
	}
	if err != nil {
		return err
	}
	return a.printVerified(report)
}

func (a *app) printProvisioned(r metabase.Report, plan bool) {
	would, created := "", 0
	if plan {
		would = "would be "
	}
	for _, c := range r.Changes {
		verb := "changed"
		if c.Created {
			verb = "created"
			created++
		}
		fmt.Fprintf(a.stdout, "%s%s %s\n", would, verb, c.What)
	}
	fmt.Fprintf(a.stdout, "%screated %d, changed %d, unchanged %d\n", would, created, len(r.Changes)-created, r.Unchanged)
}

func (a *app) printVerified(r metabase.Report) error {
	var failed []error
	rows := 0
	for _, v := range r.Verified {
		if rows += v.Rows; v.Problem != "" {
			failed = append(failed, fmt.Errorf("question %q: %s", v.Card, v.Problem))
		}
		if v.IsCut {
			fmt.Fprintf(a.stdout, "question %q shows its first %d rows: for more raise MB_UNAGGREGATED_QUERY_ROW_LIMIT of Metabase, or download them\n", v.Card, v.Rows)
		}
	}
	if len(r.Verified) > 0 {
		fmt.Fprintf(a.stdout, "on Metabase %s: %d of %d questions answered, with %d rows\n", r.Version, len(r.Verified)-len(failed), len(r.Verified), rows)
	}
	if len(failed) > 0 {
		return &exitError{exitDifference, errors.Join(failed...)}
	}
	return nil
}

// connectionOf reads how Metabase reaches the warehouse.
func connectionOf(url string) (metabase.Connection, error) {
	c, err := pgx.ParseConfig(url)
	if err != nil {
		return metabase.Connection{}, err
	}
	reach := metabase.Connection{Host: c.Host, Port: int(c.Port), Database: c.Database, User: c.User, Password: c.Password}
	if mode := regexp.MustCompile(`[?&]sslmode=([a-z-]+)`).FindStringSubmatch(url); mode != nil {
		reach.SSLMode = mode[1]
	}
	switch reach.SSLMode {
	case "", "disable", "require", "verify-ca", "verify-full":
	default: // Metabase knows no others
		return reach, fmt.Errorf("sslmode %s: want disable, require, verify-ca or verify-full", reach.SSLMode)
	}
	return reach, nil
}

// biTables is what the comments of the database say of mart.
func (s *session) biTables(ctx context.Context) (tables []metabase.Table, err error) {
	relations, err := s.wh.Relations(ctx, "mart")
	for _, r := range relations {
		t := metabase.Table{Schema: r.Schema, Name: r.Name, Comment: r.Comment}
		for _, c := range r.Columns {
			t.Columns = append(t.Columns, metabase.Column(c))
		}
		tables = append(tables, t)
	}
	return tables, err
}

var _ = warehouse.RelationColumn(metabase.Column{}) // the two say the same

// biCards are the cards of the dashboards and the analysts' questions.
func biCards() []metabase.Card {
	cards := metabase.Cards()
	for _, q := range queries.All() {
		cards = append(cards, biCard(q))
	}
	return cards
}

// biCard makes a question a card: every parameter a variable, whose default holds while it has no value.
func biCard(q queries.Query) metabase.Card {
	c := metabase.Card{
		Name: sentence(q.Name), Display: "table",
		Description: q.Question + " One row per " + unwrapped(strings.TrimPrefix(q.Grain, "one row per ")) + " " + unwrapped(q.Caveats),
	}
	c.SQL = strings.TrimRight(q.Replace(func(p queries.Param, normal string) string {
		v := metabase.Variable{Name: p.Name, Label: sentence(p.Name), Type: "text"}
		given := "{{" + p.Name + "}}"
		switch {
		case p.IsMonth():
			given = "to_date(" + given + ", 'YYYY-MM')"
		case p.Type == "date":
			v.Type = "date"
		case p.Type == "integer":
			v.Type = "number"
		}
		c.Variables = append(c.Variables, v)
		return "coalesce([[" + given + ", ]]" + normal + ")"
	}), ";\n")
	return c
}

// sentence is a name of ours as people write it.
func sentence(name string) string {
	text := strings.ReplaceAll(name, "_", " ")
	return strings.ToUpper(text[:1]) + text[1:]
}

func unwrapped(text string) string { return strings.Join(strings.Fields(text), " ") }
