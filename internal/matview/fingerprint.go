package matview

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// A view's row in pg_class is the fingerprint of its last refresh: the read
// model takes a view whose row differs from the one recorded for changed behind
// our back. ALTER changes the row without touching the data, so a change of ours
// records the row again, if it was the recorded one before.

// IsIntact says whether a view is as the last recorded refresh left it. The
// caller holds a lock on the view that keeps a REFRESH out until tx ends; [Comment]
// takes one, and leaves the row in pg_class as it is. It is false where nothing
// is recorded, or where the session's role may not record.
func IsIntact(ctx context.Context, tx pgx.Tx, schema, viewName string, oid uint32) (bool, error) {
	_, writable, err := ours(ctx, tx, schema, stateTable, "SELECT", "UPDATE", "DELETE")
	if err != nil || !writable {
		return false, err
	}
	sql := "SELECT EXISTS (SELECT FROM " + postgres.QuoteIdent(schema, stateTable) + ` AS s JOIN pg_class AS c
ON c.oid = s.view_oid AND c.relfilenode = s.view_filenode AND c.xmin = s.view_xmin
WHERE s.view_name = $1 AND c.oid = $2)`
	var intact bool
	if err := tx.QueryRow(ctx, sql, viewName, oid).Scan(&intact); err != nil {
		return false, fmt.Errorf("compare %s with what was recorded: %w", viewName, postgres.Vanished(err))
	}
	return intact, nil
}

// KeepIntact records the view's row in pg_class as it is now. It is for a view
// that [IsIntact], and that tx has altered since.
func KeepIntact(ctx context.Context, tx pgx.Tx, schema, viewName string, oid uint32) error {
	sql := "UPDATE " + postgres.QuoteIdent(schema, stateTable) + ` AS s SET view_filenode = c.relfilenode, view_xmin = c.xmin
FROM pg_class AS c WHERE s.view_name = $1 AND s.view_oid = $2 AND c.oid = $2`
	if _, err := tx.Exec(ctx, sql, viewName, oid); err != nil {
		return fmt.Errorf("record %s as altered: %w", viewName, postgres.Vanished(err))
	}
	return nil
}
