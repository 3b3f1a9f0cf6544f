package provider

import (
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
)

// A migration of the application renames what an applied definition reads. The view
// follows, so nothing is planned, other changes are applied, and it can be destroyed,
// which plans first. Only a text that the user changes has to be valid.
func TestAccViewAfterMigration(t *testing.T) {
	db := viewDatabase(t)
	db.Exec(t, "CREATE TABLE orders (id int PRIMARY KEY, day date)")
	config := func(definition, more string) string { return viewConfig(db, withDefinition(definition)+more) }
	const applied = "SELECT id, day FROM orders"
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config(applied, "")},
			{PreConfig: func() { db.Exec(t, "ALTER TABLE orders RENAME day TO d") }, Config: config(applied, ""), ConfigPlanChecks: noChanges},
			{Config: config(applied, ""), ConfigPlanChecks: noChanges}, // as it was read again
			{Config: config("SELECT id,\n  day FROM orders", ""), ConfigPlanChecks: noChanges},
			{Config: config(applied, `  comment = "of orders"`)},
			{Config: config(applied, `  comment = "of orders"`), ConfigPlanChecks: noChanges},
			{Config: config("SELECT id, day, 1 AS one FROM orders", ""), ExpectError: message(`column "day" does not exist`)},
			{Config: config("SELECT id, d AS day FROM orders", ""), ConfigPlanChecks: viewUpdates},
			{Config: config("SELECT id, d AS day FROM orders", ""), ConfigPlanChecks: noChanges},
			{PreConfig: func() { db.Exec(t, "ALTER TABLE orders RENAME d TO day") }, Config: config("SELECT id, d AS day FROM orders", ""), ConfigPlanChecks: noChanges},
		},
	})
}

// A SELECT * means more columns after ALTER TABLE, but the view cannot get them while
// another materialized view reads it.
func TestAccViewWithStarAfterMigration(t *testing.T) {
	db := viewDatabase(t)
	db.Exec(t, "CREATE TABLE orders (id int PRIMARY KEY)")
	config := viewConfig(db, withDefinition("SELECT * FROM orders"))
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config},
			{
				PreConfig: func() {
					db.Exec(t, "CREATE MATERIALIZED VIEW over AS SELECT * FROM job_progress; ALTER TABLE orders ADD COLUMN note text")
				},
				Config: config, ConfigPlanChecks: noChanges,
			},
			{Config: config, ConfigPlanChecks: noChanges},
			{Config: viewConfig(db, withDefinition("SELECT *, 1 AS one FROM orders")), ExpectError: message("cannot get a new definition")},
			{PreConfig: func() { db.Exec(t, "DROP MATERIALIZED VIEW over") }, Config: config},
			{Config: config, ConfigPlanChecks: noChanges},
		},
	})
}
