package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// everyMetric are the names that dashboards depend on, with the labels that a
// sample of each has.
var everyMetric = map[string]string{
	"matview_last_refresh_timestamp_seconds": "view", "matview_data_as_of_timestamp_seconds": "view", "matview_staleness_seconds": "view",
	"matview_max_staleness_seconds": "view", "matview_stale": "view", "matview_schedule_enabled": "view",
	"matview_last_refresh_duration_seconds": "view", "matview_consecutive_failures": "view", "matview_refresh_in_progress": "view",
	"matview_next_refresh_timestamp_seconds": "view", "matview_total_jobs": "view", "matview_total_objects": "view", "matview_size_bytes": "view",
	"matview_refreshes_total": "view", "matview_refresh_failures_total": "view", "matview_refreshes_skipped_total": "view",
	"matview_refresh_duration_seconds_bucket": "method,le", "matview_refresh_duration_seconds_sum": "method", "matview_refresh_duration_seconds_count": "method",
	"matview_up":                  "",
	"matview_exporter_build_info": "branch,goarch,goos,goversion,revision,tags,version",
}

// TestRunServesEveryMetric asks a daemon that has refreshed a view, and will not
// refresh another, for all that it promises.
func TestRunServesEveryMetric(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x; CREATE MATERIALIZED VIEW paused AS SELECT 1 AS x;
INSERT INTO materialized_view_refresh_schedule (view_name, every, enabled, total_jobs, total_objects)
VALUES ('v', '1 h', true, 'count(*)', 'sum(x)'), ('paused', '1 h', false, NULL, NULL)`)
	d := startDaemon(t, db.URL(), "")
	var body string
	eventually(t, "the first refresh", func() bool {
		_, body = fetch(t, d.url+"/metrics")
		return strings.Contains(body, `matview_refreshes_total{view="v"} 1`) && strings.Contains(body, `matview_data_as_of_timestamp_seconds{view="v"}`)
	})
	sample, label := regexp.MustCompile(`(?m)^(matview_[a-z_]+)(?:\{(.*)\})? `), regexp.MustCompile(`([a-z]+)="`)
	found := map[string]bool{}
	for _, m := range sample.FindAllStringSubmatch(body, -1) {
		var labels []string
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			labels = append(labels, l[1])
		}
		if got, want := strings.Join(labels, ","), everyMetric[m[1]]; got != want {
			t.Errorf("%s has the labels %q, want %q", m[1], got, want)
		}
		found[m[1]] = true
	}
	for name := range everyMetric {
		if !found[name] {
			t.Errorf("there is no %s", name)
		}
	}
	lines := slices.Collect(strings.Lines(body))
	for _, want := range []string{
		`matview_refresh_failures_total{view="v"} 0`, `matview_refreshes_skipped_total{view="v"} 0`, `matview_refreshes_total{view="paused"} 0`,
		`matview_refresh_failures_total{view="paused"} 0`, `matview_refreshes_skipped_total{view="paused"} 0`, `matview_schedule_enabled{view="paused"} 0`,
		`matview_total_jobs{view="v"} 1`, `matview_total_objects{view="v"} 1`, "matview_up 1",
	} {
		if !slices.Contains(lines, want+"\n") {
			t.Errorf("there is no %s", want)
		}
	}
}
