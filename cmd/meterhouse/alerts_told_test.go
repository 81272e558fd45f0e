package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// The vendor lists two of three customers no more.
func TestCustomersGoneAreTold(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	w := newWorld(t)
	w.configure(fmt.Sprintf("alerts: {webhook: %s/hook}\n", p.URL))
	g := w.guard()
	w.must(exitDone, "run")
	for _, day := range []string{"21", "22"} {
		w.setNow("2026-05-" + day + "T02:38:00Z")
		w.keystone.Inject(keystonesim.Fault{Path: "keystone/customer", Count: 1, Kind: keystonesim.Replace,
			Body: []byte(`{"results":{"records":[{"Customers":[{"customer_id":"C-1999","customer_name":"x"}]}],"request_id":"1","response_time":"0.1","returned_records":1}}`)})
		w.run("run", "keystone.customers")
		w.keystone.ClearFaults()
		g.pass(23*time.Hour + 40*time.Minute)
	}
	t.Logf("absent: %s; history runs of the last day: %s", w.value(`select coalesce(string_agg(customer_id || ' ' || coalesce(absent_since::text, '-'), ', '), '') from dw.dim_customer`),
		w.value(`select coalesce(string_agg(distinct scope, ' '), 'none') from ops.run where dataset = 'keystone.history' and business_at > '2026-05-22T00:00:00Z'`))
	if got := p.heard(); !slices.Contains(got, "opened warn customer_absent") {
		t.Errorf("two of three customers vanished; told %q", got)
	}
}

// News in order: what is over must not be told before that it began.
func TestNoticesInOrder(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	w := newWorld(t)
	w.configure(fmt.Sprintf("alerts: {webhook: %s/hook}\n", p.URL))
	g := w.guard()
	w.must(exitDone, "run")
	if err := g.tellAlerts(t.Context(), g.sender); err != nil {
		t.Fatal(err)
	}
	p.fail(true)
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.BadToken})
	w.setNow("2026-05-20T14:40:00Z")
	w.run("run")
	_ = g.tellAlerts(t.Context(), g.sender)
	_ = g.sender.SendDue(t.Context())
	w.exec(`update ops.alert_notice set next_try_at = now() + interval '1 hour'`) // after some failures it waits an hour
	p.fail(false)
	w.wolkvox.ClearFaults()
	w.run("run", "wolkvox.billing")
	for range 4 {
		w.setNow(g.session.app.now().Add(8 * time.Minute).Format(time.RFC3339))
		_ = g.tellAlerts(t.Context(), g.sender)
	}
	w.exec(`update ops.alert_notice set next_try_at = now()`)
	_ = g.sender.SendDue(t.Context())
	got := p.heard()
	if len(got) == 0 || !strings.HasPrefix(got[0], "opened") {
		t.Errorf("told in this order: %q", got)
	}
}

// A secrets_key that opens nothing is not the vendor's refusal.
func TestWrongKeyIsNoRefusal(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	w := newWorld(t)
	w.configure(fmt.Sprintf("alerts: {webhook: %s/hook}\n", p.URL))
	w.must(exitDone, "run")
	w.exec(`update ops.credential set access_expires_at = now() - interval '1 hour' where access_sealed is not null`)
	text, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("Q", len(testKey)-1) + testKey[len(testKey)-1:]
	if err := os.WriteFile(w.file, []byte(strings.Replace(string(text), testKey, other, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	w.setNow("2026-05-21T14:40:00Z")
	w.run("run")
	g := w.guard()
	_ = g.tellAlerts(t.Context(), g.sender)
	got := w.value(`select coalesce(string_agg(kind || ': ' || subject || ' / ' || detail, e'\n'), 'nothing') from mart.alert`)
	if !strings.HasPrefix(got, "token_unusable: ") || strings.Contains(got, "refuses the credentials") || strings.Contains(got, "ask NetApp for the rights") {
		t.Errorf("nobody asked the vendor: %s", got)
	}
}
