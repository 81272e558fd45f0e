package billing

import (
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

	"meterhouse/etl"
)

// bill is a made-up subscription with one level through April 2026, what was known of it when, and what
// the vendor charges. Nothing of it is worked out by what is tested.
type bill struct {
	customer, number, item string
	start                  string // of the subscription; empty: not known
	now, then              [30]*dayFigures
	lines                  []InvoiceLine
	want                   map[string]Cause // by charge
}

// dayFigures are hundredths of a TiB committed, and ten thousandths of accrued burst.
type dayFigures struct{ committed, burst int64 }

var billPrices = map[string]struct {
	committed, burst, currency string
}{
	"Extreme": {"10.01", "37.5", "USD"}, "Premium": {"1234.5", "987.65", "JPY"}, "Value": {"3.3337", "9.9999", "KWD"}, "Mystery": {},
}

func ratOf(text string) *big.Rat {
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		panic(text)
	}
	return r
}

// quantity is what the days of a charge come to, of those that count.
func quantity(days [30]*dayFigures, charge string, counts func(day int) bool) *big.Rat {
	sum := new(big.Rat)
	for i, d := range days {
		switch {
		case d == nil || !counts(i+1):
		case charge == "committed":
			sum.Add(sum, big.NewRat(d.committed, 100*30))
		default:
			sum.Add(sum, big.NewRat(d.burst, 10000))
		}
	}
	return sum
}

// quantityDigits is the burst in ten thousandths of a TiB.
func quantityDigits(days [30]*dayFigures) (sum int64) {
	for _, d := range days {
		sum += d.burst
	}
	return sum
}

func everyDay(int) bool { return true }

// charge adds a line: a quantity at a price, with as much of it printed as the vendor happens to print.
func (b *bill) charge(r *rand.Rand, charge string, q *big.Rat, price string, off int64, cause Cause) {
	units := map[string]int{"USD": 2, "JPY": 0, "KWD": 3}[b.currency()]
	amount := new(big.Int).Add(rounded(new(big.Rat).Mul(q, ratOf(price)), units), big.NewInt(off))
	l := InvoiceLine{SubscriptionNumber: b.number, Item: b.item, Charge: charge, PeriodStart: day("2026-04-01"), PeriodEnd: day("2026-04-30"),
		Amount: decimal.NewFromBigInt(amount, -int32(units))}
	if r.IntN(2) == 0 {
		l.CustomerID = b.customer
	}
	if needsMore := slices.Contains([]Cause{RateDiffers, QuantityDiffers, Unexplained}, cause); needsMore || r.IntN(3) > 0 {
		l.Quantity = decimal.NewNullDecimal(decimal.NewFromBigInt(rounded(q, 12), -12))
		l.UnitPrice = decimal.NewNullDecimal(decimal.RequireFromString(price))
	}
	b.lines, b.want[charge] = append(b.lines, l), cause
}

func (b *bill) currency() string {
	if c := billPrices[b.item].currency; c != "" {
		return c
	}
	return "USD"
}

// right charges what is right.
func (b *bill) right(r *rand.Rand, charges ...string) {
	p := billPrices[b.item]
	for _, charge := range charges {
		price := map[string]string{"committed": p.committed, "burst": p.burst}[charge]
		b.charge(r, charge, quantity(b.now, charge, everyDay), price, 0, Equal)
	}
}

// madeCauses are the ways in which an invoice comes to differ; each makes what it needs.
var madeCauses = map[string]func(*rand.Rand, *bill){
	"equal": func(r *rand.Rand, b *bill) { b.right(r, "committed", "burst") },
	"a cent": func(r *rand.Rand, b *bill) {
		b.charge(r, "committed", quantity(b.now, "committed", everyDay), billPrices[b.item].committed, 1, Rounding)
		b.charge(r, "burst", quantity(b.now, "burst", everyDay), billPrices[b.item].burst, -1, Rounding)
	},
	"two decimals": func(r *rand.Rand, b *bill) { // of the quantity
		b.item = "Premium"
		b.right(r, "committed")
		b.now[3].burst += 10_000 - quantityDigits(b.now)%100 + 37
		q := rounded(quantity(b.now, "burst", everyDay), 2)
		b.charge(r, "burst", new(big.Rat).SetFrac(q, big.NewInt(100)), billPrices[b.item].burst, 0, Rounding)
		l := &b.lines[1]
		l.Quantity, l.UnitPrice = decimal.NewNullDecimal(decimal.NewFromBigInt(q, -2)), decimal.NewNullDecimal(decimal.RequireFromString(billPrices[b.item].burst))
	},
	"restated": func(r *rand.Rand, b *bill) {
		b.then = b.now
		for range 1 + r.IntN(4) {
			d := r.IntN(30)
			b.now[d] = &dayFigures{b.then[d].committed + 1000, b.then[d].burst + 2000}
		}
		for _, charge := range []string{"committed", "burst"} {
			price := map[string]string{"committed": billPrices[b.item].committed, "burst": billPrices[b.item].burst}[charge]
			b.charge(r, charge, quantity(b.then, charge, everyDay), price, 0, RestatedAfterInvoice)
		}
	},
	"came late": func(r *rand.Rand, b *bill) {
		b.then = b.now
		b.then[3+r.IntN(26)] = nil
		b.right(r, "committed") // it was estimated, rightly
		b.charge(r, "burst", quantity(b.then, "burst", everyDay), billPrices[b.item].burst, 0, RestatedAfterInvoice)
	},
	"waiver charged": func(r *rand.Rand, b *bill) {
		b.item, b.start = "Extreme", "2026-03-20"
		b.right(r, "committed")
		b.charge(r, "burst", quantity(b.now, "burst", everyDay), "37.5", 0, Waiver)
	},
	"waiver charged to its end": func(r *rand.Rand, b *bill) { // it ends after 20 April
		b.item, b.start = "Extreme", "2026-02-20"
		b.right(r, "committed")
		b.charge(r, "burst", quantity(b.now, "burst", everyDay), "37.5", 0, Waiver)
	},
	"waiver left out": func(r *rand.Rand, b *bill) { // there it has a price
		b.item, b.start, b.customer = "Extreme", "2026-02-20", strings.Replace(b.customer, "C", "W", 1)
		b.right(r, "committed")
		b.charge(r, "burst", quantity(b.now, "burst", func(d int) bool { return d > 20 }), "37.5", 0, Waiver)
	},
	"waiver left out of the invoice": func(r *rand.Rand, b *bill) {
		b.item, b.start, b.customer = "Extreme", "2026-03-20", strings.Replace(b.customer, "C", "W", 1)
		b.right(r, "committed")
		b.want["burst"] = Waiver
	},
	"forgotten": func(_ *rand.Rand, b *bill) { // a waiver that has a price is no reason
		b.item, b.start, b.customer = "Extreme", "2026-03-20", strings.Replace(b.customer, "C", "W", 1)
		b.want["committed"], b.want["burst"] = NotOnInvoice, NotOnInvoice
	},
	"whole month": func(r *rand.Rand, b *bill) {
		change := 5 + r.IntN(20)
		for i := change; i < 30; i++ {
			b.now[i].committed += 2500
		}
		whole := b.now[0].committed
		if r.IntN(2) == 0 {
			whole = b.now[29].committed
		}
		b.charge(r, "committed", big.NewRat(whole, 100), billPrices[b.item].committed, 0, Prorated)
		b.right(r, "burst")
	},
	"half of the month": func(r *rand.Rand, b *bill) {
		last := 10 + r.IntN(15)
		b.charge(r, "committed", quantity(b.now, "committed", func(d int) bool { return d <= last }), billPrices[b.item].committed, 0, Prorated)
		b.lines[0].PeriodEnd = day(fmt.Sprintf("2026-04-%02d", last))
		b.right(r, "burst")
	},
	"days without figures": func(r *rand.Rand, b *bill) {
		first, n := 5+r.IntN(10), 1+r.IntN(4)
		for i := first; i < first+n; i++ {
			b.now[i] = nil
		}
		b.now[20].burst = 9999
		full := quantity(b.now, "burst", everyDay)
		full.Add(full, big.NewRat(int64(n)*9000, 10000)) // the vendor knows them all
		b.charge(r, "burst", full, billPrices[b.item].burst, 0, MissingDays)
		b.charge(r, "committed", new(big.Rat).Add(quantity(b.now, "committed", everyDay), big.NewRat(int64(n)*b.now[0].committed, 3000)), billPrices[b.item].committed, 0, Equal)
	},
	"another price": func(r *rand.Rand, b *bill) {
		b.charge(r, "committed", quantity(b.now, "committed", everyDay), billPrices[b.item].committed+"9", 0, RateDiffers)
		b.charge(r, "burst", quantity(b.now, "burst", everyDay), "1"+billPrices[b.item].burst, 0, RateDiffers)
		if r.IntN(2) == 0 {
			b.lines[1].UnitPrice = decimal.NullDecimal{}
		} else {
			b.lines[1].Quantity = decimal.NullDecimal{}
		}
	},
	"no price": func(r *rand.Rand, b *bill) {
		b.item = "Mystery"
		b.charge(r, "committed", quantity(b.now, "committed", everyDay), "7.77", 0, Unexplained)
		b.charge(r, "burst", quantity(b.now, "burst", everyDay), "8.88", 0, Unexplained)
	},
	"another quantity": func(r *rand.Rand, b *bill) {
		more := big.NewRat(int64(1000+r.IntN(5000)), 777)
		b.charge(r, "committed", more.Add(more, quantity(b.now, "committed", everyDay)), billPrices[b.item].committed, 0, QuantityDiffers)
		b.charge(r, "burst", new(big.Rat).Mul(quantity(b.now, "burst", everyDay), big.NewRat(3, 4)), billPrices[b.item].burst, 0, QuantityDiffers)
	},
	"left out": func(r *rand.Rand, b *bill) {
		b.right(r, "burst")
		b.want["committed"] = NotOnInvoice
	},
	"made up": func(r *rand.Rand, b *bill) {
		b.right(r, "committed", "burst")
		item := b.item
		b.item = "Standard"
		b.charge(r, "committed", big.NewRat(12, 1), "3.30", 0, NotInWarehouse)
		b.item, b.want["committed"] = item, Equal
	},
}

func (b *bill) store(o *office, key int) {
	o.t.Helper()
	o.exec(`insert into dw.dim_customer (customer_key, customer_id, account, first_seen_at, seen_at) overriding system value values ($1, $2, 'acme', now(), now())`, key, b.customer)
	var start any
	if b.start != "" {
		start = dateOf(b.start).at(9)
	}
	o.exec(`insert into dw.dim_subscription (subscription_key, customer_key, subscription_number, start_at, first_seen_at) overriding system value values ($1, $1, $2, $3, now())`, key, b.number, start)
	class := "base"
	if b.item == "Mystery" {
		class = "unclassified"
	}
	o.exec(`insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_class) overriding system value values ($1, $1, $1, $2, $3)`, key, b.item, class)
	o.exec(`insert into ops.watermark (source, dataset, scope, account, expected_from, settle) values ('keystone', 'keystone.history', $1, 'acme', '2026-04-01', '2h')`, b.customer)
	const figures = `customer_key, service_level_key, usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib, over_committed_avg_tib,
		accrued_sum_tib, accrued_last_tib, digest, payload_id, run_id`
	const values = `select $1, $1, $2::date, 1, $3::numeric / 100, 1, 1, 1, 0, $4::numeric / 10000, $4::numeric / 10000, 'd', 1, 1`
	corrected := at("2026-05-10T03:00:00Z") // the invoice is of 5 May
	for i, d := range b.now {
		when := (dateOf("2026-04-01") + date(i)).at(0)
		known := when.AddDate(0, 0, 1)
		if b.then != [30]*dayFigures{} && b.then[i] != d {
			if was := b.then[i]; was != nil {
				o.exec(`insert into dw.restatement (`+figures+`, known_from, known_until, kind) `+values+`, $5, $6, 'restated'`, key, when, was.committed, was.burst, known, corrected)
			}
			known = corrected
		}
		if d != nil {
			o.exec(`insert into dw.fact_daily_consumption (`+figures+`, known_since, invoiced_samples, uninvoiced_samples) `+values+`, $5, 0, 0`, key, when, d.committed, d.burst, known)
		}
	}
}

// sums are the invoices' and the statement's totals, as the database has them.
func (o *office) sums(period Period, currency string) (asked, owed string) {
	o.t.Helper()
	return o.rows(`select coalesce(sum(amount), 0)::text from mart.invoice_line where period = $1 and currency = $2`, period.String(), currency)[0],
		o.rows(`select coalesce(sum(amount), 0)::text from mart.statement where period = $1 and currency = $2`, period.String(), currency)[0]
}

func makeBills(r *rand.Rand, names []string, lines int) (bills []*bill) {
	items := []string{"Extreme", "Premium", "Value"}
	for n := 0; n < lines; {
		b := &bill{customer: fmt.Sprintf("C-%04d", len(bills)), number: fmt.Sprintf("A-S%06d", len(bills)), item: items[r.IntN(len(items))], want: map[string]Cause{}}
		committed := 100 * int64(50+25*r.IntN(10))
		for i := range b.now {
			b.now[i] = &dayFigures{committed, int64(500 + r.IntN(9000))}
		}
		madeCauses[names[len(bills)%len(names)]](r, b)
		bills, n = append(bills, b), n+len(b.lines)
	}
	return bills
}

// importBills imports the lines as invoices of 5 May, one for each currency.
func (o *office) importBills(r *rand.Rand, bills []*bill, more ...InvoiceLine) {
	o.t.Helper()
	invoices := map[string]*Invoice{}
	add := func(currency string, l InvoiceLine) {
		i := invoices[currency]
		if i == nil {
			i = &Invoice{Vendor: "keystone", Number: "90" + currency, Date: day("2026-05-05"), Currency: currency}
			invoices[currency] = i
		}
		l.Source = "test.csv"
		i.Lines = append(i.Lines, l)
	}
	for _, b := range bills {
		for _, l := range b.lines {
			add(b.currency(), l)
		}
	}
	for _, l := range more {
		add("USD", l)
	}
	var list []Invoice
	for _, i := range invoices {
		r.Shuffle(len(i.Lines), func(a, b int) { i.Lines[a], i.Lines[b] = i.Lines[b], i.Lines[a] })
		for n := range i.Lines {
			i.Lines[n].Number = n + 1
		}
		list = append(list, *i)
	}
	if _, err := o.ImportInvoices(o.t.Context(), list, false); err != nil {
		o.t.Fatal(err)
	}
}

func (o *office) match(period string) Match {
	o.t.Helper()
	p, err := ParsePeriod(period)
	if err != nil {
		o.t.Fatal(err)
	}
	m, err := o.Match(o.t.Context(), p, at("0001-01-01T00:00:00Z"), DefaultTolerance)
	if err != nil {
		o.t.Fatal(err)
	}
	return m
}

// Two hundred lines of invoices with known causes, over facts in Postgres: every cause is found, and the
// money of all differences is that between the totals.
func TestMatchFindsTheCauses(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	r := rand.New(rand.NewPCG(6, 7))
	var names []string
	for name := range madeCauses {
		names = append(names, name)
	}
	slices.Sort(names)
	bills := makeBills(r, names, 200)
	for i, b := range bills {
		b.store(o, i+1)
	}
	o.price("keystone/////committed 10.01 USD 2026-01-01", "keystone/////burst 37.5 USD 2026-01-01",
		"keystone////Premium/committed 1234.5 JPY 2026-01-01", "keystone////Premium/burst 987.65 JPY 2026-01-01",
		"keystone////Value/committed 3.3337 KWD 2026-01-01", "keystone////Value/burst 9.9999 KWD 2026-01-01", "keystone/////burst/waiver 0 USD 2026-01-01")
	for _, b := range bills {
		if strings.HasPrefix(b.customer, "W") {
			o.exec(`insert into billing.rate (vendor, customer_id, charge, is_waiver, unit_price, currency, valid_from, source, known_since)
				values ('keystone', $1, 'burst', true, 5, 'USD', '2026-01-01', 'test', '2026-05-15T12:00:00Z')`, b.customer)
		}
	}
	tax := InvoiceLine{Charge: OtherCharge, PeriodStart: day("2026-04-01"), PeriodEnd: day("2026-04-30"), Amount: decimal.RequireFromString("1234.56"), Text: "VAT"}
	o.importBills(r, bills, tax)
	o.now = at("2026-05-20T12:00:00Z")
	o.exec(`update ops.clock set fixed_at = $1`, o.now)

	m := o.match("2026-04")
	want := map[string]Cause{"   other": NotInWarehouse}
	for _, b := range bills {
		for charge, cause := range b.want {
			want[fmt.Sprint(b.customer, " ", b.number, " ", b.item, " ", charge)] = cause
		}
	}
	counts, madeUp := map[Cause]int{}, 0
	for _, l := range m.Lines {
		counts[l.Cause]++
		if l.Item == "Standard" && l.Cause == NotInWarehouse {
			madeUp++
			continue
		}
		key := fmt.Sprint(l.CustomerID, " ", l.SubscriptionNumber, " ", l.Item, " ", l.Charge)
		if l.Cause == Unexplained && !strings.HasPrefix(l.Detail, "no price in the rate card, ") {
			t.Errorf("%s: unexplained (%s)", key, l.Detail)
		}
		if want[key] != l.Cause {
			t.Errorf("%s: got %s, want %s: invoiced %s, statement %s, difference %s %s (%s)", key, l.Cause, want[key], l.InvoiceAmount, l.StatementAmount, l.Difference, l.Currency, l.Detail)
		}
		delete(want, key)
	}
	if len(want) > 0 || madeUp == 0 || m.Unexplained() != counts[Unexplained] {
		t.Errorf("not compared: %v; %d made up, %d unexplained", want, madeUp, m.Unexplained())
	}
	t.Logf("%d comparisons: %v", len(m.Lines), counts)
	for _, cause := range Causes {
		if counts[cause] == 0 {
			t.Errorf("no line is %s", cause)
		}
	}
	o.wantSums(m)
}

// wantSums demands that the money of the causes is the difference of the totals.
func (o *office) wantSums(m Match) {
	o.t.Helper()
	sums := map[string]decimal.Decimal{}
	for _, total := range m.Totals() {
		sums[total.Currency] = sums[total.Currency].Add(total.Difference)
	}
	for currency, got := range sums {
		asked, owed := o.sums(m.Period, currency)
		if want := decimal.RequireFromString(asked).Sub(decimal.RequireFromString(owed)); !got.Equal(want) {
			o.t.Errorf("%s: differences come to %s, invoices %s less statement %s to %s", currency, got, asked, owed, want)
		}
	}
}

// Lines whose price and quantity are both others, that do not multiply, or that tell too little, are not
// explained by anything.
func TestMatchOfUnexplainedLines(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	r := rand.New(rand.NewPCG(8, 9))
	bills := makeBills(r, []string{"equal"}, 20)
	want := map[string]decimal.Decimal{}
	for i, b := range bills {
		b.item = "Extreme"
		b.lines = nil
		b.right(r, "committed", "burst")
		b.store(o, i+1)
		l := &b.lines[0]
		before := l.Amount
		switch i % 4 {
		case 0:
			continue
		case 1: // both others
			l.Quantity, l.UnitPrice = decimal.NewNullDecimal(decimal.RequireFromString("7")), decimal.NewNullDecimal(decimal.RequireFromString("77.7"))
			l.Amount = decimal.RequireFromString("543.90")
		case 2: // quantity and price are right, the amount is not
			l.Quantity = decimal.NewNullDecimal(decimal.NewFromBigInt(rounded(quantity(b.now, "committed", everyDay), 12), -12))
			l.UnitPrice = decimal.NewNullDecimal(decimal.RequireFromString("10.01"))
			l.Amount = l.Amount.Add(decimal.RequireFromString("0.17"))
		case 3: // nothing but an amount
			l.Quantity, l.UnitPrice = decimal.NullDecimal{}, decimal.NullDecimal{}
			l.Amount = l.Amount.Sub(decimal.RequireFromString("31.13"))
		}
		want[b.number] = l.Amount.Sub(before)
	}
	o.price("keystone/////committed 10.01 USD 2026-01-01", "keystone/////burst 37.5 USD 2026-01-01")
	o.importBills(r, bills)
	o.now = at("2026-05-20T12:00:00Z")
	o.exec(`update ops.clock set fixed_at = $1`, o.now)
	m := o.match("2026-04")
	if m.Unexplained() != len(want) {
		t.Errorf("%d unexplained, want %d", m.Unexplained(), len(want))
	}
	for _, l := range m.Lines {
		if money, is := want[l.SubscriptionNumber]; l.Charge == "committed" && (is != (l.Cause == Unexplained) || !money.Equal(l.Difference)) {
			t.Errorf("%s: %s, difference %s; want %t and %s", l.SubscriptionNumber, l.Cause, l.Difference, is, money)
		}
	}
	o.wantSums(m)
}

// causes are the comparisons of a month as text.
func (o *office) causes(period string) (texts []string) {
	o.exec(`update ops.clock set fixed_at = $1`, o.now)
	for _, l := range o.match(period).Lines {
		texts = append(texts, strings.Join(strings.Fields(fmt.Sprint(l.Account, " ", l.SubscriptionNumber, " ", l.Item, " ", l.Charge, " ", l.PeriodStart, " ", l.PeriodEnd, " ",
			l.InvoiceAmount.StringFixed(2), " ", l.StatementAmount.StringFixed(2), " ", l.Currency, " ", l.Cause, " (", l.Detail, ")")), " "))
	}
	return texts
}

func (o *office) bill(number, vendor, date, currency string, lines ...string) {
	o.t.Helper()
	i := Invoice{Vendor: vendor, Number: number, Date: day(date), Currency: currency}
	some := func(text string) decimal.NullDecimal {
		if text == "-" {
			return decimal.NullDecimal{}
		}
		return decimal.NewNullDecimal(decimal.RequireFromString(text))
	}
	for n, text := range lines { // account/subscription/item/charge from to quantity price amount
		f := strings.Fields(text)
		k := strings.Split(f[0], "/")
		i.Lines = append(i.Lines, InvoiceLine{Number: n + 1, Account: k[0], SubscriptionNumber: k[1], Item: k[2], Charge: k[3], PeriodStart: day(f[1]), PeriodEnd: day(f[2]),
			Quantity: some(f[3]), UnitPrice: some(f[4]), Amount: decimal.RequireFromString(f[5]), Source: "test.csv"})
	}
	if _, err := o.ImportInvoices(o.t.Context(), []Invoice{i}, false); err != nil {
		o.t.Fatal(err)
	}
}

// Two periods of one level end in January: each has its own comparison, whatever order they came in, and
// commitments of the contract and burst of the samples stand beside.
func TestMatchByBillingPeriods(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2024-02-20T12:00:00Z")
	o.level("2023-10", "2023-11", "2023-12", "2024-01")
	o.exec(`update ops.watermark set expected_from = '2023-10-01'`)
	o.samples("2023-10-15T00:00:00Z", "2024-02-01T00:00:00Z", "1 day")
	o.exec(`update dw.fact_daily_consumption set accrued_sum_tib = 20 / 31.0`)
	o.exec(`insert into dw.fact_commitment (customer_key, service_level_key, valid_from, committed_tib, run_id) values (1, 1, '2023-10-01', 110, 1)`)
	for _, p := range [][2]string{{"2023-10-15", "2024-01-14"}, {"2024-01-15", "2024-01-31"}} {
		o.exec(`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since)
			values ('C-1', 'A-1', 'committed', $1, $2, 'quarterly', 'test', '2023-08-01')`, dateOf(p[0]).at(0), dateOf(p[1]).at(0))
	}
	o.price("keystone/////committed 10 USD 2023-01-01", "keystone/////burst 10 USD 2023-01-01")
	o.bill("1", "keystone", "2024-02-03", "USD", "/A-1/Extreme/committed 2024-01-15 2024-01-31 54.838709677419 10 548.39",
		"/A-1/Extreme/committed 2023-10-15 2024-01-14 300 10 3000", "acme/A-1/Extreme/burst 2024-01-01 2024-01-31 20 10 200")
	wantLines(t, "equal", o.causes("2024-01"),
		"acme A-1 Extreme committed 2023-10-15 2024-01-14 3000.00 3000.00 USD equal ()",
		"acme A-1 Extreme committed 2024-01-15 2024-01-31 548.39 548.39 USD equal ()",
		"acme A-1 Extreme burst 2024-01-01 2024-01-31 200.00 200.00 USD equal ()")
	lines := o.match("2024-01").Lines
	for i, want := range []string{"330 3300", "60.322580645161 603.23", "20 200"} {
		if got := fmt.Sprint(lines[i].RecomputedQuantity.Decimal, " ", lines[i].RecomputedAmount.Decimal); got != want {
			t.Errorf("recomputed %s, want %s", got, want)
		}
	}
	// What is charged for other periods as well, although all of ours are charged, is told period by period.
	o.now = o.now.Add(time.Minute)
	o.bill("1", "keystone", "2024-02-03", "USD", "/A-1/Extreme/committed 2024-01-15 2024-01-31 54.838709677419 10 548.39", "/A-1/Extreme/committed 2024-01-05 2024-01-10 2 10 20",
		"/A-1/Extreme/committed 2024-01-01 2024-01-20 5 10 50", "/A-1/Extreme/committed 2023-10-15 2024-01-14 300 10 3000", "acme/A-1/Extreme/burst 2024-01-01 2024-01-31 20 10 200")
	wantLines(t, "twice", o.causes("2024-01"),
		"acme A-1 Extreme committed 2023-10-15 2024-01-14 3000.00 3000.00 USD equal ()",
		"acme A-1 Extreme committed 2024-01-01 2024-01-20 50.00 0.00 USD not_in_warehouse ()",
		"acme A-1 Extreme committed 2024-01-05 2024-01-10 20.00 0.00 USD not_in_warehouse ()",
		"acme A-1 Extreme committed 2024-01-15 2024-01-31 548.39 548.39 USD equal ()",
		"acme A-1 Extreme burst 2024-01-01 2024-01-31 200.00 200.00 USD equal ()")
	// Charged is a whole month of it, another quarter than ours, and a burst that the samples give.
	o.now = o.now.Add(time.Minute)
	o.exec(`update dw.fact_daily_consumption set accrued_sum_tib = 15 / 31.0`)
	o.bill("1", "keystone", "2024-02-03", "USD", "/A-1/Extreme/committed 2024-01-15 2024-01-31 100 10 1000",
		"/A-1/Extreme/committed 2023-10-15 2024-01-13 296.774193548387 10 2967.74", "acme/A-1/Extreme/burst 2024-01-01 2024-01-31 20 10 200")
	wantLines(t, "other days", o.causes("2024-01"),
		"acme A-1 Extreme committed 2023-10-15 2024-01-14 2967.74 3000.00 USD prorated (only 2023-10-15 to 2024-01-13 charged)",
		"acme A-1 Extreme committed 2024-01-15 2024-01-31 1000.00 548.39 USD prorated (100 TiB charged for the whole period)",
		"acme A-1 Extreme burst 2024-01-01 2024-01-31 200.00 150.00 USD quantity_differs (quantity 20 on the invoice, 15 in the statement: the invoice agrees with what was recomputed)")
	// What was known at the first import was the first invoice.
	if m, err := o.Match(t.Context(), Period{day("2024-01-01")}, at("2024-02-20T12:00:00Z"), DefaultTolerance); err != nil || m.Lines[1].InvoiceAmount.String() != "548.39" {
		t.Errorf("as of the first import: %v %v", m.Lines, err)
	}
	// Another customer gets a subscription of the same number: the invoice has to say whose it is.
	o.exec(`insert into dw.dim_customer (customer_key, customer_id, account, first_seen_at, seen_at) overriding system value values (2, 'C-2', 'acme', now(), now())`)
	o.exec(`insert into dw.dim_subscription (subscription_key, customer_key, subscription_number, first_seen_at) overriding system value values (2, 2, 'A-1', now())`)
	o.exec(`insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_class) overriding system value values (2, 2, 2, 'Extreme', 'base')`)
	o.exec(`insert into dw.fact_commitment (customer_key, service_level_key, valid_from, committed_tib, run_id) values (2, 2, '2023-10-01', 50, 1)`)
	whose := "(2 customers or accounts have it: import the invoice with the one that is meant)"
	wantLines(t, "two customers", o.causes("2024-01")[:4],
		"A-1 Extreme committed 2023-10-15 2024-01-13 2967.74 0.00 USD not_in_warehouse "+whose,
		"A-1 Extreme committed 2024-01-15 2024-01-31 1000.00 0.00 USD not_in_warehouse "+whose,
		"acme A-1 Extreme burst 2024-01-01 2024-01-31 200.00 0.00 USD not_in_warehouse "+whose,
		"acme A-1 Extreme committed 2023-10-15 2024-01-14 0.00 3000.00 USD not_on_invoice ()")
}

// wolkvox is billed by account, product and month.
func TestMatchOfWolkvox(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2026-05-20T12:00:00Z")
	o.exec(`insert into dw.dim_operation (operation_key, account, operation, server, zone, first_seen_at) overriding system value values (1, 'calls', 'OP', '0039', 'America/Bogota', now())`)
	o.exec(`insert into dw.dim_product (product_key, product_number, api, title, unit, kind) overriding system value
		values (1, 1, 'chat_licenses', 'Chat', 'licences', 'gauge'), (2, 2, 'ivr_minutes', 'IVR', 'minutes', 'counter'), (3, 3, 'sms', 'SMS', 'messages', 'counter')`)
	for _, f := range []struct {
		product            int
		description, items string
		day, read          string
	}{
		{1, "Chat", "10", "2026-04-02", "2026-04-02T15:00:00Z"}, {1, "Chat", "12", "2026-04-30", "2026-05-01T04:50:00Z"},
		{1, "Chat web", "5", "2026-04-30", "2026-05-01T04:50:00Z"},
		{2, "IVR", "900.5", "2026-04-29", "2026-04-29T15:00:00Z"}, // no closing reading
		{3, "SMS", "40", "2026-04-30", "2026-05-01T04:50:00Z"},
	} {
		o.exec(`insert into dw.fact_license_snapshot (operation_key, product_key, description, snapshot_date, items, items_text, items_min, items_max, reading_count, read_at, payload_id, run_id, is_imported, zone)
			values (1, $1, $2, $3::text::date, $4::text::numeric, $4, $4::text::numeric, $4::text::numeric, 1, $5::text::timestamptz, 1, 1, false, 'America/Bogota')`, f.product, f.description, f.day, f.items, f.read)
	}
	o.price("wolkvox/////license 2.5 USD 2026-01-01", "wolkvox/////usage 0.1 USD 2026-01-01")
	o.bill("W-1", "wolkvox", "2026-05-04", "USD", "//chat_licenses/license 2026-04-01 2026-04-30 17 2.5 42.5", // both descriptions in one
		"calls//ivr_minutes/usage 2026-04-01 2026-04-30 950 0.1 95", "//sms/usage 2026-04-01 2026-04-30 40 0.2 8", "//whatsapp/usage 2026-04-01 2026-04-30 1 1 1")
	wantLines(t, "wolkvox", o.causes("2026-04"),
		"calls chat_licenses license 2026-04-01 2026-04-30 42.50 42.50 USD equal ()",
		"calls ivr_minutes usage 2026-04-01 2026-04-30 95.00 90.05 USD missing_days (1 day without figures: with them 90.05 USD to 180.10 USD)",
		"calls sms usage 2026-04-01 2026-04-30 8.00 4.00 USD rate_differs (price 0.2 on the invoice, 0.1 in the rate card)",
		"calls whatsapp usage 2026-04-01 2026-04-30 1.00 0.00 USD not_in_warehouse ()")
}

// A line without a price meets one of two invoices in two currencies, the same one whatever comes first.
func TestPairDoesNotDependOnOrder(t *testing.T) {
	april := func(currency string) invoicedLine {
		return invoicedLine{Invoice: Invoice{Vendor: "keystone", Number: "in " + currency, Currency: currency}, line: InvoiceLine{
			Account: "acme", CustomerID: "C-1", SubscriptionNumber: "A-1", Item: "Extreme", Charge: "burst", PeriodStart: day("2026-04-01"), PeriodEnd: day("2026-04-30")}}
	}
	unpriced := Line{Source: "keystone", Account: "acme", CustomerID: "C-1", SubscriptionNumber: "A-1", Item: "Extreme", Charge: "burst",
		PeriodStart: day("2026-04-01"), PeriodEnd: day("2026-04-30")}
	for _, found := range [][]invoicedLine{{april("USD"), april("EUR")}, {april("EUR"), april("USD")}} {
		var got []string
		for _, p := range pair(found, []Line{unpriced}, nil) {
			got = append(got, fmt.Sprint(p.currency, " ", len(p.invoice), " with ", len(p.lines), ", also in ", p.elsewhere))
		}
		slices.Sort(got)
		if want := []string{"EUR 1 with 1, also in []", "USD 1 with 0, also in [EUR]"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// What has no order has none: lines and days in any order, and a line in two parts, have the same cause.
func TestCauseDoesNotDependOnOrderOrSplits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cents := func(label string, most int64) decimal.Decimal {
			return decimal.New(rapid.Int64Range(-most, most).Draw(t, label), -2)
		}
		prices := []decimal.Decimal{decimal.RequireFromString("2"), decimal.RequireFromString("2.5")}
		charge := rapid.SampledFrom([]string{"committed", "burst"}).Draw(t, "charge")
		c := comparison{currency: "USD", tolerance: DefaultTolerance}
		scale := map[string]int{"committed": 377580, "burst": 1}[charge]
		for i := range rapid.IntRange(0, 2).Draw(t, "segments") {
			waiver := charge == "burst" && rapid.Bool().Draw(t, "waiver")
			line := Line{Charge: charge, IsWaiver: waiver, PeriodStart: day("2026-04-01"), PeriodEnd: day("2026-04-30"), UnitPrice: decimal.NewNullDecimal(prices[i])}
			var exactly decimal.Decimal
			for d := range 15 {
				parts := decimal.NewFromInt(rapid.Int64Range(0, 20).Draw(t, "parts"))
				if charge == "committed" {
					parts = parts.Mul(decimal.NewFromInt(377580 / 30))
				}
				known := pricedDay{day: day("2026-04-01") + etl.Day(i*15+d), parts: decimal.NewNullDecimal(parts), scale: scale, price: line.UnitPrice, isWaiver: waiver,
					isGuess: rapid.IntRange(0, 9).Draw(t, "guess") == 0}
				exactly = exactly.Add(parts)
				c.days = append(c.days, known)
				known.parts.Decimal = known.parts.Decimal.Add(decimal.NewFromInt(int64(rapid.IntRange(0, 20).Draw(t, "restated") / 20 * scale)))
				c.then = append(c.then, known)
			}
			line.Quantity = decimal.NewNullDecimal(exactly.DivRound(decimal.NewFromInt(int64(scale)), 12))
			line.Amount = decimal.NewNullDecimal(exactly.Mul(prices[i]).DivRound(decimal.NewFromInt(int64(scale)), 2))
			c.lines = append(c.lines, line)
		}
		base := decimal.Sum(c.owed())
		if c.then != nil && rapid.Bool().Draw(t, "as then") {
			base = cost(c.then, anyDay).Round(2)
		}
		for i := range rapid.IntRange(1, 3).Draw(t, "lines") {
			l := InvoiceLine{Charge: charge, PeriodStart: day("2026-04-01"), PeriodEnd: day("2026-04-30"), Amount: cents("amount", 5000)}
			if i == 0 {
				l.Amount = base.Add(decimal.New(rapid.SampledFrom([]int64{0, 1, 500, -777, 40000}).Draw(t, "off"), -2))
			}
			if rapid.Bool().Draw(t, "price") {
				l.UnitPrice = decimal.NewNullDecimal(prices[rapid.IntRange(0, 1).Draw(t, "which")])
			}
			if rapid.Bool().Draw(t, "quantity") {
				l.Quantity = decimal.NewNullDecimal(cents("invoiced", 100000))
			}
			c.invoice = append(c.invoice, l)
		}
		cause, _ := explain(c)

		other := c
		other.invoice = rapid.Permutation(c.invoice).Draw(t, "invoice")
		other.lines, other.days, other.then = slices.Clone(c.lines), slices.Clone(c.days), slices.Clone(c.then)
		slices.Reverse(other.lines)
		slices.Reverse(other.days)
		slices.Reverse(other.then)
		if got, _ := explain(other); got != cause {
			t.Fatalf("in another order: %s, was %s", got, cause)
		}
		// Each line that is summed widens what counts as rounding: that is set aside here.
		split := c
		split.tolerance = c.tolerance.Mul(decimal.NewFromInt(int64(len(c.invoice) + len(c.lines)))).Div(decimal.NewFromInt(int64(len(c.invoice) + len(c.lines) + 1)))
		split.tolerance = split.tolerance.Add(decimal.New(1, -9)) // the quotient has an end
		half := c.invoice[0]
		half.Amount = cents("half", 5000)
		rest := c.invoice[0]
		rest.Amount = rest.Amount.Sub(half.Amount)
		if half.Quantity.Valid {
			half.Quantity.Decimal = cents("half quantity", 5000)
			rest.Quantity.Decimal = rest.Quantity.Decimal.Sub(half.Quantity.Decimal)
		}
		split.invoice = append([]InvoiceLine{half, rest}, c.invoice[1:]...)
		if got, _ := explain(split); got != cause {
			t.Fatalf("a line in two: %s, was %s", got, cause)
		}
	})
}

// A closed month is compared as it was frozen. What the vendor charges of later restatements, in an invoice
// for the same days, is what was known when it was made.
func TestMatchOfAClosedMonth(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.close("2026-02", "")
	o.close("2026-03", "")
	committed := "/A-1/Extreme/committed 2026-03-01 2026-03-31 100 10.01 1001"
	o.bill("1", "keystone", "2026-04-01", "USD", committed, "/A-1/Extreme/burst 2026-03-01 2026-03-31 15.5 3.333 51.66")
	equal := "acme A-1 Extreme committed 2026-03-01 2026-03-31 1001.00 1001.00 USD equal ()"
	wantLines(t, "as it was closed", o.causes("2026-03"), equal, "acme A-1 Extreme burst 2026-03-01 2026-03-31 51.66 51.66 USD equal ()")

	o.clock("2026-04-10T12:00:00Z")
	o.change("restated", "2026-03-15", "accrued_sum_tib = 1.5") // 16.5 TiB
	wantLines(t, "restated", o.causes("2026-03"), equal, "acme A-1 Extreme burst 2026-03-01 2026-03-31 51.66 51.66 USD equal ()")
	o.clock("2026-04-12T12:00:00Z")
	const since = "; the month is closed, and what changed since is in mart.adjustment)"
	for _, date := range []string{"2026-04-10", "2026-04-11", "2026-04-12", "2026-04-30"} { // of the day of the change; before, on and after that of the match
		o.bill("2", "keystone", date, "USD", "/A-1/Extreme/burst 2026-03-01 2026-03-31 - - 3.33")
		wantLines(t, "charged later, on "+date, o.causes("2026-03"), equal,
			"acme A-1 Extreme burst 2026-03-01 2026-03-31 54.99 51.66 USD restated_after_invoice (as known at the invoice date: 54.99 USD"+since)
	}
	o.bill("3", "keystone", "2026-04-01", "USD", "/A-1/Extreme/burst 2026-03-01 2026-03-31 - - 0") // the latest tells, which is not the last
	wantLines(t, "charged earlier, too", o.causes("2026-03"), equal,
		"acme A-1 Extreme burst 2026-03-01 2026-03-31 54.99 51.66 USD restated_after_invoice (as known at the invoice date: 54.99 USD"+since)
	o.bill("2", "keystone", "2026-04-09", "USD", "/A-1/Extreme/burst 2026-03-01 2026-03-31 - - 3.33") // nobody knew it then
	wantLines(t, "charged before it was known", o.causes("2026-03"), equal,
		"acme A-1 Extreme burst 2026-03-01 2026-03-31 54.99 51.66 USD unexplained ()")
	m, err := o.Match(t.Context(), month("2026-03"), at("2026-04-05T00:00:00Z"), DefaultTolerance)
	if err != nil || len(m.Lines) != 2 || m.Lines[1].Cause != Equal {
		t.Errorf("as of 5 April: %v %v", m.Lines, err)
	}
}

// What was known when an invoice was made is not more than was known as of the match, and is looked for where the
// calendar of then had the day.
func TestMatchOfThePast(t *testing.T) {
	t.Parallel()
	o := closable(t)
	committed := "/A-1/Extreme/committed 2026-03-01 2026-03-31 100 10.01 1001"
	equal := "acme A-1 Extreme committed 2026-03-01 2026-03-31 1001.00 1001.00 USD equal ()"
	o.bill("1", "keystone", "2026-04-11", "USD", committed, "/A-1/Extreme/burst 2026-03-01 2026-03-31 - - 54.99") // of a day to come
	o.clock("2026-04-10T12:00:00Z")
	o.change("restated", "2026-03-15", "accrued_sum_tib = 1.5") // 16.5 TiB
	o.clock("2026-04-12T12:00:00Z")
	m, err := o.Match(t.Context(), month("2026-03"), at("2026-04-05T00:00:00Z"), DefaultTolerance)
	if err != nil || len(m.Lines) != 2 || m.Lines[1].Cause != Unexplained {
		t.Errorf("as of 5 April: %v %v", m.Lines, err)
	}

	// The last day of February came to March by a calendar that nobody knew then.
	for _, span := range [][2]string{{"2026-02-01", "2026-02-27"}, {"2026-02-28", "2026-03-31"}} {
		o.exec(`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since) values ('C-1', 'A-1', 'burst', $1::text::date, $2::text::date, 'monthly', 'test', $3)`,
			span[0], span[1], o.now)
	}
	o.bill("1", "keystone", "2026-04-01", "USD", committed, "/A-1/Extreme/burst 2026-02-28 2026-03-31 - - 53.33")
	wantLines(t, "another calendar", o.causes("2026-03"), equal,
		"acme A-1 Extreme burst 2026-02-28 2026-03-31 53.33 56.66 USD restated_after_invoice (as known at the invoice date: 53.33 USD)")

	// Days without a price go with the invoice.
	o.exec(`update billing.rate set superseded_at = $1 where charge = 'burst'`, o.now)
	o.exec(`delete from dw.fact_daily_consumption where usage_date = '2026-03-10'`)
	if got, want := o.causes("2026-03")[1], "acme A-1 Extreme burst 2026-02-28 2026-03-31 53.33 0.00 USD unexplained (no price in the rate card: see the contract, then `meterhouse rates import`; 1 day without figures)"; got != want {
		t.Errorf("days without a price:\n got %s\nwant %s", got, want)
	}
}

// What was known of a day is of the scale that it had then: a reading of zero more makes an average another. Of a day
// that nobody knew it is nothing.
func TestReprice(t *testing.T) {
	t.Parallel()
	rows := []StatementDay{{Item: "chat_licenses", Day: day("2026-04-01"), Quantity: some("10"), Scale: 2}, {Item: "chat_licenses", Day: day("2026-04-02"), Quantity: some("0"), Scale: 2}}
	var now []pricedDay
	for _, d := range rows {
		now = append(now, pricedDay{day: d.Day, parts: d.Quantity, scale: d.Scale, price: some("3")})
	}
	was := pastDays{instanceOf(rows[0]): {some("10"), 1}}
	if then := was.reprice(rows, now); then == nil || cost(then, anyDay).String() != "30" || cost(now, anyDay).String() != "15" {
		t.Errorf("got %+v, want 30 then and 15 now", then)
	}
	if then := (pastDays{instanceOf(rows[0]): {some("10"), 2}, instanceOf(rows[1]): {some("0"), 2}}).reprice(rows, now); then != nil {
		t.Errorf("the same: got %+v", then)
	}
}

// A comparison is provisional when any line of the statement is.
func TestMatchIsProvisional(t *testing.T) {
	t.Parallel()
	p := paired{comparison: comparison{currency: "USD", tolerance: DefaultTolerance, lines: []Line{{State: "final"}, {State: "provisional"}, {State: "final"}}}}
	if got := p.match().State; got != "provisional" {
		t.Errorf("got %s", got)
	}
}

// An invoice that does not say whose a thing is means who has it, charge and all.
func TestResolver(t *testing.T) {
	t.Parallel()
	resolve := resolver([]Line{
		{Source: "keystone", Account: "acme", CustomerID: "C-1", SubscriptionNumber: "A-1", Item: "Extreme", Charge: "committed"},
		{Source: "keystone", Account: "acme", CustomerID: "C-1", SubscriptionNumber: "A-1", Item: "Extreme", Charge: "burst"},
		{Source: "keystone", Account: "acme", CustomerID: "C-2", SubscriptionNumber: "A-1", Item: "Extreme", Charge: "committed"},
	})
	for charge, want := range map[string]string{"burst": "C-1 0", "committed": " 2", "other": " 2"} {
		got, owners := resolve(invoicedLine{Invoice: Invoice{Vendor: "keystone"}, line: InvoiceLine{SubscriptionNumber: "A-1", Item: "Extreme", Charge: charge}})
		if fmt.Sprint(got.customer, " ", owners) != want {
			t.Errorf("%s: got %q and %d, want %s", charge, got.customer, owners, want)
		}
	}
}

// What was not charged because there was nothing, and came later, was restated. In another currency it is
// nobody's line.
func TestMatchOfWhatIsNotCharged(t *testing.T) {
	t.Parallel()
	o := closable(t)
	committed := "/A-1/Extreme/committed 2026-03-01 2026-03-31 100 10.01 1001"
	o.exec(`update dw.fact_daily_consumption set accrued_sum_tib = 0`)
	o.bill("1", "keystone", "2026-04-01", "USD", committed)
	equal := "acme A-1 Extreme committed 2026-03-01 2026-03-31 1001.00 1001.00 USD equal ()"
	wantLines(t, "no burst", o.causes("2026-03"), equal, "acme A-1 Extreme burst 2026-03-01 2026-03-31 0.00 0.00 USD equal ()")
	o.clock("2026-04-10T12:00:00Z")
	o.change("restated", "2026-03-15", "accrued_sum_tib = 30")
	wantLines(t, "burst came later", o.causes("2026-03"), equal,
		"acme A-1 Extreme burst 2026-03-01 2026-03-31 0.00 99.99 USD restated_after_invoice (as known at the invoice date: 0.00 USD)")
	o.bill("2", "keystone", "2026-04-11", "EUR", "/A-1/Extreme/burst 2026-03-01 2026-03-31 30 3.333 99.99")
	wantLines(t, "in another currency", o.causes("2026-03")[1:],
		"acme A-1 Extreme burst 2026-03-01 2026-03-31 99.99 0.00 EUR not_in_warehouse (the statement has it in USD)",
		"acme A-1 Extreme burst 2026-03-01 2026-03-31 0.00 99.99 USD not_on_invoice (charged in EUR)")
	m := o.match("2026-03")
	if unpriced := m.Lines[2]; unpriced.Difference.String() != "-99.99" {
		t.Errorf("difference %s", unpriced.Difference)
	}
	o.wantSums(m)
}

// An invoice that prints whole pesos only is rounded to them, and one with a single line may be by chance.
func TestMatchOfWholePesos(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.exec(`update billing.rate set superseded_at = '2026-04-02T12:00:00Z'`)
	o.price("keystone/////committed 10.0149 COP 2026-01-01", "keystone/////burst 33.33 COP 2026-01-01") // 1001.49 and 516.615
	burst := "/A-1/Extreme/burst 2026-03-01 2026-03-31 15.5 33.33 "
	o.bill("1", "keystone", "2026-04-01", "COP", "/A-1/Extreme/committed 2026-03-01 2026-03-31 100 10.0149 1001", burst+"517")
	const whole = "rounding (the invoice prints no decimals, or fewer than its currency has)"
	wantLines(t, "whole pesos", o.causes("2026-03"), "acme A-1 Extreme committed 2026-03-01 2026-03-31 1001.00 1001.49 COP "+whole,
		"acme A-1 Extreme burst 2026-03-01 2026-03-31 517.00 516.62 COP "+whole)
	o.bill("1", "keystone", "2026-04-02", "COP", "/A-1/Extreme/committed 2026-03-01 2026-03-31 100 10.0149 1001.0", burst+"517")
	wantLines(t, "a decimal", o.causes("2026-03"), "acme A-1 Extreme committed 2026-03-01 2026-03-31 1001.00 1001.49 COP unexplained (100 × 10.0149 on the invoice is not its amount, but 1001.49 COP)",
		"acme A-1 Extreme burst 2026-03-01 2026-03-31 517.00 516.62 COP unexplained (15.5 × 33.33 on the invoice is not its amount, but 516.62 COP)")
	o.bill("1", "keystone", "2026-04-01", "COP", burst+"517")
	wantLines(t, "one line", o.causes("2026-03")[1:], "acme A-1 Extreme burst 2026-03-01 2026-03-31 517.00 516.62 COP unexplained (15.5 × 33.33 on the invoice is not its amount, but 516.62 COP)")
}

// A load that commits in between changes nothing of a match that has begun.
func TestMatchIsOfOneSnapshot(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.bill("1", "keystone", "2026-04-01", "USD", "/A-1/Extreme/burst 2026-03-01 2026-03-31 - - 60", "/A-1/Extreme/committed 2026-03-01 2026-03-31 - - 1001")
	want := o.match("2026-03").Lines
	loads := 0
	between := New(o.pool, func() time.Time {
		if loads++; loads > 1 {
			o.exec(`update dw.fact_daily_consumption set accrued_sum_tib = accrued_sum_tib + 1, committed_tib = committed_tib + 1`)
		}
		return o.now
	})
	m, err := between.Match(t.Context(), month("2026-03"), time.Time{}, DefaultTolerance)
	if err != nil || fmt.Sprint(m.Lines) != fmt.Sprint(want) {
		t.Errorf("got %v, %v\nwant %v", m.Lines, err, want)
	}
	if loads < 2 {
		t.Error("nothing was loaded in between")
	}
}

// An invoice that was imported by mistake counts until it is withdrawn, as of then too, and again when it is
// imported again. Who withdrew it and why is never changed.
func TestWithdrawnInvoice(t *testing.T) {
	t.Parallel()
	o := closable(t)
	lines := []string{"/A-1/Extreme/committed 2026-03-01 2026-03-31 100 10.01 1001", "/A-1/Extreme/burst 2026-03-01 2026-03-31 15.5 3.333 51.66"}
	o.bill("90", "keystone", "2026-04-01", "USD", lines...)
	o.bill("09", "keystone", "2026-04-01", "USD", lines...) // mistyped
	o.bill("09", "wolkvox", "2026-04-01", "USD", "calls//sms/usage 2026-03-01 2026-03-31 1 1 1")
	sums := func(asOf string) string {
		t.Helper()
		then := time.Time{}
		if asOf != "" {
			then = at(asOf)
		}
		m, err := o.Match(t.Context(), month("2026-03"), then, DefaultTolerance)
		if err != nil {
			t.Fatal(err)
		}
		var asked, owed decimal.Decimal
		for _, l := range m.Lines {
			asked, owed = asked.Add(l.InvoiceAmount), owed.Add(l.StatementAmount)
		}
		return fmt.Sprint(asked, " ", owed)
	}
	mart := `select coalesce(string_agg(source || ' ' || invoice_number, ',' order by source, invoice_number, line_number), '') from mart.invoice_line`
	const twice, once = "2106.32 1052.66", "1053.66 1052.66"
	if got := sums(""); got != twice {
		t.Fatalf("charged twice: got %s", got)
	}

	o.clock("2026-04-03T12:00:00Z")
	for _, planOnly := range []bool{true, false} {
		w, err := o.WithdrawInvoice(t.Context(), "keystone", "09", "jane", "is 90", planOnly)
		if err != nil || w.Invoice.Total().String() != "1052.66" || len(w.Invoice.Lines) != 2 || w.By != "jane" || w.Reason != "is 90" || !w.At.Equal(o.now) {
			t.Errorf("plan %t: got %+v, %v", planOnly, w, err)
		}
		if got, want := sums(""), map[bool]string{true: twice, false: once}[planOnly]; got != want {
			t.Errorf("plan %t: got %s, want %s", planOnly, got, want)
		}
	}
	o.want(mart, "keystone 90,keystone 90,wolkvox 09")
	if got := sums("2026-04-02T13:00:00Z"); got != twice {
		t.Errorf("as of before: got %s", got)
	}
	if got := sums("2026-04-03T12:00:00Z"); got != once {
		t.Errorf("as of then: got %s", got)
	}

	// Again, by another: it stays as it was.
	o.clock("2026-04-04T12:00:00Z")
	w, err := o.WithdrawInvoice(t.Context(), "keystone", "09", "bob", "again", false)
	if err != nil || w.Invoice.Number != "" || w.By != "jane" || w.Reason != "is 90" || !w.At.Equal(at("2026-04-03T12:00:00Z")) {
		t.Errorf("again: got %+v, %v", w, err)
	}
	trace := `select string_agg(concat_ws(' ', i.vendor, i.number, w.withdrawn_by, w.reason, to_char(w.known_since at time zone 'UTC', 'MM-DD HH24'), i.superseded_at = w.known_since,
			(select bool_and(l.superseded_at = w.known_since) from billing.invoice_line as l where l.invoice_id = i.invoice_id)), ',' order by w.known_since)
		from billing.invoice_withdrawal as w join billing.invoice as i using (invoice_id)`
	o.want(trace, "keystone 09 jane is 90 04-03 12 t t")
	if _, err := o.WithdrawInvoice(t.Context(), "keystone", "9", "jane", "r", false); !errors.Is(err, ErrNoInvoice) {
		t.Errorf("never imported: got %v", err)
	}
	if _, err := o.WithdrawInvoice(t.Context(), "wolkvox", "90", "jane", "r", false); !errors.Is(err, ErrNoInvoice) {
		t.Errorf("of another vendor: got %v", err)
	}
	for _, sql := range []string{`update billing.invoice_withdrawal set reason = 'other'`, `delete from billing.invoice_withdrawal`} {
		if _, err := o.pool.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "rows of billing.invoice_withdrawal are never changed or deleted") {
			t.Errorf("%s: got %v", sql, err)
		}
	}

	// Imported again it is a new version, and can be withdrawn again.
	o.bill("09", "keystone", "2026-04-01", "USD", lines...)
	if got := sums(""); got != twice {
		t.Errorf("imported again: got %s", got)
	}
	o.want(mart, "keystone 09,keystone 09,keystone 90,keystone 90,wolkvox 09")
	if got := sums("2026-04-03T13:00:00Z"); got != once {
		t.Errorf("as of between: got %s", got)
	}
	o.clock("2026-04-05T12:00:00Z")
	if w, err = o.WithdrawInvoice(t.Context(), "keystone", "09", "bob", "mistyped", false); err != nil || len(w.Invoice.Lines) != 2 {
		t.Errorf("got %+v, %v", w, err)
	}
	if w, err = o.WithdrawInvoice(t.Context(), "keystone", "09", "jane", "r", false); err != nil || w.By != "bob" {
		t.Errorf("the last withdrawal: got %+v, %v", w, err)
	}
	o.want(trace, "keystone 09 jane is 90 04-03 12 t t,keystone 09 bob mistyped 04-05 12 t t")
	if got := sums(""); got != once {
		t.Errorf("withdrawn again: got %s", got)
	}
}

// What a contract commits to at the end of each day, of all instances of a name, and what the samples of whole months
// come to; where a day or a month is unknown there is no figure, not a smaller one.
func TestRecomputedQuantity(t *testing.T) {
	t.Parallel()
	committed := thing{source: "keystone", subscription: "A-1", item: "Extreme", charge: "committed"}
	burst := committed
	burst.charge = "burst"
	version := func(from, until, tib string) contractVersion {
		v := contractVersion{from: at(from), tib: decimal.RequireFromString(tib)}
		if until != "" {
			v.until = ptrTo(at(until))
		}
		return v
	}
	r := recomputation{
		burst: map[thing]map[etl.Day]decimal.Decimal{burst: {day("2026-03-01"): decimal.RequireFromString("7"), day("2026-04-01"): decimal.RequireFromString("11")}},
		contract: map[instance][]contractVersion{
			{thing: committed}: {version("2026-03-20T00:00:00Z", "2026-04-10T00:00:00Z", "90"), version("2026-04-10T00:00:00Z", "2026-04-20T12:00:00Z", "120"),
				version("2026-04-20T12:00:00Z", "", "150")},
			{thing: committed, ordinal: 1}: {version("2026-03-20T00:00:00Z", "", "30")},
		},
	}
	of := func(thing thing, start, end string, days ...string) string {
		var rows []StatementDay
		for _, d := range days {
			rows = append(rows, StatementDay{Source: "keystone", PeriodStart: day(start), PeriodEnd: day(end), Day: day(d), Scale: 377580})
		}
		if sum := r.quantity(thing, rows); sum.Valid {
			return sum.Decimal.String()
		}
		return "-"
	}
	for d, want := range map[string]string{"2026-04-09": "4", "2026-04-10": "5", "2026-04-19": "5", "2026-04-20": "6", "2026-03-19": "-"} {
		if got := of(committed, "2026-04-01", "2026-04-30", d); got != want {
			t.Errorf("committed on %s: got %s, want %s", d, got, want)
		}
	}
	if got := of(committed, "2026-04-01", "2026-04-30", "2026-04-09", "2026-04-10", "2026-04-10"); got != "9" { // a day of two instances is one
		t.Errorf("committed on two days: got %s, want 9", got)
	}
	r.contract[instance{thing: committed, discriminator: "2"}] = []contractVersion{version("2026-03-20T00:00:00Z", "", "60")}
	both := []StatementDay{{PeriodStart: day("2026-04-01"), PeriodEnd: day("2026-04-30"), Day: day("2026-04-09"), Scale: 377580}}
	both = append(both, both[0])
	both[1].Discriminator = "2"
	if got := r.quantity(committed, both); got.Decimal.String() != "6" {
		t.Errorf("committed by two subscriptions of one number: got %s, want 6", got.Decimal)
	}
	if got := of(committed, "2026-03-01", "2026-03-31", "2026-03-19", "2026-03-20"); got != "-" {
		t.Errorf("committed on a day of no contract, too: got %s, want no figure", got)
	}
	for span, want := range map[[2]string]string{
		{"2026-04-01", "2026-04-30"}: "11", {"2026-03-01", "2026-04-30"}: "18", {"2026-03-16", "2026-04-30"}: "-", {"2026-03-01", "2026-04-15"}: "-", {"2026-03-01", "2026-05-31"}: "-",
	} {
		if got := of(burst, span[0], span[1], span[0]); got != want {
			t.Errorf("burst of %s to %s: got %s, want %s", span[0], span[1], got, want)
		}
	}
}

// What is recomputed of a period of whole months that begins on the 15th is whole months, as in the statement.
func TestRecomputedWholeMonths(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.now = at("2024-11-20T12:00:00Z")
	o.level("2024-09", "2024-10")
	o.exec(`update ops.watermark set expected_from = '2024-09-01'`)
	o.samples("2024-09-01T00:00:00Z", "2024-11-01T00:00:00Z", "1 day")
	o.exec(`insert into dw.fact_commitment (customer_key, service_level_key, valid_from, committed_tib, run_id) values (1, 1, '2024-08-01', 100, 1)`)
	o.exec(`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since)
		values ('C-1', 'A-1', 'committed', '2024-09-15', '2024-10-14', 'monthly', 'test', '2024-08-01')`)
	o.price("keystone/////committed 10 USD 2023-01-01")
	m, err := o.Match(t.Context(), month("2024-10"), at("2024-11-20T12:00:00Z"), decimal.New(5, -1))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range m.Lines {
		if l.Charge == "committed" && l.PeriodStart == day("2024-09-15") { // and days for which the calendar is assumed
			n++
			if l.StatementQuantity.Decimal.String() != "100" || l.RecomputedQuantity.Decimal.String() != "100" || l.RecomputedAmount.Decimal.String() != "1000" {
				t.Errorf("got %s of the statement, %s and %s recomputed, want 100, 100 and 1000", l.StatementQuantity.Decimal, l.RecomputedQuantity.Decimal, l.RecomputedAmount.Decimal)
			}
		}
	}
	if n != 1 {
		t.Errorf("%d lines", n)
	}
}

// The month of a day is the statement's.
func TestDaysOfMonth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		start, end, day string
		want            int64
	}{
		{"2024-02-01", "2024-02-29", "2024-02-10", 29}, {"2024-01-01", "2024-03-31", "2024-02-10", 29}, // of the calendar
		{"2024-09-15", "2024-10-14", "2024-09-15", 30}, {"2024-09-15", "2024-10-14", "2024-10-14", 30}, // one month
		{"2024-09-15", "2024-12-14", "2024-10-14", 30}, {"2024-09-15", "2024-12-14", "2024-10-15", 31}, // three
		{"2024-01-31", "2024-02-28", "2024-02-28", 29}, {"2024-02-29", "2024-03-30", "2024-03-30", 31}, // of an anchor on the 31st
		{"2024-01-15", "2024-01-31", "2024-01-20", 31}, {"2024-01-15", "2024-02-20", "2024-02-01", 29}, // no whole months
	} {
		if got := daysOfMonth(day(c.start), day(c.end), day(c.day)); got != c.want {
			t.Errorf("%s of %s to %s: got %d, want %d", c.day, c.start, c.end, got, c.want)
		}
	}
}

// Burst of a waiver is charged at the price that would hold without one, and at no other of the card.
func TestRegularPriceOfAWaiver(t *testing.T) {
	t.Parallel()
	o := closable(t)
	o.exec(`update dw.dim_subscription set start_at = '2026-03-01'`)
	o.clock("2026-04-02T13:00:00Z")
	o.price("keystone///A-1/Extreme/burst 8 USD 2026-02-01") // replaced
	o.exec(`update billing.rate set superseded_at = '2026-04-02T13:30:00Z' where unit_price = 8`)
	o.clock("2026-04-02T14:00:00Z")
	o.price("keystone///A-1/Extreme/burst/waiver 0 USD 2026-01-01", "keystone////Extreme/burst 5 USD 2026-01-01", "keystone///A-1//burst 4 USD 2026-02-01",
		"keystone///A-1/Extreme/burst 9 USD 2026-01-01 2026-01-31", "keystone//C-2/A-1/Extreme/burst 7 USD 2026-01-01",
		"keystone///A-1/Extreme/burst 9.5 EUR 2026-02-01")
	for amount, want := range map[string]string{"62": "waiver (15.5 TiB of the waiver charged at 4)", "77.50": "unexplained ()", "139.50": "unexplained ()", "108.50": "unexplained ()", "124": "unexplained ()"} {
		o.bill("1", "keystone", "2026-04-01", "USD", "/A-1/Extreme/burst 2026-03-01 2026-03-31 - - "+amount)
		if got := o.causes("2026-03"); !strings.HasSuffix(got[len(got)-1], want) {
			t.Errorf("%s: got %s, want %s", amount, got[len(got)-1], want)
		}
	}

	// A price by the item wins over one of the customer, and that of the first day holds for the line.
	o.clock("2026-04-02T15:00:00Z")
	o.exec(`update billing.rate set superseded_at = '2026-04-02T15:00:00Z' where superseded_at is null and charge = 'burst' and not is_waiver`)
	o.price("keystone////Extreme/burst 5 USD 2026-01-01 2026-03-15", "keystone////Extreme/burst 3 USD 2026-03-16", "keystone//C-1///burst 6 USD 2026-01-01")
	o.bill("1", "keystone", "2026-04-01", "USD", "/A-1/Extreme/burst 2026-03-01 2026-03-31 - - 77.50")
	if got := o.causes("2026-03"); !strings.HasSuffix(got[len(got)-1], "waiver (15.5 TiB of the waiver charged at 5)") {
		t.Errorf("by the item, on the first day: got %s", got[len(got)-1])
	}

	// Of a level that nobody classified only a price by its name would hold.
	o.clock("2026-04-02T16:00:00Z")
	o.exec(`update billing.rate set superseded_at = '2026-04-02T16:00:00Z' where superseded_at is null and charge = 'burst' and not is_waiver and item <> ''`)
	for class, want := range map[string]string{"base": "waiver (15.5 TiB of the waiver charged at 6)", "unclassified": "unexplained ()"} {
		o.exec(`update dw.dim_service_level set level_class = $1`, class)
		o.bill("1", "keystone", "2026-04-01", "USD", "/A-1/Extreme/burst 2026-03-01 2026-03-31 - - 93")
		if got := o.causes("2026-03"); !strings.HasSuffix(got[len(got)-1], want) {
			t.Errorf("%s: got %s, want %s", class, got[len(got)-1], want)
		}
	}
}

// Whatever an invoice says anew makes a new version of it.
func TestWhatChangesAnInvoice(t *testing.T) {
	t.Parallel()
	made := func() Invoice {
		return Invoice{Vendor: "keystone", Number: "1", Date: day("2026-04-01"), Currency: "USD", Lines: []InvoiceLine{{Number: 1, Account: "acme", CustomerID: "C-1", SubscriptionNumber: "A-1",
			Item: "Extreme", Charge: "burst", PeriodStart: day("2026-03-01"), PeriodEnd: day("2026-03-31"), Quantity: some("1"), UnitPrice: some("2"), Amount: some("2").Decimal, Text: "x", Source: "a.csv:2"}}}
	}
	other := made()
	other.Lines[0].Source = "b.csv:3"
	other.Lines[0].Amount = some("2.00").Decimal
	if c := compareInvoices(made(), other); c.What != "unchanged" || c.Lines[0].What != "unchanged" {
		t.Errorf("the same from another file: %+v", c)
	}
	for name, change := range map[string]func(i *Invoice, l *InvoiceLine){
		"date":         func(i *Invoice, _ *InvoiceLine) { i.Date++ },
		"currency":     func(i *Invoice, _ *InvoiceLine) { i.Currency = "EUR" },
		"account":      func(_ *Invoice, l *InvoiceLine) { l.Account = "" },
		"customer":     func(_ *Invoice, l *InvoiceLine) { l.CustomerID = "C-2" },
		"subscription": func(_ *Invoice, l *InvoiceLine) { l.SubscriptionNumber = "A-2" },
		"item":         func(_ *Invoice, l *InvoiceLine) { l.Item = "Premium" },
		"charge":       func(_ *Invoice, l *InvoiceLine) { l.Charge = "committed" },
		"start":        func(_ *Invoice, l *InvoiceLine) { l.PeriodStart-- },
		"end":          func(_ *Invoice, l *InvoiceLine) { l.PeriodEnd++ },
		"quantity":     func(_ *Invoice, l *InvoiceLine) { l.Quantity = some("1.1") },
		"no quantity":  func(_ *Invoice, l *InvoiceLine) { l.Quantity = some("-") },
		"price":        func(_ *Invoice, l *InvoiceLine) { l.UnitPrice = some("2.1") },
		"amount":       func(_ *Invoice, l *InvoiceLine) { l.Amount = some("2.01").Decimal },
		"text":         func(_ *Invoice, l *InvoiceLine) { l.Text = "y" },
		"number":       func(_ *Invoice, l *InvoiceLine) { l.Number = 2 },
		"a line less":  func(i *Invoice, _ *InvoiceLine) { i.Lines = nil },
	} {
		is := made()
		change(&is, &is.Lines[0])
		if c := compareInvoices(made(), is); c.What != "changed" {
			t.Errorf("%s: %s", name, c.What)
		}
	}
}
