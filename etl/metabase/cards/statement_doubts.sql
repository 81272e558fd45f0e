-- What a person looks at before the month is closed: lines that are provisional, not whole, without a price or with
-- a note, in this order.
with params as (
    select coalesce([[{{month}}, ]]to_char(now_at - interval '1 month', 'YYYY-MM')) as period
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    s.source,
    coalesce(nullif(s.customer_id, ''), s.account) as scope,
    concat_ws(' ', nullif(s.subscription_number, ''), nullif(s.discriminator, '')) as subscription,
    s.item,
    s.charge,
    s.state,
    s.days_expected - s.days_observed as days_lacking,
    s.quantity,
    s.amount,
    s.currency,
    s.note
from mart.statement as s
where s.period = (select period from params) [[and s.customer_id = {{customer}}]]
    and (s.state = 'provisional' or s.days_observed < s.days_expected or s.amount is null or s.note is not null)
order by
    case when s.state = 'provisional' then 1 when s.days_observed < s.days_expected then 2 when s.amount is null then 3 else 4 end,
    s.source, scope, subscription, s.item, s.charge, s.segment_from
