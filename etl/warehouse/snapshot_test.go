package warehouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"meterhouse/etl"
)

const bogota = "America/Bogota"

// licences is an account that reads two products, by a schedule.
type licences struct {
	*house
	every time.Duration
}

func newLicences(t *testing.T, every time.Duration) *licences {
	l := &licences{newHouse(t), every}
	if err := l.SaveProducts(t.Context(), []etl.Product{
		{Number: 4, Code: "ivr_minutes", Title: "IVR minutes", Unit: "minutes", Kind: etl.Counter},
		{Number: 15, Code: "chat_licenses", Title: "Chat licences", Unit: "licences", Kind: etl.Gauge},
	}); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *licences) job(product string) etl.Job {
	return etl.Job{
		Source: "wolkvox", Dataset: "wolkvox.billing", Scope: "callcenter", Account: "callcenter", Zone: bogota,
		Products: []string{product}, Snapshot: true, NextDue: l.now.Add(l.every),
	}
}

// read loads one figure at a local time.
func (l *licences) read(local, product, items string) etl.Outcome {
	l.t.Helper()
	l.now = localTime(local)
	y, m, d := l.now.In(l.zone()).Date()
	date := etl.DayOf(time.Date(y, m, d, 0, 0, 0, 0, time.UTC))
	out, err := l.load(l.job(product), etl.Window{}, func(sink etl.Sink) (etl.Report, error) {
		return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}}, sink.License(etl.LicenseReading{
			Operation: "acme_ops", Product: product, Description: product, LocalDate: date,
			Items: etl.MustDecimal(items), ItemsText: items, ReadAt: l.now,
		})
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

// fail is a run that the vendor refused at a local time.
func (l *licences) fail(local string, reason error) {
	l.t.Helper()
	l.now = localTime(local)
	ctx := context.Background()
	lease, err := l.Lease(ctx, "wolkvox.billing", "callcenter")
	if err != nil {
		l.t.Fatal(err)
	}
	defer lease.Release(ctx)
	run, err := l.StartRun(ctx, lease, l.job("ivr_minutes"), etl.Window{}, l.now)
	if err == nil {
		err = run.Fail(ctx, nil, reason)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *licences) zone() *time.Location {
	z, err := time.LoadLocation(bogota)
	if err != nil {
		l.t.Fatal(err)
	}
	return z
}

// localTime reads a time of Bogota, five hours behind UTC all year.
func localTime(text string) time.Time { return at(strings.Replace(text, " ", "T", 1) + ":00-05:00") }

// month says how a month stands at a local time.
func (l *licences) month(local string, want ...string) {
	l.t.Helper()
	l.now = localTime(local)
	got := l.rows(`select to_char(month, 'YYYY-MM'), state, reason from mart.license_month order by month`)
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		l.t.Errorf("at %s\n got %q\nwant %q", local, got, want)
	}
}

func TestMonthState(t *testing.T) {
	down := errors.New("extract ivr_minutes: vendor_maintenance: status 403: vendor unavailable\nextract chat_licenses: the same")
	const said = "vendor_maintenance: status 403: vendor unavailable"
	t.Run("a month that began in its middle and ends well", func(t *testing.T) {
		l := newLicences(t, 30*time.Minute)
		l.read("2026-05-15 12:00", "ivr_minutes", "100")
		l.month("2026-05-15 18:00", "2026-05|open|") // late, but the month is long
		l.read("2026-05-29 12:00", "ivr_minutes", "200")
		l.month("2026-05-29 13:00", "2026-05|open|")
		l.month("2026-05-29 13:01", "2026-05|at_risk|nothing was asked since 2026-05-29 17:00Z")
		l.read("2026-05-31 23:05", "ivr_minutes", "300")
		l.month("2026-05-31 23:59", "2026-05|open|")
		l.month("2026-06-01 00:00", "2026-05|complete|", "2026-06|open|")
	})
	t.Run("the last three slots fail", func(t *testing.T) { // X13
		l := newLicences(t, 30*time.Minute)
		l.read("2026-05-31 23:00", "ivr_minutes", "100")
		l.fail("2026-05-31 23:05", down)
		l.month("2026-05-31 23:14", "2026-05|open|")
		l.month("2026-05-31 23:15", "2026-05|at_risk|"+said)
		l.fail("2026-05-31 23:25", down)
		l.fail("2026-05-31 23:45", errors.New("extract ivr_minutes: transient: the last word"))
		l.month("2026-05-31 23:59", "2026-05|at_risk|transient: the last word")
		l.month("2026-06-01 00:00", "2026-05|lost|transient: the last word", "2026-06|open|")
		// What the next month brings changes nothing.
		l.read("2026-06-01 00:10", "ivr_minutes", "1")
		l.fail("2026-06-01 00:30", errors.New("other"))
		l.month("2026-06-02 00:00", "2026-05|lost|transient: the last word", "2026-06|open|")
		l.want(`select items, snapshot_date from mart.license_snapshot order by 2`, "100|2026-05-31", "1|2026-06-01") // nothing carried forward
	})
	t.Run("maintenance near the end", func(t *testing.T) {
		l := newLicences(t, 30*time.Minute)
		l.read("2026-05-29 12:00", "ivr_minutes", "100")
		l.fail("2026-05-29 12:30", down)
		l.month("2026-05-29 13:00", "2026-05|open|")
		l.month("2026-05-29 13:01", "2026-05|at_risk|"+said)
		l.read("2026-05-29 13:30", "ivr_minutes", "100")
		l.month("2026-05-29 13:31", "2026-05|open|")
	})
	t.Run("a schedule of once a day is no risk", func(t *testing.T) {
		l := newLicences(t, 24*time.Hour)
		l.read("2026-05-30 12:00", "ivr_minutes", "100")
		l.month("2026-05-31 12:15", "2026-05|open|")
		l.month("2026-05-31 12:16", "2026-05|at_risk|nothing was asked since 2026-05-30 17:00Z")
	})
	t.Run("answers without a reading", func(t *testing.T) {
		l := newLicences(t, 30*time.Minute)
		l.read("2026-05-29 12:00", "ivr_minutes", "100")
		for _, local := range []string{"2026-05-29 12:30", "2026-05-29 13:00"} {
			l.now = localTime(local)
			if _, err := l.load(l.job("ivr_minutes"), etl.Window{}, func(etl.Sink) (etl.Report, error) { // blank rows
				return etl.Report{Records: 1, Received: 1, Ignored: 1, Warnings: etl.Warnings{}}, nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		l.month("2026-05-29 13:05", "2026-05|at_risk|the vendor gave no reading that could be accepted")
	})
	t.Run("no reading ever", func(t *testing.T) {
		l := newLicences(t, 30*time.Minute)
		l.fail("2026-04-20 12:00", errors.New("extract ivr_minutes: token_invalid: credentials refused"))
		l.month("2026-04-28 12:00", "2026-04|at_risk|token_invalid: credentials refused")
		l.month("2026-05-20 12:00", "2026-04|lost|token_invalid: credentials refused", "2026-05|open|")
		l.month("2026-05-29 12:00", "2026-04|lost|token_invalid: credentials refused", "2026-05|at_risk|nothing was asked")
	})
	t.Run("three months without anybody", func(t *testing.T) {
		l := newLicences(t, 30*time.Minute)
		l.read("2026-03-31 23:45", "ivr_minutes", "100")
		l.month("2026-06-02 12:00", "2026-03|complete|", "2026-04|lost|nothing was asked", "2026-05|lost|nothing was asked", "2026-06|open|")
	})
	t.Run("the closing reading is being loaded", func(t *testing.T) {
		l := newLicences(t, 30*time.Minute)
		l.read("2026-05-31 22:30", "ivr_minutes", "100")
		l.now = localTime("2026-05-31 23:45")
		lease, err := l.Lease(t.Context(), "wolkvox.billing", "callcenter")
		if err != nil {
			t.Fatal(err)
		}
		defer lease.Release(context.Background())
		if _, err := l.StartRun(t.Context(), lease, l.job("ivr_minutes"), etl.Window{}, l.now); err != nil {
			t.Fatal(err)
		}
		l.month("2026-06-01 00:05", "2026-05|at_risk|nothing was asked since 2026-06-01 03:30Z", "2026-06|open|")
		l.month("2026-06-01 01:00", "2026-05|lost|nothing was asked since 2026-06-01 03:30Z", "2026-06|open|")
	})
}

func TestLostDaysSayWhy(t *testing.T) {
	l := newLicences(t, 30*time.Minute)
	l.read("2026-05-15 12:00", "ivr_minutes", "100")
	l.read("2026-05-15 12:00", "chat_licenses", "9")
	l.fail("2026-05-16 12:00", errors.New("extract ivr_minutes: of the morning"))
	l.fail("2026-05-16 23:30", errors.New("extract chat_licenses: of the evening\nextract ivr_minutes: of the night"))
	l.fail("2026-05-17 12:00", errors.New("lease lost"))
	l.read("2026-05-19 12:00", "ivr_minutes", "100")
	l.now = localTime("2026-05-20 12:00")
	l.want(`select product, day, status, reason from mart.coverage where dataset = 'wolkvox.billing' order by 1, 2`,
		"chat_licenses|2026-05-15|observed|",
		"chat_licenses|2026-05-16|lost|of the evening",
		"chat_licenses|2026-05-17|lost|lease lost",
		"chat_licenses|2026-05-18|lost|nothing was asked on this day",
		"chat_licenses|2026-05-19|lost|nothing was asked on this day",
		"chat_licenses|2026-05-20|not_due|",
		"ivr_minutes|2026-05-15|observed|",
		"ivr_minutes|2026-05-16|lost|of the night",
		"ivr_minutes|2026-05-17|lost|lease lost",
		"ivr_minutes|2026-05-18|lost|nothing was asked on this day",
		"ivr_minutes|2026-05-19|observed|",
		"ivr_minutes|2026-05-20|not_due|",
	)
}

func TestCounterThatFalls(t *testing.T) {
	l := newLicences(t, 30*time.Minute)
	for _, c := range []struct {
		local, product, items string
		warns                 bool
	}{
		{"2026-05-15 12:00", "ivr_minutes", "100", false},
		{"2026-05-15 12:30", "ivr_minutes", "100", false},
		{"2026-05-15 13:00", "ivr_minutes", "99.5", true},
		{"2026-05-15 13:30", "ivr_minutes", "99.5", false}, // once
		{"2026-05-16 13:30", "ivr_minutes", "90", true},    // on another day too
		{"2026-05-16 13:30", "ivr_minutes", "90", false},   // the same again
		{"2026-05-31 23:45", "ivr_minutes", "2000", false},
		{"2026-06-01 00:10", "ivr_minutes", "0", false}, // local month, though UTC's is the same since yesterday
		{"2026-05-15 12:00", "chat_licenses", "9", false},
		{"2026-05-15 12:30", "chat_licenses", "3", false}, // a gauge may
	} {
		out := l.read(c.local, c.product, c.items)
		if got := out.Warnings["counter_decreased"]; got.Count != map[bool]int{true: 1}[c.warns] || c.warns && got.FirstPath != "ivr_minutes ivr_minutes" {
			t.Errorf("%s %s at %s: %+v", c.product, c.items, c.local, got)
		}
	}
	l.want(`select warnings from mart.run where warnings like '%counter%'`, "counter_decreased 1", "counter_decreased 1")
	l.want(`select items from dw.fact_license_reading join dw.dim_product using (product_key) where api = 'ivr_minutes' and reading_date <= '2026-05-16' order by read_at`,
		"100", "100", "99.5", "99.5", "90") // never clamped
}

func TestCalls(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	calls := h.Calls(nil) // by the database's clock
	yes := func(etl.CallLog) error { return nil }
	one, err := calls.Reserve(ctx, etl.Call{Credential: "k", Account: "a", Product: "p"}, time.Hour, yes)
	if err != nil || one.ID == 0 || time.Since(one.StartedAt).Abs() > time.Minute {
		t.Fatalf("%+v, %v", one, err)
	}
	// A second one under way is impossible, whatever its process thinks; another credential is free.
	if _, err := calls.Reserve(ctx, etl.Call{Credential: "k", Account: "a", Product: "q"}, time.Hour, yes); err == nil || !strings.Contains(err.Error(), "vendor_call_one_open_idx") {
		t.Errorf("second call: %v", err)
	}
	if _, err := calls.Reserve(ctx, etl.Call{Credential: "other", Account: "a", Product: "q"}, time.Hour, yes); err != nil {
		t.Error(err)
	}
	refused := errors.New("no")
	if _, err := calls.Reserve(ctx, etl.Call{Credential: "k", Account: "a", Product: "q"}, time.Hour, func(log etl.CallLog) error {
		if len(log.Recent) != 1 || !log.Recent[0].EndedAt.IsZero() || len(log.Day) != 1 || log.Last["p"].IsZero() || !log.Quota.ToldAt.IsZero() {
			t.Errorf("log %+v", log)
		}
		return refused
	}); err != refused {
		t.Errorf("got %v, want the objection itself", err)
	}
	for range 2 { // the first end counts
		if err := calls.End(ctx, one.ID, "throttled", 90*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := calls.End(ctx, one.ID, "ok", 0); err != nil {
		t.Fatal(err)
	}
	want := etl.Quota{Limit: 25000, UsedByToken: 3, UsedByAll: -1, Left: -1, Elsewhere: 2, ToldAt: one.StartedAt}
	for range 2 {
		if err := calls.SaveQuota(ctx, one, want); err != nil {
			t.Fatal(err)
		}
	}
	log, err := calls.Log(ctx, "k")
	if err != nil || len(log.Recent) != 1 || log.Recent[0].Outcome != "throttled" || !log.Quota.ToldAt.Equal(want.ToldAt) || log.Quota.UsedByAll != -1 || log.Quota.Elsewhere != 2 {
		t.Fatalf("%+v, %v", log, err)
	}
	if wait := log.Recent[0].RetryAt.Sub(log.Recent[0].EndedAt); wait != 90*time.Second {
		t.Errorf("retry after %s", wait)
	}
	// What was not sent is no call.
	unsent, err := calls.Reserve(ctx, etl.Call{Credential: "k", Account: "a", Product: "q"}, time.Hour, yes)
	if err == nil {
		err = calls.End(ctx, unsent.ID, etl.CallUnsent, 0)
	}
	if log, _ := calls.Log(ctx, "k"); err != nil || len(log.Recent) != 1 || len(log.Day) != 1 {
		t.Errorf("%+v, %v", log, err)
	}
	h.exec(`insert into ops.vendor_call (credential, account, product, owner, started_at, lost_at, ended_at, outcome)
		select c, 'a', 'p', 'old', now() - interval '63 days', now(), now(), 'ok' from unnest(array['k', 'other']) as c`)
	if err := calls.SaveQuota(ctx, one, want); err != nil {
		t.Error(err)
	}
	h.want(`select credential from ops.vendor_call where owner = 'old'`, "other")
	h.want(`select outcome, owner from ops.vendor_call where credential = 'k' order by call_id`, "throttled|test", "unsent|test")
}

// Many at once: whoever looks at the log is alone with it.
func TestCallsAreReservedOneByOne(t *testing.T) {
	h := newHouse(t)
	calls := h.Calls(nil)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 5 {
				call, err := calls.Reserve(t.Context(), etl.Call{Credential: "k", Account: "a", Product: fmt.Sprint(i, j)}, time.Hour, func(log etl.CallLog) error {
					if len(log.Recent) > 0 && log.Recent[0].EndedAt.IsZero() {
						return errors.New("busy")
					}
					return nil
				})
				if err != nil && err.Error() != "busy" {
					t.Error(err)
				}
				if err == nil {
					if err := calls.End(t.Context(), call.ID, etl.CallOK, 0); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
}

// Figures of the last day that a person imported complete a month that nobody read.
func TestImportCompletesAMonth(t *testing.T) {
	l := newLicences(t, 30*time.Minute)
	l.read("2026-05-31 12:00", "ivr_minutes", "100")
	l.month("2026-06-01 12:00", "2026-05|lost|nothing was asked since 2026-05-31 17:00Z", "2026-06|open|")
	l.exec(`update dw.fact_license_snapshot set is_imported = true`)
	l.month("2026-06-01 12:00", "2026-05|complete|", "2026-06|open|")
}

// A call whose end could not be written down is ended by the next reservation, which need not wait for it
// to count as lost.
func TestLooseEndIsTied(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	calls := h.Calls(nil)
	yes := func(etl.CallLog) error { return nil }
	one, err := calls.Reserve(t.Context(), etl.Call{Credential: "k", Account: "a", Product: "p"}, time.Hour, yes)
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := calls.End(gone, one.ID, etl.CallOK, 0); err == nil {
		t.Fatal("ended without a database")
	}
	two, err := calls.Reserve(t.Context(), etl.Call{Credential: "k", Account: "a", Product: "q"}, time.Hour, func(log etl.CallLog) error {
		if log.Recent[0].EndedAt.IsZero() || log.Recent[0].Outcome != etl.CallOK {
			return fmt.Errorf("the first is still open: %+v", log.Recent[0])
		}
		return nil
	})
	if err != nil || two.ID == 0 {
		t.Error(err)
	}
}

// A month is complete when all of its products are: one that stops in its middle is not closed by the
// readings of the others.
func TestMonthStandsAsItsWorstProduct(t *testing.T) {
	both := func(l *licences, local string) {
		l.read(local, "ivr_minutes", "100")
		l.read(local, "chat_licenses", "7")
	}
	t.Run("one stops", func(t *testing.T) {
		l := newLicences(t, 30*time.Minute)
		l.read("2026-05-03 12:00", "ivr_minutes", "100")
		l.read("2026-05-03 12:10", "chat_licenses", "7")
		l.read("2026-05-30 12:00", "chat_licenses", "7")
		l.month("2026-05-30 12:10", "2026-05|at_risk|ivr_minutes: the vendor gave no reading that could be accepted")
		l.read("2026-05-31 23:35", "chat_licenses", "7")
		l.month("2026-06-01 02:00", "2026-05|lost|ivr_minutes: the vendor gave no reading that could be accepted", "2026-06|open|")
		l.want(`select last_reading_at at time zone 'UTC' from mart.license_month where state = 'lost'`, "2026-05-03 17:00:00")
	})
	t.Run("both close it", func(t *testing.T) {
		l := newLicences(t, 30*time.Minute)
		both(l, "2026-05-31 23:35")
		l.month("2026-06-01 02:00", "2026-05|complete|", "2026-06|open|")
	})
	t.Run("one fails for a month and another", func(t *testing.T) {
		l := newLicences(t, 30*time.Minute)
		both(l, "2026-05-31 23:35")
		for _, local := range []string{"2026-06-30 23:35", "2026-07-31 23:35"} {
			l.read(local, "chat_licenses", "7")
			l.exec(`update ops.run set status = 'partial', error = 'extract ivr_minutes: token_invalid: no' where run_id = (select max(run_id) from ops.run)`)
		}
		l.month("2026-08-01 02:00", "2026-05|complete|", "2026-06|lost|ivr_minutes: token_invalid: no",
			"2026-07|lost|ivr_minutes: token_invalid: no", "2026-08|open|")
	})
	t.Run("one is asked for no more", func(t *testing.T) {
		l := newLicences(t, 30*time.Minute)
		both(l, "2026-05-31 23:35")
		l.read("2026-06-30 23:35", "chat_licenses", "7")
		l.month("2026-07-01 02:00", "2026-05|complete|", "2026-06|complete|", "2026-07|open|")
	})
	t.Run("the closing round asks one after the other", func(t *testing.T) {
		l := newLicences(t, 30*time.Minute)
		both(l, "2026-05-31 22:35")
		l.read("2026-05-31 23:06", "chat_licenses", "7")
		lease, err := l.Lease(t.Context(), "wolkvox.billing", "callcenter")
		if err != nil {
			t.Fatal(err)
		}
		defer lease.Release(context.Background())
		if _, err := l.StartRun(t.Context(), lease, l.job("ivr_minutes"), etl.Window{}, l.now); err != nil {
			t.Fatal(err)
		}
		l.month("2026-05-31 23:16", "2026-05|open|")
		l.month("2026-05-31 23:46", "2026-05|at_risk|ivr_minutes: the vendor gave no reading that could be accepted")
	})
}

// The zone of an account is put right: months that were closed in time, as their days were filed, stay
// complete.
func TestZonePutRightLeavesMonthsComplete(t *testing.T) {
	l := newLicences(t, 30*time.Minute)
	read := func(when, zone string) {
		t.Helper()
		l.now = at(when)
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		y, m, d := l.now.In(loc).Date()
		job := l.job("chat_licenses")
		job.Zone = zone
		_, err = l.load(job, etl.Window{}, func(sink etl.Sink) (etl.Report, error) {
			return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}}, sink.License(etl.LicenseReading{
				Operation: "acme_ops", Product: "chat_licenses", Description: "c", LocalDate: etl.DayOf(time.Date(y, m, d, 0, 0, 0, 0, time.UTC)),
				Items: etl.MustDecimal("7"), ItemsText: "7", ReadAt: l.now,
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	const q = `select to_char(month, 'YYYY-MM'), state from mart.license_month order by month`
	read("2026-03-31T23:35:00Z", "UTC")
	read("2026-04-30T23:35:00Z", "UTC")
	read("2026-05-15T12:00:00Z", "UTC")
	l.want(q, "2026-03|complete", "2026-04|complete", "2026-05|open")
	read("2026-05-15T12:30:00Z", bogota)
	l.want(q, "2026-03|complete", "2026-04|complete", "2026-05|open")
	read("2026-05-31T23:35:00Z", bogota) // the evening has not begun there
	read("2026-06-01T12:00:00Z", bogota)
	l.want(q, "2026-03|complete", "2026-04|complete", "2026-05|lost", "2026-06|open")
}
