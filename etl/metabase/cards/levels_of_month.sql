-- Every level of one month: without a filter the last whole one.
with params as (
    select coalesce([[to_date({{month}}, 'YYYY-MM'), ]](date_trunc('month', now_at) - interval '1 month')::date) as month
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    m.customer_id,
    m.customer_name,
    concat_ws(' ', m.subscription_number, nullif(m.discriminator, '')) as subscription,
    m.service_level || case when m.level_ordinal > 0 then ' #' || (m.level_ordinal + 1) else '' end as level,
    m.level_class,
    m.committed_tib,
    m.consumed_avg_tib,
    m.consumed_max_tib,
    round(100 * m.consumed_avg_tib / nullif(m.committed_tib, 0), 1) as used_percent,
    m.accrued_burst_tib,
    m.days_over_commitment,
    m.days_observed,
    m.days_expected,
    m.all_invoiced
from mart.month as m
cross join params
where m.month = params.month [[and m.customer_id = {{customer}}]]
order by case m.level_class when 'base' then 1 when 'add_on' then 2 else 3 end, m.consumed_avg_tib desc, m.customer_id, subscription, level
