package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"meterhouse/etl"
)

const day = 24 * time.Hour

// secret is a text that cannot be printed by accident: every fmt verb, JSON, YAML and slog show a
// mask. It sits in a closure because fmt looks into unexported fields without asking for methods.
type secret struct{ reveal func() string }

const mask = "********"

func newSecret(text string) secret {
	if text == "" {
		return secret{}
	}
	return secret{reveal: func() string { return text }}
}

// text is the only way out.
func (s secret) text() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

func (s secret) String() string {
	if s.reveal == nil {
		return ""
	}
	return mask
}

func (s secret) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, s.String()) }
func (s secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
func (s secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }
func (s secret) LogValue() slog.Value         { return slog.StringValue(s.String()) }

func (s *secret) UnmarshalText(text []byte) error {
	*s = newSecret(string(text))
	return nil
}

// dsn is a URL that may hold a password: it prints without it.
type dsn struct{ secret }

func (d dsn) String() string {
	text := d.text()
	if text == "" || text == localDatabase {
		return text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" && u.User == nil && u.RawQuery == "" || strings.Contains(u.Host+u.Path+u.RawQuery+u.Fragment, "@") {
		return mask // nobody can tell where in it a password is
	}
	// libpq also takes passwords as parameters.
	query := u.Query()
	for key := range query {
		if strings.Contains(key, "password") {
			query.Set(key, "xxxxx")
		}
	}
	u.RawQuery = query.Encode()
	return u.Redacted()
}

func (d dsn) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, d.String()) }
func (d dsn) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
func (d dsn) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }
func (d dsn) LogValue() slog.Value         { return slog.StringValue(d.String()) }

// span is a duration that may be written in days: 125d, 1d12h, 2h, 60s.
type span time.Duration

var spanForm = regexp.MustCompile(`^(?:(\d{1,5})d)?(\d.*)?$`)

func (s *span) UnmarshalText(text []byte) error {
	m := spanForm.FindStringSubmatch(string(text))
	var d time.Duration
	if m != nil && m[1] != "" {
		days, _ := strconv.Atoi(m[1])
		d = time.Duration(days) * day
	}
	if m != nil && m[2] != "" {
		rest, err := time.ParseDuration(m[2])
		if err != nil || rest < 0 {
			m = nil
		}
		d += rest
	}
	if m == nil || len(text) == 0 || d < 0 {
		return fmt.Errorf("%q: want a duration such as 60s, 2h or 125d", text)
	}
	*s = span(d)
	return nil
}

func (s span) String() string {
	d := time.Duration(s)
	days, rest := d/day, d%day
	switch {
	case days > 0 && rest == 0:
		return fmt.Sprintf("%dd", days)
	case d == 0:
		return "0d"
	}
	text := rest.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	if days > 0 {
		return fmt.Sprintf("%dd%s", days, text)
	}
	return text
}

// size is a number of bytes: 256MiB, 1GiB, 64KiB or plain.
type size int64

var sizeForm = regexp.MustCompile(`^(\d{1,18}) ?(B|KiB|MiB|GiB)?$`)

var sizeUnits = map[string]int64{"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

func (s *size) UnmarshalText(text []byte) error {
	m := sizeForm.FindStringSubmatch(string(text))
	if m == nil {
		return fmt.Errorf("%q: want a size such as 256MiB or 1GiB", text)
	}
	n, _ := strconv.ParseInt(m[1], 10, 64)
	unit := sizeUnits[m[2]]
	if n > (1<<62)/unit {
		return fmt.Errorf("%q: want a size such as 256MiB or 1GiB", text)
	}
	*s = size(n * unit)
	return nil
}

func (s size) String() string {
	for _, unit := range []string{"GiB", "MiB", "KiB"} {
		if n := sizeUnits[unit]; s > 0 && int64(s)%n == 0 {
			return strconv.FormatInt(int64(s)/n, 10) + unit
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// date is a UTC day; the zero value is none.
type date struct {
	day   etl.Day
	known bool
}

func (d *date) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*d = date{}
		return nil
	}
	parsed, err := etl.ParseDay(string(text))
	*d = date{parsed, err == nil}
	return err
}

func (d date) String() string {
	if !d.known {
		return ""
	}
	return d.day.String()
}

// setText gives a configured text to a value of one of the types above, a string or a number.
func setText(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(interface{ UnmarshalText([]byte) error }); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
		return nil
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q: want a whole number", text)
		}
		v.SetInt(int64(n))
		return nil
	}
	panic("config: no way to set a " + v.Type().String())
}

// isLeaf tells that a value is written as one text.
func isLeaf(t reflect.Type) bool {
	if t.Kind() == reflect.String || t.Kind() == reflect.Int {
		return true
	}
	_, ok := reflect.PointerTo(t).MethodByName("UnmarshalText")
	return ok
}
