package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"meterhouse/etl"
	"meterhouse/etl/keystone"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/wolkvox"
)

func (a *app) statusCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether all is well, and what to do if not",
		Long: `Begins with a verdict and, where somebody is needed, with what to do. Then how fresh each dataset
is, what is late or failing, holes, quarantine, open alerts, deadlines of credentials and the last
runs. A scope is late when it was due 15 minutes ago. Asks no vendor and changes nothing.

JSON is one object of lists; CSV has one line per section, row and column. Both have every row.`,
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
	now         time.Time // business clock
	sections    []section
	credentials []keystone.TokenStatus
	todo        []string // what somebody has to do
	notes       []string // what is good to know, and nothing follows from it now
}

type section struct {
	name, title, sql string // without a title only the advice is shown
	table            warehouse.Table
	always           bool                                                 // shown to people without rows too
	advice           func(rows []map[string]string) []string              // what to do about it; nil: nothing ever
	notes            func(rows []map[string]string) []string              // what is good to know about it
	short            func(*statusReport, warehouse.Table) warehouse.Table // what people see of it; nil: the table
}

// lateAfter is how long a scope may be due before status calls it late: that is how often cron looks.
const lateAfter = `interval '15 minutes'`

func statusSections() []section {
	return []section{
		{
			// A customer that the vendor lists no longer is not loaded, and not late.
			name: "freshness", title: "Freshness, in UTC", always: true, advice: adviseFreshness, notes: noteFreshness, short: shortFreshness, sql: `
				select f.dataset, f.scope, f.account, f.status, date_trunc('second', f.watermark) as watermark,
					date_trunc('second', f.last_success_at) as last_success_at, f.next_due_at,
					case when f.lag is null then '' else
						extract(day from justify_hours(f.lag))::int || 'd ' || to_char(justify_hours(f.lag), 'HH24:MI') end as lag,
					c.customer_id is null and (f.last_success_at is null
						or f.next_due_at < current_setting('meterhouse.now')::timestamptz - ` + lateAfter + `) as is_late,
					c.customer_id is not null as is_gone, (c.absent_since at time zone 'UTC')::date as gone_since,
					c.absent_since > current_setting('meterhouse.now')::timestamptz - interval '30 days' as is_gone_of_late
				from mart.freshness as f
				left join dw.dim_customer as c on f.source = 'keystone' and c.customer_id = f.scope and c.absent_since is not null
				order by f.source, f.dataset, f.scope`,
		},
		{
			name: "failing", title: "Failing", advice: adviseFailing, short: shortFailing, sql: `
				select f.dataset, f.scope, r.run_id as run, date_trunc('second', f.last_success_at) as last_success_at, r.error
				from mart.freshness as f
				join ops.watermark as w using (dataset, scope)
				join ops.run as r on r.run_id = w.last_run_id
				where f.status = 'failing'
				order by f.dataset, f.scope`,
		},
		{
			name: "holes", title: "Coverage holes", advice: adviseHoles, notes: noteHoles, short: shortHoles, sql: `
				select v.dataset, coalesce(v.customer_id, v.account) as scope, v.subscription_number as subscription,
					coalesce(v.service_level, v.product) as series, v.status, count(distinct v.day) as days, min(v.day) as first_day, max(v.day) as last_day,
					count(distinct v.day) filter (where v.status = 'missing'
						and (v.day + 2)::timestamp at time zone 'UTC' + w.settle <= current_setting('meterhouse.now')::timestamptz) as overdue_days,
					c.customer_id is not null as is_gone
				from ops.coverage_hole as v
				left join ops.watermark as w on w.dataset = v.dataset and w.scope = coalesce(v.customer_id, v.account)
				left join dw.dim_customer as c on c.customer_id = v.customer_id and c.absent_since is not null
				group by v.dataset, coalesce(v.customer_id, v.account), v.subscription_number, coalesce(v.service_level, v.product), v.status, c.customer_id
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
				select w.dataset, w.scope, warning, sum(occurrences)::bigint as occurrences,
					(array_agg(first_path order by run_id))[1] as first_at
				from ops.watermark as w
				cross join lateral (
					select fence from ops.run where dataset = w.dataset and scope = w.scope order by run_id desc limit 1
				) as newest
				cross join lateral (
					select run_id
					from ops.run
					where dataset = w.dataset and scope = w.scope and fence = newest.fence
						and run_id > coalesce((
							select run_id from ops.run
							where dataset = w.dataset and scope = w.scope and fence <> newest.fence
							order by run_id desc
							limit 1
						), 0)
				) as r
				join ops.run_warning using (run_id)
				group by w.dataset, w.scope, warning
				order by w.dataset, w.scope, warning`,
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
			name: "accrued", advice: adviseAccrued, sql: `
				select account, to_char(month, 'YYYY-MM') as month, reading, proposal,
					round(increment_error_tib, 3) as increment_error_tib, round(running_error_tib, 3) as running_error_tib
				from mart.accrued_evidence
				where is_contradicted and month >= date_trunc('month', current_setting('meterhouse.now')::timestamptz at time zone 'UTC')::date - 62
				order by account, month`,
		},
		{
			name: "closed_days_changed", notes: noteClosedDaysChanged, sql: `
				select period, customer_id, account, changes, first_day, last_day
				from billing.closed_day_changed('-infinity')
				order by period, customer_id, account`,
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
		{
			name: "runs", title: "Last runs", always: true, short: shortRuns, sql: `
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
					received, inserted, restated, unchanged, quarantined, error, calls
				from mart.run
				where run_id in (select run_id from newest union select run_id from failed)
				order by run_id desc`,
		},
	}
}

func adviseFreshness(rows []map[string]string) (todo []string) {
	if len(rows) == 0 {
		return []string{"nothing is loaded yet: `meterhouse run`"}
	}
	late, since := 0, ""
	for _, row := range rows {
		if row["is_gone"] == "true" || row["is_late"] != "true" || row["status"] == "failing" { // what fails is told with its cause
			continue
		}
		late++
		if due := row["next_due_at"]; due != "" && (since == "" || due < since) {
			since = due
		}
	}
	if late > 0 {
		todo = append(todo, fmt.Sprintf("%d of %d are due%s: `meterhouse run`", late, len(rows), prefixed(", the first since ", since)))
	}
	return append(todo, adviseGone(rows, true)...)
}

// noteFreshness says which customers have been gone for so long that somebody will know why.
func noteFreshness(rows []map[string]string) []string { return adviseGone(rows, false) }

// adviseGone says what the vendor lists no longer, per account: of late, or while no customer is left; or
// all other such customers.
func adviseGone(rows []map[string]string, needed bool) (all []string) {
	type account struct {
		name, since string
		gone, late  []string
		listed      bool
	}
	var order []*account
	accounts := map[string]*account{}
	for _, row := range rows {
		if row["dataset"] != "keystone.history" {
			continue
		}
		a := accounts[row["account"]]
		if a == nil {
			a = &account{name: row["account"]}
			order, accounts[a.name] = append(order, a), a
		}
		switch {
		case row["is_gone"] != "true":
			a.listed = true
			continue
		case row["is_gone_of_late"] == "true":
			a.late = append(a.late, row["scope"])
		}
		a.gone = append(a.gone, row["scope"])
		a.since = max(a.since, row["gone_since"])
	}
	for _, a := range order {
		switch {
		case len(a.gone) == 0 || needed != (len(a.late) > 0 || !a.listed):
		case !a.listed:
			all = append(all, fmt.Sprintf("keystone lists none of the customers of %s any more (%s) since %s, so nothing of them is loaded: ask NetApp whether the login still has the right to them",
				a.name, few(a.gone), a.since))
		case needed:
			all = append(all, fmt.Sprintf("keystone lists %s of %s no longer, the last since %s, so nothing of them is loaded: where the contract has not ended, ask NetApp for the right to them",
				few(a.late), a.name, a.since))
		default:
			all = append(all, fmt.Sprintf("keystone lists %s of %s no longer, the last since %s: nothing of them is loaded", few(a.gone), a.name, a.since))
		}
	}
	return all
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
		isRefused        bool
		scopes, datasets []string
	}
	var all []*failure
	byCause := map[string]*failure{}
	for _, row := range rows {
		why := cause(row["error"])
		alike := strings.ReplaceAll(why, row["scope"], "…")
		f := byCause[alike]
		if f == nil {
			f = &failure{why: why, isRefused: strings.Contains(row["error"], etl.ErrUnauthorized.Error())}
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
		first := "" // what has to be done before loading again helps
		switch {
		case f.isRefused && slices.Contains(f.datasets, wolkvox.Dataset):
			first = "correct the wolkvox-token in the configuration, then "
		case f.isRefused:
			first = "see `meterhouse token status`; if the token is in order, ask NetApp for the rights of the account, then "
		}
		todo = append(todo, fmt.Sprintf("%s failed at the last run (%s): %s`meterhouse run %s`", few(f.scopes), f.why, first, strings.Join(f.datasets, " ")))
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

// adviseWarnings says one thing per warning of a scope; a clock is the vendor's, whatever the scope.
func adviseWarnings(rows []map[string]string) (todo []string) {
	var vendors []string
	skewed, first := map[string][]string{}, map[string]string{}
	for _, row := range rows {
		switch name := row["warning"]; {
		case name == etl.VendorClockSkewed:
			vendor, _, _ := strings.Cut(row["dataset"], ".")
			if skewed[vendor] == nil {
				vendors, first[vendor] = append(vendors, vendor), row["first_at"]
			}
			skewed[vendor] = append(skewed[vendor], row["dataset"]+" "+row["scope"])
		case !slices.Contains(harmless, name) && !slices.Contains(routine, name):
			todo = append(todo, fmt.Sprintf("look at %s %s: %s", row["dataset"], row["scope"], deviation(name, row["occurrences"], row["first_at"])))
		}
	}
	for _, vendor := range vendors {
		todo = append(todo, fmt.Sprintf("the clock of %s and ours differed at the last run of %s (%s): set ours if it is wrong, such as with NTP; if it is right, tell the vendor",
			vendor, few(skewed[vendor]), first[vendor]))
	}
	return todo
}

// adviseAccrued tells months in which the vendor's accrued column fits another reading than the one in force.
func adviseAccrued(rows []map[string]string) (todo []string) {
	for _, row := range rows {
		todo = append(todo, fmt.Sprintf("accrued burst of %s in %s is read as %s and fits %s (off by %s TiB as increments, by %s as a running total): look at `meterhouse levels accrued`, then `meterhouse levels accrued %s %s %s --reason R`",
			row["account"], row["month"], row["reading"], row["proposal"], row["increment_error_tib"], row["running_error_tib"], row["account"], row["month"], row["proposal"]))
	}
	return todo
}

// noteClosedDaysChanged tells of closed months of which there are other figures since.
func noteClosedDaysChanged(rows []map[string]string) (notes []string) {
	for _, row := range rows {
		days := count(row["changes"], "day")
		what := fmt.Sprintf("the vendor changed %s of customer %s since, counted by service level", days, row["customer_id"])
		if row["customer_id"] == "" {
			what = fmt.Sprintf("readings of %s of account %s were imported since, counted by product", days, row["account"])
		}
		notes = append(notes, fmt.Sprintf("%s is closed, and %s, %s to %s: they are adjusted in the open month, see `meterhouse report adjustments_by_reason`",
			row["period"], what, row["first_day"], row["last_day"]))
	}
	return notes
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

// adviseHoles speaks of days on which whole customers have no answer, once for those alike.
func adviseHoles(rows []map[string]string) (todo []string) {
	type hole struct{ dataset, days, first string }
	scopes := map[hole][]string{}
	var order []hole
	for _, row := range rows {
		if row["series"] != "" || row["status"] != "missing" || row["is_gone"] == "true" { // what is gone is told as such
			continue
		}
		h := hole{row["dataset"], row["days"], row["first_day"]}
		if scopes[h] == nil {
			order = append(order, h)
		}
		scopes[h] = append(scopes[h], row["scope"])
	}
	for _, h := range order {
		verb := "has"
		if len(scopes[h]) > 1 {
			verb = "have"
		}
		todo = append(todo, fmt.Sprintf("%s %s %s no answer for %s from %s on: `meterhouse run %s`",
			h.dataset, few(scopes[h]), verb, count(h.days, "day"), h.first, h.dataset))
	}
	return append(todo, overdueSeries(rows)...)
}

// overdueSeries speaks of levels of which days stay away although the customer's days were answered: a
// day later than they were due.
func overdueSeries(rows []map[string]string) (todo []string) {
	unanswered := map[string]bool{}
	for _, row := range rows {
		if row["series"] == "" && row["status"] == "missing" {
			unanswered[row["dataset"]+row["scope"]] = true
		}
	}
	series, first, last := map[string][]string{}, map[string]string{}, map[string]string{}
	var order [][2]string
	for _, row := range rows {
		key := row["dataset"] + row["scope"]
		if row["series"] == "" || row["status"] != "missing" || row["overdue_days"] == "0" || row["is_gone"] == "true" || unanswered[key] {
			continue
		}
		if series[key] == nil {
			order = append(order, [2]string{row["dataset"], row["scope"]})
		}
		series[key] = append(series[key], strings.TrimSpace(row["subscription"]+" "+row["series"]))
		if first[key] == "" || row["first_day"] < first[key] {
			first[key] = row["first_day"]
		}
		last[key] = max(last[key], row["last_day"])
	}
	for _, scope := range order {
		key := scope[0] + scope[1]
		until := last[key]
		if day, err := time.Parse(time.DateOnly, until); err == nil {
			until = day.AddDate(0, 0, 1).Format(time.DateOnly)
		}
		todo = append(todo, fmt.Sprintf("%s %s lacks days from %s on (%s), the vendor answered without them: `meterhouse backfill %s --from %s --until %s --customer %s` asks again; if they stay away, ask NetApp",
			scope[0], scope[1], first[key], few(series[key]), scope[0], first[key], until, scope[1]))
	}
	return todo
}

// noteHoles says one thing per dataset, scope and kind of hole. Days on which a whole customer has no
// answer explain those of its levels.
func noteHoles(rows []map[string]string) (notes []string) {
	type hole struct{ dataset, scope, status string }
	unanswered, gone, overdue := map[string]bool{}, map[string]bool{}, map[hole]bool{}
	series, first := map[hole][]string{}, map[hole]string{}
	var order []hole
	for _, row := range rows {
		h := hole{row["dataset"], row["scope"], row["status"]}
		gone[h.scope] = gone[h.scope] || row["is_gone"] == "true"
		if row["series"] == "" && row["status"] == "missing" {
			unanswered[row["dataset"]+row["scope"]] = true
			continue
		}
		overdue[h] = overdue[h] || row["overdue_days"] != "0" // told as something to do
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
		case gone[h.scope]:
			text += ": the vendor lists the customer no longer, they are not asked for"
		case unanswered[h.dataset+h.scope] || overdue[h]:
			continue
		default:
			text += ": the vendor did not deliver them; they are asked for again as long as they are re-read"
		}
		notes = append(notes, text)
	}
	return notes
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
	r := &statusReport{now: s.app.now().UTC(), sections: statusSections()}
	for _, k := range s.keystone {
		status, err := k.TokenStatus(ctx)
		if err != nil {
			r.todo = append(r.todo, fmt.Sprintf("the credential of %s cannot be read: %s", k.cfg.Account, err))
			continue
		}
		r.credentials = append(r.credentials, status)
		switch step, needed := nextStep(status); {
		case needed:
			r.todo = append(r.todo, fmt.Sprintf("token of %s: %s", k.cfg.Account, step))
		case step != "none":
			r.notes = append(r.notes, fmt.Sprintf("token of %s: %s", k.cfg.Account, step))
		}
	}
	if len(s.keystone) < len(s.cfg.Keystone) {
		r.todo = append(r.todo, "set secrets_key to see the credentials")
	}
	// Some of them read every day of every series: two at a time take half as long, and leave room for who loads.
	asked, askedCtx := errgroup.WithContext(ctx)
	asked.SetLimit(2)
	for i := range r.sections {
		sec := &r.sections[i]
		asked.Go(func() (err error) {
			if sec.table, err = s.wh.Query(askedCtx, sec.sql); err != nil {
				return fmt.Errorf("status: %s: %w", sec.name, err)
			}
			return nil
		})
	}
	if err := asked.Wait(); err != nil {
		return nil, err
	}
	for i := range r.sections {
		sec := &r.sections[i]
		if sec.advice != nil {
			r.todo = append(r.todo, sec.advice(named(sec.table))...)
		}
		if sec.notes != nil {
			r.notes = append(r.notes, sec.notes(named(sec.table))...)
		}
		if sec.name == "freshness" {
			r.todo = append(r.todo, s.neverLoaded(named(sec.table))...)
		}
	}
	if err := s.addAlerts(ctx, r); err != nil {
		return nil, err
	}
	return r, nil
}

// neverLoaded says which accounts are configured and have no run at all.
func (s *session) neverLoaded(rows []map[string]string) (todo []string) {
	if len(rows) == 0 {
		return nil // told for all of them
	}
	for _, watched := range s.alertCheck().Watched {
		begun := slices.ContainsFunc(rows, func(row map[string]string) bool {
			source, _, _ := strings.Cut(row["dataset"], ".")
			return source == watched.Source && row["account"] == watched.Account
		})
		if !begun {
			todo = append(todo, fmt.Sprintf("%s account %s is configured and no run of it was ever made: `meterhouse run`", watched.Source, watched.Account))
		}
	}
	return todo
}

// ownWords are kinds of alerts that status judges by itself, as of now.
var ownWords = []string{"late", "failing", "access_refused", "token_idle", "token_login", "token_ambiguous", "token_foreign", "token_dead",
	"month_at_risk", "month_lost", "quarantine", "days_missing", "customer_absent", etl.VendorClockSkewed}

// addAlerts adds the alerts that are open and the notices that reached nobody.
func (s *session) addAlerts(ctx context.Context, r *statusReport) error {
	open, err := s.wh.Alerts(ctx)
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	alerts := section{name: "alerts", title: "Open alerts", table: warehouse.Table{Columns: []string{"severity", "kind", "since", "subject", "detail"}}}
	alerts.short = func(_ *statusReport, t warehouse.Table) warehouse.Table {
		short := warehouse.Table{Columns: t.Columns[:4]}
		for _, row := range t.Rows {
			short.Rows = append(short.Rows, append([]string{row[0], row[1], shortStamp(row[2])}, row[3]))
		}
		return short
	}
	for _, a := range open {
		alerts.table.Rows = append(alerts.table.Rows, []string{string(a.Severity), a.Kind, a.Since.Format("2006-01-02 15:04:05-07"), a.Subject, a.Detail})
		if !slices.Contains(ownWords, a.Kind) {
			r.todo = append(r.todo, a.Subject+": "+a.Detail)
		}
	}
	notices := section{name: "notices", title: "Undelivered notices"}
	// One is given up after three days; that nobody heard it counts until a later one arrives.
	if notices.table, err = s.wh.Query(ctx, `
		select n.notice_id as notice, n.severity, date_trunc('second', n.created_at) as written_at, n.attempts, coalesce(n.outcome, 'waits') as state,
			(select string_agg(d.channel || ': ' || d.last_error, '; ' order by d.channel) from ops.alert_delivery as d
				where d.notice_id = n.notice_id and d.delivered_at is null) as error
		from ops.alert_notice as n
		where n.settled_at is null and (n.attempts > 0 or n.created_at < clock_timestamp() - interval '15 minutes')
			or n.outcome = 'given_up' and not exists (
				select from ops.alert_notice as later where later.notice_id > n.notice_id and later.outcome = 'delivered')
		order by n.notice_id`); err != nil {
		return fmt.Errorf("status: notices: %w", err)
	}
	if rows := named(notices.table); len(rows) > 0 {
		r.todo = append(r.todo, fmt.Sprintf("%s to people not delivered, the first of %s (%s): see alerts.webhook and alerts.command, `meterhouse check`",
			count(len(rows), "notice"), shortStamp(rows[0]["written_at"]), or(rows[0]["error"], "nobody tried")))
	}
	last := len(r.sections) - 1 // before the last runs
	r.sections = slices.Insert(r.sections, last, alerts, notices)
	return nil
}

// verdict is the one line for somebody in a hurry.
func (r *statusReport) verdict() string {
	rows := named(r.sections[0].table)
	newest := ""
	for _, row := range rows {
		newest = max(newest, row["last_success_at"])
	}
	switch {
	case len(r.todo) == 1:
		return "1 thing needs you."
	case len(r.todo) > 0:
		return count(len(r.todo), "thing") + " need you."
	}
	return fmt.Sprintf("All well: %s on time, the newest loaded %s.", count(len(rows), "scope"), r.ago(newest))
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

// shown is how many sentences or rows people get of a kind; the JSON has all.
const shown = 12

func (r *statusReport) print(w io.Writer, f format) error {
	switch f {
	case formatJSON:
		return printJSON(w, r.json())
	case formatCSV:
		return printCSV(w, r.long())
	}
	fmt.Fprintln(w, r.verdict())
	f.gap(w)
	r.list(w, f, r.todo)
	if len(r.notes) > 0 {
		fmt.Fprintln(w)
		f.heading(w, "Good to know")
		r.list(w, f, r.notes)
	}
	for _, sec := range r.sections {
		if sec.name == "runs" { // last: what is wrong is above
			if err := r.printCredentials(w, f); err != nil {
				return err
			}
		}
		if sec.title == "" || len(sec.table.Rows) == 0 && !sec.always {
			continue
		}
		fmt.Fprintln(w)
		f.heading(w, sec.title)
		if len(sec.table.Rows) == 0 {
			fmt.Fprintln(w, "none")
			continue
		}
		t := sec.table
		if sec.short != nil {
			t = sec.short(r, t)
		}
		if err := r.printRows(w, f, t); err != nil {
			return err
		}
	}
	return nil
}

// list writes sentences.
func (r *statusReport) list(w io.Writer, f format, all []string) {
	for i, text := range all {
		if i == shown {
			text = fmt.Sprintf("and %d more: `meterhouse status --format json`", len(all)-shown)
		}
		if f != formatMarkdown {
			text = "- " + text
		}
		f.line(w, text)
		if i == shown {
			break
		}
	}
}

// printRows writes the first rows of a table, cut to what a terminal shows.
func (r *statusReport) printRows(w io.Writer, f format, t warehouse.Table) error {
	more := len(t.Rows) - shown
	if more > 0 {
		t.Rows, t.Null = t.Rows[:shown], nil
	}
	if f == formatTable {
		t = fitted(t, 120)
	}
	if err := f.print(w, t); err != nil {
		return err
	}
	if more > 0 {
		f.gap(w)
		f.line(w, fmt.Sprintf("and %d more: `meterhouse status --format json`", more))
	}
	return nil
}

func (r *statusReport) printCredentials(w io.Writer, f format) error {
	if len(r.credentials) == 0 {
		return nil
	}
	t := warehouse.Table{Columns: []string{"account", "state", "renewed", "dies_unless_renewed", "login_due"}}
	now := time.Now() // tokens die by the real clock
	for _, c := range r.credentials {
		t.Rows = append(t.Rows, []string{c.Account, string(c.State), minute(c.ObtainedAt), deadline(c.RefreshDiesAt, now), deadline(c.LoginDueAt, now)})
	}
	fmt.Fprintln(w)
	f.heading(w, "Credentials")
	return r.printRows(w, f, t)
}

// shortFreshness is one row per dataset and account.
func shortFreshness(r *statusReport, t warehouse.Table) warehouse.Table {
	short := warehouse.Table{
		Columns: []string{"dataset", "account", "scopes", "on_time", "late", "failing", "loaded_up_to", "behind", "next_due"},
		Numeric: []bool{false, false, true, true, true, true},
	}
	type sum struct {
		dataset, account              string
		scopes, onTime, late, failing int
		oldest, next                  string
		never                         bool
	}
	var order []*sum
	sums := map[string]*sum{}
	for _, row := range named(t) {
		key := row["dataset"] + "\x00" + row["account"]
		s := sums[key]
		if s == nil {
			s = &sum{dataset: row["dataset"], account: row["account"]}
			order, sums[key] = append(order, s), s
		}
		s.scopes++
		switch {
		case row["status"] == "failing":
			s.failing++
		case row["is_late"] == "true":
			s.late++
		default:
			s.onTime++
		}
		if row["is_gone"] == "true" {
			continue // what it is complete to does not move any more
		}
		if mark := row["watermark"]; mark == "" {
			s.never = true
		} else if s.oldest == "" || mark < s.oldest {
			s.oldest = mark
		}
		if due := row["next_due_at"]; due != "" && (s.next == "" || due < s.next) {
			s.next = due
		}
	}
	for _, s := range order {
		upTo, behind := shortStamp(s.oldest), r.since(s.oldest)
		if s.never {
			upTo, behind = "never", ""
		}
		short.Rows = append(short.Rows, []string{s.dataset, s.account, strconv.Itoa(s.scopes), strconv.Itoa(s.onTime), strconv.Itoa(s.late),
			strconv.Itoa(s.failing), upTo, behind, shortStamp(s.next)})
	}
	return short
}

func shortFailing(r *statusReport, t warehouse.Table) warehouse.Table {
	short := warehouse.Table{Columns: []string{"dataset", "scope", "run", "last_success", "why"}, Numeric: []bool{false, false, true}}
	for _, row := range named(t) {
		short.Rows = append(short.Rows, []string{row["dataset"], row["scope"], row["run"], or(shortStamp(row["last_success_at"]), "never"), cause(row["error"])})
	}
	return short
}

// shortHoles is one row per dataset, scope and kind of hole.
func shortHoles(_ *statusReport, t warehouse.Table) warehouse.Table {
	short := warehouse.Table{
		Columns: []string{"dataset", "scope", "status", "series", "series_days", "first_day", "last_day"},
		Numeric: []bool{false, false, false, true, true},
	}
	at := map[string]int{}
	series, days := []int{}, []int{}
	for _, row := range named(t) {
		key := row["dataset"] + "\x00" + row["scope"] + "\x00" + row["status"]
		i, seen := at[key]
		if !seen {
			i = len(short.Rows)
			at[key] = i
			series, days = append(series, 0), append(days, 0)
			short.Rows = append(short.Rows, []string{row["dataset"], row["scope"], row["status"], "", "", row["first_day"], row["last_day"]})
		}
		n, _ := strconv.Atoi(row["days"]) // a count of the database
		series[i]++
		days[i] += n
		short.Rows[i][3], short.Rows[i][4] = strconv.Itoa(series[i]), strconv.Itoa(days[i])
		short.Rows[i][5], short.Rows[i][6] = min(short.Rows[i][5], row["first_day"]), max(short.Rows[i][6], row["last_day"])
	}
	return short
}

// shortRuns are the failed runs that no success followed, and the newest others.
func shortRuns(_ *statusReport, t warehouse.Table) warehouse.Table {
	short := warehouse.Table{
		Columns: []string{"run", "dataset", "scope", "window", "finished", "status", "what"},
		Numeric: []bool{true},
	}
	failed := 0
	for _, row := range named(t) {
		if row["status"] == statusFailed {
			failed++
		}
	}
	others := max(shown-failed, 2)
	for _, row := range named(t) {
		if row["status"] != statusFailed {
			if others--; others < 0 {
				continue
			}
		}
		window := "now"
		if row["window_from"] != "" {
			window = row["window_from"] + ".." + row["window_until"]
		}
		short.Rows = append(short.Rows, []string{row["run"], row["dataset"], row["scope"], window, shortStamp(row["finished_at"]), row["status"], whatRan(row)})
	}
	return short
}

// whatRan is what a run brought, and what went wrong.
func whatRan(row map[string]string) string {
	var parts []string
	for _, n := range []struct{ column, word string }{{"inserted", "new"}, {"restated", "restated"}, {"quarantined", "refused"}} {
		if row[n.column] != "0" {
			parts = append(parts, row[n.column]+" "+n.word)
		}
	}
	if why := cause(row["error"]); why != "" {
		parts = append(parts, why)
	}
	if len(parts) == 0 && row["status"] == statusOK {
		return "nothing new"
	}
	return strings.Join(parts, ", ")
}

// shortStamp is a time of the database to the minute, in UTC.
func shortStamp(text string) string {
	if len(text) < len("2006-01-02 15:04") {
		return text
	}
	return text[:len("2006-01-02 15:04")]
}

// minute is a time to the minute, in UTC; empty for none.
func minute(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04")
}

// deadline is a day and how long it is until then.
func deadline(t, now time.Time) string {
	switch left := t.Sub(now); {
	case t.IsZero():
		return ""
	case left < 0:
		return t.UTC().Format(time.DateOnly) + " (past)"
	case left < 48*time.Hour:
		return fmt.Sprintf("%s (%d h)", t.UTC().Format(time.DateOnly), int(left.Hours()))
	default:
		return fmt.Sprintf("%s (%d d)", t.UTC().Format(time.DateOnly), int(left.Hours()/24))
	}
}

// since is how long a time of the database is ago; empty when it is none.
func (r *statusReport) since(text string) string {
	at, err := time.Parse("2006-01-02 15:04:05-07", text)
	if err != nil {
		return ""
	}
	switch ago := r.now.Sub(at); {
	case ago < 2*time.Hour:
		return fmt.Sprintf("%d min", int(max(ago, 0).Minutes()))
	case ago < 48*time.Hour:
		return fmt.Sprintf("%d h", int(ago.Hours()))
	default:
		return fmt.Sprintf("%d d", int(ago.Hours()/24))
	}
}

func (r *statusReport) ago(text string) string {
	if since := r.since(text); since != "" && since != "0 min" {
		return since + " ago"
	}
	return "just now"
}

// fitted cuts the cells of the last column so that no line is longer than most characters, and takes
// the column out where it says nothing.
func fitted(t warehouse.Table, most int) warehouse.Table {
	last := len(t.Columns) - 1
	width, used := 0, 0
	for i, name := range t.Columns {
		widest := utf8.RuneCountInString(name)
		for _, row := range t.Rows {
			widest = max(widest, utf8.RuneCountInString(row[i]))
		}
		if i < last {
			used += widest + 2
		}
	}
	for _, row := range t.Rows {
		width = max(width, utf8.RuneCountInString(row[last]))
	}
	if width == 0 {
		cut := warehouse.Table{Columns: t.Columns[:last], Numeric: t.Numeric, Boolean: t.Boolean}
		for _, row := range t.Rows {
			cut.Rows = append(cut.Rows, row[:last])
		}
		return cut
	}
	room := max(most-used, 20)
	cut := t
	cut.Rows = nil
	for _, row := range t.Rows {
		if letters := []rune(row[last]); len(letters) > room {
			row = slices.Clone(row)
			row[last] = string(letters[:room-1]) + "…"
		}
		cut.Rows = append(cut.Rows, row)
	}
	return cut
}

func (r *statusReport) json() map[string]any {
	all := map[string]any{}
	for _, sec := range r.sections {
		all[sec.name] = records(sec.table)
	}
	all["credentials"] = records(tokenTable(r.credentials))
	all["verdict"] = r.verdict()
	all["needs_you"] = append([]string{}, r.todo...)
	all["good_to_know"] = append([]string{}, r.notes...)
	all["what_to_do"] = append(append([]string{}, r.todo...), r.notes...)
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
	sentences := func(name string, all ...string) {
		rows := warehouse.Table{Columns: []string{name}}
		for _, text := range all {
			rows.Rows = append(rows.Rows, []string{text})
		}
		add(name, rows)
	}
	sentences("verdict", r.verdict())
	sentences("needs_you", r.todo...)
	sentences("good_to_know", r.notes...)
	sentences("what_to_do", append(slices.Clone(r.todo), r.notes...)...)
	return t
}
