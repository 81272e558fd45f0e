// Package etltest checks that a source keeps the promises of etl.Source.
//
// Whoever adds a vendor hands [Source] a constructor of the source and the vendor's fake. The suite
// puts itself between the two: it lets requests through, or answers in the vendor's stead as
// vendors do on bad days. So the fake needs no faults for it, and every source meets the same ones.
//
//	func TestConformance(t *testing.T) {
//		etltest.Source(t, etltest.Config{
//			Now:     noon,
//			Request: etl.Request{Dataset: "acme.usage", Scope: "C-1001", Window: threeDays},
//			Open: func(t testing.TB, env etltest.Env) etltest.Vendor {
//				account, err := acme.New(acme.Config{
//					BaseURL: env.BaseURL, Token: secret, Timeout: env.Timeout, MaxBody: env.MaxBody,
//					Now: env.Now, Wall: env.Wall, Sleep: env.Sleep, Log: env.Log,
//				})
//				if err != nil {
//					t.Fatal(err)
//				}
//				return etltest.Vendor{Source: account, Fake: acmesim.New(noon), Secrets: []string{secret}}
//			},
//		})
//	}
//
// What it cannot know is whether the facts are right. Golden folders and a comparison with the
// fake's own totals tell that; CONTRIBUTING.md names the places.
package etltest
