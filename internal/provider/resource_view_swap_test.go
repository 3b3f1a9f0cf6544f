package provider

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

const fresh = "SELECT coalesce(stale_reason, 'fresh') || ' ' || (data_as_of IS NOT NULL) FROM materialized_view_freshness WHERE view_name = 'job_progress'"

func TestAccViewSwap(t *testing.T) {
	db := viewDatabase(t)
	installTables(t, db)
	reader, _ := db.Role(t, "")
	const indexes = "  comment = \"c\"\n  indexes = {\n    i = { keys = [\"id\"], unique = true }\n    n = { keys = [\"%s\"] }\n  }\n"
	config := func(definition, key, more string) string {
		return viewConfig(db, withDefinition(definition)+fmt.Sprintf(indexes, key)+more)
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config("SELECT id, name, status FROM jobs", "name", "")},
			{
				PreConfig: func() {
					db.Exec(t, `CREATE VIEW over AS SELECT id, name FROM job_progress; GRANT SELECT ON job_progress TO `+reader+`;
COMMENT ON COLUMN job_progress.name IS 'n'; COMMENT ON COLUMN job_progress.status IS 's'; COMMENT ON INDEX i IS 'the id'; ALTER MATERIALIZED VIEW job_progress CLUSTER ON i, SET (fillfactor = 80)`)
				},
				Config:           config("SELECT id, name, id + 1 AS next FROM jobs", "next", ""),
				ConfigPlanChecks: viewUpdates,
				Check: resource.ComposeAggregateTestCheckFunc(
					resource.TestCheckResourceAttr(viewAddress, "output_columns.#", "3"),
					expect(t, db, "SELECT count(next) FROM job_progress", "30"),
					expect(t, db, "SELECT count(*) FROM over", "30"),
					expect(t, db, "has_table_privilege('"+reader+"', 'job_progress', 'SELECT')", "true"),
					expect(t, db, "col_description('job_progress'::regclass, 2)", "n"),
					expect(t, db, "obj_description('i'::regclass)", "the id"),
					expect(t, db, "obj_description('job_progress'::regclass)", "c"),
					expect(t, db, "SELECT reloptions FROM pg_class WHERE relname = 'job_progress'", "{fillfactor=80}"),
					expect(t, db, "SELECT string_agg(indexrelid::regclass || ' ' || indisclustered, ', ' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid = 'job_progress'::regclass", "i true, n false"),
					expect(t, db, fresh, "fresh true"),
					expect(t, db, "SELECT string_agg(trigger || ' ' || method, ', ' ORDER BY id) FROM materialized_view_refresh_history", "terraform create, terraform swap"),
				),
			},
			{Config: config("SELECT id, name, id + 1 AS next FROM jobs", "next", ""), PlanOnly: true},
			{
				PreConfig:   func() { db.Exec(t, "CREATE MATERIALIZED VIEW higher AS SELECT id FROM job_progress") },
				Config:      config("SELECT id FROM jobs", "id", ""),
				ExpectError: message("Materialized view job_progress cannot get a new definition", "materialized view public.higher", "view public.over uses column name, which the new definition does not return"),
			},
			{ // nothing has changed, also not while it cannot
				PreConfig: func() { db.Exec(t, "DROP MATERIALIZED VIEW higher") },
				Config:    config("SELECT id, name, id + 1 AS next FROM jobs", "next", ""), ConfigPlanChecks: noChanges,
			},
			{ // together with another name and other columns
				Config: viewConfig(db, strings.Replace(withDefinition("SELECT id, name FROM jobs"), "job_progress", "other", 1)+"  column_names = [\"id\"]\n  comment = \"d\"\n  indexes = { i = { keys = [\"id\"], unique = true } }"),
				Check: resource.ComposeAggregateTestCheckFunc(
					expect(t, db, "obj_description('other'::regclass)", "d"),
					expect(t, db, "SELECT count(*) FROM materialized_view_refresh_log WHERE view_name = 'other'", "1"),
					expect(t, db, "SELECT stale_reason FROM materialized_view_freshness WHERE view_name = 'other'", "null"),
					expect(t, db, "SELECT count(name) FROM over", "30"),
				),
			},
			{
				PreConfig: func() { db.Exec(t, "DROP VIEW over") }, // or the destroy would be refused
				Config:    viewConfig(db, strings.Replace(withDefinition("SELECT id, name FROM jobs"), "job_progress", "other", 1)+"  column_names = [\"id\"]\n  comment = \"d\"\n  indexes = { i = { keys = [\"id\"], unique = true } }"), ConfigPlanChecks: noChanges,
			},
		},
	})
}

// An index that Terraform does not manage stays, or the plan says that it cannot.
func TestAccViewKeptIndexes(t *testing.T) {
	db := viewDatabase(t)
	config := func(definition, onChange string) string {
		return viewConfig(db, withDefinition(definition)+fmt.Sprintf("  on_definition_change = %q", onChange))
	}
	steps := []resource.TestStep{{Config: config("SELECT id, name FROM jobs", "swap")}}
	for i, onChange := range []string{"swap", "recreate"} {
		steps = append(steps,
			resource.TestStep{ // of another type
				PreConfig: func() {
					db.Exec(t, "DROP INDEX IF EXISTS i, j; CREATE INDEX i ON job_progress (lower(name) text_pattern_ops); CREATE INDEX j ON job_progress (name)")
				},
				Config: config("SELECT id, id AS name FROM jobs", onChange), PlanOnly: true,
				ExpectError: message("Materialized view job_progress cannot get a new definition", `index "i" could not be: function lower(integer) does not exist`, "Drop it first, or set indexes"),
			},
			resource.TestStep{
				Config: config("SELECT id FROM jobs", onChange), PlanOnly: true,
				ExpectError: message("Materialized view job_progress cannot get a new definition", "index", "i"),
			},
			resource.TestStep{
				Config: config(fmt.Sprintf("SELECT id, name, %d AS n FROM jobs", i), onChange),
				Check:  expect(t, db, "SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY 1) FROM pg_index WHERE indrelid = 'job_progress'::regclass", "i j"),
			},
		)
	}
	resource.Test(t, resource.TestCase{ProtoV6ProviderFactories: testAccProviders, Steps: steps})
}

// What a plan of other storage and other column names does, in place where that
// can be.
func TestAccViewArguments(t *testing.T) {
	db := viewDatabase(t)
	installTables(t, db)
	const definition = "SELECT id, name FROM jobs"
	var oid string
	same := func(*terraform.State) error { return expect(t, db, "'job_progress'::regclass::oid", oid)(nil) }
	notDistinct := ""
	if postgrestest.Version(t) >= 150000 {
		notDistinct = "nulls_not_distinct = true, unique = true, "
	}
	first := viewConfig(db, withDefinition(definition)+`
  column_names       = ["job_id", "Job name"]
  storage_parameters = { fillfactor = "70", "toast.autovacuum_enabled" = "off" }
  indexes            = { i = { `+notDistinct+`keys = ["job_id"], storage_parameters = { fillfactor = "60" }, tablespace = "pg_default" } }`)
	second := viewConfig(db, withDefinition("SELECT id AS job_id, name AS \"Job name\" FROM jobs")+`
  storage_parameters = { autovacuum_enabled = "false" }
  tablespace         = "pg_default"
  access_method      = "heap"
  indexes            = { i = { keys = ["job_id"] } }`)
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{
				Config: strings.Replace(first, `, tablespace = "pg_default"`, "", 1),
				Check: resource.ComposeAggregateTestCheckFunc(
					resource.TestCheckResourceAttr(viewAddress, "output_columns.1.name", "Job name"),
					resource.TestCheckResourceAttr(viewAddress, "tablespace", "pg_default"),
					resource.TestCheckResourceAttr(viewAddress, "access_method", "heap"),
					expect(t, db, "SELECT reloptions FROM pg_class WHERE relname = 'job_progress'", "{fillfactor=70}"),
					expect(t, db, "SELECT reloptions FROM pg_class WHERE relname = 'i'", "{fillfactor=60}"),
					func(*terraform.State) error { oid = valueOf(t, db, "'job_progress'::regclass::oid"); return nil },
				),
			},
			{Config: strings.Replace(first, `, tablespace = "pg_default"`, "", 1), PlanOnly: true},
			{
				Config:           second,
				ConfigPlanChecks: viewUpdates,
				Check: resource.ComposeAggregateTestCheckFunc(
					same,
					expect(t, db, "SELECT reloptions FROM pg_class WHERE relname = 'job_progress'", "{autovacuum_enabled=false}"),
					expect(t, db, "SELECT reloptions FROM pg_class WHERE relname = 'i'", "null"),
					expect(t, db, fresh, "fresh true"),
				),
			},
			{Config: second, PlanOnly: true},
			{ // drift
				PreConfig:        func() { db.Exec(t, "ALTER MATERIALIZED VIEW job_progress SET (fillfactor = 50)") },
				Config:           second,
				ConfigPlanChecks: viewUpdates,
				Check:            resource.ComposeAggregateTestCheckFunc(same, expect(t, db, "SELECT reloptions FROM pg_class WHERE relname = 'job_progress'", "{autovacuum_enabled=false}")),
			},
			{Config: viewConfig(db, withDefinition(definition)+"  on_definition_change = \"never\""), ExpectError: message("on_definition_change", `value must be one of`)},
			{Config: viewConfig(db, withDefinition(definition)+"  column_names = [\"a\", \"b\", \"c\"]"), ExpectError: message("there are 3 column names, but the query returns 2 columns")},
			{Config: second, ConfigPlanChecks: noChanges}, // or the destroy would meet the bad configuration
		},
	})
}

// Whoever replaces the view at the same time, each leaves it whole, recorded, and
// with one of the two definitions.
func TestTwoChangesAtOnce(t *testing.T) {
	db := viewDatabase(t)
	installTables(t, db)
	pool := db.Pool(t)
	db.Exec(t, "CREATE MATERIALIZED VIEW job_progress AS SELECT id FROM jobs; CREATE UNIQUE INDEX i ON job_progress (id)")
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			if n%4 == 3 { // the exporter
				_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), refresh.Request{View: "job_progress", Method: refresh.Auto, Trigger: refresh.TriggerManual})
				if err != nil {
					t.Error(err)
				}
				return
			}
			// Another may come before it is read back, which is said.
			var changed *changedError
			err := changeDefinition(t.Context(), &client{pool: pool, logSchema: "public"}, fmt.Sprintf("SELECT id, %d AS n FROM jobs", n))
			if err != nil && !errors.As(err, &changed) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := valueOf(t, db, fresh); got != "fresh true" {
		t.Errorf("it is %s", got)
	}
	if got := valueOf(t, db, "SELECT count(*) FROM pg_class WHERE relkind = 'm' OR relname IN ('i') OR relname ~ '^matview_[0-9a-f]{16}$'"); got != "2" {
		t.Errorf("%s relations, want the view and its index", got)
	}
}

// changeDefinition is all that the resource does for another definition of
// job_progress.
func changeDefinition(ctx context.Context, c *client, definition string) error {
	name := matview.Name{Schema: "public", Relation: "job_progress"}
	change := viewChange{client: c, from: name, newText: true, plan: &viewModel{
		Name: types.StringValue(name.Relation), Schema: types.StringValue(name.Schema), Definition: types.StringValue(definition),
		CanonicalDefinition: types.StringUnknown(), OnDefinitionChange: types.StringValue(onChangeSwap), WithData: types.BoolValue(true),
	}}
	_, _, err := change.apply(ctx)
	return err
}
