package provider

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// firstDatabase is as the first version of the provider, with the first version of
// the tables, left it after it had applied testdata/first.
func firstDatabase(t *testing.T) *postgrestest.Database {
	t.Helper()
	db := viewDatabase(t)
	files, err := filepath.Glob("../../migrations/testdata/first/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, name := range files {
		db.Exec(t, readFile(t, name))
	}
	db.Exec(t, `
CREATE TABLE matview_schema_version (version int4 NOT NULL); INSERT INTO matview_schema_version VALUES (3);
UPDATE materialized_view_refresh_settings SET history_retention = '240 hours';
GRANT USAGE ON SCHEMA public TO pg_monitor;
GRANT SELECT ON materialized_view_refresh_log, materialized_view_refresh_schedule, materialized_view_refresh_state,
    materialized_view_refresh_history, materialized_view_names, materialized_view_freshness, matview_schema_version TO pg_monitor;
GRANT EXECUTE ON FUNCTION materialized_view_refresh_log_rows(), materialized_view_upstreams(oid) TO pg_monitor;
CREATE MATERIALIZED VIEW job_progress AS SELECT id AS job_id, name, status FROM jobs WHERE status <> 'deleted';
COMMENT ON MATERIALIZED VIEW job_progress IS 'one row a job';
CREATE UNIQUE INDEX job_progress_id ON job_progress (job_id);
CREATE INDEX job_progress_failed ON job_progress (lower(name)) INCLUDE (job_id) WHERE status = 'failed';
CREATE MATERIALIZED VIEW states AS SELECT status, count(*) AS jobs FROM job_progress GROUP BY status;
INSERT INTO materialized_view_refresh_log VALUES ('job_progress', now(), 27), ('states', now(), 23);
INSERT INTO materialized_view_refresh_history (view_name, trigger, method, outcome, started_at, data_as_of, finished_at, duration_ms, attempted_by)
    VALUES ('job_progress', 'terraform', 'create', 'succeeded', now(), now(), now(), 27, 'terraform');
INSERT INTO materialized_view_refresh_schedule (view_name, cron, time_zone, method, jitter, settings, total_jobs, longest_gap)
    VALUES ('job_progress', '*/5 6-22 * * mon-fri', 'Europe/Berlin', 'concurrently', '20 s', '{"work_mem": "64MB"}', 'count(*)', '56:05:00')`)
	db.Exec(t, `
INSERT INTO materialized_view_refresh_state (view_name, last_attempt_at, last_outcome, data_as_of, view_oid, view_filenode, view_xmin, logged_refreshed_at, logged_duration_ms)
SELECT l.view_name, l.last_refreshed_at, 'succeeded', l.last_refreshed_at, c.oid, c.relfilenode, c.xmin, l.last_refreshed_at, l.refresh_duration_ms
FROM materialized_view_refresh_log AS l JOIN pg_class AS c ON c.relname = l.view_name`)
	return db
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestAccUpgradeFromFirst goes on with this version where the first one ended. Its
// state was written by that, and is kept as it was.
func TestAccUpgradeFromFirst(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	db := firstDatabase(t)
	w := newWorkspace(t, db.URL(), readFile(t, "testdata/first/main.tf"))
	state := readFile(t, "testdata/first/state.json")
	write := func(state string) {
		if err := os.WriteFile(filepath.Join(w.dir, "terraform.tfstate"), []byte(state), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// What must be as it was: the views themselves, and all that is known of them.
	const kept = `SELECT jsonb_build_array(
    (SELECT jsonb_agg(to_jsonb(l) ORDER BY view_name) FROM materialized_view_refresh_log AS l),
    (SELECT jsonb_agg(to_jsonb(h) ORDER BY id) FROM materialized_view_refresh_history AS h),
    (SELECT jsonb_agg(to_jsonb(s) - 'longest_gap' - 'created_at' ORDER BY view_name) FROM materialized_view_refresh_schedule AS s),
    (SELECT jsonb_agg(jsonb_build_array(oid, relfilenode, xmin::text) ORDER BY oid) FROM pg_class WHERE relkind = 'm' OR relname LIKE 'job_progress%'))`
	before := valueOf(t, db, kept)

	write(strings.ReplaceAll(state, `"schema_version": 0`, `"schema_version": 99`))
	if out, err := w.try(t.Context(), "plan"); err == nil || !strings.Contains(oneLine(out), "newer provider version") {
		t.Errorf("a state of a later release: %v\n%s", err, out)
	}
	write(state)
	out := w.run(t, "plan")
	for _, want := range []string{"0 to add, 1 to change, 0 to destroy", "matview_refresh_log.log will be updated in-place", "+ track_external_refreshes = false", "~ version                  = 0 -> " + currentVersion()} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the plan:\n%s", want, out)
		}
	}
	w.run(t, "apply", "-auto-approve")
	w.plan(t)
	if after := valueOf(t, db, kept); after != before {
		t.Errorf("it is\n%s\nand was\n%s", after, before)
	}
	if got := valueOf(t, db, "SELECT string_agg(view_name || ' ' || coalesce(stale_reason, 'fresh') || ' ' || (data_as_of IS NOT NULL), ', ' ORDER BY view_name) FROM materialized_view_freshness"); got != "job_progress fresh true, states fresh true" {
		t.Errorf("freshness is %s", got)
	}
	w.run(t, "destroy", "-auto-approve")
	if got := valueOf(t, db, "SELECT count(*) FROM pg_class WHERE relname LIKE 'materialized_view_%' OR relkind = 'm'"); got != "0" {
		t.Errorf("%s relations are left", got)
	}
}

// A state that lacks attributes is of an older version, one that has more of a newer
// one with the same schema version: either is read, and what is missing is null.
func TestStateOfOtherVersions(t *testing.T) {
	s, ok := NewServer("test")().(*server)
	if !ok {
		t.Fatal("no server of ours")
	}
	var state struct {
		Resources []struct {
			Type      string
			Name      string
			Instances []struct{ Attributes map[string]any }
		}
	}
	if err := json.Unmarshal([]byte(readFile(t, "testdata/first/state.json")), &state); err != nil {
		t.Fatal(err)
	}
	upgrade := func(typeName string, attributes any, version int64) (map[string]tftypes.Value, error) {
		data, err := json.Marshal(attributes)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.UpgradeResourceState(t.Context(), &tfprotov6.UpgradeResourceStateRequest{TypeName: typeName, Version: version, RawState: &tfprotov6.RawState{JSON: data}})
		if err == nil {
			err = failed(resp.Diagnostics)
		}
		if err != nil {
			return nil, err
		}
		typ, _ := attributesOf(t, s, typeName)
		value, err := resp.UpgradedState.Unmarshal(typ)
		if err != nil {
			t.Fatal(err)
		}
		read := map[string]tftypes.Value{}
		err = value.As(&read)
		return read, err
	}
	seen := map[string]bool{}
	for _, r := range state.Resources {
		attributes := r.Instances[0].Attributes
		typ, _ := attributesOf(t, s, r.Type)
		missing := 0
		for name := range typ.AttributeTypes {
			if _, ok := attributes[name]; !ok {
				missing++
			}
		}
		newer := maps.Clone(attributes)
		newer["of_a_later_release"] = map[string]any{"a": []int{1}}
		for _, attributes := range []map[string]any{attributes, newer} {
			read, err := upgrade(r.Type, attributes, 0)
			if err != nil {
				t.Errorf("%s.%s: %v", r.Type, r.Name, err)
				continue
			}
			for name, value := range read {
				if was, ok := attributes[name]; value.IsNull() != (!ok || was == nil) {
					t.Errorf("%s.%s.%s is %s, and was %v", r.Type, r.Name, name, value, was)
				}
			}
		}
		if missing == 0 {
			t.Errorf("%s.%s lacks nothing: it is no older version's", r.Type, r.Name)
		}
		broken := maps.Clone(attributes)
		broken["id"] = []int{1}
		if _, err := upgrade(r.Type, broken, 0); err == nil || !strings.Contains(err.Error(), "id") {
			t.Errorf("%s.%s with an id that is a list: %v", r.Type, r.Name, err)
		}
		if _, err := upgrade(r.Type, attributes, 99); err == nil || !strings.Contains(err.Error(), "version 99") {
			t.Errorf("%s.%s of schema version 99: %v", r.Type, r.Name, err)
		}
		seen[r.Type] = true
	}
	if len(seen) != 3 {
		t.Errorf("there are states of %v only", seen)
	}
}
