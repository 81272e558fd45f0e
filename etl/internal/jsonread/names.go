package jsonread

import (
	"bytes"
	"hash/maphash"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	maxKnown     = 256 // spellings remembered
	maxFolded    = 64  // folded names with a bit of their own
	maxKnownSize = 64  // bytes of a remembered name
	fewOthers    = 16  // up to here other names are compared one by one
)

// names remembers the member names of a document and what each open object has seen.
type names struct {
	spelled map[string]*knownName // by exact text
	folded  map[string]uint8      // bit by folded text; never forgotten, so a name has a bit or never gets one
	nobody  knownName             // stands for a name that is not remembered
	frames  [maxDepth + 1]frame
	seed    maphash.Seed
	fold    []byte
	text    []byte
}

// knownName is a member name in one spelling.
type knownName struct {
	text string
	bit  uint8
	next *knownName // what followed the last time
}

// frame is what one open object has seen.
type frame struct {
	first  *knownName // how the object at this depth began the last time
	seen   uint64     // bits of known names
	others []uint64   // hashes of folded names without a bit
	many   map[uint64]struct{}
}

func (n *names) init() {
	n.spelled, n.folded = make(map[string]*knownName), make(map[string]uint8)
	n.seed = maphash.MakeSeed()
}

func (n *names) enter(depth int) *frame {
	f := &n.frames[depth]
	f.seen, f.others, f.many = 0, f.others[:0], nil
	return f
}

func (f *frame) addKnown(bit uint8) (fresh bool) {
	fresh = f.seen&(1<<bit) == 0
	f.seen |= 1 << bit
	return fresh
}

// find is the remembered name of a quoted text; nil when there is no room to remember it.
func (n *names) find(quoted []byte) *knownName {
	text := n.unquote(quoted)
	if known, ok := n.spelled[string(text)]; ok {
		return known
	}
	// A backslash in a name would make the comparison with escaped text ambiguous.
	if len(n.spelled) == maxKnown || len(text) > maxKnownSize || bytes.IndexByte(text, '\\') >= 0 {
		return nil
	}
	n.fold = appendFolded(n.fold[:0], text)
	bit, ok := n.folded[string(n.fold)]
	if !ok {
		if len(n.folded) == maxFolded || len(n.fold) > maxKnownSize {
			return nil
		}
		bit = uint8(len(n.folded))
		n.folded[string(n.fold)] = bit
	}
	known := &knownName{text: string(text), bit: bit}
	n.spelled[known.text] = known
	return known
}

// addOther notes a name that is not remembered as seen in f.
func (n *names) addOther(f *frame, quoted []byte) (name string, fresh bool) {
	text := n.unquote(quoted)
	n.fold = appendFolded(n.fold[:0], text)
	name = string(text)
	if bit, ok := n.folded[string(n.fold)]; ok {
		return name, f.addKnown(bit)
	}
	// 64 bits under a random seed: a false duplicate is not to be expected in any lifetime.
	hash := maphash.Bytes(n.seed, n.fold)
	if f.many != nil {
		_, seen := f.many[hash]
		f.many[hash] = struct{}{}
		return name, !seen
	}
	for _, other := range f.others {
		if other == hash {
			return name, false
		}
	}
	f.others = append(f.others, hash)
	if len(f.others) > fewOthers {
		f.many = make(map[uint64]struct{}, 2*len(f.others))
		for _, other := range f.others {
			f.many[other] = struct{}{}
		}
	}
	return name, true
}

// unquote is the text of a name the parser has accepted; valid until the next call.
func (n *names) unquote(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	n.text, _ = jsontext.AppendUnquote(n.text[:0], quoted)
	return n.text
}

// appendFolded appends text with every character replaced by the least of those that are equal to
// it under simple case folding.
func appendFolded(b, text []byte) []byte {
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			if 'a' <= c && c <= 'z' {
				c -= 'a' - 'A'
			}
			b = append(b, c)
			i++
			continue
		}
		r, size := utf8.DecodeRune(text[i:])
		i += size
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		b = utf8.AppendRune(b, least)
	}
	return b
}
