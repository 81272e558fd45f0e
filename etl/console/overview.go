package console

import (
	"context"
	"fmt"
	"time"
)

// insight works out what the overview says first.
func (s *Server) insight(ctx context.Context) (found insight, err error) {
	if s.cfg.Status != nil {
		if found.Status, err = s.cfg.Status(ctx); err != nil {
			return found, err
		}
	}
	err = s.read(ctx, adviceWithin, func(_ context.Context, v *view) error {
		result, err := v.query(s.sql("overview_deadlines"))
		found.Deadlines = result.records()
		return err
	})
	return found, err
}

// overview is what templates/overview.html is given.
type overview struct {
	insight
	IsKnown, Failed bool
	IsOld           bool   // it is not of now: it is told with its age, and is no reason to be calm
	At              string // when it was worked out, UTC
	Age             string // where it is old
	Counts          record
	Freshness       []record // by dataset and account
	Runs            []record
	Alerts          []record
}

func overviewPage() page {
	return page{path: "/{$}", nav: "Overview", template: "overview", load: loadOverview}
}

func loadOverview(v *view) (content, error) {
	var o overview
	began, worked := time.Now(), v.s.advice.renew()
	var err error
	for _, part := range []struct {
		query string
		to    *[]record
	}{
		{"overview_freshness", &o.Freshness}, {"overview_runs", &o.Runs}, {"overview_alerts", &o.Alerts},
	} {
		result, err := v.query(v.s.sql(part.query))
		if err != nil {
			return content{}, err
		}
		*part.to = result.records()
	}
	if o.Counts, _, err = v.one(v.s.sql("overview_counts")); err != nil {
		return content{}, err
	}
	if worked != nil { // what is quick is worth the wait; the rest of the page has been read meanwhile
		select {
		case <-worked:
		case <-v.ctx.Done():
			return content{}, v.ctx.Err()
		case <-time.After(adviceWait - time.Since(began)):
		}
	}
	var at time.Time
	var isFresh bool
	o.insight, at, isFresh, o.Failed = v.s.advice.known()
	if !at.IsZero() {
		o.IsKnown, o.At = true, at.UTC().Format("2006-01-02 15:04:05")
		if o.IsOld = !isFresh; o.IsOld {
			o.Age = ago(time.Since(at))
		}
	}
	c := content{Title: "Overview"}
	if !isFresh && !o.Failed {
		c.Refresh = refreshEvery
	}
	c.Data = o
	return c, nil
}

// ago is an age in words, rounded down.
func ago(age time.Duration) string {
	for _, unit := range []struct {
		name string
		is   time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}} {
		switch n := age / unit.is; {
		case n > 1:
			return fmt.Sprintf("%d %ss ago", n, unit.name)
		case n == 1:
			return "1 " + unit.name + " ago"
		}
	}
	return "Less than a minute ago"
}

var freshnessTable = &table{
	name:    "freshness",
	caption: "Datasets and scopes: how far they are loaded, and when they are due. Times in UTC.",
	columns: []column{
		{name: "dataset", title: "Dataset", sort: true},
		{name: "scope", title: "Scope", sort: true},
		{name: "account", title: "Account"},
		{name: "status", title: "Status", kind: isStatus, sort: true},
		{name: "watermark", title: "Complete up to", kind: isTime, sort: true},
		{name: "last_success_at", title: "Last success", kind: isTime, sort: true},
		{name: "next_due_at", title: "Next due", kind: isTime, sort: true},
		{name: "last_run_id", title: "Last run", kind: isNumber, link: "/runs/{last_run_id}"},
	},
	filters: []filter{
		{name: "q", label: "Scope or account"},
		{name: "dataset", label: "Dataset", query: "select distinct dataset from mart.freshness order by dataset"},
		{name: "status", label: "Status", choices: []string{"ok", "late", "failing", "never"}},
	},
	order:   "dataset",
	key:     "scope, dataset",
	empty:   "Nothing is loaded yet, or nothing fits the search.",
	actions: "load-now",
}

func freshnessPage() page {
	return page{path: "/freshness", nav: "Freshness", template: "freshness", tables: []*table{freshnessTable}, load: func(v *view) (content, error) {
		l, err := v.list(freshnessTable)
		if v.s.cfg.Loads == nil || v.who.Role < Operator {
			if l != nil {
				l.Actions = ""
			}
		}
		return content{Title: "Freshness", Data: l}, err
	}}
}
