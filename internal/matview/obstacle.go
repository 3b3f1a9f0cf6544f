package matview

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// dependentView is a plain view that reads a materialized view itself.
type dependentView struct {
	OID        uint32
	Name       string // SQL
	Owner      string
	Options    string // as in WITH, "" for none
	Definition string
}

// createSQL restates the options: CREATE OR REPLACE VIEW drops those that it
// does not name (DefineVirtualRelation in view.c). It keeps all else.
func (v dependentView) createSQL() string {
	options := ""
	if v.Options != "" {
		options = " WITH (" + v.Options + ")"
	}
	return "CREATE OR REPLACE VIEW " + v.Name + options + " AS " + v.Definition
}

// dependentViewsSQL has each view before those that it reads itself, as readers
// lock them: whoever reads more of them, through others too, comes first.
const dependentViewsSQL = `
WITH RECURSIVE direct AS (
    SELECT DISTINCT r.ev_class AS oid
    FROM pg_depend AS d
    JOIN pg_rewrite AS r ON r.oid = d.objid AND r.rulename = '_RETURN'
    JOIN pg_class AS v ON v.oid = r.ev_class AND v.relkind = 'v'
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype = 'n'
), reads (top, oid) AS (
    SELECT oid, oid FROM direct
    UNION
    SELECT reads.top, v.oid
    FROM reads
    JOIN pg_rewrite AS r ON r.ev_class = reads.oid AND r.rulename = '_RETURN'
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class AS v ON v.oid = d.refobjid AND v.relkind = 'v'
)
SELECT v.oid, v.oid::regclass::text, pg_get_userbyid(v.relowner)::text,
       coalesce((SELECT string_agg(format('%I = %L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', ') FROM unnest(v.reloptions) AS o), ''),
       rtrim(pg_get_viewdef(v.oid), ';')
FROM direct JOIN pg_class AS v ON v.oid = direct.oid
ORDER BY (SELECT count(*) FROM reads JOIN direct AS d ON d.oid = reads.oid WHERE reads.top = v.oid) DESC, v.oid`

// dependentViews is for a session with the settings of pinSQL. It locks what the
// views read.
func dependentViews(ctx context.Context, tx pgx.Tx, view uint32) ([]dependentView, error) {
	if _, err := tx.Exec(ctx, pinSQL); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, dependentViewsSQL, view)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[dependentView])
}

// ObstaclesError says what a swap cannot carry over.
type ObstaclesError struct {
	View      Name
	Obstacles []string
}

func (e *ObstaclesError) Error() string {
	return fmt.Sprintf("%s cannot be exchanged for a successor: %s", e.View, strings.Join(e.Obstacles, "; "))
}

// obstaclesSQL looks for what depends on the view or on its row type, and is no
// plain view that can be moved; for what depends on columns that there will not
// be, $2 and $3 being those of a new definition; and for missing rights. $4 are
// the indexes that are not kept. None of it locks a relation.
const obstaclesSQL = `
WITH part AS (
    SELECT 'pg_class'::regclass AS classid, $1::oid AS objid
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid
    FROM pg_type AS row_type, unnest(ARRAY[row_type.oid, row_type.typarray]) AS t (oid)
    WHERE row_type.typrelid = $1
), dependent AS (
    SELECT d.*, p.classid <> 'pg_class'::regclass AS by_type, v.oid AS view, v.relkind, v.relpersistence, v.relowner, v.relnamespace,
           CASE WHEN v.oid IS NULL THEN pg_describe_object(d.classid, d.objid, d.objsubid)
                ELSE pg_describe_object('pg_class'::regclass, v.oid, 0) END AS name
    FROM part AS p
    JOIN pg_depend AS d ON d.refclassid = p.classid AND d.refobjid = p.objid AND d.deptype = 'n'
    LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid AND r.rulename = '_RETURN'
    LEFT JOIN pg_class AS v ON v.oid = r.ev_class
    WHERE r.ev_class IS DISTINCT FROM $1
), gone AS (
    SELECT a.attnum, a.attname, format_type(a.atttypid, a.atttypmod) AS was, new.type AS becomes
    FROM pg_attribute AS a
    LEFT JOIN unnest($2::text[], $3::text[]) AS new (name, type) ON new.name = a.attname
    WHERE $2 IS NOT NULL AND a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
      AND new.type IS DISTINCT FROM format_type(a.atttypid, a.atttypmod)
), found AS (
    SELECT CASE WHEN view IS NULL THEN name
                WHEN relkind <> 'v' THEN name
                WHEN by_type THEN name || ' uses its row type'
                WHEN relpersistence = 't' THEN name || ', a temporary view of another session'
                WHEN NOT pg_has_role(relowner, 'USAGE') THEN format('%s belongs to role %I, of which %I is no member', name, pg_get_userbyid(relowner), current_user)
                WHEN NOT has_schema_privilege(relnamespace, 'CREATE') THEN format('%s is in schema %I, in which %I may not create', name, (SELECT nspname FROM pg_namespace WHERE oid = relnamespace), current_user)
           END AS obstacle
    FROM dependent
    UNION
    SELECT format(CASE WHEN becomes IS NULL THEN '%s uses column %I, which the new definition does not return'
                       ELSE '%s uses column %I, whose type changes from %s to %s' END, name, attname, was, becomes)
    FROM dependent JOIN gone ON attnum = refobjsubid
    WHERE view IS NOT NULL AND relkind = 'v' AND NOT by_type
    UNION
    SELECT format('%s uses column %I, which the new definition does not return', pg_describe_object(d.classid, d.objid, 0), attname)
    FROM pg_depend AS d JOIN gone ON attnum = d.refobjsubid AND becomes IS NULL
    LEFT JOIN pg_class AS x ON d.classid = 'pg_class'::regclass AND x.oid = d.objid
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype = 'a' AND (x.oid IS NULL OR x.relname <> ALL ($4::text[]))
    UNION
    SELECT format('it is a member of extension %I', e.extname)
    FROM pg_depend AS d JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
    WHERE d.classid = 'pg_class'::regclass AND d.objid = $1 AND d.deptype = 'e'
    UNION
    SELECT format('its owner %I may not create in schema %I (GRANT CREATE ON SCHEMA %2$I TO %1$I)', pg_get_userbyid(c.relowner), n.nspname)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = $1 AND NOT has_schema_privilege(c.relowner, n.oid, 'CREATE')
    UNION
    SELECT format('it belongs to role %I, of which %I is no member', pg_get_userbyid(relowner), current_user)
    FROM pg_class WHERE oid = $1 AND NOT pg_has_role(relowner, 'MEMBER')
    UNION
    SELECT format('role %I granted privileges on it, of which %I is no member', pg_get_userbyid(a.grantor), current_user)
    FROM (SELECT relacl FROM pg_class WHERE oid = $1 UNION ALL SELECT attacl FROM pg_attribute WHERE attrelid = $1) AS acl (acl), aclexplode(acl.acl) AS a
    WHERE NOT pg_has_role(a.grantor, 'MEMBER')
)
SELECT obstacle FROM found WHERE obstacle IS NOT NULL ORDER BY 1`

// Obstacles names what keeps a view from being swapped: what depends on it and
// cannot be moved, and rights that are missing. columns are those of a new
// definition, nil where it stays or is not known; dropped are the indexes that
// the new view is not to have. It locks nothing.
func Obstacles(ctx context.Context, db DB, view *View, columns []Column, dropped []string) (obstacles []string, err error) {
	var names, types []string
	for _, c := range columns {
		names, types = append(names, c.Name), append(types, c.Type)
	}
	err = deparse(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, pinSQL); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, obstaclesSQL, view.OID, names, types, append([]string{}, dropped...))
		if err != nil {
			return err
		}
		if obstacles, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return err
		}
		more, err := labelObstacles(ctx, tx, view.OID)
		obstacles = append(obstacles, more...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for what keeps %s from being exchanged: %w", view.Name, err)
	}
	return obstacles, nil
}

// labelObstacles names the providers of the view's security labels that a session
// like this one cannot use. No catalog lists those that are loaded, but SECURITY
// LABEL looks for the provider before it looks for the object
// (ExecSecLabelStmt in seclabel.c), of which there is none here.
func labelObstacles(ctx context.Context, tx pgx.Tx, view uint32) (obstacles []string, err error) {
	rows, err := tx.Query(ctx, "SELECT DISTINCT provider FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = $1 ORDER BY 1", view)
	if err != nil {
		return nil, err
	}
	providers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	for _, provider := range providers {
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "SECURITY LABEL FOR "+postgres.QuoteIdent(provider)+" ON TABLE pg_temp.no_such_table IS NULL")
			return err
		})
		if postgres.SQLState(err) == postgres.InvalidParameterValue {
			obstacles = append(obstacles, fmt.Sprintf("it has a security label of provider %s, which the server has not loaded (shared_preload_libraries)", postgres.QuoteIdent(provider)))
		}
	}
	return obstacles, nil
}
