package jsonread

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"meterhouse/etl"
)

const base = `{"results":{"returned_records":1,"records":[{"subscription":{"account_name":"ACME","number":"A-S00012345","start_date":"2025-01-01T00:00:00Z","end_date":"2027-12-31T23:59:59Z"},"service_levels":[{"name":"Extreme","historical_consumption":[{"committed_tib":100,"consumed_tib":112.5,"timestamp_utc":"2026-05-14T00:00:00Z","burst_tib":12.5,"accrued_burst_tib":0.4,"is_invoiced":false}]}]}],"request_parameters":{"from_date_utc":"2026-05-14","to_date_utc":"2026-05-14","customer_id":"C-1001"},"request_id":"r-1","response_time":"0.21","customer":{"name":"ACME","id":"C-1001"}}}`

// with puts raw text in the place of the account's name or of the consumed measure.
func with(raw string) string {
	if strings.HasPrefix(raw, `"`) || strings.HasPrefix(raw, "[") {
		return strings.Replace(base, `"ACME","number"`, raw+`,"number"`, 1)
	}
	return strings.Replace(base, "112.5", raw, 1)
}

func utf16(s string) string {
	out := []byte{0xff, 0xfe}
	for i := range len(s) {
		out = append(out, s[i], 0)
	}
	return string(out)
}

func gzipMagic() string { b, _ := hex.DecodeString("1f8b0800000000000003ab5602"); return string(b) }

var documents = []struct {
	name, doc, reason string
}{
	{"base", base, ""},
	{"J01 empty", "", "json_empty"},
	{"J01 blank", " \r\n\t ", "json_empty"},
	{"only a mark", "\xef\xbb\xbf", "json_empty"},
	{"J02 html", "<html><body>Scheduled maintenance</body></html>", "json_syntax"},
	{"J03 php warning", `<br /><b>Warning</b>: mysqli_connect(): … on line 41<br />{"code":200,"data":[]}`, "json_syntax"},
	{"J04 cut", base[:300], "json_syntax"},
	{"J05 second document", base + `{"results":{}}`, "json_syntax"},
	{"J06 null is a document", "null", ""},
	{"J07 text is a document", `"OK"`, ""},
	{"J08 mark", "\xef\xbb\xbf" + base, ""},
	{"two marks", "\xef\xbb\xbf\xef\xbb\xbf" + base, "json_syntax"},
	{"J09 UTF-16", utf16(base), "json_invalid_utf8"},
	{"J10 invalid byte", with("\"AC\xffME\""), "json_invalid_utf8"},
	{"invalid byte in a skipped name", `{"a":{"b` + "\xc3\x28" + `":1}}`, "json_invalid_utf8"},
	{"invalid byte behind a syntax error", `{"a":nope,"b":"` + "\xff" + `"}`, "json_invalid_utf8"},
	{"character cut off at the end", `{"a":"` + "\xe2\x82", "json_invalid_utf8"},
	{"gzip inside gzip", gzipMagic(), "json_invalid_utf8"},
	{"J11 lone surrogate", with(`"AC\ud800ME"`), "json_invalid_unicode"},
	{"low surrogate first", with(`"AC\udc00\ud800ME"`), "json_invalid_unicode"},
	{"lone surrogate at the end of text", with(`"AC\ud800"`), "json_invalid_unicode"},
	{"lone surrogate in a name", `{"\uDfff":1}`, "json_invalid_unicode"},
	{"pair", with(`"AC\ud83d\ude00ME"`), ""},
	{"malformed escape", with(`"AC\u00zzME"`), "json_syntax"},
	{"unknown escape", with(`"AC\x41ME"`), "json_syntax"},
	{"raw line break in text", with("\"AC\nME\""), "json_syntax"},
	{"J12 NaN", with("NaN"), "json_syntax"},
	{"J13 Infinity", with("Infinity"), "json_syntax"},
	{"J14 leading zero", with("0112.5"), "json_syntax"},
	{"J15 repeated name", with(`112.5,"consumed_tib":12.5`), "json_duplicate_key"},
	{"J16 case variant", with(`112.5,"Consumed_TIB":12.5`), "json_duplicate_key"},
	{"J17 hidden code", `{"code":200,"code":500,"data":[]}`, "json_duplicate_key"},
	{"escaped repeat", `{"code":200,"\u0063ode":500}`, "json_duplicate_key"},
	{"folding beyond ASCII", `{"kelvin":1,"\u212Aelvin":2}`, "json_duplicate_key"},
	{"long s", `{"Musik":1,"Mu\u017Fik":2}`, "json_duplicate_key"},
	{"sharp s folds to no two letters", `{"ss":1,"ß":2}`, ""},
	{"escaped backslash is another name", `{"a\\b":1,"a\b":2}`, ""},
	{"repeat in a skipped object", `{"x":{"y":[{"a":1,"A":2}]}}`, "json_duplicate_key"},
	{"equal names in different objects", `[{"a":1},{"a":{"a":2}},{"A":3}]`, ""},
	{"J18 too deep", with(strings.Repeat("[", 40) + strings.Repeat("]", 40)), "json_too_deep"},
	{"33 levels", strings.Repeat("[", 33) + strings.Repeat("]", 33), "json_too_deep"},
	{"32 levels", strings.Repeat("[", 32) + strings.Repeat("]", 32), ""},
	{"J19 long number", with("1" + strings.Repeat("0", 80)), "json_number_too_long"},
	{"65 characters", with("1" + strings.Repeat("0", 64)), "json_number_too_long"},
	{"64 characters", with("1" + strings.Repeat("0", 63)), ""},
	{"long text that begins like a number", with(`"1` + strings.Repeat("0", 80) + `"`), ""},
	{"J20 trailing comma", strings.Replace(base, "}]}]}]", "}]}]},]", 1), "json_syntax"},
	{"J21 single quotes", `{'code':200,'data':[]}`, "json_syntax"},
	{"J22 wrapper", "callback(" + base + ")", "json_syntax"},
	{"name that is no text", `{1:2}`, "json_syntax"},
	{"value missing", `{"a":}`, "json_syntax"},
	{"bracket mismatch", `{"a":[1}`, "json_syntax"},
	{"NUL at the end", base + "\x00", "json_syntax"},
	{"many names", manyNames(500, ""), ""},
	{"many names, one repeated", manyNames(500, `,"NAME17":0`), "json_duplicate_key"},
	{"many names, a late one repeated", manyNames(500, `,"NAME480":0`), "json_duplicate_key"},
	{"long name repeated", `{"` + strings.Repeat("n", 100) + `":1,"` + strings.Repeat("N", 100) + `":1}`, "json_duplicate_key"},
}

func manyNames(n int, more string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"name%d":%d`, i, i)
	}
	return "{" + b.String()[1:] + more + "}"
}

func read(r io.Reader, consume func(*Reader) error) (*Reader, error) {
	rd := New(r)
	err := consume(rd)
	if err == nil {
		err = rd.End()
	}
	return rd, err
}

// tree reads everything token by token, with Scalar at the leaves.
func tree(r *Reader) error {
	switch kind, err := r.Kind(); {
	case err != nil:
		return err
	case kind == Object:
		return r.Object(func(string) error { return tree(r) })
	case kind == Array:
		return r.Array(func(int) error { return tree(r) })
	}
	_, err := r.Scalar()
	return err
}

var ways = map[string]func(*Reader) error{
	"tree":   tree,
	"skip":   (*Reader).Skip,
	"scalar": func(r *Reader) error { _, err := r.Scalar(); return err },
}

func reasonOf(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	var reject *etl.RejectError
	if !errors.As(err, &reject) {
		t.Fatalf("%v is no *etl.RejectError", err)
	}
	return reject.Reason
}

func TestDocuments(t *testing.T) {
	for _, c := range documents {
		for way, consume := range ways {
			t.Run(c.name+"/"+way, func(t *testing.T) {
				for _, r := range []io.Reader{
					strings.NewReader(c.doc),
					iotest.OneByteReader(strings.NewReader(c.doc)),
					iotest.DataErrReader(strings.NewReader(c.doc)),
				} {
					rd, err := read(r, consume)
					if got := reasonOf(t, err); got != c.reason {
						t.Fatalf("got %q (%v), want %q", got, err, c.reason)
					}
					if err != nil && rd.End() != err {
						t.Errorf("the error does not stay: %v after %v", rd.End(), err)
					}
					if err != nil && len(err.Error()) > 500 {
						t.Errorf("an error of %d bytes", len(err.Error()))
					}
					if want := strings.HasPrefix(c.doc, "\xef\xbb\xbf"); rd.BOM() != want {
						t.Errorf("BOM %t, want %t", rd.BOM(), want)
					}
				}
			})
		}
	}
}

// A name list that grew over many objects must not lose what an open object has seen.
func TestNamesOfManyObjects(t *testing.T) {
	var b strings.Builder
	b.WriteString("[")
	for i := range 400 {
		fmt.Fprintf(&b, `{"a%d":1,"b":{"a%d":1,"c%d":2},"A%d":3},`, i, i, i, i+1000)
	}
	good := b.String() + `{"z":1}]`
	bad := b.String() + `{"a390":1,"b":{},"A390":2}]`
	if _, err := read(strings.NewReader(good), tree); err != nil {
		t.Errorf("good: %v", err)
	}
	if _, err := read(strings.NewReader(bad), tree); reasonOf(t, err) != "json_duplicate_key" {
		t.Errorf("bad: %v", err)
	}
}

func TestScalars(t *testing.T) {
	const doc = `{"a":null,"b":true,"c":-1.50e3,"d":"x\u00e9\n","e":{"k\n":[1,"two",{}],"l":null},"f":[],"g":""}`
	want := map[string]string{
		"a": "null:", "b": "boolean:true", "c": "number:-1.50e3", "d": "string:xé\n",
		"e": `object:{"k\n":[1,"two",{}],"l":null}`, "f": "array:[]", "g": "string:",
	}
	rd := New(strings.NewReader(doc))
	err := rd.Object(func(name string) error {
		s, err := rd.Scalar()
		if got := s.Kind.String() + ":" + string(s.Text); got != want[name] {
			t.Errorf("%s: got %q, want %q", name, got, want[name])
		}
		if got := rd.Path(); got != "/"+name {
			t.Errorf("%s: path %q", name, got)
		}
		return err
	})
	if err != nil || rd.End() != nil {
		t.Fatal(err, rd.End())
	}
}

func TestExcerptIsCutBetweenCharacters(t *testing.T) {
	doc := `["` + strings.Repeat("é", 400) + `","` + strings.Repeat("x", 5000) + `"]`
	rd := New(strings.NewReader(doc))
	s, err := rd.Scalar()
	if err != nil || rd.End() != nil {
		t.Fatal(err, rd.End())
	}
	if len(s.Text) > maxExcerpt || len(s.Text) < maxExcerpt-4 || !strings.HasPrefix(doc, string(s.Text)) {
		t.Errorf("%d bytes: %q", len(s.Text), s.Text)
	}
}

func TestPathInErrors(t *testing.T) {
	doc := "\xef\xbb\xbf" + `{"a":[{"b":1,"B":2}]}`
	_, err := read(strings.NewReader(doc), tree)
	want := `json_duplicate_key: byte 19 at "/a/0/B": a member name is repeated: vendor broke its contract`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestReadErrors(t *testing.T) {
	for n := range len(base) {
		cut := io.MultiReader(strings.NewReader(base[:n]), iotest.ErrReader(io.ErrUnexpectedEOF))
		_, err := read(cut, tree)
		if reasonOf(t, err) != "body_truncated" || !errors.Is(err, etl.ErrUnavailable) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	own := etl.Rejected("body_too_large", "more than 7 bytes")
	_, err := read(io.MultiReader(strings.NewReader(`{"a":`), iotest.ErrReader(own)), tree)
	if reasonOf(t, err) != "body_too_large" {
		t.Errorf("a reject of the reader became %v", err)
	}
}

func TestEndlessTokenIsRefused(t *testing.T) {
	for _, start := range []string{"", `{"a":"`, `{"a":1`} {
		endless := io.MultiReader(strings.NewReader(start), io.LimitReader(filler(' '), 64<<20))
		if strings.HasSuffix(start, "1") {
			endless = io.MultiReader(strings.NewReader(start), io.LimitReader(filler('1'), 64<<20))
		}
		rd := New(endless)
		_, err := rd.Scalar()
		if reasonOf(t, err) != "body_too_large" {
			t.Errorf("%q and 64 MiB: %v", start, err)
		}
	}
}

type filler byte

func (f filler) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(f)
	}
	return len(p), nil
}

func TestCallbackMustConsume(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	rd := New(strings.NewReader(`{"a":1}`))
	_ = rd.Object(func(string) error { return nil })
}

func TestWrongKind(t *testing.T) {
	rd := New(strings.NewReader(`[1]`))
	if err := rd.Object(func(string) error { return rd.Skip() }); reasonOf(t, err) != "type_mismatch" {
		t.Error(err)
	}
}

func TestCallbackErrorComesBackAsItIs(t *testing.T) {
	want := errors.New("mine")
	rd := New(strings.NewReader(`{"a":[1]}`))
	err := rd.Object(func(string) error { return rd.Array(func(int) error { return want }) })
	if err != want {
		t.Error(err)
	}
}

func samples(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"records":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"committed_tib":100,"consumed_tib":112.5,"timestamp_utc":"2026-05-14T00:00:00Z","burst_tib":12.5,"accrued_burst_tib":0.4,"is_invoiced":false}`)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

func TestAllocationsPerObject(t *testing.T) {
	few, many := samples(10), samples(1010)
	cost := func(doc []byte) int {
		return int(testing.AllocsPerRun(10, func() {
			if err := readSamples(doc); err != nil {
				t.Error(err)
			}
		}))
	}
	if more := cost(many) - cost(few); more > 20 { // the parser's buffer may grow
		t.Errorf("%d allocations for 1000 more objects", more)
	}
}

func readSamples(doc []byte) error {
	rd := New(bytes.NewReader(doc))
	member := func(string) error { _, err := rd.Scalar(); return err }
	element := func(int) error { return rd.Object(member) }
	err := rd.Object(func(string) error { return rd.Array(element) })
	if err == nil {
		err = rd.End()
	}
	return err
}

func BenchmarkSamples(b *testing.B) {
	doc := samples(1000)
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if err := readSamples(doc); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzReader(f *testing.F) {
	for _, c := range documents {
		f.Add([]byte(c.doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		reasons := map[string]bool{}
		for _, consume := range ways {
			_, err := read(bytes.NewReader(doc), consume)
			reasons[reasonOf(t, err)] = true
		}
		if len(reasons) != 1 {
			t.Fatalf("the ways of reading disagree: %v", reasons)
		}
		if reasons[""] && !json.Valid(bytes.TrimPrefix(doc, byteOrderMark)) {
			t.Errorf("accepted, but not JSON: %s", strconv.Quote(string(doc)))
		}
	})
}

// Flat never decides anything: what it reads is what Object reads, and what it leaves is untouched.
func TestFlatAgreesWithObject(t *testing.T) {
	names := []string{"a", "b", "long_name", "d"}
	flat := map[string]bool{
		`{"a":1,"b":"x"}`: true, ` { "b" : -0.5e+7 , "a" : null } `: true, `{"long_name":true,"d":false}`: true, `{"d":"","a":"~ !#["}`: true,
		`{"a":0}`: true, `{"a":-0.0}`: true, `{"a":1E2}`: true,
		`{}`: false, `{"a":1,"a":2}`: false, `{"c":1}`: false, `{"A":1}`: false, `{"a":"\n"}`: false, `{"\u0061":1}`: false, `{"a":"é"}`: false, `{"a":"` + "\x7f" + `"}`: false,
		`{"a":{}}`: false, `{"a":[1]}`: false, `{"a":01}`: false, `{"a":1.}`: false, `{"a":.5}`: false, `{"a":-}`: false, `{"a":1e}`: false, `{"a":+1}`: false,
		`{"a":nul}`: false, `{"a":nulls}`: false, `{"a":True}`: false, `{"a":1,}`: false, `{"a" 1}`: false, `{"a":1;"b":2}`: false, `{,"a":1}`: false, `{"a":"` + "\n" + `"}`: false,
		`{"a":1`: false, `{"a":"x`: false, `{"a`: false, `{`: false, `{"a":"x"`: false, `{"a":1 "b":2}`: false, `{"a":` + strings.Repeat("1", maxNumber+1) + `}`: false,
		`{"a":` + strings.Repeat("1", maxNumber) + `}`: true,
		`7`: false, `[]`: false, `null`: false, `"{"`: false, ``: false,
	}
	type seen struct {
		members string
		path    string
		err     string
	}
	read := func(doc string, useFlat bool) (s seen, took bool) {
		// The parser's buffer is small at first; a long text makes it hold the objects behind it.
		rd := New(strings.NewReader(`["` + strings.Repeat("x", 4<<10) + `",` + doc + `,{"b":7}]`))
		note := func(name string, v Scalar) { s.members += fmt.Sprintf("%s %s %q; ", name, v.Kind, v.Text) }
		err := rd.Array(func(i int) error {
			s.members += "\n"
			if kind, err := rd.Kind(); err != nil || kind != Object {
				if err == nil {
					_, err = rd.Scalar()
				}
				return err
			}
			if useFlat {
				members, ok, err := rd.Flat(names, make([]Member, len(names)))
				took = took || ok && i == 1
				if ok || err != nil {
					for _, m := range members {
						note(names[m.Name], m.Scalar)
					}
					s.path += rd.Path()
					return err
				}
			}
			err := rd.Object(func(name string) error {
				v, err := rd.Scalar()
				note(name, v)
				return err
			})
			s.path += rd.Path()
			return err
		})
		if err == nil {
			err = rd.End()
		}
		if err != nil {
			s = seen{err: err.Error()} // what came before it is of no use
		}
		return s, took
	}
	for doc, want := range flat {
		slow, _ := read(doc, false)
		fast, took := read(doc, true)
		if slow != fast {
			t.Errorf("%s: got %+v, want %+v", doc, fast, slow)
		}
		if took != want {
			t.Errorf("%s: read flat %t, want %t", doc, took, want)
		}
	}
}
