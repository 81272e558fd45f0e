-- The vendor's accrued burst of base levels, thirteen months. NULL when any day of a level lacks it.
with params as (
    select (date_trunc('month', now_at) - interval '12 months')::date as from_month
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    m.month,
    case when count(m.accrued_burst_tib) = count(*) then sum(m.accrued_burst_tib) end as accrued_burst_tib,
    sum(m.days_expected - m.days_observed) as days_lacking
from mart.month as m
cross join params
where m.level_class = 'base' and m.month >= params.from_month [[and m.customer_id = {{customer}}]]
group by m.month
order by m.month
