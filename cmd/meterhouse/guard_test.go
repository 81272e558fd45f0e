package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// spacedWorld makes a world whose wolkvox is asked as sparingly as the vendor's. Its only vendor is wolkvox.
func spacedWorld(t *testing.T) *world {
	w := newWorld(t)
	w.file = writeFile(t, "meterhouse.yaml", fmt.Sprintf(`database: {url: "%s"}
wolkvox:
  - {account: calls, base_url: "%s", token: "%s", products: [ivr_minutes, chat_licenses]}
`, w.database, w.url, w.wolkvox.Token()))
	return w
}

// A product that was read within five minutes is left out; when all were, nothing is done and a later
// time is named.
func TestRunKeepsTheSpacing(t *testing.T) { // not parallel: it sets what others have off
	wolkvoxSpacing = 0
	defer func() { wolkvoxSpacing = -1 }()
	w := spacedWorld(t)
	w.must(exitDone, "run")
	calls := len(w.wolkvox.Requests())
	w.setNow("2026-05-20T12:31:00Z") // the business clock may say what it will
	for _, args := range [][]string{{"run"}, {"run", "wolkvox.billing"}} {
		o := w.must(exitBusy, args...)
		wantContains(t, "stdout", o.stdout, "wolkvox.billing  calls        1         0         0         0          0        0            0       0  held")
		wantContains(t, "stderr", o.stderr, "meterhouse: wolkvox.billing calls: not asked before ", " s ago, the vendor allows one reading per product every 5 minutes\n")
		if strings.Contains(o.stderr, "level=ERROR") {
			t.Errorf("stderr: %s", o.stderr)
		}
	}
	if n := len(w.wolkvox.Requests()); n != calls || w.value(`select count(*)::text from ops.run`) != "1" {
		t.Errorf("%d requests, want %d", n, calls)
	}
	w.value(`update ops.vendor_call set started_at = started_at - interval '6 minutes', ended_at = ended_at - interval '6 minutes'
		where product = 'ivr_minutes' returning product`)
	wantContains(t, "stdout", w.must(exitDone, "run").stdout, "wolkvox.billing  calls        1         1")
	if all := w.wolkvox.Requests(); len(all) != calls+1 || all[calls].API != "ivr_minutes" {
		t.Errorf("requests %v", all)
	}
}

// What the vendor refused holds `run` back, but not a person who names the dataset.
func TestRunIsHeldByARefusal(t *testing.T) {
	t.Parallel()
	w := spacedWorld(t)
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.BadToken, Count: 2})
	w.must(exitFailed, "run")
	o := w.must(exitBusy, "run")
	wantContains(t, "stderr", o.stderr, "the vendor refused the token on ", "`meterhouse run wolkvox.billing` tries it")
	if n := len(w.wolkvox.Requests()); n != 1 {
		t.Errorf("%d requests", n)
	}
	w.must(exitFailed, "run", "wolkvox.billing")
	w.must(exitDone, "run", "wolkvox.billing")
	w.setNow("2026-05-20T12:31:00Z")
	w.must(exitDone, "run")
	if strings.Contains(w.must(exitDone, "--log-level", "debug", "status").stderr, w.wolkvox.Token()) {
		t.Error("the token is shown")
	}
}

// The end of a month: its readings, the quiet time, and what status says when they fail.
func TestEndOfAMonth(t *testing.T) {
	t.Parallel()
	w := spacedWorld(t)
	at := func(local string) {
		t.Helper()
		when, err := time.Parse(time.RFC3339, strings.Replace(local, " ", "T", 1)+":00-05:00")
		if err != nil {
			t.Fatal(err)
		}
		w.setNow(when.UTC().Format(time.RFC3339))
	}
	at("2026-05-31 23:00")
	w.must(exitDone, "run")
	at("2026-05-31 23:04")
	wantContains(t, "before", w.must(exitDone, "run").stdout, "nothing is due")
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Reply, Status: 405, Body: []byte("{}")})
	for _, local := range []string{"2026-05-31 23:05", "2026-05-31 23:25", "2026-05-31 23:45"} {
		at(local)
		w.must(exitFailed, "run")
	}
	status := w.must(exitDone, "status").stdout
	wantContains(t, "status", status, "month 2026-05 of calls is at risk, it ends 2026-06-01 05:00:00+00 (http_status: status 405", "`meterhouse run wolkvox.billing`")
	w.wolkvox.ClearFaults()
	calls := len(w.wolkvox.Requests())
	at("2026-05-31 23:55")
	wantContains(t, "quiet", w.must(exitBusy, "run", "wolkvox.billing").stderr, "not asked before 2026-06-01T05:10:00Z: the month ends")
	if n := len(w.wolkvox.Requests()); n != calls {
		t.Errorf("%d requests in the quiet time", n-calls)
	}
	at("2026-06-01 00:10")
	w.must(exitDone, "run")
	wantContains(t, "status", w.must(exitDone, "status", "--format", "json").stdout,
		"month 2026-05 of calls was lost, its last reading is of 2026-06-01 04:00:00+00 (http_status: status 405", `"state": "lost"`)
}
