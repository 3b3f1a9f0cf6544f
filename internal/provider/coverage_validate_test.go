package provider

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/jackc/pgx/v5"
)

// terraform validate needs no database: each resource, with every attribute there
// is, and each data source pass it where there is none, and what is wrong by itself
// is found.
func TestAccValidateWithoutDatabase(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	c := &coverage{attributes: schemaAttributes(t), cases: map[string]attributeCase{}}
	for key, a := range attributeCases() {
		for _, text := range []*string{&a.base, &a.as, &a.a} {
			*text = strings.ReplaceAll(*text, "NAME", objectName(key))
		}
		c.cases[key] = a
	}
	resources := `
terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}

provider "matview" {
  host = "nowhere.invalid"
}
` + c.resources(phase{value: "a"}) + oneOfEach("one")
	w := newWorkspace(t, "postgres://nobody@nowhere.invalid/none", resources)
	if out := w.run(t, "validate"); !strings.Contains(out, "Success!") {
		t.Errorf("validate says\n%s", out)
	}
	w.write(t, resources+`
resource "matview_refresh_schedule" "wrong" {
  view = "a.b.c"
  cron = "* * *"
}

resource "matview_view" "wrong" {
  name       = ""
  definition = "SELECT 1"
}

resource "matview_refresh_log" "wrong" {
  history_retention = "0s"
}

data "matview_freshness" "wrong" {
  view = "a.b.c"
}

data "matview_views" "wrong" {
  schema = ""
}
`)
	out, err := w.try(t.Context(), "validate")
	if err == nil {
		t.Error("validate passes what is wrong")
	}
	for _, want := range []string{"it has 3 fields instead of the five", "a name cannot be empty", `"0s" must be at least`, "Invalid schema name", "on main.tf line"} {
		if !errorMessage(want).MatchString(out) {
			t.Errorf("validate does not say %q\n%s", want, out)
		}
	}
	if n := strings.Count(out, "has 3 parts"); n != 2 {
		t.Errorf("%d of 2 wrong names are found\n%s", n, out)
	}
}

// Each of the timeouts ends what it is for, and nothing is changed.
func TestAccViewTimeouts(t *testing.T) {
	db := viewDatabase(t)
	const slow, quick = "SELECT id, pg_sleep(600)::text AS slept FROM jobs", "SELECT id FROM jobs"
	view := func(definition, operation, timeout string) string {
		return viewConfig(db, withDefinition(definition)+fmt.Sprintf("  timeouts = { %s = %q }", operation, timeout))
	}
	conn := db.Connect(t)
	var reader pgx.Tx
	took := message("It took longer than the timeout set in timeouts. Nothing was changed.")
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: view(slow, "create", "500ms"), ExpectError: took},
			{
				PreConfig: func() {
					if got := valueOf(t, db, "SELECT count(*) FROM pg_class WHERE relkind = 'm'"); got != "0" {
						t.Errorf("%s views are left", got)
					}
				},
				Config: view(quick, "update", "500ms"),
			},
			{Config: view(slow, "update", "500ms"), ExpectError: took},
			{Config: view(quick, "delete", "500ms"), Check: expect(t, db, "SELECT count(id) FROM job_progress", "30")},
			{
				PreConfig: func() {
					var err error
					if reader, err = conn.Begin(t.Context()); err == nil {
						_, err = reader.Exec(t.Context(), "SELECT FROM job_progress")
					}
					if err != nil {
						t.Fatal(err)
					}
				},
				Config: providerConfig(db), ExpectError: took,
			},
			{
				PreConfig: func() {
					if err := reader.Rollback(t.Context()); err != nil {
						t.Fatal(err)
					}
				},
				Config: view(quick, "delete", "5m"), Check: expect(t, db, "SELECT count(id) FROM job_progress", "30"),
			},
		},
	})
}
