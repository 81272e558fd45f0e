-- Runs per day and outcome, thirty days, by the wall clock in UTC.
select (r.started_at at time zone 'UTC')::date as day, r.status, count(*) as runs
from mart.run as r
where r.started_at >= (select max(started_at) from mart.run) - interval '30 days'
group by 1, 2
order by 1, 2
