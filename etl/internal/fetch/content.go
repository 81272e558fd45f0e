package fetch

import (
	"bytes"
	"crypto/sha256"
	"hash"
)

const (
	// contentMargin is how far from its two ends a body is searched for members that vary. Metadata stands
	// beside the records, before or behind them, and a search of everything costs as much as a hash.
	contentMargin = 4 << 10
	maxVarying    = 256 // bytes of a value that is blanked
)

// contentHash is SHA-256 of what is written and, beside it, SHA-256 of the same but for the values of
// members that vary from answer to answer. The second costs nothing as long as they stand at the end: up to
// there both are one.
//
// Equal content means equal documents but for such values. Names are found by bytes: in JSON a closing
// quote with a colon behind it can only end a member's name. Values are blanked that are certain to be whole
// and valid: strings of printable ASCII without escapes, and numbers. Whatever else there is stays as it is,
// and the contents differ.
type contentHash struct {
	hash.Hash           // of everything
	content   hash.Hash // nil as long as it is the same
	names     [][]byte  // in quotes
	head      []byte    // the first bytes; nil once they are hashed
	tail      []byte    // the last bytes, not hashed yet
}

func newContentHash(varying []string) *contentHash {
	c := &contentHash{Hash: sha256.New(), head: make([]byte, 0, contentMargin), tail: make([]byte, 0, 2*contentMargin)}
	for _, name := range varying {
		c.names = append(c.names, []byte(`"`+name+`"`))
	}
	return c
}

// Write implements hash.Hash.
func (c *contentHash) Write(p []byte) (int, error) {
	n := len(p)
	if c.head != nil {
		k := min(len(p), contentMargin-len(c.head))
		c.head, p = append(c.head, p[:k]...), p[k:]
		if len(c.head) < contentMargin {
			return n, nil
		}
		c.blanked(c.head)
		c.head = nil
	}
	if spare := len(c.tail) + len(p) - contentMargin; spare > 0 {
		k := min(spare, len(c.tail))
		c.both(c.tail[:k])
		c.tail = c.tail[:copy(c.tail, c.tail[k:])]
		c.both(p[:spare-k])
		p = p[spare-k:]
	}
	c.tail = append(c.tail, p...)
	return n, nil
}

// Sum implements hash.Hash for everything. Nothing can be written after that.
func (c *contentHash) Sum(b []byte) []byte {
	c.finish()
	return c.Hash.Sum(b)
}

// contentSum is the hash of all but what varies; nil when nothing is known to.
func (c *contentHash) contentSum() []byte {
	c.finish()
	if len(c.names) == 0 {
		return nil
	}
	if c.content == nil {
		return c.Hash.Sum(nil)
	}
	return c.content.Sum(nil)
}

func (c *contentHash) finish() {
	c.blanked(c.head)
	c.blanked(c.tail)
	c.head, c.tail = nil, nil
}

// both hashes what is the same for both.
func (c *contentHash) both(p []byte) {
	c.Hash.Write(p)
	if c.content != nil {
		c.content.Write(p)
	}
}

// blanked hashes an end of the body.
func (c *contentHash) blanked(p []byte) {
	for len(p) > 0 {
		value, blank := c.next(p)
		if blank == "" {
			break
		}
		c.both(p[:value.from])
		if c.content == nil {
			c.content = clone(c.Hash)
		}
		c.Hash.Write(p[value.from:value.until])
		c.content.Write([]byte(blank))
		p = p[value.until:]
	}
	c.both(p)
}

type extent struct{ from, until int }

// next finds the next value that varies and what stands in its place; that is empty when there is none.
func (c *contentHash) next(p []byte) (first extent, blank string) {
	for _, name := range c.names {
		for from := 0; ; {
			at := bytes.Index(p[from:], name)
			if at < 0 {
				break
			}
			at += from
			from = at + len(name)
			if at == 0 || p[at-1] == '\\' { // nobody knows what is before, or a quote inside a string
				continue
			}
			value, with := valueAfter(p, from)
			if with != "" && (blank == "" || value.from < first.from) {
				first, blank = value, with
			}
			if with != "" {
				break
			}
		}
	}
	return first, blank
}

// valueAfter is the value of a member whose name ends at i.
func valueAfter(p []byte, i int) (value extent, blank string) {
	i = skipBlanks(p, i)
	if i == len(p) || p[i] != ':' {
		return value, ""
	}
	if i = skipBlanks(p, i+1); i == len(p) {
		return value, ""
	}
	end := i + 1
	if p[i] == '"' {
		for ; end < len(p) && end-i <= maxVarying; end++ {
			switch c := p[end]; {
			case c == '"':
				return extent{i, end + 1}, `""`
			case c < ' ' || c > '~' || c == '\\':
				return value, ""
			}
		}
		return value, ""
	}
	for end = i; end < len(p) && end-i <= maxVarying && bytes.IndexByte([]byte(",}] \t\r\n"), p[end]) < 0; end++ {
	}
	if end == len(p) || !isNumber(p[i:end]) { // it may go on behind the end
		return value, ""
	}
	return extent{i, end}, "0"
}

func skipBlanks(p []byte, i int) int {
	for i < len(p) && bytes.IndexByte([]byte(blanks), p[i]) >= 0 {
		i++
	}
	return i
}

// isNumber tells a plain number of JSON. One with an exponent is none here: that is no time and no id.
func isNumber(p []byte) bool {
	p = bytes.TrimPrefix(p, []byte("-"))
	whole, fraction, hasPoint := bytes.Cut(p, []byte("."))
	digits := func(d []byte) bool {
		return len(d) > 0 && len(d) <= 18 && len(bytes.Trim(d, "0123456789")) == 0
	}
	return digits(whole) && (len(whole) == 1 || whole[0] != '0') && (!hasPoint || digits(fraction))
}

func clone(h hash.Hash) hash.Hash {
	c, err := h.(hash.Cloner).Clone()
	if err != nil {
		panic("fetch: " + err.Error()) // SHA-256 always can
	}
	return c
}
