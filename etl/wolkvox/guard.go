package wolkvox

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/killpoint"
)

// Ledger remembers every call with a token, over all processes that share it. The warehouse is one.
type Ledger interface {
	// Reserve writes down that c is about to be made, unless may objects. While may looks at the log,
	// nobody else can reserve with the same credential. What was reserved and has not ended within its
	// lostAfter is closed as lost. What is returned without an error is committed: a ledger that cannot
	// write allows nothing.
	Reserve(ctx context.Context, c etl.Call, lostAfter time.Duration, may func(etl.CallLog) error) (etl.Call, error)
	// End says how a call ended, and how long the vendor wants to be left alone, 0 when it did not say.
	// Safe to repeat: the first end counts.
	End(ctx context.Context, id int64, outcome string, retryAfter time.Duration) error
	// Log is what is known of a credential.
	Log(ctx context.Context, credential string) (etl.CallLog, error)
	// SaveQuota keeps what the vendor said in answer to the call.
	SaveQuota(ctx context.Context, call etl.Call, q etl.Quota) error
}

const (
	defaultSpacing = 5 * time.Minute
	// patience is how long a call waits for what frees by itself, holding its place; beyond it gives up.
	patience = 30 * time.Second
	// maxSkew between this machine's clock and the ledger's: beyond, nobody can say what 5 minutes are.
	maxSkew = time.Minute
	// infoEvery is how often the vendor is asked for the quota at most; infoCounts how long what it said
	// is kept to while it says nothing new.
	infoEvery  = 24 * time.Hour
	infoCounts = 7 * 24 * time.Hour
	tokenInfo  = "token_info"
)

// credential tells two tokens apart without holding them. It does not depend on secrets_key: two
// installations with one token on one database must exclude each other whatever their keys are.
func (t *Token) credential() string {
	mac := hmac.New(sha256.New, []byte("meterhouse wolkvox token"))
	mac.Write([]byte(t.reveal()))
	return hex.EncodeToString(mac.Sum(nil))
}

// errTurn says that a call with the token is under way elsewhere; errInfoDue that the quota should be
// asked for first, errInfoFresh that somebody else did.
var (
	errTurn      = errors.New("another call with this token is under way")
	errInfoDue   = errors.New("the quota is to be asked for first")
	errInfoFresh = errors.New("the quota was asked for already")
)

// errStalled ends a call that was reserved so long ago that others take it for lost.
var errStalled = &etl.RejectError{Reason: "stalled", Detail: "this process stood still after it had reserved the call", Class: etl.ErrUnavailable}

// reserved is a call that may be made now, within its context.
type reserved struct {
	etl.Call
	ctx    context.Context
	cancel context.CancelFunc
	log    etl.CallLog // before it
}

// lostAfter is when a reservation that did not end counts as lost: twice the longest call.
func (a *Account) lostAfter() time.Duration { return 2 * a.cfg.Timeout }

// reserve waits until a call for the product may be made, if that is a matter of seconds, and reserves
// it. The error is a *etl.HeldError when it is longer.
func (a *Account) reserve(ctx context.Context, product string, may func(etl.CallLog) error) (*reserved, error) {
	if a.cfg.Ledger == nil {
		if err := may(etl.CallLog{Now: a.cfg.RealNow()}); err != nil {
			return nil, err
		}
		return &reserved{ctx: ctx, cancel: func() {}}, nil
	}
	for {
		r := &reserved{}
		// From before the reservation, so that it ends before others take the call for lost.
		r.ctx, r.cancel = context.WithTimeoutCause(ctx, a.lostAfter(), errStalled)
		call, err := a.cfg.Ledger.Reserve(r.ctx, etl.Call{Credential: a.credential, Account: a.cfg.Account, Product: product}, a.lostAfter(),
			func(log etl.CallLog) error {
				r.log = log
				return may(log)
			})
		if err == nil {
			killpoint.Here(killpoint.CallReserved)
			r.Call = call
			return r, nil
		}
		r.cancel()
		wait := 200*time.Millisecond + rand.N(200*time.Millisecond)
		var held *etl.HeldError
		now, turning := r.log.Now, a.quiet()
		isTurning := errors.As(err, &held) && turning != nil && held.Until.Equal(turning.Until)
		if isTurning {
			now = a.cfg.Now()
		}
		switch {
		case errors.Is(err, errTurn):
		case held != nil && held.Until.Sub(now) <= patience:
			wait = max(held.Until.Sub(now), time.Millisecond)
		default:
			return nil, err
		}
		if stopped := a.cfg.Sleep(ctx, wait); stopped != nil {
			return nil, stopped
		}
		if isTurning && !a.cfg.Now().After(now) { // --now: the month never ends
			return nil, err
		}
	}
}

// end writes down how a call ended. It is said whatever becomes of ctx; should it fail, the call counts
// as lost in a while, and nothing else is asked until then.
func (a *Account) end(ctx context.Context, r *reserved, outcome string, retryAfter time.Duration) {
	defer r.cancel()
	if a.cfg.Ledger == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := a.cfg.Ledger.End(ctx, r.ID, outcome, retryAfter); err != nil {
		a.cfg.Log.Warn("call not closed in the ledger", "account", a.cfg.Account, "product", r.Product, "error", err)
	}
}

// held names what is not asked.
func (a *Account) held(until time.Time, class error, format string, args ...any) *etl.HeldError {
	return &etl.HeldError{What: Dataset + " " + a.cfg.Account, Reason: fmt.Sprintf(format, args...), Until: until, Class: class}
}

// mayAsk is what every call for a reading must pass, in the order in which it is told.
func (a *Account) mayAsk(log etl.CallLog, product string) error {
	if err := a.mayCall(log, product); err != nil {
		return err
	}
	if held := a.quiet(); held != nil {
		return held
	}
	forcedAt := a.forcedAt()
	if held := a.hold(log, forcedAt); held != nil {
		return held
	}
	if a.cfg.Ledger == nil {
		return nil
	}
	if product != tokenInfo && !a.isInfoFresh(log) {
		return errInfoDue
	}
	if left, known := a.left(log); known && left < 1 && forcedAt.IsZero() {
		return a.held(freeAt(log, 1-left), etl.ErrThrottled, "the %d calls that the vendor allows in a day are used up", log.Quota.Limit)
	}
	return nil
}

// mayCall is what every call must pass: clocks that agree, one at a time, the spacing.
func (a *Account) mayCall(log etl.CallLog, product string) error {
	if skew := a.cfg.RealNow().Sub(log.Now); skew.Abs() > maxSkew {
		return a.held(log.Now.Add(maxSkew), nil, "the clock here and the database's differ by %s, want at most %s: set both, such as with NTP",
			skew.Abs().Round(time.Second), maxSkew)
	}
	// Not only the newest: after a clock that was set back, the one under way can have begun before one that ended.
	if slices.ContainsFunc(log.Recent, func(c etl.Call) bool { return c.EndedAt.IsZero() }) {
		return errTurn
	}
	if at := a.spacedAt(log, product); at.After(log.Now) {
		return a.held(at, nil, "%s was read %s ago, %s", product, ago(log.Now.Sub(log.Last[product])), a.pace())
	}
	return nil
}

func (a *Account) pace() string {
	return fmt.Sprintf("the vendor allows one reading per product every %d minutes", int(a.spacing().Minutes()))
}

func ago(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%d s", int(d.Seconds()))
	}
	return fmt.Sprintf("%d min", int(d.Minutes()))
}

// spacing between two readings of one product, start to start; 0 is none.
func (a *Account) spacing() time.Duration {
	if a.cfg.Ledger == nil {
		return 0
	}
	return max(a.cfg.Spacing, 0)
}

// spacedAt is when the product may be asked for again.
func (a *Account) spacedAt(log etl.CallLog, product string) time.Time {
	last, asked := log.Last[product]
	if !asked {
		return time.Time{}
	}
	return last.Add(a.spacing())
}

// quiet objects while the vendor's month may turn between a question and its answer. Which month an answer is of is
// told by the business clock, and so is this; all else here is told by the ledger's, which --now does not fix.
func (a *Account) quiet() *etl.HeldError {
	if until, quiet := QuietUntil(a.cfg.Now(), a.cfg.Zone); quiet {
		return a.held(until, nil, "the month ends: nothing is asked from 10 minutes before to 10 minutes after")
	}
	return nil
}

// state is what the newest refusals mean.
type state struct {
	reason string // "": nothing refused since the last good answer
	since  time.Time
	last   time.Time // start of the newest such refusal
	times  int       // how many, one after the other
	free   time.Time // the vendor wants to be left alone until then
}

// The refusals that hold back what comes after. The others concern one call.
const (
	refusedToken       = "token_invalid"
	refusedQuota       = "quota_exceeded"
	refusedMaintenance = "vendor_maintenance"
	refusedThrottled   = "throttled"
)

// answers are outcomes that the vendor gives only to a token that it accepts, with calls left, while it
// is in service: they end whatever was refused before.
var answers = map[string]bool{etl.CallOK: true, "no_data": true, "api_unknown": true, "vendor_error": true, "envelope_unknown": true}

// stateOf reads the newest calls since forcedAt.
func stateOf(recent []etl.Call, forcedAt time.Time) (s state) {
	for _, c := range recent { // newest first
		if !c.StartedAt.After(forcedAt) || answers[c.Outcome] {
			break
		}
		if s.free.IsZero() {
			s.free = c.RetryAt
		}
		switch c.Outcome {
		case refusedToken, refusedQuota, refusedMaintenance, refusedThrottled:
		default:
			continue // says nothing about the next call
		}
		if s.reason != "" && c.Outcome != s.reason {
			break
		}
		if s.reason == "" {
			s.reason, s.last = c.Outcome, c.StartedAt
		}
		s.since = c.StartedAt
		s.times++
	}
	return s
}

// hold says until when nothing may be asked because of what the vendor refused. It is a function of the
// newest calls and now alone, so all processes come to the same.
func (a *Account) hold(log etl.CallLog, forcedAt time.Time) *etl.HeldError {
	s := stateOf(log.Recent, forcedAt)
	// A month that ends is worth a try at each of its last readings, whatever was refused before.
	slot, extra := extraSlot(log.Now, a.cfg.Zone)
	oneTry := extra && s.last.Before(slot)
	var held *etl.HeldError
	switch s.reason {
	case refusedToken:
		return a.held(log.Now.Add(24*time.Hour), etl.ErrUnauthorized,
			"the vendor refused the token on %s: it is not sent again by itself; correct it, or `meterhouse run %s` tries it", stamp(s.last), Dataset)
	case refusedQuota:
		// Our own calls do not get there (see left): somebody else's did, and when those free nobody tells.
		held = a.held(nextMidnight(s.last, a.cfg.Zone), etl.ErrThrottled, "the vendor said on %s that the calls of the day are used up", stamp(s.last))
	case refusedMaintenance, refusedThrottled:
		pause := [...]time.Duration{15 * time.Minute, 30 * time.Minute, time.Hour}[min(s.times, 3)-1]
		class := etl.ErrUnavailable
		if s.reason == refusedThrottled {
			class = etl.ErrThrottled
		}
		held = a.held(s.last.Add(pause), class, "%s, %d times since %s", s.reason, s.times, stamp(s.since))
	}
	if s.free.After(log.Now) && (held == nil || held.Until.Before(s.free)) { // the vendor's own word
		return a.held(s.free, etl.ErrThrottled, "the vendor asked to be left alone until then")
	}
	if held != nil && held.Until.After(log.Now) && !oneTry {
		return held
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04Z") }

func nextMidnight(t time.Time, zone *time.Location) time.Time {
	y, m, d := t.In(zone).Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, zone)
}

// left is how many calls a day's budget still has room for: what the vendor allows, less what others use
// and what the ledger counts in the last 24 hours. known is false when the vendor told no numbers, or
// long ago: then its refusal decides.
func (a *Account) left(log etl.CallLog) (left int64, known bool) {
	q := log.Quota
	if q.ToldAt.IsZero() || q.Limit < 0 || log.Now.Sub(q.ToldAt) > infoCounts {
		return 0, false
	}
	return q.Limit - q.Elsewhere - int64(len(log.Day)), true
}

// freeAt is when that many calls more have left the last 24 hours.
func freeAt(log etl.CallLog, calls int64) time.Time {
	if calls > int64(len(log.Day)) { // others use them, or there never were so many
		return log.Quota.ToldAt.Add(infoEvery)
	}
	return log.Day[max(calls, 1)-1].Add(24 * time.Hour)
}

// isInfoFresh tells that the vendor need not be asked for the quota: it was asked within a day, whatever
// it answered, or it has not answered anything yet.
func (a *Account) isInfoFresh(log etl.CallLog) bool {
	if _, asked := log.Last[tokenInfo]; asked {
		return true
	}
	return len(log.Recent) == 0 || !answers[log.Recent[0].Outcome]
}

// Allowed tells which of the products may be asked for now. When none may, the error is a
// *etl.HeldError with the earliest time. A product that was read within the spacing is left out without
// being an error. With force, for a person who wants it now, what the vendor refused before and the
// budget do not count, neither here nor in the calls that this Account makes later; the spacing and the
// quiet time do. It asks nobody but the ledger.
func (a *Account) Allowed(ctx context.Context, products []string, force bool) (now []string, err error) {
	log := etl.CallLog{Now: a.cfg.RealNow()}
	if a.cfg.Ledger != nil {
		if log, err = a.cfg.Ledger.Log(ctx, a.credential); err != nil {
			return nil, err
		}
	}
	if force {
		at := log.Now
		a.forced.Store(&at)
	}
	if err := a.mayCall(log, ""); err != nil && !errors.Is(err, errTurn) { // its turn comes
		return nil, err
	}
	if held := a.quiet(); held != nil && held.Until.Sub(a.cfg.Now()) > patience {
		return nil, held
	}
	if held := a.hold(log, a.forcedAt()); held != nil && held.Until.Sub(log.Now) > patience {
		return nil, held
	}
	var earliest, newest time.Time
	for _, product := range products {
		at := a.spacedAt(log, product)
		if at.Sub(log.Now) <= patience {
			now = append(now, product)
			continue
		}
		if last := log.Last[product]; last.After(newest) {
			newest = last
		}
		if earliest.IsZero() || at.Before(earliest) {
			earliest = at
		}
	}
	if len(now) == 0 && len(products) > 0 {
		return nil, a.held(earliest, nil, "read %s ago, %s", ago(log.Now.Sub(newest)), a.pace())
	}
	if force {
		return now, nil
	}
	return a.afford(log, now, len(products))
}

// afford is what the budget allows of a reading. In the last two days of a month regular readings leave
// as many calls as the four extra readings of its end take (23:05, 23:25, 23:45 and 00:10, so four times
// the products): the closing reading cannot be had later, any other can be missed.
func (a *Account) afford(log etl.CallLog, products []string, all int) ([]string, error) {
	left, known := a.left(log)
	if !known {
		return products, nil
	}
	need := int64(len(products))
	most := log.Quota.Limit - log.Quota.Elsewhere // however long we wait
	if slot, extra := extraSlot(log.Now, a.cfg.Zone); isMonthEnding(log.Now, a.cfg.Zone) && !(extra && a.anyBefore(log, products, slot)) {
		kept := int64(extraSlots * all)
		left, most = left-kept, most-kept
	}
	switch {
	case left >= need:
		return products, nil
	case most >= need:
		return nil, a.held(freeAt(log, need-left), etl.ErrThrottled,
			"a reading takes %d calls, and of the %d a day that the vendor allows too few are left", need, log.Quota.Limit)
	case left >= 1: // a whole reading will never fit
		return products[:left], nil
	}
	return nil, a.held(freeAt(log, 1-left), etl.ErrThrottled, "the %d calls a day that the vendor allows are too few for a reading of %d", log.Quota.Limit, need)
}

// anyBefore tells that one of the products was not asked for since the slot.
func (a *Account) anyBefore(log etl.CallLog, products []string, slot time.Time) bool {
	for _, product := range products {
		if log.Last[product].Before(slot) {
			return true
		}
	}
	return false
}

// forcedAt is when a person said that what was refused before does not count; zero: nobody did.
func (a *Account) forcedAt() time.Time {
	if at := a.forced.Load(); at != nil {
		return *at
	}
	return time.Time{}
}
