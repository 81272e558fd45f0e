package console

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

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
insert into ops.alert (alert_key, kind, severity, account, subject, detail, since, heals, opened_at, seen_at)
select 'late ' || n, 'late', 'warn', 'acme', 'C-' || n || ' is late', 'look', '2026-05-21Z', true, '2026-05-21Z', '2026-05-21Z' from generate_series(1, 100) as n;
`

// BenchmarkPages tells how long each page takes at 10,000 series, from the request to the last byte:
//
//	go test -bench Pages -run '^$' ./etl/console
func BenchmarkPages(b *testing.B) {
	url := warehousetest.New(b)
	pool := connect(b, url)
	for _, sql := range []string{grown, "vacuum analyze"} {
		if _, err := pool.Exec(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
	began := time.Now()
	s := started(b, pool)
	<-s.advice.refresh() // what the overview says first is worked out in the background
	b.Logf("the deadlines of the overview took %s, in the background", time.Since(began).Round(time.Millisecond))
	last := ""
	for _, path := range []string{
		"/", "/freshness", "/freshness?q=c-77&status=ok", "/freshness?sort=-next_due_at", "/freshness?page=60", "/runs", "/runs?status=failed",
		"/runs?q=C-77&dataset=keystone.history", "/runs?status=partial&q=9", "/runs?page=200", "/runs?sort=run_id", "/runs?q=nobody", "/runs/150001",
		"/payloads/1000", "/quarantine", "/quarantine?state=", "/quarantine?state=&q=C-500&reason=time_form", "/quarantine?state=resolved&page=99", "/quarantine/3000",
		"/coverage?month=2026-04", "/coverage?month=2026-04&detail=levels&page=100", "/coverage?month=2026-03&months=3&detail=levels&status=missing", "/coverage?month=2026-04&q=C-77",
		"/coverage/day?dataset=keystone.history&account=acme&customer=C-77&subscription=S-77&day=2026-04-15", "/consumption?month=2026-04", "/consumption?month=2026-04&q=c-77&sort=-consumed_max_tib",
		"/consumption/level?customer=C-77&subscription=S-77&level=Level+7&ordinal=0&span=90d", "/consumption/level?customer=C-77&subscription=S-77&level=Level+7&ordinal=0&span=12m",
		"/month?month=2026-04", "/month/statement?month=2026-04", "/month/statement?month=2026-04&sort=-quantity&page=150", "/month/adjustments?month=2026-04",
	} {
		// What is computed in the background is there: how long that took is told.
		for began := time.Now(); ; {
			res, err := http.Get("http://" + s.Addr() + path)
			if err != nil {
				b.Fatal(err)
			}
			text, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != http.StatusOK {
				b.Fatalf("%s: %d %v %s", path, res.StatusCode, err, text)
			}
			if !strings.Contains(string(text), "It is being computed") {
				if took := time.Since(began); took > time.Second {
					b.Logf("%s was computed in the background within %s", path, took.Round(time.Millisecond))
				}
				break
			}
		}
		b.Run(path, func(b *testing.B) {
			for b.Loop() {
				res, err := http.Get("http://" + s.Addr() + path)
				if err != nil {
					b.Fatal(err)
				}
				text, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != http.StatusOK {
					b.Fatalf("%d %v", res.StatusCode, err)
				}
				last = string(text)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/page")
			b.ReportMetric(0, "ns/op")
			if strings.Contains(last, "took too long") {
				b.Error("it took too long")
			}
		})
	}
}

// started is a server over a warehouse, until the benchmark ends.
func started(b *testing.B, pool *pgxpool.Pool) *Server {
	b.Helper()
	s, err := New(Config{
		Listen: "127.0.0.1:0", Pool: pool, Now: func() time.Time { return testNow }, Anybody: Closer, Loads: &deeds{},
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
