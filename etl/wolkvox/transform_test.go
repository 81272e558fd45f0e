package wolkvox

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"meterhouse/etl"
	"meterhouse/etl/internal/fetch"
)

var update = flag.Bool("update", false, "rewrite the wanted results from what is")

const secret = "canary-4f1c29d0"

// noon is the clock of the failure model's base documents.
var noon = time.Date(2026, 5, 15, 12, 0, 0, 0, time.UTC)

func account(t testing.TB, change func(*Config)) *Account {
	t.Helper()
	cfg := Config{Account: "callcenter", Server: "0039", Operation: "acme_ops", Token: secret, Now: func() time.Time { return noon }}
	if change != nil {
		change(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// sink keeps what a transform makes.
type sink struct {
	licences []etl.LicenseReading
	rejects  []etl.Reject
}

func (s *sink) License(r etl.LicenseReading) error { s.licences = append(s.licences, r); return nil }
func (s *sink) Reject(r etl.Reject) error          { s.rejects = append(s.rejects, r); return nil }
func (s *sink) Restart() error                     { *s = sink{}; return nil }
func (s *sink) Customer(etl.Customer) error        { return errors.New("no customers here") }
func (s *sink) Terms(etl.Terms) error              { return errors.New("no terms here") }
func (s *sink) Readings(etl.Readings) error        { return errors.New("no readings here") }
func (s *sink) History(etl.History) error          { return errors.New("no history here") }

// shown is a transform's result for people and golden files.
type shown struct {
	Readings []shownReading `json:"readings,omitempty"`
	Rejects  []shownReject  `json:"rejects,omitempty"`
	Received int            `json:"received"`
	Ignored  int            `json:"ignored"`
	Refused  int            `json:"quarantined"`
	Records  int            `json:"records"`
	Warnings []string       `json:"warnings,omitempty"` // name count first-path
	Drift    []string       `json:"drift,omitempty"`
}

type shownReading struct {
	Operation, Product, Description, LocalDate string
	Items                                      etl.Decimal
	ItemsText                                  string
	ReadAt                                     time.Time
}

type shownReject struct {
	Path, Reason, Excerpt, Description, Day string
}

func show(s *sink, r etl.Report) shown {
	out := shown{Received: r.Received, Ignored: r.Ignored, Refused: r.Quarantined, Records: r.Records, Drift: r.Drift}
	for _, l := range s.licences {
		out.Readings = append(out.Readings, shownReading{l.Operation, l.Product, l.Description, l.LocalDate.String(), l.Items, l.ItemsText, l.ReadAt})
	}
	for _, j := range s.rejects {
		day := ""
		if j.Day != nil {
			day = j.Day.String()
		}
		out.Rejects = append(out.Rejects, shownReject{j.Path, j.Reason, j.Excerpt, j.Description, day})
	}
	for _, name := range slices.Sorted(maps.Keys(r.Warnings)) {
		out.Warnings = append(out.Warnings, fmt.Sprintf("%s %d %q", name, r.Warnings[name].Count, r.Warnings[name].FirstPath))
	}
	return out
}

// request says what a golden case asked for; its file is optional.
type request struct {
	Product     string    `json:"product"`
	Operation   *string   `json:"operation"`
	Pinned      string    `json:"pinned"`
	RequestedAt time.Time `json:"requested_at"`
}

func transformCase(t *testing.T, dir string) (*sink, etl.Report, error) {
	t.Helper()
	payload, err := os.ReadFile(filepath.Join(dir, "payload.json"))
	if err != nil {
		t.Fatal(err)
	}
	req := request{Product: "chat_licenses", RequestedAt: noon}
	if text, err := os.ReadFile(filepath.Join(dir, "request.json")); err == nil {
		if err := json.Unmarshal(text, &req); err != nil {
			t.Fatal(err)
		}
	}
	a := account(t, func(cfg *Config) {
		if req.Operation != nil {
			cfg.Operation = *req.Operation
		}
	})
	if req.Pinned != "" {
		a.pinned.Store(&req.Pinned)
	}
	return transform(a, req.Product, req.RequestedAt, payload)
}

func transform(a *Account, product string, at time.Time, payload []byte) (*sink, etl.Report, error) {
	body := fetch.NewBody(payload)
	defer body.Close()
	var got sink
	report, err := a.Transform(&etl.Answer{
		Request: etl.Request{Dataset: Dataset, Scope: "callcenter", Product: product},
		Status:  200, RequestedAt: at, FetchedAt: at.Add(time.Second), Body: body, Warnings: etl.Warnings{},
	}, &got)
	return &got, report, err
}

const golden = "testdata/wolkvox.billing"

func TestGolden(t *testing.T) {
	dirs, err := os.ReadDir(golden)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		t.Run(d.Name(), func(t *testing.T) {
			dir := filepath.Join(golden, d.Name())
			got, report, err := transformCase(t, dir)
			name, stale := "want.json", "want.err"
			text, marshalErr := json.MarshalIndent(show(got, report), "", "  ")
			if marshalErr != nil {
				t.Fatal(marshalErr)
			}
			if err != nil {
				name, stale, text = stale, name, []byte(err.Error())
				if len(got.licences)+len(got.rejects) > 0 {
					t.Errorf("a refused answer gave %d readings and %d rejects", len(got.licences), len(got.rejects))
				}
			}
			text = append(text, '\n')
			if *update {
				os.Remove(filepath.Join(dir, stale))
				if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatalf("%v; got\n%s", err, text)
			}
			if diff := cmp.Diff(string(want), string(text)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A page in place of data says what to do about it, whatever else is wrong with it.
func TestPage(t *testing.T) {
	for body, want := range map[string]bool{
		"<html><body>Scheduled maintenance</body></html>": true,
		"\ufeff\r\n <!DOCTYPE html>":                      true,
		"<p>Mantenimiento programado, sesi\xf3n</p>":      true,
		"":                     false,
		"maintenance":          false,
		`{"code":200,"data`:    false,
		`{"code":200} <p/>`:    false,
		`"<p>maintenance</p>"`: false,
	} {
		_, _, err := transform(account(t, nil), "vision", noon, []byte(body))
		if errors.Is(err, errPage) != want || !errors.Is(err, etl.ErrContract) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

// TestFailureModel holds the cases to the failure model's own table: reason, facts, quarantined
// and warnings, whatever the golden files say.
func TestFailureModel(t *testing.T) {
	for _, c := range []struct {
		dir, reason string
		facts, q    int
		warnings    string
	}{
		{"base", "", 1, 0, ""},
		{"j01_empty", "json_empty", 0, 0, ""},
		{"j02_html", "json_syntax", 0, 0, ""},
		{"j03_php_warning", "json_syntax", 0, 0, ""},
		{"j04_cut", "json_syntax", 0, 0, ""},
		{"j05_second_document", "json_syntax", 0, 0, ""},
		{"j06_null", "envelope_unknown", 0, 0, ""},
		{"j07_bare_string", "envelope_unknown", 0, 0, ""},
		{"j08_bom", "", 1, 0, "bom_stripped"},
		{"j09_utf16", "json_invalid_utf8", 0, 0, ""},
		{"j10_invalid_byte", "json_invalid_utf8", 0, 0, ""},
		{"j11_lone_surrogate", "json_invalid_unicode", 0, 0, ""},
		{"j12_nan", "json_syntax", 0, 0, ""},
		{"j14_leading_zero", "json_syntax", 0, 0, ""},
		{"j16_case_variant", "json_duplicate_key", 0, 0, ""},
		{"j17_hidden_code", "json_duplicate_key", 0, 0, ""},
		{"j18_too_deep", "json_too_deep", 0, 0, ""},
		{"j19_long_number", "json_number_too_long", 0, 0, ""},
		{"j20_trailing_comma", "json_syntax", 0, 0, ""},
		{"j21_single_quotes", "json_syntax", 0, 0, ""},
		{"j22_jsonp", "json_syntax", 0, 0, ""},
		{"w01_items_empty", "value_missing", 0, 1, ""},
		{"w02_thousands_dot", "number_format", 0, 1, ""},
		{"w03_decimal_text", "number_format", 0, 1, ""},
		{"w04_integral_number", "", 1, 0, ""},
		{"w05_number", "", 1, 0, ""},
		{"w06_half_licence", "number_format", 0, 1, ""},
		{"w07_negative", "number_negative", 0, 1, ""},
		{"w08_above_bound", "number_range", 0, 1, ""},
		{"w09_leading_zeros", "", 1, 0, "leading_zero"},
		{"w10_items_null", "value_missing", 0, 1, ""},
		{"w11_previous_month", "out_of_month", 0, 1, ""},
		{"w12_day_first", "", 1, 0, "date_from_request"},
		{"w13_zero_date", "", 1, 0, "date_from_request"},
		{"w14_local_time", "", 1, 0, ""},
		{"w15_far_ahead", "time_future", 0, 1, ""},
		{"w16_two_days_ahead", "time_future", 0, 1, ""},
		{"w17_date_empty", "", 1, 0, "date_from_request"},
		{"w18_no_rows", "", 0, 0, ""}, // the warehouse knows whether that is unexpected_empty
		{"w19_data_null", "envelope_unknown", 0, 0, ""},
		{"w20_data_object", "", 1, 0, "data_object"},
		{"w21_code_403", "vendor_error", 0, 0, ""},
		{"w22_code_text", "", 1, 0, ""},
		{"w23_error_beside_200", "vendor_error", 0, 0, ""},
		{"w24_contradicting_message", "", 1, 0, ""},
		{"w25_other_operation", "wrong_operation", 0, 0, ""},
		{"w26_one_foreign_row", "wrong_operation", 1, 1, ""},
		{"w27_exact_duplicate", "", 1, 0, "duplicate_row"},
		{"w28_two_counts", "conflicting_duplicate", 0, 2, ""},
		{"w29_formula", "", 1, 0, ""},
		{"w30_items_twice", "json_duplicate_key", 0, 0, ""},
		{"documented_sample", "", 0, 0, "no_reading"},
		{"documented_sample_blanks", "", 0, 0, "no_reading"},
		{"too_many_bad_rows", "too_many_bad_rows", 0, 0, ""},
		{"half_bad_of_ten", "number_format", 5, 5, ""},
		{"all_bad_of_nine", "number_format", 0, 9, ""},
		{"pinned_by_first_good_row", "", 2, 2, ""},
		{"pinned_before", "wrong_operation", 0, 0, ""},
		{"operation_placeholder", "placeholder", 0, 1, ""},
		{"x11_month_flips_april_row", "", 1, 0, ""},
		{"x11_month_flips_may_row", "out_of_month", 0, 1, ""},
	} {
		t.Run(c.dir, func(t *testing.T) {
			got, report, err := transformCase(t, filepath.Join(golden, c.dir))
			reason := reasonOf(err)
			quarantined := report.Quarantined
			if err != nil {
				quarantined = 0
			} else if len(got.rejects) > 0 && c.reason != "" {
				reason = got.rejects[0].Reason
			}
			names := strings.Join(slices.Sorted(maps.Keys(report.Warnings)), " ")
			if reason != c.reason || len(got.licences) != c.facts || quarantined != c.q || err == nil && names != c.warnings {
				t.Errorf("got %q %d/%d [%s], want %q %d/%d [%s] (%v)", reason, len(got.licences), quarantined, names, c.reason, c.facts, c.q, c.warnings, err)
			}
		})
	}
}

func TestEmptyEvidenceIsNotTransformed(t *testing.T) {
	a := account(t, nil)
	body := fetch.NewBody([]byte("nothing"))
	defer body.Close()
	if report, err := a.Transform(&etl.Answer{Status: 404, NoData: true, Body: body}, &sink{}); err != nil || report.Received != 0 {
		t.Errorf("no data: %+v, %v", report, err)
	}
	if _, err := a.Transform(&etl.Answer{Status: 403, Body: body}, &sink{}); reasonOf(err) != "http_status" {
		t.Errorf("evidence: %v", err)
	}
}

func TestTooManyRows(t *testing.T) {
	row := `{"operation":"acme_ops","description":"Chat licenses","items":"25","date":"2026-05-15"}`
	payload := `{"code":200,"error":null,"data":[` + strings.Repeat(row+",", maxRows) + row + `]}`
	_, _, err := transform(account(t, nil), "chat_licenses", noon, []byte(payload))
	if reasonOf(err) != "body_too_large" {
		t.Errorf("got %v", err)
	}
}

// A vendor that echoes the token must not bring it into errors or rejects.
func TestEchoedTokenIsRedacted(t *testing.T) {
	a := account(t, nil)
	_, _, err := transform(a, "chat_licenses", noon, []byte(`{"code":500,"error":"bad `+secret+`","msg":"token `+secret+`","data":[]}`))
	if reasonOf(err) != "vendor_error" || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v", err)
	}
	got, _, err := transform(a, "chat_licenses", noon, []byte(`{"code":200,"data":["`+secret+`"]}`))
	if err != nil || len(got.rejects) != 1 || strings.Contains(fmt.Sprint(got.rejects), secret) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func FuzzTransform(f *testing.F) {
	cases, err := filepath.Glob(filepath.Join(golden, "*", "payload.json"))
	if err != nil || len(cases) == 0 {
		f.Fatal(len(cases), err)
	}
	for _, c := range cases {
		payload, err := os.ReadFile(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload, "chat_licenses")
		f.Add(payload, "rec_screen")
	}
	a := account(f, func(cfg *Config) { cfg.Operation = "" })
	month := etl.DayOf(noon).Month()
	f.Fuzz(func(t *testing.T, payload []byte, product string) {
		got, report, err := transform(a, product, noon, payload)
		again, reportAgain, errAgain := transform(a, product, noon, payload)
		if diff := cmp.Diff(show(got, report), show(again, reportAgain)); diff != "" || fmt.Sprint(err) != fmt.Sprint(errAgain) {
			t.Fatalf("not the same twice: %s, %v, %v", diff, err, errAgain)
		}
		if err != nil {
			var reject *etl.RejectError
			if !errors.As(err, &reject) || len(got.licences)+len(got.rejects) > 0 {
				t.Fatalf("%v, %d readings", err, len(got.licences))
			}
			return
		}
		if report.Received != len(got.licences)+report.Ignored+report.Quarantined || report.Quarantined != len(got.rejects) {
			t.Errorf("counts do not add up: %+v, %d readings, %d rejects", report, len(got.licences), len(got.rejects))
		}
		for _, r := range got.licences {
			if r.Operation == "" || r.Description == "" || r.ItemsText == "" || r.Items.Sign() < 0 || r.LocalDate.Month() != month {
				t.Errorf("accepted %+v", r)
			}
			if !bytes.Equal(bytes.ToValidUTF8([]byte(r.Description), nil), []byte(r.Description)) {
				t.Errorf("description %q", r.Description)
			}
		}
	})
}
