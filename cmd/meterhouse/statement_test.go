package main

import (
	"encoding/csv"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStatement(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wantContains(t, "before any load", w.must(exitDone, "statement", "2026-05").stdout, "Statement of 2026-05\nno lines: ")
	w.must(exitDone, "run")
	prices := "vendor,item,charge,unit_price,currency,valid_from\n" +
		"keystone,,committed,10.005,USD,2026-01-01\nkeystone,Extreme,burst,1200,JPY,2026-01-01\nwolkvox,,license,2.5,COP,2026-01-01\n"
	if o := w.runWith(prices, "rates", "import", "-"); o.code != exitDone {
		t.Fatal(o.stderr)
	}

	// CSV: what the rows add up to is what the people's form says, to the last digit.
	rows, err := csv.NewReader(strings.NewReader(w.must(exitDone, "statement", "2026-05", "--format", "csv").stdout)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	const head = "period,period_start,period_end,source,customer_id,account,subscription_number,item,charge,quantity,unit,unit_price,amount,currency,state,days_expected,days_observed," +
		"discriminator,description,is_waiver,level_class,days_estimated,segment_from,segment_to,rate_id,note"
	if got := strings.Join(rows[0], ","); got != head || len(rows) < 5 {
		t.Fatalf("%d rows below %s, want %s", len(rows)-1, got, head)
	}
	sums, unpriced := map[string]*big.Rat{}, 0
	for _, row := range rows[1:] {
		if row[12] == "" {
			unpriced++
			wantContains(t, "a line without a price", row[25], "no rate")
			continue
		}
		amount, ok := new(big.Rat).SetString(row[12])
		if !ok || row[14] != "provisional" || !strings.Contains(row[25], "period is not over") {
			t.Errorf("got %v, want an amount and a running period", row)
		}
		if sums[row[13]] == nil {
			sums[row[13]] = new(big.Rat)
		}
		sums[row[13]].Add(sums[row[13]], amount)
	}
	people := w.must(exitDone, "statement", "2026-05").stdout
	if len(sums) < 2 || unpriced == 0 {
		t.Fatalf("%d currencies, %d lines without a price: want 2 and 1 at least\n%s", len(sums), unpriced, people)
	}
	for currency, sum := range sums {
		wantContains(t, "totals", people, "\ntotal "+sum.FloatString(map[string]int{"USD": 2, "COP": 2}[currency])+" "+currency+", ")
	}
	wantContains(t, "people", people, "Statement of 2026-05\n", "provisional", " without a price, in no total: see `meterhouse report unpriced_lines --param month=2026-05`", "provisional lines: the note says why")
	// What is the same on every line, and what a name says already, stands once at most.
	wantContains(t, "people", people, "\n20 lines by calendar month, since the subscription has no calendar", "  chat_licenses  ", "  10.005  ")
	if strings.Contains(people, "calendar assumed") || strings.Contains(people, "Chat licenses") {
		t.Errorf("people read what they know:\n%s", people)
	}
	wantContains(t, "Markdown", w.must(exitDone, "statement", "2026-05", "--format", "markdown").stdout, "## Statement of 2026-05\n", "| customer | ", "\n- total ")

	// JSON has numbers with their digits, null for what is unknown, and the selection.
	var records []map[string]any
	only := w.must(exitDone, "statement", "2026-05", "--format", "json", "--account", "calls").stdout
	if err := json.Unmarshal([]byte(only), &records); err != nil || len(records) == 0 {
		t.Fatalf("%v: %s", err, only)
	}
	for _, r := range records {
		if r["source"] != "wolkvox" || r["charge"] == "usage" && (r["amount"] != nil || r["currency"] != nil) || r["customer_id"] != "" {
			t.Errorf("got %v", r)
		}
	}
	customer := rows[1][4]
	for _, row := range rows[1:] {
		if row[4] != "" {
			customer = row[4]
		}
	}
	out, err := csv.NewReader(strings.NewReader(w.must(exitDone, "statement", "2026-05", "--format", "csv", "--customer", customer).stdout)).ReadAll()
	if err != nil || len(out) < 2 {
		t.Fatalf("%v: %v", err, out)
	}
	for _, row := range out[1:] {
		if row[4] != customer {
			t.Errorf("--customer %s: got a line of %q", customer, row[4])
		}
	}
	// A slip must not make an empty statement, which would say that nothing is owed.
	for _, format := range []string{"table", "csv", "xlsx"} {
		wantContains(t, format, w.must(exitUsage, "statement", "2026-05", "--format", format, "--customer", "C-10O1").stderr,
			`meterhouse: statement: --customer "C-10O1" (did you mean "C-1001"?): nothing of it was loaded: want one of 0042117, `)
		wantContains(t, format, w.must(exitUsage, "statement", "2026-05", "--format", format, "--account", "cals").stderr,
			`meterhouse: statement: --account "cals" (did you mean "calls"?): nothing of it was loaded: want one of acme, calls`)
	}

	// A file is there whole; nothing goes to stdout.
	file := filepath.Join(t.TempDir(), "may.csv")
	if o := w.must(exitDone, "statement", "2026-05", "--format", "csv", "--out", file); o.stdout != "" {
		t.Errorf("--out left on stdout: %s", o.stdout)
	}
	text, err := os.ReadFile(file)
	if err != nil || strings.Count(string(text), "\n") != len(rows) {
		t.Errorf("%d lines in the file, want %d: %v", strings.Count(string(text), "\n"), len(rows), err)
	}
	if left, _ := filepath.Glob(file + ".*"); left != nil {
		t.Errorf("left behind: %v", left)
	}

	// Before anything was loaded there was nothing to say.
	wantContains(t, "--as-of", w.must(exitDone, "statement", "2026-05", "--as-of", "2026-05-01T00:00:00Z").stdout, "as it was known at 2026-05-01 00:00:00Z\nno lines: ")
	for args, want := range map[string]string{
		"statement":                             "0 arguments: want one, a month such as 2026-10",
		"statement 2026-13":                     `period "2026-13": want a month as YYYY-MM`,
		"statement 2026-05 --as-of yesterday":   `--as-of "yesterday": want RFC 3339`,
		"statement 2026-05 --out /no/such/file": "want a file in a folder that can be written",
	} {
		wantContains(t, args, w.must(exitUsage, strings.Fields(args)...).stderr, want)
	}
}

func TestLevelsAccrued(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wantContains(t, "before any load", w.must(exitDone, "levels", "accrued").stdout, "no day of a service level was loaded yet\n")
	wantContains(t, "a decision before any load", w.must(exitUsage, "levels", "accrued", "acme", "2026-05", "running", "--reason", "x").stderr, `account "acme": no customer of it was loaded`)
	w.must(exitDone, "run", "keystone.customers", "keystone.history")
	if strings.Contains(w.must(exitDone, "status").stdout, "accrued burst of") {
		t.Error("status doubts a month that nothing speaks against")
	}
	// Told as a total, the column fits the other reading.
	w.exec(`update dw.fact_daily_consumption as d
		set over_committed_avg_tib = 30, accrued_sum_tib = n, accrued_last_tib = n
		from (select service_level_key as k, usage_date as u, 30 * row_number() over (partition by service_level_key order by usage_date) / 31.0 as n from dw.fact_daily_consumption) as s
		where s.k = d.service_level_key and s.u = d.usage_date`)
	out := w.must(exitDone, "levels", "accrued", "--format", "csv").stdout
	wantContains(t, "evidence", out, "account,month,reading,decided_by,reason,series,non_decreasing_share,resets,increment_error_tib,running_error_tib,proposal,is_contradicted\n", "acme,2026-05,increment,default,,", ",running,true\n")
	wantContains(t, "status", w.must(exitDone, "status").stdout, "accrued burst of acme in 2026-05 is read as increment and fits running", "`meterhouse levels accrued acme 2026-05 running --reason R`")
	before := w.must(exitDone, "statement", "2026-05", "--format", "csv").stdout
	o := w.must(exitDone, "levels", "accrued", "acme", "2026-05", "running", "--reason", "starts anew each month")
	if o.stdout != "acme 2026-05: running, was increment\n" {
		t.Errorf("got %s", o.stdout)
	}
	if strings.Contains(w.must(exitDone, "status").stdout, "accrued burst of") {
		t.Error("status doubts what was decided by its own evidence")
	}
	if after := w.must(exitDone, "statement", "2026-05", "--format", "csv").stdout; after == before {
		t.Error("the decision left the statement as it was")
	}
	for args, want := range map[string]string{
		"levels accrued acme":                               "1 arguments: want none, or account, month and increment or running",
		"levels accrued acme 2026-05 runing --reason x":     `"runing" (did you mean "running"?): want increment or running`,
		"levels accrued acme 2026-05 running":               "want --reason",
		"levels accrued acm 2026-05 running --reason x":     `account "acm" (did you mean "acme"?)`,
		"levels accrued acme 2026-5 increment --reason why": `period "2026-5"`,
	} {
		wantContains(t, args, w.must(exitUsage, strings.Fields(args)...).stderr, want)
	}
}

func TestLevelsAbsent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run", "keystone.customers", "keystone.history")
	wantContains(t, "nothing is absent", w.must(exitDone, "levels", "absent").stdout, "no day is absent and undecided\n")
	w.exec(`update dw.fact_daily_consumption set absent_since = '2026-05-16T00:00:00Z'
		where service_level_key = (select min(service_level_key) from dw.dim_service_level) and usage_date = '2026-05-14'`)
	key := strings.Split(w.value(`select concat_ws('|', c.customer_id, s.subscription_number, l.service_level) from dw.dim_service_level as l
		join dw.dim_subscription as s using (subscription_key) join dw.dim_customer as c on c.customer_key = l.customer_key
		where service_level_key = (select min(service_level_key) from dw.dim_service_level)`), "|")
	row := strings.Join(key, ",") + ",0,2026-05-14,2026-05-14,1,"
	wantContains(t, "the list", w.must(exitDone, "levels", "absent", "--format", "csv").stdout, row, ",undecided,")
	decide := []string{"levels", "absent", "drop", "--customer", key[0], "--subscription", key[1], "--level", key[2], "--from", "2026-05-14", "--to", "2026-05-14"}
	wantContains(t, "no reason", w.must(exitUsage, decide...).stderr, "levels absent drop: want --reason")
	done := w.must(exitDone, append(decide, "--reason", "a test of the vendor")...)
	wantContains(t, "decided", done.stdout, "drop: "+key[1]+" "+key[2]+" #0, 2026-05-14 to 2026-05-14\n")
	wantContains(t, "nothing is undecided", w.must(exitDone, "levels", "absent").stdout, "no day is absent and undecided\n")
	wantContains(t, "all", w.must(exitDone, "levels", "absent", "--all", "--format", "csv").stdout, row, ",drop,a test of the vendor,\n")
	for _, c := range [][2]string{
		{"levels absent forget", `"forget": want keep or drop, or nothing to list`},
		{"levels absent keep --customer C", "want --subscription"},
		{"levels absent keep --customer C --subscription S --level L --from 1 --to 2026-05-01 --reason r", `--from "1": want a day`},
		{"levels absent keep --customer C --subscription S --level L --from 2026-05-02 --to 2026-05-01 --reason r", "--to 2026-05-01 is before --from 2026-05-02"},
	} {
		wantContains(t, c[0], w.must(exitUsage, strings.Fields(c[0])...).stderr, c[1])
	}
	wantContains(t, "an unknown level", w.must(exitFailed, strings.Fields("levels absent keep --customer C --subscription S --level L --from 2026-05-01 --to 2026-05-01 --reason r")...).stderr, "no such level was loaded")
}
