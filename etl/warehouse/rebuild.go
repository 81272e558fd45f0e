package warehouse

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

// rebuild applies everything that is landed of a scope again, in the order in which it was fetched,
// in place of what is stored: our reading of an answer may have changed. It goes in two passes. The
// first applies all answers to an empty past and is taken back; where the versions of a series-day, of
// terms or of a commitment come out as they are stored, they are left alone. The second takes the others
// away and applies the answers to them for good. The versions that gave way stay as kind reread in
// the ledger of the days, and in ops.reread.
type rebuild struct {
	days        map[seriesDayKey]*pastDay
	terms       map[int64]*past // by subscription
	commitments map[int64]*past // by level
	// levels and subscriptions that are known from before. Others are made by each pass anew, and
	// whatever is told of them is news.
	levels, subscriptions map[int64]bool
	window                etl.Window
	pass                  int
	echo                  *echo // being applied
}

// echo is an answer that was not landed, since it brought no news: it said the same as one that was.
// Such a one is known where it made a version: what was true before was true again, or a little earlier
// than its answer. It is applied again with the body that it repeated, to what it made versions of.
type echo struct {
	at      time.Time
	payload int64
	of      map[*past]bool
}

type seriesDayKey struct {
	level int64
	day   etl.Day
}

// past is what was held to be true, one version after the other, spelled so that equal is equal.
type past struct {
	versions []version[int64] // since when, and by which landed answer
	values   []string
	absent   *time.Time
	isDirty  bool
}

type pastDay struct {
	past
	digests  [][]byte
	count    int  // samples of the current version
	invoiced bool // all of them
}

// wants tells whether a series-day is to be applied. Without a rebuild everything is.
func (b *rebuild) wants(k seriesDayKey) bool {
	if b == nil {
		return true
	}
	var p *past
	if d := b.days[k]; d != nil {
		p = &d.past
	}
	return b.window.Contains(k.day) && b.applies(p, b.levels[k.level])
}

func (b *rebuild) wantsTerms(key int64) bool {
	return b == nil || b.applies(b.terms[key], b.subscriptions[key])
}

func (b *rebuild) wantsCommitment(key int64) bool {
	return b == nil || b.applies(b.commitments[key], b.levels[key])
}

// applies tells whether something is to be applied, of which p is the past; nil when it has none.
func (b *rebuild) applies(p *past, isKnown bool) bool {
	switch {
	case b.echo != nil && !b.echo.of[p]:
		return false
	case b.pass == 1 || !isKnown:
		return true
	}
	return p != nil && p.isDirty
}

// held tells whether a version of the day had this digest: by that an instance is recognised among
// levels of one name.
func (b *rebuild) held(k seriesDayKey, digest []byte) bool {
	if b == nil || b.days[k] == nil {
		return false
	}
	return slices.ContainsFunc(b.days[k].digests, func(d []byte) bool { return bytes.Equal(d, digest) })
}

// told tells whether a version of the day came from this answer: what was taken for true once needs
// no second answer to confirm it.
func (b *rebuild) told(k seriesDayKey, payload int64) bool {
	return b != nil && b.days[k] != nil && slices.ContainsFunc(b.days[k].versions, func(v version[int64]) bool { return v.value == payload })
}

// observations are the answers and the echoes in order of time. An echo comes before an answer of its
// instant: that one told something new.
func (b *rebuild) observations(answers []*etl.Answer) (all []*etl.Answer, echoes map[*etl.Answer]*echo, err error) {
	byPayload := map[int64]*etl.Answer{}
	for _, ans := range answers {
		byPayload[ans.PayloadID] = ans
	}
	type instant struct {
		at      int64
		payload int64
	}
	found := map[instant]*echo{}
	note := func(p *past) {
		for _, v := range p.versions {
			ans := byPayload[v.value]
			switch {
			case ans == nil:
				err = fmt.Errorf("payload %d, which told what was known from %s, is not landed any more: what it said cannot be read again",
					v.value, v.from.UTC().Format(time.RFC3339))
			case !ans.FetchedAt.Truncate(time.Microsecond).Equal(v.from):
				at := instant{v.from.UnixMicro(), v.value}
				if found[at] == nil {
					found[at] = &echo{v.from, v.value, map[*past]bool{}}
				}
				found[at].of[p] = true
			}
		}
	}
	for _, d := range b.days {
		note(&d.past)
	}
	for _, all := range []map[int64]*past{b.terms, b.commitments} {
		for _, p := range all {
			note(p)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	echoes = map[*etl.Answer]*echo{}
	for _, e := range found {
		repeated := *byPayload[e.payload]
		repeated.FetchedAt = e.at
		echoes[&repeated] = e
		all = append(all, &repeated)
	}
	all = append(all, answers...)
	rank := func(ans *etl.Answer) int {
		if echoes[ans] != nil {
			return 0
		}
		return 1
	}
	slices.SortFunc(all, func(a, b *etl.Answer) int {
		at := func(ans *etl.Answer) int64 { return ans.FetchedAt.UnixMicro() }
		return cmp.Or(cmp.Compare(at(a), at(b)), rank(a)-rank(b), cmp.Compare(a.PayloadID, b.PayloadID))
	})
	return all, echoes, nil
}

// rebuild carries out both passes. The outcome counts samples, or commitments, of what was told: new,
// replaced or as before.
func (r *run) rebuild(ctx context.Context, tx pgx.Tx, answers []*etl.Answer, transform func(*etl.Answer, etl.Sink) (etl.Report, error)) (out etl.Outcome, err error) {
	if r.job.Dataset != datasetHistory && r.job.Dataset != datasetSubscriptions {
		return out, fmt.Errorf("%s: only histories are rebuilt", r.job.Dataset)
	}
	b := &rebuild{pass: 1, window: r.window}
	if err := r.readPast(ctx, tx, b); err != nil {
		return out, fmt.Errorf("read what is stored: %w", err)
	}
	if b.levels, b.subscriptions, err = r.knownSeries(ctx, tx); err != nil {
		return out, fmt.Errorf("read the known series: %w", err)
	}
	answers, echoes, err := b.observations(answers)
	if err != nil {
		return out, err
	}
	r.rebuilding = b
	defer func() { r.rebuilding = nil }()

	fresh := &rebuild{}
	trial, err := tx.Begin(ctx)
	if err != nil {
		return out, err
	}
	if err = r.clear(ctx, trial, b, func(*past) bool { return true }); err == nil {
		if _, err = r.apply(ctx, trial, answers, echoes, transform); err == nil {
			err = r.readPast(ctx, trial, fresh)
		}
	}
	if err = errors.Join(err, trial.Rollback(ctx)); err != nil {
		return out, err
	}

	b.pass = 2
	untold := b.compare(fresh)
	if err := r.setAside(ctx, tx, b); err != nil {
		return out, fmt.Errorf("set aside: %w", err)
	}
	if err := r.clear(ctx, tx, b, func(p *past) bool { return p.isDirty }); err != nil {
		return out, err
	}
	if out, err = r.apply(ctx, tx, answers, echoes, transform); err != nil {
		return out, err
	}
	if err := r.restore(ctx, tx, b); err != nil {
		return out, fmt.Errorf("restore what only later answers told: %w", err)
	}
	if untold > 0 {
		out.Warnings["not_told_again"] = etl.Warning{Count: untold}
	}
	b.count(fresh, &out)
	return out, nil
}

// knownSeries are the levels and subscriptions of the customer.
func (r *run) knownSeries(ctx context.Context, tx pgx.Tx) (levels, subscriptions map[int64]bool, err error) {
	levels, subscriptions = map[int64]bool{}, map[int64]bool{}
	rows, err := tx.Query(ctx, `
		select s.subscription_key, coalesce(v.service_level_key, 0)
		from dw.dim_subscription as s
		left join dw.dim_service_level as v using (subscription_key)
		where s.customer_key = `+theCustomerKey, r.job.Scope)
	if err != nil {
		return nil, nil, err
	}
	var subscription, level int64
	_, err = pgx.ForEachRow(rows, []any{&subscription, &level}, func() error {
		subscriptions[subscription], levels[level] = true, true
		return nil
	})
	return levels, subscriptions, err
}

// apply loads the answers one after the other. They were loaded before, so one that is refused as a
// whole ends it: nobody wants to lose its figures.
func (r *run) apply(ctx context.Context, tx pgx.Tx, answers []*etl.Answer, echoes map[*etl.Answer]*echo, transform func(*etl.Answer, etl.Sink) (etl.Report, error)) (total etl.Outcome, err error) {
	total.Warnings = etl.Warnings{}
	for _, ans := range answers {
		r.rebuilding.echo = echoes[ans]
		out, _, err := r.loadAnswer(ctx, tx, ans, transform)
		if err != nil {
			return total, fmt.Errorf("payload %d: %w", ans.PayloadID, err)
		}
		if r.rebuilding.echo == nil {
			total.Add(out)
		}
	}
	r.rebuilding.echo = nil
	return total, nil
}

// readPast reads the versions of what the run is about.
func (r *run) readPast(ctx context.Context, tx pgx.Tx, b *rebuild) error {
	b.days, b.terms, b.commitments = map[seriesDayKey]*pastDay{}, map[int64]*past{}, map[int64]*past{}
	if r.job.Dataset == datasetSubscriptions {
		if err := r.readVersions(ctx, tx, b.terms, `
			select subscription_key, valid_from, coalesce(payload_id, 0), concat_ws(' | ', coalesce(account_name, '?'), coalesce(start_text, '?'), coalesce(end_text, '?'),
				coalesce(start_at::text, '?'), coalesce(end_at::text, '?')), absent_since
			from dw.fact_subscription where customer_key = (select customer_key from dw.dim_customer where customer_id = $1)
			order by subscription_key, valid_from`); err != nil {
			return err
		}
		return r.readVersions(ctx, tx, b.commitments, `
			select service_level_key, valid_from, coalesce(payload_id, 0), trim_scale(committed_tib)::text, absent_since
			from dw.fact_commitment where customer_key = (select customer_key from dw.dim_customer where customer_id = $1)
			order by service_level_key, valid_from`)
	}
	rows, err := tx.Query(ctx, `
		with one as (
			select customer_key from dw.dim_customer where customer_id = $1
		)

		select service_level_key, usage_date, digest, sample_count, payload_id, null::timestamptz as absent_since, false as invoiced,
			known_from, false as is_current, restatement_id
		from dw.restatement
		where customer_key = (select customer_key from one) and usage_date >= $2 and usage_date < $3 and kind <> 'reread'
		union all
		select service_level_key, usage_date, digest, sample_count, payload_id, absent_since, invoiced_samples = sample_count, known_since, true, 0
		from dw.fact_daily_consumption
		where customer_key = (select customer_key from one) and usage_date >= $2 and usage_date < $3
		order by 1, 2, 9, 8, 10`, r.job.Scope, r.window.From.Time(), r.window.Until.Time())
	if err != nil {
		return err
	}
	var level, payload, id int64
	var day time.Time
	var digest []byte
	var count int
	var absent *time.Time
	var invoiced, isCurrent bool
	var from time.Time
	_, err = pgx.ForEachRow(rows, []any{&level, &day, &digest, &count, &payload, &absent, &invoiced, &from, &isCurrent, &id}, func() error {
		k := seriesDayKey{level, etl.DayOf(day)}
		d := b.days[k]
		if d == nil {
			d = &pastDay{}
			b.days[k] = d
		}
		d.versions = append(d.versions, version[int64]{from, payload})
		d.values = append(d.values, fmt.Sprintf("%x %d", digest, count))
		if digest != nil {
			d.digests = append(d.digests, bytes.Clone(digest))
		}
		d.absent, d.count, d.invoiced = absent, count, invoiced // the current row comes last
		return nil
	})
	return err
}

func (r *run) readVersions(ctx context.Context, tx pgx.Tx, into map[int64]*past, sql string) error {
	rows, err := tx.Query(ctx, sql, r.job.Scope)
	if err != nil {
		return err
	}
	var key int64
	var v version[int64]
	var value string
	var absent *time.Time
	_, err = pgx.ForEachRow(rows, []any{&key, &v.from, &v.value, &value, &absent}, func() error {
		if into[key] == nil {
			into[key] = &past{}
		}
		into[key].versions = append(into[key].versions, v)
		into[key].values = append(into[key].values, value)
		into[key].absent = absent
		return nil
	})
	return err
}

// compare marks what comes out differently. What no answer tells any more stays as it is; compare
// returns how much that is.
func (b *rebuild) compare(fresh *rebuild) (untold int) {
	judge := func(was, is *past) {
		switch {
		case is == nil:
			untold++
		default:
			// Versions that differ in flags only tell when an invoice was given and taken back: no reading
			// of ours changes that.
			was.isDirty = !slices.Equal(slices.Compact(was.values), slices.Compact(is.values))
		}
	}
	for k, is := range fresh.days {
		if !b.levels[k.level] {
			continue // it has another key in the second pass
		}
		if b.days[k] == nil {
			b.days[k] = &pastDay{}
		}
		judge(&b.days[k].past, &is.past)
	}
	for k, was := range b.days {
		if fresh.days[k] == nil {
			judge(&was.past, nil)
		}
	}
	for _, pair := range []struct {
		was, is map[int64]*past
		known   map[int64]bool
	}{{b.terms, fresh.terms, b.subscriptions}, {b.commitments, fresh.commitments, b.levels}} {
		for k, is := range pair.is {
			if !pair.known[k] {
				continue
			}
			if pair.was[k] == nil {
				pair.was[k] = &past{}
			}
			judge(pair.was[k], is)
		}
		for k, was := range pair.was {
			if pair.is[k] == nil {
				judge(was, nil)
			}
		}
	}
	return untold
}

// dirty are the series-days that were stored and come out differently, as columns.
func (b *rebuild) columns(which func(*past) bool) (levels []int64, days []time.Time) {
	for k, d := range b.days {
		if which(&d.past) && len(d.versions) > 0 {
			levels, days = append(levels, k.level), append(days, k.day.Time())
		}
	}
	return levels, days
}

func keysOfPast(all map[int64]*past, which func(*past) bool) (keys []int64) {
	for k, p := range all {
		if which(p) && len(p.versions) > 0 {
			keys = append(keys, k)
		}
	}
	return keys
}

const (
	theCustomerKey = `(select customer_key from dw.dim_customer where customer_id = $1)`
	theseDays      = `unnest($2::bigint[], $3::date[]) as these (service_level_key, usage_date)`
)

// setAside keeps what gives way: days as rows of the ledger that nobody held to be true for any time.
func (r *run) setAside(ctx context.Context, tx pgx.Tx, b *rebuild) error {
	isDirty := func(p *past) bool { return p.isDirty }
	levels, days := b.columns(isDirty)
	if _, err := tx.Exec(ctx, `
		update dw.restatement as r
		set kind = 'reread', known_until = known_from, run_id = $4
		from `+theseDays+`
		where r.customer_key = `+theCustomerKey+` and r.service_level_key = these.service_level_key and r.usage_date = these.usage_date
			and r.kind <> 'reread'`, r.job.Scope, levels, days, r.id); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		insert into dw.restatement (customer_key, service_level_key, usage_date, kind, `+ledgerColumns+`,
			was_invoiced, digest, known_from, known_until, payload_id, run_id)
		select customer_key, service_level_key, usage_date, 'reread', `+ledgerColumns+`,
			is_invoiced, digest, known_since, known_since, payload_id, $4
		from dw.fact_daily_consumption
		join `+theseDays+` using (service_level_key, usage_date)
		where customer_key = `+theCustomerKey, r.job.Scope, levels, days, r.id); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		insert into ops.reread (run_id, payload_id, subject, old_value, reread_at)
		select $2::bigint, coalesce(f.payload_id, 0), 'commitment of ' || s.subscription_number || ' ' || v.service_level || ' from ' || f.valid_from,
			f.committed_tib::text, $3::timestamptz
		from dw.fact_commitment as f
		join dw.dim_service_level as v using (service_level_key)
		join dw.dim_subscription as s using (subscription_key)
		where f.customer_key = `+theCustomerKey+` and f.service_level_key = any ($4)
		union all
		select $2::bigint, coalesce(f.payload_id, 0), 'terms of ' || s.subscription_number || ' from ' || f.valid_from,
			concat_ws(' | ', coalesce(f.account_name, '?'), coalesce(f.start_text, '?'), coalesce(f.end_text, '?')), $3::timestamptz
		from dw.fact_subscription as f
		join dw.dim_subscription as s using (subscription_key)
		where f.customer_key = `+theCustomerKey+` and f.subscription_key = any ($5)`,
		r.job.Scope, r.id, r.w.cfg.Now(), keysOfPast(b.commitments, isDirty), keysOfPast(b.terms, isDirty))
	return err
}

// clear takes away what is stored of the chosen series-days, terms and commitments.
func (r *run) clear(ctx context.Context, tx pgx.Tx, b *rebuild, which func(*past) bool) error {
	levels, days := b.columns(which)
	for _, sql := range []string{
		`delete from dw.restatement as f using ` + theseDays + `
			where f.customer_key = ` + theCustomerKey + ` and f.service_level_key = these.service_level_key and f.usage_date = these.usage_date
				and f.kind <> 'reread'`,
		`delete from dw.fact_daily_consumption as f using ` + theseDays + `
			where f.customer_key = ` + theCustomerKey + ` and f.service_level_key = these.service_level_key and f.usage_date = these.usage_date`,
	} {
		if _, err := tx.Exec(ctx, sql, r.job.Scope, levels, days); err != nil {
			return err
		}
	}
	if r.job.Dataset == datasetHistory { // the bounds of the window prune partitions
		if _, err := tx.Exec(ctx, `delete from dw.fact_consumption_sample as f using `+theseDays+`
			where f.customer_key = `+theCustomerKey+` and f.service_level_key = these.service_level_key
				and f.sampled_at >= these.usage_date::timestamp at time zone 'UTC' and f.sampled_at < (these.usage_date + 1)::timestamp at time zone 'UTC'
				and f.sampled_at >= $4 and f.sampled_at < $5`,
			r.job.Scope, levels, days, r.window.From.Time(), r.window.Until.Time()); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, `delete from dw.fact_commitment where customer_key = `+theCustomerKey+` and service_level_key = any ($2)`,
		r.job.Scope, keysOfPast(b.commitments, which)); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `delete from dw.fact_subscription where customer_key = `+theCustomerKey+` and subscription_key = any ($2)`,
		r.job.Scope, keysOfPast(b.terms, which))
	return err
}

// restore brings back what the landed answers alone do not tell: absences, which also answers without
// news show, and flags whose evidence retention may have taken. Versions that came out as they were
// need no trace.
func (r *run) restore(ctx context.Context, tx pgx.Tx, b *rebuild) error {
	if _, err := tx.Exec(ctx, `
		delete from dw.restatement as was
		where was.customer_key = `+theCustomerKey+` and was.kind = 'reread' and was.run_id = $2 and (
			exists (
				select from dw.restatement as n
				where n.customer_key = was.customer_key and n.service_level_key = was.service_level_key and n.usage_date = was.usage_date
					and n.kind <> 'reread' and n.known_from = was.known_from and n.digest is not distinct from was.digest
			)
			or exists (
				select from dw.fact_daily_consumption as n
				where n.customer_key = was.customer_key and n.service_level_key = was.service_level_key and n.usage_date = was.usage_date
					and n.known_since = was.known_from and n.digest is not distinct from was.digest
			)
		)`, r.job.Scope, r.id); err != nil {
		return err
	}
	for k, d := range b.days {
		if !d.isDirty || len(d.versions) == 0 {
			continue
		}
		if _, err := tx.Exec(ctx, `update dw.fact_daily_consumption set absent_since = $4,
				is_invoiced = is_invoiced or $5, invoiced_samples = case when $5 then sample_count else invoiced_samples end,
				uninvoiced_samples = case when $5 then 0 else uninvoiced_samples end
			where customer_key = `+theCustomerKey+` and service_level_key = $2 and usage_date = $3`,
			r.job.Scope, k.level, k.day.Time(), d.absent, d.invoiced); err != nil {
			return err
		}
		if !d.invoiced {
			continue
		}
		if _, err := tx.Exec(ctx, `update dw.fact_consumption_sample set is_invoiced = true
			where customer_key = `+theCustomerKey+` and service_level_key = $2 and sampled_at >= $3 and sampled_at < $4 and is_invoiced is distinct from true`,
			r.job.Scope, k.level, k.day.Time(), (k.day + 1).Time()); err != nil {
			return err
		}
	}
	for key, p := range b.commitments {
		if p.isDirty && p.absent != nil {
			if _, err := tx.Exec(ctx, `update dw.fact_commitment set absent_since = $3
				where customer_key = `+theCustomerKey+` and service_level_key = $2 and valid_to is null`, r.job.Scope, key, p.absent); err != nil {
				return err
			}
		}
	}
	for key, p := range b.terms {
		if p.isDirty && p.absent != nil {
			if _, err := tx.Exec(ctx, `update dw.fact_subscription set absent_since = $3
				where customer_key = `+theCustomerKey+` and subscription_key = $2 and valid_to is null`, r.job.Scope, key, p.absent); err != nil {
				return err
			}
		}
	}
	return nil
}

// count says what the rebuild did, in samples or commitments of what is true now: what came to be
// known, what came out differently, and the rest of what was read, which is as it was.
func (b *rebuild) count(fresh *rebuild, out *etl.Outcome) {
	out.Mismatch = false // said when the answer came
	read := out.Received - out.Quarantined
	out.Inserted, out.Restated, out.Ignored = 0, 0, 0
	var reread etl.Warning
	for k, was := range b.days {
		if !was.isDirty {
			continue
		}
		is := fresh.days[k]
		added := max(0, is.count-was.count)
		out.Inserted += added
		out.Restated += is.count - added
		if len(was.versions) > 0 {
			reread.Count++
		}
	}
	for k, is := range fresh.days {
		if !b.levels[k.level] {
			out.Inserted += is.count
		}
	}
	for k := range fresh.commitments {
		if !b.levels[k] {
			out.Inserted++
		}
	}
	for _, was := range b.commitments {
		switch {
		case !was.isDirty:
		case len(was.versions) == 0:
			out.Inserted++
		default:
			out.Restated++
			reread.Count++
		}
	}
	out.Unchanged = max(0, read-out.Inserted-out.Restated)
	out.Received = out.Inserted + out.Restated + out.Unchanged + out.Quarantined
	for _, name := range []string{"restated", "day_shrunk", "samples_pruned", "invoiced_value_changed", "terms_changed"} {
		delete(out.Warnings, name) // of the past, and said then
	}
	if reread.Count > 0 {
		out.Warnings["reread"] = reread
	}
}
