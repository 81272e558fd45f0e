package keystone

import (
	"errors"
	"testing"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/keystone/keystonesim"
)

// The login of one account given to another: its token was exchanged already and is not sent again.
func TestTokenOfAnotherAccountIsRefused(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	first := mustToken(t, b.sim.RefreshToken())
	noSeed := func(c *Config) { c.SeedToken = Token{} }
	acme := b.account(noSeed)
	if err := acme.SetToken(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	b.mustGet(acme)
	other := b.account(noSeed, func(c *Config) { c.Account = "other" })
	if err := other.SetToken(t.Context(), first); !errors.Is(err, etl.ErrUnauthorized) {
		t.Errorf("set: %v, want it refused", err)
	}
	b.neverSpent()
	b.clock.advance(2 * time.Hour)
	if err := b.get(b.account(noSeed)); err != nil {
		t.Errorf("the chain of acme: %v", err)
	}
}

// Two accounts that are configured with one token, as in two files: the first has it.
func TestSeedOfAnotherAccountIsNotSent(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	seed := mustToken(t, b.sim.RefreshToken())
	same := func(c *Config) { c.SeedToken = seed }
	b.mustGet(b.account(same))
	if err := b.get(b.account(same, func(c *Config) { c.Account = "other" })); !errors.Is(err, etl.ErrUnauthorized) {
		t.Errorf("get: %v, want it refused", err)
	}
	b.neverSpent()
}
