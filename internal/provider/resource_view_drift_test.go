package provider

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/terraform"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// A view that has lost its data is shown and filled, which is recorded as the
// refresh that it is.
func TestAccViewUnpopulated(t *testing.T) {
	db := viewDatabase(t)
	installTables(t, db)
	config := viewConfig(db, withDefinition("SELECT id FROM jobs"))
	empty := func() { db.Exec(t, "REFRESH MATERIALIZED VIEW job_progress WITH NO DATA") }
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config},
			{PreConfig: empty, Config: config, PlanOnly: true, ExpectNonEmptyPlan: true},
			{Config: config, ConfigPlanChecks: viewUpdates, Check: resource.ComposeAggregateTestCheckFunc(
				expect(t, db, "SELECT count(*) FROM job_progress", "30"),
				expect(t, db, "SELECT is_stale || ' ' || last_outcome FROM materialized_view_freshness WHERE view_name = 'job_progress'", "false succeeded"),
			)},
			{Config: config, PlanOnly: true},
			{ // together with changes that are made after it is filled
				PreConfig: empty, Config: viewConfig(db, withDefinition("SELECT id FROM jobs")+"  comment = \"c\"\n  indexes = { i = { keys = [\"id\"], unique = true } }"),
				Check: expect(t, db, "SELECT is_stale || ' ' || (SELECT count(*) FROM job_progress) FROM materialized_view_freshness WHERE view_name = 'job_progress'", "false 30"),
			},
		},
	})
}

// What a failed CREATE INDEX CONCURRENTLY leaves is dropped where it is not
// wanted, and built again where it is.
func TestAccViewInvalidIndex(t *testing.T) {
	db := viewDatabase(t)
	conn := db.Connect(t)
	fail := func() {
		if _, err := conn.Exec(t.Context(), "CREATE UNIQUE INDEX CONCURRENTLY broken ON job_progress (status)"); err == nil {
			t.Error("the index was built")
		}
	}
	const query = "SELECT string_agg(indexrelid::regclass || ' ' || indisvalid, ', ') FROM pg_index WHERE indrelid = 'job_progress'::regclass"
	unwanted := viewConfig(db, withDefinition("SELECT id, status FROM jobs")+"  indexes = { i = { keys = [\"id\"] } }")
	wanted := viewConfig(db, withDefinition("SELECT id, status FROM jobs")+"  indexes = { broken = { keys = [\"status\"] } }")
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: unwanted},
			{PreConfig: fail, Config: unwanted, PlanOnly: true, ExpectNonEmptyPlan: true},
			{Config: unwanted, Check: expect(t, db, query, "i true")},
			{PreConfig: fail, Config: wanted, Check: expect(t, db, query, "broken true")},
			{Config: wanted, PlanOnly: true},
		},
	})
}

// Indexes that were not managed are adopted as they are, with their comments,
// where they mean what the configuration says; also while the view is replaced.
func TestAccViewIndexesAdopted(t *testing.T) {
	db := viewDatabase(t)
	const all = `
  indexes = {
    i = { keys = ["ID desc"], unique = true }
    j = { keys = ["lower( name )"], where = "id>1" }
    k = { keys = ["name"] }
  }`
	const comments = "SELECT string_agg(c.relname || ' ' || coalesce(obj_description(c.oid), '-'), ', ' ORDER BY c.relname) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE i.indrelid = 'job_progress'::regclass"
	var before string
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: viewConfig(db, withDefinition("SELECT id, name FROM jobs"))},
			{
				PreConfig: func() {
					db.Exec(t, `CREATE UNIQUE INDEX i ON job_progress (id DESC); COMMENT ON INDEX i IS 'one';
CREATE INDEX j ON job_progress (lower(name)) WHERE id > 1; COMMENT ON INDEX j IS 'two'; CREATE INDEX k ON job_progress (id); COMMENT ON INDEX k IS 'other'`)
					before = valueOf(t, db, "SELECT 'i'::regclass::oid || ' ' || 'j'::regclass::oid")
				},
				Config: viewConfig(db, withDefinition("SELECT id, name FROM jobs")+all),
				Check: resource.ComposeAggregateTestCheckFunc(
					expect(t, db, comments, "i one, j two, k -"),
					func(*terraform.State) error {
						return expect(t, db, "SELECT 'i'::regclass::oid || ' ' || 'j'::regclass::oid", before)(nil)
					},
					resource.TestCheckResourceAttr(viewAddress, "supports_concurrent_refresh", "true"),
				),
			},
			{Config: viewConfig(db, withDefinition("SELECT id, name FROM jobs")+all), PlanOnly: true},
			{Config: viewConfig(db, withDefinition("SELECT id, name FROM jobs"))},
			{
				Config: viewConfig(db, withDefinition("SELECT id, name FROM jobs WHERE id > 0")+all),
				Check:  expect(t, db, comments, "i one, j two, k -"),
			},
			{Config: viewConfig(db, withDefinition("SELECT id, name FROM jobs WHERE id > 0")+all), PlanOnly: true},
		},
	})
}

// Whether a view will support concurrent refreshes is known at plan, from its
// indexes.
func TestAccViewSupportsConcurrentAtPlan(t *testing.T) {
	db := viewDatabase(t)
	config := func(index string) string {
		return viewConfig(db, withDefinition("SELECT id, name FROM jobs")+"  indexes = { i = { "+index+" } }") + `
resource "terraform_data" "known" {
  lifecycle {
    precondition {
      condition     = matview_view.test.supports_concurrent_refresh
      error_message = "It cannot be refreshed concurrently."
    }
  }
}
`
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config(`keys = ["id"]`), PlanOnly: true, ExpectError: message("It cannot be refreshed concurrently.")},
			{Config: config(`keys = ["id"], unique = true, where = "id > 0"`), PlanOnly: true, ExpectError: message("It cannot be refreshed concurrently.")},
			{Config: config(`keys = ["abs(id)"], unique = true`), PlanOnly: true, ExpectError: message("It cannot be refreshed concurrently.")},
			{Config: config(`keys = ["ID desc"], unique = true`)},
			{Config: config(`keys = ["id", "lower(name)"], unique = true`), PlanOnly: true, ExpectError: message("It cannot be refreshed concurrently.")},
		},
	})
}

func TestOwnerObstacle(t *testing.T) {
	db := viewDatabase(t)
	role, password := db.Role(t, "")
	other, _ := db.Role(t, "")
	conn, err := pgx.Connect(t.Context(), db.URLFor(role, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	for _, c := range []struct{ owner, want string }{
		{"nobody_there", "There is no role nobody_there"},
		{other, "is not a member of " + other + " (GRANT " + other + " TO " + role + ")"},
		{role, "It may not create in schema public (GRANT CREATE ON SCHEMA public TO " + role + ")"},
	} {
		db.Exec(t, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
		got, err := matview.OwnerObstacle(t.Context(), conn, c.owner, "public")
		if err != nil || !message(c.want).MatchString(got) {
			t.Errorf("%s: %q, %v", c.owner, got, err)
		}
	}
	db.Exec(t, "GRANT CREATE ON SCHEMA public TO "+role)
	if got, err := matview.OwnerObstacle(t.Context(), conn, role, "public"); err != nil || got != "" {
		t.Errorf("%q, %v", got, err)
	}
	if postgrestest.Version(t) < 160000 {
		return // there is no membership without SET
	}
	db.Exec(t, "GRANT "+other+" TO "+role+" WITH SET FALSE")
	if got, err := matview.OwnerObstacle(t.Context(), conn, other, "public"); err != nil || !message("is a member of "+other+" without SET").MatchString(got) {
		t.Errorf("%q, %v", got, err)
	}
}

// A schedule that could only fail is warned of at plan.
func TestScheduleMethodWarning(t *testing.T) {
	db := jobDatabase(t)
	r := &refreshScheduleResource{client: &client{config: postgres.Config{URL: db.URL()}, logSchema: "public"}}
	pool, err := r.client.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	target := store.ScheduleTarget{ViewName: "job_progress", Schema: "public", Relation: "job_progress"}
	plan := refreshScheduleModel{View: types.StringValue("job_progress"), Method: types.StringValue("concurrently")}
	warnings := func(state *refreshScheduleModel) int {
		var diags diag.Diagnostics
		r.client.catalog.forget()
		r.checkMethod(t.Context(), plan, state, pool, target, &diags)
		if diags.HasError() {
			t.Error(diags)
		}
		return diags.WarningsCount()
	}
	if got := warnings(nil); got != 1 {
		t.Errorf("%d warnings without an index, want 1", got)
	}
	if got := warnings(&plan); got != 0 {
		t.Errorf("%d warnings of what has not changed, want 0", got)
	}
	db.Exec(t, "CREATE UNIQUE INDEX ON job_progress (job_id)")
	if got := warnings(nil); got != 0 {
		t.Errorf("%d warnings with an index, want 0", got)
	}
}

// A view that loses what its schedule needs is warned of at plan, where the
// schedule itself does not change.
func TestAccViewScheduledConcurrently(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	db := viewDatabase(t)
	installTables(t, db)
	config := func(indexes, method string) string {
		return fmt.Sprintf(`
terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}

resource "matview_view" "test" {
  name       = "job_progress"
  definition = "SELECT id, name FROM jobs"
  indexes    = { %s }
}

resource "matview_refresh_schedule" "test" {
  view   = matview_view.test.id
  every  = "1h"
  method = %q
}
`, indexes, method)
	}
	const u, n = `u = { keys = ["id"], unique = true }`, `n = { keys = ["name"] }`
	w := newWorkspace(t, db.URL(), config(u+", "+n, "concurrently"))
	w.run(t, "apply", "-auto-approve")
	w.plan(t)
	for indexes, warned := range map[string]bool{
		"": true, n: true, strings.Replace(u, "true", "false", 1) + ", " + n: true, strings.Replace(u, `"id"`, `"abs(id)"`, 1): true,
		u: false, strings.Replace(u, "id", "name", 1): false,
	} {
		w.write(t, config(indexes, "concurrently"))
		out := w.run(t, "plan")
		if got := message("Materialized view job_progress can no longer be refreshed concurrently", `whose method is "concurrently", would fail.`).MatchString(out); got != warned {
			t.Errorf("with indexes = { %s } the plan warns: %t\n%s", indexes, got, out)
		}
	}
}

// An invalid index is named at plan, and why it is to be built.
func TestWarnInvalid(t *testing.T) {
	db := viewDatabase(t)
	db.Exec(t, "CREATE MATERIALIZED VIEW job_progress AS SELECT id, status FROM jobs; CREATE INDEX good ON job_progress (id)")
	if _, err := db.Connect(t).Exec(t.Context(), `CREATE UNIQUE INDEX CONCURRENTLY "Broken one" ON job_progress (status)`); err == nil {
		t.Fatal("the index was built")
	}
	v, err := matview.Read(t.Context(), db.Pool(t), matview.Name{Schema: "public", Relation: "job_progress"})
	if err != nil {
		t.Fatal(err)
	}
	var diags diag.Diagnostics
	warnInvalid(v, &diags)
	if len(diags) != 1 || diags[0].Severity() != diag.SeverityWarning || diags[0].Summary() != `Index "Broken one" of materialized view job_progress is invalid` ||
		!strings.Contains(diags[0].Detail(), "CREATE INDEX CONCURRENTLY or REINDEX CONCURRENTLY that failed or is still running") {
		t.Errorf("%v", diags)
	}
}

// A view is moved to another tablespace and access method in place, there and
// back, and stays as fresh as it was.
func TestAccViewStorageMove(t *testing.T) {
	if postgrestest.Version(t) < 150000 {
		t.Skip("it takes PostgreSQL 15 to change an access method")
	}
	admin := postgrestest.New(t)
	tablespace := "ts " + admin.Name
	quoted := pgx.Identifier{tablespace}.Sanitize()
	conn := admin.Connect(t)
	for _, sql := range []string{"SET allow_in_place_tablespaces = on", "CREATE TABLESPACE " + quoted + " LOCATION ''"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { // when the database that uses it has gone
		if _, err := conn.Exec(context.WithoutCancel(t.Context()), "DROP TABLESPACE "+quoted); err != nil {
			t.Error(err)
		}
	})
	db := viewDatabase(t)
	installTables(t, db)
	db.Exec(t, "CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler")
	config := func(definition, tablespace, method string) string {
		return viewConfig(db, withDefinition(definition)+fmt.Sprintf("  tablespace = %q\n  access_method = %q\n  indexes = { i = { keys = [\"id\"], unique = true, tablespace = %q } }", tablespace, method, tablespace))
	}
	const one, two = "SELECT id FROM jobs", "SELECT id, name FROM jobs"
	var oid string
	remember := func(*terraform.State) error { oid = valueOf(t, db, "'job_progress'::regclass::oid"); return nil }
	same := func(*terraform.State) error { return expect(t, db, "'job_progress'::regclass::oid", oid)(nil) }
	at := func(want string) resource.TestCheckFunc {
		return resource.ComposeAggregateTestCheckFunc(
			expect(t, db, "SELECT string_agg(coalesce(spcname, '-') || ' ' || amname, ', ' ORDER BY relname) FROM pg_class AS c JOIN pg_am AS a ON a.oid = relam LEFT JOIN pg_tablespace AS s ON s.oid = reltablespace WHERE relname IN ('i', 'job_progress')", want),
			expect(t, db, fresh, "fresh true"))
	}
	// An index in the database's own tablespace has none in its row: it names none.
	plain := strings.Replace(config(one, "pg_default", "heap"), `, tablespace = "pg_default"`, "", 1)
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: plain, Check: remember},
			{Config: config(one, tablespace, "heap2"), ConfigPlanChecks: viewUpdates, Check: resource.ComposeAggregateTestCheckFunc(same, at(tablespace+" btree, "+tablespace+" heap2"))},
			{Config: config(one, tablespace, "heap2"), PlanOnly: true},
			{ // drift
				PreConfig: func() { db.Exec(t, "ALTER MATERIALIZED VIEW job_progress SET TABLESPACE pg_default") },
				Config:    config(one, tablespace, "heap2"), ConfigPlanChecks: viewUpdates, Check: same,
			},
			{Config: config(two, tablespace, "heap2"), ConfigPlanChecks: viewUpdates, Check: at(tablespace + " btree, " + tablespace + " heap2")},
			{Config: config(two, tablespace, "heap2"), PlanOnly: true},
			{Config: plain, ConfigPlanChecks: viewUpdates, Check: at("- btree, - heap")},
			{Config: plain, PlanOnly: true},
		},
	})
}
