-- The statement: what a month comes to, day by day and line by line, now and as it was known at any
-- time. Everything is computed from facts, prices and decisions by the functions below; commands, views
-- and BI tell the same. dw.daily_consumption_as_of is replaced by one that the planner can look into.
-- New functions and views: locks nothing for long; nothing to replay.

-- +goose Up
drop function dw.daily_consumption_as_of(timestamptz);
-- +goose StatementBegin
-- Without a search_path of its own it is inlined: days and levels that are asked for are found by the primary key.
create function dw.daily_consumption_as_of(as_of timestamptz)
returns table (
    customer_key bigint, service_level_key bigint, usage_date date, sample_count integer, committed_tib numeric,
    consumed_avg_tib numeric, consumed_max_tib numeric, consumed_last_tib numeric, burst_avg_tib numeric,
    over_committed_avg_tib numeric, accrued_sum_tib numeric, accrued_last_tib numeric, known_since timestamptz,
    step_seconds integer, is_partial boolean, absent_since timestamptz, is_current boolean, is_invoiced boolean, restatement_count integer
)
language sql stable
as $$
    select
        d.customer_key, d.service_level_key, d.usage_date, d.sample_count, d.committed_tib,
        d.consumed_avg_tib, d.consumed_max_tib, d.consumed_last_tib, d.burst_avg_tib,
        d.over_committed_avg_tib, d.accrued_sum_tib, d.accrued_last_tib, d.known_since,
        d.step_seconds, d.digest is null, case when d.absent_since <= as_of then d.absent_since end, true, d.is_invoiced, d.restatement_count
    from dw.fact_daily_consumption as d
    where d.known_since <= as_of

    union all

    select
        r.customer_key, r.service_level_key, r.usage_date, r.sample_count, r.committed_tib,
        r.consumed_avg_tib, r.consumed_max_tib, r.consumed_last_tib, r.burst_avg_tib,
        r.over_committed_avg_tib, r.accrued_sum_tib, r.accrued_last_tib, r.known_from,
        r.step_seconds, r.digest is null, null::timestamptz, false, r.was_invoiced, null::integer
    from dw.restatement as r
    where as_of < 'infinity' and r.known_from <= as_of and as_of < r.known_until
$$;
-- +goose StatementEnd
comment on function dw.daily_consumption_as_of(timestamptz) is 'The daily figures that were known at an instant: what we knew then; infinity: now. Since when a day is absent is told by what we know now: whether one was away and came back is not kept; nor is whether a day was invoiced then, or how often it had been restated.';

create table billing.accrued_decision (
    accrued_decision_id bigint generated always as identity constraint accrued_decision_pkey primary key,
    account text collate "C" not null,
    month date not null,
    reading text not null,
    decided_by text not null,
    reason text not null,
    known_since timestamptz not null,
    superseded_at timestamptz,
    constraint accrued_decision_month_starts check (extract(day from month) = 1),
    constraint accrued_decision_reading_known check (reading in ('increment', 'running')),
    constraint accrued_decision_known_forward check (known_since <= superseded_at)
);
create trigger accrued_decision_kept before update or delete on billing.accrued_decision for each row execute function billing.refuse_rewriting();
create unique index accrued_decision_current_idx on billing.accrued_decision (account, month) where superseded_at is null;
comment on table billing.accrued_decision is 'Grain: one row per decision how the vendor''s accrued column of a month is read. The one in force stands in dw.accrued_reading too; here are the former ones.';
comment on column billing.accrued_decision.accrued_decision_id is 'Number of the row.';
comment on column billing.accrued_decision.account is 'Configured Keystone account.';
comment on column billing.accrued_decision.month is 'First day of the UTC month.';
comment on column billing.accrued_decision.reading is 'increment or running, as in dw.accrued_reading.';
comment on column billing.accrued_decision.decided_by is 'Who decided.';
comment on column billing.accrued_decision.reason is 'On what evidence.';
comment on column billing.accrued_decision.known_since is 'Business clock of the decision.';
comment on column billing.accrued_decision.superseded_at is 'Business clock of the next one; NULL while it holds.';

-- +goose StatementBegin
create function billing.business_now() returns timestamptz
language sql stable
set search_path = pg_catalog
as $$
    select coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, (select fixed_at from ops.clock), now())
$$;
-- +goose StatementEnd
comment on function billing.business_now() is 'The business clock: what the session says, else what the newest run was fixed to, else the wall clock.';

-- +goose StatementBegin
-- div() is the exact integer quotient, so nothing is rounded but once; multiplying by a power of ten is exact, dividing by one is not.
create function billing.divide_rounded(dividend numeric, divisor numeric, decimals integer) returns numeric
language sql immutable parallel safe
set search_path = pg_catalog
as $$
    select round(sign(dividend) * div(2 * abs(dividend) * ('1e' || decimals)::numeric + divisor, 2 * divisor) * ('1e-' || decimals)::numeric, decimals)
$$;
-- +goose StatementEnd
comment on function billing.divide_rounded(numeric, numeric, integer) is 'Quotient by a positive divisor, exact and then rounded once, half away from zero.';

-- +goose StatementBegin
create function billing.accrued_reading_as_of(as_of timestamptz)
returns table (account text, month date, reading text)
language sql stable
as $$
    select d.account, d.month, d.reading
    from billing.accrued_decision as d
    where d.known_since <= as_of and (d.superseded_at is null or d.superseded_at > as_of)

    union all

    -- Recorded without a decision of ours: in force at all times.
    select r.account, r.month, r.reading
    from dw.accrued_reading as r
    where not exists (select from billing.accrued_decision as d where d.account = r.account and d.month = r.month)
$$;
-- +goose StatementEnd
comment on function billing.accrued_reading_as_of(timestamptz) is 'How the vendor''s accrued column was read at an instant, per account and month; no row: increment.';

-- +goose StatementBegin
create function mart.daily_consumption_as_of(as_of timestamptz) returns setof mart.daily_consumption
language sql stable
set search_path = pg_catalog
set jit = off
as $$
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
                    from dw.daily_consumption_as_of(daily_consumption_as_of.as_of) as p
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
        d.is_partial
    from dw.daily_consumption_as_of(daily_consumption_as_of.as_of) as d
    join dw.dim_service_level as l using (service_level_key)
    join dw.dim_subscription as s using (subscription_key)
    join dw.dim_customer as c on c.customer_key = d.customer_key
    left join billing.accrued_reading_as_of(daily_consumption_as_of.as_of) as a on a.account = c.account and a.month = date_trunc('month', d.usage_date)::date
$$;
-- +goose StatementEnd
comment on function mart.daily_consumption_as_of(timestamptz) is 'mart.daily_consumption as it was known at an instant. is_invoiced and absent_since are as of now where the figures are still the same; restatement_count is NULL for figures that were replaced since.';

-- +goose StatementBegin
create function mart.month_as_of(as_of timestamptz) returns setof mart.month
language sql stable
set search_path = pg_catalog
set jit = off
as $$
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
            (select min(d.usage_date) from dw.daily_consumption_as_of(month_as_of.as_of) as d
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
        from mart.daily_consumption_as_of(month_as_of.as_of) as d
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
    join expected as e using (customer_id, subscription_number, discriminator, service_level, level_ordinal)
$$;
-- +goose StatementEnd
comment on function mart.month_as_of(timestamptz) is 'mart.month as it was known at an instant, with the caveats of mart.daily_consumption_as_of.';

-- +goose StatementBegin
create function billing.statement_part(period text, as_of timestamptz)
returns table (
    period text, period_start date, period_end date, source text, customer_id text, account text, subscription_number text,
    discriminator text, item text, level_ordinal integer, description text, charge text, is_waiver boolean, day date,
    quantity numeric, scale integer, basis text, known_since timestamptz, reading numeric, doubt text, level_class text,
    unit text, is_over boolean, calendar text, rate_id bigint, line_key bigint, is_head boolean
)
language sql stable
set search_path = pg_catalog
set enable_nestloop = off -- the planner cannot tell how many rows the steps have, and joining them row by row takes minutes
set jit = off
set work_mem = '64MB'
as $$
with clock as materialized (
    select
        m.month_start,
        (m.month_start + interval '1 month')::date - 1 as month_end,
        least(statement_part.as_of, billing.business_now()) as now_at
    from (select (statement_part.period || '-01')::date as month_start) as m
),

subscription as materialized (
    select
        c.customer_key, c.customer_id, c.account, s.subscription_key, s.subscription_number, s.discriminator,
        (case when v.is_told then v.start_at else s.start_at end at time zone 'UTC')::date as start_day,
        (case when v.is_told then v.end_at else s.end_at end at time zone 'UTC')::date as end_day,
        w.expected_from,
        coalesce(w.settle, interval '0') as settle
    from dw.dim_subscription as s
    join dw.dim_customer as c using (customer_key)
    left join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
    left join lateral (
        select f.start_at, f.end_at, true as is_told
        from dw.fact_subscription as f
        where f.customer_key = s.customer_key and f.subscription_key = s.subscription_key
            and f.valid_from <= statement_part.as_of and (f.valid_to is null or f.valid_to > statement_part.as_of)
    ) as v on true
),

-- The periods that end in the month: those of the calendar, and calendar months where it says nothing.
known_period as materialized (
    select p.customer_id, p.subscription_number, p.clock, p.period_start, p.period_end
    from billing.period as p
    where p.known_since <= statement_part.as_of and (p.superseded_at is null or p.superseded_at > statement_part.as_of)
),

span as materialized (
    select s.subscription_key, p.clock as charge, p.period_start, p.period_end, null::text as calendar
    from subscription as s
    join known_period as p using (customer_id, subscription_number)
    cross join clock
    where p.period_end between clock.month_start and clock.month_end
    union all
    select s.subscription_key, k.charge, lower(u.days), upper(u.days) - 1, case when p.covered is null then 'calendar assumed' else 'no billing period covers these days: calendar month assumed' end
    from subscription as s
    cross join clock
    cross join (values ('committed'), ('burst')) as k (charge)
    left join (
        select customer_id, subscription_number, clock as charge, range_agg(daterange(period_start, period_end, '[]')) as covered
        from known_period
        group by customer_id, subscription_number, clock
    ) as p on p.customer_id = s.customer_id and p.subscription_number = s.subscription_number and p.charge = k.charge
    cross join lateral unnest(
        datemultirange(daterange(clock.month_start, clock.month_end, '[]')) - coalesce(p.covered, '{}')
    ) as u (days)
),

level as materialized (
    select
        s.*, l.service_level_key, l.service_level, l.level_ordinal, l.level_class, o.first_observed, o.last_observed,
        min(o.first_observed) over (partition by s.subscription_key) as subscription_observed,
        count(o.first_observed) over (partition by s.subscription_key, l.service_level) > 0 as is_metered
    from subscription as s
    join dw.dim_service_level as l using (customer_key, subscription_key)
    cross join lateral (
        select
            least(
                (
                    select d.usage_date from dw.fact_daily_consumption as d
                    where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key and d.known_since <= statement_part.as_of
                    order by d.usage_date limit 1
                ),
                (
                    select r.usage_date from dw.restatement as r
                    where r.customer_key = l.customer_key and r.service_level_key = l.service_level_key
                        and r.known_from <= statement_part.as_of and r.known_from < r.known_until -- not what was read anew
                    order by r.usage_date limit 1
                )
            ) as first_observed,
            greatest(
                (
                    select d.usage_date from dw.fact_daily_consumption as d
                    where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key and d.known_since <= statement_part.as_of
                    order by d.usage_date desc limit 1
                ),
                (
                    select r.usage_date from dw.restatement as r
                    where r.customer_key = l.customer_key and r.service_level_key = l.service_level_key
                        and r.known_from <= statement_part.as_of and r.known_from < r.known_until -- not what was read anew
                    order by r.usage_date desc limit 1
                )
            ) as last_observed
        offset 0 -- once per level
    ) as o
),

-- A level is expected from its first observed day on; from the start of its subscription on where that began
-- with the level and lies within the history. A name that history never told is expected by the contract alone.
-- Observed days beyond the end count: the vendor's portals differ by a day.
expected as materialized (
    select
        l.*,
        case
            when l.first_observed = l.subscription_observed and l.start_day >= l.expected_from then least(l.first_observed, l.start_day)
            when l.first_observed is not null then l.first_observed
            when not l.is_metered then case when t.first_told is null or l.start_day is null then t.first_told else greatest(l.start_day, l.expected_from) end
        end as first_day,
        case when l.first_observed is not null then greatest(coalesce(l.end_day, 'infinity'), l.last_observed)
            else least(coalesce(l.end_day, 'infinity'), coalesce(t.gone_on, 'infinity')) end as last_day
    from level as l
    cross join lateral (
        select
            (min(f.valid_from) at time zone 'UTC')::date as first_told,
            (max(f.absent_since) filter (where f.valid_to is null and f.absent_since <= statement_part.as_of) at time zone 'UTC')::date as gone_on
        from dw.fact_commitment as f
        where f.customer_key = l.customer_key and f.service_level_key = l.service_level_key and f.valid_from <= statement_part.as_of
    ) as t
),

level_span as materialized (
    select *, min(span_key) over (partition by subscription_key, service_level, charge, period_start) as line_key
    from (
        select
            row_number() over () as span_key, e.*, s.charge, s.period_start, s.period_end, s.calendar,
            greatest(s.period_start, e.first_day) as day_from, least(s.period_end, e.last_day) as day_until,
            (s.period_end + 1)::timestamp at time zone 'UTC' + e.settle <= clock.now_at as is_over
        from expected as e
        join span as s using (subscription_key)
        cross join clock
        where e.first_day <= s.period_end and e.last_day >= s.period_start
    ) as numbered
),

daily as materialized (
    select
        r.service_level_key, d.usage_date, d.committed_tib, d.known_since, d.is_partial, d.absent_since is not null as is_absent,
        case
            when a.reading = 'running' then d.accrued_last_tib - coalesce(
                lag(d.accrued_last_tib) over (
                    partition by r.service_level_key, date_trunc('month', d.usage_date), d.accrued_last_tib is null order by d.usage_date
                ), 0)
            else d.accrued_sum_tib
        end as accrued_burst_tib
    from (
        select customer_key, service_level_key, account, date_trunc('month', min(period_start))::date as first_day, max(period_end) as last_day
        from level_span
        group by customer_key, service_level_key, account
    ) as r
    cross join lateral (
        select d.*
        from dw.daily_consumption_as_of(statement_part.as_of) as d
        where d.customer_key = r.customer_key and d.service_level_key = r.service_level_key
            and d.usage_date >= r.first_day and d.usage_date <= r.last_day
        offset 0 -- level by level through the primary key
    ) as d
    left join billing.accrued_reading_as_of(statement_part.as_of) as a
        on a.account = r.account and a.month = date_trunc('month', d.usage_date)::date
),

refused as materialized (
    select q.source, q.scope, q.subscription_number, q.service_level, q.product,
        coalesce(q.day, q.window_from, '-infinity') as first_day, coalesce(q.day, q.window_until - 1, 'infinity') as last_day
    from ops.quarantine as q
    where q.dataset in ('keystone.history', 'wolkvox.billing')
        and q.quarantined_at <= statement_part.as_of and (q.resolved_at is null or q.resolved_at > statement_part.as_of)
),

level_refused as materialized (
    select e.service_level_key, q.first_day, q.last_day
    from expected as e
    join refused as q on q.source = 'keystone' and q.scope = e.customer_id
        and coalesce(q.subscription_number, e.subscription_number) = e.subscription_number
        and coalesce(q.service_level, e.service_level) = e.service_level
),

decision as materialized (
    select e.service_level_key, a.first_day, a.last_day, a.decision
    from expected as e
    join billing.absence as a using (customer_id, subscription_number, service_level, level_ordinal)
    where a.known_since <= statement_part.as_of and (a.superseded_at is null or a.superseded_at > statement_part.as_of)
),

slot as materialized (
    select
        s.span_key, s.charge, days.day, d.usage_date is not null as is_there, d.committed_tib, d.accrued_burst_tib, d.known_since, d.is_partial, d.is_absent,
        a.decision,
        (days.day + 1)::timestamp at time zone 'UTC' + s.settle > clock.now_at as is_not_due,
        s.service_level_key in (select q.service_level_key from level_refused as q) and exists (
            select from level_refused as q
            where q.service_level_key = s.service_level_key and days.day >= q.first_day and days.day <= q.last_day
        ) as is_refused,
        count(d.committed_tib) over (partition by s.span_key order by days.day) as told
    from level_span as s
    cross join clock
    cross join lateral (select s.day_from + i as day from generate_series(0, s.day_until - s.day_from) as i) as days
    left join daily as d on d.service_level_key = s.service_level_key and d.usage_date = days.day
    left join decision as a on a.service_level_key = s.service_level_key and days.day >= a.first_day and days.day <= a.last_day
),

-- A day without figures has the last commitment that was known before it: of the days before, else of the contract.
gap as materialized (
    select
        e.span_key, e.day,
        coalesce(
            n.committed_tib,
            (
                select d.committed_tib
                from dw.daily_consumption_as_of(statement_part.as_of) as d
                where d.customer_key = s.customer_key and d.service_level_key = s.service_level_key and d.usage_date < e.day
                order by d.usage_date desc
                limit 1
            ),
            (
                select f.committed_tib
                from dw.fact_commitment as f
                where f.customer_key = s.customer_key and f.service_level_key = s.service_level_key
                    and f.valid_from < (e.day + 1)::timestamp at time zone 'UTC' and f.valid_from <= statement_part.as_of
                order by f.valid_from desc
                limit 1
            )
        ) as estimate_tib
    from slot as e
    join level_span as s using (span_key)
    left join slot as n on n.span_key = e.span_key and n.told = e.told and n.is_there
    where not e.is_there and not e.is_not_due and e.charge = 'committed'
),

judged as materialized (
    select
        e.span_key, e.day, e.known_since, e.is_partial, e.is_absent, e.is_refused,
        case e.charge when 'committed' then coalesce(e.committed_tib, g.estimate_tib) else e.accrued_burst_tib end as reading,
        case
            when e.decision = 'drop' and (e.is_absent or not e.is_there) then 'dropped'
            when e.is_there and (e.charge = 'committed' or e.accrued_burst_tib is not null)
                then case when e.is_absent and e.decision = 'keep' then 'absent_kept' else 'observed' end
            when not e.is_there and e.is_not_due then 'not_due'
            when g.estimate_tib is not null then 'estimated'
            else 'missing'
        end as basis
    from slot as e
    left join gap as g using (span_key, day)
),

level_part as (
    select
        j.span_key, j.day,
        coalesce(s.charge = 'burst' and j.day < s.start_day + 60, false) as is_waiver,
        case
            when j.basis = 'dropped' then 0
            when s.charge = 'burst' then j.reading
            else j.reading * (377580 / extract(day from date_trunc('month', j.day::timestamp) + interval '1 month - 1 day')::integer)
        end as quantity,
        j.basis, j.known_since, j.reading,
        -- What keeps the line from being final.
        case
            when j.basis in ('dropped', 'not_due') then null
            when j.basis in ('estimated', 'missing') then j.basis
            when j.is_absent and j.basis = 'observed' then 'absent'
            when j.is_partial then 'partial'
            when j.is_refused then 'quarantine'
        end as doubt,
        j.day as priced_on
    from judged as j
    join level_span as s using (span_key)
),

-- wolkvox: the days of the local month as they were known. Imported readings count on days only that have no others.
license_day as materialized (
    select f.operation_key, f.product_key, f.description, f.snapshot_date as day, f.items, f.items_max, f.read_at, f.is_imported, f.zone
    from dw.fact_license_snapshot as f
    cross join clock
    where statement_part.as_of = 'infinity' and f.snapshot_date >= clock.month_start and f.snapshot_date <= clock.month_end
    union all
    select operation_key, product_key, description, reading_date, (array_agg(items order by read_at desc))[1], max(items), max(read_at), is_imported, null
    from (
        select f.*, rank() over (partition by f.operation_key, f.product_key, f.description, f.reading_date order by f.is_imported) as standing
        from dw.fact_license_reading as f
        left join ops.run as r on r.run_id = f.run_id and f.is_imported -- of an imported reading it is the import that tells when we knew it
        cross join clock
        where statement_part.as_of < 'infinity' and f.reading_date >= clock.month_start and f.reading_date <= clock.month_end
            and coalesce(r.business_at, f.read_at) <= statement_part.as_of
    ) as known
    where standing = 1
    group by operation_key, product_key, description, reading_date, is_imported
),

license_line as materialized (
    select
        d.operation_key, d.product_key, d.description, o.account, o.operation, p.api, p.unit, o.zone,
        case p.kind when 'gauge' then 'license' else 'usage' end as charge,
        case when p.kind = 'counter' then 'last' else coalesce(r.rule, 'max') end as rule,
        count(*)::integer as days,
        max(d.day) as last_day,
        max(d.items_max) as items_max,
        min(d.day) as first_day,
        bool_or(bool_or(
            d.day = clock.month_end and (d.is_imported or d.read_at >= (d.day + 1)::timestamp at time zone coalesce(d.zone, o.zone) - interval '55 minutes')
        )) over (partition by d.operation_key, d.product_key) as is_closed,
        (clock.month_end + 1)::timestamp at time zone o.zone <= clock.now_at as is_over
    from license_day as d
    join dw.dim_operation as o using (operation_key)
    join dw.dim_product as p using (product_key)
    cross join clock
    left join billing.product_rule as r on r.product = p.api
        and r.known_since <= statement_part.as_of and (r.superseded_at is null or r.superseded_at > statement_part.as_of)
    group by d.operation_key, d.product_key, d.description, o.account, o.operation, p.api, p.unit, p.kind, o.zone, r.rule, clock.month_end, clock.now_at
),

license_counted as materialized (
    select l.*, -row_number() over () as span_key, -- apart from those of level_span
        case when exists (
            select from dw.fact_license_snapshot as f
            where f.operation_key = l.operation_key and f.product_key = l.product_key and f.description = l.description
                and f.snapshot_date < clock.month_start
        ) then clock.month_start else l.first_day end as day_from,
        case l.rule when 'last' then l.last_day when 'max' then (
            select min(d.day) from license_day as d
            where d.operation_key = l.operation_key and d.product_key = l.product_key and d.description = l.description and d.items_max = l.items_max
        ) end as counted_on
    from license_line as l
    cross join clock
),

license_part as (
    select
        l.span_key, days.day, false as is_waiver,
        case
            when d.day is null then null
            when l.rule = 'average' then d.items
            when d.day <> l.counted_on then 0
            when l.rule = 'max' then d.items_max
            else d.items
        end as quantity,
        case
            when d.day is not null then 'observed'
            when (days.day + 1)::timestamp at time zone l.zone > clock.now_at then 'not_due'
            else 'missing'
        end as basis,
        d.read_at as known_since,
        case when l.rule = 'max' then d.items_max else d.items end as reading,
        case
            when days.day = l.last_day and l.is_over and not l.is_closed then 'not closed'
            when exists (
                select from refused as q
                where q.source = 'wolkvox' and q.scope = l.account and q.product = l.api and days.day >= q.first_day and days.day <= q.last_day
            ) then 'quarantine'
        end as doubt,
        coalesce(l.counted_on, days.day) as priced_on
    from license_counted as l
    cross join clock
    cross join lateral (select l.day_from + i as day from generate_series(0, clock.month_end - l.day_from) as i) as days
    left join license_day as d on d.operation_key = l.operation_key and d.product_key = l.product_key and d.description = l.description and d.day = days.day
),

part as materialized (
    select * from level_part
    union all
    select * from license_part
),

-- What is the same for all days: of each instance of a level, and of each product and description.
head as materialized (
    select
        s.span_key, s.line_key, s.period_start, s.period_end, 'keystone' as source, s.customer_id, s.account, s.subscription_number, s.discriminator,
        s.service_level as item, s.level_ordinal, '' as description, s.charge, s.level_class, 'TiB-month' as unit, s.is_over, s.calendar, s.day_from,
        case s.charge when 'burst' then 1 else 377580 end as scale, -- lcm(28, 29, 30, 31): a day of any month is a whole number of parts
        s.charge = 'burst' and s.period_start < s.start_day + 60 as has_waiver
    from level_span as s
    union all
    select
        l.span_key, l.span_key, clock.month_start, clock.month_end, 'wolkvox', '', l.account, '', l.operation,
        l.api, 0, l.description, l.charge, null, l.unit, l.is_over, null, l.day_from, case l.rule when 'average' then l.days else 1 end, false
    from license_counted as l
    cross join clock
),

-- A price applies where each of its keys is equal or empty; the one with more to say wins.
wanted as materialized (
    select
        h.span_key, h.source, h.charge, waiver.is_waiver, h.period_start, h.period_end,
        case by_subscription when 1 then h.subscription_number else '' end as subscription_number,
        case by_item when 1 then h.item else '' end as item,
        case by_customer when 1 then h.customer_id else '' end as customer_id,
        case by_account when 1 then h.account else '' end as account,
        (8 * by_subscription + 4 * by_item + 2 * by_customer + by_account)::bigint as weight
    from head as h
    join (values (false), (true)) as waiver (is_waiver) on h.has_waiver or not waiver.is_waiver
    cross join generate_series(0, 1) as by_subscription
    cross join generate_series(0, 1) as by_item
    cross join generate_series(0, 1) as by_customer
    cross join generate_series(0, 1) as by_account
    where (by_item = 1 or h.level_class is distinct from 'unclassified')
        and (h.source = 'keystone' or by_subscription + by_customer = 0)
),

candidate as materialized (
    select
        w.span_key, w.is_waiver, r.rate_id, w.weight, w.period_end,
        greatest(r.valid_from, w.period_start) as price_from, least(coalesce(r.valid_to, w.period_end), w.period_end) as price_to
    from wanted as w
    join billing.rate as r
        on r.vendor = w.source and r.charge = w.charge and r.is_waiver = w.is_waiver and r.subscription_number = w.subscription_number
        and r.item = w.item and r.customer_id = w.customer_id and r.account = w.account
    where r.known_since <= statement_part.as_of and (r.superseded_at is null or r.superseded_at > statement_part.as_of)
        and r.valid_from <= w.period_end and coalesce(r.valid_to, w.period_end) >= w.period_start
),

-- The days between two changes of what applies.
segment as (
    select span_key, is_waiver, segment_from, coalesce(lead(segment_from) over (partition by span_key, is_waiver order by segment_from) - 1, period_end) as segment_to
    from (
        select span_key, is_waiver, period_end, price_from as segment_from from candidate
        union
        select span_key, is_waiver, period_end, price_to + 1 from candidate where price_to < period_end
    ) as cut
),

price as materialized (
    select s.span_key, s.is_waiver, s.segment_from, s.segment_to, (max(array[c.weight, c.rate_id]))[2] as rate_id
    from segment as s
    join candidate as c on c.span_key = s.span_key and c.is_waiver = s.is_waiver and c.price_from <= s.segment_from and c.price_to >= s.segment_to
    group by s.span_key, s.is_waiver, s.segment_from, s.segment_to
)

select
    statement_part.period, h.period_start, h.period_end, h.source, h.customer_id, h.account, h.subscription_number,
    h.discriminator, h.item, h.level_ordinal, h.description, h.charge, p.is_waiver, p.day,
    p.quantity, h.scale, p.basis, p.known_since, p.reading, p.doubt, h.level_class,
    h.unit, h.is_over, h.calendar, r.rate_id, h.line_key, h.span_key = h.line_key and p.day = h.day_from
from part as p
join head as h using (span_key)
left join price as r
    on r.span_key = p.span_key and r.is_waiver = p.is_waiver and p.priced_on >= r.segment_from and p.priced_on <= r.segment_to
$$;
-- +goose StatementEnd
comment on function billing.statement_part(text, timestamptz) is 'What statement and statement_day are made of: their days with those that are not due yet. Ask these two instead.';

-- +goose StatementBegin
create function billing.statement_day(period text, as_of timestamptz)
returns table (
    period text, period_start date, period_end date, source text, customer_id text, account text, subscription_number text,
    discriminator text, item text, level_ordinal integer, description text, charge text, is_waiver boolean, day date,
    quantity numeric, scale integer, basis text, known_since timestamptz, reading numeric, doubt text, rate_id bigint
)
language sql stable security definer
set search_path = pg_catalog
as $$
    select
        p.period, p.period_start, p.period_end, p.source, p.customer_id, p.account, p.subscription_number,
        p.discriminator, p.item, p.level_ordinal, p.description, p.charge, p.is_waiver, p.day,
        p.quantity, p.scale, p.basis, p.known_since, p.reading, p.doubt, p.rate_id
    from billing.statement_part(statement_day.period, statement_day.as_of) as p
    where p.basis <> 'not_due'
$$;
-- +goose StatementEnd
comment on function billing.statement_day(text, timestamptz) is 'The days of a statement''s lines, as known at an instant (infinity: now). quantity / scale is the day''s part of its line''s quantity, exact; NULL where unknown. basis: observed, estimated (the last commitment known before), absent_kept, dropped, missing. reading is the figure of the day itself: TiB committed, accrued burst, items. doubt says what keeps the line from being final: absent, partial, quarantine, estimated, missing, not closed.';

-- +goose StatementBegin
create function billing.computed_statement(period text, as_of timestamptz)
returns table (
    period text, period_start date, period_end date, source text, customer_id text, account text, subscription_number text,
    item text, charge text, quantity numeric, unit text, unit_price numeric, amount numeric, currency text, state text,
    days_expected integer, days_observed integer, discriminator text, description text, is_waiver boolean, level_class text,
    days_estimated integer, segment_from date, segment_to date, rate_id bigint, note text
)
language sql stable security definer
set search_path = pg_catalog
set enable_nestloop = off
set jit = off
set work_mem = '64MB'
as $$
with part as materialized (
    select * from billing.statement_part(computed_statement.period, computed_statement.as_of)
),

line_day as (
    -- Instances of one name are one line: totals by name stay right whatever the vendor's order.
    select
        p.line_key, p.is_waiver, p.rate_id, p.day,
        sum(p.quantity) as quantity,
        bool_and(p.basis = 'dropped') as is_dropped,
        bool_and(p.basis in ('observed', 'absent_kept', 'dropped')) as is_observed,
        bool_or(p.basis = 'estimated') as is_estimated,
        bool_or(p.basis = 'missing') as is_missing,
        bool_and(p.basis = 'not_due') as is_not_due,
        bool_or(p.basis = 'not_due' or p.doubt is not null) as is_doubtful,
        array_agg(p.doubt) filter (where p.doubt is not null) as doubts
    from part as p
    group by p.line_key, p.is_waiver, p.rate_id, p.day
),

line as (
    select
        d.line_key, d.is_waiver, d.rate_id,
        sum(d.quantity) as parts,
        (count(*) filter (where not d.is_dropped))::integer as days_expected,
        (count(*) filter (where d.is_observed and not d.is_dropped))::integer as days_observed,
        (count(*) filter (where d.is_estimated))::integer as days_estimated,
        count(*) filter (where d.is_missing) as days_missing,
        count(*) filter (where 'absent' = any (d.doubts)) as days_absent,
        count(*) filter (where 'partial' = any (d.doubts)) as days_partial,
        count(*) filter (where 'quarantine' = any (d.doubts)) as days_refused,
        coalesce(bool_or('not closed' = any (d.doubts)), false) as is_not_closed,
        bool_or(d.is_doubtful) as is_doubtful,
        min(d.day) as segment_from,
        max(d.day) as segment_to
    from line_day as d
    group by d.line_key, d.is_waiver, d.rate_id
    having bool_or(not d.is_not_due)
)

select
    computed_statement.period, h.period_start, h.period_end, h.source, h.customer_id, h.account, h.subscription_number,
    h.item, h.charge,
    trim_scale(billing.divide_rounded(l.parts, h.scale, 12)),
    h.unit,
    r.unit_price,
    billing.divide_rounded(l.parts * r.unit_price, h.scale, billing.currency_minor_units(r.currency)),
    r.currency,
    case when h.is_over and not l.is_doubtful then 'final' else 'provisional' end,
    l.days_expected, l.days_observed, h.discriminator, h.description, l.is_waiver, h.level_class,
    l.days_estimated, l.segment_from, l.segment_to, l.rate_id,
    nullif(concat_ws('; ',
        case
            when l.rate_id is null and h.level_class = 'unclassified' then 'no rate: an unclassified level needs one by its name'
            when l.rate_id is null then 'no rate'
        end,
        case when h.level_class = 'unclassified' and l.rate_id is not null then 'level is unclassified' end,
        h.calendar,
        case when not h.is_over then 'period is not over' end,
        case when l.days_estimated > 0 then 'days estimated: ' || l.days_estimated end,
        case when l.days_missing > 0 then 'days missing: ' || l.days_missing end,
        case when l.days_absent > 0 then 'days absent and neither kept nor dropped: ' || l.days_absent end,
        case when l.days_partial > 0 then 'days partial: ' || l.days_partial end,
        case when l.days_refused > 0 then 'days with open quarantine: ' || l.days_refused end,
        case when l.is_not_closed then 'no closing reading' end
    ), '')
from line as l
join part as h on h.line_key = l.line_key and h.is_head
left join billing.rate as r on r.rate_id = l.rate_id
$$;
-- +goose StatementEnd
comment on function billing.computed_statement(text, timestamptz) is 'The statement of a month from facts, prices and decisions, as known at an instant (infinity: now), whether the month is closed or not. Columns as in mart.statement.';

-- +goose StatementBegin
create function billing.is_closed(period text) returns boolean
language sql stable
set search_path = pg_catalog
as $$
    select false
$$;
-- +goose StatementEnd
comment on function billing.is_closed(text) is 'Whether a month is closed.';

-- +goose StatementBegin
create function billing.statement(period text, as_of timestamptz)
returns table (
    period text, period_start date, period_end date, source text, customer_id text, account text, subscription_number text,
    item text, charge text, quantity numeric, unit text, unit_price numeric, amount numeric, currency text, state text,
    days_expected integer, days_observed integer, discriminator text, description text, is_waiver boolean, level_class text,
    days_estimated integer, segment_from date, segment_to date, rate_id bigint, note text
)
language sql stable security definer
set search_path = pg_catalog
as $$
    select s.* from billing.computed_statement(statement.period, statement.as_of) as s
$$;
-- +goose StatementEnd
comment on function billing.statement(text, timestamptz) is 'The statement of a month as known at an instant (infinity: now). Columns as in mart.statement.';

-- +goose StatementBegin
create function billing.statement_months() returns table (period text)
language sql stable security definer
set search_path = pg_catalog
as $$
    select to_char(m, 'YYYY-MM')
    from (
        select
            least(
                (
                    select min(o.first_day)
                    from dw.dim_service_level as l
                    cross join lateral (
                        select min(d.usage_date) as first_day
                        from dw.fact_daily_consumption as d
                        where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key
                    ) as o
                ),
                (select min(expected_from) from ops.watermark where dataset = 'keystone.history'),
                (select (min(valid_from) at time zone 'UTC')::date from dw.fact_commitment),
                (select min(snapshot_date) from dw.fact_license_snapshot)
            ) as first_day,
            greatest(
                (billing.business_now() at time zone 'UTC')::date,
                (select max(snapshot_date) from dw.fact_license_snapshot),
                (
                    select max(period_end) from billing.period
                    where superseded_at is null and period_start <= (billing.business_now() at time zone 'UTC')::date
                )
            ) as last_day
    ) as extent
    cross join lateral generate_series(date_trunc('month', first_day::timestamp), date_trunc('month', last_day::timestamp), interval '1 month') as m
$$;
-- +goose StatementEnd
comment on function billing.statement_months() is 'The months that a statement may have something for: from the first day of anything to the last billing period that has begun.';

create view mart.statement as
select
    months.period, s.period_start, s.period_end, s.source, s.customer_id, s.account, s.subscription_number, s.item, s.charge,
    s.quantity, s.unit, s.unit_price, s.amount, s.currency, s.state, s.days_expected, s.days_observed, s.discriminator,
    s.description, s.is_waiver, s.level_class, s.days_estimated, s.segment_from, s.segment_to, s.rate_id, s.note
from billing.statement_months() as months
cross join lateral billing.statement(months.period, 'infinity') as s;
comment on view mart.statement is 'Grain: one row per line of a month''s statement: subscription or operation, item, charge, waiver and price. Filter period: other months are then not computed.';
comment on column mart.statement.period is 'Month, YYYY-MM, in which the billing period of the line ends.';
comment on column mart.statement.period_start is 'First day of the billing period, UTC (keystone) or local (wolkvox).';
comment on column mart.statement.period_end is 'Last day of the billing period, inclusive.';
comment on column mart.statement.source is 'Vendor: keystone or wolkvox.';
comment on column mart.statement.customer_id is 'Keystone customer; empty for wolkvox.';
comment on column mart.statement.account is 'Configured account.';
comment on column mart.statement.subscription_number is 'Keystone subscription; empty for wolkvox.';
comment on column mart.statement.item is 'Service level by name, its instances together, or wolkvox product.';
comment on column mart.statement.charge is 'committed, burst, license or usage.';
comment on column mart.statement.quantity is 'Quantity in the unit, 12 decimals at most, rounded half away from zero; NULL when no day of it is known. Add-on levels mirror base capacity: never sum quantities across level_class.';
comment on column mart.statement.unit is 'TiB-month (one TiB through a calendar month), or what the wolkvox product counts.';
comment on column mart.statement.unit_price is 'Price of one unit; NULL without a rate.';
comment on column mart.statement.amount is 'Exact quantity times unit_price, rounded once, half away from zero, to the minor unit of the currency; NULL without a rate.';
comment on column mart.statement.currency is 'ISO 4217 code; NULL without a rate. Never sum across currencies.';
comment on column mart.statement.state is 'provisional (the period is running, or days of it are in doubt: see note), final or closed.';
comment on column mart.statement.days_expected is 'Days of the line; those that were dropped by decision are not among them.';
comment on column mart.statement.days_observed is 'Of these, days of which every instance has figures of the vendor.';
comment on column mart.statement.discriminator is 'Tells subscriptions of one number apart, mostly empty; for wolkvox the operation.';
comment on column mart.statement.description is 'What the wolkvox figure belongs to, as delivered; empty for keystone.';
comment on column mart.statement.is_waiver is 'Whether it is burst of the first 60 days of the subscription.';
comment on column mart.statement.level_class is 'base, add_on or unclassified; NULL for wolkvox.';
comment on column mart.statement.days_estimated is 'Days that have the last commitment known before them.';
comment on column mart.statement.segment_from is 'First day of the line on which this price held.';
comment on column mart.statement.segment_to is 'Last day of the line on which this price held.';
comment on column mart.statement.rate_id is 'The price in billing.rate; NULL without one.';
comment on column mart.statement.note is 'Why there is no amount, why it is provisional, whether the calendar was assumed; NULL when there is nothing to say.';

-- +goose StatementBegin
create function billing.recomputed_burst(month date, as_of timestamptz default 'infinity', interval_minutes numeric default null)
returns table (
    month date, account text, customer_id text, subscription_number text, discriminator text, service_level text, level_ordinal integer,
    vendor_tib numeric, recomputed_tib numeric, difference_tib numeric, within_tolerance boolean, reading text, interval_minutes numeric,
    samples bigint, samples_expected bigint, days_observed integer, days_from_samples integer, days_from_daily_rows integer
)
language sql stable security definer
set search_path = pg_catalog
set enable_nestloop = off
set jit = off
as $$
with bounds as materialized (
    select m.month_start, m.month_start + interval '1 month' as month_until, extract(day from m.month_start + interval '1 month - 1 day')::integer as days
    from (select date_trunc('month', recomputed_burst.month::timestamp) as month_start) as m
),

daily as materialized (
    select l.customer_key, l.subscription_key, l.service_level_key, l.service_level, l.level_ordinal, d.*
    from dw.dim_service_level as l
    cross join bounds
    cross join lateral (
        select
            d.usage_date as day, d.sample_count, d.step_seconds, d.over_committed_avg_tib, d.accrued_sum_tib, d.accrued_last_tib, d.is_current
        from dw.daily_consumption_as_of(recomputed_burst.as_of) as d
        where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key
            and d.usage_date >= bounds.month_start::date and d.usage_date < bounds.month_until::date
        offset 0
    ) as d
),

sampled as materialized (
    select
        s.service_level_key, s.day, count(*) as samples, sum(s.over_tib) as over_tib,
        (array_agg(s.step order by s.step))[count(s.step) / 2 + 1] as step
    from (
        select
            f.service_level_key, (f.sampled_at at time zone 'UTC')::date as day, greatest(f.consumed_tib - f.committed_tib, 0) as over_tib,
            extract(epoch from f.sampled_at - lag(f.sampled_at) over (
                partition by f.customer_key, f.service_level_key, (f.sampled_at at time zone 'UTC')::date order by f.sampled_at
            )) as step
        from dw.fact_consumption_sample as f
        cross join bounds
        where f.sampled_at >= bounds.month_start at time zone 'UTC' and f.sampled_at < bounds.month_until at time zone 'UTC'
    ) as s
    group by s.service_level_key, s.day
),

-- The samples speak where they are all there and what was known of the day then is what is known now; else the daily row does.
day_sum as materialized (
    select
        d.*,
        s.samples is not null as is_from_samples,
        coalesce(s.step, d.step_seconds) as step,
        coalesce(s.over_tib, d.over_committed_avg_tib * d.sample_count) as over_tib
    from daily as d
    left join sampled as s on s.service_level_key = d.service_level_key and s.day = d.day and d.is_current and s.samples = d.sample_count
),

-- A day with a single sample has no step: that of the other days of the month, else the sample stands for the day.
usual as materialized (
    select service_level_key, (array_agg(step order by step))[count(step) / 2 + 1] as step
    from day_sum
    where step is not null
    group by service_level_key
),

timed as (
    select d.*, coalesce(recomputed_burst.interval_minutes * 60, d.step, u.step, 86400) as seconds
    from day_sum as d
    left join usual as u using (service_level_key)
),

level_month as (
    select
        t.customer_key, t.subscription_key, t.service_level, t.level_ordinal,
        billing.divide_rounded(sum(t.over_tib * t.seconds), bounds.days * 86400, 12) as recomputed_tib,
        case when count(t.accrued_sum_tib) = count(*) then sum(t.accrued_sum_tib) end as increment_tib,
        case when count(t.accrued_last_tib) = count(*) then (array_agg(t.accrued_last_tib order by t.day desc))[1] end as running_tib,
        (array_agg(t.seconds order by t.seconds))[count(*) / 2 + 1] as seconds,
        sum(t.sample_count) as samples,
        sum(div(86400, t.seconds))::bigint as samples_expected,
        count(*)::integer as days_observed,
        (count(*) filter (where t.is_from_samples))::integer as days_from_samples
    from timed as t
    cross join bounds
    group by t.customer_key, t.subscription_key, t.service_level_key, t.service_level, t.level_ordinal, bounds.days
)

select
    bounds.month_start::date, c.account, c.customer_id, s.subscription_number, s.discriminator, m.service_level, m.level_ordinal,
    v.vendor_tib, trim_scale(m.recomputed_tib), trim_scale(v.vendor_tib - m.recomputed_tib), abs(v.vendor_tib - m.recomputed_tib) <= 0.01,
    v.reading, trim_scale(billing.divide_rounded(m.seconds, 60, 12)), m.samples, m.samples_expected,
    m.days_observed, m.days_from_samples, m.days_observed - m.days_from_samples
from level_month as m
cross join bounds
join dw.dim_customer as c using (customer_key)
join dw.dim_subscription as s using (subscription_key)
left join billing.accrued_reading_as_of(recomputed_burst.as_of) as a on a.account = c.account and a.month = bounds.month_start::date
cross join lateral (
    select
        coalesce(a.reading, 'increment') as reading,
        trim_scale(case when a.reading = 'running' then m.running_tib else m.increment_tib end) as vendor_tib
) as v
$$;
-- +goose StatementEnd
comment on function billing.recomputed_burst(date, timestamptz, numeric) is 'Accrued burst of a UTC month by the documented formula, from the samples: what was over the commitment, weighted by the interval (the median step of the day, or the one given), over the minutes of the month; rounded once, to 12 decimals. Beside it the vendor''s figure, which is never changed. Days whose samples were pruned or have been superseded since as_of are taken from the daily rows, whose mean is rounded.';

create view mart.accrued_check as
select
    months.month, r.account, r.customer_id, r.subscription_number, r.service_level, r.level_ordinal,
    r.vendor_tib, r.recomputed_tib, r.difference_tib, r.within_tolerance, r.interval_minutes, r.samples, r.samples_expected,
    r.discriminator, r.reading, r.days_observed, r.days_from_samples, r.days_from_daily_rows
from (select (m.period || '-01')::date as month from billing.statement_months() as m) as months
cross join lateral billing.recomputed_burst(months.month) as r;
comment on view mart.accrued_check is 'Grain: one row per level instance and UTC month with at least one observed day: the vendor''s accrued burst beside our own from the samples. Filter month: other months are then not read.';
comment on column mart.accrued_check.month is 'First day of the UTC month.';
comment on column mart.accrued_check.account is 'Configured account.';
comment on column mart.accrued_check.customer_id is 'The vendor''s id of the customer.';
comment on column mart.accrued_check.subscription_number is 'The vendor''s number, as delivered.';
comment on column mart.accrued_check.service_level is 'Name as delivered.';
comment on column mart.accrued_check.level_ordinal is '0-based instance among equal names.';
comment on column mart.accrued_check.vendor_tib is 'Accrued burst of the month as the vendor says (TiB for a month), by the reading in force; NULL when a day lacks it.';
comment on column mart.accrued_check.recomputed_tib is 'The same by the documented formula from the samples, 12 decimals.';
comment on column mart.accrued_check.difference_tib is 'vendor_tib - recomputed_tib.';
comment on column mart.accrued_check.within_tolerance is 'Whether the difference is 0.01 TiB at most; NULL when the vendor''s figure is unknown.';
comment on column mart.accrued_check.interval_minutes is 'Interval by which samples were weighted: the median over the days of each day''s median step.';
comment on column mart.accrued_check.samples is 'Samples of the observed days.';
comment on column mart.accrued_check.samples_expected is 'Samples that the interval would give on the observed days; fewer mean gaps, which nothing is made up for.';
comment on column mart.accrued_check.discriminator is 'Empty unless several subscriptions share the number.';
comment on column mart.accrued_check.reading is 'How the vendor''s column is read in this month: increment or running.';
comment on column mart.accrued_check.days_observed is 'Days with samples.';
comment on column mart.accrued_check.days_from_samples is 'Of these, days that were recomputed from samples.';
comment on column mart.accrued_check.days_from_daily_rows is 'Of these, days whose samples were pruned: from their daily row, whose mean is rounded to 12 decimals.';

-- +goose StatementBegin
-- From daily rows only: it is asked by status.
create function billing.accrued_evidence(month date)
returns table (
    account text, month date, reading text, decided_by text, reason text, decided_at timestamptz, series bigint, non_decreasing_share numeric, resets bigint,
    increment_error_tib numeric, running_error_tib numeric, proposal text, is_contradicted boolean
)
language sql stable security definer
set search_path = pg_catalog
set enable_nestloop = off
set jit = off
as $$
with daily as materialized (
    select l.customer_key, l.service_level_key, d.*,
        lag(d.accrued_last_tib) over (partition by l.service_level_key order by d.usage_date) as former_tib,
        row_number() over (partition by l.service_level_key order by d.usage_date) as nth,
        extract(day from date_trunc('month', accrued_evidence.month::timestamp) + interval '1 month - 1 day')::integer as days
    from dw.dim_service_level as l
    cross join lateral (
        select f.usage_date, f.sample_count, f.step_seconds, f.over_committed_avg_tib, f.accrued_sum_tib, f.accrued_last_tib
        from dw.fact_daily_consumption as f
        where f.customer_key = l.customer_key and f.service_level_key = l.service_level_key
            and f.usage_date >= date_trunc('month', accrued_evidence.month::timestamp)::date
            and f.usage_date < (date_trunc('month', accrued_evidence.month::timestamp) + interval '1 month')::date
        offset 0
    ) as d
),

usual as materialized (
    select service_level_key, (array_agg(step_seconds order by step_seconds))[count(step_seconds) / 2 + 1] as step_seconds
    from daily
    where step_seconds is not null
    group by service_level_key
),

series as (
    select
        d.customer_key, d.service_level_key,
        sum(d.accrued_sum_tib) as increment_tib,
        (array_agg(d.accrued_last_tib order by d.usage_date desc))[1] as running_tib,
        sum(d.over_committed_avg_tib * d.sample_count * coalesce(d.step_seconds, u.step_seconds, 86400)) / (max(d.days) * 86400) as recomputed_tib,
        count(*) filter (where d.accrued_last_tib >= d.former_tib) as rises,
        count(*) filter (where d.nth > 1) as pairs,
        -- A total starts anew with the month.
        bool_or(d.nth = 1 and d.accrued_last_tib < (
            select f.accrued_last_tib
            from dw.fact_daily_consumption as f
            where f.customer_key = d.customer_key and f.service_level_key = d.service_level_key
                and f.usage_date < d.usage_date and f.usage_date >= d.usage_date - 31
            order by f.usage_date desc
            limit 1
        )) as is_reset
    from daily as d
    left join usual as u using (service_level_key)
    group by d.customer_key, d.service_level_key
    having count(d.accrued_sum_tib) = count(*) and count(d.accrued_last_tib) = count(*)
),

judged as (
    select
        c.account, count(*) as series, sum(s.rises) as rises, sum(s.pairs) as pairs, count(*) filter (where s.is_reset) as resets,
        sum(abs(s.increment_tib - s.recomputed_tib)) as increment_error_tib,
        sum(abs(s.running_tib - s.recomputed_tib)) as running_error_tib
    from series as s
    join dw.dim_customer as c using (customer_key)
    group by c.account
),

proposed as (
    select j.*, date_trunc('month', accrued_evidence.month::timestamp)::date as month,
        case
            when j.running_error_tib > 0.01 and 4 * j.increment_error_tib <= j.running_error_tib then 'increment'
            when j.increment_error_tib > 0.01 and 4 * j.running_error_tib <= j.increment_error_tib and j.rises = j.pairs then 'running'
        end as proposal
    from judged as j
)

select
    p.account, p.month, coalesce(a.reading, 'increment'), a.decided_by, a.reason, a.decided_at, p.series,
    round(p.rises / nullif(p.pairs, 0), 4), p.resets, round(p.increment_error_tib, 6), round(p.running_error_tib, 6),
    p.proposal, coalesce(p.proposal <> coalesce(a.reading, 'increment'), false)
from proposed as p
left join dw.accrued_reading as a on a.account = p.account and a.month = p.month
$$;
-- +goose StatementEnd
comment on function billing.accrued_evidence(date) is 'What the daily rows of a UTC month say about how the vendor''s accrued column is to be read, per account. Columns as in mart.accrued_evidence.';

create view mart.accrued_evidence as
select
    e.account, months.month, e.reading, e.decided_by, e.reason, e.decided_at, e.series, e.non_decreasing_share, e.resets,
    e.increment_error_tib, e.running_error_tib, e.proposal, e.is_contradicted
from (select (m.period || '-01')::date as month from billing.statement_months() as m) as months
cross join lateral billing.accrued_evidence(months.month) as e;
comment on view mart.accrued_evidence is 'Grain: one row per account and UTC month: how the vendor''s accrued column is read and what speaks for it. Filter month: other months are then not read.';
comment on column mart.accrued_evidence.account is 'Configured Keystone account.';
comment on column mart.accrued_evidence.month is 'First day of the UTC month.';
comment on column mart.accrued_evidence.reading is 'Reading in force: increment (a day is the sum of its samples; the default) or running (the difference of the last samples of neighbouring days).';
comment on column mart.accrued_evidence.decided_by is 'Who decided; NULL while nobody has and the default holds.';
comment on column mart.accrued_evidence.reason is 'On what evidence; NULL as above.';
comment on column mart.accrued_evidence.decided_at is 'When; NULL as above.';
comment on column mart.accrued_evidence.series is 'Level instances whose every observed day has the vendor''s figure; the others prove nothing.';
comment on column mart.accrued_evidence.non_decreasing_share is 'Share of neighbouring days on which the figure did not fall: 1 for a total, by chance less for increments; NULL when there are no neighbours.';
comment on column mart.accrued_evidence.resets is 'Level instances whose first figure of the month is less than their last of the month before, as a total has it.';
comment on column mart.accrued_evidence.increment_error_tib is 'How far the month''s sums of increments are from the recomputed burst, added over the series, TiB.';
comment on column mart.accrued_evidence.running_error_tib is 'How far the month''s last figures are from the recomputed burst, added over the series, TiB.';
comment on column mart.accrued_evidence.proposal is 'The reading that fits at least four times better; NULL when the figures do not tell, as without burst.';
comment on column mart.accrued_evidence.is_contradicted is 'Whether the proposal is another than the reading in force.';

-- +goose Down
drop view mart.accrued_evidence;
drop view mart.accrued_check;
drop function billing.accrued_evidence(date);
drop function billing.recomputed_burst(date, timestamptz, numeric);
drop view mart.statement;
drop function billing.statement_months();
drop function billing.statement(text, timestamptz);
drop function billing.is_closed(text);
drop function billing.computed_statement(text, timestamptz);
drop function billing.statement_day(text, timestamptz);
drop function billing.statement_part(text, timestamptz);
drop function mart.month_as_of(timestamptz);
drop function mart.daily_consumption_as_of(timestamptz);
drop function billing.accrued_reading_as_of(timestamptz);
drop function billing.divide_rounded(numeric, numeric, integer);
drop function billing.business_now();
drop table billing.accrued_decision;
drop function dw.daily_consumption_as_of(timestamptz);
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
