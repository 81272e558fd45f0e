-- What repairs leave behind: a replay names the run it repeats, a figure that we read differently
-- from the same answer is told apart from one that the vendor restated, imported readings are marked,
-- and a dismissed refusal stays dismissed while the vendor repeats it. Adding columns and
-- constraints takes a short exclusive lock; checks scan ops.coverage and dw.restatement once.
-- Nothing to replay.

-- +goose Up
alter table ops.run add column replay_of bigint constraint run_replay_fkey references ops.run (run_id);
create index run_replay_idx on ops.run (replay_of) where replay_of is not null;
create index run_failed_idx on ops.run (dataset, scope) where status = 'failed';
comment on column ops.run.replay_of is 'The run whose landed bodies this one read again; NULL when the vendor was asked.';

create table ops.reread (
    reread_id bigint generated always as identity constraint reread_pkey primary key,
    run_id bigint not null constraint reread_run_fkey references ops.run (run_id),
    payload_id bigint not null,
    subject text not null,
    old_value text not null,
    new_value text,
    reread_at timestamptz not null
);
comment on table ops.reread is 'Grain: one row per figure that gave way because a landed answer was read differently later, or an import was corrected. Days of history have theirs in dw.restatement.';
comment on column ops.reread.reread_id is 'Number.';
comment on column ops.reread.run_id is 'The run that read it again.';
comment on column ops.reread.payload_id is 'The landed body that had told the old value; it may have been pruned since.';
comment on column ops.reread.subject is 'What the figure is about.';
comment on column ops.reread.old_value is 'As it was read before.';
comment on column ops.reread.new_value is 'As it is read now; NULL when the answer does not tell it any more.';
comment on column ops.reread.reread_at is 'Business clock of the rereading.';

alter table dw.restatement drop constraint restatement_kind_known;
alter table dw.restatement add constraint restatement_kind_known check (kind in ('restated', 'late', 'reread'));
comment on column dw.restatement.kind is 'restated: the vendor gave other figures; late: samples were added to the ones known; reread: the same answer is read differently now, as after an upgrade or a retry.';
comment on column mart.restatement.kind is 'restated: the vendor gave other figures; late: samples were added to the ones known; reread: the same answer is read differently now, as after an upgrade or a retry.';

alter table ops.quarantine add column is_dismissed boolean not null default false;
alter table ops.quarantine add constraint quarantine_dismissed_is_resolved check (not is_dismissed or resolved_at is not null);
create index quarantine_fingerprint_idx on ops.quarantine (dataset, scope, product, fingerprint);
comment on column ops.quarantine.is_dismissed is 'A person settled it: the same refusal met again is ignored.';

alter table dw.fact_license_reading add column is_imported boolean not null default false;
comment on column dw.fact_license_reading.is_imported is 'From a file that a person imported, not from the vendor''s interface.';
alter table dw.fact_license_snapshot add column is_imported boolean not null default false;
comment on column dw.fact_license_snapshot.is_imported is 'From an imported file: the day has no reading from the vendor''s interface.';
comment on column raw.payload.method is 'HTTP method; IMPORT for readings that a person imported from a file.';
comment on column raw.payload.url is 'URL without credentials; name of the file for an import.';

alter table ops.coverage drop constraint coverage_status_known;
alter table ops.coverage add constraint coverage_status_known check (status in ('answered', 'partial', 'empty', 'imported'));
comment on column ops.coverage.status is 'answered, partial (records were quarantined), empty (the vendor had nothing) or imported (from a file). The best answer of the day counts.';

create or replace view mart.restatement as
select
    c.customer_id,
    s.subscription_number,
    l.service_level,
    l.level_ordinal,
    r.usage_date,
    r.kind,
    changed.column_name,
    changed.old_value,
    changed.new_value,
    r.was_invoiced,
    r.known_from,
    r.known_until,
    s.discriminator
from dw.restatement as r
join dw.dim_service_level as l using (service_level_key)
join dw.dim_subscription as s using (subscription_key)
join dw.dim_customer as c on c.customer_key = r.customer_key
cross join lateral (
    -- The version that followed: the next one in the ledger that was not read anew, else the current daily row.
    select *
    from (
        (
            select
                1 as preference, n.sample_count, n.committed_tib, n.consumed_avg_tib, n.consumed_max_tib, n.consumed_last_tib,
                n.burst_avg_tib, n.over_committed_avg_tib, n.accrued_sum_tib, n.accrued_last_tib, n.was_invoiced as is_invoiced, n.digest
            from dw.restatement as n
            where n.customer_key = r.customer_key
                and n.service_level_key = r.service_level_key
                and n.usage_date = r.usage_date
                and n.kind <> 'reread'
                and (n.known_from, n.restatement_id) > (r.known_from, r.restatement_id)
            order by n.known_from, n.restatement_id
            limit 1
        )
        union all
        select
            2, d.sample_count, d.committed_tib, d.consumed_avg_tib, d.consumed_max_tib, d.consumed_last_tib,
            d.burst_avg_tib, d.over_committed_avg_tib, d.accrued_sum_tib, d.accrued_last_tib, d.is_invoiced, d.digest
        from dw.fact_daily_consumption as d
        where d.customer_key = r.customer_key
            and d.service_level_key = r.service_level_key
            and d.usage_date = r.usage_date
    ) as candidate
    order by preference
    limit 1
) as n
cross join lateral (
    values
        ('sample_count', r.sample_count::text, n.sample_count::text),
        ('committed_tib', r.committed_tib::text, n.committed_tib::text),
        ('consumed_avg_tib', r.consumed_avg_tib::text, n.consumed_avg_tib::text),
        ('consumed_max_tib', r.consumed_max_tib::text, n.consumed_max_tib::text),
        ('consumed_last_tib', r.consumed_last_tib::text, n.consumed_last_tib::text),
        ('burst_avg_tib', r.burst_avg_tib::text, n.burst_avg_tib::text),
        ('over_committed_avg_tib', r.over_committed_avg_tib::text, n.over_committed_avg_tib::text),
        ('accrued_sum_tib', r.accrued_sum_tib::text, n.accrued_sum_tib::text),
        ('accrued_last_tib', r.accrued_last_tib::text, n.accrued_last_tib::text),
        ('is_invoiced', r.was_invoiced::text, n.is_invoiced::text),
        ('samples', encode(r.digest, 'hex'), encode(n.digest, 'hex'))
) as changed (column_name, old_value, new_value)
where changed.old_value is distinct from changed.new_value;

create or replace view mart.license_snapshot as
select
    o.account,
    o.server,
    o.operation,
    p.api as product,
    f.description,
    p.unit,
    p.kind,
    f.snapshot_date,
    f.items,
    f.items_text,
    f.items_min,
    f.items_max,
    f.read_at,
    p.title,
    f.reading_count,
    f.is_imported
from dw.fact_license_snapshot as f
join dw.dim_operation as o using (operation_key)
join dw.dim_product as p using (product_key);
comment on column mart.license_snapshot.is_imported is 'Whether it is from an imported file: the day has no reading from the vendor''s interface.';

create or replace view mart.coverage as
with clock as (
    select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock -- max: the planner then knows that it is one row
),

-- Every level instance that was ever observed, from its first day to today or the end of its subscription.
series as (
    select
        w.source,
        w.dataset,
        w.account,
        w.settle,
        c.customer_id,
        s.subscription_number,
        l.service_level,
        l.customer_key,
        l.service_level_key,
        f.first_day,
        least(
            (clock.now_at at time zone 'UTC')::date,
            greatest(coalesce((s.end_at at time zone 'UTC')::date, 'infinity'), f.last_day) -- no end: never over
        ) as last_day
    from dw.dim_service_level as l
    join dw.dim_subscription as s using (subscription_key)
    join dw.dim_customer as c on c.customer_key = l.customer_key
    join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
    cross join clock
    cross join lateral (
        select min(d.usage_date) as first_day, max(d.usage_date) as last_day
        from dw.fact_daily_consumption as d
        where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key
    ) as f
    where f.first_day is not null
),

level_day as (
    select
        series.source,
        series.dataset,
        series.customer_id,
        series.subscription_number,
        series.service_level,
        series.account,
        null::text as product,
        days.day::date as day,
        case
            when d.digest is not null then 'observed'
            when d.usage_date is not null then 'partial'
            when (days.day + 1)::timestamp at time zone 'UTC' + series.settle > clock.now_at then 'not_due'
            else 'missing'
        end as status
    from series
    cross join clock
    cross join lateral (
        select series.first_day + i as day from generate_series(0, series.last_day - series.first_day) as i
    ) as days
    left join dw.fact_daily_consumption as d
        on d.customer_key = series.customer_key
        and d.service_level_key = series.service_level_key
        and d.usage_date = days.day
),

-- Days of a customer that no level can speak for: never answered, answered with nothing, or with refused records.
customer_day as (
    select
        w.source,
        w.dataset,
        w.scope as customer_id,
        null::text as subscription_number,
        null::text as service_level,
        w.account,
        null::text as product,
        days.day,
        case
            when cov.status is not null then cov.status
            when (days.day + 1)::timestamp at time zone 'UTC' + w.settle > clock.now_at then 'not_due'
            else 'missing'
        end as status
    from ops.watermark as w
    cross join clock
    cross join lateral (
        select w.expected_from + i as day
        from generate_series(0, (clock.now_at at time zone 'UTC')::date - w.expected_from) as i
    ) as days
    left join ops.coverage as cov
        on cov.dataset = w.dataset and cov.scope = w.scope and cov.product = '' and cov.day = days.day
    where w.dataset = 'keystone.history' and cov.status is distinct from 'answered'
),

-- Every product that was ever asked for, from its first day on. What was not read can no longer be read.
product_day as (
    select
        w.source,
        w.dataset,
        null::text as customer_id,
        null::text as subscription_number,
        null::text as service_level,
        w.account,
        asked.product,
        days.day,
        case
            when cov.status in ('answered', 'imported') then 'observed'
            when cov.status is not null then cov.status
            when days.day < (clock.now_at at time zone w.zone)::date then 'lost'
            else 'not_due'
        end as status
    from ops.watermark as w
    cross join clock
    join (
        select c.dataset, c.scope, c.product, min(c.day) as first_day
        from ops.coverage as c
        where c.product <> '' and c.status <> 'imported'
        group by c.dataset, c.scope, c.product
    ) as asked on asked.dataset = w.dataset and asked.scope = w.scope
    cross join lateral (
        select asked.first_day + i as day
        from generate_series(0, (clock.now_at at time zone w.zone)::date - asked.first_day) as i
    ) as days
    left join ops.coverage as cov
        on cov.dataset = w.dataset and cov.scope = w.scope and cov.product = asked.product and cov.day = days.day
    where w.dataset = 'wolkvox.billing'
),

-- Imported days before the product was first asked for. The days between them were never expected.
imported_day as (
    select
        c.source,
        c.dataset,
        null::text as customer_id,
        null::text as subscription_number,
        null::text as service_level,
        c.scope as account,
        c.product,
        c.day,
        'observed'::text as status
    from ops.coverage as c
    where c.status = 'imported'
        and not exists (
            select from ops.coverage as asked
            where asked.dataset = c.dataset and asked.scope = c.scope and asked.product = c.product
                and asked.status <> 'imported' and asked.day <= c.day
        )
)

select * from level_day
union all
select * from customer_day
union all
select * from product_day
union all
select * from imported_day;

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
    r.replay_of
from ops.run as r
left join lateral (
    select string_agg(format('%s %s', warning, occurrences), ', ' order by warning) as warnings
    from ops.run_warning
    where run_id = r.run_id
) as w on true;
comment on column mart.run.replay_of is 'The run whose landed bodies this one read again; NULL when the vendor was asked.';

-- +goose Down
-- Imported readings, rereadings and dismissals have no place in the former schema.
-- +goose StatementBegin
do $$
begin
    if exists (select from dw.fact_license_reading where is_imported)
        or exists (select from dw.restatement where kind = 'reread')
        or exists (select from ops.reread)
        or exists (select from ops.quarantine where is_dismissed)
        or exists (select from ops.coverage where status = 'imported') then
        raise exception 'irreversible: 00007 holds imported readings, rereadings or dismissals; restore from backup';
    end if;
end
$$;
-- +goose StatementEnd
drop view mart.license_snapshot;
drop view mart.run;
create view mart.license_snapshot as
select
    o.account,
    o.server,
    o.operation,
    p.api as product,
    f.description,
    p.unit,
    p.kind,
    f.snapshot_date,
    f.items,
    f.items_text,
    f.items_min,
    f.items_max,
    f.read_at,
    p.title,
    f.reading_count
from dw.fact_license_snapshot as f
join dw.dim_operation as o using (operation_key)
join dw.dim_product as p using (product_key);
comment on view mart.license_snapshot is 'Grain: one row per operation, product, description and local day: the last good reading of the day.';
comment on column mart.license_snapshot.account is 'Configured wolkvox account.';
comment on column mart.license_snapshot.server is 'Server code of the account; empty when only a base URL is configured.';
comment on column mart.license_snapshot.operation is 'Operation (tenant) as delivered.';
comment on column mart.license_snapshot.product is 'The vendor''s name of the report (api).';
comment on column mart.license_snapshot.description is 'What the figure belongs to, as delivered.';
comment on column mart.license_snapshot.unit is 'What items counts.';
comment on column mart.license_snapshot.kind is 'gauge (state now) or counter (month to date: never sum over days).';
comment on column mart.license_snapshot.snapshot_date is 'Day in the operation''s zone.';
comment on column mart.license_snapshot.items is 'Amount at the last reading of the day; durations in minutes.';
comment on column mart.license_snapshot.items_text is 'Amount as delivered.';
comment on column mart.license_snapshot.items_min is 'Least amount of the day''s readings.';
comment on column mart.license_snapshot.items_max is 'Greatest amount of the day''s readings.';
comment on column mart.license_snapshot.read_at is 'When the last reading was taken, UTC.';
comment on column mart.license_snapshot.title is 'Title of the product.';
comment on column mart.license_snapshot.reading_count is 'Readings of the day.';

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
    r.body_bytes
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

create or replace view mart.coverage as
with clock as (
    select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock -- max: the planner then knows that it is one row
),

-- Every level instance that was ever observed, from its first day to today or the end of its subscription.
series as (
    select
        w.source,
        w.dataset,
        w.account,
        w.settle,
        c.customer_id,
        s.subscription_number,
        l.service_level,
        l.customer_key,
        l.service_level_key,
        f.first_day,
        least(
            (clock.now_at at time zone 'UTC')::date,
            greatest(coalesce((s.end_at at time zone 'UTC')::date, 'infinity'), f.last_day) -- no end: never over
        ) as last_day
    from dw.dim_service_level as l
    join dw.dim_subscription as s using (subscription_key)
    join dw.dim_customer as c on c.customer_key = l.customer_key
    join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
    cross join clock
    cross join lateral (
        select min(d.usage_date) as first_day, max(d.usage_date) as last_day
        from dw.fact_daily_consumption as d
        where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key
    ) as f
    where f.first_day is not null
),

level_day as (
    select
        series.source,
        series.dataset,
        series.customer_id,
        series.subscription_number,
        series.service_level,
        series.account,
        null::text as product,
        days.day::date as day,
        case
            when d.digest is not null then 'observed'
            when d.usage_date is not null then 'partial'
            when (days.day + 1)::timestamp at time zone 'UTC' + series.settle > clock.now_at then 'not_due'
            else 'missing'
        end as status
    from series
    cross join clock
    cross join lateral (
        select series.first_day + i as day from generate_series(0, series.last_day - series.first_day) as i
    ) as days
    left join dw.fact_daily_consumption as d
        on d.customer_key = series.customer_key
        and d.service_level_key = series.service_level_key
        and d.usage_date = days.day
),

-- Days of a customer that no level can speak for: never answered, answered with nothing, or with refused records.
customer_day as (
    select
        w.source,
        w.dataset,
        w.scope as customer_id,
        null::text as subscription_number,
        null::text as service_level,
        w.account,
        null::text as product,
        days.day,
        case
            when cov.status is not null then cov.status
            when (days.day + 1)::timestamp at time zone 'UTC' + w.settle > clock.now_at then 'not_due'
            else 'missing'
        end as status
    from ops.watermark as w
    cross join clock
    cross join lateral (
        select w.expected_from + i as day
        from generate_series(0, (clock.now_at at time zone 'UTC')::date - w.expected_from) as i
    ) as days
    left join ops.coverage as cov
        on cov.dataset = w.dataset and cov.scope = w.scope and cov.product = '' and cov.day = days.day
    where w.dataset = 'keystone.history' and cov.status is distinct from 'answered'
),

-- Every product that was ever asked for, from its first day on. What was not read can no longer be read.
product_day as (
    select
        w.source,
        w.dataset,
        null::text as customer_id,
        null::text as subscription_number,
        null::text as service_level,
        w.account,
        asked.product,
        days.day,
        case
            when cov.status = 'answered' then 'observed'
            when cov.status is not null then cov.status
            when days.day < (clock.now_at at time zone w.zone)::date then 'lost'
            else 'not_due'
        end as status
    from ops.watermark as w
    cross join clock
    join (
        select c.dataset, c.scope, c.product, min(c.day) as first_day
        from ops.coverage as c
        where c.product <> ''
        group by c.dataset, c.scope, c.product
    ) as asked on asked.dataset = w.dataset and asked.scope = w.scope
    cross join lateral (
        select asked.first_day + i as day
        from generate_series(0, (clock.now_at at time zone w.zone)::date - asked.first_day) as i
    ) as days
    left join ops.coverage as cov
        on cov.dataset = w.dataset and cov.scope = w.scope and cov.product = asked.product and cov.day = days.day
    where w.dataset = 'wolkvox.billing'
)

select * from level_day
union all
select * from customer_day
union all
select * from product_day;

create or replace view mart.restatement as
select
    c.customer_id,
    s.subscription_number,
    l.service_level,
    l.level_ordinal,
    r.usage_date,
    r.kind,
    changed.column_name,
    changed.old_value,
    changed.new_value,
    r.was_invoiced,
    r.known_from,
    r.known_until,
    s.discriminator
from dw.restatement as r
join dw.dim_service_level as l using (service_level_key)
join dw.dim_subscription as s using (subscription_key)
join dw.dim_customer as c on c.customer_key = r.customer_key
cross join lateral (
    -- The version that followed: the next one in the ledger, else the current daily row.
    select *
    from (
        (
            select
                1 as preference, n.sample_count, n.committed_tib, n.consumed_avg_tib, n.consumed_max_tib, n.consumed_last_tib,
                n.burst_avg_tib, n.over_committed_avg_tib, n.accrued_sum_tib, n.accrued_last_tib, n.was_invoiced as is_invoiced, n.digest
            from dw.restatement as n
            where n.customer_key = r.customer_key
                and n.service_level_key = r.service_level_key
                and n.usage_date = r.usage_date
                and (n.known_from, n.restatement_id) > (r.known_from, r.restatement_id)
            order by n.known_from, n.restatement_id
            limit 1
        )
        union all
        select
            2, d.sample_count, d.committed_tib, d.consumed_avg_tib, d.consumed_max_tib, d.consumed_last_tib,
            d.burst_avg_tib, d.over_committed_avg_tib, d.accrued_sum_tib, d.accrued_last_tib, d.is_invoiced, d.digest
        from dw.fact_daily_consumption as d
        where d.customer_key = r.customer_key
            and d.service_level_key = r.service_level_key
            and d.usage_date = r.usage_date
    ) as candidate
    order by preference
    limit 1
) as n
cross join lateral (
    values
        ('sample_count', r.sample_count::text, n.sample_count::text),
        ('committed_tib', r.committed_tib::text, n.committed_tib::text),
        ('consumed_avg_tib', r.consumed_avg_tib::text, n.consumed_avg_tib::text),
        ('consumed_max_tib', r.consumed_max_tib::text, n.consumed_max_tib::text),
        ('consumed_last_tib', r.consumed_last_tib::text, n.consumed_last_tib::text),
        ('burst_avg_tib', r.burst_avg_tib::text, n.burst_avg_tib::text),
        ('over_committed_avg_tib', r.over_committed_avg_tib::text, n.over_committed_avg_tib::text),
        ('accrued_sum_tib', r.accrued_sum_tib::text, n.accrued_sum_tib::text),
        ('accrued_last_tib', r.accrued_last_tib::text, n.accrued_last_tib::text),
        ('is_invoiced', r.was_invoiced::text, n.is_invoiced::text),
        ('samples', encode(r.digest, 'hex'), encode(n.digest, 'hex'))
) as changed (column_name, old_value, new_value)
where changed.old_value is distinct from changed.new_value;

alter table ops.coverage drop constraint coverage_status_known;
alter table ops.coverage add constraint coverage_status_known check (status in ('answered', 'partial', 'empty'));
comment on column ops.coverage.status is 'answered, partial (records were quarantined) or empty (the vendor had nothing). The best answer of the day counts.';
comment on column raw.payload.url is 'URL without credentials.';
comment on column raw.payload.method is 'HTTP method.';
alter table dw.fact_license_snapshot drop column is_imported;
alter table dw.fact_license_reading drop column is_imported;
drop index ops.quarantine_fingerprint_idx;
alter table ops.quarantine drop constraint quarantine_dismissed_is_resolved;
alter table ops.quarantine drop column is_dismissed;
comment on column mart.restatement.kind is 'restated: the vendor gave other figures; late: samples were added to the ones known.';
comment on column dw.restatement.kind is 'restated: the vendor gave other figures; late: samples were added to the ones known.';
alter table dw.restatement drop constraint restatement_kind_known;
alter table dw.restatement add constraint restatement_kind_known check (kind in ('restated', 'late'));
drop index ops.run_failed_idx;
drop index ops.run_replay_idx;
drop table ops.reread;
alter table ops.run drop column replay_of;
