package provider

import (
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

const (
	benchViews       = 1000
	benchConnections = 5
)

// BenchmarkPlan compares a plan without changes of a thousand views, each with an
// index, with that of a thousand terraform_data, by the same terraform.
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
	var ours, reference []time.Duration
	connections := 0
	b.ResetTimer()
	for range b.N {
		reference = append(reference, data.plan(b))
		most := watchConnections(b, pool)
		ours = append(ours, views.plan(b))
		connections = max(connections, most())
	}
	slices.Sort(ours)
	slices.Sort(reference)
	o, r := ours[len(ours)/2], reference[len(reference)/2]
	fmt.Printf("\nbench: plan ours=%s reference=%s ratio=%.2f connections=%d max_connections=%d\n",
		o.Round(time.Millisecond), r.Round(time.Millisecond), float64(o)/float64(r), connections, benchConnections)
	if connections > benchConnections {
		b.Errorf("%d connections, want at most %d", connections, benchConnections)
	}
}

// workspace is a folder for terraform, which finds the provider built there.
type workspace struct {
	dir string
	env []string
}

func newWorkspace(b *testing.B, url, config string) workspace {
	b.Helper()
	dir := b.TempDir()
	build := osexec.CommandContext(b.Context(), "go", "build", "-o", filepath.Join(dir, "terraform-provider-matview"), "../..")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	cli := filepath.Join(dir, "terraformrc")
	files := map[string]string{
		cli:                           fmt.Sprintf("provider_installation {\n  dev_overrides {\n    \"matview/matview\" = %q\n  }\n}\n", dir),
		filepath.Join(dir, "main.tf"): config,
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	pg, err := pgxpool.ParseConfig(url)
	if err != nil {
		b.Fatal(err)
	}
	c := pg.ConnConfig
	return workspace{dir: dir, env: append(os.Environ(), "TF_CLI_CONFIG_FILE="+cli, "CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1", "PGHOST="+c.Host, fmt.Sprintf("PGPORT=%d", c.Port),
		"PGDATABASE="+c.Database, "PGUSER="+c.User, "PGPASSWORD="+c.Password, "PGSSLMODE=disable")}
}

func (w workspace) run(b *testing.B, args ...string) string {
	b.Helper()
	cmd := osexec.CommandContext(b.Context(), "terraform", append(args, "-no-color")...)
	cmd.Dir, cmd.Env = w.dir, w.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("terraform %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (w workspace) plan(b *testing.B) time.Duration {
	b.Helper()
	start := time.Now()
	out := w.run(b, "plan")
	took := time.Since(start)
	if !strings.Contains(out, "No changes.") {
		b.Fatalf("there are changes:\n%s", out)
	}
	return took
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
