package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/shopspring/decimal"
	"github.com/spf13/cobra"

	"meterhouse/etl/billing"
	"meterhouse/etl/warehouse"
)

func (a *app) invoiceCommand() *cobra.Command {
	cmd := group("invoice", "Import, list, show or withdraw the vendors' invoices", "import october.csv --mapping netapp.yaml --plan")
	cmd.AddCommand(a.invoiceImportCommand(), a.invoiceListCommand(), a.invoiceShowCommand(), a.invoiceWithdrawCommand())
	return cmd
}

var invoiceColumns = []csvColumn{
	{name: "vendor"}, {name: "number"}, {name: "invoice_date"}, {name: "currency"}, {name: "line", optional: true},
	{name: "account", optional: true}, {name: "customer_id", optional: true}, {name: "subscription_number", optional: true},
	{name: "item", optional: true}, {name: "charge"}, {name: "period_start"}, {name: "period_end"},
	{name: "quantity", optional: true}, {name: "unit_price", optional: true}, {name: "amount"}, {name: "text", optional: true},
}

func (a *app) invoiceImportCommand() *cobra.Command {
	var planOnly bool
	var mappingName string
	var f format
	cmd := &cobra.Command{
		Use:   "import FILE [--mapping FILE] [--plan]",
		Short: "Import invoices from a CSV file",
		Long: `Reads vendor, number, invoice_date, currency, line, account, customer_id, subscription_number, item
(service level or product), charge (committed, burst, license, usage, other for taxes and credits),
period_start, period_end (last day), quantity, unit_price, amount and text with a header; - is stdin.
A mapping file (YAML) says how a file of the vendor's own is read:

  columns: {number: Invoice No., amount: Net, …}   our names: theirs
  constants: {vendor: keystone, currency: EUR}     what no column says
  items: {"Extreme, committed": {item: Extreme, charge: committed}}
  delimiter: ";"  decimal: ","  thousands: "."  date: DD.MM.YYYY  encoding: windows-1252  sign: reversed
  header: 4                                        line of the file, where a letterhead is above it
  symbols: [€, TiB]                                what may stand beside a number
  period: D/M/YYYY - D/M/YYYY  ends: exclusive     of the column period; or a month: MMM YYYY
  units: {GiB: 1/1024}                             of the column unit: how many of ours one is
  totals: {text: [Total*]}                         rows that sum up others: compared, not imported
  skip: {text: [Page *]}                           rows without money

An invoice that was imported before and says something else now replaces its former version, which
is kept. All lines are good and imported, or none is. Repeating is safe.`,
		Example: "  meterhouse invoice import october.csv --mapping netapp.yaml --plan",
		Args:    oneArgument("a CSV file, or - for stdin"),
	}
	cmd.Flags().StringVar(&mappingName, "mapping", "", "YAML `file` that says how FILE is read (default: by our own columns)")
	cmd.Flags().BoolVar(&planOnly, "plan", false, "print what would change and change nothing")
	formatFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		var mapping invoiceMapping
		if mappingName != "" {
			if mapping, err = readInvoiceMapping(mappingName); err != nil {
				return err
			}
		}
		file, err := a.openForeignCSV(args[0], mapping.dialect(), invoiceColumns...)
		if err != nil && mappingName == "" {
			return usagef("%w\n  a file of the vendor's own making wants --mapping", err)
		}
		if err != nil {
			return err
		}
		invoices, err := readInvoices(file, &mapping)
		if err != nil {
			return err
		}
		s, err := a.openSession(cmd.Context(), need{database: true})
		if err != nil {
			return err
		}
		defer s.close(&err)
		b := billing.New(s.wh.Pool(), a.now)
		names, err := s.names(cmd.Context(), b)
		if err != nil {
			return err
		}
		changes, err := b.ImportInvoices(cmd.Context(), invoices, planOnly)
		if err != nil {
			return err
		}
		a.lookAtInvoices(file, invoices, names)
		return a.printInvoiceChanges(f, changes, planOnly)
	}
	return cmd
}

// readInvoices reads and checks the whole file. Invoices are in the order of their first lines.
func readInvoices(file *csvFile, m *invoiceMapping) ([]billing.Invoice, error) {
	type key struct{ vendor, number string }
	var order []key
	invoices, first := map[key]*billing.Invoice{}, map[key]csvRow{}
	taken := map[key]map[int]int{} // line numbers → lines of the file
	vendors := slices.Sorted(maps.Keys(billing.Charges))
	sums := sums{invoices: map[string]decimal.Decimal{}}
	for _, row := range file.rows {
		if m.is(m.Skip, row) {
			if text := row.get("amount"); strings.Trim(text, "0.,-") != "" && strings.ContainsAny(text, "0123456789") {
				file.bad(row, "amount", "%q: want none in a row that is skipped; one that sums up others is of the totals", text)
			}
			continue
		}
		if m.is(m.Totals, row) {
			sums.check(file, row, m)
			continue
		}
		if row.misfit != nil {
			file.badLine(row.line, row.misfit)
			continue
		}
		vendor, currency := m.cell(row, "vendor"), m.cell(row, "currency")
		k := key{vendor, m.cell(row, "number")}
		date := m.day(file, row, "invoice_date")
		l := billing.InvoiceLine{
			Account: m.cell(row, "account"), CustomerID: m.cell(row, "customer_id"), SubscriptionNumber: m.cell(row, "subscription_number"),
			Amount: m.amount(file, row, "amount"), Text: m.cell(row, "text"), Source: file.source(row),
		}
		l.PeriodStart, l.PeriodEnd = m.period(file, row)
		l.Quantity, l.UnitPrice = m.measure(file, row)
		sums.add(k.number, l.Amount)
		var isKnown bool
		l.Item, l.Charge, isKnown = m.thing(file, row)
		if !slices.Contains(vendors, vendor) {
			file.bad(row, "vendor", "%q%s: want %s", vendor, nearest(vendor, vendors), oneOf(vendors))
		} else if charges := append(slices.Clone(billing.Charges[vendor]), billing.OtherCharge); isKnown && !slices.Contains(charges, l.Charge) {
			file.bad(row, "charge", "%q%s: want %s", l.Charge, nearest(l.Charge, charges), oneOf(charges))
		}
		if k.number == "" {
			file.bad(row, "number", "is empty: want the number of the invoice")
		}
		if !isCurrencyCode(currency) {
			file.bad(row, "currency", "%q: want a code of ISO 4217 in capitals, such as USD", currency)
		}
		if l.PeriodStart != 0 && l.PeriodEnd != 0 && l.PeriodEnd < l.PeriodStart {
			file.bad(row, "period_end", "%s is before period_start %s: want the last day that is charged for", l.PeriodEnd, l.PeriodStart)
		}
		if l.Charge != billing.OtherCharge && l.Item == "" {
			file.bad(row, "item", "is empty: want a service level or product; taxes, credits and the like have charge %s", billing.OtherCharge)
		}
		if vendor == "keystone" && l.Charge != billing.OtherCharge && l.SubscriptionNumber == "" {
			file.bad(row, "subscription_number", "is empty: want the subscription that is charged")
		}
		if vendor == "wolkvox" && l.CustomerID+l.SubscriptionNumber != "" {
			file.bad(row, "subscription_number", "%q: want it and customer_id empty: wolkvox has accounts only", l.SubscriptionNumber)
		}
		i := invoices[k]
		if i == nil {
			i = &billing.Invoice{Vendor: vendor, Number: k.number, Date: date, Currency: currency}
			invoices[k], first[k], taken[k], order = i, row, map[int]int{}, append(order, k)
		}
		if i.Date != date || i.Currency != currency {
			file.bad(row, "number", "invoice %s has date %s and currency %q here, %s and %q on line %d: want one of each", k.number, date, currency, i.Date, i.Currency, first[k].line)
		}
		l.Number = len(i.Lines) + 1
		if text := m.cell(row, "line"); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > 1_000_000 {
				file.bad(row, "line", "%q: want a whole number from 1", text)
			}
			l.Number = n
		}
		if before, twice := taken[k][l.Number]; twice {
			file.bad(row, "line", "%d of invoice %s stands on line %d too: want a number of its own for each, or none for all", l.Number, k.number, before)
		}
		taken[k][l.Number] = row.line
		i.Lines = append(i.Lines, l)
	}
	if len(order) == 0 && file.err() == nil {
		return nil, usagef("%s: no rows below the header: want at least one line of an invoice", file.name)
	}
	list := make([]billing.Invoice, len(order))
	for i, k := range order {
		list[i] = *invoices[k]
	}
	return list, file.err()
}

// sums are what the lines of a file come to, for the rows that sum them up.
type sums struct {
	all, part decimal.Decimal // of the file; below the last row that sums up
	invoices  map[string]decimal.Decimal
	latest    string
}

func (s *sums) add(number string, amount decimal.Decimal) {
	s.all, s.part, s.latest = s.all.Add(amount), s.part.Add(amount), number
	s.invoices[number] = s.invoices[number].Add(amount)
}

// check demands that a row that sums up lines says one of the sums, with the decimals that it has.
func (s *sums) check(file *csvFile, row csvRow, m *invoiceMapping) {
	problems := len(file.problems)
	said, number := m.amount(file, row, "amount"), cmp.Or(row.get("number"), s.latest)
	var texts []string
	for _, sum := range []struct {
		of    string
		comes decimal.Decimal
	}{{"all lines above", s.all}, {"those of invoice " + number, s.invoices[number]}, {"those since the last sum", s.part}} {
		if sum.comes.Round(max(0, -said.Exponent())).Equal(said) {
			texts = nil
			break
		}
		texts = append(texts, fmt.Sprintf("%s come to %s", sum.of, sum.comes))
	}
	if len(texts) > 0 && len(file.problems) == problems {
		file.bad(row, "amount", "%s in a row that sums up, but %s: want every line in the file, and none twice", said, strings.Join(texts, ", "))
	}
	s.part = decimal.Zero
}

// lookAtInvoices warns of what no load has met.
func (a *app) lookAtInvoices(file *csvFile, invoices []billing.Invoice, names billing.Names) {
	rows := map[string]csvRow{}
	for _, row := range file.rows {
		rows[file.source(row)] = row
	}
	met := map[[2]string]bool{}
	look := func(l billing.InvoiceLine, what, value string, known []string) {
		if value == "" || slices.Contains(known, value) || met[[2]string{what, value}] {
			return
		}
		met[[2]string{what, value}] = true
		a.warn("%s: %s %q%s is not known yet: it is imported, and match finds nothing for it", l.Source, what, value, nearest(value, known))
	}
	repeated, miscounted := 0, 0
	warn := func(n *int, l billing.InvoiceLine, text string) {
		if *n++; *n == 1 {
			a.log.Warn(l.Source + ": " + text)
		}
	}
	for _, i := range invoices {
		for n, l := range i.Lines {
			if before := slices.IndexFunc(i.Lines[:n], l.Repeats); before >= 0 {
				warn(&repeated, l, fmt.Sprintf("says the same as %s: both are imported and charge twice, unless there are two", i.Lines[before].Source))
			}
			if product := l.Quantity.Decimal.Mul(l.UnitPrice.Decimal); l.Quantity.Valid && l.UnitPrice.Valid && product.Sub(l.Amount).Abs().GreaterThanOrEqual(decimal.NewFromInt(1)) {
				warn(&miscounted, l, fmt.Sprintf("%s × %s is %s, and the amount %s: is the mapping right?", l.Quantity.Decimal, l.UnitPrice.Decimal, product, l.Amount))
			}
			look(l, "account", l.Account, names.Accounts)
			look(l, "customer_id", l.CustomerID, names.Customers)
			look(l, "subscription_number", l.SubscriptionNumber, slices.Sorted(maps.Keys(names.Subscriptions)))
			if l.Charge == billing.OtherCharge {
				continue
			}
			if i.Vendor == "keystone" {
				look(l, "item", l.Item, names.Levels)
			} else {
				look(l, "item", l.Item, names.Products)
			}
		}
	}
}

func (a *app) printInvoiceChanges(f format, changes []billing.InvoiceChange, planOnly bool) error {
	t := warehouse.Table{
		Columns: strings.Fields("what vendor number line subscription_number item charge period_start period_end was is"),
		Numeric: []bool{3: true},
	}
	says := func(i billing.Invoice, l billing.InvoiceLine) string {
		if l.Number == 0 {
			return ""
		}
		text := l.Amount.StringFixed(max(0, -l.Amount.Exponent())) + " " + i.Currency
		if l.Quantity.Valid || l.UnitPrice.Valid {
			text += fmt.Sprintf(" = %s × %s", or(digits(l.Quantity), "?"), or(digits(l.UnitPrice), "?"))
		}
		return text
	}
	invoices, lines := map[string]int{}, map[string]int{}
	for _, c := range changes {
		invoices[c.What]++
		if c.What == "changed" && (c.Was.Date != c.Is.Date || c.Was.Currency != c.Is.Currency) {
			t.Rows = append(t.Rows, []string{"changed", c.Is.Vendor, c.Is.Number, "", "", "", "", "", "", c.Was.Date.String() + " " + c.Was.Currency, c.Is.Date.String() + " " + c.Is.Currency})
		}
		for _, l := range c.Lines {
			lines[l.What]++
			shown := l.Is
			if l.What == "removed" {
				shown = l.Was
			}
			if l.What != "unchanged" {
				t.Rows = append(t.Rows, []string{l.What, c.Is.Vendor, c.Is.Number, strconv.Itoa(shown.Number), shown.SubscriptionNumber, shown.Item, shown.Charge,
					shown.PeriodStart.String(), shown.PeriodEnd.String(), says(c.Was, l.Was), says(c.Is, l.Is)})
			}
		}
	}
	sum := fmt.Sprintf("invoices added %d, changed %d, unchanged %d; lines added %d, changed %d, removed %d, unchanged %d",
		invoices["added"], invoices["changed"], invoices["unchanged"], lines["added"], lines["changed"], lines["removed"], lines["unchanged"])
	return a.printChanges(f, t, planOnly, sum)
}

func (a *app) invoiceListCommand() *cobra.Command {
	var history bool
	var f format
	cmd := &cobra.Command{
		Use:   "list [--history]",
		Short: "List the imported invoices",
		Long: `Lists the imported invoices with their totals. With --history it lists former versions too, and those
that were withdrawn, by whom and why.`,
		Example: "  meterhouse invoice list",
		Args:    noArguments,
	}
	cmd.Flags().BoolVar(&history, "history", false, "former versions too")
	formatFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		more, which := "", "where i.superseded_at is null"
		if history {
			more, which = ", i.known_since, i.superseded_at, min(w.withdrawn_by) as withdrawn_by, min(w.reason) as reason", ""
		}
		return a.printQuery(cmd, f, "no invoice was imported yet", `
			select i.vendor, i.number, i.invoice_date, min(l.period_start) as first_day, max(l.period_end) as last_day, count(*) as lines,
				sum(l.amount) as amount, i.currency`+more+`
			from billing.invoice as i
			join billing.invoice_line as l using (invoice_id)
			left join billing.invoice_withdrawal as w using (invoice_id) `+which+`
			group by i.invoice_id
			order by i.vendor, i.invoice_date, i.number, i.known_since, i.invoice_id`)
	}
	return cmd
}

func (a *app) invoiceShowCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "show NUMBER",
		Short: "Show the lines of an invoice",
		Long: `Shows the lines of an imported invoice in its newest version, with the file and line each is from, and
of one that was withdrawn when, by whom and why.`,
		Example: "  meterhouse invoice show 90001234",
		Args:    oneArgument("the number of an invoice"),
	}
	formatFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		s, err := a.openSession(cmd.Context(), need{database: true})
		if err != nil {
			return err
		}
		defer s.close(&err)
		t, err := s.wh.Query(cmd.Context(), `
			select i.vendor, i.invoice_date, l.line_number as line, l.customer_id, l.account, l.subscription_number, l.item, l.charge, l.period_start, l.period_end,
				l.quantity, l.unit_price, l.amount, i.currency, l.line_text as text, l.source as imported_from,
				w.known_since as withdrawn_at, w.withdrawn_by, w.reason
			from (select distinct on (vendor) * from billing.invoice where number = $1 order by vendor, invoice_id desc) as i
			join billing.invoice_line as l using (invoice_id)
			left join billing.invoice_withdrawal as w using (invoice_id)
			order by i.vendor, l.line_number`, args[0])
		if err != nil {
			return err
		}
		if len(t.Rows) == 0 {
			return fmt.Errorf("invoice show %s: no such invoice was imported: want a number from `meterhouse invoice list`", args[0])
		}
		return f.print(a.stdout, t)
	}
	return cmd
}

func (a *app) invoiceWithdrawCommand() *cobra.Command {
	var vendor, by, reason string
	var planOnly bool
	vendors := slices.Sorted(maps.Keys(billing.Charges))
	cmd := &cobra.Command{
		Use:   "withdraw NUMBER --vendor VENDOR --reason R",
		Short: "Take back an invoice that was imported by mistake",
		Long: `Takes back an imported invoice, such as one with a wrong number or vendor: it counts no more in match, in
the workbook and in mart.invoice_line. It stays as a former version, with who took it back and why
(invoice list --history), and --as-of before then still has it. Imported again it counts again.
Repeating is safe. An invoice that only says something wrong is corrected by importing it again.`,
		Example: "  meterhouse invoice withdraw 90001234 --vendor keystone --reason 'is 90001243, mistyped' --plan",
		Args:    oneArgument("the number of an invoice"),
	}
	cmd.Flags().StringVar(&vendor, "vendor", "", "`vendor` of the invoice: "+oneOf(vendors))
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for whoever asks later")
	cmd.Flags().StringVar(&by, "by", "", "`name` of who withdraws it (default the user of the system)")
	cmd.Flags().BoolVar(&planOnly, "plan", false, "print what would be withdrawn and change nothing")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if !slices.Contains(vendors, vendor) {
			return usagef("invoice withdraw: --vendor %q%s: want %s", vendor, nearest(vendor, vendors), oneOf(vendors))
		}
		if reason = strings.TrimSpace(reason); reason == "" {
			return usagef("invoice withdraw: want --reason: whoever asks later shall know why")
		}
		s, err := a.openSession(cmd.Context(), need{database: true})
		if err != nil {
			return err
		}
		defer s.close(&err)
		w, err := billing.New(s.wh.Pool(), a.now).WithdrawInvoice(cmd.Context(), vendor, args[0], or(strings.TrimSpace(by), a.person()), reason, planOnly)
		switch {
		case errors.Is(err, billing.ErrNoInvoice):
			return usagef("%w: want one that `meterhouse invoice list` has", err)
		case err != nil:
			return err
		case w.Invoice.Number == "":
			fmt.Fprintf(a.stdout, "%s %s is withdrawn already, by %s at %s: %s\n", vendor, printable(args[0]), printable(w.By), w.At.UTC().Format("2006-01-02 15:04:05Z"), printable(w.Reason))
			return nil
		}
		verb := "withdrawn"
		if planOnly {
			verb = "would be withdrawn"
		}
		fmt.Fprintf(a.stdout, "%s: %s %s of %s, %s, %s %s\n", verb, vendor, printable(args[0]), w.Invoice.Date, count(len(w.Invoice.Lines), "line"),
			money(w.Invoice.Total(), w.Invoice.Currency), w.Invoice.Currency)
		return nil
	}
	return cmd
}
