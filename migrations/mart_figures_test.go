package migrations_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/migrations"
)

// oddNow is the business clock of the odd warehouse: a leap year, in the morning, so that yesterday is not
// settled and the days of the zones differ.
const oddNow = "2028-03-17T01:30:00Z"

// oddDay is a day of a level as dw holds it.
type oddDay struct {
	date                       time.Time
	committed, avg, most, over *big.Rat
	accrued, total             *big.Rat // sum and last of the vendor's column; nil: not told
	invoiced                   *bool
	partial                    bool
}

type oddLevel struct {
	key, account, customer string // key is the level as the views name it
	end                    *time.Time
	days                   []oddDay
}

// odd is a warehouse with everything that makes figures of days and months differ: two customers of two accounts,
// numbers that two subscriptions share, renewals in place and by a second subscription, starts that nobody
// told, instances of one name, series that begin and end anywhere, holes, refused samples, figures without
// accrued burst, months read as running totals, answers that told nothing.
type odd struct {
	conn    *pgx.Conn
	levels  []oddLevel
	running map[string]bool // account and month

	// What mart.coverage and mart.license_high_water have to say beside the days of the levels.
	customerDays, productDays, highWater []string
}

func growOdd(t *testing.T, conn *pgx.Conn, seed uint64) *odd {
	t.Helper()
	o := &odd{conn: conn, running: map[string]bool{}}
	r := rand.New(rand.NewPCG(seed, 28))
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	fill := func(table string, rows []map[string]any) {
		t.Helper()
		text, err := json.Marshal(rows)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) > 0 {
			columns := strings.Join(slices.Sorted(maps.Keys(rows[0])), ", ")
			exec(fmt.Sprintf(`insert into %s (%s) overriding system value select %[2]s from json_populate_recordset(null::%[1]s, $1::json)`, table, columns), string(text))
		}
	}
	chance := func(percent int) bool { return r.IntN(100) < percent }
	number := func(most int64) *big.Rat { // with up to twelve decimals
		scale := int64(1)
		for range r.IntN(13) {
			scale *= 10
		}
		return big.NewRat(r.Int64N(most*scale+1), scale)
	}
	base := time.Date(2026, 12, 20, 0, 0, 0, 0, time.UTC)
	now, _ := time.Parse(time.RFC3339, oddNow)
	day := func(n int) time.Time { return base.AddDate(0, 0, n) }
	span := int(now.Sub(base).Hours() / 24) // the day of today

	exec(`set meterhouse.now = '` + oddNow + `'`)
	exec(`insert into ops.run (source, dataset, scope, account, owner, fence, business_at, fetched_at, status, started_at, finished_at)
		values ('keystone', 'keystone.history', 'C-1', 'one', 'odd', 1, now(), now(), 'ok', now(), now())`)
	exec(`insert into billing.rate (vendor, item, charge, is_waiver, unit_price, currency, valid_from, source, known_since)
		select 'keystone', '', charge, false, 10, 'EUR', '2020-01-01', 'odd', '2020-01-01' from unnest(array['committed', 'burst']) as charge`)
	for _, account := range []string{"one", "two"} {
		for m := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC); m.Before(now); m = m.AddDate(0, 1, 0) {
			if chance(30) {
				o.running[account+m.Format(" 2006-01")] = true
				exec(`insert into dw.accrued_reading (account, month, reading, decided_by, reason) values ($1, $2, 'running', 'odd', 'odd')`, account, m)
				exec(`insert into billing.accrued_decision (account, month, reading, decided_by, reason, known_since) values ($1, $2, 'running', 'odd', 'odd', '2020-01-01')`, account, m)
			}
		}
	}
	for c, account := range []string{"one", "two"} {
		customer := fmt.Sprintf("C-%d", c+1)
		exec(`insert into dw.dim_customer (customer_id, account, customer_name, first_seen_at, seen_at) values ($1, $2, $3, $4, $4)`, customer, account, "Name "+customer, base)
		exec(`insert into ops.watermark (source, dataset, scope, account, settle, expected_from) values ('keystone', 'keystone.history', $1, $2, '2 hours', $3)`, customer, account, base)
		var told []map[string]any
		for n := range span + 1 {
			status := []string{"answered", "answered", "answered", "partial", "empty", ""}[r.IntN(6)]
			switch {
			case status == "" && n >= span-1: // neither today nor, at half past one, yesterday
				o.customerDays = append(o.customerDays, fmt.Sprintf("%s %s not_due", customer, day(n).Format(time.DateOnly)))
			case status == "":
				o.customerDays = append(o.customerDays, fmt.Sprintf("%s %s missing", customer, day(n).Format(time.DateOnly)))
			case status != "answered":
				o.customerDays = append(o.customerDays, fmt.Sprintf("%s %s %s", customer, day(n).Format(time.DateOnly), status))
			}
			if status != "" {
				told = append(told, map[string]any{"source": "keystone", "dataset": "keystone.history", "scope": customer, "product": "", "day": day(n).Format(time.DateOnly), "status": status, "run_id": 1})
			}
		}
		fill("ops.coverage", told)
		var ended *time.Time // the subscription before
		for s, name := range []string{"A-1", "A-1 ", "A-2", "A-3"} {
			number1, discriminator := strings.TrimSpace(name), ""
			start, end := day(r.IntN(200)-100), (*time.Time)(nil)
			if s == 1 && ended != nil && chance(70) { // it goes on where the first one of its number ends
				start = ended.AddDate(0, 0, r.IntN(4)-2)
			}
			if chance(60) {
				e := start.AddDate(0, 1+r.IntN(14), r.IntN(3)-1)
				end = &e
			}
			ended = end
			if s == 1 { // the same number: a second site, or one that goes on
				discriminator = start.Format(time.DateOnly)
			}
			told := &start
			if chance(20) {
				told = nil
			}
			exec(`insert into dw.dim_subscription (customer_key, subscription_number, discriminator, start_at, end_at, first_seen_at)
				select customer_key, $2, $3, $4, $5, $6 from dw.dim_customer where customer_id = $1`, customer, number1, discriminator, told, end, base)
			version := `insert into dw.fact_subscription (customer_key, subscription_key, valid_from, valid_to, start_at, end_at, run_id, payload_id)
				select customer_key, max(subscription_key), $1, $2, $3, $4, 1, 1 from dw.dim_subscription group by customer_key order by customer_key desc limit 1`
			switch {
			case chance(30): // renewed in place: the former start is known from the former version, or not at all
				if former := start.AddDate(0, -r.IntN(12), 0); chance(70) {
					exec(version, base, base.AddDate(0, 2, 0), former, start)
				}
				exec(version, base.AddDate(0, 2, 0), nil, told, end)
			case chance(80):
				exec(version, base, nil, told, end)
			}
			for l := range 3 {
				service, ordinal := []string{"Standard", "Standard", "SnapLock"}[l], []int{0, 1, 0}[l]
				var key, customerKey int64
				if err := conn.QueryRow(t.Context(), `insert into dw.dim_service_level (customer_key, subscription_key, service_level, level_ordinal, level_class)
					select customer_key, max(subscription_key), $1, $2, dw.classify_level($1) from dw.dim_subscription group by customer_key order by customer_key desc limit 1
					returning service_level_key, customer_key`, service, ordinal).Scan(&key, &customerKey); err != nil {
					t.Fatal(err)
				}
				level := oddLevel{key: fmt.Sprintf("%s %s/%s %s %d", customer, number1, discriminator, service, ordinal), account: account, customer: customer, end: end}
				first, last := r.IntN(span), r.IntN(span+1)
				if chance(30) {
					first = 0
				}
				if chance(50) {
					last = span
				}
				var rows []map[string]any
				silent := chance(20) // tells no accrued burst now and then
				total := new(big.Rat)
				for n := first; n <= last; n++ {
					if chance(7) {
						continue
					}
					d := oddDay{date: day(n), committed: number(200), avg: number(200), over: new(big.Rat), partial: chance(4)}
					if day(n).Day() == 1 {
						total = new(big.Rat)
					}
					d.most = new(big.Rat).Add(d.avg, number(20))
					if chance(40) {
						d.over = number(9)
					}
					if !silent || !chance(5) {
						d.accrued = number(2)
						total = new(big.Rat).Add(total, d.accrued)
						d.total = total
					}
					if flag := r.IntN(20); flag < 18 {
						invoiced := flag < 16
						d.invoiced = &invoiced
					}
					level.days = append(level.days, d)
					digest := any(fmt.Sprintf(`\x%02x%08x`, l, n))
					if d.partial {
						digest = nil
					}
					rows = append(rows, map[string]any{
						"customer_key": customerKey, "service_level_key": key, "usage_date": d.date.Format(time.DateOnly), "sample_count": 24, "step_seconds": 3600,
						"committed_tib": plain(d.committed), "consumed_avg_tib": plain(d.avg), "consumed_max_tib": plain(d.most), "consumed_last_tib": plain(d.avg),
						"over_committed_avg_tib": plain(d.over), "accrued_sum_tib": plain(d.accrued), "accrued_last_tib": plain(d.total),
						"is_invoiced": d.invoiced, "invoiced_samples": 0, "uninvoiced_samples": 0, "digest": digest,
						"known_since": d.date.AddDate(0, 0, 1).Format(time.RFC3339), "payload_id": 1, "run_id": 1, "restatement_count": 0,
					})
				}
				fill("dw.fact_daily_consumption", rows)
				o.levels = append(o.levels, level)
			}
		}
	}
	o.growLicenses(t, r, base, now, exec, fill)
	return o
}

// growLicenses adds two accounts of wolkvox whose today is another day than that of UTC for one of them.
func (o *odd) growLicenses(t *testing.T, r *rand.Rand, base, now time.Time, exec func(string, ...any), fill func(string, []map[string]any)) {
	t.Helper()
	exec(`insert into dw.dim_product (product_number, api, title, unit, kind) values (9001, 'seats', 'Seats', 'licences', 'gauge'), (9002, 'talk', 'Talk', 'time', 'counter')`)
	for a, zone := range []string{"America/Santiago", "Asia/Kolkata"} {
		account := zone[strings.Index(zone, "/")+1:]
		at, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		local := now.In(at).Format(time.DateOnly)
		exec(`insert into ops.watermark (source, dataset, scope, account, zone) values ('wolkvox', 'wolkvox.billing', $1, $1, $2)`, account, zone)
		exec(`insert into dw.dim_operation (account, operation, server, zone, first_seen_at) values ($1, 'Operation', '0039', $2, $3)`, account, zone, base)
		for p, product := range []string{"seats", "talk"} {
			var told, read []map[string]any
			asked, last := "", map[string]string{}
			first := r.IntN(100)
			for n := first; ; n++ {
				date := base.AddDate(0, 0, n).Format(time.DateOnly)
				if date > local {
					break
				}
				status := []string{"answered", "answered", "answered", "partial", "empty", "imported", ""}[r.IntN(7)]
				if n < first+20 && status != "" {
					status = "imported"
				}
				if date == local { // not read yet
					status = ""
				}
				if status != "" {
					told = append(told, map[string]any{"source": "wolkvox", "dataset": "wolkvox.billing", "scope": account, "product": product, "day": date, "status": status, "run_id": 1})
				}
				if status != "" && status != "imported" && asked == "" {
					asked = date
				}
				switch {
				case status == "imported" || status == "answered":
					o.productDays = append(o.productDays, fmt.Sprintf("%s %s %s observed", account, product, date))
				case status != "":
					o.productDays = append(o.productDays, fmt.Sprintf("%s %s %s %s", account, product, date, status))
				case asked == "": // not expected before it was asked for
				case date == local:
					o.productDays = append(o.productDays, fmt.Sprintf("%s %s %s not_due", account, product, date))
				default:
					o.productDays = append(o.productDays, fmt.Sprintf("%s %s %s lost", account, product, date))
				}
				if status == "" || status == "empty" {
					continue
				}
				items, most := r.IntN(5), 5+r.IntN(4)
				read = append(read, map[string]any{
					"operation_key": a + 1, "product_key": p + 1, "description": "all", "snapshot_date": date, "items": items, "items_text": fmt.Sprint(items), "items_min": 0, "items_max": most,
					"reading_count": 2, "read_at": date + "T12:00:00Z", "payload_id": 1, "run_id": 1, "is_imported": status == "imported", "zone": zone,
				})
				last[date] = fmt.Sprintf("%d %d", most, items)
			}
			fill("ops.coverage", told)
			fill("dw.fact_license_snapshot", read)
			months := map[string][]string{}
			for _, date := range slices.Sorted(maps.Keys(last)) {
				months[date[:7]] = append(months[date[:7]], date)
			}
			for month, dates := range months {
				most, on, items := 0, "", 0
				for _, date := range dates {
					var m int
					if _, err := fmt.Sscan(last[date], &m, &items); err != nil {
						t.Fatal(err)
					}
					if m > most {
						most, on = m, date
					}
				}
				o.highWater = append(o.highWater, fmt.Sprintf("%s %s %s %d %s %d %s %d", account, product, month, most, on, items, dates[len(dates)-1], len(dates)))
			}
		}
	}
}

// plain is a decimal without trailing zeros; nil for nothing.
func plain(r *big.Rat) any {
	if r == nil {
		return nil
	}
	text := r.FloatString(24)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// said is plain for messages.
func said(r *big.Rat) string {
	if r == nil {
		return "unknown"
	}
	return plain(r).(string)
}

// rounded is r at twelve decimals, half away from zero, of what is not negative.
func rounded(r *big.Rat) *big.Rat {
	scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(12), nil)
	n := new(big.Int).Mul(r.Num(), scale)
	n.Mul(n, big.NewInt(2)).Add(n, r.Denom()).Div(n, new(big.Int).Mul(r.Denom(), big.NewInt(2)))
	return new(big.Rat).SetFrac(n, scale)
}

// until is the last day on which a level is expected, counted without an end up to the given day.
func (l oddLevel) until(day time.Time) time.Time {
	if l.end == nil {
		return day
	}
	end := l.end.Truncate(24 * time.Hour)
	if last := l.days[len(l.days)-1].date; end.Before(last) {
		end = last
	}
	if day.Before(end) {
		return day
	}
	return end
}

func compareRows(t *testing.T, conn *pgx.Conn, view string, want []string, sql string) {
	t.Helper()
	got := lines(t, conn, sql)
	slices.Sort(got)
	slices.Sort(want)
	if len(want) == 0 {
		t.Errorf("%s: nothing was expected: then this test sees nothing", view)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-computed here +view):\n%s", view, diff)
	}
}

const oddKey = `customer_id || ' ' || subscription_number || '/' || discriminator || ' ' || service_level || ' ' || level_ordinal`

// What the views of days and months tell is computed here a second time, from what the facts were made of, and must
// be the same to the last digit, each row once.
func TestMartFigures(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			conn := warehousetest.Connect(t, warehousetest.New(t))
			o := growOdd(t, conn, seed)
			// What a session is set to may not change a month.
			if _, err := conn.Exec(t.Context(), `set time zone 'America/Asuncion'`); err != nil {
				t.Fatal(err)
			}
			now, _ := time.Parse(time.RFC3339, oddNow)
			today := now.Truncate(24 * time.Hour)

			var months, bursts, days []string
			for _, l := range o.levels {
				if len(l.days) == 0 {
					continue
				}
				byDay := map[time.Time]oddDay{}
				byMonth := map[string][]oddDay{}
				for _, d := range l.days {
					byDay[d.date] = d
					m := d.date.Format("2006-01")
					byMonth[m] = append(byMonth[m], d)
				}
				for date := l.days[0].date; !date.After(l.until(today)); date = date.AddDate(0, 0, 1) {
					d, ok := byDay[date]
					switch {
					case ok && d.partial:
						days = append(days, fmt.Sprintf("%s %s partial %s", l.key, date.Format(time.DateOnly), said(d.avg)))
					case ok:
						days = append(days, fmt.Sprintf("%s %s observed %s", l.key, date.Format(time.DateOnly), said(d.avg)))
					case date.AddDate(0, 0, 1).Add(2 * time.Hour).After(now):
						days = append(days, fmt.Sprintf("%s %s not_due -", l.key, date.Format(time.DateOnly)))
					default:
						days = append(days, fmt.Sprintf("%s %s missing -", l.key, date.Format(time.DateOnly)))
					}
				}
				for m, of := range byMonth {
					first, _ := time.Parse("2006-01", m)
					from := first
					if l.days[0].date.After(from) {
						from = l.days[0].date
					}
					expected := int(l.until(first.AddDate(0, 1, -1)).Sub(from).Hours()/24) + 1
					sum, most, accrued, worst := new(big.Rat), new(big.Rat), new(big.Rat), new(big.Rat)
					before, worstDay, over, partial := new(big.Rat), "-", 0, 0
					invoiced := "true"
					for _, d := range of {
						sum.Add(sum, d.avg)
						if d.most.Cmp(most) > 0 {
							most = d.most
						}
						switch {
						case accrued == nil || d.accrued == nil:
							accrued = nil
						case o.running[l.account+" "+m]:
							accrued = new(big.Rat).Add(accrued, new(big.Rat).Sub(d.total, before))
							before = d.total
						default:
							accrued = new(big.Rat).Add(accrued, d.accrued)
						}
						if d.over.Sign() > 0 {
							over++
							if d.over.Cmp(worst) > 0 {
								worst, worstDay = d.over, d.date.Format(time.DateOnly)
							}
						}
						if d.partial {
							partial++
						}
						switch {
						case d.invoiced != nil && !*d.invoiced:
							invoiced = "false"
						case d.invoiced == nil && invoiced == "true":
							invoiced = "unknown"
						}
					}
					mean := rounded(new(big.Rat).Quo(sum, big.NewRat(int64(len(of)), 1)))
					months = append(months, fmt.Sprintf("%s %s %d/%d %s %s %s %s %d %s %d", l.key, m, len(of), expected,
						said(of[len(of)-1].committed), said(mean), said(most), said(accrued), over, invoiced, partial))
					bursts = append(bursts, fmt.Sprintf("%s %s %d %d %s %s %s", l.key, m, len(of), over, said(accrued), said(worst), worstDay))
				}
			}
			const months1 = `select ` + oddKey + ` || to_char(month, ' YYYY-MM ') || days_observed || '/' || days_expected || ' ' || trim_scale(committed_tib) || ' ' || trim_scale(consumed_avg_tib)
				|| ' ' || trim_scale(consumed_max_tib) || ' ' || coalesce(trim_scale(accrued_burst_tib)::text, 'unknown') || ' ' || days_over_commitment || ' ' || coalesce(all_invoiced::text, 'unknown')
				|| ' ' || days_partial from `
			compareRows(t, conn, "mart.month", months, months1+`mart.month`)
			compareRows(t, conn, "mart.month_as_of now", months, months1+`mart.month_as_of('infinity')`)
			compareRows(t, conn, "mart.monthly_burst", bursts, `select `+oddKey+` || to_char(month, ' YYYY-MM ') || days_observed || ' ' || days_over_commitment
				|| ' ' || coalesce(trim_scale(accrued_burst_tib)::text, 'unknown') || ' ' || trim_scale(worst_day_tib) || ' ' || coalesce(worst_day::text, '-') from mart.monthly_burst`)
			compareRows(t, conn, "mart.daily_utilisation", days, `select `+oddKey+` || ' ' || usage_date || ' ' || status || ' ' || coalesce(trim_scale(consumed_avg_tib)::text, '-') from mart.daily_utilisation`)

			compareRows(t, conn, "mart.coverage of levels", days, `select `+oddKey+` || ' ' || day || ' ' || status || ' ' || coalesce((
					select trim_scale(d.consumed_avg_tib)::text from mart.daily_consumption as d
					where d.customer_id = c.customer_id and d.subscription_number = c.subscription_number and d.discriminator = c.discriminator
						and d.service_level = c.service_level and d.level_ordinal = c.level_ordinal and d.usage_date = c.day
				), '-') from mart.coverage as c where subscription_number is not null`)
			compareRows(t, conn, "mart.coverage of customers", o.customerDays, `select customer_id || ' ' || day || ' ' || status from mart.coverage where source = 'keystone' and subscription_number is null`)
			compareRows(t, conn, "mart.coverage of products", o.productDays, `select account || ' ' || product || ' ' || day || ' ' || status from mart.coverage where source = 'wolkvox'`)
			compareRows(t, conn, "mart.license_high_water", o.highWater, `select concat_ws(' ', account, product, to_char(month, 'YYYY-MM'), items_max, reached_on, items_last, last_read_on, days_read) from mart.license_high_water`)

			none(t, conn, "mart.daily_utilisation divides otherwise", `
				select `+oddKey+` || ' ' || usage_date
				from mart.daily_utilisation
				where (utilisation_avg, utilisation_max) is distinct from (round(consumed_avg_tib / nullif(committed_tib, 0), 6), round(consumed_max_tib / nullif(committed_tib, 0), 6))`)

			// What is waived is what the statement says is waived: instances of a name together there.
			none(t, conn, "mart.monthly_burst waives otherwise than the statement", `
				with burst as (
					select customer_id, subscription_number, discriminator, service_level as item, to_char(month, 'YYYY-MM') as period,
						sum(coalesce(waiver_burst_tib, 0)) as waiver, bool_and(accrued_burst_tib is not null) as is_known
					from mart.monthly_burst
					group by 1, 2, 3, 4, 5
				),
				line as (
					select customer_id, subscription_number, discriminator, item, period, coalesce(sum(quantity) filter (where is_waiver), 0) as waiver
					from mart.statement
					where charge = 'burst'
					group by 1, 2, 3, 4, 5
				)
				select format('%s %s/%s %s %s: %s, statement %s', customer_id, subscription_number, discriminator, item, period, b.waiver, l.waiver)
				from burst as b
				join line as l using (customer_id, subscription_number, discriminator, item, period)
				where b.is_known and round(b.waiver, 12) <> l.waiver`)
			none(t, conn, "a waiver is told of a subscription whose start nobody told", `
				select `+oddKey+` || ' ' || month || ' ' || waiver_burst_tib
				from mart.monthly_burst
				join (
					select customer_id, subscription_number, discriminator from mart.subscription group by 1, 2, 3 having count(start_date) = 0
				) as unknown using (customer_id, subscription_number, discriminator)
				where waiver_burst_tib is not null`)
			for view, key := range martKeys {
				none(t, conn, "not the only row of mart."+view+" by "+key, `select concat_ws(' | ', `+key+`) from mart.`+view+` group by `+key+` having count(*) > 1`)
			}
		})
	}
}

// A day that a reading anew took away has no next version: its former figures are told all the same, and every
// superseded version has a row of its own, however often it was read anew.
func TestRestatementOfADayTakenAway(t *testing.T) {
	t.Parallel()
	conn := warehousetest.Connect(t, warehousetest.New(t))
	warehousetest.Grow(t, conn, warehousetest.Size{Customers: 1, Days: 3, Samples: 0})
	for _, sql := range []string{
		`truncate dw.restatement`,
		`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			over_committed_avg_tib, accrued_sum_tib, known_from, known_until, payload_id, run_id)
		select d.customer_key, d.service_level_key, d.usage_date, v.kind, 24, 100, v.consumed, 104.5, 99.5, 0, null, v.known_from, v.known_until, 1, 1
		from dw.fact_daily_consumption as d
		cross join (values (1, 'reread', 96, timestamptz '2026-11-01', timestamptz '2026-11-01'), (2, 'reread', 95, '2026-11-01', '2026-11-01'), (3, 'restated', 94, '2026-11-01', '2026-11-02')) as v (n, kind, consumed, known_from, known_until)
		where d.service_level_key = 1 and (d.usage_date = '2026-10-30' or d.usage_date = '2026-10-31' and v.kind = 'reread')
		order by d.usage_date, v.n`,
		`delete from dw.fact_daily_consumption where service_level_key = 1 and usage_date = '2026-10-31'`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	compareRows(t, conn, "mart.restatement", []string{
		"2026-10-30 reread 96 94", "2026-10-30 reread 95 94", "2026-10-30 restated 94 99.123456789012",
		"2026-10-31 reread 96 nothing", "2026-10-31 reread 95 nothing",
	}, `select usage_date || ' ' || kind || ' ' || old_value || ' ' || coalesce(new_value, 'nothing') from mart.restatement where column_name = 'consumed_avg_tib'`)
	none(t, conn, "not the only row", `select version_number || ' ' || column_name from mart.restatement group by version_number, column_name having count(*) > 1`)
	// Each version is compared with the one that followed, figure by figure.
	if _, err := conn.Exec(t.Context(), `
		insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib, burst_avg_tib,
			over_committed_avg_tib, accrued_sum_tib, accrued_last_tib, was_invoiced, known_from, known_until, payload_id, run_id)
		select 1, 1, '2026-10-29', 'restated', n, 100, 90 + n, 110 + n, 80 + n, 20 + n, 30 + n, 40 + n, 50 + n, n = 2, date '2026-10-30' + n, date '2026-10-31' + n, 1, 1
		from generate_series(1, 3) as n`); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `update dw.fact_daily_consumption set burst_avg_tib = null, is_invoiced = true where service_level_key = 1 and usage_date = '2026-10-29'`); err != nil {
		t.Fatal(err)
	}
	var want []string
	for n := 1; n < 3; n++ {
		want = append(want, fmt.Sprintf("%d: sample_count %d %d, consumed_avg_tib 9%d 9%d, consumed_max_tib 11%d 11%d, consumed_last_tib 8%d 8%d, burst_avg_tib 2%d 2%d, "+
			"over_committed_avg_tib 3%d 3%d, accrued_sum_tib 4%d 4%d, accrued_last_tib 5%d 5%d, is_invoiced %t %t", n, n, n+1, n, n+1, n, n+1, n, n+1, n, n+1, n, n+1, n, n+1, n, n+1, n == 2, n != 2))
	}
	compareRows(t, conn, "what followed each version", want, `
		select row_number() over (order by known_from) || ': ' || string_agg(concat_ws(' ', column_name, old_value, new_value), ', ' order by o.n)
		from mart.restatement as r
		join unnest(array['sample_count', 'consumed_avg_tib', 'consumed_max_tib', 'consumed_last_tib', 'burst_avg_tib', 'over_committed_avg_tib', 'accrued_sum_tib', 'accrued_last_tib', 'is_invoiced']) with ordinality as o (column_name, n) using (column_name)
		where usage_date = '2026-10-29' and known_from < '2026-11-02'
		group by known_from`)
	compareRows(t, conn, "what is not told any more", []string{"burst_avg_tib 23 -", "is_invoiced false true"},
		`select column_name || ' ' || old_value || ' ' || coalesce(new_value, '-') from mart.restatement where usage_date = '2026-10-29' and known_from >= '2026-11-02' and column_name in ('burst_avg_tib', 'is_invoiced')`)
	none(t, conn, "a day that is gone changed from unknown to unknown", `select usage_date || ' ' || column_name from mart.restatement where old_value is null and new_value is null`)
}

// Two sites of one number end on one day, and both calendars of a subscription do: each is a date of its own.
func TestDeadlinesOfOneDay(t *testing.T) {
	t.Parallel()
	conn := warehousetest.Connect(t, warehousetest.New(t))
	for _, sql := range []string{
		businessNow,
		`insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at) values ('C-1', 'acme', now(), now())`,
		`insert into dw.dim_subscription (customer_key, subscription_number, discriminator, first_seen_at) values (1, 'A-1', '', now()), (1, 'A-1', '2026-01-01', now())`,
		`insert into dw.fact_subscription (customer_key, subscription_key, valid_from, end_at, run_id) values (1, 1, '2026-01-01', '2026-12-31', 1), (1, 2, '2026-01-01', '2026-12-31', 1)`,
		`insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since)
			select 'C-1', 'A-1', clock, '2026-10-01', '2026-10-31', 'monthly', 'test', '2026-01-01' from unnest(array['committed', 'burst']) as clock`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	compareRows(t, conn, "mart.deadline", []string{"calendar_ends - burst", "calendar_ends - committed", "subscription_end  -", "subscription_end 2026-01-01 -"},
		`select kind || ' ' || coalesce(discriminator, '-') || ' ' || coalesce(clock, '-') from mart.deadline`)
	const both = "calendar_ends 2026-11-01"
	for _, c := range []struct {
		about, sql string
		want       []string
	}{
		{"former periods tell nothing", `insert into billing.period (customer_id, subscription_number, clock, period_start, period_end, schedule, source, known_since, superseded_at)
			values ('C-1', 'A-1', 'burst', '2026-11-01', '2027-10-31', 'annual', 'test', '2026-01-01', '2026-02-01')`, []string{both, both, "subscription_end 2026-12-31", "subscription_end 2026-12-31"}},
		{"absent", `update dw.fact_subscription set absent_since = '2026-10-01' where subscription_key = 2`, []string{both, both, "subscription_end 2026-12-31"}},
		{"one without an end", `update dw.fact_subscription set end_at = case subscription_key when 1 then timestamptz '2026-11-01Z' end, absent_since = null`, []string{both, both, "subscription_end 2026-11-01"}},
		{"portals tell an end a day apart", `update dw.fact_subscription set end_at = '2026-11-02Z'`, []string{"subscription_end 2026-11-02", "subscription_end 2026-11-02"}},
		{"another month", `update dw.fact_subscription set end_at = '2026-11-03Z'`, []string{both, both, "subscription_end 2026-11-03", "subscription_end 2026-11-03"}},
		{"120 days ahead", `update dw.fact_subscription set end_at = timestamptz '2027-03-02 12:00Z' + (subscription_key - 1) * interval '1 second'`, []string{both, both, "subscription_end 2027-03-02"}},
	} {
		if _, err := conn.Exec(t.Context(), c.sql); err != nil {
			t.Fatal(err)
		}
		compareRows(t, conn, "mart.deadline: "+c.about, c.want, `select kind || to_char(due_at at time zone 'UTC', ' YYYY-MM-DD') from mart.deadline`)
	}
}

// The calendar is Go's calendar.
func TestCalendar(t *testing.T) {
	t.Parallel()
	conn := warehousetest.Connect(t, warehousetest.New(t))
	var want []string
	for d := time.Date(2015, 1, 1, 0, 0, 0, 0, time.UTC); d.Year() < 2050; d = d.AddDate(0, 0, 1) {
		isoYear, isoWeek := d.ISOWeek()
		first := d.AddDate(0, 0, 1-d.Day())
		last := first.AddDate(0, 1, -1)
		want = append(want, fmt.Sprintf("%s %d %d %d %s %d %d %d %d %d %t", d.Format(time.DateOnly), d.Year(), (int(d.Month())+2)/3, d.Month(),
			first.Format(time.DateOnly), last.Day(), d.Day(), isoYear, isoWeek, (int(d.Weekday())+6)%7+1, d.Equal(last)))
	}
	compareRows(t, conn, "mart.dim_date", want, `select concat_ws(' ', calendar_date, year, quarter, month, month_start, days_in_month, day_of_month, iso_year, iso_week, iso_weekday, is_month_end::text) from mart.dim_date`)
}

// A subscription that goes on where another of its number ends has no waiver of its own.
func TestNoSecondWaiver(t *testing.T) {
	t.Parallel()
	conn := warehousetest.Connect(t, warehousetest.New(t))
	for _, sql := range []string{
		`insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at) values ('C-1', 'acme', now(), now())`,
		`insert into dw.dim_subscription (customer_key, subscription_number, discriminator, start_at, end_at, first_seen_at)
			values (1, 'A-1', '', '2026-01-01Z', '2026-10-01Z', now()), (1, 'A-1', '2026-10-01', '2026-10-01Z', null, now())`,
		`insert into dw.dim_service_level (customer_key, subscription_key, service_level, level_class) values (1, 1, 'Standard', 'base'), (1, 2, 'Standard', 'base')`,
		`insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			over_committed_avg_tib, accrued_sum_tib, invoiced_samples, uninvoiced_samples, known_since, payload_id, run_id)
			values (1, 1, '2026-02-05', 1, 1, 1, 1, 1, 0, 3, 0, 0, now(), 1, 1), (1, 2, '2026-10-05', 1, 1, 1, 1, 1, 0, 3, 0, 0, now(), 1, 1)`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	const burst = `select discriminator || ' ' || accrued_burst_tib || ' ' || waiver_burst_tib from mart.monthly_burst`
	compareRows(t, conn, "mart.monthly_burst", []string{" 3 3", "2026-10-01 3 0"}, burst)
	for end, waived := range map[string]string{"2026-09-28": "3", "2026-09-29": "0", "2026-10-02": "0", "2026-10-03": "3"} {
		if _, err := conn.Exec(t.Context(), `update dw.dim_subscription set end_at = $1::date where subscription_key = 1`, end); err != nil {
			t.Fatal(err)
		}
		compareRows(t, conn, "the first ends on "+end, []string{" 3 3", "2026-10-01 3 " + waived}, burst)
	}
	// One after the other they go on with the days of the first, however short the one between them is.
	for _, sql := range []string{
		`update dw.dim_subscription set end_at = '2026-09-15Z' where subscription_key = 1`,
		`insert into dw.dim_subscription (customer_key, subscription_number, discriminator, start_at, end_at, first_seen_at) values (1, 'A-1', '2026-09-15', '2026-09-15Z', '2026-10-01Z', now())`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	compareRows(t, conn, "one between them", []string{" 3 3", "2026-10-01 3 0"}, burst)
	// In place, it is renewed where it had been in use for 60 days, by days that somebody held to be true.
	for _, c := range []struct{ about, sql, waived string }{
		{"used for 59 days", `update dw.dim_subscription set start_at = '2026-04-05Z', end_at = null where subscription_key = 1`, "3"},
		{"used for 60 days", `update dw.dim_subscription set start_at = '2026-04-06Z' where subscription_key = 1`, "0"},
		{"not used before it starts", `update dw.dim_subscription set start_at = '2026-04-01Z' where subscription_key = 1`, "3"},
		{"a day that was read anew", `insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			over_committed_avg_tib, accrued_sum_tib, known_from, known_until, payload_id, run_id) values (1, 1, '2026-01-01', 'reread', 1, 1, 1, 1, 1, 0, 3, '2026-01-02', '2026-01-02', 1, 1)`, "3"},
		{"a day that was told", `update dw.restatement set kind = 'restated', known_until = '2026-01-03'`, "0"},
	} {
		if _, err := conn.Exec(t.Context(), c.sql); err != nil {
			t.Fatal(err)
		}
		if c.about == "used for 59 days" { // a day of April beside the one of February
			if _, err := conn.Exec(t.Context(), `insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
				over_committed_avg_tib, accrued_sum_tib, invoiced_samples, uninvoiced_samples, known_since, payload_id, run_id) values (1, 1, '2026-04-10', 1, 1, 1, 1, 1, 0, 3, 0, 0, now(), 1, 1)`); err != nil {
				t.Fatal(err)
			}
		}
		compareRows(t, conn, c.about, []string{c.waived}, `select waiver_burst_tib::text from mart.monthly_burst where discriminator = '' and month = '2026-04-01'`)
	}
}

// What lacks something is told twice: by mart.coverage, which makes every expected day, and by ops.coverage_hole, which
// goes by the days that are stored. They agree whenever it is, also where days were stored that are not there yet.
func TestHolesAreThoseOfCoverage(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			conn := warehousetest.Connect(t, warehousetest.New(t))
			growOdd(t, conn, seed)
			if _, err := conn.Exec(t.Context(), `update ops.watermark set settle = '47 hours' where scope = 'C-2'; set time zone 'America/Asuncion'`); err != nil {
				t.Fatal(err)
			}
			const hole = `select source, dataset, customer_id, subscription_number, service_level, account, product, day, status, level_ordinal, discriminator from `
			const told, found = hole + `mart.coverage where status in ('missing', 'partial', 'lost')`, hole + `ops.coverage_hole`
			for _, now := range []string{oddNow, "2027-02-28T23:59:59.999999Z", "2027-03-01T00:00:00Z", "2027-03-01T01:59:59Z", "2027-03-01T02:00:00Z", "2027-03-01T23:00:00Z", "2026-12-20T00:00:00Z", "2029-01-01T00:00:00Z"} {
				if _, err := conn.Exec(t.Context(), `select set_config('meterhouse.now', $1, false)`, now); err != nil {
					t.Fatal(err)
				}
				none(t, conn, now+": not the holes of mart.coverage", `
					select '-' || t::text from (`+told+` except all `+found+`) as t
					union all
					select '+' || f::text from (`+found+` except all `+told+`) as f`)
			}
			if got := lines(t, conn, `select distinct source || ' ' || status from ops.coverage_hole order by 1`); len(got) < 4 {
				t.Errorf("holes %q: want missing and partial of keystone, partial and lost of wolkvox: then this test sees little", got)
			}
		})
	}
}

// The evidence of look_for_holes adds up each series in one pass; it is what the one before it found, to the last digit.
func TestEvidenceIsWhatItWas(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			db := warehousetest.New(t)
			conn := warehousetest.Connect(t, db)
			growOdd(t, conn, seed)
			r := rand.New(rand.NewPCG(seed, 29))
			for _, sql := range []string{
				// Steps that are not known, for a day or for all of a series, and samples that are not one an hour.
				`update dw.fact_daily_consumption set step_seconds = nullif((array[0, 300, 3600, 3600, 7200, 86400])[1 + (service_level_key * 7 + extract(day from usage_date)::integer * $1) % 6], 0),
					sample_count = 1 + (service_level_key + extract(day from usage_date)::integer * $1) % 30`,
				`update dw.fact_daily_consumption set step_seconds = null where (service_level_key + $1) % 4 = 0`,
				// Of one account what was used is told: in one month as increments, in the next as a total.
				`update dw.fact_daily_consumption as f set step_seconds = 3600, sample_count = 24,
					accrued_sum_tib = case when extract(month from f.usage_date)::integer % 2 = 0 then u.used else 3 * u.used end,
					accrued_last_tib = case when extract(month from f.usage_date)::integer % 2 = 0 then 3 * u.total else u.total end
				from (
					select service_level_key, usage_date, used, sum(used) over (partition by service_level_key, date_trunc('month', usage_date) order by usage_date) as total
					from dw.fact_daily_consumption
					cross join lateral (select over_committed_avg_tib / 30 as used) as x
				) as u, dw.dim_customer as c
				where u.service_level_key = f.service_level_key and u.usage_date = f.usage_date and c.customer_key = f.customer_key and c.account = 'two' and $1 > 0`,
			} {
				if _, err := conn.Exec(t.Context(), sql, 1+r.IntN(28)); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			const evidence = `select e::text from mart.accrued_evidence as e order by 1`
			now := lines(t, conn, evidence)
			if got := lines(t, conn, `select distinct concat_ws(' ', proposal, is_contradicted) from mart.accrued_evidence order by 1`); len(got) < 4 {
				t.Errorf("proposals %q: want none and both, contradicted and not: then this test sees little", got)
			}
			states, err := migrations.Status(t.Context(), db)
			if err != nil {
				t.Fatal(err)
			}
			one := slices.IndexFunc(states, func(s migrations.State) bool { return strings.HasSuffix(s.Name, "_look_for_holes.sql") })
			if _, err := migrations.Down(t.Context(), db, states[one-1].Version); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(lines(t, conn, evidence), now); diff != "" {
				t.Errorf("the evidence changed (-before +now):\n%s", diff)
			}
		})
	}
}
