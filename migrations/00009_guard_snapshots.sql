-- Every call to a vendor that counts and paces its calls, so that all processes keep to one pace and
-- one budget; and how each month of readings stands. New tables and views: locks nothing; nothing to
-- replay.

-- +goose Up
create table ops.vendor_call (
    call_id bigint generated always as identity constraint vendor_call_pkey primary key,
    credential text not null,
    account text not null,
    product text not null,
    owner text not null,
    started_at timestamptz not null,
    ended_at timestamptz,
    outcome text,
    constraint vendor_call_ends_with_outcome check ((ended_at is null) = (outcome is null))
);
create unique index vendor_call_one_open_idx on ops.vendor_call (credential) where ended_at is null;
create index vendor_call_started_idx on ops.vendor_call (credential, started_at);
comment on table ops.vendor_call is 'Grain: one row per call with a credential that allows one call at a time and so many a day, written before it is made.';
comment on column ops.vendor_call.call_id is 'Number of the call.';
comment on column ops.vendor_call.credential is 'Keyed hash of the token: tells two tokens apart without holding them.';
comment on column ops.vendor_call.account is 'Configured account.';
comment on column ops.vendor_call.product is 'Product asked for (wolkvox api); token_info where the token''s quota was asked for.';
comment on column ops.vendor_call.owner is 'Process that made it.';
comment on column ops.vendor_call.started_at is 'Wall clock when it was about to be sent.';
comment on column ops.vendor_call.ended_at is 'Wall clock when its answer was there; NULL while it is under way. At most one per credential is.';
comment on column ops.vendor_call.outcome is 'ok, no_data, the name of the vendor''s refusal, or lost when its process died; NULL while it is under way.';

create view mart.license_month as
with clock as (
    select max(coalesce(nullif(current_setting('meterhouse.now', true), '')::timestamptz, fixed_at, now())) as now_at from ops.clock
),

account as (
    select w.account, w.zone, clock.now_at, min(c.day) as first_day
    from ops.watermark as w
    cross join clock
    join ops.coverage as c on c.dataset = w.dataset and c.scope = w.scope and c.product <> ''
    where w.dataset = 'wolkvox.billing'
    group by w.account, w.zone, clock.now_at
),

month as (
    select
        a.account,
        a.zone,
        a.now_at,
        m.month::date as month,
        (m.month + interval '1 month') at time zone a.zone as month_ends_at
    from account as a
    cross join lateral generate_series(
        date_trunc('month', a.first_day::timestamp), date_trunc('month', a.now_at at time zone a.zone), interval '1 month'
    ) as m (month)
),

reading as (
    select o.account, date_trunc('month', r.reading_date::timestamp)::date as month, max(r.read_at) as last_reading_at
    from dw.fact_license_reading as r
    join dw.dim_operation as o using (operation_key)
    group by o.account, date_trunc('month', r.reading_date::timestamp)
)

select
    m.account,
    m.month,
    m.month_ends_at,
    r.last_reading_at,
    case
        when m.now_at >= m.month_ends_at and (r.last_reading_at is null or r.last_reading_at < m.month_ends_at - interval '1 day') then 'lost'
        when m.now_at >= m.month_ends_at then 'complete'
        when r.last_reading_at is null and m.now_at > m.month_ends_at - interval '3 days' then 'at_risk'
        when m.now_at > m.month_ends_at - interval '3 days' and r.last_reading_at < m.now_at - interval '1 hour' then 'at_risk'
        else 'open'
    end as state,
    null::text as reason
from month as m
left join reading as r using (account, month);
comment on view mart.license_month is 'Grain: one row per wolkvox account and local month since its first reading: whether the month has, or can still get, its closing reading.';
comment on column mart.license_month.account is 'Configured account.';
comment on column mart.license_month.month is 'First day of the local month.';
comment on column mart.license_month.month_ends_at is 'When the month ends, UTC: readings of it cannot be fetched later.';
comment on column mart.license_month.last_reading_at is 'Last accepted reading that is filed in the month, UTC; NULL when there is none.';
comment on column mart.license_month.state is 'open; at_risk (its end is near and readings fail or stay away); complete (it ended with readings on its last day); lost (it ended without).';
comment on column mart.license_month.reason is 'Why it is at risk or lost; NULL otherwise.';

-- +goose Down
drop view mart.license_month;
drop table ops.vendor_call;
