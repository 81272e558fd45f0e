package main

import (
	"strings"
	"testing"
)

const calendarHead = "customer_id,subscription_number,clock,period_start,period_end,schedule\n"

func TestCalendar(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wantContains(t, "before any import", w.must(exitDone, "calendar", "show").stdout, "no calendar was imported: all subscriptions are billed by calendar month\n")
	w.must(exitDone, "run", "keystone.customers", "keystone.subscriptions")
	number := w.value(`select min(s.subscription_number) from dw.dim_subscription as s join dw.dim_customer as c using (customer_key) where c.customer_id = 'C-1001'`)

	// The vendor's own dates, which no rule generates, are a draft that a person corrected.
	published := calendarHead
	for _, days := range []string{"2023-08-15,2023-10-14,quarterly", "2023-10-15,2024-01-14,quarterly", "2024-01-15,2024-01-31,quarterly", "2024-02-01,2024-02-29,monthly"} {
		published += "C-1001," + number + ",burst," + days + "\n"
	}
	file := writeFile(t, "periods.csv", published)
	plan := w.must(exitDone, "calendar", "import", file, "--plan")
	if !strings.HasSuffix(plan.stdout, "\nwould be: added 4, changed 0, removed 0, unchanged 0\n") || plan.stderr != "" {
		t.Errorf("plan: %s%s", plan.stdout, plan.stderr)
	}
	done := w.must(exitDone, "calendar", "import", file)
	if done.stdout != strings.Replace(plan.stdout, "would be: ", "", 1) {
		t.Errorf("the plan says\n%s\nthe import\n%s", plan.stdout, done.stdout)
	}
	wantContains(t, "the same again", w.must(exitDone, "calendar", "import", file).stdout, "added 0, changed 0, removed 0, unchanged 4\n")
	if out := w.must(exitDone, "calendar", "show", "--subscription", number, "--format", "csv").stdout; out != published {
		t.Errorf("the calendar as CSV:\n got %s\nwant %s", out, published)
	}
	wantContains(t, "another", w.must(exitDone, "calendar", "show", "--subscription", "X").stdout, "subscription X has no calendar: it is billed by calendar month\n")

	// What is generated for all can be imported as it is.
	draft := w.must(exitDone, "calendar", "generate", "--schedule", "annual", "--until", "2027-01-01")
	if !strings.HasPrefix(draft.stdout, calendarHead) || w.value(`select count(*)::text from billing.period`) != "4" {
		t.Errorf("generate changed something, or has no header: %s", draft.stdout)
	}
	imported := w.must(exitDone, "calendar", "import", writeFile(t, "draft.csv", draft.stdout), "--replace")
	wantContains(t, "draft", imported.stdout, "removed  ", ", removed 4, unchanged 0\n")
	if got, want := w.value(`select count(distinct (customer_id, subscription_number, clock))::text from billing.period where superseded_at is null`),
		w.value(`select (2 * count(*))::text from mart.subscription where is_current and start_date is not null`); got != want {
		t.Errorf("%s calendars, want %s", got, want)
	}
	if got := w.value(`select bool_and((p.first_day, p.last_day >= '2026-12-31') = ((s.start_date at time zone 'UTC')::date, true))::text
		from mart.subscription as s join (
			select customer_id, subscription_number, min(period_start) as first_day, max(period_end) as last_day from billing.period where superseded_at is null group by 1, 2
		) as p using (customer_id, subscription_number) where s.is_current`); got != "true" {
		t.Errorf("calendars do not reach from the start of the terms to --until:\n%s", draft.stdout)
	}

	// The last calendar can be withdrawn: all are billed by calendar month again.
	if o := w.runWith(calendarHead, "calendar", "import", "-", "--replace"); o.code != exitUsage {
		t.Errorf("an empty file removed all: %s", o.stdout)
	}
	if o := w.runWith(calendarHead, "calendar", "import", "-", "--replace", "--allow-empty"); o.code != exitDone ||
		w.value(`select count(*)::text from billing.period where superseded_at is null`) != "0" {
		t.Errorf("all is withdrawn: exit code %d, %s%s", o.code, o.stdout, o.stderr)
	}
}

func TestCalendarImportRefusesTheWholeFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"several problems", calendarHead +
			",A-1,burst,2026-01-01,2026-01-31,monthly\n" +
			"C-1,,Burst,2026-01-01,2026-01-31,weekly\n" +
			"C-1,A-1,burst,2026-02-01,2026-01-31,monthly\n" +
			"C-1,A-1,burst,2026-2-1,,monthly\n", []string{
			"stdin: 7 problems, nothing is imported",
			"stdin:2: customer_id: is empty",
			"stdin:3: subscription_number: is empty",
			`stdin:3: clock: "Burst" (did you mean "burst"?): want committed or burst`,
			`stdin:3: schedule: "weekly": want monthly, quarterly, semi_annual or annual`,
			"stdin:4: period_end: 2026-01-31 is before period_start 2026-02-01",
			`stdin:5: period_start: "2026-2-1": want a day as YYYY-MM-DD`,
			`stdin:5: period_end: "": want a day`,
		}},
		{"gap and overlap", calendarHead +
			"C-1,A-1,burst,2026-03-01,2026-03-31,monthly\n" +
			"C-1,A-1,burst,2026-01-01,2026-01-31,monthly\n" +
			"C-1,A-1,committed,2026-06-01,2026-06-30,monthly\n" +
			"C-1,A-1,burst,2026-03-31,2026-04-30,monthly\n" +
			"C-2,A-1,burst,2026-06-01,2026-06-30,monthly\n", []string{
			"stdin: 2 problems, nothing is imported",
			"stdin:2: period_start: 2026-03-01 leaves a gap after line 3, which ends on 2026-01-31: want it to start on 2026-02-01",
			"stdin:5: period_start: 2026-03-31 to 2026-04-30 overlaps line 2 (2026-03-01 to 2026-03-31): want it to start on the day after that ends",
		}},
		{"no rows", calendarHead, []string{"stdin: no rows below the header: want at least one, or --replace --allow-empty"}},
	} {
		o := w.runWith(c.text, "calendar", "import", "-")
		if o.code != exitUsage || o.stdout != "" {
			t.Errorf("%s: exit code %d, stdout %q", c.name, o.code, o.stdout)
		}
		wantContains(t, c.name, o.stderr, c.want...)
	}
	o := w.runWith(calendarHead+"C-9,A-9,burst,2026-01-01,2026-01-31,monthly\n", "calendar", "import", "-")
	wantContains(t, "a stranger", o.stderr, `customer_id "C-9" is not known yet`, `subscription_number "A-9" is not known yet`)
	if o.code != exitDone || w.value(`select count(*)::text from billing.period`) != "1" {
		t.Errorf("exit code %d, want the stranger alone imported", o.code)
	}
}

func TestCalendarGenerate(t *testing.T) {
	t.Parallel()
	// Nothing is asked of a database where the start is given.
	o := invoke(t, nil, "", "calendar", "generate", "--customer", "C-1", "--subscription", "A-1", "--clock", "burst", "--schedule", "quarterly",
		"--start", "2023-10-15", "--switch", "2024-02-01=monthly", "--until", "2024-04-01")
	want := calendarHead + "C-1,A-1,burst,2023-10-15,2024-01-14,quarterly\nC-1,A-1,burst,2024-01-15,2024-01-31,quarterly\n" +
		"C-1,A-1,burst,2024-02-01,2024-02-29,monthly\nC-1,A-1,burst,2024-03-01,2024-03-31,monthly\n"
	if o.code != exitDone || o.stdout != want {
		t.Errorf("exit code %d %s\n got %s\nwant %s", o.code, o.stderr, o.stdout, want)
	}
	for _, c := range []struct{ args, want string }{
		{"", `schedule "": want monthly, quarterly, semi_annual or annual`},
		{"--schedule anual --until 2026-01-01", `schedule "anual" (did you mean "annual"?)`},
		{"--schedule annual", `--until: day "": want YYYY-MM-DD`},
		{"--schedule annual --until 2026-01-01 --clock both", `--clock "both": want committed or burst`},
		{"--schedule annual --until 2026-01-01 --start 2025-01-01", "--start: want --customer and --subscription with it"},
		{"--schedule annual --until 2026-01-01 --switch 2025-01-01=monthly", "--switch: want --subscription with it"},
		{"--schedule annual --until 2126-01-01", "2126-01-01: want days of this century"},
		{"--schedule annual --until 2026-01-01 --start 2025-01-01 --customer C --subscription N --switch monthly", `--switch "monthly": day "monthly": want YYYY-MM-DD`},
		{"--schedule annual --until 2026-01-01 --start 2025-01-01 --customer C --subscription N --switch 2025-06-01", `--switch "2025-06-01": schedule "": want`},
		{"--schedule annual --until 2026-01-01 --start 2025-01-01 --customer C --subscription N --switch 2026-06-01=monthly", "switch on 2026-06-01: want a day after 2025-01-01 and before 2026-01-01"},
		{"--schedule annual --until 2025-01-01 --start 2025-01-01 --customer C --subscription N", "nothing to draft: want --start before --until"},
	} {
		o := invoke(t, nil, "", append([]string{"calendar", "generate"}, strings.Fields(c.args)...)...)
		if o.code != exitUsage || o.stdout != "" {
			t.Errorf("%s: exit code %d, stdout %q", c.args, o.code, o.stdout)
		}
		wantContains(t, c.args, o.stderr, c.want)
	}
	w := newWorld(t)
	wantContains(t, "nothing loaded", w.must(exitUsage, "calendar", "generate", "--schedule", "annual", "--until", "2027-01-01").stderr, "no such subscription was loaded")
}
