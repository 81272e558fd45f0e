package metabasesim

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// shape is what a JSON object may hold: keys, with ! those that it must, and a test for their values.
type shape map[string]func(any) bool

func (s shape) with(more shape) shape {
	out := maps.Clone(s)
	for key, test := range more {
		delete(out, strings.TrimSuffix(key, "!"))
		out[key] = test
	}
	return out
}

// read takes the body of a request, and refuses what is not of the shape.
func read(r *http.Request, s shape) (map[string]any, error) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var body map[string]any
	if err := json.Unmarshal(text, &body); err != nil {
		return nil, bad("Malformed JSON in request body.")
	}
	if r.Header.Get("Content-Type") != "application/json" {
		return nil, bad("Content-Type %q", r.Header.Get("Content-Type"))
	}
	return body, check("body", body, s)
}

func check(what string, body map[string]any, s shape) error {
	for _, key := range slices.Sorted(maps.Keys(s)) {
		name, must := strings.CutSuffix(key, "!")
		value, given := body[name]
		if must && !given {
			return bad("%s.%s: missing required key", what, name)
		}
		if given && !s[key](value) {
			return bad("%s.%s: invalid value %s", what, name, fmt.Sprint(value))
		}
	}
	for key := range body {
		if s[key] == nil && s[key+"!"] == nil {
			return bad("%s.%s: disallowed key", what, key)
		}
	}
	return nil
}

func str(v any) bool      { _, ok := v.(string); return ok }
func nonBlank(v any) bool { text, ok := v.(string); return ok && strings.TrimSpace(text) != "" }
func boolean(v any) bool  { _, ok := v.(bool); return ok }
func object(v any) bool   { _, ok := v.(map[string]any); return ok }
func list(v any) bool     { _, ok := v.([]any); return ok }
func anything(any) bool   { return true }
func integer(v any) bool  { n, ok := v.(float64); return ok && n == float64(int(n)) }
func positive(v any) bool { return integer(v) && v.(float64) > 0 }
func natural(v any) bool  { return integer(v) && v.(float64) >= 0 }

func maybe(test func(any) bool) func(any) bool {
	return func(v any) bool { return v == nil || test(v) }
}

func is(want string) func(any) bool { return func(v any) bool { return v == want } }
