-- The closes and reopenings of a month, the last one first: they decide whether it is closed.
select
    c.link,
    c.kind,
    c.at,
    encode(c.hash, 'hex') as hash,
    coalesce(k.version, r.version) as version,
    coalesce(k.closed_by, r.reopened_by) as by,
    coalesce(k.database_user, r.database_user) as database_user,
    k.accepted,
    coalesce(k.reason, r.reason) as reason,
    k.lines,
    k.adjustments,
    k.days,
    k.totals,
    k.adjustment_totals
from billing.chain as c
left join billing.close as k using (link)
left join billing.reopen as r using (link)
where c.period = $1
order by c.link desc
limit 50
