-- Burst is waived once, however many subscriptions follow each other: the third of a number had its days counted from the
-- start of the second, so that a short one between two waived up to 60 days again. A function and a view: locks nothing for
-- long; nothing to replay. Months that are closed show it as adjustments.

-- +goose Up
-- +goose StatementBegin
create or replace function billing.statement_part(period text, as_of timestamptz)
returns table (
    period text, period_start date, period_end date, source text, customer_id text, account text, subscription_number text,
    discriminator text, item text, level_ordinal integer, description text, charge text, is_waiver boolean, day date,
    quantity numeric, scale integer, basis text, known_since timestamptz, reading numeric, doubt text, level_class text,
    unit text, is_over boolean, calendar text, rate_id bigint, line_key bigint, is_head boolean
)
language sql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off -- the planner cannot tell how many rows the steps have, and joining them row by row takes minutes
set enable_mergejoin = off -- nor that they would have to be sorted first
set jit = off
set work_mem = '64MB'
as $$
with recursive clock as materialized (
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
        coalesce(w.settle, interval '0') as settle,
        (t.first_start_at at time zone 'UTC')::date as first_start_day
    from dw.dim_subscription as s
    join dw.dim_customer as c using (customer_key)
    left join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
    left join lateral (
        select f.start_at, f.end_at, true as is_told
        from dw.fact_subscription as f
        where f.customer_key = s.customer_key and f.subscription_key = s.subscription_key
            and f.valid_from <= statement_part.as_of and (f.valid_to is null or f.valid_to > statement_part.as_of)
    ) as v on true
    left join (
        select f.customer_key, f.subscription_key, min(f.start_at) as first_start_at
        from dw.fact_subscription as f
        where f.valid_from <= statement_part.as_of
        group by f.customer_key, f.subscription_key
    ) as t using (customer_key, subscription_key)
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

-- A subscription that had been in use for the length of the waiver before it starts, as told now, was renewed: it
-- began with the first start that was told, or with its first day. A start less far away was corrected.
beginning as materialized (
    select
        b.*,
        case when b.first_day < b.start_day and least(b.first_start_day, b.first_day) + 60 <= b.start_day then least(b.first_start_day, b.first_day)
            else coalesce(b.start_day, b.first_start_day) end as began_on
    from (
        select s.subscription_key, s.customer_id, s.subscription_number, s.start_day, s.end_day, s.first_start_day, min(l.first_observed) as first_day
        from subscription as s
        left join level as l using (subscription_key)
        group by s.subscription_key, s.customer_id, s.subscription_number, s.start_day, s.end_day, s.first_start_day
    ) as b
),

-- Burst is waived once: the subscription of the same number that starts where another ends goes on with its days, and
-- the one after it too. Portals tell an end a day apart.
renewal as (
    select b.subscription_key, b.customer_id, b.subscription_number, b.began_on
    from beginning as b
    union
    select r.subscription_key, r.customer_id, r.subscription_number, f.began_on
    from renewal as r
    join beginning as f on f.customer_id = r.customer_id and f.subscription_number = r.subscription_number
        and f.began_on < r.began_on and f.end_day between r.began_on - 2 and r.began_on + 1
),

waiver as materialized (
    select subscription_key, max(began_on) as began_on, min(began_on) + 60 as waived_before
    from renewal
    group by subscription_key
),

-- A level is expected from its first observed day on; where no level of its subscription was observed before it, from
-- the start of the subscription on, as far as the history goes back. A name that history never told is expected by the contract alone.
-- Observed days beyond the end count: the vendor's portals differ by a day.
expected as materialized (
    select
        l.*, w.waived_before,
        case
            when l.first_observed = l.subscription_observed and w.began_on is not null and l.expected_from is not null
                then least(l.first_observed, greatest(w.began_on, l.expected_from))
            when l.first_observed is not null then l.first_observed
            when not l.is_metered then case when t.first_told is null or w.began_on is null then t.first_told else greatest(w.began_on, l.expected_from) end
        end as first_day,
        case when l.first_observed is not null then greatest(coalesce(l.end_day, 'infinity'), l.last_observed)
            else least(coalesce(l.end_day, 'infinity'), coalesce(t.gone_on, 'infinity')) end as last_day
    from level as l
    join waiver as w using (subscription_key)
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

-- A committed period of whole months that does not begin on the 1st counts as those months, however many days
-- they have: 15 September to 14 October is one. Other periods are weighed by calendar months. An anchor that
-- a month is too short for shows at the end of the period.
anchored_month as materialized (
    select p.period_start, p.period_end, m.month_from, m.month_until - m.month_from as days,
        m.month_until - 1 as month_to
    from (
        select distinct on (s.period_start, s.period_end) s.period_start, s.period_end, s.period_end + 1 as period_until,
            ((extract(year from s.period_end + 1) - extract(year from s.period_start)) * 12
                + extract(month from s.period_end + 1) - extract(month from s.period_start))::integer as months
        from level_span as s
        where s.charge = 'committed' and extract(day from s.period_start) <> 1
    ) as p
    cross join lateral (select (p.period_start + p.months * interval '1 month')::date = p.period_until as is_from_start) as w
    cross join lateral (
        select
            case when w.is_from_start then p.period_start + n * interval '1 month' else p.period_until - (p.months - n) * interval '1 month' end::date as month_from,
            case when w.is_from_start then p.period_start + (n + 1) * interval '1 month' else p.period_until - (p.months - n - 1) * interval '1 month' end::date as month_until
        from generate_series(0, p.months - 1) as n
    ) as m
    where w.is_from_start or (p.period_until - p.months * interval '1 month')::date = p.period_start
),

-- The days that spans of a level reach over, from the first of a month on: a running total begins there.
reach as materialized (
    select customer_key, service_level_key, account, date_trunc('month', min(period_start))::date as first_day, max(period_end) as last_day
    from level_span
    group by customer_key, service_level_key, account
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
    from reach as r
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
    join billing.absence as a using (customer_id, subscription_number, discriminator, service_level, level_ordinal)
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
        ) as is_refused
    from level_span as s
    cross join clock
    cross join lateral (select s.day_from + i as day from generate_series(0, s.day_until - s.day_from) as i) as days
    left join daily as d on d.service_level_key = s.service_level_key and d.usage_date = days.day
    left join decision as a on a.service_level_key = s.service_level_key and days.day >= a.first_day and days.day <= a.last_day
),

-- A day without figures has the last commitment that was known before it: of the days before, else of the contract.
gap as materialized (
    select e.span_key, e.day, s.customer_key, s.service_level_key
    from slot as e
    join level_span as s using (span_key)
    where not e.is_there and not e.is_not_due and e.charge = 'committed'
),

told as materialized (
    select
        d.service_level_key, d.usage_date, d.committed_tib,
        coalesce(lead(d.usage_date) over (partition by d.service_level_key order by d.usage_date), 'infinity') as next_date
    from daily as d
    where d.service_level_key in (select g.service_level_key from gap as g)
),

before as materialized (
    select r.service_level_key, b.committed_tib
    from reach as r
    cross join lateral (
        select x.committed_tib
        from (
            (
                select d.usage_date, d.committed_tib from dw.fact_daily_consumption as d
                where d.customer_key = r.customer_key and d.service_level_key = r.service_level_key and d.usage_date < r.first_day
                    and d.known_since <= statement_part.as_of
                order by d.usage_date desc limit 1
            )
            union all
            (
                select f.usage_date, f.committed_tib from dw.restatement as f
                where f.customer_key = r.customer_key and f.service_level_key = r.service_level_key and f.usage_date < r.first_day
                    and statement_part.as_of < 'infinity' and f.known_from <= statement_part.as_of and statement_part.as_of < f.known_until
                order by f.usage_date desc limit 1
            )
        ) as x
        order by x.usage_date desc
        limit 1
    ) as b
    where r.service_level_key in (select g.service_level_key from gap as g)
),

estimate as materialized (
    select
        g.span_key, g.day,
        coalesce(
            t.committed_tib,
            b.committed_tib,
            (
                select f.committed_tib
                from dw.fact_commitment as f
                where f.customer_key = g.customer_key and f.service_level_key = g.service_level_key
                    and f.valid_from < (g.day + 1)::timestamp at time zone 'UTC' and f.valid_from <= statement_part.as_of
                order by f.valid_from desc
                limit 1
            )
        ) as estimate_tib
    from gap as g
    left join told as t on t.service_level_key = g.service_level_key and t.usage_date < g.day and t.next_date > g.day
    left join before as b on b.service_level_key = g.service_level_key
),

judged as (
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
    left join estimate as g using (span_key, day)
),

level_part as (
    select
        j.span_key, j.day,
        coalesce(s.charge = 'burst' and j.day < s.waived_before, false) as is_waiver,
        case
            when j.basis = 'dropped' then 0
            when s.charge = 'burst' then j.reading
            else j.reading * (377580 / coalesce(m.days, extract(day from date_trunc('month', j.day::timestamp) + interval '1 month - 1 day')::integer))
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
    left join anchored_month as m
        on s.charge = 'committed' and m.period_start = s.period_start and m.period_end = s.period_end and j.day >= m.month_from and j.day <= m.month_to
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

-- What was told in the month before and is not in this one is missing as a whole where no run of the month was whole, or
-- one failed on it.
license_lost as (
    select l.operation_key, l.product_key, l.description
    from (
        select distinct f.operation_key, f.product_key, f.description
        from dw.fact_license_snapshot as f
        cross join clock
        where f.snapshot_date >= clock.month_start - interval '1 month' and f.snapshot_date < clock.month_start
    ) as l
    join dw.dim_operation as o using (operation_key)
    join dw.dim_product as p using (product_key)
    cross join clock
    cross join lateral (
        select
            coalesce(bool_or(r.status = 'ok' and r.error is null), false) as is_whole,
            coalesce(bool_or(r.error ~ ('(?:^|\n)(?:extract|transform) ' || p.api || ': ')), false) as is_failed
        from ops.run as r
        where r.dataset = 'wolkvox.billing' and r.scope = o.account and r.replay_of is null
            and r.business_at >= clock.month_start::timestamp at time zone o.zone and r.business_at < (clock.month_end + 1)::timestamp at time zone o.zone
            and r.business_at <= statement_part.as_of
    ) as r
    where (r.is_failed or not r.is_whole)
        and not exists (select from license_day as d where d.operation_key = l.operation_key and d.product_key = l.product_key)
),

license_line as materialized (
    select
        d.operation_key, d.product_key, d.description, o.account, o.operation, p.api, p.unit, o.zone,
        case p.kind when 'gauge' then 'license' else 'usage' end as charge,
        case when p.kind = 'counter' then 'last' else coalesce(r.rule, 'max') end as rule,
        count(d.day)::integer as days,
        coalesce(max(d.day), clock.month_end) as last_day,
        max(d.items_max) as items_max,
        min(d.day) as first_day,
        -- Of each description: one that is told no more was renamed maybe, and counts twice.
        coalesce(bool_or(
            d.day = clock.month_end and (d.is_imported or d.read_at >= (d.day + 1)::timestamp at time zone coalesce(d.zone, o.zone) - interval '55 minutes')
        ), false) as is_closed,
        coalesce(bool_or(d.day = clock.month_end and d.is_imported), false) as is_asked, -- whoever imports it has the vendor's word for the month
        (clock.month_end + 1)::timestamp at time zone o.zone <= clock.now_at as is_over
    from (
        select operation_key, product_key, description, day, items_max, read_at, is_imported, zone from license_day
        union all
        select operation_key, product_key, description, null, null, null, null, null from license_lost
    ) as d
    join dw.dim_operation as o using (operation_key)
    join dw.dim_product as p using (product_key)
    cross join clock
    left join billing.product_rule as r on r.product = p.api
        and r.known_since <= statement_part.as_of and (r.superseded_at is null or r.superseded_at > statement_part.as_of)
    group by d.operation_key, d.product_key, d.description, o.account, o.operation, p.api, p.unit, p.kind, o.zone, r.rule, clock.month_end, clock.now_at
),

license_counted as materialized (
    select l.*, -row_number() over () as span_key, -- apart from those of level_span
        case when l.first_day is null or exists (
            select from dw.fact_license_snapshot as f
            where f.operation_key = l.operation_key and f.product_key = l.product_key and f.description = l.description
                and f.snapshot_date >= clock.month_start - interval '1 month' and f.snapshot_date < clock.month_start
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
            -- A counter that falls was reset or corrected. On the first day it is the month before that it told.
            when l.charge = 'usage' and (d.items < d.former_items or d.items < d.items_max and days.day > clock.month_start) then 'fell'
            -- The greatest or the mean of a month may be on a day that nobody saw.
            when d.day is null and l.rule <> 'last' and not l.is_asked and (days.day + 1)::timestamp at time zone l.zone <= clock.now_at then 'missing'
        end as doubt,
        coalesce(l.counted_on, days.day) as priced_on
    from license_counted as l
    cross join clock
    cross join lateral (select l.day_from + i as day from generate_series(0, clock.month_end - l.day_from) as i) as days
    left join (
        select d.*, lag(d.items) over (partition by d.operation_key, d.product_key, d.description order by d.day) as former_items
        from license_day as d
    ) as d on d.operation_key = l.operation_key and d.product_key = l.product_key and d.description = l.description and d.day = days.day
),

part as (
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
        s.charge = 'burst' and s.period_start < s.waived_before as has_waiver
    from level_span as s
    union all
    select
        l.span_key, l.span_key, clock.month_start, clock.month_end, 'wolkvox', '', l.account, '', l.operation,
        l.api, 0, l.description, l.charge, null, l.unit, l.is_over, null, l.day_from, case l.rule when 'average' then greatest(l.days, 1) else 1 end, false
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

create or replace view mart.monthly_burst as
with recursive subscription as (
    select
        s.customer_key,
        s.subscription_key,
        s.subscription_number,
        (case when f.customer_key is null then s.start_at else f.start_at end at time zone 'UTC')::date as start_day, -- as told last, even when that is nothing
        (case when f.customer_key is null then s.end_at else f.end_at end at time zone 'UTC')::date as end_day,
        (
            select (min(t.start_at) at time zone 'UTC')::date
            from dw.fact_subscription as t
            where t.customer_key = s.customer_key and t.subscription_key = s.subscription_key
        ) as first_start_day,
        (
            select min(o.first_day)
            from dw.dim_service_level as l
            cross join lateral (
                (
                    select d.usage_date as first_day from dw.fact_daily_consumption as d
                    where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key
                    order by d.usage_date limit 1
                )
                union all
                (
                    select r.usage_date from dw.restatement as r
                    where r.customer_key = l.customer_key and r.service_level_key = l.service_level_key
                        and r.known_from < r.known_until -- not what was read anew
                    order by r.usage_date limit 1
                )
            ) as o
            where l.customer_key = s.customer_key and l.subscription_key = s.subscription_key
        ) as first_day
    from dw.dim_subscription as s
    left join dw.fact_subscription as f on f.customer_key = s.customer_key and f.subscription_key = s.subscription_key and f.valid_to is null
),

-- When a subscription began and how long its burst is waived is told as in billing.statement_part: a renewal,
-- in place or by a subscription that goes on with the days of another, does not start the waiver anew.
beginning as (
    select
        *,
        case when first_day < start_day and least(first_start_day, first_day) + 60 <= start_day then least(first_start_day, first_day)
            else coalesce(start_day, first_start_day) end as began_on
    from subscription
),

renewal as (
    select b.subscription_key, b.customer_key, b.subscription_number, b.began_on
    from beginning as b
    union
    select r.subscription_key, r.customer_key, r.subscription_number, f.began_on
    from renewal as r
    join beginning as f on f.customer_key = r.customer_key and f.subscription_number = r.subscription_number
        and f.began_on < r.began_on and f.end_day between r.began_on - 2 and r.began_on + 1
),

waiver as (
    select subscription_key, min(began_on) + 60 as waived_before
    from renewal
    group by subscription_key
)

select
    c.customer_id,
    c.customer_name,
    s.subscription_number,
    s.discriminator,
    l.service_level,
    l.level_ordinal,
    l.level_class,
    date_trunc('month', d.usage_date::timestamp)::date as month,
    count(*)::integer as days_observed,
    count(*) filter (where d.over_committed_avg_tib > 0)::integer as days_over_commitment,
    -- Differences of a running total add up to its last figure.
    case
        when max(a.reading) = 'running' then case
            when count(d.accrued_last_tib) = count(*)
                then (array_agg(d.accrued_last_tib order by d.usage_date desc) filter (where a.reading = 'running'))[1]
        end
        when count(d.accrued_sum_tib) = count(*) then sum(d.accrued_sum_tib)
    end as accrued_burst_tib,
    case
        when w.waived_before is null then null
        when max(a.reading) = 'running' then case
            when count(d.accrued_last_tib) = count(*)
                then coalesce((array_agg(d.accrued_last_tib order by d.usage_date desc) filter (where a.reading = 'running' and d.usage_date < w.waived_before))[1], 0)
        end
        when count(d.accrued_sum_tib) = count(*) then coalesce(sum(d.accrued_sum_tib) filter (where d.usage_date < w.waived_before), 0)
    end as waiver_burst_tib,
    max(d.over_committed_avg_tib) as worst_day_tib,
    (array_agg(d.usage_date order by d.over_committed_avg_tib desc, d.usage_date) filter (where d.over_committed_avg_tib > 0))[1] as worst_day
from dw.fact_daily_consumption as d
join dw.dim_service_level as l using (service_level_key)
join dw.dim_subscription as s using (subscription_key)
join dw.dim_customer as c on c.customer_key = d.customer_key
join waiver as w using (subscription_key)
left join dw.accrued_reading as a on a.account = c.account and a.month = date_trunc('month', d.usage_date::timestamp)::date
group by -- what sorts fast first
    l.service_level_key, date_trunc('month', d.usage_date::timestamp), w.waived_before, l.level_ordinal,
    c.customer_id, c.customer_name, s.subscription_number, s.discriminator, l.service_level, l.level_class;

-- +goose Down
-- +goose StatementBegin
create or replace function billing.statement_part(period text, as_of timestamptz)
returns table (
    period text, period_start date, period_end date, source text, customer_id text, account text, subscription_number text,
    discriminator text, item text, level_ordinal integer, description text, charge text, is_waiver boolean, day date,
    quantity numeric, scale integer, basis text, known_since timestamptz, reading numeric, doubt text, level_class text,
    unit text, is_over boolean, calendar text, rate_id bigint, line_key bigint, is_head boolean
)
language sql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off -- the planner cannot tell how many rows the steps have, and joining them row by row takes minutes
set enable_mergejoin = off -- nor that they would have to be sorted first
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
        coalesce(w.settle, interval '0') as settle,
        (t.first_start_at at time zone 'UTC')::date as first_start_day
    from dw.dim_subscription as s
    join dw.dim_customer as c using (customer_key)
    left join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
    left join lateral (
        select f.start_at, f.end_at, true as is_told
        from dw.fact_subscription as f
        where f.customer_key = s.customer_key and f.subscription_key = s.subscription_key
            and f.valid_from <= statement_part.as_of and (f.valid_to is null or f.valid_to > statement_part.as_of)
    ) as v on true
    left join (
        select f.customer_key, f.subscription_key, min(f.start_at) as first_start_at
        from dw.fact_subscription as f
        where f.valid_from <= statement_part.as_of
        group by f.customer_key, f.subscription_key
    ) as t using (customer_key, subscription_key)
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

-- A subscription that had been in use for the length of the waiver before it starts, as told now, was renewed: it
-- began with the first start that was told, or with its first day. A start less far away was corrected.
beginning as materialized (
    select
        b.*,
        case when b.first_day < b.start_day and least(b.first_start_day, b.first_day) + 60 <= b.start_day then least(b.first_start_day, b.first_day)
            else coalesce(b.start_day, b.first_start_day) end as began_on
    from (
        select s.subscription_key, s.customer_id, s.subscription_number, s.start_day, s.end_day, s.first_start_day, min(l.first_observed) as first_day
        from subscription as s
        left join level as l using (subscription_key)
        group by s.subscription_key, s.customer_id, s.subscription_number, s.start_day, s.end_day, s.first_start_day
    ) as b
),

-- Burst is waived once: the subscription of the same number that starts where another ends goes on with its days.
-- Portals tell an end a day apart.
waiver as materialized (
    select b.subscription_key, b.began_on, coalesce(min(f.began_on), b.began_on) + 60 as waived_before
    from beginning as b
    left join beginning as f on f.customer_id = b.customer_id and f.subscription_number = b.subscription_number
        and f.subscription_key <> b.subscription_key and f.began_on < b.began_on and f.end_day between b.began_on - 2 and b.began_on + 1
    group by b.subscription_key, b.began_on
),

-- A level is expected from its first observed day on; where no level of its subscription was observed before it, from
-- the start of the subscription on, as far as the history goes back. A name that history never told is expected by the contract alone.
-- Observed days beyond the end count: the vendor's portals differ by a day.
expected as materialized (
    select
        l.*, w.waived_before,
        case
            when l.first_observed = l.subscription_observed and w.began_on is not null and l.expected_from is not null
                then least(l.first_observed, greatest(w.began_on, l.expected_from))
            when l.first_observed is not null then l.first_observed
            when not l.is_metered then case when t.first_told is null or w.began_on is null then t.first_told else greatest(w.began_on, l.expected_from) end
        end as first_day,
        case when l.first_observed is not null then greatest(coalesce(l.end_day, 'infinity'), l.last_observed)
            else least(coalesce(l.end_day, 'infinity'), coalesce(t.gone_on, 'infinity')) end as last_day
    from level as l
    join waiver as w using (subscription_key)
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

-- A committed period of whole months that does not begin on the 1st counts as those months, however many days
-- they have: 15 September to 14 October is one. Other periods are weighed by calendar months. An anchor that
-- a month is too short for shows at the end of the period.
anchored_month as materialized (
    select p.period_start, p.period_end, m.month_from, m.month_until - m.month_from as days,
        m.month_until - 1 as month_to
    from (
        select distinct on (s.period_start, s.period_end) s.period_start, s.period_end, s.period_end + 1 as period_until,
            ((extract(year from s.period_end + 1) - extract(year from s.period_start)) * 12
                + extract(month from s.period_end + 1) - extract(month from s.period_start))::integer as months
        from level_span as s
        where s.charge = 'committed' and extract(day from s.period_start) <> 1
    ) as p
    cross join lateral (select (p.period_start + p.months * interval '1 month')::date = p.period_until as is_from_start) as w
    cross join lateral (
        select
            case when w.is_from_start then p.period_start + n * interval '1 month' else p.period_until - (p.months - n) * interval '1 month' end::date as month_from,
            case when w.is_from_start then p.period_start + (n + 1) * interval '1 month' else p.period_until - (p.months - n - 1) * interval '1 month' end::date as month_until
        from generate_series(0, p.months - 1) as n
    ) as m
    where w.is_from_start or (p.period_until - p.months * interval '1 month')::date = p.period_start
),

-- The days that spans of a level reach over, from the first of a month on: a running total begins there.
reach as materialized (
    select customer_key, service_level_key, account, date_trunc('month', min(period_start))::date as first_day, max(period_end) as last_day
    from level_span
    group by customer_key, service_level_key, account
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
    from reach as r
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
    join billing.absence as a using (customer_id, subscription_number, discriminator, service_level, level_ordinal)
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
        ) as is_refused
    from level_span as s
    cross join clock
    cross join lateral (select s.day_from + i as day from generate_series(0, s.day_until - s.day_from) as i) as days
    left join daily as d on d.service_level_key = s.service_level_key and d.usage_date = days.day
    left join decision as a on a.service_level_key = s.service_level_key and days.day >= a.first_day and days.day <= a.last_day
),

-- A day without figures has the last commitment that was known before it: of the days before, else of the contract.
gap as materialized (
    select e.span_key, e.day, s.customer_key, s.service_level_key
    from slot as e
    join level_span as s using (span_key)
    where not e.is_there and not e.is_not_due and e.charge = 'committed'
),

told as materialized (
    select
        d.service_level_key, d.usage_date, d.committed_tib,
        coalesce(lead(d.usage_date) over (partition by d.service_level_key order by d.usage_date), 'infinity') as next_date
    from daily as d
    where d.service_level_key in (select g.service_level_key from gap as g)
),

before as materialized (
    select r.service_level_key, b.committed_tib
    from reach as r
    cross join lateral (
        select x.committed_tib
        from (
            (
                select d.usage_date, d.committed_tib from dw.fact_daily_consumption as d
                where d.customer_key = r.customer_key and d.service_level_key = r.service_level_key and d.usage_date < r.first_day
                    and d.known_since <= statement_part.as_of
                order by d.usage_date desc limit 1
            )
            union all
            (
                select f.usage_date, f.committed_tib from dw.restatement as f
                where f.customer_key = r.customer_key and f.service_level_key = r.service_level_key and f.usage_date < r.first_day
                    and statement_part.as_of < 'infinity' and f.known_from <= statement_part.as_of and statement_part.as_of < f.known_until
                order by f.usage_date desc limit 1
            )
        ) as x
        order by x.usage_date desc
        limit 1
    ) as b
    where r.service_level_key in (select g.service_level_key from gap as g)
),

estimate as materialized (
    select
        g.span_key, g.day,
        coalesce(
            t.committed_tib,
            b.committed_tib,
            (
                select f.committed_tib
                from dw.fact_commitment as f
                where f.customer_key = g.customer_key and f.service_level_key = g.service_level_key
                    and f.valid_from < (g.day + 1)::timestamp at time zone 'UTC' and f.valid_from <= statement_part.as_of
                order by f.valid_from desc
                limit 1
            )
        ) as estimate_tib
    from gap as g
    left join told as t on t.service_level_key = g.service_level_key and t.usage_date < g.day and t.next_date > g.day
    left join before as b on b.service_level_key = g.service_level_key
),

judged as (
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
    left join estimate as g using (span_key, day)
),

level_part as (
    select
        j.span_key, j.day,
        coalesce(s.charge = 'burst' and j.day < s.waived_before, false) as is_waiver,
        case
            when j.basis = 'dropped' then 0
            when s.charge = 'burst' then j.reading
            else j.reading * (377580 / coalesce(m.days, extract(day from date_trunc('month', j.day::timestamp) + interval '1 month - 1 day')::integer))
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
    left join anchored_month as m
        on s.charge = 'committed' and m.period_start = s.period_start and m.period_end = s.period_end and j.day >= m.month_from and j.day <= m.month_to
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

-- What was told in the month before and is not in this one is missing as a whole where no run of the month was whole, or
-- one failed on it.
license_lost as (
    select l.operation_key, l.product_key, l.description
    from (
        select distinct f.operation_key, f.product_key, f.description
        from dw.fact_license_snapshot as f
        cross join clock
        where f.snapshot_date >= clock.month_start - interval '1 month' and f.snapshot_date < clock.month_start
    ) as l
    join dw.dim_operation as o using (operation_key)
    join dw.dim_product as p using (product_key)
    cross join clock
    cross join lateral (
        select
            coalesce(bool_or(r.status = 'ok' and r.error is null), false) as is_whole,
            coalesce(bool_or(r.error ~ ('(?:^|\n)(?:extract|transform) ' || p.api || ': ')), false) as is_failed
        from ops.run as r
        where r.dataset = 'wolkvox.billing' and r.scope = o.account and r.replay_of is null
            and r.business_at >= clock.month_start::timestamp at time zone o.zone and r.business_at < (clock.month_end + 1)::timestamp at time zone o.zone
            and r.business_at <= statement_part.as_of
    ) as r
    where (r.is_failed or not r.is_whole)
        and not exists (select from license_day as d where d.operation_key = l.operation_key and d.product_key = l.product_key)
),

license_line as materialized (
    select
        d.operation_key, d.product_key, d.description, o.account, o.operation, p.api, p.unit, o.zone,
        case p.kind when 'gauge' then 'license' else 'usage' end as charge,
        case when p.kind = 'counter' then 'last' else coalesce(r.rule, 'max') end as rule,
        count(d.day)::integer as days,
        coalesce(max(d.day), clock.month_end) as last_day,
        max(d.items_max) as items_max,
        min(d.day) as first_day,
        -- Of each description: one that is told no more was renamed maybe, and counts twice.
        coalesce(bool_or(
            d.day = clock.month_end and (d.is_imported or d.read_at >= (d.day + 1)::timestamp at time zone coalesce(d.zone, o.zone) - interval '55 minutes')
        ), false) as is_closed,
        coalesce(bool_or(d.day = clock.month_end and d.is_imported), false) as is_asked, -- whoever imports it has the vendor's word for the month
        (clock.month_end + 1)::timestamp at time zone o.zone <= clock.now_at as is_over
    from (
        select operation_key, product_key, description, day, items_max, read_at, is_imported, zone from license_day
        union all
        select operation_key, product_key, description, null, null, null, null, null from license_lost
    ) as d
    join dw.dim_operation as o using (operation_key)
    join dw.dim_product as p using (product_key)
    cross join clock
    left join billing.product_rule as r on r.product = p.api
        and r.known_since <= statement_part.as_of and (r.superseded_at is null or r.superseded_at > statement_part.as_of)
    group by d.operation_key, d.product_key, d.description, o.account, o.operation, p.api, p.unit, p.kind, o.zone, r.rule, clock.month_end, clock.now_at
),

license_counted as materialized (
    select l.*, -row_number() over () as span_key, -- apart from those of level_span
        case when l.first_day is null or exists (
            select from dw.fact_license_snapshot as f
            where f.operation_key = l.operation_key and f.product_key = l.product_key and f.description = l.description
                and f.snapshot_date >= clock.month_start - interval '1 month' and f.snapshot_date < clock.month_start
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
            -- A counter that falls was reset or corrected. On the first day it is the month before that it told.
            when l.charge = 'usage' and (d.items < d.former_items or d.items < d.items_max and days.day > clock.month_start) then 'fell'
            -- The greatest or the mean of a month may be on a day that nobody saw.
            when d.day is null and l.rule <> 'last' and not l.is_asked and (days.day + 1)::timestamp at time zone l.zone <= clock.now_at then 'missing'
        end as doubt,
        coalesce(l.counted_on, days.day) as priced_on
    from license_counted as l
    cross join clock
    cross join lateral (select l.day_from + i as day from generate_series(0, clock.month_end - l.day_from) as i) as days
    left join (
        select d.*, lag(d.items) over (partition by d.operation_key, d.product_key, d.description order by d.day) as former_items
        from license_day as d
    ) as d on d.operation_key = l.operation_key and d.product_key = l.product_key and d.description = l.description and d.day = days.day
),

part as (
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
        s.charge = 'burst' and s.period_start < s.waived_before as has_waiver
    from level_span as s
    union all
    select
        l.span_key, l.span_key, clock.month_start, clock.month_end, 'wolkvox', '', l.account, '', l.operation,
        l.api, 0, l.description, l.charge, null, l.unit, l.is_over, null, l.day_from, case l.rule when 'average' then greatest(l.days, 1) else 1 end, false
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

create or replace view mart.monthly_burst as
with subscription as (
    select
        s.customer_key,
        s.subscription_key,
        s.subscription_number,
        (case when f.customer_key is null then s.start_at else f.start_at end at time zone 'UTC')::date as start_day, -- as told last, even when that is nothing
        (case when f.customer_key is null then s.end_at else f.end_at end at time zone 'UTC')::date as end_day,
        (
            select (min(t.start_at) at time zone 'UTC')::date
            from dw.fact_subscription as t
            where t.customer_key = s.customer_key and t.subscription_key = s.subscription_key
        ) as first_start_day,
        (
            select min(o.first_day)
            from dw.dim_service_level as l
            cross join lateral (
                (
                    select d.usage_date as first_day from dw.fact_daily_consumption as d
                    where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key
                    order by d.usage_date limit 1
                )
                union all
                (
                    select r.usage_date from dw.restatement as r
                    where r.customer_key = l.customer_key and r.service_level_key = l.service_level_key
                        and r.known_from < r.known_until -- not what was read anew
                    order by r.usage_date limit 1
                )
            ) as o
            where l.customer_key = s.customer_key and l.subscription_key = s.subscription_key
        ) as first_day
    from dw.dim_subscription as s
    left join dw.fact_subscription as f on f.customer_key = s.customer_key and f.subscription_key = s.subscription_key and f.valid_to is null
),

-- When a subscription began and how long its burst is waived is told as in billing.statement_part: a renewal,
-- in place or by a subscription that goes on with the days of another, does not start the waiver anew.
beginning as (
    select
        *,
        case when first_day < start_day and least(first_start_day, first_day) + 60 <= start_day then least(first_start_day, first_day)
            else coalesce(start_day, first_start_day) end as began_on
    from subscription
),

waiver as (
    select b.subscription_key, coalesce(min(f.began_on), b.began_on) + 60 as waived_before
    from beginning as b
    left join beginning as f on f.customer_key = b.customer_key and f.subscription_number = b.subscription_number
        and f.subscription_key <> b.subscription_key and f.began_on < b.began_on and f.end_day between b.began_on - 2 and b.began_on + 1
    group by b.subscription_key, b.began_on
)

select
    c.customer_id,
    c.customer_name,
    s.subscription_number,
    s.discriminator,
    l.service_level,
    l.level_ordinal,
    l.level_class,
    date_trunc('month', d.usage_date::timestamp)::date as month,
    count(*)::integer as days_observed,
    count(*) filter (where d.over_committed_avg_tib > 0)::integer as days_over_commitment,
    -- Differences of a running total add up to its last figure.
    case
        when max(a.reading) = 'running' then case
            when count(d.accrued_last_tib) = count(*)
                then (array_agg(d.accrued_last_tib order by d.usage_date desc) filter (where a.reading = 'running'))[1]
        end
        when count(d.accrued_sum_tib) = count(*) then sum(d.accrued_sum_tib)
    end as accrued_burst_tib,
    case
        when w.waived_before is null then null
        when max(a.reading) = 'running' then case
            when count(d.accrued_last_tib) = count(*)
                then coalesce((array_agg(d.accrued_last_tib order by d.usage_date desc) filter (where a.reading = 'running' and d.usage_date < w.waived_before))[1], 0)
        end
        when count(d.accrued_sum_tib) = count(*) then coalesce(sum(d.accrued_sum_tib) filter (where d.usage_date < w.waived_before), 0)
    end as waiver_burst_tib,
    max(d.over_committed_avg_tib) as worst_day_tib,
    (array_agg(d.usage_date order by d.over_committed_avg_tib desc, d.usage_date) filter (where d.over_committed_avg_tib > 0))[1] as worst_day
from dw.fact_daily_consumption as d
join dw.dim_service_level as l using (service_level_key)
join dw.dim_subscription as s using (subscription_key)
join dw.dim_customer as c on c.customer_key = d.customer_key
join waiver as w using (subscription_key)
left join dw.accrued_reading as a on a.account = c.account and a.month = date_trunc('month', d.usage_date::timestamp)::date
group by -- what sorts fast first
    l.service_level_key, date_trunc('month', d.usage_date::timestamp), w.waived_before, l.level_ordinal,
    c.customer_id, c.customer_name, s.subscription_number, s.discriminator, l.service_level, l.level_class;
