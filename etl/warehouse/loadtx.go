package warehouse

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// loadTx is a load's transaction, or a savepoint in it, whose connection may be busy: a COPY that was
// begun in the background goes on while the load decodes what comes next. Whoever asks anything of the
// connection waits for its end first and gets its error, so to everybody else a load is one statement
// after the other. What it does not know (Prepare, CopyFrom) the driver refuses meanwhile: "conn busy".
type loadTx struct {
	pgx.Tx
	copying *copying // shared with the savepoints
}

// copying is the COPY that is under way, if one is.
type copying struct{ done chan error }

// background waits for the COPY before and begins another one, which has the connection to itself.
func (t *loadTx) background(copy func(*pgconn.PgConn) error) error {
	if err := t.settle(); err != nil {
		return err
	}
	conn, done := t.Tx.Conn().PgConn(), make(chan error, 1)
	t.copying.done = done
	go func() { done <- copy(conn) }()
	return nil
}

// settle waits for the COPY that is under way. Its error is returned once: the transaction is of no use
// after it, except to be rolled back.
func (t *loadTx) settle() error {
	done := t.copying.done
	if done == nil {
		return nil
	}
	t.copying.done = nil
	return <-done
}

func (t *loadTx) savepoint(ctx context.Context) (*loadTx, error) {
	tx, err := t.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &loadTx{tx, t.copying}, nil
}

func (t *loadTx) Begin(ctx context.Context) (pgx.Tx, error) {
	if err := t.settle(); err != nil {
		return nil, err
	}
	return t.Tx.Begin(ctx)
}

func (t *loadTx) Commit(ctx context.Context) error {
	if err := t.settle(); err != nil {
		return err
	}
	return t.Tx.Commit(ctx)
}

// Rollback gives up what was copied, and the error with it.
func (t *loadTx) Rollback(ctx context.Context) error {
	_ = t.settle()
	return t.Tx.Rollback(ctx)
}

func (t *loadTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := t.settle(); err != nil {
		return pgconn.CommandTag{}, err
	}
	return t.Tx.Exec(ctx, sql, args...)
}

func (t *loadTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := t.settle(); err != nil {
		return nil, err
	}
	return t.Tx.Query(ctx, sql, args...)
}

func (t *loadTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if err := t.settle(); err != nil {
		return failedRow{err}
	}
	return t.Tx.QueryRow(ctx, sql, args...)
}

func (t *loadTx) SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults {
	if err := t.settle(); err != nil {
		return failedBatch{err: err}
	}
	return t.Tx.SendBatch(ctx, batch)
}

// failedRow and failedBatch are the answers of a connection on which a COPY failed.
type failedRow struct{ err error }

func (r failedRow) Scan(...any) error { return r.err }

type failedBatch struct {
	pgx.BatchResults // nil: there are none
	err              error
}

func (b failedBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, b.err }
func (b failedBatch) Query() (pgx.Rows, error)         { return nil, b.err }
func (b failedBatch) QueryRow() pgx.Row                { return failedRow{b.err} }
func (b failedBatch) Close() error                     { return b.err }
