package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl/warehouse/warehousetest"
)

// These tests cut what is between the program and its database, and want the warehouse to be what it
// would be had nothing happened. The play is that of crash_test.go.

// scissors cut a connection, and with it the process if so wanted, at a message.
type scissors struct {
	mu      sync.Mutex
	matches func(warehousetest.Message) bool
	left    int // so many messages that match, this one included; 0: never
	verdict warehousetest.Verdict
	process *os.Process // to be killed at the same moment; nil: none
	seen    int
	cut     bool
}

func (s *scissors) judge(m warehousetest.Message) warehousetest.Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.matches == nil || !s.matches(m) {
		return warehousetest.Pass
	}
	s.seen++
	if s.left--; s.left != 0 {
		return warehousetest.Pass
	}
	s.cut = true
	if s.process != nil {
		_ = s.process.Kill()
	}
	return s.verdict
}

func (s *scissors) set(matches func(warehousetest.Message) bool, nth int, v warehousetest.Verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.matches, s.left, s.verdict, s.process, s.seen, s.cut = matches, nth, v, nil, 0, false
}

func (s *scissors) result() (seen int, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen, s.cut
}

func isCopyData(m warehousetest.Message) bool { return m.Kind == 'd' }

func isPrepare(m warehousetest.Message) bool { return m.Kind == 'P' || m.Kind == 'B' }

// snip is one cut of the play.
type snip struct {
	name    string
	act     int
	matches func(warehousetest.Message) bool
	nth     int
	verdict warehousetest.Verdict
	kill    bool
}

func (s snip) String() string {
	return fmt.Sprintf("act %d, %s %d, verdict %d, killed %v", s.act, s.name, s.nth, s.verdict, s.kill)
}

// TestCutConnections cuts at COMMITs of every kind: before the server gets them, while it works, and
// when it has answered; with the process killed at that very moment, or living on. And in COPYs and
// other statements.
func TestCutConnections(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a long play, of processes of their own")
	}
	binary := buildVictim(t)
	knife := &scissors{}
	first := newCutStage(t, binary, knife)
	kinds := []struct {
		name     string
		matches  func(warehousetest.Message) bool
		verdicts []warehousetest.Verdict
		sample   int
	}{
		{"commit", warehousetest.Message.IsCommit, []warehousetest.Verdict{warehousetest.CutBefore, warehousetest.CutDuring, warehousetest.CutAfter}, 4},
		{"copy", isCopyData, []warehousetest.Verdict{warehousetest.CutBefore, warehousetest.CutDuring}, 1},
		{"statement", isPrepare, []warehousetest.Verdict{warehousetest.CutBefore, warehousetest.CutDuring}, 1},
	}
	random := rand.New(rand.NewPCG(3, 4))
	_, inFull := killsWanted(t)
	var snips []snip
	counts := make([]int, len(kinds))
	for i, a := range play {
		first.raiseCurtain(i)
		var all [3]int
		knife.set(func(m warehousetest.Message) bool {
			for j, kind := range kinds {
				if kind.matches(m) {
					all[j]++ // under the scissors' lock
				}
			}
			return false
		}, 0, warehousetest.Pass)
		if e := first.process(a); !e.done() {
			t.Fatalf("%v: exit code %d\n%s%s", a.args, e.code, e.stdout, e.stderr)
		}
		first.judge()
		for j, kind := range kinds {
			counts[j] += all[j]
			for _, v := range kind.verdicts {
				for _, kill := range []bool{false, true} {
					for n := 1; n <= all[j]; n += 1 + all[j]/12 {
						snips = append(snips, snip{kind.name, i, kind.matches, n, v, kill})
					}
				}
			}
		}
	}
	dump := warehousetest.Dump(t, first.database)
	first.wants(dump)
	for j, kind := range kinds {
		if counts[j] < 10 {
			t.Errorf("%d messages of kind %s: want more of them in the play", counts[j], kind.name)
		}
	}
	random.Shuffle(len(snips), func(i, j int) { snips[i], snips[j] = snips[j], snips[i] })
	if !inFull {
		taken := map[string]int{}
		snips = slices.DeleteFunc(snips, func(s snip) bool {
			for _, kind := range kinds {
				if kind.name == s.name {
					key := fmt.Sprint(s.name, s.verdict, s.kill)
					taken[key]++
					return taken[key] > kind.sample
				}
			}
			return true
		})
	}
	for lane := range 2 {
		t.Run(fmt.Sprint("lane ", lane), func(t *testing.T) {
			t.Parallel()
			var ours []snip
			for i, s := range snips {
				if i%2 == lane {
					ours = append(ours, s)
				}
			}
			cutAll(t, binary, dump, ours)
		})
	}
}

func newCutStage(t *testing.T, binary string, knife *scissors) *troupe {
	t.Helper()
	database := warehousetest.New(t)
	w := newStage(t, warehousetest.NewWire(t, database, knife.judge).URL, playStart)
	w.database = database // the tests' own look at it is never cut
	return &troupe{world: w, binary: binary}
}

// cutAll makes all cuts, as many within one play as fit.
func cutAll(t *testing.T, binary string, dump []string, snips []snip) {
	began, total, plays, kills, lost := time.Now(), len(snips), 0, 0, 0
	missed := map[string]int{}
	for ; len(snips) > 0; plays++ {
		knife := &scissors{}
		p := newCutStage(t, binary, knife)
		for i, a := range play {
			p.raiseCurtain(i)
			finished := false
			for !finished {
				next := slices.IndexFunc(snips, func(s snip) bool { return s.act == i })
				if next < 0 {
					break
				}
				s := snips[next]
				knife.set(s.matches, s.nth, s.verdict)
				knife.mu.Lock() // until it is known whom to kill
				cmd, stdout, stderr := p.start(a)
				if s.kill {
					knife.process = cmd.Process
				}
				knife.mu.Unlock()
				e := p.await(cmd, stdout, stderr)
				_, cut := knife.result()
				knife.set(nil, 0, warehousetest.Pass)
				before := p.lost
				p.judge()
				if !s.kill && p.lost > before {
					t.Errorf("%s: a token answer was lost though the process lived on:\n%s", s, e.stderr)
				}
				if cut {
					snips = slices.Delete(snips, next, next+1)
				} else if missed[s.String()]++; missed[s.String()] > 20 {
					t.Fatalf("%s is never reached", s)
				} else { // to the end: another one gets its chance
					snips = append(slices.Delete(snips, next, next+1), s)
				}
				if e.killed {
					p.kills++
				}
				if finished = e.done(); !finished {
					p.recover(e)
				}
			}
			knife.set(nil, 0, warehousetest.Pass)
			if !finished {
				p.finish(a)
			}
		}
		p.wants(dump)
		kills += p.kills
		lost += p.forgiven
		if t.Failed() {
			return
		}
	}
	t.Logf("%d cuts in %d plays, %d of them with a kill, %d token answers lost, %s", total, plays, kills, lost, time.Since(began).Round(100*time.Millisecond))
}

// TestDatabaseCrashes makes the server crash under processes at work. They end by themselves, or get
// over it, and the next one repairs what is left. No token is lost, for no process dies.
func TestDatabaseCrashes(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a long play, of processes of their own")
	}
	binary := buildVictim(t)
	dump, _ := undisturbed(t, binary)
	server := warehousetest.NewCrashing(t, map[string]string{"restart_after_crash": "on"})
	p := &troupe{world: newStage(t, server.URL, playStart), binary: binary}
	random := rand.New(rand.NewPCG(5, 6))
	crashes := 0
	for i, a := range play {
		p.raiseCurtain(i)
		for attempt := 0; ; attempt++ {
			cmd, stdout, stderr := p.start(a)
			if attempt < 2 {
				time.Sleep(time.Duration(40+random.IntN(120)) * time.Millisecond) // somewhere in its work
				server.Crash()
				crashes++
			}
			e := p.await(cmd, stdout, stderr)
			p.judge()
			if p.lost > 0 {
				t.Fatalf("%v: a token answer was lost though the process lived on:\n%s", a.args, e.stderr)
			}
			if e.done() {
				break
			}
			if attempt == 10 {
				t.Fatalf("%v does not get done:\n%s", a.args, e.stderr)
			}
			p.recover(e)
		}
	}
	p.wants(dump)
	t.Logf("%d crashes", crashes)
}

// TestBlackHole lets the network swallow everything while a process loads: told to stop, it ends in
// time; another one takes the work over, and what comes back later changes nothing.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a long play, of processes of their own")
	}
	binary := buildVictim(t)
	dump, _ := undisturbed(t, binary)
	_, inFull := killsWanted(t)
	knife := &scissors{}
	database := warehousetest.New(t)
	var wire *warehousetest.Wire
	wire = warehousetest.NewWire(t, database, func(m warehousetest.Message) warehousetest.Verdict {
		v := knife.judge(m)
		if v == warehousetest.Swallow {
			wire.Hole()
		}
		return v
	})
	w := newStage(t, wire.URL, playStart)
	w.database = database
	p := &troupe{world: w, binary: binary}
	for i, a := range play {
		p.raiseCurtain(i)
		if !inFull && a.args[0] != "backfill" {
			p.finish(a)
			continue
		}
		knife.set(warehousetest.Message.IsCommit, 12, warehousetest.Swallow)
		cmd, stdout, stderr := p.start(a)
		ended := make(chan struct{})
		go func() {
			for !isCut(knife) {
				select {
				case <-ended:
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
			_ = cmd.Process.Signal(os.Interrupt)
		}()
		began := time.Now()
		e := p.await(cmd, stdout, stderr)
		close(ended)
		t.Logf("%v ended after %s with code %d", a.args, time.Since(began).Round(100*time.Millisecond), e.code)
		wire.Cut()
		knife.set(nil, 0, warehousetest.Pass)
		p.judge()
		p.recover(e)
		p.finish(a)
	}
	p.wants(dump)
}

func isCut(s *scissors) bool {
	_, cut := s.result()
	return cut
}

// TestThroughPgBouncer plays behind the real pooler in transaction mode, two processes at a time.
func TestThroughPgBouncer(t *testing.T) {
	t.Parallel()
	binary := buildVictim(t)
	dump, _ := undisturbed(t, binary)
	for _, size := range []int{1, 2, 20} {
		t.Run(fmt.Sprint("pool of ", size), func(t *testing.T) {
			t.Parallel()
			database := warehousetest.New(t)
			pooled := warehousetest.PgBouncer(t, database, size)
			w := newStage(t, pooled, playStart)
			w.database = database
			p := &troupe{world: w, binary: binary}
			for i, a := range play {
				p.raiseCurtain(i)
				var both sync.WaitGroup
				var ends [2]ending
				for j := range ends {
					cmd, stdout, stderr := p.start(a)
					both.Go(func() { ends[j] = p.await(cmd, stdout, stderr) })
				}
				both.Wait()
				p.judge()
				if p.lost > 0 {
					t.Errorf("%v: a token answer was lost", a.args)
				}
				for _, e := range ends {
					if e.code == exitFailed {
						t.Errorf("%v: exit code %d\n%s", a.args, e.code, e.stderr)
					}
				}
				p.finish(a)
				again := p.process(a)
				if !again.done() {
					t.Errorf("again: exit code %d\n%s%s", again.code, again.stdout, again.stderr)
				}
			}
			p.wants(dump)
			for _, left := range leftBehind(t, pooled, size) {
				t.Errorf("left behind in a session of the pool: %s", left)
			}
		})
	}
}

// leftBehind borrows all sessions of a pool at once and tells what they hold that no transaction may leave.
func leftBehind(t *testing.T, pooled string, size int) (found []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var sessions sync.Map
	for range size {
		config, err := pgx.ParseConfig(pooled)
		if err != nil {
			t.Fatal(err)
		}
		config.DefaultQueryExecMode = pgx.QueryExecModeExec
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		tx, err := conn.Begin(ctx) // the session is ours until the end
		if err != nil {
			t.Fatal(err)
		}
		var backend int
		var left []string
		// What the pooler itself keeps in step for each client is not ours.
		if err := tx.QueryRow(ctx, `
			select pg_backend_pid(), array(
				select 'setting ' || name || ' = ' || setting from pg_settings
				where source = 'session' and lower(name) not in ('timezone', 'datestyle', 'application_name', 'client_encoding', 'standard_conforming_strings', 'extra_float_digits')
				union all select 'prepared statement ' || name from pg_prepared_statements
				union all select 'listens to ' || c from pg_listening_channels() as c
				union all select 'temporary table ' || relname from pg_class where relpersistence = 't'
				union all select 'advisory lock ' || objid from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
			)`).Scan(&backend, &left); err != nil {
			t.Fatal(err)
		}
		sessions.Store(backend, true)
		found = append(found, left...)
	}
	borrowed := 0
	sessions.Range(func(any, any) bool { borrowed++; return true })
	if borrowed != size {
		t.Errorf("%d sessions borrowed, want %d", borrowed, size)
	}
	return found
}
