-- Levels with figures in a month, and their days as a line of 0 to 20, for a small drawing: '-' is a day without.
select
    m.customer_id,
    m.customer_name,
    m.subscription_number,
    m.discriminator,
    m.service_level,
    m.level_ordinal,
    m.level_class,
    m.days_observed,
    m.days_expected,
    m.committed_tib,
    m.consumed_avg_tib,
    m.consumed_max_tib,
    m.accrued_burst_tib,
    m.days_over_commitment,
    d.spark,
    d.mark
from mart.month as m
left join (
    select
        u.customer_id,
        u.subscription_number,
        u.discriminator,
        u.service_level,
        u.level_ordinal,
        string_agg(coalesce(round(20 * u.consumed_avg_tib / nullif(u.most, 0))::text, '-'), ' ' order by u.usage_date) as spark,
        round(20 * max(u.committed_tib) / nullif(max(u.most), 0))::text as mark
    from (
        select
            d.*,
            greatest(max(d.consumed_avg_tib) over level, max(d.committed_tib) over level) as most
        from mart.daily_utilisation as d
        where d.usage_date >= $1::date and d.usage_date < $1::date + interval '1 month'
        window level as (partition by d.customer_id, d.subscription_number, d.discriminator, d.service_level, d.level_ordinal)
    ) as u
    group by u.customer_id, u.subscription_number, u.discriminator, u.service_level, u.level_ordinal
) as d using (customer_id, subscription_number, discriminator, service_level, level_ordinal)
where m.month = $1::date
order by m.customer_id, m.subscription_number, m.discriminator, m.service_level, m.level_ordinal
