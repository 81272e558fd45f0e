package main

import (
	"context"
	"log/slog"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"meterhouse/etl/warehouse"
)

// gatherer has the figures of the warehouse and of this process.
func (s *session) gatherer() prometheus.Gatherer {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newMetrics(s.wh, warehouse.MetricGroups(), s.alertCheck().Watched, s.app.log),
	)
	return registry
}

const (
	// scrapeEvery is how long figures serve those who ask, so that many monitors cost as much as one.
	scrapeEvery = 15 * time.Second
	// scrapeWithin is less than the ten seconds that Prometheus waits unless told otherwise.
	scrapeWithin = 8 * time.Second
	probeWithin  = 2 * time.Second
)

// measurer is the warehouse, for figures.
type measurer interface {
	Ready(context.Context) error
	Measure(context.Context, warehouse.MetricGroup, []warehouse.Watched) ([]warehouse.Figure, error)
}

// metrics turns the figures of the warehouse into those of Prometheus. A query that fails is left out,
// counted and tried again the next time; the others go on.
type metrics struct {
	source  measurer
	groups  []warehouse.MetricGroup
	watched []warehouse.Watched // what is configured
	log     *slog.Logger
	now     func() time.Time // monotonic

	build    prometheus.Metric
	up, took *prometheus.Desc
	families map[string]*prometheus.Desc
	errors   *prometheus.CounterVec

	mu      sync.Mutex
	known   []told
	isUp    bool
	seconds float64
	asked   time.Time
}

// told is what one query last told.
type told struct {
	figures []prometheus.Metric
	asked   time.Time // zero: it is to be asked
}

func newMetrics(source measurer, groups []warehouse.MetricGroup, watched []warehouse.Watched, log *slog.Logger) *metrics {
	version, revision, goVersion := "unknown", "unknown", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version, goVersion = or(info.Main.Version, "(devel)"), info.GoVersion
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	m := &metrics{
		source: source, groups: groups, watched: watched, log: log, now: time.Now,
		build: prometheus.MustNewConstMetric(prometheus.NewDesc("meterhouse_build_info",
			"Always 1; the labels tell what is running.", []string{"version", "revision", "goversion"}, nil),
			prometheus.GaugeValue, 1, version, revision, goVersion),
		up:       prometheus.NewDesc("meterhouse_database_up", "1 when the database answers, takes writes and has the right schema.", nil, nil),
		took:     prometheus.NewDesc("meterhouse_scrape_seconds", "How long it took to ask the database for these figures; they serve for 15 seconds.", nil, nil),
		families: map[string]*prometheus.Desc{},
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meterhouse_scrape_errors_total", Help: "Queries for these figures that failed: their figures were left out then.",
		}, []string{"query"}),
		known: make([]told, len(groups)),
	}
	for _, g := range groups {
		m.errors.WithLabelValues(g.Name) // 0 from the start: the first failure is a rise too
		for _, f := range g.Metrics {
			m.families[f.Name] = prometheus.NewDesc(f.Name, f.Help, g.Labels, nil)
		}
	}
	return m
}

// Describe is part of prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	to <- m.build.Desc()
	to <- m.up
	to <- m.took
	for _, desc := range m.families {
		to <- desc
	}
	m.errors.Describe(to)
}

// Collect is part of prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asked.IsZero() || m.now().Sub(m.asked) >= scrapeEvery {
		m.refresh()
	}
	isUp := 0.0
	if m.isUp {
		isUp = 1
	}
	to <- m.build
	to <- prometheus.MustNewConstMetric(m.up, prometheus.GaugeValue, isUp)
	to <- prometheus.MustNewConstMetric(m.took, prometheus.GaugeValue, m.seconds)
	for _, g := range m.known {
		for _, figure := range g.figures {
			to <- figure
		}
	}
	m.errors.Collect(to)
}

// refresh asks the database for what is no longer fresh. Without a database there are no figures of it:
// old ones would look like a warehouse that stands still.
func (m *metrics) refresh() {
	began := m.now()
	m.asked = began
	ctx, cancel := context.WithTimeout(context.Background(), scrapeWithin)
	defer cancel()
	probe, cancelProbe := context.WithTimeout(ctx, probeWithin)
	err := m.source.Ready(probe)
	cancelProbe()
	m.isUp = err == nil
	if err != nil {
		m.known = make([]told, len(m.groups))
		m.seconds = m.now().Sub(began).Seconds()
		return
	}
	for i, g := range m.groups {
		if last := m.known[i].asked; !last.IsZero() && began.Sub(last) < g.Every {
			continue
		}
		figures, err := m.measure(ctx, g)
		if err != nil {
			m.errors.WithLabelValues(g.Name).Inc()
			m.log.Warn("figures left out", "query", g.Name, "error", err)
			m.known[i] = told{}
			continue
		}
		m.known[i] = told{figures, began}
	}
	m.seconds = m.now().Sub(began).Seconds()
}

func (m *metrics) measure(ctx context.Context, g warehouse.MetricGroup) (all []prometheus.Metric, err error) {
	figures, err := m.source.Measure(ctx, g, m.watched)
	if err != nil {
		return nil, err
	}
	for _, f := range figures {
		value, err := strconv.ParseFloat(f.Value, 64)
		if err != nil {
			return nil, err
		}
		kind := prometheus.GaugeValue
		if f.Metric.Counter {
			kind = prometheus.CounterValue
		}
		figure, err := prometheus.NewConstMetric(m.families[f.Metric.Name], kind, value, f.Labels...)
		if err != nil {
			return nil, err
		}
		all = append(all, figure)
	}
	return all, nil
}
