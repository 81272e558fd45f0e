with s as materialized (select * from mart.statement where period = $1)
select
    s.*,
    sum(s.amount) over (partition by s.currency) as currency_total,
    count(s.amount) over (partition by s.currency) as currency_lines,
    count(s.amount) filter (where s.state = 'provisional') over (partition by s.currency) as currency_provisional
from s
order by source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, period_start, segment_from, rate_id
