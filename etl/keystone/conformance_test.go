package keystone

import (
	"bytes"
	"net/http"
	"testing"

	"meterhouse/etl"
	"meterhouse/etl/etltest"
	"meterhouse/etl/keystone/keystonesim"
)

func TestConformance(t *testing.T) {
	anotherCustomer := func(body []byte) []byte { return bytes.ReplaceAll(body, []byte("C-1001"), []byte("C-2002")) }
	for name, c := range map[string]struct {
		request etl.Request
		foreign func([]byte) []byte
	}{
		"customers":     {etl.Request{Dataset: Customers, Scope: "acme"}, nil},
		"subscriptions": {etl.Request{Dataset: Subscriptions, Scope: "C-1001"}, nil},
		"current":       {etl.Request{Dataset: Current, Scope: "C-1001"}, nil},
		"history":       {etl.Request{Dataset: History, Scope: "C-1001", Window: may(1, 4)}, anotherCustomer},
	} {
		t.Run(name, func(t *testing.T) {
			etltest.Source(t, etltest.Config{
				Now:     newClock().now(),
				Request: c.request,
				Foreign: c.foreign,
				Open: func(t testing.TB, env etltest.Env) etltest.Vendor {
					clock := newClock()
					sim := keystonesim.New(keystonesim.Config{Now: clock.now, TokenNow: clock.now, DailyOnly: true})
					account, err := New(Config{
						Account: "acme", BaseURL: env.BaseURL, Timeout: env.Timeout, MaxBody: env.MaxBody,
						SecretsKey: testKey, SeedToken: mustToken(t, sim.RefreshToken()), Tokens: newStore(clock.now), Owner: "test",
						Now: env.Now, RealNow: clock.now, Wall: env.Wall, Sleep: env.Sleep, Pace: 1, Log: env.Log,
					})
					if err != nil {
						t.Fatal(err)
					}
					return etltest.Vendor{
						Source: account, Fake: sim,
						Secrets: []string{sim.RefreshToken()}, Credentials: []string{"authorizationToken"},
						IsData: func(r *http.Request) bool { return r.URL.Path != tokenPath },
					}
				},
			})
		})
	}
}
