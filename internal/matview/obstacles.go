package matview

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// dependentView is a plain view that reads a materialized view directly.
type dependentView struct {
	OID        uint32
	Name       string // quoted and qualified
	Owner      string
	Options    string // of WITH; "" if there are none
	Definition string
}

// createSQL repeats the options: CREATE OR REPLACE VIEW drops those that it does
// not name (DefineVirtualRelation in view.c). It keeps everything else.
func (v dependentView) createSQL() string {
	options := ""
	if v.Options != "" {
		options = " WITH (" + v.Options + ")"
	}
	return "CREATE OR REPLACE VIEW " + v.Name + options + " AS " + v.Definition
}

// dependentViewsSQL returns each view before those that it reads itself, which is
// the order in which readers lock them: a view that reads more of them, directly or
// not, comes first.
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

// dependentViews requires the settings of pinSQL. It locks what the views read.
func dependentViews(ctx context.Context, tx pgx.Tx, view uint32) ([]dependentView, error) {
	return collect(ctx, tx, pgx.RowToStructByPos[dependentView], dependentViewsSQL, view)
}

// ObstaclesError says why a view cannot be swapped.
type ObstaclesError struct {
	View      Name
	Obstacles []string
}

func (e *ObstaclesError) Error() string {
	return fmt.Sprintf("%s cannot be replaced: %s", e.View, strings.Join(e.Obstacles, "; "))
}

// obstaclesSQL finds what depends on the view or on its row type and is not a plain
// view that can be moved; what depends on columns that the new definition does not
// return, $2 and $3 being the names and types that it returns; and missing
// privileges. $4 are the indexes that the new view does not get, $5 is its
// tablespace. None of it locks a relation.
//
// The replacement is created by SET ROLE to its owner, while the exchange uses
// inherited privileges. None of it requires that the role can read pg_roles.
var obstaclesSQL = `
WITH dependent AS (
    SELECT d.*, o.classid <> 'pg_class'::regclass AS by_type, v.oid AS view, v.relkind, v.relpersistence, v.relowner, v.relnamespace,
           CASE WHEN v.oid IS NULL THEN pg_describe_object(d.classid, d.objid, d.objsubid)
                ELSE pg_describe_object('pg_class'::regclass, v.oid, 0) END AS name
    FROM (` + viewObjectsSQL + `) AS o
    JOIN pg_depend AS d ON d.refclassid = o.classid AND d.refobjid = o.objid AND d.deptype = 'n'
    LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid AND r.rulename = '_RETURN'
    LEFT JOIN pg_class AS v ON v.oid = r.ev_class
    WHERE r.ev_class IS DISTINCT FROM $1
), moved AS (
    SELECT name, relowner, relnamespace, refobjsubid FROM dependent WHERE relkind = 'v' AND NOT by_type AND relpersistence <> 't'
), gone AS (
    SELECT a.attnum, a.attname, was.type AS was, new.type AS becomes
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    CROSS JOIN LATERAL (SELECT format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attcollation <> t.typcollation THEN ' COLLATE ' || a.attcollation::regcollation ELSE '' END AS type) AS was
    LEFT JOIN unnest($2::text[], $3::text[]) AS new (name, type) ON new.name = a.attname
    WHERE $2 IS NOT NULL AND a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND new.type IS DISTINCT FROM was.type
), self AS (
    SELECT oid, relowner, relnamespace, relacl FROM pg_class WHERE oid = $1
), stats AS (
    SELECT pg_describe_object('pg_statistic_ext'::regclass, s.oid, 0) AS name, s.stxowner, s.stxnamespace, self.relowner
    FROM pg_statistic_ext AS s JOIN self ON s.stxrelid = self.oid
), acting (what, role, inherits, becomes) AS (
    SELECT 'it belongs to', relowner, true, true FROM self
    UNION SELECT name || ' belongs to', relowner, true, false FROM moved
    UNION SELECT name || ' belongs to', stxowner, true, true FROM stats WHERE stxowner <> relowner
    UNION
    SELECT 'some privileges on it were granted by', a.grantor, false, true
    FROM self, LATERAL (SELECT relacl UNION ALL SELECT attacl FROM pg_attribute WHERE attrelid = self.oid) AS acl (acl), aclexplode(acl.acl) AS a
    WHERE a.grantor <> self.relowner
), place (what, namespace, role) AS (
    SELECT 'it', relnamespace, relowner FROM self
    UNION SELECT name, relnamespace, quote_ident(current_user)::regrole FROM moved WHERE pg_has_role(relowner, 'USAGE')
    UNION SELECT name, stxnamespace, relowner FROM stats
    UNION SELECT name, stxnamespace, stxowner FROM stats WHERE current_setting('is_superuser') = 'off'
), found AS (
    SELECT CASE WHEN view IS NULL OR relkind <> 'v' THEN name || ' depends on it'
                WHEN by_type THEN name || ' uses its row type'
                WHEN relpersistence = 't' THEN name || ', a temporary view of another session'
           END AS obstacle
    FROM dependent
    UNION
    SELECT format(CASE WHEN becomes IS NULL THEN '%s uses column %I, which the new definition does not return'
                       ELSE '%s uses column %I, whose type changes from %s to %s' END, name, attname, was, becomes)
    FROM moved JOIN gone ON attnum = refobjsubid
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
    SELECT format('%s role %I, of which %I is ', what, pg_get_userbyid(role), current_user) ||
           CASE WHEN NOT pg_has_role(role, 'MEMBER') THEN 'not a member'
                WHEN inherits AND NOT pg_has_role(role, 'USAGE') THEN 'a member without INHERIT'
                WHEN becomes AND NOT pg_has_role(role, ` + setPrivilegeSQL + `) THEN 'a member without SET'
           END || format(' (%s)', CASE WHEN inherits AND NOT pg_has_role(role, 'USAGE') THEN ` + postgres.InheritSQL("role") + `
                                       ELSE format('GRANT %I TO %I', pg_get_userbyid(role), current_user) || CASE WHEN pg_has_role(role, 'MEMBER') THEN ' WITH SET TRUE' ELSE '' END END)
    FROM acting
    UNION
    SELECT format('%s is in schema %I, where role %I lacks %s (GRANT %4$s ON SCHEMA %2$I TO %3$I)', what, n.nspname, pg_get_userbyid(role), privilege)
    FROM place JOIN pg_namespace AS n ON n.oid = namespace, unnest(ARRAY['CREATE', 'USAGE']) AS privilege
    WHERE NOT has_schema_privilege(role, n.oid, privilege)
    UNION
    SELECT format('%s in tablespace %I, where role %I lacks CREATE (GRANT CREATE ON TABLESPACE %2$I TO %3$I)', what, s.spcname, pg_get_userbyid(self.relowner))
    FROM self,
    LATERAL (SELECT 'it is', oid FROM pg_tablespace WHERE spcname = $5
             UNION ALL
             SELECT format('index %I is', x.relname), x.reltablespace
             FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
             WHERE i.indrelid = $1 AND i.indisvalid AND x.relname <> ALL ($4::text[])) AS stored (what, tablespace)
    JOIN pg_tablespace AS s ON s.oid = tablespace
    JOIN pg_database AS d ON d.datname = current_database() AND d.dattablespace <> s.oid
    WHERE NOT has_tablespace_privilege(self.relowner, s.oid, 'CREATE')
)
SELECT obstacle FROM found WHERE obstacle IS NOT NULL ORDER BY 1`

// Obstacles describes what keeps a view from being swapped: objects that depend on
// it and cannot be moved, and missing privileges. columns are those of the new
// definition, nil if it stays or is unknown; storage is that of the new view;
// dropped are the indexes that the new view does not get. It locks nothing.
func Obstacles(ctx context.Context, db DB, view *View, columns []Column, storage Storage, dropped []string) (obstacles []string, err error) {
	var names, types []string
	for _, c := range columns {
		if c.Collation != "" {
			c.Type += " COLLATE " + c.Collation
		}
		names, types = append(names, c.Name), append(types, c.Type)
	}
	err = deparse(ctx, db, func(tx pgx.Tx) error {
		obstacles, err = collect(ctx, tx, pgx.RowTo[string], obstaclesSQL, view.OID, names, types, append([]string{}, dropped...), storage.Tablespace)
		if err != nil {
			return err
		}
		more, err := labelObstacles(ctx, tx, view.OID)
		obstacles = append(obstacles, more...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for what keeps %s from being swapped: %w", view.Name, err)
	}
	return obstacles, nil
}

// labelObstacles names the providers of the view's security labels that the server
// has not loaded for this session. No catalog lists the loaded ones, but SECURITY
// LABEL looks up the provider before the object (ExecSecLabelStmt in seclabel.c),
// which does not exist here.
func labelObstacles(ctx context.Context, tx pgx.Tx, view uint32) (obstacles []string, err error) {
	const sql = "SELECT DISTINCT provider FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = $1 ORDER BY 1"
	providers, err := collect(ctx, tx, pgx.RowTo[string], sql, view)
	if err != nil {
		return nil, err
	}
	for _, provider := range providers {
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "SECURITY LABEL FOR "+postgres.QuoteIdent(provider)+" ON TABLE pg_temp.no_such_table IS NULL")
			return err
		})
		if postgres.SQLState(err) == pgerrcode.InvalidParameterValue {
			obstacles = append(obstacles, fmt.Sprintf("it has a security label of provider %s, which the server has not loaded (shared_preload_libraries)", postgres.QuoteIdent(provider)))
		}
	}
	return obstacles, nil
}
