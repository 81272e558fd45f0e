package main

import (
	"cmp"
	"fmt"
	"maps"
	"math/big"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shopspring/decimal"

	"meterhouse/etl"
	"meterhouse/etl/billing"
)

// invoiceMapping says how a vendor's invoice file is read. The yaml tags are its keys. The zero value is a
// file in our own columns.
type invoiceMapping struct {
	Delimiter string                 `yaml:"delimiter"`
	Decimal   string                 `yaml:"decimal"`
	Thousands string                 `yaml:"thousands"`
	Symbols   []string               `yaml:"symbols"` // that may stand beside a number
	Date      string                 `yaml:"date"`
	Period    string                 `yaml:"period"` // how the column period is written
	Ends      string                 `yaml:"ends"`   // whether the last day of a period is the first one not charged for
	Encoding  string                 `yaml:"encoding"`
	Sign      string                 `yaml:"sign"`
	Header    int                    `yaml:"header"` // line of the file
	Columns   map[string]string      `yaml:"columns"`
	Constants map[string]string      `yaml:"constants"`
	Items     map[string]mappedThing `yaml:"items"`
	Units     map[string]string      `yaml:"units"`  // how many of ours one is, exactly
	Totals    map[string][]string    `yaml:"totals"` // by our columns: texts of rows that sum up others
	Skip      map[string][]string    `yaml:"skip"`   // likewise: of rows without money

	numeral *regexp.Regexp
	units   map[string]*big.Rat
}

// mappedColumns are what a mapping can name beside the columns of an invoice.
var mappedColumns = []string{"period", "unit"}

// mappedThing is what the vendor's name of a line means.
type mappedThing struct {
	Item   string `yaml:"item"`
	Charge string `yaml:"charge"`
}

// mostMappingBytes is far more than any mapping has.
const mostMappingBytes = 1 << 20

// readInvoiceMapping reads a mapping file and tells all that is wrong with it, with the lines.
func readInvoiceMapping(name string) (m invoiceMapping, err error) {
	info, err := os.Stat(name)
	if err == nil && info.Size() > mostMappingBytes {
		err = fmt.Errorf("%s: larger than %s", name, size(mostMappingBytes))
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(name)
	}
	if err != nil {
		return m, usagef("--mapping: %w: want a YAML file", err)
	}
	places := newConfig() // it keeps the lines
	problems, err := places.readYAMLInto(&m, name, text, func(string) string { return "" })
	if err != nil {
		return m, &exitError{exitUsage, err}
	}
	bad := func(path, format string, args ...any) {
		problems = append(problems, problem{places.sources[path], fmt.Errorf(path+": "+format, args...)})
	}
	one := func(path, value string, allowed ...string) {
		if value != "" && !slices.Contains(allowed, value) {
			bad(path, "%q: want one of %q", value, allowed)
		}
	}
	one("delimiter", m.Delimiter, ",", ";", "\t", "|")
	one("decimal", m.Decimal, ".", ",")
	one("thousands", m.Thousands, ".", ",", " ", "'")
	one("encoding", m.Encoding, slices.Sorted(maps.Keys(encodings))...)
	one("sign", m.Sign, "normal", "reversed")
	one("ends", m.Ends, "inclusive", "exclusive")
	if m.Thousands != "" && m.Thousands == m.Decimal {
		bad("thousands", "%q is the decimal sign too: want another", m.Thousands)
	}
	if m.Date != "" && dateLayout(m.Date) == "" {
		bad("date", "%q: want a year, a month and a day, such as DD.MM.YYYY, M/D/YY or D MMM YYYY", m.Date)
	}
	if one, _ := twoDates(m.Period); m.Period != "" && one == "" && monthLayout(m.Period) == "" {
		bad("period", "%q: want two dates, such as DD.MM.YYYY - DD.MM.YYYY, or a month, such as MM/YYYY", m.Period)
	}
	if hasPeriod := m.Columns["period"] != "" || m.Constants["period"] != ""; hasPeriod != (m.Period != "") {
		bad("period", "want both, the column that has it and how it is written: columns: {period: …} and period: DD.MM.YYYY - DD.MM.YYYY")
	}
	if m.Header < 0 {
		bad("header", "%d: want the line of the file on which the header stands, from 1", m.Header)
	}
	for _, symbol := range m.Symbols {
		if strings.TrimSpace(symbol) == "" || strings.ContainsAny(symbol, "0123456789.,'()-") {
			bad("symbols", "%q: want a text without digits and signs of numbers, such as € or TiB", symbol)
		}
	}
	m.units = map[string]*big.Rat{}
	for _, unit := range slices.Sorted(maps.Keys(m.Units)) {
		var isFactor bool
		if m.units[unit], isFactor = new(big.Rat).SetString(m.Units[unit]); !isFactor || m.units[unit].Sign() <= 0 || strings.ContainsAny(m.Units[unit], "eEpPxX_") {
			bad(join("units", unit), "%q: want how many of ours it is, such as 1/1024 for GiB where ours is TiB", m.Units[unit])
		}
	}
	if hasUnit := m.Columns["unit"] != "" || m.Constants["unit"] != ""; hasUnit != (len(m.Units) > 0) {
		bad("units", "want both, the column or constant that says the unit and what each is worth: columns: {unit: …} and units: {GiB: 1/1024}")
	}
	names := slices.Clone(mappedColumns)
	for _, c := range invoiceColumns {
		names = append(names, c.name)
	}
	for key, rules := range map[string]map[string][]string{"totals": m.Totals, "skip": m.Skip} {
		for _, column := range slices.Sorted(maps.Keys(rules)) {
			switch {
			case len(m.Columns) == 0: // told below
			case m.Columns[column] == "":
				bad(join(key, column), "no such column: want one of ours that the columns have: %s", oneOf(slices.Sorted(maps.Keys(m.Columns))))
			case len(rules[column]) == 0, slices.Contains(rules[column], ""), slices.Contains(rules[column], "*"):
				bad(join(key, column), "%q: want texts by which the rows are told, such as Total*", rules[column])
			}
		}
	}
	for _, place := range []struct {
		key    string
		values map[string]string
	}{{"columns", m.Columns}, {"constants", m.Constants}} {
		for _, key := range slices.Sorted(maps.Keys(place.values)) {
			path := join(place.key, key)
			switch {
			case !slices.Contains(names, key):
				bad(path, "unknown column%s: want %s", nearest(key, names), oneOf(names))
			case place.values[key] == "":
				bad(path, "is empty: want a text")
			case place.key == "constants" && m.Columns[key] != "":
				bad(path, "is a column too: want one of both")
			}
		}
	}
	if len(m.Columns) == 0 {
		bad("columns", "are not there: want our names with those of the file, such as amount: Net")
	}
	for _, c := range invoiceColumns {
		if !c.optional && m.Columns[c.name] == "" && m.Constants[c.name] == "" && !(c.name == "charge" && len(m.Items) > 0) &&
			!(strings.HasPrefix(c.name, "period_") && m.Period != "") {
			bad("columns", "no %s, in the columns or constants", c.name)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(m.Items)) {
		if m.Items[key].Item == "" && m.Items[key].Charge != billing.OtherCharge {
			bad(join("items", key), "no item: want the name of a service level or product, or charge: %s", billing.OtherCharge)
		}
	}
	if len(problems) > 0 {
		slices.SortStableFunc(problems, inOrderOfFile)
		texts := []string{fmt.Sprintf("%s: %s, nothing is imported", name, count(len(problems), "problem"))}
		for _, p := range problems {
			texts = append(texts, p.Error())
		}
		return m, usagef("%s", strings.Join(texts, "\n  "))
	}
	return m, nil
}

// dateWords are what dates are written with, and how Go writes it; the longer ones first.
var dateWords = []struct{ word, layout string }{
	{"YYYY", "2006"}, {"MMMM", "January"}, {"MMM", "Jan"}, {"YY", "06"}, {"MM", "01"}, {"DD", "02"}, {"M", "1"}, {"D", "2"},
}

// layoutOf is a format such as DD.MM.YYYY as Go writes it, and which of year, month and day it has; empty
// when it is none.
func layoutOf(format string) (layout, has string) {
next:
	for rest := format; rest != ""; {
		for _, w := range dateWords {
			if after, found := strings.CutPrefix(rest, w.word); found {
				layout, has, rest = layout+w.layout, has+w.word[:1], after
				continue next
			}
		}
		if !strings.ContainsAny(rest[:1], ".-/, ") {
			return "", ""
		}
		layout, rest = layout+rest[:1], rest[1:]
	}
	return layout, has
}

// dateLayout is the layout of a day; empty when the format is of none.
func dateLayout(format string) string {
	layout, has := layoutOf(format)
	if len(has) != 3 || !strings.Contains(has, "Y") || !strings.Contains(has, "M") || !strings.Contains(has, "D") {
		return ""
	}
	return layout
}

// monthLayout is the layout of a month; empty when the format is of none.
func monthLayout(format string) string {
	if layout, has := layoutOf(format); has == "YM" || has == "MY" {
		return layout
	}
	return ""
}

// twoDates parts a format of two equal dates into one and what stands between; empty when it is none.
func twoDates(format string) (one, between string) {
	for i := len(format) / 2; i > 0; i-- {
		if one, between = format[:i], format[i:len(format)-i]; strings.HasSuffix(format, one) && between != "" && dateLayout(one) != "" {
			return one, between
		}
	}
	return "", ""
}

func (m *invoiceMapping) dialect() csvDialect {
	d := csvDialect{encoding: m.Encoding, header: m.Header, names: m.Columns}
	if m.Delimiter != "" {
		d.separator = rune(m.Delimiter[0])
	}
	return d
}

// cell is the value of a column: of the file, else the constant.
func (m *invoiceMapping) cell(row csvRow, column string) string {
	return cmp.Or(row.get(column), m.Constants[column])
}

// day reads a date in the format of the file.
func (m *invoiceMapping) day(file *csvFile, row csvRow, column string) etl.Day {
	text, format := m.cell(row, column), cmp.Or(m.Date, "YYYY-MM-DD")
	if row.get(column) == "" {
		format = "YYYY-MM-DD" // of the constants
	}
	day, is := dayAs(dateLayout(format), text)
	if !is {
		file.bad(row, column, "%q: want a day as %s, of this century", text, format)
	}
	return day
}

func dayAs(layout, text string) (etl.Day, bool) {
	t, err := time.Parse(layout, text)
	if err != nil || t.Year() < 2000 || t.Year() > 2099 {
		return 0, false
	}
	return etl.DayOf(t), true
}

// period reads the first and the last day that are charged for, of one column or two.
func (m *invoiceMapping) period(file *csvFile, row csvRow) (first, last etl.Day) {
	if m.Period == "" || row.get("period_start")+row.get("period_end") != "" {
		first, last = m.day(file, row, "period_start"), m.day(file, row, "period_end")
		if m.Ends == "exclusive" && last != 0 {
			last--
		}
		return first, last
	}
	text := m.cell(row, "period")
	if layout := monthLayout(m.Period); layout != "" {
		month, is := dayAs(layout, text)
		if !is {
			file.bad(row, "period", "%q: want a month as %s, of this century", text, m.Period)
			return 0, 0
		}
		return month, month.NextMonth() - 1
	}
	one, between := twoDates(m.Period)
	between = strings.TrimSpace(between)
	for i := range text { // what stands between dates may stand in them
		rest, found := strings.CutPrefix(text[i:], cmp.Or(between, " "))
		from, isFrom := dayAs(dateLayout(one), strings.TrimSpace(text[:i]))
		to, isTo := dayAs(dateLayout(one), strings.TrimSpace(rest))
		if found && isFrom && isTo {
			if m.Ends == "exclusive" {
				to--
			}
			return from, to
		}
	}
	file.bad(row, "period", "%q: want two days as %s, of this century", text, m.Period)
	return 0, 0
}

// mostDigits is what a figure has at most, as in the vendors' answers.
const mostDigits = 40

// number reads an exact number as the file writes it. A thousands separator stands between groups of three
// digits or nowhere; a negative number has a minus before or behind it, or parentheses around it.
func (m *invoiceMapping) number(file *csvFile, row csvRow, column string) decimal.Decimal {
	text := m.cell(row, column)
	point := m.Decimal
	if point == "" {
		if point = "."; file.semicolons {
			point = ","
		}
	}
	if m.numeral == nil {
		whole := `\d+`
		if m.Thousands != "" {
			whole = `(?:\d+|\d{1,3}(?:` + regexp.QuoteMeta(m.Thousands) + `\d{3})+)`
		}
		m.numeral = regexp.MustCompile(`^` + whole + `(?:` + regexp.QuoteMeta(point) + `\d+)?$`)
	}
	plain := strings.NewReplacer("\u00a0", " ", "\u202f", " ", "\u2212", "-", "\u2019", "'").Replace(text)
	bare := func(text string) string { // inside of it a symbol would be a sign of the number
		text = strings.TrimSpace(text)
		for _, symbol := range m.Symbols {
			if cut, found := strings.CutPrefix(text, symbol); found {
				return strings.TrimSpace(cut)
			} else if cut, found := strings.CutSuffix(text, symbol); found {
				return strings.TrimSpace(cut)
			}
		}
		return text
	}
	plain = bare(plain)
	inner, isNegative := strings.CutPrefix(plain, "-")
	if !isNegative {
		inner, isNegative = strings.CutSuffix(plain, "-")
	}
	if !isNegative && strings.HasPrefix(plain, "(") && strings.HasSuffix(plain, ")") {
		inner, isNegative = plain[1:len(plain)-1], true
	}
	inner = bare(inner)
	if !m.numeral.MatchString(inner) || len(inner) > mostDigits {
		like := "1234" + point + "56"
		if m.Thousands != "" {
			like += " or 1" + m.Thousands + "234" + point + "56"
		}
		file.bad(row, column, "%q: want a number such as %s, of at most %d digits", text, like, mostDigits)
		return decimal.Zero
	}
	if m.Thousands != "" {
		inner = strings.ReplaceAll(inner, m.Thousands, "")
	}
	d, err := decimal.NewFromString(strings.Replace(inner, point, ".", 1))
	if err != nil {
		file.bad(row, column, "%q: %w", text, err)
	}
	if isNegative {
		d = d.Neg()
	}
	return d
}

// amount is a number that has the sign of the bill.
func (m *invoiceMapping) amount(file *csvFile, row csvRow, column string) decimal.Decimal {
	d := m.number(file, row, column)
	if m.Sign == "reversed" {
		return d.Neg()
	}
	return d
}

// optional is a number that may be missing.
func (m *invoiceMapping) optional(file *csvFile, row csvRow, column string, read func(*csvFile, csvRow, string) decimal.Decimal) decimal.NullDecimal {
	if m.cell(row, column) == "" {
		return decimal.NullDecimal{}
	}
	return decimal.NewNullDecimal(read(file, row, column))
}

// measure reads quantity and price of a line in our unit.
func (m *invoiceMapping) measure(file *csvFile, row csvRow) (quantity, price decimal.NullDecimal) {
	quantity, price = m.optional(file, row, "quantity", m.amount), m.optional(file, row, "unit_price", m.number)
	if len(m.units) == 0 || !quantity.Valid && !price.Valid {
		return quantity, price
	}
	unit := m.cell(row, "unit")
	factor := m.units[unit]
	if factor == nil {
		names := slices.Sorted(maps.Keys(m.units))
		file.bad(row, "unit", "%q%s: want it among the units of the mapping, which has %q", unit, nearest(unit, names), names)
		return quantity, price
	}
	if quantity.Valid { // as many decimals as those of statements, where it has no end
		quantity.Decimal, _ = decimalOf(new(big.Rat).Mul(quantity.Decimal.Rat(), factor), quantity.Decimal)
	}
	if price.Valid {
		var isExact bool
		if price.Decimal, isExact = decimalOf(new(big.Rat).Quo(price.Decimal.Rat(), factor), price.Decimal); !isExact {
			file.bad(row, "unit_price", "%q for one %s has no exact price in our unit: want it left out, and quantity and amount to tell it", m.cell(row, "unit_price"), unit)
		}
	}
	return quantity, price
}

// decimalOf is a number with all its decimals, or 12 where it has no end; like lends its zeros when it is the same.
func decimalOf(r *big.Rat, like decimal.Decimal) (d decimal.Decimal, isExact bool) {
	if r.Cmp(like.Rat()) == 0 {
		return like, true
	}
	decimals, isExact := r.FloatPrec()
	if !isExact || decimals > mostDigits {
		decimals, isExact = 12, false
	}
	return decimal.RequireFromString(r.FloatString(decimals)), isExact
}

// is tells whether a row is one of those that a rule of the mapping names.
func (m *invoiceMapping) is(rules map[string][]string, row csvRow) bool {
	for column, texts := range rules {
		for _, text := range texts {
			parts := strings.Split(text, "*")
			for i := range parts {
				parts[i] = regexp.QuoteMeta(parts[i])
			}
			if regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(row.get(column)) {
				return true
			}
		}
	}
	return false
}

// thing is what a line charges, in our words. A name that the mapping has means what that says; another one
// is ours when the charge is told. When it is not, nobody knows the charge, and that is said once.
func (m *invoiceMapping) thing(file *csvFile, row csvRow) (item, charge string, isKnown bool) {
	name, charge := m.cell(row, "item"), m.cell(row, "charge")
	if mapped, known := m.Items[name]; known {
		return mapped.Item, cmp.Or(mapped.Charge, charge), true
	}
	if len(m.Items) == 0 || charge != "" {
		return name, charge, true
	}
	names := slices.Sorted(maps.Keys(m.Items))
	hint := nearest(name, names)
	if hint == "" {
		hint = fmt.Sprintf(", which has %q", names)
	}
	file.bad(row, "item", "%q is not among the items of the mapping%s", name, hint)
	return name, charge, false
}
