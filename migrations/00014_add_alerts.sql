-- What people are told: the alerts that are open, the notices that went out, and the dates to keep.
-- A new column without a default, new tables and views, and three indexes that let a look at everything stay cheap: building them
-- keeps writers off ops.run, dw.restatement and ops.vendor_call for as long as reading these tables
-- takes. Nothing to replay.

-- +goose Up
alter table ops.run add column error_class text;
alter table ops.run add constraint run_error_class_known check (error_class in ('unauthorized', 'contract', 'throttled', 'unavailable'));
comment on column ops.run.error_class is 'Who acts on the error: unauthorized (a person renews credentials or rights), contract (a developer looks at the body), throttled or unavailable (nobody, it is tried again); NULL where there is none or it is our own.';

create table ops.alert (
    alert_key text not null constraint alert_pkey primary key,
    kind text not null,
    severity text not null,
    account text,
    subject text not null,
    detail text not null,
    since timestamptz not null,
    progress bigint not null default 0,
    heals boolean not null,
    whole bigint not null default 0,
    opened_at timestamptz not null,
    seen_at timestamptz not null,
    calm_since timestamptz,
    told_kind text,
    told_severity text,
    told_progress bigint,
    told_at timestamptz,
    closed_at timestamptz,
    constraint alert_severity_known check (severity in ('warn', 'page') and told_severity in ('warn', 'page')),
    constraint alert_told_whole check (num_nulls(told_kind, told_severity, told_progress, told_at) in (0, 4))
) with (fillfactor = 70); -- updated in place
create index alert_open_idx on ops.alert (alert_key) where closed_at is null;
comment on table ops.alert is 'Grain: one row per condition that ever wanted a person, as it stands now. The same condition met again opens its row again.';
comment on column ops.alert.alert_key is 'What it is about, the same whenever the condition comes back: credential:keystone:acme.';
comment on column ops.alert.kind is 'What is wrong: late, failing, token_dead, month_at_risk and others, listed in the runbook.';
comment on column ops.alert.severity is 'warn: in working hours; page: now.';
comment on column ops.alert.account is 'Configured account; NULL where it is not about one.';
comment on column ops.alert.subject is 'What is wrong, in one line.';
comment on column ops.alert.detail is 'What is known of it and what to do.';
comment on column ops.alert.since is 'Since when the condition holds, UTC.';
comment on column ops.alert.progress is 'Grows as the condition does, such as the newest record in quarantine: what grew is told again, once a day at most.';
comment on column ops.alert.heals is 'Whether it can end: nobody is told that a lost month is lost no more.';
comment on column ops.alert.whole is 'Of how many progress counts, such as the scopes of a dataset; 0 where it counts otherwise. What spreads to all, or to twice as many, is told again at once.';
comment on column ops.alert.opened_at is 'When it was met first, this time, UTC. All times of this table are of the clock by which conditions are judged.';
comment on column ops.alert.seen_at is 'When it was last met, UTC; kept to within ten minutes.';
comment on column ops.alert.calm_since is 'Since when it is better than people were told, UTC; NULL while it is not. Better news waits: what comes and goes is told once.';
comment on column ops.alert.told_kind is 'Kind that people were last told; NULL while nobody was told.';
comment on column ops.alert.told_severity is 'Severity that people were last told; NULL while nobody was told.';
comment on column ops.alert.told_progress is 'Progress that people were last told; NULL while nobody was told.';
comment on column ops.alert.told_at is 'When the last notice about it was written, UTC; NULL while there is none.';
comment on column ops.alert.closed_at is 'When it ended, UTC; NULL while open.';

create table ops.alert_notice (
    notice_id bigint generated always as identity constraint alert_notice_pkey primary key,
    token uuid not null default gen_random_uuid(),
    noticed_at timestamptz not null,
    severity text not null,
    changes jsonb not null,
    created_at timestamptz not null default clock_timestamp(),
    attempts integer not null default 0,
    next_try_at timestamptz not null,
    claimed_until timestamptz,
    settled_at timestamptz,
    outcome text,
    constraint alert_notice_severity_known check (severity in ('warn', 'page', 'resolved')),
    constraint alert_notice_has_changes check (jsonb_typeof(changes) = 'array' and changes <> '[]'),
    constraint alert_notice_settled_with_outcome check ((settled_at is null) = (outcome is null)),
    constraint alert_notice_outcome_known check (outcome in ('delivered', 'logged', 'given_up'))
) with (fillfactor = 70);
create index alert_notice_unsettled_idx on ops.alert_notice (next_try_at) where settled_at is null;
create index alert_notice_noticed_idx on ops.alert_notice (noticed_at);
comment on table ops.alert_notice is 'Grain: one row per message to people, written in the transaction that changed the alerts it tells of.';
comment on column ops.alert_notice.notice_id is 'Number of the notice.';
comment on column ops.alert_notice.token is 'Name of the notice outside: the same in every repetition, so that a receiver can drop repetitions.';
comment on column ops.alert_notice.noticed_at is 'When it was written, by the clock by which conditions are judged, UTC.';
comment on column ops.alert_notice.severity is 'The worst of what it tells: page or warn; resolved where it brings good news only.';
comment on column ops.alert_notice.changes is 'What it tells: an array of alerts with their change (opened, worsened, grew, eased, resolved).';
comment on column ops.alert_notice.created_at is 'Wall clock at which it was written.';
comment on column ops.alert_notice.attempts is 'How often its delivery was tried.';
comment on column ops.alert_notice.next_try_at is 'Wall clock from which whoever finds it unsettled tries.';
comment on column ops.alert_notice.claimed_until is 'Wall clock until which the process that tries has it for itself; NULL when nobody does.';
comment on column ops.alert_notice.settled_at is 'Wall clock from which nothing is to be done about it; NULL before.';
comment on column ops.alert_notice.outcome is 'delivered (everywhere), logged (there was nowhere to deliver it to) or given_up (three days in vain); NULL before.';

create table ops.alert_delivery (
    notice_id bigint not null constraint alert_delivery_notice_fkey references ops.alert_notice (notice_id) on delete cascade,
    channel text not null,
    attempts integer not null,
    delivered_at timestamptz,
    last_error text,
    constraint alert_delivery_pkey primary key (notice_id, channel),
    constraint alert_delivery_channel_known check (channel in ('webhook', 'command')),
    constraint alert_delivery_fails_with_error check ((delivered_at is null) = (last_error is not null))
);
comment on table ops.alert_delivery is 'Grain: one row per notice and way on which it was tried.';
comment on column ops.alert_delivery.notice_id is 'The notice.';
comment on column ops.alert_delivery.channel is 'webhook or command.';
comment on column ops.alert_delivery.attempts is 'How often it was tried.';
comment on column ops.alert_delivery.delivered_at is 'Wall clock at which the receiver took it; NULL before.';
comment on column ops.alert_delivery.last_error is 'Why the last attempt failed, without the URL; NULL once delivered.';

create table ops.alert_check (
    only_row boolean not null default true constraint alert_check_pkey primary key constraint alert_check_one_row check (only_row),
    watching_since timestamptz,
    checked_at timestamptz,
    days_checked_at timestamptz,
    finished_at timestamptz
);
insert into ops.alert_check default values;
comment on table ops.alert_check is 'Grain: the one row that tells when conditions were last judged; its lock lets one process judge at a time.';
comment on column ops.alert_check.only_row is 'Always true: there is one row.';
comment on column ops.alert_check.watching_since is 'Since when they are judged without a pause, UTC, by the clock of ops.alert: what fell due in a pause is given time to be caught up.';
comment on column ops.alert_check.checked_at is 'When they were last judged, by the same clock; NULL before the first time.';
comment on column ops.alert_check.days_checked_at is 'When missing days were last looked for, by the same clock; NULL before the first time. It is dear, so that is done every ten minutes.';
comment on column ops.alert_check.finished_at is 'The same by the wall clock.';

create table ops.alert_watched (
    source text not null,
    account text not null,
    since timestamptz not null,
    constraint alert_watched_pkey primary key (source, account)
);
comment on table ops.alert_watched is 'Grain: one row per account that was ever configured while conditions were judged: one that is never loaded is late from then on.';
comment on column ops.alert_watched.source is 'Vendor: keystone or wolkvox.';
comment on column ops.alert_watched.account is 'Configured account.';
comment on column ops.alert_watched.since is 'When it was first seen in the configuration, by the business clock, UTC.';

create index run_newest_idx on ops.run (dataset, scope, run_id);
create index restatement_invoiced_idx on dw.restatement (known_until) where was_invoiced and kind <> 'reread';
create index vendor_call_refused_idx on ops.vendor_call (started_at) where outcome in ('quota_exceeded', 'concurrency');

create view mart.alert as
select
    a.kind,
    a.severity,
    a.account,
    a.subject,
    a.detail,
    a.since,
    a.told_at,
    a.alert_key
from ops.alert as a
where a.closed_at is null;
comment on view mart.alert is 'Grain: one row per thing that is wrong now or happened in the last days and wants a person. Judged about once a minute while serve runs.';
comment on column mart.alert.kind is 'What is wrong; the runbook lists the kinds.';
comment on column mart.alert.severity is 'warn: in working hours; page: now.';
comment on column mart.alert.account is 'Configured account; NULL where it is not about one.';
comment on column mart.alert.subject is 'What is wrong, in one line.';
comment on column mart.alert.detail is 'What is known of it and what to do.';
comment on column mart.alert.since is 'Since when, UTC.';
comment on column mart.alert.told_at is 'When people were last told, UTC; NULL while they were not.';
comment on column mart.alert.alert_key is 'The same whenever the condition comes back.';

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
comment on column mart.deadline.customer_id is 'Keystone customer; NULL where it is not about one.';
comment on column mart.deadline.account is 'Configured account.';
comment on column mart.deadline.subscription_number is 'Subscription; NULL where it is not about one.';
comment on column mart.deadline.due_at is 'The date, UTC.';
comment on column mart.deadline.days_left is 'Whole days until then, rounded down: 0 on the last day, negative once past. Tokens count from the wall clock, which is the vendor''s; the others from the business clock, as the other views do.';
comment on column mart.deadline.action is 'What a person does about it.';

-- +goose Down
drop view mart.deadline;
drop view mart.alert;
drop index ops.vendor_call_refused_idx;
drop index dw.restatement_invoiced_idx;
drop index ops.run_newest_idx;
drop table ops.alert_watched;
drop table ops.alert_check;
drop table ops.alert_delivery;
drop table ops.alert_notice;
drop table ops.alert;
alter table ops.run drop column error_class;
