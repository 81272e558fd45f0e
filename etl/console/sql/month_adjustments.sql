select
    a.*,
    sum(a.amount) over (partition by a.currency) as currency_total,
    count(a.amount) over (partition by a.currency) as currency_lines
from mart.adjustment as a
where a.period = $1
order by adjusts_period, source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, usage_date, currency
