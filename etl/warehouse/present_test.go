package warehouse

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
)

func (h *house) terms(scope string, told ...etl.Terms) (etl.Outcome, error) {
	return h.load(etl.Job{Dataset: "keystone.subscriptions", Scope: scope}, etl.Window{}, func(sink etl.Sink) (etl.Report, error) {
		report := etl.Report{Records: len(told), Warnings: etl.Warnings{}}
		for _, t := range told {
			report.Received += len(t.Levels)
			if err := sink.Terms(t); err != nil {
				return report, err
			}
		}
		return report, nil
	})
}

func committed(number string, levels ...string) etl.Terms {
	t := etl.Terms{Subscription: etl.Subscription{Number: number, Start: ptr(at("2025-01-01T00:00:00.254Z")), StartText: ptr("2025-01-01T00:00:00.254Z")}}
	for _, l := range levels {
		name, tib, _ := strings.Cut(l, "=")
		t.Levels = append(t.Levels, etl.Commitment{Level: name, CommittedTiB: etl.MustDecimal(tib)})
	}
	return t
}

func TestCommitmentVersions(t *testing.T) {
	h := newHouse(t)
	step := func(want string, told ...etl.Terms) {
		t.Helper()
		h.now = h.now.Add(24 * time.Hour)
		out, err := h.terms("C-1", told...)
		if err != nil {
			t.Fatal(err)
		}
		wantCounts(t, out, want)
	}
	step("received 2 inserted 2 restated 0 unchanged 0 ignored 0 quarantined 0 absent 0", committed("A-S1", "Extreme=100", "Value=50.50"))
	step("received 2 inserted 0 restated 0 unchanged 2 ignored 0 quarantined 0 absent 0", committed("A-S1", "Extreme=100.0", "Value=50.5"))
	h.want(`select count(*) from raw.payload`, "1")
	step("received 1 inserted 0 restated 1 unchanged 0 ignored 0 quarantined 0 absent 1", committed("A-S1", "Extreme=120"))
	h.want(`select service_level, committed_tib, is_current, valid_from, valid_to, absent_since from mart.commitment order by 1, 4`,
		"Extreme|100|false|2026-05-16 12:00:00+00|2026-05-18 12:00:00+00|",
		"Extreme|120|true|2026-05-18 12:00:00+00||",
		"Value|50.5|true|2026-05-16 12:00:00+00||2026-05-18 12:00:00+00")
	step("received 2 inserted 0 restated 0 unchanged 2 ignored 0 quarantined 0 absent 0", committed("A-S1", "Value=50.5", "Extreme=120"))
	h.want(`select count(*) from mart.commitment where absent_since is not null`, "0")
}

func TestSubscriptionIdentity(t *testing.T) {
	h := newHouse(t)
	record := func(number, start, end string, repeated bool) etl.Terms {
		r := etl.Terms{Subscription: etl.Subscription{Number: number, Repeated: repeated}, Levels: []etl.Commitment{{Level: "Extreme", CommittedTiB: etl.NewDecimal(1)}}}
		if start != "" {
			r.Start = ptr(at(start + "T00:00:00Z"))
		}
		if end != "" {
			r.End = ptr(at(end + "T00:00:00Z"))
		}
		return r
	}
	step := func(want string, told ...etl.Terms) {
		t.Helper()
		h.now = h.now.Add(24 * time.Hour)
		if _, err := h.terms("C-1", told...); err != nil {
			t.Fatal(err)
		}
		got := h.rows(`select discriminator, start_date::date, end_date::date from mart.subscription where is_current order by 1`)
		if strings.Join(got, " ") != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	step("|2024-01-01|2024-12-31", record("S", "2024-01-01", "2024-12-31", false))
	// A renewal moves the dates of the only subscription with the number.
	step("|2025-01-01|2025-12-31", record("S", "2025-01-01", "2025-12-31", false))
	// Two at once: the stored one is found by its start, the other is new, in either order.
	step("|2025-01-01|2025-12-31 2025-06-01|2025-06-01|2026-05-31",
		record("S", "2025-06-01", "2026-05-31", true), record("S", "2025-01-01", "2025-12-31", true))
	// One left: recognised by its start.
	step("|2025-01-01|2025-12-31 2025-06-01|2025-06-01|2027-05-31", record("S", "2025-06-01", "2027-05-31", false))
	h.want(`select count(*) from dw.dim_subscription`, "2")
}

func TestReadings(t *testing.T) {
	h := newHouse(t)
	load := func(want string, levels ...etl.LevelReading) {
		t.Helper()
		h.now = h.now.Add(time.Hour)
		out, err := h.load(etl.Job{Dataset: "keystone.current", Scope: "C-1", Snapshot: true}, etl.Window{}, func(sink etl.Sink) (etl.Report, error) {
			return etl.Report{Records: 1, Received: len(levels), Warnings: etl.Warnings{}},
				sink.Readings(etl.Readings{Subscription: subscription1(), Levels: levels})
		})
		if err != nil {
			t.Fatal(err)
		}
		wantCounts(t, out, want)
	}
	level := func(consumed string, read *time.Time) etl.LevelReading {
		return etl.LevelReading{Level: "Extreme", CommittedTiB: etl.NewDecimal(100), ConsumedTiB: etl.MustDecimal(consumed), BurstTiB: ptr(etl.NewDecimal(0)), ReadAt: read}
	}
	six := ptr(at("2026-05-15T06:00:00Z"))
	load("received 1 inserted 1 restated 0 unchanged 0 ignored 0 quarantined 0 absent 0", level("90", six))
	load("received 1 inserted 0 restated 0 unchanged 1 ignored 0 quarantined 0 absent 0", level("90.0", six))
	load("received 1 inserted 0 restated 1 unchanged 0 ignored 0 quarantined 0 absent 0", level("91", six))
	load("received 1 inserted 1 restated 0 unchanged 0 ignored 0 quarantined 0 absent 0", level("95", nil)) // no collection yet: the answer's own time
	h.want(`select consumed_tib, burst_tib, accrued_burst_tib, read_at, fetched_at, is_latest from mart.service_level order by fetched_at`,
		"91|0||2026-05-15 06:00:00+00|2026-05-15 15:00:00+00|false",
		"95|0|||2026-05-15 16:00:00+00|true")
	h.want(`select consumed_tib, superseded_at from dw.fact_service_level where superseded_at is not null`, "90|2026-05-15 15:00:00+00")
	h.want(`select count(*) from raw.payload`, "4")

	// Two instances whose order changes between answers keep their ordinals.
	nine := ptr(at("2026-05-15T09:00:00Z"))
	a, b := level("10", nine), level("20", nine)
	load("received 2 inserted 2 restated 0 unchanged 0 ignored 0 quarantined 0 absent 0", a, b)
	load("received 2 inserted 0 restated 0 unchanged 2 ignored 0 quarantined 0 absent 0", b, a)
}

func TestLicenseReadings(t *testing.T) {
	h := newHouse(t)
	if err := h.SaveProducts(t.Context(), []etl.Product{{Number: 15, Code: "chat_licenses", Title: "Chat licences", Unit: "licences", Kind: etl.Gauge}}); err != nil {
		t.Fatal(err)
	}
	job := etl.Job{Dataset: "wolkvox.billing", Scope: "callcenter", Account: "callcenter", Server: "0039", Zone: "America/Bogota", Products: []string{"chat_licenses"}, Snapshot: true}
	load := func(when, items string) etl.Outcome {
		t.Helper()
		h.now = at(when)
		out, err := h.load(job, etl.Window{}, func(sink etl.Sink) (etl.Report, error) {
			return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}}, sink.License(etl.LicenseReading{
				Operation: "acme_ops", Product: "chat_licenses", Description: "Chat licenses", LocalDate: day("2026-05-15"),
				Items: etl.MustDecimal(items), ItemsText: items, ReadAt: h.now,
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	inserted := "received 1 inserted 1 restated 0 unchanged 0 ignored 0 quarantined 0 absent 0"
	wantCounts(t, load("2026-05-15T17:00:00Z", "25"), inserted)
	wantCounts(t, load("2026-05-16T04:30:00Z", "26"), inserted)
	wantCounts(t, load("2026-05-15T23:00:00Z", "27"), inserted) // loaded out of order
	wantCounts(t, load("2026-05-15T23:00:00Z", "27"), "received 1 inserted 0 restated 0 unchanged 1 ignored 0 quarantined 0 absent 0")
	h.want(`select account, server, operation, product, unit, kind, snapshot_date, items, items_min, items_max, read_at from mart.license_snapshot`,
		"callcenter|0039|acme_ops|chat_licenses|licences|gauge|2026-05-15|26|25|27|2026-05-16 04:30:00+00")
	h.want(`select day, status from mart.coverage where product = 'chat_licenses' order by 1`, "2026-05-15|observed")
	if pinned, err := h.PinnedOperation(t.Context(), "callcenter"); err != nil || pinned != "acme_ops" {
		t.Errorf("pinned operation: got %q, %v", pinned, err)
	}

	// Another operation's figures are nobody's here.
	out, err := h.load(job, etl.Window{}, func(sink etl.Sink) (etl.Report, error) {
		return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}}, sink.License(etl.LicenseReading{
			Operation: "other_ops", Product: "chat_licenses", Description: "Chat licenses", LocalDate: day("2026-05-15"),
			Items: etl.NewDecimal(9), ItemsText: "9", ReadAt: h.now,
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	wantCounts(t, out, "received 1 inserted 0 restated 0 unchanged 0 ignored 0 quarantined 1 absent 0")
	h.want(`select reason from mart.quarantine`, "wrong_operation")

	// Two days without a reading, then nothing told: lost days, an empty day.
	h.now = at("2026-05-18T17:00:00Z")
	_, err = h.load(job, etl.Window{}, func(sink etl.Sink) (etl.Report, error) { return etl.Report{Warnings: etl.Warnings{}}, nil })
	if err == nil || !strings.Contains(err.Error(), "unexpected_empty") {
		t.Errorf("an empty list where there were readings: got %v, want unexpected_empty", err)
	}
	load("2026-05-18T17:00:00Z", "25")
	h.want(`select day, status from mart.coverage where product = 'chat_licenses' order by 1`,
		"2026-05-15|observed", "2026-05-16|lost", "2026-05-17|lost", "2026-05-18|not_due")
}

func TestCustomers(t *testing.T) {
	h := newHouse(t)
	load := func(want string, list ...etl.Customer) {
		t.Helper()
		h.now = h.now.Add(time.Hour)
		out, err := h.load(etl.Job{Dataset: "keystone.customers", Scope: "acme"}, etl.Window{}, func(sink etl.Sink) (etl.Report, error) {
			for _, c := range list {
				if err := sink.Customer(c); err != nil {
					return etl.Report{}, err
				}
			}
			return etl.Report{Records: len(list), Received: len(list), Warnings: etl.Warnings{}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		wantCounts(t, out, want)
	}
	load("received 2 inserted 2 restated 0 unchanged 0 ignored 0 quarantined 0 absent 0", etl.Customer{ID: "A", Name: ptr("Alpha")}, etl.Customer{ID: "B"})
	load("received 1 inserted 0 restated 1 unchanged 0 ignored 0 quarantined 0 absent 1", etl.Customer{ID: "A", Name: ptr("Alef")})
	if ids, err := h.Customers(t.Context(), "acme"); err != nil || !slices.Equal(ids, []string{"A"}) {
		t.Errorf("customers: got %v, %v", ids, err)
	}
	load("received 2 inserted 0 restated 0 unchanged 2 ignored 0 quarantined 0 absent 0", etl.Customer{ID: "A", Name: ptr("Alef")}, etl.Customer{ID: "B"})
	h.want(`select customer_id, customer_name, absent_since from dw.dim_customer order by 1`, "A|Alef|", "B||")
}

// TestObserve: entering observations in any order gives one history.
func TestObserve(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		values := rapid.SliceOfN(rapid.IntRange(1, 3), 1, 8).Draw(rt, "values")
		start := at("2026-01-01T00:00:00Z")
		order := rapid.Permutation(indices(len(values))).Draw(rt, "order")
		enter := func(order []int) string {
			var history []version[int]
			var entered []int
			for _, i := range order {
				var again *time.Time
				for _, j := range entered {
					if when := start.Add(time.Duration(j) * time.Hour); j > i && (again == nil || when.Before(*again)) {
						again = &when
					}
				}
				history, _ = observe(history, start.Add(time.Duration(i)*time.Hour), values[i], again, func(a, b int) bool { return a == b })
				entered = append(entered, i)
			}
			var b strings.Builder
			for _, v := range history {
				fmt.Fprintf(&b, "%s=%d ", v.from.Format("15h"), v.value)
			}
			return b.String()
		}
		if want, got := enter(indices(len(values))), enter(order); want != got {
			rt.Fatalf("values %v in order %v\n got %s\nwant %s", values, order, got, want)
		}
	})
}

func indices(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}
