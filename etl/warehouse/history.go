package warehouse

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"meterhouse/etl"
)

// historyLoad is what a load of samples keeps in hand: the stored days of the window, the rows that
// wait for COPY, and the stored days that are about to change.
type historyLoad struct {
	l       *loader
	stored  map[int64]map[etl.Day]*storedDay
	running map[etl.Day]bool // months whose accrued column is read as running
	samples *copyBuffer
	daily   *copyBuffer
	current revisit // here, so that no day costs memory
	// sawSamples tells that stored samples had their say, not only the stored days.
	sawSamples bool
	changes
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
	marked               bool // digest, pending or absentSince are not as stored: see mark
}

const copyBytes = 1 << 20 // rows are sent when this much waits

func (l *loader) theHistory() (*historyLoad, error) {
	if l.history != nil {
		return l.history, nil
	}
	if _, err := l.theCustomer(); err != nil {
		return nil, err
	}
	h := &historyLoad{
		l: l, stored: l.days, running: l.running,
		samples: newCopyBuffer("dw.fact_consumption_sample", "customer_key", "service_level_key", "sampled_at",
			"committed_tib", "consumed_tib", "burst_tib", "accrued_burst_tib", "is_invoiced"),
		daily: newCopyBuffer("dw.fact_daily_consumption", append([]string{"customer_key", "service_level_key", "usage_date"},
			append(figureColumns, "digest", "known_since", "payload_id", "run_id", "absent_since")...)...),
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
	refused := make([][]etl.Day, len(rec.Levels)) // days of which a sample is, dismissed or not
	for i := range rec.Levels {
		for d := range rec.Levels[i].PartialDays {
			refused[i] = append(refused[i], d)
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
		for _, d := range refused[i] {
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
				l.out.Unchanged += len(days[i][j].samples)
				continue
			}
			if err := h.day(rec.Number, v, &days[i][j]); err != nil {
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
	told, stored := map[string]int{}, map[string]int{}
	for _, name := range names {
		told[name]++
	}
	for _, v := range s.levels {
		stored[v.name]++
	}
	for _, v := range s.levels {
		if told[v.name] > 0 && max(told[v.name], stored[v.name]) > 1 {
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
func (h *historyLoad) day(number string, v *level, in *seriesDay) error {
	l := h.l
	st := h.stored[v.key][in.day]
	n := len(in.samples)
	later := l.nextSeen(in.day)
	if st == nil {
		l.out.Inserted += n
		return h.insertDay(v, in, later)
	}
	st.delivered = true
	var staysAbsent *time.Time
	if st.absentSince != nil && len(later) > 0 {
		// Later looks that did not find the day say nothing about its figures, but it stays absent.
		later = slices.DeleteFunc(later, func(t time.Time) bool { return !t.Before(*st.absentSince) })
		if len(later) == 0 {
			staysAbsent = st.absentSince
		}
	}
	if len(later) == 0 { // nobody looked at the figures later
		h.current = revisit{number: number, level: v, in: in, st: st, flags: flags(in.samples), staysAbsent: staysAbsent}
		return h.revisit(&h.current)
	}
	if err := h.lateObservation(v, in, st, later); err != nil {
		return err
	}
	return h.write()
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
// in which insertDay and figureRows give them.
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

// decide is what becomes of a stored day whose figures nobody looked at later. The samples that it
// needs are there.
func (h *historyLoad) decide(r *revisit) error {
	var err error
	switch {
	case r.in.partial:
		err = h.heldDay(r)
	case bytes.Equal(r.st.digest, r.in.digest):
		err = h.sameDay(r)
	default:
		err = h.differentDay(r)
	}
	if r.staysAbsent != nil {
		r.st.absentSince = r.staysAbsent
		h.mark(r.level.key, r.in.day, r.st)
	}
	return err
}

// sameDay: the measures are known. Only flags may be new, or a doubt may end.
func (h *historyLoad) sameDay(r *revisit) error {
	l, v, in, st := h.l, r.level, r.in, r.st
	if st.absentSince != nil || st.pending != nil {
		st.absentSince, st.pending, st.pendingAt = nil, nil, nil
		h.mark(v.key, in.day, st)
	}
	f := r.flags
	if r.needsSamples() {
		stored := r.stored
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
	if r.sameFlags(&f) || f.invoiced+f.uninvoiced == 0 {
		l.out.Unchanged += len(in.samples)
		return nil
	}
	takenBack := dayFlag(st.count, st.invoiced, st.uninvoiced) == etl.True && f.isInvoiced() == etl.False
	if takenBack {
		l.out.Restated += len(in.samples)
		h.warnRestated(v, in.day, true)
		h.supersede(v, in.day, "restated", l.ans.FetchedAt)
	} else {
		l.out.Unchanged += len(in.samples)
	}
	return h.writeFlags(v, in, &f, takenBack)
}

// sameFlags tells that the flags f of the answer are the stored ones: sample by sample where those are there,
// else by their counts.
func (r *revisit) sameFlags(f *figures) bool {
	return f.invoiced == r.st.invoiced && f.uninvoiced == r.st.uninvoiced && (len(r.stored) == 0 ||
		slices.EqualFunc(r.stored, r.in.samples, func(a, b etl.Sample) bool { return a.Invoiced == b.Invoiced }))
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

// heldDay: samples of a stored day were refused, so what is left of the answer does not replace it.
func (h *historyLoad) heldDay(r *revisit) error {
	if r.st.absentSince != nil { // it was delivered, whatever it said
		r.st.absentSince = nil
		h.mark(r.level.key, r.in.day, r.st)
	}
	diff := h.compareStored(r)
	h.l.out.Unchanged += diff.equal
	if rest := len(r.in.samples) - diff.equal; rest > 0 {
		h.l.out.Ignored += rest
		h.l.warn("day_held", r.level.on(r.in.day))
		if _, err := h.l.payload(); err != nil { // a retry that accepts what was refused needs the rest too
			return err
		}
	}
	return nil
}

// differentDay: the digests differ, so the samples are compared one by one.
func (h *historyLoad) differentDay(r *revisit) error {
	l, v, in, st := h.l, r.level, r.in, r.st
	diff := h.compareStored(r)
	keepKnownFlags(r.stored, in.samples)
	wasInvoiced := dayFlag(st.count, st.invoiced, st.uninvoiced) == etl.True
	switch {
	case diff.different == 0 && diff.missing == 0 && len(diff.extra) == 0:
		// The stored day was partial and turns out to be whole: the figures were known before.
		l.out.Unchanged += diff.equal
		st.digest, st.pending, st.pendingAt, st.absentSince = in.digest, nil, nil, nil
		h.mark(v.key, in.day, st)
		f := flags(in.samples)
		if r.sameFlags(&f) {
			return nil
		}
		return h.writeFlags(v, in, &f, false)
	case diff.different == 0 && diff.missing == 0:
		l.out.Inserted += len(diff.extra)
		l.out.Unchanged += diff.equal
		h.supersede(v, in.day, "late", l.ans.FetchedAt)
		if wasInvoiced {
			l.warn("invoiced_value_changed", v.on(in.day))
		}
		h.addSamples(v, diff.extra)
		if err := h.writeDay(v, in, st, false); err != nil {
			return err
		}
		f := flags(in.samples)
		if f.invoiced == st.invoiced && f.uninvoiced == st.uninvoiced && f.count == st.count {
			return nil
		}
		return h.writeFlags(v, in, &f, false)
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
			st.pending, st.pendingAt, st.absentSince = in.digest, &l.ans.FetchedAt, nil
			h.mark(v.key, in.day, st)
			return nil
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
	if isUnitChange(r.stored, in.samples) {
		l.warn("unit_suspected", v.on(in.day))
	}
	h.supersede(v, in.day, "restated", l.ans.FetchedAt)
	h.replaceSamples(v, in)
	return h.writeDay(v, in, st, true)
}

func (h *historyLoad) warnRestated(v *level, day etl.Day, invoiced bool) {
	where := v.on(day)
	h.l.warn("restated", where)
	if invoiced {
		h.l.warn("invoiced_value_changed", where)
	}
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

// compareStored tells how an answer relates to the stored samples of a day. Of a day whose samples
// retention took only their number is left: fewer may be a shrunk day, and anything else counts as
// different, since a change must not pass for an addition.
func (h *historyLoad) compareStored(r *revisit) difference {
	if len(r.stored) > 0 {
		return compare(r.stored, r.in.samples)
	}
	h.l.warn("samples_pruned", r.level.on(r.in.day))
	if len(r.in.samples) < r.st.count {
		return difference{missing: r.st.count}
	}
	return difference{different: len(r.in.samples)}
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

// store sends what waits.
func (h *historyLoad) store() error {
	if err := h.catchUp(); err != nil {
		return err
	}
	return h.flush()
}

// finish sends what waits and flags the stored days of the window that were not delivered.
func (h *historyLoad) finish() error {
	if err := h.store(); err != nil {
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
				st.absentSince = &l.ans.FetchedAt
				h.mark(key, day, st)
			}
		}
	}
	return h.write()
}
