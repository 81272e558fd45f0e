package warehouse

import (
	"testing"
	"time"

	"meterhouse/etl"
)

// V13, X14: what is only implausible is loaded and told.
func TestUnitChange(t *testing.T) {
	of := func(committed, consumed, burst string) etl.Sample {
		s := etl.Sample{At: at(may14).UnixMicro(), CommittedTiB: etl.MustDecimal(committed), ConsumedTiB: etl.MustDecimal(consumed)}
		if burst != "" {
			s.BurstTiB = certain(etl.MustDecimal(burst))
		}
		return s
	}
	for _, c := range []struct {
		name    string
		was, is etl.Sample
		want    bool
	}{
		{"TB for TiB", of("100", "112.5", "12.5"), of("109.9511627776", "123.695058125", "13.743895347"), true},
		{"rounded", of("100", "112.5", "12.5"), of("110", "123.7", "13.7"), true},
		{"and back", of("109.9511627776", "123.695058125", "13.743895347"), of("100", "112.5", "12.5"), true},
		{"GiB", of("100", "112.5", "12.5"), of("102400", "115200", "12800"), true},
		{"GB", of("100", "112.5", ""), of("109951.162", "123695.058", ""), true},
		{"bytes", of("100", "112.5", ""), of("109951162777600", "123695058124800", ""), true},
		{"nothing beyond the commitment", of("100", "50", "0"), of("1.1e2", "55", "0"), true},
		{"a level without commitment", of("0", "112.5", "112.5"), of("0", "123.7", "123.7"), true},
		{"consumed alone", of("100", "112.5", "12.5"), of("100", "123.7", "23.7"), false},
		{"committed alone", of("100", "0", "0"), of("110", "0", "0"), false},
		{"one figure alone", of("0", "112.5", ""), of("0", "123.7", ""), false},
		{"another factor", of("100", "112.5", "12.5"), of("105", "118.125", "13.125"), false},
		{"two factors", of("100", "112.5", "12.5"), of("110", "115.2", "12.8"), false},
		{"burst out of nothing", of("100", "100", "0"), of("110", "110", "1"), false},
		{"burst unknown now", of("100", "112.5", "12.5"), of("110", "123.7", ""), false},
		{"nothing", of("0", "0", "0"), of("0", "0", "0"), false},
	} {
		if got := isUnitChange([]etl.Sample{c.was}, []etl.Sample{c.is}); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
	one, later := of("100", "112.5", "12.5"), of("110", "123.7", "13.7")
	if later.At++; isUnitChange([]etl.Sample{one}, []etl.Sample{later}) || isUnitChange([]etl.Sample{one, one}, []etl.Sample{of("110", "123.7", "13.7")}) {
		t.Error("other samples were compared")
	}
}

func TestUnitSuspected(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	const alert = `select subject, detail from mart.alert where kind = 'unit_suspected'`
	tell := func(samples ...etl.Sample) etl.Warnings {
		w.now = w.now.Add(time.Hour)
		return w.mustHistory(window("2026-05-01", "2026-05-03"), extreme(samples...)).Warnings
	}
	first, second := sample("2026-05-01T00:00:00Z", "112.5"), sample("2026-05-02T00:00:00Z", "130")
	tell(first, second)
	w.exec(`update ops.watermark set next_due_at = 'infinity'`)
	second = sample("2026-05-02T00:00:00Z", "131")
	if got := tell(first, second); got["restated"].Count != 1 || got["unit_suspected"].Count != 0 {
		t.Errorf("a day restated: %v", got)
	}
	w.look()
	w.want(alert)
	inTB := func(s etl.Sample) etl.Sample {
		s.CommittedTiB = etl.MustDecimal("109.951162778")
		s.ConsumedTiB = etl.MustDecimal(map[string]string{"112.5": "123.695058125", "131": "144.036023239"}[s.ConsumedTiB.String()])
		s.BurstTiB.Decimal = s.ConsumedTiB.Sub(s.CommittedTiB)
		s.AccruedTiB.Decimal = s.BurstTiB.Quo(31, 9)
		return s
	}
	if got := tell(inTB(first), inTB(second)); got["restated"].Count != 2 || got["unit_suspected"].Count != 2 {
		t.Errorf("in TB: %v", got)
	}
	w.look()
	w.want(alert, "figures of customer C-1 look as if they were told in another unit|"+
		"2 restated days of service levels, first Extreme 0 2026-05-01, are the former figures times one factor, such as 1.0995 of TiB told as TB; last in run 3. "+
		"They are loaded, and mart.restatement has the former ones: ask NetApp before a month of them is closed or paid.")
	w.want(`select committed_tib from mart.daily_consumption`, "109.951162778", "109.951162778")
}
