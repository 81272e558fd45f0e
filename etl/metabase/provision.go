package metabase

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config says where Metabase is, who we are there, and what it shall hold.
type Config struct {
	URL             string // https://… or http://…, without /api
	Email, Password string // of an administrator; made so when the instance is fresh
	APIKey          string // of the group Administrators; in place of a login
	CAFile          string // PEM with certificates to trust besides the system's

	Warehouse  Connection
	Tables     []Table // every table and view that Metabase shall know, of one schema or more
	Cards      []Card
	Dashboards []Dashboard

	Wait   time.Duration // for health, and again for the schema to be read; default 5 minutes
	Poll   time.Duration // between two looks while waiting; default 2 s
	Plan   bool          // change nothing, say what would be
	Verify bool          // run every card when all is there
	Notice func(string)  // told what is waited for; may be nil
}

// Connection is how Metabase reaches the warehouse, as a login that only reads.
type Connection struct {
	Host, Database, User, Password string
	Port                           int
	SSLMode                        string // libpq's word; empty: TLS if Metabase finds that it works
}

// Report is what was done, or would be.
type Report struct {
	Changes   []Change
	Unchanged int // things that were as they shall be
	Verified  []Verified
	Version   string // of Metabase
}

// Change is one thing that was written.
type Change struct {
	Created bool // else changed
	What    string
}

// Verified is what a card answered.
type Verified struct {
	Card    string
	Rows    int
	IsCut   bool   // Metabase showed the first Rows only: there are more
	Problem string // empty: it answered
}

// Provision brings a Metabase to the state that cfg describes. It writes only what differs, so repeating is
// safe and completes what broke off; the report is true as far as it came, beside an error too. It is
// [ErrNotReady] when Metabase or its reading of the schema did not come up in time.
func Provision(ctx context.Context, cfg Config) (Report, error) {
	cfg.Wait, cfg.Poll = cmp.Or(cfg.Wait, 5*time.Minute), cmp.Or(cfg.Poll, 2*time.Second)
	if cfg.Notice == nil {
		cfg.Notice = func(string) {}
	}
	if err := checkContent(cfg); err != nil {
		return Report{}, err
	}
	c, err := newClient(cfg)
	if err != nil {
		return Report{}, err
	}
	defer c.http.CloseIdleConnections()
	p := &provisioner{client: c, cfg: cfg}
	err = p.run(ctx)
	if c.session != "" && c.apiKey == "" {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = c.call(bye, http.MethodDelete, "/session", nil, nil) // it ends by itself in two weeks
	}
	return p.report, err
}

// checkContent refuses content that does not hang together, before anything is asked.
func checkContent(cfg Config) error {
	known := map[string]bool{}
	for _, c := range cfg.Cards {
		if known[c.Name] {
			return fmt.Errorf("two cards are called %q", c.Name)
		}
		known[c.Name] = true
	}
	var problems []error
	for _, d := range cfg.Dashboards {
		for _, t := range d.Tiles {
			if t.Card != "" && !known[t.Card] {
				problems = append(problems, fmt.Errorf("dashboard %q shows a card %q that is not there", d.Name, t.Card))
			}
		}
		for _, f := range d.Filters {
			if !known[f.Values] {
				problems = append(problems, fmt.Errorf("dashboard %q: filter %q takes its values from a card %q that is not there", d.Name, f.Variable, f.Values))
			}
		}
	}
	return errors.Join(problems...)
}

type provisioner struct {
	*client
	cfg    Config
	report Report

	database   int
	fresh      bool // the database was added by this run
	collection int
	items      map[[2]string]int // model and name → id, of what the collection holds
	cards      map[string]int
}

func (p *provisioner) run(ctx context.Context) error {
	if err := p.awaitHealth(ctx, p.patience()); err != nil {
		return err
	}
	in, err := p.signIn(ctx)
	if err != nil {
		return fmt.Errorf("sign in to Metabase: %w", err)
	}
	if !in { // only a plan for a fresh instance
		p.planAll()
		return nil
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"database " + strconv.Quote(Name), p.keepDatabase},
		{"tables and columns", p.keepTables},
		{"collection " + strconv.Quote(Name), p.keepCollection},
		{"cards", p.keepCards},
		{"dashboards", p.keepDashboards},
		{"verify", p.verify},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

func (p *provisioner) patience() patience {
	return patience{within: p.cfg.Wait, every: p.cfg.Poll, until: time.Now().Add(p.cfg.Wait), notice: p.cfg.Notice}
}

// write does one thing unless this is a plan, and takes it down.
func (p *provisioner) write(ctx context.Context, created bool, what, method, path string, in, out any) error {
	if !p.cfg.Plan {
		if err := p.call(ctx, method, path, in, out); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	p.report.Changes = append(p.report.Changes, Change{created, what})
	return nil
}

// oldest is the first release that takes what we write.
const oldest = 58

// signIn makes the first administrator, or logs in. False: a plan, and there is nobody to log in as.
func (p *provisioner) signIn(ctx context.Context) (bool, error) {
	var about instance
	if err := p.call(ctx, http.MethodGet, "/session/properties", nil, &about); err != nil {
		return false, err
	}
	p.report.Version = about.Version.Tag
	if major := majorOf(about.Version.Tag); major != 0 && major < oldest {
		return false, fmt.Errorf("this is Metabase %s: want v0.%d or newer", about.Version.Tag, oldest)
	}
	if p.cfg.APIKey == "" {
		if p.cfg.Email == "" || p.cfg.Password == "" {
			return false, errors.New("no e-mail and password, and no API key: want one of them")
		}
		if !about.HasUserSetup && p.cfg.Plan {
			return false, nil
		}
		var session struct{ ID string }
		var err error
		if about.HasUserSetup {
			err = p.call(ctx, http.MethodPost, "/session", map[string]any{"username": p.cfg.Email, "password": p.cfg.Password}, &session)
		} else {
			err = p.write(ctx, true, "the first administrator", http.MethodPost, "/setup", map[string]any{
				"token": about.SetupToken,
				"user":  map[string]any{"email": p.cfg.Email, "password": p.cfg.Password, "first_name": Name, "last_name": "Administrator"},
				"prefs": map[string]any{"site_name": Name, "site_locale": "en"},
			}, &session)
		}
		if err != nil {
			return false, err
		}
		if session.ID == "" {
			return false, errors.New("POST /api/session: the answer has no id: want the session's")
		}
		p.session = session.ID
	}
	var user struct {
		IsSuperuser bool `json:"is_superuser"`
	}
	if err := p.call(ctx, http.MethodGet, "/user/current", nil, &user); err != nil {
		return false, err
	}
	if !user.IsSuperuser {
		return false, errors.New("this login or API key is not of the group Administrators: want one that is")
	}
	return true, nil
}

// majorOf is 58 for v0.58.34 and v1.58.3; 0 when that cannot be told.
func majorOf(tag string) int {
	parts := strings.Split(strings.TrimPrefix(tag, "v"), ".")
	if len(parts) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(parts[1])
	return n
}

// planAll is the plan for an instance that holds nothing.
func (p *provisioner) planAll() {
	add := func(what string) { p.report.Changes = append(p.report.Changes, Change{true, what}) }
	add("the first administrator")
	add("database " + strconv.Quote(Name))
	add("collection " + strconv.Quote(Name))
	for _, c := range p.cfg.Cards {
		add("card " + strconv.Quote(c.Name))
	}
	for _, d := range p.cfg.Dashboards {
		add("dashboard " + strconv.Quote(d.Name))
	}
}

// database is one of Metabase's connections.
type database struct {
	ID         int            `json:"id"`
	Name       string         `json:"name"`
	Engine     string         `json:"engine"`
	Details    map[string]any `json:"details"`
	IsFullSync bool           `json:"is_full_sync"`
	IsOnDemand bool           `json:"is_on_demand"`
}

// keepDatabase adds the warehouse, or corrects how it is reached.
func (p *provisioner) keepDatabase(ctx context.Context) error {
	var all struct{ Data []database }
	if err := p.call(ctx, http.MethodGet, "/database", nil, &all); err != nil {
		return err
	}
	w := p.cfg.Warehouse
	details := map[string]any{
		"host": w.Host, "port": w.Port, "dbname": w.Database, "user": w.User, "password": w.Password, "tunnel-enabled": false,
		"schema-filters-type": "inclusion", "schema-filters-patterns": strings.Join(p.schemas(), ","),
	}
	// A new database that is not asked for TLS is tried with it first, and keeps it when that works. So only
	// what was asked for is compared, and no correction takes TLS away that nobody forbade.
	switch w.SSLMode {
	case "":
	case "disable":
		details["ssl"] = false
	default:
		details["ssl"], details["ssl-mode"] = true, w.SSLMode
	}
	wanted := map[string]any{
		"name": Name, "engine": "postgres", "details": details,
		// No analysis: it would compute views that are meant to be filtered, for guesses that we make by rule.
		"is_full_sync": false, "is_on_demand": false,
	}
	found := first(all.Data, func(d database) bool { return d.Name == Name })
	if found == nil {
		var made database
		if err := p.write(ctx, true, "database "+strconv.Quote(Name), http.MethodPost, "/database", wanted, &made); err != nil {
			return err
		}
		p.database, p.fresh = made.ID, true
		return nil
	}
	if found.Engine != "postgres" {
		return fmt.Errorf("there is one of that name on %s: want it renamed", found.Engine)
	}
	p.database = found.ID
	var now database
	if err := p.call(ctx, http.MethodGet, path("/database", found.ID), nil, &now); err != nil {
		return err
	}
	var differs []string
	for _, key := range slices.Sorted(maps.Keys(details)) {
		secret, untaken := key == "password", key == "ssl" && details[key] == false
		if !secret && !untaken && !covers(now.Details[key], plain(details[key])) && !(details[key] == false && now.Details[key] == nil) {
			differs = append(differs, key)
		}
	}
	if now.IsFullSync || now.IsOnDemand {
		differs = append(differs, "analysis")
	}
	if len(differs) == 0 { // the password cannot be seen, but whether it works
		var health struct{ Status string }
		if err := p.call(ctx, http.MethodGet, path("/database", found.ID)+"/healthcheck", nil, &health); err != nil {
			return err
		}
		if health.Status != "ok" {
			differs = append(differs, "password")
		}
	}
	if len(differs) == 0 {
		p.report.Unchanged++
		return nil
	}
	for key, value := range now.Details { // what is not ours stays, where a release takes the details as a whole
		if _, ours := details[key]; !ours {
			details[key] = value
		}
	}
	return p.write(ctx, false, "database "+strconv.Quote(Name)+": "+strings.Join(differs, ", "), http.MethodPut, path("/database", found.ID), wanted, nil)
}

func (p *provisioner) schemas() (names []string) {
	for _, t := range p.cfg.Tables {
		if !slices.Contains(names, t.Schema) {
			names = append(names, t.Schema)
		}
	}
	slices.Sort(names)
	return names
}

// table and field are what Metabase knows of the warehouse.
type table struct {
	ID          int     `json:"id"`
	Schema      string  `json:"schema"`
	Name        string  `json:"name"`
	Description *string `json:"description"`
	Fields      []field `json:"fields"`
}

type field struct {
	ID           int     `json:"id"`
	Name         string  `json:"name"`
	Description  *string `json:"description"`
	SemanticType *string `json:"semantic_type"`
	Target       *int    `json:"fk_target_field_id"`
}

// keepTables waits until every column is known, then says what tables and columns mean.
func (p *provisioner) keepTables(ctx context.Context) error {
	if p.database == 0 {
		return nil // a plan, and the database is not there
	}
	tables, fields, err := p.awaitSchema(ctx)
	if err != nil {
		return err
	}
	for _, t := range p.cfg.Tables {
		name := t.Schema + "." + t.Name
		known, is := tables[name]
		if !is {
			continue // a plan: it will be read
		}
		if text(known.Description) == t.Comment {
			p.report.Unchanged++
		} else if err := p.write(ctx, false, "description of "+name, http.MethodPut, path("/table", known.ID), map[string]any{"description": t.Comment}, nil); err != nil {
			return err
		}
		for _, c := range t.Columns {
			if f, is := fields[name+"."+c.Name]; is {
				if err := p.keepField(ctx, name+"."+c.Name, f, c, semantics(p.cfg.Tables, t, c), fields); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (p *provisioner) keepField(ctx context.Context, name string, now field, c Column, m meaning, fields map[string]field) error {
	set, differs := map[string]any{}, []string(nil)
	if c.Comment != "" && text(now.Description) != c.Comment {
		set["description"], differs = c.Comment, append(differs, "description")
	}
	if m.semanticType != "" && text(now.SemanticType) != m.semanticType {
		set["semantic_type"], differs = m.semanticType, append(differs, "type")
	}
	if m.target != "" {
		target, is := fields[m.target]
		if !is {
			return fmt.Errorf("%s refers to %s, which Metabase does not know: want it visible to the login", name, m.target)
		}
		if now.Target == nil || *now.Target != target.ID {
			set["fk_target_field_id"], differs = target.ID, append(differs, "link")
		}
	}
	if len(set) == 0 {
		p.report.Unchanged++
		return nil
	}
	return p.write(ctx, false, strings.Join(differs, " and ")+" of "+name, http.MethodPut, path("/field", now.ID), set, nil)
}

// awaitSchema asks for a reading of the schema when a column is not known, and waits until all are.
func (p *provisioner) awaitSchema(ctx context.Context) (map[string]table, map[string]field, error) {
	patience, asked := p.patience(), p.fresh // adding a database begins a reading
	for {
		var now struct {
			Tables []table `json:"tables"`
			Sync   string  `json:"initial_sync_status"`
		}
		if err := p.call(ctx, http.MethodGet, path("/database", p.database)+"/metadata?include_hidden=true", nil, &now); err != nil {
			return nil, nil, err
		}
		tables, fields := map[string]table{}, map[string]field{}
		for _, t := range now.Tables {
			tables[t.Schema+"."+t.Name] = t
			for _, f := range t.Fields {
				fields[t.Schema+"."+t.Name+"."+f.Name] = f
			}
		}
		var missing []string
		for _, t := range p.cfg.Tables {
			for _, c := range t.Columns {
				if name := t.Schema + "." + t.Name + "." + c.Name; fields[name].ID == 0 {
					missing = append(missing, name)
				}
			}
		}
		// Until the first reading is through, it may still write descriptions of its own.
		reading := p.fresh && now.Sync == "incomplete"
		if len(missing) == 0 && !reading {
			return tables, fields, nil
		}
		if p.cfg.Plan {
			p.report.Changes = append(p.report.Changes, Change{false, fmt.Sprintf("%d columns that Metabase has not read yet", len(missing))})
			return tables, fields, nil
		}
		if len(missing) > 0 && (!asked || now.Sync == "aborted") {
			if err := p.call(ctx, http.MethodPost, path("/database", p.database)+"/sync_schema", nil, nil); err != nil {
				return nil, nil, err
			}
			asked = true
		}
		if !patience.wait(ctx, fmt.Sprintf("waiting for Metabase to read the schema, %d columns to go", len(missing))) {
			if ctx.Err() != nil {
				return nil, nil, ctx.Err()
			}
			why := "its first reading goes on"
			if len(missing) > 0 {
				why = fmt.Sprintf("%d columns are not known, such as %s", len(missing), missing[0])
			}
			return nil, nil, fmt.Errorf("%w: within %s it has not read the schema: %s: see its log, may the login read them?", ErrNotReady, patience.within, why)
		}
	}
}

// keepCollection makes the collection, and finds what is in it.
func (p *provisioner) keepCollection(ctx context.Context) error {
	var all []struct {
		ID          any     `json:"id"` // a number, or "root"
		Name        string  `json:"name"`
		Location    *string `json:"location"`
		Description *string `json:"description"`
		Archived    bool    `json:"archived"`
		Owner       *int    `json:"personal_owner_id"`
	}
	if err := p.call(ctx, http.MethodGet, "/collection", nil, &all); err != nil {
		return err
	}
	p.items = map[[2]string]int{}
	isTaken := false
	for _, c := range all {
		id, isNumber := c.ID.(float64)
		if c.Name != Name || !isNumber || c.Archived || c.Owner != nil || text(c.Location) != "/" {
			continue
		}
		if !strings.Contains(text(c.Description), "meterhouse bi provision") {
			isTaken = true
			continue
		}
		p.collection = int(id)
		if text(c.Description) == kept {
			p.report.Unchanged++
		} else if err := p.write(ctx, false, "description of collection "+strconv.Quote(Name), http.MethodPut, path("/collection", p.collection), map[string]any{"description": kept}, nil); err != nil {
			return err
		}
		return p.listItems(ctx)
	}
	if isTaken {
		return errors.New("there is one that is not ours, since its description does not name `meterhouse bi provision`: want it renamed, or that put into its description")
	}
	var made struct{ ID int }
	err := p.write(ctx, true, "collection "+strconv.Quote(Name), http.MethodPost, "/collection", map[string]any{"name": Name, "description": kept, "parent_id": nil}, &made)
	p.collection = made.ID
	return err
}

func (p *provisioner) listItems(ctx context.Context) error {
	for offset := 0; ; {
		var page struct {
			Data []struct {
				ID    int    `json:"id"`
				Model string `json:"model"`
				Name  string `json:"name"`
			}
			Total int
		}
		query := url.Values{"models": {"card", "dashboard"}, "limit": {"200"}, "offset": {strconv.Itoa(offset)}}
		if err := p.call(ctx, http.MethodGet, path("/collection", p.collection)+"/items?"+query.Encode(), nil, &page); err != nil {
			return err
		}
		for _, item := range page.Data {
			key := [2]string{item.Model, item.Name}
			if id, twice := p.items[key]; !twice || item.ID < id {
				p.items[key] = item.ID // of two the elder: the other is somebody's copy
			}
		}
		if offset += len(page.Data); len(page.Data) == 0 || offset >= page.Total {
			return nil
		}
	}
}

// keepCards makes the cards, or corrects what differs.
func (p *provisioner) keepCards(ctx context.Context) error {
	p.cards = map[string]int{}
	for _, c := range p.cfg.Cards {
		if err := p.keepCard(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (p *provisioner) keepCard(ctx context.Context, c Card) error {
	what := "card " + strconv.Quote(c.Name)
	looks, _ := plain(c.Settings).(map[string]any)
	if looks == nil {
		looks = map[string]any{}
	}
	display := cmp.Or(c.Display, "table")
	wanted := map[string]any{"description": c.Description, "display": display, "dataset_query": c.query(p.database), "visualization_settings": looks}
	id := p.items[[2]string{"card", c.Name}]
	if id == 0 {
		wanted["name"], wanted["collection_id"], wanted["type"] = c.Name, p.collection, "question"
		var made struct{ ID int }
		if err := p.write(ctx, true, what, http.MethodPost, "/card", wanted, &made); err != nil {
			return err
		}
		p.cards[c.Name] = made.ID
		return nil
	}
	p.cards[c.Name] = id
	var now struct {
		Description *string        `json:"description"`
		Display     string         `json:"display"`
		Query       map[string]any `json:"dataset_query"`
		Settings    map[string]any `json:"visualization_settings"`
	}
	if err := p.call(ctx, http.MethodGet, path("/card", id), nil, &now); err != nil {
		return err
	}
	set, differs := map[string]any{}, []string(nil)
	differ := func(what, key string, value any) { set[key], differs = value, append(differs, what) }
	if text(now.Description) != c.Description {
		differ("description", "description", c.Description)
	}
	if now.Display != display {
		differ("chart", "display", display)
	}
	if !sameQuery(now.Query, wanted["dataset_query"]) {
		differ("query", "dataset_query", wanted["dataset_query"])
	}
	if !covers(now.Settings, looks) {
		differ("settings", "visualization_settings", over(now.Settings, looks))
	}
	if len(set) == 0 {
		p.report.Unchanged++
		return nil
	}
	return p.write(ctx, false, what+": "+strings.Join(differs, ", "), http.MethodPut, path("/card", id), set, nil)
}

// query is the card's query as Metabase stores it.
func (c Card) query(database int) map[string]any {
	tags := map[string]any{}
	for _, v := range c.Variables {
		tags[v.Name] = map[string]any{"id": stableID(c.Name, v.Name), "name": v.Name, "display-name": v.Label, "type": v.Type}
	}
	return map[string]any{
		"lib/type": "mbql/query", "database": database,
		"stages": []any{map[string]any{"lib/type": "mbql.stage/native", "native": c.SQL, "template-tags": tags}},
	}
}

// stableID is a UUID that the same names always have.
func stableID(names ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(names, "\x00")))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80 // version 8: of our own making
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// sameQuery compares what a query asks: the database, the text and its variables. Metabase adds marks of its
// own, and hands out queries of former releases in their form.
func sameQuery(now map[string]any, wanted any) bool {
	want, _ := plain(wanted).(map[string]any)
	return reflect.DeepEqual(essence(now), essence(want))
}

func essence(query map[string]any) map[string]any {
	e := map[string]any{"database": query["database"], "sql": nil, "tags": map[string]any{}}
	stage := map[string]any{}
	if stages, _ := query["stages"].([]any); len(stages) == 1 {
		stage, _ = stages[0].(map[string]any)
		e["sql"] = stage["native"]
	} else if native, is := query["native"].(map[string]any); is {
		stage = native
		e["sql"] = native["query"]
	}
	tags, _ := stage["template-tags"].(map[string]any)
	for name, tag := range tags {
		t, _ := tag.(map[string]any)
		about := map[string]any{}
		// A default or an obligation would change what the card shows.
		for _, key := range []string{"name", "display-name", "type", "default", "required"} {
			if v := t[key]; v != nil && v != false {
				about[key] = v
			}
		}
		e["tags"].(map[string]any)[name] = about
	}
	return e
}

// verify runs every card as it is, without a filter.
func (p *provisioner) verify(ctx context.Context) error {
	if !p.cfg.Verify || p.cfg.Plan {
		return nil
	}
	for i, c := range p.cfg.Cards {
		p.cfg.Notice(fmt.Sprintf("running card %d of %d: %s", i+1, len(p.cfg.Cards), c.Name))
		var answer struct {
			Status string
			Error  any
			Data   struct {
				Rows []json.RawMessage
				Cut  int `json:"rows_truncated"` // the limit that it met; 0: none
			}
		}
		if err := p.call(ctx, http.MethodPost, path("/card", p.cards[c.Name])+"/query", map[string]any{}, &answer); err != nil {
			return fmt.Errorf("card %q: %w", c.Name, err)
		}
		v := Verified{Card: c.Name, Rows: len(answer.Data.Rows), IsCut: answer.Data.Cut > 0}
		if answer.Status != "completed" {
			v.Problem = cmp.Or(p.excerpt(fmt.Append(nil, answer.Error)), "status "+answer.Status)
		}
		p.report.Verified = append(p.report.Verified, v)
	}
	return nil
}

func path(kind string, id int) string { return kind + "/" + strconv.Itoa(id) }

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func first[T any](all []T, is func(T) bool) *T {
	if i := slices.IndexFunc(all, is); i >= 0 {
		return &all[i]
	}
	return nil
}

// plain is a value as JSON has it: maps, lists, texts, numbers as float64.
func plain(v any) (out any) {
	encoded, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(encoded, &out)
	}
	if err != nil {
		panic(err) // our own values
	}
	return out
}

// covers tells that now says everything that wanted says. Maps may say more.
func covers(now, wanted any) bool {
	switch w := wanted.(type) {
	case map[string]any:
		n, is := now.(map[string]any)
		if !is {
			return len(w) == 0
		}
		for key, value := range w {
			if !covers(n[key], value) {
				return false
			}
		}
		return true
	case []any:
		n, is := now.([]any)
		if !is || len(n) != len(w) {
			return false
		}
		for i := range w {
			if !covers(n[i], w[i]) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(now, wanted)
}

// over is now with what wanted says in place of its own.
func over(now, wanted map[string]any) map[string]any {
	out := maps.Clone(now)
	if out == nil {
		out = map[string]any{}
	}
	for key, value := range wanted {
		inner, isMap := value.(map[string]any)
		theirs, isTheirs := out[key].(map[string]any)
		if isMap && isTheirs {
			out[key] = over(theirs, inner)
		} else {
			out[key] = value
		}
	}
	return out
}
