select p.payload_id, p.product, p.url, p.status, p.fetched_at, p.body_bytes
from mart.payload as p
where p.run_id = $1
order by p.payload_id
limit 200
