-- Days of a series that are missing or lost, of the last sixty days.
select count(*) as days
from mart.coverage as c
cross join (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
where c.status in ('missing', 'lost') and c.day >= now_at::date - 60
