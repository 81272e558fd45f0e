package keystone

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/keystone/keystonesim"
)

func may(first, until int) etl.Window {
	from := etl.DayOf(time.Date(2026, 5, first, 0, 0, 0, 0, time.UTC))
	return etl.Window{From: from, Until: from + etl.Day(until-first)}
}

// What comes out of the client is what the vendor's generator put in, whichever way the window is
// cut.
func TestHistoryEqualsOracle(t *testing.T) {
	for name, cfg := range map[string]keystonesim.Config{
		"documented": {}, "clean": {Clean: true}, "shuffled": {Shuffle: true}, "odd": {Oddities: true, Running: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, cfg)
			a := b.account()
			type key struct {
				customer, number, level string
				day                     etl.Day
			}
			for _, windows := range [][]etl.Window{{may(1, 11)}, {may(1, 4), may(4, 5), may(5, 11)}} {
				sums := map[key]*etl.Sum{}
				for _, w := range windows {
					for _, c := range b.sim.Customers() {
						ans, err := a.Extract(t.Context(), etl.Request{Dataset: History, Scope: c.ID, Window: w})
						if err != nil {
							t.Fatal(err)
						}
						var got recorder
						report, err := a.Transform(ans, &got)
						ans.Body.Close()
						if err != nil {
							t.Fatal(err)
						}
						if report.Quarantined != 0 || report.Mismatch || len(report.Drift) != 0 {
							t.Errorf("%s %s: got %+v", c.ID, w, report)
						}
						for _, h := range got.Histories {
							for _, l := range h.Levels {
								for _, s := range l.Samples {
									k := key{c.ID, h.Number, l.Level, s.Day()}
									if sums[k] == nil {
										sums[k] = &etl.Sum{}
									}
									sums[k].Add(s.ConsumedTiB)
								}
							}
						}
					}
				}
				want := map[key]*etl.Sum{}
				for _, o := range b.sim.Oracle(windows[0].From.Time(), windows[len(windows)-1].Until.Time()) {
					k := key{o.CustomerID, o.SubscriptionNumber, o.ServiceLevel, etl.DayOf(o.Day)}
					if want[k] == nil {
						want[k] = &etl.Sum{}
					}
					want[k].Add(etl.MustDecimal(o.ConsumedSum))
				}
				if len(sums) != len(want) || len(want) == 0 {
					t.Errorf("%v: got %d series-days, want %d", windows, len(sums), len(want))
				}
				for k, w := range want {
					if got := sums[k]; got == nil || !got.Decimal().Equal(w.Decimal()) {
						t.Errorf("%v: got %v, want %s", k, got, w.Decimal())
					}
				}
			}
			b.neverSpent()
		})
	}
}

// The other three datasets read what the simulator writes in either spelling.
func TestOtherDatasets(t *testing.T) {
	for _, clean := range []bool{false, true} {
		b := newBench(t, keystonesim.Config{Clean: clean})
		a := b.account()
		for dataset, want := range map[string]int{Customers: 4, Subscriptions: 6, Current: 6} {
			scope := "C-1001"
			if dataset == Customers {
				scope = "acme"
			}
			ans, err := a.Extract(t.Context(), etl.Request{Dataset: dataset, Scope: scope})
			if err != nil {
				t.Fatal(err)
			}
			var got recorder
			report, err := a.Transform(ans, &got)
			ans.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if n := got.facts(); n != want || report.Quarantined != 0 || report.Mismatch || report.Received != n+report.Ignored {
				t.Errorf("%s: got %d facts and %+v, want %d", dataset, n, report, want)
			}
		}
	}
}

func TestHistoryAsksForWholeDays(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	ans, err := a.Extract(t.Context(), etl.Request{Dataset: History, Scope: "C-1001", Window: may(1, 4)})
	if err != nil {
		t.Fatal(err)
	}
	defer ans.Body.Close()
	want := "from_date_utc=2026-05-01T00%3A00%3A00Z&id=C-1001&to_date_utc=2026-05-04T00%3A00%3A00Z&type=customer"
	requests := b.sim.Requests()
	if got := requests[len(requests)-1].Query; got != want {
		t.Errorf("got query %s, want %s", got, want)
	}
	if ans.Method != "GET" || ans.Status != 200 || !strings.HasSuffix(ans.URL, historyQuery(want)) || ans.FetchedAt.IsZero() {
		t.Errorf("got answer %+v", ans)
	}
	for _, w := range []etl.Window{{}, {From: 5, Until: 5}, {From: 5, Until: 37}} {
		if _, err := a.Extract(t.Context(), etl.Request{Dataset: History, Scope: "C-1001", Window: w}); err == nil {
			t.Errorf("window %v was asked for", w)
		}
	}
}

func historyQuery(query string) string { return paths[History] + "?" + query }

func TestStatuses(t *testing.T) {
	history := etl.Request{Dataset: History, Scope: "C-1001", Window: may(1, 4)}
	for name, c := range map[string]struct {
		faults   []keystonesim.Fault
		request  etl.Request
		calls    int
		reason   string
		class    error
		evidence int // status of the answer beside the error
		words    string
	}{
		"H12 204":                {faults: []keystonesim.Fault{{Status: 204}}, calls: 1, reason: "http_status", class: etl.ErrContract, evidence: 204},
		"H13 206":                {faults: []keystonesim.Fault{{Status: 206, Body: []byte("{}")}}, calls: 1, reason: "http_status", class: etl.ErrContract, evidence: 206},
		"400":                    {faults: []keystonesim.Fault{{Status: 400, Body: []byte(`{"errors":[{"message":"bad date"}]}`)}}, calls: 1, reason: "http_status", class: etl.ErrContract, evidence: 400, words: "bad date"},
		"V02 403":                {request: etl.Request{Dataset: History, Scope: "C-9", Window: may(1, 4)}, calls: 1, reason: "http_status", class: etl.ErrContract, evidence: 403, words: "not authorized to access this customer"},
		"404":                    {faults: []keystonesim.Fault{{Status: 404}}, calls: 1, reason: "http_status", class: etl.ErrContract, evidence: 404},
		"H23 429 for long":       {faults: []keystonesim.Fault{{Status: 429, Header: http.Header{"Retry-After": {"999999999"}}}}, calls: 1, reason: "throttled", class: etl.ErrThrottled, evidence: 429},
		"429 for ever":           {faults: []keystonesim.Fault{{Status: 429}}, calls: 4, reason: "throttled", class: etl.ErrThrottled, evidence: 429},
		"429 once":               {faults: []keystonesim.Fault{{Status: 429, Count: 1, Header: http.Header{"Retry-After": {"7"}}}}, calls: 2},
		"503 for ever":           {faults: []keystonesim.Fault{{Status: 503}}, calls: 4, reason: "transient", class: etl.ErrUnavailable, evidence: 503},
		"502 three times":        {faults: []keystonesim.Fault{{Status: 502, Count: 3}}, calls: 4},
		"504":                    {faults: []keystonesim.Fault{{Kind: keystonesim.LongWindow504, MaxDays: 2}}, calls: 2, reason: "timeout", class: etl.ErrTimeout, evidence: 504},
		"504 once":               {faults: []keystonesim.Fault{{Status: 504, Count: 1}}, calls: 2},
		"H02 cut":                {faults: []keystonesim.Fault{{Kind: keystonesim.Truncate}}, calls: 4, reason: "body_truncated", class: etl.ErrUnavailable},
		"H03 cut chunk":          {faults: []keystonesim.Fault{{Kind: keystonesim.CutChunked, Count: 1}}, calls: 2},
		"H08 br":                 {faults: []keystonesim.Fault{{Kind: keystonesim.Replace, Body: []byte("x"), Header: http.Header{"Content-Encoding": {"br"}}}}, calls: 1, reason: "encoding_unsupported", class: etl.ErrContract},
		"closed once":            {faults: []keystonesim.Fault{{Kind: keystonesim.Close, Count: 1}}, calls: 2},
		"H16 expired":            {faults: []keystonesim.Fault{{Kind: keystonesim.ExpireAccess, Count: 1}}, calls: 2},
		"H17 401":                {faults: []keystonesim.Fault{{Status: 401}}, calls: 2, reason: "unauthorized", class: etl.ErrUnauthorized, evidence: 401},
		"customer answers twice": {faults: []keystonesim.Fault{{Kind: keystonesim.Gzip}}, calls: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, keystonesim.Config{})
			a := b.account()
			b.mustGet(a) // the token is there
			for _, f := range c.faults {
				f.Path = "/keystone/"
				b.sim.Inject(f)
			}
			request := history
			if c.request.Dataset != "" {
				request = c.request
			}
			ans, err := a.Extract(t.Context(), request)
			if ans != nil {
				defer ans.Body.Close()
			}
			if _, data := b.count(); data != c.calls+1 {
				t.Errorf("the vendor saw %d calls, want %d", data-1, c.calls)
			}
			if c.class == nil {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := a.Transform(ans, &recorder{}); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, c.class) || reasonOf(err) != c.reason || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v, want %s with %q", err, c.reason, c.words)
			}
			if got := ans; (got == nil) != (c.evidence == 0) || got != nil && got.Status != c.evidence {
				t.Errorf("got evidence %+v, want status %d", got, c.evidence)
			}
			b.clean("an error", err.Error())
		})
	}
}

// V01: a 401 costs one exchange; when the fresh pair is refused as well, further requests do not
// burn more tokens.
func TestUnauthorizedForEver(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	b.mustGet(a)
	b.sim.Inject(keystonesim.Fault{Path: "/keystone/", Status: 401})
	for range 5 {
		if err := b.get(a); !errors.Is(err, etl.ErrUnauthorized) {
			t.Fatalf("got %v, want unauthorized", err)
		}
	}
	b.wantCount(2, 1+2)
	b.sim.ClearFaults()
	err := b.get(a)
	if want := "generation 3 although it was just renewed: not asked again before 2026-05-15T12:10:00Z"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	b.clock.advance(distrustFor)
	b.mustGet(a)
	b.wantCount(2, 1+2+1)
	b.neverSpent()
}

// The same when the pair that is refused was renewed before the first call, and for all that a run
// would ask.
func TestUnauthorizedFromTheStart(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	b.sim.Inject(keystonesim.Fault{Path: "/keystone/", Status: 401})
	for _, customer := range []string{"C-1001", "C-1002", "C-1003"} {
		for _, dataset := range []string{Customers, Subscriptions, Current, History} {
			if _, err := a.Extract(t.Context(), etl.Request{Dataset: dataset, Scope: customer, Window: may(1, 4)}); !errors.Is(err, etl.ErrUnauthorized) {
				t.Errorf("got %v, want unauthorized", err)
			}
		}
	}
	b.wantCount(1, 1)
	// A pair from elsewhere is worth a call.
	b.sim.ClearFaults()
	if err := a.SetToken(t.Context(), mustToken(t, b.sim.Login())); err != nil {
		t.Fatal(err)
	}
	b.mustGet(a)
	b.wantCount(2, 2)
}

// H04 and pages with status 200: asked again, and the last one is for Transform to refuse.
func TestNotJSON(t *testing.T) {
	page := keystonesim.Fault{Kind: keystonesim.Replace, Body: []byte("<html><body>Scheduled maintenance</body></html>"), Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}}}
	for name, c := range map[string]struct {
		fault  keystonesim.Fault
		count  int
		calls  int
		reason string
		words  string
	}{
		"page once": {fault: page, count: 1, calls: 2},
		"page for ever": {fault: page, calls: 4, reason: "json_syntax",
			words: `the answer (200, text/html) is not JSON, it begins "<html><body>Scheduled maintenance</body>…": the vendor may be in maintenance`},
		"cut once":     {fault: keystonesim.Fault{Kind: keystonesim.CutSilent}, count: 1, calls: 2},
		"cut for ever": {fault: keystonesim.Fault{Kind: keystonesim.CutSilent}, calls: 4, reason: "json_syntax", words: "too early"},
		"empty":        {fault: keystonesim.Fault{Kind: keystonesim.Replace, Body: []byte("\n")}, calls: 4, reason: "json_empty"},
		"whole inside": {fault: keystonesim.Fault{Kind: keystonesim.Replace, Body: []byte("\xef\xbb\xbf {not json} \n")}, calls: 1, reason: "json_syntax"},
	} {
		for _, dataset := range []string{Customers, Subscriptions, Current, History} {
			t.Run(name+" "+dataset, func(t *testing.T) {
				t.Parallel()
				b := newBench(t, keystonesim.Config{})
				a := b.account()
				b.mustGet(a)
				fault := c.fault
				fault.Path, fault.Count = "/keystone/", c.count
				b.sim.Inject(fault)
				ans, err := a.Extract(t.Context(), etl.Request{Dataset: dataset, Scope: "C-1001", Window: may(1, 4)})
				if err != nil {
					t.Fatal(err)
				}
				defer ans.Body.Close()
				_, err = a.Transform(ans, &recorder{})
				if reasonOf(err) != c.reason || err != nil && !strings.Contains(err.Error(), c.words) {
					t.Errorf("got %v, want %s %s", err, c.reason, c.words)
				}
				if _, data := b.count(); data != c.calls+1 {
					t.Errorf("the vendor saw %d calls, want %d", data-1, c.calls)
				}
			})
		}
	}
}

// What a person reads says everything once.
func TestErrorTexts(t *testing.T) {
	const path = "/v1/keystone/customer/historical-consumption-details"
	for name, c := range map[string]struct {
		fault keystonesim.Fault
		want  string
	}{
		"cut": {keystonesim.Fault{Kind: keystonesim.Truncate, Path: "/keystone/"},
			"keystone acme: 4 attempts: body_truncated: GET " + path + ": the body broke off: unexpected EOF: vendor unavailable"},
		"503": {keystonesim.Fault{Status: 503, Body: []byte(`{"message":"later"}`), Path: "/keystone/"},
			"keystone acme: 4 attempts: GET " + path + `: transient: status 503 "later": vendor unavailable`},
		"403": {keystonesim.Fault{Status: 403, Body: []byte(`{"message":"no rights"}`), Path: "/keystone/"},
			"keystone acme: GET " + path + `: http_status: access refused (403 "no rights"): does this login see customer C-1001?`},
		"401 and a refused exchange": {keystonesim.Fault{Status: 401, Body: []byte(`{"message":"no"}`)},
			"keystone acme: GET " + path + `: unauthorized: status 401 "no": credentials refused; then the refresh token of generation 2 was refused (401 "no"; nobody here had sent it: it was used elsewhere, by a person or a second system, or revoked, or mistyped, or its login has ended): ` +
				"log in to the Digital Advisor portal (https://aiq.netapp.com/api), choose Generate Tokens, and give the refresh token to `meterhouse token set acme`"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, keystonesim.Config{})
			a := b.account()
			b.mustGet(a)
			seed := a.tokens.seed
			a = b.account(func(c *Config) { c.SeedToken = seed })
			b.sim.Inject(c.fault)
			ans, err := a.Extract(t.Context(), etl.Request{Dataset: History, Scope: "C-1001", Window: may(1, 4)})
			if ans != nil {
				ans.Body.Close()
			}
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if name == "403" && !errors.Is(err, etl.ErrContract) {
				t.Errorf("got class of %v, want the contract", err)
			}
		})
	}
	b := newBench(t, keystonesim.Config{})
	b.server.Close()
	err := b.get(b.account())
	if n := strings.Count(err.Error(), "vendor unavailable"); n != 1 || strings.Count(err.Error(), "keystone acme") != 1 {
		t.Errorf("got %v", err)
	}
}

// A vendor that repeats our token in an error does not get it into ours.
func TestEchoedTokenIsWithheld(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account()
	b.mustGet(a)
	held, err := a.tokens.held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	secret := held.access.text()
	b.sim.Inject(keystonesim.Fault{Path: "/keystone/", Status: 400, Body: []byte(`{"message":"bad token ` + secret[:len(secret)-3] + `"}`)})
	err = b.get(a)
	if err == nil || strings.Contains(err.Error(), secret[:20]) || !strings.Contains(err.Error(), "withheld") {
		t.Errorf("got %v", err)
	}
	if strings.Contains(b.logs.String(), secret[:20]) {
		t.Error("the token is in the log")
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Account: "acme", SecretsKey: testKey, Tokens: newStore(time.Now)}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no account":   func(c *Config) { c.Account = "" },
		"no store":     func(c *Config) { c.Tokens = nil },
		"short key":    func(c *Config) { c.SecretsKey = testKey[:16] },
		"staging":      func(c *Config) { c.BaseURL = "https://API.activeiq-stg.netapp.com." },
		"plain http":   func(c *Config) { c.BaseURL = "http://api.activeiq.netapp.com" },
		"user in URL":  func(c *Config) { c.BaseURL = "https://a:b@api.activeiq.netapp.com" },
		"query in URL": func(c *Config) { c.BaseURL = "https://api.activeiq.netapp.com/?x=1" },
		"bad proxy":    func(c *Config) { c.Proxy = "nowhere" },
		"no CA file":   func(c *Config) { c.CAFile = "testdata/none.pem" },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Requests of one account go out one at a time and not too fast.
func TestPacing(t *testing.T) {
	b := newBench(t, keystonesim.Config{})
	a := b.account(func(c *Config) { c.Pace = 20 * time.Millisecond })
	b.mustGet(a)
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.Slow, Path: "/keystone/", Delay: 5 * time.Millisecond})
	done := make(chan error)
	for range 4 {
		go func() { done <- b.get(a) }()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	var data []keystonesim.Request
	for _, r := range b.sim.Requests() {
		if r.Path != tokenPath {
			data = append(data, r)
		}
	}
	for i := 1; i < len(data); i++ {
		if data[i].Start.Before(data[i-1].End) {
			t.Error("two requests at once")
		}
	}
	// Arrivals jitter, so the spacing is judged over all five.
	if took := data[4].Start.Sub(data[0].Start); len(data) != 5 || took < 3*20*time.Millisecond {
		t.Errorf("got %d requests within %s, want 5 within 80 ms or more", len(data), took)
	}
}
