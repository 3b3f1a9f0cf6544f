package provider

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

const refreshLog = "matview_refresh_log.test"

// lambdaLog is a log table with a row, as another program made it.
const lambdaLog = `CREATE TABLE materialized_view_refresh_log (
    view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
    refresh_duration_ms INTEGER, total_jobs INTEGER, total_objects BIGINT);
INSERT INTO materialized_view_refresh_log VALUES ('job_progress', '2025-11-09 10:14:30.1239+00', 920, 150, 1250000);`

func logConfig(db *postgrestest.Database, arguments string) string {
	return providerConfig(db) + fmt.Sprintf("resource \"matview_refresh_log\" \"test\" {\n%s\n}\n", arguments)
}

// valueOf is the single value of a query, as text.
func valueOf(t *testing.T, db *postgrestest.Database, sql string) string {
	t.Helper()
	var value string
	if err := db.Connect(t).QueryRow(t.Context(), "SELECT coalesce(("+sql+")::text, 'null')").Scan(&value); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return value
}

// expect is a check that a query gives a value.
func expect(t *testing.T, db *postgrestest.Database, sql, want string) resource.TestCheckFunc {
	return func(*terraform.State) error {
		if got := valueOf(t, db, sql); got != want {
			return fmt.Errorf("%s: got %s, want %s", sql, got, want)
		}
		return nil
	}
}

func exec(t *testing.T, db *postgrestest.Database, sql string) func() {
	return func() { db.Exec(t, sql) }
}

func planned(address string, action plancheck.ResourceActionType) resource.ConfigPlanChecks {
	return resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{plancheck.ExpectResourceAction(address, action)}}
}

var noChanges = resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{plancheck.ExpectEmptyPlan()}}

func currentVersion() string { return fmt.Sprint(migrations.Version()) }

func TestAccRefreshLog(t *testing.T) {
	db := postgrestest.New(t)
	role, password := db.Role(t, "")
	count := "SELECT count(*) FROM pg_class WHERE relname LIKE 'materialized_view_%' AND relkind IN ('r', 'v')"
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		CheckDestroy:             expect(t, db, count, "0"),
		Steps: []resource.TestStep{
			{
				Config: logConfig(db, ""),
				Check: resource.ComposeAggregateTestCheckFunc(
					resource.TestCheckResourceAttr(refreshLog, "id", "public"),
					resource.TestCheckResourceAttr(refreshLog, "schema", "public"),
					resource.TestCheckResourceAttr(refreshLog, "history_retention", "720h"),
					resource.TestCheckResourceAttr(refreshLog, "deletion_protection", "true"),
					resource.TestCheckResourceAttr(refreshLog, "version", currentVersion()),
					resource.TestCheckNoResourceAttr(refreshLog, "writer_roles"),
					expect(t, db, count, "9"),
				),
			},
			{Config: logConfig(db, ""), PlanOnly: true},
			{Config: logConfig(db, `history_retention = "30000m"`)},
			{Config: logConfig(db, `history_retention = "500h0m0s"`), PlanOnly: true},
			{
				Config: logConfig(db, `
history_retention = "48h"
writer_roles      = ["`+role+`"]
reader_roles      = []`),
				ConfigPlanChecks: planned(refreshLog, plancheck.ResourceActionUpdate),
				Check: resource.ComposeAggregateTestCheckFunc(
					expect(t, db, "SELECT history_retention FROM materialized_view_refresh_settings", "48:00:00"),
					expect(t, db, "SELECT has_table_privilege('"+role+"', 'materialized_view_refresh_log', 'INSERT')", "true"),
				),
			},
			{
				ResourceName:            refreshLog,
				ImportState:             true,
				ImportStateId:           "public",
				ImportStateVerify:       true,
				ImportStateVerifyIgnore: []string{"writer_roles", "reader_roles", "history_retention"}, // 48h0m0s
			},
			{ // drift: a privilege is gone
				PreConfig:        exec(t, db, "REVOKE INSERT ON materialized_view_refresh_log FROM "+role),
				Config:           logConfig(db, `writer_roles = ["`+role+`"]`),
				ConfigPlanChecks: planned(refreshLog, plancheck.ResourceActionUpdate),
				Check:            expect(t, db, "SELECT has_table_privilege('"+role+"', 'materialized_view_refresh_log', 'INSERT')", "true"),
			},
			{Config: logConfig(db, `writer_roles = ["`+role+`"]`), PlanOnly: true},
			{ // from writer to reader
				Config: logConfig(db, `reader_roles = ["`+role+`"]`),
				Check: func(*terraform.State) error {
					conn, err := pgx.Connect(t.Context(), db.URLFor(role, password))
					if err != nil {
						return err
					}
					defer conn.Close(t.Context())
					if _, err := conn.Exec(t.Context(), "SELECT * FROM materialized_view_freshness"); err != nil {
						return err
					}
					if _, err := conn.Exec(t.Context(), "DELETE FROM materialized_view_refresh_log"); err == nil {
						return fmt.Errorf("a reader may write")
					}
					return nil
				},
			},
			{Config: logConfig(db, `reader_roles = ["`+role+`"]`), PlanOnly: true},
			{Config: logConfig(db, `deletion_protection = false`)},
		},
	})
}

func TestAccRefreshLogRepairs(t *testing.T) {
	db := postgrestest.New(t)
	config := logConfig(db, "deletion_protection = false")
	steps := []resource.TestStep{{Config: config}}
	for _, damage := range []string{
		"DROP TABLE materialized_view_refresh_log",
		"DROP VIEW materialized_view_freshness CASCADE",
		"DROP TABLE materialized_view_refresh_settings",
		"DELETE FROM matview_schema_version",
	} {
		steps = append(steps, resource.TestStep{
			PreConfig:        exec(t, db, damage),
			Config:           config,
			ConfigPlanChecks: planned(refreshLog, plancheck.ResourceActionUpdate),
			Check:            resource.TestCheckResourceAttr(refreshLog, "version", currentVersion()),
		}, resource.TestStep{Config: config, ConfigPlanChecks: noChanges})
	}
	steps = append(steps, resource.TestStep{ // disappears
		PreConfig:        exec(t, db, "DROP SCHEMA public CASCADE; CREATE SCHEMA public"),
		Config:           config,
		ConfigPlanChecks: planned(refreshLog, plancheck.ResourceActionCreate),
	})
	resource.Test(t, resource.TestCase{ProtoV6ProviderFactories: testAccProviders, Steps: steps})
}

func TestAccRefreshLogAdopts(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, lambdaLog)
	rows := "SELECT string_agg(l::text, ';') FROM materialized_view_refresh_log AS l"
	before := valueOf(t, db, rows)
	config := logConfig(db, "deletion_protection = false")
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		CheckDestroy: resource.ComposeTestCheckFunc(
			expect(t, db, rows, before),
			expect(t, db, "SELECT count(*) FROM pg_class WHERE relname LIKE 'materialized_view_%' AND relkind IN ('r', 'v')", "1"),
		),
		Steps: []resource.TestStep{
			{Config: config, Check: expect(t, db, rows, before)},
			{Config: config, PlanOnly: true},
			{Config: config + "# a change in place keeps what is remembered about the table\n", PlanOnly: true},
			{Config: logConfig(db, "deletion_protection = false\nhistory_retention = \"1h\"")},
		},
	})
}

func TestAccRefreshLogProtected(t *testing.T) {
	db := postgrestest.New(t)
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: logConfig(db, "")},
			{
				Config:      logConfig(db, ""),
				Destroy:     true,
				ExpectError: errorMessage(`set deletion_protection to false and apply first`),
			},
			{Config: logConfig(db, "deletion_protection = false")},
			{ // a dashboard of somebody depends on ours
				PreConfig:   exec(t, db, "CREATE VIEW dashboard AS SELECT view_name FROM materialized_view_freshness"),
				Config:      logConfig(db, "deletion_protection = false"),
				Destroy:     true,
				ExpectError: errorMessage(`view dashboard depends on view materialized_view_freshness`),
			},
			{PreConfig: exec(t, db, "DROP VIEW dashboard"), Config: logConfig(db, "deletion_protection = false"), ConfigPlanChecks: noChanges},
		},
	})
}

func TestAccRefreshLogSchema(t *testing.T) {
	db := postgrestest.New(t)
	odd := providerConfigFor(db.URL(), `log_schema = "My.Schema"`) + `resource "matview_refresh_log" "test" { deletion_protection = false }`
	other := providerConfigFor(db.URL(), `log_schema = "My.Schema"`) + `resource "matview_refresh_log" "test" {
  schema              = "other"
  deletion_protection = false
}`
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: odd, Check: resource.TestCheckResourceAttr(refreshLog, "id", "My.Schema")},
			{Config: odd, PlanOnly: true},
			{
				ResourceName: refreshLog, ImportState: true, ImportStateId: "My.Schema", ImportStateVerify: true,
				ImportStateVerifyIgnore: []string{"deletion_protection", "history_retention"},
			},
			{
				Config:           other,
				ConfigPlanChecks: planned(refreshLog, plancheck.ResourceActionReplace),
				Check: resource.ComposeTestCheckFunc(
					resource.TestCheckResourceAttr(refreshLog, "id", "other"),
					expect(t, db, "SELECT count(*) FROM pg_class WHERE relnamespace = '\"My.Schema\"'::regnamespace", "0"),
				),
			},
		},
	})
}

func TestAccRefreshLogRefuses(t *testing.T) {
	cases := map[string]struct{ before, arguments, message string }{
		"incompatible log": {
			before: `CREATE TABLE materialized_view_refresh_log (view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMP NOT NULL,
    refresh_duration_ms INTEGER, total_jobs INTEGER, total_objects BIGINT)`,
			message: `column last_refreshed_at has type timestamp without time zone instead of timestamp with time zone; alter or rename it, nothing was changed`,
		},
		"newer":           {before: "CREATE TABLE matview_schema_version AS SELECT 99 AS version", message: `at version 99, and this program knows only up to`},
		"missing role":    {arguments: `writer_roles = ["nobody_there"]`, message: `role "nobody_there" does not exist; create it first`},
		"null role":       {arguments: `reader_roles = [null]`, message: `This attribute contains a null value.`},
		"bad retention":   {arguments: `history_retention = "30 days"`, message: `unknown unit`},
		"no retention":    {arguments: `history_retention = "0s"`, message: `"0s" must be at least 1µs`},
		"too long a name": {arguments: `schema = "` + longName + `"`, message: `longer than the 63 bytes`},
		"empty schema":    {arguments: `schema = ""`, message: `cannot be empty`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			db := postgrestest.New(t)
			if c.before != "" {
				db.Exec(t, c.before)
			}
			before := valueOf(t, db, "SELECT count(*) FROM pg_class")
			resource.Test(t, resource.TestCase{
				ProtoV6ProviderFactories: testAccProviders,
				Steps:                    []resource.TestStep{{Config: logConfig(db, c.arguments), ExpectError: errorMessage(c.message)}},
			})
			if after := valueOf(t, db, "SELECT count(*) FROM pg_class"); after != before {
				t.Error("something was left")
			}
		})
	}
}

// A role that does not exist is a warning at plan, for the same apply may create it.
func TestAccRefreshLogOfUnknownRoles(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	db := postgrestest.New(t)
	role, _ := db.Role(t, "")
	config := fmt.Sprintf("resource \"matview_refresh_log\" \"test\" {\n  writer_roles = [%q, \"nobody here\"]\n}\n", role)
	w := newWorkspace(t, db.URL(), workspaceProvider+config)
	out := w.run(t, "plan")
	if want := errorMessage(`There is no role "nobody here". Unless this apply creates it`); !want.MatchString(out) || strings.Count(out, "There is no role") != 1 {
		t.Errorf("want %s once:\n%s", want, out)
	}
}

// Who may not use the tables is told what that takes.
func TestAccTablesOfAnother(t *testing.T) {
	db := jobDatabase(t)
	role, password := db.Role(t, "")
	config := providerConfigFor(db.URLFor(role, password), "")
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{
				Config:      config + "resource \"matview_refresh_schedule\" \"test\" {\n  view = \"job_progress\"\n  every = \"1m\"\n}",
				ExpectError: errorMessage("Terraform's role needs to own the tables of matview"),
			},
			{
				Config:      config + "data \"matview_freshness\" \"test\" {\n  view = \"job_progress\"\n}",
				ExpectError: errorMessage("it is enough to be one of reader_roles"),
			},
		},
	})
}

const longName = "a234567890123456789012345678901234567890123456789012345678901234"

// said matches a message of Terraform's, which breaks lines as it likes and
// draws a box around them.
func errorMessage(message string) *regexp.Regexp {
	return regexp.MustCompile(regexp.MustCompile(`\s+`).ReplaceAllString(regexp.QuoteMeta(message), `[\s│]+`))
}

func TestAccInvalidDuration(t *testing.T) {
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{{
			Config:      "resource \"matview_refresh_log\" \"test\" {\n  history_retention = \"a week\"\n}\n",
			ExpectError: message(`Given Value: a week Error: time: invalid duration "a week"`),
		}},
	})
}
