-- Base levels, added up per UTC day. A day on which any of them is missing has no total: it would be too low.
with span as (
    select
        coalesce([[to_date({{month}}, 'YYYY-MM'), ]](date_trunc('month', now_at) - interval '2 months')::date) as from_day,
        coalesce([[(to_date({{month}}, 'YYYY-MM') + interval '1 month')::date, ]]now_at::date) as until_day
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
),
level_day as (
    select d.usage_date, d.service_level, d.committed_tib, d.consumed_avg_tib, d.over_committed_avg_tib
    from mart.daily_consumption as d
    cross join span
    where d.level_class = 'base' and d.usage_date >= span.from_day and d.usage_date < span.until_day
        [[and d.customer_id = {{customer}}]]
),
total as (
    select usage_date as day, sum(committed_tib) as committed_tib, sum(consumed_avg_tib) as consumed_tib, sum(over_committed_avg_tib) as over_committed_tib
    from level_day
    group by usage_date
),
hole as (
    select distinct c.day
    from mart.coverage as c
    cross join span
    where c.dataset = 'keystone.history' and c.status in ('missing', 'lost') and c.day >= span.from_day and c.day < span.until_day
        and (c.service_level is null or c.service_level in (select service_level from level_day))
        [[and c.customer_id = {{customer}}]]
)
select
    coalesce(total.day, hole.day) as day,
    case when hole.day is null then total.committed_tib end as committed_tib,
    case when hole.day is null then total.consumed_tib end as consumed_tib,
    case when hole.day is null then total.over_committed_tib end as over_committed_tib
from total
full join hole on hole.day = total.day
order by 1
