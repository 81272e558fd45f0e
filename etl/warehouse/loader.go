package warehouse

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

// loader is the etl.Sink of one answer. Everything it writes is under one savepoint.
type loader struct {
	ctx   context.Context
	run   *run
	outer *loadTx
	tx    *loadTx // the savepoint inside outer
	ans   *etl.Answer

	out     etl.Outcome
	rejects []etl.Reject
	folded  int // records that count no more, as they are part of a refused one
	// refusals are the fingerprints of the rejects; listed are those that are in quarantine already.
	refusals   [][sha256.Size]byte
	listed     map[[sha256.Size]byte]bool
	settled    map[[sha256.Size]byte]bool // of those, refusals of this very answer that were settled
	dismissals map[dismissal]bool         // what a person settled; nil until it is looked up

	packing chan packed // where the answer's body is going to be landed; nil while it is not
	landed  int64       // id under which the answer is landed by this load; 0 while it brings no news

	outset // what is known before anything is read

	customer  *customer
	customers map[string]bool // ids named by this answer's list of customers
	// delivered are the subscriptions and levels of this answer by key; unsure are subscriptions
	// of which a rejected record may have told more.
	deliveredSubs   map[int64]bool
	deliveredLevels map[int64]bool
	unsureSubs      map[int64]bool
	history         *historyLoad
	operations      map[string]int64
	pinned          string          // the account's first operation, once looked up
	readings        map[rowKey]bool // licence readings that were accepted
	goodDays        map[rowKey]bool // series-days that were delivered whole
	openDays        []etl.Window    // days of which a record is still refused
	reading         []byte          // hash of what this reading depends on, where it may be repeated: see repeat.go
}

// rowKey names what a refused record was about, as far as one can tell.
type rowKey struct {
	subscription, level, description string
	day                              etl.Day
}

// begin opens the savepoint and starts from nothing.
func (l *loader) begin() error {
	tx, err := l.outer.savepoint(l.ctx)
	if err != nil {
		return fmt.Errorf("savepoint: %w", err)
	}
	*l = loader{
		ctx: l.ctx, run: l.run, outer: l.outer, tx: tx, ans: l.ans, reading: l.reading, packing: l.packing,
		out:             etl.Outcome{Warnings: etl.Warnings{}},
		customers:       map[string]bool{},
		deliveredSubs:   map[int64]bool{},
		deliveredLevels: map[int64]bool{},
		unsureSubs:      map[int64]bool{},
		operations:      map[string]int64{},
		readings:        map[rowKey]bool{},
		goodDays:        map[rowKey]bool{},
	}
	if err := l.ask(); err != nil {
		return fmt.Errorf("what is stored: %w", err)
	}
	if n := len(l.newer); n > 0 {
		l.warn("older_observation", "fetched before "+l.newer[n-1].at.UTC().Format(time.RFC3339))
	}
	return nil
}

// Restart implements etl.Sink.
func (l *loader) Restart() error {
	if err := l.tx.Rollback(l.ctx); err != nil {
		return fmt.Errorf("back to savepoint: %w", err)
	}
	return l.begin()
}

// Reject implements etl.Sink.
func (l *loader) Reject(r etl.Reject) error {
	l.rejects = append(l.rejects, r)
	return nil
}

// payload is the id under which the answer is, or will be, landed: whoever asks has news.
func (l *loader) payload() (int64, error) {
	if l.ans.PayloadID != 0 {
		return l.ans.PayloadID, nil
	}
	if l.landed == 0 {
		id, err := nextPayloadID(l.ctx, l.outer)
		if err != nil {
			return 0, err
		}
		l.landed = id
		if l.packing == nil {
			body, packing := l.ans.Body, make(chan packed, 1) // a restart makes the loader anew meanwhile
			l.packing = packing
			go func() {
				frame, err := body.Zstd()
				packing <- packed{frame, err}
			}()
		}
	}
	return l.landed, nil
}

// packed is the answer's body, compressed while the load goes on: the server is at work most of that time.
type packed struct {
	frame etl.Frame
	err   error
}

// land stores the answer.
func (l *loader) land() error {
	p := <-l.packing
	l.packing = nil
	if p.err != nil {
		return p.err
	}
	defer p.frame.Close()
	if err := l.tx.settle(); err != nil {
		return err
	}
	return l.run.copyPayload(l.ctx, l.tx.Conn().PgConn(), l.landed, l.ans, p.frame)
}

// unpack waits for a body that is not landed after all.
func (l *loader) unpack() {
	if l.packing == nil {
		return
	}
	if p := <-l.packing; p.err == nil {
		p.frame.Close()
	}
	l.packing = nil
}

// rereads tells that what the payload said is said by this very answer, which is read again.
func (l *loader) rereads(payload int64) bool { return payload != 0 && payload == l.ans.PayloadID }

func (l *loader) warn(name, where string) { l.out.Warnings.Add(name, where) }

// finish settles what only the whole answer can tell: emptiness, absence, coverage, quarantine.
func (l *loader) finish(report etl.Report) error {
	quiet := len(l.out.Warnings) == 0
	for name, w := range report.Warnings {
		seen := l.out.Warnings[name]
		if seen.Count == 0 {
			seen.FirstPath = w.FirstPath
		}
		seen.Count += w.Count
		l.out.Warnings[name] = seen
	}
	for name, w := range l.ans.Warnings {
		l.out.Warnings[name] = w
	}
	l.out.Received = report.Received - l.folded
	l.out.Ignored += report.Ignored
	l.out.Quarantined += report.Quarantined
	l.out.Mismatch = report.Mismatch

	l.doubtRejected()
	if report.Records == 0 && !l.ans.NoData && !l.run.loadedBefore[l.ans.PayloadID] {
		if err := l.checkEmpty(); err != nil {
			return err
		}
	}
	if report.Records > 0 || l.ans.NoData {
		if err := l.markAbsent(); err != nil {
			return fmt.Errorf("mark absent: %w", err)
		}
	}
	if l.history != nil {
		if err := l.history.finish(); err != nil {
			return err
		}
	}
	if l.run.job.Aside && !l.ans.Imported() {
		if err := l.dropUntold(); err != nil {
			return fmt.Errorf("readings that are not told any more: %w", err)
		}
	}
	if err := l.quarantine(report); err != nil {
		return fmt.Errorf("quarantine: %w", err)
	}
	if err := l.cover(report); err != nil {
		return fmt.Errorf("coverage: %w", err)
	}
	for _, path := range slices.Sorted(slices.Values(report.Drift)) {
		if _, err := l.tx.Exec(l.ctx, `
			insert into ops.schema_drift (dataset, path, first_run_id, first_seen_at)
			select $1, $2, $3, $4 where not exists (select from ops.schema_drift where dataset = $1 and path = $2)
			on conflict do nothing`,
			l.run.job.Dataset, path, l.run.id, l.ans.FetchedAt); err != nil {
			return fmt.Errorf("schema drift: %w", err)
		}
	}
	o := &l.out
	if sum := o.Inserted + o.Restated + o.Unchanged + o.Ignored + o.Quarantined; sum != o.Received {
		return fmt.Errorf("records lost on the way: received %d, but inserted %d + restated %d + unchanged %d + ignored %d + quarantined %d is %d",
			o.Received, o.Inserted, o.Restated, o.Unchanged, o.Ignored, o.Quarantined, sum)
	}
	l.foundNothing(report, quiet)
	return nil
}

// checkEmpty refuses an answer without any record when this scope is known to have some: a
// well-formed nothing is how an outage of the vendor often looks.
func (l *loader) checkEmpty() error {
	var expected bool
	var err error
	job, window := l.run.job, l.ans.Request.Window
	switch {
	case l.ans.Request.Product != "":
		err = l.tx.QueryRow(l.ctx, `
			select exists (
				select from dw.fact_license_reading as f
				join dw.dim_operation as o using (operation_key)
				join dw.dim_product as p using (product_key)
				where o.account = $1 and p.api = $2
			)`, job.Account, l.ans.Request.Product).Scan(&expected)
	case !window.IsZero():
		// Levels that were observed in the window or shortly before it, unless their subscription ended.
		err = l.tx.QueryRow(l.ctx, `
			select exists (
				select from dw.dim_customer as c
				join dw.dim_subscription as s using (customer_key)
				join dw.dim_service_level as v using (subscription_key)
				cross join lateral (
					select from dw.fact_daily_consumption as d
					where d.customer_key = c.customer_key and d.service_level_key = v.service_level_key
						and d.usage_date >= $2::date - 35 and d.usage_date < $3::date
						and (d.usage_date >= $2::date or s.end_at is null or s.end_at >= $2::date - 1)
					limit 1 -- level by level through the primary key, however long the history has grown
				) as d
				where c.customer_id = $1
			)`, job.Scope, window.From.Time(), window.Until.Time()).Scan(&expected)
	case job.Dataset == datasetCustomers:
		err = l.tx.QueryRow(l.ctx, `select exists (select from dw.dim_customer where account = $1)`, job.Account).Scan(&expected)
	default:
		fact := "dw.fact_service_level"
		if job.Dataset == datasetSubscriptions {
			fact = "dw.fact_commitment"
		}
		err = l.tx.QueryRow(l.ctx, `
			select exists (
				select from dw.dim_customer as c
				join dw.dim_subscription as s using (customer_key)
				join dw.dim_service_level as v using (subscription_key)
				join `+fact+` as f on f.customer_key = c.customer_key and f.service_level_key = v.service_level_key
				where c.customer_id = $1 and (s.end_at is null or s.end_at >= $2::timestamptz - interval '1 day')
			)`, job.Scope, l.ans.FetchedAt).Scan(&expected)
	}
	if err != nil {
		return fmt.Errorf("look for what was expected: %w", err)
	}
	if expected {
		return etl.Rejected("unexpected_empty", "got a well-formed answer without records, want what was there before")
	}
	return nil
}

// cover records that the vendor answered for the days asked. The best answer of a day stays.
func (l *loader) cover(report etl.Report) error {
	status := map[etl.Day]string{}
	switch {
	case l.ans.Request.Product != "":
		today, err := l.localDay()
		if err != nil {
			return err
		}
		if len(l.rejects) == 0 && len(l.readings) == 0 {
			status[today] = "empty"
		}
		for key := range l.readings {
			status[key.day] = "answered"
			if l.ans.Imported() {
				status[key.day] = "imported"
			}
		}
		for i := range l.rejects {
			day := *l.rejects[i].Day
			_, accepted := status[day]
			dismissed, err := l.isDismissed(&l.rejects[i])
			if err != nil {
				return err
			}
			if !accepted || !dismissed {
				status[day] = "partial"
			}
		}
	case !l.ans.Request.Window.IsZero():
		word := "answered"
		if report.Records == 0 {
			word = "empty"
		}
		for day := l.ans.Request.Window.From; day < l.ans.Request.Window.Until; day++ {
			status[day] = word
		}
		// What is refused may be listed already, from another window.
		for i := range l.rejects {
			dismissed, err := l.isDismissed(&l.rejects[i])
			if err != nil {
				return err
			}
			if dismissed || l.settled[l.refusals[i]] {
				continue
			}
			span := l.ans.Request.Window
			if day := l.rejects[i].Day; day != nil {
				span = etl.Window{From: *day, Until: *day + 1}
			}
			l.openDays = append(l.openDays, span)
		}
	default:
		return nil
	}
	for _, open := range l.openDays {
		for day := open.From; day < open.Until; day++ {
			if status[day] == "answered" {
				status[day] = "partial"
			}
		}
	}
	// Read first, write only what is better: a conflict that changes nothing would still cost WAL.
	if l.ans.Request.Product != "" { // which days are meant was not known at the outset
		batch := &pgx.Batch{}
		l.askCoverage(batch, `day = any($4)`, dayTimes(status))
		if err := l.tx.SendBatch(l.ctx, batch).Close(); err != nil {
			return err
		}
	}
	var days []time.Time
	var words []string
	for d := range status {
		if rank[l.covered[d]] < rank[status[d]] {
			days, words = append(days, d.Time()), append(words, status[d])
		}
	}
	if len(days) == 0 {
		return nil
	}
	_, err := l.tx.Exec(l.ctx, `
		insert into ops.coverage (source, dataset, scope, product, day, status, run_id)
		select $1, $2, $3, $4, better.day, better.status, $7
		from unnest($5::date[], $6::text[]) as better (day, status)
		order by better.day
		on conflict (dataset, scope, product, day) do update set status = excluded.status, run_id = excluded.run_id`,
		l.run.job.Source, l.run.job.Dataset, l.run.job.Scope, l.ans.Request.Product, days, words, l.run.id)
	return err
}

var rank = map[string]int{"empty": 1, "imported": 2, "partial": 3, "answered": 4}

func dayTimes[V any](days map[etl.Day]V) []time.Time {
	times := make([]time.Time, 0, len(days))
	for d := range days {
		times = append(times, d.Time())
	}
	return times
}

// localDay is the day of the request in the zone that the vendor's days are filed in.
func (l *loader) localDay() (etl.Day, error) {
	zone := time.UTC
	if l.run.job.Zone != "" {
		var err error
		if zone, err = time.LoadLocation(l.run.job.Zone); err != nil {
			return 0, err
		}
	}
	return etl.DayOf(l.ans.RequestedAt.In(zone)), nil
}

// quarantine lands the body when it brought news or new rejects, writes those, and settles open
// rows of former answers that this one makes good.
func (l *loader) quarantine(report etl.Report) error {
	if l.ans.Request.Product != "" {
		today, err := l.localDay()
		if err != nil {
			return err
		}
		for i := range l.rejects {
			if l.rejects[i].Day == nil { // a reading that is not dated is of the day it was asked for
				l.rejects[i].Day = &today
			}
		}
	}
	if err := l.findListed(); err != nil {
		return err
	}
	for i, print := range l.refusals {
		dismissed, err := l.isDismissed(&l.rejects[i])
		if err != nil {
			return err
		}
		if dismissed {
			l.listed[print] = true
			l.warn("dismissed", l.rejects[i].Path)
		}
		if dismissed || l.settled[print] {
			l.out.Quarantined--
			l.out.Ignored++
		}
		if l.listed[print] {
			continue
		}
		if _, err := l.payload(); err != nil {
			return err
		}
	}
	if l.landed != 0 {
		if err := l.land(); err != nil {
			return fmt.Errorf("land: %w", err)
		}
	}
	if err := l.writeRejects(); err != nil {
		return err
	}
	return l.settleOpen(report)
}

// dismissal is what a person settled for good: ignored while the vendor repeats it letter by letter.
// The day counts where a refused record has one of its own, and the path where nothing better tells
// records apart: it shifts with the window asked.
type dismissal struct {
	path, reason, excerpt, subscription, level, description string
	day                                                     etl.Day
}

func (l *loader) dismissalOf(r *etl.Reject) dismissal {
	d := dismissal{r.Path, r.Reason, r.Excerpt, r.Subscription, r.Level, r.Description, 0}
	if !l.ans.Request.Window.IsZero() && r.Day != nil {
		d.day = *r.Day
		if r.Subscription != "" && r.Level != "" {
			d.path = ""
		}
	}
	return d
}

func (l *loader) isDismissed(r *etl.Reject) (bool, error) {
	if l.dismissals == nil {
		l.dismissals = map[dismissal]bool{}
		rows, err := l.tx.Query(l.ctx, `
			select path, reason, excerpt, coalesce(subscription_number, ''), coalesce(service_level, ''), coalesce(description, ''), day
			from ops.quarantine
			where dataset = $1 and scope = $2 and product = $3 and is_dismissed`,
			l.run.job.Dataset, l.run.job.Scope, l.ans.Request.Product)
		if err != nil {
			return false, err
		}
		var was etl.Reject
		var day *time.Time
		if _, err := pgx.ForEachRow(rows, []any{&was.Path, &was.Reason, &was.Excerpt, &was.Subscription, &was.Level, &was.Description, &day}, func() error {
			was.Day = nil
			if day != nil {
				d := etl.DayOf(*day)
				was.Day = &d
			}
			l.dismissals[l.dismissalOf(&was)] = true
			return nil
		}); err != nil {
			return false, err
		}
	}
	return l.dismissals[l.dismissalOf(r)], nil
}

// isWholeButDismissed tells that all that was refused of a series-day is dismissed: it holds the day's
// other samples no more.
func (l *loader) isWholeButDismissed(number, level string, day etl.Day) (bool, error) {
	found := false
	for i := range l.rejects {
		r := &l.rejects[i]
		if r.Subscription != number || r.Level != level || r.Day == nil || *r.Day != day {
			continue
		}
		dismissed, err := l.isDismissed(r)
		if err != nil || !dismissed {
			return false, err
		}
		found = true
	}
	return found, nil
}

// findListed tells which rejects are in quarantine already: open ones, and those of this very answer
// when it is read again.
func (l *loader) findListed() error {
	if len(l.rejects) == 0 {
		return nil
	}
	repeats := map[[sha256.Size]byte]int{}
	prints := make([][]byte, len(l.rejects))
	l.refusals = make([][sha256.Size]byte, len(l.rejects))
	for i := range l.rejects {
		base := fingerprint(&l.rejects[i], 0)
		l.refusals[i] = fingerprint(&l.rejects[i], repeats[base])
		prints[i] = l.refusals[i][:]
		repeats[base]++
	}
	rows, err := l.tx.Query(l.ctx, `select fingerprint, bool_and(resolved_at is not null) from ops.quarantine
		where dataset = $1 and scope = $2 and product = $3 and fingerprint = any ($4)
			and (resolved_at is null or payload_id = $5 or $6)
		group by fingerprint`,
		l.run.job.Dataset, l.run.job.Scope, l.ans.Request.Product, prints, l.ans.PayloadID, l.run.loadedBefore[l.ans.PayloadID])
	if err != nil {
		return err
	}
	l.listed, l.settled = map[[sha256.Size]byte]bool{}, map[[sha256.Size]byte]bool{}
	var print []byte
	var settled bool
	_, err = pgx.ForEachRow(rows, []any{&print, &settled}, func() error {
		l.listed[[sha256.Size]byte(print)], l.settled[[sha256.Size]byte(print)] = true, settled
		return nil
	})
	return err
}

func (l *loader) writeRejects() error {
	from, until := windowDates(l.ans.Request.Window)
	batch := &pgx.Batch{}
	for i := range l.rejects {
		r, print := &l.rejects[i], l.refusals[i]
		if l.listed[print] {
			continue
		}
		var day *time.Time
		var resolved *time.Time
		var resolution *string
		if r.Day != nil {
			t := r.Day.Time()
			day = &t
		}
		if l.isOutdated() && (r.Day == nil || len(l.nextSeen(*r.Day)) > 0) {
			resolved, resolution = &l.newer[0].at, orNull("a newer answer was loaded before")
		}
		batch.Queue(`
			insert into ops.quarantine (run_id, payload_id, source, dataset, scope, product, window_from, window_until,
				path, reason, excerpt, subscription_number, service_level, description, day, fingerprint, quarantined_at, resolved_at, resolution)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
			on conflict (dataset, scope, product, fingerprint) where resolved_at is null do nothing`,
			l.run.id, max(l.landed, l.ans.PayloadID), l.run.job.Source, l.run.job.Dataset, l.run.job.Scope, l.ans.Request.Product, from, until,
			r.Path, r.Reason, r.Excerpt, orNull(r.Subscription), orNull(r.Level), orNull(r.Description), day, print[:], l.ans.FetchedAt, resolved, resolution)
	}
	return l.tx.SendBatch(l.ctx, batch).Close()
}

// openRow is a refused record that nobody has settled.
type openRow struct {
	id      int64
	key     rowKey
	hasDay  bool
	window  etl.Window
	run     int64
	payload int64
	path    string
	reason  string
	print   []byte // fingerprint of the refusal
}

// settleOpen resolves what this answer makes good, key by key: silence settles nothing. What stays
// open keeps its days partial.
func (l *loader) settleOpen(report etl.Report) error {
	if !l.hasOpen && len(l.rejects) == 0 {
		return nil
	}
	rows, err := l.tx.Query(l.ctx, `
		select quarantine_id, run_id, coalesce(payload_id, 0), path, reason, fingerprint,
			coalesce(subscription_number, ''), coalesce(service_level, ''), coalesce(description, ''),
			day, coalesce(window_from, day), coalesce(window_until, day + 1)
		from ops.quarantine
		where dataset = $1 and scope = $2 and product = $3 and resolved_at is null and quarantined_at <= $4`,
		l.run.job.Dataset, l.run.job.Scope, l.ans.Request.Product, l.ans.FetchedAt)
	if err != nil {
		return err
	}
	var open []openRow
	var row openRow
	var day, from, until *time.Time
	if _, err := pgx.ForEachRow(rows, []any{&row.id, &row.run, &row.payload, &row.path, &row.reason, &row.print, &row.key.subscription, &row.key.level, &row.key.description, &day, &from, &until}, func() error {
		r := row
		if r.hasDay = day != nil; r.hasDay {
			r.key.day = etl.DayOf(*day)
			r.window = etl.Window{From: r.key.day, Until: r.key.day + 1}
		} else if from != nil {
			r.window = etl.Window{From: etl.DayOf(*from), Until: etl.DayOf(*until)}
		}
		open = append(open, r)
		return nil
	}); err != nil {
		return err
	}
	batch := &pgx.Batch{}
	for i := range open {
		row := &open[i]
		good, err := l.madeGood(row, report)
		if err != nil {
			return err
		}
		if !good || row.run == l.run.id {
			l.openDays = append(l.openDays, row.window)
			continue
		}
		at, resolution := l.ans.FetchedAt, fmt.Sprintf("superseded by run %d", l.run.id)
		if l.rereads(row.payload) {
			at, resolution = l.run.w.cfg.Now(), fmt.Sprintf("accepted by run %d, which read the same answer again", l.run.id)
			if l.refusedOtherwise(row) {
				resolution = fmt.Sprintf("refused by another rule in run %d, which read the same answer again", l.run.id)
			}
		}
		batch.Queue(`update ops.quarantine set resolved_at = $2, resolution = $3 where quarantine_id = $1`, row.id, at, resolution)
	}
	return l.tx.SendBatch(l.ctx, batch).Close()
}

// refusedOtherwise tells that this answer, read again, still has the record of the row refused, or what
// it is part of, or a part of it.
func (l *loader) refusedOtherwise(row *openRow) bool {
	record := recordPath(row.path)
	return slices.ContainsFunc(l.rejects, func(r etl.Reject) bool {
		if r.Reason == reasonRefused { // the database knows no paths
			return row.key != rowKey{} && r.Subscription == row.key.subscription && r.Description == row.key.description &&
				(r.Level == "" || r.Level == row.key.level) && (r.Day == nil || row.hasDay && *r.Day == row.key.day)
		}
		other := recordPath(r.Path)
		return other == record || strings.HasPrefix(record, other+"/")
	})
}

// recordPath is the path of the innermost list element that a path leads through.
func recordPath(path string) string {
	for path != "" {
		parent, last := cutLast(path)
		if _, err := strconv.Atoi(last); err == nil {
			return path
		}
		path = parent
	}
	return ""
}

func cutLast(path string) (parent, last string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

// isOutdated tells that a later answer told the same: what is refused here needs nobody's attention.
// Readings of the present cannot be told again, and what is read again is meant to be looked at.
func (l *loader) isOutdated() bool {
	return len(l.newer) > 0 && l.ans.Request.Product == "" && l.run.job.Dataset != datasetCurrent && !l.run.loadedBefore[l.ans.PayloadID]
}

// madeGood tells whether what was refused is in this answer and acceptable.
func (l *loader) madeGood(row *openRow, report etl.Report) (bool, error) {
	window := l.ans.Request.Window
	switch {
	case l.rereads(row.payload): // the body that was refused, read again: is it refused still?
		return !slices.ContainsFunc(l.refusals, func(print [sha256.Size]byte) bool { return bytes.Equal(print[:], row.print) }), nil
	case report.Records == 0 || len(l.newer) > 0 || l.ans.Imported():
		return false, nil
	case l.ans.Request.Product != "":
		if row.key.description == "" { // nobody knows which row it was: a day without any refusal settles it
			return len(l.rejects) == 0 && l.acceptedOn(row.key.day), nil
		}
		if !l.readings[rowKey{description: row.key.description, day: row.key.day}] {
			return false, nil
		}
		refused, err := l.refusesAnother(row.key)
		return !refused, err
	case !window.IsZero() && (row.window.From >= window.Until || row.window.Until <= window.From):
		return false, nil
	case !window.IsZero() && row.reason == reasonRefused && (row.window.From < window.From || row.window.Until > window.Until):
		return false, nil // nothing of it is stored: what is not asked again is missing still
	case row.key.subscription == "":
		return !l.orphanRejects(), nil
	case row.key.level == "" || window.IsZero():
		for i := range l.rejects {
			if r := &l.rejects[i]; r.Subscription == row.key.subscription && (r.Level == "" || row.key.level == "" || r.Level == row.key.level) {
				return false, nil
			}
		}
		return l.deliveredName(row.key.subscription, row.key.level), nil
	case row.hasDay:
		// One instance of a name may be whole while another is refused still, or is not delivered at all.
		if refused, err := l.refusesAnother(row.key); err != nil || refused || !l.goodDays[row.key] {
			return false, err
		}
	default:
		// A sample that could not be dated: settled once no day that it may belong to is in doubt.
		for i := range l.rejects {
			if r := &l.rejects[i]; r.Subscription == row.key.subscription && r.Level == row.key.level {
				return false, nil
			}
		}
	}
	var doubt bool
	err := l.tx.QueryRow(l.ctx, `
		select exists (
			select from dw.dim_customer as c
			join dw.dim_subscription as s using (customer_key)
			join dw.dim_service_level as v using (subscription_key)
			cross join lateral (
				select from dw.fact_daily_consumption as d
				where d.customer_key = c.customer_key and d.service_level_key = v.service_level_key
					and d.usage_date >= $4 and d.usage_date < $5 and d.digest is null
				limit 1 -- level by level through the primary key
			) as d
			where c.customer_id = $1 and s.subscription_number = $2 and v.service_level = $3
		)`, l.run.job.Scope, row.key.subscription, row.key.level, row.window.From.Time(), row.window.Until.Time()).Scan(&doubt)
	return !doubt && l.deliveredName(row.key.subscription, row.key.level), err
}

// refusesAnother tells that this answer has a record like the one of the key refused, other than by dismissal.
func (l *loader) refusesAnother(key rowKey) (bool, error) {
	for i := range l.rejects {
		r := &l.rejects[i]
		if r.Subscription != key.subscription || r.Level != key.level || r.Description != key.description || r.Day != nil && *r.Day != key.day {
			continue
		}
		if dismissed, err := l.isDismissed(r); err != nil || !dismissed {
			return true, err
		}
	}
	return false, nil
}

func (l *loader) acceptedOn(day etl.Day) bool {
	for key := range l.readings {
		if key.day == day {
			return true
		}
	}
	return false
}

// deliveredName tells whether the answer held a level, or any of a subscription when level is empty.
func (l *loader) deliveredName(number, name string) bool {
	if l.customer == nil {
		return false
	}
	for _, s := range l.customer.subscriptions {
		if s.number != number || !l.deliveredSubs[s.key] {
			continue
		}
		if name == "" {
			return true
		}
		for _, v := range s.levels {
			if v.name == name && l.deliveredLevels[v.key] {
				return true
			}
		}
	}
	return false
}

// fingerprint tells the same refusal met again from another one. The path is left out: it shifts
// with the window asked.
func fingerprint(r *etl.Reject, repeat int) [sha256.Size]byte {
	day := ""
	if r.Day != nil {
		day = r.Day.String()
	}
	return sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %q %q %d", r.Reason, r.Subscription, r.Level, r.Description, day, r.Excerpt, repeat))
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// markAbsent flags what was there before and is not in this answer. Nothing is ever deleted, and
// an answer that came late says nothing about absence.
func (l *loader) markAbsent() error {
	if len(l.newer) > 0 || l.run.rebuilding != nil || l.orphanRejects() {
		return nil
	}
	var sql string
	args := []any{l.ans.FetchedAt}
	switch l.run.job.Dataset {
	case datasetCustomers:
		ids := make([]string, 0, len(l.customers))
		for id := range l.customers {
			ids = append(ids, id)
		}
		sql = `update dw.dim_customer set absent_since = $1
			where account = $2 and absent_since is null and customer_id <> all ($3)`
		args = append(args, l.run.job.Account, ids)
	case datasetSubscriptions:
		if l.customer == nil {
			return nil
		}
		if _, err := l.tx.Exec(l.ctx, `update dw.fact_subscription set absent_since = $1
			where customer_key = $2 and valid_to is null and absent_since is null
				and subscription_key <> all ($3) and subscription_key <> all ($4)`,
			l.ans.FetchedAt, l.customer.key, keys(l.deliveredSubs), keys(l.unsureSubs)); err != nil {
			return err
		}
		sql = `update dw.fact_commitment as f set absent_since = $1
			from dw.dim_service_level as v
			where f.customer_key = $2 and f.valid_to is null and f.absent_since is null
				and v.service_level_key = f.service_level_key
				and f.service_level_key <> all ($3) and v.subscription_key <> all ($4)`
		args = append(args, l.customer.key, keys(l.deliveredLevels), keys(l.unsureSubs))
	default:
		return nil
	}
	tag, err := l.tx.Exec(l.ctx, sql, args...)
	l.out.Absent += int(tag.RowsAffected())
	return err
}

// doubtRejected makes every subscription unsure of which a record or a nameless level was refused:
// it was delivered, whatever it said.
func (l *loader) doubtRejected() {
	if l.customer == nil {
		return
	}
	for i := range l.rejects {
		for _, s := range l.customer.subscriptions {
			if l.rejects[i].Level == "" && s.number == l.rejects[i].Subscription {
				l.unsureSubs[s.key] = true
			}
		}
	}
}

// orphanRejects tells whether a refused record could be any subscription's, so that nothing can be
// called absent.
func (l *loader) orphanRejects() bool {
	for i := range l.rejects {
		if l.rejects[i].Subscription == "" {
			return true
		}
	}
	return false
}

func keys(set map[int64]bool) []int64 {
	list := make([]int64, 0, len(set))
	for k := range set {
		list = append(list, k)
	}
	return list
}

// Datasets whose load differs by what absence means. The names are the contract's.
const (
	datasetCustomers     = "keystone.customers"
	datasetSubscriptions = "keystone.subscriptions"
	datasetCurrent       = "keystone.current"
	datasetHistory       = "keystone.history"
)
