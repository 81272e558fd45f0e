package warehouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// LevelClasses are the classes of service levels. Capacities of different classes are never summed.
var LevelClasses = []string{"base", "add_on", "unclassified"}

// LevelPattern says which class the service levels have whose name matches the pattern, in which *
// stands for any text. Letter case does not matter, and the longest matching pattern decides.
type LevelPattern struct {
	Pattern string
	Class   string // one of LevelClasses
}

// LevelChange is what an import did to a pattern of the map, and to the service levels of a name.
type LevelChange struct {
	What   string // added, changed, removed (patterns); reclassified, unclassified (levels)
	Name   string // the pattern, or the service level
	Was    string // its former class; empty when there was none
	Is     string // its class now; empty when there is none
	Series int    // level instances of that name; 0 for a pattern
}

var errPlanned = errors.New("only a plan")

// ImportLevels brings the map of level classes to the given patterns, which differ in more than
// letter case. Patterns that are not among them stay, unless replace says that these are all. It
// returns what changed, and each level that no pattern classifies; a plan changes nothing.
func (w *Warehouse) ImportLevels(ctx context.Context, patterns []LevelPattern, replace, planOnly bool) (changes []LevelChange, err error) {
	err = pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		// A load that adds a level meanwhile would classify it by the former map.
		if _, err := tx.Exec(ctx, `lock table dw.dim_service_level, dw.level_class_map in share row exclusive mode`); err != nil {
			return err
		}
		before, err := levelClasses(ctx, tx)
		if err != nil {
			return err
		}
		if changes, err = writePatterns(ctx, tx, patterns, replace); err != nil {
			return err
		}
		after, err := levelClasses(ctx, tx)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(after)) {
			if was, is := before[name], after[name]; was.class != is.class {
				changes = append(changes, LevelChange{"reclassified", name, was.class, is.class, is.series})
			}
		}
		for _, name := range slices.Sorted(maps.Keys(after)) {
			if is := after[name]; is.class == "unclassified" {
				changes = append(changes, LevelChange{What: "unclassified", Name: name, Is: is.class, Series: is.series})
			}
		}
		if planOnly {
			return errPlanned
		}
		return nil
	})
	if err != nil && !errors.Is(err, errPlanned) {
		return nil, fmt.Errorf("import level classes: %w", err)
	}
	return changes, nil
}

// writePatterns writes only what differs: each statement on the map classifies all levels anew.
func writePatterns(ctx context.Context, tx pgx.Tx, patterns []LevelPattern, replace bool) (changes []LevelChange, err error) {
	rows, err := tx.Query(ctx, `select pattern, level_class from dw.level_class_map order by pattern`)
	if err != nil {
		return nil, err
	}
	stored, err := pgx.CollectRows(rows, pgx.RowToStructByPos[LevelPattern])
	if err != nil {
		return nil, err
	}
	var names, classes, removed []string
	wanted := map[string]bool{}
	for _, p := range patterns {
		wanted[strings.ToLower(p.Pattern)] = true
		change := LevelChange{What: "added", Name: p.Pattern, Is: p.Class}
		i := slices.IndexFunc(stored, func(s LevelPattern) bool { return strings.EqualFold(s.Pattern, p.Pattern) })
		if i >= 0 {
			change = LevelChange{What: "changed", Name: stored[i].Pattern, Was: stored[i].Class, Is: p.Class}
		}
		if change.Was != change.Is {
			changes = append(changes, change)
			names, classes = append(names, change.Name), append(classes, change.Is)
		}
	}
	for _, s := range stored {
		if replace && !wanted[strings.ToLower(s.Pattern)] {
			changes = append(changes, LevelChange{What: "removed", Name: s.Pattern, Was: s.Class})
			removed = append(removed, s.Pattern)
		}
	}
	if len(names) > 0 {
		if _, err := tx.Exec(ctx, `
			insert into dw.level_class_map (pattern, level_class)
			select * from unnest($1::text[], $2::text[])
			on conflict (pattern) do update set level_class = excluded.level_class`, names, classes); err != nil {
			return nil, err
		}
	}
	if len(removed) > 0 {
		if _, err := tx.Exec(ctx, `delete from dw.level_class_map where pattern = any ($1)`, removed); err != nil {
			return nil, err
		}
	}
	return changes, nil
}

// levelClass is the class of all service levels of a name.
type levelClass struct {
	class  string
	series int
}

func levelClasses(ctx context.Context, tx pgx.Tx) (map[string]levelClass, error) {
	rows, err := tx.Query(ctx, `select service_level, level_class, count(*) from dw.dim_service_level group by service_level, level_class`)
	if err != nil {
		return nil, err
	}
	classes := map[string]levelClass{}
	var name string
	var is levelClass
	_, err = pgx.ForEachRow(rows, []any{&name, &is.class, &is.series}, func() error {
		classes[name] = is
		return nil
	})
	return classes, err
}
