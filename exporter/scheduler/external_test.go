package scheduler_test

import (
	"context"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/schedule"
	"github.com/matview/terraform-provider-matview/internal/store"
	"github.com/matview/terraform-provider-matview/migrations"
)

// Somebody has refreshed a view by hand, which the event trigger recorded in that
// transaction, and does not commit. Nothing but that view waits.
func TestUncommittedExternalRefresh(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	if err := migrations.Track(t.Context(), db.Connect(t), "public", true); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "REFRESH MATERIALIZED VIEW job_progress") // its state is a row from now on
	somebody := db.Connect(t)
	if _, err := somebody.Exec(t.Context(), "BEGIN; REFRESH MATERIALIZED VIEW job_progress"); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	row := store.Schedule{ViewName: "job_progress", Spec: schedule.Spec{Every: time.Hour}, Enabled: true, Method: "auto"}
	if err := store.New("public").InsertSchedule(ctx, p, row); err != nil {
		t.Fatal(err)
	}
	row.Every = 2 * time.Hour
	if err := store.New("public").UpdateSchedule(ctx, p, "job_progress", row); err != nil {
		t.Fatal(err)
	}
	if _, err := freshness.All(ctx, p, "public"); err != nil {
		t.Fatal(err)
	}

	db.Exec(t, `INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, attempted_by, heartbeat_at)
VALUES ('job_progress', 'manual', 'running', 'a process that died', now() - interval '1 hour');
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('other', '1 hour')`)
	seen := newAttempts()
	start(t, options(t, p, seen))
	if got := seen.next(t); got.view != "other" || got.outcome != "succeeded" {
		t.Errorf("%+v", got)
	}

	if _, err := somebody.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if got := seen.next(t); got.view != "job_progress" || got.outcome != "succeeded" {
		t.Errorf("%+v", got)
	}
	var abandoned bool
	err := p.QueryRow(t.Context(), "SELECT outcome = 'abandoned' FROM materialized_view_refresh_history WHERE attempted_by = 'a process that died'").Scan(&abandoned)
	if err != nil || !abandoned {
		t.Errorf("the dead attempt was not found: %v", err)
	}
}
