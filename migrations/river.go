package migrations

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// The queue's tables are River's own. Its migrations are applied here up to a pinned version, so that
// they come in our line and under our lock; a newer River with a newer schema gets a migration of its
// own. There are two because Postgres before 17 lets nobody use a value that the same transaction
// added to an enumeration, as River does from version 4 to 6.
var river = map[int64]struct {
	name        string
	from, until int // versions of River's schema, both included
}{
	10: {"00010_add_river.go", 1, 5},
	11: {"00011_finish_river.go", 6, 8},
}

const riverHead = 11

// RiverSchema is the schema that holds the queue.
const RiverSchema = "river"

func addRiver() (all []*goose.Migration) {
	for number, part := range river {
		all = append(all, goose.NewGoMigration(number,
			&goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error { return riverUp(ctx, tx, part.from, part.until) }},
			&goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error { return riverDown(ctx, tx, part.from, part.until) }}))
	}
	return all
}

const commentRiver = `
comment on schema river is 'The queue of loads that are due: River''s own tables. Everything in them can be found again from ops.watermark.';
comment on table river.river_job is 'Grain: one row per job: a load that is due (dataset, scope, slot), a message to be sent, or upkeep.';
comment on table river.river_leader is 'Grain: at most one row: the process that does the queue''s own upkeep.';
comment on table river.river_migration is 'Grain: one row per version of River''s schema that was applied.';
comment on table river.river_notification is 'Grain: one row per message between processes, kept for a moment.';
comment on table river.river_queue is 'Grain: one row per queue.';
comment on column river.river_job.id is 'Number of the job.';
comment on column river.river_job.state is 'available, scheduled, running, retryable, completed, cancelled, discarded or pending.';
comment on column river.river_job.attempt is 'How often it was begun.';
comment on column river.river_job.max_attempts is 'After so many it is discarded.';
comment on column river.river_job.attempted_at is 'When it was begun last, UTC.';
comment on column river.river_job.created_at is 'When it was asked for, UTC.';
comment on column river.river_job.finalized_at is 'When it ended, UTC; NULL before.';
comment on column river.river_job.scheduled_at is 'Not begun before, UTC.';
comment on column river.river_job.priority is '1 goes first, 4 last.';
comment on column river.river_job.args is 'What to do: for a load dataset, scope, account and slot.';
comment on column river.river_job.attempted_by is 'Processes that began it.';
comment on column river.river_job.errors is 'What went wrong, attempt by attempt.';
comment on column river.river_job.kind is 'What sort of job it is.';
comment on column river.river_job.metadata is 'River''s own notes.';
comment on column river.river_job.queue is 'Queue that it waits in.';
comment on column river.river_job.tags is 'Not used.';
comment on column river.river_job.unique_key is 'Hash of what there may be only one of; NULL where there may be many.';
comment on column river.river_job.unique_states is 'States in which the key shuts out another.';
comment on column river.river_leader.elected_at is 'When it was elected, UTC.';
comment on column river.river_leader.expires_at is 'Until when it leads unless renewed, UTC.';
comment on column river.river_leader.leader_id is 'The process.';
comment on column river.river_leader.name is 'Always default.';
comment on column river.river_migration.line is 'Always main.';
comment on column river.river_migration.version is 'Version of River''s schema.';
comment on column river.river_migration.created_at is 'When it was applied, UTC.';
comment on column river.river_notification.id is 'Number.';
comment on column river.river_notification.created_at is 'When it was sent, UTC.';
comment on column river.river_notification.payload is 'What is told.';
comment on column river.river_notification.topic is 'Whom it is for.';
comment on column river.river_queue.name is 'Name of the queue.';
comment on column river.river_queue.created_at is 'When it was first used, UTC.';
comment on column river.river_queue.metadata is 'River''s own notes.';
comment on column river.river_queue.paused_at is 'Since when nothing is taken from it, UTC; NULL when it is not paused.';
comment on column river.river_queue.updated_at is 'When a process last said that it serves it, UTC.';`

func riverUp(ctx context.Context, tx *sql.Tx, from, until int) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(nil), &rivermigrate.Config{Schema: RiverSchema})
	if err != nil {
		return err
	}
	if from == 1 {
		if _, err := tx.ExecContext(ctx, "create schema "+RiverSchema); err != nil {
			return err
		}
	}
	for version := from; version <= until; version++ {
		m, err := migrator.GetVersion(version)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, strings.ReplaceAll(m.SQLUp, "/* TEMPLATE: schema */", RiverSchema+".")); err != nil {
			return fmt.Errorf("river %d %s: %w", version, m.Name, err)
		}
	}
	if from == 1 {
		return nil
	}
	// River looks here for what is applied.
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(
		"insert into %s.river_migration (line, version) select 'main', generate_series(1, %d) on conflict do nothing", RiverSchema, until)); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, commentRiver)
	return err
}

func riverDown(ctx context.Context, tx *sql.Tx, from, until int) error {
	if from == 1 {
		_, err := tx.ExecContext(ctx, "drop schema "+RiverSchema+" cascade")
		return err
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(nil), &rivermigrate.Config{Schema: RiverSchema})
	if err != nil {
		return err
	}
	for version := until; version >= from; version-- {
		m, err := migrator.GetVersion(version)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, strings.ReplaceAll(m.SQLDown, "/* TEMPLATE: schema */", RiverSchema+".")); err != nil {
			return fmt.Errorf("river %d %s: %w", version, m.Name, err)
		}
	}
	_, err = tx.ExecContext(ctx, fmt.Sprintf("delete from %s.river_migration where version >= %d", RiverSchema, from))
	return err
}
