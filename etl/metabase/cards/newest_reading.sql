-- When the vendor was last asked for the present, of the customer that was asked longest ago, by the wall clock in
-- UTC, which no report time zone moves.
select min(newest) at time zone 'UTC' as read_at
from (
    select max(s.fetched_at) as newest
    from mart.service_level as s
    where s.is_latest [[and s.customer_id = {{customer}}]]
    group by s.customer_id
) as customer
