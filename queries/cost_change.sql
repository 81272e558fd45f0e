-- Question: What costs more or less than in the month before, and is it the quantity or the price?
-- Grain: one row per subscription or operation, item, description, charge and currency whose quantity,
--   price or amount differs between the two months or is unknown; in each currency the greatest change
--   first.
-- Caveats: a line belongs to the month in which its billing period ends: a quarterly one comes and
--   goes. Where a month has no line of it, nothing is charged then. Where a line has no price, amount
--   and change are NULL: unknown. A price is NULL, too, where several were in force. provisional
--   counts lines of both months that may still change. A closed month is told as it was frozen; what
--   changed since is not in it, see adjustments_by_reason. Of a month in which the history begins only
--   the days from then on are known: what comes after costs more. Never sum across currencies, and
--   quantities not across items.
with params as (
    select
        (date_trunc('month', now_at) - interval '1 month')::date as month  -- which month, compared with the one before
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
),
named as (
    select customer_id, max(customer_name) as customer_name
    from mart.subscription
    group by customer_id
),
told as (   -- a line without a price has no currency: it goes with the other lines of the same thing
    select
        s.*,
        s.period = to_char(params.month, 'YYYY-MM') as is_now,
        coalesce(s.currency, max(s.currency) over same_thing) as told_in
    from params
    join mart.statement as s on s.period in (to_char(params.month, 'YYYY-MM'), to_char(params.month - interval '1 month', 'YYYY-MM'))
    window same_thing as (partition by s.source, s.account, s.customer_id, s.subscription_number, s.discriminator, s.item, s.description, s.charge)
),
summed as (
    select
        source,
        coalesce(nullif(customer_id, ''), account) as customer_or_account,
        concat_ws(' ', nullif(subscription_number, ''), nullif(discriminator, '')) as subscription,
        item,
        nullif(description, '') as description,
        charge,
        unit,
        told_in as currency,
        is_now,
        case when count(quantity) = count(*) then sum(quantity) end as quantity,
        case when count(distinct unit_price) = 1 then max(unit_price) end as unit_price,
        case when count(amount) = count(*) then sum(amount) end as amount,
        count(*) filter (where state = 'provisional') as provisional
    from told
    group by source, customer_or_account, subscription, item, told.description, charge, unit, told_in, is_now
),
compared as (
    select
        source,
        customer_or_account,
        subscription,
        item,
        description,
        charge,
        unit,
        currency,
        max(quantity) filter (where not is_now) as quantity_before,
        max(quantity) filter (where is_now) as quantity,
        max(unit_price) filter (where not is_now) as unit_price_before,
        max(unit_price) filter (where is_now) as unit_price,
        case when bool_or(not is_now) then max(amount) filter (where not is_now) else 0 end as amount_before,
        case when bool_or(is_now) then max(amount) filter (where is_now) else 0 end as amount,
        sum(provisional) as provisional
    from summed
    group by source, customer_or_account, subscription, item, description, charge, unit, currency
)
select
    c.source,
    c.customer_or_account,
    named.customer_name,
    c.subscription,
    c.item,
    c.description,
    c.charge,
    c.unit,
    c.currency,
    c.quantity_before,
    c.quantity,
    c.unit_price_before,
    c.unit_price,
    c.amount_before,
    c.amount,
    c.amount - c.amount_before as change_amount,
    c.provisional
from compared as c
left join named on named.customer_id = c.customer_or_account and c.source = 'keystone'
where (c.amount - c.amount_before) is distinct from 0
    or c.quantity_before is distinct from c.quantity
    or c.unit_price_before is distinct from c.unit_price
order by c.currency, abs(c.amount - c.amount_before) desc nulls last, c.source, c.customer_or_account, c.subscription, c.item, c.description, c.charge;
