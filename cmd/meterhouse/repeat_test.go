package main

import (
	"fmt"
	"testing"
)

// A vendor that repeats itself, but for the id and the time of its answers, is read twice: the second reading
// finds nothing new, and the ones after it are known. A replay reads whatever it is given, and what it leaves
// as it was is still known.
func TestRepeatedAnswersAreNotRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run", "keystone.customers")
	hour := 13
	backfill := func() string {
		hour++
		w.setNow(fmt.Sprintf("2026-05-20T%02d:00:00Z", hour))
		w.must(exitDone, "backfill", "keystone.history", "--from", "2026-05-14", "--until", "2026-05-17")
		return w.value(`select string_agg(format('%s %s', same_as is not null, unchanged > 0), ', ') from (
			select * from mart.run where dataset = 'keystone.history' and received > 0 order by run_id desc limit 2) as r`)
	}
	for n, want := range []string{"f f, f f", "f t, f t", "t t, t t", "t t, t t"} {
		if got := backfill(); got != want {
			t.Errorf("backfill %d: known and unchanged %s, want %s", n+1, got, want)
		}
	}
	if w.value(`select count(distinct unchanged)::text from mart.run where dataset = 'keystone.history' and unchanged > 0 and scope = (select min(scope) from mart.run where dataset = 'keystone.history')`) != "1" {
		t.Error("runs that know the answer count other records than those that read it")
	}
	if got := w.value(`select count(distinct body_sha256)::text || ' ' || count(*) from ops.run where dataset = 'keystone.history' and received > 0`); got != "8 8" {
		t.Errorf("distinct bodies and runs: %s, want 8 8", got)
	}
	w.must(exitDone, "replay", "keystone.history", "--from", "2026-05-14", "--until", "2026-05-17")
	if got := w.value(`select count(same_as)::text || ' ' || (count(*) > 0) from mart.run where replay_of is not null`); got != "0 true" {
		t.Errorf("replays that did not read: %s, want 0 true", got)
	}
	if got := backfill(); got != "t t, t t" {
		t.Errorf("after a replay that changed nothing: known and unchanged %s", got)
	}
}
