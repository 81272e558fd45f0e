select
    f.source,
    f.dataset,
    f.scope,
    f.account,
    f.status,
    f.watermark,
    f.last_success_at,
    f.next_due_at,
    f.lag,
    f.last_run_id
from mart.freshness as f
where ($1 = '' or strpos(lower(f.scope), lower($1)) > 0 or strpos(lower(f.account), lower($1)) > 0)
    and ($2 = '' or f.dataset = $2)
    and ($3 = '' or f.status = $3)
