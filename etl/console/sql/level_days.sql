select
    u.usage_date,
    u.status,
    u.committed_tib,
    u.consumed_avg_tib,
    u.consumed_max_tib,
    d.consumed_last_tib,
    u.burst_avg_tib,
    u.over_committed_avg_tib,
    d.accrued_burst_tib,
    d.is_invoiced,
    d.restatement_count,
    d.known_since,
    d.absent_since
from mart.daily_utilisation as u
left join mart.daily_consumption as d
    on d.customer_id = u.customer_id
    and d.subscription_number = u.subscription_number
    and d.discriminator = u.discriminator
    and d.service_level = u.service_level
    and d.level_ordinal = u.level_ordinal
    and d.usage_date = u.usage_date
    and d.customer_id = $1
    and d.subscription_number = $2
    and d.usage_date >= $6::date
    and d.usage_date < $7::date
where u.customer_id = $1
    and u.subscription_number = $2
    and u.discriminator = $3
    and u.service_level = $4
    and u.level_ordinal = $5::integer
    and u.usage_date >= $6::date
    and u.usage_date < $7::date
