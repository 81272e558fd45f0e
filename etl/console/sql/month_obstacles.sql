select o.kind, o.about, o.remedy, o.is_acceptable
from billing.close_obstacle($1) as o
order by o.is_acceptable, o.kind, o.about
