package console

import (
	"context"
	"encoding/csv"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// table is rows that people page through, search and download. Its query is sql/NAME.sql, in which $1, $2 …
// are the values of the filters as text, empty for any. Pages, order and count are put around it.
type table struct {
	name    string // of the query and of the CSV file, which is served at /NAME.csv
	caption string
	columns []column
	filters []filter
	order   string // a column, or a column and desc: unless somebody chose another
	key     string // what tells rows that are equal by the order, as SQL
	empty   string // is said when there are no rows
	// isKeyFirst: the rows of a page are found by their key before they are made, since making one takes longer than
	// finding it, and those of the pages before would be made too.
	isKeyFirst bool
	// actions is the template of a last column with buttons; empty: none.
	actions string
	// check refuses values of the filters, as the query is given them, or puts them as it reads them. Nil: it takes any.
	check func(s *Server, values []string) error
	// sheet is where the rows are when a query would take too long. It is waited for when wait is set.
	sheet func(v *view, values []string, wait time.Duration) (*sheet, copyState, error)
	// rows hands over the rows of the CSV when neither the query nor a sheet can choose them. Nil: they can.
	rows func(v *view, values map[string]string, columns func([]string, []bool) error, row func([]cell) error) error
}

// column of a table. A column that the query has and the table does not list is in the CSV only.
type column struct {
	name  string
	title string
	kind  kind
	sort  bool   // rows may be put in its order: the query can do that without reading everything
	link  string // where the cell leads: a path with columns in braces, as /runs/{run_id}
	under string // another column, in small letters below
}

type kind int

const (
	isText     kind = iota
	isNumber        // to the right, digit for digit
	isQuantity      // the same, with decimals that nobody reads out of sight: see split
	isTime          // an instant, to the second; the CSV has every digit
	isStatus        // a word with a mark of its own
	isCode          // as somebody wrote it
	isNote          // a sentence, which may be long
	isSpark         // a small drawing of the columns spark and mark
	isYesNo         // true or false in words; what nobody knows is told so
	isLevel         // the name of a level; what tells several of a subscription apart is in the column level_ordinal
)

// filter is a field above the table.
type filter struct {
	name, label string
	// choices lists what there is: words, or a query of one column that starts with select. None: any text.
	choices []string
	query   string
	initial string // value when the page is asked for without it
	any     string // the word for no choice; default "all"
	column  string // of a sheet: what must be equal; empty: what its search looks through must hold the text
	isMonth bool   // a month, YYYY-MM; what is none counts as not given
	isKept  bool   // comes with the address of the page and is no field
}

const (
	pageRows  = 50
	mostPages = 200     // whoever looks for more narrows the search; the CSV has every row
	mostCount = 100_000 // counted exactly up to here
)

// listing is a table as it is shown.
type listing struct {
	*table
	Caption  string
	Filters  []field
	Columns  []head
	Rows     []listed
	Total    string
	From, To int
	Previous string // links; empty: none
	Next     string
	CSV      string
	Empty    string
	Cut      bool // there are more rows than can be paged through
	Actions  string
	Path     string
	Values   map[string]string // of the filters
	Copy     *copyState        // where rows are from a sheet
}

type field struct {
	Name, Label, Value, Any string
	Choices                 []string
	IsChoice, IsMonth       bool
	IsKept                  bool
}

type head struct {
	Title, Name string
	Sort        string // link; empty: cannot be sorted
	Order       string // ascending, descending or empty
	Numeric     bool
}

type listed struct {
	Cells  []shown
	Record record
}

type shown struct {
	cell
	Link    string
	Numeric bool
	Time    bool
	Status  bool
	Code    bool
	Note    bool
	Spark   template.HTML
	Short   string
	Rest    string // decimals that follow Short
	Under   string
}

// HasFields tells whether there is something to search by.
func (l *listing) HasFields() bool {
	return slices.ContainsFunc(l.Filters, func(f field) bool { return !f.IsKept })
}

// source is where the rows of a table are.
type source interface {
	choices(f filter) ([]string, error)
	count(values []string) (int, error) // most of them at mostCount+1
	page(values []string, sorted string, isDown bool, limit, offset int) (*rows, error)
}

// asked is a table whose rows the database finds.
type asked struct {
	*view
	*table
}

func (a asked) choices(f filter) (all []string, err error) {
	rows, err := a.query(f.query)
	if err != nil {
		return nil, err
	}
	for _, r := range rows.Rows {
		all = append(all, r[0].Text)
	}
	return all, nil
}

func (a asked) count(values []string) (int, error) {
	counted, err := a.query(fmt.Sprintf("select count(*) from (select from (%s) as r limit %d) as n", a.s.sql(a.table.name), mostCount+1), arguments(values)...)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(counted.Rows[0][0].Text)
}

func (a asked) page(values []string, sorted string, isDown bool, limit, offset int) (*rows, error) {
	direction := "asc nulls last"
	if isDown {
		direction = "desc nulls last"
	}
	if a.key == sorted { // an index has it in this order
		direction = strings.TrimSuffix(direction, " nulls last")
	}
	sql := a.s.sql(a.table.name)
	order := fmt.Sprintf("order by %s %s, %s", sorted, direction, a.tie(isDown))
	part := fmt.Sprintf("limit %d offset %d", limit, offset)
	if a.isKeyFirst {
		sql = fmt.Sprintf("select * from (%s) as r where %s in (select %s from (%s) as k %s %s) %s", sql, a.key, a.key, sql, order, part, order)
	} else {
		sql = fmt.Sprintf("select * from (%s) as r %s %s", sql, order, part)
	}
	return a.query(sql, arguments(values)...)
}

func arguments(values []string) (args []any) {
	for _, value := range values {
		args = append(args, value)
	}
	return args
}

// list reads one page of the table.
func (v *view) list(t *table) (*listing, error) {
	values, err := t.given(v.s, v.r.URL.Query())
	if err != nil {
		return nil, err
	}
	l := &listing{table: t, Caption: t.caption, Empty: t.empty, Actions: t.actions, Path: v.r.URL.Path, Values: map[string]string{}}
	var from source = asked{v, t}
	if t.sheet != nil {
		s, state, err := t.sheet(v, values, 0)
		if err != nil {
			return nil, err
		}
		l.Copy = &state
		from = &cut{sheet: s, table: t}
	}
	for i, f := range t.filters {
		shown := field{Name: f.name, Label: f.label, Value: values[i], Any: f.any, Choices: f.choices, IsMonth: f.isMonth, IsKept: f.isKept}
		l.Values[f.name] = values[i]
		if f.query != "" || f.column != "" && len(f.choices) == 0 {
			var err error
			if shown.Choices, err = from.choices(f); err != nil {
				return nil, err
			}
		}
		shown.IsChoice = f.query != "" || f.column != "" || len(f.choices) > 0
		if shown.IsChoice && shown.Value != "" && !slices.Contains(shown.Choices, shown.Value) {
			shown.Choices = append(slices.Clone(shown.Choices), shown.Value) // what is asked for is shown, if there is none too
		}
		l.Filters = append(l.Filters, shown)
	}
	asked := v.r.URL.Query()
	sorted, isDown := t.sorted(asked.Get("sort"))
	page := 1
	if n, err := strconv.Atoi(asked.Get("page")); err == nil {
		page = min(max(n, 1), mostPages)
	}
	total, err := from.count(values)
	if err != nil {
		return nil, err
	}
	l.Total = strconv.Itoa(total)
	if total > mostCount {
		l.Total = "more than " + strconv.Itoa(mostCount)
	}
	last := max(1, (total+pageRows-1)/pageRows)
	l.Cut = last > mostPages
	page = min(page, last, mostPages)
	rows := &rows{}
	if total > 0 { // or it would be looked for twice
		if rows, err = from.page(values, sorted, isDown, pageRows, (page-1)*pageRows); err != nil {
			return nil, err
		}
	}
	if len(rows.Rows) > 0 {
		l.From, l.To = (page-1)*pageRows+1, (page-1)*pageRows+len(rows.Rows)
	}
	link := func(change func(url.Values)) string {
		q := url.Values{}
		for i, f := range t.filters {
			if values[i] != f.initial {
				q.Set(f.name, values[i])
			}
		}
		if asked.Get("sort") != "" {
			q.Set("sort", asked.Get("sort"))
		}
		change(q)
		if len(q) == 0 {
			return v.r.URL.Path
		}
		return v.r.URL.Path + "?" + q.Encode()
	}
	if page > 1 {
		l.Previous = link(func(q url.Values) {
			if page > 2 {
				q.Set("page", strconv.Itoa(page-1))
			}
		})
	}
	if page < min(last, mostPages) {
		l.Next = link(func(q url.Values) { q.Set("page", strconv.Itoa(page+1)) })
	}
	l.CSV = strings.Replace(link(func(url.Values) {}), v.r.URL.Path, "/"+t.name+".csv", 1)
	for _, c := range t.columns {
		h := head{Title: c.title, Name: c.name, Numeric: c.kind == isNumber || c.kind == isQuantity}
		if c.sort {
			other := c.name
			if c.name == sorted {
				h.Order = "ascending"
				if isDown {
					h.Order = "descending"
				} else {
					other = "-" + c.name
				}
			}
			h.Sort = link(func(q url.Values) { q.Set("sort", other) })
		}
		l.Columns = append(l.Columns, h)
	}
	for i := range rows.Rows {
		rec := rows.record(i)
		row := listed{Record: rec}
		for _, c := range t.columns {
			row.Cells = append(row.Cells, c.show(rec))
		}
		l.Rows = append(l.Rows, row)
	}
	return l, nil
}

// values are those of the filters, in their order, as shown and for the query.
func (t *table) values(asked url.Values) (values []string) {
	for _, f := range t.filters {
		value := f.initial
		if asked.Has(f.name) {
			value = strings.TrimSpace(asked.Get(f.name))
		}
		value = strings.ToValidUTF8(strings.ReplaceAll(value, "\x00", ""), "") // Postgres takes neither
		if f.isMonth && !isMonth(value) {
			value = ""
		}
		values = append(values, value)
	}
	return values
}

// given are the values as the query takes them, once they are checked.
func (t *table) given(s *Server, asked url.Values) ([]string, error) {
	values := t.values(asked)
	if t.check == nil {
		return values, nil
	}
	return values, t.check(s, values)
}

// sorted is the column to sort by and whether downwards; what cannot be sorted by is not.
func (t *table) sorted(asked string) (column string, isDown bool) {
	name, down := strings.CutPrefix(asked, "-")
	for _, c := range t.columns {
		if c.sort && c.name == name {
			return name, down
		}
	}
	column, isDown = strings.CutSuffix(t.order, " desc")
	return column, isDown
}

func (t *table) tie(isDown bool) string {
	if isDown && !strings.Contains(t.key, ",") {
		return t.key + " desc"
	}
	return t.key
}

// show is how the cell of a column looks.
func (c column) show(r record) shown {
	s := shown{cell: r[c.name], Numeric: c.kind == isNumber || c.kind == isQuantity, Time: c.kind == isTime, Status: c.kind == isStatus, Code: c.kind == isCode, Note: c.kind == isNote}
	if c.kind == isSpark {
		s.Spark = spark(r)
	}
	if c.kind == isLevel {
		s.Text = instance(s.Text, r["level_ordinal"].Text)
	}
	if c.kind == isYesNo {
		s.Text, s.Null = yesNo(s.cell), false
	}
	if c.under != "" {
		s.Under = r[c.under].Text
	}
	s.Short = s.Text
	if s.Time {
		s.Short = shortTime(s.Text)
	}
	if c.kind == isQuantity {
		s.Short, s.Rest = split(s.Text)
	}
	if c.link != "" && !s.Null {
		s.Link = r.expand(c.link)
	}
	return s
}

// yesNo is a boolean in words.
func yesNo(c cell) string {
	switch {
	case c.Null:
		return "unknown"
	case c.Text == "true":
		return "yes"
	}
	return "no"
}

// Decimals of a quantity that are seen: three, and of what is below one at least three that count.
const (
	seenDecimals = 3
	fewDecimals  = seenDecimals + 2 // so many are shown whole: less is no shorter
)

// split cuts a number behind the decimals that are seen. Nothing is rounded: the rest is on the page too, for whoever
// points at it, copies it, listens to it or prints it.
func split(number string) (seen, rest string) {
	whole, decimals, _ := strings.Cut(number, ".")
	if len(decimals) <= fewDecimals {
		return number, ""
	}
	n := seenDecimals
	if strings.Trim(whole, "-0") == "" {
		n += len(decimals) - len(strings.TrimLeft(decimals, "0"))
	}
	if n = min(n, len(decimals)); strings.Trim(decimals[n:], "0") == "" {
		return number, ""
	}
	return whole + "." + decimals[:n], decimals[n:]
}

// shortTime is a time of the database to the second, in UTC.
func shortTime(text string) string {
	const long = "2006-01-02 15:04:05"
	if len(text) > len(long) && text[4] == '-' {
		return text[:len(long)]
	}
	return text
}

// each hands over all rows of the table.
func (t *table) each(v *view, values []string, sorted string, isDown bool, columns func([]string, []bool) error, row func([]cell) error) error {
	if t.rows != nil {
		given := map[string]string{}
		for i, f := range t.filters {
			given[f.name] = values[i]
		}
		return t.rows(v, given, columns, row)
	}
	if t.sheet == nil {
		direction := "asc nulls last"
		if isDown {
			direction = "desc nulls last"
		}
		return v.each(fmt.Sprintf("select * from (%s) as r order by %s %s, %s", v.s.sql(t.name), sorted, direction, t.tie(isDown)), arguments(values), columns, row)
	}
	s, state, err := t.sheet(v, values, csvPatience)
	if err != nil {
		return err
	}
	if s == nil || !state.IsCurrent {
		return notComputed{state}
	}
	found, err := (&cut{sheet: s, table: t}).page(values, sorted, isDown, len(s.Rows), 0)
	if err != nil {
		return err
	}
	n := len(s.Columns)
	if s.shown > 0 {
		n = s.shown
	}
	if err := columns(s.Columns[:n], s.Numeric[:n]); err != nil {
		return err
	}
	for _, cells := range found.Rows {
		if err := row(cells[:n]); err != nil {
			return err
		}
	}
	return nil
}

// csvWithin is how long a download may take, csvPatience how much of that it waits for a copy.
const (
	csvWithin   = 10 * time.Minute
	csvPatience = csvWithin - 30*time.Second
)

// patient waits for a reader as long as it takes something: who stops is let go, with the place and the transaction.
type patient struct{ http.ResponseWriter }

func (p *patient) Write(b []byte) (int, error) {
	_ = http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(writeWithin))
	return p.ResponseWriter.Write(b)
}

// download writes all rows of the table, in its order, as CSV: every column of the query, digit for digit.
// A text that a spreadsheet would take for a formula gets an apostrophe in front.
func (s *Server) download(t *table) func(http.ResponseWriter, *http.Request, visitor) {
	return func(w http.ResponseWriter, r *http.Request, who visitor) {
		values, err := t.given(s, r.URL.Query())
		if err != nil {
			s.failAs(w, r, who, err)
			return
		}
		sorted, isDown := t.sorted(r.URL.Query().Get("sort"))
		// The deadline of the server counts from the request, and the first row may take longer.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(csvWithin))
		begun := false
		read := s.readIn
		if t.sheet != nil {
			read = s.readCopy
		}
		err = read(r.Context(), csvWithin, s.downloads, func(_ context.Context, v *view) error {
			out := csv.NewWriter(&patient{w})
			var names []string
			var numeric []bool
			head := func(columns []string, isNumeric []bool) error {
				names, numeric = columns, isNumeric
				return nil
			}
			// The columns are known before the database has found a row, or that it cannot.
			begin := func() error {
				if begun {
					return nil
				}
				begun = true
				w.Header().Set("Content-Type", "text/csv; charset=utf-8")
				w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", t.name+".csv"))
				return out.Write(names)
			}
			line := func(row []cell) error {
				if err := begin(); err != nil {
					return err
				}
				cells := make([]string, len(row))
				for i, c := range row {
					cells[i] = c.Text
					if !numeric[i] {
						cells[i] = s.cfg.Defuse(c.Text)
					}
				}
				return out.Write(cells)
			}
			if err := t.each(v, values, sorted, isDown, head, line); err != nil {
				return err
			}
			if err := begin(); err != nil {
				return err
			}
			out.Flush()
			return out.Error()
		})
		if err == nil {
			return
		}
		if !begun {
			s.failAs(w, r, who, err)
			return
		}
		s.cfg.Log.Warn("download cut off", "table", t.name, "error", err)
		panic(http.ErrAbortHandler) // the reader shall notice that rows are missing
	}
}
