package console

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// consumptionOf is the levels with figures in a month.
func consumptionOf(v *view, month string, wait time.Duration) (*sheet, copyState, error) {
	what, state, err := v.s.copies.get(v, "consumption "+month, wait, func(_ context.Context, v *view) (any, error) {
		found, err := v.query(v.s.sql("consumption_levels"), month+"-01")
		if err != nil {
			return nil, err
		}
		s := newSheet(found, "customer_id", "customer_name", "subscription_number", "discriminator", "service_level")
		s.shown = slices.Index(found.Columns, "spark")
		return s, nil
	})
	s, _ := what.(*sheet)
	return s, state, err
}

var consumptionTable = &table{
	name:    "consumption",
	caption: "Levels with figures in the month, in TiB: the last commitment, the average and the maximum of what was consumed, the burst that was accrued. The drawing is the average of each day and the commitment; a gap is a day without figures. Where … ends a figure, more decimals follow: point at it, copy it, or take the CSV.",
	sheet:   first(consumptionOf),
	columns: []column{
		{name: "customer_id", title: "Customer", sort: true, under: "customer_name"},
		{name: "subscription_number", title: "Subscription", sort: true, under: "discriminator"},
		{name: "service_level", title: "Level", kind: isLevel, sort: true, link: "/consumption/level?customer={customer_id}&subscription={subscription_number}&discriminator={discriminator}&level={service_level}&ordinal={level_ordinal}"},
		{name: "spark", title: "Days of the month", kind: isSpark},
		{name: "level_class", title: "Class"},
		{name: "days_observed", title: "Days", kind: isNumber, sort: true},
		{name: "days_expected", title: "of", kind: isNumber},
		{name: "committed_tib", title: "Committed", kind: isQuantity, sort: true},
		{name: "consumed_avg_tib", title: "Average", kind: isQuantity, sort: true},
		{name: "consumed_max_tib", title: "Maximum", kind: isQuantity, sort: true},
		{name: "accrued_burst_tib", title: "Accrued burst", kind: isQuantity, sort: true},
		{name: "days_over_commitment", title: "Days over", kind: isNumber, sort: true},
	},
	filters: []filter{
		monthFilter,
		{name: "q", label: "Customer, subscription or level"},
		{name: "level", label: "Level", column: "service_level"},
		{name: "class", label: "Class", column: "level_class"},
	},
	empty: "No level has figures in this month, or none fits the search.",
}

func consumptionPage() page {
	return page{path: "/consumption", nav: "Consumption", template: "list", tables: []*table{consumptionTable}, load: func(v *view) (content, error) {
		l, err := v.list(consumptionTable)
		if err != nil {
			return content{}, err
		}
		month := v.monthOf()
		l.Filters[0].Value = month
		return content{Title: "Consumption in " + month, Refresh: refresh(*l.Copy), Data: l}, nil
	}}
}

// spans are the times that a level can be shown over.
var spans = []struct {
	Name, Title string
	From        func(today time.Time) time.Time
}{
	{"month", "this month", func(t time.Time) time.Time { return t.AddDate(0, 0, 1-t.Day()) }},
	{"quarter", "this quarter", func(t time.Time) time.Time {
		return time.Date(t.Year(), (t.Month()-1)/3*3+1, 1, 0, 0, 0, 0, time.UTC)
	}},
	{"90d", "90 days", func(t time.Time) time.Time { return t.AddDate(0, 0, -89) }},
	{"12m", "12 months", func(t time.Time) time.Time { return t.AddDate(-1, 0, 1) }},
}

// daysTable is what a level consumed, day by day: mart.daily_utilisation with its holes.
var daysTable = &table{
	name:    "level_days",
	caption: "Days of the level, the newest first, in TiB. A day that is missing has no figures: it is not zero. Where … ends a figure, more decimals follow: point at it, copy it, or take the CSV.",
	columns: []column{
		{name: "usage_date", title: "Day", sort: true},
		{name: "status", title: "Status", kind: isStatus, sort: true},
		{name: "committed_tib", title: "Committed", kind: isQuantity},
		{name: "consumed_avg_tib", title: "Average", kind: isQuantity, sort: true},
		{name: "consumed_max_tib", title: "Maximum", kind: isQuantity, sort: true},
		{name: "consumed_last_tib", title: "Last", kind: isQuantity},
		{name: "burst_avg_tib", title: "Burst", kind: isQuantity, sort: true},
		{name: "accrued_burst_tib", title: "Accrued", kind: isQuantity},
		{name: "is_invoiced", title: "Invoiced", kind: isYesNo},
		{name: "restatement_count", title: "Restated", kind: isNumber},
	},
	filters: []filter{
		{name: "customer", isKept: true}, {name: "subscription", isKept: true}, {name: "discriminator", isKept: true}, {name: "level", isKept: true},
		{name: "ordinal", isKept: true, initial: "0"}, {name: "from", isKept: true}, {name: "until", isKept: true},
	},
	order: "usage_date desc", key: "usage_date",
	empty: "Nothing is expected of the level in this time.",
}

// daysThenTable is what was known of these days at an instant: mart.daily_consumption_as_of with its holes.
var daysThenTable = &table{
	name:    "level_days_as_of",
	caption: "Days of the level as they were known then, the newest first, in TiB. Of a day that is missing no figures were known. Where … ends a figure, more decimals follow: point at it, copy it, or take the CSV. Whether a day was invoiced then is not kept.",
	columns: []column{
		{name: "usage_date", title: "Day", sort: true},
		{name: "status", title: "Status", kind: isStatus, sort: true},
		{name: "committed_tib", title: "Committed", kind: isQuantity},
		{name: "consumed_avg_tib", title: "Average", kind: isQuantity, sort: true},
		{name: "consumed_max_tib", title: "Maximum", kind: isQuantity, sort: true},
		{name: "consumed_last_tib", title: "Last", kind: isQuantity},
		{name: "burst_avg_tib", title: "Burst", kind: isQuantity, sort: true},
		{name: "accrued_burst_tib", title: "Accrued", kind: isQuantity},
		{name: "known_since", title: "Known since", kind: isTime, sort: true},
	},
	filters: append(slices.Clone(daysTable.filters), filter{name: "as_of", isKept: true}),
	check: func(s *Server, values []string) error {
		at, err := s.instant(values[len(values)-1])
		values[len(values)-1] = at.Format(time.RFC3339Nano)
		return err
	},
	order: daysTable.order, key: daysTable.key, empty: "Nothing was expected of the level in this time.",
}

// instant is a past moment that somebody typed, and now when it is empty.
func (s *Server) instant(text string) (at time.Time, err error) {
	now := s.cfg.Now().UTC()
	if text == "" {
		return now, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err = time.Parse(layout, text); err == nil {
			break
		}
	}
	const wanted = "want a past moment: a date, whose 00:00 UTC it is, or a time as 2026-11-03T09:00:00Z"
	switch at = at.UTC().Truncate(time.Microsecond); {
	case err != nil:
		return at, notUnderstood(fmt.Sprintf("As known at %q: %s.", clip(text, 100), wanted))
	case at.After(now):
		return at, notUnderstood(fmt.Sprintf("As known at %q, which is yet to come: %s. It is %s UTC.", clip(text, 100), wanted, now.Format("2006-01-02 15:04:05")))
	}
	return at, nil
}

// levelDetail is what templates/level.html is given.
type levelDetail struct {
	Name   string
	Spans  []navItem
	From   string
	Until  string // inclusive
	AsOf   string // as somebody typed it; empty: what is known now
	Then   string // the moment that is
	Now    string // path of the same as known now
	Charts []chart
	List   *listing
}

func levelPage() page {
	return page{path: "/consumption/level", template: "level", tables: []*table{daysTable, daysThenTable}, load: func(v *view) (content, error) {
		asked := v.r.URL.Query()
		today := v.s.cfg.Now().UTC().Truncate(24 * time.Hour)
		wanted := asked.Get("span")
		at := slices.IndexFunc(spans, func(s struct {
			Name, Title string
			From        func(time.Time) time.Time
		}) bool {
			return s.Name == wanted
		})
		if at < 0 {
			at = 2
		}
		from, until := spans[at].From(today), today.AddDate(0, 0, 1)
		given, err := time.Parse(time.DateOnly, asked.Get("from"))
		end, endErr := time.Parse(time.DateOnly, asked.Get("until"))
		if wanted == "" && err == nil && endErr == nil && given.Before(end) && end.Sub(given) <= 400*24*time.Hour {
			at, from, until = -1, given, end // the table was turned over
			for i, s := range spans {
				if s.From(today).Equal(from) && until.Equal(today.AddDate(0, 0, 1)) {
					at = i
				}
			}
		}
		asked.Del("span")
		asked.Set("from", from.Format(time.DateOnly))
		asked.Set("until", until.Format(time.DateOnly))
		v.r.URL.RawQuery = asked.Encode() // the table's links keep it
		d := levelDetail{From: from.Format(time.DateOnly), Until: until.AddDate(0, 0, -1).Format(time.DateOnly)}
		days := daysTable
		if d.AsOf = strings.TrimSpace(asked.Get("as_of")); d.AsOf != "" {
			days = daysThenTable
			then, err := v.s.instant(d.AsOf)
			if err != nil {
				return content{}, err
			}
			d.Then = then.Format("2006-01-02 15:04:05.999999")
		}
		if d.List, err = v.list(days); err != nil {
			return content{}, err
		}
		of := url.Values{}
		for _, name := range []string{"customer", "subscription", "discriminator", "level", "ordinal"} {
			of.Set(name, d.List.Values[name])
		}
		of.Set("from", asked.Get("from"))
		of.Set("until", asked.Get("until"))
		d.Now = v.r.URL.Path + "?" + of.Encode()
		of.Del("from")
		of.Del("until")
		if d.AsOf != "" {
			of.Set("as_of", d.AsOf)
		}
		for i, s := range spans {
			of.Set("span", s.Name)
			d.Spans = append(d.Spans, navItem{s.Title, "/consumption/level?" + of.Encode(), i == at})
		}
		values, err := days.given(v.s, asked)
		if err != nil {
			return content{}, err
		}
		found, err := v.query("select r.usage_date, r.committed_tib, r.consumed_avg_tib, r.consumed_max_tib, r.burst_avg_tib, r.accrued_burst_tib from ("+v.s.sql(days.name)+") as r order by r.usage_date",
			arguments(values)...)
		if err != nil {
			return content{}, err
		}
		daily := func(column int) []string {
			all := make([]string, int(until.Sub(from).Hours()/24))
			for _, row := range found.Rows {
				if day, err := time.Parse(time.DateOnly, row[0].Text); err == nil {
					all[int(day.Sub(from).Hours()/24)] = row[column].Text
				}
			}
			return all
		}
		d.Charts = []chart{
			draw("Committed and consumed", from, []line{{"consumed, maximum", "maximum", daily(3)}, {"consumed, average", "average", daily(2)}, {"committed", "committed", daily(1)}}),
			draw("Burst and accrued burst", from, []line{{"burst, average", "burst", daily(4)}, {"accrued burst of the day", "accrued", daily(5)}}),
		}
		d.Name = strings.Join(strings.Fields(strings.Join([]string{of.Get("customer"), of.Get("subscription"), of.Get("discriminator")}, " ")), " ")
		title := instance(of.Get("level"), of.Get("ordinal"))
		return content{Title: title, Data: d}, nil
	}}
}
