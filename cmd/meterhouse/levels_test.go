package main

import (
	"strings"
	"testing"
)

func TestLevels(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wantContains(t, "before any load", w.must(exitDone, "levels", "list").stdout, "no service level was loaded yet\n")
	w.must(exitDone, "run", "keystone.customers", "keystone.history")
	classes := func() string {
		return w.value(`select string_agg(format('%s=%s', pattern, level_class), ' ' order by pattern) from dw.level_class_map`)
	}
	before := classes()

	// The map as it is can be taken out, changed and given back.
	out := w.must(exitDone, "levels", "list", "--patterns", "--format", "csv").stdout
	if !strings.HasPrefix(out, "pattern,level_class\n*Data-Protect*,add_on\n") {
		t.Errorf("the map as CSV:\n%s", out)
	}
	same := w.must(exitDone, "levels", "import", writeFile(t, "levels.csv", out), "--replace")
	wantContains(t, "the same map", same.stdout, "added 0, changed 0, removed 0, levels reclassified 0, left unclassified ")
	if got := classes(); got != before {
		t.Errorf("the same map changed it\n got %s\nwant %s", got, before)
	}

	file := writeFile(t, "levels.csv", "\ufeffpattern;level_class\r\nExtreme;add_on\r\nUltra*;base\r\n")
	plan := w.must(exitDone, "levels", "import", file, "--plan")
	wantContains(t, "plan", plan.stdout, "changed       Extreme ", "reclassified  Extreme ", "would be: added 1, changed 1, removed 0, levels reclassified 1,")
	if got := classes(); got != before {
		t.Errorf("--plan changed the map\n got %s\nwant %s", got, before)
	}
	done := w.must(exitDone, "levels", "import", file, "--format", "csv")
	if !strings.HasPrefix(done.stdout, "what,name,was,is,series\nchanged,Extreme,base,add_on,\nadded,Ultra*,,base,\nreclassified,Extreme,base,add_on,") {
		t.Errorf("import:\n%s", done.stdout)
	}
	wantContains(t, "list", w.must(exitDone, "levels", "list", "--format", "csv").stdout, "service_level,level_class,series\n", "\nExtreme,add_on,")

	stdin := w.runWith("pattern,level_class\nStandard*,base\n", "levels", "import", "-", "--replace")
	wantContains(t, "stdin", stdin.stdout, "added 1, changed 0, removed 13")
	if got := classes(); got != "Standard*=base" {
		t.Errorf("after --replace: got %s", got)
	}
}

func TestLevelsImportRefusesTheWholeFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.value(`select count(*)::text from dw.level_class_map`)
	cases := []struct {
		name, text string
		want       []string
	}{
		{"several problems", "pattern,level_class\nUltra*,base\n,base\nTurbo,bas\nULTRA*,add_on\nCold,\n", []string{
			"stdin: 4 problems, nothing is imported",
			"  stdin:3: pattern: is empty: want the name of a level",
			`  stdin:4: level_class: "bas" (did you mean "base"?): want base, add_on or unclassified`,
			`  stdin:5: pattern: "ULTRA*" stands on line 2 too: want each pattern once`,
			`  stdin:6: level_class: "": want base, add_on or unclassified`,
		}},
		{"one problem", "pattern,level_class\nTurbo,BASE\n", []string{`meterhouse: stdin:2: level_class: "BASE"`}},
		{"no rows", "pattern,level_class\n", []string{"stdin: no rows below the header"}},
		{"too long", "pattern,level_class\n" + strings.Repeat("x", 201) + ",base\n", []string{"stdin:2: pattern: 201 bytes: want at most 200"}},
	}
	for _, c := range cases {
		o := w.runWith(c.text, "levels", "import", "-", "--replace")
		if o.code != exitUsage || o.stdout != "" {
			t.Errorf("%s: exit code %d, stdout %q", c.name, o.code, o.stdout)
		}
		wantContains(t, c.name, o.stderr, c.want...)
	}
	o := w.must(exitUsage, "levels", "import", "no-such-file.csv")
	wantContains(t, "no file", o.stderr, "no-such-file.csv", "want a CSV file, or - for stdin")
	wantContains(t, "no argument", w.must(exitUsage, "levels", "import").stderr, "want one, a CSV file, or - for stdin")
	if after := w.value(`select count(*)::text from dw.level_class_map`); after != before {
		t.Errorf("the map has %s patterns, had %s", after, before)
	}
}
