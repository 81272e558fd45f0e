-- What a close of the month freezes beside its own lines: the adjustments of months that were closed before, by currency.
select
    a.currency,
    sum(a.amount) as amount,
    count(*) as adjustments
from billing.adjusted_months() as m
cross join lateral billing.adjustment(m.period) as a
where m.period <> $1 and billing.open_period() <= $1
group by a.currency
order by a.currency
