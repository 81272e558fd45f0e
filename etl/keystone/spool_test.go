package keystone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/fetch"
	"meterhouse/etl/keystone/keystonesim"
)

// inFolder gives an account of the bench a spool.
func inFolder(dir string) func(*Config) { return func(c *Config) { c.SpoolDir = dir } }

func withKeys(key, former byte) func(*Config) {
	return func(c *Config) {
		c.SecretsKey = bytes.Repeat([]byte{key}, SecretsKeySize)
		if former != 0 {
			c.FormerKey = bytes.Repeat([]byte{former}, SecretsKeySize)
		}
	}
}

func noSeed(c *Config) { c.SeedToken = Token{} }

// volume is a folder for a spool, not made yet. It is in memory where that is possible: hundreds of
// kills wait for hundreds of disk writes.
func volume(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "meterhouse")
	if err != nil {
		return filepath.Join(t.TempDir(), "tokens")
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "tokens")
}

func copyFolder(t *testing.T, from string) string {
	t.Helper()
	to := volume(t)
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return to
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(to, 0o700); err != nil {
		t.Fatal(err)
	}
	return to
}

// spoolNames lists the files of a folder without their random parts.
func spoolNames(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		parts := strings.Split(e.Name(), ".")
		if len(parts) == 4 {
			parts = []string{parts[0], parts[1], parts[3]}
		}
		names = append(names, strings.Join(parts, "."))
	}
	return names
}

// mishap counts the steps of an account, whatever they go through, and does something at one.
type mishap struct {
	left  int
	do    func(step string)
	steps []string
}

func (m *mishap) step(name string) error {
	m.steps = append(m.steps, name)
	if m.left--; m.left == -1 {
		m.do(name)
	}
	return nil
}

// watch makes every step of the account go through m: those of the store, of the spool, and the
// exchange.
func (b *bench) watch(a *Account, m *mishap) {
	b.store.hook = m.step
	if a.tokens.spool != nil {
		a.tokens.spool.at = m.step
	}
	exchange := a.tokens.exchange
	a.tokens.exchange = func(ctx context.Context, over *fetch.Client, t Token) exchangeResult {
		_ = m.step("before post")
		x := exchange(ctx, over, t)
		_ = m.step("after post")
		return x
	}
}

type exchangeResult = exchange

type killed struct{}

// killAt lets the account do something and kills it at a step. What its process would not have done
// any more, such as removing a file, is undone. The folder that is left is returned, and the step's
// name: empty when it came to its end before.
func (b *bench) killAt(a *Account, dir string, at int, do func() error) (left, step string) {
	b.t.Helper()
	var store *memStore
	m := &mishap{left: at}
	m.do = func(name string) {
		step, store, left = name, b.store.restarted(), copyFolder(b.t, dir)
		panic(killed{})
	}
	b.watch(a, m)
	func() {
		defer func() {
			if r := recover(); r != nil && r != (killed{}) {
				panic(r)
			}
		}()
		if err := do(); err != nil {
			b.clean("an error", err.Error())
		}
	}()
	b.store.hook = nil
	if step == "" {
		return dir, ""
	}
	b.store = store
	return left, step
}

// settles lets processes try until the data comes or a person is needed.
func (b *bench) settles(change ...func(*Config)) error {
	b.t.Helper()
	var err error
	for range 60 {
		if err = b.get(b.account(change...)); err == nil || errors.Is(err, etl.ErrUnauthorized) {
			return err
		}
		b.clock.advance(time.Minute)
	}
	return err
}

// spent counts refresh tokens that came to the vendor a second time.
func (b *bench) spent() (n int) {
	for _, r := range b.sim.Requests() {
		if r.Path == tokenPath && r.Credential != keystonesim.Refresh {
			n++
		}
	}
	return n
}

// Failure model 4.3: the process dies at any step of an exchange, and once more while it recovers.
// Only between the vendor's answer and its first write is the token lost.
func TestCrashAtEveryStep(t *testing.T) {
	steps := 0
	for ; killTwice(t, steps, -1) != ""; steps++ {
	}
	t.Logf("%d steps", steps)
	if steps < 15 {
		t.Error("so few steps: the watch went wrong")
	}
	for first := range steps {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			t.Parallel() // it waits for the disk most of the time
			for second := 0; killTwice(t, first, second) != "" && !t.Failed(); second++ {
			}
		})
	}
}

// killTwice kills an exchange at a step and, unless that is -1, its recovery at another. It returns the
// step of the last kill; empty when the exchange or the recovery has not as many.
func killTwice(t *testing.T, first, second int) (step string) {
	b := newBench(t, keystonesim.Config{})
	dir := volume(t)
	b.mustGet(b.account(inFolder(dir)))
	b.clock.advance(time.Hour)
	a := b.account(inFolder(dir), noSeed)
	dir, step = b.killAt(a, dir, first, func() error { return b.get(a) })
	if step == "" {
		return ""
	}
	kills := []string{step}
	if second >= 0 {
		b.clock.advance(4 * time.Minute) // the first attempt's deadline and grace time
		again := b.account(inFolder(dir), noSeed)
		dir, step = b.killAt(again, dir, second, func() error { return b.get(again) })
		kills = append(kills, step)
	}
	err := b.settles(inFolder(dir), noSeed)
	losses := 0
	for _, k := range kills {
		if k == "after post" { // the vendor has answered, and nothing is written yet: window W
			losses++
		}
	}
	want := TokenOK
	if losses > 0 {
		want = TokenDead
	}
	if (losses > 0) != errors.Is(err, etl.ErrUnauthorized) || losses == 0 && err != nil {
		t.Errorf("killed at %q: got %v, want it %s", kills, err, want)
	}
	// Each loss costs one probe, which is how it is found out.
	if n := b.spent(); n > losses {
		t.Errorf("killed at %q: %d spent tokens were sent", kills, n)
	}
	b.wantState(b.account(inFolder(dir), noSeed), want)
	return step
}

// The same while a person's token is proved: the chain or the new pair goes on by itself.
func TestCrashWhileProvingWithSpool(t *testing.T) {
	for at := 0; ; at++ {
		b := newBench(t, keystonesim.Config{Lenient: true}) // the former chain outlives the new login
		dir := volume(t)
		a := b.account(inFolder(dir))
		b.mustGet(a)
		given := mustToken(t, b.sim.Login())
		dir, step := b.killAt(a, dir, at, func() error { return a.SetToken(t.Context(), given) })
		if step == "" {
			if at < 15 {
				t.Errorf("%d steps: the watch went wrong", at)
			}
			return
		}
		now := b.account(inFolder(dir), noSeed)
		b.mustGet(now)
		b.clock.advance(2 * time.Hour)
		b.mustGet(now)
		s := b.wantState(now, TokenOK)
		// From its first write on, the answer to the given token is what counts.
		if strings.HasPrefix(step, "answer") && s.Generation < 4 {
			t.Errorf("killed at %q: generation %d, want the given token's", step, s.Generation)
		}
		if err := now.SetToken(t.Context(), given); s.Generation >= 4 && (err == nil || !strings.Contains(err.Error(), "used before")) {
			t.Errorf("killed at %q: got %v, want the token known as used", step, err)
		}
	}
}

// D05, D16: the database forgets the pair, by a failover or a restore, and the spool has it.
func TestSpoolHealsTheDatabase(t *testing.T) {
	for name, c := range map[string]struct {
		forgets   func(b *bench, a *Account)
		want      int64 // the newest generation after
		exchanges int
	}{
		"failover without the pair": {func(b *bench, a *Account) {
			var older *memStore
			b.store.hook = func(step string) error {
				if step == "StoreGeneration" {
					older = b.store.restarted()
				}
				return nil
			}
			b.mustGet(a)
			b.store = older
		}, 3, 2},
		"failover without the intent": {func(b *bench, a *Account) {
			older := b.store.restarted()
			b.mustGet(a)
			b.store = older
		}, 3, 2},
		"restore of three days ago": {func(b *bench, a *Account) {
			older := b.store.restarted()
			for range 6 {
				b.mustGet(a)
				b.clock.advance(12 * time.Hour)
			}
			b.store = older
		}, 8, 7},
		"restore of an empty database": {func(b *bench, a *Account) {
			b.mustGet(a)
			b.store = newStore(b.clock.now)
		}, 3, 2},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, keystonesim.Config{})
			dir, seed := volume(t), mustToken(t, b.sim.RefreshToken())
			a := b.account(inFolder(dir))
			b.mustGet(a)
			b.clock.advance(time.Hour)
			c.forgets(b, a)
			b.store.timeline++
			b.clock.advance(time.Hour)
			// Whoever restarts still has the first token configured.
			now := b.account(inFolder(dir), func(c *Config) { c.SeedToken = seed })
			held := (*etl.HeldError)(nil)
			if _, err := now.KeepAlive(t.Context()); err != nil && !errors.As(err, &held) {
				t.Fatal(err)
			}
			if err := b.settles(inFolder(dir), func(c *Config) { c.SeedToken = seed }); err != nil {
				t.Fatal(err)
			}
			if states := b.store.states(); slices.Contains(states, etl.AttemptSuperseded) {
				t.Errorf("got attempts %v: that of the answer was left open", states)
			}
			b.clock.advance(2 * time.Hour)
			_ = b.settles(inFolder(dir), noSeed)
			b.neverSpent()
			if s := b.wantState(now, TokenOK); s.Generation < c.want {
				t.Errorf("got generation %d, want at least %d", s.Generation, c.want)
			}
		})
	}
}

// D05: the database forgot an exchange that is still under way. Nobody sends before it is over.
func TestWaitAfterFailover(t *testing.T) {
	for _, withSpool := range []bool{true, false} {
		t.Run(fmt.Sprint("spool ", withSpool), func(t *testing.T) {
			b := newBench(t, keystonesim.Config{})
			var here []func(*Config)
			if withSpool {
				here = append(here, inFolder(volume(t)))
			}
			first := b.account(here...)
			b.mustGet(first)
			b.clock.advance(time.Hour)
			before := b.store.restarted()
			exchange := first.tokens.exchange
			first.tokens.exchange = func(ctx context.Context, over *fetch.Client, tok Token) exchangeResult {
				x := exchange(ctx, over, tok) // the vendor has answered, we have not got it yet
				b.store.become(before)
				b.store.timeline++
				second := b.account(here...)
				for range 2 {
					err := b.get(second)
					held := (*etl.HeldError)(nil)
					if !errors.As(err, &held) || !strings.Contains(err.Error(), "failed over") || held.Until.Sub(b.clock.now()) > failoverWait {
						t.Errorf("got %v, want to wait", err)
					}
					b.clock.advance(20 * time.Second)
				}
				b.wantStates(etl.AttemptDone, etl.AttemptAbandoned, etl.AttemptAbandoned)
				return x
			}
			b.mustGet(first)
			b.clock.advance(3 * time.Minute)
			b.mustGet(b.account(here...))
			b.wantCount(2, 3)
			b.neverSpent()

			// The wait is over, and the history is known from now on.
			b.clock.advance(2 * time.Hour)
			b.mustGet(b.account(here...))
			b.neverSpent()
		})
	}
}

// A probe that may not begin leaves the chain as unclear as it was, and is no probe.
func TestProbeThatIsNotSentDoesNotCount(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.Close, Path: "/tokens/", Count: 1})
	_ = b.get(a)
	b.wantStates(etl.AttemptAmbiguous)
	exchange := a.tokens.exchange
	a.tokens.exchange = func(context.Context, *fetch.Client, Token) exchangeResult {
		return exchangeResult{err: errors.New("no route")}
	}
	for range 30 {
		b.clock.advance(4 * time.Minute)
		if err := b.get(a); !errors.Is(err, etl.ErrUnavailable) {
			t.Fatalf("got %v, want unavailable", err)
		}
		b.wantState(a, TokenAmbiguous)
	}
	a.tokens.exchange = exchange
	b.mustGet(a)
	b.wantState(a, TokenOK)
}

// D04: the intent was committed and its reply lost: it is found again and used.
func TestReplyToTheIntentIsLost(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	lost := false
	b.store.hook = func(step string) error {
		if step == "after BeginAttempt" && !lost {
			lost = true
			return errors.New("connection lost")
		}
		return nil
	}
	b.mustGet(b.account())
	b.wantCount(1, 1)
	b.wantStates(etl.AttemptDone)
}

// P06, P07 and a file system that fails: before the request nothing is sent, after it the answer goes
// on in memory.
func TestSpoolFails(t *testing.T) {
	for step, sends := range map[string]bool{
		"slot": false, "slot sync": false, "answer sync": true, "answer rename": true, "answer sync folder": true,
	} {
		t.Run(step, func(t *testing.T) {
			b := newBench(t, keystonesim.Config{})
			dir := volume(t)
			a := b.account(inFolder(dir))
			a.tokens.spool.at = func(s string) error {
				if s == step {
					return &fs.PathError{Op: "write", Path: dir, Err: syscall.ENOSPC}
				}
				return nil
			}
			err := b.get(a)
			if !sends {
				wrong := (*SpoolError)(nil)
				if !errors.As(err, &wrong) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "nothing was sent") {
					t.Errorf("got %v, want no room", err)
				}
				b.wantCount(0, 0)
				b.wantStates()
				if names := spoolNames(t, dir); !slices.Equal(names, []string{"id"}) {
					t.Errorf("left behind: %v", names)
				}
				a.tokens.spool.at = func(string) error { return nil }
				err = b.get(a)
			}
			if err != nil {
				t.Error(err)
			}
			b.wantCount(1, 1)
			if !strings.Contains(b.logs.String(), "goes on in memory") == sends {
				t.Errorf("log: %s", b.logs)
			}
			b.clock.advance(2 * time.Hour)
			b.mustGet(b.account(inFolder(dir), noSeed))
			b.neverSpent()
		})
	}
}

// The newest two generations stay, nothing else does, and nothing of it shows a token.
func TestSpoolIsTidied(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	dir := volume(t)
	for range 5 {
		b.mustGet(b.account(inFolder(dir), func(c *Config) { c.Account = "acme.eu" }))
		b.clock.advance(2 * time.Hour)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Fatalf("got %v, %v, want the id and two answers", entries, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil || info.Mode() != 0o600 || e.Name() != "id" && info.Size() != slotSize {
			t.Errorf("%s: mode %s, %d bytes, %v", e.Name(), info.Mode(), info.Size(), err)
		}
		b.clean("the spool", string(text))
	}
	// A refused or unreachable exchange leaves no empty place behind.
	b.server.Close()
	_ = b.get(b.account(inFolder(dir), func(c *Config) { c.Account = "acme.eu" }))
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("left behind: %v", entries)
	}
	// Another account whose name begins with ours sees none of it.
	a := b.account(inFolder(dir), func(c *Config) { c.Account = "acme" })
	if files, err := a.tokens.spool.files(0); err != nil || len(files) != 0 {
		t.Errorf("acme sees %v, %v", files, err)
	}
}

// P07: an answer that is torn or was changed is reported and not used.
func TestTornAnswer(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"first byte":  func(b []byte) []byte { b[0] ^= 1; return b },
		"key id":      func(b []byte) []byte { b[len(spoolMagic)+3] ^= 1; return b },
		"seal":        func(b []byte) []byte { b[200] ^= 1; return b },
		"cut":         func(b []byte) []byte { return b[:150] },
		"empty":       func([]byte) []byte { return nil },
		"zeros":       func(b []byte) []byte { clear(b); return b },
		"length":      func(b []byte) []byte { return bytes.Replace(b, []byte("\n"), []byte("9\n"), 1) },
		"other place": nil, // a file of another generation under this name
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, keystonesim.Config{Lenient: true})
			dir := volume(t)
			a := b.account(inFolder(dir))
			b.mustGet(a)
			old := b.store.restarted()
			b.clock.advance(time.Hour)
			b.mustGet(a)
			b.clock.advance(time.Hour)
			b.store = old // and its answer is all that knows of generation 3

			files, err := a.tokens.spool.files(2)
			if err != nil || len(files) != 1 {
				t.Fatalf("got %v, %v", files, err)
			}
			text, err := os.ReadFile(files[0].path)
			if err != nil {
				t.Fatal(err)
			}
			if damage == nil {
				older, _ := a.tokens.spool.files(1)
				i := slices.IndexFunc(older, func(f spoolFile) bool { return f.generation == 2 })
				if text, err = os.ReadFile(older[i].path); err != nil {
					t.Fatal(err)
				}
			} else {
				text = damage(text)
			}
			if err := os.WriteFile(files[0].path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			now := b.account(inFolder(dir), noSeed)
			s := b.wantState(now, TokenOK)
			if s.Reason != ReasonSpool || !strings.Contains(s.Detail, files[0].path) {
				t.Errorf("got status %+v, want the file named", s)
			}
			err = b.get(now)
			otherKey := name == "key id"
			if otherKey {
				// Another key may open it: until it is there, nothing is sent.
				if !errors.Is(err, etl.ErrUnauthorized) || !strings.Contains(err.Error(), "former_secrets_key") || s.Urgency != UrgencyPage {
					t.Errorf("got %v, %s, want the key asked for", err, s.Urgency)
				}
				b.wantCount(2, 2)
				if err := now.SetToken(t.Context(), mustToken(t, b.sim.Login())); err != nil { // a way out
					t.Error(err)
				}
				b.mustGet(now)
				return
			}
			if err != nil { // the lenient vendor takes the older one, which is intact
				t.Error(err)
			}
			for range 3 {
				_ = b.get(now)
			}
			if n := strings.Count(b.logs.String(), "is torn or was changed"); n != 1 {
				t.Errorf("reported %d times", n)
			}
		})
	}
}

// Processes that share a folder share its answers; that another one is stored first does no harm.
func TestSpoolIsShared(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	dir := volume(t)
	first := b.account(inFolder(dir))
	b.mustGet(first)
	b.clock.advance(time.Hour)
	promoted := false
	b.store.hook = func(step string) error {
		if step == "StoreGeneration" && !promoted {
			promoted = true
			b.mustGet(b.account(inFolder(dir))) // finds the answer before its owner stores it
		}
		return nil
	}
	b.mustGet(first)
	b.store.hook = nil
	b.wantCount(2, 3)
	b.wantStates(etl.AttemptDone, etl.AttemptDone)
	if n := len(b.store.generations["acme"]); n != 3 {
		t.Errorf("got %d generations, want 3", n)
	}
	b.neverSpent()
	if !promoted {
		t.Error("the hook was not reached")
	}
}

func TestManyProcessesShareASpool(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.Slow, Path: "/tokens/", Delay: 100 * time.Millisecond})
	b.store.now = time.Now
	dir := volume(t)
	var wg sync.WaitGroup
	for range 6 {
		a := b.account(inFolder(dir), func(c *Config) { c.RealNow, c.Sleep = time.Now, nil })
		wg.Go(func() {
			if err := b.get(a); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b.wantCount(1, 6)
	b.neverSpent()
}

// With a spool of its own on another host, an unclear exchange is left alone; its host finishes it.
func TestForeignAttempt(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	here, there := volume(t), volume(t)
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.Close, Path: "/tokens/", Count: 1})
	_ = b.get(b.account(inFolder(there)))
	b.clock.advance(time.Hour)
	for _, where := range []func(*Config){inFolder(here), func(*Config) {}} {
		a := b.account(where)
		if err := b.get(a); err == nil || !strings.Contains(err.Error(), "token_attempt_foreign") {
			t.Errorf("got %v, want token_attempt_foreign", err)
		}
		s := b.wantState(a, TokenAmbiguous)
		if s.Urgency != UrgencyPage || s.Reason != ReasonForeign || !strings.Contains(s.NextStep, "meterhouse token set acme") {
			t.Errorf("got status %+v", s)
		}
	}
	b.wantCount(1, 0)
	s := b.wantState(b.account(inFolder(there)), TokenAmbiguous)
	if s.Urgency != UrgencyWarn || s.Reason != ReasonAnswerLost {
		t.Errorf("got status %+v", s)
	}
	b.mustGet(b.account(inFolder(there)))
	b.wantCount(2, 1)
}

// O12: a folder that cannot be relied on is refused before anything is sent.
func TestSpoolFolderIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		break_ func(t *testing.T, b *bench, dir string)
		want   string
	}{
		"volume missing": {func(t *testing.T, _ *bench, dir string) {
			if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
				t.Fatal(err)
			}
		}, "is its volume mounted?"},
		"mode": {func(t *testing.T, _ *bench, dir string) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}, "has mode 0755, want 0700"},
		"owner": {func(t *testing.T, _ *bench, dir string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a folder away")
			}
			if err := os.Chown(dir, 4242, -1); err != nil {
				t.Fatal(err)
			}
		}, "belongs to user 4242, want 0"},
		"link": {func(t *testing.T, _ *bench, dir string) {
			if err := errors.Join(os.Rename(dir, dir+"2"), os.Symlink(dir+"2", dir)); err != nil {
				t.Fatal(err)
			}
		}, "is no folder"},
		"another installation's": {func(_ *testing.T, b *bench, _ string) { b.store.owner = "installation-2" },
			"belongs to the installation installation-1, this one is installation-2"},
		"id damaged": {func(t *testing.T, _ *bench, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "id"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "its file id is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, keystonesim.Config{})
			dir := volume(t)
			b.mustGet(b.account(inFolder(dir)))
			b.clock.advance(2 * time.Hour)
			c.break_(t, b, dir)
			a := b.account(inFolder(dir))
			for what, err := range map[string]error{
				"PrepareSpool": a.PrepareSpool(t.Context()), "CheckSpool": a.CheckSpool(t.Context()), "Extract": b.get(a),
				"SetToken": a.SetToken(t.Context(), mustToken(t, mistyped)),
			} {
				wrong := (*SpoolError)(nil)
				if !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: got %v, want %s", what, err, c.want)
				}
			}
			b.wantCount(1, 1)
			if s := b.wantState(a, TokenOK); s.Urgency != UrgencyPage || s.Reason != ReasonSpool {
				t.Errorf("got status %+v", s)
			}
		})
	}
}

// While the access token lives, a broken folder stops nothing.
func TestBrokenFolderDoesNotStopData(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	dir := volume(t)
	b.mustGet(b.account(inFolder(dir)))
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.mustGet(b.account(inFolder(dir)))
	b.clock.advance(55 * time.Minute) // time for a new one, which cannot be had
	b.mustGet(b.account(inFolder(dir)))
	b.wantCount(1, 3)
}

// A volume that is unmounted while we run is not taken for an empty spool.
func TestVolumeVanishes(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	dir := volume(t)
	a := b.account(inFolder(dir))
	b.mustGet(a)
	if err := os.Rename(dir, dir+"-unmounted"); err != nil {
		t.Fatal(err)
	}
	b.clock.advance(2 * time.Hour)
	if err := b.get(a); err == nil || !strings.Contains(err.Error(), "another folder than before") {
		t.Errorf("got %v", err)
	}
	b.wantCount(1, 1)
}

// CheckSpool changes nothing.
func TestCheckSpoolChangesNothing(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	dir := volume(t)
	a := b.account(inFolder(dir))
	if err := errors.Join(CheckSpool(dir), a.CheckSpool(t.Context())); err != nil {
		t.Error(err)
	}
	b.wantState(a, TokenNone)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made: %v", err)
	}
	if err := a.PrepareSpool(t.Context()); err != nil {
		t.Error(err)
	}
	if names := spoolNames(t, dir); !slices.Equal(names, []string{"id"}) {
		t.Errorf("got %v", names)
	}
}

// The answer in the spool of a chain that was given up is not taken for a newer one.
func TestOlderAnswerIsNotPromoted(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	dir := volume(t)
	a := b.account(inFolder(dir))
	old := b.store.restarted()
	for range 4 {
		b.mustGet(a)
		b.clock.advance(2 * time.Hour)
	}
	b.store = old // restored, on a machine without the folder, and a person has logged in again
	elsewhere := b.account(noSeed)
	if err := elsewhere.SetToken(t.Context(), mustToken(t, b.sim.Login())); err != nil {
		t.Fatal(err)
	}
	b.clock.advance(2 * time.Hour)
	b.mustGet(b.account(inFolder(dir), noSeed))
	if s := b.wantState(elsewhere, TokenOK); s.Generation != 3 {
		t.Errorf("got generation %d, want the newer login to go on", s.Generation)
	}
	b.neverSpent()
}

// 4.6: the connection stands before the intent, and the exchange goes over it.
func TestConnectedBeforeTheIntent(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	var steps []string
	dial, exchange := a.tokens.dial, a.tokens.exchange
	a.tokens.dial = func(ctx context.Context) (*fetch.Client, func(), error) {
		steps = append(steps, "dial")
		return dial(ctx)
	}
	a.tokens.exchange = func(ctx context.Context, over *fetch.Client, tok Token) exchangeResult {
		steps = append(steps, fmt.Sprint("exchange over it: ", over != nil))
		return exchange(ctx, over, tok)
	}
	b.store.hook = func(step string) error {
		if step == "BeginAttempt" {
			steps = append(steps, step)
		}
		return nil
	}
	b.mustGet(a)
	if want := []string{"dial", "BeginAttempt", "exchange over it: true"}; !slices.Equal(steps, want) {
		t.Errorf("got %q, want %q", steps, want)
	}
}

// The spool is read after the intent too: an answer may have come since the plan was made, of an
// exchange that the database does not know.
func TestAnswerComesBeforeTheIntent(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	dir := volume(t)
	other, mine := b.account(inFolder(dir)), b.account(inFolder(dir))
	b.mustGet(other)
	b.clock.advance(time.Hour)
	overtaken := false
	b.store.hook = func(step string) error {
		if step == "BeginAttempt" && !overtaken {
			overtaken = true
			before := b.store.restarted()
			b.mustGet(other)
			b.store.become(before) // and the database does not tell that it failed over
		}
		return nil
	}
	b.mustGet(mine)
	b.wantCount(2, 3)
	b.neverSpent()
}

// Whoever finds the answer to a given token in the spool and dies after it has stored the pair leaves
// the given token known as used.
func TestCrashWhileHealingAGivenToken(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	dir := volume(t)
	a := b.account(inFolder(dir))
	b.mustGet(a)
	given := mustToken(t, b.sim.Login())
	dies := func(do func()) {
		t.Helper()
		defer func() {
			if r := recover(); r != (killed{}) {
				t.Fatalf("got %v, want it killed", r)
			}
		}()
		do()
	}
	a.tokens.spool.at = func(step string) error {
		if step == "answer sync folder" { // it is there, and nothing of it is stored
			panic(killed{})
		}
		return nil
	}
	dies(func() { _ = a.SetToken(t.Context(), given) })
	b.store.hook = func(step string) error {
		if step == "after StoreGeneration" {
			panic(killed{})
		}
		return nil
	}
	dies(func() { _ = b.get(b.account(inFolder(dir), noSeed)) })
	b.store = b.store.restarted()
	next := b.account(inFolder(dir), noSeed)
	b.mustGet(next)
	if err := next.SetToken(t.Context(), given); err == nil || !strings.Contains(err.Error(), "used before") {
		t.Errorf("got %v, want the token known as used", err)
	}
}

// An intent that the database has forgotten again is no lock: nothing is sent under it.
func TestForgottenIntentSendsNothing(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	b.mustGet(a)
	b.clock.advance(time.Hour)
	before := b.store.restarted()
	b.store.hook = func(step string) error {
		if step == "after BeginAttempt" {
			b.store.become(before)
		}
		return nil
	}
	if err := b.get(a); !errors.Is(err, etl.ErrUnavailable) || !strings.Contains(err.Error(), "taken over") {
		t.Errorf("got %v, want it given up", err)
	}
	b.wantCount(1, 1)
	b.store.hook = nil
	b.mustGet(a)
	b.neverSpent()
}
