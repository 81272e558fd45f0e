-- Records that were refused and that nobody has settled.
select count(*) as open_records
from mart.quarantine
where resolved_at is null
