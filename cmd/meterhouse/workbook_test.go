package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xuri/excelize/v2"
)

// What a name must never do: in CSV, in a workbook, anywhere.
const formulaName = `=cmd|'/c calc'!A1`

func TestStatementWorkbook(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(exitDone, "run")
	dir := t.TempDir()
	file := filepath.Join(dir, "may.xlsx")
	if o := w.must(exitDone, "statement", "2026-05", "--format", "xlsx", "--out", file); o.stdout != "" {
		t.Errorf("got %q beside the file", o.stdout)
	}
	read := func() []byte {
		t.Helper()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := read()
	f, err := excelize.OpenReader(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	rows, err := f.GetRows("Lines")
	if err != nil {
		t.Fatal(err)
	}
	lines, err := csv.NewReader(strings.NewReader(w.must(exitDone, "statement", "2026-05", "--format", "csv").stdout)).ReadAll()
	if err != nil || len(rows) != len(lines)+2 {
		t.Errorf("%d lines, %d as CSV: %v", len(rows)-3, len(lines)-1, err)
	}
	w.must(exitDone, "statement", "2026-05", "--format", "xlsx", "--out", file) // replaces it
	if !bytes.Equal(first, read()) {
		t.Error("the same statement made another file")
	}
	if piped := w.must(exitDone, "statement", "2026-05", "--format", "xlsx").stdout; piped != string(first) {
		t.Error("stdout gets another file")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v beside the file: %v", entries, err)
	}

	// A file that cannot be finished leaves the former one, and nothing else.
	w.exec(`alter view mart.restatement rename to hidden`)
	wantContains(t, "a broken view", w.must(exitFailed, "statement", "2026-05", "--format", "xlsx", "--out", file).stderr, "workbook of 2026-05: ")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || !bytes.Equal(first, read()) {
		t.Errorf("%v left: %v", entries, err)
	}
	w.exec(`alter view mart.hidden rename to restatement`)

	for args, want := range map[string]string{
		"statement 2026-05 --format xslx":                            `--format "xslx": want table, csv, json, markdown or xlsx`,
		"match 2026-05 --format xlsx":                                `--format "xlsx": want table, csv, json or markdown`,
		"statement 2026-05 --format xlsx --out /nowhere/at/all.xlsx": "--out: ",
	} {
		wantContains(t, args, w.must(exitUsage, strings.Fields(args)...).stderr, want)
	}

	// A screen does not get a file that is no text. The first end of a pseudo-terminal is one.
	if screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0); err != nil {
		t.Logf("no pseudo-terminal here: %v", err)
	} else {
		defer screen.Close()
		var stderr bytes.Buffer
		code := run(t.Context(), []string{"--config", w.file, "statement", "2026-05", "--format", "xlsx"}, nil, strings.NewReader(""), screen, &stderr)
		if code != exitUsage {
			t.Errorf("exit code %d, want %d", code, exitUsage)
		}
		wantContains(t, "a screen", stderr.String(), "want --out FILE")
	}

	// What the vendor calls a level is no formula in CSV, and what it is in JSON.
	w.exec(`update dw.dim_service_level set service_level = '` + strings.ReplaceAll(formulaName, "'", "''") + `' where service_level_key = 1`)
	for _, command := range []string{"statement 2026-05", "match 2026-05", "report consumption_by_level_and_month"} {
		args := append(strings.Fields(command), "--format")
		cells, err := csv.NewReader(strings.NewReader(w.run(append(args, "csv")...).stdout)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, row := range cells {
			for _, cell := range row {
				if cell == "'"+formulaName {
					found++
				}
				if strings.HasPrefix(cell, "=") {
					t.Errorf("%s: %q is a formula", command, cell)
				}
			}
		}
		var objects []map[string]any
		if err := json.Unmarshal([]byte(w.run(append(args, "json")...).stdout), &objects); err != nil {
			t.Fatal(err)
		}
		exact := 0
		for _, o := range objects {
			for _, value := range o {
				if value == formulaName {
					exact++
				}
			}
		}
		if found == 0 || found != exact {
			t.Errorf("%s: the name stands %d times in CSV and %d times in JSON", command, found, exact)
		}
	}

	// A closed line that was tampered with shows.
	args := []string{"--now", "2026-06-10T12:00:00Z", "statement", "2026-05", "--format", "xlsx", "--out", file}
	w.must(exitDone, "--now", "2026-06-10T12:00:00Z", "close", "2026-05", "--accept-gaps", "--reason", "a test")
	w.must(exitDone, args...)
	w.exec(`alter table billing.closed_line disable trigger user`)
	w.exec(`update billing.closed_line set quantity = quantity + 1 where line_no = 2`)
	wantContains(t, "tampered", w.must(exitDifference, args...).stderr, "statement 2026-05: 1 line whose days come to something else")
}
