package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	answers := map[string]struct {
		status int
		text   string
	}{}
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		a := answers[r.URL.Path]
		if a.status == http.StatusFound {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(a.status)
		_, _ = w.Write([]byte(a.text))
	}))
	t.Cleanup(server.Close)
	address := strings.TrimPrefix(server.URL, "http://")
	closed := closedAddress(t)

	type answer = struct {
		status int
		text   string
	}
	for _, c := range []struct {
		name    string
		listen  string
		args    []string
		ready   answer
		live    answer
		code    int
		message string // on stderr
		asked   string
	}{
		{"ready", address, []string{"--probe"}, answer{200, "ready\n"}, answer{}, exitDone, "", "GET /readyz"},
		{"not ready", address, []string{"--probe"}, answer{503, "the database does not answer\n"}, answer{200, "ok\n"}, exitFailed,
			`meterhouse: probe http://` + address + `/readyz: got 503 "the database does not answer", want 200`, "GET /readyz"},
		{"busy is no answer", address, []string{"--probe=ready"}, answer{429, ""}, answer{}, exitFailed, `got 429 "", want 200`, "GET /readyz"},
		{"live, although not ready", address, []string{"--probe=live"}, answer{503, "no\n"}, answer{200, "ok\n"}, exitDone, "", "GET /healthz"},
		{"not live", address, []string{"--probe=live"}, answer{200, "ready\n"}, answer{500, "oh\n"}, exitFailed, `/healthz: got 500 "oh", want 200`, "GET /healthz"},
		{"sent elsewhere", address, []string{"--probe"}, answer{302, ""}, answer{}, exitFailed, `got 302 "", want 200`, "GET /readyz"},
		{"much text", address, []string{"--probe"}, answer{503, strings.Repeat("x", 5000) + "END"}, answer{}, exitFailed, `xxx", want 200`, "GET /readyz"},
		{"control characters", address, []string{"--probe"}, answer{503, "a\x1b[2Jb"}, answer{}, exitFailed, `"a\x1b[2Jb"`, "GET /readyz"},
		{"nobody there", closed, []string{"--probe"}, answer{}, answer{}, exitFailed, "connection refused: is serve running on this machine?", ""},
		{"nowhere", "", []string{"--probe"}, answer{}, answer{}, exitUsage, "--probe: console.listen is empty: serve answers nobody; want host:port", ""},
		{"any port", "127.0.0.1:0", []string{"--probe"}, answer{}, answer{}, exitUsage, `console.listen "127.0.0.1:0": any free port`, ""},
		{"no address", "nonsense", []string{"--probe"}, answer{}, answer{}, exitUsage, `console.listen: "nonsense": want host:port`, ""},
		{"another state", address, []string{"--probe=well"}, answer{}, answer{}, exitUsage, "--probe=well: want ready or live", ""},
		{"empty state", address, []string{"--probe="}, answer{}, answer{}, exitUsage, "--probe=: want ready or live", ""},
		{"in the place of an argument", address, []string{"--probe", "live"}, answer{}, answer{}, exitUsage, `serve: unexpected "live"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			answers["/readyz"], answers["/healthz"], asked = c.ready, c.live, nil
			// No database and no account are named, and the proxy is none.
			file := writeFile(t, "m.yaml", "http: {proxy: \"http://"+closed+"\"}\nconsole: {listen: \""+c.listen+"\"}\n")
			o := invoke(t, nil, "", append([]string{"--config", file, "serve"}, c.args...)...)
			if o.code != c.code || o.stdout != "" || !strings.Contains(o.stderr, c.message) || c.message == "" && o.stderr != "" {
				t.Errorf("exit code %d, stdout %q, stderr %q; want %d and %q", o.code, o.stdout, o.stderr, c.code, c.message)
			}
			if got := strings.Join(asked, ", "); got != c.asked {
				t.Errorf("asked %q, want %q", got, c.asked)
			}
			if len(o.stderr) > 1000 {
				t.Errorf("stderr has %d bytes, want a short reason", len(o.stderr))
			}
		})
	}
}

// A server that accepts and never answers is not ready, in less time than the health checks give.
func TestProbeWaitsNotForEver(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // the system accepts, nobody else
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	file := writeFile(t, "m.yaml", "console: {listen: \""+listener.Addr().String()+"\"}\n")
	o := invoke(t, nil, "", "--config", file, "serve", "--probe")
	if want := "no answer within " + probeTimeout.String(); o.code != exitFailed || !strings.Contains(o.stderr, want) {
		t.Errorf("exit code %d, stderr %q; want %d and %q", o.code, o.stderr, exitFailed, want)
	}
}

// closedAddress is a port of this machine where nobody listens.
func closedAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// Whatever address serve listens at, the probe finds it.
func TestProbeHost(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		"127.0.0.1": "127.0.0.1",
		"localhost": "localhost",
		"127.0.0.9": "127.0.0.9", // it listens nowhere else
		"0.0.0.0":   "127.0.0.1",
		"":          "127.0.0.1",
		"[::]":      "127.0.0.1", // Go listens for both
	} {
		listener, err := net.Listen("tcp", listen+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		_, port, err := net.SplitHostPort(listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := probeHost(listen + ":" + port)
		if err != nil || got != want+":"+port {
			t.Errorf("%s: %q, %v; want %q", listen, got, err, want+":"+port)
			continue
		}
		conn, err := net.Dial("tcp", got)
		if err != nil {
			t.Errorf("%s: %v", listen, err)
			continue
		}
		conn.Close()
	}
	if got, err := probeHost("[::1]:8080"); err != nil || got != "[::1]:8080" {
		t.Errorf("[::1]:8080: %q, %v", got, err)
	}
}
