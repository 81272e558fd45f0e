-- Question: What did we refuse to load, why, and is it settled?
-- Grain: one row per dataset and reason.
-- Caveats: A record is in quarantine because loading it would have been a guess: its figures are in
--   no other answer. Open ones may be money that is missing: the days concerned are partial or
--   missing in missing_days. A record is a sample, a level, a subscription or a wolkvox row,
--   whichever was refused as a whole, so counts of different reasons do not compare.
--   newest_open is for `meterhouse quarantine show`.
with params as (
    select
        (date_trunc('month', now_at) - interval '12 months')::date as from_day,  -- first UTC day of the refusal
        (now_at::date + 1)::date as until_day  -- first UTC day no longer shown
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    q.source,
    q.dataset,
    q.reason,
    count(*) filter (where q.resolved_at is null) as open,
    count(*) filter (where q.resolved_at is not null) as settled,
    date_trunc('second', min(q.quarantined_at)) as first_at,
    date_trunc('second', max(q.quarantined_at)) as last_at,
    max(q.quarantine_id) filter (where q.resolved_at is null) as newest_open
from mart.quarantine as q
cross join params
where q.quarantined_at >= params.from_day::timestamp at time zone 'UTC'
    and q.quarantined_at < params.until_day::timestamp at time zone 'UTC'
group by q.source, q.dataset, q.reason
order by open desc, q.source, q.dataset, q.reason;
