package main

import (
	"regexp"
	"strings"
	"testing"
)

func TestClose(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	wantContains(t, "a running month", w.must(exitDifference, "close", "2026-05").stderr, "close 2026-05 is refused\n  not_over: the month ends on 2026-05-31")
	const later, reason = "2026-06-10T12:00:00Z", "the vendor is gone"
	at := func(code int, args ...string) outcome {
		t.Helper()
		return w.must(code, append([]string{"--now", later}, args...)...)
	}
	wantContains(t, "gaps", at(exitDifference, "close", "2026-05").stderr, "missing: 132 days of levels without figures", "missing: 11 days of products that nobody read", "see `meterhouse report missing_days`", "; --accept-gaps accepts it",
		"license_month: the licence month of calls is lost", "begins: the history of acme begins on ", "begins: the first reading of calls is of ", "not_loaded: 3 customers have no complete history up to the end of the month")
	plan := at(exitDifference, "close", "2026-05", "--plan")
	wantContains(t, "plan", plan.stdout, "against it: missing: ", "would close 2026-05, version 1: 22 lines, 420 days, 0 adjustments")
	wantContains(t, "plan", plan.stderr, "close 2026-05 would be refused: 6 obstacles")
	wantContains(t, "nothing closed", at(exitDone, "close", "verify").stdout, "nothing was closed\n")
	wantContains(t, "a month not closed", at(exitDone, "close", "verify", "2026-05").stdout, "2026-05 was not closed\n")
	wantContains(t, "reopen an open month", at(exitDifference, "reopen", "2026-05", "--reason", "x").stderr, "the month is not closed")
	wantContains(t, "plan of what would be accepted", at(exitDone, "close", "2026-05", "--plan", "--accept-gaps", "--reason", reason).stdout, "would be accepted: missing: ")

	closed := at(exitDone, "close", "2026-05", "--accept-gaps", "--reason", reason, "--by", "Jane").stdout
	wantContains(t, "close", closed, "accepted: missing: ", "closed 2026-05, version 1: 22 lines, 420 days", "22 lines without a price, in no total", "keep this hash")
	hash := regexp.MustCompile(`link 1 ([0-9a-f]{64})\n`).FindStringSubmatch(closed)
	if hash == nil {
		t.Fatal(closed)
	}
	wantContains(t, "verify", at(exitDone, "close", "verify").stdout, "1 link with 22 lines and 420 days as they were closed\nlast hash "+hash[1]+"\n")
	wantContains(t, "verify a month", at(exitDone, "close", "verify", "2026-05").stdout, "last hash "+hash[1])
	wantContains(t, "a hash that was kept", at(exitDone, "close", "verify", "--hash", strings.ToUpper(hash[1])).stdout, "last hash "+hash[1])
	wantContains(t, "a hash of none", at(exitDifference, "close", "verify", "--hash", strings.Repeat("ab", 32)).stdout, "no link has the hash abab")
	if out := at(exitDone, "statement", "2026-05", "--format", "csv").stdout; strings.Count(out, ",closed,") != 22 {
		t.Errorf("got %s", out)
	}
	wantContains(t, "twice", at(exitDifference, "close", "2026-05", "--accept-gaps", "--reason", "again").stderr, "closed: 2026-05 is closed already, version 1: `meterhouse reopen 2026-05 --reason R` takes it back\n")

	w.exec(`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			over_committed_avg_tib, known_from, known_until, payload_id, run_id)
		select customer_key, service_level_key, usage_date, 'restated', 1, committed_tib, 1, 1, 1, 0, known_since, '2026-06-10T13:00:00Z', payload_id, run_id
		from dw.fact_daily_consumption order by usage_date, service_level_key limit 1`)
	wantContains(t, "status", at(exitDone, "status").stdout, "2026-05 is closed, and the vendor changed 1 day of customer ")

	wantContains(t, "reopen", at(exitDone, "reopen", "2026-05", "--reason", "wrong").stdout, "reopened 2026-05: version 1 stays and is no longer in force\nlink 2 ")
	wantContains(t, "version 2", at(exitDone, "close", "2026-05", "--accept-gaps", "--reason", reason).stdout, "closed 2026-05, version 2: ")
	w.exec(`alter table billing.closed_line disable trigger user`)
	w.exec(`update billing.closed_line set amount = 1, currency = 'USD' where link = 3 and line_no = 2`)
	bad := at(exitDifference, "close", "verify")
	wantContains(t, "tampered", bad.stdout, "link 3 (close of 2026-05): closed_line 2: its columns say")
	wantContains(t, "tampered", bad.stderr, "closed months were changed")
	at(exitDone, "close", "verify", "2026-04")

	for args, want := range map[string]string{
		"close":                        "close: 0 arguments: want one, a month such as 2026-10, or verify",
		"close verfy":                  `period "verfy": want a month as YYYY-MM, or verify`,
		"close 2026-05 --accept-gaps":  "--accept-gaps wants --reason",
		"close 2026-05 --reason x":     "want --accept-gaps with it",
		"close verify 2026-5":          `period "2026-5": want a month as YYYY-MM`,
		"close verify --hash abc":      "want 64 hexadecimal digits",
		"reopen 2026-05":               "want --reason",
		"reopen 2026-13 --reason x":    `period "2026-13"`,
		"close verify 2026-05 2026-06": "2 arguments: want none or one",
	} {
		wantContains(t, args, w.must(exitUsage, strings.Fields(args)...).stderr, want)
	}
}
