package refresh_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// refusing is a pool that the server refuses as many new connections as the counter says.
func refusing(t *testing.T, db *postgrestest.Database) (*pgxpool.Pool, *atomic.Int32) {
	t.Helper()
	config, err := postgres.Config{URL: db.URL()}.PoolConfig()
	if err != nil {
		t.Fatal(err)
	}
	refuse := &atomic.Int32{}
	config.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
		if refuse.Add(-1) >= 0 {
			return errors.New("sorry, too many clients already")
		}
		return nil
	}
	pool, err := postgres.OpenPool(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, refuse
}

const claimedSQL = `INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, attempted_by, heartbeat_at)
VALUES ('job_progress', 'schedule', 'running', 'test', clock_timestamp()) RETURNING id`

// An attempt that was claimed and gets no connection has failed for that reason,
// and not since its process had stopped answering.
func TestClaimedWithoutConnection(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool, refuse := refusing(t, db)
	admin := db.Pool(t)
	req := manual("job_progress", refresh.Auto)
	req.Attempt = scan[int64](t, admin, claimedSQL)
	refuse.Store(3)
	if _, err := refresh.New(pool, "public", "test").Refresh(t.Context(), req); err == nil || strings.Contains(err.Error(), "recorded") {
		t.Errorf("err = %v", err)
	}
	if got := scan[string](t, admin, `SELECT concat(outcome, ': ', error) FROM materialized_view_refresh_history`); got != "failed: refresh job_progress: sorry, too many clients already" {
		t.Error(got)
	}
	if n := scan[int](t, admin, `SELECT consecutive_failures FROM materialized_view_refresh_state`); n != 1 {
		t.Errorf("%d failures", n)
	}
}

func TestClaimedAndCancelled(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	req := manual("job_progress", refresh.Auto)
	req.Attempt = scan[int64](t, pool, claimedSQL)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("told to stop"))
	if _, err := refresh.New(pool, "public", "test").Refresh(ctx, req); err == nil {
		t.Error("refreshed")
	}
	if got := scan[string](t, pool, `SELECT concat_ws(': ', outcome, sqlstate, error) FROM materialized_view_refresh_history`); got != "failed: 57014: refresh job_progress: told to stop" {
		t.Error(got)
	}
}

// The server restarts in the middle of a refresh: what that failed for is recorded
// once it is back.
func TestFailureIsRecordedOnceTheServerIsBack(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW slow AS SELECT pg_sleep(60)::text AS nap WITH NO DATA`)
	pool, refuse := refusing(t, db)
	admin := db.Pool(t)
	failed := make(chan error)
	go func() {
		_, err := refresh.New(pool, "public", "test").Refresh(context.WithoutCancel(t.Context()), manual("slow", refresh.Auto))
		failed <- err
	}()
	waitFor(t, admin, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'REFRESH%' AND datname = current_database() AND wait_event = 'PgSleep')`)
	refuse.Store(3)
	db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()
AND pid <> `+scan[string](t, admin, "SELECT pg_backend_pid()::text"))
	if err := <-failed; err == nil || strings.Contains(err.Error(), "recorded") {
		t.Errorf("err = %v", err)
	}
	if got := scan[string](t, db.Pool(t), `SELECT concat(outcome, ': ', sqlstate) FROM materialized_view_refresh_history`); got != "failed: 57P01" {
		t.Error(got)
	}
}
