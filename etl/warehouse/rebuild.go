package warehouse

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

// rebuild applies everything that was loaded of a scope again, in the order in which it was fetched,
// in place of what is stored: our reading of an answer may have changed. First the answers are only
// scanned: a version whose own answer still says the same is right, and where all versions of a day, of
// terms or of a commitment are, they are left alone, whatever led to them. The others are taken away
// and the answers applied to them. What gave way stays as kind reread in the ledger of the days, and in
// ops.reread.
type rebuild struct {
	days        map[seriesDayKey]*pastDay
	terms       map[int64]*past // by subscription
	commitments map[int64]*past // by level
	levels      map[int64]series
	numbers     map[int64]string // of the subscriptions
	dirty       map[subject]bool
	echo        *echo // being applied
}

// series is a level by name: equal-named instances are one, and so are subscriptions of one number.
type series struct{ number, level string }

// subject is what an answer speaks of: a day of a series. Day 0 stands for its commitment, and an empty
// level for the terms of the subscription.
type subject struct {
	series
	day etl.Day
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

// past is what was held to be true, one version after the other.
type past struct {
	versions []version[int64] // since when, and by which landed answer
	values   []string         // spelled so that equal is equal; empty for a partial day
	absent   *time.Time
	isDirty  bool
}

type pastDay struct {
	past
	count    int  // samples of the current version
	invoiced bool // all of them
}

// wants tells whether something of a series is to be applied, of which p is the past; nil when it has
// none. Without a rebuild everything is.
func (b *rebuild) wants(of subject, p *past) bool {
	return b == nil || b.dirty[of] && (b.echo == nil || b.echo.of[p])
}

func (b *rebuild) wantsDay(number string, v *level, day etl.Day) bool {
	if b == nil {
		return true
	}
	var p *past
	if d := b.days[seriesDayKey{v.key, day}]; d != nil {
		p = &d.past
	}
	return b.wants(subject{series{number, v.name}, day}, p)
}

func (b *rebuild) wantsTerms(number string, key int64) bool {
	return b == nil || b.wants(subject{series{number, ""}, 0}, b.terms[key])
}

func (b *rebuild) wantsCommitment(number string, v *level) bool {
	return b == nil || b.wants(subject{series{number, v.name}, 0}, b.commitments[v.key])
}

// held tells whether a version of the day had this digest: by that an instance is recognised among
// levels of one name.
func (b *rebuild) held(k seriesDayKey, digest []byte) bool {
	return b != nil && b.days[k] != nil && slices.Contains(b.days[k].values, fmt.Sprintf("%x", digest))
}

// told tells whether a version of the day came from this answer: what was taken for true once needs
// no second answer to confirm it, and what was not is not confirmed now.
func (b *rebuild) told(k seriesDayKey, payload int64) bool {
	return b.days[k] != nil && slices.ContainsFunc(b.days[k].versions, func(v version[int64]) bool { return v.value == payload })
}

// scan is a sink that notes what an answer says, and writes nothing.
type scan struct {
	etl.Discard
	window  etl.Window // days outside are not noted
	said    map[subject][]string
	partial map[subject]bool // something of it is refused
	doubt   map[series]bool  // something of any day is
	rejects int
}

func newScan(window etl.Window) *scan {
	return &scan{window: window, said: map[subject][]string{}, partial: map[subject]bool{}, doubt: map[series]bool{}}
}

func (s *scan) Restart() error          { *s = *newScan(s.window); return nil }
func (s *scan) Reject(etl.Reject) error { s.rejects++; return nil }

func (s *scan) History(rec etl.History) error {
	for i := range rec.Levels {
		of := series{rec.Number, rec.Levels[i].Level}
		for day := range rec.Levels[i].PartialDays {
			if s.window.Contains(day) {
				s.partial[subject{of, day}] = true
			}
		}
		s.doubt[of] = s.doubt[of] || rec.Levels[i].AllPartial || rec.Partial
		for _, d := range splitDays(&rec.Levels[i]) {
			at := subject{of, d.day}
			switch {
			case !s.window.Contains(d.day):
			case d.partial:
				s.partial[at] = true
			default:
				s.said[at] = append(s.said[at], fmt.Sprintf("%x", d.digest))
			}
		}
	}
	return nil
}

func (s *scan) Terms(rec etl.Terms) error {
	at := subject{series{rec.Number, ""}, 0}
	s.said[at] = append(s.said[at], spellTerms(rec.AccountName, rec.StartText, rec.EndText))
	for _, c := range rec.Levels {
		at := subject{series{rec.Number, c.Level}, 0}
		s.said[at] = append(s.said[at], c.CommittedTiB.String())
		if rec.Partial {
			s.partial[at] = true
		}
	}
	return nil
}

func spellTerms(account, start, end *string) string {
	return textOr(account, "?") + " | " + textOr(start, "?") + " | " + textOr(end, "?")
}

// judge finds what the answers do not say any more, or say only now. said is what each answer says.
func (r *run) judge(b *rebuild, said map[int64]*scan) (untold int) {
	b.dirty = map[subject]bool{}
	stored := map[subject][]string{}
	check := func(of subject, p *past) {
		for i, v := range p.versions {
			stored[of] = append(stored[of], p.values[i])
			now := said[v.value]
			switch doubtful := now.partial[of] || now.doubt[of.series]; {
			case p.values[i] != "" && slices.Contains(now.said[of], p.values[i]), doubtful:
			case len(now.said[of]) == 0 && now.rejects > 0: // refused now: nobody wants to lose it
				untold++
			default:
				b.dirty[of] = true
			}
		}
	}
	for k, d := range b.days {
		check(subject{b.levels[k.level], k.day}, &d.past)
	}
	for k, p := range b.commitments {
		check(subject{b.levels[k], 0}, p)
	}
	for k, p := range b.terms {
		check(subject{series{b.numbers[k], ""}, 0}, p)
	}
	// What nobody knew, or was refused and is accepted now. Another day of an answer of which nothing was
	// refused was held back for a reason.
	for payload, now := range said {
		for of, values := range now.said {
			for _, value := range values {
				mayBeNews := of.day == 0 || len(stored[of]) == 0 || r.refusedBefore[payload]
				if mayBeNews && !slices.Contains(stored[of], value) {
					b.dirty[of] = true
				}
			}
		}
		for of := range now.partial {
			if len(stored[of]) == 0 && r.refusedBefore[payload] {
				b.dirty[of] = true
			}
		}
	}
	for k, d := range b.days {
		d.isDirty = b.dirty[subject{b.levels[k.level], k.day}]
	}
	for k, p := range b.commitments {
		p.isDirty = b.dirty[subject{b.levels[k], 0}]
	}
	for k, p := range b.terms {
		p.isDirty = b.dirty[subject{series{b.numbers[k], ""}, 0}]
	}
	return untold
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
				err = fmt.Errorf("payload %d, which told what was known from %s, is not among the answers: if a run loaded it just now, repeat the command",
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

// rebuild scans the answers and applies them where they say something else than is stored. The outcome
// counts samples, or commitments, of what is true now: new, replaced, or as before.
func (r *run) rebuild(ctx context.Context, tx pgx.Tx, answers []*etl.Answer, transform func(*etl.Answer, etl.Sink) (etl.Report, error)) (out etl.Outcome, err error) {
	if r.job.Dataset != datasetHistory && r.job.Dataset != datasetSubscriptions {
		return out, fmt.Errorf("%s: only histories are rebuilt", r.job.Dataset)
	}
	b := &rebuild{}
	if err := r.readPast(ctx, tx, b); err != nil {
		return out, fmt.Errorf("read what is stored: %w", err)
	}
	observed, echoes, err := b.observations(answers)
	if err != nil {
		return out, err
	}
	said := map[int64]*scan{}
	for _, ans := range answers {
		said[ans.PayloadID] = newScan(r.window)
		if ans.NoData {
			continue
		}
		if _, err := transform(ans, said[ans.PayloadID]); err != nil { // it was loaded: nobody wants to lose its figures
			return out, fmt.Errorf("payload %d: %w", ans.PayloadID, err)
		}
	}
	untold := r.judge(b, said)
	if err := r.setAside(ctx, tx, b); err != nil {
		return out, fmt.Errorf("set aside: %w", err)
	}
	if err := r.clear(ctx, tx, b); err != nil {
		return out, err
	}
	r.rebuilding = b
	out, err = r.apply(ctx, tx, observed, echoes, transform)
	r.rebuilding = nil
	if err != nil {
		return out, err
	}
	if err := r.restore(ctx, tx, b); err != nil {
		return out, fmt.Errorf("restore what only later answers told: %w", err)
	}
	is := &rebuild{}
	if err := r.readPast(ctx, tx, is); err != nil {
		return out, fmt.Errorf("read what came of it: %w", err)
	}
	if untold > 0 {
		out.Warnings["not_told_again"] = etl.Warning{Count: untold}
	}
	b.count(is, &out)
	return out, nil
}

// readNames reads what the levels and subscriptions of the customer are called.
func (r *run) readNames(ctx context.Context, tx pgx.Tx, b *rebuild) error {
	b.levels, b.numbers = map[int64]series{}, map[int64]string{}
	rows, err := tx.Query(ctx, `
		select s.subscription_key, s.subscription_number, coalesce(v.service_level_key, 0), coalesce(v.service_level, '')
		from dw.dim_subscription as s
		left join dw.dim_service_level as v using (subscription_key)
		where s.customer_key = `+theCustomerKey, r.job.Scope)
	if err != nil {
		return err
	}
	var subscription, level int64
	var number, name string
	_, err = pgx.ForEachRow(rows, []any{&subscription, &number, &level, &name}, func() error {
		b.numbers[subscription], b.levels[level] = number, series{number, name}
		return nil
	})
	return err
}

// apply loads the answers one after the other. They were loaded before, so one that is refused as a
// whole ends it: nobody wants to lose its figures.
func (r *run) apply(ctx context.Context, tx pgx.Tx, answers []*etl.Answer, echoes map[*etl.Answer]*echo, transform func(*etl.Answer, etl.Sink) (etl.Report, error)) (total etl.Outcome, err error) {
	total.Warnings = etl.Warnings{}
	for _, ans := range answers {
		r.rebuilding.echo = echoes[ans]
		out, _, err := r.loadAnswer(ctx, tx, ans, transform, nil)
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
	if err := r.readNames(ctx, tx, b); err != nil {
		return err
	}
	if r.job.Dataset == datasetSubscriptions {
		if err := r.readVersions(ctx, tx, b.terms, `
			select subscription_key, valid_from, coalesce(payload_id, 0),
				coalesce(account_name, '?') || ' | ' || coalesce(start_text, '?') || ' | ' || coalesce(end_text, '?'), absent_since
			from dw.fact_subscription where customer_key = `+theCustomerKey+`
			order by subscription_key, valid_from`); err != nil {
			return err
		}
		return r.readVersions(ctx, tx, b.commitments, `
			select service_level_key, valid_from, coalesce(payload_id, 0), trim_scale(committed_tib)::text, absent_since
			from dw.fact_commitment where customer_key = `+theCustomerKey+`
			order by service_level_key, valid_from`)
	}
	rows, err := tx.Query(ctx, `
		select service_level_key, usage_date, digest, sample_count, payload_id, null::timestamptz as absent_since, false as invoiced,
			known_from, false as is_current, restatement_id
		from dw.restatement
		where customer_key = `+theCustomerKey+` and usage_date >= $2 and usage_date < $3 and kind <> 'reread'
		union all
		select service_level_key, usage_date, digest, sample_count, payload_id, absent_since, invoiced_samples = sample_count, known_since, true, 0
		from dw.fact_daily_consumption
		where customer_key = `+theCustomerKey+` and usage_date >= $2 and usage_date < $3
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
		d.values = append(d.values, fmt.Sprintf("%x", digest))
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

// dirtyDays are the series-days that come out differently, as columns.
func (b *rebuild) dirtyDays() (levels []int64, days []time.Time) {
	for k, d := range b.days {
		if d.isDirty {
			levels, days = append(levels, k.level), append(days, k.day.Time())
		}
	}
	return levels, days
}

func dirtyKeys(all map[int64]*past) (keys []int64) {
	for k, p := range all {
		if p.isDirty {
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
	levels, days := b.dirtyDays()
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
		r.job.Scope, r.id, r.w.cfg.Now(), dirtyKeys(b.commitments), dirtyKeys(b.terms))
	return err
}

// clear takes away what is stored and comes out differently. The ledger's rows are set aside by now.
func (r *run) clear(ctx context.Context, tx pgx.Tx, b *rebuild) error {
	levels, days := b.dirtyDays()
	if _, err := tx.Exec(ctx, `delete from dw.fact_daily_consumption as f using `+theseDays+`
		where f.customer_key = `+theCustomerKey+` and f.service_level_key = these.service_level_key and f.usage_date = these.usage_date`,
		r.job.Scope, levels, days); err != nil {
		return err
	}
	if r.job.Dataset == datasetHistory { // the bounds of the window prune partitions
		if _, err := tx.Exec(ctx, `delete from dw.fact_consumption_sample as f using `+theseDays+`
			where f.customer_key = `+theCustomerKey+` and f.service_level_key = these.service_level_key
				and f.sampled_at >= these.usage_date::timestamp at time zone 'UTC' and f.sampled_at < (these.usage_date + 1)::timestamp at time zone 'UTC'
				and f.sampled_at >= $4 and f.sampled_at < $5`,
			plannedAnew, r.job.Scope, levels, days, r.window.From.Time(), r.window.Until.Time()); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, `delete from dw.fact_commitment where customer_key = `+theCustomerKey+` and service_level_key = any ($2)`,
		r.job.Scope, dirtyKeys(b.commitments)); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `delete from dw.fact_subscription where customer_key = `+theCustomerKey+` and subscription_key = any ($2)`,
		r.job.Scope, dirtyKeys(b.terms))
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
		if !d.isDirty {
			continue
		}
		if _, err := tx.Exec(ctx, `update dw.fact_daily_consumption set absent_since = $4, pending_digest = null, pending_at = null,
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
			plannedAnew, r.job.Scope, k.level, k.day.Time(), (k.day + 1).Time()); err != nil {
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
// known, what came out differently, and the rest of what was read and not ignored, which is as it was.
func (b *rebuild) count(is *rebuild, out *etl.Outcome) {
	out.Mismatch = false // said when the answer came
	read := out.Received - out.Quarantined - out.Ignored
	out.Inserted, out.Restated = 0, 0
	reread := 0
	for k, now := range is.days {
		was := b.days[k]
		switch {
		case was == nil:
			out.Inserted += now.count
		case was.isDirty && !slices.Equal(was.values, now.values):
			added := max(0, now.count-was.count)
			out.Inserted += added
			out.Restated += now.count - added
			reread++
		}
	}
	for k, was := range b.days {
		if is.days[k] == nil { // by its former name
			out.Restated += was.count
			reread++
		}
	}
	for k, now := range is.commitments {
		was := b.commitments[k]
		switch {
		case was == nil:
			out.Inserted++
		case was.isDirty && !slices.Equal(was.values, now.values):
			out.Restated++
			reread++
		}
	}
	for k, now := range is.terms {
		if was := b.terms[k]; was != nil && was.isDirty && !slices.Equal(was.values, now.values) {
			reread++
		}
	}
	out.Unchanged = max(0, read-out.Inserted-out.Restated)
	out.Received = out.Inserted + out.Restated + out.Unchanged + out.Ignored + out.Quarantined
	for _, name := range []string{"restated", "day_shrunk", "samples_pruned", "invoiced_value_changed", "terms_changed", "unit_suspected"} {
		delete(out.Warnings, name) // of the past, and said then
	}
	if reread > 0 {
		out.Warnings["reread"] = etl.Warning{Count: reread}
	}
}
