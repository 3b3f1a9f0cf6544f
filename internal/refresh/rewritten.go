package refresh

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// tables maps the tables and plain views that a view reads to what they are made of.
type tables map[uint32]table

type table struct {
	name matview.Name
	file uint32 // a table's file node, 0 if it is partitioned, or the xmin of a plain view's rule
}

// tablesSQL lists the tables that a view reads, also through plain views and
// partitions, with their files, and those plain views. It stops at materialized
// views: their rows are frozen, so that every snapshot sees all of a new file.
// What only a function reads is in no catalog. It locks nothing but catalogs.
const tablesSQL = `
WITH RECURSIVE reads(relid, relkind) AS (
    SELECT $1::oid, 'v'::"char"
    UNION
    SELECT c.oid, c.relkind
    FROM reads
    CROSS JOIN LATERAL (
        SELECT d.refobjid
        FROM pg_rewrite AS r
        JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                           AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> reads.relid
        WHERE reads.relkind = 'v' AND r.ev_class = reads.relid
        UNION ALL
        SELECT i.inhrelid FROM pg_inherits AS i WHERE reads.relkind <> 'v' AND i.inhparent = reads.relid
    ) AS next(relid)
    JOIN pg_class AS c ON c.oid = next.relid AND c.relkind IN ('r', 'p', 'v')
)
SELECT c.oid, n.nspname::text, c.relname::text,
       CASE c.relkind WHEN 'v' THEN (SELECT max(w.xmin::text::bigint)::oid FROM pg_rewrite AS w WHERE w.ev_class = c.oid) ELSE c.relfilenode END
FROM reads
JOIN pg_class AS c ON c.oid = reads.relid AND c.relkind IN ('r', 'p', 'v') AND c.oid <> $1
JOIN pg_namespace AS n ON n.oid = c.relnamespace`

func scanTables(rows pgx.Rows, err error) (tables, error) {
	if err != nil {
		return nil, fmt.Errorf("look up the tables that it reads: %w", err)
	}
	found := tables{}
	var oid uint32
	var t table
	if _, err := pgx.ForEachRow(rows, []any{&oid, &t.name.Schema, &t.name.Relation, &t.file}, func() error {
		found[oid] = t
		return nil
	}); err != nil {
		return nil, fmt.Errorf("look up the tables that it reads: %w", err)
	}
	return found, nil
}

// rewrittenError says that a refresh read a table of which it could see a part
// only. TRUNCATE, and ALTER TABLE where it rewrites, are not MVCC-safe: to a
// snapshot that is older, the new file's rows are not there, although the old
// ones are gone (https://www.postgresql.org/docs/current/mvcc-caveats.html).
// TRUNCATE and INSERT in one transaction would leave the view empty. So would one
// that exchanges a partition for a new one, or what a plain view reads for another
// table: REFRESH reads what takes part after the wait for its locks, and the rows
// by the snapshot from before it.
type rewrittenError struct{ table matview.Name }

func (e *rewrittenError) Error() string {
	return fmt.Sprintf("%s was truncated, rewritten, detached or replaced meanwhile, so that the refresh could not see all of it; the view keeps the data that it had", e.table)
}

func isRewritten(err error) bool {
	var rewritten *rewrittenError
	return errors.As(err, &rewritten)
}

// unchanged is an error if a table got another file while the view was filled, or
// is not read any more. One that only came takes no rows away.
func (before tables) unchanged(after tables) error {
	for oid, b := range before {
		if a, there := after[oid]; !there || a.file != b.file {
			return &rewrittenError{table: b.name}
		}
	}
	return nil
}

// made is what all tables and plain views of the database are made of, for when it
// is not known yet which of them will be read.
type made struct {
	files map[uint32]uint32
	heirs [][2]uint32 // each with its parent
}

const madeSQL = `
SELECT coalesce((SELECT jsonb_object_agg(c.oid, CASE c.relkind WHEN 'v' THEN (SELECT max(w.xmin::text::bigint) FROM pg_rewrite AS w WHERE w.ev_class = c.oid)
                                                             ELSE c.relfilenode::bigint END)
                 FROM pg_class AS c WHERE c.relkind IN ('r', 'p', 'v')), '{}'),
       coalesce((SELECT jsonb_agg(jsonb_build_array(i.inhrelid::bigint, i.inhparent::bigint)) FROM pg_inherits AS i), '[]')`

func (m *made) scan(row pgx.Row) error {
	if err := row.Scan(&m.files, &m.heirs); err != nil {
		return fmt.Errorf("look up the tables: %w", err)
	}
	return nil
}

// unchanged is as that of tables, for a view that reads after.
func (m made) unchanged(after tables) error {
	for oid, a := range after {
		if file, there := m.files[oid]; there && file != a.file {
			return &rewrittenError{table: a.name}
		}
	}
	for _, pair := range m.heirs {
		_, is := after[pair[0]]
		if parent, read := after[pair[1]]; read && !is {
			return &rewrittenError{table: parent.name}
		}
	}
	return nil
}
