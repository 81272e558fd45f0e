-- Every call to a vendor that counts and paces its calls, so that all processes keep to one pace and
-- one budget; how each month of readings stands; and why a day of readings was lost. New tables and views
-- lock nothing; the index on ops.run keeps writers off it for as long as reading it takes; nothing to
-- replay.

-- +goose Up
create table ops.vendor_call (
    call_id bigint generated always as identity constraint vendor_call_pkey primary key,
    credential text not null,
    account text not null,
    product text not null,
    owner text not null,
    started_at timestamptz not null,
    lost_at timestamptz not null,
    ended_at timestamptz,
    outcome text,
    retry_at timestamptz,
    constraint vendor_call_ends_with_outcome check ((ended_at is null) = (outcome is null)),
    constraint vendor_call_lost_later check (lost_at > started_at)
);
create unique index vendor_call_one_open_idx on ops.vendor_call (credential) where ended_at is null;
create index vendor_call_started_idx on ops.vendor_call (credential, started_at);
comment on table ops.vendor_call is 'Grain: one row per call with a credential that allows one call at a time and so many a day, written before it is made.';
comment on column ops.vendor_call.call_id is 'Number of the call.';
comment on column ops.vendor_call.credential is 'Keyed hash of the token: tells two tokens apart without holding them.';
comment on column ops.vendor_call.account is 'Configured account.';
comment on column ops.vendor_call.product is 'Product asked for (wolkvox api); token_info where the token''s quota was asked for.';
comment on column ops.vendor_call.owner is 'Process that made it.';
comment on column ops.vendor_call.started_at is 'Wall clock of the database when it was about to be sent.';
comment on column ops.vendor_call.lost_at is 'Wall clock of the database from which it counts as lost, unless it has ended: twice the longest call.';
comment on column ops.vendor_call.ended_at is 'Wall clock of the database when its answer was there; NULL while it is under way. At most one per credential is.';
comment on column ops.vendor_call.outcome is 'ok, no_data, the name of the vendor''s refusal; unsent (the vendor saw nothing of it, so it counts for nothing); interrupted; lost when its process died; NULL while it is under way.';
comment on column ops.vendor_call.retry_at is 'Wall clock of the database before which the vendor does not want to be asked; NULL when it did not say.';

create table ops.vendor_quota (
    call_id bigint constraint vendor_quota_pkey primary key constraint vendor_quota_call_fkey references ops.vendor_call (call_id) on delete cascade,
    credential text not null,
    account text not null,
    limit_calls bigint,
    used_by_token bigint,
    used_by_all bigint,
    left_calls bigint,
    used_elsewhere bigint not null,
    told_at timestamptz not null
);
create index vendor_quota_told_idx on ops.vendor_quota (credential, told_at);
comment on table ops.vendor_quota is 'Grain: one row per answer of a vendor about the calls that a credential may make; it is asked once a day at most.';
comment on column ops.vendor_quota.call_id is 'The call that asked, in ops.vendor_call.';
comment on column ops.vendor_quota.credential is 'Keyed hash of the token, as in ops.vendor_call.';
comment on column ops.vendor_quota.account is 'Configured account.';
comment on column ops.vendor_quota.limit_calls is 'Calls allowed in a day (token_limit); NULL when the vendor did not say.';
comment on column ops.vendor_quota.used_by_token is 'Calls of the vendor''s day made with this token (token_use_today), this one included; NULL when the vendor did not say.';
comment on column ops.vendor_quota.used_by_all is 'Calls of the vendor''s day made with all tokens of the operation (all_token_today); NULL when the vendor did not say.';
comment on column ops.vendor_quota.left_calls is 'Calls left as the vendor counts them (available_consumption_options); NULL when it did not say. Shown only: what it means is not documented.';
comment on column ops.vendor_quota.used_elsewhere is 'Of the used ones, those that ops.vendor_call knows nothing of: other tokens, or other users of this one.';
comment on column ops.vendor_quota.told_at is 'Wall clock of the database when it was asked.';

alter table dw.fact_license_snapshot add column zone text;
comment on column dw.fact_license_snapshot.zone is 'Zone in which the day was filed; NULL for days loaded before this was kept: that of the operation. Another one is configured for later days only.';

create index run_error_idx on ops.run (dataset, scope, business_at) where error is not null;

create or replace view mart.coverage as
with clock as (
    select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock -- max: the planner then knows that it is one row
),

-- Every level instance that was ever observed, from its first day to today or the end of its subscription.
series as (
    select
        w.source,
        w.dataset,
        w.account,
        w.settle,
        c.customer_id,
        s.subscription_number,
        l.service_level,
        l.customer_key,
        l.service_level_key,
        f.first_day,
        least(
            (clock.now_at at time zone 'UTC')::date,
            greatest(coalesce((s.end_at at time zone 'UTC')::date, 'infinity'), f.last_day) -- no end: never over
        ) as last_day
    from dw.dim_service_level as l
    join dw.dim_subscription as s using (subscription_key)
    join dw.dim_customer as c on c.customer_key = l.customer_key
    join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
    cross join clock
    cross join lateral (
        select min(d.usage_date) as first_day, max(d.usage_date) as last_day
        from dw.fact_daily_consumption as d
        where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key
    ) as f
    where f.first_day is not null
),

level_day as (
    select
        series.source,
        series.dataset,
        series.customer_id,
        series.subscription_number,
        series.service_level,
        series.account,
        null::text as product,
        days.day::date as day,
        case
            when d.digest is not null then 'observed'
            when d.usage_date is not null then 'partial'
            when (days.day + 1)::timestamp at time zone 'UTC' + series.settle > clock.now_at then 'not_due'
            else 'missing'
        end as status,
        null::text as reason
    from series
    cross join clock
    cross join lateral (
        select series.first_day + i as day from generate_series(0, series.last_day - series.first_day) as i
    ) as days
    left join dw.fact_daily_consumption as d
        on d.customer_key = series.customer_key
        and d.service_level_key = series.service_level_key
        and d.usage_date = days.day
),

-- Days of a customer that no level can speak for: never answered, answered with nothing, or with refused records.
customer_day as (
    select
        w.source,
        w.dataset,
        w.scope as customer_id,
        null::text as subscription_number,
        null::text as service_level,
        w.account,
        null::text as product,
        days.day,
        case
            when cov.status is not null then cov.status
            when (days.day + 1)::timestamp at time zone 'UTC' + w.settle > clock.now_at then 'not_due'
            else 'missing'
        end as status,
        null::text as reason
    from ops.watermark as w
    cross join clock
    cross join lateral (
        select w.expected_from + i as day
        from generate_series(0, (clock.now_at at time zone 'UTC')::date - w.expected_from) as i
    ) as days
    left join ops.coverage as cov
        on cov.dataset = w.dataset and cov.scope = w.scope and cov.product = '' and cov.day = days.day
    where w.dataset = 'keystone.history' and cov.status is distinct from 'answered'
),

-- Every product that was ever asked for, from its first day on. What was not read can no longer be read.
product_day as (
    select
        w.source,
        w.dataset,
        null::text as customer_id,
        null::text as subscription_number,
        null::text as service_level,
        w.account,
        asked.product,
        days.day,
        judged.status,
        -- What the last run of the day said about the product, else what the last that failed was stopped by.
        case when judged.status = 'lost' then coalesce(
            (
                select (regexp_match(r.error, '(?:^|\n)(?:extract|transform) ' || asked.product || ': ([^\n]*)'))[1]
                from ops.run as r
                where r.dataset = w.dataset and r.scope = w.scope and r.error is not null and r.replay_of is null
                    and r.business_at >= days.day::timestamp at time zone w.zone
                    and r.business_at < (days.day + 1)::timestamp at time zone w.zone
                    and r.error ~ ('(?:^|\n)(?:extract|transform) ' || asked.product || ': ')
                order by r.business_at desc
                limit 1
            ),
            (
                select regexp_replace(split_part(r.error, e'\n', 1), '^(?:extract|transform) \w+: ', '')
                from ops.run as r
                where r.dataset = w.dataset and r.scope = w.scope and r.error is not null and r.status = 'failed' and r.replay_of is null
                    and r.business_at >= days.day::timestamp at time zone w.zone
                    and r.business_at < (days.day + 1)::timestamp at time zone w.zone
                order by r.business_at desc
                limit 1
            ),
            'nothing was asked on this day'
        ) end as reason
    from ops.watermark as w
    cross join clock
    join (
        select c.dataset, c.scope, c.product, min(c.day) as first_day
        from ops.coverage as c
        where c.product <> '' and c.status <> 'imported'
        group by c.dataset, c.scope, c.product
    ) as asked on asked.dataset = w.dataset and asked.scope = w.scope
    cross join lateral (
        select asked.first_day + i as day
        from generate_series(0, (clock.now_at at time zone w.zone)::date - asked.first_day) as i
    ) as days
    left join ops.coverage as cov
        on cov.dataset = w.dataset and cov.scope = w.scope and cov.product = asked.product and cov.day = days.day
    cross join lateral (
        select case
            when cov.status in ('answered', 'imported') then 'observed'
            when cov.status is not null then cov.status
            when days.day < (clock.now_at at time zone w.zone)::date then 'lost'
            else 'not_due'
        end as status
    ) as judged
    where w.dataset = 'wolkvox.billing'
),

-- Imported days before the product was first asked for. The days between them were never expected.
imported_day as (
    select
        c.source,
        c.dataset,
        null::text as customer_id,
        null::text as subscription_number,
        null::text as service_level,
        c.scope as account,
        c.product,
        c.day,
        'observed'::text as status,
        null::text as reason
    from ops.coverage as c
    where c.status = 'imported'
        and not exists (
            select from ops.coverage as asked
            where asked.dataset = c.dataset and asked.scope = c.scope and asked.product = c.product
                and asked.status <> 'imported' and asked.day <= c.day
        )
)

select * from level_day
union all
select * from customer_day
union all
select * from product_day
union all
select * from imported_day;
comment on column mart.coverage.reason is 'Why a day is lost: what the last run of that local day failed with, or that nothing was asked; NULL for every other status.';

create view mart.license_month as
with clock as (
    select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock
),

-- Every account that was ever asked, since its first answer or, without one, its first run.
account as (
    select
        w.account,
        w.scope,
        w.zone,
        w.next_due_at,
        w.last_success_at,
        clock.now_at,
        coalesce(
            (
                select min(c.day) from ops.coverage as c
                where c.dataset = w.dataset and c.scope = w.scope and c.product <> '' and c.status <> 'imported'
            ),
            (
                select (min(r.business_at) at time zone w.zone)::date from ops.run as r
                where r.dataset = w.dataset and r.scope = w.scope and r.replay_of is null
            )
        ) as first_day
    from ops.watermark as w
    cross join clock
    where w.dataset = 'wolkvox.billing'
),

month as (
    select
        a.account,
        a.scope,
        a.next_due_at,
        a.last_success_at,
        a.now_at,
        m.month::date as month,
        m.month at time zone a.zone as month_starts_at,
        (m.month + interval '1 month') at time zone a.zone as month_ends_at
    from account as a
    cross join lateral generate_series(
        date_trunc('month', a.first_day::timestamp), date_trunc('month', a.now_at at time zone a.zone), interval '1 month'
    ) as m (month)
),

answer as (
    select
        c.scope,
        c.product,
        date_trunc('month', c.day::timestamp)::date as month
    from ops.coverage as c
    where c.dataset = 'wolkvox.billing' and c.product <> '' and c.status in ('answered', 'partial')
    group by c.scope, c.product, date_trunc('month', c.day::timestamp)
),

-- The products a month is about: those read in it; and of those read before, the ones that runs of the
-- month failed to read, and all while no run of it was whole: a whole run asks for all there are.
expected as (
    select m.scope, m.month, a.product
    from month as m
    join answer as a on a.scope = m.scope and a.month = m.month
    union
    select m.scope, m.month, b.product
    from month as m
    cross join lateral (
        select a.product, max(a.month) = max(max(a.month)) over () as is_recent
        from answer as a
        where a.scope = m.scope and a.month < m.month
        group by a.product
    ) as b
    where not exists (select from answer as now where now.scope = m.scope and now.month = m.month and now.product = b.product)
        and (
            b.is_recent and not exists (
                select from ops.run as r
                where r.dataset = 'wolkvox.billing' and r.scope = m.scope and r.status = 'ok' and r.error is null and r.replay_of is null
                    and r.business_at >= m.month_starts_at and r.business_at < m.month_ends_at
            )
            or exists (
                select from ops.run as r
                where r.dataset = 'wolkvox.billing' and r.scope = m.scope and r.error is not null and r.replay_of is null
                    and r.business_at >= m.month_starts_at and r.business_at < m.month_ends_at
                    and r.error ~ ('(?:^|\n)(?:extract|transform) ' || b.product || ': ')
            )
        )
),

-- The first of the readings that close a month is due 55 minutes before its end, in the zone by which it was filed.
reading as (
    select
        o.account,
        p.api as product,
        date_trunc('month', s.snapshot_date::timestamp)::date as month,
        max(s.read_at) as last_reading_at,
        max(s.read_at) filter (where not s.is_imported) as last_fetched_at,
        bool_or(case when is_last.day and s.is_imported then true
            when is_last.day then s.read_at >= (s.snapshot_date + 1)::timestamp at time zone coalesce(s.zone, o.zone) - interval '55 minutes' else false end) as is_closing
    from dw.fact_license_snapshot as s
    join dw.dim_operation as o using (operation_key)
    join dw.dim_product as p using (product_key)
    cross join lateral (select extract(day from s.snapshot_date + 1) = 1 as day) as is_last
    group by o.account, p.api, date_trunc('month', s.snapshot_date::timestamp)
),

-- A month about no product is judged by whatever was read.
closed as (
    select
        m.*,
        e.product,
        r.last_reading_at,
        r.last_fetched_at,
        coalesce(r.is_closing, false) as is_closed
    from month as m
    left join expected as e on e.scope = m.scope and e.month = m.month
    left join (
        select * from reading
        union all
        select account, null, month, max(last_reading_at), max(last_fetched_at), bool_or(is_closing) from reading group by account, month
    ) as r on r.account = m.account and r.month = m.month and coalesce(r.product, '') = coalesce(e.product, '')
),

judged as (
    select
        c.*,
        case
            when c.now_at >= c.month_ends_at and c.is_closed then 'complete'
            -- A closing reading that is landed may still be on its way into the facts.
            when c.now_at >= c.month_ends_at + interval '1 hour' then 'lost'
            when c.now_at >= c.month_ends_at and run.is_closing then 'at_risk'
            when c.now_at >= c.month_ends_at then 'lost'
            when c.is_closed then 'open'
            -- It asks for one product after the other.
            when c.now_at >= c.month_ends_at - interval '45 minutes' and c.now_at < c.month_ends_at - interval '15 minutes' and run.is_closing then 'open'
            when c.now_at >= c.month_ends_at - interval '45 minutes' then 'at_risk'
            when c.now_at < c.month_ends_at - interval '3 days' then 'open'
            when c.last_fetched_at is null then 'at_risk'
            when c.now_at <= c.last_fetched_at + interval '1 hour' then 'open'
            -- Later than the schedule wants it, or asked since and no reading came.
            when c.next_due_at is null or c.now_at > c.next_due_at + interval '15 minutes' then 'at_risk'
            when c.last_success_at > c.last_fetched_at + interval '10 minutes' then 'at_risk'
            else 'open'
        end as state
    from closed as c
    cross join lateral (
        select c.now_at >= c.month_ends_at - interval '45 minutes' and c.now_at < c.month_ends_at + interval '1 hour' and exists (
            select from ops.run as r
            where r.dataset = 'wolkvox.billing' and r.scope = c.scope and r.status = 'running'
                and r.business_at >= c.month_ends_at - interval '55 minutes' and r.business_at < c.month_ends_at
        ) as is_closing
    ) as run
),

ranked as (
    select
        j.*,
        rank() over (partition by j.scope, j.month order by array_position(array['lost', 'at_risk', 'open', 'complete'], j.state)) as place,
        count(*) over (partition by j.scope, j.month) as products
    from judged as j
),

-- A month stands as the worst of its products does.
worst as (
    select
        r.account,
        r.scope,
        r.month,
        r.month_starts_at,
        r.month_ends_at,
        r.state,
        case when count(r.last_reading_at) = count(*) then min(r.last_reading_at) end as last_reading_at,
        case when count(r.last_fetched_at) = count(*) then min(r.last_fetched_at) end as last_fetched_at,
        (array_agg(r.product order by r.last_fetched_at nulls first, r.product))[1] as product,
        case
            when count(*) = r.products then ''
            when count(*) <= 4 then string_agg(r.product, ', ' order by r.product) || ': '
            else array_to_string((array_agg(r.product order by r.product))[1:4], ', ') || format(' and %s more: ', count(*) - 4)
        end as names
    from ranked as r
    where r.place = 1
    group by r.account, r.scope, r.month, r.month_starts_at, r.month_ends_at, r.state, r.products
)

select
    j.account,
    j.month,
    j.month_ends_at,
    j.last_reading_at,
    j.state,
    case when j.state in ('at_risk', 'lost') then j.names || coalesce(
        (
            select (regexp_match(r.error, '(?:^|\n)(?:extract|transform) ' || j.product || ': ([^\n]*)'))[1]
            from ops.run as r
            where r.dataset = 'wolkvox.billing' and r.scope = j.scope and r.error is not null and r.status = 'partial' and r.replay_of is null
                and r.business_at > coalesce(j.last_fetched_at, j.month_starts_at) and r.business_at < j.month_ends_at
                and r.error ~ ('(?:^|\n)(?:extract|transform) ' || j.product || ': ')
            order by r.business_at desc
            limit 1
        ),
        (
            select regexp_replace(split_part(r.error, e'\n', 1), '^(?:extract|transform) \w+: ', '')
            from ops.run as r
            where r.dataset = 'wolkvox.billing' and r.scope = j.scope and r.error is not null and r.status = 'failed' and r.replay_of is null
                and r.business_at > coalesce(j.last_fetched_at, j.month_starts_at) and r.business_at < j.month_ends_at
            order by r.business_at desc
            limit 1
        ),
        (
            select 'the vendor gave no reading that could be accepted'
            from ops.run as r
            where r.dataset = 'wolkvox.billing' and r.scope = j.scope and r.status in ('ok', 'partial') and r.replay_of is null
                and r.fetched_at > coalesce(j.last_fetched_at + interval '10 minutes', j.month_starts_at) and r.fetched_at < j.month_ends_at
            limit 1
        ),
        'nothing was asked' || coalesce(' since ' || to_char(j.last_fetched_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'), '')
    ) end as reason
from worst as j;
comment on view mart.license_month is 'Grain: one row per wolkvox account and local month since its first reading: whether every product read in the month has, or can still get, its closing reading, one of the last 55 minutes. It stands as the worst of its products does.';
comment on column mart.license_month.account is 'Configured account.';
comment on column mart.license_month.month is 'First day of the local month.';
comment on column mart.license_month.month_ends_at is 'When the month ends, UTC: readings of it cannot be fetched later.';
comment on column mart.license_month.last_reading_at is 'Last accepted reading that is filed in the month, imported ones too, UTC; where products differ, of the one in the worst state that was read longest ago; NULL when it has none.';
comment on column mart.license_month.state is 'open; at_risk (three days or less before its end readings fail or have stayed away for an hour, or the first closing reading is overdue); complete (every product has a closing reading or an imported one of the last day); lost (it ended without).';
comment on column mart.license_month.reason is 'Why it is at risk or lost: the products, unless it is all of them, and the error of the last run that failed since the last reading, or that nothing was asked; NULL otherwise.';

-- +goose Down
drop view mart.license_month;
alter table dw.fact_license_snapshot drop column zone;
drop view mart.coverage;
create view mart.coverage as
with clock as (
    select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock -- max: the planner then knows that it is one row
),

-- Every level instance that was ever observed, from its first day to today or the end of its subscription.
series as (
    select
        w.source,
        w.dataset,
        w.account,
        w.settle,
        c.customer_id,
        s.subscription_number,
        l.service_level,
        l.customer_key,
        l.service_level_key,
        f.first_day,
        least(
            (clock.now_at at time zone 'UTC')::date,
            greatest(coalesce((s.end_at at time zone 'UTC')::date, 'infinity'), f.last_day) -- no end: never over
        ) as last_day
    from dw.dim_service_level as l
    join dw.dim_subscription as s using (subscription_key)
    join dw.dim_customer as c on c.customer_key = l.customer_key
    join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
    cross join clock
    cross join lateral (
        select min(d.usage_date) as first_day, max(d.usage_date) as last_day
        from dw.fact_daily_consumption as d
        where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key
    ) as f
    where f.first_day is not null
),

level_day as (
    select
        series.source,
        series.dataset,
        series.customer_id,
        series.subscription_number,
        series.service_level,
        series.account,
        null::text as product,
        days.day::date as day,
        case
            when d.digest is not null then 'observed'
            when d.usage_date is not null then 'partial'
            when (days.day + 1)::timestamp at time zone 'UTC' + series.settle > clock.now_at then 'not_due'
            else 'missing'
        end as status
    from series
    cross join clock
    cross join lateral (
        select series.first_day + i as day from generate_series(0, series.last_day - series.first_day) as i
    ) as days
    left join dw.fact_daily_consumption as d
        on d.customer_key = series.customer_key
        and d.service_level_key = series.service_level_key
        and d.usage_date = days.day
),

-- Days of a customer that no level can speak for: never answered, answered with nothing, or with refused records.
customer_day as (
    select
        w.source,
        w.dataset,
        w.scope as customer_id,
        null::text as subscription_number,
        null::text as service_level,
        w.account,
        null::text as product,
        days.day,
        case
            when cov.status is not null then cov.status
            when (days.day + 1)::timestamp at time zone 'UTC' + w.settle > clock.now_at then 'not_due'
            else 'missing'
        end as status
    from ops.watermark as w
    cross join clock
    cross join lateral (
        select w.expected_from + i as day
        from generate_series(0, (clock.now_at at time zone 'UTC')::date - w.expected_from) as i
    ) as days
    left join ops.coverage as cov
        on cov.dataset = w.dataset and cov.scope = w.scope and cov.product = '' and cov.day = days.day
    where w.dataset = 'keystone.history' and cov.status is distinct from 'answered'
),

-- Every product that was ever asked for, from its first day on. What was not read can no longer be read.
product_day as (
    select
        w.source,
        w.dataset,
        null::text as customer_id,
        null::text as subscription_number,
        null::text as service_level,
        w.account,
        asked.product,
        days.day,
        case
            when cov.status in ('answered', 'imported') then 'observed'
            when cov.status is not null then cov.status
            when days.day < (clock.now_at at time zone w.zone)::date then 'lost'
            else 'not_due'
        end as status
    from ops.watermark as w
    cross join clock
    join (
        select c.dataset, c.scope, c.product, min(c.day) as first_day
        from ops.coverage as c
        where c.product <> '' and c.status <> 'imported'
        group by c.dataset, c.scope, c.product
    ) as asked on asked.dataset = w.dataset and asked.scope = w.scope
    cross join lateral (
        select asked.first_day + i as day
        from generate_series(0, (clock.now_at at time zone w.zone)::date - asked.first_day) as i
    ) as days
    left join ops.coverage as cov
        on cov.dataset = w.dataset and cov.scope = w.scope and cov.product = asked.product and cov.day = days.day
    where w.dataset = 'wolkvox.billing'
),

-- Imported days before the product was first asked for. The days between them were never expected.
imported_day as (
    select
        c.source,
        c.dataset,
        null::text as customer_id,
        null::text as subscription_number,
        null::text as service_level,
        c.scope as account,
        c.product,
        c.day,
        'observed'::text as status
    from ops.coverage as c
    where c.status = 'imported'
        and not exists (
            select from ops.coverage as asked
            where asked.dataset = c.dataset and asked.scope = c.scope and asked.product = c.product
                and asked.status <> 'imported' and asked.day <= c.day
        )
)

select * from level_day
union all
select * from customer_day
union all
select * from product_day
union all
select * from imported_day;
comment on view mart.coverage is 'Grain: one row per series and day that is expected: what is there and what is not. Rows without a subscription speak for a whole customer.';
comment on column mart.coverage.source is 'Vendor: keystone or wolkvox.';
comment on column mart.coverage.dataset is 'Report of the vendor.';
comment on column mart.coverage.customer_id is 'Keystone customer; NULL for wolkvox.';
comment on column mart.coverage.subscription_number is 'Subscription; NULL where the row speaks for a whole customer or for wolkvox.';
comment on column mart.coverage.service_level is 'Service level (one row per instance); NULL as above.';
comment on column mart.coverage.account is 'Configured account.';
comment on column mart.coverage.product is 'wolkvox product (api); NULL for Keystone.';
comment on column mart.coverage.day is 'UTC day (Keystone) or local day of the operation (wolkvox).';
comment on column mart.coverage.status is 'observed; partial (a record is in quarantine); empty (the vendor had nothing); missing (can still be fetched); lost (can not); not_due (not yet).';

drop index ops.run_error_idx;
drop table ops.vendor_quota;
drop table ops.vendor_call;
