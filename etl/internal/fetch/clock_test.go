package fetch

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"meterhouse/etl"
)

// V18: the vendor's clock, by one answer that took from 12:00:00.900 to 12:03:00.100 on ours.
func TestVendorClock(t *testing.T) {
	t.Parallel()
	sending := time.Date(2026, 5, 15, 12, 0, 0, 900e6, time.UTC)
	received := time.Date(2026, 5, 15, 12, 3, 0, 100e6, time.UTC)
	dated := func(date string) http.Header { return http.Header{"Date": {"Fri, 15 May 2026 " + date + " GMT"}} }
	aged := func(date string, age ...string) http.Header {
		h := dated(date)
		h["Age"] = age
		return h
	}
	for name, c := range map[string]struct {
		header http.Header
		token  bool
		want   string
	}{
		"while it was sent, cut to seconds": {header: dated("12:00:00")},
		"while it came":                     {header: dated("12:03:00")},
		"in between":                        {header: dated("12:01:30")},
		"2 min before":                      {header: dated("11:58:00")},
		"more before":                       {header: dated("11:57:59"), want: "2m1s behind"},
		"2 min after":                       {header: dated("12:05:00")},
		"more after":                        {header: dated("12:05:01"), want: "2m1s ahead of"},
		"by a clock at its beginning":       {header: http.Header{"Date": {"Mon, 01 Jan 0001 00:00:00 GMT"}}, want: "2562047h47m16.854775807s behind"},
		"in an obsolete spelling":           {header: http.Header{"Date": {"Friday, 15-May-26 11:00:00 GMT"}}, want: "1h0m0s behind"},
		"twice":                             {header: http.Header{"Date": {"Fri, 15 May 2026 12:00:00 GMT", "Fri, 15 May 2026 11:00:00 GMT"}}},
		"by a cache":                        {header: aged("11:00:00", "3600")},
		"by a cache whose clock is right":   {header: aged("12:00:00", "0")},
		"by a cache too late":               {header: aged("12:00:00", "400"), want: "3m40s ahead of"},
		"by a cache of two ages":            {header: aged("11:00:00", "3600", "1")},
		"by a cache of no age":              {header: aged("11:00:00", "")},
		"by a cache of a negative age":      {header: aged("11:00:00", "-1")},
		"by a cache of an age beyond all":   {header: aged("11:00:00", "99999999999999999999")},
		"of a token exchange":               {header: dated("09:00:00"), token: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for name, values := range c.header {
					w.Header()[name] = values
				}
			}))
			t.Cleanup(srv.Close)
			var looks int
			client := client(t, Config{
				Now: func() time.Time { return sending.AddDate(-1, 0, 0) },
				Wall: func() time.Time {
					if looks++; looks == 1 {
						return sending
					}
					return received
				},
			})
			call := call(t, srv.URL)
			call.Token = c.token
			res, err := client.Do(t.Context(), call)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			want := etl.Warning{}
			if c.want != "" {
				want = etl.Warning{Count: 1, FirstPath: strings.TrimPrefix(srv.URL, "http://") + ", " + c.want + " our clock"}
			}
			if got := res.Warnings[etl.VendorClockSkewed]; got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}
