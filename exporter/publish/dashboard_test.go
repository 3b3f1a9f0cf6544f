package publish_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/matview/terraform-provider-matview/exporter/publish"
)

const examples = "../../examples/prometheus/"

var (
	metricName     = regexp.MustCompile(`\bmatview_[a-z0-9_]+`)
	recordedSeries = regexp.MustCompile(`\b(?:job|view):[a-z0-9_:]+`)
	recordNames    = regexp.MustCompile(`(?m)^\s*- record: (\S+)$`)
)

// exposed are the names of all series that an exporter exposes once everything is
// known of a view.
func exposed(t *testing.T) []string {
	t.Helper()
	db := installed(t)
	pool := db.Pool(t)
	refreshed(t, pool)
	db.Exec(t, `UPDATE materialized_view_refresh_log SET total_jobs = 1, total_objects = 1 WHERE view_name = 'fresh';
UPDATE materialized_view_refresh_state SET next_run_at = now() WHERE view_name = 'fresh'`)
	reg := prometheus.NewRegistry()
	counters := publish.NewCounters(reg)
	counters.Init([]string{"fresh"})
	counters.Observe("fresh", "blocking", "succeeded", time.Second)
	publish.NewMetrics(reg, "cloudwatch")
	families, err := prometheus.Gatherers{reg, collector(t, pool)}.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
		if f.GetType().String() == "HISTOGRAM" {
			names = append(names, f.GetName()+"_bucket", f.GetName()+"_sum", f.GetName()+"_count")
		}
	}
	return names
}

// TestExamplesKnowTheMetrics checks every name in the rules and on the dashboard. The
// end-to-end tests have Prometheus check that the expressions are valid.
func TestExamplesKnowTheMetrics(t *testing.T) {
	rules := read(t, "rules.yml")
	var records []string
	for _, m := range recordNames.FindAllStringSubmatch(rules, -1) {
		records = append(records, m[1])
	}
	names := exposed(t)
	for _, file := range []string{"rules.yml", "dashboard.json", "rules_test.yml"} {
		text := read(t, file)
		for _, name := range recordedSeries.FindAllString(text, -1) {
			if !slices.Contains(records, name) {
				t.Errorf("%s: no rule records %s", file, name)
			}
		}
		found := metricName.FindAllString(recordedSeries.ReplaceAllString(text, ""), -1)
		if len(found) == 0 {
			t.Errorf("%s names no metric", file)
		}
		for _, name := range found {
			if !slices.Contains(names, name) {
				t.Errorf("%s: the exporter has no metric %s", file, name)
			}
		}
	}
	for _, name := range names {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if dashboard := read(t, "dashboard.json") + rules; !strings.Contains(dashboard, base) {
			t.Errorf("neither the rules nor the dashboard show %s", name)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(examples + file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
