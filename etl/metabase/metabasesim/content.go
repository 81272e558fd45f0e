package metabasesim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var cardShape = shape{
	"name": nonBlank, "description": maybe(nonBlank), "display": nonBlank, "dataset_query": object, "visualization_settings": object, "collection_id": maybe(positive),
	"collection_position": maybe(positive), "type": maybe(nonBlank), "parameters": maybe(list), "parameter_mappings": maybe(list), "cache_ttl": maybe(positive), "result_metadata": maybe(list),
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// checkQuery takes a native query of one stage whose variables are those of its text.
func (s *Sim) checkQuery(query map[string]any) error {
	if err := check("dataset_query", query, shape{"lib/type!": is("mbql/query"), "database!": positive, "stages!": list}); err != nil {
		return err
	}
	if s.dbs[int(query["database"].(float64))] == nil {
		return bad("dataset_query.database: there is none of this id")
	}
	stages := query["stages"].([]any)
	stage, isMap := any(nil), len(stages) == 1
	if isMap {
		stage, isMap = stages[0].(map[string]any)
	}
	if !isMap {
		return bad("dataset_query.stages: want one")
	}
	native := stage.(map[string]any)
	if err := check("stage", native, shape{"lib/type!": is("mbql.stage/native"), "native!": nonBlank, "template-tags": object}); err != nil {
		return err
	}
	used := map[string]bool{}
	for _, m := range tagForm.FindAllStringSubmatch(native["native"].(string), -1) {
		used[m[1]] = true
	}
	tags, _ := native["template-tags"].(map[string]any)
	for name, value := range tags {
		tag, isMap := value.(map[string]any)
		if !isMap || !used[name] {
			return bad("template-tags.%s: not in the query", name)
		}
		if err := check("template-tags."+name, tag, shape{"id!": nonBlank, "name!": is(name), "display-name!": nonBlank, "type!": nonBlank, "default": anything, "required": boolean}); err != nil {
			return err
		}
		if !uuid.MatchString(tag["id"].(string)) || !slices.Contains([]string{"text", "number", "date", "boolean"}, tag["type"].(string)) {
			return bad("template-tags.%s: id %v, type %v", name, tag["id"], tag["type"])
		}
	}
	if len(tags) != len(used) {
		return bad("the query has the variables %v, its template-tags are %v", used, tags)
	}
	return nil
}

func (s *Sim) addCard(r *http.Request) (any, error) {
	body, err := read(r, cardShape.with(shape{"name!": nonBlank, "display!": nonBlank, "dataset_query!": object, "visualization_settings!": object}))
	if err != nil {
		return nil, err
	}
	c := &card{id: s.id(), name: body["name"].(string)}
	if err := s.setCard(c, body); err != nil {
		return nil, err
	}
	s.cards[c.id] = c
	return s.cardJSON(c), nil
}

func (s *Sim) setCard(c *card, body map[string]any) error {
	if query, is := body["dataset_query"].(map[string]any); is {
		if err := s.checkQuery(query); err != nil {
			return err
		}
		c.query = query
	}
	if shelf, is := body["collection_id"].(float64); is {
		if s.shelves[int(shelf)] == nil {
			return notFound
		}
		c.collection = int(shelf)
	}
	if value, given := body["description"]; given {
		c.description, _ = value.(string)
	}
	if display, is := body["display"].(string); is {
		c.display = display
	}
	if looks, is := body["visualization_settings"].(map[string]any); is {
		c.settings = looks
	}
	if archived, is := body["archived"].(bool); is {
		c.archived = archived
	}
	if name, is := body["name"].(string); is {
		c.name = name
	}
	return nil
}

func (s *Sim) cardJSON(c *card) map[string]any {
	query := maps.Clone(c.query)
	stage := maps.Clone(c.query["stages"].([]any)[0].(map[string]any))
	if s.cfg.Legacy {
		query = map[string]any{"database": c.query["database"], "type": "native", "native": map[string]any{"query": stage["native"], "template-tags": stage["template-tags"]}}
	} else { // marks of its own
		stage["lib/uuid"] = fmt.Sprintf("00000000-0000-0000-0000-%012d", c.id)
		query["stages"], query["lib/metadata"] = []any{stage}, nil
	}
	return map[string]any{
		"id": c.id, "name": c.name, "type": "question", "description": null(c.description), "display": c.display, "dataset_query": query, "visualization_settings": c.settings,
		"collection_id": c.collection, "archived": c.archived, "query_type": "native", "database_id": query["database"], "creator_id": 1, "entity_id": fmt.Sprintf("entity-%d", c.id),
	}
}

func (s *Sim) getCard(r *http.Request) (any, error) {
	c, err := find(s.cards, r)
	if err != nil {
		return nil, err
	}
	return s.cardJSON(c), nil
}

func (s *Sim) putCard(r *http.Request) (any, error) {
	c, err := find(s.cards, r)
	if err != nil {
		return nil, err
	}
	body, err := read(r, cardShape.with(shape{"name": maybe(nonBlank), "description": maybe(str), "display": maybe(nonBlank), "visualization_settings": maybe(object), "archived": maybe(boolean), "enable_embedding": maybe(boolean), "collection_preview": maybe(boolean)}))
	if err != nil {
		return nil, err
	}
	if err := s.setCard(c, body); err != nil {
		return nil, err
	}
	return s.cardJSON(c), nil
}

func (s *Sim) runCard(r *http.Request) (any, error) {
	c, err := find(s.cards, r)
	if err != nil {
		return nil, err
	}
	body, err := read(r, shape{"parameters": maybe(list), "ignore_cache": maybe(boolean), "dashboard_id": maybe(positive), "collection_preview": maybe(boolean)})
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	given, _ := body["parameters"].([]any)
	for _, p := range given {
		m, _ := p.(map[string]any)
		values[tagOf(m["target"])] = m["value"]
	}
	return s.answer(r.Context(), c, values), nil
}

func (s *Sim) runDashcard(r *http.Request) (any, error) {
	d, err := find(s.pages, r)
	if err != nil {
		return nil, err
	}
	body, err := read(r, shape{"parameters": maybe(list), "dashboard_load_id": maybe(nonBlank)})
	if err != nil {
		return nil, err
	}
	id, _ := strconv.Atoi(r.PathValue("card"))
	c := s.cards[id]
	for _, dc := range d.dashcards {
		if fmt.Sprint(dc["id"]) != r.PathValue("dc") || c == nil || number(dc["card_id"]) != c.id {
			continue
		}
		values := map[string]any{}
		given, _ := body["parameters"].([]any)
		for _, p := range given {
			m, _ := p.(map[string]any)
			for _, mapping := range mappingsOf(dc) {
				if mapping["parameter_id"] == m["id"] {
					values[tagOf(mapping["target"])] = m["value"]
				}
			}
		}
		return s.answer(r.Context(), c, values), nil
	}
	return nil, notFound
}

// answer runs a card's query with values for its variables.
func (s *Sim) answer(ctx context.Context, c *card, values map[string]any) map[string]any {
	stage := c.query["stages"].([]any)[0].(map[string]any)
	tags, _ := stage["template-tags"].(map[string]any)
	kinds := map[string]string{}
	for name, tag := range tags {
		kinds[name] = tag.(map[string]any)["type"].(string)
	}
	sql, err := expand(stage["native"].(string), kinds, values)
	var columns []string
	rows := [][]any{}
	if err == nil && s.cfg.Run != nil {
		columns, rows, err = s.cfg.Run(ctx, sql)
	}
	if err != nil {
		return map[string]any{"status": "failed", "error": err.Error(), "data": map[string]any{"rows": []any{}, "cols": []any{}}}
	}
	cols := []any{}
	for _, name := range columns {
		cols = append(cols, map[string]any{"name": name})
	}
	data := map[string]any{"cols": cols}
	if len(rows) >= s.cfg.RowLimit { // of exactly so many it does not know either
		rows, data["rows_truncated"] = rows[:s.cfg.RowLimit], s.cfg.RowLimit
	}
	data["rows"] = rows
	return map[string]any{"status": "completed", "row_count": len(rows), "data": data}
}

var optional = regexp.MustCompile(`(?s)\[\[(.*?)\]\]`)

// expand puts values into a native query: what stands in [[…]] goes when a variable in it has no value.
func expand(sql string, kinds map[string]string, values map[string]any) (string, error) {
	var problems []error
	fill := func(text string) string {
		return tagForm.ReplaceAllStringFunc(text, func(found string) string {
			name := tagForm.FindStringSubmatch(found)[1]
			value := values[name]
			if several, is := value.([]any); is && len(several) == 1 {
				value = several[0]
			}
			literal := fmt.Sprint(value)
			switch {
			case value == nil:
				problems = append(problems, fmt.Errorf("missing required parameter %q", name))
			case kinds[name] == "number":
				if _, err := strconv.ParseFloat(literal, 64); err != nil {
					problems = append(problems, err)
				}
				return literal
			case kinds[name] == "date":
				return "date '" + strings.ReplaceAll(literal, "'", "''") + "'"
			}
			return "'" + strings.ReplaceAll(literal, "'", "''") + "'"
		})
	}
	sql = optional.ReplaceAllStringFunc(sql, func(block string) string {
		for _, m := range tagForm.FindAllStringSubmatch(block, -1) {
			if values[m[1]] == nil {
				return ""
			}
		}
		return block[2 : len(block)-2]
	})
	sql = fill(sql)
	return sql, errors.Join(problems...)
}

// tagOf is the variable that a target names, "" when it is none.
func tagOf(target any) string {
	outer, _ := target.([]any)
	if len(outer) < 2 || outer[0] != "variable" {
		return ""
	}
	inner, _ := outer[1].([]any)
	if len(inner) != 2 || inner[0] != "template-tag" {
		return ""
	}
	name, _ := inner[1].(string)
	return name
}

func mappingsOf(dashcard map[string]any) (all []map[string]any) {
	mappings, _ := dashcard["parameter_mappings"].([]any)
	for _, m := range mappings {
		if one, is := m.(map[string]any); is {
			all = append(all, one)
		}
	}
	return all
}

func (s *Sim) addDashboard(r *http.Request) (any, error) {
	body, err := read(r, shape{"name!": nonBlank, "parameters": maybe(list), "description": maybe(str), "cache_ttl": maybe(positive), "collection_id": maybe(positive), "collection_position": maybe(positive)})
	if err != nil {
		return nil, err
	}
	d := &dashboard{id: s.id(), name: body["name"].(string)}
	if shelf, is := body["collection_id"].(float64); is {
		if s.shelves[int(shelf)] == nil {
			return nil, notFound
		}
		d.collection = int(shelf)
	}
	d.description, _ = body["description"].(string)
	d.parameters, _ = body["parameters"].([]any)
	s.pages[d.id] = d
	return s.dashboardJSON(d), nil
}

func (s *Sim) dashboardJSON(d *dashboard) map[string]any {
	dashcards := []any{}
	for _, dc := range d.dashcards {
		if c := s.cards[number(dc["card_id"])]; c != nil && c.archived {
			continue // it is in the trash, and comes back with it
		}
		out := maps.Clone(dc)
		out["dashboard_id"], out["entity_id"], out["series"] = d.id, "entity", []any{}
		if c := s.cards[number(dc["card_id"])]; c != nil {
			out["card"] = s.cardJSON(c)
		}
		dashcards = append(dashcards, out)
	}
	tabs := []any{}
	for i, t := range d.tabs {
		tabs = append(tabs, map[string]any{"id": t["id"], "name": t["name"], "position": i, "dashboard_id": d.id, "entity_id": "entity"})
	}
	parameters := d.parameters
	if parameters == nil {
		parameters = []any{}
	}
	return map[string]any{"id": d.id, "name": d.name, "description": null(d.description), "collection_id": d.collection, "parameters": parameters, "dashcards": dashcards, "tabs": tabs, "archived": d.archived, "width": "fixed"}
}

func (s *Sim) getDashboard(r *http.Request) (any, error) {
	d, err := find(s.pages, r)
	if err != nil {
		return nil, err
	}
	return s.dashboardJSON(d), nil
}

var dashcardShape = shape{
	"id!": integer, "size_x!": positive, "size_y!": positive, "row!": natural, "col!": natural, "card_id": maybe(positive), "action_id": maybe(positive), "dashboard_tab_id": maybe(integer),
	"parameter_mappings": maybe(list), "visualization_settings": maybe(object), "inline_parameters": maybe(list), "series": maybe(list),
}

var parameterTypes = strings.Fields("number text date boolean date/single id category date/range date/month-year date/quarter-year date/relative date/all-options temporal-unit number/= number/between string/= string/!= string/contains boolean/=")

func (s *Sim) putDashboard(r *http.Request) (any, error) {
	d, err := find(s.pages, r)
	if err != nil {
		return nil, err
	}
	body, err := read(r, shape{
		"name": maybe(nonBlank), "description": maybe(str), "parameters": maybe(list), "dashcards": maybe(list), "tabs": maybe(list), "collection_id": maybe(positive), "archived": maybe(boolean),
		"width": maybe(nonBlank), "auto_apply_filters": maybe(boolean), "cache_ttl": maybe(positive), "caveats": maybe(str), "points_of_interest": maybe(str),
	})
	if err != nil {
		return nil, err
	}
	if parameters, is := body["parameters"].([]any); is {
		if err := s.checkParameters(parameters); err != nil {
			return nil, err
		}
		d.parameters = parameters
	}
	if value, given := body["description"]; given {
		d.description, _ = value.(string)
	}
	if archived, is := body["archived"].(bool); is {
		d.archived = archived
	}
	if dashcards, is := body["dashcards"].([]any); is {
		if err := s.setDashcards(d, dashcards, body["tabs"]); err != nil {
			return nil, err
		}
	}
	return s.dashboardJSON(d), nil
}

func (s *Sim) checkParameters(parameters []any) error {
	ids := map[any]bool{}
	for _, p := range parameters {
		m, isMap := p.(map[string]any)
		if !isMap {
			return bad("parameters: want maps")
		}
		if err := check("parameter", m, shape{
			"id!": nonBlank, "type!": nonBlank, "name!": nonBlank, "slug!": nonBlank, "sectionId": maybe(nonBlank), "default": anything, "required": boolean, "isMultiSelect": boolean, "filteringParameters": list,
			"values_query_type": maybe(nonBlank), "values_source_type": maybe(nonBlank), "values_source_config": maybe(object), "target": list,
		}); err != nil {
			return err
		}
		if ids[m["id"]] || !slices.Contains(parameterTypes, m["type"].(string)) {
			return bad("parameter %v: twice, or of type %v", m["id"], m["type"])
		}
		ids[m["id"]] = true
		if m["values_source_type"] == "card" {
			source, _ := m["values_source_config"].(map[string]any)
			if err := check("values_source_config", source, shape{"card_id!": positive, "value_field!": list, "label_field": list}); err != nil {
				return err
			}
			if s.cards[number(source["card_id"])] == nil {
				return notFound
			}
		}
	}
	return nil
}

func (s *Sim) setDashcards(d *dashboard, dashcards []any, tabs any) error {
	ids := map[float64]float64{} // of tabs, as sent and as kept
	var keptTabs []map[string]any
	sent, _ := tabs.([]any)
	for _, t := range sent {
		m, _ := t.(map[string]any)
		if err := check("tab", m, shape{"id!": integer, "name!": nonBlank, "position": natural}); err != nil {
			return err
		}
		id := m["id"].(float64)
		if id < 0 {
			ids[id] = float64(s.id())
		} else {
			ids[id] = id
		}
		keptTabs = append(keptTabs, map[string]any{"id": ids[id], "name": m["name"]})
	}
	known := map[float64]bool{}
	for _, dc := range d.dashcards {
		known[dc["id"].(float64)] = true
	}
	var kept []map[string]any
	for _, one := range dashcards {
		m, isMap := one.(map[string]any)
		if !isMap {
			return bad("dashcards: want maps")
		}
		if err := check("dashcard", m, dashcardShape); err != nil {
			return err
		}
		dc := maps.Clone(m)
		if series, _ := dc["series"].([]any); len(series) == 0 {
			delete(dc, "series")
		}
		if id := dc["id"].(float64); id < 0 {
			dc["id"] = float64(s.id())
		} else if !known[id] {
			return bad("dashcard %v is not of this dashboard", id)
		}
		tab, hasTab := dc["dashboard_tab_id"].(float64)
		switch {
		case hasTab && ids[tab] == 0:
			return bad("dashcard: there is no tab %v", tab)
		case hasTab:
			dc["dashboard_tab_id"] = ids[tab]
		case len(sent) == 1:
			dc["dashboard_tab_id"] = keptTabs[0]["id"]
		case len(sent) > 1:
			return bad("This dashboard has tab, makes sure every card has a tab")
		}
		if dc["card_id"] != nil {
			c := s.cards[number(dc["card_id"])]
			if c == nil || c.archived {
				return notFound
			}
			stage := c.query["stages"].([]any)[0].(map[string]any)
			variables, _ := stage["template-tags"].(map[string]any)
			for _, mapping := range mappingsOf(dc) {
				if err := check("parameter_mapping", mapping, shape{"parameter_id!": nonBlank, "card_id": maybe(positive), "target!": list}); err != nil {
					return err
				}
				if variables[tagOf(mapping["target"])] == nil {
					return bad("card %q has no variable %v", c.name, mapping["target"])
				}
			}
		}
		kept = append(kept, dc)
	}
	d.dashcards, d.tabs = kept, keptTabs
	return nil
}

// maxValues is how many values a filter offers.
const maxValues = 1000

// paramValues are what a filter offers: the values of a column of a card, each once, in ascending order
// whatever the order of the card, without empty ones. The card's query is a table to another one for that.
func (s *Sim) paramValues(r *http.Request) (any, error) {
	d, err := find(s.pages, r)
	if err != nil {
		return nil, err
	}
	for _, p := range d.parameters {
		m := p.(map[string]any)
		if m["id"] != r.PathValue("param") {
			continue
		}
		source := m["values_source_config"].(map[string]any)
		c := s.cards[number(source["card_id"])]
		sql, err := expand(c.query["stages"].([]any)[0].(map[string]any)["native"].(string), nil, nil)
		if err != nil {
			return nil, err
		}
		column := fmt.Sprintf("source.%q", source["value_field"].([]any)[1])
		sql = fmt.Sprintf("select %[1]s from (\n%[2]s\n) as source where %[1]s is not null and %[1]s <> '' group by %[1]s order by %[1]s limit %[3]d", column, sql, maxValues)
		values := []any{}
		if s.cfg.Run != nil {
			_, rows, err := s.cfg.Run(r.Context(), sql)
			if err != nil {
				return nil, err
			}
			for _, row := range rows {
				values = append(values, row)
			}
		}
		return map[string]any{"values": values, "has_more_values": len(values) == maxValues}, nil
	}
	return nil, notFound
}

func number(v any) int {
	n, _ := v.(float64)
	return int(n)
}

func find[T any](all map[int]*T, r *http.Request) (*T, error) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if found := all[id]; err == nil && found != nil {
		return found, nil
	}
	return nil, &refusal{http.StatusNotFound, "Not found."}
}
