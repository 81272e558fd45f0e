-- Question: What does a month come to for each customer, and is it final?
-- Grain: one row per customer (keystone) or account (wolkvox) and currency.
-- Caveats: a line belongs to the month in which its billing period ends. Amounts are sums of lines that
--   were rounded one by one, at the rate card's prices. Lines without a price are in no sum: they have a
--   row without a currency. Burst of a waiver counts at the waiver's price. A provisional line may still
--   change: its note in `meterhouse statement` says why. A closed month is told as it was frozen;
--   what changed since is not in it, see adjustments_by_reason. Never sum across currencies.
with params as (
    select
        (date_trunc('month', now_at) - interval '1 month')::date as month  -- which month
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
),
named as (
    select customer_id, max(customer_name) as customer_name
    from mart.subscription
    group by customer_id
)
select
    s.source,
    coalesce(nullif(s.customer_id, ''), s.account) as customer_or_account,
    named.customer_name,
    s.currency,
    count(*) as lines,
    count(*) filter (where s.state = 'provisional') as provisional,
    sum(s.amount) filter (where s.charge = 'committed') as committed_amount,
    sum(s.amount) filter (where s.charge = 'burst') as burst_amount,
    sum(s.amount) filter (where s.charge = 'license') as license_amount,
    sum(s.amount) filter (where s.charge = 'usage') as usage_amount,
    sum(s.amount) as amount
from params
join mart.statement as s on s.period = to_char(params.month, 'YYYY-MM')
left join named on named.customer_id = s.customer_id
group by s.source, coalesce(nullif(s.customer_id, ''), s.account), named.customer_name, s.currency
order by s.source, customer_or_account, s.currency;
