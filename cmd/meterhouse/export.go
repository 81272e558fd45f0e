package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"meterhouse/etl/billing"
	"meterhouse/etl/warehouse"
)

func (a *app) exportCommand() *cobra.Command {
	cmd := group("export", "Write what a month comes to for other programs", "focus 2026-10 --out focus")
	cmd.Long = "Writes what a month comes to in a form that other programs have agreed on."
	cmd.AddCommand(a.exportFOCUSCommand())
	return cmd
}

func (a *app) exportFOCUSCommand() *cobra.Command {
	var out string
	var issuers []string
	cmd := &cobra.Command{
		Use:   "focus PERIOD --out DIR",
		Short: "Write a month as a FOCUS " + billing.FOCUSVersion + " dataset",
		Long: `Writes the month PERIOD (YYYY-MM) as a Cost and Usage dataset of the FinOps Open Cost and Usage
Specification (FOCUS) ` + billing.FOCUSVersion + ` into the folder DIR, which is made when it is missing:

  cost-and-usage-PERIOD.csv             one row per priced line of the statement; what changed of closed
                                        months and is billed in this one has ChargeClass Correction
  cost-and-usage-PERIOD.metadata.json   totals, rows, SHA-256, and the lines that have no row
  cost-and-usage.schema-ID.json         the columns and their types

A line without a price has no row: a cost that nobody knows is not zero. Such lines are counted on stderr
and listed in the metadata. Of a closed month the frozen lines are written; rows that may still change
have x_State provisional. Repeating replaces the files of that month, and writes the same bytes as long as
nothing changed. docs/focus.md tells where each column comes from.`,
		Example: "  meterhouse export focus 2026-10 --out focus\n" +
			"  meterhouse export focus 2026-10 --out focus --invoice-issuer keystone='Brightmere Cloud Ltd.'",
		Args: oneArgument("a month such as 2026-10"),
	}
	cmd.Flags().StringVar(&out, "out", "", "`folder` to write to")
	cmd.Flags().StringArrayVar(&issuers, "invoice-issuer", nil, "`vendor=name` of who sends the invoices (default the vendor); repeatable")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		period, err := billing.ParsePeriod(args[0])
		if err != nil {
			return usagef("export focus: %w", err)
		}
		if out == "" {
			return usagef("export focus: want --out with the folder to write to")
		}
		names, err := readIssuers(issuers)
		if err != nil {
			return err
		}
		s, err := a.openSession(cmd.Context(), need{database: true})
		if err != nil {
			return err
		}
		defer s.close(&err)
		f, err := billing.New(s.wh.Pool(), a.now).FOCUS(cmd.Context(), period, names)
		if err != nil {
			return err
		}
		return a.writeFOCUS(out, f)
	}
	return cmd
}

// readIssuers reads vendor=name for each --invoice-issuer.
func readIssuers(texts []string) (map[string]string, error) {
	names := map[string]string{}
	for _, text := range texts {
		vendor, name, _ := strings.Cut(text, "=")
		name = strings.TrimSpace(name)
		switch _, twice := names[vendor]; {
		case !slices.Contains(vendors, vendor):
			return nil, usagef("--invoice-issuer %q: unknown vendor %q%s: want %s", text, vendor, nearest(vendor, vendors), oneOf(vendors))
		case name == "":
			return nil, usagef("--invoice-issuer %q: want vendor=name", text)
		case twice:
			return nil, usagef("--invoice-issuer %q: %s is given twice: want one name", text, vendor)
		}
		names[vendor] = name
	}
	return names, nil
}

// focusSchemaMade is when the structure of the dataset became what FOCUSSchemaID names: to be set anew with it.
const focusSchemaMade = "2026-11-22T00:00:00Z"

// focusMetadata is what FOCUS wants to be told beside the rows: who made them, and by which schema. The
// names of the file's particulars are those of the specification's example, what begins with x_ is ours.
type focusMetadata struct {
	DataGenerator string       `json:"DataGenerator"`
	SchemaID      string       `json:"SchemaId"`
	Schema        string       `json:"x_Schema"`
	FocusVersion  string       `json:"FocusVersion"`
	Location      []focusFile  `json:"data_location"`
	Period        string       `json:"x_Period"`
	IsClosed      bool         `json:"x_IsClosed"`
	Provisional   int          `json:"x_ProvisionalRows"`
	Totals        []focusTotal `json:"x_Totals"`
	Omitted       []record     `json:"x_OmittedLines"`
}

type focusFile struct {
	Path   string `json:"filepath"`
	Bytes  int    `json:"total_bytes"`
	Rows   int    `json:"total_rows"`
	SHA256 string `json:"x_Sha256"`
}

type focusTotal struct {
	Currency string `json:"BillingCurrency"`
	Cost     string `json:"BilledCost"`
	Rows     int    `json:"x_Rows"`
}

// focusFiles are the files of a month, in the order in which they are to be written: while the hash in the
// metadata, which come last, is not that of the rows, somebody is writing, or was interrupted.
func focusFiles(f billing.FOCUS) (files []namedFile, m focusMetadata, err error) {
	var rows bytes.Buffer
	if err := printCSV(&rows, focusTable(f)); err != nil {
		return nil, m, err
	}
	id := billing.FOCUSSchemaID()
	sum := sha256.Sum256(rows.Bytes())
	base := "cost-and-usage-" + f.Period.String()
	m = focusMetadata{
		DataGenerator: "meterhouse", SchemaID: id, Schema: "cost-and-usage.schema-" + id + ".json", FocusVersion: billing.FOCUSVersion,
		Location: []focusFile{{base + ".csv", rows.Len(), len(f.Rows), hex.EncodeToString(sum[:])}},
		Period:   f.Period.String(), IsClosed: f.IsClosed, Provisional: f.Provisional, Totals: []focusTotal{}, Omitted: omittedLines(f.Omitted),
	}
	for _, t := range f.Totals {
		m.Totals = append(m.Totals, focusTotal{t.Currency, money(t.Amount, t.Currency), t.Lines})
	}
	return []namedFile{
		{m.Schema, func(w io.Writer) error { return printJSON(w, focusSchema(id)) }},
		{base + ".csv", func(w io.Writer) error { _, err := w.Write(rows.Bytes()); return err }},
		{base + ".metadata.json", func(w io.Writer) error { return printJSON(w, m) }},
	}, m, nil
}

type namedFile struct {
	name  string
	write func(io.Writer) error
}

// writeFOCUS writes the files of a month into a folder.
func (a *app) writeFOCUS(dir string, f billing.FOCUS) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return usagef("--out: %w: want a folder that can be made", err)
	}
	files, m, err := focusFiles(f)
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := a.writeTo(filepath.Join(dir, file.name), file.write); err != nil {
			return err
		}
	}
	base := "cost-and-usage-" + f.Period.String()
	fmt.Fprintf(a.stdout, "wrote %s: %s\n", filepath.Join(dir, base+".csv"), count(len(f.Rows), "row"))
	for _, t := range m.Totals {
		fmt.Fprintf(a.stdout, "total %s %s, %s\n", t.Cost, t.Currency, count(t.Rows, "row"))
	}
	if f.Provisional > 0 {
		fmt.Fprintf(a.stdout, "%s may still change: x_State is provisional\n", count(f.Provisional, "row"))
	}
	if n := len(f.Omitted); n > 0 {
		fmt.Fprintf(a.stderr, "%s without an amount left out, as the costs are not known: see x_OmittedLines in %s, and `meterhouse rates list`\n", count(n, "line"), base+".metadata.json")
	}
	return nil
}

// focusTable is what printCSV writes: numbers stay numbers, and a text is not taken for a formula.
func focusTable(f billing.FOCUS) warehouse.Table {
	t := warehouse.Table{Rows: f.Rows}
	for _, c := range billing.FOCUSColumns() {
		t.Columns = append(t.Columns, c.Name)
		t.Numeric = append(t.Numeric, c.Type == "DECIMAL" || c.Type == "INTEGER")
	}
	return t
}

func focusSchema(id string) any {
	type column struct {
		Name     string `json:"ColumnName"`
		Type     string `json:"DataType"`
		Encoding string `json:"StringEncoding,omitempty"`
	}
	var columns []column
	for _, c := range billing.FOCUSColumns() {
		encoding := ""
		if c.Type == "STRING" || c.Type == "JSON" {
			encoding = "UTF-8"
		}
		columns = append(columns, column{c.Name, c.Type, encoding})
	}
	return struct {
		ID      string   `json:"SchemaId"`
		Version string   `json:"FocusVersion"`
		Made    string   `json:"CreationDate"`
		Columns []column `json:"ColumnDefinition"`
	}{id, billing.FOCUSVersion, focusSchemaMade, columns}
}

// omittedLines are the lines without a row, with null for what is unknown or has no value.
func omittedLines(lines []billing.OmittedLine) []record {
	t := warehouse.Table{
		Columns: strings.Fields(`Reason Source CustomerId Account SubscriptionNumber Discriminator Item Description Charge IsWaiver AdjustsPeriod FirstDay LastDay Quantity Unit`),
		Numeric: []bool{13: true, 14: false},
		Boolean: []bool{9: true, 14: false},
	}
	for _, l := range lines {
		t.Rows = append(t.Rows, []string{l.Reason, l.Source, l.CustomerID, l.Account, l.SubscriptionNumber, l.Discriminator, l.Item, l.Description, l.Charge,
			strconv.FormatBool(l.IsWaiver), l.AdjustsPeriod, l.First.String(), l.Last.String(), digits(l.Quantity), l.Unit})
	}
	return records(t)
}
