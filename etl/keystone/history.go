package keystone

import (
	"slices"
	"sync"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/accept"
	"meterhouse/etl/internal/jsonread"
)

// sampleReader is the state of the hot path: an answer holds hundreds of thousands of samples, so
// nothing is allocated for one beyond its place in the level's slice, unless it deviates.
type sampleReader struct {
	member func(name string) error // reads one member, made once
	room   [len(sampleMembers)]jsonread.Member

	now      etl.Sample
	seen     fields
	problems problems
	warnings []deviation

	*levelRoom
	sorted bool // they came in order of time without repeats
}

// levelRoom is where the samples of a level are collected. It serves one level after the other, and one
// answer after the other, so that no room is made twice.
type levelRoom struct {
	level     []etl.Sample
	positions []int32 // of those in the vendor's list
}

var levelRooms = sync.Pool{New: func() any { return new(levelRoom) }}

// deviation is an accepted deviation of one member.
type deviation struct{ name, member string }

func (s *sampleReader) warn(name, member string) {
	s.warnings = append(s.warnings, deviation{name, member})
}

func (s *sampleReader) warnAll(names []string, member string) {
	for _, name := range names {
		s.warn(name, member)
	}
}

func (s *sampleReader) problem(f field, member, reason string, v jsonread.Scalar) {
	s.problems = append(s.problems, problem{f, member, reason, excerptOf(v)})
}

// samples reads the list of a level. Order and repeats are looked at when the level is complete.
func (p *pass) samples(l *level) error {
	refused, err := p.refused(jsonread.Array, "value_missing")
	if err != nil {
		return err
	}
	if refused != nil {
		l.problems = append(l.problems, problem{fieldSamples, "historical_consumption", refused.Reason, refused.Excerpt})
		return nil
	}
	s := &p.sample
	s.level, s.positions, s.sorted = s.level[:0], s.positions[:0], true
	n := 0
	err = p.r.Array(func(i int) error {
		n++
		return p.oneSample(l, i)
	})
	p.listed.samples += n
	switch {
	case err != nil:
		return err
	case n == 0:
		l.own.warn("days_empty", p.r.Path)
	case !s.sorted:
		l.samples = p.settleOrder(l)
	case len(s.level) > 0:
		l.samples = slices.Clone(s.level)
	}
	return nil
}

func (p *pass) oneSample(l *level, i int) error {
	s := &p.sample
	s.now, s.seen, s.problems, s.warnings = etl.Sample{}, 0, s.problems[:0], s.warnings[:0]
	refused, err := p.refused(jsonread.Object, "type_mismatch")
	if err != nil {
		return err
	}
	l.children.rows++
	l.children.received++
	if refused != nil {
		l.allPartial = true
		l.children.quarantine(*refused)
		return nil
	}
	members, flat, err := p.r.Flat(sampleMembers[:], s.room[:])
	for i := range members {
		s.set(members[i].Name, members[i].Scalar)
	}
	if err == nil && !flat {
		err = p.r.Object(s.member)
	}
	if err != nil {
		return err
	}
	const complete = 1<<fieldTime | 1<<fieldCommitted | 1<<fieldConsumed | 1<<fieldBurst | 1<<fieldAccrued | 1<<fieldInvoiced
	if s.seen != complete {
		s.missing()
	}
	dated := !slices.ContainsFunc(s.problems, func(pr problem) bool { return pr.field == fieldTime })
	if dated {
		switch at := s.now.At; {
		case at >= p.limits.from && at < p.limits.until && at <= p.limits.future:
		case at > p.limits.future:
			s.refuseTime("time_future")
		case at >= p.limits.dayBefore && at < p.limits.dayEnd:
			l.children.ignored++ // it belongs to the next window
			return nil
		default:
			s.refuseTime("time_out_of_range")
		}
	}
	if len(s.problems) > 0 {
		p.refuseSample(l, dated)
		return nil
	}
	if !burstFits(&s.now) {
		s.warn("burst_inconsistent", "burst_tib")
	}
	if len(s.warnings) > 0 {
		p.warnSample(l)
	}
	if n := len(s.level); n > 0 && s.now.At <= s.level[n-1].At {
		s.sorted = false
	}
	s.level = append(s.level, s.now)
	s.positions = append(s.positions, int32(i))
	return nil
}

// sampleMembers are the members of a sample.
var sampleMembers = [...]string{memberTime: "timestamp_utc", memberCommitted: "committed_tib", memberConsumed: "consumed_tib",
	memberBurst: "burst_tib", memberAccrued: "accrued_burst_tib", memberInvoiced: "is_invoiced"}

const (
	memberTime = iota
	memberCommitted
	memberConsumed
	memberBurst
	memberAccrued
	memberInvoiced
)

// sampleMember reads one member of a sample.
func (p *pass) sampleMember(name string) error {
	member := slices.Index(sampleMembers[:], name)
	if member < 0 {
		return p.unknown(inSample, name)
	}
	v, err := p.r.Scalar()
	if err == nil {
		p.sample.set(member, v)
	}
	return err
}

// set takes in one member of a sample.
func (s *sampleReader) set(member int, v jsonread.Scalar) {
	name := sampleMembers[member]
	switch member {
	case memberTime:
		at, warnings, reason := accept.Micros(v)
		s.now.At = at
		s.take(fieldTime, name, warnings, reason, v)
	case memberCommitted:
		value, warnings, reason := accept.Measure(v)
		s.now.CommittedTiB = value
		s.take(fieldCommitted, name, warnings, reason, v)
	case memberConsumed:
		value, warnings, reason := accept.Measure(v)
		s.now.ConsumedTiB = value
		s.take(fieldConsumed, name, warnings, reason, v)
	case memberBurst:
		s.now.BurstTiB = s.optional(fieldBurst, name, v)
	case memberAccrued:
		s.now.AccruedTiB = s.optional(fieldAccrued, name, v)
	case memberInvoiced:
		s.seen.add(fieldInvoiced)
		s.now.Invoiced = s.invoiced(name, v)
	}
}

func (s *sampleReader) take(f field, member string, warnings []string, reason string, v jsonread.Scalar) {
	s.seen.add(f)
	if len(warnings) > 0 {
		s.warnAll(warnings, member)
	}
	if reason != "" {
		s.problem(f, member, reason, v)
	}
}

// optional is a measure that may be unknown: R22.
func (s *sampleReader) optional(f field, member string, v jsonread.Scalar) etl.NullDecimal {
	value, warnings, reason := accept.Measure(v)
	if reason == "value_missing" {
		s.take(f, member, warnings, "", v)
		s.warn("measure_missing", member)
		return etl.NullDecimal{}
	}
	s.take(f, member, warnings, reason, v)
	return etl.NullDecimal{Decimal: value, Known: reason == ""}
}

// invoiced reads R26.
func (s *sampleReader) invoiced(member string, v jsonread.Scalar) etl.NullBool {
	switch v.Kind {
	case jsonread.Null:
		s.warn("invoiced_unknown", member)
		return etl.Unknown
	case jsonread.Bool, jsonread.String:
		value := etl.Unknown
		switch string(v.Text) {
		case "true":
			value = etl.True
		case "false":
			value = etl.False
		}
		if value != etl.Unknown {
			if v.Kind == jsonread.String {
				s.warn("type_coerced", member)
			}
			return value
		}
	}
	s.problem(fieldInvoiced, member, "type_mismatch", v)
	return etl.Unknown
}

// missing notes what a sample lacks.
func (s *sampleReader) missing() {
	for _, m := range [...]struct {
		field  field
		member string
	}{{fieldTime, "timestamp_utc"}, {fieldCommitted, "committed_tib"}, {fieldConsumed, "consumed_tib"}} {
		if !s.seen.has(m.field) {
			s.problems = append(s.problems, problem{m.field, m.member, "value_missing", ""})
		}
	}
	if !s.seen.has(fieldBurst) {
		s.warn("measure_missing", "burst_tib")
	}
	if !s.seen.has(fieldAccrued) {
		s.warn("measure_missing", "accrued_burst_tib")
	}
	if !s.seen.has(fieldInvoiced) {
		s.warn("invoiced_unknown", "is_invoiced")
	}
}

// refuseTime refuses a time that could be read.
func (s *sampleReader) refuseTime(reason string) {
	text := time.UnixMicro(s.now.At).UTC().Format(time.RFC3339Nano)
	s.problems = append(s.problems, problem{fieldTime, "timestamp_utc", reason, text})
}

// refuseSample quarantines the sample that was just read, and marks the day that it leaves in
// doubt: its own if it can be dated, else every day of the level.
func (p *pass) refuseSample(l *level, dated bool) {
	s := &p.sample
	path := p.r.Path()
	first := s.problems.first()
	reject := etl.Reject{Path: path + "/" + first.member, Reason: first.reason, Excerpt: first.excerpt}
	if !dated {
		l.allPartial = true
	} else {
		day := s.now.Day()
		reject.Day = &day
		if p.ans.Request.Window.Contains(day) {
			l.partial(day)
		}
	}
	l.children.quarantine(reject)
	p.warnSample(l)
}

func (l *level) partial(day etl.Day) {
	if l.partialDays == nil {
		l.partialDays = map[etl.Day]bool{}
	}
	l.partialDays[day] = true
}

func (t *tally) quarantine(reject etl.Reject) {
	t.bad++
	t.quarantined++
	t.rejects = append(t.rejects, reject)
}

// warnSample books the deviations of the sample that was just read.
func (p *pass) warnSample(l *level) {
	for _, d := range p.sample.warnings {
		l.children.warn(d.name, func() string { return p.r.Path() + "/" + d.member })
	}
}

// settleOrder sorts the samples of a level by time and settles repeats: equal measures are one
// sample, different ones are all refused, because order must not decide. R21.
func (p *pass) settleOrder(l *level) []etl.Sample {
	samples, positions := p.sample.level, p.sample.positions
	order := make([]int32, len(samples))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		switch x, y := samples[a].At, samples[b].At; {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	list := p.r.Path()
	sorted := make([]etl.Sample, 0, len(order))
	for len(order) > 0 {
		n := 1
		for n < len(order) && samples[order[n]].At == samples[order[0]].At {
			n++
		}
		same := order[:n]
		order = order[n:]
		kept := samples[same[0]]
		conflict := slices.ContainsFunc(same[1:], func(i int32) bool { return !kept.SameMeasures(&samples[i]) })
		if conflict {
			day := kept.Day()
			l.partial(day)
			for _, i := range same {
				l.children.quarantine(etl.Reject{
					Path: indexed(list, positions[i]), Reason: "conflicting_duplicate",
					Excerpt: describe(&samples[i]), Day: &day,
				})
			}
			continue
		}
		for _, i := range same[1:] {
			l.children.ignored++
			l.children.warn("duplicate_row", func() string { return indexed(list, positions[i]) })
			if samples[i].Invoiced != kept.Invoiced {
				kept.Invoiced = etl.Unknown
				l.children.warn("invoiced_unknown", func() string { return indexed(list, positions[i]) + "/is_invoiced" })
			}
		}
		sorted = append(sorted, kept)
	}
	return sorted
}

// describe is a sample as text, for a reject whose own text is gone.
func describe(s *etl.Sample) string {
	number := func(d etl.NullDecimal) string {
		if !d.Known {
			return "null"
		}
		return d.String()
	}
	return "timestamp_utc " + time.UnixMicro(s.At).UTC().Format(time.RFC3339Nano) +
		", committed_tib " + s.CommittedTiB.String() + ", consumed_tib " + s.ConsumedTiB.String() +
		", burst_tib " + number(s.BurstTiB) + ", accrued_burst_tib " + number(s.AccruedTiB)
}
