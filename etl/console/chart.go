package console

import (
	"fmt"
	"html/template"
	"math/big"
	"strings"
	"time"
)

// line of a chart: a value a day as the database writes it; an empty one is unknown and breaks the line.
type line struct {
	Name   string
	Class  string // how it looks: by dashes and marks too, not by colour alone
	Values []string
}

// chart is a drawing with what its template needs to name it.
type chart struct {
	Title string
	Text  string // says in words what is drawn
	SVG   template.HTML
	Lines []chartKey
}

// chartKey is a line of the legend.
type chartKey struct {
	Name string
	SVG  template.HTML
}

// Size of a chart, in units of its own.
const (
	chartWidth, chartHeight          = 800, 240
	chartLeft, chartTop              = 64, 12
	chartRight, chartBottom          = 12, 28
	plotWidth                        = chartWidth - chartLeft - chartRight
	plotHeight                       = chartHeight - chartTop - chartBottom
	sparkWidth, sparkHeight, sparkTo = 124, 24, 20
)

// number is exact. What is none is not drawn.
func rational(text string) (*big.Rat, bool) {
	if text == "" || len(text) > 100 {
		return nil, false
	}
	return new(big.Rat).SetString(text)
}

// draw makes a chart of lines that share days and a scale from zero, or from below where something is.
func draw(title string, from time.Time, lines []line) chart {
	c := chart{Title: title}
	most, least, known := new(big.Rat), new(big.Rat), 0
	days := 0
	for _, l := range lines {
		days = max(days, len(l.Values))
		for _, text := range l.Values {
			if value, ok := rational(text); ok {
				known++
				if value.Cmp(most) > 0 {
					most = value
				}
				if value.Cmp(least) < 0 {
					least = value
				}
			}
		}
	}
	until := from.AddDate(0, 0, days-1)
	c.Text = fmt.Sprintf("%s in TiB, each day from %s to %s.", title, from.Format(time.DateOnly), until.Format(time.DateOnly))
	if known == 0 {
		c.Text += " There are no figures."
		return c
	}
	step := niceStep(new(big.Rat).Sub(most, least))
	low := multiple(least, step, false)
	high := multiple(most, step, true)
	if high.Cmp(low) == 0 {
		high.Add(high, step)
	}
	height := new(big.Rat).Sub(high, low)
	y := func(value *big.Rat) string {
		part := new(big.Rat).Sub(high, value)
		part.Quo(part, height).Mul(part, big.NewRat(plotHeight, 1))
		part.Add(part, big.NewRat(chartTop, 1))
		return part.FloatString(1)
	}
	x := func(day int) string {
		return big.NewRat(int64(chartLeft*max(days-1, 1)+plotWidth*day), int64(max(days-1, 1))).FloatString(1)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %d %d" role="img" aria-label="%s">`, chartWidth, chartHeight, template.HTMLEscapeString(c.Text+" The figures are in the table below."))
	for at := new(big.Rat).Set(low); at.Cmp(high) <= 0; at.Add(at, step) {
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%s" y2="%s"/><text class="tick" x="%d" y="%s" text-anchor="end" dominant-baseline="middle">%s</text>`,
			chartLeft, chartWidth-chartRight, y(at), y(at), chartLeft-6, y(at), plain(at))
	}
	fmt.Fprintf(&b, `<text class="tick" x="4" y="%d">TiB</text>`, chartTop-2)
	for day := range days {
		date := from.AddDate(0, 0, day)
		label := ""
		switch {
		case days <= 45 && (date.Day()%5 == 0 && date.Day() < 30 || date.Day() == 1), days > 45 && days <= 130 && (date.Day() == 1 || date.Day() == 15):
			label = date.Format("2 Jan")
		case days > 130 && date.Day() == 1:
			label = date.Format("Jan 06")
		}
		if label != "" {
			fmt.Fprintf(&b, `<line class="grid" x1="%s" x2="%s" y1="%d" y2="%d"/><text class="tick" x="%s" y="%d" text-anchor="middle">%s</text>`,
				x(day), x(day), chartTop, chartHeight-chartBottom, x(day), chartHeight-8, label)
		}
	}
	for _, l := range lines {
		b.WriteString(path(l, x, y))
		c.Lines = append(c.Lines, chartKey{l.Name, template.HTML(fmt.Sprintf(`<svg class="key" viewBox="0 0 36 12" aria-hidden="true"><path class="line %s" d="M2 6H34"/></svg>`, l.Class))})
	}
	b.WriteString(`</svg>`)
	c.SVG = template.HTML(b.String())
	return c
}

// path is a line that is broken where a day is not known; a day between two such is a dot.
func path(l line, x func(int) string, y func(*big.Rat) string) string {
	var d, dots strings.Builder
	isOn := false
	for day, text := range l.Values {
		value, ok := rational(text)
		if !ok {
			isOn = false
			continue
		}
		next := false
		if day+1 < len(l.Values) {
			_, next = rational(l.Values[day+1])
		}
		switch {
		case isOn:
			fmt.Fprintf(&d, "L%s %s", x(day), y(value))
		case next:
			fmt.Fprintf(&d, "M%s %s", x(day), y(value))
		default:
			fmt.Fprintf(&dots, `<circle class="dot %s" cx="%s" cy="%s" r="2.5"/>`, l.Class, x(day), y(value))
		}
		isOn = true
	}
	return fmt.Sprintf(`<path class="line %s" d="%s"/>%s`, l.Class, d.String(), dots.String())
}

// niceStep is 1, 2 or 5 times a power of ten, of which some five make up the height.
func niceStep(height *big.Rat) *big.Rat {
	step := big.NewRat(1, 1)
	if height.Sign() <= 0 {
		return step
	}
	wanted := new(big.Rat).Quo(height, big.NewRat(5, 1))
	ten := big.NewRat(10, 1)
	for step.Cmp(wanted) < 0 {
		step.Mul(step, ten)
	}
	for step.Cmp(wanted) >= 0 {
		step.Quo(step, ten)
	}
	for _, by := range []int64{2, 5, 10} {
		if larger := new(big.Rat).Mul(step, big.NewRat(by, 1)); larger.Cmp(wanted) >= 0 {
			return larger
		}
	}
	return step.Mul(step, ten)
}

// multiple is the next multiple of a step, upwards or downwards.
func multiple(value, step *big.Rat, isUp bool) *big.Rat {
	q := new(big.Rat).Quo(value, step)
	whole := new(big.Int).Div(q.Num(), q.Denom()) // rounds down: a denominator is positive
	if isUp && !q.IsInt() {
		whole.Add(whole, big.NewInt(1))
	}
	return new(big.Rat).Mul(new(big.Rat).SetInt(whole), step)
}

// plain is a tick's figure, exact and without zeros behind.
func plain(value *big.Rat) string {
	digits, ok := value.FloatPrec()
	if !ok {
		return value.FloatString(6)
	}
	return value.FloatString(digits)
}

// spark is the small drawing of a level's days: the columns spark, a value of 0 to 20 or '-' each day, and mark.
func spark(r record) template.HTML {
	values := strings.Fields(r["spark"].Text)
	if len(values) == 0 {
		return ""
	}
	l := line{Class: "average"}
	unknown := 0
	for _, text := range values {
		if text == "-" {
			text = ""
			unknown++
		}
		l.Values = append(l.Values, text)
	}
	x := func(day int) string {
		return big.NewRat(int64(2*max(len(values)-1, 1)+(sparkWidth-4)*day), int64(max(len(values)-1, 1))).FloatString(1)
	}
	y := func(value *big.Rat) string {
		return new(big.Rat).Sub(big.NewRat(sparkTo+2, 1), value).FloatString(1)
	}
	var b strings.Builder
	label := fmt.Sprintf("%d days", len(values))
	if unknown > 0 {
		label += fmt.Sprintf(", %d of them without figures", unknown)
	}
	fmt.Fprintf(&b, `<svg class="spark" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`, sparkWidth, sparkHeight, sparkWidth, sparkHeight, label)
	if mark, ok := rational(r["mark"].Text); ok {
		fmt.Fprintf(&b, `<path class="line committed" d="M2 %sH%d"/>`, y(mark), sparkWidth-2)
	}
	b.WriteString(path(l, x, y) + `</svg>`)
	return template.HTML(b.String())
}
