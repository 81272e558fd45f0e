package warehouse

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"meterhouse/etl"
)

// Records are judged before they are written, so that the database should find nothing to refuse. Where it
// refuses one all the same, for a constraint or a trigger that is not ours or a rule that we got wrong, the
// rest of the answer need not wait for it: parts of the answer are loaded on trial until it is known what is
// refused, and then all but that is loaded. What is refused goes to quarantine like any bad record.

// reasonRefused is the reason of what the database refused.
const reasonRefused = "constraint_violation"

// Bounds of the search. What goes beyond has another fault than single records, and fails the load. The trials are
// enough for culprits each of another record of some levels and a month of days; too many culprits take fewer.
const (
	maxCulprits = 100
	maxTrials   = 4000
)

// refusal is the error of a database that may have refused a single row: its values do not fit a type
// (class 22), a constraint (23) or a limit such as an index's (54), or a trigger or view raised it. nil for
// every other error.
func refusal(err error) *pgconn.PgError {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || len(pgErr.Code) != 5 {
		return nil
	}
	switch {
	case pgErr.Routine == "ExecFindPartition": // a month that has no partition yet; the next run makes it
		return nil
	case slices.Contains([]string{"22", "23", "54"}, pgErr.Code[:2]),
		pgErr.Code == "P0001", // raise_exception
		pgErr.Code == "44000": // with_check_option_violation
		return pgErr
	}
	return nil
}

// spot is a part of an answer that can be left out: a record, a level of it by name, or a day of that level.
type spot struct {
	record int // counted from 1 as the transform hands them over, over all restarts
	level  string
	day    etl.Day
	isDay  bool
}

func (s spot) ofLevel(name string) spot { return spot{record: s.record, level: name} }
func (s spot) onDay(day etl.Day) spot   { return spot{s.record, s.level, day, true} }

// sieve is the loader without some parts of the answer.
type sieve struct {
	*loader
	only    map[int]bool    // records that may pass; nil: all
	without map[spot]string // these do not: they are refused with these words

	records int                  // taken so far, over all restarts
	levels  []string             // of the record that passed last
	days    map[string][]etl.Day // of its levels
}

// next counts a record, which says something, and tells whether it passes. One that does not is counted as one
// refused record, whatever number of records it holds.
func (s *sieve) next(holds int, says any, r etl.Reject) (at spot, passes bool) {
	s.records++
	at = spot{record: s.records}
	return at, s.passes(at, holds, says, r) && (s.only == nil || s.only[at.record])
}

// nextOf is next for a record of a subscription. One that does not pass still stands for what is stored of its
// subscription: no other record of the same number is taken for it.
func (s *sieve) nextOf(of etl.Subscription, holds int, says any) (at spot, passes bool) {
	at, passes = s.next(holds, says, etl.Reject{Subscription: of.Number})
	c := s.customer
	if c == nil {
		c = s.scope
	}
	if passes || c == nil {
		return at, passes
	}
	if stored, _ := s.storedSubscription(c, of); stored != nil {
		s.deliveredSubs[stored.key], s.unsureSubs[stored.key] = true, true
	}
	return at, false
}

func (s *sieve) passes(at spot, holds int, says any, r etl.Reject) bool {
	words, left := s.without[at]
	if left {
		if r.Excerpt != "" {
			words = r.Excerpt + ": " + words
		}
		r.Reason = reasonRefused
		if s.only == nil { // a trial writes none
			r.Excerpt = refusedExcerpt(words, says)
		}
		s.rejects = append(s.rejects, r)
		s.out.Quarantined++
		s.folded += holds - 1
	}
	return !left
}

// refusedExcerpt is the database's words with a hash of what it refused: whether the vendor repeats a refusal or
// says something else, of which the database says the same, shows in the excerpt.
func refusedExcerpt(words string, says any) string {
	text, err := json.Marshal(says)
	if err != nil {
		panic(err) // it is facts as a source makes them: they are all of plain types
	}
	sum := sha256.Sum256(text)
	return fmt.Sprintf("%s, content %x", cleanText(words, 400), sum[:8]) // the hash is always there
}

// Customer implements etl.Sink.
func (s *sieve) Customer(c etl.Customer) error {
	if _, ok := s.next(1, c, etl.Reject{Excerpt: c.ID}); !ok {
		return nil
	}
	return s.loader.Customer(c)
}

// License implements etl.Sink.
func (s *sieve) License(r etl.LicenseReading) error {
	if _, ok := s.next(1, r.ItemsText, etl.Reject{Description: r.Description, Day: &r.LocalDate}); !ok {
		return nil
	}
	return s.loader.License(r)
}

// Terms implements etl.Sink.
func (s *sieve) Terms(t etl.Terms) error {
	at, ok := s.nextOf(t.Subscription, len(t.Levels), t)
	if !ok {
		return nil
	}
	kept := passing(s, at, t.Number, t.Levels, func(c *etl.Commitment) (string, int, any) { return c.Level, 1, *c })
	t.Partial = t.Partial || len(kept) < len(t.Levels)
	t.Levels = kept
	return s.loader.Terms(t)
}

// Readings implements etl.Sink.
func (s *sieve) Readings(r etl.Readings) error {
	said := r
	said.Levels = slices.Clone(r.Levels)
	for i := range said.Levels {
		said.Levels[i].ReadAt = nil // the same, read again, is the same refusal
	}
	at, ok := s.nextOf(r.Subscription, len(r.Levels), said)
	if !ok {
		return nil
	}
	r.Levels = passing(s, at, r.Number, r.Levels, func(v *etl.LevelReading) (string, int, any) {
		said := *v
		said.ReadAt = nil
		return v.Level, 1, said
	})
	return s.loader.Readings(r)
}

// History implements etl.Sink.
func (s *sieve) History(h etl.History) error {
	holds := 0
	for i := range h.Levels {
		holds += len(h.Levels[i].Samples)
	}
	at, ok := s.nextOf(h.Subscription, holds, h)
	if !ok {
		return nil
	}
	kept := passing(s, at, h.Number, h.Levels, func(v *etl.LevelHistory) (string, int, any) { return v.Level, len(v.Samples), v.Samples })
	h.Partial = h.Partial || len(kept) < len(h.Levels)
	h.Levels = kept
	s.days = map[string][]etl.Day{}
	for i := range h.Levels {
		v := &h.Levels[i]
		var samples []etl.Sample
		for _, d := range splitDays(v) {
			if !slices.Contains(s.days[v.Level], d.day) {
				s.days[v.Level] = append(s.days[v.Level], d.day)
			}
			if s.passes(at.ofLevel(v.Level).onDay(d.day), len(d.samples), d.samples, etl.Reject{Subscription: h.Number, Level: v.Level, Day: &d.day}) {
				samples = append(samples, d.samples...)
				continue
			}
			if v.PartialDays == nil {
				v.PartialDays = map[etl.Day]bool{}
			}
			v.PartialDays[d.day] = true
		}
		v.Samples = samples
	}
	return s.loader.History(h)
}

// passing are the levels of a record that pass; tell gives the name of one, the number of records in it and
// what they say.
func passing[T any](s *sieve, at spot, number string, levels []T, tell func(*T) (name string, holds int, says any)) []T {
	s.levels, s.days = nil, nil
	var kept []T
	for i := range levels {
		name, holds, says := tell(&levels[i])
		if !slices.Contains(s.levels, name) {
			s.levels = append(s.levels, name)
		}
		if s.passes(at.ofLevel(name), holds, says, etl.Reject{Subscription: number, Level: name}) {
			kept = append(kept, levels[i])
		}
	}
	return kept
}

// search finds what of an answer the database refuses.
type search struct {
	*run
	ctx       context.Context
	tx        pgx.Tx
	ans       *etl.Answer
	transform func(*etl.Answer, etl.Sink) (etl.Report, error)
	isLast    bool // attempt at the load
	trials    int
	last      *sieve // of the last trial
	culprits  map[spot]string
}

// sift finds the parts of an answer that the database refuses, with its words. It finds none where loading
// them is not what it refuses. Nothing of it is left in the transaction. isLast tells that the load is not repeated
// any more, for what others may have done at the same moment.
func (r *run) sift(ctx context.Context, tx pgx.Tx, ans *etl.Answer, transform func(*etl.Answer, etl.Sink) (etl.Report, error), isLast bool) (map[spot]string, error) {
	s := &search{run: r, ctx: ctx, tx: tx, ans: ans, transform: transform, isLast: isLast, culprits: map[spot]string{}}
	if refused, err := s.try(map[int]bool{}, nil); err != nil || refused != "" { // it is not the records
		return nil, err
	}
	records := make([]spot, s.last.records)
	for i := range records {
		records[i].record = i + 1
	}
	seen := 0
	bad, err := s.among(records, func(some []spot) (string, error) {
		only := map[int]bool{}
		for _, at := range some {
			only[at.record] = true
		}
		refused, err := s.try(only, nil)
		if refused != "" && len(some) == 1 {
			seen++
		}
		return refused, errors.Join(err, tooMany(seen))
	})
	for _, at := range slices.SortedFunc(maps.Keys(bad), func(a, b spot) int { return a.record - b.record }) {
		if err == nil {
			err = s.narrow(at, bad[at])
		}
		if err == nil {
			err = tooMany(len(s.culprits))
		}
	}
	return s.culprits, err
}

func tooMany(culprits int) error {
	if culprits <= maxCulprits {
		return nil
	}
	return fmt.Errorf("the database refuses more than %d records of this answer, which is too much for a fault of single ones", maxCulprits)
}

// narrow finds the levels, or their days, for which a record is refused with these words, else blames all of it.
func (s *search) narrow(record spot, words string) error {
	only := map[int]bool{record.record: true}
	if _, err := s.try(only, nil); err != nil {
		return err
	}
	names, daysOf := s.last.levels, s.last.days
	levels := make([]spot, len(names))
	for i, name := range names {
		levels[i] = record.ofLevel(name)
	}
	found, err := s.parts(only, levels, nil)
	if err != nil || len(found) == 0 {
		s.culprits[record] = words
		return err
	}
	for level, words := range found {
		others := slices.DeleteFunc(slices.Clone(levels), func(at spot) bool { return at == level })
		days := make([]spot, len(daysOf[level.level]))
		for i, day := range daysOf[level.level] {
			days[i] = level.onDay(day)
		}
		of, err := s.parts(only, days, others)
		if err != nil {
			return err
		}
		if len(of) == 0 {
			of = map[spot]string{level: words}
		}
		maps.Copy(s.culprits, of)
		if err := tooMany(len(s.culprits)); err != nil {
			return err
		}
	}
	return nil
}

// parts finds those parts of one record without which, and without the others, it is not refused.
func (s *search) parts(only map[int]bool, parts, others []spot) (map[spot]string, error) {
	without := func(left []spot) map[spot]string {
		m := map[spot]string{}
		for _, at := range slices.Concat(others, left) {
			m[at] = ""
		}
		return m
	}
	found, err := s.among(parts, func(some []spot) (string, error) {
		return s.try(only, without(slices.DeleteFunc(slices.Clone(parts), func(at spot) bool { return slices.Contains(some, at) })))
	})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	if refused, err := s.try(only, without(slices.Collect(maps.Keys(found)))); err != nil || refused != "" {
		return nil, err
	}
	return found, nil
}

// among finds the spots that are refused each for itself, with the words of the refusal.
func (s *search) among(spots []spot, try func([]spot) (refused string, err error)) (map[spot]string, error) {
	if len(spots) == 0 {
		return nil, nil
	}
	refused, err := try(spots)
	if err != nil || refused == "" {
		return nil, err
	}
	if len(spots) == 1 {
		return map[spot]string{spots[0]: refused}, nil
	}
	found, err := s.among(spots[:len(spots)/2], try)
	if err != nil {
		return nil, err
	}
	more, err := s.among(spots[len(spots)/2:], try)
	if found == nil {
		return more, err
	}
	maps.Copy(found, more)
	return found, err
}

// try loads some of the answer and takes it back. refused are the database's words, empty when it took all.
func (s *search) try(only map[int]bool, without map[spot]string) (refused string, err error) {
	if s.trials++; s.trials > maxTrials {
		return "", fmt.Errorf("what the database refuses was not found by %d trials of parts of the answer", maxTrials)
	}
	l := &loader{ctx: s.ctx, run: s.run, outer: &loadTx{s.tx, &copying{}}, ans: s.ans}
	defer l.unpack()
	defer l.outer.settle()
	if err := l.begin(); err != nil {
		return "", err
	}
	s.last = &sieve{loader: l, only: only, without: without}
	if !s.ans.NoData {
		_, err = s.transform(s.ans, s.last)
	}
	if err == nil && l.history != nil {
		err = l.history.store() // what is left out is not absent for it
	}
	if err == nil {
		err = l.tx.settle()
	}
	if rollbackErr := l.tx.Rollback(s.ctx); rollbackErr != nil {
		return "", errors.Join(err, rollbackErr)
	}
	if pgErr := refusal(err); pgErr != nil && (s.isLast || !repeatable(err)) {
		return fmt.Sprintf("%s (SQLSTATE %s)", pgErr.Message, pgErr.Code), nil
	}
	return "", err
}
