package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"meterhouse/etl/warehouse"
)

func (a *app) levelsCommand() *cobra.Command {
	cmd := group("levels", "List the service levels, classify them, and decide about their absent days and accrued burst", "list")
	cmd.AddCommand(a.levelsListCommand(), a.levelsImportCommand(), a.levelsAccruedCommand(), a.levelsAbsentCommand())
	return cmd
}

func (a *app) levelsListCommand() *cobra.Command {
	var patterns bool
	var f format
	cmd := &cobra.Command{
		Use:   "list [--patterns]",
		Short: "List the service levels with their classes",
		Long: `Lists each service level that a vendor named, with its class: base, add_on or unclassified. With
--patterns it lists the map that decides, in the form in which levels import takes it back.`,
		Example: "  meterhouse levels list\n  meterhouse levels list --patterns --format csv > levels.csv",
		Args:    noArguments,
	}
	cmd.Flags().BoolVar(&patterns, "patterns", false, "the map instead of the levels")
	formatFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sql := `select service_level, level_class, count(*) as series from dw.dim_service_level group by 1, 2 order by 1`
		if patterns {
			sql = `select pattern, level_class from dw.level_class_map order by pattern collate "C"`
		}
		return a.printQuery(cmd, f, "no service level was loaded yet", sql)
	}
	return cmd
}

func (a *app) levelsImportCommand() *cobra.Command {
	var replace, planOnly bool
	var f format
	cmd := &cobra.Command{
		Use:   "import FILE [--replace] [--plan]",
		Short: "Say by a CSV file which service levels are base and which are add-ons",
		Long: `Reads pattern,level_class with a header; - is stdin. A class is base, add_on or unclassified. In a
pattern * stands for any text, letter case does not matter, and the longest pattern that matches
a level decides. Patterns that the file does not name stay, unless --replace is given. What
changes is printed, with every level that is left unclassified; such are never totalled.`,
		Example: "  meterhouse levels list --patterns --format csv > levels.csv\n" +
			"  meterhouse levels import levels.csv --plan\n" +
			"  printf 'pattern,level_class\\nUltra*,base\\n' | meterhouse levels import -",
		Args: oneArgument("a CSV file, or - for stdin"),
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "the file is the whole map: remove every other pattern")
	cmd.Flags().BoolVar(&planOnly, "plan", false, "print what would change and change nothing")
	formatFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		patterns, err := a.readLevels(args[0])
		if err != nil {
			return err
		}
		s, err := a.openSession(cmd.Context(), need{database: true})
		if err != nil {
			return err
		}
		defer s.close(&err)
		changes, err := s.wh.ImportLevels(cmd.Context(), patterns, replace, planOnly)
		if err != nil {
			return err
		}
		return a.printLevelChanges(f, changes, planOnly)
	}
	return cmd
}

// readLevels reads and checks the whole file before anything is written.
func (a *app) readLevels(name string) ([]warehouse.LevelPattern, error) {
	file, err := a.openCSV(name, csvColumn{name: "pattern"}, csvColumn{name: "level_class"})
	if err != nil {
		return nil, err
	}
	const longest = 200
	var patterns []warehouse.LevelPattern
	lines := map[string]int{}
	for _, row := range file.rows {
		p := warehouse.LevelPattern{Pattern: row.get("pattern"), Class: row.get("level_class")}
		key := strings.ToLower(p.Pattern)
		switch first := lines[key]; {
		case p.Pattern == "":
			file.bad(row, "pattern", "is empty: want the name of a level, or a part of it with *")
		case len(p.Pattern) > longest:
			file.bad(row, "pattern", "%d bytes: want at most %d", len(p.Pattern), longest)
		case first > 0:
			file.bad(row, "pattern", "%q stands on line %d too: want each pattern once, letter case does not matter", p.Pattern, first)
		default:
			lines[key] = row.line
		}
		if !slices.Contains(warehouse.LevelClasses, p.Class) {
			file.bad(row, "level_class", "%q%s: want %s", p.Class, nearest(p.Class, warehouse.LevelClasses), oneOf(warehouse.LevelClasses))
		}
		patterns = append(patterns, p)
	}
	if err := file.err(); err != nil {
		return nil, err
	}
	if len(patterns) == 0 {
		return nil, usagef("%s: no rows below the header: want at least one pattern", file.name)
	}
	return patterns, nil
}

func (a *app) printLevelChanges(f format, changes []warehouse.LevelChange, planOnly bool) error {
	t := warehouse.Table{Columns: []string{"what", "name", "was", "is", "series"}, Numeric: []bool{false, false, false, false, true}}
	counts := map[string]int{}
	for _, c := range changes {
		series := ""
		if c.Series > 0 {
			series = strconv.Itoa(c.Series)
		}
		t.Rows = append(t.Rows, []string{c.What, c.Name, c.Was, c.Is, series})
		counts[c.What]++
	}
	return a.printChanges(f, t, planOnly, fmt.Sprintf("added %d, changed %d, removed %d, levels reclassified %d, left unclassified %d",
		counts["added"], counts["changed"], counts["removed"], counts["reclassified"], counts["unclassified"]))
}
