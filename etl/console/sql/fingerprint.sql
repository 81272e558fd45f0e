-- What the computed copies depend on, told in some milliseconds: whatever is loaded ends a run, and what people
-- decide is a new row or ends an old one. And until when nothing becomes due by the clock alone: days and
-- months are over at midnight of their zone, some of them a while later.
select
    concat_ws(
        ' ',
        (select concat_ws('/', max(run_id), count(*)) from ops.run where run_id > (select max(run_id) - 10000 from ops.run)),
        (select string_agg(run_id::text, ',' order by run_id) from ops.run where status = 'running'),
        (select concat_ws('/', count(*), sum(w.xmin::text::bigint)) from ops.watermark as w),
        (select concat_ws('/', count(*), sum(quarantine_id)) from ops.quarantine where resolved_at is null),
        (select concat_ws('/', count(*), sum(c.xmin::text::bigint)) from ops.clock as c),
        (select concat_ws('/', count(*), sum(m.xmin::text::bigint)) from dw.level_class_map as m),
        (select concat_ws('/', count(*), sum(r.xmin::text::bigint)) from dw.accrued_reading as r),
        (select concat_ws('/', max(rate_id), count(superseded_at)) from billing.rate),
        (select concat_ws('/', max(period_id), count(superseded_at)) from billing.period),
        (select concat_ws('/', max(product_rule_id), count(superseded_at)) from billing.product_rule),
        (select concat_ws('/', max(absence_id), count(superseded_at)) from billing.absence),
        (select concat_ws('/', max(invoice_id), count(superseded_at)) from billing.invoice),
        (select concat_ws('/', max(accrued_decision_id), count(superseded_at)) from billing.accrued_decision),
        (select max(link) from billing.chain)
    ) as key,
    (
        select extract(epoch from min((((z.now_at - z.settle) at time zone z.zone)::date + 1)::timestamp at time zone z.zone + z.settle)) from (
            select distinct
                coalesce(w.zone, 'UTC') as zone,
                coalesce(w.settle, interval '0') as settle,
                current_setting('meterhouse.now')::timestamptz as now_at
            from ops.watermark as w
        ) as z
    ) as until
