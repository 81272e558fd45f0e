package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"meterhouse/etl/keystone"
	"meterhouse/etl/warehouse"
)

func (a *app) statusCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show freshness, runs, holes, credentials, quarantine and what to do now",
		Long: `Shows how fresh each dataset is, the last runs, days that are missing, the deadlines of
credentials, what is in quarantine, and what to do now. Asks no vendor and changes nothing.

JSON is one object of lists; CSV has one line per section, row and column.`,
		Example: "  meterhouse status\n  meterhouse status --format json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			s, err := a.openSession(cmd.Context(), need{database: true})
			if err != nil {
				return err
			}
			defer s.close(&err)
			r, err := s.report(cmd.Context())
			if err != nil {
				return err
			}
			return r.print(a.stdout, f)
		},
	}
	formatFlag(cmd, &f)
	return cmd
}

// statusReport is everything that status shows.
type statusReport struct {
	sections    []section
	credentials []keystone.TokenStatus
	todo        []string
}

type section struct {
	name, title, sql string // without a title only the advice is shown
	table            warehouse.Table
	advice           func(rows []map[string]string) []string // what to do about it; nil: nothing ever
}

func statusSections() []section {
	return []section{
		{
			name: "freshness", title: "Freshness", advice: adviseFreshness, sql: `
				select dataset, scope, account, status, date_trunc('second', watermark) as watermark,
					date_trunc('second', last_success_at) as last_success_at, next_due_at,
					case when lag is null then '' else
						extract(day from justify_hours(lag))::int || 'd ' || to_char(justify_hours(lag), 'HH24:MI') end as lag
				from mart.freshness
				order by source, dataset, scope`,
		},
		{
			name: "runs", title: "Last runs", sql: `
				with newest as (
					select max(run_id) as run_id from ops.run group by dataset, scope order by 1 desc limit 20
				),
				failed as (
					select r.run_id
					from ops.run as r
					left join ops.watermark as w using (dataset, scope)
					where r.status = 'failed' and (w.last_success_at is null or r.business_at > w.last_success_at)
					order by r.run_id desc
					limit 10
				)
				select run_id as run, dataset, scope, window_from, window_until, status, date_trunc('second', finished_at) as finished_at,
					received, inserted, restated, unchanged, quarantined, error
				from mart.run
				where run_id in (select run_id from newest union select run_id from failed)
				order by run_id desc`,
		},
		{
			name: "failing", advice: adviseFailing, sql: `
				select f.dataset, f.scope, r.error
				from mart.freshness as f
				join ops.watermark as w using (dataset, scope)
				join ops.run as r on r.run_id = w.last_run_id
				where f.status = 'failing'
				order by f.dataset, f.scope`,
		},
		{
			name: "holes", title: "Coverage holes", advice: adviseHoles, sql: `
				select dataset, coalesce(customer_id, account) as scope, subscription_number as subscription,
					coalesce(service_level, product) as series, status, count(distinct day) as days, min(day) as first_day, max(day) as last_day
				from mart.coverage
				where status in ('missing', 'lost', 'partial')
				group by dataset, coalesce(customer_id, account), subscription_number, coalesce(service_level, product), status
				order by dataset, scope, subscription nulls first, series, status`,
		},
		{
			name: "quarantine", title: "Open quarantine", advice: adviseQuarantine, sql: `
				select dataset, reason, count(*) as records, date_trunc('second', min(quarantined_at)) as oldest,
					date_trunc('second', max(quarantined_at)) as newest
				from mart.quarantine
				where resolved_at is null
				group by dataset, reason
				order by dataset, reason`,
		},
		{
			// The runs of a job share the fence of its lease.
			name: "warnings", advice: adviseWarnings, sql: `
				select dataset, scope, warning, sum(occurrences)::bigint as occurrences,
					(array_agg(first_path order by run_id))[1] as first_at
				from (select run_id, dataset, scope, fence = max(fence) over (partition by dataset, scope) as newest from ops.run) as r
				join ops.run_warning using (run_id)
				where newest
				group by dataset, scope, warning
				order by dataset, scope, warning`,
		},
		{
			name: "months", advice: adviseMonths, sql: `
				select account, to_char(month, 'YYYY-MM') as month, state, month_ends_at, date_trunc('second', last_reading_at) as last_reading_at,
					coalesce(last_reading_at >= month_ends_at - interval '1 day', false) as has_last_day, reason
				from mart.license_month
				where state = 'at_risk' -- what was lost long ago is history
					or state = 'lost' and month_ends_at > (select max(month_ends_at) from mart.license_month) - interval '94 days'
				order by state, month desc, account`,
		},
		{
			name: "silent", advice: adviseSilent, sql: `
				select dataset, scope
				from ops.coverage
				where product <> ''
				group by dataset, scope
				having bool_and(status = 'empty')
				order by dataset, scope`,
		},
	}
}

func adviseFreshness(rows []map[string]string) (todo []string) {
	if len(rows) == 0 {
		return []string{"nothing is loaded yet: `meterhouse run`"}
	}
	late, since := 0, ""
	for _, row := range rows {
		switch row["status"] {
		case "never":
			late++
		case "late":
			if late++; since == "" || row["next_due_at"] < since {
				since = row["next_due_at"]
			}
		}
	}
	if late > 0 {
		todo = append(todo, fmt.Sprintf("%d of %d are due%s: `meterhouse run`", late, len(rows), prefixed(", the first since ", since)))
	}
	return todo
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// adviseFailing says one thing per cause.
func adviseFailing(rows []map[string]string) (todo []string) {
	type failure struct {
		why              string
		scopes, datasets []string
	}
	var all []*failure
	byCause := map[string]*failure{}
	for _, row := range rows {
		why := cause(row["error"])
		alike := strings.ReplaceAll(why, row["scope"], "…")
		f := byCause[alike]
		if f == nil {
			f = &failure{why: why}
			all, byCause[alike] = append(all, f), f
		} else {
			f.why = alike
		}
		scope := row["scope"]
		if !slices.Contains(f.datasets, row["dataset"]) {
			f.datasets = append(f.datasets, row["dataset"])
			scope = row["dataset"] + " " + scope
		}
		f.scopes = append(f.scopes, scope)
	}
	for _, f := range all {
		todo = append(todo, fmt.Sprintf("%s failed at the last run (%s): `meterhouse run %s`", few(f.scopes), f.why, strings.Join(f.datasets, " ")))
	}
	return todo
}

// errorPlace is what stands before the cause in a run's error: where it happened.
var errorPlace = regexp.MustCompile(`^(?:(?:run \d+|(?:extract|transform|load)(?: \w+)?|(?:keystone|wolkvox)(?:\.\w+)?(?: [^\s:]+){1,2}|[A-Z]+ /\S*|\d+ attempts): )+`)

// cause is the first error of a run without the place, cut for a table.
func cause(text string) string {
	first, others, _ := strings.Cut(text, "\n")
	first = errorPlace.ReplaceAllString(first, "")
	const most = 100
	if letters := []rune(first); len(letters) > most {
		first = string(letters[:most-1]) + "…"
	}
	if others != "" {
		first += fmt.Sprintf(" (and %d more)", 1+strings.Count(others, "\n"))
	}
	return first
}

// routine are warnings that come and go with what the vendor restates: nothing follows from them.
var routine = []string{"older_observation", "restated", "terms_changed"}

func adviseWarnings(rows []map[string]string) (todo []string) {
	for _, row := range rows {
		if name := row["warning"]; !slices.Contains(harmless, name) && !slices.Contains(routine, name) {
			todo = append(todo, fmt.Sprintf("look at %s %s: %s", row["dataset"], row["scope"], deviation(name, row["occurrences"], row["first_at"])))
		}
	}
	return todo
}

// adviseMonths says what can still be saved first. An import counts on days only that have no reading.
func adviseMonths(rows []map[string]string) (todo []string) {
	for _, row := range rows {
		text := fmt.Sprintf("month %s of %s ", row["month"], row["account"])
		switch {
		case row["state"] == "at_risk":
			text += fmt.Sprintf("is at risk, it ends %s (%s): `meterhouse run wolkvox.billing`", row["month_ends_at"], row["reason"])
		case row["has_last_day"] == "true":
			text += fmt.Sprintf("was lost, its last reading is of %s (%s): compare it with the vendor's invoice", row["last_reading_at"], row["reason"])
		default:
			text += fmt.Sprintf("was lost, its last day has no reading (%s): take its figures from the portal, `meterhouse readings import`", row["reason"])
		}
		todo = append(todo, text)
	}
	return todo
}

func adviseSilent(rows []map[string]string) (todo []string) {
	for _, row := range rows {
		todo = append(todo, fmt.Sprintf("%s %s: no product has ever delivered a reading: check server and token", row["dataset"], row["scope"]))
	}
	return todo
}

// adviseHoles says one thing per dataset, scope and kind of hole. Days on which a whole customer
// has no answer explain those of its levels.
func adviseHoles(rows []map[string]string) (todo []string) {
	type hole struct{ dataset, scope, status string }
	unanswered := map[string]bool{}
	series, first := map[hole][]string{}, map[hole]string{}
	var order []hole
	for _, row := range rows {
		if row["series"] == "" && row["status"] == "missing" {
			unanswered[row["dataset"]+row["scope"]] = true
			todo = append(todo, fmt.Sprintf("%s %s has no answer for %s from %s on: `meterhouse run %s`",
				row["dataset"], row["scope"], count(row["days"], "day"), row["first_day"], row["dataset"]))
			continue
		}
		h := hole{row["dataset"], row["scope"], row["status"]}
		if _, seen := series[h]; !seen {
			order = append(order, h)
		}
		series[h] = append(series[h], strings.TrimSpace(row["subscription"]+" "+row["series"]))
		if first[h] == "" || row["first_day"] < first[h] {
			first[h] = row["first_day"]
		}
	}
	for _, h := range order {
		text := fmt.Sprintf("%s %s lacks days from %s on (%s)", h.dataset, h.scope, first[h], few(series[h]))
		switch {
		case h.status == "lost":
			text += ": lost, the vendor cannot tell them any more"
		case h.status == "partial":
			text = fmt.Sprintf("%s %s has days in part from %s on (%s): see `meterhouse quarantine list`", h.dataset, h.scope, first[h], few(series[h]))
		case unanswered[h.dataset+h.scope]:
			continue
		default:
			text += ": the vendor did not deliver them; they are asked for again as long as they are re-read"
		}
		todo = append(todo, text)
	}
	return todo
}

func adviseQuarantine(rows []map[string]string) (todo []string) {
	for _, row := range rows {
		todo = append(todo, fmt.Sprintf("%s has %s refused for %s: `meterhouse quarantine list --reason %s`",
			row["dataset"], count(row["records"], "record"), row["reason"], row["reason"]))
	}
	return todo
}

// few lists some names and counts the rest.
func few(names []string) string {
	const most = 4
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// report reads everything that status shows. What to do about credentials comes first: without
// them nothing else can be done.
func (s *session) report(ctx context.Context) (*statusReport, error) {
	r := &statusReport{sections: statusSections()}
	for _, k := range s.keystone {
		status, err := k.TokenStatus(ctx)
		if err != nil {
			r.todo = append(r.todo, fmt.Sprintf("the credential of %s cannot be read: %s", k.cfg.Account, err))
			continue
		}
		r.credentials = append(r.credentials, status)
		if step, _ := nextStep(status); step != "none" {
			r.todo = append(r.todo, fmt.Sprintf("token of %s: %s", k.cfg.Account, step))
		}
	}
	if len(s.keystone) < len(s.cfg.Keystone) {
		r.todo = append(r.todo, "set secrets_key to see the credentials")
	}
	for i := range r.sections {
		sec := &r.sections[i]
		var err error
		if sec.table, err = s.wh.Query(ctx, sec.sql); err != nil {
			return nil, fmt.Errorf("status: %s: %w", sec.name, err)
		}
		if sec.advice != nil {
			r.todo = append(r.todo, sec.advice(named(sec.table))...)
		}
	}
	return r, nil
}

// named turns rows into maps by column.
func named(t warehouse.Table) []map[string]string {
	rows := make([]map[string]string, len(t.Rows))
	for i, row := range t.Rows {
		rows[i] = map[string]string{}
		for j, column := range t.Columns {
			rows[i][column] = row[j]
		}
	}
	return rows
}

// shown is how many sentences people get; the JSON has all.
const shown = 20

func (r *statusReport) print(w io.Writer, f format) error {
	switch f {
	case formatJSON:
		return printJSON(w, r.json())
	case formatCSV:
		return printCSV(w, r.long())
	}
	for _, sec := range r.sections {
		if sec.title == "" {
			continue
		}
		f.heading(w, sec.title)
		if len(sec.table.Rows) == 0 {
			fmt.Fprint(w, "none\n\n")
			continue
		}
		if i := slices.Index(sec.table.Columns, "error"); i >= 0 {
			for _, row := range sec.table.Rows {
				row[i] = cause(row[i])
			}
		}
		if err := f.print(w, sec.table); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	if len(r.credentials) > 0 {
		t := warehouse.Table{Columns: []string{"account", "state", "access_until", "refresh_dies_at", "login_due_at"}}
		for _, c := range r.credentials {
			t.Rows = append(t.Rows, []string{c.Account, string(c.State), stamp(c.AccessUntil), stamp(c.RefreshDiesAt), stamp(c.LoginDueAt)})
		}
		f.heading(w, "Credentials")
		if err := f.print(w, t); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	f.heading(w, "What to do now")
	if len(r.todo) == 0 {
		fmt.Fprintln(w, "nothing")
	}
	for i, text := range r.todo {
		if i == shown {
			text = fmt.Sprintf("and %d more: `meterhouse status --format json`", len(r.todo)-shown)
		}
		f.line(w, text)
		if i == shown {
			break
		}
	}
	return nil
}

func (r *statusReport) json() map[string]any {
	all := map[string]any{}
	for _, sec := range r.sections {
		all[sec.name] = records(sec.table)
	}
	all["credentials"] = records(tokenTable(r.credentials))
	all["what_to_do"] = append([]string{}, r.todo...)
	return all
}

// long holds everything in one table: one row per section, row of it and column.
func (r *statusReport) long() warehouse.Table {
	t := warehouse.Table{Columns: []string{"section", "row", "name", "value"}, Numeric: []bool{false, true}}
	add := func(section string, rows warehouse.Table) {
		for i, row := range rows.Rows {
			for j, name := range rows.Columns {
				t.Rows = append(t.Rows, []string{section, strconv.Itoa(i + 1), name, row[j]})
			}
		}
	}
	for _, sec := range r.sections {
		add(sec.name, sec.table)
	}
	add("credentials", tokenTable(r.credentials))
	todo := warehouse.Table{Columns: []string{"what_to_do"}}
	for _, text := range r.todo {
		todo.Rows = append(todo.Rows, []string{text})
	}
	add("what_to_do", todo)
	return t
}
