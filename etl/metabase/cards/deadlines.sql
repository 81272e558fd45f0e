-- Dates to keep, the next one first.
select d.due_at, d.days_left, d.kind, d.customer_id, d.account, d.subscription_number, d.action
from mart.deadline as d
order by d.due_at, d.kind, d.account, d.customer_id, d.subscription_number
