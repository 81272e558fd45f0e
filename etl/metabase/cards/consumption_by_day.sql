-- Base levels, added up per UTC day. A day on which any of them is not whole has no total: it would be too low.
with clock as (
    select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at
    from mart.freshness
),
span as (
    select
        coalesce([[to_date({{month}}, 'YYYY-MM'), ]](date_trunc('month', now_at) - interval '2 months')::date) as from_day,
        least([[(to_date({{month}}, 'YYYY-MM') + interval '1 month')::date, ]]now_at::date) as until_day
    from clock
),
level_day as (   -- every level that is expected, also where its day is missing
    select u.usage_date as day, u.status = 'observed' as is_whole, u.committed_tib, u.consumed_avg_tib, u.over_committed_avg_tib
    from mart.daily_utilisation as u
    cross join span
    where u.level_class = 'base' and u.usage_date >= span.from_day and u.usage_date < span.until_day
        [[and u.customer_id = {{customer}}]]
    union all   -- and a customer who was not answered for at all: perhaps no level is known yet
    select c.day, false, null, null, null
    from mart.coverage as c
    cross join span
    where c.dataset = 'keystone.history' and c.service_level is null and c.status in ('missing', 'lost') and c.day >= span.from_day and c.day < span.until_day
        [[and c.customer_id = {{customer}}]]
)
select
    day,
    case when bool_and(is_whole) then sum(committed_tib) end as committed_tib,
    case when bool_and(is_whole and consumed_avg_tib is not null) then sum(consumed_avg_tib) end as consumed_tib,
    case when bool_and(is_whole and over_committed_avg_tib is not null) then sum(over_committed_avg_tib) end as over_committed_tib
from level_day
group by day
order by day
