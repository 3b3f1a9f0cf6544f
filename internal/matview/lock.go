package matview

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// LockClass is the first key of the advisory locks on views. The second is
// hashtext(view_name) rather than the OID, which a swap changes.
const LockClass = int32(0x6d617476)

const lockSQL = "SELECT pg_advisory_xact_lock($1, hashtext($2))"

// Lock takes the advisory lock that every refresh and every change of a view by
// matview holds until its transaction ends. It must be the first statement of the
// transaction: the snapshot of a refresh must not be older than the wait for the
// lock. viewName is the canonical name; see [CanonicalName].
func Lock(ctx context.Context, tx pgx.Tx, viewName string) error {
	if _, err := tx.Exec(ctx, lockSQL, LockClass, viewName); err != nil {
		return fmt.Errorf("lock %s against refreshes: %w", viewName, err)
	}
	return nil
}

// QueueLock adds the statement of [Lock] to a batch that runs in a transaction.
func QueueLock(batch *pgx.Batch, viewName string) {
	batch.Queue(lockSQL, LockClass, viewName)
}

// attemptTimeoutSQL limits how long one attempt waits for an ACCESS EXCLUSIVE lock,
// and with it how long readers queue behind the attempt. It is far below
// deadlock_timeout.
const attemptTimeoutSQL = "SET LOCAL lock_timeout = '5ms'"

// The pause between two attempts, in which no lock is held, grows from the first of
// these to the second.
const (
	minPause = 20 * time.Millisecond
	maxPause = time.Second
)

// LockAccessExclusive takes the lock that dropping an index or renaming the view
// requires, and holds it until tx ends. A session that waits for this lock makes
// every later reader wait behind it, even if what it waits for is only a long
// reader. So it is requested in short attempts, like the exchange of a [Swap].
// After timeout, the SQLSTATE of the error is [pgerrcode.LockNotAvailable].
func LockAccessExclusive(ctx context.Context, tx pgx.Tx, view *View, timeout time.Duration) error {
	// Setting the owner that the view has takes the lock and changes nothing.
	sql := "ALTER MATERIALIZED VIEW " + view.Name.SQL() + " OWNER TO " + postgres.QuoteIdent(view.Owner)
	statements := []string{attemptTimeoutSQL, sql, lockTimeoutSQL}
	_, err := retryLock(ctx, tx, time.Now().Add(timeout), nil, func(tx pgx.Tx) error {
		_, err := executeAll(ctx, tx, statements)
		return err
	})
	if err != nil {
		return fmt.Errorf("lock %s exclusively: %w", view.Name, err)
	}
	return nil
}

// retryLock calls attempt in a savepoint until it succeeds, fails for another
// reason than a lock, or the deadline has passed; only then it returns the number
// of attempts. waited, if not nil, grows by the time spent.
func retryLock(ctx context.Context, tx pgx.Tx, deadline time.Time, waited *time.Duration, attempt func(tx pgx.Tx) error) (attempts int, err error) {
	pause := minPause
	for n := 1; ; n++ {
		start := time.Now()
		savepoint, err := tx.Begin(ctx)
		if err != nil {
			return 0, err
		}
		if err = attempt(savepoint); err == nil {
			return 0, savepoint.Commit(ctx)
		}
		if rollbackErr := savepoint.Rollback(ctx); rollbackErr != nil {
			return 0, errors.Join(err, rollbackErr)
		}
		if !IsLockTimeout(err) && !postgres.Retryable(err) {
			return 0, err
		}
		wait := pause/2 + rand.N(pause) // so that sessions do not keep meeting each other
		last := time.Now().Add(wait).After(deadline)
		if !last {
			select {
			case <-ctx.Done():
				return 0, ctx.Err()
			case <-time.After(wait):
			}
		}
		if waited != nil {
			*waited += time.Since(start)
		}
		if last {
			return n, err
		}
		pause = min(2*pause, maxPause)
	}
}

// IsLockTimeout reports whether err is a lock_timeout.
func IsLockTimeout(err error) bool { return postgres.SQLState(err) == pgerrcode.LockNotAvailable }
