package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// --due skips as the scheduler does; a refresh that is asked for by name is made.
func TestRefreshSkipsWhatIsDueAndUnchanged(t *testing.T) {
	if postgrestest.Version(t) < 150000 {
		t.Skip("PostgreSQL 13 and 14 cannot skip; TestSkippingNeedsPostgreSQL15 of package refresh tests that")
	}
	db := installed(t)
	db.Exec(t, `CREATE TABLE numbers (n int); CREATE MATERIALIZED VIEW v AS SELECT n FROM numbers WITH NO DATA;
INSERT INTO materialized_view_refresh_schedule (view_name, every, skip_unchanged) VALUES ('v', '1 hour', true)`)
	if code, out, errs := exec(t, db.URL(), "refresh", "--due"); code != exitOK || !strings.HasPrefix(out, "v: refreshed") {
		t.Fatal(code, out, errs)
	}
	service, flags := cloudWatch(t)
	db.Exec(t, "UPDATE materialized_view_refresh_state SET next_run_at = now()")
	code, out, errs := exec(t, db.URL(), append([]string{"refresh", "--due"}, flags...)...)
	if code != exitOK || out != "v: skipped, nothing that it reads has changed since its last refresh\n" {
		t.Fatal(code, out, errs)
	}
	if got := metricsOf(service, "v"); slices.Contains(got, "MatViewRefreshDuration") {
		t.Errorf("a skipped refresh was published as one that was made: %v", got)
	}
	for _, d := range service.Taken() {
		if d.Metric == "MatViewRefreshFailure" && slices.Max(d.Values) != 0 {
			t.Errorf("a skipped refresh was published as one that failed: %v", d)
		}
	}
	if code, out, errs := exec(t, db.URL(), "refresh", "v"); code != exitOK || !strings.HasPrefix(out, "v: refreshed") {
		t.Fatal(code, out, errs)
	}
}
