package warehouse

import (
	"fmt"
	"testing"
	"time"

	"meterhouse/etl"
)

// V18: a vendor whose clock is off is told of, until its next answer is dated right.
func TestVendorClockAlert(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	const key = "vendor_clock_skewed vendor_clock:keystone:acme"
	w.exec(`insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at) values ('C-1', 'acme', now(), now()), ('C-2', 'acme', now(), now())`)
	answer := func(scope, skew string, calls bool) {
		t.Helper()
		w.now, w.warnings = w.now.Add(time.Minute), nil
		if skew != "" {
			w.warnings = etl.Warnings{etl.VendorClockSkewed: {Count: 1, FirstPath: "acme.example, " + skew + " our clock"}}
		}
		out, err := w.load(etl.Job{Dataset: "keystone.history", Scope: scope}, window("2026-05-01", "2026-05-02"), func(sink etl.Sink) (etl.Report, error) {
			return etl.Report{Records: 1, Received: 1}, sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(sample("2026-05-01T00:00:00Z", "112.5"))}})
		})
		if err != nil || out.Partial() || out.Warnings[etl.VendorClockSkewed].Count > 0 != (skew != "") {
			t.Fatalf("got %+v, %v", out, err)
		}
		if calls {
			w.exec(`insert into ops.run_call (run_id, class, calls) select max(run_id), 'ok', 1 from ops.run`)
		}
		w.exec(`update ops.watermark set next_due_at = null`)
	}
	const alert = `select severity, account, since, subject, detail from mart.alert where kind = 'vendor_clock_skewed'`
	told := func(since, skew string, run int) string {
		return fmt.Sprintf("warn|acme|%s|the clock of keystone and ours differ, by the answers for acme|"+
			"By the Date of the newest answer: acme.example, %s our clock (run %d on here). If the clock of here is wrong, set it, such as with NTP: "+
			"what is due, and which days are refused as future, go by it. If it is right, tell the vendor: days about midnight and the end of a month may be others than it says. "+
			"What is loaded is as the vendor told it.", since, skew, run)
	}

	answer("C-1", "", true)
	w.wantLook()
	answer("C-1", "3h0m0s behind", true)
	w.wantLook("opened warn " + key)
	since := w.now.Format("2006-01-02 15:04:05+00")
	w.want(alert, told(since, "3h0m0s behind", 2))
	if again := w.pass(2*time.Hour, func() { answer("C-2", "3h0m0s behind", true) }); len(again) > 0 {
		t.Errorf("it was told already, and then %q", again)
	}
	w.want(alert, told(since, "3h0m0s behind", 62)) // since the first of them

	// What is read again, or fails, is no word of the vendor's clock.
	answer("C-1", "", false)
	w.ran("keystone.history", "C-2", "vendor unavailable", time.Hour)
	w.exec(`insert into ops.run_call (run_id, class, calls) select max(run_id), 'unavailable', 4 from ops.run`)
	if got := w.pass(20*time.Minute, nil); len(got) > 0 {
		t.Errorf("without an answer: %q", got)
	}
	w.want(alert, told(since, "3h0m0s behind", 62))

	answer("C-1", "", true)
	wantLines(t, w.pass(20*time.Minute, nil), "16m0s resolved warn "+key)
	w.want(alert)
	w.want(`select status from ops.run where error is null group by status`, "ok")
	answer("C-2", "26h0m0s ahead of", true)
	w.wantLook("opened warn " + key)
	w.want(alert, told(w.now.Format("2006-01-02 15:04:05+00"), "26h0m0s ahead of", 66))

	// What is configured no more tells nothing.
	w.check.Watched = []Watched{{Source: "keystone", Account: "others"}}
	wantLines(t, w.pass(20*time.Minute, nil), "16m0s resolved warn "+key)
}
