package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl/keystone"
	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/schedule"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// A body that cannot be stored: the vendor is not asked again and again.
func TestLandRefusedDoesNotHammer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clock := w.clock("2027-05-14T12:05:00Z")
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2027-05-01")
	w.exec(`create function public.full() returns trigger language plpgsql as $$ begin raise exception 'could not extend file' using errcode = '53100'; end $$`)
	w.exec(`create trigger full_disk before insert on raw.payload for each row when (new.dataset in ('keystone.current', 'wolkvox.billing')) execute function public.full()`)
	w.start(clock, "serve")
	calls := func() (n, wv int) {
		for _, r := range w.keystone.Requests() {
			if strings.Contains(fmt.Sprintf("%+v", r), "/consumption-details") {
				n++
			}
		}
		return n, len(w.wolkvox.Requests())
	}
	w.eventually("asked", "true", func() string {
		n, wv := calls()
		return fmt.Sprint(n > 0 && wv > 0)
	})
	time.Sleep(5 * time.Second) // the business clock and the queue's stand still
	if n, wv := calls(); n > 3 || wv > 2 {
		t.Errorf("%d calls for current readings of 3 customers, %d of wolkvox; want one each", n, wv)
		t.Log(w.value(`select string_agg(args->>'dataset' || ' ' || state || ' attempt ' || attempt || ' snoozes ' || coalesce(metadata->>'snoozes', '0'), E'\n') from river.river_job where kind = 'load'`))
	}
}

// The clock of a host with its database goes ahead for a while and comes back: nothing stands still, and no
// day is taken for answered.
func TestClockAheadAndBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clock := w.clock("2027-05-14T12:05:00Z")
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2027-05-01")
	p := w.start(clock, "serve")
	w.eventually("behind", "", w.behind)
	p.stop()
	set := func(at string) {
		if err := os.WriteFile(clock, []byte(at), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set("2027-06-03T12:05:00Z") // this host only; the vendors' clocks are right
	p = w.start(clock, "serve")
	w.eventually("two windows of each history, asked for with the clock ahead", "true", func() string {
		return w.value(`select (count(*) >= 6)::text from ops.run where dataset = 'keystone.history' and business_at > '2027-06-01' and finished_at is not null`)
	})
	p.stop()
	t.Log(w.value(`select coalesce(string_agg(dataset || ' ' || scope || ' ' || last_success_at, E'\n' order by dataset, scope), '') from ops.watermark`))
	set("2027-05-14T12:05:00Z")
	w.forward(clock, 25*time.Hour) // right again, a day later
	p = w.start(clock, "serve")
	w.eventually("runs of a day later", "true", func() string {
		return w.value(`select (count(*) > 0)::text from ops.run where business_at between '2027-05-15T13:00Z' and '2027-05-15T14:00Z'`)
	})
	for range 21 {
		w.forward(clock, 24*time.Hour)
		time.Sleep(700 * time.Millisecond)
	}
	time.Sleep(5 * time.Second)
	p.stop()
	conn, err := pgx.Connect(t.Context(), w.database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var days string
	if err := conn.QueryRow(t.Context(), `select count(*) || ' days covered, ' || count(f.day) || ' with facts, without: ' || coalesce(string_agg(c.day::text || ' ' || c.status, ', ' order by c.day) filter (where f.day is null), '')
		from ops.coverage c left join (select distinct usage_date as day from dw.fact_daily_consumption) f on f.day = c.day
		where c.dataset = 'keystone.history' and c.scope = 'C-1001'`).Scan(&days); err != nil {
		t.Fatal(err)
	}
	t.Log(days)
	if _, err := conn.Exec(t.Context(), "set meterhouse.now = '2027-06-05T13:05:00Z'"); err != nil {
		t.Fatal(err)
	}
	var view string
	if err := conn.QueryRow(t.Context(), `select string_agg(s, ', ') from (select status || ' ' || count(distinct day) || ' ' || min(day) || '..' || max(day) as s from mart.coverage where source = 'keystone' and customer_id = 'C-1001' group by status) x`).Scan(&view); err != nil {
		t.Log(err)
	}
	t.Log("mart.coverage: ", view, w.value(`select coalesce(string_agg(kind || ' ' || subject, E'\n'), 'no alert') from ops.alert`))
	if !strings.HasSuffix(days, "without: ") {
		t.Errorf("covered and empty: %s", days)
	}
}

func (w *world) service() *service {
	s := w.opened(io.Discard)
	q, err := schedule.New(schedule.Config{Pool: s.wh.Pool(), Now: s.app.now})
	if err != nil {
		w.t.Fatal(err)
	}
	return &service{session: s, queue: q, tick: time.Minute, replan: make(chan struct{}, 1)}
}

// One account that cannot be planned in time does not take the others with it.
func TestPlanOfTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.service()
	conn, err := pgx.Connect(t.Context(), w.database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `begin; lock table dw.dim_customer in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // in place of plan's own minute
	defer cancel()
	t.Log(v.plan(ctx))
	if got := w.value(`select coalesce(string_agg(args->>'dataset', ' '), '') from river.river_job where kind = 'load'`); !strings.Contains(got, "wolkvox.billing") || !strings.Contains(got, keystone.Customers) {
		t.Errorf("queued: %q, want what could be planned", got)
	}
}

// A stop ends although the database lets nobody write evidence.
func TestStopEnds(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it waits for the grace time to be over")
	}
	w := newWorld(t)
	clock := w.clock("2027-05-14T12:05:00Z")
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2027-05-01")
	w.keystone.Inject(keystonesim.Fault{Path: "consumption-details", Kind: keystonesim.Status, Status: 403})
	conn, err := pgx.Connect(t.Context(), w.database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `begin; lock table raw.payload in share mode`); err != nil {
		t.Fatal(err)
	}
	p := w.start(clock, "serve")
	w.eventually("waits", "true", func() string {
		return w.value(`select (count(*) > 0)::text from pg_stat_activity where wait_event_type = 'Lock' and query like 'copy raw.payload %'`)
	})
	time.Sleep(time.Second)
	began := time.Now()
	_ = p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.exited:
		t.Logf("ended after %s with %d", time.Since(began), p.cmd.ProcessState.ExitCode())
	case <-time.After(130 * time.Second):
		t.Errorf("still there %s after the stop, want at most %s", time.Since(began), schedule.StopsWithin)
	}
}

// A stop interrupts the call for one product: the slot stays due until that is read as well.
func TestInterruptedProductIsReadAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clock := w.clock("2027-05-31T23:30:00Z") // 18:30 in Bogota, some slot
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2027-05-25")
	w.wolkvox.Inject(wolkvoxsim.Fault{API: "ivr_minutes", Kind: wolkvoxsim.Slow, Delay: 40 * time.Second})
	p := w.start(clock, "serve")
	w.eventually("asked", "true", func() string {
		return w.value(`select (count(*) > 0)::text from ops.vendor_call where product = 'ivr_minutes' and ended_at is null`)
	})
	p.stop() // 20 s
	w.wolkvox.ClearFaults()
	w.start(clock, "serve")
	w.eventually("the slot's job", "completed", func() string {
		w.forward(clock, 3*time.Second)
		return w.value(`select coalesce(max(state::text), '') from river.river_job where args->>'dataset' = 'wolkvox.billing'`)
	})
	t.Log(w.value(`select string_agg(run_id || ' ' || status || ' ' || coalesce(error, '') , E'\n') from ops.run where dataset = 'wolkvox.billing'`))
	w.forward(clock, 10*time.Minute)
	w.eventually("read ten minutes later", "chat_licenses ivr_minutes", func() string {
		return w.value(`select string_agg(distinct product, ' ' order by product) from raw.payload where dataset = 'wolkvox.billing'`)
	})
}

// A reading that lasts into the next slot's time does not make that slot done.
func TestReadingAcrossASlot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clock := w.clock("2027-06-01T04:39:00Z") // 23:39 on the last day of May in Bogota
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2027-05-28")
	w.wolkvox.Inject(wolkvoxsim.Fault{API: "chat_licenses", Count: 1, Kind: wolkvoxsim.Slow, Delay: 4 * time.Second})
	w.start(clock, "serve")
	w.eventually("asked", "true", func() string {
		return w.value(`select (count(*) > 0)::text from ops.vendor_call where product = 'chat_licenses' and ended_at is null`)
	})
	w.forward(clock, 7*time.Minute) // 23:46: a slow vendor, or a suspended machine
	w.eventually("read", "true", func() string {
		return w.value(`select (last_success_at is not null)::text from ops.watermark where dataset = 'wolkvox.billing' union all select 'false' limit 1`)
	})
	w.forward(clock, 3*time.Minute)
	w.eventually("readings of ivr_minutes, one of them for the slot of 23:45", "2", func() string {
		return w.value(`select count(*)::text from ops.vendor_call where product = 'ivr_minutes'`)
	})
}
