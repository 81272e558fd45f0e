-- When the vendor was last asked for the present, of the customer that was asked longest ago.
select min(newest) as read_at
from (
    select max(s.fetched_at) as newest
    from mart.service_level as s
    where s.is_latest [[and s.customer_id = {{customer}}]]
    group by s.customer_id
) as customer
