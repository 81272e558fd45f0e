package keystone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/killpoint"
)

// TokenStore keeps the chain of an account's credentials and the attempts to renew it. All times
// it hands out are real clock as the store's database tells it. Every method is durable when it
// returns nil; after an error the outcome may be either, and the same call may be repeated.
type TokenStore interface {
	// Credential is the newest generation, or etl.ErrNoCredential.
	Credential(ctx context.Context, account string) (etl.SealedCredential, error)
	// SeenFingerprint tells whether the token was ever stored for the account as a seed.
	SeenFingerprint(ctx context.Context, account, fingerprint string) (bool, error)
	// OpenAttempt is the open or ambiguous attempt; false when there is none.
	OpenAttempt(ctx context.Context, account string) (etl.CredentialAttempt, bool, error)
	// LastAttempt is the attempt that was begun last, whatever became of it; false when there is
	// none.
	LastAttempt(ctx context.Context, account string) (etl.CredentialAttempt, bool, error)
	// BeginAttempt records that a.FromGeneration is about to be exchanged. The store itself sets
	// the start, to its now, and the deadline, 60 s later. It returns etl.ErrAttemptOpen when another attempt is open or
	// ambiguous. A supersede other than 0 names the attempt that this one takes over from: it is
	// marked superseded in the same transaction, and it is etl.ErrAttemptOpen when that attempt is
	// no longer open or ambiguous.
	BeginAttempt(ctx context.Context, a etl.CredentialAttempt, supersede int64) (id int64, err error)
	// EndAttempt sets the state of this attempt, never of any other. Ending an attempt that has
	// ended already changes nothing.
	EndAttempt(ctx context.Context, id int64, state etl.AttemptState, detail string) error
	// StoreGeneration inserts c and sets the attempt to done (0: none) in one transaction. A
	// generation that is there already is left as it is; when it holds another refresh token, that
	// is an error. One that is lower than the newest is history and may still be inserted.
	StoreGeneration(ctx context.Context, c etl.SealedCredential, attemptID int64) error
	// StoreAccess is StoreGeneration for a vendor that kept the refresh token: c is a new
	// generation with the former refresh token and a new access token.
	StoreAccess(ctx context.Context, c etl.SealedCredential, attemptID int64) error
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
)

// custodian guards the token chain of one account: failure model section 4. Several custodians,
// in one process or many, may serve the same account over the same store.
type custodian struct {
	account  string
	owner    string
	store    TokenStore
	sealer   *sealer
	seed     Token                                       // as configured; may be zero
	exchange func(ctx context.Context, t Token) exchange // one POST, never repeated
	now      func() time.Time                            // real clock
	sleep    func(ctx context.Context, d time.Duration) error
	log      *slog.Logger

	turn    chan struct{} // holds one element: whoever took it may use what follows
	pending *pending      // answered but not stored yet
}

// pending is a new generation that the vendor handed out. Until it is stored it exists only here.
type pending struct {
	credential etl.SealedCredential
	attempt    int64
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
		cred, err := c.current(ctx)
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

		supersede, again, err := c.standing(ctx, cred, w.adopt)
		if again && err == nil {
			continue
		}
		if err == nil {
			var outcome outcome
			outcome, err = c.rotate(ctx, cred, supersede)
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

// current is the newest generation. The configured token starts the chain when there is none.
func (c *custodian) current(ctx context.Context) (etl.SealedCredential, error) {
	cred, err := c.store.Credential(ctx, c.account)
	if !errors.Is(err, etl.ErrNoCredential) {
		return cred, c.storeError("read the credential", err)
	}
	if c.seed.IsZero() {
		return cred, c.errorf(etl.ErrUnauthorized, "no credential is stored and no refresh token is configured: %s", c.manualStep())
	}
	storeErr := c.storeSeed(ctx, c.seed, 1)
	// Read back, also after an error: another process may have been first, with another token.
	cred, err = c.store.Credential(ctx, c.account)
	if errors.Is(err, etl.ErrNoCredential) && storeErr != nil {
		err = storeErr
	}
	return cred, c.storeError("read the credential", err)
}

func (c *custodian) storeSeed(ctx context.Context, t Token, generation int64) error {
	return c.storeError("store the new login", c.store.StoreGeneration(ctx, c.login(t, generation, c.now()), 0))
}

// login is the generation that a person's login at the portal makes.
func (c *custodian) login(t Token, generation int64, at time.Time) etl.SealedCredential {
	return etl.SealedCredential{
		Account:     c.account,
		Generation:  generation,
		Refresh:     c.sealer.seal(t, c.account, generation, fieldRefresh),
		ObtainedAt:  at,
		Source:      "seed",
		SeededAt:    at,
		Fingerprint: c.sealer.fingerprint(t),
		KeyID:       c.sealer.keyID,
	}
}

// open opens a token of cred. Its error says what a person can do.
func (c *custodian) open(cred etl.SealedCredential, sealed []byte, field string) (Token, error) {
	t, err := c.sealer.open(sealed, c.account, cred.Generation, field, cred.KeyID)
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

// standing decides whether cred may be exchanged now. It returns the attempt to take over from (0
// for none); again says that something changed and everything must be read anew.
func (c *custodian) standing(ctx context.Context, cred etl.SealedCredential, adopt bool) (supersede int64, again bool, err error) {
	open, found, err := c.store.OpenAttempt(ctx, c.account)
	if err != nil {
		return 0, false, c.storeError("read the open exchange", err)
	}
	if !found {
		dead, reason, err := c.dead(ctx, cred)
		if err != nil || !dead {
			return 0, false, err
		}
		if adopt {
			adopted, err := c.adopt(ctx, cred)
			if adopted || err != nil {
				return 0, adopted, err
			}
		}
		return 0, false, c.errorf(etl.ErrUnauthorized, "the refresh token of generation %d was refused (%s): %s",
			cred.Generation, reason, c.manualStep())
	}
	now := c.now()
	switch {
	case open.FromGeneration < cred.Generation:
		// A later generation is stored: whatever this exchange brings comes too late to count.
		return open.ID, false, nil
	case open.State == etl.AttemptOpen && now.Before(open.DeadlineAt):
		return 0, true, c.sleep(ctx, pollInterval)
	}
	if open.Spool != "" {
		// Its raw answer may lie in a spool that we cannot see; with a vendor that revokes a whole
		// family for one spent token, a probe would then kill the pair in that spool.
		return 0, false, c.errorf(etl.ErrUnavailable, "token_attempt_foreign: exchange %d of %s may have left its answer in the spool %q: "+
			"start that host again, or %s", open.ID, open.Owner, open.Spool, c.manualStep())
	}
	if open.Probes > maxProbes {
		return 0, false, c.errorf(etl.ErrUnavailable, "the exchange of generation %d is unclear after %d probes in 24 h (%s): wait, or %s",
			cred.Generation, open.Probes-1, open.Detail, c.manualStep())
	}
	if from := probeFrom(open); now.Before(from) {
		return 0, false, c.errorf(etl.ErrUnavailable, "the answer to the exchange of generation %d was lost (%s), a probe is due at %s",
			cred.Generation, orUnknown(open.Detail), from.UTC().Format(time.RFC3339))
	}
	c.log.Warn("probing after an unclear token exchange",
		"account", c.account, "generation", cred.Generation, "attempt", open.ID, "probe", open.Probes)
	return open.ID, false, nil
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
	return found && last.State == etl.AttemptRejected && last.FromGeneration == cred.Generation, orUnknown(last.Detail), nil
}

// adopt continues a dead chain with the configured token, if that was never used before.
func (c *custodian) adopt(ctx context.Context, cred etl.SealedCredential) (bool, error) {
	if c.seed.IsZero() {
		return false, nil
	}
	fingerprint := c.sealer.fingerprint(c.seed)
	seen, err := c.store.SeenFingerprint(ctx, c.account, fingerprint)
	if err != nil || seen || fingerprint == cred.Fingerprint {
		return false, c.storeError("look for the configured token", err)
	}
	if err := c.storeSeed(ctx, c.seed, cred.Generation+1); err != nil {
		return false, err
	}
	c.log.Warn("the chain continues with the configured refresh token", "account", c.account, "generation", cred.Generation+1)
	return true, nil
}

// rotate makes one attempt to exchange the refresh token of cred. With a nil error everything
// must be read anew: the chain has moved on, by us or by somebody else.
func (c *custodian) rotate(ctx context.Context, cred etl.SealedCredential, supersede int64) (outcome, error) {
	refresh, err := c.open(cred, cred.Refresh, fieldRefresh)
	if err != nil {
		return notSent, err
	}
	// The spool slot of the next generation is to be made and named here, before the intent.
	x, err := c.send(ctx, cred, refresh, "", supersede, c.abandon)
	if err != nil || x == nil {
		return notSent, err
	}
	return c.settle(context.WithoutCancel(ctx), cred, *x)
}

// sent is an exchange that was made under an attempt, to be settled. Nobody may interrupt that.
type sent struct {
	attempt int64
	at      time.Time
	answer  tokenAnswer
}

// giveUp ends an attempt under which nothing was sent.
type giveUp func(ctx context.Context, id int64, why string) error

func (c *custodian) abandon(ctx context.Context, id int64, why string) error {
	return c.end(ctx, id, etl.AttemptAbandoned, why)
}

// send exchanges t under an attempt from the generation of cred, which is recorded before. nil
// without an error says that another process is or was at it, and everything must be read anew.
func (c *custodian) send(ctx context.Context, cred etl.SealedCredential, t Token, spool string, supersede int64, giveUp giveUp) (*sent, error) {
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

	killpoint.Here(killpoint.IntentCommitting)
	id, err := c.store.BeginAttempt(ctx, etl.CredentialAttempt{
		Account: c.account, FromGeneration: cred.Generation, Owner: c.owner, Spool: spool, State: etl.AttemptOpen,
	}, supersede)
	if errors.Is(err, etl.ErrAttemptOpen) {
		return nil, c.sleep(ctx, pollInterval)
	}
	if err != nil {
		return nil, c.storeError("record the exchange", err)
	}
	killpoint.Here(killpoint.IntentCommitted)

	// From here on neither a signal nor the end of the run may interrupt: a token that was sent and
	// whose answer nobody keeps is lost.
	cancelled := ctx.Err
	ctx = context.WithoutCancel(ctx)
	stop := func(err error, why string) (*sent, error) { return nil, errors.Join(err, giveUp(ctx, id, why)) }

	// Generation and attempt are read after the intent is committed: it is the lock.
	reading, stopReading := context.WithTimeout(ctx, storeTimeout)
	defer stopReading()
	newest, err := c.store.Credential(reading, c.account)
	if err != nil {
		return stop(c.storeError("read the credential", err), "store unreadable")
	}
	if newest.Generation != cred.Generation {
		return nil, c.abandon(ctx, id, "another process was faster")
	}
	own, found, err := c.store.OpenAttempt(reading, c.account)
	if err != nil {
		return stop(c.storeError("read the open exchange", err), "store unreadable")
	}
	if !found || own.ID != id {
		return nil, c.errorf(etl.ErrUnavailable, "exchange %d was taken over by another process before it began", id)
	}
	if err := c.checkSkew(own); err != nil {
		return stop(err, "clocks differ")
	}
	if err := cancelled(); err != nil {
		return stop(err, "cancelled")
	}
	if late() {
		return stop(c.errorf(etl.ErrUnavailable, "exchange %d came too late to begin", id), "too late")
	}

	at := c.now()
	post, cancel := context.WithTimeout(ctx, exchangeTimeout)
	killpoint.Here(killpoint.BeforePost)
	answer := c.exchange(post, t)
	cancel()
	// The raw answer is to be sealed into the spool here, before anybody parses it.
	return &sent{attempt: id, at: at, answer: classify(answer, t)}, nil
}

// settle records what became of an exchange of cred, and stores what it brought before anybody
// uses it.
func (c *custodian) settle(ctx context.Context, cred etl.SealedCredential, x sent) (outcome, error) {
	id, a := x.attempt, x.answer
	next := etl.SealedCredential{
		Account: c.account, Generation: cred.Generation + 1, ObtainedAt: x.at, Source: "refresh",
		SeededAt: cred.SeededAt, KeyID: c.sealer.keyID,
	}
	setRefresh := func(t Token) {
		next.Refresh = c.sealer.seal(t, c.account, next.Generation, fieldRefresh)
		next.Fingerprint = c.sealer.fingerprint(t)
	}
	if !a.access.IsZero() {
		next.Access = c.sealer.seal(a.access, c.account, next.Generation, fieldAccess)
		next.AccessExpiresAt = x.at.Add(accessLife)
	}
	log := c.log.With("account", c.account, "generation", cred.Generation, "attempt", id, "outcome", a.outcome.String())
	switch a.outcome {
	case rotated, rotatedNoAccess:
		setRefresh(a.refresh)
		c.pending = &pending{credential: next, attempt: id}
	case keptOld:
		log.Warn("the vendor kept the refresh token")
		setRefresh(a.refresh)
		next.ObtainedAt = cred.ObtainedAt // its seven days go on
		c.pending = &pending{credential: next, attempt: id, keptOld: true}
	case dead:
		err := c.end(ctx, id, etl.AttemptRejected, a.detail)
		log.Error("the vendor refused the refresh token", "detail", a.detail, "seeded_at", cred.SeededAt,
			"obtained_at", cred.ObtainedAt, "access_until", cred.AccessExpiresAt)
		return dead, err
	case notSent:
		err := c.abandon(ctx, id, a.detail)
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
	if a.outcome == rotatedNoAccess {
		return a.outcome, c.errorf(etl.ErrContract, "the exchange of generation %d brought no usable access token (%s)", cred.Generation, a.detail)
	}
	return a.outcome, nil
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
	mine, displaced := c.pending.credential, false
	killpoint.Here(killpoint.TokenCommitting)
	err = c.repeat(ctx, grace, func(ctx context.Context) error {
		err := store(ctx, mine, c.pending.attempt)
		if err != nil {
			newest, readErr := c.store.Credential(ctx, c.account)
			displaced = readErr == nil && (newest.Generation > mine.Generation ||
				newest.Generation == mine.Generation && newest.Fingerprint != mine.Fingerprint)
		}
		if displaced {
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
			"account", c.account, "generation", mine.Generation, "attempt", attempt)
		return false, c.end(ctx, attempt, etl.AttemptSuperseded, "another refresh token was stored meanwhile")
	}
	return true, nil
}

// end closes an attempt. When even that fails, the attempt stays open, expires, and is then
// treated as ambiguous: safe, but it costs a probe.
func (c *custodian) end(ctx context.Context, id int64, state etl.AttemptState, detail string) error {
	err := c.repeat(ctx, endGrace, func(ctx context.Context) error { return c.store.EndAttempt(ctx, id, state, detail) })
	return c.storeError(fmt.Sprintf("close exchange %d as %s", id, state), err)
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

// unsealStep is what a person can do when a stored token does not open.
func (c *custodian) unsealStep() string {
	return "put back the former secrets_key, or start anew with meterhouse token set " + c.account
}

func orUnknown(s string) string {
	if s == "" {
		return "no answer"
	}
	return s
}
