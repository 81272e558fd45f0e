package warehouse

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Retention says how long what is not needed for a figure is kept.
type Retention struct {
	Payload   time.Duration // landed bodies; 0 keeps them
	Samples   time.Duration // months of samples; 0 keeps them
	DirectURL string        // of the same database, not through a pooler; default is Config.URL
	PlanOnly  bool          // find out and change nothing
}

// Pruned is what became of things of one kind, or would become of them.
type Pruned struct {
	What  string // payload or samples
	Of    string // dataset of the bodies; month of the samples
	Stays string // why it stays; empty when it goes
	Rows  int64  // bodies; samples as Postgres estimates them, -1 when it does not know
	Bytes int64  // as stored
}

// Why a body stays although it is old.
const (
	staysReferred  = "a figure refers to it"
	staysRefused   = "a refused record in it is not settled"
	staysNotLoaded = "it was never loaded, a replay can"
	staysReplayed  = "it is being replayed"
	staysLoading   = "a run is loading days of it"
	staysLocked    = "a long query or load is in the way"
)

// ErrLocked says that somebody else's transaction did not let go in time: try again later.
var ErrLocked = errors.New("another session is in the way: try again later")

// Prune deletes the bodies and drops the months of samples that are older than the retention by
// the business clock. It keeps every body that a row of the warehouse refers to, that an open
// refusal refers to, and that was never loaded; of samples only partitions go that are old as a
// whole. Loads and readers go on meanwhile. Whatever is left half-done, by a crash too, is
// finished by the next call. Of two at once one gets a *etl.BusyError. What was done is returned
// beside an error.
func (w *Warehouse) Prune(ctx context.Context, r Retention) (all []Pruned, err error) {
	if !r.PlanOnly {
		lease, err := w.Lease(ctx, "prune", "warehouse")
		if err != nil {
			return nil, err
		}
		defer lease.Release(context.WithoutCancel(ctx))
	}
	now := w.cfg.Now()
	var failed []error
	if r.Payload > 0 {
		done, err := w.prunePayloads(ctx, now.Add(-r.Payload), r.PlanOnly)
		all = append(all, done...)
		if err != nil {
			failed = append(failed, fmt.Errorf("prune payloads: %w", err))
		}
	}
	if r.Samples > 0 {
		if r.DirectURL == "" {
			r.DirectURL = w.cfg.URL
		}
		done, err := w.pruneSamples(ctx, now.Add(-r.Samples), r)
		all = append(all, done...)
		if err != nil {
			failed = append(failed, fmt.Errorf("prune samples: %w", err))
		}
	}
	return all, errors.Join(failed...)
}

// scope is whose bodies are looked at together: their loads share a lock.
type scope struct{ source, dataset, name string }

// prunePayloads goes through the old bodies scope by scope. All keys of facts begin with the
// customer or operation, so that the rows that may refer to a scope's bodies are found without an
// index of their own, which every load would have to keep up.
func (w *Warehouse) prunePayloads(ctx context.Context, before time.Time, planOnly bool) ([]Pruned, error) {
	rows, err := w.pool.Query(ctx, `select distinct source, dataset, scope from raw.payload where fetched_at < $1 order by 2, 3`, before)
	if err != nil {
		return nil, err
	}
	scopes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s scope, err error) {
		err = row.Scan(&s.source, &s.dataset, &s.name)
		return s, err
	})
	if err != nil {
		return nil, err
	}
	judge, err := w.judgePayloads(ctx)
	if err != nil {
		return nil, err
	}
	sums := map[Pruned]*Pruned{} // by dataset and fate
	for _, s := range scopes {
		for after, more := int64(0), true; more; {
			var batch []body
			err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) (err error) {
				batch, err = pruneBatch(ctx, tx, judge, s, before, after, planOnly)
				return err
			})
			if err != nil {
				return sorted(sums), fmt.Errorf("%s %s: %w", s.dataset, s.name, err)
			}
			for _, b := range batch {
				key := Pruned{What: "payload", Of: s.dataset, Stays: b.stays}
				if sums[key] == nil {
					sum := key
					sums[key] = &sum
				}
				sums[key].Rows++
				sums[key].Bytes += b.bytes
				after = b.id
			}
			more = len(batch) == payloadBatch
		}
	}
	return sorted(sums), nil
}

func sorted(sums map[Pruned]*Pruned) []Pruned {
	list := make([]Pruned, 0, len(sums))
	for _, sum := range sums {
		list = append(list, *sum)
	}
	slices.SortFunc(list, func(a, b Pruned) int {
		return cmp.Or(strings.Compare(a.Of, b.Of), strings.Compare(a.Stays, b.Stays))
	})
	return list
}

// payloadBatch is how many bodies one transaction looks at: while it runs, loads of the scope wait.
const payloadBatch = 200

// body is an old body and why it stays; empty when it goes.
type body struct {
	id, run, bytes int64
	stays          string
}

// judgePayloads is the statement that tells which of a scope's next old bodies stay. Whatever has a
// column payload_id refers to bodies, in tables of the future too. Runs do not count: they are a log.
func (w *Warehouse) judgePayloads(ctx context.Context) (string, error) {
	rows, err := w.pool.Query(ctx, `
		select format('%I.%I', n.nspname, c.relname), coalesce(k.attname, '')
		from pg_class as c
		join pg_namespace as n on n.oid = c.relnamespace
		join pg_attribute as p on p.attrelid = c.oid and p.attname = 'payload_id' and not p.attisdropped
		left join pg_attribute as k on k.attrelid = c.oid and k.attname in ('customer_key', 'operation_key') and not k.attisdropped
		where n.nspname in ('ops', 'dw', 'billing')
			and c.relkind in ('r', 'p')
			and not c.relispartition
			and c.oid not in ('ops.run'::regclass, 'ops.quarantine'::regclass)
		order by 1`)
	if err != nil {
		return "", err
	}
	var referring []string
	var table, key string
	if _, err := pgx.ForEachRow(rows, []any{&table, &key}, func() error {
		referring = append(referring, "select payload_id from "+table+" where payload_id in (select payload_id from old)"+map[string]string{
			"customer_key":  ` and customer_key = (select customer_key from dw.dim_customer where customer_id = $2)`,
			"operation_key": ` and operation_key in (select operation_key from dw.dim_operation where account = $2)`,
		}[key])
		return nil
	}); err != nil {
		return "", err
	}
	return fmt.Sprintf(`
		with old as materialized (
			select payload_id, run_id, pg_column_size(body_zstd) as bytes
			from raw.payload
			where dataset = $1 and scope = $2 and fetched_at < $3 and payload_id > $4
			order by payload_id
			limit %d
		),

		referred as (
			%s
		),

		-- A refusal that repeats an open one has no row of its own: retry reads the later bodies as well.
		refused as (
			select old.payload_id
			from old
			join ops.run as r using (run_id)
			join ops.quarantine as q on q.dataset = $1 and q.scope = $2 and q.resolved_at is null
				and (
					q.payload_id = old.payload_id
					or r.quarantined > 0
					or exists (select from ops.run as again where again.replay_of = r.run_id and again.quarantined > 0)
				)
		),

		-- An answer of a run that failed, or of which a part was refused as a whole, may still become facts.
		not_loaded as (
			select r.run_id
			from ops.run as r
			where r.run_id in (select run_id from old)
				and (r.status in ('running', 'failed') or r.error is not null)
				and not exists (
					select from ops.run as again
					where again.replay_of = r.run_id and again.status in ('ok', 'partial') and again.error is null
				)
		)

		select payload_id, run_id, bytes, case
			when payload_id in (select payload_id from referred) then '%s'
			when payload_id in (select payload_id from refused) then '%s'
			when run_id in (select run_id from not_loaded) then '%s'
			else ''
		end
		from old
		order by payload_id`, payloadBatch, strings.Join(referring, "\n\t\t\tunion all\n\t\t\t"), staysReferred, staysRefused, staysNotLoaded), nil
}

// pruneBatch looks at the scope's next old bodies after the given number and deletes those that go.
// The scope's lock keeps loads from referring to one meanwhile. A replay reads bodies before it
// takes the lock, but its run is on record by then: where there is one, the bodies stay.
func pruneBatch(ctx context.Context, tx pgx.Tx, judge string, s scope, before time.Time, after int64, planOnly bool) ([]body, error) {
	if !planOnly {
		lock := &pgx.Batch{}
		lockScope(lock, s.source, s.name)
		if err := tx.SendBatch(ctx, lock).Close(); err != nil {
			return nil, err
		}
	}
	rows, err := tx.Query(ctx, judge, s.dataset, s.name, before, after)
	if err != nil {
		return nil, err
	}
	batch, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (b body, err error) {
		err = row.Scan(&b.id, &b.run, &b.bytes, &b.stays)
		return b, err
	})
	if err != nil || planOnly {
		return batch, err
	}
	var ids, runs []int64
	for _, b := range batch {
		if b.stays == "" {
			ids, runs = append(ids, b.id), append(runs, b.run)
		}
	}
	if len(ids) == 0 {
		return batch, nil
	}
	part, err := tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	// Settled refusals outlive the body; their excerpt says what was refused.
	if _, err := part.Exec(ctx, `update ops.quarantine set payload_id = null where payload_id = any ($1)`, ids); err != nil {
		return nil, err
	}
	if _, err := part.Exec(ctx, `delete from raw.payload where payload_id = any ($1)`, ids); err != nil {
		return nil, err
	}
	var replayed bool
	if err := part.QueryRow(ctx, `select exists (select from ops.run where replay_of = any ($1) and status = 'running')`, runs).
		Scan(&replayed); err != nil {
		return nil, err
	}
	if !replayed {
		return batch, part.Commit(ctx)
	}
	for i := range batch {
		batch[i].stays = cmp.Or(batch[i].stays, staysReplayed)
	}
	return batch, part.Rollback(ctx)
}

// month is a partition of the samples, or what is left of one on its way out.
type month struct {
	table     string
	isPart    bool // still in the partitioned table
	detaching bool // a detach was interrupted half-way
	loading   bool // a run has days of it in its window
	isShell   bool // out and emptied, only to be dropped
	bytes     int64
	rows      int64
}

const (
	samplesTable = "dw.fact_consumption_sample"
	// doomed is the comment on a partition that is being dropped. A table without it that is not a
	// partition was detached by somebody else, who may want it.
	doomed = "Detached by meterhouse prune, to be dropped."
)

// pruneSamples drops the months that end before the given time. Nobody waits for it: a partition is detached
// concurrently, which no transaction may surround, waits for those that have read it, and lets others go by; then it is
// emptied, and dropped when there is a moment without anybody at the dimensions it refers to.
func (w *Warehouse) pruneSamples(ctx context.Context, before time.Time, r Retention) (all []Pruned, err error) {
	cfg, err := pgx.ParseConfig(r.DirectURL)
	if err != nil {
		return nil, fmt.Errorf("database.direct_url: %w", err)
	}
	tune(cfg)
	cfg.RuntimeParams["lock_timeout"] = "1s" // a pooler refuses it, instead of handing it on to others
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to database %s, not through a pooler (database.direct_url): %w", where(cfg), explain(err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	months, err := oldMonths(ctx, conn, before, "")
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, m := range months {
		name := strings.ReplaceAll(strings.TrimPrefix(m.table, "fact_consumption_sample_"), "_", "-")
		p := Pruned{What: "samples", Of: name, Rows: m.rows, Bytes: m.bytes}
		if m.loading {
			p.Stays = staysLoading
		} else if !r.PlanOnly {
			err := w.dropMonth(ctx, conn, before, m)
			if err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", m.table, err))
				p.Stays = staysLocked
			}
			if err != nil && !errors.Is(err, ErrLocked) {
				return all, errors.Join(failed...)
			}
		}
		if !m.isShell { // its samples went before
			all = append(all, p)
		}
	}
	return all, errors.Join(failed...)
}

// oldMonths are the partitions that end before the given time, and what an interrupted Prune left.
// only, unless empty, is the one table to look for.
func oldMonths(ctx context.Context, conn *pgx.Conn, before time.Time, only string) ([]month, error) {
	rows, err := conn.Query(ctx, `
		with part as (
			select
				c.oid,
				c.relname::text as name,
				c.reltuples::bigint as estimate,
				i.inhrelid is not null as is_part,
				coalesce(i.inhdetachpending, false) as detaching,
				i.inhrelid is null and pg_relation_size(c.oid) = 0 as is_shell,
				substring(pg_get_expr(c.relpartbound, c.oid) from $$FROM \('([^']+)'\)$$)::timestamptz as since,
				substring(pg_get_expr(c.relpartbound, c.oid) from $$TO \('([^']+)'\)$$)::timestamptz as until
			from pg_class as c
			left join pg_inherits as i on i.inhrelid = c.oid and i.inhparent = $3::text::regclass
			where c.relnamespace = 'dw'::regnamespace and c.relkind = 'r'
				and (i.inhrelid is not null or obj_description(c.oid, 'pg_class') = $4)
		)

		select name, is_part, detaching, is_shell, pg_total_relation_size(oid), estimate, exists (
			select from ops.run as r
			join ops.lease as l using (dataset, scope)
			where r.status = 'running' and r.fence = l.fence
				and l.expires_at > clock_timestamp() - interval '1 hour' -- not renewed while a load commits; later its owner is dead
				and r.window_from < part.until and r.window_until > part.since
		)
		from part
		where (until <= $1 or not is_part) and ($2 = '' or name = $2)
		order by name`, before, only, samplesTable, doomed)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (m month, err error) {
		err = row.Scan(&m.table, &m.isPart, &m.detaching, &m.isShell, &m.bytes, &m.rows, &m.loading)
		return m, err
	})
}

const lockAttempts = 5

// lockPause is how long others come first after a lock was not to be had, times the attempt.
var lockPause = time.Second

// dropMonth takes one step after the other by what it finds, until nothing is left.
func (w *Warehouse) dropMonth(ctx context.Context, conn *pgx.Conn, before time.Time, m month) error {
	table := "dw." + pgx.Identifier{m.table}.Sanitize()
	for attempt := 1; ; {
		var steps []string
		switch {
		case m.detaching:
			steps = []string{"alter table " + samplesTable + " detach partition " + table + " finalize"}
		case m.isPart:
			steps = []string{
				"comment on table " + table + " is '" + doomed + "'",
				"alter table " + samplesTable + " detach partition " + table + " concurrently",
			}
		case m.isShell:
			return w.dropShell(ctx, conn, table)
		default:
			steps = []string{"truncate table " + table}
		}
		var err error
		if !m.detaching && !m.isPart {
			steps, err = nil, onlyDoomed(ctx, conn, table, "lock table "+table+" in access exclusive mode", steps[0])
		}
		for _, sql := range steps {
			if err == nil {
				_, err = conn.Exec(ctx, sql)
			}
		}
		switch {
		case err != nil && !isLocked(err):
			return err
		case err != nil && attempt == lockAttempts:
			return fmt.Errorf("%w (%w)", ErrLocked, err)
		case err != nil:
			w.cfg.Log.Warn("partition not dropped yet", "table", m.table, "attempt", attempt, "error", err)
			if err := pause(ctx, time.Duration(attempt)*lockPause); err != nil {
				return err
			}
			attempt++
		}
		left, err := oldMonths(ctx, conn, before, m.table)
		if err != nil || len(left) == 0 {
			return err
		}
		m = left[0]
		if m.loading && m.isPart && !m.detaching { // since we looked
			return fmt.Errorf("%w (%s)", ErrLocked, staysLoading)
		}
	}
}

// onlyDoomed does something to a table once it has the lock, provided that the table is still the one that is to go: a
// load that needs the month meanwhile puts another one in its place.
func onlyDoomed(ctx context.Context, conn *pgx.Conn, table, lock, then string) error {
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lock); err != nil {
			return err
		}
		var isDoomed bool
		if err := tx.QueryRow(ctx, `
			select exists (
				select from pg_class as c
				where c.oid = to_regclass($1) and obj_description(c.oid, 'pg_class') = $2
					and not exists (select from pg_inherits where inhrelid = c.oid)
			)`, table, doomed).Scan(&isDoomed); err != nil || !isDoomed {
			return err
		}
		_, err := tx.Exec(ctx, then)
		return err
	})
}

// dropShell drops an emptied table. That locks the dimensions too, against readers even, who would queue up behind a
// lock that is waited for. So it is taken at a moment when it is free; where none comes, the next Prune drops the shell.
func (w *Warehouse) dropShell(ctx context.Context, conn *pgx.Conn, table string) error {
	for range 10 * lockAttempts {
		err := onlyDoomed(ctx, conn, table, "lock table dw.dim_customer, dw.dim_service_level in access exclusive mode nowait", "drop table "+table)
		if !isLocked(err) {
			return err
		}
		if err := pause(ctx, lockPause/10); err != nil {
			return err
		}
	}
	w.cfg.Log.Info("emptied partition is left for the next prune", "table", table)
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func isLocked(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "55P03" || pgErr.Code == "40P01") // lock_not_available, deadlock_detected
}
