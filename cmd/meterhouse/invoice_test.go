package main

import (
	"encoding/csv"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/shopspring/decimal"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/unicode"
	"pgregory.net/rapid"
)

const invoiceHead = "vendor,number,invoice_date,currency,subscription_number,item,charge,period_start,period_end,quantity,unit_price,amount\n"

func TestInvoiceImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wantContains(t, "before any import", w.must(exitDone, "invoice", "list").stdout, "no invoice was imported yet\n")
	if out := w.run("invoice", "show", "1"); out.code != exitFailed || !strings.Contains(out.stderr, "no such invoice was imported") {
		t.Errorf("an invoice that is not there: %+v", out)
	}

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
	wantContains(t, "one", w.must(exitDone, "invoice", "show", "9001", "--format", "csv").stdout, "keystone,2026-05-05,10,,,A-1,Extreme,committed,2026-04-01,2026-04-30,1234.5,10.01,12357.35,EUR,Kapazität Extreme; zugesagt,mai.csv:2,,,\n")

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

func TestInvoiceWithdraw(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	row := "keystone,%s,2026-05-05,USD,A-1,Extreme,committed,2026-04-01,2026-04-30,100,10,1000\n"
	if o := w.runWith(invoiceHead+fmt.Sprintf(row, "7")+fmt.Sprintf(row, "70"), "invoice", "import", "-"); o.code != exitDone {
		t.Fatal(o.stderr)
	}
	withdraw := func(code int, args ...string) outcome {
		t.Helper()
		return w.must(code, append([]string{"invoice", "withdraw", "70", "--vendor", "keystone", "--reason", "is 7, mistyped", "--by", "M. Berg"}, args...)...)
	}
	wantContains(t, "plan", withdraw(exitDone, "--plan").stdout, "would be withdrawn: keystone 70 of 2026-05-05, 1 line, 1000.00 USD\n")
	wantContains(t, "the list", w.must(exitDone, "invoice", "list", "--format", "csv").stdout, "keystone,7,", "keystone,70,")
	wantContains(t, "withdrawn", withdraw(exitDone).stdout, "withdrawn: keystone 70 of 2026-05-05, 1 line, 1000.00 USD\n")
	wantContains(t, "again", withdraw(exitDone, "--by", "another").stdout, "keystone 70 is withdrawn already, by M. Berg at ", ": is 7, mistyped\n")
	if out := w.must(exitDone, "invoice", "list", "--format", "csv").stdout; strings.Contains(out, "keystone,70,") {
		t.Errorf("the list still has it:\n%s", out)
	}
	wantContains(t, "history", w.must(exitDone, "invoice", "list", "--history", "--format", "csv").stdout, "superseded_at,withdrawn_by,reason\n", "M. Berg,\"is 7, mistyped\"\n")
	wantContains(t, "one", w.must(exitDone, "invoice", "show", "70", "--format", "csv").stdout, "stdin:3,", ",M. Berg,\"is 7, mistyped\"\n")
	for args, want := range map[string]string{
		"8 --vendor keystone --reason r": "no such invoice was imported: want one that `meterhouse invoice list` has",
		"7 --vendor wolkvox --reason r":  "no such invoice was imported",
		"7 --vendor keystone":            "want --reason: whoever asks later shall know why",
		"7 --reason r":                   `--vendor "": want keystone or wolkvox`,
		"7 --vendor netapp --reason r":   `--vendor "netapp": want keystone or wolkvox`,
		"--vendor keystone --reason r":   "0 arguments: want one, the number of an invoice",
	} {
		wantContains(t, args, w.must(exitUsage, append([]string{"invoice", "withdraw"}, strings.Fields(args)...)...).stderr, want)
	}
	if o := w.runWith(invoiceHead+fmt.Sprintf(row, "70"), "invoice", "import", "-"); o.code != exitDone {
		t.Fatal(o.stderr)
	}
	wantContains(t, "imported again", w.must(exitDone, "invoice", "list", "--format", "csv").stdout, "keystone,7,", "keystone,70,")
	if out := w.must(exitDone, "invoice", "show", "70", "--format", "csv").stdout; strings.Contains(out, "M. Berg") {
		t.Errorf("it is shown as withdrawn:\n%s", out)
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
			`m.yaml:4:7: date: "DD/MM": want a year, a month and a day`, `m.yaml:6:12: thousands: "," is the decimal sign too`, "constants.amount: is a column too",
			"constants.vendor: is empty", "m.yaml:1:10: columns: no number, in the columns or constants", "items.A: no item",
		}},
		{"not YAML", "columns: [", "", []string{"m.yaml:1"}},
		{"rows to skip without columns", "skip: {text: [Page]}\n", "", []string{"columns: are not there: want our names with those of the file"}},
		{"the file lacks columns", "columns: {number: Nr, amount: Net, invoice_date: D, period_start: D, period_end: D, item: I}\nconstants: {vendor: wolkvox, currency: COP, charge: usage}\n",
			"Number,Net,D,I\n1,2,3,4\n", []string{`stdin:1: no column "Nr" (did you mean "Net"?) for number: the file has ["Number" "Net" "D" "I"]`}},
		{"unknown items and wrong thousands", "thousands: ','\ncolumns: {number: Nr, amount: Net, invoice_date: D, period_start: D, period_end: D, item: I}\nconstants: {vendor: wolkvox, currency: COP}\nitems: {Chat: {item: chat_licenses, charge: license}}\n",
			"Nr,Net,D,I\n1,\"12,34\",2026-05-01,Chat\n1,\"1,234.50\",2026-05-01,Chatt\n", []string{
				`stdin:2: amount ("Net"): "12,34": want a number such as 1234.56 or 1,234.56`, `stdin:3: item ("I"): "Chatt" is not among the items of the mapping (did you mean "Chat"?)`,
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
		got := m.amount(file, csvRow{line: 1, cells: map[string]string{"amount": text}}, "amount")
		if err := file.err(); err != nil || !got.Equal(want) {
			t.Fatalf("%s: got %s, want %s: %v", text, got, want, err)
		}
	})
	for _, text := range []string{"", "1.23", "1.2345", "1,2,3", "1.234.56", "1e3", "--1", "-1-", "(1", "1)", "€ 5", "0x1", "NaN", ",5", "5,", "12.3456,7", strings.Repeat("9", 41)} {
		file := &csvFile{name: "x"}
		m := invoiceMapping{Decimal: ",", Thousands: "."}
		if m.amount(file, csvRow{line: 1, cells: map[string]string{"amount": text}}, "amount"); file.err() == nil {
			t.Errorf("%q is taken for a number", text)
		}
	}
}

// Files as they come: letterheads, pages with their headers, sums, units, symbols, months in words.
func TestInvoiceFilesOfManyStyles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stored := func() string {
		return w.value(`select coalesce(string_agg(concat_ws(' ', invoice_number, invoice_date, line_number, subscription_number, item, charge, period_start, period_end,
			coalesce(quantity::text, '-'), coalesce(unit_price::text, '-'), amount, currency, line_text, imported_from), '
' order by invoice_number, line_number), '') from mart.invoice_line`)
	}
	utf16 := func(text string) string {
		coded, err := unicode.UTF16(unicode.LittleEndian, unicode.UseBOM).NewEncoder().String(text)
		if err != nil {
			t.Fatal(err)
		}
		return coded
	}
	for _, c := range []struct{ name, mapping, text, want string }{
		{"of the United States", `
header: 4
date: M/D/YY
period: M/D/YYYY - M/D/YYYY
thousands: ","
symbols: [$, TB]
columns: {number: Invoice, invoice_date: Date, subscription_number: Subscription, item: Description, text: Description, period: Service period, unit: UoM, quantity: Qty, unit_price: Rate, amount: Amount}
constants: {vendor: keystone, currency: USD}
items:
  Extreme committed capacity: {item: Extreme, charge: committed}
  Extreme burst: {item: Extreme, charge: burst}
  Sales tax: {charge: other}
units: {TiB: "1", GiB: 1/1024, TB: "0.9094947017729282379150390625"}
totals: {text: [Subtotal*, Total due]}
skip: {number: [Thank you*], text: [Storage services]}
`, "Imaginary Storage, Inc.\n\"1 Main Street\nSpringfield\"\nInvoice,Date,Subscription,Description,Service period,UoM,Qty,Rate,Amount\n" +
			",,,Storage services,,,,,\n" +
			"US-1,5/2/26,A-1,\"Extreme committed\ncapacity\",4/1/2026 - 4/30/2026,GiB,\"102,400\",$0.0097753906,\"$1,001.00\"\n" +
			"US-1,5/2/26,A-1,Extreme burst,4/1/2026 - 4/30/2026,TB,10 TB,$5,($50.00)\n" +
			"Invoice,Date,Subscription,Description,Service period,UoM,Qty,Rate,Amount\n" +
			",,,Subtotal,,,,,951.00\n" +
			"US-1,5/2/26,,Sales tax,4/1/2026 - 4/30/2026,,,,-$0.50\n" +
			",,,Total due,,,,,$950.50\nThank you for your business\n",
			`US-1 2026-05-02 1 A-1 Extreme committed 2026-04-01 2026-04-30 100 10.0099999744 1001.00 USD Extreme committed capacity f.csv:6
US-1 2026-05-02 2 A-1 Extreme burst 2026-04-01 2026-04-30 9.094947017729282379150390625 5.49755813888 -50.00 USD Extreme burst f.csv:8
US-1 2026-05-02 3   other 2026-04-01 2026-04-30 - - -0.50 USD Sales tax f.csv:11`},
		{"of Germany", `
delimiter: ";"
decimal: ","
thousands: "."
date: D.M.YYYY
ends: exclusive
encoding: iso-8859-15
symbols: [€, EUR]
columns: {number: Rechnung, invoice_date: Datum, subscription_number: Vertrag, text: Bezeichnung, item: Bezeichnung, period_start: von, period_end: bis, quantity: Menge, unit_price: Preis, amount: Betrag}
constants: {vendor: keystone, currency: EUR}
items: {Kapazität Extreme: {item: Extreme, charge: committed}, Gutschrift: {charge: other}}
totals: {text: [Übertrag, "Summe *"]}
`, "Rechnung;Datum;Vertrag;Bezeichnung;von;bis;Menge;Preis;Betrag\r\n" +
			"DE-1;5.5.2026;A-1;Kapazit\xe4t Extreme;1.4.2026;1.5.2026;1.234,50;10,01 \xa4;12.357,35 \xa4\r\n" +
			";;;\xdcbertrag;;;;;12.357,35\r\n" +
			"DE-1;5.5.2026;;Gutschrift;1.4.2026;1.5.2026;;;EUR 357,35-\r\n" +
			"DE-2;5.5.2026;;Gutschrift;1.4.2026;1.5.2026;;;1\r\n" +
			"DE-1;;;Summe DE-1;;;;;12.000,00\r\n;;;Summe aller;;;;;12.001,00\r\n",
			`DE-1 2026-05-05 1 A-1 Extreme committed 2026-04-01 2026-04-30 1234.50 10.01 12357.35 EUR Kapazität Extreme f.csv:2
DE-1 2026-05-05 2   other 2026-04-01 2026-04-30 - - -357.35 EUR Gutschrift f.csv:4
DE-2 2026-05-05 1   other 2026-04-01 2026-04-30 - - 1 EUR Gutschrift f.csv:5`},
		{"of Colombia", `
delimiter: "\t"
decimal: ","
thousands: "."
date: DD/MM/YYYY
period: MMM YYYY
encoding: utf-16
symbols: [$]
columns: {number: Factura, invoice_date: Fecha, item: Producto, period: Mes, amount: Valor}
constants: {vendor: wolkvox, currency: COP}
items: {Chat: {item: chat_licenses, charge: license}}
`, utf16("Factura\tFecha\tProducto\tMes\tValor\nCO-1\t02/05/2026\tChat\tApr 2026\t$ 1.234.567\n"),
			`CO-1 2026-05-02 1  chat_licenses license 2026-04-01 2026-04-30 - - 1234567 COP  f.csv:2`},
		{"with spaces for thousands", `
thousands: " "
date: YYYY-MM-DD
period: YYYY-MM-DD/YYYY-MM-DD
columns: {number: N, period: P, amount: A}
constants: {vendor: wolkvox, currency: EUR, item: sms, charge: usage, invoice_date: "2026-05-02"}
`, "N,P,A\nSP-1,2026-04-01/2026-04-30,1\u00a0234.50\nSP-1,2026-04-01/2026-04-30,1\u202f234 567.5\n",
			`SP-1 2026-05-02 1  sms usage 2026-04-01 2026-04-30 - - 1234.50 EUR  f.csv:2
SP-1 2026-05-02 2  sms usage 2026-04-01 2026-04-30 - - 1234567.5 EUR  f.csv:3`},
	} {
		w.exec(`truncate billing.invoice cascade`)
		o := w.run("invoice", "import", writeFile(t, "f.csv", c.text), "--mapping", writeFile(t, "m.yaml", c.mapping))
		if got := stored(); o.code != exitDone || got != c.want {
			t.Errorf("%s: exit code %d, %s\nstored\n%s\nwant\n%s", c.name, o.code, o.stderr, got, c.want)
		}
	}
}

func TestInvoiceFilesThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const columns = "columns: {number: N, item: I, text: I, amount: A, quantity: Q, unit_price: P}\nconstants: {vendor: wolkvox, currency: EUR, charge: usage, invoice_date: '2026-05-02', period_start: '2026-04-01', period_end: '2026-04-30'}\n"
	const head = "N,I,A,Q,P\n"
	for _, c := range []struct {
		name, mapping, text string
		want                []string
	}{
		{"a line is lost", columns + "totals: {text: [Total]}\n", head + "1,sms,10,,\n1,mms,5.50,,\n,Total,25.50,,\n", []string{
			`stdin:4: amount ("A"): 25.5 in a row that sums up, but all lines above come to 15.5`, "those of invoice 1 come to 15.5, those since the last sum come to 15.5: want every line in the file, and none twice"}},
		{"a sum without an amount", columns + "totals: {text: [Total]}\n", head + "1,sms,10,,\n,Total\n", []string{`stdin:3: amount ("A"): "": want a number`}},
		{"money in a row that is skipped", columns + "skip: {text: [Fee*]}\n", head + "1,Fee for all,10,,\n1,Fees,zero,,\n1,Fee,0.00,,\n", []string{`stdin:2: amount ("A"): "10": want none in a row that is skipped`}},
		{"too many fields", columns, head + "1,sms,10,,,,7\n1,mms\n", []string{"stdin:2: 7 fields, want 5 as in the header", "stdin:3: 2 fields, want 5"}},
		{"symbols inside of numbers", columns + "symbols: [€]\n", head + "1,sms,12€50,,\n", []string{`amount ("A"): "12€50": want a number`}},
		{"another currency", columns + "symbols: [EUR]\n", head + "1,sms,USD 5,,\n", []string{`amount ("A"): "USD 5": want a number`}},
		{"UTF-8 read as something else", columns + "encoding: windows-1252\n", head + "1,café,1,,\n", []string{"stdin: is utf-8 and not windows-1252, as the mapping says"}},
		{"UTF-16 read as something else", columns + "encoding: iso-8859-15\n", "\xff\xfeN\x00", []string{"stdin: is utf-16 and not iso-8859-15"}},
		{"no UTF-16", columns + "encoding: utf-16\n", head, []string{"stdin: is something else and not utf-16"}},
		{"half of UTF-16", columns + "encoding: utf-16\n", "\xff\xfeN\x00,", []string{"stdin: is cut off"}},
		{"Latin-1 without a word", columns, head + "1,caf\xe9,1,,\n", []string{`stdin:2: not UTF-8: want the file saved as "CSV UTF-8", or its encoding in the mapping`}},
		{"a header below the end", columns + "header: 9\n", head, []string{"stdin: has no line 9: want the line of the header"}},
		{"a quote below a letterhead", columns + "header: 3\n", "\n\n" + head + "1,s\"ms,1,,\n", []string{"stdin:4: column"}},
		{"an unknown unit", "units: {GiB: 1/1024}\n" + strings.Replace(columns, "item: I", "item: I, unit: I", 1), head + "1,TiB,1,5,2\n1,GiB,1,,\n", []string{`stdin:2: unit ("I"): "TiB" (did you mean "GiB"?): want it among the units of the mapping, which has ["GiB"]`}},
		{"a price without an end", "units: {third: '3'}\n" + strings.Replace(columns, "item: I", "item: I, unit: I", 1), head + "1,third,1,5,2\n", []string{`stdin:2: unit_price ("P"): "2" for one third has no exact price in our unit`}},
		{"a mapping with mistakes", columns + "period: MM/YYYY\nends: never\nheader: -1\nsymbols: ['', '5']\nunits: {GiB: '0', TB: lots}\ntotals: {charge: [x]}\nskip: {text: ['*']}\nencoding: ebcdic\ndate: YYYY/DD\n", "", []string{
			"period: want both, the column that has it and how it is written", `ends: "never": want one of ["inclusive" "exclusive"]`, "header: -1: want the line", `symbols: "": want a text`, `symbols: "5": want a text`,
			`units.GiB: "0": want how many of ours it is`, `units.TB: "lots": want how many`, "units: want both, the column or constant", "totals.charge: no such column: want one of ours that the columns have: amount, item, number, quantity, text or unit_price",
			`skip.text: ["*"]: want texts`, `encoding: "ebcdic": want one of`, `date: "YYYY/DD": want a year, a month and a day`,
		}},
		{"a period that is none", columns + "period: sometimes\n", "", []string{`period: "sometimes": want two dates, such as DD.MM.YYYY - DD.MM.YYYY, or a month, such as MM/YYYY`}},
	} {
		o := w.runWith(c.text, "invoice", "import", "-", "--mapping", writeFile(t, "m.yaml", c.mapping))
		if o.code != exitUsage || o.stdout != "" {
			t.Errorf("%s: exit code %d, stdout %q", c.name, o.code, o.stdout)
		}
		wantContains(t, c.name, o.stderr, c.want...)
	}
	const period = "columns: {number: N, period: P, amount: A}\nconstants: {vendor: wolkvox, currency: EUR, item: sms, charge: usage, invoice_date: '2026-05-02'}\n"
	for format, text := range map[string]string{"MM/YYYY": "13/2026", "MMM YYYY": "Abril 2026", "DD.MM.YYYY - DD.MM.YYYY": "01.04.2026", "M/D/YYYY-M/D/YYYY": "4/1/2026-31/4/2026"} {
		o := w.runWith("N,P,A\n1,"+text+",5\n", "invoice", "import", "-", "--mapping", writeFile(t, "m.yaml", period+"period: "+format+"\n"))
		wantContains(t, format, o.stderr, fmt.Sprintf(`stdin:2: period ("P"): %q: want`, text))
	}
	if got := w.value(`select count(*)::text from billing.invoice`); got != "0" {
		t.Errorf("%s invoices stored", got)
	}
	// What is imported and looks wrong is said.
	o := w.runWith(head+"1,sms,10,2,5\n1,sms,10,2,5\n1,mms,10,2,50\n", "invoice", "import", "-", "--mapping", writeFile(t, "m.yaml", columns), "--plan")
	wantContains(t, "a line twice", o.stderr, "stdin:3: says the same as stdin:2: both are imported and charge twice, unless there are two", "stdin:4: 2 × 50 is 100, and the amount 10: is the mapping right?")
}
