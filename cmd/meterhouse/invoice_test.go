package main

import (
	"encoding/csv"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/shopspring/decimal"
	"golang.org/x/text/encoding/charmap"
	"pgregory.net/rapid"
)

const invoiceHead = "vendor,number,invoice_date,currency,subscription_number,item,charge,period_start,period_end,quantity,unit_price,amount\n"

func TestInvoiceImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wantContains(t, "before any import", w.must(exitDone, "invoice", "list").stdout, "no invoice was imported yet\n")
	wantContains(t, "nothing to show", w.must(exitDone, "invoice", "show", "1").stdout, "no invoice 1 was imported")

	// A vendor's own file: a byte order mark or windows-1252, semicolons, decimal comma, dots for thousands, dates of its own.
	mapping := writeFile(t, "netapp.yaml", `
delimiter: ";"
decimal: ","
thousands: "."
date: DD.MM.YYYY
encoding: windows-1252
columns:
  number: Rechnung
  invoice_date: Datum
  line: Position
  subscription_number: Vertrag
  item: Bezeichnung
  text: Bezeichnung
  period_start: von
  period_end: bis
  quantity: Menge
  unit_price: Preis
  amount: Betrag (€)
constants:
  vendor: keystone
  currency: EUR
items:
  "Kapazität Extreme; zugesagt": {item: Extreme, charge: committed}
  Extreme burst: {item: Extreme, charge: burst}
  Umsatzsteuer: {charge: other}
`)
	text := "Rechnung;Datum;Position;Vertrag;Bezeichnung;von;bis;Menge;Preis;Betrag (€);Bemerkung\r\n" +
		"9001;05.05.2026;10;A-1;\"Kapazität Extreme; zugesagt\";01.04.2026;30.04.2026;1.234,5;10,01;12.357,35;\r\n" +
		"9001;05.05.2026;20;A-1;Extreme burst;01.04.2026;30.04.2026;0,75;37,5;(28,13);\"Gutschrift \"\"April\"\"\"\r\n" +
		"9001;05.05.2026;30;;Umsatzsteuer;01.04.2026;30.04.2026;;;2.342,55-;\r\n;;;;;;;;;;\r\n"
	latin, err := charmap.Windows1252.NewEncoder().String(text)
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, "mai.csv", latin)
	plan := w.must(exitDone, "invoice", "import", file, "--mapping", mapping, "--plan")
	wantContains(t, "plan", plan.stdout, "12357.35 EUR = 1234.5 × 10.01", "\nwould be: invoices added 1, changed 0, unchanged 0; lines added 3, changed 0, removed 0, unchanged 0\n")
	wantContains(t, "strangers", plan.stderr, `subscription_number "A-1" is not known yet`)
	if got := w.value(`select count(*)::text from billing.invoice`); got != "0" {
		t.Errorf("--plan stored %s invoices", got)
	}
	done := w.must(exitDone, "invoice", "import", file, "--mapping", mapping)
	if done.stdout != strings.Replace(plan.stdout, "would be: ", "", 1) {
		t.Errorf("the plan says\n%s\nthe import\n%s", plan.stdout, done.stdout)
	}
	stored := func() string {
		return w.value(`select string_agg(concat_ws(' ', source, invoice_number, invoice_date, line_number, subscription_number, item, charge, period_start, period_end, quantity, unit_price, amount, currency, line_text, imported_from), '
' order by line_number) from mart.invoice_line`)
	}
	want := `keystone 9001 2026-05-05 10 A-1 Extreme committed 2026-04-01 2026-04-30 1234.5 10.01 12357.35 EUR Kapazität Extreme; zugesagt mai.csv:2
keystone 9001 2026-05-05 20 A-1 Extreme burst 2026-04-01 2026-04-30 0.75 37.5 -28.13 EUR Extreme burst mai.csv:3
keystone 9001 2026-05-05 30   other 2026-04-01 2026-04-30 -2342.55 EUR Umsatzsteuer mai.csv:4`
	if got := stored(); got != want {
		t.Errorf("stored\n%s\nwant\n%s", got, want)
	}
	wantContains(t, "the list", w.must(exitDone, "invoice", "list", "--format", "csv").stdout, "vendor,number,invoice_date,first_day,last_day,lines,amount,currency\n", "keystone,9001,2026-05-05,2026-04-01,2026-04-30,3,9986.67,EUR\n")
	wantContains(t, "one", w.must(exitDone, "invoice", "show", "9001", "--format", "csv").stdout, "keystone,2026-05-05,10,,,A-1,Extreme,committed,2026-04-01,2026-04-30,1234.5,10.01,12357.35,EUR,Kapazität Extreme; zugesagt,mai.csv:2\n")

	// The same again touches no row; what changed is a new version, and the former one stays.
	rows := `select string_agg(concat(xmin, superseded_at), ',' order by invoice_line_id) from billing.invoice_line`
	before := w.value(rows)
	wantContains(t, "the same again", w.must(exitDone, "invoice", "import", writeFile(t, "other.csv", latin), "--mapping", mapping).stdout, "invoices added 0, changed 0, unchanged 1; lines added 0, changed 0, removed 0, unchanged 3\n")
	if after := w.value(rows); after != before {
		t.Errorf("rows were touched: %s, then %s", before, after)
	}
	changed := strings.Replace(latin, "12.357,35", "12.357,36", 1)
	changed = changed[:strings.Index(changed, "9001;05.05.2026;30")]
	o := w.must(exitDone, "invoice", "import", writeFile(t, "mai.csv", changed), "--mapping", mapping)
	wantContains(t, "a correction", o.stdout, "12357.35 EUR = 1234.5 × 10.01", "12357.36 EUR = 1234.5 × 10.01", "removed", "invoices added 0, changed 1, unchanged 0; lines added 0, changed 1, removed 1, unchanged 1\n")
	wantContains(t, "history", w.must(exitDone, "invoice", "list", "--history", "--format", "csv").stdout, ",3,9986.67,EUR,", ",2,12329.23,EUR,")
	if got := w.value(`select count(*)::text from mart.invoice_line`); got != "2" {
		t.Errorf("%s lines are current, want 2", got)
	}
}

func TestInvoiceImportRefusesTheWholeFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := "keystone,7,2026-05-05,USD,A-1,Extreme,committed,2026-04-01,2026-04-30,100,10,1000\n"
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", []string{"stdin: no header: want the columns vendor, number,"}},
		{"a header", invoiceHead, []string{"stdin: no rows below the header: want at least one line of an invoice"}},
		{"several problems", invoiceHead + good +
			"netapp,7,2026-05-05,USD,A-1,Extreme,committed,2026-04-01,2026-04-30,100,10,1000\n" +
			"keystone,,05.05.2026,usd,A-1,Extreme,license,2026-04-01,2026-03-30,1e3,\"1,000\",\n" +
			"keystone,7,2026-05-06,USD,,,burst,2026-04-01,2026-04-30,,,1\n", []string{
			`stdin:3: vendor: "netapp": want keystone or wolkvox`,
			`stdin:4: invoice_date: "05.05.2026": want a day as YYYY-MM-DD`,
			`stdin:4: quantity: "1e3": want a number such as 1234.56`,
			`stdin:4: unit_price: "1,000": want a number such as 1234.56`,
			`stdin:4: amount: "": want a number`,
			`stdin:4: charge: "license": want committed, burst or other`,
			"stdin:4: number: is empty",
			`stdin:4: currency: "usd": want a code of ISO 4217`,
			"stdin:4: period_end: 2026-03-30 is before period_start 2026-04-01",
			"stdin:5: item: is empty",
			"stdin:5: subscription_number: is empty",
			`stdin:5: number: invoice 7 has date 2026-05-06 and currency "USD" here, 2026-05-05 and "USD" on line 2`,
		}},
		{"a line twice", "line," + invoiceHead + "4," + good + "4," + good, []string{"stdin:3: line: 4 of invoice 7 stands on line 2 too"}},
	} {
		o := w.runWith(c.text, "invoice", "import", "-")
		if o.code != exitUsage || o.stdout != "" {
			t.Errorf("%s: exit code %d, stdout %q", c.name, o.code, o.stdout)
		}
		wantContains(t, c.name, o.stderr, c.want...)
	}
	for _, c := range []struct {
		name, mapping, text string
		want                []string
	}{
		{"unknown keys", "columns: {amount: Net, amuont: Gross}\nseparator: ';'\ndelimiter: x\ndate: DD/MM\ndecimal: ','\nthousands: ','\nconstants: {amount: '1', vendor: ''}\nitems: {A: {charge: burst}}\n", "", []string{
			`m.yaml:1:32: columns.amuont: unknown column (did you mean "amount"?)`, `m.yaml:2:1: unknown key "separator"`, `m.yaml:3:12: delimiter: "x": want one of`,
			`m.yaml:4:7: date: "DD/MM": want YYYY, MM and DD once each`, `m.yaml:6:12: thousands: "," is the decimal sign too`, "constants.amount: is a column too",
			"constants.vendor: is empty", "m.yaml:1:10: columns: no number, in the columns or constants", "items.A: no item",
		}},
		{"not YAML", "columns: [", "", []string{"m.yaml:1"}},
		{"the file lacks columns", "columns: {number: Nr, amount: Net, invoice_date: D, period_start: D, period_end: D, item: I}\nconstants: {vendor: wolkvox, currency: COP, charge: usage}\n",
			"Number,Net,D,I\n1,2,3,4\n", []string{`stdin:1: no column "Nr" (did you mean "Net"?) for number: the file has ["Number" "Net" "D" "I"]`}},
		{"unknown items and wrong thousands", "thousands: ','\ncolumns: {number: Nr, amount: Net, invoice_date: D, period_start: D, period_end: D, item: I}\nconstants: {vendor: wolkvox, currency: COP}\nitems: {Chat: {item: chat_licenses, charge: license}}\n",
			"Nr,Net,D,I\n1,\"12,34\",2026-05-01,Chat\n1,\"1,234.50\",2026-05-01,Chatt\n", []string{
				`stdin:2: amount: "12,34": want a number such as 1234.56 or 1,234.56`, `stdin:3: item: "Chatt" (did you mean "Chat"?): want it among the items of the mapping`,
			}},
	} {
		o := w.runWith(c.text, "invoice", "import", "-", "--mapping", writeFile(t, "m.yaml", c.mapping))
		if o.code != exitUsage || o.stdout != "" {
			t.Errorf("%s: exit code %d, stdout %q", c.name, o.code, o.stdout)
		}
		wantContains(t, c.name, o.stderr, c.want...)
	}
	wantContains(t, "no mapping", w.must(exitUsage, "invoice", "import", "x.csv", "--mapping", "/no/such.yaml").stderr, "--mapping: ", "want a YAML file")
	if got := w.value(`select count(*)::text from billing.invoice`); got != "0" {
		t.Errorf("%s invoices stored", got)
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wantContains(t, "before any load", w.must(exitDone, "match", "2026-05").stdout, "Invoices and statement of 2026-05\nnothing to compare: ")
	w.must(exitDone, "run")
	prices := "vendor,item,charge,unit_price,currency,valid_from\nkeystone,,committed,10.01,USD,2026-01-01\nwolkvox,,license,2.5,COP,2026-01-01\n"
	if o := w.runWith(prices, "rates", "import", "-"); o.code != exitDone {
		t.Fatal(o.stderr)
	}
	// The statement itself, as an invoice: all is equal but for one line that nothing explains.
	lines, err := csv.NewReader(strings.NewReader(w.must(exitDone, "statement", "2026-05", "--format", "csv").stdout)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	keystone, wolkvox := "", ""
	wantContains(t, "no invoice", w.must(exitDone, "match", "2026-05").stdout, "no imported invoice charges for this month: see `meterhouse invoice import --help`\n")
	head := "vendor,number,invoice_date,currency,subscription_number,item,charge,period_start,period_end,amount\n"
	for _, l := range lines[1:] {
		if l[12] == "" || l[19] == "true" {
			continue
		}
		row := fmt.Sprintf("%s,%%s,2026-05-31,%s,%s,%s,%s,%s,%s,%s\n", l[3], l[13], l[6], l[7], l[8], l[1], l[2], l[12])
		if l[3] == "keystone" {
			keystone += fmt.Sprintf(row, "9001")
		} else {
			wolkvox += fmt.Sprintf(row, "W-1")
		}
	}
	if keystone == "" || wolkvox == "" {
		t.Fatalf("no lines with a price: %v", lines)
	}
	if o := w.runWith(head+keystone+wolkvox, "invoice", "import", "-"); o.code != exitDone {
		t.Fatal(o.stderr)
	}
	out := w.must(exitDone, "match", "2026-05").stdout
	wantContains(t, "people", out, "Invoices and statement of 2026-05\n", "equal: ", " 0.00 USD\n", "difference 0.00\n", "with a provisional statement: see `meterhouse statement 2026-05`")

	// People see what differs, and how much is equal; programs see everything.
	priced := strings.Count(keystone+wolkvox, "\n")
	listed := func(args ...string) int {
		out := w.must(exitDone, append([]string{"match", "2026-05"}, args...)...).stdout
		return len(regexp.MustCompile(`(?m)( equal|,equal,.*)$`).FindAllString(out, -1))
	}
	for args, want := range map[string]int{"": 0, "--all": priced, "--format csv": priced} {
		if got := listed(strings.Fields(args)...); got < want || want == 0 && got > 0 {
			t.Errorf("match %s lists %d equal comparisons, want %d", args, got, want)
		}
	}

	wrong := strings.Replace(keystone, "\n", "7\n", 1) // the amount of the first line
	if o := w.runWith(head+wrong, "invoice", "import", "-"); o.code != exitDone {
		t.Fatal(o.stderr)
	}
	o := w.must(exitDone, "match", "2026-05", "--tolerance", "10")
	wantContains(t, "a wide tolerance", o.stdout, "rounding: 1 comparison, ")
	first, rest, _ := strings.Cut(keystone, "\n")
	cut := strings.LastIndex(first, ",")
	if o := w.runWith(head+first[:cut]+",99999.99\n"+rest, "invoice", "import", "-"); o.code != exitDone {
		t.Fatal(o.stderr)
	}
	o = w.must(exitDifference, "match", "2026-05")
	wantContains(t, "unexplained", o.stdout, "unexplained: 1 comparison, ")
	wantContains(t, "unexplained", o.stderr, "match 2026-05: 1 difference unexplained")
	rows, err := csv.NewReader(strings.NewReader(w.must(exitDifference, "match", "2026-05", "--format", "csv").stdout)).ReadAll()
	if err != nil || strings.Join(rows[0], " ") != "period period_start period_end source customer_id account subscription_number item charge invoices invoice_lines invoice_quantity invoice_unit_price "+
		"invoice_amount statement_quantity statement_unit_price statement_amount recomputed_quantity recomputed_amount difference currency cause detail state" {
		t.Errorf("%v: %v", err, rows[0])
	}
	// Before the invoices came there were none.
	wantContains(t, "--as-of", w.must(exitDone, "match", "2026-05", "--as-of", "2026-05-01T00:00:00Z").stdout, "as known at 2026-05-01 00:00:00Z\nnothing to compare")
	for args, want := range map[string]string{
		"match":                           "0 arguments: want one, a month such as 2026-10",
		"match 2026-13":                   `period "2026-13"`,
		"match 2026-05 --tolerance lots":  `--tolerance "lots": want a number of 0 or more`,
		"match 2026-05 --as-of yesterday": `--as-of "yesterday"`,
		"match 2026-05 --tolerance -1":    `--tolerance "-1"`,
		"match 2026-05 --out /no/such/it": "want a file in a folder that can be written",
		"invoice show":                    "0 arguments: want one, the number of an invoice",
	} {
		wantContains(t, args, w.must(exitUsage, strings.Fields(args)...).stderr, want)
	}
}

// Whatever is written by the signs of a mapping is read as it was meant, to the last digit.
func TestNumbersOfInvoices(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(-9e17, 9e17).Draw(t, "n")
		want := decimal.New(n, -rapid.Int32Range(0, 6).Draw(t, "decimals"))
		signs := rapid.SampledFrom([][2]string{{".", ""}, {",", ""}, {".", ","}, {",", "."}, {",", " "}, {".", "'"}}).Draw(t, "signs")
		m := invoiceMapping{Decimal: signs[0], Thousands: signs[1], Sign: rapid.SampledFrom([]string{"", "normal", "reversed"}).Draw(t, "sign")}
		whole, part, _ := strings.Cut(want.Abs().String(), ".")
		text := ""
		for i, digit := range whole {
			if i > 0 && (len(whole)-i)%3 == 0 {
				text += signs[1]
			}
			text += string(digit)
		}
		if part != "" {
			text += signs[0] + part
		}
		if want.IsNegative() {
			text = rapid.SampledFrom([]string{"-" + text, text + "-", "(" + text + ")", "\u2212" + text}).Draw(t, "minus")
		}
		if m.Sign == "reversed" {
			want = want.Neg()
		}
		file := &csvFile{name: "x"}
		got := m.amount(file, csvRow{1, map[string]string{"amount": text}}, "amount")
		if err := file.err(); err != nil || !got.Equal(want) {
			t.Fatalf("%s: got %s, want %s: %v", text, got, want, err)
		}
	})
	for _, text := range []string{"", "1.23", "1.2345", "1,2,3", "1.234.56", "1e3", "--1", "-1-", "(1", "1)", "€ 5", "0x1", "NaN", ",5", "5,", "12.3456,7", strings.Repeat("9", 41)} {
		file := &csvFile{name: "x"}
		m := invoiceMapping{Decimal: ",", Thousands: "."}
		if m.amount(file, csvRow{1, map[string]string{"amount": text}}, "amount"); file.err() == nil {
			t.Errorf("%q is taken for a number", text)
		}
	}
}
