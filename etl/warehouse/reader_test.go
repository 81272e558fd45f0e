package warehouse

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl/warehouse/warehousetest"
)

// loginName is one that no other test has; the test's end drops it.
func loginName(t *testing.T, h *house, name string) string {
	t.Helper()
	conn := warehousetest.Connect(t, h.url)
	login := name + "_" + conn.Config().Database
	t.Cleanup(func() {
		_, _ = conn.Exec(context.Background(), "drop owned by "+login)
		_, _ = conn.Exec(context.Background(), "drop role if exists "+login)
	})
	return login
}

func logIn(t *testing.T, h *house, login, password string) (*pgx.Conn, error) {
	t.Helper()
	u, err := url.Parse(h.url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(login, password)
	return pgx.Connect(t.Context(), u.String())
}

func TestKeepReader(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	login := loginName(t, h, "bi")
	keep := func(password, want string, plan bool) {
		t.Helper()
		if got, err := h.KeepReader(t.Context(), login, password, plan); err != nil || got != want {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
	}
	keep("first 'secret'", "made may read", true)
	keep("first 'secret'", "made may read", false)
	keep("first 'secret'", "", false)
	conn, err := logIn(t, h, login, "first 'secret'")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var timeout string
	if err := conn.QueryRow(t.Context(), `select current_setting('statement_timeout') from mart.freshness right join (select 1) as one on true limit 1`).Scan(&timeout); err != nil || timeout != "2min" {
		t.Errorf("it reads: %v, timeout %s", err, timeout)
	}
	for _, statement := range []string{"select * from ops.credential", "set transaction_read_only = off; create table mart.x ()", "set transaction_read_only = off; delete from dw.dim_customer"} {
		if _, err := conn.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s: %v, want it denied", statement, err)
		}
	}

	admin := warehousetest.Connect(t, h.url)
	exec := func(statement string) {
		t.Helper()
		if _, err := admin.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	exec(fmt.Sprintf("revoke bi_reader from %s", login))
	keep("first 'secret'", "may read", false)
	exec(fmt.Sprintf("alter role %s nologin", login))
	keep("first 'secret'", "may log in", false)
	keep("first 'secret'", "", false)
	// Whether the server asks for passwords is a matter of its pg_hba.conf: this one has to, or the rest proves nothing.
	if conn, err := logIn(t, h, login, "wrong"); err == nil {
		conn.Close(t.Context())
		t.Fatal("this Postgres lets everybody in: want one that asks for passwords")
	}
	keep("another", "password", true)
	keep("another", "password", false)
	keep("another", "", false)

	var logged int
	if err := admin.QueryRow(t.Context(), `select count(*) from pg_stat_activity where query like '%another%' and pid <> pg_backend_pid()`).Scan(&logged); err != nil || logged > 0 {
		t.Errorf("the password stands in %d statements, %v", logged, err)
	}
}

func TestAlone(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	inner, other := errors.New("never run"), errors.New("never run")
	err := h.Alone(t.Context(), "bi", func() error {
		inner = h.Alone(t.Context(), "bi", func() error { t.Error("two at once"); return nil })
		other = h.Alone(t.Context(), "another", func() error { return nil })
		return errors.New("its own")
	})
	if err == nil || err.Error() != "its own" || !errors.Is(inner, ErrTaken) || other != nil {
		t.Errorf("%v, %v, %v", err, inner, other)
	}
	if err := h.Alone(t.Context(), "bi", func() error { return nil }); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestKeepReaderRefuses(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	mighty, writer := loginName(t, h, "mighty"), loginName(t, h, "writer")
	admin := warehousetest.Connect(t, h.url)
	for _, statement := range []string{"create role " + mighty + " login superuser", "create role " + writer + " login", "grant insert on dw.dim_customer to " + writer} {
		if _, err := admin.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	for login, want := range map[string]string{mighty: "it may do more than read", writer: "it may do more than read"} {
		if _, err := h.KeepReader(t.Context(), login, "x", false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", login, err, want)
		}
	}
	for password, want := range map[string]string{"": "empty", "pässword": "printable ASCII"} {
		if _, err := h.KeepReader(t.Context(), "nobody_yet", password, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", password, err, want)
		}
	}
}

// Where we may not make roles, an administrator gets the statements, and they do.
func TestKeepReaderByHand(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	login := loginName(t, h, "byhand")
	small := warehousetest.Role(t, h.url, "grant select on all tables in schema public to ROLE")
	w, err := Open(t.Context(), Config{URL: small, Owner: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_, err = w.KeepReader(t.Context(), login, "secret of hers", false)
	if err == nil || strings.Contains(err.Error(), "secret of hers") || strings.Contains(err.Error(), "SCRAM") {
		t.Fatalf("%v", err)
	}
	_, sql, found := strings.Cut(err.Error(), "with the password of that login\n")
	if !found {
		t.Fatalf("%v: want the SQL", err)
	}
	if _, err := warehousetest.Connect(t, h.url).Exec(t.Context(), strings.Replace(sql, "…", "secret of hers", 1)); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	if got, err := w.KeepReader(t.Context(), login, "secret of hers", false); err != nil || got != "" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestRelations(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	all, err := h.Relations(t.Context(), "mart")
	if err != nil || len(all) < 15 {
		t.Fatalf("%d, %v", len(all), err)
	}
	for _, r := range all {
		if r.Schema != "mart" || r.Comment == "" || len(r.Columns) == 0 {
			t.Errorf("%+v", r)
		}
		for _, c := range r.Columns {
			if c.Comment == "" || c.Type == "" {
				t.Errorf("%s.%s: %+v", r.Name, c.Name, c)
			}
		}
		if r.Name == "run" && r.Columns[0] != (RelationColumn{"run_id", "bigint", "Number of the run."}) {
			t.Errorf("%+v", r.Columns[0])
		}
	}
}
