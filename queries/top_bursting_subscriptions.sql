-- Question: Which subscriptions burst most in a month?
-- Grain: one row per subscription and level class, ranked within the class.
-- Caveats: accrued_burst_tib is the vendor's accrued burst, in TiB for a month, added over the levels
--   of the class: a quantity, not an amount of money, and the vendor rounds and prices it elsewhere.
--   NULL when any day of a level lacks it; such rows are always listed. Classes are never added up,
--   since add-on levels mirror base capacity. days_lacking counts level-days expected and not
--   observed: with any, or in a running month, the figure still grows.
with params as (
    select
        (date_trunc('month', now_at) - interval '1 month')::date as month,  -- which month
        10::integer as top  -- how many per level class
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
),
bursting as (
    select
        m.customer_id,
        m.customer_name,
        concat_ws(' ', m.subscription_number, nullif(m.discriminator, '')) as subscription,
        m.level_class,
        count(*) as levels,
        sum(m.committed_tib) as committed_tib,
        case when count(m.accrued_burst_tib) = count(*) then sum(m.accrued_burst_tib) end as accrued_burst_tib,
        sum(m.days_expected - m.days_observed) as days_lacking
    from mart.month as m
    where m.month = (select month from params)
    group by m.customer_id, m.customer_name, m.subscription_number, m.discriminator, m.level_class
),
ranked as (
    select *, rank() over (partition by level_class order by accrued_burst_tib desc nulls last) as place
    from bursting
    where accrued_burst_tib is distinct from 0
)
select
    r.level_class,
    r.place,
    r.customer_id,
    r.customer_name,
    r.subscription,
    r.levels,
    r.committed_tib,
    r.accrued_burst_tib,
    round(100 * r.accrued_burst_tib / nullif(r.committed_tib, 0), 1) as percent_of_committed,
    r.days_lacking
from ranked as r
cross join params
where r.place <= params.top or r.accrued_burst_tib is null
order by case r.level_class when 'base' then 1 when 'add_on' then 2 else 3 end, r.place, r.customer_id, r.subscription;
