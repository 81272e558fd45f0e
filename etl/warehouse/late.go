package warehouse

import (
	"bytes"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

// dayVersion is what was held to be true of a series-day from one observation to the next.
type dayVersion struct {
	id     int64 // in the ledger; 0 is the current daily row
	kind   string
	from   time.Time
	digest []byte
}

// lateObservation enters what was observed before the newest observation of a series-day, so that
// ledger and daily row end as if the answers had been loaded in the order in which they were
// fetched. Only the kind of a ledger row may differ: restated or late is told by comparing samples,
// and those of a superseded version are gone. later are the times at which the day was looked at
// again; it has at least one.
func (h *historyLoad) lateObservation(v *level, in *seriesDay, st *storedDay, later []time.Time) error {
	l := h.l
	if in.partial {
		l.out.Ignored += len(in.samples)
		return nil
	}
	versions, err := h.versions(v, in.day, st)
	if err != nil {
		return err
	}
	at, again := l.ans.FetchedAt, later[0]
	next := 0
	for next < len(versions) && !versions[next].from.After(at) {
		next++
	}
	before := next - 1
	if before >= 0 && bytes.Equal(versions[before].digest, in.digest) {
		l.out.Unchanged += len(in.samples)
		return h.lateFlag(v, in, st, versions[before], again)
	}
	l.out.Ignored += len(in.samples)

	one := []revisit{{level: v, in: in, st: st}}
	if err := h.readBack(one); err != nil {
		return err
	}
	current := h.compareStored(&one[0])
	if st.digest == nil { // a partial answer that came later would not have replaced this whole one
		return h.wholeBeforePartial(v, in, st, current)
	}

	if next < len(versions) && (before < 0 || !versions[next].from.After(again)) {
		return h.betweenVersions(v, in, versions, next, current, later)
	}
	// The version before was seen again later: this observation interrupts it.
	if versions[before].id != 0 {
		return h.splitLedger(v, in, versions[before], again)
	}
	switch {
	case current.different == 0 && len(current.extra) == 0:
		return nil // fewer samples for a while: such an answer is held until confirmed, and the next one denied it
	case current.different == 0 && current.missing == 0:
		return h.grewThenShrank(v, in, "late", again, later)
	}
	h.supersede(v, in.day, "restated", at)
	if err := h.insertLedger(v, in, "restated", again); err != nil {
		return err
	}
	return h.exec(`update dw.fact_daily_consumption set known_since = $4, restatement_count = restatement_count + 2
		where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, in.day, again)
}

func flagOf(in *seriesDay) etl.NullBool {
	f := flags(in.samples)
	return f.isInvoiced()
}

// lateFlag: the figures were known at that time. If they were invoiced then and are not any more,
// the vendor took an invoice back in between.
func (h *historyLoad) lateFlag(v *level, in *seriesDay, st *storedDay, then dayVersion, again time.Time) error {
	if then.id != 0 || flagOf(in) != etl.True || dayFlag(st.count, st.invoiced, st.uninvoiced) != etl.False {
		return nil
	}
	h.supersede(v, in.day, "restated", again)
	if err := h.exec(`update dw.restatement set was_invoiced = true
		where customer_key = $1 and service_level_key = $2 and usage_date = $3 and known_until = $4`, v, in.day, again); err != nil {
		return err
	}
	return h.exec(`update dw.fact_daily_consumption set known_since = $4, restatement_count = restatement_count + 1
		where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, in.day, again)
}

// wholeBeforePartial: the stored day lacks a refused sample, this earlier answer was whole.
func (h *historyLoad) wholeBeforePartial(v *level, in *seriesDay, st *storedDay, diff difference) error {
	if st.knownSince.Before(h.l.ans.FetchedAt) {
		kind := "restated"
		if diff.different == 0 && diff.missing == 0 {
			kind = "late"
		}
		h.supersede(v, in.day, kind, h.l.ans.FetchedAt)
	}
	h.replaceSamples(v, in)
	if err := h.writeDay(v, in, st, true); err != nil { // with its flags
		return err
	}
	return h.recount(v, in.day)
}

// versions are the ledger's rows of a day and the daily row, in order of time.
func (h *historyLoad) versions(v *level, day etl.Day, st *storedDay) ([]dayVersion, error) {
	rows, err := h.l.tx.Query(h.l.ctx, `select restatement_id, kind, known_from, digest from dw.restatement
		where customer_key = $1 and service_level_key = $2 and usage_date = $3 and kind <> 'reread' order by known_from, restatement_id`,
		h.l.customer.key, v.key, day.Time())
	if err != nil {
		return nil, err
	}
	versions, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d dayVersion, err error) {
		err = row.Scan(&d.id, &d.kind, &d.from, &d.digest)
		return d, err
	})
	return append(versions, dayVersion{from: st.knownSince, digest: st.digest}), err
}

// betweenVersions: the next version was first seen at the very next look (or the day was absent
// till then), so this observation lies before it.
func (h *historyLoad) betweenVersions(v *level, in *seriesDay, versions []dayVersion, next int, current difference, later []time.Time) error {
	at, following := h.l.ans.FetchedAt, versions[next]
	if next > 0 {
		if err := h.setLedger(versions[next-1].id, "known_until", at); err != nil {
			return err
		}
	}
	if bytes.Equal(following.digest, in.digest) { // true a little earlier than we knew
		if following.id != 0 {
			return h.setLedger(following.id, "known_from", at)
		}
		// Its flags are those of the later answer: they are known since then only.
		return h.exec(`update dw.fact_daily_consumption
			set invoiced_known_since = case when is_invoiced and $5 then coalesce(invoiced_known_since, known_since) else invoiced_known_since end,
				known_since = $4
			where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, in.day, at, flagOf(in) == etl.False)
	}
	subset := current.equal == len(in.samples)
	if following.id != 0 {
		kind := "restated"
		if subset && following.kind == "late" {
			kind = "late" // both grew into the current figures
		}
		if err := h.insertLedger(v, in, kind, following.from); err != nil {
			return err
		}
		return h.recount(v, in.day)
	}
	switch {
	case subset:
		return h.insertLedger(v, in, "late", following.from)
	case current.different == 0 && current.missing == 0:
		return h.grewThenShrank(v, in, "", following.from, later)
	}
	if err := h.insertLedger(v, in, "restated", following.from); err != nil {
		return err
	}
	return h.recount(v, in.day)
}

// grewThenShrank: the current figures have fewer samples than this earlier observation. Had they
// come in order they would have been held until confirmed, an hour or more after shrunkAt. former,
// unless empty, is how the figures before this observation ended.
func (h *historyLoad) grewThenShrank(v *level, in *seriesDay, former string, shrunkAt time.Time, later []time.Time) error {
	l := h.l
	if former != "" {
		h.supersede(v, in.day, former, l.ans.FetchedAt)
	}
	for _, t := range later {
		if t.Before(shrunkAt.Add(time.Hour)) {
			continue
		}
		if err := h.insertLedger(v, in, "restated", t); err != nil {
			return err
		}
		if err := h.recount(v, in.day); err != nil {
			return err
		}
		return h.exec(`update dw.fact_daily_consumption set known_since = $4
			where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, in.day, t)
	}
	// Never confirmed: this observation is what stays, and the smaller one waits.
	st := h.stored[v.key][in.day]
	smaller := st.digest
	h.replaceSamples(v, in)
	if err := h.writeDay(v, in, st, false); err != nil {
		return err
	}
	st.pending, st.pendingAt = smaller, &shrunkAt
	h.mark(v.key, in.day, st)
	f := flags(in.samples)
	if f.invoiced+f.uninvoiced > 0 {
		return h.writeFlags(v, in, &f, false)
	}
	return nil
}

// splitLedger: a superseded version was true, interrupted by this observation, and true again.
func (h *historyLoad) splitLedger(v *level, in *seriesDay, interrupted dayVersion, again time.Time) error {
	if err := h.exec(`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, `+ledgerColumns+`,
			was_invoiced, digest, known_from, known_until, payload_id, run_id)
		select customer_key, service_level_key, usage_date, kind, `+ledgerColumns+`,
			was_invoiced, digest, $5, known_until, payload_id, run_id
		from dw.restatement
		where customer_key = $1 and service_level_key = $2 and usage_date = $3 and restatement_id = $4`,
		v, in.day, interrupted.id, again); err != nil {
		return err
	}
	if _, err := h.l.tx.Exec(h.l.ctx, `update dw.restatement set known_until = $3, kind = 'restated'
		where customer_key = $1 and restatement_id = $2`, h.l.customer.key, interrupted.id, h.l.ans.FetchedAt); err != nil {
		return err
	}
	if err := h.insertLedger(v, in, "restated", again); err != nil {
		return err
	}
	return h.recount(v, in.day)
}

// insertLedger adds this observation as a version that is superseded already.
func (h *historyLoad) insertLedger(v *level, in *seriesDay, kind string, until time.Time) error {
	payload, err := h.l.payload()
	if err != nil {
		return err
	}
	f := summarize(in.samples)
	return h.exec(`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, `+ledgerColumns+`,
			was_invoiced, digest, known_from, known_until, payload_id, run_id)
		values ($1, $2, $3, $4, $5, $6, $7::text::numeric, $8::text::numeric, $9::text::numeric, $10::text::numeric,
			$11::text::numeric, $12::text::numeric, $13::text::numeric, $14::text::numeric, $15, $16, $17, $18, $19, $20)`,
		v, in.day, kind, f.count, f.step, textArg(f.committed), textArg(f.average), textArg(f.maximum), textArg(f.last),
		nullTextArg(f.burstAverage), textArg(f.over), nullTextArg(f.accruedSum), nullTextArg(f.accruedLast), boolArg(f.isInvoiced()),
		in.digest, h.l.ans.FetchedAt, until, payload, h.l.run.id)
}

// setLedger moves an end of a superseded version. column is known_from or known_until.
func (h *historyLoad) setLedger(id int64, column string, at time.Time) error {
	_, err := h.l.tx.Exec(h.l.ctx, fmt.Sprintf(`update dw.restatement set %s = $3 where customer_key = $1 and restatement_id = $2`, column),
		h.l.customer.key, id, at)
	return err
}

// exec runs a statement whose first parameters are customer, level and day, after what was collected.
func (h *historyLoad) exec(sql string, v *level, day etl.Day, args ...any) error {
	if err := h.write(); err != nil {
		return err
	}
	_, err := h.l.tx.Exec(h.l.ctx, sql, append([]any{h.l.customer.key, v.key, day.Time()}, args...)...)
	return err
}

// recount brings the day's count of restatements in line with the ledger.
func (h *historyLoad) recount(v *level, day etl.Day) error {
	return h.exec(`update dw.fact_daily_consumption as d
		set restatement_count = (
			select count(*) from dw.restatement as r
			where r.customer_key = d.customer_key and r.service_level_key = d.service_level_key
				and r.usage_date = d.usage_date and r.kind = 'restated'
		)
		where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, day)
}
