package matview

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// dependentsSQL finds what DROP … RESTRICT refuses to leave without the view:
// what depends on it, on its row type or on the array of that, and the extension
// that it is a member of. A view depends by its rule; it is the view that is named.
// None of this locks a relation.
const dependentsSQL = `
WITH part AS (
    SELECT 'pg_class'::regclass AS classid, $1::oid AS objid
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid
    FROM pg_type AS row_type, unnest(ARRAY[row_type.oid, row_type.typarray]) AS t (oid)
    WHERE row_type.typrelid = $1
)
SELECT DISTINCT CASE WHEN r.rulename = '_RETURN' THEN pg_describe_object('pg_class'::regclass, r.ev_class, 0)
                     ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END AS dependent
FROM part AS p
JOIN pg_depend AS d ON d.refclassid = p.classid AND d.refobjid = p.objid AND d.deptype = 'n'
LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
WHERE r.ev_class IS DISTINCT FROM $1
UNION
SELECT pg_describe_object(refclassid, refobjid, 0)
FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = $1 AND deptype = 'e'
ORDER BY 1`

// Dependents names what depends on a view, each with its kind: `view
// reporting.daily`, `function public.total(public.job_progress)`.
func Dependents(ctx context.Context, db DB, view uint32) ([]string, error) {
	var dependents []string
	err := deparse(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, pinSQL); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, dependentsSQL, view)
		if err != nil {
			return err
		}
		dependents, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for dependents: %w", err)
	}
	return dependents, nil
}

// DependentsError says what a view cannot be dropped from under.
type DependentsError struct {
	View       Name
	Dependents []string
}

func (e *DependentsError) Error() string {
	return fmt.Sprintf("%s is used by %s", e.View, strings.Join(e.Dependents, ", "))
}

func refuseDependents(ctx context.Context, tx pgx.Tx, view *View) error {
	dependents, err := Dependents(ctx, tx, view.OID)
	if err != nil {
		return err
	}
	if len(dependents) > 0 {
		return &DependentsError{View: view.Name, Dependents: dependents}
	}
	return nil
}
