package keystonesim

import (
	"fmt"
	"time"
)

const (
	daily      = 24 * time.Hour
	hourly     = time.Hour
	fiveMinute = 5 * time.Minute
	twoMinute  = 2 * time.Minute
)

// A level's consumption swings around usual by about ±swing in a four-week
// wave, with noise on top, so levels with usual+swing above committed burst.
// All figures are TiB.
type level struct {
	name      string
	step      time.Duration // between samples; daily ones stand at 00:00:00Z
	committed float64
	raised    float64 // commitment in force from noon of 17 Feb to 17 May and 17 Aug to 17 Nov; 0 = never changes
	usual     float64
	swing     float64
	decimals  int  // 2, 6 or 30 digits after the point
	gaps      bool // the 11th and 12th of even months are missing
	odd       bool // with Config.Oddities, one negative reading on the third day
}

type subscription struct {
	account, number string
	start           string // YYYY-MM-DD
	end             string // YYYY-MM-DD, or the text a month-to-month contract has
	levels          []level
}

type customer struct {
	id, name      string
	subscriptions []subscription
}

// scenario is who exists and what they use. Config.Customers beyond its length
// repeats it under other ids and numbers. A level name that stands twice in one
// subscription is two instances, with ordinals in this order.
var scenario = []customer{
	{"C-1001", "Halden Ferry Lines, Inc.", []subscription{
		{"Halden Ferry Lines, Inc.", "A-S00041207", "2023-04-01", "2028-03-31", []level{
			{name: "Extreme", step: fiveMinute, committed: 150, usual: 158, swing: 24, decimals: 6},
			{name: "Premium", step: daily, committed: 100, usual: 92, swing: 16, decimals: 2},
			{name: "Premium", step: daily, committed: 75, usual: 80, swing: 12, decimals: 2},
			{name: "Advanced Data-Protect", step: daily, committed: 150, usual: 140, swing: 6, decimals: 2},
		}},
		{"Halden Ferry Lines, Inc. (Nordkai)", "1930061200-PROD", "2024-02-15", "2029-02-14", []level{
			{name: "Standard", step: fiveMinute, committed: 100, raised: 125, usual: 116, swing: 18, decimals: 6},
			{name: "CVO Primary", step: daily, committed: 0, usual: 3.2, swing: 1.1, decimals: 6},
		}},
	}},
	{"0042117", "Brightmere Seed Bank", []subscription{
		{"Brightmere Seed Bank", "1203550871", "2023-09-01", "Month-on-month", []level{
			{name: "Performance", step: fiveMinute, committed: 60, usual: 61, swing: 9, decimals: 6, odd: true},
			{name: "Object", step: daily, committed: 200, usual: 230, swing: 70, decimals: 2},
		}},
		{"Brightmere Seed Bank", "A-S00052993", "2024-07-01", "2027-06-30", []level{
			{name: "Extreme", step: hourly, committed: 50, usual: 51, swing: 8, decimals: 30},
			{name: "DII Extreme", step: daily, committed: 50, usual: 51, swing: 8, decimals: 2},
		}},
		{"Brightmere Seed Bank (vault)", "1203550902", "2025-01-01", "2027-12-31", []level{
			{name: "Value", step: daily, committed: 1.02, usual: 0.9, swing: 0.3, decimals: 6},
		}},
	}},
	{"73350192", "Østerlund Glas & Optik", []subscription{
		{"Østerlund Glas & Optik", "A-S00060018", "2024-08-15", "2029-08-14", []level{
			{name: "Standard", step: daily, committed: 300, usual: 310, swing: 45, decimals: 6, gaps: true},
			{name: "Standard (provisioned_v1)", step: daily, committed: 125, usual: 90, swing: 15, decimals: 2},
		}},
	}},
}

// nobody is the customer without subscriptions, always the last one.
var nobody = customer{id: "C-1999", name: "Quillon Orchards"}

// cast returns n customers from the scenario, and nobody.
func cast(n int) []customer {
	var all []customer
	for i := range n {
		c := scenario[i%len(scenario)]
		if round := i/len(scenario) + 1; round > 1 {
			c.id = fmt.Sprintf("C-%d", 2000+i)
			c.name = fmt.Sprintf("%s %d", c.name, round)
			renamed := make([]subscription, len(c.subscriptions))
			for j, sub := range c.subscriptions {
				sub.account = fmt.Sprintf("%s %d", sub.account, round)
				sub.number = fmt.Sprintf("%s-%d", sub.number, round)
				renamed[j] = sub
			}
			c.subscriptions = renamed
		}
		all = append(all, c)
	}
	return append(all, nobody)
}
