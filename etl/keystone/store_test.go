package keystone

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"meterhouse/etl"
)

// clock is a real clock that only moves when told, or when somebody sleeps.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 5, 15, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func (c *clock) sleep(ctx context.Context, d time.Duration) error {
	c.advance(d)
	return ctx.Err()
}

// memStore is a TokenStore in memory. hook, if set, is called before every method with its name
// and again with "after " and its name once it is done; an error is returned to the caller, so the
// second kind is a commit whose reply was lost.
type memStore struct {
	now  func() time.Time
	hook func(step string) error

	mu          sync.Mutex
	generations map[string][]etl.SealedCredential
	attempts    []etl.CredentialAttempt
}

func newStore(now func() time.Time) *memStore {
	return &memStore{now: now, generations: map[string][]etl.SealedCredential{}}
}

func (s *memStore) do(ctx context.Context, name string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.hook != nil {
		if err := s.hook(name); err != nil {
			return err
		}
	}
	s.mu.Lock()
	err := f()
	s.mu.Unlock()
	if err == nil && s.hook != nil {
		err = s.hook("after " + name)
	}
	return err
}

func (s *memStore) Credential(ctx context.Context, account string) (c etl.SealedCredential, err error) {
	err = s.do(ctx, "Credential", func() error {
		for _, g := range s.generations[account] {
			if g.Generation > c.Generation {
				c = g
			}
		}
		if c.Generation == 0 {
			return etl.ErrNoCredential
		}
		return nil
	})
	return c, err
}

func (s *memStore) SeenFingerprint(ctx context.Context, account, fingerprint string) (seen bool, err error) {
	err = s.do(ctx, "SeenFingerprint", func() error {
		for _, c := range s.generations[account] {
			seen = seen || c.Source == "seed" && c.Fingerprint == fingerprint
		}
		return nil
	})
	return seen, err
}

func live(a etl.CredentialAttempt) bool {
	return a.State == etl.AttemptOpen || a.State == etl.AttemptAmbiguous
}

// probes counts as the contract says.
func (s *memStore) probes(a etl.CredentialAttempt) etl.CredentialAttempt {
	for _, b := range s.attempts {
		if b.Account == a.Account && b.FromGeneration == a.FromGeneration && s.now().Sub(b.StartedAt) < 24*time.Hour {
			a.Probes++
		}
	}
	return a
}

func (s *memStore) OpenAttempt(ctx context.Context, account string) (a etl.CredentialAttempt, found bool, err error) {
	err = s.do(ctx, "OpenAttempt", func() error {
		for _, b := range s.attempts {
			if b.Account == account && live(b) {
				a, found = s.probes(b), true
			}
		}
		return nil
	})
	return a, found, err
}

func (s *memStore) LastAttempt(ctx context.Context, account string) (a etl.CredentialAttempt, found bool, err error) {
	err = s.do(ctx, "LastAttempt", func() error {
		for _, b := range s.attempts {
			if b.Account == account {
				a, found = s.probes(b), true
			}
		}
		return nil
	})
	return a, found, err
}

func (s *memStore) BeginAttempt(ctx context.Context, a etl.CredentialAttempt, supersede int64) (id int64, err error) {
	err = s.do(ctx, "BeginAttempt", func() error {
		for _, b := range s.attempts {
			if b.Account == a.Account && live(b) && b.ID != supersede {
				return etl.ErrAttemptOpen
			}
		}
		if supersede != 0 {
			if !live(s.attempts[supersede-1]) {
				return etl.ErrAttemptOpen
			}
			s.attempts[supersede-1].State = etl.AttemptSuperseded
		}
		a.ID, a.State, a.StartedAt = int64(len(s.attempts)+1), etl.AttemptOpen, s.now()
		a.DeadlineAt = a.StartedAt.Add(time.Minute)
		s.attempts = append(s.attempts, a)
		id = a.ID
		return nil
	})
	return id, err
}

func (s *memStore) EndAttempt(ctx context.Context, id int64, state etl.AttemptState, detail string) error {
	return s.do(ctx, "EndAttempt", func() error {
		if a := &s.attempts[id-1]; live(*a) {
			a.State, a.Detail = state, detail
		}
		return nil
	})
}

func (s *memStore) StoreGeneration(ctx context.Context, c etl.SealedCredential, attemptID int64) error {
	return s.do(ctx, "StoreGeneration", func() error { return s.append(c, attemptID) })
}

func (s *memStore) StoreAccess(ctx context.Context, c etl.SealedCredential, attemptID int64) error {
	return s.do(ctx, "StoreAccess", func() error { return s.append(c, attemptID) })
}

func (s *memStore) append(c etl.SealedCredential, attemptID int64) error {
	all := s.generations[c.Account]
	i := slices.IndexFunc(all, func(g etl.SealedCredential) bool { return g.Generation == c.Generation })
	if i < 0 {
		s.generations[c.Account] = append(all, c)
	} else if all[i].Fingerprint != c.Fingerprint {
		return errors.New("it holds another token already")
	}
	if attemptID != 0 && live(s.attempts[attemptID-1]) {
		s.attempts[attemptID-1].State = etl.AttemptDone
	}
	return nil
}

// states lists the attempts' states in order.
func (s *memStore) states() (all []etl.AttemptState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.attempts {
		all = append(all, a.State)
	}
	return all
}

// copyOf is the store as another process sees it that starts now.
func (s *memStore) restarted() *memStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &memStore{now: s.now, generations: maps.Clone(s.generations), attempts: append([]etl.CredentialAttempt(nil), s.attempts...)}
}
