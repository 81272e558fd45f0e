package warehouse

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/warehouse/warehousetest"
)

// What a window costs, exactly: a month of four levels, a sample an hour, 120 series-days. Statements count
// the words around the transaction; tuples are written, updated and deleted ones. A figure that goes down is
// written down here; one that goes up wants a reason.
var costs = []struct {
	window     string
	statements int
	copies     int // samples, daily rows, the body
	dw         string // tuples inserted, updated, deleted
	ops        string
	landed     int
}{
	{"fresh", 32, 3, "3006 0 0", "34 4 0", 1},
	{"unchanged", 21, 0, "0 0 0", "2 5 0", 0},
	{"repeated word for word", 21, 0, "0 0 0", "1 6 0", 0},
	{"one changed day", 30, 2, "25 1 24", "3 6 0", 1},
	{"six changed days", 30, 2, "150 6 144", "2 7 0", 1},
	{"a month invoiced", 26, 1, "0 3000 0", "1 6 0", 1},
}

func TestCostOfAWindow(t *testing.T) {
	h := newHouse(t)
	counter := warehousetest.NewCounter(t, h.url)
	one, err := Open(t.Context(), Config{URL: counter.URL, Owner: "test", MaxConns: 1, LeaseFor: time.Hour, Now: func() time.Time { return h.now }, Fixed: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	span := window("2026-04-01", "2026-05-01")
	month := func() *speech { return monthOf(span, 24) }
	changed := month()
	for i := range 1 {
		changeDay(changed, i)
	}
	more := month()
	for i := range 6 {
		changeDay(more, i)
	}
	invoiced := month()
	for i := range invoiced.levels {
		for j := range invoiced.levels[i].Samples {
			invoiced.levels[i].Samples[j].Invoiced = etl.True
		}
	}

	said := map[string]*speech{"fresh": month(), "unchanged": month(), "repeated word for word": month(),
		"one changed day": changed, "six changed days": more, "a month invoiced": invoiced}
	// Whatever is prepared on the first use of a connection is prepared for the one customer, counted for the other.
	for _, customer := range []string{"warm", "C-1"} {
		lease, err := one.Lease(t.Context(), "keystone.history", customer)
		if err != nil {
			t.Fatal(err)
		}
		defer lease.Release(context.Background())
		for _, c := range costs {
			h.now = h.now.Add(24 * time.Hour)
			s := said[c.window]
			if c.window != "fresh" && c.window != "unchanged" && c.window != "repeated word for word" {
				// Each from where the month was.
				if _, err := one.cost(lease, h.now, customer, month(), nil); err != nil {
					t.Fatal(err)
				}
				h.now = h.now.Add(24 * time.Hour)
			}
			before := one.written(t)
			counter.Reset()
			out, err := one.cost(lease, h.now, customer, s, s.content())
			if err != nil {
				t.Fatal(err)
			}
			if c.window == "repeated word for word" != (out.SameAs != 0) {
				t.Errorf("%s: same as run %d", c.window, out.SameAs)
			}
			statements, copies := counter.Statements(), counter.Copies()
			after := one.written(t)
			if customer == "warm" {
				continue
			}
			got := fmt.Sprintf("%d statements, %d COPY, dw %s, ops %s, landed %s", len(statements), copies, less(after["dw"], before["dw"]), less(after["ops"], before["ops"]), less(after["raw"], before["raw"]))
			want := fmt.Sprintf("%d statements, %d COPY, dw %s, ops %s, landed %d 0 0", c.statements, c.copies, c.dw, c.ops, c.landed)
			if got != want {
				t.Errorf("%s: %s, want %s\n%s", c.window, got, want, brief(statements))
			}
		}
	}
}

// A sample costs no allocation, neither of a fresh window nor of one that is read again: whatever there is
// belongs to a day, a level or a window. Of two windows that differ in nothing but samples, the difference tells.
func TestAllocationsPerSample(t *testing.T) {
	const most = 0.01
	h := newHouse(t)
	span := window("2026-04-01", "2026-05-01")
	customers := 0
	allocations := func(perDay int, isFresh bool) float64 {
		s := monthOf(span, perDay)
		rec := etl.History{Subscription: s.sub, Levels: s.levels}
		received := 0
		for _, l := range s.levels {
			received += len(l.Samples)
		}
		feed := func(sink etl.Sink) (etl.Report, error) {
			return etl.Report{Records: 1, Received: received, Warnings: etl.Warnings{}}, sink.History(rec)
		}
		load := func() {
			if isFresh || customers == 0 {
				customers++
			}
			if _, err := h.load(etl.Job{Dataset: "keystone.history", Scope: fmt.Sprint(perDay, isFresh, customers), Expected: span.From}, span, feed); err != nil {
				t.Fatal(err)
			}
		}
		return testing.AllocsPerRun(3, load) // after a first run that does not count
	}
	const few, many = 24, 288
	for _, isFresh := range []bool{true, false} {
		per := (allocations(many, isFresh) - allocations(few, isFresh)) / float64(4*span.Days()*(many-few))
		if t.Logf("fresh %v: %.4f allocations per sample", isFresh, per); per > most {
			t.Errorf("fresh %v: %.4f allocations per sample, want at most %v", isFresh, per, most)
		}
	}
}

// monthOf is what a vendor says of four levels, so many samples a day.
func monthOf(span etl.Window, perDay int) *speech {
	s := &speech{window: span, sub: subscription1()}
	for n := range 4 {
		level := etl.LevelHistory{Level: fmt.Sprintf("Level %d", n)}
		for d := span.From; d < span.Until; d++ {
			for i := range perDay {
				one := sample(may14, fmt.Sprintf("%d.%d", 90+n, i))
				one.At = d.Time().Add(time.Duration(i) * 24 * time.Hour / time.Duration(perDay)).UnixMicro()
				level.Samples = append(level.Samples, one)
			}
		}
		s.levels = append(s.levels, level)
	}
	return s
}

// changeDay gives the nth day of the first level other figures.
func changeDay(s *speech, n int) {
	level := &s.levels[0]
	day := s.window.From + etl.Day(n)
	for i := range level.Samples {
		if level.Samples[i].Day() == day {
			level.Samples[i].ConsumedTiB = level.Samples[i].ConsumedTiB.Add(etl.NewDecimal(1))
		}
	}
}

// cost loads one window under a lease.
func (w *Warehouse) cost(lease etl.Lease, now time.Time, customer string, s *speech, content []byte) (etl.Outcome, error) {
	ctx := context.Background()
	job := etl.Job{Source: "keystone", Account: "acme", Dataset: "keystone.history", Scope: customer, Expected: s.window.From}
	run, err := w.StartRun(ctx, lease, job, s.window, now)
	if err != nil {
		return etl.Outcome{}, err
	}
	ans := &etl.Answer{
		Request: etl.Request{Dataset: job.Dataset, Scope: job.Scope, Window: s.window}, Method: "GET", URL: "http://localhost/", Status: 200,
		RequestedAt: now, FetchedAt: now, Body: memory("body"), Content: content,
	}
	return run.Load(ctx, []*etl.Answer{ans}, nil, func(_ *etl.Answer, sink etl.Sink) (etl.Report, error) { return s.hear(sink) })
}

// written are the tuples that were inserted, updated and deleted so far, by schema.
func (w *Warehouse) written(t *testing.T) map[string][3]int {
	t.Helper()
	if _, err := w.pool.Exec(t.Context(), `select pg_stat_force_next_flush()`); err != nil {
		t.Fatal(err)
	}
	table, err := w.Query(t.Context(), `select schemaname, sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del) from pg_stat_user_tables group by 1`)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][3]int{}
	for _, r := range table.Rows {
		var n [3]int
		for i := range n {
			fmt.Sscan(r[i+1], &n[i])
		}
		all[r[0]] = n
	}
	return all
}

// brief tells statements in one line each, with how often they follow one another.
func brief(statements []string) string {
	var lines []string
	for i := 0; i < len(statements); {
		n := 1
		for i+n < len(statements) && statements[i+n] == statements[i] {
			n++
		}
		lines = append(lines, fmt.Sprintf("%4d × %.120s", n, statements[i]))
		i += n
	}
	if len(lines) > 60 {
		lines = append(lines[:60], "…")
	}
	return strings.Join(lines, "\n")
}

func less(a, b [3]int) string { return fmt.Sprint(a[0]-b[0], a[1]-b[1], a[2]-b[2]) }
