package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestReadCSV(t *testing.T) {
	t.Parallel()
	columns := []csvColumn{{name: "pattern"}, {name: "level_class"}, {name: "note", optional: true}}
	cases := []struct{ name, text, want string }{
		{"plain", "pattern,level_class\nExtreme,base\nDII*,add_on\n", "2 Extreme base|3 DII* add_on"},
		{"no newline at the end, Windows lines", "pattern,level_class\r\nExtreme,base", "2 Extreme base"},
		{"byte order mark", "\ufeffpattern,level_class\nExtreme,base\n", "2 Extreme base"},
		{"semicolons", "pattern;level_class\nExtreme, fast;base\n", "2 Extreme, fast base"},
		{"any order, an optional column", "note,level_class,pattern\nwhy,base,Extreme\n", "2 Extreme base"},
		{"quotes", "pattern,level_class\n\"Extreme, \"\"fast\"\"\",base\n", "2 Extreme, \"fast\" base"},
		{"space around", " pattern , level_class \n Extreme\u00a0,\tbase \n", "2 Extreme base"},
		{"empty lines", "\npattern,level_class\n\n,\n  , \nExtreme,base\n\n", "6 Extreme base"},
		{"empty columns to the right", "pattern,level_class,, \nExtreme,base,,\nDII*,add_on\n,,,\n", "2 Extreme base|3 DII* add_on"},
		{"no rows", "pattern,level_class\n", ""},
		{"a hash is a text like others", "pattern,level_class\n#1,base\n", "2 #1 base"},
	}
	for _, c := range cases {
		f, err := readCSV(strings.NewReader(c.text), "f.csv", columns...)
		if err == nil {
			err = f.err()
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got []string
		for _, r := range f.rows {
			got = append(got, fmt.Sprint(r.line, " ", r.get("pattern"), " ", r.get("level_class")))
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestReadCSVRefuses(t *testing.T) {
	t.Parallel()
	columns := []csvColumn{{name: "pattern"}, {name: "level_class"}, {name: "note", optional: true}}
	many := "pattern,level_class\n" + strings.Repeat("one\n", 25)
	cases := []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", []string{"f.csv: no header: want the columns pattern, level_class, [note]"}},
		{"empty lines only", "\n\n", []string{"f.csv: no header"}},
		{"a misspelt column", "pattern,level_clas\nExtreme,base\n", []string{
			"f.csv: 2 problems, nothing is imported",
			"f.csv:1: unknown column \"level_clas\" (did you mean \"level_class\"?)\n",
			"f.csv:1: no column level_class: want pattern, level_class, [note], each once",
		}},
		{"a column twice", "\npattern,pattern,level_class\n", []string{"f.csv:2: column pattern stands there twice"}},
		{"no header", "Extreme,base\n", []string{`f.csv:1: unknown column "Extreme"`, "f.csv:1: no column pattern"}},
		{"tabs", "pattern\tlevel_class\n", []string{`unknown column "pattern\tlevel_class"`}},
		{"too few and too many fields", "pattern,level_class\nExtreme\nA,B,C\nok,base\n", []string{
			"f.csv:2: 1 field, want 2 as in the header", "f.csv:3: 3 fields, want 2"}},
		{"a field too many before empty ones", "pattern,level_class,note\nA,B,C,\n", []string{"f.csv:2: 4 fields, want 3"}},
		{"a text in a column without a name", "pattern,level_class,\nA,base,C\n", []string{"f.csv:2: 3 fields, want 2"}},
		{"a column without a name between others", "pattern,,level_class\n", []string{`f.csv:1: unknown column ""`}},
		{"a stray quote", "pattern,level_class\nEx\"treme,base\nok\n", []string{"f.csv:2: column 3: bare \"", "f.csv:3: 1 field"}},
		{"a quote that does not end", "pattern,level_class\nok,base\n\"Extreme,base\n", []string{"f.csv:3: column"}},
		{"a line break in a text", "pattern,level_class\n\"Ex\ntreme\",base\n", []string{`f.csv:2: pattern: "Ex\ntreme": want a text without line breaks`}},
		{"Latin-1", "pattern,level_class\nExtr\xe9me,base\n", []string{"f.csv:2: not UTF-8: want the file saved as \"CSV UTF-8\""}},
		{"UTF-16", "\xff\xfep\x00a\x00", []string{"f.csv:1: not UTF-8"}},
		{"too large", "pattern,level_class\n" + strings.Repeat("x", mostCSVBytes), []string{"f.csv: larger than 16MiB"}},
		{"very many problems", many, []string{"f.csv: 25 problems", "f.csv:21: 1 field", "and 5 more"}},
	}
	for _, c := range cases {
		f, err := readCSV(strings.NewReader(c.text), "f.csv", columns...)
		if err == nil {
			err = f.err()
		}
		var coded *exitError
		if !errors.As(err, &coded) || coded.code != exitUsage {
			t.Errorf("%s: got %v, want wrong use", c.name, err)
			continue
		}
		wantContains(t, c.name, err.Error(), c.want...)
	}
	f, err := readCSV(strings.NewReader(many), "f.csv", columns...)
	if err != nil || strings.Contains(f.err().Error(), "f.csv:22:") {
		t.Errorf("got %v, %v; want 20 problems shown", err, f.err())
	}
}

// FuzzReadCSV: no panic, lines in order, and whatever is accepted has the columns that are wanted.
func FuzzReadCSV(f *testing.F) {
	for _, seed := range []string{"a,b\n1,2\n", "\ufeffa;b\n\"1\";2\r\n", "a,b\n\"", "a,b\n1\n,\n", "b,a\n\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := readCSV(strings.NewReader(string(text)), "f", csvColumn{name: "a"}, csvColumn{name: "b", optional: true})
		if err != nil || file.err() != nil {
			return
		}
		for i, row := range file.rows {
			if _, has := row.cells["a"]; !has || i > 0 && row.line <= file.rows[i-1].line {
				t.Errorf("row %d of %q: %+v", i, text, row)
			}
		}
		if !slices.IsSortedFunc(file.rows, func(a, b csvRow) int { return a.line - b.line }) {
			t.Errorf("%q: lines out of order", text)
		}
	})
}
