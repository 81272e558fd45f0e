package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shopspring/decimal"

	"meterhouse/etl"
)

// invoiceMapping says how a vendor's invoice file is read. The yaml tags are its keys. The zero value is a
// file in our own columns.
type invoiceMapping struct {
	Delimiter string                 `yaml:"delimiter"`
	Decimal   string                 `yaml:"decimal"`
	Thousands string                 `yaml:"thousands"`
	Date      string                 `yaml:"date"`
	Encoding  string                 `yaml:"encoding"`
	Sign      string                 `yaml:"sign"`
	Columns   map[string]string      `yaml:"columns"`
	Constants map[string]string      `yaml:"constants"`
	Items     map[string]mappedThing `yaml:"items"`

	numeral *regexp.Regexp
}

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
	one("encoding", m.Encoding, "utf-8", "windows-1252")
	one("sign", m.Sign, "normal", "reversed")
	if m.Thousands != "" && m.Thousands == m.Decimal {
		bad("thousands", "%q is the decimal sign too: want another", m.Thousands)
	}
	if m.Date != "" && dateLayout(m.Date) == "" {
		bad("date", "%q: want YYYY, MM and DD once each, such as DD.MM.YYYY", m.Date)
	}
	var names []string
	for _, c := range invoiceColumns {
		names = append(names, c.name)
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
		if !c.optional && m.Columns[c.name] == "" && m.Constants[c.name] == "" && !(c.name == "charge" && len(m.Items) > 0) {
			bad("columns", "no %s, in the columns or constants", c.name)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(m.Items)) {
		if m.Items[key].Item == "" && m.Items[key].Charge != otherCharge {
			bad(join("items", key), "no item: want the name of a service level or product, or charge: %s", otherCharge)
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

// dateLayout is a format such as DD.MM.YYYY as Go writes it; empty when it is none.
func dateLayout(format string) string {
	for _, part := range []string{"YYYY", "MM", "DD"} {
		if strings.Count(format, part) != 1 {
			return ""
		}
	}
	layout := strings.NewReplacer("YYYY", "2006", "MM", "01", "DD", "02").Replace(format)
	if rest := strings.NewReplacer("YYYY", "", "MM", "", "DD", "").Replace(format); strings.Trim(rest, ".-/ ") != "" {
		return ""
	}
	return layout
}

func (m *invoiceMapping) dialect() csvDialect {
	d := csvDialect{windows1252: m.Encoding == "windows-1252", names: m.Columns}
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
	if m.Constants[column] != "" {
		format = "YYYY-MM-DD"
	}
	t, err := time.Parse(dateLayout(format), text)
	if err != nil || t.Year() < 2000 || t.Year() > 2099 {
		file.bad(row, column, "%q: want a day as %s, of this century", text, format)
		return 0
	}
	return etl.DayOf(t)
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
	inner, isNegative := strings.CutPrefix(plain, "-")
	if !isNegative {
		inner, isNegative = strings.CutSuffix(plain, "-")
	}
	if !isNegative && strings.HasPrefix(plain, "(") && strings.HasSuffix(plain, ")") {
		inner, isNegative = plain[1:len(plain)-1], true
	}
	inner = strings.TrimSpace(inner)
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
