select
    (select count(*) from mart.quarantine where resolved_at is null) as open_quarantine,
    (select count(*) from mart.alert) as open_alerts,
    (select count(*) from mart.freshness) as scopes
