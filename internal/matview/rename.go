package matview

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

const (
	logTable   = "materialized_view_refresh_log"
	stateTable = "materialized_view_refresh_state"
)

// ours tells whether a table of matview is installed in schema and whether the
// session's role may write it. to_regclass would fail where the role may not
// look into the schema.
func ours(ctx context.Context, tx pgx.Tx, schema, table string) (installed, writable bool, err error) {
	const sql = `
SELECT count(*) > 0,
       coalesce(bool_and(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
                         AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')), false)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')`
	if err := tx.QueryRow(ctx, sql, schema, table).Scan(&installed, &writable); err != nil {
		return false, false, fmt.Errorf("look for %s: %w", table, err)
	}
	return installed, writable, nil
}

// RenameRows makes what is recorded of a view in the tables in schema follow its
// rename. Names are canonical. It returns the installed tables that the
// session's role may not write, whose rows stay behind.
func RenameRows(ctx context.Context, tx pgx.Tx, schema, from, to string) (behind []string, err error) {
	return eachTable(ctx, tx, schema, func(table string) error {
		// A row of the new name is of a view that is gone: the name was free.
		if _, err := tx.Exec(ctx, "DELETE FROM "+table+" WHERE view_name = $1", to); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE "+table+" SET view_name = $2 WHERE view_name = $1", from, to)
		return err
	})
}

// DeleteRows deletes what is recorded of a view that was dropped, but for its
// history. It returns the installed tables that the session's role may not
// write.
func DeleteRows(ctx context.Context, tx pgx.Tx, schema, name string) (behind []string, err error) {
	return eachTable(ctx, tx, schema, func(table string) error {
		_, err := tx.Exec(ctx, "DELETE FROM "+table+" WHERE view_name = $1", name)
		return err
	})
}

func eachTable(ctx context.Context, tx pgx.Tx, schema string, call func(table string) error) (behind []string, err error) {
	for _, table := range []string{logTable, stateTable} {
		installed, writable, err := ours(ctx, tx, schema, table)
		switch {
		case err != nil:
			return nil, err
		case !installed:
			continue
		case !writable:
			behind = append(behind, table)
			continue
		}
		if err := call(postgres.QuoteIdent(schema, table)); err != nil {
			return nil, fmt.Errorf("change the rows of the view in %s: %w", table, postgres.Vanished(err))
		}
	}
	return behind, nil
}
