-- Question: What changed of closed months since they were closed, why, and what does it come to?
-- Grain: one row per closed and adjusting month, subscription or account, item, charge and reason.
-- Caveats: the closed month itself never changes; with these amounts it is what would be computed now.
--   open: may still change, and is frozen when adjusted_in is closed. restated: the vendor told other
--   figures; late: figures came that were missing; absent: a decision about absent days; rate_changed,
--   calendar_changed, terms_changed, accrued_reading_changed, rule_changed: another price, billing
--   period, contract, reading or rule is known; reopened: it was adjusted, and the month was reopened
--   since. Days share the amount of their line by cumulative rounding. No price: no amount.
with params as (
    select
        (date_trunc('month', now_at) - interval '12 months')::date as from_month  -- first closed month
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    a.adjusts_period as closed_month,
    a.period as adjusted_in,
    a.state,
    a.source,
    coalesce(nullif(a.customer_id, ''), a.account) as customer_or_account,
    concat_ws(' ', nullif(a.subscription_number, ''), nullif(a.discriminator, '')) as subscription,
    a.item,
    a.charge,
    a.reason,
    min(a.usage_date) as first_day,
    max(a.usage_date) as last_day,
    count(distinct a.usage_date) as days,
    sum(a.quantity) as quantity,
    a.unit,
    sum(a.amount) as amount,
    a.currency
from params
join mart.adjustment as a on a.adjusts_period >= to_char(params.from_month, 'YYYY-MM')
group by a.adjusts_period, a.period, a.state, a.source, coalesce(nullif(a.customer_id, ''), a.account),
    concat_ws(' ', nullif(a.subscription_number, ''), nullif(a.discriminator, '')), a.item, a.charge, a.reason, a.unit, a.currency
order by a.adjusts_period, a.period, a.source, customer_or_account, subscription, a.item, a.charge, a.reason, a.unit, a.currency;
