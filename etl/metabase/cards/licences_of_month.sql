-- wolkvox licences and usage of one month, without a filter the running one. Never add different units.
with params as (
    select coalesce([[to_date({{month}}, 'YYYY-MM'), ]](select date_trunc('month', max(snapshot_date))::date from mart.license_snapshot)) as month
)
select
    s.account,
    s.operation,
    s.title as product,
    s.description,
    s.kind,
    max(s.items_max) as items_max,
    s.unit,
    count(*) as days_read,
    max(s.snapshot_date) as last_day_read
from mart.license_snapshot as s
cross join params
where s.snapshot_date >= params.month and s.snapshot_date < params.month + interval '1 month'
group by s.account, s.operation, s.title, s.description, s.kind, s.unit
order by s.account, s.operation, s.title, s.description
