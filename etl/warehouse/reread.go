package warehouse

import (
	"meterhouse/etl"
)

// An answer that is read again, by a replay or a retry of quarantine, may say something else than
// before: our own reading of it has changed, not the vendor. The new reading then takes the place of
// the old one for all the time that the old one was held to be true, and the old one stays in the
// ledger as kind reread, known until the very instant from which it was known.

// rereadDay replaces the current figures of a day that this answer told. Flags that later answers
// told are kept.
func (h *historyLoad) rereadDay(v *level, in *seriesDay, st *storedDay) error {
	l := h.l
	stored, diff, err := h.compareStored(v, in, st)
	if err != nil {
		return err
	}
	if stored == nil {
		stored = recalled(in.samples, st)
	}
	keepFlags(stored, in.samples)
	l.out.Unchanged += diff.equal
	if diff.different == 0 && diff.missing == 0 && len(diff.extra) == 0 { // a partial day that turns out to be whole
		return h.exec(`update dw.fact_daily_consumption set digest = $4
			where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, in.day, in.digest)
	}
	l.out.Restated += len(in.samples) - diff.equal - len(diff.extra)
	l.out.Inserted += len(diff.extra)
	l.warn("reread", v.on(in.day))
	if dayFlag(st.count, st.invoiced, st.uninvoiced) == etl.True {
		l.warn("invoiced_value_changed", v.on(in.day))
	}
	if err := h.supersede(v, in.day, "reread", l.ans.FetchedAt); err != nil {
		return err
	}
	if err := h.replaceSamples(v, in); err != nil {
		return err
	}
	// There may be fewer samples now than flags were counted.
	if err := h.exec(`update dw.fact_daily_consumption set invoiced_samples = 0, uninvoiced_samples = 0
		where customer_key = $1 and service_level_key = $2 and usage_date = $3`, v, in.day); err != nil {
		return err
	}
	if err := h.writeDay(v, in, false); err != nil {
		return err
	}
	f := flags(in.samples)
	return h.exec(`update dw.fact_daily_consumption
		set is_invoiced = $4, invoiced_samples = $5, uninvoiced_samples = $6, pending_digest = $7, pending_at = $8, absent_since = $9
		where customer_key = $1 and service_level_key = $2 and usage_date = $3`,
		v, in.day, boolArg(f.isInvoiced()), f.invoiced, f.uninvoiced, st.pending, st.pendingAt, st.absentSince)
}

// keepFlags gives the samples of a day the flags that are stored for them, where they are known: no
// flag is older than the answer that told the samples. Both lists are in order of time.
func keepFlags(stored, in []etl.Sample) {
	i := 0
	for j := range in {
		for i < len(stored) && stored[i].At < in[j].At {
			i++
		}
		if i < len(stored) && stored[i].At == in[j].At && stored[i].Invoiced != etl.Unknown {
			in[j].Invoiced = stored[i].Invoiced
		}
	}
}

// rereadLedger replaces the figures of a superseded version that this answer told.
func (h *historyLoad) rereadLedger(v *level, in *seriesDay, old dayVersion) error {
	l := h.l
	l.out.Ignored += len(in.samples) // what is true now does not change
	l.warn("reread", v.on(in.day))
	f := summarize(in.samples)
	if err := h.exec(`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, `+ledgerColumns+`,
			was_invoiced, digest, known_from, known_until, payload_id, run_id)
		select customer_key, service_level_key, usage_date, kind, $5, $6, $7::text::numeric, $8::text::numeric, $9::text::numeric,
			$10::text::numeric, $11::text::numeric, $12::text::numeric, $13::text::numeric, $14::text::numeric,
			was_invoiced, $15, known_from, known_until, payload_id, $16
		from dw.restatement
		where customer_key = $1 and service_level_key = $2 and usage_date = $3 and restatement_id = $4`,
		v, in.day, append(append([]any{old.id}, f.args()[:10]...), in.digest, l.run.id)...); err != nil {
		return err
	}
	_, err := l.tx.Exec(l.ctx, `update dw.restatement set kind = 'reread', known_until = known_from
		where customer_key = $1 and restatement_id = $2`, l.customer.key, old.id)
	return err
}
