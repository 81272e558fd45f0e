package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sourceFile is one Go file of the module that ships.
type sourceFile struct {
	pkg  string // import path
	name string // from the module's root
	file *ast.File
}

// shippedFiles parses every Go file of the module but tests.
func shippedFiles(t *testing.T) (*token.FileSet, []sourceFile) {
	t.Helper()
	root := filepath.Join("..", "..")
	set := token.NewFileSet()
	var files []sourceFile
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		dir := rel[:max(0, strings.LastIndexByte(rel, '/'))]
		files = append(files, sourceFile{strings.TrimSuffix("meterhouse/"+dir, "/"), rel, file})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return set, files
}

func under(path string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(root string) bool { return path == root || strings.HasPrefix(path, root+"/") })
}

// mayImport is what of ours a package may import, as docs/architecture.md tells; packages that are not named may
// import nothing of ours.
var mayImport = map[string][]string{
	"meterhouse/etl":                         {"meterhouse/etl/internal/killpoint"},
	"meterhouse/etl/internal/fetch":          {"meterhouse/etl", "meterhouse/etl/internal/killpoint"},
	"meterhouse/etl/internal/accept":         {"meterhouse/etl", "meterhouse/etl/internal"},
	"meterhouse/etl/internal/jsonread":       {"meterhouse/etl"},
	"meterhouse/etl/keystone":                {"meterhouse/etl", "meterhouse/etl/internal"},
	"meterhouse/etl/wolkvox":                 {"meterhouse/etl", "meterhouse/etl/internal"},
	"meterhouse/etl/alert":                   {"meterhouse/etl", "meterhouse/etl/internal/fetch"},
	"meterhouse/etl/warehouse":               {"meterhouse/etl", "meterhouse/etl/internal/killpoint", "meterhouse/migrations"},
	"meterhouse/etl/warehouse/warehousetest": {"meterhouse/etl", "meterhouse/migrations"},
	"meterhouse/etl/schedule":                {"meterhouse/etl", "meterhouse/etl/internal/killpoint"},
	"meterhouse/etl/console":                 {},
	"meterhouse/etl/metabase":                {"meterhouse/etl/internal/fetch"},
	"meterhouse/etl/billing":                 {"meterhouse/etl"},
	"meterhouse/etl/localpg/fetchpg":         {"meterhouse/etl/localpg"},
	"meterhouse/cmd/bench":                   {"meterhouse/etl/localpg", "meterhouse/etl/keystone/keystonesim"},
	"meterhouse/etl/etltest":                 {"meterhouse/etl", "meterhouse/etl/internal"},
}

// mayNotImport names packages of others that are not for everybody.
var mayNotImport = map[string][]string{
	"meterhouse/etl":           {"github.com/jackc", "github.com/robfig", "net/http", "database/sql"},
	"meterhouse/etl/keystone":  {"github.com/jackc", "github.com/robfig", "database/sql"},
	"meterhouse/etl/wolkvox":   {"github.com/jackc", "github.com/robfig", "database/sql"},
	"meterhouse/etl/internal":  {"github.com/jackc", "github.com/robfig", "database/sql"},
	"meterhouse/etl/schedule":  {"net/http", "database/sql"},
	"meterhouse/etl/warehouse": {"net/http", "github.com/robfig", "github.com/prometheus"},
	"meterhouse/etl/billing":   {"net/http", "github.com/robfig", "database/sql"},
	"meterhouse/etl/console":   {"github.com/jackc/pgx/v5/stdlib", "github.com/robfig", "database/sql"},
	"meterhouse/etl/alert":     {"github.com/jackc", "github.com/robfig", "database/sql"},
	"meterhouse/etl/metabase":  {"github.com/jackc", "github.com/robfig", "database/sql"},
}

func TestImportRules(t *testing.T) {
	t.Parallel()
	set, files := shippedFiles(t)
	if len(files) < 50 {
		t.Fatalf("%d files: the walk went wrong", len(files))
	}
	for _, f := range files {
		for _, spec := range f.file.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if why := forbidden(f.pkg, path); why != "" {
				t.Errorf("%s: imports %s: %s", set.Position(spec.Pos()), path, why)
			}
		}
	}
}

// forbidden says why pkg must not import path, "" if it may.
func forbidden(pkg, path string) string {
	// With the rule that only tests import warehousetest, this keeps containers out of the binary.
	if under(path, "github.com/testcontainers", "github.com/moby") && !strings.HasSuffix(pkg, "/warehousetest") {
		return "containers are for tests"
	}
	if pkg == "meterhouse/cmd/meterhouse" {
		if strings.HasSuffix(path, "/warehousetest") || strings.HasSuffix(path, "/etltest") {
			return "only tests may"
		}
		return ""
	}
	for root, paths := range mayNotImport {
		// The root package alone has rules of its own, not for what lies below it.
		applies := pkg == root || root != "meterhouse/etl" && under(pkg, root)
		if applies && under(path, paths...) && !strings.HasSuffix(pkg, "sim") {
			return root + " is kept clear of it"
		}
	}
	if !under(path, "meterhouse") {
		return ""
	}
	switch allowed := mayImport[pkg]; {
	case strings.HasSuffix(pkg, "/warehousetest") && path == "meterhouse/etl/localpg":
		return ""
	case slices.Contains(allowed, path):
		return ""
	case slices.Contains(allowed, "meterhouse/etl/internal") && under(path, "meterhouse/etl/internal"):
		return ""
	}
	return fmt.Sprintf("only cmd wires, %s may import %v of ours", pkg, mayImport[pkg])
}

func TestForbidden(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pkg, path string
		bad       bool
	}{
		{"meterhouse/etl", "meterhouse/etl/keystone", true},
		{"meterhouse/etl", "github.com/jackc/pgx/v5", true},
		{"meterhouse/etl", "time", false},
		{"meterhouse/etl/keystone", "meterhouse/etl", false},
		{"meterhouse/etl/keystone", "meterhouse/etl/internal/fetch", false},
		{"meterhouse/etl/keystone", "meterhouse/etl/wolkvox", true},
		{"meterhouse/etl/wolkvox", "meterhouse/etl/warehouse", true},
		{"meterhouse/etl/wolkvox", "github.com/jackc/pgx/v5/pgxpool", true},
		{"meterhouse/etl/warehouse", "meterhouse/etl/keystone", true},
		{"meterhouse/etl/warehouse", "net/http", true},
		{"meterhouse/etl/warehouse", "meterhouse/etl/alert", true},
		{"meterhouse/etl/alert", "github.com/jackc/pgx/v5", true},
		{"meterhouse/etl/alert", "meterhouse/etl/warehouse", true},
		{"meterhouse/etl/alert", "net/http", false},
		{"meterhouse/etl/warehouse", "github.com/jackc/pgx/v5", false},
		{"meterhouse/etl/warehouse", "meterhouse/migrations", false},
		{"meterhouse/etl/keystone/keystonesim", "meterhouse/etl", true},
		{"meterhouse/etl/keystone/keystonesim", "net/http", false},
		{"meterhouse/migrations", "meterhouse/etl", true},
		{"meterhouse/cmd/meterhouse", "meterhouse/etl/warehouse", false},
		{"meterhouse/cmd/meterhouse", "meterhouse/etl/warehouse/warehousetest", true},
		{"meterhouse/cmd/meterhouse", "github.com/testcontainers/testcontainers-go/modules/postgres", true},
		{"meterhouse/etl/console", "meterhouse/etl/warehouse", true},
		{"meterhouse/etl/console", "github.com/jackc/pgx/v5", false},
		{"meterhouse/etl/console", "meterhouse/etl", true},
		{"meterhouse/etl/console", "net/http", false},
		{"meterhouse/etl/metabase", "meterhouse/etl/warehouse", true},
		{"meterhouse/etl/metabase", "github.com/jackc/pgx/v5", true},
		{"meterhouse/etl/metabase", "meterhouse/etl/internal/fetch", false},
		{"meterhouse/etl/warehouse", "github.com/prometheus/client_golang/prometheus", true},
		{"meterhouse/etl/localpg", "github.com/testcontainers/testcontainers-go", true},
		{"meterhouse/etl/warehouse/warehousetest", "github.com/testcontainers/testcontainers-go", false},
		{"meterhouse/cmd/meterhouse", "meterhouse/etl/etltest", true},
		{"meterhouse/cmd/bench", "meterhouse/etl/warehouse", true},
		{"meterhouse/cmd/bench", "meterhouse/etl/keystone/keystonesim", false},
		{"meterhouse/etl/keystone", "meterhouse/etl/etltest", true},
		{"meterhouse/etl/etltest", "meterhouse/etl/internal/fetch", false},
		{"meterhouse/etl/etltest", "meterhouse/etl/wolkvox", true},
		{"meterhouse/etl/etltest", "net/http", false},
	} {
		if got := forbidden(c.pkg, c.path) != ""; got != c.bad {
			t.Errorf("%s imports %s: forbidden %v, want %v", c.pkg, c.path, got, c.bad)
		}
	}
}

// No floating point number touches a quantity on its way from a vendor's text to numeric.
func TestNoFloats(t *testing.T) {
	t.Parallel()
	set, files := shippedFiles(t)
	for _, f := range files {
		onPath := f.pkg == "meterhouse/etl" ||
			under(f.pkg, "meterhouse/etl/keystone", "meterhouse/etl/wolkvox", "meterhouse/etl/warehouse", "meterhouse/etl/internal")
		if !onPath || strings.HasSuffix(f.pkg, "sim") {
			continue
		}
		ast.Inspect(f.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident:
				switch n.Name {
				case "float32", "float64", "ParseFloat", "FormatFloat", "AppendFloat", "Float", "Float64", "Float32", "NewFloat":
					t.Errorf("%s: %s in the data path", set.Position(n.Pos()), n.Name)
				}
			case *ast.BasicLit:
				if n.Kind == token.FLOAT {
					t.Errorf("%s: %s in the data path", set.Position(n.Pos()), n.Value)
				}
			}
			return true
		})
	}
}
