package accept

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"meterhouse/etl/internal/jsonread"
)

const (
	maxText    = 256 // characters of a key or display text
	maxExcerpt = 500 // characters kept of refused text
	blanks     = " \t\n\v\f\r"
)

// Shared lists, so that the common warnings cost no allocation.
var (
	trimmed      = []string{"trimmed"}
	coerced      = []string{"type_coerced"}
	nullOptional = []string{"null_optional"}
	cleaned      = []string{"text_cleaned"}
)

// Trim removes ASCII blanks around text.
func Trim(text []byte) []byte { return bytes.Trim(text, blanks) }

// KeyText accepts a text that identifies something: R20 and R33. An integer literal is taken as
// text where coerceInteger allows it. The text comes back trimmed and in NFC.
func KeyText(s jsonread.Scalar, coerceInteger bool) (text string, warnings []string, reason string) {
	switch s.Kind {
	case jsonread.String:
	case jsonread.Null:
		return "", nil, "value_missing"
	case jsonread.Number:
		if coerceInteger && isInteger(s.Text) {
			return string(s.Text), coerced, ""
		}
		return "", nil, "type_mismatch"
	default:
		return "", nil, "type_mismatch"
	}
	body := Trim(s.Text)
	if len(body) != len(s.Text) {
		warnings = trimmed
	}
	if len(body) == 0 {
		return "", warnings, "value_missing"
	}
	var control, invisible bool
	characters := 0
	for _, c := range string(body) {
		characters++
		switch {
		case isControl(c):
			control = true
		case isInvisible(c):
			invisible = true
		}
	}
	switch {
	case control:
		return "", warnings, "text_control_char"
	case invisible:
		return "", warnings, "text_invisible_char"
	case characters > maxText:
		return "", warnings, "text_too_long"
	case string(body) == "string":
		return "", warnings, "placeholder"
	}
	return string(norm.NFC.Bytes(body)), warnings, ""
}

func isInteger(literal []byte) bool {
	for i, c := range literal {
		if (c < '0' || c > '9') && (c != '-' || i > 0) {
			return false
		}
	}
	return true
}

func isControl(c rune) bool { return c < ' ' || 0x7f <= c && c <= 0x9f }

func isInvisible(c rune) bool {
	return c >= 0xa0 && unicode.In(c, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Zs)
}

// DisplayText accepts a text that is only shown: R20. It never refuses: null is nil, what cannot
// be shown becomes U+FFFD, too long a text is cut, and a value of another kind is taken by its
// literal or, when it has none, as unknown.
func DisplayText(s jsonread.Scalar) (text *string, warnings []string) {
	switch s.Kind {
	case jsonread.String:
	case jsonread.Null:
		return nil, nullOptional
	case jsonread.Number, jsonread.Bool:
		literal := string(s.Text)
		return &literal, coerced
	default:
		return nil, cleaned
	}
	clean, changed := sanitize(s.Text, maxText, func(c rune) bool { return isControl(c) || isInvisible(c) })
	if changed {
		warnings = cleaned
	}
	return &clean, warnings
}

// Excerpt makes refused text fit to be kept and shown: at most 500 characters, control characters,
// invisible format characters and broken UTF-8 replaced by U+FFFD.
func Excerpt(text []byte) string {
	clean, _ := sanitize(text, maxExcerpt, func(c rune) bool {
		return isControl(c) || unicode.In(c, unicode.Cf, unicode.Zl, unicode.Zp)
	})
	return clean
}

func sanitize(text []byte, limit int, bad func(rune) bool) (clean string, changed bool) {
	var b strings.Builder
	for n := 0; len(text) > 0; n++ {
		if n == limit {
			return b.String(), true
		}
		c, size := utf8.DecodeRune(text)
		if bad(c) || c == utf8.RuneError && size == 1 {
			c, changed = utf8.RuneError, true
		}
		b.WriteRune(c)
		text = text[size:]
	}
	return b.String(), changed
}
