-- How sure the statement of the month is: the least sure of its lines.
with params as (
    select coalesce([[{{month}}, ]]to_char(now_at - interval '1 month', 'YYYY-MM')) as period
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select case when bool_and(s.state = 'closed') then 'closed' when bool_or(s.state = 'provisional') then 'provisional' when count(*) > 0 then 'final' end as state
from mart.statement as s
where s.period = (select period from params) [[and s.customer_id = {{customer}}]]
