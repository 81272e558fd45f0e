-- A month in which the history of an account begins is closed with a reason only: what was never asked for was not
-- missing, so that one day of a month could be closed as all of it. Locks nothing for long; nothing to replay.

-- +goose Up
-- +goose StatementBegin
create or replace function billing.close_obstacle(period text)
returns table (kind text, about text, remedy text, is_acceptable boolean)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
with clock as materialized (
    select m.first_day, (m.first_day + interval '1 month')::date - 1 as last_day, billing.business_now() as now_at
    from (select (close_obstacle.period || '-01')::date as first_day) as m
),

part as materialized (
    select
        p.*,
        case p.source when 'keystone' then format('%s %s %s', p.customer_id, p.subscription_number, p.item) else format('%s %s %s', p.account, p.item, p.description) end as who
    from billing.statement_part(close_obstacle.period, 'infinity') as p
),

span as (
    select least(clock.first_day, min(p.period_start)) as first_day, clock.last_day
    from clock
    left join part as p on true
    group by clock.first_day, clock.last_day
),

-- One reading closes a month for all descriptions of a product: of them that have none beside those that do nothing else
-- tells.
license as materialized (
    select m.account, m.state, m.reason
    from mart.license_month as m
    cross join clock
    where m.month = clock.first_day and m.state in ('at_risk', 'lost')
),

half_closed as (
    select p.account, p.discriminator, p.item
    from part as p
    where p.source = 'wolkvox'
    group by p.account, p.discriminator, p.item
    having count(distinct p.description) > count(distinct p.description) filter (where p.doubt = 'not closed')
),

doubt as (
    select p.source, p.kind, count(distinct (p.who, p.level_ordinal, p.day)) as days, min(p.who) as example, min(p.day) as first_day, max(p.day) as last_day
    from (
        select p.*, case p.doubt when 'estimated' then 'missing' when 'not closed' then 'not_closed' else p.doubt end as kind
        from part as p
        where p.doubt <> 'not closed'
            or p.doubt = 'not closed' and (
                p.account not in (select l.account from license as l)
                or (p.account, p.discriminator, p.item) in (select h.account, h.discriminator, h.item from half_closed as h)
            )
    ) as p
    group by p.source, p.kind
)

select 'closed' as kind, format('%s is closed already, version %s', h.period, h.version),
    format('`meterhouse reopen %s --reason R` takes it back', h.period), false
from billing.close as h
where h.link = billing.closed_link(close_obstacle.period)

union all

select 'not_over', format('the month ends on %s and its figures settle after that%s', clock.last_day, coalesce(', such as those of ' || (select min(p.who) from part as p where not p.is_over), '')),
    'close it then', false
from clock
where (clock.last_day + 1)::timestamp at time zone 'UTC' > clock.now_at or exists (select from part as p where not p.is_over)

union all

select 'order', format('%s is open, and months before it are closed', to_char(clock.first_day - interval '1 month', 'YYYY-MM')),
    format('`meterhouse close %s` first', to_char(clock.first_day - interval '1 month', 'YYYY-MM')), true
from clock
where not billing.is_closed(to_char(clock.first_day - interval '1 month', 'YYYY-MM'))
    and exists (select from billing.chain as c where c.period < close_obstacle.period and billing.is_closed(c.period))

union all

select 'empty', 'no line: nothing was loaded for the month', 'load it with `meterhouse backfill`', true
where not exists (select from part)

union all

select
    d.kind,
    format('%s %s, %s to %s, such as of %s', d.days, case
        when d.kind = 'missing' and d.source = 'keystone' then 'days of levels without figures'
        when d.kind = 'missing' then 'days of products that nobody read'
        when d.kind = 'partial' then 'days of levels of which records were refused'
        when d.kind = 'absent' then 'days of levels that the vendor delivers no more'
        when d.kind = 'fell' then 'days of products on which a counter fell'
        when d.kind = 'not_closed' then 'descriptions of products without a reading at the end of the month, last read'
        when d.kind = 'quarantine' then 'days of levels or products with refused records'
        else format('days in doubt (%s)', d.kind)
    end, d.first_day, d.last_day, d.example),
    case
        when d.kind = 'missing' and d.source = 'keystone' then 'see `meterhouse report missing_days`, then `meterhouse backfill`; days that never come are dropped with `meterhouse levels absent drop`'
        when d.kind = 'missing' then 'ask wolkvox for the figures of these days, and load them with `meterhouse readings import FILE`'
        when d.kind = 'absent' then 'decide with `meterhouse levels absent`'
        when d.kind in ('partial', 'quarantine') then 'see `meterhouse quarantine list`'
        when d.kind = 'fell' then 'wolkvox reset or corrected it: ask which figure is billed; the last reading counts, and `meterhouse match` compares the invoice with it'
        when d.kind = 'not_closed' then 'a description that was renamed counts twice: see `meterhouse statement`, ask wolkvox which are billed, and load their last day with `meterhouse readings import FILE`'
        else 'see the notes of `meterhouse statement`'
    end,
    true
from doubt as d

union all

select 'quarantine', format('%s of %s refused and not settled, such as %s', case count(*) when 1 then 'one record' else count(*) || ' records' end, q.dataset, min(q.reason)),
    'see `meterhouse quarantine list`', true
from ops.quarantine as q
cross join span
where q.resolved_at is null
    and q.dataset in ('keystone.history', 'wolkvox.billing')
    and coalesce(q.day, q.window_from, '-infinity') <= span.last_day
    and coalesce(q.day, q.window_until - 1, 'infinity') >= span.first_day
group by q.dataset

union all

select 'not_loaded', format('%s customers have no complete history up to the end of the month, such as %s', count(*), min(c.customer_id)),
    'see `meterhouse status`, then `meterhouse run keystone.history`', true
from dw.dim_customer as c
cross join clock
left join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
where c.absent_since is null
    and (w.expected_from is null or w.expected_from <= clock.last_day)
    and coalesce(w.watermark, '-infinity') < (clock.last_day + 1)::timestamp at time zone 'UTC'
having count(*) > 0

union all

-- What was never asked for: the history begins within the period, though the subscription was there before.
select 'begins', format('the history of %s begins on %s: %s to %s are in no line%s', b.account, b.begins_on, min(b.period_start), b.begins_on - 1,
        case when count(*) = 1 then ' of ' || min(b.who) else format(' of %s subscriptions, such as of %s', count(*), min(b.who)) end),
    format('set `history.start` to %s or before; `meterhouse run keystone.history` loads the days then', min(b.period_start)), true
from (
    select p.account, p.period_start, min(p.day) as begins_on, min(p.who) as who
    from part as p
    join dw.dim_customer as c on c.customer_id = p.customer_id
    join dw.dim_subscription as s on s.customer_key = c.customer_key and s.subscription_number = p.subscription_number and s.discriminator = p.discriminator
    join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = p.customer_id
    where p.source = 'keystone'
    group by p.account, p.period_start, c.customer_key, s.subscription_key, s.start_at, w.expected_from
    having min(p.day) > p.period_start and min(p.day) <= w.expected_from
        and coalesce(least(s.start_at, (
            select min(f.start_at) from dw.fact_subscription as f where f.customer_key = c.customer_key and f.subscription_key = s.subscription_key
        )), '-infinity') < min(p.day)::timestamp at time zone 'UTC'
) as b
group by b.account, b.begins_on

union all

select 'begins', format('the first reading of %s is of %s: what was in use from %s to %s is not known, such as of %s', p.account, min(p.day), clock.first_day, min(p.day) - 1, min(p.who)),
    'ask wolkvox for the figures of these days, and load them with `meterhouse readings import FILE`', true
from part as p
cross join clock
where p.source = 'wolkvox' and p.charge = 'license'
group by p.account, clock.first_day
having min(p.day) > clock.first_day and not exists (
    select from dw.fact_license_snapshot as f
    join dw.dim_operation as o using (operation_key)
    where o.account = p.account and f.snapshot_date < clock.first_day
)

union all

select 'license_month', format('the licence month of %s is %s%s', l.account, l.state, coalesce(': ' || l.reason, '')),
    'ask wolkvox for the figures and load them with `meterhouse readings import`', true
from license as l
$$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
create or replace function billing.close_obstacle(period text)
returns table (kind text, about text, remedy text, is_acceptable boolean)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
with clock as materialized (
    select m.first_day, (m.first_day + interval '1 month')::date - 1 as last_day, billing.business_now() as now_at
    from (select (close_obstacle.period || '-01')::date as first_day) as m
),

part as materialized (
    select
        p.*,
        case p.source when 'keystone' then format('%s %s %s', p.customer_id, p.subscription_number, p.item) else format('%s %s %s', p.account, p.item, p.description) end as who
    from billing.statement_part(close_obstacle.period, 'infinity') as p
),

span as (
    select least(clock.first_day, min(p.period_start)) as first_day, clock.last_day
    from clock
    left join part as p on true
    group by clock.first_day, clock.last_day
),

-- One reading closes a month for all descriptions of a product: of them that have none beside those that do nothing else
-- tells.
license as materialized (
    select m.account, m.state, m.reason
    from mart.license_month as m
    cross join clock
    where m.month = clock.first_day and m.state in ('at_risk', 'lost')
),

half_closed as (
    select p.account, p.discriminator, p.item
    from part as p
    where p.source = 'wolkvox'
    group by p.account, p.discriminator, p.item
    having count(distinct p.description) > count(distinct p.description) filter (where p.doubt = 'not closed')
),

doubt as (
    select p.source, p.kind, count(distinct (p.who, p.level_ordinal, p.day)) as days, min(p.who) as example, min(p.day) as first_day, max(p.day) as last_day
    from (
        select p.*, case p.doubt when 'estimated' then 'missing' when 'not closed' then 'not_closed' else p.doubt end as kind
        from part as p
        where p.doubt <> 'not closed'
            or p.doubt = 'not closed' and (
                p.account not in (select l.account from license as l)
                or (p.account, p.discriminator, p.item) in (select h.account, h.discriminator, h.item from half_closed as h)
            )
    ) as p
    group by p.source, p.kind
)

select 'closed' as kind, format('%s is closed already, version %s', h.period, h.version),
    format('`meterhouse reopen %s --reason R` takes it back', h.period), false
from billing.close as h
where h.link = billing.closed_link(close_obstacle.period)

union all

select 'not_over', format('the month ends on %s and its figures settle after that%s', clock.last_day, coalesce(', such as those of ' || (select min(p.who) from part as p where not p.is_over), '')),
    'close it then', false
from clock
where (clock.last_day + 1)::timestamp at time zone 'UTC' > clock.now_at or exists (select from part as p where not p.is_over)

union all

select 'order', format('%s is open, and months before it are closed', to_char(clock.first_day - interval '1 month', 'YYYY-MM')),
    format('`meterhouse close %s` first', to_char(clock.first_day - interval '1 month', 'YYYY-MM')), true
from clock
where not billing.is_closed(to_char(clock.first_day - interval '1 month', 'YYYY-MM'))
    and exists (select from billing.chain as c where c.period < close_obstacle.period and billing.is_closed(c.period))

union all

select 'empty', 'no line: nothing was loaded for the month', 'load it with `meterhouse backfill`', true
where not exists (select from part)

union all

select
    d.kind,
    format('%s %s, %s to %s, such as of %s', d.days, case
        when d.kind = 'missing' and d.source = 'keystone' then 'days of levels without figures'
        when d.kind = 'missing' then 'days of products that nobody read'
        when d.kind = 'partial' then 'days of levels of which records were refused'
        when d.kind = 'absent' then 'days of levels that the vendor delivers no more'
        when d.kind = 'fell' then 'days of products on which a counter fell'
        when d.kind = 'not_closed' then 'descriptions of products without a reading at the end of the month, last read'
        when d.kind = 'quarantine' then 'days of levels or products with refused records'
        else format('days in doubt (%s)', d.kind)
    end, d.first_day, d.last_day, d.example),
    case
        when d.kind = 'missing' and d.source = 'keystone' then 'see `meterhouse report missing_days`, then `meterhouse backfill`; days that never come are dropped with `meterhouse levels absent drop`'
        when d.kind = 'missing' then 'ask wolkvox for the figures of these days, and load them with `meterhouse readings import FILE`'
        when d.kind = 'absent' then 'decide with `meterhouse levels absent`'
        when d.kind in ('partial', 'quarantine') then 'see `meterhouse quarantine list`'
        when d.kind = 'fell' then 'wolkvox reset or corrected it: ask which figure is billed; the last reading counts, and `meterhouse match` compares the invoice with it'
        when d.kind = 'not_closed' then 'a description that was renamed counts twice: see `meterhouse statement`, ask wolkvox which are billed, and load their last day with `meterhouse readings import FILE`'
        else 'see the notes of `meterhouse statement`'
    end,
    true
from doubt as d

union all

select 'quarantine', format('%s of %s refused and not settled, such as %s', case count(*) when 1 then 'one record' else count(*) || ' records' end, q.dataset, min(q.reason)),
    'see `meterhouse quarantine list`', true
from ops.quarantine as q
cross join span
where q.resolved_at is null
    and q.dataset in ('keystone.history', 'wolkvox.billing')
    and coalesce(q.day, q.window_from, '-infinity') <= span.last_day
    and coalesce(q.day, q.window_until - 1, 'infinity') >= span.first_day
group by q.dataset

union all

select 'not_loaded', format('%s customers have no complete history up to the end of the month, such as %s', count(*), min(c.customer_id)),
    'see `meterhouse status`, then `meterhouse run keystone.history`', true
from dw.dim_customer as c
cross join clock
left join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
where c.absent_since is null
    and (w.expected_from is null or w.expected_from <= clock.last_day)
    and coalesce(w.watermark, '-infinity') < (clock.last_day + 1)::timestamp at time zone 'UTC'
having count(*) > 0

union all

select 'license_month', format('the licence month of %s is %s%s', l.account, l.state, coalesce(': ' || l.reason, '')),
    'ask wolkvox for the figures and load them with `meterhouse readings import`', true
from license as l
$$;
-- +goose StatementEnd
