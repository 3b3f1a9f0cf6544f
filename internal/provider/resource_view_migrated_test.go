package provider

import (
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"

	"github.com/matview/terraform-provider-matview/internal/postgres"
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

// What gives the words of a definition another meaning, or none, is no part of what it
// reads: an enum's label, a function of a better signature, the time zone.
func TestAccViewWordsMeanOthers(t *testing.T) {
	db := viewDatabase(t)
	db.Exec(t, `CREATE TYPE st AS ENUM ('a', 'b'); CREATE TABLE things (s st, n int, at timestamptz); CREATE COLLATION kept FROM "C"; ALTER DATABASE `+postgres.QuoteIdent(db.Name)+` SET timezone = 'UTC';
CREATE FUNCTION f(numeric) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'numeric' $$`)
	view := func(definition string) string { return viewConfig(db, withDefinition(definition)) }
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: view("SELECT n FROM things WHERE s = 'a'")},
			// Not valid any more: a warning. The text that is valid is the view's own.
			{PreConfig: func() { db.Exec(t, "ALTER TYPE st RENAME VALUE 'a' TO 'aa'") }, Config: view("SELECT n FROM things WHERE s = 'a'"), ConfigPlanChecks: noChanges},
			{Config: view("SELECT n FROM things WHERE s = 'aa'"), Check: resource.TestCheckResourceAttr(viewAddress, "id", "job_progress")},
			{Config: view("SELECT n FROM things WHERE s = 'aa'"), ConfigPlanChecks: noChanges},
			{Config: view("SELECT f(n) AS f FROM things")},
			{
				PreConfig: func() {
					db.Exec(t, "CREATE FUNCTION f(int) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'integer' $$")
				},
				Config: view("SELECT f(n) AS f FROM things"), ConfigPlanChecks: viewUpdates,
			},
			{Config: view("SELECT f(n) AS f FROM things"), ConfigPlanChecks: noChanges},
			{Config: view("SELECT n FROM things WHERE at > '2026-01-01 00:00'")},
			{
				PreConfig: func() {
					db.Exec(t, "ALTER DATABASE "+postgres.QuoteIdent(db.Name)+" SET timezone = 'Asia/Kathmandu'")
				},
				Config: view("SELECT n FROM things WHERE at > '2026-01-01 00:00'"), ConfigPlanChecks: viewUpdates,
			},
			{Config: view("SELECT n FROM things WHERE at > '2026-01-01 00:00'"), ConfigPlanChecks: noChanges},
		},
	})
}
