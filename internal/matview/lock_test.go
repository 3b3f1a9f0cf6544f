package matview

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Other readers do not wait while LockAccessExclusive waits for a long reader, and
// nothing has changed if it gives up.
func TestLockAccessExclusive(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs", WithData: true, Indexes: map[string]Index{"i": {Keys: []string{"id"}}}})
	reader := db.Connect(t)
	if _, err := reader.Exec(t.Context(), "BEGIN; SELECT * FROM v"); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	slowest := make(chan time.Duration)
	go func() { slowest <- slowestRead(ctx, db.URL(), "SELECT count(*) FROM v") }()
	err := change(t, pool, func(tx pgx.Tx) error { return LockAccessExclusive(t.Context(), tx, v, time.Second) })
	stop()
	if stall := <-slowest; stall > 500*time.Millisecond { // of the second that it tried
		t.Errorf("another reader waited for %s", stall)
	}
	if !IsLockTimeout(err) {
		t.Errorf("error %v, want a lock timeout", err)
	}
	done := make(chan error, 2)
	go func() {
		done <- change(t, pool, func(tx pgx.Tx) error { return SetIndexes(t.Context(), tx, v, nil, nil) })
	}()
	waitFor(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()", done)
	if _, err := reader.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || len(read(t, pool, v.Name).Indexes) > 0 {
		t.Errorf("when the reader has gone: %v", err)
	}
	err = change(t, pool, func(tx pgx.Tx) error {
		if err := LockAccessExclusive(t.Context(), tx, v, time.Second); err != nil {
			return err
		}
		if got := value[string](t, tx, "SHOW lock_timeout"); got != "30s" {
			t.Errorf("lock_timeout is %s after it, want 30s", got)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// The transaction of a refresh and that of a change wait for each other.
func TestLock(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	first, err := Begin(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	defer rollback(t.Context(), first)
	if err := Lock(t.Context(), first, "v"); err != nil {
		t.Fatal(err)
	}
	err = change(t, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "SET LOCAL lock_timeout = '100ms'"); err != nil {
			return err
		}
		if err := Lock(t.Context(), tx, "other"); err != nil {
			return err
		}
		return Lock(t.Context(), tx, "v")
	})
	if !IsLockTimeout(err) || !strings.Contains(err.Error(), "lock v against refreshes") {
		t.Errorf("error %v, want a lock timeout on v", err)
	}
}
