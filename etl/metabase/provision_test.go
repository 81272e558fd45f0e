package metabase_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"meterhouse/etl/metabase"
	"meterhouse/etl/metabase/metabasesim"
)

const (
	email    = "bi@example.com"
	password = "correct horse 1 <&>"
)

// catalogue is a small mart: a key, a link to it, and a column of most kinds.
func catalogue() []metabase.Table {
	return []metabase.Table{
		{Schema: "mart", Name: "run", Comment: "Grain: one row per run.", Columns: []metabase.Column{
			{"run_id", "bigint", "Number of the run."}, {"status", "text", "How it ended."}, {"started_at", "timestamp with time zone", "When."}, {"error", "text", "Why it failed."},
		}},
		{Schema: "mart", Name: "quarantine", Comment: "Grain: one row per refused record.", Columns: []metabase.Column{
			{"quarantine_id", "bigint", "Number."}, {"run_id", "bigint", "The run that met it."}, {"reason", "text", "Rule."}, {"day", "date", "UTC day."},
		}},
		{Schema: "mart", Name: "statement", Comment: "Grain: one row per line.", Columns: []metabase.Column{
			{"customer_id", "text", "Customer."}, {"amount", "numeric", "Amount in currency."}, {"currency", "text", "ISO 4217."}, {"rate_id", "bigint", "Price."}, {"is_waiver", "boolean", "Waived?"},
		}},
	}
}

// asSim is the catalogue as the fake reads it, and a schema that Metabase is not to know.
func asSim(tables []metabase.Table) []metabasesim.Table {
	out := []metabasesim.Table{{Schema: "dw", Name: "fact", Columns: []metabasesim.Column{{Name: "x", Type: "text"}}}}
	for _, t := range tables {
		s := metabasesim.Table{Schema: t.Schema, Name: t.Name, Comment: t.Comment}
		for _, c := range t.Columns {
			s.Columns = append(s.Columns, metabasesim.Column(c))
		}
		out = append(out, s)
	}
	return out
}

type T interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
	Errorf(string, ...any)
}

// house is a Metabase over real HTTP and what it shall hold.
type house struct {
	t      T
	sim    *metabasesim.Sim
	cfg    metabase.Config
	tables []metabase.Table // of the warehouse
}

func newHouse(t *testing.T, change func(*metabasesim.Config)) *house {
	h := &house{t: t, tables: catalogue()}
	sim := metabasesim.Config{Catalogue: func() []metabasesim.Table { return asSim(h.tables) }}
	if change != nil {
		change(&sim)
	}
	h.sim = metabasesim.New(sim)
	server := httptest.NewServer(h.sim)
	t.Cleanup(server.Close)
	h.cfg = metabase.Config{
		URL: server.URL, Email: email, Password: password,
		Warehouse:  metabase.Connection{Host: "postgres", Port: 5432, Database: "meterhouse", User: "meterhouse_bi", Password: "read-only-secret"},
		Cards:      append(metabase.Cards(), questions()...),
		Dashboards: metabase.Dashboards(),
		Poll:       time.Microsecond, Wait: time.Minute,
	}
	return h
}

// questions stand for the analysts', which dashboards show too.
func questions() (cards []metabase.Card) {
	for _, name := range []string{"Missing days", "Quarantine by reason", "Restated days"} {
		cards = append(cards, metabase.Card{Name: name, Description: "A question.", SQL: "select 1 as n [[where {{from_day}}::date < now()]]", Variables: []metabase.Variable{{Name: "from_day", Label: "From day", Type: "date"}}})
	}
	return cards
}

func (h *house) provision() (metabase.Report, error) {
	cfg := h.cfg
	cfg.Tables = h.tables
	return metabase.Provision(noContext(), cfg)
}

func (h *house) must() metabase.Report {
	h.t.Helper()
	report, err := h.provision()
	if err != nil {
		h.t.Fatal(err)
	}
	return report
}

// settled provisions once more, which must write nothing.
func (h *house) settled() {
	h.t.Helper()
	before := h.sim.Writes()
	report := h.must()
	if wrote := h.sim.Writes() - before; wrote > 0 || len(report.Changes) > 0 || report.Unchanged == 0 {
		h.t.Errorf("again: %d writes, %+v: want none", wrote, report)
	}
	if n := h.sim.Sessions(); n > 1 { // one is the person's
		h.t.Errorf("%d sessions are left open", n)
	}
}

// settledBut provisions once more, which must write so many things, and then none.
func (h *house) settledBut(writes int) {
	h.t.Helper()
	before := h.sim.Writes()
	h.must()
	if wrote := h.sim.Writes() - before; wrote != writes {
		h.t.Errorf("%d writes, want %d", wrote, writes)
	}
	h.settled()
}

// changes are what a run wrote, as it says.
func changes(r metabase.Report) (all []string) {
	for _, c := range r.Changes {
		verb := "changed "
		if c.Created {
			verb = "created "
		}
		all = append(all, verb+c.What)
	}
	return all
}

// person is somebody with a browser.
func (h *house) person(session, method, path string, body any) map[string]any {
	h.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		h.t.Fatal(err)
	}
	req, err := http.NewRequest(method, h.cfg.URL+"/api"+path, bytes.NewReader(text))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("X-Metabase-Session", session)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode > 299 {
		h.t.Fatalf("%s %s: %d %s %v", method, path, res.StatusCode, answer, err)
	}
	var out map[string]any
	_ = json.Unmarshal(answer, &out)
	return out
}

// idOf finds a card or dashboard in our collection, or a column, by name.
func (h *house) idOf(session, kind, name string) int {
	h.t.Helper()
	if table, column, is := strings.Cut(name, "."); is && kind == "field" {
		all := h.person(session, "GET", "/database", nil)["data"].([]any)
		meta := h.person(session, "GET", fmt.Sprintf("/database/%v/metadata", all[0].(map[string]any)["id"]), nil)
		for _, t := range meta["tables"].([]any) {
			for _, f := range t.(map[string]any)["fields"].([]any) {
				if t.(map[string]any)["name"] == table && f.(map[string]any)["name"] == column {
					return int(f.(map[string]any)["id"].(float64))
				}
			}
		}
	}
	for shelf := 1; shelf < 1000; shelf++ {
		for offset := 0; offset < 60; offset += 20 {
			res, err := http.NewRequest("GET", fmt.Sprintf("%s/api/collection/%d/items?limit=20&offset=%d", h.cfg.URL, shelf, offset), nil)
			if err != nil {
				h.t.Fatal(err)
			}
			res.Header.Set("X-Metabase-Session", session)
			answer, err := http.DefaultClient.Do(res)
			if err != nil {
				h.t.Fatal(err)
			}
			var items struct {
				Data []struct {
					ID          int
					Model, Name string
				}
			}
			_ = json.NewDecoder(answer.Body).Decode(&items)
			answer.Body.Close()
			for _, i := range items.Data {
				if i.Model == kind && i.Name == name {
					return i.ID
				}
			}
		}
	}
	h.t.Fatalf("there is no %s %q", kind, name)
	return 0
}

func TestFresh(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(c *metabasesim.Config) { c.StartsIn, c.SyncsIn = 5, 4 })
	report := h.must()
	if got := changes(report); got[0] != "created the first administrator" || got[1] != `created database "Meterhouse"` || report.Version != "v0.58.34" {
		t.Errorf("%q on %s", got, report.Version)
	}
	state := h.sim.State()
	for _, want := range []string{
		`user "bi@example.com" true`,
		`"schema-filters-patterns":"mart","schema-filters-type":"inclusion"`,
		`"user":"meterhouse_bi"} false false`, // no analysis, no scan
		`column "run" "run_id" "Number of the run." "type/PK" "" true`,
		`column "quarantine" "run_id" "The run that met it." "type/FK" "run.run_id" true`,
		`column "quarantine" "day" "UTC day." "type/CreationDate" "" true`,
		`column "statement" "customer_id" "Customer." "type/Category" "" true`,
		`column "statement" "amount" "Amount in currency." "type/Quantity" "" true`,
		`column "statement" "rate_id" "Price." "" "" true`,
		`column "run" "error" "Why it failed." "type/Description" "" true`,
		`column "run" "started_at" "When." "type/CreationTimestamp" "" true`,
		`dashboard "Month end" "Meterhouse"`,
		`"target":["variable",["template-tag","month"]]`,
	} {
		if !strings.Contains(state, want) {
			t.Errorf("want %s in\n%s", want, state)
		}
	}
	if strings.Contains(state, `table "dw"`) {
		t.Error("Metabase knows more than the mart")
	}
	h.settled()
}

func TestPlanChangesNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	h.cfg.Plan = true
	fresh := h.must()
	if h.sim.Writes() != 0 || len(fresh.Changes) != 3+len(h.cfg.Cards)+len(h.cfg.Dashboards) {
		t.Errorf("%d writes, plan %q", h.sim.Writes(), changes(fresh))
	}
	h.cfg.Plan = false
	h.must()
	h.tables[0].Comment = "Another."
	h.tables[1].Columns = append(h.tables[1].Columns, metabase.Column{Name: "product", Type: "text", Comment: "New."})
	h.cfg.Cards[3].SQL += "\n-- changed"
	h.cfg.Cards = append(h.cfg.Cards, metabase.Card{Name: "New", Description: "New.", SQL: "select 1"})
	h.cfg.Plan = true
	before := h.sim.Writes()
	plan := changes(h.must())
	h.cfg.Plan = false
	done := changes(h.must())
	want := []string{"changed 1 columns that Metabase has not read yet", "changed description of mart.run", `changed card "Consumed now": query`, `created card "New"`}
	if diff := cmp.Diff(want, plan); diff != "" || h.sim.Writes() == before {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append([]string{"changed description of mart.run", "changed type of mart.quarantine.product"}, want[2:]...), done); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
	h.settled()
}

// A changed comment changes the description of its column and nothing else: Metabase itself never reads
// comments again.
func TestCommentChanged(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	h.must()
	h.tables[2].Columns[1].Comment = "Amount, in minor units."
	before := h.sim.Writes()
	if diff := cmp.Diff([]string{"changed description of mart.statement.amount"}, changes(h.must())); diff != "" || h.sim.Writes() != before+1 {
		t.Errorf("%d writes (-want +got):\n%s", h.sim.Writes()-before, diff)
	}
	h.settled()
}

func TestColumnAdded(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(c *metabasesim.Config) { c.SyncsIn = 3 })
	h.must()
	h.tables[0].Columns = append(h.tables[0].Columns, metabase.Column{Name: "quarantine_id", Type: "bigint", Comment: "First of its refused records."})
	if diff := cmp.Diff([]string{"changed type and link of mart.run.quarantine_id"}, changes(h.must())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	h.settled()
}

func TestFormerRelease(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(c *metabasesim.Config) { c.Legacy = true })
	h.must()
	h.settled()
	old := newHouse(t, func(c *metabasesim.Config) { c.Version = "v0.57.9" })
	if _, err := old.provision(); err == nil || !strings.Contains(err.Error(), "this is Metabase v0.57.9: want v0.58 or newer") || old.sim.Writes() > 0 {
		t.Errorf("%v, %d writes", err, old.sim.Writes())
	}
}

func TestSetUpAlready(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	h.sim.SetUp(email, password)
	if got := changes(h.must()); slices.Contains(got, "created the first administrator") {
		t.Errorf("%q", got)
	}
	h.settled()
}

func TestWrongLogin(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*house)
		want   string
	}{
		"password":         {func(h *house) { h.sim.SetUp(email, "another 1") }, `sign in to Metabase: POST /api/session: got 401 {"errors":{"password":"did not match stored password"}}: want an administrator's login or API key`},
		"no administrator": {func(h *house) { h.sim.SetUp("boss@example.com", "boss 123"); h.sim.SetUp(email, password) }, "sign in to Metabase: this login or API key is not of the group Administrators: want one that is"},
		"API key":          {func(h *house) { h.sim.SetUp(email, password); h.cfg.APIKey = "mb_wrong" }, "GET /api/user/current: got 401 Unauthenticated: want an administrator's login or API key"},
		"weak password":    {func(h *house) { h.cfg.Password = "weakest" }, `the first administrator: POST /api/setup: got 400 {"errors":{"user":{"password":"password is too common."}},"specific-errors":{"user":{"password":["password is too common., received: \"********\""]}}}`},
		"nothing":          {func(h *house) { h.cfg.Password = "" }, "no e-mail and password, and no API key: want one of them"},
	} {
		h := newHouse(t, nil)
		c.change(h)
		if _, err := h.provision(); err == nil || !strings.Contains(err.Error(), c.want) || h.sim.Writes() > 0 {
			t.Errorf("%s: %v, %d writes, want %s", name, err, h.sim.Writes(), c.want)
		}
	}
}

func TestAPIKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(c *metabasesim.Config) { c.APIKey = "mb_key" })
	h.sim.SetUp("boss@example.com", "boss 123")
	h.cfg.APIKey, h.cfg.Email, h.cfg.Password = "mb_key", "", ""
	h.must()
	h.settled()
	if slices.Contains(h.sim.Requests(), "POST /api/session") {
		t.Error("an API key needs no session")
	}
}

func TestNotReady(t *testing.T) {
	t.Parallel()
	down := newHouse(t, func(c *metabasesim.Config) { c.StartsIn = 1 << 30 })
	down.cfg.Wait = 10 * time.Millisecond
	_, err := down.provision()
	if !errors.Is(err, metabase.ErrNotReady) || !strings.Contains(err.Error(), `got 503 {"progress":0.5,"status":"initializing"}`) {
		t.Errorf("%v", err)
	}
	nobody := newHouse(t, nil)
	nobody.cfg.URL, nobody.cfg.Wait = "http://127.0.0.1:1", 10*time.Millisecond
	if _, err = nobody.provision(); !errors.Is(err, metabase.ErrNotReady) {
		t.Errorf("%v", err)
	}
	slow := newHouse(t, func(c *metabasesim.Config) { c.SyncsIn = 1 << 30 })
	slow.cfg.Wait = 100 * time.Millisecond
	_, err = slow.provision()
	if !errors.Is(err, metabase.ErrNotReady) || !strings.Contains(err.Error(), "13 columns are not known, such as mart.run.run_id") {
		t.Errorf("%v", err)
	}
}

// The password of the login is not to be seen in Metabase, but whether it works.
func TestDatabasePasswordChanged(t *testing.T) {
	t.Parallel()
	accepted := "read-only-secret"
	h := newHouse(t, func(c *metabasesim.Config) {
		c.Connect = func(details map[string]any) error {
			if details["password"] != accepted {
				return errors.New("password authentication failed")
			}
			return nil
		}
	})
	h.must()
	h.settled()
	accepted, h.cfg.Warehouse.Password = "new-secret", "new-secret"
	if diff := cmp.Diff([]string{`changed database "Meterhouse": password`}, changes(h.must())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	h.settled()
	accepted = "what nobody knows"
	_, err := h.provision()
	if err == nil || !strings.Contains(err.Error(), "password authentication failed") || strings.Contains(err.Error(), "new-secret") {
		t.Errorf("%v", err)
	}
}

// A new database is tried with TLS first, whatever was asked for, and keeps it: that is no difference to
// correct, and a correction of something else must not take it away.
func TestTLSThatMetabaseFound(t *testing.T) {
	t.Parallel()
	for mode, afterwards := range map[string]string{"": `"ssl":true`, "disable": `"ssl":false`, "require": `"ssl":true,"ssl-mode":"require"`} {
		accepted := "read-only-secret"
		h := newHouse(t, func(c *metabasesim.Config) {
			c.TLS = true
			c.Connect = func(details map[string]any) error {
				if details["password"] != accepted {
					return errors.New("password authentication failed")
				}
				return nil
			}
		})
		h.cfg.Warehouse.SSLMode = mode
		h.must()
		h.settled()
		if state := h.sim.State(); !strings.Contains(state, `"ssl":true`) {
			t.Errorf("sslmode %q: no TLS in\n%s", mode, state)
		}
		accepted, h.cfg.Warehouse.Password = "new-secret", "new-secret"
		h.must()
		h.settled()
		if state := h.sim.State(); !strings.Contains(state, afterwards) {
			t.Errorf("sslmode %q: want %s in\n%s", mode, afterwards, state)
		}
	}
}

// What Metabase repeats of what it refuses, it repeats quoted, and quoted twice.
func TestSecretsInAnswers(t *testing.T) {
	t.Parallel()
	secret := "a\"b  c\\d\te <&>é"
	h := newHouse(t, func(c *metabasesim.Config) {
		c.Connect = func(details map[string]any) error {
			return fmt.Errorf("cannot log in with %v, that is %q", details["password"], details["password"])
		}
	})
	weak := newHouse(t, nil)
	weak.cfg.Password = "a\"b  \\"
	_, err := weak.provision()
	if err == nil || !strings.Contains(err.Error(), `received: \"********\"`) {
		t.Errorf("%v", err)
	}
	h.cfg.Warehouse.Password = secret
	_, err = h.provision()
	if err == nil || !strings.Contains(err.Error(), "cannot log in with ********") || strings.Contains(err.Error(), "b  c") || strings.Contains(err.Error(), "b c") {
		t.Errorf("%v", err)
	}
}

// Asked for a reading of the schema, Metabase analyses every column too, which takes the whole mart: so it is
// asked only when there is a column that it does not know.
func TestAnalysis(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(c *metabasesim.Config) { c.SyncsIn = 3 })
	h.must()
	h.tables[0].Comment = "Another."
	h.settledBut(1)
	if n := h.sim.Analyses(); n > 0 {
		t.Errorf("%d analyses", n)
	}
	h.tables[0].Columns = append(h.tables[0].Columns, metabase.Column{Name: "scope", Type: "text", Comment: "New."})
	h.must()
	if n := h.sim.Analyses(); n != 1 {
		t.Errorf("%d analyses for a new column, want 1", n)
	}
	h.settled()
}

// What a person renames or exchanges is theirs; ours is made again and stands where it stood, so that nothing
// lies on top of it.
func TestRenamedAndExchanged(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	h.must()
	before := withoutIDs(h.sim.State())
	me := h.sim.SetUp("ann@example.com", "ann 123456")
	page := h.idOf(me, "dashboard", "Data health")
	renamed, binned, other := h.idOf(me, "card", "Freshness"), h.idOf(me, "card", "Deadlines"), h.idOf(me, "card", "Months")
	h.person(me, "PUT", fmt.Sprintf("/card/%d", renamed), map[string]any{"name": "Ann's freshness"})
	h.person(me, "PUT", fmt.Sprintf("/card/%d", binned), map[string]any{"archived": true})
	now := h.person(me, "GET", fmt.Sprintf("/dashboard/%d", page), nil)
	cards := now["dashcards"].([]any)
	for _, c := range cards {
		m := c.(map[string]any)
		for _, key := range []string{"dashboard_id", "entity_id", "card"} {
			delete(m, key)
		}
		if m["col"] == 6.0 && m["row"] == 0.0 { // "Days lacking", exchanged for another card of the same size
			m["card_id"] = other
		}
	}
	h.person(me, "PUT", fmt.Sprintf("/dashboard/%d", page), map[string]any{"dashcards": cards, "tabs": []any{}})
	want := []string{`created card "Freshness"`, `created card "Deadlines"`, `changed dashboard "Data health": cards`}
	if diff := cmp.Diff(want, changes(h.must())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	taken := map[string]any{}
	for _, c := range h.person(me, "GET", fmt.Sprintf("/dashboard/%d", page), nil)["dashcards"].([]any) {
		m := c.(map[string]any)
		place := fmt.Sprint(m["row"], "/", m["col"])
		if taken[place] != nil {
			t.Errorf("%v and %v both stand at %s", taken[place], m["card_id"], place)
		}
		taken[place] = m["card_id"]
	}
	after := h.sim.State()
	for _, line := range before {
		if strings.HasPrefix(line, "dashcard") && !slices.Contains(withoutIDs(after), line) {
			t.Errorf("gone: %s", line)
		}
	}
	if !strings.Contains(after, `card "Ann's freshness" "Meterhouse"`) {
		t.Error("what Ann renamed is gone")
	}
	h.settled()
}

// What a person does to what is ours is undone, and said; what is theirs stays.
func TestPersonsEdits(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	h.must()
	me := h.sim.SetUp("ann@example.com", "ann 123456")
	card, page := h.idOf(me, "card", "Freshness"), h.idOf(me, "dashboard", "Data health")
	consumption := h.idOf(me, "dashboard", "Consumption")
	shelf := int(h.person(me, "GET", fmt.Sprintf("/card/%d", card), nil)["collection_id"].(float64))
	db := h.person(me, "GET", "/database", nil)["data"].([]any)[0].(map[string]any)["id"]

	// Theirs: a card in our collection and one of the same name as ours elsewhere, a card and a filter on our
	// dashboard, a colour on our chart, another collection.
	own := map[string]any{"lib/type": "mbql/query", "database": db, "stages": []any{map[string]any{"lib/type": "mbql.stage/native", "native": "select 2"}}}
	mine := h.person(me, "POST", "/card", map[string]any{"name": "Ann's", "display": "table", "dataset_query": own, "visualization_settings": map[string]any{}, "collection_id": shelf})
	h.person(me, "POST", "/card", map[string]any{"name": "Freshness", "display": "table", "dataset_query": own, "visualization_settings": map[string]any{}})
	h.person(me, "POST", "/collection", map[string]any{"name": "Ann's"})
	chart := h.idOf(me, "card", "Burst by month")
	looks := h.person(me, "GET", fmt.Sprintf("/card/%d", chart), nil)["visualization_settings"].(map[string]any)
	looks["graph.colors"] = []any{"#123456"}
	h.person(me, "PUT", fmt.Sprintf("/card/%d", chart), map[string]any{"visualization_settings": looks})
	send := func(id int, edit func(cards []any, parameters []any) ([]any, []any)) {
		now := h.person(me, "GET", fmt.Sprintf("/dashboard/%d", id), nil)
		cards := now["dashcards"].([]any)
		for _, c := range cards {
			for _, key := range []string{"dashboard_id", "entity_id", "card"} {
				delete(c.(map[string]any), key)
			}
		}
		cards, parameters := edit(cards, now["parameters"].([]any))
		h.person(me, "PUT", fmt.Sprintf("/dashboard/%d", id), map[string]any{"dashcards": cards, "tabs": []any{}, "parameters": parameters})
	}
	send(consumption, func(cards, parameters []any) ([]any, []any) {
		return append(cards, map[string]any{"id": -1, "card_id": mine["id"], "row": 60, "col": 0, "size_x": 4, "size_y": 4}),
			append(parameters, map[string]any{"id": "anns", "slug": "anns", "name": "Ann's", "type": "category"})
	})
	h.person(me, "PUT", fmt.Sprintf("/table/%d", 0+tableOf(h, me, "run")), map[string]any{"display_name": "Attempts"})
	before := h.sim.State()
	h.settled()
	if diff := cmp.Diff(before, h.sim.State()); diff != "" {
		t.Errorf("what is Ann's changed:\n%s", diff)
	}

	// Ours: a query, a chart, a description, a type, the places and the filters of a dashboard.
	q := h.person(me, "GET", fmt.Sprintf("/card/%d", card), nil)
	query := q["dataset_query"].(map[string]any)
	stage := query["stages"].([]any)[0].(map[string]any)
	delete(stage, "lib/uuid")
	delete(query, "lib/metadata")
	stage["native"] = "select 'nothing'"
	h.person(me, "PUT", fmt.Sprintf("/card/%d", card), map[string]any{"dataset_query": query, "display": "bar", "description": "Mine."})
	send(page, func(cards, parameters []any) ([]any, []any) {
		cards[0].(map[string]any)["size_x"] = 12
		return cards[:len(cards)-1], parameters
	})
	send(consumption, func(cards, parameters []any) ([]any, []any) {
		parameters[0].(map[string]any)["default"] = "2020-01"
		for _, c := range cards {
			if m := c.(map[string]any); m["card_id"] != mine["id"] {
				m["parameter_mappings"] = []any{}
			}
		}
		return cards, parameters
	})
	h.person(me, "PUT", fmt.Sprintf("/field/%d", h.idOf(me, "field", "quarantine.run_id")), map[string]any{"semantic_type": nil, "description": "Mine."})
	want := []string{
		"changed description and type and link of mart.quarantine.run_id",
		`changed card "Freshness": description, chart, query`,
		`changed dashboard "Consumption": filters, cards`,
		`changed dashboard "Data health": cards`,
	}
	if diff := cmp.Diff(want, changes(h.must())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(withoutIDs(before), withoutIDs(h.sim.State())); diff != "" {
		t.Errorf("it is not as it was:\n%s", diff)
	}
	h.settled()
}

// withoutIDs takes the places in the list of a dashboard out: what is put back stands last.
func withoutIDs(state string) []string {
	lines := strings.Split(regexp.MustCompile(`(?m)^(dashcard "[^"]*") \d+`).ReplaceAllString(state, "$1"), "\n")
	slices.Sort(lines)
	return lines
}

func tableOf(h *house, session, name string) int {
	all := h.person(session, "GET", "/database", nil)["data"].([]any)
	meta := h.person(session, "GET", fmt.Sprintf("/database/%v/metadata", all[0].(map[string]any)["id"]), nil)
	for _, t := range meta["tables"].([]any) {
		if t.(map[string]any)["name"] == name {
			return int(t.(map[string]any)["id"].(float64))
		}
	}
	h.t.Fatalf("there is no table %q", name)
	return 0
}

// A dashboard that a person has parted into tabs keeps them.
func TestTabs(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	h.must()
	me := h.sim.SetUp("ann@example.com", "ann 123456")
	page := h.idOf(me, "dashboard", "Data health")
	now := h.person(me, "GET", fmt.Sprintf("/dashboard/%d", page), nil)
	cards := now["dashcards"].([]any)
	for i, c := range cards {
		m := c.(map[string]any)
		for _, key := range []string{"dashboard_id", "entity_id", "card"} {
			delete(m, key)
		}
		m["dashboard_tab_id"] = -1 - i%2
	}
	h.person(me, "PUT", fmt.Sprintf("/dashboard/%d", page), map[string]any{"dashcards": cards[1:], "tabs": []any{map[string]any{"id": -1, "name": "One"}, map[string]any{"id": -2, "name": "Two"}}})
	if diff := cmp.Diff([]string{`changed dashboard "Data health": cards`}, changes(h.must())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	h.settled()
	if got := len(h.person(me, "GET", fmt.Sprintf("/dashboard/%d", page), nil)["tabs"].([]any)); got != 2 {
		t.Errorf("%d tabs are left, want 2", got)
	}
}

func TestNotOurs(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	me := h.sim.SetUp(email, password)
	h.person(me, "POST", "/collection", map[string]any{"name": "Meterhouse", "description": "Ann's"})
	before := h.sim.State()
	_, err := h.provision()
	if err == nil || !strings.Contains(err.Error(), "there is one that is not ours") {
		t.Errorf("%v", err)
	}
	if !strings.Contains(h.sim.State(), `collection "Meterhouse" "Ann's"`) || !strings.Contains(before, `"Ann's"`) {
		t.Error("somebody's collection was touched")
	}
	second := newHouse(t, nil) // somebody makes one of that name beside ours
	second.must()
	me = second.sim.SetUp("ann@example.com", "ann 123456")
	second.person(me, "POST", "/collection", map[string]any{"name": "Meterhouse", "description": "Ann's"})
	second.settled()
	other := newHouse(t, nil)
	me = other.sim.SetUp(email, password)
	other.person(me, "POST", "/database", map[string]any{"name": "Meterhouse", "engine": "h2", "details": map[string]any{"db": "x"}})
	if _, err := other.provision(); err == nil || !strings.Contains(err.Error(), "there is one of that name on h2: want it renamed") {
		t.Errorf("%v", err)
	}
}

// Whichever request fails, done or not, repeating ends in the same Metabase, and the one after writes nothing.
func TestEveryRequestFailsOnce(t *testing.T) {
	t.Parallel()
	whole := newHouse(t, nil)
	whole.must()
	want := withoutIDs(whole.sim.State())
	requests := len(whole.sim.Requests())
	if requests < 40 {
		t.Fatalf("%d requests: the test looks at nothing", requests)
	}
	rapid.Check(t, func(rt *rapid.T) {
		h := newHouse(t, nil)
		h.t = rt
		how := rapid.SampledFrom([]metabasesim.Failure{metabasesim.Refused, metabasesim.Lost}).Draw(rt, "failure")
		failures := rapid.SliceOfN(rapid.IntRange(0, requests-2), 1, 4).Draw(rt, "requests")
		for _, at := range failures {
			h.sim.FailAt(at, how)
			_, _ = h.provision()
		}
		h.sim.FailAt(-1, how)
		h.must()
		if diff := cmp.Diff(want, withoutIDs(h.sim.State())); diff != "" {
			rt.Fatalf("(-want +got):\n%s", diff)
		}
		// A session whose id never came stays open, until Metabase ends it.
		before := h.sim.Writes()
		if again := h.must(); h.sim.Writes() != before || len(again.Changes) > 0 {
			rt.Fatalf("again: %d writes, %+v", h.sim.Writes()-before, again)
		}
	})
}

func TestEveryRequestFailsAlone(t *testing.T) {
	t.Parallel()
	whole := newHouse(t, nil)
	whole.must()
	want, requests := withoutIDs(whole.sim.State()), whole.sim.Requests()
	for at, request := range requests {
		for _, how := range []metabasesim.Failure{metabasesim.Refused, metabasesim.Lost} {
			h := newHouse(t, nil)
			h.sim.FailAt(at, how)
			_, err := h.provision()
			// Health is asked again, nobody waits for the end of a session, and net/http repeats a GET by itself
			// when a connection that was used before breaks off.
			repeated := how == metabasesim.Lost && strings.HasPrefix(request, "GET ")
			tolerated := strings.HasSuffix(request, "/health") || request == "DELETE /api/session"
			if !repeated && (err == nil) != tolerated {
				t.Errorf("request %d, %s, failure %d: %v", at, request, how, err)
			}
			h.must()
			if diff := cmp.Diff(want, withoutIDs(h.sim.State())); diff != "" {
				t.Fatalf("request %d, %s, failure %d (-want +got):\n%s", at, request, how, diff)
			}
			before := h.sim.Writes()
			if h.must(); h.sim.Writes() != before {
				t.Fatalf("request %d, %s, failure %d: a later run writes", at, request, how)
			}
		}
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	h.cfg.Verify = true
	report := h.must()
	if len(report.Verified) != len(h.cfg.Cards) || report.Verified[0].Problem != "" {
		t.Errorf("%+v", report.Verified)
	}
	cut := newHouse(t, func(c *metabasesim.Config) {
		c.RowLimit = 3
		c.Run = func(_ context.Context, sql string) ([]string, [][]any, error) {
			if strings.Contains(sql, "mart.statement ") {
				return []string{"n"}, [][]any{{1}, {2}, {3}, {4}}, nil
			}
			return []string{"n"}, [][]any{{1}, {2}}, nil
		}
	})
	cut.cfg.Verify = true
	for _, v := range cut.must().Verified {
		if v.Card == "Statement lines" && (!v.IsCut || v.Rows != 3) || v.Card == "Freshness" && v.IsCut || v.Problem != "" {
			t.Errorf("%+v", v)
		}
	}
	h.cfg.Cards = append(h.cfg.Cards, metabase.Card{Name: "Wants a value", Description: "x", SQL: "select {{n}}", Variables: []metabase.Variable{{"n", "N", "number"}}})
	report = h.must()
	if last := report.Verified[len(report.Verified)-1]; last.Problem != `missing required parameter "n"` {
		t.Errorf("%+v", last)
	}
}

func TestContentThatDoesNotHangTogether(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	h.cfg.Cards = h.cfg.Cards[1:]
	h.cfg.Dashboards = append(h.cfg.Dashboards, metabase.Dashboard{Name: "X", Tiles: []metabase.Tile{{Card: "Nobody's"}}})
	_, err := h.provision()
	if err == nil || !strings.Contains(err.Error(), `takes its values from a card "Months" that is not there`) || !strings.Contains(err.Error(), `shows a card "Nobody's"`) || len(h.sim.Requests()) > 0 {
		t.Errorf("%v, %d requests", err, len(h.sim.Requests()))
	}
}

func TestRedirectIsRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	asked := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	t.Cleanup(elsewhere.Close)
	door := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	t.Cleanup(door.Close)
	h.cfg.URL, h.cfg.Wait = door.URL, time.Millisecond
	if _, err := h.provision(); err == nil || asked || !strings.Contains(err.Error(), "a redirect is not followed") {
		t.Errorf("%v, followed %v", err, asked)
	}
}

// The layout of each dashboard: nothing overlaps or stands out, every filter is wired to a card.
func TestDashboards(t *testing.T) {
	t.Parallel()
	cards := map[string]metabase.Card{}
	for _, c := range append(metabase.Cards(), questions()...) {
		cards[c.Name] = c
		if strings.Contains(c.SQL, ";") || c.Description == "" {
			t.Errorf("%s: a semicolon, or no description", c.Name)
		}
	}
	for _, d := range metabase.Dashboards() {
		taken := map[[2]int]string{}
		wired := map[string]bool{}
		for _, tile := range d.Tiles {
			name := tile.Card + tile.Heading
			if tile.Col+tile.Width > 24 || tile.Width < 1 || tile.Height < 1 {
				t.Errorf("%s: %s stands out", d.Name, name)
			}
			for x := tile.Col; x < tile.Col+tile.Width; x++ {
				for y := tile.Row; y < tile.Row+tile.Height; y++ {
					if other := taken[[2]int{x, y}]; other != "" {
						t.Fatalf("%s: %s overlaps %s", d.Name, name, other)
					}
					taken[[2]int{x, y}] = name
				}
			}
			for _, v := range cards[tile.Card].Variables {
				wired[v.Name] = true
			}
		}
		for _, f := range d.Filters {
			if !wired[f.Variable] {
				t.Errorf("%s: filter %s is wired to nothing", d.Name, f.Label)
			}
		}
	}
}
