package warehouse

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
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
	Loaded    bool       // by the run itself or by a replay of it
}

const landedRun = `
select p.run_id, p.dataset, p.scope, p.account, p.window_from, p.window_until,
	array_agg(p.payload_id order by p.fetched_at, p.payload_id), sum(p.body_bytes)::bigint, max(p.fetched_at),
	r.status in ('ok', 'partial') or exists (
		select from ops.run as replay where replay.replay_of = r.run_id and replay.status in ('ok', 'partial')
	)
from raw.payload as p
join ops.run as r using (run_id)
%s
group by p.run_id, p.dataset, p.scope, p.account, p.window_from, p.window_until, r.run_id
order by p.dataset, p.scope, max(p.fetched_at), p.run_id`

// Landed are the runs of a dataset that landed bodies about the days of a window: that were asked for
// it (history), or fetched on one of its days, counted in the zone in which the vendor's days are filed.
// An empty scope means all. They come by scope, in the order in which they were fetched, each whole.
func (w *Warehouse) Landed(ctx context.Context, dataset, scope string, days etl.Window) ([]LandedRun, error) {
	return w.landed(ctx, `
where p.run_id in (
	select found.run_id
	from raw.payload as found
	left join ops.watermark as mark on mark.dataset = found.dataset and mark.scope = found.scope
	where found.dataset = $1 and ($2 = '' or found.scope = $2)
		and case
			when found.window_from is not null then found.window_from < $4::date and found.window_until > $3::date
			else (found.fetched_at at time zone coalesce(mark.zone, 'UTC'))::date >= $3::date
				and (found.fetched_at at time zone coalesce(mark.zone, 'UTC'))::date < $4::date
		end
)`, dataset, scope, days.From.Time(), days.Until.Time())
}

// AllLanded are all runs of a scope that landed bodies, in the order in which they were fetched.
func (w *Warehouse) AllLanded(ctx context.Context, dataset, scope string) ([]LandedRun, error) {
	return w.landed(ctx, `where p.dataset = $1 and p.scope = $2`, dataset, scope)
}

// maxReplays bounds how often a run's landed bodies are taken up of our own accord: one may kill
// whoever reads it.
const maxReplays = 3

// Unloaded are the runs of a scope that landed answers and ended before they could load them, as when
// their process was killed, and that no replay has loaded since.
func (w *Warehouse) Unloaded(ctx context.Context, dataset, scope string) ([]LandedRun, error) {
	return w.landed(ctx, `
where r.dataset = $1 and r.scope = $2 and r.status = 'failed' and r.payload_id is null
	and not exists (select from ops.run as replay where replay.replay_of = r.run_id and replay.status in ('ok', 'partial'))
	and (select count(*) from ops.run as replay where replay.replay_of = r.run_id) < $3`, dataset, scope, maxReplays)
}

// Refusal is what an open quarantine row is about, as far as one needs to know to read it again.
type Refusal struct {
	ID             int64
	Dataset, Scope string
	// Days are those of the refused record, or of the window that was asked; for datasets of the present
	// those on which the same record may have been fetched.
	Days etl.Window
}

// Refusals are the open ones among the given quarantine rows.
func (w *Warehouse) Refusals(ctx context.Context, ids []int64) ([]Refusal, error) {
	rows, err := w.pool.Query(ctx, `
		select q.quarantine_id, q.dataset, q.scope,
			coalesce(
				case when q.window_from is not null then coalesce(q.day, q.window_from) end,
				least(q.day, (q.quarantined_at at time zone coalesce(mark.zone, 'UTC'))::date)
			),
			coalesce(
				case when q.window_from is not null then coalesce(q.day + 1, q.window_until) end,
				case when q.day is null then $2::date else greatest(q.day, (q.quarantined_at at time zone coalesce(mark.zone, 'UTC'))::date) + 2 end
			)
		from ops.quarantine as q
		left join ops.watermark as mark on mark.dataset = q.dataset and mark.scope = q.scope
		where q.quarantine_id = any ($1) and q.resolved_at is null
		order by q.quarantine_id`, ids, etl.DayOf(w.cfg.Now()).Time().AddDate(0, 0, 2))
	if err != nil {
		return nil, fmt.Errorf("refusals: %w", err)
	}
	refusals, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Refusal, err error) {
		var from, until time.Time
		err = row.Scan(&r.ID, &r.Dataset, &r.Scope, &from, &until)
		r.Days = etl.Window{From: etl.DayOf(from), Until: etl.DayOf(until)}
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("refusals: %w", err)
	}
	return refusals, nil
}

func (w *Warehouse) landed(ctx context.Context, where string, args ...any) ([]LandedRun, error) {
	rows, err := w.pool.Query(ctx, fmt.Sprintf(landedRun, where), args...)
	if err != nil {
		return nil, fmt.Errorf("landed bodies: %w", err)
	}
	runs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r LandedRun, err error) {
		var from, until *time.Time
		err = row.Scan(&r.ID, &r.Dataset, &r.Scope, &r.Account, &from, &until, &r.Payloads, &r.Bytes, &r.FetchedAt, &r.Loaded)
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

// Payload is a landed answer as it came. Its body is read from the database whenever it is opened, and
// checked against the hash at its end. Whether the vendor had anything to say is for its source to
// recognise.
func (w *Warehouse) Payload(ctx context.Context, id int64) (*etl.Answer, error) {
	b := &landedBody{w: w, id: id}
	ans := &etl.Answer{PayloadID: id, Warnings: etl.Warnings{}, Body: b}
	var from, until *time.Time
	var sum []byte
	err := w.pool.QueryRow(ctx, `
		select dataset, scope, product, window_from, window_until, method, url, status, content_type, requested_at, fetched_at,
			body_bytes, body_sha256
		from raw.payload where payload_id = $1`, id).
		Scan(&ans.Request.Dataset, &ans.Request.Scope, &ans.Request.Product, &from, &until, &ans.Method, &ans.URL, &ans.Status, &ans.ContentType,
			&ans.RequestedAt, &ans.FetchedAt, &b.size, &sum)
	if err != nil {
		return nil, fmt.Errorf("payload %d: %w", id, err)
	}
	if from != nil && until != nil {
		ans.Request.Window = etl.Window{From: etl.DayOf(*from), Until: etl.DayOf(*until)}
	}
	copy(b.sum[:], sum)
	return ans, nil
}

// stillLanded fails when a body was deleted since it was found; the scope's lock keeps a prune from
// deleting one from here on. It notes which answers were loaded by an earlier run.
func (r *run) stillLanded(ctx context.Context, tx pgx.Tx, answers []*etl.Answer) error {
	var ids []int64
	for _, ans := range answers {
		if ans.PayloadID != 0 { // an import is not landed yet
			ids = append(ids, ans.PayloadID)
		}
	}
	rows, err := tx.Query(ctx, `
		select p.payload_id, r.status in ('ok', 'partial') or exists (
				select from ops.run as replay where replay.replay_of = r.run_id and replay.status in ('ok', 'partial')
			),
			r.quarantined > 0 or exists (select from ops.run as replay where replay.replay_of = r.run_id and replay.quarantined > 0)
		from raw.payload as p
		join ops.run as r using (run_id)
		where p.payload_id = any ($1)`, ids)
	if err != nil {
		return err
	}
	r.loadedBefore, r.refusedBefore = map[int64]bool{}, map[int64]bool{}
	var id int64
	var loaded, refused bool
	if _, err := pgx.ForEachRow(rows, []any{&id, &loaded, &refused}, func() error {
		r.loadedBefore[id], r.refusedBefore[id] = loaded, refused
		return nil
	}); err != nil {
		return err
	}
	for _, id := range ids {
		if _, found := r.loadedBefore[id]; !found {
			return fmt.Errorf("payload %d was pruned meanwhile: repeat the command", id)
		}
	}
	return nil
}

// landedBody is a body as it is stored, in one zstd frame.
type landedBody struct {
	w    *Warehouse
	id   int64
	sum  [sha256.Size]byte
	size int64
}

func (b *landedBody) Zstd() (etl.Frame, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var packed []byte
	if err := b.w.pool.QueryRow(ctx, `select body_zstd from raw.payload where payload_id = $1`, b.id).Scan(&packed); err != nil {
		return nil, fmt.Errorf("payload %d: %w", b.id, err)
	}
	return etl.NewFrame(packed), nil
}

func (b *landedBody) Open() (io.ReadCloser, error) {
	packed, err := b.Zstd()
	if err != nil {
		return nil, err
	}
	unzip, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &checkedBody{Decoder: unzip, body: b, hash: sha256.New()}, nil
}

func (b *landedBody) SHA256() [sha256.Size]byte { return b.sum }
func (b *landedBody) Size() int64               { return b.size }
func (b *landedBody) Close() error              { return nil }

// checkedBody compares the hash when the end is reached, without which nothing is loaded.
type checkedBody struct {
	*zstd.Decoder
	body *landedBody
	hash hash.Hash
}

func (c *checkedBody) Read(p []byte) (int, error) {
	n, err := c.Decoder.Read(p)
	c.hash.Write(p[:n])
	switch {
	case err == io.EOF && [sha256.Size]byte(c.hash.Sum(nil)) != c.body.sum:
		return n, fmt.Errorf("payload %d does not have the hash it was landed with: want the row from a backup", c.body.id)
	case err != nil && err != io.EOF:
		return n, fmt.Errorf("payload %d cannot be unpacked: %w: want the row from a backup", c.body.id, err)
	}
	return n, err
}

func (c *checkedBody) Close() error {
	c.Decoder.Close()
	return nil
}
