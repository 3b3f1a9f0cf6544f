package provider

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/go-version"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// The examples of what only a newer Terraform has. What the provider is asked of
// them is tested by its protocol with any Terraform, and the rest with one that has it.

const (
	actionExample = "actions/matview_refresh/action.tf"
	listExample   = "list-resources/matview_view/list-resource.tfquery.hcl"
)

// configBlocks are the values of each config block of a file, by the type of what it
// configures.
func configBlocks(t *testing.T, path string) (all []map[string]any, types []string) {
	t.Helper()
	file, diags := hclparse.NewParser().ParseHCL([]byte(example(t, path)), path)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	for _, outer := range file.Body.(*hclsyntax.Body).Blocks {
		for _, inner := range outer.Body.Blocks {
			if inner.Type != "config" {
				continue
			}
			values := map[string]any{}
			for name, attribute := range inner.Body.Attributes {
				value, diags := attribute.Expr.Value(nil)
				if diags.HasErrors() {
					t.Fatal(diags)
				}
				values[name] = value.AsString()
			}
			all, types = append(all, values), append(types, outer.Labels[0])
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s has no config block", path)
	}
	return all, types
}

func TestExamplesOfNewerTerraform(t *testing.T) {
	s := configured(t, postgrestest.New(t).URL())
	configs, types := configBlocks(t, actionExample)
	for i, c := range configs {
		for _, optional := range []string{"method"} {
			if _, ok := c[optional]; !ok {
				c[optional] = nil
			}
		}
		resp, err := s.ValidateActionConfig(t.Context(), &tfprotov6.ValidateActionConfigRequest{ActionType: types[i], Config: textConfig(t, c)})
		if err == nil {
			err = failed(resp.Diagnostics)
		}
		if err != nil {
			t.Errorf("%s: %v", actionExample, err)
		}
	}
	configs, types = configBlocks(t, listExample)
	for i, c := range configs {
		resp, err := s.ValidateListResourceConfig(t.Context(), &tfprotov6.ValidateListResourceConfigRequest{TypeName: types[i], Config: textConfig(t, c)})
		if err == nil {
			err = failed(resp.Diagnostics)
		}
		if err != nil {
			t.Errorf("%s: %v", listExample, err)
		}
	}
}

// cliHas tells whether the CLI that the tests run is Terraform of a version or later;
// OpenTofu has none of what is asked for here.
func (w workspace) cliHas(t *testing.T, oldest string) bool {
	t.Helper()
	var found struct {
		Version string `json:"terraform_version"`
	}
	out := w.run(t, "version", "-json")
	if err := json.Unmarshal([]byte(out[strings.Index(out, "{"):strings.LastIndex(out, "}")+1]), &found); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return !strings.HasPrefix(w.run(t, "version"), "OpenTofu") && version.Must(version.NewVersion(found.Version)).Core().GreaterThanOrEqual(version.Must(version.NewVersion(oldest)))
}

// The imports that the docs show find what is there, by import blocks of every kind,
// and the actions and lists are planned where the CLI has them.
func TestAccExamplesOfImports(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	db := postgrestest.New(t)
	db.Exec(t, `
CREATE TABLE jobs (job_id uuid PRIMARY KEY, status text);
CREATE TABLE job_objects (object_id bigint PRIMARY KEY, job_id uuid REFERENCES jobs, state text);
CREATE SCHEMA analytics;
CREATE MATERIALIZED VIEW analytics.daily_revenue AS SELECT current_date AS day, 0.0 AS revenue;
CREATE SCHEMA "My Schema";
CREATE MATERIALIZED VIEW "My Schema"."odd.name" AS SELECT 1 AS x`)
	resources, byID := workspaceProvider, ""
	for _, name := range []string{"matview_refresh_log", "matview_view", "matview_refresh_schedule"} {
		resources += example(t, filepath.Join("resources", name, "resource.tf"))
		byID += example(t, filepath.Join("resources", name, "import-by-string-id.tf"))
	}
	for _, role := range []string{"matview_exporter", "grafana", "api"} {
		login, _ := db.Role(t, "")
		resources = strings.ReplaceAll(resources, `"`+role+`"`, `"`+login+`"`)
	}
	w := newWorkspace(t, db.URL(), resources)
	w.run(t, "apply", "-auto-approve")
	// Another state knows of nothing: the second schedule, which no example imports, is one
	// to add, and the roles of the log, which an import does not tell, are a change.
	planned := func(config, want string) {
		t.Helper()
		if out := w.beside(t, config).run(t, "plan"); !strings.Contains(out, "Plan: "+want) {
			t.Errorf("the plan is not %s:\n%s", want, out)
		}
	}
	planned(resources+byID, "3 to import, 1 to add, 1 to change, 0 to destroy.")
	if w.cliHas(t, "1.12.0") {
		byIdentity := example(t, "resources/matview_view/import-by-identity.tf")
		odd := "resource \"matview_view\" \"odd\" {\n  schema = \"My Schema\"\n  name = \"odd.name\"\n  definition = \"SELECT 1 AS x\"\n}\n"
		views := workspaceProvider + example(t, "resources/matview_view/resource.tf") + odd
		planned(views+byIdentity, "2 to import, 0 to add, 0 to change, 0 to destroy.")
	}
	if !w.cliHas(t, "1.14.0") {
		return
	}
	action := w.beside(t, workspaceProvider+example(t, actionExample))
	if err := os.WriteFile(filepath.Join(action.dir, "backfill.sql"), []byte("SELECT 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"plan"}, {"apply", "-auto-approve"}, {"apply", "-auto-approve", "-invoke=action.matview_refresh.job_progress"}} {
		action.run(t, args...)
	}
	if got := valueOf(t, db, "SELECT count(*) FROM materialized_view_refresh_history WHERE trigger = 'terraform' AND attempted_by = 'terraform' AND method <> 'create' AND outcome = 'succeeded'"); got != "2" {
		t.Errorf("%s refreshes by the action are recorded, want 2", got)
	}
	list := w.beside(t, workspaceProvider)
	if err := os.WriteFile(filepath.Join(list.dir, "views.tfquery.hcl"), []byte(example(t, listExample)), 0o600); err != nil {
		t.Fatal(err)
	}
	comment := regexp.MustCompile(`(?m)^# terraform (query .*)$`).FindStringSubmatch(example(t, listExample))
	if comment == nil {
		t.Fatal("the example of a list says no command")
	}
	if out := list.run(t, strings.Fields(comment[1])...); !strings.Contains(out, "daily_revenue") {
		t.Errorf("it lists:\n%s", out)
	}
	written, err := os.ReadFile(filepath.Join(list.dir, "views.tf"))
	if err != nil {
		t.Fatal(err)
	}
	list.write(t, workspaceProvider+string(written))
	if err := os.Remove(filepath.Join(list.dir, "views.tf")); err != nil {
		t.Fatal(err)
	}
	if out := list.run(t, "plan"); !strings.Contains(out, "Plan: 1 to import, 0 to add, 0 to change, 0 to destroy.") {
		t.Errorf("what it has written plans:\n%s\n%s", out, written)
	}
}
