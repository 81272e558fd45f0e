-- Question: Does the vendor's accrued burst agree with what its samples give?
-- Grain: one row per level instance that was observed in one UTC month.
-- Caveats: TiB for a month. recomputed_tib follows the documented formula: what is over the
--   commitment, times the interval, over the minutes of the month; the interval is the median step of
--   each day. vendor_tib is the sum of the vendor's days by the reading in force, NULL when a day lacks
--   it. within_tolerance is a difference of 0.01 TiB at most. Fewer samples than expected are gaps, for
--   which nothing is made up. Days whose samples were pruned count by their daily row. Where most levels
--   of a month disagree the column may be read the wrong way: see `meterhouse levels accrued`.
with params as (
    select
        (date_trunc('month', now_at) - interval '1 month')::date as month  -- which month
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    c.customer_id,
    concat_ws(' ', c.subscription_number, nullif(c.discriminator, '')) as subscription,
    c.service_level || case when c.level_ordinal > 0 then ' #' || (c.level_ordinal + 1) else '' end as level,
    c.reading,
    c.vendor_tib,
    c.recomputed_tib,
    c.difference_tib,
    c.within_tolerance,
    c.interval_minutes,
    c.samples,
    c.samples_expected,
    c.days_observed,
    c.days_from_daily_rows
from params
join mart.accrued_check as c on c.month = params.month
order by c.customer_id, c.subscription_number, c.discriminator, c.service_level, c.level_ordinal;
