package warehouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"meterhouse/etl"
)

// Config says which database and as whom.
type Config struct {
	URL      string           // postgres://…
	Owner    string           // names this process in leases and runs: host, process id, start
	Now      func() time.Time // business clock; default time.Now
	Fixed    bool             // the business clock stands still (--now): views take it as now
	MaxConns int              // default 8
	LeaseFor time.Duration    // a dead owner's scope is free after this; default 30 s
	Log      *slog.Logger     // default: silence
	Release  string           // of the program: what another one read is read again
}

// Warehouse is an open warehouse. It is safe for concurrent use. Close it.
type Warehouse struct {
	cfg    Config
	pool   *pgxpool.Pool
	server Server
}

var _ etl.Warehouse = (*Warehouse)(nil)

// Open connects and refuses a database that this binary cannot work with: a server before 15,
// another encoding than UTF-8, a schema that is behind or ahead. It changes nothing.
func Open(ctx context.Context, cfg Config) (*Warehouse, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.LeaseFor == 0 {
		cfg.LeaseFor = leaseFor
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 8
	}
	server, err := Probe(ctx, cfg.URL)
	if err != nil {
		return nil, err
	}
	if err := server.usable(); err != nil {
		return nil, err
	}
	poolConfig, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("database url: %w", err)
	}
	tune(poolConfig.ConnConfig)
	server.suit(poolConfig.ConnConfig)
	poolConfig.MaxConns = int32(cfg.MaxConns)
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, fmt.Errorf("open warehouse: %w", err)
	}
	return &Warehouse{cfg: cfg, pool: pool, server: server}, nil
}

// Close closes all connections. It waits a moment for borrowed ones, and no longer: the server ends them
// with the process.
func (w *Warehouse) Close() {
	closed := make(chan struct{})
	go func() {
		w.pool.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(3 * time.Second):
		w.cfg.Log.Warn("connections that are still in use are left to the server")
	}
}

// LastSuccesses are those of LastSuccess for all datasets and scopes that ever succeeded.
func (w *Warehouse) LastSuccesses(ctx context.Context) (map[[2]string]time.Time, error) {
	rows, err := w.pool.Query(ctx, `select dataset, scope, last_success_at from ops.watermark
		where last_success_at is not null and ($1::timestamptz is null or last_success_at <= $1)`, w.believable())
	if err != nil {
		return nil, fmt.Errorf("last successes: %w", err)
	}
	all := map[[2]string]time.Time{}
	var dataset, scope string
	var at time.Time
	if _, err := pgx.ForEachRow(rows, []any{&dataset, &scope, &at}, func() error {
		all[[2]string{dataset, scope}] = at.UTC()
		return nil
	}); err != nil {
		return nil, fmt.Errorf("last successes: %w", err)
	}
	return all, nil
}

// LandedSince are the products of the dataset and scope of which an answer was landed since then.
func (w *Warehouse) LandedSince(ctx context.Context, dataset, scope string, since time.Time) (products []string, err error) {
	rows, err := w.pool.Query(ctx, `select distinct p.product from raw.payload as p join ops.run as r using (run_id)
		where r.dataset = $1 and r.scope = $2 and r.business_at >= $3 and p.requested_at >= $3`, dataset, scope, since)
	if err == nil {
		products, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return nil, fmt.Errorf("what %s %s landed since %s: %w", dataset, scope, since.UTC().Format(time.RFC3339), err)
	}
	return products, nil
}

// Pool is the connections of the warehouse, for the queue, which lives in the same database. It is
// closed with the warehouse.
func (w *Warehouse) Pool() *pgxpool.Pool { return w.pool }

// IsPooled tells that a transaction pooler stands before the database: sessions keep nothing there, and
// nobody can LISTEN.
func (w *Warehouse) IsPooled() bool { return w.server.Pooler == TransactionPooler }

// Skew is by how much the real clock of this process is ahead of the database's.
func (w *Warehouse) Skew(ctx context.Context) (time.Duration, error) {
	before := time.Now()
	var theirs time.Time
	if err := w.pool.QueryRow(ctx, `select clock_timestamp()`).Scan(&theirs); err != nil {
		return 0, fmt.Errorf("read the database's clock: %w", err)
	}
	after := time.Now()
	return before.Add(after.Sub(before) / 2).Sub(theirs), nil
}

// Table is a result as text: numbers exact, times in UTC, unknown as an empty cell.
type Table struct {
	Columns []string
	Numeric []bool // per column: a number, to be aligned to the right
	Boolean []bool // per column: true or false
	Rows    [][]string
	Null    [][]bool // per cell: unknown; nil where every empty cell is
}

// IsNumeric tells whether a column holds numbers.
func (t Table) IsNumeric(column int) bool { return column < len(t.Numeric) && t.Numeric[column] }

// IsBoolean tells whether a column holds true and false.
func (t Table) IsBoolean(column int) bool { return column < len(t.Boolean) && t.Boolean[column] }

// IsNull tells whether a cell is unknown.
func (t Table) IsNull(row, column int) bool {
	if t.Null == nil {
		return t.Rows[row][column] == ""
	}
	return t.Null[row][column]
}

// Query runs one read-only statement and returns everything as text. Views that speak of now use the
// business clock of the warehouse.
func (w *Warehouse) Query(ctx context.Context, sql string, args ...any) (Table, error) {
	var t Table
	err := pgx.BeginTxFunc(ctx, w.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// Views of freshness and coverage shall speak of the caller's now. To compile a query that reads every series takes
		// longer than to run it.
		if _, err := tx.Exec(ctx, `select set_config('meterhouse.now', $1, true), set_config('jit', 'off', true)`, w.cfg.Now().UTC().Format(time.RFC3339Nano)); err != nil {
			return err
		}
		// Text from the server itself: no client type may round a numeric or move a time.
		rows, err := tx.Query(ctx, sql, append([]any{pgx.QueryResultFormats{pgx.TextFormatCode}}, args...)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for _, f := range rows.FieldDescriptions() {
			t.Columns = append(t.Columns, f.Name)
			t.Numeric = append(t.Numeric, isNumber(f.DataTypeOID))
			t.Boolean = append(t.Boolean, f.DataTypeOID == pgtype.BoolOID)
		}
		for rows.Next() {
			raw := rows.RawValues()
			row, null := make([]string, len(raw)), make([]bool, len(raw))
			for i, v := range raw {
				row[i], null[i] = string(v), v == nil
				if t.Boolean[i] && v != nil {
					row[i] = strconv.FormatBool(row[i] == "t")
				}
			}
			t.Rows, t.Null = append(t.Rows, row), append(t.Null, null)
		}
		return rows.Err()
	})
	if err != nil {
		return Table{}, fmt.Errorf("query: %w", err)
	}
	return t, nil
}

func isNumber(oid uint32) bool {
	switch oid {
	case 20, 21, 23, 26, 700, 701, 1700: // int8, int2, int4, oid, float4, float8, numeric
		return true
	}
	return false
}

// Customers are the ids of the customers that the account was last seen to have.
func (w *Warehouse) Customers(ctx context.Context, account string) ([]string, error) {
	rows, err := w.pool.Query(ctx,
		`select customer_id from dw.dim_customer where account = $1 and absent_since is null order by customer_id`, account)
	if err != nil {
		return nil, fmt.Errorf("customers of %s: %w", account, err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("customers of %s: %w", account, err)
	}
	return ids, nil
}

// Covered are the days of the window for which the vendor gave an answer, after their end. An answer from
// before it, or from the future, was given by a wrong clock.
func (w *Warehouse) Covered(ctx context.Context, dataset, scope string, window etl.Window) (map[etl.Day]bool, error) {
	rows, err := w.pool.Query(ctx,
		`select c.day from ops.coverage as c
		left join ops.run as r on r.run_id = c.run_id
		where c.dataset = $1 and c.scope = $2 and c.day >= $3 and c.day < $4
			and (r.fetched_at is null or r.fetched_at >= (c.day + 1)::timestamp at time zone 'UTC' and r.fetched_at <= $5)`,
		dataset, scope, window.From.Time(), window.Until.Time(), w.cfg.Now().Add(time.Minute))
	if err != nil {
		return nil, fmt.Errorf("coverage of %s %s: %w", dataset, scope, err)
	}
	days, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil {
		return nil, fmt.Errorf("coverage of %s %s: %w", dataset, scope, err)
	}
	covered := make(map[etl.Day]bool, len(days))
	for _, d := range days {
		covered[etl.DayOf(d)] = true
	}
	return covered, nil
}

// believable is the latest time that what is stored may tell while the business clock goes: a later one is
// from a clock that was wrong, and believed, nothing would be due before it. nil: the clock stands still, and
// what is stored may well be from later.
func (w *Warehouse) believable() *time.Time {
	if w.cfg.Fixed {
		return nil
	}
	t := w.cfg.Now().Add(time.Minute)
	return &t
}

// LastSuccess is when, by the business clock, the scope was last loaded; ok is false if never, or in a
// future that only a wrong clock can have known.
func (w *Warehouse) LastSuccess(ctx context.Context, dataset, scope string) (at time.Time, ok bool, err error) {
	var stored *time.Time
	err = w.pool.QueryRow(ctx,
		`select last_success_at from ops.watermark where dataset = $1 and scope = $2 and ($3::timestamptz is null or last_success_at <= $3)`,
		dataset, scope, w.believable()).Scan(&stored)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && stored == nil {
		return time.Time{}, false, nil
	}
	if err != nil {
		return time.Time{}, false, fmt.Errorf("last success of %s %s: %w", dataset, scope, err)
	}
	return stored.UTC(), true, nil
}

// PinnedOperation is the operation that the account's first good reading named; empty if none.
func (w *Warehouse) PinnedOperation(ctx context.Context, account string) (string, error) {
	var operation string
	err := w.pool.QueryRow(ctx,
		`select operation from dw.dim_operation where account = $1 order by operation_key limit 1`, account).Scan(&operation)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("pinned operation of %s: %w", account, err)
	}
	return operation, nil
}

// SaveProducts adds the products that are not known yet. Titles and units that were edited stay.
func (w *Warehouse) SaveProducts(ctx context.Context, products []etl.Product) error {
	batch := &pgx.Batch{}
	for _, p := range products {
		batch.Queue(`insert into dw.dim_product (product_number, api, title, unit, kind)
			select $1, $2, $3, $4, $5 where not exists (select from dw.dim_product where api = $2)
			on conflict do nothing`, p.Number, p.Code, p.Title, p.Unit, string(p.Kind))
	}
	if err := w.pool.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("save products: %w", err)
	}
	return nil
}
