package matview

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// The row of a view in pg_class is the fingerprint of its last refresh: if it differs
// from the recorded one, the read model reports that somebody else has changed the
// view. ALTER changes the row but not the data, so our changes of a view record the
// row again if it was the recorded one before.

// IsIntact reports whether a view is as its last recorded refresh left it. It is false
// if nothing is recorded, or if the role of the session must not record. The caller
// holds a lock on the view that keeps a REFRESH out until tx ends; [Comment] takes
// one and leaves the row in pg_class as it is.
func IsIntact(ctx context.Context, tx pgx.Tx, schema, viewName string, oid uint32) (intact bool, err error) {
	_, writable, err := ours(ctx, tx, schema, stateTable, "SELECT", "UPDATE", "DELETE")
	if err != nil || !writable {
		return false, err
	}
	sql := "SELECT EXISTS (SELECT FROM " + postgres.QuoteIdent(schema, stateTable) + ` AS s JOIN pg_class AS c
ON c.oid = s.view_oid AND c.relfilenode = s.view_filenode AND c.xmin = s.view_xmin
WHERE s.view_name = $1 AND c.oid = $2)`
	if err := tx.QueryRow(ctx, sql, viewName, oid).Scan(&intact); err != nil {
		return false, fmt.Errorf("compare %s with its recorded refresh: %w", viewName, postgres.Vanished(err))
	}
	return intact, nil
}

// KeepIntact records the row of the view in pg_class as it is now, for a view that
// [IsIntact] and that tx has altered since.
func KeepIntact(ctx context.Context, tx pgx.Tx, schema, viewName string, oid uint32) error {
	sql := "UPDATE " + postgres.QuoteIdent(schema, stateTable) + ` AS s SET view_filenode = c.relfilenode, view_xmin = c.xmin
FROM pg_class AS c WHERE s.view_name = $1 AND s.view_oid = $2 AND c.oid = $2`
	if _, err := tx.Exec(ctx, sql, viewName, oid); err != nil {
		return fmt.Errorf("record that %s was altered: %w", viewName, postgres.Vanished(err))
	}
	return nil
}
