-- Question: which days are not there, and can they still be fetched?
-- Grain: one row per series and status, with the days as a count and its ends.
-- Caveats: missing days are fetched by the next run; lost ones cannot be fetched any more; partial
--   ones have a record in quarantine.
with params as (
    select date '2000-01-01' as from_day, date '2100-01-01' as until_day
)

select
    c.source,
    c.dataset,
    coalesce(c.customer_id, c.account) as scope,
    c.subscription_number,
    coalesce(c.service_level, c.product) as series,
    c.status,
    count(*) as days,
    min(c.day) as first_day,
    max(c.day) as last_day
from mart.coverage as c
cross join params
where c.day >= params.from_day and c.day < params.until_day
    and c.status in ('missing', 'lost', 'partial')
group by c.source, c.dataset, coalesce(c.customer_id, c.account), c.subscription_number, coalesce(c.service_level, c.product), c.status
order by c.source, c.dataset, scope, c.subscription_number, series, c.status;
