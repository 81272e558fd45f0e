package billing

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"meterhouse/etl"
)

// MatchLine compares what invoices charge for one thing in one period with what the statement says of it:
// a subscription's level or a product, and a charge. Lines for the same are summed on both sides.
type MatchLine struct {
	PeriodStart, PeriodEnd etl.Day // of the statement, or of the invoice where it has none
	Source                 string
	CustomerID             string
	Account                string
	SubscriptionNumber     string
	Item                   string
	Charge                 string
	Currency               string // empty when neither side has one
	Cause                  Cause
	Difference             decimal.Decimal // invoice amount less statement amount: the money of the cause
	InvoiceAmount          decimal.Decimal
	StatementAmount        decimal.Decimal
	InvoiceQuantity        decimal.NullDecimal
	StatementQuantity      decimal.NullDecimal
	RecomputedQuantity     decimal.NullDecimal
	InvoicePrice           decimal.NullDecimal // unknown when none or several, as StatementPrice
	StatementPrice         decimal.NullDecimal
	RecomputedAmount       decimal.NullDecimal // at StatementPrice
	Invoices               []string            // numbers
	InvoiceLines           int
	StatementLines         int
	State                  string // provisional when a line of the statement is; empty without a statement
	Detail                 string // figures behind the cause
}

// Match is the comparison of a month.
type Match struct {
	Period Period
	AsOf   time.Time // what was known then; zero: now
	Lines  []MatchLine
}

// CauseTotal is the money of one cause in one currency.
type CauseTotal struct {
	Cause      Cause
	Currency   string
	Lines      int
	Difference decimal.Decimal
}

// Totals are the sums of the differences by currency and cause. Over all causes of a currency they are the
// total of the invoices less the total of the statement.
func (m Match) Totals() (totals []CauseTotal) {
	for _, l := range m.Lines {
		i := slices.IndexFunc(totals, func(t CauseTotal) bool { return t.Cause == l.Cause && t.Currency == l.Currency })
		if i < 0 {
			i, totals = len(totals), append(totals, CauseTotal{Cause: l.Cause, Currency: l.Currency})
		}
		totals[i].Lines++
		totals[i].Difference = totals[i].Difference.Add(l.Difference)
	}
	slices.SortFunc(totals, func(a, b CauseTotal) int {
		return cmp.Or(cmp.Compare(a.Currency, b.Currency), cmp.Compare(slices.Index(Causes, a.Cause), slices.Index(Causes, b.Cause)))
	})
	return totals
}

// Unexplained are the lines whose money no cause accounts for.
func (m Match) Unexplained() (n int) {
	for _, l := range m.Lines {
		if l.Cause == Unexplained {
			n++
		}
	}
	return n
}

// DefaultTolerance is half of the smallest unit of a currency: what a line may be off by being rounded.
var DefaultTolerance = decimal.New(5, -1)

// Match compares the lines of imported invoices whose period ends in a month with the statement of the
// month and with what can be recomputed, as it was known at an instant, the zero time meaning now.
// Tolerance is what is accepted as rounding, in minor units of the currency for every line of either side.
func (b *Billing) Match(ctx context.Context, period Period, asOf time.Time, tolerance decimal.Decimal) (Match, error) {
	m := Match{Period: period, AsOf: asOf}
	err := b.read(ctx, func(tx pgx.Tx) error {
		at := *b // one snapshot for all: lines, days and the past of one state
		at.tx = tx
		pairs, err := at.pairs(ctx, period, asOf, tolerance)
		for _, p := range pairs {
			m.Lines = append(m.Lines, p.match())
		}
		return err
	})
	if err != nil {
		return m, fmt.Errorf("match of %s: %w", period, err)
	}
	slices.SortFunc(m.Lines, func(a, b MatchLine) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Account, b.Account), cmp.Compare(a.CustomerID, b.CustomerID),
			cmp.Compare(a.SubscriptionNumber, b.SubscriptionNumber), cmp.Compare(a.Item, b.Item), cmp.Compare(b.Charge, a.Charge),
			cmp.Compare(a.PeriodStart, b.PeriodStart), cmp.Compare(a.PeriodEnd, b.PeriodEnd), cmp.Compare(a.Currency, b.Currency))
	})
	return m, nil
}

// pairs are the comparisons with everything that is known of them.
func (b *Billing) pairs(ctx context.Context, period Period, asOf time.Time, tolerance decimal.Decimal) ([]paired, error) {
	found, err := invoiced(ctx, b.tx, period, asOf)
	if err != nil {
		return nil, err
	}
	statement, err := b.Statement(ctx, period, asOf, Selection{})
	if err != nil {
		return nil, err
	}
	days, err := b.Days(ctx, period, asOf, Selection{})
	if err != nil {
		return nil, err
	}
	var computed recomputation
	if err := computed.read(ctx, b.tx, period, asOf); err != nil {
		return nil, err
	}
	pairs := pair(found, statement.Lines, days)
	if err := b.regularPrices(ctx, pairs, asOf); err != nil {
		return nil, err
	}
	// The past is worked out for those days only on which an invoice was made that it could account for.
	asked := map[time.Time][]*paired{}
	for i := range pairs {
		p := &pairs[i]
		p.tolerance = tolerance
		p.recomputed = computed.quantity(p.thing, p.dayRows)
		if p.invoiceDate == 0 || len(p.lines) == 0 || p.difference().Abs().LessThanOrEqual(p.slack()) {
			continue
		}
		then := (p.invoiceDate + 1).Time()
		for _, latest := range []time.Time{b.now(), asOf} { // an invoice of today, or of a day to come
			if !latest.IsZero() && latest.Before(then) {
				then = latest
			}
		}
		asked[then] = append(asked[then], p)
	}
	for then, list := range asked {
		past, err := b.pastDays(ctx, period, list, then)
		if err != nil {
			return nil, err
		}
		for _, p := range list {
			p.then = past.reprice(p.dayRows, p.days)
		}
	}
	return pairs, nil
}

// thing is what is charged for.
type thing struct {
	source, account, customer, subscription, item, charge string
}

// owner is the subscription or account that is charged.
func (t thing) owner() thing {
	t.item, t.charge = "", ""
	return t
}

// paired is a comparison with what it is about.
type paired struct {
	thing
	comparison
	dayRows     []StatementDay // those that days are made of, in their order
	numbers     []string       // of the invoices
	invoiceDate etl.Day        // of the latest; of those that charge the subscription or account when none charges this; 0: none does
}

func (p paired) match() MatchLine {
	cause, detail := explain(p.comparison)
	m := MatchLine{
		Source: p.source, CustomerID: p.customer, Account: p.account, SubscriptionNumber: p.subscription, Item: p.item, Charge: p.charge,
		Currency: p.currency, Cause: cause, Detail: detail, Difference: p.difference(), InvoiceAmount: p.asked(), StatementAmount: p.owed(),
		InvoiceQuantity: p.invoiceQuantity(), StatementQuantity: p.quantity(), RecomputedQuantity: p.recomputed,
		InvoicePrice: p.invoicePrice(), StatementPrice: p.price(), Invoices: p.numbers, InvoiceLines: len(p.invoice), StatementLines: len(p.lines),
	}
	if m.StatementPrice.Valid && m.RecomputedQuantity.Valid {
		m.RecomputedAmount = decimal.NewNullDecimal(m.RecomputedQuantity.Decimal.Mul(m.StatementPrice.Decimal).Round(p.minorUnits()))
	}
	for i, l := range p.lines {
		if i == 0 {
			m.PeriodStart, m.PeriodEnd, m.State = l.PeriodStart, l.PeriodEnd, l.State
		}
		m.PeriodStart, m.PeriodEnd = min(m.PeriodStart, l.PeriodStart), max(m.PeriodEnd, l.PeriodEnd)
		if l.State == "provisional" {
			m.State = l.State
		}
	}
	if len(p.lines) == 0 {
		m.PeriodStart, m.PeriodEnd = p.invoicePeriod()
	}
	return m
}

// span is a billing period.
type span struct{ start, end etl.Day }

// place is where lines meet: what is charged for, in a currency and a billing period.
type place struct {
	thing
	currency string
	span
}

// meeting is where the lines of invoices and of the statement meet.
type meeting struct {
	pairs      map[place]*paired
	currencies map[thing][]string // of either side, in their order
	joint      map[place]bool     // places without a period where whatever has no equal period on the other side meets
	both       map[place]bool     // places that both sides have
}

// pair brings together what is about the same: the lines of a thing and currency whose periods are equal,
// and then all those together whose periods have no equal on the other side. No order matters.
func pair(found []invoicedLine, lines []Line, days []StatementDay) []paired {
	resolve, units := resolver(lines), roundingUnits(found)
	about := make([]thing, len(found))
	ambiguous, charged := map[thing]int{}, map[thing]etl.Day{} // by owner: the date of the latest invoice
	for i, f := range found {
		t, owners := resolve(f)
		about[i] = t
		ambiguous[t] = max(ambiguous[t], owners)
		charged[t.owner()] = max(charged[t.owner()], f.Date)
	}
	m := meet(found, about, lines)
	for i, f := range found {
		m.get(m.placeOf(about[i], f.Currency, f.line.PeriodStart, f.line.PeriodEnd)).addInvoiced(f, units[f.id])
	}
	prices := map[int64]Line{} // by rate
	for _, l := range lines {
		p := m.get(m.placeOf(thingOf(l), l.Currency, l.PeriodStart, l.PeriodEnd))
		p.lines = append(p.lines, l)
		prices[l.RateID] = l
	}
	delete(prices, 0)
	m.addDays(days, prices)

	list := make([]paired, 0, len(m.pairs))
	for _, p := range m.pairs {
		slices.Sort(p.numbers)
		p.owners = ambiguous[p.thing]
		var latest etl.Day
		if latest, p.isInvoiced = charged[p.owner()]; len(p.invoice) == 0 {
			p.invoiceDate = latest
		}
		for _, currency := range m.currencies[p.thing] {
			if currency != p.currency && (len(p.invoice) == 0 || len(p.lines) == 0) {
				p.elsewhere = append(p.elsewhere, currency)
			}
		}
		list = append(list, *p)
	}
	return list
}

// meet finds out which places both sides have, and where what is left meets. about says what each invoiced
// line is about.
func meet(found []invoicedLine, about []thing, lines []Line) *meeting {
	m := &meeting{map[place]*paired{}, map[thing][]string{}, map[place]bool{}, map[place]bool{}}
	spend := func(t thing, currency string) {
		if currency != "" && !slices.Contains(m.currencies[t], currency) {
			m.currencies[t] = append(m.currencies[t], currency)
			slices.Sort(m.currencies[t])
		}
	}
	for i, f := range found {
		spend(about[i], f.Currency)
	}
	for _, l := range lines {
		spend(thingOf(l), l.Currency)
	}
	isInvoiced, isStated := map[place]bool{}, map[place]bool{}
	for i, f := range found {
		isInvoiced[m.placeOf(about[i], f.Currency, f.line.PeriodStart, f.line.PeriodEnd)] = true
	}
	for _, l := range lines {
		isStated[m.placeOf(thingOf(l), l.Currency, l.PeriodStart, l.PeriodEnd)] = true
	}
	left := map[place]bool{} // by the invoices
	for at := range isInvoiced {
		m.both[at] = isStated[at]
		left[at.anyPeriod()] = left[at.anyPeriod()] || !isStated[at]
	}
	for at := range isStated {
		if !isInvoiced[at] && left[at.anyPeriod()] {
			m.joint[at.anyPeriod()] = true
		}
	}
	return m
}

func (p place) anyPeriod() place {
	p.span = span{}
	return p
}

// placeOf is the place of a line. One without a price goes with those that have one.
func (m *meeting) placeOf(t thing, currency string, start, end etl.Day) place {
	if known := m.currencies[t]; currency == "" && len(known) > 0 {
		currency = known[0]
	}
	at := place{t, currency, span{start, end}}
	if m.joint[at.anyPeriod()] && !m.both[at] {
		return at.anyPeriod()
	}
	return at
}

// get is the comparison of a place, made when it is asked for first.
func (m *meeting) get(at place) *paired {
	if m.pairs[at] == nil {
		m.pairs[at] = &paired{thing: at.thing}
		m.pairs[at].currency = at.currency
	}
	return m.pairs[at]
}

func (p *paired) addInvoiced(f invoicedLine, unit decimal.Decimal) {
	p.invoice = append(p.invoice, f.line)
	p.invoiceDate = max(p.invoiceDate, f.Date)
	p.invoiceUnits = p.invoiceUnits.Add(unit)
	if !slices.Contains(p.numbers, f.Invoice.Number) {
		p.numbers = append(p.numbers, f.Invoice.Number)
	}
}

// addDays gives the comparisons the days that their lines are made of. prices are the priced lines by rate.
func (m *meeting) addDays(days []StatementDay, prices map[int64]Line) {
	// Of a product without a closing reading the days since its last reading are unknown; of another, which
	// is counted by a reading anyway, no day is.
	unclosed := map[instance]etl.Day{}
	for _, d := range days {
		if d.Doubt == "not closed" {
			unclosed[instanceOf(d).series()] = d.Day
		}
	}
	for _, d := range days {
		t := thing{d.Source, d.Account, d.CustomerID, d.SubscriptionNumber, d.Item, d.Charge}
		p := m.pairs[m.placeOf(t, prices[d.RateID].Currency, d.PeriodStart, d.PeriodEnd)]
		if p == nil {
			continue
		}
		since, isUnclosed := unclosed[instanceOf(d).series()]
		p.dayRows = append(p.dayRows, d)
		p.days = append(p.days, pricedDay{day: d.Day, parts: d.Quantity, scale: d.Scale, price: prices[d.RateID].UnitPrice, isWaiver: d.IsWaiver,
			isGuess: d.Basis == "estimated" || d.Basis == "missing" && (d.Source == "keystone" || isUnclosed && d.Day > since)})
	}
}

// roundingUnits is what each invoice rounds its amounts to: the minor unit, or more where none of several
// amounts is printed with as many decimals.
func roundingUnits(found []invoicedLine) map[int64]decimal.Decimal {
	units, lines := map[int64]decimal.Decimal{}, map[int64]int{}
	for _, f := range found {
		unit := decimal.New(1, max(f.line.Amount.Exponent(), -int32(MinorUnits(f.Currency))))
		if known, met := units[f.id]; !met || unit.LessThan(known) {
			units[f.id] = unit
		}
		lines[f.id]++
	}
	for _, f := range found {
		if lines[f.id] == 1 {
			units[f.id] = decimal.New(1, -int32(MinorUnits(f.Currency)))
		}
	}
	return units
}

func thingOf(l Line) thing {
	return thing{l.Source, l.Account, l.CustomerID, l.SubscriptionNumber, l.Item, l.Charge}
}

// resolver says what a line of an invoice is about: it may leave out account and customer where only one
// has the subscription or product. Where several do, it says how many.
func resolver(lines []Line) func(invoicedLine) (thing, int) {
	of := map[string][]Line{} // by subscription; wolkvox has none
	for _, l := range lines {
		of[l.SubscriptionNumber] = append(of[l.SubscriptionNumber], l)
	}
	return func(f invoicedLine) (thing, int) {
		t := thing{f.Vendor, f.line.Account, f.line.CustomerID, f.line.SubscriptionNumber, f.line.Item, f.line.Charge}
		var owners []thing
		for _, exactly := range []bool{true, false} { // by the thing, else by its subscription
			for _, l := range of[t.subscription] {
				owner := thing{source: l.Source, account: l.Account, customer: l.CustomerID}
				if l.Source == t.source && (!exactly || l.Item == t.item && l.Charge == t.charge) &&
					(t.account == "" || t.account == l.Account) && (t.customer == "" || t.customer == l.CustomerID) && !slices.Contains(owners, owner) {
					owners = append(owners, owner)
				}
			}
			if len(owners) > 0 {
				break
			}
		}
		if len(owners) == 1 {
			t.account, t.customer = owners[0].account, owners[0].customer
			return t, 0
		}
		return t, len(owners)
	}
}

// regularPrices finds what the burst of waivers would cost without one: the price that has most to say on
// the first day of the line.
func (b *Billing) regularPrices(ctx context.Context, pairs []paired, asOf time.Time) error {
	var place []int
	var texts [7][]string // of each line: vendor, charge, subscription, item, customer, account, currency
	var isNamed []bool    // an unclassified level has prices by its name only
	var days []time.Time
	for i, p := range pairs {
		for _, l := range p.lines {
			if !l.IsWaiver {
				continue
			}
			place, isNamed, days = append(place, i), append(isNamed, l.LevelClass == "unclassified"), append(days, l.SegmentFrom.Time())
			for k, text := range []string{l.Source, l.Charge, l.SubscriptionNumber, l.Item, l.CustomerID, l.Account, p.currency} {
				texts[k] = append(texts[k], text)
			}
		}
	}
	if len(place) == 0 {
		return nil
	}
	rows, err := b.tx.Query(ctx, `
		select l.place, p.unit_price::text
		from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::boolean[], $10::date[])
			as l (place, vendor, charge, subscription_number, item, customer_id, account, currency, is_named, day)
		cross join lateral (
			select r.unit_price
			from billing.rate as r
			where r.vendor = l.vendor and r.charge = l.charge and not r.is_waiver
				and r.subscription_number in ('', l.subscription_number) and (r.item = l.item or r.item = '' and not l.is_named)
				and r.customer_id in ('', l.customer_id) and r.account in ('', l.account)
				and r.valid_from <= l.day and coalesce(r.valid_to, l.day) >= l.day and r.currency = l.currency
				and r.known_since <= $11::text::timestamptz and (r.superseded_at is null or r.superseded_at > $11::text::timestamptz)
			order by (r.subscription_number <> '')::integer * 8 + (r.item <> '')::integer * 4 + (r.customer_id <> '')::integer * 2 + (r.account <> '')::integer desc
			limit 1
		) as p`,
		place, texts[0], texts[1], texts[2], texts[3], texts[4], texts[5], texts[6], isNamed, days, instant(asOf))
	if err != nil {
		return err
	}
	var at int64
	var text string
	_, err = pgx.ForEachRow(rows, []any{&at, &text}, func() error {
		price, err := decimal.NewFromString(text)
		pairs[at].regular = addPrice(pairs[at].regular, price)
		return err
	})
	return err
}

// instance is one day of an instance of a level, or of a product and description.
type instance struct {
	thing
	discriminator, description string
	ordinal                    int
	day                        etl.Day
}

func instanceOf(d StatementDay) instance {
	return instance{thing{d.Source, d.Account, d.CustomerID, d.SubscriptionNumber, d.Item, d.Charge}, d.Discriminator, d.Description, d.LevelOrdinal, d.Day}
}

// series is an instance without a day.
func (i instance) series() instance {
	i.day = 0
	return i
}

// pastDays are the parts of days as they were known once.
type pastDays map[instance]pastDay

type pastDay struct {
	parts decimal.NullDecimal
	scale int
}

// pastDays asks for the days of comparisons as they were known at an instant, whether the month is closed or
// not. Another billing calendar may have held then: for days that the month did not have, the months are
// asked in which they lie.
func (b *Billing) pastDays(ctx context.Context, period Period, pairs []*paired, then time.Time) (pastDays, error) {
	past := pastDays{}
	var numbers []string
	for _, p := range pairs {
		numbers = append(numbers, p.subscription)
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	asked := map[etl.Day]bool{}
	ask := func(month etl.Day) error {
		if asked[month] {
			return nil
		}
		asked[month] = true
		rows, err := b.tx.Query(ctx, `
			select source, account, customer_id, subscription_number, discriminator, item, level_ordinal, description, charge, day, quantity::text, scale
			from billing.computed_statement_day($1, $2)
			where subscription_number = any ($3)`, Period{month}.String(), instant(then), numbers)
		if err != nil {
			return err
		}
		var at instance
		var d pastDay
		var day time.Time
		var quantity *string
		_, err = pgx.ForEachRow(rows, []any{&at.source, &at.account, &at.customer, &at.subscription, &at.discriminator, &at.item, &at.ordinal, &at.description, &at.charge,
			&day, &quantity, &d.scale}, func() error {
			at.day, d.parts = etl.DayOf(day), decimal.NullDecimal{}
			err := exact(map[*decimal.NullDecimal]*string{&d.parts: quantity})
			past[at] = d
			return err
		})
		return err
	}
	if err := ask(period.First()); err != nil {
		return nil, err
	}
	for _, p := range pairs {
		for _, d := range p.dayRows {
			if _, known := past[instanceOf(d)]; !known {
				if err := ask(d.Day.Month()); err != nil {
					return nil, err
				}
			}
		}
	}
	return past, nil
}

// reprice is what was known of days, at the prices of now; nil when it was the same. What the vendor knew
// is what matters: prices and waiver are ours.
func (p pastDays) reprice(rows []StatementDay, now []pricedDay) []pricedDay {
	then := slices.Clone(now)
	changed := false
	for i, row := range rows {
		was := p[instanceOf(row)]
		if was.scale == 0 {
			was.scale = now[i].scale // nothing was known
		}
		then[i].parts, then[i].scale = was.parts, was.scale
		changed = changed || !was.parts.Decimal.Equal(row.Quantity.Decimal) || was.scale != row.Scale
	}
	if !changed {
		return nil
	}
	return then
}

// recomputation is what quantities come to when worked out another way.
type recomputation struct {
	burst    map[thing]map[etl.Day]decimal.Decimal // by month: from the samples
	contract map[instance][]contractVersion        // of a level, without a day: what it commits to
}

type contractVersion struct {
	from  time.Time
	until *time.Time
	tib   decimal.Decimal
}

func (r *recomputation) read(ctx context.Context, tx pgx.Tx, period Period, asOf time.Time) error {
	r.burst, r.contract = map[thing]map[etl.Day]decimal.Decimal{}, map[instance][]contractVersion{}
	rows, err := tx.Query(ctx, `
		with month as (
			select generate_series(date_trunc('month', coalesce(min(p.period_start), $1::date)::timestamp), $1::date::timestamp, interval '1 month')::date as month
			from billing.period as p
			where p.clock = 'burst' and p.period_end between $1 and $2 and p.known_since <= $3::text::timestamptz
				and (p.superseded_at is null or p.superseded_at > $3::text::timestamptz)
		)

		select b.account, b.customer_id, b.subscription_number, b.service_level, b.month, sum(b.recomputed_tib)::text
		from month
		cross join lateral billing.recomputed_burst(month.month, $3::text::timestamptz) as b
		group by b.account, b.customer_id, b.subscription_number, b.service_level, b.month`,
		period.First().Time(), period.Last().Time(), instant(asOf))
	if err != nil {
		return err
	}
	burst := thing{source: "keystone", charge: "burst"}
	var month time.Time
	var tib string
	if _, err = pgx.ForEachRow(rows, []any{&burst.account, &burst.customer, &burst.subscription, &burst.item, &month, &tib}, func() error {
		quantity, err := decimal.NewFromString(tib)
		if r.burst[burst] == nil {
			r.burst[burst] = map[etl.Day]decimal.Decimal{}
		}
		r.burst[burst][etl.DayOf(month)] = quantity
		return err
	}); err != nil {
		return err
	}
	rows, err = tx.Query(ctx, `
		select c.account, c.customer_id, s.subscription_number, s.discriminator, l.service_level, l.level_ordinal, f.valid_from, f.valid_to, f.committed_tib::text
		from dw.fact_commitment as f
		join dw.dim_service_level as l using (service_level_key)
		join dw.dim_subscription as s using (subscription_key)
		join dw.dim_customer as c on c.customer_key = f.customer_key
		where f.committed_tib is not null and f.valid_from <= $1::text::timestamptz`, instant(asOf))
	if err != nil {
		return err
	}
	level := instance{thing: thing{source: "keystone", charge: "committed"}}
	var version contractVersion
	_, err = pgx.ForEachRow(rows, []any{&level.account, &level.customer, &level.subscription, &level.discriminator, &level.item, &level.ordinal, &version.from, &version.until, &tib}, func() (err error) {
		version.tib, err = decimal.NewFromString(tib)
		r.contract[level] = append(r.contract[level], version)
		return err
	})
	return err
}

// quantity is known for burst of whole calendar months of which samples are known, and for commitments of
// which a contract is known on every day.
func (r *recomputation) quantity(t thing, days []StatementDay) (sum decimal.NullDecimal) {
	if len(days) == 0 || t.source != "keystone" {
		return sum
	}
	if t.charge == "burst" {
		start, end := days[0].PeriodStart, days[0].PeriodEnd
		for _, d := range days {
			start, end = min(start, d.PeriodStart), max(end, d.PeriodEnd)
		}
		if start != start.Month() || end != end.NextMonth()-1 {
			return sum
		}
		for month := start; month <= end; month = month.NextMonth() {
			tib, known := r.burst[t][month]
			if !known {
				return decimal.NullDecimal{}
			}
			sum = decimal.NewNullDecimal(sum.Decimal.Add(tib))
		}
		return sum
	}
	// Ordinals of the contract are not those of the days: names are summed, day by day.
	type nameDay struct {
		discriminator string
		day           etl.Day
	}
	wanted := map[nameDay]StatementDay{}
	for _, d := range days {
		wanted[nameDay{d.Discriminator, d.Day}] = d
	}
	scale := int64(days[0].Scale)
	for w, d := range wanted {
		tib := r.committed(t, w.discriminator, w.day)
		if !tib.Valid {
			return decimal.NullDecimal{}
		}
		sum = decimal.NewNullDecimal(sum.Decimal.Add(tib.Decimal.Mul(decimal.NewFromInt(scale / daysOfMonth(d.PeriodStart, d.PeriodEnd, w.day)))))
	}
	sum.Decimal = sum.Decimal.DivRound(decimal.NewFromInt(scale), 12)
	return sum
}

// committed is what the contract says at the end of a day, over all instances of a name.
func (r *recomputation) committed(t thing, discriminator string, day etl.Day) (sum decimal.NullDecimal) {
	end := (day + 1).Time()
	for ordinal := 0; ; ordinal++ {
		versions, known := r.contract[instance{thing: t, discriminator: discriminator, ordinal: ordinal}]
		if !known {
			return sum
		}
		for _, v := range versions {
			if v.from.Before(end) && (v.until == nil || !v.until.Before(end)) {
				sum = decimal.NewNullDecimal(sum.Decimal.Add(v.tib))
			}
		}
	}
}
