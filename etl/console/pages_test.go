package console

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/jackc/pgx/v5/pgxpool"

	"meterhouse/etl/warehouse/warehousetest"
)

func TestMain(m *testing.M) { warehousetest.Main(m) }

// testNow is the business clock of these tests.
var testNow = time.Date(2026, 5, 21, 12, 0, 0, 0, time.UTC)

const testBody = `{"code":"200","data":[{"operation":"x","items":"<b>12</b>"},{"operation":"y","items":1.10,"nested":{"deep":[1,2,3]}}]}`

// fill puts a small past into a warehouse: scopes, runs of every status, refused records, a landed answer, an
// alert. What vendors and people wrote in it would be markup, if it were not escaped.
const fill = `
insert into ops.watermark (source, dataset, scope, account, watermark, last_success_at, next_due_at)
select 'keystone', 'keystone.history', 'C-' || n, 'acme', '2026-05-20T00:00:00Z', '2026-05-21T03:00:00Z', '2026-05-22T02:37:00Z'
from generate_series(1, 60) as n;
insert into ops.watermark (source, dataset, scope, account, watermark, last_success_at, next_due_at, expected_from)
values ('wolkvox', 'wolkvox.billing', 'calls', 'calls', '2026-05-21T09:00:00Z', '2026-05-21T09:00:00Z', '2026-05-21T09:30:00Z', '2026-05-01');
insert into ops.run (source, dataset, scope, account, window_from, window_until, status, owner, fence, business_at, fetched_at, started_at,
    finished_at, body_bytes, received, inserted, quarantined, error)
select 'keystone', 'keystone.history', 'C-' || (1 + n % 60), 'acme', '2026-05-01', '2026-05-20',
    case when n % 10 = 0 then 'failed' when n % 10 = 1 then 'partial' else 'ok' end, 'test', 1, '2026-05-21T03:00:00Z', '2026-05-21T03:00:01Z',
    '2026-05-21T03:00:00Z'::timestamptz + n * interval '1 minute', '2026-05-21T03:00:02.5Z'::timestamptz + n * interval '1 minute', 1000 + n, n, n, 0,
    case when n % 10 = 0 then '=cmd|''/c calc''!A1 <script>alert(1)</script>' end
from generate_series(1, 130) as n;
insert into ops.run (source, dataset, scope, account, status, owner, fence, business_at, started_at)
values ('wolkvox', 'wolkvox.billing', 'calls', 'calls', 'running', 'test', 1, '2026-05-21T12:00:00Z', '2026-05-21T12:00:00Z');
insert into ops.run_warning values (1, 'type_coerced', 3, '/results/0');
insert into raw.payload (run_id, source, dataset, scope, account, product, method, url, requested_at, fetched_at, status, content_type, body_bytes, body_sha256, body_zstd)
values (131, 'wolkvox', 'wolkvox.billing', 'calls', 'calls', 'chat_licenses', 'GET', 'https://wv0039.wolkvox.com/api/v2/billing.php?api=chat_licenses',
    '2026-05-21T12:00:00Z', '2026-05-21T12:00:01Z', 200, 'application/json', 110, sha256('x'), '\x00');
insert into ops.quarantine (run_id, payload_id, source, dataset, scope, product, path, reason, excerpt, fingerprint, quarantined_at)
select 131, 1, 'wolkvox', 'wolkvox.billing', 'calls', 'chat_licenses', '/data/0/items', 'number_form', '<b>12</b>' || n, sha256(n::text::bytea), '2026-05-21T12:00:00Z'
from generate_series(1, 55) as n;
insert into ops.quarantine (run_id, source, dataset, scope, path, reason, excerpt, fingerprint, quarantined_at, resolved_at, resolution)
values (2, 'keystone', 'keystone.history', 'C-3', '', 'not_json', 'oops', sha256('oops'), '2026-05-01T12:00:00Z', '2026-05-02T12:00:00Z', 'dismissed by <i>ann</i>: test');
insert into ops.alert (alert_key, kind, severity, account, subject, detail, since, heals, opened_at, seen_at)
values ('a', 'late', 'page', 'acme', 'keystone.history of C-7 <is> late', 'see ` + "`meterhouse status`" + ` & look', '2026-05-21T10:00:00Z', true, '2026-05-21T10:00:00Z', '2026-05-21T10:00:00Z');
`

// house is a console over a warehouse of its own.
type house struct {
	*Server
	t    testing.TB
	pool *pgxpool.Pool
	log  *lockedLog
	done *deeds
}

// deeds are what the console asked for.
type deeds struct {
	mu    sync.Mutex
	all   []string
	state Progress
	fail  error
}

func (d *deeds) note(format string, args ...any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, fmt.Sprintf(format, args...))
	return d.fail
}

func (d *deeds) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := strings.Join(d.all, "; ")
	d.all = nil
	return all
}

func (d *deeds) Begin(_ context.Context, dataset, scope, who string) (int64, error) {
	return 7, d.note("load %s %s by %s", dataset, scope, who)
}

func (d *deeds) Progress(context.Context, int64) (Progress, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state, nil
}

func newHouse(t *testing.T, change func(*Config)) *house {
	t.Helper()
	return houseOver(t, change, func(pool *pgxpool.Pool) {
		if _, err := pool.Exec(t.Context(), fill); err != nil {
			t.Fatal(err)
		}
	})
}

func houseOver(t *testing.T, change func(*Config), fill func(*pgxpool.Pool)) *house {
	t.Helper()
	h := &house{t: t, log: &lockedLog{}, done: &deeds{state: Progress{State: "it waits for a worker"}}}
	h.pool = connect(t, warehousetest.New(t))
	fill(h.pool)
	cfg := Config{
		Gatherer: figures(), Log: slog.New(slog.NewTextHandler(h.log, nil)), Pool: h.pool, Now: func() time.Time { return testNow }, Version: "v1.2.3",
		Status: func(context.Context) (Status, error) {
			return Status{"2 things need you.", []string{"run `meterhouse run <now>`", "look"}, []string{"good & well"}}, nil
		},
		Body: func(context.Context, int64) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(testBody)), nil
		},
		Defuse: func(text string) string {
			if strings.HasPrefix(text, "=") {
				return "'" + text
			}
			return text
		}, Loads: h.done,
		Retry: func(_ context.Context, id int64) (string, error) { return "Read again.", h.done.note("retry %d", id) },
		Dismiss: func(_ context.Context, id int64, who, reason string) error {
			return h.done.note("dismiss %d by %s: %s", id, who, reason)
		},
	}
	if change != nil {
		change(&cfg)
	}
	h.Server = serve(t, cfg)
	return h
}

func connect(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.RuntimeParams["timezone"] = "UTC"
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// browser keeps cookies, and does not follow where it is sent.
type browser struct {
	t    testing.TB
	base string
	http *http.Client
}

func (h *house) browser() *browser {
	jar, _ := cookiejar.New(nil)
	return &browser{h.t, "http://" + h.Addr(), &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

type answer struct {
	*http.Response
	text string
}

func (b *browser) do(method, path string, form url.Values, more ...func(*http.Request)) answer {
	b.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, f := range more {
		f(req)
	}
	res, err := b.http.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{res, string(text)}
}

func (b *browser) get(path string) answer { b.t.Helper(); return b.do("GET", path, nil) }

var tokenField = regexp.MustCompile(`name="token" value="([0-9a-f]{64})"`)

// token is that of the forms on a page.
func (b *browser) token(path string) string {
	b.t.Helper()
	found := tokenField.FindStringSubmatch(b.get(path).text)
	if found == nil {
		b.t.Fatalf("%s: no form with a token", path)
	}
	return found[1]
}

func (b *browser) login(name string) {
	b.t.Helper()
	a := b.do("POST", "/login", url.Values{"token": {b.token("/login")}, "user": {name}, "password": {canary + name}})
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/" {
		b.t.Fatalf("login as %s: %d %s\n%s", name, a.StatusCode, a.Header.Get("Location"), a.text)
	}
}

// failed is a login that fails.
func (b *browser) failed(name, password string) answer {
	b.t.Helper()
	return b.do("POST", "/login", url.Values{"token": {b.token("/login")}, "user": {name}, "password": {password}})
}

// allPages are one address for each kind of page.
var allPages = []string{
	"/", "/freshness", "/runs", "/runs/10", "/runs/131", "/loads/7?dataset=wolkvox.billing&scope=calls&after=3", "/payloads/1",
	"/quarantine", "/quarantine/1", "/quarantine/56", "/runs?q=C-1&status=failed", "/runs?page=3", "/quarantine?state=&q=oops",
	"/freshness?sort=-next_due_at", "/runs?sort=run_id", "/runs?q=nobody",
	"/coverage", "/coverage?detail=levels&months=2", "/consumption", "/consumption/level?customer=C-1", "/month", "/month/statement", "/month/adjustments",
}

// Every page is whole: well-formed, with one heading of the first order, a title, landmarks, tables with
// captions, fields with labels, and nothing that the browser is told not to run.
func TestPages(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) { cfg.Anybody = Operator })
	b := h.browser()
	b.get("/")
	<-h.advice.refresh()
	for _, path := range append(allPages, "/nowhere", "/runs/9999", "/runs/x", "/payloads/2", "/quarantine/0") {
		a := b.get(path)
		want := http.StatusOK
		if !slices.Contains(allPages, path) {
			want = http.StatusNotFound
		}
		if a.StatusCode != want {
			t.Errorf("%s: %d, want %d\n%s", path, a.StatusCode, want, a.text)
			continue
		}
		if got := a.Header.Get("Content-Security-Policy"); got != "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'" {
			t.Errorf("%s: policy %q", path, got)
		}
		for _, problem := range flaws(a.text) {
			t.Errorf("%s: %s", path, problem)
		}
		for _, bad := range []string{"<b>12", "<script", "<i>ann", "C-7 <is>", "run <now>", "<no value>", "ZgotmplZ", "%!", " style=", " onclick="} {
			if strings.Contains(a.text, bad) {
				t.Errorf("%s: holds %q", path, bad)
			}
		}
	}
	for path, wants := range map[string][]string{
		"/": {"2 things need you.", "run <code>meterhouse run &lt;now&gt;</code>", "good &amp; well", "Scopes <strong>61</strong>", "In quarantine <strong>55</strong>",
			"Open alerts <strong>1</strong>", "keystone.history of C-7 &lt;is&gt; late", `<a href="/runs/131">131</a>`, "v1.2.3", "2026-05-21 12:00:00 UTC"},
		"/freshness?q=CALL": {"1 to 1 of 1.", `<span class="status late">late</span>`, "2026-05-21 09:30:00"},
		"/freshness":        {"1 to 50 of 61", "Load now"},
		"/runs/10":          {`<span class="status failed">failed</span>`, "=cmd|&#39;/c calc&#39;!A1 &lt;script&gt;", "2026-05-01 to 2026-05-20", "1010"},
		"/runs/1":           {"type_coerced 3"},
		"/runs/131":         {`<a href="">Look again</a>`, `live=1">load itself again`, `<a href="/payloads/1">1</a>`},
		"/payloads/1":       {"https://wv0039.wolkvox.com/api/v2/billing.php?api=chat_licenses", "1.10", "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},
		"/quarantine/1":     {"&lt;b&gt;12&lt;/b&gt;1", "&#34;operation&#34;: &#34;x&#34;", "<code>/data/0</code>", "Dismiss", "Read again"},
		"/quarantine/56":    {"dismissed by &lt;i&gt;ann&lt;/i&gt;: test"},
		"/loads/7?dataset=wolkvox.billing&scope=calls&after=3":        {"it waits for a worker", `<a href="/runs/131">131</a>`, `<a href="">Look again</a>`},
		"/loads/7?dataset=wolkvox.billing&scope=calls&after=3&live=1": {`http-equiv="refresh" content="2"`, `scope=calls">Stop that`},
	} {
		text := b.get(path).text
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q", path, want)
			}
		}
	}
	// No page loads itself again unasked: that would take what somebody types.
	for _, path := range append([]string{"/runs/10?live=1"}, allPages...) {
		if strings.Contains(b.get(path).text, "http-equiv") {
			t.Errorf("%s loads itself again", path)
		}
	}
	if strings.Contains(b.get("/quarantine/1").text, "nested") {
		t.Error("the neighbour of the refused record is shown")
	}
}

// flaws are what is wrong with a page.
func flaws(text string) (all []string) {
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	d := xml.NewDecoder(strings.NewReader(strings.Replace(text, "<!doctype html>", "", 1)))
	d.Strict, d.Entity = false, xml.HTMLEntity
	void := []string{"meta", "link", "input", "img", "br"}
	var open []string
	ids, count := map[string]bool{}, map[string]int{}
	var referred []string
	level, tables, captions := 0, 0, 0
	for {
		tok, err := d.RawToken() // which mends nothing
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			add("not well-formed: %v", err)
			return all
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			name := tok.Name.Local
			count[name]++
			if !slices.Contains(void, name) {
				open = append(open, name)
			}
			attr := map[string]string{}
			for _, a := range tok.Attr {
				attr[a.Name.Local] = a.Value
			}
			if id := attr["id"]; id != "" {
				if ids[id] {
					add("id %q twice", id)
				}
				ids[id] = true
			}
			if len(name) == 2 && name[0] == 'h' && name[1] >= '1' && name[1] <= '6' {
				if n := int(name[1] - '0'); n > level+1 {
					add("heading %s after level %d", name, level)
				} else {
					level = n
				}
			}
			switch name {
			case "table":
				tables++
			case "caption":
				captions++
			case "html":
				if attr["lang"] != "en" {
					add("no language")
				}
			case "input", "select":
				if attr["type"] != "hidden" && !slices.Contains(open, "label") {
					add("field %q without a label", attr["name"])
				}
			case "form":
				if attr["method"] == "" {
					add("a form without a method")
				}
			case "th":
				if attr["scope"] == "" {
					add("a heading of a table without a scope")
				}
			case "img":
				if _, ok := attr["alt"]; !ok {
					add("an image without alt")
				}
			case "svg":
				if attr["aria-hidden"] != "true" && (attr["role"] != "img" || attr["aria-label"] == "") {
					add("a drawing that nobody hears of")
				}
			}
			// What the keyboard stops at says what it is.
			if attr["tabindex"] == "0" && (attr["role"] == "" || attr["aria-label"] == "") {
				add("<%s> takes the focus without a name", name)
			}
			if strings.Contains(" "+attr["class"]+" ", " scroll ") && attr["tabindex"] != "0" {
				add("what scrolls cannot be scrolled by the keyboard")
			}
			if h := attr["href"]; strings.HasPrefix(h, "#") {
				referred = append(referred, h[1:])
			}
			for _, name := range []string{"aria-labelledby", "aria-describedby"} {
				if attr[name] != "" {
					referred = append(referred, attr[name])
				}
			}
			for name := range attr {
				if strings.HasPrefix(name, "on") || name == "style" {
					add("attribute %s", name)
				}
			}
			for _, link := range []string{attr["href"], attr["src"], attr["action"]} {
				if link != "" && !strings.HasPrefix(link, "/") && !strings.HasPrefix(link, "#") {
					add("link to %q", link)
				}
			}
		case xml.EndElement:
			if len(open) == 0 || open[len(open)-1] != tok.Name.Local {
				add("</%s> closes %v", tok.Name.Local, open)
				return all
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		add("not closed: %v", open)
	}
	for _, name := range []string{"h1", "main", "title", "header", "footer"} {
		if count[name] != 1 {
			add("%d times <%s>, want once", count[name], name)
		}
	}
	if count["script"]+count["style"] > 0 {
		add("a script or style within")
	}
	if tables != captions {
		add("%d tables with %d captions", tables, captions)
	}
	for _, id := range referred {
		if !ids[id] {
			add("nothing has the id %q", id)
		}
	}
	return all
}

// A page that is not well-formed is noticed.
func TestFlaws(t *testing.T) {
	t.Parallel()
	whole := `<!doctype html><html lang="en"><head><title>x</title></head><body><header></header><main><h1>x</h1></main><footer></footer></body></html>`
	if got := flaws(whole); len(got) > 0 {
		t.Errorf("a whole page: %v", got)
	}
	for _, c := range [][2]string{
		{"</h1>", ""}, {"<main>", "<main><main></main>"}, {"</h1>", `</h1><h3>y</h3>`}, {"</h1>", `</h1><input name="q">`}, {"</h1>", `</h1><p style="x">y</p>`},
		{"</h1>", `</h1><table></table>`}, {"</h1>", `</h1><a href="#no">y</a>`}, {"</h1>", `</h1><a href="https://x">y</a>`}, {"</h1>", `</h1><p><b></p></b>`},
		{"</h1>", `</h1><svg></svg>`}, {"</h1>", `</h1><svg role="img"></svg>`}, {"</h1>", `</h1><div class="scroll">y</div>`}, {"</h1>", `</h1><div class="scroll" tabindex="0">y</div>`},
	} {
		if bad := strings.Replace(whole, c[0], c[1], 1); len(flaws(bad)) == 0 {
			t.Errorf("%s is taken for whole", bad)
		}
	}
}

// Pages tile the rows: each row once, in order, and as many as are counted; the CSV is the query, digit for
// digit.
func TestPagingAndCSV(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	b := h.browser()
	for _, c := range []struct {
		path, cell, want string // of the first column, by SQL
		csv, sql         string
	}{
		{"/runs", `<a href="/runs/(\d+)">`, "select run_id::text as id from mart.run order by run_id desc", "/runs.csv", "select * from mart.run order by run_id desc"},
		{"/runs?status=ok&q=c-1", `<a href="/runs/(\d+)">`, "select run_id::text as id from mart.run where status = 'ok' and scope like 'C-1%' order by run_id desc", "/runs.csv?status=ok&q=c-1", ""},
		{"/runs?sort=run_id", `<a href="/runs/(\d+)">`, "select run_id::text as id from mart.run order by run_id", "/runs.csv?sort=run_id", ""},
		{"/quarantine", `<a href="/quarantine/(\d+)">`, "select quarantine_id::text as id from mart.quarantine where resolved_at is null order by quarantine_id desc", "/quarantine.csv", ""},
		{"/quarantine?state=", `<a href="/quarantine/(\d+)">`, "select quarantine_id::text as id from mart.quarantine order by quarantine_id desc", "/quarantine.csv?state=", ""},
		{"/freshness?dataset=keystone.history", `<tr>\n<td>keystone.history</td>\n<td>(C-\d+)</td>`, "select scope from mart.freshness where dataset = 'keystone.history' order by scope", "/freshness.csv?dataset=keystone.history", ""},
	} {
		want := h.column(c.want)
		var got []string
		cell := regexp.MustCompile(c.cell)
		for path := c.path; path != ""; {
			a := b.get(path)
			if !strings.Contains(a.text, fmt.Sprintf(" of %d. ", len(want))) {
				t.Errorf("%s does not count %d", path, len(want))
			}
			rows := cell.FindAllStringSubmatch(a.text, -1)
			if len(rows) > pageRows {
				t.Errorf("%s: %d rows", path, len(rows))
			}
			for _, m := range rows {
				got = append(got, m[1])
			}
			next := regexp.MustCompile(`href="([^"]+)" rel="next"`).FindStringSubmatch(a.text)
			path = ""
			if next != nil {
				path = strings.ReplaceAll(next[1], "&amp;", "&")
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s\n got %v\nwant %v", c.path, got, want)
		}
		a := b.get(c.csv)
		rows, err := csv.NewReader(strings.NewReader(a.text)).ReadAll()
		if err != nil || len(rows) != len(want)+1 {
			t.Errorf("%s: %d rows, want %d: %v", c.csv, len(rows), len(want)+1, err)
			continue
		}
		if !strings.HasPrefix(a.Header.Get("Content-Disposition"), "attachment;") || a.Header.Get("Content-Type") != "text/csv; charset=utf-8" {
			t.Errorf("%s: %v", c.csv, a.Header)
		}
		for i, row := range rows[1:] {
			if !slices.Contains(row[:3], want[i]) {
				t.Errorf("%s row %d: %v, want %s", c.csv, i, row[:3], want[i])
				break
			}
		}
		if c.sql == "" {
			continue
		}
		// Every column of the view is in the CSV as the database writes it.
		for i, name := range rows[0] {
			if slices.Contains([]string{"window_text", "took"}, name) {
				continue
			}
			for j, value := range h.column(fmt.Sprintf("select coalesce(r.%s::text, '') from (%s) as r", name, c.sql)) {
				if strings.HasPrefix(value, "=") {
					value = "'" + value
				}
				if rows[j+1][i] != value {
					t.Errorf("%s: %s of row %d is %q, want %q", c.csv, name, j, rows[j+1][i], value)
				}
			}
		}
	}
	// What cannot be read as a date is said, and no connection breaks.
	for _, path := range []string{"/coverage.csv", "/coverage.csv?from=x&until=2026-05-01", "/level_days.csv?from=x&until=y"} {
		if a := b.get(path); a.StatusCode != http.StatusBadRequest || !strings.Contains(a.text, "cannot be read") || a.Header.Get("Content-Disposition") != "" {
			t.Errorf("%s: %d %v %s", path, a.StatusCode, a.Header, a.text)
		}
	}
	for path, want := range map[string]string{
		"/runs?page=-3": "1 to 50 of 131", "/runs?page=99999999999999999999": "1 to 50 of 131", "/runs?page=99": "101 to 131 of 131", "/runs?page=3": "101 to 131 of 131",
		"/runs?sort=error%3B+drop+table+ops.run": "1 to 50 of 131", "/runs?sort=-received": "1 to 50 of 131",
		"/runs?q=%27+or+1%3D1+--": "There is no such run", "/runs?q=%00%ff": "1 to 50 of 131", "/runs?status=wrong": "There is no such run",
	} {
		if a := b.get(path); a.StatusCode != http.StatusOK || !strings.Contains(a.text, want) {
			t.Errorf("%s: %d, want %q", path, a.StatusCode, want)
		}
	}
}

// column is the only column of a query, as text.
func (h *house) column(sql string) (all []string) {
	h.t.Helper()
	rows, err := h.pool.Query(h.t.Context(), sql)
	if err != nil {
		h.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			h.t.Fatal(err)
		}
		all = append(all, text)
	}
	if err := rows.Err(); err != nil {
		h.t.Fatal(err)
	}
	return all
}

// Who may do what: every page and action, for every role, and for those who have none.
func TestRoles(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) {
		cfg.Listen = "0.0.0.0:0"
		cfg.Users = users(t, map[string]Role{"vera": Viewer, "otto": Operator, "cleo": Closer})
	})
	at := map[string]*browser{"": h.browser()}
	for _, name := range []string{"vera", "otto", "cleo"} {
		at[name] = h.browser()
		at[name].login(name)
	}
	load := url.Values{"dataset": {"wolkvox.billing"}, "scope": {"calls"}}
	for _, c := range []struct {
		method, path string
		form         url.Values
		status       map[string]int
		did          string // with the name in place of ?
	}{
		{"GET", "/", nil, map[string]int{"": 303, "vera": 200, "otto": 200, "cleo": 200}, ""},
		{"GET", "/runs.csv", nil, map[string]int{"": 303, "vera": 200, "otto": 200, "cleo": 200}, ""},
		{"GET", "/payloads/1", nil, map[string]int{"": 303, "vera": 200, "otto": 200, "cleo": 200}, ""},
		{"GET", "/payloads/1/body", nil, map[string]int{"": 303, "vera": 403, "otto": 200, "cleo": 200}, ""},
		{"GET", "/nowhere", nil, map[string]int{"": 303, "vera": 404, "otto": 404, "cleo": 404}, ""},
		{"POST", "/loads", load, map[string]int{"": 401, "vera": 403, "otto": 303, "cleo": 303}, "load wolkvox.billing calls by ?"},
		{"POST", "/quarantine/1/retry", url.Values{}, map[string]int{"": 401, "vera": 403, "otto": 303, "cleo": 303}, "retry 1"},
		{"POST", "/quarantine/1/dismiss", url.Values{"reason": {"a\ntest"}}, map[string]int{"": 401, "vera": 403, "otto": 303, "cleo": 303}, "dismiss 1 by ?: a test"},
		{"POST", "/", url.Values{}, map[string]int{"": 401, "vera": 404, "otto": 404, "cleo": 404}, ""},
	} {
		for name, status := range c.status {
			form := c.form
			if form != nil {
				form = url.Values{"token": {"0"}}
				for k, v := range c.form {
					form[k] = v
				}
				if name != "" {
					form.Set("token", at[name].token("/"))
				}
			}
			a := at[name].do(c.method, c.path, form)
			if a.StatusCode != status {
				t.Errorf("%q %s %s: %d, want %d", name, c.method, c.path, a.StatusCode, status)
			}
			want := ""
			if status == 303 && name != "" {
				want = strings.ReplaceAll(c.did, "?", name)
			}
			if got := h.done.take(); got != want {
				t.Errorf("%q %s %s did %q, want %q", name, c.method, c.path, got, want)
			}
		}
	}
	for name, wants := range map[string]bool{"vera": false, "otto": true} {
		if got := strings.Contains(at[name].get("/payloads/1").text, "1.10"); got != wants {
			t.Errorf("%s sees the body: %v", name, got)
		}
		for _, path := range []string{"/quarantine/1", "/freshness"} {
			if got := strings.Contains(at[name].get(path).text, `action="/quarantine/1/dismiss"`) || strings.Contains(at[name].get(path).text, `action="/loads"`); got != wants {
				t.Errorf("%s sees what may be done at %s: %v", name, path, got)
			}
		}
	}
	if text := at["vera"].get("/quarantine/1").text; strings.Contains(text, "&#34;operation&#34;") {
		t.Error("a viewer sees a part of the body")
	}
	// A stranger is led to the form and from there to where he wanted to go, which is never elsewhere.
	if a := at[""].get("/runs?q=C-1"); a.Header.Get("Location") != "/login?next=%2Fruns%3Fq%3DC-1" {
		t.Errorf("led to %s", a.Header.Get("Location"))
	}
	for next, want := range map[string]string{"/runs?q=C-1": "/runs?q=C-1", "//evil.example": "/", "https://evil.example": "/", `/\evil.example`: "/", "": "/", "runs": "/", "/\tx": "/"} {
		b := h.browser()
		a := b.do("POST", "/login", url.Values{"token": {b.token("/login")}, "user": {"vera"}, "password": {canary + "vera"}, "next": {next}})
		if a.StatusCode != 303 || a.Header.Get("Location") != want {
			t.Errorf("next %q leads to %q (%d), want %q", next, a.Header.Get("Location"), a.StatusCode, want)
		}
	}
	for path, status := range map[string]int{"/login": 200, "/static/console.css": 200, "/static/icon.svg": 200, "/static/../frame.go": 303, "/static/": 303, "/healthz": 200, "/metrics": 401} {
		if a := h.browser().get(path); a.StatusCode != status {
			if a.StatusCode == http.StatusTemporaryRedirect || a.StatusCode == http.StatusMovedPermanently {
				continue // to the clean path
			}
			t.Errorf("%s without a login: %d, want %d", path, a.StatusCode, status)
		}
	}
	for path, a := range map[string]answer{"login": h.browser().get("/login"), "form": h.browser().do("POST", "/loads", url.Values{})} {
		if strings.Contains(a.text, "v1.2.3") || !strings.Contains(a.text, "/login") {
			t.Errorf("%s: a stranger is told the version, or not where to log in: %s", path, a.text)
		}
	}
	for _, a := range []answer{h.browser().get("/login"), at["otto"].get("/")} {
		for _, problem := range flaws(a.text) {
			t.Error(problem)
		}
	}
	if strings.Contains(h.log.String(), canary) {
		t.Error("a password is logged")
	}
}

// A form that is not ours does nothing, wherever it is from.
func TestForgedForms(t *testing.T) {
	t.Parallel()
	for _, withUsers := range []bool{true, false} {
		h := newHouse(t, func(cfg *Config) {
			cfg.Anybody = Closer
			if withUsers {
				cfg.Users = users(t, map[string]Role{"otto": Operator, "anna": Operator})
			}
		})
		b, other := h.browser(), h.browser()
		if withUsers {
			b.login("otto")
			other.login("anna")
		}
		token, others := b.token("/freshness"), other.token("/freshness")
		form := func(token string) url.Values {
			return url.Values{"token": {token}, "dataset": {"wolkvox.billing"}, "scope": {"calls"}}
		}
		site := func(name, value string) func(*http.Request) {
			return func(r *http.Request) { r.Header.Set(name, value) }
		}
		for name, a := range map[string]answer{
			"no token":                 b.do("POST", "/loads", form("")),
			"a token of another":       b.do("POST", "/loads", form(others)),
			"a token that is cut":      b.do("POST", "/loads", form(token[:63])),
			"no cookie":                h.browser().do("POST", "/loads", form(token)),
			"another site":             b.do("POST", "/loads", form(token), site("Sec-Fetch-Site", "cross-site")),
			"a site beside us":         b.do("POST", "/loads", form(token), site("Sec-Fetch-Site", "same-site")),
			"another origin":           b.do("POST", "/loads", form(token), site("Origin", "https://evil.example")),
			"no origin":                b.do("POST", "/loads", form(token), site("Origin", "null")),
			"the token in the address": b.do("POST", "/loads?token="+token, form("")),
			"read instead of sent":     b.do("GET", "/loads?token="+token+"&dataset=wolkvox.billing&scope=calls", nil),
		} {
			if a.StatusCode != 403 && a.StatusCode != 401 && a.StatusCode != 404 {
				t.Errorf("users %v, %s: %d", withUsers, name, a.StatusCode)
			}
		}
		if did := h.done.take(); did != "" {
			t.Errorf("users %v: did %s", withUsers, did)
		}
		a := b.do("POST", "/loads", form(token), site("Sec-Fetch-Site", "same-origin"), site("Origin", b.base))
		if a.StatusCode != 303 || a.Header.Get("Location") != "/loads/7?after=131&dataset=wolkvox.billing&live=1&scope=calls" || h.done.take() == "" {
			t.Errorf("our own form: %d %s", a.StatusCode, a.Header.Get("Location"))
		}
		if a := b.do("POST", "/loads", url.Values{"token": {token}, "dataset": {"wolkvox.billing"}, "scope": {"nobody"}}); a.StatusCode != 404 || h.done.take() != "" {
			t.Errorf("a load of what is not there: %d", a.StatusCode)
		}
	}
}

// What was done is said once, on the page that follows; what was refused, as such.
func TestSaid(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) { cfg.Anybody = Operator })
	b := h.browser()
	token := b.token("/quarantine/1")
	post := func(path string, form url.Values) answer {
		form.Set("token", token)
		a := b.do("POST", path, form)
		if a.StatusCode != 303 {
			t.Errorf("%s: %d\n%s", path, a.StatusCode, a.text)
		}
		return b.get(a.Header.Get("Location"))
	}
	if text := post("/quarantine/1/retry", url.Values{}).text; !strings.Contains(text, `<p class="said" role="status">Read again.</p>`) {
		t.Error("it is not said")
	}
	if text := b.get("/quarantine/1").text; strings.Contains(text, "Read again.</p>") {
		t.Error("it is said twice")
	}
	if text := post("/quarantine/1/dismiss", url.Values{"reason": {"  "}}).text; !strings.Contains(text, "Say why it is not wanted") {
		t.Error("dismissed without a reason")
	}
	if text := post("/quarantine/1/dismiss", url.Values{"reason": {strings.Repeat("ü", 501)}}).text; !strings.Contains(text, "too long") {
		t.Error("a long reason is taken")
	}
	h.done.take()
	h.done.fail = Refused("quarantine 1: is <settled>")
	if text := post("/quarantine/1/retry", url.Values{}).text; !strings.Contains(text, "<strong>Not done.</strong> quarantine 1: is &lt;settled&gt;") {
		t.Errorf("a refusal is not said: %s", text)
	}
	h.done.fail = errors.New("dial " + canary)
	a := b.do("POST", "/quarantine/1/dismiss", url.Values{"token": {token}, "reason": {"x"}})
	if a.StatusCode != 500 || strings.Contains(a.text, canary) || !strings.Contains(h.log.String(), canary) {
		t.Errorf("an error of ours: %d\n%s", a.StatusCode, a.text)
	}
	if text := post("/quarantine/1/retry", url.Values{}).text; strings.Contains(text, canary) || !strings.Contains(text, "the log has the cause") {
		t.Error("an error of ours is shown, or not told")
	}
	// A sentence that somebody else put into the browser is not said.
	forged := func(r *http.Request) { r.AddCookie(&http.Cookie{Name: flashCookie, Value: "fGhhY2tlZA.00"}) }
	if text := b.do("GET", "/runs", nil, forged).text; strings.Contains(text, "hacked") {
		t.Error("a forged sentence is said")
	}
}

// Cookies are for us only; with TLS in front, for TLS only.
func TestCookies(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "https://meters.example"} {
		h := newHouse(t, func(cfg *Config) {
			cfg.URL = address
			cfg.Users = users(t, map[string]Role{"otto": Operator})
		})
		res := h.browser().get("/login")
		b := h.browser()
		form := url.Values{"token": {tokenField.FindStringSubmatch(res.text)[1]}, "user": {"otto"}, "password": {canary + "otto"}}
		a := b.do("POST", "/login", form, func(r *http.Request) {
			for _, c := range res.Cookies() {
				r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
			}
		})
		if a.StatusCode != 303 {
			t.Fatalf("login: %d %s", a.StatusCode, a.text)
		}
		for _, c := range append(res.Cookies(), a.Cookies()...) {
			isSecure := address != ""
			if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.Secure != isSecure || strings.HasPrefix(c.Name, "__Host-") != isSecure {
				t.Errorf("cookie %+v", c)
			}
			if strings.HasSuffix(c.Name, sessionCookie) && len(c.Value) < 52 {
				t.Errorf("a session has %d letters, want 256 bits", len(c.Value))
			}
		}
	}
}

// A session ends when its user leaves, after an hour of silence, and after half a day.
func TestSessions(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) { cfg.Users = users(t, map[string]Role{"otto": Operator}) })
	var mu sync.Mutex
	now := time.Now()
	h.sessions.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	pass := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	b := h.browser()
	b.login("otto")
	in := func() bool { t.Helper(); return b.get("/").StatusCode == 200 }
	pass(59 * time.Minute)
	if !in() {
		t.Error("thrown out within the hour")
	}
	pass(time.Hour)
	if in() {
		t.Error("still in after an hour of silence")
	}
	b.login("otto")
	for range 14 {
		pass(50 * time.Minute)
		in()
	}
	pass(25 * time.Minute)
	if in() {
		t.Error("still in after more than 12 hours")
	}
	b.login("otto")
	token := b.token("/")
	old := b.http.Jar.Cookies(must(url.Parse(b.base)))
	if a := b.do("POST", "/logout", url.Values{"token": {"0"}}); !in() {
		t.Errorf("logged out by a forged form: %d", a.StatusCode)
	}
	b.do("POST", "/logout", url.Values{"token": {token}})
	if in() {
		t.Error("still in after leaving")
	}
	b.http.Jar.SetCookies(must(url.Parse(b.base)), old)
	if in() {
		t.Error("the cookie of a session that was left lets in")
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Guessing is stopped for the name and address that guess, and nobody else's.
func TestGuessing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) {
		cfg.URL = "https://meters.example" // so that addresses differ
		cfg.Users = users(t, map[string]Role{"otto": Operator, "anna": Viewer})
	})
	var mu sync.Mutex
	now := time.Now()
	h.users.tries.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	try := func(name, password, address string) int {
		t.Helper()
		from := func(r *http.Request) { r.Header.Set("X-Forwarded-For", "198.51.100.1, "+address) }
		b := h.browser()
		page := b.do("GET", "/login", nil, from)
		return b.do("POST", "/login", url.Values{"token": {tokenField.FindStringSubmatch(page.text)[1]}, "user": {name}, "password": {password}}, from, func(r *http.Request) {
			for _, c := range page.Cookies() { // Secure ones do not go over this connection by themselves
				r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
			}
		}).StatusCode
	}
	for i := range mostTries {
		if got := try("otto", "wrong"+strconv.Itoa(i), "192.0.2.1"); got != 401 {
			t.Errorf("wrong password %d: %d", i, got)
		}
	}
	for _, c := range []struct {
		name, password, address string
		status                  int
	}{
		{"otto", canary + "otto", "192.0.2.1", 429},
		{"otto", canary + "otto", "192.0.2.2", 303},
		{"anna", canary + "anna", "192.0.2.1", 303},
		{"eve", canary + "anna", "192.0.2.1", 401},
	} {
		if got := try(c.name, c.password, c.address); got != c.status {
			t.Errorf("%s from %s: %d, want %d", c.name, c.address, got, c.status)
		}
	}
	mu.Lock()
	now = now.Add(triesWithin)
	mu.Unlock()
	if got := try("otto", canary+"otto", "192.0.2.1"); got != 303 {
		t.Errorf("after the pause: %d", got)
	}
	// A monitor that asks with a password is not made to compute it each time, and is not let in by another's.
	for range 3 {
		if right, err := h.users.remembers("anna", canary+"anna", "x"); !right || err != nil {
			t.Errorf("remembers: %v %v", right, err)
		}
	}
	if right, _ := h.users.remembers("anna", canary+"otto", "x"); right {
		t.Error("another's password lets in")
	}
	if n := len(h.users.known); n != 1 {
		t.Errorf("%d passwords are remembered", n)
	}
}

// Without users only this machine is served, under its own name.
func TestPagesWithoutUsers(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	b := h.browser()
	for _, path := range slices.Concat([]string{"/nowhere"}, everyAddress(), allPages) {
		a := b.do("GET", path, nil, host("meters.example"))
		if a.StatusCode != 403 || strings.Contains(a.text, "Meterhouse") {
			t.Errorf("%s as meters.example: %d", path, a.StatusCode)
		}
	}
	// Whoever only looks finds nothing to press, and cannot press it either.
	for _, path := range allPages {
		if strings.Contains(b.get(path).text, `method="post"`) {
			t.Errorf("%s has a form for a viewer", path)
		}
	}
	id := ""
	for _, c := range b.http.Jar.Cookies(must(url.Parse(b.base))) {
		if c.Name == visitCookie {
			id = c.Value
		}
	}
	a := b.do("POST", "/quarantine/1/retry", url.Values{"token": {sign(h.key, "form", id)}})
	if a.StatusCode != 403 || h.done.take() != "" {
		t.Errorf("a viewer's form: %d", a.StatusCode)
	}
	if a := b.get("/payloads/1/body"); a.StatusCode != 200 || a.text != testBody || a.Header.Get("Content-Type") != "text/plain; charset=utf-8" ||
		a.Header.Get("Content-Disposition") != `attachment; filename="payload-1.txt"` {
		t.Errorf("body: %d %v %s", a.StatusCode, a.Header, a.text)
	}
}

// What the database cannot tell in time, or at all, is said without its words.
func TestTrouble(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	if _, err := h.pool.Exec(t.Context(), `alter view mart.run rename to run_`+canary[:6]); err != nil {
		t.Fatal(err)
	}
	a := h.browser().get("/runs")
	if a.StatusCode != 500 || strings.Contains(a.text, "mart.run") || !strings.Contains(h.log.String(), "mart.run") {
		t.Errorf("a view that is not there: %d\n%s\n%s", a.StatusCode, a.text, h.log.String())
	}
	for _, problem := range flaws(a.text) {
		t.Error(problem)
	}
	id := regexp.MustCompile(`under ([A-Z2-7]{8})\.`).FindStringSubmatch(a.text)
	if id == nil || !strings.Contains(h.log.String(), "id="+id[1]) {
		t.Error("the page does not name the line of the log")
	}
}

// Everything on pages is read, in a transaction that cannot write.
func TestReadsOnly(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	err := h.read(t.Context(), time.Minute, func(_ context.Context, v *view) error {
		_, err := v.query("delete from ops.run_warning returning run_id")
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a page could write: %v", err)
	}
	err = h.read(t.Context(), 50*time.Millisecond, func(_ context.Context, v *view) error {
		_, err := v.query("select pg_sleep(60)")
		return err
	})
	if err == nil {
		t.Error("a page may take as long as it likes")
	}
}

// What takes long is worked out once for all who look, and anew when somebody did something about it.
func TestAdvice(t *testing.T) {
	t.Parallel()
	begun, gate := make(chan bool), make(chan error)
	n := 0
	a := advice{log: slog.New(slog.DiscardHandler), ask: func(context.Context) (insight, error) {
		n++
		begun <- true
		return insight{Status: Status{Verdict: strconv.Itoa(n)}}, <-gate
	}}
	finish := func(done <-chan struct{}, err error) {
		gate <- err
		<-done
		a.mu.Lock()
		defer a.mu.Unlock()
		a.took = time.Hour // so it serves for long, however slow this machine is
	}
	if found, at, isFresh, _ := a.known(); found.Verdict != "" || !at.IsZero() || isFresh {
		t.Errorf("before it begins: %+v", found)
	}
	var work background
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	work.begin(ctx)
	a.begin(&work)
	<-begun
	done := a.renew()
	for range 3 { // all wait for the one
		if a.renew() != done {
			t.Error("it is worked out twice at a time")
		}
	}
	if _, at, _, _ := a.known(); !at.IsZero() {
		t.Error("known before it is worked out")
	}
	finish(done, nil)
	if found, _, isFresh, failed := a.known(); found.Verdict != "1" || !isFresh || failed || a.renew() != nil {
		t.Errorf("worked out: %+v", found)
	}
	for age, holds := range map[time.Duration]bool{30 * time.Second: true, 2 * time.Minute: false} { // of one that is quick to work out
		a.mu.Lock()
		at := a.at
		a.at, a.took = time.Now().Add(-age), 0
		isNew := a.isWithin(adviceFor)
		a.mu.Unlock()
		if _, _, isFresh, _ := a.known(); isFresh != holds || isNew {
			t.Errorf("%s old: fresh %v, left as it is %v", age, isFresh, isNew)
		}
		a.mu.Lock()
		a.at, a.took = at, time.Hour
		a.mu.Unlock()
	}
	a.forget()
	if found, _, isFresh, _ := a.known(); found.Verdict != "1" || isFresh {
		t.Errorf("after somebody did something about it: %+v, fresh %v", found, isFresh)
	}
	done = a.renew()
	<-begun
	if _, _, isFresh, _ := a.known(); isFresh {
		t.Error("fresh while it is worked out anew")
	}
	a.forget() // what is being worked out may not have seen this
	finish(done, nil)
	if found, _, isFresh, _ := a.known(); found.Verdict != "2" || isFresh {
		t.Errorf("of before somebody did something: %+v, fresh %v", found, isFresh)
	}
	done = a.renew()
	<-begun
	finish(done, errors.New("away"))
	if found, _, isFresh, failed := a.known(); found.Verdict != "2" || isFresh || !failed {
		t.Errorf("after a failure: %+v, fresh %v, failed %v", found, isFresh, failed)
	}
	cancel()
	work.end()
	if work.do(func(context.Context) {}) {
		t.Error("work begins after the end")
	}
}

// Whoever opens the overview after a night reads of when its verdict is, and is not told in green that all is well.
func TestOverviewAfterANight(t *testing.T) {
	t.Parallel()
	begun, gate := make(chan bool), make(chan Status)
	h := newHouse(t, func(cfg *Config) {
		cfg.Status = func(ctx context.Context) (Status, error) {
			select {
			case begun <- true:
			case <-ctx.Done():
				return Status{}, ctx.Err()
			}
			select {
			case found := <-gate:
				return found, nil
			case <-ctx.Done():
				return Status{}, ctx.Err()
			}
		}
	})
	b := h.browser()
	<-begun // at the start
	if text := b.get("/").text; !strings.Contains(text, "What to do is being worked out.") || !strings.Contains(text, `class="hint again"`) {
		t.Errorf("before anything is known:\n%s", text)
	}
	done := h.advice.refresh()
	gate <- Status{Verdict: "All is well."}
	<-done
	h.advice.mu.Lock()
	h.advice.took = time.Minute
	at := h.advice.at
	h.advice.mu.Unlock()
	fresh := b.get("/").text
	if !strings.Contains(fresh, `<p class="verdict well">All is well.</p>`) || !strings.Contains(fresh, "Worked out at "+at.UTC().Format("2006-01-02 15:04:05")+" UTC.") || strings.Contains(fresh, `class="hint again"`) {
		t.Errorf("of this moment:\n%s", fresh)
	}
	h.advice.mu.Lock()
	h.advice.at = at.Add(-9*time.Hour - time.Minute)
	h.advice.mu.Unlock()
	old := b.get("/").text
	<-begun
	for _, want := range []string{
		`<p class="verdict old"><strong>9 hours ago:</strong> All is well.</p>`, "Worked out at " + at.UTC().Add(-9*time.Hour-time.Minute).Format("2006-01-02 15:04:05") + " UTC. It is being worked out anew.", `class="hint again"`,
	} {
		if !strings.Contains(old, want) {
			t.Errorf("after a night, lacks %q:\n%s", want, old)
		}
	}
	for _, problem := range flaws(old) {
		t.Error(problem)
	}
	done = h.advice.refresh()
	gate <- Status{Verdict: "1 thing needs you.", NeedsYou: []string{"look"}}
	<-done
	if text := b.get("/").text; !strings.Contains(text, `<p class="verdict needed">1 thing needs you.</p>`) {
		t.Errorf("worked out anew:\n%s", text)
	}
}

func TestAgo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		age  time.Duration
		want string
	}{{59 * time.Second, "Less than a minute ago"}, {time.Minute, "1 minute ago"}, {59 * time.Minute, "59 minutes ago"}, {61 * time.Minute, "1 hour ago"}, {23 * time.Hour, "23 hours ago"}, {25 * time.Hour, "1 day ago"}, {50 * time.Hour, "2 days ago"}} {
		if got := ago(c.age); got != c.want {
			t.Errorf("%s: %q, want %q", c.age, got, c.want)
		}
	}
}

// Decimals out of sight are the number's own: put together again they are all of it.
func TestSplit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ number, seen string }{
		{"", ""}, {"12", "12"}, {"100.0", "100.0"}, {"97.12345", "97.12345"}, {"97.123456789012", "97.123"}, {"-97.123956789012", "-97.123"},
		{"0.000000123456", "0.000000123"}, {"-0.0403225806", "-0.0403"}, {"0.9999999", "0.999"}, {"5.0000000", "5.0000000"}, {"5.0000001", "5.000"}, {"0.000000000000", "0.000000000000"},
		{"98765432.123456789012345678901234567890", "98765432.123"}, {"0.00000001", "0.00000001"},
	} {
		seen, rest := split(c.number)
		if seen != c.seen || seen+rest != c.number {
			t.Errorf("%s: %s and %s, want %s", c.number, seen, rest, c.seen)
		}
	}
}

func TestAround(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ body, at, text, where string }{
		{testBody, "/data/0/items", "{\n  \"operation\": \"x\",\n  \"items\": \"<b>12</b>\"\n}", "/data/0"},
		{testBody, "/data/1/nested/deep/2", "3", "/data/1/nested/deep/2"},
		{testBody, "/data/1", "", "/data/1"},
		{testBody, "/data/9", "", ""},
		{testBody, "/none/1", "", ""},
		{"\ufeff" + `[1.10,2]`, "/0", "1.10", "/0"},
		{`{"a":{"b":"` + strings.Repeat("x", mostAround) + `","c":7}}`, "/a/c", "7", "/a/c"},
		{`{"a":1`, "/a", "", ""},
		{"no json", "/a", "", ""},
		{`{"a":1}`, "no pointer", "", ""},
		{`{"a":1}`, "", "{\n  \"a\": 1\n}", ""},
	} {
		text, where := around(strings.NewReader(c.body), jsontext.Pointer(c.at))
		if where != c.where || c.text != "" && text != c.text || (text == "") != (c.text == "" && c.where == "") {
			t.Errorf("%s at %q: %q at %q, want %q at %q", c.body[:min(len(c.body), 40)], c.at, text, where, c.text, c.where)
		}
	}
}

func TestReadable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{`{"a":1.10,"b":[1e400]}`, "{\n  \"a\": 1.10,\n  \"b\": [\n    1e400\n  ]\n}"},
		{"no json \x00\x1b[31m", "no json \ufffd\ufffd[31m"},
		{"\xff", "\ufffd"},
	} {
		if got := readable([]byte(c.text), false); got != c.want {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
	if got := readable([]byte(`{"a":1`), true); got != `{"a":1` {
		t.Errorf("cut: %q", got)
	}
	if !bytes.Contains([]byte(markCode("a `b<` c")), []byte("a <code>b&lt;</code> c")) {
		t.Errorf("code: %s", markCode("a `b<` c"))
	}
}

// No page, header or log shows a password, its hash or the key of a session.
func TestNoSecrets(t *testing.T) {
	t.Parallel()
	all := users(t, map[string]Role{"cleo": Closer})
	h := newHouse(t, func(cfg *Config) { cfg.Users, cfg.Finance = all, ledger{deeds: cfg.Loads.(*deeds)} })
	b := h.browser()
	b.login("cleo")
	// A password in the field above its own is in no log.
	if a := h.browser().failed(canary+"cleo", "cleo"); a.StatusCode != 401 {
		t.Errorf("a password as a name: %d", a.StatusCode)
	}
	session := ""
	for _, c := range b.http.Jar.Cookies(must(url.Parse(b.base))) {
		session += c.Value
	}
	secrets := []string{canary, all["cleo"].Hash, session, h.pool.Config().ConnConfig.Password, string(h.key)}
	for _, path := range slices.Concat([]string{"/login", "/nowhere"}, everyAddress(), allPages) {
		a := b.get(path)
		for _, secret := range secrets {
			if secret != "" && (strings.Contains(a.text, secret) || strings.Contains(fmt.Sprint(a.Header), secret)) {
				t.Errorf("%s shows a secret", path)
			}
		}
	}
	for _, secret := range secrets {
		if secret != "" && strings.Contains(h.log.String(), secret) {
			t.Error("a secret is logged")
		}
	}
}

func TestHashes(t *testing.T) {
	t.Parallel()
	hash, err := HashPassword("correct horse")
	if err != nil || CheckHash(hash) != nil {
		t.Fatalf("%q: %v", hash, err)
	}
	if other, _ := HashPassword("correct horse"); other == hash {
		t.Error("the same hash twice")
	}
	for _, bad := range []string{"", "short", strings.Repeat("x", 73)} {
		if _, err := HashPassword(bad); err == nil {
			t.Errorf("%q is hashed", bad)
		}
	}
	for _, bad := range []string{"", "correct horse", hash + "x", hash[:59], "$2a$16" + hash[6:], "$1$abc"} {
		if err := CheckHash(bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
