package scheduler

import (
	"log/slog"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// While notifications arrive the loop may wait for long. Once the connection that
// brings them is lost, it is woken and polls; another connection is made, and what
// was changed meanwhile is found.
func TestListensAgain(t *testing.T) {
	db := postgrestest.New(t)
	p, err := postgres.Open(t.Context(), postgres.Config{URL: db.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	l := NewLoop(Options{Pool: p, Schema: "public", MaxConcurrent: 1, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	n := l.listen(t.Context())
	for range 2 {
		if woken(t, l); !n.changed.Swap(false) || n.pollInterval() != pollInterval {
			t.Fatalf("polls each %s with notifications", n.pollInterval())
		}
		db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()`)
		if woken(t, l); n.changed.Load() || n.pollInterval() != pollWithoutNotify {
			t.Fatalf("polls each %s without the connection", n.pollInterval())
		}
	}
}

func woken(t *testing.T, l *Loop) {
	t.Helper()
	select {
	case <-l.wake:
	case <-time.After(30 * time.Second):
		t.Fatal("the loop is not woken")
	}
}
