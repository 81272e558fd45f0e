select
    q.quarantine_id,
    q.run_id,
    q.source,
    q.dataset,
    q.scope,
    q.product,
    q.subscription_number,
    q.service_level,
    q.description,
    q.day,
    coalesce(q.window_from || ' to ' || q.window_until, 'the present') as window_text,
    q.reason,
    q.path,
    q.excerpt,
    q.quarantined_at,
    q.resolved_at,
    q.resolution,
    q.is_dismissed,
    q.payload_id,
    case when q.resolved_at is null then 'open' else 'resolved' end as state
from mart.quarantine as q
where q.quarantine_id = $1
