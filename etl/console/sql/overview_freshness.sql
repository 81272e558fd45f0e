-- Per dataset and account, as status shows it: how many scopes, how they are, how far the one that is furthest
-- behind is complete, and when the next one is due.
select
    f.dataset,
    f.account,
    count(*) as scopes,
    count(*) filter (where f.status = 'ok') as on_time,
    count(*) filter (where f.status in ('late', 'never')) as late,
    count(*) filter (where f.status = 'failing') as failing,
    min(f.watermark) as watermark,
    min(f.next_due_at) as next_due_at,
    case
        when count(*) filter (where f.status = 'failing') > 0 then 'failing'
        when count(*) filter (where f.status in ('late', 'never')) > 0 then 'late'
        else 'ok'
    end as status
from mart.freshness as f
group by f.dataset, f.account
order by f.dataset, f.account
limit 50
