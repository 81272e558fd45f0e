package wolkvox

import (
	"bytes"
	"testing"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/etltest"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

func TestConformance(t *testing.T) {
	refusal := func(status int, words string, class error) etltest.Refusal {
		return etltest.Refusal{Status: status, Body: `{"code":` + words[:3] + `,"error":"NO","msg":"` + words + `"}`, Class: class}
	}
	for _, product := range []string{"chat_licenses", "rec_screen"} { // a gauge, a counter
		t.Run(product, func(t *testing.T) {
			etltest.Source(t, etltest.Config{
				Now:     noon,
				Request: ask(product),
				Open: func(t testing.TB, env etltest.Env) etltest.Vendor {
					return etltest.Vendor{
						Source: account(t, func(cfg *Config) {
							cfg.Server, cfg.BaseURL, cfg.Timeout, cfg.MaxBody = "", env.BaseURL, env.Timeout, env.MaxBody
							cfg.Now, cfg.Wall, cfg.Sleep, cfg.Log = env.Now, env.Wall, env.Sleep, env.Log
						}),
						Fake: wolkvoxsim.New(wolkvoxsim.Config{
							Seed: 7, Now: func() time.Time { return noon }, Operation: "acme_ops", Token: secret,
						}),
						Secrets: []string{secret},
					}
				},
				Refusals: map[string]etltest.Refusal{
					"used up":     refusal(403, "403 TOKEN LIMIT EXCEEDED", etl.ErrThrottled),
					"too many":    refusal(403, "403 EXCEEDS THE LIMIT OF SIMULTANEOUS REQUESTS PER TOKEN (2)", etl.ErrThrottled),
					"a bad token": refusal(403, "403 PLEASE VALIDATE TOKEN", etl.ErrUnauthorized),
					"a backup":    refusal(403, "403", etl.ErrUnavailable),
					"inside 200":  refusal(200, "403 TOKEN LIMIT EXCEEDED", etl.ErrThrottled),
				},
				Foreign: func(body []byte) []byte { return bytes.ReplaceAll(body, []byte("acme_ops"), []byte("others")) },
			})
		})
	}
}
