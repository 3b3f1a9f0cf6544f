package provider

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// oddNames are names of relations, schemas, columns and indexes alike.
var oddNames = []string{
	"select", "user", "Capital", "with space", "with.dot", `with"quote`, "it's", "semi;colon", "--comment", `back\slash`, "$dollar", "${x}", "%I",
	"naïve", "日本語", "1digit", strings.Repeat("n", 63), strings.Repeat("é", 31),
}

// index is a name for an index, which shares its schema with the views.
func index(name string) string {
	for len(name) > 61 {
		name = string([]rune(name)[1:])
	}
	return name + " i"
}

// A view goes through its whole life under any name: created, planned again,
// altered, replaced, renamed, moved, imported, destroyed.
func TestAccViewNames(t *testing.T) {
	db := viewDatabase(t)
	installTables(t, db)
	for _, name := range oddNames {
		db.Exec(t, "CREATE SCHEMA "+postgres.QuoteIdent(name))
	}
	// Each is in a schema, with a column and an index, of its own name; renamed,
	// it has the name of its neighbour.
	config := func(renamed, comment, more string) string {
		var b strings.Builder
		b.WriteString(providerConfig(db))
		for i, name := range oddNames {
			relation := name
			if renamed != "" {
				relation = oddNames[(i+1)%len(oddNames)]
			}
			column := postgres.QuoteIdent(name)
			fmt.Fprintf(&b, "resource \"matview_view\" \"v%d\" {\n  name = %s\n  schema = %s\n  comment = %s\n  definition = %s\n  indexes = { %s = { keys = [%s], unique = true } }\n}\n",
				i, hcl(relation), hcl(name), hcl(comment+name), hcl("SELECT id AS "+column+more+" FROM jobs"), "("+hcl(index(name))+")", hcl(column+" DESC"))
		}
		return b.String()
	}
	var nothing, update []plancheck.PlanCheck
	for i := range oddNames {
		address := fmt.Sprintf("matview_view.v%d", i)
		nothing = append(nothing, plancheck.ExpectResourceAction(address, plancheck.ResourceActionNoop))
		update = append(update, plancheck.ExpectResourceAction(address, plancheck.ResourceActionUpdate))
	}
	all := fmt.Sprint(len(oddNames))
	const filled = "SELECT count(*) FROM materialized_view_freshness WHERE NOT is_stale AND is_populated"
	steps := []resource.TestStep{
		{Config: config("", "", ""), Check: expect(t, db, filled, all)},
		{Config: config("", "", ""), ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: nothing}},
		{Config: config("", "about ", ""), ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: update}},
		{Config: config("", "about ", ", name"), ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: update}, Check: expect(t, db, filled, all)},
		{Config: config("renamed", "about ", ", name"), ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: update}, Check: expect(t, db, filled, all)},
		{Config: config("renamed", "about ", ", name"), ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: nothing}},
	}
	for _, i := range []int{0, 4, 5, len(oddNames) - 1} {
		name := matview.Name{Schema: oddNames[i], Relation: oddNames[(i+1)%len(oddNames)]}
		steps = append(steps, resource.TestStep{
			ResourceName: fmt.Sprintf("matview_view.v%d", i), ImportState: true, ImportStateId: name.String(), ImportStateVerify: true,
			ImportStateVerifyIgnore: []string{"definition", "id", "indexes"}, // the server's words
		})
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders, Steps: steps,
	})
}
