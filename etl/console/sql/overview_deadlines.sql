-- What must be kept within a month, and every date of a credential.
select d.kind, d.customer_id, d.account, d.subscription_number, d.due_at, d.days_left, d.action
from mart.deadline as d
where d.kind like 'token%' or d.days_left < 31
order by d.due_at
limit 50
