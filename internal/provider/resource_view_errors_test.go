package provider

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// What is missing at plan may be created by the same apply, so it is no error
// yet; what is wrong stays wrong.
func TestPlanErrors(t *testing.T) {
	conn := viewDatabase(t).Connect(t)
	for _, c := range []struct {
		query    string
		severity diag.Severity
		detail   string
	}{
		{"SELECT id FROM jbs", diag.SeverityWarning, "relation \"jbs\" does not exist (SQLSTATE 42P01)\n\nAt line 1, column 16:\n  SELECT id FROM jbs\n                 ^"},
		{"SELECT id FROM nowhere.jobs", diag.SeverityWarning, `relation "nowhere.jobs" does not exist`},
		{"SELECT nowhere.f(id) FROM jobs", diag.SeverityWarning, `schema "nowhere" does not exist (SQLSTATE 3F000)`},
		{"SELECT f(id) FROM jobs", diag.SeverityWarning, "function f(integer) does not exist"},
		{"SELECT id::mood FROM jobs", diag.SeverityWarning, `type "mood" does not exist`},
		// Only the query itself can name an alias or a window.
		{"SELECT o.id FROM jobs AS j", diag.SeverityError, `missing FROM-clause entry for table "o" (SQLSTATE 42P01)`},
		{"SELECT jobs.id FROM jobs AS j", diag.SeverityError, `invalid reference to FROM-clause entry for table "jobs"`},
		{"SELECT count(*) OVER w AS n FROM jobs", diag.SeverityError, `window "w" does not exist (SQLSTATE 42704)`},
		{"SELECT count(*) OVER (w ORDER BY id) AS n FROM jobs", diag.SeverityError, `window "w" does not exist`},
		{"\ufeffSELECT id FROM jobs", diag.SeverityError, "syntax error at or near \"\ufeffSELECT\" (SQLSTATE 42601)\nHint: The definition begins with a byte order mark"},
		{"SELECT nme FROM jobs", diag.SeverityError, `column "nme" does not exist`},
		{"SELECT id FORM jobs", diag.SeverityError, `syntax error at or near "jobs"`},
		{"CREATE MATERIALIZED VIEW v AS SELECT id FROM jobs", diag.SeverityError, "it is not a query that returns columns (SQLSTATE 42601)\nHint: Write the query alone"},
	} {
		_, err := matview.Normalize(t.Context(), conn, c.query)
		var diags diag.Diagnostics
		addPlanError(&diags, "Invalid definition", err)
		if len(diags) != 1 || diags[0].Severity() != c.severity || !strings.HasPrefix(diags[0].Detail(), c.detail) {
			t.Errorf("%s: %v, want one of severity %s with %q", c.query, diags, c.severity, c.detail)
			continue
		}
		if on, ok := diags[0].(diag.DiagnosticWithPath); !ok || !on.Path().Equal(path.Root("definition")) {
			t.Errorf("%s: the diagnostic is not on definition", c.query)
		}
	}
}

// What goes wrong at apply says what to do about it, where the server does not.
func TestAccViewRemedies(t *testing.T) {
	db := viewDatabase(t)
	owner, _ := db.Role(t, "")
	db.Exec(t, "GRANT CREATE ON SCHEMA public TO "+owner)
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{
				Config:      viewConfig(db, withDefinition("SELECT id FROM jobs")+fmt.Sprintf("  owner = %q", owner)),
				ExpectError: message(`permission denied for table jobs (SQLSTATE 42501) This runs with the rights of the view's owner, "` + owner + `". Grant it what it lacks: GRANT SELECT ON jobs TO "` + owner + `".`),
			},
			{
				Config:      viewConfig(db, withDefinition("SELECT id FROM jobs")+`  indexes = { jobs_pkey = { keys = ["id"] } }`),
				ExpectError: message("Choose another name for the index"),
			},
			{
				Config:      viewConfig(db, withDefinition("SELECT id FROM jobs")+`  schema = "nowhere"`),
				ExpectError: message("This provider creates no schema for a view"),
			},
			{Config: viewConfig(db, withDefinition("SELECT id FROM jobs"))},
			{
				Config:      viewConfig(db, withDefinition("SELECT id FROM jobs")+`  schema = "nowhere"`),
				ExpectError: message("This provider creates no schema for a view"),
			},
			{ // and while a view is replaced
				PreConfig:   func() { db.Exec(t, "ALTER MATERIALIZED VIEW job_progress OWNER TO "+owner) },
				Config:      viewConfig(db, withDefinition("SELECT name FROM jobs")),
				ExpectError: message("This runs with the rights of the view's owner"),
			},
			{
				PreConfig: func() {
					db.Exec(t, "GRANT SELECT ON jobs TO "+owner+"; ALTER DATABASE "+db.Name+" SET statement_timeout = '3s'")
				},
				Config:      viewConfig(db, withDefinition("SELECT name FROM jobs, pg_sleep(20)")),
				ExpectError: message("canceling statement due to statement timeout", "ALTER ROLE … SET statement_timeout = 0"),
			},
		},
	})
}

// What it says to do can be done as it stands.
func TestExistsDetail(t *testing.T) {
	got := existsDetail(&matview.ExistsError{Name: matview.Name{Schema: "it's", Relation: "a \"${b}\" %{c} \\ \t"}, Kind: materializedView})
	for _, want := range []string{
		"terraform import ADDRESS '\"it'\\''s\".\"a \"\"${b}\"\" %{c} \\ \t\"'\n",
		`id = "\"it's\".\"a \"\"$${b}\"\" %%{c} \\ \t\""` + "\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}
