package main

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	textunicode "golang.org/x/text/encoding/unicode"
)

// csvColumn is a column that an import knows.
type csvColumn struct {
	name     string
	optional bool // the file may do without
}

// csvFile is a CSV file that a person hands in, and what is wrong with it. An import reads all
// rows, calls bad for each value that it refuses, and applies nothing unless err is nil: whoever
// wrote the file sees all of it at once.
type csvFile struct {
	rows       []csvRow
	semicolons bool // part the fields, as where the comma is decimal

	name     string
	theirs   map[string]string // our columns by name → those of a foreign file
	problems []error
}

// csvRow is one record.
type csvRow struct {
	line   int // of the file, from 1
	cells  map[string]string
	misfit error // it has not the columns of the header: only of a foreign file, whose reader decides
}

// get is the cell of a column without surrounding space; empty where the file lacks the column.
func (r csvRow) get(column string) string { return r.cells[column] }

const (
	mostCSVBytes    = 16 << 20
	mostCSVProblems = 20 // that are shown
)

// csvDialect is how a file differs from what we write. The zero value is ours.
type csvDialect struct {
	separator rune              // 0: as the header tells
	encoding  string            // one of encodings; empty: UTF-8
	header    int               // line of the file on which the header stands; 0: the first with a text
	names     map[string]string // our columns by name → theirs; other columns of the file are not read. nil: they are ours
}

// encodings are what a file may be written in.
var encodings = map[string]encoding.Encoding{
	"utf-8": encoding.Nop, "utf-16": textunicode.UTF16(textunicode.LittleEndian, textunicode.UseBOM), "windows-1252": charmap.Windows1252,
	"iso-8859-1": charmap.Windows1252, "iso-8859-15": charmap.ISO8859_15, // what says the former is the other one
}

// decode makes UTF-8 of a text, unless it is not what it is said to be: read in another encoding it would
// have other letters and nobody would know.
func decode(text []byte, name, as string) ([]byte, error) {
	is := ""
	switch isASCII := !slices.ContainsFunc(text, func(b byte) bool { return b >= utf8.RuneSelf }); {
	case bytes.HasPrefix(text, []byte("\xff\xfe")), bytes.HasPrefix(text, []byte("\xfe\xff")):
		is = "utf-16"
	case bytes.HasPrefix(text, []byte("\ufeff")), !isASCII && utf8.Valid(text):
		is = "utf-8"
	}
	if as = cmp.Or(as, "utf-8"); as != "utf-8" && is != as && (is != "" || as == "utf-16") {
		return nil, usagef("%s: is %s and not %s, as the mapping says", name, cmp.Or(is, "something else"), as)
	}
	if as == "utf-16" && len(text)%2 != 0 {
		return nil, usagef("%s: is cut off: UTF-16 has two bytes for each letter at least", name)
	}
	text, err := encodings[as].NewDecoder().Bytes(text)
	if err != nil {
		return nil, usagef("%s: %w: want a CSV file in %s", name, err, as)
	}
	return bytes.TrimPrefix(text, []byte("\ufeff")), nil
}

// openCSV reads the file called name, - for stdin.
func (a *app) openCSV(name string, columns ...csvColumn) (*csvFile, error) {
	return a.openForeignCSV(name, csvDialect{}, columns...)
}

// openForeignCSV reads a file of somebody else's making.
func (a *app) openForeignCSV(name string, d csvDialect, columns ...csvColumn) (*csvFile, error) {
	if name == "-" {
		return readForeignCSV(a.stdin, "stdin", d, columns...)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, usagef("%w: want a CSV file, or - for stdin", err)
	}
	defer file.Close()
	return readForeignCSV(file, name, d, columns...)
}

// readCSV reads a whole file: UTF-8 with or without a byte order mark, a header, and commas or,
// as spreadsheets write where the comma is decimal, semicolons. Columns come in any order. Empty
// lines are skipped. An error means that nothing below the header could be read; what is wrong
// with single records is kept for err.
func readCSV(r io.Reader, name string, columns ...csvColumn) (*csvFile, error) {
	return readForeignCSV(r, name, csvDialect{}, columns...)
}

func readForeignCSV(r io.Reader, name string, d csvDialect, columns ...csvColumn) (*csvFile, error) {
	text, err := io.ReadAll(io.LimitReader(r, mostCSVBytes+1))
	if err != nil {
		return nil, usagef("%s: %w: want a CSV file", name, err)
	}
	if len(text) > mostCSVBytes {
		return nil, usagef("%s: larger than %s: want it in parts", name, size(mostCSVBytes))
	}
	if text, err = decode(text, name, d.encoding); err != nil {
		return nil, err
	}
	if line := lineNotUTF8(text); line > 0 {
		return nil, usagef("%s:%d: not UTF-8: want the file saved as \"CSV UTF-8\"%s", name, line, map[bool]string{true: ", or its encoding in the mapping"}[d.names != nil])
	}
	above := 0 // lines above the header
	for ; above < d.header-1; above++ {
		if _, below, found := bytes.Cut(text, []byte("\n")); found {
			text = below
			continue
		}
		return nil, usagef("%s: has no line %d: want the line of the header", name, d.header)
	}
	in := csv.NewReader(bytes.NewReader(text))
	if in.Comma = d.separator; in.Comma == 0 {
		in.Comma = separatorOf(text)
	}
	in.FieldsPerRecord = -1 // our words say better what is wrong
	in.ReuseRecord = true
	header, err := in.Read()
	if err != nil {
		return nil, usagef("%s: no header: want the columns %s", name, columnNames(columns))
	}
	width := len(header)
	header = withoutBlanks(slices.Clone(header), 0)
	var ours []string // as the header, but in our names
	var problems []error
	if d.names == nil {
		problems = checkHeader(header, columns)
	} else {
		ours, problems = checkForeignHeader(header, d.names)
	}
	if len(problems) > 0 {
		line, _ := in.FieldPos(0)
		line += above
		f := &csvFile{name: name}
		for _, problem := range problems {
			f.badLine(line, problem)
		}
		return nil, f.err()
	}
	f := &csvFile{name: name, semicolons: in.Comma == ';', theirs: d.names}
	for {
		record, err := in.Read()
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if parse := (*csv.ParseError)(nil); errors.As(err, &parse) {
			f.badLine(parse.StartLine+above, fmt.Errorf("column %d: %w: want a text with quotes as \"a \"\"quoted\"\" word\"", parse.Column, parse.Err))
			continue
		} else if err != nil {
			return nil, usagef("%s: %w", name, err)
		}
		if len(record) == width { // else a field too many, as of a comma without quotes, would pass where the last is empty
			record = withoutBlanks(record, len(header))
		}
		line, _ := in.FieldPos(0)
		line += above
		if slices.EqualFunc(record, header, func(cell, name string) bool { return strings.TrimSpace(cell) == name }) {
			continue // the header once more, as on each page
		}
		if ours == nil {
			f.add(line, header, record)
			continue
		}
		picked := make([]string, len(ours))
		for i, name := range ours {
			if column := slices.Index(header, d.names[name]); column < len(record) {
				picked[i] = strings.Join(strings.FieldsFunc(record[column], isLineBreak), " ") // in a text of several lines
			}
		}
		before := len(f.rows)
		f.add(line, ours, picked)
		if len(record) != len(header) && len(f.rows) > before {
			f.rows[before].misfit = misfit(record, header)
		}
	}
}

// withoutBlanks takes off what a spreadsheet leaves to the right of its last column, down to a number of cells.
func withoutBlanks(cells []string, least int) []string {
	for len(cells) > least && strings.TrimSpace(cells[len(cells)-1]) == "" {
		cells = cells[:len(cells)-1]
	}
	return cells
}

func isLineBreak(r rune) bool { return r == '\n' || r == '\r' || r == '\t' || r == '\v' || r == '\f' }

func misfit(record, header []string) error {
	return fmt.Errorf("%s, want %d as in the header: a text that holds the separator stands in \"quotes\"", count(len(record), "field"), len(header))
}

// add takes one record.
func (f *csvFile) add(line int, header, record []string) {
	row := csvRow{line: line, cells: make(map[string]string, len(header))}
	blank := true
	for i, cell := range record {
		cell = strings.TrimSpace(cell)
		blank = blank && cell == ""
		if i < len(header) {
			row.cells[header[i]] = cell
		}
	}
	switch {
	case blank: // what a spreadsheet leaves below its last row
	case len(record) != len(header):
		f.badLine(line, misfit(record, header))
	default:
		f.rows = append(f.rows, row)
		for _, name := range header {
			if strings.ContainsFunc(row.cells[name], unicode.IsControl) {
				f.bad(row, name, "%q: want a text without line breaks or control characters", row.cells[name])
			}
		}
	}
}

// warn tells the person who hands in a file what may be meant otherwise; nothing is refused for it.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintln(a.progress, printable("warning: "+fmt.Sprintf(format, args...)))
}

// bad notes what is wrong with a value.
func (f *csvFile) bad(row csvRow, column, format string, args ...any) {
	if theirs := f.theirs[column]; theirs != "" && theirs != column {
		column += fmt.Sprintf(" (%q)", theirs)
	}
	f.badLine(row.line, fmt.Errorf("%s: %w", column, fmt.Errorf(format, args...)))
}

func (f *csvFile) badLine(line int, err error) {
	f.problems = append(f.problems, fmt.Errorf("%s:%d: %w", f.name, line, err))
}

// err is everything that is wrong, as wrong use; nil when nothing is.
func (f *csvFile) err() error {
	switch n := len(f.problems); {
	case n == 0:
		return nil
	case n == 1:
		return &exitError{exitUsage, f.problems[0]}
	default:
		text := fmt.Sprintf("%s: %d problems, nothing is imported", f.name, n)
		for _, problem := range f.problems[:min(n, mostCSVProblems)] {
			text += "\n  " + problem.Error()
		}
		if n > mostCSVProblems {
			text += fmt.Sprintf("\n  and %d more", n-mostCSVProblems)
		}
		return usagef("%s", text)
	}
}

// checkHeader trims the names in the header and says what is wrong with them, and at the end, once, what is wanted.
func checkHeader(header []string, columns []csvColumn) (problems []error) {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	for i, got := range header {
		header[i] = strings.TrimSpace(got)
		switch {
		case !slices.Contains(names, header[i]):
			problems = append(problems, fmt.Errorf("unknown column %q%s", header[i], nearest(header[i], names)))
		case slices.Contains(header[:i], header[i]):
			problems = append(problems, fmt.Errorf("column %s stands there twice", header[i]))
		}
	}
	var missing []string
	for _, c := range columns {
		if !c.optional && !slices.Contains(header, c.name) {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		problems = append(problems, fmt.Errorf("no column %s", strings.Join(missing, ", ")))
	}
	if last := len(problems) - 1; last >= 0 {
		problems[last] = fmt.Errorf("%w: want %s, each once", problems[last], columnNames(columns))
	}
	return problems
}

// checkForeignHeader trims the names in the header and says which of the wanted are not there, or twice. It
// returns our names of those that are.
func checkForeignHeader(header []string, names map[string]string) (ours []string, problems []error) {
	for i := range header {
		header[i] = strings.TrimSpace(header[i])
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		theirs := names[name]
		first := slices.Index(header, theirs)
		switch {
		case first < 0:
			problems = append(problems, fmt.Errorf("no column %q%s for %s: the file has %q", theirs, nearest(theirs, header), name, header))
		case slices.Contains(header[first+1:], theirs):
			problems = append(problems, fmt.Errorf("column %q for %s stands there twice: want it once", theirs, name))
		default:
			ours = append(ours, name)
		}
	}
	return ours, problems
}

// columnNames lists columns for people, optional ones in brackets.
func columnNames(columns []csvColumn) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
		if c.optional {
			names[i] = "[" + c.name + "]"
		}
	}
	return strings.Join(names, ", ")
}

// separatorOf tells by the header, in whose names no separator occurs.
func separatorOf(text []byte) rune {
	header, _, _ := bytes.Cut(bytes.TrimLeft(text, "\r\n"), []byte("\n"))
	if bytes.ContainsRune(header, ';') {
		return ';'
	}
	return ','
}

// lineNotUTF8 is the first line that is not UTF-8, or holds NUL as UTF-16 does; 0 when all is well.
func lineNotUTF8(text []byte) int {
	line := 0
	for part := range bytes.Lines(text) {
		line++
		if !utf8.Valid(part) || bytes.IndexByte(part, 0) >= 0 {
			return line
		}
	}
	return 0
}
