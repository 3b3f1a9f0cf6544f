package scheduler

import (
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

// A view was found due by a statement that began before another exporter's claim
// of it: it is not claimed twice.
func TestTakeLeavesWhatAnotherHasTaken(t *testing.T) {
	db := postgrestest.New(t)
	if err := migrations.Apply(t.Context(), db.Connect(t), "public"); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `INSERT INTO materialized_view_refresh_state (view_name, next_run_at) VALUES ('taken', now()), ('free', now());
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, heartbeat_at) VALUES ('taken', 'schedule', 'running', now())`)
	p, err := postgres.Open(t.Context(), postgres.Config{URL: db.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	tx, err := p.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := time.Now().Add(time.Hour)
	s := New(Options{Pool: p, Schema: "public", AttemptedBy: "test", MaxConcurrent: 1})
	claims, err := s.take(t.Context(), tx, []claim{{view: "taken", nextRun: next}, {view: "free", nextRun: next}})
	if err != nil || len(claims) != 1 || claims[0].view != "free" || claims[0].attempt == 0 {
		t.Errorf("%+v, %v", claims, err)
	}
	var moved int
	if err := tx.QueryRow(t.Context(), `SELECT count(*) FROM materialized_view_refresh_state WHERE next_run_at > now()`).Scan(&moved); err != nil || moved != 1 {
		t.Errorf("%d views moved on, %v", moved, err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}
