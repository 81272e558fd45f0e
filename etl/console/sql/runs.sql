select
    r.run_id,
    r.source,
    r.dataset,
    r.scope,
    r.account,
    r.window_from,
    r.window_until,
    coalesce(r.window_from || ' to ' || r.window_until, 'the present') as window_text,
    r.status,
    r.started_at,
    r.finished_at,
    round(extract(epoch from r.finished_at - r.started_at), 1) as took,
    r.received,
    r.inserted,
    r.restated,
    r.unchanged,
    r.ignored,
    r.quarantined,
    r.absent,
    r.warnings,
    r.calls,
    r.error,
    r.fetched_at,
    r.body_bytes,
    r.replay_of,
    r.same_as
from mart.run as r
where ($1 = '' or r.scope in (select f.scope from mart.freshness as f where strpos(lower(f.scope), lower($1)) > 0))
    and ($2 = '' or r.dataset = $2)
    and ($3 = '' or r.status = $3)
