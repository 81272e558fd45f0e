select
    r.run_id,
    coalesce(r.window_from || ' to ' || r.window_until, 'the present') as window_text,
    r.status,
    r.started_at,
    r.finished_at,
    r.received,
    r.inserted,
    r.restated,
    r.unchanged,
    r.quarantined
from mart.run as r
where r.dataset = $1 and r.scope = $2 and r.run_id > $3
order by r.run_id
limit 200
