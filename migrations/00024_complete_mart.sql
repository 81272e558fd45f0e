-- What people chart: a calendar, every expected day of a level with its hole where it is missing, use
-- against commitment, burst and licence high-water marks by month. mart.coverage says of which instance it
-- speaks, and reads the days that are asked for instead of all. New views: locks nothing for long; nothing
-- to replay.

-- +goose Up
create view mart.dim_date as
select calendar_date, year, quarter, month, month_start, days_in_month, day_of_month, iso_year, iso_week, iso_weekday, is_month_end
from dw.dim_date;
comment on view mart.dim_date is 'Grain: one row per calendar day, 2015 to 2049. Join it where a chart needs days without figures.';
comment on column mart.dim_date.calendar_date is 'The day.';
comment on column mart.dim_date.year is 'Calendar year.';
comment on column mart.dim_date.quarter is 'Calendar quarter, 1 to 4.';
comment on column mart.dim_date.month is 'Month, 1 to 12.';
comment on column mart.dim_date.month_start is 'First day of its month.';
comment on column mart.dim_date.days_in_month is 'Days of its month.';
comment on column mart.dim_date.day_of_month is 'Day of the month, 1 to 31.';
comment on column mart.dim_date.iso_year is 'Year of the ISO week.';
comment on column mart.dim_date.iso_week is 'ISO week, 1 to 53.';
comment on column mart.dim_date.iso_weekday is 'ISO weekday, Monday is 1.';
comment on column mart.dim_date.is_month_end is 'Whether it is the last day of its month.';

-- Without a with-clause, so that the planner can look into it from a join: the calendar is a table for the
-- same reason, and days that are asked for are found in its index.
create view mart.daily_utilisation as
select
    c.customer_id,
    c.customer_name,
    s.subscription_number,
    s.discriminator,
    l.service_level,
    l.level_ordinal,
    l.level_class,
    days.calendar_date as usage_date,
    days.month_start as month,
    case
        when d.digest is not null then 'observed'
        when d.usage_date is not null then 'partial'
        when (days.calendar_date + 1)::timestamp at time zone 'UTC' + w.settle > clock.now_at then 'not_due'
        else 'missing'
    end as status,
    d.committed_tib,
    d.consumed_avg_tib,
    d.consumed_max_tib,
    d.burst_avg_tib,
    d.over_committed_avg_tib,
    round(d.consumed_avg_tib / nullif(d.committed_tib, 0), 6) as utilisation_avg,
    round(d.consumed_max_tib / nullif(d.committed_tib, 0), 6) as utilisation_max,
    w.source,
    w.dataset,
    w.account
from dw.dim_service_level as l
join dw.dim_subscription as s using (subscription_key)
join dw.dim_customer as c on c.customer_key = l.customer_key
join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
cross join (select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock) as clock
cross join lateral (
    select min(f.usage_date) as first_day, max(f.usage_date) as last_day
    from dw.fact_daily_consumption as f
    where f.customer_key = l.customer_key and f.service_level_key = l.service_level_key
) as seen
-- Every instance that was ever observed, from its first day to today or the end of its subscription.
join dw.dim_date as days
    on days.calendar_date >= seen.first_day
    and days.calendar_date <= least(
        (clock.now_at at time zone 'UTC')::date,
        greatest(coalesce((s.end_at at time zone 'UTC')::date, 'infinity'), seen.last_day) -- no end: never over
    )
left join dw.fact_daily_consumption as d
    on d.customer_key = l.customer_key
    and d.service_level_key = l.service_level_key
    and d.usage_date = days.calendar_date;
comment on view mart.daily_utilisation is 'Grain: one row per level instance and UTC day that is expected, from its first observed day on. Days that are missing are here, with NULL figures: a chart shows the hole. Filter usage_date: other days are then not read.';
comment on column mart.daily_utilisation.customer_id is 'The vendor''s id of the customer.';
comment on column mart.daily_utilisation.customer_name is 'Newest known name.';
comment on column mart.daily_utilisation.subscription_number is 'The vendor''s number, as delivered.';
comment on column mart.daily_utilisation.discriminator is 'Empty unless several subscriptions share the number.';
comment on column mart.daily_utilisation.service_level is 'Name as delivered.';
comment on column mart.daily_utilisation.level_ordinal is '0-based instance among equal names.';
comment on column mart.daily_utilisation.level_class is 'base, add_on or unclassified. Add-ons lie on top of base capacity: do not add the two.';
comment on column mart.daily_utilisation.usage_date is 'UTC day.';
comment on column mart.daily_utilisation.month is 'First day of its month. Filter usage_date rather: it is found by an index.';
comment on column mart.daily_utilisation.status is 'observed; partial (a record is in quarantine); missing (can still be fetched); not_due (not yet).';
comment on column mart.daily_utilisation.committed_tib is 'TiB committed at the last sample of the day; NULL without samples.';
comment on column mart.daily_utilisation.consumed_avg_tib is 'Mean TiB of the day; average over days, never sum. NULL without samples.';
comment on column mart.daily_utilisation.consumed_max_tib is 'Greatest TiB of the day''s samples; NULL without samples.';
comment on column mart.daily_utilisation.burst_avg_tib is 'Mean of the vendor''s burst, TiB; NULL without samples or where one lacks it.';
comment on column mart.daily_utilisation.over_committed_avg_tib is 'Mean of what was over the commitment, TiB; NULL without samples.';
comment on column mart.daily_utilisation.utilisation_avg is 'consumed_avg_tib / committed_tib, 6 decimals: 1 is all that is committed. NULL without samples or commitment.';
comment on column mart.daily_utilisation.utilisation_max is 'consumed_max_tib / committed_tib, likewise.';
comment on column mart.daily_utilisation.source is 'Vendor: keystone.';
comment on column mart.daily_utilisation.dataset is 'Report of the vendor.';
comment on column mart.daily_utilisation.account is 'Configured account.';

create or replace view mart.coverage as
with clock as (
    select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock -- max: the planner then knows that it is one row
),

level_day as (
    select
        source,
        dataset,
        customer_id,
        subscription_number,
        service_level,
        account,
        null::text as product,
        usage_date as day,
        status,
        null::text as reason,
        level_ordinal,
        discriminator
    from mart.daily_utilisation
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
        days.calendar_date as day,
        case
            when cov.status is not null then cov.status
            when (days.calendar_date + 1)::timestamp at time zone 'UTC' + w.settle > clock.now_at then 'not_due'
            else 'missing'
        end as status,
        null::text as reason,
        null::integer as level_ordinal,
        null::text as discriminator
    from ops.watermark as w
    cross join clock
    join dw.dim_date as days on days.calendar_date >= w.expected_from and days.calendar_date <= (clock.now_at at time zone 'UTC')::date
    left join ops.coverage as cov
        on cov.dataset = w.dataset and cov.scope = w.scope and cov.product = '' and cov.day = days.calendar_date
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
        days.calendar_date as day,
        judged.status,
        -- What the last run of the day said about the product, else what the last that failed was stopped by.
        case when judged.status = 'lost' then coalesce(
            (
                select (regexp_match(r.error, '(?:^|\n)(?:extract|transform) ' || asked.product || ': ([^\n]*)'))[1]
                from ops.run as r
                where r.dataset = w.dataset and r.scope = w.scope and r.error is not null and r.replay_of is null
                    and r.business_at >= days.calendar_date::timestamp at time zone w.zone
                    and r.business_at < (days.calendar_date + 1)::timestamp at time zone w.zone
                    and r.error ~ ('(?:^|\n)(?:extract|transform) ' || asked.product || ': ')
                order by r.business_at desc
                limit 1
            ),
            (
                select regexp_replace(split_part(r.error, e'\n', 1), '^(?:extract|transform) \w+: ', '')
                from ops.run as r
                where r.dataset = w.dataset and r.scope = w.scope and r.error is not null and r.status = 'failed' and r.replay_of is null
                    and r.business_at >= days.calendar_date::timestamp at time zone w.zone
                    and r.business_at < (days.calendar_date + 1)::timestamp at time zone w.zone
                order by r.business_at desc
                limit 1
            ),
            'nothing was asked on this day'
        ) end as reason,
        null::integer as level_ordinal,
        null::text as discriminator
    from ops.watermark as w
    cross join clock
    join (
        select c.dataset, c.scope, c.product, min(c.day) as first_day
        from ops.coverage as c
        where c.product <> '' and c.status <> 'imported'
        group by c.dataset, c.scope, c.product
    ) as asked on asked.dataset = w.dataset and asked.scope = w.scope
    join dw.dim_date as days on days.calendar_date >= asked.first_day and days.calendar_date <= (clock.now_at at time zone w.zone)::date
    left join ops.coverage as cov
        on cov.dataset = w.dataset and cov.scope = w.scope and cov.product = asked.product and cov.day = days.calendar_date
    cross join lateral (
        select case
            when cov.status in ('answered', 'imported') then 'observed'
            when cov.status is not null then cov.status
            when days.calendar_date < (clock.now_at at time zone w.zone)::date then 'lost'
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
        null::text as reason,
        null::integer as level_ordinal,
        null::text as discriminator
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
comment on column mart.coverage.level_ordinal is '0-based instance among equal names; NULL where the row speaks for no level.';
comment on column mart.coverage.discriminator is 'Empty unless several subscriptions share the number; NULL where the row speaks for no level.';

create view mart.monthly_burst as
select
    d.customer_id,
    d.customer_name,
    d.subscription_number,
    d.discriminator,
    d.service_level,
    d.level_ordinal,
    d.level_class,
    date_trunc('month', d.usage_date)::date as month,
    count(*)::integer as days_observed,
    count(*) filter (where d.over_committed_avg_tib > 0)::integer as days_over_commitment,
    case when count(d.accrued_burst_tib) = count(*) then sum(d.accrued_burst_tib) end as accrued_burst_tib,
    case
        when count(d.accrued_burst_tib) = count(*)
            then coalesce(sum(d.accrued_burst_tib) filter (where d.usage_date < t.start_day + 60), 0)
    end as waiver_burst_tib,
    max(d.over_committed_avg_tib) as worst_day_tib,
    (array_agg(d.usage_date order by d.over_committed_avg_tib desc, d.usage_date) filter (where d.over_committed_avg_tib > 0))[1] as worst_day
from mart.daily_consumption as d
left join (
    select c.customer_id, s.subscription_number, s.discriminator, (case when f.customer_key is null then s.start_at else f.start_at end at time zone 'UTC')::date as start_day -- as told last, even when that is nothing
    from dw.dim_subscription as s
    join dw.dim_customer as c using (customer_key)
    left join dw.fact_subscription as f on f.customer_key = s.customer_key and f.subscription_key = s.subscription_key and f.valid_to is null
) as t using (customer_id, subscription_number, discriminator)
group by d.customer_id, d.customer_name, d.subscription_number, d.discriminator, d.service_level, d.level_ordinal, d.level_class, date_trunc('month', d.usage_date);
comment on view mart.monthly_burst is 'Grain: one row per level instance and UTC month with at least one observed day: how much was used over the commitment.';
comment on column mart.monthly_burst.customer_id is 'The vendor''s id of the customer.';
comment on column mart.monthly_burst.customer_name is 'Newest known name.';
comment on column mart.monthly_burst.subscription_number is 'The vendor''s number, as delivered.';
comment on column mart.monthly_burst.discriminator is 'Empty unless several subscriptions share the number.';
comment on column mart.monthly_burst.service_level is 'Name as delivered.';
comment on column mart.monthly_burst.level_ordinal is '0-based instance among equal names.';
comment on column mart.monthly_burst.level_class is 'base, add_on or unclassified. Add-ons lie on top of base capacity: do not add the two.';
comment on column mart.monthly_burst.month is 'First day of the UTC month.';
comment on column mart.monthly_burst.days_observed is 'Days with samples.';
comment on column mart.monthly_burst.days_over_commitment is 'Days on which the samples were over the commitment at least once.';
comment on column mart.monthly_burst.accrued_burst_tib is 'Accrued burst as the vendor says, TiB for a month: sum over the days; NULL when a day lacks it.';
comment on column mart.monthly_burst.waiver_burst_tib is 'Of it, what fell on the first 60 days of the subscription; NULL as above.';
comment on column mart.monthly_burst.worst_day_tib is 'Greatest daily mean over the commitment, TiB.';
comment on column mart.monthly_burst.worst_day is 'The first day of that; NULL when no day was over.';

create view mart.license_high_water as
select
    o.account,
    o.server,
    o.operation,
    p.api as product,
    p.title,
    f.description,
    p.unit,
    p.kind,
    date_trunc('month', f.snapshot_date)::date as month,
    max(f.items_max) as items_max,
    (array_agg(f.snapshot_date order by f.items_max desc nulls last, f.snapshot_date))[1] as reached_on,
    (array_agg(f.items order by f.snapshot_date desc))[1] as items_last,
    max(f.snapshot_date) as last_read_on,
    count(*)::integer as days_read
from dw.fact_license_snapshot as f
join dw.dim_operation as o using (operation_key)
join dw.dim_product as p using (product_key)
group by o.account, o.server, o.operation, p.api, p.title, f.description, p.unit, p.kind, date_trunc('month', f.snapshot_date);
comment on view mart.license_high_water is 'Grain: one row per operation, product, description and local month with at least one reading: the most there was. Never add different units.';
comment on column mart.license_high_water.account is 'Configured wolkvox account.';
comment on column mart.license_high_water.server is 'Number of the wolkvox server.';
comment on column mart.license_high_water.operation is 'Operation that the answers carry.';
comment on column mart.license_high_water.product is 'Product (api).';
comment on column mart.license_high_water.title is 'The vendor''s title of the product.';
comment on column mart.license_high_water.description is 'What the figure belongs to.';
comment on column mart.license_high_water.unit is 'Unit of items; durations (time) are minutes.';
comment on column mart.license_high_water.kind is 'gauge (a level at the moment) or counter (grows from the start of the month).';
comment on column mart.license_high_water.month is 'First day of the local month.';
comment on column mart.license_high_water.items_max is 'Greatest reading of the month; what was between readings is unknown.';
comment on column mart.license_high_water.reached_on is 'Local day on which it was first met.';
comment on column mart.license_high_water.items_last is 'Last good reading of the month.';
comment on column mart.license_high_water.last_read_on is 'Local day of it.';
comment on column mart.license_high_water.days_read is 'Days with a reading. A day that was not read cannot be read any more.';

create or replace view mart.freshness as
select
    w.source,
    w.dataset,
    w.scope,
    w.watermark,
    w.last_success_at,
    w.next_due_at,
    clock.now_at - w.watermark as lag,
    case
        when r.status = 'failed' then 'failing'
        when w.last_success_at is null then 'never'
        when w.next_due_at < clock.now_at then 'late'
        else 'ok'
    end as status,
    w.account,
    round(extract(epoch from clock.now_at - w.watermark) / 3600, 3) as lag_hours
from ops.watermark as w
cross join (select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock) as clock
left join ops.run as r on r.run_id = w.last_run_id;
comment on column mart.freshness.lag_hours is 'lag in hours, 3 decimals: many BI tools cannot chart an interval.';

-- +goose Down
drop view mart.freshness;
create view mart.freshness as
select
    w.source,
    w.dataset,
    w.scope,
    w.watermark,
    w.last_success_at,
    w.next_due_at,
    clock.now_at - w.watermark as lag,
    case
        when r.status = 'failed' then 'failing'
        when w.last_success_at is null then 'never'
        when w.next_due_at < clock.now_at then 'late'
        else 'ok'
    end as status,
    w.account
from ops.watermark as w
cross join (select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock) as clock
left join ops.run as r on r.run_id = w.last_run_id;
comment on view mart.freshness is 'Grain: one row per dataset and scope: how far it is loaded and when it is due.';
comment on column mart.freshness.source is 'Vendor: keystone or wolkvox.';
comment on column mart.freshness.dataset is 'Report of the vendor.';
comment on column mart.freshness.scope is 'Customer id or account.';
comment on column mart.freshness.watermark is 'Up to when every expected day was answered (history) or the last reading (others), UTC; NULL before.';
comment on column mart.freshness.last_success_at is 'Last run that loaded, UTC; NULL before.';
comment on column mart.freshness.next_due_at is 'When it is due next, UTC; NULL without a schedule.';
comment on column mart.freshness.lag is 'How far the watermark is behind now.';
comment on column mart.freshness.status is 'ok; late (due and not done); failing (the last run failed); never (nothing loaded yet).';
comment on column mart.freshness.account is 'Configured account.';
drop view mart.license_high_water;
drop view mart.monthly_burst;
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
comment on column mart.coverage.reason is 'Why a day is lost: what the last run of that local day failed with, or that nothing was asked; NULL for every other status.';
drop view mart.daily_utilisation;
drop view mart.dim_date;
