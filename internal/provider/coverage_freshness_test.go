package provider

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/terraform"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// freshnessStates are two states of one view, the second behind Terraform's back,
// and one of another: every column of materialized_view_freshness differs in them.
var freshnessStates = []string{
	`INSERT INTO materialized_view_refresh_log VALUES ('job_progress', now() - interval '1 day', 920, 150, 1250000);
INSERT INTO materialized_view_refresh_schedule (view_name, every, max_staleness) VALUES ('job_progress', '5 minutes', '30 days');
INSERT INTO materialized_view_refresh_state (view_name, next_run_at, consecutive_failures, last_attempt_at, last_outcome, last_error, size_bytes)
VALUES ('job_progress', now() + interval '1 hour', 2, now() - interval '1 minute', 'failed', 'no space', 8192)`,
	`UPDATE materialized_view_refresh_log SET last_refreshed_at = now() - interval '2 days', refresh_duration_ms = 5920, total_jobs = 151, total_objects = 1250001;
UPDATE materialized_view_refresh_schedule SET max_staleness = '1 hour', enabled = false;
UPDATE materialized_view_refresh_state SET next_run_at = NULL, consecutive_failures = 3, last_attempt_at = now(), last_outcome = 'succeeded', last_error = NULL, size_bytes = 16384;
INSERT INTO materialized_view_refresh_history (view_name, trigger, method, outcome, started_at, attempted_by, heartbeat_at) VALUES ('job_progress', 'schedule', 'blocking', 'running', now(), 'test', now() + interval '6 seconds')`,
	"", // of another view, about which nobody asked
}

// Every column of the data sources is what materialized_view_freshness says, also
// after that has changed; the columns are those that the schema has.
func TestAccFreshnessColumns(t *testing.T) {
	db := jobDatabase(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW "My.Schema".empty AS SELECT 1 AS x WITH NO DATA`)
	views := []string{"job_progress", "job_progress", `"My.Schema".empty`}
	seen := map[string]map[string]bool{} // by column
	var steps []resource.TestStep
	for i, change := range freshnessStates {
		config := freshnessConfig(db, views[i]) + "data \"matview_views\" \"test\" {}\n"
		steps = append(steps, resource.TestStep{
			PreConfig: func() {
				if change != "" {
					db.Exec(t, change)
				}
			},
			Config: config,
			Check: func(s *terraform.State) error {
				compareFreshness(t, db, views[i], s.RootModule().Resources, seen)
				return nil
			},
		})
	}
	resource.Test(t, resource.TestCase{ProtoV6ProviderFactories: testAccProviders, Steps: steps})
	for name, a := range schemaAttributes(t) {
		column, ok := strings.CutPrefix(name, "data.matview_freshness.")
		if ok && a.Computed && len(seen[column]) < 2 {
			t.Errorf("%s had no two values: %v", column, seen[column])
		}
	}
}

// growing are the columns that time changes: what Terraform read is less than what
// the next statement says.
var growing = []string{"staleness_seconds", "seconds_since_refresh", "data_age"}

func compareFreshness(t *testing.T, db *postgrestest.Database, view string, resources map[string]*terraform.ResourceState, seen map[string]map[string]bool) {
	t.Helper()
	single, all := resources[freshnessData].Primary.Attributes, resources["data.matview_views.test"].Primary.Attributes
	rows, err := db.Connect(t).Query(t.Context(), "SELECT key, value FROM materialized_view_freshness AS f, jsonb_each_text(to_jsonb(f)) WHERE view_name = $1", view)
	if err != nil {
		t.Fatal(err)
	}
	says := map[string]*string{}
	var column string
	var value *string
	if _, err := pgx.ForEachRow(rows, []any{&column, &value}, func() error { says[column] = value; return nil }); err != nil {
		t.Fatal(err)
	}
	for name, a := range schemaAttributes(t) {
		column, ok := strings.CutPrefix(name, "data.matview_freshness.")
		if !ok || !a.Computed {
			continue
		}
		value, ok := says[column]
		if !ok {
			t.Errorf("materialized_view_freshness has no %s", column)
		}
		want := "null"
		if value != nil {
			want = *value
			if at, err := time.Parse(time.RFC3339Nano, want); err == nil {
				want = timestamp(&at).ValueString()
			}
		}
		if seen[column] == nil {
			seen[column] = map[string]bool{}
		}
		seen[column][want] = true
		for _, got := range []string{textOr(single, column), textOr(all, "views."+view+"."+column)} {
			if grows := slices.Contains(growing, column); grows && (got == "null") != (want == "null") || !grows && got != want {
				t.Errorf("%s of %s is %s, and materialized_view_freshness says %s", column, view, got, want)
			}
		}
	}
}

// textOr is an attribute of a state, or null.
func textOr(attributes map[string]string, name string) string {
	if value, ok := attributes[name]; ok {
		return value
	}
	return "null"
}

// The arguments of the data sources: set, changed, left out, and unknown at plan.
func TestAccDataSourceAttributes(t *testing.T) {
	db := jobDatabase(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW "My.Schema".other AS SELECT 1 AS x; INSERT INTO materialized_view_refresh_log VALUES ('gone', now(), 1, 1, 1)`)
	const all = "data.matview_views.test"
	config := func(value, view, arguments string) string {
		return providerConfig(db) + fmt.Sprintf(`
resource "terraform_data" "value" {
  input = { view = %q, schema = "My.Schema", only_stale = true }
}
data "matview_freshness" "test" {
  view = %s
}
data "matview_views" "test" {
  %s
}
`, value, view, arguments)
	}
	const unknown = "terraform_data.value.output."
	reads := func(view, count string) resource.TestCheckFunc {
		return resource.ComposeAggregateTestCheckFunc(
			resource.TestCheckResourceAttr(freshnessData, "view_name", view), resource.TestCheckResourceAttr(all, "views.%", count))
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config("job_progress", unknown+"view", "schema = "+unknown+"schema"), Check: reads("job_progress", "2")},
			{Config: config("job_progress", `"\"My.Schema\".other"`, `schema = "public"`), Check: reads(`"My.Schema".other`, "2")}, // gone counts
			{Config: config("My.Schema.other", unknown+"view", "only_stale = "+unknown+"only_stale"), ExpectError: errorMessage("has 3 parts")},
			{Config: config("gone", unknown+"view", "only_stale = "+unknown+"only_stale"), Check: reads("gone", "1")},
			{Config: config("gone", `"job_progress"`, "only_stale = false"), Check: reads("job_progress", "4")},
			{Config: config("gone", `"public.job_progress"`, ""), Check: reads("job_progress", "4")},
		},
	})
}

// The list resource's argument at the protocol, which is all that a Terraform
// before 1.14 has of it; nothing is unknown in a query.
func TestListViewsAttributes(t *testing.T) {
	db := jobDatabase(t)
	s := configured(t, db.URL())
	count := func(schema any) (n int) {
		stream, err := s.ListResource(t.Context(), &tfprotov6.ListResourceRequest{TypeName: "matview_view", Config: textConfig(t, map[string]any{"schema": schema}), Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		for result := range stream.Results {
			for _, d := range result.Diagnostics {
				t.Errorf("%s: %s", d.Summary, d.Detail)
			}
			n++
		}
		return n
	}
	for _, c := range []struct {
		behind string
		schema any
		want   int
	}{
		{"", "public", 1},
		{"", "My.Schema", 1},
		{"", nil, 2},
		{`CREATE MATERIALIZED VIEW "My.Schema".other AS SELECT 1 AS x`, "My.Schema", 2},
		{`ALTER MATERIALIZED VIEW "My.Schema".other SET SCHEMA public`, "My.Schema", 1},
	} {
		if c.behind != "" {
			db.Exec(t, c.behind)
			s = configured(t, db.URL()) // another run of terraform
		}
		if got := count(c.schema); got != c.want {
			t.Errorf("schema %v: %d views, want %d", c.schema, got, c.want)
		}
	}
}

// The action's arguments: set, changed, left out, and unknown at plan, which
// refreshes nothing. An action has no state that could drift.
func TestRefreshActionAttributes(t *testing.T) {
	db := jobDatabase(t)
	s := configured(t, db.URL())
	last := func() string {
		return valueOf(t, db, "SELECT view_name || ' ' || method FROM materialized_view_refresh_history ORDER BY id DESC LIMIT 1")
	}
	for _, c := range []struct {
		view   string
		method any
		want   string
	}{
		{"job_progress", "swap", "job_progress swap"},
		{"job_progress", "blocking", "job_progress blocking"},
		{`"My.Schema"."Odd ""view"", v1.0"`, "blocking", `"My.Schema"."Odd ""view"", v1.0" blocking`},
	} {
		if _, diagnostics := invoke(t, s, c.view, c.method); len(diagnostics) > 0 || last() != c.want {
			t.Errorf("%s, %v: %v, recorded %s", c.view, c.method, diagnostics, last())
		}
	}
	// Left out, it is the schedule's.
	db.Exec(t, "INSERT INTO materialized_view_refresh_schedule (view_name, every, method) VALUES ('job_progress', '1 hour', 'swap')")
	if _, diagnostics := invoke(t, s, "job_progress", nil); len(diagnostics) > 0 || last() != "job_progress swap" {
		t.Errorf("without method: %v, recorded %s", diagnostics, last())
	}
	before := valueOf(t, db, "SELECT count(*) FROM materialized_view_refresh_history")
	for _, config := range []map[string]any{
		{"view": tftypes.UnknownValue, "method": tftypes.UnknownValue},
		{"view": "job_progress", "method": tftypes.UnknownValue},
		{"view": tftypes.UnknownValue, "method": nil},
	} {
		validated, err := s.ValidateActionConfig(t.Context(), &tfprotov6.ValidateActionConfigRequest{ActionType: "matview_refresh", Config: textConfig(t, config)})
		if err != nil || len(validated.Diagnostics) > 0 {
			t.Errorf("validate %v: %v, %v", config, validated, err)
		}
		planned, err := s.PlanAction(t.Context(), &tfprotov6.PlanActionRequest{ActionType: "matview_refresh", Config: textConfig(t, config)})
		if err != nil || len(planned.Diagnostics) > 0 {
			t.Errorf("plan %v: %v, %v", config, planned, err)
		}
	}
	if after := valueOf(t, db, "SELECT count(*) FROM materialized_view_refresh_history"); after != before {
		t.Errorf("planning refreshed: %s attempts, before %s", after, before)
	}
}
