package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"meterhouse/etl"
	"meterhouse/etl/billing"
)

func (a *app) levelsAccruedCommand() *cobra.Command {
	var reason string
	var f format
	cmd := &cobra.Command{
		Use:   "accrued [ACCOUNT PERIOD READING]",
		Short: "Show or decide how the vendor's accrued burst is read in a month",
		Long: `Without arguments it lists, per account and month, how the vendor's accrued column is read and what
speaks for it: increment (a day is the sum of its samples; the default) or running (the difference of
the last samples of neighbouring days). The errors are how far either reading is from what the
formula gives. With arguments it records a decision for the account and the month PERIOD (YYYY-MM);
statements follow, a closed month by adjustments of the open one, and the former decision is kept.`,
		Example: "  meterhouse levels accrued\n  meterhouse levels accrued acme 2026-10 running --reason 'never falls, starts anew on the 1st'",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 3 {
				return usagef("levels accrued: %d arguments: want none, or account, month and %s", len(args), oneOf(billing.AccruedReadings))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for whoever asks later")
	formatFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if len(args) == 0 {
			return a.printQuery(cmd, f, "no day of a service level was loaded yet", `
				select account, to_char(month, 'YYYY-MM') as month, reading, coalesce(decided_by, 'default') as decided_by, reason, series,
					non_decreasing_share, resets, increment_error_tib, running_error_tib, proposal, is_contradicted
				from mart.accrued_evidence
				order by account, month`)
		}
		account, reading := args[0], args[2]
		period, err := billing.ParsePeriod(args[1])
		if err != nil {
			return usagef("levels accrued: %w", err)
		}
		if !slices.Contains(billing.AccruedReadings, reading) {
			return usagef("levels accrued: %q%s: want %s", reading, nearest(reading, billing.AccruedReadings), oneOf(billing.AccruedReadings))
		}
		if strings.TrimSpace(reason) == "" {
			return usagef("levels accrued: want --reason: whoever asks later shall know why")
		}
		s, err := a.openSession(cmd.Context(), need{database: true})
		if err != nil {
			return err
		}
		defer s.close(&err)
		accounts, err := s.wh.Query(cmd.Context(), `select distinct account from dw.dim_customer order by 1`)
		if err != nil {
			return err
		}
		var names []string
		for _, row := range accounts.Rows {
			names = append(names, row[0])
		}
		if !slices.Contains(names, account) {
			return usagef("levels accrued: account %q%s: no customer of it was loaded", account, nearest(account, names))
		}
		was, err := billing.New(s.wh.Pool(), a.now).SetAccruedReading(cmd.Context(), account, period, reading, a.person(), strings.TrimSpace(reason))
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "%s %s: %s, was %s\n", account, period, reading, was)
		return nil
	}
	return cmd
}

func (a *app) levelsAbsentCommand() *cobra.Command {
	var d billing.Absence
	var from, to string
	var all bool
	var f format
	cmd := &cobra.Command{
		Use:   "absent [keep|drop]",
		Short: "Show or decide what becomes of days that the vendor no longer delivers",
		Long: `Without arguments it lists the days that the vendor delivered once and delivers no more, and that
nobody decided about; their lines in statements stay provisional. keep lets their stored figures
count, drop lets them count as if nothing had been committed or used. Days that were never delivered
can be dropped too, as of a level that has ended. --from and --to are the first and last day. What a
decision changes of a closed month is adjusted in the open one.`,
		Example: "  meterhouse levels absent\n" +
			"  meterhouse levels absent keep --customer 0042117 --subscription A-S00052993 --level Extreme \\\n" +
			"    --from 2026-10-03 --to 2026-10-05 --reason 'confirmed by mail, ticket 4711'",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && args[0] != "keep" && args[0] != "drop" {
				return usagef("levels absent: %q: want keep or drop, or nothing to list", strings.Join(args, " "))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&d.CustomerID, "customer", "", "customer `id`")
	cmd.Flags().StringVar(&d.SubscriptionNumber, "subscription", "", "subscription `number`")
	cmd.Flags().StringVar(&d.Discriminator, "discriminator", "", "which `one` of those that share the number (default the first)")
	cmd.Flags().StringVar(&d.ServiceLevel, "level", "", "`name` of the service level")
	cmd.Flags().IntVar(&d.LevelOrdinal, "ordinal", 0, "`number` of the instance, from 0, among levels of one name")
	cmd.Flags().StringVar(&from, "from", "", "first `day`, YYYY-MM-DD")
	cmd.Flags().StringVar(&to, "to", "", "last `day`, YYYY-MM-DD")
	cmd.Flags().StringVar(&d.Reason, "reason", "", "`why`, for whoever asks later")
	cmd.Flags().BoolVar(&all, "all", false, "list the days that were decided about too")
	formatFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if len(args) == 0 {
			return a.printQuery(cmd, f, "no day is absent and undecided", absentDays, all)
		}
		d.Decision, d.Reason = args[0], strings.TrimSpace(d.Reason)
		for _, flag := range [][2]string{{"customer", d.CustomerID}, {"subscription", d.SubscriptionNumber}, {"level", d.ServiceLevel}, {"from", from}, {"to", to}, {"reason", d.Reason}} {
			if flag[1] == "" {
				return usagef("levels absent %s: want --%s, see `meterhouse levels absent`", d.Decision, flag[0])
			}
		}
		if d.First, err = etl.ParseDay(from); err != nil {
			return usagef("levels absent %s: --from %q: want a day such as 2026-10-03", d.Decision, from)
		}
		if d.Last, err = etl.ParseDay(to); err != nil {
			return usagef("levels absent %s: --to %q: want a day such as 2026-10-05", d.Decision, to)
		}
		if d.Last < d.First {
			return usagef("levels absent %s: --to %s is before --from %s: want the last day", d.Decision, d.Last, d.First)
		}
		s, err := a.openSession(cmd.Context(), need{database: true})
		if err != nil {
			return err
		}
		defer s.close(&err)
		if err := billing.New(s.wh.Pool(), a.now).DecideAbsence(cmd.Context(), d); err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "%s: %s %s #%d, %s to %s\n", d.Decision, d.SubscriptionNumber, d.ServiceLevel, d.LevelOrdinal, d.First, d.Last)
		return nil
	}
	return cmd
}

// absentDays lists spans of days; $1 says whether with those that were decided about.
const absentDays = `
	with absent as (
		select d.customer_id, d.subscription_number, d.discriminator, d.service_level, d.level_ordinal, d.usage_date, d.absent_since, a.decision, a.reason
		from mart.daily_consumption as d
		left join billing.absence as a
			on a.customer_id = d.customer_id and a.subscription_number = d.subscription_number and a.discriminator = d.discriminator and a.service_level = d.service_level
			and a.level_ordinal = d.level_ordinal and d.usage_date between a.first_day and a.last_day and a.superseded_at is null
		where d.absent_since is not null and ($1 or a.decision is null)
	),

	numbered as (
		select *, usage_date - (row_number() over (
			partition by customer_id, subscription_number, discriminator, service_level, level_ordinal, decision, reason, absent_since order by usage_date
		))::integer as island
		from absent
	)

	select customer_id, subscription_number, service_level, level_ordinal, min(usage_date) as first_day, max(usage_date) as last_day, count(*) as days,
		date_trunc('second', absent_since) as absent_since, coalesce(decision, 'undecided') as decision, reason, discriminator
	from numbered
	group by customer_id, subscription_number, discriminator, service_level, level_ordinal, absent_since, decision, reason, island
	order by 1, 2, discriminator, 3, 4, 5`
