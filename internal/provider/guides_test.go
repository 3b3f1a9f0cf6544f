package provider

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

var (
	terraformBlock = regexp.MustCompile("(?s)\n```terraform\n(.*?\n)```\n")
	// How to connect is the test's to say.
	connection = regexp.MustCompile(`(?m)^(terraform|provider "matview") \{(\}|(?s:\n.*?)\n\})\n`)
	alias      = regexp.MustCompile(`(?m)^ +provider += matview\..*\n`)
)

// The configurations that the guides show are planned as they are written; those
// of a page are one configuration.
func TestAccGuides(t *testing.T) {
	pages, err := filepath.Glob("../../templates/guides/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("%v %v", pages, err)
	}
	for _, page := range pages {
		t.Run(filepath.Base(page), func(t *testing.T) {
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			var config string
			for _, block := range terraformBlock.FindAllStringSubmatch(string(text), -1) {
				config += block[1] + "\n"
			}
			if config == "" || strings.Contains(config, "module ") { // that one has a test of its own, in examples/cloudwatch-alarms
				return
			}
			db := postgrestest.New(t)
			db.Exec(t, "CREATE TABLE orders (id bigint PRIMARY KEY, day date NOT NULL, amount numeric NOT NULL)")
			if !strings.Contains(config, `matview_refresh_log" "`) {
				if err := migrations.Apply(t.Context(), db.Connect(t), "public"); err != nil {
					t.Fatal(err)
				}
			}
			if !strings.Contains(config, `matview_view" "`) || strings.Contains(config, "import {") {
				db.Exec(t, "CREATE MATERIALIZED VIEW revenue AS SELECT day, sum(amount) AS revenue FROM orders GROUP BY day; CREATE UNIQUE INDEX revenue_day ON revenue (day)")
			}
			for _, role := range []string{"matview_exporter", "grafana", "revenue_owner"} {
				login, _ := db.Role(t, "")
				config = strings.ReplaceAll(config, `"`+role+`"`, `"`+login+`"`)
			}
			config = alias.ReplaceAllString(connection.ReplaceAllString(config, ""), "")
			resource.Test(t, resource.TestCase{
				ProtoV6ProviderFactories: testAccProviders,
				Steps:                    []resource.TestStep{{Config: providerConfig(db) + config, PlanOnly: true, ExpectNonEmptyPlan: strings.Contains(config, "resource ")}},
			})
		})
	}
}
