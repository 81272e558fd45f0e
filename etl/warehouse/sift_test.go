package warehouse

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
)

// refuseRows makes the database refuse rows of a table for which the condition holds, as somebody's trigger would.
func (h *house) refuseRows(table, when string) {
	h.t.Helper()
	h.exec(fmt.Sprintf(`
		create or replace function public.refuse() returns trigger language plpgsql as $$ begin raise exception 'not this one'; end $$;
		create or replace trigger refuse before insert or update on %s for each row when (%s) execute function public.refuse()`, table, when))
}

func (h *house) refuseNothing(table string) {
	h.t.Helper()
	h.exec(`drop trigger refuse on ` + table)
}

const refusedRows = `select concat_ws(' ', subscription_number, service_level, description, day), reason, regexp_replace(excerpt, ', content [0-9a-f]{16}$', ''), resolved_at is not null
	from ops.quarantine order by 1`

const threeDaysOf = `select s.subscription_number, v.service_level, v.level_ordinal, count(*) from dw.fact_daily_consumption
	join dw.dim_service_level as v using (service_level_key) join dw.dim_subscription as s using (subscription_key)
	group by 1, 2, 3 order by 1, 2, 3`

// threeDays are three days of two samples each, all of the same consumption.
func threeDays(name, consumed string) etl.LevelHistory {
	return lev(name, dailyTwice(consumed, consumed, consumed)...)
}

// dailyTwice are two samples of each day from 12 May on, with the day's consumption.
func dailyTwice(consumed ...string) (samples []etl.Sample) {
	for i, tib := range consumed {
		at := threeDaysOfMay.From + etl.Day(i)
		samples = append(samples, sample(at.String()+"T00:00:00Z", tib), sample(at.String()+"T12:00:00Z", tib))
	}
	return samples
}

var threeDaysOfMay = window("2026-05-12", "2026-05-15")

// threeSubscriptions says it anew from a restart, as a transform does that meets a repeated number.
func threeSubscriptions(sink etl.Sink) (etl.Report, error) {
	report := etl.Report{Warnings: etl.Warnings{}}
	if err := sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{threeDays("Other", "1")}}); err != nil {
		return report, err
	}
	if err := sink.Restart(); err != nil {
		return report, err
	}
	for _, number := range []string{"A-S1", "A-S2", "A-S3"} {
		sub := subscription1()
		sub.Number = number
		report.Records, report.Received = report.Records+1, report.Received+24
		if err := sink.History(etl.History{Subscription: sub, Levels: []etl.LevelHistory{
			threeDays("Extreme", "110"), threeDays("Standard", "90"), threeDays("Standard", "50"), threeDays("Object", "70"),
		}}); err != nil {
			return report, err
		}
	}
	return report, nil
}

func TestDatabaseRefusesParts(t *testing.T) {
	t.Parallel()
	all := []string{
		"A-S1|Extreme|0|3", "A-S1|Object|0|3", "A-S1|Standard|0|3", "A-S1|Standard|1|3",
		"A-S2|Extreme|0|3", "A-S2|Object|0|3", "A-S2|Standard|0|3", "A-S2|Standard|1|3",
		"A-S3|Extreme|0|3", "A-S3|Object|0|3", "A-S3|Standard|0|3", "A-S3|Standard|1|3",
	}
	const words = "constraint_violation|not this one (SQLSTATE P0001)|false"
	for _, c := range []struct {
		name, table, when string
		counts            string
		refused           []string
		lost              map[string]string // what the lines of all are instead
		days              string            // status of the three days
	}{
		{
			"a day", "dw.fact_daily_consumption", `new.usage_date = '2026-05-13' and new.consumed_avg_tib = 110 and new.customer_key > 0`,
			"received 69 inserted 66 restated 0 unchanged 0 ignored 0 quarantined 3 absent 0",
			[]string{"A-S1 Extreme 2026-05-13|" + words, "A-S2 Extreme 2026-05-13|" + words, "A-S3 Extreme 2026-05-13|" + words},
			map[string]string{"A-S1|Extreme|0|3": "A-S1|Extreme|0|2", "A-S2|Extreme|0|3": "A-S2|Extreme|0|2", "A-S3|Extreme|0|3": "A-S3|Extreme|0|2"},
			"answered partial answered",
		},
		{
			"a sample", "dw.fact_consumption_sample", `new.sampled_at = '2026-05-14 12:00:00Z' and new.consumed_tib = 70`,
			"received 69 inserted 66 restated 0 unchanged 0 ignored 0 quarantined 3 absent 0",
			[]string{"A-S1 Object 2026-05-14|" + words, "A-S2 Object 2026-05-14|" + words, "A-S3 Object 2026-05-14|" + words},
			map[string]string{"A-S1|Object|0|3": "A-S1|Object|0|2", "A-S2|Object|0|3": "A-S2|Object|0|2", "A-S3|Object|0|3": "A-S3|Object|0|2"},
			"answered answered partial",
		},
		{
			"a level", "dw.dim_service_level", `new.service_level = 'Standard' and new.level_ordinal = 1`,
			"received 42 inserted 36 restated 0 unchanged 0 ignored 0 quarantined 6 absent 0", // both instances of the name
			[]string{"A-S1 Standard|" + words, "A-S1 Standard|" + words, "A-S2 Standard|" + words, "A-S2 Standard|" + words, "A-S3 Standard|" + words, "A-S3 Standard|" + words},
			map[string]string{
				"A-S1|Standard|0|3": "", "A-S1|Standard|1|3": "", "A-S2|Standard|0|3": "", "A-S2|Standard|1|3": "", "A-S3|Standard|0|3": "", "A-S3|Standard|1|3": "",
			},
			"partial partial partial",
		},
		{
			"a subscription", "dw.dim_subscription", `new.subscription_number = 'A-S2'`,
			"received 49 inserted 48 restated 0 unchanged 0 ignored 0 quarantined 1 absent 0",
			[]string{"A-S2|" + words},
			map[string]string{"A-S2|Extreme|0|3": "", "A-S2|Object|0|3": "", "A-S2|Standard|0|3": "", "A-S2|Standard|1|3": ""},
			"partial partial partial",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.refuseRows(c.table, c.when)
			out, err := h.load(historyJob, threeDaysOfMay, threeSubscriptions)
			if err != nil {
				t.Fatal(err)
			}
			wantCounts(t, out, c.counts)
			h.want(refusedRows, c.refused...)
			var left []string
			for _, line := range all {
				if instead, ok := c.lost[line]; !ok {
					left = append(left, line)
				} else if instead != "" {
					left = append(left, instead)
				}
			}
			h.want(threeDaysOf, left...)
			h.want(`select string_agg(status, ' ' order by day) from ops.coverage`, c.days)
			h.want(`select status, count(*) from ops.run group by 1`, "partial|1")
			h.want(`select count(*) from raw.payload as p join ops.quarantine as q using (payload_id)`, h.rows(`select count(*) from ops.quarantine`)...)

			// It is refused as long as it is, by the same row, and no longer.
			h.now = h.now.Add(24 * time.Hour)
			before := h.rows(refusedRows)
			if _, err := h.load(historyJob, threeDaysOfMay, threeSubscriptions); err != nil {
				t.Fatal(err)
			}
			h.want(refusedRows, before...)
			h.refuseNothing(c.table)
			h.now = h.now.Add(24 * time.Hour)
			out, err = h.load(historyJob, threeDaysOfMay, threeSubscriptions)
			if err != nil || out.Quarantined+out.Restated+out.Absent != 0 || out.Inserted == 0 {
				t.Errorf("%s, %v", counts(out), err)
			}
			h.want(threeDaysOf, all...)
			h.want(`select count(*) from ops.quarantine where resolved_at is null`, "0")
			h.want(`select string_agg(status, ' ' order by day) from ops.coverage`, "answered answered answered")
		})
	}
}

// What is stored stays as it is when its new figures are refused, and is not called absent.
func TestDatabaseRefusesARestatement(t *testing.T) {
	h := newHouse(t)
	h.mustHistory(threeDaysOfMay, threeDays("Extreme", "110"), threeDays("Standard", "90"))
	h.refuseRows("dw.fact_daily_consumption", `new.usage_date = '2026-05-13' and new.consumed_avg_tib = 120`)
	h.now = h.now.Add(24 * time.Hour)
	wantCounts(t, h.mustHistory(threeDaysOfMay, threeDays("Extreme", "120"), threeDays("Standard", "95")),
		"received 11 inserted 0 restated 10 unchanged 0 ignored 0 quarantined 1 absent 0")
	h.want(`select usage_date, service_level, consumed_avg_tib::int, absent_since is null, digest is null from dw.fact_daily_consumption
			join dw.dim_service_level using (service_level_key) order by 2, 1`,
		"2026-05-12|Extreme|120|true|false", "2026-05-13|Extreme|110|true|false", "2026-05-14|Extreme|120|true|false",
		"2026-05-12|Standard|95|true|false", "2026-05-13|Standard|95|true|false", "2026-05-14|Standard|95|true|false")
	h.want(`select string_agg(status, ' ' order by day) from ops.coverage`, "answered answered answered") // the best answer of a day stays
	h.want(refusedRows, "A-S1 Extreme 2026-05-13|constraint_violation|not this one (SQLSTATE P0001)|false")
}

// A second instance of a level that cannot be stored does not make the days of the first one absent: which one is
// which is not known.
func TestDatabaseRefusesANewInstance(t *testing.T) {
	h := newHouse(t)
	h.mustHistory(threeDaysOfMay, threeDays("Standard", "90"), threeDays("Extreme", "110"))
	h.refuseRows("dw.dim_service_level", `new.level_ordinal = 1`)
	h.now = h.now.Add(24 * time.Hour)
	wantCounts(t, h.mustHistory(threeDaysOfMay, threeDays("Standard", "90"), threeDays("Standard", "50"), threeDays("Extreme", "110")),
		"received 8 inserted 0 restated 0 unchanged 6 ignored 0 quarantined 2 absent 0")
	h.want(`select count(*), count(absent_since) from dw.fact_daily_consumption`, "6|0")
}

func TestDatabaseRefusesByConstraint(t *testing.T) {
	for name, c := range map[string]struct {
		sql    string
		loaded []string
		words  string
		rows   string
	}{
		"check": {
			`alter table dw.fact_daily_consumption add constraint not_much check (consumed_avg_tib < 100)`,
			[]string{"A-S1|Standard|0|3"}, `violates check constraint "not_much" (SQLSTATE 23514)`, "3",
		},
		"type": {
			`alter table dw.fact_consumption_sample alter consumed_tib type numeric(4, 2)`,
			[]string{"A-S1|Standard|0|3"}, `numeric field overflow (SQLSTATE 22003)`, "3",
		},
		// Each of the two levels may be stored, both may not: nobody can say which one is wrong.
		"unique": {
			`alter table dw.dim_service_level add constraint only_one unique (subscription_key)`,
			nil, `duplicate key value violates unique constraint "only_one" (SQLSTATE 23505)`, "1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.exec(c.sql)
			if _, err := h.history(threeDaysOfMay, threeDays("Extreme", "110"), threeDays("Standard", "90")); err != nil {
				t.Fatal(err)
			}
			for _, line := range h.rows(`select excerpt from ops.quarantine`) {
				if !strings.Contains(line, c.words) {
					t.Errorf("got %s, want %s", line, c.words)
				}
			}
			h.want(`select count(*) from ops.quarantine`, c.rows)
			h.want(threeDaysOf, c.loaded...)
		})
	}
}

// A month without a partition is no fault of its days: the load fails, and the next run makes the month.
func TestDatabaseHasNoPartition(t *testing.T) {
	h := newHouse(t)
	_, err := h.history(threeDaysOfMay, extreme(sample("2031-05-12T00:00:00Z", "110")))
	if err == nil || !strings.Contains(err.Error(), "no partition") {
		t.Errorf("got %v", err)
	}
	h.want(`select count(*) from ops.quarantine`, "0")
}

func TestDatabaseRefusesOtherRecords(t *testing.T) {
	const words = "constraint_violation|not this one (SQLSTATE P0001)|false"
	t.Run("commitments", func(t *testing.T) {
		h := newHouse(t)
		if _, err := h.terms("C-1", committed("A-S1", "Extreme=100", "Standard=50"), committed("A-S2", "Extreme=70")); err != nil {
			t.Fatal(err)
		}
		h.refuseRows("dw.fact_commitment", `new.committed_tib = 51`)
		h.now = h.now.Add(24 * time.Hour)
		out, err := h.terms("C-1", committed("A-S1", "Extreme=101", "Standard=51"), committed("A-S2", "Extreme=71"))
		if err != nil {
			t.Fatal(err)
		}
		wantCounts(t, out, "received 3 inserted 0 restated 2 unchanged 0 ignored 0 quarantined 1 absent 0")
		h.want(`select committed_tib::int, absent_since is null from dw.fact_commitment where valid_to is null order by 1`, "50|true", "71|true", "101|true")
	})
	t.Run("readings", func(t *testing.T) {
		h := newHouse(t)
		h.refuseRows("dw.fact_service_level", `new.consumed_tib = 51`)
		reading := func(level, consumed string) etl.LevelReading {
			return etl.LevelReading{Level: level, CommittedTiB: etl.NewDecimal(100), ConsumedTiB: etl.MustDecimal(consumed)}
		}
		h.readings("C-1", nil, reading("Extreme", "50"), reading("Standard", "51"), reading("Object", "52"))
		h.want(`select consumed_tib::int from dw.fact_service_level order by 1`, "50", "52")
		h.want(refusedRows, "A-S1 Standard|"+words)
		h.want(`select received, inserted, quarantined, status from ops.run`, "3|2|1|partial")
	})
	t.Run("customers", func(t *testing.T) {
		h := newHouse(t)
		list := func(ids ...string) (etl.Outcome, error) {
			h.now = h.now.Add(time.Hour)
			return h.load(etl.Job{Dataset: "keystone.customers", Scope: "acme", Snapshot: true}, etl.Window{}, func(sink etl.Sink) (etl.Report, error) {
				for _, id := range ids {
					if err := sink.Customer(etl.Customer{ID: id, Name: ptr("Name of " + id)}); err != nil {
						return etl.Report{}, err
					}
				}
				return etl.Report{Received: len(ids), Records: len(ids), Warnings: etl.Warnings{}}, nil
			})
		}
		if _, err := list("C-1", "C-2"); err != nil {
			t.Fatal(err)
		}
		h.refuseRows("dw.dim_customer", `new.customer_id = 'C-3'`)
		out, err := list("C-3", "C-2", "C-4")
		if err != nil {
			t.Fatal(err)
		}
		wantCounts(t, out, "received 3 inserted 1 restated 0 unchanged 1 ignored 0 quarantined 1 absent 0")
		h.want(refusedRows, "|constraint_violation|C-3: not this one (SQLSTATE P0001)|false")
	})
	t.Run("licences", func(t *testing.T) {
		l := newLicences(t, time.Hour)
		l.refuseRows("dw.fact_license_reading", `new.items = 13`)
		wantCounts(t, l.read("2026-05-15 08:00", "chat_licenses", "12"), "received 1 inserted 1 restated 0 unchanged 0 ignored 0 quarantined 0 absent 0")
		wantCounts(t, l.read("2026-05-15 09:00", "chat_licenses", "13"), "received 1 inserted 0 restated 0 unchanged 0 ignored 0 quarantined 1 absent 0")
		l.want(refusedRows, "chat_licenses 2026-05-15|"+words)
		l.want(`select items::int from dw.fact_license_snapshot`, "12")
	})
}

// A fault that is not of any record fails the load as it is, and so do too many refusals.
func TestDatabaseRefusesEverything(t *testing.T) {
	for name, table := range map[string]string{"not a record": "ops.coverage", "every record": "dw.fact_daily_consumption"} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.refuseRows(table, `true`)
			var levels []etl.LevelHistory
			for i := range maxCulprits {
				levels = append(levels, lev(fmt.Sprint("Level ", i), sample("2026-05-12T00:00:00Z", "1"), sample("2026-05-13T00:00:00Z", "1")))
			}
			_, err := h.history(threeDaysOfMay, levels...)
			if err == nil || !strings.Contains(err.Error(), "not this one") {
				t.Fatalf("got %v", err)
			}
			h.want(`select status from ops.run`, "failed")
			for _, empty := range []string{"ops.coverage", "ops.quarantine", "dw.fact_daily_consumption", "dw.fact_consumption_sample", "dw.dim_subscription"} {
				h.want(`select count(*) from `+empty, "0")
			}
		})
	}
}

// Whatever days the database refuses, all others are loaded, and those are in quarantine.
func TestDatabaseRefusesAnyDays(t *testing.T) {
	h := newHouse(t)
	h.exec(`create table public.unwanted (consumed numeric)`)
	h.exec(`create function public.refuse() returns trigger language plpgsql as $$ begin
			if exists (select from public.unwanted where consumed = new.consumed_tib) then raise exception 'not this one'; end if;
			return new;
		end $$`)
	h.exec(`create trigger refuse before insert or update on dw.fact_consumption_sample for each row execute function public.refuse()`)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		customer := fmt.Sprint("C-", n)
		var wanted, refused []string
		var unwanted []int
		var told []etl.History
		received, consumed := 0, 0
		for s := range rapid.IntRange(1, 5).Draw(rt, "subscriptions") {
			rec := etl.History{Subscription: subscription1()}
			rec.Number = fmt.Sprint("S-", s)
			for v := range rapid.IntRange(0, 3).Draw(rt, "levels") {
				level := etl.LevelHistory{Level: fmt.Sprint("Level ", v)}
				for d := threeDaysOfMay.From; d < threeDaysOfMay.Until; d++ {
					if rapid.IntRange(0, 3).Draw(rt, "day is told") == 0 {
						continue
					}
					consumed++
					level.Samples = append(level.Samples, sample(d.Time().Format(time.RFC3339), fmt.Sprint(consumed)))
					name := fmt.Sprintf("%s|%s|%s", rec.Number, level.Level, d)
					if rapid.IntRange(0, 4).Draw(rt, "day is refused") == 0 {
						unwanted, refused = append(unwanted, consumed), append(refused, name)
					} else {
						wanted = append(wanted, name)
					}
				}
				received += len(level.Samples)
				rec.Levels = append(rec.Levels, level)
			}
			told = append(told, rec)
		}
		h.exec(`truncate public.unwanted`)
		h.exec(`insert into public.unwanted select unnest($1::int[])`, unwanted)
		out, err := h.load(etl.Job{Dataset: "keystone.history", Scope: customer, Expected: day("2026-01-01"), Settle: 2 * time.Hour}, threeDaysOfMay,
			func(sink etl.Sink) (etl.Report, error) {
				for _, rec := range told {
					rec.Levels = slices.Clone(rec.Levels)
					if err := sink.History(rec); err != nil {
						return etl.Report{}, err
					}
				}
				return etl.Report{Received: received, Records: len(told), Warnings: etl.Warnings{}}, nil
			})
		if err != nil {
			rt.Fatal(err)
		}
		if want := fmt.Sprintf("received %d inserted %d restated 0 unchanged 0 ignored 0 quarantined %d absent 0", received, len(wanted), len(refused)); counts(out) != want {
			rt.Fatalf("got %s, want %s", counts(out), want)
		}
		for what, sql := range map[string]string{
			"loaded": `select s.subscription_number, v.service_level, d.usage_date from dw.fact_daily_consumption as d
				join dw.dim_service_level as v using (service_level_key) join dw.dim_subscription as s using (subscription_key)
				join dw.dim_customer as c on c.customer_key = d.customer_key
				where c.customer_id = $1 order by 1, 2, 3`,
			"refused": `select subscription_number, service_level, day from ops.quarantine where scope = $1 order by 1, 2, 3`,
		} {
			want := wanted
			if what == "refused" {
				want = refused
			}
			if got := h.rows(sql, customer); !slices.Equal(got, want) {
				rt.Fatalf("%s %q, want %q", what, got, want)
			}
		}
	})
}

// subscriptions tells histories of subscriptions A-S1, A-S2 and so on, each with one level.
func subscriptions(levels ...etl.LevelHistory) told {
	return func(sink etl.Sink) (etl.Report, error) {
		report := etl.Report{Records: len(levels), Warnings: etl.Warnings{}}
		for i, l := range levels {
			report.Received += len(l.Samples)
			sub := subscription1()
			sub.Number = fmt.Sprintf("A-S%d", i+1)
			if err := sink.History(etl.History{Subscription: sub, Levels: []etl.LevelHistory{l}}); err != nil {
				return report, err
			}
		}
		return report, nil
	}
}

const daysOfAll = `select s.subscription_number, string_agg(d.consumed_avg_tib::int::text || case when absent_since is null then '' else ' absent' end, ' ' order by d.usage_date)
	from dw.fact_daily_consumption as d
	join dw.dim_service_level as v using (service_level_key) join dw.dim_subscription as s using (subscription_key)
	group by 1 order by 1`

// A stored row that nobody may touch is not taken for a fault of other records, whose trial leaves it out.
func TestDatabaseRefusesAFrozenRow(t *testing.T) {
	h := newHouse(t)
	h.loadTold(threeDaysOfMay, historyJob, subscriptions(threeDays("Extreme", "110"), threeDays("Extreme", "90"), threeDays("Extreme", "70")))
	frozen := h.rows(`select service_level_key from dw.dim_service_level join dw.dim_subscription using (subscription_key) where subscription_number = 'A-S2'`)[0]
	h.refuseRows("dw.fact_daily_consumption", `new.usage_date = '2026-05-13' and new.service_level_key = `+frozen)
	t.Run("restated", func(t *testing.T) {
		h.now = h.now.Add(24 * time.Hour)
		out, err := h.load(historyJob, threeDaysOfMay, subscriptions(threeDays("Extreme", "111"), threeDays("Extreme", "91"), threeDays("Extreme", "71")))
		if err != nil {
			t.Fatal(err)
		}
		wantCounts(t, out, "received 17 inserted 0 restated 16 unchanged 0 ignored 0 quarantined 1 absent 0")
		h.want(daysOfAll, "A-S1|111 111 111", "A-S2|91 90 91", "A-S3|71 71 71")
		h.want(refusedRows, "A-S2 Extreme 2026-05-13|constraint_violation|not this one (SQLSTATE P0001)|false")
	})
	t.Run("not told", func(t *testing.T) { // its absence is no record's fault
		h.now = h.now.Add(24 * time.Hour)
		_, err := h.load(historyJob, threeDaysOfMay, subscriptions(threeDays("Extreme", "112")))
		if err == nil || !strings.Contains(err.Error(), "not this one") {
			t.Errorf("got %v", err)
		}
		h.want(daysOfAll, "A-S1|111 111 111", "A-S2|91 90 91", "A-S3|71 71 71")
		h.want(`select count(*) from ops.quarantine`, "1")
	})
}

// What is refused and not wanted was told all the same: what is stored of it is not absent.
func TestDatabaseRefusesWhatIsDismissed(t *testing.T) {
	h := newHouse(t)
	h.mustHistory(threeDaysOfMay, threeDays("Extreme", "110"))
	h.refuseRows("dw.fact_daily_consumption", `new.usage_date = '2026-05-13' and new.consumed_avg_tib > 110`)
	h.now = h.now.Add(24 * time.Hour)
	h.mustHistory(threeDaysOfMay, threeDays("Extreme", "120"))
	if err := h.Dismiss(context.Background(), []int64{1}, "ana", "not wanted"); err != nil {
		t.Fatal(err)
	}
	h.now = h.now.Add(24 * time.Hour)
	wantCounts(t, h.mustHistory(threeDaysOfMay, threeDays("Extreme", "120")),
		"received 5 inserted 0 restated 0 unchanged 4 ignored 1 quarantined 0 absent 0")
	h.want(daysOfAll, "A-S1|120 110 120")
	// Nor does a dismissal hide other figures, refused by the same words.
	h.now = h.now.Add(24 * time.Hour)
	wantCounts(t, h.mustHistory(threeDaysOfMay, threeDays("Extreme", "125")),
		"received 5 inserted 0 restated 4 unchanged 0 ignored 0 quarantined 1 absent 0")
	h.want(daysOfAll, "A-S1|125 110 125")
}

// What is refused by the same words as before, and says something else, is another refusal: its answer is landed, for
// a retry to find.
func TestDatabaseRefusesOtherFiguresAlike(t *testing.T) {
	h := newHouse(t)
	h.refuseRows("dw.fact_daily_consumption", `new.usage_date = '2026-05-13'`)
	job := etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: day("2026-01-01"), Settle: 2 * time.Hour}
	by := map[int64]told{}
	for _, f := range []told{histories(threeDays("Extreme", "110")), histories(threeDays("Extreme", "110")), histories(lev("Extreme", dailyTwice("110", "120", "110")...))} {
		h.now = h.now.Add(24 * time.Hour)
		by[h.loadTold(threeDaysOfMay, job, f)] = f
	}
	h.want(`select count(*), count(distinct payload_id) from ops.quarantine where resolved_at is null`, "2|2")
	h.refuseNothing("dw.fact_daily_consumption")
	h.now = h.now.Add(24 * time.Hour)
	replayAll(h, job, threeDaysOfMay, by)
	h.want(daysOfAll, "A-S1|110 120 110")
	h.want(`select count(*) from ops.quarantine where resolved_at is null`, "0")
}

// What others did at the same moment repeats the load, wherever in a search it is met.
func TestSearchIsRepeatedAfterADeadlock(t *testing.T) {
	for _, c := range []struct{ name, code string }{{"deadlock", "40P01"}, {"serialization", "40001"}, {"unique", "23505"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.exec(fmt.Sprintf(`
				create sequence public.times;
				create table public.moment (at bigint);
				create function public.refuse() returns trigger language plpgsql as $$ begin
					if nextval('public.times') = (select at from public.moment) then raise exception 'somebody else' using errcode = '%s'; end if;
					if new.usage_date = '2026-05-13' then raise exception 'not this one'; end if;
					return new;
				end $$;
				create trigger refuse before insert on dw.fact_daily_consumption for each row execute function public.refuse()`, c.code))
			for moment := range 15 {
				h.exec(`truncate public.moment`)
				h.exec(`insert into public.moment select nextval('public.times') + $1`, moment)
				out, err := h.load(etl.Job{Dataset: "keystone.history", Scope: fmt.Sprint("C-", moment)}, threeDaysOfMay, histories(threeDays("Extreme", "110")))
				if err != nil {
					t.Fatalf("moment %d: %v", moment, err)
				}
				if got, want := counts(out), "received 5 inserted 4 restated 0 unchanged 0 ignored 0 quarantined 1 absent 0"; got != want {
					t.Errorf("moment %d: got %s, want %s", moment, got, want)
				}
			}
		})
	}
}

// As many refusals as are allowed are found, wherever they are, and one more is too many.
func TestDatabaseRefusesManyDays(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.refuseRows("dw.fact_daily_consumption", `new.usage_date = '2026-05-13'`)
	w := window("2026-05-07", "2026-05-15")
	var samples []etl.Sample
	for d := w.From; d < w.Until; d++ {
		samples = append(samples, sample(d.Time().Format(time.RFC3339), "110"))
	}
	levels := slices.Repeat([]etl.LevelHistory{lev("Extreme", samples...)}, maxCulprits+1)
	if _, err := h.load(historyJob, w, subscriptions(levels...)); err == nil || !strings.Contains(err.Error(), "more than 100 records") {
		t.Errorf("got %v", err)
	}
	out, err := h.load(historyJob, w, subscriptions(levels[1:]...))
	if err != nil {
		t.Fatal(err)
	}
	wantCounts(t, out, "received 800 inserted 700 restated 0 unchanged 0 ignored 0 quarantined 100 absent 0")
}

// A record that is left out still stands for its subscription, which another one of the same number does not take over.
func TestDatabaseRefusesOneOfANumber(t *testing.T) {
	h := newHouse(t)
	tell := func(account string, tibs ...string) etl.Outcome {
		h.now = h.now.Add(24 * time.Hour)
		out, err := h.load(etl.Job{Dataset: "keystone.subscriptions", Scope: "C-1"}, etl.Window{}, func(sink etl.Sink) (etl.Report, error) {
			for i, tib := range tibs {
				sub := subscription1()
				sub.Repeated = len(tibs) > 1
				sub.AccountName = ptr(account)
				sub.Start = ptr(sub.Start.AddDate(i, 0, 0))
				if i > 0 {
					sub.AccountName = ptr("Other")
				}
				if err := sink.Terms(etl.Terms{Subscription: sub, Levels: []etl.Commitment{{Level: "Extreme", CommittedTiB: etl.MustDecimal(tib)}}}); err != nil {
					return etl.Report{}, err
				}
			}
			return etl.Report{Received: len(tibs), Records: len(tibs), Warnings: etl.Warnings{}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	tell("ACME", "50")
	h.refuseRows("dw.fact_subscription", `new.account_name = 'Renamed'`)
	wantCounts(t, tell("Renamed", "50", "70"), "received 2 inserted 1 restated 0 unchanged 0 ignored 0 quarantined 1 absent 0")
	h.want(`select discriminator, committed_tib::int, f.absent_since is null from dw.fact_commitment as f
		join dw.dim_service_level using (service_level_key) join dw.dim_subscription using (subscription_key)
		order by 1, valid_from`, "|50|true", "2026-01-01|70|true")
}

// An answer that is read again tells of each record whether it is accepted now, whatever becomes of the others.
func TestDatabaseRefusesLessWhenReadAgain(t *testing.T) {
	h := newHouse(t)
	read := func(payload int64) int64 {
		t.Helper()
		h.now = h.now.Add(time.Hour)
		_, landed, err := h.read(etl.Job{Dataset: "keystone.current", Scope: "C-1", Snapshot: payload == 0, Aside: payload != 0}, etl.Window{}, payload,
			func(sink etl.Sink) (etl.Report, error) {
				var levels []etl.LevelReading
				for i, level := range []string{"Extreme", "Standard", "Object"} {
					levels = append(levels, etl.LevelReading{Level: level, CommittedTiB: etl.NewDecimal(100), ConsumedTiB: etl.NewDecimal(int64(50 + i)),
						ReadAt: ptr(at("2026-05-15T06:00:00Z"))})
				}
				return etl.Report{Records: 1, Received: 3, Warnings: etl.Warnings{}}, sink.Readings(etl.Readings{Subscription: subscription1(), Levels: levels})
			})
		if err != nil {
			t.Fatal(err)
		}
		return landed
	}
	h.refuseRows("dw.fact_service_level", `new.consumed_tib > 50`)
	payload := read(0)
	read(payload)
	h.want(`select service_level, resolved_at is null from ops.quarantine order by 1`, "Object|true", "Standard|true")
	h.refuseRows("dw.fact_service_level", `new.consumed_tib = 52`)
	read(payload)
	h.want(`select consumed_tib::int from dw.fact_service_level order by 1`, "50", "51")
	h.want(`select service_level, resolution from ops.quarantine order by 1`, "Object|", "Standard|accepted by run 3, which read the same answer again")
	h.want(`select inserted, unchanged, quarantined from ops.run order by run_id`, "1|0|2", "0|1|2", "1|1|1")
}

// What comes late and is refused needs nobody's attention: a newer answer told the same.
func TestDatabaseRefusesALateAnswer(t *testing.T) {
	h := newHouse(t)
	h.mustHistory(threeDaysOfMay, threeDays("Extreme", "110"))
	h.refuseRows("dw.restatement", `new.usage_date = '2026-05-13'`)
	h.now = h.now.Add(-time.Hour)
	wantCounts(t, h.mustHistory(threeDaysOfMay, threeDays("Extreme", "90")),
		"received 5 inserted 0 restated 0 unchanged 0 ignored 4 quarantined 1 absent 0")
	h.want(daysOfAll, "A-S1|110 110 110")
	h.want(`select usage_date, consumed_avg_tib::int from dw.restatement order by 1`, "2026-05-12|90", "2026-05-14|90")
	h.want(`select day, resolution from ops.quarantine`, "2026-05-13|a newer answer was loaded before")
	h.want(`select string_agg(status, ' ' order by day) from ops.coverage`, "answered answered answered")
}

// A lost connection and a stop in the middle of a search fail the load and leave nothing, and the next one finds the
// database as it was.
func TestSearchIsCutOff(t *testing.T) {
	h := newHouse(t)
	h.exec(`
		create sequence public.times;
		create function public.refuse() returns trigger language plpgsql as $$ begin
			if nextval('public.times') = 6 then perform pg_terminate_backend(pg_backend_pid()); end if;
			if new.usage_date = '2026-05-13' then raise exception 'not this one'; end if;
			return new;
		end $$;
		create trigger refuse before insert on dw.fact_daily_consumption for each row execute function public.refuse()`)
	if _, err := h.history(threeDaysOfMay, threeDays("Extreme", "110")); err == nil || !strings.Contains(err.Error(), "57P01") {
		t.Errorf("got %v", err)
	}
	h.want(`select status from ops.run`, "failed")
	for _, empty := range []string{"ops.coverage", "ops.quarantine", "dw.fact_daily_consumption", "dw.dim_subscription"} {
		h.want(`select count(*) from `+empty, "0")
	}
	wantCounts(t, h.mustHistory(threeDaysOfMay, threeDays("Extreme", "110")),
		"received 5 inserted 4 restated 0 unchanged 0 ignored 0 quarantined 1 absent 0")
}

// A level or a subscription of which nothing was stored is made good by whoever tells all days of it, not some.
func TestDatabaseRefusesDaysThatAreNotAskedAgain(t *testing.T) {
	for table, when := range map[string]string{"dw.dim_service_level": `new.service_level = 'Standard'`, "dw.dim_subscription": `new.subscription_number = 'A-S1'`} {
		t.Run(table, func(t *testing.T) {
			h := newHouse(t)
			h.refuseRows(table, when)
			by := map[int64]told{}
			tell := func(w etl.Window, days ...string) {
				var extreme, standard []etl.Sample
				for _, d := range days {
					extreme, standard = append(extreme, sample(d, "110")), append(standard, sample(d, "90"))
				}
				f := histories(lev("Extreme", extreme...), lev("Standard", standard...))
				by[h.loadTold(w, historyJob, f)] = f
				h.now = h.now.Add(24 * time.Hour)
			}
			tell(threeDaysOfMay, "2026-05-12T00:00:00Z", "2026-05-13T00:00:00Z", "2026-05-14T00:00:00Z")
			h.refuseNothing(table)
			tell(window("2026-05-14", "2026-05-16"), "2026-05-14T00:00:00Z", "2026-05-15T00:00:00Z")
			h.want(`select count(*) from ops.quarantine where resolved_at is null`, "1")
			h.want(`select string_agg(status, ' ' order by day) from ops.coverage`, "partial partial partial answered")
			replayAll(h, historyJob, window("2026-05-12", "2026-05-16"), by)
			h.want(`select count(*) from ops.quarantine where resolved_at is null`, "0")
			h.want(threeDaysOf, "A-S1|Extreme|0|4", "A-S1|Standard|0|4")
		})
	}
}
