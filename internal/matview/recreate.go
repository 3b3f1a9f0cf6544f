package matview

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Kept is what [Keep] reads of a view that is dropped and created again.
type Kept struct {
	grants  []grant
	indexes []string // CREATE INDEX statements, as the server writes them
}

// Keep reads what [Kept.Restore] restores, in a transaction that drops the view and
// creates it again with the same name and owner. It reads the indexes unless the
// caller creates them. It waits for a refresh to end.
func Keep(ctx context.Context, tx pgx.Tx, view *View, indexes bool) (k Kept, err error) {
	if k.grants, err = readGrants(ctx, tx, view.OID); err != nil {
		return k, fmt.Errorf("read the privileges on %s: %w", view.Name, err)
	}
	if !indexes {
		return k, nil
	}
	const sql = "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = $1 AND indisvalid ORDER BY indexrelid"
	if k.indexes, err = collect(ctx, tx, pgx.RowTo[string], sql, view.OID); err != nil {
		return k, fmt.Errorf("read the indexes of %s: %w", view.Name, err)
	}
	return k, nil
}

// Restore restores what was kept. It drops the privileges on columns that the new
// view does not have; all others are exactly as before, or it returns an error.
func (k Kept) Restore(ctx context.Context, tx pgx.Tx, view *View) error {
	if err := setDefaultTablespace(ctx, tx, ""); err != nil { // pg_get_indexdef leaves it out
		return err
	}
	for _, definition := range k.indexes {
		if err := execute(ctx, tx, definition); err != nil {
			return fmt.Errorf("build an index of %s again (%s): %w", view.Name, definition, err)
		}
	}
	if err := setGrants(ctx, tx, view, k.grants); err != nil {
		return fmt.Errorf("grant the privileges on %s again: %w", view.Name, err)
	}
	return nil
}

// columnPropertiesSQL describes what belongs to the columns of a view and is set
// apart from the definition. kept says whether [Keep] keeps it.
const columnPropertiesSQL = `
SELECT a.attname, format('the comment on column %I', a.attname) AS property, false AS kept
FROM pg_attribute AS a JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = a.attrelid AND d.objsubid = a.attnum
WHERE a.attrelid = @view
UNION
SELECT a.attname, format('the privileges of %s on column %I', CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee)::text END, a.attname), true
FROM pg_attribute AS a, aclexplode(a.attacl) AS x
WHERE a.attrelid = @view
UNION
SELECT a.attname, format('the statistics target or options of column %I', a.attname), false
FROM pg_attribute AS a
WHERE a.attrelid = @view AND a.attnum > 0 AND NOT a.attisdropped AND (a.attstattarget >= 0 OR ` + columnOptionsSQL + ` IS NOT NULL)`

// lostSQL describes what Keep does not keep.
const lostSQL = `
SELECT property FROM (` + columnPropertiesSQL + `) AS p WHERE NOT kept OR attname <> ALL (@columns::text[])
UNION ALL
SELECT 'the comment on index ' || quote_ident(x.relname)
FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = x.oid AND d.objsubid = 0
WHERE i.indrelid = @view
UNION ALL
SELECT 'extended statistics ' || quote_ident(stxname) FROM pg_statistic_ext WHERE stxrelid = @view
UNION ALL
SELECT 'the storage of column ' || quote_ident(a.attname)
FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = @view AND a.attnum > 0 AND NOT a.attisdropped AND a.attstorage <> t.typstorage
UNION ALL
SELECT 'the compression of column ' || quote_ident(attname)
FROM pg_attribute AS a -- PostgreSQL 13 has no attcompression
WHERE attrelid = @view AND attnum > 0 AND NOT attisdropped AND to_jsonb(a) ->> 'attcompression' IN ('p', 'l')
UNION ALL
SELECT 'REPLICA IDENTITY ' || CASE relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END
FROM pg_class WHERE oid = @view AND relreplident IN ('f', 'n')
UNION ALL
SELECT DISTINCT 'the statistics target of index ' || quote_ident(x.relname)
FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid JOIN pg_attribute AS a ON a.attrelid = x.oid AND a.attstattarget >= 0
WHERE i.indrelid = @view
UNION ALL
SELECT 'a security label of provider ' || provider FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = @view
UNION ALL
SELECT 'the mark of CLUSTER on index ' || quote_ident(x.relname)
FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid WHERE i.indrelid = @view AND i.indisclustered
UNION ALL
SELECT 'DEPENDS ON EXTENSION ' || quote_ident(e.extname) || coalesce(' of index ' || quote_ident(x.relname), '')
FROM pg_depend AS d JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
LEFT JOIN pg_index AS i ON i.indexrelid = d.objid
LEFT JOIN pg_class AS x ON x.oid = i.indexrelid
WHERE d.classid = 'pg_class'::regclass AND @view IN (d.objid, i.indrelid) AND d.deptype = 'x'
UNION ALL
-- pg_get_indexdef leaves out the tablespace.
SELECT format('tablespace %I of index %I', spcname, x.relname)
FROM pg_index AS i
JOIN pg_class AS x ON x.oid = i.indexrelid
JOIN pg_tablespace AS s ON s.oid = x.reltablespace AND NOT @indexes
WHERE i.indrelid = @view
ORDER BY 1`

// Lost describes what a view loses when it is dropped and created again with a
// definition that returns columns: all that [Keep] does not keep. indexes says
// whether the caller creates each index from an [Index]. In any case, the caller
// creates the view with the same [Storage]. It locks nothing.
func Lost(ctx context.Context, q postgres.Querier, view *View, columns []Column, indexes bool) ([]string, error) {
	return lost(ctx, q, view, lostSQL, pgx.NamedArgs{"view": view.OID, "columns": columnNames(columns), "indexes": indexes})
}

// LostColumns describes what a view loses with the columns that its new definition
// does not return. It locks nothing.
func LostColumns(ctx context.Context, q postgres.Querier, view *View, columns []Column) ([]string, error) {
	const sql = "SELECT property FROM (" + columnPropertiesSQL + ") AS p WHERE attname <> ALL (@columns::text[]) ORDER BY 1"
	return lost(ctx, q, view, sql, pgx.NamedArgs{"view": view.OID, "columns": columnNames(columns)})
}

func lost(ctx context.Context, q postgres.Querier, view *View, sql string, args pgx.NamedArgs) ([]string, error) {
	properties, err := collect(ctx, q, pgx.RowTo[string], sql, args)
	if err != nil {
		return nil, fmt.Errorf("read the properties of %s: %w", view.Name, err)
	}
	return properties, nil
}

func columnNames(columns []Column) []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	return names
}
