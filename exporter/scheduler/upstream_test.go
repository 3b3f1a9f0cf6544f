package scheduler_test

import (
	"strings"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/exporter/scheduler"
)

func TestDueViewsGoInOrder(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	// top reads base only through middle, which nobody schedules.
	db.Exec(t, `CREATE MATERIALIZED VIEW base AS SELECT n AS id FROM pg_sleep(0.7), generate_series(1, 3) AS n;
CREATE VIEW between AS SELECT id FROM base;
CREATE MATERIALIZED VIEW middle AS SELECT id FROM between;
CREATE MATERIALIZED VIEW top AS SELECT id FROM middle WITH NO DATA;
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('top', '1 d'), ('other', '1 d'), ('base', '1 d');`)
	seen := newAttempts()
	for range 3 { // of any number of exporters
		start(t, options(t, p, seen))
	}
	if got := seen.of(t, "top"); got.outcome != "succeeded" {
		t.Fatalf("%+v", got)
	}
	if !scan[bool](t, p, `SELECT t.started_at >= b.finished_at AND o.started_at < b.finished_at
FROM materialized_view_refresh_history AS t, materialized_view_refresh_history AS b, materialized_view_refresh_history AS o
WHERE t.view_name = 'top' AND b.view_name = 'base' AND o.view_name = 'other'`) {
		t.Error("top did not wait for base, or other did")
	}
}

const dueNow = `UPDATE materialized_view_refresh_state SET next_run_at = clock_timestamp(); NOTIFY matview_schedule`

func TestFailedUpstreamIsReportedOnce(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `CREATE TABLE fuel (n int); INSERT INTO fuel VALUES (1);
CREATE FUNCTION burn() RETURNS int LANGUAGE plpgsql AS $$
BEGIN IF NOT EXISTS (SELECT FROM public.fuel) THEN RAISE EXCEPTION 'out of fuel'; END IF; RETURN 1; END $$;
CREATE MATERIALIZED VIEW base AS SELECT burn() AS id;
CREATE MATERIALIZED VIEW middle AS SELECT id FROM base;
CREATE MATERIALIZED VIEW top AS SELECT id FROM middle UNION ALL SELECT id FROM jobs;
DELETE FROM fuel;
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('top', '1 d'), ('middle', '1 d'), ('base', '1 d'), ('other', '1 d');`)
	seen := newAttempts()
	start(t, options(t, p, seen))
	if got := seen.of(t, "top"); got.outcome != "failed" {
		t.Fatalf("%+v", got)
	}
	for _, view := range []string{"middle", "top"} {
		reason := scan[string](t, p, `SELECT reason FROM materialized_view_refresh_history WHERE view_name = $1`, view)
		if !strings.HasPrefix(reason, "UPSTREAM: refresh of base failed: ") || !strings.Contains(reason, "out of fuel") {
			t.Errorf("%s: %s", view, reason)
		}
	}
	waitFor(t, p, `SELECT EXISTS (SELECT FROM materialized_view_refresh_history WHERE view_name = 'other' AND outcome = 'succeeded')`)
	// They are tried again soon, and then do not depend on what becomes of base.
	waitFor(t, p, `SELECT bool_and(next_run_at < last_attempt_at + interval '10 s') FROM materialized_view_refresh_state WHERE view_name <> 'other'`)
	db.Exec(t, dueNow)
	if got := seen.of(t, "top"); got.outcome != "succeeded" {
		t.Errorf("%+v", got)
	}
}

func TestUpstreamIsNotWaitedForWithoutEnd(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `CREATE MATERIALIZED VIEW base AS SELECT 1 AS id; CREATE MATERIALIZED VIEW top AS SELECT id FROM base;
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, heartbeat_at) VALUES ('base', 'manual', 'running', clock_timestamp() + interval '1 h');
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('top', '1 d');`)
	o := options(t, p, newAttempts())
	o.UpstreamWait = time.Second
	start(t, o)
	waitFor(t, p, `SELECT EXISTS (SELECT FROM materialized_view_refresh_history WHERE view_name = 'top' AND outcome = 'succeeded')`)
	if !scan[bool](t, p, `SELECT h.started_at - s.created_at > interval '0.9 s'
FROM materialized_view_refresh_history AS h, materialized_view_refresh_schedule AS s WHERE h.view_name = 'top'`) {
		t.Error("top did not wait for base at all")
	}
}

func TestDueRunWaitsForUpstreamElsewhere(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `CREATE MATERIALIZED VIEW base AS SELECT 1 AS id; CREATE MATERIALIZED VIEW top AS SELECT id FROM base;
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, heartbeat_at) VALUES ('base', 'manual', 'running', clock_timestamp() + interval '1 h');
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('top', '1 d');`)
	s := scheduler.NewOneShot(options(t, p, newAttempts()))
	due, err := s.Due(t.Context())
	if err != nil || len(due) != 1 {
		t.Fatalf("due %v, %v", due, err)
	}
	done := make(chan error, 1)
	go func() {
		_, claimed, err := s.Refresh(t.Context(), "top")
		if !claimed {
			t.Error("top was not claimed")
		}
		done <- err
	}()
	waitFor(t, p, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%AND st.next_run_at <= clock_timestamp() AND%' AND pid <> pg_backend_pid())`)
	db.Exec(t, `UPDATE materialized_view_refresh_history SET outcome = 'failed', error = 'refresh base: out of fuel', finished_at = clock_timestamp() WHERE view_name = 'base'`)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "UPSTREAM: refresh of base failed: out of fuel") {
		t.Errorf("err = %v", err)
	}
}
