//go:build e2e

package provider

import (
	"fmt"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// All that the provider does goes through a pooler that gives each transaction
// another session.
func TestE2EPgBouncer(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, "CREATE TABLE jobs (id int, name text); INSERT INTO jobs VALUES (1, 'a')")
	config := func(definition, index string) string {
		return providerConfigFor(db.PgBouncer(t), "pgbouncer = true") + `
resource "matview_refresh_log" "test" { deletion_protection = false }

resource "matview_view" "test" {
  name       = "v"
  definition = "` + definition + `"
  indexes    = { ` + index + ` = { keys = ["id"], unique = true } }
  comment    = "c"
  depends_on = [matview_refresh_log.test]
}

resource "matview_refresh_schedule" "test" {
  view   = matview_view.test.id
  every  = "1h"
  totals = { jobs = "count(*)" }
}

data "matview_freshness" "test" {
  view       = matview_view.test.id
  depends_on = [matview_refresh_schedule.test]
}`
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{
				Config: config("SELECT id, name FROM jobs", "first"),
				Check:  resource.TestCheckResourceAttr("data.matview_freshness.test", "is_stale", "false"),
			},
			{Config: config("SELECT id, name FROM jobs", "first"), PlanOnly: true},
			{Config: config("SELECT id FROM jobs", "second"), ConfigPlanChecks: resource.ConfigPlanChecks{
				PreApply: []plancheck.PlanCheck{plancheck.ExpectResourceAction("matview_view.test", plancheck.ResourceActionUpdate)},
			}},
			{ResourceName: "matview_view.test", ImportState: true, ImportStateVerify: true, ImportStateVerifyIgnore: []string{"definition", "indexes", "timeouts"}},
		},
	})
}

// More definitions change at once than the pooler has sessions: none waits for
// another one's.
func TestE2EPgBouncerFewSessions(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, "CREATE TABLE jobs (id int); INSERT INTO jobs VALUES (1)")
	config := func(n int) string {
		return providerConfigFor(db.PgBouncer(t), "pgbouncer = true") + fmt.Sprintf(`
resource "matview_view" "test" {
  count      = 6
  name       = "v${count.index}"
  definition = "SELECT id, %d AS n FROM jobs"
  timeouts   = { update = "1m" }
}`, n)
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps:                    []resource.TestStep{{Config: config(1)}, {Config: config(2), Check: expect(t, db, "(SELECT n FROM v5)", "2")}},
	})
}
