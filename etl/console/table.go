package console

import (
	"context"
	"encoding/csv"
	"fmt"
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
	// actions is the template of a last column with buttons; empty: none.
	actions string
}

// column of a table. A column that the query has and the table does not list is in the CSV only.
type column struct {
	name  string
	title string
	kind  kind
	sort  bool   // rows may be put in its order: the query can do that without reading everything
	link  string // where the cell leads: a path with columns in braces, as /runs/{run_id}
}

type kind int

const (
	isText   kind = iota
	isNumber      // to the right, digit for digit
	isTime        // an instant, to the second; the CSV has every digit
	isStatus      // a word with a mark of its own
	isCode        // as somebody wrote it
)

// filter is a field above the table.
type filter struct {
	name, label string
	// choices lists what there is: words, or a query of one column that starts with select. None: any text.
	choices []string
	query   string
	initial string // value when the page is asked for without it
	any     string // the word for no choice; default "all"
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
}

type field struct {
	Name, Label, Value, Any string
	Choices                 []string
	IsChoice                bool
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
	Short   string
}

// list reads one page of the table.
func (v *view) list(t *table) (*listing, error) {
	values, args := t.values(v.r.URL.Query())
	l := &listing{table: t, Caption: t.caption, Empty: t.empty, Actions: t.actions, Path: v.r.URL.Path}
	for i, f := range t.filters {
		shown := field{Name: f.name, Label: f.label, Value: values[i], Any: f.any, Choices: f.choices}
		if f.query != "" {
			rows, err := v.query(f.query)
			if err != nil {
				return nil, err
			}
			for _, r := range rows.Rows {
				shown.Choices = append(shown.Choices, r[0].Text)
			}
		}
		shown.IsChoice = f.query != "" || len(f.choices) > 0
		if shown.IsChoice && shown.Value != "" && !slices.Contains(shown.Choices, shown.Value) {
			shown.Choices = append(shown.Choices, shown.Value) // what is asked for is shown, if there is none too
		}
		l.Filters = append(l.Filters, shown)
	}
	asked := v.r.URL.Query()
	sorted, isDown := t.sorted(asked.Get("sort"))
	page := 1
	if n, err := strconv.Atoi(asked.Get("page")); err == nil {
		page = min(max(n, 1), mostPages)
	}
	counted, err := v.query(fmt.Sprintf("select count(*) from (select from (%s) as r limit %d) as n", v.s.sql(t.name), mostCount+1), args...)
	if err != nil {
		return nil, err
	}
	total, err := strconv.Atoi(counted.Rows[0][0].Text)
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
	direction := "asc nulls last"
	if isDown {
		direction = "desc nulls last"
	}
	if t.key == sorted { // an index has it in this order
		direction = strings.TrimSuffix(direction, " nulls last")
	}
	sql := fmt.Sprintf("select * from (%s) as r order by %s %s, %s limit %d offset %d", v.s.sql(t.name), sorted, direction, t.tie(isDown), pageRows, (page-1)*pageRows)
	rows, err := v.query(sql, args...)
	if err != nil {
		return nil, err
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
		h := head{Title: c.title, Name: c.name, Numeric: c.kind == isNumber}
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

// values are those of the filters, in their order, as shown and as arguments of the query.
func (t *table) values(asked url.Values) (values []string, args []any) {
	for _, f := range t.filters {
		value := f.initial
		if asked.Has(f.name) {
			value = strings.TrimSpace(asked.Get(f.name))
		}
		value = strings.ToValidUTF8(strings.ReplaceAll(value, "\x00", ""), "") // Postgres takes neither
		values, args = append(values, value), append(args, value)
	}
	return values, args
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
	s := shown{cell: r[c.name], Numeric: c.kind == isNumber, Time: c.kind == isTime, Status: c.kind == isStatus, Code: c.kind == isCode}
	s.Short = s.Text
	if s.Time {
		s.Short = shortTime(s.Text)
	}
	if c.link != "" && !s.Null {
		s.Link = r.expand(c.link)
	}
	return s
}

// shortTime is a time of the database to the second, in UTC.
func shortTime(text string) string {
	const long = "2006-01-02 15:04:05"
	if len(text) > len(long) && text[4] == '-' {
		return text[:len(long)]
	}
	return text
}

// csvWithin is how long a download may take.
const csvWithin = 10 * time.Minute

// patient waits for a reader as long as it takes something: who stops is let go, with the place and the transaction.
type patient struct{ http.ResponseWriter }

func (p *patient) Write(b []byte) (int, error) {
	_ = http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(writeWithin))
	return p.ResponseWriter.Write(b)
}

// download writes all rows of the table, in its order, as CSV: every column of the query, digit for digit.
// A text that a spreadsheet would take for a formula gets an apostrophe in front.
func (s *Server) download(t *table) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, args := t.values(r.URL.Query())
		sorted, isDown := t.sorted(r.URL.Query().Get("sort"))
		direction := "asc nulls last"
		if isDown {
			direction = "desc nulls last"
		}
		// The deadline of the server counts from the request, and the first row may take longer.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(csvWithin))
		begun := false
		err := s.readIn(r.Context(), csvWithin, s.downloads, func(ctx context.Context, v *view) error {
			out := csv.NewWriter(&patient{w})
			var numeric []bool
			sql := fmt.Sprintf("select * from (%s) as r order by %s %s, %s", s.sql(t.name), sorted, direction, t.tie(isDown))
			err := v.each(sql, args, func(columns []string, isNumeric []bool) error {
				begun, numeric = true, isNumeric
				w.Header().Set("Content-Type", "text/csv; charset=utf-8")
				w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", t.name+".csv"))
				return out.Write(columns)
			}, func(row []cell) error {
				cells := make([]string, len(row))
				for i, c := range row {
					cells[i] = c.Text
					if !numeric[i] {
						cells[i] = s.cfg.Defuse(c.Text)
					}
				}
				return out.Write(cells)
			})
			out.Flush()
			if err == nil {
				err = out.Error()
			}
			return err
		})
		if err == nil {
			return
		}
		if !begun {
			s.fail(w, r, err)
			return
		}
		s.cfg.Log.Warn("download cut off", "table", t.name, "error", err)
		panic(http.ErrAbortHandler) // the reader shall notice that rows are missing
	}
}
