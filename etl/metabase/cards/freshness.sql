-- How far each dataset is loaded.
select
    f.source,
    f.dataset,
    f.scope,
    f.status,
    f.watermark,
    round(extract(epoch from f.lag)::numeric / 3600, 1) as hours_behind,
    f.last_success_at,
    f.next_due_at
from mart.freshness as f
order by case f.status when 'failing' then 1 when 'never' then 2 when 'late' then 3 else 4 end, f.source, f.dataset, f.scope
