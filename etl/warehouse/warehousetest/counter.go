package warehousetest

import (
	"slices"
	"strings"
	"sync"
	"testing"
)

// Counter tells what is sent to a database by its URL: every statement, COPY and the words around
// transactions included. It counts on the wire, so no way round it is left. It is safe for concurrent use.
type Counter struct {
	URL string // of the database, counted

	mu         sync.Mutex
	prepared   map[string]string // SQL by name; names are the same on all connections
	statements []string
}

// NewCounter leads to the database at url until the test ends.
func NewCounter(t testing.TB, url string) *Counter {
	t.Helper()
	c := &Counter{prepared: map[string]string{}}
	c.URL = NewWire(t, url, c.note).URL
	return c
}

func (c *Counter) note(m Message) Verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m.Kind {
	case 'P':
		c.prepared[m.Name] = m.SQL
	case 'B':
		c.statements = append(c.statements, c.prepared[m.Name])
	case 'Q':
		c.statements = append(c.statements, m.SQL)
	}
	return Pass
}

// Reset begins anew.
func (c *Counter) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.statements = nil
}

// Statements are those since Reset, in order, each on one line.
func (c *Counter) Statements() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := slices.Clone(c.statements)
	for i, sql := range lines {
		lines[i] = strings.Join(strings.Fields(sql), " ")
	}
	return lines
}

// Copies are how many of the statements are COPY.
func (c *Counter) Copies() int {
	n := 0
	for _, sql := range c.Statements() {
		if strings.HasPrefix(sql, "copy ") {
			n++
		}
	}
	return n
}
