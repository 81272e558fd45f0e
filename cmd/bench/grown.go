package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"
)

// Lines that load one more day in each round, into databases that last as long as the bench.

//go:embed grow.sql
var growSQL string

// grown is a database that holds days already.
type grown struct {
	id, title string
	rows      int // of history, made in SQL; 0 for the fleet
	casts     []cast
	days      int // of ours, from the first
	*database
}

// prepare makes the databases of the fleet and of the grown tables, with the first of our days in each.
func (b *bench) prepare(ctx context.Context) (all []*grown, err error) {
	if b.cfg.has("fleet") {
		all = append(all, &grown{id: "fleet", title: fmt.Sprintf("%d bodies of one day each, one connection", fleet), casts: b.fleet()})
	}
	if b.cfg.has("growth") {
		for _, rows := range b.cfg.Growth {
			all = append(all, &grown{id: growthID(rows), title: "one day into " + thousands(int64(rows)) + " rows", rows: rows, casts: []cast{b.whole()}})
		}
	}
	for _, g := range all {
		if g.database, err = b.open(ctx, "grown_"+fmt.Sprint(g.rows), "template"); err != nil {
			return nil, err
		}
		b.progress("making the rows of %q", g.title)
		if err := b.oneMore(ctx, g, true); err != nil {
			return nil, err
		}
		if g.rows > 0 {
			if err := g.grow(ctx, b.cfg.shape); err != nil {
				return nil, err
			}
		}
		if err := vacuum(ctx, g.database); err != nil {
			return nil, err
		}
	}
	return all, nil
}

const growthPrefix = "growth-"

func growthID(rows int) string { return fmt.Sprint(growthPrefix, rows) }

// grow adds as many whole days before the first as it takes to have the rows.
func (g *grown) grow(ctx context.Context, s shape) error {
	perDay := s.samples(g.casts[0]) / s.Days
	days := (g.rows - 1 + perDay) / perDay
	var made int64
	if _, err := g.conn.Exec(ctx, growSQL); err != nil {
		return fmt.Errorf("grow.sql: %w", err)
	}
	err := g.conn.QueryRow(ctx, `
		select pg_temp.grow_samples(customer_key, min(service_level_key), max(service_level_key), $1::date, $2::date, $3::interval)
		from dw.dim_service_level
		group by customer_key`, firstDay.AddDate(0, 0, -days), firstDay, s.Step).Scan(&made)
	if err != nil {
		return fmt.Errorf("grow %d rows: %w", g.rows, err)
	}
	if made < int64(g.rows) {
		return fmt.Errorf("grow %d rows: got %d", g.rows, made)
	}
	return nil
}

// oneMore loads the next day.
func (b *bench) oneMore(ctx context.Context, g *grown, quiet bool) error {
	g.days++
	err := b.meterhouse(ctx, g.database, load{id: g.id, title: g.title, casts: g.casts, from: g.days - 1, until: g.days, fresh: true, stored: g.days, quiet: quiet})
	if err != nil || quiet {
		return err
	}
	return vacuum(ctx, g.database)
}

// closeAll drops the databases.
func (b *bench) closeAll(all []*grown) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	for _, g := range all {
		if g.database != nil {
			errs = append(errs, b.discard(ctx, g.database))
		}
	}
	return errors.Join(errs...)
}
