package scheduler_test

import (
	"strings"
	"testing"

	"github.com/matview/terraform-provider-matview/exporter/scheduler"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

func TestSkipUnchanged(t *testing.T) {
	if postgrestest.Version(t) < 150000 {
		t.Skip("PostgreSQL 13 and 14 cannot skip; TestSkippingNeedsPostgreSQL15 of package refresh tests that")
	}
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every, skip_unchanged) VALUES ('job_progress', '1 s', true)`)
	seen := newAttempts()
	stop := start(t, options(t, p, seen))
	if got := seen.next(t); got.outcome != "succeeded" {
		t.Fatalf("%+v", got)
	}
	// Its own writes are in the view's tables by no means, so that it goes on skipping.
	for range 2 {
		if got := seen.next(t); got.outcome != "skipped" {
			t.Fatalf("%+v: %s", got, scan[string](t, p, "SELECT reason FROM materialized_view_refresh_history ORDER BY id DESC LIMIT 1"))
		}
	}
	db.Exec(t, "INSERT INTO jobs VALUES (7)")
	for got := seen.next(t); got.outcome != "succeeded"; got = seen.next(t) {
		if got.outcome != "skipped" {
			t.Fatalf("%+v", got)
		}
	}
	stop()
	if n := scan[int](t, p, "SELECT count(*) FROM job_progress"); n != 1 {
		t.Errorf("%d rows in the view", n)
	}
	if limit := scan[float64](t, p, `SELECT max_staleness_seconds - refresh_duration_ms / 1000.0 FROM materialized_view_freshness WHERE view_name = 'job_progress'`); limit != 63 {
		t.Errorf("max_staleness is %g s beside the duration, want 63: 61 and two gaps", limit)
	}

	db.Exec(t, `UPDATE materialized_view_refresh_state SET next_run_at = now()`)
	result, claimed, err := scheduler.New(options(t, p, seen)).RefreshDue(t.Context(), "job_progress")
	if err != nil || !claimed || !result.Skipped {
		t.Errorf("due refresh: %+v, %v, %v, want it skipped", result, claimed, err)
	}
	db.Exec(t, `UPDATE materialized_view_refresh_schedule SET max_staleness = '30 s'; UPDATE materialized_view_refresh_state SET next_run_at = now(), data_as_of = data_as_of - interval '1 hour'`)
	result, _, err = scheduler.New(options(t, p, seen)).RefreshDue(t.Context(), "job_progress")
	if err != nil || result.Skipped || !strings.Contains(result.Reason, "its max_staleness leaves 29s") {
		t.Errorf("with a max_staleness that no skip can keep: %+v, %v", result, err)
	}
}
