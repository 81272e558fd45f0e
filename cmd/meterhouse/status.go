package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"meterhouse/etl/keystone"
	"meterhouse/etl/warehouse"
)

func (a *app) statusCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show freshness, runs, holes, credentials, quarantine and what to do now",
		Long: `Shows how fresh each dataset is, the last runs, days that are missing, the deadlines of
credentials, what is in quarantine, and what to do now. Asks no vendor and changes nothing.`,
		Example: "  meterhouse status\n  meterhouse status --format json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := checkFormat(format, "table", "json"); err != nil {
				return err
			}
			s, err := a.openSession(cmd.Context(), need{database: true})
			if err != nil {
				return err
			}
			defer s.close(&err)
			r, err := s.report(cmd.Context())
			if err != nil {
				return err
			}
			if format == "json" {
				return printJSON(a.stdout, r.json())
			}
			r.print(a)
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", "`form` of the report: table or json")
	return cmd
}

// statusReport is everything that status shows.
type statusReport struct {
	sections    []section
	credentials []keystone.TokenStatus
	todo        []string
}

type section struct {
	name, title, sql string
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
				select run_id as run, dataset, scope, window_from, window_until, status, date_trunc('second', finished_at) as finished_at,
					received, inserted, restated, unchanged, quarantined, left(error, 100) as error
				from (
					select *, row_number() over (partition by dataset, scope order by run_id desc) as nth
					from mart.run
				) as r
				where nth = 1
				order by run_id desc
				limit 20`,
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
	}
}

func adviseFreshness(rows []map[string]string) (todo []string) {
	if len(rows) == 0 {
		return []string{"nothing is loaded yet: `meterhouse run`"}
	}
	failing := map[string][]string{}
	late, since := 0, ""
	for _, row := range rows {
		switch row["status"] {
		case "failing", "never":
			failing[row["dataset"]] = append(failing[row["dataset"]], row["scope"])
		case "late":
			if late++; since == "" || row["next_due_at"] < since {
				since = row["next_due_at"]
			}
		}
	}
	for _, dataset := range datasets {
		if scopes := failing[dataset]; len(scopes) > 0 {
			todo = append(todo, fmt.Sprintf("%s failed at its last run for %s: see the errors above, then `meterhouse run %s`",
				dataset, few(scopes), dataset))
		}
	}
	if late > 0 {
		todo = append(todo, fmt.Sprintf("%d of %d are due, the first since %s: `meterhouse run`", late, len(rows), since))
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
			todo = append(todo, fmt.Sprintf("%s %s has no answer for %s days from %s on: `meterhouse run %s`",
				row["dataset"], row["scope"], row["days"], row["first_day"], row["dataset"]))
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
		todo = append(todo, fmt.Sprintf("%s has %s records refused for %s: `meterhouse quarantine list --reason %s`",
			row["dataset"], row["records"], row["reason"], row["reason"]))
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

// report reads everything that status shows.
func (s *session) report(ctx context.Context) (*statusReport, error) {
	r := &statusReport{sections: statusSections()}
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
	for _, k := range s.keystone {
		status, err := k.TokenStatus(ctx)
		if err != nil {
			r.todo = append(r.todo, fmt.Sprintf("the credential of %s cannot be read: %s", k.cfg.Account, err))
			continue
		}
		r.credentials = append(r.credentials, status)
		if status.NextStep != "none" && status.NextStep != "" {
			r.todo = append(r.todo, fmt.Sprintf("token of %s: %s", k.cfg.Account, strings.TrimPrefix(status.NextStep, "none: ")))
		}
	}
	if len(s.keystone) < len(s.cfg.Keystone) {
		r.todo = append(r.todo, "set secrets_key to see the credentials")
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

func (r *statusReport) print(a *app) {
	for _, sec := range r.sections {
		fmt.Fprintf(a.stdout, "%s\n", sec.title)
		if len(sec.table.Rows) == 0 {
			fmt.Fprint(a.stdout, "none\n\n")
			continue
		}
		printTable(a.stdout, sec.table)
		fmt.Fprintln(a.stdout)
	}
	if len(r.credentials) > 0 {
		t := warehouse.Table{Columns: []string{"account", "state", "access until", "refresh dies at", "login due"}}
		for _, c := range r.credentials {
			t.Rows = append(t.Rows, []string{c.Account, string(c.State), stamp(c.AccessUntil), stamp(c.RefreshDiesAt), stamp(c.LoginDueAt)})
		}
		fmt.Fprintln(a.stdout, "Credentials")
		printTable(a.stdout, t)
		fmt.Fprintln(a.stdout)
	}
	fmt.Fprintln(a.stdout, "What to do now")
	if len(r.todo) == 0 {
		fmt.Fprintln(a.stdout, "nothing")
	}
	for i, text := range r.todo {
		if i == shown {
			fmt.Fprintf(a.stdout, "and %d more: `meterhouse status --format json`\n", len(r.todo)-shown)
			break
		}
		fmt.Fprintln(a.stdout, printable(text))
	}
}

func (r *statusReport) json() map[string]any {
	all := map[string]any{}
	for _, sec := range r.sections {
		all[sec.name] = records(sec.table)
	}
	credentials := make([]map[string]any, 0, len(r.credentials))
	for _, c := range r.credentials {
		credentials = append(credentials, map[string]any{
			"account": c.Account, "state": c.State, "generation": c.Generation, "access_until": c.AccessUntil,
			"refresh_dies_at": c.RefreshDiesAt, "login_due_at": c.LoginDueAt, "next_step": c.NextStep,
		})
	}
	all["credentials"] = credentials
	all["what_to_do"] = append([]string{}, r.todo...)
	return all
}
