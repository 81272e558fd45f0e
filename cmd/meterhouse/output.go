package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"meterhouse/etl/billing"
	"meterhouse/etl/warehouse"
)

// format is how a command prints rows: the value of --format.
type format string

const (
	formatTable    format = "table"
	formatCSV      format = "csv"
	formatJSON     format = "json"
	formatMarkdown format = "markdown"
	formatXLSX     format = "xlsx" // of commands that say so
)

var formats = []string{string(formatTable), string(formatCSV), string(formatJSON), string(formatMarkdown)}

// formatFlag gives a command that prints rows the flag --format, a table unless told otherwise, with more
// forms than all commands have.
func formatFlag(cmd *cobra.Command, f *format, more ...format) {
	*f = formatTable
	v := formatValue{f, slices.Clone(formats)}
	for _, form := range more {
		v.forms = append(v.forms, string(form))
	}
	cmd.Flags().Var(v, "format", "`form` of the output: "+oneOf(v.forms))
}

// formatValue is --format on the command line.
type formatValue struct {
	*format
	forms []string
}

func (v formatValue) String() string { return string(*v.format) }
func (v formatValue) Type() string   { return "format" }

// Set checks a value of --format. wrongFlag says what is wrong with it.
func (v formatValue) Set(text string) error {
	if !slices.Contains(v.forms, text) {
		return errors.New("want " + oneOf(v.forms))
	}
	*v.format = format(text)
	return nil
}

// isForPeople tells whether words may stand around the rows. The other forms are for programs:
// nothing but the rows goes to stdout.
func (f format) isForPeople() bool { return f != formatCSV && f != formatJSON }

// print writes rows in this form, with the digits that the table has.
func (f format) print(w io.Writer, t warehouse.Table) error {
	switch f {
	case formatCSV:
		return printCSV(w, t)
	case formatJSON:
		return printJSON(w, records(t))
	case formatMarkdown:
		return printMarkdown(w, t)
	}
	printTable(w, t)
	return nil
}

// heading writes what stands above rows, for people.
func (f format) heading(w io.Writer, title string) {
	if f == formatMarkdown {
		title = "## " + title + "\n"
	}
	fmt.Fprintln(w, title)
}

// line writes one sentence beside the rows, for people: an item of a list in Markdown.
func (f format) line(w io.Writer, text string) {
	if f == formatMarkdown {
		text = "- " + text
	}
	fmt.Fprintln(w, printable(text))
}

// gap is the blank line that Markdown wants between rows and sentences.
func (f format) gap(w io.Writer) {
	if f == formatMarkdown {
		fmt.Fprintln(w)
	}
}

// oneOf lists a choice in words.
func oneOf(names []string) string {
	last := len(names) - 1
	if last == 0 {
		return names[0]
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

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
		if t.IsNumeric(i) {
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

// printMarkdown writes a table as GitHub renders it: numbers to the right, and nothing in a vendor's
// text that would be taken for markup.
func printMarkdown(w io.Writer, t warehouse.Table) error {
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(t.Columns)
	rule := make([]string, len(t.Columns))
	for i := range rule {
		rule[i] = "---"
		if t.IsNumeric(i) {
			rule[i] = "---:"
		}
	}
	line(rule)
	for _, row := range t.Rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = markdown(cell)
		}
		line(cells)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

var markup = strings.NewReplacer(`\`, `\\`, "|", `\|`, "`", "\\`", "*", `\*`, "[", `\[`, "<", "&lt;", "&", "&amp;")

// markdown is a text that renders as itself, on as many lines as it has.
func markdown(s string) string {
	lines := strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	for i, line := range lines {
		lines[i] = markup.Replace(printable(line))
	}
	return strings.Join(lines, "<br>")
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
			if !t.IsNumeric(i) {
				cells[i] = billing.Defuse(cell)
			}
		}
		if err := out.Write(cells); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// printJSON writes a value for programs, with the exact digits it holds.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// record is one row as a JSON object: columns in order, numbers with the digits they have, null for
// what is unknown.
type record struct {
	table warehouse.Table
	row   int
}

// records turns a table into one object per row.
func records(t warehouse.Table) []record {
	all := make([]record, len(t.Rows))
	for i := range all {
		all[i] = record{t, i}
	}
	return all
}

func (r record) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, name := range r.table.Columns {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = jsontext.AppendQuote(b, name); err != nil {
			return nil, fmt.Errorf("column %q: %w", name, err)
		}
		b = append(b, ':')
		if b, err = r.appendCell(b, i); err != nil {
			return nil, fmt.Errorf("row %d, %s: %w", r.row+1, name, err)
		}
	}
	return append(b, '}'), nil
}

func (r record) appendCell(b []byte, column int) ([]byte, error) {
	cell := r.table.Rows[r.row][column]
	switch {
	case r.table.IsNull(r.row, column):
		return append(b, "null"...), nil
	case r.table.IsBoolean(column), r.table.IsNumeric(column) && jsontext.Value(cell).IsValid():
		return append(b, cell...), nil
	}
	return jsontext.AppendQuote(b, cell) // NaN and Infinity too, which JSON has no number for
}

// count is a number of things in words.
func count[N int | string](n N, thing string) string {
	number := fmt.Sprint(n)
	if number == "1" {
		return "1 " + thing
	}
	return number + " " + thing + "s"
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

// off ends it for good, for a process that nobody watches.
func (p *progress) off() {
	p.clear()
	p.tty = nil
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
