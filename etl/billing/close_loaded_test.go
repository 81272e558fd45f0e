package billing

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"meterhouse/etl"
	"meterhouse/etl/warehouse"
)

// vendor is what Keystone would answer now: samples by level and day, and which days it delivers. What it
// says is loaded as a program loads it, so that versions, ledger and absences are the real ones.
type vendor struct {
	o       *office
	wh      *warehouse.Warehouse
	samples map[string]map[etl.Day][]etl.Sample
	gone    map[string]map[etl.Day]bool
}

var vendorLevels = []string{"Extreme", "Premium", "Value"}

func newVendor(o *office, r *rand.Rand, first, until etl.Day) *vendor {
	wh, err := warehouse.Open(context.Background(), warehouse.Config{URL: o.url, Owner: "test", Now: func() time.Time { return o.now }, Fixed: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(wh.Close)
	v := &vendor{o, wh, map[string]map[etl.Day][]etl.Sample{}, map[string]map[etl.Day]bool{}}
	for _, level := range vendorLevels {
		v.samples[level], v.gone[level] = map[etl.Day][]etl.Sample{}, map[etl.Day]bool{}
		for day := first; day < until; day++ {
			v.samples[level][day] = []etl.Sample{vendorSample(r, day, 0)}
		}
	}
	return v
}

func vendorSample(r *rand.Rand, day etl.Day, hour int) etl.Sample {
	tib := func(from, to int) etl.Decimal {
		return etl.MustDecimal(fmt.Sprintf("%d.%03d", from+r.IntN(to-from), r.IntN(1000)))
	}
	return etl.Sample{
		At: day.Time().Add(time.Duration(hour) * time.Hour).UnixMicro(), CommittedTiB: tib(90, 110), ConsumedTiB: tib(80, 140),
		BurstTiB: etl.NullDecimal{Decimal: tib(0, 30), Known: true}, AccruedTiB: etl.NullDecimal{Decimal: tib(0, 2), Known: true}, Invoiced: etl.True,
	}
}

// body is what an answer came as.
type body []byte

func (b body) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
func (b body) SHA256() [32]byte             { return sha256.Sum256(b) }
func (b body) Size() int64                  { return int64(len(b)) }
func (b body) Close() error                 { return nil }
func (b body) Zstd() (etl.Frame, error) {
	w, err := zstd.NewWriter(nil)
	return etl.NewFrame(w.EncodeAll(b, nil)), err
}

// load has the program load a month.
func (v *vendor) load(p Period) etl.Outcome {
	v.o.t.Helper()
	ctx := context.Background()
	w := etl.Window{From: p.First(), Until: p.Last() + 1}
	history := etl.History{Subscription: etl.Subscription{Number: "A-1"}}
	report := etl.Report{Records: 1, Warnings: etl.Warnings{}}
	for _, level := range vendorLevels {
		l := etl.LevelHistory{Level: level}
		for day := w.From; day < w.Until; day++ {
			if !v.gone[level][day] {
				l.Samples = append(l.Samples, v.samples[level][day]...)
			}
		}
		report.Received += len(l.Samples)
		history.Levels = append(history.Levels, l)
	}
	lease, err := v.wh.Lease(ctx, "keystone.history", "C-1")
	if err != nil {
		v.o.t.Fatal(err)
	}
	defer lease.Release(ctx)
	run, err := v.wh.StartRun(ctx, lease, etl.Job{Source: "keystone", Dataset: "keystone.history", Scope: "C-1", Account: "acme", Expected: month("2026-02").First(), Settle: 2 * time.Hour}, w, v.o.now)
	if err != nil {
		v.o.t.Fatal(err)
	}
	out, err := run.Load(ctx, []*etl.Answer{{
		Request: etl.Request{Dataset: "keystone.history", Scope: "C-1", Window: w}, Method: "GET", URL: "http://localhost/", Status: 200,
		RequestedAt: v.o.now, FetchedAt: v.o.now, Body: body(fmt.Sprint(v.o.now, w)),
	}}, nil, func(_ *etl.Answer, sink etl.Sink) (etl.Report, error) { return report, sink.History(history) })
	if err != nil {
		v.o.t.Fatal(err)
	}
	return out
}

// The same as TestClosedPlusAdjustmentsIsNow, with days that the loader itself wrote; and what the vendor
// changed of closed months is told, each change once.
func TestClosedPlusAdjustmentsIsNowLoaded(t *testing.T) {
	t.Parallel()
	for seed := range seedsOfCloses() {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			runLoaded(t, uint64(seed), 12)
		})
	}
}

func runLoaded(t *testing.T, seed uint64, steps int) {
	r := rand.New(rand.NewPCG(seed, 7))
	o := newOffice(t)
	o.now = at("2026-04-02T12:00:00Z")
	months := []Period{month("2026-02"), month("2026-03")}
	v := newVendor(o, r, months[0].First(), months[1].Last()+1)
	missing := months[0].First() + 6
	v.gone["Value"][missing] = true
	for _, m := range months {
		v.load(m)
	}
	o.exec(`update dw.dim_service_level set level_class = 'base'`)
	o.price("keystone/////committed 10.01 USD 2026-01-01", "keystone/////burst 3.333 USD 2026-01-01")
	told, hits, restated := map[Period]int{}, 0, 0 // changes of closed months since they were closed
	closed, gap := map[Period]bool{}, map[Period]bool{}
	for step := range steps {
		o.now = o.now.Add(time.Duration(1+r.IntN(40)) * time.Hour)
		m := months[r.IntN(2)]
		level, day := vendorLevels[r.IntN(3)], m.First()+etl.Day(r.IntN(28))
		var did string
		switch n := r.IntN(8); {
		case n < 2 && !v.gone[level][day]:
			did = fmt.Sprint("restated ", level, " ", day)
			v.samples[level][day][0] = vendorSample(r, day, 0)
			if closed[m] {
				told[m]++
			}
			restated++
		case n == 2 && !v.gone[level][day] && len(v.samples[level][day]) == 1:
			did = fmt.Sprint("late ", level, " ", day)
			v.samples[level][day] = append(v.samples[level][day], vendorSample(r, day, 12))
			if closed[m] {
				told[m]++
			}
		case n == 3 && day != missing:
			did = fmt.Sprint("gone, or back: ", level, " ", day)
			v.gone[level][day] = !v.gone[level][day]
		case n == 4 && v.gone["Value"][missing]:
			did = "a day that had been missing"
			m, v.gone["Value"][missing] = months[0], false
			if closed[m] && gap[m] {
				told[m]++
			}
		case n == 5:
			did = fmt.Sprint("decided ", level, " ", day)
			if err := o.DecideAbsence(t.Context(), Absence{"C-1", "A-1", "", level, 0, day, day, []string{"keep", "drop"}[r.IntN(2)], "test"}); err != nil {
				t.Fatal(err)
			}
		case closed[m]:
			did = "reopen " + m.String()
			o.reopen(m.String())
			delete(closed, m)
			delete(told, m)
		default:
			did = "close " + m.String()
			o.close(m.String(), "whatever stands against it")
			closed[m], gap[m], told[m] = true, v.gone["Value"][missing], 0
			if settled := o.rows(`select billing.is_settled($1)::text`, m.String()); settled[0] == "true" {
				hits++
			}
		}
		out := v.load(m)
		if out.Quarantined > 0 {
			t.Fatalf("%s: %+v", did, out)
		}
		what := fmt.Sprintf("seed %d step %d, %s", seed, step, did)
		o.whole(what)
		for m, want := range told {
			if got := o.rows(`select coalesce(sum(changes), 0)::text from billing.closed_day_changed('-infinity') where period = $1`, m.String()); got[0] != fmt.Sprint(want) {
				t.Errorf("%s: %s changes of %s are told, want %d", what, got[0], m, want)
			}
		}
		if t.Failed() {
			return
		}
	}
	if seed == 0 && (hits == 0 || restated == 0) {
		t.Errorf("%d months were settled by their close and %d days restated: want some of both", hits, restated)
	}
	o.want(`select count(*)::text from dw.restatement where kind = 'restated' and not was_invoiced`, "0") // the flag of the loader's ledger
}
