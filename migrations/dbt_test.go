package migrations_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"meterhouse/etl/warehouse/warehousetest"
)

const (
	subscriptionKey = "customer_id, subscription_number, discriminator"
	levelKey        = subscriptionKey + ", service_level, level_ordinal"
	licenseKey      = "account, operation, product, description"
)

// martKeys are the columns by which a row of a view is the only one: what its comment calls the grain. The
// catalogue knows keys of tables only. They are asked of the demo in TestDBTSources of cmd/meterhouse.
var martKeys = map[string]string{
	"accrued_check":      levelKey + ", month",
	"accrued_evidence":   "account, month",
	"adjustment":         "period, adjusts_period, source, account, " + subscriptionKey + ", item, description, charge, is_waiver, usage_date, reason, known_since, state",
	"alert":              "alert_key",
	"commitment":         levelKey + ", valid_from",
	"coverage":           "dataset, account, " + levelKey + ", product, day",
	"daily_consumption":  levelKey + ", usage_date",
	"daily_utilisation":  levelKey + ", usage_date",
	"deadline":           "kind, account, customer_id, subscription_number, discriminator, clock, due_at",
	"dim_date":           "calendar_date",
	"freshness":          "dataset, scope",
	"invoice_line":       "source, invoice_number, line_number",
	"license_high_water": licenseKey + ", month",
	"license_month":      "account, month",
	"license_snapshot":   licenseKey + ", snapshot_date",
	"month":              levelKey + ", month",
	"monthly_burst":      levelKey + ", month",
	"payload":            "payload_id",
	"quarantine":         "quarantine_id",
	"restatement":        "version_number, column_name",
	"run":                "run_id",
	"service_level":      levelKey + ", read_at, fetched_at",
	"statement":          "period_start, source, account, " + subscriptionKey + ", item, description, charge, is_waiver, rate_id, segment_from",
	"subscription":       subscriptionKey + ", valid_from",
}

// martValues are the columns of views that have a fixed set of values. The comment of each tells all.
var martValues = map[string]string{
	"accrued_check.reading":         "increment running",
	"accrued_evidence.reading":      "increment running",
	"adjustment.reason":             "restated late absent rate_changed calendar_changed terms_changed accrued_reading_changed rule_changed reopened",
	"adjustment.state":              "closed open",
	"alert.severity":                "warn page",
	"coverage.source":               "keystone wolkvox",
	"coverage.status":               "observed partial empty missing lost not_due",
	"commitment.level_class":        "base add_on unclassified",
	"daily_consumption.level_class": "base add_on unclassified",
	"daily_utilisation.level_class": "base add_on unclassified",
	"daily_utilisation.status":      "observed partial missing not_due",
	"deadline.kind":                 "token_idle token_login subscription_end license_month calendar_ends",
	"freshness.source":              "keystone wolkvox",
	"freshness.status":              "ok late failing never",
	"invoice_line.charge":           "committed burst license usage other",
	"invoice_line.source":           "keystone wolkvox",
	"license_high_water.kind":       "gauge counter",
	"license_month.state":           "open at_risk complete lost",
	"license_snapshot.kind":         "gauge counter",
	"month.level_class":             "base add_on unclassified",
	"monthly_burst.level_class":     "base add_on unclassified",
	"restatement.kind":              "restated late reread",
	"run.status":                    "running ok partial failed",
	"service_level.level_class":     "base add_on unclassified",
	"statement.charge":              "committed burst license usage",
	"statement.level_class":         "base add_on unclassified",
	"statement.source":              "keystone wolkvox",
	"statement.state":               "provisional final closed",
}

// freshness tells what has to be young and how young, for the schedules that are set by default: wolkvox
// every half hour, readings of the present every six hours, history once a day.
var freshness = map[string]struct {
	column, filter string
	warn, fail     int // hours
}{
	"mart.daily_consumption": {column: "known_since", warn: 36, fail: 72},
	"mart.license_snapshot":  {column: "read_at", filter: "not is_imported", warn: 2, fail: 24},
	"mart.run":               {column: "finished_at", filter: "status in ('ok', 'partial')", warn: 2, fail: 12},
	"mart.service_level":     {column: "fetched_at", warn: 12, fail: 36},
}

// dbtSources are the schemas that bi_reader reads, by the name of the source.
var dbtSources = []struct{ name, schema string }{
	{"meterhouse", "mart"}, {"meterhouse_billing", "billing"}, {"meterhouse_dw", "dw"},
}

const dbtHead = `# Sources for dbt, from 1.10 on: docs/connect.md says how to use them. Generated from a migrated database by
# ` + "`go test ./migrations -update`" + `, and a test fails while the two differ. Descriptions are the comments of the
# database; tests are its keys and checks, of views their grain; freshness fits the schedules that are set by default.
version: 2

sources:
`

// dbtConstraints are the foreign keys and checks of one column each.
const dbtConstraints = `
select k.contype::text, a.attname::text, coalesce(k.confrelid::regclass::text, ''), coalesce(b.attname::text, ''), pg_get_constraintdef(k.oid)
from pg_constraint as k
join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
left join pg_attribute as b on b.attrelid = k.confrelid and b.attnum = k.confkey[1]
where k.conrelid = $1::text::regclass and k.contype in ('f', 'c', 'u') and k.conparentid = 0 and cardinality(k.conkey) = 1
order by a.attnum, k.conname`

// oneOf is a check that a column has one of some texts, as Postgres spells it.
var oneOf = regexp.MustCompile(`^CHECK \(\((\w+) = ANY \(ARRAY\[(.*)\]\)\)\)$`)

// dbtColumn are the tests of a column.
type dbtColumn struct {
	notNull, unique bool
	refersTo, field string // table with its schema, and its column
	values          []string
}

// dbt describes what bi_reader reads as sources of dbt.
func dbt(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	var w strings.Builder
	w.WriteString(dbtHead)
	source := map[string]string{}
	for _, s := range dbtSources {
		source[s.schema] = s.name
	}
	for _, s := range dbtSources {
		comment := strings.Join(lines(t, conn, `select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = '`+s.schema+`'`), "")
		fmt.Fprintf(&w, "  - name: %s\n    schema: %s\n    description: %s\n    tables:\n", s.name, s.schema, yamlText(t, comment))
		for _, r := range all(t, conn, dictionaryRelations, s.schema, func(row pgx.CollectableRow, r *dictionaryRelation) error {
			return row.Scan(&r.Name, &r.Kind, &r.Comment, &r.PrimaryKey)
		}) {
			_, name, _ := strings.Cut(r.Name, ".")
			r.Columns = all(t, conn, dictionaryColumns, r.Name, func(row pgx.CollectableRow, c *dictionaryColumn) error {
				return row.Scan(&c.Name, &c.Type, &c.Comment, &c.MayBeNull, &c.References)
			})
			tests := map[string]*dbtColumn{}
			for _, c := range r.Columns {
				tests[c.Name] = &dbtColumn{}
			}
			key := r.PrimaryKey
			if r.Kind == "view" {
				key = strings.Split(martKeys[name], ", ")
				for _, column := range key {
					if tests[column] == nil {
						t.Fatalf("%s: martKeys names %q, which is no column of it", r.Name, column)
					}
				}
				for column, values := range martValues {
					if view, column, _ := strings.Cut(column, "."); view == name {
						tests[column].values = strings.Fields(values)
					}
				}
			}
			for _, k := range all(t, conn, dbtConstraints, r.Name, func(row pgx.CollectableRow, k *[5]string) error {
				return row.Scan(&k[0], &k[1], &k[2], &k[3], &k[4])
			}) {
				c := tests[k[1]]
				switch k[0] {
				case "f":
					if schema, _, _ := strings.Cut(k[2], "."); source[schema] != "" {
						c.refersTo, c.field = k[2], k[3]
					}
				case "u":
					c.unique = true
				case "c":
					if m := oneOf.FindStringSubmatch(k[4]); m != nil {
						for value := range strings.SplitSeq(m[2], ", ") {
							c.values = append(c.values, strings.Trim(strings.TrimSuffix(value, "::text"), "'"))
						}
					}
				}
			}
			if len(key) == 1 {
				tests[key[0]].unique, tests[key[0]].notNull = true, true
			} else if r.Kind == "table" {
				for _, column := range key {
					tests[column].notNull = true
				}
			}
			r.dbt(t, &w, name, key, tests, source)
		}
	}
	return w.String()
}

func (r dictionaryRelation) dbt(t *testing.T, w *strings.Builder, name string, key []string, tests map[string]*dbtColumn, source map[string]string) {
	fmt.Fprintf(w, "      - name: %s\n        description: %s\n", name, yamlText(t, r.Comment))
	if f, ok := freshness[r.Name]; ok {
		fmt.Fprintf(w, "        config:\n          loaded_at_field: %s\n          freshness:\n", f.column)
		fmt.Fprintf(w, "            warn_after: {count: %d, period: hour}\n            error_after: {count: %d, period: hour}\n", f.warn, f.fail)
		if f.filter != "" {
			fmt.Fprintf(w, "            filter: %s\n", yamlText(t, f.filter))
		}
	}
	if len(key) > 1 {
		// A row as text, since what is unknown has its place in a key, too.
		fmt.Fprintf(w, "        data_tests:\n          - unique:\n              name: %s_key\n              arguments: {column_name: \"row(%s)::text\"}\n",
			strings.ReplaceAll(r.Name, ".", "_"), strings.Join(key, ", "))
		if r.Name == "dw.fact_consumption_sample" { // too many to count them all, and its key lets no second one in
			fmt.Fprint(w, "              config: {where: \"sampled_at >= now() - interval '3 days'\"}\n")
		}
	}
	fmt.Fprint(w, "        columns:\n")
	for _, c := range r.Columns {
		fmt.Fprintf(w, "          - name: %s\n            description: %s\n            data_type: %s\n", c.Name, yamlText(t, c.Comment), shortType(c.Type))
		var list []string
		test := tests[c.Name]
		if test.unique {
			list = append(list, "unique")
		}
		if test.notNull {
			list = append(list, "not_null")
		}
		if len(test.values) > 0 {
			list = append(list, fmt.Sprintf("accepted_values: {arguments: {values: [%s]}}", strings.Join(test.values, ", ")))
		}
		if schema, table, ok := strings.Cut(test.refersTo, "."); ok {
			list = append(list, fmt.Sprintf("relationships: {arguments: {to: \"source('%s', '%s')\", field: %s}}", source[schema], table, test.field))
		}
		if len(list) > 0 {
			fmt.Fprint(w, "            data_tests:\n")
			for _, test := range list {
				fmt.Fprintf(w, "              - %s\n", test)
			}
		}
	}
}

// yamlText is a text as YAML and dbt read it: dbt takes braces in descriptions for its own.
func yamlText(t *testing.T, text string) string {
	t.Helper()
	if strings.Contains(text, "{{") || strings.Contains(text, "{%") || strings.Contains(text, "{#") {
		t.Errorf("dbt would run a part of %q", text)
	}
	var w strings.Builder
	e := json.NewEncoder(&w) // a text of JSON is one of YAML
	e.SetEscapeHTML(false)
	if err := e.Encode(text); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(w.String())
}

// TestDBTSources holds docs/dbt/models/sources.yml to the catalogue.
func TestDBTSources(t *testing.T) {
	conn := warehousetest.Connect(t, warehousetest.New(t))
	for _, view := range martViews(t, conn) {
		if martKeys[view] == "" {
			t.Fatalf("mart.%s: martKeys lacks it: say by which columns a row is the only one", view)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(martValues)) {
		view, column, _ := strings.Cut(name, ".")
		comment := strings.Join(lines(t, conn, `select col_description(attrelid, attnum) from pg_attribute where attrelid = 'mart.`+view+`'::regclass and attname = '`+column+`'`), "")
		for value := range strings.FieldsSeq(martValues[name]) {
			if !strings.Contains(comment, value) {
				t.Errorf("mart.%s: martValues has %s, the comment has not: %s", name, value, comment)
			}
		}
	}
	none(t, conn, "time that is asked for freshness is none", `select column_name::text from (values `+freshnessColumns()+`) as f (name, asked)
		left join information_schema.columns as c on c.table_schema || '.' || c.table_name = f.name and c.column_name = f.asked
		where c.data_type is distinct from 'timestamp with time zone'`)
	got := dbt(t, conn)
	const file = "../docs/dbt/models/sources.yml"
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

func freshnessColumns() string {
	var list []string
	for name, f := range freshness {
		list = append(list, fmt.Sprintf("('%s', '%s')", name, f.column))
	}
	return strings.Join(list, ", ")
}
