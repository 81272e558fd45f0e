package keystone

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	Urgency       TokenUrgency
	Reason        TokenReason // of the urgency
	FormerKey     bool        // something is sealed with the former secrets key and still needed
}

// TokenUrgency is how soon a person must act.
type TokenUrgency string

// Urgencies.
const (
	UrgencyOK   TokenUrgency = "ok"   // nothing to do
	UrgencyWarn TokenUrgency = "warn" // in the days to come
	UrgencyPage TokenUrgency = "page" // now: nothing is loaded, or soon nothing will be
)

// TokenReason is why a chain has its urgency: one word for programs.
type TokenReason string

// Reasons, the worst first.
const (
	ReasonNoToken    TokenReason = "no_token"              // page: nothing stored, nothing configured
	ReasonSealed     TokenReason = "sealed"                // page: of a secrets key that is not configured
	ReasonRefused    TokenReason = "refused"               // page: the vendor refused the refresh token
	ReasonExpired    TokenReason = "expired"               // page: the refresh token is seven days old
	ReasonForeign    TokenReason = "token_attempt_foreign" // page: the answer may be in a spool that is not here
	ReasonProbesUsed TokenReason = "probes_used"           // page: unclear after all probes of the day
	ReasonSpool      TokenReason = "spool"                 // page: its folder cannot be used; warn: a file in it is torn
	ReasonLogin      TokenReason = "login_due"             // warn 75 days after the login, page after 85
	ReasonIdle       TokenReason = "idle"                  // warn when the refresh token is 3 days old, page at 5
	ReasonAnswerLost TokenReason = "answer_lost"           // warn: a probe is due
	ReasonFormerKey  TokenReason = "former_key"            // warn: token rekey was not done
	ReasonFine       TokenReason = ""                      // ok
)

// The horizons of a chain.
const (
	idleWarn  = 3 * 24 * time.Hour
	idlePage  = 5 * 24 * time.Hour
	loginWarn = 75 * 24 * time.Hour
	loginPage = 85 * 24 * time.Hour
)

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

// PrepareSpool makes sure that the folder of token answers can be used, and makes it where it is not
// there yet. The error is a *SpoolError, or one of the store. Without a folder it does nothing.
func (a *Account) PrepareSpool(ctx context.Context) error {
	if a.tokens.spool == nil {
		return nil
	}
	if err := a.tokens.lock(ctx); err != nil {
		return err
	}
	defer a.tokens.unlock()
	_, err := a.tokens.openSpool(ctx)
	return a.named(err)
}

// CheckSpool is PrepareSpool for those who change nothing.
func (a *Account) CheckSpool(ctx context.Context) error {
	if a.tokens.spool == nil {
		return nil
	}
	id, err := a.tokens.spool.inspect()
	if err != nil || id.name == "" {
		return a.named(err)
	}
	installation, err := a.tokens.store.Installation(ctx)
	if err != nil {
		return a.named(a.tokens.storeError("read the installation", err))
	}
	return a.named(a.tokens.spool.owned(id, installation))
}

func (c *custodian) status(ctx context.Context) (TokenStatus, error) {
	s := TokenStatus{Account: c.account, State: TokenNone, Urgency: UrgencyOK}
	// The worst is said first and stands.
	say := func(u TokenUrgency, r TokenReason, detail, step string) {
		if s.Urgency == UrgencyOK || s.Urgency == UrgencyWarn && u == UrgencyPage {
			s.Urgency, s.Reason, s.Detail, s.NextStep = u, r, detail, step
		}
	}
	s.NextStep = "none"
	cred, found, err := c.newest(ctx)
	if err != nil {
		return s, err
	}
	if !found {
		if c.seed.IsZero() {
			say(UrgencyPage, ReasonNoToken, "", c.manualStep())
		} else {
			s.NextStep = "none: the first run starts the chain with the configured refresh token"
		}
		_, err := c.spoolStatus(ctx, cred, say)
		return s, err
	}
	s.State = TokenOK
	s.Generation, s.Source, s.ObtainedAt, s.SeededAt = cred.Generation, cred.Source, cred.ObtainedAt, cred.SeededAt
	s.AccessUntil = cred.AccessExpiresAt
	s.RefreshDiesAt = cred.ObtainedAt.Add(refreshLife)
	s.LoginDueAt = cred.SeededAt.Add(loginLife)
	s.Fingerprint = cred.Fingerprint[:min(12, len(cred.Fingerprint))]

	open, unclear, err := c.store.OpenAttempt(ctx, c.account)
	if err != nil {
		return s, c.storeError("read the open exchange", err)
	}
	last, _, err := c.store.LastAttempt(ctx, c.account)
	if err != nil {
		return s, c.storeError("read the last exchange", err)
	}
	now := c.now()
	if _, err := c.open(cred, cred.Refresh, fieldRefresh); err != nil {
		s.State = TokenDead
		say(UrgencyPage, ReasonSealed, "the stored refresh token does not open with this secrets_key", c.unsealStep())
	}
	switch underWay := unclear && open.State == etl.AttemptOpen && now.Before(open.DeadlineAt); {
	case s.State == TokenDead:
	case unclear && open.FromGeneration >= cred.Generation:
		s.State, s.Detail = TokenAmbiguous, open.Detail
		folder, err := c.spoolStatus(ctx, cred, say)
		switch other := elsewhere(open, folder); {
		case err != nil:
			return s, err
		case underWay:
			s.NextStep = "none: an exchange is under way"
		case other != "":
			say(UrgencyPage, ReasonForeign, fmt.Sprintf("exchange %d of %s may have left its answer in the spool %s", open.ID, open.Owner, other), c.foreignStep(open))
		case open.Probes > maxProbes:
			say(UrgencyPage, ReasonProbesUsed, open.Detail, "the probes of today are used up: wait, or "+c.manualStep())
		default:
			say(UrgencyWarn, ReasonAnswerLost, open.Detail, fmt.Sprintf("none: the first run after %s probes; if the token is refused, %s",
				probeFrom(open).UTC().Format(time.RFC3339), c.manualStep()))
		}
	case refused(last, cred):
		s.State = TokenDead
		say(UrgencyPage, ReasonRefused, orUnknown(last.Detail), c.manualStep())
	case !now.Before(s.RefreshDiesAt):
		s.State = TokenDead
		say(UrgencyPage, ReasonExpired, "older than seven days", c.manualStep())
	}
	if s.State != TokenDead {
		c.horizons(s, now, say)
	}
	if s.State != TokenAmbiguous {
		if _, err := c.spoolStatus(ctx, cred, say); err != nil {
			return s, err
		}
	}
	if s.FormerKey, err = c.needsFormer(ctx); err != nil {
		return s, err
	}
	if s.FormerKey {
		say(UrgencyWarn, ReasonFormerKey, "something is sealed with former_secrets_key", "meterhouse token rekey")
	}
	if s.Detail == "" && s.State == TokenOK && cred.Access == nil && cred.Source == "refresh" {
		s.Detail = "no access token, last exchange incomplete"
	}
	return s, nil
}

// horizons says when a chain dies of age.
func (c *custodian) horizons(s TokenStatus, now time.Time, say func(TokenUrgency, TokenReason, string, string)) {
	loginAge, idle := now.Sub(s.SeededAt), now.Sub(s.ObtainedAt)
	login := "before " + s.LoginDueAt.UTC().Format(time.DateOnly) + ": " + c.manualStep()
	idleDetail := "not exchanged since " + s.ObtainedAt.UTC().Format(time.RFC3339)
	idleStep := fmt.Sprintf("find out why nothing is loaded (meterhouse status), and call `meterhouse run` before %s: the refresh token dies then", s.RefreshDiesAt.UTC().Format(time.RFC3339))
	switch {
	case loginAge >= loginPage:
		say(UrgencyPage, ReasonLogin, "", login)
	case idle >= idlePage:
		say(UrgencyPage, ReasonIdle, idleDetail, idleStep)
	}
	switch {
	case loginAge >= loginWarn:
		say(UrgencyWarn, ReasonLogin, "", login)
	case idle >= idleWarn:
		say(UrgencyWarn, ReasonIdle, idleDetail, idleStep)
	}
}

// spoolStatus says what is wrong with the spool and returns its name. It changes nothing.
func (c *custodian) spoolStatus(ctx context.Context, cred etl.SealedCredential, say func(TokenUrgency, TokenReason, string, string)) (folder string, err error) {
	if c.spool == nil {
		return "", nil
	}
	unusable := func(err error) {
		say(UrgencyPage, ReasonSpool, err.Error(), "put the folder right: until then no token is exchanged")
	}
	id, err := c.spool.inspect()
	if err != nil {
		unusable(err)
		return "", nil
	}
	if id.name != "" {
		installation, err := c.store.Installation(ctx)
		if err != nil {
			return "", c.storeError("read the installation", err)
		}
		if err := c.spool.owned(id, installation); err != nil {
			unusable(err)
			return "", nil
		}
	}
	_, problems, err := c.spool.answers(cred.Generation)
	if err != nil {
		unusable(err)
		return id.name, nil
	}
	for _, p := range problems {
		if p.otherKey {
			say(UrgencyPage, ReasonSpool, p.Error(), "put the key of that file into former_secrets_key: until then no token is exchanged")
		} else {
			say(UrgencyWarn, ReasonSpool, p.Error(), "look after the disk; keep the file until the chain is ok again, then remove it")
		}
	}
	return id.name, nil
}

// refused tells whether the last exchange was the vendor's refusal of the refresh token of cred.
func refused(last etl.CredentialAttempt, cred etl.SealedCredential) bool {
	return last.State == etl.AttemptRejected && last.FromGeneration == cred.Generation
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
		fingerprints := c.keys.fingerprints(t)
		isNewest := cred.Generation > 0 && slices.Contains(fingerprints, cred.Fingerprint)
		if isNewest && cred.Source == "seed" {
			return c.proveStored(ctx, cred)
		}
		seen, err := c.store.SeenFingerprint(ctx, fingerprints...)
		if err != nil {
			return c.storeError("look for the token", err)
		}
		if seen || isNewest {
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
	o := order{token: t, generation: cred.Generation + 2, supersede: open.Key()}
	o.SentAt, o.SeededAt, o.Given = c.now(), c.now(), true
	back := c.abandon
	switch {
	case unclear && open.State == etl.AttemptOpen && c.now().Before(open.DeadlineAt):
		return false, nil
	case unclear && open.FromGeneration >= cred.Generation:
		back = c.returnTo(open.Key())
		o.places = elsewhere(open, c.folder) // still to be seen to if we die
	case refused:
		back = func(ctx context.Context, attempt etl.AttemptKey, _ string) error {
			return c.end(ctx, attempt, etl.AttemptRejected, reason)
		}
	}
	o.giveUp = back
	x, err := c.send(ctx, cred, o)
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
	login := c.login(t, cred.Generation+1, x.At)
	if c.spool != nil { // else the pair is in memory only, and nothing comes before it
		c.noteGiven(ctx, t)
	}
	outcome, err := c.settle(ctx, login, x)
	if !outcome.stored() && err == nil {
		err = c.errorf(etl.ErrUnavailable, "another process stored a token meanwhile, and the token given is used up: %s", c.manualStep())
	}
	if !outcome.stored() || c.pending != nil {
		return err
	}
	c.noteLogin(ctx, login)
	return err
}

// noteGiven makes a given token known as used, should we die before noteLogin.
func (c *custodian) noteGiven(ctx context.Context, t Token) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := c.store.NoteSeen(ctx, c.account, c.keys.fingerprint(t)); err != nil {
		c.log.Warn("the token given could not be noted as used yet", "account", c.account, "error", err)
	}
}

// noteLogin stores a token that was given and is spent.
func (c *custodian) noteLogin(ctx context.Context, login etl.SealedCredential) {
	if err := c.repeat(ctx, endGrace, func(ctx context.Context) error { return c.store.StoreGeneration(ctx, login, etl.AttemptKey{}) }); err != nil {
		c.log.Warn("the token given could not be noted as used, do not give it again", "account", c.account, "error", err)
	}
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
	for {
		cred, _, err := c.newest(ctx)
		if err != nil {
			return cred, err
		}
		healed, err := c.heal(ctx, cred)
		if !healed {
			if errors.Is(err, errOtherKey) {
				err = nil // what is given or sealed anew here gets a greater number
			}
			return cred, err
		}
	}
}

func (c *custodian) keepAlive(ctx context.Context) (bool, error) {
	if err := c.lock(ctx); err != nil {
		return false, err
	}
	defer c.unlock()
	cred, found, err := c.newest(ctx)
	if err != nil || !found { // a seed waits in the configuration
		return false, err
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
