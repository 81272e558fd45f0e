package warehouse_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
	"meterhouse/etl/internal/fetch"
	"meterhouse/etl/keystone"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/warehouse/warehousetest"
)

// A second opinion on the table of the design: made-up histories are told as JSON in any spelling, through Transform
// and Load, to the warehouse, and as values to a model that knows nothing of digests, batches and plans. After
// every answer both must hold the same samples, flags, days, absences, versions and their times.

// noStore is for an account that only transforms.
type noStore struct{ keystone.TokenStore }

// smp is a sample. Figures are tenths of a TiB; burst and accrued are -1 when unknown.
type smp struct {
	at                                  int64 // seconds since 1970
	committed, consumed, burst, accrued int
	flag                                int // is_invoiced: 0 unknown, 1 true, 2 false
}

// dayKey names a day of a series.
type dayKey struct {
	sub, lev string
	day      int
}

// toldDay is what an answer says of one: the samples in order, and whether another was refused.
type toldDay struct {
	good    []smp
	partial bool
}

// answer is what the vendor says of some days, as values and as JSON.
type answer struct {
	at            time.Time
	from, n       int                                    // its window, in days of the span
	subs          map[string]map[string]map[int]*toldDay // by number, level and day
	allPart       map[string]map[string]bool
	unsure        map[string]bool // levels of it may be missing
	orphan        bool
	body          string
	badRows, rows int
}

var spanFrom = time.Date(2026, 4, 28, 0, 0, 0, 0, time.UTC)

const spanDays = 6

func dayNo(d int) etl.Day { return etl.DayOf(spanFrom) + etl.Day(d) }

func spellNum(rt *rapid.T, tenths int) string {
	whole, frac := tenths/10, tenths%10
	plain := fmt.Sprintf("%d.%d", whole, frac)
	switch upTo(rt, 6, "num") {
	case 0:
		return `"` + plain + `"`
	case 1:
		return plain + "00"
	case 2:
		return fmt.Sprintf("%de-1", tenths)
	case 3:
		return `" ` + plain + `0 "`
	case 4:
		return fmt.Sprintf("%d.%dE+0", whole, frac)
	}
	return plain
}

func spellTime(rt *rapid.T, at int64) string {
	t := time.Unix(at, 0).UTC()
	switch upTo(rt, 6, "time") {
	case 0:
		return t.Format("2006-01-02 15:04:05Z")
	case 1:
		return t.Format("2006-01-02T15:04:05.000000Z")
	case 2:
		return t.In(time.FixedZone("", 2*3600)).Format("2006-01-02T15:04:05-07:00")
	case 3:
		return t.Format("2006-01-02T15:04:05")
	case 4:
		return t.In(time.FixedZone("", -5*3600)).Format("2006-01-02T15:04:05.0-07:00")
	}
	return t.Format(time.RFC3339)
}

func (s smp) spell(rt *rapid.T) string {
	parts := []string{
		`"timestamp_utc":"` + spellTime(rt, s.at) + `"`,
		`"committed_tib":` + spellNum(rt, s.committed), `"consumed_tib":` + spellNum(rt, s.consumed),
	}
	opt := func(name string, v int) {
		if v >= 0 {
			parts = append(parts, `"`+name+`":`+spellNum(rt, v))
			return
		}
		switch rapid.IntRange(0, 2).Draw(rt, "unknown") {
		case 0:
			parts = append(parts, `"`+name+`":null`)
		case 1:
			parts = append(parts, `"`+name+`":""`)
		}
	}
	opt("burst_tib", s.burst)
	opt("accrued_burst_tib", s.accrued)
	switch s.flag {
	case 0:
		if rapid.Bool().Draw(rt, "noflag") {
			parts = append(parts, `"is_invoiced":null`)
		}
	case 1:
		parts = append(parts, `"is_invoiced":`+rapid.SampledFrom([]string{"true", `"true"`}).Draw(rt, "f"))
	case 2:
		parts = append(parts, `"is_invoiced":`+rapid.SampledFrom([]string{"false", `"false"`}).Draw(rt, "f"))
	}
	if upTo(rt, 9, "extra") == 0 {
		parts = append(parts, `"x":{"y":[1]}`)
	}
	return "{" + strings.Join(rapid.Permutation(parts).Draw(rt, "members"), ",") + "}"
}

// upTo is even, unlike rapid's own numbers, which prefer small ones.
func upTo(rt *rapid.T, n int, what string) int {
	x := rapid.Uint64().Draw(rt, what) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return int((x ^ x>>31) % uint64(n+1))
}

// truth is what the vendor has: samples by series, day and hour.
type truth map[dayKey]map[int]smp

// drawWorld is a history of answers about a truth that moves. Levels with a # are instances of one name; they are told apart by
// what is committed, so that there is one right answer, and always have a sample.
func drawWorld(rt *rapid.T) []*answer {
	subs := []string{"A-1", "B-2"}[:rapid.IntRange(1, 2).Draw(rt, "subs")]
	levs := []string{"Extreme#1", "Extreme#2", "Value"}[:rapid.IntRange(1, 3).Draw(rt, "levs")]
	w := truth{}
	var all []*answer
	clock := time.Date(2026, 5, 10, 0, 0, 0, 0, time.UTC)
	n := rapid.IntRange(2, 8).Draw(rt, "answers")
	for range n {
		clock = clock.Add(time.Duration(rapid.SampledFrom([]int{20, 59, 61, 200, 1440}).Draw(rt, "minutes")) * time.Minute)
		for _, s := range subs {
			for _, l := range levs {
				for d := range spanDays {
					k := dayKey{s, l, d}
					if w[k] == nil {
						if !strings.Contains(l, "#") && upTo(rt, 3, "born") == 0 {
							continue
						}
						w[k] = map[int]smp{}
					}
					for h := range 3 {
						cur, has := w[k][h]
						switch x := upTo(rt, 19, "move"); {
						case !has && (x < 12 || h == 0 && strings.Contains(l, "#")):
							u := rapid.IntRange(990, 1010).Draw(rt, "u")
							c := 1000
							if l == "Extreme#2" {
								c, u = 500, u-500
							}
							w[k][h] = smp{at: spanFrom.AddDate(0, 0, d).Unix() + int64(h)*28800, committed: c, consumed: u, burst: max(0, u-c), accrued: rapid.IntRange(-1, 3).Draw(rt, "a"), flag: upTo(rt, 2, "flag")}
						case has && x == 0 && (h > 0 || !strings.Contains(l, "#")) && rapid.Bool().Draw(rt, "del"):
							delete(w[k], h)
						case has && x == 1:
							cur.consumed += 1
							w[k][h] = cur
						case has && x == 2:
							cur.burst = -1
							w[k][h] = cur
						case has && x < 6:
							cur.flag = upTo(rt, 2, "flag")
							w[k][h] = cur
						}
					}
				}
			}
		}
		a := &answer{at: clock, subs: map[string]map[string]map[int]*toldDay{}, allPart: map[string]map[string]bool{}, unsure: map[string]bool{}}
		a.from = rapid.IntRange(0, spanDays-1).Draw(rt, "from")
		a.n = rapid.IntRange(1, spanDays-a.from).Draw(rt, "n")
		if len(all) > 0 && upTo(rt, 2, "again") == 0 {
			old := *all[rapid.IntRange(0, len(all)-1).Draw(rt, "which")]
			old.at = clock
			all = append(all, &old)
			continue
		}
		a.render(rt, subs, levs, w)
		all = append(all, a)
	}
	return all
}

func (a *answer) render(rt *rapid.T, subs, levs []string, w truth) {
	rare := func(what string) bool { return upTo(rt, 60, what) == 0 }
	var records []string
	for _, s := range rapid.Permutation(subs).Draw(rt, "sub order") {
		if rare("no sub") {
			continue
		}
		if rare("bad number") {
			a.orphan = true
			a.badRows++
			a.rows++
			records = append(records, `{"subscription":{"account_name":"x","number":""},"service_levels":[]}`)
			continue
		}
		a.subs[s], a.allPart[s] = map[string]map[int]*toldDay{}, map[string]bool{}
		a.rows++
		var levels []string
		for _, l := range rapid.Permutation(levs).Draw(rt, "lev order") {
			if !strings.Contains(l, "#") && rare("no level") {
				continue
			}
			if !strings.Contains(l, "#") && rare("bad level") {
				a.unsure[s] = true
				a.rows++
				a.badRows++
				levels = append(levels, `{"name":null,"historical_consumption":[]}`)
				continue
			}
			a.rows++
			told := map[int]*toldDay{}
			a.subs[s][l] = told
			var rows []string
			for d := -1; d <= spanDays; d++ {
				in := d >= a.from && d < a.from+a.n
				near := d == a.from-1 || d == a.from+a.n
				if !in && !near {
					continue
				}
				for h := range 3 {
					x, ok := w[dayKey{s, l, d}][h]
					if !ok {
						continue
					}
					if near {
						if rare("neighbour") {
							rows = append(rows, x.spell(rt))
							a.rows++
						}
						continue
					}
					if told[d] == nil {
						told[d] = &toldDay{}
					}
					a.rows++
					kind := upTo(rt, 150, "row")
					if h == 0 && strings.Contains(l, "#") {
						kind = 9
					}
					switch kind {
					case 0: // refused
						told[d].partial = true
						a.badRows++
						rows = append(rows, strings.Replace(x.spell(rt), `"consumed_tib":`, `"consumed_tib":null,"was":`, 1))
					case 1: // cannot be dated
						a.allPart[s][l] = true
						a.badRows++
						rows = append(rows, strings.Replace(x.spell(rt), `"timestamp_utc":`, `"timestamp_utc":"2026-02-30T00:00:00Z","was":`, 1))
					case 2: // conflicting
						y := x
						y.consumed += 7
						rows = append(rows, x.spell(rt), y.spell(rt))
						told[d].partial = true
						a.rows++
						a.badRows += 2
					case 3: // twice
						y := x
						y.flag = upTo(rt, 2, "flag2")
						rows = append(rows, x.spell(rt), y.spell(rt))
						if y.flag != x.flag {
							x.flag = 0
						}
						a.rows++
						told[d].good = append(told[d].good, x)
					default:
						rows = append(rows, x.spell(rt))
						told[d].good = append(told[d].good, x)
					}
				}
			}
			rows = rapid.Permutation(rows).Draw(rt, "row order")
			levels = append(levels, `{"name":"`+plainName(l)+`","historical_consumption":[`+strings.Join(rows, ",")+`]}`)
		}
		records = append(records, `{"service_levels":[`+strings.Join(levels, ",")+`],"subscription":{"account_name":"x","number":"`+s+`","start_date":"2025-01-01T00:00:00Z","end_date":null}}`)
	}
	a.body = `{"results":{"records":[` + strings.Join(records, ",") + `],"customer":{"id":"CUST","name":"n"}}}`
}

// modelDay is a stored day of a series.
type modelDay struct {
	samples   map[int64]smp
	partial   bool
	pending   map[int64]smp
	pendingAt time.Time
	absent    time.Time
	known     time.Time
	rest      int
	ledger    []string
}

// model is what a warehouse must hold. clean are the days of which some answer told everything.
type model struct {
	days  map[dayKey]*modelDay
	clean map[int]bool
}

func sameM(x, y smp) bool {
	return x.committed == y.committed && x.consumed == y.consumed && x.burst == y.burst && x.accrued == y.accrued
}

func equalSet(x, y map[int64]smp) bool {
	if len(x) != len(y) {
		return false
	}
	for at, s := range x {
		if z, ok := y[at]; !ok || !sameM(s, z) {
			return false
		}
	}
	return true
}

func dayFlagOf(m map[int64]smp) int {
	t, f := 0, 0
	for _, s := range m {
		switch s.flag {
		case 1:
			t++
		case 2:
			f++
		}
	}
	switch {
	case f > 0:
		return 2
	case t == len(m):
		return 1
	}
	return 0
}

func (m *model) apply(a *answer) {
	for d := a.from; d < a.from+a.n; d++ {
		doubt := a.orphan || len(a.subs) == 0
		for sub, levels := range a.subs {
			doubt = doubt || a.unsure[sub] || len(a.allPart[sub]) > 0
			for _, told := range levels {
				doubt = doubt || told[d] != nil && told[d].partial
			}
		}
		m.clean[d] = m.clean[d] || !doubt
	}
	for s, levels := range a.subs {
		for l, told := range levels {
			for d, td := range told {
				if a.allPart[s][l] {
					td.partial = true
				}
				m.day(a, dayKey{s, l, d}, td)
			}
		}
	}
	// absence
	if a.orphan {
		return
	}
	for k, st := range m.days {
		if k.day < a.from || k.day >= a.from+a.n || a.unsure[k.sub] || len(a.allPart[k.sub]) > 0 {
			continue
		}
		if td := a.subs[k.sub][k.lev][k.day]; td != nil {
			continue
		}
		if st.absent.IsZero() {
			st.absent = a.at
		}
	}
}

func (m *model) day(a *answer, k dayKey, td *toldDay) {
	in := map[int64]smp{}
	for _, s := range td.good {
		in[s.at] = s
	}
	st := m.days[k]
	if st == nil {
		if len(in) > 0 {
			m.days[k] = &modelDay{samples: in, partial: td.partial, known: a.at}
		}
		return
	}
	if len(in) == 0 {
		return // delivered, but nothing to say: not absent, and an absence stays
	}
	if td.partial {
		st.absent = time.Time{}
		return
	}
	keep := func() map[int64]smp {
		out := map[int64]smp{}
		for at, s := range in {
			if old, ok := st.samples[at]; ok && s.flag == 0 && sameM(old, s) {
				s.flag = old.flag
			}
			out[at] = s
		}
		return out
	}
	wasTrue := dayFlagOf(st.samples) == 1
	if equalSet(st.samples, in) {
		st.absent, st.pending = time.Time{}, nil
		anyKnown := false
		for _, s := range in {
			anyKnown = anyKnown || s.flag != 0
		}
		wasPartial := st.partial
		st.partial = false
		if !anyKnown {
			return
		}
		now := keep()
		if !wasPartial && wasTrue && dayFlagOf(now) == 2 {
			st.rest++
			st.ledger = append(st.ledger, "restated")
			st.known = a.at
		}
		st.samples = now
		return
	}
	different, missing, extra := 0, 0, 0
	for at, s := range in {
		if old, ok := st.samples[at]; !ok {
			extra++
		} else if !sameM(old, s) {
			different++
		}
	}
	for at := range st.samples {
		if _, ok := in[at]; !ok {
			missing++
		}
	}
	switch {
	case different == 0 && missing == 0: // late
		st.samples = keep()
		st.ledger = append(st.ledger, "late")
	case different == 0 && len(in) < len(st.samples):
		if st.pending != nil && equalSet(st.pending, in) && !a.at.Before(st.pendingAt.Add(time.Hour)) {
			st.samples = keep()
			st.rest++
			st.ledger = append(st.ledger, "restated")
			break
		}
		if st.pending == nil || !equalSet(st.pending, in) {
			st.pending, st.pendingAt = in, a.at
			st.absent = time.Time{}
		}
		return
	default:
		st.samples = keep()
		st.rest++
		st.ledger = append(st.ledger, "restated")
	}
	st.partial, st.pending, st.absent, st.known = false, nil, time.Time{}, a.at
}

func ratText(r *big.Rat, places int) string {
	s := r.FloatString(places) // half away from zero
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

func ts(t time.Time) string {
	if t.IsZero() {
		return "NULL"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

func plainName(l string) string { l, _, _ = strings.Cut(l, "#"); return l }

func (m *model) dump() string {
	var lines []string
	for k, st := range m.days {
		var ats []int64
		for at := range st.samples {
			ats = append(ats, at)
		}
		slices.Sort(ats)
		sum, mx := new(big.Rat), 0
		accr, accOK := new(big.Rat), true
		for _, at := range ats {
			s := st.samples[at]
			sum.Add(sum, big.NewRat(int64(s.consumed), 10))
			mx = max(mx, s.consumed)
			if s.accrued < 0 {
				accOK = false
			} else {
				accr.Add(accr, big.NewRat(int64(s.accrued), 10))
			}
			b, ac := "NULL", "NULL"
			if s.burst >= 0 {
				b = ratText(big.NewRat(int64(s.burst), 10), 1)
			}
			if s.accrued >= 0 {
				ac = ratText(big.NewRat(int64(s.accrued), 10), 1)
			}
			lines = append(lines, fmt.Sprintf("sample %s %s %s %s %s %s %d", k.sub, plainName(k.lev), ts(time.Unix(at, 0)), ratText(big.NewRat(int64(s.consumed), 10), 1), b, ac, s.flag))
		}
		avg := new(big.Rat).Quo(sum, big.NewRat(int64(len(ats)), 1))
		acc := "NULL"
		if accOK {
			acc = ratText(accr, 12)
		}
		slices.Sort(st.ledger)
		lines = append(lines, fmt.Sprintf("day %s %s %s n=%d avg=%s max=%s acc=%s inv=%d digest=%t absent=%s known=%s rest=%d ledger=%s pend=%t", k.sub, plainName(k.lev), dayNo(k.day), len(ats),
			ratText(avg, 12), ratText(big.NewRat(int64(mx), 10), 1), acc, dayFlagOf(st.samples), !st.partial, ts(st.absent), ts(st.known), st.rest, strings.Join(st.ledger, ","), st.pending != nil))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

type player struct {
	t   testing.TB
	w   *warehouse.Warehouse
	now time.Time
	src *keystone.Account
}

func newPlayer(t testing.TB) *player {
	p := &player{t: t, now: time.Date(2026, 5, 10, 0, 0, 0, 0, time.UTC)}
	w, err := warehouse.Open(context.Background(), warehouse.Config{URL: warehousetest.New(t), Owner: "test", Now: func() time.Time { return p.now }, Fixed: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	p.w = w
	p.src, err = keystone.New(keystone.Config{Account: "acme", SecretsKey: bytes.Repeat([]byte{7}, 32), Tokens: noStore{}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// load reads an answer into the warehouse; false says that it was refused as a whole.
func (p *player) load(rt *rapid.T, customer string, a *answer) bool {
	ctx := context.Background()
	p.now = a.at
	win := etl.Window{From: dayNo(a.from), Until: dayNo(a.from + a.n)}
	job := etl.Job{Source: "keystone", Dataset: keystone.History, Scope: customer, Account: "acme", Windows: []etl.Window{win}, Expected: dayNo(0)}
	lease, err := p.w.Lease(ctx, job.Dataset, job.Scope)
	if err != nil {
		rt.Fatal(err)
	}
	defer lease.Release(ctx)
	run, err := p.w.StartRun(ctx, lease, job, win, p.now)
	if err != nil {
		rt.Fatal(err)
	}
	body := strings.ReplaceAll(a.body, "CUST", customer)
	ans := &etl.Answer{Request: etl.Request{Dataset: job.Dataset, Scope: customer, Window: win}, Method: "GET", URL: "http://localhost/", Status: 200, RequestedAt: p.now, FetchedAt: p.now, Body: fetch.NewBody([]byte(body))}
	sum := sha256.Sum256([]byte(body))
	ans.Content = sum[:]
	_, err = run.Load(ctx, []*etl.Answer{ans}, nil, p.src.Transform)
	var reject *etl.RejectError
	if errors.As(err, &reject) {
		if reject.Reason != "too_many_bad_rows" && reject.Reason != "unexpected_empty" {
			rt.Fatalf("%v\n%s", err, body)
		}
		return false
	}
	if err != nil {
		rt.Fatalf("%v\n%s", err, body)
	}
	return true
}

func (p *player) rows(sql string, args ...any) []string {
	t, err := p.w.Query(context.Background(), sql, args...)
	if err != nil {
		p.t.Fatal(err)
	}
	var lines []string
	for _, r := range t.Rows {
		lines = append(lines, strings.Join(r, " "))
	}
	return lines
}

func (p *player) dump(customer string) string {
	lines := p.rows(`select 'sample', s.subscription_number, v.service_level, to_char(f.sampled_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'), trim_scale(f.consumed_tib)::text, coalesce(trim_scale(f.burst_tib)::text, 'NULL'), coalesce(trim_scale(f.accrued_burst_tib)::text, 'NULL'),
		case f.is_invoiced when true then 1 when false then 2 else 0 end
		from dw.dim_customer as c join dw.dim_subscription as s using (customer_key) join dw.dim_service_level as v using (subscription_key)
		join dw.fact_consumption_sample as f on f.customer_key = c.customer_key and f.service_level_key = v.service_level_key where c.customer_id = $1`, customer)
	lines = append(lines, p.rows(`select 'day', s.subscription_number, v.service_level, d.usage_date::text, 'n=' || d.sample_count, 'avg=' || trim_scale(d.consumed_avg_tib), 'max=' || trim_scale(d.consumed_max_tib), 'acc=' || coalesce(trim_scale(d.accrued_sum_tib)::text, 'NULL'),
		'inv=' || case d.is_invoiced when true then 1 when false then 2 else 0 end, 'digest=' || (d.digest is not null)::text, 'absent=' || coalesce(to_char(d.absent_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'), 'NULL'),
		'known=' || to_char(d.known_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'), 'rest=' || d.restatement_count,
		'ledger=' || coalesce((select string_agg(kind, ',' order by kind collate "C") from dw.restatement as r where r.customer_key = d.customer_key and r.service_level_key = d.service_level_key and r.usage_date = d.usage_date and r.kind <> 'reread'), ''),
		'pend=' || (d.pending_digest is not null)::text
		from dw.dim_customer as c join dw.dim_subscription as s using (customer_key) join dw.dim_service_level as v using (subscription_key)
		join dw.fact_daily_consumption as d on d.customer_key = c.customer_key and d.service_level_key = v.service_level_key where c.customer_id = $1`, customer)...)
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// unlike are the lines that only one of two dumps has.
func unlike(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out []string
	for _, l := range w {
		if !slices.Contains(g, l) {
			out = append(out, "want "+l)
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			out = append(out, "got  "+l)
		}
	}
	return strings.Join(out, "\n")
}

// Whatever the vendor tells, and however it spells it, the warehouse holds what the model does, after every answer.
func TestHistoriesAgainstAModel(t *testing.T) {
	p := newPlayer(t)
	customers := 0
	rapid.Check(t, func(rt *rapid.T) {
		customers++
		customer := fmt.Sprintf("C-%d", customers)
		m := &model{map[dayKey]*modelDay{}, map[int]bool{}}
		var told []string
		for _, a := range drawWorld(rt) {
			told = append(told, fmt.Sprintf("%s %d+%d %s", ts(a.at), a.from, a.n, a.body))
			if p.load(rt, customer, a) {
				m.apply(a)
			} else if a.rows >= 10 && a.badRows*2 <= a.rows && len(a.subs) > 0 {
				rt.Fatalf("refused with %d bad of %d rows\n%s", a.badRows, a.rows, a.body)
			}
			if want, got := m.dump(), p.dump(customer); want != got {
				rt.Fatalf("%s\n\n%s", strings.Join(told, "\n"), unlike(want, got))
			}
			for _, day := range p.rows(`select day - $2::date from ops.coverage where scope = $1 and status = 'answered'`, customer, spanFrom) {
				var d int
				if _, err := fmt.Sscan(day, &d); err != nil || !m.clean[d] {
					rt.Fatalf("%s\n\n%s is called answered (%v), and no answer told all of it", strings.Join(told, "\n"), dayNo(d), err)
				}
			}
		}
	})
}
