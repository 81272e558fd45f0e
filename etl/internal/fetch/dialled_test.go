package fetch

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// A connection that was made ahead carries one exchange and no second one.
func TestDialled(t *testing.T) {
	for _, secure := range []bool{false, true} {
		var connections, requests atomic.Int32
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			requests.Add(1)
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte("{}"))
		}))
		server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				connections.Add(1)
			}
		}
		cfg := Config{}
		if secure {
			server.StartTLS()
			cfg.CAFile = filepath.Join(t.TempDir(), "ca.pem")
			block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
			if err := os.WriteFile(cfg.CAFile, block, 0o600); err != nil {
				t.Fatal(err)
			}
		} else {
			server.Start()
		}
		defer server.Close()
		target, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		target.Path = "/"
		once, hangUp, err := client(t, cfg).Dialled(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		defer hangUp()
		if n := requests.Load(); n != 0 {
			t.Errorf("%d requests before the first", n)
		}
		call := Call{Method: http.MethodPost, URL: target, Body: []byte("x")}
		res, err := once.Do(t.Context(), call)
		if err != nil || res.Status != http.StatusOK || !res.Sent {
			t.Fatalf("got %+v, %v", res, err)
		}
		res.Body.Close()
		if res, err := once.Do(t.Context(), call); err == nil || !strings.Contains(err.Error(), errDialledOnce.Error()) || res.Sent {
			t.Errorf("a second exchange: got %v, sent %v", err, res.Sent)
		}
		if c, r := connections.Load(), requests.Load(); c != 1 || r != 1 {
			t.Errorf("%d connections and %d requests, want one each", c, r)
		}
	}
}

// What cannot be reached or trusted is known before anything is sent.
func TestDialledFails(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	untrusted, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	gone := &url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	for _, target := range []*url.URL{untrusted, gone} {
		if _, _, err := client(t, Config{}).Dialled(t.Context(), target); err == nil {
			t.Errorf("%s: no error", target)
		}
	}
}
