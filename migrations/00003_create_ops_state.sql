-- What the loader remembers between runs. New tables: locks nothing; nothing to replay.

-- +goose Up
create table ops.clock (
    only_row boolean not null default true constraint clock_pkey primary key constraint clock_one_row check (only_row),
    fixed_at timestamptz
);
insert into ops.clock default values;
comment on table ops.clock is 'Grain: the one row that tells which clock the last run worked by.';
comment on column ops.clock.only_row is 'Always true: there is one row.';
comment on column ops.clock.fixed_at is 'Business clock of the newest run when it was fixed by --now; NULL when runs follow the wall clock. Views of freshness and coverage use it as now, unless a session sets meterhouse.now.';

create table ops.lease (
    dataset text not null,
    scope text not null,
    fence bigint not null,
    owner text not null,
    acquired_at timestamptz not null,
    expires_at timestamptz not null,
    constraint lease_pkey primary key (dataset, scope)
) with (fillfactor = 50); -- heartbeats update in place
comment on table ops.lease is 'Grain: one row per dataset and scope that was ever loaded: who may load it now.';
comment on column ops.lease.dataset is 'Report of the vendor.';
comment on column ops.lease.scope is 'Customer id or account, as in ops.run.';
comment on column ops.lease.fence is 'Grows with every taking; a load commits only under the newest.';
comment on column ops.lease.owner is 'Process that holds it: host, process id and start.';
comment on column ops.lease.acquired_at is 'When it was taken, by the clock of the database.';
comment on column ops.lease.expires_at is 'When it frees unless renewed, by the clock of the database; in the past when it is free.';

create table ops.watermark (
    source text not null,
    dataset text not null,
    scope text not null,
    account text not null,
    watermark timestamptz,
    last_success_at timestamptz,
    last_run_id bigint constraint watermark_run_fkey references ops.run (run_id),
    next_due_at timestamptz,
    expected_from date,
    settle interval not null default '0',
    zone text not null default 'UTC',
    constraint watermark_pkey primary key (dataset, scope)
) with (fillfactor = 70);
comment on table ops.watermark is 'Grain: one row per dataset and scope: how far it is complete and when it is due.';
comment on column ops.watermark.source is 'Vendor: keystone or wolkvox.';
comment on column ops.watermark.dataset is 'Report of the vendor.';
comment on column ops.watermark.scope is 'Customer id or account, as in ops.run.';
comment on column ops.watermark.account is 'Configured account.';
comment on column ops.watermark.watermark is 'Instant up to which every day since expected_from was answered (history) or the last reading (others); never moves back; NULL before the first success.';
comment on column ops.watermark.last_success_at is 'Business clock of the last run that loaded; NULL before the first.';
comment on column ops.watermark.last_run_id is 'The last run, successful or not.';
comment on column ops.watermark.next_due_at is 'When the schedule asks for it next; NULL without a schedule.';
comment on column ops.watermark.expected_from is 'First day that is expected: history.start for history, the day of the first reading for snapshots.';
comment on column ops.watermark.settle is 'How long after its end a day becomes due.';
comment on column ops.watermark.zone is 'Zone that the days are filed in.';

create table ops.coverage (
    source text not null,
    dataset text not null,
    scope text not null,
    product text not null default '',
    day date not null,
    status text not null,
    run_id bigint not null constraint coverage_run_fkey references ops.run (run_id),
    constraint coverage_pkey primary key (dataset, scope, product, day),
    constraint coverage_status_known check (status in ('answered', 'partial', 'empty'))
);
comment on table ops.coverage is 'Grain: one row per dataset, scope, product and day for which the vendor gave an answer.';
comment on column ops.coverage.source is 'Vendor: keystone or wolkvox.';
comment on column ops.coverage.dataset is 'Report of the vendor.';
comment on column ops.coverage.scope is 'Customer id or account, as in ops.run.';
comment on column ops.coverage.product is 'Product (wolkvox api); empty where a call is not about one product.';
comment on column ops.coverage.day is 'UTC day (Keystone) or local day of the operation (wolkvox).';
comment on column ops.coverage.status is 'answered, partial (records were quarantined) or empty (the vendor had nothing). The best answer of the day counts.';
comment on column ops.coverage.run_id is 'The run that gave this status.';

create table ops.quarantine (
    quarantine_id bigint generated always as identity constraint quarantine_pkey primary key,
    run_id bigint not null constraint quarantine_run_fkey references ops.run (run_id),
    payload_id bigint constraint quarantine_payload_fkey references raw.payload (payload_id),
    source text not null,
    dataset text not null,
    scope text not null,
    product text not null default '',
    window_from date,
    window_until date,
    path text not null,
    reason text not null,
    excerpt text not null,
    subscription_number text,
    service_level text,
    description text,
    day date,
    fingerprint bytea not null,
    quarantined_at timestamptz not null,
    resolved_at timestamptz,
    resolution text,
    constraint quarantine_resolved_with_word check ((resolved_at is null) = (resolution is null))
);
create unique index quarantine_open_idx on ops.quarantine (dataset, scope, product, fingerprint) where resolved_at is null;
create index quarantine_run_idx on ops.quarantine (run_id);
comment on table ops.quarantine is 'Grain: one row per record that was refused; the same refusal met again while open is not repeated.';
comment on column ops.quarantine.quarantine_id is 'Number for quarantine show, retry and dismiss.';
comment on column ops.quarantine.run_id is 'The run that met it first.';
comment on column ops.quarantine.payload_id is 'The landed body that holds it.';
comment on column ops.quarantine.source is 'Vendor: keystone or wolkvox.';
comment on column ops.quarantine.dataset is 'Report of the vendor.';
comment on column ops.quarantine.scope is 'Customer id or account, as in ops.run.';
comment on column ops.quarantine.product is 'Product (wolkvox api); empty where a call is not about one product.';
comment on column ops.quarantine.window_from is 'First UTC day of the window that was asked; NULL where there is none.';
comment on column ops.quarantine.window_until is 'First UTC day after that window; NULL where there is none.';
comment on column ops.quarantine.path is 'JSON pointer to the record or member in the body.';
comment on column ops.quarantine.reason is 'Name of the rule that refused it.';
comment on column ops.quarantine.excerpt is 'The refused text, at most 500 characters, control characters replaced.';
comment on column ops.quarantine.subscription_number is 'Subscription it belongs to, as far as known.';
comment on column ops.quarantine.service_level is 'Service level it belongs to, as far as known.';
comment on column ops.quarantine.description is 'Description of the licence row, as far as known.';
comment on column ops.quarantine.day is 'Day it belongs to, as far as known.';
comment on column ops.quarantine.fingerprint is 'SHA-256 of what was refused, about what and why; tells whether a later answer repeats it.';
comment on column ops.quarantine.quarantined_at is 'Business clock of the answer that held it.';
comment on column ops.quarantine.resolved_at is 'Business clock when it was settled; NULL while open.';
comment on column ops.quarantine.resolution is 'How it was settled: superseded by a later answer, retried, or dismissed with a reason; NULL while open.';

create table ops.schema_drift (
    dataset text not null,
    path text not null,
    first_run_id bigint not null constraint schema_drift_run_fkey references ops.run (run_id),
    first_seen_at timestamptz not null,
    constraint schema_drift_pkey primary key (dataset, path)
);
comment on table ops.schema_drift is 'Grain: one row per member of a vendor''s answers that no document describes.';
comment on column ops.schema_drift.dataset is 'Report of the vendor.';
comment on column ops.schema_drift.path is 'JSON pointer with * for every array index.';
comment on column ops.schema_drift.first_run_id is 'The run that met it first.';
comment on column ops.schema_drift.first_seen_at is 'Business clock of that answer.';

create table ops.credential (
    account text not null,
    generation bigint not null constraint credential_generation_counts check (generation > 0),
    refresh_sealed bytea not null,
    access_sealed bytea,
    access_expires_at timestamptz,
    obtained_at timestamptz not null,
    source text not null,
    seeded_at timestamptz not null,
    fingerprint text not null,
    key_id text not null,
    constraint credential_pkey primary key (account, generation),
    constraint credential_source_known check (source in ('seed', 'refresh')),
    constraint credential_access_expires check ((access_sealed is null) = (access_expires_at is null))
);
comment on table ops.credential is 'Grain: one row per account and generation of its token chain. Append-only; the greatest generation is current.';
comment on column ops.credential.account is 'Configured Keystone account (one login).';
comment on column ops.credential.generation is '1 is the first pair; each exchange or new seed adds one.';
comment on column ops.credential.refresh_sealed is 'Refresh token, AES-256-GCM, bound to account, generation, field and key.';
comment on column ops.credential.access_sealed is 'Access token, sealed the same way; NULL when there is none.';
comment on column ops.credential.access_expires_at is 'Wall clock at which the access token dies; NULL without one.';
comment on column ops.credential.obtained_at is 'Wall clock at which the pair was received; the refresh token dies 7 days later or when used.';
comment on column ops.credential.source is 'seed: a person logged in; refresh: exchanged by us.';
comment on column ops.credential.seeded_at is 'Wall clock at which a person last logged in for this chain; the vendor asks again after 90 days.';
comment on column ops.credential.fingerprint is 'Keyed hash of the refresh token: tells whether a token was seen, without opening it.';
comment on column ops.credential.key_id is 'Which secrets key sealed it.';

create table ops.credential_attempt (
    attempt_id bigint generated always as identity constraint credential_attempt_pkey primary key,
    account text not null,
    from_generation bigint not null,
    owner text not null,
    spool text not null default '',
    started_at timestamptz not null default clock_timestamp(),
    deadline_at timestamptz not null,
    state text not null default 'open',
    detail text not null default '',
    ended_at timestamptz,
    constraint credential_attempt_generation_fkey foreign key (account, from_generation) references ops.credential (account, generation),
    constraint credential_attempt_state_known check (state in ('open', 'ambiguous', 'done', 'rejected', 'superseded', 'abandoned'))
);
create unique index credential_attempt_one_open_idx on ops.credential_attempt (account) where state in ('open', 'ambiguous');
create index credential_attempt_account_idx on ops.credential_attempt (account, attempt_id);
comment on table ops.credential_attempt is 'Grain: one row per intended exchange of a refresh token, written before it is sent. At most one per account is open or ambiguous.';
comment on column ops.credential_attempt.attempt_id is 'Number of the attempt.';
comment on column ops.credential_attempt.account is 'Configured Keystone account.';
comment on column ops.credential_attempt.from_generation is 'Generation whose refresh token is spent.';
comment on column ops.credential_attempt.owner is 'Process that makes it.';
comment on column ops.credential_attempt.spool is 'Spool that will hold the raw answer; empty when there is none.';
comment on column ops.credential_attempt.started_at is 'Wall clock at which it was recorded.';
comment on column ops.credential_attempt.deadline_at is 'Wall clock after which nothing may still be sent.';
comment on column ops.credential_attempt.state is 'open, ambiguous (answer lost), done, rejected (chain dead), superseded, or abandoned (nothing of this generation was sent).';
comment on column ops.credential_attempt.detail is 'Why it ended so; never a token.';
comment on column ops.credential_attempt.ended_at is 'Wall clock at which it left the state open; NULL before.';

-- +goose Down
drop table ops.credential_attempt;
drop table ops.credential;
drop table ops.schema_drift;
drop table ops.quarantine;
drop table ops.coverage;
drop table ops.watermark;
drop table ops.lease;
drop table ops.clock;
