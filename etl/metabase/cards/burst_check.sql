-- The vendor's accrued burst beside the one that its own samples give.
with params as (
    select coalesce([[to_date({{month}}, 'YYYY-MM'), ]](date_trunc('month', now_at) - interval '1 month')::date) as month
    from (select coalesce(max(watermark at time zone 'UTC' + lag), now() at time zone 'UTC') as now_at from mart.freshness) as clock
)
select
    c.customer_id,
    concat_ws(' ', c.subscription_number, nullif(c.discriminator, '')) as subscription,
    c.service_level || case when c.level_ordinal > 0 then ' #' || (c.level_ordinal + 1) else '' end as level,
    c.vendor_tib,
    c.recomputed_tib,
    c.difference_tib,
    c.within_tolerance,
    c.samples_expected - c.samples as samples_lacking
from mart.accrued_check as c
where c.month = (select month from params) [[and c.customer_id = {{customer}}]]
order by c.within_tolerance nulls first, abs(c.difference_tib) desc nulls last, c.customer_id, subscription, level
