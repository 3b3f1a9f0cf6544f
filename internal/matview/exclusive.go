package matview

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// LockOutReaders takes the lock that dropping an index or renaming the view
// needs, and keeps it until tx ends. Whoever waits for it makes every later
// reader wait behind it, also where it is a long reader that is waited for: so it
// is asked for in short attempts, as in the exchange of a [Swap], and in between
// the view is nobody's. After patience the error's SQLSTATE is
// [pgerrcode.LockNotAvailable].
func LockOutReaders(ctx context.Context, tx pgx.Tx, view *View, patience time.Duration) error {
	// To the owner that it has: that changes nothing, but takes the lock.
	sql := "ALTER MATERIALIZED VIEW " + view.Name.SQL() + " OWNER TO " + postgres.QuoteIdent(view.Owner)
	deadline := time.Now().Add(patience)
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		savepoint, err := tx.Begin(ctx)
		if err != nil {
			return err
		}
		_, err = executeAll(ctx, savepoint, []string{"SET LOCAL lock_timeout = '" + exchangeTimeout + "'", sql, "SET LOCAL lock_timeout = '" + LockTimeout + "'"})
		if err == nil {
			return savepoint.Commit(ctx)
		}
		if rollbackErr := savepoint.Rollback(ctx); rollbackErr != nil {
			return rollbackErr
		}
		if !isPassing(err) || time.Now().Add(pause).After(deadline) {
			return fmt.Errorf("lock %s for a change: %w", view.Name, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}
