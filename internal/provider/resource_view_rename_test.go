package provider

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/terraform"
)

// Whoever wrote a row about a view, and by whichever of its names, it goes along
// with a rename; where there are several, the one that counts. With the view go
// those of its refreshes, and nobody's schedule.
func TestAccViewRenameTakesRows(t *testing.T) {
	db := viewDatabase(t)
	installTables(t, db)
	db.Exec(t, `CREATE SCHEMA "Odd one"; CREATE MATERIALIZED VIEW other AS SELECT 1 AS a`)
	config := func(name string) string {
		return viewConfig(db, fmt.Sprintf("  name = %q\n  schema = \"Odd one\"\n  definition = \"SELECT id FROM jobs\"", name))
	}
	const schedules = "SELECT string_agg(view_name || ' ' || cron, ', ' ORDER BY view_name) FROM materialized_view_refresh_schedule"
	const logged = "SELECT string_agg(view_name || coalesce(' ' || total_jobs, ''), ', ' ORDER BY view_name) FROM materialized_view_refresh_log"
	exec := func(sql string) func() { return func() { db.Exec(t, sql) } }
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config("first")},
			{
				PreConfig: exec(`INSERT INTO materialized_view_refresh_schedule (view_name, cron) VALUES ('first', '@hourly'), ('other', '@daily');
INSERT INTO materialized_view_refresh_log VALUES ('Odd one.first', now() + interval '1 minute', 1, 7), ('first', now() - interval '1 day', 1, 8), ('"Odd one".second', now(), 1, 9), ('other', now(), 1, 1)`),
				Config: config("second"),
				Check: resource.ComposeAggregateTestCheckFunc(
					expect(t, db, schedules, `"Odd one".second @hourly, other @daily`),
					expect(t, db, logged, `"Odd one".second 7, other 1`),
				),
			},
			{ // a schedule that waits for the view under its new name is somebody's
				PreConfig: exec(`INSERT INTO materialized_view_refresh_schedule (view_name, cron) VALUES ('"Odd one".third', '@weekly')`),
				Config:    config("third"),
				Check:     expect(t, db, schedules, `"Odd one".second @hourly, "Odd one".third @weekly, other @daily`),
			},
			{
				PreConfig: exec("INSERT INTO materialized_view_refresh_log VALUES ('third', now(), 1, 5)"),
				Config:    config("third"), ConfigPlanChecks: noChanges,
			},
		},
		CheckDestroy: resource.ComposeAggregateTestCheckFunc(
			expect(t, db, logged, "other 1"),
			expect(t, db, schedules, `"Odd one".second @hourly, "Odd one".third @weekly, other @daily`),
		),
	})
}

// A role that may write what is recorded, but no schedule, is told that the
// schedule stays behind; where there is none, nothing.
func TestAccViewRenameLeavesSchedule(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	db := viewDatabase(t)
	installTables(t, db)
	role, password := db.Role(t, "")
	db.Exec(t, fmt.Sprintf(`GRANT CREATE ON SCHEMA public TO %[1]s; GRANT SELECT ON jobs, materialized_view_refresh_schedule, materialized_view_names TO %[1]s;
GRANT ALL ON materialized_view_refresh_log, materialized_view_refresh_state, materialized_view_refresh_history TO %[1]s; GRANT SELECT ON materialized_view_refresh_settings, materialized_view_freshness, matview_schema_version TO %[1]s`, role))
	config := func(name string) string {
		return fmt.Sprintf(`
terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}

resource "matview_view" "test" {
  name       = %q
  definition = "SELECT id FROM jobs"
}
`, name)
	}
	w := newWorkspace(t, db.URLFor(role, password), config("a"))
	w.run(t, "apply", "-auto-approve")
	w.write(t, config("b"))
	if out := w.run(t, "apply", "-auto-approve"); strings.Contains(out, "stays under the old name") {
		t.Errorf("without a schedule:\n%s", out)
	}
	db.Exec(t, "INSERT INTO materialized_view_refresh_schedule (view_name, cron) VALUES ('b', '@hourly')")
	w.write(t, config("c"))
	if out := oneLine(w.run(t, "apply", "-auto-approve")); !message("The schedule stays under the old name", "may not write public.materialized_view_refresh_schedule, so its row of the view still has the name b. Rename it there, or GRANT UPDATE on that table to the role").MatchString(out) {
		t.Errorf("with a schedule:\n%s", out)
	}
}

// Schedules find their rows again that went along with their views' renames: where
// the apply ended between the two, and where a view takes a name that another one
// gives up in the same apply.
func TestAccViewRenameSchedules(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	db := viewDatabase(t)
	installTables(t, db)
	config := func(first, second string) string {
		return fmt.Sprintf(`
terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}

resource "matview_view" "first" {
  name       = %q
  definition = "SELECT id FROM jobs"
  depends_on = [matview_view.second]
}

resource "matview_view" "second" {
  name       = %q
  definition = "SELECT id, name FROM jobs"
}

resource "matview_refresh_schedule" "first" {
  view  = matview_view.first.id
  every = "1h"
}

resource "matview_refresh_schedule" "second" {
  view  = matview_view.second.id
  every = "2h"
}
`, first, second)
	}
	stored := func(want string) {
		t.Helper()
		if got := valueOf(t, db, "SELECT string_agg(view_name || ' ' || every, ', ' ORDER BY view_name) FROM materialized_view_refresh_schedule"); got != want {
			t.Errorf("schedules: %s, want %s", got, want)
		}
	}
	w := newWorkspace(t, db.URL(), config("a", "b"))
	w.run(t, "apply", "-auto-approve")
	stored("a 01:00:00, b 02:00:00")
	w.write(t, config("b", "c"))
	w.run(t, "apply", "-auto-approve")
	stored("b 01:00:00, c 02:00:00")
	w.plan(t)
	w.write(t, config("c", "d"))
	w.run(t, "apply", "-auto-approve", "-target=matview_view.first")
	stored("c 01:00:00, d 02:00:00")
	if out := w.run(t, "apply", "-auto-approve"); !strings.Contains(out, "0 added") || !strings.Contains(out, "0 destroyed") {
		t.Errorf("a schedule was made anew:\n%s", out)
	}
	stored("c 01:00:00, d 02:00:00")
	w.plan(t)
}

// A name that is taken is no import.
func TestAccViewRenameTaken(t *testing.T) {
	db := viewDatabase(t)
	db.Exec(t, "CREATE MATERIALIZED VIEW taken AS SELECT 1 AS a; CREATE TYPE mood AS ENUM ('ok')")
	config := func(name string) string {
		return viewConfig(db, fmt.Sprintf("  name = %q\n  definition = \"SELECT id FROM jobs\"", name))
	}
	var oid string
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config("_mood"), Check: func(*terraform.State) error { oid = valueOf(t, db, "'_mood'::regclass::oid"); return nil }},
			{Config: config("taken"), ExpectError: message("A materialized view taken exists already, so _mood cannot get that name", "name its resource in depends_on")},
			{Config: config("mood"), ExpectError: message("A type of that name is there already. Choose another name")},
			{Config: config("jobs_pkey"), ExpectError: message("An index of that name is there already")},
			{Config: config("_mood"), ConfigPlanChecks: noChanges, Check: func(*terraform.State) error { return expect(t, db, "'_mood'::regclass::oid", oid)(nil) }},
		},
	})
}

// An index that cannot take the place of another is named as the configuration
// has it, not as it is called until then.
func TestAccViewIndexNotUnique(t *testing.T) {
	db := viewDatabase(t)
	config := func(unique bool) string {
		return viewConfig(db, withDefinition("SELECT status FROM jobs")+fmt.Sprintf("  indexes = { i = { keys = [\"status\"], unique = %t } }", unique))
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config(false)},
			{Config: config(true), ExpectError: message(`could not create unique index "i"`, "is duplicated")},
			{Config: config(false), PlanOnly: true},
		},
	})
}
