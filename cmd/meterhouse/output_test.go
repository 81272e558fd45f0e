package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"meterhouse/etl"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

func TestPrintTable(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	printTable(&b, warehouse.Table{
		Columns: []string{"name", "tib", "note"},
		Numeric: []bool{false, true, false},
		Rows: [][]string{
			{"Østerlund", "0.000000000000000000000000000001", "x"},
			{"a\x1b[31m\nb\u202ec", "12", ""},
		},
	})
	want := `name                                     tib  note
Østerlund   0.000000000000000000000000000001  x
a·[31m·b·c                                12
`
	if b.String() != want {
		t.Errorf("got:\n%q\nwant:\n%q", b.String(), want)
	}
}

func TestPrintCSV(t *testing.T) {
	t.Parallel()
	table := warehouse.Table{Columns: []string{"text", "number"}, Numeric: []bool{false, true}}
	for _, text := range []string{"plain", "=1+1", " =1", "+1", "-1", "@x", "\tx", "＝1", "\u00a0=1", "a=1", "a,\"b\"", "", "1-1"} {
		table.Rows = append(table.Rows, []string{text, "-1.50"})
	}
	var b strings.Builder
	if err := printCSV(&b, table); err != nil {
		t.Fatal(err)
	}
	want := "text,number\nplain,-1.50\n'=1+1,-1.50\n' =1,-1.50\n'+1,-1.50\n'-1,-1.50\n'@x,-1.50\n'\tx,-1.50\n'＝1,-1.50\n" +
		"'\u00a0=1,-1.50\na=1,-1.50\n\"a,\"\"b\"\"\",-1.50\n,-1.50\n1-1,-1.50\n"
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}

// JSON keeps digits and the order of columns, and tells unknown from empty.
func TestRecords(t *testing.T) {
	t.Parallel()
	table := warehouse.Table{
		Columns: []string{"n", "s", "u", "b"}, Numeric: []bool{true, false, true}, Boolean: []bool{false, false, false, true},
		Rows: [][]string{
			{"123456789012345678901234567890.10", "1 <\"&>", "", "true"},
			{"-0.000000000000000000000000000001", "", "NaN", "false"},
		},
	}
	for _, c := range []struct {
		null [][]bool
		want string
	}{
		{nil, `[{"n":123456789012345678901234567890.10,"s":"1 <\"&>","u":null,"b":true},` +
			`{"n":-0.000000000000000000000000000001,"s":null,"u":"NaN","b":false}]`},
		{[][]bool{{3: true}, {3: false}}, `[{"n":123456789012345678901234567890.10,"s":"1 <\"&>","u":"","b":null},` +
			`{"n":-0.000000000000000000000000000001,"s":"","u":"NaN","b":false}]`},
	} {
		table.Null = c.null
		var b, compact bytes.Buffer
		err := formatJSON.print(&b, table)
		if err == nil {
			err = json.Compact(&compact, b.Bytes())
		}
		if err != nil || compact.String() != c.want {
			t.Errorf("got %s, %v, want %s", compact.String(), err, c.want)
		}
	}
	var b bytes.Buffer
	if err := formatJSON.print(&b, warehouse.Table{Columns: []string{"n"}}); err != nil || b.String() != "[]\n" {
		t.Errorf("no rows: %s, %v", b.String(), err)
	}
}

// A vendor's text cannot break out of its cell, nor become markup.
func TestPrintMarkdown(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	err := formatMarkdown.print(&b, warehouse.Table{
		Columns: []string{"text", "number"}, Numeric: []bool{false, true},
		Rows: [][]string{
			{"plain_text", "-1.50"}, {`a|b\|c`, ""}, {"two\r\nlines\x1b", "1"}, {"<img src=x> & `code` *bold* [link](x)", "2"},
		},
	})
	want := "| text | number |\n| --- | ---: |\n| plain_text | -1.50 |\n" + `| a\|b\\\|c |  |` + "\n| two<br>lines· | 1 |\n" +
		"| &lt;img src=x> &amp; \\`code\\` \\*bold\\* \\[link](x) | 2 |\n"
	if err != nil || b.String() != want {
		t.Errorf("%v, got:\n%s\nwant:\n%s", err, b.String(), want)
	}
}

// Every command that prints rows takes every form, and a program gets nothing but the rows.
func TestFormats(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: "chat_licenses", Body: []byte("=12+x")})
	commands := [][]string{
		{"run", "keystone.history", "--plan"}, {"run"}, {"run"},
		{"backfill", "keystone.history", "--from", "2026-05-14", "--until", "2026-05-16", "--plan"},
		{"backfill", "keystone.history", "--from", "2026-05-14", "--until", "2026-05-16"},
		{"status"}, {"quarantine", "list"}, {"quarantine", "list", "--reason", "other"}, {"quarantine", "show", "1"},
		{"token", "status"}, {"migrate", "status"}, {"report"}, {"report", "missing_days"},
	}
	for i, args := range commands {
		for _, form := range formats {
			name := strings.Join(append(args, form), " ")
			o := w.run(append(args, "--format", form)...)
			if want := []int{exitDone, exitPartial}; o.code != want[0] && (i != 1 || o.code != want[1]) {
				t.Fatalf("%s: exit code %d: %s", name, o.code, o.stderr)
			}
			switch format(form) {
			case formatCSV:
				if rows, err := csv.NewReader(strings.NewReader(o.stdout)).ReadAll(); err != nil || len(rows) == 0 || len(rows[0]) < 3 {
					t.Errorf("%s: %v in\n%s", name, err, o.stdout)
				}
			case formatJSON:
				var value any
				if err := json.Unmarshal([]byte(o.stdout), &value); err != nil {
					t.Errorf("%s: %v in\n%s", name, err, o.stdout)
				}
			case formatMarkdown:
				if strings.Contains(o.stdout, "|\n") && !regexp.MustCompile(`(?m)^\| .* \|\n\| ---`).MatchString(o.stdout) {
					t.Errorf("%s: no table in\n%s", name, o.stdout)
				}
			}
		}
	}
}

// JSON tells an empty text of the database from an unknown one.
func TestJSONFromTheDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: "chat_licenses", Body: []byte("many")})
	w.must(exitPartial, "run", "wolkvox.billing")
	w.value(`with q as (update ops.quarantine set product = '' returning 1) select count(*)::text from q`)
	wantContains(t, "show", w.must(exitDone, "quarantine", "show", "1", "--format", "json").stdout,
		`"quarantine_id": 1,`, `"product": "",`, `"resolved_at": null,`, `"is_dismissed": false`)
}

// What people are told beside the rows of a run, programs find in them.
func TestRunForPrograms(t *testing.T) {
	t.Parallel()
	results := []result{{job: etl.Job{Dataset: "d.r", Scope: "s", Windows: []etl.Window{{}}}, out: etl.Outcome{Received: 2, Inserted: 2, Absent: 2}}}
	var out strings.Builder
	a := &app{stdout: &out}
	if err := a.printResults(results, formatCSV); err != nil {
		t.Fatal(err)
	}
	if want := "dataset,scope,windows,received,inserted,restated,unchanged,ignored,quarantined,absent,status,warnings\n" +
		"d.r,s,1,2,2,0,0,0,0,2,ok,\"d.r s: absent 2, expected and not delivered\"\n"; out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	if err := a.printResults(results, formatMarkdown); err != nil {
		t.Fatal(err)
	}
	wantContains(t, "markdown", out.String(), "| d.r | s | 1 |", "| ok |\n\n- warning d.r s: absent 2, expected and not delivered\n\ninserted 2, ")

	w := newWorld(t)
	plan := w.must(exitDone, "run", "--plan", "--format", "json")
	wantContains(t, "plan", plan.stdout, `"scope": "calls",
    "account": "calls",
    "from": null,
    "until": null,
    "days": null`)
	if note := "the customers of acme are not known yet"; strings.Contains(plan.stdout, note) || !strings.Contains(plan.stderr, note) {
		t.Errorf("the note is to be in the log:\n%s%s", plan.stdout, plan.stderr)
	}
}

// status as CSV is one table: a line per section, row and column.
func TestStatusCSV(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	w.setNow("2026-05-22T12:00:00Z")
	rows, err := csv.NewReader(strings.NewReader(w.must(exitDone, "status", "--format", "csv").stdout)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]bool{}
	for _, row := range rows {
		sections[row[0]] = true
	}
	for _, want := range []string{"section", "freshness", "runs", "credentials", "what_to_do"} {
		if !sections[want] {
			t.Errorf("no %s in %v", want, sections)
		}
	}
}

// A secret shows nowhere but through text().
func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	type holder struct {
		S    secret
		D    dsn
		P    *secret
		deep struct{ s secret }
	}
	h := holder{S: newSecret("hush"), D: dsn{newSecret("postgres://me:hush@h/d?sslpassword=hush")}}
	h.P, h.deep.s = &h.S, h.S
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if text := fmt.Sprintf(verb, h); strings.Contains(text, "hush") || strings.Contains(text, fmt.Sprintf("%x", "hush")) {
			t.Errorf("%s prints %s", verb, text)
		}
	}
	if text, err := json.Marshal(h); err != nil || strings.Contains(string(text), "hush") {
		t.Errorf("JSON is %s, %v", text, err)
	}
	if h.S.text() != "hush" {
		t.Error("text is lost")
	}
	// Passwords that should have been percent-encoded, and what is no URL at all.
	for _, url := range []string{
		"postgres://me:12/hush@h/d", "postgres://me:12?hush@h/d", "postgres://me:12#hush@h/d", "postgres://me:a/hush@h/d", "postgres://me:a@hush@h/d", "postgres://me:%hush@h/d",
		"host=h password=hush", "me:hush@h", "postgres:me:hush@h", "http://me:1/hush@proxy:80",
	} {
		if text := (dsn{newSecret(url)}).String(); strings.Contains(text, "hush") {
			t.Errorf("%s is shown as %s", url, text)
		}
	}
}

// On anything but a terminal only log lines come through.
func TestProgressWithoutTerminal(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	p := newProgress(&b)
	p.set("loading %s", "x")
	fmt.Fprintln(p, "a log line")
	p.clear()
	if b.String() != "a log line\n" {
		t.Errorf("got %q", b.String())
	}
}
