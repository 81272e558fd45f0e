package warehouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"meterhouse/etl"
	"meterhouse/etl/warehouse/warehousetest"
)

const days = 24 * time.Hour

// prune returns what became of everything, as text without sizes.
func (h *house) prune(r Retention) string {
	h.t.Helper()
	all, err := h.Prune(context.Background(), r)
	if err != nil {
		h.t.Fatal(err)
	}
	return spellPruned(h.t, all)
}

func spellPruned(t testing.TB, all []Pruned) string {
	t.Helper()
	lines := make([]string, len(all))
	for i, p := range all {
		if p.Bytes <= 0 {
			t.Errorf("%+v: want bytes", p)
		}
		lines[i] = fmt.Sprintf("%s %s", p.What, p.Of)
		if p.What == "payload" {
			lines[i] += fmt.Sprintf(" %d", p.Rows)
		}
		if p.Stays != "" {
			lines[i] += ": " + p.Stays
		}
	}
	return strings.Join(lines, "\n")
}

func (h *house) wantPruned(r Retention, want ...string) {
	h.t.Helper()
	if got := h.prune(r); got != strings.Join(want, "\n") {
		h.t.Errorf("pruned\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// readings loads one answer about the present and tells under which number it is landed.
func (h *house) readings(scope string, feedErr error, levels ...etl.LevelReading) int64 {
	h.t.Helper()
	h.now = h.now.Add(time.Hour)
	_, payload, err := h.read(etl.Job{Dataset: "keystone.current", Scope: scope, Snapshot: true}, etl.Window{}, 0, func(sink etl.Sink) (etl.Report, error) {
		if feedErr != nil {
			return etl.Report{}, feedErr
		}
		return etl.Report{Records: 1, Received: len(levels), Warnings: etl.Warnings{}},
			sink.Readings(etl.Readings{Subscription: subscription1(), Levels: levels})
	})
	if (err != nil) != (feedErr != nil) {
		h.t.Fatal(err)
	}
	return payload
}

func TestPrunePayloads(t *testing.T) {
	h := newHouse(t)
	six := ptr(at("2026-05-15T06:00:00Z"))
	level := etl.LevelReading{Level: "Extreme", CommittedTiB: etl.NewDecimal(100), ConsumedTiB: etl.NewDecimal(90), ReadAt: six}
	h.readings("C-1", nil, level)                                                 // a fact is from here
	idle := h.readings("C-1", nil, level)                                         // and nothing from here
	broken := h.readings("C-1", etl.Rejected("json_syntax", "made up"))           // a replay can still load it
	h.readings("C-2", nil, level)                                                 // of another customer
	h.mustHistory(oneDay, extreme(sample(may14, "112.5"), sample(noon, "113")))   // a day is from here
	h.now = h.now.Add(time.Hour)                                                  //
	h.mustHistory(oneDay, extreme(sample(may14, "112.5"), sample(noon, "113.5"))) // which another restates
	h.now = h.now.Add(time.Hour)
	refused := func(level string) etl.Reject {
		return etl.Reject{Path: "/x", Reason: "value_missing", Subscription: "A-S1", Level: level, Day: ptr(day("2026-05-14"))}
	}
	unchanged := extreme(sample(may14, "112.5"), sample(noon, "113.5"))
	for _, rejects := range [][]etl.Reject{{refused("Premium")}, {refused("Premium"), refused("Value")}} { // refused, and refused again
		if _, err := h.tell("C-1", oneDay, rejects, subscription1(), unchanged); err != nil {
			t.Fatal(err)
		}
		h.now = h.now.Add(time.Hour)
	}
	h.exec(`update ops.quarantine set resolved_at = now(), resolution = 'made up' where service_level = 'Value'`)
	h.now = h.now.Add(100 * days)
	h.readings("C-1", nil, level) // without news too, but young
	h.want(`select count(*) from raw.payload`, "9")

	keep := Retention{Payload: 99 * days}
	want := []string{
		"payload keystone.current 1",
		"payload keystone.current 2: a figure refers to it",
		"payload keystone.current 1: it was never loaded, a replay can",
		"payload keystone.history 2: a figure refers to it",
		"payload keystone.history 2: a refused record in it is not settled",
	}
	planned := keep
	planned.PlanOnly = true
	h.wantPruned(planned, want...)
	h.want(`select count(*) from raw.payload`, "9")
	h.want(`select count(*) from ops.lease where dataset = 'prune'`, "0")

	// While somebody replays it, the body without news stays as well.
	h.exec(`update ops.run set replay_of = (select run_id from raw.payload where payload_id = $1), status = 'running', finished_at = null
		where run_id = (select max(run_id) from ops.run)`, idle)
	h.wantPruned(keep, want[1], "payload keystone.current 1: it is being replayed", want[2], want[3], want[4])
	h.want(`select count(*) from raw.payload`, "9")
	h.exec(`update ops.run set replay_of = null, status = 'ok', finished_at = now() where replay_of is not null`)

	h.wantPruned(keep, want...)
	h.want(fmt.Sprintf(`select count(*), count(*) filter (where payload_id = %d) from raw.payload`, idle), "8|0")
	h.wantPruned(keep, want[1:]...)

	// Settled and replayed, they are not needed any more; the record of the refusal stays.
	h.exec(`update ops.quarantine set resolved_at = now(), resolution = 'made up' where resolved_at is null`)
	h.exec(`insert into ops.run (source, dataset, scope, account, status, owner, fence, business_at, finished_at, replay_of)
		select source, dataset, scope, account, 'ok', owner, fence, business_at, now(), run_id from raw.payload join ops.run using (run_id, source, dataset, scope, account)
		where raw.payload.payload_id = $1`, broken)
	h.wantPruned(keep, "payload keystone.current 1", want[1], "payload keystone.history 2", want[3])
	h.want(`select count(*), count(payload_id) from ops.quarantine`, "2|0")
	h.want(`select count(*) from raw.payload`, "5")
	h.want(`select count(*) from dw.fact_daily_consumption as d join raw.payload using (payload_id)`, "1")
	h.want(`select count(*) from dw.restatement as d join raw.payload using (payload_id)`, "1")
}

// TestEveryTableThatRefersToABodyKeepsIt: whatever has a payload_id counts, one more table too.
func TestEveryTableThatRefersToABodyKeepsIt(t *testing.T) {
	h := newHouse(t)
	h.exec(`create table dw.fact_new (customer_key bigint, payload_id bigint)`)
	var referring []string
	for _, table := range h.rows(`select table_name from information_schema.columns where table_schema = 'dw' and column_name = 'payload_id' order by 1`) {
		referring = append(referring, "dw."+table)
	}
	if len(referring) < 8 {
		t.Fatalf("tables that refer to bodies: got %q", referring)
	}
	judge, err := h.judgePayloads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range referring {
		if !strings.Contains(judge, " from "+table+" where payload_id in") {
			t.Errorf("%s does not keep the bodies it refers to:\n%s", table, judge)
		}
	}
}

// months loads one day with two samples of each month from January 2025 on, and moves the clock to
// June 2026.
func (h *house) months(n int) {
	h.t.Helper()
	for i := range n {
		first := time.Date(2025, time.Month(i+1), 1, 0, 0, 0, 0, time.UTC)
		h.now = first.AddDate(0, 2, 0)
		h.mustHistory(etl.Window{From: etl.DayOf(first), Until: etl.DayOf(first) + 1},
			extreme(sample(first.Format(time.RFC3339), "110"), sample(first.Add(time.Hour).Format(time.RFC3339), "120")))
	}
	h.now = at("2026-06-15T12:00:00Z")
}

const partitions = `select c.relname from pg_class as c where c.relname like 'fact\_consumption\_sample\_2%' and c.relkind = 'r' order by 1`

func TestPruneSamples(t *testing.T) {
	h := newHouse(t)
	h.months(4)
	// 2026-06-15 less 410 days is 2025-05-01T12:00Z: April ended before it; one day more and it did not.
	h.wantPruned(Retention{Samples: 441 * days, PlanOnly: true}, "samples 2025-01", "samples 2025-02")
	h.wantPruned(Retention{Samples: 441 * days}, "samples 2025-01", "samples 2025-02")
	h.want(partitions, "fact_consumption_sample_2025_03", "fact_consumption_sample_2025_04")
	h.wantPruned(Retention{Samples: 411 * days}, "samples 2025-03")
	h.wantPruned(Retention{Samples: 410 * days}, "samples 2025-04")
	h.wantPruned(Retention{Samples: 410 * days})
	h.want(partitions)
	h.want(`select month, days_observed, consumed_max_tib from mart.month order by 1`,
		"2025-01-01|1|120", "2025-02-01|1|120", "2025-03-01|1|120", "2025-04-01|1|120")
	h.want(`select count(*) from mart.coverage where status = 'observed'`, "4")
}

// TestLateAnswersAboutPrunedDays: what is told of a day whose samples are gone must neither pass for
// an addition nor lose the former figures.
func TestLateAnswersAboutPrunedDays(t *testing.T) {
	january := window("2025-01-01", "2025-01-02")
	first, second, third := "2025-01-01T00:00:00Z", "2025-01-01T01:00:00Z", "2025-01-01T02:00:00Z"
	const row = `select sample_count, consumed_avg_tib, is_invoiced::integer, restatement_count, (pending_at is not null)::integer from dw.fact_daily_consumption`
	pruned := func(t *testing.T) *house {
		h := newHouse(t)
		h.months(1)
		h.prune(Retention{Samples: 100 * days})
		h.want(`select count(*) from dw.fact_consumption_sample`, "0")
		return h
	}
	invoiced := func(when, consumed string, flag etl.NullBool) etl.Sample {
		s := sample(when, consumed)
		s.Invoiced = flag
		return s
	}
	t.Run("the same again is unchanged", func(t *testing.T) {
		h := pruned(t)
		wantCounts(t, h.mustHistory(january, extreme(sample(first, "110"), sample(second, "120"))),
			"received 2 inserted 0 restated 0 unchanged 2 ignored 0 quarantined 0 absent 0")
		h.want(row, "2|115|0|0|0")
		h.want(partitions, "fact_consumption_sample_2025_01") // made again, empty, and gone with the next prune
		h.wantPruned(Retention{Samples: 100 * days}, "samples 2025-01")
	})
	t.Run("more samples count as restated, and are stored", func(t *testing.T) {
		h := pruned(t)
		out := h.mustHistory(january, extreme(sample(first, "110"), sample(second, "120"), sample(third, "130")))
		wantCounts(t, out, "received 3 inserted 0 restated 3 unchanged 0 ignored 0 quarantined 0 absent 0")
		if out.Warnings["samples_pruned"].Count != 1 || out.Warnings["restated"].Count != 1 {
			t.Errorf("warnings: got %v, want samples_pruned and restated", out.Warnings)
		}
		h.want(row, "3|120|0|1|0")
		h.want(`select kind, consumed_avg_tib, sample_count from dw.restatement`, "restated|115|2")
		h.want(`select count(*) from dw.fact_consumption_sample`, "3")
		// From here on the day is like any other, until it is pruned again.
		wantCounts(t, h.mustHistory(january, extreme(sample(first, "110"), sample(second, "120"), sample(third, "130"))),
			"received 3 inserted 0 restated 0 unchanged 3 ignored 0 quarantined 0 absent 0")
		h.wantPruned(Retention{Samples: 100 * days}, "samples 2025-01")
		h.want(row, "3|120|0|1|0")
	})
	t.Run("fewer samples wait for confirmation", func(t *testing.T) {
		h := pruned(t)
		wantCounts(t, h.mustHistory(january, extreme(sample(first, "110"))), "received 1 inserted 0 restated 0 unchanged 1 ignored 0 quarantined 0 absent 0")
		h.want(row, "2|115|0|0|1")
		h.now = h.now.Add(time.Hour)
		wantCounts(t, h.mustHistory(january, extreme(sample(first, "110"))), "received 1 inserted 0 restated 1 unchanged 0 ignored 0 quarantined 0 absent 0")
		h.want(row, "1|110|0|1|0")
	})
	t.Run("a flag that is told for some samples only", func(t *testing.T) {
		h := pruned(t)
		h.mustHistory(january, extreme(invoiced(first, "110", etl.True), invoiced(second, "120", etl.True)))
		h.want(row, "2|115|1|0|0")
		h.now = h.now.Add(time.Hour)
		wantCounts(t, h.mustHistory(january, extreme(invoiced(first, "110", etl.True), invoiced(second, "120", etl.Unknown))),
			"received 2 inserted 0 restated 0 unchanged 2 ignored 0 quarantined 0 absent 0")
		h.want(row, "2|115|1|0|0") // unknown does not overwrite known
		h.now = h.now.Add(time.Hour)
		h.mustHistory(january, extreme(invoiced(first, "110", etl.False), invoiced(second, "120", etl.Unknown)))
		h.want(row, "2|115|0|1|0") // an invoice that was taken back
	})
	t.Run("an older answer finds its place in the ledger", func(t *testing.T) {
		h := pruned(t)
		newest := h.now
		h.mustHistory(january, extreme(sample(first, "110"), sample(second, "120"))) // seen again now
		h.now = at("2025-02-01T00:00:00Z")                                           // before all of it
		out := h.mustHistory(january, extreme(sample(first, "110")))
		wantCounts(t, out, "received 1 inserted 0 restated 0 unchanged 0 ignored 1 quarantined 0 absent 0")
		h.now = at("2025-04-01T00:00:00Z") // between the two looks
		h.mustHistory(january, extreme(sample(first, "110"), sample(second, "125"), sample(third, "130")))
		h.now = newest
		h.want(`select kind, consumed_avg_tib, known_from, known_until from dw.restatement order by known_from`,
			"restated|110|2025-02-01 00:00:00+00|2025-03-01 00:00:00+00",
			"restated|115|2025-03-01 00:00:00+00|2025-04-01 00:00:00+00",
			"restated|121.666666666667|2025-04-01 00:00:00+00|2026-06-15 12:00:00+00")
		h.want(`select sample_count, consumed_avg_tib, restatement_count from dw.fact_daily_consumption`, "2|115|3")
		h.want(`select count(*) from dw.fact_consumption_sample`, "0")
	})
	t.Run("a refused sample changes nothing", func(t *testing.T) {
		h := pruned(t)
		bad := extreme(sample(first, "999"))
		bad.PartialDays = map[etl.Day]bool{day("2025-01-01"): true}
		wantCounts(t, h.mustHistory(january, bad), "received 1 inserted 0 restated 0 unchanged 0 ignored 1 quarantined 0 absent 0")
		h.want(row, "2|115|0|0|0")
	})
	t.Run("a replay that reads fewer samples", func(t *testing.T) {
		h := pruned(t)
		h.mustHistory(january, extreme(invoiced(first, "110", etl.True), invoiced(second, "120", etl.True)))
		h.now = at("2025-03-01T00:00:00Z")
		var payloads []int64
		for _, row := range h.rows(`select payload_id from raw.payload order by 1`) {
			var id int64
			fmt.Sscan(row, &id)
			payloads = append(payloads, id)
		}
		out, err := h.rebuild(etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: day("2025-01-01")}, january, payloads,
			func(payload int64, sink etl.Sink) (etl.Report, error) {
				return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}},
					sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(sample(first, "110"))}})
			})
		if err != nil {
			t.Fatal(err)
		}
		wantCounts(t, out, "received 2 inserted 0 restated 1 unchanged 1 ignored 0 quarantined 0 absent 0")
		h.want(`select sample_count, consumed_avg_tib, is_invoiced::integer from dw.fact_daily_consumption`, "1|110|1")
		h.want(`select kind, consumed_avg_tib from dw.restatement`, "reread|115")
	})
}

// session runs statements on a connection of its own, which has waited too long once it waits for a lock that long.
func (h *house) session(patience string) func(sql string) string {
	h.t.Helper()
	conn := warehousetest.Connect(h.t, h.url)
	run := func(sql string) string {
		h.t.Helper()
		rows, err := conn.Query(context.Background(), sql, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			h.t.Fatalf("%v in %s", err, sql)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[any])
		if err != nil {
			h.t.Errorf("%v in %s", err, sql)
		}
		return fmt.Sprint(got...)
	}
	run("set lock_timeout = '" + patience + "'")
	return run
}

// meanwhile does something again and again until something else is done, both at least once.
func meanwhile(done, again func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		done()
	}()
	for {
		again()
		select {
		case <-ended:
			return
		default:
		}
	}
}

// TestPruneBehindALongReader: who reads an old month in a long transaction keeps it and meets no error; nobody else waits,
// loads least of all; and the next prune finds the partition half-way out and finishes.
func TestPruneBehindALongReader(t *testing.T) {
	lockPause = 10 * time.Millisecond
	t.Cleanup(func() { lockPause = time.Second })
	h := newHouse(t)
	h.months(2)
	may := window("2026-05-14", "2026-05-15")
	h.mustHistory(may, extreme(sample(may14, "1"))) // makes the partition
	const january = `select count(*) from dw.fact_consumption_sample where sampled_at < '2025-02-01'`
	longReader, otherReader := h.session("1ms"), h.session("500ms")
	longReader("begin isolation level repeatable read")
	longReader(january)
	pool := h.pool.Config()
	pool.ConnConfig.RuntimeParams["lock_timeout"] = "500ms"
	loads, err := pgxpool.NewWithConfig(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loads.Close)
	loading := *h
	loading.Warehouse = &Warehouse{cfg: h.cfg, pool: loads, server: h.server}
	loaded := 0
	meanwhile(func() {
		all, err := h.Prune(t.Context(), Retention{Samples: 100 * days})
		if !errors.Is(err, ErrLocked) {
			t.Errorf("got %v, want ErrLocked", err)
		}
		if got := spellPruned(t, all); !strings.HasPrefix(got, "samples 2025-01: a long query or load is in the way") {
			t.Errorf("pruned: %s", got)
		}
	}, func() {
		loading.now = loading.now.Add(time.Second)
		loading.mustHistory(may, extreme(sample(may14, fmt.Sprint(200+loaded))))
		loaded++
		otherReader(`select count(*) from dw.fact_consumption_sample join dw.dim_customer using (customer_key) join dw.dim_service_level using (service_level_key)`)
	})
	if got := longReader(january); got != "2" {
		t.Errorf("the long reader finds %s samples of January, want 2 as before", got)
	}
	h.want(`select count(*) from pg_inherits where inhdetachpending`, "1")
	h.want(`select consumed_last_tib from dw.fact_daily_consumption where usage_date = '2026-05-14'`, fmt.Sprint(199+loaded))
	longReader("rollback")

	// A load of that month comes first: it gets a new partition.
	h.mustHistory(window("2025-01-05", "2025-01-06"), extreme(sample("2025-01-05T00:00:00Z", "1")))
	h.want(`select count(*), count(*) filter (where inhdetachpending) from pg_inherits where inhparent = 'dw.fact_consumption_sample'::regclass`, "3|0")
	h.want(`select count(*) from dw.fact_consumption_sample where sampled_at < '2025-02-01'`, "1")

	h.wantPruned(Retention{Samples: 100 * days}, "samples 2025-01", "samples 2025-02")
	h.want(partitions, "fact_consumption_sample_2026_05")
}

// TestPruneLocksNobodyOutOfTheDimensions: a long reader of them is in the way of the drop. The space is free all the
// same, nobody queues up, and the next prune clears the rest away.
func TestPruneLocksNobodyOutOfTheDimensions(t *testing.T) {
	lockPause = 10 * time.Millisecond
	t.Cleanup(func() { lockPause = time.Second })
	h := newHouse(t)
	h.months(3)
	const report = `select count(*) from mart.month`
	longReader, otherReader := h.session("1ms"), h.session("1ms")
	longReader("begin")
	longReader(report)
	meanwhile(func() {
		h.wantPruned(Retention{Samples: 441 * days}, "samples 2025-01", "samples 2025-02")
	}, func() { otherReader(report) })
	h.want(partitions, "fact_consumption_sample_2025_01", "fact_consumption_sample_2025_02", "fact_consumption_sample_2025_03")
	h.want(`select count(*), sum(pg_relation_size(c.oid)) from pg_class as c
		where relname in ('fact_consumption_sample_2025_01', 'fact_consumption_sample_2025_02') and not relispartition`, "2|0")

	// A load of such a month waits for nobody either.
	h.mustHistory(window("2025-02-05", "2025-02-06"), extreme(sample("2025-02-05T00:00:00Z", "1")))
	h.want(`select count(*) from dw.fact_consumption_sample where sampled_at < '2025-03-01'`, "1")
	longReader("rollback")
	h.wantPruned(Retention{Samples: 441 * days}, "samples 2025-02")
	h.want(partitions, "fact_consumption_sample_2025_03")
}

// TestPruneThatIsCutOff: its connection goes while it waits for a reader. The next one finishes.
func TestPruneThatIsCutOff(t *testing.T) {
	h := newHouse(t)
	h.months(1)
	reader := h.session("1ms")
	reader("begin")
	reader(`select count(*) from dw.fact_consumption_sample`)
	cut := "[]"
	meanwhile(func() {
		if _, err := h.Prune(t.Context(), Retention{Samples: 100 * days}); err == nil || errors.Is(err, ErrLocked) {
			t.Errorf("got %v, want the loss of the connection", err)
		}
	}, func() {
		if cut == "[]" {
			cut = fmt.Sprint(h.rows(`select pg_terminate_backend(pid) from pg_stat_activity
				where datname = current_database() and query like 'alter table%detach%' and wait_event_type = 'Lock'`))
		}
	})
	h.want(`select count(*) from pg_inherits where inhdetachpending`, "1")
	reader("rollback")
	h.wantPruned(Retention{Samples: 100 * days}, "samples 2025-01")
	h.want(partitions)
}

func TestPruneFinishesWhatACrashLeft(t *testing.T) {
	h := newHouse(t)
	h.months(4)
	conn := warehousetest.Connect(t, h.url)
	for _, sql := range []string{
		`comment on table dw.fact_consumption_sample_2025_01 is '` + doomed + `'`, // died before the detach
		`comment on table dw.fact_consumption_sample_2025_02 is '` + doomed + `'`, // died after it
		`alter table dw.fact_consumption_sample detach partition dw.fact_consumption_sample_2025_02 concurrently`,
		`alter table dw.fact_consumption_sample detach partition dw.fact_consumption_sample_2025_03`, // somebody's archive
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	h.wantPruned(Retention{Samples: 411 * days}, "samples 2025-01", "samples 2025-02")
	h.want(partitions, "fact_consumption_sample_2025_03", "fact_consumption_sample_2025_04")
	if err := h.makePartitions(t.Context(), window("2025-03-05", "2025-03-06")); err == nil || !strings.Contains(err.Error(), "rename it, or attach it again") {
		t.Errorf("a load of the month of the archive: got %v", err)
	}

	// A month that is out and not dropped yet is made anew for a load.
	for _, sql := range []string{
		`comment on table dw.fact_consumption_sample_2025_04 is '` + doomed + `'`,
		`alter table dw.fact_consumption_sample detach partition dw.fact_consumption_sample_2025_04 concurrently`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	h.mustHistory(window("2025-04-05", "2025-04-06"), extreme(sample("2025-04-05T00:00:00Z", "1")))
	h.want(`select count(*) from dw.fact_consumption_sample`, "1")
}

func TestPruneLeavesAMonthThatIsBeingLoaded(t *testing.T) {
	h := newHouse(t)
	h.months(2)
	ctx := t.Context()
	job := etl.Job{Source: "keystone", Dataset: "keystone.history", Scope: "C-1", Account: "acme"}
	lease, err := h.Lease(ctx, job.Dataset, job.Scope)
	if err != nil {
		t.Fatal(err)
	}
	run, err := h.StartRun(ctx, lease, job, window("2025-01-31", "2025-02-01"), h.now)
	if err != nil {
		t.Fatal(err)
	}
	h.wantPruned(Retention{Samples: 100 * days}, "samples 2025-01: a run is loading days of it", "samples 2025-02")
	if err := errors.Join(run.Fail(ctx, nil, errors.New("made up")), lease.Release(ctx)); err != nil {
		t.Fatal(err)
	}
	h.wantPruned(Retention{Samples: 100 * days}, "samples 2025-01")
}

// TestPruneSparesAMonthMadeAnew: while Prune was waiting for locks a load put a month of its own in the place of what is
// on its way out. Nothing happens to that.
func TestPruneSparesAMonthMadeAnew(t *testing.T) {
	h := newHouse(t)
	h.months(1)
	const rows = `select count(*) > 0 from dw.fact_consumption_sample`
	h.want(rows, "true")
	ctx := t.Context()
	job := etl.Job{Source: "keystone", Dataset: "keystone.history", Scope: "C-1", Account: "acme"}
	lease, err := h.Lease(ctx, job.Dataset, job.Scope)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.StartRun(ctx, lease, job, window("2025-01-30", "2025-01-31"), h.now); err != nil {
		t.Fatal(err)
	}
	conn := warehousetest.Connect(t, h.url)
	for _, seen := range []month{{table: "fact_consumption_sample_2025_01"}, {table: "fact_consumption_sample_2025_01", isShell: true}} {
		err := h.dropMonth(ctx, conn, h.now.Add(-100*days), seen)
		if err != nil && !errors.Is(err, ErrLocked) {
			t.Error(err)
		}
		h.want(partitions, "fact_consumption_sample_2025_01")
		h.want(rows, "true")
	}
}

func TestTwoPrunesAtOnce(t *testing.T) {
	h := newHouse(t)
	lease, err := h.Lease(t.Context(), "prune", "warehouse")
	if err != nil {
		t.Fatal(err)
	}
	var busy *etl.BusyError
	if _, err := h.Prune(t.Context(), Retention{Samples: 100 * days}); !errors.As(err, &busy) {
		t.Errorf("got %v, want a BusyError", err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.wantPruned(Retention{Samples: 100 * days})
}
