package keystonesim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meterhouse/etl/keystone/keystonesim"
)

var noon = time.Date(2026, 5, 15, 12, 0, 0, 0, time.UTC)

// A clock is moved by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// A bench is a simulator behind a real server, both its clocks, and a client.
type bench struct {
	t      *testing.T
	sim    *keystonesim.Sim
	url    string
	now    *clock
	tokens *clock
	client *http.Client
	access string
}

func newBench(t *testing.T, cfg keystonesim.Config) *bench {
	t.Helper()
	b := &bench{t: t, now: &clock{t: noon}, tokens: &clock{t: noon}}
	cfg.Now, cfg.TokenNow = b.now.Now, b.tokens.Now
	if cfg.Seed == 0 {
		cfg.Seed = 7
	}
	b.sim = keystonesim.New(cfg)
	server := httptest.NewServer(b.sim)
	t.Cleanup(server.Close)
	b.url = server.URL
	b.client = &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	_, b.access, _ = b.exchange(b.sim.RefreshToken())
	return b
}

// exchange returns the status and the new pair.
func (b *bench) exchange(refresh string) (status int, access, next string) {
	b.t.Helper()
	body, _ := json.Marshal(map[string]string{"refresh_token": refresh})
	res, err := b.client.Post(b.url+"/v1/tokens/accessToken", "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, "", ""
	}
	defer res.Body.Close()
	var pair struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		Error   string `json:"error"`
	}
	if err := json.NewDecoder(res.Body).Decode(&pair); err != nil {
		b.t.Fatalf("token answer: %v", err)
	}
	if (res.StatusCode == http.StatusOK) == (pair.Error != "") {
		b.t.Fatalf("token answer: status %d with error %q", res.StatusCode, pair.Error)
	}
	return res.StatusCode, pair.Access, pair.Refresh
}

func (b *bench) do(method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("authorizationToken", b.access)
	return b.client.Do(req)
}

// get returns status and body; an error of either kind is fatal.
func (b *bench) get(path string) (int, []byte) {
	b.t.Helper()
	res, err := b.do("GET", path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return res.StatusCode, body
}

// tree is the answer to a path that must be answered with 200 and JSON.
func (b *bench) tree(path string) any {
	b.t.Helper()
	status, body := b.get(path)
	if status != http.StatusOK {
		b.t.Fatalf("GET %s: %d %s", path, status, body)
	}
	return parse(b.t, body)
}

func parse(t *testing.T, body []byte) any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v in %.200s", err, body)
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Fatalf("something follows the document: %v", err)
	}
	return v
}

const (
	customers     = "/v1/keystone/customers"
	subscriptions = "/v1/keystone/customer/subscriptions-info?type=customer&id="
	current       = "/v1/keystone/customer/consumption-details?type=customer&id="
)

func history(id, from, to string) string {
	return "/v1/keystone/customer/historical-consumption-details?" +
		url.Values{"type": {"customer"}, "id": {id}, "from_date_utc": {from}, "to_date_utc": {to}}.Encode()
}

// days is the history of the UTC days [from, until) as our client will ask.
func days(id string, from, until time.Time) string {
	return history(id, from.Format(time.RFC3339), until.Add(-time.Second).Format(time.RFC3339))
}

// shape describes a document: objects with sorted names, arrays by their first element.
func shape(v any) string {
	switch v := v.(type) {
	case map[string]any:
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, name+":"+shape(v[name]))
		}
		return "{" + strings.Join(parts, " ") + "}"
	case []any:
		if len(v) == 0 {
			return "[]"
		}
		return "[" + shape(v[0]) + "]"
	case json.Number:
		return "number"
	case string:
		if _, err := time.Parse("2006-01-02T15:04:05.000Z", v); err == nil {
			return "millis"
		}
		if _, err := time.Parse("2006-01-02T15:04:05Z", v); err == nil {
			return "seconds"
		}
		if _, err := time.Parse("2006-01-02", v); err == nil {
			return "date"
		}
		if regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`).MatchString(v) {
			return "figures"
		}
		return "text"
	default:
		return fmt.Sprintf("%T", v)
	}
}

func TestShapes(t *testing.T) {
	t.Parallel()
	quirky := map[string]string{
		"customers":     `{results:{records:[{Customers:[{customer_id:text customer_name:text}]}] request_id:text response_time:figures returned_records:number}}`,
		"subscriptions": `[{results:{records:[{service_levels:[{committed_tib:number name:text}] subscription:{account_name:text end_date:millis number:text start_date:millis}}] request_id:text response_time:figures returned_records:number}}]`,
		"current":       `{result:{records:[{service_levels:[{accrued_burst_tib:figures burst_tib:figures committed_tib:figures consumed_tib:figures consumed_timestamp_utc:seconds name:text}] subscription:{account_name:text end_date:seconds number:text start_date:seconds}}] request_id:text response_time:figures returned_records:figures}}`,
		"history":       `{results:{customer:{id:text name:text} records:[{service_levels:[{historical_consumption:[{accrued_burst_tib:number burst_tib:number committed_tib:number consumed_tib:number is_invoiced:bool timestamp_utc:seconds}] name:text}] subscription:{account_name:text end_date:seconds number:text start_date:seconds}}] request_id:text request_parameters:{customer_id:text from_date_utc:date to_date_utc:date} response_time:figures returned_records:number}}`,
	}
	clean := map[string]string{
		"customers":     quirky["customers"],
		"subscriptions": strings.ReplaceAll(strings.Trim(quirky["subscriptions"], "[]"), "millis", "seconds"),
		"history":       quirky["history"],
		"current": `{results:{records:[{service_levels:[{accrued_burst_tib:number burst_tib:number committed_tib:number consumed_tib:number consumed_timestamp_utc:seconds name:text}] ` +
			`subscription:{account_name:text end_date:seconds number:text start_date:seconds}}] request_id:text response_time:figures returned_records:number}}`,
	}
	for name, want := range map[bool]map[string]string{false: quirky, true: clean} {
		t.Run(fmt.Sprintf("clean=%v", name), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, keystonesim.Config{Clean: name})
			paths := map[string]string{
				"customers": customers, "subscriptions": subscriptions + "C-1001", "current": current + "C-1001",
				"history": history("C-1001", "2026-05-01", "2026-05-02"),
			}
			for endpoint, path := range paths {
				if got := shape(b.tree(path)); got != want[endpoint] {
					t.Errorf("%s\n got %s\nwant %s", endpoint, got, want[endpoint])
				}
			}
		})
	}
}

func TestCustomersCall(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 3, 7} {
		b := newBench(t, keystonesim.Config{Customers: n, DailyOnly: true})
		records := at(b.tree(customers), "results", "records").([]any)
		seen := map[string]string{}
		for _, r := range records {
			for _, c := range at(r, "Customers").([]any) {
				seen[at(c, "customer_id").(string)] = at(c, "customer_name").(string)
			}
		}
		all := b.sim.Customers()
		if len(all) != n+1 || len(seen) != n+1 {
			t.Errorf("customers %d: listed %d, answered %d, want one more than asked", n, len(all), len(seen))
		}
		numbers := map[string]bool{}
		for i, c := range all {
			if seen[c.ID] != c.Name {
				t.Errorf("customer %s is %q in the answer, want %q", c.ID, seen[c.ID], c.Name)
			}
			list := at(b.tree(subscriptions+url.QueryEscape(c.ID)), "0", "results", "records").([]any)
			if (len(list) == 0) != (i == n) {
				t.Errorf("customer %s has %d subscriptions; only the last has none", c.ID, len(list))
			}
			for _, sub := range list {
				number := at(sub, "subscription", "number").(string)
				if numbers[number] {
					t.Errorf("number %s occurs twice", number)
				}
				numbers[number] = true
			}
		}
	}
}

// at walks into a document; a number is an index into an array.
func at(v any, path ...string) any {
	for _, step := range path {
		switch node := v.(type) {
		case map[string]any:
			v = node[step]
		case []any:
			var i int
			fmt.Sscan(step, &i)
			v = node[i]
		}
	}
	return v
}

func TestSameQuestionSameBytes(t *testing.T) {
	t.Parallel()
	cfg := keystonesim.Config{Seed: 11, Shuffle: true, Restate: true, Oddities: true}
	one, two, other := newBench(t, cfg), newBench(t, cfg), newBench(t, keystonesim.Config{Seed: 12})
	for _, path := range []string{customers, subscriptions + "C-1001", current + "0042117", history("C-1001", "2026-02-01", "2026-02-03")} {
		_, first := one.get(path)
		_, again := one.get(path)
		_, twin := two.get(path)
		_, stranger := other.get(path)
		if !bytes.Equal(first, again) || !bytes.Equal(first, twin) {
			t.Errorf("%s: the same seed, clock and request gave different bytes", path)
		}
		if bytes.Equal(first, stranger) {
			t.Errorf("%s: another seed gave the same bytes", path)
		}
	}
	if one.sim.RefreshToken() != two.sim.RefreshToken() {
		t.Error("the same seed and history gave different tokens")
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	b := newBench(t, keystonesim.Config{DailyOnly: true})
	whole := "&from_date_utc=2026-05-01&to_date_utc=2026-05-02"
	base := "/v1/keystone/customer/historical-consumption-details?"
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/v1/keystone", 404},
		{"POST", customers, 405},
		{"HEAD", customers, 405},
		{"GET", "/v1/tokens/accessToken", 405},
		{"POST", "/v1/tokens/accessToken", 400},
		{"GET", subscriptions, 400},
		{"GET", "/v1/keystone/customer/subscriptions-info?id=C-1001", 400},
		{"GET", "/v1/keystone/customer/subscriptions-info?type=%22customer%22&id=C-1001", 400},
		{"GET", subscriptions + "C-9", 403},
		{"GET", base + "type=customer&id=C-9" + whole, 403},
		{"GET", base + "type=customer&id=C-1001", 400},
		{"GET", base + "type=customer&id=C-1001&from_date_utc=2026-05-01", 400},
		{"GET", base + "type=customer&id=C-1001&From_date_UTC=2026-05-01&to_date_utc=2026-05-02", 400},
		{"GET", history("C-1001", "2026-05-02", "2026-05-01"), 400},
		{"GET", history("C-1001", "01/05/2026", "2026-05-02"), 400},
		{"GET", history("C-1001", "2026-05-01T00:00:00+02:00", "2026-05-02"), 200},
		{"GET", history("C-1999", "2026-05-01", "2026-05-02"), 200},
	} {
		res, err := b.do(c.method, c.path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, res.StatusCode, c.want)
		}
		if c.method != "HEAD" && !json.Valid(body) {
			t.Errorf("%s %s: not JSON: %s", c.method, c.path, body)
		}
	}
	b.access = "something else"
	if status, body := b.get(customers); status != 401 || string(body) != `{"message":"Unauthorized"}` {
		t.Errorf("wrong token: %d %s", status, body)
	}
}

// A row is one sample as it came over the wire.
type row struct {
	committed, consumed, burst, accrued *big.Rat
	invoiced                            bool
	text                                string // all of it, for comparisons
}

// read gathers the samples of one answer by series ("customer/number/level/ordinal") and timestamp.
func read(t *testing.T, tree any, into map[string]map[string]row) (n int) {
	t.Helper()
	rat := func(v any) *big.Rat {
		text := v.(json.Number).String()
		r, ok := new(big.Rat).SetString(text)
		if !ok || len(text) > 40 || strings.ContainsAny(text, "eE") {
			t.Fatalf("number %q", text)
		}
		return r
	}
	results := at(tree, "results")
	records := at(results, "records").([]any)
	if got := at(results, "returned_records").(json.Number).String(); got != fmt.Sprint(len(records)) {
		t.Errorf("returned_records %s, want %d", got, len(records))
	}
	for _, record := range records {
		ordinals := map[string]int{}
		for _, level := range at(record, "service_levels").([]any) {
			name := at(level, "name").(string)
			key := fmt.Sprintf("%s/%s/%s/%d", at(results, "customer", "id"), at(record, "subscription", "number"), name, ordinals[name])
			ordinals[name]++
			if into[key] == nil {
				into[key] = map[string]row{}
			}
			for _, d := range at(level, "historical_consumption").([]any) {
				stamp := at(d, "timestamp_utc").(string)
				if _, twice := into[key][stamp]; twice {
					t.Fatalf("%s: %s came twice", key, stamp)
				}
				r := row{
					rat(at(d, "committed_tib")), rat(at(d, "consumed_tib")), rat(at(d, "burst_tib")), rat(at(d, "accrued_burst_tib")),
					at(d, "is_invoiced").(bool), fmt.Sprint(d),
				}
				over := new(big.Rat).Sub(r.consumed, r.committed)
				if over.Sign() < 0 {
					over.SetInt64(0)
				}
				if r.burst.Cmp(over) != 0 {
					t.Errorf("%s %s: burst is not what consumed exceeds committed by: %s", key, stamp, r.text)
				}
				into[key][stamp] = r
				n++
			}
		}
	}
	return n
}

func TestOracleAgreesWithTheAnswers(t *testing.T) {
	t.Parallel()
	date := func(month time.Month, day int) time.Time { return time.Date(2026, month, day, 0, 0, 0, 0, time.UTC) }
	for name, c := range map[string]struct {
		cfg         keystonesim.Config
		from, until time.Time
	}{
		"default": {keystonesim.Config{}, date(2, 10), date(2, 20)},
		"all switches": {keystonesim.Config{Running: true, Restate: true, Oddities: true, Clean: true, TwoMinute: true,
			Customers: 4, Start: date(5, 1)}, date(4, 20), date(5, 18)},
		"daily": {keystonesim.Config{DailyOnly: true, Restate: true, Start: date(-9, 1)}, date(-11, 1), date(6, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, from, until := newBench(t, c.cfg), c.from, c.until
			samples := map[string]map[string]row{}
			for _, c := range b.sim.Customers() {
				read(t, b.tree(days(c.ID, from, until)), samples)
			}
			want := totals(samples)
			got := b.sim.Oracle(from, until)
			if len(got) != len(want) {
				t.Errorf("oracle has %d days, the answers %d", len(got), len(want))
			}
			longest := 0
			for _, d := range got {
				key := fmt.Sprintf("%s/%s/%s/%d %s", d.CustomerID, d.SubscriptionNumber, d.ServiceLevel, d.Ordinal, d.Day.Format(time.DateOnly))
				if !reflect.DeepEqual(d, want[key]) {
					t.Fatalf("%s\n got %+v\nwant %+v", key, d, want[key])
				}
				longest = max(longest, len(d.ConsumedLast))
			}
			if longest < 33 {
				t.Errorf("longest figure has %d characters, want one with thirty decimals", longest)
			}
		})
	}
}

// totals sums the samples day by day with big.Rat, sharing nothing with the oracle.
func totals(samples map[string]map[string]row) map[string]keystonesim.DayTotal {
	type bucket struct {
		keystonesim.DayTotal
		rows []string
	}
	buckets := map[string]*bucket{}
	for series, rows := range samples {
		for stamp := range rows {
			key := series + " " + stamp[:10]
			if buckets[key] == nil {
				parts := strings.Split(series, "/")
				var ordinal int
				fmt.Sscan(parts[3], &ordinal)
				day, _ := time.Parse(time.DateOnly, stamp[:10])
				buckets[key] = &bucket{DayTotal: keystonesim.DayTotal{CustomerID: parts[0], SubscriptionNumber: parts[1], ServiceLevel: parts[2], Ordinal: ordinal, Day: day}}
			}
			buckets[key].rows = append(buckets[key].rows, stamp)
		}
	}
	all := map[string]keystonesim.DayTotal{}
	for key, b := range buckets {
		rows := samples[strings.TrimSuffix(key, key[len(key)-11:])]
		slices.Sort(b.rows)
		consumed, burst, over, accrued := new(big.Rat), new(big.Rat), new(big.Rat), new(big.Rat)
		var biggest *big.Rat
		invoiced := true
		for _, stamp := range b.rows {
			r := rows[stamp]
			consumed.Add(consumed, r.consumed)
			burst.Add(burst, r.burst)
			accrued.Add(accrued, r.accrued)
			if diff := new(big.Rat).Sub(r.consumed, r.committed); diff.Sign() > 0 {
				over.Add(over, diff)
			}
			if biggest == nil || r.consumed.Cmp(biggest) > 0 {
				biggest = r.consumed
			}
			invoiced = invoiced && r.invoiced
		}
		n := big.NewRat(int64(len(b.rows)), 1)
		last := rows[b.rows[len(b.rows)-1]]
		d := b.DayTotal
		d.Samples = len(b.rows)
		d.CommittedLast, d.ConsumedLast, d.AccruedLast = plain(last.committed, 40), plain(last.consumed, 40), plain(last.accrued, 40)
		d.ConsumedSum, d.ConsumedMax, d.BurstSum, d.AccruedSum = plain(consumed, 40), plain(biggest, 40), plain(burst, 40), plain(accrued, 40)
		d.ConsumedAvg, d.BurstAvg, d.OverCommittedAvg = plain(consumed.Quo(consumed, n), 12), plain(burst.Quo(burst, n), 12), plain(over.Quo(over, n), 12)
		d.Invoiced = &invoiced
		all[key] = d
	}
	return all
}

// plain is r with so many decimals (FloatString rounds half away from zero), without trailing zeros.
func plain(r *big.Rat, places int) string {
	return strings.TrimSuffix(strings.TrimRight(r.FloatString(places), "0"), ".")
}

func TestWindowsInPieces(t *testing.T) {
	t.Parallel()
	for _, running := range []bool{false, true} {
		b := newBench(t, keystonesim.Config{Running: running, Restate: true})
		from, until := time.Date(2026, 3, 26, 0, 0, 0, 0, time.UTC), time.Date(2026, 4, 6, 0, 0, 0, 0, time.UTC)
		whole, pieces := map[string]map[string]row{}, map[string]map[string]row{}
		for _, c := range b.sim.Customers() {
			n := read(t, b.tree(days(c.ID, from, until)), whole)
			var m int
			for at, step := from, 1; at.Before(until); step = step%4 + 1 {
				end := at.AddDate(0, 0, step)
				if end.After(until) {
					end = until
				}
				m += read(t, b.tree(days(c.ID, at, end)), pieces)
				at = end
			}
			if n != m {
				t.Errorf("running=%v %s: %d samples at once, %d in pieces", running, c.ID, n, m)
			}
		}
		for series, rows := range whole {
			for stamp, r := range rows {
				if got := pieces[series][stamp].text; got != r.text {
					t.Fatalf("running=%v %s %s: %s in a piece, %s in the whole", running, series, stamp, got, r.text)
				}
			}
		}
	}
}

// Both ends of a window count, a date alone is the whole day, and nothing is
// told of the future or of the time before the start.
func TestWindowEdges(t *testing.T) {
	t.Parallel()
	b := newBench(t, keystonesim.Config{})
	count := func(from, to string) int {
		all := map[string]map[string]row{}
		read(t, b.tree(history("C-1001", from, to)), all)
		return len(all["C-1001/A-S00041207/Extreme/0"])
	}
	for _, c := range []struct {
		from, to string
		want     int
	}{
		{"2026-05-01", "2026-05-01", 288},
		{"2026-05-01T00:00:00Z", "2026-05-02T00:00:00Z", 289},
		{"2026-05-01T00:00:01Z", "2026-05-01T00:10:00Z", 2},
		{"2026-05-01T02:00:00+02:00", "2026-05-01T00:00:00.5Z", 1},
		{"2026-05-15", "2026-06-30", 145},
		{"2020-01-01", "2026-01-14", 0},
		{"2020-01-01", "2026-01-15", 288}, // 120 days before the clock
	} {
		if got := count(c.from, c.to); got != c.want {
			t.Errorf("%s to %s: %d samples, want %d", c.from, c.to, got, c.want)
		}
	}
}

func TestScenario(t *testing.T) {
	t.Parallel()
	b := newBench(t, keystonesim.Config{})
	until := noon.Truncate(24 * time.Hour)
	totals := b.sim.Oracle(until.AddDate(0, 0, -90), until)
	samples, committed, ordinals, bursts, missing := 0, map[string]bool{}, 0, 0, 90
	for _, d := range totals {
		samples += d.Samples
		ordinals = max(ordinals, d.Ordinal)
		if d.BurstSum != "0" {
			bursts++
		}
		if d.SubscriptionNumber == "1930061200-PROD" && d.ServiceLevel == "Standard" {
			committed[d.CommittedLast] = true
		}
		if d.SubscriptionNumber == "A-S00060018" && d.ServiceLevel == "Standard" {
			missing--
		}
		if strings.HasPrefix(d.ConsumedSum, "-") || strings.HasPrefix(d.ConsumedMax, "-") {
			t.Errorf("negative day without Oddities: %+v", d)
		}
	}
	if samples < 78_000 || samples > 100_000 {
		t.Errorf("90 days have %d samples, want 80 to 100 thousand", samples)
	}
	if !committed["100"] || !committed["125"] || ordinals != 1 || missing == 0 || bursts == 0 || bursts == len(totals) {
		t.Errorf("committed %v, ordinals up to %d, %d missing days, %d of %d days burst", committed, ordinals, missing, bursts, len(totals))
	}
	t.Logf("90 days: %d samples, %d series-days, %d with burst", samples, len(totals), bursts)

	terms := at(b.tree(subscriptions+"0042117"), "0", "results", "records").([]any)
	if got := at(terms[0], "subscription", "end_date"); got != "Month-on-month" {
		t.Errorf("end of the month-to-month subscription %v", got)
	}
	odd := newBench(t, keystonesim.Config{Oddities: true})
	negative := 0
	for _, d := range odd.sim.Oracle(noon.AddDate(0, 0, -125), noon) {
		if all := map[string]map[string]row{}; d.ServiceLevel == "Performance" && d.Day.Equal(time.Date(2026, 1, 17, 0, 0, 0, 0, time.UTC)) {
			read(t, odd.tree(days(d.CustomerID, d.Day, d.Day.AddDate(0, 0, 1))), all)
			for _, rows := range all {
				for _, r := range rows {
					if r.consumed.Sign() < 0 {
						negative++
					}
				}
			}
		}
	}
	if negative != 1 {
		t.Errorf("%d negative readings with Oddities, want 1", negative)
	}
}

// The vendor's own example and the figures computed from its formula (for a
// constant 20 TiB) bound what an increment can be; here the sum of a month's
// increments must be its mean burst.
func TestAccruedIsTheMonthsMeanBurst(t *testing.T) {
	t.Parallel()
	for _, running := range []bool{false, true} {
		b := newBench(t, keystonesim.Config{Running: running})
		from, until := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
		var accrued, burst big.Rat
		for _, d := range b.sim.Oracle(from, until) {
			if d.SubscriptionNumber != "A-S00052993" || d.ServiceLevel != "Extreme" {
				continue
			}
			a, _ := new(big.Rat).SetString(d.AccruedSum)
			if running {
				accrued.SetString(d.AccruedLast)
			} else {
				accrued.Add(&accrued, a)
			}
			s, _ := new(big.Rat).SetString(d.BurstSum)
			burst.Add(&burst, s)
		}
		burst.Quo(&burst, big.NewRat(30*24, 1))
		diff := new(big.Rat).Sub(&burst, &accrued)
		if diff.Abs(diff).Cmp(big.NewRat(1, 1_000_000)) > 0 || accrued.Sign() == 0 {
			t.Errorf("running=%v: accrued %s, mean burst %s", running, accrued.FloatString(9), burst.FloatString(9))
		}
	}
}

func TestCurrentIsTheLastSample(t *testing.T) {
	t.Parallel()
	b := newBench(t, keystonesim.Config{})
	month := map[string]*big.Rat{}
	last := map[string]keystonesim.DayTotal{}
	for _, d := range b.sim.Oracle(time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC), noon.AddDate(0, 0, 1)) {
		key := fmt.Sprint(d.CustomerID, d.SubscriptionNumber, d.ServiceLevel, d.Ordinal)
		a, _ := new(big.Rat).SetString(d.AccruedSum)
		if month[key] == nil {
			month[key] = new(big.Rat)
		}
		month[key].Add(month[key], a)
		last[key] = d
	}
	seen := 0
	for _, c := range b.sim.Customers() {
		for _, record := range at(b.tree(current+c.ID), "result", "records").([]any) {
			ordinals := map[string]int{}
			for _, level := range at(record, "service_levels").([]any) {
				name := at(level, "name").(string)
				key := fmt.Sprint(c.ID, at(record, "subscription", "number"), name, ordinals[name])
				ordinals[name]++
				seen++
				if at(level, "consumed_tib") != last[key].ConsumedLast || at(level, "committed_tib") != last[key].CommittedLast ||
					at(level, "accrued_burst_tib") != plain(month[key], 9) {
					t.Errorf("%s: %v, want %+v accrued %s", key, level, last[key], plain(month[key], 9))
				}
			}
		}
	}
	if seen != len(last) {
		t.Errorf("%d levels now, %d in history", seen, len(last))
	}
}

func TestWhatTheClockMoves(t *testing.T) {
	t.Parallel()
	b := newBench(t, keystonesim.Config{DailyOnly: true, Restate: true})
	april, may := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	b.now.Add(time.Date(2026, 5, 5, 23, 59, 59, 0, time.UTC).Sub(noon))
	for _, d := range b.sim.Oracle(april, may) {
		if *d.Invoiced {
			t.Fatalf("April is invoiced at %v", b.now.Now())
		}
	}
	b.now.Add(time.Second)
	for _, d := range b.sim.Oracle(april, may.AddDate(0, 0, 5)) {
		if *d.Invoiced != d.Day.Before(may) {
			t.Fatalf("invoiced=%v for %v at %v", *d.Invoiced, d.Day, b.now.Now())
		}
	}

	// The evening before a day's fourth morning it still has its old figures.
	fresh := map[string]string{}
	changed := 0
	key := func(d keystonesim.DayTotal) string {
		return fmt.Sprint(d.CustomerID, d.SubscriptionNumber, d.ServiceLevel, d.Ordinal, d.Day)
	}
	day := may.AddDate(0, 0, 4)
	b.now.Add(day.AddDate(0, 0, 4).Add(-time.Second).Sub(b.now.Now()))
	for _, d := range b.sim.Oracle(april, day.AddDate(0, 0, 1)) {
		fresh[key(d)] = d.ConsumedLast
	}
	b.now.Add(time.Second)
	for _, d := range b.sim.Oracle(april, day.AddDate(0, 0, 1)) {
		if fresh[key(d)] == d.ConsumedLast {
			continue
		}
		if changed++; !d.Day.Equal(day) {
			t.Errorf("%v changed at %v", d.Day, b.now.Now())
		}
	}
	plain := newBench(t, keystonesim.Config{DailyOnly: true})
	for _, d := range plain.sim.Oracle(april, may) {
		fresh["plain"+key(d)] = d.ConsumedLast
	}
	for _, d := range b.sim.Oracle(april, may) {
		if fresh["plain"+key(d)] != d.ConsumedLast {
			changed++
		}
	}
	if changed == 0 || changed > 60 {
		t.Errorf("%d restated days in April, want some", changed)
	}
}

func TestShuffleKeepsTheFigures(t *testing.T) {
	t.Parallel()
	b := newBench(t, keystonesim.Config{DailyOnly: true, Shuffle: true})
	from := noon.AddDate(0, 0, -10).Truncate(24 * time.Hour)
	orders := map[string]bool{}
	for range 8 {
		var order []string
		for _, level := range at(b.tree(days("C-1001", from, from.AddDate(0, 0, 1))), "results", "records", "0", "service_levels").([]any) {
			order = append(order, fmt.Sprint(at(level, "name"), at(level, "historical_consumption", "0", "consumed_tib")))
		}
		orders[strings.Join(order, " ")] = true
		slices.Sort(order)
		orders["sorted "+strings.Join(order, " ")] = true
		b.now.Add(24 * time.Hour)
	}
	if len(orders) < 4 {
		t.Errorf("eight days gave %d orders", len(orders)-1)
	}
	sorted := 0
	for order := range orders {
		if strings.HasPrefix(order, "sorted ") {
			sorted++
		}
	}
	if sorted != 1 {
		t.Errorf("the figures changed with the order")
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	b := newBench(t, keystonesim.Config{DailyOnly: true})
	token := b.sim.RefreshToken()
	var wins, group = make(chan int, 8), sync.WaitGroup{}
	for range 8 {
		group.Go(func() {
			status, _, _ := b.exchange(token)
			wins <- status
			b.tree(customers)
			b.sim.Requests()
		})
	}
	group.Wait()
	close(wins)
	won := 0
	for status := range wins {
		if status == 200 {
			won++
		}
	}
	if won != 1 {
		t.Errorf("%d of 8 exchanges with one token succeeded", won)
	}
	for _, r := range b.sim.Requests() {
		if r.End.Before(r.Start) || r.Status == 0 || r.Method == "" {
			t.Errorf("log line %+v", r)
		}
	}
}

func BenchmarkMonth(b *testing.B) {
	sim := keystonesim.New(keystonesim.Config{Now: func() time.Time { return noon }, Seed: 7})
	pair := httptest.NewRecorder()
	exchange := httptest.NewRequest("POST", "/v1/tokens/accessToken", strings.NewReader(`{"refresh_token":"`+sim.RefreshToken()+`"}`))
	exchange.Header.Set("Content-Type", "application/json")
	sim.ServeHTTP(pair, exchange)
	var tokens map[string]string
	if err := json.Unmarshal(pair.Body.Bytes(), &tokens); err != nil {
		b.Fatal(err)
	}
	for _, id := range []string{"C-1001", "0042117"} {
		b.Run(id, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				r := httptest.NewRequest("GET", history(id, "2026-03-01", "2026-03-31"), nil)
				r.Header.Set("authorizationToken", tokens["access_token"])
				sim.ServeHTTP(w, r)
				b.SetBytes(int64(w.Body.Len()))
			}
		})
	}
}

func Example() {
	sim := keystonesim.New(keystonesim.Config{Seed: 1})
	server := httptest.NewServer(sim)
	defer server.Close()
	body := strings.NewReader(`{"refresh_token":"` + sim.RefreshToken() + `"}`)
	res, err := http.Post(server.URL+"/v1/tokens/accessToken", "application/json", body)
	if err != nil {
		panic(err)
	}
	defer res.Body.Close()
	for _, r := range sim.Requests() {
		fmt.Println(r.Method, r.Path, r.Credential, r.Status)
	}
	// Output: POST /v1/tokens/accessToken refresh 200
}
