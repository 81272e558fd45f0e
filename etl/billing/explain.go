package billing

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/shopspring/decimal"

	"meterhouse/etl"
)

// Cause is why invoice and statement differ, or that they do not.
type Cause string

// The causes. In which order they are tried says explain.
const (
	Equal                Cause = "equal"                  // the same amount
	Rounding             Cause = "rounding"               // within the tolerance, or what comes of the decimals that the invoice prints
	RestatedAfterInvoice Cause = "restated_after_invoice" // the figures as they were known on the day of the invoice give its amount
	Waiver               Cause = "waiver"                 // burst of the first 60 days is charged, or left out though it has a price
	Prorated             Cause = "prorated"               // a whole month is charged where days count, or only some of the days
	RateDiffers          Cause = "rate_differs"           // our quantity at the price of the invoice, which is not ours
	MissingDays          Cause = "missing_days"           // days without figures can account for it, or nothing is known that could be charged
	QuantityDiffers      Cause = "quantity_differs"       // another quantity at our price
	NotOnInvoice         Cause = "not_on_invoice"
	NotInWarehouse       Cause = "not_in_warehouse"
	Unexplained          Cause = "unexplained" // none of these, or there is no price to check it by
)

// Causes are all of them, in the order in which they are reported.
var Causes = []Cause{Equal, Rounding, RestatedAfterInvoice, Waiver, Prorated, RateDiffers, MissingDays, QuantityDiffers, NotOnInvoice, NotInWarehouse, Unexplained}

// comparison is everything that is known of one thing that is charged for: the lines of invoices for it,
// the lines of the statement, and the days behind these. Either kind of lines may be missing, not both.
type comparison struct {
	invoice  []InvoiceLine
	lines    []Line
	days     []pricedDay // of the statement's lines, as known now
	then     []pricedDay // the same as known at the date of the invoice, at the prices of now; nil: the same, or not asked for
	currency string

	// What burst in the waiver would cost without one.
	regular []decimal.Decimal
	// What is accepted as rounding, in minor units of the currency for each line of either side: each was
	// rounded for itself.
	tolerance decimal.Decimal
	// Of each line of the invoice what its invoice rounds amounts to, in all; zero: the minor unit, each.
	invoiceUnits decimal.Decimal
	// What the quantity comes to when it is worked out another way: burst from samples, commitment from
	// the contract. Unknown where that cannot be told.
	recomputed decimal.NullDecimal
	// How many customers or accounts could be meant by an invoice that does not say; 0 when it does.
	owners int
	// Whether an invoice charges the subscription or account at all in this month.
	isInvoiced bool
	// In which other currencies the other side has the thing.
	elsewhere []string
}

// pricedDay is the part of one instance of a level, or of one product and description, on one day.
type pricedDay struct {
	day      etl.Day
	parts    decimal.NullDecimal // divided by scale it is the day's part of the quantity
	scale    int
	price    decimal.NullDecimal // of one unit, in the currency of the comparison
	isWaiver bool
	isGuess  bool // missing, or estimated from what was known before
}

// explain names the one cause that accounts for what the invoice asks, and says more in words where that
// helps: the first that does, and what stands on solid evidence is tried before what is only possible. It
// depends on nothing else and on no order of lines or days.
func explain(c comparison) (Cause, string) {
	switch {
	case len(c.lines) == 0 && c.difference().IsZero():
		return Equal, ""
	case len(c.lines) == 0:
		return NotInWarehouse, c.strange()
	case len(c.invoice) == 0:
		return c.uncharged()
	case c.difference().IsZero():
		return Equal, c.unpriced()
	case c.difference().Abs().LessThanOrEqual(c.slack()):
		return Rounding, c.coarse()
	}
	if detail, is := c.rounded(); is {
		return Rounding, detail
	}
	if detail, is := c.restated(); is {
		return RestatedAfterInvoice, detail
	}
	if detail, is := c.waiver(); is {
		return Waiver, detail
	}
	if detail, is := c.prorated(); is {
		return Prorated, detail
	}
	if text := c.unverified(); text != "" { // no price is not another price: nobody has agreed to this money
		return Unexplained, phrases(text, c.miscalculated(), c.otherPeriod(), c.repeated(), c.guessed())
	}
	if detail, is := c.rate(); is {
		return RateDiffers, detail
	}
	if detail, is := c.missing(); is {
		return MissingDays, detail
	}
	if detail, is := c.otherQuantity(); is {
		return QuantityDiffers, phrases(detail, c.otherPeriod(), c.repeated())
	}
	unpriced := c.unpriced()
	if unpriced != "" {
		unpriced += getPrice
	}
	return Unexplained, phrases(c.miscalculated(), unpriced, c.otherPeriod(), c.repeated(), c.guessed())
}

// uncharged explains why no invoice has it. What has an amount of zero needs none; what is unknown may.
func (c comparison) uncharged() (Cause, string) {
	if c.owed().IsZero() {
		cause, detail := Equal, ""
		for _, l := range c.lines {
			switch {
			case l.Amount.Valid || l.Quantity.Valid && l.Quantity.Decimal.IsZero():
			case !l.Quantity.Valid:
				cause, detail = MissingDays, c.guessed()
			case !l.IsWaiver:
				return NotOnInvoice, phrases(c.unpriced(), c.inOtherCurrency())
			case cause == Equal:
				cause, detail = Waiver, "not charged; "+c.unpriced()
			}
		}
		return cause, detail
	}
	if detail, is := c.restated(); is && c.isInvoiced {
		return RestatedAfterInvoice, detail
	}
	if detail, is := c.waiver(); is && c.isInvoiced {
		return Waiver, detail
	}
	return NotOnInvoice, phrases(c.unpriced(), c.inOtherCurrency())
}

func phrases(texts ...string) string {
	return strings.Join(slices.DeleteFunc(texts, func(text string) bool { return text == "" }), "; ")
}

// asked is what the invoice charges; lines of one kind are summed.
func (c comparison) asked() (sum decimal.Decimal) {
	for _, l := range c.invoice {
		sum = sum.Add(l.Amount)
	}
	return sum
}

// owed is what the statement comes to; lines without a price count nothing.
func (c comparison) owed() (sum decimal.Decimal) {
	for _, l := range c.lines {
		sum = sum.Add(l.Amount.Decimal)
	}
	return sum
}

func (c comparison) difference() decimal.Decimal { return c.asked().Sub(c.owed()) }

// invoiceQuantity is known when every line has one.
func (c comparison) invoiceQuantity() (sum decimal.NullDecimal) {
	for i, l := range c.invoice {
		sum.Valid = l.Quantity.Valid && (i == 0 || sum.Valid)
		sum.Decimal = sum.Decimal.Add(l.Quantity.Decimal)
	}
	return sum
}

// quantity is known when some day is.
func (c comparison) quantity() (sum decimal.NullDecimal) {
	for _, l := range c.lines {
		sum.Valid = sum.Valid || l.Quantity.Valid
		sum.Decimal = sum.Decimal.Add(l.Quantity.Decimal)
	}
	return sum
}

// invoicePrice is known when all lines that say one say the same, and one does.
func (c comparison) invoicePrice() decimal.NullDecimal {
	var prices []decimal.Decimal
	for _, l := range c.invoice {
		if l.UnitPrice.Valid {
			prices = addPrice(prices, l.UnitPrice.Decimal)
		}
	}
	return onlyPrice(prices)
}

// prices are those of the statement, with those of the waiver or without.
func (c comparison) prices(withWaiver bool) (prices []decimal.Decimal) {
	for _, l := range c.lines {
		if l.UnitPrice.Valid && (withWaiver || !l.IsWaiver) {
			prices = addPrice(prices, l.UnitPrice.Decimal)
		}
	}
	return prices
}

// price is that of all lines of the statement.
func (c comparison) price() decimal.NullDecimal {
	if c.unpriced() != "" {
		return decimal.NullDecimal{}
	}
	return onlyPrice(c.prices(true))
}

// due is what costs something, and its price: of all lines, or of all but a waiver that costs nothing. The
// price is unknown where there are several, or lines without one.
func (c comparison) due() (quantity, price decimal.NullDecimal) {
	paid := c
	paid.lines = slices.DeleteFunc(slices.Clone(c.lines), func(l Line) bool { return l.IsWaiver && l.Amount.Decimal.IsZero() })
	return paid.quantity(), paid.price()
}

func addPrice(prices []decimal.Decimal, price decimal.Decimal) []decimal.Decimal {
	if slices.ContainsFunc(prices, price.Equal) {
		return prices
	}
	return append(prices, price)
}

func onlyPrice(prices []decimal.Decimal) decimal.NullDecimal {
	if len(prices) != 1 {
		return decimal.NullDecimal{}
	}
	return decimal.NewNullDecimal(prices[0])
}

// hasOurPrice tells that no line of the invoice says a price that is not one of ours.
func (c comparison) hasOurPrice() bool {
	ours := c.prices(true)
	for _, l := range c.invoice {
		if l.UnitPrice.Valid && !slices.ContainsFunc(ours, l.UnitPrice.Decimal.Equal) {
			return false
		}
	}
	return true
}

func (c comparison) minorUnits() int32 { return int32(MinorUnits(c.currency)) }

// slack is how far amounts may be apart by rounding alone.
func (c comparison) slack() decimal.Decimal {
	units := c.invoiceUnits
	if units.IsZero() {
		units = decimal.New(int64(len(c.invoice)), -c.minorUnits())
	}
	return c.tolerance.Mul(units.Add(decimal.New(int64(len(c.lines)), -c.minorUnits())))
}

// coarse says that the invoice rounds to more than the minor unit.
func (c comparison) coarse() string {
	if c.invoiceUnits.LessThanOrEqual(decimal.New(int64(len(c.invoice)), -c.minorUnits())) {
		return ""
	}
	return "the invoice prints no decimals, or fewer than its currency has"
}

// isAbout tells that an amount is what the invoice charges, but for rounding.
func (c comparison) isAbout(amount decimal.Decimal) bool {
	return c.asked().Sub(amount.Round(c.minorUnits())).Abs().LessThanOrEqual(c.slack())
}

func (c comparison) money(d decimal.Decimal) string {
	return d.StringFixed(c.minorUnits()) + " " + c.currency
}

func anyDay(pricedDay) bool { return true }

// exactly is what the quantity of days comes to, unrounded.
func (c comparison) exactly(counts func(pricedDay) bool) decimal.Decimal {
	return weigh(c.days, func(d pricedDay) decimal.Decimal {
		if !counts(d) {
			return decimal.Zero
		}
		return decimal.NewFromInt(1)
	})
}

// cost is what days come to at their prices. It keeps more digits than any amount has and is not rounded.
func cost(days []pricedDay, counts func(pricedDay) bool) decimal.Decimal {
	return weigh(days, func(d pricedDay) decimal.Decimal {
		if !counts(d) {
			return decimal.Zero
		}
		return d.price.Decimal
	})
}

// weigh is the sum of the days' quantities, each by a factor of its own.
func weigh(days []pricedDay, factor func(pricedDay) decimal.Decimal) (sum decimal.Decimal) {
	byScale := map[int]decimal.Decimal{}
	for _, d := range days {
		byScale[d.scale] = byScale[d.scale].Add(d.parts.Decimal.Mul(factor(d)))
	}
	for scale, parts := range byScale {
		sum = sum.Add(parts.DivRound(decimal.NewFromInt(int64(scale)), workDecimals))
	}
	return sum
}

// workDecimals are so many that what is cut off changes no cent.
const workDecimals = 24

// rounded tries our quantity with the decimals that the invoice prints, at our price.
func (c comparison) rounded() (string, bool) {
	said := c.invoiceQuantity()
	ours, price := c.due()
	if !said.Valid || !ours.Valid || !price.Valid || !c.hasOurPrice() || !isShown(said.Decimal, ours.Decimal) || !c.isAbout(said.Decimal.Mul(price.Decimal)) {
		return "", false
	}
	return fmt.Sprintf("quantity %s on the invoice, %s in the statement", said.Decimal, brief(ours.Decimal)), true
}

// restated tries the days as they were known when the invoice was made.
func (c comparison) restated() (string, bool) {
	// Of what was not loaded yet at the invoice date nothing was known, which is not that it was nothing.
	wasKnown := slices.ContainsFunc(c.then, func(d pricedDay) bool { return d.parts.Valid })
	if !wasKnown || !c.hasOurPrice() || !c.isAbout(cost(c.then, anyDay)) {
		return "", false
	}
	detail := "as known at the invoice date: " + c.money(cost(c.then, anyDay))
	if slices.ContainsFunc(c.lines, func(l Line) bool { return l.State == "closed" }) {
		detail += "; the month is closed, and what changed since is in mart.adjustment"
	}
	return detail, true
}

// waiver tries what the invoice would be with burst of the waiver left out, or charged as any other burst.
func (c comparison) waiver() (string, bool) {
	var waived decimal.Decimal // amount
	hasWaiver, isPriced := false, true
	for _, l := range c.lines {
		if l.IsWaiver {
			waived, hasWaiver, isPriced = waived.Add(l.Amount.Decimal), true, isPriced && l.UnitPrice.Valid
		}
	}
	if !hasWaiver {
		return "", false
	}
	rest := c.owed().Sub(waived)
	if c.isAbout(rest) {
		return fmt.Sprintf("%s of the waiver left out", c.money(waived)), true
	}
	quantity := c.exactly(func(d pricedDay) bool { return d.isWaiver })
	prices := slices.Clone(c.regular)
	for _, price := range c.prices(false) {
		prices = addPrice(prices, price)
	}
	for _, l := range c.invoice {
		if l.UnitPrice.Valid && isPriced { // else nobody has agreed to it
			prices = addPrice(prices, l.UnitPrice.Decimal)
		}
	}
	slices.SortFunc(prices, decimal.Decimal.Cmp)
	for _, price := range prices {
		if amount := quantity.Mul(price); c.isAbout(rest.Add(amount)) {
			return fmt.Sprintf("%s TiB of the waiver charged at %s", brief(quantity), price), true
		}
	}
	return "", false
}

// prorated tries whole months at one of the commitments that held, and only the days that the invoice is for.
func (c comparison) prorated() (string, bool) {
	if !c.hasOurPrice() {
		return "", false
	}
	first, last := c.invoicePeriod()
	if within := func(d pricedDay) bool { return d.day >= first && d.day <= last }; slices.ContainsFunc(c.days, within) &&
		slices.ContainsFunc(c.days, func(d pricedDay) bool { return !within(d) }) && c.isAbout(cost(c.days, within)) {
		return fmt.Sprintf("only %s to %s charged", first, last), true
	}
	price := c.price()
	if len(c.days) == 0 || c.lines[0].Charge != "committed" || !price.Valid {
		return "", false
	}
	start, end := c.statementPeriod()
	committed := map[etl.Day]decimal.Decimal{} // parts of a whole month
	for _, d := range c.days {
		committed[d.day] = committed[d.day].Add(d.parts.Decimal.Mul(decimal.NewFromInt(daysOfMonth(start, end, d.day))))
	}
	scale := decimal.NewFromInt(int64(c.days[0].scale))
	// The day's part of its month, and calendar months that the period touches.
	whole, months := decimal.Zero, int64(0)
	for d := start; d <= end; d++ {
		whole = whole.Add(decimal.NewFromInt(int64(c.days[0].scale) / daysOfMonth(start, end, d)))
		if d == start || d.Month() == d {
			months++
		}
	}
	for _, day := range slices.Sorted(maps.Keys(committed)) {
		level := committed[day].DivRound(scale, workDecimals) // TiB
		for _, extent := range []decimal.Decimal{whole.DivRound(scale, workDecimals), decimal.NewFromInt(months)} {
			if c.isAbout(level.Mul(extent).Mul(price.Decimal)) {
				if extent.Equal(decimal.NewFromInt(months)) && months > 1 {
					return fmt.Sprintf("%s TiB charged for %d whole months", brief(level), months), true
				}
				return fmt.Sprintf("%s TiB charged for the whole period", brief(level)), true
			}
		}
	}
	return "", false
}

// invoicePeriod is from the first to the last day that the lines of the invoice are for.
func (c comparison) invoicePeriod() (first, last etl.Day) {
	first, last = c.invoice[0].PeriodStart, c.invoice[0].PeriodEnd
	for _, l := range c.invoice {
		first, last = min(first, l.PeriodStart), max(last, l.PeriodEnd)
	}
	return first, last
}

// daysOfMonth is how many days the month has of which a committed day is a part, as billing.statement_part weighs
// it: a period of whole months that does not begin on the 1st has months of its own, any other those of the calendar.
func daysOfMonth(start, end, day etl.Day) int64 {
	from, until := day.Month(), day.NextMonth()
	if start != start.Month() {
		after := end + 1
		months := (after.Time().Year()-start.Time().Year())*12 + int(after.Time().Month()-start.Time().Month())
		anchor, back := start, 0
		if monthsAfter(start, months) != after { // an anchor that a month is too short for shows at the end of the period
			anchor, back = after, months
		}
		if monthsAfter(anchor, -back) == start && monthsAfter(anchor, months-back) == after {
			for n := range months {
				if a, b := monthsAfter(anchor, n-back), monthsAfter(anchor, n+1-back); a <= day && day < b {
					from, until = a, b
				}
			}
		}
	}
	return int64(until - from)
}

// rate tries our quantity at the price of the invoice; that of the waiver stays as we have it.
func (c comparison) rate() (string, bool) {
	regular := func(d pricedDay) bool { return !d.isWaiver }
	waived, hasWaiver, isKnown := decimal.Zero, false, false
	for _, l := range c.lines {
		if isKnown = isKnown || !l.IsWaiver && l.Quantity.Valid; l.IsWaiver {
			waived, hasWaiver = waived.Add(l.Amount.Decimal), true
		}
	}
	if !isKnown {
		return "", false
	}
	ours := "several"
	if price := onlyPrice(c.prices(false)); price.Valid {
		ours = price.Decimal.String()
	}
	theirs, said, quantity := c.invoicePrice(), c.invoiceQuantity(), c.exactly(regular)
	switch {
	case theirs.Valid && c.isAbout(quantity.Mul(theirs.Decimal).Add(waived)):
		return fmt.Sprintf("price %s on the invoice, %s in the rate card", theirs.Decimal, ours), true
	case !slices.ContainsFunc(c.invoice, func(l InvoiceLine) bool { return l.UnitPrice.Valid }) && said.Valid && !said.Decimal.IsZero() && isShown(said.Decimal, quantity) && (!hasWaiver || waived.IsZero()):
		return fmt.Sprintf("price %s on the invoice as it comes to, %s in the rate card", brief(c.asked().DivRound(said.Decimal, 12)), ours), true
	}
	return "", false
}

// isShown tells that a printed quantity is ours, with the decimals that it has; two at least.
func isShown(printed, ours decimal.Decimal) bool {
	_, decimals, _ := strings.Cut(printed.String(), ".") // zeros at its end left out
	return ours.Round(max(2, int32(len(decimals)))).Equal(printed)
}

// missing tries whether the days without figures can make up for the difference: from nothing to as much as
// the greatest day that is known, each; where none is, as the greatest that was estimated.
func (c comparison) missing() (string, bool) {
	guessed, said := c.guessed(), c.invoiceQuantity()
	_, price := c.due()
	// An invoice that contradicts itself is wrong in another way.
	if guessed == "" || !c.hasOurPrice() || said.Valid && price.Valid && !c.isAbout(said.Decimal.Mul(price.Decimal)) {
		return "", false
	}
	of := func(d pricedDay) decimal.Decimal {
		return d.parts.Decimal.DivRound(decimal.NewFromInt(int64(d.scale)), workDecimals)
	}
	greatest := map[bool]decimal.NullDecimal{} // of days that are guesses, and of others
	for _, d := range c.days {
		if known := greatest[d.isGuess]; d.parts.Valid && (!known.Valid || of(d).GreaterThan(known.Decimal)) {
			greatest[d.isGuess] = decimal.NewNullDecimal(of(d))
		}
	}
	up := greatest[false]
	if !up.Valid {
		up = greatest[true]
	}
	if !up.Valid { // nothing to measure by but the invoice itself
		return guessed + ", and no other", said.Valid && price.Valid
	}
	least := cost(c.days, func(d pricedDay) bool { return !d.isGuess }) // amounts
	most := least
	for _, d := range c.days {
		if d.isGuess {
			most = most.Add(decimal.Max(up.Decimal, of(d)).Mul(d.price.Decimal))
		}
	}
	if slack := c.slack(); c.asked().LessThan(least.Sub(slack)) || c.asked().GreaterThan(most.Add(slack)) {
		return "", false
	}
	return fmt.Sprintf("%s: with them %s to %s", guessed, c.money(least), c.money(most)), true
}

// guessed says how many days have no figures; empty: all have.
func (c comparison) guessed() string {
	days := map[etl.Day]bool{}
	for _, d := range c.days {
		if d.isGuess {
			days[d.day] = true
		}
	}
	switch len(days) {
	case 0:
		return ""
	case 1:
		return "1 day without figures"
	}
	return fmt.Sprintf("%d days without figures", len(days))
}

// otherQuantity tries whether the invoice is its own quantity at our price.
func (c comparison) otherQuantity() (string, bool) {
	said := c.invoiceQuantity()
	quantity, price := c.due()
	if !said.Valid || !price.Valid || !c.hasOurPrice() || !c.isAbout(said.Decimal.Mul(price.Decimal)) {
		return "", false
	}
	ours := "unknown"
	if quantity.Valid {
		ours = brief(quantity.Decimal)
	}
	detail := fmt.Sprintf("quantity %s on the invoice, %s in the statement", said.Decimal, ours)
	if c.recomputed.Valid && said.Decimal.Sub(c.recomputed.Decimal).Abs().LessThanOrEqual(decimal.New(1, -2)) {
		detail += ": the invoice agrees with what was recomputed"
	}
	return detail, true
}

// unpriced says that the statement has lines without a price.
func (c comparison) unpriced() string {
	if slices.ContainsFunc(c.lines, func(l Line) bool { return !l.UnitPrice.Valid && !(l.Quantity.Valid && l.Quantity.Decimal.IsZero()) }) {
		return noPrice
	}
	return ""
}

const (
	noPrice  = "no price in the rate card"
	getPrice = ": see the contract, then `meterhouse rates import`"
)

// unverified says that money is charged for what has no price, a waiver aside, and what to do about it.
func (c comparison) unverified() string {
	regular := c
	regular.lines = slices.DeleteFunc(slices.Clone(c.lines), func(l Line) bool { return l.IsWaiver })
	isPriced := len(regular.prices(true)) > 0
	if len(regular.lines) == 0 || isPriced && regular.unpriced() == "" {
		return ""
	}
	text := noPrice
	if isPriced {
		text += " for some days"
	}
	if theirs := c.invoicePrice(); theirs.Valid {
		text += fmt.Sprintf(", %s on the invoice", theirs.Decimal)
	}
	return text + getPrice
}

// miscalculated says that quantity and price of the invoice do not come to its amount.
func (c comparison) miscalculated() string {
	quantity, price := c.invoiceQuantity(), c.invoicePrice()
	if !quantity.Valid || !price.Valid || c.isAbout(quantity.Decimal.Mul(price.Decimal)) {
		return ""
	}
	return fmt.Sprintf("%s × %s on the invoice is not its amount, but %s", quantity.Decimal, price.Decimal, c.money(quantity.Decimal.Mul(price.Decimal)))
}

// otherPeriod says that the invoice is for other days.
func (c comparison) otherPeriod() string {
	first, last := c.invoicePeriod()
	start, end := c.statementPeriod()
	if first == start && last == end {
		return ""
	}
	return fmt.Sprintf("the invoice is for %s to %s, the statement for %s to %s", first, last, start, end)
}

// statementPeriod is from the first to the last day of the statement's lines.
func (c comparison) statementPeriod() (start, end etl.Day) {
	start, end = c.lines[0].PeriodStart, c.lines[0].PeriodEnd
	for _, l := range c.lines {
		start, end = min(start, l.PeriodStart), max(end, l.PeriodEnd)
	}
	return start, end
}

// repeated says where the first line stands that says the same as another.
func (c comparison) repeated() string {
	var places []string
	for i, l := range c.invoice {
		for j, other := range c.invoice {
			if i != j && l.Repeats(other) {
				places = append(places, l.Source)
				break
			}
		}
	}
	if len(places) == 0 {
		return ""
	}
	slices.Sort(places)
	return "charged by equal lines: " + strings.Join(slices.Compact(places), ", ")
}

// inOtherCurrency says that the other side has it, in another currency.
func (c comparison) inOtherCurrency() string {
	switch {
	case len(c.elsewhere) == 0:
		return ""
	case len(c.lines) == 0:
		return "the statement has it in " + strings.Join(c.elsewhere, ", ")
	}
	return "charged in " + strings.Join(c.elsewhere, ", ")
}

// strange says what the line is about that we know nothing of.
func (c comparison) strange() string {
	var texts []string
	if text := c.inOtherCurrency(); text != "" {
		texts = append(texts, text)
	}
	if c.owners > 1 {
		texts = append(texts, fmt.Sprintf("%d customers or accounts have it: import the invoice with the one that is meant", c.owners))
	}
	for _, l := range c.invoice {
		if l.Text != "" && !slices.Contains(texts, l.Text) {
			texts = append(texts, l.Text)
		}
	}
	slices.Sort(texts)
	return strings.Join(texts, "; ")
}

// brief is a quantity without more digits than statements have.
func brief(d decimal.Decimal) string { return d.Round(12).String() }
