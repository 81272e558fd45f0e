-- Question: On how many days did a service level use more than it had committed?
-- Grain: one row per level instance that was over its commitment on any UTC day of the span.
-- Caveats: A day counts when any of its samples was above the commitment in force at that sample;
--   the excess is our own subtraction, averaged over the day, in TiB, and not what the vendor bills.
--   A level that commits nothing is over it whenever it is used. Days without samples are not
--   counted at all: compare days_observed with the length of the span. committed_tib is that of the
--   last observed day. Add-on levels mirror base capacity: never add them up.
with params as (
    select
        (date_trunc('month', now_at) - interval '1 month')::date as from_day,  -- first UTC day
        date_trunc('month', now_at)::date as until_day  -- first UTC day no longer counted
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    d.customer_id,
    d.customer_name,
    concat_ws(' ', d.subscription_number, nullif(d.discriminator, '')) as subscription,
    d.service_level || case when d.level_ordinal > 0 then ' #' || (d.level_ordinal + 1) else '' end as level,
    d.level_class,
    (array_agg(d.committed_tib order by d.usage_date desc))[1] as committed_tib,
    count(*) filter (where d.over_committed_avg_tib > 0) as days_over,
    count(*) as days_observed,
    max(d.over_committed_avg_tib) as worst_over_avg_tib,
    (array_agg(d.usage_date order by d.over_committed_avg_tib desc, d.usage_date))[1] as worst_day
from mart.daily_consumption as d
cross join params
where d.usage_date >= params.from_day and d.usage_date < params.until_day
group by d.customer_id, d.customer_name, d.subscription_number, d.discriminator, d.service_level, d.level_ordinal, d.level_class
having count(*) filter (where d.over_committed_avg_tib > 0) > 0
order by days_over desc, d.customer_id, d.subscription_number, d.discriminator, d.service_level, d.level_ordinal;
