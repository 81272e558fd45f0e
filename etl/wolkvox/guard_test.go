package wolkvox

import (
	"errors"
	"strings"
	"testing"
	"time"

	"meterhouse/etl"
)

// What the vendor refused before holds back what comes: a function of the newest calls and now.
func TestHold(t *testing.T) {
	a := account(t, nil) // America/Bogota, UTC-5
	// said makes the newest calls, oldest first, as outcome@time.
	said := func(calls ...string) (recent []etl.Call) {
		for _, text := range calls {
			outcome, at, _ := strings.Cut(text, "@")
			c := etl.Call{Outcome: outcome, StartedAt: moment(t, at)}
			c.EndedAt = c.StartedAt.Add(time.Second)
			recent = append([]etl.Call{c}, recent...)
		}
		return recent
	}
	const (
		day     = "2026-05-15T"
		evening = "2026-05-31T22:" // local, of the last day
	)
	for _, c := range []struct {
		name   string
		calls  []string
		forced string
		now    string
		until  string // "": not held
		class  error
	}{
		{"nothing was ever asked", nil, "", day + "12:00:00Z", "", nil},
		{"all is well", []string{"ok@" + day + "12:00:00Z"}, "", day + "12:00:05Z", "", nil},
		{"an answer without data", []string{"no_data@" + day + "12:00:00Z"}, "", day + "12:00:05Z", "", nil},
		{"failures that say nothing about the next call", []string{"transient@" + day + "12:00:00Z", "lost@" + day + "12:01:00Z", "timeout@" + day + "12:02:00Z", "interrupted@" + day + "12:03:00Z", "concurrency@" + day + "12:04:00Z"}, "", day + "12:05:00Z", "", nil},

		{"quota until the next local day", []string{"quota_exceeded@" + day + "12:00:00Z"}, "", day + "12:30:00Z", "2026-05-16T00:00:00-05:00", etl.ErrThrottled},
		{"quota, still", []string{"quota_exceeded@" + day + "12:00:00Z"}, "", "2026-05-15T23:59:59-05:00", "2026-05-16T00:00:00-05:00", etl.ErrThrottled},
		{"quota, over", []string{"quota_exceeded@" + day + "12:00:00Z"}, "", "2026-05-16T00:00:00-05:00", "", nil},
		{"quota, answered since", []string{"quota_exceeded@" + day + "12:00:00Z", "ok@" + day + "12:20:00Z"}, "", day + "12:30:00Z", "", nil},
		{"quota, something else failed since", []string{"quota_exceeded@" + day + "12:00:00Z", "transient@" + day + "12:20:00Z"}, "", day + "12:30:00Z", "2026-05-16T00:00:00-05:00", etl.ErrThrottled},
		{"quota, a person insists", []string{"quota_exceeded@" + day + "12:00:00Z"}, day + "12:30:00Z", day + "12:30:00Z", "", nil},
		{"quota, refused after a person insisted", []string{"quota_exceeded@" + day + "12:00:00Z", "quota_exceeded@" + day + "12:31:00Z"}, day + "12:30:00Z", day + "12:32:00Z", "2026-05-16T00:00:00-05:00", etl.ErrThrottled},
		{"quota at the month's end, before its last readings", []string{"quota_exceeded@" + evening + "00:00-05:00"}, "", evening + "59:00-05:00", "2026-06-01T00:00:00-05:00", etl.ErrThrottled},
		{"one try at 23:05", []string{"quota_exceeded@" + evening + "00:00-05:00"}, "", "2026-05-31T23:05:00-05:00", "", nil},
		{"a late one too", []string{"quota_exceeded@" + evening + "00:00-05:00"}, "", "2026-05-31T23:11:00-05:00", "", nil},
		{"and no second", []string{"quota_exceeded@" + evening + "00:00-05:00", "quota_exceeded@2026-05-31T23:05:01-05:00"}, "", "2026-05-31T23:06:00-05:00", "2026-06-01T00:00:00-05:00", etl.ErrThrottled},
		{"one at 23:25", []string{"quota_exceeded@" + evening + "00:00-05:00", "quota_exceeded@2026-05-31T23:05:01-05:00"}, "", "2026-05-31T23:25:00-05:00", "", nil},
		{"one at 23:45", []string{"quota_exceeded@2026-05-31T23:25:01-05:00"}, "", "2026-05-31T23:45:00-05:00", "", nil},

		{"maintenance", []string{"vendor_maintenance@" + day + "12:00:00Z"}, "", day + "12:14:59Z", day + "12:15:00Z", etl.ErrUnavailable},
		{"maintenance, next try", []string{"vendor_maintenance@" + day + "12:00:00Z"}, "", day + "12:15:00Z", "", nil},
		{"maintenance twice", []string{"vendor_maintenance@" + day + "12:00:00Z", "vendor_maintenance@" + day + "12:15:00Z"}, "", day + "12:16:00Z", day + "12:45:00Z", etl.ErrUnavailable},
		{"maintenance three times", []string{"vendor_maintenance@" + day + "12:00:00Z", "vendor_maintenance@" + day + "12:15:00Z", "vendor_maintenance@" + day + "12:45:00Z"}, "", day + "12:46:00Z", day + "13:45:00Z", etl.ErrUnavailable},
		{"maintenance, then hourly", []string{"vendor_maintenance@" + day + "12:00:00Z", "vendor_maintenance@" + day + "12:15:00Z", "vendor_maintenance@" + day + "12:45:00Z", "vendor_maintenance@" + day + "13:45:00Z"}, "", day + "13:46:00Z", day + "14:45:00Z", etl.ErrUnavailable},
		{"maintenance of before counts no more", []string{"vendor_maintenance@" + day + "12:00:00Z", "ok@" + day + "12:10:00Z", "vendor_maintenance@" + day + "13:00:00Z"}, "", day + "13:01:00Z", day + "13:15:00Z", etl.ErrUnavailable},
		{"maintenance, one try at 23:45", []string{"vendor_maintenance@2026-05-31T22:00:00-05:00", "vendor_maintenance@2026-05-31T22:15:00-05:00", "vendor_maintenance@2026-05-31T23:25:01-05:00"}, "", "2026-05-31T23:45:00-05:00", "", nil},
		{"throttled", []string{"throttled@" + day + "12:00:00Z"}, "", day + "12:01:00Z", day + "12:15:00Z", etl.ErrThrottled},

		{"a bad token, for good", []string{"token_invalid@2026-05-01T12:00:00Z"}, "", day + "12:00:00Z", "2026-05-16T12:00:00Z", etl.ErrUnauthorized},
		{"a bad token at the month's end", []string{"token_invalid@2026-05-01T12:00:00Z"}, "", "2026-05-31T23:25:00-05:00", "2026-06-01T23:25:00-05:00", etl.ErrUnauthorized},
		{"a bad token, a person insists", []string{"token_invalid@2026-05-01T12:00:00Z"}, day + "12:00:00Z", day + "12:00:00Z", "", nil},
		{"a bad token, accepted since", []string{"token_invalid@2026-05-01T12:00:00Z", "ok@2026-05-02T12:00:00Z"}, "", day + "12:00:00Z", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := etl.CallLog{Now: moment(t, c.now), Recent: said(c.calls...)}
			var forced time.Time
			if c.forced != "" {
				forced = moment(t, c.forced)
			}
			held := a.hold(log, forced)
			switch {
			case c.until == "" && held != nil:
				t.Errorf("held: %v", held)
			case c.until == "":
			case held == nil || !held.Until.Equal(moment(t, c.until)) || !errors.Is(held, c.class):
				t.Errorf("got %v (%v), want until %s for %v", held, errors.Unwrap(held), c.until, c.class)
			}
		})
	}
	t.Run("as long as the vendor asked", func(t *testing.T) {
		log := etl.CallLog{Now: moment(t, "2026-05-31T23:05:00-05:00"), Recent: said("throttled@2026-05-31T22:00:00-05:00")}
		log.Recent[0].RetryAt = moment(t, "2026-06-01T01:00:00-05:00")
		if held := a.hold(log, time.Time{}); held == nil || !held.Until.Equal(log.Recent[0].RetryAt) {
			t.Errorf("got %v", held)
		}
	})
}

// A clock that was set back, or was read before a wait, puts the call under way behind one that ended.
func TestTurnAfterAClockSetBack(t *testing.T) {
	now := moment(t, "2026-05-15T12:00:00Z")
	a := account(t, func(cfg *Config) { cfg.RealNow = func() time.Time { return now } })
	log := etl.CallLog{Now: now, Recent: []etl.Call{
		{StartedAt: now.Add(2 * time.Second), EndedAt: now.Add(3 * time.Second), Outcome: etl.CallOK},
		{StartedAt: now.Add(-time.Second)},
	}}
	if err := a.mayCall(log, "vision"); !errors.Is(err, errTurn) {
		t.Errorf("got %v beside a call under way, want %v", err, errTurn)
	}
	log.Recent[1].EndedAt = now
	if err := a.mayCall(log, "vision"); err != nil {
		t.Errorf("got %v, want its turn", err)
	}
}

// A whole reading must fit into what is left of the day's calls, and at the end of a month its last
// readings come first.
func TestBudget(t *testing.T) {
	a := account(t, nil)
	products := []string{"a", "b", "c"}
	// A log of n calls, one a minute, up to a minute ago.
	log := func(now string, n int, limit, elsewhere int64) etl.CallLog {
		l := etl.CallLog{Now: moment(t, now), Last: map[string]time.Time{}}
		for i := n; i > 0; i-- {
			l.Day = append(l.Day, l.Now.Add(-time.Duration(i)*time.Minute))
			l.Last["a"] = l.Day[len(l.Day)-1]
		}
		l.Quota = etl.Quota{Limit: limit, Elsewhere: elsewhere, ToldAt: l.Now.Add(-time.Hour)}
		return l
	}
	old := log("2026-05-15T12:00:00Z", 200, 100, 0)
	old.Quota.ToldAt = old.Now.Add(-infoCounts - time.Second)
	unknown := log("2026-05-15T12:00:00Z", 200, -1, 0)
	for _, c := range []struct {
		name  string
		log   etl.CallLog
		want  int
		until time.Duration // from now
	}{
		{"enough", log("2026-05-15T12:00:00Z", 97, 100, 0), 3, 0},
		{"one short", log("2026-05-15T12:00:00Z", 98, 100, 0), 0, 24*time.Hour - 98*time.Minute},
		{"three short", log("2026-05-15T12:00:00Z", 100, 100, 0), 0, 24*time.Hour - 98*time.Minute},
		{"others use it", log("2026-05-15T12:00:00Z", 58, 100, 40), 0, 24*time.Hour - 58*time.Minute},
		{"no numbers", unknown, 3, 0},
		{"old numbers", old, 3, 0},
		{"a reading never fits", log("2026-05-15T12:00:00Z", 0, 2, 0), 2, 0},
		{"a reading never fits, and nothing is left", log("2026-05-15T12:00:00Z", 2, 2, 0), 0, 24*time.Hour - 2*time.Minute},
		{"the last but third day", log("2026-05-29T23:59:00-05:00", 97, 100, 0), 3, 0},
		{"the last but one: twelve are kept", log("2026-05-30T00:00:00-05:00", 86, 100, 0), 0, 24*time.Hour - 86*time.Minute},
		{"the last but one: enough", log("2026-05-30T00:00:00-05:00", 85, 100, 0), 3, 0},
		{"the last readings take what was kept", log("2026-05-31T23:05:00-05:00", 97, 100, 0), 3, 0},
		{"after the month", log("2026-06-01T00:30:00-05:00", 97, 100, 0), 3, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := a.afford(c.log, products, len(products))
			var held *etl.HeldError
			if len(got) != c.want || (c.want == 0) != errors.As(err, &held) {
				t.Fatalf("%v, %v, want %d", got, err, c.want)
			}
			if held != nil && (held.Until.Sub(c.log.Now) != c.until || !errors.Is(err, etl.ErrThrottled)) {
				t.Errorf("%v: in %s, want in %s", held, held.Until.Sub(c.log.Now), c.until)
			}
		})
	}
}

// The key must not depend on anything but the token, nor tell it.
func TestCredential(t *testing.T) {
	a, b, c := Token(secret), Token(secret), Token(secret+"x")
	if a.credential() != b.credential() || a.credential() == c.credential() || len(a.credential()) != 64 || strings.Contains(a.credential(), secret) {
		t.Errorf("%s, %s, %s", a.credential(), b.credential(), c.credential())
	}
}
