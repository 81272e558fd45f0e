-- An answer that repeats the last one word for word is not read again; its run says so. Adding columns takes
-- a short exclusive lock on ops.run, the index a lock against writers while it reads the table once. Nothing
-- to replay.

-- +goose Up
alter table ops.run add column reading_sha256 bytea;
alter table ops.run add column same_as bigint constraint run_same_as_fkey references ops.run (run_id);
alter table ops.run add constraint run_same_is_not_read check (same_as is null or (reading_sha256 is null and same_as < run_id));
create index run_reading_idx on ops.run (dataset, scope, window_from, window_until, run_id) where reading_sha256 is not null;
comment on column ops.run.reading_sha256 is 'SHA-256 of all that reading the answer depended on (its content, what was stored about the window, the rules), where the reading was whole and found nothing new; NULL otherwise. The same again would find nothing new either.';
comment on column ops.run.same_as is 'The run whose answer this one''s repeats word for word, but for its request id and response time, while all that was stored about the window was as it had been: it was not decoded, and its counts and warnings are those of that run. NULL when the answer was read.';

create or replace view mart.run as
select
    r.run_id,
    r.source,
    r.dataset,
    r.scope,
    r.window_from,
    r.window_until,
    r.status,
    r.started_at,
    r.finished_at,
    r.received,
    r.inserted,
    r.restated,
    r.unchanged,
    r.ignored,
    r.quarantined,
    r.absent,
    coalesce(w.warnings, '') as warnings,
    r.error,
    r.account,
    r.fetched_at,
    r.body_bytes,
    r.replay_of,
    coalesce(c.calls, '') as calls,
    r.same_as
from ops.run as r
left join lateral (
    select string_agg(format('%s %s', warning, occurrences), ', ' order by warning) as warnings
    from ops.run_warning
    where run_id = r.run_id
) as w on true
left join lateral (
    select string_agg(format('%s %s', class, calls), ', ' order by class) as calls
    from ops.run_call
    where run_id = r.run_id
) as c on true;
comment on column mart.run.same_as is 'The run whose answer was repeated word for word, so that nobody read this one; NULL when it was read.';

-- +goose Down
drop view mart.run;
create view mart.run as
select
    r.run_id,
    r.source,
    r.dataset,
    r.scope,
    r.window_from,
    r.window_until,
    r.status,
    r.started_at,
    r.finished_at,
    r.received,
    r.inserted,
    r.restated,
    r.unchanged,
    r.ignored,
    r.quarantined,
    r.absent,
    coalesce(w.warnings, '') as warnings,
    r.error,
    r.account,
    r.fetched_at,
    r.body_bytes,
    r.replay_of,
    coalesce(c.calls, '') as calls
from ops.run as r
left join lateral (
    select string_agg(format('%s %s', warning, occurrences), ', ' order by warning) as warnings
    from ops.run_warning
    where run_id = r.run_id
) as w on true
left join lateral (
    select string_agg(format('%s %s', class, calls), ', ' order by class) as calls
    from ops.run_call
    where run_id = r.run_id
) as c on true;
comment on view mart.run is 'Grain: one row per attempt at one window. received = inserted + restated + unchanged + ignored + quarantined.';
comment on column mart.run.run_id is 'Number of the run.';
comment on column mart.run.source is 'Vendor: keystone or wolkvox.';
comment on column mart.run.dataset is 'Report of the vendor.';
comment on column mart.run.scope is 'Customer id or account.';
comment on column mart.run.window_from is 'First UTC day asked for; NULL for the present.';
comment on column mart.run.window_until is 'First UTC day no longer asked for; NULL for the present.';
comment on column mart.run.status is 'running, ok, partial or failed.';
comment on column mart.run.started_at is 'When it began, UTC, wall clock.';
comment on column mart.run.finished_at is 'When it ended, UTC, wall clock; NULL while running.';
comment on column mart.run.received is 'Records in the answers (history: samples).';
comment on column mart.run.inserted is 'Records that were new.';
comment on column mart.run.restated is 'Records that replaced a former value.';
comment on column mart.run.unchanged is 'Records that were stored already.';
comment on column mart.run.ignored is 'Exact duplicates, rows outside the window, blank rows, older observations.';
comment on column mart.run.quarantined is 'Records that were refused.';
comment on column mart.run.absent is 'Series, subscriptions or products that were expected and not delivered.';
comment on column mart.run.warnings is 'Deviations that were accepted, each with its count; empty when there were none.';
comment on column mart.run.error is 'Why it failed or what part is missing; NULL when nothing is.';
comment on column mart.run.account is 'Configured account.';
comment on column mart.run.fetched_at is 'When the last answer was whole, UTC, business clock.';
comment on column mart.run.body_bytes is 'Bytes received, decompressed.';
comment on column mart.run.replay_of is 'The run whose landed bodies this one read again; NULL when the vendor was asked.';
comment on column mart.run.calls is 'HTTP exchanges with the vendor by what became of them, each with its count; empty when there were none.';
alter table ops.run drop column same_as;
alter table ops.run drop column reading_sha256;
