package metabasesim

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// State is everything that the Metabase holds, one thing a line, by names in place of ids: equal for two
// that hold the same, whatever led there.
func (s *Sim) State() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	add := func(kind string, about ...any) {
		line := kind
		for _, a := range about {
			text, _ := json.Marshal(a)
			line += " " + string(text)
		}
		lines = append(lines, line)
	}
	for email, u := range s.users {
		add("user", email, u.admin)
	}
	for _, d := range s.dbs {
		add("database", d.name, d.engine, d.details, d.fullSync, d.onDemand)
	}
	for _, t := range s.tables {
		add("table", t.schema, t.name, t.description, t.displayName)
	}
	for _, f := range s.fields {
		target := ""
		if to := s.fields[f.target]; to != nil {
			target = s.tables[to.table].name + "." + to.name
		}
		add("column", s.tables[f.table].name, f.name, f.description, f.semantic, target, f.active)
	}
	for _, c := range s.shelves {
		add("collection", c.name, c.description, c.location, c.archived)
	}
	for _, c := range s.cards {
		query := maps.Clone(c.query)
		query["database"] = s.dbs[number(query["database"])].name
		add("card", c.name, s.shelf(c.collection), c.description, c.display, query, c.settings, c.archived)
	}
	for _, d := range s.pages {
		add("dashboard", d.name, s.shelf(d.collection), d.description, s.named(d.parameters), len(d.tabs), d.archived)
		for i, dc := range d.dashcards {
			one := s.named(dc).(map[string]any)
			delete(one, "id")
			add("dashcard", d.name, i, one)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func (s *Sim) shelf(id int) string {
	if c := s.shelves[id]; c != nil {
		return c.name
	}
	return fmt.Sprint(id)
}

// named is a value with the names of cards in place of their ids.
func (s *Sim) named(v any) any {
	switch v := v.(type) {
	case []any:
		out := []any{}
		for _, one := range v {
			out = append(out, s.named(one))
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for key, value := range v {
			if c := s.cards[number(value)]; key == "card_id" && c != nil {
				out[key] = c.name
			} else {
				out[key] = s.named(value)
			}
		}
		return out
	}
	return v
}
