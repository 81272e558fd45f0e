package warehousetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"meterhouse/etl/localpg"
)

// TestMain turns the test binary into a process that only looks for a container engine: the library
// remembers its first answer for the life of a process.
func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv("WAREHOUSETEST_ENGINE_PATIENCE"); ok {
		limit, err := time.ParseDuration(text)
		if err != nil {
			panic(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		_, err = container(ctx, wish{major: 17})
		var passed notHere
		fmt.Printf("%v: %v\n", errors.As(err, &passed), err)
		os.Exit(0)
	}
	Main(m)
}

func TestClimb(t *testing.T) {
	no := func(name string) rung {
		return rung{name, func(context.Context, wish) (*server, error) {
			return nil, notHere{"no " + name, name + " is not here\n  and says more"}
		}}
	}
	yes := func(name string) rung {
		return rung{name, func(_ context.Context, w wish) (*server, error) {
			return &server{about: fmt.Sprintf("%s %d", name, w.major)}, nil
		}}
	}
	broken := func(name string) rung {
		return rung{name, func(context.Context, wish) (*server, error) { return nil, errors.New("broken") }}
	}
	for name, c := range map[string]struct {
		rungs           []rung
		env             map[string]string
		about, why, err string
	}{
		"first":               {rungs: []rung{yes("dsn"), broken("local")}, about: "dsn 0", why: DSN + " is set"},
		"third":               {rungs: []rung{no("dsn"), no("local"), yes("docker"), yes("download")}, about: "docker 0", why: "no dsn, no local"},
		"a major":             {rungs: []rung{yes("dsn")}, env: map[string]string{Major: "16"}, about: "dsn 16", why: DSN + " is set"},
		"trouble is no lack":  {rungs: []rung{no("dsn"), broken("local"), yes("docker")}, err: "local: broken"},
		"pinned":              {rungs: []rung{yes("dsn"), broken("local"), yes("docker")}, env: map[string]string{Require: "docker"}, about: "docker 0", why: Require + "=docker"},
		"pinned and not here": {rungs: []rung{yes("dsn"), no("local"), yes("docker")}, env: map[string]string{Require: "local"}, err: Require + "=local: local is not here\n  and says more"},
		"pinned and broken":   {rungs: []rung{yes("dsn"), broken("local"), yes("docker")}, env: map[string]string{Require: "local"}, err: Require + "=local: broken"},
		"no such rung":        {rungs: ladder, env: map[string]string{Require: "podman"}, err: Require + "=podman: want dsn, local, docker or download"},
		"no such major":       {rungs: ladder, env: map[string]string{Major: "14"}, err: Major + "=14: want a PostgreSQL major, 15 to 18"},
		"major zero":          {rungs: ladder, env: map[string]string{Major: "0"}, err: Major + "=0: want a PostgreSQL major, 15 to 18"},
		"no major":            {rungs: ladder, env: map[string]string{Major: "latest"}, err: Major + "=latest: want a PostgreSQL major, 15 to 18"},
		"nothing": {rungs: []rung{no("dsn"), no("local")}, err: `nothing leads to a Postgres
  dsn: is not here
    and says more
  local: is not here
    and says more
  any one of these helps:
    apt-get install postgresql         (Debian, Ubuntu)
    brew install postgresql@17         (macOS)
    start Docker or Podman             (DOCKER_HOST, when its socket is elsewhere)
    set METERHOUSE_POSTGRES_REPOSITORY (a mirror of Maven Central, for the download)
    set METERHOUSE_TEST_DSN            (a server whose role may create databases, postgres://user:password@host/database)`},
	} {
		t.Run(name, func(t *testing.T) {
			s, why, err := climb(t.Context(), func(name string) string { return c.env[name] }, c.rungs)
			if s == nil {
				s = &server{}
			}
			if err == nil {
				err = errors.New("")
			}
			if s.about != c.about || why != c.why || err.Error() != c.err {
				t.Errorf("got  %q, %q, %v\nwant %q, %q, %s", s.about, why, err, c.about, c.why, c.err)
			}
		})
	}
}

func TestGivenServer(t *testing.T) {
	dsn := New(t)
	s, err := given(t.Context(), wish{dsn: dsn})
	if err != nil || s.url != dsn || !strings.HasPrefix(s.about, "PostgreSQL 1") || strings.Contains(s.about, "postgres://") {
		t.Errorf("got %+v, %v", s, err)
	}
	major := 15
	if strings.HasPrefix(s.about, "PostgreSQL 15") {
		major = 16
	}
	for text, w := range map[string]wish{
		fmt.Sprintf("want %d (%s)", major, Major): {dsn: dsn, major: major},
		DSN + ": failed to connect":               {dsn: "postgres://nobody@127.0.0.1:1/none"},
		DSN + ": cannot parse":                    {dsn: "postgres://nobody@127.0.0.1:port/none"},
	} {
		_, err := given(t.Context(), w)
		var passed notHere
		if err == nil || errors.As(err, &passed) || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want an error that is no lack: %s", err, text)
		}
	}
}

func TestDownloadAsksTheGivenRepository(t *testing.T) {
	repository := httptest.NewServer(http.NotFoundHandler())
	defer repository.Close()
	_, err := download(t.Context(), wish{major: 16, repository: repository.URL, cache: t.TempDir()})
	var passed notHere
	if !errors.As(err, &passed) || !strings.Contains(err.Error(), "GET "+repository.URL+"/") || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("got %v, want a 404 that sends the climb on", err)
	}
}

// look runs container in a process of its own.
func look(t *testing.T, host string, patience time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "WAREHOUSETEST_ENGINE_PATIENCE="+patience.String(),
		"DOCKER_HOST="+host, "TESTCONTAINERS_RYUK_DISABLED=true", "HOME="+t.TempDir(), "XDG_RUNTIME_DIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func TestContainerEngine(t *testing.T) {
	if _, err := os.Stat("/var/run/docker.sock"); err == nil {
		t.Skip("this machine has an engine, which the library asks when the one of DOCKER_HOST does not answer")
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	t.Cleanup(sick.Close)
	healthy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.47")
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
		case strings.HasSuffix(r.URL.Path, "/info"):
			fmt.Fprint(w, `{"ServerVersion": "27.0", "OperatingSystem": "a fake"}`)
		default:
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"message": "this engine makes no containers"}`)
		}
	}))
	t.Cleanup(healthy.Close)
	for name, c := range map[string]struct {
		host     string
		patience time.Duration
		want     string
	}{
		"nobody listens": {"tcp://127.0.0.1:1", time.Minute, "true: no healthy engine: "},
		"no socket":      {"unix:///nowhere/docker.sock", time.Minute, "true: no healthy engine: "},
		"no answer":      {"tcp://" + silent.Addr().String(), 300 * time.Millisecond, "true: no healthy engine: no answer: context deadline exceeded"},
		"errors":         {"tcp://" + sick.Listener.Addr().String(), time.Minute, "true: no healthy engine: "},
		"healthy, and then not": {"tcp://" + healthy.Listener.Addr().String(), time.Minute,
			"true: postgres:" + localpg.Release(17) + ": "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := look(t, c.host, c.patience); !strings.HasPrefix(got, c.want) || strings.Count(got, "\n") != 1 {
				t.Errorf("got  %s\nwant %s…", got, c.want)
			}
		})
	}
}

// The tests of this package stand on the ladder too, so what it led to is a server we support.
func TestServer(t *testing.T) {
	conn := Connect(t, Empty(t))
	var version int
	if err := conn.QueryRow(t.Context(), "select current_setting('server_version_num')::int / 10000").Scan(&version); err != nil {
		t.Fatal(err)
	}
	want := os.Getenv(Major)
	if localpg.Release(version) == "" || (want != "" && want != fmt.Sprint(version)) {
		t.Errorf("PostgreSQL %d, want one of 15 to 18, or %q", version, want)
	}
}
