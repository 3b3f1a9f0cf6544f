package matview

import (
	"context"
	"crypto/rand"
	"encoding/hex"
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

// Normal is a query in the words of the server: two queries that mean the same
// have the same Definition on the same server.
type Normal struct {
	// Definition is a query again, without a semicolon; "" where Incomparable.
	Definition string
	Columns    []Column
	// Reads are the OIDs of the relations that it reads, through views too; none
	// where Incomparable.
	Reads []uint32
	// Incomparable says why the server could check the query but not normalise
	// it; "" where it could.
	Incomparable string
}

// Column is an output column. Type is qualified unless it is built in.
type Column struct {
	Name string
	Type string
	// Collation is filled in by Normalize where it is not that of the type.
	Collation string
}

// DB is a connection, a pool or a transaction.
type DB interface {
	Querier
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Normalize has the server parse query under the session's search_path and write
// it back. It runs nothing of the query, and leaves nothing behind: what it
// makes is a temporary view in a transaction that is rolled back.
//
// A query that is not fit for a materialized view is an [SQLError]. It waits at
// most a second for locks on what the query reads, which an ALTER TABLE holds,
// or a REFRESH of a materialized view that the query reads. columnNames rename
// the first columns, as they do in CREATE MATERIALIZED VIEW.
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

// NormalizeFor is [Normalize] for a new definition of view, and works without TEMP:
// it makes its view in the schema of that and as its owner, as a swap does.
func NormalizeFor(ctx context.Context, tx pgx.Tx, view *View, query string, columnNames ...string) (n Normal, err error) {
	err = asOwner(ctx, tx, view.Owner, func() error {
		n, err = normalize(ctx, tx, query, columnNames, view.Name.Schema, "")
		return err
	})
	return n, err
}

// RefuseReading is an [SQLError] where n reads view, which it is to replace: the
// views between the two would read each other from then on.
func (n Normal) RefuseReading(view *View) error {
	if !slices.Contains(n.Reads, view.OID) {
		return nil
	}
	return &SQLError{
		SQLState: pgerrcode.InvalidObjectDefinition,
		Message:  fmt.Sprintf("the definition of %s reads %[1]s itself, or a view over it", view.Name),
		Hint:     "Read what the view was made of instead.",
	}
}

// Means tells whether n is the query that the server has stored as definition.
// The server's words, read again, are not always the same: a BETWEEN within an AND
// comes back as an AND within an AND, which the parser flattens. A view that was
// made of them, by a swap or a restore, has those of the second reading, which
// are the same at every further one.
func (n Normal) Means(ctx context.Context, db DB, definition string) (bool, error) {
	if n.Definition == definition || n.Definition == "" || definition == "" {
		return n.Definition == definition, nil
	}
	var again [2]Normal
	for i, words := range []string{n.Definition, definition} {
		var err error
		again[i], err = Normalize(ctx, db, words)
		var sqlErr *SQLError
		if errors.As(err, &sqlErr) && !IsLockTimeout(err) {
			return false, nil // it reads what has another name now
		}
		if err != nil {
			return false, err
		}
	}
	return again[0].Definition != "" && again[0].Definition == again[1].Definition, nil
}

// normalize makes its view in schema, or none if that is known not to work.
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
	name := Name{Schema: schema, Relation: randomName()}
	if incomparable != "" {
		// Parsing tells what could be described, such as SHOW or INSERT … RETURNING,
		// and makes no view.
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

// check has the server parse the query as the only statement of a text, which
// tells a second statement, or a tail such as WITH NO DATA, from a query.
func check(ctx context.Context, tx pgx.Tx, query string, columnNames []string) (*pgconn.StatementDescription, error) {
	described, err := tx.Conn().PgConn().Prepare(ctx, "", query, nil)
	if err != nil {
		return nil, explainQuery(sqlError(err, "", query))
	}
	if len(described.ParamOIDs) > 0 {
		return nil, &SQLError{SQLState: pgerrcode.UndefinedParameter, Message: "a materialized view takes no parameters, but the query holds $1", text: query}
	}
	if len(described.Fields) == 0 {
		return nil, &SQLError{
			SQLState: pgerrcode.SyntaxError, Message: "it is not a query that returns columns", text: query,
			Hint: "Write the query alone: what stands after AS in a CREATE MATERIALIZED VIEW.",
		}
	}
	if len(columnNames) > len(described.Fields) {
		return nil, &SQLError{
			SQLState: pgerrcode.SyntaxError, text: query,
			Message: fmt.Sprintf("there are %d column names, but the query returns %d columns", len(columnNames), len(described.Fields)),
		}
	}
	return described, refuseColumns(query, columnNames, described.Fields)
}

// withData matches what ends a CREATE MATERIALIZED VIEW, and is no part of a query.
var withData = regexp.MustCompile(`(?i)\bWITH\s+(NO\s+)?DATA\s*;?\s*$`)

// byteOrderMark is what some editors write before a text in UTF-8.
const byteOrderMark = "\ufeff"

// explainQuery puts in plain words what the server refuses as it would refuse
// any text that is not one query.
func explainQuery(err error) error {
	var e *SQLError
	var pgErr *pgconn.PgError
	if !errors.As(err, &e) || !errors.As(err, &pgErr) || e.SQLState != pgerrcode.SyntaxError {
		return err
	}
	switch {
	case pgErr.Routine == "exec_parse_message": // the message is in the server's language
		e.Message = "the definition holds more than one statement, and a materialized view has a single query"
		e.Hint = "Keep the query and take out what follows its semicolon. Nothing of it was run."
	case strings.HasPrefix(e.text, byteOrderMark):
		e.Hint = `The definition begins with a byte order mark, which is not seen. Save the file without it, or write trimprefix(file("…"), "\ufeff").`
	case withData.MatchString(e.text):
		e.Hint = "WITH [NO] DATA is no part of the definition. Leave it out, and set with_data."
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

// columnName is the name of the column at i, once columnNames have renamed the
// first ones.
func columnName(columnNames []string, fields []pgconn.FieldDescription, i int) string {
	if i < len(columnNames) {
		return columnNames[i]
	}
	return fields[i].Name
}

// refuseColumns refuses what the server accepts in a query, or even in a view,
// and not in a materialized view.
func refuseColumns(query string, columnNames []string, fields []pgconn.FieldDescription) error {
	seen := make(map[string]bool, len(fields))
	for i := range fields {
		name := columnName(columnNames, fields, i)
		switch name {
		case "ctid", "xmin", "cmin", "xmax", "cmax", "tableoid":
			return &SQLError{
				SQLState: pgerrcode.DuplicateColumn, text: query,
				Message: fmt.Sprintf("column name %q is that of a system column; give it another with AS", name),
			}
		}
		if seen[name] {
			return &SQLError{
				SQLState: pgerrcode.DuplicateColumn, text: query,
				Message: fmt.Sprintf("column %q is returned more than once; name each with AS", name),
			}
		}
		seen[name] = true
	}
	return nil
}

func describedColumns(ctx context.Context, tx pgx.Tx, described *pgconn.StatementDescription, columnNames []string) ([]Column, error) {
	names := make([]string, len(described.Fields))
	types := make([]uint32, len(described.Fields))
	modifiers := make([]int32, len(described.Fields))
	for i, f := range described.Fields {
		names[i], types[i], modifiers[i] = columnName(columnNames, described.Fields, i), f.DataTypeOID, f.TypeModifier
	}
	if _, err := tx.Exec(ctx, pinSQL); err != nil {
		return nil, fmt.Errorf("read the columns of a definition: %w", err)
	}
	rows, err := tx.Query(ctx, "SELECT name, format_type(type, modifier), '' FROM unnest($1::text[], $2::oid[], $3::int[]) AS f (name, type, modifier)",
		names, types, modifiers)
	if err != nil {
		return nil, fmt.Errorf("read the columns of a definition: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Column])
}

func readNormal(ctx context.Context, tx pgx.Tx, name Name) (n Normal, err error) {
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
	if n.Definition, err = pinnedDefinition(ctx, tx, oid); err != nil {
		return n, err
	}
	const columns = `
SELECT attname, format_type(atttypid, atttypmod), CASE WHEN attcollation <> typcollation THEN attcollation::regcollation::text ELSE '' END
FROM pg_attribute JOIN pg_type AS t ON t.oid = atttypid
WHERE attrelid = $1 AND attnum > 0 ORDER BY attnum`
	rows, err := tx.Query(ctx, columns, oid)
	if err != nil {
		return n, fmt.Errorf("read the columns of a definition: %w", err)
	}
	n.Columns, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Column])
	return n, err
}

// Definition is the query of a view in the words of the server. It waits while
// the view is being refreshed blockingly, but no more than a second: then the
// error's SQLSTATE is [pgerrcode.LockNotAvailable].
func Definition(ctx context.Context, db DB, oid uint32) (definition string, err error) {
	err = deparse(ctx, db, func(tx pgx.Tx) error {
		definition, err = pinnedDefinition(ctx, tx, oid)
		return err
	})
	return definition, err
}

// deparse calls what deparses under a short lock_timeout, and takes back the
// settings that it pins.
func deparse(ctx context.Context, db DB, call func(tx pgx.Tx) error) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return err
	}
	defer rollback(ctx, tx)
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '1s'"); err != nil {
		return err
	}
	return call(tx)
}

// pinSQL sets what deparsing depends on. What a query means was settled when it
// was parsed; this is how it is written down.
const pinSQL = `SET LOCAL search_path = ''; SET LOCAL timezone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD';
SET LOCAL IntervalStyle = 'postgres'; SET LOCAL quote_all_identifiers = off; SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'`

func pinnedDefinition(ctx context.Context, tx pgx.Tx, oid uint32) (string, error) {
	if _, err := tx.Exec(ctx, pinSQL); err != nil {
		return "", fmt.Errorf("read a definition back: %w", err)
	}
	var definition *string
	if err := tx.QueryRow(ctx, "SELECT pg_get_viewdef($1::oid)", oid).Scan(&definition); err != nil {
		return "", fmt.Errorf("read a definition back: %w", err)
	}
	if definition == nil {
		return "", errors.New("read a definition back: the view is gone")
	}
	return strings.TrimSuffix(strings.TrimSpace(*definition), ";"), nil
}

// rollback ends a transaction also when ctx is over.
func rollback(ctx context.Context, tx pgx.Tx) {
	_ = tx.Rollback(context.WithoutCancel(ctx)) // a broken connection has rolled back
}

// randomName is short: a name made from the view's own could exceed 63 bytes.
func randomName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return "matview_" + hex.EncodeToString(b[:])
}

// IsLockTimeout says that err is a lock_timeout, not a fault of the statement.
func IsLockTimeout(err error) bool { return postgres.SQLState(err) == pgerrcode.LockNotAvailable }
