package provider

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

const viewAddress = "matview_view.test"

func viewDatabase(t *testing.T) *postgrestest.Database {
	t.Helper()
	db := postgrestest.New(t)
	db.Exec(t, `CREATE TABLE jobs (id int PRIMARY KEY, name text, status text, created_at timestamptz DEFAULT now());
INSERT INTO jobs SELECT i, 'job ' || i, CASE WHEN i % 3 = 0 THEN 'failed' ELSE 'done' END FROM generate_series(1, 30) AS i`)
	return db
}

// viewConfig is a view with the body given.
func viewConfig(db *postgrestest.Database, body string) string {
	return providerConfig(db) + "resource \"matview_view\" \"test\" {\n" + body + "\n}\n"
}

func withDefinition(definition string) string {
	return fmt.Sprintf("  name = \"job_progress\"\n  definition = <<-SQL\n%s\n  SQL\n", definition)
}

var viewUpdates = planned(viewAddress, plancheck.ResourceActionUpdate)

// message matches parts of what Terraform says, in order.
func message(parts ...string) *regexp.Regexp {
	for i, part := range parts {
		// Terraform breaks lines, and frames them.
		words := strings.Fields(part)
		for j, w := range words {
			words[j] = regexp.QuoteMeta(w)
		}
		parts[i] = strings.Join(words, `[\s│]+`)
	}
	return regexp.MustCompile("(?s)" + strings.Join(parts, ".*"))
}

const jobProgress = `
    SELECT id AS job_id, name, status, created_at
    FROM jobs
    WHERE status <> 'deleted'`

func TestAccView(t *testing.T) {
	db := viewDatabase(t)
	indexed := withDefinition(jobProgress) + `
  comment = "one row a job"
  indexes = {
    job_progress_id      = { keys = ["job_id"], unique = true }
    job_progress_created = { keys = ["created_at DESC", "lower(name)"], where = "status = 'failed'", include = ["job_id"] }
  }`
	var oid string
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{
				Config: viewConfig(db, indexed),
				Check: resource.ComposeAggregateTestCheckFunc(
					resource.TestCheckResourceAttr(viewAddress, "id", "job_progress"),
					resource.TestCheckResourceAttr(viewAddress, "schema", "public"),
					resource.TestCheckResourceAttr(viewAddress, "owner", valueOf(t, db, "current_user")),
					resource.TestCheckResourceAttr(viewAddress, "supports_concurrent_refresh", "true"),
					resource.TestCheckResourceAttr(viewAddress, "output_columns.#", "4"),
					resource.TestCheckResourceAttr(viewAddress, "output_columns.0.name", "job_id"),
					resource.TestCheckResourceAttr(viewAddress, "output_columns.3.type", "timestamp with time zone"),
					resource.TestMatchResourceAttr(viewAddress, "canonical_definition", regexp.MustCompile(`(?s)FROM public\.jobs\b`)),
					expect(t, db, "SELECT count(*) FROM job_progress", "30"),
					expect(t, db, "obj_description('job_progress'::regclass)", "one row a job"),
					func(*terraform.State) error { oid = valueOf(t, db, "'job_progress'::regclass::oid"); return nil },
				),
			},
			{Config: viewConfig(db, indexed), PlanOnly: true},
			{ // another layout of definition and indexes
				Config: viewConfig(db, withDefinition("-- all jobs\nselect id job_id, name, jobs.status, created_at from public.jobs where (status != 'deleted');")+`
  comment = "one row a job"
  indexes = {
    job_progress_id      = { keys = ["\"job_id\""], unique = true, method = "btree" }
    job_progress_created = { keys = ["created_at desc nulls first", "LOWER( name )"], where = "(status) = 'failed'::text", include = ["job_id"] }
  }`),
				ConfigPlanChecks: noChanges,
			},
			{ // in place
				Config: viewConfig(db, withDefinition(jobProgress)+`
  comment = "changed"
  indexes = {
    job_progress_id   = { keys = ["job_id"] }
    job_progress_name = { keys = ["name text_pattern_ops"] }
  }`),
				ConfigPlanChecks: viewUpdates,
				Check: resource.ComposeAggregateTestCheckFunc(
					resource.TestCheckResourceAttr(viewAddress, "supports_concurrent_refresh", "false"),
					expect(t, db, "obj_description('job_progress'::regclass)", "changed"),
					expect(t, db, "SELECT string_agg(indexrelid::regclass || ' ' || indisunique, ', ' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid = 'job_progress'::regclass",
						"job_progress_id false, job_progress_name false"),
					func(*terraform.State) error {
						return expect(t, db, "'job_progress'::regclass::oid", oid)(nil)
					},
				),
			},
			{ // indexes no longer managed, and with_data: nothing happens to the view
				Config:           viewConfig(db, withDefinition(jobProgress)+"  comment = \"changed\"\n  with_data = false"),
				ConfigPlanChecks: viewUpdates,
				Check:            expect(t, db, "SELECT count(*) FROM pg_index WHERE indrelid = 'job_progress'::regclass", "2"),
			},
			{ // a definition of another meaning, from a view whose indexes are not managed
				Config:           viewConfig(db, withDefinition("SELECT id AS job_id, name, 'x' AS more FROM jobs")),
				ConfigPlanChecks: viewUpdates,
				Check: resource.ComposeAggregateTestCheckFunc(
					resource.TestCheckResourceAttr(viewAddress, "output_columns.#", "3"),
					expect(t, db, "SELECT count(more) FROM job_progress", "30"),
					expect(t, db, "SELECT count(*) FROM pg_index WHERE indrelid = 'job_progress'::regclass", "2"),
					expect(t, db, "obj_description('job_progress'::regclass)", "null"),
				),
			},
			{Config: viewConfig(db, withDefinition("SELECT id AS job_id, name, 'x' AS more FROM jobs")), PlanOnly: true},
			{
				Config:       viewConfig(db, withDefinition("SELECT id AS job_id, name, 'x' AS more FROM jobs")+"  indexes = {}"),
				ResourceName: viewAddress, ImportState: true, ImportStateVerify: true,
				// The server's words, and the indexes that it has.
				ImportStateVerifyIgnore: []string{"definition", "with_data", "indexes"},
			},
		},
	})
}

func TestAccViewRename(t *testing.T) {
	db := viewDatabase(t)
	installTables(t, db)
	db.Exec(t, `CREATE SCHEMA "my.schema"; CREATE ROLE matview_test_reader_`+db.Name+`; CREATE ROLE matview_test_owner_`+db.Name+`;
GRANT ALL ON SCHEMA public, "my.schema" TO matview_test_owner_`+db.Name+`; GRANT SELECT ON jobs TO matview_test_owner_`+db.Name)
	reader, owner := "matview_test_reader_"+db.Name, "matview_test_owner_"+db.Name
	t.Cleanup(func() {
		db.Exec(t, "DROP OWNED BY "+owner+" CASCADE; DROP OWNED BY "+reader+" CASCADE; DROP ROLE "+owner+", "+reader)
	})
	body := func(name, more string) string {
		return fmt.Sprintf("  name = %q\n  definition = \"SELECT id FROM jobs\"\n  indexes = { i = { keys = [\"id\"], unique = true } }\n%s", name, more)
	}
	fresh := func(view string) string {
		return "SELECT coalesce(stale_reason, 'fresh') || ' ' || (data_as_of IS NOT NULL) FROM materialized_view_freshness WHERE view_name = $q$" + view + "$q$"
	}
	const odd = `"my.schema"."Job ""progress"" é"`
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{
				Config: viewConfig(db, body("plain", "")),
				Check:  expect(t, db, fresh("plain"), "fresh true"),
			},
			{
				PreConfig:        func() { db.Exec(t, "GRANT SELECT ON plain TO "+reader) },
				Config:           viewConfig(db, body("plain", "")),
				ConfigPlanChecks: noChanges,
			},
			{ // GRANT changes the row in pg_class; a refresh would record it again
				PreConfig: func() {
					db.Exec(t, "UPDATE materialized_view_refresh_state SET view_xmin = (SELECT xmin FROM pg_class WHERE relname = 'plain')")
				},
				Config:           viewConfig(db, body(`Job "progress" é`, fmt.Sprintf("schema = \"my.schema\"\nowner = %q", owner))),
				ConfigPlanChecks: viewUpdates,
				Check: resource.ComposeAggregateTestCheckFunc(
					resource.TestCheckResourceAttr(viewAddress, "id", odd),
					resource.TestCheckResourceAttr(viewAddress, "owner", owner),
					expect(t, db, fresh(odd), "fresh true"),
					expect(t, db, "SELECT count(*) FROM materialized_view_refresh_log", "1"),
					expect(t, db, "SELECT count(*) FROM materialized_view_refresh_state", "1"),
				),
			},
			{ // by ID, and then by the same configuration: nothing to do
				ResourceName: viewAddress, ImportState: true, ImportStateId: odd, ImportStateVerify: true,
				ImportStateVerifyIgnore: []string{"definition"},
			},
			{ // privileges, owner and record go along with a new definition
				Config: viewConfig(db, strings.Replace(body("plain", fmt.Sprintf("owner = %q", owner)), "SELECT id", "SELECT id, name", 1)),
				Check: resource.ComposeAggregateTestCheckFunc(
					expect(t, db, fresh("plain"), "fresh true"),
					expect(t, db, "has_table_privilege('"+reader+"', 'plain', 'SELECT')", "true"),
					expect(t, db, "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'plain'", owner),
					expect(t, db, "SELECT count(*) FROM materialized_view_refresh_log", "1"),
					expect(t, db, "SELECT string_agg(trigger || ' ' || method, ', ' ORDER BY id) FROM materialized_view_refresh_history", "terraform create, terraform swap"),
				),
			},
		},
		CheckDestroy: resource.ComposeAggregateTestCheckFunc(
			expect(t, db, "SELECT (SELECT count(*) FROM materialized_view_refresh_log) + (SELECT count(*) FROM materialized_view_refresh_state)", "0"),
			expect(t, db, "SELECT count(*) > 0 FROM materialized_view_refresh_history", "true"),
		),
	})
}

func installTables(t *testing.T, db *postgrestest.Database) {
	t.Helper()
	if err := migrations.Apply(t.Context(), db.Connect(t), "public"); err != nil {
		t.Fatal(err)
	}
}

func TestAccViewDrift(t *testing.T) {
	db := viewDatabase(t)
	config := viewConfig(db, withDefinition("SELECT * FROM jobs")+`
  comment            = "jobs"
  storage_parameters = { fillfactor = "70" }
  owner              = "`+valueOf(t, db, "current_user")+`"
  indexes = { job_progress_id = { keys = ["id"], unique = true, include = ["status"] } }`)
	other := "matview_test_other_" + db.Name
	db.Exec(t, "CREATE ROLE "+other)
	t.Cleanup(func() { db.Exec(t, "DROP OWNED BY "+other+" CASCADE; DROP ROLE "+other) })
	steps := []resource.TestStep{{Config: config}}
	for _, drift := range []struct{ name, sql, check, want string }{
		{"comment", "COMMENT ON MATERIALIZED VIEW job_progress IS 'mine'", "obj_description('job_progress'::regclass)", "jobs"},
		{"owner", "GRANT CREATE ON SCHEMA public TO " + other + "; ALTER MATERIALIZED VIEW job_progress OWNER TO " + other, "SELECT pg_get_userbyid(relowner) = current_user FROM pg_class WHERE relname = 'job_progress'", "true"},
		{"index dropped", "DROP INDEX job_progress_id", "to_regclass('job_progress_id')", "job_progress_id"},
		{"index added", "CREATE INDEX more ON job_progress (name)", "to_regclass('more')", "null"},
		{"index changed", "DROP INDEX job_progress_id; CREATE INDEX job_progress_id ON job_progress (name)", "SELECT indisunique FROM pg_index WHERE indexrelid = 'job_progress_id'::regclass", "true"},
		{"index renamed", "ALTER INDEX job_progress_id RENAME TO renamed", "to_regclass('job_progress_id') || ' ' || coalesce(to_regclass('renamed')::text, '-')", "job_progress_id -"},
		{"comment dropped", "COMMENT ON MATERIALIZED VIEW job_progress IS NULL", "obj_description('job_progress'::regclass)", "jobs"},
		{"options set", "ALTER MATERIALIZED VIEW job_progress SET (fillfactor = 50, autovacuum_enabled = off)", "SELECT reloptions FROM pg_class WHERE relname = 'job_progress'", "{fillfactor=70}"},
		{"options reset", "ALTER MATERIALIZED VIEW job_progress RESET (fillfactor)", "SELECT reloptions FROM pg_class WHERE relname = 'job_progress'", "{fillfactor=70}"},
		{"unpopulated", "REFRESH MATERIALIZED VIEW job_progress WITH NO DATA", "SELECT count(*) FROM job_progress", "30"},
		{"definition", "DROP MATERIALIZED VIEW job_progress; CREATE MATERIALIZED VIEW job_progress AS SELECT id FROM jobs WHERE id < 5", "SELECT count(name) FROM job_progress", "30"},
		{"table grown", "ALTER TABLE jobs ADD COLUMN grown int DEFAULT 7", "SELECT sum(grown) FROM job_progress", "210"},
		{"column renamed", "ALTER TABLE jobs RENAME COLUMN grown TO grew", "SELECT sum(grew) FROM job_progress", "210"},
		{"the view's column renamed", "ALTER MATERIALIZED VIEW job_progress RENAME COLUMN status TO renamed", "SELECT pg_get_indexdef('job_progress_id'::regclass)", "CREATE UNIQUE INDEX job_progress_id ON public.job_progress USING btree (id) INCLUDE (status)"},
		{"the view's columns exchanged", "ALTER MATERIALIZED VIEW job_progress RENAME COLUMN id TO a; ALTER MATERIALIZED VIEW job_progress RENAME COLUMN name TO id; ALTER MATERIALIZED VIEW job_progress RENAME COLUMN a TO name", "SELECT indkey FROM pg_index WHERE indexrelid = 'job_progress_id'::regclass", "1 3"},
		{"dropped", "DROP MATERIALIZED VIEW job_progress", "SELECT count(*) FROM job_progress", "30"},
	} {
		steps = append(steps,
			resource.TestStep{
				PreConfig:        func() { db.Exec(t, drift.sql) },
				Config:           config,
				ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{plancheck.ExpectNonEmptyPlan()}},
				Check:            expect(t, db, drift.check, drift.want),
			},
			resource.TestStep{Config: config, ConfigPlanChecks: noChanges})
	}
	// What is no drift: the same in other words, as a restore or an upgrade leaves it.
	steps = append(steps, resource.TestStep{
		PreConfig: func() {
			db.Exec(t, `DROP MATERIALIZED VIEW job_progress; CREATE MATERIALIZED VIEW job_progress WITH (fillfactor = 70) AS TABLE jobs;
COMMENT ON MATERIALIZED VIEW job_progress IS 'jobs'; CREATE UNIQUE INDEX job_progress_id ON job_progress USING btree ("id" ASC) INCLUDE (status)`)
		},
		Config: config, ConfigPlanChecks: noChanges,
	})
	resource.Test(t, resource.TestCase{ProtoV6ProviderFactories: testAccProviders, Steps: steps})
}

func TestAccViewImport(t *testing.T) {
	db := viewDatabase(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW job_progress AS SELECT id, name FROM jobs; CREATE UNIQUE INDEX u ON job_progress (id DESC);
COMMENT ON MATERIALIZED VIEW job_progress IS 'old'`)
	const body = `
  name       = "job_progress"
  definition = "select id, name from jobs;"
  comment    = "old"
  indexes    = { u = { keys = ["id desc"], unique = true } }`
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{
				Config: viewConfig(db, body),
				ExpectError: message("Cannot create materialized view job_progress", "terraform import ADDRESS 'job_progress'",
					"import {", `id = "job_progress"`),
			},
			{
				Config:           viewConfig(db, body) + "import {\n  to = matview_view.test\n  id = \"public.job_progress\"\n}\n",
				ConfigPlanChecks: planned(viewAddress, plancheck.ResourceActionNoop),
			},
			{Config: viewConfig(db, body), PlanOnly: true},
			{
				Config:       viewConfig(db, body),
				ResourceName: viewAddress, ImportState: true, ImportStateId: "nowhere.job_progress",
				ExpectError: message("Cannot import non-existent remote object"),
			},
			{
				Config:       viewConfig(db, body),
				ResourceName: viewAddress, ImportState: true, ImportStateId: "public.jobs",
				ExpectError: message("Cannot import materialized view jobs", "The name is that of something else: table."),
			},
			{
				Config:       viewConfig(db, body),
				ResourceName: viewAddress, ImportState: true, ImportStateId: "a.b.c",
				ExpectError: message("has 3 parts, want name or schema.name"),
			},
		},
	})
}

func TestAccViewBadInput(t *testing.T) {
	db := viewDatabase(t)
	db.Exec(t, "CREATE TABLE job_table (id int)")
	for _, c := range []struct {
		name, body string
		want       *regexp.Regexp
	}{
		{"does not parse", withDefinition("    SELECT id\n    FORM jobs"), message(`syntax error at or near "jobs"`, "At line 2, column 6:", "FORM jobs")},
		{"no such column", withDefinition("    SELECT nme FROM jobs"), message(`column "nme" does not exist`, `Perhaps you meant to reference the column "jobs.name"`, "At line 1, column 8:")},
		{"duplicate column", withDefinition("SELECT id, id FROM jobs"), message(`column "id" is returned more than once`)},
		{"second statement", withDefinition("SELECT 1 AS a; DROP TABLE jobs"), message("holds more than one statement", "take out what follows its semicolon")},
		{"with no data", withDefinition("SELECT 1 AS a WITH NO DATA"), message(`syntax error at or near "WITH"`, "set with_data")},
		{"bad condition", withDefinition("SELECT id FROM jobs") + "  indexes = { i = { keys = [\"id\"], where = \"id > 0 AND nme = 'x'\" } }", message("Invalid index", `column "nme" does not exist`, "At line 1, column 12:", "id > 0 AND nme")},
		{"bad second key", withDefinition("SELECT id FROM jobs") + "  indexes = { i = { keys = [\"id\", \"lower(nme)\"] } }", message("Invalid index", `column "nme" does not exist`, "At line 1, column 7:", "lower(nme)")},
		{"missing table", withDefinition("SELECT id FROM jbs"), message("Cannot create materialized view job_progress", `relation "jbs" does not exist`, "At line 1, column 16:")},
		{"table of that name", "  name = \"job_table\"\n  definition = \"SELECT 1 AS a\"", message("A table of that name is there already")},
		{"no such schema", withDefinition("SELECT 1 AS a") + "  schema = \"nowhere\"", message(`schema "nowhere" does not exist`)},
		{"no such role", withDefinition("SELECT 1 AS a") + "  owner = \"nobody_there\"", message(`become role "nobody_there", which is to own the view`)},
		{"name too long", "  name = \"" + strings.Repeat("n", 64) + "\"\n  definition = \"SELECT 1 AS a\"", message("longer than the 63 bytes that PostgreSQL keeps")},
		{"null column name", withDefinition("SELECT id FROM jobs") + "  column_names = [null]", message("Null List Value", "column_names = [null]", "This attribute contains a null value.")},
		{"null key", withDefinition("SELECT id FROM jobs") + "  indexes = { i = { keys = [null] } }", message("Null List Value", "This attribute contains a null value.")},
		{"null included", withDefinition("SELECT id FROM jobs") + "  indexes = { i = { keys = [\"id\"], include = [null] } }", message("Null List Value", "This attribute contains a null value.")},
		{"null parameter", withDefinition("SELECT id FROM jobs") + "  storage_parameters = { fillfactor = null }", message("Null Map Value", "storage_parameters = { fillfactor = null }")},
		{"null parameter of an index", withDefinition("SELECT id FROM jobs") + "  indexes = { i = { keys = [\"id\"], storage_parameters = { fillfactor = null } } }", message("Null Map Value", "This attribute contains a null value.")},
		{"bad index key", withDefinition("SELECT id FROM jobs") + "  indexes = { i = { keys = [\"id desk\"] } }", message("Cannot create materialized view", `operator class "desk" does not exist`)},
		{"two keys in one", withDefinition("SELECT id FROM jobs") + "  indexes = { i = { keys = [\"id, id\"] } }", message("each of keys must be one key")},
		{"duplicate keys", withDefinition("SELECT status FROM jobs") + "  indexes = { i = { keys = [\"status\"], unique = true } }", message("could not create unique index")},
		{"division by zero", withDefinition("SELECT 1 / (id - id) AS a FROM jobs"), message("division by zero")},
	} {
		t.Run(c.name, func(t *testing.T) {
			resource.Test(t, resource.TestCase{
				ProtoV6ProviderFactories: testAccProviders,
				Steps:                    []resource.TestStep{{Config: viewConfig(db, c.body), ExpectError: c.want}},
			})
			if left := valueOf(t, db, "SELECT count(*) FROM pg_class WHERE relkind = 'm' OR relname LIKE 'matview\\_%'"); left != "0" {
				t.Errorf("%s relations are left behind", left)
			}
		})
	}
	if jobs := valueOf(t, db, "SELECT count(*) FROM jobs"); jobs != "30" {
		t.Errorf("%s jobs, want 30", jobs)
	}
}

// A view that came to read itself could neither be refreshed for what is new nor be
// dropped.
func TestAccViewReadsItself(t *testing.T) {
	db := viewDatabase(t)
	recreate := "  on_definition_change = \"recreate\""
	refused := func(definition, more string) resource.TestStep {
		return resource.TestStep{
			Config:      viewConfig(db, withDefinition(definition)+more),
			ExpectError: message("Invalid definition", "the definition of job_progress reads job_progress itself, or a view over it"), PlanOnly: true,
		}
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: viewConfig(db, withDefinition("SELECT id FROM jobs"))},
			refused("SELECT id FROM job_progress WHERE id > 1", ""),
			refused("SELECT id FROM job_progress WHERE id > 1", recreate),
			{
				PreConfig: func() {
					db.Exec(t, "CREATE VIEW over AS SELECT id FROM job_progress; CREATE VIEW above AS SELECT id FROM over")
				},
				Config: viewConfig(db, withDefinition("SELECT id FROM jobs")), ConfigPlanChecks: noChanges,
			},
			refused("SELECT id FROM jobs WHERE id IN (SELECT id FROM above)", ""),
			// What is read may be known only after the plan.
			{
				Config:      viewConfig(db, "  name = \"job_progress\"\n  definition = terraform_data.d.output") + "resource \"terraform_data\" \"d\" {\n  input = \"SELECT id FROM above\"\n}\n",
				ExpectError: message("reads job_progress itself, or a view over it"),
			},
			{PreConfig: func() { db.Exec(t, "DROP VIEW over CASCADE") }, Config: viewConfig(db, withDefinition("SELECT id FROM jobs"))},
		},
	})
}

// A failed change loses nothing.
func TestAccViewFailedChange(t *testing.T) {
	db := viewDatabase(t)
	good := withDefinition("SELECT id FROM jobs")
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: viewConfig(db, good)},
			{
				Config:      viewConfig(db, withDefinition("SELECT 1 / (id - 30) AS a FROM jobs")),
				ExpectError: message("Cannot change materialized view job_progress", "division by zero"),
			},
			{Config: viewConfig(db, good), ConfigPlanChecks: noChanges, Check: expect(t, db, "SELECT count(*) FROM job_progress", "30")},
			{ // an index on a column that would be gone
				Config:      viewConfig(db, good+"  indexes = { i = { keys = [\"job_id\"] } }"),
				ExpectError: message("Invalid index", `column "job_id" does not exist`),
			},
			{
				PreConfig:   func() { db.Exec(t, "CREATE VIEW over AS SELECT * FROM job_progress") },
				Config:      viewConfig(db, withDefinition("SELECT id, name FROM jobs")+"  on_definition_change = \"recreate\""),
				ExpectError: message("Materialized view job_progress cannot get a new definition", "view public.over"),
			},
			{
				Config:      providerConfig(db),
				ExpectError: message("Cannot destroy materialized view job_progress", "view public.over"),
			},
			{
				PreConfig: func() { db.Exec(t, "DROP VIEW over") },
				Config:    viewConfig(db, good), ConfigPlanChecks: noChanges,
			},
		},
	})
}

func TestAccViewWithoutData(t *testing.T) {
	db := viewDatabase(t)
	installTables(t, db)
	body := withDefinition("SELECT id FROM jobs; -- all of them") + "  with_data = false"
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{
				Config: viewConfig(db, body),
				Check: resource.ComposeAggregateTestCheckFunc(
					expect(t, db, "SELECT relispopulated FROM pg_class WHERE relname = 'job_progress'", "false"),
					expect(t, db, "SELECT count(*) FROM materialized_view_refresh_log", "0"),
				),
			},
			{Config: viewConfig(db, body), PlanOnly: true},
			{
				PreConfig: func() { db.Exec(t, "REFRESH MATERIALIZED VIEW job_progress") },
				Config:    viewConfig(db, body), ConfigPlanChecks: noChanges,
			},
		},
	})
}

// A plan does not wait for a refresh, nor take it for a change.
func TestAccViewLocked(t *testing.T) {
	db := viewDatabase(t)
	config := viewConfig(db, withDefinition("SELECT id FROM jobs")+"  indexes = { i = { keys = [\"lower(id::text)\"] } }")
	conn := db.Connect(t)
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config},
			{
				PreConfig: func() {
					if _, err := conn.Exec(t.Context(), "BEGIN; REFRESH MATERIALIZED VIEW job_progress"); err != nil {
						t.Fatal(err)
					}
				},
				Config: config, PlanOnly: true,
			},
			{ // changed text, also of an index, is compared without the view
				Config:   viewConfig(db, withDefinition("select id from jobs")+"  indexes = { i = { keys = [\"LOWER(id::text)\"] } }"),
				PlanOnly: true,
			},
			{
				PreConfig: func() {
					time.AfterFunc(2*time.Second, func() {
						_, _ = conn.Exec(context.Background(), "ROLLBACK") // an error would fail the destroy
					})
				},
				Config: viewConfig(db, withDefinition("SELECT id FROM jobs")+"  comment = \"waits for the refresh\""),
			},
		},
	})
}

// What the view reads is being refreshed: text of the same meaning, which every
// plan compares, is no error then and no change.
func TestAccViewUpstreamLocked(t *testing.T) {
	db := viewDatabase(t)
	db.Exec(t, "CREATE MATERIALIZED VIEW below AS SELECT id FROM jobs")
	relaid := viewConfig(db, withDefinition("select ID from BELOW"))
	// Only the server can tell what these mean, which it cannot while it is locked.
	reworded := viewConfig(db, withDefinition("SELECT below.id FROM public.below"))
	other := viewConfig(db, withDefinition("SELECT id FROM below WHERE id > 1")+"  timeouts = { update = \"5m\" }")
	const second = "resource \"matview_view\" \"second\" {\n  name = \"second\"\n  definition = \"SELECT id FROM below\"\n}\n"
	conn := db.Connect(t)
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: viewConfig(db, withDefinition("SELECT id FROM below"))},
			{Config: relaid, PlanOnly: true},
			{
				PreConfig: func() {
					if _, err := conn.Exec(t.Context(), "BEGIN; REFRESH MATERIALIZED VIEW below"); err != nil {
						t.Fatal(err)
					}
				},
				Config: relaid, PlanOnly: true,
			},
			{Config: reworded, PlanOnly: true},
			{Config: relaid + second, PlanOnly: true, ExpectNonEmptyPlan: true},
			{Config: other, ConfigPlanChecks: viewUpdates, Check: resource.TestCheckResourceAttr(viewAddress, "timeouts.update", "5m")},
			{
				PreConfig: func() {
					if _, err := conn.Exec(t.Context(), "ROLLBACK"); err != nil {
						t.Fatal(err)
					}
				},
				Config: other, ConfigPlanChecks: viewUpdates, Check: expect(t, db, "SELECT count(*) FROM job_progress", "29"),
			},
			{Config: other, PlanOnly: true},
		},
	})
}

// A plan cannot tell what a definition means that reads something which the same
// apply renames; it must not claim a rebuild, nor refuse one for its dependents.
func TestAccViewReadsWhatIsRenamed(t *testing.T) {
	db := viewDatabase(t)
	config := func(name string) string {
		return viewConfig(db, withDefinition("SELECT id FROM "+name)+"  depends_on = [matview_view.below]") + fmt.Sprintf(`
resource "matview_view" "below" {
  name       = %q
  definition = "SELECT id FROM jobs"
}
`, name)
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config("below")},
			{
				PreConfig: func() { db.Exec(t, "CREATE VIEW plain AS SELECT id FROM job_progress") },
				Config:    config("beneath"),
			},
			{Config: config("beneath"), PlanOnly: true},
			{PreConfig: func() { db.Exec(t, "DROP VIEW plain") }, Config: config("beneath")},
		},
	})
}
