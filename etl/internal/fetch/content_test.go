package fetch

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var varyingNames = []string{"request_id", "response_time"}

// contentOf writes a body in pieces of the given size.
func contentOf(body string, piece int) (whole, content string) {
	c := newContentHash(varyingNames)
	for rest := []byte(body); len(rest) > 0; {
		n := min(piece, len(rest))
		c.Write(rest[:n])
		rest = rest[n:]
	}
	return fmt.Sprintf("%x", c.Sum(nil)), fmt.Sprintf("%x", c.contentSum())
}

func TestContentIsTheBodyButForWhatVaries(t *testing.T) {
	t.Parallel()
	records := `"records":[` + strings.Repeat(`{"n":1.5},`, 2000) + `{}]`
	for _, c := range []struct {
		name, a, b string
		same       bool
	}{
		{"behind the records", `{"results":{` + records + `,"request_id":"r-1","response_time":"0.21"}}`, `{"results":{` + records + `,"request_id":"r-22222","response_time":"10.3 s"}}`, true},
		{"before them", `{"results":{"request_id":"r-1","response_time":0.21,` + records + `}}`, `{"results":{"request_id":"","response_time":12.5,` + records + `}}`, true},
		{"on both sides", `{"results":{"request_id":"r-1",` + records + `,"response_time":1}}`, `{"results":{"request_id":"r-2",` + records + `,"response_time":2}}`, true},
		{"a small body", `{"request_id" :
			"r-1"}`, `{"request_id" :
			"r-2"}`, true},
		{"blanks count", `{"request_id": "r-1"}`, `{"request_id":"r-1"}`, false},
		{"a record", `{"results":{` + records + `,"request_id":"r-1"}}`, `{"results":{` + strings.Replace(records, "1.5", "1.6", 1) + `,"request_id":"r-1"}}`, false},
		{"a text is no number", `{"response_time":"1"}`, `{"response_time":1}`, false},
		{"another member", `{"request_ids":"r-1"}`, `{"request_ids":"r-2"}`, false},
		{"the name as a value", `{"a":"request_id","b":"r-1"}`, `{"a":"request_id","b":"r-2"}`, false},
		{"a name that ends like it", `{"x\"request_id":"r-1"}`, `{"x\"request_id":"r-2"}`, false},
		{"an object", `{"request_id":{"a":1}}`, `{"request_id":{"a":2}}`, false},
		{"a list", `{"request_id":[1]}`, `{"request_id":[2]}`, false},
		{"null", `{"request_id":null}`, `{"request_id":"r-1"}`, false},
		{"an escape", `{"request_id":"\u0061"}`, `{"request_id":"\ud800"}`, false},
		{"other than ASCII", `{"request_id":"ä"}`, `{"request_id":"` + "\xff" + `"}`, false},
		{"no number of JSON", `{"response_time":01}`, `{"response_time":1}`, false},
		{"nor this", `{"response_time":1.}`, `{"response_time":1.2}`, false},
		{"too long to look at", `{"request_id":"` + strings.Repeat("a", 300) + `"}`, `{"request_id":"` + strings.Repeat("b", 300) + `"}`, false},
		{"cut in the value", `{"request_id":"r-1`, `{"request_id":"r-2`, false},
		{"cut in a number", `{"response_time":1`, `{"response_time":12`, false},
		{"deep inside", `{` + records + `,"x":{"request_id":"r-1"},` + records + `}`, `{` + records + `,"x":{"request_id":"r-2"},` + records + `}`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1, 7, 1000, 4096, 32 << 10} {
				wholeA, a := contentOf(c.a, piece)
				wholeB, b := contentOf(c.b, piece)
				if (a == b) != c.same {
					t.Errorf("in pieces of %d: same content %v, want %v", piece, a == b, c.same)
				}
				if want := fmt.Sprintf("%x", sha256.Sum256([]byte(c.a))); wholeA != want {
					t.Errorf("in pieces of %d: hash %s, want %s", piece, wholeA, want)
				}
				if wholeA == wholeB {
					t.Error("the bodies are the same")
				}
			}
		})
	}
	if sum := newContentHash(nil).contentSum(); sum != nil {
		t.Errorf("content %x although nothing is known to vary", sum)
	}
}

// Bodies of equal content are the same documents, apart from values of members of the given names. Whatever
// is put in place of such a value, at any place of a small document, the hash of everything is SHA-256.
func TestContentProperty(t *testing.T) {
	t.Parallel()
	seen := map[string]string{} // content → document without what varies
	rapid.Check(t, func(t *rapid.T) {
		body := drawDocument(t, 3)
		padded := strings.Repeat(" ", rapid.SampledFrom([]int{0, contentMargin - 20, 2*contentMargin - 30}).Draw(t, "before")) + body +
			strings.Repeat(" ", rapid.SampledFrom([]int{0, contentMargin - 10, 9000}).Draw(t, "behind"))
		whole, content := contentOf(padded, rapid.IntRange(1, 9000).Draw(t, "piece"))
		if want := fmt.Sprintf("%x", sha256.Sum256([]byte(padded))); whole != want {
			t.Fatalf("%q: hash %s, want %s", padded, whole, want)
		}
		var doc any
		if err := json.Unmarshal([]byte(body), &doc); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		spelled, err := json.Marshal(without(doc))
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := seen[content]; ok && before != string(spelled) {
			t.Fatalf("%s has the content of another document: %s", body, before)
		}
		seen[content] = string(spelled)
	})
}

func drawDocument(t *rapid.T, deep int) string {
	value := func() string {
		kinds := []string{`1`, `0.5`, `""`, `"r"`, `"request_id"`, `"\"request_id\":"`, `"a\\"`, `null`, `-12`, `"response_time"`}
		if deep > 0 && rapid.IntRange(0, 2).Draw(t, "nested") == 0 {
			return drawDocument(t, deep-1)
		}
		return rapid.SampledFrom(kinds).Draw(t, "value")
	}
	var b bytes.Buffer
	b.WriteByte('{')
	names := []string{"request_id", "response_time", "a", `\"request_id`, "xrequest_id"}
	for i, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 4, rapid.ID).Draw(t, "names") {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"%s"%s:%s`, name, rapid.SampledFrom([]string{"", " "}).Draw(t, "blank"), value())
	}
	b.WriteByte('}')
	return b.String()
}

// without puts one value in place of every text and number that varies.
func without(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	for name, value := range m {
		m[name] = without(value)
		switch value.(type) {
		case string:
			if name == "request_id" || name == "response_time" {
				m[name] = ""
			}
		case float64:
			if name == "request_id" || name == "response_time" {
				m[name] = 0
			}
		}
	}
	return m
}

func BenchmarkContentHash(b *testing.B) {
	body := []byte(`{"results":{"records":[` + strings.Repeat(`{"timestamp_utc":"2026-05-14T00:05:00Z","committed_tib":100,"consumed_tib":91.25,"burst_tib":0},`, 100_000) + `{}],"request_id":"r-1"}}`)
	front := []byte(`{"results":{"request_id":"r-1",` + string(body[len(`{"results":{`):]))
	for name, h := range map[string]struct {
		body []byte
		sum  func([]byte)
	}{
		"sha256":   {body, func(p []byte) { sha256.Sum256(p) }},
		"behind":   {body, func(p []byte) { c := newContentHash(varyingNames); c.Write(p); c.contentSum() }},
		"in front": {front, func(p []byte) { c := newContentHash(varyingNames); c.Write(p); c.contentSum() }},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(h.body)))
			for b.Loop() {
				h.sum(h.body)
			}
		})
	}
}
