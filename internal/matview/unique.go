package matview

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// EqualRowsError says that REFRESH MATERIALIZED VIEW CONCURRENTLY may have kept one of
// several equal rows.
type EqualRowsError struct {
	Err error // why there is no proof of the contrary; nil: the planner has none
}

func (e *EqualRowsError) Error() string {
	const text = "of equal rows that contain a null PostgreSQL keeps one only, and nothing proves that the query returns none"
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", text, e.Err)
	}
	return text
}

func (e *EqualRowsError) Unwrap() error { return e.Err }

// CheckEqualRows returns an [EqualRowsError] unless it is certain that the last REFRESH
// MATERIALIZED VIEW CONCURRENTLY has kept all rows. The refresh looks for duplicates
// among the rows without nulls only, and takes an old row that equals several new ones
// for all of them (refresh_by_match_merge in matview.c). That happens to rows only that
// have no null in a column of a usable unique index, and one in another column. There
// is none in the view, or the planner proves the index's columns to be unique in the
// query.
//
// Call it in the transaction of the refresh, which keeps the lock on the view: it reads
// the view until it finds such a row. tx is as before when it returns.
func CheckEqualRows(ctx context.Context, tx pgx.Tx, oid uint32, name Name, owner string) error {
	row := temporaryName() // an alias that the query does not have
	columns, err := readUniqueColumns(ctx, tx, oid, row)
	if err != nil {
		return err
	}
	if columns.Others == "" {
		return nil
	}
	if columns.Readable {
		var found bool
		// The test of a row that is spelled out looks at its columns only, as the refresh
		// does, and at no values.
		err := tx.QueryRow(ctx, fmt.Sprintf("SELECT EXISTS (SELECT FROM %s WHERE ROW(%s) IS NOT NULL AND NOT ROW(%s) IS NOT NULL)",
			name.SQL(), columns.Unique, columns.Others)).Scan(&found)
		if err != nil {
			return fmt.Errorf("look for rows with a null: %w", err)
		}
		if !found {
			return nil
		}
	}
	unique, err := isUnique(ctx, tx, oid, name, owner, columns, row)
	if err != nil || !unique {
		return &EqualRowsError{Err: err}
	}
	return nil
}

// uniqueColumns are the columns of a view, as SQL.
type uniqueColumns struct {
	Unique   string // of all unique indexes that CONCURRENTLY can use
	Others   string // "": there are none
	Join     string // equates those of Unique in two relations, as their indexes do; "": unknown
	Readable bool
}

const uniqueColumnsSQL = `
WITH keys AS (
    SELECT DISTINCT ON (k.attnum) k.attnum, format('OPERATOR(%I.%s)', n.nspname, o.oprname) AS equals
    FROM pg_index AS i
    JOIN pg_class AS x ON x.oid = i.indexrelid
    JOIN pg_am AS am ON am.oid = x.relam
    CROSS JOIN LATERAL unnest(i.indkey::smallint[], i.indclass::oid[]) WITH ORDINALITY AS k (attnum, opclass, position)
    JOIN pg_opclass AS c ON c.oid = k.opclass
    LEFT JOIN (pg_amop AS e JOIN pg_operator AS o ON o.oid = e.amopopr JOIN pg_namespace AS n ON n.oid = o.oprnamespace)
           ON am.amname = 'btree' AND e.amopfamily = c.opcfamily AND e.amoplefttype = c.opcintype AND e.amoprighttype = c.opcintype AND e.amopstrategy = 3
    WHERE i.indrelid = $1 AND ` + ConcurrentIndexSQL + ` AND k.position <= i.indnkeyatts
    ORDER BY k.attnum
)
SELECT coalesce(string_agg(quote_ident(a.attname), ', ') FILTER (WHERE k.attnum IS NOT NULL), '') AS unique,
       coalesce(string_agg(quote_ident(a.attname), ', ') FILTER (WHERE k.attnum IS NULL), '') AS others,
       coalesce(string_agg(format('%I.%I %s q.%2$I', $2::text, a.attname, k.equals), ' AND ') FILTER (WHERE k.equals IS NOT NULL), '') AS join,
       has_table_privilege(a.attrelid, 'SELECT') AS readable
FROM pg_attribute AS a LEFT JOIN keys AS k USING (attnum)
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
GROUP BY a.attrelid`

func readUniqueColumns(ctx context.Context, tx pgx.Tx, oid uint32, row string) (columns uniqueColumns, err error) {
	err = deparse(ctx, tx, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, uniqueColumnsSQL, oid, row) // CollectExactlyOneRow returns its error
		columns, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[uniqueColumns])
		return err
	})
	if err != nil {
		return columns, fmt.Errorf("read the columns of its unique indexes: %w", err)
	}
	return columns, nil
}

// plannerSettings make the planner begin with the two rows that it is given and find
// the others one by one, as far as it can.
const plannerSettings = `SELECT pg_catalog.set_config(name, 'off', true) FROM pg_catalog.unnest(ARRAY['enable_hashjoin', 'enable_mergejoin', 'enable_seqscan',
    'enable_bitmapscan', 'enable_hashagg', 'enable_sort', 'jit']) AS name
UNION ALL SELECT pg_catalog.set_config('max_parallel_workers_per_gather', '0', true)
UNION ALL SELECT pg_catalog.set_config(name, '100', true) FROM pg_catalog.unnest(ARRAY['from_collapse_limit', 'join_collapse_limit']) AS name`

// doubtfulSQL is whether the planner's proof is not to be believed. It takes DISTINCT ON
// for unique although a set-returning function in the SELECT list is expanded after it
// (seen on all majors before the minors of November 2026), and up to PostgreSQL 13 takes
// all collations for one equality.
const doubtfulSQL = `
WITH RECURSIVE read(relid) AS (
    SELECT $1::oid
    UNION
    SELECT c.oid FROM read
    JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = read.relid
    JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_catalog.pg_class'::regclass
    JOIN pg_catalog.pg_class AS c ON c.oid = d.refobjid AND c.relkind = 'v'
)
SELECT EXISTS (SELECT FROM read JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = read.relid WHERE r.ev_action::text LIKE '%:hasTargetSRFs true%')
    OR EXISTS (SELECT FROM pg_catalog.pg_collation WHERE NOT collisdeterministic)`

// isUnique reports whether the planner proves that the query of the view returns no two
// rows with equal values in the columns, nulls apart: joined to any row by them, it
// returns one row at most. row is an alias that the query does not have. The planner may evaluate functions of the query. So it runs
// like the query itself, as the owner and in a security-restricted operation: in the
// creation of a materialized view, which is rolled back.
func isUnique(ctx context.Context, tx pgx.Tx, oid uint32, name Name, owner string, columns uniqueColumns, row string) (unique bool, err error) {
	if columns.Join == "" {
		return false, nil
	}
	var doubtful bool
	if err := tx.QueryRow(ctx, doubtfulSQL, oid).Scan(&doubtful); err != nil || doubtful {
		return false, err
	}
	definition, err := Definition(ctx, tx, oid)
	if err != nil {
		return false, err
	}
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer rollback(ctx, savepoint)
	if _, err := savepoint.Exec(ctx, plannerSettings); err != nil {
		return false, err
	}
	err = asOwner(ctx, savepoint, owner, func() error {
		if err := setDeparsedPath(ctx, savepoint); err != nil {
			return err
		}
		function := Name{Schema: name.Schema, Relation: temporaryName()}
		err := execute(ctx, savepoint, "CREATE FUNCTION "+function.SQL()+`() RETURNS json LANGUAGE plpgsql AS $$
DECLARE plan json; BEGIN EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) ' || current_setting('matview.query') INTO plan; RETURN plan; END $$`)
		if err != nil {
			return err
		}
		const query = "SELECT FROM (SELECT %s FROM %s AS %[3]s LIMIT 2) AS %[3]s %[4]s JOIN (%[5]s) AS q ON %[6]s"
		// The planner keeps the query of a LEFT JOIN together, and takes that of an INNER
		// JOIN apart: each proves what the other does not.
		for _, kind := range []string{"LEFT", "INNER"} {
			plan, err := explain(ctx, savepoint, function, fmt.Sprintf(query, columns.Unique, name.SQL(), row, kind, definition, columns.Join))
			if unique = err == nil && plan.onePerRowOf(row); err != nil || unique {
				return err
			}
		}
		return nil
	})
	return unique, err
}

// explain returns what the function says of a query.
func explain(ctx context.Context, tx pgx.Tx, function Name, query string) (plan planNode, err error) {
	if _, err := tx.Exec(ctx, "SELECT set_config('matview.query', $1, true)", query); err != nil {
		return plan, err
	}
	result := Name{Schema: function.Schema, Relation: temporaryName()}
	if err := execute(ctx, tx, fmt.Sprintf("CREATE MATERIALIZED VIEW %s AS SELECT %s() -> 0 -> 'Plan' AS plan", result.SQL(), function.SQL())); err != nil {
		return plan, err
	}
	err = tx.QueryRow(ctx, "SELECT plan FROM "+result.SQL()).Scan(&plan)
	return plan, err
}

// planNode is a node of a plan, as EXPLAIN (VERBOSE, FORMAT JSON) shows it.
type planNode struct {
	NodeType           string     `json:"Node Type"`
	JoinType           string     `json:"Join Type"`
	InnerUnique        bool       `json:"Inner Unique"`
	Alias              string     `json:"Alias"`
	ParentRelationship string     `json:"Parent Relationship"`
	Plans              []planNode `json:"Plans"`
}

// onePerRowOf reports whether the node returns at most one row for each row of the scan
// of that alias, to which EXPLAIN may add a number: the scan is the outermost of joins
// that find one row at most.
func (n planNode) onePerRowOf(alias string) bool {
	switch n.NodeType {
	case "Nested Loop", "Hash Join", "Merge Join":
		findsOne := n.InnerUnique && (n.JoinType == "Inner" || n.JoinType == "Left") || n.JoinType == "Semi" || n.JoinType == "Anti"
		if !findsOne {
			return false
		}
	case "Limit", "Sort", "Materialize", "Result":
	default:
		return strings.HasPrefix(n.Alias, alias)
	}
	for _, child := range n.Plans {
		if child.ParentRelationship == "Outer" {
			return child.onePerRowOf(alias)
		}
	}
	return false
}
