-- What the console shows and no view had: what was landed, without its body, and the answer that a refused
-- record stood in. Views lock nothing. The indexes keep writers off ops.run and ops.quarantine for as long as
-- they read the table once. Nothing to replay.

-- +goose Up
create view mart.payload as
select
    p.payload_id,
    p.run_id,
    p.source,
    p.dataset,
    p.scope,
    p.account,
    p.product,
    p.window_from,
    p.window_until,
    p.method,
    p.url,
    p.requested_at,
    p.fetched_at,
    p.status,
    p.content_type,
    p.body_bytes,
    encode(p.body_sha256, 'hex') as body_sha256
from raw.payload as p;
comment on view mart.payload is 'Grain: one row per answer of a vendor that is landed, without its body. An answer that brought no news is not landed; old ones go by retention.payload.';
comment on column mart.payload.payload_id is 'Number of the landed answer.';
comment on column mart.payload.run_id is 'The run that asked.';
comment on column mart.payload.source is 'Vendor: keystone or wolkvox.';
comment on column mart.payload.dataset is 'Report of the vendor.';
comment on column mart.payload.scope is 'Customer id or account.';
comment on column mart.payload.account is 'Configured account.';
comment on column mart.payload.product is 'wolkvox product (api); empty for Keystone.';
comment on column mart.payload.window_from is 'First UTC day asked for; NULL for the present.';
comment on column mart.payload.window_until is 'First UTC day no longer asked for; NULL for the present.';
comment on column mart.payload.method is 'HTTP method of the request.';
comment on column mart.payload.url is 'What was asked; credentials travel in headers, which are not kept.';
comment on column mart.payload.requested_at is 'When the request was sent, UTC, business clock.';
comment on column mart.payload.fetched_at is 'When the answer was whole, UTC, business clock.';
comment on column mart.payload.status is 'HTTP status of the answer.';
comment on column mart.payload.content_type is 'As the vendor named it.';
comment on column mart.payload.body_bytes is 'Bytes of the body, decompressed.';
comment on column mart.payload.body_sha256 is 'SHA-256 of the body as it was sent, in hex.';

create or replace view mart.quarantine as
select
    q.quarantine_id,
    q.run_id,
    q.source,
    q.dataset,
    q.scope,
    q.path,
    q.reason,
    q.excerpt,
    q.quarantined_at,
    q.resolved_at,
    q.resolution,
    q.product,
    q.subscription_number,
    q.service_level,
    q.day,
    q.payload_id,
    q.window_from,
    q.window_until,
    q.description,
    q.is_dismissed
from ops.quarantine as q;
comment on column mart.quarantine.payload_id is 'The landed answer that the record stood in; NULL when it is not kept.';
comment on column mart.quarantine.window_from is 'First UTC day that was asked for; NULL for the present.';
comment on column mart.quarantine.window_until is 'First UTC day no longer asked for; NULL for the present.';
comment on column mart.quarantine.description is 'What the figure belongs to (wolkvox), as delivered; NULL when unknown.';
comment on column mart.quarantine.is_dismissed is 'Whether a person settled it as not wanted.';

create or replace view mart.freshness as
select
    w.source,
    w.dataset,
    w.scope,
    w.watermark,
    w.last_success_at,
    w.next_due_at,
    clock.now_at - w.watermark as lag,
    case
        when r.status = 'failed' then 'failing'
        when w.last_success_at is null then 'never'
        when w.next_due_at < clock.now_at then 'late'
        else 'ok'
    end as status,
    w.account,
    round(extract(epoch from clock.now_at - w.watermark) / 3600, 3) as lag_hours,
    w.last_run_id
from ops.watermark as w
cross join (select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock) as clock
left join ops.run as r on r.run_id = w.last_run_id;
comment on column mart.freshness.last_run_id is 'The newest run that counts for it; NULL before the first one.';

-- Pages of runs that went wrong, and of what was refused, newest first.
create index run_trouble_idx on ops.run (run_id) where status <> 'ok';
create index quarantine_newest_idx on ops.quarantine (quarantined_at, quarantine_id) where resolved_at is null;

-- +goose Down
drop index ops.quarantine_newest_idx;
drop index ops.run_trouble_idx;
drop view mart.freshness;
create view mart.freshness as
select
    w.source,
    w.dataset,
    w.scope,
    w.watermark,
    w.last_success_at,
    w.next_due_at,
    clock.now_at - w.watermark as lag,
    case
        when r.status = 'failed' then 'failing'
        when w.last_success_at is null then 'never'
        when w.next_due_at < clock.now_at then 'late'
        else 'ok'
    end as status,
    w.account,
    round(extract(epoch from clock.now_at - w.watermark) / 3600, 3) as lag_hours
from ops.watermark as w
cross join (select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock) as clock
left join ops.run as r on r.run_id = w.last_run_id;
comment on view mart.freshness is 'Grain: one row per dataset and scope: how far it is loaded and when it is due.';
comment on column mart.freshness.source is 'Vendor: keystone or wolkvox.';
comment on column mart.freshness.dataset is 'Report of the vendor.';
comment on column mart.freshness.scope is 'Customer id or account.';
comment on column mart.freshness.watermark is 'Up to when every expected day was answered (history) or the last reading (others), UTC; NULL before.';
comment on column mart.freshness.last_success_at is 'Last run that loaded, UTC; NULL before.';
comment on column mart.freshness.next_due_at is 'When it is due next, UTC; NULL without a schedule.';
comment on column mart.freshness.lag is 'How far the watermark is behind now.';
comment on column mart.freshness.status is 'ok; late (due and not done); failing (the last run failed); never (nothing loaded yet).';
comment on column mart.freshness.account is 'Configured account.';
comment on column mart.freshness.lag_hours is 'lag in hours, 3 decimals: many BI tools cannot chart an interval.';
drop view mart.quarantine;
create view mart.quarantine as
select
    q.quarantine_id,
    q.run_id,
    q.source,
    q.dataset,
    q.scope,
    q.path,
    q.reason,
    q.excerpt,
    q.quarantined_at,
    q.resolved_at,
    q.resolution,
    q.product,
    q.subscription_number,
    q.service_level,
    q.day
from ops.quarantine as q;
comment on view mart.quarantine is 'Grain: one row per record that was refused. Open while resolved_at is NULL.';
comment on column mart.quarantine.quarantine_id is 'Number for meterhouse quarantine show.';
comment on column mart.quarantine.run_id is 'The run that met it first.';
comment on column mart.quarantine.source is 'Vendor: keystone or wolkvox.';
comment on column mart.quarantine.dataset is 'Report of the vendor.';
comment on column mart.quarantine.scope is 'Customer id or account.';
comment on column mart.quarantine.path is 'JSON pointer into the answer.';
comment on column mart.quarantine.reason is 'Name of the rule that refused it.';
comment on column mart.quarantine.excerpt is 'The refused text, shortened.';
comment on column mart.quarantine.quarantined_at is 'When the answer was fetched, UTC.';
comment on column mart.quarantine.resolved_at is 'When it was settled, UTC; NULL while open.';
comment on column mart.quarantine.resolution is 'How it was settled; NULL while open.';
comment on column mart.quarantine.product is 'wolkvox product; empty for Keystone.';
comment on column mart.quarantine.subscription_number is 'Subscription, as far as known.';
comment on column mart.quarantine.service_level is 'Service level, as far as known.';
comment on column mart.quarantine.day is 'Day, as far as known.';
drop view mart.payload;
