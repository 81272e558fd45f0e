package keystone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/fetch"
	"meterhouse/etl/internal/killpoint"
)

// TokenStore keeps the chain of an account's credentials and the attempts to renew it. All times
// it hands out are real clock as the store's database tells it. Every method is durable when it
// returns nil; after an error the outcome may be either, and the same call may be repeated.
type TokenStore interface {
	// Credential is the newest generation, or etl.ErrNoCredential.
	Credential(ctx context.Context, account string) (etl.SealedCredential, error)
	// SeenFingerprint tells whether a token with one of the fingerprints was ever stored, as whatever
	// generation of whatever account, or noted as seen.
	SeenFingerprint(ctx context.Context, fingerprints ...string) (bool, error)
	// NoteSeen makes SeenFingerprint know fingerprints of seeds under another key.
	NoteSeen(ctx context.Context, account string, fingerprints ...string) error
	// Seeds are all generations of the account whose source is a seed, without access tokens.
	Seeds(ctx context.Context, account string) ([]etl.SealedCredential, error)
	// Installation names the installation that the store belongs to, for ever the same.
	Installation(ctx context.Context) (string, error)
	// OpenAttempt is the open or ambiguous attempt; false when there is none.
	OpenAttempt(ctx context.Context, account string) (etl.CredentialAttempt, bool, error)
	// LastAttempt is the attempt that was begun last, whatever became of it; false when there is
	// none.
	LastAttempt(ctx context.Context, account string) (etl.CredentialAttempt, bool, error)
	// BeginAttempt records that a.FromGeneration is about to be exchanged. The store itself sets
	// the start, to its now, and the deadline, 60 s later. It returns etl.ErrAttemptOpen when another attempt is open or
	// ambiguous. A supersede other than zero names the attempt that this one takes over from: it is
	// marked superseded in the same transaction, and it is etl.ErrAttemptOpen when that attempt is
	// no longer open or ambiguous.
	BeginAttempt(ctx context.Context, a etl.CredentialAttempt, supersede etl.AttemptKey) (id int64, err error)
	// EndAttempt sets the state of this attempt, never of any other. Ending an attempt that has
	// ended already changes nothing.
	EndAttempt(ctx context.Context, attempt etl.AttemptKey, state etl.AttemptState, detail string) error
	// ReturnAttempt ends an attempt as abandoned and makes the one that it superseded ambiguous
	// again, in one transaction. When the attempt has ended already, it changes nothing.
	ReturnAttempt(ctx context.Context, attempt, superseded etl.AttemptKey, detail string) error
	// StoreGeneration inserts c and sets the attempt to done (zero: none) in one transaction. A
	// generation that is there already is left as it is; when it holds another refresh token, that
	// is an error. One that is lower than the newest is history and may still be inserted.
	StoreGeneration(ctx context.Context, c etl.SealedCredential, attempt etl.AttemptKey) error
	// StoreAccess is StoreGeneration for a vendor that kept the refresh token: c is a new
	// generation with the former refresh token and a new access token.
	StoreAccess(ctx context.Context, c etl.SealedCredential, attempt etl.AttemptKey) error
}

// The clocks of the protocol. An exchange may begin until startWithin after its intent and takes
// exchangeTimeout at most, so it is over long before anybody may probe (deadline + probeAfter).
const (
	accessLife      = time.Hour
	refreshLife     = 7 * 24 * time.Hour
	loginLife       = 90 * 24 * time.Hour
	accessReserve   = 10 * time.Minute // less than this left: renew before use
	keepAliveAfter  = 48 * time.Hour
	exchangeTimeout = 60 * time.Second
	attemptLife     = 60 * time.Second // from intent to deadline, as the store sets it
	startWithin     = 20 * time.Second
	storeGrace      = 60 * time.Second // how long the new pair is tried to be stored
	endGrace        = 10 * time.Second
	storeTimeout    = 15 * time.Second // of one call of the store that no run's end interrupts
	pollInterval    = 250 * time.Millisecond
	probeAfter      = 120 * time.Second // after the deadline of an unclear exchange
	probeAgainAfter = 10 * time.Minute  // after the deadline of an unclear probe
	maxProbes       = 3                 // a day
	skewWarn        = 5 * time.Second   // between our clock and the store's
	skewRefuse      = 60 * time.Second
	failoverWait    = 2 * exchangeTimeout // after the database's history has changed
)

// custodian guards the token chain of one account: failure model section 4. Several custodians,
// in one process or many, may serve the same account over the same store.
type custodian struct {
	account string
	owner   string
	store   TokenStore
	keys    *keyring
	spool   *spool // nil: none
	seed    Token  // as configured; may be zero
	// exchange is one POST, never repeated, over the connection that dial made; nil: over its own.
	exchange func(ctx context.Context, over *fetch.Client, t Token) exchange
	dial     func(ctx context.Context) (over *fetch.Client, hangUp func(), err error)
	now      func() time.Time // real clock
	sleep    func(ctx context.Context, d time.Duration) error
	log      *slog.Logger

	turn         chan struct{}   // holds one element: whoever took it may use what follows
	pending      *pending        // answered but not stored yet
	installation string          // as the store names it; empty: not asked yet
	folder       string          // name of the spool; empty: not opened yet, or none
	said         map[string]bool // what was logged about the spool's files
}

// pending is a new generation that the vendor handed out. Until it is stored it exists only here.
type pending struct {
	credential etl.SealedCredential
	attempt    etl.AttemptKey
	keptOld    bool
}

// pair is what the chain has to offer now.
type pair struct {
	generation int64
	access     Token     // zero: none that may be used
	until      time.Time // of access
}

// want says what is asked of the chain.
type want struct {
	refused int64 // the vendor refused the access token of this generation: it is worthless
	adopt   bool  // a dead chain may continue with the configured token
}

// access returns an access token by the rules: a stored one while more than ten minutes of it are
// left, else a new one, else a stored one as long as it lives. renewed tells that the refresh
// token was exchanged for it.
func (c *custodian) access(ctx context.Context, w want) (p pair, renewed bool, err error) {
	if err := c.lock(ctx); err != nil {
		return p, false, err
	}
	defer c.unlock()
	return c.accessLocked(ctx, w)
}

func (c *custodian) lock(ctx context.Context) error {
	select {
	case <-c.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *custodian) unlock() { c.turn <- struct{}{} }

func (c *custodian) accessLocked(ctx context.Context, w want) (p pair, renewed bool, err error) {
	if _, err := c.storePending(ctx, 0); err != nil {
		return p, false, err
	}
	for {
		cred, spoolErr, err := c.current(ctx)
		if err != nil {
			return p, renewed, err
		}
		killpoint.Here(killpoint.TokenRead)
		p, err = c.offer(cred, w.refused)
		if err != nil {
			return p, renewed, err
		}
		switch {
		case !p.access.IsZero() && (renewed || p.until.Sub(c.now()) > accessReserve):
			return p, renewed, nil
		case renewed:
			return p, true, c.errorf(etl.ErrContract, "generation %d came without a usable access token", cred.Generation)
		}

		err = spoolErr
		var open *etl.CredentialAttempt
		if err == nil {
			var again bool
			open, again, err = c.standing(ctx, cred, w.adopt)
			if again && err == nil {
				continue
			}
		}
		if err == nil {
			var outcome outcome
			outcome, err = c.rotate(ctx, cred, open)
			renewed = outcome.stored()
		}
		switch {
		case err == nil:
			continue
		case !p.access.IsZero() && ctx.Err() == nil:
			c.log.Warn("access token not renewed, the present one is used to its end",
				"account", c.account, "generation", p.generation, "until", p.until, "error", err)
			return p, renewed, nil
		}
		return p, renewed, err
	}
}

// current is the newest generation, counting those that only the spool has. The configured token
// starts the chain when there is none. spoolErr says why the spool cannot be relied on: nothing may
// be exchanged then.
func (c *custodian) current(ctx context.Context) (cred etl.SealedCredential, spoolErr, err error) {
	cred, found, err := c.newest(ctx)
	if err != nil {
		return cred, nil, err
	}
	healed, spoolErr := c.heal(ctx, cred)
	if healed {
		return c.current(ctx)
	}
	if found {
		return cred, spoolErr, nil
	}
	switch {
	case spoolErr != nil:
		return cred, nil, spoolErr
	case c.seed.IsZero():
		return cred, nil, c.errorf(etl.ErrUnauthorized, "no credential is stored and no refresh token is configured: %s", c.manualStep())
	}
	seen, err := c.store.SeenFingerprint(ctx, c.keys.fingerprints(c.seed)...)
	if err != nil {
		return cred, nil, c.storeError("look for the configured token", err)
	}
	var storeErr error
	if seen {
		storeErr = c.errorf(etl.ErrUnauthorized, "the configured refresh token was used before, perhaps by another account, and works only once: %s", c.manualStep())
	} else {
		storeErr = c.storeSeed(ctx, c.seed, 1)
	}
	// Read back, also after an error: another process may have been first, with another token.
	cred, found, err = c.newest(ctx)
	if !found && err == nil {
		err = storeErr
	}
	return cred, nil, err
}

// newest is the newest generation that is stored, the zero value when there is none.
func (c *custodian) newest(ctx context.Context) (cred etl.SealedCredential, found bool, err error) {
	cred, err = c.store.Credential(ctx, c.account)
	if errors.Is(err, etl.ErrNoCredential) {
		return etl.SealedCredential{}, false, nil
	}
	return cred, err == nil, c.storeError("read the credential", err)
}

func (c *custodian) storeSeed(ctx context.Context, t Token, generation int64) error {
	return c.storeError("store the new login", c.store.StoreGeneration(ctx, c.login(t, generation, c.now()), etl.AttemptKey{}))
}

// login is the generation that a person's login at the portal makes.
func (c *custodian) login(t Token, generation int64, at time.Time) etl.SealedCredential {
	return etl.SealedCredential{
		Account:     c.account,
		Generation:  generation,
		Refresh:     c.keys.seal(t, c.account, generation, fieldRefresh),
		ObtainedAt:  at,
		Source:      "seed",
		SeededAt:    at,
		Fingerprint: c.keys.fingerprint(t),
		KeyID:       c.keys.keyID,
	}
}

// open opens a token of cred. Its error says what a person can do.
func (c *custodian) open(cred etl.SealedCredential, sealed []byte, field string) (Token, error) {
	t, err := c.keys.open(sealed, c.account, cred.Generation, field, cred.KeyID)
	if err != nil {
		return t, c.errorf(etl.ErrUnauthorized, "%w: %s", err, c.unsealStep())
	}
	return t, nil
}

// offer opens the access token of cred if it may still be used.
func (c *custodian) offer(cred etl.SealedCredential, refused int64) (pair, error) {
	p := pair{generation: cred.Generation, until: cred.AccessExpiresAt}
	if cred.Access == nil || cred.Generation <= refused || !c.now().Before(cred.AccessExpiresAt) {
		return p, nil
	}
	t, err := c.open(cred, cred.Access, fieldAccess)
	p.access = t
	return p, err
}

// held is the access token that is stored and lives, if any. It changes nothing.
func (c *custodian) held(ctx context.Context) (pair, error) {
	cred, err := c.store.Credential(ctx, c.account)
	if errors.Is(err, etl.ErrNoCredential) {
		return pair{}, nil
	}
	if err != nil {
		return pair{}, c.storeError("read the credential", err)
	}
	return c.offer(cred, 0)
}

// standing decides whether cred may be exchanged now. It returns the attempt to take over from (nil
// for none); again says that something changed and everything must be read anew.
func (c *custodian) standing(ctx context.Context, cred etl.SealedCredential, adopt bool) (_ *etl.CredentialAttempt, again bool, err error) {
	open, found, err := c.store.OpenAttempt(ctx, c.account)
	if err != nil {
		return nil, false, c.storeError("read the open exchange", err)
	}
	if !found {
		dead, reason, err := c.dead(ctx, cred)
		if err != nil || !dead {
			return nil, false, err
		}
		if adopt {
			adopted, err := c.adopt(ctx, cred)
			if adopted || err != nil {
				return nil, adopted, err
			}
		}
		return nil, false, c.errorf(etl.ErrUnauthorized, "the refresh token of generation %d was refused (%s): %s",
			cred.Generation, reason, c.manualStep())
	}
	now := c.now()
	switch {
	case open.FromGeneration < cred.Generation:
		// A later generation is stored: whatever this exchange brings comes too late to count.
		return &open, false, nil
	case open.State == etl.AttemptOpen && now.Before(open.DeadlineAt):
		return nil, true, c.sleep(ctx, pollInterval)
	}
	if other := elsewhere(open, c.folder); other != "" {
		// Its raw answer may lie in a spool that we cannot see; with a vendor that revokes a whole
		// family for one spent token, a probe would then kill the pair in that spool.
		return nil, false, c.errorf(etl.ErrUnavailable, "token_attempt_foreign: exchange %d of %s may have left its answer in the spool %s, "+
			"which is not the one here: %s", open.ID, open.Owner, other, c.foreignStep(open))
	}
	if open.Probes > maxProbes {
		return nil, false, c.errorf(etl.ErrUnavailable, "the exchange of generation %d is unclear after %d probes in 24 h (%s): wait, or %s",
			cred.Generation, open.Probes-1, open.Detail, c.manualStep())
	}
	if from := probeFrom(open); now.Before(from) {
		return nil, false, c.notBefore(cred, from, "the answer to the exchange before was lost (%s), one probe follows then", orUnknown(open.Detail))
	}
	c.log.Warn("probing after an unclear token exchange",
		"account", c.account, "generation", cred.Generation, "attempt", open.ID, "probe", open.Probes)
	return &open, false, nil
}

// notBefore says that the refresh token of cred must not be sent before a time.
func (*custodian) notBefore(cred etl.SealedCredential, until time.Time, format string, args ...any) error {
	return &etl.HeldError{
		What: fmt.Sprintf("the exchange of generation %d", cred.Generation), Until: until,
		Reason: fmt.Sprintf(format, args...), Class: etl.ErrUnavailable,
	}
}

// probeFrom is when an exchange that nobody heard the end of may be tried once more.
func probeFrom(a etl.CredentialAttempt) time.Time {
	if a.Probes > 1 {
		return a.DeadlineAt.Add(probeAgainAfter)
	}
	return a.DeadlineAt.Add(probeAfter)
}

// dead tells whether the vendor refused the refresh token of cred, and with which words.
func (c *custodian) dead(ctx context.Context, cred etl.SealedCredential) (bool, string, error) {
	last, found, err := c.store.LastAttempt(ctx, c.account)
	if err != nil {
		return false, "", c.storeError("read the last exchange", err)
	}
	return found && refused(last, cred), orUnknown(last.Detail), nil
}

// adopt continues a dead chain with the configured token, if that was never used before.
func (c *custodian) adopt(ctx context.Context, cred etl.SealedCredential) (bool, error) {
	if c.seed.IsZero() {
		return false, nil
	}
	fingerprints := c.keys.fingerprints(c.seed)
	seen, err := c.store.SeenFingerprint(ctx, fingerprints...)
	if err != nil || seen || slices.Contains(fingerprints, cred.Fingerprint) {
		return false, c.storeError("look for the configured token", err)
	}
	if err := c.storeSeed(ctx, c.seed, cred.Generation+1); err != nil {
		return false, err
	}
	c.log.Warn("the chain continues with the configured refresh token", "account", c.account, "generation", cred.Generation+1)
	return true, nil
}

// rotate makes one attempt to exchange the refresh token of cred, taking over from the attempt open
// (nil: none). With a nil error everything must be read anew: the chain has moved on, by us or by
// somebody else.
func (c *custodian) rotate(ctx context.Context, cred etl.SealedCredential, open *etl.CredentialAttempt) (outcome, error) {
	refresh, err := c.open(cred, cred.Refresh, fieldRefresh)
	if err != nil {
		return notSent, err
	}
	o := order{token: refresh, generation: cred.Generation + 1, giveUp: c.abandon}
	o.SentAt, o.SeededAt = cred.ObtainedAt, cred.SeededAt
	if open != nil {
		o.supersede = open.Key()
		if o.probe = open.FromGeneration >= cred.Generation; o.probe {
			o.giveUp = c.returnTo(open.Key())
		}
	}
	x, err := c.send(ctx, cred, o)
	if err != nil || x == nil {
		return notSent, err
	}
	return c.settle(context.WithoutCancel(ctx), cred, *x)
}

// order is an exchange that is to be made.
type order struct {
	spoolHead
	token      Token
	generation int64          // that its answer will be
	supersede  etl.AttemptKey // to take over from; zero for none
	places     string         // outside our spool where the answer to that one may be
	probe      bool           // somebody may have sent the token before
	giveUp     giveUp
}

// sent is an exchange that was made under an attempt, to be settled. Nobody may interrupt that.
type sent struct {
	order
	attempt etl.AttemptKey
	answer  tokenAnswer
}

// giveUp ends an attempt under which nothing of its generation was sent.
type giveUp func(ctx context.Context, attempt etl.AttemptKey, why string) error

func (c *custodian) abandon(ctx context.Context, attempt etl.AttemptKey, why string) error {
	return c.end(ctx, attempt, etl.AttemptAbandoned, why)
}

// returnTo gives up an attempt that took over from an unclear one: that is unclear as before.
func (c *custodian) returnTo(superseded etl.AttemptKey) giveUp {
	return func(ctx context.Context, attempt etl.AttemptKey, why string) error {
		err := c.repeat(ctx, endGrace, func(ctx context.Context) error { return c.store.ReturnAttempt(ctx, attempt, superseded, why) })
		return c.storeError(fmt.Sprintf("give exchange %d back", attempt.ID), err)
	}
}

// intent is an attempt that is recorded and checked, and may go on.
type intent struct {
	key  etl.AttemptKey
	late func() bool // too much time has passed: somebody may have taken over
}

// intend records an attempt from the generation of cred, which is the lock against everybody else,
// and makes sure after that that nothing has changed. nil without an error says that another process
// is or was at it, and everything must be read anew. Only the end of ctx before it stops it.
func (c *custodian) intend(ctx context.Context, cred etl.SealedCredential, a etl.CredentialAttempt, o order) (*intent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Measured from before the intent, by both clocks: the monotonic one stands still while the
	// machine sleeps, the other one may be set.
	began, beganWall := time.Now(), c.now()
	late := func() bool {
		wall := c.now().Sub(beganWall)
		return time.Since(began) > startWithin || wall > startWithin || wall < -startWithin
	}

	a.Account, a.FromGeneration, a.State = c.account, cred.Generation, etl.AttemptOpen
	a.Owner = c.owner + "/" + randomName()
	killpoint.Here(killpoint.IntentCommitting)
	id, err := c.store.BeginAttempt(ctx, a, o.supersede)
	if errors.Is(err, etl.ErrAttemptOpen) {
		return nil, c.sleep(ctx, pollInterval)
	}
	// From here on neither a signal nor the end of the run may interrupt: a token that was sent and
	// whose answer nobody keeps is lost.
	ctx = context.WithoutCancel(ctx)
	reading, stopReading := context.WithTimeout(ctx, storeTimeout)
	defer stopReading()
	if err != nil {
		// The commit may have been made and only its reply been lost. One that is made later still
		// leaves an attempt behind that expires.
		own, found, readErr := c.store.OpenAttempt(reading, c.account)
		if readErr != nil || !found || own.Owner != a.Owner {
			return nil, c.storeError("record the exchange", err)
		}
		id = own.ID
	}
	killpoint.Here(killpoint.IntentCommitted)
	key := etl.AttemptKey{ID: id, Owner: a.Owner}
	stop := func(err error, why string) (*intent, error) { return nil, errors.Join(err, o.giveUp(ctx, key, why)) }

	// Generation, attempt and spool are read after the intent is committed: it is the lock.
	newest, err := c.store.Credential(reading, c.account)
	if err != nil {
		return stop(c.storeError("read the credential", err), "store unreadable")
	}
	if newest.Generation != cred.Generation {
		return nil, c.abandon(ctx, key, "another process was faster")
	}
	own, found, err := c.store.OpenAttempt(reading, c.account)
	if err != nil {
		return stop(c.storeError("read the open exchange", err), "store unreadable")
	}
	if !found || own.Key() != key {
		return nil, c.errorf(etl.ErrUnavailable, "exchange %d was taken over by another process before it began", id)
	}
	healed, err := c.heal(reading, cred)
	switch {
	case healed:
		return nil, c.abandon(ctx, key, "its answer was in the spool already")
	case err != nil && !(o.Given && errors.Is(err, errOtherKey)):
		return stop(err, "spool unreadable")
	}
	if err := c.checkSkew(own); err != nil {
		return stop(err, "clocks differ")
	}
	// An exchange that the database forgot when it failed over may be under way.
	if until := own.FailedOverAt.Add(failoverWait); !own.FailedOverAt.IsZero() && own.StartedAt.Before(until) {
		return stop(c.notBefore(cred, until, "the database has failed over or was restored, and an exchange that it forgot may be under way"),
			"database failed over")
	}
	return &intent{key, late}, nil
}

// send makes the exchange o under an attempt from the generation of cred, which is recorded before.
// nil without an error says that another process is or was at it, and everything must be read anew.
func (c *custodian) send(ctx context.Context, cred etl.SealedCredential, o order) (*sent, error) {
	attempt := etl.CredentialAttempt{Spool: o.places}
	var place *slot
	if c.spool != nil {
		folder, err := c.openSpool(ctx)
		if err != nil {
			return nil, err
		}
		place, err = c.spool.slot(o.generation)
		if err != nil {
			return nil, err
		}
		defer func() {
			if place != nil {
				place.remove()
			}
		}()
		attempt.Spool = strings.TrimSpace(placeOf(folder, place.name) + " " + o.places)
	}
	// Connected before the intent, so that the time in which the answer can be lost is short. Whoever
	// cannot connect finds out below, when nothing is sent for the same reason.
	over, hangUp, err := c.dial(ctx)
	if err == nil {
		defer hangUp()
	}
	i, err := c.intend(ctx, cred, attempt, o)
	if err != nil || i == nil {
		return nil, err
	}
	cancelled := ctx.Err()
	ctx = context.WithoutCancel(ctx)
	if cancelled != nil {
		return nil, errors.Join(cancelled, o.giveUp(ctx, i.key, "cancelled"))
	}
	if i.late() {
		return nil, errors.Join(c.errorf(etl.ErrUnavailable, "exchange %d came too late to begin", i.key.ID), o.giveUp(ctx, i.key, "too late"))
	}

	o.At = c.now()
	post, cancel := context.WithTimeout(ctx, exchangeTimeout)
	killpoint.Here(killpoint.BeforePost)
	x := c.exchange(post, over, o.token)
	cancel()
	if place != nil && x.sent && x.status != 0 {
		// Before anybody parses it: whatever becomes of us, the answer is kept.
		o.Status = x.status
		if x.err != nil {
			o.Broken = discreet(errText(x.err), o.token)
		}
		if err := place.write(spooled{spoolHead: o.spoolHead, sent: o.token, body: x.body}); err != nil {
			c.log.Error("the answer to a token exchange could not be kept in the spool, it goes on in memory: do not stop this process",
				"account", c.account, "attempt", i.key.ID, "error", err)
		}
		place = nil
	}
	return &sent{o, i.key, classify(x, o.token)}, nil
}

// openSpool makes sure of the folder and returns its name.
func (c *custodian) openSpool(ctx context.Context) (string, error) {
	if c.installation == "" {
		id, err := c.store.Installation(ctx)
		if err != nil {
			return "", c.storeError("read the installation", err)
		}
		c.installation = id
	}
	name, err := c.spool.open(c.installation)
	switch {
	case err != nil:
		return "", err
	case c.folder != "" && c.folder != name:
		return "", c.spool.errorf("is another folder than before: is its volume still mounted?")
	}
	c.folder = name
	return name, nil
}

// heal stores the answer of the spool that is newer than cred, if there is one: the exchange was
// made, and its process died before the pair was stored, or the database has forgotten it. healed
// says that everything must be read anew. The error says why the spool cannot be relied on.
func (c *custodian) heal(ctx context.Context, cred etl.SealedCredential) (healed bool, err error) {
	if c.spool == nil {
		return false, nil
	}
	folder, err := c.openSpool(ctx)
	if err != nil {
		return false, err
	}
	found, problems, err := c.spool.answers(cred.Generation)
	if err != nil || len(found)+len(problems) == 0 {
		return false, err
	}
	open, isOpen, err := c.store.OpenAttempt(ctx, c.account)
	if err != nil {
		return false, c.storeError("read the open exchange", err)
	}
	refusal := "" // of the open attempt
	for _, a := range found {
		answer := classify(a.exchange(), a.sent)
		ofOpen := isOpen && slices.Contains(strings.Fields(open.Spool), placeOf(folder, a.slot))
		if answer.outcome == dead && ofOpen && !a.Given {
			refusal = refusalDetail(answer.detail, open.Probes > 1)
		}
		if !answer.outcome.stored() {
			continue
		}
		if a.At.Add(2 * skewRefuse).Before(cred.ObtainedAt) { // by two clocks, perhaps
			// A chain that was given up: somebody has logged in since.
			c.once(a.path, slog.LevelWarn, "an answer in the spool is older than the stored token and is not used", nil)
			continue
		}
		p := &pending{credential: c.successor(a.spoolHead, a.generation, answer), keptOld: answer.outcome == keptOld}
		if ofOpen {
			p.attempt = open.Key()
		}
		c.pending = p
		if a.Given {
			c.noteGiven(ctx, a.sent)
		}
		if stored, err := c.storePending(ctx, 0); err != nil || !stored {
			return err == nil, err
		}
		c.log.Warn("an answer to a token exchange was found in the spool and stored", "account", c.account,
			"generation", a.generation, "stored_before", cred.Generation, "asked_at", a.At)
		if a.Given {
			c.noteLogin(ctx, c.login(a.sent, a.generation-1, a.At))
		}
		return true, nil
	}
	if refusal != "" {
		err := c.end(ctx, open.Key(), etl.AttemptRejected, refusal)
		return err == nil, err
	}
	for _, p := range problems {
		if p.otherKey {
			return false, c.errorf(etl.ErrUnauthorized, "%w: it is newer than generation %d, so nothing is exchanged: put its key into former_secrets_key; if the key is lost, remove the file and %s",
				p, cred.Generation, c.manualStep())
		}
		c.once(p.file.path, slog.LevelError, "a file of the spool is torn or was changed and is not used", p)
	}
	return false, nil
}

// once logs something about a file of the spool the first time.
func (c *custodian) once(path string, level slog.Level, text string, err error) {
	if !c.said[path] {
		c.said[path] = true
		c.log.Log(context.Background(), level, text, "account", c.account, "file", path, "error", err)
	}
}

// successor is the generation that the answer to an exchange brings.
func (c *custodian) successor(h spoolHead, generation int64, a tokenAnswer) etl.SealedCredential {
	next := etl.SealedCredential{
		Account: c.account, Generation: generation, ObtainedAt: h.At, Source: "refresh", SeededAt: h.SeededAt, KeyID: c.keys.keyID,
		Refresh: c.keys.seal(a.refresh, c.account, generation, fieldRefresh), Fingerprint: c.keys.fingerprint(a.refresh),
	}
	if a.outcome == keptOld {
		next.ObtainedAt = h.SentAt // its seven days go on
	}
	if !a.access.IsZero() {
		next.Access = c.keys.seal(a.access, c.account, generation, fieldAccess)
		next.AccessExpiresAt = h.At.Add(accessLife)
	}
	return next
}

// settle records what became of an exchange of cred, and stores what it brought before anybody
// uses it.
func (c *custodian) settle(ctx context.Context, cred etl.SealedCredential, x sent) (outcome, error) {
	id, a := x.attempt, x.answer
	log := c.log.With("account", c.account, "generation", cred.Generation, "attempt", id.ID, "outcome", a.outcome.String())
	switch a.outcome {
	case rotated, rotatedNoAccess:
		c.pending = &pending{credential: c.successor(x.spoolHead, x.generation, a), attempt: id}
	case keptOld:
		log.Warn("the vendor kept the refresh token")
		c.pending = &pending{credential: c.successor(x.spoolHead, x.generation, a), attempt: id, keptOld: true}
	case dead:
		detail := refusalDetail(a.detail, x.probe)
		err := c.end(ctx, id, etl.AttemptRejected, detail)
		log.Error("the vendor refused the refresh token", "detail", detail, "seeded_at", cred.SeededAt,
			"obtained_at", cred.ObtainedAt, "access_until", cred.AccessExpiresAt, "do", c.manualStep())
		return dead, err
	case notSent:
		err := x.giveUp(ctx, id, a.detail)
		return notSent, errors.Join(c.errorf(a.class, "the refresh token was not sent: %s", a.detail), err)
	default:
		err := c.end(ctx, id, etl.AttemptAmbiguous, a.detail)
		log.Error("the answer to a token exchange is unclear", "detail", a.detail, "access_until", cred.AccessExpiresAt)
		return ambiguous, errors.Join(c.errorf(etl.ErrUnavailable, "the answer to the exchange of generation %d is unclear (%s), a probe follows",
			cred.Generation, a.detail), err)
	}
	if len(a.drift) > 0 {
		log.Warn("the token answer has another form than documented", "drift", discreet(strings.Join(a.drift, " "), a.refresh, a.access))
	}
	stored, err := c.storePending(ctx, storeGrace)
	if err != nil {
		return a.outcome, err
	}
	if !stored {
		return notSent, nil // as if we had not: the chain goes on from what somebody else stored
	}
	log.Info("token exchanged")
	c.tidy(x.generation)
	killpoint.Here(killpoint.SpoolTidied)
	if a.outcome == rotatedNoAccess {
		return a.outcome, c.errorf(etl.ErrContract, "the exchange of generation %d brought no usable access token (%s)", cred.Generation, a.detail)
	}
	return a.outcome, nil
}

// elsewhereUsed is what a refusal means when we had a fresh token and never sent it before.
const elsewhereUsed = "nobody here had sent it: it was used elsewhere, by a person or a second system, or revoked, or mistyped, or its login has ended"

// refusalDetail is what is kept of a refused exchange.
func refusalDetail(said string, probe bool) string {
	if probe {
		return said + "; the answer to the exchange before was lost"
	}
	return said + "; " + elsewhereUsed
}

func (c *custodian) tidy(newest int64) {
	if c.spool == nil {
		return
	}
	if err := c.spool.tidy(newest); err != nil {
		c.log.Warn("old files of the spool could not be removed", "account", c.account, "error", err)
	}
}

// storePending stores what the vendor handed out, repeating until it is stored or grace is over.
// Repeating is safe. After an error it is kept in memory for the next call. It is dropped, and not
// stored, only when somebody else has stored another token in its place.
func (c *custodian) storePending(ctx context.Context, grace time.Duration) (stored bool, err error) {
	if c.pending == nil {
		return false, nil
	}
	store := c.store.StoreGeneration
	if c.pending.keptOld {
		store = c.store.StoreAccess
	}
	mine, displaced, twin := c.pending.credential, false, false
	killpoint.Here(killpoint.TokenCommitting)
	err = c.repeat(ctx, grace, func(ctx context.Context) error {
		err := store(ctx, mine, c.pending.attempt)
		if err != nil {
			newest, readErr := c.store.Credential(ctx, c.account)
			there := readErr == nil && newest.Generation == mine.Generation
			twin = there && c.sameToken(newest, mine) // under another key
			displaced = readErr == nil && newest.Generation > mine.Generation || there && newest.Fingerprint != mine.Fingerprint && !twin
		}
		if twin && c.pending.attempt != (etl.AttemptKey{}) {
			return c.store.EndAttempt(ctx, c.pending.attempt, etl.AttemptDone, "")
		}
		if displaced || twin {
			return nil
		}
		return err
	})
	if err != nil {
		c.log.Error("a new refresh token could not be stored: it is lost when this process ends",
			"account", c.account, "generation", mine.Generation, "error", err)
		return false, c.storeError(fmt.Sprintf("store generation %d (kept in memory, do not stop this process)", mine.Generation), err)
	}
	killpoint.Here(killpoint.TokenCommitted)
	attempt := c.pending.attempt
	c.pending = nil
	if displaced {
		// A person set a token meanwhile, from a newer login than ours.
		c.log.Error("another refresh token was stored for the same generation meanwhile, ours is dropped",
			"account", c.account, "generation", mine.Generation, "attempt", attempt.ID)
		if attempt == (etl.AttemptKey{}) {
			return false, nil
		}
		return false, c.end(ctx, attempt, etl.AttemptSuperseded, "another refresh token was stored meanwhile")
	}
	return true, nil
}

// sameToken tells whether two generations hold the same refresh token, whatever key sealed it.
func (c *custodian) sameToken(a, b etl.SealedCredential) bool {
	t, err := c.open(a, a.Refresh, fieldRefresh)
	if err != nil {
		return false
	}
	u, err := c.open(b, b.Refresh, fieldRefresh)
	return err == nil && t.Equal(u)
}

// end closes an attempt. When even that fails, the attempt stays open, expires, and is then
// treated as ambiguous: safe, but it costs a probe.
func (c *custodian) end(ctx context.Context, attempt etl.AttemptKey, state etl.AttemptState, detail string) error {
	err := c.repeat(ctx, endGrace, func(ctx context.Context) error { return c.store.EndAttempt(ctx, attempt, state, detail) })
	return c.storeError(fmt.Sprintf("close exchange %d as %s", attempt.ID, state), err)
}

// repeat calls f until it succeeds or grace is over, with growing pauses. Each call has a deadline
// of its own, because ctx may be one that never ends.
func (c *custodian) repeat(ctx context.Context, grace time.Duration, f func(context.Context) error) error {
	began, slept := time.Now(), time.Duration(0)
	for pause := pollInterval; ; pause = min(2*pause, 4*time.Second) {
		call, cancel := context.WithTimeout(ctx, storeTimeout)
		err := f(call)
		cancel()
		if err == nil || slept+pause > grace || time.Since(began)+pause > grace {
			return err
		}
		if c.sleep(ctx, pause) != nil {
			return err
		}
		slept += pause
	}
}

// checkSkew compares our clock with the store's by the deadline it gave our own attempt just now.
func (c *custodian) checkSkew(own etl.CredentialAttempt) error {
	switch skew := c.now().Add(attemptLife).Sub(own.DeadlineAt).Abs(); {
	case skew > skewRefuse:
		return c.errorf(etl.ErrUnavailable, "our clock and the database's differ by %s: no token is exchanged", skew.Round(time.Second))
	case skew > skewWarn:
		c.log.Warn("our clock and the database's differ", "account", c.account, "by", skew)
	}
	return nil
}

// errorf is an error of a class. Whoever hands it out of the package names the account.
func (*custodian) errorf(class error, format string, args ...any) error {
	return &classed{fmt.Errorf(format, args...), class}
}

// classed is an error with a sentence of its own, which says all that its class would.
type classed struct{ err, class error }

func (e *classed) Error() string   { return e.err.Error() }
func (e *classed) Unwrap() []error { return []error{e.err, e.class} }

// storeError names the step at which the store failed; nil stays nil.
func (*custodian) storeError(step string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", step, err)
}

// manualStep is what only a person can do.
func (c *custodian) manualStep() string {
	return fmt.Sprintf("log in to the Digital Advisor portal (https://aiq.netapp.com/api), choose Generate Tokens, and give the refresh token to `meterhouse token set %s`", c.account)
}

// foreignStep is what a person can do about an attempt whose answer may lie in a spool that is not
// here.
func (c *custodian) foreignStep(a etl.CredentialAttempt) string {
	return fmt.Sprintf("start meterhouse where that folder is (%s), or make its state_dir the one here; only if it is lost for good, %s", a.Owner, c.manualStep())
}

// unsealStep is what a person can do when a stored token does not open.
func (c *custodian) unsealStep() string {
	return "name the key that it was sealed with as former_secrets_key, or start anew with meterhouse token set " + c.account
}

func orUnknown(s string) string {
	if s == "" {
		return "no answer"
	}
	return s
}
