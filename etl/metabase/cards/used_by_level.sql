-- The twenty base levels that used most of what they committed, in one month: without a filter the last whole one.
with params as (
    select coalesce([[to_date({{month}}, 'YYYY-MM'), ]](date_trunc('month', now_at) - interval '1 month')::date) as month
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    concat_ws(' ', m.customer_id, m.subscription_number, nullif(m.discriminator, ''), m.service_level)
        || case when m.level_ordinal > 0 then ' #' || (m.level_ordinal + 1) else '' end as level,
    round(100 * m.consumed_avg_tib / m.committed_tib, 1) as used_percent
from mart.month as m
cross join params
where m.month = params.month and m.level_class = 'base' and m.committed_tib > 0 [[and m.customer_id = {{customer}}]]
order by m.consumed_avg_tib / m.committed_tib desc, level
limit 20
