package warehouse

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"meterhouse/etl"
	"meterhouse/etl/warehouse/warehousetest"
)

// witness looks at the statements of a warehouse on their own connection, right before they run.
type witness struct {
	t    testing.TB
	look func(ctx context.Context, conn *pgx.Conn, sql string, args []any)
	busy map[*pgx.Conn]bool // its own statements are not looked at
}

func (w *witness) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	w.see(ctx, conn, data.SQL, data.Args)
	return ctx
}

func (w *witness) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (w *witness) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		w.see(ctx, conn, q.SQL, q.Arguments)
	}
	return ctx
}

func (w *witness) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (w *witness) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

func (w *witness) see(ctx context.Context, conn *pgx.Conn, sql string, args []any) {
	if w.busy[conn] {
		return
	}
	w.busy[conn] = true
	if len(args) > 0 {
		if _, isMode := args[0].(pgx.QueryExecMode); isMode {
			args = args[1:]
		}
	}
	w.look(ctx, conn, sql, args)
	w.busy[conn] = false
}

// watch makes the house's warehouse use one connection, with a witness. Nothing else may use it meanwhile.
func (h *house) watch(look func(ctx context.Context, conn *pgx.Conn, sql string, args []any)) {
	h.t.Helper()
	cfg := h.pool.Config()
	cfg.MaxConns = 1
	cfg.ConnConfig.Tracer = &witness{t: h.t, look: look, busy: map[*pgx.Conn]bool{}}
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	h.pool.Close()
	h.pool = pool
}

// grown is a house with 13 months of history of two customers up to March 2026, a later month, and as many superseded
// days. C-1 has one level. In March there is enough for an index to be worth its while.
func grown(t *testing.T, beforehand string) *house {
	h := newHouse(t)
	h.mustHistory(window("2025-02-28", "2025-03-01"), extreme(sample("2025-02-28T00:00:00Z", "90")))
	grow, err := os.ReadFile("../../cmd/bench/grow.sql")
	if err != nil {
		t.Fatal(err)
	}
	conn := warehousetest.Connect(t, h.url)
	for _, sql := range []string{
		beforehand,
		string(grow),
		`select pg_temp.grow_samples(customer_key, service_level_key, service_level_key, '2025-03-01', '2026-04-01', '1 hour') from dw.dim_service_level`,
		`select pg_temp.grow_samples(customer_key, first_level, last_level, '2025-03-01', '2026-03-01', '1 day'),
			pg_temp.grow_samples(customer_key, first_level, last_level, '2026-03-01', '2026-04-01', '1 hour'),
			pg_temp.grow_samples(customer_key, first_level, last_level, '2026-05-01', '2026-06-01', '1 day')
			from pg_temp.grow_customer('C-2', 100)`,
		`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, ` + ledgerColumns + `, known_from, known_until, payload_id, run_id)
			select customer_key, service_level_key, usage_date, 'restated', ` + ledgerColumns + `, known_since - interval '1 hour', known_since, payload_id, run_id
			from dw.fact_daily_consumption where run_id = 0`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// every is one sample per step of the window.
func every(step time.Duration, w etl.Window, consumed string, flag etl.NullBool) (samples []etl.Sample) {
	for at := w.From.Time(); at.Before(w.Until.Time()); at = at.Add(step) {
		s := sample(at.Format(time.RFC3339), consumed)
		s.Invoiced = flag
		samples = append(samples, s)
	}
	return samples
}

// turnOfMonth is the window of allLoads: three days that are there, two that are not.
var turnOfMonth = window("2026-03-29", "2026-04-03")

// allLoads makes the load do everything it can do to a day of history. round makes figures of its own.
func (h *house) allLoads(round int) {
	h.t.Helper()
	figure := func(n int) string { return fmt.Sprintf("%d.%d", 100+n, round+1) }
	hourly := func(n int, flag etl.NullBool) []etl.Sample { return every(time.Hour, turnOfMonth, figure(n), flag) }
	load := func(samples []etl.Sample) {
		h.t.Helper()
		h.now = h.now.Add(2 * time.Hour)
		h.mustHistory(turnOfMonth, extreme(samples...))
	}
	load(hourly(0, etl.False)) // new days, and restated ones
	load(hourly(0, etl.False)) // the same
	load(hourly(0, etl.True))  // invoiced
	mixed := hourly(0, etl.True)
	for i := range mixed {
		mixed[i].Invoiced = etl.NullBool(i % 3)
	}
	load(mixed)                                                    // an invoice taken back, for some samples; of others nothing is told
	load(every(30*time.Minute, turnOfMonth, figure(0), etl.False)) // samples that came late
	load(hourly(0, etl.False))                                     // fewer
	load(hourly(0, etl.False))                                     // confirmed
	load(hourly(0, etl.False)[24:])                                // a day that is not told any more
	load(hourly(0, etl.False))                                     // and is again
	held := extreme(hourly(1, etl.False)...)
	held.PartialDays = map[etl.Day]bool{turnOfMonth.From: true, turnOfMonth.Until - 1: true}
	h.now = h.now.Add(time.Hour)
	h.mustHistory(turnOfMonth, held)

	newest := h.now
	for _, earlier := range []struct {
		by      time.Duration
		samples []etl.Sample
	}{
		{time.Hour, hourly(1, etl.False)}, // an older answer with figures of before
		{3 * time.Hour, hourly(2, etl.True)},
		{5 * time.Hour, every(20*time.Minute, turnOfMonth, figure(0), etl.False)},
		{16 * time.Hour, hourly(0, etl.True)},
		{17 * time.Hour, hourly(3, etl.True)[5:]},
	} {
		h.now = newest.Add(-earlier.by)
		h.mustHistory(turnOfMonth, extreme(earlier.samples...))
	}
	h.now = newest.Add(2 * time.Hour)

	// Two levels of one name, a sample that nobody can date, and nothing at all.
	undated := etl.Reject{Path: "/x", Reason: "time_unreadable", Excerpt: figure(0), Subscription: "A-S1", Level: "Extreme"}
	for _, rejects := range [][]etl.Reject{{undated}, nil} {
		h.now = h.now.Add(2 * time.Hour)
		if _, err := h.tell("C-1", turnOfMonth, rejects, subscription1(), extreme(hourly(0, etl.False)...), extreme(hourly(5, etl.False)...)); err != nil {
			h.t.Fatal(err)
		}
	}
	h.now = h.now.Add(2 * time.Hour)
	for _, customer := range []string{"C-1", "C-2"} {
		if _, err := h.load(etl.Job{Dataset: "keystone.history", Scope: customer, Expected: turnOfMonth.From}, turnOfMonth, func(etl.Sink) (etl.Report, error) {
			return etl.Report{Warnings: etl.Warnings{}}, nil
		}); err == nil || !strings.Contains(err.Error(), "unexpected_empty") {
			h.t.Fatalf("an answer without records: got %v, want unexpected_empty", err)
		}
	}
}

// replayAll reads what allLoads loaded again, as a program would that reads figures differently.
func (h *house) replayAll(round int) {
	h.t.Helper()
	var payloads []int64
	for _, row := range h.rows(`select p.payload_id from raw.payload as p join ops.run as r using (run_id)
		where p.window_from = '2026-03-29' and r.status in ('ok', 'partial') order by p.fetched_at, 1`) {
		var id int64
		fmt.Sscan(row, &id)
		payloads = append(payloads, id)
	}
	h.now = h.now.Add(2 * time.Hour)
	april := window("2026-04-01", "2026-04-03") // what was grown has no answers to be read again
	if _, err := h.rebuild(etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: april.From}, april, payloads,
		func(payload int64, sink etl.Sink) (etl.Report, error) {
			samples := every(time.Hour, turnOfMonth, fmt.Sprintf("%d.%d", 110+payload%3, round+1), etl.True)
			return etl.Report{Records: 1, Received: len(samples), Warnings: etl.Warnings{}},
				sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(samples...)}})
		}); err != nil {
		h.t.Fatal(err)
	}
}

// TestLoadsFindTheirRows: whatever the statistics say and however a statement is planned, a load reads facts through keys, and
// samples of no other month than those of its window.
func TestLoadsFindTheirRows(t *testing.T) {
	for name, prepare := range map[string]struct{ before, after string }{
		"never analyzed":       {},
		"analyzed while small": {before: `analyze`},
		"analyzed":             {after: `analyze`},
	} {
		t.Run(name, func(t *testing.T) {
			h := grown(t, prepare.before)
			if prepare.after != "" {
				h.exec(prepare.after)
			}
			ofSamples, ofDays, replaying := 0, 0, false
			h.watch(func(ctx context.Context, conn *pgx.Conn, sql string, args []any) {
				if !strings.Contains(sql, "dw.fact_consumption_sample") && !strings.Contains(sql, "dw.fact_daily_consumption") && !strings.Contains(sql, "dw.restatement") {
					return
				}
				switch word, _, _ := strings.Cut(strings.TrimSpace(sql), " "); strings.TrimSpace(word) {
				case "select", "insert", "update", "delete", "with":
				default:
					return
				}
				for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
					for _, scan := range scans(t, ctx, conn, mode, sql, args) {
						month, isSample := strings.CutPrefix(scan.Relation, "fact_consumption_sample_")
						switch {
						case isSample:
							ofSamples++
						case scan.Relation == "fact_daily_consumption" || scan.Relation == "restatement":
							ofDays++
						default:
							continue
						}
						if isSample && month != "2026_03" && month != "2026_04" {
							t.Errorf("%s looks into %s, whose days were not asked for:\n%s", mode, scan.Relation, sql)
						}
						switch {
						case scan.Node == "Seq Scan" && month != "2026_04": // which has few rows
							t.Errorf("%s reads all of %s:\n%s", mode, scan.Relation, sql)
						case scan.Node != "Seq Scan" && !strings.Contains(scan.By, "service_level_key") && !strings.Contains(scan.By, "restatement_id") && !replaying:
							t.Errorf("%s reads all that a customer has in %s, by %s:\n%s", mode, scan.Relation, scan.By, sql)
						}
					}
				}
			})
			h.allLoads(0)
			replaying = true // which has the whole window of a customer before it
			h.replayAll(0)
			if ofSamples < 10 || ofDays < 20 {
				t.Errorf("the loads looked into samples %d times and into days %d times: does anybody watch?", ofSamples, ofDays)
			}
		})
	}
}

// tableScan is a node of a plan that reads a table. By is what it goes through the index with.
type tableScan struct{ Node, Relation, By string }

// scans plans a statement with its arguments, for them alone or for any, and tells what it would read.
func scans(t testing.TB, ctx context.Context, conn *pgx.Conn, mode, sql string, args []any) (found []tableScan) {
	t.Helper()
	exec := func(sql string) string {
		t.Helper()
		results, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		if err != nil {
			t.Fatalf("%v in\n%s", err, sql)
		}
		if last := results[len(results)-1]; len(last.Rows) > 0 {
			return string(last.Rows[0][0])
		}
		return ""
	}
	exec("set plan_cache_mode = " + mode)
	defer exec("reset plan_cache_mode")
	exec("prepare looked_at as " + sql)
	defer exec("deallocate looked_at")
	var types []uint32
	oids := exec("select array_to_json(array(select p::oid::bigint from unnest(parameter_types) as p)) from pg_prepared_statements where name = 'looked_at'")
	if err := json.Unmarshal([]byte(oids), &types); err != nil {
		t.Fatal(err)
	}
	call := "looked_at"
	if len(args) > 0 {
		var values []string
		for i, arg := range args {
			text, err := conn.TypeMap().Encode(types[i], pgx.TextFormatCode, arg, []byte{})
			if err != nil {
				t.Fatal(err)
			}
			value := "null"
			if text != nil {
				value = "'" + strings.ReplaceAll(string(text), "'", "''") + "'"
			}
			values = append(values, value)
		}
		call += " (" + strings.Join(values, ", ") + ")"
	}
	type node struct {
		Node     string `json:"Node Type"`
		Relation string `json:"Relation Name"`
		Index    string `json:"Index Name"`
		By       string `json:"Index Cond"`
		Plans    []node
	}
	var plans []struct{ Plan node }
	if err := json.Unmarshal([]byte(exec("explain (format json) execute "+call)), &plans); err != nil {
		t.Fatal(err)
	}
	var walk func(n node)
	walk = func(n node) {
		switch {
		case n.Node == "Bitmap Index Scan":
			found = append(found, tableScan{n.Node, strings.TrimSuffix(n.Index, "_pkey"), n.By})
		case n.Node != "Bitmap Heap Scan" && strings.HasSuffix(n.Node, "Scan") && n.Relation != "":
			found = append(found, tableScan{n.Node, n.Relation, n.By})
		}
		for _, part := range n.Plans {
			walk(part)
		}
	}
	for _, p := range plans {
		walk(p.Plan)
	}
	return found
}

// TestLoadsLockTheirMonthsOnly: retention drops a month while loads of others go on, since none of them has a lock on it, also
// after a statement has run so often that the server might plan it for any month.
func TestLoadsLockTheirMonthsOnly(t *testing.T) {
	h := grown(t, "")
	commits := 0
	h.watch(func(ctx context.Context, conn *pgx.Conn, sql string, _ []any) {
		if sql != "commit" {
			return
		}
		rows, err := conn.Query(ctx, `select distinct c.relname::text from pg_locks as l join pg_class as c on c.oid = l.relation
			where l.pid = pg_backend_pid() and c.relname like 'fact\_consumption\_sample\_2%' and c.relkind = 'r'
				and c.relname not in ('fact_consumption_sample_2026_03', 'fact_consumption_sample_2026_04') order by 1`)
		if err != nil {
			t.Error(err)
			return
		}
		locked, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(locked) > 0 {
			t.Errorf("a load of %s has locks on %v, %v", turnOfMonth, locked, err)
		}
		commits++
	})
	for round := range 7 { // at the sixth execution of a prepared statement the server thinks again
		h.allLoads(round)
		h.replayAll(round)
	}
	if commits < 140 {
		t.Errorf("%d transactions ended: does anybody watch?", commits)
	}
}
