//go:build e2e

package freshness_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// A database with our tables, dumped and restored: the log says that its views
// are fresh, but these are other views, filled at another time. pg_restore makes
// event triggers before it refreshes, so that with one the refreshes of the
// restored views are recorded, in the restored database's own time.
func TestE2ERestoredFromDump(t *testing.T) {
	cases := map[string]struct {
		tracked bool
		before  string
		restore []string // of pg_restore
		v, down string   // the reasons afterwards
	}{
		"ours":      {v: "recreated", down: "recreated"},
		"foreign":   {before: "TRUNCATE materialized_view_refresh_state", v: "null", down: "unverified"},
		"unfilled":  {restore: []string{"--section=pre-data"}, v: "not_populated", down: "not_populated"},
		"log alone": {before: "DELETE FROM materialized_view_refresh_log", v: "never_refreshed", down: "never_refreshed"},
		"tracked":   {tracked: true, v: "null", down: "null"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			from, to := tracked(t), postgrestest.New(t)
			if !c.tracked {
				from.Exec(t, "DROP EVENT TRIGGER materialized_view_refresh_tracked")
			}
			conn := from.Connect(t)
			execOn(t, conn, "CREATE MATERIALIZED VIEW empty AS SELECT 1 AS x",
				"INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('v', '1 hour'), ('down', '1 hour'), ('empty', '1 hour')")
			for _, view := range []string{"v", "down", "empty"} {
				recordedRefresh(t, from.Pool(t), view)
			}
			execOn(t, conn, "REFRESH MATERIALIZED VIEW empty WITH NO DATA")
			logged := find(t, from.Pool(t), "v")
			if c.before != "" {
				from.Exec(t, c.before)
			}
			file := filepath.Join(t.TempDir(), "dump")
			program(t, "pg_dump", "--format=custom", "--file="+file, "--dbname="+from.URL())
			restoring := clock(t, to.Connect(t))
			program(t, "pg_restore", append(c.restore, "--exit-on-error", "--dbname="+to.URL(), file)...)
			if len(c.restore) > 0 {
				program(t, "pg_restore", "--exit-on-error", "--data-only", "--table=materialized_view_refresh_log", "--table=materialized_view_refresh_state",
					"--table=materialized_view_refresh_schedule", "--dbname="+to.URL(), file)
			}
			for view, want := range map[string]string{"v": c.v, "down": c.down, "empty": "not_populated"} {
				got := find(t, to.Pool(t), view)
				if text(got.StaleReason) != want {
					t.Errorf("%s: stale_reason is %s, want %s", view, text(got.StaleReason), want)
				}
				if got.DataAsOf != nil && got.DataAsOf.After(*logged.LastRefreshedAt) && !(c.tracked && got.DataAsOf.After(restoring)) {
					t.Errorf("%s: as-of %s is later than the log's %s", view, got.DataAsOf, logged.LastRefreshedAt)
				}
			}
		})
	}
}

func program(t *testing.T, name string, args ...string) {
	t.Helper()
	var output bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, &output)
	}
}
