-- Customers whose history is loaded.
select distinct scope as customer_id
from mart.freshness
where dataset = 'keystone.history'
order by 1
