package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"meterhouse/etl/warehouse"
)

func (a *app) pruneCommand() *cobra.Command {
	var planOnly bool
	var f format
	cmd := &cobra.Command{
		Use:   "prune [--plan]",
		Short: "Delete bodies and samples that are older than the configured retention",
		Long: `Deletes landed bodies older than retention.payload and drops whole months of samples older than
retention.samples; 0d, the default, keeps them. A body stays while a figure, an unsettled refusal
or a replay that is still possible needs it. Daily figures, their ledger and the runs stay for
ever. Loads and readers go on meanwhile. An interrupted prune is finished by the next one.`,
		Example: "  meterhouse prune --plan\n  meterhouse prune",
		Args:    noArguments,
	}
	cmd.Flags().BoolVar(&planOnly, "plan", false, "print what would go and what stays, and change nothing")
	formatFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		s, err := a.openSession(cmd.Context(), need{database: true})
		if err != nil {
			return err
		}
		defer s.close(&err)
		keep := s.cfg.Retention
		pruned, err := s.wh.Prune(cmd.Context(), warehouse.Retention{
			Payload: time.Duration(keep.Payload), Samples: time.Duration(keep.Samples),
			DirectURL: s.cfg.Database.DirectURL.text(), PlanOnly: planOnly,
		})
		if len(pruned) > 0 || err == nil {
			err = errors.Join(err, a.printPruned(f, keep, pruned, planOnly))
		}
		if errors.Is(err, warehouse.ErrLocked) {
			return &exitError{exitBusy, err}
		}
		return err
	}
	return cmd
}

func (a *app) printPruned(f format, keep retentionConfig, pruned []warehouse.Pruned, planOnly bool) error {
	t := warehouse.Table{Columns: []string{"what", "of", "rows", "bytes", "fate"}, Numeric: []bool{false, false, true, true}}
	gone := map[string]string{"payload": "deleted", "samples": "dropped"}
	if planOnly {
		gone = map[string]string{"payload": "would be deleted", "samples": "would be dropped"}
	}
	for _, p := range pruned {
		rows, fate := "", gone[p.What]
		if p.Rows >= 0 {
			rows = strconv.FormatInt(p.Rows, 10)
		}
		if p.Stays != "" {
			fate = "stays: " + p.Stays
		}
		t.Rows = append(t.Rows, []string{p.What, p.Of, rows, strconv.FormatInt(p.Bytes, 10), fate})
	}
	if !f.isForPeople() {
		return f.print(a.stdout, t)
	}
	if len(t.Rows) > 0 {
		if err := f.print(a.stdout, t); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout)
	}
	now := a.now()
	limit := func(name, what string, keep span) {
		if keep == 0 {
			fmt.Fprintf(a.stdout, "retention.%s is 0d: all %s are kept; set it in the configuration, such as %s: 400d\n", name, what, name)
			return
		}
		fmt.Fprintf(a.stdout, "retention.%s is %s: %s from before %s are old\n", name, keep, what, stamp(now.Add(-time.Duration(keep))))
	}
	limit("payload", "bodies", keep.Payload)
	limit("samples", "samples", keep.Samples)
	if keep.Payload+keep.Samples > 0 && len(t.Rows) == 0 {
		fmt.Fprintln(a.stdout, "nothing is old")
	}
	return nil
}
