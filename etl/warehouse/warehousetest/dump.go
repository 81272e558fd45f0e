package warehousetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Dump is everything that was loaded into the warehouse at url, one row a line: all columns of facts,
// dimensions and ledger, coverage, watermarks and quarantine, found in the catalogue. Two warehouses that were told the same
// have equal dumps, however often the loading was interrupted: surrogate keys stand as what they
// mean, numerics without trailing zeros, times in UTC; left out is which run and which payload a row came from.
func Dump(t testing.TB, url string) []string {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatalf("dump: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "set timezone to 'UTC'; set datestyle to 'ISO'"); err != nil {
		t.Fatalf("dump: %v", err)
	}
	rows, err := conn.Query(ctx, `
		select c.oid::regclass::text, array_agg(a.attname::text order by a.attnum), array_agg(format_type(a.atttypid, null) order by a.attnum)
		from pg_class as c
		join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		where c.relkind in ('r', 'p') and not c.relispartition
			and (c.relnamespace = 'dw'::regnamespace and c.relname <> 'dim_date'
				or c.oid in ('ops.coverage'::regclass, 'ops.watermark'::regclass, 'ops.quarantine'::regclass, 'ops.clock'::regclass))
		group by c.oid order by 1`)
	if err != nil {
		t.Fatalf("dump: %v", err)
	}
	type table struct {
		name           string
		columns, types []string
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (x table, err error) {
		return x, row.Scan(&x.name, &x.columns, &x.types)
	})
	if err != nil {
		t.Fatalf("dump: %v", err)
	}
	var all []string
	for _, x := range tables {
		var parts []string
		for i, column := range x.columns {
			if expression := dumped(x.name, column, x.types[i]); expression != "" {
				parts = append(parts, fmt.Sprintf("coalesce((%s)::text, '∅')", expression))
			}
		}
		sql := fmt.Sprintf(`select row from (select %s || concat_ws('|', %s) as row from %s as t) as x order by row collate "C"`,
			"'"+x.name+" '", strings.Join(parts, ", "), x.name)
		if x.name == "ops.quarantine" { // an answer that was asked for twice is refused twice
			sql = strings.Replace(sql, "(select ", "(select distinct ", 1)
		}
		rows, err := conn.Query(ctx, sql)
		if err != nil {
			t.Fatalf("dump %s: %v", x.name, err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("dump %s: %v", x.name, err)
		}
		all = append(all, lines...)
	}
	return all
}

// dumped is the expression for a column of a dump, empty when it is left out.
func dumped(table, column, kind string) string {
	switch column {
	case "customer_key":
		return "select customer_id from dw.dim_customer as k where k.customer_key = t.customer_key"
	case "subscription_key":
		return "select subscription_number || '/' || discriminator from dw.dim_subscription as k where k.subscription_key = t.subscription_key"
	case "service_level_key":
		return `select subscription_number || '/' || discriminator || '/' || service_level || '/' || level_ordinal
			from dw.dim_service_level as k join dw.dim_subscription using (subscription_key) where k.service_level_key = t.service_level_key`
	case "operation_key":
		return "select account || '/' || operation from dw.dim_operation as k where k.operation_key = t.operation_key"
	case "product_key":
		return "select api from dw.dim_product as k where k.product_key = t.product_key"
	case "run_id", "last_run_id", "payload_id", "restatement_id", "quarantine_id", "decided_at":
		return ""
	}
	if table == "ops.quarantine" && (column == "path" || column == "window_from" || column == "window_until") {
		return "" // another window has other paths
	}
	switch kind {
	case "numeric":
		return "trim_scale(t." + column + ")"
	case "bytea":
		return "encode(t." + column + ", 'hex')"
	}
	return "t." + column
}

// Difference says how two dumps differ, in at most a few lines; empty when they do not.
func Difference(want, got []string) string {
	if slices.Equal(want, got) {
		return ""
	}
	count := map[string]int{}
	for _, row := range want {
		count[row]--
	}
	for _, row := range got {
		count[row]++
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d rows, want %d\n", len(got), len(want))
	shown := 0
	for _, rows := range [][]string{want, got} {
		for _, row := range rows {
			n := count[row]
			if n == 0 {
				continue
			}
			count[row] = 0
			if shown++; shown > 20 {
				b.WriteString("…\n")
				return b.String()
			}
			fmt.Fprintf(&b, "%+d %s\n", n, row)
		}
	}
	return b.String()
}
