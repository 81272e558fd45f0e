package billing

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"meterhouse/etl"
)

// Months are closed, reopened and closed again while the vendor restates their days, prices, calendars,
// readings and decisions change, in any order: what is closed never moves, every hash stays right, and
// what months show and what is adjusted of them come to what is computed, line by line.
func TestClosedPlusAdjustmentsIsNow(t *testing.T) {
	t.Parallel()
	for seed := range seedsOfCloses() {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			runClosing(t, uint64(seed), 12)
		})
	}
}

// seedsOfCloses is one; METERHOUSE_TEST_CLOSES asks for more.
func seedsOfCloses() int {
	if n, err := strconv.Atoi(os.Getenv("METERHOUSE_TEST_CLOSES")); err == nil {
		return n
	}
	return 1
}

func runClosing(t *testing.T, seed uint64, steps int) {
	r := rand.New(rand.NewPCG(seed, 6))
	o := closable(t)
	// A second subscription with two instances of a level, a calendar that crosses months and a waiver, prices that make fractions.
	o.exec(`insert into dw.dim_subscription (subscription_key, customer_key, subscription_number, first_seen_at, start_at) overriding system value values (2, 1, 'A-2', now(), '2026-01-10')`)
	o.exec(`insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_ordinal, level_class) overriding system value
		values (2, 1, 2, 'Premium', 0, 'base'), (3, 1, 2, 'Premium', 1, 'base')`)
	o.exec(`insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, step_seconds, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, invoiced_samples, uninvoiced_samples, digest, known_since, payload_id, run_id)
		select 1, l, d, 1, 86400, 33.3 * l, 40, 40, 40, 7, 0.07 * l, 0.07 * l, 0, 0, 'd', d + interval '27 hours', 1, 1
		from generate_series(2, 3) as l cross join generate_series(timestamp '2026-02-01', timestamp '2026-03-31', interval '1 day') as d`)
	o.exec(`update dw.fact_daily_consumption set accrued_last_tib = extract(day from usage_date) * 0.3`)
	levels := []string{"Extreme", "Premium"}
	subscription := map[string]string{"Extreme": "A-1", "Premium": "A-2"}
	months := []string{"2026-02", "2026-03"}
	frozen := map[int64]string{} // what each close froze
	shape := func() map[int64]string {
		all := map[int64]string{}
		for _, line := range o.rows(`select link || ' ' || string_agg(encode(sha256, 'hex') || amount::text, '' order by line_no) from billing.closed_line group by link`) {
			link, text, _ := strings.Cut(line, " ")
			n, _ := strconv.ParseInt(link, 10, 64)
			all[n] = text
		}
		return all
	}
	for step := range steps {
		o.now = o.now.Add(time.Duration(1+r.IntN(40)) * time.Hour)
		o.clock(o.now.Format(time.RFC3339))
		day := fmt.Sprintf("%s-%02d", months[r.IntN(2)], 1+r.IntN(28))
		level := levels[r.IntN(2)]
		var did string
		switch r.IntN(9) {
		case 0, 1:
			did = "restated " + day
			kind := []string{"restated", "late"}[r.IntN(2)]
			o.change(kind, day, fmt.Sprintf("committed_tib = committed_tib + %d.%02d, accrued_sum_tib = accrued_sum_tib + 0.0%d, accrued_last_tib = accrued_last_tib + 0.01", r.IntN(9)-3, r.IntN(100), r.IntN(10)))
		case 2:
			price := fmt.Sprintf("%d.%03d", r.IntN(20), r.IntN(1000))
			currency := []string{"USD", "USD", "JPY", "KWD"}[r.IntN(4)]
			did = "price " + price + " " + currency + " from " + day
			if _, err := o.ImportRates(t.Context(), []Rate{
				rate("keystone/////committed 10.01 USD 2026-01-01"), rate("keystone/////burst 3.333 USD 2026-01-01"),
				rate("keystone////" + level + "/committed " + price + " " + currency + " " + day), rate("keystone////" + level + "/burst/waiver " + price + " USD 2026-01-01"),
			}, true, false); err != nil {
				t.Fatal(err)
			}
		case 3:
			did = "absent " + day
			o.exec(`update dw.fact_daily_consumption set absent_since = $1 where usage_date = $2::text::date and service_level_key = 1`, o.now, day)
			gone, err := etl.ParseDay(day)
			if err != nil {
				t.Fatal(err)
			}
			if err := o.DecideAbsence(t.Context(), Absence{"C-1", "A-1", "", "Extreme", 0, gone, gone, []string{"keep", "drop"}[r.IntN(2)], "test"}); err != nil {
				t.Fatal(err)
			}
		case 4:
			reading := []string{"running", "increment"}[r.IntN(2)]
			did = "reading " + reading
			if _, err := o.SetAccruedReading(t.Context(), "acme", month(day[:7]), reading, "jane", "test"); err != nil {
				t.Fatal(err)
			}
		case 5:
			did = "calendar of " + level
			o.exec(`update billing.period set superseded_at = $1 where superseded_at is null and subscription_number = $2`, o.now, subscription[level])
			if cut := 5 + r.IntN(20); r.IntN(3) > 0 {
				for _, clock := range []string{"committed", "burst"} {
					o.exec(`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since) values
						('C-1', $1, $2, '2026-02-01', $3::text::date, 'monthly', 'test', $4), ('C-1', $1, $2, $3::text::date + 1, '2026-03-31', 'monthly', 'test', $4)`,
						subscription[level], clock, fmt.Sprintf("2026-%02d-%02d", 2+r.IntN(2), cut), o.now)
				}
			}
		case 6:
			did = "terms"
			o.exec(`update dw.dim_subscription set start_at = $1::text::date where subscription_key = 2`, fmt.Sprintf("2026-01-%02d", 1+r.IntN(28)))
		default:
			m := months[r.IntN(2)]
			if o.rows(`select billing.is_closed($1)::text`, m)[0] == "true" {
				did = "reopen " + m
				o.reopen(m)
			} else {
				did = "close " + m
				o.close(m, "whatever stands against it")
			}
		}
		// Not all seeds get to it early by themselves.
		if m := map[int]string{1: "2026-02", 4: "2026-03"}[step]; m != "" && o.rows(`select billing.is_closed($1)::text`, m)[0] == "false" {
			did += ", close " + m
			o.close(m, "whatever stands against it")
		}
		now := shape()
		for link, text := range frozen {
			if now[link] != text {
				t.Errorf("step %d, %s: the lines of link %d moved", step, did, link)
			}
		}
		frozen = now
		o.whole(fmt.Sprintf("seed %d step %d, %s", seed, step, did))
		if step%4 == 3 {
			o.focusIsWhole("2026-02", "2026-03", "2026-04")
		}
		if t.Failed() {
			return
		}
	}
	if len(frozen) == 0 {
		t.Error("nothing was closed")
	}
}
