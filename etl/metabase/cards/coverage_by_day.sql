-- Series per day and state, sixty days. What is not due yet is left out.
select c.day, c.status, count(*) as series
from mart.coverage as c
cross join (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
where c.day >= now_at::date - 60 and c.status <> 'not_due'
group by c.day, c.status
order by c.day, c.status
