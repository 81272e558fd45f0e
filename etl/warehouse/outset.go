package warehouse

import (
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

// outset is what a load asks for before it reads its answer: everything at once, in one round trip, and
// only after the lock of the scope, so that it stays true. What is not about the dataset stays empty.
type outset struct {
	// newer are the runs that saw a later state of the same scope and overlap the window, in order: empty
	// unless this answer comes late. See versions.go.
	newer   []observation
	hasOpen bool               // a refusal waits in quarantine
	covered map[etl.Day]string // status of days, where there is one

	scope   *customer // whose data was asked for; nil when it is not known yet
	days    map[int64]map[etl.Day]*storedDay
	running map[etl.Day]bool // months whose accrued column is read as running
}

func (l *loader) ask() error {
	l.outset = outset{covered: map[etl.Day]string{}, days: map[int64]map[etl.Day]*storedDay{}, running: map[etl.Day]bool{}}
	batch := &pgx.Batch{}
	job, window := l.run.job, l.ans.Request.Window
	if l.run.rebuilding == nil {
		l.askNewer(batch)
	}
	batch.Queue(`select exists (select from ops.quarantine where dataset = $1 and scope = $2 and product = $3 and resolved_at is null)`,
		job.Dataset, job.Scope, l.ans.Request.Product).QueryRow(func(row pgx.Row) error { return row.Scan(&l.hasOpen) })
	switch {
	case !window.IsZero():
		l.askCoverage(batch, `day >= $4 and day < $5`, window.From.Time(), window.Until.Time())
		l.askCustomer(batch)
		l.askDays(batch)
	case job.Dataset == datasetSubscriptions, job.Dataset == datasetCurrent:
		l.askCustomer(batch)
	}
	return l.tx.SendBatch(l.ctx, batch).Close()
}

// askNewer looks for runs that fetched later than this answer and overlap its window. In the normal
// order of things there are none. Runs are the log of observations that makes loading independent of
// order: facts remember when a value was first seen, runs when it was seen again.
func (l *loader) askNewer(batch *pgx.Batch) {
	from, until := windowDates(l.ans.Request.Window)
	var at time.Time
	var wf, wu *time.Time
	forEachRow(batch.Queue(`
		select fetched_at, window_from, window_until from ops.run
		where dataset = $1 and scope = $2 and status in ('ok', 'partial') and fetched_at > $3
			and ($4::date is null or (window_from < $5 and window_until > $4))
		order by fetched_at`, l.run.job.Dataset, l.run.job.Scope, l.ans.FetchedAt, from, until), []any{&at, &wf, &wu}, func() {
		o := observation{at: at}
		if wf != nil {
			o.window = etl.Window{From: etl.DayOf(*wf), Until: etl.DayOf(*wu)}
		}
		l.newer = append(l.newer, o)
	})
}

// askCoverage asks for the status of days; which tells them, by parameters from $4 on.
func (l *loader) askCoverage(batch *pgx.Batch, which string, args ...any) {
	var day time.Time
	var word string
	forEachRow(batch.Queue(`select day, status from ops.coverage where dataset = $1 and scope = $2 and product = $3 and `+which,
		append([]any{l.run.job.Dataset, l.run.job.Scope, l.ans.Request.Product}, args...)...), []any{&day, &word}, func() {
		l.covered[etl.DayOf(day)] = word
	})
}

// askCustomer asks for the customer with everything that is stored under it.
func (l *loader) askCustomer(batch *pgx.Batch) {
	var key int64
	var subscriptionKey, levelKey *int64
	var number, discriminator, levelName *string
	var start, end *time.Time
	var ordinal *int
	forEachRow(batch.Queue(`
		select c.customer_key, s.subscription_key, s.subscription_number, s.discriminator, s.start_at, s.end_at,
			v.service_level_key, v.service_level, v.level_ordinal
		from dw.dim_customer as c
		left join dw.dim_subscription as s using (customer_key)
		left join dw.dim_service_level as v using (subscription_key)
		where c.customer_id = $1
		order by s.subscription_key, v.service_level, v.level_ordinal`, l.run.job.Scope),
		[]any{&key, &subscriptionKey, &number, &discriminator, &start, &end, &levelKey, &levelName, &ordinal}, func() {
			if l.scope == nil {
				l.scope = &customer{key: key}
			}
			c := l.scope
			if subscriptionKey == nil {
				return
			}
			if n := len(c.subscriptions); n == 0 || c.subscriptions[n-1].key != *subscriptionKey {
				c.subscriptions = append(c.subscriptions, &subscription{
					key: *subscriptionKey, number: *number, discriminator: *discriminator, start: start, end: end,
				})
			}
			if levelKey != nil {
				s := c.subscriptions[len(c.subscriptions)-1]
				s.levels = append(s.levels, &level{key: *levelKey, name: *levelName, ordinal: *ordinal})
			}
		})
}

// askDays asks for the stored days of the window, and how their months are read.
func (l *loader) askDays(batch *pgx.Batch) {
	window := l.ans.Request.Window
	var key int64
	var day time.Time
	var d storedDay
	forEachRow(batch.Queue(`
		select d.service_level_key, d.usage_date, d.digest, d.pending_digest, d.pending_at, d.known_since, d.sample_count,
			d.invoiced_samples, d.uninvoiced_samples, d.absent_since
		from dw.dim_service_level as v
		cross join lateral (
			select * from dw.fact_daily_consumption as f
			where f.customer_key = v.customer_key and f.service_level_key = v.service_level_key and f.usage_date >= $2 and f.usage_date < $3
			offset 0 -- level by level through the primary key, however long the history has grown
		) as d
		where v.customer_key = `+theCustomerKey, l.run.job.Scope, window.From.Time(), window.Until.Time()),
		[]any{&key, &day, &d.digest, &d.pending, &d.pendingAt, &d.knownSince, &d.count, &d.invoiced, &d.uninvoiced, &d.absentSince}, func() {
			if l.days[key] == nil {
				l.days[key] = map[etl.Day]*storedDay{}
			}
			stored := d
			l.days[key][etl.DayOf(day)] = &stored
			d = storedDay{}
		})
	var month time.Time
	forEachRow(batch.Queue(`select month from dw.accrued_reading where account = $1 and reading = 'running'`, l.run.job.Account),
		[]any{&month}, func() { l.running[etl.DayOf(month)] = true })
}

// forEachRow has fn called for each row of a queued query, scanned.
func forEachRow(q *pgx.QueuedQuery, scans []any, fn func()) {
	q.Query(func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, scans, func() error { fn(); return nil })
		return err
	})
}
