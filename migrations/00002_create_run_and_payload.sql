-- Runs and the bodies they landed. New tables: locks nothing; nothing to replay.

-- +goose Up
create table ops.run (
    run_id bigint generated always as identity constraint run_pkey primary key,
    source text not null,
    dataset text not null,
    scope text not null,
    account text not null,
    window_from date,
    window_until date,
    status text not null default 'running',
    owner text not null,
    fence bigint not null,
    business_at timestamptz not null,
    fetched_at timestamptz,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    payload_id bigint,
    body_sha256 bytea,
    body_bytes bigint,
    received integer not null default 0,
    inserted integer not null default 0,
    restated integer not null default 0,
    unchanged integer not null default 0,
    ignored integer not null default 0,
    quarantined integer not null default 0,
    absent integer not null default 0,
    error text,
    constraint run_status_known check (status in ('running', 'ok', 'partial', 'failed')),
    constraint run_window_half_open check ((window_from is null) = (window_until is null) and window_from < window_until),
    constraint run_ends_once check ((status = 'running') = (finished_at is null)),
    constraint run_counts_not_negative check (
        least(received, inserted, restated, unchanged, ignored, quarantined, absent) >= 0
    ),
    -- No record may vanish between the vendor and the facts.
    constraint run_conserves_records check (received = inserted + restated + unchanged + ignored + quarantined)
);
create index run_dataset_scope_idx on ops.run (dataset, scope, fetched_at);
create index run_running_idx on ops.run (dataset, scope) where status = 'running';

comment on table ops.run is 'Grain: one row per attempt at one window of one dataset and scope, success or not.';
comment on column ops.run.run_id is 'Number of the run; every row that it wrote carries it.';
comment on column ops.run.source is 'Vendor: keystone or wolkvox.';
comment on column ops.run.dataset is 'Report of the vendor, such as keystone.history.';
comment on column ops.run.scope is 'Customer id for Keystone; account for its list of customers and for wolkvox.';
comment on column ops.run.account is 'Configured account whose credential was used.';
comment on column ops.run.window_from is 'First UTC day asked for; NULL where the vendor only tells the present.';
comment on column ops.run.window_until is 'First UTC day no longer asked for; NULL where the vendor only tells the present.';
comment on column ops.run.status is 'running, ok, partial (something quarantined, rejected in part or a count mismatch) or failed.';
comment on column ops.run.owner is 'Process that did it: host, process id and start.';
comment on column ops.run.fence is 'Number of the lease under which it ran; a newer number shuts out a late writer.';
comment on column ops.run.business_at is 'Business clock when the run began (equals the wall clock unless --now was given).';
comment on column ops.run.fetched_at is 'Business clock when the last answer of the run was whole; NULL when there was none.';
comment on column ops.run.started_at is 'Wall clock of the database when the run began.';
comment on column ops.run.finished_at is 'Wall clock of the database when the run ended; NULL while it is running.';
comment on column ops.run.payload_id is 'Landed body; NULL when the body brought no news or the run has several.';
comment on column ops.run.body_sha256 is 'SHA-256 of the body as sent; NULL when there is none or several.';
comment on column ops.run.body_bytes is 'Bytes received, decompressed, over all answers of the run; NULL when there is none.';
comment on column ops.run.received is 'Records in the answers at the dataset''s grain (history: samples).';
comment on column ops.run.inserted is 'Records that were new.';
comment on column ops.run.restated is 'Records that replaced a former value.';
comment on column ops.run.unchanged is 'Records that were stored already with the same value.';
comment on column ops.run.ignored is 'Exact duplicates, rows outside the window, blank rows, observations older than the stored one.';
comment on column ops.run.quarantined is 'Records refused by the acceptance rules; a refused parent counts once.';
comment on column ops.run.absent is 'Series, subscriptions or products that were stored before and not delivered this time.';
comment on column ops.run.error is 'Why the run failed or what part of it is missing; NULL when nothing is.';

create table ops.run_warning (
    run_id bigint not null constraint run_warning_run_fkey references ops.run (run_id) on delete cascade,
    warning text not null,
    occurrences integer not null constraint run_warning_occurs check (occurrences > 0),
    first_path text not null,
    constraint run_warning_pkey primary key (run_id, warning)
);
comment on table ops.run_warning is 'Grain: one row per run and kind of deviation that was accepted.';
comment on column ops.run_warning.run_id is 'The run.';
comment on column ops.run_warning.warning is 'Name of the deviation in the acceptance rules.';
comment on column ops.run_warning.occurrences is 'How often it was met in the run.';
comment on column ops.run_warning.first_path is 'JSON pointer, or key, of the first place.';

create table raw.payload (
    payload_id bigint generated by default as identity constraint payload_pkey primary key,
    run_id bigint not null constraint payload_run_fkey references ops.run (run_id),
    source text not null,
    dataset text not null,
    scope text not null,
    account text not null,
    product text not null default '',
    window_from date,
    window_until date,
    method text not null,
    url text not null,
    requested_at timestamptz not null,
    fetched_at timestamptz not null,
    status integer not null,
    content_type text not null,
    body_bytes bigint not null,
    body_sha256 bytea not null,
    body_zstd bytea not null
);
alter table raw.payload alter column body_zstd set storage external; -- compressed already
create index payload_dataset_scope_idx on raw.payload (dataset, scope, payload_id);
create index payload_run_idx on raw.payload (run_id);

comment on table raw.payload is 'Grain: one row per answer of a vendor that was kept. Never updated.';
comment on column raw.payload.payload_id is 'Number of the body; later bodies have greater numbers.';
comment on column raw.payload.run_id is 'The run that asked.';
comment on column raw.payload.source is 'Vendor: keystone or wolkvox.';
comment on column raw.payload.dataset is 'Report of the vendor.';
comment on column raw.payload.scope is 'Customer id or account, as in ops.run.';
comment on column raw.payload.account is 'Configured account whose credential was used.';
comment on column raw.payload.product is 'Product asked for (wolkvox api); empty where a call is not about one product.';
comment on column raw.payload.window_from is 'First UTC day asked for; NULL where the vendor only tells the present.';
comment on column raw.payload.window_until is 'First UTC day no longer asked for; NULL as above.';
comment on column raw.payload.method is 'HTTP method.';
comment on column raw.payload.url is 'URL without credentials.';
comment on column raw.payload.requested_at is 'Business clock when the request was sent.';
comment on column raw.payload.fetched_at is 'Business clock when the answer was whole.';
comment on column raw.payload.status is 'HTTP status.';
comment on column raw.payload.content_type is 'Media type as sent; empty when the vendor sent none.';
comment on column raw.payload.body_bytes is 'Bytes of the body as sent, decompressed.';
comment on column raw.payload.body_sha256 is 'SHA-256 of the body as sent, decompressed.';
comment on column raw.payload.body_zstd is 'The body as sent, as one zstd frame.';

-- +goose Down
drop table raw.payload;
drop table ops.run_warning;
drop table ops.run;
