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
	"meterhouse/etl/wolkvox"
)

func (a *app) ratesCommand() *cobra.Command {
	cmd := group("rates", "Import or list the prices, or say how a product's month becomes a quantity", "import prices.csv --plan")
	cmd.AddCommand(a.ratesImportCommand(), a.ratesListCommand(), a.ratesRuleCommand(), a.ratesRulesCommand())
	return cmd
}

var rateColumns = []csvColumn{
	{name: "vendor"}, {name: "account", optional: true}, {name: "customer_id", optional: true}, {name: "subscription_number", optional: true},
	{name: "item", optional: true}, {name: "charge"}, {name: "waiver", optional: true}, {name: "unit_price"}, {name: "currency"},
	{name: "valid_from"}, {name: "valid_to", optional: true},
}

// fileImport is a command that brings a table of finance to what a CSV file says.
type fileImport[Row any] struct {
	short, long, example string
	whole                string // what the file is with --replace
	columns              []csvColumn
	read                 func(*csvFile) ([]Row, error)
	bring                func(b *billing.Billing, ctx context.Context, rows []Row, replace, planOnly bool) ([]billing.Change[Row], error)
	look                 func(*unknowns, csvRow, Row)
	print                func(f format, changes []billing.Change[Row], names billing.Names, planOnly bool) error
}

func (i fileImport[Row]) command(a *app) *cobra.Command {
	var replace, allowEmpty, planOnly bool
	var f format
	cmd := &cobra.Command{
		Use:     "import FILE [--replace] [--plan]",
		Short:   i.short,
		Long:    i.long,
		Example: i.example,
		Args:    oneArgument("a CSV file, or - for stdin"),
	}
	cmd.Flags().BoolVar(&replace, "replace", false, i.whole)
	cmd.Flags().BoolVar(&allowEmpty, "allow-empty", false, "with --replace: a file without rows removes everything")
	cmd.Flags().BoolVar(&planOnly, "plan", false, "print what would change and change nothing")
	formatFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if allowEmpty && !replace {
			return usagef("%s: --allow-empty: want --replace with it: without, a file without rows changes nothing", cmd.CommandPath())
		}
		file, err := a.openCSV(args[0], i.columns...)
		if err != nil {
			return err
		}
		rows, err := i.read(file)
		if err != nil {
			return err
		}
		if len(rows) == 0 && !allowEmpty {
			return usagef("%s: no rows below the header: want at least one, or --replace --allow-empty to remove all that is stored", file.name)
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
		changes, err := i.bring(b, cmd.Context(), rows, replace, planOnly)
		if err := file.conflicts(err); err != nil {
			return err
		}
		unknown := a.unknowns(file, names)
		for n, r := range rows {
			i.look(unknown, file.rows[n], r)
		}
		return i.print(f, changes, names, planOnly)
	}
	return cmd
}

func (a *app) ratesImportCommand() *cobra.Command {
	return fileImport[billing.Rate]{
		short: "Import prices from a CSV file",
		long: `Reads vendor (keystone, wolkvox), account, customer_id, subscription_number, item (service level or
product), charge (committed and burst of keystone, license and usage of wolkvox), waiver (true: for
burst of a subscription's first 60 days), unit_price, currency (ISO 4217), valid_from and valid_to
(first and last day; empty: no end) with a header; - is stdin. An empty account, customer,
subscription or item, or a column left out, is any; the most specific price counts: subscription
before item before customer before account. Without an item no unclassified level is priced.

A row replaces the stored one for the same that begins on the same day; the former price is kept as
what was known until then. Rows that the file does not name stay, unless --replace is given. All
rows are good and imported, or none is. Repeating is safe.`,
		example: "  meterhouse rates list --format csv > prices.csv\n" +
			"  meterhouse rates import prices.csv --plan\n" +
			"  printf 'vendor,item,charge,unit_price,currency,valid_from\\nkeystone,Extreme,burst,9.5,USD,2026-01-01\\n' |\n    meterhouse rates import -",
		whole:   "the file is the whole rate card: remove every other price",
		columns: rateColumns,
		read:    readRates,
		bring:   (*billing.Billing).ImportRates,
		look:    (*unknowns).lookAtRate,
		print: func(f format, changes []billing.Change[billing.Rate], names billing.Names, planOnly bool) error {
			return a.printRateChanges(f, changes, names.Unclassified, planOnly)
		},
	}.command(a)
}

// readRates reads and checks the whole file. Rates are in the order of the rows.
func readRates(file *csvFile) ([]billing.Rate, error) {
	vendors := slices.Sorted(maps.Keys(billing.Charges))
	rates := make([]billing.Rate, len(file.rows))
	for i, row := range file.rows {
		r := &rates[i]
		r.RateKey = billing.RateKey{
			Vendor: row.get("vendor"), Account: row.get("account"), CustomerID: row.get("customer_id"), SubscriptionNumber: row.get("subscription_number"),
			Item: row.get("item"), Charge: row.get("charge"), IsWaiver: file.boolean(row, "waiver"),
		}
		r.UnitPrice, r.Currency = file.decimal(row, "unit_price"), row.get("currency")
		r.ValidFrom, r.Source = file.day(row, "valid_from"), file.source(row)
		if file.choice(row, "vendor", vendors) {
			file.choice(row, "charge", billing.Charges[r.Vendor])
		}
		if r.UnitPrice.Sign() < 0 {
			file.bad(row, "unit_price", "%s: want 0 or more", row.get("unit_price"))
		}
		if !isCurrencyCode(r.Currency) {
			file.bad(row, "currency", "%q: want a code of ISO 4217 in capitals, such as USD", r.Currency)
		}
		if r.IsWaiver && r.Charge != "burst" {
			file.bad(row, "waiver", "%q: want it on charge burst only: other charges are not waived", row.get("waiver"))
		}
		for _, column := range []string{"customer_id", "subscription_number"} {
			if r.Vendor == "wolkvox" && row.get(column) != "" {
				file.bad(row, column, "%q: want it empty: wolkvox has accounts only", row.get(column))
			}
		}
		if row.get("valid_to") != "" {
			to := file.day(row, "valid_to")
			r.ValidTo = &to
			if to != 0 && to < r.ValidFrom {
				file.bad(row, "valid_to", "%s is before valid_from %s: want the last day on which the price holds", to, r.ValidFrom)
			}
		}
	}
	if file.err() == nil { // days of rows that were read wrong overlap by accident
		findOverlaps(file, rates)
	}
	return rates, file.err()
}

// findOverlaps reports rows that price the same on the same day.
func findOverlaps(file *csvFile, rates []billing.Rate) {
	wrong := map[int]string{}
	rows := map[billing.RateKey][]int{}
	for i, r := range rates {
		rows[r.RateKey] = append(rows[r.RateKey], i)
	}
	for _, same := range rows {
		slices.SortStableFunc(same, func(i, j int) int { return cmp.Compare(rates[i].ValidFrom, rates[j].ValidFrom) })
		longest := same[0] // of those before, the one that holds longest
		for _, i := range same[1:] {
			if rates[i].Overlaps(rates[longest]) {
				wrong[i] = fmt.Sprintf("%s overlaps line %d (%s), which prices the same: want one price a day; both ends count",
					rates[i].Days(), file.rows[longest].line, rates[longest].Days())
			}
			if end := rates[longest].ValidTo; end != nil && (rates[i].ValidTo == nil || *rates[i].ValidTo > *end) {
				longest = i
			}
		}
	}
	for _, i := range slices.Sorted(maps.Keys(wrong)) {
		file.bad(file.rows[i], "valid_from", "%s", wrong[i])
	}
}

func isCurrencyCode(text string) bool {
	return len(text) == 3 && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// names are those of the dimensions, of the configuration and of the wolkvox catalogue.
func (s *session) names(ctx context.Context, b *billing.Billing) (billing.Names, error) {
	n, err := b.Names(ctx)
	if err != nil {
		return n, err
	}
	for _, k := range s.cfg.Keystone {
		n.Accounts = append(n.Accounts, k.Account)
	}
	for _, w := range s.cfg.Wolkvox {
		n.Accounts = append(n.Accounts, w.Account)
		n.Products = append(n.Products, w.Products...)
	}
	n.Products = append(n.Products, productCodes()...)
	return n, nil
}

// unknowns warns, once for each value, of what no load has met: it may come later, or be misspelt and
// never be met.
type unknowns struct {
	app   *app
	file  *csvFile
	names billing.Names
	met   map[[2]string]bool // columns and values
}

func (a *app) unknowns(file *csvFile, names billing.Names) *unknowns {
	return &unknowns{a, file, names, map[[2]string]bool{}}
}

func (s *unknowns) warn(row csvRow, column, format string, args ...any) {
	place := [2]string{column, row.get(column)}
	if !s.met[place] {
		s.met[place] = true
		s.app.warn("%s: %s %q%s", s.file.source(row), column, row.get(column), fmt.Sprintf(format, args...))
	}
}

// look warns when a cell has a value that is not known.
func (s *unknowns) look(row csvRow, column string, known []string) {
	if value := row.get(column); value != "" && !slices.Contains(known, value) {
		s.warn(row, column, "%s is not known yet: it is imported, and applies once there is one of that name", nearest(value, known))
	}
}

// lookAtSubscription looks at customer and subscription, and at both together.
func (s *unknowns) lookAtSubscription(row csvRow) {
	s.look(row, "customer_id", s.names.Customers)
	s.look(row, "subscription_number", slices.Sorted(maps.Keys(s.names.Subscriptions)))
	customer, of := row.get("customer_id"), s.names.Subscriptions[row.get("subscription_number")]
	if customer != "" && len(of) > 0 && !slices.Contains(of, customer) {
		s.warn(row, "subscription_number", " is one of customer %s, not of %s: the row applies to nothing", strings.Join(of, ", "), customer)
	}
}

// lookAtRate looks at everything that a price names.
func (s *unknowns) lookAtRate(row csvRow, r billing.Rate) {
	s.look(row, "account", s.names.Accounts)
	s.lookAtSubscription(row)
	if known := billing.Currencies(); !slices.Contains(known, r.Currency) {
		s.warn(row, "currency", "%s is not in ISO 4217: amounts in it are rounded to 2 decimals", nearest(r.Currency, known))
	}
	if r.Vendor == "keystone" {
		s.look(row, "item", s.names.Levels)
		return
	}
	s.look(row, "item", s.names.Products)
	for _, p := range wolkvox.Catalogue() {
		if p.Code == r.Item && (p.Kind == etl.Counter) != (r.Charge == "usage") {
			s.warn(row, "item", " is a %s: charge %s applies to nothing, want usage for a counter and license for a gauge", p.Kind, r.Charge)
		}
	}
}

func (a *app) printRateChanges(f format, changes []billing.Change[billing.Rate], unclassified []string, planOnly bool) error {
	t := warehouse.Table{
		Columns: []string{"what", "vendor", "account", "customer_id", "subscription_number", "item", "charge", "waiver", "valid_from", "was", "is"},
		Boolean: []bool{7: true},
	}
	price := func(r billing.Rate) string {
		if r.Currency == "" {
			return ""
		}
		text := r.UnitPrice.String() + " " + r.Currency
		if r.ValidTo != nil {
			text += " to " + r.ValidTo.String()
		}
		return text
	}
	counts := map[string]int{}
	for _, c := range changes {
		counts[c.What]++
		r := c.Is
		if c.What == "removed" {
			r = c.Was
		}
		if c.What != "unchanged" {
			t.Rows = append(t.Rows, []string{c.What, r.Vendor, r.Account, r.CustomerID, r.SubscriptionNumber, r.Item, r.Charge,
				fmt.Sprint(r.IsWaiver), r.ValidFrom.String(), price(c.Was), price(c.Is)})
		}
	}
	for _, level := range unclassified {
		t.Rows = append(t.Rows, []string{"unclassified", "keystone", "", "", "", level, "", "", "", "", ""})
	}
	return a.printChanges(f, t, planOnly, fmt.Sprintf("added %d, changed %d, ended %d, removed %d, unchanged %d, levels left unclassified %d",
		counts["added"], counts["changed"], counts["ended"], counts["removed"], counts["unchanged"], len(unclassified)))
}

// printChanges prints what an import does, and for people a sum of it.
func (a *app) printChanges(f format, t warehouse.Table, planOnly bool, sum string) error {
	if !f.isForPeople() {
		return f.print(a.stdout, t)
	}
	if len(t.Rows) > 0 {
		if err := f.print(a.stdout, t); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout)
	}
	if planOnly {
		sum = "would be: " + sum
	}
	fmt.Fprintln(a.stdout, sum)
	return nil
}

func (a *app) ratesListCommand() *cobra.Command {
	var history bool
	var f format
	cmd := &cobra.Command{
		Use:   "list [--history]",
		Short: "List the prices",
		Long: `Lists the prices that hold, or will or did hold, in the form in which rates import takes them back.
With --history it lists replaced ones too, with the file and line that each is from and when it was
known.`,
		Example: "  meterhouse rates list\n  meterhouse rates list --format csv > prices.csv",
		Args:    noArguments,
	}
	cmd.Flags().BoolVar(&history, "history", false, "replaced and removed prices too")
	formatFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		more, which := "", "where superseded_at is null"
		if history {
			more, which = ", source, known_since, superseded_at", ""
		}
		return a.printQuery(cmd, f, "no price was imported yet", `
			select vendor, account, customer_id, subscription_number, item, charge, is_waiver as waiver, unit_price, currency, valid_from, valid_to`+more+`
			from billing.rate `+which+`
			order by vendor, account, customer_id, subscription_number, item, charge, is_waiver, valid_from, known_since, rate_id`)
	}
	return cmd
}

// printQuery prints the rows of a query, or for people that there are none.
func (a *app) printQuery(cmd *cobra.Command, f format, none, sql string, args ...any) (err error) {
	s, err := a.openSession(cmd.Context(), need{database: true})
	if err != nil {
		return err
	}
	defer s.close(&err)
	t, err := s.wh.Query(cmd.Context(), sql, args...)
	if err != nil {
		return err
	}
	if len(t.Rows) == 0 && f.isForPeople() {
		fmt.Fprintln(a.stdout, none)
		return nil
	}
	return f.print(a.stdout, t)
}

func (a *app) ratesRuleCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "rule PRODUCT max|last|average --reason R",
		Short: "Say how the readings of a wolkvox product become the quantity of a month",
		Long: `Records how a month of a gauge is counted: its greatest reading (max, unless told otherwise), its
last, or the average of its days' last readings. Counters grow through the month: their last good
reading counts. The decision before is kept, for what was known until then.`,
		Example: "  meterhouse rates rule chat_licenses last --reason 'contract of 2026, section 4'",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("rates rule: %d arguments: want two, a product and %s", len(args), oneOf(billing.ProductRules))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for whoever asks later")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		product, rule := args[0], args[1]
		if !slices.Contains(billing.ProductRules, rule) {
			return usagef("rates rule: %q%s: want %s", rule, nearest(rule, billing.ProductRules), oneOf(billing.ProductRules))
		}
		if strings.TrimSpace(reason) == "" {
			return usagef("rates rule: want --reason: whoever asks later shall know why")
		}
		for _, p := range wolkvox.Catalogue() {
			if p.Code == product && p.Kind == etl.Counter {
				return usagef("rates rule: %s is a counter: its last good reading of the month counts, want a gauge", product)
			}
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
		if !slices.Contains(names.Products, product) {
			return usagef("rates rule: unknown product %q%s: want the vendor's name of a report", product, nearest(product, names.Products))
		}
		was, err := b.SetProductRule(cmd.Context(), product, rule, strings.TrimSpace(reason))
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "%s: %s, was %s\n", product, rule, was)
		return nil
	}
	return cmd
}

func (a *app) ratesRulesCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:     "rules",
		Short:   "List how each wolkvox product becomes the quantity of a month",
		Long:    `Lists the decisions of rates rule, and max for every other gauge that was read.`,
		Example: "  meterhouse rates rules",
		Args:    noArguments,
	}
	formatFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.printQuery(cmd, f, "no gauge was read and none decided about yet", `
			with gauge as (
				select api as product from dw.dim_product where kind = 'gauge'
			),

			decided as (
				select product, rule, reason, known_since from billing.product_rule where superseded_at is null
			)

			select product, coalesce(d.rule, 'max') as rule, d.reason, d.known_since as decided_at
			from gauge
			full join decided as d using (product)
			order by product`)
	}
	return cmd
}
