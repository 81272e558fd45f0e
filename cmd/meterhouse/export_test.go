package main

import (
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"meterhouse/etl/billing"
	"meterhouse/etl/warehouse/warehousetest"
)

// exportable is a world with May priced and closed in part, another price for it since, and on 10 June.
func exportable(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.must(exitDone, "run")
	prices := "vendor,item,charge,unit_price,currency,valid_from,waiver\n" +
		"keystone,,committed,10.005,USD,2026-01-01,\nkeystone,Extreme,burst,1200,JPY,2026-01-01,\nkeystone,Extreme,burst,0,JPY,2026-01-01,true\nwolkvox,,license,2.5,COP,2026-01-01,\n"
	if o := w.runWith(prices, "rates", "import", "-"); o.code != exitDone {
		t.Fatal(o.stderr)
	}
	return w
}

func TestExportFOCUS(t *testing.T) {
	t.Parallel()
	w := exportable(t)
	dir := filepath.Join(t.TempDir(), "made", "here")
	o := w.must(exitDone, "export", "focus", "2026-05", "--out", dir)
	table, text := readTable(t, filepath.Join(dir, "cost-and-usage-2026-05.csv"))
	wantContains(t, "stdout", o.stdout, fmt.Sprintf("cost-and-usage-2026-05.csv: %d rows\n", len(table)), fmt.Sprintf("%d rows may still change: x_State is provisional\n", len(table)))

	// What the rows come to is what the statement says, and so does everything that is said of them.
	sums := map[string]*big.Rat{}
	for _, row := range table {
		cost, ok := new(big.Rat).SetString(row["BilledCost"])
		if !ok {
			t.Fatal(row)
		}
		if sums[row["BillingCurrency"]] == nil {
			sums[row["BillingCurrency"]] = new(big.Rat)
		}
		sums[row["BillingCurrency"]].Add(sums[row["BillingCurrency"]], cost)
	}
	statement := w.must(exitDone, "statement", "2026-05").stdout
	var metadata struct {
		DataGenerator, SchemaID, FocusVersion string
		Location                              []struct {
			Filepath   string
			TotalBytes int    `json:"total_bytes"`
			TotalRows  int    `json:"total_rows"`
			SHA256     string `json:"x_Sha256"`
		} `json:"data_location"`
		Schema string                                         `json:"x_Schema"`
		Totals []struct{ BillingCurrency, BilledCost string } `json:"x_Totals"`
		Lines  []map[string]any                               `json:"x_OmittedLines"`
	}
	raw := readJSON(t, filepath.Join(dir, "cost-and-usage-2026-05.metadata.json"), &metadata)
	decimals := map[string]int{"USD": 2, "COP": 2, "JPY": 0}
	for _, total := range metadata.Totals {
		sum := sums[total.BillingCurrency].FloatString(decimals[total.BillingCurrency])
		if total.BilledCost != sum {
			t.Errorf("metadata: %v, rows %s", total, sum)
		}
		wantContains(t, "totals", statement, "\ntotal "+sum+" "+total.BillingCurrency+", ")
		wantContains(t, "totals", o.stdout, "\ntotal "+sum+" "+total.BillingCurrency+", ")
	}
	if len(sums) < 2 || len(metadata.Totals) != len(sums) {
		t.Errorf("%d currencies, %v", len(sums), metadata.Totals)
	}
	hash := sha256.Sum256([]byte(text))
	if l := metadata.Location; len(l) != 1 || l[0].Filepath != "cost-and-usage-2026-05.csv" || l[0].TotalBytes != len(text) || l[0].TotalRows != len(table) || l[0].SHA256 != hex.EncodeToString(hash[:]) {
		t.Errorf("got %+v", l)
	}

	// Lines without a price are told one by one.
	if n := strings.Count(statement, "no rate"); n == 0 || len(metadata.Lines) != n {
		t.Errorf("%d lines omitted, %d without a rate", len(metadata.Lines), n)
	}
	wantContains(t, "stderr", o.stderr, fmt.Sprintf("%d lines without an amount left out", len(metadata.Lines)), "x_OmittedLines in cost-and-usage-2026-05.metadata.json")
	for _, line := range metadata.Lines {
		if line["Reason"] != "no rate" || line["Item"] == "" || line["Source"] == "wolkvox" && line["CustomerId"] != nil {
			t.Errorf("got %v", line)
		}
	}
	wantContains(t, "quantities keep their digits", raw, `"Quantity": `)

	// The schema says the columns. Who changes them sets focusSchemaMade, and this.
	var schema struct {
		SchemaID, FocusVersion, CreationDate string
		ColumnDefinition                     []struct{ ColumnName, DataType string }
	}
	readJSON(t, filepath.Join(dir, metadata.Schema), &schema)
	if schema.SchemaID != metadata.SchemaID || schema.SchemaID != billing.FOCUSSchemaID() || schema.FocusVersion != "1.2" || metadata.FocusVersion != "1.2" || metadata.DataGenerator != "meterhouse" {
		t.Errorf("schema %+v, metadata %+v", schema, metadata)
	}
	if got := schema.SchemaID + " of " + schema.CreationDate; got != schemaKnown {
		t.Errorf("the columns are those of schema %s, known is %s", got, schemaKnown)
	}
	var names []string
	for _, c := range schema.ColumnDefinition {
		names = append(names, c.ColumnName)
	}
	if head, _, _ := strings.Cut(text, "\n"); head != strings.Join(names, ",") {
		t.Errorf("the file has %s, its schema %s", head, names)
	}

	// docs/focus.md explains each of them, and when it is null.
	document, err := os.ReadFile(filepath.Join("..", "..", "docs", "focus.md"))
	if err != nil {
		t.Fatal(err)
	}
	var explained []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(x_)?([A-Z][A-Za-z]+)` \\|.*\\| ([^|]*) \\|$").FindAllStringSubmatch(string(document)[strings.Index(string(document), "## Where each column"):], -1) {
		name, null := m[1]+m[2], m[3]
		explained = append(explained, name)
		for _, row := range table {
			if row[name] == "" && null == "never" || row[name] != "" && strings.HasPrefix(null, "always") {
				t.Errorf("%s is %q, null by docs/focus.md: %s", name, row[name], null)
			}
		}
	}
	if diff := cmp.Diff(names, explained); diff != "" {
		t.Errorf("docs/focus.md (-columns +explained):\n%s", diff)
	}

	// Repeated it is the same, byte for byte; another month stands beside it, nothing else does.
	w.must(exitDone, "export", "focus", "2026-04", "--out", dir)
	w.must(exitDone, "export", "focus", "2026-05", "--out", dir)
	if _, again := readTable(t, filepath.Join(dir, "cost-and-usage-2026-05.csv")); again != text {
		t.Error("the same month is another file")
	}
	if again := readJSON(t, filepath.Join(dir, "cost-and-usage-2026-05.metadata.json"), &metadata); again != raw {
		t.Error("the same month has other metadata")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 5 {
		t.Errorf("%v: %q, want a schema and two files for each month", err, files)
	}
	wantContains(t, "a month without lines", readJSON(t, filepath.Join(dir, "cost-and-usage-2026-04.metadata.json"), &metadata), `"x_Totals": [`, `"x_OmittedLines": [`)

	for args, want := range map[string]string{
		"export":                       "export: want a command: focus",
		"export focus --out x":         "export focus: 0 arguments: want one, a month such as 2026-10",
		"export focus 2026-13 --out x": `period "2026-13": want a month as YYYY-MM`,
		"export focus 2026-05":         "export focus: want --out with the folder to write to",
		"export focus 2026-05 --out x --invoice-issuer keyston=x": `unknown vendor "keyston" (did you mean "keystone"?): want keystone or wolkvox`,
		"export focus 2026-05 --out x --invoice-issuer keystone":  `--invoice-issuer "keystone": want vendor=name`,
		"export focus 2026-05 --out /dev/null/x":                  "want a folder that can be made",
	} {
		wantContains(t, args, w.must(exitUsage, strings.Fields(args)...).stderr, want)
	}
	wantContains(t, "twice", w.must(exitUsage, "export", "focus", "2026-05", "--out", dir, "--invoice-issuer", "keystone=a", "--invoice-issuer", "keystone=b").stderr, "keystone is given twice")
}

// schemaKnown is the schema whose CreationDate focusSchemaMade is.
const schemaKnown = "84773b13-ceea-84c8-89ef-7d6bab9086f1 of 2026-11-22T00:00:00Z"

// readTable reads a CSV file: its rows by the names of its columns, and its text.
func readTable(t *testing.T, file string) (table []map[string]string, text string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(string(raw))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, cells := range rows[1:] {
		row := map[string]string{}
		for i, name := range rows[0] {
			row[name] = cells[i]
		}
		table = append(table, row)
	}
	return table, string(raw)
}

func readJSON(t *testing.T, file string, to any) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, to); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return string(raw)
}

// The FinOps Foundation's own validator finds nothing wrong with a month, but for what it is known to be
// wrong about.
func TestFOCUSValidator(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath(or(os.Getenv("METERHOUSE_FOCUS_VALIDATOR"), "focus-validator"))
	if err != nil {
		warehousetest.Lacking(t, "FOCUS_VALIDATOR", "no focus-validator in PATH or METERHOUSE_FOCUS_VALIDATOR to show the FOCUS files to (see CONTRIBUTING.md)")
	}
	w := exportable(t)
	at := func(now string, args ...string) {
		t.Helper()
		w.must(exitDone, append([]string{"--now", now}, args...)...)
	}
	// May is closed, and June has corrections of it: a price came later.
	at("2026-06-10T12:00:00Z", "close", "2026-05", "--accept-gaps", "--reason", "a test")
	w.setNow("2026-06-11T12:00:00Z")
	if o := w.runWith("vendor,item,charge,unit_price,currency,valid_from\nkeystone,Premium,burst,7.125,USD,2026-01-01\n", "rates", "import", "-"); o.code != exitDone {
		t.Fatal(o.stderr)
	}
	dir := t.TempDir()
	for _, period := range []string{"2026-05", "2026-06"} {
		at("2026-06-11T13:00:00Z", "export", "focus", period, "--out", dir)
	}
	june, _ := readTable(t, filepath.Join(dir, "cost-and-usage-2026-06.csv"))
	if !slices.ContainsFunc(june, func(row map[string]string) bool { return row["ChargeClass"] == "Correction" }) {
		t.Error("June corrects nothing")
	}
	for _, period := range []string{"2026-05", "2026-06"} {
		if failed := validateFOCUS(t, tool, filepath.Join(dir, "cost-and-usage-"+period+".csv")); len(failed) > 0 {
			t.Errorf("%s: %s", period, strings.Join(failed, "\n"))
		}
	}
	// It does look, though not at everything: TestFOCUSIsAsSpecified of etl/billing looks at each value.
	_, text := readTable(t, filepath.Join(dir, "cost-and-usage-2026-05.csv"))
	bad := filepath.Join(t.TempDir(), "bad.csv")
	if err := os.WriteFile(bad, []byte(strings.NewReplacer(",COP,", ",COPS,", ",ServiceName,", ",Service,", ",Recurring,", ",,").Replace(text)), 0o600); err != nil {
		t.Fatal(err)
	}
	failed := strings.Join(validateFOCUS(t, tool, bad), "\n")
	wantContains(t, "a bad file", failed, "BillingCurrency-C-003-M: FAIL", "CostAndUsage-D-041-M: FAIL", "ChargeFrequency-C-002-M: FAIL")
}

// focusValidatorErrs are rules of the model 1.2.0.1 that find fault where the specification's words do not.
var focusValidatorErrs = []string{
	"EffectiveCost-C-005-C", // "and the purchase is intended to cover future eligible charges" is left out: no charge draws on ours
	"EffectiveCost-C-000-M", // for that
	"InvoiceId-C-005-C",     // one of two alternatives, each of which is reported
}

var focusFailure = regexp.MustCompile(`(?m)^\S* ?([A-Za-z]+-[A-Z]-\d{3}-[A-Z]): FAIL .*$`)

// validateFOCUS lists the rules that a file breaks.
func validateFOCUS(t *testing.T, tool, file string) (failed []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool, "--data-file", file, "--validate-version", "1.2.0.1", "--block-download", "--applicability-criteria",
		"USAGE_MEASUREMENT_SUPPORTED,UNIT_PRICING_SUPPORTED,NEGOTIATED_PRICING_SUPPORTED,SUB_ACCOUNT_SUPPORTED,BILLING_BASED_ON_PROVISIONED_RESOURCES_SUPPORTED,RESOURCE_TYPE_ASSIGNMENT_SUPPORTED,REGION_SUPPORTED,TAGGING_SUPPORTED")
	// It looks for its list of currencies below the working folder.
	if real, err := filepath.EvalSymlinks(tool); err == nil {
		if found, _ := filepath.Glob(filepath.Join(filepath.Dir(real), "..", "lib", "python*", "site-packages")); len(found) > 0 {
			cmd.Dir = found[0]
		}
	}
	out, err := cmd.CombinedOutput()
	if !regexp.MustCompile(`Total: \d+ \| Pass: [1-9]\d\d `).Match(out) {
		t.Fatalf("%s: %v: %s", tool, err, out[max(0, len(out)-2000):])
	}
	for _, m := range focusFailure.FindAllStringSubmatch(string(out), -1) {
		if !slices.Contains(focusValidatorErrs, m[1]) {
			failed = append(failed, m[0])
		}
	}
	return failed
}
