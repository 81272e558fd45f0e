package fetch

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"

	"meterhouse/etl"
)

const sample = `{"results":{"returned_records":0,"records":[]}}`

// secret stands for a token; no error may contain it.
const secret = "canary-4f1c29d0"

func client(t *testing.T, cfg Config) *Client {
	t.Helper()
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.transport.CloseIdleConnections)
	return c
}

func call(t *testing.T, base string) Call {
	t.Helper()
	u, err := CheckBaseURL(base)
	if err != nil {
		t.Fatal(err)
	}
	return Call{Method: http.MethodGet, URL: u.JoinPath("v1", "things"), Header: http.Header{"authorizationToken": {secret}}}
}

func content(t *testing.T, b etl.Body) string {
	t.Helper()
	r, err := b.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func gzipped(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(plain)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// raw answers every connection with the bytes, after reading a request's head, and then does more.
func raw(t *testing.T, answer string, more func(net.Conn)) (base string, calls *atomic.Int32) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	calls = new(atomic.Int32)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 4096)
				conn.Read(buf)
				calls.Add(1)
				io.WriteString(conn, answer)
				if more != nil {
					more(conn)
				}
			}()
		}
	}()
	return "http://" + listener.Addr().String(), calls
}

func silence(conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	io.Copy(io.Discard, conn)
}

func handler(f http.HandlerFunc) func(t *testing.T) (string, *atomic.Int32) {
	return func(t *testing.T) (string, *atomic.Int32) {
		calls := new(atomic.Int32)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			f(w, r)
		}))
		t.Cleanup(server.Close)
		return server.URL, calls
	}
}

func rawServer(answer string, more func(net.Conn)) func(t *testing.T) (string, *atomic.Int32) {
	return func(t *testing.T) (string, *atomic.Int32) { return raw(t, answer, more) }
}

func sends(body []byte, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Write(body)
	}
}

func TestExchanges(t *testing.T) {
	broken := gzipped(t, []byte(sample))
	broken[len(broken)-5] ^= 0xff
	bomb := gzipped(t, make([]byte, 64<<20))
	twice := gzipped(t, gzipped(t, []byte(sample)))
	for _, c := range []struct {
		name     string
		server   func(t *testing.T) (string, *atomic.Int32)
		cfg      Config
		reason   string
		class    error
		status   int
		warnings string
		body     string // "": not looked at
		attempts int32  // seen by the server under Retry
	}{
		{name: "plain", server: handler(sends([]byte(sample))), status: 200, body: sample, attempts: 1},
		{name: "gzip", server: handler(sends(gzipped(t, []byte(sample)), "Content-Encoding", "gzip")), status: 200, body: sample, attempts: 1},
		{name: "H01 html type", server: handler(sends([]byte(sample), "Content-Type", "text/html")),
			status: 200, warnings: "content_type_unexpected", body: sample, attempts: 1},
		{name: "problem json", server: handler(sends([]byte(sample), "Content-Type", "application/problem+json; charset=utf-8")),
			status: 200, body: sample, attempts: 1},
		{name: "H02 shorter than announced", server: rawServer("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"+sample, nil),
			status: 200, reason: "body_truncated", class: etl.ErrUnavailable, attempts: 4},
		{name: "H03 chunks without the last", server: rawServer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", nil),
			status: 200, reason: "body_truncated", class: etl.ErrUnavailable, attempts: 4},
		{name: "H04 close-delimited", server: rawServer("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"+sample[:20], nil),
			status: 200, body: sample[:20], attempts: 1}, // only a parser can notice
		{name: "H05 bomb", server: handler(sends(bomb, "Content-Encoding", "gzip")),
			status: 200, reason: "body_too_large", class: etl.ErrContract, attempts: 1},
		{name: "H06 checksum", server: handler(sends(broken, "Content-Encoding", "gzip")),
			status: 200, reason: "body_truncated", class: etl.ErrUnavailable, attempts: 4},
		{name: "gzip cut", server: handler(sends(broken[:20], "Content-Encoding", "gzip")),
			status: 200, reason: "body_truncated", class: etl.ErrUnavailable, attempts: 4},
		{name: "H07 gzip inside gzip", server: handler(sends(twice, "Content-Encoding", "gzip")),
			status: 200, body: string(gzipped(t, []byte(sample))), attempts: 1}, // json_invalid_utf8 for the parser
		{name: "two encodings", server: handler(sends(twice, "Content-Encoding", "gzip, gzip")),
			status: 200, reason: "encoding_unsupported", class: etl.ErrContract, attempts: 1},
		{name: "H08 br", server: handler(sends([]byte("x"), "Content-Encoding", "br")),
			status: 200, reason: "encoding_unsupported", class: etl.ErrContract, attempts: 1},
		{name: "no gzip at all", server: handler(sends([]byte(sample), "Content-Encoding", "gzip")),
			status: 200, reason: "encoding_unsupported", class: etl.ErrContract, attempts: 1},
		{name: "H09 endless blanks", server: handler(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
					return
				}
			}
		}), cfg: Config{MaxBody: 8 << 20}, status: 200, reason: "body_too_large", class: etl.ErrContract, attempts: 1},
		{name: "exactly full", server: handler(sends([]byte(sample))), cfg: Config{MaxBody: int64(len(sample))}, status: 200, body: sample, attempts: 1},
		{name: "one too many", server: handler(sends([]byte(sample))), cfg: Config{MaxBody: int64(len(sample)) - 1},
			status: 200, reason: "body_too_large", class: etl.ErrContract, attempts: 1},
		{name: "H10 slow body", server: handler(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				io.WriteString(w, " ")
				w.(http.Flusher).Flush()
				time.Sleep(20 * time.Millisecond)
			}
		}), cfg: Config{Timeout: 150 * time.Millisecond}, status: 200, reason: "timeout", class: etl.ErrTimeout, attempts: 4},
		{name: "V07 silence", server: rawServer("", silence), cfg: Config{Timeout: 150 * time.Millisecond},
			reason: "timeout", class: etl.ErrTimeout, attempts: 4},
		{name: "H11 headers that stop", server: rawServer("HTTP/1.1 200 OK\r\nX-Long: "+strings.Repeat("x", 64<<10), silence),
			cfg: Config{Timeout: 300 * time.Millisecond}, reason: "timeout", class: etl.ErrTimeout, attempts: 4},
		{name: "headers that never stop", server: rawServer("HTTP/1.1 200 OK\r\nX-Long: "+strings.Repeat("x", 1<<20), silence),
			reason: "body_too_large", class: etl.ErrContract, attempts: 1},
		{name: "H12 204", server: handler(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }),
			status: 204, reason: "http_status", class: etl.ErrContract, attempts: 1},
		{name: "H13 206", server: handler(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(206); io.WriteString(w, sample) }),
			status: 206, reason: "http_status", class: etl.ErrContract, attempts: 1},
		{name: "401", server: handler(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401); io.WriteString(w, sample) }),
			status: 401, reason: "unauthorized", class: etl.ErrUnauthorized, body: sample, attempts: 1},
		{name: "404", server: handler(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }),
			status: 404, reason: "http_status", class: etl.ErrContract, attempts: 1},
		{name: "502", server: handler(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502); io.WriteString(w, "<html>") }),
			status: 502, reason: "transient", class: etl.ErrUnavailable, body: "<html>", attempts: 4},
		{name: "503 cut", server: rawServer("HTTP/1.1 503 Busy\r\nContent-Length: 5000\r\n\r\nlater", nil),
			status: 503, reason: "transient", class: etl.ErrUnavailable, body: "later", attempts: 4},
		{name: "503 that says gzip and is none", server: rawServer("HTTP/1.1 503 Busy\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nlater", nil),
			status: 503, reason: "transient", class: etl.ErrUnavailable, body: "later", attempts: 4},
		{name: "401 that says gzip and is none", server: rawServer("HTTP/1.1 401 No\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nlater", nil),
			status: 401, reason: "unauthorized", class: etl.ErrUnauthorized, body: "later", attempts: 1},
		{name: "503 cut in the head of gzip", server: rawServer("HTTP/1.1 503 Busy\r\nContent-Encoding: gzip\r\nContent-Length: 500\r\n\r\n\x1f\x8b\x08", nil),
			status: 503, reason: "transient", class: etl.ErrUnavailable, attempts: 4},
		{name: "504", server: handler(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(504) }),
			status: 504, reason: "timeout", class: etl.ErrTimeout, attempts: 4},
		{name: "H23 long wait", server: handler(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "999999999")
			w.WriteHeader(429)
		}), status: 429, reason: "throttled", class: etl.ErrThrottled, attempts: 1},
		{name: "503 long wait", server: handler(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(503)
		}), status: 503, reason: "transient", class: etl.ErrUnavailable, attempts: 1},
		{name: "429 garbage", server: handler(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "9e9")
			w.WriteHeader(429)
		}), status: 429, reason: "throttled", class: etl.ErrThrottled, attempts: 4},
		{name: "connection closed", server: rawServer("", nil), reason: "transient", class: etl.ErrUnavailable, attempts: 4},
		{name: "not HTTP", server: rawServer("SSH-2.0-OpenSSH\r\n", nil), reason: "transient", class: etl.ErrUnavailable, attempts: 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			base, calls := c.server(t)
			c.cfg.SpoolDir = t.TempDir()
			cl := client(t, c.cfg)
			res, err := cl.Do(t.Context(), call(t, base))
			if res == nil || !res.Sent {
				t.Fatalf("result %+v", res)
			}
			if err == nil {
				err = Status(res)
			}
			var reject *etl.RejectError
			switch {
			case c.reason == "" && err != nil:
				t.Fatal(err)
			case c.reason == "":
			case !errors.As(err, &reject) || reject.Reason != c.reason || !errors.Is(err, c.class):
				t.Fatalf("got %v, want %s of class %v", err, c.reason, c.class)
			case len(err.Error()) > 400 || strings.Contains(err.Error(), secret):
				t.Errorf("error %q", err)
			}
			if res.Status != c.status {
				t.Errorf("status %d, want %d", res.Status, c.status)
			}
			if got := fmt.Sprint(res.Warnings); (c.warnings != "") != strings.Contains(got, "content_type") && c.status == 200 && c.reason == "" {
				t.Errorf("warnings %s, want %q", got, c.warnings)
			}
			if c.body != "" && content(t, res.Body) != c.body {
				t.Errorf("body %q, want %q", content(t, res.Body), c.body)
			}
			if res.Body != nil {
				res.Body.Close()
			}
			if left, _ := os.ReadDir(c.cfg.SpoolDir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}

			calls.Store(0)
			noSleep := func(context.Context, time.Duration) error { return nil }
			err = Retry(t.Context(), Policy{}, noSleep, func() error {
				res, err := cl.Do(t.Context(), call(t, base))
				if res.Body != nil {
					defer res.Body.Close()
				}
				if err == nil {
					err = Status(res)
				}
				return err
			})
			if (err != nil) != (c.reason != "") || calls.Load() != c.attempts {
				t.Errorf("%d calls, want %d: %v", calls.Load(), c.attempts, err)
			}
		})
	}
}

// A header may hold any byte but control characters. It is stored beside the body, in a column of text.
func TestContentTypeIsText(t *testing.T) {
	for _, said := range []string{"application/json; p=\"p\xe1gina\"", "application/json\xff"} {
		base, _ := raw(t, "HTTP/1.1 200 OK\r\nContent-Type: "+said+"\r\nContent-Length: 2\r\n\r\n{}", nil)
		res, err := client(t, Config{}).Do(t.Context(), call(t, base))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if want := strings.ToValidUTF8(said, "\ufffd"); res.ContentType != want {
			t.Errorf("%q: got %q, want %q", said, res.ContentType, want)
		}
	}
}

// What is no HTTP is quoted in the error, but neither at length nor with the secret that it may repeat.
func TestErrorsOfTheWireAreDiscreet(t *testing.T) {
	for name, answer := range map[string]string{
		"a line of headers": "HTTP/1.1 200 OK\r\nbad header " + secret + "\r\n\r\n",
		"the status line":   secret + " is no HTTP\r\n\r\n",
		"a long line":       "HTTP/1.1 200 OK\r\n" + strings.Repeat("x", 4000) + "\r\n\r\n",
	} {
		base, _ := raw(t, answer, nil)
		discreet := call(t, base)
		discreet.Secret = secret
		_, err := client(t, Config{}).Do(t.Context(), discreet)
		if err == nil || strings.Contains(err.Error(), secret) || len(err.Error()) > 400 {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// H14: credentials stay at home.
func TestRedirectsAreRefused(t *testing.T) {
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 304, 307, 308} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", other.URL)
				w.WriteHeader(status)
			}))
			do := call(t, server.URL)
			do.Method = method
			if method == http.MethodPost {
				do.Body = []byte(`{"refresh_token":"` + secret + `"}`)
			}
			res, err := client(t, Config{}).Do(t.Context(), do)
			var failed *Error
			if !errors.As(err, &failed) || failed.Reject.Reason != "redirect" || failed.Transient || res.Status != status {
				t.Errorf("%s %d: %v", method, status, err)
			}
			server.Close()
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("the other host saw %d requests", n)
	}
}

// H22 and F3: a kept-alive connection dies under the second request, and net/http must not send
// that again by itself.
func TestOneAttemptIsOneRequest(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for _, keepAlive := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s keep-alive %t", method, keepAlive), func(t *testing.T) {
				var calls atomic.Int32
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if calls.Add(1) > 1 {
						panic(http.ErrAbortHandler)
					}
					sends([]byte(sample))(w, r)
				}))
				defer server.Close()
				c := client(t, Config{KeepAlive: keepAlive})
				do := call(t, server.URL)
				do.Method = method
				do.Header.Set("Idempotency-Key", "1")
				if method == http.MethodPost {
					do.Body = []byte(sample)
				}
				res, err := c.Do(t.Context(), do)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				for attempt := int32(2); attempt < 5; attempt++ {
					res, err := c.Do(t.Context(), do)
					var failed *Error
					if !errors.As(err, &failed) || failed.Reject.Reason != "transient" || !failed.Transient || !res.Sent {
						t.Errorf("got %v", err)
					}
					if n := calls.Load(); n != attempt {
						t.Errorf("the server saw %d requests for %d attempts", n, attempt)
					}
				}
			})
		}
	}
}

func TestRequestAsSeenByTheVendor(t *testing.T) {
	var got *http.Request
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Clone(context.Background())
		body, _ = io.ReadAll(r.Body)
		sends([]byte(sample))(w, r)
	}))
	defer server.Close()
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	at := time.Date(2026, 5, 15, 12, 0, 0, 0, time.UTC)
	c := client(t, Config{Now: func() time.Time { return at }})

	do := call(t, server.URL)
	do.URL.RawQuery = url.Values{"api": {"a b&c"}}.Encode()
	res, err := c.Do(t.Context(), do)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got.Header.Get("authorizationToken") != secret || got.Header.Get("Accept-Encoding") != "gzip" ||
		got.URL.Query().Get("api") != "a b&c" || got.URL.Path != "/v1/things" || len(body) != 0 || got.ContentLength != 0 || len(got.TransferEncoding) != 0 {
		t.Errorf("the vendor saw %s %v %v, %d bytes", got.URL, got.Header, got.TransferEncoding, got.ContentLength)
	}
	if !res.RequestedAt.Equal(at) || !res.FetchedAt.Equal(at) || res.ContentType != "application/json" {
		t.Errorf("result %+v", res)
	}

	do.Method, do.Body = http.MethodPost, []byte(sample)
	if res, err = c.Do(t.Context(), do); err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if string(body) != sample || got.ContentLength != int64(len(sample)) {
		t.Errorf("the vendor saw %q, %d", body, got.ContentLength)
	}
}

func TestHeaderValuesAreChecked(t *testing.T) {
	do := call(t, "http://127.0.0.1:1")
	do.Header.Set("authorizationToken", secret+"\r\nX-Evil: 1")
	res, err := client(t, Config{}).Do(t.Context(), do)
	if err == nil || res.Sent || strings.Contains(err.Error(), secret) {
		t.Errorf("%v, sent %t", err, res.Sent)
	}
}

func TestNothingSent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	listener.Close()
	res, err := client(t, Config{}).Do(t.Context(), call(t, "http://"+closed))
	var failed *Error
	if !errors.As(err, &failed) || failed.Reject.Reason != "transient" || res.Sent {
		t.Errorf("closed port: %v, sent %t", err, res.Sent)
	}
}

func TestContextOfTheCaller(t *testing.T) {
	base, _ := raw(t, "", silence)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("shutting down")
	time.AfterFunc(50*time.Millisecond, func() { cancel(stop) })
	_, err := client(t, Config{}).Do(ctx, call(t, base))
	var failed *Error
	if !errors.Is(err, stop) || errors.As(err, &failed) {
		t.Errorf("got %v", err)
	}
}

// N02: nothing is sent to a host whose certificate is not good.
func TestTLS(t *testing.T) {
	var seen atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		sends([]byte(sample))(w, r)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	old := httptest.NewUnstartedServer(server.Config.Handler)
	old.Config.ErrorLog = server.Config.ErrorLog
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	defer old.Close()
	plain := httptest.NewServer(server.Config.Handler)
	defer plain.Close()

	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	port := func(base string) string { return base[strings.LastIndex(base, ":")+1:] }
	for name, c := range map[string]struct {
		base string
		cfg  Config
	}{
		"unknown CA": {server.URL, Config{}},
		"other host": {"https://localhost:" + port(server.URL), Config{CAFile: ca}},
		"TLS 1.1":    {old.URL, Config{CAFile: ca}},
		"not TLS":    {"https://127.0.0.1:" + port(plain.URL), Config{CAFile: ca}},
	} {
		res, err := client(t, c.cfg).Do(t.Context(), call(t, c.base))
		var failed *Error
		if !errors.As(err, &failed) || failed.Reject.Reason != "tls" || res.Sent {
			t.Errorf("%s: %v, sent %t", name, err, res.Sent)
		}
	}
	if n := seen.Load(); n != 0 {
		t.Errorf("%d requests went out", n)
	}
	res, err := client(t, Config{CAFile: ca}).Do(t.Context(), call(t, server.URL))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
}

func TestProxy(t *testing.T) {
	var target string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target = r.URL.String()
		sends([]byte(sample))(w, r)
	}))
	defer proxy.Close()
	res, err := client(t, Config{Proxy: proxy.URL}).Do(t.Context(), call(t, "http://127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if target != "http://127.0.0.1:1/v1/things" {
		t.Errorf("the proxy saw %q", target)
	}
	for _, bad := range []string{"proxy:3128", "ftp://user:" + secret + "@x", "http://", ":"} {
		if _, err := New(Config{Proxy: bad}); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestCheckBaseURL(t *testing.T) {
	for raw, want := range map[string]string{
		"https://api.example.com":                  "",
		"https://api.example.com/prefix":           "",
		"https://api.example.com:8443":             "",
		"https://192.0.2.7":                        "",
		"http://127.0.0.1:8080":                    "",
		"http://127.3.2.1":                         "",
		"http://[::1]:8080":                        "",
		"http://[::ffff:127.0.0.1]":                "",
		"http://localhost:1":                       "",
		"http://api.example.com":                   "want https",
		"http://10.0.0.1":                          "want https",
		"http://localhost.example.com":             "want https",
		"http://127.0.0.1.example.com":             "want https",
		"ftp://api.example.com":                    "want https",
		"api.example.com":                          "no host",
		"https:api.example.com":                    "no host",
		"https://":                                 "no host",
		"":                                         "no host",
		"https://u:" + secret + "@api.example.com": "credentials",
		"https://api.example.com?x=1":              "query",
		"https://api.example.com?":                 "query",
		"https://api.example.com#x":                "fragment",
		"https://api.example.com#":                 "fragment",
		"https://u:" + secret + "@api example.com": "not a URL",
	} {
		_, err := CheckBaseURL(raw)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret)) {
			t.Errorf("%q: %v, want %q", raw, err, want)
		}
	}
}

// C02: a name may not lead to an inner address.
func TestAddresses(t *testing.T) {
	for ip, public := range map[string]bool{
		"93.184.216.34": true, "2606:4700::1111": true, "64:ff9b::5db8:d822": true,
		"127.0.0.1": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false,
		"100.64.0.1": false, "0.0.0.0": false, "0.1.2.3": false, "224.0.0.1": false, "255.255.255.255": false, "198.18.0.1": false,
		"::1": false, "::": false, "fe80::1": false, "fd00::1": false, "ff02::1": false, "64:ff9b::a00:1": false, "2002:a00:1::": false,
		"::ffff:10.0.0.1": false, "::ffff:169.254.169.254": false,
	} {
		if got := isPublic(mustAddr(t, ip)); got != public {
			t.Errorf("%s: public %t, want %t", ip, got, public)
		}
	}
	base, calls := raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", nil)
	res, err := client(t, Config{}).Do(t.Context(), call(t, strings.Replace(base, "127.0.0.1", "localhost", 1)))
	if err != nil {
		t.Errorf("localhost: %v", err)
	} else {
		res.Body.Close()
	}
	name, err := os.Hostname() // resolves to an address of this machine, when it resolves
	if err != nil {
		t.Fatal(err)
	}
	before := calls.Load()
	conn, err := dialGuarded(t.Context(), "tcp", net.JoinHostPort(name, base[strings.LastIndex(base, ":")+1:]))
	if err == nil {
		conn.Close()
		t.Errorf("connected to %s", name)
	}
	if calls.Load() != before {
		t.Error("the request got through")
	}
}

// noise does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	state := uint64(88172645463325252)
	for i := range b {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		b[i] = byte(state)
	}
	return b
}

func TestBodies(t *testing.T) {
	large := noise(12 << 20)
	dir := t.TempDir()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(large) }))
	defer server.Close()
	res, err := client(t, Config{SpoolDir: dir}).Do(t.Context(), call(t, server.URL))
	if err != nil {
		t.Fatal(err)
	}
	file := res.Body.(*body).file
	if file == nil || filepath.Dir(file.Name()) != dir {
		t.Fatalf("got file %v, want one in the spool folder", file)
	}
	if info, err := file.Stat(); err != nil || info.Mode().Perm() != 0o600 || info.Size() != int64(len(large)) {
		t.Errorf("got %v of %d bytes, %v; want 0600 and the body as it is", info.Mode(), info.Size(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 { // else a crash would leave it
		t.Errorf("the waiting body has a name: %v, %v", left, err)
	}
	for name, b := range map[string]etl.Body{
		"spooled": res.Body, "one chunk": NewBody(large[:1000]), "chunks": NewBody(large[:chunkSize*3]), "broken chunk": NewBody(large[:chunkSize*2+1]), "empty": NewBody(nil),
	} {
		plain := large[:b.Size()]
		if b.SHA256() != sha256.Sum256(plain) || content(t, b) != string(plain) || content(t, b) != string(plain) {
			t.Errorf("%s: the content differs", name)
		}
		packed, err := b.Zstd()
		if err != nil {
			t.Fatal(name, err)
		}
		whole, err := io.ReadAll(packed)
		if err != nil || int64(len(whole)) != packed.Size() {
			t.Errorf("%s: %d bytes of a frame of %d: %v", name, len(whole), packed.Size(), err)
		}
		if err := packed.Close(); err != nil {
			t.Error(name, err)
		}
		unzip, err := zstd.NewReader(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unzip.DecodeAll(whole, nil); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: the frame differs: %v", name, err)
		}
		unzip.Close()
		open, err := b.Open()
		if err != nil {
			t.Fatal(name, err)
		}
		if err := errors.Join(b.Close(), b.Close()); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
		// What it waited in may be another body's by now.
		if n, err := open.Read(make([]byte, 1)); n != 0 || err == nil || b.Size() > 0 && err == io.EOF {
			t.Errorf("%s: read %d bytes after close, %v", name, n, err)
		}
		if _, err := b.Open(); err == nil {
			t.Errorf("%s: opened after close", name)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A full or missing disk is our trouble: it is not the vendor's, and trying again is no use.
func TestSpoolFolderMissing(t *testing.T) {
	server := httptest.NewServer(sends(noise(9 << 20)))
	defer server.Close()
	c := client(t, Config{SpoolDir: filepath.Join(t.TempDir(), "missing")})
	res, err := c.Do(t.Context(), call(t, server.URL))
	var failed *Error
	if !errors.Is(err, errSpool) || errors.As(err, &failed) || res.Body != nil {
		t.Errorf("got %v", err)
	}
}

// V09: wherever a body is cut, by length or by chunks, it is not taken for a whole one.
func TestCutAtEveryByte(t *testing.T) {
	var answer string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(conn, answer)
		conn.Close()
	}))
	defer server.Close()
	c := client(t, Config{})
	for n := range len(sample) {
		for style, head := range map[string]string{
			"length": fmt.Sprintf("Content-Length: %d\r\n\r\n", len(sample)),
			"chunks": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", len(sample)),
		} {
			answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + head + sample[:n]
			res, err := c.Do(t.Context(), call(t, server.URL))
			var failed *Error
			if !errors.As(err, &failed) || failed.Reject.Reason != "body_truncated" || !failed.Transient || res.Body != nil {
				t.Fatalf("%s cut at %d: %v", style, n, err)
			}
		}
	}
}

func TestLooksLikeJSON(t *testing.T) {
	for body, want := range map[string]bool{
		sample:                             true,
		"[]":                               true,
		"\xef\xbb\xbf\r\n" + sample + "\n": true,
		"{ anything }":                     true,
		"":                                 false,
		" \n":                              false,
		"\xef\xbb\xbf":                     false,
		"{":                                false,
		"{]":                               false,
		"[}":                               false,
		"null":                             false,
		sample[:20]:                        false,
		sample + ";":                       false,
		"<html></html>":                    false,
	} {
		whole := &Result{Body: NewBody([]byte(body))}
		pieces := newWriter("") // as slowly as it may come
		for i := range len(body) {
			if _, err := pieces.Write([]byte{body[i]}); err != nil {
				t.Fatal(err)
			}
		}
		slow := pieces.finish()
		if got, slowly := whole.LooksLikeJSON(), (&Result{Body: slow}).LooksLikeJSON(); got != want || slowly != want {
			t.Errorf("%q: got %t, and %t in pieces, want %t", body, got, slowly, want)
		}
	}
	if (&Result{}).LooksLikeJSON() {
		t.Error("no body looks like JSON")
	}
}

func TestBombIsToldInWords(t *testing.T) {
	server := httptest.NewServer(sends(gzipped(t, make([]byte, 64<<20)), "Content-Encoding", "gzip"))
	defer server.Close()
	_, err := client(t, Config{}).Do(t.Context(), call(t, server.URL))
	if err == nil || !strings.Contains(err.Error(), "received: more than 200 to 1") {
		t.Errorf("got %v", err)
	}
}

// Every exchange is counted for its run by what became of it, and the vendor's own reading has the last
// word.
func TestCallsAreCounted(t *testing.T) {
	t.Parallel()
	c := client(t, Config{Timeout: 200 * time.Millisecond})
	var status atomic.Int32 // a handler may still be reading it when its caller has given up
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := int(status.Load())
		if status == 0 {
			<-r.Context().Done()
			return
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	do := func(ctx context.Context, call Call) *Result {
		res, _ := c.Do(ctx, call)
		if res.Body != nil {
			res.Body.Close()
		}
		return res
	}
	counted := func(what, want string, use func(context.Context)) {
		t.Helper()
		ctx, calls := etl.WithCalls(t.Context(), 1)
		use(ctx)
		if got := calls.LogValue().String(); got != want {
			t.Errorf("%s is counted as %s, want %s", what, got, want)
		}
	}
	for s, want := range map[int]string{
		200: "ok 1", 302: "contract 1", 401: "unauthorized 1", 403: "unauthorized 1", 404: "contract 1", 429: "throttled 1",
		500: "unavailable 1", 504: "timeout 1", 0: "timeout 1",
	} {
		status.Store(int32(s))
		counted(fmt.Sprint("status ", s), want, func(ctx context.Context) { do(ctx, call(t, server.URL)) })
	}
	counted("nobody there", "unavailable 1", func(ctx context.Context) { do(ctx, call(t, gone.URL)) })
	counted("a call that ends with its caller", "canceled 1", func(ctx context.Context) {
		status.Store(0)
		ctx, cancel := context.WithCancelCause(ctx)
		time.AfterFunc(10*time.Millisecond, func() { cancel(errors.New("told to stop")) })
		do(ctx, call(t, server.URL))
	})
	status.Store(http.StatusForbidden)
	counted("what the vendor means", "throttled 1", func(ctx context.Context) {
		res := do(ctx, call(t, server.URL))
		if err := res.Became(etl.ErrThrottled); err != etl.ErrThrottled {
			t.Errorf("the error became %v", err)
		}
	})
	counted("a token exchange", "token 1", func(ctx context.Context) {
		exchange := call(t, server.URL)
		exchange.Token = true
		_ = do(ctx, exchange).Became(etl.ErrUnauthorized)
	})
	counted("what was never sent", "none", func(ctx context.Context) {
		bad := call(t, server.URL)
		bad.Header = http.Header{"X": {"a\nb"}}
		do(ctx, bad)
	})
	do(t.Context(), call(t, server.URL)) // of no run: nothing to count for
}

// However an answer is cut into reads, a secret in it is starred, and nothing else.
func TestDiscreetBodies(t *testing.T) {
	t.Parallel()
	long := "eyJ" + strings.Repeat("x/Y7-", 60) + "tail-0123456789-abcdefgh"
	for name, c := range map[string]struct{ secret, body, want string }{
		"none":      {"", "hush", "hush"},
		"short":     {"hush", "say hush, hush!", "say ****, ****!"},
		"long":      {long, "<" + long + "><" + long + ">", "<" + strings.Repeat("*", len(long)) + "><" + strings.Repeat("*", len(long)) + ">"},
		"escaped":   {"a/b/c", `"a\/b\/c" a/b/c`, `"*******" *****`},
		"an end":    {long, "…tail-0123456789-abcdefgh…", "…" + strings.Repeat("*", 24) + "…"},
		"beginning": {long, long[:200], long[:200]},
		"alone":     {"hush", "hush", "****"},
		"empty":     {"hush", "", ""},
	} {
		for _, reader := range []io.Reader{strings.NewReader(c.body), iotest.OneByteReader(strings.NewReader(c.body)), iotest.DataErrReader(strings.NewReader(c.body))} {
			got, err := io.ReadAll(discreet(reader, c.secret))
			if string(got) != c.want || err != nil {
				t.Errorf("%s: got %q, %v; want %q", name, got, err, c.want)
			}
		}
	}
	broken := errors.New("broken")
	got, err := io.ReadAll(discreet(io.MultiReader(strings.NewReader("say hush"), iotest.ErrReader(broken)), "hush"))
	if string(got) != "say ****" || !errors.Is(err, broken) {
		t.Errorf("got %q, %v", got, err)
	}
}

func BenchmarkDiscreet(b *testing.B) {
	body := bytes.Repeat([]byte(`{"committed_tib":150,"consumed_tib":158.123456,"timestamp_utc":"2026-05-14T00:05:00Z","burst_tib":8.1,"eyJ":"eyJ"},`), 80<<20/110)
	secret := "eyJhbGciOiJSUzI1NiIs" + strings.Repeat("InR5cCI6IkpXVCJ9", 60)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := io.Copy(io.Discard, discreet(bytes.NewReader(body), secret)); err != nil {
			b.Fatal(err)
		}
	}
}

// A window's answer, however it is sent, leaves the connection to the next one.
func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	body := strings.Repeat(sample, 4<<10)
	_, _ = z.Write([]byte(body))
	_ = z.Close()
	for name, answer := range map[string]func(http.ResponseWriter){
		"with a length": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			_, _ = io.WriteString(w, body)
		},
		"in chunks": func(w http.ResponseWriter) { _, _ = io.WriteString(w, body) },
		"compressed": func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(zipped.Bytes())
		},
		"refused": func(w http.ResponseWriter) { http.Error(w, body, http.StatusNotFound) },
	} {
		for keep, want := range map[bool]int32{true: 1, false: 3} {
			var made atomic.Int32
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
			srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
				if s == http.StateNew {
					made.Add(1)
				}
			}
			srv.Start()
			t.Cleanup(srv.Close)
			c := client(t, Config{KeepAlive: keep})
			for range 3 {
				res, err := c.Do(t.Context(), call(t, srv.URL))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				_ = res.Body.Close()
			}
			if got := made.Load(); got != want {
				t.Errorf("%s, kept %v: %d connections for 3 requests, want %d", name, keep, got, want)
			}
		}
	}
}
