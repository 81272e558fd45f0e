-- Question: Which Keystone subscriptions end soon, and how much capacity do they hold?
-- Grain: one row per subscription whose current term ends in the span.
-- Caveats: TiB committed as the contract says now. Add-on levels mirror base capacity and
--   unclassified ones are not decided: the three are never added up, and NULL means no such level.
--   The terms are as last told; a renewal shows once the vendor lists the new end. Month-to-month
--   contracts have no end and are not here. days_left counts from the UTC day of now. A
--   subscription that the vendor no longer lists has a date in absent_since.
with params as (
    select
        now_at::date as from_day,  -- first UTC day of the end
        (now_at + interval '1 year')::date as until_day  -- first UTC day of the end no longer shown
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
),
clock as (
    select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at
    from mart.freshness
),
ending as (
    select s.*, (s.end_date at time zone 'UTC')::date as end_day
    from mart.subscription as s
    where s.is_current and s.end_date is not null
)
select
    e.end_day,
    e.end_day - clock.now_at::date as days_left,
    e.customer_id,
    e.customer_name,
    concat_ws(' ', e.subscription_number, nullif(e.discriminator, '')) as subscription,
    e.account_name,
    (e.start_date at time zone 'UTC')::date as start_day,
    sum(c.committed_tib) filter (where c.level_class = 'base') as base_committed_tib,
    sum(c.committed_tib) filter (where c.level_class = 'add_on') as add_on_committed_tib,
    sum(c.committed_tib) filter (where c.level_class = 'unclassified') as unclassified_committed_tib,
    (e.absent_since at time zone 'UTC')::date as absent_since
from ending as e
cross join params
cross join clock
left join mart.commitment as c
    on c.customer_id = e.customer_id and c.subscription_number = e.subscription_number and c.discriminator = e.discriminator
    and c.is_current and c.absent_since is null
where e.end_day >= params.from_day and e.end_day < params.until_day
group by
    e.end_day, clock.now_at, e.customer_id, e.customer_name, e.subscription_number, e.discriminator,
    e.account_name, e.start_date, e.absent_since
order by e.end_day, e.customer_id, e.subscription_number, e.discriminator;
