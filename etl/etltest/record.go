package etltest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"meterhouse/etl"
)

// record is a sink that keeps what it is told, and fails when a test wants it to.
type record struct {
	calls   []string // as text, when they were made
	values  []any
	rejects []etl.Reject
	kept    int // facts at the dataset's grain

	failAt int // this call, counted from 1, and all after it fail; 0: none
	made   int
	after  int // calls after the one that failed
}

var errSink = errors.New("the sink is full")

func (r *record) take(facts int, v any) error {
	r.made++
	if r.failAt > 0 && r.made >= r.failAt {
		r.after = r.made - r.failAt
		return errSink
	}
	r.kept += facts
	r.calls, r.values = append(r.calls, text(v)), append(r.values, v)
	return nil
}

func (r *record) Customer(v etl.Customer) error      { return r.take(1, v) }
func (r *record) Terms(v etl.Terms) error            { return r.take(len(v.Levels), v) }
func (r *record) Readings(v etl.Readings) error      { return r.take(len(v.Levels), v) }
func (r *record) License(v etl.LicenseReading) error { return r.take(1, v) }

func (r *record) History(v etl.History) error {
	samples := 0
	for _, l := range v.Levels {
		samples += len(l.Samples)
	}
	return r.take(samples, v)
}

func (r *record) Reject(v etl.Reject) error {
	r.rejects = append(r.rejects, v)
	return r.take(0, v)
}

func (r *record) Restart() error {
	err := r.take(0, "restart")
	r.calls, r.values, r.rejects, r.kept = nil, nil, nil, 0
	return err
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%T: %v", v, err)
	}
	return fmt.Sprintf("%T %s", v, b)
}

// problems lists what is wrong with what the sink was told of an answer that was accepted.
func (r *record) problems(report etl.Report) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if report.Received != r.kept+report.Ignored+report.Quarantined {
		say("received %d, want %d: %d facts + %d ignored + %d quarantined",
			report.Received, r.kept+report.Ignored+report.Quarantined, r.kept, report.Ignored, report.Quarantined)
	}
	if report.Quarantined != len(r.rejects) {
		say("quarantined %d, but the sink was given %d rejects", report.Quarantined, len(r.rejects))
	}
	if r.kept > 0 && report.Records < 1 {
		say("records %d with %d facts", report.Records, r.kept)
	}
	for name, w := range report.Warnings {
		if w.Count < 1 || !isName(name) {
			say("warning %q: count %d, want a name and a count", name, w.Count)
		}
	}
	for _, reject := range r.rejects {
		if !strings.HasPrefix(reject.Path, "/") || !isName(reject.Reason) {
			say("reject with the path %q and the reason %q, want a JSON pointer and a name", reject.Path, reject.Reason)
		}
		if utf8.RuneCountInString(reject.Excerpt) > 500 || strings.ContainsFunc(reject.Excerpt, unicode.IsControl) {
			say("reject with the excerpt %q, want at most 500 characters and no control characters", reject.Excerpt)
		}
	}
	for i, v := range r.values {
		if now := text(v); now != r.calls[i] {
			say("a value changed after it was handed over:\n%s\n%s", r.calls[i], now)
		}
		walk(reflect.ValueOf(v), func(v any) {
			switch v := v.(type) {
			case string:
				if !utf8.ValidString(v) || strings.ContainsRune(v, 0) {
					say("text %q: Postgres stores valid UTF-8 without NUL", v)
				}
			case time.Time:
				if v.IsZero() || v.Location() != time.UTC {
					say("time %s: want UTC, and nil where unknown", v)
				}
			}
		})
	}
	return wrong
}

var isName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`).MatchString

// quantities are all known quantities of the facts, as text, sorted.
func (r *record) quantities() (all []string) {
	for _, v := range r.values {
		walk(reflect.ValueOf(v), func(v any) {
			if d, ok := v.(etl.Decimal); ok {
				all = append(all, d.String())
			}
		})
	}
	slices.Sort(all)
	return all
}

// days are the UTC days of all samples.
func (r *record) days() (all []etl.Day) {
	for _, v := range r.values {
		walk(reflect.ValueOf(v), func(v any) {
			if s, ok := v.(etl.Sample); ok {
				all = append(all, s.Day())
			}
		})
	}
	return all
}

// walk visits everything that a fact says: its values and, before them, the structs that hold them.
// What is unknown is passed over.
func walk(v reflect.Value, visit func(any)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			walk(v.Elem(), visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), visit)
		}
	case reflect.Struct:
		if n, ok := v.Interface().(etl.NullDecimal); ok && !n.Known {
			return
		}
		visit(v.Interface())
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				walk(v.Field(i), visit)
			}
		}
	case reflect.String:
		visit(v.String())
	}
}
