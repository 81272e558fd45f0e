-- Closed months, mended: nobody's temporary types are looked at by functions that have the rights of their
-- owner; a link of the chain belongs to the header that it seals, and nothing is added to it by somebody
-- who began before; months of which nothing changed since they were settled are not computed again;
-- changes of wolkvox figures are told. New table and functions: locks nothing for long; nothing to replay.

-- +goose Up
create table billing.settled (
    period text not null,
    fingerprint bytea not null,
    link bigint not null,
    constraint settled_pkey primary key (period, fingerprint)
);
create trigger settled_kept before update or delete or truncate on billing.settled for each statement execute function billing.refuse_change();
alter table billing.settled enable always trigger settled_kept;
comment on table billing.settled is 'Grain: one row per closed month and state of everything that decides about its figures, of which a close left nothing to adjust. As long as the state is the same the month is not computed again. Written by billing.settle alone; what is here can be deleted by no one and is never needed: without it everything is computed.';
comment on column billing.settled.period is 'The month, YYYY-MM.';
comment on column billing.settled.fingerprint is 'billing.fingerprint(period) as it was then.';
comment on column billing.settled.link is 'The close that settled it.';

-- +goose StatementBegin
-- Whole rows are taken where they do not change by themselves, so that a column that is added to them counts.
create function billing.fingerprint(period text) returns bytea
language sql stable security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set jit = off
as $$
with span as materialized (
    select
        m.first_day as month_start, m.last_day,
        date_trunc('month', least(m.first_day, (
            select min(p.period_start) from billing.period as p where p.superseded_at is null and p.period_end >= m.first_day and p.period_end <= m.last_day
        ))::timestamp)::date as first_day
    from (select (fingerprint.period || '-01')::date as first_day, ((fingerprint.period || '-01')::date + interval '1 month')::date - 1 as last_day) as m
),

level as materialized (
    select
        l.customer_key, l.subscription_key, l.service_level_key, (l.service_level, l.level_ordinal, l.level_class)::text as text, o.first_observed,
        least(o.last_observed, (select last_day from span)) as last_observed -- later days are of other months
    from dw.dim_service_level as l
    cross join lateral (
        select
            least(
                (
                    select d.usage_date from dw.fact_daily_consumption as d
                    where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key
                    order by d.usage_date limit 1
                ),
                (
                    select r.usage_date from dw.restatement as r
                    where r.customer_key = l.customer_key and r.service_level_key = l.service_level_key and r.known_from < r.known_until
                    order by r.usage_date limit 1
                )
            ) as first_observed,
            greatest(
                (
                    select d.usage_date from dw.fact_daily_consumption as d
                    where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key
                    order by d.usage_date desc limit 1
                ),
                (
                    select r.usage_date from dw.restatement as r
                    where r.customer_key = l.customer_key and r.service_level_key = l.service_level_key and r.known_from < r.known_until
                    order by r.usage_date desc limit 1
                )
            ) as last_observed
        offset 0 -- once per level
    ) as o
),

-- A subscription that begins later and was never observed before has no part in the month.
subscription as materialized (
    select
        s.customer_key, s.subscription_key,
        (c.customer_id, c.account, s.subscription_number, s.discriminator, s.start_at, s.end_at, f.text, w.expected_from, w.settle)::text as text
    from dw.dim_subscription as s
    join dw.dim_customer as c using (customer_key)
    cross join lateral (
        select min(f.start_at) as start_at, string_agg((f.valid_from, f.valid_to, f.start_at, f.end_at)::text, ',' order by f.valid_from) as text
        from dw.fact_subscription as f
        where f.customer_key = s.customer_key and f.subscription_key = s.subscription_key
    ) as f
    left join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
    cross join span
    where coalesce((least(s.start_at, f.start_at) at time zone 'UTC')::date, '-infinity') <= span.last_day
        or exists (select from level as l where l.subscription_key = s.subscription_key and l.first_observed <= span.last_day)
),

part (name, text) as (
    select 'formula', string_agg(p.oid::regprocedure || ' ' || md5(p.prosrc), ' ' order by p.oid::regprocedure::text collate "C")
    from pg_proc as p
    where p.pronamespace = 'billing'::regnamespace or p.oid = 'dw.daily_consumption_as_of(timestamptz)'::regprocedure

    union all

    -- Days that are not due yet come by themselves.
    select 'due', ((span.last_day + 1)::timestamp at time zone 'UTC' + coalesce((select max(settle) from ops.watermark), '0') <= billing.business_now())::text
    from span

    union all

    select 'closed', (billing.closed_link(fingerprint.period), (
        select string_agg(distinct l.link::text, ',' order by l.link::text)
        from billing.closed_line as l
        join billing.close as h using (link)
        where l.kind = 'adjustment' and l.adjusts_period = fingerprint.period and billing.closed_link(h.period) = l.link
    ))::text

    union all

    select 'period', string_agg(p::text, E'\n' order by p.period_id)
    from billing.period as p
    cross join span
    where p.superseded_at is null and p.period_end >= span.month_start and p.period_start <= span.last_day

    union all

    select 'rate', string_agg(r::text, E'\n' order by r.rate_id)
    from billing.rate as r
    cross join span
    where r.superseded_at is null and r.valid_from <= span.last_day and (r.valid_to is null or r.valid_to >= span.first_day)

    union all

    select 'absence', string_agg(a::text, E'\n' order by a.absence_id)
    from billing.absence as a
    cross join span
    where a.superseded_at is null and a.first_day <= span.last_day and a.last_day >= span.first_day

    union all

    select 'product_rule', string_agg(r::text, E'\n' order by r.product_rule_id)
    from billing.product_rule as r
    where r.superseded_at is null

    union all

    select 'accrued_decision', string_agg(d::text, E'\n' order by d.accrued_decision_id)
    from billing.accrued_decision as d
    cross join span
    where d.superseded_at is null and d.month >= span.first_day and d.month <= span.last_day

    union all

    select 'accrued_reading', string_agg((r.account, r.month, r.reading)::text, E'\n' order by r.account, r.month)
    from dw.accrued_reading as r
    cross join span
    where r.month >= span.first_day and r.month <= span.last_day

    union all

    select 'subscription', string_agg(s.subscription_key || '|' || s.text, E'\n' order by s.subscription_key)
    from subscription as s

    union all

    select 'level', string_agg((l.service_level_key, l.text, l.first_observed, l.last_observed, k.first_told, k.gone, k.told, d.text)::text, E'\n' order by l.service_level_key)
    from level as l
    join subscription as s using (subscription_key)
    cross join span
    cross join lateral (
        select
            min(f.valid_from) as first_told, max(f.absent_since) filter (where f.valid_to is null) as gone,
            string_agg(f.valid_from || ' ' || f.committed_tib, ',' order by f.valid_from) filter (where f.valid_from < (span.last_day + 1)::timestamp at time zone 'UTC') as told
        from dw.fact_commitment as f
        where f.customer_key = l.customer_key and f.service_level_key = l.service_level_key
    ) as k
    cross join lateral (
        select string_agg((d.usage_date, d.committed_tib, d.accrued_sum_tib, d.accrued_last_tib, d.absent_since is null)::text, ',' order by d.usage_date) as text
        from dw.fact_daily_consumption as d
        where d.customer_key = l.customer_key and d.service_level_key = l.service_level_key and d.usage_date <= span.last_day
            and d.usage_date >= coalesce((
                select b.usage_date from dw.fact_daily_consumption as b
                where b.customer_key = l.customer_key and b.service_level_key = l.service_level_key and b.usage_date < span.first_day
                order by b.usage_date desc limit 1
            ), span.first_day) -- the day before gives what is estimated
    ) as d

    union all

    select 'license', string_agg((o.account, o.operation, o.zone, p.api, p.unit, p.kind, f.description, f.snapshot_date, f.items, f.items_max)::text, E'\n'
        order by f.operation_key, f.product_key, f.description, f.snapshot_date)
    from dw.fact_license_snapshot as f
    join dw.dim_operation as o using (operation_key)
    join dw.dim_product as p using (product_key)
    cross join span
    where f.snapshot_date >= span.month_start and f.snapshot_date <= span.last_day
)

select sha256(convert_to(string_agg(p.name || E'\n' || coalesce(p.text, ''), E'\n\n' order by p.name), 'UTF8'))
from part as p
$$;
-- +goose StatementEnd
comment on function billing.fingerprint(text) is 'SHA-256 over everything that decides about what is to be adjusted of a month: the formulas, its frozen rows in force, prices, calendar and decisions in force, terms, levels, days and readings. The same fingerprint, the same adjustments.';

-- +goose StatementBegin
create function billing.computed_adjustment(adjusts_period text)
returns table (
    source text, customer_id text, account text, subscription_number text, discriminator text, item text, description text, charge text,
    is_waiver boolean, unit text, usage_date date, quantity numeric, amount numeric, currency text, reason text, known_since timestamptz,
    parts numeric, worth numeric
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
set work_mem = '64MB'
as $$
with base as materialized (
    select billing.closed_link(computed_adjustment.adjusts_period) as link, (
        select max(c.at) from billing.chain as c where c.period = computed_adjustment.adjusts_period
    ) as at
),

-- Days as they are now and as the month shows them, priced: with what they add to a quantity and to an
-- amount, times the scale. A month that was reopened shows what is now.
live_part as materialized (
    select * from billing.statement_part(computed_adjustment.adjusts_period, 'infinity') as p where p.basis <> 'not_due'
),

live_day as (
    select
        p.period, p.period_start, p.period_end, p.source, p.customer_id, p.account, p.subscription_number, p.discriminator, p.item, p.level_ordinal,
        p.description, p.charge, p.is_waiver, p.day, p.quantity, p.scale, p.basis, p.known_since, p.reading, p.doubt, p.rate_id
    from live_part as p
),

day_of as materialized (
    select true as is_live, d.* from live_day as d
    union all
    select false, d.* from live_day as d where (select link from base) is null
    union all
    select false, computed_adjustment.adjusts_period, c.period_start, c.period_end, c.source, c.customer_id, c.account, c.subscription_number, c.discriminator, c.item,
        c.level_ordinal, c.description, c.charge, c.is_waiver, c.day, c.quantity, c.scale, c.basis, c.known_since, c.reading,
        c.doubt, c.rate_id
    from billing.closed_day as c
    where c.link = (select link from base)
),

valued as materialized (
    select
        d.*, coalesce(r.currency, '') as currency, r.known_since as price_known_since, r.superseded_at as price_superseded_at,
        array_to_string(array[d.source, d.customer_id, d.account, d.subscription_number, d.discriminator, d.item, d.description, d.charge], chr(31)) as item_key,
        coalesce(d.quantity, 0) * div(billing.exact_scale(), d.scale) as parts,
        coalesce(d.quantity, 0) * div(billing.exact_scale(), d.scale) * coalesce(r.unit_price, 0) as worth
    from day_of as d
    left join billing.rate as r on r.rate_id = d.rate_id
),

frozen as materialized (
    select c.*, coalesce(c.currency, '') as currency_key,
        array_to_string(array[c.source, c.customer_id, c.account, c.subscription_number, c.discriminator, c.item, c.description, c.charge], chr(31)) as item_key
    from billing.closed_line as c
    join billing.close as h using (link)
    where c.kind = 'adjustment' and c.adjusts_period = computed_adjustment.adjusts_period and billing.closed_link(h.period) = c.link
),

-- The amounts of billing.computed_statement, of the same days.
live_line as materialized (
    select
        p.source, p.customer_id, p.account, p.subscription_number, p.discriminator, p.item, p.description, p.charge, p.is_waiver, p.unit, r.currency,
        billing.divide_rounded(sum(p.quantity) * r.unit_price, p.scale, billing.currency_minor_units(r.currency)) as amount
    from live_part as p
    left join billing.rate as r using (rate_id)
    group by p.line_key, p.source, p.customer_id, p.account, p.subscription_number, p.discriminator, p.item, p.description, p.charge, p.is_waiver, p.unit,
        p.scale, p.rate_id, r.currency, r.unit_price
),

amount_of as (
    select s.source, s.customer_id, s.account, s.subscription_number, s.discriminator, s.item, s.description, s.charge, s.is_waiver, s.currency, s.amount
    from live_line as s
    where s.amount is not null
    union all
    select s.source, s.customer_id, s.account, s.subscription_number, s.discriminator, s.item, s.description, s.charge, s.is_waiver, s.currency, -s.amount
    from live_line as s
    where s.amount is not null and (select link from base) is null
    union all
    select c.source, c.customer_id, c.account, c.subscription_number, c.discriminator, c.item, c.description, c.charge, c.is_waiver, c.currency, -c.amount
    from billing.closed_line as c
    where c.kind = 'statement' and c.link = (select link from base) and c.amount is not null
    union all
    select f.source, f.customer_id, f.account, f.subscription_number, f.discriminator, f.item, f.description, f.charge, f.is_waiver, f.currency, -f.amount
    from frozen as f
    where f.amount is not null
),

-- What is still to be adjusted of each line: to the last minor unit.
total as materialized (
    select
        array_to_string(array[source, customer_id, account, subscription_number, discriminator, item, description, charge], chr(31)) as item_key,
        is_waiver, currency, sum(amount) as amount
    from amount_of
    group by 1, 2, 3
),

delta as materialized (
    select
        x.item_key, x.is_waiver, x.currency, x.day, sum(x.parts) as parts, sum(x.worth) as worth,
        -- As things are now against what the month shows, without what was adjusted in closed months.
        coalesce(sum(x.parts) filter (where not x.is_frozen), 0) as fresh_parts,
        coalesce(sum(x.worth) filter (where not x.is_frozen), 0) as fresh_worth,
        max(x.price_known_since) as price_known_since
    from (
        select v.item_key, v.is_waiver, v.currency, v.day, case when v.is_live then v.parts else -v.parts end as parts,
            case when v.is_live then v.worth else -v.worth end as worth, false as is_frozen,
            case when v.is_live then v.price_known_since else v.price_superseded_at end as price_known_since
        from valued as v
        union all
        select f.item_key, f.is_waiver, f.currency_key, f.usage_date, -f.parts, -f.worth, true, null
        from frozen as f
    ) as x
    group by x.item_key, x.is_waiver, x.currency, x.day
),

-- The days that changed; where only the rounding of a line did, its last day.
changed as materialized (
    select d.item_key, d.is_waiver, d.currency, d.day, d.parts, d.worth, d.fresh_parts, d.fresh_worth, d.price_known_since, coalesce(t.amount, 0) as total
    from (
        select d.*,
            bool_or(d.parts <> 0 or d.worth <> 0) over (partition by d.item_key, d.is_waiver, d.currency) as is_any,
            d.day = max(d.day) over (partition by d.item_key, d.is_waiver, d.currency) as is_last
        from delta as d
    ) as d
    left join total as t using (item_key, is_waiver, currency)
    where d.parts <> 0 or d.worth <> 0 or not d.is_any and d.is_last and coalesce(t.amount, 0) <> 0
),

-- An amount is shared by cumulative rounding: the shares add up to it, and each is the day's own but for one minor unit.
summed as materialized (
    select c.*,
        case
            when lead(c.day) over w is null then c.total
            else billing.divide_rounded(sum(c.worth) over w, billing.exact_scale(), billing.currency_minor_units(c.currency))
        end as until_day
    from changed as c
    window w as (partition by c.item_key, c.is_waiver, c.currency order by c.day)
),

shared as materialized (
    select s.*, s.until_day - lag(s.until_day, 1, 0::numeric) over (partition by s.item_key, s.is_waiver, s.currency order by s.day) as amount
    from summed as s
),

-- Both sides of a day, to tell why.
side as materialized (
    select
        v.item_key, v.day,
        coalesce(sum(v.parts) filter (where v.is_live), 0) as live_parts,
        coalesce(sum(v.parts) filter (where not v.is_live), 0) as base_parts,
        coalesce(sum(v.parts) filter (where v.is_live and v.is_waiver), 0) as live_waiver_parts,
        coalesce(sum(v.parts) filter (where not v.is_live and v.is_waiver), 0) as base_waiver_parts,
        bool_or(v.is_live) as is_in_live,
        bool_or(not v.is_live) as is_in_base,
        coalesce(bool_or(v.basis in ('missing', 'estimated')) filter (where not v.is_live), false) as was_missing,
        coalesce(bool_or(v.basis in ('dropped', 'absent_kept')), false) as is_decided,
        array_agg(distinct v.basis) filter (where v.is_live) is distinct from array_agg(distinct v.basis) filter (where not v.is_live) as is_basis_changed,
        max(v.known_since) filter (where v.is_live) as known_since
    from valued as v
    where (v.item_key, v.day) in (select c.item_key, c.day from changed as c)
    group by v.item_key, v.day
),

named as materialized (
    select distinct on (n.item_key) n.*
    from (
        select v.item_key, v.source, v.customer_id, v.account, v.subscription_number, v.discriminator, v.item, v.description, v.charge
        from valued as v
        where v.item_key in (select c.item_key from changed as c)
        union all
        select f.item_key, f.source, f.customer_id, f.account, f.subscription_number, f.discriminator, f.item, f.description, f.charge from frozen as f
    ) as n
    order by n.item_key
),

unit_of as (
    select distinct on (item_key) item_key, unit
    from (
        select array_to_string(array[source, customer_id, account, subscription_number, discriminator, item, description, charge], chr(31)) as item_key, unit from live_line
        union all
        select array_to_string(array[source, customer_id, account, subscription_number, discriminator, item, description, charge], chr(31)), unit
        from billing.closed_line as c
        where c.link = (select link from base)
        union all
        select item_key, unit from frozen
    ) as u
    order by item_key, unit
),

told as materialized (
    select s.*, n.source, n.customer_id, n.account, n.subscription_number, n.discriminator, n.item, n.description, n.charge, w.known_since as day_known_since,
        a.known_since as absence_known_since, p.known_since as calendar_known_since, q.known_since as decision_known_since, k.is_late, i.known_since as import_known_since,
        case
            when base.link is null or s.fresh_parts = 0 and s.fresh_worth = 0 and (s.parts <> 0 or s.worth <> 0) then 'reopened'
            when w.live_parts = w.base_parts and w.live_waiver_parts <> w.base_waiver_parts then 'terms_changed'
            when w.live_parts = w.base_parts then 'rate_changed'
            when not (w.is_in_live and w.is_in_base) and p.known_since is not null then 'calendar_changed'
            when not w.is_in_live then 'terms_changed'
            when w.is_basis_changed and w.is_decided then 'absent'
            when not w.is_in_base or w.was_missing then 'late'
            when q.known_since is not null then case n.charge when 'license' then 'rule_changed' else 'accrued_reading_changed' end
            when k.is_late then 'late'
            else 'restated'
        end as reason
    from shared as s
    cross join base
    join named as n using (item_key)
    left join side as w using (item_key, day)
    left join lateral (
        select max(greatest(p.known_since, p.superseded_at)) as known_since
        from billing.period as p
        where p.customer_id = n.customer_id and p.subscription_number = n.subscription_number and p.clock = n.charge
            and greatest(p.known_since, p.superseded_at) > base.at
    ) as p on true
    left join lateral (
        select max(greatest(a.known_since, a.superseded_at)) as known_since
        from billing.absence as a
        where a.customer_id = n.customer_id and a.subscription_number = n.subscription_number and a.discriminator = n.discriminator and a.service_level = n.item
            and s.day >= a.first_day and s.day <= a.last_day
    ) as a on true
    left join lateral (
        select max(x.known_since) as known_since
        from (
            select d.known_since
            from billing.accrued_decision as d
            where n.charge = 'burst' and d.account = n.account and d.month = date_trunc('month', s.day::timestamp)::date and d.known_since > base.at
            union all
            select d.known_since
            from billing.product_rule as d
            where n.charge = 'license' and d.product = n.item and d.known_since > base.at
        ) as x
    ) as q on true
    left join lateral (
        select bool_and(r.kind = 'late') as is_late
        from dw.dim_customer as c
        join dw.dim_subscription as b using (customer_key)
        join dw.dim_service_level as l using (customer_key, subscription_key)
        join dw.restatement as r using (customer_key, service_level_key)
        where c.customer_id = n.customer_id and b.subscription_number = n.subscription_number and b.discriminator = n.discriminator
            and l.service_level = n.item and r.usage_date = s.day and r.known_until > base.at
    ) as k on true
    left join lateral (
        -- What was imported of days that are over became known with the import; another day may count for the month since.
        select max(r.business_at) as known_since
        from dw.fact_license_snapshot as f
        join dw.dim_operation as o using (operation_key)
        join dw.dim_product as p using (product_key)
        join ops.run as r using (run_id)
        where n.source = 'wolkvox' and f.is_imported and o.account = n.account and o.operation = n.discriminator and p.api = n.item
            and f.description = n.description and date_trunc('month', f.snapshot_date::timestamp) = date_trunc('month', s.day::timestamp)
    ) as i on true
)

select
    t.source, t.customer_id, t.account, t.subscription_number, t.discriminator, t.item, t.description, t.charge, t.is_waiver, u.unit, t.day,
    trim_scale(billing.divide_rounded(t.parts, billing.exact_scale(), 12)),
    case when t.currency <> '' then t.amount end, nullif(t.currency, ''), t.reason,
    case t.reason
        when 'reopened' then (select at from base)
        when 'rate_changed' then t.price_known_since
        when 'calendar_changed' then t.calendar_known_since
        when 'absent' then coalesce(t.absence_known_since, t.day_known_since)
        when 'accrued_reading_changed' then t.decision_known_since
        when 'rule_changed' then t.decision_known_since
        else coalesce(t.import_known_since, t.day_known_since)
    end,
    t.parts, t.worth
from told as t
left join unit_of as u using (item_key)
$$;
-- +goose StatementEnd
comment on function billing.computed_adjustment(text) is 'billing.adjustment without asking whether anything changed: always computed.';

-- +goose StatementBegin
create function billing.is_settled(period text) returns boolean
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select exists (select from billing.settled as s where s.period = is_settled.period)
        and exists (select from billing.settled as s where s.period = is_settled.period and s.fingerprint = (select billing.fingerprint(is_settled.period)))
$$;
-- +goose StatementEnd
comment on function billing.is_settled(text) is 'Whether a close left nothing to adjust of a month, and nothing that decides about it is other than it was then.';

-- +goose StatementBegin
create or replace function billing.adjustment(adjusts_period text)
returns table (
    source text, customer_id text, account text, subscription_number text, discriminator text, item text, description text, charge text,
    is_waiver boolean, unit text, usage_date date, quantity numeric, amount numeric, currency text, reason text, known_since timestamptz,
    parts numeric, worth numeric
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select a.*
    from billing.computed_adjustment(adjustment.adjusts_period) as a
    where not billing.is_settled(adjustment.adjusts_period)
$$;
-- +goose StatementEnd
comment on function billing.adjustment(text) is 'What is still to be adjusted of a closed month: its figures as of now, less the closed ones, less what closed months adjusted already. Columns as in mart.adjustment; parts and worth are the exact quantity and amount times billing.exact_scale(). A month that is settled is not computed.';

-- +goose StatementBegin
create function billing.settle(link bigint, periods text[]) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    settled bigint;
begin
    -- What is remembered must be of the snapshot that was frozen, else a change between the two is never adjusted.
    if current_setting('transaction_isolation') not in ('repeatable read', 'serializable') or not exists (
        select
        from billing.chain as c
        where c.link = settle.link and c.kind = 'close' and c.xmin = pg_current_xact_id()::xid
            and not exists (select from billing.chain as n where n.link > c.link)
    ) then
        raise exception 'link % is not a close of this transaction and its one snapshot', settle.link
            using errcode = 'restrict_violation', hint = 'Months are closed and reopened by the program only.';
    end if;
    insert into billing.settled (period, fingerprint, link)
    select m.period, billing.fingerprint(m.period), c.link
    from billing.chain as c
    cross join billing.adjusted_months() as m
    where c.link = settle.link and m.period = any (settle.periods)
        and case
            when m.period <> c.period then billing.open_period() = to_char((c.period || '-01')::date + interval '1 month', 'YYYY-MM') -- with the open month all adjustments are frozen
            else not exists (
                select
                from billing.closed_line as l
                join billing.close as h using (link)
                where l.kind = 'adjustment' and l.adjusts_period = m.period and billing.closed_link(h.period) = l.link
            )
        end
    on conflict do nothing;
    get diagnostics settled = row_count;
    return settled;
end
$$;
-- +goose StatementEnd
comment on function billing.settle(bigint, text[]) is 'Remembers of which of the given months a close leaves nothing to adjust: of the one that it closes, and of those whose adjustments it freezes. Only in the transaction of the close itself.';

-- +goose StatementBegin
-- In PL/pgSQL, whose simple expressions cost a tenth of a call of SQL: every frozen row is sealed with it. The path is the caller's.
create or replace function billing.canonical(parts text[]) returns text
language plpgsql immutable parallel safe
as $$
begin
    if array_to_string(parts, '') ~ E'[\\\\|\n\r]' then
        return (
            select string_agg(coalesce(replace(replace(replace(replace(p, E'\\', E'\\\\'), '|', E'\\|'), E'\n', E'\\n'), E'\r', E'\\r'), E'\\N'), '|' order by n)
            from unnest(parts) with ordinality as u (p, n)
        );
    end if;
    return array_to_string(parts, '|', E'\\N');
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create or replace function billing.canonical_close(c billing.close) returns text
language plpgsql stable
as $$
begin
    return billing.canonical(array[
        c.link::text, c.period, c.version::text, to_char(c.closed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), c.closed_by,
        c.database_user, c.accepted, c.reason, c.lines::text, c.adjustments::text, c.days::text, c.totals, c.adjustment_totals
    ]);
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create or replace function billing.canonical_reopen(r billing.reopen) returns text
language plpgsql stable
as $$
begin
    return billing.canonical(array[
        r.link::text, r.period, r.version::text, to_char(r.reopened_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), r.reopened_by,
        r.database_user, r.reason
    ]);
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create or replace function billing.canonical_line(l billing.closed_line) returns text
language plpgsql stable
as $$
begin
    return billing.canonical(array[
        l.link::text, l.line_no::text, l.kind, to_char(l.period_start, 'YYYY-MM-DD'), to_char(l.period_end, 'YYYY-MM-DD'), l.source, l.customer_id,
        l.account, l.subscription_number, l.item, l.charge, trim_scale(l.quantity)::text, l.unit, trim_scale(l.unit_price)::text,
        trim_scale(l.amount)::text, l.currency, l.state, l.days_expected::text, l.days_observed::text, l.discriminator, l.description,
        l.is_waiver::text, l.level_class, l.days_estimated::text, to_char(l.segment_from, 'YYYY-MM-DD'), to_char(l.segment_to, 'YYYY-MM-DD'),
        l.rate_id::text, l.note, l.adjusts_period, to_char(l.usage_date, 'YYYY-MM-DD'), l.reason,
        to_char(l.known_since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), trim_scale(l.parts)::text, trim_scale(l.worth)::text
    ]);
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create or replace function billing.canonical_day(d billing.closed_day) returns text
language plpgsql stable
as $$
begin
    return billing.canonical(array[
        d.link::text, d.day_no::text, to_char(d.period_start, 'YYYY-MM-DD'), to_char(d.period_end, 'YYYY-MM-DD'), d.source, d.customer_id, d.account,
        d.subscription_number, d.discriminator, d.item, d.level_ordinal::text, d.description, d.charge, d.is_waiver::text,
        to_char(d.day, 'YYYY-MM-DD'), trim_scale(d.quantity)::text, d.scale::text, d.basis,
        to_char(d.known_since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), trim_scale(d.reading)::text, d.doubt, d.rate_id::text
    ]);
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create or replace function billing.seal() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Whoever closes waits for others who add rows, so that none of theirs comes into a link that is sealed meanwhile.
    if pg_advisory_xact_lock(hashtextextended('billing.chain', 0)) is null or exists (select from billing.chain as c where c.link = new.link) then
        raise exception 'link % of the closed months is sealed: nothing is added to it', new.link
            using errcode = 'restrict_violation', hint = 'Reopen the month and close it again.';
    end if;
    case tg_table_name
        when 'close' then new.canonical := billing.canonical_close(new);
        when 'reopen' then new.canonical := billing.canonical_reopen(new);
        when 'closed_line' then new.canonical := billing.canonical_line(new);
        else new.canonical := billing.canonical_day(new);
    end case;
    if tg_table_name like 'closed%' then
        new.sha256 := sha256(convert_to(new.canonical, 'UTF8'));
    end if;
    return new;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create or replace function billing.extend_chain() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if new.link <> 1 + coalesce((select max(c.link) from billing.chain as c), 0)
        or new.previous_hash <> coalesce((select c.hash from billing.chain as c where c.link = new.link - 1), decode(repeat('00', 32), 'hex'))
        or new.hash is distinct from billing.link_hash(new.link)
    then
        raise exception 'link % does not go on from the end of the chain', new.link
            using errcode = 'restrict_violation', hint = 'Months are closed and reopened by the program only.';
    end if;
    -- What the hash says nothing of says what the header says, which is hashed.
    if array(
        select (h.kind, h.period, h.at)::text
        from (
            select c.link, 'close' as kind, c.period, c.closed_at as at from billing.close as c
            union all
            select r.link, 'reopen', r.period, r.reopened_at from billing.reopen as r
        ) as h
        where h.link = new.link
    ) <> array[(new.kind, new.period, new.at)::text] then
        raise exception 'link % is not the % of % that its header tells', new.link, new.kind, new.period
            using errcode = 'restrict_violation', hint = 'Months are closed and reopened by the program only.';
    end if;
    return new;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create or replace function billing.closed_day_changed(since timestamptz)
returns table (period text, customer_id text, account text, changes bigint, first_day date, last_day date, known_since timestamptz, run_id bigint)
language sql stable security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
    with closed as materialized (
        select c.link, c.period, c.at, (c.period || '-01')::date as first_day, ((c.period || '-01')::date + interval '1 month')::date - 1 as last_day
        from (select distinct on (c.period) c.* from billing.chain as c order by c.period, c.link desc) as c
        where c.kind = 'close'
    ),

    -- A run commits after the instant that it calls now: what it changed may be known from before the close and yet not be in it.
    horizon as materialized (
        select greatest(closed_day_changed.since, min(at) - interval '2 days') as at from closed
    ),

    license_change as materialized (
        select c.link, c.period, o.account, o.operation, p.api, f.description, f.snapshot_date as day, f.items, f.items_max,
            greatest(f.read_at, r.business_at) as known_since, f.run_id
        from closed as c
        cross join horizon
        join dw.fact_license_snapshot as f on f.snapshot_date >= c.first_day and f.snapshot_date <= c.last_day
        join dw.dim_operation as o using (operation_key)
        join dw.dim_product as p using (product_key)
        join ops.run as r on r.run_id = f.run_id
        where greatest(f.read_at, r.business_at) > greatest(closed_day_changed.since, c.at - interval '2 days')
    ),

    frozen_license as materialized (
        select d.link, d.account, d.discriminator as operation, d.item as api, d.description, d.day, d.reading
        from billing.closed_day as d
        where d.link = any (array(select distinct l.link from license_change as l)) and d.source = 'wolkvox'
    ),

    change as (
        -- A version that is the frozen one, or came after it, was superseded.
        select c.period, k.customer_id, k.account, r.usage_date as day, r.known_until as known_since, r.run_id
        from horizon
        cross join dw.restatement as r
        join dw.dim_service_level as l using (customer_key, service_level_key)
        join dw.dim_subscription as s using (customer_key, subscription_key)
        join dw.dim_customer as k using (customer_key)
        join billing.closed_day as d on d.charge = 'committed' and d.customer_id = k.customer_id and d.day = r.usage_date
            and d.subscription_number = s.subscription_number and d.discriminator = s.discriminator and d.item = l.service_level and d.level_ordinal = l.level_ordinal
        join closed as c using (link)
        where r.kind <> 'reread' and r.known_until > horizon.at and r.known_from >= d.known_since and r.known_from < r.known_until

        union all

        -- Days that were missing when the month was closed.
        select c.period, k.customer_id, k.account, d.day, f.known_since, f.run_id
        from closed as c
        join billing.closed_day as d on d.link = c.link and d.charge = 'committed' and d.basis in ('missing', 'estimated')
        join dw.dim_customer as k on k.customer_id = d.customer_id
        join dw.dim_subscription as s on s.customer_key = k.customer_key and s.subscription_number = d.subscription_number and s.discriminator = d.discriminator
        join dw.dim_service_level as l on l.customer_key = k.customer_key and l.subscription_key = s.subscription_key
            and l.service_level = d.item and l.level_ordinal = d.level_ordinal
        join dw.fact_daily_consumption as f on f.customer_key = k.customer_key and f.service_level_key = l.service_level_key and f.usage_date = d.day
        where f.known_since > closed_day_changed.since

        union all

        select n.period, '', n.account, n.day, n.known_since, n.run_id
        from license_change as n
        where not exists (
            select
            from frozen_license as d
            where d.link = n.link and d.account = n.account and d.operation = n.operation and d.api = n.api and d.description = n.description
                and d.day = n.day and d.reading in (n.items, n.items_max)
        )
    )

    select period, customer_id, account, count(*), min(day), max(day), min(known_since), max(run_id)
    from change
    group by period, customer_id, account
$$;
-- +goose StatementEnd
comment on function billing.closed_day_changed(timestamptz) is 'Days of closed months, counted by level instance or by product and description, of which the vendor told other figures than were closed or readings were imported, known since after the instant. The customer is empty for wolkvox. What they come to is in mart.adjustment.';

-- +goose StatementBegin
-- Types and relations of pg_temp come before all others unless it is named: a temporary domain called date would be run with
-- the rights of whoever owns a function.
do $$
declare
    routine regprocedure;
begin
    for routine in
        select p.oid
        from pg_proc as p
        where p.pronamespace in ('raw'::regnamespace, 'ops'::regnamespace, 'dw'::regnamespace, 'mart'::regnamespace, 'billing'::regnamespace)
            and 'search_path=pg_catalog' = any (p.proconfig)
    loop
        execute format('alter function %s set search_path = pg_catalog, pg_temp', routine);
    end loop;
end
$$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
do $$
declare
    routine regprocedure;
begin
    for routine in
        select p.oid
        from pg_proc as p
        where p.pronamespace in ('raw'::regnamespace, 'ops'::regnamespace, 'dw'::regnamespace, 'mart'::regnamespace, 'billing'::regnamespace)
            and 'search_path=pg_catalog, pg_temp' = any (p.proconfig)
    loop
        execute format('alter function %s set search_path = pg_catalog', routine);
    end loop;
end
$$;
-- +goose StatementEnd
-- +goose StatementBegin
create or replace function billing.canonical(parts text[]) returns text
language sql immutable parallel safe
set search_path = pg_catalog
as $$
    select case
        when array_to_string(parts, '') ~ E'[\\\\|\n\r]' then (
            select string_agg(coalesce(replace(replace(replace(replace(p, E'\\', E'\\\\'), '|', E'\\|'), E'\n', E'\\n'), E'\r', E'\\r'), E'\\N'), '|' order by n)
            from unnest(parts) with ordinality as u (p, n)
        )
        else array_to_string(parts, '|', E'\\N')
    end
$$;
-- +goose StatementEnd
-- +goose StatementBegin
create or replace function billing.canonical_close(c billing.close) returns text
language sql stable
set search_path = pg_catalog
as $$
    select billing.canonical(array[
        c.link::text, c.period, c.version::text, to_char(c.closed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), c.closed_by,
        c.database_user, c.accepted, c.reason, c.lines::text, c.adjustments::text, c.days::text, c.totals, c.adjustment_totals
    ])
$$;
-- +goose StatementEnd
-- +goose StatementBegin
create or replace function billing.canonical_reopen(r billing.reopen) returns text
language sql stable
set search_path = pg_catalog
as $$
    select billing.canonical(array[
        r.link::text, r.period, r.version::text, to_char(r.reopened_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), r.reopened_by,
        r.database_user, r.reason
    ])
$$;
-- +goose StatementEnd
-- +goose StatementBegin
create or replace function billing.canonical_line(l billing.closed_line) returns text
language sql stable
set search_path = pg_catalog
as $$
    select billing.canonical(array[
        l.link::text, l.line_no::text, l.kind, to_char(l.period_start, 'YYYY-MM-DD'), to_char(l.period_end, 'YYYY-MM-DD'), l.source, l.customer_id,
        l.account, l.subscription_number, l.item, l.charge, trim_scale(l.quantity)::text, l.unit, trim_scale(l.unit_price)::text,
        trim_scale(l.amount)::text, l.currency, l.state, l.days_expected::text, l.days_observed::text, l.discriminator, l.description,
        l.is_waiver::text, l.level_class, l.days_estimated::text, to_char(l.segment_from, 'YYYY-MM-DD'), to_char(l.segment_to, 'YYYY-MM-DD'),
        l.rate_id::text, l.note, l.adjusts_period, to_char(l.usage_date, 'YYYY-MM-DD'), l.reason,
        to_char(l.known_since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), trim_scale(l.parts)::text, trim_scale(l.worth)::text
    ])
$$;
-- +goose StatementEnd
-- +goose StatementBegin
create or replace function billing.canonical_day(d billing.closed_day) returns text
language sql stable
set search_path = pg_catalog
as $$
    select billing.canonical(array[
        d.link::text, d.day_no::text, to_char(d.period_start, 'YYYY-MM-DD'), to_char(d.period_end, 'YYYY-MM-DD'), d.source, d.customer_id, d.account,
        d.subscription_number, d.discriminator, d.item, d.level_ordinal::text, d.description, d.charge, d.is_waiver::text,
        to_char(d.day, 'YYYY-MM-DD'), trim_scale(d.quantity)::text, d.scale::text, d.basis,
        to_char(d.known_since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), trim_scale(d.reading)::text, d.doubt, d.rate_id::text
    ])
$$;
-- +goose StatementEnd
-- +goose StatementBegin
create or replace function billing.seal() returns trigger
language plpgsql
set search_path = pg_catalog
as $$
begin
    if exists (select from billing.chain as c where c.link = new.link) then
        raise exception 'link % of the closed months is sealed: nothing is added to it', new.link
            using errcode = 'restrict_violation', hint = 'Reopen the month and close it again.';
    end if;
    case tg_table_name
        when 'close' then new.canonical := billing.canonical_close(new);
        when 'reopen' then new.canonical := billing.canonical_reopen(new);
        when 'closed_line' then new.canonical := billing.canonical_line(new);
        else new.canonical := billing.canonical_day(new);
    end case;
    if tg_table_name like 'closed%' then
        new.sha256 := sha256(convert_to(new.canonical, 'UTF8'));
    end if;
    return new;
end
$$;
-- +goose StatementEnd
-- +goose StatementBegin
create or replace function billing.extend_chain() returns trigger
language plpgsql
set search_path = pg_catalog
as $$
begin
    if new.link <> 1 + coalesce((select max(c.link) from billing.chain as c), 0)
        or new.previous_hash <> coalesce((select c.hash from billing.chain as c where c.link = new.link - 1), decode(repeat('00', 32), 'hex'))
        or new.hash is distinct from billing.link_hash(new.link)
    then
        raise exception 'link % does not go on from the end of the chain', new.link
            using errcode = 'restrict_violation', hint = 'Months are closed and reopened by the program only.';
    end if;
    return new;
end
$$;
-- +goose StatementEnd
-- +goose StatementBegin
create or replace function billing.closed_day_changed(since timestamptz)
returns table (period text, customer_id text, account text, changes bigint, first_day date, last_day date, known_since timestamptz, run_id bigint)
language sql stable security definer
set search_path = pg_catalog
set jit = off
as $$
    with closed as materialized (
        select c.link, c.period, c.at
        from (select distinct on (c.period) c.* from billing.chain as c order by c.period, c.link desc) as c
        where c.kind = 'close'
    ),

    change as (
        select c.period, k.customer_id, k.account, r.usage_date as day, r.known_until as known_since, r.run_id
        from dw.restatement as r
        join dw.dim_service_level as l using (customer_key, service_level_key)
        join dw.dim_subscription as s using (customer_key, subscription_key)
        join dw.dim_customer as k using (customer_key)
        join billing.closed_day as d on d.charge = 'committed' and d.customer_id = k.customer_id and d.day = r.usage_date
            and d.subscription_number = s.subscription_number and d.discriminator = s.discriminator and d.item = l.service_level and d.level_ordinal = l.level_ordinal
        join closed as c using (link)
        where r.kind <> 'reread'
            and r.known_until > greatest(closed_day_changed.since, (select min(at) from closed))
            and r.known_until > c.at

        union all

        -- Days that were missing when the month was closed.
        select c.period, k.customer_id, k.account, d.day, f.known_since, f.run_id
        from closed as c
        join billing.closed_day as d on d.link = c.link and d.charge = 'committed' and d.basis in ('missing', 'estimated')
        join dw.dim_customer as k on k.customer_id = d.customer_id
        join dw.dim_subscription as s on s.customer_key = k.customer_key and s.subscription_number = d.subscription_number and s.discriminator = d.discriminator
        join dw.dim_service_level as l on l.customer_key = k.customer_key and l.subscription_key = s.subscription_key
            and l.service_level = d.item and l.level_ordinal = d.level_ordinal
        join dw.fact_daily_consumption as f on f.customer_key = k.customer_key and f.service_level_key = l.service_level_key and f.usage_date = d.day
        where f.known_since > closed_day_changed.since
    )

    select period, customer_id, account, count(*), min(day), max(day), min(known_since), max(run_id)
    from change
    group by period, customer_id, account
$$;
-- +goose StatementEnd
-- +goose StatementBegin
create or replace function billing.adjustment(adjusts_period text)
returns table (
    source text, customer_id text, account text, subscription_number text, discriminator text, item text, description text, charge text,
    is_waiver boolean, unit text, usage_date date, quantity numeric, amount numeric, currency text, reason text, known_since timestamptz,
    parts numeric, worth numeric
)
language sql stable security definer
set search_path = pg_catalog
set enable_nestloop = off
set jit = off
set work_mem = '64MB'
as $$
with base as materialized (
    select billing.closed_link(adjustment.adjusts_period) as link, (
        select max(c.at) from billing.chain as c where c.period = adjustment.adjusts_period
    ) as at
),

-- Days as they are now and as the month shows them, priced: with what they add to a quantity and to an
-- amount, times the scale. A month that was reopened shows what is now.
live_day as materialized (
    select * from billing.computed_statement_day(adjustment.adjusts_period, 'infinity')
),

day_of as materialized (
    select true as is_live, d.* from live_day as d
    union all
    select false, d.* from live_day as d where (select link from base) is null
    union all
    select false, adjustment.adjusts_period, c.period_start, c.period_end, c.source, c.customer_id, c.account, c.subscription_number, c.discriminator, c.item,
        c.level_ordinal, c.description, c.charge, c.is_waiver, c.day, c.quantity, c.scale, c.basis, c.known_since, c.reading,
        c.doubt, c.rate_id
    from billing.closed_day as c
    where c.link = (select link from base)
),

valued as materialized (
    select
        d.*, coalesce(r.currency, '') as currency, r.known_since as price_known_since, r.superseded_at as price_superseded_at,
        array_to_string(array[d.source, d.customer_id, d.account, d.subscription_number, d.discriminator, d.item, d.description, d.charge], chr(31)) as item_key,
        coalesce(d.quantity, 0) * div(billing.exact_scale(), d.scale) as parts,
        coalesce(d.quantity, 0) * div(billing.exact_scale(), d.scale) * coalesce(r.unit_price, 0) as worth
    from day_of as d
    left join billing.rate as r on r.rate_id = d.rate_id
),

frozen as materialized (
    select c.*, coalesce(c.currency, '') as currency_key,
        array_to_string(array[c.source, c.customer_id, c.account, c.subscription_number, c.discriminator, c.item, c.description, c.charge], chr(31)) as item_key
    from billing.closed_line as c
    join billing.close as h using (link)
    where c.kind = 'adjustment' and c.adjusts_period = adjustment.adjusts_period and billing.closed_link(h.period) = c.link
),

live_line as materialized (
    select * from billing.computed_statement(adjustment.adjusts_period, 'infinity')
),

amount_of as (
    select s.source, s.customer_id, s.account, s.subscription_number, s.discriminator, s.item, s.description, s.charge, s.is_waiver, s.currency, s.amount
    from live_line as s
    where s.amount is not null
    union all
    select s.source, s.customer_id, s.account, s.subscription_number, s.discriminator, s.item, s.description, s.charge, s.is_waiver, s.currency, -s.amount
    from live_line as s
    where s.amount is not null and (select link from base) is null
    union all
    select c.source, c.customer_id, c.account, c.subscription_number, c.discriminator, c.item, c.description, c.charge, c.is_waiver, c.currency, -c.amount
    from billing.closed_line as c
    where c.kind = 'statement' and c.link = (select link from base) and c.amount is not null
    union all
    select f.source, f.customer_id, f.account, f.subscription_number, f.discriminator, f.item, f.description, f.charge, f.is_waiver, f.currency, -f.amount
    from frozen as f
    where f.amount is not null
),

-- What is still to be adjusted of each line: to the last minor unit.
total as materialized (
    select
        array_to_string(array[source, customer_id, account, subscription_number, discriminator, item, description, charge], chr(31)) as item_key,
        is_waiver, currency, sum(amount) as amount
    from amount_of
    group by 1, 2, 3
),

delta as materialized (
    select
        x.item_key, x.is_waiver, x.currency, x.day, sum(x.parts) as parts, sum(x.worth) as worth,
        -- As things are now against what the month shows, without what was adjusted in closed months.
        coalesce(sum(x.parts) filter (where not x.is_frozen), 0) as fresh_parts,
        coalesce(sum(x.worth) filter (where not x.is_frozen), 0) as fresh_worth,
        max(x.price_known_since) as price_known_since
    from (
        select v.item_key, v.is_waiver, v.currency, v.day, case when v.is_live then v.parts else -v.parts end as parts,
            case when v.is_live then v.worth else -v.worth end as worth, false as is_frozen,
            case when v.is_live then v.price_known_since else v.price_superseded_at end as price_known_since
        from valued as v
        union all
        select f.item_key, f.is_waiver, f.currency_key, f.usage_date, -f.parts, -f.worth, true, null
        from frozen as f
    ) as x
    group by x.item_key, x.is_waiver, x.currency, x.day
),

-- The days that changed; where only the rounding of a line did, its last day.
changed as materialized (
    select d.item_key, d.is_waiver, d.currency, d.day, d.parts, d.worth, d.fresh_parts, d.fresh_worth, d.price_known_since, coalesce(t.amount, 0) as total
    from (
        select d.*,
            bool_or(d.parts <> 0 or d.worth <> 0) over (partition by d.item_key, d.is_waiver, d.currency) as is_any,
            d.day = max(d.day) over (partition by d.item_key, d.is_waiver, d.currency) as is_last
        from delta as d
    ) as d
    left join total as t using (item_key, is_waiver, currency)
    where d.parts <> 0 or d.worth <> 0 or not d.is_any and d.is_last and coalesce(t.amount, 0) <> 0
),

-- An amount is shared by cumulative rounding: the shares add up to it, and each is the day's own but for one minor unit.
summed as materialized (
    select c.*,
        case
            when lead(c.day) over w is null then c.total
            else billing.divide_rounded(sum(c.worth) over w, billing.exact_scale(), billing.currency_minor_units(c.currency))
        end as until_day
    from changed as c
    window w as (partition by c.item_key, c.is_waiver, c.currency order by c.day)
),

shared as materialized (
    select s.*, s.until_day - lag(s.until_day, 1, 0::numeric) over (partition by s.item_key, s.is_waiver, s.currency order by s.day) as amount
    from summed as s
),

-- Both sides of a day, to tell why.
side as materialized (
    select
        v.item_key, v.day,
        coalesce(sum(v.parts) filter (where v.is_live), 0) as live_parts,
        coalesce(sum(v.parts) filter (where not v.is_live), 0) as base_parts,
        coalesce(sum(v.parts) filter (where v.is_live and v.is_waiver), 0) as live_waiver_parts,
        coalesce(sum(v.parts) filter (where not v.is_live and v.is_waiver), 0) as base_waiver_parts,
        bool_or(v.is_live) as is_in_live,
        bool_or(not v.is_live) as is_in_base,
        coalesce(bool_or(v.basis in ('missing', 'estimated')) filter (where not v.is_live), false) as was_missing,
        coalesce(bool_or(v.basis in ('dropped', 'absent_kept')), false) as is_decided,
        array_agg(distinct v.basis) filter (where v.is_live) is distinct from array_agg(distinct v.basis) filter (where not v.is_live) as is_basis_changed,
        max(v.known_since) filter (where v.is_live) as known_since
    from valued as v
    where (v.item_key, v.day) in (select c.item_key, c.day from changed as c)
    group by v.item_key, v.day
),

named as materialized (
    select distinct on (n.item_key) n.*
    from (
        select v.item_key, v.source, v.customer_id, v.account, v.subscription_number, v.discriminator, v.item, v.description, v.charge from valued as v
        union all
        select f.item_key, f.source, f.customer_id, f.account, f.subscription_number, f.discriminator, f.item, f.description, f.charge from frozen as f
    ) as n
    order by n.item_key
),

unit_of as (
    select distinct on (item_key) item_key, unit
    from (
        select array_to_string(array[source, customer_id, account, subscription_number, discriminator, item, description, charge], chr(31)) as item_key, unit from live_line
        union all
        select array_to_string(array[source, customer_id, account, subscription_number, discriminator, item, description, charge], chr(31)), unit
        from billing.closed_line as c
        where c.link = (select link from base)
        union all
        select item_key, unit from frozen
    ) as u
    order by item_key, unit
),

told as materialized (
    select s.*, n.source, n.customer_id, n.account, n.subscription_number, n.discriminator, n.item, n.description, n.charge, w.known_since as day_known_since,
        a.known_since as absence_known_since, p.known_since as calendar_known_since, q.known_since as decision_known_since, k.is_late,
        case
            when base.link is null or s.fresh_parts = 0 and s.fresh_worth = 0 and (s.parts <> 0 or s.worth <> 0) then 'reopened'
            when w.live_parts = w.base_parts and w.live_waiver_parts <> w.base_waiver_parts then 'terms_changed'
            when w.live_parts = w.base_parts then 'rate_changed'
            when not (w.is_in_live and w.is_in_base) and p.known_since is not null then 'calendar_changed'
            when not w.is_in_live then 'terms_changed'
            when w.is_basis_changed and w.is_decided then 'absent'
            when not w.is_in_base or w.was_missing then 'late'
            when q.known_since is not null then case n.charge when 'license' then 'rule_changed' else 'accrued_reading_changed' end
            when k.is_late then 'late'
            else 'restated'
        end as reason
    from shared as s
    cross join base
    join named as n using (item_key)
    left join side as w using (item_key, day)
    left join lateral (
        select max(greatest(p.known_since, p.superseded_at)) as known_since
        from billing.period as p
        where p.customer_id = n.customer_id and p.subscription_number = n.subscription_number and p.clock = n.charge
            and greatest(p.known_since, p.superseded_at) > base.at
    ) as p on true
    left join lateral (
        select max(greatest(a.known_since, a.superseded_at)) as known_since
        from billing.absence as a
        where a.customer_id = n.customer_id and a.subscription_number = n.subscription_number and a.service_level = n.item
            and s.day >= a.first_day and s.day <= a.last_day
    ) as a on true
    left join lateral (
        select max(x.known_since) as known_since
        from (
            select d.known_since
            from billing.accrued_decision as d
            where n.charge = 'burst' and d.account = n.account and d.month = date_trunc('month', s.day::timestamp)::date and d.known_since > base.at
            union all
            select d.known_since
            from billing.product_rule as d
            where n.charge = 'license' and d.product = n.item and d.known_since > base.at
        ) as x
    ) as q on true
    left join lateral (
        select bool_and(r.kind = 'late') as is_late
        from dw.dim_customer as c
        join dw.dim_subscription as b using (customer_key)
        join dw.dim_service_level as l using (customer_key, subscription_key)
        join dw.restatement as r using (customer_key, service_level_key)
        where c.customer_id = n.customer_id and b.subscription_number = n.subscription_number and b.discriminator = n.discriminator
            and l.service_level = n.item and r.usage_date = s.day and r.known_until > base.at
    ) as k on true
)

select
    t.source, t.customer_id, t.account, t.subscription_number, t.discriminator, t.item, t.description, t.charge, t.is_waiver, u.unit, t.day,
    trim_scale(billing.divide_rounded(t.parts, billing.exact_scale(), 12)),
    case when t.currency <> '' then t.amount end, nullif(t.currency, ''), t.reason,
    case t.reason
        when 'reopened' then (select at from base)
        when 'rate_changed' then t.price_known_since
        when 'calendar_changed' then t.calendar_known_since
        when 'absent' then coalesce(t.absence_known_since, t.day_known_since)
        when 'accrued_reading_changed' then t.decision_known_since
        when 'rule_changed' then t.decision_known_since
        else t.day_known_since
    end,
    t.parts, t.worth
from told as t
left join unit_of as u using (item_key)
$$;
-- +goose StatementEnd
comment on function billing.adjustment(text) is 'What is still to be adjusted of a closed month: its figures as of now, less the closed ones, less what closed months adjusted already. Columns as in mart.adjustment; parts and worth are the exact quantity and amount times billing.exact_scale().';
comment on function billing.closed_day_changed(timestamptz) is 'Days of closed months, counted by level instance, of which the vendor told other figures than were closed, known since after the instant. What they come to is in mart.adjustment.';
drop function billing.settle(bigint, text[]);
drop function billing.is_settled(text);
drop function billing.computed_adjustment(text);
drop function billing.fingerprint(text);
drop table billing.settled;
