-- Makes rows of history by the million, for measuring what a table's size does to everything else. They are what a load
-- would have stored, digests aside: days made here must not be loaded again. Run the file once in a session (it has no
-- parameters, so psql's \i and one Exec of a driver do), then call, in the same session:
--
--   select * from pg_temp.grow_customer('GROW-1', 1000);                                         -- customer_key, first_level, last_level
--   select pg_temp.grow_samples(1, 1, 1000, '2025-01-01', '2025-03-01', interval '5 minutes');   -- samples made
--
-- Foreign keys are checked once, here, and not row by row: the role must be a superuser. Vacuum and analyze afterwards.

-- Stores a customer and its levels, four to a subscription, and tells the keys to grow samples for.
create or replace function pg_temp.grow_customer(customer_id text, levels integer)
returns table (customer_key bigint, first_level bigint, last_level bigint)
language sql
as $$
    with customer as (
        insert into dw.dim_customer (customer_id, customer_name, account, first_seen_at, seen_at)
        values ($1, $1, 'grow', '2020-01-01', '2020-01-01')
        returning customer_key
    ),

    subscription as (
        insert into dw.dim_subscription (customer_key, subscription_number, first_seen_at)
        select customer_key, $1 || '-' || to_char(n, 'FM000000'), '2020-01-01'
        from customer
        cross join generate_series(1, ($2 + 3) / 4) as n
        order by n
        returning customer_key, subscription_key
    ),

    level as (
        insert into dw.dim_service_level (customer_key, subscription_key, service_level, level_class)
        select customer_key, subscription_key, service_level, 'base'
        from subscription
        cross join unnest(array['Extreme', 'Performance', 'Premium', 'Standard']) as service_level
        order by subscription_key, service_level
        limit $2
        returning customer_key, service_level_key
    )

    select customer_key, min(service_level_key), max(service_level_key)
    from level
    group by customer_key
$$;

-- Stores one sample per level, from first_level to last_level, and step, from from_day until before until_day, both UTC, with the
-- daily rows and partitions that they need. The days must not have rows yet.
create or replace function pg_temp.grow_samples(customer bigint, first_level bigint, last_level bigint, from_day date, until_day date, step interval)
returns bigint
language plpgsql
set timezone = 'UTC'
set session_replication_role = 'replica'
as $$
declare
    month date;
    made bigint;
    total bigint := 0;
begin
    if (select count(*) from dw.dim_service_level as l where l.customer_key = customer and l.service_level_key between first_level and last_level)
        <> last_level - first_level + 1 then
        raise exception 'grow_samples: not all levels from % to % are of customer %', first_level, last_level, customer;
    end if;
    for month in select generate_series(date_trunc('month', from_day::timestamp), until_day - interval '1 day', '1 month') loop
        if to_regclass(format('dw.fact_consumption_sample_%s', to_char(month, 'YYYY_MM'))) is null then
            execute format(
                'create table dw.fact_consumption_sample_%s partition of dw.fact_consumption_sample for values from (%L) to (%L) with (fillfactor = 90)',
                to_char(month, 'YYYY_MM'), month || ' 00:00:00+00', (month + interval '1 month')::date || ' 00:00:00+00'
            );
        end if;
        insert into dw.fact_consumption_sample
            (customer_key, service_level_key, sampled_at, committed_tib, consumed_tib, burst_tib, accrued_burst_tib, is_invoiced)
        select
            customer,
            level,
            sampled_at,
            100,
            consumed_tib,
            greatest(consumed_tib - 100, 0),
            trim_scale(round(greatest(consumed_tib - 100, 0) / 43200, 9)),
            false
        from generate_series(first_level, last_level) as level
        cross join generate_series(greatest(month, from_day)::timestamptz, least(month + interval '1 month', until_day)::timestamptz - interval '1 microsecond', step) as sampled_at
        cross join lateral (
            select trim_scale(90 + mod(level * 7919 + extract(epoch from sampled_at)::bigint / 60 * 104729, 40000000) * 0.000001) as consumed_tib
        ) as measured;
        get diagnostics made = row_count;
        total := total + made;
        insert into dw.fact_daily_consumption (
            customer_key, service_level_key, usage_date, sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
            burst_avg_tib, over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, is_invoiced, invoiced_samples, uninvoiced_samples,
            digest, known_since, payload_id, run_id
        )
        select
            s.customer_key,
            s.service_level_key,
            s.sampled_at::date,
            count(*),
            case when count(*) > 1 then extract(epoch from step)::integer end,
            100,
            trim_scale(round(avg(s.consumed_tib), 12)),
            max(s.consumed_tib),
            (array_agg(s.consumed_tib order by s.sampled_at desc))[1],
            trim_scale(round(avg(s.burst_tib), 12)),
            trim_scale(round(avg(greatest(s.consumed_tib - s.committed_tib, 0)), 12)),
            trim_scale(sum(s.accrued_burst_tib)),
            (array_agg(s.accrued_burst_tib order by s.sampled_at desc))[1],
            false,
            0,
            count(*),
            sha256(convert_to(s.service_level_key || ' ' || s.sampled_at::date, 'UTF8')), -- a digest's width, and no day's digest
            s.sampled_at::date::timestamptz + interval '1 day',
            0,
            0
        from dw.fact_consumption_sample as s
        where s.customer_key = customer and s.service_level_key between first_level and last_level
            and s.sampled_at >= greatest(month, from_day)::timestamptz and s.sampled_at < least(month + interval '1 month', until_day)::timestamptz
        group by s.customer_key, s.service_level_key, s.sampled_at::date;
    end loop;
    return total;
end
$$;
