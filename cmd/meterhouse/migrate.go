package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"meterhouse/etl/warehouse"
	"meterhouse/migrations"
)

func (a *app) migrateCommand() *cobra.Command {
	cmd := group("migrate", "Bring the database schema up to this binary, or back", "up")
	cmd.AddCommand(
		&cobra.Command{
			Use:   "up",
			Short: "Apply the migrations that are pending",
			Long: `Applies what is pending. Any number of processes may start it at once: one works, the others
wait. Uses database.direct_url when it is set. Without the right to create roles it prints what an
administrator has to run by hand.`,
			Example: "  meterhouse migrate up\n  METERHOUSE_DATABASE_URL=postgres://me@db/meterhouse meterhouse migrate up",
			Args:    noArguments,
			RunE:    a.withDirectURL(a.migrateUp),
		},
		a.migrateDownCommand(), a.migrateStatusCommand(),
	)
	return cmd
}

func (a *app) migrateDownCommand() *cobra.Command {
	to, yes := int64(-1), false
	cmd := &cobra.Command{
		Use:   "down [--to N] --yes",
		Short: "Take back the newest migration, or all after version N",
		Long: `Takes back the newest migration, or every one after version N; 0 leaves an empty database.
Tables and what is in them are dropped: it wants --yes.`,
		Example: "  meterhouse migrate down --yes\n  meterhouse migrate down --to 4 --yes",
		Args:    noArguments,
	}
	cmd.Flags().Int64Var(&to, "to", 0, "`version` to go back to; 0 is an empty database")
	cmd.Flags().BoolVar(&yes, "yes", false, "really drop what the migrations made")
	cmd.RunE = a.withDirectURL(func(ctx context.Context, url string, server warehouse.Server) error {
		target := to
		if !cmd.Flags().Changed("to") {
			target = server.Schema - 1
		}
		switch {
		case server.Schema == 0:
			fmt.Fprintln(a.stdout, "nothing is applied")
			return nil
		case target < 0 || target >= server.Schema:
			return usagef("--to %d: the schema is at version %d: want 0 to %d", target, server.Schema, server.Schema-1)
		case !yes:
			return usagef("this takes the schema back from version %d to %d and drops what is in those tables: want --yes", server.Schema, target)
		}
		undone, err := migrations.Down(ctx, url, target)
		a.printApplied("took back", undone)
		return err
	})
	return cmd
}

// withDirectURL opens the configured database for a migration command and looks whether it is there.
func (a *app) withDirectURL(do func(ctx context.Context, url string, server warehouse.Server) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) (err error) {
		cfg, err := a.loadConfig(need{database: true})
		if err != nil {
			return err
		}
		db, err := a.openDatabase(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, db.stop()) }()
		server, err := warehouse.Probe(cmd.Context(), db.direct)
		if err != nil {
			return err
		}
		if server.Pooler == warehouse.TransactionPooler {
			return usagef("a pooler that lends sessions for a transaction is in the way, and two migrations at once would not see each other: " +
				"set database.direct_url to the server itself")
		}
		return do(cmd.Context(), db.direct, server)
	}
}

func (a *app) migrateUp(ctx context.Context, url string, server warehouse.Server) error {
	if err := server.Migratable(); err != nil {
		return fmt.Errorf("migrate up: %w", err)
	}
	applied, notes, err := migrations.Up(ctx, url)
	a.printApplied("applied", applied)
	if err != nil {
		return err
	}
	if len(applied) == 0 {
		fmt.Fprintf(a.stdout, "nothing to do, the schema is at version %d\n", migrations.Head())
	}
	for _, note := range notes {
		fmt.Fprintf(a.stdout, "\n%s\n", note)
	}
	return nil
}

func (a *app) printApplied(what string, all []migrations.Applied) {
	for _, m := range all {
		fmt.Fprintf(a.stdout, "%s %s in %s\n", what, m.Name, m.Took.Round(time.Millisecond))
	}
}

func (a *app) migrateStatusCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "List the migrations and when they were applied",
		Long:    "Lists every migration of this binary with the time it was applied. Changes nothing.",
		Example: "  meterhouse migrate status\n  meterhouse migrate status --format json",
		Args:    noArguments,
	}
	formatFlag(cmd, &f)
	cmd.RunE = a.withDirectURL(func(ctx context.Context, url string, _ warehouse.Server) error {
		states, err := migrations.Status(ctx, url)
		if err != nil {
			return err
		}
		t := warehouse.Table{Columns: []string{"version", "migration", "state", "applied_at"}, Numeric: []bool{true}}
		for _, s := range states {
			state := "applied"
			if s.AppliedAt.IsZero() {
				state = "pending"
			}
			t.Rows = append(t.Rows, []string{strconv.FormatInt(s.Version, 10), s.Name, state, stamp(s.AppliedAt)})
		}
		return f.print(a.stdout, t)
	})
	return cmd
}

// stamp writes an instant for people; the zero time is empty.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}
