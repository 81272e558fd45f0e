package warehouse

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
	"meterhouse/etl/warehouse/warehousetest"
)

// said is what an answer says of some levels and days: samples added and taken away, figures and flags
// changed, days refused in part.
type said struct {
	at      time.Time
	samples map[string]map[etl.Day][]etl.Sample
	partial map[string]map[etl.Day]bool
}

var acrossMonths = window("2026-04-29", "2026-05-03")

func drawSaid(rt *rapid.T) (answers []said) {
	clock := at("2026-05-10T00:00:00Z")
	for range rapid.IntRange(2, 5).Draw(rt, "answers") {
		clock = clock.Add(time.Duration(rapid.IntRange(20, 100).Draw(rt, "minutes")) * time.Minute)
		a := said{clock, map[string]map[etl.Day][]etl.Sample{}, map[string]map[etl.Day]bool{}}
		for _, level := range []string{"Extreme", "Premium", "Value"} {
			a.samples[level], a.partial[level] = map[etl.Day][]etl.Sample{}, map[etl.Day]bool{}
			for d := acrossMonths.From; d < acrossMonths.Until; d++ {
				if rapid.IntRange(0, 7).Draw(rt, "gone") == 0 {
					continue
				}
				uniform := rapid.Bool().Draw(rt, "uniform")
				flag := rapid.SampledFrom([]etl.NullBool{etl.False, etl.True, etl.Unknown})
				of := flag.Draw(rt, "flag")
				for i := range 4 {
					if rapid.IntRange(0, 5).Draw(rt, "without") == 0 {
						continue
					}
					value := 101 + rapid.IntRange(0, 5).Draw(rt, "value")/5 // mostly the same
					s := sample(d.Time().Add(time.Duration(6*i)*time.Hour).Format(time.RFC3339), fmt.Sprint(value))
					if s.Invoiced = of; !uniform {
						s.Invoiced = flag.Draw(rt, "flag")
					}
					a.samples[level][d] = append(a.samples[level][d], s)
				}
				a.partial[level][d] = len(a.samples[level][d]) > 0 && rapid.IntRange(0, 9).Draw(rt, "partial") == 0
			}
		}
		answers = append(answers, a)
	}
	return answers
}

// say loads what an answer says of a window.
func (h *house) say(t interface{ Fatalf(string, ...any) }, customer string, a said, w etl.Window) etl.Outcome {
	h.now = a.at
	out, err := h.load(etl.Job{Dataset: "keystone.history", Scope: customer, Expected: acrossMonths.From}, w, func(sink etl.Sink) (etl.Report, error) {
		report := etl.Report{Records: 1, Warnings: etl.Warnings{}}
		rec := etl.History{Subscription: subscription1()}
		for _, name := range []string{"Extreme", "Premium", "Value"} {
			l := etl.LevelHistory{Level: name, PartialDays: map[etl.Day]bool{}}
			for d := w.From; d < w.Until; d++ {
				l.Samples = append(l.Samples, a.samples[name][d]...)
				if a.partial[name][d] {
					l.PartialDays[d] = true
					report.Quarantined++
					if err := sink.Reject(etl.Reject{Path: "/" + name + "/" + d.String(), Reason: "value_missing", Excerpt: "null", Subscription: "A-S1", Level: name, Day: &d}); err != nil {
						return report, err
					}
				}
			}
			report.Received += len(l.Samples)
			rec.Levels = append(rec.Levels, l)
		}
		report.Received += report.Quarantined
		err := sink.History(rec)
		for _, l := range rec.Levels { // as a transform does that uses its memory again
			clear(l.Samples)
		}
		return report, err
	})
	if err != nil {
		t.Fatalf("%s at %s: %v", customer, a.at, err)
	}
	return out
}

// TestChangesTogetherAreAsOneByOne loads the same answers into two customers: all levels and days at once,
// and day by day, each day as an answer of its own. Whatever is stored must be the same, and so must the
// counts be, also where answers come late.
func TestChangesTogetherAreAsOneByOne(t *testing.T) {
	h := newHouse(t)
	customers := 0
	rapid.Check(t, func(rt *rapid.T) {
		answers := drawSaid(rt)
		late := rapid.IntRange(0, 3).Draw(rt, "late") == 0
		if late {
			answers = rapid.Permutation(answers).Draw(rt, "order")
		}
		customers++
		together, apart := fmt.Sprintf("together-%d", customers), fmt.Sprintf("apart-%d", customers)
		for _, a := range answers {
			all := h.say(rt, together, a, acrossMonths)
			sum := etl.Outcome{Warnings: etl.Warnings{}}
			for d := acrossMonths.From; d < acrossMonths.Until; d++ {
				sum.Add(h.say(rt, apart, a, etl.Window{From: d, Until: d + 1}))
			}
			if got, want := counts(all), counts(sum); got != want {
				rt.Fatalf("at %s: together %s, one by one %s", a.at, got, want)
			}
			for name, w := range sum.Warnings {
				if name != "older_observation" && all.Warnings[name].Count != w.Count {
					rt.Fatalf("at %s: warning %s: together %d, one by one %d", a.at, name, all.Warnings[name].Count, w.Count)
				}
			}
			if odd := h.rows(unlikeSamples, together); len(odd) > 0 && !late { // a late one that brings samples back says nothing of their flags
				rt.Fatalf("at %s: daily rows unlike their samples:\n%s\n%s", a.at, strings.Join(odd, "\n"), h.everything(together))
			}
			if got, want := h.everything(together), h.everything(apart); got != want {
				rt.Fatalf("at %s\ntogether:\n%s\none by one:\n%s", a.at, got, want)
			}
		}
	})
}

// unlikeSamples are the daily rows of a customer whose counts and last figure are not those of its samples.
const unlikeSamples = `
	select d.usage_date, d.sample_count, s.n, d.invoiced_samples, s.invoiced, d.uninvoiced_samples, s.uninvoiced, d.consumed_last_tib, s.last
	from dw.dim_customer
	join dw.fact_daily_consumption as d using (customer_key)
	cross join lateral (
		select count(*) as n, count(*) filter (where f.is_invoiced) as invoiced, count(*) filter (where not f.is_invoiced) as uninvoiced,
			(array_agg(f.consumed_tib order by f.sampled_at desc))[1] as last
		from dw.fact_consumption_sample as f
		where f.customer_key = d.customer_key and f.service_level_key = d.service_level_key and (f.sampled_at at time zone 'UTC')::date = d.usage_date
	) as s
	where customer_id = $1 and (d.sample_count, d.invoiced_samples, d.uninvoiced_samples, d.consumed_last_tib)
		is distinct from (s.n, s.invoiced, s.uninvoiced, s.last)`

// everything is what is stored of a customer's history, without the numbers of runs and payloads.
func (h *house) everything(customer string) string {
	const of = ` from dw.dim_customer join %s as f using (customer_key) join dw.dim_service_level using (service_level_key) where customer_id = $1 order by `
	all := h.rows(`select service_level, sampled_at, committed_tib, consumed_tib, burst_tib, accrued_burst_tib, is_invoiced`+
		fmt.Sprintf(of, "dw.fact_consumption_sample")+`1, 2`, customer)
	all = append(all, h.rows(`select service_level, usage_date, sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
		burst_avg_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, is_invoiced, invoiced_samples, uninvoiced_samples, invoiced_known_since,
		encode(digest, 'hex'), encode(pending_digest, 'hex'), pending_at, known_since, restatement_count, f.absent_since`+
		fmt.Sprintf(of, "dw.fact_daily_consumption")+`1, 2`, customer)...)
	return strings.Join(append(all, h.rows(`select service_level, usage_date, kind, sample_count, consumed_avg_tib, accrued_sum_tib, was_invoiced,
		encode(digest, 'hex'), known_from, known_until`+fmt.Sprintf(of, "dw.restatement")+`1, 2, known_from, known_until, kind, 8`, customer)...), "\n")
}

// newCounted is a house whose statements are counted.
func newCounted(t testing.TB) (*house, *warehousetest.Counter) {
	t.Helper()
	h := &house{t: t, url: warehousetest.New(t), now: at("2026-05-15T12:00:00Z")}
	counter := warehousetest.NewCounter(t, h.url)
	w, err := Open(t.Context(), Config{
		URL: counter.URL, Owner: "test", Now: func() time.Time { return h.now }, Fixed: true, LeaseFor: time.Hour, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	h.Warehouse = w
	return h, counter
}

// However many days of a window change, it takes the same statements.
func TestStatementsDoNotGrowWithChangedDays(t *testing.T) {
	h, counter := newCounted(t)
	month := window("2026-04-01", "2026-05-01")
	one := func(level int, d etl.Day) bool { return level == 7 && d == month.From+20 }
	all := func(int, etl.Day) bool { return true }
	none := func(int, etl.Day) bool { return false }
	f := &fleet{levels: 20, perDay: 4}
	load := func(touched, invoiced func(int, etl.Day) bool) []string {
		t.Helper()
		f.touched, f.invoiced = touched, invoiced
		counter.Reset()
		h.fleet(f, month)
		return counter.Statements()
	}
	for range 2 { // new, then everything once, which prepares the statements
		load(none, none)
		load(all, none)
		load(all, all)
	}
	for _, c := range []struct {
		what                      string
		before, one, between, all [2]func(int, etl.Day) bool // figures touched, flags true
	}{
		{"restated", [2]func(int, etl.Day) bool{none, none}, [2]func(int, etl.Day) bool{one, none}, [2]func(int, etl.Day) bool{none, none}, [2]func(int, etl.Day) bool{all, none}},
		{"invoiced", [2]func(int, etl.Day) bool{none, none}, [2]func(int, etl.Day) bool{none, one}, [2]func(int, etl.Day) bool{none, none}, [2]func(int, etl.Day) bool{none, all}},
		{"taken back", [2]func(int, etl.Day) bool{none, one}, [2]func(int, etl.Day) bool{none, none}, [2]func(int, etl.Day) bool{none, all}, [2]func(int, etl.Day) bool{none, none}},
	} {
		load(c.before[0], c.before[1])
		few := load(c.one[0], c.one[1])
		load(c.between[0], c.between[1])
		many := load(c.all[0], c.all[1])
		if !slices.Equal(few, many) {
			t.Errorf("%s: one day took\n%s\n600 days took\n%s", c.what, strings.Join(few, "\n"), strings.Join(many, "\n"))
		}
	}
}

// More days than are held back are written in several goes.
func TestManyChangedDays(t *testing.T) {
	h, counter := newCounted(t)
	month := window("2026-04-01", "2026-05-01")
	f := &fleet{levels: 160, perDay: 4} // 4,800 days, 19,200 samples
	h.fleet(f, month)
	load := func(touched, invoiced func(int, etl.Day) bool, want string) int {
		t.Helper()
		f.touched, f.invoiced = touched, invoiced
		counter.Reset()
		wantCounts(t, h.fleet(f, month), want)
		return len(slices.DeleteFunc(counter.Statements(), func(sql string) bool { return strings.HasPrefix(sql, "insert into ops.run_warning") }))
	}
	one := func(level int, d etl.Day) bool { return level == 7 && d == month.From+20 }
	all := func(int, etl.Day) bool { return true }
	none := func(int, etl.Day) bool { return false }
	const all4 = "received 19200 inserted 0 restated %d unchanged %d ignored 0 quarantined 0 absent 0"

	few := load(one, none, fmt.Sprintf(all4, 1, 19199))
	many := load(all, none, fmt.Sprintf(all4, 4799, 14401))
	if most := few + 20; many > most {
		t.Errorf("4,799 changed days: got %d statements, want at most %d; one day took %d", many, most, few)
	}
	h.want(`select count(*), count(distinct service_level_key), sum(restatement_count) from dw.fact_daily_consumption`, "4800|160|4800")
	h.want(`select count(*), count(*) filter (where kind = 'restated') from dw.restatement`, "4800|4800")
	h.want(`select count(*) from dw.fact_daily_consumption as d
		where d.consumed_last_tib <> (select consumed_tib from dw.fact_consumption_sample as s
			where s.customer_key = d.customer_key and s.service_level_key = d.service_level_key and s.sampled_at = d.usage_date + time '18:00' at time zone 'UTC')`, "0")

	load(all, all, fmt.Sprintf(all4, 0, 19200))
	h.want(`select count(*) from dw.fact_consumption_sample where is_invoiced`, "19200")
	h.want(`select count(*) from dw.fact_daily_consumption where is_invoiced and invoiced_samples = 4 and invoiced_known_since is not null`, "4800")
	load(all, none, fmt.Sprintf(all4, 19200, 0))
	h.want(`select count(*) from dw.fact_consumption_sample where not is_invoiced`, "19200")
	h.want(`select count(*), sum(restatement_count) from dw.fact_daily_consumption where not is_invoiced`, "4800|9600")
}
