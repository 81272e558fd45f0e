select
    q.quarantine_id,
    q.run_id,
    q.source,
    q.dataset,
    q.scope,
    q.product,
    q.subscription_number,
    q.service_level,
    q.day,
    q.reason,
    q.path,
    q.excerpt,
    q.quarantined_at,
    q.resolved_at,
    q.resolution,
    case when q.resolved_at is null then 'open' else 'resolved' end as state,
    q.payload_id
from mart.quarantine as q
where ($1 = '' or (q.resolved_at is null) = ($1 = 'open'))
    and ($2 = '' or q.dataset = $2)
    and ($3 = '' or q.reason = $3)
    and ($4 = '' or strpos(lower(q.scope || ' ' || q.path || ' ' || q.excerpt), lower($4)) > 0)
