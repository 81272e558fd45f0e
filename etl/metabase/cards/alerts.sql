-- What wants a person now.
select a.severity, a.kind, a.account, a.subject, a.detail, a.since, a.told_at
from mart.alert as a
order by a.severity, a.since, a.alert_key
