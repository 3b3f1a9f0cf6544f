package matview

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// LockTimeout is how long a change of a view waits for a lock, and how long it
// keeps requesting an ACCESS EXCLUSIVE lock in short attempts.
const LockTimeout = 30 * time.Second

var lockTimeoutSQL = fmt.Sprintf("SET LOCAL lock_timeout = '%dms'", LockTimeout.Milliseconds())

// Begin begins the transaction in which a view is changed. It is READ COMMITTED
// whatever the defaults of the role are, so that the clock read before a statement
// precedes the snapshot of the statement. No wait for a lock in it is longer than
// [LockTimeout], and the server ends it if this program stops or loses its
// connection.
func Begin(ctx context.Context, pool *pgxpool.Pool) (pgx.Tx, error) {
	tx, err := pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if postgres.SQLState(err) == pgerrcode.FeatureNotSupported {
		// READ WRITE during recovery is the only thing that BEGIN does not support.
		return nil, fmt.Errorf("the server is a read-only replica, on which nothing can be changed; connect to the primary: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("begin a transaction: %w", err)
	}
	// PostgreSQL 13 has no client_connection_check_interval.
	sql := lockTimeoutSQL + `; SET LOCAL idle_in_transaction_session_timeout = '1min';
SELECT set_config(name, '1s', true) FROM pg_settings WHERE name = 'client_connection_check_interval'`
	if _, err := tx.Exec(ctx, sql); err != nil {
		rollback(ctx, tx)
		return nil, fmt.Errorf("begin a transaction: %w", err)
	}
	return tx, nil
}
