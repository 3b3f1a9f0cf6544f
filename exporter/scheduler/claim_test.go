package scheduler

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/store"
	"github.com/matview/terraform-provider-matview/migrations"
)

// A view was found due by a statement that began before another exporter's claim
// of it, or before its schedule was changed and planned anew: it is not claimed twice,
// and the new plan stays.
func TestClaimRechecksLockedRow(t *testing.T) {
	p, db := claiming(t, `INSERT INTO materialized_view_refresh_state (view_name, next_run_at, scheduled_by) VALUES ('taken', now(), 'a'), ('changed', now(), 'b'), ('free', now(), 'a');
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, heartbeat_at) VALUES ('taken', 'schedule', 'running', now())`)
	tx, err := p.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := time.Now().Add(time.Hour)
	claimed, err := store.New("public").Claim(t.Context(), tx, []store.Claim{
		{ViewName: "taken", Version: "a", NextRunAt: &next}, {ViewName: "changed", Version: "a", NextRunAt: &next}, {ViewName: "free", Version: "a", NextRunAt: &next},
	}, "test")
	if err != nil || len(claimed) != 1 || claimed["free"] == 0 {
		t.Errorf("%+v, %v", claimed, err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	var moved int
	if err := db.Connect(t).QueryRow(t.Context(), `SELECT count(*) FROM materialized_view_refresh_state WHERE next_run_at > now()`).Scan(&moved); err != nil || moved != 1 {
		t.Errorf("%d views moved on, %v", moved, err)
	}
}

// Told to stop in the middle of a claim's commit: what that took is known, so that
// it is refreshed and not left behind as running.
func TestClaimIsKnownWhenStopped(t *testing.T) {
	p, db := claiming(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('v', '1 h');
CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON materialized_view_refresh_history DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION gate()`)
	s := NewOneShot(Options{Pool: p, Schema: "public", AttemptedBy: "test", MaxConcurrent: 1, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if due, err := s.Due(t.Context()); err != nil || len(due) != 1 {
		t.Fatalf("due: %v, %v", due, err)
	}
	gate := db.Connect(t)
	if _, err := gate.Exec(t.Context(), "SELECT pg_advisory_lock(42)"); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	type result struct {
		claims []claim
		err    error
	}
	claimed := make(chan result)
	go func() {
		claims, _, err := s.claim(ctx, s.dependencies.waiting(0), 1, "")
		claimed <- result{claims, err}
	}()
	for waiting := false; !waiting; {
		err := gate.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted)`).Scan(&waiting)
		if err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if _, err := gate.Exec(t.Context(), "SELECT pg_advisory_unlock(42)"); err != nil {
		t.Fatal(err)
	}
	if got := <-claimed; got.err != nil || len(got.claims) != 1 {
		t.Errorf("%+v", got)
	}
}

// A schedule was changed, while its view was being refreshed, to one that cannot
// run: neither the failure of that attempt nor its exporter's death makes it due.
func TestFailureUnderAScheduleThatCannotRun(t *testing.T) {
	p, db := claiming(t, `INSERT INTO materialized_view_refresh_schedule (view_name, cron) VALUES ('failed', '61 * * * *'), ('abandoned', '61 * * * *');
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, heartbeat_at) VALUES ('abandoned', 'schedule', 'running', now() - interval '1 hour')`)
	s := NewOneShot(Options{Pool: p, Schema: "public", AttemptedBy: "test", MaxConcurrent: 1, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Refresher: refresh.New(p, "public", "test")})
	if err := s.planner.plan(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.backOff(t.Context(), "failed")
	if due, err := s.Due(t.Context()); err != nil || len(due) != 0 {
		t.Errorf("due: %v, %v", due, err)
	}
	var states string
	if err := db.Connect(t).QueryRow(t.Context(), `SELECT string_agg(concat_ws(' ', view_name, last_outcome, next_run_at), ', ' ORDER BY view_name) FROM materialized_view_refresh_state`).Scan(&states); err != nil || states != "abandoned abandoned, failed" {
		t.Errorf("%s, %v", states, err)
	}
}

// A second schedule of a view is ignored once, and then counts as unplanned no more:
// an idle round would otherwise plan it again and again. It does when it changes, and
// when the schedule that counts is removed.
func TestIgnoredScheduleIsNotUnplanned(t *testing.T) {
	p, db := claiming(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x; INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('v', '1 d'), ('public.v', '2 d')`)
	l := NewLoop(Options{Pool: p, Schema: "public", AttemptedBy: "test", MaxConcurrent: 1, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	expect := func(after string, want bool) {
		t.Helper()
		outlook, err := l.outlook(t.Context(), true)
		if err != nil || outlook.HasUnplanned != want {
			t.Errorf("%s: unplanned %v, %v", after, outlook.HasUnplanned, err)
		}
		if err := l.planner.plan(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	expect("inserted", true)
	expect("planned", false)
	db.Exec(t, `UPDATE materialized_view_refresh_schedule SET every = '3 d' WHERE view_name = 'public.v'`)
	expect("changed", true)
	expect("planned again", false)
	db.Exec(t, `DELETE FROM materialized_view_refresh_schedule WHERE view_name = 'v'`)
	expect("the other removed", true)
	expect("planned in its place", false)
}

// claiming is a database with the tables of matview and what sql puts there.
func claiming(t *testing.T, sql string) (*pgxpool.Pool, *postgrestest.Database) {
	t.Helper()
	db := postgrestest.New(t)
	if err := migrations.Apply(t.Context(), db.Connect(t), "public"); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, sql)
	p, err := postgres.Open(t.Context(), postgres.Config{URL: db.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, db
}
