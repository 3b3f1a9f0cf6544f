package provider

import (
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

func TestAccRefreshScheduleSkipUnchanged(t *testing.T) {
	db := jobDatabase(t)
	plain := "view = \"job_progress\"\nevery = \"5m\"\n"
	skipping := plain + "skip_unchanged = true"
	if postgrestest.Version(t) < 150000 {
		resource.Test(t, resource.TestCase{
			ProtoV6ProviderFactories: testAccProviders,
			Steps: []resource.TestStep{
				{Config: scheduleConfig(db, skipping), PlanOnly: true, ExpectError: errorMessage(`skip_unchanged requires 15 or later: before that a session that stays connected may keep its counts of changes to itself`)},
				{Config: scheduleConfig(db, skipping), ExpectError: errorMessage(`skip_unchanged requires 15 or later`)},
				{Config: scheduleConfig(db, plain+"skip_unchanged = false")},
			},
		})
		return
	}
	const stored = "concat_ws(' ', skip_unchanged, max_staleness)"
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: scheduleConfig(db, plain), Check: resource.ComposeAggregateTestCheckFunc(
				resource.TestCheckResourceAttr(refreshSchedule, "skip_unchanged", "false"), expect(t, db, scheduled(stored), "f"))},
			{
				Config: scheduleConfig(db, skipping), ConfigPlanChecks: planned(refreshSchedule, plancheck.ResourceActionUpdate),
				Check: resource.ComposeAggregateTestCheckFunc(
					expect(t, db, scheduled(stored), "t"),
					expect(t, db, "SELECT max_staleness_seconds FROM materialized_view_freshness WHERE view_name = 'job_progress'", "661")),
			},
			{Config: scheduleConfig(db, skipping), PlanOnly: true},
			{ResourceName: refreshSchedule, ImportState: true, ImportStateId: "job_progress", ImportStateVerify: true, ImportStateVerifyIgnore: []string{"every", "lock_timeout"}},
			{ // a limit that leaves no room for skipping is a warning only
				Config: scheduleConfig(db, skipping+"\nmax_staleness = \"6m\""), Check: expect(t, db, scheduled(stored), "t 00:06:00"),
			},
			{Config: scheduleConfig(db, plain), Check: expect(t, db, scheduled(stored), "f")},
		},
	})
}
