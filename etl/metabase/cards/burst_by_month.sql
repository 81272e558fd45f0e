-- The vendor's accrued burst of base levels, thirteen months. NULL when any day of a level lacks it. Beside the
-- whole months are those that still run, or of which a day of any level is missing: their figure is too low.
with params as (
    select (date_trunc('month', now_at) - interval '12 months')::date as from_month
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
),
observed as (   -- also months of which no day of a level was
    select
        u.month,
        bool_and(u.status = 'observed') as is_whole,
        count(*) filter (where u.status in ('missing', 'partial')) as days_lacking
    from mart.daily_utilisation as u
    cross join params
    where u.level_class = 'base' and u.usage_date >= params.from_month [[and u.customer_id = {{customer}}]]
    group by u.month
),
burst as (
    select m.month, case when count(m.accrued_burst_tib) = count(*) then sum(m.accrued_burst_tib) end as accrued_burst_tib
    from mart.month as m
    cross join params
    where m.level_class = 'base' and m.month >= params.from_month [[and m.customer_id = {{customer}}]]
    group by m.month
)
select
    observed.month,
    case when observed.is_whole then burst.accrued_burst_tib end as accrued_burst_tib,
    case when not observed.is_whole then burst.accrued_burst_tib end as not_whole_tib,
    observed.days_lacking
from observed
left join burst on burst.month = observed.month
order by observed.month
