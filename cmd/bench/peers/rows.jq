# An answer of historical-consumption-details as CSV rows of fact_consumption_sample.
.results.records[]
| .subscription.number as $number
| .service_levels[]
| $keys[0][$number + "|" + .name] as $level
| .historical_consumption[]
| [$customer, $level, .timestamp_utc, .committed_tib, .consumed_tib, .burst_tib, .accrued_burst_tib, .is_invoiced]
| @csv
