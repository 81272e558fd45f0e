// Package migrations carries the schema of the warehouse as goose files, and the queue's as
// migrations in Go, and knows how to bring a database to it. Migrations are numbered, applied in a
// transaction each, and never edited once shipped.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

//go:embed *.sql
var files embed.FS

// FS holds the migration files.
func FS() fs.FS { return files }

// versionTable keeps clear of other tools' goose tables in the same database.
const versionTable = "meterhouse_schema_version"

// Head is the version of the newest migration.
func Head() int64 {
	names, err := fs.Glob(files, "*.sql")
	if err != nil || len(names) == 0 {
		panic("migrations: no files embedded")
	}
	var head int64
	if _, err := fmt.Sscanf(names[len(names)-1], "%05d_", &head); err != nil {
		panic("migrations: " + names[len(names)-1] + ": want a name like 00001_verb_object.sql")
	}
	return max(head, riverHead)
}

// nameOf is what a migration is called: goose knows no file of one that is written in Go.
func nameOf(s *goose.Source) string {
	if part, ok := river[s.Version]; ok {
		return part.name
	}
	return s.Path
}

// Applied is one migration that was run.
type Applied struct {
	Name string
	Took time.Duration
}

// State is one migration file and when it was applied.
type State struct {
	Version   int64
	Name      string
	AppliedAt time.Time // zero while pending
}

// Up applies what is pending and grants bi_reader its rights. Any number of processes may call it
// at once: a session lock lets one work and the others wait. url must not lead through a
// transaction pooler. notes tell what could not be done for want of rights, with the SQL to run by
// hand; they are empty when all is done. Repeating is safe.
func Up(ctx context.Context, url string) (applied []Applied, notes []string, err error) {
	err = withProvider(ctx, url, func(p *goose.Provider) error {
		if version, err := p.GetDBVersion(ctx); err != nil {
			return err
		} else if version > Head() {
			return fmt.Errorf("schema is at version %d, this binary knows up to %d: use the newer binary", version, Head())
		}
		results, err := p.Up(ctx)
		applied = collect(results, err)
		return err
	})
	if err != nil {
		return applied, nil, fmt.Errorf("migrate up: %w", explain(ctx, url, err))
	}
	notes, err = grantReader(ctx, url)
	if err != nil {
		return applied, nil, fmt.Errorf("migrate up: grant bi_reader: %w", err)
	}
	return applied, notes, nil
}

// Down takes back the newest migration, or all of them when to is 0, down to but not including to.
func Down(ctx context.Context, url string, to int64) (undone []Applied, err error) {
	err = withProvider(ctx, url, func(p *goose.Provider) error {
		results, err := p.DownTo(ctx, to)
		undone = collect(results, err)
		return err
	})
	if err != nil {
		return undone, fmt.Errorf("migrate down to %d: %w", to, err)
	}
	return undone, nil
}

// Status lists every file with the time it was applied.
func Status(ctx context.Context, url string) (states []State, err error) {
	err = withProvider(ctx, url, func(p *goose.Provider) error {
		all, err := p.Status(ctx)
		for _, s := range all {
			states = append(states, State{Version: s.Source.Version, Name: nameOf(s.Source), AppliedAt: s.AppliedAt})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("migrate status: %w", err)
	}
	return states, nil
}

// Version is the newest applied migration; 0 in a database that was never migrated. It changes nothing.
func Version(ctx context.Context, conn *pgx.Conn) (int64, error) {
	var version int64
	err := conn.QueryRow(ctx, "select coalesce(max(version_id), 0) from public."+versionTable+" where is_applied").Scan(&version)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42P01" { // undefined_table
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("schema version: %w", err)
	}
	return version, nil
}

func collect(results []*goose.MigrationResult, err error) (applied []Applied) {
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		results = partial.Applied
	}
	for _, r := range results {
		applied = append(applied, Applied{Name: nameOf(r.Source), Took: r.Duration})
	}
	return applied
}

// withProvider hands over a goose provider on a database/sql handle. Only migrations go through
// database/sql, each in a transaction: it repeats statements whose reply was lost.
func withProvider(ctx context.Context, url string, use func(*goose.Provider) error) (err error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("database url: %w", err)
	}
	cfg.RuntimeParams["timezone"] = "UTC"
	db := stdlib.OpenDB(*cfg)
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.PingContext(ctx); err != nil {
		return err
	}
	store, err := database.NewStore(goose.DialectPostgres, "public."+versionTable)
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300), lock.WithUnlockTimeout(1, 30))
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider("", db, files, goose.WithStore(store), goose.WithSessionLocker(locker), goose.WithGoMigrations(addRiver()...))
	if err != nil {
		return err
	}
	return use(provider)
}

// explain adds to a refusal what an administrator can do about it: the grants that a role lacks
// which does not own the database, or whose schema it is.
func explain(ctx context.Context, url string, err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "42501" && pgErr.Code != "3F000" { // insufficient_privilege, invalid_schema_name
		return err
	}
	conn, connErr := pgx.Connect(ctx, url)
	if connErr != nil {
		return err
	}
	defer conn.Close(ctx)
	var database, user, owner string
	var grants []string
	if conn.QueryRow(ctx, missingRights).Scan(&database, &user, &owner, &grants) != nil {
		return err
	}
	switch {
	case len(grants) > 0:
		return fmt.Errorf("%w: %s lacks rights in database %s: an administrator has to run there\n%s", err, user, database, strings.Join(grants, "\n"))
	case owner != "" && owner != user:
		return fmt.Errorf("%w: the schema belongs to %s: migrate as that role, not as %s", err, owner, user)
	}
	return err
}

// Since Postgres 15 only the owner of a database may create tables in its schema public, where the
// list of applied migrations is.
const missingRights = `
select
    current_database()::text,
    current_user::text,
    coalesce((select pg_get_userbyid(nspowner)::text from pg_namespace where nspname = 'raw'), ''),
    array_remove(array[
        case
            when not has_database_privilege(current_database(), 'create')
                then format('grant create on database %I to %I;', current_database(), current_user)
        end,
        case
            when public.oid is null
                then format('create schema public authorization %I;', current_user)
            when not has_schema_privilege(public.oid, 'create')
                and not exists (select from pg_class where relnamespace = public.oid and relname = '` + versionTable + `')
                then format('grant usage, create on schema public to %I;', current_user)
        end
    ], null)
from (select 1) as one
left join pg_namespace as public on public.nspname = 'public'`

// grantReader makes the group roles and gives them what is theirs: bi_reader reads what mart, dw and
// billing expose; meterhouse_loader loads; meterhouse_closer adds to closed months; meterhouse_owner, as
// whom nobody logs in, owns the tables of closed months. It works without CREATEROLE when the roles exist
// and the tables are theirs; otherwise the notes hold the SQL for an administrator, and everything works
// but that the owner of closed months can log in.
func grantReader(ctx context.Context, url string) (notes []string, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	for _, step := range []string{createRoles, grants, sealBooks, grantLoader} {
		var pgErr *pgconn.PgError
		_, err := conn.Exec(ctx, step)
		switch {
		case err == nil:
		case errors.As(err, &pgErr) && pgErr.Code == "42501" && notes == nil: // insufficient_privilege
			var byHand string
			if err := conn.QueryRow(ctx, rolesByHand).Scan(&byHand); err != nil {
				return nil, err
			}
			notes = []string{byHand}
		case notes != nil && errors.As(err, &pgErr) && (pgErr.Code == "42501" || pgErr.Code == "42704"): // undefined_object: no such role
		default:
			return nil, err
		}
	}
	return notes, nil
}

// Two starters may both find a role missing: the second is told duplicate_object or
// unique_violation and has nothing left to do.
const createRoles = `
do $$
declare
    missing text;
begin
    for missing in
        select role
        from unnest(array['bi_reader', 'meterhouse_owner', 'meterhouse_loader', 'meterhouse_closer']) as role
        where not exists (select from pg_roles where rolname = role)
    loop
        begin
            execute format('create role %I nologin', missing);
        exception
            when duplicate_object or unique_violation then null;
        end;
    end loop;
end
$$`

// What is done by hand as an administrator where the migrating role may not: create the roles that are
// missing, and hand over the tables of closed months.
const rolesByHand = `
select concat_ws(E'\n',
    '-- roles: this role may not create them or hand over the tables of closed months. As an administrator run',
    (
        select string_agg(format('create role %I nologin;', role), E'\n')
        from unnest(array['bi_reader', 'meterhouse_owner', 'meterhouse_loader', 'meterhouse_closer']) as role
        where not exists (select from pg_roles where rolname = role)
    ),
    'grant usage on schema billing to meterhouse_owner, meterhouse_closer, meterhouse_loader, bi_reader;',
    (
        select string_agg(
            format('alter table billing.%1$I owner to meterhouse_owner;', name)
            || format(E'\ngrant select, references on billing.%1$I to %2$I, bi_reader;', name, current_user)
            || format(E'\ngrant select, insert on billing.%I to meterhouse_closer;', name)
            || format(E'\ngrant select on billing.%I to meterhouse_loader;', name),
            E'\n' order by name)
        from unnest(` + booksOf + `) as name
    ),
    format('grant meterhouse_closer to %I;', current_user),
    '-- and then "meterhouse migrate up" again, which gives the roles what else is theirs'
)`

// booksOf are the tables of closed months.
const booksOf = `array['chain', 'close', 'closed_line', 'closed_day', 'reopen']`

// sealBooks hands the tables of closed months over to a role as which nobody logs in. The new owner has
// to be allowed to create in the schema at that moment, and we to become it: since Postgres 16 who created a
// role, and may grant it, can still not become it. Whoever hands over can close, as meterhouse_closer.
const sealBooks = `
do $$
declare
    name text;
    become text := case when current_setting('server_version_num')::integer >= 160000 then 'set' else 'member' end;
    may_become boolean := pg_has_role(current_user, 'meterhouse_owner', become);
    schema_owner text := (select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'billing');
begin
    perform pg_advisory_xact_lock(hashtextextended('meterhouse grants', 0));
    if not exists (
        select
        from unnest(` + booksOf + `) as b (name)
        join pg_class as c on c.relnamespace = 'billing'::regnamespace and c.relname = b.name
        where pg_get_userbyid(c.relowner) <> 'meterhouse_owner' or not has_table_privilege('meterhouse_loader', c.oid, 'select')
    ) then
        return;
    end if;
    if not may_become then
        execute format('grant meterhouse_owner to %I', current_user);
    end if;
    if not pg_has_role(current_user, 'meterhouse_closer', become) then
        execute format('grant meterhouse_closer to %I', current_user);
    end if;
    grant usage, create on schema billing to meterhouse_owner;
    grant usage on schema billing to meterhouse_closer;
    foreach name in array ` + booksOf + ` loop
        execute format('alter table billing.%I owner to meterhouse_owner', name);
    end loop;
    set local role meterhouse_owner; -- which it may be that we do not inherit from
    foreach name in array ` + booksOf + ` loop
        execute format('grant select, references on billing.%I to bi_reader', name);
        execute format('grant select, insert on billing.%I to meterhouse_closer', name);
        execute format('grant select on billing.%I to meterhouse_loader', name); -- grantLoader may not: it is no owner
        execute format('grant select, references on billing.%I to %I', name, schema_owner);
    end loop;
    reset role;
    revoke create on schema billing from meterhouse_owner;
    if not may_become then
        execute format('revoke meterhouse_owner from %I', current_user);
    end if;
end
$$`

// grantLoader gives meterhouse_loader what a process needs that loads. What needs the owner stays with
// the role that migrates: partitions of a month to come, and their pruning.
const grantLoader = `
do $$
declare
    object record;
begin
    perform pg_advisory_xact_lock(hashtextextended('meterhouse grants', 0));
    for object in
        select n.nspname as schema
        from pg_namespace as n
        where n.nspname in ('raw', 'ops', 'dw', 'mart', 'billing', 'river')
            and not has_schema_privilege('meterhouse_loader', n.oid, 'usage')
    loop
        execute format('grant usage on schema %I to meterhouse_loader', object.schema);
    end loop;
    for object in
        select n.nspname as schema, c.relname as name, p.privileges
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
        cross join lateral (
            select case
                when c.relkind = 'S' then 'usage'
                when n.nspname = 'mart' or n.nspname = 'billing' and c.relname = any (` + booksOf + ` || 'settled'::text) then 'select'
                when n.nspname = 'billing' then 'select, insert, update'
                else 'select, insert, update, delete'
            end as privileges
        ) as p
        where n.nspname in ('raw', 'ops', 'dw', 'mart', 'billing', 'river')
            and c.relkind in ('r', 'p', 'v', 'm', 'S')
            and not c.relispartition
            and not (
                select bool_and(case c.relkind when 'S' then has_sequence_privilege('meterhouse_loader', c.oid, privilege)
                    else has_table_privilege('meterhouse_loader', c.oid, privilege) end)
                from unnest(string_to_array(p.privileges, ', ')) as privilege
            )
            and pg_has_role(current_user, c.relowner, 'usage')
    loop
        execute format('grant %s on %I.%I to meterhouse_loader', object.privileges, object.schema, object.name);
    end loop;
    if not has_table_privilege('meterhouse_loader', 'public.` + versionTable + `', 'select') then
        grant select on public.` + versionTable + ` to meterhouse_loader;
    end if;
end
$$`

// Grants go table by table, so that partition children stay out of a reader's sight. They are
// serialised because concurrent grants on one table fail with "tuple concurrently updated".
const grants = `
do $$
declare
    object record;
begin
    perform pg_advisory_xact_lock(hashtextextended('meterhouse grants', 0));
    for object in
        select n.nspname as schema
        from pg_namespace as n
        where n.nspname in ('mart', 'dw', 'billing')
            and not has_schema_privilege('bi_reader', n.oid, 'usage')
    loop
        execute format('grant usage on schema %I to bi_reader', object.schema);
    end loop;
    for object in
        select n.nspname as schema, c.relname as name
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
        where n.nspname in ('mart', 'dw', 'billing')
            and c.relkind in ('r', 'p', 'v', 'm')
            and not c.relispartition
            and not (has_table_privilege('bi_reader', c.oid, 'select') and has_table_privilege('bi_reader', c.oid, 'references'))
            and pg_has_role(current_user, c.relowner, 'usage')
    loop
        execute format('grant select, references on %I.%I to bi_reader', object.schema, object.name);
    end loop;
    -- So that a reader can use the program's reports: it looks at the version first.
    if not has_table_privilege('bi_reader', 'public.` + versionTable + `', 'select') then
        grant select on public.` + versionTable + ` to bi_reader;
    end if;
end
$$`
