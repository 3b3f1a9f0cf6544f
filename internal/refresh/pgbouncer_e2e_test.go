//go:build e2e

package refresh_test

import (
	"context"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// Behind a pooler each try has a backend of its own. None is recorded: the end of one
// is not that of the attempt. The lock of the attempt tells which one is at work.
func TestE2EBackendsOfTriesBehindPgBouncer(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	admin := db.Pool(t)
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: db.PgBouncer(t), PgBouncer: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	holder := db.Connect(t)
	if _, err := holder.Exec(t.Context(), "BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		req := manual("job_progress", refresh.Blocking)
		req.LockTimeout = time.Second
		_, err := refresh.New(pool, "public", "test").Refresh(context.WithoutCancel(t.Context()), req)
		done <- err
	}()
	const atWork = `EXISTS (SELECT FROM pg_locks AS l JOIN materialized_view_refresh_history AS h ON l.objid = h.id::int::oid
WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted AND h.outcome = 'running' AND h.backend_pid IS NULL)`
	waitFor(t, admin, "SELECT "+atWork)
	waitFor(t, admin, "SELECT NOT "+atWork)
	if _, err := holder.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
