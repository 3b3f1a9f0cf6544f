package matview

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Kept is what a view has beside its definition and does not lose when it is
// dropped and created again.
type Kept struct {
	grants  []grant
	indexes []string // CREATE INDEX statements, by the server
}

// Keep reads what [Kept.Restore] puts back, in a transaction that drops the
// view and creates it again under its old name and owner. It includes the
// indexes unless the caller creates them. It waits for a refresh to end.
func Keep(ctx context.Context, tx pgx.Tx, view *View, indexes bool) (Kept, error) {
	var k Kept
	var err error
	if k.grants, err = readGrants(ctx, tx, view.OID); err != nil {
		return k, fmt.Errorf("read the privileges on %s: %w", view.Name, err)
	}
	if !indexes {
		return k, nil
	}
	rows, err := tx.Query(ctx, "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = $1 AND indisvalid ORDER BY indexrelid", view.OID)
	if err == nil {
		k.indexes, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return k, fmt.Errorf("read the indexes of %s: %w", view.Name, err)
	}
	return k, nil
}

// Restore puts back what was kept. Privileges on columns that the new view does
// not have are lost; every other is exactly as before, or an error.
func (k Kept) Restore(ctx context.Context, tx pgx.Tx, view *View) error {
	if err := pinTablespace(ctx, tx, ""); err != nil { // of which the definitions say nothing
		return err
	}
	for _, definition := range k.indexes {
		if err := execute(ctx, tx, definition); err != nil {
			return fmt.Errorf("build an index of %s again (%s): %w", view.Name, definition, err)
		}
	}
	want := slices.DeleteFunc(slices.Clone(k.grants), func(g grant) bool {
		return g.Column != "" && !slices.ContainsFunc(view.Columns, func(c Column) bool { return c.Name == g.Column })
	})
	if err := setGrants(ctx, tx, view, want); err != nil {
		return fmt.Errorf("grant the privileges on %s again: %w", view.Name, err)
	}
	return nil
}

// columnOptionsSQL is the options that a user can set on a column, of the row a of
// pg_attribute; null if there are none. The server keeps options of its own beside
// them, new for each relation: pg_attver since the minor releases of November 2026.
const columnOptionsSQL = `(SELECT array_agg(o ORDER BY o) FROM unnest(a.attoptions) AS o WHERE split_part(o, '=', 1) IN ('n_distinct', 'n_distinct_inherited'))`

// lostSQL names what Keep does not keep.
const lostSQL = `
SELECT 'the comment on column ' || quote_ident(a.attname)
FROM pg_description AS d JOIN pg_attribute AS a ON a.attrelid = d.objoid AND a.attnum = d.objsubid
WHERE d.classoid = 'pg_class'::regclass AND d.objoid = $1 AND d.objsubid > 0
UNION ALL
SELECT 'the comment on index ' || quote_ident(x.relname)
FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = x.oid AND d.objsubid = 0
WHERE i.indrelid = $1
UNION ALL
SELECT 'extended statistics ' || quote_ident(stxname) FROM pg_statistic_ext WHERE stxrelid = $1
UNION ALL
SELECT 'the statistics target or options of column ' || quote_ident(attname)
FROM pg_attribute AS a WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND (attstattarget >= 0 OR ` + columnOptionsSQL + ` IS NOT NULL)
UNION ALL
SELECT 'the storage of column ' || quote_ident(a.attname)
FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attstorage <> t.typstorage
UNION ALL
SELECT 'the compression of column ' || quote_ident(attname)
FROM pg_attribute AS a -- attcompression came with PostgreSQL 14
WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND to_jsonb(a) ->> 'attcompression' IN ('p', 'l')
UNION ALL
SELECT 'REPLICA IDENTITY ' || CASE relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END
FROM pg_class WHERE oid = $1 AND relreplident IN ('f', 'n')
UNION ALL
SELECT DISTINCT 'the statistics target of index ' || quote_ident(x.relname)
FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid JOIN pg_attribute AS a ON a.attrelid = x.oid AND a.attstattarget >= 0
WHERE i.indrelid = $1
UNION ALL
SELECT 'a security label of provider ' || provider FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = $1
UNION ALL
SELECT 'the mark of CLUSTER on index ' || quote_ident(x.relname)
FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid WHERE i.indrelid = $1 AND i.indisclustered
UNION ALL
SELECT 'DEPENDS ON EXTENSION ' || quote_ident(e.extname) || coalesce(' of index ' || quote_ident(x.relname), '')
FROM pg_depend AS d JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
LEFT JOIN pg_index AS i ON i.indexrelid = d.objid
LEFT JOIN pg_class AS x ON x.oid = i.indexrelid
WHERE d.classid = 'pg_class'::regclass AND $1 IN (d.objid, i.indrelid) AND d.deptype = 'x'
UNION ALL
SELECT format('the privileges of %s on column %I', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END, c.attname)
FROM pg_attribute AS c, aclexplode(c.attacl) AS a
WHERE c.attrelid = $1 AND c.attname <> ALL ($2::text[])
UNION ALL
-- pg_get_indexdef says nothing of a tablespace.
SELECT format('tablespace %I of index %I', spcname, x.relname)
FROM pg_index AS i
JOIN pg_class AS x ON x.oid = i.indexrelid
JOIN pg_tablespace AS s ON s.oid = x.reltablespace AND NOT $3
WHERE i.indrelid = $1
ORDER BY 1`

// Lost names what a view loses when it is dropped and created again with a
// definition that returns columns: what [Keep] does not keep. indexes says
// whether the caller creates the indexes from an [Index] each; it creates the
// view with the same [Storage] in any case. It locks nothing.
func Lost(ctx context.Context, q Querier, view *View, columns []Column, indexes bool) ([]string, error) {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	rows, err := q.Query(ctx, lostSQL, view.OID, names, indexes)
	if err != nil {
		return nil, fmt.Errorf("read what belongs to %s: %w", view.Name, err)
	}
	lost, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read what belongs to %s: %w", view.Name, err)
	}
	return lost, nil
}

// lostColumnsSQL names what goes with a column.
const lostColumnsSQL = `
SELECT format('the comment on column %I', a.attname)
FROM pg_attribute AS a JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = a.attrelid AND d.objsubid = a.attnum
WHERE a.attrelid = $1 AND a.attname <> ALL ($2::text[])
UNION
SELECT format('the privileges of %s on column %I', CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee)::text END, a.attname)
FROM pg_attribute AS a, aclexplode(a.attacl) AS x
WHERE a.attrelid = $1 AND a.attname <> ALL ($2::text[])
UNION
SELECT format('the statistics target or options of column %I', attname)
FROM pg_attribute AS a
WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND (attstattarget >= 0 OR ` + columnOptionsSQL + ` IS NOT NULL) AND attname <> ALL ($2::text[])
ORDER BY 1`

// LostColumns names what a view loses with the columns that are not among those
// of its new definition. It locks nothing.
func LostColumns(ctx context.Context, q Querier, view *View, columns []Column) ([]string, error) {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	rows, err := q.Query(ctx, lostColumnsSQL, view.OID, names)
	if err != nil {
		return nil, fmt.Errorf("read what belongs to the columns of %s: %w", view.Name, err)
	}
	lost, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read what belongs to the columns of %s: %w", view.Name, err)
	}
	return lost, nil
}
