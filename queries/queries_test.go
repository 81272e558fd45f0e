package queries_test

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"meterhouse/etl/warehouse/warehousetest"
	"meterhouse/queries"
)

func TestMain(m *testing.M) { warehousetest.Main(m) }

func TestQueriesRunAndAreIndexed(t *testing.T) {
	conn := warehousetest.Connect(t, warehousetest.New(t))
	index, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	names, err := fs.Glob(queries.FS, "*.sql")
	if err != nil || len(names) == 0 {
		t.Fatalf("queries: %v, %v", names, err)
	}
	for _, name := range names {
		sql, err := fs.ReadFile(queries.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		text := string(sql)
		question, _, _ := strings.Cut(strings.TrimPrefix(text, "-- Question: "), "\n")
		for _, want := range []string{"-- Question: ", "\n-- Grain: ", "\n-- Caveats: ", "\nwith params as ("} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: lacks %q", name, want)
			}
		}
		if !strings.Contains(string(index), "]("+name+")") || !strings.Contains(strings.ToLower(string(index)), strings.ToLower(question)) {
			t.Errorf("%s: README.md does not list it with its question %q", name, question)
		}
		if _, err := conn.Exec(t.Context(), text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
