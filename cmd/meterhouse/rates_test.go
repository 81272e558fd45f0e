package main

import (
	"strings"
	"testing"
)

func TestRates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wantContains(t, "before any import", w.must(exitDone, "rates", "list").stdout, "no price was imported yet\n")
	w.must(exitDone, "run", "keystone.customers", "keystone.subscriptions", "keystone.history")

	// Decimal commas, a byte order mark, capitals of a spreadsheet.
	file := writeFile(t, "prices.csv", "\ufeffvendor;item;charge;waiver;unit_price;currency;valid_from;valid_to\r\n"+
		"keystone;Extreme;committed;;1099,50;USD;2026-01-01;2026-12-31\r\n"+
		"keystone;Extreme;burst;FALSE;1,0625e3;USD;2026-01-01;\r\n"+
		"keystone;Extreme;burst;TRUE;0;USD;2026-01-01;\r\n"+
		"wolkvox;chat_licenses;license;;12.3400;COP;2026-01-01;\r\n")
	const card = `select string_agg(format('%s=%s', charge, unit_price), ' ' order by rate_id) from billing.rate where superseded_at is null`
	plan := w.must(exitDone, "rates", "import", file, "--plan")
	wantContains(t, "plan", plan.stdout, "would be: added 4, changed 0, ended 0, removed 0, unchanged 0, levels left unclassified ")
	if plan.stderr != "" {
		t.Errorf("warnings about known names: %s", plan.stderr)
	}
	if got := w.value(`select count(*)::text from billing.rate`); got != "0" {
		t.Errorf("--plan stored %s rows", got)
	}
	done := w.must(exitDone, "rates", "import", file)
	if done.stdout != strings.Replace(plan.stdout, "would be: ", "", 1) {
		t.Errorf("the plan says\n%s\nthe import\n%s", plan.stdout, done.stdout)
	}
	if got := w.value(card); got != "committed=1099.5 burst=1062.5 burst=0 license=12.34" {
		t.Errorf("got %s", got)
	}
	const versions = `select string_agg(xmin::text, ' ' order by rate_id) from billing.rate`
	before := w.value(versions)
	again := w.must(exitDone, "rates", "import", file)
	wantContains(t, "the same again", again.stdout, "added 0, changed 0, ended 0, removed 0, unchanged 4,")

	// The card can be taken out and given back.
	out := w.must(exitDone, "rates", "list", "--format", "csv").stdout
	if !strings.HasPrefix(out, "vendor,account,customer_id,subscription_number,item,charge,waiver,unit_price,currency,valid_from,valid_to\n"+
		"keystone,,,,Extreme,burst,false,1062.5,USD,2026-01-01,\n") {
		t.Errorf("the card as CSV:\n%s", out)
	}
	back := w.must(exitDone, "rates", "import", writeFile(t, "again.csv", out), "--replace", "--format", "csv")
	if lines := strings.Split(back.stdout, "\n"); lines[0] != "what,vendor,account,customer_id,subscription_number,item,charge,waiver,valid_from,was,is" ||
		len(lines) > 1 && lines[1] != "" && !strings.HasPrefix(lines[1], "unclassified,") {
		t.Errorf("the same card changed it:\n%s", back.stdout)
	}
	if after := w.value(versions); after != before {
		t.Errorf("rows were touched: %s, were %s", after, before)
	}

	changed := w.runWith("vendor,item,charge,unit_price,currency,valid_from,valid_to\nkeystone,Extreme,committed,1100,USD,2026-01-01,2026-12-31\nkeystone,Extreme,burst,1062.5,USD,2026-01-01,2026-06-30\n",
		"rates", "import", "-", "--replace", "--format", "csv")
	for _, want := range []string{
		"changed,keystone,,,,Extreme,committed,false,2026-01-01,1099.5 USD to 2026-12-31,1100 USD to 2026-12-31\n",
		"ended,keystone,,,,Extreme,burst,false,2026-01-01,1062.5 USD,1062.5 USD to 2026-06-30\n",
		"removed,keystone,,,,Extreme,burst,true,2026-01-01,0 USD,\n",
		"removed,wolkvox,,,,chat_licenses,license,false,2026-01-01,12.34 COP,\n",
	} {
		wantContains(t, "changes", changed.stdout, want)
	}
	// The last price can be withdrawn, when somebody says so; what it was stays known.
	const none = "vendor,charge,unit_price,currency,valid_from\n"
	for _, args := range [][]string{{"--replace"}, {"--allow-empty"}, {}} {
		if o := w.runWith(none, append([]string{"rates", "import", "-"}, args...)...); o.code != exitUsage || w.value(card) == "" {
			t.Errorf("%v removed all: exit code %d", args, o.code)
		}
	}
	if o := w.runWith(none, "rates", "import", "-", "--replace", "--allow-empty"); o.code != exitDone || w.value(`select count(*)::text from billing.rate where superseded_at is null`) != "0" {
		t.Errorf("all is withdrawn: exit code %d, %s%s", o.code, o.stdout, o.stderr)
	}
	wantContains(t, "history", w.must(exitDone, "rates", "list", "--history", "--format", "csv").stdout,
		",1099.5,USD,2026-01-01,2026-12-31,prices.csv:2,", ",1100,USD,2026-01-01,2026-12-31,stdin:2,")
}

// Levels without a class have no price but by name: they are listed whatever is imported.
func TestRatesListUnclassifiedLevels(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run", "keystone.customers", "keystone.history")
	o := w.runWith("pattern,level_class\nStandard,base\n", "levels", "import", "-", "--replace")
	wantContains(t, "levels", o.stdout, "unclassified  Extreme ")
	o = w.runWith("vendor,charge,unit_price,currency,valid_from\nkeystone,committed,10,USD,2026-01-01\n", "rates", "import", "-")
	wantContains(t, "rates", o.stdout, "unclassified  keystone ", "  Extreme\n", "added 1, ")
	if strings.Contains(o.stdout, "levels left unclassified 0") {
		t.Errorf("none is counted:\n%s", o.stdout)
	}
}

func TestRatesImportRefusesTheWholeFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const head = "vendor,account,customer_id,item,charge,waiver,unit_price,currency,valid_from,valid_to\n"
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"several problems", head +
			"keystne,,,Extreme,committed,,1,USD,2026-01-01,\n" +
			"keystone,,,Extreme,license,,1,USD,2026-01-01,\n" +
			"wolkvox,calls,C-1,chat_licenses,license,true,-1,usd,2026-01-01,\n" +
			"keystone,,,Extreme,burst,perhaps,\"1,5\",USD,0206-01-01,2026-02-30\n" +
			"keystone,,,Extreme,burst,,,,01/02/2026,\n" +
			"keystone,,,Extreme,burst,,1,USD,2026-02-01,2026-01-31\n", []string{
			`  stdin:2: vendor: "keystne" (did you mean "keystone"?): want keystone or wolkvox`,
			`  stdin:3: charge: "license": want committed or burst`,
			`  stdin:4: unit_price: -1: want 0 or more`,
			`  stdin:4: currency: "usd": want a code of ISO 4217 in capitals`,
			`  stdin:4: waiver: "true": want it on charge burst only`,
			`  stdin:4: customer_id: "C-1": want it empty: wolkvox has accounts only`,
			`  stdin:5: waiver: "perhaps": want true or false`,
			`  stdin:5: unit_price: "1,5": want digits with a decimal point and no other separator`,
			`  stdin:5: valid_from: "0206-01-01": want a day as YYYY-MM-DD, of this century`,
			`  stdin:5: valid_to: "2026-02-30": want a day as YYYY-MM-DD`,
			`  stdin:6: unit_price: "": want digits`,
			`  stdin:6: currency: ""`,
			`  stdin:6: valid_from: "01/02/2026": want a day as YYYY-MM-DD`,
			`  stdin:7: valid_to: 2026-01-31 is before valid_from 2026-02-01`,
		}},
		{"overlaps", head +
			"keystone,,,Extreme,burst,,1,USD,2026-06-01,2026-06-30\n" +
			"keystone,,,Extreme,burst,true,1,USD,2026-01-01,\n" +
			"keystone,,,Extreme,burst,,1,USD,2026-01-01,2026-12-31\n" +
			"keystone,,,Extreme,burst,,1,USD,2026-12-31,\n" +
			"keystone,,,Premium,burst,,1,USD,2026-12-31,\n", []string{
			"stdin: 2 problems, nothing is imported",
			"stdin:2: valid_from: 2026-06-01 to 2026-06-30 overlaps line 4 (2026-01-01 to 2026-12-31), which prices the same",
			"stdin:5: valid_from: from 2026-12-31 on overlaps line 4 (2026-01-01 to 2026-12-31)",
		}},
		{"a point among decimal commas", "vendor;charge;unit_price;currency;valid_from\nkeystone;burst;1.250;USD;2026-01-01\n", []string{
			`stdin:2: unit_price: "1.250": a decimal, or thousands?`}},
		{"two commas", "vendor;charge;unit_price;currency;valid_from\nkeystone;burst;1,250,5;USD;2026-01-01\n", []string{`unit_price: "1,250,5": want digits`}},
		{"very long", head + "keystone,,,Extreme,burst,,1." + strings.Repeat("1", 40) + ",USD,2026-01-01,\n", []string{"want at most 40 digits"}},
		{"no rows", head, []string{"stdin: no rows below the header: want at least one, or --replace --allow-empty"}},
		{"a column is missing", "vendor,item,charge,unit_price,currency\nkeystone,Extreme,burst,1,USD\n", []string{"stdin:1: no column valid_from: want vendor, [account], "}},
	} {
		o := w.runWith(c.text, "rates", "import", "-", "--replace")
		if o.code != exitUsage || o.stdout != "" {
			t.Errorf("%s: exit code %d, stdout %q", c.name, o.code, o.stdout)
		}
		wantContains(t, c.name, o.stderr, c.want...)
	}
	if got := w.value(`select count(*)::text from billing.rate`); got != "0" {
		t.Errorf("%s rows were stored", got)
	}

	// Against what is stored, all at once too.
	const columns = "vendor,item,charge,unit_price,currency,valid_from,valid_to\n"
	if o := w.runWith(columns+"keystone,Extreme,burst,1,USD,2026-01-01,2026-12-31\nkeystone,Premium,burst,1,USD,2026-01-01,\n", "rates", "import", "-"); o.code != exitDone {
		t.Fatalf("exit code %d: %s", o.code, o.stderr)
	}
	o := w.runWith(columns+"keystone,Extreme,burst,2,USD,2026-12-01,\nkeystone,Premium,burst,2,USD,2025-01-01,\n", "rates", "import", "-")
	wantContains(t, "conflicts", o.stderr, "stdin: 2 problems, nothing is imported",
		"stdin:2: from 2026-12-01 on: the stored price 1 USD 2026-01-01 to 2026-12-31 (stdin:2) is for the same: want that row in the file too, with a valid_to before, or --replace",
		"stdin:3: from 2025-01-01 on: the stored price 1 USD from 2026-01-01 on (stdin:3)")
	if o.code != exitUsage || w.value(`select count(*)::text from billing.rate where unit_price = 2`) != "0" {
		t.Errorf("exit code %d, or something was stored", o.code)
	}
}

func TestRatesWarnOfStrangers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run", "keystone.customers", "keystone.subscriptions")
	number := w.value(`select min(s.subscription_number) from dw.dim_subscription as s join dw.dim_customer as c using (customer_key) where c.customer_id = 'C-1001'`)
	o := w.runWith("vendor,account,customer_id,subscription_number,item,charge,unit_price,currency,valid_from\n"+
		"keystone,acme,C-1001,"+number+",Extreme,burst,1,USD,2026-01-01\n"+
		"keystone,amce,C-1002,"+number+",Extremo,burst,1,USX,2026-01-01\n"+
		"keystone,amce,C-1002,X,Extremo,committed,1,USX,2026-01-01\n"+
		"wolkvox,calls,,,chat_licences,license,1,USD,2026-01-01\n"+
		"wolkvox,calls,,,ivr_minutes,license,1,USD,2026-01-01\n", "rates", "import", "-")
	if o.code != exitDone {
		t.Fatalf("exit code %d: %s", o.code, o.stderr)
	}
	wantContains(t, "stderr", o.stderr,
		`stdin:3: account "amce" (did you mean "acme"?) is not known yet: it is imported, and applies once`,
		`stdin:3: customer_id "C-1002" (did you mean "C-1001"?) is not known yet`,
		`stdin:3: subscription_number "`+number+`" is one of customer C-1001, not of C-1002: the row applies to nothing`,
		`stdin:3: item "Extremo" (did you mean "Extreme"?)`,
		`stdin:3: currency "USX" (did you mean "UGX"?) is not in ISO 4217: amounts in it are rounded to 2 decimals`,
		`stdin:4: subscription_number "X"`,
		`stdin:5: item "chat_licences" (did you mean "chat_licenses"?)`,
		`stdin:6: item "ivr_minutes" is a counter: charge license applies to nothing, want usage for a counter`)
	if n := strings.Count(o.stderr, "warning: "); n != 8 {
		t.Errorf("%d warnings, want each value once:\n%s", n, o.stderr)
	}
}

func TestRatesRule(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run", "wolkvox.billing")
	wantContains(t, "rules", w.must(exitDone, "rates", "rules", "--format", "csv").stdout, "product,rule,reason,decided_at\n", "\nchat_licenses,max,,\n")
	if o := w.must(exitDone, "rates", "rule", "chat_licenses", "last", "--reason", "contract, section 4"); o.stdout != "chat_licenses: last, was max\n" {
		t.Errorf("got %q", o.stdout)
	}
	wantContains(t, "rules", w.must(exitDone, "rates", "rules", "--format", "csv").stdout, "\nchat_licenses,last,\"contract, section 4\",2026-05-20 12:00:00+00\n")
	if o := w.must(exitDone, "rates", "rule", "chat_licenses", "last", "--reason", "again"); o.stdout != "chat_licenses: last, was last\n" {
		t.Errorf("got %q", o.stdout)
	}
	for _, c := range []struct{ args, want string }{
		{"chat_licenses", "rates rule: 1 arguments: want two, a product and max, last or average"},
		{"chat_licenses mean --reason R", `rates rule: "mean"`},
		{"chat_licenses max", "rates rule: want --reason"},
		{"ivr_minutes max --reason R", "ivr_minutes is a counter"},
		{"chat_licences max --reason R", `unknown product "chat_licences" (did you mean "chat_licenses"?)`},
	} {
		wantContains(t, c.args, w.must(exitUsage, append([]string{"rates", "rule"}, strings.Fields(c.args)...)...).stderr, c.want)
	}
	if got := w.value(`select count(*)::text from billing.product_rule`); got != "1" {
		t.Errorf("%s decisions, want 1", got)
	}
}
