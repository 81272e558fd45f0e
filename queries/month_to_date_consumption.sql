-- Question: How does this month's storage consumption so far compare with the same days of last month?
-- Grain: one row per level instance that was observed in either span.
-- Caveats: TiB. This month up to the day before until_day, against as many days from the start of
--   the month before, or all of it where it is shorter. avg is the mean of the daily means over the
--   observed days; where days_this and days_last differ, days are missing or not yet loaded, and
--   accrued burst, which adds up over days, is not comparable. NULL when unknown or never observed.
--   Add-on levels mirror base capacity: never sum across level_class.
with params as (
    select
        now_at::date as until_day  -- first UTC day no longer counted; its eve decides the month
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
),
month as (
    select
        date_trunc('month', until_day - 1)::date as from_day,
        (date_trunc('month', until_day - 1) - interval '1 month')::date as last_from_day,
        until_day
    from params
),
days as (
    select
        d.*,
        d.usage_date >= month.from_day as is_this
    from mart.daily_consumption as d
    cross join month
    where (d.usage_date >= month.from_day and d.usage_date < month.until_day)
        or (
            d.usage_date >= month.last_from_day and d.usage_date < month.from_day
            and d.usage_date < month.last_from_day + (month.until_day - month.from_day)
        )
),
compared as (
    select
        customer_id, customer_name, subscription_number, discriminator, service_level, level_ordinal, level_class,
        count(*) filter (where is_this) as days_this,
        count(*) filter (where not is_this) as days_last,
        trim_scale(round(avg(consumed_avg_tib) filter (where is_this), 12)) as avg_this_tib,
        trim_scale(round(avg(consumed_avg_tib) filter (where not is_this), 12)) as avg_last_tib,
        case when bool_and(accrued_burst_tib is not null) filter (where is_this)
            then trim_scale(sum(accrued_burst_tib) filter (where is_this)) end as accrued_this_tib,
        case when bool_and(accrued_burst_tib is not null) filter (where not is_this)
            then trim_scale(sum(accrued_burst_tib) filter (where not is_this)) end as accrued_last_tib
    from days
    group by customer_id, customer_name, subscription_number, discriminator, service_level, level_ordinal, level_class
)
select
    customer_id,
    customer_name,
    concat_ws(' ', subscription_number, nullif(discriminator, '')) as subscription,
    service_level || case when level_ordinal > 0 then ' #' || (level_ordinal + 1) else '' end as level,
    level_class,
    days_this,
    days_last,
    avg_this_tib,
    avg_last_tib,
    trim_scale(avg_this_tib - avg_last_tib) as avg_change_tib,
    accrued_this_tib,
    accrued_last_tib,
    trim_scale(accrued_this_tib - accrued_last_tib) as accrued_change_tib
from compared
order by customer_id, subscription_number, discriminator, service_level, level_ordinal;
