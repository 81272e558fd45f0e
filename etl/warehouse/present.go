package warehouse

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

// Terms implements etl.Sink: one subscription with its committed capacities.
func (l *loader) Terms(t etl.Terms) error {
	s, err := l.theSubscription(t.Subscription)
	if err != nil {
		return err
	}
	if t.Partial {
		l.unsureSubs[s.key] = true
	}
	if err := l.observeTerms(s, t.Subscription); err != nil {
		return fmt.Errorf("terms of %s: %w", t.Number, err)
	}

	current, err := l.currentCommitments(s)
	if err != nil {
		return fmt.Errorf("commitments of %s: %w", t.Number, err)
	}
	names := make([]string, len(t.Levels))
	for i, c := range t.Levels {
		names[i] = c.Level
	}
	levels, err := l.theLevels(s, names, func(i int, v *level) int {
		if stored, ok := current[v.key]; ok && stored.Equal(t.Levels[i].CommittedTiB) {
			return 2
		} else if ok {
			return 1 // a level of another report only is the last to be taken
		}
		return 0
	})
	if err != nil {
		return err
	}
	for i, v := range levels {
		if err := l.observeCommitment(v, t.Number, t.Levels[i].CommittedTiB); err != nil {
			return fmt.Errorf("commitment of %s %s: %w", t.Number, v.name, err)
		}
	}
	return nil
}

func (l *loader) currentCommitments(s *subscription) (map[int64]etl.Decimal, error) {
	keys := make([]int64, len(s.levels))
	for i, v := range s.levels {
		keys[i] = v.key
	}
	rows, err := l.tx.Query(l.ctx, `select service_level_key, committed_tib::text from dw.fact_commitment
		where customer_key = $1 and service_level_key = any($2) and valid_to is null`, l.customer.key, keys)
	if err != nil {
		return nil, err
	}
	return decimalsByLevel(rows)
}

// decimalsByLevel reads rows of a level's key and a decimal as text.
func decimalsByLevel(rows pgx.Rows) (map[int64]etl.Decimal, error) {
	byLevel := map[int64]etl.Decimal{}
	var key int64
	var text string
	_, err := pgx.ForEachRow(rows, []any{&key, &text}, func() error {
		var d etl.Decimal
		err := d.UnmarshalText([]byte(text))
		byLevel[key] = d
		return err
	})
	return byLevel, err
}

type terms struct {
	etl.Subscription
	run     int64
	payload *int64
}

func sameTerms(a, b terms) bool {
	return sameText(a.AccountName, b.AccountName) && sameTime(a.Start, b.Start) && sameTime(a.End, b.End) &&
		sameText(a.StartText, b.StartText) && sameText(a.EndText, b.EndText)
}

func sameText(a, b *string) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

func micros(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	cut := t.UTC().Truncate(time.Microsecond)
	return &cut
}

// observeTerms enters the record's terms into the subscription's versions, and keeps the dates by
// which the subscription is recognised in line with the newest.
func (l *loader) observeTerms(s *subscription, rec etl.Subscription) error {
	rows, err := l.tx.Query(l.ctx, `
		select valid_from, account_name, start_at, end_at, start_text, end_text, run_id, payload_id, absent_since
		from dw.fact_subscription where customer_key = $1 and subscription_key = $2 order by valid_from`, l.customer.key, s.key)
	if err != nil {
		return err
	}
	var history []version[terms]
	var v version[terms]
	var absent *time.Time // of the current version, which comes last
	if _, err := pgx.ForEachRow(rows, []any{&v.from, &v.value.AccountName, &v.value.Start, &v.value.End,
		&v.value.StartText, &v.value.EndText, &v.value.run, &v.value.payload, &absent}, func() error {
		history = append(history, v)
		v = version[terms]{}
		return nil
	}); err != nil {
		return err
	}
	told := terms{Subscription: rec, run: l.run.id, payload: l.landedAs()}
	told.Start, told.End = micros(rec.Start), micros(rec.End)
	if !l.run.rebuilding.wantsTerms(rec.Number, s.key) {
		return nil
	}
	after, changed := observe(history, l.ans.FetchedAt, told, l.again(), sameTerms)
	if !changed {
		if len(l.newer) > 0 {
			return nil
		}
		_, err := l.tx.Exec(l.ctx, `update dw.fact_subscription set absent_since = null
			where customer_key = $1 and subscription_key = $2 and valid_to is null and absent_since is not null`, l.customer.key, s.key)
		return err
	}
	payload, err := l.payload()
	if err != nil {
		return err
	}
	if len(history) > 0 {
		l.warn("terms_changed", "subscription "+rec.Number)
	}
	batch := &pgx.Batch{}
	batch.Queue(`delete from dw.fact_subscription where customer_key = $1 and subscription_key = $2`, l.customer.key, s.key)
	for i, v := range after {
		if v.value.run == l.run.id && v.value.payload == nil {
			v.value.payload = &payload
		}
		batch.Queue(`insert into dw.fact_subscription
				(customer_key, subscription_key, valid_from, valid_to, account_name, start_at, end_at, start_text, end_text, run_id, payload_id, absent_since)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
			l.customer.key, s.key, v.from, validTo(after, i), v.value.AccountName, v.value.Start, v.value.End,
			v.value.StartText, v.value.EndText, v.value.run, v.value.payload, l.stillAbsent(absent, i, len(after)))
	}
	if last := after[len(after)-1].value; len(l.newer) == 0 {
		s.start, s.end = seconds(last.Start), seconds(last.End)
		batch.Queue(`update dw.dim_subscription set start_at = $2, end_at = $3
			where subscription_key = $1 and (start_at, end_at) is distinct from ($2, $3)`, s.key, s.start, s.end)
	}
	return l.tx.SendBatch(l.ctx, batch).Close()
}

// landedAs is the body of the answer where it is landed already; nil while it is not.
func (l *loader) landedAs() *int64 {
	if l.ans.PayloadID == 0 {
		return nil
	}
	return &l.ans.PayloadID
}

// again is when a later run looked at the same present again; nil in the normal order of things.
func (l *loader) again() *time.Time {
	if seen := l.nextSeen(0); len(seen) > 0 {
		return &seen[0]
	}
	return nil
}

// stillAbsent keeps the current version's absence when an answer that came late rewrites the past.
func (l *loader) stillAbsent(absent *time.Time, i, n int) *time.Time {
	if i+1 < n || len(l.newer) == 0 {
		return nil
	}
	return absent
}

func validTo[T any](history []version[T], i int) *time.Time {
	if i+1 == len(history) {
		return nil
	}
	return &history[i+1].from
}

type commitment struct {
	tib     etl.Decimal
	run     int64
	payload *int64
}

// observeCommitment enters a level's committed capacity into its versions and counts the record.
func (l *loader) observeCommitment(v *level, number string, tib etl.Decimal) error {
	rows, err := l.tx.Query(l.ctx, `select valid_from, committed_tib::text, run_id, payload_id, absent_since from dw.fact_commitment
		where customer_key = $1 and service_level_key = $2 order by valid_from`, l.customer.key, v.key)
	if err != nil {
		return err
	}
	var history []version[commitment]
	var from time.Time
	var text string
	var c commitment
	var absent *time.Time // of the current version, which comes last
	if _, err := pgx.ForEachRow(rows, []any{&from, &text, &c.run, &c.payload, &absent}, func() error {
		if err := c.tib.UnmarshalText([]byte(text)); err != nil {
			return err
		}
		history = append(history, version[commitment]{from, c})
		return nil
	}); err != nil {
		return err
	}
	if !l.run.rebuilding.wantsCommitment(number, v) {
		l.out.Unchanged++
		return nil
	}
	after, changed := observe(history, l.ans.FetchedAt, commitment{tib: tib, run: l.run.id, payload: l.landedAs()}, l.again(),
		func(a, b commitment) bool { return a.tib.Equal(b.tib) })
	if !changed {
		l.out.Unchanged++
		if len(l.newer) > 0 {
			return nil
		}
		_, err := l.tx.Exec(l.ctx, `update dw.fact_commitment set absent_since = null
			where customer_key = $1 and service_level_key = $2 and valid_to is null and absent_since is not null`, l.customer.key, v.key)
		return err
	}
	payload, err := l.payload()
	if err != nil {
		return err
	}
	switch {
	case len(history) == 0:
		l.out.Inserted++
	case len(l.newer) > 0:
		l.out.Ignored++ // an older observation: it only fills in the past
	default:
		l.out.Restated++
		l.warn("restated", "commitment of "+number+" "+v.name)
	}
	batch := &pgx.Batch{}
	batch.Queue(`delete from dw.fact_commitment where customer_key = $1 and service_level_key = $2`, l.customer.key, v.key)
	for i, version := range after {
		if version.value.run == l.run.id && version.value.payload == nil {
			version.value.payload = &payload
		}
		batch.Queue(`insert into dw.fact_commitment (customer_key, service_level_key, valid_from, valid_to, committed_tib, run_id, payload_id, absent_since)
			values ($1, $2, $3, $4, $5::text::numeric, $6, $7, $8)`,
			l.customer.key, v.key, version.from, validTo(after, i), version.value.tib.String(), version.value.run, version.value.payload,
			l.stillAbsent(absent, i, len(after)))
	}
	return l.tx.SendBatch(l.ctx, batch).Close()
}

// reading is a stored version of a level's consumption at one reading time.
type reading struct {
	payload                            int64
	fetchedAt                          time.Time
	supersededAt                       *time.Time
	committed, consumed, burst, accrue *string
}

func (r *reading) equals(in etl.LevelReading) bool {
	same := func(stored *string, d *etl.Decimal) bool {
		if stored == nil || d == nil {
			return stored == nil && d == nil
		}
		var e etl.Decimal
		return e.UnmarshalText([]byte(*stored)) == nil && e.Equal(*d)
	}
	return same(r.committed, &in.CommittedTiB) && same(r.consumed, &in.ConsumedTiB) && same(r.burst, in.BurstTiB) && same(r.accrue, in.AccruedTiB)
}

// Readings implements etl.Sink: one subscription with its consumption as of now.
func (l *loader) Readings(r etl.Readings) error {
	s, err := l.theSubscription(r.Subscription)
	if err != nil {
		return err
	}
	observed := make([]time.Time, len(r.Levels))
	names := make([]string, len(r.Levels))
	for i, in := range r.Levels {
		names[i], observed[i] = in.Level, l.ans.FetchedAt
		if in.ReadAt != nil {
			observed[i] = in.ReadAt.UTC().Truncate(time.Microsecond)
		}
	}
	stored, latest, err := l.storedReadings(s, observed)
	if err != nil {
		return fmt.Errorf("readings of %s: %w", r.Number, err)
	}
	levels, err := l.theLevels(s, names, func(i int, v *level) int {
		for _, old := range stored[levelTime{v.key, observed[i].UnixMicro()}] {
			if old.equals(r.Levels[i]) {
				return 3
			}
		}
		if committed, ok := latest[v.key]; ok && committed.Equal(r.Levels[i].CommittedTiB) {
			return 2
		} else if ok {
			return 1
		}
		return 0
	})
	if err != nil {
		return err
	}
	for i, v := range levels {
		if err := l.observeReading(v, r.Number, r.Levels[i], observed[i], stored[levelTime{v.key, observed[i].UnixMicro()}]); err != nil {
			return fmt.Errorf("reading of %s %s: %w", r.Number, v.name, err)
		}
	}
	return nil
}

type levelTime struct {
	level int64
	at    int64 // microseconds since 1970
}

// storedReadings are all versions of the readings of the given times, and per level the committed
// capacity of its newest reading.
func (l *loader) storedReadings(s *subscription, times []time.Time) (map[levelTime][]reading, map[int64]etl.Decimal, error) {
	keys := make([]int64, len(s.levels))
	for i, v := range s.levels {
		keys[i] = v.key
	}
	rows, err := l.tx.Query(l.ctx, `
		select service_level_key, observed_at, payload_id, fetched_at, superseded_at,
			committed_tib::text, consumed_tib::text, burst_tib::text, accrued_burst_tib::text
		from dw.fact_service_level
		where customer_key = $1 and service_level_key = any($2) and observed_at = any($3)
		order by fetched_at, payload_id`, l.customer.key, keys, times)
	if err != nil {
		return nil, nil, err
	}
	stored := map[levelTime][]reading{}
	var key int64
	var at time.Time
	var r reading
	if _, err := pgx.ForEachRow(rows, []any{&key, &at, &r.payload, &r.fetchedAt, &r.supersededAt, &r.committed, &r.consumed, &r.burst, &r.accrue}, func() error {
		k := levelTime{key, at.UnixMicro()}
		stored[k] = append(stored[k], r)
		r = reading{}
		return nil
	}); err != nil {
		return nil, nil, err
	}
	rows, err = l.tx.Query(l.ctx, `
		select k.key, f.committed_tib::text
		from unnest($2::bigint[]) as k (key)
		cross join lateral (
			select committed_tib from dw.fact_service_level
			where customer_key = $1 and service_level_key = k.key and superseded_at is null
			order by observed_at desc limit 1
		) as f`, l.customer.key, keys)
	if err != nil {
		return nil, nil, err
	}
	latest, err := decimalsByLevel(rows)
	return stored, latest, err
}

// observeReading stores a reading unless a version with the same figures is there. Of several
// versions of one reading the one fetched last is current.
func (l *loader) observeReading(v *level, number string, in etl.LevelReading, at time.Time, stored []reading) error {
	var superseded *time.Time
	for i := range stored {
		if stored[i].equals(in) {
			if stored[i].supersededAt == nil || len(l.newer) > 0 {
				l.out.Unchanged++
				return nil
			}
		}
	}
	payload, err := l.payload()
	if err != nil {
		return err
	}
	for i := range stored {
		if l.rereads(stored[i].payload) {
			return l.rereadReading(v, number, in, at, &stored[i])
		}
	}
	switch {
	case len(stored) == 0:
		l.out.Inserted++
	case stored[len(stored)-1].fetchedAt.After(l.ans.FetchedAt):
		for _, s := range stored {
			if s.fetchedAt.After(l.ans.FetchedAt) {
				superseded = &s.fetchedAt
				break
			}
		}
		l.out.Ignored++
	default:
		l.out.Restated++
		l.warn("restated", "reading of "+number+" "+v.name)
		if _, err := l.tx.Exec(l.ctx, `update dw.fact_service_level set superseded_at = $4
			where customer_key = $1 and service_level_key = $2 and observed_at = $3 and superseded_at is null`,
			l.customer.key, v.key, at, l.ans.FetchedAt); err != nil {
			return err
		}
	}
	_, err = l.tx.Exec(l.ctx, `
		insert into dw.fact_service_level (customer_key, service_level_key, observed_at, payload_id, read_at, fetched_at,
			committed_tib, consumed_tib, burst_tib, accrued_burst_tib, superseded_at, run_id)
		values ($1, $2, $3, $4, $5, $6, $7::text::numeric, $8::text::numeric, $9::text::numeric, $10::text::numeric, $11, $12)`,
		l.customer.key, v.key, at, payload, micros(in.ReadAt), l.ans.FetchedAt,
		in.CommittedTiB.String(), in.ConsumedTiB.String(), decimalText(in.BurstTiB), decimalText(in.AccruedTiB), superseded, l.run.id)
	return err
}

// rereadReading replaces the figures that this very answer told by what it is read to say now.
func (l *loader) rereadReading(v *level, number string, in etl.LevelReading, at time.Time, was *reading) error {
	l.out.Restated++
	l.warn("reread", "reading of "+number+" "+v.name)
	is := reading{committed: decimalText(&in.CommittedTiB), consumed: decimalText(&in.ConsumedTiB), burst: decimalText(in.BurstTiB), accrue: decimalText(in.AccruedTiB)}
	if err := l.logReread(l.ans.PayloadID, "reading of "+number+" "+v.name+" at "+at.UTC().Format(time.RFC3339), was.String(), is.String()); err != nil {
		return err
	}
	_, err := l.tx.Exec(l.ctx, `
		update dw.fact_service_level
		set committed_tib = $5::text::numeric, consumed_tib = $6::text::numeric, burst_tib = $7::text::numeric,
			accrued_burst_tib = $8::text::numeric, run_id = $9
		where customer_key = $1 and service_level_key = $2 and observed_at = $3 and payload_id = $4`,
		l.customer.key, v.key, at, l.ans.PayloadID,
		in.CommittedTiB.String(), in.ConsumedTiB.String(), decimalText(in.BurstTiB), decimalText(in.AccruedTiB), l.run.id)
	return err
}

// supersedeUntold is dropUntold for readings of the present: they stay as versions that hold no more.
func (l *loader) supersedeUntold() error {
	if l.customer == nil || l.run.job.Dataset != datasetCurrent {
		return nil
	}
	rows, err := l.tx.Query(l.ctx, `
		update dw.fact_service_level
		set superseded_at = $4
		where customer_key = $1 and payload_id = $2 and superseded_at is null and service_level_key <> all ($3)
		returning service_level_key`, l.customer.key, l.ans.PayloadID, keys(l.deliveredLevels), l.run.w.cfg.Now())
	if err != nil {
		return err
	}
	untold, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	for range untold {
		l.warn("not_told_again", "reading of the present")
	}
	return err
}

// String spells a reading for the log of rereadings.
func (r *reading) String() string {
	text := func(d *string) string { return textOr(d, "unknown") }
	return fmt.Sprintf("committed %s, consumed %s, burst %s, accrued %s", text(r.committed), text(r.consumed), text(r.burst), text(r.accrue))
}

func textOr(s *string, otherwise string) string {
	if s == nil {
		return otherwise
	}
	return *s
}

func decimalText(d *etl.Decimal) *string {
	if d == nil {
		return nil
	}
	s := d.String()
	return &s
}
