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

// ExistsError says that a name is taken.
type ExistsError struct {
	Name Name
	Kind string // "materialized view", "table", …
	// Renamed is the view that was to get the name; zero if it was a new view.
	Renamed Name
}

func (e *ExistsError) Error() string { return fmt.Sprintf("%s %s already exists", e.Kind, e.Name) }

// Create creates a view in tx, which is READ COMMITTED and holds the view's [Lock].
// The caller reads the clock right before, for the as-of of the population, which
// it records afterwards.
//
// The view is created as its owner, so that it gets the default privileges of the
// owner, and reads only what the owner may read, as every refresh does. It returns
// an [SQLError] if the definition is wrong.
func Create(ctx context.Context, tx pgx.Tx, spec Spec) error {
	if err := refuseExisting(ctx, tx, spec.Name); err != nil {
		return err
	}
	query, tail := spec.Definition, ""
	if !spec.WithData {
		// Nothing can be appended to a user's text, which may end with a semicolon, but
		// to the normal form.
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
		return createIndexes(ctx, tx, spec.Name, spec.Name, spec.Indexes)
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

// Kind is the kind of the relation or type that has a name, such as "materialized
// view" or "table"; "" if the name is free. A type takes a name too, since every
// relation has a row type of its name; only an array type is renamed to make room.
func Kind(ctx context.Context, q postgres.Querier, name Name) (kind string, err error) {
	const sql = `
SELECT coalesce(min(kind), '') FROM (
SELECT CASE c.relkind WHEN 'm' THEN 'materialized view' WHEN 'v' THEN 'view' WHEN 'i' THEN 'index' WHEN 'S' THEN 'sequence'
                      WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'composite type' ELSE 'table' END AS kind
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2
UNION ALL
SELECT 'type'
FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
WHERE n.nspname = $1 AND t.typname = $2 AND t.typrelid = 0 AND NOT EXISTS (SELECT FROM pg_type AS e WHERE e.typarray = t.oid)) AS found`
	if err := q.QueryRow(ctx, sql, name.Schema, name.Relation).Scan(&kind); err != nil {
		return "", fmt.Errorf("look for %s: %w", name, err)
	}
	return kind, nil
}

// HasSchema reports whether a schema exists.
func HasSchema(ctx context.Context, q postgres.Querier, name string) (found bool, err error) {
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

// PrivilegeError says that the owner of a view lacks a privilege that the query
// requires, or that creating the view does.
type PrivilegeError struct {
	Role string
	Err  error
}

func (e *PrivilegeError) Error() string { return e.Err.Error() }

func (e *PrivilegeError) Unwrap() error { return e.Err }

// asOwner calls do as the role owner ("" means the session's), and then restores the
// role of the session. It resolves the search_path before, since $user in it would
// mean another schema. It returns a [PrivilegeError] if the owner lacks a privilege.
func asOwner(ctx context.Context, tx pgx.Tx, owner string, do func() error) error {
	var acting, role, path string
	var change bool
	const current = `SELECT $1 NOT IN ('', current_user), coalesce(nullif($1, ''), current_user), current_setting('role'),
       (SELECT coalesce(string_agg(quote_ident(s), ', ' ORDER BY i), '''''') FROM unnest(current_schemas(false)) WITH ORDINALITY AS u (s, i))`
	if err := tx.QueryRow(ctx, current, owner).Scan(&change, &acting, &role, &path); err != nil {
		return fmt.Errorf("become role %q: %w", owner, err)
	}
	if !change {
		return privilegeError(acting, do())
	}
	const set = "SELECT set_config('search_path', $1, true), set_config('role', $2, true)"
	if _, err := tx.Exec(ctx, set, path, owner); err != nil {
		return &RoleError{Role: owner, Err: err}
	}
	if err := do(); err != nil {
		return privilegeError(acting, err)
	}
	if _, err := tx.Exec(ctx, "SELECT set_config('role', $1, true)", role); err != nil {
		return fmt.Errorf("become role %q again: %w", role, err)
	}
	return nil
}

func privilegeError(role string, err error) error {
	if postgres.SQLState(err) == pgerrcode.InsufficientPrivilege {
		return &PrivilegeError{Role: role, Err: err}
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

// Populate fills a view that has no data; readers wait. It must precede anything in
// tx that reads or locks the view: with such a lock, it would overtake a REFRESH of
// another session that waits with an older snapshot, and that would then overwrite
// the view with older data. The caller reads the clock right before.
func Populate(ctx context.Context, tx pgx.Tx, view *View) error {
	if _, err := tx.Exec(ctx, "REFRESH MATERIALIZED VIEW "+view.Name.SQL()); err != nil {
		return fmt.Errorf("populate materialized view %s: %w", view.Name, err)
	}
	return nil
}

// OwnerObstacle says why the session cannot create a view in schema that role owns;
// "" if it can.
func OwnerObstacle(ctx context.Context, q postgres.Querier, role, schema string) (string, error) {
	const sql = `
SELECT CASE WHEN r.oid IS NULL THEN format('There is no role %s', quote_ident($1))
            WHEN NOT pg_has_role(r.oid, 'MEMBER') THEN format('The provider''s role %I is not a member of %I (GRANT %2$I TO %1$I)', current_user, r.rolname)
            WHEN NOT pg_has_role(r.oid, ` + setPrivilegeSQL + `) THEN format('The provider''s role %I is a member of %I without SET (GRANT %2$I TO %1$I WITH SET TRUE)', current_user, r.rolname)
            WHEN NOT has_schema_privilege(r.oid, n.oid, 'CREATE') THEN format('It may not create in schema %I (GRANT CREATE ON SCHEMA %1$I TO %2$I)', n.nspname, r.rolname)
            ELSE '' END
FROM (VALUES (1)) AS one LEFT JOIN pg_roles AS r ON r.rolname = $1 LEFT JOIN pg_namespace AS n ON n.nspname = $2`
	var obstacle string
	if err := q.QueryRow(ctx, sql, role, schema).Scan(&obstacle); err != nil {
		return "", fmt.Errorf("look for role %q: %w", role, err)
	}
	return obstacle, nil
}
