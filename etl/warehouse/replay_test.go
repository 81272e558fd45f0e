package warehouse

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
)

var historyJob = etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: day("2026-05-14")}

type told func(sink etl.Sink) (etl.Report, error)

func histories(levels ...etl.LevelHistory) told { return historiesAndRejects(0, nil, levels...) }

func historiesAndRejects(n int, rejects []etl.Reject, levels ...etl.LevelHistory) told {
	return func(sink etl.Sink) (etl.Report, error) {
		report := etl.Report{Records: 1, Received: len(rejects), Quarantined: len(rejects), Warnings: etl.Warnings{}}
		for _, l := range levels {
			report.Received += len(l.Samples)
		}
		for _, r := range rejects {
			if err := sink.Reject(r); err != nil {
				return report, err
			}
		}
		return report, sink.History(etl.History{Subscription: subscription1(), Levels: levels})
	}
}

func (h *house) loadTold(w etl.Window, job etl.Job, f told) int64 {
	h.t.Helper()
	_, p, err := h.read(job, w, 0, f)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func replayAll(h *house, job etl.Job, w etl.Window, by map[int64]told) etl.Outcome {
	h.t.Helper()
	var ids []int64
	for _, row := range h.rows(`select payload_id from raw.payload where dataset = $1 order by fetched_at, payload_id`, job.Dataset) {
		var id int64
		fmt.Sscan(row, &id)
		ids = append(ids, id)
	}
	out, err := h.rebuild(job, w, ids, func(p int64, s etl.Sink) (etl.Report, error) { return by[p](s) })
	if err != nil {
		h.t.Error("rebuild: ", err)
	}
	return out
}

const allDays = `select service_level, level_ordinal, usage_date, sample_count, consumed_max_tib, known_since from dw.fact_daily_consumption join dw.dim_service_level using (service_level_key) order by 1,2,3`

var dayOfMay = window("2026-05-14", "2026-05-15")

func lev(name string, samples ...etl.Sample) etl.LevelHistory {
	return etl.LevelHistory{Level: name, Samples: samples}
}

// N1 a level known only to the new reading
func TestReplayNewLevel(t *testing.T) {
	h := newHouse(t)
	a, b := sample("2026-05-14T00:00:00Z", "10"), sample("2026-05-14T00:00:00Z", "20")
	p := h.loadTold(dayOfMay, historyJob, histories(lev("Extreme", a)))
	out := replayAll(h, historyJob, dayOfMay, map[int64]told{p: histories(lev("Extreme", a), lev("Value", b))})
	t.Log(counts(out))
	h.want(allDays, "Extreme|0|2026-05-14|1|10|2026-05-15 12:00:00+00", "Value|0|2026-05-14|1|20|2026-05-15 12:00:00+00")
}

func TestReplayNewLevelRefused(t *testing.T) {
	h := newHouse(t)
	a, b := sample("2026-05-14T00:00:00Z", "10"), sample("2026-05-14T00:00:00Z", "20")
	d := day("2026-05-14")
	p := h.loadTold(dayOfMay, historyJob, historiesAndRejects(1, []etl.Reject{{Path: "/0/levels/1/0", Reason: "number_range", Excerpt: "x", Subscription: "A-S1", Level: "Value", Day: &d}}, lev("Extreme", a)))
	out := replayAll(h, historyJob, dayOfMay, map[int64]told{p: histories(lev("Extreme", a), lev("Value", b))})
	t.Log(counts(out))
	t.Log(h.rows(`select resolution from ops.quarantine`))
	h.want(allDays, "Extreme|0|2026-05-14|1|10|2026-05-15 12:00:00+00", "Value|0|2026-05-14|1|20|2026-05-15 12:00:00+00")
}

// N3 A, shrunk, A (not landed), shrunk
func TestReplayShrunkTwiceDenied(t *testing.T) {
	h := newHouse(t)
	a, b := sample("2026-05-14T00:00:00Z", "10"), sample("2026-05-14T01:00:00Z", "20")
	by := map[int64]told{}
	for _, n := range []int{2, 1, 2, 1, 2} {
		f := histories(lev("Extreme", []etl.Sample{a, b}[:n]...))
		by[h.loadTold(dayOfMay, historyJob, f)] = f
		h.now = h.now.Add(24 * time.Hour)
	}
	before := h.rows(allDays)
	out := replayAll(h, historyJob, dayOfMay, by)
	t.Log(counts(out))
	h.want(allDays, before...)
}

// N4 refused, refused again with other news, made good; then replayed alike
func TestReplaySettledRefusal(t *testing.T) {
	h := newHouse(t)
	w := window("2026-05-13", "2026-05-15")
	d := day("2026-05-14")
	rej := []etl.Reject{{Path: "/0/levels/0/1", Reason: "number_range", Excerpt: "x", Subscription: "A-S1", Level: "Extreme", Day: &d}}
	part := func(c string) etl.LevelHistory {
		l := lev("Extreme", sample("2026-05-13T00:00:00Z", c), sample("2026-05-14T00:00:00Z", "10"))
		l.PartialDays = map[etl.Day]bool{d: true}
		return l
	}
	by := map[int64]told{}
	for _, f := range []told{
		historiesAndRejects(1, rej, part("1")), historiesAndRejects(1, rej, part("2")),
		histories(lev("Extreme", sample("2026-05-13T00:00:00Z", "2"), sample("2026-05-14T00:00:00Z", "10"), sample("2026-05-14T01:00:00Z", "11"))),
	} {
		by[h.loadTold(w, historyJob, f)] = f
		h.now = h.now.Add(24 * time.Hour)
	}
	const q = `select quarantine_id, resolved_at is null as open, resolution from ops.quarantine order by 1`
	before, beforeDays := h.rows(q), h.rows(allDays)
	out := replayAll(h, historyJob, w, by)
	t.Log(counts(out))
	if out.Quarantined > 0 {
		t.Errorf("quarantined %d: exit 3", out.Quarantined)
	}
	h.want(q, before...)
	h.want(allDays, beforeDays...)
}

func commitments(tibs ...string) told {
	return func(sink etl.Sink) (etl.Report, error) {
		var cs []etl.Commitment
		for _, x := range tibs {
			cs = append(cs, etl.Commitment{Level: "Extreme", CommittedTiB: etl.MustDecimal(x)})
		}
		return etl.Report{Records: 1, Received: len(cs), Warnings: etl.Warnings{}}, sink.Terms(etl.Terms{Subscription: subscription1(), Levels: cs})
	}
}

const allCommitments = `select level_ordinal, committed_tib, valid_from, payload_id from dw.fact_commitment join dw.dim_service_level using (service_level_key) order by 1, valid_from`

// N5 payload of rebuilt commitments
func TestReplayCommitmentPayload(t *testing.T) {
	h := newHouse(t)
	job := etl.Job{Dataset: "keystone.subscriptions", Scope: "C-1"}
	by := map[int64]told{}
	var want []string
	for _, x := range []string{"100", "120", "100"} {
		p := h.loadTold(etl.Window{}, job, commitments(x))
		want = append(want, fmt.Sprintf("0|%s0|%s|%d", x, h.now.Format("2006-01-02 15:04:05-07"), p))
		by[p] = commitments(x + "0")
		h.now = h.now.Add(24 * time.Hour)
	}
	replayAll(h, job, etl.Window{}, by)
	t.Log(strings.Join(h.rows(allCommitments), "\n"))
	h.want(`select level_ordinal, committed_tib, to_char(valid_from at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS+00'), payload_id from dw.fact_commitment join dw.dim_service_level using (service_level_key) order by 1, valid_from`, want...)
	h.now = h.now.Add(24 * 100 * time.Hour)
	pr, err := h.Prune(t.Context(), Retention{Payload: 24 * time.Hour})
	t.Log(pr, err)
	t.Log(h.rows(`select payload_id from raw.payload`))
	out := replayAll(h, job, etl.Window{}, by)
	t.Log(counts(out), out.Warnings)
	h.want(`select level_ordinal, committed_tib, to_char(valid_from at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS+00'), payload_id from dw.fact_commitment join dw.dim_service_level using (service_level_key) order by 1, valid_from`, want...)
}

// N6 equal-named instances of commitments: one clean, one dirty
func TestReplayCommitmentInstances(t *testing.T) {
	job := etl.Job{Dataset: "keystone.subscriptions", Scope: "C-1"}
	run := func(old, new [][]string) (got, want []string) {
		const q = `select level_ordinal, committed_tib, valid_from from dw.fact_commitment join dw.dim_service_level using (service_level_key) order by 1, valid_from`
		h, f := newHouse(t), newHouse(t)
		by := map[int64]told{}
		for i := range old {
			by[h.loadTold(etl.Window{}, job, commitments(old[i]...))] = commitments(new[i]...)
			f.loadTold(etl.Window{}, job, commitments(new[i]...))
			h.now, f.now = h.now.Add(24*time.Hour), f.now.Add(24*time.Hour)
		}
		replayAll(h, job, etl.Window{}, by)
		return h.rows(q), f.rows(q)
	}
	got, want := run([][]string{{"100", "200"}, {"300", "200"}}, [][]string{{"100", "300"}, {"300", "250"}})
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	got, want = run([][]string{{"100", "200"}, {"300", "200"}}, [][]string{{"100", "250"}, {"300", "250"}})
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	got, want = run([][]string{{"100", "200"}, {"200", "200"}}, [][]string{{"100", "201"}, {"200", "201"}})
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// N7 chunk smaller than the windows, samples of a month outside pruned
func TestReplayChunkPrunedOutside(t *testing.T) {
	h := newHouse(t)
	h.now = at("2026-06-02T12:00:00Z")
	w := window("2026-05-31", "2026-06-02")
	by := map[int64]told{}
	for _, c := range []string{"10", "20"} {
		f := histories(lev("Extreme", sample("2026-05-31T00:00:00Z", c), sample("2026-06-01T00:00:00Z", "5")))
		by[h.loadTold(w, historyJob, f)] = f
		h.now = h.now.Add(24 * time.Hour)
	}
	h.now = at("2026-07-05T12:00:00Z")
	pr, err := h.Prune(t.Context(), Retention{Samples: 30 * 24 * time.Hour})
	t.Log(pr, err)
	before := h.rows(allDays)
	out := replayAll(h, historyJob, window("2026-06-01", "2026-06-02"), by)
	t.Log(counts(out))
	h.want(allDays, before...)
}

func startingAt(start string, repeated bool) etl.Subscription {
	s := subscription1()
	s.Start, s.Repeated = ptr(at(start)), repeated
	s.End = ptr(at(start).AddDate(1, 0, -1))
	return s
}

// renewal: t1 contract of 2024, t2 renewed 2025, t3 2025 and 2026 together. Replay alike.
func TestReplayRenewalTerms(t *testing.T) {
	h := newHouse(t)
	job := etl.Job{Dataset: "keystone.subscriptions", Scope: "C-1"}
	f := func(subs ...etl.Subscription) told {
		return func(sink etl.Sink) (etl.Report, error) {
			for i, s := range subs {
				if err := sink.Terms(etl.Terms{Subscription: s, Levels: []etl.Commitment{{Level: "Extreme", CommittedTiB: etl.NewDecimal(int64(100 + i))}}}); err != nil {
					return etl.Report{}, err
				}
			}
			return etl.Report{Records: len(subs), Received: len(subs), Warnings: etl.Warnings{}}, nil
		}
	}
	by := map[int64]told{}
	for _, x := range []told{f(startingAt("2024-01-01T00:00:00Z", false)), f(startingAt("2025-01-01T00:00:00Z", false)), f(startingAt("2025-01-01T00:00:00Z", true), startingAt("2026-01-01T00:00:00Z", true))} {
		by[h.loadTold(etl.Window{}, job, x)] = x
		h.now = h.now.Add(24 * time.Hour)
	}
	const q = `select subscription_key, valid_from, valid_to, start_at from dw.fact_subscription order by 1,2`
	const q2 = `select service_level_key, valid_from, valid_to, committed_tib from dw.fact_commitment order by 1,2`
	b1, b2 := h.rows(q), h.rows(q2)
	out := replayAll(h, job, etl.Window{}, by)
	t.Log(counts(out), out.Warnings)
	h.want(q, b1...)
	h.want(q2, b2...)
}

func TestReplayRenewalHistory(t *testing.T) {
	h := newHouse(t)
	f := func(subs ...etl.Subscription) told {
		return func(sink etl.Sink) (etl.Report, error) {
			for i, s := range subs {
				d := []string{"10", "20"}[i]
				if err := sink.History(etl.History{Subscription: s, Levels: []etl.LevelHistory{lev("Extreme", sample("2026-05-14T00:00:00Z", d))}}); err != nil {
					return etl.Report{}, err
				}
			}
			return etl.Report{Records: len(subs), Received: len(subs), Warnings: etl.Warnings{}}, nil
		}
	}
	_ = f
	// terms come with subscriptions; history of day 13 under the old contract, day 14 under both
	g := func(d string, subs ...etl.Subscription) told {
		return func(sink etl.Sink) (etl.Report, error) {
			for i, s := range subs {
				if err := sink.History(etl.History{Subscription: s, Levels: []etl.LevelHistory{lev("Extreme", sample(d+"T00:00:00Z", []string{"10", "20"}[i]))}}); err != nil {
					return etl.Report{}, err
				}
			}
			return etl.Report{Records: len(subs), Received: len(subs), Warnings: etl.Warnings{}}, nil
		}
	}
	by := map[int64]told{}
	load := func(w etl.Window, x told) {
		by[h.loadTold(w, historyJob, x)] = x
		h.now = h.now.Add(24 * time.Hour)
	}
	load(window("2026-05-13", "2026-05-14"), g("2026-05-13", startingAt("2024-01-01T00:00:00Z", false)))
	sjob := etl.Job{Dataset: "keystone.subscriptions", Scope: "C-1"}
	h.loadTold(etl.Window{}, sjob, func(sink etl.Sink) (etl.Report, error) {
		return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}}, sink.Terms(etl.Terms{Subscription: startingAt("2025-01-01T00:00:00Z", false), Levels: []etl.Commitment{{Level: "Extreme", CommittedTiB: etl.NewDecimal(100)}}})
	})
	load(window("2026-05-14", "2026-05-15"), g("2026-05-14", startingAt("2025-01-01T00:00:00Z", true), startingAt("2026-01-01T00:00:00Z", true)))
	before := h.rows(`select service_level_key, usage_date, consumed_max_tib from dw.fact_daily_consumption order by 1,2`)
	out := replayAll(h, historyJob, window("2026-05-13", "2026-05-15"), by)
	t.Log(counts(out), out.Warnings)
	h.want(`select service_level_key, usage_date, consumed_max_tib from dw.fact_daily_consumption order by 1,2`, before...)
}

// Two equal-named levels, any of which may be missing: replay alike.
func TestReplayInstancesAlike(t *testing.T) {
	h := newHouse(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		job := etl.Job{Dataset: "keystone.history", Scope: fmt.Sprintf("i-%d", n), Expected: day("2026-05-14")}
		by := map[int64]told{}
		var all []string
		h.now = at("2026-05-15T00:00:00Z")
		for range rapid.IntRange(2, 4).Draw(rt, "answers") {
			var ls []etl.LevelHistory
			text := ""
			for range rapid.IntRange(1, 2).Draw(rt, "levels") {
				v := rapid.IntRange(1, 3).Draw(rt, "v")
				c := rapid.IntRange(100, 101).Draw(rt, "c")
				s := sample("2026-05-14T00:00:00Z", fmt.Sprint(v))
				s.CommittedTiB = etl.NewDecimal(int64(c))
				ls = append(ls, lev("Extreme", s))
				text += fmt.Sprintf(" %d/%d", v, c)
			}
			all = append(all, text)
			fn := histories(ls...)
			by[h.loadTold(dayOfMay, job, fn)] = fn
			h.now = h.now.Add(24 * time.Hour)
		}
		const q = `select service_level_key, usage_date, consumed_max_tib, known_since, d.xmin from dw.fact_daily_consumption as d join dw.dim_customer using (customer_key) where customer_id = $1 order by 1,2`
		before := h.rows(q, job.Scope)
		var ids []int64
		for _, row := range h.rows(`select payload_id from raw.payload where scope = $1 order by fetched_at, payload_id`, job.Scope) {
			var id int64
			fmt.Sscan(row, &id)
			ids = append(ids, id)
		}
		out, err := h.rebuild(job, dayOfMay, ids, func(p int64, s etl.Sink) (etl.Report, error) { return by[p](s) })
		if err != nil {
			rt.Fatal(err, all)
		}
		if after := h.rows(q, job.Scope); strings.Join(before, "\n") != strings.Join(after, "\n") || out.Inserted+out.Restated > 0 {
			rt.Fatalf("answers %q\n%s\n->\n%s\n%s", all, strings.Join(before, "\n"), strings.Join(after, "\n"), counts(out))
		}
	})
}

// Commitments of two equal-named instances: replay alike, and with another reading.
func TestReplayCommitmentsProperty(t *testing.T) {
	for _, alike := range []bool{true, false} {
		t.Run(fmt.Sprint("alike ", alike), func(t *testing.T) {
			h := newHouse(t)
			n := 0
			rapid.Check(t, func(rt *rapid.T) {
				n++
				job := etl.Job{Dataset: "keystone.subscriptions", Scope: fmt.Sprintf("i-%d", n)}
				fjob := etl.Job{Dataset: "keystone.subscriptions", Scope: fmt.Sprintf("f-%d", n)}
				by := map[int64]told{}
				var all []string
				h.now = at("2026-05-15T00:00:00Z")
				m := map[string]string{"100": "100", "200": "200", "300": "300"}
				if !alike {
					m["300"] = "350"
				}
				for range rapid.IntRange(2, 4).Draw(rt, "answers") {
					var old, new []string
					for range rapid.IntRange(1, 2).Draw(rt, "levels") {
						x := rapid.SampledFrom([]string{"100", "200", "300"}).Draw(rt, "v")
						old, new = append(old, x), append(new, m[x])
					}
					all = append(all, fmt.Sprint(old))
					if p := h.loadTold(etl.Window{}, job, commitments(old...)); p != 0 {
						by[p] = commitments(new...)
					}
					h.loadTold(etl.Window{}, fjob, commitments(new...))
					h.now = h.now.Add(24 * time.Hour)
				}
				const q = `select level_ordinal, committed_tib, valid_from, valid_to, f.absent_since from dw.fact_commitment as f join dw.dim_service_level using (service_level_key) join dw.dim_customer as c on c.customer_key = f.customer_key where customer_id = $1 order by 1,3`
				want := h.rows(q, fjob.Scope)
				var ids []int64
				for _, row := range h.rows(`select payload_id from raw.payload where scope = $1 order by fetched_at, payload_id`, job.Scope) {
					var id int64
					fmt.Sscan(row, &id)
					ids = append(ids, id)
				}
				before := h.rows(q, job.Scope)
				out, err := h.rebuild(job, etl.Window{}, ids, func(p int64, s etl.Sink) (etl.Report, error) { return by[p](s) })
				if err != nil {
					rt.Fatal(err, all)
				}
				if after := h.rows(q, job.Scope); strings.Join(want, "\n") != strings.Join(after, "\n") {
					rt.Fatalf("answers %q\nbefore\n%s\nwant\n%s\ngot\n%s\n%s", all, strings.Join(before, "\n"), strings.Join(want, "\n"), strings.Join(after, "\n"), counts(out))
				}
			})
		})
	}
}

// a new level of commitments
func TestReplayNewCommitmentLevel(t *testing.T) {
	h := newHouse(t)
	job := etl.Job{Dataset: "keystone.subscriptions", Scope: "C-1"}
	p := h.loadTold(etl.Window{}, job, commitments("100"))
	out := replayAll(h, job, etl.Window{}, map[int64]told{p: commitments("100", "200")})
	t.Log(counts(out))
	h.want(`select committed_tib from dw.fact_commitment order by 1`, "100", "200")
}

// a level that the new reading names otherwise; both names are known
func TestReplayLevelRenamed(t *testing.T) {
	h := newHouse(t)
	w2 := window("2026-05-14", "2026-05-16")
	a, b := sample("2026-05-14T00:00:00Z", "10"), sample("2026-05-15T00:00:00Z", "10")
	by := map[int64]told{}
	by[h.loadTold(dayOfMay, historyJob, histories(lev("extreme", a)))] = histories(lev("Extreme", a))
	h.now = h.now.Add(24 * time.Hour)
	by[h.loadTold(window("2026-05-15", "2026-05-16"), historyJob, histories(lev("Extreme", b)))] = histories(lev("Extreme", b))
	out := replayAll(h, historyJob, w2, by)
	t.Log(counts(out), out.Warnings)
	h.want(`select service_level, usage_date, consumed_max_tib from dw.fact_daily_consumption join dw.dim_service_level using (service_level_key) order by 2,1`,
		"Extreme|2026-05-14|10", "Extreme|2026-05-15|10")
}

// only the terms are read differently: the outcome says so
func TestReplayTermsCount(t *testing.T) {
	h := newHouse(t)
	job := etl.Job{Dataset: "keystone.subscriptions", Scope: "C-1"}
	f := func(name string) told {
		return func(sink etl.Sink) (etl.Report, error) {
			s := subscription1()
			s.AccountName = &name
			return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}}, sink.Terms(etl.Terms{Subscription: s, Levels: []etl.Commitment{{Level: "Extreme", CommittedTiB: etl.NewDecimal(1)}}})
		}
	}
	p := h.loadTold(etl.Window{}, job, f("x"))
	out := replayAll(h, job, etl.Window{}, map[int64]told{p: f("y")})
	t.Log(counts(out), out.Warnings, h.rows(`select account_name from dw.fact_subscription`))
	if len(out.Warnings) == 0 {
		t.Error("terms were rewritten and nothing says so")
	}
}

// partial, then whole with the same samples: replayed alike, twice
func TestReplayPartialThenWhole(t *testing.T) {
	h := newHouse(t)
	d := day("2026-05-14")
	a := sample("2026-05-14T00:00:00Z", "10")
	rej := []etl.Reject{{Path: "/0/levels/0/1", Reason: "number_range", Excerpt: "x", Subscription: "A-S1", Level: "Extreme", Day: &d}}
	l := lev("Extreme", a)
	l.PartialDays = map[etl.Day]bool{d: true}
	by := map[int64]told{}
	by[h.loadTold(dayOfMay, historyJob, historiesAndRejects(0, rej, l))] = historiesAndRejects(0, rej, l)
	h.now = h.now.Add(24 * time.Hour)
	t.Log("landed as", h.loadTold(dayOfMay, historyJob, histories(lev("Extreme", a))))
	const q = `select usage_date, digest is null, consumed_max_tib, d.xmin from dw.fact_daily_consumption as d`
	const ledger = `select kind, known_from, known_until, digest is null from dw.restatement`
	const qq = `select resolved_at is null, resolution from ops.quarantine`
	b, bl, bq := h.rows(q), h.rows(ledger), h.rows(qq)
	out := replayAll(h, historyJob, dayOfMay, by)
	t.Log(counts(out), out.Warnings)
	h.want(q, b...)
	h.want(ledger, bl...)
	h.want(qq, bq...)
}

// equal names swap: the committed figure of an instance, replayed alike, each time
func TestReplayInstancesSwap(t *testing.T) {
	h := newHouse(t)
	mk := func(pairs ...[2]int64) told {
		var ls []etl.LevelHistory
		for _, p := range pairs {
			s := sample("2026-05-14T00:00:00Z", "1")
			s.ConsumedTiB, s.CommittedTiB = etl.NewDecimal(p[0]), etl.NewDecimal(p[1])
			ls = append(ls, lev("Extreme", s))
		}
		return histories(ls...)
	}
	by := map[int64]told{}
	for _, f := range []told{mk([2]int64{1, 100}), mk([2]int64{3, 100}), mk([2]int64{2, 100}), mk([2]int64{3, 101}, [2]int64{3, 100})} {
		by[h.loadTold(dayOfMay, historyJob, f)] = f
		h.now = h.now.Add(24 * time.Hour)
	}
	const q = `select level_ordinal, committed_tib, consumed_max_tib, restatement_count from dw.fact_daily_consumption join dw.dim_service_level using (service_level_key) order by 1`
	b := h.rows(q)
	for range 2 {
		out := replayAll(h, historyJob, dayOfMay, by)
		t.Log(counts(out), out.Warnings)
		h.want(q, b...)
	}
}

// after one rebuild, a second one in which the first answer no longer tells the level
func TestReplayCommitmentEcho(t *testing.T) {
	h := newHouse(t)
	job := etl.Job{Dataset: "keystone.subscriptions", Scope: "C-1"}
	by, none := map[int64]told{}, map[int64]told{}
	for i, x := range []string{"100", "120"} {
		p := h.loadTold(etl.Window{}, job, commitments(x))
		by[p], none[p] = commitments(x+"0"), commitments(x+"0")
		if i == 0 {
			none[p] = commitments()
		}
		h.now = h.now.Add(24 * time.Hour)
	}
	replayAll(h, job, etl.Window{}, by)
	replayAll(h, job, etl.Window{}, none)
	h.want(`select committed_tib, valid_from from dw.fact_commitment order by 2`, "1200|2026-05-16 12:00:00+00")
	h.want(`select payload_id, valid_from from dw.fact_commitment order by 2`, "2|2026-05-16 12:00:00+00")
}
