package refresh_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// losing is a pool that loses a connection, once, instead of reading the answer that
// contains what, or the answer to the message that does.
func losing(t *testing.T, db *postgrestest.Database, what *atomic.Pointer[string]) *pgxpool.Pool {
	t.Helper()
	config, err := postgres.Config{URL: db.URL()}.PoolConfig()
	if err != nil {
		t.Fatal(err)
	}
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return &losingConn{Conn: conn, what: what}, err
	}
	pool, err := postgres.OpenPool(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

type losingConn struct {
	net.Conn
	what *atomic.Pointer[string]
	lose atomic.Bool
}

func (c *losingConn) contains(b []byte) bool {
	what := c.what.Load()
	return what != nil && bytes.Contains(b, []byte(*what)) && c.what.CompareAndSwap(what, nil)
}

func (c *losingConn) Write(b []byte) (int, error) {
	if c.contains(b) {
		c.lose.Store(true)
	}
	return c.Conn.Write(b)
}

func (c *losingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.contains(b[:n]) || c.lose.Load() {
		_ = c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// The answer to COMMIT is lost, and the refresh is done: it has succeeded.
func TestAnswerToCommitIsLost(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	admin := db.Pool(t)
	var what atomic.Pointer[string]
	pool := losing(t, db, &what)
	for _, method := range []refresh.Method{refresh.Blocking, refresh.Concurrently, refresh.Swap} {
		answer := "COMMIT\x00"
		mustRefresh(t, pool, manual("job_progress", method)) // what it prepares it has prepared
		what.Store(&answer)
		result := mustRefresh(t, pool, manual("job_progress", method))
		if what.Load() != nil {
			t.Fatal("no answer was lost: the test shows nothing")
		}
		v := fresh(t, admin, "job_progress")
		if result.Method != method || !v.DataAsOf.Equal(*result.AsOf) || *v.LastOutcome != "succeeded" || v.ConsecutiveFailures != 0 {
			t.Errorf("%s: %+v, %+v", method, result, v)
		}
	}
	if n := scan[int](t, admin, "SELECT count(*) FROM materialized_view_refresh_history WHERE outcome = 'succeeded'"); n != 6 {
		t.Errorf("%d refreshes succeeded, want 6", n)
	}
}

// The connection is lost before the server has committed, and it rolls back.
func TestConnectionIsLostBeforeCommit(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	admin := db.Pool(t)
	var what atomic.Pointer[string]
	pool := losing(t, db, &what)
	mustRefresh(t, pool, manual("job_progress", refresh.Blocking))
	answer := "REFRESH MATERIALIZED VIEW\x00"
	what.Store(&answer)
	if _, err := refresh.New(pool, "public", "test").Refresh(t.Context(), manual("job_progress", refresh.Blocking)); err == nil || errors.Is(err, refresh.ErrTakenOver) {
		t.Errorf("err = %v", err)
	}
	if v := fresh(t, admin, "job_progress"); v.ConsecutiveFailures != 1 || *v.LastOutcome != "failed" {
		t.Errorf("%+v", v)
	}
}

func TestAnswerToSkipIsLost(t *testing.T) {
	needsSkipping(t)
	db := installed(t)
	db.Exec(t, jobs)
	var what atomic.Pointer[string]
	pool := losing(t, db, &what)
	mustNotSkip(t, pool, "job_progress", "")
	mustSkip(t, pool, "job_progress")
	message := "nothing that it reads has changed"
	what.Store(&message)
	result := mustSkip(t, pool, "job_progress")
	if v := fresh(t, db.Pool(t), "job_progress"); what.Load() != nil || *v.LastOutcome != "skipped" || !v.DataAsOf.Equal(*result.AsOf) || result.FinishedAt.IsZero() {
		t.Errorf("%+v, %+v", result, v)
	}
}
