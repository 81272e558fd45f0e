-- Facts. The customer (or operation) comes first in every key, facts refer to dimensions only, and
-- no fact has a trigger, so that they can be distributed by that key later. Fillfactor 90 lets a
-- flip of is_invoiced be a HOT update. New tables: locks nothing; nothing to replay.

-- +goose Up
create table dw.fact_subscription (
    customer_key bigint not null constraint fact_subscription_customer_fkey references dw.dim_customer (customer_key),
    subscription_key bigint not null constraint fact_subscription_subscription_fkey references dw.dim_subscription (subscription_key),
    valid_from timestamptz not null,
    valid_to timestamptz,
    account_name text,
    start_at timestamptz,
    end_at timestamptz,
    start_text text,
    end_text text,
    run_id bigint not null,
    payload_id bigint,
    absent_since timestamptz,
    constraint fact_subscription_pkey primary key (customer_key, subscription_key, valid_from),
    constraint fact_subscription_valid_forward check (valid_from < valid_to)
) with (fillfactor = 90);
create unique index fact_subscription_current_idx on dw.fact_subscription (customer_key, subscription_key) where valid_to is null;
comment on table dw.fact_subscription is 'Grain: one row per subscription and version of its terms; versions do not overlap.';
comment on column dw.fact_subscription.customer_key is 'The customer.';
comment on column dw.fact_subscription.subscription_key is 'The subscription.';
comment on column dw.fact_subscription.valid_from is 'Business clock of the first answer that told these terms.';
comment on column dw.fact_subscription.valid_to is 'Business clock of the answer that told others; NULL for the current version.';
comment on column dw.fact_subscription.account_name is 'Account name as delivered; NULL when the vendor does not say.';
comment on column dw.fact_subscription.start_at is 'Start of the term, UTC; NULL when missing or unreadable.';
comment on column dw.fact_subscription.end_at is 'End of the term, UTC; NULL when open-ended or unreadable. Not a hard cut-off: the vendor''s portals differ by a day.';
comment on column dw.fact_subscription.start_text is 'Start as delivered.';
comment on column dw.fact_subscription.end_text is 'End as delivered.';
comment on column dw.fact_subscription.run_id is 'The run that wrote it.';
comment on column dw.fact_subscription.payload_id is 'The landed body; NULL when it was not kept.';
comment on column dw.fact_subscription.absent_since is 'Business clock since which the vendor no longer lists it; NULL while listed.';

create table dw.fact_commitment (
    customer_key bigint not null constraint fact_commitment_customer_fkey references dw.dim_customer (customer_key),
    service_level_key bigint not null constraint fact_commitment_level_fkey references dw.dim_service_level (service_level_key),
    valid_from timestamptz not null,
    valid_to timestamptz,
    committed_tib numeric not null,
    run_id bigint not null,
    payload_id bigint,
    absent_since timestamptz,
    constraint fact_commitment_pkey primary key (customer_key, service_level_key, valid_from),
    constraint fact_commitment_valid_forward check (valid_from < valid_to),
    constraint fact_commitment_finite check (committed_tib > '-Infinity' and committed_tib < 'Infinity')
) with (fillfactor = 90);
create unique index fact_commitment_current_idx on dw.fact_commitment (customer_key, service_level_key) where valid_to is null;
comment on table dw.fact_commitment is 'Grain: one row per level instance and version of its committed capacity; versions do not overlap.';
comment on column dw.fact_commitment.customer_key is 'The customer.';
comment on column dw.fact_commitment.service_level_key is 'The level instance.';
comment on column dw.fact_commitment.valid_from is 'Business clock of the first answer that told this capacity. The vendor gives no effective date.';
comment on column dw.fact_commitment.valid_to is 'Business clock of the answer that told another; NULL for the current version.';
comment on column dw.fact_commitment.committed_tib is 'TiB committed (1024^4 bytes).';
comment on column dw.fact_commitment.run_id is 'The run that wrote it.';
comment on column dw.fact_commitment.payload_id is 'The landed body; NULL when it was not kept.';
comment on column dw.fact_commitment.absent_since is 'Business clock since which the vendor no longer lists the level; NULL while listed.';

create table dw.fact_service_level (
    customer_key bigint not null constraint fact_service_level_customer_fkey references dw.dim_customer (customer_key),
    service_level_key bigint not null constraint fact_service_level_level_fkey references dw.dim_service_level (service_level_key),
    observed_at timestamptz not null,
    payload_id bigint not null,
    read_at timestamptz,
    fetched_at timestamptz not null,
    committed_tib numeric not null,
    consumed_tib numeric not null,
    burst_tib numeric,
    accrued_burst_tib numeric,
    superseded_at timestamptz,
    run_id bigint not null,
    constraint fact_service_level_pkey primary key (customer_key, service_level_key, observed_at, payload_id),
    constraint fact_service_level_finite check (
        committed_tib > '-Infinity' and committed_tib < 'Infinity' and consumed_tib > '-Infinity' and consumed_tib < 'Infinity'
        and burst_tib > '-Infinity' and burst_tib < 'Infinity' and accrued_burst_tib > '-Infinity' and accrued_burst_tib < 'Infinity'
    )
) with (fillfactor = 90);
create unique index fact_service_level_current_idx on dw.fact_service_level (customer_key, service_level_key, observed_at)
    where superseded_at is null;
comment on table dw.fact_service_level is 'Grain: one row per level instance, vendor reading time and version of that reading (one version is current).';
comment on column dw.fact_service_level.customer_key is 'The customer.';
comment on column dw.fact_service_level.service_level_key is 'The level instance.';
comment on column dw.fact_service_level.observed_at is 'Reading time, UTC; the time of the answer where the vendor gives none.';
comment on column dw.fact_service_level.payload_id is 'The landed body that told this version.';
comment on column dw.fact_service_level.read_at is 'Reading time as the vendor gives it, UTC; NULL when it gives none.';
comment on column dw.fact_service_level.fetched_at is 'Business clock of the first answer that told this version.';
comment on column dw.fact_service_level.committed_tib is 'TiB committed.';
comment on column dw.fact_service_level.consumed_tib is 'TiB in use at the reading; average over time, never sum.';
comment on column dw.fact_service_level.burst_tib is 'TiB above the commitment as the vendor says; NULL when it does not.';
comment on column dw.fact_service_level.accrued_burst_tib is 'Accrued burst of the running billing cycle as the vendor says (TiB for a month); NULL when it does not.';
comment on column dw.fact_service_level.superseded_at is 'Business clock of the answer that told another value for the same reading; NULL for the current version.';
comment on column dw.fact_service_level.run_id is 'The run that wrote it.';

create table dw.fact_consumption_sample (
    customer_key bigint not null constraint fact_consumption_sample_customer_fkey references dw.dim_customer (customer_key),
    service_level_key bigint not null constraint fact_consumption_sample_level_fkey references dw.dim_service_level (service_level_key),
    sampled_at timestamptz not null,
    committed_tib numeric not null,
    consumed_tib numeric not null,
    burst_tib numeric,
    accrued_burst_tib numeric,
    is_invoiced boolean,
    constraint fact_consumption_sample_pkey primary key (customer_key, service_level_key, sampled_at),
    constraint fact_consumption_sample_finite check (
        committed_tib > '-Infinity' and committed_tib < 'Infinity' and consumed_tib > '-Infinity' and consumed_tib < 'Infinity'
        and burst_tib > '-Infinity' and burst_tib < 'Infinity' and accrued_burst_tib > '-Infinity' and accrued_burst_tib < 'Infinity'
    )
) partition by range (sampled_at);
comment on table dw.fact_consumption_sample is 'Grain: one row per level instance and timestamp as delivered by history. Monthly partitions.';
comment on column dw.fact_consumption_sample.customer_key is 'The customer.';
comment on column dw.fact_consumption_sample.service_level_key is 'The level instance.';
comment on column dw.fact_consumption_sample.sampled_at is 'The vendor''s timestamp, UTC.';
comment on column dw.fact_consumption_sample.committed_tib is 'TiB committed at that time.';
comment on column dw.fact_consumption_sample.consumed_tib is 'TiB in use; average over time, never sum.';
comment on column dw.fact_consumption_sample.burst_tib is 'TiB above the commitment as the vendor says; NULL when it does not.';
comment on column dw.fact_consumption_sample.accrued_burst_tib is 'Accrued burst as delivered: an increment or a running total, see dw.accrued_reading; NULL when not told.';
comment on column dw.fact_consumption_sample.is_invoiced is 'Whether the vendor has invoiced it; NULL when not told.';

create table dw.fact_daily_consumption (
    customer_key bigint not null constraint fact_daily_consumption_customer_fkey references dw.dim_customer (customer_key),
    service_level_key bigint not null constraint fact_daily_consumption_level_fkey references dw.dim_service_level (service_level_key),
    usage_date date not null,
    sample_count integer not null constraint fact_daily_consumption_has_samples check (sample_count > 0),
    step_seconds integer,
    committed_tib numeric not null,
    consumed_avg_tib numeric not null,
    consumed_max_tib numeric not null,
    consumed_last_tib numeric not null,
    burst_avg_tib numeric,
    over_committed_avg_tib numeric not null,
    accrued_sum_tib numeric,
    accrued_last_tib numeric,
    is_invoiced boolean,
    invoiced_samples integer not null,
    uninvoiced_samples integer not null,
    invoiced_known_since timestamptz,
    digest bytea,
    pending_digest bytea,
    pending_at timestamptz,
    known_since timestamptz not null,
    payload_id bigint not null,
    run_id bigint not null,
    restatement_count integer not null default 0,
    absent_since timestamptz,
    constraint fact_daily_consumption_pkey primary key (customer_key, service_level_key, usage_date),
    constraint fact_daily_consumption_counts_flags check (
        invoiced_samples >= 0 and uninvoiced_samples >= 0 and invoiced_samples + uninvoiced_samples <= sample_count
    ),
    constraint fact_daily_consumption_pending_whole check ((pending_digest is null) = (pending_at is null)),
    constraint fact_daily_consumption_finite check (
        committed_tib > '-Infinity' and committed_tib < 'Infinity'
        and consumed_avg_tib > '-Infinity' and consumed_avg_tib < 'Infinity'
        and consumed_max_tib > '-Infinity' and consumed_max_tib < 'Infinity'
        and consumed_last_tib > '-Infinity' and consumed_last_tib < 'Infinity'
        and burst_avg_tib > '-Infinity' and burst_avg_tib < 'Infinity'
        and over_committed_avg_tib >= 0 and over_committed_avg_tib < 'Infinity'
        and accrued_sum_tib > '-Infinity' and accrued_sum_tib < 'Infinity'
        and accrued_last_tib > '-Infinity' and accrued_last_tib < 'Infinity'
    )
) with (fillfactor = 90);
comment on table dw.fact_daily_consumption is 'Grain: one row per level instance and UTC day that was observed. A missing day has no row here; see mart.coverage.';
comment on column dw.fact_daily_consumption.customer_key is 'The customer.';
comment on column dw.fact_daily_consumption.service_level_key is 'The level instance.';
comment on column dw.fact_daily_consumption.usage_date is 'UTC day.';
comment on column dw.fact_daily_consumption.sample_count is 'Samples of the day.';
comment on column dw.fact_daily_consumption.step_seconds is 'Median distance between neighbouring samples of the day; NULL with one sample.';
comment on column dw.fact_daily_consumption.committed_tib is 'TiB committed at the last sample of the day.';
comment on column dw.fact_daily_consumption.consumed_avg_tib is 'Mean TiB of the day''s samples, rounded once, half away from zero, to 12 decimals. Average over days, never sum.';
comment on column dw.fact_daily_consumption.consumed_max_tib is 'Greatest TiB of the day''s samples.';
comment on column dw.fact_daily_consumption.consumed_last_tib is 'TiB at the last sample of the day.';
comment on column dw.fact_daily_consumption.burst_avg_tib is 'Mean of the vendor''s burst, rounded as consumed_avg_tib; NULL when any sample lacks it.';
comment on column dw.fact_daily_consumption.over_committed_avg_tib is 'Mean of greatest(consumed - committed, 0) over the samples, rounded as consumed_avg_tib.';
comment on column dw.fact_daily_consumption.accrued_sum_tib is 'Sum of the vendor''s accrued column over the day; NULL when any sample lacks it.';
comment on column dw.fact_daily_consumption.accrued_last_tib is 'The vendor''s accrued column at the last sample; NULL when that lacks it.';
comment on column dw.fact_daily_consumption.is_invoiced is 'True when all samples are invoiced, false when any is known not to be; NULL when unknown.';
comment on column dw.fact_daily_consumption.invoiced_samples is 'Samples flagged as invoiced.';
comment on column dw.fact_daily_consumption.uninvoiced_samples is 'Samples flagged as not invoiced.';
comment on column dw.fact_daily_consumption.invoiced_known_since is 'Business clock since which the flags are as they are; NULL when they came with the figures.';
comment on column dw.fact_daily_consumption.digest is 'SHA-256 of the day''s measures in canonical order and spelling; NULL when a sample of the day was refused.';
comment on column dw.fact_daily_consumption.pending_digest is 'Digest of a later answer with fewer samples that waits for confirmation; NULL when none does.';
comment on column dw.fact_daily_consumption.pending_at is 'Business clock of that answer.';
comment on column dw.fact_daily_consumption.known_since is 'Business clock of the first answer that told these figures.';
comment on column dw.fact_daily_consumption.payload_id is 'The landed body that told them.';
comment on column dw.fact_daily_consumption.run_id is 'The run that wrote them.';
comment on column dw.fact_daily_consumption.restatement_count is 'How often the vendor replaced figures of this day.';
comment on column dw.fact_daily_consumption.absent_since is 'Business clock since which the vendor no longer delivers the day; NULL while it does. The facts stay.';

create table dw.restatement (
    customer_key bigint not null constraint restatement_customer_fkey references dw.dim_customer (customer_key),
    restatement_id bigint generated always as identity,
    service_level_key bigint not null constraint restatement_level_fkey references dw.dim_service_level (service_level_key),
    usage_date date not null,
    kind text not null constraint restatement_kind_known check (kind in ('restated', 'late')),
    sample_count integer not null,
    step_seconds integer,
    committed_tib numeric not null,
    consumed_avg_tib numeric not null,
    consumed_max_tib numeric not null,
    consumed_last_tib numeric not null,
    burst_avg_tib numeric,
    over_committed_avg_tib numeric not null,
    accrued_sum_tib numeric,
    accrued_last_tib numeric,
    was_invoiced boolean,
    digest bytea,
    known_from timestamptz not null,
    known_until timestamptz not null,
    payload_id bigint not null,
    run_id bigint not null,
    constraint restatement_pkey primary key (customer_key, restatement_id),
    constraint restatement_known_forward check (known_from <= known_until)
);
create index restatement_day_idx on dw.restatement (customer_key, service_level_key, usage_date, known_from);
comment on table dw.restatement is 'Grain: one row per superseded version of a row of fact_daily_consumption.';
comment on column dw.restatement.customer_key is 'The customer.';
comment on column dw.restatement.restatement_id is 'Number of the version.';
comment on column dw.restatement.service_level_key is 'The level instance.';
comment on column dw.restatement.usage_date is 'UTC day.';
comment on column dw.restatement.kind is 'restated: the vendor gave other figures; late: samples were added to the ones known.';
comment on column dw.restatement.sample_count is 'Samples of the day in this version.';
comment on column dw.restatement.step_seconds is 'As in fact_daily_consumption.';
comment on column dw.restatement.committed_tib is 'As in fact_daily_consumption.';
comment on column dw.restatement.consumed_avg_tib is 'As in fact_daily_consumption.';
comment on column dw.restatement.consumed_max_tib is 'As in fact_daily_consumption.';
comment on column dw.restatement.consumed_last_tib is 'As in fact_daily_consumption.';
comment on column dw.restatement.burst_avg_tib is 'As in fact_daily_consumption.';
comment on column dw.restatement.over_committed_avg_tib is 'As in fact_daily_consumption.';
comment on column dw.restatement.accrued_sum_tib is 'As in fact_daily_consumption.';
comment on column dw.restatement.accrued_last_tib is 'As in fact_daily_consumption.';
comment on column dw.restatement.was_invoiced is 'Whether the superseded version was invoiced; NULL when unknown.';
comment on column dw.restatement.digest is 'Digest of the superseded version; NULL when it was partial.';
comment on column dw.restatement.known_from is 'Business clock of the first answer that told this version.';
comment on column dw.restatement.known_until is 'Business clock of the answer that told the next version.';
comment on column dw.restatement.payload_id is 'The landed body that told this version.';
comment on column dw.restatement.run_id is 'The run that superseded it.';

create table dw.accrued_reading (
    account text not null,
    month date not null constraint accrued_reading_month_starts check (extract(day from month) = 1),
    reading text not null constraint accrued_reading_known check (reading in ('increment', 'running')),
    decided_by text not null,
    decided_at timestamptz not null default now(),
    reason text not null,
    constraint accrued_reading_pkey primary key (account, month)
);
comment on table dw.accrued_reading is 'Grain: one row per account and calendar month for which it was decided how the vendor''s accrued column is read. No row: increment.';
comment on column dw.accrued_reading.account is 'Configured Keystone account.';
comment on column dw.accrued_reading.month is 'First day of the UTC month.';
comment on column dw.accrued_reading.reading is 'increment: a day''s figure is the sum of its samples; running: the difference of the last samples of neighbouring days.';
comment on column dw.accrued_reading.decided_by is 'Who decided.';
comment on column dw.accrued_reading.decided_at is 'When.';
comment on column dw.accrued_reading.reason is 'On what evidence.';

create table dw.fact_license_reading (
    operation_key bigint not null constraint fact_license_reading_operation_fkey references dw.dim_operation (operation_key),
    product_key bigint not null constraint fact_license_reading_product_fkey references dw.dim_product (product_key),
    description text collate "C" not null,
    reading_date date not null,
    read_at timestamptz not null,
    items numeric not null,
    items_text text not null,
    payload_id bigint not null,
    run_id bigint not null,
    constraint fact_license_reading_pkey primary key (operation_key, product_key, description, reading_date, read_at),
    constraint fact_license_reading_finite check (items >= 0 and items < 'Infinity')
) with (fillfactor = 90);
comment on table dw.fact_license_reading is 'Grain: one row per operation, product, description, local day and reading that was accepted. Never updated: the vendor cannot repeat a reading.';
comment on column dw.fact_license_reading.operation_key is 'The operation.';
comment on column dw.fact_license_reading.product_key is 'The product.';
comment on column dw.fact_license_reading.description is 'What the figure belongs to, as delivered.';
comment on column dw.fact_license_reading.reading_date is 'Day in the operation''s zone that the vendor dates the reading.';
comment on column dw.fact_license_reading.read_at is 'Business clock of the answer.';
comment on column dw.fact_license_reading.items is 'Amount in the product''s unit; durations in minutes. A counter is month to date.';
comment on column dw.fact_license_reading.items_text is 'Amount as delivered.';
comment on column dw.fact_license_reading.payload_id is 'The landed body.';
comment on column dw.fact_license_reading.run_id is 'The run that wrote it.';

create table dw.fact_license_snapshot (
    operation_key bigint not null constraint fact_license_snapshot_operation_fkey references dw.dim_operation (operation_key),
    product_key bigint not null constraint fact_license_snapshot_product_fkey references dw.dim_product (product_key),
    description text collate "C" not null,
    snapshot_date date not null,
    items numeric not null,
    items_text text not null,
    items_min numeric not null,
    items_max numeric not null,
    reading_count integer not null,
    read_at timestamptz not null,
    payload_id bigint not null,
    run_id bigint not null,
    constraint fact_license_snapshot_pkey primary key (operation_key, product_key, description, snapshot_date),
    constraint fact_license_snapshot_ordered check (
        0 <= items_min and items_min <= items and items <= items_max
        and items_min < 'Infinity' and items < 'Infinity' and items_max < 'Infinity'
    )
) with (fillfactor = 90);
comment on table dw.fact_license_snapshot is 'Grain: one row per operation, product, description and local day: the last good reading with the least and greatest of the day.';
comment on column dw.fact_license_snapshot.operation_key is 'The operation.';
comment on column dw.fact_license_snapshot.product_key is 'The product.';
comment on column dw.fact_license_snapshot.description is 'What the figure belongs to, as delivered.';
comment on column dw.fact_license_snapshot.snapshot_date is 'Day in the operation''s zone.';
comment on column dw.fact_license_snapshot.items is 'Amount at the last reading of the day, in the product''s unit. A counter is month to date: never sum over days.';
comment on column dw.fact_license_snapshot.items_text is 'Amount as delivered.';
comment on column dw.fact_license_snapshot.items_min is 'Least amount of the day''s readings.';
comment on column dw.fact_license_snapshot.items_max is 'Greatest amount of the day''s readings.';
comment on column dw.fact_license_snapshot.reading_count is 'Readings of the day.';
comment on column dw.fact_license_snapshot.read_at is 'Business clock of the last reading.';
comment on column dw.fact_license_snapshot.payload_id is 'The landed body of the last reading.';
comment on column dw.fact_license_snapshot.run_id is 'The run that wrote it last.';

-- +goose StatementBegin
create function dw.daily_consumption_as_of(as_of timestamptz)
returns table (
    customer_key bigint, service_level_key bigint, usage_date date, sample_count integer, committed_tib numeric,
    consumed_avg_tib numeric, consumed_max_tib numeric, consumed_last_tib numeric, burst_avg_tib numeric,
    over_committed_avg_tib numeric, accrued_sum_tib numeric, accrued_last_tib numeric, known_since timestamptz
)
language sql stable
set search_path = pg_catalog
as $$
    select
        d.customer_key, d.service_level_key, d.usage_date, d.sample_count, d.committed_tib,
        d.consumed_avg_tib, d.consumed_max_tib, d.consumed_last_tib, d.burst_avg_tib,
        d.over_committed_avg_tib, d.accrued_sum_tib, d.accrued_last_tib, d.known_since
    from dw.fact_daily_consumption as d
    where d.known_since <= as_of

    union all

    select
        r.customer_key, r.service_level_key, r.usage_date, r.sample_count, r.committed_tib,
        r.consumed_avg_tib, r.consumed_max_tib, r.consumed_last_tib, r.burst_avg_tib,
        r.over_committed_avg_tib, r.accrued_sum_tib, r.accrued_last_tib, r.known_from
    from dw.restatement as r
    where r.known_from <= as_of and as_of < r.known_until
$$;
-- +goose StatementEnd
comment on function dw.daily_consumption_as_of(timestamptz) is 'The daily figures that were known at an instant: what we knew then.';

-- +goose Down
drop function dw.daily_consumption_as_of(timestamptz);
drop table dw.fact_license_snapshot;
drop table dw.fact_license_reading;
drop table dw.accrued_reading;
drop table dw.restatement;
drop table dw.fact_daily_consumption;
drop table dw.fact_consumption_sample;
drop table dw.fact_service_level;
drop table dw.fact_commitment;
drop table dw.fact_subscription;
