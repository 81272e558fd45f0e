package billing

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meterhouse/etl"
)

// rate reads "vendor/account/customer/subscription/item/charge[/waiver] price currency from [to]".
func rate(text string) Rate {
	f := strings.Fields(text)
	k := strings.Split(f[0], "/")
	r := Rate{
		RateKey:   RateKey{Vendor: k[0], Account: k[1], CustomerID: k[2], SubscriptionNumber: k[3], Item: k[4], Charge: k[5], IsWaiver: len(k) > 6},
		UnitPrice: etl.MustDecimal(f[1]), Currency: f[2], ValidFrom: day(f[3]), Source: "test.csv:1",
	}
	if len(f) > 4 {
		to := day(f[4])
		r.ValidTo = &to
	}
	return r
}

func rateText(r Rate) string {
	if r.Currency == "" {
		return "-"
	}
	to := ""
	if r.ValidTo != nil {
		to = " " + r.ValidTo.String()
	}
	return fmt.Sprintf("%s %s %s%s", r.UnitPrice, r.Currency, r.ValidFrom, to)
}

// importRates returns the changes as text.
func (o *office) importRates(replace, planOnly bool, texts ...string) string {
	o.t.Helper()
	var rates []Rate
	for _, text := range texts {
		rates = append(rates, rate(text))
	}
	changes, err := o.ImportRates(o.t.Context(), rates, replace, planOnly)
	if err != nil {
		o.t.Fatal(err)
	}
	var lines []string
	for _, c := range changes {
		lines = append(lines, fmt.Sprintf("%s: %s => %s", c.What, rateText(c.Was), rateText(c.Is)))
	}
	return strings.Join(lines, "; ")
}

const (
	allRates     = `select format('%s %s %s %s %s', item, unit_price, valid_from, coalesce(valid_to::text, '-'), case when superseded_at is null then 'holds' else to_char(superseded_at at time zone 'UTC', 'MM-DD') end) from billing.rate order by rate_id`
	rateVersions = `select format('%s %s %s', rate_id, xmin, ctid) from billing.rate order by rate_id`
)

func TestImportRates(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	want := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	}
	const extreme, premium = "keystone////Extreme/committed 99.50 USD 2026-01-01", "keystone////Premium/committed 0.1234567890123456789012345678901234567 USD 2026-01-01 2026-12-31"
	want(o.importRates(false, true, extreme, premium), "added: - => 99.5 USD 2026-01-01; added: - => 0.1234567890123456789012345678901234567 USD 2026-01-01 2026-12-31")
	o.want(allRates) // a plan leaves nothing
	o.importRates(false, false, extreme, premium)
	o.want(allRates, "Extreme 99.5 2026-01-01 - holds", "Premium 0.1234567890123456789012345678901234567 2026-01-01 2026-12-31 holds")

	// The same again, spelled otherwise, touches no row.
	before := o.rows(rateVersions)
	o.now = o.now.AddDate(0, 0, 1)
	want(o.importRates(true, false, "keystone////Extreme/committed 99.5000 USD 2026-01-01", premium),
		"unchanged: 99.5 USD 2026-01-01 => 99.5 USD 2026-01-01; unchanged: 0.1234567890123456789012345678901234567 USD 2026-01-01 2026-12-31 => 0.1234567890123456789012345678901234567 USD 2026-01-01 2026-12-31")
	if after := o.rows(rateVersions); !slices.Equal(before, after) {
		t.Errorf("rows were touched:\n got %q\nwant %q", after, before)
	}

	// A price ends and another follows; the file need not name the rest.
	want(o.importRates(false, false, "keystone////Extreme/committed 99.5 USD 2026-01-01 2026-06-30", "keystone////Extreme/committed 105 USD 2026-07-01"),
		"ended: 99.5 USD 2026-01-01 => 99.5 USD 2026-01-01 2026-06-30; added: - => 105 USD 2026-07-01")
	// A price was wrong from the start.
	o.now = o.now.AddDate(0, 0, 1)
	want(o.importRates(false, false, "keystone////Extreme/committed 110 EUR 2026-07-01"), "changed: 105 USD 2026-07-01 => 110 EUR 2026-07-01")
	// An end that is taken back is a change, and so is another waiver's key of its own.
	o.now = o.now.AddDate(0, 0, 1)
	want(o.importRates(true, false, "keystone////Extreme/committed 110 EUR 2026-07-01", "keystone////Extreme/burst/waiver 0 USD 2026-07-01", "keystone////Premium/committed 0.1234567890123456789012345678901234567 USD 2026-01-01"),
		"unchanged: 110 EUR 2026-07-01 => 110 EUR 2026-07-01; added: - => 0 USD 2026-07-01; "+
			"changed: 0.1234567890123456789012345678901234567 USD 2026-01-01 2026-12-31 => 0.1234567890123456789012345678901234567 USD 2026-01-01; removed: 99.5 USD 2026-01-01 2026-06-30 => -")
	o.want(allRates,
		"Extreme 99.5 2026-01-01 - 05-16", "Premium 0.1234567890123456789012345678901234567 2026-01-01 2026-12-31 05-18",
		"Extreme 99.5 2026-01-01 2026-06-30 05-18", "Extreme 105 2026-07-01 - 05-17", "Extreme 110 2026-07-01 - holds",
		"Extreme 0 2026-07-01 - holds", "Premium 0.1234567890123456789012345678901234567 2026-01-01 - holds")

	// At no time two prices of one key held on one day.
	o.want(`select a.rate_id || ' ' || b.rate_id from billing.rate as a join billing.rate as b on a.rate_id < b.rate_id and a.item = b.item and a.charge = b.charge
		and daterange(a.valid_from, a.valid_to, '[]') && daterange(b.valid_from, b.valid_to, '[]')
		and tstzrange(a.known_since, a.superseded_at) && tstzrange(b.known_since, b.superseded_at)`)
}

func TestImportRatesConflict(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.importRates(false, false, "keystone////Extreme/committed 99.5 USD 2026-01-01 2026-12-31")
	before := o.rows(rateVersions)
	_, err := o.ImportRates(t.Context(), []Rate{
		rate("keystone////Premium/committed 1 USD 2026-01-01"),
		rate("keystone////Extreme/committed 105 USD 2026-12-31"),
		rate("keystone////Extreme/committed 105 USD 2025-01-01 2026-01-01"),
	}, false, false)
	var conflicts ConflictError
	if !errors.As(err, &conflicts) || len(conflicts) != 2 || conflicts[0].Row != 1 || conflicts[1].Row != 2 ||
		!strings.HasPrefix(conflicts[0].Reason, "from 2026-12-31 on: the stored price 99.5 USD 2026-01-01 to 2026-12-31 (test.csv:1) is for the same: want") {
		t.Errorf("got %v, want conflicts of two rows", err)
	}
	if after := o.rows(rateVersions); !slices.Equal(before, after) {
		t.Errorf("refused, and yet:\n got %q\nwant %q", after, before)
	}
	// Beside it, or for something more specific, there is room.
	o.importRates(false, false, "keystone////Extreme/committed 105 USD 2027-01-01", "keystone////Extreme/burst 105 USD 2026-05-01", "keystone//C-1//Extreme/committed 90 USD 2026-05-01")
}

func TestImportRatesNeedsALaterClock(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.importRates(false, false, "keystone////Extreme/committed 1 USD 2026-01-01")
	o.now = o.now.Add(-time.Second)
	_, err := o.ImportRates(t.Context(), []Rate{rate("keystone////Extreme/committed 2 USD 2026-01-01")}, false, false)
	if err == nil || !strings.Contains(err.Error(), "the business clock says 2026-05-15T11:59:59Z") || !strings.Contains(err.Error(), "want a later --now") {
		t.Errorf("got %v", err)
	}
	o.now = o.now.Add(time.Second)
	o.importRates(false, false, "keystone////Extreme/committed 2 USD 2026-01-01") // at the same instant: the first never was
	o.want(`select unit_price::text from billing.rate where superseded_at is null`, "2")
}

// Files that are imported at once end as one after the other.
func TestImportRatesAtOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = o.ImportRates(t.Context(), []Rate{rate(fmt.Sprintf("keystone////Extreme/committed %d USD 2026-01-01", i+1))}, true, false)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	o.want(`select count(*)::text || ' ' || (count(*) filter (where superseded_at is null))::text from billing.rate`, "8 1")
}

// The database keeps by itself what the card promises.
func TestRateTable(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	const insert = `insert into billing.rate (vendor, account, customer_id, item, charge, is_waiver, unit_price, currency, valid_from, valid_to, source, known_since)
		values ($1, '', $2, 'Extreme', $3, $4, $5::text::numeric, $6, $7::text::date, $8::text::date, 'test', '2026-05-01')`
	o.exec(insert, "keystone", "", "burst", false, "1", "USD", "2026-01-01", "2026-01-31")
	o.refused("rate_no_overlap", insert, "keystone", "", "burst", false, "1", "USD", "2026-01-31", nil)
	o.exec(insert, "keystone", "", "burst", true, "1", "USD", "2026-01-31", nil)
	o.exec(insert, "keystone", "C-1", "burst", false, "1", "USD", "2026-01-31", nil)
	o.exec(insert, "keystone", "", "burst", false, "1", "USD", "2026-02-01", nil)
	o.refused("rate_charge_known", insert, "wolkvox", "", "burst", false, "1", "USD", "2026-01-01", nil)
	o.refused("rate_waives_burst", insert, "keystone", "", "committed", true, "1", "USD", "2026-01-01", nil)
	o.refused("rate_of_wolkvox_by_account", insert, "wolkvox", "C-1", "usage", false, "1", "USD", "2026-01-01", nil)
	o.refused("rate_price_finite", insert, "keystone", "", "committed", false, "NaN", "USD", "2026-01-01", nil)
	o.refused("rate_price_finite", insert, "keystone", "", "committed", false, "-0.01", "USD", "2026-01-01", nil)
	o.refused("rate_currency_form", insert, "keystone", "", "committed", false, "1", "usd", "2026-01-01", nil)
	o.refused("never changed or deleted", `update billing.rate set unit_price = 2`)
	o.refused("never changed or deleted", `update billing.rate set unit_price = 2, superseded_at = now()`)
	o.refused("never changed or deleted", `delete from billing.rate`)
	o.exec(`update billing.rate set superseded_at = now()`)
	o.refused("never changed or deleted", `update billing.rate set superseded_at = null`)
}

func TestSetProductRule(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	set := func(rule, want string) {
		t.Helper()
		if was, err := o.SetProductRule(t.Context(), "chat_licenses", rule, "because"); err != nil || was != want {
			t.Errorf("%s: was %q, %v, want %q", rule, was, err, want)
		}
		o.now = o.now.Add(time.Hour)
	}
	set("max", "max") // a decision, though it changes nothing
	set("last", "max")
	set("last", "last")
	set("average", "last")
	o.want(`select format('%s %s', rule, superseded_at is null) from billing.product_rule order by product_rule_id`, "max f", "last f", "average t")
	if _, err := o.SetProductRule(t.Context(), "chat_licenses", "mean", "because"); err == nil || !strings.Contains(err.Error(), `rule "mean": want one of`) {
		t.Errorf("got %v", err)
	}
}

// Go and the database agree on every code there can be.
func TestMinorUnits(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var codes []string
	for a := 'A'; a <= 'Z'; a++ {
		for b := 'A'; b <= 'Z'; b++ {
			for c := 'A'; c <= 'Z'; c++ {
				codes = append(codes, string([]rune{a, b, c}))
			}
		}
	}
	for _, line := range o.rows(`select format('%s %s', code, billing.currency_minor_units(code)) from unnest($1::text[]) as code`, codes) {
		if want := fmt.Sprint(line[:4], MinorUnits(line[:3])); line != want {
			t.Errorf("the database says %s, want %s", line, want)
		}
	}
	known := Currencies()
	if len(known) < 160 || len(known) > 180 || len(slices.Compact(slices.Clone(known))) != len(known) {
		t.Errorf("%d currencies, or one of them twice: %v", len(known), known)
	}
	for code, want := range map[string]int{"USD": 2, "COP": 2, "JPY": 0, "KWD": 3, "CLF": 4, "XXY": 2} {
		if got := MinorUnits(code); got != want {
			t.Errorf("%s: got %d, want %d", code, got, want)
		}
	}
}
