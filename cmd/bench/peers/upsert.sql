-- Writes stage into bench.peer; rows that are stored with the same figures are left alone.
insert into bench.peer as stored
    (customer_key, service_level_key, sampled_at, committed_tib, consumed_tib, burst_tib, accrued_burst_tib, is_invoiced)
select customer_key, service_level_key, sampled_at, committed_tib, consumed_tib, burst_tib, accrued_burst_tib, is_invoiced
from stage
on conflict (customer_key, service_level_key, sampled_at) do update
set committed_tib = excluded.committed_tib,
    consumed_tib = excluded.consumed_tib,
    burst_tib = excluded.burst_tib,
    accrued_burst_tib = excluded.accrued_burst_tib,
    is_invoiced = excluded.is_invoiced
where (stored.committed_tib, stored.consumed_tib, stored.burst_tib, stored.accrued_burst_tib, stored.is_invoiced)
    is distinct from (excluded.committed_tib, excluded.consumed_tib, excluded.burst_tib, excluded.accrued_burst_tib, excluded.is_invoiced)
