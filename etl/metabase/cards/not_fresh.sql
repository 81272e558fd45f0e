-- Datasets of a customer or account that are late, failing or never loaded.
select count(*) as not_fresh
from mart.freshness
where status <> 'ok'
