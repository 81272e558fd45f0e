-- Months from the first day with figures to the newest, newest first. A filter offers them oldest first, whatever
-- stands here.
with known as (
    select min(usage_date) as first_day, max(usage_date) as last_day from mart.daily_consumption
    union all
    select min(snapshot_date), max(snapshot_date) from mart.license_snapshot
)
select to_char(month, 'YYYY-MM') as month
from (select min(first_day) as first_day, max(last_day) as last_day from known) as span
cross join generate_series(date_trunc('month', first_day::timestamp), last_day::timestamp, interval '1 month') as month
order by 1 desc
