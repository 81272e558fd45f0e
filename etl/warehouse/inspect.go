package warehouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Level says how bad a finding is.
type Level string

// Levels of findings.
const (
	OK   Level = "ok"
	Warn Level = "warn" // loads work; something is at risk
	Fail Level = "fail" // loads do not work
)

// Finding is one thing that is in order, or not, and then what to do about it.
type Finding struct {
	Level  Level
	About  string
	Found  string
	Remedy string // in words or SQL; empty when nothing is to be done
}

// findings are those that need no second look.
func (s Server) findings() (all []Finding) {
	add := func(level Level, remedy, format string, args ...any) {
		all = append(all, Finding{level, "database", fmt.Sprintf(format, args...), remedy})
	}
	switch {
	case s.Major < minMajor:
		add(Fail, fmt.Sprintf("upgrade it, or use a server of version %d to %d", minMajor, maxMajor),
			"database server is PostgreSQL %s, want %d or newer", s.Version, minMajor)
	case s.Major > maxMajor:
		add(Warn, "look for a newer meterhouse", "PostgreSQL %s is newer than what this version was tested with (%d to %d)", s.Version, minMajor, maxMajor)
	}
	if s.Encoding != "UTF8" {
		add(Fail, `create it with "encoding 'UTF8' template template0"`, "database encoding is %s, want UTF8", s.Encoding)
	}
	if s.ReadOnly {
		add(Fail, "point database.url at the primary", "database is read-only (a standby, or default_transaction_read_only), want the primary")
	}
	switch {
	case s.Schema < s.Head:
		add(Fail, "run `meterhouse migrate up`", "database schema is at version %d, this binary wants %d", s.Schema, s.Head)
	case s.Schema > s.Head:
		add(Fail, "use the newer binary", "database schema is at version %d, this binary knows up to %d", s.Schema, s.Head)
	}
	if all == nil {
		add(OK, "", "PostgreSQL %s, encoding %s, schema %d of %d", s.Version, s.Encoding, s.Schema, s.Head)
	}
	return all
}

// Inspect looks for everything that would stop or endanger loads: version, encoding, schema,
// rights, settings, room for conns connections. It changes nothing. Every finding that is not OK
// says what to do. The error means that it could not look.
func Inspect(ctx context.Context, url string, conns int) (Server, []Finding, error) {
	s, err := Probe(ctx, url)
	if err != nil {
		return s, nil, err
	}
	conn, err := connect(ctx, url)
	if err != nil {
		return s, nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	i := &inspection{conn: conn, server: s, found: s.findings()}
	var steps []func(context.Context) error
	if s.Schema < s.Head {
		steps = append(steps, i.migrationRights)
	}
	if s.Schema > 0 {
		steps = append(steps, i.loadRights)
	}
	if s.Schema == s.Head {
		steps = append(steps, i.reader, i.books)
	}
	steps = append(steps, i.settings)
	if s.Pooler == NoPooler { // a pooler has numbers of its own
		steps = append(steps, func(ctx context.Context) error { return i.room(ctx, conns) })
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return s, i.found, fmt.Errorf("inspect database %s: %w", where(conn.Config()), err)
		}
	}
	return s, i.found, nil
}

type inspection struct {
	conn   *pgx.Conn
	server Server
	found  []Finding
}

func (i *inspection) add(level Level, about, remedy, format string, args ...any) {
	i.found = append(i.found, Finding{level, about, fmt.Sprintf(format, args...), remedy})
}

// role is the role's name as SQL wants it.
func (i *inspection) role() string { return pgx.Identifier{i.server.Role}.Sanitize() }

// ours are the relations of the warehouse that have rights of their own.
const ours = `
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname in ('raw', 'ops', 'dw', 'mart', 'billing', 'river') and c.relkind in ('r', 'p', 'v', 'S') and not c.relispartition`

// migrationRights asks what a migration needs: to create, and to own what it alters.
func (i *inspection) migrationRights(ctx context.Context) error {
	var database string
	var mayCreate, hasPublic, mayInPublic bool
	var foreign, owners []string
	err := i.conn.QueryRow(ctx, `
		with foreign_relation as (
			select n.nspname || '.' || c.relname as name, pg_get_userbyid(c.relowner) as owner`+ours+`
				and not pg_has_role(c.relowner, 'usage')
				and pg_get_userbyid(c.relowner) <> 'meterhouse_owner' -- closed months are nobody's to alter
		)

		select
			current_database(),
			has_database_privilege(current_database(), 'create'),
			to_regnamespace('public') is not null,
			coalesce(has_schema_privilege(to_regnamespace('public'), 'create'), false),
			coalesce((select array_agg(name order by name) from foreign_relation), '{}'),
			coalesce((select array_agg(distinct owner) from foreign_relation), '{}')`).
		Scan(&database, &mayCreate, &hasPublic, &mayInPublic, &foreign, &owners)
	if err != nil {
		return err
	}
	isNew := i.server.Schema == 0
	if isNew && !mayCreate {
		i.add(Fail, "rights", fmt.Sprintf("as its owner: grant create on database %s to %s", pgx.Identifier{database}.Sanitize(), i.role()),
			"role %s may not create schemas in database %s", i.server.Role, database)
	}
	if isNew && !mayInPublic {
		remedy := "grant usage, create on schema public to " + i.role()
		if !hasPublic {
			remedy = "create schema public authorization " + i.role()
		}
		i.add(Fail, "rights", "as the owner of the database: "+remedy,
			"role %s may not create the table of migrations in schema public", i.server.Role)
	}
	if len(foreign) > 0 {
		i.add(Fail, "rights", fmt.Sprintf("migrate as %s, or as an administrator: grant %s to %s",
			strings.Join(owners, " or "), pgx.Identifier{owners[0]}.Sanitize(), i.role()),
			"role %s may not alter %s, which belong to %s", i.server.Role, some(foreign), strings.Join(owners, ", "))
	}
	return nil
}

// loadRights asks what a load needs: to read and write everything, and to make partitions, which
// only the owner of their table can.
func (i *inspection) loadRights(ctx context.Context) error {
	rows, err := i.conn.Query(ctx, `
		with lacking as (
			select n.nspowner as owner, 1 as rank, 'usage of schema ' || n.nspname as what
			from pg_namespace as n
			where n.nspname in ('raw', 'ops', 'dw', 'mart', 'river') and not has_schema_privilege(n.oid, 'usage')
			union all
			select c.relowner, 2, 'ownership of dw.fact_consumption_sample'
			from pg_class as c
			join pg_namespace as n on n.oid = c.relnamespace
			where n.nspname = 'dw' and c.relname = 'fact_consumption_sample' and not pg_has_role(c.relowner, 'usage')
			union all
			select c.relowner, 3, array_to_string(privileges, ', ') || ' on ' || n.nspname || '.' || c.relname
			from pg_class as c
			join pg_namespace as n on n.oid = c.relnamespace
			cross join lateral (
				select array(
					select privilege
					from unnest(case
						when c.relkind = 'S' then array['usage']
						when n.nspname = 'mart' then array['select']
						else array['select', 'insert', 'update', 'delete']
					end) as privilege
					where not case when c.relkind = 'S' then has_sequence_privilege(c.oid, privilege) else has_table_privilege(c.oid, privilege) end
				) as privileges
			) as p
			where n.nspname in ('raw', 'ops', 'dw', 'mart', 'river') and c.relkind in ('r', 'p', 'v', 'S') and not c.relispartition and privileges <> '{}'
		)

		select pg_get_userbyid(owner), what
		from lacking
		order by rank, what`)
	if err != nil {
		return err
	}
	var owner, lacks string
	var owners, lacking []string
	if _, err := pgx.ForEachRow(rows, []any{&owner, &lacks}, func() error {
		lacking = append(lacking, lacks)
		if !slices.Contains(owners, owner) {
			owners = append(owners, owner)
		}
		return nil
	}); err != nil {
		return err
	}
	if len(lacking) > 0 {
		i.add(Fail, "rights", fmt.Sprintf("connect as %s, or as an administrator: grant %s to %s",
			strings.Join(owners, " or "), pgx.Identifier{owners[0]}.Sanitize(), i.role()),
			"role %s lacks %s", i.server.Role, some(lacking))
	} else if i.server.Schema == i.server.Head {
		i.add(OK, "rights", "", "role %s may read, write and make partitions", i.server.Role)
	}
	return nil
}

// reader asks whether bi_reader may read what it is for, and nothing else.
func (i *inspection) reader(ctx context.Context) error {
	const again = "run `meterhouse migrate up`: it grants, or prints what an administrator has to run"
	var exists bool
	if err := i.conn.QueryRow(ctx, `select exists (select from pg_roles where rolname = 'bi_reader')`).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		i.add(Warn, "bi_reader", again, "the role does not exist: people and BI tools have no role to read with")
		return nil
	}
	var hidden, open []string
	err := i.conn.QueryRow(ctx, `
		with relation as (
			select n.nspname || '.' || c.relname as name, n.nspname in ('mart', 'dw', 'billing') as is_public,
				has_schema_privilege('bi_reader', n.oid, 'usage') and has_table_privilege('bi_reader', c.oid, 'select') as is_readable`+ours+`
				and c.relkind <> 'S'
		)

		select
			coalesce(array_agg(name order by name) filter (where is_public and not is_readable), '{}'),
			coalesce(array_agg(name order by name) filter (where is_readable and not is_public), '{}')
		from relation`).Scan(&hidden, &open)
	if err != nil {
		return err
	}
	if len(hidden) > 0 {
		i.add(Warn, "bi_reader", again, "the role may not read %s", some(hidden))
	}
	if len(open) > 0 {
		i.add(Warn, "bi_reader", "as their owner: revoke select on all tables in schema raw, ops from bi_reader, public",
			"the role may read %s, which is not for people: it holds bodies and sealed tokens", some(open))
	}
	if len(hidden)+len(open) == 0 {
		i.add(OK, "bi_reader", "", "the role may read mart and dw, and nothing else")
	}
	return nil
}

// books asks who could change closed months: triggers refuse everybody but the owner, who can take them off.
func (i *inspection) books(ctx context.Context) error {
	var owner string
	var canLogin, isOwner, createsRoles, isSuperuser bool
	err := i.conn.QueryRow(ctx, `
		select r.rolname, r.rolcanlogin, pg_has_role(c.relowner, 'member'),
			me.rolcreaterole and current_setting('server_version_num')::integer < 160000, -- since then it takes the right to grant that very role
			me.rolsuper
		from pg_class as c
		join pg_roles as me on me.rolname = current_user
		join pg_namespace as n on n.oid = c.relnamespace
		join pg_roles as r on r.oid = c.relowner
		where n.nspname = 'billing' and c.relname = 'chain'`).Scan(&owner, &canLogin, &isOwner, &createsRoles, &isSuperuser)
	const about = "closed months"
	switch {
	case errors.Is(err, pgx.ErrNoRows): // not migrated so far
		return nil
	case err != nil:
		return err
	case canLogin:
		i.add(Warn, about, "run `meterhouse migrate up`: it hands the tables over to meterhouse_owner, or prints what an administrator has to run",
			"their owner %s can log in, and could change them", owner)
	case isSuperuser:
		i.add(OK, about, "", "they belong to %s, as whom nobody logs in; we are a superuser, who could change them", owner)
	case isOwner:
		i.add(Warn, about, fmt.Sprintf("as an administrator: revoke %s from %s, and close and load as roles that did not migrate", owner, i.role()), "role %s may become their owner %s, and could change them", i.server.Role, owner)
	case createsRoles:
		i.add(Warn, about, "close and load as roles that did not migrate, and may not create roles", "role %s may create roles, so it may become their owner %s, and could change them", i.server.Role, owner)
	default:
		i.add(OK, about, "", "they belong to %s, as whom nobody logs in", owner)
	}
	return nil
}

// rule judges one setting. Times are in milliseconds, 0 is never.
type rule struct {
	name   string
	level  Level
	isBad  func(value string) bool
	want   string // to be set for the role; empty: a matter of the server
	effect string
}

func shorterThan(least time.Duration) func(string) bool {
	return func(value string) bool {
		ms, err := strconv.ParseInt(value, 10, 64)
		return err == nil && ms > 0 && ms < least.Milliseconds()
	}
}

func is(bad ...string) func(string) bool {
	return func(value string) bool { return slices.Contains(bad, value) }
}

var rules = []rule{
	{"default_transaction_isolation", Fail, func(v string) bool { return v != "read committed" }, "'read committed'",
		"a load that waited for another does not see what that one wrote"},
	{"statement_timeout", Warn, shorterThan(10 * time.Minute), "0", "a long window is one COPY, which is cut off"},
	{"transaction_timeout", Warn, shorterThan(10 * time.Minute), "0", "a window is loaded in one transaction, which is cut off"},
	{"idle_in_transaction_session_timeout", Warn, shorterThan(time.Minute), "0", "a load that reads unchanged days for so long is cut off"},
	{"lock_timeout", Warn, shorterThan(time.Minute), "0", "a load that waits its turn gives up"},
	{"synchronous_commit", Warn, is("off"), "on", "what was reported as loaded may be gone after a crash of the server"},
	{"fsync", Warn, is("off"), "", "a crash of the server's machine destroys the database"},
	{"full_page_writes", Warn, is("off"), "", "a crash of the server's machine may destroy pages"},
	{"autovacuum", Warn, is("off"), "", "tables grow and queries slow down without end"},
}

// settings looks for what would cut off a load or make a commit less than one.
func (i *inspection) settings(ctx context.Context) error {
	names := make([]string, len(rules))
	for n, r := range rules {
		names[n] = r.name
	}
	rows, err := i.conn.Query(ctx, `select name, setting, current_setting(name), source from pg_settings where name = any($1) order by name`, names)
	if err != nil {
		return err
	}
	var name, value, shown, source string
	bad := len(i.found)
	if _, err := pgx.ForEachRow(rows, []any{&name, &value, &shown, &source}, func() error {
		r := rules[slices.Index(names, name)]
		if !r.isBad(value) {
			return nil
		}
		remedy := fmt.Sprintf("alter role %s set %s = %s", i.role(), name, r.want)
		if r.want == "" {
			remedy = "on the server: alter system set " + name + " = on, then reload"
		}
		i.add(r.level, "settings", remedy, "%s is %s (%s): %s", name, shown, source, r.effect)
		return nil
	}); err != nil {
		return err
	}
	if len(i.found) == bad {
		i.add(OK, "settings", "", "nothing cuts off a load, and a commit is a commit")
	}
	return nil
}

// room looks whether so many connections are free, for the role, the database and the server.
func (i *inspection) room(ctx context.Context, conns int) error {
	rows, err := i.conn.Query(ctx, `
		with client as (
			select usename, datname
			from pg_stat_activity
			where usename is not null and datname is not null and pid <> pg_backend_pid() -- what others do is hidden, not that they do
		)

		select 'the server', current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
				- coalesce(current_setting('reserved_connections', true)::integer, 0), (select count(*)::integer from client)
		union all
		select 'role ' || rolname, rolconnlimit, (select count(*)::integer from client where usename = rolname)
		from pg_roles
		where rolname = current_user and rolconnlimit >= 0
		union all
		select 'database ' || d.datname, datconnlimit, (select count(*)::integer from client where client.datname = d.datname)
		from pg_database as d
		where d.datname = current_database() and datconnlimit >= 0`)
	if err != nil {
		return err
	}
	var who string
	var limit, used int
	tight := len(i.found)
	if _, err := pgx.ForEachRow(rows, []any{&who, &limit, &used}, func() error {
		if free := max(0, limit-used); free < conns {
			i.add(Warn, "connections", "lower parallel, close other clients, or raise the limit",
				"%s allows %d, %d are in use: a run takes up to %d", who, limit, used, conns)
		}
		return nil
	}); err != nil {
		return err
	}
	if len(i.found) == tight {
		i.add(OK, "connections", "", "there is room for the %d that a run takes at most", conns)
	}
	return nil
}

// some lists the first few of many.
func some(all []string) string {
	const shown = 3
	if len(all) <= shown {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:shown], ", "), len(all)-shown)
}
