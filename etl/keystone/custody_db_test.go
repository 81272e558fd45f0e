package keystone

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
	"meterhouse/etl/internal/fetch"
	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/warehouse/warehousetest"
)

func TestMain(m *testing.M) { warehousetest.Main(m) }

// onPostgres makes the accounts of a bench keep their tokens in a database of the test's own.
type onPostgres struct {
	*bench
	conn  *pgx.Conn
	store *watchedStore
}

func newOnPostgres(t *testing.T, url, account string) *onPostgres {
	t.Helper()
	b := newBenchAt(t, keystonesim.Config{RefreshToken: "portal-token-0123456789-" + account}, &clock{t: time.Now()}) // the database's clock
	w, err := warehouse.Open(t.Context(), warehouse.Config{URL: url, Owner: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	p := &onPostgres{bench: b, conn: warehousetest.Connect(t, url), store: &watchedStore{TokenStore: w.Credentials()}}
	p.name = account
	return p
}

func (p *onPostgres) account(change ...func(*Config)) *Account {
	p.t.Helper()
	return p.bench.account(append(change, func(c *Config) {
		c.Account, c.Tokens, c.RealNow, c.Sleep = p.name, p.store, time.Now, nil
	})...)
}

func (p *onPostgres) exec(sql string, args ...any) {
	p.t.Helper()
	if _, err := p.conn.Exec(context.Background(), sql, args...); err != nil {
		p.t.Fatal(err)
	}
}

// pass makes so much time pass in what is stored. The vendor's clock goes along.
func (p *onPostgres) pass(d time.Duration) {
	p.t.Helper()
	p.clock.advance(d)
	p.exec(`update ops.credential set obtained_at = obtained_at - $2::interval, seeded_at = seeded_at - $2::interval, access_expires_at = access_expires_at - $2::interval
		where account = $1`, p.name, d)
	p.exec(`update ops.credential_attempt set started_at = started_at - $2::interval, deadline_at = deadline_at - $2::interval where account = $1`, p.name, d)
}

// watchedStore goes through a hook before and after every method that writes.
type watchedStore struct {
	TokenStore
	hook func(step string) error
}

func (s *watchedStore) do(name string, f func() error) error {
	if s.hook == nil {
		return f()
	}
	if err := s.hook(name); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return s.hook("after " + name)
}

func (s *watchedStore) BeginAttempt(ctx context.Context, a etl.CredentialAttempt, supersede etl.AttemptKey) (id int64, err error) {
	err = s.do("BeginAttempt", func() error { id, err = s.TokenStore.BeginAttempt(ctx, a, supersede); return err })
	return id, err
}

func (s *watchedStore) EndAttempt(ctx context.Context, k etl.AttemptKey, state etl.AttemptState, detail string) error {
	return s.do("EndAttempt", func() error { return s.TokenStore.EndAttempt(ctx, k, state, detail) })
}

func (s *watchedStore) StoreGeneration(ctx context.Context, c etl.SealedCredential, k etl.AttemptKey) error {
	return s.do("StoreGeneration", func() error { return s.TokenStore.StoreGeneration(ctx, c, k) })
}

// The kills of TestCrashAtEveryStep with the real store.
func TestCrashOnPostgres(t *testing.T) {
	url := warehousetest.New(t)
	steps := []string{
		"slot", "slot sync", "BeginAttempt", "after BeginAttempt", "before post", "after post", "answer sync", "answer rename",
		"answer sync folder", "StoreGeneration", "after StoreGeneration",
	}
	for i, at := range steps {
		t.Run(at, func(t *testing.T) {
			p := newOnPostgres(t, url, fmt.Sprint("acme", i))
			dir := volume(t)
			p.mustGet(p.account(inFolder(dir)))
			p.pass(time.Hour)
			a := p.account(inFolder(dir), noSeed)
			left := ""
			kill := func(step string) error {
				if step == at && left == "" {
					left = copyFolder(t, dir)
					panic(killed{})
				}
				return nil
			}
			p.store.hook, a.tokens.spool.at = kill, kill
			exchange := a.tokens.exchange
			a.tokens.exchange = func(ctx context.Context, over *fetch.Client, tok Token) exchangeResult {
				_ = kill("before post")
				x := exchange(ctx, over, tok)
				_ = kill("after post")
				return x
			}
			func() {
				defer func() {
					if r := recover(); r != (killed{}) {
						t.Fatalf("got %v, want it killed", r)
					}
				}()
				_ = p.get(a)
			}()
			p.store.hook = nil
			p.pass(4 * time.Minute)
			next := p.account(inFolder(left), noSeed)
			err := p.get(next)
			if at == "after post" {
				if !errors.Is(err, etl.ErrUnauthorized) {
					t.Errorf("got %v, want dead", err)
				}
				return
			}
			if err != nil {
				t.Error(err)
			}
			p.neverSpent()
			p.wantState(next, TokenOK)
		})
	}
}

// D05 and D16 with the real store: rows that a failover forgot, and the timeline that tells of it.
func TestFailoverOnPostgres(t *testing.T) {
	url := warehousetest.New(t)
	t.Run("spool", func(t *testing.T) {
		p := newOnPostgres(t, url, "healed")
		dir := volume(t)
		p.mustGet(p.account(inFolder(dir)))
		p.pass(time.Hour)
		p.mustGet(p.account(inFolder(dir)))
		p.exec(`delete from ops.credential where account = $1 and generation = 3`, p.name)
		p.exec(`update ops.credential_attempt set state = 'open' where account = $1 and from_generation = 2`, p.name)
		a := p.account(inFolder(dir), noSeed)
		p.mustGet(a)
		if s := p.wantState(a, TokenOK); s.Generation != 3 {
			t.Errorf("got generation %d, want 3", s.Generation)
		}
		p.wantCount(2, 3)
		var open int
		if err := p.conn.QueryRow(t.Context(), `select count(*) from ops.credential_attempt where account = $1 and state = 'open'`, p.name).
			Scan(&open); err != nil || open != 0 {
			t.Errorf("%d attempts are open, %v", open, err)
		}
	})
	t.Run("wait", func(t *testing.T) {
		p := newOnPostgres(t, url, "waits")
		p.mustGet(p.account())
		p.exec(`update ops.credential_attempt set timeline = '4711/00000001' where account = $1`, p.name)
		p.pass(time.Hour)
		held := (*etl.HeldError)(nil)
		for range 2 { // the first one notes it, the second one does not begin anew
			err := p.get(p.account(noSeed))
			if !errors.As(err, &held) || time.Until(held.Until) > failoverWait || time.Until(held.Until) < failoverWait/3 {
				t.Fatalf("got %v, want to wait two minutes at most", err)
			}
			p.pass(time.Minute)
		}
		p.pass(time.Second)
		p.mustGet(p.account(noSeed))
		p.pass(time.Hour)
		p.mustGet(p.account(noSeed))
		p.neverSpent()
	})
}

func TestManyProcessesOnPostgres(t *testing.T) {
	p := newOnPostgres(t, warehousetest.New(t), "acme")
	p.sim.Inject(keystonesim.Fault{Kind: keystonesim.Slow, Path: "/tokens/", Delay: 100 * time.Millisecond})
	dir := volume(t)
	for round := range 3 {
		var wg sync.WaitGroup
		for range 5 {
			a := p.account(inFolder(dir))
			wg.Go(func() {
				if err := p.get(a); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		p.wantCount(round+1, 5*(round+1))
		p.pass(2 * time.Hour)
	}
	p.neverSpent()
}

func TestRekeyOnPostgres(t *testing.T) {
	p := newOnPostgres(t, warehousetest.New(t), "acme")
	dir, first := volume(t), mustToken(t, p.sim.RefreshToken())
	p.mustGet(p.account(inFolder(dir), withKeys(1, 0)))
	r, err := p.account(inFolder(dir), withKeys(2, 1)).Rekey(t.Context())
	if want := (Rekeyed{Account: "acme", Generation: 3, Logins: 1, Answers: 1}); err != nil || r != want {
		t.Errorf("got %+v, %v, want %+v", r, err, want)
	}
	p.pass(2 * time.Hour)
	alone := p.account(inFolder(dir), withKeys(2, 0), noSeed)
	p.mustGet(alone)
	if err := alone.SetToken(t.Context(), first); err == nil {
		t.Error("the first login was taken again")
	}
	p.wantCount(2, 2)
	p.neverSpent()
}
