package keystone

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
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
	timelines   []int // of the attempts
	timeline    int   // of the database now
	seen        []string
	owner       string // the installation
}

func newStore(now func() time.Time) *memStore {
	return &memStore{now: now, generations: map[string][]etl.SealedCredential{}, owner: "installation-1"}
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

func (s *memStore) SeenFingerprint(ctx context.Context, fingerprints ...string) (seen bool, err error) {
	err = s.do(ctx, "SeenFingerprint", func() error {
		for _, all := range s.generations {
			for _, c := range all {
				seen = seen || slices.Contains(fingerprints, c.Fingerprint)
			}
		}
		for _, noted := range s.seen {
			_, f, _ := strings.Cut(noted, " ")
			seen = seen || slices.Contains(fingerprints, f)
		}
		return nil
	})
	return seen, err
}

func (s *memStore) NoteSeen(ctx context.Context, account string, fingerprints ...string) error {
	return s.do(ctx, "NoteSeen", func() error {
		for _, f := range fingerprints {
			s.seen = append(s.seen, account+" "+f)
		}
		return nil
	})
}

func (s *memStore) Seeds(ctx context.Context, account string) (seeds []etl.SealedCredential, err error) {
	err = s.do(ctx, "Seeds", func() error {
		for _, c := range s.generations[account] {
			if c.Source == "seed" {
				seeds = append(seeds, c)
			}
		}
		return nil
	})
	return seeds, err
}

func (s *memStore) Installation(ctx context.Context) (id string, err error) {
	err = s.do(ctx, "Installation", func() error {
		id = s.owner
		return nil
	})
	return id, err
}

// named is the attempt of a key; nil when the store has forgotten it.
func (s *memStore) named(k etl.AttemptKey) *etl.CredentialAttempt {
	if k.ID < 1 || int(k.ID) > len(s.attempts) || s.attempts[k.ID-1].Owner != k.Owner {
		return nil
	}
	return &s.attempts[k.ID-1]
}

func live(a etl.CredentialAttempt) bool {
	return a.State == etl.AttemptOpen || a.State == etl.AttemptAmbiguous
}

// told adds to an attempt what the contract wants to be told with it.
func (s *memStore) told(a etl.CredentialAttempt) etl.CredentialAttempt {
	for _, b := range s.attempts {
		if b.Account == a.Account && b.FromGeneration == a.FromGeneration && b.State != etl.AttemptAbandoned && s.now().Sub(b.StartedAt) < 24*time.Hour {
			a.Probes++
		}
	}
	for i := int(a.ID) - 1; i >= 0 && s.attempts[i].Account == a.Account; i-- {
		if s.timelines[i] != s.timelines[a.ID-1] {
			a.FailedOverAt = s.attempts[i+1].StartedAt
			break
		}
	}
	return a
}

func (s *memStore) OpenAttempt(ctx context.Context, account string) (a etl.CredentialAttempt, found bool, err error) {
	err = s.do(ctx, "OpenAttempt", func() error {
		for _, b := range s.attempts {
			if b.Account == account && live(b) {
				a, found = s.told(b), true
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
				a, found = s.told(b), true
			}
		}
		return nil
	})
	return a, found, err
}

func (s *memStore) BeginAttempt(ctx context.Context, a etl.CredentialAttempt, supersede etl.AttemptKey) (id int64, err error) {
	err = s.do(ctx, "BeginAttempt", func() error {
		for _, b := range s.attempts {
			if b.Account == a.Account && live(b) && b.Key() != supersede {
				return etl.ErrAttemptOpen
			}
		}
		if supersede != (etl.AttemptKey{}) {
			taken := s.named(supersede)
			if taken == nil || !live(*taken) {
				return etl.ErrAttemptOpen
			}
			taken.State = etl.AttemptSuperseded
		}
		a.ID, a.State, a.StartedAt = int64(len(s.attempts)+1), etl.AttemptOpen, s.now()
		a.DeadlineAt = a.StartedAt.Add(time.Minute)
		s.attempts, s.timelines = append(s.attempts, a), append(s.timelines, s.timeline)
		id = a.ID
		return nil
	})
	return id, err
}

func (s *memStore) EndAttempt(ctx context.Context, k etl.AttemptKey, state etl.AttemptState, detail string) error {
	return s.do(ctx, "EndAttempt", func() error {
		if a := s.named(k); a != nil && live(*a) {
			a.State, a.Detail = state, detail
		}
		return nil
	})
}

func (s *memStore) ReturnAttempt(ctx context.Context, k, superseded etl.AttemptKey, detail string) error {
	return s.do(ctx, "ReturnAttempt", func() error {
		if a := s.named(k); a != nil && live(*a) {
			a.State, a.Detail = etl.AttemptAbandoned, detail
			s.named(superseded).State = etl.AttemptAmbiguous
		}
		return nil
	})
}

func (s *memStore) StoreGeneration(ctx context.Context, c etl.SealedCredential, attempt etl.AttemptKey) error {
	return s.do(ctx, "StoreGeneration", func() error { return s.append(c, attempt) })
}

func (s *memStore) StoreAccess(ctx context.Context, c etl.SealedCredential, attempt etl.AttemptKey) error {
	return s.do(ctx, "StoreAccess", func() error { return s.append(c, attempt) })
}

func (s *memStore) append(c etl.SealedCredential, attempt etl.AttemptKey) error {
	all := s.generations[c.Account]
	i := slices.IndexFunc(all, func(g etl.SealedCredential) bool { return g.Generation == c.Generation })
	if i < 0 {
		s.generations[c.Account] = append(all, c)
	} else if all[i].Fingerprint != c.Fingerprint {
		return errors.New("it holds another token already")
	}
	if a := s.named(attempt); a != nil && live(*a) {
		a.State = etl.AttemptDone
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

// restarted is the store as another process sees it that starts now. What is done to one is not
// done to the other, so it also serves as a backup.
func (s *memStore) restarted() *memStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	generations := maps.Clone(s.generations)
	for account, all := range generations {
		generations[account] = slices.Clip(all) // so that neither appends into the other's
	}
	return &memStore{
		now: s.now, generations: generations, attempts: slices.Clone(s.attempts), timelines: slices.Clone(s.timelines),
		timeline: s.timeline, seen: slices.Clone(s.seen), owner: s.owner,
	}
}

// become is a failover, or a restore: whoever uses the store finds what the other one holds.
func (s *memStore) become(other *memStore) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generations, s.attempts, s.timelines, s.timeline = other.generations, other.attempts, other.timelines, other.timeline
}
