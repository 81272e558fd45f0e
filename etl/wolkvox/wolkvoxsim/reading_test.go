package wolkvoxsim

import (
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// gauges as the vendor's catalogue has them; all others count from month start.
var gauges = " agent_script intelligent_dial gamification amazon_s3 rsync wp_connectors chat_licenses interaction_licenses" +
	" video_call pbx_licenses wp_connectors_official contact_center_licenses "

// timed are the products whose items may be decimals or durations.
var timed = " ivr_minutes rec_minutes rec_screen rec_screen_on_demand speech_analytics stereo_rec nlp_ai "

func isGauge(api string) bool { return strings.Contains(gauges, " "+api+" ") }

func minutes(t *testing.T, number string) *big.Rat {
	t.Helper()
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		t.Fatalf("number %q", number)
	}
	return r
}

// TestOracleEqualsAnswers asks over HTTP across a day change and a month change.
func TestOracleEqualsAnswers(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{Seed: 3})
	for _, at := range []time.Time{noon, noon.Add(17*time.Hour + 5*time.Second), noon.AddDate(0, 0, 17)} {
		b.turn(at)
		want := b.Oracle(at)
		if len(want) != 28 {
			t.Fatalf("%d readings, want 28", len(want))
		}
		for len(want) > 0 {
			api := want[0].API
			for _, row := range rowsOf(t, b.bill(api).body) {
				w := want[0]
				if row["operation"] != w.Operation || row["description"] != w.Description ||
					row["items"] != w.Items || row["date"] != w.DateText || w.API != api {
					t.Errorf("%s at %s: row %v, want %+v", api, at, row, w)
				}
				want = want[1:]
			}
		}
	}
}

func TestSameSeedSameAnswers(t *testing.T) {
	t.Parallel()
	one, two, other := newBench(t, Config{Seed: 5}), newBench(t, Config{Seed: 5}), newBench(t, Config{Seed: 6})
	differs := 0
	for range 3 { // asking does not change the answer
		for _, p := range catalogue {
			first, second := one.bill(p.api).body, two.bill(p.api).body
			if first != second {
				t.Errorf("%s: %s and %s", p.api, first, second)
			}
			if first != other.bill(p.api).body {
				differs++
			}
		}
		two.bill("vision")
	}
	if differs < 60 {
		t.Errorf("another seed differs in %d of 81 answers only", differs)
	}
}

// TestNumberIsItems derives the canonical number from the text a second time,
// and holds the text against the acceptance rules of clean data.
func TestNumberIsItems(t *testing.T) {
	t.Parallel()
	count := regexp.MustCompile(`^(0|[1-9][0-9]{0,11})$`)
	dotted := regexp.MustCompile(`^(0|[1-9][0-9]*)\.[0-9][0-9]$`)
	duration := regexp.MustCompile(`^([0-9]{2,}):([0-5][0-9]):([0-5][0-9])$`)
	canonical := regexp.MustCompile(`^(0|[1-9][0-9]*)(\.[0-9]*[1-9])?$`)
	seen := map[string]bool{}
	s := New(Config{Seed: 11})
	for hour := range 31 * 24 {
		for _, rd := range s.Oracle(time.Date(2026, 5, 1, 5+hour, 17, 23, 0, time.UTC)) {
			want := new(big.Rat)
			switch m := duration.FindStringSubmatch(rd.Items); {
			case count.MatchString(rd.Items):
				seen["whole"] = true
				want = minutes(t, rd.Items)
			case !strings.Contains(timed, " "+rd.API+" "):
				t.Fatalf("%+v: want a whole number", rd)
			case dotted.MatchString(rd.Items):
				seen["decimal"] = true
				want = minutes(t, rd.Items)
			case m != nil:
				h, _ := strconv.ParseInt(m[1], 10, 64)
				mm, _ := strconv.ParseInt(m[2], 10, 64)
				ss, _ := strconv.ParseInt(m[3], 10, 64)
				want.SetFrac64(h*3600+mm*60+ss, 60)
				seen["duration"] = true
				seen["beyond a day"] = seen["beyond a day"] || h > 24
			default:
				t.Fatalf("%+v: items in no known form", rd)
			}
			if !canonical.MatchString(rd.Number) || minutes(t, rd.Number).Cmp(want) != 0 {
				t.Fatalf("%+v: number %s, want %s", rd, rd.Number, want.FloatString(6))
			}
			if isGauge(rd.API) && want.Cmp(big.NewRat(1_000_000, 1)) > 0 {
				t.Fatalf("%+v: beyond the bound of a gauge", rd)
			}
		}
	}
	if len(seen) != 4 {
		t.Errorf("forms seen: %v, want whole, decimal, duration and beyond a day", seen)
	}
}

func TestCountersGrowWithinALocalMonthAndStartAfreshInTheNext(t *testing.T) {
	t.Parallel()
	s := New(Config{Seed: 9})
	zone := s.cfg.Zone
	last, month := map[string]*big.Rat{}, ""
	grew, fell, steps := 0, 0, 0
	for at := noon; at.Before(noon.AddDate(0, 3, 0)); at = at.Add(167 * time.Minute) {
		this := at.In(zone).Format("2006-01")
		for _, rd := range s.Oracle(at) {
			key, n := rd.API+rd.Description, minutes(t, rd.Number)
			if before := last[key]; before != nil {
				switch c := n.Cmp(before); {
				case isGauge(rd.API):
					if c != 0 {
						steps++
					}
				case this != month && c < 0:
					fell++
				case this != month:
					t.Errorf("%s %s: %s did not fall at the start of the month", at, key, rd.Number)
				case c < 0:
					t.Fatalf("%s %s: fell to %s inside the month", at, key, rd.Number)
				case c > 0:
					grew++
				}
			}
			last[key] = n
		}
		month = this
	}
	if fell != 3*16 || grew < 6_000 || steps < 12 || steps > 200 {
		t.Errorf("%d falls at month start, %d rises, %d gauge steps", fell, grew, steps)
	}
}

func TestMonthStartsAtLocalMidnight(t *testing.T) {
	t.Parallel()
	s := New(Config{Seed: 9})
	midnight := time.Date(2026, 6, 1, 5, 0, 0, 0, time.UTC) // in Bogota
	cases := []struct {
		name, date string
		at         time.Time
		zero       bool
	}{
		{"UTC month change", "2026-05-31", time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), false},
		{"last second", "2026-05-31", midnight.Add(-time.Second), false},
		{"first instant", "2026-06-01", midnight, true},
		{"noon of the 1st", "2026-06-01", midnight.Add(12 * time.Hour), false},
	}
	for _, c := range cases {
		for _, rd := range s.Oracle(c.at) {
			if rd.Date != c.date || !strings.HasPrefix(rd.DateText, c.date) {
				t.Errorf("%s: %+v, want the date %s", c.name, rd, c.date)
			}
			if !isGauge(rd.API) && (rd.Number == "0") != c.zero {
				t.Errorf("%s: %s is %s", c.name, rd.API, rd.Items)
			}
		}
	}
}

// TestDaysOfOddLength: a zone with summer time has days of 23 and 25 hours.
func TestDaysOfOddLength(t *testing.T) {
	t.Parallel()
	zone, err := time.LoadLocation("America/Santiago") // changes at midnight
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Zone: zone})
	for _, day := range []time.Time{time.Date(2026, 4, 3, 0, 0, 0, 0, time.UTC), time.Date(2026, 9, 4, 0, 0, 0, 0, time.UTC)} {
		p, _ := find("tts_chars")
		before := int64(0)
		for at := day; at.Before(day.AddDate(0, 0, 4)); at = at.Add(time.Minute) {
			now := s.monthToDate(p, p.rows[0], at.In(zone))
			if now < before {
				t.Fatalf("%s: fell from %d to %d", at.In(zone), before, now)
			}
			before = now
		}
	}
}
