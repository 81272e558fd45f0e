package billing

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"meterhouse/etl"
)

// Charges are what a vendor's prices are for.
var Charges = map[string][]string{
	"keystone": {"committed", "burst"},
	"wolkvox":  {"license", "usage"},
}

// ProductRules are the ways in which the readings of a wolkvox gauge become the quantity of a month.
var ProductRules = []string{"max", "last", "average"}

// RateKey says what a price is for. An empty account, customer, subscription or item is any; the most
// specific price counts.
type RateKey struct {
	Vendor             string
	Account            string
	CustomerID         string
	SubscriptionNumber string
	Item               string // service level or product
	Charge             string // one of the vendor's Charges
	IsWaiver           bool   // burst of the first 60 days of a subscription
}

// Rate is the price of one unit on some days.
type Rate struct {
	RateKey
	UnitPrice etl.Decimal
	Currency  string // ISO 4217
	ValidFrom etl.Day
	ValidTo   *etl.Day // last day; nil: no end
	Source    string   // file and line
}

// Overlaps tells whether both hold on some day.
func (r Rate) Overlaps(other Rate) bool {
	return (r.ValidTo == nil || other.ValidFrom <= *r.ValidTo) && (other.ValidTo == nil || r.ValidFrom <= *other.ValidTo)
}

// Days are those on which it holds, in words.
func (r Rate) Days() string {
	if r.ValidTo == nil {
		return "from " + r.ValidFrom.String() + " on"
	}
	return r.ValidFrom.String() + " to " + r.ValidTo.String()
}

// ImportRates brings the rate card to the given rates, which do not overlap each other. A rate replaces
// the stored one for the same that begins on the same day. Other stored rates stay, and are a
// ConflictError where they overlap a given one, unless replace says that the given ones are all. It
// returns what becomes of each given rate, in their order, and then the removed ones. A plan changes
// nothing; repeating touches no row.
func (b *Billing) ImportRates(ctx context.Context, rates []Rate, replace, planOnly bool) (changes []Change[Rate], err error) {
	changes, err = rateCard.bring(ctx, b, rates, planOnly, func(Rate) bool { return replace }, conflictsOf)
	if err != nil {
		return nil, fmt.Errorf("import rates: %w", err)
	}
	return changes, nil
}

// conflictsOf finds the rates that overlap stored ones which stay.
func conflictsOf(rates, kept []Rate) error {
	others := map[RateKey][]Rate{}
	for _, s := range kept {
		others[s.RateKey] = append(others[s.RateKey], s)
	}
	var conflicts ConflictError
	for i, r := range rates {
		for _, s := range others[r.RateKey] {
			if r.Overlaps(s) {
				conflicts = append(conflicts, Conflict{i, fmt.Sprintf(
					"%s: the stored price %s %s %s (%s) is for the same: want that row in the file too, with a valid_to before, or --replace when the file is the whole card",
					r.Days(), s.UnitPrice, s.Currency, s.Days(), s.Source)})
			}
		}
	}
	if conflicts != nil {
		return conflicts
	}
	return nil
}

// becomes says what happens to a stored rate when a file has another for the same from the same day on.
func becomes(was, is Rate) string {
	samePrice := was.UnitPrice.Equal(is.UnitPrice) && was.Currency == is.Currency
	sameEnd := was.ValidTo == nil && is.ValidTo == nil || was.ValidTo != nil && is.ValidTo != nil && *was.ValidTo == *is.ValidTo
	switch {
	case samePrice && sameEnd:
		return "unchanged"
	case samePrice && is.ValidTo != nil && (was.ValidTo == nil || *is.ValidTo < *was.ValidTo):
		return "ended"
	}
	return "changed"
}

type ratePlace struct {
	RateKey
	from etl.Day
}

var rateCard = imported[Rate, ratePlace]{
	table: "rate",
	columns: []string{"vendor", "account", "customer_id", "subscription_number", "item", "charge", "is_waiver",
		"unit_price", "currency", "valid_from", "valid_to", "source"},
	order: "vendor, account, customer_id, subscription_number, item, charge, is_waiver, valid_from",
	scan: func(row pgx.CollectableRow, id *int64) (r Rate, err error) {
		var price pgtype.Numeric
		var from time.Time
		var to *time.Time
		if err = row.Scan(id, &r.Vendor, &r.Account, &r.CustomerID, &r.SubscriptionNumber, &r.Item, &r.Charge, &r.IsWaiver,
			&price, &r.Currency, &from, &to, &r.Source); err != nil {
			return r, err
		}
		r.ValidFrom, r.ValidTo = etl.DayOf(from), dayOf(to)
		digits, err := price.Value()
		if err != nil {
			return r, err
		}
		return r, r.UnitPrice.UnmarshalText([]byte(digits.(string)))
	},
	values: func(r Rate) []any {
		var to *time.Time
		if r.ValidTo != nil {
			end := r.ValidTo.Time()
			to = &end
		}
		return []any{r.Vendor, r.Account, r.CustomerID, r.SubscriptionNumber, r.Item, r.Charge, r.IsWaiver,
			r.UnitPrice.String(), r.Currency, r.ValidFrom.Time(), to, r.Source}
	},
	place:   func(r Rate) ratePlace { return ratePlace{r.RateKey, r.ValidFrom} },
	becomes: becomes,
}

// SetProductRule records how a month of a wolkvox gauge becomes a quantity, and returns the rule that
// held before. It writes nothing when that is the same.
func (b *Billing) SetProductRule(ctx context.Context, product, rule, reason string) (was string, err error) {
	if !slices.Contains(ProductRules, rule) {
		return "", fmt.Errorf("rule %q: want one of %v", rule, ProductRules)
	}
	err = b.change(ctx, "product_rule", false, func(tx pgx.Tx, now time.Time) error {
		rows, err := tx.Query(ctx, `select rule from billing.product_rule where product = $1 and superseded_at is null`, product)
		if err != nil {
			return err
		}
		decided, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		if was = "max"; len(decided) > 0 {
			was = decided[0]
		}
		if was == rule && len(decided) > 0 {
			return nil
		}
		if _, err := tx.Exec(ctx, `update billing.product_rule set superseded_at = $2 where product = $1 and superseded_at is null`, product, now); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `insert into billing.product_rule (product, rule, reason, known_since) values ($1, $2, $3, $4)`, product, rule, reason, now)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("rule of %s: %w", product, err)
	}
	return was, nil
}

// Names are those that loads have met: what a file of finance names is probably among them.
type Names struct {
	Accounts      []string
	Customers     []string
	Subscriptions map[string][]string // customers by subscription number
	Levels        []string
	Unclassified  []string // levels that are never totalled, and priced by name only
	Products      []string
}

// Names asks the dimensions.
func (b *Billing) Names(ctx context.Context) (n Names, err error) {
	rows, err := b.pool.Query(ctx, `
		select distinct 'account', account, '' from dw.dim_customer
		union select 'account', account, '' from dw.dim_operation
		union select 'customer', customer_id, '' from dw.dim_customer
		union select 'subscription', s.subscription_number, c.customer_id from dw.dim_subscription as s join dw.dim_customer as c using (customer_key)
		union select 'level', service_level, level_class from dw.dim_service_level
		union select 'product', api, '' from dw.dim_product
		order by 1, 2, 3`)
	if err != nil {
		return n, fmt.Errorf("names: %w", err)
	}
	n.Subscriptions = map[string][]string{}
	var kind, name, of string
	_, err = pgx.ForEachRow(rows, []any{&kind, &name, &of}, func() error {
		switch kind {
		case "account":
			n.Accounts = append(n.Accounts, name)
		case "customer":
			n.Customers = append(n.Customers, name)
		case "subscription":
			n.Subscriptions[name] = append(n.Subscriptions[name], of)
		case "level":
			n.Levels = append(n.Levels, name)
			if of == "unclassified" {
				n.Unclassified = append(n.Unclassified, name)
			}
		case "product":
			n.Products = append(n.Products, name)
		}
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("names: %w", err)
	}
	return n, nil
}
