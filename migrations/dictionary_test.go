package migrations_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"meterhouse/etl/warehouse/warehousetest"
)

const dictionaryHead = `# Data dictionary

Every schema, table, view and column of the warehouse, as the database itself describes them:
` + "`\\d+ mart.month`" + ` in psql shows the same comments. This file is generated from a migrated database by
` + "`go test ./migrations -update`" + `, and a test fails while the two differ.

Read ` + "`mart`" + `: its views are the contract for people and BI, and columns are only ever added. ` + "`dw`" + ` holds the
facts and dimensions behind it, ` + "`billing`" + ` what finance owns. The role ` + "`bi_reader`" + ` may read these three; ` + "`ops`" + ` and ` + "`raw`" + ` belong to the loader.

Times are UTC, and days are UTC days unless the comment says local. Quantities are exact (` + "`numeric`" + ` without a
precision); ` + "`_tib`" + ` is TiB, 1024^4 bytes. NULL means unknown or none, never zero: of a table's columns, those
marked *null* may hold it.
`

// dictionarySchemas are in the order in which people need them.
var dictionarySchemas = []string{"mart", "billing", "dw", "ops", "river", "raw"}

type dictionaryRelation struct {
	Name, Kind, Comment string
	PrimaryKey          []string
	Columns             []dictionaryColumn
}

type dictionaryColumn struct {
	Name, Type, Comment string
	MayBeNull           bool
	References          []string
}

const dictionaryRelations = `
select
    n.nspname || '.' || c.relname,
    case c.relkind when 'v' then 'view' when 'm' then 'view' else 'table' end,
    coalesce(obj_description(c.oid, 'pg_class'), ''),
    array(
        select a.attname::text
        from pg_constraint as k
        cross join unnest(k.conkey) with ordinality as part (attnum, position)
        join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = part.attnum
        where k.conrelid = c.oid and k.contype = 'p'
        order by part.position
    )
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = $1 and c.relkind in ('r', 'p', 'v', 'm') and not c.relispartition
order by c.relname collate "C"`

const dictionaryColumns = `
select
    a.attname::text,
    format_type(a.atttypid, a.atttypmod),
    coalesce(col_description(a.attrelid, a.attnum), ''),
    not a.attnotnull,
    array(
        select f.nspname || '.' || t.relname
        from pg_constraint as k
        join pg_class as t on t.oid = k.confrelid
        join pg_namespace as f on f.oid = t.relnamespace
        where k.conrelid = a.attrelid and k.contype = 'f' and k.conparentid = 0 and a.attnum = any (k.conkey)
        order by 1
    )
from pg_attribute as a
where a.attrelid = $1::text::regclass and a.attnum > 0 and not a.attisdropped
order by a.attnum`

const dictionaryFunctions = `
select
    n.nspname || '.' || p.proname,
    pg_get_function_identity_arguments(p.oid),
    pg_get_function_result(p.oid),
    coalesce(obj_description(p.oid, 'pg_proc'), '')
from pg_proc as p
join pg_namespace as n on n.oid = p.pronamespace
where n.nspname = $1
order by p.proname collate "C"`

// all reads the rows of a query, each by its columns' order.
func all[T any](t *testing.T, conn *pgx.Conn, sql, arg string, scan func(row pgx.CollectableRow, into *T) error) []T {
	t.Helper()
	rows, err := conn.Query(context.Background(), sql, arg)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (v T, err error) {
		err = scan(row, &v)
		return v, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// dictionary describes a migrated database in Markdown.
func dictionary(t *testing.T, conn *pgx.Conn) string {
	var index, body strings.Builder
	for _, schema := range dictionarySchemas {
		comment := strings.Join(lines(t, conn, `select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = '`+schema+`'`), "")
		fmt.Fprintf(&index, "\n## Schema %s\n\n%s\n\n| | one row per |\n|---|---|\n", schema, prose(comment))
		relations := all(t, conn, dictionaryRelations, schema, func(row pgx.CollectableRow, r *dictionaryRelation) error {
			return row.Scan(&r.Name, &r.Kind, &r.Comment, &r.PrimaryKey)
		})
		for _, r := range relations {
			r.Columns = all(t, conn, dictionaryColumns, r.Name, func(row pgx.CollectableRow, c *dictionaryColumn) error {
				return row.Scan(&c.Name, &c.Type, &c.Comment, &c.MayBeNull, &c.References)
			})
			grain, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.Comment, "Grain: "), "one row per "), ". ")
			fmt.Fprintf(&index, "| %s | %s |\n", link(r.Name), prose(strings.TrimSuffix(grain, ".")))
			r.describe(&body)
		}
		for _, f := range all(t, conn, dictionaryFunctions, schema, func(row pgx.CollectableRow, f *[4]string) error {
			return row.Scan(&f[0], &f[1], &f[2], &f[3])
		}) {
			fmt.Fprintf(&index, "| %s | (function) %s |\n", link(f[0]), prose(strings.TrimSuffix(f[3], ".")))
			fmt.Fprintf(&body, "\n### %s\n\nFunction. %s\n\n`%s(%s)` returns `%s`\n", f[0], prose(f[3]), f[0], shortType(f[1]), shortType(f[2]))
		}
		if schema == "mart" {
			index.WriteString(martPicture(t, conn))
		}
	}
	return dictionaryHead + index.String() + "\n## Tables and views\n" + body.String()
}

func (r dictionaryRelation) describe(w *strings.Builder) {
	fmt.Fprintf(w, "\n### %s\n\n%s\n\n", r.Name, prose(r.Comment))
	if r.Kind == "view" { // whose columns the catalogue takes for nullable, all of them
		fmt.Fprint(w, "| column | type | meaning |\n|---|---|---|\n")
	} else {
		fmt.Fprintf(w, "Primary key: `%s`.\n\n| column | type | null | refers to | meaning |\n|---|---|---|---|---|\n", strings.Join(r.PrimaryKey, "`, `"))
	}
	for _, c := range r.Columns {
		fmt.Fprintf(w, "| `%s` | %s | ", c.Name, shortType(c.Type))
		if r.Kind != "view" {
			null, references := "", make([]string, len(c.References))
			if c.MayBeNull {
				null = "null"
			}
			for i, name := range c.References {
				references[i] = link(name)
			}
			fmt.Fprintf(w, "%s | %s | ", null, strings.Join(references, ", "))
		}
		fmt.Fprintf(w, "%s |\n", prose(c.Comment))
	}
}

// link leads to a heading as GitHub names it: in lower case, without dots.
func link(name string) string {
	return fmt.Sprintf("[`%s`](#%s)", name, strings.ReplaceAll(name, ".", ""))
}

func shortType(name string) string {
	return strings.ReplaceAll(name, "timestamp with time zone", "timestamptz")
}

// prose is a comment that shows as it was written, also in a table's cell.
func prose(comment string) string {
	return strings.NewReplacer("\n", " ", "|", `\|`, "<", `\<`, "*", `\*`, "`", "\\`", "[", `\[`).Replace(comment)
}

// The data dictionary says what the comments of the catalogue say.
func TestDataDictionary(t *testing.T) {
	conn := warehousetest.Connect(t, warehousetest.New(t))
	none(t, conn, "schema that the data dictionary leaves out", `select nspname::text from pg_namespace
		where nspname not like 'pg\_%' and nspname not in ('information_schema', 'public', '`+strings.Join(dictionarySchemas, "', '")+`')`)
	got := dictionary(t, conn)
	const file = "../docs/data-dictionary.md"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is not what the database says (-file +now); go test ./migrations -update rewrites it:\n%s", file, diff)
	}
}

// Every link of the dictionary leads to a heading.
func TestDataDictionaryLinks(t *testing.T) {
	text := dictionary(t, warehousetest.Connect(t, warehousetest.New(t)))
	headings := map[string]bool{}
	for line := range strings.Lines(text) {
		if title, ok := strings.CutPrefix(strings.TrimSpace(line), "### "); ok {
			headings[strings.ReplaceAll(title, ".", "")] = true
		}
	}
	for _, part := range strings.Split(text, "](#")[1:] {
		if target, _, _ := strings.Cut(part, ")"); !headings[target] {
			t.Errorf("a link leads to #%s, where nothing is", target)
		}
	}
	if len(headings) < 30 {
		t.Errorf("%d tables and views: the queries went wrong", len(headings))
	}
}

// The picture of the entities in the architecture shows every dimension and fact, with the keys and
// columns that they have.
func TestEntityPicture(t *testing.T) {
	conn := warehousetest.Connect(t, warehousetest.New(t))
	text, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, picture, _ := strings.Cut(string(text), "erDiagram\n")
	picture, _, _ = strings.Cut(picture, "```")
	drawn, entity := map[string]bool{}, ""
	for line := range strings.Lines(picture) {
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && words[1] == "{":
			entity = words[0]
		case len(words) == 1: // the end of an entity
			entity = ""
		case len(words) > 1 && entity != "":
			keys, _, _ := strings.Cut(strings.Join(append(words[2:], ""), " "), "\"")
			drawn[fmt.Sprintf("%s.%s %s %s", entity, words[1], words[0], strings.TrimSpace(keys))] = true
		case len(words) > 3: // one ||--o{ many : label
			drawn[words[0]+" has "+words[2]] = true
		}
	}
	const there = `
		select c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
			exists (select from pg_constraint as k where k.conrelid = c.oid and k.contype = 'p' and a.attnum = any (k.conkey)),
			exists (select from pg_constraint as k where k.conrelid = c.oid and k.contype = 'u' and k.conkey = array[a.attnum]),
			coalesce((select k.confrelid::regclass::text from pg_constraint as k
				where k.conrelid = c.oid and k.contype = 'f' and k.conparentid = 0 and a.attnum = any (k.conkey)), '')
		from pg_class as c
		join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		where c.relnamespace = $1::text::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
			and c.relname ~ '^(dim|fact)_|^restatement$' and c.relname <> 'dim_date'`
	type column struct {
		table, name, kind string
		isKey, isUnique   bool
		refersTo          string
	}
	for _, c := range all(t, conn, there, "dw", func(row pgx.CollectableRow, c *column) error {
		return row.Scan(&c.table, &c.name, &c.kind, &c.isKey, &c.isUnique, &c.refersTo)
	}) {
		var keys []string
		for key, is := range map[string]bool{"PK": c.isKey, "FK": c.refersTo != "", "UK": c.isUnique} {
			if is {
				keys = append(keys, key)
			}
		}
		slices.SortFunc(keys, func(a, b string) int { return strings.Compare(b, a) }) // as mermaid's readers expect: PK,FK
		want := fmt.Sprintf("%s.%s %s %s", c.table, c.name, shortType(c.kind), strings.Join(keys, ","))
		if (len(keys) > 0) && !drawn[want] {
			t.Errorf("docs/architecture.md: the picture lacks %s", want)
		}
		delete(drawn, want)
	}
	for line := range drawn {
		if one, many, ok := strings.Cut(line, " has "); !ok {
			t.Errorf("docs/architecture.md: the picture shows %s, which the database has not", line)
		} else if got := lines(t, conn, `select conname from pg_constraint where conrelid = 'dw.`+many+`'::regclass and confrelid = 'dw.`+one+`'::regclass and contype = 'f'`); len(got) == 0 {
			t.Errorf("docs/architecture.md: the picture leads from %s to %s, the database does not", one, many)
		}
	}
}
