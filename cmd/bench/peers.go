package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The peers are what a package manager brings, each with the best settings that its documentation
// gives: scripts that ask the same vendor for the same windows and load the same rows into a table
// with the same columns, keys and partitions.

//go:embed peers
var peerFiles embed.FS

type peer struct {
	id, title string
	argv      []string // in the folder of the scripts; "python3" stands for the one that has psycopg2
	needs     []string
	again     bool   // it can be repeated
	goal      string // for a fresh load of ours against it; empty: none
}

var peers = []peer{
	{"jq-copy", "curl + jq + psql, `\\copy` into the table", []string{"bash", "jq_copy.sh"}, []string{"bash", "curl", "jq", "psql"}, false, "≥ 2 ×"},
	{"jq-upsert", "curl + jq + psql, staged upsert", []string{"bash", "jq_upsert.sh"}, []string{"bash", "curl", "jq", "psql"}, true, "≥ 2 ×"},
	{"psycopg2-copy", "Python psycopg2, `copy_expert`", []string{"python3", "psycopg2_load.py", "copy"}, []string{"psycopg2"}, false, "≥ 3 ×"},
	{"psycopg2-upsert", "Python psycopg2, `execute_values` upsert", []string{"python3", "psycopg2_load.py", "upsert"}, []string{"psycopg2"}, true, "≥ 3 ×"},
	{"pgloader-copy", "curl + jq + pgloader into the table", []string{"bash", "pgloader_copy.sh"}, []string{"bash", "curl", "jq", "pgloader"}, false, ""},
	{"pgloader-upsert", "curl + jq + pgloader, staged upsert", []string{"bash", "pgloader_upsert.sh"}, []string{"bash", "curl", "jq", "pgloader", "psql"}, true, ""},
}

// again is what the line of a repeated peer has behind its id.
const again = "-again"

// remedies say where a missing tool is from.
var remedies = map[string]string{
	"curl": "apt-get install curl", "jq": "apt-get install jq", "pgloader": "apt-get install pgloader", "psycopg2": "apt-get install python3-psycopg2",
	"bash": "apt-get install bash", "psql": "apt-get install postgresql-client",
}

// findPython is a Python that has psycopg2: the first on the PATH, or the system's.
func findPython() (string, error) {
	var errs []error
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		path, err := exec.LookPath(name)
		if err == nil {
			if err = exec.Command(path, "-c", "import psycopg2").Run(); err == nil {
				return path, nil
			}
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

// missing says what a peer lacks on this machine, "" if nothing.
func (p peer) missing() string {
	var lacks []string
	for _, tool := range p.needs {
		_, err := exec.LookPath(tool)
		if tool == "psycopg2" {
			_, err = findPython()
		}
		if err != nil {
			lacks = append(lacks, fmt.Sprintf("%s is not there (%s)", tool, remedies[tool]))
		}
	}
	return strings.Join(lacks, ", ")
}

// peers measures them once each.
func (b *bench) peers(ctx context.Context, db *database) error {
	dir := filepath.Join(b.dir, "peers")
	if err := b.writePeers(db, dir); err != nil {
		return err
	}
	if err := makeTable(ctx, db.conn, "peer", b.cfg.shape); err != nil {
		return err
	}
	b.absences = nil
	for _, p := range peers {
		if group, _, _ := strings.Cut(p.id, "-"); !b.cfg.has(group) {
			continue
		}
		if lacks := p.missing(); lacks != "" {
			b.absences = append(b.absences, p.title+": "+lacks)
			b.progress("%-24s not measured: %s", p.id, lacks)
			continue
		}
		if _, err := db.conn.Exec(ctx, `truncate bench.peer`); err != nil {
			return err
		}
		if err := b.peer(ctx, db, dir, p, state{}, p.id, p.title+", fresh"); err != nil {
			return err
		}
		if !p.again {
			continue
		}
		if err := vacuum(ctx, db); err != nil {
			return err
		}
		if err := b.peer(ctx, db, dir, p, state{Respelled: true}, p.id+again, p.title+", unchanged"); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) peer(ctx context.Context, db *database, dir string, p peer, st state, id, title string) error {
	b.state = st
	argv := append([]string{}, p.argv...)
	if argv[0] == "python3" {
		python, err := findPython()
		if err != nil {
			return err
		}
		argv[0] = python
	}
	argv[1] = filepath.Join(dir, argv[1])
	m, _, err := b.measured(ctx, db, command{argv: argv, dir: dir, env: []string{
		"BENCH_PEERS=" + dir, "BENCH_DIR=" + b.dir, "BENCH_URL=" + db.url, "BENCH_URLS=" + filepath.Join(dir, "urls"),
		"BENCH_KEYS=" + filepath.Join(dir, "keys.json"), fmt.Sprint("BENCH_CUSTOMER_KEY=", keyOffset), "BENCH_TOKEN=peer",
	}})
	if err != nil {
		return err
	}
	if err := b.checkTable(ctx, db, "peer", b.whole(), st); err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	b.note(id, title, b.cfg.samples(b.whole()), m)
	return nil
}

// writePeers writes the scripts with what they need to know: the windows' URLs and the keys of levels.
func (b *bench) writePeers(db *database, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := peerFiles.ReadDir("peers")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		text, err := peerFiles.ReadFile("peers/" + entry.Name())
		if err != nil {
			return err
		}
		// pgloader knows no parameter of libpq.
		plain := strings.NewReplacer("{{BENCH_URL}}", strings.Replace(strings.TrimSuffix(db.url, "?sslmode=disable"), "postgres://", "postgresql://", 1))
		if err := os.WriteFile(filepath.Join(dir, entry.Name()), []byte(plain.Replace(string(text))), 0o600); err != nil {
			return err
		}
	}
	s, all := b.cfg.shape, b.whole()
	var urls strings.Builder
	const window = 30 // days: what meterhouse asks for at once
	for from := 0; from < s.Days; from += window {
		q := url.Values{
			"type": {"customer"}, "id": {all.ID},
			"from_date_utc": {firstDay.AddDate(0, 0, from).Format(time.RFC3339)},
			"to_date_utc":   {firstDay.AddDate(0, 0, min(from+window, s.Days)).Format(time.RFC3339)},
		}
		fmt.Fprintf(&urls, "%s%s?%s\n", b.vendor.URL, historyPath, q.Encode())
	}
	keys := map[string]int64{}
	for level := all.From; level < all.Until; level++ {
		keys[subscriptionNumber(all, level)+"|"+levelName(level)] = keyOffset + int64(level)
	}
	text, err := json.Marshal(keys)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "urls"), []byte(urls.String()), 0o600), os.WriteFile(filepath.Join(dir, "keys.json"), text, 0o600))
}
