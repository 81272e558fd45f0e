package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// line is one row of the report.
type line struct {
	ID      string
	Title   string
	Goal    string // empty: none
	Samples int    // in what is measured once
	Rounds  []measurement
}

// bench is one execution of the whole.
type bench struct {
	cfg      config
	server   *server
	vendor   *vendor
	dir      string
	program  string // the meterhouse that is measured
	psql     string
	csv      string // the samples of the yardstick
	state    state  // of the vendor
	yard     float64
	lines    []*line
	absences []string // what could not be measured, and why
	idleRSS  int64
	// tamper is called after each load and before its check; the test of the checks spoils something.
	tamper func(context.Context, *database, string) error
}

const (
	reread     = 125 // days that a nightly run reads again
	fleet      = 40  // customers of one day each
	fleetShare = 2   // each has half the levels
)

// The customers. They share the figures of the levels, not the ids.
func (b *bench) whole() cast { return cast{"whole", 0, b.cfg.Levels} }
func (b *bench) halves() []cast {
	half := b.cfg.Levels / 2
	return []cast{{"first", 0, half}, {"second", half, b.cfg.Levels}}
}
func (b *bench) fleet() (all []cast) {
	for i := range fleet {
		all = append(all, cast{fmt.Sprintf("fleet-%02d", i), 0, b.cfg.Levels / fleetShare})
	}
	return all
}

// nobody's answer has no records: what a process needs without any work.
var nobody = cast{ID: "nobody"}

func (b *bench) casts() []cast {
	return append(append(b.fleet(), b.halves()...), b.whole(), nobody)
}

// goals by line, in multiples of the yardstick.
var goals = map[string]string{
	"fresh": "≥ 1.0 ×", "fresh-parallel": "≥ 1.25 ×", "unchanged": "≥ 3.2 ×", "unchanged-parallel": "≥ 4.5 ×",
}

// note files a measurement under its line.
func (b *bench) note(id, title string, samples int, m measurement) {
	i := slices.IndexFunc(b.lines, func(l *line) bool { return l.ID == id })
	if i < 0 {
		i = len(b.lines)
		b.lines = append(b.lines, &line{ID: id, Title: title, Goal: goals[id], Samples: samples})
	}
	if samples > 0 && b.yard > 0 {
		m.Ratio = float64(samples) / m.Seconds / b.yard
	}
	b.lines[i].Rounds = append(b.lines[i].Rounds, m)
	rate := ""
	if m.Ratio > 0 {
		rate = fmt.Sprintf(", %.2f × the yardstick", m.Ratio)
	}
	b.progress("%-24s %8.3f s%s", id, m.Seconds, rate)
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(b.cfg.Progress, format+"\n", args...)
}

// round measures everything once, the peers if wanted.
func (b *bench) round(ctx context.Context, grown []*grown, peers bool) (err error) {
	db, err := b.open(ctx, "round", "template")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.discard(context.WithoutCancel(ctx), db)) }()
	if err := makeKeys(ctx, db.conn, b.cfg.shape); err != nil {
		return err
	}
	if err := b.yardstick(ctx, db); err != nil {
		return err
	}
	if b.cfg.has("load") {
		if err := b.history(ctx, db); err != nil {
			return err
		}
	}
	if b.cfg.has("parallel") {
		if err := b.side(ctx, db); err != nil {
			return err
		}
	}
	for _, g := range grown {
		if err := b.oneMore(ctx, g, false); err != nil {
			return err
		}
	}
	if !peers {
		return nil
	}
	return b.peers(ctx, db)
}

// yardstick is psql's \copy of the same samples into a table like ours. The rows come partition by
// partition and in the order of the key, which is how COPY likes it best.
func (b *bench) yardstick(ctx context.Context, db *database) error {
	if err := makeTable(ctx, db.conn, "yardstick", b.cfg.shape); err != nil {
		return err
	}
	b.yard = 0
	m, _, err := b.measured(ctx, db, command{argv: []string{b.psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname=" + db.url,
		"--command=\\copy bench.yardstick from '" + b.csv + "' with (format csv)"}})
	if err != nil {
		return err
	}
	samples := b.cfg.samples(b.whole())
	if err := b.checkTable(ctx, db, "yardstick", b.whole(), state{}); err != nil {
		return err
	}
	b.note("yardstick", "psql `\\copy`, one connection: the yardstick", samples, m)
	b.yard = float64(samples) / m.Seconds
	l := b.lines[slices.IndexFunc(b.lines, func(l *line) bool { return l.ID == "yardstick" })]
	l.Rounds[len(l.Rounds)-1].Ratio = 1
	_, err = db.conn.Exec(ctx, `drop table bench.yardstick`)
	return err
}

// writeCSV writes the yardstick's rows.
func writeCSV(path string, s shape, c cast) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	w := bufio.NewWriterSize(file, 1<<18)
	var b []byte
	for from := 0; from < s.Days; {
		until := from + 1 // of the month
		for until < s.Days && firstDay.AddDate(0, 0, until).Month() == firstDay.AddDate(0, 0, from).Month() {
			until++
		}
		for level := c.From; level < c.Until; level++ {
			for d := from; d < until; d++ {
				b = b[:0]
				s.each(state{}, level, d, func(v sample) { b = v.appendCSV(b, keyOffset, keyOffset+int64(level)) })
				if _, err := w.Write(b); err != nil {
					return err
				}
			}
		}
		from = until
	}
	return w.Flush()
}

// load is one run of meterhouse.
type load struct {
	id, title   string
	casts       []cast
	from, until int // days
	parallel    int
	before      state // as stored
	after       state // as told now; cumulative
	fresh       bool
	stored      int // days that are stored afterwards, from the first
	quiet       bool
}

// meterhouse measures one load and checks it: what it printed, what is stored, what it did not touch.
func (b *bench) meterhouse(ctx context.Context, db *database, l load) error {
	b.state = l.after
	var ids []string
	received, restated := 0, 0
	for _, c := range l.casts {
		ids = append(ids, c.ID)
		received += c.levels() * (l.until - l.from) * b.cfg.perDay()
		if !l.fresh {
			restated += b.cfg.changedDays(c, l.before, l.after, l.from, l.until) * b.cfg.perDay()
		}
	}
	path, err := b.writeConfig(db, max(1, l.parallel), ids)
	if err != nil {
		return err
	}
	restatements, err := countRows(ctx, db, "dw.restatement")
	if err != nil {
		return err
	}
	m, out, err := b.measured(ctx, db, command{argv: []string{b.program, "--config", path, "--log-level", "warn", "backfill", "keystone.history",
		"--from", firstDay.AddDate(0, 0, l.from).Format(time.DateOnly), "--until", firstDay.AddDate(0, 0, l.until).Format(time.DateOnly)}})
	if err != nil {
		return err
	}
	inserted, unchanged := 0, received-restated
	if l.fresh {
		inserted, unchanged = received, 0
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	want := fmt.Sprintf("inserted %d, restated %d, unchanged %d, quarantined 0", inserted, restated, unchanged)
	if got := lines[len(lines)-1]; got != want {
		return fmt.Errorf("%s: meterhouse printed %q, want %q", l.id, got, want)
	}
	if !l.fresh && restated == 0 && l.before.Flipped == l.after.Flipped && len(m.Written) != 0 {
		return fmt.Errorf("%s: tuples of dw were written, want none, for nothing was new: %v", l.id, m.Written)
	}
	if now, err := countRows(ctx, db, "dw.restatement"); err != nil {
		return err
	} else if got, want := now-restatements, restated/b.cfg.perDay(); got != want {
		return fmt.Errorf("%s: %d rows were added to dw.restatement, want %d", l.id, got, want)
	}
	if b.tamper != nil {
		if err := b.tamper(ctx, db, l.id); err != nil {
			return err
		}
	}
	for _, c := range l.casts {
		if err := b.checkWarehouse(ctx, db, c, l.after, l.stored); err != nil {
			return fmt.Errorf("%s: %w", l.id, err)
		}
	}
	if !l.quiet {
		b.note(l.id, l.title, received, m)
	}
	return nil
}

func countRows(ctx context.Context, db *database, table string) (n int, err error) {
	err = db.conn.QueryRow(ctx, `select count(*) from `+table).Scan(&n)
	return n, err
}

func (b *bench) writeConfig(db *database, parallel int, customers []string) (string, error) {
	path := filepath.Join(b.dir, "meterhouse.yaml")
	key := base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef")) // the vendor is ours, the tokens open nothing
	text := fmt.Sprintf(`database: {url: %s}
secrets_key: %s
parallel: %d
keystone:
  - account: bench
    base_url: %s
    refresh_token: %s
    customers: [%s]
    history: {start: %s}
`, strconv.Quote(db.url), key, parallel, b.vendor.URL, b.vendor.RefreshToken, strings.Join(customers, ", "), firstDay.Format(time.DateOnly))
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// idle measures the process without work, and spends the first token of the database.
func (b *bench) idle(ctx context.Context, db *database) error {
	b.state = state{}
	path, err := b.writeConfig(db, 1, []string{nobody.ID})
	if err != nil {
		return err
	}
	run := command{argv: []string{b.program, "--config", path, "--log-level", "error", "backfill", "keystone.history",
		"--from", firstDay.Format(time.DateOnly), "--until", firstDay.AddDate(0, 0, 1).Format(time.DateOnly)}}
	if _, _, err := b.measured(ctx, db, run); err != nil { // exchanges the token
		return err
	}
	m, _, err := b.measured(ctx, db, run)
	if err != nil {
		return err
	}
	b.note("idle", "a process that loads an empty answer", 0, m)
	b.idleRSS = max(b.idleRSS, m.PeakRSS)
	return nil
}

// history is one customer's, loaded and read again in every way.
func (b *bench) history(ctx context.Context, db *database) error {
	if err := b.idle(ctx, db); err != nil {
		return err
	}
	s, all := b.cfg.shape, []cast{b.whole()}
	fresh := load{id: "fresh", title: "fresh, one connection", casts: all, until: s.Days, fresh: true, stored: s.Days}
	if err := b.meterhouse(ctx, db, fresh); err != nil {
		return err
	}
	if err := vacuum(ctx, db); err != nil {
		return err
	}
	recent := max(0, s.Days-reread)
	flipFrom, flipUntil := s.flipped()
	now := state{}
	// A body is never byte for byte the one before, but where that is the line: each is spelled in the
	// other way. Request id and response time differ always.
	for _, step := range []struct {
		id, title   string
		from, until int
		st          state
	}{
		{"unchanged", "unchanged, one connection", 0, s.Days, state{Respelled: true}},
		{"identical", "identical bodies, one connection", 0, s.Days, state{Respelled: true}},
		{"unchanged-gzip", "unchanged, compressed on the wire", 0, s.Days, state{Gzip: true}},
		{"reread", "125 days read again, unchanged", recent, s.Days, state{Respelled: true}},
		{"reread-one", "125 days read again, one series-day changed", recent, s.Days, state{Changed: oneDay}},
		{"changed-1", "1 % of series-days changed", 0, s.Days, state{Respelled: true, Changed: onePercent}},
		{"changed-5", "5 % of series-days changed", 0, s.Days, state{Changed: fivePercent}},
		{"flip", "a month becomes invoiced", flipFrom, flipUntil, state{Respelled: true, Changed: fivePercent, Flipped: true}},
	} {
		if err := b.meterhouse(ctx, db, load{id: step.id, title: step.title, casts: all, from: step.from, until: step.until,
			before: now, after: step.st, stored: s.Days}); err != nil {
			return err
		}
		if step.st.Changed != now.Changed || step.st.Flipped {
			if err := vacuum(ctx, db); err != nil {
				return err
			}
		}
		now = step.st
	}
	return nil
}

// side loads two customers of half the rows each, side by side.
func (b *bench) side(ctx context.Context, db *database) error {
	s := b.cfg.shape
	if err := b.meterhouse(ctx, db, load{id: "fresh-parallel", title: "fresh, `parallel: 2`, two customers", casts: b.halves(), until: s.Days, parallel: 2,
		fresh: true, stored: s.Days}); err != nil {
		return err
	}
	if err := vacuum(ctx, db); err != nil {
		return err
	}
	return b.meterhouse(ctx, db, load{id: "unchanged-parallel", title: "unchanged, `parallel: 2`, two customers", casts: b.halves(), until: s.Days, parallel: 2,
		after: state{Respelled: true}, stored: s.Days})
}

// vacuum does what autovacuum would, where nobody is timed.
func vacuum(ctx context.Context, db *database) error {
	_, err := db.conn.Exec(ctx, `vacuum (analyze)`)
	return err
}
