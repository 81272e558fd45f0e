package warehouse

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

// historyLoad is what a load of samples keeps in hand: the stored days of the window and the rows
// that wait for COPY.
type historyLoad struct {
	l       *loader
	stored  map[int64]map[etl.Day]*storedDay
	running map[etl.Day]bool // months whose accrued column is read as running
	samples *copyBuffer
	daily   *copyBuffer
}

// storedDay is a row of fact_daily_consumption as far as the load decides by it.
type storedDay struct {
	digest, pending      []byte
	pendingAt            *time.Time
	knownSince           time.Time
	count                int
	invoiced, uninvoiced int
	absentSince          *time.Time
	delivered            bool // by this answer
}

const copyBytes = 1 << 20 // rows are sent when this much waits

func (l *loader) theHistory() (*historyLoad, error) {
	if l.history != nil {
		return l.history, nil
	}
	c, err := l.theCustomer()
	if err != nil {
		return nil, err
	}
	h := &historyLoad{
		l: l, stored: map[int64]map[etl.Day]*storedDay{}, running: map[etl.Day]bool{},
		samples: newCopyBuffer("dw.fact_consumption_sample", "customer_key", "service_level_key", "sampled_at",
			"committed_tib", "consumed_tib", "burst_tib", "accrued_burst_tib", "is_invoiced"),
		daily: newCopyBuffer("dw.fact_daily_consumption", append([]string{"customer_key", "service_level_key", "usage_date"},
			append(figureColumns, "digest", "known_since", "payload_id", "run_id", "absent_since")...)...),
	}
	window := l.ans.Request.Window
	rows, err := l.tx.Query(l.ctx, `
		select d.service_level_key, d.usage_date, d.digest, d.pending_digest, d.pending_at, d.known_since, d.sample_count,
			d.invoiced_samples, d.uninvoiced_samples, d.absent_since
		from dw.dim_service_level as v
		cross join lateral (
			select * from dw.fact_daily_consumption as f
			where f.customer_key = $1 and f.service_level_key = v.service_level_key and f.usage_date >= $2 and f.usage_date < $3
			offset 0 -- level by level through the primary key, however long the history has grown
		) as d
		where v.customer_key = $1`, c.key, window.From.Time(), window.Until.Time())
	if err != nil {
		return nil, fmt.Errorf("digests: %w", err)
	}
	var key int64
	var day time.Time
	var d storedDay
	if _, err := pgx.ForEachRow(rows, []any{&key, &day, &d.digest, &d.pending, &d.pendingAt, &d.knownSince, &d.count,
		&d.invoiced, &d.uninvoiced, &d.absentSince}, func() error {
		if h.stored[key] == nil {
			h.stored[key] = map[etl.Day]*storedDay{}
		}
		copied := d
		h.stored[key][etl.DayOf(day)] = &copied
		d = storedDay{}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("digests: %w", err)
	}
	rows, err = l.tx.Query(l.ctx, `select month from dw.accrued_reading where account = $1 and reading = 'running'`, l.run.job.Account)
	if err != nil {
		return nil, fmt.Errorf("accrued readings: %w", err)
	}
	if _, err := pgx.ForEachRow(rows, []any{&day}, func() error {
		h.running[etl.DayOf(day)] = true
		return nil
	}); err != nil {
		return nil, fmt.Errorf("accrued readings: %w", err)
	}
	l.history = h
	return h, nil
}

// History implements etl.Sink: one subscription with its samples of the window.
func (l *loader) History(rec etl.History) error {
	h, err := l.theHistory()
	if err != nil {
		return err
	}
	s, err := l.theSubscription(rec.Subscription)
	if err != nil {
		return err
	}
	if rec.Partial {
		l.unsureSubs[s.key] = true
	}
	names := make([]string, len(rec.Levels))
	days := make([][]seriesDay, len(rec.Levels))
	for i := range rec.Levels {
		for d := range rec.Levels[i].PartialDays {
			whole, err := l.isWholeButDismissed(rec.Number, rec.Levels[i].Level, d)
			if err != nil {
				return err
			}
			if whole {
				delete(rec.Levels[i].PartialDays, d)
			}
		}
		names[i] = rec.Levels[i].Level
		days[i] = splitDays(&rec.Levels[i])
	}
	committed, err := l.lastCommitted(s, names)
	if err != nil {
		return fmt.Errorf("last commitments of %s: %w", rec.Number, err)
	}
	levels, err := l.theLevels(s, names, func(i int, v *level) int {
		score := 0
		for _, d := range days[i] {
			if st := h.stored[v.key][d.day]; st != nil && st.digest != nil && bytes.Equal(st.digest, d.digest) ||
				l.run.rebuilding.held(seriesDayKey{v.key, d.day}, d.digest) {
				score += 2
			}
		}
		// Where no day was seen before, an instance is told by what was committed for it last.
		if c, ok := committed[v.key]; ok && len(days[i]) > 0 && c.Equal(days[i][0].samples[0].CommittedTiB) {
			score++
		}
		return score
	})
	if err != nil {
		return err
	}
	for i, v := range levels {
		if rec.Levels[i].AllPartial {
			l.unsureSubs[s.key] = true
		}
		for d := range rec.Levels[i].PartialDays {
			if st := h.stored[v.key][d]; st != nil {
				st.delivered = true // a refused sample is not an absence
			}
		}
		h.warnDecreases(rec.Number, v, days[i])
		for j := range days[i] {
			if !days[i][j].partial {
				l.goodDays[rowKey{subscription: rec.Number, level: v.name, day: days[i][j].day}] = true
			}
			if !l.run.rebuilding.wantsDay(rec.Number, v, days[i][j].day) {
				l.out.Ignored += len(days[i][j].samples)
				continue
			}
			if err := h.day(v, &days[i][j]); err != nil {
				return fmt.Errorf("%s %s: %w", rec.Number, v.on(days[i][j].day), err)
			}
			if err := h.flushFull(); err != nil {
				return err
			}
		}
	}
	return nil
}

// lastCommitted is what each instance of a repeated level name had committed on its last stored day.
func (l *loader) lastCommitted(s *subscription, names []string) (map[int64]etl.Decimal, error) {
	var keys []int64
	for _, v := range s.levels {
		instances := 0
		for _, other := range s.levels {
			if other.name == v.name {
				instances++
			}
		}
		if instances > 1 && slices.Contains(names, v.name) {
			keys = append(keys, v.key)
		}
	}
	if len(keys) == 0 {
		return nil, nil
	}
	rows, err := l.tx.Query(l.ctx, `
		select k.key, d.committed_tib::text
		from unnest($2::bigint[]) as k (key)
		cross join lateral (
			select committed_tib from dw.fact_daily_consumption
			where customer_key = $1 and service_level_key = k.key
			order by usage_date desc limit 1
		) as d`, l.customer.key, keys)
	if err != nil {
		return nil, err
	}
	return decimalsByLevel(rows)
}

// warnDecreases flags a running accrued figure that falls inside a month.
func (h *historyLoad) warnDecreases(number string, v *level, days []seriesDay) {
	if len(h.running) == 0 {
		return
	}
	for i := 1; i < len(days); i++ {
		before, now := days[i-1].samples[len(days[i-1].samples)-1].AccruedTiB, days[i].samples[len(days[i].samples)-1].AccruedTiB
		if month := days[i].day.Month(); h.running[month] && days[i-1].day >= month && before.Known && now.Known && now.Cmp(before.Decimal) < 0 {
			h.l.warn("accrued_decreased", number+" "+v.on(days[i].day))
		}
	}
}

// day decides about one series-day by the table of the design.
func (h *historyLoad) day(v *level, in *seriesDay) error {
	l := h.l
	st := h.stored[v.key][in.day]
	n := len(in.samples)
	later := l.nextSeen(in.day)
	if st == nil {
		l.out.Inserted += n
		return h.insertDay(v, in, later)
	}
	st.delivered = true
	if st.absentSince != nil && len(later) > 0 {
		// Later looks that did not find the day say nothing about its figures, but it stays absent.
		seen := slices.DeleteFunc(later, func(t time.Time) bool { return !t.Before(*st.absentSince) })
		if len(seen) == 0 {
			if err := h.newestDay(v, in, st); err != nil {
				return err
			}
			return h.exec(`update dw.fact_daily_consumption set absent_since = $4
				where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, in.day, st.absentSince)
		}
		later = seen
	}
	if len(later) > 0 {
		return h.lateObservation(v, in, st, later)
	}
	return h.newestDay(v, in, st)
}

// newestDay: nobody looked at the figures of this stored day later.
func (h *historyLoad) newestDay(v *level, in *seriesDay, st *storedDay) error {
	switch {
	case in.partial:
		return h.heldDay(v, in, st)
	case bytes.Equal(st.digest, in.digest):
		return h.sameDay(v, in, st)
	}
	return h.differentDay(v, in, st)
}

// insertDay stores a day that was never observed. later are runs that did not see it any more.
func (h *historyLoad) insertDay(v *level, in *seriesDay, later []time.Time) error {
	payload, err := h.l.payload()
	if err != nil {
		return err
	}
	h.copySamples(v, in.samples)
	f := summarize(in.samples)
	b := h.daily
	b.startRow()
	b.int64(h.l.customer.key)
	b.int64(v.key)
	b.day(in.day)
	b.int32(int32(f.count))
	if f.step == nil {
		b.null()
	} else {
		b.int32(*f.step)
	}
	b.decimal(f.committed)
	b.decimal(f.average)
	b.decimal(f.maximum)
	b.decimal(f.last)
	b.nullDecimal(f.burstAverage)
	b.decimal(f.over)
	b.nullDecimal(f.accruedSum)
	b.nullDecimal(f.accruedLast)
	b.nullBool(f.isInvoiced())
	b.int32(int32(f.invoiced))
	b.int32(int32(f.uninvoiced))
	b.bytes(in.storedDigest())
	b.time(h.l.ans.FetchedAt)
	b.int64(payload)
	b.int64(h.l.run.id)
	if len(later) > 0 {
		b.time(later[0])
	} else {
		b.null()
	}
	return nil
}

// figureColumns are the columns of fact_daily_consumption that follow from samples, in the order
// in which insertDay and args give them.
var figureColumns = []string{"sample_count", "step_seconds", "committed_tib", "consumed_avg_tib", "consumed_max_tib", "consumed_last_tib",
	"burst_avg_tib", "over_committed_avg_tib", "accrued_sum_tib", "accrued_last_tib", "is_invoiced", "invoiced_samples", "uninvoiced_samples"}

func (d *seriesDay) storedDigest() []byte {
	if d.partial {
		return nil
	}
	return d.digest
}

func (h *historyLoad) copySamples(v *level, samples []etl.Sample) {
	b := h.samples
	for i := range samples {
		s := &samples[i]
		b.startRow()
		b.int64(h.l.customer.key)
		b.int64(v.key)
		b.micros(s.At)
		b.decimal(s.CommittedTiB)
		b.decimal(s.ConsumedTiB)
		b.nullDecimal(s.BurstTiB)
		b.nullDecimal(s.AccruedTiB)
		b.nullBool(s.Invoiced)
	}
}

// sameDay: the measures are known. Only flags may be new, or a doubt may end.
func (h *historyLoad) sameDay(v *level, in *seriesDay, st *storedDay) error {
	l := h.l
	if st.absentSince != nil || st.pending != nil {
		if err := h.exec(`update dw.fact_daily_consumption set absent_since = null, pending_digest = null, pending_at = null
			where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, in.day); err != nil {
			return err
		}
	}
	f := flags(in.samples)
	if f.invoiced+f.uninvoiced < f.count && st.invoiced+st.uninvoiced > 0 && f.invoiced+f.uninvoiced > 0 {
		stored, err := h.storedSamples(v, in.day)
		if err != nil {
			return err
		}
		if len(stored) == 0 {
			if st.uniformFlag() == etl.Unknown { // pruned: nobody knows any more which sample was flagged
				l.out.Unchanged += len(in.samples)
				return nil
			}
			stored = recalled(in.samples, st)
		}
		keepKnownFlags(stored, in.samples)
		f = flags(in.samples)
	}
	if f.invoiced == st.invoiced && f.uninvoiced == st.uninvoiced || f.invoiced+f.uninvoiced == 0 {
		l.out.Unchanged += len(in.samples)
		return nil
	}
	was, is := dayFlag(st.count, st.invoiced, st.uninvoiced), f.isInvoiced()
	if was == etl.True && is == etl.False {
		l.out.Restated += len(in.samples)
		h.warnRestated(v, in.day, true)
		if err := h.supersede(v, in.day, "restated", l.ans.FetchedAt); err != nil {
			return err
		}
		if err := h.exec(`update dw.fact_daily_consumption set known_since = $4, run_id = $5, restatement_count = restatement_count + 1
			where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, in.day, l.ans.FetchedAt, l.run.id); err != nil {
			return err
		}
	} else {
		l.out.Unchanged += len(in.samples)
	}
	return h.writeFlags(v, in, &f)
}

// keepKnownFlags fills in what an answer does not say about samples that it does not change:
// unknown never overwrites known. Both lists are in order of time.
func keepKnownFlags(stored, in []etl.Sample) {
	i := 0
	for j := range in {
		for i < len(stored) && stored[i].At < in[j].At {
			i++
		}
		if i < len(stored) && stored[i].At == in[j].At && in[j].Invoiced == etl.Unknown && stored[i].SameMeasures(&in[j]) {
			in[j].Invoiced = stored[i].Invoiced
		}
	}
}

// writeFlags updates is_invoiced in place, which fillfactor 90 keeps HOT.
func (h *historyLoad) writeFlags(v *level, in *seriesDay, f *figures) error {
	if _, err := h.l.payload(); err != nil { // the evidence of a flag is landed as well
		return err
	}
	if err := h.exec(`update dw.fact_daily_consumption
		set is_invoiced = $4, invoiced_samples = $5, uninvoiced_samples = $6, invoiced_known_since = $7
		where customer_key = $1 and service_level_key = $2 and usage_date = $3`,
		v, in.day, boolArg(f.isInvoiced()), f.invoiced, f.uninvoiced, h.l.ans.FetchedAt); err != nil {
		return err
	}
	if f.invoiced == f.count || f.uninvoiced == f.count { // the usual flip: one statement, no list
		return h.execSamples(`update dw.fact_consumption_sample set is_invoiced = $5
			where customer_key = $1 and service_level_key = $2 and sampled_at >= $3 and sampled_at < $4
				and is_invoiced is distinct from $5`, v, in.day, f.invoiced == f.count)
	}
	times := make([]time.Time, len(in.samples))
	values := make([]*bool, len(in.samples))
	for i := range in.samples {
		times[i], values[i] = time.UnixMicro(in.samples[i].At), boolArg(in.samples[i].Invoiced)
	}
	return h.execSamples(`update dw.fact_consumption_sample as s set is_invoiced = told.flag
		from unnest($5::timestamptz[], $6::boolean[]) as told (sampled_at, flag)
		where s.customer_key = $1 and s.service_level_key = $2 and s.sampled_at >= $3 and s.sampled_at < $4
			and s.sampled_at = told.sampled_at and s.is_invoiced is distinct from told.flag`, v, in.day, times, values)
}

func boolArg(b etl.NullBool) *bool {
	if b == etl.Unknown {
		return nil
	}
	v := b == etl.True
	return &v
}

// exec runs a statement whose first parameters are customer, level and day.
func (h *historyLoad) exec(sql string, v *level, day etl.Day, args ...any) error {
	_, err := h.l.tx.Exec(h.l.ctx, sql, append([]any{h.l.customer.key, v.key, day.Time()}, args...)...)
	return err
}

// execSamples runs a statement whose first parameters are customer, level and the bounds of the day.
func (h *historyLoad) execSamples(sql string, v *level, day etl.Day, args ...any) error {
	_, err := h.l.tx.Exec(h.l.ctx, sql, append([]any{h.l.customer.key, v.key, day.Time(), (day + 1).Time()}, args...)...)
	return err
}

// heldDay: samples of a stored day were refused, so what is left of the answer does not replace it.
func (h *historyLoad) heldDay(v *level, in *seriesDay, st *storedDay) error {
	if st.absentSince != nil { // it was delivered, whatever it said
		if err := h.exec(`update dw.fact_daily_consumption set absent_since = null
			where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, in.day); err != nil {
			return err
		}
	}
	_, diff, err := h.compareStored(v, in, st)
	if err != nil {
		return err
	}
	h.l.out.Unchanged += diff.equal
	if rest := len(in.samples) - diff.equal; rest > 0 {
		h.l.out.Ignored += rest
		h.l.warn("day_held", v.on(in.day))
		if _, err := h.l.payload(); err != nil { // a retry that accepts what was refused needs the rest too
			return err
		}
	}
	return nil
}

// differentDay: the digests differ, so the samples are compared one by one.
func (h *historyLoad) differentDay(v *level, in *seriesDay, st *storedDay) error {
	l := h.l
	stored, diff, err := h.compareStored(v, in, st)
	if err != nil {
		return err
	}
	keepKnownFlags(stored, in.samples)
	wasInvoiced := dayFlag(st.count, st.invoiced, st.uninvoiced) == etl.True
	switch {
	case diff.different == 0 && diff.missing == 0 && len(diff.extra) == 0:
		// The stored day was partial and turns out to be whole: the figures were known before.
		l.out.Unchanged += diff.equal
		if err := h.exec(`update dw.fact_daily_consumption set digest = $4, pending_digest = null, pending_at = null, absent_since = null
			where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, in.day, in.digest); err != nil {
			return err
		}
		f := flags(in.samples)
		if f.invoiced == st.invoiced && f.uninvoiced == st.uninvoiced {
			return nil
		}
		return h.writeFlags(v, in, &f)
	case diff.different == 0 && diff.missing == 0:
		l.out.Inserted += len(diff.extra)
		l.out.Unchanged += diff.equal
		if err := h.supersede(v, in.day, "late", l.ans.FetchedAt); err != nil {
			return err
		}
		if wasInvoiced {
			h.l.warn("invoiced_value_changed", v.on(in.day))
		}
		h.copySamples(v, diff.extra)
		if err := h.writeDay(v, in, false); err != nil {
			return err
		}
		f := flags(in.samples)
		if f.invoiced == st.invoiced && f.uninvoiced == st.uninvoiced && f.count == st.count {
			return nil
		}
		return h.writeFlags(v, in, &f)
	case diff.different == 0 && len(in.samples) < st.count:
		const confirmAfter = time.Hour
		confirmed := bytes.Equal(st.pending, in.digest) && !l.ans.FetchedAt.Before(st.pendingAt.Add(confirmAfter))
		if b := l.run.rebuilding; b != nil { // what denied it may not have been landed
			confirmed = b.told(seriesDayKey{v.key, in.day}, l.ans.PayloadID)
		}
		if !confirmed {
			l.out.Unchanged += len(in.samples)
			l.warn("day_shrunk", v.on(in.day))
			if bytes.Equal(st.pending, in.digest) {
				return nil
			}
			if _, err := l.payload(); err != nil { // a replay needs it to come to the same end
				return err
			}
			return h.exec(`update dw.fact_daily_consumption set pending_digest = $4, pending_at = $5, absent_since = null
				where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, in.day, in.digest, l.ans.FetchedAt)
		}
		l.out.Restated += len(in.samples)
	default:
		l.out.Unchanged += diff.equal
		l.out.Restated += diff.different
		if diff.different == 0 { // samples went and others came: what came replaces what went
			l.out.Restated += len(diff.extra)
		} else {
			l.out.Inserted += len(diff.extra)
		}
	}
	h.warnRestated(v, in.day, wasInvoiced)
	if err := h.supersede(v, in.day, "restated", l.ans.FetchedAt); err != nil {
		return err
	}
	if err := h.replaceSamples(v, in); err != nil {
		return err
	}
	return h.writeDay(v, in, true)
}

func (h *historyLoad) warnRestated(v *level, day etl.Day, invoiced bool) {
	where := v.on(day)
	h.l.warn("restated", where)
	if invoiced {
		h.l.warn("invoiced_value_changed", where)
	}
}

func (h *historyLoad) replaceSamples(v *level, in *seriesDay) error {
	if err := h.execSamples(`delete from dw.fact_consumption_sample
		where customer_key = $1 and service_level_key = $2 and sampled_at >= $3 and sampled_at < $4`, v, in.day); err != nil {
		return err
	}
	h.copySamples(v, in.samples)
	return nil
}

// ledgerColumns are the columns that a superseded version shares with the daily row.
const ledgerColumns = `sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
	burst_avg_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib`

// supersede copies the daily row into the ledger: known until the given instant. A flag that was set
// after that instant was not set then.
func (h *historyLoad) supersede(v *level, day etl.Day, kind string, until time.Time) error {
	return h.exec(`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, `+ledgerColumns+`,
			was_invoiced, digest, known_from, known_until, payload_id, run_id)
		select customer_key, service_level_key, usage_date, $4, `+ledgerColumns+`,
			case when is_invoiced and $5 <= invoiced_known_since then false else is_invoiced end, digest, least(known_since, $5), $5, payload_id, $6
		from dw.fact_daily_consumption
		where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, day, kind, until, h.l.run.id)
}

// writeDay brings the daily row to the figures of this answer. A restated day also takes over the
// answer's flags and counts the restatement.
func (h *historyLoad) writeDay(v *level, in *seriesDay, restated bool) error {
	payload, err := h.l.payload()
	if err != nil {
		return err
	}
	f := summarize(in.samples)
	args := append(f.args(), in.storedDigest(), h.l.ans.FetchedAt, payload, h.l.run.id, restated)
	return h.exec(`update dw.fact_daily_consumption
		set sample_count = $4, step_seconds = $5, committed_tib = $6::text::numeric, consumed_avg_tib = $7::text::numeric,
			consumed_max_tib = $8::text::numeric, consumed_last_tib = $9::text::numeric, burst_avg_tib = $10::text::numeric,
			over_committed_avg_tib = $11::text::numeric, accrued_sum_tib = $12::text::numeric, accrued_last_tib = $13::text::numeric,
			is_invoiced = case when $21 then $14 else is_invoiced end,
			invoiced_samples = case when $21 then $15 else invoiced_samples end,
			uninvoiced_samples = case when $21 then $16 else uninvoiced_samples end,
			invoiced_known_since = case when $21 then null else invoiced_known_since end,
			digest = $17, known_since = $18, payload_id = $19, run_id = $20,
			restatement_count = restatement_count + $21::boolean::integer,
			pending_digest = null, pending_at = null, absent_since = null
		where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, in.day, args...)
}

// args are the values of figureColumns as statement parameters.
func (f *figures) args() []any {
	null := func(d etl.NullDecimal) *string {
		if !d.Known {
			return nil
		}
		s := d.String()
		return &s
	}
	return []any{f.count, f.step, f.committed.String(), f.average.String(), f.maximum.String(), f.last.String(),
		null(f.burstAverage), f.over.String(), null(f.accruedSum), null(f.accruedLast), boolArg(f.isInvoiced()), f.invoiced, f.uninvoiced}
}

// difference is how the samples of an answer relate to the stored ones of the same day.
type difference struct {
	equal, different, missing int          // same timestamp and measures; same timestamp only; stored only
	extra                     []etl.Sample // in the answer only
}

// compare walks two lists in order of time.
func compare(stored, in []etl.Sample) (d difference) {
	i := 0
	for j := range in {
		for i < len(stored) && stored[i].At < in[j].At {
			d.missing++
			i++
		}
		switch {
		case i == len(stored) || stored[i].At > in[j].At:
			d.extra = append(d.extra, in[j])
			continue
		case stored[i].SameMeasures(&in[j]):
			d.equal++
		default:
			d.different++
		}
		i++
	}
	d.missing += len(stored) - i
	return d
}

// compareStored reads the samples of a stored day back and tells how an answer relates to them. Of a
// day whose samples retention took only their number is left: fewer may be a shrunk day, and anything
// else counts as different, since a change must not pass for an addition.
func (h *historyLoad) compareStored(v *level, in *seriesDay, st *storedDay) ([]etl.Sample, difference, error) {
	stored, err := h.storedSamples(v, in.day)
	if err != nil || len(stored) > 0 {
		return stored, compare(stored, in.samples), err
	}
	h.l.warn("samples_pruned", v.on(in.day))
	if len(in.samples) < st.count {
		return nil, difference{missing: st.count}, nil
	}
	return nil, difference{different: len(in.samples)}, nil
}

// uniformFlag is the flag of all samples of a stored day; unknown when they differ.
func (st *storedDay) uniformFlag() etl.NullBool {
	switch st.count {
	case st.invoiced:
		return etl.True
	case st.uninvoiced:
		return etl.False
	}
	return etl.Unknown
}

// recalled stands in for the samples of a day that retention took, as far as their flags go.
func recalled(in []etl.Sample, st *storedDay) []etl.Sample {
	samples := slices.Clone(in)
	for i := range samples {
		samples[i].Invoiced = st.uniformFlag()
	}
	return samples
}

// storedSamples reads a day's samples back, in order of time; none when retention took them. Rows that wait for COPY are of other days.
func (h *historyLoad) storedSamples(v *level, day etl.Day) ([]etl.Sample, error) {
	rows, err := h.l.tx.Query(h.l.ctx, `
		select sampled_at, committed_tib::text, consumed_tib::text, burst_tib::text, accrued_burst_tib::text, is_invoiced
		from dw.fact_consumption_sample
		where customer_key = $1 and service_level_key = $2 and sampled_at >= $3 and sampled_at < $4
		order by sampled_at`, h.l.customer.key, v.key, day.Time(), (day + 1).Time())
	if err != nil {
		return nil, err
	}
	var samples []etl.Sample
	var at time.Time
	var committed, consumed string
	var burst, accrued *string
	var invoiced *bool
	_, err = pgx.ForEachRow(rows, []any{&at, &committed, &consumed, &burst, &accrued, &invoiced}, func() error {
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
				return fmt.Errorf("stored sample at %s: %w", at, err)
			}
		}
		samples = append(samples, s)
		return nil
	})
	return samples, err
}

// flush sends the rows that wait. They are stored before anything else is asked of the connection.
func (h *historyLoad) flush() error {
	if err := h.samples.send(h.l.ctx, h.l.tx); err != nil {
		return err
	}
	return h.daily.send(h.l.ctx, h.l.tx)
}

// flushFull sends the rows of the table of which enough wait to be worth a COPY.
func (h *historyLoad) flushFull() error {
	for _, b := range []*copyBuffer{h.samples, h.daily} {
		if len(b.buf) > copyBytes {
			if err := b.send(h.l.ctx, h.l.tx); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish sends what waits and flags the stored days of the window that were not delivered.
func (h *historyLoad) finish() error {
	if err := h.flush(); err != nil {
		return err
	}
	l := h.l
	if l.orphanRejects() || l.run.rebuilding != nil {
		return nil
	}
	unsure := map[int64]bool{}
	for _, s := range l.customer.subscriptions {
		if l.unsureSubs[s.key] {
			for _, v := range s.levels {
				unsure[v.key] = true
			}
		}
	}
	var levels []int64
	var days []time.Time
	for key, stored := range h.stored {
		for day, st := range stored {
			if st.delivered || unsure[key] || st.knownSince.After(l.ans.FetchedAt) {
				continue
			}
			later := l.nextSeen(day)
			if len(later) == 0 {
				l.out.Absent++
			}
			// A later look that found it ends an absence; one that did not began it no earlier than now.
			earlier := len(later) > 0 && st.absentSince != nil && st.absentSince.After(l.ans.FetchedAt) && !st.absentSince.After(later[0])
			if len(later) == 0 && st.absentSince == nil || earlier {
				levels, days = append(levels, key), append(days, day.Time())
			}
		}
	}
	if len(levels) == 0 {
		return nil
	}
	_, err := l.tx.Exec(l.ctx, `
		update dw.fact_daily_consumption as d set absent_since = $1
		from unnest($3::bigint[], $4::date[]) as gone (service_level_key, usage_date)
		where d.customer_key = $2 and d.service_level_key = gone.service_level_key and d.usage_date = gone.usage_date`,
		l.ans.FetchedAt, l.customer.key, levels, days)
	if err != nil {
		return fmt.Errorf("mark absent days: %w", err)
	}
	return nil
}
