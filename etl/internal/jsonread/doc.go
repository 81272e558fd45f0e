// Package jsonread reads one JSON document strictly and as a stream.
//
// It is stricter than RFC 8259 where a tolerant reader would lose or invent data: two names of one
// object may not be equal, not even after simple case folding; text must be valid UTF-8 without
// lone surrogates; nesting and number literals have limits; and the end of the document is
// demanded. What is skipped is checked as strictly as what is read, because a second parser must
// never be able to see another document than ours did.
//
// The grammar is jsontext's. The check for repeated names is ours: a window of history holds
// hundreds of thousands of objects with the same six names, so known names are interned, each has
// a bit, and an object needs one machine word to remember what it has seen.
package jsonread
