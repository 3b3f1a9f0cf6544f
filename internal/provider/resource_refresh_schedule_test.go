package provider

import (
	"context"
	"fmt"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

const refreshSchedule = "matview_refresh_schedule.test"

// jobDatabase has the tables of matview, and views to schedule.
func jobDatabase(t *testing.T) *postgrestest.Database {
	t.Helper()
	return postgrestest.NewFrom(t, "jobs", func(ctx context.Context, conn *pgx.Conn) error {
		if err := migrations.Apply(ctx, conn, "public"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `
CREATE TABLE jobs (job_id text PRIMARY KEY, total bigint NOT NULL);
CREATE MATERIALIZED VIEW job_progress AS SELECT job_id, total FROM jobs;
CREATE SCHEMA "My.Schema";
CREATE MATERIALIZED VIEW "My.Schema"."Odd ""view"", v1.0" AS SELECT 1 AS x;`)
		return err
	})
}

func scheduleConfig(db *postgrestest.Database, arguments string) string {
	return providerConfig(db) + fmt.Sprintf("resource \"matview_refresh_schedule\" \"test\" {\n%s\n}\n", arguments)
}

func scheduled(column string) string {
	return "SELECT " + column + " FROM materialized_view_refresh_schedule"
}

func TestAccRefreshSchedule(t *testing.T) {
	db := jobDatabase(t)
	cron := `
view              = "job_progress"
cron              = "*/5 6-22 * * mon-fri"
time_zone         = "Europe/Berlin"
method            = "concurrently"
enabled           = false
jitter            = "20s"
lock_timeout      = "1500ms"
statement_timeout = "10m"
max_staleness     = "2h"
settings          = { work_mem = "64MB", "my_extension.level" = "3" }
totals            = { jobs = "count(*)", objects = "sum(total)" }`
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		CheckDestroy:             expect(t, db, scheduled("count(*)"), "0"),
		Steps: []resource.TestStep{
			{
				Config: scheduleConfig(db, "view = \"job_progress\"\nevery = \"5m\""),
				Check: resource.ComposeAggregateTestCheckFunc(
					resource.TestCheckResourceAttr(refreshSchedule, "id", "job_progress"),
					resource.TestCheckResourceAttr(refreshSchedule, "time_zone", "UTC"),
					resource.TestCheckResourceAttr(refreshSchedule, "method", "auto"),
					resource.TestCheckResourceAttr(refreshSchedule, "enabled", "true"),
					resource.TestCheckResourceAttr(refreshSchedule, "lock_timeout", "10s"),
					resource.TestCheckResourceAttr(refreshSchedule, "log_schema", "public"),
					expect(t, db, scheduled("concat_ws(' ', view_name, every, lock_timeout, settings, num_nulls(cron, jitter, statement_timeout, max_staleness, total_jobs, total_objects))"),
						"job_progress 00:05:00 00:00:10 {} 6"),
				),
			},
			{Config: scheduleConfig(db, "view = \"job_progress\"\nevery = \"5m\""), PlanOnly: true},
			{Config: scheduleConfig(db, "view = \"public.job_progress\"\nevery = \"300s\""), PlanOnly: true},
			{
				Config:           scheduleConfig(db, cron),
				ConfigPlanChecks: planned(refreshSchedule, plancheck.ResourceActionUpdate),
				Check: resource.ComposeAggregateTestCheckFunc(
					expect(t, db, scheduled("concat_ws(' ', cron, time_zone, method, enabled, jitter, lock_timeout, statement_timeout, max_staleness, total_jobs, total_objects)"),
						"*/5 6-22 * * mon-fri Europe/Berlin concurrently f 00:00:20 00:00:01.5 00:10:00 02:00:00 count(*) sum(total)"),
					expect(t, db, scheduled("settings->>'work_mem'"), "64MB"),
					expect(t, db, scheduled("longest_gap > interval '1 day'"), "true"), // the weekend
				),
			},
			{Config: scheduleConfig(db, cron), PlanOnly: true},
			{
				ResourceName: refreshSchedule, ImportState: true, ImportStateId: "public.job_progress", ImportStateVerify: true,
				// The same durations in other words.
				ImportStateVerifyIgnore: []string{"statement_timeout", "max_staleness", "lock_timeout"},
			},
			{ // drift
				PreConfig:        exec(t, db, "UPDATE materialized_view_refresh_schedule SET enabled = true, settings = '{}', total_jobs = NULL, lock_timeout = '1 hour'"),
				Config:           scheduleConfig(db, cron),
				ConfigPlanChecks: planned(refreshSchedule, plancheck.ResourceActionUpdate),
				Check:            expect(t, db, scheduled("concat_ws(' ', enabled, settings->>'work_mem', total_jobs, lock_timeout)"), "f 64MB count(*) 00:00:01.5"),
			},
			{
				Config:           scheduleConfig(db, "view = \"job_progress\"\ntarget_staleness = \"10m\""),
				ConfigPlanChecks: planned(refreshSchedule, plancheck.ResourceActionUpdate),
				Check:            expect(t, db, scheduled("concat_ws(' ', target_staleness, num_nulls(cron, every))"), "00:10:00 2"),
			},
			{Config: scheduleConfig(db, "view = \"job_progress\"\ntarget_staleness = \"600s\""), PlanOnly: true},
			{ // disappears
				PreConfig:        exec(t, db, "DELETE FROM materialized_view_refresh_schedule"),
				Config:           scheduleConfig(db, cron),
				ConfigPlanChecks: planned(refreshSchedule, plancheck.ResourceActionCreate),
			},
			{ // to another view, and back to the defaults
				Config: scheduleConfig(db, `
view     = "\"My.Schema\".\"Odd \"\"view\"\", v1.0\""
every    = "1h30m"
settings = {}
totals   = {}`),
				ConfigPlanChecks: planned(refreshSchedule, plancheck.ResourceActionUpdate),
				Check: resource.ComposeAggregateTestCheckFunc(
					resource.TestCheckResourceAttr(refreshSchedule, "id", `"My.Schema"."Odd ""view"", v1.0"`),
					expect(t, db, scheduled("string_agg(view_name, ',')"), `"My.Schema"."Odd ""view"", v1.0"`),
				),
			},
			{
				ResourceName: refreshSchedule, ImportState: true, ImportStateId: `"My.Schema"."Odd ""view"", v1.0"`, ImportStateVerify: true,
				ImportStateVerifyIgnore: []string{"every", "settings.%", "totals.%"},
			},
		},
	})
}

// A view's rename, by Terraform or not, may take the row along.
func TestAccRefreshScheduleFollowsRename(t *testing.T) {
	db := jobDatabase(t)
	before, after := "view = \"job_progress\"\nevery = \"1m\"", "view = \"renamed\"\nevery = \"1m\""
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: scheduleConfig(db, before)},
			{
				PreConfig: exec(t, db, "ALTER MATERIALIZED VIEW job_progress RENAME TO renamed"),
				Config:    scheduleConfig(db, after),
				Check:     resource.TestCheckResourceAttr(refreshSchedule, "id", "renamed"),
			},
			{Config: scheduleConfig(db, after), PlanOnly: true},
		},
	})
}

func TestAccRefreshScheduleExists(t *testing.T) {
	for _, name := range []string{"job_progress", "public.job_progress"} {
		t.Run(name, func(t *testing.T) {
			db := jobDatabase(t)
			db.Exec(t, "INSERT INTO materialized_view_refresh_schedule (view_name, cron) VALUES ($1, '@hourly')", name)
			config := scheduleConfig(db, "view = \"job_progress\"\nevery = \"1m\"")
			resource.Test(t, resource.TestCase{
				ProtoV6ProviderFactories: testAccProviders,
				Steps: []resource.TestStep{
					{Config: config, ExpectError: errorMessage(`import it: terraform import matview_refresh_schedule.NAME 'job_progress'`)},
					{Config: config, ResourceName: refreshSchedule, ImportState: true, ImportStateId: "job_progress", ImportStatePersist: true},
					{
						Config:           config,
						ConfigPlanChecks: planned(refreshSchedule, plancheck.ResourceActionUpdate),
						Check:            expect(t, db, scheduled("string_agg(view_name || ' ' || every, ',')"), name+" 00:01:00"),
					},
					{Config: config, PlanOnly: true},
				},
			})
		})
	}
}

func TestAccRefreshScheduleRefuses(t *testing.T) {
	const every = "every = \"1m\"\n"
	const view = "view = \"job_progress\"\n"
	cases := map[string]struct{ arguments, message string }{
		"no view":                 {"view = \"nope\"\n" + every, `There is no materialized view nope in the database. Create it first`},
		"a table":                 {"view = \"jobs\"\n" + every, `There is no materialized view jobs in the database`},
		"bad name":                {"view = \"a.b.c\"\n" + every, `has 3 parts, want name or schema.name`},
		"neither":                 {view, `Exactly one of these attributes must be configured: [cron,every,target_staleness]`},
		"both":                    {view + every + `cron = "@daily"`, `Exactly one of these attributes must be configured: [cron,every,target_staleness]`},
		"bad cron":                {view + `cron = "* * *"`, `it has 3 fields instead of the five`},
		"empty cron":              {view + `cron = ""`, `the expression is empty`},
		"cron that never runs":    {view + `cron = "0 0 31 2 *"`, `it never runs`},
		"bad time zone":           {view + "cron = \"@daily\"\ntime_zone = \"Mars/Olympus\"", `time zone "Mars/Olympus": not a name of the IANA time zone database`},
		"all":                     {view + every + `target_staleness = "1m"`, `Exactly one of these attributes must be configured: [cron,every,target_staleness]`},
		"target too short":        {view + `target_staleness = "1s"`, `"1s" must be at least 5s`},
		"bad duration":            {view + `every = "often"`, `invalid duration`},
		"zero duration":           {view + `every = "0s"`, `"0s" must be at least 1s`},
		"negative duration":       {view + `every = "-5m"`, `"-5m" must be at least 1s`},
		"no lock timeout":         {view + every + `lock_timeout = "100us"`, `"100us" must be at least 1ms`},
		"endless timeout":         {view + every + `statement_timeout = "10000h"`, `must be at most`},
		"unknown method":          {view + every + `method = "sideways"`, `value must be one of: ["auto" "blocking" "concurrently" "swap"]`},
		"unknown setting":         {view + every + `settings = { work_memory = "1MB" }`, `PostgreSQL has no setting "work_memory"`},
		"setting of a superuser":  {view + every + `settings = { temp_file_limit = "1MB" }`, `a plain role, which refreshes views, may not set "temp_file_limit"`},
		"value of a setting":      {view + every + `settings = { work_mem = "lots" }`, `invalid value for parameter "work_mem": "lots"`},
		"setting with argument":   {view + every + `settings = { lock_timeout = "1s" }`, `has an argument of its own`},
		"setting's syntax":        {view + every + `settings = { "work_mem = 1; drop" = "1s" }`, `is no name of a setting`},
		"role":                    {view + every + `settings = { role = "postgres" }`, `belongs to the refresh itself`},
		"unknown column":          {view + every + `totals = { jobs = "count(nope)" }`, `line 1, column 7: column "nope" does not exist`},
		"no SQL":                  {view + every + `totals = { objects = "sum(" }`, `syntax error at or near`},
		"a value a row":           {view + every + `totals = { jobs = "total" }`, `must appear in the GROUP BY clause or be used in an aggregate function`},
		"a second statement":      {view + every + `totals = { jobs = "count(*)) FROM jobs; DROP TABLE jobs; SELECT (1" }`, `cannot insert multiple commands`},
		"two expressions":         {view + every + `totals = { jobs = "count(*))::bigint, (1" }`, `must be one expression`},
		"expression of a text":    {view + every + `totals = { jobs = "now()" }`, `cannot cast type timestamp with time zone to bigint`},
		"schema without tables":   {view + every + `log_schema = "My.Schema"`, `Create a matview_refresh_log there first`},
		"log schema not existing": {view + every + `log_schema = "nowhere"`, `Create a matview_refresh_log there first`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			db := jobDatabase(t)
			resource.Test(t, resource.TestCase{
				ProtoV6ProviderFactories: testAccProviders,
				Steps:                    []resource.TestStep{{Config: scheduleConfig(db, c.arguments), ExpectError: errorMessage(c.message)}},
			})
			if n := valueOf(t, db, scheduled("count(*)")); n != "0" {
				t.Error("a schedule was stored")
			}
			if valueOf(t, db, "SELECT to_regclass('jobs')") != "jobs" {
				t.Error("part of it was executed")
			}
		})
	}
}

// All in one apply: the schedule's tables are made before it.
func TestAccRefreshScheduleWithLog(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, "CREATE MATERIALIZED VIEW job_progress AS SELECT 1 AS job_id")
	config := providerConfigFor(db.URL(), `log_schema = "ops"`) + `
resource "matview_refresh_log" "test" { deletion_protection = false }

resource "matview_refresh_schedule" "test" {
  view       = "job_progress"
  cron       = "@hourly"
  totals     = { jobs = "count(*)" }
  depends_on = [matview_refresh_log.test]
}`
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config, Check: resource.TestCheckResourceAttr(refreshSchedule, "log_schema", "ops")},
			{Config: config, PlanOnly: true},
			{
				PreConfig:        exec(t, db, "DROP SCHEMA ops CASCADE"),
				Config:           config,
				ConfigPlanChecks: planned(refreshSchedule, plancheck.ResourceActionCreate),
			},
		},
	})
}

// A refresh that blocks the view holds up neither plan nor apply.
func TestAccRefreshScheduleDuringRefresh(t *testing.T) {
	db := jobDatabase(t)
	config := "view = \"job_progress\"\nevery = \"%s\"\ntotals = { jobs = \"%s\" }"
	conn := db.Connect(t)
	refresh := func() {
		if _, err := conn.Exec(t.Context(), "BEGIN; REFRESH MATERIALIZED VIEW job_progress"); err != nil {
			t.Fatal(err)
		}
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: scheduleConfig(db, fmt.Sprintf(config, "5m", "count(*)"))},
			{PreConfig: refresh, Config: scheduleConfig(db, fmt.Sprintf(config, "10m", "count(*)"))},
			// A new expression cannot be checked now; that is no more than a warning.
			{Config: scheduleConfig(db, fmt.Sprintf(config, "10m", "sum(total)")), Check: expect(t, db, scheduled("total_jobs"), "sum(total)")},
		},
	})
	if conn.PgConn().TxStatus() != 'T' {
		t.Error("the refresh has ended")
	}
}

// The view's rename moves the schedule's row before the schedule's own update.
func TestAccRefreshScheduleOfRenamedResource(t *testing.T) {
	db := postgrestest.New(t)
	config := func(name string) string {
		return providerConfig(db) + `
resource "matview_refresh_log" "test" { deletion_protection = false }

resource "matview_view" "test" {
  name       = "` + name + `"
  definition = "SELECT 1 AS job_id"
  depends_on = [matview_refresh_log.test]
}

resource "matview_refresh_schedule" "test" {
  view   = matview_view.test.id
  every  = "1m"
  totals = { jobs = "count(job_id)" }
}

data "matview_freshness" "test" {
  view       = matview_view.test.id
  depends_on = [matview_refresh_schedule.test]
}`
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config("job_progress"), Check: resource.TestCheckResourceAttr(freshnessData, "is_scheduled", "true")},
			{Config: config("job_progress"), PlanOnly: true},
			{
				Config:           config("renamed"),
				ConfigPlanChecks: planned(refreshSchedule, plancheck.ResourceActionUpdate),
				Check: resource.ComposeTestCheckFunc(
					resource.TestCheckResourceAttr(refreshSchedule, "id", "renamed"),
					resource.TestCheckResourceAttr(freshnessData, "view_name", "renamed"),
					expect(t, db, scheduled("string_agg(view_name, ',')"), "renamed"),
				),
			},
			{Config: config("renamed"), PlanOnly: true},
		},
	})
}
