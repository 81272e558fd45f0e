-- Two questions about everything that is stored, in one pass over it. Days that lack something were looked for by making
-- every expected day first: at 10,000 series with 60 days that was 0.7 s of the server for each of status, the figures of
-- a monitor and the alerts, and grew with the years until a monitor got none within its five seconds. And what the daily
-- rows say about the accrued column sorted a month's rows three times, some of it on disk: now each series is added
-- up as its rows come from the index. Locks nothing for long; nothing to replay.

-- +goose Up
create view ops.coverage_hole as
with clock as (
    select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock -- max: the planner then knows that it is one row
),

-- As in mart.daily_utilisation, with the first day that is not due yet, or not there yet.
level as (
    select
        w.source,
        w.dataset,
        c.customer_id,
        s.subscription_number,
        s.discriminator,
        l.service_level,
        l.level_ordinal,
        w.account,
        l.customer_key,
        l.service_level_key,
        coalesce((s.end_at at time zone 'UTC')::date, 'infinity') as end_day, -- no end: never over
        (clock.now_at at time zone 'UTC')::date as today,
        least(((clock.now_at - w.settle) at time zone 'UTC')::date, (clock.now_at at time zone 'UTC')::date + 1) as not_due_day
    from dw.dim_service_level as l
    join dw.dim_subscription as s using (subscription_key)
    join dw.dim_customer as c on c.customer_key = l.customer_key
    join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
    cross join clock
),

-- What lies between a day and the next one that is stored, and after the last one: only the days that are stored
-- are read, from the primary key.
missing_day as (
    select l.*, days.calendar_date as day
    from level as l
    cross join lateral (
        select
            f.usage_date + 1 as first_day,
            least(lead(f.usage_date, 1, l.end_day + 1) over (order by f.usage_date), l.not_due_day) as until_day
        from dw.fact_daily_consumption as f
        where f.customer_key = l.customer_key and f.service_level_key = l.service_level_key
    ) as gap
    join dw.dim_date as days on days.calendar_date >= gap.first_day and days.calendar_date < gap.until_day
    where gap.first_day < gap.until_day
)

select source, dataset, customer_id, subscription_number, service_level, account, null::text as product, day, 'missing'::text as status, level_ordinal, discriminator
from missing_day
union all
select l.source, l.dataset, l.customer_id, l.subscription_number, l.service_level, l.account, null, f.usage_date, 'partial', l.level_ordinal, l.discriminator
from dw.fact_daily_consumption as f
join level as l using (customer_key, service_level_key)
where f.digest is null and f.usage_date <= l.today
union all
select v.source, v.dataset, v.customer_id, v.subscription_number, v.service_level, v.account, v.product, v.day, v.status, v.level_ordinal, v.discriminator
from mart.coverage as v
where v.level_ordinal is null and v.status in ('missing', 'partial', 'lost');
comment on view ops.coverage_hole is 'Grain: one row per row of mart.coverage whose status is missing, partial or lost, found without looking at the days that are whole. To be asked for all of them; of one month mart.coverage tells faster.';
comment on column ops.coverage_hole.source is 'Vendor: keystone or wolkvox.';
comment on column ops.coverage_hole.dataset is 'Report of the vendor.';
comment on column ops.coverage_hole.customer_id is 'Customer (Keystone); NULL otherwise.';
comment on column ops.coverage_hole.subscription_number is 'Subscription of the level; NULL where the row speaks for no level.';
comment on column ops.coverage_hole.service_level is 'Level; NULL where the row speaks for no level.';
comment on column ops.coverage_hole.account is 'Configured account.';
comment on column ops.coverage_hole.product is 'Product (wolkvox); NULL otherwise.';
comment on column ops.coverage_hole.day is 'UTC day (Keystone) or local day (wolkvox).';
comment on column ops.coverage_hole.status is 'missing (can still be fetched), partial (a record is in quarantine) or lost (cannot be fetched any more).';
comment on column ops.coverage_hole.level_ordinal is '0-based instance among equal names; NULL where the row speaks for no level.';
comment on column ops.coverage_hole.discriminator is 'Empty unless several subscriptions share the number; NULL where the row speaks for no level.';

-- +goose StatementBegin
create or replace function billing.accrued_evidence(month date)
returns table (
    account text, month date, reading text, decided_by text, reason text, decided_at timestamptz, series bigint, non_decreasing_share numeric, resets bigint,
    increment_error_tib numeric, running_error_tib numeric, proposal text, is_contradicted boolean
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
with asked as (
    select
        date_trunc('month', accrued_evidence.month::timestamp)::date as first_day,
        (date_trunc('month', accrued_evidence.month::timestamp) + interval '1 month')::date as next_month
),

series as (
    select
        l.customer_key, d.*,
        -- A total starts anew with the month.
        d.first_tib < (
            select f.accrued_last_tib
            from dw.fact_daily_consumption as f
            where f.customer_key = l.customer_key and f.service_level_key = l.service_level_key
                and f.usage_date < d.first_observed and f.usage_date >= d.first_observed - 31
            order by f.usage_date desc
            limit 1
        ) as is_reset
    from asked
    cross join dw.dim_service_level as l
    cross join lateral (
        select
            min(f.usage_date) as first_observed,
            max(f.accrued_last_tib) filter (where f.nth = 1) as first_tib,
            sum(f.accrued_sum_tib) as increment_tib,
            max(f.accrued_last_tib) filter (where f.next_date is null) as running_tib,
            (
                coalesce(sum(f.burst * f.step_seconds), 0)
                + coalesce(sum(f.burst) filter (where f.step_seconds is null), 0)
                * coalesce((array_agg(f.step_seconds order by f.step_seconds))[count(f.step_seconds) / 2 + 1], 86400)
            ) / ((asked.next_month - asked.first_day) * 86400) as recomputed_tib,
            count(*) filter (where f.accrued_last_tib >= f.former_tib) as rises,
            count(*) - 1 as pairs
        from (
            select f.usage_date, f.step_seconds, f.accrued_sum_tib, f.accrued_last_tib, f.over_committed_avg_tib * f.sample_count as burst,
                row_number() over days as nth, lag(f.accrued_last_tib) over days as former_tib, lead(f.usage_date) over days as next_date
            from dw.fact_daily_consumption as f
            where f.customer_key = l.customer_key and f.service_level_key = l.service_level_key
                and f.usage_date >= asked.first_day and f.usage_date < asked.next_month
            window days as (order by f.usage_date)
        ) as f
        having count(f.accrued_sum_tib) = count(*) and count(f.accrued_last_tib) = count(*) and count(*) > 0
    ) as d
),

judged as (
    select
        c.account, count(*) as series, sum(s.rises) as rises, sum(s.pairs) as pairs, count(*) filter (where s.is_reset) as resets,
        sum(abs(s.increment_tib - s.recomputed_tib)) as increment_error_tib,
        sum(abs(s.running_tib - s.recomputed_tib)) as running_error_tib,
        sum(s.recomputed_tib) as recomputed_tib
    from series as s
    join dw.dim_customer as c using (customer_key)
    group by c.account
),

proposed as (
    select j.*, asked.first_day as month,
        -- What fits better and still is far off is neither: as a total that runs on through a quarter.
        case
            when 4 * least(j.increment_error_tib, j.running_error_tib) > j.recomputed_tib then null
            when j.running_error_tib > 0.01 and 4 * j.increment_error_tib <= j.running_error_tib then 'increment'
            when j.increment_error_tib > 0.01 and 4 * j.running_error_tib <= j.increment_error_tib and j.rises = j.pairs then 'running'
        end as proposal
    from judged as j
    cross join asked
)

select
    p.account, p.month, coalesce(a.reading, 'increment'), a.decided_by, a.reason, a.decided_at, p.series,
    round(p.rises / nullif(p.pairs, 0), 4), p.resets, round(p.increment_error_tib, 6), round(p.running_error_tib, 6),
    p.proposal, coalesce(p.proposal <> coalesce(a.reading, 'increment'), false)
from proposed as p
left join dw.accrued_reading as a on a.account = p.account and a.month = p.month
$$;
-- +goose StatementEnd

-- +goose Down
drop view ops.coverage_hole;
-- +goose StatementBegin
create or replace function billing.accrued_evidence(month date)
returns table (
    account text, month date, reading text, decided_by text, reason text, decided_at timestamptz, series bigint, non_decreasing_share numeric, resets bigint,
    increment_error_tib numeric, running_error_tib numeric, proposal text, is_contradicted boolean
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
with daily as materialized (
    select l.customer_key, l.service_level_key, d.*,
        lag(d.accrued_last_tib) over (partition by l.service_level_key order by d.usage_date) as former_tib,
        row_number() over (partition by l.service_level_key order by d.usage_date) as nth,
        extract(day from date_trunc('month', accrued_evidence.month::timestamp) + interval '1 month - 1 day')::integer as days
    from dw.dim_service_level as l
    cross join lateral (
        select f.usage_date, f.sample_count, f.step_seconds, f.over_committed_avg_tib, f.accrued_sum_tib, f.accrued_last_tib
        from dw.fact_daily_consumption as f
        where f.customer_key = l.customer_key and f.service_level_key = l.service_level_key
            and f.usage_date >= date_trunc('month', accrued_evidence.month::timestamp)::date
            and f.usage_date < (date_trunc('month', accrued_evidence.month::timestamp) + interval '1 month')::date
        offset 0
    ) as d
),

usual as materialized (
    select service_level_key, (array_agg(step_seconds order by step_seconds))[count(step_seconds) / 2 + 1] as step_seconds
    from daily
    where step_seconds is not null
    group by service_level_key
),

series as (
    select
        d.customer_key, d.service_level_key,
        sum(d.accrued_sum_tib) as increment_tib,
        (array_agg(d.accrued_last_tib order by d.usage_date desc))[1] as running_tib,
        sum(d.over_committed_avg_tib * d.sample_count * coalesce(d.step_seconds, u.step_seconds, 86400)) / (max(d.days) * 86400) as recomputed_tib,
        count(*) filter (where d.accrued_last_tib >= d.former_tib) as rises,
        count(*) filter (where d.nth > 1) as pairs,
        -- A total starts anew with the month.
        bool_or(d.nth = 1 and d.accrued_last_tib < (
            select f.accrued_last_tib
            from dw.fact_daily_consumption as f
            where f.customer_key = d.customer_key and f.service_level_key = d.service_level_key
                and f.usage_date < d.usage_date and f.usage_date >= d.usage_date - 31
            order by f.usage_date desc
            limit 1
        )) as is_reset
    from daily as d
    left join usual as u using (service_level_key)
    group by d.customer_key, d.service_level_key
    having count(d.accrued_sum_tib) = count(*) and count(d.accrued_last_tib) = count(*)
),

judged as (
    select
        c.account, count(*) as series, sum(s.rises) as rises, sum(s.pairs) as pairs, count(*) filter (where s.is_reset) as resets,
        sum(abs(s.increment_tib - s.recomputed_tib)) as increment_error_tib,
        sum(abs(s.running_tib - s.recomputed_tib)) as running_error_tib,
        sum(s.recomputed_tib) as recomputed_tib
    from series as s
    join dw.dim_customer as c using (customer_key)
    group by c.account
),

proposed as (
    select j.*, date_trunc('month', accrued_evidence.month::timestamp)::date as month,
        -- What fits better and still is far off is neither: as a total that runs on through a quarter.
        case
            when 4 * least(j.increment_error_tib, j.running_error_tib) > j.recomputed_tib then null
            when j.running_error_tib > 0.01 and 4 * j.increment_error_tib <= j.running_error_tib then 'increment'
            when j.increment_error_tib > 0.01 and 4 * j.running_error_tib <= j.increment_error_tib and j.rises = j.pairs then 'running'
        end as proposal
    from judged as j
)

select
    p.account, p.month, coalesce(a.reading, 'increment'), a.decided_by, a.reason, a.decided_at, p.series,
    round(p.rises / nullif(p.pairs, 0), 4), p.resets, round(p.increment_error_tib, 6), round(p.running_error_tib, 6),
    p.proposal, coalesce(p.proposal <> coalesce(a.reading, 'increment'), false)
from proposed as p
left join dw.accrued_reading as a on a.account = p.account and a.month = p.month
$$;
-- +goose StatementEnd
