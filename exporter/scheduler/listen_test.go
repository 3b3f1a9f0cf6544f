package scheduler

import (
	"log/slog"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// While notifications arrive the loop may wait for long, and no longer once the
// connection that brings them is lost: it is told then. Another one is made, and
// what was changed meanwhile is found.
func TestListensAgain(t *testing.T) {
	db := postgrestest.New(t)
	p, err := postgres.Open(t.Context(), postgres.Config{URL: db.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	s := New(Options{Pool: p, Schema: "public", MaxConcurrent: 1, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	l := s.listen(t.Context())
	for range 2 {
		if woken(t, s); !l.told.Swap(false) || l.pollInterval() != pollInterval {
			t.Fatalf("polls each %s when it is told", l.pollInterval())
		}
		db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()`)
		if woken(t, s); l.told.Load() || l.pollInterval() != pollWithoutNotify {
			t.Fatalf("polls each %s without the connection", l.pollInterval())
		}
	}
}

func woken(t *testing.T, s *Scheduler) {
	t.Helper()
	select {
	case <-s.wake:
	case <-time.After(30 * time.Second):
		t.Fatal("the loop is not woken")
	}
}
