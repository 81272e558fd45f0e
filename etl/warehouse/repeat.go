package warehouse

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

// A vendor that is asked the same every night mostly says the same, word for word. What a load makes of an
// answer follows from the answer, from what is stored about its window, and from the rules. So a reading
// that found nothing new notes all three in one hash; when the next answer of the same question comes to
// the same hash, reading it would find nothing new either, and it is not decoded. Everything is compared by
// value: whoever wrote to the warehouse meanwhile, and how, does not matter.

// readingRules counts the changes of what a load makes of an answer, where they are not told by the release.
const readingRules = 1

// mayRepeat tells that the answer is one of the present run of things, of which no word is special.
func (l *loader) mayRepeat() bool {
	for name := range l.ans.Warnings {
		if name != etl.VendorClockSkewed { // which changes nothing of what is read
			return false
		}
	}
	return len(l.ans.Content) > 0 && !l.ans.NoData && l.ans.PayloadID == 0 &&
		l.run.job.Dataset == datasetHistory && !l.run.job.Aside && len(l.newer) == 0
}

// repeated finds the reading that this answer repeats and returns what it reported; nil when there is none.
// A refusal that is open may be settled by any answer, and only whoever reads it can tell. What the vendor's clock
// was then says nothing of now.
func (l *loader) repeated() (*etl.Report, error) {
	if !l.mayRepeat() {
		return nil, nil
	}
	from, until := windowDates(l.ans.Request.Window)
	rows, err := l.tx.Query(l.ctx, `
		with last as (
			select run_id, reading_sha256, received, unchanged, ignored
			from ops.run
			where dataset = $1 and scope = $2 and window_from = $3 and window_until = $4 and reading_sha256 is not null
			order by run_id desc
			limit 1
		)

		select last.*, coalesce(w.warning, ''), coalesce(w.occurrences, 0), coalesce(w.first_path, '')
		from last
		left join ops.run_warning as w on w.run_id = last.run_id and w.warning <> $5
		where not exists (select from ops.quarantine where dataset = $1 and scope = $2 and resolved_at is null)`,
		l.run.job.Dataset, l.run.job.Scope, from, until, etl.VendorClockSkewed)
	if err != nil {
		return nil, err
	}
	report := &etl.Report{Records: 1, Warnings: etl.Warnings{}}
	var last int64
	var sum []byte
	var unchanged int
	var name string
	var w etl.Warning
	if _, err := pgx.ForEachRow(rows, []any{&last, &sum, &report.Received, &unchanged, &report.Ignored, &name, &w.Count, &w.FirstPath}, func() error {
		if name != "" {
			report.Warnings[name] = w
		}
		return nil
	}); err != nil || last == 0 {
		return nil, err
	}
	if _, err := l.theCustomer(); err != nil {
		return nil, err
	}
	if l.reading = l.readingSum(); string(l.reading) != string(sum) {
		return nil, nil
	}
	l.reading = nil // nothing is delivered or missing that was not so before
	l.out.Unchanged, l.out.SameAs = unchanged, last
	return report, nil
}

// foundNothing notes a reading that can be repeated: whole, without a doubt that time or a person may
// settle, without a trace, and without a look at stored samples, which the hash does not tell. quiet says that the load itself had nothing to warn of.
func (l *loader) foundNothing(report etl.Report, quiet bool) {
	o := &l.out
	l.reading = nil
	if !l.mayRepeat() || l.history == nil || l.history.sawSamples || o.SameAs != 0 ||
		!quiet || len(l.rejects) > 0 || l.landed != 0 || report.Mismatch ||
		o.Inserted+o.Restated+o.Quarantined+o.Absent > 0 {
		return
	}
	l.reading = l.readingSum() // as it is now: the answer may have ended an absence, or a doubt
}

// readingSum hashes all that reading the answer depends on.
func (l *loader) readingSum() []byte {
	h := fieldHash{sha256.New()}
	h.number(readingRules)
	h.text(l.run.w.cfg.Release)
	h.text(string(l.ans.Content))
	h.text(l.run.job.Account)
	h.text(l.run.job.Scope)
	h.number(int64(l.ans.Request.Window.From))
	h.number(int64(l.ans.Request.Window.Until))
	h.number(int64(len(l.running)))
	for _, month := range slices.Sorted(maps.Keys(l.running)) {
		h.number(int64(month))
	}
	h.number(int64(len(l.customer.subscriptions)))
	for _, s := range l.customer.subscriptions { // in order of their keys, as read
		h.number(s.key)
		h.text(s.number)
		h.text(s.discriminator)
		h.time(s.start)
		h.time(s.end)
		h.number(int64(len(s.levels)))
		for _, v := range s.levels {
			h.number(v.key)
			h.text(v.name)
			h.number(int64(v.ordinal))
			h.days(l.days[v.key])
		}
	}
	return h.Sum(nil)
}

// days hashes what the load knows of the stored days of a level.
func (h fieldHash) days(stored map[etl.Day]*storedDay) {
	h.number(int64(len(stored)))
	for _, day := range slices.Sorted(maps.Keys(stored)) {
		st := stored[day]
		h.number(int64(day))
		h.text(string(st.digest))
		h.text(string(st.pending))
		h.time(st.pendingAt)
		h.time(&st.knownSince)
		h.number(int64(st.count))
		h.number(int64(st.invoiced))
		h.number(int64(st.uninvoiced))
		h.time(st.absentSince)
	}
}

// fieldHash hashes fields so that no two lists of them give the same bytes.
type fieldHash struct{ hash.Hash }

func (h fieldHash) number(n int64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	h.Write(b[:])
}

func (h fieldHash) text(s string) {
	h.number(int64(len(s)))
	h.Write([]byte(s))
}

func (h fieldHash) time(t *time.Time) {
	if t == nil {
		h.text("?")
		return
	}
	h.text("=")
	h.number(t.UnixMicro())
}
