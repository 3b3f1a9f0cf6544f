package provider

import (
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"
	"github.com/hashicorp/terraform-plugin-testing/tfjsonpath"
)

// Indexes and storage parameters that the configuration of an imported view
// leaves out are not managed: the plan is empty, whatever becomes of them.
func TestAccViewImportLeavesOut(t *testing.T) {
	db := viewDatabase(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW job_progress WITH (fillfactor = 70) AS SELECT id, name FROM jobs;
CREATE UNIQUE INDEX u ON job_progress (id); CREATE INDEX n ON job_progress (lower(name)) WHERE id > 3; COMMENT ON INDEX n IS 'of n'`)
	const all = "SELECT string_agg(c.relname || ' ' || coalesce(obj_description(c.oid), '-'), ', ' ORDER BY c.relname) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE i.indrelid = 'job_progress'::regclass"
	const options = "SELECT reloptions FROM pg_class WHERE oid = 'job_progress'::regclass"
	config := func(definition, more string) string { return viewConfig(db, withDefinition(definition)+more) }
	const definition = "SELECT id, name FROM jobs"
	stay := func(indexes string) resource.TestCheckFunc {
		return resource.ComposeAggregateTestCheckFunc(expect(t, db, all, indexes), expect(t, db, options, "{fillfactor=70}"),
			resource.TestCheckResourceAttr(viewAddress, "supports_concurrent_refresh", "true"))
	}
	// Nothing of them is in the plan of another change either.
	others := resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{
		plancheck.ExpectResourceAction(viewAddress, plancheck.ResourceActionUpdate),
		plancheck.ExpectKnownValue(viewAddress, tfjsonpath.New("storage_parameters"), knownvalue.MapExact(map[string]knownvalue.Check{"fillfactor": knownvalue.StringExact("70")})),
		plancheck.ExpectKnownValue(viewAddress, tfjsonpath.New("indexes").AtMapKey("n").AtMapKey("where"), knownvalue.StringExact("(id > 3)")),
	}}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{
				Config:           config(definition, "") + "import {\n  to = matview_view.test\n  id = \"job_progress\"\n}\n",
				ConfigPlanChecks: planned(viewAddress, plancheck.ResourceActionNoop), Check: stay("n of n, u -"),
			},
			{Config: config(definition, ""), PlanOnly: true},
			{Config: config(definition, "  comment = \"c\"\n"), ConfigPlanChecks: others, Check: stay("n of n, u -")},
			{
				PreConfig: func() { db.Exec(t, "CREATE INDEX more ON job_progress (name)") },
				Config:    config(definition, "  comment = \"c\"\n"), ConfigPlanChecks: noChanges,
				Check: stay("more -, n of n, u -"),
			},
			{Config: config(definition+" WHERE id > 1", "  comment = \"c\"\n"), ConfigPlanChecks: others, Check: stay("more -, n of n, u -")},
			{Config: config(definition+" WHERE id > 1", "  comment = \"c\"\n"), PlanOnly: true},
			{
				Config:           config(definition+" WHERE id > 1", "  on_definition_change = \"recreate\"\n  timeouts = { update = \"5m\" }\n"),
				ConfigPlanChecks: others, Check: stay("more -, n of n, u -"),
			},
			{
				Config: config(definition, "  on_definition_change = \"recreate\"\n"), ConfigPlanChecks: others,
				Check: expect(t, db, "SELECT count(*) FROM pg_index WHERE indrelid = 'job_progress'::regclass", "3"),
			},
			{ // Once the configuration has them, they are managed.
				Config:           config(definition, "  indexes = { u = { keys = [\"id\"], unique = true } }\n  storage_parameters = {}\n"),
				ConfigPlanChecks: viewUpdates,
				Check:            resource.ComposeAggregateTestCheckFunc(expect(t, db, all, "u -"), expect(t, db, options, "null")),
			},
			{
				Config: config(definition, ""), ConfigPlanChecks: viewUpdates,
				Check: resource.ComposeAggregateTestCheckFunc(expect(t, db, all, "u -"), resource.TestCheckNoResourceAttr(viewAddress, "indexes.%"), func(*terraform.State) error {
					db.Exec(t, "CREATE INDEX again ON job_progress (name)")
					return nil
				}),
			},
			{Config: config(definition, ""), ConfigPlanChecks: noChanges, Check: expect(t, db, all, "again -, u -")},
		},
	})
}
