select q.quarantine_id, q.path, q.reason, q.excerpt, case when q.resolved_at is null then 'open' else 'resolved' end as state
from mart.quarantine as q
where q.run_id = $1
order by q.quarantine_id
limit 200
