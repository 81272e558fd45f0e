package warehousetest

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Owned is Empty as a managed Postgres hands it out: owner is the URL of a role that owns the
// database and may do nothing else, neither create roles nor databases; admin is that of the
// server's administrator.
func Owned(t testing.TB) (admin, owner string) {
	t.Helper()
	admin = Empty(t)
	return admin, Role(t, admin, "alter database DATABASE owner to ROLE")
}

// Role makes a role that may log in and nothing else, and returns the URL of admin's database for
// it. Then the administrator runs the grants, in which DATABASE and ROLE stand for their names. The
// test's end drops the role.
func Role(t testing.TB, admin string, grants ...string) string {
	t.Helper()
	u, err := url.Parse(admin)
	if err != nil || u.Scheme == "" {
		t.Fatalf("role for the test: want a URL in %s, postgres://…", DSN)
	}
	name, password, database := "test_"+suffix(), suffix(), strings.TrimPrefix(u.Path, "/")
	u.User = url.UserPassword(name, password)
	statements := []string{fmt.Sprintf("create role %s login password '%s' nosuperuser nocreaterole nocreatedb", name, password)}
	names := strings.NewReplacer("DATABASE", database, "ROLE", name)
	for _, grant := range grants {
		statements = append(statements, names.Replace(grant))
	}
	for _, statement := range statements {
		if err := execute(admin, statement); err != nil {
			t.Fatalf("role for the test: %s: %v", statement, err)
		}
	}
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), admin)
		if err != nil {
			t.Errorf("drop the test's role: %v", err)
			return
		}
		defer conn.Close(context.Background())
		for _, statement := range []string{"reassign owned by %s to current_user", "drop owned by %s", "drop role %s"} {
			if _, err := conn.Exec(context.Background(), fmt.Sprintf(statement, name)); err != nil {
				t.Errorf("drop the test's role: %v", err)
			}
		}
	})
	return u.String()
}
