package wolkvox

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Token is an account's credential. It cannot be printed: fmt with any verb that asks the value
// (all but %p), JSON, text and slog show only that there is one. An unexported field of this type
// would be printed by fmt without asking, so an [Account] holds a pointer.
type Token string

const redacted = "[redacted]"

func (t Token) shown() string {
	if t == "" {
		return ""
	}
	return redacted
}

// Format implements fmt.Formatter for all verbs.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.shown()) }

// String implements fmt.Stringer.
func (t Token) String() string { return t.shown() }

// GoString implements fmt.GoStringer.
func (t Token) GoString() string { return t.shown() }

// MarshalText implements encoding.TextMarshaler, and so JSON and YAML.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.shown()), nil }

// LogValue implements slog.LogValuer.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.shown()) }

// reveal is the credential itself, for the one header that carries it.
func (t *Token) reveal() string { return string(*t) }

// check tells whether t can be a header's value.
func (t Token) check() error {
	switch {
	case t == "":
		return errors.New("token is empty")
	case len(t) > 8192:
		return fmt.Errorf("token has %d characters, want at most 8192", len(t))
	case strings.ContainsFunc(string(t), func(c rune) bool { return c <= ' ' || c >= 0x7f }):
		return errors.New("token holds blanks, line breaks or other than visible ASCII")
	}
	return nil
}
