package matview

import (
	"context"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Spec describes a view to create.
type Spec struct {
	Name       Name
	Definition string // SQL of a user
	// ColumnNames rename the first columns that Definition returns.
	ColumnNames []string
	Storage     Storage
	Owner       string // "" means the session's role
	Comment     string // "" means none
	Indexes     map[string]Index
	WithData    bool
}

// ExistsError says that the name is taken.
type ExistsError struct {
	Name Name
	Kind string // "materialized view", "table", ...
	// Renamed is the view that was to get the name; zero where it was a new one.
	Renamed Name
}

func (e *ExistsError) Error() string { return fmt.Sprintf("%s %s exists already", e.Kind, e.Name) }

// Create creates a view in tx, which is READ COMMITTED and holds the view's
// [Lock]. It does not begin to read before the caller's clock: the caller reads
// that right before, and records the population after.
//
// The view is made as its owner, so that it gets the owner's default privileges
// and reads only what the owner may read, now as at every refresh. What is wrong
// with the definition is an [SQLError].
func Create(ctx context.Context, tx pgx.Tx, spec Spec) error {
	if err := refuseExisting(ctx, tx, spec.Name); err != nil {
		return err
	}
	query, tail := spec.Definition, ""
	if !spec.WithData {
		// Nothing can follow a user's text: it may end with a semicolon. The
		// server's own words can be continued.
		n, err := normalize(ctx, tx, spec.Definition, spec.ColumnNames, spec.Name.Schema, "")
		if err != nil {
			return fmt.Errorf("create materialized view %s: %w", spec.Name, err)
		}
		query, tail = n.Definition, "\nWITH NO DATA"
	}
	return asOwner(ctx, tx, spec.Owner, func() error {
		prefix := "CREATE MATERIALIZED VIEW " + spec.Name.SQL() + columnList(spec.ColumnNames) + spec.Storage.createSQL() + " AS "
		if err := execute(ctx, tx, prefix+query+tail); err != nil {
			return fmt.Errorf("create materialized view %s: %w", spec.Name, sqlError(err, prefix, query))
		}
		if spec.Comment != "" {
			if err := Comment(ctx, tx, spec.Name, spec.Comment); err != nil {
				return err
			}
		}
		return createIndexes(ctx, tx, spec.Name, spec.Indexes)
	})
}

func refuseExisting(ctx context.Context, tx pgx.Tx, name Name) error {
	kind, err := Kind(ctx, tx, name)
	if err != nil {
		return err
	}
	if kind != "" {
		return &ExistsError{Name: name, Kind: kind}
	}
	return nil
}

// Kind is what has the name, such as "materialized view" or "table"; "" if it is
// free. A type is in the way too, since a relation makes one of its name; only that
// of an array gives way.
func Kind(ctx context.Context, q Querier, name Name) (string, error) {
	const sql = `
SELECT CASE c.relkind WHEN 'm' THEN 'materialized view' WHEN 'v' THEN 'view' WHEN 'i' THEN 'index' WHEN 'S' THEN 'sequence'
                      WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'composite type' ELSE 'table' END
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2
UNION ALL
SELECT 'type'
FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
WHERE n.nspname = $1 AND t.typname = $2 AND t.typrelid = 0 AND NOT EXISTS (SELECT FROM pg_type AS e WHERE e.typarray = t.oid)`
	rows, err := q.Query(ctx, sql, name.Schema, name.Relation)
	if err != nil {
		return "", fmt.Errorf("look for %s: %w", name, err)
	}
	kinds, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", fmt.Errorf("look for %s: %w", name, err)
	}
	if len(kinds) == 0 {
		return "", nil
	}
	return kinds[0], nil
}

// HasSchema tells whether there is a schema of the name.
func HasSchema(ctx context.Context, q Querier, name string) (found bool, err error) {
	if err := q.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", name).Scan(&found); err != nil {
		return false, fmt.Errorf("look for schema %q: %w", name, err)
	}
	return found, nil
}

// RoleError says that the session cannot act as the role that is to own a view.
type RoleError struct {
	Role string
	Err  error
}

func (e *RoleError) Error() string {
	return fmt.Sprintf("become role %q, which is to own the view: %v", e.Role, e.Err)
}

func (e *RoleError) Unwrap() error { return e.Err }

// RightsError says that the owner of a view may not do what its query, or its
// place, takes.
type RightsError struct {
	Role string
	Err  error
}

func (e *RightsError) Error() string { return e.Err.Error() }

func (e *RightsError) Unwrap() error { return e.Err }

// asOwner calls what is to be done by role owner ("" means the session's), and
// then puts the session's role back. The search_path is resolved before, since
// $user in it would mean another schema. A right that owner lacks is a
// [RightsError].
func asOwner(ctx context.Context, tx pgx.Tx, owner string, call func() error) error {
	var acting, role, path string
	var change bool
	const current = `SELECT $1 NOT IN ('', current_user), coalesce(nullif($1, ''), current_user), current_setting('role'),
       (SELECT coalesce(string_agg(quote_ident(s), ', ' ORDER BY i), '''''') FROM unnest(current_schemas(false)) WITH ORDINALITY AS u (s, i))`
	if err := tx.QueryRow(ctx, current, owner).Scan(&change, &acting, &role, &path); err != nil {
		return fmt.Errorf("become role %q: %w", owner, err)
	}
	if !change {
		return lacking(acting, call())
	}
	const set = "SELECT set_config('search_path', $1, true), set_config('role', $2, true)"
	if _, err := tx.Exec(ctx, set, path, owner); err != nil {
		return &RoleError{Role: owner, Err: err}
	}
	if err := call(); err != nil {
		return lacking(acting, err)
	}
	if _, err := tx.Exec(ctx, "SELECT set_config('role', $1, true)", role); err != nil {
		return fmt.Errorf("become role %q again: %w", role, err)
	}
	return nil
}

func lacking(role string, err error) error {
	if postgres.SQLState(err) == pgerrcode.InsufficientPrivilege {
		return &RightsError{Role: role, Err: err}
	}
	return err
}

// Comment sets the comment of a view; "" removes it.
func Comment(ctx context.Context, tx pgx.Tx, name Name, comment string) error {
	text := "NULL"
	if comment != "" {
		if err := tx.QueryRow(ctx, "SELECT quote_literal($1)", comment).Scan(&text); err != nil {
			return fmt.Errorf("comment on materialized view %s: %w", name, err)
		}
	}
	if err := execute(ctx, tx, "COMMENT ON MATERIALIZED VIEW "+name.SQL()+" IS "+text); err != nil {
		return fmt.Errorf("comment on materialized view %s: %w", name, err)
	}
	return nil
}

// Fill populates a view. It must come before anything in tx that reads or locks
// the view, which would let this overtake another session's REFRESH that waits
// with an older snapshot, and then writes older data over it. Readers wait, for
// a view that has no data anyway. The caller reads the clock right before.
func Fill(ctx context.Context, tx pgx.Tx, view *View) error {
	if _, err := tx.Exec(ctx, "REFRESH MATERIALIZED VIEW "+view.Name.SQL()); err != nil {
		return fmt.Errorf("fill materialized view %s: %w", view.Name, err)
	}
	return nil
}

// OwnerObstacle says why the session could not make a view in schema that role
// owns; "" if it could.
func OwnerObstacle(ctx context.Context, q Querier, role, schema string) (string, error) {
	const sql = `
SELECT CASE WHEN r.oid IS NULL THEN format('There is no role %s', quote_ident($1))
            WHEN NOT pg_has_role(r.oid, 'MEMBER') THEN format('The provider''s role %I is no member of %I (GRANT %2$I TO %1$I)', current_user, r.rolname)
            WHEN NOT pg_has_role(r.oid, ` + setRight + `) THEN format('The provider''s role %I is a member of %I without SET (GRANT %2$I TO %1$I WITH SET TRUE)', current_user, r.rolname)
            WHEN NOT has_schema_privilege(r.oid, n.oid, 'CREATE') THEN format('It may not create in schema %I (GRANT CREATE ON SCHEMA %1$I TO %2$I)', n.nspname, r.rolname)
            ELSE '' END
FROM (VALUES (1)) AS one LEFT JOIN pg_roles AS r ON r.rolname = $1 LEFT JOIN pg_namespace AS n ON n.nspname = $2`
	var obstacle string
	if err := q.QueryRow(ctx, sql, role, schema).Scan(&obstacle); err != nil {
		return "", fmt.Errorf("look for role %q: %w", role, err)
	}
	return obstacle, nil
}
