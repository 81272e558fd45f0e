package warehouse

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"meterhouse/migrations"
)

// minMajor is the oldest Postgres with everything the schema uses; maxMajor the newest that the
// tests have run with.
const (
	minMajor = 15
	maxMajor = 18
)

// Server is what a database says about itself.
type Server struct {
	Version  string // as the server names it, such as "15.18 (Debian …)"
	Major    int
	Encoding string
	Role     string        // whose rights are in force
	Schema   int64         // newest applied migration; 0 when none
	Head     int64         // newest migration of this binary
	Skew     time.Duration // the server's wall clock minus ours
	ReadOnly bool          // a standby, or default_transaction_read_only
	Pooler   Pooler
	Identity string // the same for every way to one database of one server
}

// Pooler is what stands between us and the server.
type Pooler string

// Kinds of poolers, by how long they lend a server's session to a client.
const (
	NoPooler          Pooler = ""
	SessionPooler     Pooler = "session"     // until the client leaves: as good as none
	TransactionPooler Pooler = "transaction" // for one transaction: no session locks, no named statements
)

// Probe connects and looks. It changes nothing, and works through a pooler too.
func Probe(ctx context.Context, url string) (Server, error) {
	conn, err := connect(ctx, url)
	if err != nil {
		return Server{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	s := Server{Head: migrations.Head()}
	var now time.Time
	var number string
	var backend uint32
	before := time.Now()
	err = conn.QueryRow(ctx, `
		select current_setting('server_version'), current_setting('server_version_num'), current_setting('server_encoding'), current_user,
			pg_is_in_recovery() or current_setting('transaction_read_only')::boolean, clock_timestamp(), pg_backend_pid(),
			pg_postmaster_start_time()::text || ' ' || (select oid from pg_database where datname = current_database())`).
		Scan(&s.Version, &number, &s.Encoding, &s.Role, &s.ReadOnly, &now, &backend, &s.Identity)
	if err != nil {
		return Server{}, fmt.Errorf("probe database %s: %w", where(conn.Config()), err)
	}
	s.Skew = now.Sub(before.Add(time.Since(before) / 2)).Round(time.Millisecond)
	if n, err := strconv.Atoi(number); err == nil {
		s.Major = n / 10000
	}
	if s.Schema, err = migrations.Version(ctx, conn); err != nil {
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == "42501" { // insufficient_privilege
			err = fmt.Errorf("%w: connect as the role that migrated, or as an administrator grant that role to %s", err, s.Role)
		}
		return s, err
	}
	// A pooler greets its clients with a process number that it made up.
	if conn.PgConn().PID() != backend {
		s.Pooler, err = kindOfPooler(ctx, conn, url)
	}
	return s, err
}

// kindOfPooler finds out whether conn keeps its server's session when it is idle. Whichever way a
// pooler chooses, one that lends for a transaction gives conn another session sooner or later, or
// gives conn's to somebody else.
func kindOfPooler(ctx context.Context, conn *pgx.Conn, url string) (Pooler, error) {
	const rounds = 5
	mine := map[uint32]bool{}
	for range rounds {
		var backend uint32
		if err := conn.QueryRow(ctx, `select pg_backend_pid()`).Scan(&backend); err != nil {
			return NoPooler, fmt.Errorf("look for a pooler: %w", err)
		}
		mine[backend] = true
		other, err := connect(ctx, url)
		if err != nil {
			return NoPooler, err
		}
		err = pgx.BeginFunc(ctx, other, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, `select pg_backend_pid()`).Scan(&backend)
		})
		other.Close(ctx)
		if err != nil {
			return NoPooler, fmt.Errorf("no transaction is possible at %s: %w: a pooler must have the mode transaction or session", where(conn.Config()), err)
		}
		if len(mine) > 1 || mine[backend] {
			return TransactionPooler, nil
		}
	}
	return SessionPooler, nil
}

// connect makes one connection without anything that a pooler cannot stand.
func connect(ctx context.Context, url string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database url: %w", err)
	}
	tune(cfg)
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to database %s: %w", where(cfg), explain(connectError{err}))
	}
	return conn, nil
}

func tune(cfg *pgx.ConnConfig) {
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	// A host that went without a word is noticed in a minute, not in hours.
	cfg.DialFunc = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}).DialContext
	cfg.RuntimeParams["timezone"] = "UTC"
	cfg.RuntimeParams["datestyle"] = "ISO" // times that come as text
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "meterhouse"
	}
}

// suit makes the connections of cfg do what a pooler allows. Behind one that lends sessions, a named
// statement is in a session that another client may have next.
func (s Server) suit(cfg *pgx.ConnConfig) {
	if s.Pooler == NoPooler {
		// A transaction whose process has gone without a word, or stands still, holds the lock of its
		// scope and the row of its lease: nobody could take over. A pooler refuses such parameters and has
		// time-outs of its own.
		for name, value := range map[string]string{
			"idle_in_transaction_session_timeout": "60s", "tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3",
		} {
			if cfg.RuntimeParams[name] == "" {
				cfg.RuntimeParams[name] = value
			}
		}
	}
	if s.Pooler != NoPooler && cfg.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		cfg.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
}

// usable is nil when this binary can work with the database.
func (s Server) usable() error {
	for _, f := range s.findings() {
		if f.Level == Fail {
			return fmt.Errorf("%s: %s", f.Found, f.Remedy)
		}
	}
	return nil
}

// Migratable is nil when the schema of the database may be brought up or down by this binary.
func (s Server) Migratable() error {
	if s.Schema < s.Head { // that is what migrating is for
		s.Schema = s.Head
	}
	return s.usable()
}

// where names a database without its password.
func where(cfg *pgx.ConnConfig) string {
	return fmt.Sprintf("%s@%s:%d/%s", cfg.User, cfg.Host, cfg.Port, cfg.Database)
}

// connectError says in one line, and once, what pgx says on several: it tries each address with and without TLS.
type connectError struct{ error }

func (e connectError) Error() string {
	err := e.error
	if of := (*pgconn.ConnectError)(nil); errors.As(err, &of) {
		err = of.Unwrap() // it names user and database, as where does
	}
	told := slices.CompactFunc(strings.Split(err.Error(), "\n"), func(line, before string) bool { return strings.HasSuffix(before, line) })
	return strings.Join(told, "; ")
}

func (e connectError) Unwrap() error { return e.error }

// explain adds what to do to the refusals a new user meets.
func explain(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case "28P01", "28000": // invalid_password, invalid_authorization_specification
			return fmt.Errorf("%w: check user and password in database.url", err)
		case "3D000": // invalid_catalog_name
			return fmt.Errorf("%w: create the database first, or correct database.url", err)
		case "42501": // insufficient_privilege
			return fmt.Errorf("%w: as the owner of the database, grant connect on it to this role", err)
		case "53300": // too_many_connections
			return fmt.Errorf("%w: wait, close other clients, or raise max_connections or the role's connection limit", err)
		case "57P03": // cannot_connect_now
			return fmt.Errorf("%w: the server is starting or stopping: try again", err)
		}
		return err
	}
	var unknown *net.DNSError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w: correct the host in database.url", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: no answer: check the host in database.url and what filters the network", err)
	}
	return fmt.Errorf("%w: check database.url and that the server is up", err)
}
