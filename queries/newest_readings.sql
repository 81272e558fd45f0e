-- Question: What is the newest reading of everything, and how old is it?
-- Grain: one row per level instance (keystone), or per operation, product and description (wolkvox).
-- Caveats: A reading is one moment, not a period: use consumption_by_level_and_month for a bill. Items
--   of a counter are the month so far, of a gauge the state at that moment. read_at is when the
--   vendor took the reading or, where it does not say, when we asked; the age is in whole hours.
--   committed is in the unit of the row, NULL for wolkvox, which tells none. A level whose vendor
--   has gone silent keeps its last reading: look at the age.
with params as (
    select
        0::integer as min_age_hours  -- only readings at least so old
),
clock as (
    select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at
    from mart.freshness
),
reading as (
    select
        'keystone' as source,
        l.customer_id as scope,
        concat_ws(' ', l.subscription_number, nullif(l.discriminator, '')) as subject,
        l.service_level || case when l.level_ordinal > 0 then ' #' || (l.level_ordinal + 1) else '' end as item,
        l.level_class as kind,
        l.consumed_tib as quantity,
        l.committed_tib as committed,
        'TiB' as unit,
        coalesce(l.read_at, l.fetched_at) as read_at
    from mart.service_level as l
    where l.is_latest
    union all
    select *
    from (
        select distinct on (s.account, s.operation, s.product, s.description)
            'wolkvox',
            s.account,
            s.operation,
            s.product || ': ' || s.description,
            s.kind,
            s.items,
            null::numeric,
            s.unit,
            s.read_at
        from mart.license_snapshot as s
        order by s.account, s.operation, s.product, s.description, s.snapshot_date desc
    ) as newest
),
aged as (
    select
        reading.*,
        floor(extract(epoch from clock.now_at - (reading.read_at at time zone 'UTC')) / 3600)::integer as age_hours
    from reading
    cross join clock
)
select
    a.source,
    a.scope,
    a.subject,
    a.item,
    a.kind,
    a.quantity,
    a.committed,
    a.unit,
    date_trunc('second', a.read_at) as read_at,
    a.age_hours
from aged as a
cross join params
where a.age_hours >= params.min_age_hours
order by a.source, a.scope, a.subject, a.item;
