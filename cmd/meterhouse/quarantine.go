package main

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"meterhouse/etl/console"
)

func (a *app) quarantineCommand() *cobra.Command {
	cmd := group("quarantine", "List, show, retry or dismiss the records that were refused", "list")
	cmd.AddCommand(a.quarantineListCommand(), a.quarantineShowCommand(), a.quarantineRetryCommand(), a.quarantineDismissCommand())
	return cmd
}

func (a *app) quarantineListCommand() *cobra.Command {
	var all bool
	var reason string
	var f format
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List what is in quarantine",
		Long:    "Lists the records that were refused and are not settled yet, newest first.",
		Example: "  meterhouse quarantine list\n  meterhouse quarantine list --all --reason number_range --format csv",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			s, err := a.openSession(cmd.Context(), need{database: true})
			if err != nil {
				return err
			}
			defer s.close(&err)
			columns := "quarantine_id, dataset, scope, product, reason, path, excerpt, quarantined_at, resolved_at, resolution"
			if f.isForPeople() {
				columns = `quarantine_id, dataset, scope, reason, path,
					case when length(excerpt) > 60 then left(excerpt, 60) || '…' else excerpt end as excerpt,
					to_char(quarantined_at, 'YYYY-MM-DD HH24:MI"Z"') as at, coalesce(resolution, 'open') as state`
			}
			t, err := s.wh.Query(cmd.Context(), "select "+columns+` from mart.quarantine
				where ($1 or resolved_at is null) and ($2 = '' or reason = $2)
				order by quarantined_at desc, quarantine_id desc`, all, reason)
			if err != nil {
				return err
			}
			if len(t.Rows) > 0 || !f.isForPeople() {
				return f.print(a.stdout, t)
			}
			if reason != "" {
				open, err := s.wh.Query(cmd.Context(), `
					select coalesce(string_agg(format('%s (%s)', reason, records), ', ' order by reason), 'none')
					from (select reason, count(*) as records from mart.quarantine where resolved_at is null group by reason) as r`)
				if err != nil {
					return err
				}
				fmt.Fprintf(a.stdout, "none for reason %q; open: %s\n", reason, open.Rows[0][0])
				return nil
			}
			fmt.Fprintln(a.stdout, "nothing is in quarantine")
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "the settled ones too")
	cmd.Flags().StringVar(&reason, "reason", "", "only this `rule`")
	formatFlag(cmd, &f)
	return cmd
}

func (a *app) quarantineShowCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Show everything about one refused record",
		Long:    "Shows one refused record: where it stood in the answer, why it was refused, and its text.",
		Example: "  meterhouse quarantine show 17\n  meterhouse quarantine show 17 --format json",
		Args:    oneArgument("the number from `meterhouse quarantine list`"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ids, err := quarantineIDs(cmd, args)
			if err != nil {
				return err
			}
			s, err := a.openSession(cmd.Context(), need{database: true})
			if err != nil {
				return err
			}
			defer s.close(&err)
			t, err := s.wh.Query(cmd.Context(), "select * from ops.quarantine where quarantine_id = $1", ids[0])
			if err != nil {
				return err
			}
			if len(t.Rows) == 0 {
				return fmt.Errorf("quarantine %d: there is no such record: want a number from `meterhouse quarantine list --all`", ids[0])
			}
			if f != formatTable {
				return f.print(a.stdout, t)
			}
			for i, name := range t.Columns {
				if value := t.Rows[0][i]; value != "" {
					fmt.Fprintf(a.stdout, "%-20s %s\n", name, printable(value))
				}
			}
			return nil
		},
	}
	formatFlag(cmd, &f)
	return cmd
}

func (a *app) quarantineRetryCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "retry ID...",
		Short: "Read the refused records again by today's rules",
		Long: `Replays the landed bodies that hold the refused records, as after an upgrade that accepts them: the
first body that was refused and later ones of the same days. No vendor is asked. What is accepted
now is loaded and settles its record; what is refused still stays open, with exit code 3.`,
		Example: "  meterhouse quarantine retry 17\n  meterhouse quarantine retry 17 18 21",
		Args:    wantIDs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ids, err := quarantineIDs(cmd, args)
			if err != nil {
				return err
			}
			s, err := a.openOfflineSession(cmd.Context())
			if err != nil {
				return err
			}
			defer s.close(&err)
			if err := s.checkOpen(cmd.Context(), ids); err != nil {
				return err
			}
			repairs, err := s.planRetry(cmd.Context(), ids)
			if err != nil {
				return err
			}
			results, err := s.replay(cmd.Context(), repairs)
			err = s.reportReplay(results, err, f)
			failed := slices.ContainsFunc(results, func(r result) bool { return r.err != nil })
			if failed || err != nil && a.exitCode(err) != exitPartial {
				return err
			}
			return s.reportRetried(cmd.Context(), ids)
		},
	}
	formatFlag(cmd, &f)
	return cmd
}

// planRetry finds what has to be read again for the records: each piece once.
func (s *session) planRetry(ctx context.Context, ids []int64) (all []repair, err error) {
	refusals, err := s.wh.Refusals(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, r := range refusals {
		runs, err := s.wh.Landed(ctx, r.Dataset, r.Scope, r.Days)
		if err != nil {
			return nil, err
		}
		repairs, err := s.plan(ctx, r.Dataset, runs, r.Days)
		if err != nil {
			return nil, err
		}
		for _, piece := range repairs {
			if !slices.ContainsFunc(all, func(other repair) bool {
				return other.dataset == piece.dataset && other.scope == piece.scope && other.window == piece.window &&
					(piece.rebuild || other.runs[0].ID == piece.runs[0].ID)
			}) {
				all = append(all, piece)
			}
		}
	}
	return all, nil
}

func (a *app) quarantineDismissCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "dismiss ID... --reason R",
		Short: "Settle refused records for good: what was refused is not wanted",
		Long: `Settles open records with a reason, your name and the time, all of them or none. While the vendor
repeats the same refused text it is ignored and no longer quarantined.`,
		Example: "  meterhouse quarantine dismiss 17 18 --reason 'test level of the vendor, ticket 4711'",
		Args:    wantIDs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ids, err := quarantineIDs(cmd, args)
			if err != nil {
				return err
			}
			if strings.TrimSpace(reason) == "" {
				return usagef("quarantine dismiss: want --reason with why it is not wanted: whoever closes the month will ask")
			}
			s, err := a.openSession(cmd.Context(), need{database: true})
			if err != nil {
				return err
			}
			defer s.close(&err)
			if err := s.wh.Dismiss(cmd.Context(), ids, a.person(), strings.TrimSpace(reason)); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "dismissed %s\n", count(len(ids), "record"))
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for whoever asks later")
	return cmd
}

func wantIDs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("%swant one or more numbers from `meterhouse quarantine list`", within(cmd))
	}
	return nil
}

// quarantineIDs reads numbers of quarantined records, each once.
func quarantineIDs(cmd *cobra.Command, args []string) (ids []int64, err error) {
	for _, text := range args {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil || id < 1 {
			return nil, usagef("%s%q: want a number from `meterhouse quarantine list`", within(cmd), text)
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// person is who gives the command, for the records of decisions.
func (a *app) person() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return or(a.getenv("USER"), "unknown")
}

// checkOpen refuses numbers of records that are settled or do not exist.
func (s *session) checkOpen(ctx context.Context, ids []int64) error {
	t, err := s.wh.Query(ctx, `
		select format('quarantine %s: %s', asked.id,
			coalesce('is settled: ' || q.resolution, 'there is no such record: want a number from `+"`meterhouse quarantine list`"+`'))
		from unnest($1::bigint[]) as asked (id)
		left join ops.quarantine as q on q.quarantine_id = asked.id
		where q.quarantine_id is null or q.resolved_at is not null
		order by asked.id`, ids)
	if err != nil || len(t.Rows) == 0 {
		return err
	}
	var problems []error
	for _, row := range t.Rows {
		problems = append(problems, console.Refused(row[0]))
	}
	return errors.Join(problems...)
}

// reportRetried says what became of the records; the error carries the exit code.
func (s *session) reportRetried(ctx context.Context, ids []int64) error {
	t, err := s.wh.Query(ctx, `select quarantine_id, reason from ops.quarantine
		where quarantine_id = any ($1) and resolved_at is null order by quarantine_id`, ids)
	if err != nil || len(t.Rows) == 0 {
		return err
	}
	var still []string
	for _, row := range t.Rows {
		still = append(still, fmt.Sprintf("%s (%s)", row[0], row[1]))
	}
	return &exitError{exitPartial, fmt.Errorf("%d of %s refused still: %s: an upgrade may read them, or `meterhouse quarantine dismiss` settles them",
		len(still), count(len(ids), "record"), strings.Join(still, ", "))}
}
