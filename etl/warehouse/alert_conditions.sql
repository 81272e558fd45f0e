-- Everything that wants a person as of now: one row per condition. It reads only, and reads little:
-- whatever the size of the warehouse, it goes by the scopes and by what is open.
--
-- $1 now, by the business clock; credentials are judged by the wall clock, which is the vendor's
-- $2 what is configured, as JSON; NULL: everything that was ever loaded
-- $3 since when conditions are judged without a pause: what fell due in the pause is being caught up
-- $4 whether days are looked through for missing ones, which is dear
with configured as materialized (
    select source, account, customers
    from jsonb_to_recordset($2::jsonb) as x (source text, account text, customers text[])
    where source <> ''
),

scope as materialized (
    select
        w.source,
        w.dataset,
        w.scope,
        w.account,
        w.zone,
        w.settle,
        w.next_due_at,
        w.last_success_at,
        r.error as last_error,
        r.business_at as last_at,
        -- The credential's own alert speaks for these.
        coalesce(refused.is_so and not unusable.is_so and not renewed.is_so, false) as is_refused,
        coalesce(unusable.is_so and not renewed.is_so, false) as is_unusable,
        coalesce(refused.is_so or unusable.is_so or r.error like '%token_attempt_foreign%', false) as lacks_credential
    from ops.watermark as w
    left join ops.run as r on r.run_id = w.last_run_id
    -- Rights that Keystone withdrew from a login are told as a breach of contract with a question.
    cross join lateral (select r.error_class = 'unauthorized' or r.error like '%: access refused (403 %' as is_so) as refused
    -- There is no token that opens, so the vendor was not asked.
    cross join lateral (select w.source = 'keystone' and (r.error like '%former_secrets_key%' or r.error like '%no credential is stored%') as is_so) as unusable
    -- A person gave a new token since: the next run, which has two hours, tells what it is worth.
    cross join lateral (
        select w.source = 'keystone' and exists (
            select from ops.credential as c
            where c.account = w.account and c.seeded_at > r.finished_at and c.seeded_at > clock_timestamp() - interval '2 hours'
        ) as is_so
    ) as renewed
    left join dw.dim_customer as c on w.source = 'keystone' and w.dataset <> 'keystone.customers' and c.customer_id = w.scope
    where c.absent_since is null -- a customer that the vendor lists no more is not asked for
        and (
            $2::jsonb is null
            or exists (
                select from configured as x
                where x.source = w.source
                    and x.account = w.account
                    and (x.customers is null or w.dataset = 'keystone.customers' or w.scope = any (x.customers))
            )
        )
),

account as (
    select source, account from scope
    union
    select source, account from configured
),

-- Scopes of which the last run failed or lacks a part, and since when no run was whole.
errored as (
    select s.*, newest.runs, newest.errors, first.since
    from scope as s
    cross join lateral (
        select count(*) as runs, count(error) as errors
        from (
            select error
            from ops.run
            where dataset = s.dataset and scope = s.scope and status <> 'running' and replay_of is null
            order by run_id desc
            limit 3
        ) as r
    ) as newest
    cross join lateral (
        select r.business_at as since
        from ops.run as r
        where r.dataset = s.dataset and r.scope = s.scope and r.error is not null and r.replay_of is null
            and r.run_id > coalesce(
                (
                    select whole.run_id
                    from ops.run as whole
                    where whole.dataset = s.dataset and whole.scope = s.scope and whole.status <> 'running'
                        and whole.error is null and whole.replay_of is null
                    order by whole.run_id desc
                    limit 1
                ),
                0
            )
        order by r.run_id
        limit 1
    ) as first
    where s.last_error is not null
),

refused as (
    select source, account, min(since) as since, count(*) as scopes, min(dataset || ' ' || scope) as example, min(last_error) as error
    from errored
    where is_refused
    group by source, account
),

failing_scope as (
    select *
    from errored
    where not lacks_credential
        and (since <= $1::timestamptz - interval '2 hours' or runs = 3 and errors = 3 and since <= $1::timestamptz - interval '30 minutes')
),

failing as (
    select
        format('failing:%s:%s', dataset, account) as key,
        'failing' as kind,
        case when min(since) <= $1::timestamptz - interval '1 day' then 'page' else 'warn' end as severity,
        account,
        format('%s of %s fails', dataset, account) as subject,
        format(
            '%s of its scopes, such as %s, since %s: %s. Loads try again by themselves. See `meterhouse status`; if the vendor is well, `meterhouse run %s` tries at once.',
            count(*), min(scope), to_char(min(since) at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'),
            left(split_part(min(last_error), E'\n', 1), 300), dataset
        ) as detail,
        min(since) as since,
        count(*) as progress,
        true as heals,
        -- Of how many progress counts: what spreads to all, or to twice as many, is told at once. 0: it counts otherwise.
        (select count(*) from scope as every where every.dataset = f.dataset and every.account = f.account) as whole
    from failing_scope as f
    group by dataset, account
),

-- Scopes with what is due of them. An account of which no run was ever made is due since it is configured.
due as (
    select
        s.dataset,
        s.scope,
        s.account,
        s.last_error,
        case when s.last_success_at is null then first.business_at else s.next_due_at end as due_at
    from scope as s
    left join lateral (
        select business_at
        from ops.run
        where s.last_success_at is null and dataset = s.dataset and scope = s.scope
        order by run_id
        limit 1
    ) as first on true
    where not s.lacks_credential
        and not exists (select from failing_scope as f where f.dataset = s.dataset and f.scope = s.scope)
    union all
    select case x.source when 'keystone' then 'keystone.customers' else 'wolkvox.billing' end, x.account, x.account, null, seen.since
    from configured as x
    join ops.alert_watched as seen using (source, account)
    where not exists (select from ops.watermark as w where w.source = x.source and w.account = x.account)
),

-- A scope whose runs fail is given time to be called failing instead. What is told already is given no
-- time again after a pause.
late as (
    select
        format('late:%s:%s', d.dataset, d.account),
        'late',
        case when min(greatest(d.due_at, grace.since)) < $1::timestamptz - interval '1 day' then 'page' else 'warn' end,
        d.account,
        format('%s of %s is late', d.dataset, d.account),
        format(
            '%s of its scopes, such as %s, since %s: %s. See `meterhouse status`; `meterhouse run %s` loads at once.',
            count(*), min(d.scope), to_char(min(d.due_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'),
            coalesce('the last run said ' || left(split_part(min(d.last_error), E'\n', 1), 300), 'it was due and was not loaded: is `meterhouse serve` or a worker up?'),
            d.dataset
        ),
        min(d.due_at),
        count(*),
        true,
        greatest((select count(*) from scope as every where every.dataset = d.dataset and every.account = d.account), 1)
    from due as d
    left join ops.alert as told on told.alert_key = format('late:%s:%s', d.dataset, d.account) and told.closed_at is null
    cross join lateral (select least($3::timestamptz, told.opened_at - interval '1 hour') as since) as grace
    where d.due_at is not null
        and greatest(d.due_at, grace.since) < $1::timestamptz - case when d.last_error is null then interval '1 hour' else interval '3 hours' end
    group by d.dataset, d.account
),

-- Days that the vendor should have told by now: the last load came a day after they were due, and they
-- are not there. A scope that is not loaded is told as late or failing instead.
days_missing as (
    select
        format('days_missing:%s', s.account),
        'days_missing',
        'warn',
        s.account,
        format('days of %s are missing', s.account),
        format('%s, counted by service level, between %s and %s, such as of customer %s. See `meterhouse report missing_days`; `meterhouse backfill` asks for them again, and NetApp knows of those that stay away.',
            count(*), min(c.day), max(c.day), min(c.customer_id)),
        min((c.day + 1)::timestamp at time zone 'UTC' + s.settle + interval '1 day'),
        count(*),
        true,
        0::bigint
    from ops.coverage_hole as c
    join scope as s on s.dataset = c.dataset and s.scope = c.customer_id
    where $4::boolean
        and c.dataset = 'keystone.history'
        and c.status = 'missing'
        and s.next_due_at is not null
        and (c.day + 1)::timestamp at time zone 'UTC' + s.settle + interval '1 day' <= s.last_success_at
    group by s.account
),

-- Customers that the vendor lists no more: nothing of them is loaded.
customer_absent as (
    select
        format('customer_absent:%s', account),
        'customer_absent',
        case when gone = listed then 'page' else 'warn' end,
        account,
        format('NetApp lists %s customers of %s no more', case gone when listed then 'all' else gone::text end, account),
        format('%s of %s, such as %s, since %s: nothing of them is loaded. Ask NetApp; if they ended, name those that remain as `customers` in the configuration.',
            gone, listed, example, to_char(since at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"')),
        since,
        gone,
        true,
        listed
    from (
        select
            c.account,
            count(*) as listed,
            count(c.absent_since) as gone,
            min(c.absent_since) as since,
            min(c.customer_id) filter (where c.absent_since is not null) as example
        from dw.dim_customer as c
        where $2::jsonb is null
            or exists (
                select from configured as x
                where x.source = 'keystone' and x.account = c.account and (x.customers is null or c.customer_id = any (x.customers))
            )
        group by c.account
    ) as c
    where gone > 0
),

chain as (
    select distinct on (c.account)
        c.account,
        c.generation,
        c.obtained_at,
        c.seeded_at,
        coalesce(to_char(c.access_expires_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'), 'none') as access_until,
        clock_timestamp() - c.obtained_at as idle,
        clock_timestamp() - c.seeded_at as login_age,
        t.attempt_id,
        t.started_at,
        coalesce(t.ended_at, t.started_at) as attempt_at,
        t.detail,
        t.state = 'rejected' and t.from_generation = c.generation as is_refused,
        t.from_generation >= c.generation and (t.state = 'ambiguous' or t.state = 'open' and t.deadline_at < clock_timestamp() - interval '1 minute') as is_unclear,
        (
            select count(*)
            from ops.credential_attempt as p
            where p.account = c.account and p.from_generation = c.generation and p.state <> 'abandoned' and p.started_at > clock_timestamp() - interval '24 hours'
        ) as attempts,
        format('log in to the Digital Advisor portal, generate tokens, and give the refresh token to `meterhouse token set %s`', c.account) as remedy
    from ops.credential as c
    join account as a on a.source = 'keystone' and a.account = c.account
    left join lateral (
        select * from ops.credential_attempt where account = c.account order by attempt_id desc limit 1
    ) as t on true
    order by c.account, c.generation desc
),

credential_trouble (source, account, rank, severity, kind, since, subject, detail, progress, whole) as (
    select
        'keystone', account, 1, 'page', 'token_dead', attempt_at,
        format('the vendor refused the token of %s', account),
        format('Generation %s, exchange %s at %s: %s. The access token lasts until %s, then nothing of this account is loaded: %s.',
            generation, attempt_id, to_char(attempt_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'), detail, access_until, remedy),
        0::bigint, 0::bigint
    from chain
    where is_refused
    union all
    select
        'keystone', account, 2, 'page', 'token_dead', obtained_at + interval '7 days',
        format('the token of %s died of age', account),
        format('Generation %s was not exchanged for seven days: %s.', generation, remedy),
        0, 0
    from chain
    where idle >= interval '7 days'
    union all
    select
        'keystone', c.account, 3, 'page', 'token_foreign', min(s.last_at),
        format('an exchange of the token of %s is unknown to this machine', c.account),
        format('%s. Start meterhouse with the state_dir of the process that made the exchange; if that is lost, %s.',
            left(split_part(min(s.last_error), E'\n', 1), 300), min(c.remedy)),
        0, 0
    from chain as c
    join scope as s on s.account = c.account and s.last_error like '%token_attempt_foreign%'
    group by c.account
    union all
    select
        'keystone', account, 3, 'page', 'token_unusable', min(last_at),
        format('the stored token of %s cannot be used', account),
        format('The vendor was not asked: %s', left(split_part(min(last_error), E'\n', 1), 600)),
        0, 0
    from scope
    where is_unusable
    group by account
    union all
    select
        'keystone', account, 4, case when attempts > 3 then 'page' else 'warn' end, 'token_ambiguous', attempt_at,
        format('the answer to a token exchange of %s was lost', account),
        format('Generation %s, exchange %s at %s: %s. The access token lasts until %s. %s.',
            generation, attempt_id, to_char(attempt_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'), detail, access_until,
            case when attempts > 3 then 'The probes of today are used up: ' || remedy else 'It is probed by itself; if that is refused, ' || remedy end),
        0, 0
    from chain
    where is_unclear
    union all
    select
        source, account, 5, 'page', 'access_refused', since,
        format('%s refuses the credentials of %s', source, account),
        format('%s, since %s: %s. %s',
            case when scopes = 1 then example else format('%s scopes, such as %s', scopes, example) end,
            to_char(since at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'), left(split_part(error, E'\n', 1), 300),
            case source
                when 'keystone' then format('See `meterhouse token status`; if the token is in order, ask NetApp for the rights of account %s.', account)
                else format('Correct the wolkvox-token of account %s in the configuration, then `meterhouse run wolkvox.billing`.', account)
            end),
        scopes, (select count(*) from scope as every where every.source = refused.source and every.account = refused.account)
    from refused
    union all
    select
        'keystone', account, 6, case when login_age >= interval '85 days' then 'page' else 'warn' end, 'token_login', seeded_at + interval '75 days',
        format('somebody has to log in for %s before %s', account, to_char((seeded_at + interval '90 days') at time zone 'UTC', 'YYYY-MM-DD')),
        format('The vendor asks for a person every 90 days: %s.', remedy),
        0, 0
    from chain
    where login_age >= interval '75 days'
    union all
    select
        'keystone', account, 7, case when idle >= interval '5 days' then 'page' else 'warn' end, 'token_idle', obtained_at + interval '3 days',
        format('the token of %s was not exchanged for %s days', account, floor(extract(epoch from idle) / 86400)),
        format('It dies on %s. `meterhouse serve` exchanges it every two days: see whether it is up and what `meterhouse token status` says.',
            to_char((obtained_at + interval '7 days') at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"')),
        0, 0
    from chain
    where idle >= interval '3 days'
),

-- One message per account and question: what becomes of the token, who may see the data, and when a
-- person has to log in. The worst cause explains the others; without a token nothing else is refused.
credential as (
    select distinct on (t.source, t.account, topic.name)
        format('%s:%s:%s', topic.name, t.source, t.account), t.kind, t.severity, t.account, t.subject, t.detail, t.since, t.progress, true, t.whole
    from credential_trouble as t
    cross join lateral (select case t.kind when 'access_refused' then 'access' when 'token_login' then 'login' else 'credential' end as name) as topic
    where t.kind <> 'access_refused'
        or not exists (select from credential_trouble as worse where worse.source = t.source and worse.account = t.account and worse.rank <= 3)
    order by t.source, t.account, topic.name, t.severity = 'page' desc, t.rank
),

refusal as (
    select distinct on (v.account, v.outcome)
        format('%s:%s', v.outcome, v.account),
        v.outcome,
        'warn',
        v.account,
        case v.outcome
            when 'concurrency' then format('somebody else uses the wolkvox token of %s', v.account)
            else format('the daily calls of wolkvox account %s are used up', v.account)
        end,
        format('The vendor said so at %s. %s', to_char(v.started_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'),
            case v.outcome
                when 'concurrency' then 'It allows one call at a time: give meterhouse a token of its own.'
                else 'Readings go on when it allows calls again. Read less often or fewer products, or ask the vendor for more calls.'
            end),
        v.started_at,
        0::bigint,
        true,
        0::bigint
    from ops.vendor_call as v
    join account as a on a.source = 'wolkvox' and a.account = v.account
    where v.outcome in ('quota_exceeded', 'concurrency')
        and v.started_at > clock_timestamp() - interval '24 hours'
        and (
            v.outcome = 'concurrency'
            or not exists (
                select from ops.vendor_call as ok
                where ok.credential = v.credential and ok.started_at > v.started_at and ok.outcome in ('ok', 'no_data')
            )
        )
    order by v.account, v.outcome, v.started_at desc
),

license_month as (
    select
        format('month:%s:%s', m.account, to_char(m.month, 'YYYY-MM')),
        'month_' || m.state,
        case when m.state = 'lost' or m.month_ends_at <= $1::timestamptz + interval '1 day' then 'page' else 'warn' end,
        m.account,
        case m.state
            when 'lost' then format('the licence month %s of %s is lost', to_char(m.month, 'YYYY-MM'), m.account)
            else format('the licence month %s of %s is at risk', to_char(m.month, 'YYYY-MM'), m.account)
        end,
        format(
            'The last reading is of %s, the month %s %s%s. %s',
            coalesce(to_char(m.last_reading_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'), 'never'),
            case m.state when 'lost' then 'ended' else 'ends' end,
            to_char(m.month_ends_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'),
            coalesce(': ' || left(m.reason, 300), ''),
            case m.state
                when 'lost' then 'Ask wolkvox for its figures and load them with `meterhouse readings import`.'
                else 'Its readings cannot be fetched later: see `meterhouse status`, then `meterhouse run wolkvox.billing`.'
            end
        ),
        case m.state when 'lost' then m.month_ends_at else coalesce(m.last_reading_at, m.month_ends_at - interval '3 days') end,
        0::bigint,
        m.state <> 'lost',
        0::bigint
    from mart.license_month as m
    join account as a on a.source = 'wolkvox' and a.account = m.account
    where m.state = 'at_risk' or m.state = 'lost' and m.month_ends_at > $1::timestamptz - interval '7 days'
),

-- Local days on which no product was read, although the account was read before them.
lost_day as (
    select
        format('lost_day:%s:%s', s.account, d.day),
        'lost_day',
        'warn',
        s.account,
        format('wolkvox account %s has no reading of %s', s.account, d.day),
        'The vendor cannot tell the day any more: it says `lost` in mart.coverage. Counters of the month go on; a reading taken by hand can be loaded with `meterhouse readings import`.',
        (d.day + 1)::timestamp at time zone s.zone,
        0::bigint,
        false,
        0::bigint
    from scope as s
    cross join lateral (
        select ($1::timestamptz at time zone s.zone)::date - i as day from generate_series(1, 7) as i
    ) as d
    where s.source = 'wolkvox'
        and not exists (
            select from ops.coverage as c
            where c.dataset = s.dataset and c.scope = s.scope and c.product <> '' and c.day = d.day
        )
        and exists (
            select from ops.coverage as c
            where c.dataset = s.dataset and c.scope = s.scope and c.product <> '' and c.status <> 'imported' and c.day < d.day
        )
),

quarantine as (
    select
        format('quarantine:%s:%s:%s', q.dataset, s.account, q.reason),
        'quarantine',
        'warn',
        s.account,
        format('records of %s were refused: %s', q.dataset, q.reason),
        format('%s, the first at %s, the last at %s, such as %s of %s. See `meterhouse quarantine list --reason %s`.',
            case count(*) when 1 then 'One' else count(*)::text end,
            to_char(min(q.quarantined_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'),
            to_char(max(q.quarantined_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'), left(coalesce(min(nullif(q.path, '')), min(q.excerpt)), 200), min(q.scope), q.reason),
        min(q.quarantined_at),
        max(q.quarantine_id),
        true,
        0::bigint
    from ops.quarantine as q
    join scope as s on s.dataset = q.dataset and s.scope = q.scope
    where q.resolved_at is null
    group by q.dataset, s.account, q.reason
),

-- Days that the vendor had invoiced and then told otherwise, by customer and month; it grows with each run that meets another.
restated as (
    select
        format('restated:%s:%s', c.customer_id, to_char(r.month, 'YYYY-MM')),
        'restated_invoiced',
        'warn',
        c.account,
        format('NetApp restated invoiced days of customer %s in %s', c.customer_id, to_char(r.month, 'YYYY-MM')),
        format('%s changes, counted by service level, between %s and %s, the last met by run %s. See mart.restatement where was_invoiced, and `meterhouse report restated_days`.',
            r.changes, r.first_day, r.last_day, r.run_id),
        r.known_since,
        r.run_id,
        false,
        0::bigint
    from (
        select
            customer_key,
            date_trunc('month', usage_date::timestamp) as month,
            max(run_id) as run_id,
            count(*) as changes,
            min(usage_date) as first_day,
            max(usage_date) as last_day,
            min(known_until) as known_since
        from dw.restatement
        where was_invoiced and kind <> 'reread' and known_until > $1::timestamptz - interval '7 days'
        group by customer_key, date_trunc('month', usage_date::timestamp)
    ) as r
    join dw.dim_customer as c on c.customer_key = r.customer_key
    join scope as s on s.dataset = 'keystone.history' and s.scope = c.customer_id
),

-- Restated days whose figures are all the former ones times what lies between two units, such as TB for TiB.
unit_suspected as (
    select
        format('unit:%s', s.scope),
        'unit_suspected',
        'warn',
        s.account,
        format('figures of customer %s look as if they were told in another unit', s.scope),
        format('%s restated days of service levels, first %s, are the former figures times one factor, such as 1.0995 of TiB told as TB; last in run %s. They are loaded, and mart.restatement has the former ones: ask NetApp before a month of them is closed or paid.',
            sum(w.occurrences), (array_agg(w.first_path order by r.run_id))[1], max(r.run_id)),
        min(r.fetched_at),
        max(r.run_id),
        false,
        0::bigint
    from scope as s
    join ops.run as r on r.dataset = s.dataset and r.scope = s.scope and r.fetched_at > $1::timestamptz - interval '7 days'
    join ops.run_warning as w on w.run_id = r.run_id and w.warning = 'unit_suspected'
    where s.dataset = 'keystone.history'
    group by s.scope, s.account
),

-- Accounts whose vendor's clock and ours differ, by the newest run of any scope that was answered. A run without
-- calls is none: it read what was landed, or a file.
vendor_clock as (
    select
        format('vendor_clock:%s:%s', newest.source, newest.account),
        'vendor_clock_skewed',
        'warn',
        newest.account,
        format('the clock of %s and ours differ, by the answers for %s', newest.source, newest.account),
        format('By the Date of the newest answer: %s (run %s on %s). If the clock of %s is wrong, set it, such as with NTP: what is due, and which days are refused as future, go by it. If it is right, tell the vendor: days about midnight and the end of a month may be others than it says. What is loaded is as the vendor told it.',
            w.first_path, newest.run_id, newest.machine, newest.machine),
        coalesce(told.since, newest.fetched_at),
        0::bigint,
        true,
        0::bigint
    from (
        select distinct on (s.source, s.account) s.source, s.account, r.run_id, r.fetched_at, split_part(r.owner, '/', 1) as machine
        from scope as s
        cross join lateral (
            select run_id, fetched_at, owner
            from ops.run as r
            where dataset = s.dataset and scope = s.scope and status in ('ok', 'partial')
                and exists (select from ops.run_call as c where c.run_id = r.run_id)
            order by run_id desc
            limit 1
        ) as r
        order by s.source, s.account, r.run_id desc
    ) as newest
    join ops.run_warning as w on w.run_id = newest.run_id and w.warning = 'vendor_clock_skewed'
    left join ops.alert as told
        on told.alert_key = format('vendor_clock:%s:%s', newest.source, newest.account) and told.closed_at is null
),

-- Days of closed months that the vendor told otherwise since, by customer and month, likewise; of wolkvox by account.
closed_day_changed as (
    select
        format('closed_day_changed:%s:%s', s.scope, c.period),
        'closed_day_changed',
        'warn',
        c.account,
        case s.source
            when 'keystone' then format('NetApp changed days of customer %s in %s, which is closed', c.customer_id, c.period)
            else format('readings of account %s were imported into %s, which is closed', c.account, c.period)
        end,
        format('%s changes, counted by %s, between %s and %s, the last met by run %s. The closed month stays; what they come to is adjusted in the open one: see mart.adjustment where adjusts_period = ''%s''.',
            c.changes, case s.source when 'keystone' then 'service level' else 'product' end, c.first_day, c.last_day, c.run_id, c.period),
        c.known_since,
        c.run_id,
        false,
        0::bigint
    from billing.closed_day_changed($1::timestamptz - interval '7 days') as c
    join scope as s on s.dataset = 'keystone.history' and s.scope = c.customer_id
        or s.dataset = 'wolkvox.billing' and c.customer_id = '' and s.scope = c.account
),

-- Subscriptions that the vendor no longer lists although their term runs.
absent as (
    select
        format('absent:%s', c.customer_id),
        'subscription_absent',
        'warn',
        c.account,
        format('customer %s lost subscriptions before their end', c.customer_id),
        format('%s, such as %s, not listed since %s. Their figures stay; ask NetApp whether they ended.',
            count(*), min(d.subscription_number), to_char(min(f.absent_since) at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"')),
        min(f.absent_since),
        count(*),
        true,
        0::bigint
    from dw.fact_subscription as f
    join dw.dim_subscription as d using (subscription_key)
    join dw.dim_customer as c on c.customer_key = f.customer_key
    join scope as s on s.dataset = 'keystone.subscriptions' and s.scope = c.customer_id
    where f.valid_to is null
        and f.absent_since <= $1::timestamptz - interval '1 day'
        and (f.end_at is null or f.end_at > f.absent_since)
    group by c.customer_id, c.account
),

drift as (
    select
        format('drift:%s:%s', d.dataset, r.account),
        'schema_drift',
        'warn',
        r.account,
        format('answers of %s have members that no document describes', d.dataset),
        format('%s, such as %s. They are kept in the landed body and not read; a developer should look.', count(*), min(d.path)),
        min(d.first_seen_at),
        max(d.first_run_id),
        false,
        0::bigint
    from ops.schema_drift as d
    join ops.run as r on r.run_id = d.first_run_id
    where d.first_seen_at > $1::timestamptz - interval '7 days'
    group by d.dataset, r.account
)

select * from failing
union all
select * from late
union all
select * from days_missing
union all
select * from customer_absent
union all
select * from credential
union all
select * from refusal
union all
select * from license_month
union all
select * from lost_day
union all
select * from quarantine
union all
select * from restated
union all
select * from unit_suspected
union all
select * from vendor_clock
union all
select * from closed_day_changed
union all
select * from absent
union all
select * from drift
order by key
