package metabase

import "strings"

// Table is a table or view of the warehouse with its comments, as its catalogue has them.
type Table struct {
	Schema, Name, Comment string
	Columns               []Column
}

// Column is one of a Table.
type Column struct {
	Name    string
	Type    string // Postgres' name: text, numeric, timestamp with time zone
	Comment string
}

// meaning is what Metabase is told about a column beside its description. An empty type is no opinion:
// what Metabase has stays.
type meaning struct {
	semanticType string
	target       string // schema.table.column that a foreign key refers to
}

// semantics says what a column is, from its name and type alone, so that a new view needs no list.
//
// Metabase knows keys of one column only. The keys of the mart are made of several (customer, subscription,
// level, instance): any one of their columns, linked by itself, would join every instance to every other
// and count capacity many times. So only the columns that identify a row alone are keys: run_id in mart.run,
// whatever_id in mart.whatever, and columns of that name elsewhere refer to it.
//
// Money is a quantity here, not type/Currency: Metabase shows that in the one currency of its settings,
// and the currency stands beside each amount.
func semantics(tables []Table, t Table, c Column) meaning {
	numeric := strings.HasPrefix(c.Type, "numeric") || c.Type == "integer" || c.Type == "bigint"
	if owner, isID := strings.CutSuffix(c.Name, "_id"); isID && numeric {
		if owner == t.Name {
			return meaning{semanticType: "type/PK"}
		}
		for _, other := range tables {
			if other.Schema == t.Schema && other.Name == owner && other.has(c.Name) {
				return meaning{"type/FK", other.Schema + "." + other.Name + "." + c.Name}
			}
		}
	}
	switch {
	case numeric && !strings.HasSuffix(c.Name, "_id") && !strings.HasSuffix(c.Name, "_ordinal") && !strings.HasSuffix(c.Name, "_number"):
		return meaning{semanticType: "type/Quantity"}
	case c.Type == "boolean":
		return meaning{semanticType: "type/Category"}
	case c.Type == "text" && categories[c.Name]:
		return meaning{semanticType: "type/Category"}
	case c.Type == "text" && strings.HasSuffix(c.Name, "_name") && c.Name != "column_name":
		return meaning{semanticType: "type/Name"}
	case c.Type == "text" && prose[c.Name]:
		return meaning{semanticType: "type/Description"}
	case c.Type == "date" && days[c.Name]:
		return meaning{semanticType: "type/CreationDate"}
	case c.Type == "timestamp with time zone" && instants[c.Name]:
		return meaning{semanticType: "type/CreationTimestamp"}
	}
	return meaning{}
}

func (t Table) has(column string) bool {
	for _, c := range t.Columns {
		if c.Name == column {
			return true
		}
	}
	return false
}

var (
	// categories have few values, by which people group and filter.
	categories = set("source", "dataset", "account", "scope", "customer_id", "service_level", "level_class", "product", "operation",
		"status", "state", "kind", "severity", "charge", "currency", "unit", "item", "period", "adjusts_period", "resolution", "column_name")
	// prose is read, never grouped by.
	prose = set("error", "warnings", "reason", "note", "action", "detail", "subject", "excerpt", "line_text")
	// days are what a row is about: the axis of a chart over time.
	days     = set("usage_date", "snapshot_date", "day", "month", "invoice_date")
	instants = set("started_at", "read_at", "quarantined_at", "since")
)

func set(names ...string) map[string]bool {
	s := map[string]bool{}
	for _, name := range names {
		s[name] = true
	}
	return s
}
