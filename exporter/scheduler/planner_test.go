package scheduler_test

import (
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/matview/terraform-provider-matview/exporter/scheduler"
)

const hasPlan = `SELECT count(*) = %d FROM materialized_view_refresh_state WHERE %s`

// The kind of a schedule changes and its number does not: the next run is planned
// anew at once.
func TestChangedKindOfScheduleTakesEffect(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('other', '1 h')`)
	seen := newAttempts()
	start(t, options(t, p, seen))
	seen.of(t, "other")
	waitFor(t, p, fmt.Sprintf(hasPlan, 1, `next_run_at > data_as_of + interval '59 min'`))
	db.Exec(t, `UPDATE materialized_view_refresh_schedule SET every = NULL, target_staleness = '1 h'`)
	waitFor(t, p, fmt.Sprintf(hasPlan, 1, `next_run_at < data_as_of + interval '58 min'`)) // early by 3 min
}

// The schedule that counted goes: the one that was ignored takes its place.
func TestIgnoredScheduleTakesOver(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('other', '1 d'), ('public.other', '2 d')`)
	logged := &lines{}
	o := options(t, p, newAttempts())
	o.Logger = slog.New(slog.NewTextHandler(logged, nil))
	start(t, o)
	logged.await(t, "a second schedule for one view is ignored")
	db.Exec(t, `DELETE FROM materialized_view_refresh_schedule WHERE view_name = 'other'`)
	waitFor(t, p, fmt.Sprintf(hasPlan, 1, `view_name = 'other' AND schedule_name = 'public.other' AND next_run_at IS NOT NULL`))
}

// The error of a schedule is gone once it is mended, and that of the last attempt,
// which it had replaced, is back.
func TestMendedScheduleLosesItsError(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, cron) VALUES ('other', '61 * * * *'), ('job_progress', '61 * * * *');
INSERT INTO materialized_view_refresh_state (view_name, last_attempt_at, last_outcome, last_error, consecutive_failures, next_run_at) VALUES ('job_progress', now(), 'failed', 'out of fuel', 1, now());
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, error) VALUES ('job_progress', 'manual', 'failed', 'out of fuel');
INSERT INTO materialized_view_refresh_log (view_name, last_refreshed_at, refresh_duration_ms) VALUES ('other', now(), 1), ('job_progress', now(), 1);
INSERT INTO jobs VALUES (1); REFRESH MATERIALIZED VIEW other; REFRESH MATERIALIZED VIEW job_progress`)
	start(t, options(t, p, newAttempts()))
	waitFor(t, p, fmt.Sprintf(hasPlan, 2, `last_error LIKE 'schedule: %%'`))
	db.Exec(t, `UPDATE materialized_view_refresh_schedule SET cron = '0 3 1 1 *'`)
	waitFor(t, p, fmt.Sprintf(hasPlan, 2, `next_run_at IS NOT NULL`))
	if errors := scan[string](t, p, `SELECT string_agg(view_name || ': ' || coalesce(last_error, 'none'), ', ' ORDER BY view_name) FROM materialized_view_refresh_state`); errors != "job_progress: out of fuel, other: none" {
		t.Errorf("last errors: %s", errors)
	}
}

// Views of a one-shot run are refreshed side by side, and each may find that a
// schedule has changed.
func TestOneShotPlansConcurrently(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('other', '1 d'), ('public.other', '2 d')`)
	o := scheduler.NewOneShot(options(t, p, nil))
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for range 5 {
				if _, _, err := o.Refresh(t.Context(), "not_due"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
}
