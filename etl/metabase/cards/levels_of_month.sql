-- Every level of one month: without a filter the last whole one. The month stands in the conditions as a value of its
-- own, so that the others are not added up first.
with params as (
    select coalesce([[to_date({{month}}, 'YYYY-MM'), ]](date_trunc('month', now_at) - interval '1 month')::date) as month
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
),
expected as (   -- also levels of which no day was observed
    select u.customer_id, u.customer_name, u.subscription_number, u.discriminator, u.service_level, u.level_ordinal, u.level_class, count(*) as days
    from mart.daily_utilisation as u
    where u.usage_date >= (select month from params) and u.usage_date < (select month + interval '1 month' from params)::date [[and u.customer_id = {{customer}}]]
    group by u.customer_id, u.customer_name, u.subscription_number, u.discriminator, u.service_level, u.level_ordinal, u.level_class
),
observed as (
    select m.*
    from mart.month as m
    where m.month = (select month from params) [[and m.customer_id = {{customer}}]]
)
select
    (select month from params) as month,
    e.customer_id,
    e.customer_name,
    concat_ws(' ', e.subscription_number, nullif(e.discriminator, '')) as subscription,
    e.service_level || case when e.level_ordinal > 0 then ' #' || (e.level_ordinal + 1) else '' end as level,
    e.level_class,
    m.committed_tib,
    m.consumed_avg_tib,
    m.consumed_max_tib,
    round(100 * m.consumed_avg_tib / nullif(m.committed_tib, 0), 1) as used_percent,
    m.accrued_burst_tib,
    m.days_over_commitment,
    coalesce(m.days_observed, 0) as days_observed,
    coalesce(m.days_expected, e.days) as days_expected,
    coalesce(m.days_partial, 0) as days_partial,
    m.all_invoiced
from expected as e
left join observed as m on m.customer_id = e.customer_id and m.subscription_number = e.subscription_number and m.discriminator = e.discriminator
    and m.service_level = e.service_level and m.level_ordinal = e.level_ordinal
order by case e.level_class when 'base' then 1 when 'add_on' then 2 else 3 end, m.consumed_avg_tib desc nulls first, e.customer_id, subscription, level
