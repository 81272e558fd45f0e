package warehouse

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"

	"meterhouse/etl"
	"meterhouse/etl/warehouse/warehousetest"
)

func TestMain(m *testing.M) { warehousetest.Main(m) }

// house is a warehouse on a database of the test's own, with a business clock to move.
type house struct {
	*Warehouse
	t   testing.TB
	url string
	now time.Time

	content  []byte       // of the next answers, as their source would tell it
	warnings etl.Warnings // of the exchanges of the next answers
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{t: t, url: warehousetest.New(t), now: at("2026-05-15T12:00:00Z")}
	w, err := Open(context.Background(), Config{URL: h.url, Owner: "test", Now: func() time.Time { return h.now }, Fixed: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	h.Warehouse = w
	return h
}

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

func day(s string) etl.Day {
	d, err := etl.ParseDay(s)
	if err != nil {
		panic(err)
	}
	return d
}

func window(from, until string) etl.Window { return etl.Window{From: day(from), Until: day(until)} }

func ptr[T any](v T) *T { return &v }

var encoder = sync.OnceValues(func() (*zstd.Encoder, error) { return zstd.NewWriter(nil) })

// memory is a body of a test.
type memory []byte

func (m memory) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(m)), nil }
func (m memory) Zstd() (etl.Frame, error) {
	w, err := encoder()
	return etl.NewFrame(w.EncodeAll(m, nil)), err
}
func (m memory) SHA256() [32]byte { return sha256.Sum256(m) }
func (m memory) Size() int64      { return int64(len(m)) }
func (m memory) Close() error     { return nil }

// load runs one answer at the house's clock through lease, run and load. feed plays the transform.
func (h *house) load(job etl.Job, w etl.Window, feed func(etl.Sink) (etl.Report, error)) (etl.Outcome, error) {
	h.t.Helper()
	out, _, err := h.read(job, w, 0, feed)
	return out, err
}

// read is load of an answer that is landed as payload already, unless that is 0. It tells as what
// the answer is landed in the end.
func (h *house) read(job etl.Job, w etl.Window, payload int64, feed func(etl.Sink) (etl.Report, error)) (etl.Outcome, int64, error) {
	h.t.Helper()
	ctx := context.Background()
	if job.Source == "" {
		job.Source, _, _ = strings.Cut(job.Dataset, ".")
	}
	if job.Account == "" {
		job.Account = "acme"
	}
	lease, err := h.Lease(ctx, job.Dataset, job.Scope)
	if err != nil {
		return etl.Outcome{}, 0, err
	}
	defer lease.Release(ctx)
	run, err := h.StartRun(ctx, lease, job, w, h.now)
	if err != nil {
		h.t.Fatal(err)
	}
	ans := &etl.Answer{
		Request: etl.Request{Dataset: job.Dataset, Scope: job.Scope, Window: w}, Method: "GET", URL: "http://localhost/", Status: 200,
		RequestedAt: h.now, FetchedAt: h.now, Body: memory(fmt.Sprintf("body at %s", h.now)), PayloadID: payload, Content: h.content, Warnings: h.warnings,
	}
	if len(job.Products) > 0 {
		ans.Request.Product = job.Products[0]
	}
	if job.Snapshot {
		if err := run.Land(ctx, ans); err != nil {
			h.t.Fatal(err)
		}
	}
	out, err := run.Load(ctx, []*etl.Answer{ans}, nil, func(_ *etl.Answer, sink etl.Sink) (etl.Report, error) { return feed(sink) })
	return out, ans.PayloadID, err
}

// rebuild reads landed answers again, in their order.
func (h *house) rebuild(job etl.Job, w etl.Window, payloads []int64, feed func(payload int64, sink etl.Sink) (etl.Report, error)) (etl.Outcome, error) {
	h.t.Helper()
	ctx := context.Background()
	job.Source, job.Account, job.Aside, job.Rebuild = "keystone", "acme", true, true
	var answers []*etl.Answer
	for _, id := range payloads {
		ans, err := h.Payload(ctx, id)
		if err != nil {
			h.t.Fatal(err)
		}
		answers = append(answers, ans)
	}
	lease, err := h.Lease(ctx, job.Dataset, job.Scope)
	if err != nil {
		return etl.Outcome{}, err
	}
	defer lease.Release(ctx)
	run, err := h.StartRun(ctx, lease, job, w, h.now)
	if err != nil {
		h.t.Fatal(err)
	}
	return run.Load(ctx, answers, nil, func(ans *etl.Answer, sink etl.Sink) (etl.Report, error) { return feed(ans.PayloadID, sink) })
}

// history loads levels of one subscription for the customer C-1.
func (h *house) history(w etl.Window, levels ...etl.LevelHistory) (etl.Outcome, error) {
	h.t.Helper()
	return h.load(etl.Job{Dataset: "keystone.history", Scope: "C-1", Expected: day("2026-01-01"), Settle: 2 * time.Hour}, w,
		func(sink etl.Sink) (etl.Report, error) {
			report := etl.Report{Records: 1, Warnings: etl.Warnings{}}
			for _, l := range levels {
				report.Received += len(l.Samples)
			}
			return report, sink.History(etl.History{Subscription: subscription1(), Levels: levels})
		})
}

func subscription1() etl.Subscription {
	return etl.Subscription{Number: "A-S1", AccountName: ptr("ACME"), Start: ptr(at("2025-01-01T00:00:00Z")), End: ptr(at("2027-12-31T23:59:59Z"))}
}

func (h *house) mustHistory(w etl.Window, levels ...etl.LevelHistory) etl.Outcome {
	h.t.Helper()
	out, err := h.history(w, levels...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// sample is committed 100 and the given consumption, with burst and increment to match.
func sample(when, consumed string) etl.Sample {
	c := etl.MustDecimal(consumed)
	burst := c.Sub(etl.NewDecimal(100))
	if burst.Sign() < 0 {
		burst = etl.Decimal{}
	}
	return etl.Sample{
		At: at(when).UnixMicro(), CommittedTiB: etl.NewDecimal(100), ConsumedTiB: c,
		BurstTiB:   etl.NullDecimal{Decimal: burst, Known: true},
		AccruedTiB: etl.NullDecimal{Decimal: burst.Quo(31, 9), Known: true},
		Invoiced:   etl.False,
	}
}

func extreme(samples ...etl.Sample) etl.LevelHistory {
	return etl.LevelHistory{Level: "Extreme", Samples: samples}
}

// rows is a query's result as lines of text, cells parted by a bar.
func (h *house) rows(sql string, args ...any) []string {
	h.t.Helper()
	t, err := h.Query(context.Background(), sql, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	lines := make([]string, len(t.Rows))
	for i, r := range t.Rows {
		lines[i] = strings.Join(r, "|")
	}
	return lines
}

func (h *house) want(sql string, want ...string) {
	h.t.Helper()
	got := h.rows(sql)
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		h.t.Errorf("%s\n got %q\nwant %q", sql, got, want)
	}
}

func (h *house) exec(sql string, args ...any) {
	h.t.Helper()
	conn, err := pgx.Connect(context.Background(), h.url)
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), sql, args...); err != nil {
		h.t.Fatal(err)
	}
}

func counts(o etl.Outcome) string {
	return fmt.Sprintf("received %d inserted %d restated %d unchanged %d ignored %d quarantined %d absent %d",
		o.Received, o.Inserted, o.Restated, o.Unchanged, o.Ignored, o.Quarantined, o.Absent)
}

func wantCounts(t testing.TB, got etl.Outcome, want string) {
	t.Helper()
	if counts(got) != want {
		t.Errorf("counts\n got %s\nwant %s", counts(got), want)
	}
}
