-- What changed of closed months: adjusted in the month, or changing the month.
with params as (
    select coalesce([[{{month}}, ]]to_char(now_at - interval '1 month', 'YYYY-MM')) as period
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    a.period,
    a.adjusts_period,
    a.source,
    coalesce(nullif(a.customer_id, ''), a.account) as scope,
    concat_ws(' ', nullif(a.subscription_number, ''), nullif(a.discriminator, '')) as subscription,
    a.item,
    a.charge,
    a.usage_date,
    a.quantity,
    a.unit,
    a.amount,
    a.currency,
    a.reason,
    a.state,
    a.known_since
from mart.adjustment as a
where (a.period = (select period from params) or a.adjusts_period = (select period from params)) [[and a.customer_id = {{customer}}]]
order by a.adjusts_period, a.source, scope, subscription, a.item, a.usage_date, a.charge
