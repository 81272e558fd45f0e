package warehouse

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"meterhouse/etl"
)

// changes are the stored days that an answer changes, or may change. They are collected and written
// with a few statements for all of them, however many they are: columns of arrays take the place of
// rows. What is decided about a day rests on what was read under the lock of the scope, and no day
// comes twice in an answer, so the order of days does not matter; that of statements does.
type changes struct {
	waiting        []revisit // their stored samples must be read first
	waitingSamples int

	superseded supersededDays
	gone       ranges
	figures    figureRows
	flagged    flagRows
	flags      ranges
	marks      []markedDay
	added      []addedSamples // behind what they replace
}

// How much may wait, in samples and in rows: it bounds memory and costs a few statements more.
const (
	mostWaitingSamples = 1 << 14
	mostWaitingRows    = 1 << 12
)

// revisit is a stored day that an answer speaks of again.
type revisit struct {
	number      string // of the subscription
	level       *level
	in          *seriesDay
	st          *storedDay
	flags       figures    // of in: only the counts of flags
	staysAbsent *time.Time // it was seen absent later, whatever this answer says
	stored      []etl.Sample
}

// needsSamples tells that one must see the stored samples of the day to decide about it.
func (r *revisit) needsSamples() bool {
	if r.in.partial || !bytes.Equal(r.st.digest, r.in.digest) {
		return true
	}
	// Flags that the answer gives of some samples only leave those of the others as they are, and as many
	// flags as before may be those of other samples.
	f, st := &r.flags, r.st
	if known := f.invoiced + f.uninvoiced; known < f.count {
		return known > 0 && st.invoiced+st.uninvoiced > 0
	}
	return f.invoiced > 0 && f.uninvoiced > 0 && f.invoiced == st.invoiced && f.uninvoiced == st.uninvoiced
}

// revisit decides about a day at once, or as soon as its stored samples are read with others.
func (h *historyLoad) revisit(r *revisit) error {
	if !r.needsSamples() {
		if err := h.decide(r); err != nil {
			return err
		}
		if len(h.marks)+len(h.flagged.levels)+len(h.flags.levels) > mostWaitingRows {
			return h.write()
		}
		return nil
	}
	in := *r.in // the transform uses its memory again
	in.samples, in.digest = slices.Clone(in.samples), slices.Clone(in.digest)
	waiting := *r
	waiting.in = &in
	h.waiting = append(h.waiting, waiting)
	h.waitingSamples += len(in.samples)
	if h.waitingSamples > mostWaitingSamples {
		return h.catchUp()
	}
	return nil
}

// catchUp decides about the days that wait and writes what changes.
func (h *historyLoad) catchUp() error {
	if err := h.readBack(h.waiting); err != nil {
		return err
	}
	for i := range h.waiting {
		r := &h.waiting[i]
		if err := h.decide(r); err != nil {
			return fmt.Errorf("%s %s: %w", r.number, r.level.on(r.in.day), err)
		}
	}
	clear(h.waiting)
	h.waiting, h.waitingSamples = h.waiting[:0], 0
	return h.write()
}

// readBack reads the stored samples of days, in order of time; none where retention took them. Rows that
// wait for COPY are of other days.
func (h *historyLoad) readBack(days []revisit) error {
	if len(days) == 0 {
		return nil
	}
	h.sawSamples = true
	levels := make([]int64, len(days))
	from := make([]time.Time, len(days))
	for i := range days {
		levels[i], from[i] = days[i].level.key, days[i].in.day.Time()
		days[i].stored = make([]etl.Sample, 0, days[i].st.count)
	}
	window := h.l.ans.Request.Window
	rows, err := h.l.tx.Query(h.l.ctx, `
		select asked.position - 1, s.sampled_at, s.committed_tib::text, s.consumed_tib::text, s.burst_tib::text, s.accrued_burst_tib::text, s.is_invoiced
		from unnest($2::bigint[], $3::timestamptz[]) with ordinality as asked (service_level_key, since, position)
		cross join lateral (
			select * from dw.fact_consumption_sample as f
			where f.customer_key = $1 and f.service_level_key = asked.service_level_key
				and f.sampled_at >= asked.since and f.sampled_at < asked.since + interval '1 day'
				and f.sampled_at >= $4 and f.sampled_at < $5 -- the bounds of the window prune partitions
			offset 0 -- day by day through the primary key, however much is stored
		) as s`, plannedAnew, h.l.customer.key, levels, from, window.From.Time(), window.Until.Time())
	if err != nil {
		return fmt.Errorf("stored samples: %w", err)
	}
	var position int
	var at time.Time
	var committed, consumed string
	var burst, accrued *string
	var invoiced *bool
	if _, err = pgx.ForEachRow(rows, []any{&position, &at, &committed, &consumed, &burst, &accrued, &invoiced}, func() error {
		s := etl.Sample{At: at.UnixMicro()}
		parse := func(text *string, d *etl.NullDecimal) error {
			if text == nil {
				return nil
			}
			d.Known = true
			return d.UnmarshalText([]byte(*text))
		}
		if invoiced != nil {
			s.Invoiced = etl.False
			if *invoiced {
				s.Invoiced = etl.True
			}
		}
		for _, err := range []error{
			s.CommittedTiB.UnmarshalText([]byte(committed)), s.ConsumedTiB.UnmarshalText([]byte(consumed)),
			parse(burst, &s.BurstTiB), parse(accrued, &s.AccruedTiB),
		} {
			if err != nil {
				return fmt.Errorf("at %s: %w", at, err)
			}
		}
		days[position].stored = append(days[position].stored, s)
		return nil
	}); err != nil {
		return fmt.Errorf("stored samples: %w", err)
	}
	for i := range days {
		slices.SortFunc(days[i].stored, func(a, b etl.Sample) int { return cmp.Compare(a.At, b.At) })
	}
	return nil
}

// ranges are times of levels, half-open, with a flag where it is about flags.
type ranges struct {
	levels      []int64
	from, until []time.Time
	flags       []*bool
}

// add joins what follows on what was added last.
func (r *ranges) add(level int64, from, until time.Time, flag etl.NullBool) {
	value := boolArg(flag)
	if i := len(r.levels) - 1; i >= 0 && r.levels[i] == level && r.until[i].Equal(from) && equalFlags(r.flags[i], value) {
		r.until[i] = until
		return
	}
	r.levels = append(r.levels, level)
	r.from, r.until = append(r.from, from), append(r.until, until)
	r.flags = append(r.flags, value)
}

func equalFlags(a, b *bool) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

func (r *ranges) addDay(level int64, day etl.Day) {
	r.add(level, day.Time(), (day + 1).Time(), etl.Unknown)
}

// addFlags adds the flags of a day of which no other samples are stored.
func (r *ranges) addFlags(level int64, in *seriesDay) {
	from := in.day.Time()
	for i := range in.samples {
		if i+1 < len(in.samples) && in.samples[i+1].Invoiced == in.samples[i].Invoiced {
			continue
		}
		until := (in.day + 1).Time()
		if i+1 < len(in.samples) {
			until = time.UnixMicro(in.samples[i+1].At)
		}
		r.add(level, from, until, in.samples[i].Invoiced)
		from = until
	}
}

type supersededDays struct {
	levels []int64
	days   []time.Time
	kinds  []string
	until  []time.Time
}

// supersede copies the daily row into the ledger: known until the given instant. A flag that was set
// after that instant was not set then.
func (h *historyLoad) supersede(v *level, day etl.Day, kind string, until time.Time) {
	s := &h.superseded
	s.levels, s.days = append(s.levels, v.key), append(s.days, day.Time())
	s.kinds, s.until = append(s.kinds, kind), append(s.until, until)
}

// figureRows are daily rows with figures of this answer, column by column as in figureColumns.
type figureRows struct {
	levels                                                         []int64
	days                                                           []time.Time
	counts                                                         []int
	steps                                                          []*int32
	committed, average, maximum, last, burst, over, sums, lastSums []*string
	isInvoiced                                                     []*bool
	invoiced, uninvoiced                                           []int
	digests                                                        [][]byte
	restated                                                       []bool
}

// writeDay brings the daily row to the figures of this answer. A restated day also takes over the
// answer's flags and counts the restatement.
func (h *historyLoad) writeDay(v *level, in *seriesDay, st *storedDay, restated bool) error {
	if _, err := h.l.payload(); err != nil {
		return err
	}
	st.digest, st.pending, st.pendingAt, st.absentSince = in.storedDigest(), nil, nil, nil
	f, r := summarize(in.samples), &h.figures
	r.levels, r.days = append(r.levels, v.key), append(r.days, in.day.Time())
	r.counts, r.steps = append(r.counts, f.count), append(r.steps, f.step)
	r.committed, r.average = append(r.committed, textArg(f.committed)), append(r.average, textArg(f.average))
	r.maximum, r.last = append(r.maximum, textArg(f.maximum)), append(r.last, textArg(f.last))
	r.burst, r.over = append(r.burst, nullTextArg(f.burstAverage)), append(r.over, textArg(f.over))
	r.sums, r.lastSums = append(r.sums, nullTextArg(f.accruedSum)), append(r.lastSums, nullTextArg(f.accruedLast))
	r.isInvoiced = append(r.isInvoiced, boolArg(f.isInvoiced()))
	r.invoiced, r.uninvoiced = append(r.invoiced, f.invoiced), append(r.uninvoiced, f.uninvoiced)
	r.digests, r.restated = append(r.digests, st.digest), append(r.restated, restated)
	return nil
}

type flagRows struct {
	levels               []int64
	days                 []time.Time
	isInvoiced           []*bool
	invoiced, uninvoiced []int
	takenBack            []bool
}

// writeFlags updates is_invoiced in place, which fillfactor 90 keeps HOT. No samples are stored that the
// answer does not hold. A flag that is taken back makes a version of its own.
func (h *historyLoad) writeFlags(v *level, in *seriesDay, f *figures, takenBack bool) error {
	if _, err := h.l.payload(); err != nil { // the evidence of a flag is landed as well
		return err
	}
	r := &h.flagged
	r.levels, r.days = append(r.levels, v.key), append(r.days, in.day.Time())
	r.isInvoiced = append(r.isInvoiced, boolArg(f.isInvoiced()))
	r.invoiced, r.uninvoiced = append(r.invoiced, f.invoiced), append(r.uninvoiced, f.uninvoiced)
	r.takenBack = append(r.takenBack, takenBack)
	h.flags.addFlags(v.key, in)
	return nil
}

type markedDay struct {
	level int64
	day   etl.Day
	st    *storedDay
}

// mark has digest, pending digest and absence of the daily row written as st tells them in the end.
func (h *historyLoad) mark(level int64, day etl.Day, st *storedDay) {
	if !st.marked {
		st.marked = true
		h.marks = append(h.marks, markedDay{level, day, st})
	}
}

type addedSamples struct {
	level   *level
	samples []etl.Sample
}

// addSamples adds samples to a stored day.
func (h *historyLoad) addSamples(v *level, samples []etl.Sample) {
	h.added = append(h.added, addedSamples{v, samples})
}

// replaceSamples puts the samples of an answer in the place of the stored ones.
func (h *historyLoad) replaceSamples(v *level, in *seriesDay) {
	h.gone.addDay(v.key, in.day)
	h.addSamples(v, in.samples)
}

// ledgerColumns are the columns that a superseded version shares with the daily row.
const ledgerColumns = `sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
	burst_avg_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib`

// plannedAnew is how statements about samples run: planned for their parameters each time. A plan for any
// parameters, which the server tries at the sixth execution of a prepared statement, locks all months, old ones too.
const plannedAnew = pgx.QueryExecModeCacheDescribe

// write sends what is collected at once: the former versions first, which are copied from the rows as they
// are; figures before flags and marks, which may follow on them. Samples to be added then wait for COPY.
func (h *historyLoad) write() error {
	l, batch := h.l, &pgx.Batch{}
	// each queues a statement that writes one row of a daily table per given level and day.
	each := func(what, sql string, levels []int64, days []time.Time, args ...any) {
		if len(levels) == 0 {
			return
		}
		batch.Queue(sql, append([]any{l.customer.key, levels, days}, args...)...).Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() != int64(len(levels)) {
				return fmt.Errorf("%s: got %d rows, want %d", what, tag.RowsAffected(), len(levels))
			}
			return nil
		})
	}
	s := &h.superseded
	each("supersede days", supersedeDays, s.levels, s.days, s.kinds, s.until, l.run.id)
	window := l.ans.Request.Window
	if len(h.gone.levels) > 0 || len(h.flags.levels) > 0 { // as plannedAnew
		batch.Queue("set local plan_cache_mode = force_custom_plan")
	}
	if g := &h.gone; len(g.levels) > 0 {
		batch.Queue(deleteSamples, l.customer.key, g.levels, g.from, g.until, window.From.Time(), window.Until.Time())
	}
	if r := &h.figures; len(r.levels) > 0 {
		payload, err := l.payload()
		if err != nil {
			return err
		}
		each("write figures", writeFigures, r.levels, r.days, r.counts, r.steps, r.committed, r.average, r.maximum, r.last, r.burst, r.over, r.sums, r.lastSums,
			r.isInvoiced, r.invoiced, r.uninvoiced, r.digests, r.restated, l.ans.FetchedAt, payload, l.run.id)
	}
	d := &h.flagged
	each("write flags", writeDayFlags, d.levels, d.days, d.isInvoiced, d.invoiced, d.uninvoiced, d.takenBack, l.ans.FetchedAt, l.run.id)
	if f := &h.flags; len(f.levels) > 0 {
		batch.Queue(writeSampleFlags, l.customer.key, f.levels, f.from, f.until, f.flags, window.From.Time(), window.Until.Time())
	}
	if len(h.marks) > 0 {
		var levels []int64
		var days []time.Time
		var digests, pending [][]byte
		var pendingAt, absentSince []*time.Time
		for _, m := range h.marks {
			m.st.marked = false
			levels, days = append(levels, m.level), append(days, m.day.Time())
			digests, pending = append(digests, m.st.digest), append(pending, m.st.pending)
			pendingAt, absentSince = append(pendingAt, m.st.pendingAt), append(absentSince, m.st.absentSince)
		}
		each("mark days", markDays, levels, days, digests, pending, pendingAt, absentSince)
	}
	if batch.Len() > 0 {
		if err := l.tx.SendBatch(l.ctx, batch).Close(); err != nil {
			return fmt.Errorf("write changed days: %w", err)
		}
	}
	for _, a := range h.added {
		h.copySamples(a.level, a.samples)
	}
	h.changes = changes{waiting: h.waiting, waitingSamples: h.waitingSamples}
	return nil
}

// What is given comes first, in a CTE that hides the customer's key: with the key at hand a planner without
// statistics takes all rows of the customer for a few and scans them. So it goes row by row through the
// primary key, however much is stored.
const (
	supersedeDays = `
with was as materialized (
    select $1::bigint as customer_key, * from unnest($2::bigint[], $3::date[], $4::text[], $5::timestamptz[])
        with ordinality as t (service_level_key, usage_date, kind, until, position)
)

insert into dw.restatement (customer_key, service_level_key, usage_date, kind, ` + ledgerColumns + `,
    was_invoiced, digest, known_from, known_until, payload_id, run_id)
select d.customer_key, d.service_level_key, d.usage_date, was.kind, ` + ledgerColumns + `,
    case when d.is_invoiced and was.until <= d.invoiced_known_since then false else d.is_invoiced end,
    d.digest, least(d.known_since, was.until), was.until, d.payload_id, $6
from was
join dw.fact_daily_consumption as d using (customer_key, service_level_key, usage_date)
order by was.position`

	deleteSamples = `
with gone as materialized (
    select $1::bigint as customer_key, * from unnest($2::bigint[], $3::timestamptz[], $4::timestamptz[]) as t (service_level_key, since, until)
)

delete from dw.fact_consumption_sample as s
using gone
where s.customer_key = gone.customer_key and s.service_level_key = gone.service_level_key and s.sampled_at >= gone.since and s.sampled_at < gone.until
    and s.sampled_at >= $5 and s.sampled_at < $6 -- the bounds of the window prune partitions`

	writeFigures = `
with now as materialized (
    select $1::bigint as customer_key, *
    from unnest($2::bigint[], $3::date[], $4::integer[], $5::integer[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
        $12::text[], $13::text[], $14::boolean[], $15::integer[], $16::integer[], $17::bytea[], $18::boolean[])
        as t (service_level_key, usage_date, sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
            burst_avg_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, is_invoiced, invoiced_samples, uninvoiced_samples, digest, is_restated)
)

update dw.fact_daily_consumption as d
set sample_count = now.sample_count, step_seconds = now.step_seconds, committed_tib = now.committed_tib::numeric,
    consumed_avg_tib = now.consumed_avg_tib::numeric, consumed_max_tib = now.consumed_max_tib::numeric,
    consumed_last_tib = now.consumed_last_tib::numeric, burst_avg_tib = now.burst_avg_tib::numeric,
    over_committed_avg_tib = now.over_committed_avg_tib::numeric, accrued_sum_tib = now.accrued_sum_tib::numeric,
    accrued_last_tib = now.accrued_last_tib::numeric,
    is_invoiced = case when now.is_restated then now.is_invoiced else d.is_invoiced end,
    invoiced_samples = case when now.is_restated then now.invoiced_samples else d.invoiced_samples end,
    uninvoiced_samples = case when now.is_restated then now.uninvoiced_samples else d.uninvoiced_samples end,
    invoiced_known_since = case when now.is_restated then null else d.invoiced_known_since end,
    digest = now.digest, known_since = $19, payload_id = $20, run_id = $21,
    restatement_count = d.restatement_count + now.is_restated::integer,
    pending_digest = null, pending_at = null, absent_since = null
from now
where d.customer_key = now.customer_key and d.service_level_key = now.service_level_key and d.usage_date = now.usage_date`

	writeDayFlags = `
with now as materialized (
    select $1::bigint as customer_key, * from unnest($2::bigint[], $3::date[], $4::boolean[], $5::integer[], $6::integer[], $7::boolean[])
        as t (service_level_key, usage_date, is_invoiced, invoiced_samples, uninvoiced_samples, is_taken_back)
)

update dw.fact_daily_consumption as d
set is_invoiced = now.is_invoiced, invoiced_samples = now.invoiced_samples, uninvoiced_samples = now.uninvoiced_samples, invoiced_known_since = $8,
    known_since = case when now.is_taken_back then $8 else d.known_since end,
    run_id = case when now.is_taken_back then $9 else d.run_id end,
    restatement_count = d.restatement_count + now.is_taken_back::integer
from now
where d.customer_key = now.customer_key and d.service_level_key = now.service_level_key and d.usage_date = now.usage_date`

	writeSampleFlags = `
with told as materialized (
    select $1::bigint as customer_key, * from unnest($2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::boolean[])
        as t (service_level_key, since, until, is_invoiced)
)

update dw.fact_consumption_sample as s
set is_invoiced = told.is_invoiced
from told
where s.customer_key = told.customer_key and s.service_level_key = told.service_level_key and s.sampled_at >= told.since and s.sampled_at < told.until
    and s.sampled_at >= $6 and s.sampled_at < $7 -- the bounds of the window prune partitions
    and s.is_invoiced is distinct from told.is_invoiced`

	markDays = `
with now as materialized (
    select $1::bigint as customer_key, * from unnest($2::bigint[], $3::date[], $4::bytea[], $5::bytea[], $6::timestamptz[], $7::timestamptz[])
        as t (service_level_key, usage_date, digest, pending_digest, pending_at, absent_since)
)

update dw.fact_daily_consumption as d
set digest = now.digest, pending_digest = now.pending_digest, pending_at = now.pending_at, absent_since = now.absent_since
from now
where d.customer_key = now.customer_key and d.service_level_key = now.service_level_key and d.usage_date = now.usage_date`
)

func boolArg(b etl.NullBool) *bool {
	if b == etl.Unknown {
		return nil
	}
	v := b == etl.True
	return &v
}

func textArg(d etl.Decimal) *string {
	s := d.String()
	return &s
}

func nullTextArg(d etl.NullDecimal) *string {
	if !d.Known {
		return nil
	}
	return textArg(d.Decimal)
}
