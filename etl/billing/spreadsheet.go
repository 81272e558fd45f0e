package billing

import (
	"archive/zip"
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/shopspring/decimal"
	"github.com/xuri/excelize/v2"

	"meterhouse/etl"
)

// Defuse is a text as it may stand in a file that a spreadsheet opens. One that would be taken for a
// formula there (it begins with = + - @ or a control character, in full width or behind blanks too) gets an
// apostrophe in front; all others stay as they are. Numbers are not for it: -1 is a number.
func Defuse(text string) string {
	rest := strings.TrimLeftFunc(text, func(r rune) bool {
		return unicode.Is(unicode.Zs, r) || unicode.Is(unicode.Cf, r) // blanks, and what is not seen
	})
	first, _ := utf8.DecodeRuneInString(rest)
	if rest != "" && (unicode.IsControl(first) || strings.ContainsRune("=+-@＝＋－＠", first)) {
		return "'" + text
	}
	return text
}

// kind is what a column of a sheet holds.
type kind int

const (
	words  kind = iota // string; empty is an empty cell
	dated              // etl.Day
	whole              // int or int64
	number             // decimal.NullDecimal or money; beside it a column with its exact text
	truth              // bool: yes or no
)

type column struct {
	name  string
	kind  kind
	width int // in characters
}

// widths are those of the columns that c is in a sheet.
func (c column) widths() []int {
	if c.kind == number {
		return []int{c.width, 12}
	}
	return []int{c.width}
}

// money is an amount that is shown with the decimals of its currency.
type money struct {
	amount   decimal.NullDecimal
	currency string
}

// exactDigits are those that a spreadsheet keeps of a number, which is binary there. What has no more comes
// back as it was written.
const exactDigits = 15

// shownDecimals are those that a number is shown with at most; of one with more as many as there is room for.
const shownDecimals = 12

// sheetRows are those that a sheet can have, and cellLength the UTF-16 units of a text in a cell.
const (
	sheetRows  = 1_048_576
	cellLength = 32_767
)

// book is an XLSX file in the making. Its rows go to temporary files as they come. The same rows make the
// same bytes.
type book struct {
	file    *excelize.File
	maxRows int // of a sheet
	looks   map[look]int
	made    int // sheets
}

// look is how a cell looks.
type look struct {
	name     string
	decimals int // of a number
}

func newBook() *book {
	return &book{file: excelize.NewFile(), maxRows: sheetRows, looks: map[look]int{}}
}

// close takes the temporary files away.
func (b *book) close() { _ = b.file.Close() }

// style is the number of a look in the file.
func (b *book) style(l look) (int, error) {
	if id, known := b.looks[l]; known {
		return id, nil
	}
	s := &excelize.Style{Alignment: &excelize.Alignment{Vertical: "top"}, Font: &excelize.Font{Family: "Calibri", Size: 11}}
	var format string
	switch l.name {
	case "title":
		s.Font.Bold, s.Font.Size = true, 14
	case "note":
		s.Font.Italic, s.Font.Color = true, "595959"
	case "label":
		s.Font.Bold = true
	case "header", "number header":
		s.Font.Bold, s.Font.Color = true, "FFFFFF"
		s.Fill = excelize.Fill{Type: "pattern", Pattern: 1, Color: []string{"1F3864"}}
		s.Alignment.WrapText = true
		s.Alignment.Horizontal, s.Alignment.Indent = "left", 1
		if l.name != "header" {
			s.Alignment.Horizontal, s.Alignment.Indent = "right", 0
		}
	case "text", "guarded":
		s.Alignment.Horizontal, s.Alignment.Indent = "left", 1
	case "exact":
		s.Font.Color, s.Alignment.Horizontal, s.Alignment.Indent = "7F7F7F", "left", 1
	case "bad":
		s.Font.Bold, s.Font.Color, s.Alignment.Horizontal, s.Alignment.Indent = true, "C00000", "left", 1
	case "date":
		format = "yyyy-mm-dd"
	case "whole":
		format = "0"
	case "number":
		format = "General"
		if l.decimals <= shownDecimals {
			format = strings.TrimSuffix("#,##0."+strings.Repeat("0", l.decimals), ".")
		}
	default:
		panic("no look " + l.name)
	}
	if format != "" {
		s.CustomNumFmt = &format
	}
	id, err := b.file.NewStyle(s)
	if err != nil {
		return 0, err
	}
	if l.name == "guarded" {
		quote := true
		b.file.Styles.CellXfs.Xf[id].QuotePrefix = &quote
	}
	b.looks[l] = id
	return id, nil
}

func (b *book) cell(name string, value any) (excelize.Cell, error) {
	id, err := b.style(look{name: name})
	return excelize.Cell{StyleID: id, Value: value}, err
}

// text is a cell with a text: never a formula, and cut where a spreadsheet would, but saying so. As a string it
// does no harm here. The apostrophe is for what comes after: saved as CSV and opened again it would be a
// formula; and so is the mark that the apostrophe is part of the text, or typing Enter would take it away.
func (b *book) text(name, value string) (any, error) {
	if value == "" {
		return nil, nil
	}
	if safe := Defuse(value); safe != value {
		name, value = "guarded", safe
	}
	if units := utf16Length(value); units > cellLength {
		mark := fmt.Sprintf(" […: cut, %d characters in all]", units)
		runes := []rune(value)
		value = string(runes[:(cellLength-len(mark))/2]) + mark // half: a rune may be two units
	}
	return b.cell(name, value)
}

func utf16Length(text string) (n int) {
	for _, r := range text {
		n += utf16.RuneLen(r)
	}
	return n
}

// number are two cells: one with the number, and one with its exact text, which is empty where the number is exact.
func (b *book) number(d decimal.NullDecimal, decimals int32) (cells []any, err error) {
	if !d.Valid {
		return []any{nil, nil}, nil
	}
	digits := plain(d.Decimal)
	decimals = max(decimals, -d.Decimal.Exponent())
	id, err := b.style(look{"number", int(min(decimals, shownDecimals+1))})
	if err != nil {
		return nil, err
	}
	value, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return nil, err
	}
	cells = []any{excelize.Cell{StyleID: id, Value: value}, nil}
	if significant(digits) > exactDigits {
		cells[1], err = b.cell("exact", digits)
	}
	return cells, err
}

// plain are the digits that a number has, trailing zeros too, without an exponent.
func plain(d decimal.Decimal) string { return d.StringFixed(max(0, -d.Exponent())) }

// significant counts the digits of a number from the first to the last that is not zero.
func significant(digits string) int {
	digits = strings.Trim(strings.Replace(strings.TrimLeft(digits, "-"), ".", "", 1), "0")
	return len(digits)
}

// sheet is a table in a book, with title, note and header above its rows. Rows beyond those of a sheet go on in
// another one, of the same name with a number.
type sheet struct {
	book        *book
	name        string
	title, note string
	columns     []column
	part        int
	stream      *excelize.StreamWriter
	row         int // last one written of this part
	rows        int // of all parts, without those above
}

const headerRow = 3

// sheet begins one behind those there are.
func (b *book) sheet(name, title, note string, columns []column) (*sheet, error) {
	s := &sheet{book: b, name: name, title: title, note: note, columns: columns}
	if err := s.begin(); err != nil {
		return nil, fmt.Errorf("sheet %s: %w", name, err)
	}
	return s, nil
}

// partName is the name of the sheet that is being written.
func (s *sheet) partName() string {
	if s.part == 1 {
		return s.name
	}
	return s.name + " " + strconv.Itoa(s.part)
}

func (s *sheet) begin() (err error) {
	s.part++
	width := 0
	for _, c := range s.columns {
		for _, w := range c.widths() {
			width += w
		}
	}
	if s.stream, err = s.book.stream(s.partName(), width); err != nil {
		return err
	}
	at := 0
	for _, c := range s.columns {
		for _, width := range c.widths() {
			at++
			if err := s.stream.SetColWidth(at, at, float64(width)); err != nil {
				return err
			}
		}
	}
	header, err := s.book.header(s.columns)
	if err != nil {
		return err
	}
	if err := s.stream.SetPanes(&excelize.Panes{
		Freeze: true, XSplit: 1, YSplit: headerRow, TopLeftCell: "B4", ActivePane: "bottomRight",
		Selection: []excelize.Selection{{SQRef: "B4", ActiveCell: "B4", Pane: "bottomRight"}},
	}); err != nil {
		return err
	}
	title := s.title
	if s.part > 1 {
		title += fmt.Sprintf(", part %d", s.part)
	}
	s.row = 0
	for _, above := range []struct{ look, text string }{{"title", title}, {"note", s.note}} {
		s.row++
		cell, err := s.book.text(above.look, above.text)
		if err != nil {
			return err
		}
		if err := s.stream.SetRow(fmt.Sprintf("A%d", s.row), []any{cell}, excelize.RowOpts{Height: 20}); err != nil {
			return err
		}
	}
	s.row++
	if err := s.book.file.SetDefinedName(&excelize.DefinedName{
		Name: "_xlnm.Print_Titles", Scope: s.partName(), RefersTo: fmt.Sprintf("'%[1]s'!$A:$A,'%[1]s'!$%[2]d:$%[2]d", s.partName(), headerRow),
	}); err != nil {
		return err
	}
	return s.stream.SetRow(fmt.Sprintf("A%d", s.row), header, excelize.RowOpts{Height: 48})
}

// header are the cells above columns.
func (b *book) header(columns []column) (cells []any, err error) {
	for _, c := range columns {
		look := "header"
		if c.kind == number || c.kind == whole {
			look = "number header"
		}
		cell, err := b.cell(look, c.name)
		if err != nil {
			return nil, err
		}
		cells = append(cells, cell)
		if c.kind == number {
			if cell, err = b.cell("header", c.name+" exact"); err != nil {
				return nil, err
			}
			cells = append(cells, cell)
		}
	}
	return cells, nil
}

// pageWidth is how many characters can be read beside each other on a page.
const pageWidth = 230

// stream begins a sheet that prints in landscape, on as many pages beside each other as its width in characters wants.
func (b *book) stream(name string, width int) (*excelize.StreamWriter, error) {
	var err error
	if b.made++; b.made == 1 {
		err = b.file.SetSheetName(b.file.GetSheetName(0), name)
	} else {
		_, err = b.file.NewSheet(name)
	}
	if err != nil {
		return nil, err
	}
	yes, landscape, a4, wide, high := true, "landscape", 9, (width+pageWidth-1)/pageWidth, 0
	if err := b.file.SetSheetProps(name, &excelize.SheetPropsOptions{FitToPage: &yes}); err != nil {
		return nil, err
	}
	if err := b.file.SetPageLayout(name, &excelize.PageLayoutOptions{Size: &a4, Orientation: &landscape, FitToWidth: &wide, FitToHeight: &high}); err != nil {
		return nil, err
	}
	if err := b.file.SetHeaderFooter(name, &excelize.HeaderFooterOptions{OddFooter: "&L&F&C&A&R&P / &N"}); err != nil {
		return nil, err
	}
	return b.file.NewStreamWriter(name)
}

// add writes a row: a value for each column, nil where there is none.
func (s *sheet) add(values ...any) error {
	if len(values) != len(s.columns) {
		panic(fmt.Sprintf("sheet %s: %d values for %d columns", s.name, len(values), len(s.columns)))
	}
	if s.row >= s.book.maxRows {
		if err := s.end(); err != nil {
			return err
		}
		if err := s.begin(); err != nil {
			return err
		}
	}
	cells := make([]any, 0, len(values)+4)
	for i, v := range values {
		made, err := s.book.cells(v)
		if err != nil {
			return fmt.Errorf("sheet %s: row %d: %s: %w", s.name, s.row+1, s.columns[i].name, err)
		}
		if s.columns[i].kind == number && len(made) == 1 {
			made = append(made, nil)
		}
		cells = append(cells, made...)
	}
	s.row++
	s.rows++
	return s.stream.SetRow(fmt.Sprintf("A%d", s.row), cells)
}

// cells are those of a value: two of a number, one of anything else.
func (b *book) cells(value any) (cells []any, err error) {
	var cell any
	switch v := value.(type) {
	case nil:
	case string:
		cell, err = b.text("text", v)
	case etl.Day: // counted from 30 December 1899 there
		cell, err = b.cell("date", int(v)+25_569)
	case int, int64:
		cell, err = b.cell("whole", v)
	case bool:
		cell, err = b.cell("text", yesNo(v))
	case decimal.NullDecimal:
		return b.number(v, 0)
	case money:
		return b.number(v.amount, int32(MinorUnits(v.currency)))
	case excelize.Cell:
		cell = v
	default:
		panic(fmt.Sprintf("no cell is for %T", value))
	}
	return []any{cell}, err
}

// end finishes the sheet that is being written.
func (s *sheet) end() error {
	if s.rows == 0 {
		cell, err := s.book.cell("note", "none")
		if err != nil {
			return err
		}
		if err := s.stream.SetRow(fmt.Sprintf("A%d", headerRow+1), []any{cell}); err != nil {
			return err
		}
	}
	width := 0
	for _, c := range s.columns {
		width += len(c.widths())
	}
	last, err := excelize.CoordinatesToCellName(width, max(s.row, headerRow+1))
	if err != nil {
		return err
	}
	if err := s.book.file.AutoFilter(s.partName(), fmt.Sprintf("A%d:%s", headerRow, last), nil); err != nil {
		return err
	}
	return s.stream.Flush()
}

// write puts the file together. Its times are those of what it tells, not of its making.
func (b *book) write(w io.Writer, title string, at time.Time) error {
	stamp := at.UTC().Format(time.RFC3339)
	if err := b.file.SetDocProps(&excelize.DocProperties{Title: title, Creator: "meterhouse", LastModifiedBy: "meterhouse", Created: stamp, Modified: stamp}); err != nil {
		return err
	}
	if err := b.file.SetAppProps(&excelize.AppProperties{Application: "meterhouse"}); err != nil {
		return err
	}
	// It comes by way of a file, for its parts come in any order.
	packed, err := os.CreateTemp("", "meterhouse-*.xlsx")
	if err != nil {
		return err
	}
	defer func() {
		_ = packed.Close()
		_ = os.Remove(packed.Name())
	}()
	b.file.SetZipWriter(func(io.Writer) excelize.ZipWriter { return zip.NewWriter(packed) })
	if _, err := b.file.WriteToBuffer(); err != nil {
		return err
	}
	size, err := packed.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	from, err := zip.NewReader(packed, size)
	if err != nil {
		return err
	}
	slices.SortFunc(from.File, func(a, b *zip.File) int { return cmp.Compare(a.Name, b.Name) })
	to := zip.NewWriter(w)
	for _, part := range from.File {
		if err := to.Copy(part); err != nil {
			return err
		}
	}
	return to.Close()
}
