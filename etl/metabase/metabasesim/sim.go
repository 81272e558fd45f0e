// Package metabasesim is a small Metabase that keeps its state in memory: as much of the HTTP API of v0.58
// as its public description and its source say and provisioning needs. It refuses what they do not allow
// (unknown keys, wrong types, ids that are not there), as the newest releases do, and is stricter in one
// thing: a filter has to be wired to a variable that the card has.
package metabasesim

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Config is what stands around the Metabase.
type Config struct {
	Catalogue func() []Table                                                                    // what reading the schema of a database finds
	Connect   func(details map[string]any) error                                                // whether a login works; nil: always
	TLS       bool                                                                              // the databases answer with TLS too
	Run       func(ctx context.Context, sql string) (columns []string, rows [][]any, err error) // nil: no rows
	StartsIn  int                                                                               // looks at its health until it is up
	SyncsIn   int                                                                               // looks at the metadata until a reading of the schema is through
	Legacy    bool                                                                              // hands out queries in the form of former releases
	APIKey    string                                                                            // of the group Administrators; empty: none
	Version   string                                                                            // default v0.58.34
	RowLimit  int                                                                               // rows that a question shows at most; default 2000
}

// Table is a table of the catalogue.
type Table struct {
	Schema, Name, Comment string
	Columns               []Column
}

// Column is a column of a Table.
type Column struct{ Name, Type, Comment string }

// Failure is how a request fails.
type Failure int

const (
	Refused Failure = iota // 503, and nothing is done
	Lost                   // it is done, and the answer never comes
)

// Sim is a Metabase. It is safe for concurrent use.
type Sim struct {
	cfg Config
	mux *http.ServeMux

	mu       sync.Mutex
	next     int // id
	token    string
	users    map[string]user // by e-mail
	sessions map[string]string
	dbs      map[int]*database
	tables   map[int]*table
	fields   map[int]*field
	shelves  map[int]*collection
	cards    map[int]*card
	pages    map[int]*dashboard
	requests []string
	writes   int
	analyses int
	starts   int
	failAt   int // requests until one fails; below 0: none
	failure  Failure
}

type user struct {
	password string
	admin    bool
}

type database struct {
	id                 int
	name, engine       string
	details            map[string]any
	fullSync, onDemand bool
	pending            int // looks until it is read; 0: nothing goes on
	sync               string
}

type table struct {
	id, db       int
	schema, name string
	description  string
	displayName  string
}

type field struct {
	id, table   int
	name, kind  string
	description string
	semantic    string
	target      int
	active      bool
}

type collection struct {
	id          int
	name        string
	description string
	location    string
	archived    bool
}

type card struct {
	id, collection             int
	name, description, display string
	query, settings            map[string]any
	archived                   bool
}

type dashboard struct {
	id, collection    int
	name, description string
	parameters        []any
	dashcards         []map[string]any
	tabs              []map[string]any
	archived          bool
}

// New is a Metabase that nobody has set up.
func New(cfg Config) *Sim {
	s := &Sim{
		cfg: cfg, mux: http.NewServeMux(), token: "setup-token-of-the-instance", starts: cfg.StartsIn, failAt: -1,
		users: map[string]user{}, sessions: map[string]string{}, dbs: map[int]*database{}, tables: map[int]*table{}, fields: map[int]*field{},
		shelves: map[int]*collection{}, cards: map[int]*card{}, pages: map[int]*dashboard{},
	}
	s.cfg.Version, s.cfg.RowLimit = cmp.Or(cfg.Version, "v0.58.34"), cmp.Or(cfg.RowLimit, 2000)
	for pattern, handle := range map[string]handler{
		"GET /api/health":                                          s.health,
		"GET /api/session/properties":                              s.properties,
		"POST /api/setup":                                          s.setup,
		"POST /api/session":                                        s.login,
		"DELETE /api/session":                                      s.logout,
		"GET /api/user/current":                                    s.current,
		"GET /api/database":                                        s.listDatabases,
		"POST /api/database":                                       s.addDatabase,
		"GET /api/database/{id}":                                   s.getDatabase,
		"PUT /api/database/{id}":                                   s.putDatabase,
		"GET /api/database/{id}/healthcheck":                       s.healthcheck,
		"POST /api/database/{id}/sync_schema":                      s.syncSchema,
		"GET /api/database/{id}/metadata":                          s.metadata,
		"PUT /api/table/{id}":                                      s.putTable,
		"PUT /api/field/{id}":                                      s.putField,
		"GET /api/collection":                                      s.listCollections,
		"POST /api/collection":                                     s.addCollection,
		"PUT /api/collection/{id}":                                 s.putCollection,
		"GET /api/collection/{id}/items":                           s.listItems,
		"POST /api/card":                                           s.addCard,
		"GET /api/card/{id}":                                       s.getCard,
		"PUT /api/card/{id}":                                       s.putCard,
		"POST /api/card/{id}/query":                                s.runCard,
		"POST /api/dashboard":                                      s.addDashboard,
		"GET /api/dashboard/{id}":                                  s.getDashboard,
		"PUT /api/dashboard/{id}":                                  s.putDashboard,
		"GET /api/dashboard/{id}/params/{param}/values":            s.paramValues,
		"POST /api/dashboard/{id}/dashcard/{dc}/card/{card}/query": s.runDashcard,
	} {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, handle) })
	}
	return s
}

// ServeHTTP answers as Metabase does.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

type handler func(r *http.Request) (any, error)

// refusal is an answer that says no.
type refusal struct {
	code int
	body any
}

func (r *refusal) Error() string { return fmt.Sprint(r.code, " ", r.body) }

func bad(format string, args ...any) error {
	return &refusal{http.StatusBadRequest, map[string]any{"errors": map[string]any{"body": fmt.Sprintf(format, args...)}}}
}

var notFound = &refusal{http.StatusNotFound, "Not found."}

// open are what answers without a login.
var open = []string{"/api/health", "/api/session/properties", "/api/setup", "/api/session"}

func (s *Sim) serve(w http.ResponseWriter, r *http.Request, handle handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	failing := s.failAt == 0
	if s.failAt >= 0 {
		s.failAt--
	}
	if failing && s.failure == Refused {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var answer any
	err := error(&refusal{http.StatusUnauthorized, "Unauthenticated"})
	if slices.Contains(open, r.URL.Path) || s.isKnown(r) {
		answer, err = handle(r)
	}
	changes := r.Method != http.MethodGet && r.URL.Path != "/api/session" && !strings.HasSuffix(r.URL.Path, "/query")
	if err == nil && changes {
		s.writes++
	}
	if failing {
		panic(http.ErrAbortHandler)
	}
	code := http.StatusOK
	if strings.HasSuffix(r.URL.Path, "/query") {
		code = http.StatusAccepted
	}
	if no := (*refusal)(nil); errors.As(err, &no) {
		code, answer = no.code, no.body
	} else if err != nil {
		code, answer = http.StatusInternalServerError, map[string]any{"message": err.Error()}
	}
	if plain, is := answer.(string); is {
		w.WriteHeader(code)
		_, _ = w.Write([]byte(plain))
		return
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(code)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(answer)
}

func (s *Sim) isKnown(r *http.Request) bool {
	if key := r.Header.Get("X-Api-Key"); key != "" {
		return key == s.cfg.APIKey
	}
	_, known := s.sessions[r.Header.Get("X-Metabase-Session")]
	return known
}

// Writes is how many requests changed something so far. Sessions and queries do not count.
func (s *Sim) Writes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

// Requests are all so far, by method and path.
func (s *Sim) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Sessions is how many are open.
func (s *Sim) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Analyses is how often every column that was not yet analysed was.
func (s *Sim) Analyses() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.analyses
}

// FailAt makes one request fail, counted from the next one, which is 0. Below 0: none.
func (s *Sim) FailAt(n int, how Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failAt, s.failure = n, how
}

// SetUp makes an administrator, as a person does who was first, and gives an open session of theirs.
func (s *Sim) SetUp(email, password string) (session string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[email] = user{password, len(s.users) == 0}
	return s.open(email)
}

func (s *Sim) open(email string) string {
	id := fmt.Sprintf("session-%d", s.id())
	s.sessions[id] = email
	return id
}

func (s *Sim) id() int { s.next++; return s.next }

func (s *Sim) health(*http.Request) (any, error) {
	if s.starts > 0 {
		s.starts--
		return nil, &refusal{http.StatusServiceUnavailable, map[string]any{"status": "initializing", "progress": 0.5}}
	}
	return map[string]any{"status": "ok"}, nil
}

func (s *Sim) properties(*http.Request) (any, error) {
	about := map[string]any{"has-user-setup": len(s.users) > 0, "version": map[string]any{"tag": s.cfg.Version}, "setup-token": nil}
	if len(s.users) == 0 {
		about["setup-token"] = s.token
	}
	return about, nil
}

func (s *Sim) setup(r *http.Request) (any, error) {
	body, err := read(r, shape{"token!": nonBlank, "user!": object, "prefs!": object})
	if err != nil {
		return nil, err
	}
	person, prefs := body["user"].(map[string]any), body["prefs"].(map[string]any)
	if err := errors.Join(
		check("user", person, shape{"email!": nonBlank, "password!": nonBlank, "first_name": maybe(nonBlank), "last_name": maybe(nonBlank), "site_name": maybe(nonBlank)}),
		check("prefs", prefs, shape{"site_name!": nonBlank, "site_locale": maybe(nonBlank), "allow_tracking": maybe(boolean)}),
	); err != nil {
		return nil, err
	}
	email, password := person["email"].(string), person["password"].(string)
	switch {
	case len(s.users) > 0:
		return nil, &refusal{http.StatusForbidden, "The /api/setup route can only be used to create the first user, however a user currently exists."}
	case body["token"] != s.token:
		return nil, bad("token: does not match the setup token")
	case !strings.Contains(email, "@"):
		return nil, bad("email: must be a valid email address")
	case len(password) < 6 || !strings.ContainsAny(password, "0123456789"):
		return nil, &refusal{http.StatusBadRequest, map[string]any{
			"errors":          map[string]any{"user": map[string]any{"password": "password is too common."}},
			"specific-errors": map[string]any{"user": map[string]any{"password": []string{fmt.Sprintf("password is too common., received: %q", password)}}},
		}}
	}
	s.users[email] = user{password, true}
	return map[string]any{"id": s.open(email)}, nil
}

func (s *Sim) login(r *http.Request) (any, error) {
	body, err := read(r, shape{"username!": nonBlank, "password!": str, "remember": maybe(boolean)})
	if err != nil {
		return nil, err
	}
	email := body["username"].(string)
	if who, is := s.users[email]; !is || who.password != body["password"] {
		return nil, &refusal{http.StatusUnauthorized, map[string]any{"errors": map[string]any{"password": "did not match stored password"}}}
	}
	return map[string]any{"id": s.open(email)}, nil
}

func (s *Sim) logout(r *http.Request) (any, error) {
	delete(s.sessions, r.Header.Get("X-Metabase-Session"))
	return "", nil
}

func (s *Sim) current(r *http.Request) (any, error) {
	if r.Header.Get("X-Api-Key") != "" {
		return map[string]any{"id": 1, "is_superuser": true}, nil
	}
	email := s.sessions[r.Header.Get("X-Metabase-Session")]
	return map[string]any{"id": 1, "email": email, "is_superuser": s.users[email].admin}, nil
}

const hidden = "**MetabasePass**"

func (d *database) json() map[string]any {
	details := maps.Clone(d.details)
	if details["password"] != nil {
		details["password"] = hidden
	}
	return map[string]any{
		"id": d.id, "name": d.name, "engine": d.engine, "details": details, "is_full_sync": d.fullSync, "is_on_demand": d.onDemand,
		"initial_sync_status": d.sync, "description": nil, "auto_run_queries": true, "features": []string{"native-parameters"},
	}
}

func (s *Sim) listDatabases(*http.Request) (any, error) {
	all := []any{}
	for _, id := range slices.Sorted(maps.Keys(s.dbs)) {
		all = append(all, s.dbs[id].json())
	}
	return map[string]any{"data": all, "total": len(all)}, nil
}

var databaseShape = shape{
	"name": nonBlank, "engine": nonBlank, "details": object, "is_full_sync": maybe(boolean), "is_on_demand": maybe(boolean), "schedules": maybe(object),
	"auto_run_queries": maybe(boolean), "cache_ttl": maybe(positive),
}

func (s *Sim) connect(engine string, details map[string]any) error {
	if engine != "postgres" && engine != "h2" {
		return bad("engine: value must be a valid database engine.")
	}
	if engine == "postgres" {
		if err := check("details", details, shape{
			"host!": nonBlank, "port!": positive, "dbname!": nonBlank, "user!": nonBlank, "password": maybe(str), "ssl": maybe(boolean), "ssl-mode": maybe(nonBlank), "tunnel-enabled": maybe(boolean),
			"schema-filters-type": maybe(nonBlank), "schema-filters-patterns": maybe(str), "let-user-control-scheduling": maybe(boolean),
		}); err != nil {
			return err
		}
	}
	if s.cfg.Connect == nil {
		return nil
	}
	if err := s.cfg.Connect(details); err != nil {
		return &refusal{http.StatusBadRequest, map[string]any{"message": err.Error(), "errors": map[string]any{"password": "check your password"}, "details": details}}
	}
	return nil
}

func (s *Sim) addDatabase(r *http.Request) (any, error) {
	body, err := read(r, databaseShape.with(shape{"name!": nonBlank, "engine!": nonBlank, "details!": object, "connection_source": maybe(nonBlank)}))
	if err != nil {
		return nil, err
	}
	d := &database{id: s.id(), name: body["name"].(string), engine: body["engine"].(string), details: body["details"].(map[string]any), fullSync: body["is_full_sync"] != false, onDemand: body["is_on_demand"] == true, sync: "incomplete"}
	if err := s.connect(d.engine, d.details); err != nil {
		return nil, err
	}
	if s.cfg.TLS && d.engine == "postgres" { // it is tried first, asked for or not
		d.details["ssl"] = true
	}
	s.dbs[d.id] = d
	s.begin(d)
	return d.json(), nil
}

func (s *Sim) getDatabase(r *http.Request) (any, error) {
	d, err := find(s.dbs, r)
	if err != nil {
		return nil, err
	}
	return d.json(), nil
}

func (s *Sim) putDatabase(r *http.Request) (any, error) {
	d, err := find(s.dbs, r)
	if err != nil {
		return nil, err
	}
	body, err := read(r, databaseShape.with(shape{"name": maybe(nonBlank), "engine": maybe(nonBlank), "details": maybe(object), "refingerprint": maybe(boolean), "description": maybe(str), "caveats": maybe(str), "points_of_interest": maybe(str), "settings": maybe(object)}))
	if err != nil {
		return nil, err
	}
	engine, details := d.engine, d.details
	if e, is := body["engine"].(string); is {
		engine = e
	}
	if given, is := body["details"].(map[string]any); is { // as a whole, where newer releases lay it over what is there
		details = given
		if details["password"] == hidden {
			details["password"] = d.details["password"]
		}
	}
	if err := s.connect(engine, details); err != nil {
		return nil, err
	}
	d.engine, d.details, d.onDemand = engine, details, body["is_on_demand"] == true
	if full, is := body["is_full_sync"].(bool); is {
		d.fullSync = full
	}
	return d.json(), nil
}

func (s *Sim) healthcheck(r *http.Request) (any, error) {
	d, err := find(s.dbs, r)
	if err != nil {
		return nil, err
	}
	if err := s.connect(d.engine, d.details); err != nil {
		return map[string]any{"status": "error", "message": "it does not connect"}, nil
	}
	return map[string]any{"status": "ok"}, nil
}

// begin begins a reading of the schema, which is through after some looks.
func (s *Sim) begin(d *database) {
	d.pending = s.cfg.SyncsIn + 1
}

func (s *Sim) syncSchema(r *http.Request) (any, error) {
	d, err := find(s.dbs, r)
	if err != nil {
		return nil, err
	}
	if err := s.connect(d.engine, d.details); err != nil {
		return nil, &refusal{http.StatusUnprocessableEntity, err.Error()}
	}
	s.begin(d)
	s.analyses++ // asked for, it analyses even a database that is not to be
	return map[string]any{"status": "ok"}, nil
}

// read takes the catalogue over: a comment only for what has no description.
func (s *Sim) readSchema(d *database) {
	d.sync = "complete"
	if s.cfg.Catalogue == nil {
		return
	}
	patterns := strings.Split(fmt.Sprint(d.details["schema-filters-patterns"]), ",")
	for _, t := range s.cfg.Catalogue() {
		if d.details["schema-filters-type"] == "inclusion" && !slices.Contains(patterns, t.Schema) {
			continue
		}
		id := 0
		for _, known := range s.tables {
			if known.db == d.id && known.schema == t.Schema && known.name == t.Name {
				id = known.id
			}
		}
		if id == 0 {
			id = s.id()
			s.tables[id] = &table{id: id, db: d.id, schema: t.Schema, name: t.Name}
		}
		if s.tables[id].description == "" {
			s.tables[id].description = t.Comment
		}
		for _, f := range s.fields {
			if f.table == id {
				f.active = false
			}
		}
		for _, c := range t.Columns {
			var known *field
			for _, f := range s.fields {
				if f.table == id && f.name == c.Name {
					known = f
				}
			}
			if known == nil {
				known = &field{id: s.id(), table: id, name: c.Name, kind: c.Type}
				s.fields[known.id] = known
			}
			known.active = true
			if known.description == "" {
				known.description = c.Comment
			}
		}
	}
}

func (s *Sim) metadata(r *http.Request) (any, error) {
	d, err := find(s.dbs, r)
	if err != nil {
		return nil, err
	}
	if d.pending > 0 {
		if d.pending--; d.pending == 0 {
			s.readSchema(d)
		}
	}
	answer := d.json()
	tables := []any{}
	for _, id := range slices.Sorted(maps.Keys(s.tables)) {
		t := s.tables[id]
		if t.db != d.id {
			continue
		}
		fields := []any{}
		for _, fid := range slices.Sorted(maps.Keys(s.fields)) {
			f := s.fields[fid]
			if f.table == id && f.active {
				fields = append(fields, f.json())
			}
		}
		tables = append(tables, map[string]any{"id": t.id, "db_id": d.id, "schema": t.schema, "name": t.name, "display_name": t.displayName, "description": null(t.description), "fields": fields})
	}
	answer["tables"] = tables
	return answer, nil
}

func (f *field) json() map[string]any {
	out := map[string]any{"id": f.id, "table_id": f.table, "name": f.name, "database_type": f.kind, "description": null(f.description), "semantic_type": null(f.semantic), "fk_target_field_id": nil, "visibility_type": "normal"}
	if f.target != 0 {
		out["fk_target_field_id"] = f.target
	}
	return out
}

func null(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func (s *Sim) putTable(r *http.Request) (any, error) {
	t, err := find(s.tables, r)
	if err != nil {
		return nil, err
	}
	body, err := read(r, shape{"display_name": maybe(nonBlank), "entity_type": maybe(nonBlank), "visibility_type": maybe(nonBlank), "description": maybe(str), "caveats": maybe(str), "points_of_interest": maybe(str), "show_in_getting_started": maybe(boolean), "field_order": maybe(nonBlank)})
	if err != nil {
		return nil, err
	}
	if text, is := body["description"].(string); is {
		t.description = text
	}
	if text, is := body["display_name"].(string); is {
		t.displayName = text
	}
	return map[string]any{"id": t.id, "description": null(t.description)}, nil
}

// semanticTypes are those that a column may be given, of what the API knows.
var semanticTypes = strings.Fields(`type/PK type/FK type/Quantity type/Share type/Percentage type/Currency type/Price type/Cost type/Score type/Duration
	type/Category type/Enum type/Name type/Title type/Description type/Comment type/Product type/Company type/Subscription type/Source type/User type/Owner
	type/CreationTimestamp type/CreationTime type/CreationDate type/UpdatedTimestamp type/UpdatedTime type/UpdatedDate type/CancelationDate type/DeletionDate type/URL type/Email`)

func (s *Sim) putField(r *http.Request) (any, error) {
	f, err := find(s.fields, r)
	if err != nil {
		return nil, err
	}
	body, err := read(r, shape{"caveats": maybe(nonBlank), "description": maybe(nonBlank), "display_name": maybe(nonBlank), "fk_target_field_id": maybe(positive), "points_of_interest": maybe(nonBlank), "semantic_type": maybe(nonBlank), "coercion_strategy": maybe(nonBlank), "visibility_type": maybe(nonBlank), "has_field_values": maybe(nonBlank), "settings": maybe(object), "nfc_path": maybe(list), "json_unfolding": maybe(boolean)})
	if err != nil {
		return nil, err
	}
	if kind, is := body["semantic_type"].(string); is {
		if !slices.Contains(semanticTypes, kind) {
			return nil, bad("semantic_type: value must be a valid field semantic or relation type (keyword or string).")
		}
	}
	if target, is := body["fk_target_field_id"].(float64); is {
		to := s.fields[int(target)]
		if to == nil || s.tables[to.table].db != s.tables[f.table].db {
			return nil, bad("fk_target_field_id: Invalid target field")
		}
		f.target = to.id
	}
	if value, given := body["semantic_type"]; given {
		f.semantic, _ = value.(string)
		if f.semantic != "type/FK" {
			f.target = 0
		}
	}
	if value, given := body["description"]; given {
		f.description, _ = value.(string)
	}
	return f.json(), nil
}

func (s *Sim) listCollections(*http.Request) (any, error) {
	all := []any{
		map[string]any{"id": "root", "name": "Our analytics", "can_write": true},
		map[string]any{"id": 1 << 20, "name": "Trash", "type": "trash", "location": "/", "description": nil, "archived": false},
	}
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(s.shelves))) { // of one name in no order
		if c := s.shelves[id]; !c.archived {
			all = append(all, c.json())
		}
	}
	return all, nil
}

func (c *collection) json() map[string]any {
	return map[string]any{"id": c.id, "name": c.name, "description": null(c.description), "location": c.location, "archived": c.archived, "personal_owner_id": nil}
}

func (s *Sim) addCollection(r *http.Request) (any, error) {
	body, err := read(r, shape{"name!": nonBlank, "description": maybe(nonBlank), "parent_id": maybe(positive), "namespace": maybe(nonBlank), "authority_level": maybe(nonBlank)})
	if err != nil {
		return nil, err
	}
	c := &collection{id: s.id(), name: body["name"].(string), location: "/"}
	c.description, _ = body["description"].(string)
	if parent, is := body["parent_id"].(float64); is {
		c.location = fmt.Sprintf("/%d/", int(parent))
	}
	s.shelves[c.id] = c
	return c.json(), nil
}

func (s *Sim) putCollection(r *http.Request) (any, error) {
	c, err := find(s.shelves, r)
	if err != nil {
		return nil, err
	}
	body, err := read(r, shape{"name": maybe(nonBlank), "description": maybe(nonBlank), "archived": maybe(boolean), "parent_id": maybe(positive), "authority_level": maybe(nonBlank)})
	if err != nil {
		return nil, err
	}
	if value, given := body["description"]; given {
		c.description, _ = value.(string)
	}
	if name, is := body["name"].(string); is {
		c.name = name
	}
	if archived, is := body["archived"].(bool); is {
		c.archived = archived
	}
	return c.json(), nil
}

func (s *Sim) listItems(r *http.Request) (any, error) {
	c, err := find(s.shelves, r)
	if err != nil {
		return nil, err
	}
	type item struct {
		id          int
		model, name string
	}
	var all []item
	for _, q := range s.cards {
		if q.collection == c.id && !q.archived {
			all = append(all, item{q.id, "card", q.name})
		}
	}
	for _, d := range s.pages {
		if d.collection == c.id && !d.archived {
			all = append(all, item{d.id, "dashboard", d.name})
		}
	}
	models := r.URL.Query()["models"]
	all = slices.DeleteFunc(all, func(i item) bool { return len(models) > 0 && !slices.Contains(models, i.model) })
	slices.SortFunc(all, func(a, b item) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.id, b.id)) })
	total := len(all)
	offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err == nil {
		all = all[min(offset, len(all)):min(offset+min(limit, 20), len(all))] // a page is small here, so that paging is needed
	}
	data := []any{}
	for _, i := range all {
		data = append(data, map[string]any{"id": i.id, "model": i.model, "name": i.name, "archived": false})
	}
	return map[string]any{"data": data, "total": total, "models": models}, nil
}

var tagForm = regexp.MustCompile(`\{\{\s*([a-z_]+)\s*\}\}`)
