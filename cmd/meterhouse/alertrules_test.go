package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"meterhouse/etl/warehouse"
	"meterhouse/etl/warehouse/warehousetest"
)

const alertRules, alertRuleTests = "prometheus-alerts.yaml", "prometheus-alerts_test.yaml"

func installFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "install", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The shipped alert rules do what their tests say, by Prometheus' own tool.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("promtool")
	if err != nil {
		warehousetest.Lacking(t, "PROMTOOL", "no promtool in PATH to test the alert rules (apt-get install prometheus has it)")
	}
	for _, args := range [][]string{{"check", "rules", alertRules}, {"test", "rules", alertRuleTests}} {
		cmd := exec.CommandContext(t.Context(), tool, args...)
		cmd.Dir = filepath.Join("..", "..", "docs", "install")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// Rules and their tests speak of metrics and labels that exist, and every rule has a test in which it
// fires and one in which it does not.
func TestAlertRulesNameWhatExists(t *testing.T) {
	t.Parallel()
	labels := map[string][]string{
		"meterhouse_build_info": {}, "meterhouse_database_up": {}, "meterhouse_scrape_seconds": {}, "meterhouse_scrape_errors_total": {"query"},
	}
	for _, g := range warehouse.MetricGroups() {
		for _, m := range g.Metrics {
			labels[m.Name] = g.Labels
		}
	}
	for _, file := range []string{alertRules, alertRuleTests} {
		for _, name := range regexp.MustCompile(`\bmeterhouse_\w+`).FindAllString(installFile(t, file), -1) {
			if _, ok := labels[name]; !ok {
				t.Errorf("%s: there is no metric %s", file, name)
			}
		}
	}

	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(installFile(t, alertRules)), &rules); err != nil {
		t.Fatal(err)
	}
	var tests struct {
		Tests []struct {
			InputSeries []struct{ Series string } `yaml:"input_series"`
			Checks      []struct {
				Alert string `yaml:"alertname"`
				Want  []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal([]byte(installFile(t, alertRuleTests)), &tests); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, s := range test.InputSeries {
			name, selector, _ := strings.Cut(s.Series, "{")
			if !strings.HasPrefix(name, "meterhouse_") {
				continue
			}
			var got []string
			for _, m := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(selector, -1) {
				if m[1] != "instance" {
					got = append(got, m[1])
				}
			}
			want := slices.Sorted(slices.Values(labels[name]))
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: labels of %s are %v, want %v", alertRuleTests, s.Series, got, want)
			}
		}
		for _, c := range test.Checks {
			if len(c.Want) > 0 {
				fires[c.Alert] = true
			} else {
				silent[c.Alert] = true
			}
		}
	}
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			if !fires[r.Alert] || !silent[r.Alert] {
				t.Errorf("%s: no test in which it fires, or none in which it does not", r.Alert)
			}
			if s := r.Labels["severity"]; s != "page" && s != "warn" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: severity %q, annotations %v", r.Alert, s, r.Annotations)
			}
		}
	}
	if n < 15 || len(fires) != n {
		t.Errorf("%d rules, %d of them tested", n, len(fires))
	}
}
