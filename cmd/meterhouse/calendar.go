package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"meterhouse/etl"
	"meterhouse/etl/billing"
	"meterhouse/etl/warehouse"
)

func (a *app) calendarCommand() *cobra.Command {
	cmd := group("calendar", "Import, show or draft the billing periods of subscriptions", "show")
	cmd.AddCommand(a.calendarImportCommand(), a.calendarShowCommand(), a.calendarGenerateCommand())
	return cmd
}

var calendarColumns = []csvColumn{
	{name: "customer_id"}, {name: "subscription_number"}, {name: "clock"}, {name: "period_start"}, {name: "period_end"}, {name: "schedule"},
}

func (a *app) calendarImportCommand() *cobra.Command {
	return fileImport[billing.CalendarPeriod]{
		short: "Import billing periods from a CSV file",
		long: `Reads customer_id, subscription_number, clock (committed or burst), period_start, period_end (last
day, inclusive) and schedule of the contract (monthly, quarterly, semi_annual, annual) with a
header; - is stdin. The periods of a subscription and clock are replaced by those of the file and
must follow each other without overlap or gap; other calendars stay, unless --replace is given.
What was replaced is kept as what was known until then. All rows are good and imported, or none is.
Repeating is safe. A subscription without a calendar is billed by calendar month.`,
		example: "  meterhouse calendar generate --schedule quarterly --until 2028-01-01 > periods.csv\n" +
			"  meterhouse calendar import periods.csv --plan",
		whole:   "the file is the whole calendar: remove those of all other subscriptions",
		columns: calendarColumns,
		read:    readCalendar,
		bring:   (*billing.Billing).ImportCalendar,
		look:    func(u *unknowns, row csvRow, _ billing.CalendarPeriod) { u.lookAtSubscription(row) },
		print: func(f format, changes []billing.Change[billing.CalendarPeriod], _ billing.Names, planOnly bool) error {
			return a.printCalendarChanges(f, changes, planOnly)
		},
	}.command(a)
}

// readCalendar reads and checks the whole file. Periods are in the order of the rows.
func readCalendar(file *csvFile) ([]billing.CalendarPeriod, error) {
	periods := make([]billing.CalendarPeriod, len(file.rows))
	for i, row := range file.rows {
		p := &periods[i]
		p.CalendarKey = billing.CalendarKey{CustomerID: row.get("customer_id"), SubscriptionNumber: row.get("subscription_number"), Clock: row.get("clock")}
		p.Start, p.End = file.day(row, "period_start"), file.day(row, "period_end")
		p.Schedule, p.Source = row.get("schedule"), file.source(row)
		for _, column := range []string{"customer_id", "subscription_number"} {
			if row.get(column) == "" {
				file.bad(row, column, "is empty: want the one that the period is of")
			}
		}
		file.choice(row, "clock", billing.Clocks)
		file.choice(row, "schedule", billing.Schedules)
		if p.Start != 0 && p.End != 0 && p.End < p.Start {
			file.bad(row, "period_end", "%s is before period_start %s: want the last day of the period", p.End, p.Start)
		}
	}
	if file.err() == nil {
		findUntiled(file, periods)
	}
	return periods, file.err()
}

// findUntiled reports periods that do not follow on those before.
func findUntiled(file *csvFile, periods []billing.CalendarPeriod) {
	wrong := map[int]string{}
	rows := map[billing.CalendarKey][]int{}
	for i, p := range periods {
		rows[p.CalendarKey] = append(rows[p.CalendarKey], i)
	}
	for _, same := range rows {
		slices.SortStableFunc(same, func(i, j int) int { return cmp.Compare(periods[i].Start, periods[j].Start) })
		last := same[0] // of those before, the one that ends last
		for _, i := range same[1:] {
			p, before := periods[i], periods[last]
			switch {
			case p.Start <= before.End:
				wrong[i] = fmt.Sprintf("%s to %s overlaps line %d (%s to %s): want it to start on the day after that ends; both ends count",
					p.Start, p.End, file.rows[last].line, before.Start, before.End)
			case p.Start > before.End+1:
				wrong[i] = fmt.Sprintf("%s leaves a gap after line %d, which ends on %s: want it to start on %s",
					p.Start, file.rows[last].line, before.End, before.End+1)
			}
			if p.End > before.End {
				last = i
			}
		}
	}
	for _, i := range slices.Sorted(maps.Keys(wrong)) {
		file.bad(file.rows[i], "period_start", "%s", wrong[i])
	}
}

func (a *app) printCalendarChanges(f format, changes []billing.Change[billing.CalendarPeriod], planOnly bool) error {
	t := warehouse.Table{Columns: []string{"what", "customer_id", "subscription_number", "clock", "period_start", "was", "is"}}
	end := func(p billing.CalendarPeriod) string {
		if p.Schedule == "" {
			return ""
		}
		return "to " + p.End.String() + " " + p.Schedule
	}
	counts := map[string]int{}
	for _, c := range changes {
		counts[c.What]++
		p := c.Is
		if c.What == "removed" {
			p = c.Was
		}
		if c.What != "unchanged" {
			t.Rows = append(t.Rows, []string{c.What, p.CustomerID, p.SubscriptionNumber, p.Clock, p.Start.String(), end(c.Was), end(c.Is)})
		}
	}
	return a.printChanges(f, t, planOnly,
		fmt.Sprintf("added %d, changed %d, removed %d, unchanged %d", counts["added"], counts["changed"], counts["removed"], counts["unchanged"]))
}

func (a *app) calendarShowCommand() *cobra.Command {
	var number string
	var f format
	cmd := &cobra.Command{
		Use:   "show [--subscription N]",
		Short: "List the billing periods",
		Long: `Lists the billing periods in the form in which calendar import takes them back. A subscription that
is not listed is billed by calendar month.`,
		Example: "  meterhouse calendar show --subscription A-S1001\n  meterhouse calendar show --format csv > periods.csv",
		Args:    noArguments,
	}
	cmd.Flags().StringVar(&number, "subscription", "", "of this subscription `number` only")
	formatFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		none := "no calendar was imported: all subscriptions are billed by calendar month"
		if number != "" {
			none = fmt.Sprintf("subscription %s has no calendar: it is billed by calendar month", printable(number))
		}
		return a.printQuery(cmd, f, none, `
			select customer_id, subscription_number, clock, period_start, period_end, schedule
			from billing.period
			where superseded_at is null and ($1 = '' or subscription_number = $1)
			order by customer_id, subscription_number, clock, period_start`, number)
	}
	return cmd
}

// calendarTerms are the flags of calendar generate.
type calendarTerms struct {
	customer, number, clock, schedule, start, until string
	switches                                        []string
}

func (a *app) calendarGenerateCommand() *cobra.Command {
	var t calendarTerms
	var f format
	cmd := &cobra.Command{
		Use:   "generate --schedule S --until DAY",
		Short: "Draft billing periods for review",
		Long: `Prints periods in the form in which calendar import takes them, and changes nothing: for all
subscriptions whose start is known, or those of a customer, or one. A period starts on the day of
the month on which the terms (or --start) do, or the month's last. The last one is whole, so that it
reaches --until. The burst clock of semi_annual and annual contracts has quarters. A switch cuts the
period that it falls into. Compare with the contract and the invoices, whose dates count: edit before
you import.`,
		Example: "  meterhouse calendar generate --schedule quarterly --until 2028-01-01 > periods.csv\n" +
			"  meterhouse calendar generate --customer C-1 --subscription A-S1 --schedule quarterly --start 2023-10-15 \\\n" +
			"    --switch 2024-02-01=monthly --until 2025-01-01",
		Args: noArguments,
	}
	cmd.Flags().StringVar(&t.customer, "customer", "", "of this customer `ID`")
	cmd.Flags().StringVar(&t.number, "subscription", "", "of this subscription `number`")
	cmd.Flags().StringVar(&t.clock, "clock", "", "committed or burst: one `clock` (default both)")
	cmd.Flags().StringVar(&t.schedule, "schedule", "", "`schedule` of the contract: "+oneOf(billing.Schedules))
	cmd.Flags().StringVar(&t.start, "start", "", "first `day` (default the start of the terms)")
	cmd.Flags().StringVar(&t.until, "until", "", "the `day` up to which periods are wanted")
	cmd.Flags().StringArrayVar(&t.switches, "switch", nil, "bill by another schedule from a day on, as `DAY=SCHEDULE`; may be repeated")
	formatFlag(cmd, &f)
	f = formatCSV
	cmd.Flag("format").DefValue = string(f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		terms, clocks, err := t.read()
		if err != nil {
			return err
		}
		contracts := []billing.Contract{{CustomerID: t.customer, SubscriptionNumber: t.number, Start: &terms.Start, Instances: 1}}
		if t.start == "" {
			if contracts, err = a.contracts(cmd.Context(), t); err != nil {
				return err
			}
		}
		periods, err := a.draft(contracts, terms, clocks)
		if err != nil {
			return err
		}
		out := warehouse.Table{}
		for _, c := range calendarColumns {
			out.Columns = append(out.Columns, c.name)
		}
		for _, p := range periods {
			out.Rows = append(out.Rows, []string{p.CustomerID, p.SubscriptionNumber, p.Clock, p.Start.String(), p.End.String(), p.Schedule})
		}
		return f.print(a.stdout, out)
	}
	return cmd
}

// read checks the flags.
func (t calendarTerms) read() (terms billing.Terms, clocks []string, err error) {
	bad := func(format string, args ...any) (billing.Terms, []string, error) {
		return terms, nil, usagef("calendar generate: "+format, args...)
	}
	schedule := func(text string) error {
		if !slices.Contains(billing.Schedules, text) {
			return fmt.Errorf("schedule %q%s: want %s", text, nearest(text, billing.Schedules), oneOf(billing.Schedules))
		}
		return nil
	}
	if err := schedule(t.schedule); err != nil {
		return bad("%w", err)
	}
	terms.Schedule = t.schedule
	if clocks = billing.Clocks; t.clock != "" {
		if !slices.Contains(clocks, t.clock) {
			return bad("--clock %q: want %s", t.clock, oneOf(clocks))
		}
		clocks = []string{t.clock}
	}
	if terms.Until, err = etl.ParseDay(t.until); err != nil {
		return bad("--until: %w", err)
	}
	if t.start != "" {
		if t.customer == "" || t.number == "" {
			return bad("--start: want --customer and --subscription with it: others have starts of their own")
		}
		if terms.Start, err = etl.ParseDay(t.start); err != nil {
			return bad("--start: %w", err)
		}
	}
	for _, text := range t.switches {
		if t.number == "" {
			return bad("--switch: want --subscription with it")
		}
		day, name, _ := strings.Cut(text, "=")
		on, err := etl.ParseDay(day)
		if err == nil {
			err = schedule(name)
		}
		if err != nil {
			return bad("--switch %q: %w", text, err)
		}
		terms.Switches = append(terms.Switches, billing.Switch{Day: on, Schedule: name})
	}
	for _, day := range []etl.Day{terms.Start, terms.Until} {
		if year := day.Time().Year(); day != 0 && (year < 2000 || year > 2099) {
			return bad("%s: want days of this century", day)
		}
	}
	return terms, clocks, nil
}

// contracts are the subscriptions that the flags mean and that the vendor told of.
func (a *app) contracts(ctx context.Context, t calendarTerms) (wanted []billing.Contract, err error) {
	s, err := a.openSession(ctx, need{database: true})
	if err != nil {
		return nil, err
	}
	defer s.close(&err)
	all, err := billing.New(s.wh.Pool(), a.now).Contracts(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if (t.customer == "" || t.customer == c.CustomerID) && (t.number == "" || t.number == c.SubscriptionNumber) {
			wanted = append(wanted, c)
		}
	}
	if len(wanted) == 0 {
		return nil, usagef("calendar generate: no such subscription was loaded: want --customer, --subscription and --start, or `meterhouse run keystone.subscriptions` first")
	}
	return wanted, nil
}

// draft generates the periods of contracts whose start is known, and says whose is not.
func (a *app) draft(contracts []billing.Contract, terms billing.Terms, clocks []string) (periods []billing.CalendarPeriod, err error) {
	for _, c := range contracts {
		name := fmt.Sprintf("customer %s, subscription %s", c.CustomerID, c.SubscriptionNumber)
		switch {
		case c.Start == nil:
			a.warn("%s: left out, the vendor does not tell its start: want --start", name)
			continue
		case *c.Start >= terms.Until:
			a.warn("%s: left out, it starts on %s, not before --until", name, c.Start)
			continue
		case c.Instances > 1:
			a.warn("%s: %d subscriptions share the number and its calendar, which is anchored to the earliest start, %s", name, c.Instances, c.Start)
		}
		terms.Start = *c.Start
		for _, clock := range clocks {
			drafted, err := terms.Generate(billing.CalendarKey{CustomerID: c.CustomerID, SubscriptionNumber: c.SubscriptionNumber, Clock: clock})
			if err != nil {
				return nil, usagef("calendar generate: %w", err)
			}
			periods = append(periods, drafted...)
		}
	}
	if len(periods) == 0 {
		return nil, usagef("calendar generate: nothing to draft: want --start before --until")
	}
	return periods, nil
}
