package console

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Colours that are seen on each other: texts want a contrast of 4.5, lines and frames 3 (WCAG 2.2, 1.4.3 and 1.4.11).
var seenTogether = []struct {
	front, back string
	least       float64
}{
	{"ink", "paper", 4.5}, {"ink", "shade", 4.5}, {"soft", "paper", 4.5}, {"soft", "shade", 4.5},
	{"link", "paper", 4.5}, {"link", "shade", 4.5}, {"brand", "paper", 4.5}, {"brand", "shade", 4.5}, {"paper", "brand", 4.5},
	{"ink", "line", 4.5}, // a part of the navigation that is pointed at
	{"ink", "good-back", 4.5}, {"ink", "warn-back", 4.5}, {"ink", "bad-back", 4.5}, {"ink", "busy-back", 4.5}, {"soft", "busy-back", 4.5},
	{"link", "busy-back", 4.5}, {"link", "bad-back", 4.5}, {"link", "good-back", 4.5},
	{"good", "good-back", 4.5}, {"warn", "warn-back", 4.5}, {"bad", "bad-back", 4.5}, {"busy", "busy-back", 4.5},
	{"warn", "shade", 4.5}, {"bad", "shade", 4.5}, {"good", "shade", 4.5},
	{"busy", "paper", 3}, {"busy", "shade", 3}, // the frame of what has the focus
	{"warn", "paper", 3}, // lines of charts; others are above
}

// Everybody can read it, on light paper and on dark: contrasts are computed from the style itself, and no
// colour stands anywhere else.
func TestContrast(t *testing.T) {
	t.Parallel()
	text, err := static.ReadFile("static/console.css")
	if err != nil {
		t.Fatal(err)
	}
	css := regexp.MustCompile(`/\*.*?\*/`).ReplaceAllString(string(text), "")
	blocks := regexp.MustCompile(`:root \{([^}]*)\}`).FindAllStringSubmatch(css, -1)
	if len(blocks) != 2 || !strings.Contains(css, "@media screen and (prefers-color-scheme: dark)") {
		t.Fatalf("%d sets of colours, want a light and a dark one", len(blocks))
	}
	schemes := []map[string]string{{}, {}}
	for i, block := range blocks {
		for _, m := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6});`).FindAllStringSubmatch(block[1], -1) {
			schemes[i][m[1]] = m[2]
		}
	}
	if light, dark := slices.Sorted(maps.Keys(schemes[0])), slices.Sorted(maps.Keys(schemes[1])); !slices.Equal(light, dark) {
		t.Errorf("light colours %v, dark ones %v", light, dark)
	}
	for i, name := range []string{"light", "dark"} {
		for _, c := range seenTogether {
			if got := contrast(t, schemes[i][c.front], schemes[i][c.back]); got < c.least {
				t.Errorf("%s: %s on %s has a contrast of %.2f, want %.1f", name, c.front, c.back, got, c.least)
			}
		}
	}
	for _, m := range regexp.MustCompile(`var\(--([a-z-]+)\)`).FindAllStringSubmatch(css, -1) {
		if schemes[0][m[1]] == "" {
			t.Errorf("there is no colour %s", m[1])
		}
	}
	rest := css
	for _, block := range blocks {
		rest = strings.Replace(rest, block[0], "", 1)
	}
	if other := regexp.MustCompile(`(?:#[0-9a-f]{3,8}\b|rgba?\(|hsla?\()`).FindAllString(rest, -1); fmt.Sprint(other) != "[#000]" { // ink, on real paper
		t.Errorf("colours that are in no set: %v", other)
	}
}

func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	x, y := luminance(t, a), luminance(t, b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// luminance is how bright a colour is to people, from 0 to 1.
func luminance(t *testing.T, colour string) (sum float64) {
	t.Helper()
	if len(colour) != 7 {
		t.Fatalf("colour %q: want #rrggbb", colour)
	}
	for i, share := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(colour[1+2*i:3+2*i], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		part := float64(n) / 255
		if part <= 0.04045 {
			part /= 12.92
		} else {
			part = math.Pow((part+0.055)/1.055, 2.4)
		}
		sum += share * part
	}
	return sum
}
