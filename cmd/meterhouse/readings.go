package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"meterhouse/etl"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/wolkvox"
)

func (a *app) readingsCommand() *cobra.Command {
	cmd := group("readings", "Import past readings that can no longer be fetched", "import FILE")
	cmd.AddCommand(a.readingsImportCommand())
	return cmd
}

var readingColumns = []csvColumn{
	{name: "product"}, {name: "description"}, {name: "date"}, {name: "items"},
	{name: "account", optional: true}, {name: "operation", optional: true}, {name: "read_at", optional: true},
}

func (a *app) readingsImportCommand() *cobra.Command {
	var planOnly bool
	var f format
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import wolkvox readings from a CSV file",
		Long: `Imports readings of days that the vendor no longer tells, such as an export of its portal, marked as
imported (is_imported). They count only on days without a reading from the vendor itself.
Columns: product, description, date (local day), items (as the vendor writes it; month to date for
a counter), and optionally account, operation, read_at (RFC 3339; default: the end of the day).
All rows are good and loaded, or none is. Repeating is safe. FILE - is stdin.`,
		Example: "  meterhouse readings import portal-2025.csv --plan\n  meterhouse readings import portal-2025.csv",
		Args:    oneArgument("a CSV file, or - for stdin"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			file, err := a.openCSV(args[0], readingColumns...)
			if err != nil {
				return err
			}
			s, err := a.openOfflineSession(cmd.Context())
			if err != nil {
				return err
			}
			defer s.close(&err)
			imports, err := s.readImports(cmd.Context(), file)
			if err != nil {
				return err
			}
			if planOnly {
				return a.printImports(imports, f)
			}
			results, err := s.loadImports(cmd.Context(), imports, filepath.Base(file.name))
			s.app.progress.clear()
			return errors.Join(a.printResults(results, f), verdict(results, err, a.told))
		},
	}
	cmd.Flags().BoolVar(&planOnly, "plan", false, "check the file, print what would be imported and change nothing")
	formatFlag(cmd, &f)
	return cmd
}

// readingImport is what a file says of one account at one instant.
type readingImport struct {
	account *wolkvoxAccount
	readAt  time.Time
	rows    map[string][]wolkvox.ImportedRow // by product
	lines   map[string][]csvRow
}

// readImports judges every row by the rules of the vendor's own answers and returns the accepted ones
// by account and time. Any bad row makes it an error.
func (s *session) readImports(ctx context.Context, file *csvFile) ([]*readingImport, error) {
	if len(s.wolkvox) == 0 {
		return nil, usagef("readings import: no wolkvox account is configured")
	}
	for _, w := range s.wolkvox {
		if err := w.LearnOperation(ctx); err != nil {
			return nil, err
		}
		if w.Operation() == "" { // a slip in a file must not decide whose readings are accepted from now on
			return nil, usagef("account %s: its operation is not known yet: want a reading first (`meterhouse run %s`), or operation in the configuration",
				w.cfg.Account, wolkvox.Dataset)
		}
	}
	type key struct {
		account string
		readAt  time.Time
	}
	imports := map[key]*readingImport{}
	for _, row := range file.rows {
		w := s.importAccount(file, row)
		if w == nil {
			continue
		}
		readAt, ok := importTime(file, row, w.Zone(), s.app.now())
		product := row.get("product")
		known := slices.Concat(productCodes(), w.cfg.Products)
		if !slices.Contains(known, product) {
			file.bad(row, "product", "%q%s: want the vendor's name of a report, such as ivr_minutes", product, nearest(product, known))
			ok = false
		}
		told := wolkvox.ImportedRow{
			Operation: or(row.get("operation"), w.Operation()), Description: row.get("description"), Items: row.get("items"), Date: row.get("date"),
		}
		if file.semicolons && thousands.MatchString(told.Items) {
			file.bad(row, "items", "%q: a decimal, or thousands? want it without a point, or with fewer or more digits behind it", told.Items)
			ok = false
		}
		if !ok || !judgeImport(file, w, product, readAt, []wolkvox.ImportedRow{told}, []csvRow{row}) {
			continue
		}
		k := key{w.cfg.Account, readAt.UTC()}
		if imports[k] == nil {
			imports[k] = &readingImport{w, readAt.UTC(), map[string][]wolkvox.ImportedRow{}, map[string][]csvRow{}}
		}
		imports[k].rows[product] = append(imports[k].rows[product], told)
		imports[k].lines[product] = append(imports[k].lines[product], row)
	}
	// Rows may be good one by one and contradict each other.
	for _, i := range imports {
		for product, rows := range i.rows {
			if len(rows) > 1 {
				judgeImport(file, i.account, product, i.readAt, rows, i.lines[product])
			}
		}
	}
	if err := file.err(); err != nil {
		return nil, err
	}
	if len(imports) == 0 {
		return nil, usagef("%s: no rows below the header: want at least one reading", file.name)
	}
	if err := s.warnOfStrangers(ctx, file); err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(imports), func(a, b *readingImport) int {
		if c := strings.Compare(a.account.cfg.Account, b.account.cfg.Account); c != 0 {
			return c
		}
		return a.readAt.Compare(b.readAt)
	}), nil
}

// warnOfStrangers names what the vendor never told of a product that it does tell about: spelled
// otherwise, a description would count beside the one that is meant.
func (s *session) warnOfStrangers(ctx context.Context, file *csvFile) error {
	t, err := s.wh.Query(ctx, `select distinct product, description from mart.license_snapshot where not is_imported`)
	if err != nil {
		return err
	}
	known := map[string][]string{}
	for _, row := range t.Rows {
		known[row[0]] = append(known[row[0]], row[1])
	}
	warned := map[[2]string]bool{}
	for _, row := range file.rows {
		product, description := row.get("product"), row.get("description")
		if told := known[product]; len(told) > 0 && !slices.Contains(told, description) && !warned[[2]string{product, description}] {
			warned[[2]string{product, description}] = true
			s.app.warn("%s:%d: the vendor tells nothing of %s called %q%s: it counts as a series of its own",
				file.name, row.line, product, description, nearest(description, told))
		}
	}
	return nil
}

// importAccount is the account of a row: the one it names, or the only one there is.
func (s *session) importAccount(file *csvFile, row csvRow) *wolkvoxAccount {
	name := row.get("account")
	var names []string
	for _, w := range s.wolkvox {
		if w.cfg.Account == name || name == "" && len(s.wolkvox) == 1 {
			return w
		}
		names = append(names, w.cfg.Account)
	}
	if name == "" {
		file.bad(row, "account", "is empty: want one of %s", strings.Join(names, ", "))
	} else {
		file.bad(row, "account", "%q%s: want one of %s", name, nearest(name, names), strings.Join(names, ", "))
	}
	return nil
}

// importTime is when a row was read: as it says, or at the last second of its day.
func importTime(file *csvFile, row csvRow, zone *time.Location, now time.Time) (readAt time.Time, ok bool) {
	day, err := time.ParseInLocation(time.DateOnly, row.get("date"), zone)
	if err != nil {
		file.bad(row, "date", "%q: want the local day as YYYY-MM-DD", row.get("date"))
		return readAt, false
	}
	if now.Sub(day) > 20*365*24*time.Hour {
		file.bad(row, "date", "%s: want a day of the last 20 years", row.get("date"))
		return readAt, false
	}
	column := "date"
	readAt = time.Date(day.Year(), day.Month(), day.Day(), 23, 59, 59, 0, zone)
	if text := row.get("read_at"); text != "" {
		column = "read_at"
		if readAt, err = time.Parse(time.RFC3339, text); err != nil {
			file.bad(row, column, "%q: want RFC 3339, such as %s", text, day.Add(18*time.Hour).Format(time.RFC3339))
			return readAt, false
		}
	}
	if readAt.After(now) {
		file.bad(row, column, "%s is in the future: want readings of the past", readAt.Format(time.RFC3339))
		return readAt, false
	}
	return readAt, true
}

// thousands looks like 62.610: where commas are decimal, a person may mean sixty-two thousand.
var thousands = regexp.MustCompile(`^\d{1,3}(\.\d{3})+$`)

// wantedReading says what would have been accepted.
var wantedReading = map[string]string{
	"value_missing":         "a value",
	"number_format":         "digits with a decimal point and no other separator, or H:MM:SS for a duration",
	"number_negative":       "0 or more",
	"number_range":          "a smaller number",
	"out_of_month":          "a day in the month of read_at",
	"conflicting_duplicate": "one figure for each product, description and time",
	"wrong_operation":       "the operation of the account's first reading, or of its configuration",
}

// judgeImport reports rows of one product and instant that the rules refuse.
func judgeImport(file *csvFile, w *wolkvoxAccount, product string, readAt time.Time, rows []wolkvox.ImportedRow, lines []csvRow) bool {
	ans, err := wolkvox.Imported(w.cfg.Account, product, file.name, readAt, rows)
	if err != nil {
		file.bad(lines[0], "items", "%w", err)
		return false
	}
	defer ans.Body.Close()
	var refused refusals
	_, err = w.Transform(ans, &refused)
	for _, r := range refused.all {
		_, index, _ := strings.Cut(r.Path, "/data/")
		index, column, _ := strings.Cut(index, "/")
		n := 0
		_, _ = fmt.Sscan(index, &n) // our own rows: the path has their number
		file.bad(lines[n], or(column, "items"), "%q: %s: want %s", r.Excerpt, r.Reason, or(wantedReading[r.Reason], "what the vendor writes there"))
	}
	if err != nil && len(refused.all) == 0 {
		file.bad(lines[0], "operation", "%q: wrong_operation: want %q, %s", rows[0].Operation, w.Operation(), wantedReading["wrong_operation"])
	}
	return err == nil && len(refused.all) == 0
}

// refusals is a sink that keeps what is refused.
type refusals struct {
	etl.Discard
	all []etl.Reject
}

func (r *refusals) Reject(reject etl.Reject) error { r.all = append(r.all, reject); return nil }
func (r *refusals) Restart() error                 { r.all = nil; return nil }

// loadImports loads what was accepted, each account in one transaction: one result for every account.
func (s *session) loadImports(ctx context.Context, imports []*readingImport, from string) (results []result, err error) {
	if err := s.saveProducts(ctx); err != nil {
		return nil, err
	}
	for len(imports) > 0 {
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
		w := imports[0].account
		var answers []answer
		for len(imports) > 0 && imports[0].account == w {
			i := imports[0]
			imports = imports[1:]
			for _, product := range slices.Sorted(maps.Keys(i.rows)) {
				ans, err := wolkvox.Imported(w.cfg.Account, product, from, i.readAt, i.rows[product])
				if err != nil {
					return results, err
				}
				answers = append(answers, answer{ans, nil})
			}
		}
		job := w.job(s.app.now())
		job.SlotOpen = true // for how the result is shown, too
		out, err := s.loadAtHand(ctx, w, job, answers)
		results = append(results, result{job: job, out: out, err: err})
	}
	return results, nil
}

// printImports lists what a file would bring, by account, product and month.
func (a *app) printImports(imports []*readingImport, f format) error {
	t := warehouse.Table{
		Columns: []string{"account", "product", "month", "readings"},
		Numeric: []bool{false, false, false, true},
	}
	counts := map[[3]string]int{}
	for _, i := range imports {
		for product, rows := range i.rows {
			counts[[3]string{i.account.cfg.Account, product, i.readAt.In(i.account.Zone()).Format("2006-01")}] += len(rows)
		}
	}
	keys := slices.SortedFunc(maps.Keys(counts), func(a, b [3]string) int { return slices.Compare(a[:], b[:]) })
	for _, k := range keys {
		t.Rows = append(t.Rows, append(k[:], fmt.Sprint(counts[k])))
	}
	return f.print(a.stdout, t)
}
