-- Question: How do add-on levels compare with the base capacity that they belong to?
-- Grain: one row per subscription that has an add-on or unclassified level, in one UTC month.
-- Caveats: TiB. An add-on (data protection, DII, …) is charged on top of capacity that the base
--   level already counts: compare the two, never add them up. The classes follow the names of the
--   levels; unclassified ones fit no rule (`meterhouse levels import`). consumed is the mean of the
--   daily means, added over the levels of a class. Which base level an add-on mirrors the vendor
--   does not say, so whole subscriptions are compared. NULL means no such level.
with params as (
    select
        (date_trunc('month', now_at) - interval '1 month')::date as month  -- which month
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    m.customer_id,
    m.customer_name,
    concat_ws(' ', m.subscription_number, nullif(m.discriminator, '')) as subscription,
    sum(m.committed_tib) filter (where m.level_class = 'base') as base_committed_tib,
    sum(m.committed_tib) filter (where m.level_class = 'add_on') as add_on_committed_tib,
    sum(m.committed_tib) filter (where m.level_class = 'unclassified') as unclassified_committed_tib,
    sum(m.consumed_avg_tib) filter (where m.level_class = 'base') as base_consumed_tib,
    sum(m.consumed_avg_tib) filter (where m.level_class = 'add_on') as add_on_consumed_tib,
    sum(m.consumed_avg_tib) filter (where m.level_class = 'unclassified') as unclassified_consumed_tib,
    sum(m.days_expected - m.days_observed) as days_lacking
from mart.month as m
where m.month = (select month from params)
group by m.customer_id, m.customer_name, m.subscription_number, m.discriminator
having count(*) filter (where m.level_class <> 'base') > 0
order by m.customer_id, m.subscription_number, m.discriminator;
