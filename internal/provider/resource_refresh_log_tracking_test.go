package provider

import (
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

func TestAccRefreshLogTracksExternalRefreshes(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, "CREATE MATERIALIZED VIEW v AS SELECT 1 AS x")
	on := logConfig(db, "deletion_protection = false\ntrack_external_refreshes = true")
	off := logConfig(db, "deletion_protection = false")
	recorded := "SELECT string_agg(trigger || ' ' || outcome, ', ') FROM materialized_view_refresh_history"
	triggers := "SELECT count(*) FROM pg_event_trigger WHERE evtenabled = 'A'"
	steps := []resource.TestStep{
		{Config: off, Check: resource.ComposeTestCheckFunc(
			resource.TestCheckResourceAttr(refreshLog, "track_external_refreshes", "false"), expect(t, db, triggers, "0"))},
		{Config: on, ConfigPlanChecks: planned(refreshLog, plancheck.ResourceActionUpdate), Check: expect(t, db, triggers, "1")},
		{Config: on, PlanOnly: true},
		{
			ResourceName: refreshLog, ImportState: true, ImportStateId: "public", ImportStateVerify: true,
			ImportStateVerifyIgnore: []string{"deletion_protection", "history_retention"},
		},
		{
			PreConfig: exec(t, db, "REFRESH MATERIALIZED VIEW v"), Config: on, ConfigPlanChecks: noChanges,
			Check: expect(t, db, recorded, "external succeeded"),
		},
	}
	for _, damage := range []string{
		"DROP EVENT TRIGGER materialized_view_refresh_tracked",
		"ALTER EVENT TRIGGER materialized_view_refresh_tracked DISABLE",
		"DROP FUNCTION materialized_view_refresh_tracked() CASCADE",
	} {
		steps = append(steps, resource.TestStep{
			PreConfig: exec(t, db, damage), Config: on, ConfigPlanChecks: planned(refreshLog, plancheck.ResourceActionUpdate),
			Check: expect(t, db, triggers, "1"),
		}, resource.TestStep{Config: on, ConfigPlanChecks: noChanges})
	}
	steps = append(steps,
		resource.TestStep{Config: off, ConfigPlanChecks: planned(refreshLog, plancheck.ResourceActionUpdate), Check: expect(t, db, "SELECT count(*) FROM pg_event_trigger", "0")},
		resource.TestStep{Config: off, ConfigPlanChecks: noChanges},
		resource.TestStep{Config: on})
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		CheckDestroy:             expect(t, db, "SELECT count(*) FROM pg_event_trigger", "0"),
		Steps:                    steps,
	})
	db.Exec(t, "REFRESH MATERIALIZED VIEW v")
}

// A role that may not make event triggers is told whom to ask, and nothing is
// half installed.
func TestAccRefreshLogMayNotTrack(t *testing.T) {
	db := postgrestest.New(t)
	role, password := db.Role(t, "")
	db.Exec(t, "GRANT ALL ON SCHEMA public TO "+role)
	provider := providerConfigFor(db.URLFor(role, password), "")
	config := func(arguments string) string {
		return provider + "resource \"matview_refresh_log\" \"test\" {\ndeletion_protection = false\n" + arguments + "\n}\n"
	}
	refused := errorMessage("which role " + role + " may not create or change")
	relations := "SELECT count(*) FROM pg_class WHERE relname LIKE 'materialized_view_%' AND relkind IN ('r', 'v')"
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config("track_external_refreshes = true"), ExpectError: refused},
			{Config: config(""), Check: expect(t, db, relations, "9")},
			{Config: config("track_external_refreshes = true\nhistory_retention = \"1h\""), ExpectError: refused},
			{Config: config(""), ConfigPlanChecks: noChanges, Check: expect(t, db, "SELECT history_retention FROM materialized_view_refresh_settings", "720:00:00")},
		},
	})
}

// Views that the provider fills itself are recorded once, by the provider.
func TestAccViewIsNotTrackedAsExternal(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, "CREATE TABLE t AS SELECT 1 AS x")
	config := func(definition string) string {
		return logConfig(db, "deletion_protection = false\ntrack_external_refreshes = true") + `resource "matview_view" "v" {
  depends_on = [matview_refresh_log.test]
  name       = "v"
  definition = "` + definition + `"
}
`
	}
	recorded := "SELECT string_agg(trigger || ' ' || method, ', ' ORDER BY id) FROM materialized_view_refresh_history"
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config("SELECT x FROM t"), Check: expect(t, db, recorded, "terraform create")},
			{Config: config("SELECT x + 1 AS x FROM t"), Check: expect(t, db, recorded, "terraform create, terraform swap")},
		},
	})
}
