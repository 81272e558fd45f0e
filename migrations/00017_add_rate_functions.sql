-- What prices and the billing calendar need besides their tables: decimals of currencies, the rules
-- that the database itself keeps, and the end of a calendar as a deadline. Functions, triggers and an
-- index of new tables, and a view: locks nothing; nothing to replay.

-- +goose Up
create function billing.currency_minor_units(currency text) returns integer
language sql immutable parallel safe
as $$
    select case
        when currency in ('BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG', 'RWF', 'UGX', 'UYI', 'VND', 'VUV', 'XAF', 'XOF', 'XPF') then 0
        when currency in ('BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND') then 3
        when currency in ('CLF', 'UYW') then 4
        else 2
    end
$$;
comment on function billing.currency_minor_units(text) is 'Decimals of the smallest unit of a currency by ISO 4217; 2 for a code that the standard does not know.';

-- +goose StatementBegin
create function billing.refuse_rewriting() returns trigger
language plpgsql
set search_path = pg_catalog
as $$
begin
    if tg_op = 'DELETE' or old.superseded_at is not null or to_jsonb(new) - 'superseded_at' <> to_jsonb(old) - 'superseded_at' then
        raise exception 'rows of billing.% are never changed or deleted', tg_table_name
            using errcode = 'restrict_violation', hint = 'Set superseded_at where it is null, and insert what holds from then on.';
    end if;
    return new;
end
$$;
-- +goose StatementEnd
comment on function billing.refuse_rewriting() is 'Trigger: a row may be superseded once and is never changed otherwise, so that what was known at any time can be told.';
create trigger rate_kept before update or delete on billing.rate for each row execute function billing.refuse_rewriting();
create trigger period_kept before update or delete on billing.period for each row execute function billing.refuse_rewriting();
create trigger product_rule_kept before update or delete on billing.product_rule for each row execute function billing.refuse_rewriting();
create trigger absence_kept before update or delete on billing.absence for each row execute function billing.refuse_rewriting();

create unique index period_current_idx on billing.period (customer_id, subscription_number, clock, period_start) where superseded_at is null;

-- +goose StatementBegin
create function billing.refuse_gap() returns trigger
language plpgsql
set search_path = pg_catalog
as $$
declare
    former record;
begin
    -- Two writers that do not see each other's rows could leave a gap between them.
    perform pg_advisory_xact_lock(hashtextextended('billing.period', 0));

    select tiled.period_end, tiled.next_start into former
    from (
        select p.period_end, lead(p.period_start) over (order by p.period_start) as next_start
        from billing.period as p
        where p.customer_id = new.customer_id
            and p.subscription_number = new.subscription_number
            and p.clock = new.clock
            and p.superseded_at is null
    ) as tiled
    where tiled.next_start > tiled.period_end + 1
    order by tiled.period_end
    limit 1;
    if found then
        raise exception 'periods of the % clock of subscription % leave a gap: one ends on %, the next starts on %',
            new.clock, new.subscription_number, former.period_end, former.next_start
            using errcode = 'check_violation', schema = 'billing', table = 'period', constraint = 'period_no_gap';
    end if;
    return null;
end
$$;
-- +goose StatementEnd
comment on function billing.refuse_gap() is 'Trigger: at the end of a transaction the periods of a clock follow each other without a gap.';
create constraint trigger period_no_gap after insert or update on billing.period
    deferrable initially deferred for each row execute function billing.refuse_gap();

create or replace view mart.deadline as
with clock as (
    select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock
),

-- The vendor counts the life of a token in real time, whatever clock the figures follow.
token as (
    select distinct on (c.account)
        c.account,
        c.obtained_at + interval '7 days' as idle_at,
        c.seeded_at + interval '90 days' as login_at,
        coalesce(t.state = 'rejected' and t.from_generation = c.generation, false) as is_refused,
        coalesce(t.from_generation >= c.generation and (t.state = 'ambiguous' or t.state = 'open' and t.deadline_at < now() - interval '1 minute'), false) as is_unclear
    from ops.credential as c
    left join lateral (
        select state, from_generation, deadline_at
        from ops.credential_attempt
        where account = c.account
        order by attempt_id desc
        limit 1
    ) as t on true
    order by c.account, c.generation desc
),

-- A calendar is not missed that reaches the end of its subscription. The two portals tell that end a
-- day apart.
last_period as (
    select
        p.customer_id,
        p.subscription_number,
        p.clock,
        s.account,
        (max(p.period_end) + 1)::timestamp at time zone 'UTC' as ends_at
    from billing.period as p
    left join lateral (
        select
            c.account,
            case when bool_and(f.end_at is not null) then max(f.end_at) end as end_at
        from dw.dim_customer as c
        join dw.dim_subscription as s using (customer_key)
        join dw.fact_subscription as f on f.customer_key = c.customer_key and f.subscription_key = s.subscription_key and f.valid_to is null
        where c.customer_id = p.customer_id and s.subscription_number = p.subscription_number
        group by c.account
    ) as s on true
    where p.superseded_at is null
    group by p.customer_id, p.subscription_number, p.clock, s.account, s.end_at
    having s.end_at is null or s.end_at > (max(p.period_end) + 2)::timestamp at time zone 'UTC'
),

deadline as (
    select
        'token_idle' as kind,
        null::text as customer_id,
        t.account,
        null::text as subscription_number,
        t.idle_at as due_at,
        now() as now_at,
        case
            when t.is_refused or t.idle_at <= now() then format('get a new refresh token from the Digital Advisor portal and give it to `meterhouse token set %s`', t.account)
            when t.is_unclear then 'the answer to the last exchange was lost and is probed by itself: see `meterhouse token status`'
            when t.idle_at <= now() + interval '4 days' then 'loads renew the token and do not: see `meterhouse token status`, then `meterhouse run keystone.customers`'
            else 'nothing: loads renew the token'
        end as action
    from token as t
    union all
    select
        'token_login', null, t.account, null, t.login_at, now(),
        case
            when t.login_at > now() + interval '15 days' then 'nothing yet: later '
            else ''
        end || format('log in to the Digital Advisor portal, generate tokens, and give the refresh token to `meterhouse token set %s`', t.account)
    from token as t
    union all
    select
        'subscription_end', c.customer_id, c.account, s.subscription_number, f.end_at, clock.now_at,
        'renew or end the subscription with NetApp; a renewal shows here once the vendor lists the new end'
    from dw.fact_subscription as f
    join dw.dim_subscription as s using (subscription_key)
    join dw.dim_customer as c on c.customer_key = f.customer_key
    cross join clock
    where f.valid_to is null
        and f.absent_since is null
        and f.end_at > clock.now_at - interval '30 days'
        and f.end_at <= clock.now_at + interval '120 days'
    union all
    select
        'license_month', null, m.account, null, m.month_ends_at, clock.now_at,
        case m.state
            when 'at_risk' then 'see `meterhouse status` for what keeps the readings away, then `meterhouse run wolkvox.billing`'
            when 'lost' then format('ask wolkvox for the figures of %s and load them with `meterhouse readings import`', to_char(m.month, 'YYYY-MM'))
            else 'nothing: readings go on until the month ends'
        end
    from mart.license_month as m
    cross join clock
    where m.month_ends_at > clock.now_at or m.state = 'lost' and m.month_ends_at > clock.now_at - interval '35 days'
    union all
    select
        'calendar_ends', l.customer_id, l.account, l.subscription_number, l.ends_at, clock.now_at,
        format('take over the %s periods that follow from the contract: `meterhouse calendar generate`, then `meterhouse calendar import`', l.clock)
    from last_period as l
    cross join clock
    where l.ends_at <= clock.now_at + interval '60 days'
)

select
    kind,
    customer_id,
    account,
    subscription_number,
    due_at,
    floor(extract(epoch from due_at - now_at) / 86400)::integer as days_left,
    action
from deadline;
comment on view mart.deadline is 'Grain: one row per date that a person or the loader must keep: life of a token, login, end of a subscription, end of a month of licence readings, end of a billing calendar.';
comment on column mart.deadline.kind is 'token_idle (the refresh token dies unless it is exchanged before); token_login (a person has to log in again); subscription_end (ended in the last 30 days or ends in the next 120); license_month (readings of the running month end with it; a lost month stays for 35 days); calendar_ends (the last billing period of a clock ended or ends in the next 60 days, and the subscription goes on).';

-- +goose Down
create or replace view mart.deadline as
with clock as (
    select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock
),

-- The vendor counts the life of a token in real time, whatever clock the figures follow.
token as (
    select distinct on (c.account)
        c.account,
        c.obtained_at + interval '7 days' as idle_at,
        c.seeded_at + interval '90 days' as login_at,
        coalesce(t.state = 'rejected' and t.from_generation = c.generation, false) as is_refused,
        coalesce(t.from_generation >= c.generation and (t.state = 'ambiguous' or t.state = 'open' and t.deadline_at < now() - interval '1 minute'), false) as is_unclear
    from ops.credential as c
    left join lateral (
        select state, from_generation, deadline_at
        from ops.credential_attempt
        where account = c.account
        order by attempt_id desc
        limit 1
    ) as t on true
    order by c.account, c.generation desc
),

deadline as (
    select
        'token_idle' as kind,
        null::text as customer_id,
        t.account,
        null::text as subscription_number,
        t.idle_at as due_at,
        now() as now_at,
        case
            when t.is_refused or t.idle_at <= now() then format('get a new refresh token from the Digital Advisor portal and give it to `meterhouse token set %s`', t.account)
            when t.is_unclear then 'the answer to the last exchange was lost and is probed by itself: see `meterhouse token status`'
            when t.idle_at <= now() + interval '4 days' then 'loads renew the token and do not: see `meterhouse token status`, then `meterhouse run keystone.customers`'
            else 'nothing: loads renew the token'
        end as action
    from token as t
    union all
    select
        'token_login', null, t.account, null, t.login_at, now(),
        case
            when t.login_at > now() + interval '15 days' then 'nothing yet: later '
            else ''
        end || format('log in to the Digital Advisor portal, generate tokens, and give the refresh token to `meterhouse token set %s`', t.account)
    from token as t
    union all
    select
        'subscription_end', c.customer_id, c.account, s.subscription_number, f.end_at, clock.now_at,
        'renew or end the subscription with NetApp; a renewal shows here once the vendor lists the new end'
    from dw.fact_subscription as f
    join dw.dim_subscription as s using (subscription_key)
    join dw.dim_customer as c on c.customer_key = f.customer_key
    cross join clock
    where f.valid_to is null
        and f.absent_since is null
        and f.end_at > clock.now_at - interval '30 days'
        and f.end_at <= clock.now_at + interval '120 days'
    union all
    select
        'license_month', null, m.account, null, m.month_ends_at, clock.now_at,
        case m.state
            when 'at_risk' then 'see `meterhouse status` for what keeps the readings away, then `meterhouse run wolkvox.billing`'
            when 'lost' then format('ask wolkvox for the figures of %s and load them with `meterhouse readings import`', to_char(m.month, 'YYYY-MM'))
            else 'nothing: readings go on until the month ends'
        end
    from mart.license_month as m
    cross join clock
    where m.month_ends_at > clock.now_at or m.state = 'lost' and m.month_ends_at > clock.now_at - interval '35 days'
)

select
    kind,
    customer_id,
    account,
    subscription_number,
    due_at,
    floor(extract(epoch from due_at - now_at) / 86400)::integer as days_left,
    action
from deadline;
comment on view mart.deadline is 'Grain: one row per date that a person or the loader must keep: life of a token, login, end of a subscription, end of a month of licence readings.';
comment on column mart.deadline.kind is 'token_idle (the refresh token dies unless it is exchanged before); token_login (a person has to log in again); subscription_end (ended in the last 30 days or ends in the next 120); license_month (readings of the running month end with it; a lost month stays for 35 days).';
drop trigger period_no_gap on billing.period;
drop function billing.refuse_gap();
drop index billing.period_current_idx;
drop trigger absence_kept on billing.absence;
drop trigger product_rule_kept on billing.product_rule;
drop trigger period_kept on billing.period;
drop trigger rate_kept on billing.rate;
drop function billing.refuse_rewriting();
drop function billing.currency_minor_units(text);
