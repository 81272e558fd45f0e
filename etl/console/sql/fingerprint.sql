-- What the computed copies depend on, told in some milliseconds; a test wants every table that they read named
-- here or among those that change only with another. Whatever is loaded ends a run, and what people decide
-- is a new row or ends an old one. A run that only begins changes no figure, except that one that reads the end
-- of a licence month keeps it from being at risk. And until when nothing becomes due by the clock alone.
with clock as (
    select current_setting('meterhouse.now')::timestamptz as now_at
),

ended as (
    select run_id from ops.run where status <> 'running' order by run_id desc limit 1
),

-- Days and months are over at midnight of their zone, some of them a while later.
zone as (
    select 'UTC' as zone
    union
    select zone from ops.watermark
    union
    select zone from dw.dim_operation
),

settle as (
    select interval '0' as settle
    union
    select settle from ops.watermark
),

-- The licence months that run now, as mart.license_month judges them.
license_month as (
    select
        w.account,
        w.next_due_at,
        date_trunc('month', clock.now_at at time zone w.zone) at time zone w.zone as starts_at,
        (date_trunc('month', clock.now_at at time zone w.zone) + interval '1 month') at time zone w.zone as ends_at
    from ops.watermark as w
    cross join clock
    where w.dataset = 'wolkvox.billing'
),

due (at) as (
    select (((clock.now_at - settle) at time zone zone)::date + 1)::timestamp at time zone zone + settle
    from clock
    cross join zone
    cross join settle

    union all

    select unnest(array[
        m.starts_at + interval '1 hour', m.ends_at - interval '3 days', m.ends_at - interval '45 minutes', m.ends_at - interval '15 minutes',
        case when clock.now_at >= m.ends_at - interval '3 days' then m.next_due_at + interval '15 minutes 1 microsecond' end -- after it, not then
    ])
    from license_month as m
    cross join clock

    union all

    select f.read_at + interval '1 hour 1 microsecond'
    from license_month as m
    cross join clock
    join dw.dim_operation as o using (account)
    join dw.fact_license_snapshot as f using (operation_key)
    where clock.now_at >= m.ends_at - interval '3 days' and f.snapshot_date >= (clock.now_at at time zone 'UTC')::date - 2
)

select
    row(
        (
            -- Those that began and are open meanwhile leave it as it is.
            select concat_ws('/', e.run_id, (select count(*) from ops.run as r where r.run_id > e.run_id - 10000 and r.run_id <= e.run_id and r.status <> 'running'),
                (select string_agg(r.run_id::text, ',' order by r.run_id) from ops.run as r where r.status = 'running' and r.run_id <= e.run_id - 10000))
            from ended as e
        ),
        (
            select string_agg(r.run_id::text, ',' order by r.run_id)
            from ops.run as r
            join ops.watermark as w using (dataset, scope)
            where r.status = 'running' and r.dataset = 'wolkvox.billing'
                and date_trunc('month', (r.business_at + interval '55 minutes') at time zone w.zone) > date_trunc('month', r.business_at at time zone w.zone)
        ),
        (select concat_ws('/', count(*), sum(w.xmin::text::bigint)) from ops.watermark as w),
        (select concat_ws('/', count(*), sum(quarantine_id)) from ops.quarantine where resolved_at is null),
        (select concat_ws('/', count(*), sum(c.xmin::text::bigint)) from ops.clock as c),
        (select concat_ws('/', count(*), sum(m.xmin::text::bigint)) from dw.level_class_map as m),
        (select concat_ws('/', count(*), sum(r.xmin::text::bigint)) from dw.accrued_reading as r),
        (select concat_ws('/', count(*), sum(p.xmin::text::bigint)) from dw.dim_product as p), -- titles and units may be edited
        (select concat_ws('/', count(*), sum(o.xmin::text::bigint)) from dw.dim_operation as o),
        (select concat_ws('/', max(rate_id), count(superseded_at)) from billing.rate),
        (select concat_ws('/', max(period_id), count(superseded_at)) from billing.period),
        (select concat_ws('/', max(product_rule_id), count(superseded_at)) from billing.product_rule),
        (select concat_ws('/', max(absence_id), count(superseded_at)) from billing.absence),
        (select concat_ws('/', max(invoice_id), count(superseded_at)) from billing.invoice),
        (select concat_ws('/', max(accrued_decision_id), count(superseded_at)) from billing.accrued_decision),
        (select max(link) from billing.chain),
        (
            -- Months of samples that are pruned: detached, then emptied and dropped.
            select md5(string_agg(concat_ws('/', c.oid, c.relfilenode, i.inhdetachpending), ' ' order by c.oid))
            from pg_inherits as i
            join pg_class as c on c.oid = i.inhrelid
            where i.inhparent = 'dw.fact_consumption_sample'::regclass
        ),
        -- The formulas themselves, which an upgrade may replace while this process runs.
        (select concat_ws('/', count(*), sum(p.xmin::text::bigint)) from pg_proc as p where p.pronamespace in ('billing'::regnamespace, 'dw'::regnamespace, 'mart'::regnamespace)),
        (
            select concat_ws('/', count(*), sum(r.xmin::text::bigint))
            from pg_rewrite as r
            join pg_class as c on c.oid = r.ev_class
            where c.relnamespace = 'mart'::regnamespace
        )
    )::text as key,
    (select (extract(epoch from min(due.at)) * 1000000)::bigint from due cross join clock where due.at > clock.now_at) as until
