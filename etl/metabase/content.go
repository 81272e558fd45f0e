package metabase

import (
	"embed"
	"fmt"
	"strings"
)

// Name is what the database and the collection in Metabase are called.
const Name = "Meterhouse"

// kept ends the description of the collection. Only a collection that says so is written to.
const kept = "Kept by `meterhouse bi provision`: what is changed here by hand is changed back. Copy a card or dashboard to another collection to make it your own."

// Card is a question in SQL.
type Card struct {
	Name        string // by which it is known
	Description string
	SQL         string // one statement that reads the mart; {{variable}}, and [[…]] around what goes when it has no value
	Display     string // Metabase's name of the chart; empty: table
	Settings    map[string]any
	Variables   []Variable // every one of SQL
}

// Variable is what may be set about a card.
type Variable struct {
	Name  string
	Label string
	Type  string // Metabase's: text, number or date
}

// Dashboard is a page of cards.
type Dashboard struct {
	Name, Description string
	Filters           []Filter // each sets the variable of its name in every card of the page that has one
	Tiles             []Tile
}

// Filter is a choice at the top of a dashboard.
type Filter struct {
	Variable string
	Label    string
	Values   string // card whose column of the variable's or the named column's values are offered
	Column   string // of that card
}

// Tile is a card at its place, or a heading. A page is 24 columns wide.
type Tile struct {
	Card, Heading           string // one of them
	Col, Row, Width, Height int
}

//go:embed cards/*.sql
var cardFiles embed.FS

// card reads the SQL of a card and finds its variables, which mean the same on every card.
func card(name, file, display, description string, settings map[string]any) Card {
	sql, err := cardFiles.ReadFile("cards/" + file + ".sql")
	if err != nil {
		panic(err) // the files are in the binary
	}
	c := Card{Name: name, Description: description, SQL: strings.TrimSpace(string(sql)), Display: display, Settings: settings}
	for _, v := range []Variable{{"month", "Month", "text"}, {"customer", "Customer", "text"}} {
		if strings.Contains(c.SQL, "{{"+v.Name+"}}") {
			c.Variables = append(c.Variables, v)
		}
	}
	return c
}

type settings = map[string]any

// chart binds the axes of a chart.
func chart(x []string, y ...string) settings {
	return settings{"graph.dimensions": x, "graph.metrics": y}
}

func with(s settings, more settings) settings {
	for key, value := range more {
		s[key] = value
	}
	return s
}

// gaps leaves a line open where a figure is missing: Metabase would draw it through.
func gaps(series ...string) settings {
	all := settings{}
	for _, name := range series {
		all[name] = settings{"line.missing": "none", "display": "line"}
	}
	return settings{"series_settings": all}
}

// axis names the unit of a chart.
func axis(unit string, chart settings) settings {
	return with(chart, settings{"graph.y_axis.title_text": unit})
}

// suffix shows a unit behind a figure.
func suffix(column, unit string) settings {
	return settings{"column_settings": settings{named(column): settings{"suffix": " " + unit}}}
}

// decimals shows so many of each figure: by itself Metabase rounds a price to two.
func decimals(n int, columns ...string) settings {
	each := settings{}
	for _, column := range columns {
		each[named(column)] = settings{"decimals": n}
	}
	return settings{"column_settings": each}
}

// named is the key by which settings speak of a column.
func named(column string) string { return fmt.Sprintf("[%q,%q]", "name", column) }

const (
	monthsCard    = "Months"
	customersCard = "Customers"
)

// Cards are the questions that the dashboards show, beside those that are handed in.
func Cards() []Card {
	return []Card{
		card(monthsCard, "months", "table", "The months that filters offer.", nil),
		card(customersCard, "customers", "table", "The customers that filters offer.", nil),

		card("Committed now", "committed_now", "scalar", "TiB committed by base levels at their newest readings.", suffix("committed_tib", "TiB")),
		card("Consumed now", "consumed_now", "scalar", "TiB in use by base levels at their newest readings.", suffix("consumed_tib", "TiB")),
		card("Used now", "used_now", "scalar", "Consumed of committed capacity of base levels at their newest readings.", suffix("used_percent", "%")),
		card("Newest reading", "newest_reading", "scalar", "When the vendor was last asked for the present, of the customer that was asked longest ago, UTC.", nil),
		card("Committed and consumed by day", "consumption_by_day", "line",
			"TiB of base levels, added up per UTC day; without a month the last three. A day on which any level is missing or not whole has no figure: the line is open there. Above the commitment is our own subtraction.",
			with(axis("TiB", chart([]string{"day"}, "committed_tib", "consumed_tib", "over_committed_tib")), gaps("committed_tib", "consumed_tib", "over_committed_tib"))),
		card("Used of committed by level", "used_by_level", "row",
			"Mean consumption in percent of the commitment, the twenty base levels that used most; without a month the last whole one.", chart([]string{"level"}, "used_percent")),
		card("Burst by month", "burst_by_month", "bar",
			"The vendor's accrued burst of base levels (TiB for a month), thirteen months. Not whole: the month still runs, or a day of a level is missing, so the figure is too low. A month has none when an observed day of any level lacks it.",
			with(axis("TiB-months", chart([]string{"month"}, "accrued_burst_tib", "not_whole_tib")), settings{"stackable.stack_type": "stacked", "series_settings": settings{
				"accrued_burst_tib": settings{"title": "Accrued burst"}, "not_whole_tib": settings{"title": "Not whole"},
			}})),
		card("Levels of the month", "levels_of_month", "table",
			"Every level of one month, without a filter the last whole one. Add-on levels mirror base capacity: never add classes up. A month with fewer days observed than expected is not whole.", nil),
		card("Licences and usage of the month", "licences_of_month", "table",
			"The greatest wolkvox reading of the month, in the unit of the row; durations are minutes. Without a month the newest. Never add different units.", nil),

		card("State of the statement", "statement_state", "scalar", "closed, final or provisional: the least sure of the month's lines. Without a month the last whole one.", nil),
		card("Statement by charge", "statement_amounts", "table",
			"The month's statement per currency and charge. Lines without a price are counted and have no amount. Never add currencies up.", nil),
		card("Statement lines", "statement_lines", "table", "Every line of the month's statement, in the unit and currency of the line.", decimals(6, "quantity", "unit_price")),
		card("Lines in doubt", "statement_doubts", "table", "Lines to look at before the month is closed, in this order: provisional, days lacking, without a price, with a note.", decimals(6, "quantity")),
		card("Adjustments", "adjustments", "table", "What changed of closed months: adjusted in the month, or changing the month.", decimals(6, "quantity")),
		card("Invoice lines", "invoice_lines", "table", "What was imported of the vendors' invoices for the month. `meterhouse match` compares them with the statement.", decimals(6, "quantity", "unit_price")),
		card("Accrued burst check", "burst_check", "table", "The vendor's accrued burst of the month beside the one that its own samples give, the greatest difference first.", nil),

		card("Not fresh", "not_fresh", "scalar", "Datasets of a customer or account that are late, failing or never loaded.", nil),
		card("Open in quarantine", "open_quarantine", "scalar", "Records that were refused and that nobody has settled.", nil),
		card("Days lacking", "days_lacking", "scalar", "Days of a series that are missing or lost, of the last sixty days.", nil),
		card("Days to the next deadline", "next_deadline", "scalar", "Negative once it is past.", nil),
		card("What wants a person", "alerts", "table", "Open alerts. The runbook says what to do for each kind.", nil),
		card("Freshness", "freshness", "table", "How far each dataset is loaded and when it is due.", nil),
		card("Coverage by day", "coverage_by_day", "bar", "Series per day and state, sixty days: missing can still be fetched, lost can not.",
			with(chart([]string{"day", "status"}, "series"), settings{"stackable.stack_type": "stacked"})),
		card("Runs by day", "runs_by_day", "bar", "Runs per day and outcome, thirty days.",
			with(chart([]string{"day", "status"}, "runs"), settings{"stackable.stack_type": "stacked"})),
		card("Deadlines", "deadlines", "table", "Dates that a person or the loader must keep, the next one first.", nil),
		card("Troubled runs", "troubled_runs", "table", "The newest hundred runs that failed or left something out.", nil),
	}
}

// Dashboards are the three pages. They show cards of [Cards] and of the analysts' questions.
func Dashboards() []Dashboard {
	month := Filter{Variable: "month", Label: "Month", Values: monthsCard, Column: "month"}
	customer := Filter{Variable: "customer", Label: "Customer", Values: customersCard, Column: "customer_id"}
	return []Dashboard{
		{
			Name: "Consumption", Description: "Storage and licences: what is committed, used and burst. A hole in a line is a day that was not observed.",
			Filters: []Filter{month, customer},
			Tiles: []Tile{
				{Card: "Used now", Col: 0, Row: 0, Width: 6, Height: 3},
				{Card: "Consumed now", Col: 6, Row: 0, Width: 6, Height: 3},
				{Card: "Committed now", Col: 12, Row: 0, Width: 6, Height: 3},
				{Card: "Newest reading", Col: 18, Row: 0, Width: 6, Height: 3},
				{Card: "Committed and consumed by day", Col: 0, Row: 3, Width: 24, Height: 8},
				{Card: "Used of committed by level", Col: 0, Row: 11, Width: 12, Height: 8},
				{Card: "Burst by month", Col: 12, Row: 11, Width: 12, Height: 8},
				{Card: "Levels of the month", Col: 0, Row: 19, Width: 24, Height: 10},
				{Heading: "wolkvox", Col: 0, Row: 29, Width: 24, Height: 1},
				{Card: "Licences and usage of the month", Col: 0, Row: 30, Width: 24, Height: 9},
			},
		},
		{
			Name: "Month end", Description: "The statement of a month, what is in doubt about it, what changed of closed months, and the vendors' invoices.",
			Filters: []Filter{month, customer},
			Tiles: []Tile{
				{Card: "State of the statement", Col: 0, Row: 0, Width: 6, Height: 6},
				{Card: "Statement by charge", Col: 6, Row: 0, Width: 18, Height: 6},
				{Card: "Lines in doubt", Col: 0, Row: 6, Width: 24, Height: 8},
				{Card: "Statement lines", Col: 0, Row: 14, Width: 24, Height: 10},
				{Card: "Adjustments", Col: 0, Row: 24, Width: 24, Height: 8},
				{Heading: "The vendors' side", Col: 0, Row: 32, Width: 24, Height: 1},
				{Card: "Invoice lines", Col: 0, Row: 33, Width: 24, Height: 8},
				{Card: "Accrued burst check", Col: 0, Row: 41, Width: 24, Height: 8},
			},
		},
		{
			Name: "Data health", Description: "Is everything loaded, what is missing, and what wants a person.",
			Tiles: []Tile{
				{Card: "Not fresh", Col: 0, Row: 0, Width: 6, Height: 3},
				{Card: "Days lacking", Col: 6, Row: 0, Width: 6, Height: 3},
				{Card: "Open in quarantine", Col: 12, Row: 0, Width: 6, Height: 3},
				{Card: "Days to the next deadline", Col: 18, Row: 0, Width: 6, Height: 3},
				{Card: "What wants a person", Col: 0, Row: 3, Width: 24, Height: 7},
				{Card: "Coverage by day", Col: 0, Row: 10, Width: 12, Height: 8},
				{Card: "Runs by day", Col: 12, Row: 10, Width: 12, Height: 8},
				{Card: "Freshness", Col: 0, Row: 18, Width: 12, Height: 8},
				{Card: "Deadlines", Col: 12, Row: 18, Width: 12, Height: 8},
				{Card: "Missing days", Col: 0, Row: 26, Width: 24, Height: 8},
				{Card: "Quarantine by reason", Col: 0, Row: 34, Width: 12, Height: 8},
				{Card: "Troubled runs", Col: 12, Row: 34, Width: 12, Height: 8},
				{Card: "Restated days", Col: 0, Row: 42, Width: 24, Height: 8},
			},
		},
	}
}
