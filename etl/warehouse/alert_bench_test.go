package warehouse

import "testing"

// BenchmarkCheckAlerts judges a warehouse of 100 customers and a million daily rows, with half a
// million runs and calls, 10,000 open refusals and 98,000 invoiced days restated in the last week.
func BenchmarkCheckAlerts(b *testing.B) {
	w := newWatch(b)
	w.now = at("2026-05-20T12:00:00Z")
	w.exec(`insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at) select 'C-' || i, 'acme', now(), now() from generate_series(1, 100) as i`)
	w.exec(`insert into dw.dim_subscription (customer_key, subscription_number, first_seen_at) select customer_key, 'A-' || i, now() from dw.dim_customer cross join generate_series(1, 5) as i`)
	w.exec(`insert into dw.dim_service_level (customer_key, subscription_key, service_level, level_ordinal, level_class) select customer_key, subscription_key, l, 0, 'base' from dw.dim_subscription cross join unnest(array['Extreme','Premium','Standard','Value']) as l`)
	w.exec(`insert into ops.run (source, dataset, scope, account, owner, fence, business_at, fetched_at, finished_at, status, restated)
		select 'keystone', d, 'C-' || (i % 100 + 1), 'acme', 'o', 1, t, t, t, 'ok', 0
		from generate_series(1, 166667) as i cross join unnest(array['keystone.history','keystone.current','keystone.subscriptions']) as d
		cross join lateral (select $1::timestamptz - (166667 - i) * interval '2 minutes' as t) as x`, w.now)
	w.exec(`insert into ops.run_call (run_id, class, calls) select run_id, 'ok', 1 from ops.run`)
	w.exec(`insert into ops.watermark (source, dataset, scope, account, last_success_at, last_run_id, next_due_at, watermark, expected_from)
		select 'keystone', dataset, scope, 'acme', $1, max(run_id), $1::timestamptz + interval '6 hours', $1, '2025-10-01' from ops.run group by dataset, scope`, w.now)
	w.exec(`insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib, over_committed_avg_tib, digest, known_since, run_id, payload_id, is_invoiced, invoiced_samples, uninvoiced_samples)
		select customer_key, service_level_key, '2026-05-20'::date - i, 24, 100, 100, 100, 100, 0, decode(md5(i::text), 'hex'), now(), 1, 1, true, 24, 0
		from dw.dim_service_level cross join generate_series(1, 500) as i`)
	w.exec(`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib, over_committed_avg_tib, was_invoiced, known_from, known_until, payload_id, run_id)
		select customer_key, service_level_key, usage_date, 'restated', 24, 100, 100, 100, 100, 0, true, '2026-01-01', $1::timestamptz - (usage_date - '2026-04-01'::date) * interval '1 hour', 1, 1
		from dw.fact_daily_consumption where usage_date > '2026-04-01'`, w.now)
	w.exec(`insert into ops.quarantine (run_id, source, dataset, scope, path, reason, excerpt, fingerprint, quarantined_at, resolved_at, resolution)
		select 1, 'keystone', 'keystone.history', 'C-' || (i % 100 + 1), '/' || i, 'rule_' || (i % 7), 'x', decode(md5(i::text), 'hex'), now(), case when i > 10000 then now() end, case when i > 10000 then 'x' end
		from generate_series(1, 100000) as i`)
	w.exec(`insert into ops.watermark (source, dataset, scope, account, zone, last_success_at, next_due_at) values ('wolkvox', 'wolkvox.billing', 'calls', 'calls', 'America/Bogota', $1, $1::timestamptz + interval '1 hour')`, w.now)
	w.exec(`insert into ops.coverage (source, dataset, scope, product, day, status, run_id)
		select 'wolkvox', 'wolkvox.billing', 'calls', 'p' || p, '2026-05-20'::date - i, 'answered', 1 from generate_series(1, 27) as p cross join generate_series(0, 700) as i`)
	w.exec(`insert into ops.vendor_call (credential, account, product, owner, started_at, lost_at, ended_at, outcome)
		select 'h', 'calls', 'p', 'o', now() - i * interval '1 minute', now(), now(), case when i % 100 = 0 then 'quota_exceeded' else 'ok' end from generate_series(1, 500000) as i`)
	w.exec(`insert into dw.dim_operation (account, operation, server, zone, first_seen_at) values ('calls', 'op', '1', 'America/Bogota', now())`)
	w.exec(`insert into dw.dim_product (product_number, api, title, unit, kind) select i, 'p' || i, 't', 'x', 'gauge' from generate_series(1, 27) as i`)
	w.exec(`insert into dw.fact_license_reading (operation_key, product_key, description, reading_date, read_at, items, items_text, payload_id, run_id)
		select 1, p, 'd', ('2026-05-20T12:00:00Z'::timestamptz - i * interval '30 minutes')::date, '2026-05-20T12:00:00Z'::timestamptz - i * interval '30 minutes', 1, '1', 1, 1 from generate_series(1, 27) as p cross join generate_series(1, 17000) as i`)
	w.exec(`vacuum analyze`)
	w.token(1, 0, 0)
	w.look()
	for b.Loop() {
		w.look()
	}
}
