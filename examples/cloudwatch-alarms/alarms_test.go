package alarms_test

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"

	"github.com/matview/terraform-provider-matview/exporter/publish"
	"github.com/matview/terraform-provider-matview/internal/awstest"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/provider"
)

func TestAccModule(t *testing.T) {
	got, output, err := awstest.Apply(t, awstest.Module(t, `
  namespace             = "S3Scanner"
  max_staleness_seconds = { cron = 7200 }
  schedules = {
    limited = { id = "job_progress", view = "public.job_progress", max_staleness = "1h5m0.5s", every = "1m" }
    every   = { view = "reporting.daily", every = "1h" }
    target  = { view = "t", target_staleness = "90s" }
    cron    = { view = "c" }
    paused  = { view = "p", every = "1m", enabled = false }
    encoded = { view = "\"Größe 100%\"", every = "1m" }
  }`))
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	const staleness, metric = "aws_cloudwatch_metric_alarm.staleness", "aws_cloudwatch_metric_alarm."
	for _, want := range []struct {
		address, attribute string
		value              any
	}{
		{staleness + `["limited"]`, "threshold", 3900.5},
		{staleness + `["limited"]`, "dimensions", map[string]any{"ViewName": "job_progress"}},
		{staleness + `["encoded"]`, "dimensions", map[string]any{"ViewName": publish.DimensionValue(`"Größe 100%"`)}},
		{staleness + `["limited"]`, "statistic", "Maximum"},
		{staleness + `["limited"]`, "treat_missing_data", "notBreaching"},
		{staleness + `["limited"]`, "actions_enabled", true},
		{staleness + `["every"]`, "threshold", 7260.0},
		{staleness + `["target"]`, "threshold", 240.0},
		{staleness + `["cron"]`, "threshold", 7200.0},
		{staleness + `["paused"]`, "actions_enabled", false},
		{metric + `failure["every"]`, "treat_missing_data", "ignore"},
		{metric + "heartbeat", "treat_missing_data", "breaching"},
		{metric + "heartbeat", "alarm_actions", nil},
		{metric + "heartbeat_seen", "treat_missing_data", "ignore"},
		{"aws_cloudwatch_composite_alarm.exporter", "alarm_rule", `ALARM("matview-heartbeat") AND NOT INSUFFICIENT_DATA("matview-heartbeat-seen")`},
	} {
		if value := got[want.address][want.attribute]; !reflect.DeepEqual(value, want.value) {
			t.Errorf("%s: %s is %v, want %v", want.address, want.attribute, value, want.value)
		}
	}
	suppressor, _ := got["aws_cloudwatch_composite_alarm.exporter"]["actions_suppressor"].([]any)
	if want := []any{map[string]any{"alarm": "matview-heartbeat-seen", "wait_period": 120.0, "extension_period": 0.0}}; !reflect.DeepEqual(suppressor, want) {
		t.Errorf("the first heartbeat may raise an alarm: %v", suppressor)
	}
	rule, _ := got[`aws_cloudwatch_composite_alarm.views["0"]`]["alarm_rule"].(string)
	if !strings.HasPrefix(rule, `ALARM("matview-cron-stale") OR ALARM("matview-cron-failing") OR `) {
		t.Errorf("rule of all views: %s", rule)
	}
	if strings.Contains(rule, "paused") {
		t.Errorf("the rule includes a paused view: %s", rule)
	}
	body, _ := got["aws_cloudwatch_dashboard.this"]["dashboard_body"].(string)
	if !json.Valid([]byte(body)) || !strings.Contains(body, `SEARCH('{S3Scanner,ViewName} MetricName=\"MatViewStaleness\"`) {
		t.Errorf("dashboard: %s", body)
	}
}

func TestAccNoThreshold(t *testing.T) {
	_, output, err := awstest.Apply(t, awstest.Module(t, `
  namespace = "n"
  schedules = { cron = { view = "c" } }`))
	if err == nil || !strings.Contains(output, "How old may cron be?") {
		t.Errorf("%v\n%s", err, output)
	}
}

func TestAccAllPaused(t *testing.T) {
	got, output, err := awstest.Apply(t, awstest.Module(t, `
  namespace = "n"
  schedules = { v = { view = "v", every = "1m", enabled = false } }`))
	if err != nil || got[`aws_cloudwatch_composite_alarm.views["0"]`]["alarm_rule"] != "FALSE" {
		t.Errorf("%v %v\n%s", err, got, output)
	}
}

func TestAccInvalidKey(t *testing.T) {
	_, output, err := awstest.Apply(t, awstest.Module(t, `
  namespace = "n"
  schedules = { "a\"b" = { view = "v", every = "1m" } }`))
	if err == nil || !strings.Contains(output, "without quotes and backslashes") {
		t.Errorf("%v\n%s", err, output)
	}
}

// TestAccFirstApply applies schedules whose values are unknown at the first plan; only
// their keys are known. With 90 views the composites stay within CloudWatch's limits.
func TestAccFirstApply(t *testing.T) {
	got, output, err := awstest.Apply(t, `
resource "terraform_data" "schedule" {
  count = 90
  input = { view = "v${count.index}", every = "1m", cron = null, enabled = true, max_staleness = "5m", target_staleness = null, time_zone = "UTC" }
}
`+awstest.Module(t, `
  namespace  = "S3Scanner"
  dimensions = { Database = "app" }
  schedules  = { for i, s in terraform_data.schedule : "a_rather_long_name_of_a_materialized_view_${i}" => s.output }`))
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	composites := 0
	for address, values := range got {
		rule, _ := values["alarm_rule"].(string)
		if strings.HasPrefix(address, "aws_cloudwatch_composite_alarm.views") {
			composites++
		}
		if len(rule) > 10240 || strings.Count(rule, "ALARM(") > 100 {
			t.Errorf("%s is too long: %d", address, len(rule))
		}
	}
	if composites != 3 {
		t.Errorf("%d composites", composites)
	}
}

// TestAccWithOurProvider passes the schedules of our provider to the module in the first
// apply, as the guide does. One has a name that is not ASCII.
func TestAccWithOurProvider(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("TF_ACC is not set")
	}
	db := postgrestest.New(t)
	got, output, err := awstest.ApplyWith(t, fmt.Sprintf(`
terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}
provider "matview" { url = %q }
resource "matview_refresh_log" "this" {}
resource "matview_view" "this" {
  for_each   = toset(["job_progress", "Größe"])
  name       = each.key
  definition = "SELECT 1 AS x"
}
resource "matview_refresh_schedule" "job_progress" {
  view          = matview_view.this["job_progress"].id
  every         = "1m"
  max_staleness = "5m"
  depends_on    = [matview_refresh_log.this]
}
resource "matview_refresh_schedule" "size" {
  view             = matview_view.this["Größe"].id
  target_staleness = "10m"
  depends_on       = [matview_refresh_log.this]
}
`, db.URL())+awstest.Module(t, `
  namespace = "S3Scanner"
  schedules = {
    job_progress = matview_refresh_schedule.job_progress
    size         = matview_refresh_schedule.size
  }`), map[string]func() tfprotov6.ProviderServer{"matview/matview": providerserver.NewProtocol6(provider.New("test")())})
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for key, want := range map[string]struct {
		view      string
		threshold float64
	}{"job_progress": {"job_progress", 300}, "size": {`"Größe"`, 1260}} {
		alarm := got["aws_cloudwatch_metric_alarm.staleness[\""+key+"\"]"]
		dimensions := map[string]any{"ViewName": publish.DimensionValue(want.view)}
		if alarm["threshold"] != want.threshold || !reflect.DeepEqual(alarm["dimensions"], dimensions) {
			t.Errorf("%s: %v above %v, want %v above %v", key, alarm["dimensions"], alarm["threshold"], dimensions, want.threshold)
		}
	}
}

func TestAccFormat(t *testing.T) { awstest.Format(t) }
