-- Every expected day of a time, series by series: of a level, of a customer as a whole, of a product.
select
    c.dataset,
    c.account,
    coalesce(c.customer_id, '') as customer_id,
    coalesce(c.subscription_number, '') as subscription_number,
    coalesce(c.discriminator, '') as discriminator,
    coalesce(c.service_level, '') as service_level,
    coalesce(c.level_ordinal::text, '') as level_ordinal,
    coalesce(c.product, '') as product,
    c.day - $1::date as nth,
    c.status
from mart.coverage as c
where c.day >= $1::date and c.day < $2::date
order by 1, 2, 3, 4, 5, 6, 7, 8, c.day
