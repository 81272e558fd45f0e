-- Question: Which days changed after we had first loaded them, by how much, and were they invoiced?
-- Grain: one row per level instance, UTC day and version that was superseded.
-- Caveats: TiB. kind restated: the vendor gave other figures; late: samples were added to the ones
--   known; reread: we read the same answer differently. changed lists the columns of the day that
--   differ, samples being the single values behind them. A change is 0 where the figure stayed, NULL
--   where it was or became unknown. accrued_change_tib is the day's sum of the vendor's column, and
--   means something only where that column holds increments. A day may be superseded several times.
--   Only changes since the first load are known.
with params as (
    select
        (date_trunc('month', now_at) - interval '1 month')::date as from_day,  -- first UTC day on which we learned of it
        (now_at::date + 1)::date as until_day  -- first UTC day no longer shown
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    date_trunc('second', r.known_until) as learned_at,
    r.usage_date,
    r.customer_id,
    concat_ws(' ', r.subscription_number, nullif(r.discriminator, '')) as subscription,
    r.service_level || case when r.level_ordinal > 0 then ' #' || (r.level_ordinal + 1) else '' end as level,
    r.kind,
    r.was_invoiced,
    case
        when bool_or(r.column_name = 'consumed_avg_tib')
            then max(r.new_value) filter (where r.column_name = 'consumed_avg_tib')::numeric
                - max(r.old_value) filter (where r.column_name = 'consumed_avg_tib')::numeric
        else 0
    end as consumed_avg_change_tib,
    case
        when bool_or(r.column_name = 'accrued_sum_tib')
            then max(r.new_value) filter (where r.column_name = 'accrued_sum_tib')::numeric
                - max(r.old_value) filter (where r.column_name = 'accrued_sum_tib')::numeric
        else 0
    end as accrued_change_tib,
    string_agg(r.column_name, ', ' order by r.column_name) as changed
from mart.restatement as r
cross join params
where r.known_until >= params.from_day::timestamp at time zone 'UTC'
    and r.known_until < params.until_day::timestamp at time zone 'UTC'
group by
    r.customer_id, r.subscription_number, r.discriminator, r.service_level, r.level_ordinal,
    r.usage_date, r.kind, r.was_invoiced, r.known_from, r.known_until, r.version_number
order by r.known_until, r.customer_id, r.subscription_number, r.discriminator, r.service_level, r.level_ordinal, r.usage_date, r.known_from, r.version_number;
