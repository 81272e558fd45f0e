package main

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"meterhouse/queries"

	"meterhouse/etl/warehouse/warehousetest"
)

func TestReport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	list := w.must(exitDone, "report").stdout
	for _, q := range queries.All() {
		wantContains(t, "list", list, "\n"+q.Name+" ", q.Question)
	}
	wantContains(t, "list of a stranger", invoke(t, nil, "", "report").stdout, "missing_days ") // wants no database

	o := w.must(exitDone, "report", "subscriptions_ending_soon")
	wantContains(t, "before the first load", o.stdout, "Which Keystone subscriptions end soon,", "\n\nno rows\n\nGrain: one row per ", "\nCaveats: ")
	w.must(exitDone, "run")
	o = w.must(exitDone, "report", "subscriptions_ending_soon", "--param", "until_day=2028-01-01")
	wantContains(t, "table", o.stdout, "from_day 2026-05-20, until_day 2028-01-01\n\nend_day     days_left  customer_id  ",
		"\n2027-06-30        406  0042117      Brightmere Seed Bank  A-S00052993 ")
	if strings.Contains(o.stdout, "no rows") {
		t.Errorf("rows and no rows:\n%s", o.stdout)
	}
	o = w.must(exitDone, "report", "subscriptions_ending_soon", "--param", "until_day=2028-01-01", "--format", "markdown")
	wantContains(t, "markdown", o.stdout, "## Which Keystone subscriptions end soon,", "\n| --- | ---: | --- |", "\n| 2027-06-30 | 406 | 0042117 | Brightmere Seed Bank |")

	// It speaks of the time of --now, not of the last run.
	w.setNow("2026-06-20T12:00:00Z")
	wantContains(t, "later", w.must(exitDone, "report", "subscriptions_ending_soon").stdout, "from_day 2026-06-20, until_day 2027-06-20")

	// Values travel beside the statement.
	before := w.snapshot()
	wantContains(t, "no day", w.must(exitUsage, "report", "missing_days", "--param", "from_day=2026-01-01'; drop schema ops cascade; --").stderr,
		"want a day such as 2026-04-30")
	if after := w.snapshot(); after != before {
		t.Errorf("from %s to %s", before, after)
	}
}

func TestReportWrongUse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"missing_dys"}, `unknown report "missing_dys" (did you mean "missing_days"?): want one that ` + "`meterhouse report` lists"},
		{[]string{"missing_days", "restated_days"}, "report: 2 arguments: want one name"},
		{[]string{"--param", "from_day=2026-01-01"}, "want the name of a report before it"},
		{[]string{"missing_days", "--param", "from_day"}, `--param "from_day": want name=value with the name from_day or until_day`},
		{[]string{"missing_days", "--param", "fromday=2026-01-01"}, `missing_days has no parameter "fromday" (did you mean "from_day"?): want from_day or until_day`},
		{[]string{"add_on_against_base", "--param", "x=1"}, `add_on_against_base has no parameter "x": want month`},
		{[]string{"add_on_against_base", "--param", "month=2026-02-03"}, `--param "month=2026-02-03": want a month such as 2026-04`},
		{[]string{"missing_days", "--param", "from_day=yesterday"}, `--param "from_day=yesterday": want a day such as 2026-04-30`},
		{[]string{"missing_days", "--param", "from_day=2026-01-01", "--param", "from_day=2026-01-02"}, "from_day is given twice: want one value"},
		{[]string{"top_bursting_subscriptions", "--param", "top=many"}, `--param "top=many": want a whole number`},
		{[]string{"missing_days", "--format", "xlsx"}, `--format "xlsx": want table, csv, json or markdown`},
		{[]string{"missing_days"}, "database.url is empty"},
	} {
		o := invoke(t, nil, "", append([]string{"report"}, c.args...)...)
		if o.code != exitUsage || o.stdout != "" || !strings.Contains(o.stderr, c.want) {
			t.Errorf("report %v: exit code %d, %q%q, want %q", c.args, o.code, o.stdout, o.stderr, c.want)
		}
	}
}

// Every line that queries/README.md shows is a command line that works.
func TestQueriesReadmeCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	readme, err := os.ReadFile("../../queries/README.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^meterhouse (report[^#>\n]*)`).FindAllStringSubmatch(string(readme), -1)
	if len(lines) < 4 {
		t.Fatalf("%d lines", len(lines))
	}
	for _, line := range lines {
		w.must(exitDone, strings.Fields(line[1])...)
	}
}

// A reader of the tables can use the reports, and nothing that changes anything.
func TestReportAsReader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "migrate", "up") // grants
	env := map[string]string{"METERHOUSE_DATABASE_URL": warehousetest.Role(t, w.database, "grant bi_reader to ROLE")}
	if o := invoke(t, env, "", "report", "missing_days"); o.code != exitDone {
		t.Errorf("exit code %d: %s", o.code, o.stderr)
	}
	if o := invoke(t, env, "", "prune"); o.code == exitDone && strings.Contains(o.stdout, "deleted") {
		t.Errorf("a reader pruned: %s", o.stdout)
	}
}

// A result that nobody got is a failure.
func TestOutputThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	var stderr strings.Builder
	code := run(t.Context(), []string{"version"}, nil, strings.NewReader(""), full{}, &stderr)
	if code != exitFailed || !strings.Contains(stderr.String(), "write the output: no space left") {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
}

// full is a disk without space.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }
