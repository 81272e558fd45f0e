-- What was asked about a day: runs whose window holds it, or that were of its present.
select r.run_id, r.window_from, r.window_until, coalesce(r.window_from || ' to ' || r.window_until, 'the present') as window_text, r.status, r.finished_at, r.received, r.inserted, r.error
from mart.run as r
where r.dataset = $1 and r.scope = $2
    and (r.window_from <= $3::date and r.window_until > $3::date
        or r.window_from is null and r.started_at >= $3::date - 1 and r.started_at < $3::date + 2)
order by r.run_id desc
limit 20
