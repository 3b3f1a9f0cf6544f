package provider

import (
	"fmt"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"

	"github.com/matview/terraform-provider-matview/migrations"
)

// A role of reader_roles can plan, as CI does for a pull request, but not apply.
func TestAccReaderPlans(t *testing.T) {
	db := viewDatabase(t)
	reader, password := db.Role(t, "")
	resources := fmt.Sprintf(`
resource "matview_refresh_log" "test" {
  reader_roles        = [%q]
  deletion_protection = false
}
resource "matview_view" "test" {
%s}
resource "matview_refresh_schedule" "test" {
  view       = matview_view.test.id
  every      = "1h"
  depends_on = [matview_refresh_log.test]
}
data "matview_freshness" "test" {
  view       = matview_view.test.id
  depends_on = [matview_refresh_schedule.test]
}
`, reader, withDefinition("SELECT id FROM jobs"))
	asReader := providerConfigFor(db.URLFor(reader, password), "") + resources
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: providerConfig(db) + resources},
			{Config: asReader, ConfigPlanChecks: noChanges},
			{Config: providerConfig(db) + resources, ConfigPlanChecks: noChanges},
		},
	})
}

// A role that may create views, but not record refreshes: what it lacks is said before
// anything is filled.
func TestAccViewByRoleWithoutLog(t *testing.T) {
	db := viewDatabase(t)
	role, password := db.Role(t, "")
	db.Exec(t, "GRANT CREATE ON SCHEMA public TO "+role+"; GRANT SELECT ON jobs TO "+role)
	conn := db.Connect(t)
	if err := migrations.Apply(t.Context(), conn, "public"); err != nil {
		t.Fatal(err)
	}
	var owner string
	if err := conn.QueryRow(t.Context(), "SELECT current_user").Scan(&owner); err != nil {
		t.Fatal(err)
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{{
			Config: providerConfigFor(db.URLFor(role, password), "") + "resource \"matview_view\" \"test\" {\n" + withDefinition("SELECT id, pg_sleep(0) IS NULL AS slept FROM jobs") + "}\n",
			ExpectError: message(fmt.Sprintf(`role %q may not record refreshes in the tables of matview in schema "public", which belong to role %q: make it one of the writer_roles of the matview_refresh_log, or GRANT %s TO %s`,
				role, owner, owner, role)),
		}},
	})
}
