package billing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"meterhouse/etl"
)

// OtherCharge is what an invoice charges and no meter tells: taxes, credits, shares of the whole bill.
const OtherCharge = "other"

// Invoice is what a vendor asks for, as it was handed in.
type Invoice struct {
	Vendor   string
	Number   string
	Date     etl.Day // as printed
	Currency string  // ISO 4217, of all lines
	Lines    []InvoiceLine
}

// InvoiceLine is one line of an invoice. Figures are as printed.
type InvoiceLine struct {
	Number             int    // within the invoice, from 1
	Account            string // empty: not told
	CustomerID         string // empty: not told
	SubscriptionNumber string
	Item               string // service level or product
	Charge             string // one of the vendor's Charges, or OtherCharge
	PeriodStart        etl.Day
	PeriodEnd          etl.Day             // inclusive
	Quantity           decimal.NullDecimal // unknown when not printed, as UnitPrice
	UnitPrice          decimal.NullDecimal
	Amount             decimal.Decimal
	Text               string
	Source             string // file and line
}

// Total is the sum of the lines.
func (i Invoice) Total() (sum decimal.Decimal) {
	for _, l := range i.Lines {
		sum = sum.Add(l.Amount)
	}
	return sum
}

// says tells whether two lines say the same, wherever they stand.
func (l InvoiceLine) says(other InvoiceLine) bool {
	same := func(a, b decimal.NullDecimal) bool { return a.Valid == b.Valid && a.Decimal.Equal(b.Decimal) }
	return l.Number == other.Number && l.Account == other.Account && l.CustomerID == other.CustomerID && l.SubscriptionNumber == other.SubscriptionNumber &&
		l.Item == other.Item && l.Charge == other.Charge && l.PeriodStart == other.PeriodStart && l.PeriodEnd == other.PeriodEnd &&
		same(l.Quantity, other.Quantity) && same(l.UnitPrice, other.UnitPrice) && l.Amount.Equal(other.Amount) && l.Text == other.Text
}

// Repeats tells whether two lines say the same but for their numbers and texts.
func (l InvoiceLine) Repeats(other InvoiceLine) bool {
	other.Number, other.Text = l.Number, l.Text
	return l.says(other)
}

// InvoiceChange is what an import does to one invoice, and to its lines.
type InvoiceChange struct {
	Change[Invoice]
	Lines []Change[InvoiceLine] // by number, those without a change too
}

// ImportInvoices stores invoices. One that is stored already is left as it is when it says the same, and
// superseded by the given one when not; others stay. It returns what becomes of each, in the given order.
// A plan changes nothing; repeating touches no row. No two of them have the same vendor and number.
func (b *Billing) ImportInvoices(ctx context.Context, invoices []Invoice, planOnly bool) (changes []InvoiceChange, err error) {
	err = b.change(ctx, "invoice", planOnly, func(tx pgx.Tx, now time.Time) error {
		for _, invoice := range invoices {
			id, was, err := currentInvoice(ctx, tx, invoice.Vendor, invoice.Number)
			if err != nil {
				return err
			}
			change := compareInvoices(was, invoice)
			changes = append(changes, change)
			if change.What == "unchanged" {
				continue
			}
			if change.What == "changed" {
				if err := endInvoice(ctx, tx, id, now); err != nil {
					return err
				}
			}
			if err := insertInvoice(ctx, tx, invoice, now); err != nil {
				return fmt.Errorf("invoice %s: %w", invoice.Number, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("import invoices: %w", err)
	}
	return changes, nil
}

// Withdrawal is what became of an invoice that was withdrawn.
type Withdrawal struct {
	Invoice Invoice // the version that held; the zero value when it had been withdrawn before
	By      string  // the person
	Reason  string
	At      time.Time // business clock
}

// ErrNoInvoice is the withdrawal of an invoice that was never imported.
var ErrNoInvoice = errors.New("no such invoice was imported")

// WithdrawInvoice takes back an invoice that was imported by mistake: it counts no more, and stays as a former
// version with who took it back and why. What was known before then stays so. Imported again it is a new version.
// A plan changes nothing. One that is withdrawn already stays as it is, and it says by whom; one that was never
// imported is ErrNoInvoice.
func (b *Billing) WithdrawInvoice(ctx context.Context, vendor, number, by, reason string, planOnly bool) (w Withdrawal, err error) {
	err = b.change(ctx, "invoice", planOnly, func(tx pgx.Tx, now time.Time) error {
		id, was, err := currentInvoice(ctx, tx, vendor, number)
		if err != nil {
			return err
		}
		if was.Number == "" {
			err := tx.QueryRow(ctx, `
				select w.withdrawn_by, w.reason, w.known_since
				from billing.invoice_withdrawal as w
				join billing.invoice as i using (invoice_id)
				where i.vendor = $1 and i.number = $2
				order by i.invoice_id desc
				limit 1`, vendor, number).Scan(&w.By, &w.Reason, &w.At)
			if errors.Is(err, pgx.ErrNoRows) {
				return ErrNoInvoice
			}
			return err
		}
		w = Withdrawal{Invoice: was, By: by, Reason: reason, At: now}
		if err := endInvoice(ctx, tx, id, now); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `insert into billing.invoice_withdrawal (invoice_id, withdrawn_by, reason, known_since) values ($1, $2, $3, $4)`, id, by, reason, now)
		return err
	})
	if err != nil {
		return Withdrawal{}, fmt.Errorf("withdraw invoice %s of %s: %w", number, vendor, err)
	}
	return w, nil
}

// endInvoice ends a version with its lines.
func endInvoice(ctx context.Context, tx pgx.Tx, id int64, now time.Time) error {
	if _, err := tx.Exec(ctx, `update billing.invoice_line set superseded_at = $2 where invoice_id = $1`, id, now); err != nil {
		return err
	}
	return supersede(ctx, tx, "invoice", "invoice_id", []int64{id}, now)
}

// compareInvoices says line by line what is new.
func compareInvoices(was, is Invoice) (c InvoiceChange) {
	c.Change = Change[Invoice]{What: "unchanged", Was: was, Is: is}
	switch {
	case was.Number == "":
		c.What = "added"
	case was.Date != is.Date || was.Currency != is.Currency:
		c.What = "changed"
	}
	lines := map[int]Change[InvoiceLine]{}
	for _, l := range was.Lines {
		lines[l.Number] = Change[InvoiceLine]{What: "removed", Was: l}
	}
	for _, l := range is.Lines {
		former, stored := lines[l.Number]
		switch {
		case !stored:
			lines[l.Number] = Change[InvoiceLine]{What: "added", Is: l}
		case former.Was.says(l):
			lines[l.Number] = Change[InvoiceLine]{"unchanged", former.Was, l}
		default:
			lines[l.Number] = Change[InvoiceLine]{"changed", former.Was, l}
		}
	}
	for _, l := range lines {
		if c.Lines = append(c.Lines, l); l.What != "unchanged" && c.What == "unchanged" {
			c.What = "changed"
		}
	}
	slices.SortFunc(c.Lines, func(a, b Change[InvoiceLine]) int {
		return cmp.Compare(max(a.Was.Number, a.Is.Number), max(b.Was.Number, b.Is.Number))
	})
	return c
}

// currentInvoice is the stored version; one without a number when there is none.
func currentInvoice(ctx context.Context, tx pgx.Tx, vendor, number string) (id int64, i Invoice, err error) {
	rows, err := tx.Query(ctx, `
		select i.invoice_id, i.vendor, i.number, i.invoice_date, i.currency, `+invoiceLineColumns+`
		from billing.invoice as i
		join billing.invoice_line as l using (invoice_id)
		where i.vendor = $1 and i.number = $2 and i.superseded_at is null
		order by l.line_number`, vendor, number)
	if err != nil {
		return 0, i, err
	}
	found, err := pgx.CollectRows(rows, scanInvoiceLine)
	if err != nil || len(found) == 0 {
		return 0, i, err
	}
	i = found[0].Invoice
	for _, f := range found {
		i.Lines = append(i.Lines, f.line)
	}
	return found[0].id, i, nil
}

const invoiceLineColumns = `l.line_number, l.account, l.customer_id, l.subscription_number, l.item, l.charge, l.period_start, l.period_end,
	l.quantity::text, l.unit_price::text, l.amount::text, l.line_text, l.source`

// invoicedLine is a line with the invoice that it is of.
type invoicedLine struct {
	Invoice
	id   int64
	line InvoiceLine
}

func scanInvoiceLine(row pgx.CollectableRow) (f invoicedLine, err error) {
	var date, start, end time.Time
	var quantity, price *string
	var amount string
	l := &f.line
	if err := row.Scan(&f.id, &f.Vendor, &f.Invoice.Number, &date, &f.Currency, &l.Number, &l.Account, &l.CustomerID, &l.SubscriptionNumber, &l.Item, &l.Charge,
		&start, &end, &quantity, &price, &amount, &l.Text, &l.Source); err != nil {
		return f, err
	}
	f.Date, l.PeriodStart, l.PeriodEnd = etl.DayOf(date), etl.DayOf(start), etl.DayOf(end)
	if l.Amount, err = decimal.NewFromString(amount); err != nil {
		return f, err
	}
	return f, exact(map[*decimal.NullDecimal]*string{&l.Quantity: quantity, &l.UnitPrice: price})
}

func insertInvoice(ctx context.Context, tx pgx.Tx, i Invoice, now time.Time) error {
	var id int64
	if err := tx.QueryRow(ctx, `insert into billing.invoice (vendor, number, invoice_date, currency, known_since) values ($1, $2, $3, $4, $5) returning invoice_id`,
		i.Vendor, i.Number, i.Date.Time(), i.Currency, now).Scan(&id); err != nil {
		return err
	}
	text := func(d decimal.NullDecimal) *string {
		if !d.Valid {
			return nil
		}
		s := printed(d.Decimal)
		return &s
	}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"billing", "invoice_line"},
		[]string{"invoice_id", "line_number", "account", "customer_id", "subscription_number", "item", "charge", "period_start", "period_end",
			"quantity", "unit_price", "amount", "line_text", "source", "known_since"},
		pgx.CopyFromSlice(len(i.Lines), func(n int) ([]any, error) {
			l := i.Lines[n]
			return []any{id, l.Number, l.Account, l.CustomerID, l.SubscriptionNumber, l.Item, l.Charge, l.PeriodStart.Time(), l.PeriodEnd.Time(),
				text(l.Quantity), text(l.UnitPrice), printed(l.Amount), l.Text, l.Source, now}, nil
		}))
	return err
}

// printed are the digits that a number came with, zeros at its end too.
func printed(d decimal.Decimal) string { return d.StringFixed(max(0, -d.Exponent())) }

// invoiced are the lines of all invoices whose period ends in a month, as they were known at an instant.
func invoiced(ctx context.Context, tx pgx.Tx, period Period, asOf time.Time) ([]invoicedLine, error) {
	rows, err := tx.Query(ctx, `
		select i.invoice_id, i.vendor, i.number, i.invoice_date, i.currency, `+invoiceLineColumns+`
		from billing.invoice as i
		join billing.invoice_line as l using (invoice_id)
		where l.period_end between $1 and $2 and i.known_since <= $3::text::timestamptz and (i.superseded_at is null or i.superseded_at > $3::text::timestamptz)
		order by i.vendor, i.number, l.line_number`, period.First().Time(), period.Last().Time(), instant(asOf))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanInvoiceLine)
}
