package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shopspring/decimal"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"meterhouse/etl/billing"
	"meterhouse/etl/warehouse"
)

func (a *app) statementCommand() *cobra.Command {
	var only billing.Selection
	var asOf, out string
	var f format
	cmd := &cobra.Command{
		Use:   "statement PERIOD",
		Short: "Show what a month comes to, line by line",
		Long: `Shows the lines whose billing period ends in the month PERIOD (YYYY-MM): committed capacity and
accrued burst of each service level, licences and usage of wolkvox, with quantity, price and amount.
A line is provisional until its period is over and all its days are there; its note says what is
missing, estimated or in doubt. A line without a price has a quantity and no amount, and is in no
total. With --as-of it is told as it was known then: figures, prices, calendar and decisions.

--format xlsx makes a workbook to hand over: summary, lines, the days behind each line with the run
that told them, restatements, coverage, the match with invoices and adjustments, all of one moment; of
a closed month the frozen lines and days. Exit code 4 when a line is not what its days come to.`,
		Example: "  meterhouse statement 2026-10\n" +
			"  meterhouse statement 2026-10 --as-of 2026-11-03T09:00:00Z --format csv --out october.csv\n" +
			"  meterhouse statement 2026-10 --format xlsx --out october.xlsx",
		Args: oneArgument("a month such as 2026-10"),
	}
	cmd.Flags().StringVar(&asOf, "as-of", "", "what was known at this RFC 3339 `time` (default now)")
	cmd.Flags().StringVar(&only.CustomerID, "customer", "", "only this customer `id`")
	cmd.Flags().StringVar(&only.Account, "account", "", "only this configured `account`")
	cmd.Flags().StringVar(&out, "out", "", "write to this `file` instead of stdout")
	formatFlag(cmd, &f, formatXLSX)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		period, err := billing.ParsePeriod(args[0])
		if err != nil {
			return usagef("statement: %w", err)
		}
		if f == formatXLSX && out == "" && a.isTerminal() {
			return usagef("statement: --format xlsx is no text for a terminal: want --out FILE")
		}
		then, err := readAsOf(asOf)
		if err != nil {
			return err
		}
		s, err := a.openSession(cmd.Context(), need{database: true})
		if err != nil {
			return err
		}
		defer s.close(&err)
		if err := s.checkSelection(cmd.Context(), only); err != nil {
			return err
		}
		finance := billing.New(s.wh.Pool(), a.now)
		if f == formatXLSX {
			var made billing.Workbook
			err := a.writeTo(out, func(w io.Writer) (err error) {
				made, err = finance.WriteWorkbook(cmd.Context(), w, period, then, only)
				return err
			})
			if n := len(made.Differs); err == nil && n > 0 {
				err = &exitError{exitDifference, fmt.Errorf("statement %s: %s whose days come to something else: see column check of sheet Lines, and `meterhouse close verify`", period, count(n, "line"))}
			}
			return err
		}
		statement, err := finance.Statement(cmd.Context(), period, then, only)
		if err != nil {
			return err
		}
		var onTop warehouse.Table
		if f.isForPeople() && then.IsZero() {
			if onTop, err = s.wh.Query(cmd.Context(), adjustmentsOf, period.String(), only.CustomerID, only.Account); err != nil {
				return err
			}
		}
		return a.writeTo(out, func(w io.Writer) error {
			if err := printStatement(w, f, statement); err != nil {
				return err
			}
			for _, row := range onTop.Rows {
				f.line(w, fmt.Sprintf("adjustments of closed months, on top of this: %s: see `meterhouse report adjustments_by_reason`",
					or(strings.TrimSpace(row[1]+" "+row[0]), "quantities without a price")))
			}
			return nil
		})
	}
	return cmd
}

// checkSelection refuses names that are nowhere: a statement of a customer that was mistyped would be an empty one, and
// say that nothing is owed.
func (s *session) checkSelection(ctx context.Context, only billing.Selection) error {
	for _, name := range []struct{ flag, got, known string }{
		{"--customer", only.CustomerID, `select customer_id from dw.dim_customer order by customer_id`},
		// A closed month keeps the name that an account had then.
		{"--account", only.Account, `select account from dw.dim_customer union select account from dw.dim_operation union select account from billing.closed_line order by account`},
	} {
		if name.got == "" {
			continue
		}
		t, err := s.wh.Query(ctx, name.known)
		if err != nil {
			return err
		}
		var known []string
		for _, row := range t.Rows {
			known = append(known, row[0])
		}
		if !slices.Contains(known, name.got) {
			return usagef("statement: %s %q%s: nothing of it was loaded: want one of %s", name.flag, name.got, nearest(name.got, known), or(few(known), "those that are loaded, but none is"))
		}
	}
	return nil
}

// adjustmentsOf sums what a month adjusts of earlier ones, and is asked for on top of its lines.
const adjustmentsOf = `
	select currency, sum(amount) as amount
	from mart.adjustment
	where period = $1 and ($2 = '' or customer_id = $2) and ($3 = '' or account = $3)
	group by currency
	order by currency`

// readAsOf reads the value of --as-of; empty is the zero time, which is now.
func readAsOf(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, usagef("--as-of %q: want RFC 3339, such as 2026-11-03T09:00:00Z", text)
	}
	return at, nil
}

// isTerminal tells whether stdout is a screen.
func (a *app) isTerminal() bool {
	w, _ := a.stdout.(*watchedWriter)
	if w == nil {
		return false
	}
	f, ok := w.Writer.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// writeTo lets write fill a file, which is there whole or not at all; one of that name is replaced. Without a
// name it is stdout.
func (a *app) writeTo(name string, write func(io.Writer) error) (err error) {
	if name == "" {
		return write(a.stdout)
	}
	file, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return usagef("--out: %w: want a file in a folder that can be written", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	if err = write(file); err != nil {
		_ = file.Close()
		return err
	}
	err = file.Close()
	if err == nil {
		err = os.Chmod(file.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(file.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func printStatement(w io.Writer, f format, s billing.Statement) error {
	if !f.isForPeople() {
		return f.print(w, statementTable(s))
	}
	title := "Statement of " + s.Period.String()
	if !s.AsOf.IsZero() {
		title += " as it was known at " + s.AsOf.UTC().Format("2006-01-02 15:04:05Z")
	}
	f.heading(w, title)
	if len(s.Lines) == 0 {
		fmt.Fprintln(w, "no lines: no billing period ends in this month with figures that are selected")
		return nil
	}
	fmt.Fprintln(w)
	if err := f.print(w, shortStatement(s)); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, t := range s.Totals() {
		text := fmt.Sprintf("total %s %s, %s", t.Amount.StringFixed(max(0, -t.Amount.Exponent())), t.Currency, count(t.Lines, "line"))
		if t.Provisional > 0 {
			text += fmt.Sprintf(", %d of them provisional", t.Provisional)
		}
		f.line(w, text)
	}
	provisional, unpriced, assumed := 0, 0, 0
	var unclassified []string
	for _, l := range s.Lines {
		if strings.Contains(l.Note, calendarAssumed) {
			assumed++
		}
		if l.State == "provisional" {
			provisional++
		}
		if !l.UnitPrice.Valid {
			unpriced++
		}
		if l.LevelClass == "unclassified" && !slices.Contains(unclassified, l.Item) {
			unclassified = append(unclassified, l.Item)
		}
	}
	if provisional > 0 {
		f.line(w, count(provisional, "provisional line")+": the note says why")
	}
	if unpriced > 0 {
		f.line(w, count(unpriced, "line")+" without a price, in no total: see `meterhouse report unpriced_lines --param month="+s.Period.String()+"`")
	}
	if assumed > 0 {
		f.line(w, count(assumed, "line")+" by calendar month, since the subscription has no calendar: see `meterhouse calendar import --help`")
	}
	if len(unclassified) > 0 {
		f.line(w, "unclassified levels, priced by name only: "+strings.Join(unclassified, ", ")+": see `meterhouse levels import --help`")
	}
	return nil
}

// statementTable are all columns of a statement, for programs.
func statementTable(s billing.Statement) warehouse.Table {
	t := warehouse.Table{
		Columns: strings.Fields(`period period_start period_end source customer_id account subscription_number item charge quantity unit unit_price amount
			currency state days_expected days_observed discriminator description is_waiver level_class days_estimated segment_from segment_to rate_id note`),
	}
	numeric := strings.Fields("quantity unit_price amount days_expected days_observed days_estimated rate_id")
	for _, name := range t.Columns {
		t.Numeric = append(t.Numeric, slices.Contains(numeric, name))
		t.Boolean = append(t.Boolean, name == "is_waiver")
	}
	unknown := strings.Fields("quantity unit_price amount currency level_class rate_id note") // where empty
	for _, l := range s.Lines {
		rate := ""
		if l.RateID != 0 {
			rate = strconv.FormatInt(l.RateID, 10)
		}
		row := []string{l.Period, l.PeriodStart.String(), l.PeriodEnd.String(), l.Source, l.CustomerID, l.Account, l.SubscriptionNumber, l.Item, l.Charge,
			digits(l.Quantity), l.Unit, digits(l.UnitPrice), digits(l.Amount), l.Currency, l.State, strconv.Itoa(l.DaysExpected), strconv.Itoa(l.DaysObserved),
			l.Discriminator, l.Description, strconv.FormatBool(l.IsWaiver), l.LevelClass, strconv.Itoa(l.DaysEstimated), l.SegmentFrom.String(), l.SegmentTo.String(), rate, l.Note}
		null := make([]bool, len(row))
		for i, name := range t.Columns {
			null[i] = row[i] == "" && slices.Contains(unknown, name)
		}
		t.Rows, t.Null = append(t.Rows, row), append(t.Null, null)
	}
	return t
}

// calendarAssumed is the note of most lines of most houses: people read it once, below the lines.
const calendarAssumed = "calendar assumed"

// shortStatement is what people see of the lines.
func shortStatement(s billing.Statement) warehouse.Table {
	t := warehouse.Table{
		Columns: []string{"customer", "subscription", "item", "charge", "days", "quantity", "unit", "unit_price", "amount", "currency", "state", "note"},
		Numeric: []bool{false, false, false, false, false, true, false, true, true, false, false, false},
	}
	descriptions := map[[2]string]map[string]bool{}
	for _, l := range s.Lines {
		product := [2]string{l.Account, l.Item}
		if descriptions[product] == nil {
			descriptions[product] = map[string]bool{}
		}
		descriptions[product][l.Description] = true
	}
	for _, l := range s.Lines {
		customer, item, charge := l.CustomerID, l.Item, l.Charge
		if l.Source == "wolkvox" {
			customer = l.Account
		}
		if len(descriptions[[2]string{l.Account, l.Item}]) > 1 {
			item += ": " + l.Description
		}
		if l.IsWaiver {
			charge += " in waiver"
		}
		days := fmt.Sprintf("%d/%d", l.DaysObserved, l.DaysExpected)
		if l.PeriodStart != s.Period.First() || l.PeriodEnd != s.Period.Last() || l.SegmentFrom != l.PeriodStart || l.SegmentTo != l.PeriodEnd {
			days += fmt.Sprintf(" %s..%s", l.SegmentFrom, l.SegmentTo)
		}
		price := ""
		if l.UnitPrice.Valid {
			price = money(l.UnitPrice.Decimal, l.Currency)
		}
		notes := slices.DeleteFunc(strings.Split(l.Note, "; "), func(note string) bool { return note == calendarAssumed })
		t.Rows = append(t.Rows, []string{customer, l.Subscription(), item, charge, days, digits(l.Quantity), l.Unit, price, digits(l.Amount), l.Currency, l.State, strings.Join(notes, "; ")})
	}
	return t
}

// digits are those that a number has, trailing zeros too; none when it is unknown.
func digits(d decimal.NullDecimal) string {
	if !d.Valid {
		return ""
	}
	return d.Decimal.StringFixed(max(0, -d.Decimal.Exponent()))
}
