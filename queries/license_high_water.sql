-- Question: what was the most of each licence or usage per month?
-- Grain: one row per local month, operation, product and description.
-- Caveats: gauges: the greatest reading of the month. Counters grow from the start of the local
--   month, so their greatest reading is the month so far. What the vendor bills is not defined by it.
with params as (
    select date '2000-01-01' as from_month, date '2100-01-01' as until_month
)

select
    date_trunc('month', s.snapshot_date)::date as month,
    s.account,
    s.operation,
    s.product,
    s.description,
    s.kind,
    s.unit,
    max(s.items_max) as items_max,
    count(*) as days_observed
from mart.license_snapshot as s
cross join params
where s.snapshot_date >= params.from_month and s.snapshot_date < params.until_month
group by 1, s.account, s.operation, s.product, s.description, s.kind, s.unit
order by 1, s.account, s.operation, s.product, s.description;
