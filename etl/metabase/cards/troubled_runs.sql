-- The newest hundred runs that failed or left something out.
select r.run_id, r.started_at, r.dataset, r.scope, r.status, r.quarantined, r.absent, r.warnings, r.error
from mart.run as r
where r.status in ('failed', 'partial')
order by r.run_id desc
limit 100
