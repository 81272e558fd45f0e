package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"meterhouse/etl"
	"meterhouse/etl/keystone"
	"meterhouse/etl/wolkvox"
)

func (a *app) backfillCommand() *cobra.Command {
	var from, until, customer string
	var planOnly bool
	var f format
	cmd := &cobra.Command{
		Use:   "backfill DATASET --from DAY --until DAY",
		Short: "Load past days from the vendor again",
		Long: `Asks the vendor for the days from --from up to but not including --until (UTC), newest first.
Only keystone.history can be asked for the past: the other reports tell the present.`,
		Example: "  meterhouse backfill keystone.history --from 2026-01-01 --until 2026-04-01\n" +
			"  meterhouse backfill keystone.history --from 2026-03-01 --until 2026-03-08 --customer C-1001 --plan",
		Args: oneArgument("a dataset such as keystone.history"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			window, err := backfillWindow(args[0], from, until)
			if err != nil {
				return err
			}
			s, err := a.openSession(cmd.Context(), need{database: true, vendors: true})
			if err != nil {
				return err
			}
			defer s.close(&err)
			if !planOnly { // wolkvox cannot be asked for past days
				if err := s.prepareTokens(cmd.Context()); err != nil {
					return err
				}
			}
			if err := s.checkBackfill(cmd.Context(), window, customer); err != nil {
				return err
			}
			return s.loadAndReport(cmd.Context(), order{
				datasets: args, windows: backfillWindows(window), customer: customer, planOnly: planOnly, format: f,
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "first `day` to load, YYYY-MM-DD")
	cmd.Flags().StringVar(&until, "until", "", "first `day` no longer to load")
	cmd.Flags().StringVar(&customer, "customer", "", "only the customer with this `id`")
	cmd.Flags().BoolVar(&planOnly, "plan", false, "print the windows that would be asked for and change nothing")
	formatFlag(cmd, &f)
	return cmd
}

// backfillWindow checks what can be checked without a configuration.
func backfillWindow(dataset, from, until string) (w etl.Window, err error) {
	if err := checkDataset(dataset); err != nil {
		return w, err
	}
	switch dataset {
	case keystone.History:
	case wolkvox.Dataset:
		return w, usagef("%s: the vendor only tells the current month, past readings cannot be fetched", dataset)
	default:
		return w, usagef("%s: the vendor only tells the present: want %s, or `meterhouse run %s`", dataset, keystone.History, dataset)
	}
	return daysOf("backfill", from, until)
}

// daysOf reads --from and --until of a command.
func daysOf(command, from, until string) (w etl.Window, err error) {
	if from == "" || until == "" {
		return w, usagef("%s: want --from DAY and --until DAY, such as --from 2026-01-01 --until 2026-02-01", command)
	}
	if w.From, err = etl.ParseDay(from); err != nil {
		return w, usagef("--from: %w", err)
	}
	if w.Until, err = etl.ParseDay(until); err != nil {
		return w, usagef("--until: %w", err)
	}
	if w.Days() < 1 {
		return w, usagef("--from %s --until %s: want --until after --from, it is the first day no longer loaded", from, until)
	}
	return w, nil
}

func (s *session) checkBackfill(ctx context.Context, w etl.Window, customer string) error {
	if len(s.keystone) == 0 {
		return usagef("%s: no keystone account is configured", keystone.History)
	}
	var known []string
	for _, k := range s.keystone {
		if end := horizon(s.app.now(), k.cfg.History.Settle); w.Until > end {
			return usagef("--until %s: days are complete up to %s (settle is %s): want --until %s or before", w.Until, end-1, k.cfg.History.Settle, end)
		}
		ids := k.cfg.Customers
		if len(ids) == 0 {
			var err error
			if ids, err = s.wh.Customers(ctx, k.cfg.Account); err != nil {
				return err
			}
		}
		known = append(known, ids...)
	}
	if customer != "" && !slices.Contains(known, customer) {
		return usagef("--customer %q: want one of %s (`meterhouse run %s` refreshes the list)",
			customer, or(strings.Join(known, ", "), "the customers, but none is known yet"), keystone.Customers)
	}
	return nil
}

// loadAndReport carries out an order and prints the result; the error carries the exit code.
func (s *session) loadAndReport(ctx context.Context, o order) error {
	l, err := s.load(ctx, o)
	s.app.progress.clear()
	if !o.planOnly {
		var printed error
		if err == nil || len(l.results) > 0 { // else nobody knows what is due
			printed = s.app.printResults(l.results, o.format)
		}
		return errors.Join(verdict(l.results, err, s.app.told), printed)
	}
	if err != nil {
		return err
	}
	return s.app.printPlan(l, o.format)
}
