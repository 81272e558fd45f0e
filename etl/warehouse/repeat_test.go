package warehouse

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
)

// speech is what a vendor says in one answer: the transform is a function of it.
type speech struct {
	window  etl.Window
	levels  []etl.LevelHistory
	sub     etl.Subscription
	rejects []etl.Reject
	trimmed bool // an accepted deviation
}

func (s *speech) content() []byte {
	spelled, err := json.Marshal([]any{s.window, s.levels, s.sub, s.rejects, s.trimmed})
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(spelled)
	return sum[:]
}

// hear is the transform of a speech.
func (s *speech) hear(sink etl.Sink) (etl.Report, error) {
	report := etl.Report{Records: 1, Received: len(s.rejects), Quarantined: len(s.rejects), Warnings: etl.Warnings{}}
	for _, r := range s.rejects {
		if err := sink.Reject(r); err != nil {
			return report, err
		}
	}
	if s.trimmed {
		report.Warnings.Add("trimmed", "/results/records/0/subscription/number")
		report.Received++
		report.Ignored++
	}
	rec := etl.History{Subscription: s.sub}
	for _, l := range s.levels {
		l.Samples = slices.Clone(l.Samples) // the load fills in flags
		partial := map[etl.Day]bool{}
		for d := range l.PartialDays {
			partial[d] = true
		}
		l.PartialDays = partial
		rec.Levels = append(rec.Levels, l)
		report.Received += len(l.Samples)
	}
	return report, sink.History(rec)
}

// listen loads what a vendor says to a customer. It tells whether anybody read it.
func (h *house) listen(customer string, s *speech) (out etl.Outcome, read bool, err error) {
	job := etl.Job{Dataset: "keystone.history", Scope: customer, Expected: day("2026-05-01")}
	out, _, err = h.read(job, s.window, 0, func(sink etl.Sink) (etl.Report, error) {
		read = true
		return s.hear(sink)
	})
	return out, read, err
}

func drawSpeech(t *rapid.T, window etl.Window) *speech {
	s := &speech{window: window, sub: subscription1(), trimmed: rapid.IntRange(0, 5).Draw(t, "trimmed") == 0}
	if rapid.IntRange(0, 5).Draw(t, "renewed") == 0 {
		s.sub.Start = ptr(at("2026-01-01T00:00:00Z"))
	}
	refused := rapid.IntRange(0, 5).Draw(t, "refused") == 0
	for _, name := range rapid.SampledFrom([][]string{{"Extreme"}, {"Extreme", "Extreme"}, {"Extreme", "Value"}}).Draw(t, "levels") {
		level := etl.LevelHistory{Level: name}
		for d := window.From; d < window.Until; d++ {
			for i := range rapid.IntRange(0, 2).Draw(t, "samples") {
				one := sample(d.Time().Add(time.Duration(i)*time.Hour).Format(time.RFC3339), fmt.Sprint(100+rapid.IntRange(1, 2).Draw(t, "value")))
				one.Invoiced = rapid.SampledFrom([]etl.NullBool{etl.False, etl.False, etl.True, etl.Unknown}).Draw(t, "flag")
				if rapid.IntRange(0, 9).Draw(t, "unknown") == 0 {
					one.AccruedTiB = etl.NullDecimal{}
				}
				level.Samples = append(level.Samples, one)
			}
			if refused {
				refused = false
				bad := d
				level.PartialDays = map[etl.Day]bool{d: true}
				s.rejects = append(s.rejects, etl.Reject{Path: "/x", Reason: "value_missing", Excerpt: "null", Subscription: s.sub.Number, Level: name, Day: &bad})
			}
		}
		s.levels = append(s.levels, level)
	}
	return s
}

// TestRepeatedAnswersEndAsIfRead lets a vendor repeat itself, with all that may happen in between, to two
// customers: for one of them the source tells what is the same, for the other one everything is read. All
// that anybody can see must end the same, but for the mark that says what was not read.
func TestRepeatedAnswersEndAsIfRead(t *testing.T) {
	h := newHouse(t)
	customers, skipped, heard := 0, 0, 0
	windows := []etl.Window{window("2026-05-01", "2026-05-03"), window("2026-05-01", "2026-05-02"), window("2026-05-02", "2026-05-03")}
	rapid.Check(t, func(rt *rapid.T) {
		var pool []*speech
		for range rapid.IntRange(1, 3).Draw(rt, "speeches") {
			pool = append(pool, drawSpeech(rt, rapid.SampledFrom(windows).Draw(rt, "window")))
		}
		customers++
		all, some := fmt.Sprintf("all-%d", customers), fmt.Sprintf("some-%d", customers)
		h.now = at("2026-05-10T00:00:00Z")
		both := func(do func(customer string)) {
			do(all)
			do(some)
		}
		var story []string
		tell := func(format string, args ...any) {
			story = append(story, h.now.Format(time.DateTime)+" "+fmt.Sprintf(format, args...))
		}
		s := pool[0]
		for range rapid.IntRange(3, 9).Draw(rt, "steps") {
			h.now = h.now.Add(time.Duration(rapid.SampledFrom([]int{0, 20, 100, 1500}).Draw(rt, "minutes")) * time.Minute)
			switch event := rapid.IntRange(0, 19).Draw(rt, "event"); {
			case event < 5:
				s = rapid.SampledFrom(pool).Draw(rt, "speech")
				fallthrough
			case event < 14: // once more
				h.warnings = nil
				if rapid.IntRange(0, 3).Draw(rt, "skewed") == 0 {
					h.warnings = etl.Warnings{etl.VendorClockSkewed: {Count: 1, FirstPath: "at " + h.now.String()}}
				}
				tell("%s %v %+v, refused %v, %v", s.window, s.sub.Start, s.levels, s.rejects, h.warnings)
				h.content = nil
				want, _, wantErr := h.listen(all, s)
				h.content = s.content()
				got, read, gotErr := h.listen(some, s)
				h.content, h.warnings = nil, nil
				if !read {
					skipped++
				}
				heard++
				if read != (got.SameAs == 0) {
					rt.Fatalf("%s\nread %v, same as run %d", strings.Join(story, "\n"), read, got.SameAs)
				}
				got.SameAs = 0
				if fmt.Sprint(want) != fmt.Sprint(got) || fmt.Sprint(wantErr) != fmt.Sprint(gotErr) {
					rt.Fatalf("%s\nread: %+v %v\ngot:  %+v %v", strings.Join(story, "\n"), want, wantErr, got, gotErr)
				}
			case event == 14:
				back := time.Duration(rapid.SampledFrom([]int{30, 2000}).Draw(rt, "back")) * time.Minute
				tell("clock back %s", back)
				h.now = h.now.Add(-back)
			case event == 15:
				second := committed("A-S1", "Extreme=100")
				second.Start, second.Repeated = ptr(at("2026-01-01T00:00:00Z")), true
				tell("a second subscription of the number")
				both(func(customer string) { h.mustTerms(rt, customer, committed("A-S1", "Extreme=100"), second) })
			case event == 16:
				tell("dismissed")
				h.exec(`update ops.quarantine set resolved_at = $1, resolution = 'not wanted', is_dismissed = true where resolved_at is null`, h.now)
			case event == 17:
				tell("a row is edited")
				both(func(customer string) {
					h.exec(`update dw.fact_daily_consumption set absent_since = $2 where usage_date = '2026-05-02' and customer_key = (
						select customer_key from dw.dim_customer where customer_id = $1)`, customer, h.now)
				})
			case event == 18:
				tell("coverage is lost")
				both(func(customer string) {
					h.exec(`delete from ops.coverage where scope = $1 and day = '2026-05-02'`, customer)
				})
			case event == 19:
				tell("accrued is read as running")
				h.exec(`insert into dw.accrued_reading (account, month, reading, reason, decided_by, decided_at) values ('acme', '2026-05-01', 'running', 'test', 'test', $1)
					on conflict do nothing`, h.now)
			}
		}
		h.exec(`delete from dw.accrued_reading`)
		if want, got := h.visible(all), h.visible(some); want != got {
			rt.Fatalf("%s\nread:\n%s\nnot all of it read:\n%s", strings.Join(story, "\n"), want, got)
		}
	})
	if skipped*20 < heard {
		t.Errorf("%d of %d answers were not read: too few to prove anything", skipped, heard)
	}
	t.Logf("%d of %d answers were not read", skipped, heard)
}

func (h *house) mustTerms(rt *rapid.T, customer string, told ...etl.Terms) {
	if _, err := h.terms(customer, told...); err != nil {
		rt.Fatal(err)
	}
}

var runNumber = regexp.MustCompile(`run \d+`)

// visible is everything that is stored about a customer, but for numbers that count loads.
func (h *house) visible(customer string) string {
	all := []string{h.dump(customer)}
	const keyed = ` where customer_key = (select customer_key from dw.dim_customer where customer_id = $1)`
	for _, sql := range []string{
		`select 'level', s.subscription_number, s.discriminator, s.start_at, s.end_at, s.first_seen_at, v.service_level, v.level_ordinal
			from dw.dim_subscription as s left join dw.dim_service_level as v using (subscription_key)
			where s.customer_key = (select customer_key from dw.dim_customer where customer_id = $1) order by 2, 3, 7, 8`,
		`select 'day', v.service_level, v.level_ordinal, f.usage_date, f.invoiced_samples, f.uninvoiced_samples, f.invoiced_known_since, encode(f.pending_digest, 'hex'), f.pending_at,
			f.absent_since, f.restatement_count, f.known_since, encode(f.digest, 'hex')
			from dw.fact_daily_consumption as f join dw.dim_service_level as v using (service_level_key)
			where f.customer_key = (select customer_key from dw.dim_customer where customer_id = $1) order by v.service_level_key, 4`,
		`select 'ledger', usage_date, kind, known_from, known_until, was_invoiced, encode(digest, 'hex') from dw.restatement` + keyed + ` order by restatement_id`,
		`select 'quarantine', path, reason, day, quarantined_at, resolved_at, resolution, is_dismissed from ops.quarantine where scope = $1 order by quarantine_id`,
		`select 'run', dataset, window_from, window_until, status, received, inserted, restated, unchanged, ignored, quarantined, absent, warnings, error, fetched_at
			from mart.run where scope = $1 order by run_id`,
		`select 'first', w.warning, w.first_path from ops.run_warning as w join ops.run as r using (run_id) where r.scope = $1 order by w.run_id, w.warning`,
		`select 'mark', dataset, watermark, last_success_at, expected_from from ops.watermark where scope = $1 order by 2`,
		`select 'total', dataset, counted, kind, total from ops.run_total where scope = $1 order by 2, 3, 4`,
		`select 'landed', fetched_at, window_from, window_until from raw.payload where scope = $1 order by payload_id`,
		`select 'customer', customer_name, account, first_seen_at, seen_at, absent_since from dw.dim_customer where customer_id = $1`,
	} {
		all = append(all, h.rows(sql, customer)...)
	}
	return runNumber.ReplaceAllString(strings.Join(all, "\n"), "run N")
}

// What a reading depends on, and what ends that an answer is known without being read.
func TestRepeatedAnswer(t *testing.T) {
	t.Parallel()
	type scene struct {
		*house
		speech *speech
		before func() // the third time
	}
	now := at("2026-05-15T12:00:00Z")
	first := func(sc *scene) *etl.Sample { return &sc.speech.levels[0].Samples[0] }
	for name, c := range map[string]struct {
		change func(*scene)
		known  bool
	}{
		"nothing":                  {func(*scene) {}, true},
		"an accepted deviation":    {func(sc *scene) { sc.speech.trimmed = true }, true},
		"a flag that nobody tells": {func(sc *scene) { first(sc).Invoiced = etl.Unknown }, false}, // the stored one counts
		"flags that nobody tells": {func(sc *scene) {
			for i := range sc.speech.levels[0].Samples {
				sc.speech.levels[0].Samples[i].Invoiced = etl.Unknown
			}
		}, true},
		"coverage is lost": {func(sc *scene) { sc.before = func() { sc.exec(`delete from ops.coverage`) } }, true},
		"the vendor says something else": {func(sc *scene) {
			sc.before = func() { first(sc).ConsumedTiB = etl.NewDecimal(7) }
		}, false},
		"a flag is turned":      {func(sc *scene) { sc.before = func() { first(sc).Invoiced = etl.True } }, false},
		"a refusal":             {func(sc *scene) { sc.speech.rejects = []etl.Reject{{Path: "/r", Reason: "value_missing"}} }, false},
		"another release":       {func(sc *scene) { sc.before = func() { sc.Warehouse = sc.release("v2") } }, false},
		"an open refusal since": {func(sc *scene) { sc.before = func() { sc.refuse(window("2026-05-10", "2026-05-11")) } }, false},
		"a day marked as absent": {func(sc *scene) {
			sc.before = func() { sc.exec(`update dw.fact_daily_consumption set absent_since = now()`) }
		}, false},
		"a day was restated since": {func(sc *scene) {
			sc.before = func() { sc.exec(`update dw.fact_daily_consumption set digest = '\x00', known_since = now()`) }
		}, false},
		"a flag was written since": {func(sc *scene) {
			sc.before = func() { sc.exec(`update dw.fact_daily_consumption set invoiced_samples = 1, uninvoiced_samples = 1`) }
		}, false},
		"a shrink is pending": {func(sc *scene) {
			sc.before = func() { sc.exec(`update dw.fact_daily_consumption set pending_digest = '\x00', pending_at = now()`) }
		}, false},
		"a new level": {func(sc *scene) { sc.before = func() { sc.mustSay(committed("A-S1", "Extreme=1", "Value=2")) } }, false},
		"a new subscription": {func(sc *scene) {
			sc.before = func() { sc.mustSay(committed("A-S1", "Extreme=1"), committed("A-S2", "Value=2")) }
		}, false},
		"a renewal": {func(sc *scene) {
			sc.before = func() { sc.exec(`update dw.dim_subscription set start_at = '2026-01-01Z'`) }
		}, false},
		"accrued is read as running": {func(sc *scene) {
			sc.before = func() {
				sc.exec(`insert into dw.accrued_reading (account, month, reading, reason, decided_by, decided_at) values ('acme', '2026-05-01', 'running', 'x', 'x', now())`)
			}
		}, false},
		"an older answer":   {func(sc *scene) { sc.before = func() { sc.now = now.Add(-time.Hour) } }, false},
		"another window":    {func(sc *scene) { sc.before = func() { sc.speech.window.Until++ } }, false},
		"nobody knows":      {func(sc *scene) { sc.before = func() { sc.content = nil } }, false},
		"an empty level":    {func(sc *scene) { sc.speech.levels = append(sc.speech.levels, etl.LevelHistory{Level: "Value"}) }, true},
		"a run in between":  {func(sc *scene) { sc.before = func() { sc.between() } }, true},
		"something is gone": {func(sc *scene) { sc.gone() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sc := &scene{house: newHouse(t), before: func() {}}
			sc.now = now
			sc.speech = &speech{window: oneDay, sub: subscription1(), levels: []etl.LevelHistory{extreme(sample(may14, "112.5"), sample(noon, "113"))}}
			c.change(sc)
			sc.content = sc.speech.content()
			say := func() (etl.Outcome, bool) {
				t.Helper()
				out, read, err := sc.listen("C-1", sc.speech)
				if err != nil {
					t.Fatal(err)
				}
				return out, read
			}
			if _, read := say(); !read {
				t.Error("the first answer was not read")
			}
			sc.now = now.Add(24 * time.Hour)
			second, read := say()
			if !read {
				t.Error("the second answer was not read")
			}
			sc.now = now.Add(48 * time.Hour)
			if sc.before(); sc.content != nil {
				sc.content = sc.speech.content()
			}
			touched := `select 'day', xmin, ctid from dw.fact_daily_consumption union all select 'sample', xmin, ctid from dw.fact_consumption_sample
				union all select 'level', xmin, ctid from dw.dim_service_level union all select 'subscription', xmin, ctid from dw.dim_subscription order by 1, 3`
			facts := sc.rows(touched)
			third, read := say()
			if read == c.known {
				t.Errorf("the third answer was read: %v, want %v", read, !c.known)
			}
			if !c.known {
				return
			}
			if third.SameAs == 0 || counts(third) != counts(second) || fmt.Sprint(third.Warnings) != fmt.Sprint(second.Warnings) {
				t.Errorf("got %+v, want that of the second: %+v", third, second)
			}
			if got := sc.rows(touched); !slices.Equal(got, facts) {
				t.Errorf("rows were written\n got %q\nwant %q", got, facts)
			}
			sc.want(`select same_as is not null, reading_sha256 is null, body_sha256 is not null, status from ops.run order by run_id desc limit 1`, "true|true|true|ok")
			sc.want(`select same_as from mart.run order by run_id desc limit 1`, fmt.Sprint(third.SameAs))
			sc.want(`select status from ops.coverage where scope = 'C-1' and day = '2026-05-14'`, "answered")
			sc.want(`select last_success_at from ops.watermark where dataset = 'keystone.history' and scope = 'C-1'`, "2026-05-17 12:00:00+00")
		})
	}
}

// What a vendor's clock is changes nothing of what is read, and what it was is not repeated.
func TestRepeatedAnswerByAnotherClock(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	s := &speech{window: oneDay, sub: subscription1(), trimmed: true, levels: []etl.LevelHistory{extreme(sample(may14, "112.5"))}}
	h.content = s.content()
	skewed := func(by string) etl.Warnings { return etl.Warnings{etl.VendorClockSkewed: {Count: 1, FirstPath: by}} }
	for n, step := range []struct {
		exchange etl.Warnings
		read     bool
	}{
		{skewed("1h"), true}, // something new
		{skewed("2h"), true}, // nothing new: noted
		{nil, false},
		{skewed("3h"), false},
		{nil, false},
		{etl.Warnings{"content_type_unexpected": {Count: 1}}, true},
		{nil, false},
	} {
		h.now = h.now.Add(time.Hour)
		h.warnings = step.exchange
		out, read, err := h.listen("C-1", s)
		if err != nil || read != step.read {
			t.Errorf("answer %d was read: %v, %v; want %v", n+1, read, err, step.read)
		}
		want := etl.Warnings{"trimmed": {Count: 1, FirstPath: "/results/records/0/subscription/number"}}
		maps.Copy(want, step.exchange)
		if !maps.Equal(out.Warnings, want) || out.Partial() {
			t.Errorf("answer %d: warnings %v, partial %v; want %v", n+1, out.Warnings, out.Partial(), want)
		}
	}
}

// release is the same warehouse, opened by another release of the program.
func (h *house) release(name string) *Warehouse {
	w, err := Open(context.Background(), Config{URL: h.url, Owner: "test", Now: func() time.Time { return h.now }, Fixed: true, Log: slog.New(slog.DiscardHandler), Release: name})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(w.Close)
	return w
}

// refuse loads an answer about other days of which a record is refused.
func (h *house) refuse(w etl.Window) {
	h.t.Helper()
	if _, err := h.tell("C-1", w, []etl.Reject{{Path: "/r", Reason: "value_missing"}}, subscription1()); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) mustSay(told ...etl.Terms) {
	h.t.Helper()
	if _, err := h.terms("C-1", told...); err != nil {
		h.t.Fatal(err)
	}
}

// between loads other days of the same series.
func (h *house) between() {
	h.t.Helper()
	h.mustHistory(window("2026-05-10", "2026-05-11"), extreme(sample("2026-05-10T00:00:00Z", "1")))
}

// gone loads a level that nobody delivers again.
func (h *house) gone() {
	h.t.Helper()
	was := h.now
	h.now = was.Add(-24 * time.Hour)
	h.mustHistory(oneDay, extreme(sample(may14, "112.5"), sample(noon, "113")), etl.LevelHistory{Level: "Value", Samples: []etl.Sample{sample(may14, "1")}})
	h.now = was
}

// An answer all of whose records are refused says nothing about absence, whether an earlier one might have
// been repeated or not.
func TestAnswerOfRefusedRecordsIsNoRepeat(t *testing.T) {
	h := newHouse(t)
	second := subscription1()
	second.Number = "A-S2"
	good := func(sink etl.Sink) (etl.Report, error) {
		for _, sub := range []etl.Subscription{subscription1(), second} {
			if err := sink.History(etl.History{Subscription: sub, Levels: []etl.LevelHistory{extreme(sample(may14, "112.5"))}}); err != nil {
				return etl.Report{}, err
			}
		}
		return etl.Report{Records: 2, Received: 2, Warnings: etl.Warnings{}}, nil
	}
	refused := func(sink etl.Sink) (etl.Report, error) {
		return etl.Report{Records: 1, Received: 1, Quarantined: 1, Warnings: etl.Warnings{}},
			sink.Reject(etl.Reject{Path: "/results/records/0/levels", Reason: "value_missing", Subscription: "A-S1"})
	}
	var told []string
	for _, content := range []string{"", "told"} {
		for i, feed := range []func(etl.Sink) (etl.Report, error){good, good, refused} {
			h.now = h.now.Add(24 * time.Hour)
			if h.content = nil; content != "" {
				h.content = fmt.Appendf(nil, "%s %d", content, i/2)
			}
			out, err := h.load(etl.Job{Dataset: "keystone.history", Scope: "C-1" + content, Expected: day("2026-05-14")}, oneDay, feed)
			if err != nil {
				t.Fatal(err)
			}
			told = append(told, fmt.Sprint(out.Absent))
		}
	}
	if !slices.Equal(told[:3], told[3:]) {
		t.Errorf("absent days: got %v, want %v as without a source that tells what is the same", told[3:], told[:3])
	}
}
