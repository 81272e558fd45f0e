-- Question: How much did each service level commit, consume and burst per month?
-- Grain: one row per UTC month and level instance; instances of one name are numbered from #2 on.
-- Caveats: TiB. consumed_avg_tib is the mean of the daily means, accrued_burst_tib the vendor's burst
--   in TiB for a month, NULL when a day lacks it. Add-on levels mirror base capacity: never sum
--   across level_class. A month with fewer days observed than expected is not whole: it is running,
--   or days are missing (see missing_days). The vendor may restate any day, an invoiced one too: see
--   restated_days.
with params as (
    select
        (date_trunc('month', now_at) - interval '12 months')::date as from_month,  -- first month
        (date_trunc('month', now_at) + interval '1 month')::date as until_month  -- first month no longer shown
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    m.month,
    m.customer_id,
    m.customer_name,
    concat_ws(' ', m.subscription_number, nullif(m.discriminator, '')) as subscription,
    m.service_level || case when m.level_ordinal > 0 then ' #' || (m.level_ordinal + 1) else '' end as level,
    m.level_class,
    m.committed_tib,
    m.consumed_avg_tib,
    m.consumed_max_tib,
    m.accrued_burst_tib,
    m.days_observed,
    m.days_expected,
    m.all_invoiced
from mart.month as m
cross join params
where m.month >= params.from_month and m.month < params.until_month
order by m.month, m.customer_id, m.subscription_number, m.discriminator, m.service_level, m.level_ordinal;
