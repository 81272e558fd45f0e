package localpg

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// User is the superuser that URL connects as.
const User = "meterhouse"

// patience bounds each of initdb and the wait for the first connection.
const patience = 30 * time.Second

// Config says what server to start; the zero value is a throw-away one.
type Config struct {
	// Dir is the folder to create or reuse. Empty means a new temporary folder that Stop removes.
	Dir string
	// Source is where binaries come from; nil is Installed.
	Source Source
	// Durable keeps data over a crash of the machine. Otherwise fsync, full_page_writes and synchronous_commit are off,
	// which survives a crash of ours but not one of the machine. Switching a kept folder
	// to Durable protects what is written from then on.
	Durable bool
	// Settings are added to postgresql.conf. They win over Durable and the time zone, not over the address we listen on.
	Settings map[string]string
	// Log hears about starts, leftovers and sweeps; nil is silence.
	Log *slog.Logger
}

// Server is a running Postgres of ours. Its methods may be called from any goroutine.
type Server struct {
	cfg      Config
	folder   *folder
	binaries Binaries
	port     int
	password string
	child    *child
	stop     func() error
}

// Start brings a server up and returns when it answers a connection. The caller must Stop it; should our process
// die without, the server stops by itself and the next Start of anyone removes a temporary folder.
//
// The context bounds Start only, beside 30 s of our own. Starting again on a kept folder, after Stop or a crash, finds the
// data, the password and, when it is free, the port of before. A folder made by another major version gets the
// binaries of that version when the source has them.
//
// Errors wrap ErrInUse when a living process runs a server in the folder, and ErrNotFound when no binaries
// fit. A server that does not come up is described by the end of its log. After an error nothing runs and no
// temporary folder is left.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Source == nil {
		cfg.Source = Installed
	}
	s, err := start(ctx, cfg)
	if err != nil {
		name := cfg.Dir
		if name == "" {
			name = "temporary server"
		}
		return nil, fmt.Errorf("localpg: start %s: %w", name, err)
	}
	return s, nil
}

func start(ctx context.Context, cfg Config) (_ *Server, err error) {
	began := time.Now()
	f, err := openFolder(cfg.Dir, cfg.Log)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, folder: f}
	s.stop = sync.OnceValue(s.shutDownAndClose)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if err := s.pickBinaries(ctx); err != nil {
		return nil, err
	}
	if err := stopLeftover(f, cfg.Log); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	if err := s.bringUp(ctx); err != nil {
		return nil, err
	}
	cfg.Log.Info("postgres started", "version", s.binaries.Version, "dir", f.path, "port", s.port,
		"took", time.Since(began).Round(time.Millisecond))
	return s, nil
}

// URL is how pgx, psql and other libpq programs reach a database of the server, as superuser "meterhouse". It holds
// the password, so show it to the person at the terminal and not to a log. Empty means the database "postgres", the
// only one of a new folder; creating others is the caller's affair.
func (s *Server) URL(database string) string {
	if database == "" {
		database = "postgres"
	}
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(User, s.password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Describe says in one line which server this is and why.
func (s *Server) Describe() string {
	return fmt.Sprintf("PostgreSQL %s from %s (found by %s), running as %s in %s",
		s.binaries.Version, s.binaries.Dir, s.binaries.Where, userName(s.folder.as), s.folder.path)
}

// Stop shuts the server down fast (open connections are cut, what was committed is kept), gives the folder up, and
// removes it when it was temporary. Later calls do nothing and return the same. An error means that the server or the
// temporary folder is still there.
func (s *Server) Stop() error { return s.stop() }

func (s *Server) shutDownAndClose() error {
	var err error
	if s.child != nil && !s.child.ended() {
		err = shutDown(s.child.process, s.child.ended, s.cfg.Log)
	}
	return errors.Join(err, s.folder.close())
}

// pickBinaries finds a server for a new folder, or the one that an existing folder needs.
func (s *Server) pickBinaries(ctx context.Context) error {
	made, err := s.folder.read("data/PG_VERSION")
	if err != nil {
		return err
	}
	major, _ := strconv.Atoi(made) // old ones like "9.6" are refused below
	if made != "" && major < oldestMajor {
		return fmt.Errorf("folder was made by PostgreSQL %s, want %s: "+
			"move it with pg_dump of that version, or remove it to begin anew", made, wanted(0))
	}
	s.binaries, err = s.cfg.Source(ctx, major)
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%w%s%s", ErrNotFound, indent(err), remedies)
		if made != "" {
			err = fmt.Errorf("folder was made by PostgreSQL %s and needs the same to run: "+
				"install it (apt-get install postgresql-%s), or remove the folder to begin anew: %w", made, made, err)
		}
	}
	return err
}

const remedies = `
  any one of these helps:
    apt-get install postgresql         (Debian, Ubuntu)
    brew install postgresql@17         (macOS)
    set METERHOUSE_POSTGRES_REPOSITORY (a mirror of Maven Central, for the download)
    set METERHOUSE_DATABASE_URL        (a running server, postgres://user:password@host/database)`

// indent puts what the sources said below a message.
func indent(err error) string {
	return "\n  " + strings.ReplaceAll(err.Error(), "\n", "\n  ")
}

// prepare makes the data folder unless there is one. initdb works beside it and the rename comes last, so a data
// folder is never half made.
func (s *Server) prepare(ctx context.Context) (err error) {
	if s.password, err = s.folder.read("password"); err != nil {
		return err
	}
	text, err := s.folder.read("port")
	if err != nil {
		return err
	}
	s.port, _ = strconv.Atoi(text) // unreadable means any
	if _, err := os.Stat(s.folder.file("data")); err == nil {
		if s.password == "" {
			return errors.New("the file password is missing beside data, want the one it was made with: " +
				"restore it, or remove the folder to begin anew")
		}
		return nil
	}
	s.password = rand.Text()
	if err := s.folder.write("password", s.password+"\n"); err != nil {
		return err
	}
	return s.initdb(ctx)
}

func (s *Server) initdb(ctx context.Context) error {
	half := s.folder.file("data.new")
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	if err := os.Mkdir(half, 0o700); err != nil {
		return err
	}
	if as := s.folder.as; as != nil {
		if err := os.Lchown(half, int(as.Uid), int(as.Gid)); err != nil {
			return err
		}
	}
	argv := []string{filepath.Join(s.binaries.Dir, "initdb"), "--pgdata=" + half, "--username=" + User,
		"--pwfile=" + s.folder.file("password"), "--auth=scram-sha-256", "--locale=C", "--encoding=UTF8"}
	if !s.cfg.Durable {
		argv = append(argv, "--no-sync")
	}
	c, err := s.run(half, argv...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-c.done:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("initdb: %w%s", ctx.Err(), s.logTail()), shutDown(c.process, c.ended, s.cfg.Log))
	}
	if c.err != nil {
		return fmt.Errorf("initdb: %w%s", c.err, s.logTail())
	}
	return os.Rename(half, s.folder.file("data"))
}

// errTryAgain marks a start that failed for a reason which passes.
var errTryAgain = errors.New("busy")

// bringUp chooses a port and launches. A free port may be taken by somebody between our look and the bind of Postgres.
func (s *Server) bringUp(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		port, err := freePort(s.port)
		if err != nil {
			return err
		}
		s.port = port
		err = s.launch(ctx)
		if err == nil {
			return s.folder.write("port", strconv.Itoa(s.port)+"\n")
		}
		if attempt == 5 || !errors.Is(err, errTryAgain) {
			return err
		}
		s.cfg.Log.Warn("postgres start repeated", "attempt", attempt, "err", err)
		time.Sleep(100 * time.Millisecond)
	}
}

// freePort returns the wanted port of 127.0.0.1 when it is free, otherwise a random one.
func freePort(want int) (int, error) {
	var l net.Listener
	var err error
	for _, port := range []int{want, 0} {
		if l, err = net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return l.Addr().(*net.TCPAddr).Port, l.Close()
		}
	}
	return 0, err
}

// launch starts the postmaster on s.port and waits for a connection; after an error it runs no more.
func (s *Server) launch(ctx context.Context) error {
	if err := s.folder.write("postgresql.conf", s.conf()); err != nil {
		return err
	}
	data := s.folder.file("data")
	c, err := s.run(data, filepath.Join(s.binaries.Dir, "postgres"), "-D", data, "-c", "config_file="+s.folder.file("postgresql.conf"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := s.ping(ctx)
		switch {
		case err == nil:
			s.child = c
			return nil
		case c.ended():
			return s.died(c)
		case ctx.Err() != nil:
			return errors.Join(fmt.Errorf("wait for a connection: %w: last answer: %w%s", context.Cause(ctx), err, s.logTail()),
				shutDown(c.process, c.ended, s.cfg.Log))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *Server) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL(""))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// died explains a postmaster that ended before it answered. Two reasons pass by themselves: a port just taken, and
// backends of a killed server that have not noticed yet.
func (s *Server) died(c *child) error {
	tail := s.logTail()
	err := fmt.Errorf("postgres ended before it answered: %w%s", c.err, tail)
	if strings.Contains(tail, "could not bind") || strings.Contains(tail, "shared memory block") {
		return fmt.Errorf("%w: %w", errTryAgain, err)
	}
	return err
}

// conf is our postgresql.conf. Later lines win.
func (s *Server) conf() string {
	var b strings.Builder
	set := func(name, value string) {
		fmt.Fprintf(&b, "%s = %s\n", name, quote(value))
	}
	b.WriteString("# Written by meterhouse at every start; edit the included file instead.\n")
	fmt.Fprintf(&b, "include %s\n", quote(s.folder.file("data/postgresql.conf")))
	set("timezone", "UTC")
	set("log_timezone", "UTC")
	if !s.cfg.Durable {
		set("fsync", "off")
		set("full_page_writes", "off")
		set("synchronous_commit", "off")
	}
	for _, name := range slices.Sorted(maps.Keys(s.cfg.Settings)) {
		set(name, s.cfg.Settings[name])
	}
	set("listen_addresses", "127.0.0.1")
	set("port", strconv.Itoa(s.port))
	set("unix_socket_directories", "")
	return b.String()
}

func quote(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(value) + "'"
}

// run spawns a program with a new server.log and keeps the former one.
func (s *Server) run(dir string, argv ...string) (*child, error) {
	_ = os.Rename(s.folder.file("server.log"), s.folder.file("server.log.1")) // there may be none
	out, err := s.folder.create("server.log", 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	return s.folder.spawn(dir, out, argv...)
}

// logTail is the end of the server log, indented to follow a message.
func (s *Server) logTail() string {
	text, err := s.folder.read("server.log")
	if err != nil || text == "" {
		return ": its log is empty"
	}
	lines := strings.Split(text, "\n")
	return ": end of its log:\n    " + strings.Join(lines[max(0, len(lines)-15):], "\n    ")
}
