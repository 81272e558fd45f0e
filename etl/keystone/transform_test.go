package keystone

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/go-json-experiment/json/jsontext"

	"meterhouse/etl"
	"meterhouse/etl/internal/accept"
	"meterhouse/etl/internal/fetch"
	"meterhouse/etl/internal/jsonread"
)

// The base documents of the failure model, section 3.3.
const (
	baseHistory       = `{"results":{"returned_records":1,"records":[{"subscription":{"account_name":"ACME","number":"A-S00012345","start_date":"2025-01-01T00:00:00Z","end_date":"2027-12-31T23:59:59Z"},"service_levels":[{"name":"Extreme","historical_consumption":[{"committed_tib":100,"consumed_tib":112.5,"timestamp_utc":"2026-05-14T00:00:00Z","burst_tib":12.5,"accrued_burst_tib":0.4,"is_invoiced":false}]}]}],"request_parameters":{"from_date_utc":"2026-05-14","to_date_utc":"2026-05-14","customer_id":"C-1001"},"request_id":"r-1","response_time":"0.21","customer":{"name":"ACME","id":"C-1001"}}}`
	baseCurrent       = `{"result":{"returned_records":"1","records":[{"subscription":{"account_name":"ACME","number":"A-S00012345","start_date":"2025-01-01T00:00:00Z","end_date":"2027-12-31T23:59:59Z"},"service_levels":[{"name":"Extreme","committed_tib":"100","consumed_tib":"112.5","consumed_timestamp_utc":"2026-05-15T06:00:00Z","burst_tib":"12.5","accrued_burst_tib":"0.4"}]}],"request_id":"r-2","response_time":"0.2"}}`
	baseSubscriptions = `[{"results":{"returned_records":1,"records":[{"subscription":{"account_name":"ACME","number":"A-S00012345","start_date":"2025-01-01T00:00:00.254Z","end_date":"2027-12-31T23:59:59.255Z"},"service_levels":[{"name":"Extreme","committed_tib":100}]}],"request_id":"r-3","response_time":"0.2"}}]`
	baseCustomers     = `{"results":{"returned_records":1,"records":[{"Customers":[{"customer_id":"C-1001","customer_name":"ACME"}]}],"request_id":"r-4","response_time":"0.1"}}`
)

// Pointers of the failure model.
const (
	atR   = "/results/records/0"
	atS   = atR + "/subscription"
	atL   = atR + "/service_levels/0"
	atD   = atL + "/historical_consumption/0"
	atCL  = "/result/records/0/service_levels/0"
	atKSL = "/0/results/records/0/service_levels/0"
)

var (
	day      = cut(baseHistory, atD)
	day2     = strings.NewReplacer("112.5", "113", "12.5", "13").Replace(day)
	docClock = time.Date(2026, 5, 15, 12, 0, 0, 0, time.UTC)
)

// span finds the value at a pointer: its own bytes, and those of the whole member.
func span(doc, pointer string) (member, from, until int) {
	d := jsontext.NewDecoder(strings.NewReader(doc), jsontext.AllowDuplicateNames(true))
	for {
		before := int(d.InputOffset())
		_, err := d.ReadToken()
		if err != nil {
			panic("no " + pointer + " in the document")
		}
		if string(d.StackPointer()) != pointer {
			continue
		}
		// Names are tokens as well: the value of a member follows its name.
		if kind, n := d.StackIndex(d.StackDepth()); kind == '{' && n%2 == 1 {
			member = before
			value, err := d.ReadValue()
			if err != nil {
				panic(err)
			}
			until = int(d.InputOffset())
			return member, until - len(value), until
		}
		// An element was read by its first token only: read it again as a whole.
		e := jsontext.NewDecoder(strings.NewReader(doc[before+len(doc[before:])-len(strings.TrimLeft(doc[before:], ", :")):]))
		start := before + len(doc[before:]) - len(strings.TrimLeft(doc[before:], ", :"))
		value, err := e.ReadValue()
		if err != nil {
			panic(err)
		}
		return start, start, start + len(value)
	}
}

func cut(doc, pointer string) string {
	_, from, until := span(doc, pointer)
	return doc[from:until]
}

// patch replaces the value at pointer by raw text, which may add further members.
func patch(doc, pointer, raw string) string {
	_, from, until := span(doc, pointer)
	return doc[:from] + raw + doc[until:]
}

// remove takes the member at pointer away, with a comma beside it.
func remove(doc, pointer string) string {
	member, _, until := span(doc, pointer)
	if doc[member] == ',' {
		return doc[:member] + doc[until:]
	}
	return doc[:member] + strings.TrimPrefix(doc[until:], ",")
}

func levelOf(name string, days ...string) string {
	return `{"name":` + name + `,"historical_consumption":[` + strings.Join(days, ",") + `]}`
}

func answerOf(dataset, body string) *etl.Answer {
	req := etl.Request{Dataset: dataset, Scope: "C-1001"}
	if dataset == History {
		from := etl.DayOf(time.Date(2026, 5, 14, 0, 0, 0, 0, time.UTC))
		req.Window = etl.Window{From: from, Until: from + 1}
	}
	return &etl.Answer{Request: req, Status: 200, RequestedAt: docClock, FetchedAt: docClock, Body: fetch.NewBody([]byte(body))}
}

// recorder is a sink that keeps everything.
type recorder struct {
	Customers []etl.Customer `json:",omitempty"`
	Terms_    []etl.Terms    `json:"Terms,omitempty"`
	Current   []etl.Readings `json:",omitempty"`
	Histories []etl.History  `json:",omitempty"`
	Rejects   []etl.Reject   `json:",omitempty"`
	Restarts  int            `json:",omitempty"`
}

func (r *recorder) Customer(c etl.Customer) error    { r.Customers = append(r.Customers, c); return nil }
func (r *recorder) Terms(t etl.Terms) error          { r.Terms_ = append(r.Terms_, t); return nil }
func (r *recorder) Readings(v etl.Readings) error    { r.Current = append(r.Current, v); return nil }
func (r *recorder) History(h etl.History) error      { r.Histories = append(r.Histories, h); return nil }
func (r *recorder) License(etl.LicenseReading) error { panic("no licences here") }
func (r *recorder) Reject(x etl.Reject) error        { r.Rejects = append(r.Rejects, x); return nil }
func (r *recorder) Restart() error                   { *r = recorder{Restarts: r.Restarts + 1}; return nil }

// facts counts at the grain of the dataset.
func (r *recorder) facts() int {
	n := len(r.Customers)
	for _, t := range r.Terms_ {
		n += len(t.Levels)
	}
	for _, c := range r.Current {
		n += len(c.Levels)
	}
	for _, h := range r.Histories {
		for _, l := range h.Levels {
			n += len(l.Samples)
		}
	}
	return n
}

// reasonOf is the name of the rule that refused an answer.
func reasonOf(err error) string {
	var reject *etl.RejectError
	if errors.As(err, &reject) {
		return reject.Reason
	}
	return ""
}

type ruleCase struct {
	id       string
	dataset  string
	body     string
	reject   string   // reason for which the whole answer is refused
	facts    int      // else
	reasons  []string // of what is quarantined
	warnings string   // names, blank separated, sorted
	drift    string
}

func kh(id, pointer, raw string) ruleCase {
	return ruleCase{id: id, dataset: History, body: patch(baseHistory, pointer, raw), facts: 1}
}

func kc(id, pointer, raw string) ruleCase {
	return ruleCase{id: id, dataset: Current, body: patch(baseCurrent, pointer, raw), facts: 1}
}

func whole(id, dataset, body string) ruleCase {
	return ruleCase{id: id, dataset: dataset, body: body, facts: 1}
}

func (c ruleCase) warns(names string) ruleCase { c.warnings = names; return c }
func (c ruleCase) count(facts int) ruleCase    { c.facts = facts; return c }
func (c ruleCase) drifts(path string) ruleCase { c.drift = path; return c }
func (c ruleCase) refused(reason string) ruleCase {
	c.reject, c.facts = reason, 0
	return c
}
func (c ruleCase) quarantines(reasons ...string) ruleCase {
	c.reasons = reasons
	c.facts--
	return c
}

func ruleCases() []ruleCase {
	results := cut(baseHistory, "/results")
	utf16le := func(s string) string {
		b := []byte{0xff, 0xfe}
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, byte(u), byte(u>>8))
		}
		return string(b)
	}
	badDays := slices.Repeat([]string{strings.Replace(day, "112.5", `"bad"`, 1)}, 11)
	for i := range badDays {
		badDays[i] = strings.Replace(badDays[i], "00:00:00Z", "00:00:"+string([]byte{'0' + byte(i/10), '0' + byte(i%10)})+"Z", 1)
	}
	cases := []ruleCase{
		whole("J01", History, "").refused("json_empty"),
		whole("J01 blank", History, " \r\n\t").refused("json_empty"),
		whole("J02", History, "<html><body>Scheduled maintenance</body></html>").refused("json_syntax"),
		whole("J04", History, baseHistory[:300]).refused("json_syntax"),
		whole("J05", History, baseHistory+`{"results":{}}`).refused("json_syntax"),
		whole("J06", History, "null").refused("envelope_unknown"),
		whole("J07", History, `"OK"`).refused("envelope_unknown"),
		whole("J08", History, "\xef\xbb\xbf"+baseHistory).warns("bom_stripped"),
		whole("J09", History, utf16le(baseHistory)).refused("json_invalid_utf8"),
		kh("J10", atS+"/account_name", "\"AC\xffME\"").refused("json_invalid_utf8"),
		kh("J11", atS+"/account_name", `"AC\ud800ME"`).refused("json_invalid_unicode"),
		kh("J12", atD+"/consumed_tib", "NaN").refused("json_syntax"),
		kh("J13", atD+"/consumed_tib", "Infinity").refused("json_syntax"),
		kh("J14", atD+"/consumed_tib", "0112.5").refused("json_syntax"),
		kh("J15", atD+"/consumed_tib", `112.5,"consumed_tib":12.5`).refused("json_duplicate_key"),
		kh("J16", atD+"/consumed_tib", `112.5,"Consumed_TIB":12.5`).refused("json_duplicate_key"),
		kh("J18", atS+"/account_name", strings.Repeat("[", 40)+strings.Repeat("]", 40)).refused("json_too_deep"),
		kh("J19", atD+"/consumed_tib", "1"+strings.Repeat("0", 80)).refused("json_number_too_long"),
		whole("J20", History, strings.Replace(baseHistory, "}]}]}]", "}]}]},]", 1)).refused("json_syntax"),
		whole("J21", History, "{'results':{}}").refused("json_syntax"),
		whole("J22", History, "callback("+baseHistory+")").refused("json_syntax"),

		kh("E01", "/results", "null").refused("envelope_unknown"),
		whole("E02", History, "{}").refused("envelope_unknown"),
		whole("E03", History, `{"error":{"message":"Internal error"},"request_id":"r-1"}`).refused("envelope_unknown"),
		whole("E04", History, "["+baseHistory+"]"),
		whole("E04 empty", History, "[]").refused("envelope_unknown"),
		whole("E05", History, "["+baseHistory+","+baseHistory+"]").refused("envelope_multiple"),
		whole("E06", History, `{"result":`+results+`}`),
		whole("E07", History, `{"result":`+results+`,"results":`+results+`}`).refused("envelope_unknown"),
		kh("E08", "/results/records", "null").refused("envelope_unknown"),
		kh("E09", "/results/records", "{}").refused("envelope_unknown"),
		kh("E10", "/results/returned_records", "2").warns("count_mismatch"),
		kh("E11", "/results/returned_records", `"1"`),
		whole("E12", History, remove(baseHistory, "/results/returned_records")).warns("count_absent"),
		kh("E13", "/results/returned_records", "1.0").refused("count_invalid"),
		kh("E13 text", "/results/returned_records", `"1 "`).refused("count_invalid"),
		kh("E13 negative", "/results/returned_records", "-1").refused("count_invalid"),
		// Whether nothing was expected is the warehouse's affair: here only Records is 0.
		kh("E14", "/results/records", `[],"x":0`).count(0).warns("count_mismatch").drifts("/results/x"),
		whole("E15", History, patch(patch(baseHistory, "/results/records", "[]"), "/results/returned_records", "0")).count(0),
		kh("E16", "/results/customer/id", `"C-2002"`).refused("wrong_customer"),
		kh("E17", "/results/request_parameters/customer_id", `"C-2002"`).refused("wrong_customer"),
		kh("E18", "/results/request_parameters/to_date_utc", `"2026-05-13"`).warns("range_echo_differs"),
		kh("E18 exclusive end", "/results/request_parameters/to_date_utc", `"2026-05-15"`),
		kh("E19", "/results/request_parameters/from_date_utc", `"2026-05-14T00:00:00Z"`),
		kh("E20", "/results/request_id", `"r-1","next_page":"abc"`).drifts("/results/next_page"),
		whole("E21", Customers, patch(baseCustomers, "/results/returned_records", "3")).warns("count_mismatch"),
		whole("E22", Customers, patch(baseCustomers, atR+"/Customers", "null")).quarantines("value_missing"),
		whole("E23", Customers, patch(baseCustomers, atR+"/Customers",
			`[{"customer_id":"C-1001","customer_name":null},{"customer_id":"","customer_name":"x"}],"y":1`)).
			count(2).quarantines("value_missing").warns("null_optional").drifts("/results/records/*/y"),
		whole("E24", Subscriptions, patch(baseSubscriptions, atKSL+"/committed_tib", "null")).quarantines("value_missing"),
		whole("no identity", History, remove(remove(baseHistory, "/results/customer"), "/results/request_parameters")).warns("identity_unverified"),
		// A document that is not JSON is refused for that, whatever else is wrong with it.
		whole("syntax before identity", History, strings.TrimSuffix(patch(baseHistory, "/results/customer/id", `"C-2002"`), "}")).refused("json_syntax"),

		kh("N01", atD+"/consumed_tib", "null").quarantines("value_missing"),
		whole("N02", History, remove(baseHistory, atD+"/consumed_tib")).quarantines("value_missing"),
		kc("N03", atCL+"/consumed_tib", `""`).quarantines("value_missing"),
		kc("N04", atCL+"/consumed_tib", `"N/A"`).quarantines("number_format"),
		kc("N05", atCL+"/consumed_tib", `"NaN"`).quarantines("number_format"),
		kc("N06", atCL+"/consumed_tib", `"-Infinity"`).quarantines("number_format"),
		kh("N07", atD+"/consumed_tib", "1e400").quarantines("number_range"),
		kh("N08", atD+"/consumed_tib", "1e-400").quarantines("number_range"),
		kh("N09", atD+"/consumed_tib", "-0.01").warns("burst_inconsistent number_negative"),
		kh("N10", atD+"/consumed_tib", "-0.0").warns("burst_inconsistent negative_zero"),
		kc("N11", atCL+"/consumed_tib", `"112,5"`).quarantines("number_format"),
		kc("N12", atCL+"/consumed_tib", `"1,112.5"`).quarantines("number_format"),
		kc("N13", atCL+"/consumed_tib", `" 112.5 "`).warns("trimmed"),
		kc("N14", atCL+"/consumed_tib", `"\u0661\u0662"`).quarantines("number_format"),
		kc("N15", atCL+"/consumed_tib", `"0x70"`).quarantines("number_format"),
		kc("N16", atCL+"/consumed_tib", `"112_500"`).quarantines("number_format"),
		kc("N17", atCL+"/consumed_tib", `"112.5 TiB"`).quarantines("number_format"),
		kh("N18", atD+"/consumed_tib", "true").quarantines("type_mismatch"),
		kh("N19", atD+"/consumed_tib", "[112.5]").quarantines("type_mismatch"),
		kh("N20", atD+"/consumed_tib", `{"value":112.5,"unit":"TiB"}`).quarantines("type_mismatch"),
		kh("N21", atD+"/consumed_tib", "1000000000").quarantines("number_range"),
		kh("N22", atD+"/consumed_tib", "112.500000000000000000001"),
		kh("N23", atD+"/consumed_tib", "1.125e2"),
		kh("N24", atD+"/consumed_tib", "112.1").warns("burst_inconsistent"),
		kh("N25", atD+"/consumed_tib", `"112.5"`),
		kh("N26", atD+"/burst_tib", "0").warns("burst_inconsistent"),
		kh("N27", atD+"/accrued_burst_tib", "null").warns("measure_missing"),
		whole("N27 absent", History, remove(baseHistory, atD+"/accrued_burst_tib")).warns("measure_missing"),
		kc("N27 current", atCL+"/accrued_burst_tib", `""`).warns("measure_missing"),
		kh("N28", atD+"/is_invoiced", `"yes"`).quarantines("type_mismatch"),
		kh("N29", atD+"/is_invoiced", "null").warns("invoiced_unknown"),
		whole("N29 absent", History, remove(baseHistory, atD+"/is_invoiced")).warns("invoiced_unknown"),
		kh("N30", atD+"/is_invoiced", `"true"`).warns("type_coerced"),

		kh("T01", atD+"/timestamp_utc", `"2026-05-14T00:00:00"`).warns("zone_assumed_utc"),
		kh("T02", atD+"/timestamp_utc", `"2026-05-14"`).warns("date_only"),
		kh("T03", atD+"/timestamp_utc", "1778716800").quarantines("type_mismatch"),
		kh("T04", atD+"/timestamp_utc", `"2026-05-14T23:59:60Z"`).quarantines("time_leap_second"),
		kh("T05", atD+"/timestamp_utc", `"2026-05-14T23:59:59.9999996Z"`).warns("time_truncated"),
		kh("T06", atD+"/timestamp_utc", `"2026-05-14T24:00:00Z"`).quarantines("time_format"),
		kh("T07", atD+"/timestamp_utc", `"2026-02-30T00:00:00Z"`).quarantines("time_format"),
		kh("T08", atD+"/timestamp_utc", `"0001-01-01T00:00:00Z"`).quarantines("time_out_of_range"),
		kh("T09", atD+"/timestamp_utc", `"9999-12-31T23:59:59Z"`).quarantines("time_future"),
		kh("T10", atD+"/timestamp_utc", `"2026-05-17T00:00:00Z"`).quarantines("time_future"),
		kh("T11", atD+"/timestamp_utc", `"2026-05-12T23:59:59Z"`).quarantines("time_out_of_range"),
		kh("T12", atD+"/timestamp_utc", `"2026-05-15T20:00:00-05:00"`).quarantines("time_out_of_range").warns("offset_in_utc_field"),
		kh("T13", atD+"/timestamp_utc", `"2026-05-13T22:00:00-05:00"`).warns("offset_in_utc_field"),
		kh("T14", atD+"/timestamp_utc", `"2026-05-14T00:00:00+24:00"`).quarantines("time_format"),
		kh("T15", atD+"/timestamp_utc", `"2026-05-14T0:00:00Z"`).quarantines("time_format"),
		kh("T16", atD+"/timestamp_utc", `"2026-05-14T00:00:00,5Z"`).quarantines("time_format"),
		kh("T17", atD+"/timestamp_utc", `"2026-05-14 00:00:00Z"`),
		kh("T18", atD+"/timestamp_utc", `"now"`).quarantines("time_format"),
		kh("T19", atD+"/timestamp_utc", `""`).quarantines("value_missing"),
		kh("T20", atS+"/end_date", `"2024-12-31T00:00:00Z"`).warns("period_inverted"),
		kh("T21", atS+"/end_date", `"9999-12-31T23:59:59Z"`).warns("open_ended"),
		kh("T21 month on month", atS+"/end_date", `"Month-on-month"`).warns("open_ended"),
		kh("T21 n/a", atS+"/end_date", `"N/A (renewed monthly)"`).warns("open_ended"),
		kh("T21 unreadable", atS+"/end_date", `"soon"`).warns("date_unreadable"),
		whole("T21 absent", History, remove(baseHistory, atS+"/end_date")).warns("open_ended"),
		kh("T22", atS+"/start_date", "null").warns("start_missing"),
		kc("T23", atCL+"/consumed_timestamp_utc", `"2026-05-01T06:00:00Z"`).warns("stale_sample"),
		kc("T24", atCL+"/consumed_timestamp_utc", `"2026-05-16T13:00:00Z"`).quarantines("time_future"),

		kh("S01", atS+"/number", `""`).quarantines("value_missing"),
		kh("S02", atS+"/number", `"   "`).quarantines("value_missing").warns("trimmed"),
		kh("S03", atS+"/number", "12345").warns("type_coerced"),
		kh("S04", atS+"/number", "1.5e3").quarantines("type_mismatch"),
		kh("S05", atS+"/number", "null").quarantines("value_missing"),
		kh("S06", atS+"/account_name", `"AC\u0000ME"`).warns("text_cleaned"),
		kh("S07", atS+"/account_name", `"ACME\r\nlevel=ERROR forged"`).warns("text_cleaned"),
		kh("S08", atS+"/account_name", `"ACME\u202eTXT"`).warns("text_cleaned"),
		kh("S09", atL+"/name", `"Extr\u200beme"`).quarantines("text_invisible_char"),
		kh("S10", atS+"/account_name", `"`+strings.Repeat("x", 300)+`"`).warns("text_cleaned"),
		kh("S11", atL+"/name", `" Extreme "`).warns("trimmed"),
		kh("S12", atL+"/name", `"Extre\u0301me"`),
		kh("S13", atS+"/account_name", `"=cmd|' /C calc'!A0"`),
		kh("S14", atS+"/account_name", `"+1-800-555"`),
		kh("S15", atS+"/account_name", `"Robert'); DROP TABLE facts;--"`),
		kh("S16", atS+"/account_name", `"${jndi:ldap://x/a} {{7*7}} %s %n"`),
		kh("S17", atS+"/account_name", "null").warns("null_optional"),
		kh("S18", atR+"/service_levels", "["+levelOf(`"Extreme"`, day)+","+levelOf(`"Extreme"`, day)+"]").count(2).warns("identical_instances"),
		kh("S19", atR+"/service_levels", "["+levelOf(`"Extreme"`, day)+","+levelOf(`"Extreme"`, day2)+"]").count(2),
		kh("S20", atR+"/service_levels", "["+levelOf(`"Extreme"`, day)+","+levelOf(`"EXTREME"`, day2)+"]").quarantines("name_collision", "name_collision"),
		kh("S20 trimmed", atR+"/service_levels", "["+levelOf(`"Extreme"`, day)+","+levelOf(`"Extreme "`, day2)+"]").quarantines("name_collision", "name_collision").warns("trimmed"),
		kh("S21", atR+"/service_levels", "["+levelOf(`"Extreme"`, day)+","+levelOf(`"Premium"`, day)+"]").count(2),
		kh("S22", atR+"/service_levels", "null").quarantines("value_missing"),
		kh("S23", atR+"/service_levels", "[]").count(0).warns("levels_empty"),
		kh("S24", atL+"/historical_consumption", "[]").count(0).warns("days_empty"),
		kh("S24 null", atL+"/historical_consumption", "null").quarantines("value_missing"),
		kh("S25", atL+"/historical_consumption", "["+day+","+strings.Replace(day, "05-14", "05-12", 1)+"]").count(2).quarantines("time_out_of_range"),
		kh("S26", atL+"/historical_consumption", "["+strings.Join(badDays, ",")+"]").refused("too_many_bad_rows"),
		kh("S27", atR, "null").quarantines("type_mismatch"),
		kh("S28", atS, "[]").quarantines("type_mismatch"),
		kh("placeholder", atL+"/name", `"string"`).quarantines("placeholder"),
		kh("duplicate day", atL+"/historical_consumption", "["+day+","+day+"]").warns("duplicate_row"),
		kh("conflicting days", atL+"/historical_consumption", "["+day+","+day2+"]").quarantines("conflicting_duplicate", "conflicting_duplicate"),
		kh("neighbour day", atD+"/timestamp_utc", `"2026-05-15T00:00:00Z"`).count(0),
	}
	for i := range cases {
		if c := &cases[i]; strings.HasPrefix(c.id, "S20") {
			c.facts = 0
		}
		if c := &cases[i]; c.id == "conflicting days" {
			c.facts = 0
		}
	}
	return cases
}

func TestRules(t *testing.T) {
	for _, c := range ruleCases() {
		t.Run(c.id, func(t *testing.T) {
			t.Parallel()
			var got recorder
			report, err := transform(answerOf(c.dataset, c.body), &got)
			if reason := reasonOf(err); reason != c.reject || (err != nil) != (c.reject != "") {
				t.Fatalf("got error %v, want reason %q", err, c.reject)
			}
			if c.reject != "" {
				if !errors.Is(err, etl.ErrContract) {
					t.Errorf("got class of %v, want the vendor's contract", err)
				}
				return
			}
			if n := got.facts(); n != c.facts {
				t.Errorf("got %d facts, want %d", n, c.facts)
			}
			var reasons []string
			for _, r := range got.Rejects {
				reasons = append(reasons, r.Reason)
				if r.Path == "" {
					t.Errorf("reject without a path: %+v", r)
				}
			}
			if !slices.Equal(reasons, c.reasons) {
				t.Errorf("got rejects %v, want %v", reasons, c.reasons)
			}
			if names := strings.Join(slices.Sorted(maps.Keys(report.Warnings)), " "); names != c.warnings {
				t.Errorf("got warnings %q, want %q", names, c.warnings)
			}
			if drift := strings.Join(report.Drift, " "); drift != c.drift {
				t.Errorf("got drift %q, want %q", drift, c.drift)
			}
			if report.Quarantined != len(c.reasons) || report.Received != report.Ignored+report.Quarantined+got.facts() {
				t.Errorf("counts do not add up: %+v", report)
			}
			if report.Mismatch != strings.Contains(c.warnings, "count_mismatch") {
				t.Errorf("got mismatch %v with warnings %q", report.Mismatch, c.warnings)
			}
			if empty := c.id == "E14" || c.id == "E15"; (report.Records == 0) != empty {
				t.Errorf("got %d records", report.Records)
			}
		})
	}
}

// Every number of a good document and its text.
func TestValuesAreExact(t *testing.T) {
	one := func(t *testing.T, pointer, raw string) etl.Sample {
		var got recorder
		if _, err := transform(answerOf(History, patch(baseHistory, pointer, raw)), &got); err != nil {
			t.Fatal(err)
		}
		return got.Histories[0].Levels[0].Samples[0]
	}
	for raw, want := range map[string]string{
		"112.500000000000000000001": "112.500000000000000000001",
		"1.125e2":                   "112.5",
		"-0.0":                      "0",
		`"112.5"`:                   "112.5",
		"112.1":                     "112.1",
		"-0.01":                     "-0.01",
		"999999999.999999999999":    "999999999.999999999999",
	} {
		if got := one(t, atD+"/consumed_tib", raw).ConsumedTiB.String(); got != want {
			t.Errorf("%s: got %s, want %s", raw, got, want)
		}
	}
	if got, want := one(t, atD+"/timestamp_utc", `"2026-05-14T23:59:59.9999996Z"`), "2026-05-14"; got.Day().String() != want {
		t.Errorf("got day %s, want %s", got.Day(), want)
	}
	if got := one(t, atD+"/accrued_burst_tib", "null"); got.AccruedTiB.Known {
		t.Errorf("got accrued %s, want unknown", got.AccruedTiB)
	}
	if got := one(t, atD+"/is_invoiced", `"true"`); got.Invoiced != etl.True {
		t.Errorf("got invoiced %v, want true", got.Invoiced)
	}
}

// G08: whatever member is deleted, nulled, emptied or renamed, no number is invented.
func TestNoSilentZeros(t *testing.T) {
	for dataset, doc := range map[string]string{
		History: baseHistory, Current: baseCurrent, Subscriptions: baseSubscriptions, Customers: baseCustomers,
	} {
		for _, pointer := range members(doc) {
			for name, mutated := range map[string]string{
				"delete": remove(doc, pointer),
				"null":   patch(doc, pointer, "null"),
				"empty":  patch(doc, pointer, `""`),
				"list":   patch(doc, pointer, "[]"),
				"object": patch(doc, pointer, "{}"),
				"rename": rename(doc, pointer),
			} {
				var got recorder
				if _, err := transform(answerOf(dataset, mutated), &got); err != nil {
					continue
				}
				for _, n := range got.numbers() {
					if n.Sign() == 0 {
						t.Errorf("%s %s %s: a zero was invented", dataset, name, pointer)
					}
				}
			}
		}
	}
}

// members lists the pointers of all members of objects.
func members(doc string) (all []string) {
	d := jsontext.NewDecoder(strings.NewReader(doc))
	for {
		if _, err := d.ReadToken(); err != nil {
			return all
		}
		if kind, n := d.StackIndex(d.StackDepth()); kind == '{' && n%2 == 1 {
			all = append(all, string(d.StackPointer()))
		}
	}
}

func rename(doc, pointer string) string {
	member, from, _ := span(doc, pointer)
	name := doc[member:from]
	return doc[:member] + strings.Replace(name, `":`, `_x":`, 1) + doc[from:]
}

func (r *recorder) numbers() (all []etl.Decimal) {
	known := func(n etl.NullDecimal) {
		if n.Known {
			all = append(all, n.Decimal)
		}
	}
	given := func(n *etl.Decimal) {
		if n != nil {
			all = append(all, *n)
		}
	}
	for _, t := range r.Terms_ {
		for _, l := range t.Levels {
			all = append(all, l.CommittedTiB)
		}
	}
	for _, c := range r.Current {
		for _, l := range c.Levels {
			all = append(all, l.CommittedTiB, l.ConsumedTiB)
			given(l.BurstTiB)
			given(l.AccruedTiB)
		}
	}
	for _, h := range r.Histories {
		for _, l := range h.Levels {
			for _, s := range l.Samples {
				all = append(all, s.CommittedTiB, s.ConsumedTiB)
				known(s.BurstTiB)
				known(s.AccruedTiB)
			}
		}
	}
	return all
}

// Members may come in any order, also the names behind what they name.
func TestMemberOrderDoesNotMatter(t *testing.T) {
	reversed := reverse(t, baseHistory)
	if !strings.HasPrefix(reversed, `{"results":{"customer"`) {
		t.Fatalf("not reversed: %.80s", reversed)
	}
	var straight, backward recorder
	want, err := transform(answerOf(History, baseHistory), &straight)
	if err != nil {
		t.Fatal(err)
	}
	got, err := transform(answerOf(History, reversed), &backward)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := dump(t, straight, want), dump(t, backward, got); a != b {
		t.Errorf("got %s\nwant %s", b, a)
	}
	bad := patch(patch(baseHistory, atS+"/number", `"A-1"`), atD+"/consumed_tib", `"x"`)
	var r recorder
	if _, err := transform(answerOf(History, reverse(t, bad)), &r); err != nil {
		t.Fatal(err)
	}
	d := etl.DayOf(time.Date(2026, 5, 14, 0, 0, 0, 0, time.UTC))
	if len(r.Rejects) != 1 || r.Rejects[0].Subscription != "A-1" || r.Rejects[0].Level != "Extreme" || r.Rejects[0].Day == nil || *r.Rejects[0].Day != d {
		t.Errorf("got rejects %+v, want one that knows its subscription, level and day", r.Rejects)
	}
	if l := r.Histories[0].Levels[0]; !l.PartialDays[d] || l.AllPartial {
		t.Errorf("got partial days %v, all %v", l.PartialDays, l.AllPartial)
	}
}

// reverse writes the members of every object in reverse order.
func reverse(t *testing.T, doc string) string {
	t.Helper()
	d := jsontext.NewDecoder(strings.NewReader(doc))
	var value func() string
	value = func() string {
		switch d.PeekKind() {
		case '{':
			_, _ = d.ReadToken()
			var parts []string
			for d.PeekKind() != '}' {
				name, err := d.ReadValue()
				if err != nil {
					t.Fatal(err)
				}
				part := string(name) + ":"
				parts = append(parts, part+value())
			}
			_, _ = d.ReadToken()
			slices.Reverse(parts)
			return "{" + strings.Join(parts, ",") + "}"
		case '[':
			_, _ = d.ReadToken()
			var parts []string
			for d.PeekKind() != ']' {
				parts = append(parts, value())
			}
			_, _ = d.ReadToken()
			return "[" + strings.Join(parts, ",") + "]"
		}
		v, err := d.ReadValue()
		if err != nil {
			t.Fatal(err)
		}
		return string(v)
	}
	return value()
}

func dump(t *testing.T, r recorder, report etl.Report) string {
	t.Helper()
	b, err := json.MarshalIndent(map[string]any{"facts": r, "report": report}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func record2(number, start, end, levels string) string {
	return `{"subscription":{"account_name":"ACME","number":"` + number + `","start_date":"` + start + `","end_date":"` + end + `"},"service_levels":[` + levels + `]}`
}

// The same subscription number in several records: R21.
func TestRepeatedSubscription(t *testing.T) {
	later := strings.Replace(day, "T00:00", "T01:00", 1)
	records := strings.Join([]string{
		record2("B", "2025-01-01", "2026-01-01", levelOf(`"Other"`, day)),
		record2("A", "2026-01-01", "2027-01-01", levelOf(`"Second"`, day)),
		record2("A", "2025-01-01", "2026-01-01", levelOf(`"First"`, day)),
		record2("A", "2026-01-01", "2027-01-01", levelOf(`"Second"`, later)),
		record2("C", "2025-01-01", "2026-01-01", levelOf(`"Other"`, day)),
	}, ",")
	doc := patch(patch(baseHistory, "/results/records", "["+records+"]"), "/results/returned_records", "5")
	var got recorder
	report, err := transform(answerOf(History, doc), &got)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, h := range got.Histories {
		s := h.Number + " " + h.Start.Format(time.DateOnly)
		if h.Repeated {
			s += " repeated"
		}
		for _, l := range h.Levels {
			s += " " + l.Level
		}
		order = append(order, s)
	}
	want := []string{"B 2025-01-01 Other", "C 2025-01-01 Other", "A 2025-01-01 repeated First", "A 2026-01-01 repeated Second Second"}
	if !slices.Equal(order, want) || got.Restarts != 1 {
		t.Errorf("got %q after %d restarts, want %q after 1", order, got.Restarts, want)
	}
	if report.Warnings["subscription_repeated"].Count != 2 || report.Received != 5 || report.Records != 5 || report.Mismatch {
		t.Errorf("got report %+v", report)
	}
}

// Samples come out in order of time without repeats, whatever order they came in.
func TestSamplesAreSorted(t *testing.T) {
	at := func(clock string) string { return strings.Replace(day, "00:00:00Z", clock+"Z", 1) }
	other := strings.Replace(at("02:00:00"), "0.4", "0.5", 1)
	doc := patch(baseHistory, atL+"/historical_consumption", "["+strings.Join([]string{
		at("03:00:00"), at("01:00:00"), at("02:00:00"), at("01:00:00"), other, at("00:30:00"),
		strings.Replace(at("00:30:00"), `false`, `true`, 1),
	}, ",")+"]")
	var got recorder
	report, err := transform(answerOf(History, doc), &got)
	if err != nil {
		t.Fatal(err)
	}
	l := got.Histories[0].Levels[0]
	var clocks []string
	for _, s := range l.Samples {
		clocks = append(clocks, time.UnixMicro(s.At).UTC().Format(time.TimeOnly))
	}
	if want := []string{"00:30:00", "01:00:00", "03:00:00"}; !slices.Equal(clocks, want) {
		t.Errorf("got %v, want %v", clocks, want)
	}
	if l.Samples[0].Invoiced != etl.Unknown {
		t.Errorf("got invoiced %v, want unknown where two equal samples differ in it", l.Samples[0].Invoiced)
	}
	if len(got.Rejects) != 2 || got.Rejects[0].Path != atL+"/historical_consumption/2" || got.Rejects[1].Path != atL+"/historical_consumption/4" {
		t.Errorf("got rejects %+v", got.Rejects)
	}
	if !l.PartialDays[l.Samples[0].Day()] {
		t.Error("the day of a conflict is not marked partial")
	}
	if report.Received != 7 || report.Ignored != 2 || report.Quarantined != 2 || report.Warnings["duplicate_row"].Count != 2 {
		t.Errorf("got report %+v", report)
	}
}

// A parent that is refused counts once and takes its children and their warnings along.
func TestRejectedParentCountsOnce(t *testing.T) {
	for name, doc := range map[string]string{
		"level":        patch(patch(baseHistory, atL+"/name", "null"), atD+"/consumed_tib", `"x"`),
		"subscription": patch(patch(baseHistory, atS+"/number", "null"), atD+"/timestamp_utc", `"2026-05-14"`),
	} {
		var got recorder
		report, err := transform(answerOf(History, doc), &got)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Rejects) != 1 || got.Rejects[0].Reason != "value_missing" || report.Received != 1 || report.Quarantined != 1 || len(report.Warnings) != 0 {
			t.Errorf("%s: got %+v and rejects %+v", name, report, got.Rejects)
		}
		if name == "level" && !got.Histories[0].Partial {
			t.Error("a record that lost a level is not marked partial")
		}
	}
}

// The vendor's count may mean records, levels or samples.
func TestCountMeansWhatFits(t *testing.T) {
	second := strings.Replace(day, "T00:00", "T01:00", 1)
	doc := patch(baseHistory, atR+"/service_levels", "["+levelOf(`"A"`, day, second)+","+levelOf(`"B"`, day)+"]")
	for count, fits := range map[string]bool{"1": true, "2": true, "3": true, "4": false, "0": false} {
		report, err := transform(answerOf(History, patch(doc, "/results/returned_records", count)), &recorder{})
		if err != nil {
			t.Fatal(err)
		}
		if report.Mismatch == fits {
			t.Errorf("count %s: got mismatch %v", count, report.Mismatch)
		}
	}
}

// An unknown member of every sample is told once.
func TestDriftIsToldOnce(t *testing.T) {
	odd := strings.Replace(day, "{", `{"tier":1,`, 1)
	doc := patch(baseHistory, atL+"/historical_consumption", "["+odd+","+strings.Replace(odd, "T00:00", "T01:00", 1)+"]")
	report, err := transform(answerOf(History, doc), &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/results/records/*/service_levels/*/historical_consumption/*/tier"}
	if !slices.Equal(report.Drift, want) {
		t.Errorf("got %q, want %q", report.Drift, want)
	}
}

// An error of the sink ends the transform and is not taken for the vendor's.
func TestSinkErrorEndsTheTransform(t *testing.T) {
	failing := errors.New("no room")
	_, err := transform(answerOf(History, baseHistory), failingSink{recorder: &recorder{}, err: failing})
	if !errors.Is(err, failing) || reasonOf(err) != "" {
		t.Errorf("got %v, want the sink's own error", err)
	}
}

type failingSink struct {
	*recorder
	err error
}

func (f failingSink) History(etl.History) error { return f.err }

// Every prefix of a body is refused, never half accepted.
func TestCutBodies(t *testing.T) {
	for dataset, doc := range map[string]string{History: baseHistory, Customers: baseCustomers} {
		for n := range len(doc) {
			if _, err := transform(answerOf(dataset, doc[:n]), &recorder{}); err == nil {
				t.Fatalf("%s: accepted a body cut at byte %d", dataset, n)
			}
		}
	}
}

// A body that cannot be read is the vendor's or the disk's fault, never an empty answer.
func TestBrokenBody(t *testing.T) {
	ans := answerOf(History, baseHistory)
	ans.Body = brokenBody{ans.Body}
	_, err := transform(ans, &recorder{})
	if reasonOf(err) != "body_truncated" {
		t.Errorf("got %v, want body_truncated", err)
	}
}

type brokenBody struct{ etl.Body }

func (brokenBody) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader(baseHistory[:200]), iotestErr{})), nil
}

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// longHistory is an answer with n samples of one level, a minute apart.
func longHistory(n int) []byte {
	var b bytes.Buffer
	head, tail, _ := strings.Cut(baseHistory, day)
	b.WriteString(head)
	at := time.Date(2026, 5, 14, 0, 0, 0, 0, time.UTC)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strings.Replace(day, "2026-05-14T00:00:00Z", at.Add(time.Duration(i)*24*time.Hour/time.Duration(n)).Format("2006-01-02T15:04:05.000000Z"), 1))
	}
	b.WriteString(tail)
	return b.Bytes()
}

type discardSink struct{ recorder }

func (*discardSink) History(etl.History) error { return nil }

// The hot path allocates nothing for a sample beyond the slice it goes into and what reading its
// four numbers may cost.
func TestAllocationsPerSample(t *testing.T) {
	allocs := func(n int) float64 {
		ans := answerOf(History, string(longHistory(n)))
		return testing.AllocsPerRun(3, func() {
			if _, err := transform(ans, &discardSink{}); err != nil {
				t.Fatal(err)
			}
		})
	}
	numbers := testing.AllocsPerRun(100, func() {
		for _, text := range [...]string{"100", "112.5", "12.5", "0.4"} {
			if _, _, reason := accept.Measure(jsonread.Scalar{Kind: jsonread.Number, Text: []byte(text)}); reason != "" {
				t.Fatal(reason)
			}
		}
	})
	small, large := allocs(1000), allocs(11000)
	if per := (large - small) / 10000; per > numbers+0.01 {
		t.Errorf("got %.2f allocations per sample, %.0f of them for reading its numbers", per, numbers)
	}
}

func BenchmarkHistory(b *testing.B) {
	const samples = 50_000
	body := longHistory(samples)
	ans := answerOf(History, string(body))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := transform(ans, &discardSink{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/samples, "ns/sample")
}

func FuzzHistory(f *testing.F) {
	for _, c := range ruleCases() {
		if c.dataset == History && len(c.body) < 4000 {
			f.Add([]byte(c.body))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var got recorder
		ans := answerOf(History, string(body))
		report, err := transform(ans, &got)
		if err != nil {
			if reasonOf(err) == "" {
				t.Fatalf("an error without a reason: %v", err)
			}
			return
		}
		if report.Quarantined != len(got.Rejects) || report.Received != report.Ignored+report.Quarantined+got.facts() {
			t.Fatalf("counts do not add up: %+v with %d facts, %d rejects", report, got.facts(), len(got.Rejects))
		}
		for _, h := range got.Histories {
			for _, l := range h.Levels {
				for i, s := range l.Samples {
					if !ans.Request.Window.Contains(s.Day()) || i > 0 && l.Samples[i-1].At >= s.At {
						t.Fatalf("a sample out of the window or out of order: %+v", s)
					}
					var back etl.Decimal
					if back.UnmarshalText([]byte(s.ConsumedTiB.String())) != nil || !back.Equal(s.ConsumedTiB) {
						t.Fatalf("not read back: %s", s.ConsumedTiB)
					}
				}
			}
		}
	})
}

// Samples that lie whole in the parser's buffer are read at one go, others member by member. A long
// text in front decides which, and it decides nothing else.
func TestBothWaysOfReadingASample(t *testing.T) {
	flat := 0
	for _, c := range ruleCases() {
		text, ok := strings.CutPrefix(c.body, `{"results":{`)
		if !ok || c.dataset != History {
			continue
		}
		read := func(ahead string) string {
			var got recorder
			report, err := transform(answerOf(History, `{"zz":"`+ahead+`","results":{`+text), &got)
			if err != nil {
				return "refused: " + reasonOf(err) // the text around it tells the byte
			}
			b, err := json.Marshal(map[string]any{"facts": got, "report": report})
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		if slow, fast := read(""), read(strings.Repeat("x", 16<<10)); slow != fast {
			t.Errorf("%s: got %s\nwant %s", c.id, fast, slow)
		}
		flat++
	}
	if flat < 50 {
		t.Errorf("%d cases only", flat)
	}
}
