package billing

import (
	"context"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// The statement and the recomputed burst of thousands of made-up tenants against what is worked out here,
// from the raw samples and by the rules as they are written down, in rationals. Nothing is shared with what
// is tested: not its days, its decimals or its rounding.

// figure is n / 10^scale.
type figure struct {
	n     int64
	scale int32
}

func (f figure) rat() *big.Rat {
	return new(big.Rat).SetFrac(big.NewInt(f.n), new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(f.scale)), nil))
}

func (f figure) numeric() pgtype.Numeric {
	return pgtype.Numeric{Int: big.NewInt(f.n), Exp: -f.scale, Valid: true}
}

// rounded is half away from zero, as digits.
func rounded(r *big.Rat, decimals int) *big.Int {
	scaled := new(big.Rat).Mul(new(big.Rat).Abs(r), new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(decimals)), nil)))
	scaled.Add(scaled, big.NewRat(1, 2))
	digits := new(big.Int).Quo(scaled.Num(), scaled.Denom())
	if r.Sign() < 0 {
		digits.Neg(digits)
	}
	return digits
}

// written is a rounded number as Postgres writes it: with all decimals, or none that are zero.
func written(r *big.Rat, decimals int, trimmed bool) string {
	if r == nil {
		return "?"
	}
	text := new(big.Rat).SetFrac(rounded(r, decimals), new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(decimals)), nil)).FloatString(decimals)
	if trimmed && strings.Contains(text, ".") {
		text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// A date is a day since 1970.
type date int

func dateOf(text string) date {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		panic(err)
	}
	return date(t.Unix() / 86400)
}

func (d date) at(hour int) time.Time { return time.Unix(int64(d)*86400+int64(hour)*3600, 0).UTC() }
func (d date) String() string        { return d.at(0).Format(time.DateOnly) }
func (d date) month() string         { return d.at(0).Format("2006-01") }
func (d date) daysInMonth() int64 {
	t := d.at(0)
	return int64(time.Date(t.Year(), t.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day())
}

// addMonths is the same day of another month, or its last one where it is too short.
func (d date) addMonths(n int) date {
	t := d.at(0)
	first := time.Date(t.Year(), t.Month()+time.Month(n), 1, 0, 0, 0, 0, time.UTC)
	last := time.Date(first.Year(), first.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
	return date(first.AddDate(0, 0, min(t.Day(), last)-1).Unix() / 86400)
}

// monthlyDays is of how many days the month is that a day of a committed period counts in: one of the period's
// own where it is whole months long, else the calendar's.
func monthlyDays(span [2]date, d date) int64 {
	from, until := span[0], span[1]+1
	for months := 1; months <= 24; months++ {
		var bounds []date
		for n := range months + 1 {
			switch {
			case from.addMonths(months) == until:
				bounds = append(bounds, from.addMonths(n))
			case until.addMonths(-months) == from:
				bounds = append(bounds, until.addMonths(n-months))
			}
		}
		for n := 1; n < len(bounds); n++ {
			if d < bounds[n] {
				return int64(bounds[n] - bounds[n-1])
			}
		}
	}
	return d.daysInMonth()
}

type spell struct { // when a row was known
	from  time.Time
	until *time.Time // nil: still
}

func (s spell) holds(asOf *time.Time) bool {
	if asOf == nil {
		return s.until == nil
	}
	return !s.from.After(*asOf) && (s.until == nil || s.until.After(*asOf))
}

type madeSample struct {
	at                  time.Time
	committed, consumed figure
	accrued             *figure
}

type madeDay struct {
	spell
	samples []madeSample
	partial bool
	absent  *time.Time
}

type madeLevel struct {
	key       int64
	name      string
	class     string
	ordinal   int
	days      map[date][]madeDay // versions, the last is current
	contracts []madeContract
	pruned    bool
}

type madeContract struct {
	spell
	committed figure
	absent    *time.Time
}

type madeTerms struct {
	spell
	start, end *time.Time
}

type madeSubscription struct {
	key          int64
	number, disc string
	start, end   *time.Time // of the dimension
	terms        []madeTerms
	levels       []*madeLevel
}

type madeTenant struct {
	key               int64
	customer, account string
	subs              []*madeSubscription
}

type madePeriod struct {
	spell
	clock      string
	start, end date
}

type madeAbsence struct {
	spell
	level       string // customer/number/discriminator/name/ordinal
	first, last date
	decision    string
}

type madeRefusal struct {
	spell
	customer       string
	number, level  *string
	first, last    date
	hasDay, hasAny bool
}

type madeRate struct {
	spell
	id                                           int64
	account, customer, number, item, charge, cur string
	waiver                                       bool
	price                                        figure
	from                                         date
	to                                           *date
}

type world struct {
	r         *rand.Rand
	now       time.Time
	horizon   date // history.start
	tenants   []*madeTenant
	periods   map[string][]madePeriod // customer/number
	absences  []madeAbsence
	refusals  []madeRefusal
	rates     []madeRate
	readings  map[string]string // account/month: running
	nextKey   int64
	instances map[string][]madeAbsence
	refused   map[string][]madeRefusal // by customer
}

func (w *world) chance(percent int) bool { return w.r.IntN(100) < percent }
func (w *world) between(a, b date) date  { return a + date(w.r.IntN(int(b-a)+1)) }
func (w *world) key() int64              { w.nextKey++; return w.nextKey }

// when is a time on one of some days, at which statements are asked for rather often: to the instant.
func (w *world) when(a, b date, hour int) time.Time {
	if asked := at([]string{"2026-02-17T10:00:00Z", "2026-03-09T10:00:00Z"}[w.r.IntN(2)]); w.chance(30) && !asked.Before(a.at(0)) && asked.Before((b + 1).at(0)) {
		return asked
	}
	return w.between(a, b).at(hour)
}

func ptrTo[T any](v T) *T { return &v }

var settle = 2 * time.Hour

func makeWorld(seed uint64, tenants int) *world {
	w := &world{
		r: rand.New(rand.NewPCG(seed, 17)), now: at("2026-04-12T12:00:00Z"), horizon: dateOf("2026-01-01"),
		periods: map[string][]madePeriod{}, readings: map[string]string{}, instances: map[string][]madeAbsence{}, refused: map[string][]madeRefusal{},
	}
	for account := range 4 {
		for _, month := range []string{"2026-01", "2026-02", "2026-03", "2026-04"} {
			if w.chance(40) {
				w.readings[fmt.Sprintf("a%d/%s", account, month)] = "running"
			}
		}
	}
	for i := range tenants {
		t := &madeTenant{key: w.key(), customer: fmt.Sprintf("C%05d", i), account: fmt.Sprintf("a%d", w.r.IntN(4))}
		w.tenants = append(w.tenants, t)
		for range 1 + w.r.IntN(4)/3 {
			w.makeSubscription(t)
		}
	}
	w.makeRates()
	return w
}

func (w *world) makeSubscription(t *madeTenant) {
	s := &madeSubscription{key: w.key(), number: "S1"}
	if len(t.subs) > 0 {
		if s.disc = "2026-02-01"; w.chance(50) {
			s.number, s.disc = "S2", ""
		}
	}
	t.subs = append(t.subs, s)
	begin, over := dateOf("2026-01-04"), dateOf("2026-04-11")
	switch w.r.IntN(5) {
	case 0: // long before
		s.start = ptrTo(dateOf("2025-03-17").at(0))
	case 1:
		begin = w.between(begin, dateOf("2026-02-27"))
		s.start = ptrTo(begin.at(w.r.IntN(24)))
	case 2:
		s.start = ptrTo(w.between(dateOf("2025-11-01"), dateOf("2026-01-03")).at(7))
	}
	if w.chance(12) { // in use before it starts, as when it was renewed
		s.start = ptrTo((begin + date(1+w.r.IntN(95))).at(7))
	}
	if s.disc != "" && s.number == "S1" && w.chance(70) { // it renews the other, or nearly so
		begin = w.between(dateOf("2026-01-20"), dateOf("2026-03-10"))
		other := t.subs[0]
		other.end = ptrTo(begin.at(w.r.IntN(24)))
		for i := range other.terms {
			other.terms[i].end = other.end
		}
		s.start = ptrTo((begin + date(w.r.IntN(6)-2)).at(7))
	}
	last := over
	if w.chance(20) {
		last = w.between(begin+10, over)
		s.end = ptrTo((last + date(w.r.IntN(5)-2)).at(w.r.IntN(2) * 23))
	}
	if w.chance(60) { // terms of their own, maybe told twice
		told := w.when(dateOf("2026-01-01"), dateOf("2026-03-20"), 5)
		terms := madeTerms{spell{told, nil}, s.start, s.end}
		if w.chance(40) {
			next := w.when(date(told.Unix()/86400)+1, date(told.Unix()/86400)+20, 5)
			former := terms
			former.until = &next
			switch {
			case w.chance(40):
				former.end = ptrTo(w.between(begin+5, over+30).at(0))
			case w.chance(40) && s.start != nil:
				former.start = ptrTo(s.start.AddDate(0, 0, -[]int{1, 30, 59, 60, 61, 365}[w.r.IntN(6)]))
			default:
				former.start = nil
			}
			s.terms, terms.from = append(s.terms, former), next
		}
		s.terms = append(s.terms, terms)
	}
	names := []string{"Extreme", "Premium", "DII Extreme", "Mystery"}
	w.r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names[:1+w.r.IntN(2)] {
		class := map[string]string{"Extreme": "base", "Premium": "base", "DII Extreme": "add_on", "Mystery": "unclassified"}[name]
		instances := 1 + w.r.IntN(6)/5
		metered := !w.chance(8)
		for ordinal := range instances {
			l := &madeLevel{key: w.key(), name: name, class: class, ordinal: ordinal, days: map[date][]madeDay{}, pruned: w.chance(10)}
			s.levels = append(s.levels, l)
			w.makeContracts(l, !metered)
			if metered && !(ordinal > 0 && w.chance(20)) {
				from := begin
				if w.chance(25) {
					from = w.between(begin, begin+9) // later than the subscription
				}
				w.makeDays(t, l, from, last)
			}
			w.decide(t, s, l, begin, over)
		}
	}
	w.makeCalendar(t, s)
	for w.chance(12) {
		q := madeRefusal{customer: t.customer, first: w.between(begin, over), hasAny: true}
		q.from = w.when(q.first+1, q.first+10, 3)
		if w.chance(50) {
			q.until = ptrTo(w.when(q.first+11, q.first+40, 3))
		}
		q.last, q.hasDay = q.first, w.chance(60)
		if !q.hasDay {
			q.last += date(w.r.IntN(4))
		}
		if w.chance(70) {
			q.number = &s.number
			if w.chance(70) {
				q.level = &s.levels[0].name
			}
		}
		w.refusals, w.refused[t.customer] = append(w.refusals, q), append(w.refused[t.customer], q)
	}
}

func (w *world) makeContracts(l *madeLevel, always bool) {
	if !always && w.chance(50) {
		return
	}
	from := w.when(dateOf("2025-12-20"), dateOf("2026-02-20"), w.r.IntN(24))
	for {
		c := madeContract{spell{from, nil}, figure{int64(w.r.IntN(40000)), 2}, nil}
		if w.chance(60) {
			if w.chance(20) {
				c.absent = ptrTo(w.when(date(from.Unix()/86400)+1, date(from.Unix()/86400)+60, 4))
			}
			l.contracts = append(l.contracts, c)
			return
		}
		from = w.when(date(from.Unix()/86400)+1, date(from.Unix()/86400)+30, 6)
		c.until = ptrTo(from)
		l.contracts = append(l.contracts, c)
	}
}

func (w *world) makeDays(t *madeTenant, l *madeLevel, from, last date) {
	committed := figure{int64(w.r.IntN(30000)), 2}
	gaps, tells := w.r.IntN(3)*4, w.chance(85)
	total := figure{0, 6}
	perDay := 1 + w.r.IntN(3)
	for d := from; d <= last; d++ {
		if d.at(0).Day() == 1 {
			total.n = 0
		}
		if w.chance(gaps) && d > from {
			continue
		}
		version := func() madeDay {
			var v madeDay
			for i := range perDay {
				if w.chance(2) {
					committed = figure{int64(w.r.IntN(30000)), 2}
				}
				s := madeSample{at: d.at(0).Add(time.Duration(i) * 24 * time.Hour / time.Duration(perDay)).Add(7 * time.Minute), committed: committed,
					consumed: figure{committed.n*10000 + int64(w.r.IntN(60_000_000)) - 20_000_000, 6}}
				if tells && !w.chance(1) {
					if w.readings[t.account+"/"+d.month()] == "running" {
						total.n += int64(w.r.IntN(700_000))
						s.accrued = ptrTo(total)
					} else {
						s.accrued = ptrTo(figure{int64(w.r.IntN(700_000)) - 1000, 6})
					}
				}
				v.samples = append(v.samples, s)
			}
			v.partial = w.chance(1)
			return v
		}
		v := version()
		v.from = (d + 1).at(3)
		if w.chance(5) { // late
			v.from = v.from.Add(time.Duration(w.r.IntN(30)) * 24 * time.Hour)
		}
		for w.chance(6) { // restated
			next := w.when(date(v.from.Unix()/86400)+1, date(v.from.Unix()/86400)+20, 3)
			if next.After(w.now) {
				break
			}
			v.until = &next
			l.days[d] = append(l.days[d], v)
			v = version()
			v.from = next
		}
		if v.from.After(w.now) {
			v.from = w.now
		}
		if w.chance(2) {
			v.absent = ptrTo(w.when(date(v.from.Unix()/86400)+1, date(v.from.Unix()/86400)+10, 3))
			if v.absent.After(w.now) {
				v.absent = &w.now
			}
		}
		l.days[d] = append(l.days[d], v)
	}
}

func (w *world) decide(t *madeTenant, s *madeSubscription, l *madeLevel, begin, over date) {
	day := begin
	for w.chance(25) {
		a := madeAbsence{first: day + date(w.r.IntN(20)), decision: []string{"keep", "drop"}[w.r.IntN(2)]}
		a.level = fmt.Sprintf("%s/%s/%s/%s/%d", t.customer, s.number, s.disc, l.name, l.ordinal)
		a.last = a.first + date(w.r.IntN(40))
		a.from = w.when(begin+20, over-5, 9)
		if w.chance(20) {
			a.until = ptrTo(w.when(date(a.from.Unix()/86400)+1, date(a.from.Unix()/86400)+5, 9))
		}
		w.absences, w.instances[a.level] = append(w.absences, a), append(w.instances[a.level], a)
		day = a.last + 1
	}
}

func (w *world) makeCalendar(t *madeTenant, s *madeSubscription) {
	name := t.customer + "/" + s.number
	if w.periods[name] != nil || w.chance(40) {
		return
	}
	for _, clock := range []string{"committed", "burst"} {
		if w.chance(25) {
			continue
		}
		// What was imported first is replaced later by something else.
		known := spell{dateOf("2026-01-02").at(0), nil}
		if w.chance(30) {
			changed := w.when(dateOf("2026-02-01"), dateOf("2026-04-01"), 8)
			w.tile(name, clock, spell{known.from, &changed})
			known.from = changed
		}
		w.tile(name, clock, known)
	}
}

// tile makes periods of any length, one after the other.
func (w *world) tile(name, clock string, known spell) {
	start := w.between(dateOf("2025-12-15"), dateOf("2026-02-10"))
	for range 1 + w.r.IntN(5) {
		end := start + date([]int{9, 27, 29, 30, 60, 90}[w.r.IntN(6)])
		w.periods[name] = append(w.periods[name], madePeriod{known, clock, start, end})
		start = end + 1
	}
}

func (w *world) makeRates() {
	currencies := []string{"EUR", "JPY", "KWD", "COP"}
	for _, charge := range []string{"committed", "burst", "waiver"} {
		for _, item := range []string{"", "Extreme", "Mystery", "Premium"} {
			for _, account := range []string{"", "a1"} {
				if item == "Premium" && account == "" || w.chance(15) {
					continue
				}
				w.price(madeRate{account: account, item: item, charge: charge}, currencies)
			}
		}
	}
	for _, t := range w.tenants {
		for w.chance(30) {
			r := madeRate{customer: t.customer, charge: []string{"committed", "burst", "waiver"}[w.r.IntN(3)]}
			if w.chance(40) {
				r.number = t.subs[0].number
			}
			if w.chance(40) {
				r.item = t.subs[0].levels[0].name
			}
			if w.chance(20) {
				r.account = t.account
			}
			if !slices.ContainsFunc(w.rates, func(o madeRate) bool {
				return o.customer == r.customer && o.charge == strings.Replace(r.charge, "waiver", "burst", 1) && o.waiver == (r.charge == "waiver") &&
					o.number == r.number && o.item == r.item && o.account == r.account
			}) {
				w.price(r, currencies)
			}
		}
	}
}

// price makes the prices of one key: some days each, and a correction that we learned of later.
func (w *world) price(r madeRate, currencies []string) {
	r.waiver = r.charge == "waiver"
	r.charge = strings.Replace(r.charge, "waiver", "burst", 1)
	from := w.between(dateOf("2025-12-01"), dateOf("2026-02-20"))
	for {
		r.from, r.to = from, nil
		r.price, r.cur = figure{int64(w.r.IntN(1_000_000)), int32(w.r.IntN(7))}, currencies[w.r.IntN(len(currencies))]
		open := w.chance(50)
		if !open {
			r.to = ptrTo(from + date(w.r.IntN(50)))
			from = *r.to + 1 + date(w.r.IntN(2)*w.r.IntN(10))
		}
		r.spell = spell{dateOf("2026-01-02").at(1), nil}
		if w.chance(15) {
			changed := w.when(dateOf("2026-02-01"), dateOf("2026-04-05"), 2)
			former := r
			former.price.n += 7
			former.until, former.id = &changed, int64(len(w.rates)+1)
			w.rates = append(w.rates, former)
			r.from, r.to = from, nil
			r.from = former.from
			r.to = former.to
			r.spell = spell{changed, nil}
		}
		r.id = int64(len(w.rates) + 1)
		w.rates = append(w.rates, r)
		if open {
			return
		}
		if from > dateOf("2026-05-01") {
			return
		}
	}
}

// store writes the world as the loader and the imports would have left it.
func (w *world) store(t *testing.T, o *office) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, o.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	copyTo := func(schema, table, columns string, rows [][]any) {
		t.Helper()
		if _, err := conn.CopyFrom(ctx, pgx.Identifier{schema, table}, strings.Split(columns, " "), pgx.CopyFromRows(rows)); err != nil {
			t.Fatalf("%s: %v", table, err)
		}
	}
	for _, month := range []string{"2026-01", "2026-02", "2026-03", "2026-04"} {
		first := dateOf(month + "-01")
		o.exec(fmt.Sprintf(`create table dw.fact_consumption_sample_%s partition of dw.fact_consumption_sample for values from ('%s') to ('%s')`,
			strings.ReplaceAll(month, "-", "_"), first, first+date(first.daysInMonth())))
	}
	o.exec(`insert into ops.run (run_id, source, dataset, scope, account, status, owner, fence, business_at, started_at, finished_at)
		overriding system value values (1, 'keystone', 'keystone.history', 'C', 'a', 'ok', 'test', 1, now(), now(), now())`)
	o.exec(`update ops.clock set fixed_at = $1`, w.now)
	var customers, marks, subs, terms, levels, contracts, samples, days, former, periods, absences, refusals, rates [][]any
	for _, c := range w.tenants {
		customers = append(customers, []any{c.key, c.customer, c.account, w.horizon.at(0), w.horizon.at(0)})
		marks = append(marks, []any{"keystone", "keystone.history", c.customer, c.account, w.horizon.at(0), settle})
		for _, s := range c.subs {
			subs = append(subs, []any{s.key, c.key, s.number, s.disc, s.start, s.end, w.horizon.at(0)})
			for _, v := range s.terms {
				terms = append(terms, []any{c.key, s.key, v.from, v.until, v.start, v.end, 1})
			}
			for _, l := range s.levels {
				levels = append(levels, []any{l.key, c.key, s.key, l.name, l.ordinal, l.class})
				for _, v := range l.contracts {
					contracts = append(contracts, []any{c.key, l.key, v.from, v.until, v.committed.numeric(), 1, v.absent})
				}
				for d, versions := range l.days {
					for i, v := range versions {
						row := append([]any{c.key, l.key, d.at(0)}, v.figures()...)
						digest := []byte{1}
						if v.partial {
							digest = nil
						}
						if i < len(versions)-1 {
							former = append(former, append(row, digest, v.from, *v.until, "restated", 1, 1))
							continue
						}
						days = append(days, append(row, digest, v.from, v.absent, 0, 0, 1, 1))
						if l.pruned && d.month() == "2026-01" {
							continue
						}
						for _, s := range v.samples {
							var accrued any
							if s.accrued != nil {
								accrued = s.accrued.numeric()
							}
							samples = append(samples, []any{c.key, l.key, s.at, s.committed.numeric(), s.consumed.numeric(), accrued})
						}
					}
				}
			}
		}
	}
	for name, all := range w.periods {
		customer, number, _ := strings.Cut(name, "/")
		for _, p := range all {
			periods = append(periods, []any{customer, number, p.clock, p.start.at(0), p.end.at(0), "monthly", "test", p.from, p.until})
		}
	}
	for _, a := range w.absences {
		k := strings.Split(a.level, "/")
		ordinal, _ := strconv.Atoi(k[4])
		absences = append(absences, []any{k[0], k[1], k[2], k[3], ordinal, a.first.at(0), a.last.at(0), a.decision, "test", a.from, a.until})
	}
	for i, q := range w.refusals {
		var day, from, until, resolution any
		if q.hasDay {
			day = q.first.at(0)
		} else {
			from, until = q.first.at(0), (q.last + 1).at(0)
		}
		if q.until != nil {
			resolution = "test"
		}
		refusals = append(refusals, []any{1, "keystone", "keystone.history", q.customer, from, until, "/", "test", "", q.number, q.level, day,
			[]byte(strconv.Itoa(i)), q.from, q.until, resolution})
	}
	for _, r := range w.rates {
		var to any
		if r.to != nil {
			to = r.to.at(0)
		}
		rates = append(rates, []any{r.id, "keystone", r.account, r.customer, r.number, r.item, r.charge, r.waiver, r.price.numeric(), r.cur, r.from.at(0), to, "test", r.from0(), r.until})
	}
	copyTo("dw", "dim_customer", "customer_key customer_id account first_seen_at seen_at", customers)
	copyTo("ops", "watermark", "source dataset scope account expected_from settle", marks)
	copyTo("dw", "dim_subscription", "subscription_key customer_key subscription_number discriminator start_at end_at first_seen_at", subs)
	copyTo("dw", "fact_subscription", "customer_key subscription_key valid_from valid_to start_at end_at run_id", terms)
	copyTo("dw", "dim_service_level", "service_level_key customer_key subscription_key service_level level_ordinal level_class", levels)
	copyTo("dw", "fact_commitment", "customer_key service_level_key valid_from valid_to committed_tib run_id absent_since", contracts)
	copyTo("dw", "fact_consumption_sample", "customer_key service_level_key sampled_at committed_tib consumed_tib accrued_burst_tib", samples)
	const figures = "customer_key service_level_key usage_date sample_count step_seconds committed_tib consumed_avg_tib consumed_max_tib consumed_last_tib " +
		"over_committed_avg_tib accrued_sum_tib accrued_last_tib digest "
	copyTo("dw", "fact_daily_consumption", figures+"known_since absent_since invoiced_samples uninvoiced_samples payload_id run_id", days)
	copyTo("dw", "restatement", figures+"known_from known_until kind payload_id run_id", former)
	copyTo("billing", "period", "customer_id subscription_number clock period_start period_end schedule source known_since superseded_at", periods)
	copyTo("billing", "absence", "customer_id subscription_number discriminator service_level level_ordinal first_day last_day decision reason known_since superseded_at", absences)
	copyTo("ops", "quarantine", "run_id source dataset scope window_from window_until path reason excerpt subscription_number service_level day fingerprint quarantined_at resolved_at resolution", refusals)
	copyTo("billing", "rate", "rate_id vendor account customer_id subscription_number item charge is_waiver unit_price currency valid_from valid_to source known_since superseded_at", rates)
	for k := range w.readings {
		account, month, _ := strings.Cut(k, "/")
		o.exec(`insert into dw.accrued_reading (account, month, reading, decided_by, reason) values ($1, $2, 'running', 'test', 'made up')`, account, dateOf(month+"-01").at(0))
	}
	o.exec(`analyze`)
	t.Logf("%d tenants, %d levels, %d days, %d former versions, %d samples, %d rates, %d periods, %d absences, %d refusals",
		len(customers), len(levels), len(days), len(former), len(samples), len(rates), len(periods), len(absences), len(refusals))
}

func (r madeRate) from0() time.Time { return r.spell.from }

// figures are the columns of a daily row, by their comments.
func (d madeDay) figures() []any {
	n := int64(len(d.samples))
	last := d.samples[n-1]
	var step any
	if n > 1 {
		step = int32(d.samples[1].at.Sub(d.samples[0].at) / time.Second)
	}
	most := last.consumed
	sum := new(big.Rat)
	for _, s := range d.samples {
		sum.Add(sum, s.consumed.rat())
		if s.consumed.rat().Cmp(most.rat()) > 0 {
			most = s.consumed
		}
	}
	mean := new(big.Rat).Quo(sum, big.NewRat(n, 1))
	twelve := func(r *big.Rat) pgtype.Numeric { return pgtype.Numeric{Int: rounded(r, 12), Exp: -12, Valid: true} }
	var increments, total any
	if r, ok := d.increments(); ok {
		increments = pgtype.Numeric{Int: rounded(r, 6), Exp: -6, Valid: true}
	}
	if last.accrued != nil {
		total = last.accrued.numeric()
	}
	return []any{int32(n), step, last.committed.numeric(), twelve(mean), most.numeric(), last.consumed.numeric(), twelve(d.overMean()), increments, total}
}

func (d madeDay) increments() (*big.Rat, bool) {
	sum := new(big.Rat)
	for _, s := range d.samples {
		if s.accrued == nil {
			return nil, false
		}
		sum.Add(sum, s.accrued.rat())
	}
	return sum, true
}

// over is what was above the commitment, summed over the samples.
func (d madeDay) over() *big.Rat {
	sum := new(big.Rat)
	for _, s := range d.samples {
		if diff := new(big.Rat).Sub(s.consumed.rat(), s.committed.rat()); diff.Sign() > 0 {
			sum.Add(sum, diff)
		}
	}
	return sum
}

func (d madeDay) overMean() *big.Rat {
	return new(big.Rat).Quo(d.over(), big.NewRat(int64(len(d.samples)), 1))
}

// known is the version of a day that was known then; nil when none was.
func (l *madeLevel) known(d date, asOf *time.Time) *madeDay {
	for i, v := range l.days[d] {
		if v.holds(asOf) {
			return &l.days[d][i]
		}
	}
	return nil
}

// observed are the first and last days that were known then.
func (l *madeLevel) observed(asOf *time.Time) (first, last date, ok bool) {
	for d := range l.days {
		if l.known(d, asOf) == nil {
			continue
		}
		if !ok || d < first {
			first = d
		}
		if !ok || d > last {
			last = d
		}
		ok = true
	}
	return first, last, ok
}

// accrued is the burst of a day by the reading of its account and month.
func (w *world) accrued(account string, l *madeLevel, d date, asOf *time.Time) *big.Rat {
	v := l.known(d, asOf)
	if v == nil {
		return nil
	}
	if w.readings[account+"/"+d.month()] != "running" {
		r, _ := v.increments()
		return r
	}
	last := v.samples[len(v.samples)-1].accrued
	if last == nil {
		return nil
	}
	for before := d - 1; before.month() == d.month(); before-- {
		if p := l.known(before, asOf); p != nil && p.samples[len(p.samples)-1].accrued != nil {
			return new(big.Rat).Sub(last.rat(), p.samples[len(p.samples)-1].accrued.rat())
		}
	}
	return last.rat()
}

// commitment is what was committed on a day without figures, as far as known.
func (l *madeLevel) commitment(d date, asOf *time.Time, horizon date) *big.Rat {
	for before := d - 1; before >= horizon; before-- {
		if v := l.known(before, asOf); v != nil {
			return v.samples[len(v.samples)-1].committed.rat()
		}
	}
	var told *madeContract
	for i, c := range l.contracts {
		if c.from.Before((d + 1).at(0)) && (asOf == nil || !c.from.After(*asOf)) {
			told = &l.contracts[i]
		}
	}
	if told == nil {
		return nil
	}
	return told.committed.rat()
}

func (s *madeSubscription) termsThen(asOf *time.Time) (start, end *time.Time) {
	for _, v := range s.terms {
		if v.holds(asOf) {
			return v.start, v.end
		}
	}
	return s.start, s.end
}

func dateAt(t *time.Time) date { return date(t.Unix() / 86400) }

// began is the day on which a subscription began to be used or was to be: a start that lies 60 days or more after
// its use began, or after a start told before, is that of a renewal.
func (s *madeSubscription) began(asOf *time.Time) *date {
	start, _ := s.termsThen(asOf)
	var toldFirst, usedFirst *date
	for _, v := range s.terms {
		if v.start != nil && (asOf == nil || !v.from.After(*asOf)) && (toldFirst == nil || dateAt(v.start) < *toldFirst) {
			toldFirst = ptrTo(dateAt(v.start))
		}
	}
	for _, l := range s.levels {
		if first, _, seen := l.observed(asOf); seen && (usedFirst == nil || first < *usedFirst) {
			usedFirst = &first
		}
	}
	if start == nil {
		return toldFirst
	}
	told := dateAt(start)
	if usedFirst == nil || *usedFirst >= told {
		return &told
	}
	before := *usedFirst
	if toldFirst != nil && *toldFirst < before {
		before = *toldFirst
	}
	if told-before >= 60 {
		return &before
	}
	return &told
}

// waivedBefore is the first day whose burst is charged.
func (t *madeTenant) waivedBefore(s *madeSubscription, asOf *time.Time) *date {
	began := s.began(asOf)
	if began == nil {
		return nil
	}
	from := *began
	for _, other := range t.subs {
		_, end := other.termsThen(asOf)
		if b := other.began(asOf); other != s && other.number == s.number && b != nil && *b < *began && end != nil && dateAt(end)-*began >= -2 && dateAt(end)-*began <= 1 {
			from = min(from, *t.waivedBefore(other, asOf)-60)
		}
	}
	return ptrTo(from + 60)
}

// expected are the days on which a level should have figures.
func (w *world) expected(s *madeSubscription, l *madeLevel, asOf *time.Time) (first, last date, ok bool) {
	_, end := s.termsThen(asOf)
	start := s.began(asOf)
	subscriptionFirst, metered := date(0), false
	for _, other := range s.levels {
		if f, _, seen := other.observed(asOf); seen {
			if subscriptionFirst == 0 || f < subscriptionFirst {
				subscriptionFirst = f
			}
			metered = metered || other.name == l.name
		}
	}
	const forever = date(1 << 30)
	last = forever
	if end != nil {
		last = dateAt(end)
	}
	if f, latest, seen := l.observed(asOf); seen {
		if f == subscriptionFirst && start != nil {
			f = min(f, max(*start, w.horizon))
		}
		return f, max(last, latest), true
	}
	if metered {
		return 0, 0, false
	}
	for _, c := range l.contracts {
		if asOf != nil && c.from.After(*asOf) {
			continue
		}
		if !ok {
			first, ok = dateAt(&c.from), true
			if start != nil {
				first = max(*start, w.horizon)
			}
		}
		if c.until == nil && c.absent != nil && (asOf == nil || !c.absent.After(*asOf)) {
			last = min(last, dateAt(c.absent))
		}
	}
	return first, last, ok
}

type lineKey struct {
	customer, account, number, disc, item, charge string
	waiver                                        bool
	start, end                                    date
	rate                                          int64
}

type wantLine struct {
	scaled              *big.Rat // quantity
	expected, estimated map[date]bool
	notObserved         map[date]bool
	provisional         bool
	from, to            date
	isDue               bool
}

// spans are the billing periods of a clock that end in a month.
func (w *world) spans(name, clock, month string, asOf *time.Time) [][2]date {
	var spans [][2]date
	covered := map[date]bool{}
	for _, p := range w.periods[name] {
		if p.clock != clock || !p.holds(asOf) {
			continue
		}
		if p.end.month() == month {
			spans = append(spans, [2]date{p.start, p.end})
		}
		for d := p.start; d <= p.end; d++ {
			covered[d] = true
		}
	}
	first := dateOf(month + "-01")
	for d := first; d.month() == month; d++ {
		if covered[d] {
			continue
		}
		from := d
		for d+1 < first+date(first.daysInMonth()) && !covered[d+1] {
			d++
		}
		spans = append(spans, [2]date{from, d})
	}
	return spans
}

func (w *world) rate(k lineKey, class string, d date, asOf *time.Time, byKey map[string][]madeRate) *madeRate {
	var best *madeRate
	bestScore := -1
	for _, customer := range []string{k.customer, ""} {
		for i, r := range byKey[customer] {
			if !r.holds(asOf) || r.charge != k.charge || r.waiver != k.waiver || d < r.from || r.to != nil && d > *r.to {
				continue
			}
			if r.account != "" && r.account != k.account || r.number != "" && r.number != k.number || r.item != "" && r.item != k.item {
				continue
			}
			if r.item == "" && class == "unclassified" {
				continue
			}
			score := 0
			for n, given := range []string{r.account, r.customer, r.item, r.number} {
				if given != "" {
					score += 1 << n
				}
			}
			if score > bestScore {
				best, bestScore = &byKey[customer][i], score
			}
		}
	}
	return best
}

// statement is the month as it should be, one line of text each.
func (w *world) statement(month string, asOf *time.Time) []string {
	now := w.now
	if asOf != nil && asOf.Before(now) {
		now = *asOf
	}
	byCustomer := map[string][]madeRate{}
	for _, r := range w.rates {
		byCustomer[r.customer] = append(byCustomer[r.customer], r)
	}
	lines := map[lineKey]*wantLine{}
	for _, c := range w.tenants {
		for _, s := range c.subs {
			waived := c.waivedBefore(s, asOf)
			type extent struct {
				first, last date
				ok          bool
			}
			var extents []extent
			for _, l := range s.levels {
				first, last, ok := w.expected(s, l, asOf)
				extents = append(extents, extent{first, last, ok})
			}
			for _, charge := range []string{"committed", "burst"} {
				for _, span := range w.spans(c.customer+"/"+s.number, charge, month, asOf) {
					for i, l := range s.levels {
						if !extents[i].ok {
							continue
						}
						for d := max(extents[i].first, span[0]); d <= min(extents[i].last, span[1]); d++ {
							w.countDay(lines, c, s, l, charge, span, d, waived, now, asOf, byCustomer)
						}
					}
				}
			}
		}
	}
	prices := map[int64]madeRate{}
	for _, r := range w.rates {
		prices[r.id] = r
	}
	var texts []string
	for k, l := range lines {
		if !l.isDue {
			continue
		}
		amount, currency := "?", "?"
		if r, priced := prices[k.rate]; priced && l.scaled != nil {
			decimals := map[string]int{"JPY": 0, "KWD": 3}
			places, odd := decimals[r.cur]
			if !odd {
				places = 2
			}
			amount, currency = written(new(big.Rat).Mul(l.scaled, r.price.rat()), places, false), r.cur
		}
		state := "final"
		if l.provisional || now.Before((k.end + 1).at(0).Add(settle)) {
			state = "provisional"
		}
		observed, expected := 0, 0
		for d := range l.expected {
			expected++
			if !l.notObserved[d] {
				observed++
			}
		}
		texts = append(texts, strings.Join([]string{k.customer, k.account, k.number, k.disc, k.item, k.charge, strconv.FormatBool(k.waiver), k.start.String(), k.end.String(),
			strconv.FormatInt(k.rate, 10), written(l.scaled, 12, true), amount, currency, state,
			strconv.Itoa(expected), strconv.Itoa(observed), strconv.Itoa(len(l.estimated)), l.from.String(), l.to.String()}, "|"))
	}
	slices.Sort(texts)
	return texts
}

func (w *world) countDay(lines map[lineKey]*wantLine, c *madeTenant, s *madeSubscription, l *madeLevel, charge string, span [2]date, d date,
	waived *date, now time.Time, asOf *time.Time, byCustomer map[string][]madeRate) {
	k := lineKey{customer: c.customer, account: c.account, number: s.number, disc: s.disc, item: l.name, charge: charge, start: span[0], end: span[1]}
	k.waiver = charge == "burst" && waived != nil && d < *waived
	if r := w.rate(k, l.class, d, asOf, byCustomer); r != nil {
		k.rate = r.id
	}
	line := lines[k]
	if line == nil {
		line = &wantLine{expected: map[date]bool{}, estimated: map[date]bool{}, notObserved: map[date]bool{}, from: d, to: d}
		lines[k] = line
	}
	line.from, line.to = min(line.from, d), max(line.to, d)
	add := func(r *big.Rat) {
		if line.scaled == nil {
			line.scaled = new(big.Rat)
		}
		if charge == "committed" {
			r = new(big.Rat).Quo(r, big.NewRat(monthlyDays(span, d), 1))
		}
		line.scaled.Add(line.scaled, r)
	}
	v := l.known(d, asOf)
	gone := v != nil && v.absent != nil && (asOf == nil || !v.absent.After(*asOf))
	decision := ""
	for _, a := range w.instances[fmt.Sprintf("%s/%s/%s/%s/%d", c.customer, s.number, s.disc, l.name, l.ordinal)] {
		if a.holds(asOf) && a.first <= d && d <= a.last {
			decision = a.decision
		}
	}
	refused := false
	for _, q := range w.refused[c.customer] {
		refused = refused || q.holds(asOf) && q.first <= d && d <= q.last &&
			(q.number == nil || *q.number == s.number) && (q.level == nil || *q.level == l.name)
	}
	if decision == "drop" && (gone || v == nil) {
		line.isDue = true
		add(new(big.Rat))
		return
	}
	line.expected[d] = true
	switch {
	case v == nil && now.Before((d + 1).at(0).Add(settle)):
		line.provisional, line.notObserved[d] = true, true
		return
	case v == nil && charge == "committed" && l.commitment(d, asOf, w.horizon) != nil:
		add(l.commitment(d, asOf, w.horizon))
		line.estimated[d], line.notObserved[d], line.provisional = true, true, true
	case v == nil, charge == "burst" && w.accrued(c.account, l, d, asOf) == nil:
		line.notObserved[d], line.provisional = true, true
	case charge == "committed":
		add(v.samples[len(v.samples)-1].committed.rat())
	default:
		add(w.accrued(c.account, l, d, asOf))
	}
	line.isDue = true
	if v != nil && (gone && decision != "keep" || v.partial || refused) {
		line.provisional = true
	}
}

func TestStatementOfManyTenants(t *testing.T) {
	tenants, seed := 1000, uint64(20261122)
	if testing.Short() {
		tenants = 150
	}
	if text := os.Getenv("METERHOUSE_TENANTS"); text != "" {
		var err error
		if tenants, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
		seed = rand.Uint64()
		t.Logf("seed %d", seed)
	}
	o := newOffice(t)
	w := makeWorld(seed, tenants)
	o.now = w.now
	w.store(t, o)

	const lines = `select concat_ws('|', customer_id, account, subscription_number, discriminator, item, charge, is_waiver::text, period_start, period_end,
			coalesce(rate_id, 0), coalesce(quantity::text, '?'), coalesce(amount::text, '?'), coalesce(currency, '?'), state,
			days_expected, days_observed, days_estimated, segment_from, segment_to)
		from billing.statement($1, $2::timestamptz)`
	seen := map[string]int{}
	for _, c := range []struct{ month, asOf string }{
		{"2026-01", ""}, {"2026-02", ""}, {"2026-03", ""}, {"2026-04", ""}, {"2026-05", ""},
		{"2026-02", "2026-02-17T10:00:00Z"}, {"2026-02", "2026-03-09T10:00:00Z"}, {"2026-03", "2026-03-31T23:30:00Z"},
		{"2026-01", "2026-02-17T10:00:00Z"}, {"2026-03", "2026-04-01T01:59:59.999999Z"}, {"2026-03", "2026-04-01T02:00:00Z"},
	} {
		var asOf *time.Time
		then := "infinity"
		if c.asOf != "" {
			asOf, then = ptrTo(at(c.asOf)), c.asOf
		}
		want, got := w.statement(c.month, asOf), o.rows(lines, c.month, then)
		compare(t, "statement of "+c.month+" as of "+then, want, got)
		for _, line := range want {
			f := strings.Split(line, "|")
			seen[f[13]]++
			seen[f[12]]++
			seen["waiver "+f[6]]++
			seen["estimated "+strconv.FormatBool(f[16] != "0")]++
			seen["disc "+f[3]]++
		}
	}
	// A generator that does not make them proves nothing about them.
	for _, what := range []string{"final", "provisional", "EUR", "JPY", "KWD", "?", "waiver true", "estimated true", "disc 2026-02-01"} {
		if seen[what] < 20 {
			t.Errorf("%q was met %d times: want tenants that have it", what, seen[what])
		}
	}
	t.Logf("met: %v", slices.Sorted(maps.Keys(seen)))

	const recomputed = `select concat_ws('|', customer_id, subscription_number, discriminator, service_level, level_ordinal,
			coalesce(vendor_tib::text, '?'), recomputed_tib, coalesce(within_tolerance::text, '?'), days_observed, days_from_samples)
		from billing.recomputed_burst($1::text::date, $2::timestamptz)`
	for _, c := range []struct{ month, asOf string }{{"2026-01", ""}, {"2026-02", ""}, {"2026-03", ""}, {"2026-02", "2026-03-09T10:00:00Z"}} {
		var asOf *time.Time
		then := "infinity"
		if c.asOf != "" {
			asOf, then = ptrTo(at(c.asOf)), c.asOf
		}
		compare(t, "recomputed burst of "+c.month+" as of "+then, w.recomputed(c.month, asOf), o.rows(recomputed, c.month+"-01", then))
	}

	// What the command adds up is the sum of the lines, to the last digit.
	for _, month := range []string{"2026-02", "2026-03"} {
		period, err := ParsePeriod(month)
		if err != nil {
			t.Fatal(err)
		}
		s, err := o.Statement(t.Context(), period, time.Time{}, Selection{})
		if err != nil {
			t.Fatal(err)
		}
		sums := map[string]*big.Rat{}
		for _, line := range w.statement(month, nil) {
			f := strings.Split(line, "|")
			if f[11] == "?" {
				continue
			}
			if sums[f[12]] == nil {
				sums[f[12]] = new(big.Rat)
			}
			r, _ := new(big.Rat).SetString(f[11])
			sums[f[12]].Add(sums[f[12]], r)
		}
		if len(s.Totals()) != len(sums) || len(sums) < 3 {
			t.Errorf("%s: %d currencies, want %d, at least 3", month, len(s.Totals()), len(sums))
		}
		for _, total := range s.Totals() {
			if sums[total.Currency] == nil || total.Amount.Rat().Cmp(sums[total.Currency]) != 0 {
				t.Errorf("%s: total of %s: got %s, want %v", month, total.Currency, total.Amount, sums[total.Currency])
			}
		}
	}
}

// recomputed is the burst of a month by the documented formula: what was over, times the interval, over the
// minutes of the month.
func (w *world) recomputed(month string, asOf *time.Time) []string {
	var texts []string
	first := dateOf(month + "-01")
	for _, c := range w.tenants {
		for _, s := range c.subs {
			for _, l := range s.levels {
				total, vendor := new(big.Rat), new(big.Rat)
				days, fromSamples := 0, 0
				usual := map[time.Duration]int{}
				for d := first; d.month() == month; d++ {
					if v := l.known(d, asOf); v != nil && len(v.samples) > 1 {
						usual[v.samples[1].at.Sub(v.samples[0].at)]++
					}
				}
				for d := first; d.month() == month; d++ {
					v := l.known(d, asOf)
					if v == nil {
						continue
					}
					days++
					interval := 24 * time.Hour
					if len(v.samples) > 1 {
						interval = v.samples[1].at.Sub(v.samples[0].at)
					} else if len(usual) > 0 {
						panic("a level has as many samples each day here")
					}
					current := v.until == nil
					over := v.over()
					if current && !(l.pruned && month == "2026-01") {
						fromSamples++
					} else { // from the daily row, whose mean is rounded
						mean := new(big.Rat).SetFrac(rounded(v.overMean(), 12), big.NewInt(1_000_000_000_000))
						over = mean.Mul(mean, big.NewRat(int64(len(v.samples)), 1))
					}
					total.Add(total, over.Mul(over, big.NewRat(int64(interval/time.Second), 60)))
					if a := w.accruedFigure(c.account, v, month); a == nil || vendor == nil {
						vendor = nil
					} else if w.readings[c.account+"/"+month] == "running" {
						vendor = a
					} else {
						vendor.Add(vendor, a)
					}
				}
				if days == 0 {
					continue
				}
				total.Quo(total, big.NewRat(first.daysInMonth()*24*60, 1))
				within, said := "?", "?"
				if vendor != nil {
					own := new(big.Rat).SetFrac(rounded(total, 12), big.NewInt(1_000_000_000_000))
					diff := own.Sub(vendor, own)
					within, said = strconv.FormatBool(diff.Abs(diff).Cmp(big.NewRat(1, 100)) <= 0), written(vendor, 6, true)
				}
				texts = append(texts, strings.Join([]string{c.customer, s.number, s.disc, l.name, strconv.Itoa(l.ordinal), said, written(total, 12, true), within,
					strconv.Itoa(days), strconv.Itoa(fromSamples)}, "|"))
			}
		}
	}
	slices.Sort(texts)
	return texts
}

// accruedFigure is the vendor's of a day: its increments, or its last total.
func (w *world) accruedFigure(account string, v *madeDay, month string) *big.Rat {
	if w.readings[account+"/"+month] == "running" {
		if a := v.samples[len(v.samples)-1].accrued; a != nil {
			return a.rat()
		}
		return nil
	}
	r, _ := v.increments()
	return r
}

// compare reports the first differences.
func compare(t *testing.T, what string, want, got []string) {
	t.Helper()
	if len(want) == 0 && !strings.Contains(what, "2026-05") {
		t.Errorf("%s: nothing is expected, so nothing is proved", what)
	}
	in := func(list []string) map[string]bool {
		m := map[string]bool{}
		for _, line := range list {
			m[line] = true
		}
		return m
	}
	wanted, gotten := in(want), in(got)
	shown := 0
	for _, line := range want {
		if !gotten[line] {
			if shown++; shown <= 4 {
				prefix := strings.Join(strings.Split(line, "|")[:6], "|")
				var near []string
				for _, other := range got {
					if strings.HasPrefix(other, prefix) {
						near = append(near, other)
					}
				}
				t.Errorf("%s:\n want %s\n  got %s", what, line, strings.Join(near, "\n      "))
			}
		}
	}
	extra := 0
	for _, line := range got {
		if !wanted[line] {
			if extra++; extra <= 3 {
				t.Errorf("%s:\n got unexpected %s", what, line)
			}
		}
	}
	if shown+extra > 0 || len(want) != len(got) {
		t.Errorf("%s: %d lines are missing, %d unexpected; %d wanted, %d got", what, shown, extra, len(want), len(got))
	}
}
