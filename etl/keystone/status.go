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
	TokenDead      TokenState = "dead"      // refused, seven days old, or sealed with another key: a person must act
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
	Detail        string    // what is wrong, for instance with the last exchange
	NextStep      string    // in words
}

// TokenStatus reads how the chain stands. It never asks the vendor and changes nothing.
func (a *Account) TokenStatus(ctx context.Context) (TokenStatus, error) {
	s, err := a.tokens.status(ctx)
	return s, a.named(err)
}

// SetToken starts or replaces the chain with a refresh token that a person got from the portal. It
// is proved with one real exchange first: a chain that was there before goes on as it stood unless
// that brings a new pair. A token that was set before is refused without asking the vendor, unless
// it is the present one and was never exchanged.
func (a *Account) SetToken(ctx context.Context, t Token) error {
	return a.named(a.tokens.set(ctx, t))
}

// KeepAlive exchanges the refresh token when that was last done more than 48 hours ago, so that
// it does not die of age while nothing is loaded. It tells whether it did.
func (a *Account) KeepAlive(ctx context.Context) (bool, error) {
	did, err := a.tokens.keepAlive(ctx)
	return did, a.named(err)
}

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
	_, sealed := c.open(cred, cred.Refresh, fieldRefresh)
	switch {
	case sealed != nil:
		s.State, s.Detail, s.NextStep = TokenDead, "the stored refresh token does not open with this secrets_key", c.unsealStep()
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
	if s.State == TokenOK && cred.Access == nil && cred.Source == "refresh" {
		s.Detail = "no access token, last exchange incomplete"
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
	for {
		cred, err := c.settled(ctx)
		if err != nil {
			return err
		}
		fingerprint := c.sealer.fingerprint(t)
		if cred.Generation > 0 && cred.Fingerprint == fingerprint && cred.Source == "seed" {
			return c.proveStored(ctx, cred)
		}
		seen, err := c.store.SeenFingerprint(ctx, c.account, fingerprint)
		if err != nil {
			return c.storeError("look for the token", err)
		}
		if seen || (cred.Generation > 0 && cred.Fingerprint == fingerprint) {
			return c.errorf(etl.ErrUnauthorized, "this token was used before and works only once: %s", c.manualStep())
		}
		if cred.Generation > 0 {
			if done, err := c.prove(ctx, t, cred); done || err != nil {
				return err
			}
			continue
		}
		// There is nothing to lose, and an attempt needs a generation to start from.
		if err := c.storeSeed(ctx, t, 1); err != nil {
			return err
		}
	}
}

// proveStored exchanges a token that is the newest generation already.
func (c *custodian) proveStored(ctx context.Context, cred etl.SealedCredential) error {
	_, _, err := c.accessLocked(ctx, want{refused: cred.Generation})
	if err == nil {
		return nil
	}
	if refused, reason, readErr := c.dead(ctx, cred); refused && readErr == nil {
		return c.errorf(etl.ErrUnauthorized, "the token given was refused (%s): no token that works is stored: %s", reason, c.manualStep())
	}
	return err
}

// prove exchanges a given token beside the chain of cred and makes the pair it brings the newest
// generation. Without a pair the chain stands as before: what the vendor says of the given token
// is no word about the chain's. It is not done, without an error, when the chain moved meanwhile.
func (c *custodian) prove(ctx context.Context, t Token, cred etl.SealedCredential) (done bool, err error) {
	open, unclear, err := c.store.OpenAttempt(ctx, c.account)
	if err != nil {
		return false, c.storeError("read the open exchange", err)
	}
	refused, reason, err := c.dead(ctx, cred)
	if err != nil {
		return false, err
	}
	status, err := c.status(ctx)
	if err != nil {
		return false, err
	}
	stands := fmt.Sprintf("the chain of generation %d goes on", cred.Generation)
	if status.State != TokenOK {
		stands = fmt.Sprintf("the chain of generation %d is %s as before", cred.Generation, status.State)
	}
	// The attempt is made from cred's generation, although another token is sent. If it brings
	// nothing, it ends as the one that it takes the place of; if we die, cred is probed in time.
	back := c.abandon
	switch {
	case unclear && open.State == etl.AttemptOpen && c.now().Before(open.DeadlineAt):
		return false, nil
	case unclear && open.FromGeneration >= cred.Generation:
		back = func(ctx context.Context, id int64, _ string) error {
			return c.end(ctx, id, etl.AttemptAmbiguous, open.Detail)
		}
	case unclear:
		open.Spool = "" // of an earlier generation: nobody waits for it any more
	case refused:
		back = func(ctx context.Context, id int64, _ string) error {
			return c.end(ctx, id, etl.AttemptRejected, reason)
		}
	}
	x, err := c.send(ctx, cred, t, open.Spool, open.ID, back)
	if err != nil || x == nil {
		return false, err
	}
	ctx = context.WithoutCancel(ctx)
	detail := x.answer.detail
	switch x.answer.outcome {
	case rotated, rotatedNoAccess, keptOld:
		return true, c.promote(ctx, t, cred, *x)
	case dead:
		err = c.errorf(etl.ErrUnauthorized, "the token given was refused (%s): nothing was changed, %s", detail, stands)
		detail = "a token given was refused: " + detail
	case notSent:
		err = c.errorf(x.answer.class, "the token given was not sent (%s): nothing was changed, %s, and the token still works once", detail, stands)
		detail = "a token given was not sent: " + detail
	default:
		err = c.errorf(etl.ErrUnavailable, "the answer to the exchange of the token given is unclear (%s): it may be used up, so get a new one; %s: %s",
			detail, stands, c.manualStep())
		detail = "the answer to a token given is unclear: " + detail
	}
	return true, errors.Join(err, back(ctx, x.attempt, detail))
}

// promote stores the pair that a given token brought as the newest generation and, before it, the
// given token itself: so it is known as used. In this order, because a spent token must at no time
// be the newest.
func (c *custodian) promote(ctx context.Context, t Token, cred etl.SealedCredential, x sent) error {
	login := c.login(t, cred.Generation+1, x.at)
	outcome, err := c.settle(ctx, login, x)
	if !outcome.stored() && err == nil {
		err = c.errorf(etl.ErrUnavailable, "another process stored a token meanwhile, and the token given is used up: %s", c.manualStep())
	}
	if !outcome.stored() || c.pending != nil {
		return err
	}
	if storeErr := c.repeat(ctx, endGrace, func(ctx context.Context) error { return c.store.StoreGeneration(ctx, login, 0) }); storeErr != nil {
		c.log.Warn("the token given could not be noted as used, do not give it again", "account", c.account, "error", storeErr)
	}
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
