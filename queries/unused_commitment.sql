-- Question: How much of what is committed was not used?
-- Grain: one row per level instance that was observed in the span with a commitment, the most unused
--   first.
-- Caveats: TiB, means over the observed days, each weighing the same; a day's commitment is that of its
--   last sample. unused_avg_tib is negative where more was used than committed. never_used_tib was free
--   at every sample of every day: what could have been left out without any burst, as far as the span
--   tells; NULL when there was no such capacity. Days without samples are not counted: compare
--   days_observed with the length of the span. Add-on levels mirror base capacity: never add them up.
with params as (
    select
        (date_trunc('month', now_at) - interval '3 months')::date as from_day,  -- first UTC day
        date_trunc('month', now_at)::date as until_day  -- first UTC day no longer counted
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    d.customer_id,
    d.customer_name,
    concat_ws(' ', d.subscription_number, nullif(d.discriminator, '')) as subscription,
    d.service_level || case when d.level_ordinal > 0 then ' #' || (d.level_ordinal + 1) else '' end as level,
    d.level_class,
    count(*) as days_observed,
    trim_scale(round(avg(d.committed_tib), 12)) as committed_avg_tib,
    trim_scale(round(avg(d.consumed_avg_tib), 12)) as consumed_avg_tib,
    max(d.consumed_max_tib) as consumed_max_tib,
    trim_scale(round(avg(d.committed_tib - d.consumed_avg_tib), 12)) as unused_avg_tib,
    round(100 * sum(d.consumed_avg_tib) / sum(d.committed_tib), 1) as percent_used,
    case when min(d.committed_tib - d.consumed_max_tib) > 0 then min(d.committed_tib - d.consumed_max_tib) end as never_used_tib
from mart.daily_consumption as d
cross join params
where d.usage_date >= params.from_day and d.usage_date < params.until_day
group by d.customer_id, d.customer_name, d.subscription_number, d.discriminator, d.service_level, d.level_ordinal, d.level_class
having sum(d.committed_tib) > 0
order by avg(d.committed_tib - d.consumed_avg_tib) desc, d.customer_id, d.subscription_number, d.discriminator, d.service_level, d.level_ordinal;
