package provider

import (
	"fmt"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/terraform"
	"github.com/jackc/pgx/v5"
)

// Without TEMP what a new definition means is told by apply, which can make a view
// in the schema; the rest is told at plan.
func TestAccViewWithoutTemp(t *testing.T) {
	db := viewDatabase(t)
	role, password := db.Role(t, "")
	db.Exec(t, fmt.Sprintf("REVOKE TEMPORARY ON DATABASE %s FROM PUBLIC; GRANT CREATE, USAGE ON SCHEMA public TO %s; GRANT SELECT, DELETE ON jobs TO %[2]s",
		pgx.Identifier{db.Name}.Sanitize(), role))
	config := func(definition string) string {
		return providerConfigFor(db.URLFor(role, password), "") + "resource \"matview_view\" \"test\" {\n" + withDefinition(definition) + "}\n"
	}
	const oid = "SELECT 'job_progress'::regclass::oid"
	var before string
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config("SELECT * FROM jobs")},
			{Config: config("SELECT * FROM jobs"), PlanOnly: true},
			{
				PreConfig: func() { db.Exec(t, "ALTER TABLE jobs ADD COLUMN grown int") },
				Config:    config("SELECT * FROM jobs"), ConfigPlanChecks: viewUpdates,
				Check: expect(t, db, "SELECT count(*) - count(grown) FROM job_progress", "30"),
			},
			{Config: config("SELECT * FROM jobs"), PlanOnly: true},
			{ // apply finds it to be the same
				PreConfig: func() { before = valueOf(t, db, oid) },
				Config:    config("SELECT jobs.* FROM public.jobs"), ConfigPlanChecks: viewUpdates,
				Check: func(*terraform.State) error { return expect(t, db, oid, before)(nil) },
			},
			{Config: config("SELECT jobs.* FROM public.jobs"), PlanOnly: true},
			{Config: config("SHOW timezone"), ExpectError: message(`syntax error at or near "SHOW"`, "At line 1, column 1:")},
			{Config: config("INSERT INTO jobs VALUES (31) RETURNING id"), ExpectError: message(`syntax error at or near "INSERT"`)},
			{Config: config("WITH d AS (DELETE FROM jobs RETURNING id) SELECT id FROM d"), ExpectError: message("must not use data-modifying statements in WITH")},
			{Config: config("SELECT jobs.* FROM public.jobs"), Check: expect(t, db, "SELECT count(*) FROM jobs", "30")},
		},
	})
}
