package matview

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// viewObjectsSQL is the view and its row type and the array type of that: what other
// objects can depend on.
const viewObjectsSQL = `
    SELECT 'pg_class'::regclass AS classid, $1::oid AS objid
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid
    FROM pg_type AS row_type, unnest(ARRAY[row_type.oid, row_type.typarray]) AS t (oid)
    WHERE row_type.typrelid = $1`

// dependentsSQL finds the objects for which DROP … RESTRICT fails, and the extension
// that the view is a member of. A view depends by its rule, but it is the view that
// is named. None of this locks a relation.
const dependentsSQL = `
SELECT DISTINCT CASE WHEN r.rulename = '_RETURN' THEN pg_describe_object('pg_class'::regclass, r.ev_class, 0)
                     ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END AS dependent
FROM (` + viewObjectsSQL + `) AS o
JOIN pg_depend AS d ON d.refclassid = o.classid AND d.refobjid = o.objid AND d.deptype = 'n'
LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
WHERE r.ev_class IS DISTINCT FROM $1
UNION
SELECT pg_describe_object(refclassid, refobjid, 0)
FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = $1 AND deptype = 'e'
ORDER BY 1`

// Dependents names what depends on a view, each object with its kind: `view
// reporting.daily`, `function public.total(public.job_progress)`.
func Dependents(ctx context.Context, db DB, view uint32) (dependents []string, err error) {
	err = deparse(ctx, db, func(tx pgx.Tx) error {
		dependents, err = collect(ctx, tx, pgx.RowTo[string], dependentsSQL, view)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for dependents: %w", err)
	}
	return dependents, nil
}

// DependentsError says that a view was not dropped because other objects depend on
// it.
type DependentsError struct {
	View       Name
	Dependents []string
}

func (e *DependentsError) Error() string {
	return fmt.Sprintf("%s is used by %s", e.View, strings.Join(e.Dependents, ", "))
}

// Drop drops a view in tx, which holds its [Lock]. It never drops what depends on
// the view, but returns a [DependentsError].
func Drop(ctx context.Context, tx pgx.Tx, view *View) error {
	dependents, err := Dependents(ctx, tx, view.OID)
	if err == nil && len(dependents) > 0 {
		err = &DependentsError{View: view.Name, Dependents: dependents}
	}
	if err != nil {
		return fmt.Errorf("drop materialized view: %w", err)
	}
	if err := checkMayDrop(ctx, tx, view.OID); err != nil {
		return fmt.Errorf("drop materialized view %s: %w", view.Name, err)
	}
	if _, err := tx.Exec(ctx, "DROP MATERIALIZED VIEW "+view.Name.SQL()+" RESTRICT"); err != nil {
		return fmt.Errorf("drop materialized view %s: %w", view.Name, err)
	}
	return nil
}

// checkMayDrop says which role the session's lacks to drop a view: its owner's, or that
// of its schema.
func checkMayDrop(ctx context.Context, tx pgx.Tx, view uint32) error {
	var missing *string
	err := tx.QueryRow(ctx, `
SELECT format('role %I may not, since it belongs to role %I: ', current_user, pg_get_userbyid(c.relowner)) || `+postgres.InheritSQL("c.relowner")+`
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = $1 AND NOT pg_has_role(c.relowner, 'USAGE') AND NOT pg_has_role(n.nspowner, 'USAGE')`, view).Scan(&missing)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.New(*missing)
}
