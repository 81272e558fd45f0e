package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/shopspring/decimal"
	"github.com/spf13/cobra"

	"meterhouse/etl/billing"
	"meterhouse/etl/warehouse"
)

func (a *app) matchCommand() *cobra.Command {
	var asOf, out, tolerance string
	var all bool
	var f format
	cmd := &cobra.Command{
		Use:   "match PERIOD",
		Short: "Compare the vendors' invoices of a month with its statement",
		Long: `Compares what imported invoices charge for periods that end in the month PERIOD (YYYY-MM) with the
statement, and with what can be recomputed: burst from samples, commitments from the contract. Lines
for the same subscription, item and charge are summed; each comparison has one cause, and the
difference of the amounts is the money of the cause. Those that are equal are counted, not listed:

  equal, rounding          nothing, or no more than rounding
  restated_after_invoice   the figures as known on the day of the invoice give its amount
  waiver                   burst of the first 60 days is charged, or left out though it has a price
  prorated                 a whole month is charged where days count, or only some of the days
  rate_differs             our quantity at another price
  missing_days             days without figures can account for it
  quantity_differs         another quantity at our price
  not_on_invoice, not_in_warehouse
  unexplained              none of these, or no price to check it by: exit code 4`,
		Example: "  meterhouse match 2026-10",
		Args:    oneArgument("a month such as 2026-10"),
	}
	cmd.Flags().StringVar(&asOf, "as-of", "", "what was known at this RFC 3339 `time` (default now)")
	cmd.Flags().StringVar(&tolerance, "tolerance", billing.DefaultTolerance.String(), "`units` of the smallest coin that each line may be off by rounding")
	cmd.Flags().BoolVar(&all, "all", false, "list equal ones too, as csv and json always do")
	cmd.Flags().StringVar(&out, "out", "", "write to this `file` instead of stdout")
	formatFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		period, err := billing.ParsePeriod(args[0])
		if err != nil {
			return usagef("match: %w", err)
		}
		then, err := readAsOf(asOf)
		if err != nil {
			return err
		}
		units, err := decimal.NewFromString(tolerance)
		if err != nil || units.IsNegative() {
			return usagef("--tolerance %q: want a number of 0 or more, such as 0.5", tolerance)
		}
		s, err := a.openSession(cmd.Context(), need{database: true})
		if err != nil {
			return err
		}
		defer s.close(&err)
		m, err := billing.New(s.wh.Pool(), a.now).Match(cmd.Context(), period, then, units)
		if err != nil {
			return err
		}
		if err := a.writeTo(out, func(w io.Writer) error { return printMatch(w, f, m, all) }); err != nil {
			return err
		}
		if n := m.Unexplained(); n > 0 {
			return &exitError{exitDifference, fmt.Errorf("match %s: %s unexplained: ask the vendor, or see `meterhouse statement %s` for what may be wrong here", period, count(n, "difference"), period)}
		}
		return nil
	}
	return cmd
}

func printMatch(w io.Writer, f format, m billing.Match, all bool) error {
	if !f.isForPeople() {
		return f.print(w, matchTable(m))
	}
	title := "Invoices and statement of " + m.Period.String()
	if !m.AsOf.IsZero() {
		title += " as known at " + m.AsOf.UTC().Format("2006-01-02 15:04:05Z")
	}
	f.heading(w, title)
	if len(m.Lines) == 0 {
		fmt.Fprintln(w, "nothing to compare: no billing period ends in this month, and no line of an imported invoice")
		return nil
	}
	fmt.Fprintln(w)
	t := warehouse.Table{
		Columns: strings.Fields("customer subscription item charge invoice invoiced statement recomputed difference currency cause detail"),
		Numeric: []bool{5: true, 6: true, 7: true, 8: true, 11: false},
	}
	for _, l := range m.Lines {
		if l.Cause == billing.Equal && !all {
			continue
		}
		customer := l.CustomerID
		if l.Source == "wolkvox" {
			customer = l.Account
		}
		invoiced, owed := bothAmounts(l)
		t.Rows = append(t.Rows, []string{customer, l.SubscriptionNumber, l.Item, l.Charge, strings.Join(l.Invoices, " "), invoiced, owed,
			digits(l.RecomputedAmount), money(l.Difference, l.Currency), l.Currency, string(l.Cause), l.Detail})
	}
	if len(t.Rows) > 0 {
		if err := f.print(w, t); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	provisional := 0
	for _, l := range m.Lines {
		if l.State == "provisional" {
			provisional++
		}
	}
	for _, total := range m.Totals() {
		f.line(w, strings.TrimSpace(fmt.Sprintf("%s: %s, %s %s", total.Cause, count(total.Lines, "comparison"), money(total.Difference, total.Currency), total.Currency)))
	}
	for _, sum := range matchSums(m) {
		f.line(w, sum)
	}
	if !slices.ContainsFunc(m.Lines, func(l billing.MatchLine) bool { return l.InvoiceLines > 0 }) {
		f.line(w, "no imported invoice charges for this month: see `meterhouse invoice import --help`")
	}
	if provisional > 0 {
		f.line(w, count(provisional, "comparison")+" with a provisional statement: see `meterhouse statement "+m.Period.String()+"`")
	}
	return nil
}

// matchSums says per currency what the invoices and the statement come to.
func matchSums(m billing.Match) (texts []string) {
	var currencies []string
	for _, l := range m.Lines {
		if l.Currency != "" && !slices.Contains(currencies, l.Currency) {
			currencies = append(currencies, l.Currency)
		}
	}
	slices.Sort(currencies)
	for _, currency := range currencies {
		var asked, owed decimal.Decimal
		for _, l := range m.Lines {
			if l.Currency == currency {
				asked, owed = asked.Add(l.InvoiceAmount), owed.Add(l.StatementAmount)
			}
		}
		texts = append(texts, fmt.Sprintf("total %s: invoiced %s, statement %s, difference %s", currency, money(asked, currency), money(owed, currency), money(asked.Sub(owed), currency)))
	}
	return texts
}

// matchTable is everything, for programs.
func matchTable(m billing.Match) warehouse.Table {
	t := warehouse.Table{
		Columns: strings.Fields(`period period_start period_end source customer_id account subscription_number item charge invoices invoice_lines invoice_quantity invoice_unit_price
			invoice_amount statement_quantity statement_unit_price statement_amount recomputed_quantity recomputed_amount difference currency cause detail state`),
	}
	numeric := strings.Fields(`invoice_lines invoice_quantity invoice_unit_price invoice_amount statement_quantity statement_unit_price statement_amount recomputed_quantity
		recomputed_amount difference`)
	known := strings.Fields("customer_id account subscription_number item") // though empty
	for _, name := range t.Columns {
		t.Numeric = append(t.Numeric, slices.Contains(numeric, name))
	}
	for _, l := range m.Lines {
		invoiced, owed := bothAmounts(l)
		row := []string{m.Period.String(), l.PeriodStart.String(), l.PeriodEnd.String(), l.Source, l.CustomerID, l.Account, l.SubscriptionNumber, l.Item, l.Charge,
			strings.Join(l.Invoices, " "), strconv.Itoa(l.InvoiceLines), digits(l.InvoiceQuantity), digits(l.InvoicePrice), invoiced,
			digits(l.StatementQuantity), digits(l.StatementPrice), owed, digits(l.RecomputedQuantity), digits(l.RecomputedAmount),
			money(l.Difference, l.Currency), l.Currency, string(l.Cause), l.Detail, l.State}
		null := make([]bool, len(row))
		for i, name := range t.Columns {
			null[i] = row[i] == "" && !slices.Contains(known, name)
		}
		t.Rows, t.Null = append(t.Rows, row), append(t.Null, null)
	}
	return t
}

// bothAmounts are what the invoice and the statement come to. Without a line there is no amount, which is not
// that it is nothing.
func bothAmounts(l billing.MatchLine) (invoiced, owed string) {
	if l.InvoiceLines > 0 {
		invoiced = money(l.InvoiceAmount, l.Currency)
	}
	if l.StatementLines > 0 && l.Currency != "" {
		owed = money(l.StatementAmount, l.Currency)
	}
	return invoiced, owed
}

// money is an amount with the decimals of its currency, or more where it has more.
func money(d decimal.Decimal, currency string) string {
	if currency == "" {
		return d.String()
	}
	return d.StringFixed(max(int32(billing.MinorUnits(currency)), -d.Exponent()))
}
