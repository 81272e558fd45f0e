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
    and ($3 = '' or c.dataset = $3)
    and ($4 = '' or c.account = $4)
    and ($5 = '' or strpos(lower(concat_ws(' ', c.customer_id, c.subscription_number, c.discriminator, c.service_level, c.product)), lower($5)) > 0)
    and ($6 = '' or c.status = $6)
