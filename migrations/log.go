package migrations

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/store"
)

// IncompatibleLogError is an existing log table that cannot be adopted. Problems names
// a column or constraint each.
type IncompatibleLogError struct {
	Schema   string
	Problems []string
}

func (e *IncompatibleLogError) Error() string {
	return fmt.Sprintf("the existing table %s.%s cannot be used as the refresh log: %s; alter or rename it, nothing was changed",
		e.Schema, store.LogTable, strings.Join(e.Problems, "; "))
}

// logColumns are the types that each column of an adopted log may have: those that can
// hold every value that we write.
var logColumns = []struct {
	name  string
	types []string
}{
	{"view_name", []string{"text", "character varying"}},
	{"last_refreshed_at", []string{"timestamp with time zone"}},
	{"refresh_duration_ms", []string{"integer", "bigint"}},
	{"total_jobs", []string{"integer", "bigint"}},
	{"total_objects", []string{"bigint"}},
}

type column struct {
	Name     string
	Type     string
	NotNull  bool
	Writable bool // it has a default, or is generated
}

const logColumnsSQL = `
SELECT a.attname::text AS name, format_type(a.atttypid, NULL) AS type, a.attnotnull AS notnull,
       a.atthasdef OR a.attidentity <> '' AS writable
FROM pg_attribute AS a
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum`

// checkLog returns an [IncompatibleLogError] if the log table exists and cannot be
// adopted as it is.
func checkLog(ctx context.Context, tx pgx.Tx, schema string) error {
	var oid uint32
	var kind string
	var unique bool
	err := tx.QueryRow(ctx, `
SELECT c.oid, c.relkind::text,
       EXISTS (SELECT FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
               WHERE i.indrelid = c.oid AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL
                 AND i.indisvalid AND a.attname = 'view_name')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2`, schema, store.LogTable).Scan(&oid, &kind, &unique)
	if err == pgx.ErrNoRows { //nolint:errorlint // pgx returns it bare
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the log table in schema %q: %w", schema, err)
	}
	if kind != "r" && kind != "p" {
		return &IncompatibleLogError{Schema: schema, Problems: []string{"it is not a table"}}
	}
	rows, err := tx.Query(ctx, logColumnsSQL, oid)
	if err != nil {
		return fmt.Errorf("read the columns of the log table in schema %q: %w", schema, err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByName[column])
	if err != nil {
		return fmt.Errorf("read the columns of the log table in schema %q: %w", schema, err)
	}
	problems := logProblems(columns)
	if !unique {
		problems = append(problems, "column view_name has no primary key or unique constraint, which INSERT … ON CONFLICT (view_name) needs")
	}
	if len(problems) > 0 {
		return &IncompatibleLogError{Schema: schema, Problems: problems}
	}
	return nil
}

func logProblems(columns []column) []string {
	var problems []string
	for _, want := range logColumns {
		i := slices.IndexFunc(columns, func(c column) bool { return c.Name == want.name })
		switch {
		case i < 0:
			problems = append(problems, fmt.Sprintf("column %s (%s) is missing", want.name, want.types[0]))
		case !slices.Contains(want.types, columns[i].Type):
			problems = append(problems, fmt.Sprintf("column %s has type %s instead of %s", want.name, columns[i].Type, want.types[0]))
		}
	}
	for _, c := range columns {
		known := slices.ContainsFunc(logColumns, func(want struct {
			name  string
			types []string
		},
		) bool {
			return want.name == c.Name
		})
		if !known && c.NotNull && !c.Writable {
			problems = append(problems, fmt.Sprintf("column %s is NOT NULL without a default, so that no row could be written", c.Name))
		}
	}
	return problems
}
