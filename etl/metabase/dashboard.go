package metabase

import (
	"context"
	"net/http"
	"strconv"
	"strings"
)

// page is a dashboard as Metabase has it. What a person put on it is kept as it came, so it stays JSON.
type page struct {
	ID          int              `json:"id"`
	Description *string          `json:"description"`
	Parameters  []map[string]any `json:"parameters"`
	Dashcards   []map[string]any `json:"dashcards"`
	Tabs        []map[string]any `json:"tabs"`
}

func (p *provisioner) keepDashboards(ctx context.Context) error {
	for _, d := range p.cfg.Dashboards {
		if err := p.keepDashboard(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// keepDashboard makes a dashboard, or corrects what differs, in one request: the cards on it, their places
// and their filters are replaced as a whole.
func (p *provisioner) keepDashboard(ctx context.Context, d Dashboard) error {
	what := "dashboard " + strconv.Quote(d.Name)
	id, made := p.items[[2]string{"dashboard", d.Name}], false
	var now page
	if id == 0 {
		if err := p.write(ctx, true, what, http.MethodPost, "/dashboard",
			map[string]any{"name": d.Name, "description": d.Description, "collection_id": p.collection}, &now); err != nil {
			return err
		}
		if p.cfg.Plan {
			return nil
		}
		id, made = now.ID, true
	} else if err := p.call(ctx, http.MethodGet, path("/dashboard", id), nil, &now); err != nil {
		return err
	}
	parameters, sameParameters := p.parameters(d, now.Parameters)
	dashcards, sameCards := p.dashcards(d, now)
	set, differs := map[string]any{}, []string(nil)
	if text(now.Description) != d.Description {
		set["description"], differs = d.Description, append(differs, "description")
	}
	if !sameParameters {
		set["parameters"], differs = parameters, append(differs, "filters")
	}
	if !sameCards {
		tabs := []any{}
		for _, t := range now.Tabs {
			tabs = append(tabs, pick(t, "id", "name"))
		}
		set["dashcards"], set["tabs"], differs = dashcards, tabs, append(differs, "cards")
	}
	if len(set) == 0 {
		if !made {
			p.report.Unchanged++
		}
		return nil
	}
	if made { // it is taken down already
		return p.call(ctx, http.MethodPut, path("/dashboard", id), set, nil)
	}
	return p.write(ctx, false, what+": "+strings.Join(differs, ", "), http.MethodPut, path("/dashboard", id), set, nil)
}

// parameters are the filters of a dashboard: ours first, then what a person added.
func (p *provisioner) parameters(d Dashboard, now []map[string]any) (all []any, same bool) {
	same = true
	ours := map[any]bool{}
	for i, f := range d.Filters {
		wanted, _ := plain(map[string]any{
			"id": f.Variable, "slug": f.Variable, "name": f.Label, "type": "string/=", "sectionId": "string",
			"isMultiSelect":     false, // a variable takes one value
			"values_query_type": "list", "values_source_type": "card",
			"values_source_config": map[string]any{"card_id": p.cards[f.Values], "value_field": []any{"field", f.Column, map[string]any{"base-type": "type/Text"}}},
		}).(map[string]any)
		ours[f.Variable] = true
		all = append(all, wanted)
		if i >= len(now) || !covers(now[i], wanted) || now[i]["default"] != nil {
			same = false
		}
	}
	for _, theirs := range now {
		if !ours[theirs["id"]] {
			all = append(all, theirs)
		}
	}
	return all, same && len(all) == len(now)
}

// dashcardKeys are what Metabase takes of a card on a dashboard.
var dashcardKeys = []string{"id", "card_id", "action_id", "dashboard_tab_id", "row", "col", "size_x", "size_y", "parameter_mappings", "visualization_settings", "inline_parameters", "series"}

// dashcards are the cards on a dashboard: ours at their places, and what a person added as it is. A card of
// ours that was exchanged or renamed is put back where it stood, so that no place is taken twice.
func (p *provisioner) dashcards(d Dashboard, now page) (all []any, same bool) {
	same = true
	taken := map[int]bool{}
	find := func(is func(dashcard map[string]any) bool) int {
		for j, theirs := range now.Dashcards {
			if !taken[j] && is(theirs) {
				taken[j] = true
				return j
			}
		}
		return -1
	}
	places := make([]int, len(d.Tiles)) // of the tiles in now.Dashcards
	for i, t := range d.Tiles {
		places[i] = find(func(theirs map[string]any) bool { return p.shows(theirs, t) })
	}
	for i, t := range d.Tiles {
		wanted := p.dashcard(d, t)
		at := places[i]
		if at < 0 {
			same = false
			wanted["id"] = -1 - i // Metabase gives it a number
			if len(now.Tabs) > 0 {
				wanted["dashboard_tab_id"] = now.Tabs[0]["id"]
			}
			if stray := find(func(theirs map[string]any) bool {
				return covers(theirs, pick(wanted, "col", "row", "size_x", "size_y", "dashboard_tab_id"))
			}); stray >= 0 {
				wanted["id"], wanted["series"] = now.Dashcards[stray]["id"], []any{}
			}
			all = append(all, wanted)
			continue
		}
		theirs := now.Dashcards[at]
		mappings, _ := theirs["parameter_mappings"].([]any)
		if !covers(theirs, place(wanted)) || !sameMappings(mappings, wanted["parameter_mappings"].([]any)) ||
			!covers(theirs["visualization_settings"], wanted["visualization_settings"]) {
			same = false
		}
		kept := sendable(theirs)
		for key, value := range wanted {
			kept[key] = value
		}
		looks, _ := theirs["visualization_settings"].(map[string]any)
		kept["visualization_settings"] = over(looks, wanted["visualization_settings"].(map[string]any))
		all = append(all, kept)
	}
	for j, theirs := range now.Dashcards {
		if !taken[j] {
			all = append(all, sendable(theirs))
		}
	}
	return all, same
}

// dashcard is a tile as Metabase has it, without an id.
func (p *provisioner) dashcard(d Dashboard, t Tile) map[string]any {
	looks, mappings := map[string]any{}, []any{}
	var id any
	if t.Card == "" {
		looks = map[string]any{"virtual_card": map[string]any{"name": nil, "display": "heading", "visualization_settings": map[string]any{}, "dataset_query": map[string]any{}, "archived": false},
			"dashcard.background": false, "text": t.Heading}
	} else {
		id = p.cards[t.Card]
		c := first(p.cfg.Cards, func(c Card) bool { return c.Name == t.Card })
		for _, f := range d.Filters {
			if first(c.Variables, func(v Variable) bool { return v.Name == f.Variable }) != nil {
				mappings = append(mappings, map[string]any{"parameter_id": f.Variable, "card_id": id, "target": []any{"variable", []any{"template-tag", f.Variable}}})
			}
		}
	}
	wanted, _ := plain(map[string]any{
		"card_id": id, "col": t.Col, "row": t.Row, "size_x": t.Width, "size_y": t.Height, "parameter_mappings": mappings, "visualization_settings": looks,
	}).(map[string]any)
	return wanted
}

func place(dashcard map[string]any) map[string]any {
	return pick(dashcard, "card_id", "col", "row", "size_x", "size_y")
}

// shows tells that a card on a dashboard is a tile of ours: it shows our card, or our heading.
func (p *provisioner) shows(dashcard map[string]any, t Tile) bool {
	if t.Card != "" {
		return covers(dashcard["card_id"], plain(p.cards[t.Card]))
	}
	looks, _ := dashcard["visualization_settings"].(map[string]any)
	return dashcard["card_id"] == nil && looks["text"] == t.Heading
}

// sameMappings compares what filters are wired to, in any order.
func sameMappings(now, wanted []any) bool {
	if len(now) != len(wanted) {
		return false
	}
	for _, w := range wanted {
		found := false
		for _, n := range now {
			m, _ := n.(map[string]any)
			target, _ := m["target"].([]any)
			if len(target) > 2 { // a release adds options
				m = over(m, map[string]any{"target": target[:2]})
			}
			found = found || covers(m, w)
		}
		if !found {
			return false
		}
	}
	return true
}

// sendable is a card on a dashboard with what Metabase takes back of it.
func sendable(dashcard map[string]any) map[string]any {
	out := pick(dashcard, dashcardKeys...)
	if series, is := out["series"].([]any); is {
		ids := []any{}
		for _, s := range series {
			if card, is := s.(map[string]any); is {
				ids = append(ids, pick(card, "id"))
			}
		}
		out["series"] = ids
	}
	return out
}

// pick is a map with the named keys only, as far as they have a value.
func pick(m map[string]any, keys ...string) map[string]any {
	out := map[string]any{}
	for _, key := range keys {
		if value, is := m[key]; is && (value != nil || key == "card_id") {
			out[key] = value
		}
	}
	return out
}
