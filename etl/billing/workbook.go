package billing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"
	"github.com/xuri/excelize/v2"

	"meterhouse/etl"
)

// Workbook is what was put into a workbook.
type Workbook struct {
	Lines   int
	Days    int   // rows of evidence
	Differs []int // numbers of lines that are not what their days come to: none, or something is wrong
}

// WriteWorkbook writes a month as an XLSX file to hand over: Summary, Lines, Daily evidence, Restatements,
// Coverage, Match and Adjustments, all of one snapshot. A month that is closed at the instant comes from its
// frozen rows. The zero instant means now. What sheets cannot tell of the past, they say. Numbers are numbers,
// with their exact text beside them where a spreadsheet would round them; texts are never formulas. The
// same month makes the same bytes. Rows go through temporary files and not through memory, but for the days
// of a month that is matched with invoices. After an error w has a part of a file, or nothing.
func (b *Billing) WriteWorkbook(ctx context.Context, w io.Writer, period Period, asOf time.Time, only Selection) (Workbook, error) {
	book := newBook()
	defer book.close()
	return b.writeWorkbook(ctx, w, book, period, asOf, only)
}

func (b *Billing) writeWorkbook(ctx context.Context, w io.Writer, book *book, period Period, asOf time.Time, only Selection) (Workbook, error) {
	h := &handover{book: book, period: period, asOf: asOf, only: only, from: period.First(), until: period.Last()}
	now := b.now()
	err := b.read(ctx, func(tx pgx.Tx) error {
		h.Billing, h.tx = &Billing{pool: b.pool, now: func() time.Time { return now }, tx: tx}, tx
		return h.write(ctx, w)
	})
	if err != nil {
		return h.made, fmt.Errorf("workbook of %s: %w", period, err)
	}
	return h.made, nil
}

// handover is a workbook in the making.
type handover struct {
	*Billing
	tx   pgx.Tx
	book *book

	period      Period
	asOf        time.Time
	only        Selection
	close       *closeHeader // in force at asOf; nil: the month is open
	known       horizon
	from, until etl.Day // the days of the statement

	lines  []*workLine // in the order of their numbers
	byKey  map[workKey]*workLine
	series []*series // in the order of the evidence
	match  *Match    // nil: there is no invoice
	sums   map[adjustmentSum]decimal.Decimal
	made   Workbook
	rows   map[string]int // by sheet
}

// workKey tells the lines of a month apart, and the line of a day.
type workKey struct {
	start, end                                                                        etl.Day
	source, account, customer, subscription, discriminator, item, description, charge string
	isWaiver                                                                          bool
	rate                                                                              int64
}

func keyOfLine(l Line) workKey {
	return workKey{l.PeriodStart, l.PeriodEnd, l.Source, l.Account, l.CustomerID, l.SubscriptionNumber, l.Discriminator, l.Item, l.Description, l.Charge, l.IsWaiver, l.RateID}
}

func keyOfDay(d StatementDay) workKey {
	return workKey{d.PeriodStart, d.PeriodEnd, d.Source, d.Account, d.CustomerID, d.SubscriptionNumber, d.Discriminator, d.Item, d.Description, d.Charge, d.IsWaiver, d.RateID}
}

// workLine is a line with what its days come to.
type workLine struct {
	Line
	number   int
	closedAs string // its state when it was closed
	parts    decimal.NullDecimal
	scale    int
	days     int // rows of evidence
}

// proof compares a line with its days: what they come to, and in words what is not as it should be.
func (l *workLine) proof() (quantity decimal.NullDecimal, differs string) {
	if l.parts.Valid {
		quantity = decimal.NewNullDecimal(trimmed(l.parts.Decimal.DivRound(decimal.NewFromInt(int64(l.scale)), 12)))
	}
	switch {
	case quantity.Valid != l.Quantity.Valid || !quantity.Decimal.Equal(l.Quantity.Decimal):
		return quantity, "quantity differs"
	case l.UnitPrice.Valid && quantity.Valid:
		amount := l.parts.Decimal.Mul(l.UnitPrice.Decimal).DivRound(decimal.NewFromInt(int64(l.scale)), int32(MinorUnits(l.Currency)))
		if !l.Amount.Valid || !amount.Equal(l.Amount.Decimal) {
			return quantity, "amount differs"
		}
	case l.Amount.Valid:
		return quantity, "amount differs"
	}
	return quantity, ""
}

// series is what covers the days of an instance of a level, or of a product and description, for a charge.
type series struct {
	instance
	stretches []stretch
}

// stretch is a run of days of which the same is known.
type stretch struct {
	first, last  etl.Day
	basis, doubt string
}

type closeHeader struct {
	Link                     int64
	Version                  int
	ClosedAt                 time.Time
	ClosedBy, DatabaseUser   string
	Accepted, Reason         string
	Lines, Adjustments, Days int
	Totals, AdjustmentTotals string
	PreviousHash, Hash       string
	Since                    string // what became of it after the instant; empty: it is in force
}

// horizon is the newest load that what is told rests on.
type horizon struct {
	Run int64
	At  time.Time // zero: nothing was loaded
}

type adjustmentSum struct {
	period, adjusts, currency string
}

func (h *handover) write(ctx context.Context, w io.Writer) error {
	if err := h.look(ctx); err != nil {
		return err
	}
	h.rows = map[string]int{}
	// Sheets stand in the order in which they begin; the first two are filled when the others are known.
	summary, err := h.book.stream("Summary", pageWidth)
	if err != nil {
		return err
	}
	lines, err := h.book.sheet("Lines", "Lines of the statement of "+h.period.String(), h.source()+
		". Check: whether the days of the line in Daily evidence come to its quantity and amount, to the last digit.", lineSheet)
	if err != nil {
		return err
	}
	for _, fill := range []func(context.Context) error{h.writeDays, func(context.Context) error { return h.writeLines(lines) }, h.writeRestatements, h.writeCoverage, h.writeMatch, h.writeAdjustments} {
		if err := fill(ctx); err != nil {
			return err
		}
	}
	if err := h.writeSummary(summary); err != nil {
		return err
	}
	return h.book.write(w, "Statement of "+h.period.String(), h.time())
}

// time is that of what is told: it stands in the file in place of the time of its making.
func (h *handover) time() time.Time {
	switch {
	case h.close != nil:
		return h.close.ClosedAt
	case !h.asOf.IsZero():
		return h.asOf
	case !h.known.At.IsZero():
		return h.known.At
	}
	return h.period.First().Time()
}

// source says in words where lines and days come from.
func (h *handover) source() string {
	switch {
	case h.close != nil:
		return fmt.Sprintf("Frozen with link %d on %s, and the same ever since", h.close.Link, moment(h.close.ClosedAt))
	case !h.asOf.IsZero():
		return "As it was known at " + moment(h.asOf)
	}
	return "As it is known now; the month is not closed"
}

// look finds out what there is: the close in force, and the lines.
func (h *handover) look(ctx context.Context) error {
	rows, err := h.tx.Query(ctx, `
		select
			c.link, c.version, c.closed_at, c.closed_by, c.database_user, coalesce(c.accepted, ''), coalesce(c.reason, ''), c.lines, c.adjustments, c.days,
			c.totals, c.adjustment_totals, encode(n.previous_hash, 'hex'), encode(n.hash, 'hex'),
			case billing.closed_link($1) when c.link then '' else 'it was taken out of force since' end
		from billing.close as c
		join billing.chain as n using (link)
		where c.link = billing.closed_link($1, $2)`, h.period.String(), instant(h.asOf))
	if err != nil {
		return err
	}
	header, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[closeHeader])
	switch {
	case err == nil:
		h.close = &header
	case !errors.Is(err, pgx.ErrNoRows):
		return err
	}
	err = h.tx.QueryRow(ctx, `
		select run_id, business_at from ops.run where status in ('ok', 'partial') and business_at <= $1::text::timestamptz order by business_at desc, run_id desc limit 1`,
		instant(h.asOf)).Scan(&h.known.Run, &h.known.At)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	// Numbers are those of the whole month, whatever is selected.
	statement, err := h.Statement(ctx, h.period, h.asOf, Selection{})
	if err != nil {
		return err
	}
	h.byKey = make(map[workKey]*workLine, len(statement.Lines))
	for i, l := range statement.Lines {
		line := &workLine{Line: l, number: i + 1}
		if h.byKey[keyOfLine(l)] != nil {
			return fmt.Errorf("two lines are for the same: %+v", keyOfLine(l))
		}
		h.byKey[keyOfLine(l)] = line
		if h.selects(l.CustomerID, l.Account) {
			h.lines = append(h.lines, line)
		}
	}
	if h.close == nil {
		return nil
	}
	if err := h.numberAsClosed(ctx); err != nil {
		return err
	}
	slices.SortFunc(h.lines, func(a, b *workLine) int { return cmp.Compare(a.number, b.number) })
	return nil
}

func (h *handover) selects(customer, account string) bool {
	return (h.only.CustomerID == "" || h.only.CustomerID == customer) && (h.only.Account == "" || h.only.Account == account)
}

// numberAsClosed gives frozen lines the numbers under which they are hashed.
func (h *handover) numberAsClosed(ctx context.Context) error {
	rows, err := h.tx.Query(ctx, `
		select line_no, state, period_start, period_end, source, account, customer_id, subscription_number, discriminator, item, description, charge, is_waiver, coalesce(rate_id, 0)
		from billing.closed_line
		where link = $1 and kind = 'statement'`, h.close.Link)
	if err != nil {
		return err
	}
	var number int
	var state string
	var start, end time.Time
	var k workKey
	found := 0
	_, err = pgx.ForEachRow(rows, []any{&number, &state, &start, &end, &k.source, &k.account, &k.customer, &k.subscription, &k.discriminator, &k.item, &k.description,
		&k.charge, &k.isWaiver, &k.rate}, func() error {
		k.start, k.end = etl.DayOf(start), etl.DayOf(end)
		line := h.byKey[k]
		if line == nil {
			return fmt.Errorf("frozen line %d of link %d is not in the statement", number, h.close.Link)
		}
		line.number, line.closedAs = number, state
		found++
		return nil
	})
	if err == nil && found != len(h.byKey) {
		err = fmt.Errorf("%d lines in the statement, %d frozen with link %d", len(h.byKey), found, h.close.Link)
	}
	return err
}

var daySheet = []column{
	{"line", whole, 6}, {"day (UTC; wolkvox: local)", dated, 12}, {"source", words, 9}, {"account", words, 12}, {"customer id", words, 13}, {"subscription number", words, 15},
	{"discriminator", words, 13}, {"item", words, 24}, {"level ordinal", whole, 8}, {"description", words, 22}, {"charge", words, 10}, {"waiver", truth, 8},
	{"quantity", number, 14}, {"scale", whole, 9}, {"basis", words, 11}, {"reading", number, 14}, {"doubt", words, 11}, {"rate id", whole, 8},
	{"known since (UTC)", words, 27}, {"run", whole, 8}, {"payload", whole, 9},
}

func (h *handover) writeDays(ctx context.Context) error {
	s, err := h.book.sheet("Daily evidence", "Days behind the lines of "+h.period.String(), h.source()+
		". Quantity / scale is what the day adds to the quantity of its line, exactly. Reading: TiB committed, accrued burst, items. Run and payload: the load and the answer of the vendor that told it.", daySheet)
	if err != nil {
		return err
	}
	// What follows joins all days of a month with all versions of them, which is for hashes, as the planner cannot know.
	if _, err := h.tx.Exec(ctx, `select set_config('enable_nestloop', 'off', true), set_config('jit', 'off', true)`); err != nil {
		return err
	}
	rows, err := h.tx.Query(ctx, evidence, h.period.String(), instant(h.asOf), h.only.CustomerID, h.only.Account)
	if err != nil {
		return err
	}
	defer rows.Close()
	all := map[instance]*series{}
	for rows.Next() {
		var run, payload *int64
		d, err := scanDay(rows, &run, &payload)
		if err != nil {
			return err
		}
		line := h.byKey[keyOfDay(d)]
		if line == nil {
			return fmt.Errorf("day %s is of no line: %+v", d.Day, keyOfDay(d))
		}
		line.days++
		if line.days > 1 && line.scale != d.Scale {
			return fmt.Errorf("line %d: scale %d on %s, %d before", line.number, d.Scale, d.Day, line.scale)
		}
		line.scale = d.Scale
		if d.Quantity.Valid {
			line.parts = decimal.NewNullDecimal(line.parts.Decimal.Add(d.Quantity.Decimal))
		}
		h.cover(all, d)
		if h.made.Days == 0 {
			h.from, h.until = d.Day, d.Day
		}
		h.from, h.until = min(h.from, d.Day), max(h.until, d.Day)
		h.made.Days++
		if err := s.add(line.number, d.Day, d.Source, d.Account, d.CustomerID, d.SubscriptionNumber, d.Discriminator, d.Item, d.LevelOrdinal, d.Description, d.Charge, d.IsWaiver,
			d.Quantity, d.Scale, d.Basis, d.Reading, d.Doubt, id(d.RateID), moment(d.KnownSince), optional(run), optional(payload)); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if _, err := h.tx.Exec(ctx, `select set_config('enable_nestloop', 'on', true)`); err != nil {
		return err
	}
	h.rows[s.name] = s.rows
	return s.end()
}

// cover notes what is known of a day.
func (h *handover) cover(all map[instance]*series, d StatementDay) {
	key := instanceOf(d).series()
	of := all[key]
	if of == nil {
		of = &series{instance: key}
		all[key], h.series = of, append(h.series, of)
	}
	if n := len(of.stretches); n > 0 {
		last := &of.stretches[n-1]
		if last.last+1 == d.Day && last.basis == d.Basis && last.doubt == d.Doubt {
			last.last = d.Day
			return
		}
	}
	of.stretches = append(of.stretches, stretch{d.Day, d.Day, d.Basis, d.Doubt})
}

// evidence are the days of a statement in the order of its lines, with the run and the body that told each.
const evidence = `
	with day as materialized (
		select * from billing.statement_day($1, $2) where ($3 = '' or customer_id = $3) and ($4 = '' or account = $4)
	),

	span as materialized (
		select min(day) as first_day, max(day) as last_day from day
	),

	-- Daily rows, and those they superseded: a frozen day may be one of these.
	daily as materialized (
		select l.customer_key, l.service_level_key, v.day, v.known_since, v.run_id, v.payload_id
		from dw.dim_service_level as l
		cross join span
		cross join lateral (
			select f.usage_date as day, f.known_since, f.run_id, f.payload_id
			from dw.fact_daily_consumption as f
			where f.customer_key = l.customer_key and f.service_level_key = l.service_level_key and f.usage_date >= span.first_day and f.usage_date <= span.last_day
			offset 0
		) as v
		union all
		select r.customer_key, r.service_level_key, r.usage_date, r.known_from, p.run_id, r.payload_id
		from dw.restatement as r
		cross join span
		left join raw.payload as p using (payload_id)
		where r.usage_date >= span.first_day and r.usage_date <= span.last_day
	),

	version as (
		select c.account, c.customer_id, s.subscription_number, s.discriminator, l.service_level as item, l.level_ordinal, '' as description, d.day, d.known_since, d.run_id, d.payload_id
		from daily as d
		join dw.dim_service_level as l using (customer_key, service_level_key)
		join dw.dim_subscription as s using (customer_key, subscription_key)
		join dw.dim_customer as c using (customer_key)
		union all
		select o.account, '', '', o.operation, p.api, 0, r.description, r.reading_date, r.read_at, r.run_id, r.payload_id
		from dw.fact_license_reading as r
		join dw.dim_operation as o using (operation_key)
		join dw.dim_product as p using (product_key)
		cross join span
		where r.reading_date >= span.first_day and r.reading_date <= span.last_day
	),

	told as materialized (
		select distinct on (account, customer_id, subscription_number, discriminator, item, level_ordinal, description, day, known_since) *
		from version
		order by account, customer_id, subscription_number, discriminator, item, level_ordinal, description, day, known_since, payload_id desc
	)

	select ` + dayColumns + `, run_id, payload_id
	from day
	left join told using (account, customer_id, subscription_number, discriminator, item, level_ordinal, description, day, known_since)
	order by source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, period_start, day, level_ordinal`

var lineSheet = []column{
	{"line", whole, 6}, {"source", words, 9}, {"account", words, 12}, {"customer id", words, 13}, {"subscription number", words, 15}, {"discriminator", words, 13},
	{"item", words, 24}, {"description", words, 22}, {"charge", words, 10}, {"waiver", truth, 8}, {"quantity", number, 18}, {"unit", words, 11},
	{"unit price", number, 13}, {"amount", number, 15}, {"currency", words, 9}, {"state", words, 11}, {"days expected", whole, 9}, {"days observed", whole, 9},
	{"days estimated", whole, 10}, {"note", words, 40}, {"period start (UTC; wolkvox: local)", dated, 12}, {"period end, inclusive", dated, 12},
	{"price from", dated, 12}, {"price to, inclusive", dated, 12}, {"level class", words, 12}, {"rate id", whole, 8}, {"closed as", words, 11},
	{"days in evidence", whole, 9}, {"quantity of the days", number, 18}, {"check", words, 16},
}

func (h *handover) writeLines(s *sheet) error {
	for _, l := range h.lines {
		quantity, differs := l.proof()
		check := any("ok")
		if differs != "" {
			h.made.Differs = append(h.made.Differs, l.number)
			cell, err := h.book.cell("bad", differs)
			if err != nil {
				return err
			}
			check = cell
		}
		if err := s.add(l.number, l.Source, l.Account, l.CustomerID, l.SubscriptionNumber, l.Discriminator, l.Item, l.Description, l.Charge, l.IsWaiver, l.Quantity, l.Unit,
			l.UnitPrice, money{l.Amount, l.Currency}, l.Currency, l.State, l.DaysExpected, l.DaysObserved, l.DaysEstimated, l.Note, l.PeriodStart, l.PeriodEnd,
			l.SegmentFrom, l.SegmentTo, l.LevelClass, id(l.RateID), l.closedAs, l.days, quantity, check); err != nil {
			return err
		}
	}
	h.made.Lines, h.rows[s.name] = s.rows, s.rows
	return s.end()
}

var restatementSheet = []column{
	{"lines", words, 10}, {"customer id", words, 13}, {"subscription number", words, 15}, {"discriminator", words, 13}, {"service level", words, 24}, {"level ordinal", whole, 8},
	{"day (UTC)", dated, 12}, {"kind", words, 10}, {"column", words, 24}, {"old value", number, 14}, {"new value", number, 14}, {"was invoiced", words, 9},
	{"after the close", words, 9}, {"known from (UTC)", words, 27}, {"known until (UTC)", words, 27},
}

func (h *handover) writeRestatements(ctx context.Context) error {
	note := "What the vendor told of these days and then changed, as known now."
	if !h.asOf.IsZero() {
		note = "What the vendor told of these days and had changed by " + moment(h.asOf) + "."
	}
	s, err := h.book.sheet("Restatements", "Restated days of "+h.period.String(), note+" Readings of wolkvox that were made anew are not kept.", restatementSheet)
	if err != nil {
		return err
	}
	rows, err := h.tx.Query(ctx, `
		select r.customer_id, r.subscription_number, r.discriminator, r.service_level, r.level_ordinal, r.usage_date, r.kind, r.column_name, coalesce(r.old_value, ''),
			coalesce(r.new_value, ''), r.was_invoiced, r.known_from, r.known_until
		from mart.restatement as r
		where r.usage_date >= $1 and r.usage_date <= $2 and r.known_until <= $3::text::timestamptz and ($4 = '' or r.customer_id = $4)
			and ($5 = '' or r.customer_id in (select c.customer_id from dw.dim_customer as c where c.account = $5))
		order by r.customer_id, r.subscription_number, r.discriminator, r.service_level, r.level_ordinal, r.usage_date, r.known_until, r.known_from, r.version_number, r.column_name`,
		h.from.Time(), h.until.Time(), instant(h.asOf), h.only.CustomerID, h.only.Account)
	if err != nil {
		return err
	}
	var of instance
	var day, from, until time.Time
	var kind, column, former, later string
	var invoiced *bool
	if _, err := pgx.ForEachRow(rows, []any{&of.customer, &of.subscription, &of.discriminator, &of.item, &of.ordinal, &day, &kind, &column, &former, &later, &invoiced, &from, &until}, func() error {
		after := ""
		if h.close != nil {
			after = yesNo(until.After(h.close.ClosedAt))
		}
		was := "unknown"
		if invoiced != nil {
			was = yesNo(*invoiced)
		}
		return s.add(h.linesOf(of, etl.DayOf(day)), of.customer, of.subscription, of.discriminator, of.item, of.ordinal, etl.DayOf(day), kind, column, told(column, former), told(column, later), was, after,
			moment(from), moment(until))
	}); err != nil {
		return err
	}
	h.rows[s.name] = s.rows
	return s.end()
}

// told is a value of a column of a day: a number, or a text where it is none.
func told(column, value string) any {
	if strings.HasSuffix(column, "_tib") || column == "sample_count" {
		if d, err := decimal.NewFromString(value); err == nil {
			return decimal.NewNullDecimal(d)
		}
	}
	return value
}

// linesOf are the numbers of the lines that a day of a level counts in.
func (h *handover) linesOf(of instance, day etl.Day) string {
	var numbers []string
	for _, l := range h.lines {
		if l.CustomerID == of.customer && l.SubscriptionNumber == of.subscription && l.Discriminator == of.discriminator && l.Item == of.item && l.SegmentFrom <= day && day <= l.SegmentTo {
			numbers = append(numbers, strconv.Itoa(l.number))
		}
	}
	return strings.Join(numbers, " ")
}

var coverageSheet = []column{
	{"told by", words, 10}, {"source", words, 9}, {"account", words, 12}, {"customer id", words, 13}, {"subscription number", words, 15}, {"discriminator", words, 13},
	{"item", words, 24}, {"level ordinal", whole, 8}, {"description", words, 22}, {"charge", words, 10}, {"status", words, 12}, {"doubt", words, 12},
	{"first day (UTC; wolkvox: local)", dated, 12}, {"last day", dated, 12}, {"days", whole, 7},
}

func (h *handover) writeCoverage(ctx context.Context) error {
	s, err := h.book.sheet("Coverage", "What is known of the days of "+h.period.String(), "Told by lines: the days of the statement, one row for each run of days alike. "+h.source()+
		". Told by loads: days without a whole answer of the vendor, always as of now, since answers of the past are not kept.", coverageSheet)
	if err != nil {
		return err
	}
	for _, of := range h.series {
		for _, t := range of.stretches {
			if err := s.add("lines", of.source, of.account, of.customer, of.subscription, of.discriminator, of.item, of.ordinal, of.description, of.charge, t.basis, t.doubt,
				t.first, t.last, int(t.last-t.first)+1); err != nil {
				return err
			}
		}
	}
	rows, err := h.tx.Query(ctx, `
		with gap as (
			select
				c.source, coalesce(c.account, '') as account, coalesce(c.customer_id, '') as customer_id, coalesce(c.subscription_number, '') as subscription_number,
				coalesce(c.service_level, c.product, '') as item, c.status, c.day, count(*) as levels
			from mart.coverage as c
			where c.day >= $1 and c.day <= $2 and c.status not in ('observed', 'not_due') and ($3 = '' or c.customer_id = $3) and ($4 = '' or c.account = $4)
			group by c.source, c.account, c.customer_id, c.subscription_number, coalesce(c.service_level, c.product, ''), c.status, c.day
		),

		island as (
			select g.*, g.day - row_number() over (partition by source, account, customer_id, subscription_number, item, status, levels order by day)::integer as start
			from gap as g
		)

		select source, account, customer_id, subscription_number, item, status, min(day), max(day)
		from island
		group by source, account, customer_id, subscription_number, item, status, levels, start
		order by source, account, customer_id, subscription_number, item, min(day), status`,
		h.from.Time(), h.until.Time(), h.only.CustomerID, h.only.Account)
	if err != nil {
		return err
	}
	var of thing
	var status string
	var first, last time.Time
	if _, err := pgx.ForEachRow(rows, []any{&of.source, &of.account, &of.customer, &of.subscription, &of.item, &status, &first, &last}, func() error {
		return s.add("loads", of.source, of.account, of.customer, of.subscription, nil, of.item, nil, nil, nil, status, nil, etl.DayOf(first), etl.DayOf(last), int(etl.DayOf(last)-etl.DayOf(first))+1)
	}); err != nil {
		return err
	}
	h.rows[s.name] = s.rows
	return s.end()
}

var matchSheet = []column{
	{"cause", words, 22}, {"source", words, 9}, {"account", words, 12}, {"customer id", words, 13}, {"subscription number", words, 15}, {"item", words, 24}, {"charge", words, 10},
	{"currency", words, 9}, {"invoice amount", number, 15}, {"statement amount", number, 15}, {"difference", number, 15}, {"recomputed amount", number, 15}, {"invoices", words, 16},
	{"invoice lines", whole, 9}, {"statement lines", whole, 9}, {"invoice quantity", number, 14}, {"invoice unit price", number, 12}, {"statement quantity", number, 14},
	{"statement unit price", number, 12}, {"recomputed quantity", number, 14}, {"detail", words, 50}, {"state", words, 11},
	{"period start (UTC; wolkvox: local)", dated, 12}, {"period end, inclusive", dated, 12},
}

func (h *handover) writeMatch(ctx context.Context) error {
	var invoiced bool
	if err := h.tx.QueryRow(ctx, `
		select exists (
			select from billing.invoice as i
			join billing.invoice_line as l using (invoice_id)
			where l.period_end between $1 and $2 and i.known_since <= $3::text::timestamptz and (i.superseded_at is null or i.superseded_at > $3::text::timestamptz)
		)`, h.period.First().Time(), h.period.Last().Time(), instant(h.asOf)).Scan(&invoiced); err != nil {
		return err
	}
	note := "No invoice with a line of this month is imported: there is nothing to compare. See `meterhouse invoice import`."
	if invoiced {
		m, err := h.Match(ctx, h.period, h.asOf, DefaultTolerance)
		if err != nil {
			return err
		}
		m.Lines = slices.DeleteFunc(m.Lines, func(l MatchLine) bool { return !h.selects(l.CustomerID, l.Account) })
		h.match = &m
		note = "Invoices against the statement. " + h.source() + ". Difference: invoice less statement. Of an amount or price there is none where a side has no line, or several prices."
	}
	s, err := h.book.sheet("Match", "Invoices and statement of "+h.period.String(), note, matchSheet)
	if err != nil {
		return err
	}
	if h.match == nil {
		return s.end()
	}
	for _, l := range h.match.Lines {
		amount := func(d decimal.Decimal, lines int) any {
			if lines == 0 || l.Currency == "" {
				return nil
			}
			return money{decimal.NewNullDecimal(d), l.Currency}
		}
		if err := s.add(string(l.Cause), l.Source, l.Account, l.CustomerID, l.SubscriptionNumber, l.Item, l.Charge, l.Currency, amount(l.InvoiceAmount, l.InvoiceLines),
			amount(l.StatementAmount, l.StatementLines), amount(l.Difference, 1), money{l.RecomputedAmount, l.Currency}, strings.Join(l.Invoices, " "), l.InvoiceLines, l.StatementLines,
			l.InvoiceQuantity, l.InvoicePrice, l.StatementQuantity, l.StatementPrice, l.RecomputedQuantity, l.Detail, l.State, l.PeriodStart, l.PeriodEnd); err != nil {
			return err
		}
	}
	h.rows[s.name] = s.rows
	return s.end()
}

var adjustmentSheet = []column{
	{"billed in", words, 10}, {"adjusts", words, 10}, {"day (UTC; wolkvox: local)", dated, 12}, {"source", words, 9}, {"account", words, 12}, {"customer id", words, 13},
	{"subscription number", words, 15}, {"discriminator", words, 13}, {"item", words, 24}, {"description", words, 22}, {"charge", words, 10}, {"waiver", truth, 8},
	{"quantity", number, 18}, {"unit", words, 11}, {"amount", number, 15}, {"currency", words, 9}, {"reason", words, 22}, {"known since (UTC)", words, 27}, {"state", words, 9},
}

func (h *handover) writeAdjustments(ctx context.Context) error {
	note := "What changed of months that were closed before and is billed in this one, and what changed of this one since it was closed. Not part of the lines."
	if !h.asOf.IsZero() {
		note += " As of now: adjustments of the past are not kept but where they were frozen (state closed)."
	}
	s, err := h.book.sheet("Adjustments", "Adjustments billed in "+h.period.String()+", or of it", note, adjustmentSheet)
	if err != nil {
		return err
	}
	const columns = `period, adjusts_period, usage_date, source, account, customer_id, subscription_number, discriminator, item, description, charge, is_waiver,
		quantity::text, coalesce(unit, ''), amount::text, coalesce(currency, ''), reason, known_since, state`
	rows, err := h.tx.Query(ctx, `
		select `+columns+`
		from (
			select * from mart.adjustment where period = $1
			union all
			select * from mart.adjustment where adjusts_period = $1 and period <> $1
		) as a
		where ($2 = '' or customer_id = $2) and ($3 = '' or account = $3)
		order by period, adjusts_period, source, account, customer_id, subscription_number, discriminator, item, description, charge desc, is_waiver desc, usage_date, currency`,
		h.period.String(), h.only.CustomerID, h.only.Account)
	if err != nil {
		return err
	}
	h.sums = map[adjustmentSum]decimal.Decimal{}
	var period, adjusts, discriminator, description, unit, currency, reason, state string
	var of thing
	var isWaiver bool
	var day time.Time
	var known *time.Time
	var quantity, amount *string
	if _, err := pgx.ForEachRow(rows, []any{&period, &adjusts, &day, &of.source, &of.account, &of.customer, &of.subscription, &discriminator, &of.item, &description, &of.charge, &isWaiver,
		&quantity, &unit, &amount, &currency, &reason, &known, &state}, func() error {
		var q, m decimal.NullDecimal
		if err := exact(map[*decimal.NullDecimal]*string{&q: quantity, &m: amount}); err != nil {
			return err
		}
		if m.Valid {
			k := adjustmentSum{period, adjusts, currency}
			h.sums[k] = h.sums[k].Add(m.Decimal)
		}
		since := ""
		if known != nil {
			since = moment(*known)
		}
		return s.add(period, adjusts, etl.DayOf(day), of.source, of.account, of.customer, of.subscription, discriminator, of.item, description, of.charge, isWaiver,
			q, unit, money{m, currency}, currency, reason, since, state)
	}); err != nil {
		return err
	}
	h.rows[s.name] = s.rows
	return s.end()
}

// trimmed is a number without the zeros at its end.
func trimmed(d decimal.Decimal) decimal.Decimal {
	for d.Exponent() < 0 {
		shorter := d.Truncate(-d.Exponent() - 1)
		if !shorter.Equal(d) {
			break
		}
		d = shorter
	}
	return d
}

func yesNo(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

// moment is an instant as exact as the database has it; text, for a spreadsheet would round it.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05.999999Z")
}

// id is the number of a row; 0 is none.
func id(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}

func optional(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}

// writeSummary fills the first sheet: what the others come to.
func (h *handover) writeSummary(w *excelize.StreamWriter) error {
	s := &summary{book: h.book, w: w}
	for i, width := range []int{24, 16, 16, 16, 16, 14, 18, 22} {
		if err := w.SetColWidth(i+1, i+1, float64(width)); err != nil {
			return err
		}
	}
	s.title("Statement of " + h.period.String())
	s.fact("period", h.period.String()+": the lines whose billing period ends in this month")
	s.fact("days", fmt.Sprintf("%s to %s, UTC; of wolkvox in the zone of the operation", h.from, h.until))
	s.fact("selection", h.selection())
	s.fact("lines and days", h.source())
	if h.known.Run != 0 {
		s.fact("loaded up to", fmt.Sprintf("run %d of %s", h.known.Run, moment(h.known.At)))
	}
	provisional, unpriced := 0, 0
	for _, l := range h.lines {
		if l.State == "provisional" {
			provisional++
		}
		if !l.UnitPrice.Valid {
			unpriced++
		}
	}
	switch {
	case h.close != nil:
		s.fact("state", "closed")
	case provisional > 0:
		s.fact("state", fmt.Sprintf("open: %d of %d lines are provisional, their notes say why", provisional, len(h.lines)))
	default:
		s.fact("state", "open, no line is provisional")
	}
	if unpriced > 0 {
		s.fact("without a price", fmt.Sprintf("%d lines, in no total", unpriced))
	}
	if len(h.made.Differs) == 0 {
		s.fact("check", "every line is what its days come to, to the last digit")
	} else {
		s.alarm("check", fmt.Sprintf("%d lines are not what their days come to: see column check of Lines", len(h.made.Differs)))
	}
	if c := h.close; c != nil {
		s.heading("Close")
		s.fact("link", strconv.FormatInt(c.Link, 10))
		s.fact("version", strconv.Itoa(c.Version))
		s.fact("closed at", moment(c.ClosedAt))
		s.fact("closed by", c.ClosedBy+", as database user "+c.DatabaseUser)
		s.fact("frozen", fmt.Sprintf("%d lines, %d adjustments of earlier months, %d days", c.Lines, c.Adjustments, c.Days))
		s.fact("totals", cmp.Or(c.Totals, "none: no line has a price"))
		s.fact("totals of adjustments", cmp.Or(c.AdjustmentTotals, "none"))
		s.fact("accepted gaps", cmp.Or(c.Accepted, "none"))
		if c.Accepted != "" {
			s.fact("accepted because", c.Reason)
		}
		s.fact("hash", c.Hash)
		s.fact("previous hash", c.PreviousHash)
		s.fact("verify", "meterhouse close verify "+h.period.String())
		if c.Since != "" {
			s.alarm("since then", c.Since)
		}
	}

	s.heading("Totals of the lines")
	s.header("currency", "lines|provisional|amount")
	for _, t := range (Statement{Lines: h.selected()}).Totals() {
		s.row(t.Currency, t.Lines, t.Provisional, money{decimal.NewNullDecimal(t.Amount), t.Currency})
	}
	s.heading("Totals by customer and charge")
	s.header("source|account|customer id|charge|currency", "lines|amount")
	for _, t := range h.byCharge() {
		s.row(t.source, t.account, t.customer, t.charge, cmp.Or(t.currency, "without a price"), t.lines, money{t.amount, t.currency})
	}
	if len(h.sums) > 0 {
		s.heading("Adjustments, not part of the lines")
		s.header("billed in|adjusts|currency", "amount")
		for _, k := range slices.SortedFunc(maps.Keys(h.sums), func(a, b adjustmentSum) int {
			return cmp.Or(cmp.Compare(a.period, b.period), cmp.Compare(a.adjusts, b.adjusts), cmp.Compare(a.currency, b.currency))
		}) {
			s.row(k.period, k.adjusts, k.currency, money{decimal.NewNullDecimal(h.sums[k]), k.currency})
		}
	}
	if h.match != nil {
		s.heading("Invoices less statement, by cause")
		s.header("cause|currency", "comparisons|difference")
		for _, t := range h.match.Totals() {
			s.row(string(t.Cause), t.Currency, t.Lines, money{decimal.NewNullDecimal(t.Difference), t.Currency})
		}
	}
	s.heading("Sheets")
	s.header("sheet", "rows")
	for _, name := range []string{"Lines", "Daily evidence", "Restatements", "Coverage", "Match", "Adjustments"} {
		s.row(name, h.rows[name])
	}
	if s.err != nil {
		return fmt.Errorf("sheet Summary: %w", s.err)
	}
	return w.Flush()
}

// selection says in words what was selected.
func (h *handover) selection() string {
	switch {
	case h.only == Selection{}:
		return "all customers and accounts"
	case h.only.Account == "":
		return "customer " + h.only.CustomerID + " only"
	case h.only.CustomerID == "":
		return "account " + h.only.Account + " only"
	}
	return "customer " + h.only.CustomerID + " of account " + h.only.Account + " only"
}

func (h *handover) selected() (lines []Line) {
	for _, l := range h.lines {
		lines = append(lines, l.Line)
	}
	return lines
}

type chargeTotal struct {
	source, account, customer, charge, currency string
	lines                                       int
	amount                                      decimal.NullDecimal // unknown without a price
}

// byCharge are the totals by customer and charge, in the order of the lines.
func (h *handover) byCharge() (totals []chargeTotal) {
	for _, l := range h.lines {
		t := chargeTotal{source: l.Source, account: l.Account, customer: l.CustomerID, charge: l.Charge, currency: l.Currency}
		i := slices.IndexFunc(totals, func(o chargeTotal) bool {
			return o.source == t.source && o.account == t.account && o.customer == t.customer && o.charge == t.charge && o.currency == t.currency
		})
		if i < 0 {
			i, totals = len(totals), append(totals, t)
		}
		totals[i].lines++
		if l.Amount.Valid {
			totals[i].amount = decimal.NewNullDecimal(totals[i].amount.Decimal.Add(l.Amount.Decimal))
		}
	}
	return totals
}

// summary is a sheet that is written freely, line by line. It keeps the first error.
type summary struct {
	book *book
	w    *excelize.StreamWriter
	at   int
	err  error
}

func (s *summary) write(cells ...any) {
	s.at++
	if s.err == nil {
		s.err = s.w.SetRow("A"+strconv.Itoa(s.at), cells)
	}
}

func (s *summary) text(look, text string) any {
	cell, err := s.book.text(look, text)
	s.err = cmp.Or(s.err, err)
	return cell
}

func (s *summary) title(text string) {
	s.write(s.text("title", text))
	s.at++
}

func (s *summary) heading(text string) {
	s.at++
	s.write(s.text("label", text))
}

// fact is a label and what it is about, line by line.
func (s *summary) fact(label, text string) {
	for line := range strings.Lines(text) {
		s.write(s.text("label", label), s.text("text", strings.TrimRight(line, "\r\n")))
		label = ""
	}
}

func (s *summary) alarm(label, text string) { s.write(s.text("label", label), s.text("bad", text)) }

// header stands above a table: names of texts, and of numbers behind them.
func (s *summary) header(texts, numbers string) {
	var columns []column
	for _, name := range strings.Split(texts, "|") {
		columns = append(columns, column{name: name})
	}
	for _, name := range strings.Split(numbers, "|") {
		columns = append(columns, column{name: name, kind: whole})
	}
	cells, err := s.book.header(columns)
	s.err = cmp.Or(s.err, err)
	s.write(cells...)
}

// row writes values below a header. The exact text of a number stands behind it: numbers come last.
func (s *summary) row(values ...any) {
	var cells []any
	for _, v := range values {
		made, err := s.book.cells(v)
		s.err = cmp.Or(s.err, err)
		cells = append(cells, made...)
	}
	s.write(cells...)
}
