package keystone

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/fetch"
	"meterhouse/etl/keystone/keystonesim"
)

// monthAnswer is what the fake vendor says of a customer's month: two levels with a sample every five
// minutes, four with one a day.
func monthAnswer(tb testing.TB) *etl.Answer {
	tb.Helper()
	clock := time.Date(2026, 4, 20, 12, 0, 0, 0, time.UTC)
	sim := keystonesim.New(keystonesim.Config{Seed: 5, Clean: true, Now: func() time.Time { return clock }, TokenNow: func() time.Time { return clock }})
	pair := httptest.NewRecorder()
	exchange := httptest.NewRequest("POST", "/v1/tokens/accessToken", strings.NewReader(`{"refresh_token":"`+sim.RefreshToken()+`"}`))
	exchange.Header.Set("Content-Type", "application/json")
	sim.ServeHTTP(pair, exchange)
	var tokens map[string]string
	if err := json.Unmarshal(pair.Body.Bytes(), &tokens); err != nil {
		tb.Fatal(err)
	}
	r := httptest.NewRequest("GET",
		"/v1/keystone/customer/historical-consumption-details?type=customer&id=C-1001&from_date_utc=2026-03-01T00:00:00Z&to_date_utc=2026-03-31T23:59:59Z", nil)
	r.Header.Set("authorizationToken", tokens["access_token"])
	w := httptest.NewRecorder()
	sim.ServeHTTP(w, r)
	if w.Code != 200 {
		tb.Fatalf("got %d %s, want 200", w.Code, w.Body)
	}
	from, err := etl.ParseDay("2026-03-01")
	if err != nil {
		tb.Fatal(err)
	}
	return &etl.Answer{
		Request: etl.Request{Dataset: History, Scope: "C-1001", Window: etl.Window{From: from, Until: from + 31}},
		Status:  200, ContentType: "application/json", RequestedAt: clock, FetchedAt: clock,
		Body: fetch.NewBody(w.Body.Bytes()),
	}
}

// BenchmarkDecode reads a customer's month as the vendor sends it, into a sink that keeps nothing.
func BenchmarkDecode(b *testing.B) {
	ans := monthAnswer(b)
	defer ans.Body.Close()
	b.SetBytes(ans.Body.Size())
	b.ReportAllocs()
	samples := 0
	for b.Loop() {
		report, err := transform(ans, etl.Discard{})
		if err != nil || report.Quarantined > 0 {
			b.Fatalf("got %+v and the error %v", report, err)
		}
		samples = report.Received
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(samples), "ns/sample")
}
