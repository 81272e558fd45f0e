package main

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/jackc/pgx/v5"

	"meterhouse/etl/warehouse/warehousetest"
)

// dbtTest is one entry of data_tests: a name alone, or a name with what it is asked with.
type dbtTest struct {
	kind  string
	Name  string `yaml:"name"`
	Given struct {
		Column string   `yaml:"column_name"`
		Values []string `yaml:"values"`
		To     string   `yaml:"to"`
		Field  string   `yaml:"field"`
	} `yaml:"arguments"`
	Config struct {
		Where string `yaml:"where"`
	} `yaml:"config"`
}

func (d *dbtTest) UnmarshalYAML(text []byte) error {
	if err := yaml.Unmarshal(text, &d.kind); err == nil {
		return nil
	}
	type plain dbtTest
	var given map[string]plain
	if err := yaml.UnmarshalWithOptions(text, &given, yaml.Strict()); err != nil {
		return err
	}
	for kind, p := range given {
		*d = dbtTest(p)
		d.kind = kind
	}
	return nil
}

type dbtSource struct {
	Name   string `yaml:"name"`
	Schema string `yaml:"schema"`
	Tables []struct {
		Name   string `yaml:"name"`
		Config struct {
			LoadedAt  string `yaml:"loaded_at_field"`
			Freshness struct {
				Filter string `yaml:"filter"`
			} `yaml:"freshness"`
		} `yaml:"config"`
		Tests   []dbtTest `yaml:"data_tests"`
		Columns []struct {
			Name  string    `yaml:"name"`
			Tests []dbtTest `yaml:"data_tests"`
		} `yaml:"columns"`
	} `yaml:"tables"`
}

var dbtReference = regexp.MustCompile(`^source\('(\w+)', '(\w+)'\)$`)

// testDBTSources asks what docs/dbt asks, first by itself and then with dbt where it is installed.
func testDBTSources(t *testing.T, database string) {
	login := warehousetest.Role(t, database, "grant bi_reader to ROLE")
	guest := warehousetest.Connect(t, login)
	var file struct {
		Sources []dbtSource `yaml:"sources"`
	}
	if err := yaml.Unmarshal([]byte(readRepository(t, "docs/dbt/models/sources.yml")), &file); err != nil {
		t.Fatal(err)
	}
	schemas := map[string]string{}
	for _, s := range file.Sources {
		schemas[s.Name] = s.Schema
	}
	count := func(sql string) (n int) {
		t.Helper()
		if err := guest.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return n
	}
	asked := map[string]int{}
	ask := func(table, column string, test dbtTest) {
		t.Helper()
		asked[test.kind]++
		rows, c := table, pgx.Identifier{column}.Sanitize()
		if test.Config.Where != "" {
			rows = fmt.Sprintf("(select * from %s where %s) as t", table, test.Config.Where)
		}
		if test.Given.Column != "" {
			c = test.Given.Column
		}
		var bad string
		switch test.kind {
		case "unique":
			bad = fmt.Sprintf("select 1 from %s where %s is not null group by %[2]s having count(*) > 1", rows, c)
		case "not_null":
			bad = fmt.Sprintf("select 1 from %s where %s is null", rows, c)
		case "accepted_values":
			bad = fmt.Sprintf("select 1 from %s where %s not in ('%s')", rows, c, strings.Join(test.Given.Values, "', '"))
		case "relationships":
			to := dbtReference.FindStringSubmatch(test.Given.To)
			if to == nil || schemas[to[1]] == "" {
				t.Errorf("%s.%s refers to %q", table, column, test.Given.To)
				return
			}
			bad = fmt.Sprintf("select 1 from %s as child where %s is not null and not exists (select from %s.%s as parent where parent.%s = child.%[2]s)", table, c, schemas[to[1]], to[2], test.Given.Field)
		default:
			t.Errorf("%s.%s: test %q", table, column, test.kind)
			return
		}
		if n := count("select count(*) from (" + bad + ") as bad"); n > 0 {
			t.Errorf("%s.%s: %s %s: %d rows do not hold it", table, column, test.kind, test.Name, n)
		}
	}
	for _, s := range file.Sources {
		for _, table := range s.Tables {
			name := s.Schema + "." + table.Name
			if at := table.Config.LoadedAt; at != "" {
				if n := count(fmt.Sprintf("select count(%s) from %s where %s", at, name, or(table.Config.Freshness.Filter, "true"))); n == 0 {
					t.Errorf("%s: nothing has a time in %s", name, at)
				}
			}
			for _, test := range table.Tests {
				ask(name, "", test)
			}
			for _, column := range table.Columns {
				for _, test := range column.Tests {
					ask(name, column.Name, test)
				}
			}
		}
	}
	for _, kind := range []string{"unique", "not_null", "accepted_values", "relationships"} {
		if asked[kind] < 10 {
			t.Errorf("%d tests %s, want more: %v", asked[kind], kind, asked)
		}
	}
	for _, view := range []string{"adjustment", "restatement", "statement", "coverage", "license_high_water", "quarantine"} {
		if count("select count(*) from mart."+view) == 0 {
			t.Errorf("mart.%s is empty: its tests prove nothing", view)
		}
	}

	t.Run("dbt", func(t *testing.T) {
		program, err := exec.LookPath(or(os.Getenv("METERHOUSE_DBT"), "dbt"))
		if err != nil {
			warehousetest.Lacking(t, "DBT", "no dbt here (METERHOUSE_DBT says where): want dbt-core and dbt-postgres from 1.10 on")
		}
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(repository+"docs/dbt")); err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(login)
		if err != nil {
			t.Fatal(err)
		}
		password, _ := u.User.Password()
		run := func(args ...string) string {
			t.Helper()
			cmd := exec.CommandContext(t.Context(), program, args...)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "DBT_PROFILES_DIR="+dir, "DBT_SEND_ANONYMOUS_USAGE_STATS=false", "DBT_USE_COLORS=false",
				"PGHOST="+u.Hostname(), "PGPORT="+u.Port(), "PGDATABASE="+strings.TrimPrefix(u.Path, "/"), "PGUSER="+u.User.Username(), "PGPASSWORD="+password)
			out, _ := cmd.CombinedOutput()
			return string(out)
		}
		if out := run("parse", "--warn-error"); !strings.Contains(out, "Performance info") {
			t.Errorf("dbt parse:\n%s", out)
		}
		if out := run("test", "--select", "source:*"); !strings.Contains(out, "PASS=") || !strings.Contains(out, " WARN=0 ERROR=0 ") {
			t.Errorf("dbt test:\n%s", out)
		}
		// The clock of this warehouse stands still in the past: only that it was asked can be seen.
		if _ = run("source", "freshness"); !fileExists(filepath.Join(dir, "target", "sources.json")) {
			t.Error("dbt source freshness wrote no result")
		}
	})
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
