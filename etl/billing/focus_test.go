package billing

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/shopspring/decimal"
)

// focusSpecification is FOCUS 1.2 as its text has the columns that we write: feature level, whether nulls
// are allowed, data type, value format and allowed values.
const focusSpecification = `
BilledCost                 | Mandatory   | no  | Decimal   | Numeric
BillingAccountId           | Mandatory   | no  | String
BillingAccountName         | Mandatory   | yes | String
BillingCurrency            | Mandatory   | no  | String    | Currency
BillingPeriodEnd           | Mandatory   | no  | Date/Time | Date/Time
BillingPeriodStart         | Mandatory   | no  | Date/Time | Date/Time
ChargeCategory             | Mandatory   | no  | String    | Allowed values | Usage, Purchase, Tax, Credit, Adjustment
ChargeClass                | Mandatory   | yes | String    | Allowed values | Correction
ChargeDescription          | Mandatory   | yes | String
ChargeFrequency            | Recommended | no  | String    | Allowed values | One-Time, Recurring, Usage-Based
ChargePeriodEnd            | Mandatory   | no  | Date/Time | Date/Time
ChargePeriodStart          | Mandatory   | no  | Date/Time | Date/Time
CommitmentDiscountCategory | Conditional | yes | String    | Allowed values | Spend, Usage
CommitmentDiscountId       | Conditional | yes | String
CommitmentDiscountName     | Conditional | yes | String
CommitmentDiscountQuantity | Conditional | yes | Decimal   | Numeric
CommitmentDiscountStatus   | Conditional | yes | String    | Allowed values | Used, Unused
CommitmentDiscountType     | Conditional | yes | String
CommitmentDiscountUnit     | Conditional | yes | String    | Unit
ConsumedQuantity           | Conditional | yes | Decimal   | Numeric
ConsumedUnit               | Conditional | yes | String    | Unit
ContractedCost             | Mandatory   | no  | Decimal   | Numeric
ContractedUnitPrice        | Conditional | yes | Decimal   | Numeric
EffectiveCost              | Mandatory   | no  | Decimal   | Numeric
InvoiceId                  | Recommended | yes | String
InvoiceIssuerName          | Mandatory   | no  | String
ListCost                   | Mandatory   | no  | Decimal   | Numeric
PricingCategory            | Conditional | yes | String    | Allowed values | Standard, Dynamic, Committed, Other
PricingQuantity            | Mandatory   | yes | Decimal   | Numeric
PricingUnit                | Mandatory   | yes | String    | Unit
ProviderName               | Mandatory   | no  | String
PublisherName              | Mandatory   | no  | String
RegionId                   | Conditional | yes | String
RegionName                 | Conditional | yes | String
ResourceId                 | Conditional | yes | String
ResourceName               | Conditional | yes | String
ResourceType               | Conditional | yes | String
ServiceCategory            | Mandatory   | no  | String    | Allowed values | AI and Machine Learning, Analytics, Business Applications, Compute, Databases, Developer Tools, Multicloud, Identity, Integration, Internet of Things, Management and Governance, Media, Migration, Mobile, Networking, Security, Storage, Web, Other
ServiceName                | Mandatory   | no  | String
ServiceSubcategory         | Recommended | no  | String    | Allowed values | Productivity and Collaboration, Other (Business Applications), Backup Storage, Block Storage, File Storage, Object Storage, Storage Platforms, Other (Storage)
SkuId                      | Conditional | yes | String
SkuMeter                   | Conditional | yes | String
SkuPriceDetails            | Conditional | yes | JSON      | Key-Value
SkuPriceId                 | Conditional | yes | String
SubAccountId               | Conditional | yes | String
SubAccountName             | Conditional | yes | String
Tags                       | Conditional | yes | JSON      | Key-Value`

// focusMandatory are the columns of every Cost and Usage dataset.
var focusMandatory = strings.Fields(`BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd BillingPeriodStart ChargeCategory ChargeClass ChargeDescription
	ChargePeriodEnd ChargePeriodStart ContractedCost EffectiveCost InvoiceIssuerName ListCost PricingQuantity PricingUnit ProviderName PublisherName ServiceCategory ServiceName`)

var focusFormats = map[string]*regexp.Regexp{
	"Numeric":   regexp.MustCompile(`^-?(0|[1-9][0-9]*)\.[0-9]+$`), // with a point: see focusDecimal
	"Date/Time": regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`),
	"Currency":  regexp.MustCompile(`^[A-Z]{3}$`),
	"Unit":      regexp.MustCompile(`^(TiB-Months|[A-Z][a-z]+s)$`), // <singular>-<plural>, or capitalised plural
}

// focusRow is a row by the names of its columns.
type focusRow map[string]string

func focusRows(f FOCUS) (rows []focusRow) {
	for _, cells := range f.Rows {
		row := focusRow{}
		for i, c := range FOCUSColumns() {
			row[c.Name] = cells[i]
		}
		rows = append(rows, row)
	}
	return rows
}

func (r focusRow) text(columns string) string {
	var cells []string
	for name := range strings.FieldsSeq(columns) {
		cells = append(cells, or(r[name], "-"))
	}
	return strings.Join(cells, " ")
}

func or(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

func (o *office) focus(period string, issuers ...string) FOCUS {
	o.t.Helper()
	names := map[string]string{}
	if len(issuers) > 0 {
		names["keystone"] = issuers[0]
	}
	f, err := o.FOCUS(o.t.Context(), month(period), names)
	if err != nil {
		o.t.Fatal(err)
	}
	return f
}

// exportable is closable with a call centre, a price that changes inside a month, a waiver, yen, a level
// without a price, and February closed and changed since.
func exportable(t *testing.T) *office {
	t.Helper()
	o := closable(t)
	o.exec(`update dw.dim_customer set customer_name = 'Østerlund, Glas & Optik'`)
	o.exec(`update dw.dim_subscription set start_at = '2026-01-20'`) // burst until 20 March is waived
	o.exec(`insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_class) overriding system value values (2, 1, 1, 'Secret', 'unclassified')`)
	o.exec(`insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, invoiced_samples, uninvoiced_samples, digest, known_since, payload_id, run_id)
		select 1, 2, d, 1, 86400, 7, 7, 7, 7, 0, 0, 0, 0, 0, 'd', d + interval '27 hours', 1, 1 from generate_series(timestamp '2026-02-01', timestamp '2026-03-31', interval '1 day') as d`)
	o.exec(`insert into dw.dim_operation (operation_key, account, operation, server, zone, first_seen_at) overriding system value values (1, 'calls', 'OP', '0039', 'America/Bogota', now())`)
	o.exec(`insert into dw.dim_product (product_key, product_number, api, title, unit, kind) overriding system value
		values (1, 1, 'chat_licenses', 'Chat', 'licences', 'gauge'), (2, 2, 'ivr_minutes', 'IVR', 'minutes', 'counter'), (3, 3, 'nlp_ai', 'NLP', 'unknown', 'counter'), (4, 4, 'sms', 'SMS', 'messages', 'counter')`)
	for _, f := range []struct {
		product               int
		description, items    string
		snapshotDay, readTime string
	}{
		{1, "Chat", "10", "2026-03-02", "2026-03-02T15:00:00Z"}, {1, "Chat", "12", "2026-03-31", "2026-04-01T04:50:00Z"},
		{1, "=Chat web", "5", "2026-03-31", "2026-04-01T04:50:00Z"}, {2, "IVR", "900.5", "2026-03-31", "2026-04-01T04:50:00Z"},
		{3, "NLP", "33", "2026-03-31", "2026-04-01T04:50:00Z"}, {4, "SMS", "40", "2026-03-31", "2026-04-01T04:50:00Z"},
	} {
		o.exec(`insert into dw.fact_license_snapshot (operation_key, product_key, description, snapshot_date, items, items_text, items_min, items_max, reading_count, read_at, payload_id, run_id, is_imported, zone)
			values (1, $1, $2, $3::text::date, $4::text::numeric, $4, $4::text::numeric, $4::text::numeric, 1, $5::text::timestamptz, 1, 1, false, 'America/Bogota')`,
			f.product, f.description, f.snapshotDay, f.items, f.readTime)
	}
	o.clock("2026-04-02T12:30:00Z")
	o.price("keystone////Extreme/committed 10.01 USD 2026-01-01 2026-03-10", "keystone////Extreme/committed 1200.5 JPY 2026-03-11", "keystone/////burst/waiver 0 USD 2026-01-01",
		"wolkvox/////license 2.5 USD 2026-01-01", "wolkvox////ivr_minutes/usage 0.013 KWD 2026-01-01", "wolkvox////nlp_ai/usage 1 COP 2026-01-01")
	o.close("2026-02", "")
	o.clock("2026-04-03T12:00:00Z")
	o.change("restated", "2026-02-10", "committed_tib = committed_tib + 1.5, accrued_sum_tib = accrued_sum_tib - 0.07")
	return o
}

// The dataset has the specification's columns, types, nulls and values.
func TestFOCUSIsAsSpecified(t *testing.T) {
	t.Parallel()
	type column struct {
		nulls        bool
		kind, format string
		values       []string
	}
	specified := map[string]column{}
	var order, types []string
	for line := range strings.Lines(strings.TrimSpace(focusSpecification)) {
		f := strings.Split(line, "|")
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		f = append(f, "", "")
		c := column{nulls: f[2] == "yes", kind: f[3], format: f[4]}
		if c.format == "Allowed values" {
			c.values = strings.Split(f[5], ", ")
		}
		if mandatory := slices.Contains(focusMandatory, f[0]); mandatory != (f[1] == "Mandatory") {
			t.Errorf("%s is %s: mandatory %v", f[0], f[1], mandatory)
		}
		specified[f[0]] = c
		order = append(order, f[0])
		types = append(types, map[string]string{"Decimal": "DECIMAL", "String": "STRING", "Date/Time": "DATETIME", "JSON": "JSON"}[c.kind])
	}
	for _, name := range focusMandatory {
		if !slices.Contains(order, name) {
			t.Errorf("%s is missing", name)
		}
	}
	custom := regexp.MustCompile(`^x_([A-Z][a-z]+)+$`) // prefixed, PascalCase, below all others
	for i, c := range FOCUSColumns() {
		switch {
		case i < len(order) && (c.Name != order[i] || c.Type != types[i]):
			t.Errorf("column %d is %s %s, want %s %s", i, c.Name, c.Type, order[i], types[i])
		case i >= len(order) && (!custom.MatchString(c.Name) || c.Name <= FOCUSColumns()[i-1].Name && i > len(order)):
			t.Errorf("column %d is %s: want ours prefixed, in order", i, c.Name)
		}
	}

	o := exportable(t)
	seen := map[string]map[string]bool{}
	var rows []focusRow
	for _, period := range []string{"2026-02", "2026-03"} {
		rows = append(rows, focusRows(o.focus(period))...)
	}
	for n, row := range rows {
		bad := func(format string, args ...any) { t.Errorf("row %d: %s: %v", n, fmt.Sprintf(format, args...), row) }
		for _, name := range order {
			c, cell := specified[name], row[name]
			if seen[name] == nil {
				seen[name] = map[string]bool{}
			}
			seen[name][cell] = true
			switch {
			case cell == "" && !c.nulls:
				bad("%s is null", name)
			case cell == "":
			case c.values != nil && !slices.Contains(c.values, cell):
				bad("%s is %q, want one of %q", name, cell, c.values)
			case focusFormats[c.format] != nil && !focusFormats[c.format].MatchString(cell):
				bad("%s is %q", name, cell)
			case strings.TrimSpace(cell) == "":
				bad("%s is blank", name)
			case c.kind == "JSON":
				var object map[string]any
				if err := json.Unmarshal([]byte(cell), &object); err != nil {
					bad("%s: %v", name, err)
				}
			}
		}
		for text, broken := range focusRules(row) {
			if broken {
				bad("%s", text)
			}
		}
	}
	// What the rules are about was there.
	for name, values := range map[string][]string{
		"ChargeCategory": {"Usage", "Purchase"}, "ChargeClass": {"", "Correction"}, "ServiceCategory": {"Storage", "Business Applications"}, "PricingUnit": {"TiB-Months", "Licences", "Minutes", "Units"},
		"BillingCurrency": {"USD", "JPY", "KWD"}, "SkuPriceId": {"keystone/Extreme/burst", "keystone/Extreme/burst/waiver"}, "ConsumedQuantity": {""},
	} {
		for _, value := range values {
			if !seen[name][value] {
				t.Errorf("no row has %s %q", name, value)
			}
		}
	}
	parent := map[string]string{}
	for _, row := range rows {
		for _, pair := range [][2]string{{"SkuPriceId", "SkuId"}, {"ServiceName", "ServiceCategory"}, {"ServiceName", "ServiceSubcategory"}, {"SkuId", "SkuMeter"}, {"SkuPriceId", "SkuPriceDetails"}, {"ResourceId", "SubAccountId"}} {
			key := pair[0] + row[pair[0]] + " " + pair[1]
			if was, known := parent[key]; known && was != row[pair[1]] {
				t.Errorf("%s has %q and %q", key, was, row[pair[1]])
			}
			parent[key] = row[pair[1]]
		}
	}
}

// focusRules are the specification's rules between the columns of a row: what it says, and whether it is broken.
func focusRules(row focusRow) map[string]bool {
	number := func(name string) decimal.Decimal {
		d, _ := decimal.NewFromString(row[name])
		return d
	}
	null := func(name string) bool { return row[name] == "" }
	isUsage, isCorrection := row["ChargeCategory"] == "Usage", row["ChargeClass"] == "Correction"
	return map[string]bool{
		"ends are exclusive":                         row["ChargePeriodStart"] >= row["ChargePeriodEnd"] || row["BillingPeriodStart"] >= row["BillingPeriodEnd"],
		"a charge lies in its billing period":        !isCorrection && (row["ChargePeriodStart"] < row["BillingPeriodStart"] || row["ChargePeriodEnd"] > row["BillingPeriodEnd"]),
		"a correction is of before":                  isCorrection && row["ChargePeriodEnd"] > row["BillingPeriodStart"],
		"ConsumedQuantity is of usage":               null("ConsumedQuantity") == isUsage,
		"ConsumedUnit goes with its quantity":        null("ConsumedUnit") != null("ConsumedQuantity"),
		"PricingUnit goes with its quantity":         null("PricingUnit") != null("PricingQuantity"),
		"a purchase is not usage-based":              !isUsage && row["ChargeFrequency"] == "Usage-Based",
		"what is no correction is priced":            !isCorrection && (null("ContractedUnitPrice") || null("PricingQuantity") || null("PricingCategory") || null("SkuId") || null("SkuPriceId")),
		"ContractedCost is price times quantity":     !isCorrection && !number("ContractedUnitPrice").Mul(number("PricingQuantity")).Equal(number("ContractedCost")),
		"ContractedCost without price is BilledCost": null("ContractedUnitPrice") && !number("ContractedCost").Equal(number("BilledCost")),
		"prices are not negative":                    number("ContractedUnitPrice").IsNegative(),
		"ListCost without list price is BilledCost":  !number("ListCost").Equal(number("BilledCost")),
		"EffectiveCost of what covers nothing else":  !number("EffectiveCost").Equal(number("BilledCost")),
		"BilledCost is the product, rounded":         !isCorrection && number("BilledCost").Sub(number("ContractedCost")).Abs().GreaterThan(decimal.New(5, -int32(MinorUnits(row["BillingCurrency"]))-1)),
		"SubAccountName goes with its id":            null("SubAccountName") != null("SubAccountId"),
		"resource name and type go with its id":      null("ResourceName") != null("ResourceId") || null("ResourceType") != null("ResourceId"),
		"the resource's name is not its id":          !null("ResourceId") && row["ResourceName"] == row["ResourceId"],
		"there is no discount":                       !null("CommitmentDiscountId") || !null("CommitmentDiscountStatus") || !null("CommitmentDiscountCategory"),
		"only keystone has sub accounts":             null("SubAccountId") != (row["ProviderName"] == "wolkvox"),
	}
}

// What a month comes to, row by row: a closed one, and an open one with what changed of the closed one.
func TestFOCUSByHand(t *testing.T) {
	t.Parallel()
	o := exportable(t)
	show := func(f FOCUS, columns string) (lines []string) {
		for _, row := range focusRows(f) {
			lines = append(lines, row.text(columns))
		}
		return lines
	}
	const what = "SkuPriceId ChargeClass ChargePeriodStart ChargePeriodEnd BilledCost BillingCurrency ContractedCost PricingQuantity PricingUnit x_State"
	february, march := o.focus("2026-02"), o.focus("2026-03")
	wantLines(t, "February", show(february, what+" x_CloseLink x_LineNumber"),
		"keystone/Extreme/committed - 2026-02-01T00:00:00Z 2026-03-01T00:00:00Z 1001.00 USD 1001.0 100.0 TiB-Months closed 1 1",
		"keystone/Extreme/burst/waiver - 2026-02-01T00:00:00Z 2026-03-01T00:00:00Z 0.00 USD 0.0 14.0 TiB-Months closed 1 2")
	wantLines(t, "March", show(march, what),
		"keystone/Extreme/committed - 2026-03-01T00:00:00Z 2026-03-11T00:00:00Z 322.90 USD 322.90322580645129 32.258064516129 TiB-Months final",
		"keystone/Extreme/committed - 2026-03-11T00:00:00Z 2026-04-01T00:00:00Z 81324.0 JPY 81324.1935483871355 67.741935483871 TiB-Months final",
		"keystone/Extreme/burst/waiver - 2026-03-01T00:00:00Z 2026-03-21T00:00:00Z 0.00 USD 0.0 10.0 TiB-Months final",
		"keystone/Extreme/burst - 2026-03-21T00:00:00Z 2026-04-01T00:00:00Z 18.33 USD 18.3315 5.5 TiB-Months final",
		"wolkvox/chat_licenses/license - 2026-03-31T05:00:00Z 2026-04-01T05:00:00Z 12.50 USD 12.5 5.0 Licences final",        // days of Bogota
		"wolkvox/chat_licenses/license - 2026-03-02T05:00:00Z 2026-04-01T05:00:00Z 30.00 USD 30.0 12.0 Licences provisional", // days that nobody saw
		"wolkvox/ivr_minutes/usage - 2026-03-31T05:00:00Z 2026-04-01T05:00:00Z 11.707 KWD 11.7065 900.5 Minutes final",
		"wolkvox/nlp_ai/usage - 2026-03-31T05:00:00Z 2026-04-01T05:00:00Z 33.00 COP 33.0 33.0 Units final",
		"keystone/Extreme/committed Correction 2026-02-10T00:00:00Z 2026-02-11T00:00:00Z 0.54 USD 0.54 0.053571428571 TiB-Months provisional",
		"keystone/Extreme/burst/waiver Correction 2026-02-10T00:00:00Z 2026-02-11T00:00:00Z 0.00 USD 0.00 -0.07 TiB-Months provisional")
	const who = "BillingAccountId BillingAccountName SubAccountId ResourceId BillingPeriodStart BillingPeriodEnd InvoiceIssuerName x_AdjustsPeriod x_AdjustmentReason"
	whose := show(march, who)
	wantLines(t, "whose", []string{whose[0], whose[4], whose[8]},
		"C-1 Østerlund, Glas & Optik A-1 C-1/A-1/Extreme 2026-03-01T00:00:00Z 2026-04-01T00:00:00Z NetApp - -",
		"0039/OP OP - - 2026-03-01T05:00:00Z 2026-04-01T05:00:00Z wolkvox - -",
		"C-1 Østerlund, Glas & Optik A-1 C-1/A-1/Extreme 2026-03-01T00:00:00Z 2026-04-01T00:00:00Z NetApp 2026-02 restated")
	wantLines(t, "in words", show(march, "ChargeDescription")[8:], "Committed capacity of Extreme, subscription A-1: adjustment of 2026-02-10, restated",
		"Accrued burst of Extreme, subscription A-1, in the waiver of its first 60 days: adjustment of 2026-02-10, restated")
	wantLines(t, "a correction has no one price, which is not zero", show(march, "BilledCost ContractedUnitPrice")[8:], "0.54 -", "0.00 -")
	if !february.IsClosed || march.IsClosed || february.Provisional != 0 || march.Provisional != 3 {
		t.Errorf("closed %v %v, provisional %d %d", february.IsClosed, march.IsClosed, february.Provisional, march.Provisional)
	}
	for _, row := range focusRows(o.focus("2026-03", "Partner Ltd.")) {
		if issuer := map[string]string{"NetApp": "Partner Ltd.", "wolkvox": "wolkvox"}[row["ProviderName"]]; row["InvoiceIssuerName"] != issuer {
			t.Errorf("issuer %q, want %q", row["InvoiceIssuerName"], issuer)
		}
	}

	// What has no amount has no row, and is told.
	var omitted []string
	for _, l := range march.Omitted {
		omitted = append(omitted, fmt.Sprintln(or(l.CustomerID, "-"), l.Account, l.Item, l.Charge, l.IsWaiver, or(l.AdjustsPeriod, "-"), l.First, l.Last, l.Quantity.Decimal, l.Unit, l.Reason))
	}
	wantLines(t, "omitted", omitted,
		"C-1 acme Secret committed false - 2026-03-01 2026-03-31 7 TiB-month no rate",
		"C-1 acme Secret burst true - 2026-03-01 2026-03-20 0 TiB-month no rate",
		"C-1 acme Secret burst false - 2026-03-21 2026-03-31 0 TiB-month no rate",
		"- calls sms usage false - 2026-03-31 2026-03-31 40 messages no rate",
		"C-1 acme Secret committed false 2026-02 2026-02-10 2026-02-10 0.053571428571 TiB-month no rate",
		"C-1 acme Secret burst true 2026-02 2026-02-10 2026-02-10 -0.07 TiB-month no rate")

	// Frozen with March it is the same, and final; what is changed afterwards is another month's.
	o.close("2026-03", "a test")
	frozen := o.focus("2026-03")
	if len(frozen.Rows) != len(march.Rows) || frozen.Provisional != 0 || !frozen.IsClosed {
		t.Errorf("got %d rows, %d provisional", len(frozen.Rows), frozen.Provisional)
	}
	wantLines(t, "totals", []string{fmt.Sprint(frozen.Totals)}, strings.ReplaceAll(fmt.Sprint(march.Totals), " 3}", " 0}"))
	o.clock("2026-04-09T12:00:00Z")
	o.change("restated", "2026-03-05", "committed_tib = 200")
	if again := o.focus("2026-03"); fmt.Sprint(again) != fmt.Sprint(frozen) {
		t.Errorf("a closed month moved:\n%v\n%v", again, frozen)
	}
	o.focusIsWhole("2026-02", "2026-03", "2026-04")
	wantLines(t, "April", show(o.focus("2026-04"), "ChargeClass ChargePeriodStart BillingPeriodStart BilledCost BillingCurrency x_State"),
		"- 2026-04-01T00:00:00Z 2026-04-01T00:00:00Z 32013.0 JPY provisional",
		"Correction 2026-03-05T00:00:00Z 2026-04-01T00:00:00Z 32.29 USD provisional")

	o.exec(`update dw.dim_operation set operation = 'OTHER'`)
	if _, err := o.FOCUS(t.Context(), month("2026-03"), nil); err == nil || !strings.Contains(err.Error(), `FOCUS of 2026-03: operation "OP" of account "calls" is unknown`) {
		t.Errorf("got %v", err)
	}
}

// focusIsWhole demands that the rows of months come to their statements and adjustments, currency by
// currency to the last digit, and that every line is a row or is told to have none.
func (o *office) focusIsWhole(periods ...string) {
	o.t.Helper()
	for _, period := range periods {
		f := o.focus(period)
		sums, rows := map[string]decimal.Decimal{}, len(f.Rows)+len(f.Omitted)
		for _, row := range focusRows(f) {
			sums[row["BillingCurrency"]] = sums[row["BillingCurrency"]].Add(decimal.RequireFromString(row["BilledCost"]))
		}
		var got []string
		for _, total := range f.Totals {
			got = append(got, total.Currency+" "+sums[total.Currency].String())
			if !sums[total.Currency].Equal(total.Amount) {
				o.t.Errorf("FOCUS of %s: total %s, rows %s", period, total.Amount, sums[total.Currency])
			}
		}
		got = append(got, fmt.Sprint(rows, " rows"))
		const due = `(select currency, amount from billing.statement($1, 'infinity') union all select currency, amount from mart.adjustment where period = $1) as due`
		want := append(o.rows(`select currency || ' ' || trim_scale(sum(amount)) from `+due+` where amount is not null group by currency order by currency collate "C"`, period),
			o.rows(`select count(*) || ' rows' from `+due, period)...)
		if !slices.Equal(got, want) {
			o.t.Errorf("FOCUS of %s: got %q, want %q", period, got, want)
		}
	}
}
