-- TiB committed by base levels at their newest readings.
with reading as (   -- a level that the newest answer of its customer no longer lists has ended
    select s.*, max(s.fetched_at) over (partition by s.customer_id) as newest
    from mart.service_level as s
    where s.is_latest [[and s.customer_id = {{customer}}]]
)
select sum(committed_tib) as committed_tib
from reading
where level_class = 'base' and fetched_at >= newest - interval '1 hour'
