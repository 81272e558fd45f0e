-- Every line of the month's statement.
with params as (
    select coalesce([[{{month}}, ]]to_char(now_at - interval '1 month', 'YYYY-MM')) as period
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    s.source,
    s.customer_id,
    s.account,
    concat_ws(' ', nullif(s.subscription_number, ''), nullif(s.discriminator, '')) as subscription,
    s.item,
    s.description,
    s.charge,
    s.is_waiver,
    s.quantity,
    s.unit,
    s.unit_price,
    s.amount,
    s.currency,
    s.state,
    s.period_start,
    s.period_end,
    s.days_observed,
    s.days_expected,
    s.note
from mart.statement as s
where s.period = (select period from params) [[and s.customer_id = {{customer}}]]
order by s.source, s.customer_id, s.account, subscription, s.item, s.description, s.charge, s.segment_from, s.is_waiver
