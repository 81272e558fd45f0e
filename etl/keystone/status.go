package keystone

import (
	"context"
	"errors"
	"fmt"
	"time"

	"meterhouse/etl"
)

// TokenState is how a token chain stands.
type TokenState string

// States of a chain.
const (
	TokenOK        TokenState = "ok"
	TokenAmbiguous TokenState = "ambiguous" // an exchange is under way or its answer was lost
	TokenDead      TokenState = "dead"      // refused, or its seven days are over: a person must log in
	TokenNone      TokenState = "none"      // nothing stored yet
)

// TokenStatus is what is known of a chain without asking the vendor. Times are real clock and zero
// where they do not apply.
type TokenStatus struct {
	Account       string
	State         TokenState
	Generation    int64
	Source        string // seed or refresh
	ObtainedAt    time.Time
	AccessUntil   time.Time
	RefreshDiesAt time.Time // unless it is exchanged before
	SeededAt      time.Time
	LoginDueAt    time.Time // when a person must have logged in again
	Fingerprint   string    // first 12 hex digits of the refresh token's keyed hash
	Detail        string    // of the last exchange, when it did not end well
	NextStep      string    // in words
}

// TokenStatus reads how the chain stands. It never asks the vendor and changes nothing.
func (a *Account) TokenStatus(ctx context.Context) (TokenStatus, error) { return a.tokens.status(ctx) }

// SetToken starts or replaces the chain with a refresh token that a person got from the portal,
// and proves it with one real exchange. A token that was set before is refused, unless it is the
// present one and was never exchanged.
func (a *Account) SetToken(ctx context.Context, t Token) error { return a.tokens.set(ctx, t) }

// KeepAlive exchanges the refresh token when that was last done more than 48 hours ago, so that
// it does not die of age while nothing is loaded. It tells whether it did.
func (a *Account) KeepAlive(ctx context.Context) (bool, error) { return a.tokens.keepAlive(ctx) }

func (c *custodian) status(ctx context.Context) (TokenStatus, error) {
	s := TokenStatus{Account: c.account, State: TokenNone}
	cred, err := c.store.Credential(ctx, c.account)
	if errors.Is(err, etl.ErrNoCredential) {
		s.NextStep = c.manualStep()
		if !c.seed.IsZero() {
			s.NextStep = "none: the first run starts the chain with the configured refresh token"
		}
		return s, nil
	}
	if err != nil {
		return s, c.storeError("read the credential", err)
	}
	s.Generation, s.Source, s.ObtainedAt, s.SeededAt = cred.Generation, cred.Source, cred.ObtainedAt, cred.SeededAt
	s.AccessUntil = cred.AccessExpiresAt
	s.RefreshDiesAt = cred.ObtainedAt.Add(refreshLife)
	s.LoginDueAt = cred.SeededAt.Add(loginLife)
	s.Fingerprint = cred.Fingerprint[:min(12, len(cred.Fingerprint))]

	open, unclear, err := c.store.OpenAttempt(ctx, c.account)
	if err != nil {
		return s, c.storeError("read the open exchange", err)
	}
	refused, reason, err := c.dead(ctx, cred)
	if err != nil {
		return s, err
	}
	now := c.now()
	switch {
	case unclear && open.FromGeneration >= cred.Generation:
		s.State, s.Detail = TokenAmbiguous, open.Detail
		switch {
		case open.State == etl.AttemptOpen && now.Before(open.DeadlineAt):
			s.NextStep = "none: an exchange is under way"
		case open.Probes > maxProbes:
			s.NextStep = "the probes of today are used up: wait, or " + c.manualStep()
		default:
			s.NextStep = fmt.Sprintf("none: the first run after %s probes; if the token is refused, %s",
				probeFrom(open).UTC().Format(time.RFC3339), c.manualStep())
		}
	case refused:
		s.State, s.Detail, s.NextStep = TokenDead, reason, c.manualStep()
	case !now.Before(s.RefreshDiesAt):
		s.State, s.Detail, s.NextStep = TokenDead, "older than seven days", c.manualStep()
	case now.After(s.LoginDueAt.Add(-15 * 24 * time.Hour)):
		s.State, s.NextStep = TokenOK, "before "+s.LoginDueAt.UTC().Format(time.DateOnly)+": "+c.manualStep()
	default:
		s.State, s.NextStep = TokenOK, "none"
	}
	return s, nil
}

func (c *custodian) set(ctx context.Context, t Token) error {
	if t.IsZero() {
		return c.errorf(etl.ErrUnauthorized, "no token given")
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	if _, err := c.storePending(ctx, 0); err != nil {
		return err
	}
	cred, err := c.settled(ctx)
	if err != nil {
		return err
	}
	fingerprint := c.sealer.fingerprint(t)
	if cred.Generation == 0 || cred.Fingerprint != fingerprint || cred.Source != "seed" {
		seen, err := c.store.SeenFingerprint(ctx, c.account, fingerprint)
		if err != nil {
			return c.storeError("look for the token", err)
		}
		if seen || (cred.Generation > 0 && cred.Fingerprint == fingerprint) {
			return c.errorf(etl.ErrUnauthorized, "this token was used before and works only once: %s", c.manualStep())
		}
		if err := c.storeSeed(ctx, t, cred.Generation+1); err != nil {
			return err
		}
		stored, err := c.store.Credential(ctx, c.account)
		if err != nil {
			return c.storeError("read the credential", err)
		}
		if stored.Fingerprint != fingerprint {
			return c.errorf(etl.ErrUnavailable, "another process stored generation %d at the same moment: try again", stored.Generation)
		}
		cred = stored
	}
	_, _, err = c.accessLocked(ctx, want{refused: cred.Generation})
	return err
}

// settled is the newest generation at a moment when no exchange is under way; the zero value when
// there is none. It waits for one to end or to expire.
func (c *custodian) settled(ctx context.Context) (etl.SealedCredential, error) {
	for {
		open, found, err := c.store.OpenAttempt(ctx, c.account)
		if err != nil {
			return etl.SealedCredential{}, c.storeError("read the open exchange", err)
		}
		if !found || open.State != etl.AttemptOpen || !c.now().Before(open.DeadlineAt) {
			break
		}
		if err := c.sleep(ctx, pollInterval); err != nil {
			return etl.SealedCredential{}, err
		}
	}
	cred, err := c.store.Credential(ctx, c.account)
	if errors.Is(err, etl.ErrNoCredential) {
		return etl.SealedCredential{}, nil
	}
	return cred, c.storeError("read the credential", err)
}

func (c *custodian) keepAlive(ctx context.Context) (bool, error) {
	if err := c.lock(ctx); err != nil {
		return false, err
	}
	defer c.unlock()
	cred, err := c.store.Credential(ctx, c.account)
	if errors.Is(err, etl.ErrNoCredential) {
		return false, nil // nothing to keep alive; a seed waits in the configuration
	}
	if err != nil {
		return false, c.storeError("read the credential", err)
	}
	last := cred.ObtainedAt
	if cred.Access != nil { // a kept refresh token is older than its last exchange
		if exchanged := cred.AccessExpiresAt.Add(-accessLife); exchanged.After(last) {
			last = exchanged
		}
	}
	if c.now().Sub(last) <= keepAliveAfter {
		return false, nil
	}
	_, renewed, err := c.accessLocked(ctx, want{refused: cred.Generation, adopt: true})
	return renewed, err
}
