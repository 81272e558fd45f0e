package wolkvox

import (
	"bytes"
	"errors"

	"meterhouse/etl"
	"meterhouse/etl/internal/accept"
	"meterhouse/etl/internal/jsonread"
)

var (
	gaugeLimit   = etl.NewDecimal(1_000_000)
	counterLimit = etl.NewDecimal(1_000_000_000_000)
)

const (
	gaugeDigits = 12 // longest text of a gauge
	maxDigits   = 40 // longest text of any number
	maxHours    = 12 // digits of a duration's hours
)

// acceptItems reads a row's figure: R28. text is what was delivered, trimmed. Durations become
// minutes, rounded once, half away from zero, to 12 decimals: a second is no exact decimal of a
// minute.
func acceptItems(s jsonread.Scalar, e entry) (value etl.Decimal, text string, warnings []string, reason string) {
	limit := counterLimit
	if e.Kind == etl.Gauge {
		limit = gaugeLimit
	}
	body := s.Text
	switch s.Kind {
	case jsonread.Null:
		return value, "", nil, "value_missing"
	case jsonread.Number:
		value, warnings, reason = jsonItems(body, e.whole)
	case jsonread.String:
		if body = accept.Trim(body); len(body) != len(s.Text) {
			warnings = append(warnings, "trimmed")
		}
		if len(body) == 0 || string(body) == "-" {
			return value, "", warnings, "value_missing"
		}
		var more []string
		value, more, reason = textItems(body, e)
		warnings = append(warnings, more...)
	default:
		return value, "", nil, "type_mismatch"
	}
	if reason == "" && value.Cmp(limit) > 0 {
		reason = "number_range"
	}
	if reason != "" {
		return etl.Decimal{}, "", warnings, reason
	}
	return value, string(body), warnings, ""
}

func jsonItems(literal []byte, whole bool) (value etl.Decimal, warnings []string, reason string) {
	value, err := etl.ParseDecimal(literal)
	switch {
	case errors.Is(err, etl.ErrNumberRange):
		return value, nil, "number_range"
	case err != nil:
		return value, nil, "number_format"
	case value.Sign() < 0:
		return value, nil, "number_negative"
	case whole && !value.IsWhole():
		return value, nil, "number_format"
	case literal[0] == '-':
		return value, []string{"negative_zero"}, ""
	}
	return value, nil, ""
}

// textItems reads digits, and where the product is not counted in whole things also decimals with
// a dot and durations. Nothing else is guessed at: 1.250 may be a thousand somewhere.
func textItems(text []byte, e entry) (value etl.Decimal, warnings []string, reason string) {
	body := bytes.TrimPrefix(text, []byte("-"))
	negative := len(body) < len(text)
	whole, fraction, dotted := bytes.Cut(body, []byte("."))
	switch {
	case isDigits(whole) && (!dotted || !e.whole && isDigits(fraction)):
	case !e.whole && bytes.IndexByte(body, ':') > 0:
		if value, reason = duration(body); reason == "" && negative {
			reason = "number_negative"
		}
		return value, nil, reason
	default:
		return value, nil, "number_format"
	}
	if negative {
		return value, nil, "number_negative"
	}
	stripped := bytes.TrimLeft(whole, "0")
	if len(stripped) == 0 {
		stripped = whole[len(whole)-1:]
	}
	if len(stripped) < len(whole) {
		warnings = []string{"leading_zero"}
	}
	if len(body) > maxDigits || e.Kind == etl.Gauge && len(body) > gaugeDigits {
		return value, warnings, "number_range"
	}
	value, err := etl.ParseDecimal(body[len(whole)-len(stripped):])
	if err != nil {
		return value, warnings, "number_format"
	}
	return value, warnings, ""
}

// duration reads H…:MM or H…:MM:SS as minutes.
func duration(text []byte) (minutes etl.Decimal, reason string) {
	parts := bytes.Split(text, []byte(":"))
	if len(parts) < 2 || len(parts) > 3 {
		return minutes, "number_format"
	}
	for i, part := range parts {
		if !isDigits(part) || i > 0 && (len(part) != 2 || part[0] > '5') {
			return minutes, "number_format"
		}
	}
	hours := bytes.TrimLeft(parts[0], "0")
	if len(hours) > maxHours || len(text) > maxDigits {
		return minutes, "number_range"
	}
	seconds := 3600*integer(hours) + 60*integer(parts[1])
	if len(parts) == 3 {
		seconds += integer(parts[2])
	}
	return etl.NewDecimal(seconds).Quo(60, 12), ""
}

func isDigits(text []byte) bool {
	for _, c := range text {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(text) > 0
}

func integer(digits []byte) (n int64) {
	for _, c := range digits {
		n = 10*n + int64(c-'0')
	}
	return n
}
