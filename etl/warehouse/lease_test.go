package warehouse

import (
	"context"
	"errors"
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
		if err := c.StoreGeneration(ctx, seed, 0); err != nil {
			t.Fatal(err)
		}
	}
	other := seed
	other.Fingerprint = "f9"
	if err := c.StoreGeneration(ctx, other, 0); err == nil {
		t.Error("another token under a stored generation: got no error")
	}
	attempt := etl.CredentialAttempt{Account: "acme", FromGeneration: 1, Owner: "test"}
	id, err := c.BeginAttempt(ctx, attempt, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.BeginAttempt(ctx, attempt, 0); !errors.Is(err, etl.ErrAttemptOpen) {
		t.Errorf("second attempt: got %v, want ErrAttemptOpen", err)
	}
	if err := c.EndAttempt(ctx, id, etl.AttemptAmbiguous, "reply lost"); err != nil {
		t.Fatal(err)
	}
	probe, err := c.BeginAttempt(ctx, attempt, id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.BeginAttempt(ctx, attempt, id); !errors.Is(err, etl.ErrAttemptOpen) {
		t.Errorf("taking over twice: got %v, want ErrAttemptOpen", err)
	}
	next := etl.SealedCredential{Account: "acme", Generation: 2, Refresh: []byte("r2"), Access: []byte("a2"), AccessExpiresAt: h.now.Add(time.Hour),
		ObtainedAt: h.now, SeededAt: h.now, Source: "refresh", Fingerprint: "f2", KeyID: "k"}
	if err := c.StoreGeneration(ctx, next, probe); err != nil {
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
	if seen, _ := c.SeenFingerprint(ctx, "acme", "f1"); !seen {
		t.Error("the seed's fingerprint is not remembered")
	}
	if seen, _ := c.SeenFingerprint(ctx, "acme", "f2"); seen {
		t.Error("an exchanged token counts as a seed")
	}
}
