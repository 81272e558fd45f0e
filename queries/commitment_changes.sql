-- Question: When did the committed capacity of a service level change, from what to what?
-- Grain: one row per level instance and change, as told by the history or by the contract.
-- Caveats: TiB. told_by history: changed_on is the first UTC day that ended with the new commitment,
--   not_before the day after the last one that ended with the old: they differ when days between
--   are missing. told_by contract: the list of subscriptions says no date, so changed_on is the
--   day we were first told, and when it happened is unknown. A change usually shows in both. The
--   vendor does not promise that #2 means the same instance in both. A level's first commitment and
--   its end are not changes.
with params as (
    select
        (date_trunc('month', now_at) - interval '12 months')::date as from_day,  -- first UTC day
        (now_at::date + 1)::date as until_day  -- first UTC day no longer shown
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
),
told as (
    select
        'history' as told_by,
        d.customer_id, d.customer_name, d.subscription_number, d.discriminator, d.service_level, d.level_ordinal, d.level_class,
        d.usage_date as changed_on,
        lag(d.usage_date) over level + 1 as not_before,
        lag(d.committed_tib) over level as before_tib,
        d.committed_tib as after_tib
    from mart.daily_consumption as d
    window level as (
        partition by d.customer_id, d.subscription_number, d.discriminator, d.service_level, d.level_ordinal
        order by d.usage_date
    )
    union all
    select
        'contract',
        c.customer_id, c.customer_name, c.subscription_number, c.discriminator, c.service_level, c.level_ordinal, c.level_class,
        (c.valid_from at time zone 'UTC')::date,
        null,
        lag(c.committed_tib) over level,
        c.committed_tib
    from mart.commitment as c
    window level as (
        partition by c.customer_id, c.subscription_number, c.discriminator, c.service_level, c.level_ordinal
        order by c.valid_from
    )
)
select
    t.changed_on,
    t.not_before,
    t.told_by,
    t.customer_id,
    t.customer_name,
    concat_ws(' ', t.subscription_number, nullif(t.discriminator, '')) as subscription,
    t.service_level || case when t.level_ordinal > 0 then ' #' || (t.level_ordinal + 1) else '' end as level,
    t.level_class,
    t.before_tib,
    t.after_tib,
    t.after_tib - t.before_tib as change_tib
from told as t
cross join params
where t.changed_on >= params.from_day and t.changed_on < params.until_day
    and t.after_tib <> t.before_tib
order by t.changed_on, t.customer_id, t.subscription_number, t.discriminator, t.service_level, t.level_ordinal, t.told_by desc;
