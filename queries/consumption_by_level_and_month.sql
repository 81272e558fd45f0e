-- Question: how much did each service level commit, consume and burst per month?
-- Grain: one row per month, customer, subscription and level name.
-- Caveats: add-on levels mirror base capacity, so never sum across level classes. A month with
--   fewer days observed than expected is not whole. Accrued burst is NULL when a day lacks it.
with params as (
    select date '2000-01-01' as from_month, date '2100-01-01' as until_month
)

select
    m.month,
    m.customer_id,
    m.customer_name,
    m.subscription_number,
    m.service_level,
    m.level_class,
    sum(m.committed_tib) as committed_tib,
    sum(m.consumed_avg_tib) as consumed_avg_tib,
    case when count(m.accrued_burst_tib) = count(*) then sum(m.accrued_burst_tib) end as accrued_burst_tib,
    min(m.days_observed) as days_observed,
    max(m.days_expected) as days_expected
from mart.month as m
cross join params
where m.month >= params.from_month and m.month < params.until_month
group by m.month, m.customer_id, m.customer_name, m.subscription_number, m.service_level, m.level_class
order by m.month, m.customer_id, m.subscription_number, m.service_level;
