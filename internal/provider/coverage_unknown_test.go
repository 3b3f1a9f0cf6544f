package provider

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// oneOfEach is a log, a view, its schedule, and the data sources, which wait for
// those.
func oneOfEach(comment string) string {
	return fmt.Sprintf(`
resource "matview_refresh_log" "test" { deletion_protection = false }

resource "matview_view" "test" {
  name       = "job_progress"
  definition = "SELECT id, status FROM jobs"
  comment    = %q
  owner      = "postgres"
  indexes    = { job_progress_id = { keys = ["id"], unique = true } }
  timeouts   = { create = "5m" }
  depends_on = [matview_refresh_log.test]
}

resource "matview_refresh_schedule" "test" {
  view     = matview_view.test.id
  cron     = "@hourly"
  method   = "concurrently"
  settings = { work_mem = "64MB" }
  totals   = { jobs = "count(*)" }
}

data "matview_freshness" "test" {
  view       = matview_view.test.id
  depends_on = [matview_refresh_schedule.test]
}

data "matview_views" "test" {
  only_stale = false
  depends_on = [matview_refresh_schedule.test]
}
`, comment)
}

var oneOfEachIsThere = resource.ComposeAggregateTestCheckFunc(
	resource.TestCheckResourceAttr(freshnessData, "is_scheduled", "true"), resource.TestCheckResourceAttr(freshnessData, "is_populated", "true"),
	resource.TestCheckResourceAttr("data.matview_views.test", "views.%", "1"))

// Nothing of the provider's configuration is known at plan: neither when all is
// made, nor later, when all is there.
func TestAccProviderWhollyUnknown(t *testing.T) {
	db := viewDatabase(t)
	server, err := pgx.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	config := func(round, comment string) string {
		return fmt.Sprintf(`
resource "terraform_data" "server" {
  triggers_replace = %q
  input = { host = %q, port = %d, database = %q, username = %q, password = %q, sslmode = "disable", timeout = 20, connections = 5, schema = "ops", no = false, none = null }
}

provider "matview" {
  host             = terraform_data.server.output.host
  port             = terraform_data.server.output.port
  database         = terraform_data.server.output.database
  username         = terraform_data.server.output.username
  password         = terraform_data.server.output.password
  sslmode          = terraform_data.server.output.sslmode
  sslrootcert      = terraform_data.server.output.none
  connect_timeout  = terraform_data.server.output.timeout
  max_connections  = terraform_data.server.output.connections
  url              = terraform_data.server.output.none
  log_schema       = terraform_data.server.output.schema
  pgbouncer        = terraform_data.server.output.no
  aws_rds_iam_auth = terraform_data.server.output.no
  clientcert {
    cert = terraform_data.server.output.none
    key  = terraform_data.server.output.none
  }
}
`, round, server.Host, server.Port, server.Database, server.User, server.Password) + oneOfEach(comment)
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config("1", "one"), Check: oneOfEachIsThere},
			{Config: config("2", "one"), Check: oneOfEachIsThere},
			{Config: config("3", "two"), Check: resource.ComposeTestCheckFunc(oneOfEachIsThere, expect(t, db, "obj_description('job_progress'::regclass)", "two"))},
		},
	})
}

// A data source cannot wait by itself for what the provider's configuration comes
// from; it says how it can.
func TestAccDataSourceUnknownProvider(t *testing.T) {
	db := viewDatabase(t)
	config := func(wait string) string {
		return fmt.Sprintf(`
resource "terraform_data" "server" { input = %q }

provider "matview" { url = terraform_data.server.output }

resource "matview_refresh_log" "test" { deletion_protection = false }

data "matview_views" "test" { %s }`, db.URL(), wait)
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config(""), ExpectError: errorMessage("known only after apply (url); a data source is read then if its depends_on names what they come from")},
			{Config: config("depends_on = [terraform_data.server, matview_refresh_log.test]"), Check: resource.TestCheckResourceAttr("data.matview_views.test", "views.%", "0")},
		},
	})
}

// gate lets connections through to a server once it is open; before, nobody
// listens on its port.
type gate struct {
	t    *testing.T
	port int
	to   string
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return &gate{t: t, port: n, to: to}
}

// CheckPlan implements [plancheck.PlanCheck]: it opens after the plan, as a server
// does that the same apply starts.
func (g *gate) CheckPlan(context.Context, plancheck.CheckPlanRequest, *plancheck.CheckPlanResponse) {
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(g.port))
	if err != nil {
		g.t.Error(err)
		return
	}
	g.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", g.to)
			if err != nil {
				_ = from.Close()
				continue
			}
			go pass(from, to)
			go pass(to, from)
		}
	}()
}

// afterPlan is called between plan and apply.
type afterPlan func()

// CheckPlan implements [plancheck.PlanCheck].
func (f afterPlan) CheckPlan(context.Context, plancheck.CheckPlanRequest, *plancheck.CheckPlanResponse) {
	f()
}

func pass(from, to net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
	_ = from.Close()
}

// A server that only the apply starts, and a login or a certificate that only the
// apply makes, are no error at plan.
func TestAccServerStartedByApply(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, db *postgrestest.Database) (provider string, after plancheck.PlanCheck){
		"server": func(t *testing.T, db *postgrestest.Database) (string, plancheck.PlanCheck) {
			server, err := pgx.ParseConfig(db.URL())
			if err != nil {
				t.Fatal(err)
			}
			g := newGate(t, net.JoinHostPort(server.Host, strconv.Itoa(int(server.Port))))
			return strings.Replace(strings.Replace(providerConfig(db), fmt.Sprintf("= %d", server.Port), fmt.Sprintf("= %d", g.port), 1), server.Host, "127.0.0.1", 1), g
		},
		"login": func(t *testing.T, db *postgrestest.Database) (string, plancheck.PlanCheck) {
			role, password := db.Role(t, "SUPERUSER")
			db.Exec(t, "ALTER ROLE "+role+" NOLOGIN")
			return providerConfigFor(db.URLFor(role, password), ""), afterPlan(func() { db.Exec(t, "ALTER ROLE "+role+" LOGIN") })
		},
		"certificate": func(t *testing.T, db *postgrestest.Database) (string, plancheck.PlanCheck) {
			name := filepath.Join(t.TempDir(), "ca.pem")
			text, _ := certificate(t, "ca")
			return providerConfigFor(db.URL(), fmt.Sprintf("sslrootcert = %q", name)), afterPlan(func() {
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Error(err)
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := viewDatabase(t)
			provider, after := prepare(t, db)
			resource.Test(t, resource.TestCase{
				ProtoV6ProviderFactories: testAccProviders,
				Steps: []resource.TestStep{{
					Config:           provider + oneOfEach("one"),
					ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{after}},
					Check:            oneOfEachIsThere,
				}},
			})
		})
	}
}
