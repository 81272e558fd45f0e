package warehouse

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Dismiss settles open quarantine rows for good: what was refused is not wanted, says who with the
// reason. While the vendor repeats the same refusal letter by letter it is ignored and no longer
// quarantined. Days of which nothing else is refused no longer count as partially answered. It is
// all of the rows or none: an unknown or settled one is an error.
func (w *Warehouse) Dismiss(ctx context.Context, ids []int64, who, reason string) error {
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			update ops.quarantine
			set resolved_at = $2, is_dismissed = true, resolution = format('dismissed by %s: %s', $3::text, $4::text)
			where quarantine_id = any ($1) and resolved_at is null
			returning quarantine_id`, ids, w.cfg.Now(), who, reason)
		if err != nil {
			return err
		}
		settled, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return err
		}
		if err := missing(ids, settled); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			update ops.coverage as c
			set status = 'answered'
			from ops.quarantine as q
			where q.quarantine_id = any ($1) and c.status = 'partial'
				and c.dataset = q.dataset and c.scope = q.scope and c.product = q.product
				and c.day >= coalesce(q.day, q.window_from) and c.day < coalesce(q.day + 1, q.window_until)
				and not exists (
					select from ops.quarantine as open
					where open.resolved_at is null
						and open.dataset = c.dataset and open.scope = c.scope and open.product = c.product
						and c.day >= coalesce(open.day, open.window_from) and c.day < coalesce(open.day + 1, open.window_until)
				)
				and (
					c.product = ''
					or exists (
						select from dw.fact_license_reading as f
						join dw.dim_operation as o using (operation_key)
						join dw.dim_product as p using (product_key)
						where o.account = c.scope and p.api = c.product and f.reading_date = c.day
					)
				)`, ids)
		return err
	})
	if err != nil {
		return fmt.Errorf("dismiss: %w", err)
	}
	return nil
}

// missing names the ids that are not among the settled.
func missing(ids, settled []int64) error {
	var names []string
	for _, id := range ids {
		if !slices.Contains(settled, id) {
			names = append(names, fmt.Sprint(id))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("quarantine %s: no such record is open: want numbers from `meterhouse quarantine list`", strings.Join(names, ", "))
}
