package matview

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A refresh by us and a change by us wait for each other.
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
