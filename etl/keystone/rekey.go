package keystone

import (
	"context"
	"errors"
	"slices"

	"meterhouse/etl"
)

// Rekeyed is what was sealed anew.
type Rekeyed struct {
	Account    string
	Generation int64 // the new generation that holds the same tokens; 0: none was needed
	Logins     int   // tokens of earlier logins that are known as used under the new key too
	Answers    int   // files of the spool
	// FormerKey says that something still needs the former key, and Detail why.
	FormerKey bool
	Detail    string
}

// Rekey seals with the secrets key what is still sealed with the former one: the newest generation,
// as a further one with the same tokens; the answers in the spool; and the fingerprints of logins. It
// asks the vendor nothing. It is safe to repeat, to be killed anywhere, and to be called while other
// processes work, as long as these have both keys.
func (a *Account) Rekey(ctx context.Context) (Rekeyed, error) {
	r, err := a.tokens.rekey(ctx)
	return r, a.named(err)
}

func (c *custodian) rekey(ctx context.Context) (r Rekeyed, err error) {
	r.Account = c.account
	if err := c.lock(ctx); err != nil {
		return r, err
	}
	defer c.unlock()
	if _, err := c.storePending(ctx, 0); err != nil {
		return r, err
	}
	if r.Logins, err = c.noteLogins(ctx); err != nil {
		return r, err
	}
	for again := true; again; {
		if r.Generation, r.Detail, again, err = c.sealAnew(ctx); err != nil {
			return r, err
		}
	}
	if c.spool != nil {
		if _, err := c.openSpool(ctx); err != nil {
			return r, err
		}
		if r.Answers, err = c.spool.rekey(); err != nil {
			return r, err
		}
	}
	r.FormerKey, err = c.needsFormer(ctx)
	return r, err
}

// sealAnew appends the newest generation under the present key. The attempt that it makes for that
// sends nothing; it is the lock that no exchange may be under way beside. again says that another
// process moved the chain meanwhile.
func (c *custodian) sealAnew(ctx context.Context) (generation int64, detail string, again bool, err error) {
	cred, err := c.settled(ctx)
	if err != nil || cred.Generation == 0 || cred.KeyID == c.keys.keyID {
		return 0, "", false, err
	}
	open, unclear, err := c.store.OpenAttempt(ctx, c.account)
	if err != nil {
		return 0, "", false, c.storeError("read the open exchange", err)
	}
	o := order{giveUp: c.abandon}
	if unclear {
		if open.FromGeneration >= cred.Generation {
			// A further generation would make it look settled.
			return 0, "the answer to an exchange was lost: repeat this when the chain is ok or dead", false, nil
		}
		o.supersede = open.Key()
	}
	last, _, err := c.store.LastAttempt(ctx, c.account)
	if err != nil {
		return 0, "", false, c.storeError("read the last exchange", err)
	}
	if refused(last, cred) {
		return 0, "the chain is dead, nothing of it is needed", false, nil // a further generation would revive it
	}
	refresh, err := c.open(cred, cred.Refresh, fieldRefresh)
	if err != nil {
		return 0, "", false, err
	}
	next := cred
	next.Generation++
	next.KeyID, next.Fingerprint = c.keys.keyID, c.keys.fingerprint(refresh)
	next.Refresh = c.keys.seal(refresh, c.account, next.Generation, fieldRefresh)
	if cred.Source != "seed" { // one that was never exchanged stays a seed
		next.Source = "rekey"
	}
	if cred.Access != nil {
		access, err := c.open(cred, cred.Access, fieldAccess)
		if err != nil {
			return 0, "", false, err
		}
		next.Access = c.keys.seal(access, c.account, next.Generation, fieldAccess)
	}
	i, err := c.intend(ctx, cred, etl.CredentialAttempt{Detail: "sealed anew, nothing is sent"}, o)
	if err != nil || i == nil {
		return 0, "", i == nil, err
	}
	// Nothing was sent, so nothing is lost when this fails: the attempt expires.
	if i.late() {
		return 0, "", true, c.abandon(context.WithoutCancel(ctx), i.key, "too late")
	}
	if err := c.store.StoreGeneration(ctx, next, i.key); err != nil {
		return 0, "", false, errors.Join(c.storeError("store the tokens sealed anew", err), c.abandon(context.WithoutCancel(ctx), i.key, "not stored"))
	}
	return next.Generation, "", false, nil
}

// noteLogins makes tokens of logins that were sealed with the former key known as used under the
// present one, so that they are never sent again once the former key is gone.
func (c *custodian) noteLogins(ctx context.Context) (int, error) {
	unknown, err := c.unknownLogins(ctx)
	if err != nil || len(unknown) == 0 {
		return 0, err
	}
	return len(unknown), c.storeError("note former logins", c.store.NoteSeen(ctx, c.account, unknown...))
}

// unknownLogins are the fingerprints under the present key of logins that are known only under the
// former one.
func (c *custodian) unknownLogins(ctx context.Context) (unknown []string, err error) {
	if c.keys.former == nil {
		return nil, nil
	}
	seeds, err := c.store.Seeds(ctx, c.account)
	if err != nil {
		return nil, c.storeError("read former logins", err)
	}
	for _, s := range seeds {
		t, err := c.keys.open(s.Refresh, c.account, s.Generation, fieldRefresh, s.KeyID)
		if s.KeyID != c.keys.former.keyID || err != nil {
			continue
		}
		fingerprint := c.keys.fingerprint(t)
		seen, err := c.store.SeenFingerprint(ctx, fingerprint)
		if err != nil {
			return nil, c.storeError("look for a former login", err)
		}
		if !seen && !slices.Contains(unknown, fingerprint) {
			unknown = append(unknown, fingerprint)
		}
	}
	return unknown, nil
}

// needsFormer tells whether something that is still needed opens only with the former key.
func (c *custodian) needsFormer(ctx context.Context) (bool, error) {
	if c.keys.former == nil {
		return false, nil
	}
	cred, found, err := c.newest(ctx)
	if err != nil {
		return false, err
	}
	if found && cred.KeyID == c.keys.former.keyID {
		isDead, _, err := c.dead(ctx, cred)
		if err != nil || !isDead {
			return err == nil, err
		}
	}
	unknown, err := c.unknownLogins(ctx)
	if err != nil || len(unknown) > 0 {
		return err == nil, err
	}
	if c.spool == nil {
		return false, nil
	}
	answers, _, err := c.spool.answers(0)
	return slices.ContainsFunc(answers, func(a spooled) bool { return a.former }), err
}
