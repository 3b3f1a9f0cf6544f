package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// A view's row in pg_class is the fingerprint of its last refresh: the read model takes
// a view whose row differs from the recorded one for changed by somebody else. ALTER
// changes the row without touching the data, so a change of ours records the row again
// if it was the recorded one before.

// IsIntact tells whether a view is as the last recorded refresh left it. The caller
// holds a lock on the view that keeps a REFRESH out until tx ends. It is false if
// nothing is recorded, or if the session's role may not record.
func (s *Store) IsIntact(ctx context.Context, tx pgx.Tx, viewName string, oid uint32) (bool, error) {
	_, writable, err := s.access(ctx, tx, StateTable, "SELECT", "UPDATE", "DELETE")
	if err != nil || !writable {
		return false, err
	}
	var intact bool
	err = tx.QueryRow(ctx, s.SQL(`
SELECT EXISTS (SELECT FROM {state} AS s JOIN pg_class AS c
               ON c.oid = s.view_oid AND c.relfilenode = s.view_filenode AND c.xmin = s.view_xmin
               WHERE s.view_name = @view AND c.oid = @oid)`), pgx.NamedArgs{"view": viewName, "oid": oid}).Scan(&intact)
	if err != nil {
		return false, fmt.Errorf("compare %s with what was recorded: %w", viewName, postgres.Vanished(err))
	}
	return intact, nil
}

// KeepIntact records the view's row in pg_class as it is now. It is for a view that was
// intact, see [Store.IsIntact], before tx altered it.
func (s *Store) KeepIntact(ctx context.Context, tx pgx.Tx, viewName string, oid uint32) error {
	_, err := tx.Exec(ctx, s.SQL(`
UPDATE {state} AS s SET view_filenode = c.relfilenode, view_xmin = c.xmin
FROM pg_class AS c WHERE s.view_name = @view AND s.view_oid = @oid AND c.oid = @oid`), pgx.NamedArgs{"view": viewName, "oid": oid})
	if err != nil {
		return fmt.Errorf("record %s as altered: %w", viewName, postgres.Vanished(err))
	}
	return nil
}
