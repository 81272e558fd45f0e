package billing

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Verification is what `close verify` looked at and found.
type Verification struct {
	Links, Lines, Days int
	Head               string // hash of the last link, hexadecimal
	Differences        []string
}

// How many differences are told: one change shows in its row, its link and all links after.
const differencesTold = 20

func (v *Verification) differs(format string, args ...any) {
	if len(v.Differences) < differencesTold {
		v.Differences = append(v.Differences, fmt.Sprintf(format, args...))
	}
}

// Verify recomputes the hashes of closed months: the text of every frozen row from its columns, its hash,
// and the chain. The zero Period means all; otherwise the chain is followed through all links and the rows
// are looked at of those of the period. Each of the kept hashes, hexadecimal, must be that of a link: so it
// is found out when links were taken off the end, or all were made anew. Nothing is taken from the functions
// of the database that closed it.
func (b *Billing) Verify(ctx context.Context, only Period, kept ...string) (v Verification, err error) {
	err = b.read(ctx, func(tx pgx.Tx) error {
		type link struct {
			Link           int64
			Kind, Period   string
			Previous, Hash []byte
			Says, Headers  string // what the chain and what the headers tell of the link; the hash covers the header alone
		}
		rows, err := tx.Query(ctx, `
			select c.link, c.kind, c.period, c.previous_hash, c.hash, format('%s of %s at %s', c.kind, c.period, c.at), coalesce((
				select string_agg(format('%s of %s at %s', h.kind, h.period, h.at), ' and ')
				from (
					select link, 'close' as kind, period, closed_at as at from billing.close
					union all
					select link, 'reopen', period, reopened_at from billing.reopen
				) as h
				where h.link = c.link
			), 'nothing')
			from billing.chain as c
			order by c.link`)
		if err != nil {
			return err
		}
		links, err := pgx.CollectRows(rows, pgx.RowToStructByPos[link])
		if err != nil {
			return err
		}
		texts := map[string]string{}
		for _, table := range []string{"close", "reopen", "closed_line", "closed_day"} {
			if texts[table], err = fieldsOf(ctx, tx, table); err != nil {
				return err
			}
		}
		var hashes []string
		previous := make([]byte, sha256.Size)
		for i, l := range links {
			name := fmt.Sprintf("link %d (%s of %s)", l.Link, l.Kind, l.Period)
			if l.Link != int64(i+1) {
				v.differs("%s: want number %d: one is gone", name, i+1)
			}
			if !bytes.Equal(l.Previous, previous) {
				v.differs("%s: previous_hash is %x, the link before has %x", name, l.Previous, previous)
			}
			if l.Says != l.Headers {
				v.differs("%s: the chain says %s, its header says %s", name, l.Says, l.Headers)
			}
			previous, v.Head = l.Hash, fmt.Sprintf("%x", l.Hash)
			hashes = append(hashes, v.Head)
			if only != (Period{}) && l.Period != only.String() {
				continue
			}
			v.Links++
			sum := sha256.New()
			sum.Write(l.Previous)
			heads, err := v.look(ctx, tx, name, l.Kind, texts[l.Kind], "", l.Link)
			if err != nil {
				return err
			}
			if len(heads) != 1 {
				v.differs("%s: %d rows in billing.%s, want 1", name, len(heads), l.Kind)
			}
			for _, head := range heads {
				sum.Write([]byte(head.text))
			}
			for _, table := range []string{"closed_line", "closed_day"} {
				parts, err := v.look(ctx, tx, name, table, texts[table], map[string]string{"closed_line": "line_no", "closed_day": "day_no"}[table], l.Link)
				if err != nil {
					return err
				}
				if table == "closed_line" {
					v.Lines += len(parts)
				} else {
					v.Days += len(parts)
				}
				for _, p := range parts {
					sum.Write(p.hash)
				}
			}
			if got := sum.Sum(nil); !bytes.Equal(got, l.Hash) {
				v.differs("%s: hash is %x, its rows come to %x", name, l.Hash, got)
			}
			if l.Kind == "close" {
				if err := v.count(ctx, tx, name, l.Link); err != nil {
					return err
				}
			}
		}
		for _, hash := range kept {
			if !slices.Contains(hashes, strings.ToLower(hash)) {
				v.differs("no link has the hash %s: links were taken off the end, or all were made anew", hash)
			}
		}
		// Rows that no link seals.
		loose, err := tx.Query(ctx, `
			select format('rows of link %s are in billing.%s and not in the chain', link, name)
			from (
				select distinct link, 'close' as name from billing.close
				union select link, 'reopen' from billing.reopen
				union select link, 'closed_line' from billing.closed_line
				union select link, 'closed_day' from billing.closed_day
			) as r
			where not exists (select from billing.chain as c where c.link = r.link)`)
		if err != nil {
			return err
		}
		list, err := pgx.CollectRows(loose, pgx.RowTo[string])
		for _, text := range list {
			v.differs("%s", text)
		}
		return err
	})
	if err != nil {
		return v, fmt.Errorf("verify closed months: %w", err)
	}
	return v, nil
}

// frozen is a row as it counts for the hash of its link.
type frozen struct {
	text string
	hash []byte
}

// look recomputes the rows of a link in a table, in their order.
func (v *Verification) look(ctx context.Context, tx pgx.Tx, name, table, fields, number string, link int64) (all []frozen, err error) {
	stored, order := "sha256", number
	if number == "" {
		stored, order = "''::bytea", "link"
	}
	rows, err := tx.Query(ctx, fmt.Sprintf(`select array[%s], canonical, %s from billing.%s where link = $1 order by %s`, fields, stored, table, order), link)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var columns []*string
		var text string
		var hash []byte
		if err := rows.Scan(&columns, &text, &hash); err != nil {
			return nil, err
		}
		row := fmt.Sprintf("%s: %s %d", name, table, len(all)+1)
		if is := canonical(columns); is != text {
			v.differs("%s: its columns say %q, its text %q", row, is, text)
		}
		sum := sha256.Sum256([]byte(text))
		if number != "" && !bytes.Equal(sum[:], hash) {
			v.differs("%s: sha256 is %x, its text comes to %x", row, hash, sum)
		}
		all = append(all, frozen{text, sum[:]})
	}
	return all, rows.Err()
}

// count compares the header of a close with its rows.
func (v *Verification) count(ctx context.Context, tx pgx.Tx, name string, link int64) error {
	var says, has string
	err := tx.QueryRow(ctx, `
		select format('%s lines, %s adjustments, %s days, totals %s, of adjustments %s', c.lines, c.adjustments, c.days, c.totals, c.adjustment_totals),
			format('%s lines, %s adjustments, %s days, totals %s, of adjustments %s',
				(select count(*) from billing.closed_line as l where l.link = c.link and l.kind = 'statement'),
				(select count(*) from billing.closed_line as l where l.link = c.link and l.kind = 'adjustment'),
				(select count(*) from billing.closed_day as d where d.link = c.link),
				coalesce((select string_agg(text, '; ' order by text collate "C") from (
					select l.currency || ' ' || sum(l.amount) as text from billing.closed_line as l
					where l.link = c.link and l.kind = 'statement' and l.amount is not null group by l.currency
				) as t), ''),
				coalesce((select string_agg(text, '; ' order by text collate "C") from (
					select l.currency || ' ' || sum(l.amount) as text from billing.closed_line as l
					where l.link = c.link and l.kind = 'adjustment' and l.amount is not null group by l.currency
				) as t), ''))
		from billing.close as c
		where c.link = $1`, link).Scan(&says, &has)
	if err == pgx.ErrNoRows {
		return nil // told already
	}
	if err == nil && says != has {
		v.differs("%s: its header says %s; it has %s", name, says, has)
	}
	return err
}

// fieldsOf are the columns of a table of closed months as SQL, each as it stands in the canonical text. to_char
// gives NULL for infinity and hides an era: no row was closed with such, so what has them is told otherwise.
func fieldsOf(ctx context.Context, tx pgx.Tx, table string) (string, error) {
	rows, err := tx.Query(ctx, `
		select case format_type(atttypid, null)
				when 'date' then format('case when isfinite(%1$I) and %1$I >= ''0001-01-01'' then to_char(%1$I, ''YYYY-MM-DD'') else %1$I::text end', attname)
				when 'timestamp with time zone' then format(
					'case when isfinite(%1$I) and %1$I >= ''0001-01-01'' then to_char(%1$I at time zone ''UTC'', ''YYYY-MM-DD"T"HH24:MI:SS.US"Z"'') else %1$I::text end', attname)
				when 'numeric' then format('trim_scale(%I)::text', attname)
				else format('%I::text', attname)
			end
		from pg_attribute
		where attrelid = format('billing.%I', $1::text)::regclass and attnum > 0 and not attisdropped and attname not in ('canonical', 'sha256')
		order by attnum`, table)
	if err != nil {
		return "", err
	}
	fields, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(fields, ", "), err
}

var escapes = strings.NewReplacer(`\`, `\\`, `|`, `\|`, "\n", `\n`, "\r", `\r`)

// canonical is what billing.canonical makes of columns.
func canonical(columns []*string) string {
	parts := make([]string, len(columns))
	for i, c := range columns {
		if parts[i] = `\N`; c != nil {
			parts[i] = escapes.Replace(*c)
		}
	}
	return strings.Join(parts, "|")
}
