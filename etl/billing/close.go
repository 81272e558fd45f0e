package billing

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrRaced is a close or reopening that another one came before: the same again finds out what that did.
var ErrRaced = errors.New("another close or reopening came first")

// ErrNotClosed is the reopening of a month that is open.
var ErrNotClosed = errors.New("the month is not closed")

// ChangedError is a close or reopening of something else than somebody looked at.
type ChangedError struct {
	Changes []string // such as "total: USD 12.50 instead of USD 12.00"
}

func (e *ChangedError) Error() string {
	return "it is not what was looked at: " + strings.Join(e.Changes, "; ")
}

// RefusedError is a close that something stands against.
type RefusedError struct {
	Period    Period
	Obstacles []Obstacle // those that were not accepted
}

func (e *RefusedError) Error() string {
	lines := []string{fmt.Sprintf("close %s is refused", e.Period)}
	for _, o := range e.Obstacles {
		text := fmt.Sprintf("  %s: %s: %s", o.Kind, o.About, o.Remedy)
		if o.IsAcceptable {
			text += "; --accept-gaps accepts it"
		}
		lines = append(lines, text)
	}
	return strings.Join(lines, "\n")
}

// Obstacle is what stands against closing a month.
type Obstacle struct {
	// closed, not_over, order, empty, missing, partial, absent, quarantine, fell, not_closed, not_loaded, begins or
	// license_month
	Kind         string
	About        string
	Remedy       string
	IsAcceptable bool // with a reason
}

func (o Obstacle) String() string { return o.Kind + ": " + o.About }

// CloseOptions say how a month is closed.
type CloseOptions struct {
	By     string // the person
	Reason string // why obstacles are accepted; empty: they are not
	Plan   bool   // find out what would be closed, and change nothing
	Seen   *Seen  // what somebody looked at: anything else is a ChangedError; nil: nobody did
}

// Seen is what a close would freeze, and what stands against it, as somebody was shown it.
type Seen struct {
	Obstacles        []string // as texts, in any order
	Lines            int
	Provisional      int
	Totals           string
	Adjustments      int
	AdjustmentTotals string
}

// against tells how what is closed differs.
func (s *Seen) against(c Closing) (changes []string) {
	is, was := map[string]bool{}, map[string]bool{}
	for _, text := range s.Obstacles {
		was[text] = true
	}
	for _, o := range c.Obstacles {
		if is[o.String()] = true; !was[o.String()] {
			changes = append(changes, "stands against it now: "+o.String())
		}
	}
	for _, text := range slices.Sorted(maps.Keys(was)) {
		if !is[text] {
			changes = append(changes, "stands against it no more: "+text)
		}
	}
	for _, figure := range []struct {
		name    string
		is, was any
	}{
		{"lines", c.Lines, s.Lines}, {"provisional lines", c.Provisional, s.Provisional}, {"total", c.Totals, s.Totals},
		{"adjustments of earlier months", c.Adjustments, s.Adjustments}, {"total of adjustments", c.AdjustmentTotals, s.AdjustmentTotals},
	} {
		if figure.is != figure.was {
			changes = append(changes, fmt.Sprintf("%s: %v instead of %v", figure.name, orNone(figure.is), orNone(figure.was)))
		}
	}
	return changes
}

func orNone(figure any) any {
	if figure == "" {
		return "none"
	}
	return figure
}

// Closing is what was closed, or would be.
type Closing struct {
	Period           Period
	Link             int64 // number in the chain
	Version          int
	Lines            int
	Adjustments      int
	Days             int
	Unpriced         int    // lines without a price: they are in no total
	Provisional      int    // lines that were not final
	Totals           string // of the lines, such as "EUR 12.50; USD 3.00"
	AdjustmentTotals string
	Hash             string     // of the chain with this close, hexadecimal: whoever keeps it elsewhere can tell that nothing was taken off the end
	Obstacles        []Obstacle // what was accepted, or with Plan all there is
	Role             string     // as which role of the database
}

// Close freezes a month: its lines, the days behind them and, when it is the open one, the adjustments
// of months that were closed before, all of one snapshot and in one transaction. What stands against it is
// a RefusedError, unless it can be accepted and a reason is given. What somebody looked at is compared with what
// is frozen, in the same snapshot. Of two closers one wins and the other has ErrRaced.
func (b *Billing) Close(ctx context.Context, period Period, o CloseOptions) (c Closing, err error) {
	c.Period = period
	err = b.extend(ctx, o.Plan, func(tx pgx.Tx, link int64, now time.Time, role string) (hash []byte, err error) {
		c.Link, c.Role = link, role
		rows, err := tx.Query(ctx, `select kind, about, remedy, is_acceptable from billing.close_obstacle($1) order by is_acceptable, kind, about`, period.String())
		if err != nil {
			return nil, err
		}
		if c.Obstacles, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Obstacle]); err != nil {
			return nil, err
		}
		refused := &RefusedError{Period: period}
		var accepted []string
		for _, found := range c.Obstacles {
			if o.Reason == "" || !found.IsAcceptable {
				refused.Obstacles = append(refused.Obstacles, found)
			}
			accepted = append(accepted, found.String())
		}
		if len(refused.Obstacles) > 0 && !o.Plan {
			return nil, refused
		}
		// Months that are settled have nothing to adjust: only the others are computed, and settled with this close.
		rows, err = tx.Query(ctx, `
			select period from billing.adjusted_months() where period <> $1 and billing.open_period() <= $1 and not billing.is_settled(period)`, period.String())
		if err != nil {
			return nil, err
		}
		adjusted, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, err
		}
		named := pgx.NamedArgs{
			"adjusted": adjusted, "link": link, "period": period.String(), "now": now, "by": o.By, "accepted": strings.Join(accepted, "\n"), "reason": o.Reason,
		}
		for _, sql := range []string{freezeLines, freezeDays, freezeAdjustments} {
			if _, err := tx.Exec(ctx, sql, named); err != nil {
				return nil, err
			}
		}
		err = tx.QueryRow(ctx, freezeClose, named).Scan(&c.Version, &c.Lines, &c.Adjustments, &c.Days, &c.Totals, &c.AdjustmentTotals)
		if err != nil || o.Plan && len(refused.Obstacles) > 0 {
			return nil, err
		}
		if err := tx.QueryRow(ctx, `
			select count(*) filter (where unit_price is null), count(*) filter (where state = 'provisional')
			from billing.closed_line where link = $1 and kind = 'statement'`, link).Scan(&c.Unpriced, &c.Provisional); err != nil {
			return nil, err
		}
		if o.Seen != nil {
			if changes := o.Seen.against(c); len(changes) > 0 {
				return nil, &ChangedError{changes}
			}
		}
		if hash, err = appendLink(ctx, tx, link, "close", period, now); err != nil {
			return nil, err
		}
		c.Hash = hex.EncodeToString(hash)
		_, err = tx.Exec(ctx, `select billing.settle($1, $2)`, link, append(adjusted, period.String()))
		return hash, err
	})
	if err != nil {
		return c, fmt.Errorf("close %s: %w", period, err)
	}
	return c, nil
}

// Reopening is what was reopened.
type Reopening struct {
	Period  Period
	Link    int64
	Version int    // that was closed and stays
	Hash    string // of the chain with it
}

// ReopenOptions say how a month is reopened.
type ReopenOptions struct {
	By     string // the person
	Reason string
	Seen   int // the version that somebody looked at: another one is a ChangedError; 0: nobody did
}

// Reopen takes the close of a month out of force. What was frozen stays; the next close is another version.
// A month may be reopened while later ones are closed: it shows what is now, and what they adjusted of it is
// taken back as an adjustment of the open month. Of two who reopen or close one wins and the other has ErrRaced.
func (b *Billing) Reopen(ctx context.Context, period Period, o ReopenOptions) (r Reopening, err error) {
	r.Period = period
	err = b.extend(ctx, false, func(tx pgx.Tx, link int64, now time.Time, _ string) (hash []byte, err error) {
		r.Link = link
		err = tx.QueryRow(ctx, `
			insert into billing.reopen (link, period, version, reopened_at, reopened_by, database_user, reason)
			select $1, c.period, c.version, $3, $4, session_user, $5
			from billing.close as c
			where c.link = billing.closed_link($2)
			returning version`, link, period.String(), now, o.By, o.Reason).Scan(&r.Version)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return nil, ErrNotClosed
		case err != nil:
			return nil, err
		case o.Seen != 0 && o.Seen != r.Version:
			return nil, &ChangedError{[]string{fmt.Sprintf("version: %d instead of %d", r.Version, o.Seen)}}
		}
		hash, err = appendLink(ctx, tx, link, "reopen", period, now)
		r.Hash = hex.EncodeToString(hash)
		return hash, err
	})
	if err != nil {
		return r, fmt.Errorf("reopen %s: %w", period, err)
	}
	return r, nil
}

var errPlan = errors.New("nothing is changed")

// extend runs f in a transaction of one snapshot that is to add the next link of the chain, as the role
// that may do just that where the connected role can become it. f returns the link's hash, by which a
// commit is found whose answer was lost.
func (b *Billing) extend(ctx context.Context, plan bool, f func(tx pgx.Tx, link int64, now time.Time, role string) ([]byte, error)) error {
	now := b.now().UTC().Truncate(time.Microsecond)
	var link int64
	var hash []byte
	err := pgx.BeginTxFunc(ctx, b.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config('meterhouse.now', $1, true)`, now.Format(time.RFC3339Nano)); err != nil {
			return err
		}
		if err := becomeCloser(ctx, tx); err != nil {
			return err
		}
		var role string
		if err := tx.QueryRow(ctx, `select current_user::text, coalesce(max(link), 0) + 1 from billing.chain`).Scan(&role, &link); err != nil {
			return err
		}
		var err error
		if hash, err = f(tx, link, now, role); err == nil && plan {
			err = errPlan
		}
		return err
	})
	var pgErr *pgconn.PgError
	switch {
	case err == nil || errors.Is(err, errPlan):
		return nil
	case errors.As(err, &pgErr) && (pgErr.Code == "23505" || pgErr.Code == "40001"): // unique_violation, serialization_failure
		return fmt.Errorf("%w: run it again", ErrRaced)
	case errors.As(err, &pgErr) && pgErr.Code == "42501" && pgErr.SchemaName == "": // insufficient_privilege
		return fmt.Errorf("%w: want the rights of meterhouse_closer: an administrator grants them with `grant meterhouse_closer to …`", err)
	case (pgErr == nil || strings.HasPrefix(pgErr.Code, "57P")) && len(hash) > 0 && ctx.Err() == nil: // the server may be going down
		if b.isLinked(ctx, link, hash) {
			return nil
		}
	}
	return err
}

// isLinked finds out what became of a COMMIT whose answer was lost: the session that it was sent by holds
// the lock of the chain until it is done. When it is not done in time, nobody knows.
func (b *Billing) isLinked(ctx context.Context, link int64, hash []byte) (known bool) {
	err := pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		for _, sql := range []string{`set local lock_timeout = '10s'`, `select pg_advisory_xact_lock(hashtextextended('billing.chain', 0))`} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return tx.QueryRow(ctx, `select exists (select from billing.chain where link = $1 and hash = $2)`, link, hash).Scan(&known)
	})
	return err == nil && known
}

// becomeCloser takes the role that may add to closed months and nothing else, if it is there for us.
func becomeCloser(ctx context.Context, tx pgx.Tx) error {
	err := pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
		_, err := inner.Exec(ctx, `set local role meterhouse_closer`)
		return err
	})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == "42501" || pgErr.Code == "22023") { // insufficient_privilege, invalid_parameter_value: no such role
		return nil
	}
	return err
}

func appendLink(ctx context.Context, tx pgx.Tx, link int64, kind string, period Period, now time.Time) (hash []byte, err error) {
	err = tx.QueryRow(ctx, `
		insert into billing.chain (link, kind, period, at, previous_hash, hash)
		select $1::bigint, $2, $3, $4, coalesce((select hash from billing.chain where link = $1::bigint - 1), decode(repeat('00', 32), 'hex')), billing.link_hash($1::bigint)
		returning hash`, link, kind, period.String(), now).Scan(&hash)
	return hash, err
}

const freezeLines = `
	insert into billing.closed_line (
		link, line_no, kind, period_start, period_end, source, customer_id, account, subscription_number, item, charge, quantity, unit, unit_price,
		amount, currency, state, days_expected, days_observed, discriminator, description, is_waiver, level_class, days_estimated, segment_from,
		segment_to, rate_id, note
	)
	select
		@link, row_number() over (order by s.source, s.account, s.customer_id, s.subscription_number, s.discriminator, s.item, s.description, s.charge desc, s.is_waiver desc,
			s.period_start, s.segment_from, s.rate_id),
		'statement', s.period_start, s.period_end, s.source, s.customer_id, s.account, s.subscription_number, s.item, s.charge, s.quantity, s.unit, s.unit_price,
		s.amount, s.currency, s.state, s.days_expected, s.days_observed, s.discriminator, s.description, s.is_waiver, s.level_class, s.days_estimated, s.segment_from,
		s.segment_to, s.rate_id, s.note
	from billing.computed_statement(@period, 'infinity') as s`

const freezeDays = `
	insert into billing.closed_day (
		link, day_no, period_start, period_end, source, customer_id, account, subscription_number, discriminator, item, level_ordinal, description,
		charge, is_waiver, day, quantity, scale, basis, known_since, reading, doubt, rate_id
	)
	select
		@link, row_number() over (order by d.source, d.account, d.customer_id, d.subscription_number, d.discriminator, d.item, d.description, d.charge desc, d.is_waiver desc,
			d.period_start, d.day, d.level_ordinal),
		d.period_start, d.period_end, d.source, d.customer_id, d.account, d.subscription_number, d.discriminator, d.item, d.level_ordinal, d.description,
		d.charge, d.is_waiver, d.day, d.quantity, d.scale, d.basis, d.known_since, d.reading, d.doubt, d.rate_id
	from billing.computed_statement_day(@period, 'infinity') as d`

// Adjustments are frozen with the open month, or a later one, and with no month before it.
const freezeAdjustments = `
	insert into billing.closed_line (
		link, line_no, kind, period_start, period_end, source, customer_id, account, subscription_number, item, charge, quantity, unit, amount, currency,
		discriminator, description, is_waiver, adjusts_period, usage_date, reason, known_since, parts, worth
	)
	select
		@link, n.lines + row_number() over (order by m.period, a.source, a.account, a.customer_id, a.subscription_number, a.discriminator, a.item, a.description,
			a.charge desc, a.is_waiver desc, a.usage_date, a.currency),
		'adjustment', a.usage_date, a.usage_date, a.source, a.customer_id, a.account, a.subscription_number, a.item, a.charge, a.quantity, a.unit, a.amount, a.currency,
		a.discriminator, a.description, a.is_waiver, m.period, a.usage_date, a.reason, a.known_since, a.parts, a.worth
	from unnest(@adjusted::text[]) as m (period)
	cross join lateral billing.computed_adjustment(m.period) as a
	cross join (select count(*) as lines from billing.closed_line where link = @link) as n`

const freezeClose = `
	insert into billing.close (link, period, version, closed_at, closed_by, database_user, accepted, reason, lines, adjustments, days, totals, adjustment_totals)
	select
		@link, @period, (select count(*) + 1 from billing.close where period = @period), @now, @by, session_user, nullif(@accepted, ''),
		case when @accepted <> '' then @reason end,
		(select count(*) from billing.closed_line where link = @link and kind = 'statement'),
		(select count(*) from billing.closed_line where link = @link and kind = 'adjustment'),
		(select count(*) from billing.closed_day where link = @link),
		coalesce((select string_agg(text, '; ' order by text collate "C") from (
			select currency || ' ' || sum(amount) as text from billing.closed_line where link = @link and kind = 'statement' and amount is not null group by currency
		) as t), ''),
		coalesce((select string_agg(text, '; ' order by text collate "C") from (
			select currency || ' ' || sum(amount) as text from billing.closed_line where link = @link and kind = 'adjustment' and amount is not null group by currency
		) as t), '')
	returning version, lines, adjustments, days, totals, adjustment_totals`
