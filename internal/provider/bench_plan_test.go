package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

const (
	benchViews       = 1000
	benchConnections = 5
	benchPlans       = 5 // of which the median counts
)

// What the benchmarks plan, and the same data as input of terraform_data: all
// arguments that are written, and nothing of what the provider adds to them.
const (
	benchViewArguments = `
    name       = "view_${count.index}"
    definition = "SELECT id, name, ${count.index} AS n FROM jobs"
    indexes    = { "view_${count.index}_id" = { keys = ["id"], unique = true } }`
	benchScheduleArguments = `
    view  = "view_${count.index}"
    every = "5m"`
)

var (
	benchProvider = fmt.Sprintf(`
terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}
provider "matview" {
  max_connections = %d
}`, benchConnections)
	benchViewsConfig = benchProvider + fmt.Sprintf(`
resource "matview_view" "v" {
    count      = %d`+benchViewArguments+`
}`, benchViews)
	// The schedules are applied after these: a depends_on between thousands takes
	// Terraform minutes to apply.
	benchLogConfig = benchViewsConfig + `
resource "matview_refresh_log" "log" { deletion_protection = false }`
	benchSchedulesConfig = benchLogConfig + fmt.Sprintf(`
resource "matview_refresh_schedule" "s" {
    count = %d`+benchScheduleArguments+`
}`, benchViews)

	benchViewsData = fmt.Sprintf(`
resource "terraform_data" "v" {
  count = %d
  input = {`+benchViewArguments+`
  }
}`, benchViews)
	benchSchedulesData = benchViewsData + fmt.Sprintf(`
resource "terraform_data" "log" { input = { deletion_protection = false } }
resource "terraform_data" "s" {
  count = %d
  input = {`+benchScheduleArguments+`
  }
}`, benchViews)
	// benchNamesData holds no more than enough to tell a view by.
	benchNamesData = fmt.Sprintf(`
resource "terraform_data" "v" {
  count = %d
  input = { name = "view_${count.index}", definition = "SELECT id, name, ${count.index} AS n FROM jobs" }
}`, benchViews)
)

// BenchmarkPlan compares a plan without changes of a thousand views, each with an
// index, with that of a thousand terraform_data of the same arguments, by the same
// terraform. Two more say what of it is whose: plan_floor is the same plan with a
// provider that does nothing, and plan_less_data compares with terraform_data
// that have no index. The latter is less than what the views hold: what a plan
// costs grows with the size of the state, most of all since Terraform copies the
// state of all instances of a resource for each one of them.
func BenchmarkPlan(b *testing.B) {
	pool, views := benchWorkspace(b, benchViewsConfig)
	data, names := beside(b, views, benchViewsData), beside(b, views, benchNamesData)
	echoed := views
	echoed.env = append(slices.Clone(views.env), serveEcho(b))
	var ours, floor, reference, less []time.Duration
	connections := 0
	for range benchPlans {
		reference = append(reference, data.plan(b))
		most := watchConnections(b, pool)
		ours = append(ours, views.plan(b))
		connections = max(connections, most())
		floor = append(floor, echoed.plan(b))
		less = append(less, names.plan(b))
	}
	fmt.Println()
	printPlan("plan_floor", ours, floor, "(ours against a provider that answers with what it is sent)")
	printPlan("plan_floor_of_terraform", floor, reference, "(that provider against terraform_data)")
	printPlan("plan_less_data", ours, less, "(terraform_data without the index)")
	printPlan("plan", ours, reference, fmt.Sprintf("connections=%d max_connections=%d", connections, benchConnections))
	if connections > benchConnections {
		b.Errorf("%d connections, want at most %d", connections, benchConnections)
	}
}

// BenchmarkSchedulesPlan does the same where each of the views has a schedule:
// the reference has as many terraform_data as there are resources.
func BenchmarkSchedulesPlan(b *testing.B) {
	pool, schedules := benchWorkspace(b, benchLogConfig)
	schedules.write(b, benchSchedulesConfig)
	schedules.run(b, "apply", "-auto-approve")
	data := beside(b, schedules, benchSchedulesData)
	var ours, reference []time.Duration
	connections := 0
	for range benchPlans {
		reference = append(reference, data.plan(b))
		most := watchConnections(b, pool)
		ours = append(ours, schedules.plan(b))
		connections = max(connections, most())
	}
	fmt.Println()
	printPlan("plan_with_schedules", ours, reference, fmt.Sprintf("connections=%d max_connections=%d", connections, benchConnections))
	if connections > benchConnections {
		b.Errorf("%d connections, want at most %d", connections, benchConnections)
	}
}

// benchWorkspace has applied the configuration, in a database of its own.
func benchWorkspace(b *testing.B, config string) (*pgxpool.Pool, workspace) {
	b.Helper()
	server, err := postgrestest.Start(b.Context(), postgrestest.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = server.Stop() })
	pool, err := pgxpool.New(b.Context(), server.URL("postgres"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	if _, err := pool.Exec(b.Context(), "CREATE TABLE jobs (id int, name text)"); err != nil {
		b.Fatal(err)
	}
	w := newWorkspace(b, server.URL("postgres"), config)
	w.run(b, "apply", "-auto-approve")
	return pool, w
}

// beside is a workspace that has applied a configuration of terraform_data.
func beside(b *testing.B, w workspace, config string) workspace {
	b.Helper()
	w = w.beside(b, config)
	w.run(b, "init")
	w.run(b, "apply", "-auto-approve")
	return w
}

func printPlan(name string, ours, reference []time.Duration, remark string) {
	o, r := median(ours), median(reference)
	fmt.Printf("bench: %s ours=%s reference=%s ratio=%.2f %s\n", name, o.Round(time.Millisecond), r.Round(time.Millisecond), float64(o)/float64(r), remark)
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}

// echo is the least that a provider of our schema can do: it gives back what it
// is sent. What a plan takes with it is Terraform's own time.
type echo struct{ tfprotov6.ProviderServer }

func (echo) ConfigureProvider(context.Context, *tfprotov6.ConfigureProviderRequest) (*tfprotov6.ConfigureProviderResponse, error) {
	return &tfprotov6.ConfigureProviderResponse{}, nil
}

func (echo) ValidateResourceConfig(context.Context, *tfprotov6.ValidateResourceConfigRequest) (*tfprotov6.ValidateResourceConfigResponse, error) {
	return &tfprotov6.ValidateResourceConfigResponse{}, nil
}

func (echo) UpgradeResourceState(_ context.Context, req *tfprotov6.UpgradeResourceStateRequest) (*tfprotov6.UpgradeResourceStateResponse, error) {
	return &tfprotov6.UpgradeResourceStateResponse{UpgradedState: &tfprotov6.DynamicValue{JSON: req.RawState.JSON}}, nil
}

func (echo) ReadResource(_ context.Context, req *tfprotov6.ReadResourceRequest) (*tfprotov6.ReadResourceResponse, error) {
	return &tfprotov6.ReadResourceResponse{NewState: req.CurrentState, Private: req.Private, NewIdentity: req.CurrentIdentity}, nil
}

func (echo) PlanResourceChange(_ context.Context, req *tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	return &tfprotov6.PlanResourceChangeResponse{PlannedState: req.PriorState, PlannedPrivate: req.PriorPrivate, PlannedIdentity: req.PriorIdentity}, nil
}

// serveEcho returns the variable with which Terraform finds it.
func serveEcho(b *testing.B) string {
	b.Helper()
	b.Setenv("TF_LOG_SDK", "off")
	const address = "registry.terraform.io/matview/matview"
	served := make(chan *plugin.ReattachConfig)
	closed := make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		// What it returns is nil once it was stopped.
		_ = tf6server.Serve(address, func() tfprotov6.ProviderServer { return echo{newServer()} }, tf6server.WithDebug(ctx, served, closed), tf6server.WithoutLogStderrOverride())
	}()
	b.Cleanup(func() { stop(); <-closed })
	config := <-served
	data, err := json.Marshal(map[string]any{address: map[string]any{
		"Protocol": string(config.Protocol), "ProtocolVersion": config.ProtocolVersion, "Pid": config.Pid, "Test": config.Test,
		"Addr": map[string]string{"Network": config.Addr.Network(), "String": config.Addr.String()},
	}})
	if err != nil {
		b.Fatal(err)
	}
	return "TF_REATTACH_PROVIDERS=" + string(data)
}

// watchConnections counts the provider's until what it returns is called, which
// returns the most there were.
func watchConnections(b *testing.B, pool *pgxpool.Pool) func() int {
	b.Helper()
	ctx, stop := context.WithCancel(b.Context())
	most := make(chan int)
	go func() {
		highest := 0
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			var n int
			if err := pool.QueryRow(b.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", applicationName).Scan(&n); err == nil {
				highest = max(highest, n)
			}
			<-tick.C
		}
		most <- highest
	}()
	return func() int { stop(); return <-most }
}
