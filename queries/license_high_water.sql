-- Question: What was the most of each wolkvox licence or usage per month?
-- Grain: one row per month of the operation's zone, operation, product and description.
-- Caveats: In the unit of the row; durations (unit time) are minutes. For a gauge items_max is the
--   greatest reading of the month, first met on reached_on; what happens between readings is unknown.
--   A counter grows from the start of the month, so its greatest reading is the month so far. Days
--   that were not read cannot be read any more: compare days_read with the month. Whether the
--   vendor bills the greatest, the last or the mean is not said here. Never add different units.
with params as (
    select
        (date_trunc('month', now_at) - interval '12 months')::date as from_month,  -- first month
        (date_trunc('month', now_at) + interval '1 month')::date as until_month  -- first month no longer shown
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    date_trunc('month', s.snapshot_date)::date as month,
    s.account,
    s.operation,
    s.product,
    s.description,
    s.kind,
    max(s.items_max) as items_max,
    s.unit,
    (array_agg(s.snapshot_date order by s.items_max desc, s.snapshot_date))[1] as reached_on,
    count(*) as days_read
from mart.license_snapshot as s
cross join params
where s.snapshot_date >= params.from_month and s.snapshot_date < params.until_month
group by 1, s.account, s.operation, s.product, s.description, s.kind, s.unit
order by 1, s.account, s.operation, s.product, s.description;
