package provider

import (
	"fmt"
	"slices"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
)

// The same words may come to mean something else though the view and what it reads
// stay as they are, or mean nothing any more.
func TestAccViewNamesMeanOthers(t *testing.T) {
	db := viewDatabase(t)
	role, password := db.Role(t, "")
	db.Exec(t, fmt.Sprintf(`GRANT CREATE, USAGE ON SCHEMA public TO %s; GRANT SELECT ON jobs TO %[1]s; CREATE SCHEMA other AUTHORIZATION %[1]s; CREATE SCHEMA %[1]s AUTHORIZATION %[1]s;
CREATE FUNCTION one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; CREATE TYPE mood AS ENUM ('good')`, role))
	config := providerConfigFor(db.URLFor(role, password), "") + "resource \"matview_view\" \"test\" {\n" + withDefinition("SELECT one(id) AS one, 'good'::mood AS m FROM jobs") + "}\n"
	changed := func(sql string) []resource.TestStep {
		return []resource.TestStep{{PreConfig: func() { db.Exec(t, sql) }, Config: config, PlanOnly: true, ExpectNonEmptyPlan: true}}
	}
	same := func(sql string) []resource.TestStep {
		return []resource.TestStep{{PreConfig: func() { db.Exec(t, sql) }, Config: config, ConfigPlanChecks: noChanges}}
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: slices.Concat(
			[]resource.TestStep{{Config: config}},
			same("CREATE TABLE other.jobs (id int); CREATE OR REPLACE FUNCTION one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2'"),
			changed("ALTER ROLE "+role+" SET search_path = other, public; GRANT SELECT ON other.jobs TO "+role),
			same("ALTER ROLE "+role+" RESET search_path"),
			changed("CREATE TABLE "+role+".jobs (id int); GRANT SELECT ON "+role+".jobs TO "+role), // "$user" is first
			same("DROP TABLE "+role+".jobs"),
			same("ALTER FUNCTION one RENAME TO uno"), // a warning: the text is not valid any more
			same("ALTER FUNCTION uno RENAME TO one; ALTER TYPE mood RENAME TO temper"),
			same("ALTER TYPE temper RENAME TO mood"),
		),
	})
}
