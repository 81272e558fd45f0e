select
    r.run_id,
    r.dataset,
    r.scope,
    coalesce(r.window_from || ' to ' || r.window_until, 'the present') as window_text,
    r.status,
    r.finished_at,
    r.inserted,
    r.restated,
    r.quarantined
from mart.run as r
order by r.run_id desc
limit 10
