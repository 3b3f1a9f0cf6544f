package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// collect reads all rows of a query as structs.
func collect[T any](rows pgx.Rows, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[T])
}

// collectOne reads the one row of a query, or returns [pgx.ErrNoRows].
func collectOne[T any](rows pgx.Rows, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
}

// BatchSender is a connection or a pool. A batch is one transaction.
type BatchSender interface {
	SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults
}

// Beginner is a connection or a pool.
type Beginner interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// queryWithoutNestedLoops reads what may concern all views. Until autovacuum analyzes
// the catalog of a database that has just got ten thousand views, the planner
// expects a few, and nested loops over them take half a minute.
func queryWithoutNestedLoops[T any](ctx context.Context, db Beginner, scan pgx.RowToFunc[T], sql string, args pgx.NamedArgs) (found []T, err error) {
	err = pgx.BeginTxFunc(ctx, db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// Where a nested loop is the only plan, its cost must not trigger JIT compilation.
		if _, err := tx.Exec(ctx, "SELECT set_config('enable_nestloop', 'off', true), set_config('jit', 'off', true)"); err != nil {
			return fmt.Errorf("set the planner up: %w", err)
		}
		rows, err := tx.Query(ctx, sql, args)
		if err != nil {
			return err
		}
		found, err = pgx.CollectRows(rows, scan)
		return err
	})
	return found, err
}
