package wolkvox_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/wolkvox"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

func Example() {
	noon := func() time.Time { return time.Date(2026, 5, 15, 12, 0, 0, 0, time.UTC) }
	sim := wolkvoxsim.New(wolkvoxsim.Config{Seed: 1, Now: noon})
	server := httptest.NewServer(sim)
	defer server.Close()

	account, err := wolkvox.New(wolkvox.Config{Account: "callcenter", BaseURL: server.URL, Token: wolkvox.Token(sim.Token()), Now: noon})
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := account.Extract(context.Background(), etl.Request{Dataset: wolkvox.Dataset, Scope: "callcenter", Product: "amazon_s3"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer answer.Body.Close()
	fmt.Println(account, "answered with status", answer.Status, "and", answer.Body.Size(), "bytes")
	// Output: wolkvox account callcenter answered with status 200 and 177 bytes
}
