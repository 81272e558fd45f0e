package warehouse

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"meterhouse/etl"
)

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
	for _, f := range []told{histories(threeDays("Extreme", "110")), histories(threeDays("Extreme", "110")), histories(lev("Extreme", slicesOf("110", "120", "110")...))} {
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

// slicesOf are three days of two samples each with the given consumptions.
func slicesOf(consumed ...string) []etl.Sample {
	samples := threeDays("", "1").Samples
	for i := range samples {
		samples[i] = sample(time.UnixMicro(samples[i].At).UTC().Format(time.RFC3339), consumed[i/2])
	}
	return samples
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
