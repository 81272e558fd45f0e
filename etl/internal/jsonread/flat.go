package jsonread

// Member is a member of a flat object: its value, and which of the names it has.
type Member struct {
	Name int
	Scalar
}

// Flat reads an object whose members are all scalars with some of the given names, in any order and
// each at most once, when it is written as machines write it: no escapes, nothing beyond ASCII, and
// whole in the buffer. It gives the members in the order of the document, in room, which has a place
// for each name; they are valid until the next read.
//
// Of any other value nothing is consumed, and ok is false: then Object reads it. So Flat neither
// refuses nor accepts anything that Object would not; it is how hundreds of thousands of objects of one
// kind are read fast. No two of the names may be equal under case folding, and there are 64 at most.
func (r *Reader) Flat(names []string, room []Member) (members []Member, ok bool, err error) {
	if r.err != nil || r.depth == maxDepth || r.dec.PeekKind() != '{' {
		return nil, false, r.err
	}
	text := r.dec.UnreadBuffer()
	begin := 0
	for text[begin] != '{' { // the comma before it
		begin++
	}
	members, end := scanFlat(text[begin:], names, room[:0])
	if end == 0 {
		return nil, false, nil
	}
	if raw, err := r.dec.ReadValue(); err != nil || len(raw) != end {
		panic("jsonread: the parser does not see the object that Flat saw")
	}
	return members, true, nil
}

// scanFlat reads one object at the beginning of text; end is 0 when it is not as Flat wants it.
func scanFlat(text []byte, names []string, members []Member) (_ []Member, end int) {
	var seen uint64
	guess := 0
	for i := 1; ; i++ {
		if i = blanks(text, i); i >= len(text) || text[i] != '"' {
			return nil, 0
		}
		which := findName(text[i+1:], names, guess)
		if which < 0 || seen&(1<<which) != 0 {
			return nil, 0
		}
		seen |= 1 << which
		guess = which + 1 // objects of one list have their members in the same order
		if i = blanks(text, i+len(names[which])+2); i >= len(text) || text[i] != ':' {
			return nil, 0
		}
		value, next := scanScalar(text, blanks(text, i+1))
		if next == 0 {
			return nil, 0
		}
		members = append(members, Member{which, value})
		if i = blanks(text, next); i >= len(text) {
			return nil, 0
		}
		switch text[i] {
		case ',':
		case '}':
			return members, i + 1
		default:
			return nil, 0
		}
	}
}

// findName tells which name text begins with, up to the quote that ends it; -1 for none.
func findName(text []byte, names []string, guess int) int {
	is := func(name string) bool {
		return len(text) > len(name) && text[len(name)] == '"' && string(text[:len(name)]) == name
	}
	if guess < len(names) && is(names[guess]) {
		return guess
	}
	for which, name := range names {
		if is(name) {
			return which
		}
	}
	return -1
}

// scanScalar reads a value at i; next is where it ends, 0 when it is not as Flat wants it.
func scanScalar(text []byte, i int) (value Scalar, next int) {
	if i >= len(text) {
		return Scalar{}, 0
	}
	begin := i
	switch c := text[i]; c {
	case '"':
		for i++; i < len(text) && plain[text[i]]; i++ {
		}
		if i == len(text) || text[i] != '"' {
			return Scalar{}, 0
		}
		return Scalar{Kind: String, Text: text[begin+1 : i]}, i + 1
	case 't', 'f', 'n':
		for i < len(text) && 'a' <= text[i] && text[i] <= 'z' {
			i++
		}
		switch word := text[begin:i]; string(word) {
		case "true", "false":
			return Scalar{Kind: Bool, Text: word}, i
		case "null":
			return Scalar{Kind: Null}, i
		}
		return Scalar{}, 0
	}
	i = scanNumber(text, i)
	if i == 0 || i-begin > maxNumber {
		return Scalar{}, 0
	}
	return Scalar{Kind: Number, Text: text[begin:i]}, i
}

// scanNumber tells where the number at i ends, 0 when there is none: RFC 8259 section 6.
func scanNumber(text []byte, i int) int {
	if text[i] == '-' {
		i++
	}
	digits := func(i int) int {
		for i < len(text) && text[i]-'0' <= 9 {
			i++
		}
		return i
	}
	whole := i
	if i = digits(i); i == whole || text[whole] == '0' && i > whole+1 {
		return 0
	}
	if i < len(text) && text[i] == '.' {
		fraction := i + 1
		if i = digits(fraction); i == fraction {
			return 0
		}
	}
	if i < len(text) && text[i]|0x20 == 'e' {
		exponent := i + 1
		if exponent < len(text) && (text[exponent] == '+' || text[exponent] == '-') {
			exponent++
		}
		if i = digits(exponent); i == exponent {
			return 0
		}
	}
	return i
}

// blanks is where the first byte from i on is that is no blank.
func blanks(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\r' || text[i] == '\t') {
		i++
	}
	return i
}

// plain are the bytes that stand for themselves in a string.
var plain = func() (plain [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		plain[c] = c != '"' && c != '\\'
	}
	return plain
}()
