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
)

// BenchmarkPlan compares a plan without changes of a thousand views, each with an
// index, with that of a thousand terraform_data, by the same terraform; and with
// the floor, which is the same plan with a provider that does nothing.
func BenchmarkPlan(b *testing.B) {
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
	views := newWorkspace(b, server.URL("postgres"), fmt.Sprintf(`
terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}
provider "matview" {
  max_connections = %d
}
resource "matview_view" "v" {
  count      = %d
  name       = "view_${count.index}"
  definition = "SELECT id, name, ${count.index} AS n FROM jobs"
  indexes    = { "view_${count.index}_id" = { keys = ["id"], unique = true } }
}`, benchConnections, benchViews))
	data := newWorkspace(b, server.URL("postgres"), fmt.Sprintf(`
resource "terraform_data" "d" {
  count = %d
  input = { name = "view_${count.index}", definition = "SELECT id, name, ${count.index} AS n FROM jobs" }
}`, benchViews))
	views.run(b, "apply", "-auto-approve")
	data.run(b, "init")
	data.run(b, "apply", "-auto-approve")
	reattach := serveEcho(b)
	var ours, floor, reference []time.Duration
	connections := 0
	b.ResetTimer()
	for range b.N {
		reference = append(reference, data.plan(b))
		most := watchConnections(b, pool)
		ours = append(ours, views.plan(b))
		connections = max(connections, most())
		floor = append(floor, workspace{dir: views.dir, env: append(views.env, reattach)}.plan(b))
	}
	o, f, r := median(ours), median(floor), median(reference)
	fmt.Printf("\nbench: plan_floor ours=%s reference=%s ratio=%.2f (ours against a provider that answers with what it is sent)\n",
		o.Round(time.Millisecond), f.Round(time.Millisecond), float64(o)/float64(f))
	fmt.Printf("bench: plan_floor_of_terraform ours=%s reference=%s ratio=%.2f (that provider against terraform_data)\n",
		f.Round(time.Millisecond), r.Round(time.Millisecond), float64(f)/float64(r))
	fmt.Printf("bench: plan ours=%s reference=%s ratio=%.2f connections=%d max_connections=%d\n",
		o.Round(time.Millisecond), r.Round(time.Millisecond), float64(o)/float64(r), connections, benchConnections)
	if connections > benchConnections {
		b.Errorf("%d connections, want at most %d", connections, benchConnections)
	}
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
		_ = tf6server.Serve(address, func() tfprotov6.ProviderServer { return echo{NewServer("bench")()} }, tf6server.WithDebug(ctx, served, closed), tf6server.WithoutLogStderrOverride())
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
