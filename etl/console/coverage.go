package console

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// statuses of days, the worst first: of several days that share a cell the worst is shown. Each has a letter, so
// that no colour need be told apart.
var statuses = []struct{ name, letter, rest string }{
	{"lost", "L", "ost"}, {"missing", "M", "issing"}, {"partial", "P", "artial"}, {"empty", "E", "mpty"}, {"not_due", "·", "not due"}, {"observed", "•", "observed"},
}

// level of a status in statuses; one that is not known is the worst.
func statusLevel(name string) byte {
	for i, s := range statuses {
		if s.name == name {
			return byte(i)
		}
	}
	return 0
}

// notExpected is a day that nothing is expected of.
const notExpected = 255

// series is one thing that has a status each day.
type series struct {
	Dataset, Account, Customer, Subscription, Discriminator, Level, Ordinal, Product string
	days                                                                             []byte // index in statuses, or notExpected
	text                                                                             string // what a search looks through
}

// coverageFilter selects series, for the page and for its CSV alike. An empty field selects any.
type coverageFilter struct {
	Dataset, Account, Q, Status           string
	Customer, Subscription, Discriminator string // one subscription, when there is a Subscription
}

// coverageFilterOf reads the filter of a page or a CSV.
func coverageFilterOf(get func(name string) string) coverageFilter {
	return coverageFilter{get("dataset"), get("account"), get("q"), get("status"), get("customer"), get("subscription"), get("discriminator")}
}

// put writes the filter into an address.
func (f coverageFilter) put(q url.Values) {
	for _, part := range [][2]string{{"dataset", f.Dataset}, {"account", f.Account}, {"q", f.Q}, {"status", f.Status}} {
		if part[1] != "" {
			q.Set(part[0], part[1])
		}
	}
	if f.Subscription != "" {
		for _, part := range [][2]string{{"customer", f.Customer}, {"subscription", f.Subscription}, {"discriminator", f.Discriminator}} {
			q.Set(part[0], part[1])
		}
	}
}

// fits tells whether a series is selected, by all of its days: with a Status, one of them has it.
func (f coverageFilter) fits(s *series) bool {
	switch {
	case f.Account != "" && s.Account != f.Account, f.Dataset != "" && s.Dataset != f.Dataset:
		return false
	case f.Subscription != "" && (s.Customer != f.Customer || s.Subscription != f.Subscription || s.Discriminator != f.Discriminator):
		return false
	case f.Q != "" && !strings.Contains(s.text, searched(f.Q)):
		return false
	case f.Status == "":
		return true
	}
	wanted := slices.IndexFunc(statuses, func(s struct{ name, letter, rest string }) bool { return s.name == f.Status })
	return wanted >= 0 && slices.Contains(s.days, byte(wanted))
}

// searched is a text as a search compares it: small letters, single spaces.
func searched(parts ...string) string {
	return strings.ToLower(strings.Join(strings.Fields(strings.Join(parts, " ")), " "))
}

// compare orders series as people read them.
func (s *series) compare(o *series) int {
	return cmp.Or(strings.Compare(s.Dataset, o.Dataset), strings.Compare(s.Account, o.Account), strings.Compare(s.Customer, o.Customer),
		strings.Compare(s.Subscription, o.Subscription), strings.Compare(s.Discriminator, o.Discriminator), strings.Compare(s.Level, o.Level),
		cmp.Compare(len(s.Ordinal), len(o.Ordinal)), strings.Compare(s.Ordinal, o.Ordinal), strings.Compare(s.Product, o.Product))
}

// calendar is the days of all series in some months.
type calendar struct {
	from   time.Time
	levels []series // as people read them
}

const mostMonths = 3

func span(month string, months int) (from, until time.Time) {
	from, _ = time.Parse("2006-01", month)
	return from, from.AddDate(0, months, 0)
}

func (v *view) calendar(month string, months int) (*calendar, copyState, error) {
	what, state, err := v.s.copies.get(v, fmt.Sprintf("coverage %s %d", month, months), 0, func(_ context.Context, v *view) (any, error) {
		from, until := span(month, months)
		days := int(until.Sub(from).Hours() / 24)
		c := &calendar{from: from}
		err := v.each(v.s.sql("coverage_days"), []any{from.Format(time.DateOnly), until.Format(time.DateOnly)}, func([]string, []bool) error { return nil }, func(row []cell) error {
			s := series{Dataset: row[0].Text, Account: row[1].Text, Customer: row[2].Text, Subscription: row[3].Text, Discriminator: row[4].Text, Level: row[5].Text,
				Ordinal: row[6].Text, Product: row[7].Text}
			nth, err := strconv.Atoi(row[8].Text)
			if err != nil || nth < 0 || nth >= days {
				return fmt.Errorf("day %q of the calendar: want 0 to %d", row[8].Text, days-1)
			}
			if n := len(c.levels); n == 0 || c.levels[n-1].compare(&s) != 0 {
				c.levels = append(c.levels, s.blank(days))
			}
			c.levels[len(c.levels)-1].add(nth, statusLevel(row[9].Text))
			return nil
		})
		if err != nil {
			return nil, err
		}
		slices.SortStableFunc(c.levels, func(a, b series) int { return a.compare(&b) })
		return c, nil
	})
	c, _ := what.(*calendar)
	return c, state, err
}

// blank is the series without a day.
func (s series) blank(days int) series {
	s.days = slices.Repeat([]byte{notExpected}, days)
	s.text = searched(s.Account, s.Customer, s.Subscription, s.Discriminator, instance(s.Level, s.Ordinal), s.Product)
	return s
}

// together are series of which the levels of a subscription are one: the worst of each day.
func together(levels []*series) (all []*series) {
	for _, l := range levels {
		s := *l
		s.Level, s.Ordinal = "", ""
		if n := len(all); n == 0 || all[n-1].compare(&s) != 0 {
			s.days = slices.Clone(l.days)
			all = append(all, &s)
			continue
		}
		for day, status := range l.days {
			all[len(all)-1].add(day, status)
		}
	}
	return all
}

// add keeps the worst status of a day.
func (s *series) add(day int, status byte) { s.days[day] = min(s.days[day], status) }

// heat is what templates/coverage.html is given.
type heat struct {
	Month                 string
	Before, After         string // links
	BeforeName, AfterName string
	Months                string
	coverageFilter
	Detail              string
	Accounts, Datasets  []string
	State               copyState
	Days                []heatDay
	Heads               []heatMonth
	Rows                []heatRow
	Sums                []heatSum
	Totals              []heatTotal
	Series              int    // that fit
	Of                  string // the only subscription that is shown
	All                 string // where all of them are
	Statuses            []string
	From, To, Total     int
	Previous, Next, CSV string
	Legend              []heatCell
	IsDetail            bool
}

type heatDay struct {
	Number  string
	Date    string
	Weekend bool
}

type heatMonth struct {
	Name string
	Days int
}

type heatRow struct {
	*series
	Name  string // of what the row is, below its customer or account
	Link  string // to its levels
	Cells []heatCell
}

type heatCell struct {
	Status, Letter, Rest, Title, Link string
}

// heatSum is how many of a day's series are not whole.
type heatSum struct{ Text, Title, Status string }

type heatTotal struct {
	Status string
	Days   int
}

func coveragePage() page {
	return page{path: "/coverage", nav: "Coverage", template: "coverage", tables: []*table{coverageTable}, load: loadCoverage}
}

// coverageTable is the CSV of the page: the days of mart.coverage of the series that fit.
var coverageTable = &table{
	name: "coverage",
	filters: []filter{
		{name: "from"}, {name: "until"}, {name: "dataset"}, {name: "account"}, {name: "q"}, {name: "status"},
		{name: "customer"}, {name: "subscription"}, {name: "discriminator"},
	},
	rows: coverageRows,
}

// coverageRows hands over the days of the series that the page shows: what fits is decided by the same code, series
// by series, as soon as all days of one are there.
func coverageRows(v *view, given map[string]string, columns func([]string, []bool) error, row func([]cell) error) error {
	f := coverageFilterOf(func(name string) string { return given[name] })
	var of series
	var days [][]cell
	flush := func() error {
		defer func() { days = days[:0] }()
		if len(days) == 0 || !f.fits(&of) {
			return nil
		}
		for _, day := range days {
			if err := row(day); err != nil {
				return err
			}
		}
		return nil
	}
	var at map[string]int
	err := v.each(v.s.sql("coverage"), []any{given["from"], given["until"]}, func(names []string, numeric []bool) error {
		at = map[string]int{}
		for i, name := range names {
			at[name] = i
		}
		return columns(names, numeric)
	}, func(cells []cell) error {
		text := func(name string) string { return cells[at[name]].Text }
		s := series{Dataset: text("dataset"), Account: text("account"), Customer: text("customer_id"), Subscription: text("subscription_number"),
			Discriminator: text("discriminator"), Level: text("service_level"), Ordinal: text("level_ordinal"), Product: text("product")}
		if of.compare(&s) != 0 {
			if err := flush(); err != nil {
				return err
			}
			of = s.blank(0)
		}
		of.days, days = append(of.days, statusLevel(text("status"))), append(days, cells)
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

func loadCoverage(v *view) (content, error) {
	asked := v.r.URL.Query()
	clean := func(name string) string {
		return strings.ToValidUTF8(strings.ReplaceAll(strings.TrimSpace(asked.Get(name)), "\x00", ""), "")
	}
	now := v.s.cfg.Now().UTC()
	h := heat{Month: asked.Get("month"), Detail: clean("detail"), coverageFilter: coverageFilterOf(clean)}
	if !isMonth(h.Month) {
		h.Month = now.Format("2006-01")
		if now.Day() < 8 { // little is to be seen of a month that has just begun
			h.Month = v.s.lastMonth()
		}
	}
	months, err := strconv.Atoi(asked.Get("months"))
	if err != nil || months < 1 || months > mostMonths {
		months = 1
	}
	h.Months, h.IsDetail = strconv.Itoa(months), h.Detail == "levels"
	c, state, err := v.calendar(h.Month, months)
	if err != nil {
		return content{}, err
	}
	h.State = state
	link := func(change func(url.Values)) string {
		q := url.Values{"month": {h.Month}}
		if months > 1 {
			q.Set("months", h.Months)
		}
		if h.IsDetail {
			q.Set("detail", h.Detail)
		}
		h.put(q)
		change(q)
		return v.r.URL.Path + "?" + q.Encode()
	}
	h.BeforeName, h.AfterName = beside(h.Month, -months), beside(h.Month, months)
	h.Before, h.After = link(func(q url.Values) { q.Set("month", h.BeforeName) }), link(func(q url.Values) { q.Set("month", h.AfterName) })
	if h.Subscription != "" {
		h.Of = strings.Join(strings.Fields(strings.Join([]string{h.Customer, h.Subscription, h.Discriminator}, " ")), " ")
		h.All = link(func(q url.Values) {
			for _, name := range []string{"customer", "subscription", "discriminator", "detail"} {
				q.Del(name)
			}
		})
	}
	from, until := span(h.Month, months)
	csv := url.Values{"from": {from.Format(time.DateOnly)}, "until": {until.Format(time.DateOnly)}}
	h.put(csv)
	h.CSV = "/coverage.csv?" + csv.Encode()
	for day := from; day.Before(until); day = day.AddDate(0, 0, 1) {
		h.Days = append(h.Days, heatDay{day.Format("2"), day.Format(time.DateOnly), day.Weekday() == time.Saturday || day.Weekday() == time.Sunday})
		if day.Day() == 1 {
			h.Heads = append(h.Heads, heatMonth{Name: day.Format("January 2006")})
		}
		h.Heads[len(h.Heads)-1].Days++
	}
	for _, s := range statuses {
		h.Legend, h.Statuses = append(h.Legend, heatCell{Status: s.name, Letter: s.letter, Rest: s.rest}), append(h.Statuses, s.name)
	}
	if h.Status != "" && !slices.Contains(h.Statuses, h.Status) {
		h.Statuses = append(h.Statuses, h.Status) // what is asked for is shown, if there is none too
	}
	if c != nil {
		h.fill(c, asked.Get("page"), link)
	}
	return content{Title: "Coverage", Refresh: refresh(state), Data: h}, nil
}

// fill puts what fits into the page: rows, sums of each day, totals.
func (h *heat) fill(c *calendar, asked string, link func(func(url.Values)) string) {
	seen, seenDatasets := map[string]bool{}, map[string]bool{}
	var found []*series
	for i := range c.levels {
		s := &c.levels[i]
		if !seen[s.Account] {
			seen[s.Account], h.Accounts = true, append(h.Accounts, s.Account)
		}
		if !seenDatasets[s.Dataset] {
			seenDatasets[s.Dataset], h.Datasets = true, append(h.Datasets, s.Dataset)
		}
		if h.fits(s) {
			found = append(found, s)
		}
	}
	slices.Sort(h.Accounts)
	slices.Sort(h.Datasets)
	h.Series = len(found)
	h.sum(found)
	if !h.IsDetail {
		found = together(found)
	}
	h.Total = len(found)
	last := max(1, (len(found)+pageRows-1)/pageRows)
	page, err := strconv.Atoi(asked)
	if err != nil {
		page = 1
	}
	page = min(max(page, 1), last)
	if page > 1 {
		h.Previous = link(func(q url.Values) { q.Set("page", strconv.Itoa(page-1)) })
	}
	if page < last {
		h.Next = link(func(q url.Values) { q.Set("page", strconv.Itoa(page+1)) })
	}
	shown := found[(page-1)*pageRows : min(page*pageRows, len(found))]
	if len(shown) > 0 {
		h.From, h.To = (page-1)*pageRows+1, (page-1)*pageRows+len(shown)
	}
	for _, s := range shown {
		h.Rows = append(h.Rows, h.row(s, link))
	}
}

// sum counts the days of series, each by itself however they are shown.
func (h *heat) sum(found []*series) {
	sums := make([][notExpected + 1]int, len(h.Days))
	for _, s := range found {
		for day, status := range s.days {
			sums[day][status]++
		}
	}
	totals := make([]int, len(statuses))
	for day := range sums {
		var sum heatSum
		n, words := 0, []string{}
		for status, s := range statuses {
			count := sums[day][status]
			totals[status] += count
			if count == 0 {
				continue
			}
			words = append(words, fmt.Sprintf("%d %s", count, strings.ReplaceAll(s.name, "_", " ")))
			if status < int(statusLevel("not_due")) {
				n += count
				if sum.Status == "" {
					sum.Status = s.name
				}
			}
		}
		if len(words) > 0 {
			sum.Text = strconv.Itoa(n)
		}
		sum.Title = h.Days[day].Date + ": " + strings.Join(words, ", ")
		h.Sums = append(h.Sums, sum)
	}
	for status, n := range totals {
		if n > 0 {
			h.Totals = append(h.Totals, heatTotal{strings.ReplaceAll(statuses[status].name, "_", " "), n})
		}
	}
}

// row is how a series looks.
func (h *heat) row(s *series, link func(func(url.Values)) string) heatRow {
	r := heatRow{series: s}
	switch {
	case s.Product != "":
		r.Name = s.Product
	case s.Subscription == "":
		r.Name = "all subscriptions"
	default:
		r.Name = strings.TrimSpace(s.Subscription + " " + s.Discriminator)
		if s.Level != "" {
			r.Name += " " + instance(s.Level, s.Ordinal)
		} else {
			r.Link = link(func(q url.Values) {
				q.Set("detail", "levels")
				q.Set("customer", s.Customer)
				q.Set("subscription", s.Subscription)
				q.Set("discriminator", s.Discriminator)
			})
		}
	}
	of := url.Values{"dataset": {s.Dataset}, "account": {s.Account}}
	for name, value := range map[string]string{"customer": s.Customer, "subscription": s.Subscription, "discriminator": s.Discriminator, "level": s.Level, "ordinal": s.Ordinal, "product": s.Product} {
		if value != "" {
			of.Set(name, value)
		}
	}
	path := "/coverage/day?" + of.Encode() + "&day="
	for day, status := range s.days {
		if status == notExpected {
			r.Cells = append(r.Cells, heatCell{Status: "none"})
			continue
		}
		st := statuses[status]
		c := heatCell{Status: st.name, Letter: st.letter, Rest: st.rest, Title: h.Days[day].Date + ": " + strings.ReplaceAll(st.name, "_", " ")}
		if status < statusLevel("not_due") {
			c.Link = path + h.Days[day].Date
		}
		r.Cells = append(r.Cells, c)
	}
	return r
}

// coverageDay is what templates/coverageday.html is given.
type coverageDay struct {
	Rows      []record
	Runs      []record
	Dataset   string
	Scope     string
	Day       string
	Worst     string
	Commands  []string // to type
	Advice    []string
	CanLoad   bool
	Back      string
	Of        string
	Customer  string
	IsHistory bool
}

// coverageDayPage says what a day lacks, why, and what to do.
func coverageDayPage() page {
	return page{path: "/coverage/day", template: "coverageday", load: func(v *view) (content, error) {
		asked := v.r.URL.Query()
		arg := func(name string) string {
			return strings.ToValidUTF8(strings.ReplaceAll(asked.Get(name), "\x00", ""), "")
		}
		day, err := time.Parse(time.DateOnly, arg("day"))
		if err != nil {
			return content{}, errNotThere
		}
		d := coverageDay{Dataset: arg("dataset"), Scope: arg("customer"), Customer: arg("customer"), Day: arg("day"), IsHistory: arg("product") == ""}
		if d.Scope == "" {
			d.Scope = arg("account")
		}
		result, err := v.query(v.s.sql("coverage_day"), d.Dataset, arg("account"), d.Customer, arg("subscription"), arg("discriminator"), arg("level"), arg("ordinal"), arg("product"), d.Day)
		if err != nil {
			return content{}, err
		}
		if d.Rows = result.records(); len(d.Rows) == 0 {
			return content{}, errNotThere
		}
		worst := byte(len(statuses) - 1)
		for _, r := range d.Rows {
			worst = min(worst, statusLevel(r["status"].Text))
		}
		d.Worst = statuses[worst].name
		if result, err = v.query(v.s.sql("coverage_runs"), d.Dataset, d.Scope, d.Day); err != nil {
			return content{}, err
		}
		d.Runs = result.records()
		d.Of = strings.Join(strings.Fields(strings.Join([]string{arg("account"), d.Customer, arg("subscription"), arg("discriminator"), arg("level"), arg("product")}, " ")), " ")
		back := url.Values{"month": {day.Format("2006-01")}}
		coverageFilter{Customer: d.Customer, Subscription: arg("subscription"), Discriminator: arg("discriminator"), Q: arg("product")}.put(back)
		d.Back = "/coverage?" + back.Encode()
		next := day.AddDate(0, 0, 1).Format(time.DateOnly)
		switch {
		case d.IsHistory:
			d.CanLoad = v.s.cfg.Loads != nil && v.who.Role >= Operator
			d.Commands = []string{fmt.Sprintf("meterhouse backfill %s --from %s --until %s --customer %s", d.Dataset, d.Day, next, quoted(d.Customer))}
			switch d.Worst {
			case "partial":
				d.Advice = append(d.Advice, "Records of the day were refused: see the quarantine. What is repaired there or by the vendor completes the day.")
			case "empty":
				d.Advice = append(d.Advice, "The vendor answered with nothing for the day. Ask again; if it stays so, ask the vendor.")
			case "missing":
				d.Advice = append(d.Advice, "Every run asks again for missing days of its last months. Older ones are asked for by hand.")
			}
		case d.Worst == "lost":
			d.Advice = append(d.Advice, "What was not read on its day cannot be asked for any more. If somebody wrote the figure down, import it.")
			d.Commands = []string{"meterhouse readings import FILE"}
		default:
			d.Advice = append(d.Advice, "The reading of the day was refused in part: see the quarantine.")
		}
		return content{Title: "Day " + d.Day, Data: d}, nil
	}}
}

// instance is the name of a level; of several of one name in a subscription, the second is #2.
func instance(level, ordinal string) string {
	if n, err := strconv.Atoi(ordinal); err == nil && n > 0 {
		return level + " #" + strconv.Itoa(n+1)
	}
	return level
}

// quoted is a word as a shell takes it.
func quoted(word string) string {
	if word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
