package queries_test

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/queries"
)

func TestMain(m *testing.M) { warehousetest.Main(m) }

// variable is what psql (:name), Metabase ({{name}}, [[ … ]]), JDBC (?) or DBeaver (${name}, @name) would
// fill in before the database sees it.
var variable = regexp.MustCompile(`(?:^|[^:]):[A-Za-z'"]|\{\{|\[\[|\?|\$|@`)

// Nothing in a query is meant for one tool only.
func TestQueriesAreOnePlainStatement(t *testing.T) {
	t.Parallel()
	for _, q := range queries.All() {
		var code []string
		for line := range strings.Lines(q.SQL) {
			text, _, _ := strings.Cut(line, "--")
			code = append(code, text)
		}
		plain := strings.Join(code, "")
		if found := variable.FindString(plain); found != "" {
			t.Errorf("%s: %q is a variable to psql, Metabase or DBeaver", q.Name, found)
		}
		if strings.Count(plain, ";") != 1 || !strings.HasSuffix(q.SQL, ";\n") {
			t.Errorf("%s: want one statement, ended by a semicolon", q.Name)
		}
		if found := regexp.MustCompile(`\b(ops|raw|dw\.fact_\w+|public)\.?`).FindString(plain); found != "" {
			t.Errorf("%s: reads %s: want mart", q.Name, found)
		}
		if strings.Contains(q.SQL, "\n\n") {
			t.Errorf("%s: has a blank line, which DBeaver takes for the end of a statement", q.Name)
		}
		if regexp.MustCompile(`(?i)\bbetween\b`).MatchString(plain) {
			t.Errorf("%s: between: want >= and <", q.Name)
		}
		for i, line := range strings.Split(q.SQL, "\n") {
			if len([]rune(line)) > 160 || strings.HasPrefix(line, "-- ") && len(line) > 105 ||
				strings.TrimRight(line, " ") != line || strings.Contains(line, "\t") {
				t.Errorf("%s.sql:%d: too long, or blanks at the end, or a tab", q.Name, i+1)
			}
		}
		if !strings.HasSuffix(q.Question, "?") || !strings.HasPrefix(q.Grain, "one row per ") {
			t.Errorf("%s: question %q, grain %q: want a question, and one row per …", q.Name, q.Question, q.Grain)
		}
		for _, p := range q.Params {
			if p.IsMonth() && p.Type != "date" {
				t.Errorf("%s: %s is a %s: want a date, the first day of the month", q.Name, p.Name, p.Type)
			}
		}
	}
}

// The README lists every question with its file, parameters and grain, and nothing else.
func TestReadmeIndexesQueries(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	want := "| question | file | parameters | one row per |\n|---|---|---|---|\n"
	for _, q := range queries.All() {
		var params []string
		for _, p := range q.Params {
			params = append(params, "`"+p.Name+"`")
		}
		grain := strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(q.Grain, "one row per "), "."), "\n", " ")
		want += "| " + q.Question + " | [" + q.Name + "](" + q.Name + ".sql) | " + strings.Join(params, ", ") + " | " + grain + " |\n"
	}
	_, table, _ := strings.Cut(string(readme), "| question |")
	got, _, _ := strings.Cut("| question |"+table, "\n\n")
	if got+"\n" != want {
		t.Errorf("README.md has\n%s\nwant\n%s", got, want)
	}
}

// Every query runs as bi_reader on an empty warehouse, with its defaults and with others, takes no
// parameter as it stands, and can be explained.
func TestQueriesRunAsReader(t *testing.T) {
	t.Parallel()
	conn := warehousetest.Connect(t, warehousetest.New(t))
	if _, err := conn.Exec(t.Context(), `set role bi_reader`); err != nil {
		t.Fatal(err)
	}
	values := map[string]string{"date": "2026-02-01", "integer": "3", "text": "a'b"}
	for _, q := range queries.All() {
		prepared, err := conn.Prepare(t.Context(), q.Name, q.SQL)
		if err != nil {
			t.Errorf("%s: %v", q.Name, err)
			continue
		}
		if len(prepared.ParamOIDs) > 0 || len(prepared.Fields) == 0 {
			t.Errorf("%s: %d parameters, %d columns", q.Name, len(prepared.ParamOIDs), len(prepared.Fields))
		}
		if _, err := conn.Exec(t.Context(), "explain "+q.SQL); err != nil {
			t.Errorf("explain %s: %v", q.Name, err)
		}
		if tag, err := conn.Exec(t.Context(), q.SQL); err != nil || tag.RowsAffected() != 0 {
			t.Errorf("%s: %d rows of nothing, %v", q.Name, tag.RowsAffected(), err)
		}
		others := map[string]string{}
		for _, p := range q.Params {
			if p.Meaning == "" {
				t.Errorf("%s: %s has no meaning", q.Name, p.Name)
			}
			others[p.Name] = values[p.Type]
			for _, with := range []map[string]string{{}, {p.Name: values[p.Type]}, others} {
				sql, args := q.With(with)
				if rows(t, conn, sql, args); len(args) != len(with) {
					t.Errorf("%s with %v: %d arguments", q.Name, with, len(args))
				}
				sql, args = q.Values(with)
				used := rows(t, conn, sql, args)
				if len(used) != 1 || len(with) > 0 && used[0][p.Name] != with[p.Name] {
					t.Errorf("%s with %v: parameters are %v", q.Name, with, used)
				}
			}
		}
	}
}

// Queries read views of mart, and those read the daily rows: a hundredth of the samples, and there after retention took
// them. Whoever needs a view of samples sees to it that it prunes to the months asked, and says so here.
func TestReportsReadNoSamples(t *testing.T) {
	t.Parallel()
	conn := warehousetest.Connect(t, warehousetest.New(t))
	readers := rows(t, conn, `
		select distinct r.ev_class::regclass::text as view, d.refobjid::regclass::text as reads
		from pg_depend as d
		join pg_rewrite as r on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
		where d.refobjid in ('dw.fact_consumption_sample'::regclass, 'dw.fact_daily_consumption'::regclass)
			and r.ev_class <> d.refobjid
		order by 1`, nil)
	if len(readers) < 3 {
		t.Errorf("views that read facts of history: got %v", readers)
	}
	for _, r := range readers {
		if r["reads"] == "dw.fact_consumption_sample" {
			t.Errorf("%s reads samples", r["view"])
		}
	}
}

// A day that was read anew more than once has superseded versions of one instant: each is a change of its own.
func TestVersionsOfOneInstant(t *testing.T) {
	t.Parallel()
	conn := warehousetest.Connect(t, warehousetest.New(t))
	warehousetest.Grow(t, conn, warehousetest.Size{Customers: 1, Days: 3, Samples: 0})
	for _, sql := range []string{
		`set meterhouse.now = '2026-11-02 12:00Z'`,
		`truncate dw.restatement`,
		`insert into dw.restatement (customer_key, service_level_key, usage_date, kind, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib, consumed_last_tib,
			over_committed_avg_tib, accrued_sum_tib, known_from, known_until, payload_id, run_id)
		select d.customer_key, d.service_level_key, d.usage_date, 'reread', 24, 100, consumed, 104.5, 99.5, 0, 3, '2026-11-01', '2026-11-01', 1, 1
		from dw.fact_daily_consumption as d
		cross join unnest(array[9, 10]) with ordinality as v (consumed, n)
		where d.service_level_key = 1 and d.usage_date = '2026-10-30'
		order by n`,
		`update dw.fact_daily_consumption set consumed_avg_tib = 12 where service_level_key = 1 and usage_date = '2026-10-30'`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	all := queries.All()
	asked := slices.IndexFunc(all, func(q queries.Query) bool { return q.Name == "restated_days" })
	if asked < 0 {
		t.Fatal("there is no restated_days")
	}
	sql, args := all[asked].With(map[string]string{"from_day": "2026-10-01", "until_day": "2026-12-01"})
	var changes []string
	for _, row := range rows(t, conn, sql, args) {
		changes = append(changes, row["consumed_avg_change_tib"])
	}
	if got := strings.Join(changes, " "); got != "3 2" {
		t.Errorf("changes %q, want 3 2: from 9 and from 10 to 12", got)
	}
}

// rows asks for everything as text.
func rows(t *testing.T, conn *pgx.Conn, sql string, args []any) (all []map[string]string) {
	t.Helper()
	result, err := conn.Query(context.Background(), sql, append([]any{pgx.QueryResultFormats{pgx.TextFormatCode}}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	for result.Next() {
		row := map[string]string{}
		for i, v := range result.RawValues() {
			row[result.FieldDescriptions()[i].Name] = string(v)
		}
		all = append(all, row)
	}
	if err := result.Err(); err != nil {
		t.Errorf("%v in\n%s", err, sql)
	}
	return all
}

func TestParamRead(t *testing.T) {
	t.Parallel()
	month, day := queries.Param{Name: "from_month", Type: "date"}, queries.Param{Name: "from_day", Type: "date"}
	number, text := queries.Param{Name: "top", Type: "integer"}, queries.Param{Name: "customer", Type: "text"}
	for _, c := range []struct {
		p        queries.Param
		in, want string // want is empty where it is refused
	}{
		{month, "2026-04", "2026-04-01"}, {month, "2026-04-01", "2026-04-01"}, {month, "2026-01", "2026-01-01"}, {month, "2026-01-01", "2026-01-01"},
		{month, "2026-04-02", ""}, {month, "2026-13", ""}, {month, "April", ""}, {month, "", ""}, {month, "2026-04-01-01", ""},
		{day, "2026-02-28", "2026-02-28"}, {day, "2026-02-29", ""}, {day, "today", ""}, {day, "2026-02", ""}, {day, "infinity", ""},
		{number, "10", "10"}, {number, "-1", "-1"}, {number, "+7", "7"}, {number, "1e3", ""}, {number, "1.0", ""}, {number, "2147483648", ""},
		{text, "'; drop table x; --", "'; drop table x; --"}, {text, "a\x00b", ""}, {text, "\xff", ""},
	} {
		got, err := c.p.Read(c.in)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s=%q: %q, %v, want %q", c.p.Name, c.in, got, err, c.want)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "want ") {
			t.Errorf("%s=%q: %v: want what is wanted", c.p.Name, c.in, err)
		}
	}
}
