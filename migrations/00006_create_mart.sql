-- The views people and BI read. Columns are only ever added. Locks nothing; nothing to replay.

-- +goose Up
create view mart.subscription as
select
    c.customer_id,
    c.customer_name,
    s.subscription_number,
    s.discriminator,
    f.account_name,
    f.start_at as start_date,
    f.end_at as end_date,
    f.valid_from,
    f.valid_to,
    f.valid_to is null as is_current,
    f.start_text,
    f.end_text,
    f.absent_since
from dw.fact_subscription as f
join dw.dim_subscription as s using (subscription_key)
join dw.dim_customer as c on c.customer_key = f.customer_key;
comment on view mart.subscription is 'Grain: one row per subscription and version of its terms. Filter is_current for today.';
comment on column mart.subscription.customer_id is 'The vendor''s id of the customer.';
comment on column mart.subscription.customer_name is 'Display name as last told; NULL when unknown.';
comment on column mart.subscription.subscription_number is 'The vendor''s number, as delivered.';
comment on column mart.subscription.discriminator is 'Empty unless several subscriptions share the number.';
comment on column mart.subscription.account_name is 'Account name as delivered; NULL when unknown.';
comment on column mart.subscription.start_date is 'Start of the term, UTC; NULL when unknown.';
comment on column mart.subscription.end_date is 'End of the term, UTC; NULL when open-ended or unreadable.';
comment on column mart.subscription.valid_from is 'Since when we know these terms, UTC.';
comment on column mart.subscription.valid_to is 'When other terms were told; NULL for the current version.';
comment on column mart.subscription.is_current is 'Whether this is the current version.';
comment on column mart.subscription.start_text is 'Start as delivered.';
comment on column mart.subscription.end_text is 'End as delivered.';
comment on column mart.subscription.absent_since is 'Since when the vendor no longer lists it; NULL while listed.';

create view mart.commitment as
select
    c.customer_id,
    s.subscription_number,
    l.service_level,
    l.level_ordinal,
    f.committed_tib,
    f.valid_from,
    f.valid_to,
    f.valid_to is null as is_current,
    c.customer_name,
    s.discriminator,
    l.level_class,
    f.absent_since
from dw.fact_commitment as f
join dw.dim_service_level as l using (service_level_key)
join dw.dim_subscription as s using (subscription_key)
join dw.dim_customer as c on c.customer_key = f.customer_key;
comment on view mart.commitment is 'Grain: one row per level instance and version of its committed capacity. Filter is_current for today.';
comment on column mart.commitment.customer_id is 'The vendor''s id of the customer.';
comment on column mart.commitment.subscription_number is 'The vendor''s number of the subscription.';
comment on column mart.commitment.service_level is 'Name as delivered.';
comment on column mart.commitment.level_ordinal is '0-based instance among equal names.';
comment on column mart.commitment.committed_tib is 'TiB committed.';
comment on column mart.commitment.valid_from is 'Since when we know this capacity, UTC; the vendor gives no effective date.';
comment on column mart.commitment.valid_to is 'When another capacity was told; NULL for the current version.';
comment on column mart.commitment.is_current is 'Whether this is the current version.';
comment on column mart.commitment.customer_name is 'Display name as last told; NULL when unknown.';
comment on column mart.commitment.discriminator is 'Empty unless several subscriptions share the number.';
comment on column mart.commitment.level_class is 'base, add_on or unclassified. Never sum across classes.';
comment on column mart.commitment.absent_since is 'Since when the vendor no longer lists the level; NULL while listed.';

create view mart.service_level as
select
    c.customer_id,
    c.customer_name,
    s.subscription_number,
    l.service_level,
    l.level_ordinal,
    l.level_class,
    f.committed_tib,
    f.consumed_tib,
    f.burst_tib,
    f.accrued_burst_tib,
    f.read_at,
    f.fetched_at,
    f.observed_at = max(f.observed_at) over (partition by f.customer_key, f.service_level_key) as is_latest,
    s.discriminator
from dw.fact_service_level as f
join dw.dim_service_level as l using (service_level_key)
join dw.dim_subscription as s using (subscription_key)
join dw.dim_customer as c on c.customer_key = f.customer_key
where f.superseded_at is null;
comment on view mart.service_level is 'Grain: one row per level instance and vendor reading time of its current consumption. Filter is_latest for now.';
comment on column mart.service_level.customer_id is 'The vendor''s id of the customer.';
comment on column mart.service_level.customer_name is 'Display name as last told; NULL when unknown.';
comment on column mart.service_level.subscription_number is 'The vendor''s number of the subscription.';
comment on column mart.service_level.service_level is 'Name as delivered.';
comment on column mart.service_level.level_ordinal is '0-based instance among equal names.';
comment on column mart.service_level.level_class is 'base, add_on or unclassified. Never sum across classes.';
comment on column mart.service_level.committed_tib is 'TiB committed.';
comment on column mart.service_level.consumed_tib is 'TiB in use at the reading; average over time, never sum.';
comment on column mart.service_level.burst_tib is 'TiB above the commitment as the vendor says; NULL when it does not.';
comment on column mart.service_level.accrued_burst_tib is 'Accrued burst of the running billing cycle (TiB for a month); NULL when not told.';
comment on column mart.service_level.read_at is 'When the vendor took the reading, UTC; NULL when it does not say.';
comment on column mart.service_level.fetched_at is 'When we learned of it, UTC.';
comment on column mart.service_level.is_latest is 'Whether it is the newest reading of the level.';
comment on column mart.service_level.discriminator is 'Empty unless several subscriptions share the number.';

create view mart.daily_consumption as
select
    c.customer_id,
    c.customer_name,
    s.subscription_number,
    l.service_level,
    l.level_ordinal,
    l.level_class,
    d.usage_date,
    d.sample_count,
    d.committed_tib,
    d.consumed_avg_tib,
    d.consumed_max_tib,
    d.consumed_last_tib,
    d.burst_avg_tib,
    d.over_committed_avg_tib,
    case
        when a.reading = 'running' then d.accrued_last_tib - coalesce(
            (
                select p.accrued_last_tib
                from dw.fact_daily_consumption as p
                where p.customer_key = d.customer_key
                    and p.service_level_key = d.service_level_key
                    and p.accrued_last_tib is not null
                    and p.usage_date < d.usage_date
                    and p.usage_date >= date_trunc('month', d.usage_date)::date
                order by p.usage_date desc
                limit 1
            ),
            0
        )
        else d.accrued_sum_tib
    end as accrued_burst_tib,
    d.is_invoiced,
    d.known_since,
    d.restatement_count,
    d.absent_since,
    s.discriminator,
    d.step_seconds,
    d.digest is null as is_partial
from dw.fact_daily_consumption as d
join dw.dim_service_level as l using (service_level_key)
join dw.dim_subscription as s using (subscription_key)
join dw.dim_customer as c on c.customer_key = d.customer_key
left join dw.accrued_reading as a on a.account = c.account and a.month = date_trunc('month', d.usage_date)::date;
comment on view mart.daily_consumption is 'Grain: one row per level instance and UTC day that was observed. A missing day has no row: join mart.coverage to see it.';
comment on column mart.daily_consumption.customer_id is 'The vendor''s id of the customer.';
comment on column mart.daily_consumption.customer_name is 'Display name as last told; NULL when unknown.';
comment on column mart.daily_consumption.subscription_number is 'The vendor''s number of the subscription.';
comment on column mart.daily_consumption.service_level is 'Name as delivered.';
comment on column mart.daily_consumption.level_ordinal is '0-based instance among equal names.';
comment on column mart.daily_consumption.level_class is 'base, add_on or unclassified. Never sum across classes.';
comment on column mart.daily_consumption.usage_date is 'UTC day.';
comment on column mart.daily_consumption.sample_count is 'Samples of the day.';
comment on column mart.daily_consumption.committed_tib is 'TiB committed at the last sample of the day.';
comment on column mart.daily_consumption.consumed_avg_tib is 'Mean TiB of the day, 12 decimals. Average over days, never sum.';
comment on column mart.daily_consumption.consumed_max_tib is 'Greatest TiB of the day.';
comment on column mart.daily_consumption.consumed_last_tib is 'TiB at the last sample of the day.';
comment on column mart.daily_consumption.burst_avg_tib is 'Mean of the vendor''s burst; NULL when any sample lacks it.';
comment on column mart.daily_consumption.over_committed_avg_tib is 'Mean of what was above the commitment, by our own subtraction.';
comment on column mart.daily_consumption.accrued_burst_tib is 'Accrued burst of the day (TiB for a month): add the days of a month. NULL when not told.';
comment on column mart.daily_consumption.is_invoiced is 'Whether the vendor has invoiced the whole day; NULL when unknown.';
comment on column mart.daily_consumption.known_since is 'Since when we know these figures, UTC.';
comment on column mart.daily_consumption.restatement_count is 'How often the vendor replaced figures of this day.';
comment on column mart.daily_consumption.absent_since is 'Since when the vendor no longer delivers the day; NULL while it does.';
comment on column mart.daily_consumption.discriminator is 'Empty unless several subscriptions share the number.';
comment on column mart.daily_consumption.step_seconds is 'Median seconds between samples; NULL with one sample.';
comment on column mart.daily_consumption.is_partial is 'Whether a sample of the day is in quarantine.';

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

create view mart.coverage as
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
comment on view mart.coverage is 'Grain: one row per series and day that is expected: what is there and what is not. Rows without a subscription speak for a whole customer.';
comment on column mart.coverage.source is 'Vendor: keystone or wolkvox.';
comment on column mart.coverage.dataset is 'Report of the vendor.';
comment on column mart.coverage.customer_id is 'Keystone customer; NULL for wolkvox.';
comment on column mart.coverage.subscription_number is 'Subscription; NULL where the row speaks for a whole customer or for wolkvox.';
comment on column mart.coverage.service_level is 'Service level (one row per instance); NULL as above.';
comment on column mart.coverage.account is 'Configured account.';
comment on column mart.coverage.product is 'wolkvox product (api); NULL for Keystone.';
comment on column mart.coverage.day is 'UTC day (Keystone) or local day of the operation (wolkvox).';
comment on column mart.coverage.status is 'observed; partial (a record is in quarantine); empty (the vendor had nothing); missing (can still be fetched); lost (can not); not_due (not yet).';

create view mart.restatement as
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
comment on view mart.restatement is 'Grain: one row per superseded version of a day and column that the next version changed.';
comment on column mart.restatement.customer_id is 'The vendor''s id of the customer.';
comment on column mart.restatement.subscription_number is 'The vendor''s number of the subscription.';
comment on column mart.restatement.service_level is 'Name as delivered.';
comment on column mart.restatement.level_ordinal is '0-based instance among equal names.';
comment on column mart.restatement.usage_date is 'UTC day.';
comment on column mart.restatement.kind is 'restated: the vendor gave other figures; late: samples were added to the ones known.';
comment on column mart.restatement.column_name is 'Column of the daily figures that changed; samples stands for the digest over all measures of the day.';
comment on column mart.restatement.old_value is 'Value of the superseded version; NULL when unknown.';
comment on column mart.restatement.new_value is 'Value of the next version; NULL when unknown.';
comment on column mart.restatement.was_invoiced is 'Whether the superseded version was invoiced; NULL when unknown.';
comment on column mart.restatement.known_from is 'Since when we knew the superseded version, UTC.';
comment on column mart.restatement.known_until is 'When we learned of the next version, UTC.';
comment on column mart.restatement.discriminator is 'Empty unless several subscriptions share the number.';

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
    w.account
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

create view mart.month as
with expected as (
    -- A level is expected from its first observed day to the end of its subscription.
    select
        l.customer_key,
        l.service_level_key,
        l.level_class,
        l.service_level,
        l.level_ordinal,
        s.subscription_number,
        s.discriminator,
        c.customer_id,
        c.customer_name,
        (select min(d.usage_date) from dw.fact_daily_consumption as d
         where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key) as first_day,
        (s.end_at at time zone 'UTC')::date as end_day
    from dw.dim_service_level as l
    join dw.dim_subscription as s using (subscription_key)
    join dw.dim_customer as c on c.customer_key = l.customer_key
),

monthly as (
    select
        d.customer_id,
        d.subscription_number,
        d.discriminator,
        d.service_level,
        d.level_ordinal,
        date_trunc('month', d.usage_date)::date as month,
        count(*)::integer as days_observed,
        (array_agg(d.committed_tib order by d.usage_date desc))[1] as committed_tib,
        trim_scale(round(avg(d.consumed_avg_tib), 12)) as consumed_avg_tib,
        max(d.consumed_max_tib) as consumed_max_tib,
        case when count(d.accrued_burst_tib) = count(*) then sum(d.accrued_burst_tib) end as accrued_burst_tib,
        count(*) filter (where d.over_committed_avg_tib > 0)::integer as days_over_commitment,
        case
            when count(*) filter (where not d.is_invoiced) > 0 then false
            when count(d.is_invoiced) = count(*) then true
        end as all_invoiced,
        max(d.usage_date) as last_observed,
        count(*) filter (where d.is_partial)::integer as days_partial
    from mart.daily_consumption as d
    group by 1, 2, 3, 4, 5, 6
)

select
    m.customer_id,
    m.subscription_number,
    m.service_level,
    m.level_ordinal,
    e.level_class,
    m.month,
    m.days_observed,
    (
        least(
            (m.month + interval '1 month')::date,
            greatest(coalesce(e.end_day, (m.month + interval '1 month')::date), m.last_observed) + 1
        ) - greatest(m.month, e.first_day)
    ) as days_expected,
    m.committed_tib,
    m.consumed_avg_tib,
    m.consumed_max_tib,
    m.accrued_burst_tib,
    m.days_over_commitment,
    m.all_invoiced,
    e.customer_name,
    m.discriminator,
    m.days_partial
from monthly as m
join expected as e using (customer_id, subscription_number, discriminator, service_level, level_ordinal);
comment on view mart.month is 'Grain: one row per level instance and UTC month with at least one observed day.';
comment on column mart.month.customer_id is 'The vendor''s id of the customer.';
comment on column mart.month.subscription_number is 'The vendor''s number of the subscription.';
comment on column mart.month.service_level is 'Name as delivered.';
comment on column mart.month.level_ordinal is '0-based instance among equal names.';
comment on column mart.month.level_class is 'base, add_on or unclassified. Never sum across classes.';
comment on column mart.month.month is 'First day of the UTC month.';
comment on column mart.month.days_observed is 'Days with samples.';
comment on column mart.month.days_expected is 'Days of the month in which the level is expected: from its first observed day to the end of its subscription. More than days_observed means that the month is not whole (yet).';
comment on column mart.month.committed_tib is 'TiB committed at the last observed day.';
comment on column mart.month.consumed_avg_tib is 'Mean of the daily means, each day weighing the same, 12 decimals.';
comment on column mart.month.consumed_max_tib is 'Greatest TiB of the month.';
comment on column mart.month.accrued_burst_tib is 'Accrued burst so far (TiB for a month); NULL when any day lacks it.';
comment on column mart.month.days_over_commitment is 'Days on which consumption was above the commitment at any sample.';
comment on column mart.month.all_invoiced is 'Whether every observed day is invoiced; NULL when unknown.';
comment on column mart.month.customer_name is 'Display name as last told; NULL when unknown.';
comment on column mart.month.discriminator is 'Empty unless several subscriptions share the number.';
comment on column mart.month.days_partial is 'Days of which a sample is in quarantine.';

-- +goose Down
drop view mart.month;
drop view mart.quarantine;
drop view mart.run;
drop view mart.freshness;
drop view mart.restatement;
drop view mart.coverage;
drop view mart.license_snapshot;
drop view mart.daily_consumption;
drop view mart.service_level;
drop view mart.commitment;
drop view mart.subscription;
