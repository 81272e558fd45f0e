package console

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"meterhouse/etl/billing"
	"meterhouse/etl/warehouse/warehousetest"
)

// grown is a warehouse of 10,000 series: 1,000 customers with ten levels each and sixty days, the 300,000 runs of
// some months, 40,000 landed answers (with empty bodies), 30,000 refused records of which 3,000 are open.
const grown = `
insert into dw.dim_customer (customer_id, customer_name, account, first_seen_at, seen_at)
select 'C-' || n, 'Customer ' || n, 'acme', '2026-01-01Z', '2026-05-21Z' from generate_series(1, 1000) as n;
insert into dw.dim_subscription (customer_key, subscription_number, start_at, first_seen_at)
select customer_key, 'S-' || customer_key, '2026-01-01Z', '2026-01-01Z' from dw.dim_customer;
insert into dw.dim_service_level (customer_key, subscription_key, service_level, level_class)
select customer_key, subscription_key, 'Level ' || n, 'base' from dw.dim_subscription cross join generate_series(1, 10) as n;
insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib,
    consumed_last_tib, over_committed_avg_tib, invoiced_samples, uninvoiced_samples, digest, known_since, payload_id, run_id)
select customer_key, service_level_key, '2026-03-22'::date + n, 288, 100, 90.123456789012, 110, 95, 1.5, 0, 0, '\x00', '2026-05-21Z', 0, 0
from dw.dim_service_level cross join generate_series(0, 59) as n where (service_level_key + n) % 97 <> 0;
insert into ops.run (source, dataset, scope, account, window_from, window_until, status, owner, fence, business_at, fetched_at, started_at, finished_at,
    received, inserted, quarantined, error)
select 'keystone', (array['keystone.history', 'keystone.current', 'keystone.subscriptions'])[1 + n % 3], 'C-' || (1 + n / 3 % 1000), 'acme', '2026-05-01', '2026-05-20',
    case when n % 500 = 0 then 'failed' when n % 100 = 1 then 'partial' else 'ok' end, 'bench', n, '2026-05-21Z', '2026-05-21Z',
    '2026-03-01Z'::timestamptz + n * interval '20 s', '2026-03-01Z'::timestamptz + n * interval '20 s' + interval '2 s', 10, 10, 0,
    case when n % 500 = 0 then 'the vendor was away' end
from generate_series(1, 300000) as n;
insert into ops.run_warning select run_id, 'type_coerced', 3, '/results/0' from ops.run where run_id % 10 = 0;
insert into ops.run_call (run_id, class, calls) select run_id, 'ok', 2 from ops.run;
insert into ops.watermark (source, dataset, scope, account, watermark, last_success_at, last_run_id, next_due_at, expected_from)
select 'keystone', dataset, scope, 'acme', '2026-05-20Z', '2026-05-21Z', max(run_id), case when max(run_id) % 40 = 0 then '2026-05-21Z' else '2026-05-22Z' end::timestamptz, '2026-03-22'
from ops.run group by dataset, scope;
insert into raw.payload (run_id, source, dataset, scope, account, product, method, url, requested_at, fetched_at, status, content_type, body_bytes, body_sha256, body_zstd)
select run_id, source, dataset, scope, account, '', 'GET', 'https://api.example/v1/x', started_at, finished_at, 200, 'application/json', 100, '\x00', '\x00'
from ops.run where run_id % 7 = 0;
insert into ops.quarantine (run_id, payload_id, source, dataset, scope, path, reason, excerpt, fingerprint, quarantined_at, resolved_at, resolution)
select 7 * n, n, 'keystone', 'keystone.history', 'C-' || (1 + n % 1000), '/results/' || n, (array['number_form', 'number_range', 'time_form'])[1 + n % 3], repeat('x', 200), sha256(n::text::bytea),
    '2026-03-01Z'::timestamptz + n * interval '1 minute', case when n % 10 > 0 then '2026-05-01Z'::timestamptz end, case when n % 10 > 0 then 'read again' end
from generate_series(1, 30000) as n;
insert into ops.run_warning select 150003, 'warning_' || n, n, '/results/' || n from generate_series(1, 200) as n;
insert into ops.quarantine (run_id, payload_id, source, dataset, scope, path, reason, excerpt, fingerprint, quarantined_at)
select 150003, 1, 'keystone', 'keystone.history', 'C-1', '/results/' || n, 'number_form', repeat('x', 200), sha256((n || ' more')::bytea), '2026-03-01Z' from generate_series(1, 500) as n;
insert into billing.rate (vendor, item, charge, is_waiver, unit_price, currency, valid_from, source, known_since)
values ('keystone', '', 'committed', false, 12.3456, 'EUR', '2024-01-01', 'grown', '2024-01-01'), ('keystone', '', 'burst', false, 7, 'EUR', '2024-01-01', 'grown', '2024-01-01');
insert into ops.alert (alert_key, kind, severity, account, subject, detail, since, heals, opened_at, seen_at)
select 'late ' || n, 'late', 'warn', 'acme', 'C-' || n || ' is late', 'look', '2026-05-21Z', true, '2026-05-21Z', '2026-05-21Z' from generate_series(1, 100) as n;
`

// BenchmarkPages tells how long each page takes at 10,000 series, from the request to the last byte: the median, and
// the longest of nine in ten. In April 2026, which is closed, and of which a thousand days were restated since.
//
//	go test -bench Pages -run '^$' ./etl/console
//
// first is the first look after something was loaded, when computed copies are those of before; computed says how long it
// takes until a page shows figures of now; csv is the first byte of a file, fingerprint what tells whether copies are of now.
func BenchmarkPages(b *testing.B) {
	url := warehousetest.New(b)
	pool := connect(b, url)
	for _, sql := range []string{grown, "vacuum analyze"} {
		if _, err := pool.Exec(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
	april, err := billing.ParsePeriod("2026-04")
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	if _, err := billing.New(pool, func() time.Time { return testNow.Add(-time.Hour) }).Close(b.Context(), april, billing.CloseOptions{By: "jane", Reason: "bench"}); err != nil {
		b.Fatal(err)
	}
	b.Logf("a close of 10,000 levels took %s", time.Since(began).Round(time.Millisecond))
	for _, sql := range []string{restated, "vacuum analyze"} {
		if _, err := pool.Exec(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
	s := started(b, pool, nil)
	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar}
	get := func(b *testing.B, path string) string {
		b.Helper()
		res, err := browser.Get("http://" + s.Addr() + path)
		if err != nil {
			b.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			b.Fatalf("%s: %d %v %s", path, res.StatusCode, err, text)
		}
		return string(text)
	}
	// measure runs something often enough and reports its median and its longest of nine in ten.
	measure := func(name string, each func(b *testing.B) time.Duration) {
		b.Run(name, func(b *testing.B) {
			var all []time.Duration
			for b.Loop() {
				all = append(all, each(b))
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "ms/median")
			b.ReportMetric(float64(all[min(len(all)*9/10, len(all)-1)].Microseconds())/1000, "ms/90%")
			b.ReportMetric(0, "ns/op")
		})
	}
	page := func(path string) func(*testing.B) time.Duration {
		return func(b *testing.B) time.Duration {
			began := time.Now()
			get(b, path)
			return time.Since(began)
		}
	}
	settle := func(b *testing.B, path string) time.Duration {
		for began := time.Now(); ; {
			if text := get(b, path); !strings.Contains(text, `class="hint again"`) {
				return time.Since(began)
			}
			time.Sleep(20 * time.Millisecond) // or asking would take the time of computing
		}
	}
	copied := []string{
		"/coverage?month=2026-04", "/coverage?month=2026-04&detail=levels&page=100", "/coverage?month=2026-03&months=3&detail=levels&status=missing", "/coverage?month=2026-04&q=C-77",
		"/consumption?month=2026-04", "/consumption?month=2026-04&q=c-77&sort=-consumed_max_tib",
		"/month?month=2026-04", "/month?month=2026-05", "/month/statement?month=2026-04", "/month/statement?month=2026-04&sort=-quantity&page=150",
		"/month/adjustments?month=2026-05", "/month/adjustments?month=2026-05&sort=-amount&page=20", "/month/match?month=2026-04", "/month/match?month=2026-04&sort=-difference&cause=price",
		"/month/close?month=2026-05", "/month/close?month=2026-04",
	}
	for _, path := range []string{
		"/", "/freshness", "/freshness?q=c-77&status=ok", "/freshness?sort=-next_due_at", "/freshness?page=60", "/runs", "/runs?status=failed",
		"/runs?q=C-77&dataset=keystone.history", "/runs?status=partial&q=9", "/runs?page=200", "/runs?sort=run_id", "/runs?q=nobody", "/runs/150001", "/runs/150003",
		"/loads/7?dataset=keystone.history&scope=C-77&after=299000", "/payloads/1000", "/quarantine", "/quarantine?state=", "/quarantine?state=&q=C-500&reason=time_form", "/quarantine?state=resolved&page=99", "/quarantine/3000",
		"/coverage/day?dataset=keystone.history&account=acme&customer=C-77&subscription=S-77&day=2026-04-15",
		"/consumption/level?customer=C-77&subscription=S-77&level=Level+7&ordinal=0&span=90d", "/consumption/level?customer=C-77&subscription=S-77&level=Level+7&ordinal=0&span=12m",
		"/consumption/level?customer=C-77&subscription=S-77&level=Level+1&ordinal=0&span=quarter&as_of=2026-05-21T11:00:00Z",
	} {
		if path == "/" {
			b.Logf("the verdict of the overview took %s, in the background", settle(b, path).Round(time.Millisecond))
		}
		measure(path, page(path))
	}
	hash, err := HashPassword("of nobody who is here")
	if err != nil {
		b.Fatal(err)
	}
	locked := started(b, pool, map[string]User{"vera": {Hash: hash, Role: Viewer}})
	measure("/login", func(b *testing.B) time.Duration {
		began := time.Now()
		res, err := browser.Get("http://" + locked.Addr() + "/runs") // leads there
		if err != nil || res.Request.URL.Path != "/login" {
			b.Fatal(res, err)
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return time.Since(began)
	})
	for _, path := range copied {
		if took := settle(b, path); took > 100*time.Millisecond {
			b.Logf("%s was computed within %s", path, took.Round(time.Millisecond))
		}
		measure(path, page(path))
	}
	load := func(b *testing.B) {
		if _, err := pool.Exec(b.Context(), `update ops.watermark set watermark = watermark + interval '1 second' where scope = 'C-77'`); err != nil {
			b.Fatal(err)
		}
	}
	for _, path := range []string{"/", "/coverage?month=2026-04", "/consumption?month=2026-04", "/month?month=2026-05", "/month/statement?month=2026-04", "/month/adjustments?month=2026-05", "/month/match?month=2026-04", "/month/close?month=2026-05"} {
		measure("first"+path, func(b *testing.B) time.Duration {
			load(b)
			s.advice.forget()
			return page(path)(b)
		})
	}
	measure("fingerprint", func(b *testing.B) time.Duration {
		load(b)
		began := time.Now()
		if _, err := s.copies.now(b.Context()); err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	})
	for _, path := range copied {
		settle(b, path)
	}
	for _, path := range []string{
		"/freshness.csv", "/runs.csv?dataset=keystone.history", "/quarantine.csv?state=", "/coverage.csv?from=2026-04-01&until=2026-05-01&status=missing", "/consumption.csv?month=2026-04",
		"/level_days.csv?customer=C-77&subscription=S-77&level=Level+7&ordinal=0&from=2026-03-22&until=2026-05-21", "/statement.csv?month=2026-04", "/adjustments.csv?month=2026-05", "/match.csv?month=2026-04",
	} {
		measure("csv"+path, func(b *testing.B) time.Duration {
			ctx, stop := context.WithCancel(b.Context())
			defer stop() // the rest is not wanted
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Addr()+path, nil)
			if err != nil {
				b.Fatal(err)
			}
			began := time.Now()
			res, err := browser.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			defer res.Body.Close()
			if _, err := res.Body.Read(make([]byte, 1)); err != nil || res.StatusCode != http.StatusOK {
				b.Fatalf("%s: %d %v", path, res.StatusCode, err)
			}
			return time.Since(began)
		})
	}
}

// restated are other figures of a thousand days of a closed April.
const restated = `
insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib, over_committed_avg_tib, digest,
    known_from, known_until, payload_id, run_id)
select customer_key, service_level_key, usage_date, 'restated', sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib, over_committed_avg_tib, digest,
    known_since, '2026-05-21T11:30:00Z', payload_id, run_id
from dw.fact_daily_consumption where usage_date = '2026-04-15' and service_level_key % 10 = 1;
update dw.fact_daily_consumption set committed_tib = 120, known_since = '2026-05-21T11:30:00Z' where usage_date = '2026-04-15' and service_level_key % 10 = 1;
`

// invoiced is a finance in which 2,000 lines were compared; how long comparing takes is etl/billing's affair.
func invoiced() Match {
	m := Match{Lines: Grid{
		Columns: []string{"customer_id", "account", "subscription_number", "item", "charge", "invoices", "invoice_amount", "statement_amount", "recomputed_amount", "difference", "currency", "cause", "detail"},
		Numeric: []bool{false, false, false, false, false, false, true, true, true, true, false, false, false},
	}}
	for n := range 2000 {
		m.Lines.Rows = append(m.Lines.Rows, []string{fmt.Sprint("C-", n), "acme", fmt.Sprint("S-", n), "Level 1", "burst", "I-1", fmt.Sprint(n, ".25"), fmt.Sprint(n, ".00"), "", "0.25", "EUR", "price", strings.Repeat("x", 100)})
	}
	return m
}

// started is a server over a warehouse, until the benchmark ends.
func started(b *testing.B, pool *pgxpool.Pool, users map[string]User) *Server {
	b.Helper()
	s, err := New(Config{
		Users: users,
		Status: func(context.Context) (Status, error) { // as long as the command takes
			time.Sleep(time.Second)
			return Status{Verdict: "1 thing needs you.", NeedsYou: []string{"look"}}, nil
		},
		Listen: "127.0.0.1:0", Pool: pool, Now: func() time.Time { return testNow }, Anybody: Closer, Loads: &deeds{state: Progress{IsOver: true}}, Finance: ledger{deeds: &deeds{}, match: invoiced},
		Body: func(context.Context, int64) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(testBody)), nil
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(b.Context()))
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	for { // until it serves
		if res, err := http.Get(fmt.Sprintf("http://%s/healthz", s.Addr())); err == nil {
			res.Body.Close()
			return s
		}
	}
}
