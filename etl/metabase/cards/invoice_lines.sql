-- What was imported of the vendors' invoices for the month. What it is compared with is told by meterhouse match.
with params as (
    select coalesce([[{{month}}, ]]to_char(now_at - interval '1 month', 'YYYY-MM')) as period
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    i.source,
    i.invoice_number,
    i.invoice_date,
    i.line_number,
    i.customer_id,
    i.account,
    i.subscription_number,
    i.item,
    i.charge,
    i.period_start,
    i.period_end,
    i.quantity,
    i.unit_price,
    i.amount,
    i.currency,
    i.line_text
from mart.invoice_line as i
where i.period = (select period from params) [[and i.customer_id = {{customer}}]]
order by i.source, i.invoice_number, i.line_number
