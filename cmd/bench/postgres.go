package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl/localpg"
)

// settings of the private server: the same for everybody, durable as in production. Autovacuum is off
// so that it does not run in some measurements and not in others; between them VACUUM ANALYZE is run.
var settings = map[string]string{
	"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min", "autovacuum": "off",
	"track_counts": "on", "log_checkpoints": "off", "log_temp_files": "-1",
}

// shown are the settings that a report names.
var shown = []string{
	"shared_buffers", "work_mem", "max_wal_size", "checkpoint_timeout", "wal_compression", "fsync", "synchronous_commit",
	"full_page_writes", "autovacuum", "jit", "lc_collate",
}

// server is the Postgres under measurement.
type server struct {
	url      func(database string) string
	about    string // where it is from
	version  string
	settings [][2]string
	pid      int // of the postmaster; 0 when it cannot be seen
	admin    *pgx.Conn
	prefix   string // of our databases
	made     []string
	stopOwn  func() error
}

func startServer(ctx context.Context, dsn string) (_ *server, err error) {
	s := &server{prefix: fmt.Sprintf("meterhouse_bench_%d_", os.Getpid()), stopOwn: func() error { return nil }}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if dsn == "" {
		own, err := localpg.Start(ctx, localpg.Config{
			Source: localpg.Either(localpg.Installed, localpg.Download{Notice: func(line string) { fmt.Fprintln(os.Stderr, line) }}.Find),
			// Durable: a yardstick that need not write is none.
			Durable: true, Settings: settings,
		})
		if err != nil {
			return nil, err
		}
		s.stopOwn, s.url, s.about = own.Stop, own.URL, own.Describe()
	} else {
		u, err := url.Parse(dsn)
		if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
			return nil, errors.New("-dsn: want postgres://user:password@host/database")
		}
		s.about = "the server of -dsn, with its own settings"
		s.url = func(database string) string {
			if database == "" {
				return dsn
			}
			other := *u
			other.Path = "/" + database
			return other.String()
		}
	}
	if s.admin, err = pgx.Connect(ctx, s.url("")); err != nil {
		return nil, err
	}
	if err := s.admin.QueryRow(ctx, `select current_setting('server_version')`).Scan(&s.version); err != nil {
		return nil, err
	}
	for _, name := range shown {
		var value *string
		if err := s.admin.QueryRow(ctx, `select current_setting($1, true)`, name).Scan(&value); err != nil {
			return nil, err
		}
		if value != nil {
			s.settings = append(s.settings, [2]string{name, *value})
		}
	}
	s.pid = s.postmaster(ctx)
	return s, nil
}

func (s *server) stop() error {
	if s.admin == nil {
		return s.stopOwn()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	for _, name := range s.made {
		errs = append(errs, s.drop(ctx, name))
	}
	errs = append(errs, s.admin.Close(ctx), s.stopOwn())
	return errors.Join(errs...)
}

// create makes a database, as a copy of a template unless that is empty, and returns its URL.
func (s *server) create(ctx context.Context, name, template string) (string, error) {
	sql := "create database " + s.prefix + name
	if template != "" {
		sql += " template " + s.prefix + template
	}
	if _, err := s.admin.Exec(ctx, sql); err != nil {
		return "", fmt.Errorf("create database %s: %w", s.prefix+name, err)
	}
	s.made = append(s.made, name)
	return s.url(s.prefix + name), nil
}

func (s *server) drop(ctx context.Context, name string) error {
	if _, err := s.admin.Exec(ctx, "drop database if exists "+s.prefix+name+" with (force)"); err != nil {
		return fmt.Errorf("drop database %s: %w", s.prefix+name, err)
	}
	return nil
}

// postmaster is the parent of the backend that serves us, if it runs on this machine.
func (s *server) postmaster(ctx context.Context) int {
	var backend int
	if runtime.GOOS != "linux" || s.admin.QueryRow(ctx, `select pg_backend_pid()`).Scan(&backend) != nil {
		return 0
	}
	stat, ok := readStat(backend)
	if !ok || !strings.HasPrefix(stat.name, "postgres") {
		return 0 // the pid is that of another machine
	}
	return stat.parent
}

// cpu is what the server has used up since it started, in all its processes. It waits until the figure
// stands: a process that has just ended is nowhere for a moment, and then in the postmaster's sum of its children.
func (s *server) cpu() (used time.Duration, known bool) {
	used, known = s.cpuNow()
	for range 100 {
		time.Sleep(2 * tick)
		last := used
		if used, known = s.cpuNow(); used == last {
			break
		}
	}
	return used, known
}

func (s *server) cpuNow() (used time.Duration, known bool) {
	if s.pid == 0 {
		return 0, false
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, false
	}
	for _, dir := range all {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		switch stat, ok := readStat(pid); {
		case !ok:
		case pid == s.pid:
			used, known = used+stat.own+stat.children, true
		case stat.parent == s.pid:
			used += stat.own + stat.children
		}
	}
	return used, known
}

type procStat struct {
	name          string
	parent        int
	own, children time.Duration
}

const tick = 10 * time.Millisecond // of /proc, on every Linux that Go knows

func readStat(pid int) (st procStat, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return st, false
	}
	open, end := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')')
	if open < 0 || end < open {
		return st, false
	}
	fields := strings.Fields(string(text[end+1:])) // from the third on
	if len(fields) < 15 {
		return st, false
	}
	number := func(i int) int {
		n, err := strconv.Atoi(fields[i-3])
		ok = ok && err == nil
		return n
	}
	ok = true
	st.name, st.parent = string(text[open+1:end]), number(4)
	st.own = time.Duration(number(14)+number(15)) * tick
	st.children = time.Duration(number(16)+number(17)) * tick
	return st, ok
}

// counters are what Postgres counts, of one database.
type counters struct {
	wal, temp int64            // bytes; WAL is of the whole server
	dead      int64            // tuples
	written   map[string]int64 // tuples inserted, updated or deleted, by table of dw
}

func (a counters) minus(b counters) counters {
	diff := counters{a.wal - b.wal, a.temp - b.temp, a.dead - b.dead, map[string]int64{}}
	for table, n := range a.written {
		if n != b.written[table] {
			diff.written[table] = n - b.written[table]
		}
	}
	return diff
}

// count waits until the other backends of the database have gone, which is when they have handed in
// their figures, and reads them.
func count(ctx context.Context, conn *pgx.Conn) (c counters, err error) {
	for busy := true; busy; {
		if err := conn.QueryRow(ctx, `
			select exists (
				select from pg_stat_activity
				where datname = current_database() and pid <> pg_backend_pid() and backend_type in ('client backend', 'parallel worker')
			)`).Scan(&busy); err != nil {
			return c, err
		}
		if busy {
			time.Sleep(time.Millisecond)
		}
	}
	for _, sql := range []string{`select pg_stat_force_next_flush()`, `select pg_stat_clear_snapshot()`} { // what this connection did itself counts now
		if _, err := conn.Exec(ctx, sql); err != nil {
			return c, err
		}
	}
	err = conn.QueryRow(ctx, `
		select (pg_current_wal_insert_lsn() - '0/0')::bigint,
			(select temp_bytes from pg_stat_database where datname = current_database()),
			sum(n_dead_tup)::bigint,
			jsonb_object_agg(relname, n_tup_ins + n_tup_upd + n_tup_del) filter (where schemaname = 'dw')
		from pg_stat_user_tables`).Scan(&c.wal, &c.temp, &c.dead, &c.written)
	if err != nil {
		return c, fmt.Errorf("read the server's counters: %w", err)
	}
	return c, nil
}

// yardstickSQL makes an empty table like fact_consumption_sample, in a schema of its own: the same
// columns, checks, keys and monthly partitions, which are there before anybody is timed.
const yardstickSQL = `
create schema if not exists bench;
create table bench.%[1]s (
    like dw.fact_consumption_sample including defaults including constraints,
    constraint %[1]s_pkey primary key (customer_key, service_level_key, sampled_at),
    constraint %[1]s_customer_fkey foreign key (customer_key) references dw.dim_customer (customer_key),
    constraint %[1]s_level_fkey foreign key (service_level_key) references dw.dim_service_level (service_level_key)
) partition by range (sampled_at);
do $$
declare
    month timestamptz;
begin
    for month in select generate_series(timestamptz '%[2]s', timestamptz '%[3]s', interval '1 month') loop
        execute format('create table bench.%%I partition of bench.%[1]s for values from (%%L) to (%%L) with (fillfactor = 90)',
            '%[1]s_' || to_char(month, 'YYYY_MM'), month, month + interval '1 month');
    end loop;
end
$$;`

// makeTable makes a copy of the fact table for the data of s.
func makeTable(ctx context.Context, conn *pgx.Conn, name string, s shape) error {
	first, last := firstDay, firstDay.AddDate(0, 0, s.Days-1)
	month := func(t time.Time) string { return t.Format("2006-01") + "-01 00:00:00+00" }
	if _, err := conn.Exec(ctx, fmt.Sprintf(yardstickSQL, name, month(first), month(last))); err != nil {
		return fmt.Errorf("make table bench.%s: %w", name, err)
	}
	return nil
}

// keyOffset keeps the keys that the yardstick's rows refer to away from those that meterhouse draws.
const keyOffset = 1_000_000

// makeKeys makes the dimension rows that the yardstick's rows and the peers' refer to.
func makeKeys(ctx context.Context, conn *pgx.Conn, s shape) error {
	_, err := conn.Exec(ctx, fmt.Sprintf(`
		insert into dw.dim_customer (customer_key, customer_id, account, first_seen_at, seen_at)
		overriding system value values (%[1]d, 'yardstick', 'bench', now(), now());
		insert into dw.dim_subscription (subscription_key, customer_key, subscription_number, first_seen_at)
		overriding system value values (%[1]d, %[1]d, 'yardstick', now());
		insert into dw.dim_service_level (service_level_key, customer_key, subscription_key, service_level, level_ordinal, level_class)
		overriding system value
		select %[1]d + n, %[1]d, %[1]d, 'yardstick', n, 'base' from generate_series(0, %[2]d) n;`, keyOffset, s.Levels-1))
	if err != nil {
		return fmt.Errorf("make the keys of the yardstick: %w", err)
	}
	return nil
}
