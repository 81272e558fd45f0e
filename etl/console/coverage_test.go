package console

import (
	"encoding/csv"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	coverageTotals = regexp.MustCompile(`<p>Days of (?:the one|all (\d+)) series that fits?: ([^.]*)\.</p>`)
	coverageCSV    = regexp.MustCompile(`href="(/coverage\.csv[^"]*)"`)
	coverageFoot   = regexp.MustCompile(`<th scope="row" colspan="2">Series that are not whole, of (\d+)</th>`)
)

// Whatever is searched for: the cells of the page with levels, its totals, its last row and the CSV are the same days,
// and those are what the mart has of the series that fit. Subscriptions together have the same totals, and the
// worst of the levels that fit.
func TestCoverageMeansOneThing(t *testing.T) {
	t.Parallel()
	h := grownHouse(t, nil)
	// A level has a day of which records were refused, the same day of another one of its subscription is missing: the
	// worst of both is missing. A subscription's number begins with another's.
	h.exec(`update dw.fact_daily_consumption set digest = null where usage_date = '2026-10-07' and service_level_key = (
		select l.service_level_key from dw.dim_service_level as l join dw.dim_subscription as s using (subscription_key) where s.subscription_number = 'A-000010' order by 1 limit 1)`)
	h.exec(`delete from dw.fact_daily_consumption where usage_date = '2026-10-07' and service_level_key = (
		select l.service_level_key from dw.dim_service_level as l join dw.dim_subscription as s using (subscription_key) where s.subscription_number = 'A-000010' order by 1 desc limit 1)`)
	h.exec(`update dw.dim_subscription set subscription_number = 'A-0000101' where subscription_number = 'A-000011'`)
	b := h.browser()
	const name = "concat_ws(' ', account, customer_id, subscription_number, nullif(discriminator, ''), service_level, product)"
	for _, c := range []struct {
		query string // of the page
		where string // of a series, in the mart
		only  string // of its days: bool_or
	}{
		{"", "true", "true"},
		{"status=missing", "true", "status = 'missing'"},
		{"status=partial", "true", "status = 'partial'"},
		{"status=partial&customer=C-0001&subscription=A-000010&discriminator=", "customer_id = 'C-0001' and subscription_number = 'A-000010'", "status = 'partial'"},
		{"customer=C-0001&subscription=A-000010&discriminator=", "customer_id = 'C-0001' and subscription_number = 'A-000010'", "true"},
		{"status=lost&dataset=wolkvox.billing", "dataset = 'wolkvox.billing'", "status = 'lost'"},
		{"q=ACME", "strpos(lower(" + name + "), 'acme') > 0", "true"}, // an account
		{"q=" + url.QueryEscape("a-000010  extreme"), "strpos(lower(" + name + "), 'a-000010 extreme') > 0", "true"},
		{"account=calls", "account = 'calls'", "true"},
		{"account=acme&q=c-0002&status=missing", "account = 'acme' and strpos(lower(" + name + "), 'c-0002') > 0", "status = 'missing'"},
		{"q=nobody", "false", "true"},
		{"status=unheard-of", "false", "true"},
	} {
		const key = "dataset, account, customer_id, subscription_number, discriminator, service_level, level_ordinal, product"
		days := `select * from (select *, bool_or(` + c.only + `) over (partition by ` + key + `) as fits from mart.coverage where day >= '2026-10-01' and day < '2026-11-01') as d where fits and (` + c.where + `)`
		want := map[string]int{}
		total := 0
		for _, row := range h.mart(`select replace(status, '_', ' '), count(*) from (` + days + `) as d group by 1`) {
			n := 0
			fmt.Sscan(row[1], &n)
			want[row[0]], total = n, total+n
		}
		series := h.mart(`select count(*) from (select distinct ` + key + ` from (` + days + `) as d) as s`)[0][0]
		text := ""
		for _, detail := range []string{"", "&detail=levels"} {
			text = b.settled("/coverage?month=2026-10&" + c.query + detail).text
			got := map[string]int{}
			found := coverageTotals.FindStringSubmatch(text)
			if found == nil {
				if total > 0 {
					t.Errorf("%s%s: no totals", c.query, detail)
				}
				continue
			}
			for part := range strings.SplitSeq(found[2], ", ") {
				n, status := 0, ""
				fmt.Sscan(part, &n, &status)
				_, got[strings.TrimPrefix(part, fmt.Sprint(n)+" ")] = status, n
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s%s: totals (-mart +page):\n%s", c.query, detail, diff)
			}
			if foot := coverageFoot.FindStringSubmatch(text); foot == nil || foot[1] != series || found[1] != "" && found[1] != series {
				t.Errorf("%s%s: series %v %v, want %s", c.query, detail, found[1], foot, series)
			}
		}
		cells := map[string]int{}
		for path := "/coverage?month=2026-10&detail=levels&" + c.query; path != ""; {
			text := b.settled(path).text
			for _, cell := range dayCell.FindAllStringSubmatch(text, -1) {
				if cell[1] != "none" {
					cells[strings.ReplaceAll(cell[1], "_", " ")]++
				}
			}
			next := nextLink.FindStringSubmatch(strings.ReplaceAll(text, "\n", " "))
			if path = ""; next != nil {
				path = html.UnescapeString(next[1])
			}
		}
		if diff := cmp.Diff(want, cells); diff != "" {
			t.Errorf("%s: cells (-mart +page):\n%s", c.query, diff)
		}
		records, err := csv.NewReader(strings.NewReader(b.get(html.UnescapeString(coverageCSV.FindStringSubmatch(text)[1])).text)).ReadAll()
		if err != nil {
			t.Fatalf("%s: %v", c.query, err)
		}
		rows := h.mart(`select source, dataset, account, customer_id, subscription_number, discriminator, service_level, level_ordinal, product, day, status, reason from (` + days + `) as d
			order by dataset, account, customer_id, subscription_number, discriminator, service_level, level_ordinal, product, day`)
		if diff := cmp.Diff(blanks(rows), records[1:]); diff != "" && len(rows)+len(records) > 1 {
			t.Errorf("%s: (-mart +file):\n%s", c.query, diff)
		}
	}
	// From a subscription to its levels, and to nobody else's.
	text := b.settled("/coverage?month=2026-10&status=partial").text
	link := regexp.MustCompile(`<th scope="row"><a href="([^"]*)">A-000010</a>`).FindStringSubmatch(text)
	if link == nil {
		t.Fatalf("a subscription with a partial day is not found, because another of its levels is worse:\n%s", text)
	}
	text = b.settled(html.UnescapeString(link[1])).text
	if !strings.Contains(text, "Of the subscription C-0001 A-000010 only.") || strings.Contains(text, "A-0000101") {
		t.Errorf("its levels:\n%s", text)
	}
}

// blanks are rows as a file has them: unknown is nothing.
func blanks(rows [][]string) [][]string {
	for _, row := range rows {
		for i := range row {
			if row[i] == "–" {
				row[i] = ""
			}
		}
	}
	return rows
}
