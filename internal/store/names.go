package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// KnownAs returns the names that the tables may have a view under, the canonical one,
// which is viewName, first: other programs and people write others. Call it before the
// view is renamed or dropped.
func (s *Store) KnownAs(ctx context.Context, db postgres.Querier, viewName string) ([]string, error) {
	_, readable, err := s.access(ctx, db, NamesView, "SELECT")
	if err != nil || !readable {
		return []string{viewName}, err
	}
	// A name that fits several views belongs to the one for which it ranks highest.
	rows, err := db.Query(ctx, s.SQL(`
SELECT known_as FROM (SELECT DISTINCT ON (known_as) known_as, view_name, preference FROM {names} ORDER BY known_as, preference) AS n
WHERE view_name = @view AND known_as <> @view ORDER BY preference`), pgx.NamedArgs{"view": viewName})
	if err != nil {
		return nil, fmt.Errorf("read the names of %s: %w", viewName, postgres.Vanished(err))
	}
	others, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read the names of %s: %w", viewName, postgres.Vanished(err))
	}
	return append([]string{viewName}, others...), nil
}

// RenameRows renames a view in the log, the state and the schedule; the history keeps
// the old name. from is what [Store.KnownAs] returned before the view was renamed, to
// its new canonical name. It returns the installed tables that the session's role may
// not write, whose rows keep the old name.
func (s *Store) RenameRows(ctx context.Context, tx pgx.Tx, from []string, to string) (unchanged []string, err error) {
	unchanged, err = s.recordedIn(ctx, tx, func(table string) error { return s.renameIn(ctx, tx, table, from, to) })
	if err != nil {
		return nil, err
	}
	renamed, err := s.renameSchedule(ctx, tx, from, to)
	if err == nil && !renamed {
		unchanged = append(unchanged, ScheduleTable)
	}
	return unchanged, err
}

// renameIn keeps one row of several about the view: in the log the latest, as the read
// model does. A row under the new name is about a view that is gone, since the name was
// free.
func (s *Store) renameIn(ctx context.Context, tx pgx.Tx, table string, from []string, to string) error {
	order := "array_position(@names::text[], view_name::text)"
	if table == LogTable {
		order = "last_refreshed_at DESC NULLS LAST, " + order
	}
	quoted := postgres.QuoteIdent(s.schema, table)
	var kept string
	err := tx.QueryRow(ctx, "SELECT coalesce((SELECT view_name FROM "+quoted+" WHERE view_name = ANY (@names::text[]) ORDER BY "+order+" LIMIT 1), '')",
		pgx.NamedArgs{"names": from}).Scan(&kept)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "DELETE FROM "+quoted+" WHERE view_name = ANY (@names::text[]) AND view_name <> @kept",
		pgx.NamedArgs{"names": append([]string{to}, from...), "kept": kept})
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "UPDATE "+quoted+" SET view_name = @to WHERE view_name = @kept", pgx.NamedArgs{"kept": kept, "to": to})
	return err
}

// renameSchedule leaves a schedule under the new name alone, which somebody has written
// for the view: the old one is then for its owner to remove.
func (s *Store) renameSchedule(ctx context.Context, tx pgx.Tx, from []string, to string) (renamed bool, err error) {
	_, readable, err := s.access(ctx, tx, ScheduleTable, "SELECT")
	if err != nil || !readable {
		return true, err
	}
	var row string
	err = tx.QueryRow(ctx, s.SQL("SELECT coalesce((SELECT view_name FROM {schedule} WHERE view_name = ANY (@names::text[]) ORDER BY array_position(@names::text[], view_name) LIMIT 1), '')"),
		pgx.NamedArgs{"names": from}).Scan(&row)
	if err != nil {
		return false, fmt.Errorf("look for the schedule of %s: %w", from[0], postgres.Vanished(err))
	}
	if row == "" || row == to {
		return true, nil
	}
	_, writable, err := s.access(ctx, tx, ScheduleTable, "SELECT", "UPDATE")
	if err != nil || !writable {
		return false, err
	}
	_, err = tx.Exec(ctx, s.SQL("UPDATE {schedule} SET view_name = @to WHERE view_name = @row AND NOT EXISTS (SELECT FROM {schedule} WHERE view_name = @to)"),
		pgx.NamedArgs{"row": row, "to": to})
	if err != nil {
		return false, fmt.Errorf("rename the schedule of %s: %w", from[0], postgres.Vanished(err))
	}
	return true, nil
}

// DeleteRows deletes a view that was dropped from the log and the state; its history
// and its schedule stay. names is what [Store.KnownAs] returned before. It returns the
// installed tables that the session's role may not write.
func (s *Store) DeleteRows(ctx context.Context, tx pgx.Tx, names []string) (unchanged []string, err error) {
	return s.recordedIn(ctx, tx, func(table string) error {
		_, err := tx.Exec(ctx, "DELETE FROM "+postgres.QuoteIdent(s.schema, table)+" WHERE view_name = ANY (@names::text[])", pgx.NamedArgs{"names": names})
		return err
	})
}

// recordedIn calls change for the log and the state, as far as they are installed and
// the session's role may write them.
func (s *Store) recordedIn(ctx context.Context, tx pgx.Tx, change func(table string) error) (unchanged []string, err error) {
	for _, table := range []string{LogTable, StateTable} {
		installed, writable, err := s.access(ctx, tx, table, "SELECT", "UPDATE", "DELETE")
		switch {
		case err != nil:
			return nil, err
		case !installed:
			continue
		case !writable:
			unchanged = append(unchanged, table)
			continue
		}
		if err := change(table); err != nil {
			return nil, fmt.Errorf("change the rows of the view in %s: %w", table, postgres.Vanished(err))
		}
	}
	return unchanged, nil
}

// access tells whether a relation of ours is installed and whether the session's role
// has all of rights on it. to_regclass would fail where the role may not use the
// schema.
func (s *Store) access(ctx context.Context, db postgres.Querier, relation string, rights ...string) (installed, allowed bool, err error) {
	err = db.QueryRow(ctx, `
SELECT count(*) > 0,
       coalesce(bool_and(has_schema_privilege(n.oid, 'USAGE')
                         AND (SELECT bool_and(has_table_privilege(c.oid, r)) FROM unnest(@rights::text[]) AS r)), false)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = @schema AND c.relname = @relation AND c.relkind IN ('r', 'p', 'v')`,
		pgx.NamedArgs{"schema": s.schema, "relation": relation, "rights": rights}).Scan(&installed, &allowed)
	if err != nil {
		return false, false, fmt.Errorf("look for %s: %w", relation, err)
	}
	return installed, allowed, nil
}
