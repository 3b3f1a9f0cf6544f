package refresh

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// tables maps the tables that a view reads to their files.
type tables map[uint32]table

type table struct {
	name     matview.Name
	filenode uint32
}

// tablesSQL lists the tables that a view reads, also through plain views and
// partitions, with their files. It stops at materialized views: their rows are
// frozen, so that every snapshot sees all of a new file. What only a function
// reads is in no catalog. It locks nothing but catalogs.
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
SELECT c.oid, n.nspname::text, c.relname::text, c.relfilenode
FROM reads
JOIN pg_class AS c ON c.oid = reads.relid AND c.relkind = 'r'
JOIN pg_namespace AS n ON n.oid = c.relnamespace`

func scanTables(rows pgx.Rows, err error) (tables, error) {
	if err != nil {
		return nil, fmt.Errorf("look up the tables that it reads: %w", err)
	}
	found := tables{}
	var oid uint32
	var t table
	if _, err := pgx.ForEachRow(rows, []any{&oid, &t.name.Schema, &t.name.Relation, &t.filenode}, func() error {
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
// TRUNCATE and INSERT in one transaction would leave the view empty.
type rewrittenError struct{ table matview.Name }

func (e *rewrittenError) Error() string {
	return fmt.Sprintf("%s was truncated or rewritten meanwhile, so that the refresh could not see all of it; the view keeps the data that it had", e.table)
}

func isRewritten(err error) bool {
	var rewritten *rewrittenError
	return errors.As(err, &rewritten)
}

// unchanged is an error if a table got another file while the view was filled.
// One that came or went was not read by halves: its own transaction decides.
func (before tables) unchanged(after tables) error {
	for oid, b := range before {
		if a, there := after[oid]; there && a.filenode != b.filenode {
			return &rewrittenError{table: a.name}
		}
	}
	return nil
}
