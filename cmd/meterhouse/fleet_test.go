package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/schedule"
	"meterhouse/etl/wolkvox"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// TestThreeReplicasForAWeek: three processes share a simulated week, and now and then one of them, often
// the one that leads the queue, is killed in the middle of a slot.
func TestThreeReplicasForAWeek(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a week takes a while")
	}
	const seed = 11
	dice := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	clock := w.clock("2027-05-28T00:00:00Z") // over the end of a month
	w.configure("console: {listen: \"\"}\n")
	w.replaceConfig("start: 2026-05-14", "start: 2027-05-20", "reread: 3d", "reread: 2d")
	w.slowAll(5 * time.Millisecond) // so that a kill has something to meet

	fleet := []*process{w.start(clock, "serve"), w.start(clock, "serve"), w.start(clock, "worker")}
	settle := func() {
		w.eventually("behind", "", func() string {
			behind := w.behind()
			if behind != "" {
				w.forward(clock, time.Second) // what met a lease waits by this clock
			}
			return behind
		})
	}
	settle()
	kills, leaders := 0, 0
	from := time.Date(2027, 5, 28, 0, 0, 0, 0, time.UTC)
	until := from.AddDate(0, 0, 7)
	for slot := w.nextSlot(from); !slot.After(until); slot = w.nextSlot(slot) {
		w.mu.Lock()
		jump := slot.Sub(w.now)
		w.mu.Unlock()
		w.forward(clock, max(jump, 0))
		if dice.IntN(12) == 0 {
			i := dice.IntN(len(fleet))
			if leader := w.value(`select coalesce(min(leader_id), '') from river.river_leader`); dice.IntN(2) == 0 {
				for j, p := range fleet {
					if strings.Contains(leader, fmt.Sprintf("-%d-", p.cmd.Process.Pid)) {
						i = j
						leaders++
					}
				}
			}
			time.Sleep(time.Duration(dice.IntN(120)) * time.Millisecond)
			victim := fleet[i]
			victim.kill()
			kills++
			w.rescue(victim)
			fleet[i] = w.start(clock, victim.cmd.Args[len(victim.cmd.Args)-1])
		}
		settle() // nothing is late by more than a slot: each is done before the next comes
	}
	for _, p := range fleet {
		if code := p.stop(); code != exitDone {
			t.Errorf("%s: exit code %d", p.name, code)
		}
	}

	conn, err := pgx.Connect(t.Context(), w.database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	column := func(sql string) []string {
		t.Helper()
		rows, err := conn.Query(t.Context(), sql)
		if err != nil {
			t.Fatal(err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	slots := w.value(`select count(*)::text from river.river_job where kind = 'load' and (args->>'slot')::timestamptz > '2027-05-28T00:00:00Z'`)
	if want := fmt.Sprint(w.slotsBetween(from, until)); slots != want {
		t.Errorf("%s slots in the queue, want %s", slots, want)
	}
	// A process may die between the end of a load and saying so: what its job comes to after its slot's end
	// does not matter then.
	for _, odd := range column(`
		select format('%s %s %s: %s', args->>'dataset', args->>'scope', args->>'slot', state) from river.river_job
		where kind = 'load' and state <> 'completed' and not exists (
			select from ops.run as r
			where r.dataset = args->>'dataset' and r.scope = args->>'scope' and r.status = 'ok'
				and r.business_at >= (args->>'slot')::timestamptz and r.business_at < (args->>'slot')::timestamptz + interval '10 minutes'
		)`) {
		t.Errorf("slot not worked to its end: %s", odd)
	}
	// A window of a slot is loaded by one run, what a killed process had landed beside it, as a replay.
	// Slots of a dataset are five minutes apart at least.
	for _, twice := range column(`
		select format('%s %s %s: runs %s', dataset, scope, window_from, string_agg(run_id::text, ', '))
		from ops.run
		where status = 'ok' and replay_of is null
		group by dataset, scope, window_from, date_bin('5 minutes', business_at, '2027-01-01T00:00:00Z')
		having count(*) > 1`) {
		t.Errorf("loaded twice: %s", twice)
	}
	if odd := column(`select format('%s %s %s: %s', dataset, scope, status, error) from ops.run
		where status <> 'ok' and coalesce(error, '') not like 'its process died%' and error not like '%not asked before%' and error not like '%the slot stays due%'`); len(odd) > 0 {
		t.Errorf("runs that went wrong: %q", odd)
	}
	if n := w.wolkvox.MaxConcurrent(); n != 1 {
		t.Errorf("%d wolkvox calls at once, want never more than 1", n)
	}
	newest := map[string]time.Time{}
	for _, r := range w.wolkvox.Requests() {
		if last, asked := newest[r.API]; asked && r.Start.Sub(last) < 5*time.Minute {
			t.Errorf("wolkvox %s asked at %s and at %s", r.API, last, r.Start)
		}
		newest[r.API] = r.Start
	}
	shares := column(`select count(*)::text || ' of ' || owner from ops.run where status = 'ok' group by owner order by count(*) desc`)
	busy := column(`select owner from ops.run where status = 'ok' group by owner having count(*) > 20`)
	if len(busy) < 3 {
		t.Errorf("work was not shared: %q", shares)
	}
	t.Logf("%s slots, %d processes killed, %d of them leaders, by %d processes in all", slots, kills, leaders, len(shares))
}

// rescue does at once what the queue does for the jobs of a dead process after a quarter of an hour of
// real time.
func (w *world) rescue(dead *process) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.database)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	w.mu.Lock()
	now := w.now
	w.mu.Unlock()
	if _, err := conn.Exec(w.t.Context(), `update river.river_job set state = 'available', scheduled_at = $2
		where state = 'running' and attempted_by[array_upper(attempted_by, 1)] like '%-' || $1 || '-%'`,
		fmt.Sprint(dead.cmd.Process.Pid), now); err != nil {
		w.t.Fatal(err)
	}
}

// timetables are the schedules of the world, with how many scopes each has.
func (w *world) timetables() map[schedule.Schedule]int {
	const customers = 3
	k, c := keystoneConfig{}, wolkvoxConfig{}
	k.setDefaults()
	c.setDefaults()
	zone, err := time.LoadLocation(c.Timezone)
	if err != nil {
		w.t.Fatal(err)
	}
	return map[schedule.Schedule]int{
		&k.Schedules.Customers: 1, &k.Schedules.Subscriptions: customers, &k.Schedules.Current: customers, &k.Schedules.History: customers,
		wolkvox.Timetable(c.Schedule, zone): 1,
	}
}

// nextSlot is the first of any of them after t.
func (w *world) nextSlot(t time.Time) (next time.Time) {
	for s := range w.timetables() {
		if at := s.Next(t); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// slotsBetween counts them, after from and up to until.
func (w *world) slotsBetween(from, until time.Time) (n int) {
	for s, scopes := range w.timetables() {
		for at := s.Next(from); !at.After(until); at = s.Next(at) {
			n += scopes
		}
	}
	return n
}

// slowAll makes every call of the vendors take a moment.
func (w *world) slowAll(d time.Duration) {
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Slow, Delay: d})
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Slow, Delay: d})
}
