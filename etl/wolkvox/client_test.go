package wolkvox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"meterhouse/etl"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// vendor is a fake server with an account that asks it.
type vendor struct {
	*wolkvoxsim.Sim
	account *Account
	waits   []time.Duration
	log     *bytes.Buffer
	mu      sync.Mutex
}

func newVendor(t *testing.T, change func(*Config)) *vendor {
	t.Helper()
	v := &vendor{log: &bytes.Buffer{}}
	v.Sim = wolkvoxsim.New(wolkvoxsim.Config{Seed: 7, Now: func() time.Time { return noon }, Operation: "acme_ops", Token: secret})
	server := httptest.NewServer(v.Sim)
	t.Cleanup(server.Close)
	v.account = v.at(t, server.URL, change)
	return v
}

func (v *vendor) at(t *testing.T, base string, change func(*Config)) *Account {
	return account(t, func(cfg *Config) {
		cfg.Server, cfg.BaseURL, cfg.Timeout = "", base, 5*time.Second
		cfg.Log = slog.New(slog.NewTextHandler(v.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		cfg.Sleep = func(ctx context.Context, d time.Duration) error {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.waits = append(v.waits, d)
			return ctx.Err()
		}
		if change != nil {
			change(cfg)
		}
	})
}

func ask(product string) etl.Request {
	return etl.Request{Dataset: Dataset, Scope: "callcenter", Product: product}
}

func TestCatalogueAgreesWithTheSimulator(t *testing.T) {
	v := newVendor(t, nil)
	var got []string
	for _, r := range v.Oracle(noon) {
		if !slices.Contains(got, r.API) {
			got = append(got, r.API)
		}
	}
	var want []string
	for i, p := range Catalogue() {
		want = append(want, p.Code)
		if p.Number != i+1 || p.Title == "" || p.Unit == "" || p.Kind != etl.Gauge && p.Kind != etl.Counter {
			t.Errorf("product %+v", p)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) != 27 {
		t.Errorf("%d products: %s", len(want), diff)
	}
}

func TestAllProducts(t *testing.T) {
	v := newVendor(t, nil)
	var got []wolkvoxsim.Reading
	for _, p := range Catalogue() {
		ans, err := v.account.Extract(t.Context(), ask(p.Code))
		if err != nil {
			t.Fatal(err)
		}
		if !ans.RequestedAt.Equal(noon) || ans.Status != 200 || ans.Request.Product != p.Code ||
			!strings.HasSuffix(ans.URL, "/api/v2/billing.php?api="+p.Code) || strings.Contains(fmt.Sprintf("%+v", ans), secret) {
			t.Errorf("answer %+v", ans)
		}
		var s sink
		report, err := v.account.Transform(ans, &s)
		if err != nil || report.Received != len(s.licences) || len(report.Warnings)+len(report.Drift) > 0 {
			t.Errorf("%s: %+v, %v, rejects %v", p.Code, report, err, s.rejects)
		}
		for _, l := range s.licences {
			got = append(got, wolkvoxsim.Reading{API: l.Product, Operation: l.Operation, Description: l.Description,
				Items: l.ItemsText, Number: l.Items.String(), Date: l.LocalDate.String()})
		}
		ans.Body.Close()
	}
	want := v.Oracle(noon)
	for i := range want {
		want[i].DateText = ""
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := len(v.Requests()); n != 27 || len(v.waits) > 0 {
		t.Errorf("%d requests, waits %v", n, v.waits)
	}
}

// The vendor forbids calls at the same time: whatever we are asked, it sees one.
func TestOneCallAtATime(t *testing.T) {
	v := newVendor(t, nil)
	v.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Slow, Delay: 5 * time.Millisecond})
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			if i%8 == 0 {
				if _, err := v.account.TokenInfo(t.Context()); err != nil {
					t.Error(err)
				}
				return
			}
			ans, err := v.account.Extract(t.Context(), ask(Catalogue()[i].Code))
			if err != nil {
				t.Error(err)
				return
			}
			ans.Body.Close()
		})
	}
	all.Wait()
	if most, n := v.MaxConcurrent(), len(v.Requests()); most != 1 || n != 24 {
		t.Errorf("%d at once, %d requests", most, n)
	}
}

func TestTurnObeysTheContext(t *testing.T) {
	v := newVendor(t, nil)
	leave, err := v.account.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.account.Extract(ctx, ask("vision")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	leave()
	if n := len(v.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestRefusals(t *testing.T) {
	reply := func(status int, body string) wolkvoxsim.Fault {
		return wolkvoxsim.Fault{Kind: wolkvoxsim.Reply, Status: status, Body: []byte(body)}
	}
	say := func(code any, kind, msg string) string {
		text, err := json.Marshal(map[string]any{"code": code, "error": kind, "msg": msg})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	document := func(dir string) string {
		text, err := os.ReadFile(filepath.Join(golden, dir, "payload.json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	kind := func(k wolkvoxsim.Kind) wolkvoxsim.Fault { return wolkvoxsim.Fault{Kind: k} }
	for _, c := range []struct {
		name     string
		fault    wolkvoxsim.Fault
		reason   string // "": no error
		class    error
		calls    int
		evidence bool
	}{
		{"H18 quota", kind(wolkvoxsim.TokenLimit), "quota_exceeded", etl.ErrThrottled, 1, true},
		{"H19 concurrency", kind(wolkvoxsim.Concurrency), "concurrency", etl.ErrThrottled, 2, true},
		{"H20 token", kind(wolkvoxsim.BadToken), "token_invalid", etl.ErrUnauthorized, 1, true},
		{"H21 maintenance", kind(wolkvoxsim.Maintenance), "vendor_maintenance", etl.ErrUnavailable, 1, true},
		{"403 without a body", reply(403, ""), "vendor_maintenance", etl.ErrUnavailable, 1, true},
		{"403 other words about the token", reply(403, say(403, "FORBIDDEN", "  your Token has expired ")), "token_invalid", etl.ErrUnauthorized, 1, true},
		{"403 small letters", reply(403, say("403", "", "token limit exceeded")), "quota_exceeded", etl.ErrThrottled, 1, true},
		{"401", reply(401, say(401, "UNAUTHORIZED", "PLEASE ENTER THE WOLKVOX-TOKEN")), "token_invalid", etl.ErrUnauthorized, 1, true},
		{"401 without words", reply(401, ""), "token_invalid", etl.ErrUnauthorized, 1, true},
		{"400 parameters", reply(400, say(400, "BAD REQUEST", "SOME PARAMETERS ARE REQUIRED")), "vendor_error", etl.ErrContract, 1, true},
		{"400 something else is missing", reply(400, say(400, "BAD REQUEST", "THE OPERATION DOES NOT EXIST")), "vendor_error", etl.ErrContract, 1, true},
		{"405", reply(405, say(405, "METHOD NOT ALLOWED", "")), "http_status", etl.ErrContract, 1, true},
		{"206", reply(206, "{}"), "http_status", etl.ErrContract, 1, true},
		{"429", reply(429, ""), "throttled", etl.ErrThrottled, 4, true},
		{"500", reply(500, "<html>oops</html>"), "transient", etl.ErrUnavailable, 4, true},
		{"500 about a token", reply(500, say(500, "ERROR", "TOKEN LIMIT EXCEEDED")), "transient", etl.ErrUnavailable, 4, true},
		{"cut", kind(wolkvoxsim.Truncate), "body_truncated", etl.ErrUnavailable, 4, false},
		{"closed", kind(wolkvoxsim.Close), "transient", etl.ErrUnavailable, 4, false},
		{"redirect", kind(wolkvoxsim.Redirect), "redirect", etl.ErrContract, 1, false},
		{"quota in the body", reply(200, say(403, "FORBIDDEN", "TOKEN LIMIT EXCEEDED")), "quota_exceeded", etl.ErrThrottled, 1, true},
		{"concurrency in the body", reply(200, say("403", "FORBIDDEN", "EXCEEDS THE LIMIT OF SIMULTANEOUS REQUESTS PER TOKEN (2)")), "concurrency", etl.ErrThrottled, 2, true},
		{"token in the body", reply(200, say(403, "FORBIDDEN", "PLEASE VALIDATE TOKEN")), "token_invalid", etl.ErrUnauthorized, 1, true},
		{"401 in the body", reply(200, say(401, "UNAUTHORIZED", "")), "token_invalid", etl.ErrUnauthorized, 1, true},
		{"expired token in the body", reply(200, say(403, "FORBIDDEN", "YOUR TOKEN IS EXPIRED")), "token_invalid", etl.ErrUnauthorized, 1, true},
		{"code as text", reply(200, say(" 403 ", "FORBIDDEN", "your token is expired")), "token_invalid", etl.ErrUnauthorized, 1, true},
		{"code with a fraction", reply(200, `{"code":403.0,"msg":"YOUR TOKEN IS EXPIRED"}`), "token_invalid", etl.ErrUnauthorized, 1, true},
		{"maintenance in the body", reply(200, say(403, "FORBIDDEN", "backup")), "vendor_maintenance", etl.ErrUnavailable, 1, true},
		{"parameters in the body", reply(200, say(400, "BAD REQUEST", "SOME PARAMETERS ARE REQUIRED")), "vendor_error", etl.ErrContract, 1, true},
		{"data null", reply(200, `{"code":403,"msg":"LIMIT EXCEEDED","data":null}`), "quota_exceeded", etl.ErrThrottled, 1, true},
		{"data empty", reply(200, `{"code":403,"msg":"LIMIT EXCEEDED","data":[ ]}`), "quota_exceeded", etl.ErrThrottled, 1, true},
		{"data an empty object", reply(200, `{"data":{ },"code":403,"msg":"LIMIT EXCEEDED"}`), "quota_exceeded", etl.ErrThrottled, 1, true},
		{"data no list", reply(200, `{"code":403,"msg":"LIMIT EXCEEDED","data":""}`), "quota_exceeded", etl.ErrThrottled, 1, true},
		{"W21", reply(200, document("w21_code_403")), "", nil, 1, true},
		{"W21 with data as object", reply(200, `{"code":403,"msg":"YOUR TOKEN IS EXPIRED","data":{"items":"1"}}`), "", nil, 1, true},
		{"W23", reply(200, document("w23_error_beside_200")), "", nil, 1, true},
		{"W23 without data", reply(200, say(200, "TOKEN LIMIT EXCEEDED", "Information found")), "", nil, 1, true},
		{"other code in the body", reply(200, say(500, "ERROR", "TOKEN LIMIT EXCEEDED")), "", nil, 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVendor(t, nil)
			v.Inject(c.fault)
			ans, err := v.account.Extract(t.Context(), ask("vision"))
			if (ans != nil) != c.evidence {
				t.Fatalf("answer %+v", ans)
			}
			if ans != nil {
				defer ans.Body.Close()
			}
			var reject *etl.RejectError
			switch {
			case c.reason == "" && err != nil:
				t.Fatal(err)
			case c.reason == "":
				if _, err := v.account.Transform(ans, &sink{}); reasonOf(err) != "vendor_error" {
					t.Errorf("transform: %v", err)
				}
			case !errors.As(err, &reject) || reject.Reason != c.reason || !errors.Is(err, c.class):
				t.Fatalf("got %v, want %s of class %v", err, c.reason, c.class)
			}
			if n := len(v.Requests()); n != c.calls || len(v.waits) != c.calls-1 {
				t.Errorf("%d calls, want %d; waits %v", n, c.calls, v.waits)
			}
			if c.reason == "concurrency" && (v.waits[0] < 30*time.Second || v.waits[0] > 60*time.Second) {
				t.Errorf("waited %s", v.waits[0])
			}
		})
	}
}

func TestNoData(t *testing.T) {
	reply := func(status int, body string) wolkvoxsim.Fault {
		return wolkvoxsim.Fault{Kind: wolkvoxsim.Reply, Status: status, Body: []byte(body)}
	}
	const missing = `"error":"BAD REQUEST","msg":"The API you want to consult does not exist"}`
	for _, c := range []struct {
		name    string
		fault   wolkvoxsim.Fault
		warning string
	}{
		{"404", wolkvoxsim.Fault{Kind: wolkvoxsim.NoData}, "no_data"},
		{"404 in the body", reply(200, `{"code":404,"error":"NOT FOUND","msg":"Validate dates entered"}`), "no_data"},
		{"404 in the body, other words", reply(200, `{"code":"404","error":"NOT FOUND","msg":"nothing","data":[]}`), "no_data"},
		{"no such API", reply(400, `{"code":400,`+missing), "api_unknown"},
		{"no such API, no code", reply(400, `{`+missing), "api_unknown"},
		{"no such API in the body", reply(200, `{"code":400,`+missing), "api_unknown"},
		{"no such API in the body, code as text", reply(200, `{"data":null,"code":"400",`+missing), "api_unknown"},
		{"no such API by 404", reply(404, `{"code":404,`+missing), "api_unknown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVendor(t, nil)
			v.Inject(c.fault)
			ans, err := v.account.Extract(t.Context(), ask("vision"))
			if err != nil || !ans.NoData {
				t.Fatalf("%+v, %v", ans, err)
			}
			defer ans.Body.Close()
			if len(ans.Warnings) != 1 || ans.Warnings[c.warning].Count != 1 || len(v.Requests()) != 1 {
				t.Errorf("warnings %v, %d calls", ans.Warnings, len(v.Requests()))
			}
			if report, err := v.account.Transform(ans, &sink{}); err != nil || report.Received != 0 {
				t.Errorf("%+v, %v", report, err)
			}
			if logged := strings.Contains(v.log.String(), "product=vision") && strings.Contains(v.log.String(), "does not exist"); logged != (c.warning == "api_unknown") || strings.Contains(v.log.String(), "broke its contract") {
				t.Errorf("log: %s", v.log)
			}
			if _, err := v.account.TokenInfo(t.Context()); reasonOf(err) != c.warning || !errors.Is(err, etl.ErrContract) {
				t.Errorf("token_info: %v", err)
			}
		})
	}
}

func TestRecovery(t *testing.T) {
	for _, fault := range []wolkvoxsim.Fault{
		{Kind: wolkvoxsim.Reply, Status: 503, Count: 3},
		{Kind: wolkvoxsim.Truncate, Count: 2},
		{Kind: wolkvoxsim.Concurrency, Count: 1},
	} {
		v := newVendor(t, nil)
		v.Inject(fault)
		ans, err := v.account.Extract(t.Context(), ask("vision"))
		if err != nil || len(v.Requests()) != fault.Count+1 {
			t.Errorf("%s: %d calls, %v", fault.Kind, len(v.Requests()), err)
			continue
		}
		if report, err := v.account.Transform(ans, &sink{}); err != nil || report.Received != 1 {
			t.Errorf("%s: %+v, %v", fault.Kind, report, err)
		}
		ans.Body.Close()
	}
}

func TestHeaders(t *testing.T) {
	var seen http.Header
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		w.WriteHeader(404)
	}))
	defer server.Close()
	v := &vendor{log: &bytes.Buffer{}}
	for _, code := range []string{"", "0039"} {
		a := v.at(t, server.URL, func(cfg *Config) { cfg.Server = code })
		ans, err := a.Extract(t.Context(), ask("vision"))
		if err != nil {
			t.Fatal(err)
		}
		ans.Body.Close()
		if _, sent := seen["Wolkvox_server"]; seen.Get("wolkvox-token") != secret || seen.Get("wolkvox_server") != code || sent != (code != "") || seen.Get("Connection") != "close" {
			t.Errorf("server %q: %v", code, seen)
		}
	}
}

func TestRequestIsChecked(t *testing.T) {
	v := newVendor(t, nil)
	for _, req := range []etl.Request{{Dataset: "keystone.history", Product: "vision"}, ask(""), ask("a&b=c"), ask("../x"), ask(strings.Repeat("x", 65))} {
		ans, err := v.account.Extract(t.Context(), req)
		if err == nil || ans != nil {
			t.Fatalf("%+v: %v", req, err)
		}
		if req.Product != "" && strings.Contains(err.Error(), req.Product) { // whoever asks names it
			t.Errorf("%+v: %v", req, err)
		}
	}
	if n := len(v.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestPinnedOperation(t *testing.T) {
	for _, c := range []struct {
		name, configured string
		answers          []string // of PinnedOperation
		err              error
		reads            int
		reason           string
	}{
		{name: "configured", configured: "acme_ops", reads: 0},
		{name: "pinned", answers: []string{"acme_ops"}, reads: 1},
		{name: "pinned later", answers: []string{"", "acme_ops"}, reads: 2},
		{name: "other", answers: []string{"other_ops"}, reads: 1, reason: "wrong_operation"},
		{name: "none yet", answers: []string{"", ""}, reads: 2},
		{name: "broken", err: errors.New("no database"), reads: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			reads := 0
			v := newVendor(t, func(cfg *Config) {
				cfg.Operation = c.configured
				cfg.PinnedOperation = func(context.Context) (string, error) {
					reads++
					if c.err != nil {
						return "", c.err
					}
					return c.answers[reads-1], nil
				}
			})
			for range 2 {
				ans, err := v.account.Extract(t.Context(), ask("vision"))
				if !errors.Is(err, c.err) {
					t.Fatal(err)
				}
				if err != nil {
					continue
				}
				if _, err := v.account.Transform(ans, &sink{}); reasonOf(err) != c.reason {
					t.Errorf("transform: %v", err)
				}
				ans.Body.Close()
			}
			if reads != c.reads {
				t.Errorf("read %d times, want %d", reads, c.reads)
			}
		})
	}
}

func TestTokenInfo(t *testing.T) {
	v := newVendor(t, nil)
	v.Spend(10)
	got, err := v.account.TokenInfo(t.Context())
	want := TokenInfo{Description: "billing reader", Limit: 25000, UsedByToken: 1, UsedByAll: 11, Left: 24989}
	if err != nil || got != want || len(v.Requests()) != 1 {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	v.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.BadToken, Count: 1})
	if _, err := v.account.TokenInfo(t.Context()); !errors.Is(err, etl.ErrUnauthorized) {
		t.Errorf("bad token: %v", err)
	}
	for body, reason := range map[string]string{
		"<html>":                   "json_syntax",
		"[]":                       "envelope_unknown",
		"{}":                       "envelope_unknown",
		`{"code":200,"data":[]}`:   "envelope_unknown",
		`{"data":{"a":1}}`:         "",
		`{"data":[1,{"a":[]}]}`:    "",
		`{"data":[{"a":1,"A":2}]}`: "json_duplicate_key",
	} {
		v.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Reply, Body: []byte(body), Count: 1})
		got, err := v.account.TokenInfo(t.Context())
		if reasonOf(err) != reason || err == nil && got.Limit != -1 || strings.HasPrefix(body, "<") != errors.Is(err, errPage) {
			t.Errorf("%s: %+v, %v, want %q", body, got, err, reason)
		}
	}
}

func TestNewChecks(t *testing.T) {
	good := Config{Account: "callcenter", Server: "0039", Token: secret}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"good":             {func(*Config) {}, ""},
		"base URL":         {func(c *Config) { c.BaseURL = "http://127.0.0.1:1" }, ""},
		"no server":        {func(c *Config) { c.Server = "" }, "server"},
		"other host":       {func(c *Config) { c.Server = "x.example.com/" }, "server"},
		"userinfo":         {func(c *Config) { c.Server = "a@b" }, "server"},
		"port":             {func(c *Config) { c.Server = "1:80" }, "server"},
		"capital":          {func(c *Config) { c.Server = "A1" }, "server"},
		"line break":       {func(c *Config) { c.Server = "0039\n" }, "server"},
		"long":             {func(c *Config) { c.Server = strings.Repeat("1", 33) }, "server"},
		"plain http":       {func(c *Config) { c.BaseURL = "http://example.com" }, "https"},
		"no token":         {func(c *Config) { c.Token = "" }, "token is empty"},
		"token of lines":   {func(c *Config) { c.Token = secret + "\n" }, "line breaks"},
		"long token":       {func(c *Config) { c.Token = Token(strings.Repeat(secret, 1000)) }, "8192"},
		"operation":        {func(c *Config) { c.Operation = "a\u200bb" }, "text_invisible_char"},
		"operation sample": {func(c *Config) { c.Operation = "string" }, "placeholder"},
		"CA file":          {func(c *Config) { c.CAFile = "/does/not/exist" }, "ca_file"},
		"proxy":            {func(c *Config) { c.Proxy = "x" }, "proxy"},
	} {
		cfg := good
		c.change(&cfg)
		a, err := New(cfg)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if name == "good" && a != nil && a.base.String() != "https://wv0039.wolkvox.com/" {
			t.Errorf("base %s", a.base)
		}
	}
}

// The token must not get out: not by formatting, and not by a vendor that echoes it.
func TestTokenIsNotShown(t *testing.T) {
	var out bytes.Buffer
	cfg := Config{Account: "callcenter", Server: "0039", Token: secret}
	a := account(t, nil)
	token := Token(secret)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%T", "%10s", "%U", "%c"} {
		for _, v := range []any{token, &token, cfg, &cfg, a, *a.token, []Token{token}, map[string]Token{"a": token}, struct{ T Token }{token}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	fmt.Fprintf(&out, "%+v %#v", a.cfg, a.cfg)
	for _, v := range []any{token, struct{ T Token }{token}} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "token", token, "pointer", &token, "cfg", cfg.Token, "account", a)
	}
	hex := fmt.Sprintf("%x", secret)
	if s := out.String(); strings.Contains(s, secret) || strings.Contains(strings.ToLower(s), hex) || strings.Contains(s, fmt.Sprint([]byte(secret))) {
		t.Errorf("shown: %s", s)
	}

	v := newVendor(t, nil)
	for _, status := range []int{200, 206, 302, 400, 401, 403, 404, 429, 500, 503} {
		for _, body := range []string{
			`{"code":403,"error":"PLEASE VALIDATE TOKEN ` + secret + `","msg":"` + secret + `"}`,
			`<p>` + secret + `</p>`,
			`{"code":200,"error":"` + strings.Repeat("x", 190) + secret + `"}`,
			`{"code":"` + secret + `","data":[{"operation":"` + secret + `"}]}`,
		} {
			v.ClearFaults()
			v.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Reply, Status: status, Body: []byte(body), Header: http.Header{"Location": {"https://x.invalid/" + secret}, "X-Request-Id": {secret}}})
			ans, err := v.account.Extract(t.Context(), ask("vision"))
			var s sink
			var report etl.Report
			if ans != nil && err == nil {
				report, err = v.account.Transform(ans, &s)
			}
			_, infoErr := v.account.TokenInfo(t.Context())
			if said := fmt.Sprint(err, infoErr, s, report); strings.Contains(said, secret[:12]) {
				t.Errorf("status %d: %s", status, said)
			}
			if ans != nil {
				ans.Body.Close()
			}
		}
	}
	if strings.Contains(v.log.String(), secret) || !strings.Contains(v.log.String(), "retry") {
		t.Errorf("log: %s", v.log)
	}
}
