package warehouse

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Relation is a table or view with its comments, as the catalogue has them.
type Relation struct {
	Schema, Name, Comment string
	Columns               []RelationColumn
}

// RelationColumn is a column of a Relation.
type RelationColumn struct {
	Name    string
	Type    string // as Postgres names it, such as timestamp with time zone
	Comment string // empty: none
}

// Relations are the tables and views of a schema by name, with their columns in order.
func (w *Warehouse) Relations(ctx context.Context, schema string) (all []Relation, err error) {
	rows, err := w.pool.Query(ctx, `
		select c.relname, coalesce(obj_description(c.oid, 'pg_class'), ''), a.attname, format_type(a.atttypid, null), coalesce(col_description(c.oid, a.attnum), '')
		from pg_class as c
		join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		where c.relnamespace = to_regnamespace($1) and c.relkind in ('r', 'p', 'v', 'm') and not c.relispartition
		order by c.relname, a.attnum`, schema)
	if err != nil {
		return nil, fmt.Errorf("relations of %s: %w", schema, err)
	}
	var r Relation
	var c RelationColumn
	if _, err := pgx.ForEachRow(rows, []any{&r.Name, &r.Comment, &c.Name, &c.Type, &c.Comment}, func() error {
		if last := len(all) - 1; last < 0 || all[last].Name != r.Name {
			all = append(all, Relation{Schema: schema, Name: r.Name, Comment: r.Comment})
		}
		all[len(all)-1].Columns = append(all[len(all)-1].Columns, c)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("relations of %s: %w", schema, err)
	}
	return all, nil
}

// ErrTaken is that another process does the same thing just now. Trying again later is safe.
var ErrTaken = errors.New("another process does this just now")

// Alone runs do while no other process of this warehouse runs what the same words name; it is [ErrTaken] when
// one does. It holds a connection, and a transaction in which nothing is read, until do returns.
func (w *Warehouse) Alone(ctx context.Context, what string, do func() error) error {
	return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		var isOurs bool
		if err := tx.QueryRow(ctx, `
			select pg_try_advisory_xact_lock(hashtextextended($1, 0))
			from (select set_config('idle_in_transaction_session_timeout', '0', true)) as patient`, "meterhouse alone "+what).Scan(&isOurs); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if !isOurs {
			return fmt.Errorf("%s: %w", what, ErrTaken)
		}
		return do()
	})
}

// KeepReader sees to it that a login exists which may read what bi_reader may and nothing else, with this
// password. It says what it changed, or with plan what it would; "" is nothing. A login that may do more is
// refused, whoever made it. Where we may not make roles, the error holds the SQL for an administrator.
// Repeating is safe.
func (w *Warehouse) KeepReader(ctx context.Context, login, password string, plan bool) (changed string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("login %s: %w", login, err)
		}
	}()
	var hasReader, exists, canLogin, isReader, isMighty bool
	err = w.pool.QueryRow(ctx, `
		select
			exists (select from pg_roles where rolname = 'bi_reader'),
			r.oid is not null,
			coalesce(r.rolcanlogin, false),
			coalesce((select pg_has_role(r.oid, oid, 'usage') from pg_roles where rolname = 'bi_reader'), false),
			coalesce(r.rolsuper or r.rolcreaterole or exists (   -- owning or writing anything of ours
				select
				from pg_class as c
				join pg_namespace as n on n.oid = c.relnamespace
				where n.nspname in ('raw', 'ops', 'dw', 'billing', 'mart', 'river') and c.relkind in ('r', 'p', 'v')
					and (pg_has_role(r.oid, c.relowner, 'member') or has_table_privilege(r.oid, c.oid, 'insert, update, delete, truncate'))
			), false)
		from (select $1::text as name) as asked
		left join pg_roles as r on r.rolname = asked.name`, login).Scan(&hasReader, &exists, &canLogin, &isReader, &isMighty)
	switch {
	case err != nil:
		return "", err
	case !hasReader:
		return "", errors.New("there is no role bi_reader: run `meterhouse migrate up`, or as an administrator: create role bi_reader nologin")
	case isMighty:
		return "", errors.New("it may do more than read: want one of its own, which `bi provision` makes when there is none of that name")
	}
	role := pgx.Identifier{login}.Sanitize()
	var statements, byHand, what []string
	do := func(news, statement, hand string) {
		what, statements, byHand = append(what, news), append(statements, statement), append(byHand, cmp.Or(hand, statement))
	}
	if exists && canLogin && isReader {
		if w.admits(ctx, login, password) {
			return "", nil
		}
		what = append(what, "password")
	}
	verifier := ""
	if !exists || !canLogin || len(what) > 0 {
		if verifier, err = scramVerifier(password); err != nil {
			return "", err
		}
	}
	switch {
	case !exists:
		do("made", fmt.Sprintf("create role %s login password '%s'", role, verifier), fmt.Sprintf("create role %s login password '…'", role))
		// So that a question that is too big ends, and nothing that somebody types can write.
		do("", fmt.Sprintf("alter role %s set statement_timeout = '2min'", role), "")
		do("", fmt.Sprintf("alter role %s set default_transaction_read_only = on", role), "")
	case verifier != "":
		do("", fmt.Sprintf("alter role %s login password '%s'", role, verifier), fmt.Sprintf("alter role %s login password '…'", role))
	}
	if !isReader {
		do("may read", fmt.Sprintf("grant bi_reader to %s", role), "")
	}
	changed = strings.Join(strings.Fields(strings.Join(what, " ")), " ")
	if changed == "" {
		changed = "may log in"
	}
	if plan {
		return changed, nil
	}
	err = pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		for _, statement := range statements {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42501" { // insufficient_privilege
		return "", fmt.Errorf("%s: as an administrator run, with the password of that login\n%s;", pgErr.Message, strings.Join(byHand, ";\n"))
	}
	return changed, err
}

// admits tells whether a login gets in with a password. Where only another machine may try, nobody here can
// tell: then it is taken to be so, and whoever uses it says otherwise.
func (w *Warehouse) admits(ctx context.Context, login, password string) bool {
	cfg := w.pool.Config().ConnConfig.Copy()
	cfg.User, cfg.Password = login, password
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err == nil {
		_ = conn.Close(ctx)
		return true
	}
	var pgErr *pgconn.PgError
	return !errors.As(err, &pgErr) || pgErr.Code != "28P01" // invalid_password
}

const scramRounds = 4096

// scramVerifier is what Postgres keeps of a password, so that the password itself stands in no statement,
// which a server may log.
func scramVerifier(password string) (string, error) {
	for _, r := range password {
		if r < ' ' || r > '~' {
			return "", errors.New("its password has a character that is not printable ASCII: want one without")
		}
	}
	if password == "" {
		return "", errors.New("its password is empty: want one")
	}
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	salted, err := pbkdf2.Key(sha256.New, password, salt, scramRounds, sha256.Size)
	if err != nil {
		return "", err
	}
	sign := func(text string) []byte {
		mac := hmac.New(sha256.New, salted)
		mac.Write([]byte(text))
		return mac.Sum(nil)
	}
	stored := sha256.Sum256(sign("Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramRounds, encode(salt), encode(stored[:]), encode(sign("Server Key"))), nil
}
