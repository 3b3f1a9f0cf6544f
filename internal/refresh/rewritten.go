package refresh

import (
	_ "embed"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// relations are the tables and plain views that a view reads, by OID.
type relations map[uint32]relationFile

type relationFile struct {
	name matview.Name
	file uint32 // a table's file node, 0 if it is partitioned, or the xmin of a plain view's rule
}

//go:embed relations.sql
var relationsSQL string

func collectRelations(rows pgx.Rows, err error) (relations, error) {
	if err != nil {
		return nil, fmt.Errorf("look up the tables that it reads: %w", err)
	}
	found := relations{}
	var oid uint32
	var r relationFile
	if _, err := pgx.ForEachRow(rows, []any{&oid, &r.name.Schema, &r.name.Relation, &r.file}, func() error {
		found[oid] = r
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
// table: REFRESH looks up partitions and plain views after the wait for its locks,
// but reads rows by the snapshot from before it.
type rewrittenError struct{ table matview.Name }

func (e *rewrittenError) Error() string {
	return fmt.Sprintf("%s was truncated, rewritten, detached or replaced meanwhile, so that the refresh could not see all of it; the view keeps the data that it had", e.table)
}

func isRewritten(err error) bool {
	var rewritten *rewrittenError
	return errors.As(err, &rewritten)
}

// rewritten is an error if a table got another file while the view was filled, or
// is not read any more. One that is only added takes no rows away.
func (before relations) rewritten(after relations) error {
	for oid, b := range before {
		if a, there := after[oid]; !there || a.file != b.file {
			return &rewrittenError{table: b.name}
		}
	}
	return nil
}

// allRelations are all tables and plain views of the database, for when it is not
// known yet which of them will be read.
type allRelations struct {
	files    map[uint32]uint32 // as in relationFile
	children [][2]uint32       // each child table with its parent
}

const allRelationsSQL = `
SELECT coalesce((SELECT jsonb_object_agg(c.oid, CASE c.relkind WHEN 'v' THEN (SELECT max(w.xmin::text::bigint) FROM pg_rewrite AS w WHERE w.ev_class = c.oid)
                                                             ELSE c.relfilenode::bigint END)
                 FROM pg_class AS c WHERE c.relkind IN ('r', 'p', 'v')), '{}'),
       coalesce((SELECT jsonb_agg(jsonb_build_array(i.inhrelid::bigint, i.inhparent::bigint)) FROM pg_inherits AS i), '[]')`

func (all *allRelations) scan(row pgx.Row) error {
	if err := row.Scan(&all.files, &all.children); err != nil {
		return fmt.Errorf("look up the tables: %w", err)
	}
	return nil
}

// rewritten is as [relations.rewritten], for a view that reads after.
func (all allRelations) rewritten(after relations) error {
	for oid, a := range after {
		if file, there := all.files[oid]; there && file != a.file {
			return &rewrittenError{table: a.name}
		}
	}
	for _, pair := range all.children {
		_, childRead := after[pair[0]]
		if parent, read := after[pair[1]]; read && !childRead {
			return &rewrittenError{table: parent.name}
		}
	}
	return nil
}
