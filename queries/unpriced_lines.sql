-- Question: Which lines of a month have no price?
-- Grain: one row per line of the month's statement that has none.
-- Caveats: such a line is in no total. A quantity of 0 costs nothing, but a price may be missing in
--   another month too. An unclassified level wants a price by its name, or a class: see
--   `meterhouse levels import`. segment_from and segment_to are the days of the line for which no price
--   holds. A closed month is told as it was frozen: a price that came later is an adjustment.
with params as (
    select
        (date_trunc('month', now_at) - interval '1 month')::date as month  -- which month
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    s.source,
    coalesce(nullif(s.customer_id, ''), s.account) as customer_or_account,
    concat_ws(' ', nullif(s.subscription_number, ''), nullif(s.discriminator, '')) as subscription,
    s.item,
    nullif(s.description, '') as description,
    s.charge,
    s.is_waiver,
    s.level_class,
    s.quantity,
    s.unit,
    s.segment_from,
    s.segment_to,
    s.state
from params
join mart.statement as s on s.period = to_char(params.month, 'YYYY-MM') and s.unit_price is null
order by s.source, customer_or_account, subscription, s.item, s.description, s.charge, s.is_waiver, s.segment_from;
