select r.run_id, r.status, r.finished_at
from mart.run as r
where r.replay_of = $1
order by r.run_id
limit 50
