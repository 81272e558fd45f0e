package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl/localpg"
)

func TestMain(m *testing.M) {
	if os.Getenv(asVendor) != "" {
		if err := vendorMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if built != "" {
		os.RemoveAll(filepath.Dir(built))
	}
	os.Exit(code)
}

var (
	built string
	build = sync.OnceValue(func() error {
		dir, err := os.MkdirTemp("", "meterhouse-bench-test-")
		if err != nil {
			return err
		}
		built = filepath.Join(dir, "meterhouse")
		return buildMeterhouse(context.Background(), built)
	})
)

// tiny is a configuration of seconds.
func tiny(t *testing.T) config {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	return config{
		shape:  shape{Seed: 1, Levels: 6, Days: 130, Step: 6 * time.Hour},
		Rounds: 2, PeerRounds: 1, Growth: []int{100, 1000}, Program: built, Dir: t.TempDir(), Progress: t.Output(),
	}
}

// Everything is measured, and every result is checked on the way.
func TestMeasure(t *testing.T) {
	t.Parallel()
	cfg := tiny(t)
	cfg.JSON, cfg.Doc = filepath.Join(cfg.Dir, "figures.json"), filepath.Join(cfg.Dir, "doc.md")
	if err := os.WriteFile(cfg.Doc, []byte("before\n"+markBegin+"old\n"+markEnd+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := measure(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := r.write(&out, cfg); err != nil {
		t.Fatal(err)
	}

	rounds := map[string]int{}
	for _, l := range r.Lines {
		rounds[l.ID] = len(l.Rounds)
		for _, m := range l.Rounds {
			if m.Seconds <= 0 || l.Samples > 0 && m.Ratio <= 0 || m.PeakRSS == 0 {
				t.Errorf("%s: %+v: want a time, a ratio and a peak", l.ID, m)
			}
		}
	}
	want := []string{"yardstick", "idle", "fresh", "unchanged", "identical", "unchanged-gzip", "reread", "reread-one", "changed-1", "changed-5",
		"flip", "fresh-parallel", "unchanged-parallel", "fleet", growthID(100), growthID(1000)}
	for _, id := range want {
		if rounds[id] != cfg.Rounds {
			t.Errorf("%s: %d rounds, want %d", id, rounds[id], cfg.Rounds)
		}
	}
	for _, p := range peers {
		if (rounds[p.id] == cfg.PeerRounds) == (p.missing() != "") {
			t.Errorf("%s: %d rounds, missing %q", p.id, rounds[p.id], p.missing())
		}
		if lacks := p.missing(); lacks != "" && !strings.Contains(out.String(), lacks) {
			t.Errorf("%s: the report does not say that %s", p.id, lacks)
		}
	}

	doc, err := os.ReadFile(cfg.Doc)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(doc), "before\n"+markBegin+"\n"+out.String()+"\n"+markEnd+"after\n"; got != want {
		t.Errorf("the document is\n%s\nwant\n%s", got, want)
	}
	text, err := os.ReadFile(cfg.JSON)
	if err != nil {
		t.Fatal(err)
	}
	var figures report
	if err := json.Unmarshal(text, &figures); err != nil || len(figures.Lines) != len(r.Lines) {
		t.Errorf("the figures have %d lines (%v), want %d", len(figures.Lines), err, len(r.Lines))
	}
}

// A figure that is off by a millionth, a row that is gone or there twice: none of it passes.
func TestWrongResults(t *testing.T) {
	t.Parallel()
	const one = `(select max(sampled_at) from dw.fact_consumption_sample)`
	for _, c := range []struct{ name, group, at, sql string }{
		{"yardstick's figure", "load", "yardstick", `update bench.yardstick set consumed_tib = consumed_tib + 0.000001 where service_level_key = 1000000 and sampled_at = '2025-01-02'`},
		{"sample's figure", "load", "fresh", `update dw.fact_consumption_sample set accrued_burst_tib = accrued_burst_tib + 0.000000001 where sampled_at = ` + one},
		{"sample", "load", "unchanged", `delete from dw.fact_consumption_sample where sampled_at = ` + one},
		{"average", "parallel", "fresh-parallel", `update dw.fact_daily_consumption set consumed_avg_tib = consumed_avg_tib - 0.000000000001 where usage_date = '2025-01-02'`},
		{"digest", "load", "flip", `update dw.fact_daily_consumption set digest = null where usage_date = '2025-01-02'`},
		{"peer's row", "jq", "peer", `delete from bench.peer where sampled_at = '2025-01-02'`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := tiny(t)
			cfg.Rounds, cfg.Only = 1, []string{c.group}
			done := false
			_, err := measure(t.Context(), cfg, func(ctx context.Context, db *database, at string) error {
				if at != c.at || done {
					return nil
				}
				done = true
				tag, err := db.conn.Exec(ctx, c.sql)
				if err == nil && tag.RowsAffected() == 0 {
					err = fmt.Errorf("%s: no row was touched", c.sql)
				}
				return err
			})
			if err == nil || !strings.Contains(err.Error(), "stored is") {
				t.Errorf("measure returned the error %q, want one about what is stored", fmt.Sprint(err))
			}
		})
	}
}

// On a server of somebody else nothing is left behind.
func TestGivenServer(t *testing.T) {
	t.Parallel()
	own, err := localpg.Start(t.Context(), localpg.Config{Source: localpg.Either(localpg.Installed, localpg.Download{}.Find)})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Stop()
	cfg := tiny(t)
	cfg.Rounds, cfg.Only, cfg.DSN = 1, []string{"parallel", "fleet"}, own.URL("")
	r, err := measure(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if l := r.line("fleet"); l == nil || len(l.Rounds) != 1 {
		t.Errorf("the line of the fleet is %v, want one round", l)
	}
	conn, err := pgx.Connect(t.Context(), own.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var left int
	if err := conn.QueryRow(t.Context(), `select count(*) from pg_database where datname like 'meterhouse_bench%'`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d databases are left (%v), want none", left, err)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-only", "everything"}, {"-rounds", "0"}, {"more"}, {"-dsn", "dbname=x", "-meterhouse", "x"}} {
		var out bytes.Buffer
		if err := execute(t.Context(), args, &out, &out); err == nil {
			t.Errorf("%q: want an error", args)
		}
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	var rounds []measurement
	for _, s := range []float64{5, 1, 9, 2} {
		rounds = append(rounds, measurement{Seconds: s})
	}
	if mid, low, high := spread(rounds, func(m measurement) float64 { return m.Seconds }); mid != 3.5 || low != 1 || high != 9 {
		t.Errorf("spread is %v (%v-%v), want 3.5 (1-9)", mid, low, high)
	}
}
