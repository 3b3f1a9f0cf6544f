package provider

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

const freshnessData = "data.matview_freshness.test"

func freshnessConfig(db *postgrestest.Database, view string) string {
	return providerConfig(db) + fmt.Sprintf("data \"matview_freshness\" \"test\" {\n  view = %q\n}\n", view)
}

func TestAccFreshness(t *testing.T) {
	db := jobDatabase(t)
	db.Exec(t, `
INSERT INTO materialized_view_refresh_log VALUES ('job_progress', '2025-11-09 11:14:30.123999+01', 920, 150, 1250000);
INSERT INTO materialized_view_refresh_schedule (view_name, every, max_staleness) VALUES ('job_progress', '5 minutes', '1 hour');
INSERT INTO materialized_view_refresh_state (view_name, next_run_at, consecutive_failures, last_attempt_at, last_outcome, last_error)
VALUES ('job_progress', '2025-11-09 10:20:00+00', 2, '2025-11-09 10:19:00+00', 'failed', 'no space');`)
	number := regexp.MustCompile(`^\d+(\.\d+)?$`)
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{
				Config: freshnessConfig(db, "public.job_progress"),
				Check: resource.ComposeAggregateTestCheckFunc(
					resource.TestCheckResourceAttr(freshnessData, "last_refreshed_at", "2025-11-09T10:14:30.123Z"), // never rounded up
					resource.TestCheckResourceAttr(freshnessData, "data_as_of", "2025-11-09T10:14:29.202Z"),
					resource.TestCheckResourceAttr(freshnessData, "view_name", "job_progress"),
					resource.TestCheckResourceAttr(freshnessData, "schema_name", "public"),
					resource.TestCheckResourceAttr(freshnessData, "relation_name", "job_progress"),
					resource.TestCheckResourceAttr(freshnessData, "is_populated", "true"),
					resource.TestCheckResourceAttr(freshnessData, "is_scheduled", "true"),
					resource.TestCheckResourceAttr(freshnessData, "enabled", "true"),
					resource.TestCheckResourceAttr(freshnessData, "refresh_duration_ms", "920"),
					resource.TestMatchResourceAttr(freshnessData, "staleness_seconds", number),
					resource.TestMatchResourceAttr(freshnessData, "seconds_since_refresh", number),
					resource.TestMatchResourceAttr(freshnessData, "data_age", regexp.MustCompile(`days \d\d:\d\d:\d\d`)),
					resource.TestCheckResourceAttr(freshnessData, "performance_rating", "Fast"),
					resource.TestCheckResourceAttr(freshnessData, "total_jobs", "150"),
					resource.TestCheckResourceAttr(freshnessData, "total_objects", "1250000"),
					resource.TestCheckResourceAttr(freshnessData, "max_staleness_seconds", "3600"),
					resource.TestCheckResourceAttr(freshnessData, "is_stale", "true"),
					resource.TestCheckResourceAttr(freshnessData, "stale_reason", "older_than_max_staleness"),
					resource.TestCheckResourceAttr(freshnessData, "last_attempt_at", "2025-11-09T10:19:00.000Z"),
					resource.TestCheckResourceAttr(freshnessData, "last_outcome", "failed"),
					resource.TestCheckResourceAttr(freshnessData, "last_error", "no space"),
					resource.TestCheckResourceAttr(freshnessData, "consecutive_failures", "2"),
					resource.TestCheckResourceAttr(freshnessData, "next_run_at", "2025-11-09T10:20:00.000Z"),
					resource.TestCheckResourceAttr(freshnessData, "refresh_in_progress", "false"),
					resource.TestCheckNoResourceAttr(freshnessData, "size_bytes"),
				),
			},
			{ // nobody asked about this one
				Config: freshnessConfig(db, `"My.Schema"."Odd ""view"", v1.0"`),
				Check: resource.ComposeAggregateTestCheckFunc(
					resource.TestCheckResourceAttr(freshnessData, "is_scheduled", "false"),
					resource.TestCheckNoResourceAttr(freshnessData, "is_stale"),
					resource.TestCheckNoResourceAttr(freshnessData, "last_refreshed_at"),
				),
			},
			{ // gone, but there is a row about it
				PreConfig: exec(t, db, "DROP MATERIALIZED VIEW job_progress"),
				Config:    freshnessConfig(db, "job_progress"),
				Check: resource.ComposeAggregateTestCheckFunc(
					resource.TestCheckResourceAttr(freshnessData, "stale_reason", "missing"),
					resource.TestCheckNoResourceAttr(freshnessData, "schema_name"),
				),
			},
			{Config: freshnessConfig(db, "nope"), ExpectError: errorMessage("There is no materialized view nope in the database, and neither a schedule nor a row in the refresh log")},
		},
	})
}

func TestAccFreshnessWithoutTables(t *testing.T) {
	db := postgrestest.New(t)
	check := providerConfig(db) + `
check "fresh" {
  data "matview_freshness" "test" {
    view = "job_progress"
  }
  assert {
    condition     = !data.matview_freshness.test.is_stale
    error_message = "job_progress is stale"
  }
}`
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: freshnessConfig(db, "job_progress"), ExpectError: errorMessage(`Create a matview_refresh_log there first`)},
			{Config: check, ExpectNonEmptyPlan: true}, // a warning; it is read again at apply
		},
	})
}
