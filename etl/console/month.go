package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// isMonth tells whether a text is YYYY-MM.
func isMonth(text string) bool {
	at, err := time.Parse("2006-01", text)
	return err == nil && len(text) == len("2006-01") && at.Year() >= 2000 && at.Year() < 2100
}

// monthOf is the month that is asked for: the one before today's unless another is named.
func (v *view) monthOf() string {
	if month := strings.TrimSpace(v.r.URL.Query().Get("month")); isMonth(month) {
		return month
	}
	return v.s.lastMonth()
}

// lastMonth is the month before the one that runs.
func (s *Server) lastMonth() string {
	now := s.cfg.Now().UTC()
	return time.Date(now.Year(), now.Month()-1, 1, 0, 0, 0, 0, time.UTC).Format("2006-01")
}

// beside is a month some months later.
func beside(month string, months int) string {
	at, err := time.Parse("2006-01", month)
	if err != nil {
		return month
	}
	return at.AddDate(0, months, 0).Format("2006-01")
}

// ofMonth is a sheet that a query of one month fills.
func ofMonth(name string, searched ...string) func(*view, string, time.Duration) (*sheet, copyState, error) {
	return func(v *view, month string, wait time.Duration) (*sheet, copyState, error) {
		what, state, err := v.s.copies.get(v, name+" "+month, wait, func(_ context.Context, v *view) (any, error) {
			found, err := v.query(v.s.sql(name), month)
			if err != nil {
				return nil, err
			}
			s := newSheet(found, searched...)
			s.shown = len(found.Columns)
			for s.shown > 0 && strings.HasPrefix(found.Columns[s.shown-1], "currency_") {
				s.shown-- // sums for the page
			}
			return s, nil
		})
		s, _ := what.(*sheet)
		return s, state, err
	}
}

var (
	statementOf   = ofMonth("month_statement", "customer_id", "account", "subscription_number", "discriminator", "item", "description", "note")
	adjustmentsOf = ofMonth("month_adjustments", "customer_id", "account", "subscription_number", "discriminator", "item", "description", "reason", "adjusts_period")
	obstaclesOf   = ofMonth("month_obstacles", "kind", "about")
	closingOf     = ofMonth("month_closing")
)

// first hands the month, the first filter of these tables, to what makes the sheet.
func first(of func(*view, string, time.Duration) (*sheet, copyState, error)) func(*view, []string, time.Duration) (*sheet, copyState, error) {
	return func(v *view, values []string, wait time.Duration) (*sheet, copyState, error) {
		month := values[0]
		if month == "" {
			month = v.s.lastMonth()
		}
		return of(v, month, wait)
	}
}

var (
	monthFilter = filter{name: "month", label: "Month", isMonth: true}
	monthKept   = filter{name: "month", isMonth: true, isKept: true} // its field is beside the tabs of the month
)

var statementTable = &table{
	name:    "statement",
	caption: "Lines whose billing period ends in the month. Days are observed of expected.",
	sheet:   first(statementOf),
	columns: []column{
		{name: "customer_id", title: "Customer", sort: true},
		{name: "account", title: "Account", sort: true},
		{name: "subscription_number", title: "Subscription", sort: true},
		{name: "item", title: "Item", sort: true, under: "description"},
		{name: "charge", title: "Charge", sort: true},
		{name: "quantity", title: "Quantity", kind: isNumber, sort: true},
		{name: "unit", title: "Unit"},
		{name: "unit_price", title: "Unit price", kind: isNumber, sort: true},
		{name: "amount", title: "Amount", kind: isNumber, sort: true},
		{name: "currency", title: "Currency"},
		{name: "state", title: "State", kind: isStatus, sort: true},
		{name: "segment_from", title: "From"},
		{name: "segment_to", title: "To"},
		{name: "days_observed", title: "Days", kind: isNumber, sort: true},
		{name: "days_expected", title: "of", kind: isNumber},
		{name: "note", title: "Note", kind: isNote},
	},
	filters: []filter{
		monthKept,
		{name: "q", label: "Customer, subscription, item or note"},
		{name: "source", label: "Vendor", column: "source", choices: []string{"keystone", "wolkvox"}},
		{name: "charge", label: "Charge", column: "charge"},
		{name: "currency", label: "Currency", column: "currency"},
		{name: "state", label: "State", column: "state"},
	},
	empty: "No line fits: no billing period ends in this month with figures that are selected.",
}

var adjustmentsTable = &table{
	name:    "adjustments",
	caption: "What changed of closed months and is billed in this one. Months that are open have none of their own.",
	sheet:   first(adjustmentsOf),
	columns: []column{
		{name: "adjusts_period", title: "Of", sort: true},
		{name: "customer_id", title: "Customer", sort: true},
		{name: "account", title: "Account"},
		{name: "subscription_number", title: "Subscription"},
		{name: "item", title: "Item", sort: true},
		{name: "charge", title: "Charge"},
		{name: "usage_date", title: "Day", sort: true},
		{name: "quantity", title: "Quantity", kind: isNumber},
		{name: "amount", title: "Amount", kind: isNumber, sort: true},
		{name: "currency", title: "Currency"},
		{name: "state", title: "State", kind: isStatus},
		{name: "reason", title: "Reason", sort: true},
		{name: "known_since", title: "Known since", kind: isTime},
	},
	filters: []filter{
		monthKept,
		{name: "q", label: "Customer, subscription, item or reason"},
		{name: "of", label: "Of", column: "adjusts_period"},
		{name: "reason", label: "Reason", column: "reason"},
	},
	empty: "Nothing is adjusted in this month.",
}

// matched is a comparison with invoices, prepared for pages.
type matched struct {
	*sheet
	Causes Grid
	Totals []string
}

// outside: a comparison reads more than one snapshot.
func (matched) outside() {}

func (v *view) matched(month string, wait time.Duration) (matched, copyState, error) {
	if v.s.cfg.Finance == nil {
		return matched{}, copyState{}, errNotThere
	}
	what, state, err := v.s.copies.get(v, "match "+month, wait, func(ctx context.Context, _ *view) (any, error) {
		m, err := v.s.cfg.Finance.Match(ctx, month)
		if err != nil {
			return nil, err
		}
		r := rows{Columns: m.Lines.Columns, Numeric: make([]bool, len(m.Lines.Columns))}
		copy(r.Numeric, m.Lines.Numeric)
		for _, texts := range m.Lines.Rows {
			cells := make([]cell, len(texts))
			for i, text := range texts {
				cells[i] = cell{text, text == "" && r.Numeric[i]}
			}
			r.Rows = append(r.Rows, cells)
		}
		return matched{newSheet(&r, "customer_id", "account", "subscription_number", "item", "invoices", "detail"), m.Causes, m.Totals}, nil
	})
	m, _ := what.(matched)
	return m, state, err
}

var matchTable = &table{
	name:    "match",
	caption: "What imported invoices charge, beside the statement and what can be recomputed. The difference, invoice less statement, is the money of the cause.",
	sheet: func(v *view, values []string, wait time.Duration) (*sheet, copyState, error) {
		month := values[0]
		if month == "" {
			month = v.s.lastMonth()
		}
		m, state, err := v.matched(month, wait)
		return m.sheet, state, err
	},
	columns: []column{
		{name: "customer_id", title: "Customer", sort: true},
		{name: "account", title: "Account"},
		{name: "subscription_number", title: "Subscription", sort: true},
		{name: "item", title: "Item", sort: true},
		{name: "charge", title: "Charge"},
		{name: "invoice_amount", title: "Invoiced", kind: isNumber, sort: true},
		{name: "statement_amount", title: "Statement", kind: isNumber, sort: true},
		{name: "recomputed_amount", title: "Recomputed", kind: isNumber},
		{name: "difference", title: "Difference", kind: isNumber, sort: true},
		{name: "currency", title: "Currency"},
		{name: "cause", title: "Cause", sort: true},
		{name: "invoices", title: "Invoices"},
		{name: "detail", title: "Figures behind it", kind: isNote},
	},
	filters: []filter{
		monthKept,
		{name: "q", label: "Customer, subscription, item or invoice"},
		{name: "cause", label: "Cause", column: "cause"},
		{name: "currency", label: "Currency", column: "currency"},
	},
	empty: "Nothing to compare here.",
}

// monthDetail is what the templates of a month are given.
type monthDetail struct {
	Month, Before, After string
	Path                 string
	CanClose, HasFinance bool
	IsViewer             bool // it takes another role
	Link                 record
	Links                []record
	IsClosed             bool
	IsRunning            bool // the month is not over

	Statement   *sheet
	State       copyState
	Totals      []total
	Lines       int
	Unpriced    int
	Provisional int
	Notes       []noted

	Obstacles     []record
	ObstacleState copyState
	IsFinal       bool // an obstacle cannot be accepted

	Closing      []record // what a close adjusts of earlier months, by currency
	ClosingState copyState
	Oldest       copyState // of what is shown to whoever closes
	Shown        Shown
	CanSend      bool // the form: what it is about is of this moment or of a moment ago
	Decision     *decision

	Adjustments      int
	AdjustmentState  copyState
	AdjustmentTotals []total
	Match            matched
	List             *listing
}

// total is what the lines of a currency come to, as the database added them up.
type total struct {
	Currency, Amount, Lines, Provisional string
}

// noted is a note of lines and how many have it.
type noted struct {
	Text  string
	Lines int
}

// totals reads the sums that stand on each line.
func totals(s *sheet) (all []total) {
	seen := map[string]bool{}
	for i := range s.Rows {
		currency := s.at(i, "currency")
		if currency.Null || currency.Text == "" || seen[currency.Text] || s.at(i, "currency_lines").Text == "0" {
			continue
		}
		seen[currency.Text] = true
		t := total{Currency: currency.Text, Amount: s.at(i, "currency_total").Text, Lines: s.at(i, "currency_lines").Text}
		if _, ok := s.index["currency_provisional"]; ok {
			t.Provisional = s.at(i, "currency_provisional").Text
		}
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b total) int { return strings.Compare(a.Currency, b.Currency) })
	return all
}

// month reads what is the same on all pages of a month.
func (v *view) month() (d monthDetail, err error) {
	d.Month, d.Path, d.HasFinance = v.monthOf(), v.r.URL.Path, v.s.cfg.Finance != nil
	d.Before, d.After = beside(d.Month, -1), beside(d.Month, 1)
	d.CanClose = d.HasFinance && v.who.Role >= Closer
	d.IsViewer = d.HasFinance && !d.CanClose
	d.IsRunning = d.Month >= v.s.cfg.Now().UTC().Format("2006-01")
	links, err := v.query(v.s.sql("month_links"), d.Month)
	if err != nil {
		return d, err
	}
	if d.Links = links.records(); len(d.Links) > 0 {
		d.Link = d.Links[0]
		d.IsClosed = d.Link["kind"].Text == "close"
	}
	if d.CanClose {
		d.Decision = v.s.decisions.of(aboutMonth(d.Month))
	}
	return d, nil
}

// statement adds what the lines come to.
func (v *view) statement(d *monthDetail) (err error) {
	if d.Statement, d.State, err = statementOf(v, d.Month, 0); err != nil || d.Statement == nil {
		return err
	}
	d.Totals, d.Lines = totals(d.Statement), len(d.Statement.Rows)
	notes := map[string]int{}
	for i := range d.Statement.Rows {
		if d.Statement.at(i, "amount").Null {
			d.Unpriced++
		}
		if d.Statement.at(i, "state").Text == "provisional" {
			d.Provisional++
		}
		for note := range strings.SplitSeq(d.Statement.at(i, "note").Text, "; ") {
			if note != "" {
				notes[note]++
			}
		}
	}
	for text, lines := range notes {
		d.Notes = append(d.Notes, noted{text, lines})
	}
	slices.SortFunc(d.Notes, func(a, b noted) int {
		if a.Lines != b.Lines {
			return b.Lines - a.Lines
		}
		return strings.Compare(a.Text, b.Text)
	})
	d.Notes = d.Notes[:min(len(d.Notes), 12)]
	return nil
}

// obstacles adds what stands against closing.
func (v *view) obstacles(d *monthDetail) error {
	s, state, err := obstaclesOf(v, d.Month, 0)
	if d.ObstacleState = state; err != nil || s == nil {
		return err
	}
	d.Obstacles = s.records()
	for _, o := range d.Obstacles {
		d.IsFinal = d.IsFinal || o["is_acceptable"].Text != "true"
	}
	return nil
}

// closing adds what a close freezes beside the lines, and puts together what is shown of it.
func (v *view) closing(d *monthDetail) error {
	s, state, err := closingOf(v, d.Month, 0)
	if d.ClosingState = state; err != nil || s == nil {
		return err
	}
	d.Closing = s.records()
	d.CanSend = d.State.IsRecent && d.ObstacleState.IsRecent && d.ClosingState.IsRecent && !d.IsFinal && !d.Decision.IsOn()
	d.Shown = Shown{Lines: d.Lines, Provisional: d.Provisional}
	for _, o := range d.Obstacles {
		d.Shown.Obstacles = append(d.Shown.Obstacles, o["kind"].Text+": "+o["about"].Text)
	}
	var sums []string
	for _, t := range d.Totals {
		sums = append(sums, t.Currency+" "+t.Amount)
	}
	d.Shown.Totals, sums = strings.Join(sums, "; "), nil
	for i, c := range d.Closing {
		n, err := strconv.Atoi(c["adjustments"].Text)
		if err != nil {
			return fmt.Errorf("month_closing: row %d: adjustments %q: want a number", i, c["adjustments"].Text)
		}
		if d.Shown.Adjustments += n; !c["amount"].Null {
			sums = append(sums, c["currency"].Text+" "+c["amount"].Text)
		}
	}
	d.Shown.AdjustmentTotals = strings.Join(sums, "; ")
	return nil
}

// refresh is how soon a page with copies asks again.
func refresh(states ...copyState) int {
	for _, s := range states {
		if !s.IsCurrent && !s.Failed {
			return refreshEvery
		}
	}
	return 0
}

// oldest is the state that says most about all: one that is not there, that failed, or is of the earliest moment.
func oldest(states ...copyState) copyState {
	return slices.MinFunc(states, func(a, b copyState) int {
		return cmp.Or(btoi(b.At == "")-btoi(a.At == ""), btoi(b.Failed)-btoi(a.Failed), btoi(a.IsCurrent)-btoi(b.IsCurrent), strings.Compare(a.At, b.At))
	})
}

func monthPage() page {
	return page{path: "/month", nav: "Month", template: "month", load: func(v *view) (content, error) {
		d, err := v.month()
		if err != nil {
			return content{}, err
		}
		if err := v.statement(&d); err != nil {
			return content{}, err
		}
		states := []copyState{d.State}
		if !d.IsClosed {
			if err := v.obstacles(&d); err != nil {
				return content{}, err
			}
			states = append(states, d.ObstacleState)
		}
		if d.Decision.IsOn() {
			states = append(states, copyState{})
		}
		adjustments, state, err := adjustmentsOf(v, d.Month, 0)
		if err != nil {
			return content{}, err
		}
		if d.AdjustmentState = state; adjustments != nil {
			d.Adjustments, d.AdjustmentTotals = len(adjustments.Rows), totals(adjustments)
		}
		return content{Title: "Month " + d.Month, Refresh: refresh(append(states, state)...), Data: d}, nil
	}}
}

// monthTablePage is a page of one table about a month.
func monthTablePage(path, title string, t *table) page {
	return page{path: path, template: "monthtable", tables: []*table{t}, load: func(v *view) (content, error) {
		d, err := v.month()
		if err != nil {
			return content{}, err
		}
		if d.List, err = v.list(t); err != nil {
			return content{}, err
		}
		d.List.Filters[0].Value = d.Month
		if t == matchTable {
			if d.Match, _, err = v.matched(d.Month, 0); err != nil { // the copy that the list is of
				return content{}, err
			}
		}
		return content{Title: title + " of " + d.Month, Refresh: refresh(*d.List.Copy), Data: d}, nil
	}}
}

// closePage asks again before a month is closed or reopened.
func closePage() page {
	return page{path: "/month/close", template: "close", role: Closer, load: func(v *view) (content, error) {
		d, err := v.month()
		if err != nil {
			return content{}, err
		}
		if !d.CanClose {
			return content{}, errNotThere
		}
		c := content{Title: "Close " + d.Month}
		if d.IsClosed {
			c.Title = "Reopen " + d.Month
		} else {
			for _, add := range []func(*monthDetail) error{v.statement, v.obstacles, v.closing} {
				if err := add(&d); err != nil {
					return content{}, err
				}
			}
			d.Oldest = oldest(d.State, d.ObstacleState, d.ClosingState)
			if !d.CanSend { // else somebody may be typing a reason
				c.Refresh = refresh(d.State, d.ObstacleState, d.ClosingState)
			}
		}
		if d.Decision.IsOn() {
			c.Refresh = refreshEvery
		}
		c.Data = d
		return c, nil
	}}
}

// reasonOf is a sentence that somebody typed, on one line.
func reasonOf(r *http.Request) string {
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(r.PostFormValue("reason"), "")))
}

// closeWithin is how long closing may take.
const closeWithin = 30 * time.Minute

func (s *Server) closeMonth(r *http.Request, who visitor) (to, said string, err error) {
	_ = r.ParseForm() // done already, with the token
	shown := Shown{Obstacles: r.PostForm["obstacle"], Totals: r.PostFormValue("totals"), AdjustmentTotals: r.PostFormValue("adjustment_totals")}
	return s.decideMonth(r, who, "Closing", func(reason string) (err error) {
		for name, to := range map[string]*int{"lines": &shown.Lines, "provisional": &shown.Provisional, "adjustments": &shown.Adjustments} {
			if *to, err = strconv.Atoi(r.PostFormValue(name)); err != nil {
				return Refused("The form does not say what was shown. Look at the month again, and close it then.")
			}
		}
		if len(shown.Obstacles) > 0 && (reason == "" || r.PostFormValue("accepted") != "yes") {
			return Refused("Accept what stands against it and say why: whoever asks later shall know.")
		}
		return nil
	}, func(ctx context.Context, month, reason string) (string, error) {
		return s.cfg.Finance.Close(ctx, month, who.person(), reason, shown)
	})
}

func (s *Server) reopenMonth(r *http.Request, who visitor) (to, said string, err error) {
	var version int
	return s.decideMonth(r, who, "Reopening", func(reason string) (err error) {
		if reason == "" {
			return Refused("Say why it is reopened: whoever asks later shall know.")
		}
		if version, err = strconv.Atoi(r.PostFormValue("version")); err != nil || version < 1 {
			return Refused("The form does not say which version was shown. Look at the month again, and reopen it then.")
		}
		return nil
	}, func(ctx context.Context, month, reason string) (string, error) {
		return s.cfg.Finance.Reopen(ctx, month, who.person(), reason, version)
	})
}

// seenMonth takes away what became of a decision: somebody has read it.
func (s *Server) seenMonth(r *http.Request, _ visitor) (to, said string, err error) {
	month := r.PostFormValue("month")
	if !isMonth(month) {
		return "", "", errNotThere
	}
	s.decisions.seen(aboutMonth(month), r.PostFormValue("at"))
	return "/month?" + url.Values{"month": {month}}.Encode(), "", nil
}

// aboutMonth names a month among [decisions].
func aboutMonth(month string) string { return "month " + month }

// decideMonth does something about a month for a person with a reason, once the form is as it should be.
func (s *Server) decideMonth(r *http.Request, who visitor, what string, check func(reason string) error, do func(ctx context.Context, month, reason string) (string, error)) (to, said string, err error) {
	month, reason := r.PostFormValue("month"), reasonOf(r)
	if !isMonth(month) || s.cfg.Finance == nil {
		return "", "", errNotThere
	}
	to = "/month?" + url.Values{"month": {month}}.Encode()
	if len(reason) > mostRefused {
		return to, "", Refused(fmt.Sprintf("The reason is too long: want at most %d bytes.", mostRefused))
	}
	if err := check(reason); err != nil {
		return to, "", err
	}
	said, err = s.patiently(r, aboutMonth(month), what+" this month", who, closeWithin, func(ctx context.Context) (string, error) {
		return do(ctx, month, reason)
	})
	return to, said, err
}

// monthFile answers with a file about a month.
func (s *Server) monthFile(name, kind string, write func(Finance) func(context.Context, io.Writer, string) error) func(http.ResponseWriter, *http.Request, visitor) {
	return func(w http.ResponseWriter, r *http.Request, who visitor) {
		month := r.URL.Query().Get("month")
		if s.cfg.Finance == nil || !isMonth(month) {
			s.failAs(w, r, who, errNotThere)
			return
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(csvWithin))
		ctx, cancel := context.WithTimeout(r.Context(), csvWithin)
		defer cancel()
		select {
		case s.downloads <- struct{}{}:
			defer func() { <-s.downloads }()
		case <-ctx.Done():
			return
		}
		out := &late{w: &patient{w}, begin: func() {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", fmt.Sprintf(name, month)))
		}}
		err := write(s.cfg.Finance)(ctx, out, month)
		var refused Refused
		switch {
		case err == nil:
		case out.begun:
			s.cfg.Log.Warn("download cut off", "month", month, "error", err)
			panic(http.ErrAbortHandler) // the reader shall notice that something is missing
		case errors.As(err, &refused):
			s.trouble(w, r, who, http.StatusConflict, "Not written", string(refused))
		default:
			s.failAs(w, r, who, err)
		}
	}
}

// late tells the browser that a file comes when its first byte does: until then there may be an error to tell.
type late struct {
	w     io.Writer
	begin func()
	begun bool
}

func (l *late) Write(p []byte) (int, error) {
	if !l.begun {
		l.begin()
		l.begun = true
	}
	return l.w.Write(p)
}
