package warehouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"meterhouse/etl"
)

// Calls is the ledger of calls to a vendor that allows one at a time and counts them. What a method
// returns from without an error is committed.
type Calls struct {
	w   *Warehouse
	now func() time.Time

	mu    sync.Mutex
	loose []callEnd
}

// Calls is the ledger of calls by the database's clock or, unless nil, by now: every process that shares
// the ledger must then have the same.
func (w *Warehouse) Calls(now func() time.Time) *Calls { return &Calls{w: w, now: now} }

// recentCalls is how many of the newest calls are read to tell what the vendor refused.
const recentCalls = 100

// clock is the time that the ledger goes by, as a parameter: nil is the database's own.
func (c *Calls) clock() *time.Time {
	if c.now == nil {
		return nil
	}
	now := c.now()
	return &now
}

// Reserve adds a call unless may objects; its error comes back as it is. May is asked within the
// transaction and must not wait for anything.
func (c *Calls) Reserve(ctx context.Context, call etl.Call, lostAfter time.Duration, may func(etl.CallLog) error) (etl.Call, error) {
	var refused error
	loose := c.looseEnds()
	err := pgx.BeginTxFunc(ctx, c.w.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		for _, l := range loose {
			if err := l.write(ctx, tx); err != nil {
				return err
			}
		}
		log, err := c.read(ctx, tx, call.Credential, true)
		if err != nil {
			return err
		}
		if refused = may(log); refused != nil {
			return refused
		}
		call.StartedAt = log.Now
		return tx.QueryRow(ctx, `
			insert into ops.vendor_call (credential, account, product, owner, started_at, lost_at)
			values ($1, $2, $3, $4, $5, $6) returning call_id`,
			call.Credential, call.Account, call.Product, c.w.cfg.Owner, log.Now, log.Now.Add(lostAfter)).Scan(&call.ID)
	})
	if refused != nil {
		return etl.Call{}, refused
	}
	var pgErr *pgconn.PgError
	if err != nil && call.ID != 0 && !errors.As(err, &pgErr) { // the commit may have been made, and only its reply been lost
		c.loosen(callEnd{id: call.ID, started: &call.StartedAt, ended: &call.StartedAt, outcome: etl.CallUnsent})
	}
	if err != nil {
		return etl.Call{}, fmt.Errorf("reserve a call of %s for %s: %w", call.Account, call.Product, err)
	}
	c.tied(len(loose))
	return call, nil
}

// callEnd is how a call ended. A loose one could not be written down, or nobody knows whether its call was
// reserved at all: the next reservation writes it first, so that nobody waits until the call counts as lost.
type callEnd struct {
	id         int64
	started    *time.Time // tells the call from one that took its number after a failover; nil: any
	ended      *time.Time // nil: now, by the clock of the database
	outcome    string
	retryAfter time.Duration
}

// write closes the call; one that is closed already stays as it is.
func (e callEnd) write(ctx context.Context, to interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}) error {
	_, err := to.Exec(ctx, `
		update ops.vendor_call
		set ended_at = clock.now, outcome = $4, retry_at = case when $5::interval > '0' then clock.now + $5 end
		from (select coalesce($3, clock_timestamp()) as now) as clock
		where call_id = $1 and ended_at is null and ($2::timestamptz is null or started_at = $2)`,
		e.id, e.started, e.ended, e.outcome, e.retryAfter)
	return err
}

func (c *Calls) loosen(l callEnd) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loose = append(c.loose, l)
}

func (c *Calls) looseEnds() []callEnd {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.loose)
}

// tied forgets the first n, which are written down.
func (c *Calls) tied(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loose = c.loose[n:]
}

// End closes a call. One that is closed already stays as it is. After an error the next Reserve does it.
func (c *Calls) End(ctx context.Context, id int64, outcome string, retryAfter time.Duration) error {
	end := callEnd{id: id, ended: c.clock(), outcome: outcome, retryAfter: retryAfter}
	if err := end.write(ctx, c.w.pool); err != nil {
		c.loosen(end)
		return fmt.Errorf("end call %d as %s: %w", id, outcome, err)
	}
	return nil
}

// Log reads what is known of a credential. It changes nothing.
func (c *Calls) Log(ctx context.Context, credential string) (log etl.CallLog, err error) {
	err = pgx.BeginTxFunc(ctx, c.w.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		log, err = c.read(ctx, tx, credential, false)
		return err
	})
	if err != nil {
		return log, fmt.Errorf("read the calls: %w", err)
	}
	return log, nil
}

// SaveQuota keeps what the vendor said, and forgets the credential's calls of more than 62 days before:
// nothing refers to them once the vendor has answered. Safe to repeat.
func (c *Calls) SaveQuota(ctx context.Context, call etl.Call, q etl.Quota) error {
	_, err := c.w.pool.Exec(ctx, `
		with forgotten as (
			delete from ops.vendor_call where credential = $2 and started_at < $9::timestamptz - interval '62 days'
		)

		insert into ops.vendor_quota (call_id, credential, account, limit_calls, used_by_token, used_by_all, left_calls, used_elsewhere, told_at)
		values ($1, $2, $3, nullif($4::bigint, -1), nullif($5::bigint, -1), nullif($6::bigint, -1), nullif($7::bigint, -1), $8, $9)
		on conflict (call_id) do nothing`,
		call.ID, call.Credential, call.Account, q.Limit, q.UsedByToken, q.UsedByAll, q.Left, q.Elsewhere, q.ToldAt)
	if err != nil {
		return fmt.Errorf("save the quota of %s: %w", call.Account, err)
	}
	return nil
}

// read makes the log in one round trip. Alone keeps others from reserving with the credential until the
// transaction ends, and closes what is lost.
func (c *Calls) read(ctx context.Context, tx pgx.Tx, credential string, alone bool) (log etl.CallLog, err error) {
	now := c.clock()
	batch := &pgx.Batch{}
	if alone {
		batch.Queue(`select set_config('synchronous_commit', 'on', true), pg_advisory_xact_lock(hashtextextended($1, 0))`, "meterhouse calls "+credential)
		batch.Queue(`
			update ops.vendor_call set ended_at = coalesce($2, clock_timestamp()), outcome = 'lost'
			where credential = $1 and ended_at is null
				-- A call from the future was written by a clock that was wrong.
				and (lost_at <= coalesce($2, clock_timestamp()) or started_at > coalesce($2, clock_timestamp()) + interval '1 minute')`, credential, now)
	}
	batch.Queue(`select coalesce($1, clock_timestamp())`, now).QueryRow(func(row pgx.Row) error { return row.Scan(&log.Now) })
	batch.Queue(`
		with day as (
			select product, coalesce(ended_at, started_at) as seen_at from ops.vendor_call
			where credential = $1 and started_at > coalesce($2, clock_timestamp()) - interval '27 hours' -- no call takes three
				and coalesce(ended_at, started_at) <= coalesce($2, clock_timestamp()) + interval '1 minute'
				and outcome is distinct from 'unsent'
		)

		select product, max(seen_at), array_agg(seen_at) from day
		where seen_at > coalesce($2, clock_timestamp()) - interval '24 hours'
		group by product`, credential, now).Query(func(rows pgx.Rows) error {
		log.Last = map[string]time.Time{}
		for rows.Next() {
			var product string
			var last time.Time
			var seen []time.Time
			if err := rows.Scan(&product, &last, &seen); err != nil {
				return err
			}
			log.Last[product] = last
			log.Day = append(log.Day, seen...)
		}
		return rows.Err()
	})
	batch.Queue(`
		select call_id, account, product, started_at, coalesce(ended_at, 'epoch'), coalesce(outcome, ''), coalesce(retry_at, 'epoch')
		from ops.vendor_call
		where credential = $1 and outcome is distinct from 'unsent' and started_at <= coalesce($3, clock_timestamp()) + interval '1 minute'
		order by started_at desc, call_id desc limit $2`, credential, recentCalls, now).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			call := etl.Call{Credential: credential}
			if err := rows.Scan(&call.ID, &call.Account, &call.Product, &call.StartedAt, &call.EndedAt, &call.Outcome, &call.RetryAt); err != nil {
				return err
			}
			call.EndedAt, call.RetryAt = known(call.EndedAt), known(call.RetryAt)
			log.Recent = append(log.Recent, call)
		}
		return rows.Err()
	})
	batch.Queue(`
		select coalesce(limit_calls, -1), coalesce(used_by_token, -1), coalesce(used_by_all, -1), coalesce(left_calls, -1), used_elsewhere, told_at
		from ops.vendor_quota where credential = $1 order by told_at desc limit 1`, credential).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			q := &log.Quota
			if err := rows.Scan(&q.Limit, &q.UsedByToken, &q.UsedByAll, &q.Left, &q.Elsewhere, &q.ToldAt); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return log, err
	}
	slices.SortFunc(log.Day, time.Time.Compare)
	return log, nil
}

// known turns the epoch, which stands for NULL, into the zero time.
func known(t time.Time) time.Time {
	if t.Unix() == 0 {
		return time.Time{}
	}
	return t
}
