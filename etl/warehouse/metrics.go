package warehouse

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/migrations"
)

// Metric is one family of figures for a monitor, named by the conventions of Prometheus: the unit last,
// seconds and not days.
type Metric struct {
	Name    string
	Help    string
	Counter bool // it only ever grows; otherwise it may go up and down
}

// MetricGroup is what one query tells: metrics that have their labels in common.
type MetricGroup struct {
	Name    string        // for errors
	Every   time.Duration // how often it is worth its price; 0: whenever asked
	Labels  []string
	Metrics []Metric

	source string // vendor whose accounts it is about, where no label says it
	sql    string // the labels, then one column per metric; NULL is no figure
}

// Figure is the value of one metric.
type Figure struct {
	Metric Metric
	Labels []string // values, in the order of the group's names
	Value  string   // decimal
}

// MetricGroups are all figures that the warehouse has for a monitor. They come from what is committed,
// so every process tells the same for all of them. Labels are names from our configuration, our own
// words, and customer ids; nothing else that a vendor said, and nothing secret.
func MetricGroups() []MetricGroup { return metricGroups }

var metricGroups = []MetricGroup{
	{
		Name: "freshness", Labels: []string{"source", "dataset", "account", "scope"},
		Metrics: []Metric{
			{Name: "meterhouse_watermark_lag_seconds", Help: "How far the watermark is behind now: what is loaded completely up to when."},
			{Name: "meterhouse_last_success_timestamp_seconds", Help: "When the scope was last loaded."},
			{Name: "meterhouse_next_due_timestamp_seconds", Help: "When the schedule asks for the scope next, or did and nothing came of it."},
			{Name: "meterhouse_scope_late", Help: "1 while the scope is due and not loaded, or was never loaded; 0 too for a customer that the vendor lists no longer."},
			{Name: "meterhouse_scope_failing", Help: "1 while the last run of the scope is one that failed."},
		},
		sql: `
			select f.source, f.dataset, f.account, f.scope,
				extract(epoch from f.lag),
				extract(epoch from f.last_success_at),
				extract(epoch from f.next_due_at),
				((f.last_success_at is null or f.next_due_at < clock.now_at) and c.customer_id is null)::integer,
				(f.status = 'failing')::integer
			from mart.freshness as f
			cross join ` + clockRow + `
			left join dw.dim_customer as c on f.source = 'keystone' and c.customer_id = f.scope and c.absent_since is not null`,
	},
	{
		Name: "runs", Labels: []string{"source", "dataset", "status"},
		Metrics: []Metric{{Name: "meterhouse_runs_total", Help: "Runs that ended, by how: ok, partial, failed.", Counter: true}},
		sql: `
			select d.source, d.dataset, k.kind, coalesce(t.total, 0)
			from (select distinct source, dataset from ops.run_total) as d
			cross join (values ('ok'), ('partial'), ('failed')) as k (kind)
			left join (select dataset, kind, sum(total) as total from ops.run_total where counted = 'runs' group by dataset, kind) as t
				on t.dataset = d.dataset and t.kind = k.kind`,
	},
	{
		Name: "records", Labels: []string{"source", "dataset", "outcome"},
		Metrics: []Metric{{Name: "meterhouse_records_total", Help: "Records received, at the dataset's grain, by what became of them.", Counter: true}},
		sql: `
			select d.source, d.dataset, k.kind, coalesce(t.total, 0)
			from (select distinct source, dataset from ops.run_total) as d
			cross join (values ('inserted'), ('restated'), ('unchanged'), ('ignored'), ('quarantined')) as k (kind)
			left join (select dataset, kind, sum(total) as total from ops.run_total where counted = 'records' group by dataset, kind) as t
				on t.dataset = d.dataset and t.kind = k.kind`,
	},
	{
		Name: "calls", Labels: []string{"source", "account", "class"},
		Metrics: []Metric{{Name: "meterhouse_vendor_calls_total", Help: "HTTP exchanges that runs made with a vendor, by what became of them. token is an exchange of a refresh token.", Counter: true}},
		sql: `
			select source, account, kind, sum(total)
			from ops.run_total
			where counted = 'calls'
			group by source, account, kind`,
	},
	{
		// The real clock: tokens die by it whatever the business clock says.
		Name: "tokens", source: "keystone", Labels: []string{"account"},
		Metrics: []Metric{
			{Name: "meterhouse_token_obtained_timestamp_seconds", Help: "When the newest refresh token was received."},
			{Name: "meterhouse_token_expires_timestamp_seconds", Help: "When the newest refresh token dies unless it is exchanged before."},
			{Name: "meterhouse_token_login_timestamp_seconds", Help: "When a person last logged in for the chain."},
			{Name: "meterhouse_token_login_due_timestamp_seconds", Help: "Until when a person must have logged in again."},
		},
		sql: newestCredential + `
			select account, extract(epoch from obtained_at), extract(epoch from obtained_at + interval '7 days'),
				extract(epoch from seeded_at), extract(epoch from seeded_at + interval '90 days')
			from newest`,
	},
	{
		Name: "token_state", source: "keystone", Labels: []string{"account", "state"},
		Metrics: []Metric{{Name: "meterhouse_token_state", Help: "1 for the state the token chain is in, 0 for the others. A chain that never began is in none."}},
		sql: newestCredential + `,

			last_attempt as (
				select distinct on (account) account, state, from_generation, deadline_at
				from ops.credential_attempt
				order by account, attempt_id desc
			),

			stands as (
				select
					n.account,
					case
						when a.state = 'ambiguous' and a.from_generation >= n.generation then 'ambiguous'
						when a.state = 'open' and a.from_generation >= n.generation and a.deadline_at < clock_timestamp() then 'ambiguous'
						when a.state = 'rejected' and a.from_generation = n.generation then 'dead'
						when n.obtained_at + interval '7 days' <= clock_timestamp() then 'dead'
						else 'ok'
					end as state
				from newest as n
				left join last_attempt as a using (account)
			)

			select s.account, k.state, (s.state = k.state)::integer
			from stands as s
			cross join (values ('ok'), ('ambiguous'), ('dead')) as k (state)`,
	},
	{
		Name: "quarantine", Labels: []string{"source", "dataset"},
		Metrics: []Metric{{Name: "meterhouse_quarantine_open_records", Help: "Refused records that nobody has settled."}},
		sql: `
			select d.source, d.dataset, count(q.quarantine_id)
			from (select distinct source, dataset from ops.watermark) as d
			left join ops.quarantine as q on q.dataset = d.dataset and q.resolved_at is null
			group by d.source, d.dataset`,
	},
	{
		// It looks at every day of every series.
		Name: "coverage", Every: 5 * time.Minute, Labels: []string{"source", "dataset", "account", "status"},
		Metrics: []Metric{{Name: "meterhouse_coverage_holes", Help: "Days of series, or of customers as a whole, that are missing (may still come), partial (records were refused) or lost (cannot be fetched any more)."}},
		sql: `
			with hole as (
				select dataset, account, status, count(*) as days
				from ops.coverage_hole
				group by dataset, account, status
			)

			select d.source, d.dataset, d.account, k.status, coalesce(h.days, 0)
			from (select distinct source, dataset, account from ops.watermark where dataset in ('keystone.history', 'wolkvox.billing')) as d
			cross join (values ('missing'), ('partial'), ('lost')) as k (status)
			left join hole as h on h.dataset = d.dataset and h.account = d.account and h.status = k.status`,
	},
	{
		Name: "months", source: "wolkvox", Every: time.Minute, Labels: []string{"account", "state"},
		Metrics: []Metric{{Name: "meterhouse_license_months", Help: "Months of an account's readings by how they stand: open, at_risk (its end is near and readings fail or stay away), complete, lost (no reading can be fetched any more)."}},
		sql: `
			with month as (
				select account, state, count(*) as months
				from mart.license_month
				group by account, state
			)

			select d.account, k.state, coalesce(m.months, 0)
			from (select distinct account from month) as d
			cross join (values ('open'), ('at_risk'), ('complete'), ('lost')) as k (state)
			left join month as m using (account, state)`,
	},
	{
		Name: "closed", Every: 5 * time.Minute, Labels: []string{"source", "account"},
		Metrics: []Metric{{Name: "meterhouse_changes_after_close", Help: "Days of closed months, counted by service level or product, of which the vendor told other figures or readings were imported since they were closed. They are adjusted in the open month."}},
		sql: `
			select d.source, d.account, coalesce(sum(c.changes), 0)
			from (select distinct source, account from ops.watermark where dataset in ('keystone.history', 'wolkvox.billing')) as d
			left join billing.closed_day_changed('-infinity') as c on c.account = d.account and (c.customer_id = '') = (d.source = 'wolkvox')
			group by d.source, d.account`,
	},
	budget,
	dayCalls,
}

// budget is what is left of the calls that a vendor allows in a day, counted as the guard of the calls
// does: its limit, less what others use of it, less our calls of the last 24 hours.
var budget = MetricGroup{
	Name: "budget", source: "wolkvox", Labels: []string{"account"},
	Metrics: []Metric{
		{Name: "meterhouse_vendor_budget_limit_calls", Help: "Calls a day that the vendor said it allows the account's token."},
		{Name: "meterhouse_vendor_budget_left_calls", Help: "Calls that are left of them: less what others used when the vendor was last asked, and less our own of the last 24 hours."},
		{Name: "meterhouse_vendor_budget_told_timestamp_seconds", Help: "When the vendor said so."},
	},
	sql: `
		with newest as (
			select distinct on (account) account, credential, limit_calls, used_elsewhere, told_at
			from ops.vendor_quota
			order by account, told_at desc
		)

		select n.account, n.limit_calls, case when n.limit_calls is not null then greatest(n.limit_calls - n.used_elsewhere - c.calls, 0) end,
			extract(epoch from n.told_at)
		from newest as n
		cross join lateral (
			select count(*) as calls
			from ops.vendor_call as v
			where v.credential = n.credential and v.started_at > now() - interval '24 hours' and v.outcome is distinct from 'unsent'
		) as c`,
}

// dayCalls hops over the index from credential to credential: the ledger itself may be long.
var dayCalls = MetricGroup{
	Name: "day_calls", source: "wolkvox", Labels: []string{"account"},
	Metrics: []Metric{{Name: "meterhouse_vendor_day_calls", Help: "Calls of the last 24 hours with a token that allows so many a day, by all processes."}},
	sql: `
		with recursive hop as (
			(select credential from ops.vendor_call order by credential limit 1)
			union all
			select (select v.credential from ops.vendor_call as v where v.credential > hop.credential order by v.credential limit 1)
			from hop
			where hop.credential is not null
		)

		select last.account, sum(day.calls)
		from hop
		cross join lateral (
			select account from ops.vendor_call where credential = hop.credential order by started_at desc limit 1
		) as last
		cross join lateral (
			select count(*) as calls
			from ops.vendor_call
			where credential = hop.credential and started_at > now() - interval '24 hours' and outcome is distinct from 'unsent'
		) as day
		group by last.account`,
}

// clockRow is now as the views of mart see it.
const clockRow = `(
				select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock
			) as clock`

const newestCredential = `
			with newest as (
				select distinct on (account) account, generation, obtained_at, seeded_at
				from ops.credential
				order by account, generation desc
			)
`

// measureFor bounds one query of a monitor on the server, so that it ends there too.
const measureFor = 5 * time.Second

// gauge tells whether the group's figures are about how things stand now, not sums that only grow.
func (g MetricGroup) gauge() bool { return !g.Metrics[0].Counter }

// watches tells whether the row's account, and customer, is one of those watched; nil watches all.
func watches(watched []Watched, g MetricGroup, labels []string) bool {
	label := func(name string) string {
		if i := slices.Index(g.Labels, name); i >= 0 {
			return labels[i]
		}
		return ""
	}
	account := label("account")
	if watched == nil || account == "" {
		return true
	}
	source, dataset, scope := label("source"), label("dataset"), label("scope")
	if source == "" {
		source = g.source
	}
	return slices.ContainsFunc(watched, func(w Watched) bool {
		return w.Account == account && (source == "" || w.Source == source) &&
			(len(w.Customers) == 0 || scope == "" || dataset == "keystone.customers" || slices.Contains(w.Customers, scope))
	})
}

// Measure runs one group's query, in a read-only transaction that the server ends after five seconds.
// Figures of accounts and customers that are not among the watched are left out, but for counters: what
// is configured no longer would look late, and its token dead, for ever. Nil watches all.
func (w *Warehouse) Measure(ctx context.Context, g MetricGroup, watched []Watched) (figures []Figure, err error) {
	err = pgx.BeginTxFunc(ctx, w.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// Compiling these queries takes longer than running them.
		if _, err := tx.Exec(ctx, `
			select set_config('meterhouse.now', $1, true), set_config('statement_timeout', $2, true), set_config('jit', 'off', true)`,
			w.cfg.Now().UTC().Format(time.RFC3339Nano), fmt.Sprint(measureFor.Milliseconds())); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, g.sql, pgx.QueryResultFormats{pgx.TextFormatCode})
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			raw := rows.RawValues()
			labels := make([]string, len(g.Labels))
			for i := range labels {
				labels[i] = string(raw[i])
			}
			if g.gauge() && !watches(watched, g, labels) {
				continue
			}
			for i, m := range g.Metrics {
				if value := raw[len(labels)+i]; value != nil {
					figures = append(figures, Figure{m, labels, string(value)})
				}
			}
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("measure %s: %w", g.Name, err)
	}
	return figures, nil
}

// NotReady says why the database cannot be worked with now, in words that strangers may read. It
// unwraps to what the database said, which they may not.
type NotReady struct {
	reason string
	cause  error
}

func (e *NotReady) Error() string { return e.reason }
func (e *NotReady) Unwrap() error { return e.cause }

// Ready is nil when the database answers, takes writes and has the schema that this binary wants; a
// *NotReady otherwise.
func (w *Warehouse) Ready(ctx context.Context) error {
	var readOnly bool
	var version int64
	conn, err := w.pool.Acquire(ctx)
	if err == nil {
		defer conn.Release()
		err = conn.QueryRow(ctx, `select pg_is_in_recovery() or current_setting('transaction_read_only')::boolean`).Scan(&readOnly)
	}
	if err == nil {
		version, err = migrations.Version(ctx, conn.Conn())
	}
	switch head := migrations.Head(); {
	case err != nil:
		return &NotReady{"the database does not answer", err}
	case version != head:
		return &NotReady{fmt.Sprintf("the database schema is at version %d, want %d", version, head), nil}
	case readOnly:
		return &NotReady{"the database is read-only", nil}
	}
	return nil
}
