package warehouse

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

// License implements etl.Sink: one accepted reading of one product. A reading cannot be repeated
// by the vendor, so every one is kept; the snapshot of its day follows from the readings.
func (l *loader) License(r etl.LicenseReading) error {
	if refused, err := l.foreign(r); err != nil || refused {
		return err
	}
	operation, err := l.theOperation(r.Operation)
	if err != nil {
		return fmt.Errorf("operation %s: %w", r.Operation, err)
	}
	l.readings[rowKey{description: r.Description, day: r.LocalDate}] = true
	if l.ans.Imported() {
		l.warn("imported", r.Product+" "+r.Description)
	}
	var product int64
	var kind string
	err = l.tx.QueryRow(l.ctx, `select product_key, kind from dw.dim_product where api = $1`, r.Product).Scan(&product, &kind)
	if errors.Is(err, pgx.ErrNoRows) { // asked for by configuration, beyond the catalogue
		err = l.tx.QueryRow(l.ctx, `insert into dw.dim_product (product_number, api, title, unit, kind)
			values (0, $1, $1, 'as delivered', 'counter') returning product_key, kind`, r.Product).Scan(&product, &kind)
	}
	if err != nil {
		return fmt.Errorf("product %s: %w", r.Product, err)
	}
	var stored string
	var imported, same bool
	var told int64
	err = l.tx.QueryRow(l.ctx, `select items_text, items = $6::text::numeric and items_text = $7, is_imported, payload_id from dw.fact_license_reading
		where operation_key = $1 and product_key = $2 and description = $3 and reading_date = $4 and read_at = $5`,
		operation, product, r.Description, r.LocalDate.Time(), r.ReadAt, r.Items.String(), r.ItemsText).Scan(&stored, &same, &imported, &told)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		l.out.Inserted++
	case err != nil:
		return err
	case l.ans.Imported() && !imported: // what the vendor's interface said is not replaced by hand
		l.out.Ignored++
		return nil
	case same && imported == l.ans.Imported():
		l.out.Unchanged++
		return nil
	case l.ans.PayloadID != 0 && l.ans.PayloadID < told && imported == l.ans.Imported(): // a correction that came later counts
		l.out.Ignored++
		return nil
	default: // the same answer read differently, a corrected import, or two answers of one instant
		l.out.Restated++
		l.warn("restated", "reading of "+r.Product+" "+r.Description)
		if err := l.logReread(told, "reading of "+r.Product+" "+r.Description+" on "+r.LocalDate.String(), stored, r.ItemsText); err != nil {
			return err
		}
	}
	if kind == string(etl.Counter) {
		if err := l.warnOfFall(operation, product, r); err != nil {
			return fmt.Errorf("former reading of %s: %w", r.Product, err)
		}
	}
	payload, err := l.payload()
	if err != nil {
		return err
	}
	_, err = l.tx.Exec(l.ctx, `
		insert into dw.fact_license_reading as f
			(operation_key, product_key, description, reading_date, read_at, items, items_text, payload_id, run_id, is_imported)
		values ($1, $2, $3, $4, $5, $6::text::numeric, $7, $8, $9, $10)
		on conflict (operation_key, product_key, description, reading_date, read_at) do update
		set items = excluded.items, items_text = excluded.items_text, payload_id = excluded.payload_id, run_id = excluded.run_id,
			is_imported = excluded.is_imported`,
		operation, product, r.Description, r.LocalDate.Time(), r.ReadAt, r.Items.String(), r.ItemsText, payload, l.run.id, l.ans.Imported())
	if err != nil {
		return err
	}
	return l.writeSnapshot(operation, product, r.Description, r.LocalDate)
}

// warnOfFall warns of a counter that is lower than at the reading before it in the same local month. It
// counts what was used since the month began, so it was reset or corrected: both readings stay as they
// are.
func (l *loader) warnOfFall(operation, product int64, r etl.LicenseReading) error {
	month := r.LocalDate.Month()
	var fell bool
	err := l.tx.QueryRow(l.ctx, `
		select items > $6::text::numeric from dw.fact_license_reading
		where operation_key = $1 and product_key = $2 and description = $3 and reading_date >= $4 and reading_date < $5
			and read_at < $7 and is_imported = $8
		order by read_at desc limit 1`,
		operation, product, r.Description, month.Time(), month.NextMonth().Time(), r.Items.String(), r.ReadAt, l.ans.Imported()).Scan(&fell)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if fell {
		l.warn("counter_decreased", r.Product+" "+r.Description)
	}
	return err
}

// dropUntold takes back what this very answer told when it was read before and does not tell now, as
// when a name is read differently: kept beside the new reading it would count twice. Where anything of
// the answer is refused, what was accepted before stays.
func (l *loader) dropUntold() error {
	if len(l.rejects) > 0 {
		return nil
	}
	if l.ans.Request.Product == "" {
		return l.supersedeUntold()
	}
	rows, err := l.tx.Query(l.ctx, `
		select operation_key, product_key, description, reading_date, items_text
		from dw.fact_license_reading
		where operation_key in (select operation_key from dw.dim_operation where account = $1) and payload_id = $2`,
		l.run.job.Account, l.ans.PayloadID)
	if err != nil {
		return err
	}
	type reading struct {
		operation, product int64
		description, items string
		date               time.Time
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r reading, err error) {
		err = row.Scan(&r.operation, &r.product, &r.description, &r.date, &r.items)
		return r, err
	})
	if err != nil {
		return err
	}
	for _, r := range all {
		day := etl.DayOf(r.date)
		if l.readings[rowKey{description: r.description, day: day}] {
			continue
		}
		l.warn("not_told_again", "reading of "+l.ans.Request.Product+" "+r.description)
		if err := l.logReread(l.ans.PayloadID, "reading of "+l.ans.Request.Product+" "+r.description+" on "+day.String(), r.items, ""); err != nil {
			return err
		}
		if _, err := l.tx.Exec(l.ctx, `delete from dw.fact_license_reading
			where operation_key = $1 and product_key = $2 and description = $3 and reading_date = $4 and payload_id = $5`,
			r.operation, r.product, r.description, r.date, l.ans.PayloadID); err != nil {
			return err
		}
		if _, err := l.tx.Exec(l.ctx, `delete from dw.fact_license_snapshot
			where operation_key = $1 and product_key = $2 and description = $3 and snapshot_date = $4`,
			r.operation, r.product, r.description, r.date); err != nil {
			return err
		}
		if err := l.writeSnapshot(r.operation, r.product, r.description, day); err != nil {
			return err
		}
	}
	return nil
}

// logReread keeps a figure that gives way because its answer is read differently now. An empty new
// value says that it is not told any more.
func (l *loader) logReread(payload int64, subject, was, is string) error {
	_, err := l.tx.Exec(l.ctx, `insert into ops.reread (run_id, payload_id, subject, old_value, new_value, reread_at)
		values ($1, $2, $3, $4, $5, $6)`, l.run.id, payload, subject, was, orNull(is), l.run.w.cfg.Now())
	return err
}

// foreign refuses a reading of another operation than the account's first good reading named,
// unless one is configured. The transform sees to it as well, but not between the answers of the
// very first run.
func (l *loader) foreign(r etl.LicenseReading) (bool, error) {
	if l.run.job.Operation != "" {
		return false, nil
	}
	if l.pinned == "" {
		err := l.tx.QueryRow(l.ctx, `select operation from dw.dim_operation where account = $1 order by operation_key limit 1`,
			l.run.job.Account).Scan(&l.pinned)
		if errors.Is(err, pgx.ErrNoRows) {
			l.pinned = r.Operation
		} else if err != nil {
			return false, err
		}
	}
	if r.Operation == l.pinned {
		return false, nil
	}
	l.out.Quarantined++
	day := r.LocalDate
	return true, l.Reject(etl.Reject{Path: "/data", Reason: "wrong_operation", Excerpt: r.Operation, Description: r.Description, Day: &day})
}

// theOperation finds the operation of the account by name, or makes it.
func (l *loader) theOperation(name string) (key int64, err error) {
	if key, ok := l.operations[name]; ok {
		return key, nil
	}
	job := l.run.job
	err = l.tx.QueryRow(l.ctx, `select operation_key from dw.dim_operation where account = $1 and operation = $2`, job.Account, name).Scan(&key)
	if errors.Is(err, pgx.ErrNoRows) {
		zone := job.Zone
		if zone == "" {
			zone = time.UTC.String()
		}
		err = l.tx.QueryRow(l.ctx, `insert into dw.dim_operation (account, operation, server, zone, first_seen_at)
			values ($1, $2, $3, $4, $5) returning operation_key`, job.Account, name, job.Server, zone, l.ans.FetchedAt).Scan(&key)
	}
	l.operations[name] = key
	return key, err
}

// writeSnapshot derives the day's row from its readings, so that their order of loading does not
// matter. Imported readings count on days only that have no others.
func (l *loader) writeSnapshot(operation, product int64, description string, day etl.Day) error {
	_, err := l.tx.Exec(l.ctx, `
		with day_reading as (
			select *, rank() over (order by is_imported) as standing
			from dw.fact_license_reading
			where operation_key = $1 and product_key = $2 and description = $3 and reading_date = $4
		),

		last_reading as (
			select * from day_reading where standing = 1 order by read_at desc limit 1
		),

		extent as (
			select min(items) as items_min, max(items) as items_max, count(*) as reading_count from day_reading where standing = 1
		)

		insert into dw.fact_license_snapshot (operation_key, product_key, description, snapshot_date,
			items, items_text, items_min, items_max, reading_count, read_at, payload_id, run_id, is_imported, zone)
		select operation_key, product_key, description, reading_date,
			items, items_text, items_min, items_max, reading_count, read_at, payload_id, run_id, is_imported, $5
		from last_reading cross join extent
		on conflict (operation_key, product_key, description, snapshot_date) do update
		set items = excluded.items, items_text = excluded.items_text, items_min = excluded.items_min, items_max = excluded.items_max,
			reading_count = excluded.reading_count, read_at = excluded.read_at, payload_id = excluded.payload_id, run_id = excluded.run_id,
			is_imported = excluded.is_imported, zone = excluded.zone`,
		operation, product, description, day.Time(), orNull(l.run.job.Zone))
	return err
}
