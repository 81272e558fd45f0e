package migrations_test

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"meterhouse/etl/warehouse/warehousetest"
)

// What a BI tool learns of us, it learns as a guest with the rights of bi_reader, by questions of the
// kinds below. Two families ask differently: drivers (pgJDBC, psqlODBC, and what builds on them) read
// pg_catalog, which shows everything to everybody; Metabase reads primary keys from information_schema,
// which shows constraints only to those who have more on a table than select.

// biTables are the relations that a tool lists: those that may be read. A partition would be listed
// like a table.
const biTables = `
select n.nspname, c.relname,
    case c.relkind when 'r' then 'table' when 'p' then 'partitioned table' when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table' end,
    coalesce(d.description, '')
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
left join pg_description as d on d.objoid = c.oid and d.classoid = 'pg_class'::regclass and d.objsubid = 0
where c.relkind in ('r', 'p', 'v', 'm', 'f')
    and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    and has_schema_privilege(n.oid, 'usage')
    and (has_table_privilege(c.oid, 'select') or has_any_column_privilege(c.oid, 'select'))
order by n.nspname, c.relname collate "C"`

// biColumns are the columns with their types, keys and comments, as information_schema tells them.
const biColumns = `
select c.table_schema, c.table_name, c.column_name, c.udt_name,
    exists (
        select
        from information_schema.table_constraints as t
        join information_schema.key_column_usage as k using (constraint_schema, constraint_name, table_schema, table_name)
        where t.constraint_type = 'PRIMARY KEY' and t.table_schema = c.table_schema and t.table_name = c.table_name and k.column_name = c.column_name
    ),
    coalesce(col_description(format('%I.%I', c.table_schema, c.table_name)::regclass, c.ordinal_position), '')
from information_schema.columns as c
where c.table_schema !~ '^pg_' and c.table_schema <> 'information_schema'
order by c.table_schema, c.table_name collate "C", c.ordinal_position`

// biKeys are pairs of columns that a tool would link: every column of a foreign key with every column
// it refers to.
const biKeys = `
select format('%s.%I -> %s.%I', k.conrelid::regclass, a.attname, k.confrelid::regclass, b.attname)
from pg_constraint as k
join pg_class as c on c.oid = k.conrelid
join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = any (k.conkey)
join pg_attribute as b on b.attrelid = k.confrelid and b.attnum = any (k.confkey)
where k.contype = 'f' and not c.relispartition and has_table_privilege(k.conrelid, 'select') and has_table_privilege(k.confrelid, 'select')
order by format('%s.%I -> %s.%I', k.conrelid::regclass, a.attname, k.confrelid::regclass, b.attname) collate "C"`

func TestWhatBIToolsSee(t *testing.T) {
	t.Parallel()
	admin := warehousetest.Empty(t)
	up(t, admin)
	// Partitions of samples are made as months are loaded: there must be one to be hidden.
	owner := warehousetest.Connect(t, admin)
	if _, err := owner.Exec(t.Context(), `create table dw.fact_consumption_sample_2026_10 partition of dw.fact_consumption_sample for values from ('2026-10-01') to ('2026-11-01')`); err != nil {
		t.Fatal(err)
	}
	guest := warehousetest.Connect(t, warehousetest.Role(t, admin, "grant bi_reader to ROLE"))

	type column struct {
		schema, table, name, kind string
		isKey                     bool
		comment                   string
	}
	columns, err := pgx.CollectRows(query(t, guest, biColumns), func(row pgx.CollectableRow) (c column, err error) {
		err = row.Scan(&c.schema, &c.table, &c.name, &c.kind, &c.isKey, &c.comment)
		return c, err
	})
	if err != nil {
		t.Fatal(err)
	}
	type table struct{ schema, name, kind, comment string }
	tables, err := pgx.CollectRows(query(t, guest, biTables), func(row pgx.CollectableRow) (b table, err error) {
		err = row.Scan(&b.schema, &b.name, &b.kind, &b.comment)
		return b, err
	})
	if err != nil {
		t.Fatal(err)
	}

	var seen strings.Builder
	for _, b := range tables {
		fmt.Fprintf(&seen, "%s.%s (%s): %s\n", b.schema, b.name, b.kind, b.comment)
		if b.comment == "" && b.schema != "public" {
			t.Errorf("%s.%s: no comment reaches the tool", b.schema, b.name)
		}
		if b.kind == "materialized view" {
			t.Errorf("%s.%s: tools ignore the comments on columns of a materialized view: make it a table or a view", b.schema, b.name)
		}
		keys, listed := 0, 0
		for _, c := range columns {
			if c.schema != b.schema || c.table != b.name {
				continue
			}
			listed++
			key := ""
			if c.isKey {
				key = " key"
				keys++
			}
			fmt.Fprintf(&seen, "  %s %s%s: %s\n", c.name, c.kind, key, c.comment)
			switch {
			case b.schema == "public":
			case c.comment == "":
				t.Errorf("%s.%s.%s: no comment reaches the tool", b.schema, b.name, c.name)
			case !allowedKinds[c.kind] && !allowedColumns[b.name+"."+c.name]:
				t.Errorf("%s.%s.%s: %s: want %s", b.schema, b.name, c.name, c.kind, "date, timestamptz, numeric, a whole number, text or bool")
			case b.name == "subscription" && (c.name == "start_date" || c.name == "end_date"): // instants, as the vendor tells them
			case strings.HasSuffix(c.name, "_at") && c.kind != "timestamptz", strings.HasSuffix(c.name, "_date") && c.kind != "date",
				(strings.HasSuffix(c.name, "_tib") || c.name == "amount" || c.name == "quantity") && c.kind != "numeric":
				t.Errorf("%s.%s.%s: %s: want date for days, timestamptz for instants, numeric for quantities", b.schema, b.name, c.name, c.kind)
			}
		}
		if listed == 0 {
			t.Errorf("%s.%s is listed without a column", b.schema, b.name)
		}
		if strings.HasSuffix(b.kind, "table") && keys == 0 && b.schema != "public" {
			t.Errorf("%s.%s: the tool sees no primary key: want references granted beside select", b.schema, b.name)
		}
	}
	seen.WriteString("\npairs of columns that are linked\n")
	pairs := lines(t, guest, biKeys)
	for _, pair := range pairs {
		fmt.Fprintf(&seen, "  %s\n", pair)
	}
	none(t, guest, "two columns refer to one table together, which tools take for four links",
		`select conrelid::regclass || ' ' || conname from pg_constraint where contype = 'f' and cardinality(conkey) > 1 and has_table_privilege(conrelid, 'select') and conrelid::regclass::text like 'dw.%'`)

	golden := "testdata/bi.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(seen.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(seen.String(), "\n")); diff != "" {
		t.Errorf("what a BI tool sees has changed (-want +got); -update accepts it:\n%s", diff)
	}
}

// TestDrivers lets the PostgreSQL drivers for Java and ODBC tell what they see, where they are installed.
func TestDrivers(t *testing.T) {
	t.Parallel()
	admin := warehousetest.Empty(t)
	up(t, admin)
	login := warehousetest.Role(t, admin, "grant bi_reader to ROLE")
	u, err := url.Parse(login)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	// A quantity beyond what a float64 holds, a day, an instant and a text.
	const values = `select 12345678901234567.123456789012::numeric, date '2026-10-31', timestamptz '2026-10-31 23:30:00+00', 'Østerlund'`

	t.Run("jdbc", func(t *testing.T) {
		t.Parallel()
		jar := installed(t, "/usr/share/java/postgresql.jar")
		java, err := exec.LookPath("java")
		if err != nil || jar == "" {
			warehousetest.Lacking(t, "JAVA", "no java, or no /usr/share/java/postgresql.jar (package libpostgresql-jdbc-java)")
		}
		address := fmt.Sprintf("jdbc:postgresql://%s%s", u.Host, u.Path)
		out, err := exec.CommandContext(t.Context(), java, "-cp", jar, "testdata/drivers/Catalogue.java", address, u.User.Username(), password, values).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var got, links []string
		var value string
		for line := range strings.Lines(string(out)) {
			line = strings.TrimSuffix(line, "\n")
			switch {
			case strings.HasPrefix(line, "link "):
				links = append(links, "  "+strings.TrimPrefix(line, "link "))
			case strings.HasPrefix(line, "value "):
				value = strings.TrimPrefix(line, "value ")
			default:
				got = append(got, line)
			}
		}
		if want := "12345678901234567.123456789012 2026-10-31 2026-10-31T23:30:00Z Østerlund"; value != want {
			t.Errorf("values: got %q, want %q", value, want)
		}
		slices.Sort(got)
		golden := goldenColumns(t)
		slices.Sort(golden)
		if diff := cmp.Diff(golden, got); diff != "" {
			t.Errorf("columns (-testdata/bi.golden +driver):\n%s", diff)
		}
		slices.Sort(links)
		// The driver pairs the columns of a key of two one by one: the golden file has four links there.
		for _, link := range links {
			if !strings.Contains(goldenText(t), link+"\n") {
				t.Errorf("link %q is not in testdata/bi.golden", link)
			}
		}
		if len(links) < 20 {
			t.Errorf("%d links, want those of testdata/bi.golden", len(links))
		}
	})

	t.Run("odbc", func(t *testing.T) {
		t.Parallel()
		driver := installed(t, "/usr/lib/*/odbc/psqlodbcw.so", "/usr/lib/psqlodbcw.so")
		isql, err := exec.LookPath("isql")
		if err != nil || driver == "" {
			warehousetest.Lacking(t, "ODBC", "no isql, or no psqlodbcw.so (packages unixodbc and odbc-postgresql)")
		}
		source := fmt.Sprintf("DRIVER=%s;SERVER=%s;PORT=%s;DATABASE=%s;UID=%s;PWD=%s", driver, u.Hostname(), u.Port(), strings.TrimPrefix(u.Path, "/"), u.User.Username(), password)
		ask := func(question string) string {
			t.Helper()
			cmd := exec.CommandContext(t.Context(), isql, "-k", source, "-b", "-d|")
			cmd.Stdin = strings.NewReader(question + "\n")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v\n%s", question, err, out)
			}
			return string(out)
		}
		if got := ask(values); !strings.Contains(got, "12345678901234567.123456789012|2026-10-31|2026-10-31 23:30:00") || !strings.Contains(got, "Østerlund") {
			t.Errorf("values: got %s", got)
		}
		tables := ask("help")
		for _, view := range lines(t, warehousetest.Connect(t, login), `select viewname::text from pg_views where schemaname = 'mart'`) {
			if !strings.Contains(tables, "|mart|"+view+"|VIEW|") {
				t.Errorf("mart.%s is not listed", view)
			}
		}
	})
}

// installed is the first file there is, or nothing.
func installed(t *testing.T, patterns ...string) string {
	t.Helper()
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if len(files) > 0 {
			return files[0]
		}
	}
	return ""
}

func goldenText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/bi.golden")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// goldenColumns are the columns of the golden file as "schema.table.column type: comment".
func goldenColumns(t *testing.T) (list []string) {
	t.Helper()
	table := ""
	for line := range strings.Lines(goldenText(t)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "":
			return list
		case strings.HasPrefix(line, "  ") && !strings.HasPrefix(table, "public."):
			list = append(list, table+"."+strings.TrimPrefix(line, "  "))
		case !strings.HasPrefix(line, " "):
			table, _, _ = strings.Cut(line, " ")
		}
	}
	return list
}

// allowedKinds are the types that every tool charts, filters and compares.
var allowedKinds = map[string]bool{"text": true, "numeric": true, "int4": true, "int8": true, "date": true, "timestamptz": true, "bool": true}

// allowedColumns are exceptions: hashes, and a distance in time that has a number beside it.
var allowedColumns = map[string]bool{
	"freshness.lag":                         true,
	"chain.previous_hash":                   true,
	"chain.hash":                            true,
	"closed_line.sha256":                    true,
	"closed_day.sha256":                     true,
	"settled.fingerprint":                   true,
	"restatement.digest":                    true,
	"fact_daily_consumption.digest":         true,
	"fact_daily_consumption.pending_digest": true,
}

// A guest who may only select sees no keys: what the grant of references is for.
func TestSelectAloneHidesKeys(t *testing.T) {
	t.Parallel()
	admin := warehousetest.Empty(t)
	up(t, admin)
	guest := warehousetest.Connect(t, warehousetest.Role(t, admin, "grant usage on schema dw to ROLE", "grant select on dw.dim_customer to ROLE"))
	if keys := lines(t, guest, `select column_name::text from (`+biColumns+`) as c (table_schema, table_name, column_name, udt_name, is_key, comment) where is_key`); len(keys) > 0 {
		t.Errorf("got keys %q, want none: then references need not be granted", keys)
	}
}

func query(t *testing.T, conn *pgx.Conn, sql string) pgx.Rows {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}
