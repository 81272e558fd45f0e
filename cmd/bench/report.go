package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report is everything that was found out.
type report struct {
	Date     string   `json:"date"`
	Machine  string   `json:"machine"`
	Server   string   `json:"server"`
	Settings string   `json:"settings"`
	Data     string   `json:"data"`
	IdleRSS  int64    `json:"idle_rss_bytes"`
	OwnRSS   int64    `json:"own_rss_bytes"` // a peak cannot be seen below it
	Lines    []*line  `json:"lines"`
	Absences []string `json:"not_measured"`
}

func newReport(b *bench) *report {
	s := b.cfg.shape
	var settings []string
	for _, pair := range b.server.settings {
		settings = append(settings, pair[0]+" "+pair[1])
	}
	return &report{
		Date: time.Now().UTC().Format(time.DateOnly), Machine: machine(), Server: "PostgreSQL " + b.server.version, Settings: strings.Join(settings, ", "),
		Data: fmt.Sprintf("%s samples: %d levels, %d days, one every %s; %d rounds", thousands(int64(s.samples(b.whole()))), s.Levels, s.Days,
			strings.TrimSuffix(s.Step.String(), "0s"), b.cfg.Rounds),
		IdleRSS: b.idleRSS, OwnRSS: ownPeakRSS(), Lines: b.lines, Absences: b.absences,
	}
}

func machine() string {
	text := fmt.Sprintf("%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib int64
		if _, err := fmt.Sscanf(string(info), "MemTotal: %d kB", &kib); err == nil {
			text += fmt.Sprintf(", %.0f GiB", float64(kib)/(1<<20))
		}
	}
	return text
}

// median and ends of what the rounds say.
func spread(rounds []measurement, of func(measurement) float64) (median, least, greatest float64) {
	var all []float64
	for _, m := range rounds {
		all = append(all, of(m))
	}
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2, all[0], all[n-1]
}

// markdown is the table, ratios first.
func (r *report) markdown() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s; %s; %s.\n%s.\nServer: %s.\n\n", r.Date, r.Machine, r.Server, r.Data, r.Settings)
	b.WriteString("| line | × yardstick, median (range) | goal | seconds, median (range) | samples | client CPU | server CPU | peak memory | WAL | dead tuples | temporary files |\n")
	b.WriteString("|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, l := range r.Lines {
		ratio := "–"
		if mid, low, high := spread(l.Rounds, func(m measurement) float64 { return m.Ratio }); mid > 0 {
			ratio = fmt.Sprintf("**%.2f** (%.2f–%.2f)", mid, low, high)
		}
		mid, low, high := spread(l.Rounds, func(m measurement) float64 { return m.Seconds })
		per := func(of func(measurement) float64, unit string, scale float64) string {
			v, _, _ := spread(l.Rounds, of)
			if l.Samples == 0 {
				return "–"
			}
			return significant(v*scale/float64(l.Samples)) + unit
		}
		server := "–"
		if l.Rounds[0].ServerCPU != nil {
			server = per(func(m measurement) float64 { return *m.ServerCPU }, " µs", 1e6)
		}
		peak, _, _ := spread(l.Rounds, func(m measurement) float64 { return float64(m.PeakRSS) })
		temp, _, _ := spread(l.Rounds, func(m measurement) float64 { return float64(m.Temp) })
		fmt.Fprintf(&b, "| %s | %s | %s | %.3g (%.3g–%.3g) | %s | %s | %s | %.0f MiB | %s | %s | %s |\n", l.Title, ratio, l.Goal, mid, low, high, thousands(int64(l.Samples)),
			per(func(m measurement) float64 { return m.ClientCPU }, " µs", 1e6), server, peak/(1<<20),
			per(func(m measurement) float64 { return float64(m.WAL) }, " B", 1), per(func(m measurement) float64 { return float64(m.Dead) }, "", 1),
			bytesOf(temp))
	}
	b.WriteString("\nCPU, WAL and dead tuples are per sample.\n")
	if compared := r.comparisons(); len(compared) > 0 {
		b.WriteString("\n| comparison | median (range) | goal |\n|---|---|---|\n")
		for _, c := range compared {
			fmt.Fprintf(&b, "| %s | **%s** (%s–%s) | %s |\n", c.what, c.spell(c.median), c.spell(c.least), c.spell(c.greatest), c.goal)
		}
		b.WriteString("\n")
	}
	for _, text := range r.Absences {
		fmt.Fprintf(&b, "Not measured: %s.\n", text)
	}
	return b.String()
}

// comparison is what two lines say of each other.
type comparison struct {
	what, goal              string
	median, least, greatest float64
	spell                   func(float64) string
}

func times(v float64) string { return fmt.Sprintf("%.2f ×", v) }
func mib(v float64) string   { return fmt.Sprintf("%.0f MiB", v/(1<<20)) }

// comparisons are those that are not with the yardstick. Where both lines have the same
// rounds, each is compared with its own; otherwise medians are.
func (r *report) comparisons() (all []comparison) {
	seconds := func(m measurement) float64 { return m.Seconds }
	ratio := func(m measurement) float64 { return m.Ratio }
	peak := func(m measurement) float64 { return float64(m.PeakRSS) }
	divide := func(a, b float64) float64 { return a / b }
	add := func(what, goal, a, b string, of func(measurement) float64, op func(a, b float64) float64, spell func(float64) string) {
		x, y := r.line(a), r.line(b)
		if x == nil || y == nil {
			return
		}
		c := comparison{what: what, goal: goal, spell: spell}
		if len(x.Rounds) == len(y.Rounds) {
			var each []measurement
			for i := range x.Rounds {
				each = append(each, measurement{Seconds: op(of(x.Rounds[i]), of(y.Rounds[i]))})
			}
			c.median, c.least, c.greatest = spread(each, seconds)
		} else {
			xm, xl, xh := spread(x.Rounds, of)
			ym, yl, yh := spread(y.Rounds, of)
			c.median, c.least, c.greatest = op(xm, ym), op(xl, yh), op(xh, yl)
		}
		all = append(all, c)
	}
	add("time of 125 days read again: one series-day changed, against none", "≈ 1", "reread-one", "reread", seconds, divide, times)
	var grown []*line
	for _, l := range r.Lines {
		if strings.HasPrefix(l.ID, growthPrefix) {
			grown = append(grown, l)
		}
	}
	for i := 1; i < len(grown); i++ {
		add("time of "+grown[i].Title+", against "+strings.TrimPrefix(grown[0].Title, "one day into "), "≤ 1.1 ×", grown[i].ID, grown[0].ID, seconds, divide, times)
	}
	for _, l := range r.Lines {
		if goals[l.ID] != "" {
			add("peak memory above the idle process: "+l.Title, "≤ 32 MiB", l.ID, "idle", peak, func(a, b float64) float64 { return a - b }, mib)
		}
	}
	for _, p := range peers {
		add("rate of fresh, one connection, against "+p.title, p.goal, "fresh", p.id, ratio, divide, times)
	}
	for _, p := range peers {
		add("rate of unchanged, one connection, against "+p.title, "≥ 15 ×", "unchanged", p.id+again, ratio, divide, times)
	}
	return all
}

func (r *report) line(id string) *line {
	for _, l := range r.Lines {
		if l.ID == id {
			return l
		}
	}
	return nil
}

// significant writes two digits that count.
func significant(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.001:
		return "< 0.001"
	case v < 0.1:
		return fmt.Sprintf("%.3f", v)
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func bytesOf(v float64) string {
	if v == 0 {
		return "0"
	}
	return fmt.Sprintf("%.1f MiB", v/(1<<20))
}

func thousands(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// The marks between which a document holds the table.
const (
	markBegin = "<!-- make bench writes this -->\n"
	markEnd   = "<!-- up to here -->\n"
)

func (r *report) write(stdout io.Writer, cfg config) error {
	table := r.markdown()
	if _, err := io.WriteString(stdout, table); err != nil {
		return err
	}
	if cfg.JSON != "" {
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(cfg.JSON, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	if cfg.Doc == "" {
		return nil
	}
	text, err := os.ReadFile(cfg.Doc)
	if err != nil {
		return err
	}
	head, rest, found := strings.Cut(string(text), markBegin)
	_, tail, closed := strings.Cut(rest, markEnd)
	if !found || !closed {
		return fmt.Errorf("%s: want the marks %q and %q, each in a line of its own", cfg.Doc, strings.TrimSpace(markBegin), strings.TrimSpace(markEnd))
	}
	return os.WriteFile(cfg.Doc, []byte(head+markBegin+"\n"+table+"\n"+markEnd+tail), 0o644)
}
