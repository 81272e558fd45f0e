package accept

import (
	"errors"

	"meterhouse/etl"
	"meterhouse/etl/internal/jsonread"
)

var (
	negative            = []string{"number_negative"}
	negativeZero        = []string{"negative_zero"}
	trimmedNegative     = []string{"trimmed", "number_negative"}
	trimmedNegativeZero = []string{"trimmed", "negative_zero"}
	billion             = etl.NewDecimal(1_000_000_000)
	minusBillion        = etl.NewDecimal(-1_000_000_000)
)

// Measure accepts a quantity: R22. It comes as a JSON number or as its text. Null and "" are
// value_missing: whether that refuses the record or leaves the quantity unknown is for the caller.
func Measure(s jsonread.Scalar) (value etl.Decimal, warnings []string, reason string) {
	text := s.Text
	switch s.Kind {
	case jsonread.Number:
	case jsonread.String:
		if text = Trim(text); len(text) != len(s.Text) {
			warnings = trimmed
		}
		if len(text) == 0 {
			return etl.Decimal{}, warnings, "value_missing"
		}
	case jsonread.Null:
		return etl.Decimal{}, nil, "value_missing"
	default:
		return etl.Decimal{}, nil, "type_mismatch"
	}
	value, err := etl.ParseDecimal(text)
	switch {
	case errors.Is(err, etl.ErrNumberRange):
		return etl.Decimal{}, warnings, "number_range"
	case err != nil:
		return etl.Decimal{}, warnings, "number_format"
	case value.Cmp(billion) >= 0, value.Cmp(minusBillion) <= 0:
		return etl.Decimal{}, warnings, "number_range"
	case text[0] != '-':
		return value, warnings, ""
	}
	switch {
	case value.Sign() == 0 && warnings == nil:
		warnings = negativeZero
	case value.Sign() == 0:
		warnings = trimmedNegativeZero
	case warnings == nil:
		warnings = negative
	default:
		warnings = trimmedNegative
	}
	return value, warnings, ""
}
