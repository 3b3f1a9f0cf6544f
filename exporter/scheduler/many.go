package scheduler

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// collectMany reads what may concern all views. Until the catalog of a database
// that has just got ten thousand views is analyzed, the planner takes them for a
// few, and would join them in nested loops for half a minute.
func collectMany[T any](ctx context.Context, pool *pgxpool.Pool, scan pgx.RowToFunc[T], sql string, args ...any) (found []T, err error) {
	err = pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// Where a nested loop is the only way, its price must not have it compiled.
		if _, err := tx.Exec(ctx, "SELECT set_config('enable_nestloop', 'off', true), set_config('jit', 'off', true)"); err != nil {
			return fmt.Errorf("set the planner up: %w", err)
		}
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		found, err = pgx.CollectRows(rows, scan)
		return err
	})
	return found, err
}
