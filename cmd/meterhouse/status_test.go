package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// verdict is what status says above its tables.
func (w *world) verdict() string {
	w.t.Helper()
	head, _, _ := strings.Cut(w.must(exitDone, "status").stdout, "Freshness")
	return head
}

func (w *world) wantVerdict(parts ...string) {
	w.t.Helper()
	got := w.verdict()
	for _, part := range append(parts, "need") {
		if !strings.Contains(got, part) {
			w.t.Errorf("no %q in\n%s", part, got)
		}
	}
}

// Customers that the vendor lists no more are not loaded. Status says so, and does not advise to load them.
func TestStatusOfCustomersThatAreGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	gone := func(day string) {
		w.setNow("2026-05-" + day + "T02:38:00Z")
		w.keystone.Inject(keystonesim.Fault{Path: "keystone/customer", Count: 1, Kind: keystonesim.Replace,
			Body: []byte(`{"results":{"records":[{"Customers":[{"customer_id":"C-1999","customer_name":"x"}]}],"request_id":"1","response_time":"0.1","returned_records":1}}`)})
		w.run("run", "keystone.customers")
		w.keystone.ClearFaults()
		w.run("run")
	}
	gone("21")
	gone("22")
	absent := w.value(`select string_agg(customer_id, ', ' order by customer_id) from dw.dim_customer where absent_since is not null`)
	if absent == "" {
		t.Fatal("nobody is gone")
	}
	w.wantVerdict("keystone lists " + absent + " of ")
	w.setNow("2026-05-26T02:38:00Z")
	got := w.verdict()
	for _, line := range strings.Split(got, "\n") {
		if strings.Contains(line, strings.Split(absent, ", ")[0]) && strings.Contains(line, "meterhouse run") {
			t.Errorf("advises to load who is gone: %s", line)
		}
	}
	// After a month somebody knows.
	w.setNow("2026-07-26T02:38:00Z")
	if got := w.verdict(); !strings.Contains(got[strings.Index(got, "Good to know"):], "keystone lists "+absent) {
		t.Error(got)
	}
}

// Days of a level that stay away, and an account without any run, are something to do.
func TestStatusOfDaysAndAccountsThatAreMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	w.value(`with d as (delete from dw.fact_daily_consumption where usage_date between '2026-05-15' and '2026-05-18'
		and service_level_key = (select min(service_level_key) from dw.fact_daily_consumption) returning 1) select count(*)::text from d`)
	w.wantVerdict("lacks days from 2026-05-15 on", "--from 2026-05-15 --until 2026-05-19 --customer ")
	w.value(`with a as (delete from ops.watermark where source = 'wolkvox' returning 1) select count(*)::text from a`)
	w.wantVerdict("wolkvox account calls is configured and no run of it was ever made")
}

// What was judged by others is told too: open alerts, and notices that nobody got.
func TestStatusOfAlerts(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	w := newWorld(t)
	w.configure(fmt.Sprintf("alerts: {webhook: %s/hook}\n", p.URL))
	g := w.guard()
	w.must(exitDone, "run")
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Maintenance})
	w.setNow("2026-05-21T14:40:00Z")
	p.fail(true)
	if err := g.tellAlerts(t.Context(), g.sender); err != nil {
		t.Log(err) // the webhook is down
	}
	for range 26 * 6 {
		at := g.session.app.now().Add(10 * time.Minute)
		w.setNow(at.Format(time.RFC3339))
		if err := g.tellAlerts(t.Context(), g.sender); err != nil && !strings.Contains(err.Error(), "503") {
			t.Fatal(err)
		}
	}
	w.wolkvox.ClearFaults()
	w.run("run")
	w.wantVerdict("has no reading of 2026-05-21", "to people not delivered, the first of ")
	out := w.must(exitDone, "status").stdout
	for _, title := range []string{"Open alerts", "Undelivered notices", "lost_day"} {
		if !strings.Contains(out, title) {
			t.Errorf("no %q in\n%s", title, out)
		}
	}
	if strings.Contains(out, p.URL) {
		t.Error("tells the webhook's address")
	}
	var all struct {
		Alerts  []struct{ Kind, Subject, Detail string }
		Notices []struct{ Error string }
	}
	if err := json.Unmarshal([]byte(w.must(exitDone, "status", "--format", "json").stdout), &all); err != nil {
		t.Fatal(err)
	}
	if len(all.Alerts) == 0 || all.Alerts[0].Detail == "" || len(all.Notices) == 0 || all.Notices[0].Error == "" {
		t.Errorf("%+v", all)
	}
}
