package migrations_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"meterhouse/etl/localpg"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/migrations"
)

// TestOwnerWithoutReader migrates as a role that owns its database and may do nothing else. bi_reader
// is of the whole server, so the server is one that nobody else uses.
func TestOwnerWithoutReader(t *testing.T) {
	url := ownServer(t)
	admin := warehousetest.Connect(t, url)
	owner := warehousetest.Role(t, url, "alter database DATABASE owner to ROLE")

	applied, notes, err := migrations.Up(t.Context(), owner)
	if want := known(t, url); err != nil || len(applied) != want || len(notes) != 1 {
		t.Fatalf("first up: %d applied, notes %q, %v; want %d and one note", len(applied), notes, err, want)
	}
	if _, err := admin.Exec(t.Context(), notes[0]); err != nil {
		t.Fatalf("the note is no SQL for an administrator: %v\n%s", err, notes[0])
	}
	applied, notes, err = migrations.Up(t.Context(), owner)
	if err != nil || len(applied)+len(notes) > 0 {
		t.Fatalf("second up: %v applied, notes %q, %v; want nothing to do", applied, notes, err)
	}
	for _, view := range lines(t, admin, `select format('mart.%I', viewname) from pg_views where schemaname = 'mart'`) {
		if _, err := admin.Exec(t.Context(), "set role bi_reader; select * from "+view); err != nil {
			t.Errorf("as bi_reader: %s: %v", view, err)
		}
	}
	wantBooks(t, url, owner)
}

// TestOwnerWhoCreatesRoles migrates as a role that owns its database and may create roles, as managed
// servers have it: nothing is left to do by hand. Some are told that they inherit nothing.
func TestOwnerWhoCreatesRoles(t *testing.T) {
	for _, kind := range []string{"inherit", "noinherit"} {
		t.Run(kind, func(t *testing.T) {
			admin := ownServer(t)
			owner := warehousetest.Role(t, admin, "alter database DATABASE owner to ROLE", "grant usage, create on schema public to ROLE", "alter role ROLE createrole "+kind)
			if _, notes, err := migrations.Up(t.Context(), owner); err != nil || len(notes) > 0 {
				t.Fatalf("up: %v, notes %q, want none", err, notes)
			}
			wantBooks(t, admin, owner)
		})
	}
}

// ownServer is the URL of a superuser on a server that nobody else uses, for roles are of the whole server.
func ownServer(t *testing.T) string {
	t.Helper()
	server, err := localpg.Start(t.Context(), localpg.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server.URL("")
}

// wantBooks demands that the role that migrated can close, by what meterhouse_closer may, that others can
// read, and that none of them can do anything else to closed months.
func wantBooks(t *testing.T, admin, owner string) {
	t.Helper()
	conn := warehousetest.Connect(t, admin)
	none(t, conn, "table of closed months that somebody can log in as the owner of", `select c.relname from pg_class as c join pg_roles as r on r.oid = c.relowner
		where c.relnamespace = 'billing'::regnamespace and c.relname in ('chain', 'close', 'closed_line', 'closed_day', 'reopen') and (r.rolcanlogin or r.rolname <> 'meterhouse_owner')`)
	none(t, conn, "right to create in billing", `select r from unnest(array['meterhouse_owner', 'meterhouse_closer', 'meterhouse_loader', 'bi_reader']) as r where has_schema_privilege(r, 'billing', 'create')`)
	do := func(who *pgx.Conn, sql string) error {
		_, err := who.Exec(t.Context(), sql)
		if _, again := who.Exec(t.Context(), "rollback; reset role"); again != nil {
			t.Fatal(again)
		}
		return err
	}
	ours := warehousetest.Connect(t, owner)
	if err := do(ours, `begin isolation level repeatable read; set local role meterhouse_closer;
		insert into billing.closed_line (link, line_no, kind, source, customer_id, account, subscription_number, item, charge, unit, discriminator, description, is_waiver)
			values (1, 1, 'statement', '', '', '', '', '', '', '', '', '', false);
		insert into billing.close (link, period, version, closed_at, closed_by, database_user, lines, adjustments, days, totals, adjustment_totals)
			values (1, '2026-05', 1, '2026-06-02', 'jane', session_user, 1, 0, 0, '', '');
		insert into billing.chain (link, kind, period, at, previous_hash, hash) values (1, 'close', '2026-05', '2026-06-02', decode(repeat('00', 32), 'hex'), billing.link_hash(1));
		select billing.settle(1, '{2026-05}'); commit`); err != nil {
		t.Errorf("who migrated closes: %v", err)
	}
	if got := lines(t, ours, `select (hash = billing.link_hash(link))::text from billing.chain`); len(got) != 1 || got[0] != "true" {
		t.Errorf("closed and verified: got %q", got)
	}
	for name, role := range map[string]string{"who migrated": "", "closer": "meterhouse_closer", "loader": "meterhouse_loader", "reader": "bi_reader"} {
		who := ours
		if role != "" {
			who = warehousetest.Connect(t, warehousetest.Role(t, admin, "grant "+role+" to ROLE"))
		}
		if got := lines(t, who, `select state from billing.statement('2026-05', 'infinity')`); len(got) != 1 || got[0] != "closed" {
			t.Errorf("%s reads %q", name, got)
		}
		for _, table := range []string{"chain", "close", "closed_line", "closed_day", "reopen"} {
			if err := do(who, "select from billing."+table); err != nil {
				t.Errorf("%s reads billing.%s: %v", name, table, err)
			}
		}
		refused := []string{"set role meterhouse_owner"}
		for _, table := range []string{"chain", "close", "closed_line", "closed_day", "reopen"} {
			for _, sql := range []string{
				"update billing.TABLE set link = 9", "delete from billing.TABLE", "truncate billing.TABLE cascade", "alter table billing.TABLE disable trigger all",
				"drop trigger TABLE_kept on billing.TABLE", "alter table billing.TABLE owner to current_user", "create rule x as on insert to billing.TABLE do instead nothing",
				"create trigger x before insert on billing.TABLE for each row execute function billing.refuse_change()",
			} {
				refused = append(refused, strings.ReplaceAll(sql, "TABLE", table))
			}
		}
		for _, sql := range refused {
			if err := do(who, sql); err == nil || !strings.Contains(err.Error(), "SQLSTATE 42501") {
				t.Errorf("%s: %s: got %v, want a refusal for want of rights", name, sql, err)
			}
		}
		may := do(who, `begin; insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at) values ('C-8', 'acme', now(), now())`) == nil
		if want := role == "" || role == "meterhouse_loader"; may != want {
			t.Errorf("%s loads: %v, want %v", name, may, want)
		}
	}
	superuser := `set session_replication_role = replica; delete from billing.closed_line`
	if err := do(conn, superuser); err == nil || !strings.Contains(err.Error(), "are never changed or deleted") {
		t.Errorf("a superuser, by mistake: got %v", err)
	}
}

// TestOwnerWithReader is the usual case: an administrator made both roles beforehand.
func TestOwnerWithReader(t *testing.T) {
	warehousetest.New(t) // makes bi_reader
	admin, owner := warehousetest.Owned(t)
	conn := warehousetest.Connect(t, admin)
	_, notes, err := migrations.Up(t.Context(), owner)
	if err != nil || len(notes) != 1 {
		t.Fatalf("up: %v, notes %q, want one: the tables of closed months are not handed over", err, notes)
	}
	none(t, conn, "object of ours that another role owns", `select n.nspname || '.' || c.relname `+ours+`
		and c.relowner <> (select datdba from pg_database where datname = current_database())`)
	none(t, conn, "relation that bi_reader cannot read", `select n.nspname || '.' || c.relname `+ours+`
		and n.nspname in ('mart', 'dw') and not has_table_privilege('bi_reader', c.oid, 'select')`)
	if _, err := conn.Exec(t.Context(), notes[0]); err != nil {
		t.Fatalf("the note is no SQL for an administrator: %v\n%s", err, notes[0])
	}
	up(t, owner)
	wantBooks(t, admin, owner)
}

// TestGuest migrates as a role that does not own the database: what the error says is what is missing.
func TestGuest(t *testing.T) {
	warehousetest.New(t) // makes bi_reader
	for name, c := range map[string]struct {
		grants, want []string
	}{
		"no rights":     {nil, []string{"grant create on database D to R;", "grant usage, create on schema public to R;"}},
		"database only": {[]string{"grant create on database DATABASE to ROLE"}, []string{"grant usage, create on schema public to R;"}},
		"no public": {
			[]string{"grant create on database DATABASE to ROLE", "drop schema public"}, []string{"create schema public authorization R;"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // goose tries three times, a second apart
			admin := warehousetest.Empty(t)
			conn := warehousetest.Connect(t, admin)
			guest := warehousetest.Role(t, admin, c.grants...)
			_, _, err := migrations.Up(t.Context(), guest)
			if err == nil {
				t.Fatal("migrated without the rights to")
			}
			why, sql, _ := strings.Cut(err.Error(), "\n")
			role := warehousetest.Connect(t, guest).Config()
			got := strings.NewReplacer(role.User, "R", role.Database, "D").Replace(sql)
			if diff := cmp.Diff(strings.Join(c.want, "\n"), got); diff != "" || !strings.Contains(why, "an administrator has to run there") {
				t.Fatalf("%s\n(-want +got):\n%s", why, diff)
			}
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
			upAsGuest(t, guest)
		})
	}
}

// TestStranger has every right but is not who migrated before.
func TestStranger(t *testing.T) {
	admin, owner := warehousetest.Owned(t)
	upAsGuest(t, owner)
	stranger := warehousetest.Role(t, admin, "grant create on database DATABASE to ROLE", "grant create on schema public to ROLE")
	_, _, err := migrations.Up(t.Context(), stranger)
	want := "the schema belongs to " + warehousetest.Connect(t, owner).Config().User
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

// upAsGuest migrates as a role that may not hand over the tables of closed months, and is told so.
func upAsGuest(t *testing.T, url string) {
	t.Helper()
	if _, notes, err := migrations.Up(t.Context(), url); err != nil || len(notes) != 1 || !strings.Contains(notes[0], "closed months") {
		t.Fatalf("up: %v, notes %q, want one about closed months", err, notes)
	}
}
