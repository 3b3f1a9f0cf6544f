package api_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/exporter/api"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// However many wait for a view that is locked, each is answered in time.
func TestManyWaitForALock(t *testing.T) {
	const clients, timeout = 1000, 2 * time.Second
	db := jobs(t)
	o := options(t, configured(t, db), jobsRoute)
	o.Timeout = timeout
	h := serve(t, o)
	body(t, h, "/jobs/job-1", http.StatusOK)
	// How long the machine takes for as many requests that need not wait.
	var asking sync.WaitGroup
	began := time.Now()
	for i := range clients {
		asking.Go(func() { get(t, h, fmt.Sprintf("/jobs/job-%d", i)) })
	}
	asking.Wait()
	slack := 5*time.Since(began) + 2*time.Second
	lock(t, db, "job_progress")
	var waiting sync.WaitGroup
	for i := range clients {
		waiting.Go(func() {
			began := time.Now()
			w := get(t, h, fmt.Sprintf("/jobs/job-%d", i))
			// The promise is one second more than the timeout; the rest is for a busy
			// machine. One after the other, all would take fourteen.
			if took := time.Since(began); took > timeout+time.Second+slack {
				t.Errorf("answered after %s", took)
			}
			if busy, late := w.Code == http.StatusServiceUnavailable && strings.Contains(w.Body.String(), "view-busy"), w.Code == http.StatusGatewayTimeout; !busy && !late {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	waiting.Wait()
}

// lock keeps everybody from reading a view until release is called.
func lock(t testing.TB, db *postgrestest.Database, view string) (release func()) {
	t.Helper()
	blocker := db.Connect(t)
	if _, err := blocker.Exec(t.Context(), "BEGIN; REFRESH MATERIALIZED VIEW "+view); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := blocker.Exec(t.Context(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
	}
}

// counting counts the statements of a pool.
type counting struct{ statements atomic.Int64 }

func (c *counting) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.statements.Add(1)
	return ctx
}

func (c *counting) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func counted(t testing.TB, db *postgrestest.Database) (*pgxpool.Pool, *counting) {
	t.Helper()
	c, err := pgxpool.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	count := &counting{}
	c.ConnConfig.Tracer = count
	c.MaxConns = 10
	api.ConfigureSessions(c, 30*time.Second)
	pool, err := pgxpool.NewWithConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, count
}
