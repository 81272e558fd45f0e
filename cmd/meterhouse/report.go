package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"meterhouse/etl/warehouse"
	"meterhouse/queries"
)

func (a *app) reportCommand() *cobra.Command {
	var params []string
	var asOf string
	var f format
	cmd := &cobra.Command{
		Use:   "report [NAME]",
		Short: "Answer one of the analyst's questions, or list them",
		Long: `Answers a ready question about what is loaded; without a name it lists them with the parameters
that --param can set. Days are YYYY-MM-DD, months YYYY-MM. Changes nothing. The SQL of each is in
queries/ and runs unchanged in psql, Metabase and DBeaver. Questions about the days of history can be
asked as of a former time: what they answer then is what was known of those days.`,
		Example: "  meterhouse report\n" +
			"  meterhouse report missing_days\n" +
			"  meterhouse report consumption_by_level_and_month --param from_month=2026-01 --format csv\n" +
			"  meterhouse report days_over_commitment --as-of 2026-11-03T09:00:00Z",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("report: %d arguments: want one name, see `meterhouse report`", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) == 0 {
				if len(params) > 0 {
					return usagef("--param %q: want the name of a report before it, see `meterhouse report`", params[0])
				}
				return a.listReports(f)
			}
			q, err := findReport(args[0])
			if err != nil {
				return err
			}
			then, err := readAsOf(asOf)
			if err != nil {
				return err
			}
			if !then.IsZero() {
				if q.IsTimeless() {
					return usagef("--as-of: what %s is about is not kept as it was known: want %s", q.Name, oneOf(timedReports()))
				}
				q = q.AsOf(then)
			}
			values, err := readParams(q, params)
			if err != nil {
				return err
			}
			s, err := a.openSession(cmd.Context(), need{database: true})
			if err != nil {
				return err
			}
			defer s.close(&err)
			return s.answer(cmd.Context(), q, values, f)
		},
	}
	cmd.Flags().StringVar(&asOf, "as-of", "", "what was known at this RFC 3339 `time` (default now)")
	cmd.Flags().StringArrayVar(&params, "param", nil, "`name=value` in place of a default; may be repeated")
	formatFlag(cmd, &f)
	return cmd
}

// timedReports are the ones that take --as-of.
func timedReports() (names []string) {
	for _, q := range queries.All() {
		if !q.IsTimeless() {
			names = append(names, q.Name)
		}
	}
	return names
}

func findReport(name string) (queries.Query, error) {
	var names []string
	for _, q := range queries.All() {
		if q.Name == name {
			return q, nil
		}
		names = append(names, q.Name)
	}
	return queries.Query{}, usagef("report: unknown report %q%s: want one that `meterhouse report` lists", name, nearest(name, names))
}

// readParams reads name=value for each --param.
func readParams(q queries.Query, params []string) (map[string]string, error) {
	values := map[string]string{}
	for _, text := range params {
		name, value, _ := strings.Cut(text, "=")
		p, known := q.Param(name)
		_, twice := values[name]
		switch names := paramNames(q); {
		case !strings.Contains(text, "="):
			return nil, usagef("--param %q: want name=value with the name %s", text, oneOf(names))
		case !known:
			return nil, usagef("--param %q: %s has no parameter %q%s: want %s", text, q.Name, name, nearest(name, names), oneOf(names))
		case twice:
			return nil, usagef("--param %q: %s is given twice: want one value", text, name)
		}
		var err error
		if values[name], err = p.Read(value); err != nil {
			return nil, usagef("--param %q: %w", text, err)
		}
	}
	for name, from := range values { // a span that ends before it begins looks like nothing to report
		rest, isStart := strings.CutPrefix(name, "from_")
		if until, given := values["until_"+rest]; isStart && given && until <= from {
			return nil, usagef("--param %s=%s --param until_%s=%s: want the end after the start: it is the first that no longer counts", name, from, rest, until)
		}
	}
	return values, nil
}

func paramNames(q queries.Query) (names []string) {
	for _, p := range q.Params {
		names = append(names, p.Name)
	}
	return names
}

func (a *app) listReports(f format) error {
	t := warehouse.Table{Columns: []string{"report", "question", "parameters"}}
	for _, q := range queries.All() {
		t.Rows = append(t.Rows, []string{q.Name, q.Question, strings.Join(paramNames(q), ", ")})
	}
	return f.print(a.stdout, t)
}

// answer prints what a question comes to. People are told the question, the values it was asked
// with, and what to keep in mind.
func (s *session) answer(ctx context.Context, q queries.Query, values map[string]string, f format) error {
	ask := func(sql string, args []any) (warehouse.Table, error) {
		t, err := s.wh.Query(ctx, sql, args...)
		if err != nil {
			return t, fmt.Errorf("report %s: %w", q.Name, err)
		}
		return t, nil
	}
	t, err := ask(q.With(values))
	if err != nil {
		return err
	}
	out := s.app.stdout
	if !f.isForPeople() {
		return f.print(out, t)
	}
	used, err := ask(q.Values(values))
	if err != nil {
		return err
	}
	f.heading(out, q.Question)
	for i, name := range used.Columns {
		fmt.Fprintf(out, "%s%s %s", []string{"", ", "}[min(i, 1)], name, printable(used.Rows[0][i]))
	}
	fmt.Fprint(out, "\n\n")
	if len(t.Rows) == 0 {
		fmt.Fprintln(out, "no rows")
	} else if err := f.print(out, t); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nGrain: %s\n", q.Grain)
	f.gap(out)
	fmt.Fprintf(out, "Caveats: %s\n", q.Caveats)
	return nil
}
