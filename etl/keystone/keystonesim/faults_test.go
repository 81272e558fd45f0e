package keystonesim_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"meterhouse/etl/keystone/keystonesim"
)

func inject(t *testing.T, text string) *bench {
	t.Helper()
	b := newBench(t, keystonesim.Config{DailyOnly: true})
	f, err := keystonesim.ParseFault(text)
	if err != nil {
		t.Fatal(err)
	}
	b.sim.Inject(f)
	return b
}

func TestStatusFaults(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		status int
		body   string
	}{
		"401:customers":          {401, `{"message":"Unauthorized"}`},
		"403":                    {403, `{"message":"Forbidden"}`},
		"429:any:retry=30":       {429, `{"message":"Too Many Requests"}`},
		"500":                    {500, `{"message":"Internal Server Error"}`},
		"502":                    {502, `<html>`},
		"keystone:504:customers": {504, `timed out`},
		"204":                    {204, ``},
		"503:any:body=a,b:c":     {503, `a,b:c`},
		"replace:any:body=[1":    {200, `[1`},
		"replace:any:status=206": {206, ``},
	} {
		b := inject(t, text)
		res, err := b.do("GET", customers)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want.status || !strings.Contains(string(body), want.body) {
			t.Errorf("%s: %d %s", text, res.StatusCode, body)
		}
		if strings.Contains(text, "retry") && res.Header.Get("Retry-After") != "30" {
			t.Errorf("%s: Retry-After %q", text, res.Header.Get("Retry-After"))
		}
		if log := b.sim.Requests(); log[len(log)-1].Status != want.status {
			t.Errorf("%s: logged as %d", text, log[len(log)-1].Status)
		}
	}
}

func TestFaultsTakeTurns(t *testing.T) {
	t.Parallel()
	b := newBench(t, keystonesim.Config{DailyOnly: true})
	b.sim.Inject(keystonesim.Fault{Path: "/customers", Skip: 1, Count: 2, Status: 429})
	b.sim.Inject(keystonesim.Fault{Path: "/customers", Skip: 1, Count: 1, Status: 504})
	b.sim.Inject(keystonesim.Fault{Path: "subscriptions-info", Status: 403})
	var got []int
	for range 5 {
		status, _ := b.get(customers)
		got = append(got, status)
	}
	if want := []int{200, 429, 429, 504, 200}; !reflect.DeepEqual(got, want) {
		t.Errorf("statuses %v, want %v", got, want)
	}
	if status, _ := b.get(subscriptions + "C-1001"); status != 403 {
		t.Errorf("the other endpoint's fault: %d", status)
	}
	b.sim.ClearFaults()
	b.tree(subscriptions + "C-1001")
}

func TestExpireAccess(t *testing.T) {
	t.Parallel()
	b := inject(t, "expire:customers:count=1")
	for range 2 {
		if status, _ := b.get(customers); status != 401 {
			t.Errorf("%d, want 401 from now on", status)
		}
	}
	_, b.access, _ = b.exchange(b.sim.RefreshToken())
	b.tree(customers)
}

func TestLongWindow(t *testing.T) {
	t.Parallel()
	b := inject(t, "long:history:days=7,count=1")
	b.tree(history("C-1001", "2026-05-01", "2026-05-07"))
	if status, _ := b.get(history("C-1001", "2026-05-01", "2026-05-08")); status != 504 {
		t.Errorf("eight days: %d, want 504", status)
	}
}

func TestBrokenTransport(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"truncate", "cutchunked", "cutsilent", "close"} {
		b := inject(t, text+":history")
		res, err := b.do("GET", history("C-1001", "2026-05-01", "2026-05-08"))
		if text == "close" {
			if err == nil {
				t.Errorf("%s: answered", text)
			}
			if log := b.sim.Requests(); log[len(log)-1].Status != 0 {
				t.Errorf("%s: logged as %d", text, log[len(log)-1].Status)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if (err == nil) != (text == "cutsilent") {
			t.Errorf("%s: error %v", text, err)
		}
		if len(body) == 0 || json.Valid(body) {
			t.Errorf("%s: %d bytes, whole=%v", text, len(body), json.Valid(body))
		}
	}
}

func TestSpendAndDrop(t *testing.T) {
	t.Parallel()
	b := inject(t, "drop:token:count=1")
	held := b.sim.RefreshToken()
	if status, _, _ := b.exchange(held); status != 0 {
		t.Fatalf("answered %d", status)
	}
	if status, _, _ := b.exchange(held); status != 401 {
		t.Errorf("the token is spent: %d, want 401", status)
	}
}

func TestRedirect(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"redirect:any:to=http://elsewhere.example/": 302, "redirect:any:status=307,to=http://elsewhere.example/": 307} {
		b := inject(t, text)
		res, err := b.do("GET", customers)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want || res.Header.Get("Location") != "http://elsewhere.example/" {
			t.Errorf("%s: %d to %q", text, res.StatusCode, res.Header.Get("Location"))
		}
	}
}

func TestSlowObeysTheClient(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"slow:any:delay=1h", "drip:any:delay=1h", "endless"} {
		b := inject(t, text)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", b.url+customers, nil)
		res, err := b.client.Do(req)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", text, err)
		}
	}
	inject(t, "slow:any:delay=1ms").tree(customers)
	inject(t, "drip:any:delay=1us").tree(customers)
}

func TestCompression(t *testing.T) {
	t.Parallel()
	b := inject(t, "gzip:customers")
	b.sim.Inject(keystonesim.Fault{Kind: keystonesim.Bomb, Path: "subscriptions"})
	for path, want := range map[string]int64{customers: 0, subscriptions + "C-1001": 200 << 20} {
		res, err := b.do("GET", path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.Header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%s: encoding %q", path, res.Header.Get("Content-Encoding"))
		}
		z, err := gzip.NewReader(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if want == 0 {
			body, err := io.ReadAll(z)
			if err != nil || !json.Valid(body) {
				t.Errorf("%s: %v %.100s", path, err, body)
			}
			continue
		}
		if n, err := io.Copy(io.Discard, z); n != want || err != nil {
			t.Errorf("%s: %d bytes, %v", path, n, err)
		}
	}
}

func TestSkewed(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"skewed": 3 * time.Hour, "skewed:customers:skew=-26h": -26 * time.Hour, "slow:any:delay=1ns,skew=5m": 5 * time.Minute,
		"gzip:any:skew=-5m": -5 * time.Minute, "503:any:skew=5m": 5 * time.Minute, "slow:any:delay=1ns": 0,
	} {
		b := inject(t, text)
		before := time.Now()
		res, err := b.do("GET", customers)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		date, err := http.ParseTime(res.Header.Get("Date"))
		if err != nil || date.Before(before.Add(want-time.Second)) || date.After(time.Now().Add(want)) {
			t.Errorf("%s: dated %s, %v; want %s from now", text, date, err, want)
		}
	}
	b := inject(t, "skewed")
	_, skewed := b.get(customers)
	b.sim.ClearFaults()
	if _, plain := b.get(customers); !reflect.DeepEqual(skewed, plain) {
		t.Errorf("got %s, want %s", skewed, plain)
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	b := inject(t, "empty")
	for path, envelope := range map[string][]string{
		customers: {"results"}, subscriptions + "C-1001": {"0", "results"}, current + "C-1001": {"result"},
		history("C-1001", "2026-05-01", "2026-05-02"): {"results"},
	} {
		results := at(b.tree(path), envelope...)
		if records, ok := at(results, "records").([]any); !ok || len(records) != 0 {
			t.Errorf("%s: records %v", path, at(results, "records"))
		}
	}
}

func TestParseFault(t *testing.T) {
	t.Parallel()
	got, err := keystonesim.ParseFault("keystone:429:history:skip=3,count=2,delay=5s,skew=-3h,retry=30")
	want := keystonesim.Fault{
		Path: "/historical-consumption-details", Skew: -3 * time.Hour, Skip: 3, Count: 2, Status: 429, MaxDays: 31,
		Delay: 5 * time.Second, Header: http.Header{"Retry-After": {"30"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	for _, text := range []string{
		"", "99", "600", "status", "explode", "504:elsewhere", "504:any:count", "504:any:count=-1", "504:any:weight=3",
		"slow:any:delay=soon", "skewed:any:skew=much", "redirect", "redirect:any:to=", "replace:any:status=5",
	} {
		if f, err := keystonesim.ParseFault(text); err == nil {
			t.Errorf("ParseFault(%q) = %+v, want an error", text, f)
		}
	}
	for kind := keystonesim.ExpireAccess; kind <= keystonesim.Empty; kind++ {
		f, err := keystonesim.ParseFault(kind.String() + ":any:to=http://elsewhere.example/")
		if err != nil || f.Kind != kind {
			t.Errorf("ParseFault(%q) = %v, %v", kind, f.Kind, err)
		}
	}
}
