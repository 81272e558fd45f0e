-- The statement of the month per currency and charge. Lines without a price have no currency and no amount.
with params as (
    select coalesce([[{{month}}, ]]to_char(now_at - interval '1 month', 'YYYY-MM')) as period
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    s.period,
    s.source,
    s.currency,
    s.charge,
    sum(s.amount) as amount,
    count(*) as lines,
    count(*) filter (where s.amount is null) as lines_without_price,
    count(*) filter (where s.state = 'provisional') as lines_provisional
from mart.statement as s
where s.period = (select period from params) [[and s.customer_id = {{customer}}]]
group by s.period, s.source, s.currency, s.charge
order by s.source, s.currency nulls last, s.charge
