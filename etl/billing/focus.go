package billing

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"meterhouse/etl"
)

// FOCUSVersion is the version of the FinOps Open Cost and Usage Specification that FOCUS follows.
const FOCUSVersion = "1.2"

// FOCUS is a month as a Cost and Usage dataset of FOCUSVersion. docs/focus.md says where each column
// comes from. One row is one priced line of the statement, or one adjustment of a closed month: a line is
// rounded once, so its days could not add up to it.
type FOCUS struct {
	Period      Period
	IsClosed    bool          // the rows are frozen ones
	Rows        [][]string    // by FOCUSColumns; an empty cell is null
	Totals      []Total       // of BilledCost
	Provisional int           // rows that may change
	Omitted     []OmittedLine // what has no row, since a cost that nobody knows is not zero
}

// OmittedLine is a line of the statement, or an adjustment, without an amount.
type OmittedLine struct {
	Source             string
	CustomerID         string // empty for wolkvox
	Account            string
	SubscriptionNumber string // empty for wolkvox
	Discriminator      string
	Item               string
	Description        string
	Charge             string
	IsWaiver           bool
	AdjustsPeriod      string  // empty for a line of the statement
	First              etl.Day // of the charge
	Last               etl.Day // inclusive
	Quantity           decimal.NullDecimal
	Unit               string
	Reason             string
}

// FOCUSColumn is a column of the dataset.
type FOCUSColumn struct {
	Name string
	Type string // STRING, DECIMAL, DATETIME or JSON, and INTEGER where it is ours

	value func(focusCharge) string // empty is null
}

// FOCUSColumns are the columns in their order: those of the specification, then ours.
func FOCUSColumns() []FOCUSColumn { return focusColumns }

// FOCUSSchemaID names the columns and their types, as a GUID: another structure has another one.
func FOCUSSchemaID() string {
	h := sha256.New()
	fmt.Fprintln(h, FOCUSVersion)
	for _, c := range focusColumns {
		fmt.Fprintln(h, c.Name, c.Type)
	}
	id := h.Sum(nil)[:16]
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // RFC 9562, version 8
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// focusCharge is one row before it is spelled.
type focusCharge struct {
	OmittedLine
	isCorrection             bool
	link, lineNo             *int64 // where it is frozen
	billingStart, billingEnd *time.Time
	chargeStart, chargeEnd   *time.Time // the end is exclusive
	customerName, operation  string
	unitPrice, amount        decimal.NullDecimal
	currency, state          string
	expected, observed       *int64
	estimated, rate          *int64
	levelClass, note, why    string
	knownSince               *time.Time
	issuer                   string
	period                   string
}

// focusVendor is what the specification wants to know of a vendor.
type focusVendor struct{ provider, service, category, subcategory string }

var focusVendors = map[string]focusVendor{
	"keystone": {"NetApp", "Keystone", "Storage", "Storage Platforms"},
	"wolkvox":  {"wolkvox", "wolkvox Contact Center", "Business Applications", "Other (Business Applications)"},
}

// focusKind is how a charge comes about.
type focusKind struct{ category, frequency, meter string }

var focusKinds = map[string]focusKind{
	"committed": {"Purchase", "Recurring", "Committed capacity"},
	"burst":     {"Usage", "Usage-Based", "Accrued burst"},
	"license":   {"Purchase", "Recurring", "Licences"},
	"usage":     {"Usage", "Usage-Based", "Consumption"},
}

var focusColumns = []FOCUSColumn{
	{"BilledCost", "DECIMAL", func(c focusCharge) string { return focusDecimal(c.amount) }},
	{"BillingAccountId", "STRING", focusCharge.billingAccount},
	{"BillingAccountName", "STRING", focusCharge.billingAccountName},
	{"BillingCurrency", "STRING", func(c focusCharge) string { return c.currency }},
	{"BillingPeriodEnd", "DATETIME", func(c focusCharge) string { return focusTime(c.billingEnd) }},
	{"BillingPeriodStart", "DATETIME", func(c focusCharge) string { return focusTime(c.billingStart) }},
	{"ChargeCategory", "STRING", func(c focusCharge) string { return focusKinds[c.Charge].category }},
	{"ChargeClass", "STRING", func(c focusCharge) string { return when(c.isCorrection, "Correction") }},
	{"ChargeDescription", "STRING", focusCharge.chargeDescription},
	{"ChargeFrequency", "STRING", func(c focusCharge) string { return focusKinds[c.Charge].frequency }},
	{"ChargePeriodEnd", "DATETIME", func(c focusCharge) string { return focusTime(c.chargeEnd) }},
	{"ChargePeriodStart", "DATETIME", func(c focusCharge) string { return focusTime(c.chargeStart) }},
	{"CommitmentDiscountCategory", "STRING", null}, // what was committed has a price, and discounts nothing
	{"CommitmentDiscountId", "STRING", null},
	{"CommitmentDiscountName", "STRING", null},
	{"CommitmentDiscountQuantity", "DECIMAL", null},
	{"CommitmentDiscountStatus", "STRING", null},
	{"CommitmentDiscountType", "STRING", null},
	{"CommitmentDiscountUnit", "STRING", null},
	{"ConsumedQuantity", "DECIMAL", func(c focusCharge) string { return when(c.isUsage(), focusDecimal(c.Quantity)) }},
	{"ConsumedUnit", "STRING", func(c focusCharge) string { return when(c.isUsage(), c.unit()) }},
	{"ContractedCost", "DECIMAL", focusCharge.contractedCost},
	{"ContractedUnitPrice", "DECIMAL", func(c focusCharge) string { return focusDecimal(c.unitPrice) }},
	{"EffectiveCost", "DECIMAL", func(c focusCharge) string { return focusDecimal(c.amount) }},
	{"InvoiceId", "STRING", null}, // invoices are compared with the statement, not made from it
	{"InvoiceIssuerName", "STRING", func(c focusCharge) string { return c.issuer }},
	{"ListCost", "DECIMAL", func(c focusCharge) string { return focusDecimal(c.amount) }},
	{"PricingCategory", "STRING", func(focusCharge) string { return "Standard" }},
	{"PricingQuantity", "DECIMAL", func(c focusCharge) string { return focusDecimal(c.Quantity) }},
	{"PricingUnit", "STRING", focusCharge.unit},
	{"ProviderName", "STRING", func(c focusCharge) string { return focusVendors[c.Source].provider }},
	{"PublisherName", "STRING", func(c focusCharge) string { return focusVendors[c.Source].provider }},
	{"RegionId", "STRING", null}, // neither vendor says
	{"RegionName", "STRING", null},
	{"ResourceId", "STRING", focusCharge.resource},
	{"ResourceName", "STRING", func(c focusCharge) string { return when(c.isKeystone(), c.Item) }},
	{"ResourceType", "STRING", func(c focusCharge) string { return when(c.isKeystone(), "Service Level") }},
	{"ServiceCategory", "STRING", func(c focusCharge) string { return focusVendors[c.Source].category }},
	{"ServiceName", "STRING", func(c focusCharge) string { return focusVendors[c.Source].service }},
	{"ServiceSubcategory", "STRING", func(c focusCharge) string { return focusVendors[c.Source].subcategory }},
	{"SkuId", "STRING", focusCharge.sku},
	{"SkuMeter", "STRING", func(c focusCharge) string { return focusKinds[c.Charge].meter }},
	{"SkuPriceDetails", "JSON", focusCharge.skuPriceDetails},
	{"SkuPriceId", "STRING", func(c focusCharge) string { return c.sku() + when(c.IsWaiver, "/waiver") }},
	{"SubAccountId", "STRING", focusCharge.subAccount},
	{"SubAccountName", "STRING", focusCharge.subAccount},
	{"Tags", "JSON", null}, // neither vendor has any

	{"x_Account", "STRING", func(c focusCharge) string { return c.Account }},
	{"x_AdjustmentReason", "STRING", func(c focusCharge) string { return c.why }},
	{"x_AdjustsPeriod", "STRING", func(c focusCharge) string { return c.AdjustsPeriod }},
	{"x_Charge", "STRING", func(c focusCharge) string { return c.Charge }},
	{"x_CloseLink", "INTEGER", func(c focusCharge) string { return focusInteger(c.link) }},
	{"x_DaysEstimated", "INTEGER", func(c focusCharge) string { return focusInteger(c.estimated) }},
	{"x_DaysExpected", "INTEGER", func(c focusCharge) string { return focusInteger(c.expected) }},
	{"x_DaysObserved", "INTEGER", func(c focusCharge) string { return focusInteger(c.observed) }},
	{"x_Description", "STRING", func(c focusCharge) string { return c.Description }},
	{"x_IsWaiver", "STRING", func(c focusCharge) string { return strconv.FormatBool(c.IsWaiver) }},
	{"x_Item", "STRING", func(c focusCharge) string { return c.Item }},
	{"x_KnownSince", "DATETIME", func(c focusCharge) string { return focusTime(c.knownSince) }},
	{"x_LevelClass", "STRING", func(c focusCharge) string { return c.levelClass }},
	{"x_LineNumber", "INTEGER", func(c focusCharge) string { return focusInteger(c.lineNo) }},
	{"x_Note", "STRING", func(c focusCharge) string { return c.note }},
	{"x_Period", "STRING", func(c focusCharge) string { return c.period }},
	{"x_RateId", "INTEGER", func(c focusCharge) string { return focusInteger(c.rate) }},
	{"x_State", "STRING", func(c focusCharge) string { return c.state }},
}

func null(focusCharge) string { return "" }

func (c focusCharge) isKeystone() bool { return c.Source == "keystone" }
func (c focusCharge) isUsage() bool    { return focusKinds[c.Charge].category == "Usage" }

func (c focusCharge) billingAccount() string {
	if c.isKeystone() {
		return c.CustomerID
	}
	return c.operation
}

func (c focusCharge) billingAccountName() string {
	if c.isKeystone() {
		return c.customerName
	}
	return c.Discriminator
}

func (c focusCharge) subAccount() string {
	if !c.isKeystone() {
		return ""
	}
	return strings.TrimSpace(c.SubscriptionNumber + " " + c.Discriminator)
}

// resource is the service level of a subscription. What wolkvox counts belongs to no single resource.
func (c focusCharge) resource() string {
	if !c.isKeystone() {
		return ""
	}
	return c.CustomerID + "/" + c.subAccount() + "/" + c.Item
}

// sku is the same for every customer, contract and price: those are no part of it by the specification.
func (c focusCharge) sku() string { return c.Source + "/" + c.Item + "/" + c.Charge }

// skuPriceDetails names the service level by the property that the specification has for tiers of storage.
func (c focusCharge) skuPriceDetails() string {
	if !c.isKeystone() {
		return ""
	}
	text, _ := json.Marshal(map[string]string{"StorageClass": c.Item}) // a string always can be
	return string(text)
}

// unit is spelled as the specification has units.
func (c focusCharge) unit() string {
	switch c.Unit {
	case "TiB-month":
		return "TiB-Months"
	case "", "unknown":
		return "Units"
	}
	first, size := utf8.DecodeRuneInString(c.Unit)
	return string(unicode.ToUpper(first)) + c.Unit[size:]
}

// contractedCost is the product that the specification wants, which is not rounded. A correction has no
// one price.
func (c focusCharge) contractedCost() string {
	if !c.unitPrice.Valid {
		return focusDecimal(c.amount)
	}
	product := c.unitPrice.Decimal.Mul(c.Quantity.Decimal).String() // without zeros at its end
	return product + when(!strings.Contains(product, "."), ".0")
}

func (c focusCharge) chargeDescription() string {
	text := focusKinds[c.Charge].meter + " of " + c.Item
	switch {
	case c.isKeystone():
		text += ", subscription " + c.subAccount()
	case c.Description != "":
		text += ": " + c.Description
	}
	if c.IsWaiver {
		text += ", in the waiver of its first 60 days"
	}
	if c.isCorrection {
		text += ": adjustment of " + c.First.String() + ", " + strings.ReplaceAll(c.why, "_", " ")
	}
	return text
}

// FOCUS is what a month comes to now, of one snapshot: its statement, and the adjustments that are billed in
// it. issuers are the names of who invoices, by vendor; without one it is the vendor itself. The same rows
// come in the same order each time, from a closed month for ever.
func (b *Billing) FOCUS(ctx context.Context, period Period, issuers map[string]string) (FOCUS, error) {
	f := FOCUS{Period: period}
	err := b.read(ctx, func(tx pgx.Tx) error {
		// The planner takes what the functions return for much; to compile for it took longer than all the rest.
		if err := tx.QueryRow(ctx, `select billing.closed_link($1) is not null from set_config('jit', 'off', true)`, period.String()).Scan(&f.IsClosed); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, focusCharges, period.String())
		if err != nil {
			return err
		}
		charges, err := pgx.CollectRows(rows, scanFOCUSCharge)
		if err != nil {
			return err
		}
		var priced []Line
		for _, c := range charges {
			if c.billingStart == nil {
				return fmt.Errorf("operation %q of account %q is unknown: its zone is wanted to tell when its days begin", c.Discriminator, c.Account)
			}
			if !c.amount.Valid {
				f.Omitted = append(f.Omitted, c.OmittedLine)
				continue
			}
			c.period = period.String()
			if c.issuer = issuers[c.Source]; c.issuer == "" {
				c.issuer = focusVendors[c.Source].provider
			}
			row := make([]string, len(focusColumns))
			for i, column := range focusColumns {
				row[i] = column.value(c)
			}
			f.Rows = append(f.Rows, row)
			priced = append(priced, Line{Amount: c.amount, Currency: c.currency, State: c.state})
			if c.state == "provisional" {
				f.Provisional++
			}
		}
		f.Totals = Statement{Lines: priced}.Totals()
		return nil
	})
	if err != nil {
		return FOCUS{}, fmt.Errorf("FOCUS of %s: %w", period, err)
	}
	return f, nil
}

func scanFOCUSCharge(row pgx.CollectableRow) (c focusCharge, err error) {
	var first, last time.Time
	var quantity, price, amount *string
	if err := row.Scan(&c.isCorrection, &c.link, &c.lineNo, &c.Source, &c.CustomerID, &c.Account, &c.SubscriptionNumber, &c.Discriminator, &c.Item, &c.Description, &c.Charge,
		&c.IsWaiver, &first, &last, &quantity, &c.Unit, &price, &amount, &c.currency, &c.state, &c.expected, &c.observed, &c.estimated, &c.levelClass, &c.rate, &c.note,
		&c.AdjustsPeriod, &c.why, &c.knownSince, &c.customerName, &c.operation, &c.billingStart, &c.billingEnd, &c.chargeStart, &c.chargeEnd); err != nil {
		return c, err
	}
	c.First, c.Last = etl.DayOf(first), etl.DayOf(last)
	if err := exact(map[*decimal.NullDecimal]*string{&c.Quantity: quantity, &c.unitPrice: price, &c.amount: amount}); err != nil || c.amount.Valid {
		return c, err
	}
	c.Reason = "no rate"
	if c.unitPrice.Valid {
		c.Reason = "no day of its quantity is known"
	}
	return c, nil
}

// focusDecimal are the digits of a number, one behind the point at least: programs that infer types from a month
// of whole numbers shall find decimals too. Nothing when it is unknown.
func focusDecimal(d decimal.NullDecimal) string {
	if !d.Valid {
		return ""
	}
	return d.Decimal.StringFixed(max(1, -d.Decimal.Exponent()))
}

func focusInteger(n *int64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatInt(*n, 10)
}

func when(is bool, text string) string {
	if !is {
		return ""
	}
	return text
}

// focusTime is UTC to the second, as the specification has times.
func focusTime(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

// A closed month comes from its frozen rows, with their numbers; an open one from what is computed.
// Adjustments are billed in the calendar month. Days become instants by the zone that they are counted in.
const focusCharges = `
	with frozen as (select billing.closed_link($1) as link),

	month as (select ($1 || '-01')::date as first, (($1 || '-01')::date + interval '1 month')::date - 1 as last),

	charge as (
		select
			l.kind = 'adjustment' as is_correction, l.link, l.line_no::bigint, l.source, l.customer_id, l.account, l.subscription_number, l.discriminator, l.item, l.description,
			l.charge, l.is_waiver, coalesce(l.usage_date, l.segment_from) as first, coalesce(l.usage_date, l.segment_to) as last,
			case l.kind when 'adjustment' then m.first else l.period_start end as period_start, case l.kind when 'adjustment' then m.last else l.period_end end as period_end,
			l.quantity, l.unit, l.unit_price, l.amount, l.currency, 'closed' as state, l.days_expected, l.days_observed, l.days_estimated, l.level_class, l.rate_id, l.note,
			l.adjusts_period, l.reason, l.known_since
		from billing.closed_line as l
		join frozen using (link)
		cross join month as m

		union all

		select
			false, null, null, s.source, s.customer_id, s.account, s.subscription_number, s.discriminator, s.item, s.description,
			s.charge, s.is_waiver, s.segment_from, s.segment_to, s.period_start, s.period_end,
			s.quantity, s.unit, s.unit_price, s.amount, s.currency, s.state, s.days_expected, s.days_observed, s.days_estimated, s.level_class, s.rate_id, s.note,
			null, null, null
		from billing.statement($1, 'infinity') as s
		where (select link from frozen) is null

		union all

		select
			true, null, null, a.source, a.customer_id, a.account, a.subscription_number, a.discriminator, a.item, a.description,
			a.charge, a.is_waiver, a.usage_date, a.usage_date, m.first, m.last,
			a.quantity, a.unit, null, a.amount, a.currency, 'provisional', null, null, null, null, null, null,
			a.adjusts_period, a.reason, a.known_since
		from mart.adjustment as a
		cross join month as m
		where a.period = $1 and (select link from frozen) is null
	)

	select
		c.is_correction, c.link, c.line_no, c.source, c.customer_id, c.account, c.subscription_number, c.discriminator, c.item, c.description, c.charge,
		c.is_waiver, c.first, c.last, c.quantity::text, c.unit, c.unit_price::text, c.amount::text, coalesce(c.currency, ''), c.state, c.days_expected::bigint,
		c.days_observed::bigint, c.days_estimated::bigint, coalesce(c.level_class, ''), c.rate_id, coalesce(c.note, ''),
		coalesce(c.adjusts_period, ''), coalesce(c.reason, ''), c.known_since, coalesce(k.customer_name, ''), coalesce(o.server || '/' || o.operation, ''),
		c.period_start::timestamp at time zone z.name, (c.period_end + 1)::timestamp at time zone z.name,
		c.first::timestamp at time zone z.name, (c.last + 1)::timestamp at time zone z.name
	from charge as c
	left join dw.dim_customer as k on c.source = 'keystone' and k.customer_id = c.customer_id
	left join dw.dim_operation as o on c.source = 'wolkvox' and o.account = c.account and o.operation = c.discriminator
	cross join lateral (select case c.source when 'keystone' then 'UTC' else o.zone end as name) as z
	order by
		c.is_correction, c.source collate "C", c.account collate "C", c.customer_id collate "C", c.subscription_number collate "C", c.discriminator collate "C",
		c.item collate "C", c.description collate "C", c.charge collate "C" desc, c.is_waiver desc, c.period_start, c.adjusts_period collate "C", c.first, c.currency collate "C", c.rate_id`
