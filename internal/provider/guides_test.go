package provider

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

var (
	terraformBlock = regexp.MustCompile("(?s)\n```terraform\n(.*?\n)```\n")
	// How to connect is the test's to say.
	connection = regexp.MustCompile(`(?m)^(terraform|provider "matview") \{(\}|(?s:\n.*?)\n\})\n`)
	// What is in another database.
	aliased = regexp.MustCompile(`(?m)^resource .*\{\n +provider += matview\.(?s:.*?\n)\}\n`)
)

// The configurations that the guides show are applied as they are written, and
// are empty plans after; those of a page are one configuration.
func TestAccGuides(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("TF_ACC is not set")
	}
	pages, err := filepath.Glob("../../templates/guides/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("%v %v", pages, err)
	}
	built := newWorkspace(t, postgrestest.New(t).URL(), "")
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
				db.Exec(t, "GRANT CREATE ON SCHEMA public TO "+login+"; GRANT SELECT ON orders TO "+login)
				config = strings.ReplaceAll(config, `"`+role+`"`, `"`+login+`"`)
			}
			config = connection.ReplaceAllString(aliased.ReplaceAllString(config, ""), "")
			w := built.beside(t, workspaceProvider+config)
			w.env = append(w.env, "PGDATABASE="+db.Name)
			w.run(t, "apply", "-auto-approve")
			w.plan(t)
		})
	}
}
