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

// LockTimeout is how long a change of a view waits for a lock, as PostgreSQL writes it.
const LockTimeout = "30s"

// Patience is how long a change goes on asking for a lock in short attempts: as long
// as [LockTimeout], which is for one wait.
const Patience = 30 * time.Second

// Begin begins the transaction in which a view is changed: READ COMMITTED, so
// that the clock read before a statement is before its snapshot, whatever the
// role's defaults are. No wait for a lock in it is longer than [LockTimeout],
// and the server ends it if this program stops or is cut off.
func Begin(ctx context.Context, pool *pgxpool.Pool) (pgx.Tx, error) {
	tx, err := pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if postgres.SQLState(err) == pgerrcode.FeatureNotSupported {
		// To write during recovery is the one thing that BEGIN does not support.
		return nil, fmt.Errorf("the server is a read-only replica, on which nothing can be changed; connect to the primary: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("begin a transaction: %w", err)
	}
	// client_connection_check_interval came with PostgreSQL 14.
	const sql = `SET LOCAL lock_timeout = '` + LockTimeout + `'; SET LOCAL idle_in_transaction_session_timeout = '1min';
SELECT set_config(name, '1s', true) FROM pg_settings WHERE name = 'client_connection_check_interval'`
	if _, err := tx.Exec(ctx, sql); err != nil {
		rollback(ctx, tx)
		return nil, fmt.Errorf("begin a transaction: %w", err)
	}
	return tx, nil
}
