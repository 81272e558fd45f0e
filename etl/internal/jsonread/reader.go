package jsonread

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"meterhouse/etl"
)

// Kind is the kind of a JSON value.
type Kind uint8

// The kinds. The zero Kind is no kind.
const (
	Null Kind = iota + 1
	Bool
	Number
	String
	Object
	Array
)

// String names the kind for people.
func (k Kind) String() string {
	names := [...]string{"nothing", "null", "boolean", "number", "string", "object", "array"}
	if int(k) < len(names) {
		return names[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// Scalar is a value that was read whole. Text is the unescaped string, the number's literal, true
// or false, nothing for null, and a compact excerpt of an object or array. It is valid until the
// next read.
type Scalar struct {
	Kind Kind
	Text []byte
}

const (
	maxDepth    = 32
	maxNumber   = 64       // characters of a number literal
	maxExcerpt  = 500      // bytes of an object or array kept for people
	maxToken    = 16 << 20 // bytes of one token or one run of blanks: jsontext holds it in memory
	maxErrText  = 120      // of the parser's own words
	maxPathText = 200      // of a pointer in an error
)

// Reader reads one document. After the first error every call returns that error again.
// A Reader is for one goroutine.
type Reader struct {
	src   source
	dec   *jsontext.Decoder
	depth int
	err   error
	text  []byte // scratch for unescaped strings and excerpts
	names names
}

// New makes a Reader of one document. A UTF-8 byte order mark is stripped.
func New(r io.Reader) *Reader {
	rd := &Reader{src: source{r: r}}
	rd.src.owner = rd
	rd.dec = jsontext.NewDecoder(&rd.src, jsontext.AllowDuplicateNames(true)) // duplicates are our own check
	rd.names.init()
	return rd
}

// BOM tells whether a byte order mark was stripped. It is known after the first read.
func (r *Reader) BOM() bool { return r.src.bom }

// Kind is the kind of the next value, which stays unread.
func (r *Reader) Kind() (Kind, error) {
	if r.err != nil {
		return 0, r.err
	}
	if k := kindOf(r.dec.PeekKind()); k != 0 {
		return k, nil
	}
	_, err := r.dec.ReadToken() // says what is wrong
	if err == nil {
		err = errors.New("no value here")
	}
	return 0, r.syntax(err)
}

func kindOf(k jsontext.Kind) Kind {
	switch k {
	case 'n':
		return Null
	case 't', 'f':
		return Bool
	case '0':
		return Number
	case '"':
		return String
	case '{':
		return Object
	case '[':
		return Array
	}
	return 0
}

// Object reads an object and calls member for each of its members, in order. member must consume
// exactly one value; its error ends the reading and is returned as it is. A value of another kind
// is a reject: ask Kind before.
func (r *Reader) Object(member func(name string) error) error {
	if err := r.open(Object); err != nil {
		return err
	}
	frame := r.names.enter(r.depth)
	var previous *knownName
	guess := frame.first
	for {
		if r.dec.PeekKind() == '}' {
			return r.close()
		}
		raw, err := r.dec.ReadValue()
		if err != nil {
			return r.syntax(err)
		}
		// Objects of one list repeat the same names in the same order: try the name that came
		// next the last time before looking anything up.
		known := guess
		if known == nil || string(raw[1:len(raw)-1]) != known.text {
			known = r.names.find(raw)
			if previous == nil {
				frame.first = known
			} else {
				previous.next = known
			}
		}
		var name string
		var fresh bool
		if known != nil {
			name, fresh = known.text, frame.addKnown(known.bit)
			guess = known.next
		} else {
			name, fresh = r.names.addOther(frame, raw)
			guess = nil
		}
		previous = known
		if known == nil {
			previous = &r.names.nobody
		}
		if !fresh {
			return r.fail("json_duplicate_key", "a member name is repeated")
		}
		before := r.count()
		if err := member(name); err != nil {
			return err
		}
		if r.err != nil { // the callback swallowed it
			return r.err
		}
		if r.count() != before+1 {
			panic("jsonread: the callback for member " + strconv.Quote(name) + " must consume exactly one value")
		}
	}
}

// Array reads an array and calls element for each of its elements, in order. element must consume
// exactly one value; its error ends the reading and is returned as it is. A value of another kind
// is a reject: ask Kind before.
func (r *Reader) Array(element func(i int) error) error {
	if err := r.open(Array); err != nil {
		return err
	}
	for i := 0; ; i++ {
		if r.dec.PeekKind() == ']' {
			return r.close()
		}
		if _, err := r.Kind(); err != nil {
			return err
		}
		before := r.count()
		if err := element(i); err != nil {
			return err
		}
		if r.err != nil { // the callback swallowed it
			return r.err
		}
		if r.count() != before+1 {
			panic("jsonread: the callback for element " + strconv.Itoa(i) + " must consume exactly one value")
		}
	}
}

// count is how many names and values the open object or array has had.
func (r *Reader) count() int64 {
	_, n := r.dec.StackIndex(r.dec.StackDepth())
	return n
}

func (r *Reader) open(want Kind) error {
	got, err := r.Kind()
	if err != nil {
		return err
	}
	if got != want {
		return r.fail("type_mismatch", "got "+got.String()+", want "+want.String())
	}
	if r.depth == maxDepth {
		return r.fail("json_too_deep", "more than "+strconv.Itoa(maxDepth)+" levels")
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return r.syntax(err)
	}
	r.depth++
	return nil
}

func (r *Reader) close() error {
	if _, err := r.dec.ReadToken(); err != nil {
		return r.syntax(err)
	}
	r.depth--
	return nil
}

// Scalar consumes the next value, whatever it is. Objects and arrays are read whole and checked;
// of them only an excerpt is kept.
func (r *Reader) Scalar() (Scalar, error) {
	kind, err := r.Kind()
	if err != nil {
		return Scalar{}, err
	}
	if kind == Object || kind == Array {
		excerpt := excerpt{keep: maxExcerpt}
		if err := r.walk(&excerpt); err != nil {
			return Scalar{}, err
		}
		return Scalar{Kind: kind, Text: excerpt.cut()}, nil
	}
	raw, err := r.literal()
	if err != nil {
		return Scalar{}, err
	}
	switch kind {
	case Null:
		raw = nil
	case String:
		if bytes.IndexByte(raw, '\\') < 0 {
			raw = raw[1 : len(raw)-1]
			break
		}
		if r.text, err = jsontext.AppendUnquote(r.text[:0], raw); err != nil {
			return Scalar{}, r.syntax(err)
		}
		raw = r.text
	}
	return Scalar{Kind: kind, Text: raw}, nil
}

// literal consumes a value that is neither object nor array, as it is written.
func (r *Reader) literal() ([]byte, error) {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return nil, r.syntax(err)
	}
	if len(raw) > maxNumber && (raw[0] == '-' || '0' <= raw[0] && raw[0] <= '9') {
		return nil, r.fail("json_number_too_long", "a number of "+strconv.Itoa(len(raw))+" characters")
	}
	return raw, nil
}

// Skip consumes the next value, whatever it is, and checks all of it.
func (r *Reader) Skip() error { return r.walk(nil) }

func (r *Reader) walk(into *excerpt) error {
	kind, err := r.Kind()
	if err != nil {
		return err
	}
	switch kind {
	case Object:
		into.add("{")
		first := true
		err = r.Object(func(name string) error {
			if into.open() {
				into.next(&first)
				quoted, err := jsontext.AppendQuote(nil, name)
				if err != nil {
					return err
				}
				into.add(string(quoted) + ":")
			}
			return r.walk(into)
		})
		into.add("}")
		return err
	case Array:
		into.add("[")
		first := true
		err = r.Array(func(int) error {
			into.next(&first)
			return r.walk(into)
		})
		into.add("]")
		return err
	}
	raw, err := r.literal()
	if err == nil && into.open() {
		into.add(string(raw[:min(len(raw), into.keep+utf8.UTFMax)]))
	}
	return err
}

// excerpt collects the beginning of a compact text. A nil excerpt collects nothing.
type excerpt struct {
	b    []byte
	keep int
}

func (e *excerpt) open() bool { return e != nil && len(e.b) <= e.keep }

func (e *excerpt) add(s string) {
	if e.open() {
		e.b = append(e.b, s...)
	}
}

func (e *excerpt) next(first *bool) {
	if !*first {
		e.add(",")
	}
	*first = false
}

// cut ends the text at its limit without splitting a character.
func (e *excerpt) cut() []byte {
	if len(e.b) <= e.keep {
		return e.b
	}
	n := e.keep
	for n > 0 && !utf8.RuneStart(e.b[n]) {
		n--
	}
	return e.b[:n]
}

// Path is the JSON pointer of the most recently read name or value. It is made on demand: ask only
// when a warning or a reject needs it.
func (r *Reader) Path() string { return string(r.dec.StackPointer()) }

// End demands the end of the document.
func (r *Reader) End() error {
	if r.err != nil {
		return r.err
	}
	switch _, err := r.dec.ReadToken(); {
	case err == nil:
		return r.fail("json_syntax", "something follows the document")
	case err == io.EOF && r.src.err == io.EOF:
		return nil
	default:
		return r.syntax(err)
	}
}

// fail makes the document's one error. R05 asks for valid UTF-8 before anything else: so the rest
// of the document is read for that before a reason is given.
func (r *Reader) fail(reason, detail string) error {
	return r.failAt(reason, detail, r.dec.InputOffset())
}

func (r *Reader) failAt(reason, detail string, offset int64) error {
	path := r.Path()
	if err := r.checkRest(); err != nil {
		r.err = err
		return err
	}
	if r.src.bom {
		offset += int64(len(byteOrderMark))
	}
	if len(path) > maxPathText {
		path = path[:maxPathText] + "…"
	}
	if len(detail) > maxErrText {
		detail = detail[:maxErrText] + "…"
	}
	r.err = &etl.RejectError{Reason: reason, Detail: fmt.Sprintf("byte %d at %q: %s", offset, path, detail)}
	return r.err
}

// syntax turns an error of the parser into ours.
func (r *Reader) syntax(err error) error {
	offset := r.dec.InputOffset()
	if err == io.EOF {
		if offset == 0 {
			return r.fail("json_empty", "an empty document")
		}
		return r.fail("json_syntax", "the document ends too early")
	}
	reason, detail := "json_syntax", "not JSON"
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		offset = syntactic.ByteOffset
		if r.loneSurrogate(offset) {
			reason, detail = "json_invalid_unicode", "half of a surrogate pair"
		} else if syntactic.Err != nil {
			detail = syntactic.Err.Error()
		}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		detail = "the document ends too early"
	}
	return r.failAt(reason, detail, offset)
}

// loneSurrogate tells whether the escape at offset is a surrogate without its other half. The
// parser reports that and a malformed escape alike, so we look at the text itself.
func (r *Reader) loneSurrogate(offset int64) bool {
	rest := r.dec.UnreadBuffer()
	at := offset - r.dec.InputOffset()
	if at < 0 || at+6 > int64(len(rest)) {
		return false
	}
	escape := rest[at : at+6]
	if escape[0] != '\\' || escape[1] != 'u' {
		return false
	}
	v, err := strconv.ParseUint(string(escape[2:]), 16, 16)
	return err == nil && 0xd800 <= v && v <= 0xdfff
}

// checkRest reads what the parser has not accepted, which may be everything, and reports a failed
// read or invalid UTF-8. What the parser has accepted was valid.
func (r *Reader) checkRest() error {
	at := r.dec.InputOffset()
	pending := append([]byte(nil), r.dec.UnreadBuffer()...)
	buf := make([]byte, 32<<10)
	for {
		valid := validPrefix(pending)
		at += int64(valid)
		pending = append(pending[:0], pending[valid:]...)
		if len(pending) > 0 && utf8.FullRune(pending) {
			return r.invalidUTF8(at)
		}
		if r.src.err != nil {
			break
		}
		n, _ := r.src.raw(buf) // its error stays with the source
		pending = append(pending, buf[:n]...)
	}
	if r.src.err != io.EOF {
		return r.src.reject()
	}
	if len(pending) > 0 { // a character is cut off
		return r.invalidUTF8(at)
	}
	return nil
}

func (r *Reader) invalidUTF8(offset int64) error {
	if r.src.bom {
		offset += int64(len(byteOrderMark))
	}
	return &etl.RejectError{Reason: "json_invalid_utf8", Detail: "byte " + strconv.FormatInt(offset, 10)}
}

// validPrefix is the length of the longest prefix of whole valid characters.
func validPrefix(b []byte) int {
	if utf8.Valid(b) {
		return len(b)
	}
	n := 0
	for n < len(b) {
		c, size := utf8.DecodeRune(b[n:])
		if c == utf8.RuneError && size <= 1 {
			break
		}
		n += size
	}
	return n
}
