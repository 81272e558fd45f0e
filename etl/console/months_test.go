package console

import (
	"context"
	"encoding/csv"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"meterhouse/etl/billing"
	"meterhouse/etl/warehouse/warehousetest"
)

// grownNow is the business clock of a grown warehouse.
var grownNow = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

// ledger is a finance that notes what it is asked.
type ledger struct {
	*deeds
	match func() Match    // nil: nothing
	slow  chan struct{}   // not nil: whoever decides waits until it is closed
	at    chan<- struct{} // is told that somebody waits
}

func (l ledger) Close(_ context.Context, month, who, reason string, shown Shown) (string, error) {
	l.wait()
	return "Closed " + month + ".", l.note("close %s by %s: %s%+v", month, who, reason, shown)
}

func (l ledger) Reopen(_ context.Context, month, who, reason string, version int) (string, error) {
	l.wait()
	return "Reopened " + month + ".", l.note("reopen %s version %d by %s: %s", month, version, who, reason)
}

func (l ledger) wait() {
	if l.slow != nil {
		l.at <- struct{}{}
		<-l.slow
	}
}

func (l ledger) Match(context.Context, string) (Match, error) {
	if l.match == nil {
		return Match{}, nil
	}
	return l.match(), nil
}

func (l ledger) Workbook(_ context.Context, w io.Writer, month string) error {
	if err := l.note("workbook %s", month); err != nil {
		return err
	}
	_, err := io.WriteString(w, "PK workbook")
	return err
}

func (l ledger) FOCUS(_ context.Context, w io.Writer, month string) error {
	_, err := io.WriteString(w, "PK focus")
	return err
}

// grownHouse is a console over two customers of fifty levels each, and 27 products.
func grownHouse(t *testing.T, change func(*Config)) *house {
	t.Helper()
	h := houseOver(t, func(cfg *Config) {
		cfg.Now, cfg.Finance = func() time.Time { return grownNow }, ledger{deeds: cfg.Loads.(*deeds)}
		if change != nil {
			change(cfg)
		}
	}, func(pool *pgxpool.Pool) {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		warehousetest.Grow(t, conn.Conn(), warehousetest.Size{Customers: 2, Days: 70})
		for _, sql := range []string{
			"update dw.dim_service_level set level_ordinal = 0",
			"insert into billing.rate (vendor, item, charge, is_waiver, unit_price, currency, valid_from, source, known_since) values ('keystone', 'Object', 'burst', false, 7, 'USD', '2024-01-01', '=test', '2024-01-01')",
			"update dw.dim_customer set customer_name = '<i>Customer</i> & Co' where customer_id = 'C-0002'",
		} {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
	})
	return h
}

// settled is the page once all that it shows is computed.
func (b *browser) settled(path string) answer {
	b.t.Helper()
	for {
		a := b.get(path)
		if a.StatusCode != http.StatusOK || !strings.Contains(a.text, `class="hint again"`) {
			return a
		}
	}
}

// mart asks the warehouse by the clock of the console: rows as texts, unknown as a dash.
func (h *house) mart(sql string) (all [][]string) {
	h.t.Helper()
	err := h.read(h.t.Context(), time.Minute, func(_ context.Context, v *view) error {
		result, err := v.query(sql)
		for _, row := range result.Rows {
			var texts []string
			for _, c := range row {
				if c.Null {
					c.Text = "–"
				}
				texts = append(texts, c.Text)
			}
			all = append(all, texts)
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

var (
	rowTag  = regexp.MustCompile(`(?s)<tr>(.*?)</tr>`)
	cellTag = regexp.MustCompile(`(?s)<t[dh]([^>]*)>(.*?)</t[dh]>`)
	anyTag  = regexp.MustCompile(`<[^>]*>`)
	bodyTag = regexp.MustCompile(`(?s)<tbody>(.*?)</tbody>`)
)

// plainText is what a piece of a page says.
func plainText(markup string) string {
	return strings.TrimSpace(html.UnescapeString(anyTag.ReplaceAllString(markup, "")))
}

// tables are the cells of the bodies of a page's tables.
func tables(text string) (all [][][]string) {
	for _, body := range bodyTag.FindAllStringSubmatch(text, -1) {
		var rows [][]string
		for _, row := range rowTag.FindAllStringSubmatch(body[1], -1) {
			var cells []string
			for _, c := range cellTag.FindAllStringSubmatch(row[1], -1) {
				cells = append(cells, plainText(c[2]))
			}
			rows = append(rows, cells)
		}
		all = append(all, rows)
	}
	return all
}

var nextLink = regexp.MustCompile(`<nav class="pages"[^>]*>.*?href="([^"]+)" rel="next"`)

// every are the rows of a page's last table, and of the pages after it.
func (b *browser) every(path string) (all [][]string) {
	b.t.Helper()
	for path != "" {
		a := b.settled(path)
		found := tables(a.text)
		if a.StatusCode != http.StatusOK || len(found) == 0 {
			b.t.Fatalf("%s: %d, no table\n%s", path, a.StatusCode, a.text)
		}
		all = append(all, found[len(found)-1]...)
		next := nextLink.FindStringSubmatch(strings.ReplaceAll(a.text, "\n", " "))
		path = ""
		if next != nil {
			path = html.UnescapeString(next[1])
		}
	}
	return all
}

var monthPages = []string{
	"/coverage", "/coverage?month=2026-10&detail=levels", "/coverage?month=2026-09&months=2&status=missing&q=c-0001", "/coverage?month=1999-01", "/consumption",
	"/consumption?month=2026-10&q=nobody", "/consumption/level?customer=C-0001&subscription=A-000010&level=Extreme&ordinal=0&span=month",
	"/consumption/level?customer=C-0001&subscription=A-000010&level=Extreme&ordinal=0&span=12m", "/consumption/level?customer=nobody", "/month", "/month?month=2026-11",
	"/month?month=1999-01", "/month/statement", "/month/statement?month=2026-10&sort=-amount&currency=EUR&page=2", "/month/adjustments", "/month/match", "/month/close?month=2026-10",
}

// Pages about months are whole, as others are.
func TestMonthPages(t *testing.T) {
	t.Parallel()
	h := grownHouse(t, func(cfg *Config) { cfg.Anybody = Closer })
	b := h.browser()
	missing := h.mart("select customer_id, subscription_number, service_level, day::text from mart.coverage where status = 'missing' and customer_id is not null and day < '2026-11-01' limit 1")[0]
	for _, path := range append(monthPages,
		fmt.Sprintf("/coverage/day?dataset=keystone.history&account=acme&customer=%s&subscription=%s&level=%s&day=%s", missing[0], missing[1], missing[2], missing[3])) {
		a := b.settled(path)
		if a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d\n%s", path, a.StatusCode, a.text)
		}
		for _, problem := range flaws(a.text) {
			t.Errorf("%s: %s", path, problem)
		}
		for _, bad := range []string{"<i>Cust", "<script", "<no value>", "ZgotmplZ", "%!", " style=", " onclick=", "could not be computed"} {
			if strings.Contains(a.text, bad) {
				t.Errorf("%s: holds %q", path, bad)
			}
		}
	}
	a := b.get(fmt.Sprintf("/coverage/day?dataset=keystone.history&account=acme&customer=%s&subscription=%s&level=%s&day=%s", missing[0], missing[1], missing[2], missing[3]))
	for _, want := range []string{"meterhouse backfill keystone.history --from " + missing[3] + " --until ", " --customer " + missing[0], `<span class="status missing">`, `<a href="/runs/`, "Load now"} {
		if !strings.Contains(a.text, want) {
			t.Errorf("the missing day lacks %q\n%s", want, a.text)
		}
	}
	if got := b.get("/coverage/day?dataset=keystone.history&account=acme&customer=C-0001&day=1999-01-01").StatusCode; got != http.StatusNotFound {
		t.Errorf("a day that nothing is expected of: %d", got)
	}
	if text := h.log.String(); strings.Contains(text, "level=ERROR") {
		t.Errorf("log: %s", text)
	}
}

var dayCell = regexp.MustCompile(`<td class="day ([a-z_]+)"(?: title="(\d{4}-\d{2}-\d{2}): [a-z ]+")?>`)

// The heat map has a cell for each series and day of mart.coverage with its status, a hole where it has none, and
// nothing else; a subscription has the worst of its levels; the last row counts the series that are not whole.
func TestHeatMapIsCoverage(t *testing.T) {
	t.Parallel()
	h := grownHouse(t, nil)
	b := h.browser()
	for _, c := range []struct{ query, name, worst string }{
		{"&detail=levels", "concat_ws(' ', subscription_number, nullif(discriminator, ''), service_level, product)", "min(status)"},
		{"", "coalesce(product, subscription_number, '')", "(array_agg(status order by array_position(array['lost', 'missing', 'partial', 'empty', 'not_due', 'observed'], status)))[1]"},
	} {
		want := map[string]string{}
		notWhole := map[string]int{}
		for _, row := range h.mart(`select coalesce(customer_id, account) || '|' || coalesce(nullif(` + c.name + `, ''), 'all subscriptions') as name, day::text, ` + c.worst + ` as status
			from mart.coverage where day >= '2026-09-01' and day < '2026-12-01' group by 1, 2`) {
			want[row[0]+" "+row[1]] = row[2]
		}
		for _, row := range h.mart(`select day::text from mart.coverage where day >= '2026-09-01' and day < '2026-12-01' and status not in ('observed', 'not_due')`) {
			notWhole[row[0]]++
		}
		if len(want) < 1000 || len(notWhole) < 20 {
			t.Fatalf("%d days, %d with holes: too few to see anything", len(want), len(notWhole))
		}
		got := map[string]string{}
		holes := 0
		var foot []string
		for path := "/coverage?month=2026-09&months=3" + c.query; path != ""; {
			text := b.settled(path).text
			for _, row := range rowTag.FindAllStringSubmatch(bodyTag.FindStringSubmatch(text)[1], -1) {
				name := html.UnescapeString(regexp.MustCompile(`<td>(.*?)</td>`).FindStringSubmatch(row[1])[1]) + "|" + html.UnescapeString(anyTag.ReplaceAllString(regexp.MustCompile(`<th scope="row">(.*?)</th>`).FindStringSubmatch(row[1])[1], ""))
				cells := dayCell.FindAllStringSubmatch(row[1], -1)
				if len(cells) != 30+31+30 {
					t.Fatalf("%s: %d days", name, len(cells))
				}
				for i, cell := range cells {
					day := time.Date(2026, 9, 1+i, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
					if cell[1] == "none" {
						holes++
						continue
					}
					if cell[2] != day {
						t.Errorf("%s: day %d is called %s", name, i, cell[2])
					}
					got[name+" "+day] = cell[1]
				}
			}
			foot = nil
			for _, cell := range regexp.MustCompile(`<td class="sum [a-z_]*" title="[^"]*">(\d*)</td>`).FindAllStringSubmatch(text, -1) {
				foot = append(foot, cell[1])
			}
			next := nextLink.FindStringSubmatch(strings.ReplaceAll(text, "\n", " "))
			path = ""
			if next != nil {
				path = html.UnescapeString(next[1])
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-mart +page):\n%s", c.query, diff)
		}
		if holes == 0 {
			t.Error("no day is without an expectation")
		}
		for i, text := range foot {
			day := time.Date(2026, 9, 1+i, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
			if want := fmt.Sprint(notWhole[day]); text != want && !(text == "" && want == "0") {
				t.Errorf("%s: %s series are not whole, want %s", day, text, want)
			}
		}
		if len(foot) != 91 {
			t.Errorf("%d sums", len(foot))
		}
	}
	// The CSV is the view.
	records, err := csv.NewReader(strings.NewReader(b.get("/coverage.csv?from=2026-10-01&until=2026-11-01").text)).ReadAll()
	if want := h.mart("select count(*) from mart.coverage where day >= '2026-10-01' and day < '2026-11-01'")[0][0]; err != nil || fmt.Sprint(len(records)-1) != want {
		t.Errorf("CSV: %d rows, want %s, %v", len(records)-1, want, err)
	}
}

// Every figure of the pages is the mart's, digit for digit.
func TestFiguresAreTheMarts(t *testing.T) {
	t.Parallel()
	h := grownHouse(t, nil)
	b := h.browser()
	for _, c := range []struct{ path, sql string }{
		{"/consumption?month=2026-10", `select concat_ws(' ', customer_id, customer_name), concat_ws(' ', subscription_number, nullif(discriminator, '')), service_level || case when level_ordinal > 0 then ' #' || level_ordinal + 1 else '' end, '', level_class, days_observed, days_expected, committed_tib, consumed_avg_tib, consumed_max_tib,
			accrued_burst_tib, days_over_commitment from mart.month where month = '2026-10-01' order by customer_id, subscription_number, discriminator, service_level, level_ordinal`},
		{"/month/statement?month=2026-10", `select customer_id, account, subscription_number, concat_ws(' ', item, nullif(description, '')), charge, quantity, unit, unit_price, amount, currency, state, segment_from, segment_to, days_observed, days_expected, note
			from mart.statement where period = '2026-10'
			order by source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, period_start, segment_from, rate_id`},
		{"/month/statement?month=2026-10&currency=USD&sort=-quantity", `select customer_id, account, subscription_number, concat_ws(' ', item, nullif(description, '')), charge, quantity, unit, unit_price, amount, currency, state, segment_from, segment_to, days_observed, days_expected, note
			from mart.statement where period = '2026-10' and currency = 'USD'
			order by quantity desc nulls last, source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, period_start, segment_from, rate_id`},
		{"/consumption/level?customer=C-0001&subscription=A-000010&level=Extreme&ordinal=0&span=90d", `select u.usage_date, replace(u.status, '_', ' '), u.committed_tib, u.consumed_avg_tib, u.consumed_max_tib, d.consumed_last_tib, u.burst_avg_tib, d.accrued_burst_tib,
			case d.is_invoiced when true then 'yes' when false then 'no' else 'unknown' end, d.restatement_count
			from mart.daily_utilisation as u left join mart.daily_consumption as d using (customer_id, subscription_number, discriminator, service_level, level_ordinal, usage_date)
			where u.customer_id = 'C-0001' and u.subscription_number = 'A-000010' and u.service_level = 'Extreme' and u.usage_date > '2026-08-04' order by 1 desc`},
	} {
		if diff := cmp.Diff(h.mart(c.sql), b.every(c.path)); diff != "" {
			t.Errorf("%s (-mart +page):\n%s", c.path, diff)
		}
	}
	// Sums, and what stands against closing.
	text := b.settled("/month?month=2026-10").text
	found := tables(text)
	want := h.mart(`select currency, sum(amount), count(amount), count(amount) filter (where state = 'provisional') from mart.statement where period = '2026-10' and amount is not null group by 1 order by 1`)
	if diff := cmp.Diff(want, found[0]); diff != "" || len(want) != 2 {
		t.Errorf("totals (-mart +page):\n%s", diff)
	}
	against := h.mart(`select kind, about, replace(remedy, '` + "`" + `', ''), case when is_acceptable then 'with a reason' else 'no' end from billing.close_obstacle('2026-10') order by is_acceptable, kind, about`)
	if diff := cmp.Diff(against, found[1]); diff != "" || len(against) == 0 {
		t.Errorf("obstacles (-plan +page):\n%s", diff)
	}
	// Files.
	for path, sql := range map[string]string{
		"/statement.csv?month=2026-10":   `select * from mart.statement where period = '2026-10'`,
		"/consumption.csv?month=2026-10": `select 1 from mart.month where month = '2026-10-01'`,
		"/level_days.csv?customer=C-0001&subscription=A-000010&level=Extreme&ordinal=0&from=2026-10-01&until=2026-11-01": `select 1 from mart.daily_utilisation
			where customer_id = 'C-0001' and subscription_number = 'A-000010' and service_level = 'Extreme' and month = '2026-10-01'`,
	} {
		records, err := csv.NewReader(strings.NewReader(b.get(path).text)).ReadAll()
		rows := h.mart(sql)
		if err != nil || len(records) != len(rows)+1 {
			t.Errorf("%s: %d records, want %d, %v", path, len(records), len(rows)+1, err)
			continue
		}
		if strings.HasPrefix(path, "/statement") {
			for _, row := range rows {
				for i := range row {
					if row[i] == "–" {
						row[i] = ""
					}
				}
			}
			order := func(a, b []string) int { return slices.Compare(a, b) }
			slices.SortFunc(rows, order)
			slices.SortFunc(records[1:], order)
			if diff := cmp.Diff(rows, records[1:]); diff != "" {
				t.Errorf("%s (-mart +file):\n%s", path, diff)
			}
		}
	}
	for path, want := range map[string]string{"/month/workbook?month=2026-10": "PK workbook", "/month/focus?month=2026-10": "PK focus"} {
		if a := b.get(path); a.text != want || !strings.Contains(a.Header.Get("Content-Disposition"), "2026-10") {
			t.Errorf("%s: %q, %v", path, a.text, a.Header)
		}
	}
	// A missing day breaks the line.
	page := b.settled("/consumption/level?customer=C-0001&subscription=A-000010&level=Extreme&ordinal=0&span=90d").text
	path := regexp.MustCompile(`<path class="line average" d="([^"]+)"/>`).FindStringSubmatch(page)
	known := h.mart(`select consumed_avg_tib is not null, lag(consumed_avg_tib) over (order by usage_date) is null from mart.daily_utilisation
		where customer_id = 'C-0001' and subscription_number = 'A-000010' and service_level = 'Extreme' order by usage_date`)
	begins, points := 0, 0
	for _, row := range known {
		if row[0] == "true" {
			points++
			if row[1] == "true" {
				begins++
			}
		}
	}
	if path == nil || strings.Count(path[1], "M") != begins || strings.Count(path[1], "M")+strings.Count(path[1], "L") != points || begins < 2 {
		t.Errorf("the line begins %d times, want %d, and has %d points\n%v", strings.Count(fmt.Sprint(path), "M"), begins, points, path)
	}
}

// What is shown is never older than what it depends on without saying so.
func TestCopies(t *testing.T) {
	t.Parallel()
	h := grownHouse(t, func(cfg *Config) { cfg.Anybody = Closer })
	b := h.browser()
	const path = "/month?month=2026-10"
	total := func() string {
		for _, row := range tables(b.settled(path).text)[0] {
			if row[0] == "USD" {
				return row[1]
			}
		}
		return ""
	}
	first := total()
	of := regexp.MustCompile(`computed at ([^<]+?) UTC`)
	before := of.FindStringSubmatch(b.get(path).text)[1]
	b.get("/month/statement?month=2026-10&q=object")
	if again := of.FindStringSubmatch(b.get(path).text)[1]; again != before {
		t.Errorf("computed twice without need: %s, %s", before, again)
	}
	h.exec(`update billing.rate set superseded_at = '2026-11-02' where currency = 'USD';
		insert into billing.rate (vendor, item, charge, is_waiver, unit_price, currency, valid_from, source, known_since) values ('keystone', 'Object', 'burst', false, 8, 'USD', '2024-01-01', 'test', '2026-11-02')`)
	// While it cannot be computed, it is told as old.
	h.copies.maker <- struct{}{}
	a := b.get(path)
	if strings.Contains(a.text, "Current: computed") || !strings.Contains(a.text, "computed anew") || !strings.Contains(a.text, first) {
		t.Errorf("after a new price:\n%s", a.text)
	}
	// A figure of a moment ago can be closed: the close compares. An old one cannot, and a form is not taken from under somebody's hands.
	if got := b.get("/month/close?month=2026-10").text; strings.Contains(got, `method="post" action="/month/close"`) || !strings.Contains(got, `class="hint again"`) {
		t.Errorf("a month can be closed before all is computed\n%s", got)
	}
	<-h.copies.maker
	b.settled("/month/close?month=2026-10")
	h.copies.maker <- struct{}{}
	h.exec("update ops.watermark set settle = settle + '1 second' where scope = 'C-0001'")
	if got := b.get("/month/close?month=2026-10").text; !strings.Contains(got, `method="post" action="/month/close"`) || strings.Contains(got, `class="hint again"`) || !strings.Contains(got, "<strong>Of ") {
		t.Errorf("a month cannot be closed by figures of a moment ago\n%s", got)
	}
	h.copies.mu.Lock()
	for _, k := range h.copies.known {
		k.of = k.of.Add(-time.Hour)
	}
	h.copies.mu.Unlock()
	if got := b.get("/month/close?month=2026-10").text; strings.Contains(got, `method="post" action="/month/close"`) || !strings.Contains(got, `class="hint again"`) {
		t.Errorf("a month can be closed by figures of an hour ago\n%s", got)
	}
	<-h.copies.maker
	want := h.mart(`select sum(amount) from mart.statement where period = '2026-10' and currency = 'USD'`)[0][0]
	if got := total(); got != want || got == first {
		t.Errorf("USD: %s, want %s, before %s", got, want, first)
	}
	september, err := billing.ParsePeriod("2026-09")
	if err != nil {
		t.Fatal(err)
	}
	open, err := h.copies.now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := billing.New(h.pool, func() time.Time { return grownNow }).Close(t.Context(), september, billing.CloseOptions{By: "jane", Reason: "a test"}); err != nil {
		t.Fatal(err)
	}
	if closed, err := h.copies.now(t.Context()); err != nil || closed.key == open.key {
		t.Errorf("a close is not seen: %s, %v", closed.key, err)
	}
	for _, change := range []struct {
		sql    string
		isSeen bool
	}{
		{"insert into ops.run (source, dataset, scope, account, owner, fence, business_at) values ('keystone', 'keystone.history', 'C-0001', 'acme', 'test', 1, now())", false},
		{"insert into ops.run (source, dataset, scope, account, owner, fence, business_at) values ('wolkvox', 'wolkvox.billing', 'calls', 'calls', 'test', 1, '2026-11-02 12:00Z')", false},
		{"update ops.run set status = 'ok', finished_at = now(), fetched_at = now() where status = 'running' and source = 'keystone'", true},
		{"update ops.run set status = 'ok', finished_at = now(), fetched_at = now() where status = 'running'", true},
		// The one that began first ends last.
		{"insert into ops.run (source, dataset, scope, account, owner, fence, business_at) select 'keystone', 'keystone.history', scope, 'acme', 'test', 1, now() from unnest(array['C-0001', 'C-0002']) as scope", false},
		{"update ops.run set status = 'ok', finished_at = now() where status = 'running' and scope = 'C-0002'", true},
		{"update ops.run set status = 'ok', finished_at = now() where status = 'running' and scope = 'C-0001'", true},
		{"insert into ops.run (source, dataset, scope, account, owner, fence, business_at) values ('keystone', 'keystone.history', 'C-0001', 'acme', 'test', 1, now())", false},
		// It reads the end of a month: while it does, the month is not at risk.
		{"insert into ops.run (source, dataset, scope, account, owner, fence, business_at) select 'wolkvox', 'wolkvox.billing', scope, scope, 'test', 1, '2026-12-01 04:05Z' from ops.watermark where source = 'wolkvox' limit 1", true},
		// One that began long ago ends.
		{`insert into ops.run (source, dataset, scope, account, owner, fence, business_at, status, finished_at)
			select 'keystone', 'keystone.history', 'C-0001', 'acme', 'test', 1, now(), 'ok', now() from generate_series(1, 10001)`, true},
		{`insert into ops.run (source, dataset, scope, account, owner, fence, business_at, status, finished_at)
			values ('keystone', 'keystone.history', 'C-0001', 'acme', 'test', 1, now(), 'ok', now())`, true},
		{"update ops.run set status = 'ok', finished_at = now() where status = 'running' and source = 'keystone'", true},
		{"update ops.run set status = 'ok', finished_at = now() where status = 'running'", true},
		{"update ops.watermark set settle = '3 hours' where dataset = 'keystone.history' and scope = 'C-0001'", true},
		{"insert into billing.absence (customer_id, subscription_number, service_level, first_day, last_day, decision, reason, known_since) values ('C-0001', 'A-000010', 'Extreme', '2026-10-01', '2026-10-31', 'keep', 'test', '2026-11-02')", true},
		{"update billing.absence set superseded_at = '2026-11-02'", true},
		{"insert into billing.rate (vendor, item, charge, is_waiver, unit_price, currency, valid_from, source, known_since) values ('keystone', 'Object', 'committed', false, 9, 'CHF', '2024-01-01', 'test', '2026-11-02')", true},
		{"update billing.rate set superseded_at = '2026-11-02' where currency = 'CHF'", true},
		{"insert into billing.accrued_decision (account, month, reading, decided_by, reason, known_since) values ('acme', '2026-01-01', 'running', 'jane', 'test', '2026-11-02')", true},
		{"update billing.accrued_decision set superseded_at = '2026-11-02'", true},
		{"insert into dw.accrued_reading (account, month, reading, decided_by, reason) values ('acme', '2026-01-01', 'running', 'jane', 'test')", true},
		{"update dw.accrued_reading set reading = 'increment'", true},
		{"update ops.clock set fixed_at = '2026-11-02 12:00Z'", true},
		{"insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since) values ('C-0001', 'A-000010', 'burst', '2026-10-01', '2026-10-31', 'monthly', 'test', '2026-11-02')", true},
		{"update billing.period set superseded_at = '2026-11-02' where source = 'test'", true},
		{"insert into billing.product_rule (product, rule, reason, known_since) values ('product_1', 'last', 'test', '2026-11-02')", true},
		{"update billing.product_rule set superseded_at = '2026-11-02' where reason = 'test'", true},
		{"insert into dw.level_class_map values ('Extreme', 'add_on') on conflict (pattern) do update set level_class = 'add_on'", true},
		{"update dw.dim_product set unit = 'seats' where api = 'product_1'", true},
		{"update dw.dim_operation set zone = 'America/Lima'", true},
		{"insert into ops.quarantine (run_id, source, dataset, scope, path, reason, excerpt, fingerprint, quarantined_at) values (1, 'keystone', 'keystone.history', 'C-0001', '', 'x', 'x', 'x', '2026-11-02')", true},
		{"update ops.quarantine set resolved_at = '2026-11-02', resolution = 'test'", true},
		{"insert into billing.invoice (vendor, number, invoice_date, currency, known_since) values ('keystone', 'I-1', '2026-11-01', 'EUR', '2026-11-02')", true},
		{"update billing.invoice set superseded_at = '2026-11-02'", true},
		// What prune does to a month of samples, step by step.
		{"create table dw.fact_consumption_sample_2020_01 partition of dw.fact_consumption_sample for values from ('2020-01-01 00:00Z') to ('2020-02-01 00:00Z')", true},
		{"truncate dw.fact_consumption_sample_2020_01", true},
		{"update pg_inherits set inhdetachpending = true where inhrelid = 'dw.fact_consumption_sample_2020_01'::regclass", true}, // the first half of it, concurrently
		{"alter table dw.fact_consumption_sample detach partition dw.fact_consumption_sample_2020_01 finalize", true},
		{"drop table dw.fact_consumption_sample_2020_01", false},
		// What an upgrade does.
		{"create or replace function billing.exact_scale() returns numeric language sql immutable as 'select 1.0'", true},
		{"create or replace view mart.dim_date as select * from dw.dim_date", true},
	} {
		was, err := h.copies.now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h.exec(change.sql)
		if is, err := h.copies.now(t.Context()); err != nil || is.key == was.key == change.isSeen {
			t.Errorf("%s: the fingerprint was %s and is %s, %v", change.sql, was.key, is.key, err)
		}
	}
	print, err := h.copies.now(t.Context())
	if want := time.Date(2026, 11, 3, 2, 0, 0, 0, time.UTC); err != nil || print.until.After(want) || !print.until.After(grownNow) {
		t.Errorf("good until %s, want by %s, %v", print.until, want, err)
	}
	if !print.holds(grownNow) || print.holds(grownNow.Add(-time.Second)) || print.holds(print.until) {
		t.Errorf("it holds from %s until %s", print.from, print.until)
	}
}

func (h *house) exec(sql string) {
	h.t.Helper()
	if _, err := h.pool.Exec(h.t.Context(), sql); err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
}

var hiddenField = regexp.MustCompile(`<input type="hidden" name="([a-z_]+)" value="([^"]*)">`)

// A month is closed by whoever may, from a page that shows what is frozen, and by nobody else.
func TestClosingFromThePage(t *testing.T) {
	t.Parallel()
	h := grownHouse(t, func(cfg *Config) {
		cfg.Users = users(t, map[string]Role{"vera": Viewer, "olaf": Operator, "cleo": Closer})
	})
	form := func(b *browser, more ...string) url.Values {
		text := b.settled("/month/close?month=2026-10").text
		f := url.Values{"token": {tokenField.FindStringSubmatch(text)[1]}, "month": {"2026-10"}, "accepted": {"yes"}, "reason": {"known\nlost"}}
		for _, field := range hiddenField.FindAllStringSubmatch(text, -1) {
			if field[1] != "token" && field[1] != "month" {
				f.Add(field[1], html.UnescapeString(field[2]))
			}
		}
		for i := 0; i+1 < len(more); i += 2 {
			f.Set(more[i], more[i+1])
		}
		return f
	}
	for _, name := range []string{"vera", "olaf"} { // viewer, operator
		b := h.browser()
		b.login(name)
		if text := b.settled("/month?month=2026-10").text; strings.Contains(text, "/month/close") || !strings.Contains(text, "takes the role closer") {
			t.Errorf("%s is offered to close", name)
		}
		if got := b.get("/month/close?month=2026-10").StatusCode; got != http.StatusForbidden {
			t.Errorf("%s sees the form: %d", name, got)
		}
		for _, path := range []string{"/month/close", "/month/reopen"} {
			if got := b.do("POST", path, url.Values{"token": {b.token("/month")}, "month": {"2026-10"}, "reason": {"x"}}).StatusCode; got != http.StatusForbidden {
				t.Errorf("%s: %s: %d", name, path, got)
			}
		}
	}
	if did := h.done.take(); did != "" {
		t.Fatalf("done: %s", did)
	}
	b := h.browser()
	b.login("cleo")
	if got := b.do("POST", "/month/close", form(b, "token", strings.Repeat("0", 64))).StatusCode; got != http.StatusForbidden {
		t.Errorf("without our token: %d", got)
	}
	for _, f := range []url.Values{form(b, "reason", " "), form(b, "accepted", ""), form(b, "lines", ""), form(b, "adjustments", "x"), form(b, "provisional", "")} {
		b.do("POST", "/month/close", f)
		if did := h.done.take(); did != "" {
			t.Errorf("%v: %s", f, did)
		}
	}
	// What is closed is what the page shows, and that is what the mart says.
	a := b.do("POST", "/month/close", form(b))
	statement := h.mart(`select count(*), count(*) filter (where state = 'provisional') from mart.statement where period = '2026-10'`)[0]
	totals := h.mart(`select string_agg(text, '; ' order by text) from (select currency || ' ' || sum(amount) as text from mart.statement where period = '2026-10' and amount is not null group by currency) as t`)[0][0]
	against := h.mart(`select string_agg(kind || ': ' || about, ' ' order by is_acceptable, kind, about) from billing.close_obstacle('2026-10')`)[0][0]
	want := fmt.Sprintf("close 2026-10 by cleo: known lost{Obstacles:[%s] Lines:%s Provisional:%s Totals:%s Adjustments:0 AdjustmentTotals:}", against, statement[0], statement[1], totals)
	if did := h.done.take(); a.StatusCode != http.StatusSeeOther || did != want {
		t.Errorf("%d, did\n%q, want\n%q", a.StatusCode, did, want)
	}
	if text := b.get(a.Header.Get("Location")).text; !strings.Contains(text, "Closed 2026-10.") {
		t.Errorf("not said: %s", text)
	}
	b.do("POST", "/month/reopen", form(b, "reason", ""))
	if did := h.done.take(); did != "" {
		t.Errorf("reopened without a reason: %s", did)
	}
	b.do("POST", "/month/reopen", form(b, "version", ""))
	if did := h.done.take(); did != "" {
		t.Errorf("reopened, whatever version is closed: %q", did)
	}
	b.do("POST", "/month/reopen", form(b, "version", "3"))
	if did := h.done.take(); did != "reopen 2026-10 version 3 by cleo: known lost" {
		t.Errorf("did %q", did)
	}
	h.done.fail = Refused("order: the month before is open")
	if a := b.do("POST", "/month/close", form(b)); !strings.Contains(b.get(a.Header.Get("Location")).text, "order: the month before is open") {
		t.Error("why it is refused is not said")
	}
}

// What became of a decision whose browser did not wait is told to those who may decide, until one of them has seen it.
func TestDecisionsThatTakeLong(t *testing.T) {
	t.Parallel()
	waits, slow := make(chan struct{}), make(chan struct{})
	h := grownHouse(t, func(cfg *Config) {
		cfg.Users = users(t, map[string]Role{"vera": Viewer, "cleo": Closer, "cora": Closer})
		cfg.Finance = ledger{deeds: cfg.Loads.(*deeds), slow: slow, at: waits}
	})
	const path = "/month?month=2026-10"
	viewer, cleo, cora := h.browser(), h.browser(), h.browser()
	viewer.login("vera")
	cleo.login("cleo")
	cora.login("cora")
	if text := cora.settled("/month/close?month=2026-10").text; !strings.Contains(text, `method="post" action="/month/close"`) {
		t.Fatalf("no form:\n%s", text)
	}
	if text := cora.settled("/month/close?month=2026-11").text; !strings.Contains(text, "It cannot be closed") || strings.Contains(text, `method="post" action="/month/close"`) {
		t.Errorf("a month that is not over:\n%s", text)
	}
	form := url.Values{"token": {cleo.token(path)}, "month": {"2026-10"}, "lines": {"1"}, "provisional": {"0"}, "adjustments": {"0"}}
	gone, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		r, err := http.NewRequestWithContext(gone, "POST", "http://"+h.Addr()+"/month/close", strings.NewReader(form.Encode()))
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if a, err := cleo.http.Do(r); err == nil {
			a.Body.Close()
			t.Error("it did not take long")
		}
	}()
	<-waits
	leave()
	<-left
	if text := cora.get(path).text; !strings.Contains(text, "Closing this month, which cleo asked for") || !strings.Contains(text, "goes on") || !strings.Contains(text, `class="hint again"`) {
		t.Errorf("it is not told that it goes on:\n%s", text)
	}
	if text := cora.get("/month/close?month=2026-10").text; strings.Contains(text, `method="post" action="/month/close"`) {
		t.Error("it is offered twice")
	}
	a := cora.do("POST", "/month/close", url.Values{"token": {cora.token(path)}, "month": {"2026-10"}, "lines": {"1"}, "provisional": {"0"}, "adjustments": {"0"}})
	if text := cora.get(a.Header.Get("Location")).text; !strings.Contains(text, "Closing this month, which cleo asked for at") {
		t.Errorf("closing twice at a time:\n%s", text)
	}
	cora.do("POST", "/month/seen", url.Values{"token": {cora.token(path)}, "month": {"2026-10"}, "at": {h.decisions.of("month 2026-10").At}})
	if !h.decisions.of("month 2026-10").IsOn() {
		t.Error("what goes on is forgotten")
	}
	h.done.mu.Lock()
	h.done.fail = Refused("order: the month before is open")
	h.done.mu.Unlock()
	close(slow)
	h.work.busy.Wait() // copies too
	said := func(b *browser, path string) string {
		all := regexp.MustCompile(`(?s)<div class="said[^>]*>.*?</div>`).FindString(b.get(path).text)
		return strings.Join(strings.Fields(anyTag.ReplaceAllString(all, " ")), " ")
	}
	for range 2 { // looking takes nothing away
		for _, path := range []string{path, "/month/close?month=2026-10"} {
			if got := said(cora, path); !strings.Contains(got, "cleo") || !strings.Contains(got, "not done. order: the month before is open") {
				t.Errorf("%s: %q", path, got)
			}
		}
	}
	if got := said(viewer, path) + said(cora, "/month?month=2026-09"); got != "" {
		t.Errorf("told to others: %q", got)
	}
	at := regexp.MustCompile(`name="at" value="([^"]+)"`).FindStringSubmatch(cora.get(path).text)[1]
	if got := viewer.do("POST", "/month/seen", url.Values{"token": {viewer.token(path)}, "month": {"2026-10"}, "at": {at}}).StatusCode; got != http.StatusForbidden || said(cora, path) == "" {
		t.Errorf("taken away by others: %d", got)
	}
	cora.do("POST", "/month/seen", url.Values{"token": {cora.token(path)}, "month": {"2026-10"}, "at": {"of another one"}})
	if said(cora, path) == "" {
		t.Error("what was not seen is taken away")
	}
	a = cora.do("POST", "/month/seen", url.Values{"token": {cora.token(path)}, "month": {"2026-10"}, "at": {at}})
	if got := said(cleo, path); a.StatusCode != http.StatusSeeOther || got != "" {
		t.Errorf("seen, and still there: %d, %q", a.StatusCode, got)
	}
	// Whoever was told is not told again.
	h.done.mu.Lock()
	h.done.fail = nil
	h.done.mu.Unlock()
	go func() { <-waits }()
	a = cora.do("POST", "/month/close", url.Values{"token": {cora.token(path)}, "month": {"2026-10"}, "lines": {"1"}, "provisional": {"0"}, "adjustments": {"0"}})
	if text := cora.get(a.Header.Get("Location")).text; !strings.Contains(text, "Closed 2026-10.") || said(cora, path) != "" {
		t.Errorf("told twice:\n%s", text)
	}
}

// What becomes of reading a refused record again is told on its page when the browser did not wait, until an operator
// has seen it; meanwhile it is not offered twice.
func TestRetryThatTakesLong(t *testing.T) {
	t.Parallel()
	begun, end := make(chan struct{}), make(chan string)
	h := newHouse(t, func(cfg *Config) {
		cfg.Users = users(t, map[string]Role{"vera": Viewer, "otto": Operator, "olga": Operator})
		cfg.Retry = func(context.Context, int64) (string, error) {
			begun <- struct{}{}
			if why := <-end; why != "" {
				return "", Refused(why)
			}
			return "Read again, and settled.", nil
		}
	})
	const path, form, seen = "/quarantine/5", `action="/quarantine/5/retry"`, "/quarantine/5/seen"
	vera, otto, olga := h.browser(), h.browser(), h.browser()
	vera.login("vera")
	otto.login("otto")
	olga.login("olga")
	said := func(b *browser, path string) string {
		all := regexp.MustCompile(`(?s)<div class="said[^>]*>.*?</div>`).FindString(b.get(path).text)
		return strings.Join(strings.Fields(anyTag.ReplaceAllString(all, " ")), " ")
	}
	for _, c := range []struct{ why, want string }{
		{"1 record is refused still: look at `it`.", "not done. 1 record is refused still: look at it ."},
		{"", "Read again, and settled."},
	} {
		request, leave := context.WithCancel(t.Context())
		left, token := make(chan struct{}), otto.token(path)
		go func() {
			defer close(left)
			r, err := http.NewRequestWithContext(request, "POST", "http://"+h.Addr()+path+"/retry", strings.NewReader(url.Values{"token": {token}}.Encode()))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if a, err := otto.http.Do(r); err == nil {
				a.Body.Close()
				t.Error("it did not take long")
			}
		}()
		<-begun
		leave()
		<-left
		if text := olga.get(path).text; !strings.Contains(text, "Reading this record again, which otto asked for at") || !strings.Contains(text, "goes on") || !strings.Contains(text, `class="hint again"`) {
			t.Errorf("it is not told that it goes on:\n%s", text)
		} else if strings.Contains(text, form) || strings.Contains(text, "/dismiss") {
			t.Error("it is offered twice")
		}
		a := olga.do("POST", path+"/retry", url.Values{"token": {olga.token(path)}})
		if text := olga.get(a.Header.Get("Location")).text; !strings.Contains(text, "Not done.") || !strings.Contains(text, "which otto asked for at") {
			t.Errorf("twice at a time:\n%s", text)
		}
		if text := olga.get("/quarantine/6").text; strings.Contains(text, "goes on") || !strings.Contains(text, `action="/quarantine/6/retry"`) {
			t.Errorf("another record:\n%s", text)
		}
		end <- c.why
		h.work.busy.Wait()
		for range 2 { // looking takes nothing away
			for _, b := range []*browser{otto, olga} {
				if got := said(b, path); !strings.HasPrefix(got, "Reading this record again, which otto asked for at ") || !strings.Contains(got, c.want) {
					t.Errorf("%q, want %q", got, c.want)
				}
			}
		}
		if !strings.Contains(otto.get(path).text, form) {
			t.Error("it is not offered again")
		}
		for _, problem := range flaws(otto.get(path).text) {
			t.Error(problem)
		}
		if got := said(vera, path) + said(otto, "/quarantine/6"); got != "" {
			t.Errorf("told to others: %q", got)
		}
		at := h.decisions.of(aboutRecord(5)).At
		if a := vera.do("POST", seen, url.Values{"token": {vera.token("/")}, "at": {at}}); a.StatusCode != http.StatusForbidden || said(otto, path) == "" {
			t.Errorf("taken away by who only looks: %d", a.StatusCode)
		}
		if a := olga.do("POST", seen, url.Values{"token": {olga.token(path)}, "at": {at}}); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != path || said(otto, path) != "" {
			t.Errorf("seen, and still there: %d to %q", a.StatusCode, a.Header.Get("Location"))
		}
	}
}

// counted is a comparison that tells how often there was one.
func counted(n int) Match {
	text := fmt.Sprint("comparison ", n)
	columns := strings.Fields("customer_id account subscription_number item invoices detail")
	return Match{
		Lines:  Grid{Columns: columns, Numeric: make([]bool, len(columns)), Rows: [][]string{{text, text, text, text, text, text}}},
		Totals: []string{text},
	}
}

// One look sees one copy of a thing, whatever is loaded meanwhile.
func TestOneLookOneCopy(t *testing.T) {
	t.Parallel()
	n := 0
	h := grownHouse(t, func(cfg *Config) {
		cfg.Finance = ledger{deeds: cfg.Loads.(*deeds), match: func() Match { n++; return counted(n) }}
	})
	for range 2 {
		err := h.read(t.Context(), time.Minute, func(_ context.Context, v *view) error {
			first, _, err := v.matched("2026-10", copyWithin)
			if err != nil {
				return err
			}
			h.copies.mu.Lock()
			clear(h.copies.known)
			h.copies.mu.Unlock()
			second, _, err := v.matched("2026-10", copyWithin)
			if err == nil && (first.sheet == nil || first.sheet != second.sheet || first.Totals[0] != second.Totals[0]) {
				t.Errorf("two copies in one look: %v, %v", first.Totals, second.Totals)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n != 2 {
		t.Errorf("%d comparisons for two looks", n)
	}
}

// loaded is a run that has ended.
const loaded = `insert into ops.run (source, dataset, scope, account, owner, fence, business_at, status, finished_at)
	values ('keystone', 'keystone.history', 'C-0001', 'acme', 'test', 1, now(), 'ok', now())`

// A comparison reads more than one snapshot: what was half read when something was loaded is what nobody's look is of.
func TestComparisonUnderLoad(t *testing.T) {
	t.Parallel()
	n := 0
	began, goOn := make(chan struct{}, 2), make(chan struct{}, 2)
	h := grownHouse(t, func(cfg *Config) {
		cfg.Finance = ledger{deeds: cfg.Loads.(*deeds), match: func() Match {
			n++
			began <- struct{}{}
			<-goOn
			return counted(n)
		}}
	})
	h.browser().get("/month/match?month=2026-10")
	<-began
	err := h.read(t.Context(), time.Minute, func(_ context.Context, v *view) error {
		if _, err := v.fingerprint(); err != nil {
			return err
		}
		h.exec(loaded)
		goOn <- struct{}{}
		goOn <- struct{}{}
		m, state, err := v.matched("2026-10", copyWithin)
		if err == nil && (!state.IsCurrent || m.Totals[0] != "comparison 2") {
			t.Errorf("%v, %+v", m.Totals, state)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A file is of when it was asked for, or later, though something is loaded while it is computed.
func TestFilesUnderLoad(t *testing.T) {
	t.Parallel()
	n := 0
	began, goOn := make(chan struct{}), make(chan struct{})
	h := grownHouse(t, func(cfg *Config) {
		cfg.Finance = ledger{deeds: cfg.Loads.(*deeds), match: func() Match {
			n++
			began <- struct{}{}
			<-goOn
			return counted(n)
		}}
	})
	b := h.browser()
	b.get("/month/match?month=2026-10") // begins the first
	<-began
	load := func() { h.exec(loaded) }
	load()
	asked := func() time.Time {
		h.copies.mu.Lock()
		defer h.copies.mu.Unlock()
		return h.copies.known["match 2026-10"].asked
	}
	before := asked()
	file := make(chan answer)
	go func() { file <- b.get("/match.csv?month=2026-10") }()
	for !asked().After(before) { // it waits for the first
		runtime.Gosched()
	}
	load()
	goOn <- struct{}{}
	select {
	case <-began: // the first is too old
	case a := <-file:
		t.Fatalf("the file is of before it was asked for: %d: %s", a.StatusCode, a.text)
	}
	load()
	goOn <- struct{}{}
	if a := <-file; a.StatusCode != http.StatusOK || !strings.Contains(a.text, "comparison 2") {
		t.Errorf("%d: %s", a.StatusCode, a.text)
	}
	if text := (notComputed{copyState{At: "2026-11-02 12:00:00"}}).Error(); !strings.Contains(text, "of 2026-11-02 12:00:00 UTC") {
		t.Error(text)
	}
}

// What becomes due without anything being written is computed anew: what was known of the same snapshot is over.
func TestCopiesAsTimePasses(t *testing.T) {
	t.Parallel()
	var clock atomic.Pointer[time.Time]
	clock.Store(&grownNow)
	n := 0
	h := grownHouse(t, func(cfg *Config) {
		cfg.Now = func() time.Time { return *clock.Load() }
		cfg.Finance = ledger{deeds: cfg.Loads.(*deeds), match: func() Match { n++; return counted(n) }}
	})
	b := h.browser()
	for i := range 3 {
		if a := b.get("/match.csv?month=2026-10"); !strings.Contains(a.text, fmt.Sprint("comparison ", i+1)) {
			t.Errorf("at %s: %d: %s", clock.Load(), a.StatusCode, a.text)
		}
		print, err := h.copies.now(t.Context())
		if err != nil || !print.holds(*clock.Load()) {
			t.Fatalf("at %s: holds from %s until %s, %v", clock.Load(), print.from, print.until, err)
		}
		clock.Store(&print.until)
	}
}

// Nobody is kept from a month by those who ask for others: of many, few are made at a time, and what was not among them
// is made when there is a place.
func TestFewCopiesAtATime(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	h := grownHouse(t, func(cfg *Config) {
		cfg.Finance = ledger{deeds: cfg.Loads.(*deeds), match: func() Match { <-goOn; return counted(1) }}
	})
	b := h.browser()
	for month := range mostMaking + 2 {
		b.get(fmt.Sprintf("/month/match?month=2026-%02d", 1+month))
	}
	h.copies.mu.Lock()
	making := h.copies.making()
	h.copies.mu.Unlock()
	if making != mostMaking {
		t.Errorf("%d are made at a time, want %d", making, mostMaking)
	}
	close(goOn)
	if a := b.get(fmt.Sprintf("/match.csv?month=2026-%02d", mostMaking+2)); a.StatusCode != http.StatusOK || !strings.Contains(a.text, "comparison 1") {
		t.Errorf("the last one: %d: %s", a.StatusCode, a.text)
	}
}

// Whoever waits for what cannot be computed is told so, and it is not tried again and again meanwhile.
func TestFileThatCannotBeComputed(t *testing.T) {
	t.Parallel()
	n := 0
	h := grownHouse(t, func(cfg *Config) {
		cfg.Finance = ledger{deeds: cfg.Loads.(*deeds), match: func() Match {
			if n++; n == 2 {
				panic("broken")
			}
			return counted(n)
		}}
	})
	b := h.browser()
	b.get("/match.csv?month=2026-10")
	h.exec(loaded) // what was computed before is no answer
	if a := b.get("/match.csv?month=2026-10"); a.StatusCode != http.StatusServiceUnavailable || !strings.Contains(a.text, "could not be computed: the log says why") {
		t.Errorf("%d: %s", a.StatusCode, a.text)
	}
}

// Sorting by numbers is by what they are worth.
func TestCompareDecimals(t *testing.T) {
	t.Parallel()
	all := []string{"-10.5", "-10", "-9.99", "-0.1", "0", "0.05", "0.1", "0.100001", "2", "10", "10.01", "12345678901234567890.1"}
	for i, a := range all {
		for j, b := range all {
			if got := compareDecimals(a, b); got != min(max(i-j, -1), 1) {
				t.Errorf("%s and %s: %d", a, b, got)
			}
		}
	}
	if compareDecimals("1.50", "1.5") != 0 || compareDecimals("-0.0", "0") != 0 || compareDecimals("007", "7") != 0 {
		t.Error("equal ones differ")
	}
}
