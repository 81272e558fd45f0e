package warehouse

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"meterhouse/etl"
)

// Credentials stores token chains. It sees only sealed tokens. What a method returns from without
// an error is committed; a commit whose reply was lost is repeated, which the keys make safe.
type Credentials struct{ w *Warehouse }

// Credentials is the store of token chains.
func (w *Warehouse) Credentials() *Credentials { return &Credentials{w} }

// Credential is the newest generation of the account, or etl.ErrNoCredential.
func (c *Credentials) Credential(ctx context.Context, account string) (etl.SealedCredential, error) {
	s := etl.SealedCredential{Account: account}
	var expires *time.Time
	err := c.w.pool.QueryRow(ctx, `
		select generation, refresh_sealed, access_sealed, access_expires_at, obtained_at, source, seeded_at, fingerprint, key_id
		from ops.credential where account = $1 order by generation desc limit 1`, account).
		Scan(&s.Generation, &s.Refresh, &s.Access, &expires, &s.ObtainedAt, &s.Source, &s.SeededAt, &s.Fingerprint, &s.KeyID)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, etl.ErrNoCredential
	}
	if err != nil {
		return s, fmt.Errorf("read credential of %s: %w", account, err)
	}
	if expires != nil {
		s.AccessExpiresAt = *expires
	}
	return s, nil
}

// SeenFingerprint tells whether a token with one of the fingerprints was ever stored or noted, for
// whatever account: a token works once, whoever sends it.
func (c *Credentials) SeenFingerprint(ctx context.Context, fingerprints ...string) (bool, error) {
	var seen bool
	err := c.w.pool.QueryRow(ctx, `
		select exists (select from ops.credential where fingerprint = any ($1))
			or exists (select from ops.credential_seen where fingerprint = any ($1))`, fingerprints).Scan(&seen)
	if err != nil {
		return false, fmt.Errorf("look for a token that was used: %w", err)
	}
	return seen, nil
}

// NoteSeen makes SeenFingerprint know fingerprints of seeds under another key. Safe to repeat.
func (c *Credentials) NoteSeen(ctx context.Context, account string, fingerprints ...string) error {
	_, err := c.w.pool.Exec(ctx, `insert into ops.credential_seen (account, fingerprint)
		select $1, unnest($2::text[]) on conflict do nothing`, account, fingerprints)
	if err != nil {
		return fmt.Errorf("note seeds of %s: %w", account, err)
	}
	return nil
}

// Seeds are the generations of the account that a person's login made, oldest first, without their
// access tokens.
func (c *Credentials) Seeds(ctx context.Context, account string) ([]etl.SealedCredential, error) {
	rows, err := c.w.pool.Query(ctx, `
		select generation, refresh_sealed, obtained_at, source, seeded_at, fingerprint, key_id
		from ops.credential where account = $1 and source = 'seed' order by generation`, account)
	if err != nil {
		return nil, fmt.Errorf("read seeds of %s: %w", account, err)
	}
	seeds, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (etl.SealedCredential, error) {
		s := etl.SealedCredential{Account: account}
		err := row.Scan(&s.Generation, &s.Refresh, &s.ObtainedAt, &s.Source, &s.SeededAt, &s.Fingerprint, &s.KeyID)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("read seeds of %s: %w", account, err)
	}
	return seeds, nil
}

// Installation is the name of this installation: the same for all processes on this database.
func (c *Credentials) Installation(ctx context.Context) (string, error) {
	var id string
	if err := c.w.pool.QueryRow(ctx, `select installation_id::text from ops.installation`).Scan(&id); err != nil {
		return "", fmt.Errorf("read the installation's name: %w", err)
	}
	return id, nil
}

const selectAttempt = `
	select a.attempt_id, a.account, a.from_generation, a.owner, a.spool, a.started_at, a.deadline_at, a.state, a.detail,
		(
			select count(*) from ops.credential_attempt as p
			where p.account = a.account and p.from_generation = a.from_generation and p.state <> 'abandoned'
				and p.started_at > clock_timestamp() - interval '24 hours'
		),
		(
			-- All attempts behind the last one of another history are of this one's.
			select min(since.started_at) from ops.credential_attempt as since
			where since.account = a.account and since.attempt_id > (
				select max(other.attempt_id) from ops.credential_attempt as other
				where other.account = a.account and other.attempt_id < a.attempt_id and other.timeline <> a.timeline
			)
		)
	from ops.credential_attempt as a
	where a.account = $1`

// OpenAttempt is the exchange of the account that is open or ambiguous, if there is one.
func (c *Credentials) OpenAttempt(ctx context.Context, account string) (etl.CredentialAttempt, bool, error) {
	return c.attempt(ctx, account, ` and a.state in ('open', 'ambiguous')`)
}

// LastAttempt is the newest exchange of the account in whatever state, if there is one.
func (c *Credentials) LastAttempt(ctx context.Context, account string) (etl.CredentialAttempt, bool, error) {
	return c.attempt(ctx, account, ` order by a.attempt_id desc limit 1`)
}

func (c *Credentials) attempt(ctx context.Context, account, which string) (a etl.CredentialAttempt, ok bool, err error) {
	var failedOver *time.Time
	err = c.w.pool.QueryRow(ctx, selectAttempt+which, account).
		Scan(&a.ID, &a.Account, &a.FromGeneration, &a.Owner, &a.Spool, &a.StartedAt, &a.DeadlineAt, &a.State, &a.Detail, &a.Probes, &failedOver)
	if errors.Is(err, pgx.ErrNoRows) {
		return a, false, nil
	}
	if err != nil {
		return a, false, fmt.Errorf("read token exchange of %s: %w", account, err)
	}
	if failedOver != nil {
		a.FailedOverAt = *failedOver
	}
	return a, true, nil
}

// attemptFor is how long an exchange may take before nothing may be sent for it any more.
const attemptFor = 60 * time.Second

// durably makes the commit of a transaction survive a crash of the database, and of its standbys as
// far as they are configured to be waited for. A stricter setting stays.
const durably = `select set_config('synchronous_commit', 'on', true)
	where current_setting('synchronous_commit') in ('off', 'local', 'remote_write')`

// BeginAttempt records the intent to exchange, before anything is sent. supersede, unless zero, names
// the open or ambiguous attempt that this one takes over from. Another open one is
// etl.ErrAttemptOpen.
func (c *Credentials) BeginAttempt(ctx context.Context, a etl.CredentialAttempt, supersede etl.AttemptKey) (id int64, err error) {
	err = pgx.BeginFunc(ctx, c.w.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, durably); err != nil {
			return err
		}
		if supersede != (etl.AttemptKey{}) {
			tag, err := tx.Exec(ctx, `update ops.credential_attempt set state = 'superseded', ended_at = clock_timestamp()
				where attempt_id = $1 and owner = $2 and state in ('open', 'ambiguous')`, supersede.ID, supersede.Owner)
			if err != nil {
				return err
			}
			if tag.RowsAffected() == 0 {
				return etl.ErrAttemptOpen
			}
		}
		return tx.QueryRow(ctx, `
			insert into ops.credential_attempt (account, from_generation, owner, spool, detail, deadline_at, timeline)
			values ($1, $2, $3, $4, $5, clock_timestamp() + $6, ops.database_timeline()) returning attempt_id`,
			a.Account, a.FromGeneration, a.Owner, a.Spool, a.Detail, attemptFor).Scan(&id)
	})
	var pgErr *pgconn.PgError
	if errors.Is(err, etl.ErrAttemptOpen) || errors.As(err, &pgErr) && pgErr.ConstraintName == "credential_attempt_one_open_idx" {
		return 0, etl.ErrAttemptOpen
	}
	if err != nil {
		return 0, fmt.Errorf("record token exchange of %s: %w", a.Account, err)
	}
	return id, nil
}

// EndAttempt moves the attempt out of the state open. Safe to repeat.
func (c *Credentials) EndAttempt(ctx context.Context, k etl.AttemptKey, state etl.AttemptState, detail string) error {
	_, err := c.w.pool.Exec(ctx, `update ops.credential_attempt set state = $3, detail = $4, ended_at = clock_timestamp()
		where attempt_id = $1 and owner = $2 and state in ('open', 'ambiguous')`, k.ID, k.Owner, string(state), detail)
	if err != nil {
		return fmt.Errorf("end token exchange %d as %s: %w", k.ID, state, err)
	}
	return nil
}

// StoreGeneration appends a generation and closes exactly the given attempt as done (zero: none), in one
// transaction. Safe to repeat: a generation that is stored already stays as it is.
func (c *Credentials) StoreGeneration(ctx context.Context, s etl.SealedCredential, attempt etl.AttemptKey) error {
	var expires *time.Time
	if s.Access != nil {
		expires = &s.AccessExpiresAt
	}
	err := pgx.BeginFunc(ctx, c.w.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, durably); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			insert into ops.credential
				(account, generation, refresh_sealed, access_sealed, access_expires_at, obtained_at, source, seeded_at, fingerprint, key_id)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
			on conflict (account, generation) do nothing`,
			s.Account, s.Generation, s.Refresh, s.Access, expires, s.ObtainedAt, s.Source, s.SeededAt, s.Fingerprint, s.KeyID); err != nil {
			return err
		}
		var stored string
		err := tx.QueryRow(ctx, `select fingerprint from ops.credential where account = $1 and generation = $2`,
			s.Account, s.Generation).Scan(&stored)
		if err != nil {
			return err
		}
		if stored != s.Fingerprint {
			return fmt.Errorf("it holds another token already (%.12s, want %.12s)", stored, s.Fingerprint)
		}
		_, err = tx.Exec(ctx, `update ops.credential_attempt set state = 'done', ended_at = clock_timestamp()
			where attempt_id = $1 and owner = $2 and state in ('open', 'ambiguous')`, attempt.ID, attempt.Owner)
		return err
	})
	if err != nil {
		return fmt.Errorf("store generation %d of %s: %w", s.Generation, s.Account, err)
	}
	return nil
}

// StoreAccess appends a generation that keeps the refresh token and brings a new access token.
func (c *Credentials) StoreAccess(ctx context.Context, s etl.SealedCredential, attempt etl.AttemptKey) error {
	return c.StoreGeneration(ctx, s, attempt)
}

// ReturnAttempt ends an attempt as abandoned and makes the one that it superseded ambiguous again.
// Safe to repeat: an attempt that has ended already changes nothing.
func (c *Credentials) ReturnAttempt(ctx context.Context, k, superseded etl.AttemptKey, detail string) error {
	err := pgx.BeginFunc(ctx, c.w.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `update ops.credential_attempt set state = 'abandoned', detail = $3, ended_at = clock_timestamp()
			where attempt_id = $1 and owner = $2 and state in ('open', 'ambiguous')`, k.ID, k.Owner, detail)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = tx.Exec(ctx, `update ops.credential_attempt set state = 'ambiguous'
			where attempt_id = $1 and owner = $2 and state = 'superseded'`, superseded.ID, superseded.Owner)
		return err
	})
	if err != nil {
		return fmt.Errorf("give token exchange %d back: %w", k.ID, err)
	}
	return nil
}
