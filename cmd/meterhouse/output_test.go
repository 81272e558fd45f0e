package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"meterhouse/etl/warehouse"
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

func TestRecordsKeepDigits(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(records(warehouse.Table{
		Columns: []string{"n", "s", "u"}, Numeric: []bool{true, false, true},
		Rows: [][]string{{"123456789012345678901234567890.10", "1", ""}},
	}))
	if want := `[{"n":123456789012345678901234567890.10,"s":"1","u":null}]`; err != nil || string(text) != want {
		t.Errorf("got %s, %v, want %s", text, err, want)
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
