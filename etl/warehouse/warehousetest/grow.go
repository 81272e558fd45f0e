package warehousetest

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Size says how much a grown warehouse holds. Each customer has ten subscriptions of five levels.
type Size struct {
	Customers int
	Days      int // of daily figures, to the end of October 2026; one of about a hundred is missing
	Samples   int // of each level and day of October; 0: none
}

// Grow fills an empty, migrated warehouse with made-up figures, by SQL: for measuring what reads it, and
// for plans like those of a big one. Its business clock should be 2 November 2026, noon UTC. Beside
// Keystone there is one wolkvox account with 27 products of three descriptions, and a price for everything.
func Grow(t testing.TB, conn *pgx.Conn, size Size) {
	t.Helper()
	for statement := range strings.SplitSeq(grow, "\n\n") {
		statement = strings.NewReplacer("$customers", strconv.Itoa(size.Customers), "$days", strconv.Itoa(size.Days), "$samples", strconv.Itoa(size.Samples)).Replace(statement)
		if _, err := conn.Exec(context.Background(), statement); err != nil {
			t.Fatalf("grow: %s: %v", statement, err)
		}
	}
}

const grow = `
insert into dw.dim_customer (customer_id, account, customer_name, first_seen_at, seen_at)
select 'C-' || lpad(i::text, 4, '0'), 'acme', 'Customer ' || i, '2024-10-01', '2026-11-02' from generate_series(1, $customers) as i

insert into dw.dim_subscription (customer_key, subscription_number, first_seen_at)
select customer_key, 'A-' || lpad((customer_key * 10 + i)::text, 6, '0'), '2024-10-01' from dw.dim_customer cross join generate_series(0, 9) as i

insert into dw.dim_service_level (customer_key, subscription_key, service_level, level_class)
select customer_key, subscription_key, l, 'base' from dw.dim_subscription cross join unnest(array['Extreme', 'Premium', 'Performance', 'Standard', 'Object']) as l

insert into ops.run (source, dataset, scope, account, owner, fence, business_at, fetched_at, status, started_at, finished_at, window_from, window_until, received, inserted)
select 'keystone', 'keystone.history', customer_id, 'acme', 'grown', n, at, at, case when customer_key % 50 = 7 and n = 20 then 'failed' else 'ok' end, at, at + interval '3 seconds', at - interval '125 days', at, 100, 100
from dw.dim_customer
cross join generate_series(1, 20) as n
cross join lateral (select timestamptz '2026-11-02 02:37Z' - (20 - n) * interval '1 day' as at) as x

insert into ops.watermark (source, dataset, scope, account, settle, expected_from, zone, watermark, last_success_at, last_run_id, next_due_at)
select 'keystone', 'keystone.history', r.scope, 'acme', '2 hours', date '2026-11-01' - $days, 'UTC', '2026-11-02', max(r.finished_at), max(r.run_id), '2026-11-03 02:37Z'
from ops.run as r
group by r.scope

insert into ops.coverage (source, dataset, scope, day, status, run_id)
select 'keystone', 'keystone.history', w.scope, date '2026-11-01' - i, 'answered', w.last_run_id from ops.watermark as w cross join generate_series(1, $days) as i

insert into dw.fact_daily_consumption (
    customer_key, service_level_key, usage_date, sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib, burst_avg_tib,
    over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, is_invoiced, invoiced_samples, uninvoiced_samples, digest, known_since, payload_id, run_id
)
select
    l.customer_key, l.service_level_key, day, 24, 3600, 100, 97.123456789012 + i % 7, 104.5 + i % 7, 99.5, 1.25,
    1.25, 0.0403225806, 0.00168, true, 24, 0, sha256('grown'), (day + 1)::timestamp at time zone 'UTC' + interval '3 hours', 1, 1
from dw.dim_service_level as l
cross join generate_series(1, $days) as i
cross join lateral (select date '2026-11-01' - i as day) as x
where (l.service_level_key * 31 + i) % 97 <> 0
order by 1, 2, 3

create table dw.fact_consumption_sample_2026_09 partition of dw.fact_consumption_sample for values from ('2026-09-01') to ('2026-10-01')

create table dw.fact_consumption_sample_2026_10 partition of dw.fact_consumption_sample for values from ('2026-10-01') to ('2026-11-01')

insert into dw.fact_consumption_sample (customer_key, service_level_key, sampled_at, committed_tib, consumed_tib, burst_tib, accrued_burst_tib, is_invoiced)
select d.customer_key, d.service_level_key, d.usage_date::timestamp at time zone 'UTC' + n * interval '1 day' / $samples, 100, 97.5 + n, 1.25, 0.00168, true
from dw.fact_daily_consumption as d
cross join generate_series(0, $samples - 1) as n
where d.usage_date >= '2026-10-01'
order by 1, 2, 3

insert into ops.run (source, dataset, scope, account, owner, fence, business_at, fetched_at, status, started_at, finished_at)
values ('wolkvox', 'wolkvox.billing', 'calls', 'calls', 'grown', 1, '2026-11-02 04:30Z', '2026-11-02 04:30Z', 'ok', '2026-11-02 04:30Z', '2026-11-02 04:30Z')

insert into ops.watermark (source, dataset, scope, account, zone, watermark, last_success_at, last_run_id, next_due_at)
select 'wolkvox', 'wolkvox.billing', 'calls', 'calls', 'America/Bogota', '2026-11-02', '2026-11-02 04:30Z', max(run_id), '2026-11-02 12:30Z' from ops.run

insert into ops.coverage (source, dataset, scope, product, day, status, run_id)
select 'wolkvox', 'wolkvox.billing', 'calls', 'product_' || p, date '2026-11-01' - i, 'answered', w.last_run_id
from ops.watermark as w
cross join generate_series(1, 27) as p
cross join generate_series(0, $days) as i
where w.scope = 'calls' and (p * 31 + i) % 97 <> 0

insert into dw.dim_operation (account, operation, server, zone, first_seen_at) values ('calls', 'Operation', '0039', 'America/Bogota', '2024-10-01')

insert into dw.dim_product (product_number, api, title, unit, kind)
select 1000 + p, 'product_' || p, 'Product ' || p, 'licences', case when p % 3 = 0 then 'counter' else 'gauge' end from generate_series(1, 27) as p

insert into dw.fact_license_snapshot (operation_key, product_key, description, snapshot_date, items, items_text, items_min, items_max, reading_count, read_at, payload_id, run_id, zone)
select o.operation_key, p.product_key, 'description ' || n, date '2026-11-01' - i, i % 31, i % 31, i % 31, i % 31 + 1, 48, (date '2026-11-02' - i)::timestamp at time zone o.zone - interval '5 minutes', 1, 1, o.zone
from dw.dim_operation as o
cross join dw.dim_product as p
cross join generate_series(1, 3) as n
cross join generate_series(1, $days) as i
where p.product_number > 1000

insert into billing.rate (vendor, item, charge, is_waiver, unit_price, currency, valid_from, source, known_since)
select v.vendor, v.item, v.charge, false, 12.3456, 'EUR', '2024-01-01', 'grown', '2024-01-01'
from (values ('keystone', '', 'committed'), ('keystone', '', 'burst'), ('wolkvox', '', 'license'), ('wolkvox', '', 'usage')) as v (vendor, item, charge)

insert into dw.restatement (
    customer_key, service_level_key, usage_date, kind, sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
    over_committed_avg_tib, was_invoiced, known_from, known_until, payload_id, run_id
)
select customer_key, service_level_key, usage_date, 'restated', 24, 3600, 100, 100, 100, 100, 0, true, known_since - interval '1 day', known_since, 1, 1
from dw.fact_daily_consumption
where (service_level_key + (usage_date - date '2026-01-01')) % 50 = 0

vacuum analyze`
