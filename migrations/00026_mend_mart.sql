-- The mart, looked at by somebody who did not build it. monthly_burst tells the waiver as the statement does: a
-- renewal does not start it anew, and NULL where the start is unknown. restatement tells a day that a replay took away,
-- and has a key, as deadline has. month and monthly_burst read the facts themselves: the estimate of what a running
-- total might cost made the server compile a question for seconds. Views: locks nothing for long; nothing to replay.

-- +goose Up
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

create or replace view mart.month as
select
    c.customer_id,
    s.subscription_number,
    l.service_level,
    l.level_ordinal,
    l.level_class,
    date_trunc('month', d.usage_date::timestamp)::date as month,
    count(*)::integer as days_observed,
    -- From the first observed day of the level to the end of its subscription, or its last observed day.
    (
        least(
            (date_trunc('month', d.usage_date::timestamp) + interval '1 month')::date,
            greatest(
                coalesce((s.end_at at time zone 'UTC')::date, (date_trunc('month', d.usage_date::timestamp) + interval '1 month')::date),
                (select max(f.usage_date) from dw.fact_daily_consumption as f
                 where f.customer_key = l.customer_key and f.service_level_key = l.service_level_key)
            ) + 1
        ) - greatest(
            date_trunc('month', d.usage_date::timestamp)::date,
            (select min(f.usage_date) from dw.fact_daily_consumption as f
             where f.customer_key = l.customer_key and f.service_level_key = l.service_level_key)
        )
    ) as days_expected,
    (array_agg(d.committed_tib order by d.usage_date desc))[1] as committed_tib,
    trim_scale(round(avg(d.consumed_avg_tib), 12)) as consumed_avg_tib,
    max(d.consumed_max_tib) as consumed_max_tib,
    -- Differences of a running total add up to its last figure.
    case
        when max(a.reading) = 'running' then case
            when count(d.accrued_last_tib) = count(*)
                then (array_agg(d.accrued_last_tib order by d.usage_date desc) filter (where a.reading = 'running'))[1]
        end
        when count(d.accrued_sum_tib) = count(*) then sum(d.accrued_sum_tib)
    end as accrued_burst_tib,
    count(*) filter (where d.over_committed_avg_tib > 0)::integer as days_over_commitment,
    case
        when count(*) filter (where not d.is_invoiced) > 0 then false
        when count(d.is_invoiced) = count(*) then true
    end as all_invoiced,
    c.customer_name,
    s.discriminator,
    count(*) filter (where d.digest is null)::integer as days_partial
from dw.fact_daily_consumption as d
join dw.dim_service_level as l using (service_level_key)
join dw.dim_subscription as s using (subscription_key)
join dw.dim_customer as c on c.customer_key = d.customer_key
left join dw.accrued_reading as a on a.account = c.account and a.month = date_trunc('month', d.usage_date::timestamp)::date
group by -- what sorts fast first
    l.service_level_key, date_trunc('month', d.usage_date::timestamp), l.customer_key, l.level_ordinal, s.end_at,
    c.customer_id, c.customer_name, s.subscription_number, s.discriminator, l.service_level, l.level_class;

-- +goose StatementBegin
create or replace function mart.month_as_of(as_of timestamptz) returns setof mart.month
language sql stable
set search_path = pg_catalog, pg_temp
set jit = off
as $$
    select
        c.customer_id,
        s.subscription_number,
        l.service_level,
        l.level_ordinal,
        l.level_class,
        date_trunc('month', d.usage_date::timestamp)::date as month,
        count(*)::integer as days_observed,
        -- From the first observed day of the level to the end of its subscription, or its last observed day.
        (
            least(
                (date_trunc('month', d.usage_date::timestamp) + interval '1 month')::date,
                greatest(
                    coalesce((s.end_at at time zone 'UTC')::date, (date_trunc('month', d.usage_date::timestamp) + interval '1 month')::date),
                    max(max(d.usage_date)) over (partition by l.customer_key, l.service_level_key)
                ) + 1
            ) - greatest(
                date_trunc('month', d.usage_date::timestamp)::date,
                min(min(d.usage_date)) over (partition by l.customer_key, l.service_level_key)
            )
        ) as days_expected,
        (array_agg(d.committed_tib order by d.usage_date desc))[1] as committed_tib,
        trim_scale(round(avg(d.consumed_avg_tib), 12)) as consumed_avg_tib,
        max(d.consumed_max_tib) as consumed_max_tib,
        -- Differences of a running total add up to its last figure.
        case
            when max(a.reading) = 'running' then case
                when count(d.accrued_last_tib) = count(*)
                    then (array_agg(d.accrued_last_tib order by d.usage_date desc) filter (where a.reading = 'running'))[1]
            end
            when count(d.accrued_sum_tib) = count(*) then sum(d.accrued_sum_tib)
        end as accrued_burst_tib,
        count(*) filter (where d.over_committed_avg_tib > 0)::integer as days_over_commitment,
        case
            when count(*) filter (where not d.is_invoiced) > 0 then false
            when count(d.is_invoiced) = count(*) then true
        end as all_invoiced,
        c.customer_name,
        s.discriminator,
        count(*) filter (where d.is_partial)::integer as days_partial
    from dw.daily_consumption_as_of(month_as_of.as_of) as d
    join dw.dim_service_level as l using (service_level_key)
    join dw.dim_subscription as s using (subscription_key)
    join dw.dim_customer as c on c.customer_key = d.customer_key
    left join billing.accrued_reading_as_of(month_as_of.as_of) as a on a.account = c.account and a.month = date_trunc('month', d.usage_date::timestamp)::date
    group by -- what sorts fast first
        l.service_level_key, date_trunc('month', d.usage_date::timestamp), l.customer_key, l.level_ordinal, s.end_at,
        c.customer_id, c.customer_name, s.subscription_number, s.discriminator, l.service_level, l.level_class
$$;
-- +goose StatementEnd

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
    s.discriminator,
    r.restatement_id as version_number
from dw.restatement as r
join dw.dim_service_level as l using (service_level_key)
join dw.dim_subscription as s using (subscription_key)
join dw.dim_customer as c on c.customer_key = r.customer_key
left join lateral (
    -- The version that followed: the next one in the ledger that was not read anew, else the current daily row,
    -- else nothing: what is read anew may not tell the day at all.
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
) as n on true
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
comment on column mart.restatement.version_number is 'Number of the superseded version: with column_name it tells the rows apart.';

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
        null::text as discriminator,
        null::text as clock,
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
        'token_login', null, t.account, null, null, null, t.login_at, now(),
        case
            when t.login_at > now() + interval '15 days' then 'nothing yet: later '
            else ''
        end || format('log in to the Digital Advisor portal, generate tokens, and give the refresh token to `meterhouse token set %s`', t.account)
    from token as t
    union all
    select
        'subscription_end', c.customer_id, c.account, s.subscription_number, s.discriminator, null, f.end_at, clock.now_at,
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
        'license_month', null, m.account, null, null, null, m.month_ends_at, clock.now_at,
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
        'calendar_ends', l.customer_id, l.account, l.subscription_number, null, l.clock, l.ends_at, clock.now_at,
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
    action,
    discriminator,
    clock
from deadline;
comment on column mart.deadline.discriminator is 'Tells subscriptions of one number apart, mostly empty; NULL where it is not about one, and of a calendar, which is that of the number.';
comment on column mart.deadline.clock is 'committed or burst: which periods end (calendar_ends); NULL for the other kinds.';

comment on column mart.month.days_expected is 'Days of the month in which the level is expected: from its first observed day to the end of its subscription, or its last observed day if that is later. More than days_observed means that the month is not whole (yet).';
comment on column mart.monthly_burst.waiver_burst_tib is 'Of it, what fell on the first 60 days of the subscription, as mart.statement tells it: a renewal does not start them anew. NULL as above, and when nobody told when the subscription began.';
comment on column mart.monthly_burst.worst_day_tib is 'Greatest daily mean over the commitment, TiB; 0 when no day was over.';
comment on column mart.restatement.new_value is 'Value of the next version; NULL when unknown, and when there is none: an answer that is read anew may not tell the day any more.';
comment on column mart.daily_consumption.accrued_burst_tib is 'Accrued burst of the day (TiB for a month): add the days of a month. Where the column is read as a running total, a day after a gap holds the gap''s too, and is negative where the total fell. NULL when not told.';
comment on view mart.coverage is 'Grain: one row per series and day that is expected: what is there and what is not. Rows without a subscription speak for a whole customer and stand beside those of its levels: count one or the other. A level or product that is no longer told is still expected until its subscription ends, or always. Filter day: other days are then not read.';
comment on view mart.commitment is 'Grain: one row per level instance and version of its committed capacity. Filter is_current for today. Instances of one name are numbered by each report of the vendor on its own: compare their sum with that of another view.';
comment on function mart.month_as_of(timestamptz) is 'mart.month as it was known at an instant, with the caveats of mart.daily_consumption_as_of; the name of the customer, the class of the level and the end of the subscription are as of now. It computes all months.';
comment on column mart.statement.period_end is 'Last day of the billing period, inclusive. Filter period beside it: every month is computed otherwise.';

-- +goose Down
comment on column mart.month.days_expected is 'Days of the month in which the level is expected: from its first observed day to the end of its subscription. More than days_observed means that the month is not whole (yet).';
comment on column mart.monthly_burst.waiver_burst_tib is 'Of it, what fell on the first 60 days of the subscription; NULL as above.';
comment on column mart.monthly_burst.worst_day_tib is 'Greatest daily mean over the commitment, TiB.';
comment on column mart.daily_consumption.accrued_burst_tib is 'Accrued burst of the day (TiB for a month): add the days of a month. NULL when not told.';
comment on view mart.coverage is 'Grain: one row per series and day that is expected: what is there and what is not. Rows without a subscription speak for a whole customer.';
comment on view mart.commitment is 'Grain: one row per level instance and version of its committed capacity. Filter is_current for today.';
comment on function mart.month_as_of(timestamptz) is 'mart.month as it was known at an instant, with the caveats of mart.daily_consumption_as_of.';
comment on column mart.statement.period_end is 'Last day of the billing period, inclusive.';
drop view mart.deadline;
create view mart.deadline as
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
comment on column mart.deadline.customer_id is 'Keystone customer; NULL where it is not about one.';
comment on column mart.deadline.account is 'Configured account.';
comment on column mart.deadline.subscription_number is 'Subscription; NULL where it is not about one.';
comment on column mart.deadline.due_at is 'The date, UTC.';
comment on column mart.deadline.days_left is 'Whole days until then, rounded down: 0 on the last day, negative once past. Tokens count from the wall clock, which is the vendor''s; the others from the business clock, as the other views do.';
comment on column mart.deadline.action is 'What a person does about it.';
drop view mart.restatement;
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
comment on view mart.restatement is 'Grain: one row per superseded version of a day and column that the next version changed.';
comment on column mart.restatement.customer_id is 'The vendor''s id of the customer.';
comment on column mart.restatement.subscription_number is 'The vendor''s number of the subscription.';
comment on column mart.restatement.service_level is 'Name as delivered.';
comment on column mart.restatement.level_ordinal is '0-based instance among equal names.';
comment on column mart.restatement.usage_date is 'UTC day.';
comment on column mart.restatement.kind is 'restated: the vendor gave other figures; late: samples were added to the ones known; reread: the same answer is read differently now, as after an upgrade or a retry.';
comment on column mart.restatement.column_name is 'Column of the daily figures that changed; samples stands for the digest over all measures of the day.';
comment on column mart.restatement.old_value is 'Value of the superseded version; NULL when unknown.';
comment on column mart.restatement.new_value is 'Value of the next version; NULL when unknown.';
comment on column mart.restatement.was_invoiced is 'Whether the superseded version was invoiced; NULL when unknown.';
comment on column mart.restatement.known_from is 'Since when we knew the superseded version, UTC.';
comment on column mart.restatement.known_until is 'When we learned of the next version, UTC.';
comment on column mart.restatement.discriminator is 'Empty unless several subscriptions share the number.';
-- +goose StatementBegin
create or replace function mart.month_as_of(as_of timestamptz) returns setof mart.month
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
create or replace view mart.month as
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
create or replace view mart.monthly_burst as
select
    d.customer_id,
    d.customer_name,
    d.subscription_number,
    d.discriminator,
    d.service_level,
    d.level_ordinal,
    d.level_class,
    date_trunc('month', d.usage_date)::date as month,
    count(*)::integer as days_observed,
    count(*) filter (where d.over_committed_avg_tib > 0)::integer as days_over_commitment,
    case when count(d.accrued_burst_tib) = count(*) then sum(d.accrued_burst_tib) end as accrued_burst_tib,
    case
        when count(d.accrued_burst_tib) = count(*)
            then coalesce(sum(d.accrued_burst_tib) filter (where d.usage_date < t.start_day + 60), 0)
    end as waiver_burst_tib,
    max(d.over_committed_avg_tib) as worst_day_tib,
    (array_agg(d.usage_date order by d.over_committed_avg_tib desc, d.usage_date) filter (where d.over_committed_avg_tib > 0))[1] as worst_day
from mart.daily_consumption as d
left join (
    select c.customer_id, s.subscription_number, s.discriminator, (case when f.customer_key is null then s.start_at else f.start_at end at time zone 'UTC')::date as start_day -- as told last, even when that is nothing
    from dw.dim_subscription as s
    join dw.dim_customer as c using (customer_key)
    left join dw.fact_subscription as f on f.customer_key = s.customer_key and f.subscription_key = s.subscription_key and f.valid_to is null
) as t using (customer_id, subscription_number, discriminator)
group by d.customer_id, d.customer_name, d.subscription_number, d.discriminator, d.service_level, d.level_ordinal, d.level_class, date_trunc('month', d.usage_date);
