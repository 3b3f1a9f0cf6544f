package scheduler_test

import "testing"

// A view that is always due or being refreshed holds those that read it up for
// the runs that they fell due in, and not for all that follow.
func TestBusyUpstreamStarvesNobody(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `CREATE MATERIALIZED VIEW base AS SELECT 1 AS id FROM pg_sleep(1.2) WITH NO DATA;
CREATE MATERIALIZED VIEW top AS SELECT id FROM base WITH NO DATA;
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('base', '1 s'), ('top', '10 s')`)
	seen := newAttempts()
	start(t, options(t, p, seen))
	if got := seen.of(t, "top"); got.outcome != "succeeded" {
		t.Fatalf("%+v", got)
	}
	for range 2 {
		db.Exec(t, `UPDATE materialized_view_refresh_state SET next_run_at = clock_timestamp() WHERE view_name = 'top'; NOTIFY matview_schedule`)
		if got := seen.of(t, "top"); got.outcome != "succeeded" {
			t.Fatalf("%+v", got)
		}
		// The next run is ten seconds after this one was due.
		if runs := scan[int](t, p, `SELECT count(*) FROM materialized_view_refresh_history AS h, materialized_view_refresh_state AS st,
    LATERAL (SELECT max(started_at) AS began FROM materialized_view_refresh_history AS t WHERE t.view_name = 'top') AS t
WHERE st.view_name = 'top' AND h.view_name = 'base' AND h.finished_at BETWEEN st.next_run_at - interval '10 s' AND t.began`); runs > 2 {
			t.Errorf("waited for %d refreshes of base, want the one under way and at most one more", runs)
		}
	}
}

// What fell due long ago still goes in order, also where the reader fell due first.
func TestMissedRunsGoInOrder(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `CREATE MATERIALIZED VIEW base AS SELECT 1 AS id FROM pg_sleep(0.5) WITH NO DATA;
CREATE MATERIALIZED VIEW top AS SELECT id FROM base WITH NO DATA;
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('base', '1 d'), ('top', '1 d')`)
	seen := newAttempts()
	stop := start(t, options(t, p, seen))
	seen.of(t, "top")
	stop()
	db.Exec(t, `UPDATE materialized_view_refresh_state SET last_attempt_at = last_attempt_at - interval '1 d',
    next_run_at = clock_timestamp() - CASE view_name WHEN 'top' THEN interval '2 h' ELSE interval '1 h' END`)
	start(t, options(t, p, seen))
	if got := seen.of(t, "top"); got.outcome != "succeeded" {
		t.Fatalf("%+v", got)
	}
	if !scan[bool](t, p, `SELECT (SELECT max(started_at) FROM materialized_view_refresh_history WHERE view_name = 'top')
  >= (SELECT max(finished_at) FROM materialized_view_refresh_history WHERE view_name = 'base')
   AND (SELECT count(*) = 2 FROM materialized_view_refresh_history WHERE view_name = 'base')`) {
		t.Error("top was not refreshed after base")
	}
}

// An upstream whose attempt was abandoned has not had its run: its readers wait
// for the one that makes up for it.
func TestAbandonedUpstreamIsWaitedFor(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `CREATE MATERIALIZED VIEW base AS SELECT 1 AS id; CREATE MATERIALIZED VIEW top AS SELECT id FROM base;
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('base', '1 d'), ('top', '1 d')`)
	db.Exec(t, `INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, attempted_by, heartbeat_at, started_at)
VALUES ('base', 'schedule', 'running', 'frozen', clock_timestamp() - interval '4 s', clock_timestamp() + interval '1 s')`)
	seen := newAttempts()
	start(t, options(t, p, seen))
	if got := seen.of(t, "top"); got.outcome != "succeeded" {
		t.Errorf("%+v: %s", got, scan[string](t, p, "SELECT last_error FROM materialized_view_refresh_state WHERE view_name = 'top'"))
	}
	if !scan[bool](t, p, `SELECT t.started_at >= b.finished_at FROM materialized_view_refresh_history AS t, materialized_view_refresh_history AS b
WHERE t.view_name = 'top' AND b.view_name = 'base' AND b.outcome = 'succeeded'`) {
		t.Error("top was refreshed before base")
	}
}
