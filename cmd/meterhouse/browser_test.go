package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"golang.org/x/sync/errgroup"

	"meterhouse/etl/console"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// browser is a headless Chromium that notes what its console complains of.
type browser struct {
	context.Context
	t    *testing.T
	base string

	mu         sync.Mutex
	complaints []string
}

func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		warehousetest.Lacking(t, "CHROMIUM", "no Chromium in PATH to look at the pages with (apt-get install chromium)")
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.Flag("disable-gpu", true), chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.WSURLReadTimeout(2*time.Minute))
	ctx, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, stopTab := chromedp.NewContext(ctx)
	t.Cleanup(stopTab)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(cancel)
	b := &browser{Context: ctx, t: t, base: base}
	messages := chromedp.Console(ctx)
	go func() {
		for message, err := range messages {
			if err != nil {
				return // the browser is gone
			}
			b.mu.Lock()
			b.complaints = append(b.complaints, fmt.Sprintf("%s %s: %s %s", message.Source, message.Type, message.Text, message.URL))
			b.mu.Unlock()
		}
	}()
	return b
}

func (b *browser) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b, actions...); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

// ask runs an action that finds something out.
func ask[T any](b *browser, what string, action chromedp.Action[T]) T {
	b.t.Helper()
	found, err := chromedp.Run(b, action)
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
	return found
}

// complained is what the browser complained of since it was last asked.
func (b *browser) complained() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.complaints
	b.complaints = nil
	return all
}

func (b *browser) open(path string) {
	b.t.Helper()
	b.do(path, chromedp.Navigate(b.base+path), chromedp.WaitVisible(chromedp.CSS("main")))
}

// text of what a selector finds first.
func (b *browser) text(selector string) (text string) {
	b.t.Helper()
	return ask(b, selector, chromedp.Text(chromedp.CSS(selector)))
}

// shownConsole is the console of the world as a demo shows it, with a worker behind it.
func (w *world) shownConsole() *console.Server {
	w.t.Helper()
	s := w.opened(w.t.Output())
	v := &service{session: s}
	var err error
	if v.queue, err = v.newQueue(); err != nil {
		w.t.Fatal(err)
	}
	server, _, err := v.demoConsole("")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(w.t.Context())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Serve(ctx) })
	g.Go(func() error { return v.queue.Run(ctx) })
	w.t.Cleanup(func() {
		stop()
		if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			w.t.Error(err)
		}
	})
	return server
}

// In a browser: every page loads without a complaint, wide and narrow, light and dark, and does not overflow; a
// load is begun and followed to its end; a refused record is dismissed; and the keyboard reaches everything.
func TestConsoleInABrowser(t *testing.T) {
	w := newWorld(t)
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: "chat_licenses", Body: []byte("twelve")})
	w.must(exitPartial, "run")
	b := newBrowser(t, "http://"+w.shownConsole().Addr())

	payload := w.value(`select payload_id::text from ops.quarantine`)
	pages := []string{"/", "/freshness", "/runs", "/runs/1", "/payloads/" + payload, "/quarantine", "/quarantine/1", "/nowhere",
		"/coverage", "/coverage?months=3&detail=levels", "/consumption", "/month", "/month/statement", "/month/adjustments", "/month/match", "/month/close"}
	for _, width := range []int64{1280, 360} {
		for _, scheme := range []string{"light", "dark"} {
			b.do("screen", chromedp.EmulateViewport(width, 800))
			media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
			if _, err := chromedp.Call(b, emulation.SetEmulatedMedia, media); err != nil {
				t.Fatal(err)
			}
			for _, path := range pages {
				b.open(path)
				if ask(b, path, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > window.innerWidth`)) {
					t.Errorf("%s at %d: wider than the window", path, width)
				}
			}
		}
	}
	for _, text := range b.complained() {
		if !strings.Contains(text, "404 (Not Found) "+b.base+"/nowhere") {
			t.Errorf("the browser complains: %s", text)
		}
	}

	// From the button to the end.
	b.do("screen", chromedp.EmulateViewport(1280, 800))
	before := w.value(`select max(run_id)::text from ops.run`)
	b.open("/freshness?dataset=keystone.history&q=C-1001")
	b.do("load now", chromedp.Click(chromedp.CSS(`td form button`)), chromedp.WaitVisible(chromedp.CSS(`.status.over`)))
	newest := w.value(`select max(run_id)::text from ops.run where dataset = 'keystone.history' and scope = 'C-1001' and status = 'ok'`)
	if newest <= before && len(newest) <= len(before) || !strings.Contains(b.text("main"), newest) {
		t.Errorf("the load is not shown: run %s, before %s\n%s", newest, before, b.text("main"))
	}
	b.do("to the run", chromedp.Click(chromedp.CSS(`tbody tr:last-child th a`)), chromedp.WaitVisible(chromedp.CSS(`.facts`)))
	if got := b.text("h1"); got != "Run "+newest {
		t.Errorf("led to %q, want run %s", got, newest)
	}

	// What is refused still, and what is dismissed.
	b.open("/quarantine/1")
	b.do("read again", chromedp.Click(chromedp.CSS(`form[action$="/retry"] button`)), chromedp.WaitVisible(chromedp.CSS(`.said`)))
	if got := b.text(".said"); !strings.Contains(got, "refused still") {
		t.Errorf("read again: %q", got)
	}
	b.do("dismiss", chromedp.SendKeys(chromedp.CSS(`input[name="reason"]`), "a test"+kb.Enter), chromedp.WaitVisible(chromedp.CSS(`.status.resolved`)))
	if got := w.value(`select resolution from ops.quarantine where quarantine_id = 1`); got != "dismissed by the console: a test" {
		t.Errorf("dismissed: %q", got)
	}

	// Somebody has just done something, so the first page would load itself again.
	for _, path := range []string{"/?still=1", "/freshness", "/runs", "/runs/1", "/quarantine?state=", "/payloads/" + payload} {
		b.keyboard(path)
	}
	if text := b.complained(); len(text) > 0 {
		t.Errorf("the browser complains: %s", text)
	}
}

// keyboard sees that Tab reaches everything that can be used, in the order of the page, and shows where it is.
func (b *browser) keyboard(path string) {
	b.t.Helper()
	b.open(path)
	const named = `const all = [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, [tabindex="0"]')];`
	n := ask(b, path, chromedp.Evaluate[int](`(() => {`+named+`return all.length})()`))
	var reached []int
	for tabs := 0; len(reached) < n && tabs < 3*n; tabs++ {
		b.do(path, chromedp.KeyEvent(kb.Tab))
		at := ask(b, path, chromedp.Evaluate[struct {
			Index   int
			IsShown bool
		}](`(() => {`+named+`
			const e = document.activeElement, s = getComputedStyle(e);
			return {Index: all.indexOf(e), IsShown: s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2 && e.getBoundingClientRect().left > -100}
		})()`))
		if len(reached) > 0 && at.Index == reached[len(reached)-1] {
			continue // the parts of a month are a stop each, and the browser's own
		}
		reached = append(reached, at.Index)
		if !at.IsShown {
			b.t.Errorf("%s: element %d has the focus and does not show it", path, at.Index)
		}
	}
	for i := range n {
		if i < len(reached) && reached[i] != i {
			b.t.Errorf("%s: Tab %d reaches element %d of %d", path, i+1, reached[i], n)
			return
		}
	}
}

// A month in a browser: the heat map is mart.coverage, charts are drawn, and the keyboard reaches everything.
func TestMonthInABrowser(t *testing.T) {
	w := newWorld(t)
	now := time.Date(2026, 6, 3, 12, 0, 0, 0, time.UTC)
	w.setNow(now.Format(time.RFC3339))
	w.must(exitDone, "run")
	w.value(`with r as (
		insert into billing.rate (vendor, item, charge, is_waiver, unit_price, currency, valid_from, source, known_since)
		values ('keystone', '', 'committed', false, 12.5, 'EUR', '2026-01-01', 'test', '2026-01-01') returning 1
	) select count(*)::text from r`)
	w.exec(`delete from dw.fact_daily_consumption where usage_date = '2026-05-10'`) // so that something stands against closing
	b := newBrowser(t, "http://"+w.shownConsole().Addr())
	b.do("screen", chromedp.EmulateViewport(1280, 800))
	const month, before, from = "2026-05", "2026-04", "2026-04-01"
	settled := func(path string) {
		t.Helper()
		b.open(path)
		for ask(b, path, chromedp.Evaluate[bool](`document.querySelector('.again') !== null`)) {
			b.open(path)
		}
	}

	settled("/coverage?detail=levels&months=3&month=" + before)
	got := ask(b, "cells", chromedp.Evaluate[string](`(() => {
		const counts = {};
		for (const cell of document.querySelectorAll('table.heat tbody td.day')) {
			const status = cell.className.replace('day ', '');
			if (status !== 'none') counts[status] = (counts[status] || 0) + 1;
		}
		return Object.keys(counts).sort().map(status => status + ' ' + counts[status]).join(', ');
	})()`))
	if want := w.value(`select set_config('meterhouse.now', '` + now.Format(time.RFC3339) + `', false) || string_agg(status || ' ' || n, ', ' order by status)
		from (select status, count(*) as n from mart.coverage where day >= '` + from + `' and day < date '` + from + `' + interval '3 months' group by status) as c`); !strings.HasSuffix(want, got) || got == "" {
		t.Errorf("cells %q, want %q", got, want)
	}

	settled("/consumption?month=" + month)
	if n := ask(b, "drawings", chromedp.Evaluate[int](`document.querySelectorAll('svg.spark').length`)); n == 0 {
		t.Error("no small drawings")
	}
	if got := ask(b, "rows", chromedp.Evaluate[string](`[...document.querySelectorAll('tbody tr')].flatMap(row => [...row.cells].filter(cell => Math.abs(cell.getBoundingClientRect().bottom - row.getBoundingClientRect().bottom) > 0.5)).map(cell => cell.outerHTML).join(', ')`)); got != "" {
		t.Errorf("cells that are not as high as their row: %s", got)
	}
	b.do("a level", chromedp.Click(chromedp.CSS(`tbody td a`)), chromedp.WaitVisible(chromedp.CSS(`svg.chart`)))
	if n := ask(b, "charts", chromedp.Evaluate[int](`document.querySelectorAll('svg.chart path.line').length`)); n != 5 {
		t.Errorf("%d lines are drawn, want 5", n)
	}

	// What somebody who checks a bill looks at needs no scrolling.
	w.exec(`update dw.fact_license_snapshot set description = 'Grabación de pantalla (supervisores, 100%)', items = 1234567.123456789, items_max = 1234567.123456789
		where product_key = (select min(product_key) from dw.fact_license_snapshot)`)
	for path, last := range map[string]string{"/month/statement": "State", "/month/match": "Cause", "/consumption": "Days over"} {
		settled(path + "?month=2026-06") // which has lines of wolkvox
		if got := ask(b, path, chromedp.Evaluate[string](`(() => {
			const all = [...document.querySelectorAll('.scroll')].at(-1), heads = [...all.querySelectorAll('thead th')];
			const last = heads.findIndex(head => head.textContent === '`+last+`');
			return last < 0 ? 'none' : heads.slice(0, last + 1).filter(head => head.getBoundingClientRect().right > all.getBoundingClientRect().right).map(head => head.textContent).join(', ');
		})()`)); got != "" {
			t.Errorf("%s: out of sight at 1280: %s", path, got)
		}
	}

	settled("/month?month=" + month)
	total := b.text("#content table tbody")
	settled("/month/close?month=" + month)
	hasObstacles := ask(b, "obstacles", chromedp.Evaluate[bool](`document.querySelector('input[name="accepted"]') !== null`))
	if hasObstacles {
		b.do("accept", chromedp.Click(chromedp.CSS(`input[name="accepted"]`)), chromedp.SendKeys(chromedp.CSS(`input[name="reason"]`), "a test"))
	}
	if !ask(b, "form", chromedp.Evaluate[bool](`document.querySelector('form.action[action="/month/close"]') !== null`)) {
		t.Fatalf("it cannot be closed:\n%s", b.text("#content"))
	}
	b.do("close", chromedp.Click(chromedp.CSS(`form.action[action="/month/close"] button`)), chromedp.WaitVisible(chromedp.CSS(`.said`)))
	if got := b.text(".said"); !strings.HasPrefix(got, "Closed "+month+", version 1") {
		t.Fatalf("close: %q", got)
	}
	settled("/month?month=" + month)
	if got := b.text("#state + .verdict"); !strings.Contains(got, "Closed: version 1, by the console") {
		t.Errorf("state: %q", got)
	}
	if text := b.text("#content"); total != "" && !strings.Contains(text, strings.Fields(total)[1]) {
		t.Errorf("totals %q are not those that were closed:\n%s", total, text)
	}
	if got := w.value(`select closed_by || ' ' || coalesce(reason, '') from billing.close`); got != "the console "+map[bool]string{true: "a test"}[hasObstacles] {
		t.Errorf("kept: %q", got)
	}
	settled("/month/close?month=" + month)
	b.do("reopen", chromedp.SendKeys(chromedp.CSS(`input[name="reason"]`), "wrong rates"), chromedp.Click(chromedp.CSS(`form.action[action="/month/reopen"] button`)), chromedp.WaitVisible(chromedp.CSS(`.said`)))
	if got := w.value(`select reopened_by || ' ' || reason from billing.reopen`); got != "the console wrong rates" {
		t.Errorf("reopened: %q", got)
	}

	for _, path := range []string{"/coverage", "/consumption", "/month?month=" + month, "/month/close?month=" + month} {
		settled(path)
		b.keyboard(path)
	}

	// On paper, A4 in landscape, no column is cut off, and it is not dark.
	b.do("paper", chromedp.EmulateViewport(1047, 720))
	paper := emulation.SetEmulatedMediaParams{Media: "print", Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}}
	if _, err := chromedp.Call(b, emulation.SetEmulatedMedia, paper); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", "/coverage?detail=levels&months=3&month=" + before, "/consumption?month=" + month, "/month?month=" + month, "/month/statement?month=" + month, "/month/match?month=" + month, "/runs"} {
		settled(path)
		if got := ask(b, path, chromedp.Evaluate[string](`[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.getAttribute('aria-label') + ' ' + e.scrollWidth).join(', ')`)); got != "" {
			t.Errorf("%s on paper is cut off: %s", path, got)
		}
		if got := ask(b, path, chromedp.Evaluate[string](`getComputedStyle(document.body).color + ' ' + getComputedStyle(document.documentElement).getPropertyValue('--paper')`)); got != "rgb(0, 0, 0) #ffffff" {
			t.Errorf("%s on paper has the colours %s", path, got)
		}
	}
	if text := b.complained(); len(text) > 0 {
		t.Errorf("the browser complains: %s", text)
	}
}
