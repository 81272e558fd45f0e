package wolkvoxsim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// noon is 12:00 UTC on a Friday, 07:00 in Bogota.
var noon = time.Date(2026, 5, 15, 12, 0, 0, 0, time.UTC)

// bench is a server at the other end of a real connection, with a clock to turn.
type bench struct {
	*Sim
	t   *testing.T
	url string

	mu  sync.Mutex
	now time.Time
}

func newBench(t *testing.T, cfg Config) *bench {
	t.Helper()
	b := &bench{t: t, now: noon}
	cfg.Now = func() time.Time {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.now
	}
	b.Sim = New(cfg)
	srv := httptest.NewServer(b.Sim)
	t.Cleanup(srv.Close)
	b.url = srv.URL
	return b
}

func (b *bench) turn(to time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = to
}

// reply is one answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   string
	err    error // of the exchange or of reading the body
}

func (b *bench) get(path, token string) reply {
	b.t.Helper()
	return b.getContext(b.t.Context(), path, token)
}

func (b *bench) getContext(ctx context.Context, path, token string) reply {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+path, nil)
	if err != nil {
		return reply{err: err}
	}
	if token != "" {
		req.Header.Set("WOLKVOX-Token", token)
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // no silent repeats
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(body), err}
}

func (b *bench) bill(api string) reply {
	b.t.Helper()
	return b.get("/api/v2/billing.php?api="+url.QueryEscape(api), b.Token())
}

func (b *bench) tokenInfo() map[string]string {
	b.t.Helper()
	r := b.get("/api/v2/information.php?api=token_info", b.Token())
	var got struct{ Data []map[string]string }
	if err := json.Unmarshal([]byte(r.body), &got); err != nil || len(got.Data) != 1 {
		b.t.Fatalf("token_info = %d %s, want one row", r.status, r.body)
	}
	return got.Data[0]
}

// wantRefusal holds a reply against the vendor's table of response codes.
func wantRefusal(t *testing.T, r reply, status int, kind, msg string) {
	t.Helper()
	want := fmt.Sprintf(`{"code":%d,"error":%q,"msg":%q}`, status, kind, msg)
	if r.err != nil || r.status != status || r.body != want {
		t.Errorf("got %d %s (%v), want %d %s", r.status, r.body, r.err, status, want)
	}
}

func TestEveryAPIAnswersInTheDocumentedShape(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{Seed: 7})
	names := strings.Fields(`agent_script intelligent_dial gamification ivr_minutes rec_minutes amazon_s3 rsync
		rsync_s3_mp3 rec_screen interactions rec_screen_on_demand speech_analytics wp_connectors sentiment_analysis
		chat_licenses interaction_licenses video_call pbx_licenses ivr_calls asr_calls vision tts_chars
		wp_connectors_official contact_center_licenses amd_ai stereo_rec nlp_ai`)
	if len(names) != 27 || len(catalogue) != 27 {
		t.Fatalf("%d names, %d products, want 27", len(names), len(catalogue))
	}
	for i, api := range names {
		number := i + 1
		r := b.bill(api)
		if r.status != 200 || r.header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("%s: status %d, type %q", api, r.status, r.header.Get("Content-Type"))
		}
		code, msg := `200`, "Information found for the current month"
		if number >= 26 {
			code = `"200"`
		}
		if number == 10 {
			msg = "1 records were found"
		}
		if head := fmt.Sprintf(`{"code":%s,"error":null,"msg":%q,"data":[{"operation":"andina_demo","description":"`, code, msg); !strings.HasPrefix(r.body, head) {
			t.Errorf("%s: body %s, want it to begin %s", api, r.body, head)
		}
		rows := rowsOf(t, r.body)
		if want := map[bool]int{true: 2, false: 1}[api == "rec_screen"]; len(rows) != want {
			t.Errorf("%s: %d rows, want %d", api, len(rows), want)
		}
		for _, row := range rows {
			date := "2026-05-15"
			if number%2 == 0 {
				date = "2026-05-15 07:00:00"
			}
			if len(row) != 4 || row["date"] != date {
				t.Errorf("%s: row %v, want four texts and the date %s", api, row, date)
			}
		}
	}
}

// rowsOf also proves that everything in data is text.
func rowsOf(t *testing.T, body string) []map[string]string {
	t.Helper()
	var got struct{ Data []map[string]string }
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("body %s: %v", body, err)
	}
	return got.Data
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{Missing: []string{"vision", "nlp_extra"}})
	const billing, information = "/api/v2/billing.php", "/api/v2/information.php"
	cases := []struct {
		name, path, token string
		status            int
		kind, msg         string
		cost              int
	}{
		{"no token", billing + "?api=vision", "", 401, "UNAUTHORIZED", "PLEASE ENTER THE WOLKVOX-TOKEN", 0},
		{"wrong token", billing + "?api=vision", "not-it", 403, "FORBIDDEN", "PLEASE VALIDATE TOKEN", 0},
		{"no api", billing, b.Token(), 400, "BAD REQUEST", "SOME PARAMETERS ARE REQUIRED", 1},
		{"unknown api", billing + "?api=nope", b.Token(), 400, "BAD REQUEST", "THE API YOU WANT TO CONSULT DOES NOT EXIST", 1},
		{"missing api", billing + "?api=vision", b.Token(), 404, "NOT FOUND", "Validate dates entered", 1},
		{"missing api beyond the list", billing + "?api=nlp_extra", b.Token(), 404, "NOT FOUND", "Validate dates entered", 1},
		{"token_info in the wrong place", billing + "?api=token_info", b.Token(), 400, "BAD REQUEST", "THE API YOU WANT TO CONSULT DOES NOT EXIST", 1},
		{"information without api", information, b.Token(), 400, "BAD REQUEST", "SOME PARAMETERS ARE REQUIRED", 1},
		{"unknown information", information + "?api=vision", b.Token(), 400, "BAD REQUEST", "THE API YOU WANT TO CONSULT DOES NOT EXIST", 1},
	}
	for i, c := range cases {
		wantRefusal(t, b.get(c.path, c.token), c.status, c.kind, c.msg)
		if got := b.Requests()[i]; got.Status != c.status || got.Cost != c.cost || got.End.IsZero() {
			t.Errorf("%s: logged %+v, want status %d and cost %d", c.name, got, c.status, c.cost)
		}
	}
	if r := b.get("/api/v2/else.php", b.Token()); r.status != 404 || strings.Contains(r.body, "{") {
		t.Errorf("another path = %d %s, want a plain 404", r.status, r.body)
	}
	for _, rd := range b.Oracle(noon) {
		if rd.API == "vision" {
			t.Error("the oracle knows a missing API")
		}
	}
}

func TestLogHoldsNoToken(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.bill("vision")
	b.get("/api/v2/billing.php?api=vision", "someone-elses-token")
	log := fmt.Sprintf("%+v", b.Requests())
	if strings.Contains(log, b.Token()) || strings.Contains(log, "someone") {
		t.Errorf("log %s", log)
	}
}

func TestTokenComesFromTheSeed(t *testing.T) {
	t.Parallel()
	one, again, two := New(Config{Seed: 1}).Token(), New(Config{Seed: 1}).Token(), New(Config{Seed: 2}).Token()
	if one != again || one == two || len(one) < 16 {
		t.Errorf("tokens %q, %q, %q", one, again, two)
	}
	if got := New(Config{Token: "chosen"}).Token(); got != "chosen" {
		t.Errorf("token %q, want the chosen one", got)
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{Licenses: 10})
	want := map[string]string{"description": "billing reader", "token_limit": "25000", "token_use_today": "1",
		"all_token_today": "1", "available_consumption_options": "24999"}
	if got := b.tokenInfo(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("token_info = %v, want %v", got, want)
	}
	b.Spend(24_998)
	if r := b.bill("nope"); r.status != 400 {
		t.Errorf("call 25000 = %d, want the 400 it deserves", r.status)
	}
	wantRefusal(t, b.bill("vision"), 403, "FORBIDDEN", "TOKEN LIMIT EXCEEDED")
	wantRefusal(t, b.get("/api/v2/information.php?api=token_info", b.Token()), 403, "FORBIDDEN", "TOKEN LIMIT EXCEEDED")

	b.turn(time.Date(2026, 5, 16, 4, 59, 59, 0, time.UTC)) // a second before local midnight
	wantRefusal(t, b.bill("vision"), 403, "FORBIDDEN", "TOKEN LIMIT EXCEEDED")
	b.turn(time.Date(2026, 5, 16, 5, 0, 0, 0, time.UTC))
	if got := b.tokenInfo(); got["all_token_today"] != "1" || got["available_consumption_options"] != "24999" {
		t.Errorf("after midnight token_info = %v, want a fresh day", got)
	}
	if got := New(Config{Licenses: 40}).quota; got != 40_000 {
		t.Errorf("quota of 40 licences = %d", got)
	}
}

func TestConcurrency(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.Inject(Fault{Kind: Slow, Delay: time.Minute, Count: 2})
	ctx, giveUp := context.WithCancel(t.Context())
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() { b.getContext(ctx, "/api/v2/billing.php?api=vision", b.Token()) })
	}
	waitFor(t, func() bool { return len(b.Requests()) == 2 })
	for range 3 {
		wantRefusal(t, b.bill("vision"), 403, "FORBIDDEN", "EXCEEDS THE LIMIT OF SIMULTANEOUS REQUESTS PER TOKEN (2)")
	}
	if got := b.MaxConcurrent(); got != 3 {
		t.Errorf("MaxConcurrent = %d, want 3", got)
	}
	giveUp()
	both.Wait()
	waitFor(t, func() bool { return !b.Requests()[0].End.IsZero() && !b.Requests()[1].End.IsZero() })
	if r := b.bill("vision"); r.status != 200 {
		t.Errorf("after the two left = %d, want 200", r.status)
	}
	if got := b.Requests()[0]; got.Status != 0 || got.Cost != 1 {
		t.Errorf("a call given up is logged as %+v, want status 0, cost 1", got)
	}
}

func TestOneAfterTheOtherIsNeverTwoAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	for range 50 {
		b.bill("rec_screen")
	}
	if got := b.MaxConcurrent(); got != 1 {
		t.Errorf("MaxConcurrent = %d, want 1", got)
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited 10 s in vain")
		}
	}
}

func TestOtherMethodsAreRefused(t *testing.T) {
	t.Parallel()
	s := New(Config{})
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/api/v2/billing.php?api=vision", bytes.NewReader(nil))
	r.Header.Set("wolkvox-token", s.Token())
	s.ServeHTTP(w, r)
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST = %d, want 405", w.Code)
	}
}
