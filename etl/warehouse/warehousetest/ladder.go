package warehousetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl/localpg"
)

// Environment variables beside DSN.
const (
	Require    = "METERHOUSE_TEST_REQUIRE"        // dsn, local, docker or download
	Major      = "METERHOUSE_TEST_POSTGRES"       // 15 to 18
	Repository = "METERHOUSE_POSTGRES_REPOSITORY" // a Maven repository, or off; the demo reads it too
)

// patience bounds the whole climb: a download or an image comes through a slow line.
const patience = 5 * time.Minute

// server is a running Postgres.
type server struct {
	url   string // of a superuser, or of a role that may create databases
	about string // in one line
	stop  func() error
}

func (s *server) shutDown() error {
	if s == nil || s.stop == nil {
		return nil
	}
	return s.stop()
}

// wish is what the environment asks for.
type wish struct {
	rung       string // "" is any
	major      int    // 0 is any
	dsn        string
	repository string
	cache      string // tests have their own
}

// rung is one way to a server. Its error is a notHere when this machine does not have it; any other is
// trouble with what it has, and the next rung would only hide it.
type rung struct {
	name string
	up   func(context.Context, wish) (*server, error)
}

var ladder = []rung{{"dsn", given}, {"local", local}, {"docker", container}, {"download", download}}

// notHere says why a rung is passed over: briefly for the line that names the server, and in full for
// an error.
type notHere struct{ brief, full string }

func (n notHere) Error() string { return n.full }

// climb starts the first server that fits and says why it is that one.
func climb(ctx context.Context, getenv func(string) string, rungs []rung) (_ *server, why string, err error) {
	w, err := wishOf(getenv, rungs)
	if err != nil {
		return nil, "", err
	}
	var said, briefly []string
	for _, r := range rungs {
		if w.rung != "" && r.name != w.rung {
			continue
		}
		s, err := r.up(ctx, w)
		var passed notHere
		switch {
		case err == nil && w.rung != "":
			return s, Require + "=" + w.rung, nil
		case err == nil:
			return s, cmp.Or(strings.Join(briefly, ", "), DSN+" is set"), nil
		case w.rung != "":
			return nil, "", fmt.Errorf("%s=%s: %w", Require, w.rung, err)
		case !errors.As(err, &passed):
			return nil, "", fmt.Errorf("%s: %w", r.name, err)
		}
		briefly = append(briefly, passed.brief)
		said = append(said, r.name+": "+strings.ReplaceAll(strings.TrimPrefix(passed.full, r.name+" "), "\n", "\n  "))
	}
	return nil, "", fmt.Errorf(`nothing leads to a Postgres
  %s
  any one of these helps:
    apt-get install postgresql         (Debian, Ubuntu)
    brew install postgresql@17         (macOS)
    start Docker or Podman             (DOCKER_HOST, when its socket is elsewhere)
    set METERHOUSE_POSTGRES_REPOSITORY (a mirror of Maven Central, for the download)
    set METERHOUSE_TEST_DSN            (a server whose role may create databases, postgres://user:password@host/database)`,
		strings.Join(said, "\n  "))
}

func wishOf(getenv func(string) string, rungs []rung) (wish, error) {
	w := wish{rung: getenv(Require), dsn: getenv(DSN), repository: getenv(Repository)}
	if w.rung != "" && !slices.ContainsFunc(rungs, func(r rung) bool { return r.name == w.rung }) {
		return w, fmt.Errorf("%s=%s: want dsn, local, docker or download", Require, w.rung)
	}
	if text := getenv(Major); text != "" {
		w.major, _ = strconv.Atoi(text)
		if w.major == 0 || localpg.Release(w.major) == "" {
			return w, fmt.Errorf("%s=%s: want a PostgreSQL major, 15 to 18", Major, text)
		}
	}
	return w, nil
}

// given is the server that somebody named.
func given(ctx context.Context, w wish) (*server, error) {
	if w.dsn == "" {
		return nil, notHere{DSN + " is not set", DSN + " is not set"}
	}
	conn, err := pgx.Connect(ctx, w.dsn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", DSN, err)
	}
	defer conn.Close(ctx)
	version := conn.PgConn().ParameterStatus("server_version")
	major, _, _ := strings.Cut(version, ".")
	if w.major != 0 && major != strconv.Itoa(w.major) {
		return nil, fmt.Errorf("%s: the server is PostgreSQL %s, want %d (%s)", DSN, version, w.major, Major)
	}
	return &server{url: w.dsn, about: "PostgreSQL " + version + " of " + DSN}, nil
}

func local(ctx context.Context, w wish) (*server, error) {
	return private(ctx, w, localpg.Installed, "no PostgreSQL "+wanted(w)+" is installed")
}

func download(ctx context.Context, w wish) (*server, error) {
	return private(ctx, w, localpg.Download{
		Repository: w.repository, Dir: w.cache,
		Notice: func(line string) { fmt.Fprintln(os.Stderr, line) },
	}.Find, "no download")
}

func wanted(w wish) string {
	if w.major == 0 {
		return "15 to 18"
	}
	return strconv.Itoa(w.major)
}

// private starts our own server when the source has binaries; otherwise lack says so.
func private(ctx context.Context, w wish, source localpg.Source, lack string) (*server, error) {
	binaries, err := source(ctx, w.major)
	if errors.Is(err, localpg.ErrNotFound) {
		return nil, notHere{lack, err.Error()}
	}
	if err != nil {
		return nil, err
	}
	s, err := localpg.Start(ctx, localpg.Config{
		Source: func(context.Context, int) (localpg.Binaries, error) { return binaries, nil },
	})
	if err != nil {
		return nil, err
	}
	return &server{url: s.URL(""), about: s.Describe(), stop: s.Stop}, nil
}
