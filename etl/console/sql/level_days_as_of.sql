-- Days of a level as they were known at an instant, $8: what mart.daily_consumption_as_of tells of it, without computing
-- all levels first. What is not kept as it was known is left out: whether a day was invoiced, how often it was restated.
with level as materialized (
    select l.customer_key, l.service_level_key, w.settle
    from dw.dim_service_level as l
    join dw.dim_subscription as s using (subscription_key)
    join dw.dim_customer as c on c.customer_key = l.customer_key
    join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
    where c.customer_id = $1
        and s.subscription_number = $2
        and s.discriminator = $3
        and l.service_level = $4
        and l.level_ordinal = $5::integer
)

select
    u.usage_date,
    case
        when d.is_partial then 'partial'
        when d.usage_date is not null then 'observed'
        when (u.usage_date + 1)::timestamp at time zone 'UTC' + level.settle > $8::timestamptz then 'not_due'
        else 'missing'
    end as status,
    d.committed_tib,
    d.consumed_avg_tib,
    d.consumed_max_tib,
    d.consumed_last_tib,
    d.burst_avg_tib,
    d.over_committed_avg_tib,
    case
        when a.reading = 'running' then d.accrued_last_tib - coalesce(
            (
                select p.accrued_last_tib
                from dw.daily_consumption_as_of($8::timestamptz) as p
                where p.customer_key = d.customer_key
                    and p.service_level_key = d.service_level_key
                    and p.accrued_last_tib is not null
                    and p.usage_date < d.usage_date
                    and p.usage_date >= date_trunc('month', d.usage_date)::date
                order by p.usage_date desc
                limit 1
            ),
            0
        )
        else d.accrued_sum_tib
    end as accrued_burst_tib,
    d.known_since,
    $8::timestamptz as as_of
from mart.daily_utilisation as u
cross join level
left join lateral (
    select p.*
    from dw.daily_consumption_as_of($8::timestamptz) as p
    where p.customer_key = level.customer_key
        and p.service_level_key = level.service_level_key
        and p.usage_date = u.usage_date
    offset 0 -- the day is found by its index: joined as a whole, the days of all levels would be read
) as d on true
left join billing.accrued_reading_as_of($8::timestamptz) as a on a.account = u.account and a.month = u.month
where u.customer_id = $1
    and u.subscription_number = $2
    and u.discriminator = $3
    and u.service_level = $4
    and u.level_ordinal = $5::integer
    and u.usage_date >= $6::date
    and u.usage_date < $7::date
    and u.usage_date <= ($8::timestamptz at time zone 'UTC')::date
