package console

import (
	"context"
	"embed"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

//go:embed sql/*.sql
var queries embed.FS

// sql is the text of a query, by its file's name.
func (s *Server) sql(name string) string {
	text, err := queries.ReadFile("sql/" + name + ".sql")
	if err != nil {
		panic(err) // ours
	}
	return strings.TrimRight(strings.TrimSpace(string(text)), ";")
}

// view is one look at the warehouse: everything that it is asked was there at one moment.
type view struct {
	s   *Server
	r   *http.Request // what is asked for; nil in a download
	who visitor
	ctx context.Context
	tx  pgx.Tx

	began time.Time
	print fingerprint      // once it was asked for
	taken map[string]taken // copies
}

// read gives use a view, in a transaction that writes nothing. Few look at a time: loading goes first.
func (s *Server) read(ctx context.Context, within time.Duration, use func(context.Context, *view) error) error {
	return s.readIn(ctx, within, s.readers, use)
}

// readIn is read for those who wait for a place of other ones.
func (s *Server) readIn(ctx context.Context, within time.Duration, places chan struct{}, use func(context.Context, *view) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := enter(ctx, places); err != nil {
		return err
	}
	defer func() { <-places }()
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	return pgx.BeginTxFunc(ctx, s.cfg.Pool, options, func(tx pgx.Tx) error {
		// Views of freshness and coverage shall speak of the now of whoever loads. Times are told in UTC. Setting
		// takes no snapshot: what a page asks others first is then seen by what it reads after.
		// To compile a query that reads every series takes longer than to run it.
		settings := fmt.Sprintf(`set local meterhouse.now = '%s'; set local statement_timeout = %d; set local jit = off`, s.cfg.Now().UTC().Format(time.RFC3339Nano), within.Milliseconds())
		if _, err := tx.Exec(ctx, settings); err != nil {
			return err
		}
		return use(ctx, &view{s: s, ctx: ctx, tx: tx, began: time.Now()})
	})
}

// readCopy is readIn for those who read copies only: they wait for minutes, and hold no transaction meanwhile.
func (s *Server) readCopy(ctx context.Context, within time.Duration, places chan struct{}, use func(context.Context, *view) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := enter(ctx, places); err != nil {
		return err
	}
	defer func() { <-places }()
	print, err := s.copies.now(ctx)
	if err != nil {
		return err
	}
	return use(ctx, &view{s: s, ctx: ctx, print: print})
}

// enter waits for a place.
func enter(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for others who look: %w", ctx.Err())
	}
}

// cell is a value as the database writes it: no digit is lost.
type cell struct {
	Text string
	Null bool // unknown
}

func (c cell) String() string { return c.Text }

// rows are a result.
type rows struct {
	Columns []string
	Numeric []bool
	Rows    [][]cell
}

// record is a row by the names of its columns.
type record map[string]cell

func (r *rows) record(i int) record {
	rec := record{}
	for j, name := range r.Columns {
		rec[name] = r.Rows[i][j]
	}
	return rec
}

func (r *rows) records() []record {
	all := make([]record, len(r.Rows))
	for i := range all {
		all[i] = r.record(i)
	}
	return all
}

var braces = regexp.MustCompile(`\{[a-z_]+\}`)

// expand puts columns into a path or its query.
func (r record) expand(path string) string {
	return braces.ReplaceAllStringFunc(path, func(name string) string {
		return url.QueryEscape(r[name[1:len(name)-1]].Text)
	})
}

// query runs a statement and returns everything as text.
func (v *view) query(sql string, args ...any) (*rows, error) {
	result := &rows{}
	err := v.each(sql, args, func(columns []string, numeric []bool) error {
		result.Columns, result.Numeric = columns, numeric
		return nil
	}, func(row []cell) error {
		result.Rows = append(result.Rows, row)
		return nil
	})
	return result, err
}

// one is the only row of a statement; found is false when there is none.
func (v *view) one(sql string, args ...any) (rec record, found bool, err error) {
	result, err := v.query(sql, args...)
	if err != nil || len(result.Rows) == 0 {
		return nil, false, err
	}
	return result.record(0), true, nil
}

// each hands over a result row by row.
func (v *view) each(sql string, args []any, columns func(names []string, numeric []bool) error, row func([]cell) error) error {
	// Text from the server itself: no client type may round a numeric or move a time.
	result, err := v.tx.Query(v.ctx, sql, append([]any{pgx.QueryResultFormats{pgx.TextFormatCode}}, args...)...)
	if err != nil {
		return err
	}
	defer result.Close()
	var names []string
	var numeric, boolean []bool
	for _, f := range result.FieldDescriptions() {
		names = append(names, f.Name)
		numeric = append(numeric, isNumeric(f.DataTypeOID))
		boolean = append(boolean, f.DataTypeOID == pgtype.BoolOID)
	}
	if err := columns(names, numeric); err != nil {
		return err
	}
	for result.Next() {
		raw := result.RawValues()
		cells := make([]cell, len(raw))
		for i, value := range raw {
			cells[i] = cell{string(value), value == nil}
			if boolean[i] && value != nil {
				cells[i].Text = strconv.FormatBool(cells[i].Text == "t")
			}
		}
		if err := row(cells); err != nil {
			return err
		}
	}
	return result.Err()
}

func isNumeric(oid uint32) bool {
	switch oid {
	case pgtype.Int8OID, pgtype.Int4OID, pgtype.Int2OID, pgtype.NumericOID, pgtype.Float8OID, pgtype.Float4OID:
		return true
	}
	return false
}
