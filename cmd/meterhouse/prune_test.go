package main

import (
	"regexp"
	"strings"
	"testing"

	"meterhouse/etl/warehouse/warehousetest"
)

func TestPrune(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	w.setNow("2026-05-20T12:30:00Z")
	w.must(exitDone, "run", "keystone.customers", "keystone.current") // nothing new
	o := w.must(exitDone, "prune")
	wantContains(t, "without a retention", o.stdout,
		"retention.payload is 0d: all bodies are kept; set it in the configuration, such as payload: 400d\n", "retention.samples is 0d: all samples are kept;")
	if strings.Contains(o.stdout, "nothing is old") {
		t.Errorf("without a retention:\n%s", o.stdout)
	}

	w.configure("retention: {payload: 30d, samples: 65d}\n")
	wantContains(t, "young", w.must(exitDone, "prune").stdout, "nothing is old\n")

	w.setNow("2026-08-20T12:00:00Z")
	before := w.snapshot()
	plan := w.must(exitDone, "prune", "--plan")
	for _, want := range []string{
		`(?m)^payload  keystone\.current  +4 +\d+  would be deleted$`,
		`(?m)^payload  keystone\.history  +2 +\d+  stays: a figure refers to it$`,
		`(?m)^samples  2026-05  .*  would be dropped$`,
		`(?m)^retention\.samples is 65d: samples from before 2026-06-16 12:00:00Z are old$`,
	} {
		if !regexp.MustCompile(want).MatchString(plan.stdout) {
			t.Errorf("the plan has no %s:\n%s", want, plan.stdout)
		}
	}
	if after := w.snapshot(); after != before {
		t.Errorf("--plan: from %s to %s", before, after)
	}
	done := w.must(exitDone, "prune", "--format", "csv")
	wantContains(t, "prune", done.stdout, "what,of,rows,bytes,fate\n", "payload,keystone.current,4,", ",deleted\n", "samples,2026-05,", ",dropped\n")
	if got := w.value(`select format('%s samples, %s days', (select count(*) from dw.fact_consumption_sample), (select count(*) > 0 from dw.fact_daily_consumption))`); got != "0 samples, t days" {
		t.Errorf("after prune: %s", got)
	}
	again := w.must(exitDone, "prune", "--format", "csv")
	if strings.Contains(again.stdout, "deleted") || strings.Contains(again.stdout, "dropped") {
		t.Errorf("prune again:\n%s", again.stdout)
	}
	// The vendor's figures are the same: days without samples are recognised.
	o = w.must(exitDone, "backfill", "keystone.history", "--from", "2026-05-14", "--until", "2026-05-20")
	wantContains(t, "backfill of pruned days", o.lastLine(), "inserted 0, restated 0, unchanged ")
}

func TestPruneBusyAndWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("retention: {payload: 12h, samples: 64d}\n")
	o := w.must(exitUsage, "prune")
	wantContains(t, "too short", o.stderr, "retention.payload", "12h: want 0d (keep), or at least 1d", "retention.samples", "want 0d (keep), or at least 65d (reread plus 62d)")

	w.configure("retention: {payload: 30d}\n")
	conn := warehousetest.Connect(t, w.database)
	if _, err := conn.Exec(t.Context(), `insert into ops.lease values ('prune', 'warehouse', 1, 'somebody', now(), now() + interval '1 minute')`); err != nil {
		t.Fatal(err)
	}
	wantContains(t, "busy", w.must(exitBusy, "prune").stderr, "prune warehouse: another process is at it (somebody)", "try again later")
	w.must(exitDone, "prune", "--plan")
	wantContains(t, "arguments", w.must(exitUsage, "prune", "all").stderr, `prune: unexpected "all": want no arguments`)
}
