package warehouse

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"meterhouse/etl"
)

// A COPY in the background is over before anything else is asked, and whoever asks first gets its error.
func TestCopyInTheBackground(t *testing.T) {
	h := newHouse(t)
	h.exec(`create table t (n bigint primary key)`)
	buffer := func(from, until int64) *copyBuffer {
		b := newCopyBuffer("t", "n")
		for n := from; n < until; n++ {
			b.startRow()
			b.int64(n)
		}
		return b
	}
	begin := func(t *testing.T) *loadTx {
		tx, err := h.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
		return &loadTx{tx, &copying{}}
	}
	asks := map[string]func(tx *loadTx) error{
		"exec": func(tx *loadTx) error { _, err := tx.Exec(t.Context(), `select 1`); return err },
		"query": func(tx *loadTx) error {
			rows, err := tx.Query(t.Context(), `select 1`)
			if err == nil {
				rows.Close()
				err = rows.Err()
			}
			return err
		},
		"row": func(tx *loadTx) error {
			var n int
			err := tx.QueryRow(t.Context(), `select count(*) from t`).Scan(&n)
			if err == nil && n < 5000 {
				err = fmt.Errorf("got %d rows, want all of the COPY", n)
			}
			return err
		},
		"batch": func(tx *loadTx) error {
			batch := &pgx.Batch{}
			batch.Queue(`select 1`)
			return tx.SendBatch(t.Context(), batch).Close()
		},
		"savepoint": func(tx *loadTx) error { _, err := tx.savepoint(t.Context()); return err },
		"COPY":      func(tx *loadTx) error { return buffer(-1, 0).send(t.Context(), tx) },
		"commit":    func(tx *loadTx) error { return tx.Commit(t.Context()) },
	}
	for name, ask := range asks {
		t.Run(name, func(t *testing.T) {
			h.exec(`truncate t`)
			tx := begin(t)
			b := buffer(0, 5000)
			if err := b.send(t.Context(), tx); err != nil {
				t.Fatal(err)
			}
			if err := ask(tx); err != nil {
				t.Errorf("behind a good COPY: %v", err)
			}
			_ = tx.Rollback(t.Context())

			tx = begin(t)
			b = buffer(0, 5000)
			b.buf = append(b.buf, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7) // a second 7
			if err := b.send(t.Context(), tx); err != nil {
				t.Fatalf("send waited: %v", err)
			}
			var refused *pgconn.PgError
			if err := ask(tx); !errors.As(err, &refused) || refused.Code != "23505" {
				t.Errorf("behind a COPY that failed: got %v, want its unique violation", err)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Errorf("roll back: %v", err)
			}
		})
	}
	t.Run("rolled back", func(t *testing.T) {
		tx := begin(t)
		inner, err := tx.savepoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h.exec(`truncate t`)
		b := buffer(0, 5000)
		b.rows++ // one more than there are
		if err := errors.Join(b.send(t.Context(), inner), inner.Rollback(t.Context())); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := tx.QueryRow(t.Context(), `select count(*) from t`).Scan(&n); err != nil || n != 0 {
			t.Errorf("got %d rows and %v, want none", n, err)
		}
		b = buffer(0, 10)
		b.rows++
		if err := b.send(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(t.Context()); err == nil || err.Error() != "copy into t: got 10 rows stored, want 11" {
			t.Errorf("got %v", err)
		}
	})
}

// TestManyCopies loads more than fits into one COPY.
func TestManyCopies(t *testing.T) {
	h := newHouse(t)
	series := func(from string, days int) (samples []etl.Sample) {
		for at := day(from).Time(); len(samples) < days*720; at = at.Add(2 * time.Minute) {
			s := sample(at.Format(time.RFC3339), fmt.Sprintf("%d.%06d", 100+len(samples)%7, len(samples)))
			samples = append(samples, s)
		}
		return samples
	}
	w := window("2026-05-01", "2026-05-21")
	month := series("2026-05-01", 20)
	if rows := len(month) * 100; rows < copyBytes {
		t.Fatalf("%d bytes of rows fit into one COPY", rows)
	}
	out := h.mustHistory(w, extreme(month...))
	if out.Inserted != len(month) {
		t.Fatalf("got %+v, want %d inserted", out, len(month))
	}
	h.want(`select count(*), count(distinct sampled_at), round(sum(consumed_tib), 6) = (select round(sum(sample_count * consumed_avg_tib), 6) from dw.fact_daily_consumption)
		from dw.fact_consumption_sample`, fmt.Sprintf("%d|%[1]d|true", len(month)))
	if out := h.mustHistory(w, extreme(month...)); out.Unchanged != len(month) {
		t.Errorf("read again: got %+v, want all unchanged", out)
	}
}

// A body that is being compressed when the transform begins anew is landed all the same, once. What is shared
// with that is for the race detector to tell.
func TestRestartWhileTheBodyIsCompressed(t *testing.T) {
	h := newHouse(t)
	for i := range 5 {
		out, err := h.load(etl.Job{Dataset: "keystone.history", Scope: fmt.Sprint("C-", i), Expected: day("2026-05-14")}, oneDay, func(sink etl.Sink) (etl.Report, error) {
			rec := etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(sample(may14, "1"))}}
			return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}}, errors.Join(sink.History(rec), sink.Restart(), sink.History(rec))
		})
		if err != nil || out.Inserted != 1 {
			t.Fatalf("got %+v, %v", out, err)
		}
	}
	h.want(`select count(*), count(distinct p.payload_id) from dw.fact_daily_consumption as d join raw.payload as p using (payload_id)`, "5|5")
	h.want(`select count(*) from raw.payload`, "5")
}
