package migrations_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// drawn are the views of the picture, each with what one mostly wants of it beside its key, and where they meet.
var drawn = []struct{ view, columns string }{
	{"subscription", "end_date is_current"},
	{"commitment", "committed_tib is_current"},
	{"service_level", "consumed_tib is_latest"},
	{"month", "committed_tib consumed_avg_tib accrued_burst_tib"},
	{"monthly_burst", "waiver_burst_tib worst_day"},
	{"accrued_check", "recomputed_tib difference_tib"},
	{"daily_utilisation", "status consumed_avg_tib utilisation_avg"},
	{"daily_consumption", "consumed_avg_tib is_invoiced"},
	{"restatement", "usage_date known_from old_value new_value"},
	{"statement", "period quantity amount state"},
	{"adjustment", "quantity amount"},
	{"license_high_water", "items_max items_last"},
	{"license_snapshot", "items"},
	{"license_month", "state"},
	{"freshness", "watermark status"},
	{"run", "status error"},
	{"quarantine", "reason"},
}

var met = []struct{ one, how, many, by string }{
	{"subscription", "||--o{", "commitment", subscriptionKey},
	{"subscription", "||--o{", "month", subscriptionKey},
	{"subscription", "|o--o{", "statement", subscriptionKey},
	{"commitment", "||--o{", "service_level", levelKey},
	{"month", "||--||", "monthly_burst", levelKey + ", month"},
	{"month", "||--||", "accrued_check", levelKey + ", month"},
	{"month", "|o--|{", "daily_utilisation", levelKey + ", month"},
	{"daily_utilisation", "||--o|", "daily_consumption", levelKey + ", usage_date"},
	{"daily_consumption", "|o--o{", "restatement", levelKey + ", usage_date"},
	{"statement", "}o--o{", "adjustment", "period = adjusts_period, " + lineKey},
	{"license_month", "|o--o{", "license_high_water", "account, month"},
	{"license_high_water", "||--|{", "license_snapshot", licenseKey},
	{"freshness", "||--o{", "run", "dataset, scope"},
	{"run", "||--o{", "quarantine", "run_id"},
}

// lineKey is what a line of a statement is about, whatever its price.
const lineKey = "source, account, " + subscriptionKey + ", item, description, charge, is_waiver"

// short says keys that come back everywhere in one word.
var short = strings.NewReplacer(lineKey, "line", levelKey, "level", subscriptionKey, "subscription", licenseKey, "licence")

// martPicture draws how the views of the mart are joined.
func martPicture(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	kinds := map[string]string{}
	for _, line := range lines(t, conn, `
		select c.relname || '.' || a.attname || ' ' || replace(format_type(a.atttypid, a.atttypmod), 'timestamp with time zone', 'timestamptz')
		from pg_class as c
		join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
		where c.relnamespace = 'mart'::regnamespace and c.relkind = 'v'`) {
		name, kind, _ := strings.Cut(line, " ")
		kinds[name] = kind
	}
	column := func(view, name string) string {
		kind, ok := kinds[view+"."+name]
		if !ok {
			t.Errorf("the picture of the mart: mart.%s has no column %s", view, name)
		}
		return kind
	}
	var w strings.Builder
	fmt.Fprintf(&w, `
How they meet, and some of their columns; PK marks what a row is the only one by. `+"`level`"+` stands for a level instance:
`+"`%s`"+`;
`+"`subscription`"+` for the first three of these; `+"`licence`"+` for `+"`%s`"+`; and `+"`line`"+` for
`+"`%s`"+`.
Of a view with versions, join the row with `+"`is_current`"+`, of readings that with `+"`is_latest`"+`, or rows are counted once for each version. Days of a
licence meet their month by its first day. Lines of a statement have one row per price and adjustments one per day: add up each before they
are joined. The contract, the present and the history number instances of one name each on their own: join their sums.

`+"```mermaid\nerDiagram\n", levelKey, licenseKey, lineKey)
	for _, m := range met {
		for pair := range strings.SplitSeq(m.by, ", ") {
			one, many, differ := strings.Cut(pair, " = ")
			if !differ {
				many = one
			}
			column(m.one, one)
			column(m.many, many)
		}
		fmt.Fprintf(&w, "    %s %s %s : \"%s\"\n", m.one, m.how, m.many, short.Replace(m.by))
	}
	for _, d := range drawn {
		fmt.Fprintf(&w, "\n    %s {\n", d.view)
		for part := range strings.SplitSeq(short.Replace(martKeys[d.view]), ", ") {
			if slices.Contains([]string{"level", "subscription", "licence", "line"}, part) {
				fmt.Fprintf(&w, "        key %s PK\n", part)
			} else {
				fmt.Fprintf(&w, "        %s %s PK\n", column(d.view, part), part)
			}
		}
		for name := range strings.FieldsSeq(d.columns) {
			fmt.Fprintf(&w, "        %s %s\n", column(d.view, name), name)
		}
		w.WriteString("    }\n")
	}
	return w.String() + "```\n"
}
