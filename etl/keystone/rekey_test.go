package keystone

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/keystone/keystonesim"
)

// O10: the secrets key is changed. What was sealed opens, is sealed anew, and goes on without the
// former key; the first login is still known as used.
func TestRekey(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	dir, first := volume(t), mustToken(t, b.sim.RefreshToken())
	b.mustGet(b.account(inFolder(dir), withKeys(1, 0)))
	before := b.store.generations["acme"][1]

	both := b.account(inFolder(dir), withKeys(2, 1))
	b.mustGet(both)
	b.wantCount(1, 2) // the access token of the former key serves
	if s := b.wantState(both, TokenOK); !s.FormerKey || s.Reason != ReasonFormerKey || s.NextStep != "meterhouse token rekey" {
		t.Errorf("got status %+v", s)
	}
	r, err := both.Rekey(t.Context())
	if want := (Rekeyed{Account: "acme", Generation: 3, Logins: 1, Answers: 1}); err != nil || r != want {
		t.Errorf("got %+v, %v, want %+v", r, err, want)
	}
	if r, err := both.Rekey(t.Context()); err != nil || r != (Rekeyed{Account: "acme"}) {
		t.Errorf("again: got %+v, %v, want nothing to do", r, err)
	}
	after := b.store.generations["acme"][2]
	if after.Source != "rekey" || !after.ObtainedAt.Equal(before.ObtainedAt) || !after.SeededAt.Equal(before.SeededAt) ||
		!after.AccessExpiresAt.Equal(before.AccessExpiresAt) || after.KeyID == before.KeyID || after.Fingerprint == before.Fingerprint {
		t.Errorf("got %+v of %+v", after, before)
	}

	alone := b.account(inFolder(dir), withKeys(2, 0), noSeed)
	b.mustGet(alone)
	b.wantCount(1, 3)
	if s := b.wantState(alone, TokenOK); s.Urgency != UrgencyOK {
		t.Errorf("got status %+v", s)
	}
	if err := alone.SetToken(t.Context(), first); err == nil || !strings.Contains(err.Error(), "used before") {
		t.Errorf("got %v, want the first login known as used", err)
	}
	b.clock.advance(2 * time.Hour)
	b.mustGet(alone)
	b.wantCount(2, 4)
	b.neverSpent()
	files, _, err := alone.tokens.spool.answers(0)
	if err != nil || len(files) != 1 { // generation 3 came from no answer
		t.Errorf("got %d answers, %v, want that of the newest generation", len(files), err)
	}
}

// With both keys a login of the former one counts as seen before anything is sealed anew.
func TestFormerLoginIsSeen(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	first := mustToken(t, b.sim.RefreshToken())
	b.mustGet(b.account(withKeys(1, 0)))
	both := b.account(withKeys(2, 1))
	if err := both.SetToken(t.Context(), first); err == nil || !strings.Contains(err.Error(), "used before") {
		t.Errorf("got %v, want the login known as used", err)
	}
	// Nor is it adopted when the chain dies.
	b.clock.advance(time.Hour)
	b.sim.Login()
	err := b.get(b.account(withKeys(2, 1), func(c *Config) { c.SeedToken = first }))
	if !errors.Is(err, etl.ErrUnauthorized) {
		t.Errorf("got %v, want dead", err)
	}
	b.wantCount(2, 1)
}

// A login that was not exchanged yet stays one.
func TestRekeyOfALogin(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	seed := mustToken(t, b.sim.RefreshToken())
	a := b.account(withKeys(1, 0))
	if err := a.tokens.storeSeed(t.Context(), seed, 1); err != nil {
		t.Fatal(err)
	}
	both := b.account(withKeys(2, 1))
	if _, err := both.Rekey(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := b.wantState(both, TokenOK); s.Source != "seed" || s.Generation != 2 || s.FormerKey {
		t.Errorf("got status %+v", s)
	}
	if err := both.SetToken(t.Context(), seed); err != nil { // proves the present one
		t.Error(err)
	}
	b.wantCount(1, 0)
	b.neverSpent()
}

// A chain that is dead or unclear is not made to look well.
func TestRekeyInTrouble(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	old := b.account(withKeys(1, 0))
	b.mustGet(old)
	b.clock.advance(time.Hour)
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.SpendAndDrop, Count: 1})
	_ = b.get(old)
	both := b.account(withKeys(2, 1), noSeed)
	r, err := both.Rekey(t.Context())
	if err != nil || r.Generation != 0 || !r.FormerKey || !strings.Contains(r.Detail, "repeat this") {
		t.Errorf("unclear: got %+v, %v", r, err)
	}
	b.wantState(both, TokenAmbiguous)
	b.clock.advance(4 * time.Minute)
	_ = b.get(both) // the probe
	b.wantState(both, TokenDead)
	r, err = both.Rekey(t.Context())
	if err != nil || r.Generation != 0 || r.FormerKey || !strings.Contains(r.Detail, "dead") {
		t.Errorf("dead: got %+v, %v", r, err)
	}
	b.wantState(both, TokenDead)
	b.wantCount(3, 1)
}

// O10 at each step: whoever dies while sealing anew, the chain opens with both keys, and a repetition
// ends it.
func TestCrashWhileRekeying(t *testing.T) {
	for at := 0; ; at++ {
		b := newBench(t, keystonesim.Config{})
		dir := volume(t)
		b.mustGet(b.account(inFolder(dir), withKeys(1, 0)))
		b.clock.advance(2 * time.Hour)
		a := b.account(inFolder(dir), withKeys(2, 1))
		dir, step := b.killAt(a, dir, at, func() error { _, err := a.Rekey(t.Context()); return err })
		if step == "" {
			t.Logf("%d steps", at)
			if at < 15 {
				t.Error("so few steps: the watch went wrong")
			}
			return
		}
		both := []func(*Config){inFolder(dir), withKeys(2, 1), noSeed}
		if err := b.settles(both...); err != nil {
			t.Errorf("killed at %q: %v", step, err)
		}
		r, err := b.account(both...).Rekey(t.Context())
		if err != nil || r.FormerKey {
			t.Errorf("killed at %q: got %+v, %v", step, r, err)
		}
		b.clock.advance(2 * time.Hour)
		b.mustGet(b.account(inFolder(dir), withKeys(2, 0), noSeed))
		b.neverSpent()
	}
}

// The key is changed while an exchange is under way or its process has died, at any step.
func TestKeyIsChangedAtEveryStep(t *testing.T) {
	for at := 0; ; at++ {
		b := newBench(t, keystonesim.Config{})
		dir := volume(t)
		b.mustGet(b.account(inFolder(dir), withKeys(1, 0)))
		b.clock.advance(time.Hour)
		a := b.account(inFolder(dir), withKeys(1, 0))
		dir, step := b.killAt(a, dir, at, func() error { return b.get(a) })
		if step == "" {
			return
		}
		err := b.settles(inFolder(dir), withKeys(2, 1), noSeed)
		if lost := step == "after post"; lost {
			continue
		}
		if err != nil {
			t.Errorf("killed at %q: %v", step, err)
		}
		if r, err := b.account(inFolder(dir), withKeys(2, 1), noSeed).Rekey(t.Context()); err != nil || r.FormerKey {
			t.Errorf("killed at %q: got %+v, %v", step, r, err)
		}
		b.clock.advance(2 * time.Hour)
		b.mustGet(b.account(inFolder(dir), withKeys(2, 0), noSeed))
		b.neverSpent()
	}
}

// Two processes store the same answer, one with each key: it is one token, and nobody's is dropped.
func TestTwoKeysOneAnswer(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	dir := volume(t)
	both := b.account(inFolder(dir), withKeys(2, 1))
	b.mustGet(both)
	b.clock.advance(time.Hour)
	promoted := false
	b.store.hook = func(step string) error {
		if step == "StoreGeneration" && !promoted {
			promoted = true
			b.mustGet(b.account(inFolder(dir), withKeys(1, 2)))
		}
		return nil
	}
	b.mustGet(both)
	if !promoted || strings.Contains(b.logs.String(), "dropped") {
		t.Errorf("promoted %v, log: %s", promoted, b.logs)
	}
	b.wantStates(etl.AttemptDone, etl.AttemptDone)
	b.wantCount(2, 3)
}

func TestKeyring(t *testing.T) {
	key := func(b byte) []byte { return bytes.Repeat([]byte{b}, SecretsKeySize) }
	for name, c := range map[string]struct {
		key, former []byte
		want        string
	}{
		"short":        {key(1)[1:], nil, "secrets key of 31 bytes: want 32"},
		"short former": {key(1), key(2)[1:], "former secrets key of 31 bytes: want 32"},
		"same":         {key(1), key(1), "former secrets key is the same"},
		"both":         {key(1), key(2), ""},
	} {
		if _, err := newKeyring(c.key, c.former); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

// V24: when a chain is about to die of age it is said in time.
func TestHorizons(t *testing.T) {
	const day = 24 * time.Hour
	type seen struct {
		urgency TokenUrgency
		reason  TokenReason
	}
	fine := seen{UrgencyOK, ReasonFine}
	for _, c := range []struct {
		idle, login time.Duration
		want        seen
		state       TokenState
	}{
		{0, 0, fine, TokenOK},
		{3*day - time.Minute, 3 * day, fine, TokenOK},
		{3 * day, 3 * day, seen{UrgencyWarn, ReasonIdle}, TokenOK},
		{5*day - time.Minute, 5 * day, seen{UrgencyWarn, ReasonIdle}, TokenOK},
		{5 * day, 5 * day, seen{UrgencyPage, ReasonIdle}, TokenOK},
		{7 * day, 7 * day, seen{UrgencyPage, ReasonExpired}, TokenDead},
		{0, 75*day - time.Minute, fine, TokenOK},
		{0, 75 * day, seen{UrgencyWarn, ReasonLogin}, TokenOK},
		{4 * day, 75 * day, seen{UrgencyWarn, ReasonLogin}, TokenOK},
		{5 * day, 75 * day, seen{UrgencyPage, ReasonIdle}, TokenOK}, // the worse one
		{0, 85 * day, seen{UrgencyPage, ReasonLogin}, TokenOK},
		{0, 95 * day, seen{UrgencyPage, ReasonLogin}, TokenOK},
	} {
		t.Run(fmt.Sprint(c.idle, c.login), func(t *testing.T) {
			b := newBench(t, keystonesim.Config{})
			a := b.account()
			b.mustGet(a)
			cred := &b.store.generations["acme"][1]
			cred.ObtainedAt, cred.SeededAt = b.clock.now().Add(-c.idle), b.clock.now().Add(-c.login)
			s := b.wantState(a, c.state)
			if got := (seen{s.Urgency, s.Reason}); got != c.want || (s.NextStep == "none") != (c.want == fine) {
				t.Errorf("got %v (%s), want %v", got, s.NextStep, c.want)
			}
		})
	}
}

// What a person reads in each trouble, and how urgent it is.
func TestUrgencies(t *testing.T) {
	const login = "log in to the Digital Advisor portal (https://aiq.netapp.com/api), choose Generate Tokens, and give the refresh token to `meterhouse token set acme`"
	for name, c := range map[string]struct {
		make    func(b *bench) *Account
		state   TokenState
		urgency TokenUrgency
		reason  TokenReason
		detail  string
		step    string
	}{
		"no token": {func(b *bench) *Account { return b.account(noSeed) }, TokenNone, UrgencyPage, ReasonNoToken, "", login},
		"not started": {func(b *bench) *Account { return b.account() }, TokenNone, UrgencyOK, ReasonFine, "",
			"none: the first run starts the chain with the configured refresh token"},
		"under way": {func(b *bench) *Account {
			b.mustGet(b.account())
			_, _ = b.store.BeginAttempt(b.t.Context(), etl.CredentialAttempt{Account: "acme", FromGeneration: 2}, etl.AttemptKey{})
			return b.account()
		}, TokenAmbiguous, UrgencyOK, ReasonFine, "", "none: an exchange is under way"},
		"answer lost": {func(b *bench) *Account {
			b.sim.Inject(keystonesim.Fault{Status: 500, Path: "/tokens/", Count: 1})
			_ = b.get(b.account())
			return b.account()
		}, TokenAmbiguous, UrgencyWarn, ReasonAnswerLost, "500", "none: the first run after 2026-05-15T12:03:00Z probes; if the token is refused, " + login},
		"probes used": {func(b *bench) *Account {
			b.sim.Inject(keystonesim.Fault{Status: 500, Path: "/tokens/"})
			_ = b.settles()
			return b.account()
		}, TokenAmbiguous, UrgencyPage, ReasonProbesUsed, "500", "the probes of today are used up: wait, or " + login},
		"used elsewhere": {func(b *bench) *Account { // O06
			b.mustGet(b.account())
			b.sim.Login()
			b.clock.advance(time.Hour)
			_ = b.get(b.account(noSeed))
			return b.account(noSeed)
		}, TokenDead, UrgencyPage, ReasonRefused, "it was used elsewhere, by a person or a second system", login},
		"lost and dead": {func(b *bench) *Account {
			b.mustGet(b.account())
			b.clock.advance(time.Hour)
			b.sim.Inject(keystonesim.Fault{Kind: keystonesim.SpendAndDrop, Count: 1})
			_ = b.settles(noSeed)
			return b.account(noSeed)
		}, TokenDead, UrgencyPage, ReasonRefused, "the answer to the exchange before was lost", login},
		"other key": {func(b *bench) *Account {
			b.mustGet(b.account())
			return b.account(withKeys(9, 0))
		}, TokenDead, UrgencyPage, ReasonSealed, "does not open with this secrets_key",
			"name the key that it was sealed with as former_secrets_key, or start anew with meterhouse token set acme"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, keystonesim.Config{})
			a := c.make(b)
			s := b.wantState(a, c.state)
			if s.Urgency != c.urgency || s.Reason != c.reason || !strings.Contains(s.Detail, c.detail) || s.NextStep != c.step {
				t.Errorf("got %s, %q, %q, %q", s.Urgency, s.Reason, s.Detail, s.NextStep)
			}
			b.clean("the status", fmt.Sprintf("%+v", s))
		})
	}
}

// An exchange between reading and sealing anew wins: what it brought is sealed with the new key anyway.
func TestRekeyRacesAnExchange(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	b.mustGet(b.account(withKeys(1, 0)))
	b.clock.advance(2 * time.Hour)
	both, other := b.account(withKeys(2, 1)), b.account(withKeys(2, 1))
	overtaken := false
	b.store.hook = func(step string) error {
		if step == "LastAttempt" && !overtaken {
			overtaken = true
			b.mustGet(other)
		}
		return nil
	}
	r, err := both.Rekey(t.Context())
	if err != nil || r.FormerKey || r.Generation != 0 || !overtaken {
		t.Errorf("got %+v, %v, want the exchange's pair to stay", r, err)
	}
	if s := b.wantState(both, TokenOK); s.Generation != 3 || s.Source != "refresh" {
		t.Errorf("got %+v", s)
	}
	b.clock.advance(2 * time.Hour)
	b.mustGet(both)
	b.neverSpent()
}
