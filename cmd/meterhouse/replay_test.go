package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"

	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// exec changes the database behind the program's back.
func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.database)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// facts is everything that analysts read, by hash; which run wrote a row is left out.
func (w *world) facts() string {
	w.t.Helper()
	return w.value(`
		select string_agg(part, E'\n' order by part)
		from (
			select 'sample ' || md5(string_agg(f::text, ',' order by f)) from dw.fact_consumption_sample as f
			union all select 'day ' || md5(string_agg(f::text, ',' order by f)) from mart.daily_consumption as f
			union all select 'restatement ' || count(*) from dw.restatement
			union all select 'commitment ' || md5(string_agg(f::text, ',' order by f)) from mart.commitment as f
			union all select 'subscription ' || md5(string_agg(f::text, ',' order by f)) from mart.subscription as f
			union all select 'reading ' || md5(string_agg(f::text, ',' order by f)) from mart.service_level as f
			union all select 'license ' || md5(string_agg(f::text, ',' order by f)) from mart.license_snapshot as f
			union all select 'coverage ' || md5(string_agg(f::text, ',' order by f::text)) from mart.coverage as f
		) as parts (part)`)
}

// body is the nth landed body of a dataset.
func (w *world) body(nth, dataset string) string {
	w.t.Helper()
	packed := w.value(`select encode(body_zstd, 'hex') from raw.payload where dataset = $2 order by payload_id offset $1::text::integer - 1 limit 1`, nth, dataset)
	raw, err := hex.DecodeString(packed)
	if err != nil {
		w.t.Fatal(err)
	}
	unzip, err := zstd.NewReader(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer unzip.Close()
	body, err := unzip.DecodeAll(raw, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(body)
}

// rewrite changes what a landed body says, as if the program had come to read it differently.
func (w *world) rewrite(payload, old, new string) {
	w.t.Helper()
	nth := w.value(`select count(*)::text from raw.payload as p join raw.payload as me on me.payload_id = $1::text::bigint
		where p.dataset = me.dataset and p.payload_id <= me.payload_id`, payload)
	body := w.body(nth, w.value(`select dataset from raw.payload where payload_id = $1::text::bigint`, payload))
	if !strings.Contains(body, old) {
		w.t.Fatalf("payload %s does not hold %q:\n%s", payload, old, body)
	}
	body = strings.Replace(body, old, new, 1)
	zip, err := zstd.NewWriter(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(body))
	w.exec(`update raw.payload set body_zstd = $2, body_sha256 = $3, body_bytes = $4 where payload_id = $1::text::bigint`,
		payload, zip.EncodeAll([]byte(body), nil), sum[:], len(body))
}

func TestReplayOfWhatIsLoadedChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	w.setNow("2026-05-20T12:30:00Z")
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.NoData, API: "chat_licenses", Count: 1})
	w.must(exitDone, "run")
	before, calls := w.facts(), w.calls()

	// Without a credential, from a configuration as one has it on another machine.
	w.env = map[string]string{}
	o := w.must(exitDone, "replay", "--from", "2026-05-01", "--until", "2026-06-01")
	wantContains(t, "replay", o.stdout, "keystone.customers", "keystone.subscriptions", "keystone.current", "keystone.history", "wolkvox.billing")
	if !strings.HasPrefix(o.lastLine(), "inserted 0, restated 0, unchanged ") || !strings.HasSuffix(o.lastLine(), ", quarantined 0") {
		t.Errorf("replay: %s", o.lastLine())
	}
	if strings.Contains(o.stdout, "unchanged 0") || strings.Contains(o.stdout, "warning") {
		t.Errorf("replay:\n%s", o.stdout)
	}
	if after := w.facts(); after != before {
		t.Errorf("facts before:\n%s\nafter:\n%s", before, after)
	}
	if w.calls() != calls {
		t.Error("a replay asked a vendor")
	}
	// What was ignored when it came, such as samples beyond the window, is so again.
	count := func(which string) string {
		return w.value(`select format('received %s, stored %s, ignored %s', sum(received), sum(inserted + restated + unchanged), sum(ignored))
			from ops.run where dataset = 'keystone.history' and ` + which)
	}
	came := count(`replay_of is null and payload_id is not null`)
	if again := count(`replay_of is not null`); again != came || strings.HasSuffix(came, "ignored 0") {
		t.Errorf("the history as it came: %s; replayed: %s; want the same, and some ignored", came, again)
	}
	if n := w.value(`select count(*)::text from mart.run where replay_of is null and window_from is null and status <> 'ok'`); n != "0" {
		t.Errorf("%s runs are not ok", n)
	}
	// The slots are not done by it: what was due before is due still.
	w.env["KEYSTONE_TOKEN"] = w.keystone.RefreshToken()
	w.setNow("2026-05-20T13:00:00Z")
	wantContains(t, "due", w.must(exitDone, "run", "--plan").stdout, "wolkvox.billing")

	plan := w.must(exitDone, "replay", "wolkvox.billing", "--from", "2026-05-20", "--until", "2026-05-21", "--plan").stdout
	if n := strings.Count(plan, "wolkvox.billing"); n != 2 {
		t.Errorf("plan lists %d runs, want 2:\n%s", n, plan)
	}
	wantContains(t, "another month", w.must(exitDone, "replay", "--from", "2026-06-01", "--until", "2026-07-01").stdout, "nothing is landed for that")
}

// A run that is killed after it landed an answer and before it loaded it leaves what nobody can ask
// for again: the next run of the scope loads it, once.
func TestRunLoadsWhatAKilledRunLanded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run", "wolkvox.billing")
	want := w.value(`select string_agg(f::text, ',' order by f) from (select operation_key, product_key, description, read_at, items from dw.fact_license_reading) as f`)
	w.exec(`delete from dw.fact_license_reading`)
	w.exec(`delete from dw.fact_license_snapshot`)
	w.exec(`delete from ops.coverage`)
	w.exec(`update ops.run set status = 'running', finished_at = null, payload_id = null, fetched_at = null, body_bytes = null,
		received = 0, inserted = 0, unchanged = 0`)
	w.exec(`update ops.watermark set last_success_at = null, watermark = null`)

	w.setNow("2026-05-20T12:30:00Z")
	w.must(exitDone, "run", "wolkvox.billing")
	got := w.value(`select string_agg(f::text, ',' order by f) from (
		select operation_key, product_key, description, read_at, items from dw.fact_license_reading where read_at = '2026-05-20T12:00:00Z') as f`)
	if got != want {
		t.Errorf("readings of the killed run:\n%s\nwant:\n%s", got, want)
	}
	runs := `select string_agg(format('%s %s', status, coalesce(replay_of::text, '-')), ', ' order by run_id) from ops.run`
	if got, want := w.value(runs), "failed -, ok -, ok 1"; got != want {
		t.Errorf("runs %s, want %s", got, want)
	}
	w.setNow("2026-05-20T13:00:00Z")
	w.must(exitDone, "run", "wolkvox.billing")
	if got, want := w.value(runs), "failed -, ok -, ok 1, ok -"; got != want {
		t.Errorf("runs %s, want %s", got, want)
	}
}

func TestQuarantineRetry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: "chat_licenses", Body: []byte("12 of 30"), Count: 2})
	w.must(exitPartial, "run", "wolkvox.billing")
	w.setNow("2026-05-20T12:30:00Z")
	w.must(exitPartial, "run", "wolkvox.billing") // the same refusal is not listed again
	id := w.value(`select string_agg(quarantine_id::text, ' ') from mart.quarantine`)

	still := w.must(exitPartial, "quarantine", "retry", id)
	wantContains(t, "refused still", still.stderr, "1 of 1 record refused still: "+id+" (number_format)")
	if n := w.value(`select count(*)::text from mart.quarantine`); n != "1" {
		t.Errorf("%s records in quarantine after a retry, want 1", n)
	}

	// The next version takes it for 12. Both bodies are read again.
	for _, payload := range strings.Fields(w.value(`select string_agg(payload_id::text, ' ') from raw.payload where product = 'chat_licenses'`)) {
		w.rewrite(payload, "12 of 30", "12")
	}
	o := w.must(exitDone, "quarantine", "retry", id)
	if want := "inserted 2, restated 0, unchanged 2, quarantined 0"; o.lastLine() != want { // runs are read as a whole
		t.Errorf("retry: %s, want %s", o.lastLine(), want)
	}
	if got := w.value(`select string_agg(items::text, ' ') from dw.fact_license_reading as f join dw.dim_product using (product_key) where api = 'chat_licenses'`); got != "12 12" {
		t.Errorf("readings %q, want 12 12", got)
	}
	wantContains(t, "resolution", w.value(`select resolution from mart.quarantine`), "accepted by run", "read the same answer again")
	if got := w.value(`select status from mart.coverage where product = 'chat_licenses'`); got != "observed" {
		t.Errorf("coverage %s, want observed", got)
	}
	wantContains(t, "again", w.must(exitFailed, "quarantine", "retry", id).stderr, "quarantine "+id+": is settled: accepted by run")
	wantContains(t, "unknown", w.must(exitFailed, "quarantine", "retry", "99").stderr, "quarantine 99: there is no such record")
}

// A refused sample that is accepted on the second reading, after later runs saw the same refusal:
// day, coverage and quarantine end as if it had never been refused.
func TestQuarantineRetryOfHistory(t *testing.T) {
	t.Parallel()
	backfill := []string{"backfill", "keystone.history", "--customer", "0042117", "--from", "2026-05-14", "--until", "2026-05-20"}
	good := newWorld(t)
	good.must(exitDone, "run", "keystone.customers")
	good.must(exitDone, backfill...)
	body := good.body("1", "keystone.history")

	w := newWorld(t)
	w.must(exitDone, "run", "keystone.customers")
	figure := regexp.MustCompile(`"consumed_tib":[0-9.]+`).FindString(body)
	spoiled := strings.Replace(body, figure, `"consumed_tib":"12 TiB"`, 1)
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Replace, Path: "/historical", Body: []byte(spoiled), Count: 2})
	w.must(exitPartial, backfill...)
	w.must(exitPartial, backfill...) // brings no news, and is not landed
	id := w.value(`select quarantine_id::text from mart.quarantine`)
	if got := w.value(`select string_agg(distinct status, ' ') from mart.coverage where status <> 'not_due'`); got != "observed partial" {
		t.Errorf("coverage with a refused sample: %s", got)
	}

	payload := w.value(`select payload_id::text from ops.quarantine`)
	w.rewrite(payload, `"consumed_tib":"12 TiB"`, figure)
	w.must(exitDone, "quarantine", "retry", id)
	if want, got := good.facts(), w.facts(); got != want {
		t.Errorf("facts:\n%s\nwant:\n%s", got, want)
	}
	if n := w.value(`select count(*)::text from mart.quarantine where resolved_at is null`); n != "0" {
		t.Errorf("%s records are open", n)
	}
	// The vendor says the same again, unspoiled: nothing is new.
	o := w.must(exitDone, backfill...)
	if !strings.HasPrefix(o.lastLine(), "inserted 0, restated 0, ") {
		t.Errorf("the same from the vendor: %s", o.lastLine())
	}
}

func TestQuarantineDismiss(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: "chat_licenses", Body: []byte("none"), Count: 2})
	w.must(exitPartial, "run", "wolkvox.billing")
	id := w.value(`select quarantine_id::text from mart.quarantine`)
	wantContains(t, "no reason", w.must(exitUsage, "quarantine", "dismiss", id).stderr, "want --reason")
	wantContains(t, "one of two is unknown", w.must(exitFailed, "quarantine", "dismiss", id, "99", "--reason", "r").stderr, "quarantine 99: no such record is open")
	if n := w.value(`select count(*)::text from mart.quarantine where resolved_at is not null`); n != "0" {
		t.Errorf("%s records settled by a command that failed", n)
	}
	w.must(exitDone, "quarantine", "dismiss", id, "--reason", "test row of the vendor")
	wantContains(t, "resolution", w.value(`select resolution from mart.quarantine`), "dismissed by ", ": test row of the vendor")
	wantContains(t, "list", w.must(exitDone, "quarantine", "list").stdout, "nothing is in quarantine")

	// Repeated letter by letter it is ignored; anything else is refused as before.
	w.setNow("2026-05-20T12:30:00Z")
	o := w.must(exitDone, "run", "wolkvox.billing")
	wantContains(t, "run", o.stdout, "warning wolkvox.billing calls: dismissed 1, first at /data/0/items")
	if got := w.value(`select format('%s %s %s', ignored, quarantined, status) from ops.run order by run_id desc limit 1`); got != "1 0 ok" {
		t.Errorf("ignored, quarantined, status: %s, want 1 0 ok", got)
	}
	w.setNow("2026-05-20T13:00:00Z")
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: "chat_licenses", Body: []byte("no"), Count: 1})
	w.must(exitPartial, "run", "wolkvox.billing")
	if n := w.value(`select count(*)::text from mart.quarantine where resolved_at is null`); n != "1" {
		t.Errorf("%s open records, want the new one", n)
	}
}

// Only some days are replayed after an upgrade that reads a figure differently, and the bodies of other
// runs tell the same day: it is our reading that changed, and no restatement of the vendor.
func TestReplayOfSomeDaysAfterAnUpgrade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run", "keystone.customers")
	w.must(exitDone, "run", "keystone.history")
	w.setNow("2026-05-21T12:00:00Z")
	w.must(exitDone, "run", "keystone.history")
	w.setNow("2026-05-22T12:00:00Z")
	w.must(exitDone, "run", "keystone.history")
	others := `select md5(string_agg(format('%s %s %s', d, d.xmin, d.ctid), ',' order by service_level_key, usage_date))
		from dw.fact_daily_consumption as d where usage_date <> '2026-05-19'`
	before := w.value(others)

	// The figure of a day that every one of the three answers told.
	figure := regexp.MustCompile(`(?s)"consumed_tib":([0-9.]+),"timestamp_utc":"2026-05-19T[^"]*"`)
	old := ""
	for _, payload := range strings.Fields(w.value(`select string_agg(payload_id::text, ' ' order by payload_id) from raw.payload
		where dataset = 'keystone.history' and scope = '0042117'`)) {
		nth := w.value(`select count(*)::text from raw.payload where dataset = 'keystone.history' and payload_id <= $1::text::bigint`, payload)
		m := figure.FindStringSubmatch(w.body(nth, "keystone.history"))
		if m == nil {
			t.Fatalf("payload %s does not tell 19 May", payload)
		}
		old = m[1]
		w.rewrite(payload, m[0], strings.Replace(m[0], old, "1"+old, 1))
	}
	o := w.must(exitDone, "replay", "keystone.history", "--from", "2026-05-19", "--until", "2026-05-20")
	wantContains(t, "replay", o.stdout, "warning keystone.history 0042117: reread 1")
	if o.lastLine()[:len("inserted 0, restated 1, unchanged ")] != "inserted 0, restated 1, unchanged " {
		t.Errorf("replay: %s", o.lastLine())
	}
	if got := w.value(`select string_agg(format('%s %s %s %s', kind, usage_date, old_value, new_value), ', ')
		from mart.restatement where column_name = 'consumed_max_tib'`); got != "reread 2026-05-19 "+old+" 1"+old {
		t.Errorf("ledger: %s", got)
	}
	if got := w.value(`select sum(restatement_count)::text from dw.fact_daily_consumption`); got != "0" {
		t.Errorf("%s restatements of the vendor", got)
	}
	if after := w.value(others); after != before {
		t.Error("other days were touched")
	}
	if again := w.must(exitDone, "replay", "--from", "2026-05-01", "--until", "2026-06-01"); !strings.HasPrefix(again.lastLine(), "inserted 0, restated 0, ") {
		t.Errorf("replayed again: %s", again.lastLine())
	}
}

// A body that cannot be read is no refusal: it is said, with exit code 1 or 3, and nothing is settled.
func TestReplayOfADamagedBody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: "chat_licenses", Body: []byte("none"), Count: 1})
	w.must(exitPartial, "run", "wolkvox.billing")
	id := w.value(`select quarantine_id::text from mart.quarantine`)
	w.exec(`update raw.payload set body_sha256 = sha256('x')`)
	o := w.must(exitFailed, "quarantine", "retry", id)
	wantContains(t, "stderr", o.stderr, "does not have the hash it was landed with: want the row from a backup")
	if n := w.value(`select count(*)::text from mart.quarantine where resolved_at is null`); n != "1" {
		t.Errorf("%s open records, want 1", n)
	}
}

// Freshness speaks of the vendor's answers: a replay and an import leave it alone.
func TestReplayAndImportLeaveFreshnessAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	fresh := `select string_agg(f::text, E'\n' order by f::text) from ops.watermark as f`
	before := w.value(fresh)
	file := writeFile(t, "r.csv", "product,description,date,items\nivr_minutes,ivr,2026-05-19,5\n")
	w.must(exitDone, "readings", "import", file)
	w.must(exitDone, "replay", "--from", "2026-05-01", "--until", "2026-06-01")
	if after := w.value(fresh); after != before {
		t.Errorf("from\n%s\nto\n%s", before, after)
	}
}

// A row that the database refuses, by somebody's trigger, holds nothing else up, and is loaded by a retry once the
// trigger is gone.
func TestRetryOfWhatTheDatabaseRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "migrate", "up")
	w.must(exitDone, "run", "keystone.customers")
	w.exec(`create function public.refuse() returns trigger language plpgsql as $$ begin raise exception 'frozen by the audit'; end $$`)
	w.exec(`create trigger refuse before insert on dw.fact_daily_consumption for each row when (new.usage_date = '2026-05-17') execute function public.refuse()`)
	o := w.must(exitPartial, "run")
	wantContains(t, "run", o.stderr, "refused, the rest is loaded: see `meterhouse quarantine list`")
	days := `select string_agg(usage_date || ' ' || n, ', ' order by usage_date) from (select usage_date, count(*) as n from dw.fact_daily_consumption group by 1) as d`
	before := w.value(days)
	if strings.Contains(before, "2026-05-17") || !strings.Contains(before, "2026-05-18") {
		t.Fatal(before)
	}
	list := w.must(exitDone, "quarantine", "list").stdout
	wantContains(t, "list", list, "constraint_violation", "frozen by the audit (SQLSTATE P0001)")
	id := w.value(`select min(quarantine_id)::text from ops.quarantine`)
	wantContains(t, "show", w.must(exitDone, "quarantine", "show", id).stdout, "2026-05-17", "frozen by the audit")
	wantContains(t, "retry", w.must(exitFailed, "quarantine", "retry", id).stderr, "frozen by the audit")
	if after := w.value(days); after != before {
		t.Errorf("after a retry in vain: %s, before %s", after, before)
	}
	w.exec(`drop trigger refuse on dw.fact_daily_consumption`)
	for w.value(`select count(*)::text from ops.quarantine where resolved_at is null`) != "0" {
		w.must(exitDone, "quarantine", "retry", w.value(`select min(quarantine_id)::text from ops.quarantine where resolved_at is null`))
	}
	clean := newWorld(t)
	clean.must(exitDone, "run", "keystone.customers")
	clean.must(exitDone, "run")
	for _, sql := range []string{days, `select string_agg(scope || ' ' || day || ' ' || status, ', ' order by scope, day) from ops.coverage where dataset = 'keystone.history'`} {
		if got, want := w.value(sql), clean.value(sql); got != want {
			t.Errorf("%s\n got %s\nwant %s", sql, got, want)
		}
	}
}
