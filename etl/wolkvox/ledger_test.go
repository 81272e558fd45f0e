package wolkvox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

func TestMain(m *testing.M) { warehousetest.Main(m) }

// bench is a fake vendor and a database that several processes share, all on one clock that moves only
// when somebody waits, and a second with every request.
type bench struct {
	*wolkvoxsim.Sim
	t         testing.TB
	database  string
	url       string
	processes int

	mu  sync.Mutex
	now time.Time
}

func newBench(t testing.TB, now string, cfg wolkvoxsim.Config) *bench {
	t.Helper()
	b := &bench{t: t, database: warehousetest.New(t), now: moment(t, now)}
	cfg.Seed, cfg.Operation, cfg.Token = 7, "acme_ops", secret
	cfg.Now = func() time.Time { return b.pass(time.Second) }
	b.Sim = wolkvoxsim.New(cfg)
	server := httptest.NewServer(b.Sim)
	t.Cleanup(server.Close)
	b.url = server.URL
	return b
}

func (b *bench) pass(d time.Duration) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
	return b.now
}

func (b *bench) clock() time.Time { return b.pass(0) }

func (b *bench) set(at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = at
}

// process opens the database as one more process would, and makes an account in it.
func (b *bench) process(change func(*Config)) *Account {
	b.t.Helper()
	b.processes++
	w, err := warehouse.Open(context.Background(), warehouse.Config{
		URL: b.database, Owner: fmt.Sprint("process ", b.processes), Now: b.clock, Log: slog.New(slog.DiscardHandler), MaxConns: 4,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(w.Close)
	return account(b.t, func(cfg *Config) {
		cfg.Server, cfg.BaseURL, cfg.Timeout = "", b.url, time.Minute
		cfg.Ledger, cfg.Now, cfg.RealNow = w.Calls(b.clock), b.clock, b.clock
		cfg.Sleep = func(ctx context.Context, d time.Duration) error {
			if d < time.Second { // for somebody else's turn, which passes in real time
				time.Sleep(time.Millisecond)
			} else {
				b.pass(d)
			}
			return ctx.Err()
		}
		if change != nil {
			change(cfg)
		}
	})
}

// read asks for products as a run does, and closes the answers. It tells how many came.
func read(ctx context.Context, a *Account, products ...string) (good int, err error) {
	for _, product := range products {
		var ans *etl.Answer
		ans, err = a.Extract(ctx, ask(product))
		if ans != nil {
			ans.Body.Close()
		}
		var held *etl.HeldError
		switch {
		case err == nil:
			good++
		case ctx.Err() != nil, errors.As(err, &held), errors.Is(err, etl.ErrUnauthorized), errors.Is(err, etl.ErrThrottled):
			return good, err
		}
	}
	return good, err
}

// slot is a job of the scheduler: what may be asked is asked.
func slot(ctx context.Context, a *Account, products ...string) (good int, err error) {
	now, err := a.Allowed(ctx, products, false)
	if err != nil {
		return 0, err
	}
	return read(ctx, a, now...)
}

// obeyed is I10: never two at once, no product sooner than the spacing, never more than the quota in 24 hours.
func (b *bench) obeyed(quota int) {
	b.t.Helper()
	if most := b.MaxConcurrent(); most > 1 {
		b.t.Errorf("%d requests at once", most)
	}
	requests := b.Requests()
	last := map[string]time.Time{}
	first := 0
	for i, r := range requests {
		if before, asked := last[r.API]; asked && r.Start.Sub(before) < 5*time.Minute {
			b.t.Errorf("%s at %s and at %s", r.API, before, r.Start)
		}
		last[r.API] = r.Start
		for !requests[first].Start.After(r.Start.Add(-24 * time.Hour)) {
			first++
		}
		if quota > 0 && i-first+1 > quota {
			b.t.Errorf("%d requests in the 24 hours to %s", i-first+1, r.Start)
		}
		if y, m, d := r.Start.Add(-time.Hour).In(zone(b.t, "America/Bogota")).Date(); r.API != tokenInfo {
			end := time.Date(y, m, d+1, 0, 0, 0, 0, zone(b.t, "America/Bogota"))
			if end.In(zone(b.t, "America/Bogota")).Day() == 1 && r.Start.After(end.Add(-10*time.Minute)) && r.Start.Before(end.Add(10*time.Minute)) {
				b.t.Errorf("%s asked at %s, while the month ends", r.API, r.Start)
			}
		}
	}
}

func (b *bench) calls(api string) (n int) {
	for _, r := range b.Requests() {
		if api == "" || r.API == api {
			n++
		}
	}
	return n
}

func wantHeld(t testing.TB, err error, until time.Time, class error, words string) {
	t.Helper()
	var held *etl.HeldError
	switch {
	case !errors.As(err, &held):
		t.Errorf("got %v, want it held until %s", err, until)
	case held.Until.Sub(until).Abs() > 5*time.Second || !errors.Is(held, class) && class != nil || held.Class != class || !strings.Contains(err.Error(), words):
		t.Errorf("got %v (%v), want until %s, %v, %q", err, held.Class, until, class, words)
	}
}

const may15 = "2026-05-15T12:00:00Z"

func TestSpacing(t *testing.T) {
	b := newBench(t, may15, wolkvoxsim.Config{})
	one, two := b.process(nil), b.process(nil)
	start := b.clock()
	if n, err := slot(t.Context(), one, "vision", "amazon_s3"); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	// Another product may follow at once, in another process too; the same one waits.
	if n, err := slot(t.Context(), two, "vision", "rsync"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	_, err := slot(t.Context(), two, "vision", "amazon_s3")
	wantHeld(t, err, start.Add(5*time.Minute), nil, "wolkvox.billing callcenter: not asked before 2026-05-15T12:05:02Z: read ")
	if !strings.HasSuffix(err.Error(), " ago, the vendor allows one reading per product every 5 minutes") {
		t.Error(err)
	}
	// Even for a person, and for who does not ask first.
	if _, err := two.Allowed(t.Context(), []string{"vision"}, true); err == nil {
		t.Error("allowed by force")
	}
	_, err = read(t.Context(), two, "vision")
	wantHeld(t, err, start.Add(5*time.Minute), nil, "vision was read")
	// A few seconds are waited for.
	b.set(start.Add(4*time.Minute + 45*time.Second))
	if n, err := slot(t.Context(), two, "vision"); n != 1 || err != nil {
		t.Error(n, err)
	}
	if n := b.calls("vision"); n != 2 {
		t.Errorf("%d calls", n)
	}
	b.obeyed(0)
}

// Two accounts and three processes ask with one token as fast as they can.
func TestOneAtATimeOverAllProcesses(t *testing.T) {
	b := newBench(t, may15, wolkvoxsim.Config{})
	b.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Slow, Delay: 3 * time.Millisecond})
	var all sync.WaitGroup
	var mu sync.Mutex
	good := 0
	for i := range 3 {
		a := b.process(func(cfg *Config) { cfg.Account = []string{"callcenter", "twin"}[i%2] })
		all.Go(func() {
			for j := range 9 {
				n, err := read(t.Context(), a, Catalogue()[j*3+i].Code)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				good += n
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if n := b.calls(""); good != 27 || n != 28 || b.calls(tokenInfo) != 1 {
		t.Errorf("%d good of %d calls, %d for the quota", good, n, b.calls(tokenInfo))
	}
	b.obeyed(0)
}

// V03: how often each kind of refusal is met before it stops, over two processes.
func TestFourRefusals(t *testing.T) {
	for _, c := range []struct {
		kind  wolkvoxsim.Kind
		calls int // within the first two hours, with slots every 5 minutes
		class error
	}{
		{wolkvoxsim.TokenLimit, 1, etl.ErrThrottled},
		{wolkvoxsim.BadToken, 1, etl.ErrUnauthorized},
		{wolkvoxsim.Maintenance, 4, etl.ErrUnavailable},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			b := newBench(t, may15, wolkvoxsim.Config{})
			b.Inject(wolkvoxsim.Fault{Kind: c.kind})
			processes := []*Account{b.process(nil), b.process(nil)}
			start := b.clock()
			for i := range 24 {
				b.set(start.Add(time.Duration(i) * 5 * time.Minute))
				if n, err := slot(t.Context(), processes[i%2], "vision", "amazon_s3", "rsync"); n > 0 || !errors.Is(err, c.class) {
					t.Errorf("%d good, %v", n, err)
				}
			}
			if n := b.calls(""); n != c.calls {
				t.Errorf("%d calls, want %d: %v", n, c.calls, b.Requests())
			}
			b.ClearFaults()
			switch c.kind {
			case wolkvoxsim.TokenLimit: // the next local day
				b.set(moment(t, "2026-05-16T00:00:01-05:00"))
			case wolkvoxsim.Maintenance: // the next hour
				b.set(start.Add(2*time.Hour + 45*time.Minute))
			case wolkvoxsim.BadToken: // a person, or another token
				other := b.process(func(cfg *Config) { cfg.Token = secret + "x" })
				if now, err := other.Allowed(t.Context(), []string{"vision"}, false); len(now) != 1 || err != nil {
					t.Errorf("another token: %v, %v", now, err)
				}
				now, err := processes[1].Allowed(t.Context(), []string{"vision"}, true)
				if n, readErr := read(t.Context(), processes[1], now...); n != 1 || err != nil || readErr != nil {
					t.Errorf("by force: %d, %v, %v", n, err, readErr)
				}
			}
			if n, err := slot(t.Context(), processes[0], "rsync"); n != 1 || err != nil {
				t.Errorf("afterwards: %d, %v", n, err)
			}
			b.obeyed(0)
		})
	}
	t.Run("concurrency", func(t *testing.T) {
		b := newBench(t, may15, wolkvoxsim.Config{})
		b.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Concurrency, Count: 1})
		a := b.process(nil)
		ans, err := a.Extract(t.Context(), ask("vision"))
		if err != nil || ans.Warnings["concurrency"].Count != 1 || b.calls("vision") != 2 {
			t.Fatalf("%+v, %v, %d calls", ans, err, b.calls("vision"))
		}
		ans.Body.Close()
		b.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Concurrency, API: "rsync"})
		if n, err := read(t.Context(), a, "rsync", "amazon_s3"); n != 0 || reasonOf(err) != "concurrency" || b.calls("rsync") != 2 || b.calls("amazon_s3") != 0 {
			t.Errorf("%d, %v, %v", n, err, b.Requests())
		}
		b.obeyed(0)
	})
	t.Run("retry after", func(t *testing.T) { // V04
		b := newBench(t, may15, wolkvoxsim.Config{})
		b.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Reply, Status: 503, Count: 1, Header: map[string][]string{"Retry-After": {"7200"}}})
		a := b.process(nil)
		start := b.clock()
		for i := range 25 {
			b.set(start.Add(time.Duration(i) * 5 * time.Minute))
			if n, err := slot(t.Context(), a, "vision"); (n == 1) != (i == 24) {
				t.Errorf("after %d min: %d, %v", i*5, n, err)
			}
		}
		b.obeyed(0)
	})
	t.Run("a failure that may pass is not repeated within the spacing", func(t *testing.T) { // V05
		b := newBench(t, may15, wolkvoxsim.Config{})
		b.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Reply, Status: 503, Count: 1})
		if n, err := read(t.Context(), b.process(nil), "vision", "rsync"); n != 1 || err != nil || b.calls("vision") != 1 {
			t.Errorf("%d, %v, %d calls", n, err, b.calls("vision"))
		}
		b.obeyed(0)
	})
	t.Run("what never left is repeated and counts for nothing", func(t *testing.T) {
		b := newBench(t, may15, wolkvoxsim.Config{})
		a := b.process(func(cfg *Config) { cfg.BaseURL = "http://127.0.0.1:1" })
		if _, err := read(t.Context(), a, "vision"); !errors.Is(err, etl.ErrUnavailable) {
			t.Error(err)
		}
		if n, err := read(t.Context(), b.process(nil), "vision"); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		log, err := a.cfg.Ledger.Log(t.Context(), a.credential)
		if err != nil || len(log.Day) != 1 || len(log.Recent) != 1 {
			t.Errorf("%+v, %v", log, err)
		}
	})
}

// A process dies between the reservation and the end: nobody asks until the call must be over.
func TestCrashBetweenReserveAndEnd(t *testing.T) {
	b := newBench(t, may15, wolkvoxsim.Config{})
	dead, alive := b.process(nil), b.process(nil)
	start := b.clock()
	r, err := dead.reserve(t.Context(), "vision", func(log etl.CallLog) error { return dead.mayAsk(log, "vision") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := read(ctx, alive, "rsync"); !errors.Is(err, context.DeadlineExceeded) || b.calls("") != 0 {
		t.Errorf("%v, %d calls", err, b.calls(""))
	}
	b.set(start.Add(2 * time.Minute))
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if n, err := read(ctx, alive, "rsync"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	// It was spent: the product waits, and the day's calls count it.
	_, err = read(t.Context(), alive, "vision")
	wantHeld(t, err, start.Add(7*time.Minute), nil, "vision was read")
	log, err := alive.cfg.Ledger.Log(t.Context(), alive.credential)
	if err != nil || len(log.Day) != 2 || log.Recent[1].Outcome != etl.CallLost {
		t.Errorf("%+v, %v", log, err)
	}
	// The dead one wakes up: what it says comes too late, and it would not have sent anything.
	dead.end(t.Context(), r, etl.CallOK, 0)
	if log, _ := alive.cfg.Ledger.Log(t.Context(), alive.credential); log.Recent[1].Outcome != etl.CallLost {
		t.Errorf("%+v", log.Recent[1])
	}
}

// A process that stood still after its reservation sends nothing any more.
func TestStalledCallIsNotSent(t *testing.T) {
	b := newBench(t, may15, wolkvoxsim.Config{})
	a := b.process(nil)
	begun := time.Now()
	r, err := a.reserve(t.Context(), "vision", func(etl.CallLog) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if until, ends := r.ctx.Deadline(); !ends || until.Sub(begun) > 2*time.Minute+time.Second || time.Until(until) > 2*time.Minute {
		t.Errorf("may be sent until %s", until)
	}
	var cancel context.CancelFunc
	r.ctx, cancel = context.WithTimeoutCause(t.Context(), 0, errStalled) // as it ends
	defer cancel()
	if _, err := a.ask(t.Context(), r, ask("vision"), "billing.php", "vision"); reasonOf(err) != "stalled" || b.calls("") != 0 {
		t.Errorf("%v, %d calls", err, b.calls(""))
	}
}

func TestQuietTime(t *testing.T) {
	b := newBench(t, "2026-05-31T23:49:00-05:00", wolkvoxsim.Config{})
	a := b.process(nil)
	if n, err := slot(t.Context(), a, "vision"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	for _, at := range []string{"2026-05-31T23:50:00-05:00", "2026-06-01T00:00:00-05:00", "2026-06-01T00:09:00-05:00"} {
		b.set(moment(t, at))
		_, err := a.Allowed(t.Context(), []string{"rsync"}, true)
		wantHeld(t, err, moment(t, "2026-06-01T00:10:00-05:00"), nil, "the month ends")
		_, err = read(t.Context(), b.process(func(cfg *Config) { cfg.Ledger = nil }), "rsync")
		wantHeld(t, err, moment(t, "2026-06-01T00:10:00-05:00"), nil, "the month ends")
	}
	b.set(moment(t, "2026-06-01T00:09:59-05:00")) // the last seconds are waited for
	if n, err := read(t.Context(), a, "rsync"); n != 1 || err != nil {
		t.Error(n, err)
	}
	b.obeyed(0)
}

// The last seconds of the quiet time are waited for by the clock that it is told by, whatever the ledger's says, and
// not at all where that clock stands still.
func TestQuietTimeByItsOwnClock(t *testing.T) {
	end := moment(t, "2026-06-01T00:10:00-05:00")
	last := end.Add(-15 * time.Second)
	for name, c := range map[string]struct {
		ledger   time.Time
		isFixed  bool
		isWaited bool
	}{
		"a business clock of long ago that stands still": {end.AddDate(0, 5, 20), true, false},
		"a business clock of days to come that does":     {end.AddDate(0, -5, -20), true, false},
		"this machine behind the database":               {last.Add(50 * time.Second), false, true},
		"this machine ahead of the database":             {last.Add(-50 * time.Second), false, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, c.ledger.Format(time.RFC3339), wolkvoxsim.Config{})
			behind := c.ledger.Sub(last)
			var waits []time.Duration
			a := b.process(func(cfg *Config) {
				cfg.Now = func() time.Time { return b.clock().Add(-behind) }
				if cfg.RealNow = cfg.Now; c.isFixed {
					cfg.Now, cfg.RealNow = func() time.Time { return last }, b.clock
				}
				cfg.Sleep = func(_ context.Context, d time.Duration) error {
					b.pass(d)
					if waits = append(waits, d); len(waits) > 3 {
						return errors.New("asks the ledger again and again")
					}
					return nil
				}
			})
			n, err := slot(t.Context(), a, "vision")
			if want := []time.Duration{15 * time.Second}; !slices.Equal(waits, want) {
				t.Errorf("waited %v, want %v", waits, want)
			}
			if c.isWaited && (n != 1 || err != nil) {
				t.Errorf("%d readings, %v: want one", n, err)
			}
			if !c.isWaited {
				wantHeld(t, err, end, nil, "the month ends")
			}
		})
	}
}

func TestClocksThatDiffer(t *testing.T) {
	b := newBench(t, may15, wolkvoxsim.Config{})
	for _, skew := range []time.Duration{61 * time.Second, -61 * time.Second, 48 * time.Hour} {
		a := b.process(func(cfg *Config) { cfg.RealNow = func() time.Time { return b.clock().Add(skew) } })
		if _, err := slot(t.Context(), a, "vision"); err == nil || !strings.Contains(err.Error(), "set both, such as with NTP") {
			t.Error(err)
		}
		if _, err := read(t.Context(), a, "vision"); err == nil || !strings.Contains(err.Error(), "the clock here and the database's differ by "+skew.Abs().String()) {
			t.Error(err)
		}
	}
	if n := b.calls(""); n != 0 {
		t.Errorf("%d calls", n)
	}
	near := b.process(func(cfg *Config) { cfg.RealNow = func() time.Time { return b.clock().Add(59 * time.Second) } })
	if n, err := slot(t.Context(), near, "vision"); n != 1 || err != nil {
		t.Error(n, err)
	}
}

// D07: what cannot be written down is not asked.
func TestReadOnlyDatabase(t *testing.T) {
	b := newBench(t, may15, wolkvoxsim.Config{})
	a := b.process(nil)
	admin := warehousetest.Connect(t, b.database)
	for _, sql := range []string{
		`do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$`,
		`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`,
	} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 { // until the pool has noticed
		if _, err := a.cfg.Ledger.Log(t.Context(), a.credential); err == nil {
			break
		}
	}
	if _, err := read(t.Context(), a, "vision", "rsync"); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Error(err)
	}
	if _, err := a.TokenInfo(t.Context()); err == nil {
		t.Error("asked for the quota")
	}
	if n := b.calls(""); n != 0 {
		t.Errorf("%d calls", n)
	}
}

// The vendor's numbers are asked for once a day, and kept to.
func TestQuotaIsKept(t *testing.T) {
	const quota = 40
	b := newBench(t, may15, wolkvoxsim.Config{Quota: quota})
	a := b.process(nil)
	start := b.clock()
	held := 0
	for i := range 4 * 24 * 2 { // two days, every half hour four products: 192 a day
		b.set(start.Add(time.Duration(i) * 30 * time.Minute))
		var stop *etl.HeldError
		n, err := slot(t.Context(), a, "vision", "rsync", "amazon_s3", "pbx_licenses")
		switch {
		case errors.As(err, &stop) && errors.Is(err, etl.ErrThrottled):
			held++
			if n != 0 || !stop.Until.After(b.clock()) {
				t.Errorf("%d, %v", n, err)
			}
		case err != nil || n != 4:
			t.Errorf("%d, %v", n, err)
		}
	}
	for _, r := range b.Requests() {
		if r.Status != 200 {
			t.Errorf("%s: status %d at %s", r.API, r.Status, r.Start)
		}
	}
	if n := b.calls(tokenInfo); held == 0 || n < 3 || n > 5 {
		t.Errorf("held %d times, asked for the quota %d times", held, n)
	}
	b.obeyed(quota)
}

// What others used of the quota is not ours to use.
func TestQuotaSharedWithOthers(t *testing.T) {
	b := newBench(t, may15, wolkvoxsim.Config{Quota: 40})
	b.Spend(30)
	a := b.process(nil)
	if n, err := read(t.Context(), a, "vision", "rsync"); n != 2 || err != nil { // the second one asked for the quota
		t.Fatal(n, err)
	}
	log, err := a.cfg.Ledger.Log(t.Context(), a.credential)
	want := etl.Quota{Limit: 40, UsedByToken: 2, UsedByAll: 32, Left: 8, Elsewhere: 30}
	if want.ToldAt = log.Quota.ToldAt; err != nil || log.Quota != want || want.ToldAt.IsZero() {
		t.Errorf("%+v, %v", log.Quota, err)
	}
	b.pass(10 * time.Minute)
	if n, err := slot(t.Context(), a, "vision", "rsync", "amazon_s3", "pbx_licenses"); n != 4 || err != nil {
		t.Error(n, err)
	}
	b.pass(10 * time.Minute)
	if _, err := slot(t.Context(), a, "vision", "rsync", "amazon_s3", "pbx_licenses"); !errors.Is(err, etl.ErrThrottled) {
		t.Error(err)
	}
	b.obeyed(10)
}

// A vendor that tells no numbers: its refusal decides, and it is not asked for them all day.
func TestNoNumbers(t *testing.T) {
	for _, body := range []string{`{"code":200,"data":[{"description":"x"}]}`, `{"code":400,"error":"BAD REQUEST","msg":"THE API YOU WANT TO CONSULT DOES NOT EXIST"}`, "<html>"} {
		b := newBench(t, may15, wolkvoxsim.Config{})
		b.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Reply, API: tokenInfo, Body: []byte(body)})
		a := b.process(nil)
		for range 6 {
			if n, err := slot(t.Context(), a, "vision", "rsync"); n != 2 || err != nil {
				t.Errorf("%s: %d, %v", body, n, err)
			}
			b.pass(30 * time.Minute)
		}
		if n := b.calls(tokenInfo); n != 1 {
			t.Errorf("%s: asked %d times", body, n)
		}
		b.obeyed(0)
	}
}

// check asks for the quota unless it was told in the last hours.
func TestTokenInfoIsRemembered(t *testing.T) {
	b := newBench(t, may15, wolkvoxsim.Config{})
	one, two := b.process(nil), b.process(nil)
	first, err := one.TokenInfo(t.Context())
	if err != nil || first.Age != 0 || first.Limit != 25000 {
		t.Fatalf("%+v, %v", first, err)
	}
	b.pass(5 * time.Hour)
	again, err := two.TokenInfo(t.Context())
	if err != nil || again.Age < 5*time.Hour || again.Left != first.Left || b.calls("") != 1 {
		t.Errorf("%+v, %v, %d calls", again, err, b.calls(""))
	}
	b.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.BadToken, Count: 1})
	if _, err := read(t.Context(), one, "vision"); !errors.Is(err, etl.ErrUnauthorized) {
		t.Error(err)
	}
	if fresh, err := two.TokenInfo(t.Context()); err != nil || fresh.Age != 0 || b.calls(tokenInfo) != 2 { // a person wants to know
		t.Errorf("%+v, %v", fresh, err)
	}
	if n, err := slot(t.Context(), one, "rsync"); n != 1 || err != nil { // the token was accepted since
		t.Error(n, err)
	}
	b.obeyed(0)
}

// G06: a year of two processes that race for every slot, with crashes, failures, backup windows that
// last up to days, and days on which others use up the quota.
func TestYear(t *testing.T) {
	if testing.Short() {
		t.Skip("a year takes a while")
	}
	const quota = 30 // 3 products every 6 hours and the extra readings fit, not much more
	begun := time.Now()
	bogota := zone(t, "America/Bogota")
	start := time.Date(2026, 1, 1, 0, 10, 0, 0, bogota)
	end := start.AddDate(1, 0, 1)
	b := newBench(t, start.Format(time.RFC3339), wolkvoxsim.Config{Quota: quota})
	processes := []*Account{b.process(nil), b.process(nil)}
	products := []string{"ivr_minutes", "chat_licenses", "rec_screen"}
	dice := rand.New(rand.NewPCG(7, 7))

	// When the vendor is in its backup window, or others have used up the quota.
	type span struct{ from, until time.Time }
	var down []span
	lost := map[time.Month]bool{time.August: true}
	for m := time.January; m <= time.December; m++ {
		turn := time.Date(2026, m+1, 1, 0, 0, 0, 0, bogota)
		for range 3 { // anywhere in the month
			from := turn.Add(-time.Duration(dice.IntN(30*24*60)) * time.Minute)
			down = append(down, span{from, from.Add(time.Duration(1+dice.IntN(12)) * time.Hour)})
		}
		switch {
		case lost[m]:
			down = append(down, span{turn.Add(-73 * time.Hour), turn.Add(2 * time.Hour)})
		case m%3 == 0: // up again for the last of the closing readings only
			down = append(down, span{turn.Add(-60 * time.Hour), turn.Add(-20 * time.Minute)})
		case m%3 == 1: // goes down for the rest of the month
			down = append(down, span{turn.Add(-time.Duration(2+dice.IntN(60)) * time.Hour), turn.Add(time.Hour)})
		}
	}
	isDown := func(at time.Time) bool {
		return slices.ContainsFunc(down, func(s span) bool { return !at.Before(s.from) && at.Before(s.until) })
	}
	spent := map[string]bool{}
	for range 20 {
		spent[start.AddDate(0, 0, dice.IntN(365)).Format(time.DateOnly)] = true
	}

	schedule := Timetable(every(6*time.Hour), bogota)
	next := [2]time.Time{schedule.Next(start), schedule.Next(start)}
	slots, crashes, faults, snoozes := 0, 0, 0, 0
	spentOn := ""
	for {
		at := next[0]
		if next[1].Before(at) {
			at = next[1]
		}
		if !at.Before(end) {
			break
		}
		if now := b.clock(); now.Before(at) {
			b.set(at)
		} else {
			at = now
		}
		local := at.In(bogota)
		b.ClearFaults()
		if date := local.Format(time.DateOnly); spent[date] && date != spentOn && local.Hour() >= 9 {
			spentOn = date
			b.Spend(quota)
		}
		turn := time.Date(local.Year(), local.Month()+1, 1, 0, 0, 0, 0, bogota)
		switch roll := dice.IntN(40); {
		case isDown(at):
			b.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Maintenance})
		case turn.Sub(local) < 20*time.Minute: // in some months the only closing slot: who is refused there twice has lost the month
		case roll < 3:
			faults++
			b.Inject(wolkvoxsim.Fault{Kind: []wolkvoxsim.Kind{wolkvoxsim.Concurrency, wolkvoxsim.Truncate, wolkvoxsim.Close}[roll], Count: 1 + dice.IntN(2)})
		case roll == 3:
			faults++
			b.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Reply, Status: 503, Count: 1 + dice.IntN(3)})
		case roll == 4 && local.Day() < 28: // dies with a call reserved
			crashes++
			a := processes[dice.IntN(2)]
			_, _ = a.reserve(t.Context(), products[0], func(log etl.CallLog) error { return a.mayAsk(log, products[0]) })
			b.pass(3 * time.Minute)
		}
		var all sync.WaitGroup
		for i, a := range processes {
			if next[i].After(at) {
				continue
			}
			slots++
			next[i] = schedule.Next(b.clock())
			all.Go(func() {
				_, err := slot(t.Context(), a, products...)
				var held *etl.HeldError
				if errors.As(err, &held) && held.Until.After(at) && held.Until.Before(next[i]) { // the job is put off
					next[i] = held.Until
				}
			})
		}
		all.Wait()
		for i := range next {
			if !next[i].After(b.clock()) {
				next[i] = schedule.Next(b.clock())
			}
		}
	}
	b.obeyed(quota)

	requests := b.Requests()
	for m := time.January; m <= time.December; m++ {
		turn := time.Date(2026, m+1, 1, 0, 0, 0, 0, bogota)
		good, closed := 0, 0
		up := false // at one of the closing readings
		for _, r := range requests {
			if r.Status == 200 && r.API != tokenInfo && r.Start.Before(turn) {
				if !isDown(r.Start) && r.Start.After(turn.Add(-72*time.Hour)) {
					good++
				}
				if !r.Start.Before(turn.Add(-55 * time.Minute)) {
					closed++
				}
			}
		}
		for _, d := range closing {
			up = up || !isDown(turn.Add(d))
		}
		used := spent[turn.Add(-time.Hour).Format(time.DateOnly)]
		if (good > 0) == lost[m] || up && !used && closed == 0 {
			t.Errorf("%s: %d good readings in the last 72 hours, %d closing ones; the vendor was up for them: %v", m, good, closed, up)
		}
		t.Logf("%-9s %3d good in 72 h, %2d closing, up for them %v, quota used by others %v", m, good, closed, up, used)
	}
	if crashes == 0 || faults == 0 {
		t.Error("nothing went wrong")
	}
	for _, r := range requests {
		if r.Status == 403 && r.Cost == 1 {
			snoozes++
		}
	}
	t.Logf("%d slots, %d crashes, %d faults, %d requests, %d of them refused, in %s", slots, crashes, faults, len(requests), snoozes, time.Since(begun).Round(time.Second))
}
