package main

import (
	"strings"
	"testing"
)

func TestReadingsImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run", "wolkvox.billing") // pins the operation, on 20 May
	fetched := w.value(`select string_agg(f::text, E'\n' order by f) from mart.license_snapshot as f`)
	described := w.value(`select description from mart.license_snapshot where product = 'chat_licenses'`)
	calls := w.calls()
	w.setNow("2026-05-21T12:00:00Z")
	file := writeFile(t, "portal.csv", "\ufeffproduct;description;date;items\n"+
		"chat_licenses;"+described+";2026-03-31;25\n"+
		"ivr_minutes;ivr;2026-03-31;1043:30:15\n"+
		"ivr_minutes;ivr;2026-04-30;99.50\n"+
		"chat_licenses;"+described+";2026-05-20;9999\n")
	plan := w.must(exitDone, "readings", "import", file, "--plan").stdout
	wantContains(t, "plan", plan, "calls    chat_licenses  2026-03", "calls    ivr_minutes    2026-04")
	if n := w.value(`select count(*)::text from dw.fact_license_reading where is_imported`); n != "0" {
		t.Errorf("--plan imported %s readings", n)
	}

	o := w.must(exitDone, "readings", "import", file)
	if want := "inserted 4, restated 0, unchanged 0, quarantined 0"; o.lastLine() != want || strings.Contains(o.stdout, "warning") {
		t.Errorf("import: %s\nwant: %s", o.stdout, want)
	}
	imported := `select string_agg(format('%s %s %s %s %s', product, snapshot_date, items, items_text, read_at), E'\n' order by product, snapshot_date)
		from mart.license_snapshot where is_imported`
	want := "chat_licenses 2026-03-31 25 25 2026-04-01 04:59:59+00\n" +
		"ivr_minutes 2026-03-31 62610.25 1043:30:15 2026-04-01 04:59:59+00\n" +
		"ivr_minutes 2026-04-30 99.5 99.50 2026-05-01 04:59:59+00"
	if got := w.value(imported); got != want {
		t.Errorf("imported:\n%s\nwant:\n%s", got, want)
	}
	// The day that the vendor told itself is as it told it; the import is kept beside it.
	if got := w.value(`select string_agg(f::text, E'\n' order by f) from mart.license_snapshot as f where not is_imported`); got != fetched {
		t.Errorf("fetched:\n%s\nwant:\n%s", got, fetched)
	}
	if n := w.value(`select count(*)::text from dw.fact_license_reading where is_imported`); n != "4" {
		t.Errorf("%s imported readings, want 4", n)
	}
	// What was never expected does not become lost.
	if got := w.value(`select string_agg(format('%s %s %s', product, day, status), ', ' order by product, day) from mart.coverage
		where source = 'wolkvox' and day < '2026-05-21'`); got != "chat_licenses 2026-03-31 observed, chat_licenses 2026-05-20 observed, "+
		"ivr_minutes 2026-03-31 observed, ivr_minutes 2026-04-30 observed, ivr_minutes 2026-05-20 observed" {
		t.Errorf("coverage: %s", got)
	}

	payloads := w.value(`select count(*)::text from raw.payload`)
	if again := w.must(exitDone, "readings", "import", file).lastLine(); again != "inserted 0, restated 0, unchanged 4, quarantined 0" {
		t.Errorf("the same again: %s", again)
	}
	if n := w.value(`select count(*)::text from raw.payload`); n != payloads {
		t.Errorf("the same again is landed: from %s to %s bodies", payloads, n)
	}
	before := w.facts()
	replayed := w.must(exitDone, "replay", "wolkvox.billing", "--from", "2026-03-01", "--until", "2026-06-01").lastLine()
	if replayed != "inserted 0, restated 0, unchanged 6, quarantined 0" || w.facts() != before {
		t.Errorf("replay of imports: %s", replayed)
	}
	if w.calls() != calls {
		t.Error("an import asked the vendor")
	}
	// The schedule goes on as if nothing had been imported.
	wantContains(t, "due", w.must(exitDone, "run", "--plan").stdout, "wolkvox.billing")
}

func TestReadingsImportRefusesTheWholeFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	header := "product,description,date,items,operation,read_at,account\n"
	o := w.runWith(header+"chat_licenses,chat,2026-03-31,25,op,,\n", "readings", "import", "-")
	wantContains(t, "before any reading", o.stderr, "account calls: its operation is not known yet: want a reading first")
	if o.code != exitUsage { // a slip in a file must not pin an operation
		t.Errorf("exit code %d, want 2", o.code)
	}
	w.must(exitDone, "run", "wolkvox.billing")
	before := w.snapshot()
	refused := func(rows string, wanted ...string) {
		t.Helper()
		o := w.runWith(header+rows, "readings", "import", "-")
		if o.code != exitUsage {
			t.Errorf("exit code %d, want 2\n%s", o.code, o.stderr)
		}
		wantContains(t, "stderr", o.stderr, wanted...)
	}
	refused("chat_licence,chat,2026-03-31,25,,,\n"+
		"ivr_minutes,,2026-03-31,25,,,\n"+
		"ivr_minutes,ivr,31.03.2026,25,,,\n"+
		"ivr_minutes,ivr,2026-03-31,\"1.043,5\",,,\n"+
		"ivr_minutes,ivr,2026-03-31,10,,2026-04-02T00:00:00-05:00,\n"+
		"ivr_minutes,ivr,2026-05-20,10,,,\n"+
		"ivr_minutes,ivr,2026-03-31,10,,,acme\n"+
		"ivr_minutes,ivr,2026-03-31,10,,noon,\n",
		`stdin: 8 problems, nothing is imported`,
		`stdin:2: product: "chat_licence" (did you mean "chat_licenses"?): want`,
		`stdin:3: description: "": value_missing: want a value`,
		`stdin:4: date: "31.03.2026": want the local day as YYYY-MM-DD`,
		`stdin:5: items: "1.043,5": number_format`,
		`stdin:6: date: "2026-03-31": out_of_month`,
		`stdin:7: date: 2026-05-20T23:59:59-05:00 is in the future`,
		`stdin:8: account: "acme"`,
		`stdin:9: read_at: "noon": want RFC 3339`)
	refused("ivr_minutes,ivr,2026-03-31,10,,,\nivr_minutes,ivr,2026-03-31,11,,,\n", `stdin:2: items: "10": conflicting_duplicate`, `stdin:3: items: "11"`)
	refused("", "no rows below the header")
	refused("ivr_minutes,ivr,2026-03-31,10,op,,\n", `stdin:2: operation: "op": wrong_operation: want "`)
	refused("ivr_minutes,ivr,0026-03-31,10,,,\n", `stdin:2: date: 0026-03-31: want a day of the last 20 years`)
	o = w.runWith("product;description;date;items\nivr_minutes;ivr;2026-03-31;62.610\n", "readings", "import", "-")
	wantContains(t, "thousands", o.stderr, `stdin:2: items: "62.610": a decimal, or thousands?`)
	if after := w.snapshot(); after != before {
		t.Errorf("from %s to %s", before, after)
	}
}
