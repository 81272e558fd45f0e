package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"meterhouse/etl/metabase"
	"meterhouse/etl/metabase/metabasesim"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/queries"
)

// desk is a loaded warehouse and a Metabase beside it, which reads it as its own login does.
type desk struct {
	*oracle
	sim   *metabasesim.Sim
	base  string
	login string
	me    string    // session of a person
	bi    *pgx.Conn // of Metabase, in the zone of somebody's desk
}

func newDesk(t *testing.T) *desk {
	d := &desk{oracle: newOracle(t)}

	u, err := url.Parse(d.database)
	if err != nil {
		t.Fatal(err)
	}
	admin := warehousetest.Connect(t, d.database)
	d.login = "bi_" + admin.Config().Database
	u.User = url.UserPassword(d.login, "its own secret")
	t.Cleanup(func() {
		_, _ = admin.Exec(context.Background(), "drop role if exists "+d.login)
	})
	d.sim = metabasesim.New(metabasesim.Config{Connect: d.connect, Catalogue: d.catalogue, Run: d.query, SyncsIn: 2})
	server := httptest.NewServer(d.sim)
	t.Cleanup(server.Close)
	d.base = server.URL
	d.env["METERHOUSE_BI_URL"] = server.URL
	d.env["METERHOUSE_BI_EMAIL"] = "bi@example.com"
	d.env["METERHOUSE_BI_PASSWORD_FILE"] = writeFile(t, "password", "correct horse 1\n")
	d.env["METERHOUSE_BI_DATABASE_URL_FILE"] = writeFile(t, "url", u.String()+"\n")
	return d
}

// as is how Metabase reaches the warehouse: by the details that it was given.
func (d *desk) as(details map[string]any) (*pgx.Conn, error) {
	u := url.URL{Scheme: "postgres", Host: fmt.Sprintf("%v:%v", details["host"], details["port"]), Path: fmt.Sprint(details["dbname"]), User: url.UserPassword(fmt.Sprint(details["user"]), fmt.Sprint(details["password"]))}
	cfg, err := pgx.ParseConfig(u.String())
	if err != nil {
		return nil, err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	return pgx.ConnectConfig(d.t.Context(), cfg)
}

func (d *desk) connect(details map[string]any) error {
	if details["engine"] == "h2" {
		return nil
	}
	conn, err := d.as(details)
	if err == nil {
		err = conn.Close(d.t.Context())
	}
	return err
}

// reader is Metabase's connection; it asks one thing after the other.
func (d *desk) reader() *pgx.Conn {
	d.t.Helper()
	if d.bi != nil {
		return d.bi
	}
	u, err := url.Parse(d.database)
	if err != nil {
		d.t.Fatal(err)
	}
	u.User = url.UserPassword(d.login, "its own secret")
	if d.bi, err = pgx.Connect(d.t.Context(), u.String()); err == nil {
		_, err = d.bi.Exec(d.t.Context(), "set timezone = 'Pacific/Kiritimati'")
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { d.bi.Close(context.Background()) })
	return d.bi
}

// catalogue is what the login sees of every schema.
func (d *desk) catalogue() (tables []metabasesim.Table) {
	rows, err := d.reader().Query(d.t.Context(), `
		select n.nspname, c.relname, coalesce(obj_description(c.oid, 'pg_class'), ''), a.attname, format_type(a.atttypid, null), coalesce(col_description(c.oid, a.attnum), '')
		from pg_class as c join pg_namespace as n on n.oid = c.relnamespace join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		where has_schema_privilege(n.oid, 'usage') and c.relkind in ('r', 'p', 'v') and has_table_privilege(c.oid, 'select') and n.nspname !~ '^pg_|information_schema'
		order by 1, 2, a.attnum`)
	if err != nil {
		d.t.Fatal(err)
	}
	var t metabasesim.Table
	var c metabasesim.Column
	if _, err := pgx.ForEachRow(rows, []any{&t.Schema, &t.Name, &t.Comment, &c.Name, &c.Type, &c.Comment}, func() error {
		if last := len(tables) - 1; last < 0 || tables[last].Schema+tables[last].Name != t.Schema+t.Name {
			tables = append(tables, metabasesim.Table{Schema: t.Schema, Name: t.Name, Comment: t.Comment})
		}
		tables[len(tables)-1].Columns = append(tables[len(tables)-1].Columns, c)
		return nil
	}); err != nil {
		d.t.Fatal(err)
	}
	return tables
}

// query runs a question as the login.
func (d *desk) query(ctx context.Context, sql string) (columns []string, out [][]any, err error) {
	return asTexts(ctx, d.reader(), sql)
}

// asTexts runs a query and has every value as Postgres writes it.
func asTexts(ctx context.Context, conn *pgx.Conn, sql string, args ...any) (columns []string, out [][]any, err error) {
	rows, err := conn.Query(ctx, sql, append([]any{pgx.QueryExecModeExec, pgx.QueryResultFormats{pgx.TextFormatCode}}, args...)...)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for _, f := range rows.FieldDescriptions() {
		columns = append(columns, f.Name)
	}
	out = [][]any{}
	for rows.Next() {
		row := []any{}
		for i, raw := range rows.RawValues() {
			if raw == nil {
				row = append(row, nil)
			} else if rows.FieldDescriptions()[i].DataTypeOID == pgtype.TimestamptzOID {
				at, err := time.Parse("2006-01-02 15:04:05.999999-07", string(raw))
				if err != nil {
					return nil, nil, err
				}
				row = append(row, at.UTC().Format(time.RFC3339))
			} else {
				row = append(row, string(raw))
			}
		}
		out = append(out, row)
	}
	return columns, out, rows.Err()
}

// ask is a request of a person's browser.
func (d *desk) ask(method, path string, body any) map[string]any {
	d.t.Helper()
	if d.me == "" {
		d.me = d.sim.SetUp("ann@example.com", "ann 123456")
	}
	text, _ := json.Marshal(body)
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.base+"/api"+path, bytes.NewReader(text))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("X-Metabase-Session", d.me)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode > 299 {
		d.t.Fatalf("%s %s: %d %s %v", method, path, res.StatusCode, answer, err)
	}
	var out map[string]any
	_ = json.Unmarshal(answer, &out)
	return out
}

// items are the cards and dashboards that the run left, by model and name.
func (d *desk) items() map[[2]string]int {
	all := map[[2]string]int{}
	for id := 1; id < 2000 && len(all) == 0; id++ {
		req, err := http.NewRequestWithContext(d.t.Context(), "GET", fmt.Sprintf("%s/api/collection/%d/items", d.base, id), nil)
		if err != nil {
			d.t.Fatal(err)
		}
		d.ask("GET", "/user/current", nil)
		req.Header.Set("X-Metabase-Session", d.me)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			d.t.Fatal(err)
		}
		var page struct {
			Data []struct {
				ID          int
				Model, Name string
			}
		}
		_ = json.NewDecoder(res.Body).Decode(&page)
		res.Body.Close()
		for _, i := range page.Data {
			all[[2]string{i.Model, i.Name}] = i.ID
		}
	}
	return all
}

// tableShown is what a card showed.
type tableShown struct {
	columns []string
	rows    [][]any
}

func (d *desk) answered(what string, out map[string]any) tableShown {
	d.t.Helper()
	if out["status"] != "completed" {
		d.t.Errorf("%s: %v", what, out["error"])
		return tableShown{}
	}
	data := out["data"].(map[string]any)
	var a tableShown
	for _, c := range data["cols"].([]any) {
		a.columns = append(a.columns, c.(map[string]any)["name"].(string))
	}
	for _, r := range data["rows"].([]any) {
		a.rows = append(a.rows, r.([]any))
	}
	return a
}

func TestBIProvision(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	plan := d.must(exitDone, "bi", "provision", "--plan")
	wantContains(t, "plan", plan.stdout, "would be created login \""+d.login+"\" of the warehouse: made may read\n", "would be created the first administrator\n", "would be created dashboard \"Month end\"\n")
	if d.sim.Writes() > 0 || d.value(`select count(*)::text from pg_roles where rolname = $1`, d.login) != "0" {
		t.Error("a plan changed something")
	}
	first := d.must(exitDone, "bi", "provision", "--verify")
	wantContains(t, "first", first.stdout, "created login \""+d.login+"\" of the warehouse: made may read\n", "created the first administrator\n", "changed type and link of mart.quarantine.run_id\n",
		"created card \"Missing days\"\n", "on Metabase v0.58.34: 47 of 47 questions answered")
	for _, secret := range []string{"correct horse", "its own secret"} {
		if strings.Contains(first.stdout+first.stderr+plan.stdout, secret) {
			t.Errorf("the output shows %q", secret)
		}
	}
	before := d.sim.Writes()
	again := d.must(exitDone, "bi", "provision")
	if !regexp.MustCompile(`^created 0, changed 0, unchanged \d{3}\n$`).MatchString(again.stdout) || d.sim.Writes() != before {
		t.Errorf("%d writes: %s", d.sim.Writes()-before, again.stdout)
	}

	d.exec(`comment on column mart.run.error is 'Why it went wrong.'`)
	if got := d.must(exitDone, "bi", "provision").stdout; !strings.HasPrefix(got, "changed description of mart.run.error\ncreated 0, changed 1, ") {
		t.Error(got)
	}
	d.keysAreTrue()
	items := d.items()
	d.questionsSayTheSame(items)
	d.dashboardsAnswer(items)
	d.figuresAreTheMarts(items)
	d.lostMonthShows(items)
}

// lostMonthShows loses a whole month of one base level: no card adds up the others as if it were all.
func (d *desk) lostMonthShows(items map[[2]string]int) {
	d.t.Helper()
	d.exec(`
		delete from dw.fact_daily_consumption
		where usage_date >= '2026-06-01' and usage_date < '2026-07-01' and service_level_key = (
			select f.service_level_key
			from dw.fact_daily_consumption as f
			join dw.dim_service_level as l using (service_level_key)
			where l.level_class = 'base'
			group by f.service_level_key
			having min(f.usage_date) < '2026-06-01' and max(f.usage_date) >= '2026-07-01'
			order by f.service_level_key
			limit 1)`)
	june := map[string]any{"parameters": []any{map[string]any{"type": "string/=", "target": []any{"variable", []any{"template-tag", "month"}}, "value": "2026-06"}}}
	run := func(name string, body map[string]any) (rows []map[string]any) {
		a := d.answered(name, d.ask("POST", fmt.Sprintf("/card/%d/query", items[[2]string{"card", name}]), body))
		for _, r := range a.rows {
			row := map[string]any{}
			for i, column := range a.columns {
				row[column] = r[i]
			}
			rows = append(rows, row)
		}
		return rows
	}
	days := run("Committed and consumed by day", june)
	for _, day := range days {
		if day["committed_tib"] != nil || day["consumed_tib"] != nil || day["over_committed_tib"] != nil {
			d.t.Errorf("a level is lost for all of June, and %v is told as if it were not", day)
		}
	}
	if len(days) != 30 {
		d.t.Errorf("%d days of June", len(days))
	}
	burst := run("Burst by month", map[string]any{})
	i := slices.IndexFunc(burst, func(row map[string]any) bool { return row["month"] == "2026-06-01" })
	if i < 0 || burst[i]["accrued_burst_tib"] != nil || burst[i]["not_whole_tib"] == nil {
		d.t.Errorf("June is told as a whole month: %v", burst)
	}
	if levels := run("Levels of the month", june); !slices.ContainsFunc(levels, func(row map[string]any) bool {
		return row["days_observed"] == "0" && row["days_expected"] == "30" && row["consumed_avg_tib"] == nil
	}) {
		d.t.Errorf("the level without a day is not listed: %v", levels)
	}
}

// keysAreTrue holds that what is called a key identifies a row, and that what is linked is there.
func (d *desk) keysAreTrue() {
	d.t.Helper()
	keys, links := 0, 0
	for _, m := range regexp.MustCompile(`(?m)^column "(\w+)" "(\w+)" ".*" "type/(PK|FK)" "(\w*)\.?(\w*)" true$`).FindAllStringSubmatch(d.sim.State(), -1) {
		if m[3] == "PK" {
			keys++
			if n := d.value(fmt.Sprintf(`select (count(*) - count(distinct %[2]s))::text from mart.%[1]s`, m[1], m[2])); n != "0" {
				d.t.Errorf("mart.%s.%s is called a key, and %s rows share one", m[1], m[2], n)
			}
			continue
		}
		links++
		if n := d.value(fmt.Sprintf(`select count(*)::text from mart.%s as f where f.%s is not null and not exists (select from mart.%s as t where t.%s = f.%[2]s)`, m[1], m[2], m[4], m[5])); n != "0" {
			d.t.Errorf("mart.%s.%s refers to mart.%s, where %s are not", m[1], m[2], m[4], n)
		}
	}
	if keys < 2 || links < 1 {
		d.t.Errorf("%d keys, %d links: the test looks at nothing", keys, links)
	}
}

// questionsSayTheSame runs each of the analysts' questions as a card and as a report: with its defaults, and
// with every parameter set.
func (d *desk) questionsSayTheSame(items map[[2]string]int) {
	d.t.Helper()
	conn := warehousetest.Connect(d.t, d.database)
	given := map[string]string{"month": "2026-06", "from_month": "2026-05", "until_month": "2026-07", "from_day": "2026-06-01", "until_day": "2026-07-01", "top": "2", "min_age_hours": "5"}
	full := 0
	for _, q := range queries.All() {
		values, parameters := map[string]string{}, []any{}
		for _, p := range q.Params {
			value, err := p.Read(given[p.Name])
			if err != nil {
				d.t.Fatalf("%s: %s: %v", q.Name, p.Name, err)
			}
			values[p.Name] = value
			kind := map[string]string{"date": "date/single", "integer": "number/="}[p.Type]
			if p.IsMonth() {
				kind = "string/="
			}
			parameters = append(parameters, map[string]any{"type": kind, "target": []any{"variable", []any{"template-tag", p.Name}}, "value": given[p.Name]})
		}
		for i, body := range []map[string]any{{}, {"parameters": parameters}} {
			sql, args := q.With(map[string]string{})
			if i == 1 {
				sql, args = q.With(values)
			}
			columns, rows, err := asTexts(d.t.Context(), conn, sql, args...)
			if err != nil {
				d.t.Fatal(err)
			}
			got := d.answered(q.Name, d.ask("POST", fmt.Sprintf("/card/%d/query", items[[2]string{"card", sentence(q.Name)}]), body))
			if diff := gocmp.Diff(tableShown{columns, rows}, got, gocmp.AllowUnexported(tableShown{}), gocmp.Transformer("none", func(r [][]any) string { return fmt.Sprint(r) })); diff != "" {
				d.t.Errorf("%s, %v (-report +card):\n%s", q.Name, body, diff)
			}
			if len(rows) > 0 {
				full++
			}
		}
	}
	if full < 20 {
		d.t.Errorf("only %d answers had rows", full)
	}
}

// empty are the cards that have nothing to show in this world.
var empty = []string{"Invoice lines", "What wants a person"}

// dashboardsAnswer picks every value that each filter offers, alone and together: every card answers, says
// only what was asked for, and has rows where there are some.
func (d *desk) dashboardsAnswer(items map[[2]string]int) {
	d.t.Helper()
	seen := map[string]int{}
	for _, page := range metabase.Dashboards() {
		id := items[[2]string{"dashboard", page.Name}]
		now := d.ask("GET", fmt.Sprintf("/dashboard/%d", id), nil)
		offered := map[string][]any{}
		for _, f := range page.Filters {
			offered[f.Variable] = append(offered[f.Variable], nil)
			for _, v := range d.ask("GET", fmt.Sprintf("/dashboard/%d/params/%s/values", id, f.Variable), nil)["values"].([]any) {
				offered[f.Variable] = append(offered[f.Variable], v.([]any)[0])
			}
			if len(offered[f.Variable]) < 3 {
				d.t.Errorf("%s: filter %s offers %v", page.Name, f.Label, offered[f.Variable])
			}
		}
		for _, dc := range now["dashcards"].([]any) {
			m := dc.(map[string]any)
			if m["card_id"] == nil {
				continue
			}
			name := m["card"].(map[string]any)["name"].(string)
			wired := map[string]bool{}
			for _, mapping := range m["parameter_mappings"].([]any) {
				wired[mapping.(map[string]any)["parameter_id"].(string)] = true
			}
			for _, month := range choices(offered, wired, "month") {
				for _, customer := range choices(offered, wired, "customer") {
					what := fmt.Sprintf("%s: %s, month %v, customer %v", page.Name, name, month, customer)
					a := d.answered(what, d.ask("POST", fmt.Sprintf("/dashboard/%d/dashcard/%v/card/%v/query", id, m["id"], m["card_id"]), map[string]any{
						"parameters": []any{map[string]any{"id": "month", "value": month}, map[string]any{"id": "customer", "value": customer}},
					}))
					seen[name] += len(a.rows)
					d.saysOnly(what, a, month, customer)
				}
			}
		}
	}
	for name, rows := range seen {
		if (rows == 0) != slices.Contains(empty, name) {
			d.t.Errorf("%s showed %d rows", name, rows)
		}
	}
	if len(seen) < 25 {
		d.t.Errorf("%d cards were looked at", len(seen))
	}
}

func choices(offered map[string][]any, wired map[string]bool, filter string) []any {
	if !wired[filter] {
		return []any{nil}
	}
	return offered[filter]
}

// saysOnly holds that what has a customer or a month has the one that was asked for.
func (d *desk) saysOnly(what string, a tableShown, month, customer any) {
	d.t.Helper()
	for i, column := range a.columns {
		for _, row := range a.rows {
			text := fmt.Sprint(row[i])
			switch {
			case column == "customer_id" && customer != nil && text != customer:
				d.t.Fatalf("%s: customer %s", what, text)
			case (column == "month" || column == "day") && month != nil && !strings.HasPrefix(text, fmt.Sprint(month)):
				d.t.Fatalf("%s: %s %s", what, column, text)
			}
		}
	}
}

// figuresAreTheMarts compares what charts add up with the mart.
func (d *desk) figuresAreTheMarts(items map[[2]string]int) {
	d.t.Helper()
	run := func(name string) tableShown {
		return d.answered(name, d.ask("POST", fmt.Sprintf("/card/%d/query", items[[2]string{"card", name}]), map[string]any{}))
	}
	holes, daily := 0, run("Committed and consumed by day").rows
	for _, row := range daily {
		day := fmt.Sprint(row[0])
		want := d.value(`select case when exists (select from mart.coverage as c where c.dataset = 'keystone.history' and c.day = $1::date and c.status in ('missing', 'lost', 'partial')
			and (c.service_level is null or (c.customer_id, c.subscription_number, c.discriminator, c.service_level, c.level_ordinal) in
				(select customer_id, subscription_number, discriminator, service_level, level_ordinal from mart.daily_consumption where level_class = 'base')))
			then 'hole' else (select sum(consumed_avg_tib)::text from mart.daily_consumption where level_class = 'base' and usage_date = $1::date) end`, day)
		got := "hole"
		if row[2] != nil {
			got = fmt.Sprint(row[2])
		} else {
			holes++
		}
		if got != want {
			d.t.Errorf("consumed on %s: %s, want %s", day, got, want)
		}
	}
	if holes == 0 || holes == len(daily) {
		d.t.Errorf("this world skips some days: %d of %d show as a hole", holes, len(daily))
	}
	for name, sql := range map[string]string{
		"Statement by charge":    `select coalesce(sum(amount), 0)::text from mart.statement where period = '2026-06' and currency = 'USD'`,
		"Levels of the month":    `select sum(committed_tib)::text from mart.month where month = '2026-06-01'`,
		"Open in quarantine":     `select count(*)::text from mart.quarantine where resolved_at is null`,
		"Days lacking":           `select count(*)::text from mart.coverage where status in ('missing', 'lost') and day >= '2026-07-10'::date - 60`,
		"State of the statement": `select 'provisional'`,
	} {
		a, column, want := run(name), 0, d.value(sql)
		sum := "0"
		switch name {
		case "Statement by charge":
			column = slices.Index(a.columns, "amount")
		case "Levels of the month":
			column = slices.Index(a.columns, "committed_tib")
		}
		for _, row := range a.rows {
			switch {
			case name == "State of the statement":
				sum = fmt.Sprint(row[0])
			case name == "Statement by charge" && row[slices.Index(a.columns, "currency")] != "USD" || row[column] == nil:
			default:
				sum = plus(sum, fmt.Sprint(row[column]))
			}
		}
		if sum != canonical(want) {
			d.t.Errorf("%s says %s, the mart %s", name, sum, want)
		}
	}
}

func TestBIProvisionRefuses(t *testing.T) {
	t.Parallel()
	database := warehousetest.New(t)
	env := map[string]string{"METERHOUSE_DATABASE_URL": database}
	try := func(code int, want string, args ...string) {
		t.Helper()
		o := invoke(t, env, "", append([]string{"bi", "provision"}, args...)...)
		if o.code != code || !strings.Contains(o.stderr, want) {
			t.Errorf("%d %s\nwant %d %s", o.code, o.stderr, code, want)
		}
	}
	try(exitUsage, "bi.database_url is empty: want postgres://login:password@host/database, as Metabase reaches it (METERHOUSE_BI_DATABASE_URL)")
	env["METERHOUSE_BI_DATABASE_URL"] = "postgres://postgres/meterhouse"
	try(exitUsage, "bi.database_url: want a login, a host and a database in it")
	env["METERHOUSE_BI_DATABASE_URL"] = "postgres://bi:x@h/d?sslmode=prefer"
	env["METERHOUSE_BI_EMAIL"], env["METERHOUSE_BI_PASSWORD"] = "a@example.com", "x"
	try(exitUsage, "bi.database_url: sslmode prefer: want disable, require, verify-ca or verify-full")
	owner, err := pgx.ParseConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	env["METERHOUSE_BI_DATABASE_URL"] = fmt.Sprintf("postgres://%s:x@h/d", owner.User)
	try(exitFailed, "login "+owner.User+": it may do more than read: want one of its own")
	env["METERHOUSE_BI_DATABASE_URL"] = "postgres://nobody_" + owner.Database + ":x@h/d"
	env["METERHOUSE_BI_URL"] = "http://127.0.0.1:1"
	try(exitBusy, "metabase is not ready: no health within 1ms at http://127.0.0.1:1", "--wait", "1ms", "--plan")
	other := warehousetest.Connect(t, database) // another one that is at work: two would make everything twice
	if _, err := other.Exec(t.Context(), `select pg_advisory_lock(hashtextextended('meterhouse alone bi provision', 0))`); err != nil {
		t.Fatal(err)
	}
	try(exitBusy, "bi provision: another process does this just now: want one at a time", "--wait", "1ms")
	try(exitBusy, "metabase is not ready: no health within 1ms", "--wait", "1ms", "--plan")
	env["METERHOUSE_BI_URL"] = "http://user:secret@127.0.0.1:1"
	try(exitUsage, "bi.url: want https://host or http://host:port, without a login in it")
}
