package migrations_test

import (
	"context"
	"flag"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/migrations"
)

func TestMain(m *testing.M) { warehousetest.Main(m) }

var update = flag.Bool("update", false, "rewrite testdata/schema.golden and docs/data-dictionary.md")

func up(t *testing.T, url string) {
	t.Helper()
	if _, notes, err := migrations.Up(context.Background(), url); err != nil || len(notes) > 0 {
		t.Fatalf("up: %v, notes %q", err, notes)
	}
}

func lines(t *testing.T, conn *pgx.Conn, sql string) []string {
	t.Helper()
	rows, err := conn.Query(context.Background(), sql)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func none(t *testing.T, conn *pgx.Conn, what, sql string) {
	t.Helper()
	for _, line := range lines(t, conn, sql) {
		t.Errorf("%s: %s", what, line)
	}
}

// catalogue is the schema as text: what the golden file holds and what up, down, up must leave.
const catalogue = `
with ours as (
    select c.oid, n.nspname, c.relname, c.relkind, c.reloptions
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname in ('raw', 'ops', 'dw', 'mart', 'billing', 'river') or c.relname like 'meterhouse%'
),
line as (
select format('%s.%s %s %s', nspname, relname, relkind, coalesce(array_to_string(reloptions, ','), '')) as line from ours where relkind in ('r', 'p', 'v')
union all
select format('%s.%s.%s %s%s%s', o.nspname, o.relname, a.attname, format_type(a.atttypid, a.atttypmod),
    case when a.attnotnull then ' not null' else '' end, coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), ''))
from ours as o join pg_attribute as a on a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef as d on d.adrelid = o.oid and d.adnum = a.attnum
where o.relkind in ('r', 'p', 'v')
union all
select format('%s.%s constraint %s %s', o.nspname, o.relname, k.conname, pg_get_constraintdef(k.oid)) from ours as o join pg_constraint as k on k.conrelid = o.oid where k.contype <> 'n'
union all
select format('index %s', pg_get_indexdef(i.indexrelid)) from ours as o join pg_index as i on i.indrelid = o.oid
union all
select format('function %s.%s(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace where n.nspname in ('raw', 'ops', 'dw', 'mart', 'billing')
union all
select format('trigger %s', pg_get_triggerdef(t.oid)) from ours as o join pg_trigger as t on t.tgrelid = o.oid where not t.tgisinternal
)
select line from line order by line collate "C"`

func TestUpDownUpLeavesTheSameCatalogue(t *testing.T) {
	db := warehousetest.Empty(t)
	up(t, db)
	conn := warehousetest.Connect(t, db)
	first := lines(t, conn, catalogue)
	undone, err := migrations.Down(t.Context(), db, 0)
	if err != nil || len(undone) != known(t, db) {
		t.Fatalf("down: %d undone, %v", len(undone), err)
	}
	none(t, conn, "left behind by down", `select nspname || '.' || relname from pg_class join pg_namespace as n on n.oid = relnamespace
		where nspname in ('raw', 'ops', 'dw', 'mart', 'billing', 'river')`)
	up(t, db)
	if diff := cmp.Diff(first, lines(t, conn, catalogue)); diff != "" {
		t.Errorf("up, down, up changed the catalogue (-first +second):\n%s", diff)
	}
}

// known is how many migrations there are: numbers may be left out.
func known(t *testing.T, db string) int {
	t.Helper()
	states, err := migrations.Status(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return len(states)
}

// Decisions about absent days were of a number: with 00021 each subscription that shares it has them, and back is
// only where none does.
func TestDecisionsOfASharedNumber(t *testing.T) {
	db := warehousetest.Empty(t)
	up(t, db)
	if _, err := migrations.Down(t.Context(), db, 20); err != nil {
		t.Fatal(err)
	}
	conn := warehousetest.Connect(t, db)
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`insert into dw.dim_customer (customer_key, customer_id, account, first_seen_at, seen_at) overriding system value values (1, 'C-1', 'acme', now(), now());
		insert into dw.dim_subscription (subscription_key, customer_key, subscription_number, discriminator, first_seen_at) overriding system value
			values (1, 1, 'A-1', '', now()), (2, 1, 'A-1', '2026-02-01', now()), (3, 1, 'A-1', '2026-03-01', now());
		insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_class) overriding system value
			values (1, 1, 1, 'Extreme', 'base'), (2, 1, 2, 'Extreme', 'base'), (3, 1, 3, 'Premium', 'base');
		insert into billing.absence (customer_id, subscription_number, service_level, first_day, last_day, decision, reason, known_since, superseded_at)
			values ('C-1', 'A-1', 'Extreme', '2026-01-01', '2026-01-31', 'drop', 'r', '2026-02-01', '2026-02-02'),
				('C-1', 'A-1', 'Extreme', '2026-01-01', '2026-01-15', 'keep', 'r', '2026-02-02', null)`)
	up(t, db)
	want := []string{" drop f", " keep t", "2026-02-01 drop f", "2026-02-01 keep t"}
	if diff := cmp.Diff(want, lines(t, conn, `select format('%s %s %s', discriminator, decision, superseded_at is null) from billing.absence order by 1`)); diff != "" {
		t.Errorf("decisions (-want +got):\n%s", diff)
	}
	if _, err := migrations.Down(t.Context(), db, 20); err == nil || !strings.Contains(err.Error(), "irreversible: 00021") {
		t.Errorf("down: got %v, want a refusal", err)
	}
}

func TestSchemaGolden(t *testing.T) {
	conn := warehousetest.Connect(t, warehousetest.New(t))
	got := strings.Join(lines(t, conn, catalogue), "\n") + "\n"
	const golden = "testdata/schema.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the schema changed (-golden +now); go test ./migrations -update rewrites it:\n%s", diff)
	}
}

func TestConcurrentStarters(t *testing.T) {
	for range 3 {
		db := warehousetest.Empty(t)
		var wg sync.WaitGroup
		errs := make([]error, 6)
		for i := range errs {
			wg.Add(1)
			go func() {
				defer wg.Done()
				_, _, errs[i] = migrations.Up(context.Background(), db)
			}()
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
		conn := warehousetest.Connect(t, db)
		if v, err := migrations.Version(t.Context(), conn); err != nil || v != migrations.Head() {
			t.Errorf("version %d, %v; want %d", v, err, migrations.Head())
		}
	}
}

func TestUpRefusesANewerSchema(t *testing.T) {
	db := warehousetest.New(t)
	if _, err := warehousetest.Connect(t, db).Exec(t.Context(), `insert into public.meterhouse_schema_version (version_id, is_applied) values (99999, true)`); err != nil {
		t.Fatal(err)
	}
	if _, _, err := migrations.Up(t.Context(), db); err == nil || !strings.Contains(err.Error(), "use the newer binary") {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestStatus(t *testing.T) {
	db := warehousetest.Empty(t)
	states, err := migrations.Status(t.Context(), db)
	if err != nil || states[len(states)-1].Version != migrations.Head() || !states[0].AppliedAt.IsZero() {
		t.Fatalf("before: %v, %v", states, err)
	}
	up(t, db)
	states, err = migrations.Status(t.Context(), db)
	if err != nil || states[len(states)-1].AppliedAt.IsZero() {
		t.Fatalf("after: %v, %v", states, err)
	}
}

const ours = ` from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
	where (n.nspname in ('raw', 'ops', 'dw', 'mart', 'billing', 'river') or c.relname like 'meterhouse%') and c.relkind in ('r', 'p', 'v', 'm') and not c.relispartition `

// The lints: rules of the design that the catalogue itself can answer for.
func TestCatalogueLints(t *testing.T) {
	conn := warehousetest.Connect(t, warehousetest.New(t))
	const fact = `(n.nspname = 'dw' and (c.relname like 'fact\_%' or c.relname = 'restatement') and c.relkind in ('r', 'p'))`

	none(t, conn, "schema without comment", `select nspname from pg_namespace where nspname in ('raw', 'ops', 'dw', 'mart', 'billing', 'river') and obj_description(oid, 'pg_namespace') is null`)
	none(t, conn, "relation without comment", `select n.nspname || '.' || c.relname `+ours+` and obj_description(c.oid, 'pg_class') is null`)
	none(t, conn, "comment that does not begin with the grain", `select n.nspname || '.' || c.relname `+ours+` and obj_description(c.oid, 'pg_class') not like 'Grain: %'`)
	none(t, conn, "column without comment", `select n.nspname || '.' || c.relname || '.' || a.attname from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
		join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		where (n.nspname in ('raw', 'ops', 'dw', 'mart', 'billing', 'river') or c.relname like 'meterhouse%') and c.relkind in ('r', 'p', 'v') and not c.relispartition
			and col_description(c.oid, a.attnum) is null`)
	none(t, conn, "function without comment", `select n.nspname || '.' || p.proname from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
		where n.nspname in ('raw', 'ops', 'dw', 'mart', 'billing') and obj_description(p.oid, 'pg_proc') is null`)
	none(t, conn, "table without primary key", `select n.nspname || '.' || c.relname `+ours+` and c.relkind in ('r', 'p')
		and not exists (select from pg_constraint as k where k.conrelid = c.oid and k.contype = 'p')`)
	none(t, conn, "fact whose unique index does not start with its distribution key", `select i.indexrelid::regclass::text from pg_index as i
		join pg_class as c on c.oid = i.indrelid join pg_namespace as n on n.oid = c.relnamespace
		join pg_attribute as a on a.attrelid = c.oid and a.attnum = i.indkey[0]
		where `+fact+` and i.indisunique and a.attname not in ('customer_key', 'operation_key')`)
	none(t, conn, "fact whose distribution key may be null", `select c.relname || '.' || a.attname from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
		join pg_attribute as a on a.attrelid = c.oid where `+fact+` and a.attname in ('customer_key', 'operation_key') and not a.attnotnull`)
	none(t, conn, "fact with a foreign key of several columns or to something else than a dimension", `select k.conname from pg_constraint as k
		join pg_class as c on c.oid = k.conrelid join pg_namespace as n on n.oid = c.relnamespace
		where `+fact+` and k.contype = 'f' and (array_length(k.conkey, 1) <> 1 or k.confrelid::regclass::text not like 'dw.dim\_%')`)
	none(t, conn, "foreign key column without a dimension behind it", `select c.relname || '.' || a.attname from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
		join pg_attribute as a on a.attrelid = c.oid and a.attname like '%\_key' and a.attnum > 0
		where `+fact+` and not c.relispartition and not exists (select from pg_constraint as k where k.conrelid = c.oid and k.contype = 'f' and k.conkey = array[a.attnum])`)
	none(t, conn, "trigger on a fact", `select g.tgname::text from pg_trigger as g join pg_class as c on c.oid = g.tgrelid
		join pg_namespace as n on n.oid = c.relnamespace where `+fact+` and not g.tgisinternal`)
	none(t, conn, "fact without fillfactor 90", `select c.relname from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
		where n.nspname = 'dw' and c.relname like 'fact\_%' and c.relkind = 'r' and not coalesce(c.reloptions, '{}') @> '{fillfactor=90}'`)
	none(t, conn, "floating point column", `select c.relname || '.' || a.attname `+strings.Replace(ours, "where", "join pg_attribute as a on a.attrelid = c.oid where", 1)+`
		and a.atttypid in ('real'::regtype, 'double precision'::regtype)`)
	none(t, conn, "numeric with a precision", `select c.relname || '.' || a.attname `+strings.Replace(ours, "where", "join pg_attribute as a on a.attrelid = c.oid where", 1)+`
		and a.atttypid = 'numeric'::regtype and a.atttypmod <> -1`)
	none(t, conn, "timestamp without zone", `select c.relname || '.' || a.attname `+strings.Replace(ours, "where", "join pg_attribute as a on a.attrelid = c.oid where", 1)+`
		and a.atttypid = 'timestamp'::regtype and c.relname <> 'meterhouse_schema_version'`)
	none(t, conn, "JSON or enum shown to BI", `select c.relname || '.' || a.attname `+strings.Replace(ours, "where", "join pg_attribute as a on a.attrelid = c.oid join pg_type as y on y.oid = a.atttypid where", 1)+`
		and n.nspname = 'mart' and (y.typtype = 'e' or y.typname in ('json', 'jsonb'))`)
	none(t, conn, "numeric fact column that NaN or infinity may enter", `select c.relname || '.' || a.attname from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
		join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
		where n.nspname = 'dw' and c.relname like 'fact\_%' and not c.relispartition and a.atttypid = 'numeric'::regtype and not exists (
			select from pg_constraint as k where k.conrelid = c.oid and k.contype = 'c' and a.attnum = any (k.conkey)
				and pg_get_constraintdef(k.oid) like '%' || a.attname || ' < ''Infinity''%')`)
}

func TestNaNAndInfinityStayOut(t *testing.T) {
	conn := warehousetest.Connect(t, warehousetest.New(t))
	for _, v := range []string{"NaN", "Infinity", "-Infinity"} {
		_, err := conn.Exec(t.Context(), `insert into dw.fact_daily_consumption (customer_key, service_level_key, usage_date, sample_count, committed_tib,
			consumed_avg_tib, consumed_max_tib, consumed_last_tib, over_committed_avg_tib, invoiced_samples, uninvoiced_samples, known_since, payload_id, run_id)
			values (1, 1, '2026-01-01', 1, 1, $1::text::numeric, 1, 1, 0, 0, 0, now(), 1, 1)`, v)
		if err == nil || !strings.Contains(err.Error(), "fact_daily_consumption_finite") {
			t.Errorf("%s: got %v, want a violation of fact_daily_consumption_finite", v, err)
		}
	}
}

// TestReader looks at the warehouse as bi_reader does.
func TestReader(t *testing.T) {
	db := warehousetest.New(t)
	conn := warehousetest.Connect(t, db)
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`create table dw.fact_consumption_sample_2026_01 partition of dw.fact_consumption_sample for values from ('2026-01-01') to ('2026-02-01')`)
	up(t, db) // grants again, with a partition there

	none(t, conn, "mart or dw relation that bi_reader cannot read or refer to", `select n.nspname || '.' || c.relname `+ours+`
		and n.nspname in ('mart', 'dw') and not (has_table_privilege('bi_reader', c.oid, 'select') and has_table_privilege('bi_reader', c.oid, 'references'))`)
	none(t, conn, "relation that bi_reader should not see", `select n.nspname || '.' || c.relname from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
		where c.relkind in ('r', 'p', 'v') and (n.nspname in ('raw', 'ops') or c.relispartition and n.nspname = 'dw')
			and has_any_column_privilege('bi_reader', c.oid, 'select, insert, update, references')`)
	none(t, conn, "schema that bi_reader should not enter", `select nspname::text from pg_namespace where nspname in ('raw', 'ops') and has_schema_privilege('bi_reader', oid, 'usage')`)
	none(t, conn, "relation that bi_reader may change", `select n.nspname || '.' || c.relname `+ours+` and has_table_privilege('bi_reader', c.oid, 'insert, update, delete, truncate')`)

	exec(`set role bi_reader`)
	for _, view := range lines(t, conn, `select format('%I.%I', schemaname, viewname) from pg_views where schemaname = 'mart' order by 1`) {
		exec(`select * from ` + view)
	}
	exec(`select * from dw.daily_consumption_as_of(now())`)
	if _, err := conn.Exec(t.Context(), `select * from ops.credential`); err == nil {
		t.Error("bi_reader reads ops.credential")
	}
}

// TestWithoutCreateRole migrates as an owner who may not create roles, as managed Postgres has them.
func TestWithoutCreateRole(t *testing.T) {
	db := warehousetest.Empty(t)
	conn := warehousetest.Connect(t, db)
	var name string
	if err := conn.QueryRow(t.Context(), `select current_database()`).Scan(&name); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`drop role if exists plain_owner_` + name, `create role plain_owner_` + name + ` login password 'made-up'`,
		`alter database ` + name + ` owner to plain_owner_` + name,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		admin, err := pgx.Connect(context.Background(), db)
		if err == nil {
			admin.Exec(context.Background(), `reassign owned by plain_owner_`+name+` to current_user`)
			admin.Exec(context.Background(), `drop owned by plain_owner_`+name)
			admin.Exec(context.Background(), `drop role plain_owner_`+name)
			admin.Close(context.Background())
		}
	})
	u, err := url.Parse(db)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("plain_owner_"+name, "made-up")
	if _, _, err := migrations.Up(t.Context(), u.String()); err != nil {
		t.Fatalf("as plain owner: %v", err)
	}
}

// Whatever has a search path of its own names pg_temp at its end: types and relations of pg_temp come first
// where it is not named, and some of these functions have the rights of their owner.
func TestTemporaryObjectsComeLast(t *testing.T) {
	conn := warehousetest.Connect(t, warehousetest.New(t))
	none(t, conn, "function that would use a caller's temporary types", `
		select p.oid::regprocedure || ': ' || coalesce(setting, 'no search_path')
		from pg_proc as p
		join pg_namespace as n on n.oid = p.pronamespace
		left join unnest(p.proconfig) as setting on setting like 'search_path=%'
		where n.nspname in ('raw', 'ops', 'dw', 'mart', 'billing') and (p.prosecdef or setting is not null) and setting is distinct from 'search_path=pg_catalog, pg_temp'`)
}
