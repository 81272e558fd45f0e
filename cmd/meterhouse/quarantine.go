package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
)

func (a *app) quarantineCommand() *cobra.Command {
	cmd := group("quarantine", "List or show the records that were refused", "list")
	cmd.AddCommand(a.quarantineListCommand(), a.quarantineShowCommand())
	return cmd
}

func (a *app) quarantineListCommand() *cobra.Command {
	var all bool
	var reason, format string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List what is in quarantine",
		Long:    "Lists the records that the acceptance rules refused and that are not settled yet, newest first.",
		Example: "  meterhouse quarantine list\n  meterhouse quarantine list --all --reason number_range --format csv",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := checkFormat(format, "table", "json", "csv"); err != nil {
				return err
			}
			s, err := a.openSession(cmd.Context(), need{database: true})
			if err != nil {
				return err
			}
			defer s.close(&err)
			columns := "quarantine_id, dataset, scope, product, reason, path, excerpt, quarantined_at, resolved_at, resolution"
			if format == "table" {
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
			switch format {
			case "json":
				return printJSON(a.stdout, records(t))
			case "csv":
				return printCSV(a.stdout, t)
			}
			if len(t.Rows) == 0 && reason != "" {
				open, err := s.wh.Query(cmd.Context(), `
					select coalesce(string_agg(format('%s (%s)', reason, records), ', ' order by reason), 'none')
					from (select reason, count(*) as records from mart.quarantine where resolved_at is null group by reason) as r`)
				if err != nil {
					return err
				}
				fmt.Fprintf(a.stdout, "none for reason %q; open: %s\n", reason, open.Rows[0][0])
				return nil
			}
			if len(t.Rows) == 0 {
				fmt.Fprintln(a.stdout, "nothing is in quarantine")
				return nil
			}
			printTable(a.stdout, t)
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "the settled ones too")
	cmd.Flags().StringVar(&reason, "reason", "", "only this `rule`")
	cmd.Flags().StringVar(&format, "format", "table", "`form` of the list: table, json or csv")
	return cmd
}

func (a *app) quarantineShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "Show everything about one refused record",
		Long:    "Shows one refused record: where it stood in the answer, why it was refused, and its text.",
		Example: "  meterhouse quarantine show 17",
		Args:    oneArgument("the number from `meterhouse quarantine list`"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || id < 1 {
				return usagef("quarantine show %q: want a number from `meterhouse quarantine list`", args[0])
			}
			s, err := a.openSession(cmd.Context(), need{database: true})
			if err != nil {
				return err
			}
			defer s.close(&err)
			t, err := s.wh.Query(cmd.Context(), "select * from ops.quarantine where quarantine_id = $1", id)
			if err != nil {
				return err
			}
			if len(t.Rows) == 0 {
				return fmt.Errorf("quarantine %d: there is no such record", id)
			}
			for i, name := range t.Columns {
				if value := t.Rows[0][i]; value != "" {
					fmt.Fprintf(a.stdout, "%-20s %s\n", name, printable(value))
				}
			}
			return nil
		},
	}
}
