package provider

import (
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// A read takes locks on several tables, and runs into whoever changes them: an
// upgrade of the tables of matview, for one.
func TestRetriedReads(t *testing.T) {
	for name, typeName := range map[string]string{"one view": "matview_freshness", "all views": "matview_views", "refresh": "matview_refresh"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := viewDatabase(t)
			role, url := retryLogin(t, db)
			s := configured(t, url)
			applyChange(t, s, "matview_refresh_log", applied{}, map[string]any{})
			applyChange(t, s, "matview_view", applied{}, map[string]any{"name": "job_progress", "definition": "SELECT id FROM jobs"})
			other := inTheWay(t, db, "LOCK TABLE materialized_view_refresh_log")
			done := make(chan error, 1)
			go func() { done <- readOnce(t, s, typeName) }()
			waitsForOther(t, db, role, done)
			if _, err := other.Exec(t.Context(), "ALTER VIEW materialized_view_freshness SET (security_barrier = false); ROLLBACK"); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// readOnce runs a data source, or the action, on job_progress.
func readOnce(t *testing.T, s *server, typeName string) error {
	t.Helper()
	if typeName == "matview_refresh" {
		_, diagnostics := invoke(t, s, "job_progress", nil)
		return failed(diagnostics)
	}
	schemas, err := s.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	if err != nil {
		return err
	}
	typ := schemas.DataSourceSchemas[typeName].ValueType()
	values := map[string]any{}
	if typeName == "matview_freshness" {
		values["view"] = "job_progress"
	}
	config, err := tfprotov6.NewDynamicValue(typ, filled(typ, "", values))
	if err != nil {
		return err
	}
	read, err := s.ReadDataSource(t.Context(), &tfprotov6.ReadDataSourceRequest{TypeName: typeName, Config: &config})
	if err != nil {
		return err
	}
	if err := failed(read.Diagnostics); err != nil {
		return err
	}
	var state map[string]tftypes.Value
	value, err := read.State.Unmarshal(typ)
	if err == nil {
		err = value.As(&state)
	}
	if err == nil && len(state) == 0 {
		t.Error("it reads nothing")
	}
	return err
}
