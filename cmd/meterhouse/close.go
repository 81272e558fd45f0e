package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"meterhouse/etl/billing"
)

func (a *app) closeCommand() *cobra.Command {
	var o billing.CloseOptions
	var accept bool
	cmd := &cobra.Command{
		Use:   "close PERIOD",
		Short: "Freeze a month, and verify the frozen ones",
		Long: `Freezes the statement of the month PERIOD (YYYY-MM) and the days behind it: copies that are never
changed, chained by SHA-256. What changes later is an adjustment of the open month, and is frozen with it.
It refuses (exit code 4) while the month is not over and settled, days are missing, partial or absent and
undecided, records are refused, a counter fell, a licence month has no end or the month before is
open. All but the first can be accepted with --accept-gaps and a reason. A line without a price does not
stand against it.
--plan tells what would be frozen and what stands against it, and changes nothing.`,
		Example: "  meterhouse close 2026-10 --plan\n" +
			"  meterhouse close 2026-10 --accept-gaps --reason 'NetApp lost 3 October, ticket 4711'",
		Args: oneArgument("a month such as 2026-10, or verify"),
	}
	cmd.Flags().BoolVar(&accept, "accept-gaps", false, "close although something is missing; wants --reason")
	cmd.Flags().StringVar(&o.Reason, "reason", "", "`why`, for whoever asks later")
	cmd.Flags().StringVar(&o.By, "by", "", "`name` of who closes (default the user of the system)")
	cmd.Flags().BoolVar(&o.Plan, "plan", false, "tell what would be done and change nothing")
	cmd.AddCommand(a.closeVerifyCommand())
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		period, err := billing.ParsePeriod(args[0])
		if err != nil {
			return usagef("close: %w, or verify", err)
		}
		o.Reason = strings.TrimSpace(o.Reason)
		switch {
		case accept && o.Reason == "":
			return usagef("close: --accept-gaps wants --reason: whoever asks later shall know why")
		case !accept && o.Reason != "":
			return usagef("close: --reason says why gaps are accepted: want --accept-gaps with it")
		}
		o.By = or(strings.TrimSpace(o.By), a.person())
		s, err := a.openSession(cmd.Context(), need{database: true})
		if err != nil {
			return err
		}
		defer s.close(&err)
		c, err := billing.New(s.wh.Pool(), a.now).Close(cmd.Context(), period, o)
		if err != nil {
			return asRefusal(err)
		}
		return a.printClosing(c, o)
	}
	return cmd
}

// asRefusal gives the errors of closing their exit codes.
func asRefusal(err error) error {
	var refused *billing.RefusedError
	switch {
	case errors.As(err, &refused):
		return &exitError{exitDifference, refused}
	case errors.Is(err, billing.ErrNotClosed):
		return &exitError{exitDifference, err}
	case errors.Is(err, billing.ErrRaced):
		return &exitError{exitBusy, err}
	}
	return err
}

func (a *app) printClosing(c billing.Closing, o billing.CloseOptions) error {
	verb, refused := "closed", 0
	if o.Plan {
		verb = "would close"
	}
	for _, found := range c.Obstacles {
		word := "accepted"
		if o.Plan {
			word = "against it"
			if o.Reason != "" && found.IsAcceptable {
				word = "would be accepted"
			} else {
				refused++
			}
		}
		fmt.Fprintf(a.stdout, "%s: %s: %s\n", word, found.Kind, printable(found.About))
		if word == "against it" {
			fmt.Fprintln(a.stdout, "  "+printable(found.Remedy))
		}
	}
	fmt.Fprintf(a.stdout, "%s %s, version %d: %s, %s, %s\n", verb, c.Period, c.Version, count(c.Lines, "line"), count(c.Days, "day"), count(c.Adjustments, "adjustment")+" of earlier months")
	if c.Totals != "" {
		fmt.Fprintln(a.stdout, "total "+c.Totals)
	}
	if c.AdjustmentTotals != "" {
		fmt.Fprintln(a.stdout, "adjustments "+c.AdjustmentTotals)
	}
	if c.Unpriced > 0 {
		fmt.Fprintf(a.stdout, "%s without a price, in no total: a price that comes later is an adjustment\n", count(c.Unpriced, "line"))
	}
	if !o.Plan {
		fmt.Fprintf(a.stdout, "link %d %s\nkeep this hash where the database's administrator cannot change it\n", c.Link, c.Hash)
	}
	if refused > 0 {
		return &exitError{exitDifference, fmt.Errorf("close %s would be refused: %s", c.Period, count(refused, "obstacle"))}
	}
	return nil
}

func (a *app) closeVerifyCommand() *cobra.Command {
	var kept []string
	cmd := &cobra.Command{
		Use:   "verify [PERIOD]",
		Short: "Recompute the hashes of closed months",
		Long: `Recomputes from the frozen rows their text, their hashes and the chain of all closes and reopenings,
without the functions of the database that wrote them; with PERIOD (YYYY-MM) only the rows of that month
and the chain. Exit code 4 and the first differences when something was changed. Links that were taken
off the end, or a chain that was made anew, show only to whoever kept a hash that a close printed: --hash
wants it in the chain.`,
		Example: "  meterhouse close verify\n  meterhouse close verify 2026-10\n" +
			"  meterhouse close verify --hash 554b19d10851fc70814d06f0c370839b128201bc617f305839546e837d62357c",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("close verify: %d arguments: want none or one, a month such as 2026-10", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			for _, hash := range kept {
				if raw, err := hex.DecodeString(hash); err != nil || len(raw) != sha256.Size {
					return usagef("close verify: --hash %q: want 64 hexadecimal digits, as close printed them", hash)
				}
			}
			var period billing.Period
			if len(args) == 1 {
				if period, err = billing.ParsePeriod(args[0]); err != nil {
					return usagef("close verify: %w", err)
				}
			}
			s, err := a.openSession(cmd.Context(), need{database: true})
			if err != nil {
				return err
			}
			defer s.close(&err)
			v, err := billing.New(s.wh.Pool(), a.now).Verify(cmd.Context(), period, kept...)
			if err != nil {
				return err
			}
			for _, text := range v.Differences {
				fmt.Fprintln(a.stdout, printable(text))
			}
			if len(v.Differences) > 0 {
				return &exitError{exitDifference, errors.New("closed months were changed: restore them from a backup, and find out who could")}
			}
			if v.Links == 0 && len(args) == 1 {
				fmt.Fprintf(a.stdout, "%s was not closed\n", period)
				return nil
			}
			if v.Links == 0 {
				fmt.Fprintln(a.stdout, "nothing was closed")
				return nil
			}
			fmt.Fprintf(a.stdout, "%s with %s and %s as they were closed\nlast hash %s\n", count(v.Links, "link"), count(v.Lines, "line"), count(v.Days, "day"), v.Head)
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&kept, "hash", nil, "a `hash` that was kept and must be in the chain; may be given more than once")
	return cmd
}

func (a *app) reopenCommand() *cobra.Command {
	var reason, by string
	cmd := &cobra.Command{
		Use:   "reopen PERIOD --reason R",
		Short: "Open a closed month again",
		Long: `Takes the close of the month PERIOD (YYYY-MM) out of force: its statement is what is known now, until
it is closed again with the next version. What was frozen stays, and so does the reason. Later months
may be closed meanwhile: what they adjusted of it is taken back in the open month.`,
		Example: "  meterhouse reopen 2026-10 --reason 'wrong rate card, ticket 4712'",
		Args:    oneArgument("a month such as 2026-10"),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for whoever asks later")
	cmd.Flags().StringVar(&by, "by", "", "`name` of who reopens (default the user of the system)")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		period, err := billing.ParsePeriod(args[0])
		if err != nil {
			return usagef("reopen: %w", err)
		}
		if reason = strings.TrimSpace(reason); reason == "" {
			return usagef("reopen: want --reason: whoever asks later shall know why")
		}
		s, err := a.openSession(cmd.Context(), need{database: true})
		if err != nil {
			return err
		}
		defer s.close(&err)
		r, err := billing.New(s.wh.Pool(), a.now).Reopen(cmd.Context(), period, billing.ReopenOptions{By: or(strings.TrimSpace(by), a.person()), Reason: reason})
		if err != nil {
			return asRefusal(err)
		}
		fmt.Fprintf(a.stdout, "reopened %s: version %d stays and is no longer in force\nlink %d %s\n", r.Period, r.Version, r.Link, r.Hash)
		return nil
	}
	return cmd
}
