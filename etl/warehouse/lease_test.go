package warehouse

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
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

// TestLostCommitReply cuts the connection at the COMMIT, before or after the server gets it. The
// driver may report either as safe to repeat; the run's row tells the truth.
func TestLostCommitReply(t *testing.T) {
	for _, forward := range []bool{false, true} {
		h := newHouse(t)
		proxy := cutAtCommit(t, h.url, forward)
		w, err := Open(t.Context(), Config{URL: proxy.url, Owner: "test", Now: func() time.Time { return h.now }, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		behind := &house{Warehouse: w, t: t, url: h.url, now: h.now}
		lease, err := w.Lease(t.Context(), "keystone.history", "C-1")
		if err != nil {
			t.Fatal(err)
		}
		run, err := w.StartRun(t.Context(), lease, etl.Job{Source: "keystone", Dataset: "keystone.history", Scope: "C-1", Account: "acme", Expected: day("2026-05-14")}, oneDay, h.now)
		if err != nil {
			t.Fatal(err)
		}
		ans := &etl.Answer{Request: etl.Request{Dataset: "keystone.history", Scope: "C-1", Window: oneDay}, FetchedAt: h.now, RequestedAt: h.now, Body: memory("x")}
		proxy.armed.Store(true)
		_, err = run.Load(t.Context(), []*etl.Answer{ans}, nil, func(_ *etl.Answer, sink etl.Sink) (etl.Report, error) {
			return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}},
				sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(sample(may14, "1"))}})
		})
		if forward {
			if err != nil {
				t.Errorf("commit happened, reply lost: got %v, want success", err)
			}
			behind.want(`select count(*) from dw.fact_consumption_sample`, "1")
			behind.want(`select status, inserted from ops.run`, "ok|1")
		} else {
			if err == nil || !strings.Contains(err.Error(), "commit did not happen") {
				t.Errorf("commit never arrived: got %v", err)
			}
			behind.want(`select count(*) from dw.fact_consumption_sample`, "0")
			behind.want(`select status from ops.run`, "failed")
		}
		lease.Release(t.Context())
	}
}

type cutter struct {
	url   string
	armed atomic.Bool
}

// cutAtCommit is a proxy to Postgres that, once armed, closes the connection of the next outermost
// COMMIT: after passing it on, or before.
func cutAtCommit(t *testing.T, target string, forward bool) *cutter {
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	backend := u.Host
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	u.Host = listener.Addr().String()
	u.RawQuery = "sslmode=disable"
	c := &cutter{url: u.String()}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", backend)
			if err != nil {
				client.Close()
				return
			}
			go func() { io.Copy(client, server); client.Close() }()
			go func() {
				defer client.Close()
				defer server.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := client.Read(buf)
					if err != nil {
						return
					}
					if bytes.Contains(buf[:n], []byte("commit\x00")) && c.armed.CompareAndSwap(true, false) {
						if forward {
							client.Close()
							server.Write(buf[:n])
							io.Copy(io.Discard, server) // let the server finish
						}
						return
					}
					if _, err := server.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return c
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
