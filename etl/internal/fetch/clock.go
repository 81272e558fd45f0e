package fetch

import (
	"net/http"
	"strconv"
	"time"
)

// maxClockSkew is how far a vendor's clock may be off before its answers are marked.
const maxClockSkew = 120 * time.Second

// clockSkew is the vendor's clock minus ours, as well as one exchange can tell: how far the Date of its answer is
// from the time between sending the request and having the headers, 0 within. A Date is cut to seconds. Behind a
// cache, which says so by an Age, it is that many seconds old. What cannot be read tells nothing.
func clockSkew(h http.Header, sending, received time.Time) time.Duration {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0
	}
	if ages := h.Values("Age"); len(ages) > 0 {
		seconds, err := strconv.ParseUint(ages[0], 10, 31)
		if err != nil {
			return 0
		}
		date = date.Add(time.Duration(seconds) * time.Second)
	}
	switch sending = sending.Truncate(time.Second); {
	case date.Before(sending):
		return date.Sub(sending)
	case date.After(received):
		return date.Sub(received)
	}
	return 0
}

// spelledSkew is such as "api.example.com, 3h0m0s behind our clock".
func spelledSkew(host string, skew time.Duration) string {
	direction := " ahead of"
	if skew < 0 {
		direction = " behind"
	}
	return host + ", " + skew.Abs().Round(time.Second).String() + direction + " our clock"
}
