// Package alarms_test runs the module in a real Terraform. In place of
// hashicorp/aws, which is large and wants an account, stands a provider of that
// name with the schema of the resources that the module has, as the
// documentation of hashicorp/aws gives it; it stores what it is told.
package alarms_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	dataschema "github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"

	"github.com/matview/terraform-provider-matview/internal/terraformcli"
)

type aws struct{}

func (aws) Metadata(_ context.Context, _ provider.MetadataRequest, resp *provider.MetadataResponse) {
	resp.TypeName = "aws"
}
func (aws) Schema(context.Context, provider.SchemaRequest, *provider.SchemaResponse)          {}
func (aws) Configure(context.Context, provider.ConfigureRequest, *provider.ConfigureResponse) {}

func (aws) DataSources(context.Context) []func() datasource.DataSource {
	return []func() datasource.DataSource{func() datasource.DataSource { return region{} }}
}

var (
	required = schema.StringAttribute{Required: true}
	optional = schema.StringAttribute{Optional: true}
	computed = schema.StringAttribute{Computed: true}
	texts    = schema.SetAttribute{Optional: true, ElementType: types.StringType}
)

func (aws) Resources(context.Context) []func() resource.Resource {
	kinds := []stored{
		{"_cloudwatch_metric_alarm", "alarm_name", "arn", map[string]schema.Attribute{
			"alarm_name": required, "alarm_description": optional, "comparison_operator": required, "namespace": optional,
			"metric_name": optional, "statistic": optional, "treat_missing_data": optional, "unit": optional,
			"evaluation_periods": schema.Int64Attribute{Required: true}, "datapoints_to_alarm": schema.Int64Attribute{Optional: true},
			"period": schema.Int64Attribute{Optional: true}, "threshold": schema.Float64Attribute{Optional: true},
			"dimensions":      schema.MapAttribute{Optional: true, ElementType: types.StringType},
			"actions_enabled": schema.BoolAttribute{Optional: true}, "alarm_actions": texts, "ok_actions": texts, "insufficient_data_actions": texts,
			"id": computed, "arn": computed,
		}},
		{"_cloudwatch_composite_alarm", "alarm_name", "arn", map[string]schema.Attribute{
			"alarm_name": required, "alarm_rule": required, "alarm_description": optional, "alarm_actions": texts, "ok_actions": texts,
			"actions_enabled": schema.BoolAttribute{Optional: true}, "id": computed, "arn": computed,
		}},
		{"_cloudwatch_dashboard", "dashboard_name", "dashboard_arn", map[string]schema.Attribute{
			"dashboard_name": required, "dashboard_body": required, "id": computed, "dashboard_arn": computed,
		}},
	}
	var all []func() resource.Resource
	for _, kind := range kinds {
		all = append(all, func() resource.Resource { return kind })
	}
	return all
}

// stored is a resource that stores its arguments.
type stored struct {
	name, named, arn string
	attributes       map[string]schema.Attribute
}

func (s stored) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + s.name
}

func (s stored) Schema(_ context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{Attributes: s.attributes}
}

func (s stored) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var name types.String
	resp.Diagnostics.Append(req.Plan.GetAttribute(ctx, path.Root(s.named), &name)...)
	resp.State.Raw = req.Plan.Raw
	resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root("id"), name)...)
	resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root(s.arn), types.StringValue("arn:aws:cloudwatch:::"+name.ValueString()))...)
}

func (s stored) Read(context.Context, resource.ReadRequest, *resource.ReadResponse) {}
func (s stored) Update(_ context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	resp.State.Raw = req.Plan.Raw
}
func (s stored) Delete(context.Context, resource.DeleteRequest, *resource.DeleteResponse) {}

type region struct{}

func (region) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_region"
}

func (region) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	resp.Schema = dataschema.Schema{Attributes: map[string]dataschema.Attribute{"name": dataschema.StringAttribute{Computed: true}}}
}

func (region) Read(ctx context.Context, _ datasource.ReadRequest, resp *datasource.ReadResponse) {
	resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root("name"), "eu-central-1")...)
}

// serve starts the provider in this process, and returns the variable by which
// Terraform finds it.
func serve(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	reattach, closed := make(chan *plugin.ReattachConfig), make(chan struct{})
	const source = "registry.terraform.io/hashicorp/aws"
	go func() {
		_ = tf6server.Serve(source, providerserver.NewProtocol6(aws{}), tf6server.WithDebug(ctx, reattach, closed), tf6server.WithoutLogStderrOverride())
	}()
	config := <-reattach
	t.Cleanup(func() { cancel(); <-closed })
	return fmt.Sprintf(`TF_REATTACH_PROVIDERS={%q: {"Protocol": %q, "ProtocolVersion": 6, "Pid": %d, "Test": true, "Addr": {"Network": %q, "String": %q}}}`,
		source, config.Protocol, config.Pid, config.Addr.Network(), config.Addr.String())
}

// apply applies a configuration and returns the attributes of each resource, by
// its address.
func apply(t *testing.T, config string) (resources map[string]map[string]any, output string, err error) {
	t.Helper()
	if os.Getenv("TF_ACC") == "" {
		t.Skip("TF_ACC is not set")
	}
	terraform, err := terraformcli.Find(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.tf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	environment := append(os.Environ(), "TF_CLI_CONFIG_FILE="+os.DevNull, "CHECKPOINT_DISABLE=1", serve(t))
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), terraform, args...)
		cmd.Dir, cmd.Env = dir, environment
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, args := range [][]string{{"init", "-no-color"}, {"validate", "-no-color"}, {"apply", "-no-color", "-auto-approve"}} {
		if output, err = run(args...); err != nil {
			return nil, output, fmt.Errorf("terraform %s: %w", args[0], err)
		}
	}
	shown, err := run("show", "-json")
	if err != nil {
		return nil, shown, err
	}
	var state struct {
		Values struct {
			Root struct {
				Modules []struct {
					Resources []struct {
						Address string
						Values  map[string]any
					}
				} `json:"child_modules"`
			} `json:"root_module"`
		}
	}
	if err := json.Unmarshal([]byte(shown), &state); err != nil {
		return nil, shown, err
	}
	resources = map[string]map[string]any{}
	for _, r := range state.Values.Root.Modules[0].Resources {
		resources[strings.TrimPrefix(r.Address, "module.alarms.")] = r.Values
	}
	return resources, output, nil
}

func module(t *testing.T, arguments string) string {
	t.Helper()
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	return "module \"alarms\" {\n  source = \"" + filepath.ToSlash(dir) + "\"\n" + arguments + "\n}\n"
}

func TestAccModule(t *testing.T) {
	got, output, err := apply(t, module(t, `
  namespace             = "S3Scanner"
  max_staleness_seconds = { cron = 7200 }
  schedules = {
    limited = { view = "job_progress", max_staleness = "1h5m0.5s", every = "1m" }
    every   = { view = "reporting.daily", every = "1h" }
    target  = { view = "t", target_staleness = "90s" }
    cron    = { view = "c" }
    paused  = { view = "p", every = "1m", enabled = false }
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
		{staleness + `["limited"]`, "statistic", "Maximum"},
		{staleness + `["limited"]`, "treat_missing_data", "notBreaching"},
		{staleness + `["limited"]`, "actions_enabled", true},
		{staleness + `["every"]`, "threshold", 7260.0},
		{staleness + `["target"]`, "threshold", 240.0},
		{staleness + `["cron"]`, "threshold", 7200.0},
		{staleness + `["paused"]`, "actions_enabled", false},
		{metric + `failure["every"]`, "treat_missing_data", "notBreaching"},
		{metric + "heartbeat", "treat_missing_data", "breaching"},
		{metric + "heartbeat", "alarm_actions", nil},
		{metric + "heartbeat_seen", "treat_missing_data", "ignore"},
		{"aws_cloudwatch_composite_alarm.exporter", "alarm_rule", `ALARM("matview-heartbeat") AND NOT INSUFFICIENT_DATA("matview-heartbeat-seen")`},
	} {
		if value := got[want.address][want.attribute]; !reflect.DeepEqual(value, want.value) {
			t.Errorf("%s: %s is %v, want %v", want.address, want.attribute, value, want.value)
		}
	}
	rule, _ := got[`aws_cloudwatch_composite_alarm.views["0"]`]["alarm_rule"].(string)
	if !strings.HasPrefix(rule, `ALARM("matview-cron-stale") OR ALARM("matview-cron-failing") OR `) {
		t.Errorf("rule of all views: %s", rule)
	}
	body, _ := got["aws_cloudwatch_dashboard.this"]["dashboard_body"].(string)
	if !json.Valid([]byte(body)) || !strings.Contains(body, `SEARCH('{S3Scanner,ViewName} MetricName=\"MatViewStaleness\"`) {
		t.Errorf("dashboard: %s", body)
	}
}

func TestAccNoThreshold(t *testing.T) {
	_, output, err := apply(t, module(t, `
  namespace = "n"
  schedules = { cron = { view = "c" } }`))
	if err == nil || !strings.Contains(output, "How old may cron be?") {
		t.Errorf("%v\n%s", err, output)
	}
}

// TestAccFirstApply: what the resources will say is not known when Terraform
// plans for the first time; their keys are. With 90 views the composites stay
// within CloudWatch's limits.
func TestAccFirstApply(t *testing.T) {
	got, output, err := apply(t, `
resource "terraform_data" "schedule" {
  count = 90
  input = { view = "v${count.index}", every = "1m", cron = null, enabled = true, max_staleness = "5m", target_staleness = null, time_zone = "UTC" }
}
`+module(t, `
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

func TestAccFormat(t *testing.T) {
	terraform, err := terraformcli.Find(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), terraform, "fmt", "-check", "-diff", ".")
	cmd.Env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+os.DevNull)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
