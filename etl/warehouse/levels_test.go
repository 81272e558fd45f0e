package warehouse

import (
	"fmt"
	"strings"
	"testing"
)

// importLevels returns the changes as text.
func (h *house) importLevels(patterns string, replace, planOnly bool) string {
	h.t.Helper()
	var list []LevelPattern
	for _, p := range strings.Fields(patterns) {
		pattern, class, _ := strings.Cut(p, "=")
		list = append(list, LevelPattern{pattern, class})
	}
	changes, err := h.ImportLevels(h.t.Context(), list, replace, planOnly)
	if err != nil {
		h.t.Fatal(err)
	}
	lines := make([]string, len(changes))
	for i, c := range changes {
		lines[i] = strings.TrimRight(fmt.Sprintf("%s %s %s>%s %d", c.What, c.Name, c.Was, c.Is, c.Series), " 0")
	}
	return strings.Join(lines, ", ")
}

func TestImportLevels(t *testing.T) {
	h := newHouse(t)
	if _, err := h.terms("C-1", committed("A-S1", "Extreme=1", "Ultra Fast=2", "ultra slow=3", "Odd=4", "Odd=5")); err != nil {
		t.Fatal(err)
	}
	step := func(patterns string, replace bool, want string) {
		t.Helper()
		before := h.rows(`select pattern, level_class, xmin from dw.level_class_map union all select service_level, level_class, xmin from dw.dim_service_level order by 1, 2`)
		if got := h.importLevels(patterns, replace, true); got != want {
			t.Errorf("plan of %s\n got %s\nwant %s", patterns, got, want)
		}
		if after := h.rows(`select pattern, level_class, xmin from dw.level_class_map union all select service_level, level_class, xmin from dw.dim_service_level order by 1, 2`); strings.Join(before, "\n") != strings.Join(after, "\n") {
			t.Errorf("the plan of %s wrote\n got %q\nwant %q", patterns, after, before)
		}
		if got := h.importLevels(patterns, replace, false); got != want {
			t.Errorf("import of %s\n got %s\nwant %s", patterns, got, want)
		}
	}
	odd := "unclassified Odd >unclassified 2"
	step("Extreme=base", false, odd+", unclassified Ultra Fast >unclassified 1, unclassified ultra slow >unclassified 1")
	// The longest pattern decides, whatever its letter case.
	step("ultra*=base ULTRA*slow=add_on", false,
		"added ultra* >base, added ULTRA*slow >add_on, reclassified Ultra Fast unclassified>base 1, reclassified ultra slow unclassified>add_on 1, "+odd)
	step("ultra*=base ULTRA*slow=add_on", false, odd)
	step("Ultra*=add_on", false, "changed ultra* base>add_on, reclassified Ultra Fast base>add_on 1, "+odd)
	h.want(`select pattern, level_class from dw.level_class_map where lower(pattern) like 'ultra%' order by pattern collate "C" desc`, "ultra*|add_on", "ULTRA*slow|add_on")
	// The file is the whole map.
	got := h.importLevels("ultra*=base extreme=base odd=base", true, false)
	if want := "added odd >base, "; !strings.Contains(got, want) || !strings.Contains(got, "removed ULTRA*slow add_on>") || strings.Contains(got, "unclassified >") {
		t.Errorf("replace: got %s", got)
	}
	h.want(`select pattern, level_class from dw.level_class_map order by pattern collate "C"`, "Extreme|base", "odd|base", "ultra*|base")
	h.want(`select distinct level_class from dw.dim_service_level`, "base")
	if got := h.importLevels("ultra*=base extreme=base odd=base", true, false); got != "" {
		t.Errorf("the same again: got %s", got)
	}
}
