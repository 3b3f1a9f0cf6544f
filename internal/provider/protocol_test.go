package provider

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/querycheck"
	"github.com/hashicorp/terraform-plugin-testing/tfversion"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// What Terraform has only had since 1.14 is tested by its protocol, so that it is
// with whatever Terraform there is, and with a Terraform that has it.

func textConfig(t *testing.T, values map[string]any) *tfprotov6.DynamicValue {
	t.Helper()
	typ := tftypes.Object{AttributeTypes: map[string]tftypes.Type{}}
	attributes := map[string]tftypes.Value{}
	for name, value := range values {
		typ.AttributeTypes[name] = tftypes.String
		attributes[name] = tftypes.NewValue(tftypes.String, value)
	}
	config, err := tfprotov6.NewDynamicValue(typ, tftypes.NewValue(typ, attributes))
	if err != nil {
		t.Fatal(err)
	}
	return &config
}

// invoke runs the action and returns what it says.
func invoke(t *testing.T, s *server, view string, method any) (progress []string, diagnostics []*tfprotov6.Diagnostic) {
	t.Helper()
	stream, err := s.InvokeAction(t.Context(), &tfprotov6.InvokeActionRequest{ActionType: "matview_refresh", Config: textConfig(t, map[string]any{"view": view, "method": method})})
	if err != nil {
		t.Fatal(err)
	}
	for event := range stream.Events {
		switch e := event.Type.(type) {
		case tfprotov6.ProgressInvokeActionEventType:
			progress = append(progress, e.Message)
		case tfprotov6.CompletedInvokeActionEventType:
			diagnostics = append(diagnostics, e.Diagnostics...)
		}
	}
	return progress, diagnostics
}

func TestRefreshAction(t *testing.T) {
	db := jobDatabase(t)
	db.Exec(t, `
CREATE MATERIALIZED VIEW empty AS SELECT job_id FROM jobs WITH NO DATA;
INSERT INTO jobs VALUES ('a', 3), ('b', 4);
INSERT INTO materialized_view_refresh_schedule (view_name, every, method, skip_unchanged, total_jobs, total_objects)
VALUES ('job_progress', '1 hour', 'swap', true, 'count(*)', '1 / 0')`)
	s := configured(t, db.URL())
	progress, diagnostics := invoke(t, s, "public.job_progress", nil)
	if len(progress) != 2 || !strings.Contains(progress[1], "Refreshed job_progress in ") || !strings.Contains(progress[1], ", swap: as asked") {
		t.Errorf("it says %q", progress)
	}
	if len(diagnostics) != 1 || diagnostics[0].Severity != tfprotov6.DiagnosticSeverityWarning || !strings.Contains(diagnostics[0].Detail, "division by zero") {
		t.Errorf("diagnostics %v", diagnostics)
	}
	var trigger, method, by string
	var jobs, rows int
	err := db.Connect(t).QueryRow(t.Context(), `
SELECT h.trigger, h.method, h.attempted_by, l.total_jobs, (SELECT count(*) FROM job_progress)
FROM materialized_view_refresh_history AS h JOIN materialized_view_refresh_log AS l USING (view_name) WHERE h.outcome = 'succeeded'`).
		Scan(&trigger, &method, &by, &jobs, &rows)
	if err != nil || trigger != "terraform" || method != "swap" || by != "terraform" || jobs != 2 || rows != 2 {
		t.Errorf("recorded %s %s %s %d, %d rows, %v", trigger, method, by, jobs, rows, err)
	}
	if _, diagnostics := invoke(t, s, "job_progress", "blocking"); len(diagnostics) != 1 || diagnostics[0].Severity != tfprotov6.DiagnosticSeverityWarning {
		t.Errorf("blocking, once more: %v", diagnostics)
	}
	for view, want := range map[string]string{
		"nope":  "There is no materialized view nope in the database.",
		"empty": "concurrently needs",
	} {
		_, diagnostics := invoke(t, s, view, "concurrently")
		if view == "empty" { // nobody can read it yet: the first population blocks nobody
			if len(diagnostics) != 0 {
				t.Errorf("%s: %v", view, diagnostics)
			}
			continue
		}
		if len(diagnostics) != 1 || diagnostics[0].Severity != tfprotov6.DiagnosticSeverityError || !strings.Contains(diagnostics[0].Detail, want) {
			t.Errorf("%s: %v, want %q", view, diagnostics, want)
		}
	}
	bare := postgrestest.New(t)
	bare.Exec(t, "CREATE MATERIALIZED VIEW v AS SELECT 1 AS x")
	if _, diagnostics := invoke(t, configured(t, bare.URL()), "v", nil); len(diagnostics) != 1 || !strings.Contains(diagnostics[0].Detail, "Create a matview_refresh_log there first") {
		t.Errorf("without the tables: %v", diagnostics)
	}
}

func TestListViews(t *testing.T) {
	db := jobDatabase(t)
	s := configured(t, db.URL())
	const odd = `"My.Schema"."Odd ""view"", v1.0"`
	for _, c := range []struct {
		schema any
		limit  int64
		want   string
	}{
		{nil, 100, odd + " job_progress"},
		{"public", 100, "job_progress"},
		{"nowhere", 100, ""},
		{nil, 1, odd},
	} {
		stream, err := s.ListResource(t.Context(), &tfprotov6.ListResourceRequest{
			TypeName: "matview_view", Config: textConfig(t, map[string]any{"schema": c.schema}), IncludeResource: true, Limit: c.limit,
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for result := range stream.Results {
			for _, d := range result.Diagnostics {
				t.Errorf("%s: %s", d.Summary, d.Detail)
			}
			got = append(got, result.DisplayName)
			if id := attribute(t, s, result.Resource, "id"); id != result.DisplayName {
				t.Errorf("the resource of %s is %s", result.DisplayName, id)
			}
			if attribute(t, s, result.Resource, "definition") == "" || result.Identity == nil {
				t.Errorf("%s has no definition, or no identity", result.DisplayName)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("schema %v, limit %d: %v, want %s", c.schema, c.limit, got, c.want)
		}
	}
}

func TestAccRefreshAction(t *testing.T) {
	db := jobDatabase(t)
	config := providerConfig(db) + `
action "matview_refresh" "test" {
  config {
    view   = "job_progress"
    method = "swap"
  }
}

resource "terraform_data" "migration" {
  input = "1"
  lifecycle {
    action_trigger {
      events  = [after_create]
      actions = [action.matview_refresh.test]
    }
  }
}`
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		TerraformVersionChecks:   []tfversion.TerraformVersionCheck{tfversion.SkipBelow(tfversion.Version1_14_0)},
		Steps: []resource.TestStep{
			{Config: strings.Replace(config, `"swap"`, `"fast"`, 1), ExpectError: errorMessage("value must be one of")},
			{Config: config, PostApplyFunc: func() {
				var n int
				if err := db.Connect(t).QueryRow(t.Context(), "SELECT count(*) FROM materialized_view_refresh_history WHERE method = 'swap' AND outcome = 'succeeded'").Scan(&n); err != nil || n != 1 {
					t.Errorf("%d refreshes are recorded, %v", n, err)
				}
			}},
			{Config: config, PlanOnly: true},
		},
	})
}

func TestAccListViews(t *testing.T) {
	db := jobDatabase(t)
	query := func(schema string) string {
		return providerConfig(db) + fmt.Sprintf("list \"matview_view\" \"test\" {\n  provider = matview\n  config {\n    schema = %q\n  }\n}\n", schema)
	}
	database := databaseOf(t, db.URL())
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		TerraformVersionChecks:   []tfversion.TerraformVersionCheck{tfversion.SkipBelow(tfversion.Version1_14_0)},
		Steps: []resource.TestStep{{
			Query:  true,
			Config: query("My.Schema"),
			QueryResultChecks: []querycheck.QueryResultCheck{
				querycheck.ExpectLength("matview_view.test", 1),
				querycheck.ExpectIdentity("matview_view.test", map[string]knownvalue.Check{
					"database": knownvalue.StringExact(database), "schema": knownvalue.StringExact("My.Schema"), "name": knownvalue.StringExact(`Odd "view", v1.0`),
				}),
			},
		}},
	})
}
