package scheduler_test

import (
	"strings"
	"testing"
	"time"

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
	result, claimed, err := scheduler.NewOneShot(options(t, p, seen)).Refresh(t.Context(), "job_progress")
	if err != nil || !claimed || !result.Skipped {
		t.Errorf("due refresh: %+v, %v, %v, want it skipped", result, claimed, err)
	}
	db.Exec(t, `UPDATE materialized_view_refresh_schedule SET max_staleness = '30 s'; UPDATE materialized_view_refresh_state SET next_run_at = now(), data_as_of = data_as_of - interval '1 hour'`)
	result, _, err = scheduler.NewOneShot(options(t, p, seen)).Refresh(t.Context(), "job_progress")
	if err != nil || result.Skipped || !strings.Contains(result.Reason, "its max_staleness or target_staleness leaves 29s") {
		t.Errorf("with a max_staleness that no skip can keep: %+v, %v", result, err)
	}
}

// With a target too: a skip leaves the next run to be planned from the as-of that
// the data then has, and a target that no skip can keep is met by a refresh.
func TestTargetSkipsUnchanged(t *testing.T) {
	if postgrestest.Version(t) < 150000 {
		t.Skip("PostgreSQL 13 and 14 cannot skip; TestSkippingNeedsPostgreSQL15 of package refresh tests that")
	}
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, target_staleness, skip_unchanged) VALUES ('job_progress', '1 h', true), ('other', '30 s', true)`)
	seen := newAttempts()
	stop := start(t, options(t, p, seen))
	for range 2 {
		if got := seen.next(t); got.outcome != "succeeded" {
			t.Fatalf("%+v", got)
		}
	}
	waitFor(t, p, `SELECT bool_and(next_run_at - data_as_of > target_staleness / 2) FROM materialized_view_refresh_state AS st JOIN materialized_view_refresh_schedule USING (view_name)`)
	db.Exec(t, old+`, next_run_at = clock_timestamp(); NOTIFY matview_schedule`)
	for range 2 {
		got := seen.next(t)
		if want := map[string]string{"job_progress": "skipped", "other": "succeeded"}[got.view]; got.outcome != want {
			t.Errorf("%+v, want it %s: %s", got, want, scan[string](t, p, `SELECT reason FROM materialized_view_refresh_history WHERE view_name = $1 ORDER BY id DESC LIMIT 1`, got.view))
		}
	}
	stop()
	if reason := scan[string](t, p, `SELECT reason FROM materialized_view_refresh_history WHERE view_name = 'other' ORDER BY id DESC LIMIT 1`); !strings.Contains(reason, "its max_staleness or target_staleness leaves 15s") {
		t.Errorf("reason %q", reason)
	}
	// Moved to what is provable, a minute ago, and on from there: 1 h less 3 min, and
	// what the refresh takes.
	if !scan[bool](t, p, `SELECT clock_timestamp() - data_as_of BETWEEN interval '60 s' AND interval '10 min' AND next_run_at - data_as_of BETWEEN interval '50 min' AND interval '57 min'
FROM materialized_view_refresh_state WHERE view_name = 'job_progress'`) {
		t.Errorf("skipped as of %s ago, and due %s after that", scan[time.Duration](t, p, `SELECT clock_timestamp() - data_as_of FROM materialized_view_refresh_state WHERE view_name = 'job_progress'`),
			scan[time.Duration](t, p, `SELECT next_run_at - data_as_of FROM materialized_view_refresh_state WHERE view_name = 'job_progress'`))
	}
}
