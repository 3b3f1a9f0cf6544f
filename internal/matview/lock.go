package matview

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// LockClass is the first key of the advisory locks on views; the second is
// hashtext(view_name), not the OID, which a replacement changes.
const LockClass = int32(0x6d617476)

// Lock takes the lock that every refresh and every change of a view by matview
// holds to the end of its transaction. It must be the first statement there:
// a refresh's snapshot may not be older than the wait for it. viewName is the
// canonical name; see [CanonicalName].
func Lock(ctx context.Context, tx pgx.Tx, viewName string) error {
	if _, err := tx.Exec(ctx, lockSQL, LockClass, viewName); err != nil {
		return fmt.Errorf("lock %s against refreshes: %w", viewName, err)
	}
	return nil
}

// QueueLock is [Lock] as a statement of a batch, in a transaction.
func QueueLock(batch *pgx.Batch, viewName string) {
	batch.Queue(lockSQL, LockClass, viewName)
}

const lockSQL = "SELECT pg_advisory_xact_lock($1, hashtext($2))"
