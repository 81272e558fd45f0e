package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"meterhouse/etl"
)

// check compares every level and day in the warehouse with the totals of the fake vendor, which
// come from the same figures by other code. The first difference is an error.
func (d *demo) check(ctx context.Context, s *session, sims *sims) error {
	until := horizon(d.clock.now(), s.keystone[0].cfg.History.Settle)
	t, err := s.wh.Query(ctx, `
		select customer_id, subscription_number, service_level, level_ordinal, usage_date,
			sample_count, trim_scale(committed_tib) as committed_tib, trim_scale(consumed_avg_tib) as consumed_avg_tib,
			trim_scale(consumed_max_tib) as consumed_max_tib, trim_scale(consumed_last_tib) as consumed_last_tib,
			trim_scale(burst_avg_tib) as burst_avg_tib, trim_scale(over_committed_avg_tib) as over_committed_avg_tib,
			trim_scale(accrued_burst_tib) as accrued_burst_tib, is_invoiced::text as is_invoiced
		from mart.daily_consumption
		where usage_date >= $1::date and usage_date < $2::date`, sims.start.String(), until.String())
	if err != nil {
		return err
	}
	stored := map[string][]string{}
	for _, row := range t.Rows {
		stored[strings.Join(row[:5], " ")] = row[5:]
	}
	difference := func(format string, args ...any) error {
		return &exitError{exitDifference, fmt.Errorf("the warehouse differs from the simulator's oracle: "+format, args...)}
	}
	oracle := sims.keystone.Oracle(sims.start.Time(), until.Time())
	for _, o := range oracle {
		key := strings.Join([]string{o.CustomerID, o.SubscriptionNumber, o.ServiceLevel, strconv.Itoa(o.Ordinal), etl.DayOf(o.Day).String()}, " ")
		want := []string{
			strconv.Itoa(o.Samples), o.CommittedLast, o.ConsumedAvg, o.ConsumedMax, o.ConsumedLast,
			o.BurstAvg, o.OverCommittedAvg, o.AccruedSum, strconv.FormatBool(*o.Invoiced),
		}
		got, found := stored[key]
		if !found {
			return difference("%s is missing", key)
		}
		for i := range want {
			if got[i] != want[i] {
				return difference("%s %s is %s, want %s", key, t.Columns[5+i], or(got[i], "unknown"), want[i])
			}
		}
		delete(stored, key)
	}
	for key := range stored {
		return difference("%s is in the warehouse only", key)
	}
	fmt.Fprintf(d.app.stdout, "checked against the simulator's oracle: %d level-days equal\n", len(oracle))
	return nil
}

// show prints what is in the warehouse now.
func (d *demo) show(ctx context.Context, s *session, url string, serve bool) error {
	out := d.app.stdout
	print := func(title, sql string, args ...any) error {
		t, err := s.wh.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "\n%s\n", title)
		printTable(out, t)
		return nil
	}
	if err := print("Rows per fact", countFacts); err != nil {
		return err
	}
	month, err := s.wh.Query(ctx, `
		select coalesce(
			max(month) filter (where (month + interval '1 month')::date <= $1::date and month >= $2::date),
			max(month))
		from mart.month`, horizon(d.clock.now(), s.keystone[0].cfg.History.Settle).String(), s.keystone[0].cfg.History.Start.String())
	if err != nil {
		return err
	}
	statement := "statement"
	if newest := month.Rows[0][0]; newest != "" {
		title := fmt.Sprintf("Consumption of %s in TiB, to 3 decimals (mart.month has every digit)", newest[:7])
		if err := print(title, monthTable, newest); err != nil {
			return err
		}
		statement += " " + newest[:7]
		title = fmt.Sprintf("Statement of %s at the made-up prices of docs/examples/rates.csv (mart.statement has every line)", newest[:7])
		if err := print(title, statementSums, newest[:7]); err != nil {
			return err
		}
	}
	if err := print("wolkvox licences at the last reading, some of them (mart.license_snapshot)", licenseTable); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nTo look around:")
	if !serve {
		again := "meterhouse demo --serve"
		if d.isSet("dir") {
			again += " --dir " + d.dir
		}
		fmt.Fprintf(out, "  %s    (shows the console and keeps Postgres up; then in another terminal)\n", again)
	}
	fmt.Fprintf(out, "  psql '%s'\n", url)
	fmt.Fprintf(out, "  export METERHOUSE_DATABASE_URL='%s'\n", url)
	fmt.Fprintf(out, "  meterhouse %s    (or: meterhouse report)\n\n", statement)
	return nil
}

const countFacts = `
	select 'dw.fact_subscription' as fact, count(*) as rows from dw.fact_subscription
	union all select 'dw.fact_commitment', count(*) from dw.fact_commitment
	union all select 'dw.fact_service_level', count(*) from dw.fact_service_level
	union all select 'dw.fact_consumption_sample', count(*) from dw.fact_consumption_sample
	union all select 'dw.fact_daily_consumption', count(*) from dw.fact_daily_consumption
	union all select 'dw.fact_license_reading', count(*) from dw.fact_license_reading
	union all select 'dw.fact_license_snapshot', count(*) from dw.fact_license_snapshot
	union all select 'dw.restatement', count(*) from dw.restatement`

const monthTable = `
	select customer_name as customer, subscription_number as subscription,
		service_level || case when level_ordinal > 0 then ' #' || (level_ordinal + 1) else '' end as level, level_class as class,
		days_observed || '/' || days_expected as days,
		round(committed_tib, 3) as committed, round(consumed_avg_tib, 3) as average, round(consumed_max_tib, 3) as maximum,
		round(accrued_burst_tib, 3) as accrued_burst, days_over_commitment as days_over
	from mart.month
	where month = $1::date
	order by customer_name, subscription_number, service_level, level_ordinal`

const statementSums = `
	select source, coalesce(customer_name, account) as customer, count(*) as lines, count(*) filter (where state = 'provisional') as provisional,
		count(*) filter (where unit_price is null) as without_price,
		sum(amount) filter (where charge = 'committed') as committed, sum(amount) filter (where charge = 'burst') as burst,
		sum(amount) filter (where charge = 'license') as licences, sum(amount) filter (where charge = 'usage') as usage,
		sum(amount) as amount, currency
	from mart.statement
	left join (select distinct customer_id, customer_name from mart.subscription where is_current) as named using (customer_id)
	where period = $1
	group by source, coalesce(customer_name, account), currency
	order by 1, 2, currency`

const licenseTable = `
	select operation, product, description, kind, snapshot_date as day, items, unit
	from mart.license_snapshot
	where snapshot_date = (select max(snapshot_date) from mart.license_snapshot)
	order by product, description
	limit 12`
