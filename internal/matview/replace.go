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
FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND (attstattarget >= 0 OR attoptions IS NOT NULL)
UNION ALL
SELECT 'the storage of column ' || quote_ident(a.attname)
FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attstorage <> t.typstorage
UNION ALL
SELECT 'storage parameter ' || o FROM pg_class AS c, unnest(c.reloptions) AS o WHERE c.oid = $1
UNION ALL
SELECT 'storage parameter toast.' || o
FROM pg_class AS c JOIN pg_class AS t ON t.oid = c.reltoastrelid, unnest(t.reloptions) AS o WHERE c.oid = $1
UNION ALL
SELECT 'tablespace ' || quote_ident(s.spcname)
FROM pg_class AS c JOIN pg_tablespace AS s ON s.oid = c.reltablespace WHERE c.oid = $1
UNION ALL
SELECT 'access method ' || quote_ident(m.amname)
FROM pg_class AS c JOIN pg_am AS m ON m.oid = c.relam WHERE c.oid = $1 AND m.amname <> current_setting('default_table_access_method')
UNION ALL
SELECT 'a security label of provider ' || provider FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = $1
UNION ALL
SELECT 'the mark of CLUSTER on index ' || quote_ident(x.relname)
FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid WHERE i.indrelid = $1 AND i.indisclustered
UNION ALL
SELECT 'DEPENDS ON EXTENSION ' || quote_ident(e.extname)
FROM pg_depend AS d JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
WHERE d.classid = 'pg_class'::regclass AND d.objid = $1 AND d.deptype = 'x'
UNION ALL
SELECT format('the privileges of %s on column %I', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END, c.attname)
FROM pg_attribute AS c, aclexplode(c.attacl) AS a
WHERE c.attrelid = $1 AND c.attname <> ALL ($2::text[])
UNION ALL
SELECT format('%s of index %I', o.option, x.relname)
FROM pg_index AS i
JOIN pg_class AS x ON x.oid = i.indexrelid,
-- pg_get_indexdef says nothing of a tablespace.
LATERAL (SELECT 'tablespace ' || quote_ident(spcname) FROM pg_tablespace WHERE oid = x.reltablespace
         UNION ALL SELECT 'storage parameter ' || p FROM unnest(x.reloptions) AS p WHERE $3
         UNION ALL SELECT 'NULLS NOT DISTINCT' WHERE $3 AND to_jsonb(i) @> '{"indnullsnotdistinct": true}') AS o (option)
WHERE i.indrelid = $1
ORDER BY 1`

// Lost names what a view loses when it is dropped and created again with a
// definition that returns columns: what [Keep] does not keep. indexes says
// whether the caller creates the indexes from an [Index] each. It locks nothing.
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
