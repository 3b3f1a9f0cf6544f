package provider

import (
	"fmt"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"
	"github.com/hashicorp/terraform-plugin-testing/tfjsonpath"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

func TestAccViews(t *testing.T) {
	db := jobDatabase(t)
	db.Exec(t, `
INSERT INTO materialized_view_refresh_log VALUES ('job_progress', now(), 920, 150, 1250000), ('gone.view', now(), 1, 1, 1);
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('job_progress', '1 hour')`)
	config := func(arguments string) string {
		return providerConfig(db) + fmt.Sprintf("data \"matview_views\" \"test\" {\n%s\n}\n", arguments)
	}
	const odd = `"My.Schema"."Odd ""view"", v1.0"`
	null, something := knownvalue.Null(), knownvalue.NotNull()
	job := knownvalue.ObjectPartial(map[string]knownvalue.Check{
		"view_name": knownvalue.StringExact("job_progress"), "schema_name": knownvalue.StringExact("public"), "is_stale": knownvalue.Bool(false),
		"refresh_duration_ms": knownvalue.Int64Exact(920), "last_refreshed_at": something, "stale_reason": null,
	})
	gone := knownvalue.ObjectPartial(map[string]knownvalue.Check{"stale_reason": knownvalue.StringExact("missing"), "schema_name": null})
	unasked := knownvalue.ObjectPartial(map[string]knownvalue.Check{"is_stale": null, "schema_name": knownvalue.StringExact("My.Schema")})
	step := func(arguments string, want map[string]knownvalue.Check) resource.TestStep {
		return resource.TestStep{Config: config(arguments), ConfigStateChecks: []statecheck.StateCheck{
			statecheck.ExpectKnownValue("data.matview_views.test", tfjsonpath.New("views"), knownvalue.MapExact(want)),
		}}
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			step("", map[string]knownvalue.Check{"job_progress": job, "gone.view": gone, odd: unasked}),
			step(`schema = "My.Schema"`, map[string]knownvalue.Check{odd: unasked}),
			step(`schema = "gone"`, map[string]knownvalue.Check{"gone.view": gone}),
			step(`only_stale = true`, map[string]knownvalue.Check{"gone.view": gone}),
			step("schema = \"public\"\nonly_stale = true", map[string]knownvalue.Check{}),
		},
	})
}

func TestAccViewsWithoutTables(t *testing.T) {
	db := postgrestest.New(t)
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{{
			Config:      providerConfig(db) + "data \"matview_views\" \"test\" {}\n",
			ExpectError: errorMessage(`Create a matview_refresh_log there first`),
		}},
	})
}
