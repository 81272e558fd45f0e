-- Question: Which days are not there, and can they still be fetched?
-- Grain: one row per series, status and span of consecutive days.
-- Caveats: missing: not delivered so far; runs ask again as long as they re-read the day (setting
--   reread), later only `meterhouse backfill` does. lost: the vendor tells only the present, nobody
--   can fetch it any more. partial: a record of the day is in quarantine. A row without a
--   subscription speaks for the whole customer. Instances of one level name are one series here: a
--   day is listed when any of them lacks it. UTC days for Keystone, local days for wolkvox.
with params as (
    select
        (date_trunc('month', now_at) - interval '12 months')::date as from_day,  -- first day
        now_at::date as until_day  -- first day no longer shown
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
),
lacking as (
    select distinct
        c.source,
        c.dataset,
        coalesce(c.customer_id, c.account) as scope,
        c.subscription_number,
        coalesce(c.service_level, c.product) as series,
        c.status,
        c.day
    from mart.coverage as c
    cross join params
    where c.day >= params.from_day and c.day < params.until_day
        and c.status in ('missing', 'lost', 'partial')
),
numbered as (   -- consecutive days share day - number
    select
        *,
        day - row_number() over (partition by source, dataset, scope, subscription_number, series, status order by day)::integer as span
    from lacking
)
select
    source,
    dataset,
    scope,
    subscription_number as subscription,
    series,
    status,
    min(day) as first_day,
    max(day) as last_day,
    count(*) as days
from numbered
group by source, dataset, scope, subscription_number, series, status, span
order by source, dataset, scope, subscription_number nulls first, series, first_day, status;
