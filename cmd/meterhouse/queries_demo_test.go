package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"meterhouse/etl"
	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/etl/wolkvox"
	"meterhouse/etl/wolkvox/wolkvoxsim"
	"meterhouse/queries"
)

// Two months of both fake vendors with what the first week meets: a level that skips days, days
// that are restated between loads, a commitment that falls, wolkvox days that nobody read, and
// readings that are refused. Every query's answer must equal what is worked out here from the
// fakes' own totals.
const (
	oracleStart = "2026-05-10"
	oracleNow   = "2026-07-10T12:00:00Z"
)

// oracleLoads are the clocks of the Keystone loads; the last is now. Their order and that of the
// readings is that of time.
var oracleLoads = []string{"2026-05-14T12:00:00Z", "2026-06-20T12:00:00Z", oracleNow}

// oracleReadings are the clocks of the wolkvox loads, in Bogota.
var oracleReadings = []string{
	"2026-05-20 23:45", "2026-05-31 23:45", "2026-06-03 12:00", "2026-06-03 23:45", "2026-06-08 23:45", "2026-06-20 23:45",
	"2026-06-30 23:45", "2026-07-03 12:00", "2026-07-03 23:45", "2026-07-08 23:45", "2026-07-09 12:00", "2026-07-10 06:45",
}

// classes of the scenario's levels, by the rules that the schema ships with.
var classes = map[string]string{
	"Advanced Data-Protect": "add_on", "DII Extreme": "add_on", "Standard (provisioned_v1)": "unclassified",
}

// oracle is the loaded world and the truth about it.
type oracle struct {
	*world
	zone  *time.Location
	names map[string]string // of customers

	days     []keystonesim.DayTotal            // all, as told now
	before   map[string][]keystonesim.DayTotal // as told at the loads before
	readings []reading
}

// reading is one that was accepted.
type reading struct {
	wolkvoxsim.Reading
	at time.Time
}

func newOracle(t *testing.T) *oracle {
	w := &world{t: t, env: map[string]string{}, database: warehousetest.New(t)}
	o := &oracle{world: w, names: map[string]string{}, before: map[string][]keystonesim.DayTotal{}}
	clock := func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now
	}
	start := instant(t, oracleStart+"T00:00:00Z")
	w.keystone = keystonesim.New(keystonesim.Config{Seed: 3, Now: clock, Start: start, Restate: true, Lenient: true})
	w.wolkvox = wolkvoxsim.New(wolkvoxsim.Config{Seed: 3, Now: clock})
	mux := http.NewServeMux()
	mux.Handle("/v1/", w.keystone)
	mux.Handle("/api/", w.wolkvox)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	w.env["KEYSTONE_TOKEN"] = w.keystone.RefreshToken()
	w.file = writeFile(t, "meterhouse.yaml", fmt.Sprintf(`database: {url: "%s"}
secrets_key: %s
keystone: [{account: acme, base_url: %s, refresh_token: "${KEYSTONE_TOKEN}", history: {start: %s}}]
wolkvox: [{account: calls, base_url: %s, token: %s, timezone: America/Bogota}]
`, w.database, testKey, server.URL, oracleStart, server.URL, w.wolkvox.Token()))
	for _, c := range w.keystone.Customers() {
		o.names[c.ID] = c.Name
	}
	o.load()
	return o
}

func instant(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// load runs the loads in the order of their clocks and keeps what the fakes told.
func (o *oracle) load() {
	var err error
	if o.zone, err = time.LoadLocation("America/Bogota"); err != nil {
		o.t.Fatal(err)
	}
	keystoneDatasets := append([]string{"run"}, datasets[:4]...)
	loads := slices.Clone(oracleLoads)
	for _, local := range oracleReadings {
		at, err := time.ParseInLocation("2006-01-02 15:04", local, o.zone)
		if err != nil {
			o.t.Fatal(err)
		}
		for len(loads) > 0 && instant(o.t, loads[0]).Before(at) {
			o.loadKeystone(loads[0], keystoneDatasets)
			loads = loads[1:]
		}
		o.setNow(at.Format(time.RFC3339))
		code, refused := exitDone, map[string]string{}
		switch local {
		case "2026-07-03 12:00":
			code, refused = exitPartial, map[string]string{"chat_licenses": "=12+x", "vision": "=1+x"}
		case "2026-07-03 23:45":
			code, refused = exitPartial, map[string]string{"chat_licenses": "many"}
		}
		for api, items := range refused {
			o.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: api, Body: []byte(items), Count: 1})
		}
		o.must(code, "run", "wolkvox.billing")
		for _, r := range o.wolkvox.Oracle(at) {
			if refused[r.API] == "" {
				o.readings = append(o.readings, reading{r, at})
			}
		}
	}
	for _, at := range loads {
		o.loadKeystone(at, keystoneDatasets)
	}
	o.days = o.told()
	o.price()
}

// price hands in a rate card that does not price usage, closes May, and then finds a price that May should have had.
func (o *oracle) price() {
	for _, step := range []struct{ at, rates string }{
		{"2026-07-10T12:10:00Z", "keystone,,committed,10.5,USD,2026-01-01\nkeystone,,burst,12.25,USD,2026-01-01\n" +
			"keystone,73350192,committed,9,EUR,2026-01-01\nkeystone,73350192,burst,9.125,EUR,2026-01-01\nwolkvox,,license,3.55,USD,2026-01-01\n"},
		{"2026-07-10T12:30:00Z", "keystone,0042117,burst,12.5,USD,2026-05-20\n"},
	} {
		o.setNow(step.at)
		file := writeFile(o.t, "rates.csv", "vendor,customer_id,charge,unit_price,currency,valid_from\n"+step.rates)
		o.must(exitDone, "rates", "import", file)
		if strings.Contains(step.rates, "wolkvox") {
			o.setNow("2026-07-10T12:20:00Z")
			o.must(exitDone, "close", "2026-05", "--accept-gaps", "--reason", "wolkvox was not read")
		}
	}
	o.setNow(oracleNow)
}

func (o *oracle) loadKeystone(at string, args []string) {
	o.setNow(at)
	o.must(exitDone, args...)
	o.before[at] = o.told()
}

// told is what the vendor says now about the days that are settled.
func (o *oracle) told() []keystonesim.DayTotal {
	return o.keystone.Oracle(instant(o.t, oracleStart+"T00:00:00Z"), o.now)
}

// Queries whose answers are checked, with the columns and the rows that they must have.
func TestQueriesAgainstTheOracle(t *testing.T) {
	t.Parallel()
	o := newOracle(t)
	checks := map[string]func() (columns string, rows [][]string){
		"consumption_by_level_and_month": o.consumption,
		"days_over_commitment":           o.daysOver,
		"top_bursting_subscriptions":     o.topBursting,
		"commitment_changes":             o.commitmentChanges,
		"license_high_water":             o.highWater,
		"month_to_date_consumption":      o.monthToDate,
		"month_to_date_usage":            o.usageToDate,
		"missing_days":                   o.missingDays,
		"restated_days":                  o.restatedDays,
		"newest_readings":                o.newestReadings,
		"subscriptions_ending_soon":      o.endingSoon,
		"add_on_against_base":            o.addOns,
		"quarantine_by_reason":           o.quarantined,
		"accrued_check":                  o.accruedCheck,
		"statement_by_customer":          o.statementByCustomer,
		"unpriced_lines":                 o.unpricedLines,
		"cost_change":                    o.costChange,
		"unused_commitment":              o.unusedCommitment,
		"adjustments_by_reason":          o.adjustments,
	}
	t.Run("dbt", func(t *testing.T) { testDBTSources(t, o.database) })
	for _, q := range queries.All() {
		t.Run(q.Name, func(t *testing.T) {
			expect := checks[q.Name]
			if expect == nil {
				t.Fatal("nobody checks its answer: want an oracle for it here")
			}
			columns, want := expect()
			got := o.answer(t, q, strings.Fields(columns))
			if len(want) == 0 {
				t.Fatal("the oracle expects no rows: want data that the query answers with")
			}
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Errorf("(-oracle +query):\n%s", diff)
			}
			o.unchangedElsewhere(t, q, want)
		})
	}
	t.Run("with parameters", func(t *testing.T) { o.withParameters(t) })
	t.Run("as of a former time", func(t *testing.T) { o.asOf(t) })
}

// withParameters asks for other spans than the defaults.
func (o *oracle) withParameters(t *testing.T) {
	for _, c := range []struct {
		name   string
		params []string
		expect func() (columns string, rows [][]string)
	}{
		{"subscriptions_ending_soon", []string{"until_day=2028-04-01"}, func() (string, [][]string) {
			columns, rows := o.endingSoon()
			return columns, append(rows,
				[]string{"2027-12-31", "539", "0042117", "Brightmere Seed Bank", "1203550902", "Brightmere Seed Bank (vault)", "2025-01-01",
					"1.02", unknown, unknown, unknown},
				[]string{"2028-03-31", "630", "C-1001", "Halden Ferry Lines, Inc.", "A-S00041207", "Halden Ferry Lines, Inc.", "2023-04-01",
					"325", "150", unknown, unknown})
		}},
		{"consumption_by_level_and_month", []string{"from_month=2026-06", "until_month=2026-07-01"}, func() (string, [][]string) {
			columns, rows := o.consumption()
			return columns, slices.DeleteFunc(rows, func(row []string) bool { return row[0] != "2026-06-01" })
		}},
		{"top_bursting_subscriptions", []string{"top=1"}, func() (string, [][]string) {
			columns, rows := o.topBursting()
			return columns, slices.DeleteFunc(rows, func(row []string) bool { return row[1] != "1" })
		}},
		{"newest_readings", []string{"min_age_hours=12"}, func() (string, [][]string) {
			columns, rows := o.newestReadings()
			return columns, slices.DeleteFunc(rows, func(row []string) bool { return len(row[9]) == 1 })
		}},
		{"restated_days", []string{"from_day=2026-07-10"}, func() (string, [][]string) {
			columns, rows := o.restatedDays()
			return columns, slices.DeleteFunc(rows, func(row []string) bool { return row[0] < "2026-07-10" })
		}},
	} {
		q, err := findReport(c.name)
		if err != nil {
			t.Fatal(err)
		}
		var args []string
		for _, p := range c.params {
			args = append(args, "--param", p)
		}
		columns, want := c.expect()
		got := o.answer(t, q, strings.Fields(columns), args...)
		if diff := gocmp.Diff(want, got); diff != "" || len(want) == 0 {
			t.Errorf("%s %v, %d rows (-oracle +query):\n%s", c.name, c.params, len(want), diff)
		}
	}
}

// asOf asks what was known after the second load: what the fake told then.
func (o *oracle) asOf(t *testing.T) {
	const then = "2026-06-21T00:00:00Z"
	now := o.days
	o.days = nil
	for _, d := range o.before[oracleLoads[1]] {
		if d.Day.Before(instant(t, "2026-06-20T00:00:00Z")) {
			o.days = append(o.days, d)
		}
	}
	defer func() { o.days = now }()
	want := map[string]string{}
	for _, l := range levels(o.days, "2026-06-01", "2026-07-01") {
		d := l.last()
		want[d.CustomerID+" "+d.SubscriptionNumber+" "+levelName(d)] = strconv.Itoa(len(l.days)) + " " + l.mean() + " " + l.accrued()
	}
	differs := false
	for _, l := range levels(now, "2026-06-01", "2026-06-20") {
		d := l.last()
		differs = differs || want[d.CustomerID+" "+d.SubscriptionNumber+" "+levelName(d)] != strconv.Itoa(len(l.days))+" "+l.mean()+" "+l.accrued()
	}
	if !differs {
		t.Fatal("no day of June was restated since: want one that was")
	}
	q, err := findReport("consumption_by_level_and_month")
	if err != nil {
		t.Fatal(err)
	}
	columns, _ := o.consumption()
	names := strings.Fields(columns)
	at := func(name string) int { return slices.Index(names, name) }
	got := map[string]string{}
	for _, row := range o.answer(t, q, names, "--as-of", then, "--param", "from_month=2026-06", "--param", "until_month=2026-07") {
		got[row[at("customer_id")]+" "+row[at("subscription")]+" "+row[at("level")]] = row[at("days_observed")] + " " + row[at("consumed_avg_tib")] + " " + row[at("accrued_burst_tib")]
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("(-oracle +query):\n%s", diff)
	}
	for _, q := range queries.All() {
		if q.IsTimeless() {
			wantContains(t, q.Name, o.must(exitUsage, "report", q.Name, "--as-of", then).stderr, "is not kept as it was known: want add_on_against_base, ")
		} else {
			o.must(exitDone, "report", q.Name, "--as-of", then)
		}
	}
}

// answer asks by `meterhouse report`, which must print exactly these columns.
func (o *oracle) answer(t *testing.T, q queries.Query, columns []string, args ...string) [][]string {
	t.Helper()
	out := o.must(exitDone, append([]string{"report", q.Name, "--format", "json"}, args...)...).stdout
	var records []map[string]any
	dec := json.NewDecoder(bytes.NewReader([]byte(out)))
	dec.UseNumber()
	if err := dec.Decode(&records); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	header, _, _ := strings.Cut(o.must(exitDone, append([]string{"report", q.Name, "--format", "csv"}, args...)...).stdout, "\n")
	if want := strings.Join(columns, ","); header != want {
		t.Fatalf("columns %s, want %s", header, want)
	}
	var rows [][]string
	for _, record := range records {
		var row []string
		for _, name := range columns {
			switch v := record[name].(type) {
			case nil:
				row = append(row, unknown)
			case json.Number:
				row = append(row, canonical(string(v)))
			default:
				row = append(row, fmt.Sprint(v))
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// unchangedElsewhere runs the file as psql, Metabase and DBeaver do: as the role bi_reader, by the
// simple and by the extended protocol, in the time zone of somebody's desk. Now is that of the last
// load, since it was fixed. The answer must be the same, but for the zone in which instants show.
func (o *oracle) unchangedElsewhere(t *testing.T, q queries.Query, want [][]string) {
	t.Helper()
	conn := warehousetest.Connect(t, o.database)
	if _, err := conn.Exec(t.Context(), `set role bi_reader; set timezone = 'Pacific/Kiritimati'`); err != nil {
		t.Fatal(err)
	}
	for _, protocol := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		rows, err := conn.Query(t.Context(), q.SQL, protocol, pgx.QueryResultFormats{pgx.TextFormatCode})
		if err != nil {
			t.Fatal(err)
		}
		var got [][]string
		for rows.Next() {
			var row []string
			for i, raw := range rows.RawValues() {
				text := string(raw)
				switch oid := rows.FieldDescriptions()[i].DataTypeOID; {
				case raw == nil:
					text = unknown
				case oid == pgtype.TimestamptzOID:
					at, err := time.Parse("2006-01-02 15:04:05-07", text)
					if err != nil {
						t.Fatal(err)
					}
					text = at.UTC().Format("2006-01-02 15:04:05+00")
				case oid == pgtype.BoolOID:
					text = strconv.FormatBool(text == "t")
				case oid == pgtype.NumericOID:
					text = canonical(text)
				}
				row = append(row, text)
			}
			got = append(got, row)
		}
		if diff := gocmp.Diff(want, got); diff != "" || rows.Err() != nil {
			t.Errorf("as bi_reader: %v (-oracle +query):\n%s", rows.Err(), diff)
		}
	}
}

const unknown = "NULL"

// canonical is a decimal without trailing zeros.
func canonical(s string) string {
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

func rational(s string) *big.Rat {
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		panic("not a number: " + s)
	}
	return r
}

func plus(a, b string) string {
	return canonical(new(big.Rat).Add(rational(a), rational(b)).FloatString(30))
}

func minus(a, b string) string {
	if a == unknown || b == unknown {
		return unknown
	}
	return canonical(new(big.Rat).Sub(rational(a), rational(b)).FloatString(30))
}

func less(a, b string) int { return rational(a).Cmp(rational(b)) }

// quotient is rounded half away from zero.
func quotient(a, b *big.Rat, places int) string {
	return canonical(new(big.Rat).Quo(a, b).FloatString(places))
}

// level is a series with the days of a span.
type levelDays struct {
	key  string // in the order of the queries
	days []keystonesim.DayTotal
}

func levelName(d keystonesim.DayTotal) string {
	if d.Ordinal > 0 {
		return fmt.Sprintf("%s #%d", d.ServiceLevel, d.Ordinal+1)
	}
	return d.ServiceLevel
}

func class(d keystonesim.DayTotal) string { return cmp.Or(classes[d.ServiceLevel], "base") }

// levels groups days by series, in the order in which the queries list them.
func levels(days []keystonesim.DayTotal, from, until string) (all []levelDays) {
	for _, d := range days {
		if day := d.Day.Format(time.DateOnly); day < from || day >= until {
			continue
		}
		key := strings.Join([]string{d.CustomerID, d.SubscriptionNumber, d.ServiceLevel, strconv.Itoa(d.Ordinal)}, "\x00")
		i := slices.IndexFunc(all, func(l levelDays) bool { return l.key == key })
		if i < 0 {
			i = len(all)
			all = append(all, levelDays{key: key})
		}
		all[i].days = append(all[i].days, d)
	}
	slices.SortFunc(all, func(a, b levelDays) int { return strings.Compare(a.key, b.key) })
	return all
}

func (l levelDays) last() keystonesim.DayTotal { return l.days[len(l.days)-1] }

func (l levelDays) mean() string {
	sum := new(big.Rat)
	for _, d := range l.days {
		sum.Add(sum, rational(d.ConsumedAvg))
	}
	return quotient(sum, big.NewRat(int64(len(l.days)), 1), 12)
}

func (l levelDays) accrued() string {
	sum := "0"
	for _, d := range l.days {
		sum = plus(sum, d.AccruedSum)
	}
	return sum
}

// label is what names a level in a row.
func (o *oracle) label(d keystonesim.DayTotal) []string {
	return []string{d.CustomerID, o.names[d.CustomerID], d.SubscriptionNumber, levelName(d), class(d)}
}

const labels = "customer_id customer_name subscription level level_class "

func (o *oracle) consumption() (string, [][]string) {
	var rows [][]string
	for _, month := range []struct{ from, until, expected string }{
		{"2026-05-01", "2026-06-01", "22"}, {"2026-06-01", "2026-07-01", "30"}, {"2026-07-01", "2026-08-01", "31"},
	} {
		for _, l := range levels(o.days, month.from, month.until) {
			maximum, invoiced := l.days[0].ConsumedMax, true
			for _, d := range l.days {
				if less(maximum, d.ConsumedMax) < 0 {
					maximum = d.ConsumedMax
				}
				invoiced = invoiced && *d.Invoiced
			}
			rows = append(rows, slices.Concat([]string{month.from}, o.label(l.last()), []string{
				l.last().CommittedLast, l.mean(), maximum, l.accrued(),
				strconv.Itoa(len(l.days)), month.expected, strconv.FormatBool(invoiced),
			}))
		}
	}
	return "month " + labels + "committed_tib consumed_avg_tib consumed_max_tib accrued_burst_tib days_observed days_expected all_invoiced", rows
}

func (o *oracle) daysOver() (string, [][]string) {
	type over struct {
		days int
		row  []string
	}
	var all []over
	for _, l := range levels(o.days, "2026-06-01", "2026-07-01") {
		n, worst := 0, l.days[0]
		for _, d := range l.days {
			if d.OverCommittedAvg != "0" {
				n++
			}
			if less(worst.OverCommittedAvg, d.OverCommittedAvg) < 0 {
				worst = d
			}
		}
		if n > 0 {
			all = append(all, over{n, append(o.label(l.last()), l.last().CommittedLast, strconv.Itoa(n), strconv.Itoa(len(l.days)),
				worst.OverCommittedAvg, worst.Day.Format(time.DateOnly))})
		}
	}
	slices.SortStableFunc(all, func(a, b over) int { return b.days - a.days })
	var rows [][]string
	for _, a := range all {
		rows = append(rows, a.row)
	}
	return labels + "committed_tib days_over days_observed worst_over_avg_tib worst_day", rows
}

// expectedInJune is how many days a level owes in June: it was there before, and no term ends.
const expectedInJune = 30

// sums of a subscription's levels of one class in June.
type classSums struct {
	customer, subscription, class string
	levels, lacking               int
	committed, mean, accrued      string
}

func (o *oracle) june() (all []*classSums) {
	for _, l := range levels(o.days, "2026-06-01", "2026-07-01") {
		d := l.last()
		i := slices.IndexFunc(all, func(s *classSums) bool {
			return s.customer == d.CustomerID && s.subscription == d.SubscriptionNumber && s.class == class(d)
		})
		if i < 0 {
			i = len(all)
			all = append(all, &classSums{customer: d.CustomerID, subscription: d.SubscriptionNumber, class: class(d), committed: "0", mean: "0", accrued: "0"})
		}
		s := all[i]
		s.levels++
		s.lacking += expectedInJune - len(l.days)
		s.committed, s.mean, s.accrued = plus(s.committed, d.CommittedLast), plus(s.mean, l.mean()), plus(s.accrued, l.accrued())
	}
	return all
}

func (o *oracle) topBursting() (string, [][]string) {
	order := []string{"base", "add_on", "unclassified"}
	all := slices.DeleteFunc(o.june(), func(s *classSums) bool { return s.accrued == "0" })
	slices.SortStableFunc(all, func(a, b *classSums) int {
		return cmp.Or(slices.Index(order, a.class)-slices.Index(order, b.class), less(b.accrued, a.accrued))
	})
	var rows [][]string
	place := map[string]int{}
	for _, s := range all {
		place[s.class]++
		percent := unknown
		if s.committed != "0" {
			percent = quotient(new(big.Rat).Mul(big.NewRat(100, 1), rational(s.accrued)), rational(s.committed), 1)
		}
		rows = append(rows, []string{s.class, strconv.Itoa(place[s.class]), s.customer, o.names[s.customer], s.subscription, strconv.Itoa(s.levels),
			s.committed, s.accrued, percent, strconv.Itoa(s.lacking)})
	}
	return "level_class place customer_id customer_name subscription levels committed_tib accrued_burst_tib percent_of_committed days_lacking", rows
}

func (o *oracle) addOns() (string, [][]string) {
	type pair struct{ customer, subscription string }
	all, lacking := map[pair]map[string]*classSums{}, map[pair]int{}
	var order []pair
	for _, s := range o.june() {
		p := pair{s.customer, s.subscription}
		if all[p] == nil {
			all[p] = map[string]*classSums{}
			order = append(order, p)
		}
		all[p][s.class] = s
		lacking[p] += s.lacking
	}
	var rows [][]string
	for _, p := range order {
		if all[p]["add_on"] == nil && all[p]["unclassified"] == nil {
			continue
		}
		row := []string{p.customer, o.names[p.customer], p.subscription}
		for _, figure := range []func(*classSums) string{
			func(s *classSums) string { return s.committed }, func(s *classSums) string { return s.mean },
		} {
			for _, class := range []string{"base", "add_on", "unclassified"} {
				if s := all[p][class]; s != nil {
					row = append(row, figure(s))
				} else {
					row = append(row, unknown)
				}
			}
		}
		rows = append(rows, append(row, strconv.Itoa(lacking[p])))
	}
	return "customer_id customer_name subscription base_committed_tib add_on_committed_tib unclassified_committed_tib " +
		"base_consumed_tib add_on_consumed_tib unclassified_consumed_tib days_lacking", rows
}

func (o *oracle) monthToDate() (string, [][]string) {
	var rows [][]string
	last := levels(o.days, "2026-06-01", "2026-06-10")
	for i, l := range levels(o.days, "2026-07-01", "2026-07-10") {
		b := last[i]
		rows = append(rows, append(o.label(l.last()), strconv.Itoa(len(l.days)), strconv.Itoa(len(b.days)),
			l.mean(), b.mean(), minus(l.mean(), b.mean()), l.accrued(), b.accrued(), minus(l.accrued(), b.accrued())))
	}
	return labels + "days_this days_last avg_this_tib avg_last_tib avg_change_tib accrued_this_tib accrued_last_tib accrued_change_tib", rows
}

// The commitment of one level falls at noon of 17 May; the contract was told before and after.
func (o *oracle) commitmentChanges() (string, [][]string) {
	var rows [][]string
	first, second := oracleLoads[0], oracleLoads[1]
	contract := map[string]string{} // commitment that the first contract told
	for _, l := range levels(o.before[first], oracleStart, first) {
		contract[l.key] = l.last().CommittedLast
	}
	for _, l := range levels(o.days, oracleStart, oracleNow) {
		for i, d := range l.days[1:] {
			if before := l.days[i]; before.CommittedLast != d.CommittedLast {
				rows = append(rows, slices.Concat([]string{d.Day.Format(time.DateOnly), before.Day.AddDate(0, 0, 1).Format(time.DateOnly), "history"},
					o.label(d), []string{before.CommittedLast, d.CommittedLast, minus(d.CommittedLast, before.CommittedLast)}))
			}
		}
	}
	for _, l := range levels(o.before[second], oracleStart, second) {
		if now, was := l.last().CommittedLast, contract[l.key]; now != was {
			rows = append(rows, slices.Concat([]string{second[:10], unknown, "contract"}, o.label(l.last()), []string{was, now, minus(now, was)}))
		}
	}
	return "changed_on not_before told_by " + labels + "before_tib after_tib change_tib", rows
}

// accruedCheck is June by the formula, from the fakes' own totals of the days.
func (o *oracle) accruedCheck() (string, [][]string) {
	var rows [][]string
	for _, l := range levels(o.days, "2026-06-01", "2026-07-01") {
		own, samples, expected, minutes := new(big.Rat), 0, 0, 0
		for _, d := range l.days {
			minutes = 24 * 60 / d.Samples
			over := new(big.Rat).Mul(rational(d.OverCommittedAvg), big.NewRat(int64(d.Samples*minutes), 1))
			own.Add(own, over)
			samples, expected = samples+d.Samples, expected+24*60/minutes
		}
		recomputed := quotient(own, big.NewRat(30*24*60, 1), 12)
		difference := minus(l.accrued(), recomputed)
		within := new(big.Rat).Abs(rational(difference)).Cmp(big.NewRat(1, 100)) <= 0
		d := l.last()
		rows = append(rows, []string{d.CustomerID, d.SubscriptionNumber, levelName(d), "increment", l.accrued(), recomputed, difference, strconv.FormatBool(within),
			strconv.Itoa(minutes), strconv.Itoa(samples), strconv.Itoa(expected), strconv.Itoa(len(l.days)), "0"})
	}
	return "customer_id subscription level reading vendor_tib recomputed_tib difference_tib within_tolerance interval_minutes samples samples_expected " +
		"days_observed days_from_daily_rows", rows
}

func (o *oracle) restatedDays() (string, [][]string) {
	key := func(d keystonesim.DayTotal) string {
		return fmt.Sprint(d.CustomerID, d.SubscriptionNumber, d.ServiceLevel, d.Ordinal, d.Day)
	}
	now := map[string]keystonesim.DayTotal{}
	for _, d := range o.days {
		now[key(d)] = d
	}
	var rows [][]string
	for i, load := range oracleLoads[:len(oracleLoads)-1] {
		until := instant(o.t, load).Add(-2 * time.Hour).Format(time.DateOnly) // not settled from here on
		learned := oracleLoads[i+1]
		told := map[string]keystonesim.DayTotal{}
		for _, d := range o.before[learned] {
			told[key(d)] = d
		}
		// One is restated once at most: three days after its end.
		for _, l := range levels(o.before[load], oracleStart, until) {
			for _, d := range l.days {
				next := told[key(d)]
				if next.ConsumedAvg == d.ConsumedAvg {
					continue
				}
				next.Invoiced = now[key(d)].Invoiced // the flag is that of now
				var changed []string
				for _, c := range []struct{ name, old, new string }{
					{"accrued_last_tib", d.AccruedLast, next.AccruedLast}, {"accrued_sum_tib", d.AccruedSum, next.AccruedSum},
					{"burst_avg_tib", d.BurstAvg, next.BurstAvg}, {"committed_tib", d.CommittedLast, next.CommittedLast},
					{"consumed_avg_tib", d.ConsumedAvg, next.ConsumedAvg}, {"consumed_last_tib", d.ConsumedLast, next.ConsumedLast},
					{"consumed_max_tib", d.ConsumedMax, next.ConsumedMax},
					{"is_invoiced", strconv.FormatBool(*d.Invoiced), strconv.FormatBool(*next.Invoiced)},
					{"over_committed_avg_tib", d.OverCommittedAvg, next.OverCommittedAvg}, {"samples", "", "other"},
				} {
					if c.old != c.new {
						changed = append(changed, c.name)
					}
				}
				label := o.label(d)
				rows = append(rows, []string{
					strings.NewReplacer("T", " ", "Z", "+00").Replace(learned), d.Day.Format(time.DateOnly), label[0], label[2], label[3],
					"restated", strconv.FormatBool(*d.Invoiced), minus(next.ConsumedAvg, d.ConsumedAvg), minus(next.AccruedSum, d.AccruedSum),
					strings.Join(changed, ", "),
				})
			}
		}
	}
	return "learned_at usage_date customer_id subscription level kind was_invoiced consumed_avg_change_tib accrued_change_tib changed", rows
}

func (o *oracle) units() map[string]etl.Product {
	products := map[string]etl.Product{}
	for _, p := range wolkvox.Catalogue() {
		products[p.Code] = p
	}
	return products
}

func (r reading) day() string { return r.Date }

func (r reading) key() string { return r.API + "\x00" + r.Description }

// sortedReadings are those of a span of local days, by product and description, then by time.
func (o *oracle) sortedReadings(from, until string) (all []reading) {
	for _, r := range o.readings {
		if r.day() >= from && r.day() < until {
			all = append(all, r)
		}
	}
	slices.SortStableFunc(all, func(a, b reading) int { return strings.Compare(a.key(), b.key()) })
	return all
}

// newestOf keeps the last reading of each product and description.
func newestOf(all []reading) map[string]reading {
	newest := map[string]reading{}
	for _, r := range all {
		newest[r.key()] = r
	}
	return newest
}

func (o *oracle) highWater() (string, [][]string) {
	var rows [][]string
	products := o.units()
	for _, month := range []string{"2026-05", "2026-06", "2026-07"} {
		all := o.sortedReadings(month+"-01", month+"-32")
		for i := 0; i < len(all); {
			most, days, first := all[i], map[string]bool{}, all[i]
			for ; i < len(all) && all[i].key() == first.key(); i++ {
				days[all[i].day()] = true
				if less(most.Number, all[i].Number) < 0 {
					most = all[i]
				}
			}
			p := products[first.API]
			rows = append(rows, []string{month + "-01", "calls", first.Operation, first.API, first.Description, string(p.Kind),
				most.Number, p.Unit, most.day(), strconv.Itoa(len(days))})
		}
	}
	return "month account operation product description kind items_max unit reached_on days_read", rows
}

func (o *oracle) usageToDate() (string, [][]string) {
	var rows [][]string
	products := o.units()
	this, last := newestOf(o.sortedReadings("2026-07-01", "2026-07-10")), newestOf(o.sortedReadings("2026-06-01", "2026-06-10"))
	seen := map[string]bool{}
	for _, r := range o.sortedReadings("2026-06-01", "2026-07-10") {
		if products[r.API].Kind != etl.Counter || seen[r.key()] {
			continue
		}
		seen[r.key()] = true
		a, b := this[r.key()], last[r.key()]
		rows = append(rows, []string{"calls", r.Operation, r.API, r.Description, products[r.API].Unit,
			a.day(), a.Number, b.day(), b.Number, minus(a.Number, b.Number)})
	}
	return "account operation product description unit read_on items last_read_on last_items change", rows
}

func (o *oracle) newestReadings() (string, [][]string) {
	var rows [][]string
	now := instant(o.t, oracleNow)
	row := func(source, scope, subject, item, kind, quantity, committed, unit string, at time.Time) {
		rows = append(rows, []string{source, scope, subject, item, kind, quantity, committed, unit,
			at.UTC().Format("2006-01-02 15:04:05+00"), strconv.Itoa(int(now.Sub(at) / time.Hour))})
	}
	today := levels(o.keystone.Oracle(now, now.AddDate(0, 0, 1)), oracleNow[:10], "2026-07-11")
	for _, l := range today {
		d := l.last()
		at := d.Day // daily samples are taken at midnight, the others at noon too
		if d.Samples > 1 {
			at = now
		}
		row("keystone", d.CustomerID, d.SubscriptionNumber, levelName(d), class(d), d.ConsumedLast, d.CommittedLast, "TiB", at)
	}
	newest := newestOf(o.readings)
	for _, r := range o.sortedReadings(oracleStart, oracleNow) {
		if at, found := newest[r.key()]; found {
			p := o.units()[r.API]
			row("wolkvox", "calls", r.Operation, r.API+": "+r.Description, string(p.Kind), at.Number, unknown, p.Unit, at.at)
			delete(newest, r.key())
		}
	}
	return "source scope subject item kind quantity committed unit read_at age_hours", rows
}

func (o *oracle) endingSoon() (string, [][]string) {
	return "end_day days_left customer_id customer_name subscription account_name start_day base_committed_tib add_on_committed_tib " +
			"unclassified_committed_tib absent_since", [][]string{
			{"2027-06-30", "355", "0042117", "Brightmere Seed Bank", "A-S00052993", "Brightmere Seed Bank", "2024-07-01", "50", "50", unknown, unknown},
		}
}

// missingDays: a level of Østerlund skips two days of even months; wolkvox is only known for the days
// of its readings, and one of them was refused altogether.
func (o *oracle) missingDays() (string, [][]string) {
	rows := [][]string{{"keystone", "keystone.history", "73350192", "A-S00060018", "Standard", "missing", "2026-06-11", "2026-06-12", "2"}}
	read := map[string]bool{}
	for _, local := range oracleReadings {
		read[local[:10]] = true
	}
	var products []string
	for _, p := range wolkvox.Catalogue() {
		products = append(products, p.Code)
	}
	slices.Sort(products)
	first, err := etl.ParseDay(oracleReadings[0][:10])
	if err != nil {
		o.t.Fatal(err)
	}
	until := etl.DayOf(instant(o.t, oracleNow))
	for _, product := range products {
		statusOf := func(d etl.Day) string {
			switch {
			case d >= until:
				return ""
			case product == "chat_licenses" && d.String() == "2026-07-03":
				return "partial"
			case !read[d.String()]:
				return "lost"
			}
			return ""
		}
		for d := first; d < until; d++ {
			status, from := statusOf(d), d
			if status == "" {
				continue
			}
			for statusOf(d+1) == status {
				d++
			}
			rows = append(rows, []string{"wolkvox", "wolkvox.billing", "calls", unknown, product, status,
				from.String(), d.String(), strconv.Itoa(int(d-from) + 1)})
		}
	}
	return "source dataset scope subscription series status first_day last_day days", rows
}

// quarantined: three readings were refused; a good one of the same day settled the one of vision.
func (o *oracle) quarantined() (string, [][]string) {
	newest := o.value(`select max(quarantine_id)::text from ops.quarantine where resolved_at is null`)
	return "source dataset reason open settled first_at last_at newest_open", [][]string{
		{"wolkvox", "wolkvox.billing", "number_format", "2", "1", "2026-07-03 17:00:00+00", "2026-07-04 04:45:00+00", newest},
	}
}

// line is one of a statement, worked out from the fakes' totals.
type line struct {
	d                       keystonesim.DayTotal // of keystone: its last
	r                       reading              // of wolkvox: the one that counts
	charge, quantity, price string               // no price: unknown
	currency                string
	isProvisional           bool
}

// statement is that of June.
func (o *oracle) statement() []line { return o.statementOf("2026-06-01", "2026-07-01", "12.5") }

// statementOf a month is in the order of levels and readings. Commitments stay as they are through a month, so that
// every level commits the same on each day from the first that is known, whatever days are missing. burstPrice is that
// of customer 0042117.
func (o *oracle) statementOf(from, until, burstPrice string) (lines []line) {
	committed, burst := map[string]string{}, map[string]string{}
	prices := map[string][3]string{"0042117": {"10.5", burstPrice, "USD"}, "73350192": {"9", "9.125", "EUR"}, "C-1001": {"10.5", "12.25", "USD"}}
	day := func(text string) time.Time { return instant(o.t, text+"T00:00:00Z") }
	owed := day(until).Sub(slices.MaxFunc([]time.Time{day(from), day(oracleStart)}, time.Time.Compare))
	var names []levelDays // levels of one name are one line
	for _, l := range levels(o.days, from, until) {
		name := strings.TrimRight(l.key, "0123456789")
		// Where a day is lacking, no level's commitment changes.
		part := new(big.Rat).Mul(rational(l.last().CommittedLast), big.NewRat(int64(owed/(24*time.Hour))-int64(len(l.days)), 1))
		for _, d := range l.days {
			part.Add(part, rational(d.CommittedLast))
		}
		part.Quo(part, big.NewRat(int64(day(until).Sub(day(from))/(24*time.Hour)), 1))
		committed[name] = plus(cmp.Or(committed[name], "0"), part.RatString())
		burst[name] = plus(cmp.Or(burst[name], "0"), l.accrued())
		if l.last().Ordinal == 0 {
			names = append(names, levelDays{name, l.days})
		}
	}
	for _, l := range names {
		d, price := l.last(), prices[l.last().CustomerID]
		if class(d) == "unclassified" {
			price = [3]string{unknown, unknown, unknown}
		}
		lacks := len(l.days) < expectedInJune
		lines = append(lines, line{d: d, charge: "burst", quantity: burst[l.key], price: price[1], currency: price[2], isProvisional: lacks},
			line{d: d, charge: "committed", quantity: committed[l.key], price: price[0], currency: price[2], isProvisional: lacks})
	}
	products := o.units()
	most, read := map[string]reading{}, map[string]map[string]bool{}
	all := o.sortedReadings(from, until)
	for _, r := range all {
		if read[r.key()] == nil {
			read[r.key()] = map[string]bool{}
		}
		read[r.key()][r.day()] = true
		if was, met := most[r.key()]; !met || products[r.API].Kind == etl.Counter || less(was.Number, r.Number) < 0 {
			most[r.key()] = r
		}
	}
	for _, r := range all {
		if m, isFirst := most[r.key()]; isFirst {
			// A day that nobody read may have had the greatest reading; a counter has grown past it.
			l := line{r: m, charge: "license", quantity: canonical(m.Number), price: "3.55", currency: "USD", isProvisional: len(read[r.key()]) < expectedInJune}
			if products[r.API].Kind == etl.Counter {
				l.charge, l.price, l.currency, l.isProvisional = "usage", unknown, unknown, false
			}
			lines = append(lines, l)
			delete(most, r.key())
		}
	}
	return lines
}

func (l line) source() (source, owner string) {
	if l.r.API != "" {
		return "wolkvox", "calls"
	}
	return "keystone", l.d.CustomerID
}

// amount is rounded half away from zero.
func amount(quantity, price string) string {
	return canonical(new(big.Rat).Mul(rational(quantity), rational(price)).FloatString(2))
}

func (o *oracle) statementByCustomer() (string, [][]string) {
	charges := []string{"committed", "burst", "license", "usage"}
	var rows [][]string
	for _, l := range o.statement() {
		source, owner := l.source()
		i := slices.IndexFunc(rows, func(row []string) bool { return row[1] == owner && row[3] == l.currency })
		if i < 0 {
			i = len(rows)
			rows = append(rows, []string{source, owner, cmp.Or(o.names[owner], unknown), l.currency, "0", "0", unknown, unknown, unknown, unknown, unknown})
		}
		row := rows[i]
		row[4] = plus(row[4], "1")
		if l.isProvisional {
			row[5] = plus(row[5], "1")
		}
		if l.price == unknown {
			continue
		}
		for _, at := range []int{6 + slices.Index(charges, l.charge), 10} {
			if row[at] == unknown {
				row[at] = "0"
			}
			row[at] = plus(row[at], amount(l.quantity, l.price))
		}
	}
	last := strings.NewReplacer(unknown, "~")
	slices.SortStableFunc(rows, func(a, b []string) int {
		return cmp.Or(strings.Compare(a[0], b[0]), strings.Compare(a[1], b[1]), strings.Compare(last.Replace(a[3]), last.Replace(b[3])))
	})
	return "source customer_or_account customer_name currency lines provisional committed_amount burst_amount license_amount usage_amount amount", rows
}

func (o *oracle) unpricedLines() (string, [][]string) {
	var rows [][]string
	for _, l := range o.statement() {
		if l.price != unknown {
			continue
		}
		source, owner := l.source()
		row := []string{source, owner, l.d.SubscriptionNumber, l.d.ServiceLevel, unknown, l.charge, "false", class(l.d), l.quantity, "TiB-month"}
		if source == "wolkvox" {
			row = []string{source, owner, l.r.Operation, l.r.API, l.r.Description, l.charge, "false", unknown, l.quantity, o.units()[l.r.API].Unit}
		}
		rows = append(rows, append(row, "2026-06-01", "2026-06-30", "final"))
	}
	return "source customer_or_account subscription item description charge is_waiver level_class quantity unit segment_from segment_to state", rows
}

// adjustments: from 20 May on the burst of one customer has another price. There the line of May is cut in two, and
// each part is rounded.
func (o *oracle) adjustments() (string, [][]string) {
	const since = "2026-05-20"
	var rows [][]string
	for _, l := range levels(o.days, "2026-05-01", "2026-06-01") {
		before, after := "0", "0"
		var changed []string
		for _, d := range l.days {
			switch day := d.Day.Format(time.DateOnly); {
			case day < since:
				before = plus(before, d.AccruedSum)
			case d.AccruedSum != "0":
				after = plus(after, d.AccruedSum)
				changed = append(changed, day)
			}
		}
		if d := l.last(); d.CustomerID == "0042117" && len(changed) > 0 {
			now := plus(amount(before, "12.25"), amount(after, "12.5"))
			rows = append(rows, []string{"2026-05", "2026-06", "open", "keystone", d.CustomerID, d.SubscriptionNumber, d.ServiceLevel, "burst", "rate_changed",
				changed[0], changed[len(changed)-1], strconv.Itoa(len(changed)), "0", "TiB-month", minus(now, amount(plus(before, after), "12.25")), "USD"})
		}
	}
	return "closed_month adjusted_in state source customer_or_account subscription item charge reason first_day last_day days quantity unit amount currency", rows
}

// costChange compares June with May, which was closed at the price of before for customer 0042117.
func (o *oracle) costChange() (string, [][]string) {
	type thing struct{ row, before, now []string } // quantity, price, amount
	var things []*thing
	for i, month := range [][]line{o.statementOf("2026-05-01", "2026-06-01", "12.25"), o.statement()} {
		for _, l := range month {
			source, owner := l.source()
			row := []string{source, owner, cmp.Or(o.names[owner], unknown), l.d.SubscriptionNumber, l.d.ServiceLevel, unknown, l.charge, "TiB-month", l.currency}
			if source == "wolkvox" {
				row = []string{source, owner, unknown, l.r.Operation, l.r.API, l.r.Description, l.charge, o.units()[l.r.API].Unit, l.currency}
			}
			at := slices.IndexFunc(things, func(t *thing) bool { return slices.Equal(t.row[:9], row) })
			if at < 0 {
				at = len(things)
				things = append(things, &thing{row: append(row, "0"), before: []string{unknown, unknown, "0"}, now: []string{unknown, unknown, "0"}})
			}
			figures := []string{l.quantity, l.price, unknown}
			if l.price != unknown {
				figures[2] = amount(l.quantity, l.price)
			}
			if things[at].now = figures; i == 0 {
				things[at].before, things[at].now = figures, []string{unknown, unknown, "0"}
			} else if l.isProvisional {
				things[at].row[9] = "1"
			}
		}
	}
	var rows [][]string
	for _, t := range things {
		if t.before[2] == unknown || !slices.Equal(t.before, t.now) {
			quantities := []string{rounded(t.before[0]), rounded(t.now[0]), t.before[1], t.now[1], t.before[2], t.now[2]}
			rows = append(rows, slices.Concat(t.row[:9], quantities, []string{minus(t.now[2], t.before[2]), t.row[9]}))
		}
	}
	size := func(row []string) *big.Rat {
		if row[15] == unknown {
			return big.NewRat(-1, 1)
		}
		return new(big.Rat).Abs(rational(row[15]))
	}
	last := strings.NewReplacer(unknown, "~")
	slices.SortFunc(rows, func(a, b []string) int {
		return cmp.Or(strings.Compare(last.Replace(a[8]), last.Replace(b[8])), size(b).Cmp(size(a)), slices.Compare(a[:7], b[:7]))
	})
	return "source customer_or_account customer_name subscription item description charge unit currency quantity_before quantity " +
		"unit_price_before unit_price amount_before amount change_amount provisional", rows
}

// rounded is a quantity as it is told: with 12 decimals.
func rounded(quantity string) string {
	if quantity == unknown {
		return unknown
	}
	return quotient(rational(quantity), big.NewRat(1, 1), 12)
}

func (o *oracle) unusedCommitment() (string, [][]string) {
	type unused struct {
		mean *big.Rat
		row  []string
	}
	var all []unused
	for _, l := range levels(o.days, "2026-04-01", "2026-07-01") {
		committed, consumed, most, never := new(big.Rat), new(big.Rat), new(big.Rat), rational(minus(l.days[0].CommittedLast, l.days[0].ConsumedMax))
		for _, d := range l.days {
			committed.Add(committed, rational(d.CommittedLast))
			consumed.Add(consumed, rational(d.ConsumedAvg))
			if m := rational(d.ConsumedMax); m.Cmp(most) > 0 {
				most = m
			}
			if free := rational(minus(d.CommittedLast, d.ConsumedMax)); free.Cmp(never) < 0 {
				never = free
			}
		}
		if committed.Sign() == 0 {
			continue
		}
		n, free := big.NewRat(int64(len(l.days)), 1), unknown
		if never.Sign() > 0 {
			free = canonical(never.FloatString(40))
		}
		mean := new(big.Rat).Sub(committed, consumed)
		mean.Quo(mean, n)
		all = append(all, unused{mean, append(o.label(l.last()), strconv.Itoa(len(l.days)), quotient(committed, n, 12), quotient(consumed, n, 12),
			canonical(most.FloatString(40)), canonical(mean.FloatString(12)), quotient(new(big.Rat).Mul(consumed, big.NewRat(100, 1)), committed, 1), free)})
	}
	slices.SortStableFunc(all, func(a, b unused) int { return b.mean.Cmp(a.mean) })
	var rows [][]string
	for _, u := range all {
		rows = append(rows, u.row)
	}
	return labels + "days_observed committed_avg_tib consumed_avg_tib consumed_max_tib unused_avg_tib percent_used never_used_tib", rows
}
