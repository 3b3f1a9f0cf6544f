package matview

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Normal is a query in normal form, as the server deparses it: two queries with the
// same meaning have the same Definition on the same server.
type Normal struct {
	// Definition is a query without a semicolon; "" if Incomparable is set.
	Definition string
	Columns    []Column
	// Reads are the OIDs of the relations that it reads, directly or through views;
	// nil if Incomparable is set.
	Reads []uint32
	// Incomparable says why the server could check the query but not normalize it;
	// "" if it could.
	Incomparable string
}

// Column is an output column. Type is qualified unless it is in pg_catalog.
type Column struct {
	Name string
	Type string
	// Collation is set by Normalize if it is not that of the type.
	Collation string
}

// Normalize makes the server parse a query under the session's search_path and
// deparse it. It does not run the query and leaves nothing behind: it creates a
// temporary view in a transaction that it rolls back. columnNames rename the first
// columns, as in CREATE MATERIALIZED VIEW.
//
// It returns an [SQLError] if a materialized view cannot have the query. It waits at
// most a second for locks on what the query reads, which an ALTER TABLE or a REFRESH
// may hold.
func Normalize(ctx context.Context, db DB, query string, columnNames ...string) (Normal, error) {
	const sql = `SELECT CASE WHEN pg_is_in_recovery() THEN 'the server is a read-only replica'
            WHEN NOT has_database_privilege(current_database(), 'TEMP') THEN
                 format('role %I may not create temporary views (GRANT TEMPORARY ON DATABASE %I TO %1$I)', current_user, current_database())
            ELSE '' END`
	var incomparable string
	if err := db.QueryRow(ctx, sql).Scan(&incomparable); err != nil {
		return Normal{}, fmt.Errorf("normalize a definition: %w", err)
	}
	return normalize(ctx, db, query, columnNames, "pg_temp", incomparable)
}

// NormalizeFor is [Normalize] for a new definition of view. It does not require the
// privilege TEMP: it creates its view in the schema of view and as its owner, as a
// swap does.
func NormalizeFor(ctx context.Context, tx pgx.Tx, view *View, query string, columnNames ...string) (n Normal, err error) {
	err = asOwner(ctx, tx, view.Owner, func() error {
		n, err = normalize(ctx, tx, query, columnNames, view.Name.Schema, "")
		return err
	})
	return n, err
}

// RefuseSelfReference returns an [SQLError] if n, the new definition of view, reads
// view: views that read each other cannot be queried.
func (n Normal) RefuseSelfReference(view *View) error {
	if !slices.Contains(n.Reads, view.OID) {
		return nil
	}
	return &SQLError{
		SQLState: pgerrcode.InvalidObjectDefinition,
		Message:  fmt.Sprintf("the definition of %s reads %[1]s itself, or a view over it", view.Name),
		Hint:     "Read the relations that the view reads instead.",
	}
}

// EquivalentTo reports whether n is the query that the server deparses as
// definition. Parsing and deparsing a deparsed query again may change it once: a
// BETWEEN within an AND is deparsed as an AND within an AND, which the parser
// flattens. A view that was created from a deparsed query, by a swap or a restore,
// is deparsed the second way, which no further repetition changes.
func (n Normal) EquivalentTo(ctx context.Context, db DB, definition string) (bool, error) {
	if n.Definition == definition || n.Definition == "" || definition == "" {
		return n.Definition == definition, nil
	}
	var again [2]Normal
	for i, query := range []string{n.Definition, definition} {
		var err error
		again[i], err = Normalize(ctx, db, query)
		var sqlErr *SQLError
		if errors.As(err, &sqlErr) && !IsLockTimeout(err) {
			return false, nil // what it reads may have another name now
		}
		if err != nil {
			return false, err
		}
	}
	return again[0].Definition != "" && again[0].Definition == again[1].Definition, nil
}

// normalize creates its view in schema, or none if incomparable says why it cannot.
func normalize(ctx context.Context, db DB, query string, columnNames []string, schema, incomparable string) (n Normal, err error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return n, fmt.Errorf("normalize a definition: %w", err)
	}
	defer rollback(ctx, tx)
	settings := "SET LOCAL lock_timeout = '1s'"
	if incomparable == "" {
		settings = "SET TRANSACTION READ WRITE; " + settings
	}
	if _, err := tx.Exec(ctx, settings); err != nil {
		return n, fmt.Errorf("normalize a definition: %w", err)
	}
	described, err := check(ctx, tx, query, columnNames)
	if err != nil {
		return n, err
	}
	name := Name{Schema: schema, Relation: temporaryName()}
	if incomparable != "" {
		// Only parsing the whole statement rejects SHOW or INSERT … RETURNING, which
		// have columns too.
		prefix := "CREATE MATERIALIZED VIEW " + name.SQL() + columnList(columnNames) + " AS "
		if _, err := tx.Conn().PgConn().Prepare(ctx, "", prefix+query, nil); err != nil {
			return n, sqlError(err, prefix, query)
		}
		columns, err := describedColumns(ctx, tx, described, columnNames)
		return Normal{Columns: columns, Incomparable: incomparable}, err
	}
	prefix := "CREATE VIEW " + name.SQL() + columnList(columnNames) + " AS "
	if err := execute(ctx, tx, prefix+query); err != nil {
		return n, sqlError(err, prefix, query)
	}
	return readNormal(ctx, tx, name)
}

// check makes the server parse the query by itself, so that it rejects a second
// statement or an addition such as WITH NO DATA.
func check(ctx context.Context, tx pgx.Tx, query string, columnNames []string) (*pgconn.StatementDescription, error) {
	described, err := tx.Conn().PgConn().Prepare(ctx, "", query, nil)
	if err != nil {
		return nil, explainQuery(sqlError(err, "", query))
	}
	if len(described.ParamOIDs) > 0 {
		return nil, &SQLError{SQLState: pgerrcode.UndefinedParameter, Message: "a materialized view has no parameters, but the query contains $1", text: query}
	}
	if len(described.Fields) == 0 {
		return nil, &SQLError{
			SQLState: pgerrcode.SyntaxError, Message: "it is not a query that returns columns", text: query,
			Hint: "Write the query alone: what follows AS in CREATE MATERIALIZED VIEW.",
		}
	}
	if len(columnNames) > len(described.Fields) {
		return nil, &SQLError{
			SQLState: pgerrcode.SyntaxError, text: query,
			Message: fmt.Sprintf("there are %d column names, but the query returns %d columns", len(columnNames), len(described.Fields)),
		}
	}
	return described, refuseColumns(query, outputNames(columnNames, described.Fields))
}

// withData matches the end of a CREATE MATERIALIZED VIEW that is not part of the
// query.
var withData = regexp.MustCompile(`(?i)\bWITH\s+(NO\s+)?DATA\s*;?\s*$`)

// byteOrderMark is written by some editors before text in UTF-8.
const byteOrderMark = "\ufeff"

// explainQuery explains a syntax error that the server reports in general terms.
func explainQuery(err error) error {
	var e *SQLError
	var pgErr *pgconn.PgError
	if !errors.As(err, &e) || !errors.As(err, &pgErr) || e.SQLState != pgerrcode.SyntaxError {
		return err
	}
	switch {
	case pgErr.Routine == "exec_parse_message": // the message is in the server's language
		e.Message = "the definition holds more than one statement, but a materialized view has a single query"
		e.Hint = "Keep the query and take out what follows its semicolon. Nothing of it was run."
	case strings.HasPrefix(e.text, byteOrderMark):
		e.Hint = `The definition begins with a byte order mark, which is invisible. Save the file without it, or write trimprefix(file("…"), "\ufeff").`
	case withData.MatchString(e.text):
		e.Hint = "WITH [NO] DATA is not part of the definition. Remove it and set with_data."
	}
	return err
}

// columnList is the part of CREATE [MATERIALIZED] VIEW that names columns.
func columnList(names []string) string {
	if len(names) == 0 {
		return ""
	}
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = postgres.QuoteIdent(name)
	}
	return " (" + strings.Join(quoted, ", ") + ")"
}

// outputNames are the names of the columns after columnNames have renamed the first.
func outputNames(columnNames []string, fields []pgconn.FieldDescription) []string {
	names := slices.Clone(columnNames)
	for _, f := range fields[len(names):] {
		names = append(names, f.Name)
	}
	return names
}

// refuseColumns rejects column names that the server accepts in a query, or even in
// a view, but not in a materialized view.
func refuseColumns(query string, names []string) error {
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		switch name {
		case "ctid", "xmin", "cmin", "xmax", "cmax", "tableoid":
			return &SQLError{
				SQLState: pgerrcode.DuplicateColumn, text: query,
				Message: fmt.Sprintf("column name %q is that of a system column; choose another name with AS", name),
			}
		}
		if seen[name] {
			return &SQLError{
				SQLState: pgerrcode.DuplicateColumn, text: query,
				Message: fmt.Sprintf("column %q is returned more than once; choose distinct names with AS", name),
			}
		}
		seen[name] = true
	}
	return nil
}

func describedColumns(ctx context.Context, tx pgx.Tx, described *pgconn.StatementDescription, columnNames []string) ([]Column, error) {
	var types []uint32
	var modifiers []int32
	for _, f := range described.Fields {
		types, modifiers = append(types, f.DataTypeOID), append(modifiers, f.TypeModifier)
	}
	const sql = "SELECT name, format_type(type, modifier), '' FROM unnest($1::text[], $2::oid[], $3::int[]) AS f (name, type, modifier)"
	if _, err := tx.Exec(ctx, pinSQL); err != nil {
		return nil, fmt.Errorf("read the columns of a definition: %w", err)
	}
	return collect(ctx, tx, pgx.RowToStructByPos[Column], sql, outputNames(columnNames, described.Fields), types, modifiers)
}

func readNormal(ctx context.Context, tx pgx.Tx, name Name) (n Normal, err error) {
	if _, err := tx.Exec(ctx, pinSQL); err != nil {
		return n, fmt.Errorf("read a definition back: %w", err)
	}
	var oid uint32
	var temporary *string
	const sql = `
WITH RECURSIVE reads AS (
    SELECT $1::regclass::oid AS oid
    UNION
    SELECT d.refobjid
    FROM reads
    JOIN pg_rewrite AS r ON r.ev_class = reads.oid AND r.rulename = '_RETURN'
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
)
SELECT $1::regclass::oid, array_agg(oid ORDER BY oid) FILTER (WHERE oid <> $1::regclass),
       min(format('%I', relname)) FILTER (WHERE oid <> $1::regclass AND relpersistence = 't')
FROM reads JOIN pg_class AS c USING (oid)`
	if err := tx.QueryRow(ctx, sql, name.SQL()).Scan(&oid, &n.Reads, &temporary); err != nil {
		return n, fmt.Errorf("read a definition back: %w", err)
	}
	if temporary != nil {
		return n, &SQLError{
			SQLState: pgerrcode.FeatureNotSupported,
			Message:  fmt.Sprintf("a materialized view must not use temporary tables or views, but the query reads %s", *temporary),
		}
	}
	if n.Definition, err = readDefinition(ctx, tx, oid); err != nil {
		return n, err
	}
	const columns = `
SELECT attname, format_type(atttypid, atttypmod), CASE WHEN attcollation <> typcollation THEN attcollation::regcollation::text ELSE '' END
FROM pg_attribute JOIN pg_type AS t ON t.oid = atttypid
WHERE attrelid = $1 AND attnum > 0 ORDER BY attnum`
	if n.Columns, err = collect(ctx, tx, pgx.RowToStructByPos[Column], columns, oid); err != nil {
		return n, fmt.Errorf("read the columns of a definition: %w", err)
	}
	return n, nil
}

// Definition is the query of a view as the server deparses it. It waits while a
// blocking refresh of the view runs, but at most a second: then the SQLSTATE of the
// error is [pgerrcode.LockNotAvailable].
func Definition(ctx context.Context, db DB, oid uint32) (definition string, err error) {
	err = deparse(ctx, db, func(tx pgx.Tx) error {
		definition, err = readDefinition(ctx, tx, oid)
		return err
	})
	return definition, err
}

// readDefinition requires the settings of pinSQL.
func readDefinition(ctx context.Context, tx pgx.Tx, oid uint32) (string, error) {
	var definition *string
	if err := tx.QueryRow(ctx, "SELECT pg_get_viewdef($1::oid)", oid).Scan(&definition); err != nil {
		return "", fmt.Errorf("read a definition back: %w", err)
	}
	if definition == nil {
		return "", errors.New("read a definition back: the view does not exist any more")
	}
	return strings.TrimSuffix(strings.TrimSpace(*definition), ";"), nil
}
