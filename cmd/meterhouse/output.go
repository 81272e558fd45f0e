package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"

	"meterhouse/etl/warehouse"
)

// printTable writes a table for people: no frame, numbers to the right, digits as they are.
func printTable(w io.Writer, t warehouse.Table) {
	tw := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatDefault
	tw.SetStyle(style)
	tw.SuppressTrailingSpaces()
	header := make(table.Row, len(t.Columns))
	var columns []table.ColumnConfig
	for i, name := range t.Columns {
		header[i] = name
		if i < len(t.Numeric) && t.Numeric[i] {
			columns = append(columns, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
		}
	}
	tw.AppendHeader(header)
	tw.SetColumnConfigs(columns)
	for _, row := range t.Rows {
		cells := make(table.Row, len(row))
		for i, cell := range row {
			cells[i] = printable(cell)
		}
		tw.AppendRow(cells)
	}
	fmt.Fprintln(w, tw.Render())
}

// printable keeps vendors' text from moving the cursor or forging lines.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) {
			return '·'
		}
		return r
	}, s)
}

// printCSV writes a table for programs. A spreadsheet must not take a text for a formula: such
// cells get an apostrophe in front. Numbers stay numbers.
func printCSV(w io.Writer, t warehouse.Table) error {
	out := csv.NewWriter(w)
	if err := out.Write(t.Columns); err != nil {
		return err
	}
	for _, row := range t.Rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = cell
			if !(i < len(t.Numeric) && t.Numeric[i]) && isFormula(cell) {
				cells[i] = "'" + cell
			}
		}
		if err := out.Write(cells); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

func isFormula(cell string) bool {
	first, _ := utf8.DecodeRuneInString(strings.TrimLeft(cell, " \u00a0\u3000"))
	return strings.ContainsRune("=+-@\t\r\n\x00＝＋－＠", first)
}

// printJSON writes a value for programs, with the exact digits it holds.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// records turns a table into one object per row, numbers unquoted and NULL where nothing is known.
func records(t warehouse.Table) []map[string]any {
	all := make([]map[string]any, 0, len(t.Rows))
	for _, row := range t.Rows {
		record := map[string]any{}
		for i, name := range t.Columns {
			switch {
			case row[i] == "":
				record[name] = nil
			case t.Numeric[i]:
				record[name] = json.Number(row[i])
			default:
				record[name] = row[i]
			}
		}
		all = append(all, record)
	}
	return all
}

// count is a number of things in words.
func count[N int | string](n N, thing string) string {
	number := fmt.Sprint(n)
	if number == "1" {
		return "1 " + thing
	}
	return number + " " + thing + "s"
}

// checkFormat checks --format.
func checkFormat(format string, known ...string) error {
	for _, k := range known {
		if format == k {
			return nil
		}
	}
	return usagef("--format %q: want %s", format, strings.Join(known, ", "))
}

// progress is the one line on a terminal that says what is going on. Log lines written through it
// go above that line. On anything but a terminal it only passes them on.
type progress struct {
	mu   sync.Mutex
	w    io.Writer
	tty  *os.File // nil: no terminal
	line string
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.tty = f
	}
	return p
}

// Write passes a log line on.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	n, err := p.w.Write(b)
	p.draw()
	return n, err
}

// set replaces the line.
func (p *progress) set(format string, args ...any) {
	if p.tty == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	p.line = printable(fmt.Sprintf(format, args...))
	p.draw()
}

// clear takes the line away.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	p.line = ""
}

func (p *progress) erase() {
	if p.tty != nil && p.line != "" {
		_, _ = io.WriteString(p.w, "\r\x1b[K")
	}
}

func (p *progress) draw() {
	if p.tty == nil || p.line == "" {
		return
	}
	line := p.line
	if width, _, err := term.GetSize(int(p.tty.Fd())); err == nil && width > 1 && utf8.RuneCountInString(line) >= width {
		line = string([]rune(line)[:width-1])
	}
	_, _ = io.WriteString(p.w, line)
}
