-- The days of a time, series by series: the CSV of the page.
select
    c.source,
    c.dataset,
    c.account,
    c.customer_id,
    c.subscription_number,
    c.discriminator,
    c.service_level,
    c.level_ordinal,
    c.product,
    c.day,
    c.status,
    c.reason
from mart.coverage as c
where c.day >= $1::date and c.day < $2::date
order by dataset, account, customer_id, subscription_number, discriminator, service_level, level_ordinal, product, day
