package provider

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-testing/config"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// example is what the docs show for a thing of the provider.
func example(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile("../../examples/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

// The examples of the docs work as they are written, together, and each object
// can be imported as the docs say.
func TestAccExamples(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, `
CREATE TABLE jobs (job_id uuid PRIMARY KEY, status text);
CREATE TABLE job_objects (object_id bigint PRIMARY KEY, job_id uuid REFERENCES jobs, state text);
CREATE SCHEMA analytics;
CREATE MATERIALIZED VIEW analytics.daily_revenue AS SELECT current_date AS day, 0.0 AS revenue`)
	all := providerConfig(db)
	var imports []resource.TestStep
	shown := map[string]bool{}
	for _, kind := range []string{"resources", "data-sources"} {
		folders, err := os.ReadDir("../../examples/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, folder := range folders {
			name := folder.Name()
			shown[name] = true
			all += example(t, filepath.Join(kind, name, strings.TrimSuffix(kind, "s")+".tf"))
			if kind == "resources" {
				imports = append(imports, importSteps(t, example(t, filepath.Join(kind, name, "import.sh")))...)
			}
		}
	}
	for _, role := range []string{"matview_exporter", "grafana", "api"} {
		login, _ := db.Role(t, "")
		all = strings.ReplaceAll(all, `"`+role+`"`, `"`+login+`"`)
	}
	// The data sources are of views that are made beside them here.
	all = regexp.MustCompile(`(?m)^data "matview_.*\{$`).ReplaceAllString(all,
		"$0\n  depends_on = [matview_refresh_schedule.job_progress, matview_refresh_schedule.daily_revenue]")
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: append([]resource.TestStep{
			{Config: all},
			{Config: all, PlanOnly: true},
		}, append(imports, resource.TestStep{ // the example keeps the log from being destroyed
			Config: strings.Replace(all, `resource "matview_refresh_log" "this" {`, "resource \"matview_refresh_log\" \"this\" {\n  deletion_protection = false", 1),
		})...),
	})
	server, err := testAccProviders["matview"]()
	if err != nil {
		t.Fatal(err)
	}
	schema, err := server.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(slices.Collect(maps.Keys(schema.ResourceSchemas)), slices.Collect(maps.Keys(schema.DataSourceSchemas))...) {
		if !shown[name] {
			t.Errorf("the docs show no example of %s", name)
		}
	}
}

// importSteps run the commands of an import.sh whose objects the examples have.
func importSteps(t *testing.T, commands string) (steps []resource.TestStep) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?m)^terraform import (\S+) '?(.*?)'?$`).FindAllStringSubmatch(commands, -1) {
		if address, id := m[1], m[2]; strings.HasSuffix(address, ".this") || strings.HasSuffix(address, ".job_progress") {
			steps = append(steps, resource.TestStep{ResourceName: address, ImportState: true, ImportStateId: id})
		}
	}
	if len(steps) == 0 {
		t.Errorf("no import of an example in\n%s", commands)
	}
	return steps
}

func TestAccExampleOfProvider(t *testing.T) {
	// Which source the provider has is not the test's to say.
	text := regexp.MustCompile(`(?s)^terraform \{.*?\n\}\n`).ReplaceAllString(example(t, "provider/provider.tf"), "")
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{{
			Config:          text,
			ConfigVariables: config.Variables{"database_password": config.StringVariable("secret")},
			PlanOnly:        true, // nothing needs a connection
		}},
	})
}
