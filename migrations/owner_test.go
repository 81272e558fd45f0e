package migrations_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"meterhouse/etl/localpg"
	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/migrations"
)

// TestOwnerWithoutReader migrates as a role that owns its database and may do nothing else. bi_reader
// is of the whole server, so the server is one that nobody else uses.
func TestOwnerWithoutReader(t *testing.T) {
	server, err := localpg.Start(t.Context(), localpg.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	admin := warehousetest.Connect(t, server.URL(""))
	owner := warehousetest.Role(t, server.URL(""), "alter database DATABASE owner to ROLE")

	applied, notes, err := migrations.Up(t.Context(), owner)
	if want := known(t, server.URL("")); err != nil || len(applied) != want || len(notes) != 1 {
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
	none(t, conn, "table of closed months that somebody can log in as the owner of", `select c.relname from pg_class as c join pg_roles as r on r.oid = c.relowner
		where c.relnamespace = 'billing'::regnamespace and c.relname in ('chain', 'close', 'closed_line', 'closed_day', 'reopen') and (r.rolcanlogin or r.rolname <> 'meterhouse_owner')`)
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
