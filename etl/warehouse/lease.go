package warehouse

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

// leaseFor is how long a lease lasts unless it is renewed, which happens three times as often.
const leaseFor = 30 * time.Second

// lease is a fenced right to load one scope, renewed in the background until Release.
type lease struct {
	w              *Warehouse
	dataset, scope string
	fence          int64
	stop           context.CancelFunc
	stopped        chan struct{}
	once           sync.Once
}

// Lease takes the scope or returns a *etl.BusyError. What a former owner left running is closed as
// failed: its fence is old, so it can no longer load.
func (w *Warehouse) Lease(ctx context.Context, dataset, scope string) (etl.Lease, error) {
	l := &lease{w: w, dataset: dataset, scope: scope, stopped: make(chan struct{})}
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `
			insert into ops.lease (dataset, scope, fence, owner, acquired_at, expires_at)
			values ($1, $2, 0, $3, clock_timestamp(), clock_timestamp())
			on conflict (dataset, scope) do nothing`, dataset, scope, w.cfg.Owner); err != nil {
			return err
		}
		// A load in progress holds the row: it is passed over, not waited for.
		err := tx.QueryRow(ctx, `
			with free as (
				select dataset, scope from ops.lease
				where dataset = $1 and scope = $2
					-- No lease lasts that long: the database's clock was ahead.
					and (expires_at <= clock_timestamp() or expires_at > clock_timestamp() + 2 * $4::interval + interval '1 minute')
				for update skip locked
			)
			update ops.lease
			set fence = fence + 1, owner = $3, acquired_at = clock_timestamp(), expires_at = clock_timestamp() + $4
			from free where lease.dataset = free.dataset and lease.scope = free.scope
			returning fence`, dataset, scope, w.cfg.Owner, w.cfg.LeaseFor).Scan(&l.fence)
		if errors.Is(err, pgx.ErrNoRows) {
			busy := &etl.BusyError{Dataset: dataset, Scope: scope}
			// What is stored may be of the past: a long load keeps its own renewal out, and a successor that takes
			// the scope at this moment has not committed yet.
			err := tx.QueryRow(ctx, `
				select
					owner || case when expires_at > clock_timestamp() then '' else ' or its successor' end,
					case when expires_at > clock_timestamp() then expires_at else clock_timestamp() + $3 end
				from ops.lease where dataset = $1 and scope = $2`, dataset, scope, w.cfg.LeaseFor).
				Scan(&busy.Owner, &busy.FreesAt)
			return errors.Join(busy, err)
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			with dead as (
				update ops.run
				set status = 'failed', finished_at = clock_timestamp(), error = 'its process died or lost the lease before the load'
				where dataset = $1 and scope = $2 and status = 'running' and fence < $3
				returning source, dataset, scope, account
			)
			insert into ops.run_total as sum (source, dataset, scope, account, counted, kind, total)
			select source, dataset, scope, account, 'runs', 'failed', count(*)
			from dead
			group by source, dataset, scope, account
			order by account
			on conflict (dataset, scope, account, counted, kind) do update set total = sum.total + excluded.total`, dataset, scope, l.fence)
		return err
	})
	if err != nil {
		var busy *etl.BusyError
		if errors.As(err, &busy) {
			return nil, busy
		}
		return nil, fmt.Errorf("lease %s %s: %w", dataset, scope, err)
	}
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	go l.renew(renewing)
	return l, nil
}

// renew keeps the lease while its owner lives. A load in progress holds the row, which keeps
// others out as well, so a locked row is simply skipped.
func (l *lease) renew(ctx context.Context) {
	defer close(l.stopped)
	tick := time.NewTicker(l.w.cfg.LeaseFor / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_, err := l.w.pool.Exec(ctx, `
			with free as (
				select dataset, scope from ops.lease
				where dataset = $1 and scope = $2 and fence = $3
				for update skip locked
			)
			update ops.lease set expires_at = clock_timestamp() + $4
			from free where lease.dataset = free.dataset and lease.scope = free.scope`, l.dataset, l.scope, l.fence, l.w.cfg.LeaseFor)
		if err != nil && ctx.Err() == nil {
			l.w.cfg.Log.Warn("lease not renewed", "dataset", l.dataset, "scope", l.scope, "error", err)
		}
	}
}

// Release frees the scope at once. Safe to repeat.
func (l *lease) Release(ctx context.Context) error {
	var err error
	l.once.Do(func() {
		l.stop()
		<-l.stopped
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err = l.w.pool.Exec(ctx, `update ops.lease set expires_at = clock_timestamp()
			where dataset = $1 and scope = $2 and fence = $3`, l.dataset, l.scope, l.fence)
	})
	if err != nil {
		return fmt.Errorf("release %s %s: %w", l.dataset, l.scope, err)
	}
	return nil
}

// hold checks inside the load's transaction that the fence is still the newest and keeps it so
// until the transaction ends.
func (l *lease) hold(batch *pgx.Batch) {
	batch.Queue(`select 1 from ops.lease where dataset = $1 and scope = $2 and fence = $3 for update`, l.dataset, l.scope, l.fence).
		QueryRow(func(row pgx.Row) error {
			var one int
			err := row.Scan(&one)
			if errors.Is(err, pgx.ErrNoRows) {
				return etl.ErrFenced
			}
			return err
		})
}

// renewHeld renews the lease from within the load that holds it.
func (l *lease) renewHeld(batch *pgx.Batch) {
	batch.Queue(`update ops.lease set expires_at = clock_timestamp() + $4 where dataset = $1 and scope = $2 and fence = $3`,
		l.dataset, l.scope, l.fence, l.w.cfg.LeaseFor)
}

// lockScope keeps all other writers of a vendor's scope, of any dataset, out until the transaction ends.
func lockScope(batch *pgx.Batch, source, scope string) {
	batch.Queue(`select pg_advisory_xact_lock(hashtextextended($1, 0))`, "meterhouse scope "+source+" "+scope)
}
