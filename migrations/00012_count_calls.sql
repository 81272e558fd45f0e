-- What each run asked of its vendor, and sums that stay when old runs go: counters of a monitor must
-- not fall, and must not cost a scan of all runs. Reads ops.run once to begin the sums (a second for
-- a million runs, during which runs cannot end); nothing to replay. Calls of runs before this are not
-- known and stay so.

-- +goose Up
create table ops.run_call (
    run_id bigint not null constraint run_call_run_fkey references ops.run (run_id) on delete cascade,
    class text not null,
    calls integer not null constraint run_call_counts check (calls > 0),
    constraint run_call_pkey primary key (run_id, class)
);
comment on table ops.run_call is 'Grain: one row per run and class of HTTP exchanges that it made with its vendor, retries and failures too. A replay or an import makes none; what a process asked that died in the run is not known.';
comment on column ops.run_call.run_id is 'The run.';
comment on column ops.run_call.class is 'What became of the exchange: ok, no_data, unauthorized, throttled, timeout, unavailable, contract, canceled, failed (for a reason of our own); token is an exchange of a refresh token, whatever became of it.';
comment on column ops.run_call.calls is 'How many there were.';

create table ops.run_total (
    source text not null,
    dataset text not null,
    scope text not null,
    account text not null,
    counted text not null,
    kind text not null,
    total bigint not null,
    constraint run_total_pkey primary key (dataset, scope, account, counted, kind),
    constraint run_total_counted_known check (counted in ('runs', 'records', 'calls')),
    constraint run_total_counts check (total > 0)
) with (fillfactor = 70); -- updated in place by every run
comment on table ops.run_total is 'Grain: one row per dataset, scope, account, kind of thing that is counted and kind of it: sums over all runs that ended. They never fall.';
comment on column ops.run_total.source is 'Vendor: keystone or wolkvox.';
comment on column ops.run_total.dataset is 'Report of the vendor.';
comment on column ops.run_total.scope is 'Customer id or account, as in ops.run.';
comment on column ops.run_total.account is 'Configured account whose credential was used.';
comment on column ops.run_total.counted is 'runs, records (of their answers, at the dataset''s grain) or calls (HTTP exchanges).';
comment on column ops.run_total.kind is 'Of runs the status, of records the outcome (inserted, restated, unchanged, ignored, quarantined), of calls the class as in ops.run_call.';
comment on column ops.run_total.total is 'How many there were, in all runs that ended since the first; calls since they are counted.';

-- The foreign key above locks ops.run until this is committed: no run ends meanwhile and is missing.
insert into ops.run_total (source, dataset, scope, account, counted, kind, total)
select r.source, r.dataset, r.scope, r.account, n.counted, n.kind, sum(n.total)
from ops.run as r
cross join lateral (
    values
        ('runs', r.status, 1),
        ('records', 'inserted', r.inserted),
        ('records', 'restated', r.restated),
        ('records', 'unchanged', r.unchanged),
        ('records', 'ignored', r.ignored),
        ('records', 'quarantined', r.quarantined)
) as n (counted, kind, total)
where r.status <> 'running'
group by r.source, r.dataset, r.scope, r.account, n.counted, n.kind
having sum(n.total) > 0;

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
comment on column mart.run.calls is 'HTTP exchanges with the vendor by what became of them, each with its count; empty when there were none.';

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
    r.replay_of
from ops.run as r
left join lateral (
    select string_agg(format('%s %s', warning, occurrences), ', ' order by warning) as warnings
    from ops.run_warning
    where run_id = r.run_id
) as w on true;
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
drop table ops.run_total;
drop table ops.run_call;
