select c.source, c.dataset, c.account, c.customer_id, c.subscription_number, c.service_level, c.level_ordinal, c.product, c.day, c.status, c.reason
from mart.coverage as c
where c.dataset = $1 and c.account = $2 and c.day = $9::date
    and ($3 = '' or c.customer_id = $3)
    and coalesce(c.customer_id, '') = $3
    and coalesce(c.subscription_number, '') = $4
    and coalesce(c.discriminator, '') = $5
    and ($6 = '' or coalesce(c.service_level, '') = $6)
    and ($7 = '' or coalesce(c.level_ordinal::text, '') = $7)
    and coalesce(c.product, '') = $8
order by c.service_level, c.level_ordinal
