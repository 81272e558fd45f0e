package wolkvoxsim

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestFaultsThatReplaceTheAnswer(t *testing.T) {
	t.Parallel()
	cases := []struct {
		fault  Fault
		status int
		kind   string // content type
		body   string // a part of it
	}{
		{Fault{Status: 503, Body: []byte("<html>busy</html>")}, 503, "text/html; charset=utf-8", "<html>busy</html>"},
		{Fault{Kind: Reply, Body: []byte(`{"code":"0"}`)}, 200, "application/json; charset=utf-8", `{"code":"0"}`},
		{Fault{Kind: Reply, Status: 204}, 204, "text/html; charset=utf-8", ""},
		{Fault{Body: []byte(`{}`), Header: http.Header{"content-type": {"text/plain"}}}, 200, "text/plain", `{}`},
		{Fault{Kind: Maintenance}, 403, "text/html; charset=utf-8", "Backup window"},
		{Fault{Kind: Maintenance, Body: []byte("en mantenimiento")}, 403, "text/html; charset=utf-8", "en mantenimiento"},
		{Fault{Kind: TokenLimit}, 403, "application/json; charset=utf-8", `"TOKEN LIMIT EXCEEDED"`},
		{Fault{Kind: Concurrency}, 403, "application/json; charset=utf-8", `PER TOKEN (2)"`},
		{Fault{Kind: BadToken}, 403, "application/json; charset=utf-8", `"PLEASE VALIDATE TOKEN"`},
		{Fault{Kind: NoData}, 404, "application/json; charset=utf-8", `{"code":404,"error":"NOT FOUND","msg":"Validate dates entered"}`},
	}
	for _, c := range cases {
		t.Run(fmt.Sprint(c.fault.Kind, c.status), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, Config{})
			b.Inject(c.fault)
			r := b.bill("chat_licenses")
			if r.err != nil || r.status != c.status || r.header.Get("Content-Type") != c.kind || !strings.Contains(r.body, c.body) {
				t.Errorf("got %+v, want %d, %s, %s", r, c.status, c.kind, c.body)
			}
			if got := b.Requests()[0]; got.Status != c.status || got.Cost != 1 {
				t.Errorf("logged %+v", got)
			}
			if strings.Contains(strings.ToLower(r.body), "token") && c.fault.Kind == Maintenance {
				t.Error("a maintenance page that speaks of tokens is a token error")
			}
		})
	}
}

func TestFaultsThatSpoilTheRows(t *testing.T) {
	t.Parallel()
	const head = `{"code":200,"error":null,"msg":"Information found for the current month","data":`
	line := func(operation, items string) string {
		return fmt.Sprintf(`{"operation":%q,"description":"Screen recording on demand","items":%q,"date":"2026-05-15"}`, operation, items)
	}
	const api = "rec_screen_on_demand"
	s := New(Config{})
	var right Reading
	for _, rd := range s.Oracle(noon) {
		if rd.API == api {
			right = rd
		}
	}
	good := line("andina_demo", right.Items)
	integer, _, _ := strings.Cut(right.Number, ".")
	var m int
	if _, err := fmt.Sscan(integer, &m); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		fault Fault
		want  string
	}{
		{Fault{Kind: BlankRow}, head + `[{"operation":"","description":"","items":"","date":""}]}`},
		{Fault{Kind: EmptyData}, head + `[]}`},
		{Fault{Kind: ZeroItems}, head + `[` + line("andina_demo", "0") + `]}`},
		{Fault{Kind: DataObject}, head + good + `}`},
		{Fault{Kind: ErrorNull}, strings.Replace(head, `"error":null`, `"error":"null"`, 1) + `[` + good + `]}`},
		{Fault{Kind: DuplicateRows}, head + `[` + good + `,` + good + `]}`},
		{Fault{Kind: OtherOperation}, head + `[` + line("otra_demo", right.Items) + `]}`},
		{Fault{Kind: OtherOperation, Body: []byte("lejana_demo")}, head + `[` + line("lejana_demo", right.Items) + `]}`},
		{Fault{Kind: Items, Body: []byte("1.250")}, head + `[` + line("andina_demo", "1.250") + `]}`},
		{Fault{Kind: ItemsInteger}, head + `[` + line("andina_demo", integer) + `]}`},
		{Fault{Kind: ItemsDecimal}, head + `[` + line("andina_demo", integer+".5") + `]}`},
		{Fault{Kind: ItemsDuration}, head + `[` + line("andina_demo", fmt.Sprintf("%02d:%02d:00", m/60, m%60)) + `]}`},
		{Fault{Kind: ItemsBlank}, head + `[` + line("andina_demo", "") + `]}`},
		{Fault{Kind: ItemsDash}, head + `[` + line("andina_demo", "-") + `]}`},
		{Fault{Kind: Slow, Delay: time.Millisecond}, head + `[` + good + `]}`},
		{Fault{Kind: Skewed}, head + `[` + good + `]}`},
	}
	for _, c := range cases {
		t.Run(string(c.fault.Kind), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, Config{})
			c.fault.Count = 1
			b.Inject(c.fault)
			if r := b.bill(api); r.status != 200 || r.body != c.want {
				t.Errorf("got %d %s\nwant %s", r.status, r.body, c.want)
			}
			if r := b.bill(api); r.body != head+`[`+good+`]}` {
				t.Errorf("afterwards %s", r.body)
			}
		})
	}
}

func TestBlankRowOfTheYoungestAPIsIsOneBlank(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.Inject(Fault{Kind: BlankRow})
	if r := b.bill("nlp_ai"); !strings.Contains(r.body, `"items":" "`) || !strings.Contains(r.body, `"code":"200"`) {
		t.Errorf("got %s", r.body)
	}
}

func TestTransportFaults(t *testing.T) {
	t.Parallel()
	t.Run("close", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, Config{})
		b.Inject(Fault{Kind: Close})
		if r := b.bill("vision"); r.err == nil {
			t.Errorf("got %+v, want no answer", r)
		}
		waitFor(t, func() bool { return !b.Requests()[0].End.IsZero() })
		if got := b.Requests()[0]; got.Status != 0 || got.Cost != 1 {
			t.Errorf("logged %+v, want status 0, cost 1", got)
		}
	})
	t.Run("truncate", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, Config{})
		b.Inject(Fault{Kind: Truncate, Count: 1})
		cut, all := b.bill("vision"), b.bill("vision")
		if !errors.Is(cut.err, io.ErrUnexpectedEOF) || cut.status != 200 || cut.body != all.body[:len(all.body)/2] {
			t.Errorf("got %+v, want half of %s", cut, all.body)
		}
	})
	t.Run("redirect", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, Config{})
		b.Inject(Fault{Kind: Redirect, Count: 1})
		b.Inject(Fault{Kind: Redirect, Status: 307, Header: http.Header{"Location": {"https://mirror.invalid/"}}})
		if r := b.bill("vision"); r.status != 302 || r.header.Get("Location") != "https://elsewhere.invalid/api/v2/billing.php?api=vision" {
			t.Errorf("got %+v", r)
		}
		if r := b.bill("vision"); r.status != 307 || r.header.Get("Location") != "https://mirror.invalid/" {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("slow", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, Config{})
		b.Inject(Fault{Kind: Slow, Delay: 50 * time.Millisecond})
		start := time.Now()
		if r := b.bill("vision"); r.status != 200 || time.Since(start) < 50*time.Millisecond {
			t.Errorf("got %d after %s", r.status, time.Since(start))
		}
	})
}

func TestSkewedDates(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault Fault
		want  time.Duration
	}{
		{Fault{Kind: Skewed}, 3 * time.Hour},
		{Fault{Kind: Skewed, Skew: -26 * time.Hour}, -26 * time.Hour},
		{Fault{Kind: TokenLimit, Skew: 5 * time.Minute}, 5 * time.Minute},
		{Fault{Kind: NoData}, 0},
	} {
		b := newBench(t, Config{})
		b.Inject(c.fault)
		before := time.Now()
		r := b.bill("chat_licenses")
		date, err := http.ParseTime(r.header.Get("Date"))
		if err != nil || date.Before(before.Add(c.want-time.Second)) || date.After(time.Now().Add(c.want)) {
			t.Errorf("%+v: dated %s, %v; want %s from now", c.fault, date, err, c.want)
		}
	}
}

func TestFaultScript(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.Inject(Fault{API: "vision", Skip: 1, Count: 2, Status: 500})
	b.Inject(Fault{API: "vision", Skip: 1, Count: 1, Status: 502})
	b.Inject(Fault{API: "token_info", Status: 504})
	var got []int
	for range 6 {
		got = append(got, b.bill("vision").status, b.bill("amd_ai").status)
	}
	// The second fault skips the first call, does not see the two spoiled by the
	// first fault, and takes the fourth.
	want := []int{200, 200, 500, 200, 500, 200, 502, 200, 200, 200, 200, 200}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("statuses %v, want %v", got, want)
	}
	for range 3 {
		if r := b.get("/api/v2/information.php?api=token_info", b.Token()); r.status != 504 {
			t.Errorf("token_info = %d, want 504 for ever", r.status)
		}
	}
	b.ClearFaults()
	b.tokenInfo()
}

func TestParseFault(t *testing.T) {
	t.Parallel()
	cases := []struct {
		text, err string
		want      Fault
	}{
		{text: "close", want: Fault{Kind: Close}},
		{text: "slow delay=90s api=vision skip=2 count=1", want: Fault{Kind: Slow, Delay: 90 * time.Second, API: "vision", Skip: 2, Count: 1}},
		{text: "reply status=503 body=<p>try  body= later</p>", want: Fault{Kind: Reply, Status: 503, Body: []byte("<p>try  body= later</p>")}},
		{text: "redirect header=location:https://mirror.invalid/", want: Fault{Kind: Redirect, Header: http.Header{"Location": {"https://mirror.invalid/"}}}},
		{text: "skewed skew=-3h", want: Fault{Kind: Skewed, Skew: -3 * time.Hour}},
		{text: "skewed skew=much", err: "invalid duration"},
		{text: "items body=", want: Fault{Kind: Items, Body: []byte{}}},
		{text: " ", err: "fault is empty"},
		{text: "body=x", err: `kind "body=x"`},
		{text: "flood", err: `kind "flood": want one of [reply `},
		{text: "close often", err: `"often": unknown`},
		{text: "close skip=-1", err: `"skip=-1": want a whole number`},
		{text: "close count=x", err: `"count=x": want a whole number`},
		{text: "reply status=99", err: "want 200 to 599"},
		{text: "slow delay=5", err: "missing unit"},
		{text: "reply header=x", err: "want header=NAME:VALUE"},
	}
	for _, c := range cases {
		got, err := ParseFault(c.text)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: error %v, want %q", c.text, err, c.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v, %v, want %+v", c.text, got, err, c.want)
		}
	}
	for _, k := range kinds {
		if f, err := ParseFault(string(k)); err != nil || f.Kind != k {
			t.Errorf("kind %s: %+v, %v", k, f, err)
		}
	}
}

func TestInjectPanicsOnUnknownKind(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("want a panic")
		}
	}()
	New(Config{}).Inject(Fault{Kind: "flood"})
}
