select a.severity, a.kind, a.account, a.subject, a.detail, a.since
from mart.alert as a
order by a.severity = 'page' desc, a.since desc
limit 50
