package keystone

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"meterhouse/etl"
	"meterhouse/etl/internal/accept"
	"meterhouse/etl/internal/jsonread"
)

// record is one subscription with its service levels, as far as it was read.
type record struct {
	path   string
	sub    etl.Subscription
	own    tally // warnings about the subscription itself
	levels []*level
	reject *etl.Reject
}

// level is one service level of a record. Which measures it has depends on the dataset.
type level struct {
	path     string
	name     string
	raw      string // the name as delivered, to tell instances from collisions
	own      tally  // the level itself: its warnings survive its rejection
	children tally  // its samples
	reject   *etl.Reject
	problems problems
	seen     fields

	measures etl.Sample // committed, consumed, burst and accrued of the present
	readAt   time.Time

	samples     []etl.Sample
	partialDays map[etl.Day]bool
	allPartial  bool
}

// field is a member that the rules know. Of several faulty ones the first in this order is told.
type field uint8

const (
	fieldName field = iota
	fieldTime
	fieldCommitted
	fieldConsumed
	fieldBurst
	fieldAccrued
	fieldInvoiced
	fieldSamples
)

type fields uint16

func (f *fields) add(one field)     { *f |= 1 << one }
func (f fields) has(one field) bool { return f&(1<<one) != 0 }

// problem is why a member was refused.
type problem struct {
	field   field
	member  string
	reason  string
	excerpt string
}

type problems []problem

// first is the problem that is told.
func (ps problems) first() problem {
	return slices.MinFunc(ps, func(a, b problem) int { return cmp.Compare(a.field, b.field) })
}

// subscriptionRecord reads one element of the list of subscriptions, emits it and books it.
func (p *pass) subscriptionRecord() error {
	rec := &record{}
	var err error
	if rec.reject, err = p.refused(jsonread.Object, "type_mismatch"); err != nil {
		return err
	}
	if rec.reject != nil {
		return p.finishRecord(rec)
	}
	var subReject, levelsReject *etl.Reject
	subscription, levels := false, false
	err = p.r.Object(func(name string) (err error) {
		switch name {
		case "subscription":
			subscription = true
			subReject, err = p.subscription(rec)
		case "service_levels":
			levels = true
			levelsReject, err = p.serviceLevels(rec)
		default:
			err = p.unknown(inRecord, name)
		}
		return err
	})
	if err != nil {
		return err
	}
	rec.path = p.r.Path()
	switch {
	case !subscription:
		rec.reject = &etl.Reject{Path: rec.path + "/subscription", Reason: "value_missing"}
	case subReject != nil:
		rec.reject = subReject
	case !levels:
		rec.reject = &etl.Reject{Path: rec.path + "/service_levels", Reason: "value_missing"}
	case levelsReject != nil:
		rec.reject = levelsReject
	}
	return p.finishRecord(rec)
}

// refused looks at the value that comes next. One of the wanted kind is left to be read; any other
// is read and refused: null for the given reason, everything else as type_mismatch.
func (p *pass) refused(want jsonread.Kind, null string) (*etl.Reject, error) {
	kind, err := p.r.Kind()
	if err != nil || kind == want {
		return nil, err
	}
	v, err := p.r.Scalar()
	if err != nil {
		return nil, err
	}
	reject := &etl.Reject{Path: p.r.Path(), Reason: "type_mismatch", Excerpt: excerptOf(v)}
	if kind == jsonread.Null {
		reject.Reason = null
	}
	return reject, nil
}

// subscription reads who a record is about. Only the number can refuse it: R20, R25.
func (p *pass) subscription(rec *record) (*etl.Reject, error) {
	if refused, err := p.refused(jsonread.Object, "value_missing"); refused != nil || err != nil {
		return refused, err
	}
	reject := &etl.Reject{Reason: "value_missing"}
	var start, end contractDate
	named := false
	err := p.r.Object(func(name string) error {
		switch name {
		case "number", "account_name", "start_date", "end_date":
		default:
			return p.unknown(inSubscription, name)
		}
		v, err := p.r.Scalar()
		if err != nil {
			return err
		}
		var warnings []string
		switch name {
		case "number":
			rec.sub.Number, warnings, reject.Reason = accept.KeyText(v, true)
			if reject.Reason != "" {
				reject.Excerpt = excerptOf(v)
			}
		case "account_name":
			named = true
			rec.sub.AccountName, warnings = accept.DisplayText(v)
		case "start_date":
			start, warnings = readContractDate(v)
		case "end_date":
			end, warnings = readContractDate(v)
		}
		rec.own.warnAll(warnings, p.r.Path)
		return nil
	})
	if err != nil {
		return nil, err
	}
	path := p.r.Path()
	at := func(member string) func() string { return func() string { return path + member } }
	if !named {
		rec.own.warn("null_optional", at("/account_name"))
	}
	rec.sub.StartText, rec.sub.EndText = start.text, end.text
	rec.sub.Start, rec.sub.End = start.at, end.at
	switch {
	case !start.given:
		rec.own.warn("start_missing", at("/start_date"))
	case start.at == nil:
		rec.own.warn("date_unreadable", at("/start_date"))
	}
	switch {
	case end.openEnded():
		rec.sub.End = nil
		rec.own.warn("open_ended", at("/end_date"))
	case end.at == nil:
		rec.own.warn("date_unreadable", at("/end_date"))
	}
	if s, e := rec.sub.Start, rec.sub.End; s != nil && e != nil && s.After(*e) {
		rec.sub.Start, rec.sub.End = nil, nil
		rec.own.warn("period_inverted", at("/end_date"))
	}
	if reject.Reason == "" {
		return nil, nil
	}
	reject.Path = path + "/number"
	return reject, nil
}

// contractDate is the start or end of a subscription. The zero value is an absent one.
type contractDate struct {
	text  *string // as delivered
	at    *time.Time
	given bool // delivered and not blank
}

func readContractDate(v jsonread.Scalar) (d contractDate, warnings []string) {
	d.text, _ = accept.DisplayText(v)
	if v.Kind == jsonread.Null || v.Kind == jsonread.String && len(accept.Trim(v.Text)) == 0 {
		return d, nil
	}
	d.given = true
	at, warnings, reason := accept.Time(v)
	if reason != "" {
		return d, nil
	}
	d.at = &at
	return d, warnings
}

// openEnded tells the ways in which the vendor says that a contract has no end: R25.
func (d contractDate) openEnded() bool {
	switch {
	case !d.given:
		return true
	case d.at != nil:
		return d.at.Year() >= 9000
	case d.text == nil:
		return false
	}
	text := strings.ToLower(strings.TrimSpace(*d.text))
	return text == "month-on-month" || strings.HasPrefix(text, "n/a")
}

func (p *pass) serviceLevels(rec *record) (*etl.Reject, error) {
	if refused, err := p.refused(jsonread.Array, "value_missing"); refused != nil || err != nil {
		return refused, err
	}
	n := 0
	err := p.r.Array(func(int) error {
		n++
		p.listed.levels++
		l := &level{}
		rec.levels = append(rec.levels, l)
		return p.serviceLevel(l)
	})
	if err == nil && n == 0 {
		rec.own.warn("levels_empty", p.r.Path)
	}
	return nil, err
}

// serviceLevel reads one level. Names that collide are found when the record is complete.
func (p *pass) serviceLevel(l *level) error {
	var err error
	if l.reject, err = p.refused(jsonread.Object, "type_mismatch"); err != nil {
		return err
	}
	if l.reject != nil {
		l.path = l.reject.Path
		return nil
	}
	p.level = l
	if err := p.r.Object(p.levelMember); err != nil {
		return err
	}
	l.path = p.r.Path()
	p.completeLevel(l)
	return nil
}

func (p *pass) levelMember(name string) error {
	l := p.level
	switch {
	case name == "name":
		l.seen.add(fieldName)
		v, err := p.r.Scalar()
		if err != nil {
			return err
		}
		var warnings []string
		var reason string
		l.name, warnings, reason = accept.KeyText(v, false)
		l.raw = l.name
		if len(warnings) > 0 { // trimmed
			l.raw = string(v.Text)
			l.own.warnAll(warnings, p.r.Path)
		}
		l.problem(fieldName, name, reason, v)
		return nil
	case name == "historical_consumption" && p.dataset == History:
		l.seen.add(fieldSamples)
		return p.samples(l)
	case name == "committed_tib" && p.dataset != History:
		return p.levelMeasure(fieldCommitted, name, &l.measures.CommittedTiB)
	case p.dataset != Current:
		return p.unknown(inLevel, name)
	}
	switch name {
	case "consumed_tib":
		return p.levelMeasure(fieldConsumed, name, &l.measures.ConsumedTiB)
	case "burst_tib":
		return p.levelOptional(fieldBurst, name, &l.measures.BurstTiB)
	case "accrued_burst_tib":
		return p.levelOptional(fieldAccrued, name, &l.measures.AccruedTiB)
	case "consumed_timestamp_utc":
		l.seen.add(fieldTime)
		v, err := p.r.Scalar()
		if err != nil {
			return err
		}
		micros, warnings, reason := accept.Micros(v)
		l.own.warnAll(warnings, p.r.Path)
		switch {
		case reason != "":
		case micros > p.limits.future:
			reason = "time_future"
		case micros < p.limits.stale:
			l.own.warn("stale_sample", p.r.Path)
		}
		l.readAt = time.UnixMicro(micros).UTC()
		l.problem(fieldTime, name, reason, v)
		return nil
	}
	return p.unknown(inLevel, name)
}

func (l *level) problem(f field, member, reason string, v jsonread.Scalar) {
	if reason != "" {
		l.problems = append(l.problems, problem{f, member, reason, excerptOf(v)})
	}
}

func (p *pass) levelMeasure(f field, member string, into *etl.Decimal) error {
	p.level.seen.add(f)
	v, err := p.r.Scalar()
	if err != nil {
		return err
	}
	value, warnings, reason := accept.Measure(v)
	p.level.own.warnAll(warnings, p.r.Path)
	p.level.problem(f, member, reason, v)
	*into = value
	return nil
}

// levelOptional is levelMeasure for a measure that may be unknown.
func (p *pass) levelOptional(f field, member string, into *etl.NullDecimal) error {
	p.level.seen.add(f)
	v, err := p.r.Scalar()
	if err != nil {
		return err
	}
	value, warnings, reason := accept.Measure(v)
	p.level.own.warnAll(warnings, p.r.Path)
	switch reason {
	case "":
		*into = etl.NullDecimal{Decimal: value, Known: true}
	case "value_missing":
		p.level.own.warn("measure_missing", p.r.Path)
	default:
		p.level.problem(f, member, reason, v)
	}
	return nil
}

// completeLevel looks for what is missing, once all members are read.
func (p *pass) completeLevel(l *level) {
	missing := func(f field, member string) {
		if !l.seen.has(f) {
			l.problems = append(l.problems, problem{f, member, "value_missing", ""})
		}
	}
	optional := func(f field, member string) {
		if !l.seen.has(f) {
			l.own.warn("measure_missing", func() string { return l.path + "/" + member })
		}
	}
	missing(fieldName, "name")
	switch p.dataset {
	case Subscriptions:
		missing(fieldCommitted, "committed_tib")
	case Current:
		missing(fieldTime, "consumed_timestamp_utc")
		missing(fieldCommitted, "committed_tib")
		missing(fieldConsumed, "consumed_tib")
		optional(fieldBurst, "burst_tib")
		optional(fieldAccrued, "accrued_burst_tib")
	case History:
		missing(fieldSamples, "historical_consumption")
	}
	if len(l.problems) > 0 {
		first := l.problems.first()
		l.reject = &etl.Reject{Path: l.path + "/" + first.member, Reason: first.reason, Excerpt: first.excerpt, Level: l.name}
		return
	}
	if p.dataset == Current && !burstFits(&l.measures) {
		l.own.warn("burst_inconsistent", func() string { return l.path + "/burst_tib" })
	}
}

var (
	burstTolerance = etl.MustDecimal("0.011")
	burstShortfall = etl.MustDecimal("-0.011")
)

// burstFits tells whether burst is what consumption exceeds the commitment by: R23.
func burstFits(s *etl.Sample) bool {
	if !s.BurstTiB.Known {
		return true
	}
	over := s.ConsumedTiB.Sub(s.CommittedTiB)
	if over.Sign() < 0 {
		over = etl.Decimal{}
	}
	if s.BurstTiB.Equal(over) {
		return true
	}
	diff := s.BurstTiB.Sub(over)
	return diff.Cmp(burstTolerance) <= 0 && diff.Cmp(burstShortfall) >= 0
}

// finishRecord emits a complete record, or holds it back when its number is a repeated one.
func (p *pass) finishRecord(rec *record) error {
	if rec.reject != nil {
		rec.reject.Subscription = rec.sub.Number
		t := rejected(rec.own.warnings, *rec.reject)
		return p.book(&t)
	}
	number := rec.sub.Number
	switch {
	case p.hold[number]:
		p.held = append(p.held, rec)
		return nil
	case p.numbers[number]:
		if p.repeated == nil {
			p.repeated = map[string]bool{}
		}
		p.repeated[number] = true
	}
	p.numbers[number] = true
	return p.emit(rec)
}

// releaseHeld emits the records whose number came more than once: those with the same term are one
// subscription, the others are told apart by start, end and occurrence. R21.
func (p *pass) releaseHeld() error {
	var numbers []string
	terms := map[string][]*record{}
	for _, rec := range p.held {
		number := rec.sub.Number
		known := terms[number]
		if known == nil {
			numbers = append(numbers, number)
		} else {
			rec.own.warn("subscription_repeated", func() string { return rec.path })
		}
		if i := slices.IndexFunc(known, func(k *record) bool { return compareTerms(k, rec) == 0 }); i >= 0 {
			into := known[i]
			into.levels = append(into.levels, rec.levels...)
			into.own.add(&rec.own)
			if into.sub.AccountName == nil {
				into.sub.AccountName = rec.sub.AccountName
			}
			continue
		}
		terms[number] = append(known, rec)
	}
	for _, number := range numbers {
		slices.SortStableFunc(terms[number], compareTerms)
		for _, rec := range terms[number] {
			rec.sub.Repeated = len(terms[number]) > 1
			if err := p.emit(rec); err != nil {
				return err
			}
		}
	}
	return nil
}

// compareTerms orders by start, unknown last, then by end, open last.
func compareTerms(a, b *record) int {
	order := func(x, y *time.Time) int {
		switch {
		case x == nil && y == nil:
			return 0
		case x == nil:
			return 1
		case y == nil:
			return -1
		}
		return x.Compare(*y)
	}
	return cmp.Or(order(a.sub.Start, b.sub.Start), order(a.sub.End, b.sub.End))
}

// emit checks the levels of a record against each other, hands it to the sink and books it.
func (p *pass) emit(rec *record) error {
	p.findCollisions(rec)
	p.findIdentical(rec)
	total := tally{rows: 1}
	total.add(&rec.own)
	var good []*level
	for _, l := range rec.levels {
		if l.reject != nil {
			t := rejected(l.own.warnings, *l.reject)
			total.add(&t)
			continue
		}
		good = append(good, l)
		total.rows++
		if p.dataset != History {
			total.received++
		}
		for i := range l.children.rejects {
			l.children.rejects[i].Level = l.name
		}
		total.add(&l.own)
		total.add(&l.children)
	}
	for i := range total.rejects {
		total.rejects[i].Subscription = rec.sub.Number
	}
	if err := p.book(&total); err != nil || p.silent() { // what is refused of a record comes before the record
		return err
	}
	return p.hand(rec, good)
}

// findCollisions refuses levels whose names differ only in case or trimming: R21.
func (p *pass) findCollisions(rec *record) {
	spelled := map[string]string{} // folded name to the first spelling
	collided := map[string]bool{}
	for _, l := range rec.levels {
		if l.reject != nil {
			continue
		}
		folded := fold(l.name)
		if raw, ok := spelled[folded]; ok && raw != l.raw {
			collided[folded] = true
		} else if !ok {
			spelled[folded] = l.raw
		}
	}
	if len(collided) == 0 {
		return
	}
	for _, l := range rec.levels {
		if l.reject == nil && collided[fold(l.name)] {
			l.reject = &etl.Reject{Path: l.path, Reason: "name_collision", Excerpt: accept.Excerpt([]byte(l.raw)), Level: l.name}
		}
	}
}

// fold makes names equal that differ only in case.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		return least
	}, s)
}

// findIdentical warns of instances of one level that are alike in everything: R21.
func (p *pass) findIdentical(rec *record) {
	byName := map[string][]*level{}
	for _, l := range rec.levels {
		if l.reject != nil {
			continue
		}
		if slices.ContainsFunc(byName[l.name], func(other *level) bool { return identical(other, l) }) {
			rec.own.warn("identical_instances", func() string { return l.path })
			continue // compared with the first of its kind only
		}
		byName[l.name] = append(byName[l.name], l)
	}
}

func identical(a, b *level) bool {
	return a.measures.SameMeasures(&b.measures) && a.readAt.Equal(b.readAt) &&
		slices.EqualFunc(a.samples, b.samples, func(x, y etl.Sample) bool {
			return x.At == y.At && x.Invoiced == y.Invoiced && x.SameMeasures(&y)
		})
}

// hand gives a record to the sink in the form of its dataset.
func (p *pass) hand(rec *record, levels []*level) error {
	partial := len(levels) < len(rec.levels)
	switch p.dataset {
	case Subscriptions:
		terms := etl.Terms{Subscription: rec.sub, Partial: partial}
		for _, l := range levels {
			terms.Levels = append(terms.Levels, etl.Commitment{Level: l.name, CommittedTiB: l.measures.CommittedTiB})
		}
		return p.sink.Terms(terms)
	case Current:
		readings := etl.Readings{Subscription: rec.sub, Partial: partial}
		for _, l := range levels {
			readings.Levels = append(readings.Levels, etl.LevelReading{
				Level: l.name, CommittedTiB: l.measures.CommittedTiB, ConsumedTiB: l.measures.ConsumedTiB,
				BurstTiB: pointer(l.measures.BurstTiB), AccruedTiB: pointer(l.measures.AccruedTiB), ReadAt: &l.readAt,
			})
		}
		return p.sink.Readings(readings)
	}
	history := etl.History{Subscription: rec.sub, Partial: partial}
	for _, l := range levels {
		history.Levels = append(history.Levels, etl.LevelHistory{
			Level: l.name, Samples: l.samples, PartialDays: l.partialDays, AllPartial: l.allPartial,
		})
	}
	return p.sink.History(history)
}

func pointer(d etl.NullDecimal) *etl.Decimal {
	if !d.Known {
		return nil
	}
	return &d.Decimal
}

func indexed(path string, i int32) string { return path + "/" + strconv.Itoa(int(i)) }
