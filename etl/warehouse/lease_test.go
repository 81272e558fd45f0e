package warehouse

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/warehouse/warehousetest"
)

func TestLease(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	first, err := h.Lease(ctx, "keystone.history", "C-1")
	if err != nil {
		t.Fatal(err)
	}
	run, err := h.StartRun(ctx, first, etl.Job{Source: "keystone", Dataset: "keystone.history", Scope: "C-1", Account: "acme"}, oneDay, h.now)
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Lease(ctx, "keystone.history", "C-1")
	var busy *etl.BusyError
	if !errors.As(err, &busy) || busy.Owner != "test" || time.Until(busy.FreesAt) > leaseFor {
		t.Fatalf("second lease: got %v, want a BusyError that names the owner", err)
	}
	if _, err := h.Lease(ctx, "keystone.history", "C-2"); err != nil {
		t.Fatalf("another scope: %v", err)
	}

	// The owner dies (its lease runs out); the next one closes its run, and the dead one that wakes up writes nothing.
	h.exec(`update ops.lease set expires_at = now() - interval '1 second' where scope = 'C-1'`)
	second, err := h.Lease(ctx, "keystone.history", "C-1")
	if err != nil {
		t.Fatal(err)
	}
	h.want(`select status, error from ops.run`, "failed|its process died or lost the lease before the load")
	ans := &etl.Answer{Request: etl.Request{Dataset: "keystone.history", Scope: "C-1", Window: oneDay}, FetchedAt: h.now, RequestedAt: h.now, Body: memory("x")}
	_, err = run.Load(ctx, []*etl.Answer{ans}, nil, func(_ *etl.Answer, sink etl.Sink) (etl.Report, error) {
		return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}},
			sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(sample(may14, "1"))}})
	})
	if !errors.Is(err, etl.ErrFenced) {
		t.Fatalf("load under an old fence: got %v, want ErrFenced", err)
	}
	h.want(`select count(*) from dw.fact_daily_consumption`, "0")
	for range 2 {
		if err := second.Release(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Lease(ctx, "keystone.history", "C-1"); err != nil {
		t.Fatalf("after release: %v", err)
	}
}

// A row that somebody holds tells the past: a load that outlasts its lease, or a successor that is just taking it.
func TestBusyNeverFreesInThePast(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	former, err := h.Lease(ctx, "keystone.history", "C-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := former.Release(ctx); err != nil {
		t.Fatal(err)
	}
	tx, err := h.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if _, err := tx.Exec(ctx, `select 1 from ops.lease where scope = 'C-1' for update`); err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	_, err = h.Lease(ctx, "keystone.history", "C-1")
	var busy *etl.BusyError
	if !errors.As(err, &busy) || busy.FreesAt.Before(asked) || busy.Owner != "test or its successor" {
		t.Errorf("the row is held: got %v, want a BusyError that frees later, of the owner or its successor", err)
	}
}

func TestOpenRefusesWhatItCannotWorkWith(t *testing.T) {
	empty := warehousetest.Empty(t)
	wrong, _ := url.Parse(empty)
	wrong.User = url.UserPassword("meterhouse", "not the password")
	missing, _ := url.Parse(empty)
	missing.Path = "/no_such_database"
	unreachable, _ := url.Parse(empty)
	unreachable.Host = "127.0.0.1:1"
	ahead := newHouse(t)
	ahead.exec(`insert into public.meterhouse_schema_version (version_id, is_applied) values (99999, true)`)
	for name, c := range map[string]struct{ url, want string }{
		"no schema":      {empty, "schema is at version 0, this binary wants"},
		"newer schema":   {ahead.url, "use the newer binary"},
		"wrong password": {wrong.String(), "check user and password"},
		"no database":    {missing.String(), "create the database first"},
		"nobody there":   {unreachable.String(), "that the server is up"},
		"not a url":      {"postgres://%zz", "database url"},
	} {
		_, err := Open(t.Context(), Config{URL: c.url})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "not the password") {
			t.Errorf("%s: the error shows a password: %v", name, err)
		}
	}
}

func TestCredentials(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	c := h.Credentials()
	if _, err := c.Credential(ctx, "acme"); !errors.Is(err, etl.ErrNoCredential) {
		t.Fatalf("nothing stored: got %v", err)
	}
	seed := etl.SealedCredential{Account: "acme", Generation: 1, Refresh: []byte("r1"), ObtainedAt: h.now, SeededAt: h.now, Source: "seed", Fingerprint: "f1", KeyID: "k"}
	for range 2 {
		if err := c.StoreGeneration(ctx, seed, etl.AttemptKey{}); err != nil {
			t.Fatal(err)
		}
	}
	other := seed
	other.Fingerprint = "f9"
	if err := c.StoreGeneration(ctx, other, etl.AttemptKey{}); err == nil {
		t.Error("another token under a stored generation: got no error")
	}
	attempt := etl.CredentialAttempt{Account: "acme", FromGeneration: 1, Owner: "test"}
	id, err := c.BeginAttempt(ctx, attempt, etl.AttemptKey{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.BeginAttempt(ctx, attempt, etl.AttemptKey{}); !errors.Is(err, etl.ErrAttemptOpen) {
		t.Errorf("second attempt: got %v, want ErrAttemptOpen", err)
	}
	if err := c.EndAttempt(ctx, etl.AttemptKey{ID: id, Owner: "test"}, etl.AttemptAmbiguous, "reply lost"); err != nil {
		t.Fatal(err)
	}
	probe, err := c.BeginAttempt(ctx, attempt, etl.AttemptKey{ID: id, Owner: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.BeginAttempt(ctx, attempt, etl.AttemptKey{ID: id, Owner: "test"}); !errors.Is(err, etl.ErrAttemptOpen) {
		t.Errorf("taking over twice: got %v, want ErrAttemptOpen", err)
	}
	next := etl.SealedCredential{Account: "acme", Generation: 2, Refresh: []byte("r2"), Access: []byte("a2"), AccessExpiresAt: h.now.Add(time.Hour),
		ObtainedAt: h.now, SeededAt: h.now, Source: "refresh", Fingerprint: "f2", KeyID: "k"}
	if err := c.StoreGeneration(ctx, next, etl.AttemptKey{ID: probe, Owner: "test"}); err != nil {
		t.Fatal(err)
	}
	got, err := c.Credential(ctx, "acme")
	if err != nil || got.Generation != 2 || string(got.Access) != "a2" || !got.AccessExpiresAt.Equal(next.AccessExpiresAt) {
		t.Errorf("newest: got %+v, %v", got, err)
	}
	if _, open, _ := c.OpenAttempt(ctx, "acme"); open {
		t.Error("an attempt is open after the pair was stored")
	}
	last, _, _ := c.LastAttempt(ctx, "acme")
	if last.State != etl.AttemptDone || last.Probes != 2 {
		t.Errorf("last attempt: got %+v", last)
	}
	if seen, _ := c.SeenFingerprint(ctx, "f1"); !seen {
		t.Error("the seed's fingerprint is not remembered")
	}
	if seen, _ := c.SeenFingerprint(ctx, "f2"); !seen {
		t.Error("an exchanged token is not remembered")
	}
}

func TestCredentialsOfTwoKeys(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	c := h.Credentials()
	for i, source := range []string{"seed", "refresh", "rekey", "seed"} {
		err := c.StoreGeneration(ctx, etl.SealedCredential{
			Account: "acme", Generation: int64(i + 1), Refresh: []byte{byte(i)}, ObtainedAt: h.now, SeededAt: h.now, Source: source,
			Fingerprint: fmt.Sprint("f", i+1), KeyID: "k",
		}, etl.AttemptKey{})
		if err != nil {
			t.Fatal(err)
		}
	}
	seeds, err := c.Seeds(ctx, "acme")
	if err != nil || len(seeds) != 2 || seeds[0].Generation != 1 || seeds[1].Fingerprint != "f4" || seeds[1].KeyID != "k" || seeds[1].Refresh[0] != 3 {
		t.Errorf("seeds: got %+v, %v", seeds, err)
	}
	for range 2 {
		if err := c.NoteSeen(ctx, "acme", "g1", "g2"); err != nil {
			t.Fatal(err)
		}
	}
	for fingerprint, want := range map[string]bool{"g2": true, "f4": true, "f3": true, "g3": false} {
		if seen, err := c.SeenFingerprint(ctx, "none", fingerprint); err != nil || seen != want {
			t.Errorf("%s: seen %v, %v", fingerprint, seen, err)
		}
	}
	first, err := c.Installation(ctx)
	again, _ := c.Installation(ctx)
	if err != nil || len(first) != 36 || again != first {
		t.Errorf("installation %q, then %q, %v", first, again, err)
	}
}

// An attempt that took over gives back, and only once.
func TestAttemptIsGivenBack(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	c := h.Credentials()
	if err := c.StoreGeneration(ctx, etl.SealedCredential{
		Account: "acme", Generation: 1, Refresh: []byte("r"), ObtainedAt: h.now, SeededAt: h.now, Source: "seed", Fingerprint: "f", KeyID: "k",
	}, etl.AttemptKey{}); err != nil {
		t.Fatal(err)
	}
	owners := 0
	begin := func(supersede etl.AttemptKey) etl.AttemptKey {
		t.Helper()
		owners++
		a := etl.CredentialAttempt{Account: "acme", FromGeneration: 1, Owner: fmt.Sprint("test/", owners), Spool: "a/1 b/2"}
		id, err := c.BeginAttempt(ctx, a, supersede)
		if err != nil {
			t.Fatal(err)
		}
		return etl.AttemptKey{ID: id, Owner: a.Owner}
	}
	first := begin(etl.AttemptKey{})
	second := begin(first)
	for range 2 {
		if err := c.ReturnAttempt(ctx, second, first, "not sent"); err != nil {
			t.Fatal(err)
		}
		open, found, err := c.OpenAttempt(ctx, "acme")
		if err != nil || !found || open.Key() != first || open.State != etl.AttemptAmbiguous || open.Probes != 1 || open.Spool != "a/1 b/2" {
			t.Errorf("got %+v, %v, %v", open, found, err)
		}
	}
	third := begin(first)
	if err := c.ReturnAttempt(ctx, second, first, "late"); err != nil { // by somebody who slept
		t.Fatal(err)
	}
	// Nor does anybody else end it who had an attempt of that number in a history that was forgotten.
	stranger := etl.AttemptKey{ID: third.ID, Owner: "test/0"}
	next := etl.SealedCredential{Account: "acme", Generation: 2, Refresh: []byte("r"), ObtainedAt: h.now, SeededAt: h.now, Source: "refresh", Fingerprint: "g", KeyID: "k"}
	if err := errors.Join(c.EndAttempt(ctx, stranger, etl.AttemptRejected, ""), c.StoreGeneration(ctx, next, stranger), c.ReturnAttempt(ctx, stranger, first, "")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.BeginAttempt(ctx, etl.CredentialAttempt{Account: "acme", FromGeneration: 1}, stranger); !errors.Is(err, etl.ErrAttemptOpen) {
		t.Errorf("got %v, want ErrAttemptOpen", err)
	}
	if open, _, _ := c.OpenAttempt(ctx, "acme"); open.Key() != third || open.State != etl.AttemptOpen {
		t.Errorf("attempt %+v is open, want %+v", open, third)
	}
}

// An attempt says when the account first met the history of the database that it is recorded in.
func TestFailoverIsNoticed(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	c := h.Credentials()
	if err := c.StoreGeneration(ctx, etl.SealedCredential{
		Account: "acme", Generation: 1, Refresh: []byte("r"), ObtainedAt: h.now, SeededAt: h.now, Source: "seed", Fingerprint: "f", KeyID: "k",
	}, etl.AttemptKey{}); err != nil {
		t.Fatal(err)
	}
	attempt := func() (a etl.CredentialAttempt) {
		t.Helper()
		id, err := c.BeginAttempt(ctx, etl.CredentialAttempt{Account: "acme", FromGeneration: 1, Owner: "test"}, etl.AttemptKey{})
		if err != nil {
			t.Fatal(err)
		}
		a, _, err = c.OpenAttempt(ctx, "acme")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.EndAttempt(ctx, etl.AttemptKey{ID: id, Owner: "test"}, etl.AttemptAbandoned, ""); err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := attempt(); !a.FailedOverAt.IsZero() {
		t.Errorf("the first one: got %s", a.FailedOverAt)
	}
	if a := attempt(); !a.FailedOverAt.IsZero() {
		t.Errorf("the same history: got %s", a.FailedOverAt)
	}
	if _, err := h.pool.Exec(ctx, `update ops.credential_attempt set timeline = 'another server/00000001'`); err != nil {
		t.Fatal(err)
	}
	first := attempt()
	if !first.FailedOverAt.Equal(first.StartedAt) {
		t.Errorf("another history: got %s, want %s", first.FailedOverAt, first.StartedAt)
	}
	if second := attempt(); !second.FailedOverAt.Equal(first.StartedAt) {
		t.Errorf("and once more: got %s, want %s", second.FailedOverAt, first.StartedAt)
	}
	var known bool
	if err := h.pool.QueryRow(ctx, `select bool_and(timeline ~ '^[0-9]+/[0-9A-F]{8}$') from ops.credential_attempt where attempt_id > 2`).Scan(&known); err != nil || !known {
		t.Errorf("the server does not tell its timeline: %v", err)
	}
}
