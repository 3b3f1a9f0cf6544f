package api_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// However many ask for a status that cannot be read at the moment, half of the
// connections are left for rows.
func TestStatusLeavesConnections(t *testing.T) {
	const clients, left = 30, 5
	db := jobs(t)
	pool, _ := counted(t, db) // of ten
	o := options(t, pool, jobsRoute)
	o.Timeout = 30 * time.Second
	h := serve(t, o)
	blocker := db.Connect(t)
	if _, err := blocker.Exec(t.Context(), "BEGIN; LOCK TABLE materialized_view_refresh_schedule IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	var asking sync.WaitGroup
	var answered atomic.Int32
	for _, path := range []string{"/cache/status", "/cache/status/job_progress", "/"} {
		for range clients / 3 {
			asking.Go(func() {
				if w := get(t, h, path); w.Code != http.StatusOK {
					t.Errorf("%s: %d %s", path, w.Code, w.Body)
				}
				answered.Add(1)
			})
		}
	}
	waitForLocks(t, db, left)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for n := range left {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			t.Fatalf("connection %d: %v", n, err)
		}
		t.Cleanup(conn.Release)
	}
	if n := answered.Load(); n > 0 {
		t.Errorf("%d have answered", n)
	}
	if _, err := blocker.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Error(err)
	}
	asking.Wait()
}

// Anybody may ask whether the exporter is ready: all who do at once cost one
// statement at a time.
func TestReadyIsShared(t *testing.T) {
	const clients = 100
	db := jobs(t)
	pool, count := counted(t, db)
	h := serve(t, options(t, pool, jobsRoute))
	if w := get(t, h, "/-/ready"); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	blocker := db.Connect(t)
	if _, err := blocker.Exec(t.Context(), "BEGIN; LOCK TABLE materialized_view_refresh_schedule IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	before := count.statements.Load()
	var asking sync.WaitGroup
	for range clients {
		asking.Go(func() {
			if w := get(t, h, "/-/ready"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "the database took too long") {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	asking.Wait()
	// One after the other, for as long as they have asked.
	if n := count.statements.Load() - before; n > clients/2 {
		t.Errorf("%d statements for %d requests", n, clients)
	}
	if _, err := blocker.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if w := get(t, h, "/-/ready"); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
