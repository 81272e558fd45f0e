select
    p.payload_id,
    p.run_id,
    p.source,
    p.dataset,
    p.scope,
    p.account,
    p.product,
    coalesce(p.window_from || ' to ' || p.window_until, 'the present') as window_text,
    p.method,
    p.url,
    p.requested_at,
    p.fetched_at,
    p.status,
    p.content_type,
    p.body_bytes,
    p.body_sha256
from mart.payload as p
where p.payload_id = $1
