package main

import (
	"context"
	"fmt"
)

// checkWarehouse compares what is stored of a customer, from the first day on, with the oracle.
func (b *bench) checkWarehouse(ctx context.Context, db *database, c cast, st state, days int) error {
	want := b.cfg.oracle(c, st, 0, days)
	got, err := samplesOf(ctx, db, `dw.fact_consumption_sample join dw.dim_customer using (customer_key)`, `customer_id = '`+c.ID+`'`)
	if err != nil {
		return err
	}
	if err := db.conn.QueryRow(ctx, `
		select count(*), trim_scale(sum(consumed_avg_tib))::text, trim_scale(sum(consumed_max_tib))::text,
			trim_scale(sum(consumed_last_tib))::text, count(*) filter (where is_invoiced)
		from dw.fact_daily_consumption
		join dw.dim_customer using (customer_key)
		where customer_id = $1 and usage_date >= $2 and digest is not null`,
		c.ID, firstDay).Scan(&got.Days, &got.AvgSum, &got.MaxSum, &got.LastSum, &got.InvoicedDays); err != nil {
		return fmt.Errorf("total the daily rows of %s: %w", c.ID, err)
	}
	if got != want {
		return fmt.Errorf("customer %s: stored is\n%+v, want\n%+v", c.ID, got, want)
	}
	return nil
}

// checkTable compares a copy of the fact table, as filled by psql or a peer, with the oracle.
func (b *bench) checkTable(ctx context.Context, db *database, table string, c cast, st state) error {
	if b.tamper != nil {
		if err := b.tamper(ctx, db, table); err != nil {
			return err
		}
	}
	want := b.cfg.oracle(c, st, 0, b.cfg.Days)
	want.Days, want.AvgSum, want.MaxSum, want.LastSum, want.InvoicedDays = 0, "", "", "", 0
	got, err := samplesOf(ctx, db, "bench."+table, "true")
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("bench.%s: stored is\n%+v, want\n%+v", table, got, want)
	}
	return nil
}

func samplesOf(ctx context.Context, db *database, from, where string) (t totals, err error) {
	err = db.conn.QueryRow(ctx, `
		select count(*), coalesce(trim_scale(sum(committed_tib))::text, ''), coalesce(trim_scale(sum(consumed_tib))::text, ''),
			coalesce(trim_scale(sum(burst_tib))::text, ''), coalesce(trim_scale(sum(accrued_burst_tib))::text, ''),
			count(*) filter (where is_invoiced)
		from `+from+` where `+where+` and sampled_at >= $1`, firstDay).
		Scan(&t.Samples, &t.Committed, &t.Consumed, &t.Burst, &t.Accrued, &t.Invoiced)
	if err != nil {
		return t, fmt.Errorf("total %s: %w", from, err)
	}
	return t, nil
}
