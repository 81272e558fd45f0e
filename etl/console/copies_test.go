package console

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// What the computed copies read may change without the fingerprint of them because it does not change by itself.
var unnamed = map[string]string{
	"raw.payload":                "the workbook alone reads it, which is no copy",
	"dw.fact_consumption_sample": "a load writes it, which ends a run; what prune takes away is named as partitions",
	"dw.fact_daily_consumption":  "a load writes it, which ends a run",
	"dw.fact_subscription":       "a load writes it, which ends a run",
	"dw.fact_commitment":         "a load writes it, which ends a run",
	"dw.fact_license_reading":    "a load or an import writes it, which ends a run",
	"dw.fact_license_snapshot":   "a load or an import writes it, which ends a run",
	"dw.restatement":             "a load writes it, which ends a run",
	"dw.dim_customer":            "a load writes it, which ends a run",
	"dw.dim_subscription":        "a load writes it, which ends a run",
	"dw.dim_service_level":       "a load writes it, which ends a run; classes change with dw.level_class_map",
	"dw.dim_date":                "a calendar, filled once",
	"ops.coverage":               "a load writes it, which ends a run; dismissing settles a row of ops.quarantine with it",
	"billing.close":              "written with a link of billing.chain",
	"billing.reopen":             "written with a link of billing.chain",
	"billing.closed_line":        "written with a link of billing.chain",
	"billing.closed_day":         "written with a link of billing.chain",
	"billing.settled":            "written with a link of billing.chain; billing.fingerprint decides whether it holds",
	"billing.invoice_line":       "written and superseded with its invoice",
	"billing.invoice_withdrawal": "written when its invoice is superseded",
}

// What reads the clock, and by what the fingerprint says until when it holds.
var clocked = map[string]string{
	"billing.business_now":     "its readers are here",
	"billing.statement_months": "UTC midnight",
	"billing.statement_part":   "midnight of UTC and of the operation's zone, UTC midnight and what settles after it",
	"billing.fingerprint":      "UTC midnight and the greatest settle",
	"billing.close_obstacle":   "UTC midnight; the rest is of statement_part and license_month",
	"mart.coverage":            "midnight of UTC and of the scope's zone, UTC midnight and what settles after it",
	"mart.daily_utilisation":   "UTC midnight and what settles after it",
	"mart.license_month":       "licence months: their ends, three days, 45 and 15 minutes before and an hour after; an hour after a reading; 15 minutes after a slot",
}

var (
	ourName  = regexp.MustCompile(`\b(?:raw|ops|dw|billing|mart)\.[a-z_0-9]+`)
	clockUse = regexp.MustCompile(`\bnow\(\)|business_now|meterhouse\.now|current_(date|time)|(clock|statement|transaction)_timestamp|localtime`)
)

// Every table that the copies read, through views and functions and by Match, is named in the fingerprint or has a
// reason why it need not be; and whatever of it reads the clock is listed with what it waits for. Without this test
// a new relation in a view of the mart would make pages show old figures as those of now.
func TestFingerprintKnowsWhatIsRead(t *testing.T) {
	t.Parallel()
	h := grownHouse(t, nil)
	var texts []string
	for _, pattern := range []string{"sql/month_*.sql", "sql/coverage_days.sql", "sql/consumption_levels.sql", "../billing/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, string(text))
		}
	}
	tables, seen, clocks := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for len(texts) > 0 {
		text := texts[0]
		texts = texts[1:]
		for _, name := range ourName.FindAllString(text, -1) {
			if seen[name] {
				continue
			}
			seen[name] = true
			for _, row := range h.mart(fmt.Sprintf(`
				select 'table', '' from pg_class where oid = to_regclass('%[1]s') and relkind in ('r', 'p', 'm')
				union all
				select 'text', pg_get_viewdef(oid) from pg_class where oid = to_regclass('%[1]s') and relkind = 'v'
				union all
				select 'text', prosrc from pg_proc where pronamespace = split_part('%[1]s', '.', 1)::regnamespace and proname = split_part('%[1]s', '.', 2) and prorettype <> 'trigger'::regtype`, name)) {
				if row[0] == "table" {
					tables[name] = true
					continue
				}
				texts = append(texts, row[1])
				if clockUse.MatchString(row[1]) {
					clocks[name] = true
				}
			}
		}
	}
	_, key, ok := strings.Cut(h.sql("fingerprint"), "row(")
	if !ok || len(tables) < 25 || !tables["dw.fact_consumption_sample"] || !tables["ops.coverage"] {
		t.Fatalf("found %d tables: %v", len(tables), slices.Sorted(maps.Keys(tables)))
	}
	named := map[string]bool{}
	for _, name := range ourName.FindAllString(key, -1) {
		named[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		if !named[name] && unnamed[name] == "" {
			t.Errorf("%s is read and may change unseen: name it in sql/fingerprint.sql, or say here why it need not be", name)
		}
	}
	for name := range unnamed {
		if !tables[name] {
			t.Errorf("%s is not read any more: take its reason away", name)
		}
	}
	if want, got := slices.Sorted(maps.Keys(clocked)), slices.Sorted(maps.Keys(clocks)); !slices.Equal(want, got) {
		t.Errorf("these read the clock:\n%q, want\n%q: see that sql/fingerprint.sql says until when they hold", got, want)
	}
}

// While nothing is written, nothing that copies hold changes before the fingerprint says that it may: around the end of
// a month whose last readings are late, in a zone of its own.
func TestFingerprintKnowsTheClock(t *testing.T) {
	t.Parallel()
	h := grownHouse(t, nil)
	// A few levels and products are enough, and quick.
	for _, table := range []string{"fact_consumption_sample", "fact_daily_consumption", "fact_commitment", "restatement", "dim_service_level"} {
		h.exec("delete from dw." + table + " where service_level_key > (select min(service_level_key) + 4 from dw.dim_service_level)")
	}
	h.exec("delete from dw.fact_license_snapshot where product_key > (select min(product_key) + 2 from dw.fact_license_snapshot)")
	h.exec("delete from ops.coverage where source = 'wolkvox' and product not in ('product_1', 'product_2', 'product_3')")
	// The account was read until the 29th; its local month ends at 05:00 UTC.
	h.exec(`update dw.dim_operation set zone = 'America/Bogota';
		update ops.watermark set zone = 'America/Bogota', settle = '0', next_due_at = '2026-11-29 20:00Z', last_success_at = '2026-11-29 20:05Z' where source = 'wolkvox';
		update ops.watermark set settle = '2 hours 30 minutes', watermark = '2026-11-28' where source = 'keystone';
		delete from dw.fact_daily_consumption where usage_date >= '2026-11-28'`)
	h.exec(`insert into ops.coverage (source, dataset, scope, product, day, status, run_id)
		select 'wolkvox', 'wolkvox.billing', o.account, p.api, '2026-11-29', 'answered', (select min(run_id) from ops.run)
		from dw.dim_operation as o cross join dw.dim_product as p on conflict do nothing`)
	h.exec(`insert into dw.fact_license_snapshot (operation_key, product_key, description, snapshot_date, items, items_text, items_min, items_max, reading_count, read_at, payload_id, run_id)
		select f.operation_key, f.product_key, f.description, '2026-11-29', f.items, f.items_text, f.items_min, f.items_max, 1, '2026-11-29 20:00Z', f.payload_id, f.run_id
		from (select distinct on (operation_key, product_key, description) * from dw.fact_license_snapshot order by operation_key, product_key, description, snapshot_date desc) as f
		on conflict (operation_key, product_key, description, snapshot_date) do update set read_at = excluded.read_at`)
	h.exec(`update dw.fact_license_snapshot set read_at = '2026-11-29 20:07Z' where snapshot_date = '2026-11-29' and product_key = (select max(product_key) from dw.fact_license_snapshot)`)
	if n := h.mart(`select count(*) from mart.license_month where month = '2026-11-01'`)[0][0]; n == "0" {
		t.Fatal("no licence month")
	}
	// at is all that copies hold at an instant, and until when the fingerprint says that it holds.
	at := func(now time.Time) (text string, until time.Time) {
		t.Helper()
		err := pgx.BeginTxFunc(t.Context(), h.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), fmt.Sprintf(`set local meterhouse.now = '%s'`, now.Format(time.RFC3339Nano))); err != nil {
				return err
			}
			var key string
			var micros int64
			if err := tx.QueryRow(t.Context(), h.sql("fingerprint")).Scan(&key, &micros); err != nil {
				return err
			}
			until = time.UnixMicro(micros).UTC()
			return tx.QueryRow(t.Context(), `select concat_ws(E'\n',
				(select string_agg(concat_ws('|', m.account, m.month, m.state, m.reason), E'\n' order by m.account, m.month) from mart.license_month as m),
				(select string_agg(o.*::text, E'\n' order by o.kind, o.about) from billing.close_obstacle('2026-11') as o),
				(select string_agg(m.*::text, ' ' order by m.period) from billing.statement_months() as m),
				(select md5(string_agg(s.*::text, E'\n' order by s.*::text)) from mart.statement as s where s.period in ('2026-11', '2026-12')),
				(select md5(string_agg(c.*::text, E'\n' order by c.*::text)) from mart.coverage as c where c.day >= '2026-11-26'))`).Scan(&text)
		})
		if err != nil {
			t.Fatal(err)
		}
		return text, until
	}
	random := rand.New(rand.NewPCG(7, 11))
	for _, c := range []struct {
		given, from, until string
		turns              []string
	}{
		{"", "2026-11-28T04:00:00Z", "2026-11-29T22:00:00Z", []string{
			"28 05:00:00.000000",                                             // three days before the month ends, nothing is at risk yet
			"29 00:00:00.000000", "29 02:30:00.000000", "29 05:00:00.000000", // a day begins, settles, and is over in Bogota
			"29 21:00:00.000001", "29 21:07:00.000001", // an hour after readings
		}},
		{"update ops.watermark set next_due_at = '2026-12-01 03:50Z' where source = 'wolkvox'", "2026-12-01T03:40:00Z", "2026-12-01T04:10:00Z", []string{"01 04:05:00.000001"}},
		{"update ops.watermark set next_due_at = '2026-12-01 05:30Z' where source = 'wolkvox'", "2026-12-01T04:10:00Z", "2026-12-01T04:20:00Z", []string{"01 04:15:00.000000"}},
		{`insert into ops.run (source, dataset, scope, account, owner, fence, business_at)
			select source, dataset, scope, account, 'test', 1, '2026-12-01 04:06Z' from ops.watermark where source = 'wolkvox'`, "2026-12-01T04:10:00Z", "2026-12-01T06:10:00Z", []string{
			"01 04:45:00.000000", "01 05:00:00.000000", "01 06:00:00.000000", // the run that reads the end is given up, an hour after it
		}},
	} {
		h.exec(c.given)
		now, end := moment(t, c.from), moment(t, c.until)
		changes, steps, last := map[string]bool{}, 0, ""
		for ; now.Before(end); steps++ {
			text, until := at(now)
			if text != last {
				changes[now.Format("02 15:04:05.000000")], last = true, text
			}
			if !until.After(now) {
				t.Fatalf("at %s it holds until %s", now, until)
			}
			within := now.Add(time.Duration(random.Int64N(int64(until.Sub(now)))).Truncate(time.Microsecond))
			for _, then := range []time.Time{within, until.Add(-time.Microsecond)} {
				if got, _ := at(then); got != text {
					t.Errorf("at %s the fingerprint says that it holds until %s, and at %s there is\n%s\ninstead of\n%s", now, until, then, got, text)
				}
			}
			now = until
		}
		for _, turn := range c.turns {
			if !changes[turn] {
				t.Errorf("nothing changes at %s", turn)
			}
		}
		t.Logf("from %s: %d steps, changes at %v", c.from, steps, slices.Sorted(maps.Keys(changes)))
	}
	// Zones that differ, and three days before the end of a month that has an hour more than its days.
	for _, c := range []struct{ given, at, until string }{
		{"update dw.dim_operation set zone = 'Asia/Kolkata'", "2026-11-10T18:29:00Z", "2026-11-10T18:30:00Z"},
		{"update ops.watermark set zone = 'Asia/Kathmandu' where source = 'wolkvox'", "2026-11-10T18:14:00Z", "2026-11-10T18:15:00Z"},
		{"update ops.watermark set zone = 'Europe/Madrid' where source = 'wolkvox'", "2027-10-28T22:31:00Z", "2027-10-28T23:00:00Z"},
	} {
		h.exec(c.given)
		if _, until := at(moment(t, c.at)); !until.Equal(moment(t, c.until)) {
			t.Errorf("%s: at %s it holds until %s, want %s", c.given, c.at, until, c.until)
		}
	}
}

func moment(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}
