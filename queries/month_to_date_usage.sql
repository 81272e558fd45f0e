-- Question: How does this month's wolkvox usage so far compare with the same days of last month?
-- Grain: one row per operation, product and description that counts usage.
-- Caveats: In the unit of the row; durations (unit time) are minutes. Counters only: a licence in use
--   has no month to date (see license_high_water). Each figure is the last reading of its day and
--   counts from the start of the month in the operation's zone. Where a day was not read, the newest
--   day before it stands in: compare read_on with last_read_on. The newest day is left out by
--   default, since it may not be over. NULL when no day of the span was read.
with params as (
    select
        today::date as until_day  -- first local day no longer counted; its eve decides the month
    from (select coalesce(max(snapshot_date), current_date) as today from mart.license_snapshot) as newest
),
month as (
    select
        date_trunc('month', until_day - 1)::date as from_day,
        (date_trunc('month', until_day - 1) - interval '1 month')::date as last_from_day,
        until_day
    from params
),
newest as (   -- the last reading of each span
    select distinct on (s.account, s.operation, s.product, s.description, s.snapshot_date >= month.from_day)
        s.account, s.operation, s.product, s.description, s.unit, s.snapshot_date, s.items,
        s.snapshot_date >= month.from_day as is_this
    from mart.license_snapshot as s
    cross join month
    where s.kind = 'counter'
        and (
            (s.snapshot_date >= month.from_day and s.snapshot_date < month.until_day)
            or (
                s.snapshot_date >= month.last_from_day and s.snapshot_date < month.from_day
                and s.snapshot_date < month.last_from_day + (month.until_day - month.from_day)
            )
        )
    order by s.account, s.operation, s.product, s.description, s.snapshot_date >= month.from_day, s.snapshot_date desc
)
select
    account,
    operation,
    product,
    description,
    unit,
    max(snapshot_date) filter (where is_this) as read_on,
    max(items) filter (where is_this) as items,
    max(snapshot_date) filter (where not is_this) as last_read_on,
    max(items) filter (where not is_this) as last_items,
    trim_scale(max(items) filter (where is_this) - max(items) filter (where not is_this)) as change
from newest
group by account, operation, product, description, unit
order by account, operation, product, description;
