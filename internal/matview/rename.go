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
	// ScheduleTable is whose rows people and Terraform write.
	ScheduleTable = "materialized_view_refresh_schedule"
	namesView     = "materialized_view_names"
)

// ours tells whether a relation of matview is installed in schema and whether the
// session's role has all of rights on it. to_regclass would fail where the role
// may not look into the schema.
func ours(ctx context.Context, tx pgx.Tx, schema, relation string, rights ...string) (installed, allowed bool, err error) {
	const sql = `
SELECT count(*) > 0,
       coalesce(bool_and(has_schema_privilege(n.oid, 'USAGE')
                         AND (SELECT bool_and(has_table_privilege(c.oid, r)) FROM unnest($3::text[]) AS r)), false)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v')`
	if err := tx.QueryRow(ctx, sql, schema, relation, rights).Scan(&installed, &allowed); err != nil {
		return false, false, fmt.Errorf("look for %s: %w", relation, err)
	}
	return installed, allowed, nil
}

// KnownAs are the names that the tables in schema may have a view under, the
// canonical one, which is viewName, first: other programs and people write others.
// It is to be asked for before the view is renamed or dropped.
func KnownAs(ctx context.Context, tx pgx.Tx, schema, viewName string) ([]string, error) {
	_, allowed, err := ours(ctx, tx, schema, namesView, "SELECT")
	if err != nil || !allowed {
		return []string{viewName}, err
	}
	// A name that suits several views is that of the one whose better name it is.
	sql := `SELECT known_as FROM (SELECT DISTINCT ON (known_as) known_as, view_name, preference FROM ` + postgres.QuoteIdent(schema, namesView) + `
      ORDER BY known_as, preference) AS n WHERE view_name = $1 AND known_as <> $1 ORDER BY preference`
	rows, err := tx.Query(ctx, sql, viewName)
	if err != nil {
		return nil, fmt.Errorf("read the names of %s: %w", viewName, postgres.Vanished(err))
	}
	others, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read the names of %s: %w", viewName, postgres.Vanished(err))
	}
	return append([]string{viewName}, others...), nil
}

// RenameRows makes what the tables in schema have of a view follow its rename to
// the canonical name to; from is what [KnownAs] gave before. It returns the
// installed tables that the session's role may not write, whose rows stay behind.
func RenameRows(ctx context.Context, tx pgx.Tx, schema string, from []string, to string) (behind []string, err error) {
	behind, err = eachTable(ctx, tx, schema, func(table string) error {
		// The row that counts stays. One of the new name is of a view that is gone:
		// the name was free.
		order := "array_position($1::text[], view_name::text)"
		if table == postgres.QuoteIdent(schema, logTable) {
			order = "last_refreshed_at DESC NULLS LAST, " + order // as the read model has it
		}
		var kept string
		err := tx.QueryRow(ctx, "SELECT coalesce((SELECT view_name FROM "+table+" WHERE view_name = ANY ($1::text[]) ORDER BY "+order+" LIMIT 1), '')", from).Scan(&kept)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM "+table+" WHERE view_name = ANY ($1::text[]) AND view_name <> $2", append([]string{to}, from...), kept); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE "+table+" SET view_name = $2 WHERE view_name = $1", kept, to)
		return err
	})
	if err != nil {
		return nil, err
	}
	moved, err := renameSchedule(ctx, tx, schema, from, to)
	if err == nil && !moved {
		behind = append(behind, ScheduleTable)
	}
	return behind, err
}

// renameSchedule leaves a schedule of the new name alone, which somebody has
// written for the view: then the old one is for its owner to remove.
func renameSchedule(ctx context.Context, tx pgx.Tx, schema string, from []string, to string) (moved bool, err error) {
	_, readable, err := ours(ctx, tx, schema, ScheduleTable, "SELECT")
	if err != nil || !readable {
		return true, err
	}
	table := postgres.QuoteIdent(schema, ScheduleTable)
	var row string
	err = tx.QueryRow(ctx, "SELECT coalesce((SELECT view_name FROM "+table+" WHERE view_name = ANY ($1::text[]) ORDER BY array_position($1::text[], view_name) LIMIT 1), '')", from).Scan(&row)
	if err != nil {
		return false, fmt.Errorf("look for the schedule of %s: %w", from[0], postgres.Vanished(err))
	}
	if row == "" || row == to {
		return true, nil
	}
	_, writable, err := ours(ctx, tx, schema, ScheduleTable, "SELECT", "UPDATE")
	if err != nil || !writable {
		return false, err
	}
	sql := "UPDATE " + table + " SET view_name = $2 WHERE view_name = $1 AND NOT EXISTS (SELECT FROM " + table + " WHERE view_name = $2)"
	if _, err := tx.Exec(ctx, sql, row, to); err != nil {
		return false, fmt.Errorf("change the name in the schedule of %s: %w", from[0], postgres.Vanished(err))
	}
	return true, nil
}

// DeleteRows deletes what is recorded of a view that was dropped, but for its
// history; names is what [KnownAs] gave before. It returns the installed tables
// that the session's role may not write.
func DeleteRows(ctx context.Context, tx pgx.Tx, schema string, names []string) (behind []string, err error) {
	return eachTable(ctx, tx, schema, func(table string) error {
		_, err := tx.Exec(ctx, "DELETE FROM "+table+" WHERE view_name = ANY ($1::text[])", names)
		return err
	})
}

func eachTable(ctx context.Context, tx pgx.Tx, schema string, call func(table string) error) (behind []string, err error) {
	for _, table := range []string{logTable, stateTable} {
		installed, writable, err := ours(ctx, tx, schema, table, "SELECT", "UPDATE", "DELETE")
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
