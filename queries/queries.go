// Package queries carries the questions of an analyst's first week as SQL, one file each.
//
// A file opens with its question, its grain and its caveats, and holds what one may want to change
// in the CTE params, one line each:
//
//	<default>::<type> as <name>,  -- <meaning>
//
// It is one statement that reads mart, as the role bi_reader may. It runs unchanged in psql, Metabase
// and DBeaver: nothing in it looks like a variable, and no line is blank, since DBeaver takes a blank
// line for the end of a statement.
package queries

import (
	"embed"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

//go:embed *.sql
var files embed.FS

// Query is one question.
type Query struct {
	Name                     string // of the file, without .sql
	Question, Grain, Caveats string // lines end as in the file
	Params                   []Param
	SQL                      string // the file as it stands
}

// Param is what may be changed about a question.
type Param struct {
	Name    string
	Type    string // date, integer or text
	Meaning string
	before  string // its line up to the type
}

// All are the questions, by name.
func All() []Query {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // the files are in the binary
	}
	var all []Query
	for _, entry := range entries {
		q, err := load(entry.Name())
		if err != nil {
			panic(err) // a test parses every file
		}
		all = append(all, q)
	}
	return all
}

func load(file string) (Query, error) {
	text, err := files.ReadFile(file)
	if err != nil {
		return Query{}, err
	}
	q, err := parse(string(text))
	if err != nil {
		return Query{}, fmt.Errorf("queries/%s: %w", file, err)
	}
	q.Name = strings.TrimSuffix(file, ".sql")
	return q, nil
}

var (
	head = regexp.MustCompile(`^-- Question: (.+)\n-- Grain: ((?:.+\n(?:--   )?)+)-- Caveats: ((?:.+\n(?:--   )?)+)` +
		`(with params as \(\n    select\n((?:        .+\n)+)(?:    from .+\n)?\)),?\n`)
	paramLine = regexp.MustCompile(`^(        \S.*)::(date|integer|text) as ([a-z][a-z_]*)(,?)  -- (.+)$`)
)

// parse reads a file by the form that the package comment describes.
func parse(sql string) (Query, error) {
	m := head.FindStringSubmatch(sql)
	if m == nil {
		return Query{}, errors.New("want the comments Question, Grain and Caveats, then the CTE params")
	}
	prose := func(s string) string { return strings.TrimSpace(strings.ReplaceAll(s, "\n--   ", "\n")) }
	q := Query{Question: m[1], Grain: prose(m[2]), Caveats: prose(m[3]), SQL: sql}
	lines := strings.Split(strings.TrimSuffix(m[5], "\n"), "\n")
	for i, line := range lines {
		p := paramLine.FindStringSubmatch(line)
		if p == nil || (p[4] == ",") != (i < len(lines)-1) {
			return Query{}, fmt.Errorf("parameter %q: want <default>::<type> as <name>,  -- <meaning>", strings.TrimSpace(line))
		}
		q.Params = append(q.Params, Param{Name: p[3], Type: p[2], Meaning: p[5], before: p[1] + "::"})
	}
	return q, nil
}

// Param finds a parameter by name.
func (q Query) Param(name string) (Param, bool) {
	for _, p := range q.Params {
		if p.Name == name {
			return p, true
		}
	}
	return Param{}, false
}

// With is the statement with other values for some parameters, as Read returned them. They travel
// beside the statement, never in it.
func (q Query) With(values map[string]string) (sql string, args []any) {
	sql = q.SQL
	for _, p := range q.Params {
		if value, given := values[p.Name]; given {
			args = append(args, value)
			rest := p.Type + " as " + p.Name
			sql = strings.Replace(sql, p.before+rest, fmt.Sprintf("        $%d::%s", len(args), rest), 1)
		}
	}
	return sql, args
}

// Replace is the statement with other expressions for the defaults of its parameters, for tools that have a
// notation of their own for values. other is given each parameter with its default; the cast stays around what
// it returns.
func (q Query) Replace(other func(p Param, normal string) string) string {
	sql := q.SQL
	for _, p := range q.Params {
		line, normal := p.before+p.Type+" as "+p.Name, strings.TrimSpace(strings.TrimSuffix(p.before, "::"))
		sql = strings.Replace(sql, line, "        "+other(p, normal)+"::"+p.Type+" as "+p.Name, 1)
	}
	return sql
}

// dailyFigures are the views that follow the days of history, each as a function of the time at which
// they were known.
var dailyFigures = regexp.MustCompile(`\bmart\.(daily_consumption|month) as\b`)

// IsTimeless tells that a question is about figures of which former versions are not told.
func (q Query) IsTimeless() bool { return !dailyFigures.MatchString(q.SQL) }

// AsOf is the question about the figures of history as they were known at an instant. Ask only what is
// not timeless.
func (q Query) AsOf(instant time.Time) Query {
	at := instant.UTC().Format("2006-01-02 15:04:05.999999Z07:00") // ours, so nothing of a person's text gets into the SQL
	q.SQL = dailyFigures.ReplaceAllString(q.SQL, "mart.${1}_as_of('"+at+"'::timestamptz) as")
	return q
}

// Values is the statement that tells the parameters themselves: one row, the defaults worked out.
func (q Query) Values(values map[string]string) (sql string, args []any) {
	sql, args = q.With(values)
	return head.FindStringSubmatch(sql)[4] + "\nselect * from params", args
}

// IsMonth tells a parameter that is a whole month, held as its first day.
func (p Param) IsMonth() bool { return p.Name == "month" || strings.HasSuffix(p.Name, "_month") }

// Read checks a value that somebody typed and returns it as the database takes it. The error says
// what is wanted.
func (p Param) Read(text string) (string, error) {
	switch {
	case p.IsMonth():
		month, err := time.Parse("2006-01", strings.TrimSuffix(text, "-01"))
		if err != nil {
			month, err = time.Parse("2006-01", text) // January
		}
		if err != nil {
			return "", errors.New("want a month such as 2026-04")
		}
		return month.Format(time.DateOnly), nil
	case p.Type == "date":
		if _, err := time.Parse(time.DateOnly, text); err != nil {
			return "", errors.New("want a day such as 2026-04-30")
		}
	case p.Type == "integer":
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return "", errors.New("want a whole number")
		}
		return strconv.FormatInt(n, 10), nil
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return "", errors.New("want text in UTF-8")
	}
	return text, nil
}
