-- Whole days until the next date that somebody must keep.
select min(days_left) as days_left
from mart.deadline
