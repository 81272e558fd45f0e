package warehouse

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"

	"meterhouse/etl"
)

// LandedRun is a run of the past with the bodies that it landed: what a replay reads again.
type LandedRun struct {
	ID        int64
	Dataset   string
	Scope     string
	Account   string
	Window    etl.Window // that was asked for; zero for datasets of the present
	Payloads  []int64    // in the order in which they were fetched
	Bytes     int64      // of all bodies, decompressed
	FetchedAt time.Time  // of the last one, business clock
}

const landedRun = `
select p.run_id, p.dataset, p.scope, p.account, p.window_from, p.window_until,
	array_agg(p.payload_id order by p.fetched_at, p.payload_id), sum(p.body_bytes)::bigint, max(p.fetched_at)
from raw.payload as p
join ops.run as r using (run_id)
%s
group by p.run_id, p.dataset, p.scope, p.account, p.window_from, p.window_until
order by p.dataset, p.scope, max(p.fetched_at), p.run_id`

// Landed are the runs of a dataset whose bodies speak of the days of a window: those that were asked
// for it (history), or were fetched on one of its days, counted in the zone in which the vendor's days
// are filed. They come by scope, in the order in which they were fetched.
func (w *Warehouse) Landed(ctx context.Context, dataset string, days etl.Window) ([]LandedRun, error) {
	return w.landed(ctx, `
left join ops.watermark as mark on mark.dataset = p.dataset and mark.scope = p.scope
where p.dataset = $1
	and case
		when p.window_from is not null then p.window_from < $3::date and p.window_until > $2::date
		else (p.fetched_at at time zone coalesce(mark.zone, 'UTC'))::date >= $2::date
			and (p.fetched_at at time zone coalesce(mark.zone, 'UTC'))::date < $3::date
	end`, dataset, days.From.Time(), days.Until.Time())
}

// Unloaded are the runs of a scope that landed an answer and ended before they could load it, as
// when their process was killed. Each is listed until somebody tried to replay it.
func (w *Warehouse) Unloaded(ctx context.Context, dataset, scope string) ([]LandedRun, error) {
	return w.landed(ctx, `
where r.dataset = $1 and r.scope = $2 and r.status = 'failed' and r.payload_id is null
	and not exists (select from ops.run as replay where replay.replay_of = r.run_id)`, dataset, scope)
}

// LandedRefused are the runs whose bodies may hold the refused records of open quarantine rows: the
// one that was refused first, and every later one of the same days of which anything was refused.
// Rows that are not open, or do not exist, have none.
func (w *Warehouse) LandedRefused(ctx context.Context, quarantineIDs []int64) ([]LandedRun, error) {
	return w.landed(ctx, `
left join ops.watermark as mark on mark.dataset = p.dataset and mark.scope = p.scope
where exists (
	select from ops.quarantine as q
	where q.quarantine_id = any ($1) and q.resolved_at is null
		and q.dataset = p.dataset and q.scope = p.scope and q.product = p.product
		and (
			q.payload_id = p.payload_id
			or q.payload_id < p.payload_id and (r.quarantined > 0 or r.status = 'failed')
				and case
					when p.window_from is not null then p.window_from < coalesce(q.day + 1, q.window_until)
						and p.window_until > coalesce(q.day, q.window_from)
					when q.day is not null then (p.fetched_at at time zone coalesce(mark.zone, 'UTC'))::date = q.day
					else true
				end
		)
)`, quarantineIDs)
}

func (w *Warehouse) landed(ctx context.Context, where string, args ...any) ([]LandedRun, error) {
	rows, err := w.pool.Query(ctx, fmt.Sprintf(landedRun, where), args...)
	if err != nil {
		return nil, fmt.Errorf("landed bodies: %w", err)
	}
	runs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r LandedRun, err error) {
		var from, until *time.Time
		err = row.Scan(&r.ID, &r.Dataset, &r.Scope, &r.Account, &from, &until, &r.Payloads, &r.Bytes, &r.FetchedAt)
		if from != nil && until != nil {
			r.Window = etl.Window{From: etl.DayOf(*from), Until: etl.DayOf(*until)}
		}
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("landed bodies: %w", err)
	}
	return runs, nil
}

// Payload is a landed answer as it came, its body checked against the hash. The caller closes the
// body. Whether the vendor had anything to say is for its source to recognise.
func (w *Warehouse) Payload(ctx context.Context, id int64) (*etl.Answer, error) {
	ans := &etl.Answer{PayloadID: id, Warnings: etl.Warnings{}}
	b := &landedBody{}
	var from, until *time.Time
	var sum []byte
	err := w.pool.QueryRow(ctx, `
		select dataset, scope, product, window_from, window_until, method, url, status, content_type, requested_at, fetched_at,
			body_bytes, body_sha256, body_zstd
		from raw.payload where payload_id = $1`, id).
		Scan(&ans.Request.Dataset, &ans.Request.Scope, &ans.Request.Product, &from, &until, &ans.Method, &ans.URL, &ans.Status, &ans.ContentType,
			&ans.RequestedAt, &ans.FetchedAt, &b.size, &sum, &b.zstd)
	if err != nil {
		return nil, fmt.Errorf("payload %d: %w", id, err)
	}
	if from != nil && until != nil {
		ans.Request.Window = etl.Window{From: etl.DayOf(*from), Until: etl.DayOf(*until)}
	}
	copy(b.sum[:], sum)
	if err := b.verify(); err != nil {
		return nil, fmt.Errorf("payload %d: %w", id, err)
	}
	ans.Body = b
	return ans, nil
}

// StillLanded fails when a body was deleted since it was read. Asked after the start of the run that
// replays it, it settles the race with a prune: one that is deleting the body comes first, and one that
// comes later sees the run.
func (w *Warehouse) StillLanded(ctx context.Context, id int64) error {
	var one int
	err := w.pool.QueryRow(ctx, `select 1 from raw.payload where payload_id = $1 for key share`, id).Scan(&one)
	if err != nil {
		return fmt.Errorf("payload %d: %w", id, err)
	}
	return nil
}

// landedBody is a body in one zstd frame, as it is stored.
type landedBody struct {
	zstd []byte
	sum  [sha256.Size]byte
	size int64
}

func (b *landedBody) Open() (io.ReadCloser, error) {
	unzip, err := zstd.NewReader(bytes.NewReader(b.zstd), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return unzip.IOReadCloser(), nil
}

func (b *landedBody) Zstd() ([]byte, error)     { return b.zstd, nil }
func (b *landedBody) SHA256() [sha256.Size]byte { return b.sum }
func (b *landedBody) Size() int64               { return b.size }
func (b *landedBody) Close() error              { return nil }

func (b *landedBody) verify() error {
	r, err := b.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, r); err != nil {
		return fmt.Errorf("the stored body cannot be unpacked: %w: want the row from a backup", err)
	}
	if [sha256.Size]byte(hash.Sum(nil)) != b.sum {
		return errors.New("the stored body does not have the hash it was landed with: want the row from a backup")
	}
	return nil
}
